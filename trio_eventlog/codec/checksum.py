"""CRC-32C, the one checksum of this project, by a native library."""

import google_crc32c


def crc32c(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    """CRC-32C of `data`, continued from `value`."""
    # The library takes bytes only; a copy costs a tenth of what a second pass in Python would.
    checksum: int = google_crc32c.extend(value, data if isinstance(data, bytes) else bytes(data))
    return checksum
