"""Raft messages on peer links: golden bytes, round trips, any bytes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.bounds import INDEX_MAX, TERM_MAX
from trio_eventlog.codec.batch import encode_records
from trio_eventlog.codec.entry import EntryFrame, encode_entry
from trio_eventlog.codec.raft_message import CONTEXT_BYTES_MAX, HEAD, decode_raft_message, encode_raft_message, entry_of
from trio_eventlog.codec.stored_batch import batch_entry
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import NodeId
from trio_eventlog.raft import (
    TRANSFER_CAMPAIGN,
    ChangeKind,
    Configuration,
    ConfigurationChange,
    EntryKind,
    Message,
    MessageType,
    NodeChange,
    SnapshotMetadata,
    encode_change,
)
from trio_eventlog.records import Record

GOLDEN = Path(__file__).parent / "golden" / "raft_message.hex"
ONE, TWO = NodeId(1), NodeId((1 << 64) - 1)


def entries(first: int = 8, term: int = 3) -> list[EntryFrame]:
    change = ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_LEARNER, NodeId(4)),))
    batch = encode_records([Record(value=b"a"), Record(value=b"b")], now_ns=5)
    return [
        encode_entry(EntryKind.NO_OP, term=term, index=first, base_offset=10),
        batch_entry(batch, term=term, index=first + 1, base_offset=10),
        encode_entry(EntryKind.CONFIGURATION, term=term, index=first + 2, base_offset=12, payload=encode_change(change)),
    ]


def append(frames: list[EntryFrame]) -> Message:
    return Message(
        type=MessageType.APPEND,
        to=TWO,
        sender=ONE,
        term=3,
        log_term=2,
        index=7,
        last_index=7 + len(frames),
        commit=6,
        entries=tuple(map(entry_of, frames)),
    )


MESSAGES = {
    "append": append(entries()),
    "empty append": append([]),
    "append response": Message(
        type=MessageType.APPEND_RESPONSE, to=ONE, sender=TWO, term=3, index=7, reject=True, reject_hint=5, log_term=2
    ),
    "vote": Message(
        type=MessageType.VOTE,
        to=TWO,
        sender=ONE,
        term=4,
        index=9,
        log_term=3,
        commit=8,
        commit_term=2,
        context=TRANSFER_CAMPAIGN,
        priority=2,
    ),
    "heartbeat": Message(type=MessageType.HEARTBEAT, to=TWO, sender=ONE, term=3, commit=6, context=b"\x01\x02"),
    "transfer": Message(type=MessageType.TRANSFER_LEADER, to=ONE, sender=TWO, term=3, transferee=TWO),
    "snapshot": Message(
        type=MessageType.SNAPSHOT,
        to=TWO,
        sender=ONE,
        term=3,
        snapshot=SnapshotMetadata(index=6, term=2, configuration=Configuration(voters=frozenset({ONE, TWO}))),
    ),
}


def body(name: str) -> bytes:
    tail = b"".join(bytes(frame.raw) for frame in entries()) if name == "append" else b""
    return encode_raft_message(MESSAGES[name]) + tail


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_survive_the_wire(name: str) -> None:
    """Decode of encode, the entries' frames byte for byte."""
    message, frames = decode_raft_message(body(name))
    assert message == MESSAGES[name]
    assert [bytes(frame.raw) for frame in frames] == ([bytes(f.raw) for f in entries()] if name == "append" else [])


def test_golden_bytes() -> None:
    """What peers of another release send stays readable. Changing this file is a visible act."""
    lines = [f"{name}: {body(name).hex()}" for name in MESSAGES]
    assert GOLDEN.read_text().splitlines() == lines


def test_a_range_that_the_entries_do_not_fill_is_refused() -> None:
    """A core is told of exactly the entries it names."""
    frames = entries()
    head = encode_raft_message(append(frames))
    with pytest.raises(CodecError, match="announced"):
        decode_raft_message(head + b"".join(bytes(frame.raw) for frame in frames[:2]))
    with pytest.raises(CodecError, match="follow"):
        decode_raft_message(head + b"".join(bytes(frame.raw) for frame in entries(first=9)))
    swapped = [frames[1], frames[0], frames[2]]
    with pytest.raises(CodecError, match="follow"):
        decode_raft_message(head + b"".join(bytes(frame.raw) for frame in swapped))


def test_a_gap_in_the_offsets_is_refused() -> None:
    """Offsets are dense across the entries of a message."""
    frames = entries()
    frames[2] = encode_entry(EntryKind.NO_OP, term=3, index=10, base_offset=13)
    with pytest.raises(CodecError, match="follow"):
        decode_raft_message(encode_raft_message(append(frames)) + b"".join(bytes(frame.raw) for frame in frames))


def test_the_context_is_bounded() -> None:
    """At the limit it passes, above it is refused before anything is copied."""
    message = Message(type=MessageType.READ_INDEX, to=ONE, sender=TWO, context=b"x" * CONTEXT_BYTES_MAX)
    encoded = encode_raft_message(message)
    assert decode_raft_message(encoded)[0] == message
    longer = bytearray(encoded + b"x")
    longer[2:4] = (CONTEXT_BYTES_MAX + 1).to_bytes(2, "little")
    with pytest.raises(CodecError, match="contradict"):
        decode_raft_message(bytes(longer))


@given(st.sampled_from(sorted(MESSAGES)), st.integers(0), st.integers(1, 255))
def test_a_flipped_byte_gives_a_message_or_an_error(name: str, position: int, flip: int) -> None:
    """The frame's checksum catches it before; here it must at least not get out of hand."""
    damaged = bytearray(body(name))
    damaged[position % len(damaged)] ^= flip
    try:
        decode_raft_message(bytes(damaged))
    except CodecError:
        pass


@given(st.binary(max_size=3 * HEAD.size))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    """A value or CodecError, nothing else."""
    try:
        decode_raft_message(data)
    except CodecError:
        pass


AT_POSITION = {"term": 24, "log term": 32, "index": 40, "last index": 48, "commit": 56, "commit term": 64, "reject hint": 72}


@pytest.mark.parametrize("field", AT_POSITION)
@pytest.mark.parametrize("name", ["vote", "heartbeat", "append response", "transfer"])
def test_numbers_beyond_their_bounds_are_refused(name: str, field: str) -> None:
    """At the bound they pass; what the core makes of them then can always be encoded."""
    encoded = bytearray(body(name))
    position = AT_POSITION[field]
    encoded[position : position + 8] = TERM_MAX.to_bytes(8, "little")
    message, _ = decode_raft_message(bytes(encoded))
    assert encode_raft_message(message) == encoded
    for beyond in (TERM_MAX + 1, 1 << 63, (1 << 64) - 1):
        encoded[position : position + 8] = beyond.to_bytes(8, "little")
        with pytest.raises(CodecError, match="beyond"):
            decode_raft_message(bytes(encoded))


@pytest.mark.parametrize(("index", "term"), [(INDEX_MAX + 1, 2), (6, TERM_MAX + 1)])
def test_a_snapshot_beyond_the_bounds_is_refused(index: int, term: int) -> None:
    configuration = Configuration(voters=frozenset({ONE, TWO}))
    snapshot = SnapshotMetadata(index=index, term=term, configuration=configuration)
    with pytest.raises(CodecError, match="beyond"):
        decode_raft_message(encode_raft_message(Message(type=MessageType.SNAPSHOT, to=TWO, sender=ONE, term=3, snapshot=snapshot)))
