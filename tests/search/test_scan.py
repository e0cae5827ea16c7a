"""Scans over frames: in both directions, cut by every bound, nothing is left out and nothing is given twice."""

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.batch import encode_records
from trio_eventlog.codec.entry import EntryFrame, EntryKind, encode_entry
from trio_eventlog.codec.stored_batch import batch_entry
from trio_eventlog.errors import CodecError
from trio_eventlog.records import Compression, Record
from trio_eventlog.search.query import CompiledQuery, LogQuery
from trio_eventlog.search.scan import FoundLine, ScanRange, scan_frames

T0 = 1_800_000_000_000_000_000


def line(number: int) -> bytes:
    return msgspec.json.encode({"service": "s", "level": "INFO", "message": f"line {number}", "labels": {}})


def frames_of(sizes: list[int], compression: Compression = Compression.ZSTD) -> list[EntryFrame]:
    """A frame of each size, one without records before each of them."""
    frames: list[EntryFrame] = []
    offset = 0
    for size in sizes:
        frames.append(encode_entry(EntryKind.NO_OP, term=1, index=len(frames) + 1, base_offset=offset))
        records = [Record(value=line(number), timestamp_ns=T0 + number) for number in range(offset, offset + size)]
        batch = encode_records(records, compression)
        frames.append(batch_entry(batch, term=1, index=len(frames) + 1, base_offset=offset))
        offset += size
    return frames


def where(**changes: object) -> ScanRange:
    value = ScanRange(
        partition=3,
        first_offset=0,
        end_offset=1 << 60,
        is_backwards=False,
        lines_max=1000,
        lines_bytes_max=1 << 30,
        unpacked_bytes_max=1 << 26,
    )
    return attrs.evolve(value, **changes)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.booleans(),
    st.integers(1, 5),
    st.integers(1, 400),
    st.data(),
)
def test_going_on_from_each_answer_gives_every_line_once(
    sizes: list[int], backwards: bool, lines_max: int, lines_bytes_max: int, data: st.DataObject
) -> None:
    total = sum(sizes)
    first, end = sorted(data.draw(st.tuples(st.integers(0, total), st.integers(0, total))))
    buffers = [frame.raw for frame in frames_of(sizes)]
    compiled = CompiledQuery(LogQuery(contains="line"))
    found: list[FoundLine] = []
    bounds = {"is_backwards": backwards, "lines_max": lines_max, "lines_bytes_max": lines_bytes_max}
    low, high = first, end
    while low < high:
        scanned = scan_frames(buffers, compiled, where(first_offset=low, end_offset=high, **bounds))
        assert len(scanned.lines) <= lines_max
        assert len(scanned.lines) <= 1 or sum(one.size_bytes for one in scanned.lines) <= lines_bytes_max
        found += scanned.lines
        before = (low, high)
        low, high = (low, scanned.next_offset) if backwards else (scanned.next_offset, high)
        assert (low, high) != before
    expected = list(range(first, end))
    assert [one.offset for one in found] == (expected[::-1] if backwards else expected)
    assert all(one.value == line(one.offset) and one.timestamp_ns == T0 + one.offset for one in found)
    assert all(one.partition == 3 for one in found)


def test_batches_of_another_time_are_not_unpacked() -> None:
    frames = frames_of([2, 2, 2])
    query = LogQuery(since_ns=T0 + 2, until_ns=T0 + 4)
    scanned = scan_frames([frame.raw for frame in frames], CompiledQuery(query), where())
    assert [one.offset for one in scanned.lines] == [2, 3]
    only = scan_frames([frames[3].raw], CompiledQuery(query), where(first_offset=2))
    # Those are counted as they are stored.
    assert scanned.scanned_bytes == only.scanned_bytes + frames[1].size_bytes + frames[5].size_bytes


def test_a_literal_that_is_nowhere_leaves_batches_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("trio_eventlog.search.scan.parse_unpacked", fail)
    frames = frames_of([50])
    assert not scan_frames([frame.raw for frame in frames], CompiledQuery(LogQuery(contains="needle")), where()).lines


def test_a_damaged_frame_is_an_error_and_a_bad_batch_is_counted() -> None:
    frames = frames_of([2])
    damaged = bytearray(frames[1].raw)
    damaged[-1] ^= 1
    compiled = CompiledQuery(LogQuery())
    with pytest.raises(CodecError):
        scan_frames([bytes(damaged)], compiled, where())
    for size, payload in ((2, b"no zstd"), (2, b"")):
        batch = attrs.evolve(encode_records([b"x"] * size, Compression.ZSTD, T0), payload=payload)
        bad = batch_entry(batch, term=1, index=1, base_offset=0)
        scanned = scan_frames([bad.raw, frames_of([2, 1])[3].raw], compiled, where())
        assert scanned.unreadable == 1
        assert [one.offset for one in scanned.lines] == [2]


def test_a_batch_over_the_bound_of_unpacked_bytes_is_not_searched() -> None:
    frames = frames_of([50])
    compiled = CompiledQuery(LogQuery())
    whole = scan_frames([frames[1].raw], compiled, where())
    assert scan_frames([frames[1].raw], compiled, where(unpacked_bytes_max=whole.scanned_bytes)).lines == whole.lines
    over = scan_frames([frames[1].raw], compiled, where(unpacked_bytes_max=whole.scanned_bytes - 1))
    assert (over.lines, over.unreadable) == ([], 1)
