"""The entry frame: one Raft entry as it stands on disk and on peer links, byte for byte.

```
 0  u64  length of what follows this field (0: nothing was ever written here)
 8  u32  CRC-32C of all that follows this field
12  u8   format version
13  u8   kind
14  u16  flags, 0
16  u64  term
24  u64  index
32  u64  base offset
40  u32  record count
44  u32  0
48  i64  first timestamp, ns
56  i64  last timestamp, ns
64       payload
```

All numbers little-endian. The payload of a DATA entry is a stored batch (`codec/stored_batch.py`).

What a later release may change: everything behind the version, with a new version, and the kinds. What it has to keep is the first
13 bytes: length, checksum of all that follows it, version (never 0). By them a release knows a whole frame that it cannot read
(`whole_frame_bytes`, `find_whole_frames`), and never takes it for a torn write.
"""

import re
import struct
from collections.abc import Iterator

import attrs

from trio_eventlog.bounds import INDEX_MAX, OFFSET_MAX, TERM_MAX
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import CodecError
from trio_eventlog.raft.messages import EntryKind as EntryKind

FORMAT_VERSION = 1
HEADER = struct.Struct("<QIBBHQQQIIqq")
HEADER_BYTES = HEADER.size
LENGTH_BYTES = 8
CHECKED_FROM = 12
"""Position of the first byte under the checksum."""

_AFTER_CHECKSUM = struct.Struct("<BBHQQQIIqq")
_LENGTH_AND_CHECKSUM = struct.Struct("<QI")


@attrs.define(slots=True)  # not frozen only because making a frozen one takes three times as long; nobody assigns to it
class EntryFrame:
    """A decoded header beside the very bytes it was decoded from. A value: never changed once made.

    Invariants: `len(raw) == HEADER_BYTES + len(payload)`; `record_count == 0` unless `kind` is DATA.
    """

    term: int
    index: int
    kind: EntryKind
    base_offset: int
    record_count: int
    first_timestamp_ns: int
    last_timestamp_ns: int
    raw: bytes | memoryview

    @property
    def payload(self) -> memoryview:
        return memoryview(self.raw)[HEADER_BYTES:]

    @property
    def end_offset(self) -> int:
        """One past the offset of the last record."""
        return self.base_offset + self.record_count

    @property
    def size_bytes(self) -> int:
        return len(self.raw)


def encode_entry(
    kind: EntryKind,
    *,
    term: int,
    index: int,
    base_offset: int,
    record_count: int = 0,
    first_timestamp_ns: int = 0,
    last_timestamp_ns: int = 0,
    payload: bytes | memoryview = b"",
    payload_head: bytes = b"",
) -> EntryFrame:
    """One frame. `payload_head` goes in front of `payload`, so that a large payload is copied once only."""
    length = HEADER_BYTES - LENGTH_BYTES + len(payload_head) + len(payload)
    checked = b"".join(
        (
            _AFTER_CHECKSUM.pack(
                FORMAT_VERSION, kind, 0, term, index, base_offset, record_count, 0, first_timestamp_ns, last_timestamp_ns
            ),
            payload_head,
        )
    )
    checksum = crc32c(payload, crc32c(checked))
    raw = b"".join((_LENGTH_AND_CHECKSUM.pack(length, checksum), checked, payload))
    return EntryFrame(term, index, kind, base_offset, record_count, first_timestamp_ns, last_timestamp_ns, raw)


def decode_entry(buffer: bytes | memoryview, position: int = 0) -> EntryFrame:
    """The frame that begins at `position`.

    Raises:
        CodecError: the bytes there are not one whole, undamaged frame. The text says why.
    """
    view = buffer if type(buffer) is memoryview else memoryview(buffer)
    if len(view) - position < HEADER_BYTES:
        raise CodecError(f"entry frame at {position}: {len(view) - position} bytes are no whole header")
    (length, checksum, version, kind, flags, term, index, base_offset, record_count, zero, first, last) = HEADER.unpack_from(
        view, position
    )
    end = position + LENGTH_BYTES + length
    if length < HEADER_BYTES - LENGTH_BYTES or end > len(view):
        raise CodecError(f"entry frame at {position}: length {length} does not fit the {len(view) - position} bytes there")
    if crc32c(view[position + CHECKED_FROM : end]) != checksum:
        raise CodecError(f"entry frame at {position}: checksum mismatch")
    if version != FORMAT_VERSION:
        raise CodecError(f"entry frame at {position}: format version {version}, this release reads {FORMAT_VERSION}")
    if term > TERM_MAX or index > INDEX_MAX or base_offset > OFFSET_MAX:
        raise CodecError(f"entry frame at {position}: term {term}, index {index}, base offset {base_offset}: beyond every bound")
    known_kind = _KINDS.get(kind)
    if known_kind is None or flags or zero or index == 0 or (record_count and known_kind is not EntryKind.DATA):
        raise CodecError(f"entry frame at {position}: fields contradict each other")
    return EntryFrame(term, index, known_kind, base_offset, record_count, first, last, view[position:end])


def decode_entries(buffer: bytes | memoryview) -> Iterator[EntryFrame]:
    """The frames that fill `buffer` exactly, in order. Raises CodecError as `decode_entry`."""
    view = memoryview(buffer)
    position = 0
    while position < len(view):
        frame = decode_entry(view, position)
        position += len(frame.raw)
        yield frame


def whole_frame_bytes(buffer: bytes | bytearray | memoryview, position: int = 0) -> int:
    """Length of the frame that begins at `position`, of any release, when it is there undamaged; else 0."""
    view = memoryview(buffer)
    if len(view) - position < _HEAD_BYTES:
        return 0
    length, checksum, version = _HEAD.unpack_from(view, position)
    end = position + LENGTH_BYTES + length
    if length < _HEAD_BYTES - LENGTH_BYTES or not version or end > len(view):
        return 0
    return LENGTH_BYTES + int(length) if crc32c(view[position + CHECKED_FROM : end]) == checksum else 0


def find_whole_frames(buffer: bytes | bytearray | memoryview, start: int = 0) -> Iterator[int]:
    """Where undamaged frames of any release may begin in `buffer`, from `start` on, ascending.

    Payloads may be made so that much of them looks like a length: after `SEARCHED_BYTES_MAX` of checksums the next such place is
    taken for a frame unseen. That is the safe side: who asks wants to know whether something stands there that must not be cut.
    """
    view = memoryview(buffer)
    searched_bytes = 0
    # From the upper half of the length on, which is 0 in every frame.
    for match in _FRAME_LOOK.finditer(view, start + 4):
        position = match.start() - 4
        (length,) = _LENGTH.unpack_from(view, position)
        if _HEAD_BYTES - LENGTH_BYTES <= length <= len(view) - position - LENGTH_BYTES:
            searched_bytes += length
            if searched_bytes > SEARCHED_BYTES_MAX or whole_frame_bytes(view, position):
                yield position


SEARCHED_BYTES_MAX = 4 << 30
_HEAD = struct.Struct("<QIB")
_HEAD_BYTES = _HEAD.size
_LENGTH = struct.Struct("<Q")
_FRAME_LOOK = re.compile(rb"\x00(?=\x00{3}[\x00-\xff]{4}[\x01-\xff])")
"""The upper half of a length, a checksum, a version."""

_KINDS = {int(kind): kind for kind in EntryKind}
