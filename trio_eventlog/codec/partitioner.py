"""Which partition a key belongs to: FNV-1a, 32 bits, modulo the number of partitions. The same in every client and node."""

_OFFSET_BASIS = 0x811C9DC5
_PRIME = 0x01000193


def fnv1a_32(data: bytes) -> int:
    """FNV-1a, 32 bits (Fowler, Noll, Vo; draft-eastlake-fnv)."""
    value = _OFFSET_BASIS
    for byte in data:
        value = ((value ^ byte) * _PRIME) & 0xFFFFFFFF
    return value


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a record with `key`, which is not empty: one without a key belongs to no partition in particular."""
    assert key, "a record without a key belongs to no partition in particular"
    return fnv1a_32(key) % partitions
