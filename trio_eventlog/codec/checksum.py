"""CRC-32C, the one checksum of this project, by a native library."""

import crc32c as _native


def crc32c(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    """CRC-32C of `data`, continued from `value`."""
    return _native.crc32c(data, value)
