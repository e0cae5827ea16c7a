"""Log lines, and numbers of them, as JSON."""

from typing import Annotated, Any

from msgspec import Meta, Struct


class LogLineOut(Struct):
    """A log line, as it is stored, with its place. It may have further fields: those with which it was taken in."""

    partition: int
    offset: int
    service: str
    level: str
    message: str
    timestamp: Any
    labels: dict[str, str] = {}
    trace_id: str = ""
    span_id: str = ""


class LogsOut(Struct):
    """Log lines that were found."""

    logs: list[LogLineOut]
    count: int
    next: Annotated[str, Meta(description="Where to go on: `from` of the next request.")]
    end: Annotated[bool, Meta(description="There are no more.")]
    scanned_bytes: Annotated[int, Meta(description="Bytes that were looked through, unpacked.")]
    unreadable_batches: Annotated[int, Meta(description="Batches that could not be read and may hold lines.")]
    tail: Annotated[str, Meta(description="Of a first answer, newest first: `from` of a live tail that misses nothing.")]


class CountedOut(Struct):
    """A name, and the number of lines that have it. The name is empty for those beyond the number that an answer names."""

    name: str
    lines: int


class ServicesOut(Struct):
    """Services, the one with the most lines first."""

    services: list[CountedOut]
    since: str
    scanned_bytes: int
    complete: Annotated[bool, Meta(description="false: there was more than one answer looks through or names.")]


class LevelsOut(Struct):
    """Levels, the one with the most lines first."""

    levels: list[CountedOut]
    since: str
    scanned_bytes: int
    complete: bool


class LabelsOut(Struct):
    """Values by label."""

    labels: dict[str, list[str]]
    since: str
    scanned_bytes: int
    complete: bool


class BucketOut(Struct):
    """Lines of one bucket of time."""

    time: Annotated[str, Meta(description="Its begin.")]
    lines: int
    levels: dict[str, int]


class HistogramOut(Struct):
    """Numbers of lines over time."""

    step: Annotated[float, Meta(description="Width of a bucket in seconds.")]
    buckets: list[BucketOut]
    since: str
    scanned_bytes: int
    complete: bool
