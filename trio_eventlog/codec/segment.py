"""What stands in a segment file beside entry frames: the append mark, and the footer of a sealed segment. And the log's base.

A segment file is

```
active:  frames | append mark | zeros (preallocated)
sealed:  frames | footer
```

Both begin with a magic number that is no possible length of a frame, so a reader that walks the frames knows where they end.

Append mark, after the last frame of every write; the next write overwrites it:

```
 0  u64  magic
 8  u32  CRC-32C of what follows
12  u32  format version
16  u64  start: where this write began; everything before it was durable by then
24  u64  end: where the mark itself stands
```

Footer:

```
 0  u64  magic
 8  u32  CRC-32C of what follows, to the end of the file
12  u32  format version
16  u64  base index
24  u64  last index
32  u64  base offset
40  u64  end offset
48  u64  frames bytes: the footer's own position
56  i64  largest timestamp, ns
64  u32  frames checksum: CRC-32C of the first 12 bytes (length and checksum) of every frame, in order
68  u32  number of term runs
72       term runs: u64 first index, u64 term
 n  u32  length of the whole footer
n+4 u32  0
n+8 u64  trailer magic: the last bytes of the file
```

The frames checksum covers every byte: each frame's own checksum stands in it. It costs no second pass over the data.

Base of a log (a file of its own, absent while it is all zero): the entry before the first one held.

```
 0  u64  magic
 8  u32  CRC-32C of what follows
12  u32  format version
16  u64  index
24  u64  term
32  u64  offset: smallest offset held
```

All numbers little-endian.
"""

import struct
from itertools import pairwise

import attrs

from trio_eventlog.bounds import INDEX_MAX, OFFSET_MAX, TERM_MAX
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import CodecError

FORMAT_VERSION = 1

MARK = struct.Struct("<QIIQQ")
MARK_BYTES = MARK.size
MARK_MAGIC = 0xF1_4B_52_41_4D_4C_45_54
MARK_MAGIC_BYTES = MARK_MAGIC.to_bytes(8, "little")

FOOTER_MAGIC = 0xF2_54_4F_4F_46_4C_45_54
FOOTER_MAGIC_BYTES = FOOTER_MAGIC.to_bytes(8, "little")
FOOTER_HEAD = struct.Struct("<QIIQQQQQqII")
TRAILER = struct.Struct("<IIQ")
TRAILER_BYTES = TRAILER.size
TRAILER_MAGIC = 0xF3_44_4E_45_46_4C_45_54
FOOTER_BYTES_MIN = FOOTER_HEAD.size + TRAILER_BYTES

BASE = struct.Struct("<QIIQQQ")
BASE_BYTES = BASE.size
BASE_MAGIC = 0xF4_45_53_41_42_4C_45_54

_MARK_CHECKED = struct.Struct("<IQQ")
_BASE_CHECKED = struct.Struct("<IQQQ")
_FOOTER_CHECKED = struct.Struct("<IQQQQQqII")
_HEAD = struct.Struct("<QI")
_RUN = struct.Struct("<QQ")
_CHECKED_FROM = 12


@attrs.frozen(slots=True)
class AppendMark:
    """One write reached from `start` to `end`. Invariant: `start < end`."""

    start: int
    end: int


@attrs.frozen(slots=True, kw_only=True)
class SegmentFooter:
    """Summary of a sealed segment.

    Attributes:
        base_index, last_index: inclusive ends; a sealed segment is never empty.
        base_offset, end_offset: offsets of its records, half-open.
        frames_bytes: size of all frames, and so the footer's position.
        max_timestamp_ns: the largest last timestamp of its entries.
        frames_checksum: CRC-32C of the first 12 bytes of every frame.
        term_runs: (first index, term), both rising; the first one begins at `base_index`.
    """

    base_index: int
    last_index: int
    base_offset: int
    end_offset: int
    frames_bytes: int
    max_timestamp_ns: int
    frames_checksum: int
    term_runs: tuple[tuple[int, int], ...]


@attrs.frozen(slots=True, kw_only=True)
class LogBase:
    """The entry before the first one held, and the smallest offset held. All zero at the beginning of a log."""

    index: int = 0
    term: int = 0
    offset: int = 0


def encode_mark(start: int, end: int) -> bytes:
    """The mark to stand at `end`."""
    checked = _MARK_CHECKED.pack(FORMAT_VERSION, start, end)
    return _HEAD.pack(MARK_MAGIC, crc32c(checked)) + checked


def decode_mark(buffer: bytes | bytearray | memoryview, position: int = 0) -> AppendMark:
    """The mark that begins at `position` of the buffer. Raises CodecError."""
    if position < 0 or len(buffer) - position < MARK_BYTES:
        raise CodecError(f"append mark at {position}: cut short")
    magic, checksum, version, start, end = MARK.unpack_from(buffer, position)
    if magic != MARK_MAGIC or crc32c(memoryview(buffer)[position + _CHECKED_FROM : position + MARK_BYTES]) != checksum:
        raise CodecError(f"append mark at {position}: none")
    if version != FORMAT_VERSION or start >= end:
        raise CodecError(f"append mark at {position}: format version {version}, start {start}, end {end}")
    return AppendMark(start, end)


def encode_footer(footer: SegmentFooter) -> bytes:
    runs = b"".join(_RUN.pack(first, term) for first, term in footer.term_runs)
    checked = b"".join(
        (
            _FOOTER_CHECKED.pack(
                FORMAT_VERSION,
                footer.base_index,
                footer.last_index,
                footer.base_offset,
                footer.end_offset,
                footer.frames_bytes,
                footer.max_timestamp_ns,
                footer.frames_checksum,
                len(footer.term_runs),
            ),
            runs,
            TRAILER.pack(FOOTER_BYTES_MIN + len(runs), 0, TRAILER_MAGIC),
        )
    )
    return _HEAD.pack(FOOTER_MAGIC, crc32c(checked)) + checked


def footer_bytes(tail: bytes | bytearray | memoryview) -> int:
    """Length of the footer that ends where `tail` (the last bytes of a file) ends. Raises CodecError when there is none."""
    if len(tail) < TRAILER_BYTES:
        raise CodecError("segment footer: the file is too short for one")
    length, zero, magic = TRAILER.unpack_from(tail, len(tail) - TRAILER_BYTES)
    if magic != TRAILER_MAGIC or zero or length < FOOTER_BYTES_MIN or (length - FOOTER_BYTES_MIN) % _RUN.size:
        raise CodecError("segment footer: the file does not end with one")
    return int(length)


def decode_footer(data: bytes | bytearray | memoryview) -> SegmentFooter:
    """The footer that fills `data` exactly. Raises CodecError."""
    if footer_bytes(data) != len(data):
        raise CodecError(f"segment footer: {footer_bytes(data)} bytes announced, {len(data)} there")
    (
        magic,
        checksum,
        version,
        base_index,
        last_index,
        base_offset,
        end_offset,
        frames_bytes,
        timestamp,
        frames_checksum,
        count,
    ) = FOOTER_HEAD.unpack_from(data)
    if magic != FOOTER_MAGIC or crc32c(memoryview(data)[_CHECKED_FROM:]) != checksum:
        raise CodecError("segment footer: checksum mismatch")
    if version != FORMAT_VERSION:
        raise CodecError(f"segment footer: format version {version}, this release reads {FORMAT_VERSION}")
    if FOOTER_BYTES_MIN + count * _RUN.size != len(data) or not 0 < base_index <= last_index or end_offset < base_offset:
        raise CodecError("segment footer: fields contradict each other")
    runs = tuple(_RUN.iter_unpack(memoryview(data)[FOOTER_HEAD.size : len(data) - TRAILER_BYTES]))
    if (
        not runs
        or runs[0][0] != base_index
        or runs[-1][0] > last_index
        or any(not (a[0] < b[0] and a[1] < b[1]) for a, b in pairwise(runs))
    ):
        raise CodecError("segment footer: its term runs contradict its indexes")
    return SegmentFooter(
        base_index=base_index,
        last_index=last_index,
        base_offset=base_offset,
        end_offset=end_offset,
        frames_bytes=frames_bytes,
        max_timestamp_ns=timestamp,
        frames_checksum=frames_checksum,
        term_runs=runs,
    )


def encode_base(base: LogBase) -> bytes:
    checked = _BASE_CHECKED.pack(FORMAT_VERSION, base.index, base.term, base.offset)
    return _HEAD.pack(BASE_MAGIC, crc32c(checked)) + checked


def decode_base(data: bytes | bytearray | memoryview) -> LogBase:
    """Raises CodecError."""
    if len(data) != BASE_BYTES:
        raise CodecError(f"log base: {len(data)} bytes, not {BASE_BYTES}")
    magic, checksum, version, index, term, offset = BASE.unpack(data)
    if magic != BASE_MAGIC or crc32c(memoryview(data)[_CHECKED_FROM:]) != checksum:
        raise CodecError("log base: checksum mismatch")
    if version != FORMAT_VERSION:
        raise CodecError(f"log base: format version {version}, this release reads {FORMAT_VERSION}")
    if term > TERM_MAX or index > INDEX_MAX or offset > OFFSET_MAX:
        raise CodecError(f"log base: index {index}, term {term}, offset {offset}: beyond every bound")
    return LogBase(index=index, term=term, offset=offset)
