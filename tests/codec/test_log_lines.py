"""The canonical form of a log line: golden bytes, times, levels."""

import datetime
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from trio_eventlog.codec.log_lines import (
    TIMESTAMP_NS_MAX,
    LogLine,
    StoredLine,
    decode_line,
    encode_line,
    known_level,
    record_of,
    timestamp_text,
)

LINE = LogLine(
    service="auth_service",
    level="WARN",
    message='slow "login"\n',
    timestamp="2026-11-30T10:00:00.000000000Z",
    labels={"region": "eu", "zone": "ä"},
    trace_id="0af7651916cd43dd8448eb211c80319c",
    span_id="b7ad6b7169203331",
    received_at="2026-11-30T10:00:00.250000000Z",
    client_ip="10.0.0.7",
    ingested_node_id="00000000000000a1",
    tenant="anonymous",
)


def test_the_bytes() -> None:
    assert (
        encode_line(LINE)
        == (
            '{"service":"auth_service","level":"WARN","message":"slow \\"login\\"\\n","timestamp":"2026-11-30T10:00:00.000000000Z",'
            '"labels":{"region":"eu","zone":"ä"},"trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331",'
            '"received_at":"2026-11-30T10:00:00.250000000Z","client_ip":"10.0.0.7","ingested_node_id":"00000000000000a1",'
            '"tenant":"anonymous"}'
        ).encode()
    )
    bare = msgspec.structs.replace(LINE, trace_id=UNSET, span_id=UNSET, labels={})
    assert b'"labels":{},"received_at":' in encode_line(bare)
    record = record_of(LINE, 7)
    assert (record.key, record.value, record.timestamp_ns) == (b"auth_service", encode_line(LINE), 7)


def test_what_was_encoded_is_read_back() -> None:
    assert msgspec.to_builtins(decode_line(encode_line(LINE))) == msgspec.to_builtins(LINE)
    assert decode_line(b'{"of another":"form"}') == StoredLine()


@given(st.integers(0, TIMESTAMP_NS_MAX))
def test_times_are_those_of_the_calendar(time_ns: int) -> None:
    text = timestamp_text(time_ns)
    assert datetime.datetime.fromisoformat(text[:19] + "Z").timestamp() == time_ns // 10**9
    assert text[19:] == f".{time_ns % 10**9:09d}Z"


@pytest.mark.parametrize(
    ("name", "level"),
    [
        *((level, level) for level in ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")),
        ("warning", "WARN"), (" Err ", "ERROR"), ("critical", "FATAL"), ("notice", "INFO"),
        ("verbose", "DEBUG"), ("loud", None), ("", None),
        (" " * 29 + "INF", "INFO"), (" " * 30 + "INF", None),
    ],
)  # fmt: skip
def test_levels_by_the_names_that_programs_use(name: str, level: str | None) -> None:
    assert known_level(name) == level


def test_long_texts_in_place_of_a_level_are_not_kept() -> None:
    """Names are in a cache, which any program that sends lines could fill with megabytes each."""
    tracemalloc.start()
    try:
        for number in range(50):
            known_level(f"{number}" + "x" * 100_000)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 1_000_000
