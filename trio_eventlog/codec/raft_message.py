"""Raft messages as the bodies of peer frames.

```
 0  u8   message type
 1  u8   1: rejected
 2  u16  length of the context in bytes
 4  u32  length of the snapshot in bytes, 0 when there is none
 8  u64  to
16  u64  sender
24  u64  term
32  u64  log term
40  u64  index
48  u64  last index
56  u64  commit
64  u64  commit term
72  u64  reject hint
80  u64  transferee
88  u32  priority
92  u32  0
96       context, snapshot
```

All numbers little-endian. A snapshot is u64 index, u64 term and an encoded configuration. The entries of an APPEND follow as raw
entry frames, which carry checksums of their own.
"""

import struct
from collections.abc import Sequence

from trio_eventlog.bounds import INDEX_MAX, TERM_MAX
from trio_eventlog.codec.entry import EntryFrame, decode_entries
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import NodeId
from trio_eventlog.raft import (
    Entry,
    EntryKind,
    Message,
    MessageType,
    ProtocolError,
    SnapshotMetadata,
    decode_configuration,
    encode_configuration,
)

HEAD = struct.Struct("<BBHIQQQQQQQQQQII")
CONTEXT_BYTES_MAX = 1024
_SNAPSHOT_HEAD = struct.Struct("<QQ")
_TYPES = {int(kind): kind for kind in MessageType if kind is not MessageType.PROPOSE}
"""Proposals are carried between nodes by gRPC, not by cores."""


def encode_raft_message(message: Message) -> bytes:
    """The body of a RAFT frame, or the head of an APPEND frame, whose tail are the raw frames of its entries."""
    snapshot = message.snapshot
    tail = b""
    if snapshot is not None:
        tail = _SNAPSHOT_HEAD.pack(snapshot.index, snapshot.term) + encode_configuration(snapshot.configuration)
    assert message.type.value in _TYPES
    assert len(message.context) <= CONTEXT_BYTES_MAX
    head = HEAD.pack(
        message.type,
        message.reject,
        len(message.context),
        len(tail),
        message.to,
        message.sender,
        message.term,
        message.log_term,
        message.index,
        message.last_index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        message.transferee,
        message.priority,
        0,
    )
    return b"".join((head, message.context, tail)) if message.context or tail else head


def decode_raft_message(body: bytes | memoryview) -> tuple[Message, Sequence[EntryFrame]]:
    """The message and, for an APPEND, its entries, whose frames are views of `body`.

    Raises:
        CodecError: the bytes are no message, an entry is damaged, or the entries are not the range that the message names.
    """
    view = memoryview(body)
    if len(view) < HEAD.size:
        raise CodecError(f"raft message: {len(view)} bytes are no head")
    (
        kind, rejected, context_bytes, snapshot_bytes, to, sender, term, log_term, index, last_index, commit, commit_term,
        reject_hint, transferee, priority, zero,
    ) = HEAD.unpack_from(view)  # fmt: skip
    message_type = _TYPES.get(kind)
    context_end = HEAD.size + context_bytes
    end = context_end + snapshot_bytes
    if message_type is None or rejected > 1 or zero or context_bytes > CONTEXT_BYTES_MAX or end > len(view):
        raise CodecError(f"raft message: fields of kind {kind} contradict each other")
    # All ones, both of them: whether any number is beyond is seen in all of their bits together.
    if term | log_term | commit_term > TERM_MAX or index | last_index | commit | reject_hint > INDEX_MAX:
        raise CodecError(f"raft message: {message_type.name} of term {term} with terms or indexes beyond every bound")
    if (message_type is MessageType.SNAPSHOT) != bool(snapshot_bytes):
        raise CodecError(f"raft message: {message_type.name} with {snapshot_bytes} bytes of snapshot")
    snapshot = _decode_snapshot(view[context_end:end]) if snapshot_bytes else None
    frames: Sequence[EntryFrame] = ()
    if message_type is MessageType.APPEND:
        frames = list(decode_entries(view[end:]))
        _check_range(frames, index, last_index)
    elif end != len(view):
        raise CodecError(f"raft message: {len(view) - end} bytes after a {message_type.name}")
    return (
        Message(
            type=message_type,
            to=to,
            sender=sender,
            term=term,
            log_term=log_term,
            index=index,
            last_index=last_index,
            commit=commit,
            commit_term=commit_term,
            reject=bool(rejected),
            reject_hint=reject_hint,
            context=bytes(view[HEAD.size : context_end]),
            entries=tuple(map(entry_of, frames)),
            snapshot=snapshot,
            priority=priority,
            transferee=NodeId(transferee),
        ),
        frames,
    )


def entry_of(frame: EntryFrame) -> Entry:
    """What a core knows of an entry."""
    payload = bytes(frame.payload) if frame.kind is EntryKind.CONFIGURATION else b""
    return Entry(frame.term, frame.index, frame.kind, frame.record_count, len(frame.raw), payload)


def _check_range(frames: Sequence[EntryFrame], index: int, last_index: int) -> None:
    if last_index - index != len(frames):
        raise CodecError(f"raft message: {len(frames)} entries, {index + 1}..{last_index} announced")
    term = 0
    offset = frames[0].base_offset if frames else 0
    for expected, frame in enumerate(frames, index + 1):
        if frame.index != expected or frame.term < term or frame.base_offset != offset:
            raise CodecError(f"raft message: entry {frame.index} does not follow the one before it")
        term = frame.term
        offset = frame.end_offset


def _decode_snapshot(data: memoryview) -> SnapshotMetadata:
    if len(data) < _SNAPSHOT_HEAD.size:
        raise CodecError(f"raft message: {len(data)} bytes are no snapshot")
    index, term = _SNAPSHOT_HEAD.unpack_from(data)
    if term > TERM_MAX or index > INDEX_MAX:
        raise CodecError(f"raft message: a snapshot of term {term} at index {index}: beyond every bound")
    try:
        configuration = decode_configuration(data[_SNAPSHOT_HEAD.size :])
    except ProtocolError as error:
        raise CodecError(f"raft message: {error}") from error
    return SnapshotMetadata(index=index, term=term, configuration=configuration)
