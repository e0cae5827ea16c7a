"""CRC-32C is the one of the standards, continues, and takes any buffer."""

import pytest

from trio_eventlog.codec.checksum import crc32c


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),  # the check value of CRC-32/ISCSI
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_known_values(data: bytes, checksum: int) -> None:
    """The values that iSCSI publishes."""
    assert crc32c(data) == crc32c(bytearray(data)) == crc32c(memoryview(data)) == checksum
    for cut in range(len(data) + 1):
        assert crc32c(data[cut:], crc32c(data[:cut])) == checksum
