"""Queries of log lines: the bytes that are looked for stand in every line that fits, whatever the texts are."""

import contextlib
import sys

import attrs
import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.search.kit import where
from trio_eventlog.codec.batch import encode_records
from trio_eventlog.codec.stored_batch import batch_entry
from trio_eventlog.errors import InvalidArgument
from trio_eventlog.records import Compression, Record
from trio_eventlog.search.query import QUERY_LABELS_MAX, QUERY_TEXT_CHARACTERS_MAX, CompiledQuery, required_text
from trio_eventlog.search.scan import scan_frames
from trio_eventlog.search.values import LogQuery

TEXT = st.text(alphabet=st.sampled_from('ab"\\/\n\té€😀{}:,\x00\x1f\x7f '), max_size=8)
SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND


class Line(msgspec.Struct, omit_defaults=True):
    """In the order of a canonical line."""

    service: str
    level: str
    message: str
    labels: dict[str, str]
    trace_id: str = ""


LINES = st.builds(
    Line,
    service=st.sampled_from(["auth", "au", 'q"s', "é"]),
    level=st.sampled_from(["INFO", "ERROR"]),
    message=TEXT,
    labels=st.dictionaries(TEXT, TEXT, max_size=3),
    trace_id=st.sampled_from(["", "ab12"]),
)
QUERIES = st.builds(
    LogQuery,
    service=st.sampled_from(["", "auth", 'q"s', "é"]),
    level=st.sampled_from(["", "INFO", "ERROR"]),
    contains=TEXT,
    labels=st.lists(st.tuples(TEXT, TEXT), max_size=2, unique_by=lambda pair: pair[0]).map(tuple),
    trace_id=st.sampled_from(["", "ab12"]),
)


def naive(query: LogQuery, line: Line) -> bool:
    return (
        query.service in ("", line.service)
        and query.level in ("", line.level)
        and query.contains in line.message
        and query.trace_id in ("", line.trace_id)
        and all(line.labels.get(name) == text for name, text in query.labels)
    )


@given(QUERIES, st.lists(LINES, min_size=1, max_size=8), st.data())
def test_the_same_lines_fit_as_when_each_is_decoded_and_looked_at(query: LogQuery, lines: list[Line], data: st.DataObject) -> None:
    # Texts that are there, or nearly nothing fits.
    line = data.draw(st.sampled_from(lines))
    start, end = sorted(data.draw(st.tuples(st.integers(0, 8), st.integers(0, 8))))
    query = changed(query, contains=line.message[start:end] if data.draw(st.booleans()) else query.contains)
    if line.labels and data.draw(st.booleans()):
        query = changed(query, labels=tuple(line.labels.items())[:1])
    compiled = CompiledQuery(query)
    values = [msgspec.json.encode(line) for line in lines]
    wanted = [number for number, line in enumerate(lines) if naive(query, line)]
    for compression in Compression:
        batch = encode_records([Record(value=value, timestamp_ns=T0) for value in values], compression)
        frame = batch_entry(batch, term=1, index=1, base_offset=0)
        scanned = scan_frames([frame.raw], compiled, where())
        assert [found.offset for found in scanned.lines] == wanted
        assert [found.value for found in scanned.lines] == [values[number] for number in wanted]
        assert not scanned.unreadable


def changed(query: LogQuery, **changes: object) -> LogQuery:
    return attrs.evolve(query, **changes)


REGEX_PARTS = st.sampled_from(
    [
        "a",
        "b",
        "é",
        "\\.",
        "\\d",
        "\\x41",
        "\\pL",
        "\\p{Greek}",
        ".",
        "[ab]",
        "[^]a]",
        "[[:alpha:]b]",
        "(ab)",
        "(a[)]|b)",
        "c",
        "\\(",
        "\\n",
    ]
)
REPEATS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{0,1}", "*?", "+?"])


@given(st.lists(st.tuples(REGEX_PARTS, REPEATS), max_size=6), st.text(alphabet="abcéA.(1)\nα", max_size=12), st.booleans())
def test_the_required_text_stands_in_everything_that_fits(parts: list[tuple[str, str]], text: str, anchored: bool) -> None:
    re2 = pytest.importorskip("re2")
    regex = ("^" if anchored else "") + "".join(part + repeat for part, repeat in parts)
    found = re2.search(regex, text)
    assume(found)
    assert required_text(regex) in found.group(0)


@given(st.text(alphabet='aKkSsé\\."[x] \u212a\u017f', max_size=5), st.text(alphabet='aKkSsÉéxX\\" \u212a\u017f', max_size=8))
def test_an_expression_without_regard_to_case_finds_what_each_line_says(regex: str, message: str) -> None:
    re2 = pytest.importorskip("re2")
    try:
        expected = re2.search("(?i)" + regex, message) is not None
    except re2.error:
        return
    value = msgspec.json.encode(Line("s", "INFO", message, {}))
    assert CompiledQuery(LogQuery(regex="(?i)" + regex)).fits(value, T0) == expected


def test_without_regard_to_case_most_batches_are_thrown_away() -> None:
    pytest.importorskip("re2")
    compiled = CompiledQuery(LogQuery(regex="(?i)kTimeOut[0-9]"))
    assert compiled.may_fit(b"...\xff TIMEOUT")
    assert not compiled.may_fit(b"...\xff TIME OUT")


@pytest.mark.parametrize(
    ("regex", "text"),
    [
        ("timeout after", "timeout after"),
        ("status=50\\d duration", "status=50"),
        ("ab+c", "ab"),
        ("ab?cde", "cde"),
        ("(?i)timeout", ""),
        ("one|two", ""),
        ("(one|two) seconds", ""),
        ("(ones) seconds", " seconds"),
        ("10\\.0\\.0\\.1", "10.0.0.1"),
        ("a{2}bc", "bc"),
        ("x[[:digit:]]yz", "yz"),
        ("\\Qa.b\\E", ""),
    ],
)
def test_required_text(regex: str, text: str) -> None:
    assert required_text(regex) == text


@given(st.text(alphabet='a|()[]{}\\*+?.^$x:p-,1"é', max_size=12))
def test_any_expression_is_compiled_or_refused_with_words(regex: str) -> None:
    pytest.importorskip("re2")
    required_text(regex)
    with contextlib.suppress(InvalidArgument):
        CompiledQuery(LogQuery(regex=regex))


def test_an_expression_that_keeps_a_backtracking_engine_busy_is_answered() -> None:
    pytest.importorskip("re2")
    compiled = CompiledQuery(LogQuery(regex="^(a+)+$"))
    assert not compiled.fits(msgspec.json.encode(Line("s", "INFO", "a" * 5000 + "b", {})), T0)


def test_without_the_extra_an_expression_is_refused_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(InvalidArgument, match=r"the extra \[search\]"):
        CompiledQuery(LogQuery(regex="a"))


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        (LogQuery(contains="a" * QUERY_TEXT_CHARACTERS_MAX), LogQuery(contains="a" * (QUERY_TEXT_CHARACTERS_MAX + 1))),
        (
            LogQuery(labels=tuple((str(number), "") for number in range(QUERY_LABELS_MAX))),
            LogQuery(labels=tuple((str(number), "") for number in range(QUERY_LABELS_MAX + 1))),
        ),
        (LogQuery(since_ns=0), LogQuery(since_ns=-1)),
        (LogQuery(contains="\ud7ff"), LogQuery(contains="\ud800")),
    ],
)
def test_bounds_of_a_query(within: LogQuery, beyond: LogQuery) -> None:
    CompiledQuery(within)
    with pytest.raises(InvalidArgument):
        CompiledQuery(beyond)


def test_what_is_no_line_fits_nothing() -> None:
    compiled = CompiledQuery(LogQuery())
    assert not compiled.fits(b"no json", T0)
    assert not compiled.fits(b"\xff", T0)
    assert not compiled.fits(b"", T0)


def test_times_are_from_since_on_and_before_until() -> None:
    value = msgspec.json.encode(Line("s", "INFO", "m", {}))
    compiled = CompiledQuery(LogQuery(since_ns=T0, until_ns=T0 + SECOND))
    fits = [compiled.fits(value, T0 + delta) for delta in (-1, 0, SECOND - 1, SECOND)]
    assert fits == [False, True, True, False]
