"""Loki's push: streams of lines, each with its labels, as JSON and as protobuf packed by snappy.

Source: Loki's HTTP API (`POST /loki/api/v1/push`) and its push.proto. The package `cramjam` unpacks; it is loaded by the first push
that needs it.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from trio_eventlog.ingest.intake import LineIn

SERVICE_LABELS = ("service_name", "service", "app", "job", "container", "component")
"""Which label names the service: the first of these that a stream has."""
LEVEL_LABELS = ("level", "detected_level", "severity")

_TRACE_ID, _SPAN_ID = "trace_id", "span_id"


class PushRefused(ValueError):
    """It is no push, or one that cannot be read."""


class PushTooLarge(PushRefused):
    """It would unpack to more than may be held."""


class Stream(Struct):
    """Lines that share their labels."""

    stream: dict[str, str]
    values: list[list[Any]]


class Push(Struct):
    """The body of a push."""

    streams: list[Stream] = []


_push = msgspec.json.Decoder(Push)


def lines_of_json(data: bytes) -> Iterator[LineIn]:
    """Raises msgspec.DecodeError, PushRefused."""
    for stream in _push.decode(data).streams:
        for value in stream.values:
            if not 2 <= len(value) <= 3 or not isinstance(value[1], str) or not isinstance(value[0], str | int):
                raise PushRefused("an entry of `values` is a list of a time, a line and perhaps an object of metadata")
            metadata = value[2] if len(value) == 3 else {}
            if not isinstance(metadata, dict):
                raise PushRefused("the third part of an entry is an object of metadata")
            yield _line(stream.stream, value[0], value[1], metadata)


_LABEL = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


def lines_of_protobuf(data: bytes, bytes_max: int) -> Iterator[LineIn]:
    """Raises PushRefused; PushTooLarge; ModuleNotFoundError: the package that unpacks it is not installed."""
    import cramjam
    from google.protobuf.message import DecodeError

    from trio_eventlog.v1.loki_push_pb2 import LokiPushRequest

    try:
        if cramjam.snappy.decompress_raw_len(data) > bytes_max:
            raise PushTooLarge(f"more than {bytes_max} bytes, unpacked: send less at once")
        push = LokiPushRequest.FromString(bytes(cramjam.snappy.decompress_raw(data)))
    except (cramjam.DecompressionError, DecodeError) as error:
        raise PushRefused(f"it is no push packed by snappy: {error}") from error
    for stream in push.streams:
        labels = _labels(stream.labels)
        for entry in stream.entries:
            time_ns = entry.timestamp.seconds * 1_000_000_000 + entry.timestamp.nanos
            yield _line(labels, time_ns, entry.line, {one.name: one.value for one in entry.structured_metadata})


def _labels(selector: str) -> dict[str, str]:
    """`{app="auth", env="prod"}`. Raises PushRefused."""
    found: dict[str, str] = {}
    inner = selector.strip()
    if not (inner.startswith("{") and inner.endswith("}") and len(inner) > 1):
        raise PushRefused(f"labels {selector[:100]!r}: they stand in braces")
    place, end = 1, len(inner) - 1
    while inner[place:end].strip():
        label = _LABEL.match(inner, place, end)
        if label is None or (label.end() < end and inner[label.end()] != ","):
            raise PushRefused(f'labels {selector[:100]!r}: at character {place} stands no name="value"')
        found[label[1]] = _ESCAPE.sub(lambda one: _ESCAPED.get(one[1], one[1]), label[2])
        place = label.end() + 1
        if label.end() < end and not inner[place:end].strip():
            raise PushRefused(f"labels {selector[:100]!r}: they end with a comma")
    return found


def _line(stream: dict[str, str], time: str | int, text: str, metadata: dict[str, Any]) -> LineIn:
    labels: dict[str, Any] = {**stream, **metadata}
    service = next((str(labels[name]) for name in SERVICE_LABELS if labels.get(name)), "")
    level = next((str(labels[name]) for name in LEVEL_LABELS if labels.get(name)), "")
    try:
        time_ns = int(time)
    except ValueError as error:
        raise PushRefused(f"{str(time)[:30]!r} is no number of nanoseconds") from error
    return LineIn(
        message=text,
        service=service,
        level=level,
        timestamp=time_ns or None,
        trace_id=str(labels.pop(_TRACE_ID, "")),
        span_id=str(labels.pop(_SPAN_ID, "")),
        labels=labels,
    )
