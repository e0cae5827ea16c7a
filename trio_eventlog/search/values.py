"""What a search of log lines asks for, and what it gives: plain values, which load nothing."""

from collections.abc import Sequence

import attrs

LINE_OVERHEAD_BYTES = 32
"""Of a line in an answer, beside its value: tags, lengths and numbers."""
COUNTS_MAX = 4_096
"""Numbers kept apart in one answer. Further services are counted together, as ""."""
LABELS_MAX = 4_096
"""Pairs of label and value in one answer."""
LABEL_BYTES_MAX = 256 * 1024
"""Characters of all of them; and as many again of services."""
LEVEL_CHARACTERS_MAX = 32
"""A longer level is counted as ""."""


@attrs.frozen(slots=True, kw_only=True)
class LogQuery:
    """Which log lines are wanted: those that fit all of it. Empty texts, and times of 0, ask for nothing.

    Attributes:
        service, level, trace_id: exactly these.
        since_ns: stamped then or later, in nanoseconds since 1970.
        until_ns: stamped before.
        contains: part of the message; upper and lower case are different.
        regex: fits somewhere in the message; in the syntax of RE2.
        labels: names and values, exactly these.
    """

    service: str = ""
    level: str = ""
    since_ns: int = 0
    until_ns: int = 0
    contains: str = ""
    regex: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    trace_id: str = ""


EVERY_LINE = LogQuery()


@attrs.frozen(slots=True, kw_only=True)
class FoundLine:
    """A log line that fits a query.

    Attributes:
        value: the line, canonical JSON.
        timestamp_ns: nanoseconds since 1970.
        partition, offset: where it is in the topic.
    """

    value: bytes
    timestamp_ns: int
    partition: int
    offset: int

    @property
    def size_bytes(self) -> int:
        """What it takes in an answer, at most."""
        return len(self.value) + LINE_OVERHEAD_BYTES


def line_json(line: FoundLine) -> bytes:
    """The line as it is stored, with its place before its fields."""
    return b'{"partition":%d,"offset":%d,%b' % (line.partition, line.offset, line.value[1:])


@attrs.frozen(slots=True, kw_only=True)
class LogCounting:
    """How lines are counted.

    Attributes:
        step_ns: width of a bucket of time; 0: time makes no difference.
        with_labels: the labels are collected, too.
    """

    step_ns: int = 0
    with_labels: bool = False

    def bucket(self, timestamp_ns: int) -> int:
        """Begin of the bucket."""
        return timestamp_ns - timestamp_ns % self.step_ns if self.step_ns else 0


ALL_TIME = LogCounting()


class Counts:
    """Numbers of lines, bounded.

    Attributes:
        lines: by bucket, service and level. The service "" has those for which there was no room.
        labels: values by name.
        is_truncated: there was no room for all services or all labels.
    """

    def __init__(self) -> None:
        self.lines: dict[tuple[int, str, str], int] = {}
        self.labels: dict[str, set[str]] = {}
        self.is_truncated = False
        self._pairs = 0
        self._label_bytes = 0
        self._service_bytes = 0

    def add(self, bucket_ns: int, service: str, level: str, lines: int) -> None:
        """Count these, too."""
        level = level if len(level) <= LEVEL_CHARACTERS_MAX else ""
        key = (bucket_ns, service, level)
        if key not in self.lines:
            self._service_bytes += len(service)
            if len(self.lines) >= COUNTS_MAX or self._service_bytes > LABEL_BYTES_MAX:
                self._service_bytes -= len(service)
                self.is_truncated = True
                key = (bucket_ns, "", level)
                if key not in self.lines and len(self.lines) >= 2 * COUNTS_MAX:
                    key = (0, "", "")
        self.lines[key] = self.lines.get(key, 0) + lines

    def add_label(self, name: str, value: str) -> None:
        """Collect this one, too, if there is room."""
        values = self.labels.get(name, set())
        if value in values:
            return
        size_bytes = len(name) + len(value)
        if self._pairs >= LABELS_MAX or self._label_bytes + size_bytes > LABEL_BYTES_MAX:
            self.is_truncated = True
            return
        self._pairs += 1
        self._label_bytes += size_bytes
        self.labels.setdefault(name, values).add(value)

    def add_all(self, other: "Counts") -> None:
        """Everything that another one has."""
        for (bucket_ns, service, level), lines in other.lines.items():
            self.add(bucket_ns, service, level, lines)
        for name, values in other.labels.items():
            for value in sorted(values):
                self.add_label(name, value)
        self.is_truncated |= other.is_truncated


@attrs.frozen(slots=True, kw_only=True)
class ScanRange:
    """Where lines are looked for in a partition.

    Attributes:
        first_offset, end_offset: half-open.
        is_backwards: the newest first.
        lines_max, lines_bytes_max: the scan stops when it has this many lines, or lines of this size.
        scanned_bytes_max: the scan stops when it has looked through about this much: little may unpack to a lot.
        unpacked_bytes_max: of one batch. A larger one is taken for damaged.
        counting: the lines are counted and not given; None: they are given.
    """

    partition: int
    first_offset: int
    end_offset: int
    is_backwards: bool
    lines_max: int
    lines_bytes_max: int
    scanned_bytes_max: int
    unpacked_bytes_max: int
    counting: LogCounting | None = None


@attrs.frozen(slots=True, kw_only=True)
class Scanned:
    """What a scan has found.

    Attributes:
        lines: the newest first when the scan went backwards.
        next_offset: where to go on: everything before it was looked at; of a scan backwards, everything from it on.
        time_ns: about the time of what would be looked at next; 0: not known.
        scanned_bytes: bytes that were searched: unpacked, or as they are stored where the time of a batch was enough.
        unreadable: number of batches that could not be read: damaged by their producer, or of a later release.
        counts: when the lines are counted.
    """

    lines: Sequence[FoundLine]
    next_offset: int
    time_ns: int
    scanned_bytes: int
    unreadable: int
    counts: Counts
