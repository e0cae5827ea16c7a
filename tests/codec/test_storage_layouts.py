"""Layouts of the log directory beside entry frames: golden bytes, round trips, damage, any bytes."""

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec import hard_state, segment, sparse_index
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.segment import LogBase, SegmentFooter
from trio_eventlog.codec.sparse_index import NO_TIMESTAMP_NS, SparseIndex
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import NodeId
from trio_eventlog.raft.ready import HardState

GOLDEN = Path(__file__).parent / "golden"

STATE = HardState(term=3, vote=NodeId(0x1122334455667788), commit=1 << 40)
FOOTER = SegmentFooter(
    base_index=5,
    last_index=11,
    base_offset=40,
    end_offset=90,
    frames_bytes=1234,
    max_timestamp_ns=1_700_000_000_000_000_000,
    frames_checksum=0xCAFEBABE,
    term_runs=((5, 2), (8, 4)),
)
BASE = LogBase(index=4, term=2, offset=40)
OF_SEGMENT = {"base_index": 5, "frames_bytes": 40_000, "frames_checksum": 0xCAFEBABE}


def make_index() -> SparseIndex:
    index = SparseIndex()
    index.add(5, 40, 0, NO_TIMESTAMP_NS, 0)
    index.add(8, 61, 16_500, 1_700_000_000_000_000_000, 0x01020304)
    index.add(11, 89, 33_333, 1_700_000_000_000_000_000, 0xFFFFFFFF)
    return index


def columns(index: SparseIndex) -> list[list[int]]:
    return [list(getattr(index, name)) for name in ("indexes", "base_offsets", "positions", "timestamps_ns", "checksums")]


def read_golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / name).read_text())


WRITTEN: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "append_mark.v1.hex": (segment.encode_mark(1000, 1234), segment.decode_mark),
    "segment_footer.v1.hex": (segment.encode_footer(FOOTER), segment.decode_footer),
    "log_base.v1.hex": (segment.encode_base(BASE), segment.decode_base),
    "sparse_index.v1.hex": (
        sparse_index.encode_sparse_index(make_index(), **OF_SEGMENT),
        lambda data: sparse_index.decode_sparse_index(data, **OF_SEGMENT),
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_golden(name: str) -> None:
    """The layouts of format version 1: changing one is a visible act."""
    assert WRITTEN[name][0] == read_golden(name)


def test_golden_hard_state() -> None:
    """The first copy of a slot, and seven more like it."""
    slot = hard_state.encode_slot(STATE, 7)
    assert slot[:512].rstrip(b"\0") == read_golden("hard_state_copy.v1.hex").rstrip(b"\0")
    assert slot == slot[:512] * 8


def test_golden_is_decoded() -> None:
    """What the golden files hold is what was put in."""
    assert segment.decode_mark(read_golden("append_mark.v1.hex")) == segment.AppendMark(1000, 1234)
    assert segment.decode_footer(read_golden("segment_footer.v1.hex")) == FOOTER
    assert segment.decode_base(read_golden("log_base.v1.hex")) == BASE
    decoded = sparse_index.decode_sparse_index(read_golden("sparse_index.v1.hex"), **OF_SEGMENT)
    assert columns(decoded) == columns(make_index())
    slot = read_golden("hard_state_copy.v1.hex").ljust(512, b"\0") * 8
    assert hard_state.decode_file(hard_state.encode_slot(HardState(), 6) + slot).state == STATE


@pytest.mark.parametrize("name", WRITTEN)
def test_any_flipped_bit_is_noticed(name: str) -> None:
    """Each layout is under its own checksum."""
    data, decode = WRITTEN[name]
    decode(data)
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(CodecError):
                decode(bytes(damaged))


@pytest.mark.parametrize("name", WRITTEN)
def test_any_prefix_is_refused(name: str) -> None:
    """Cut anywhere."""
    data, decode = WRITTEN[name]
    for end in range(len(data)):
        with pytest.raises(CodecError):
            decode(data[:end])


@pytest.mark.parametrize("name", WRITTEN)
def test_a_later_version_is_refused_by_name(name: str) -> None:
    """The text says that it is a version and not damage."""
    data, decode = WRITTEN[name]
    later = bytearray(data)
    later[12] = 2
    with pytest.raises(CodecError, match="format version 2"):
        decode(checksummed(bytes(later)))


def checksummed(data: bytes) -> bytes:
    """With a right checksum in the place that all these layouts have it."""
    return data[:8] + crc32c(data[12:]).to_bytes(4, "little") + data[12:] if len(data) >= 12 else data


@given(st.binary(max_size=200), st.sampled_from(sorted(WRITTEN)), st.booleans())
def test_any_bytes(data: bytes, name: str, has_magic: bool) -> None:
    """A value or CodecError, never anything else; behind the right magic and checksum too."""
    written, decode = WRITTEN[name]
    if has_magic:
        data = checksummed(written[:8] + data)
    try:
        decode(data)
    except CodecError:
        pass


@given(st.data(), st.sampled_from(sorted(WRITTEN)))
def test_any_fields_under_a_right_checksum(draw: st.DataObject, name: str) -> None:
    """Fields that contradict each other: a value or CodecError, never anything else."""
    data, decode = WRITTEN[name]
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        changed[draw.draw(st.integers(12, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        decode(checksummed(bytes(changed)))
    except CodecError:
        pass


@given(st.binary(max_size=300), st.booleans())
def test_any_hard_state(data: bytes, is_padded: bool) -> None:
    """A state or CodecError, never anything else."""
    try:
        hard_state.decode_file(data.ljust(hard_state.FILE_BYTES, b"\0") if is_padded else data)
    except CodecError:
        pass


@given(*[st.integers(0, (1 << 64) - 1)] * 3, st.integers(1, 1 << 40))
def test_hard_state_round_trip(term: int, vote: int, commit: int, sequence: int) -> None:
    """The slot with the larger sequence wins, in either place."""
    state = HardState(term=term, vote=NodeId(vote), commit=commit)
    file = bytearray(hard_state.FILE_BYTES)
    for number, value in ((sequence - 1, HardState()), (sequence, state)):
        start = hard_state.slot_position(number)
        file[start : start + hard_state.SLOT_BYTES] = hard_state.encode_slot(value, number)
    found = hard_state.decode_file(file)
    assert (found.state, found.sequence, found.is_whole) == (state, sequence, True)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20, unique=True).map(sorted), st.data())
def test_footer_round_trip(indexes: list[int], draw: st.DataObject) -> None:
    """Any number of term runs."""
    terms = sorted(draw.draw(st.lists(st.integers(0, 10_000), min_size=len(indexes), max_size=len(indexes), unique=True)))
    footer = attrs.evolve(FOOTER, base_index=indexes[0], last_index=indexes[-1], term_runs=tuple(zip(indexes, terms, strict=True)))
    data = segment.encode_footer(footer)
    assert segment.decode_footer(data) == footer
    assert segment.footer_bytes(b"before it" + data) == len(data)


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_index": 0, "term_runs": ((0, 1),)},
        {"last_index": 4},
        {"end_offset": 39},
        {"term_runs": ()},
        {"term_runs": ((6, 2),)},
        {"term_runs": ((5, 2), (12, 3))},
        {"term_runs": ((5, 2), (8, 2))},
        {"term_runs": ((5, 2), (5, 3))},
    ],
)
def test_footers_that_contradict_themselves(wrong: dict[str, object]) -> None:
    """Refused although their checksum is right."""
    with pytest.raises(CodecError, match="contradict"):
        segment.decode_footer(segment.encode_footer(attrs.evolve(FOOTER, **wrong)))


@pytest.mark.parametrize("other", [{"base_index": 6}, {"frames_bytes": 39_999}, {"frames_checksum": 1}])
def test_an_index_is_used_for_its_own_segment_only(other: dict[str, int]) -> None:
    """Not for another one, nor for this one before it was cut and grew again."""
    data = sparse_index.encode_sparse_index(make_index(), **OF_SEGMENT)
    with pytest.raises(CodecError, match="another segment"):
        sparse_index.decode_sparse_index(data, **{**OF_SEGMENT, **other})


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=12), st.integers(-2, 45))
def test_lookups_against_a_list(steps: list[tuple[int, int, int, int]], wanted: int) -> None:
    """The slot found is the last one at or before what is wanted."""
    index = SparseIndex()
    slots = []
    number, offset, position, timestamp = 1, 0, 0, NO_TIMESTAMP_NS
    for count, records_here, size_bytes, later in steps:
        slots.append((number, offset, position, timestamp))
        index.add(*slots[-1], 0)
        number += count + 1
        offset += records_here
        position += size_bytes + 1
        timestamp = max(timestamp, 0) + later
    if wanted >= 1:
        assert slots[index.slot_of_index(wanted)] == [slot for slot in slots if slot[0] <= wanted][-1]
    if wanted >= 0:
        assert slots[index.slot_of_offset(wanted)] == [slot for slot in slots if slot[1] <= wanted][-1]
    before = [slot for slot in slots if slot[3] < wanted]
    assert slots[index.slot_of_timestamp(wanted)] == (before[-1] if before else slots[0])
    index.truncate(len(slots) - 1)
    assert len(index) == len(slots) - 1
