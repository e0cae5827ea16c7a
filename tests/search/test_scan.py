"""Scans over frames: in both directions, cut by every bound, nothing is left out and nothing is given twice."""

from collections import Counter

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.search.kit import where
from trio_eventlog.codec.batch import encode_records
from trio_eventlog.codec.entry import EntryFrame, EntryKind, encode_entry
from trio_eventlog.codec.stored_batch import batch_entry
from trio_eventlog.errors import CodecError
from trio_eventlog.records import Compression, Record
from trio_eventlog.search.query import CompiledQuery
from trio_eventlog.search.scan import scan_frames
from trio_eventlog.search.values import COUNTS_MAX, LABEL_BYTES_MAX, LABELS_MAX, Counts, FoundLine, LogCounting, LogQuery

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
    bounds = {
        "is_backwards": backwards,
        "lines_max": lines_max,
        "lines_bytes_max": lines_bytes_max,
        "scanned_bytes_max": data.draw(st.integers(1, 400)),
    }
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


COUNTED = st.builds(
    lambda service, level, labels, delta: (service, level, labels, delta),
    st.sampled_from(["auth", 'q"s', "é"]),
    st.sampled_from(["INFO", "ERROR"]),
    st.dictionaries(st.sampled_from(["a", 'b"}', "labels", "service"]), st.sampled_from(["1", '{"}', "\\"]), max_size=2),
    st.integers(0, 30),
)


@given(
    st.lists(st.lists(COUNTED, min_size=1, max_size=5), min_size=1, max_size=4),
    st.sampled_from([0, 10, 1000]),
    st.sampled_from([LogQuery(), LogQuery(service="auth"), LogQuery(level="ERROR"), LogQuery(since_ns=T0 + 10, until_ns=T0 + 20)]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_counts_are_those_of_lines_that_are_decoded(
    batches: list[list[tuple[str, str, dict[str, str], int]]],
    step_ns: int,
    query: LogQuery,
    backwards: bool,
    strange: bool,
    with_labels: bool,
) -> None:
    expected: Counter[tuple[int, str, str]] = Counter()
    labels: dict[str, set[str]] = {}
    buffers = []
    offset = 0
    for number, lines in enumerate(batches):
        records = []
        for service, level, its_labels, delta in lines:
            value = msgspec.json.encode({"service": service, "level": level, "message": '{"service":"x"', "labels": its_labels})
            records.append(Record(value=value, timestamp_ns=T0 + delta))
            in_time = query.since_ns <= T0 + delta and (not query.until_ns or T0 + delta < query.until_ns)
            if in_time and query.service in ("", service) and query.level in ("", level):
                bucket = (T0 + delta) // step_ns * step_ns if step_ns else 0
                expected[bucket, service, level] += 1
                for name, text in its_labels.items():
                    labels.setdefault(name, set()).add(text)
        if strange:
            records.append(Record(value=b"no line", timestamp_ns=T0))
        batch = encode_records(records, Compression.ZSTD)
        buffers.append(batch_entry(batch, term=1, index=number + 1, base_offset=offset).raw)
        offset += len(records)
    counting = LogCounting(step_ns=step_ns, with_labels=with_labels)
    counts = scan_frames(buffers, CompiledQuery(query), where(is_backwards=backwards, counting=counting)).counts
    assert counts.lines == dict(expected)
    assert counts.labels == (labels if with_labels else {})
    assert not counts.is_truncated


def test_counts_are_bounded() -> None:
    counts = Counts()
    for number in range(COUNTS_MAX):
        counts.add(0, str(number), "INFO", 1)
    assert not counts.is_truncated
    counts.add(0, "0", "INFO", 1)
    assert not counts.is_truncated
    counts.add(0, "beyond", "INFO", 2)
    counts.add(0, "far beyond", "INFO", 3)
    assert counts.is_truncated
    assert counts.lines[0, "", "INFO"] == 5
    for number in range(3 * COUNTS_MAX):
        counts.add(number, "beyond", "INFO", 1)
    assert len(counts.lines) == 2 * COUNTS_MAX + 1
    assert sum(counts.lines.values()) == COUNTS_MAX + 6 + 3 * COUNTS_MAX


def test_labels_are_bounded() -> None:
    counts = Counts()
    for number in range(LABELS_MAX):
        counts.add_label("a", str(number))
    counts.add_label("a", "0")
    assert not counts.is_truncated
    counts.add_label("b", "0")
    assert counts.is_truncated
    assert counts.labels.keys() == {"a"}
    large = Counts()
    large.add_label("a", "x" * (LABEL_BYTES_MAX - 1))
    assert not large.is_truncated
    large.add_label("b", "")
    assert large.is_truncated


def test_a_scan_stops_behind_the_batch_with_which_it_is_enough() -> None:
    buffers = [frame.raw for frame in frames_of([1, 1, 1])]
    compiled = CompiledQuery(LogQuery(contains="needle"))
    one = scan_frames(buffers[:2], compiled, where()).scanned_bytes
    for bytes_max, looked_at in ((1, 1), (one, 1), (one + 1, 2), (3 * one, 3)):
        assert scan_frames(buffers, compiled, where(scanned_bytes_max=bytes_max)).next_offset == looked_at
