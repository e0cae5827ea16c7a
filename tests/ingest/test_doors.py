"""What agents send, as lines: OpenTelemetry's exports in both forms, Loki's pushes, JSON of our own. No bytes end a parser."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.ingest import json_lines, loki, otlp
from trio_eventlog.ingest.intake import LineIn
from trio_eventlog.v1 import loki_push_pb2

logs_service_pb2 = pytest.importorskip("opentelemetry.proto.collector.logs.v1.logs_service_pb2")
json_format = pytest.importorskip("google.protobuf.json_format")


def attribute(key: str, **value: Any) -> dict[str, Any]:
    return {"key": key, "value": value}


EXPORT = {
    "resourceLogs": [
        {
            "resource": {"attributes": [attribute("service.name", stringValue="auth"), attribute("host.name", stringValue="h1")]},
            "scopeLogs": [
                {
                    "scope": {"name": "lib"},
                    "logRecords": [
                        {
                            "timeUnixNano": "1800000000123456789",
                            "severityNumber": 13,
                            "severityText": "warning",
                            "body": {"stringValue": "slow"},
                            "attributes": [
                                attribute("n", intValue="7"),
                                attribute("ok", boolValue=True),
                                attribute("f", doubleValue=0.5),
                                attribute("list", arrayValue={"values": [{"stringValue": "a"}, {"intValue": "1"}]}),
                                attribute("map", kvlistValue={"values": [attribute("x", stringValue="y")]}),
                            ],
                            "traceId": "0AF7651916CD43DD8448EB211C80319C",
                            "spanId": "b7ad6b7169203331",
                        },
                        {
                            "observedTimeUnixNano": "1800000000000000000",
                            "severityText": "loud",
                            "body": {"kvlistValue": {"values": []}},
                        },
                        {"eventName": "login", "severityNumber": 99},
                    ],
                }
            ],
        }
    ]
}

COMMON = {"host.name": "h1", "otel.scope.name": "lib"}
LINES = [
    LineIn(
        message="slow",
        service="auth",
        level="WARN",
        timestamp=1800000000123456789,
        labels={**COMMON, "n": 7, "ok": True, "f": 0.5, "list": ["a", 1], "map": {"x": "y"}},
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
    ),
    LineIn(message="{}", service="auth", level="loud", timestamp=1800000000000000000, labels=COMMON),
    LineIn(message="", service="auth", level="", timestamp=None, labels={**COMMON, "event.name": "login"}),
]


def as_protobuf(export: dict[str, Any]) -> bytes:
    """JSON of OTLP has ids in hex where protobuf's own has base64."""
    message = logs_service_pb2.ExportLogsServiceRequest()
    bare = json.loads(json.dumps(export))
    ids = []
    for record in bare["resourceLogs"][0]["scopeLogs"][0]["logRecords"]:
        ids.append((record.pop("traceId", ""), record.pop("spanId", "")))
    json_format.ParseDict(bare, message)
    for record, (trace_id, span_id) in zip(message.resource_logs[0].scope_logs[0].log_records, ids, strict=True):
        record.trace_id, record.span_id = bytes.fromhex(trace_id), bytes.fromhex(span_id)
    encoded: bytes = message.SerializeToString()
    return encoded


def with_lower_ids(lines: Iterator[LineIn]) -> list[LineIn]:
    return [msgspec.structs.replace(line, trace_id=line.trace_id.lower()) for line in lines]


def test_both_forms_of_an_export_are_the_same_lines() -> None:
    assert with_lower_ids(otlp.lines_of_json(json.dumps(EXPORT).encode())) == LINES
    assert list(otlp.lines_of_protobuf(as_protobuf(EXPORT))) == LINES


@pytest.mark.parametrize(
    ("number", "level"), [(0, "x"), (1, "TRACE"), (8, "DEBUG"), (9, "INFO"), (20, "ERROR"), (24, "FATAL"), (25, "x")]
)
def test_the_number_of_a_severity_comes_first(number: int, level: str) -> None:
    record = {"severityNumber": number, "severityText": "x"}
    export = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}
    (line,) = otlp.lines_of_json(json.dumps(export).encode())
    assert line.level == level
    record["severityNumber"] = f"SEVERITY_NUMBER_{'INFO2' if number == 9 else 'UNSPECIFIED'}"
    (line,) = otlp.lines_of_json(json.dumps(export).encode())
    assert line.level == ("INFO" if number == 9 else "x")


def test_values_that_are_nested_too_deep() -> None:
    value: dict[str, Any] = {"stringValue": "x"}
    for _ in range(otlp.DEPTH_MAX + 1):
        value = {"arrayValue": {"values": [value]}}
    export = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": value}]}]}]}
    with pytest.raises(otlp.ExportRefused, match="deep"):
        list(otlp.lines_of_json(json.dumps(export).encode()))
    with pytest.raises(otlp.ExportRefused, match="deep"):
        list(otlp.lines_of_protobuf(as_protobuf(export)))


def test_an_answer() -> None:
    response = logs_service_pb2.ExportLogsServiceResponse.FromString(otlp.answer(3, "too long"))
    assert (response.partial_success.rejected_log_records, response.partial_success.error_message) == (3, "too long")
    assert otlp.answer(0, "") == b""


def test_a_push() -> None:
    push = {
        "streams": [
            {
                "stream": {"app": "auth", "level": "error", "env": "prod"},
                "values": [["1800000000123456789", "failed"], ["1800000000123456790", "again", {"trace_id": "ab", "user": "u1"}]],
            },
            {"stream": {"job": "cron"}, "values": [["1", "tick"]]},
        ]
    }
    labels = {"app": "auth", "level": "error", "env": "prod"}
    first_ns = 1800000000123456789
    assert list(loki.lines_of_json(json.dumps(push).encode())) == [
        LineIn(message="failed", service="auth", level="error", timestamp=first_ns, labels=labels),
        LineIn(
            message="again",
            service="auth",
            level="error",
            timestamp=1800000000123456790,
            labels={**labels, "user": "u1"},
            trace_id="ab",
        ),
        LineIn(message="tick", service="cron", level="", timestamp=1, labels={"job": "cron"}),
    ]


def as_snappy(push: loki_push_pb2.LokiPushRequest) -> bytes:
    return bytes(pytest.importorskip("cramjam").snappy.compress_raw(push.SerializeToString()))


def test_a_push_as_protobuf() -> None:
    push = loki_push_pb2.LokiPushRequest()
    stream = push.streams.add(labels='{app="auth", level="error", note="a \\"b\\", {c}=\\\\ ä"}')
    entry = stream.entries.add(line="failed")
    entry.timestamp.seconds, entry.timestamp.nanos = 1_800_000_000, 123_456_789
    entry.structured_metadata.add(name="trace_id", value="ab")
    assert list(loki.lines_of_protobuf(as_snappy(push), 1000)) == [
        LineIn(
            message="failed",
            service="auth",
            level="error",
            timestamp=1_800_000_000_123_456_789,
            labels={"app": "auth", "level": "error", "note": 'a "b", {c}=\\ ä'},
            trace_id="ab",
        )
    ]


@pytest.mark.parametrize("labels", ["", "{", "{}x", "{app}", '{app="x}', '{app="x" y="z"}', 'app="x"', '{app="x",}'])
def test_labels_that_are_none(labels: str) -> None:
    push = loki_push_pb2.LokiPushRequest()
    push.streams.add(labels=labels).entries.add(line="x")
    with pytest.raises(loki.PushRefused, match="labels"):
        list(loki.lines_of_protobuf(as_snappy(push), 1000))


def test_a_push_that_unpacks_to_too_much() -> None:
    push = loki_push_pb2.LokiPushRequest()
    push.streams.add(labels="{}").entries.add(line="x" * 2000)
    with pytest.raises(loki.PushTooLarge):
        list(loki.lines_of_protobuf(as_snappy(push), 1000))
    # The size that is announced is believed before anything is unpacked.
    with pytest.raises(loki.PushTooLarge):
        list(loki.lines_of_protobuf(b"\xff\xff\xff\xff\x0f", 1000))


@pytest.mark.parametrize(
    "values", [[["1"]], [["x", "line"]], [[1.5, "line"]], [["1", 2]], [["1", "line", []]], [["1", "line", {}, {}]]]
)
def test_a_push_that_is_none(values: list[Any]) -> None:
    with pytest.raises(loki.PushRefused):
        list(loki.lines_of_json(json.dumps({"streams": [{"stream": {}, "values": values}]}).encode()))


def test_lines_in_all_shapes() -> None:
    def read(data: bytes) -> list[str]:
        return [line.message for line in json_lines.lines_of(data, json_lines.shape_of(data), fail)]

    assert read(b' [{"message":"a"},{"message":"b"}]') == ["a", "b"]
    assert read(b'{"logs":[{"message":"a"}]}') == ["a"]
    assert read(b'{"message":"a"}') == ["a"]
    assert read(b"[]") == []


def lines_of_array(data: bytes, on_bad: json_lines.OnBad) -> Iterator[LineIn | None]:
    return json_lines.lines_of(data, None, on_bad)


def fail(number: int, error: Exception) -> None:
    raise AssertionError(number) from error


def test_bad_lines_are_named_by_their_number() -> None:
    for expected, data, read in (
        (
            ["a", None, None, "c"],
            b'[{"message":"a"},{"massage":"b"},3,{"message":"c"}]',
            lambda data, on_bad: json_lines.lines_of(data, None, on_bad),
        ),
        (["a", None, None, None, "c", None], b'{"message":"a"}\n{"massage":"b"}\n3\n\n{"message":"c"}\n', json_lines.lines_of_text),
    ):
        bad: list[tuple[int, Exception]] = []
        lines = [line and line.message for line in read(data, lambda *found, bad=bad: bad.append(found))]
        assert (lines, [number for number, _ in bad]) == (expected, [1, 2])


def a_push() -> loki_push_pb2.LokiPushRequest:
    push = loki_push_pb2.LokiPushRequest()
    entry = push.streams.add(labels='{app="auth"}').entries.add(line="line")
    entry.timestamp.seconds = 1
    entry.structured_metadata.add(name="a", value="b")
    return push


PARSERS: dict[str, Callable[[bytes], Iterator[LineIn | None]]] = {
    "export as JSON": otlp.lines_of_json,
    "export as protobuf": otlp.lines_of_protobuf,
    "push": loki.lines_of_json,
    "packed push": lambda data: loki.lines_of_protobuf(data, 1000),
    "JSON": lambda data: json_lines.lines_of(data, json_lines.shape_of(data), lambda *_: None),
    "lines": lambda data: json_lines.lines_of_text(data, lambda *_: None),
}
WHOLE = {
    "export as JSON": json.dumps(EXPORT).encode(),
    "export as protobuf": as_protobuf(EXPORT),
    "push": b'{"streams":[{"stream":{"app":"auth"},"values":[["1","line",{"a":"b"}]]}]}',
    "packed push": as_snappy(a_push()),
    "JSON": b'{"logs":[{"message":"a","labels":{"x":[1,{"y":null}]},"level":30,"timestamp":1.5}]}',
    "lines": b'{"message":"a"}\n{"message":"b"}',
}


@pytest.mark.parametrize("door", PARSERS)
@given(data=st.data())
def test_no_bytes_end_a_parser(door: str, data: st.DataObject) -> None:
    """Anything, and what is nearly right: refused by an error that the edge answers, or read."""
    whole = bytearray(WHOLE[door])
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        given_bytes = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    else:
        given_bytes = data.draw(st.binary(max_size=100))
    try:
        for line in PARSERS[door](given_bytes):
            assert line is None or isinstance(line, LineIn)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        pass
