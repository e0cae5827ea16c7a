"""Loki's push: streams of lines, each with its labels, as JSON and as protobuf packed by snappy.

Source: Loki's HTTP API (`POST /loki/api/v1/push`) and its push.proto.
"""

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
