"""Entry frames: golden bytes, round trips, damage, and any bytes at all."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.bounds import INDEX_MAX, OFFSET_MAX, TERM_MAX
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.entry import HEADER_BYTES, EntryFrame, EntryKind, decode_entries, decode_entry, encode_entry
from trio_eventlog.errors import CodecError

GOLDEN = Path(__file__).parent / "golden" / "entry_frame.v1.hex"

GOLDEN_FRAMES = [
    encode_entry(
        EntryKind.DATA,
        term=3,
        index=17,
        base_offset=40,
        record_count=2,
        first_timestamp_ns=1_700_000_000_000_000_001,
        last_timestamp_ns=1_700_000_000_000_000_002,
        payload_head=b"head",
        payload=b"payload",
    ),
    encode_entry(EntryKind.NO_OP, term=4, index=18, base_offset=42),
    encode_entry(EntryKind.CONFIGURATION, term=4, index=19, base_offset=42, payload=b"voters"),
    encode_entry(EntryKind.CONTROL, term=TERM_MAX, index=20, base_offset=42, last_timestamp_ns=-1, payload=b"control"),
]

terms = st.integers(0, TERM_MAX)
i64 = st.integers(-(1 << 63), (1 << 63) - 1)


@st.composite
def frames(draw: st.DrawFn) -> EntryFrame:
    kind = draw(st.sampled_from(EntryKind))
    return encode_entry(
        kind,
        term=draw(terms),
        index=draw(st.integers(1, INDEX_MAX)),
        base_offset=draw(st.integers(0, OFFSET_MAX)),
        record_count=draw(st.integers(0, (1 << 32) - 1)) if kind is EntryKind.DATA else 0,
        first_timestamp_ns=draw(i64),
        last_timestamp_ns=draw(i64),
        payload=draw(st.binary(max_size=100)),
        payload_head=draw(st.binary(max_size=40)),
    )


def test_golden() -> None:
    """The layout of format version 1: changing it is a visible act."""
    data = bytes.fromhex(GOLDEN.read_text())
    assert b"".join(frame.raw for frame in GOLDEN_FRAMES) == data
    assert list(decode_entries(data)) == GOLDEN_FRAMES


@given(st.lists(frames(), max_size=5), st.binary(max_size=20))
def test_round_trip(written: list[EntryFrame], before: bytes) -> None:
    """What was encoded is decoded, anywhere in a buffer, and the raw bytes are those written."""
    data = b"".join(frame.raw for frame in written)
    assert list(decode_entries(data)) == written
    position = len(before)
    for frame in written:
        decoded = decode_entry(before + data, position)
        assert decoded == frame
        assert decoded.payload == frame.payload
        assert decoded.end_offset == decoded.base_offset + decoded.record_count
        assert decoded.size_bytes == HEADER_BYTES + len(decoded.payload)
        position += decoded.size_bytes


@pytest.mark.parametrize("frame", GOLDEN_FRAMES, ids=lambda frame: frame.kind.name)
def test_any_flipped_bit_is_noticed(frame: EntryFrame) -> None:
    """In the length, the checksum, the header, the payload."""
    for position in range(len(frame.raw)):
        for bit in range(8):
            damaged = bytearray(frame.raw)
            damaged[position] ^= 1 << bit
            with pytest.raises(CodecError):
                decode_entry(memoryview(damaged))


@given(frames(), st.data())
def test_any_prefix_is_refused(frame: EntryFrame, data: st.DataObject) -> None:
    """A frame cut short is no frame."""
    end = data.draw(st.integers(0, len(frame.raw) - 1))
    with pytest.raises(CodecError):
        decode_entry(frame.raw[:end])


@given(st.binary(max_size=200), st.integers(0, 210))
def test_any_bytes(data: bytes, position: int) -> None:
    """A frame or CodecError, never anything else."""
    try:
        decode_entry(data, position)
    except CodecError:
        pass


@pytest.mark.parametrize(
    ("position", "value", "why"),
    [(12, 2, "format version 2"), (13, 0, "contradict"), (13, 5, "contradict"), (14, 1, "contradict"), (44, 1, "contradict")],
)
def test_fields_of_a_later_format_are_refused(position: int, value: int, why: str) -> None:
    """With a right checksum too: version, kind, flags and the reserved field."""
    raw = bytearray(GOLDEN_FRAMES[0].raw)
    raw[position] = value
    raw[8:12] = crc32c(raw[12:]).to_bytes(4, "little")
    with pytest.raises(CodecError, match=why):
        decode_entry(memoryview(raw))


def test_index_zero_and_records_of_other_kinds_are_refused() -> None:
    """0 means "before the log"; only DATA entries have records."""
    with pytest.raises(CodecError, match="contradict"):
        decode_entry(encode_entry(EntryKind.NO_OP, term=1, index=0, base_offset=0).raw)
    with pytest.raises(CodecError, match="contradict"):
        decode_entry(encode_entry(EntryKind.NO_OP, term=1, index=1, base_offset=0, record_count=1).raw)


@pytest.mark.parametrize(
    "fields", [{"term": TERM_MAX + 1}, {"term": (1 << 64) - 1}, {"index": INDEX_MAX + 1}, {"base_offset": OFFSET_MAX + 1}], ids=str
)
def test_numbers_beyond_their_bounds_are_refused(fields: dict[str, int]) -> None:
    """Whoever sends them, or whatever wrote them: no log comes there by itself. At the bounds they pass."""
    at_bounds = {"term": TERM_MAX, "index": INDEX_MAX, "base_offset": OFFSET_MAX}
    decode_entry(encode_entry(EntryKind.NO_OP, **at_bounds).raw)
    with pytest.raises(CodecError, match="beyond"):
        decode_entry(encode_entry(EntryKind.NO_OP, **at_bounds | fields).raw)
