"""What is made of a line: what is decided for it, and what is refused."""

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.log_lines import TIMESTAMP_NS_MAX, StoredLine, decode_line
from trio_eventlog.errors import BatchTooLarge, InvalidArgument
from trio_eventlog.ingest.intake import (
    HOLD_BYTES,
    LINE_OVERHEAD_BYTES,
    ORIGINAL_LEVEL,
    ORIGINAL_TIMESTAMP,
    REPLACED_BYTES,
    SERVICE_CHARACTERS_MAX,
    Intake,
    LineIn,
    parse_timestamp,
)
from trio_eventlog.ingest.settings import IntakeSettings
from trio_eventlog.service.values import Caller

NOW_NS = 1_800_000_000_123_456_789
SETTINGS = IntakeSettings(log_line_bytes_max=2000, log_labels_max=3, log_request_bytes_max=3 * HOLD_BYTES - 1000)


def intake(*, has_replaced_bytes: bool = False, hold: Callable[[int], None] | None = None) -> Intake:
    return Intake(
        SETTINGS,
        received_ns=NOW_NS,
        caller=Caller(address="10.0.0.7:514"),
        node_id="a1",
        has_replaced_bytes=has_replaced_bytes,
        hold=hold,
    )


def taken(has_replaced_bytes: bool = False, **fields: Any) -> tuple[StoredLine, int]:
    """The line as it is stored, and its record's timestamp."""
    taking = intake(has_replaced_bytes=has_replaced_bytes)
    taking.take(LineIn(**{"message": "m", **fields}))
    (record,) = taking.records
    assert record.value is not None
    line = decode_line(record.value)
    assert record.key == line.service.encode()
    return line, record.timestamp_ns


def test_what_a_line_gets() -> None:
    line, stamp_ns = taken(
        service="auth", level="warning", timestamp="2026-11-30T10:00:00.5+01:00", labels={"n": 1, "deep": {"a": [1]}}
    )
    assert stamp_ns == parse_timestamp("2026-11-30T09:00:00.5Z")
    assert msgspec.to_builtins(line) == {
        "service": "auth",
        "level": "WARN",
        "message": "m",
        "timestamp": "2026-11-30T09:00:00.500000000Z",
        "labels": {"n": "1", "deep": '{"a":[1]}'},
        "trace_id": "",
        "span_id": "",
        "received_at": "2027-01-15T08:00:00.123456789Z",
        "client_ip": "10.0.0.7",
        "ingested_node_id": "a1",
        "tenant": "anonymous",
    }


def test_what_a_line_does_not_say() -> None:
    line, stamp_ns = taken()
    assert (line.service, line.level, line.timestamp, stamp_ns) == ("unknown", "INFO", line.received_at, NOW_NS)


def test_an_unknown_level_is_kept_beside_the_nearest() -> None:
    line, _ = taken(level="loud")
    assert (line.level, line.labels) == ("INFO", {ORIGINAL_LEVEL: "loud"})
    assert [taken(level=number)[0].level for number in (10, 20, 30, 40, 50, 60)] == [
        "TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL",
    ]  # fmt: skip
    assert taken(level=35)[0].labels == {ORIGINAL_LEVEL: "35"}


@pytest.mark.parametrize("timestamp", [-5, 0, "1969-12-31T23:59:59Z", "2300-01-01T00:00:00Z", 1e25])
def test_a_time_that_no_record_can_have_is_kept_beside_that_of_its_arrival(timestamp: float | str) -> None:
    line, stamp_ns = taken(timestamp=timestamp)
    assert stamp_ns == NOW_NS
    assert line.timestamp == line.received_at
    assert line.labels == {ORIGINAL_TIMESTAMP: str(timestamp)}


def test_a_clock_that_is_wrong_is_believed() -> None:
    """Both times are there; a node cannot know which clock is right."""
    line, _ = taken(timestamp="2031-01-01T00:00:00Z")
    assert line.timestamp > line.received_at


@pytest.mark.parametrize(
    ("given_time", "expected_ns"),
    [
        (1_800_000_000, 1_800_000_000 * 10**9),
        (1_800_000_000.25, 1_800_000_000_250_000_000),
        (1_800_000_000_123, 1_800_000_000_123_000_000),
        (1_800_000_000_123_456, 1_800_000_000_123_456_000),
        (1_800_000_000_123_456_789, 1_800_000_000_123_456_789),
        ("2027-01-15T08:00:00.123456789Z", 1_800_000_000_123_456_789),
        ("2027-01-15T08:00:00", 1_800_000_000 * 10**9),
        ("2027-01-15 08:00:00,5", 1_800_000_000_500_000_000),
    ],
)
def test_times_in_all_forms(given_time: float | str, expected_ns: int) -> None:
    assert parse_timestamp(given_time) == expected_ns


@pytest.mark.parametrize("timestamp", ["yesterday", "", "2026-13-01T00:00:00Z", math.nan, math.inf])
def test_what_is_no_time_is_refused(timestamp: float | str) -> None:
    with pytest.raises(InvalidArgument, match=r"^timestamp: "):
        taken(timestamp=timestamp)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("labels", {"labels": {str(number): "x" for number in range(4)}}),
        ("labels", {"labels": {"": "x"}}),
        ("labels", {"labels": {"x" * 201: "x"}}),
        ("service", {"service": "s" * (SERVICE_CHARACTERS_MAX + 1)}),
        ("trace_id", {"trace_id": "a" * 65}),
        ("message", {"message": "m" * 2000}),
        ("message", {"message": "\ud800"}),
        ("message", {"labels": {"x": "v" * 2000}}),
    ],
)
def test_what_is_over_a_limit_is_refused(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=rf"^{field}: "):
        taken(**fields)


def test_as_much_as_the_limits_allow() -> None:
    taken(service="s" * SERVICE_CHARACTERS_MAX, labels={"x" * 200: "x", "y": "", "z": None})
    size = len(bytes(_record_value("")))
    assert len(bytes(_record_value("m" * (2000 - size)))) == 2000


def _record_value(message: str) -> bytes:
    taking = intake()
    taking.take(LineIn(message=message))
    (record,) = taking.records
    assert record.value is not None
    return record.value


def test_a_request_has_as_many_bytes_as_may_be_and_no_more() -> None:
    """Completed: what a line gets from its request is in each of them. They are counted among what all requests hold, piece by
    piece; the first piece is not."""
    held: list[int] = []
    taking = intake(hold=held.append)
    cost_bytes = len(_record_value("m" * 500)) + LINE_OVERHEAD_BYTES
    fitting = SETTINGS.log_request_bytes_max // cost_bytes
    for number in range(fitting):
        taking.take(LineIn(message="m" * 500))
        assert held == [HOLD_BYTES] * (((number + 1) * cost_bytes - 1) // HOLD_BYTES)
    with pytest.raises(BatchTooLarge) as caught:
        taking.take(LineIn(message="m" * 500))
    assert caught.value.limit_bytes == SETTINGS.log_request_bytes_max
    assert len(taking.records) == fitting


def test_bytes_that_were_no_text_are_marked() -> None:
    assert taken(has_replaced_bytes=True, message="a\ufffdb")[0].labels == {REPLACED_BYTES: "true"}
    assert taken(has_replaced_bytes=True, message="ab")[0].labels == {}


VALUES = st.none() | st.text(max_size=5) | st.integers() | st.lists(st.booleans())


@given(
    st.builds(
        LineIn,
        message=st.text(max_size=50),
        service=st.text(max_size=30),
        level=st.text(max_size=10) | st.integers(),
        timestamp=st.none() | st.text(max_size=30) | st.integers() | st.floats(),
        labels=st.dictionaries(
            st.text(max_size=5), st.none() | st.text(max_size=5) | st.integers() | st.lists(st.booleans()), max_size=5
        ),
        trace_id=st.text(max_size=10),
        span_id=st.text(max_size=10),
    )
)
def test_a_line_is_taken_or_refused_with_words(line: LineIn) -> None:
    taking = intake()
    refused = ""
    try:
        taking.take(line)
    except InvalidArgument as error:
        refused = str(error)
    if refused:
        assert ": " in refused
        assert taking.records == []
        return
    (record,) = taking.records
    assert record.value is not None
    assert 0 < record.timestamp_ns <= TIMESTAMP_NS_MAX
    assert decode_line(record.value).message == line.message
