"""What travels on a side connection between two nodes: one asks for a range of a file, the other answers with its pieces.

FETCH (the group id is in the frame's header; the whole body is under the frame's checksum):

```
 0  u8   1: a sealed segment, 2: a snapshot
 1  u8 0, u16 0
 4  u32  segment: its frames checksum; snapshot: 0
 8  u64  segment: its base index; snapshot: its index
16  u64  segment: the bytes of its frames; snapshot: its term
24  u64  position: the first byte wanted
32  u64  the number of bytes wanted at most
```

PIECE:

```
 0  u64  position of the first byte in the file
 8  u64  bytes of the whole file (of a segment: of its frames)
16  u32  CRC-32C of the data
20  u32  0
24       data, not under the frame's checksum
```

FETCH_REFUSED: as REFUSED (u16 code, text). All numbers little-endian.

Of a segment only the frames are sent: its footer follows from them, and the receiver makes it anew.
"""

import enum
import struct

import attrs

from trio_eventlog.bounds import INDEX_MAX, TERM_MAX
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.peer_frame import Buffer, FrameKind, Refused, encode_frame_head, encode_refused
from trio_eventlog.errors import CodecError
from trio_eventlog.file_keys import FileKey as FileKey
from trio_eventlog.file_keys import SegmentKey as SegmentKey
from trio_eventlog.file_keys import SnapshotKey as SnapshotKey
from trio_eventlog.ids import GroupId

FILE_BYTES_MAX = 1 << 62
"""Positions and lengths beyond it are refused."""
PIECE_DATA_BYTES_MAX = 1024 * 1024
"""Most data in one piece."""
PIECE_HEAD = struct.Struct("<QQII")
PIECE_BODY_BYTES_MAX = PIECE_HEAD.size + PIECE_DATA_BYTES_MAX
"""Longest body of a frame that the listener of a side connection sends."""
FETCH_BODY_BYTES_MAX = 4096
"""Longest body of a frame that its dialler sends; later releases may ask more."""

_FETCH = struct.Struct("<BBHIQQQQ")


class FileKind(enum.IntEnum):
    """The numbers are those of the wire."""

    SEGMENT = 1
    SNAPSHOT = 2


class FetchRefusedCode(enum.IntEnum):
    """Why a node does not send what it was asked for."""

    NOT_HERE = 1
    """It has no such file."""
    BUSY = 2
    """It serves as many transfers as it may: ask later, or another node."""
    MALFORMED = 3
    """What was asked cannot be read, or its range is not within the file."""
    UNREADABLE = 4
    """Its disk cannot read the file."""
    STRANGER = 5
    """The asking node is not one of this cluster as far as this node knows."""


@attrs.frozen(slots=True, kw_only=True)
class Fetch:
    """Send `length` bytes of a file from `position` on, or those that there are."""

    file: FileKey
    position: int
    length: int


@attrs.frozen(slots=True, kw_only=True)
class Piece:
    """Consecutive bytes of a file. `data` views the receive buffer; its checksum was right."""

    position: int
    file_bytes: int
    data: memoryview

    @property
    def end(self) -> int:
        return self.position + len(self.data)


def encode_fetch(group_id: GroupId, fetch: Fetch) -> bytes:
    """The whole frame."""
    match fetch.file:
        case SegmentKey(base_index=base_index, frames_bytes=frames_bytes, frames_checksum=checksum):
            name = (FileKind.SEGMENT, 0, 0, checksum, base_index, frames_bytes)
        case SnapshotKey(term=term, index=index):
            name = (FileKind.SNAPSHOT, 0, 0, 0, index, term)
    return encode_frame_head(FrameKind.FETCH, group_id, _FETCH.pack(*name, fetch.position, fetch.length))


def decode_fetch(body: Buffer) -> Fetch:
    """The body of a FETCH. Raises CodecError."""
    if len(body) != _FETCH.size:
        raise CodecError(f"fetch: {len(body)} bytes, not {_FETCH.size}")
    (kind, zero, zeros, checksum, first, second, position, length) = _FETCH.unpack(body)
    if zero or zeros or not 0 < length <= FILE_BYTES_MAX or position > FILE_BYTES_MAX:
        raise CodecError(f"fetch: {length} bytes from {position} of a file of kind {kind}")
    file: FileKey
    if kind == FileKind.SEGMENT and 0 < first <= INDEX_MAX and 0 < second <= FILE_BYTES_MAX:
        file = SegmentKey(base_index=first, frames_bytes=second, frames_checksum=checksum)
    elif kind == FileKind.SNAPSHOT and 0 < first <= INDEX_MAX and 0 < second <= TERM_MAX and not checksum:
        file = SnapshotKey(term=second, index=first)
    else:
        raise CodecError(f"fetch: no file of kind {kind} is named by {first}, {second} and {checksum}")
    return Fetch(file=file, position=position, length=length)


def encode_piece_head(group_id: GroupId, position: int, file_bytes: int, data: Buffer) -> bytes:
    """All of the frame of a piece but `data`, which is sent right behind it."""
    assert 0 < len(data) <= PIECE_DATA_BYTES_MAX
    return encode_frame_head(FrameKind.PIECE, group_id, PIECE_HEAD.pack(position, file_bytes, crc32c(data), 0), len(data))


def decode_piece(body: memoryview) -> Piece:
    """The body of a PIECE. Raises CodecError."""
    if len(body) <= PIECE_HEAD.size:
        raise CodecError(f"piece: {len(body)} bytes hold no data")
    (position, file_bytes, checksum, zero) = PIECE_HEAD.unpack_from(body)
    data = body[PIECE_HEAD.size :]
    if zero or file_bytes > FILE_BYTES_MAX or position + len(data) > file_bytes:
        raise CodecError(f"piece: {len(data)} bytes from {position} of {file_bytes}")
    if crc32c(data) != checksum:
        raise CodecError(f"piece: {len(data)} bytes from {position}: checksum mismatch")
    return Piece(position=position, file_bytes=file_bytes, data=data)


def encode_fetch_refused(group_id: GroupId, code: FetchRefusedCode, text: str) -> bytes:
    """The whole frame. Its body is read by `decode_refused`."""
    return encode_frame_head(FrameKind.FETCH_REFUSED, group_id, encode_refused(Refused(code, text)))
