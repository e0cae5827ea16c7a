"""Exports of OpenTelemetry: logs of protocol version 1, as protobuf and as JSON.

Source: the OpenTelemetry protocol (OTLP/HTTP), and its mapping of severities. The package `opentelemetry-proto` has the messages;
it is loaded by the first export that needs it.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from trio_eventlog.ingest.intake import LineIn

SERVICE_NAME = "service.name"
SCOPE_NAME = "otel.scope.name"
EVENT_NAME = "event.name"

_SEVERITIES = ("", *("TRACE",) * 4, *("DEBUG",) * 4, *("INFO",) * 4, *("WARN",) * 4, *("ERROR",) * 4, *("FATAL",) * 4)
DEPTH_MAX = 16
"""Lists within maps within lists of a value."""


class ExportRefused(ValueError):
    """It is no export, or one that cannot be read."""


class _Value(Struct, rename="camel"):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: str | int | None = None
    double_value: float | str | None = None
    bytes_value: str | None = None
    array_value: "_Array | None" = None
    kvlist_value: "_Map | None" = None


class _Attribute(Struct):
    key: str = ""
    value: _Value = msgspec.field(default_factory=_Value)


class _Array(Struct):
    values: list[_Value] = []


class _Map(Struct):
    values: list[_Attribute] = []


class _LogRecord(Struct, rename="camel"):
    time_unix_nano: str | int = 0
    observed_time_unix_nano: str | int = 0
    severity_number: int | str = 0
    severity_text: str = ""
    body: _Value | None = None
    attributes: list[_Attribute] = []
    trace_id: str = ""
    span_id: str = ""
    event_name: str = ""


class _Scope(Struct):
    name: str = ""


class _ScopeLogs(Struct, rename="camel"):
    scope: _Scope = msgspec.field(default_factory=_Scope)
    log_records: list[_LogRecord] = []


class _Resource(Struct):
    attributes: list[_Attribute] = []


class _ResourceLogs(Struct, rename="camel"):
    resource: _Resource = msgspec.field(default_factory=_Resource)
    scope_logs: list[_ScopeLogs] = []


class _Export(Struct, rename="camel"):
    resource_logs: list[_ResourceLogs] = []


_export = msgspec.json.Decoder(_Export)


def lines_of_json(data: bytes) -> Iterator[LineIn]:
    """Raises msgspec.DecodeError, ExportRefused."""
    for resource_logs in _export.decode(data).resource_logs:
        of_resource = {one.key: _plain(one.value) for one in resource_logs.resource.attributes}
        for scope_logs in resource_logs.scope_logs:
            common = _common(of_resource, scope_logs.scope.name)
            for record in scope_logs.log_records:
                number = record.severity_number
                if isinstance(number, str):
                    # Some exporters write the name of the enumeration: SEVERITY_NUMBER_INFO2.
                    name = number.removeprefix("SEVERITY_NUMBER_").rstrip("234")
                    number = _SEVERITIES.index(name) if name in _SEVERITIES else 0
                yield _line(
                    common,
                    ((one.key, _plain(one.value)) for one in record.attributes),
                    body=None if record.body is None else _plain(record.body),
                    time_ns=_whole(record.time_unix_nano) or _whole(record.observed_time_unix_nano),
                    severity=number,
                    severity_text=record.severity_text,
                    trace_id=record.trace_id,
                    span_id=record.span_id,
                    event_name=record.event_name,
                )


def lines_of_protobuf(data: bytes) -> Iterator[LineIn]:
    """Raises ExportRefused; ModuleNotFoundError: the package with the messages is not installed."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    try:
        export = ExportLogsServiceRequest.FromString(data)
    except DecodeError as error:
        raise ExportRefused(f"it is no ExportLogsServiceRequest: {error}") from error
    for resource_logs in export.resource_logs:
        of_resource = {one.key: _plain_message(one.value, DEPTH_MAX) for one in resource_logs.resource.attributes}
        for scope_logs in resource_logs.scope_logs:
            common = _common(of_resource, scope_logs.scope.name)
            for record in scope_logs.log_records:
                yield _line(
                    common,
                    ((one.key, _plain_message(one.value, DEPTH_MAX)) for one in record.attributes),
                    body=_plain_message(record.body, DEPTH_MAX),
                    time_ns=record.time_unix_nano or record.observed_time_unix_nano,
                    severity=record.severity_number,
                    severity_text=record.severity_text,
                    trace_id=record.trace_id.hex(),
                    span_id=record.span_id.hex(),
                    event_name=record.event_name,
                )


def _common(of_resource: dict[str, Any], scope: str) -> tuple[str, dict[str, Any]]:
    """The service, and the labels that all records of a scope have."""
    labels = {name: value for name, value in of_resource.items() if name and name != SERVICE_NAME}
    if scope:
        labels[SCOPE_NAME] = scope
    service = of_resource.get(SERVICE_NAME, "")
    return service if isinstance(service, str) else json.dumps(service), labels


def _line(
    common: tuple[str, dict[str, Any]],
    attributes: Iterable[tuple[str, Any]],
    *,
    body: Any,
    time_ns: int,
    severity: int,
    severity_text: str,
    trace_id: str,
    span_id: str,
    event_name: str,
) -> LineIn:
    service, labels = common
    own = {**labels, **{key: value for key, value in attributes if key}}
    if event_name:
        own.setdefault(EVENT_NAME, event_name)
    message = body if isinstance(body, str) else "" if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    # The number is defined by the protocol; the text is what the program calls it.
    level = _SEVERITIES[severity] if 0 < severity < len(_SEVERITIES) else severity_text
    return LineIn(
        message=message,
        service=service,
        level=level,
        timestamp=time_ns or None,
        labels=own,
        trace_id=trace_id,
        span_id=span_id,
    )


def _whole(given: str | int) -> int:
    try:
        return int(given)
    except ValueError as error:
        raise ExportRefused(f"{given[:30]!r} is no number of nanoseconds" if isinstance(given, str) else "no number") from error


def _plain(value: _Value, depth: int = DEPTH_MAX) -> Any:
    """As JSON would have it. Numbers of 64 bits are texts in the JSON form of protobuf."""
    if value.string_value is not None:
        return value.string_value
    if value.bool_value is not None:
        return value.bool_value
    if value.int_value is not None:
        return _whole(value.int_value)
    if value.double_value is not None:
        return value.double_value
    if value.bytes_value is not None:
        return value.bytes_value
    if not depth:
        raise ExportRefused(f"a value is nested more than {DEPTH_MAX} deep")
    if value.array_value is not None:
        return [_plain(one, depth - 1) for one in value.array_value.values]
    if value.kvlist_value is not None:
        return {one.key: _plain(one.value, depth - 1) for one in value.kvlist_value.values}
    return None


def _plain_message(value: Any, depth: int) -> Any:
    match value.WhichOneof("value"):
        case None:
            return None
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case "array_value" | "kvlist_value" if not depth:
            raise ExportRefused(f"a value is nested more than {DEPTH_MAX} deep")
        case "array_value":
            return [_plain_message(one, depth - 1) for one in value.array_value.values]
        case "kvlist_value":
            return {one.key: _plain_message(one.value, depth - 1) for one in value.kvlist_value.values}
        case name:
            return getattr(value, name)


def answer(rejected: int, why: str) -> bytes:
    """ExportLogsServiceResponse."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

    response = ExportLogsServiceResponse()
    if rejected:
        response.partial_success.rejected_log_records = rejected
        response.partial_success.error_message = why
    encoded: bytes = response.SerializeToString()
    return encoded
