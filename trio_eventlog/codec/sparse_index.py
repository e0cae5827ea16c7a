"""The sparse index of a segment: some of its entries with where they stand.

In memory five columns, one slot per entry listed:

* `indexes`, `base_offsets`, `positions` of the entry, rising (offsets: never falling);
* `timestamps_ns`: the largest last timestamp of the segment's entries *before* this one, so that the column never falls,
  although producers' clocks do; `NO_TIMESTAMP_NS` in slot 0;
* `checksums`: the frames checksum (see codec/segment.py) of the entries before this one.

On disk, beside a sealed segment:

```
 0  u64  magic
 8  u32  CRC-32C of what follows
12  u32  format version
16  u64  base index          }
24  u64  frames bytes        } of the segment it belongs to: it is used for no other
32  u32  frames checksum     }
36  u32  number of slots
40       the columns, one after the other: u64, u64, u64, i64, u32 each
```

All numbers little-endian. The file is a cache: when it does not decode or belongs to another segment it is made again.
"""

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right

from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import CodecError

FORMAT_VERSION = 1
MAGIC = 0xF5_58_44_49_50_53_4C_45
NO_TIMESTAMP_NS = -(1 << 63)

_HEAD = struct.Struct("<QIIQQII")
_MAGIC_AND_CHECKSUM = struct.Struct("<QI")
_CHECKED = struct.Struct("<IQQII")
_CHECKED_FROM = 12
_SLOT_BYTES = 4 * 8 + 4


class SparseIndex:
    """Some entries of a segment with their positions. The segment's first entry is always slot 0."""

    __slots__ = ("base_offsets", "checksums", "indexes", "positions", "timestamps_ns")

    def __init__(self) -> None:
        self.indexes = array("Q")
        self.base_offsets = array("Q")
        self.positions = array("Q")
        self.timestamps_ns = array("q")
        self.checksums = array("I")

    def __len__(self) -> int:
        return len(self.indexes)

    def add(self, index: int, base_offset: int, position: int, timestamp_ns: int, checksum: int) -> None:
        """List the entry `index`; it follows all listed so far."""
        self.indexes.append(index)
        self.base_offsets.append(base_offset)
        self.positions.append(position)
        self.timestamps_ns.append(timestamp_ns)
        self.checksums.append(checksum)

    def truncate(self, slots: int) -> None:
        """Keep the first `slots` only."""
        for column in (self.indexes, self.base_offsets, self.positions, self.timestamps_ns, self.checksums):
            del column[slots:]

    def slot_of_index(self, index: int) -> int:
        """The last slot at or before the entry `index`."""
        return bisect_right(self.indexes, index) - 1

    def slot_of_offset(self, offset: int) -> int:
        """The last slot at or before the entry with the record at `offset`."""
        return bisect_right(self.base_offsets, offset) - 1

    def slot_of_timestamp(self, timestamp_ns: int) -> int:
        """The last slot at or before the first entry whose last timestamp is at least `timestamp_ns`."""
        return max(bisect_left(self.timestamps_ns, timestamp_ns) - 1, 0)


def encode_sparse_index(index: SparseIndex, *, base_index: int, frames_bytes: int, frames_checksum: int) -> bytes:
    """The file for the segment named by the last three."""
    columns = []
    for column in (index.indexes, index.base_offsets, index.positions, index.timestamps_ns, index.checksums):
        if sys.byteorder == "big":
            column = column[:]
            column.byteswap()
        columns.append(column.tobytes())
    checked = b"".join((_CHECKED.pack(FORMAT_VERSION, base_index, frames_bytes, frames_checksum, len(index)), *columns))
    return _MAGIC_AND_CHECKSUM.pack(MAGIC, crc32c(checked)) + checked


def decode_sparse_index(
    data: bytes | bytearray | memoryview, *, base_index: int, frames_bytes: int, frames_checksum: int
) -> SparseIndex:
    """The index in `data`. Raises CodecError when it is damaged, or not the index of the segment named by the last three."""
    if len(data) < _HEAD.size:
        raise CodecError(f"sparse index: {len(data)} bytes are no whole header")
    magic, checksum, version, its_base, its_bytes, its_checksum, count = _HEAD.unpack_from(data)
    view = memoryview(data)
    if magic != MAGIC or crc32c(view[_CHECKED_FROM:]) != checksum:
        raise CodecError("sparse index: checksum mismatch")
    if version != FORMAT_VERSION:
        raise CodecError(f"sparse index: format version {version}, this release reads {FORMAT_VERSION}")
    if (its_base, its_bytes, its_checksum) != (base_index, frames_bytes, frames_checksum):
        raise CodecError("sparse index: of another segment, or of this one before it was changed")
    if len(data) != _HEAD.size + count * _SLOT_BYTES or not count:
        raise CodecError(f"sparse index: {len(data)} bytes for {count} slots")
    index = SparseIndex()
    position = _HEAD.size
    for column in (index.indexes, index.base_offsets, index.positions, index.timestamps_ns, index.checksums):
        end = position + count * column.itemsize
        column.frombytes(view[position:end])
        if sys.byteorder == "big":
            column.byteswap()
        position = end
    if index.indexes[0] != base_index or index.positions[0] != 0 or index.positions[-1] >= frames_bytes:
        raise CodecError("sparse index: its slots are not within the segment")
    return index


def sparse_index_bytes(slots: int) -> int:
    """Bytes of a file with this number of slots."""
    return _HEAD.size + slots * _SLOT_BYTES
