"""Keys to partitions: golden values, since a changed hash would tear keys apart."""

import pytest

from trio_eventlog.codec.partitioner import fnv1a_32, partition_of


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968), (b"b", 0xE70C2DE5)],
)
def test_published_values(data: bytes, value: int) -> None:
    """The test vectors published with the hash."""
    assert fnv1a_32(data) == value


def test_golden_partitions() -> None:
    """Twelve partitions, as they have always been."""
    assert [partition_of(key, 12) for key in (b"a", b"42", b"orders-7", b"\x00", b"\xff" * 20)] == [4, 11, 4, 3, 9]
