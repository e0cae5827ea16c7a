"""Log lines found in the frames of a partition: most batches are thrown away by a search for bytes, the rest is decoded."""

from collections.abc import Iterable, Sequence

import attrs

from trio_eventlog.codec.batch import NANOSECONDS, parse_unpacked, unpack
from trio_eventlog.codec.entry import EntryFrame, decode_entries
from trio_eventlog.codec.stored_batch import entry_batch
from trio_eventlog.errors import CodecError, UnknownBatchFormat
from trio_eventlog.records import Batch
from trio_eventlog.search.query import CompiledQuery

LINE_OVERHEAD_BYTES = 32
"""Of a line in an answer, beside its value: tags, lengths and numbers."""


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


@attrs.frozen(slots=True, kw_only=True)
class ScanRange:
    """Where lines are looked for in a partition.

    Attributes:
        first_offset, end_offset: half-open.
        is_backwards: the newest first.
        lines_max, lines_bytes_max: the scan stops when it has this many lines, or lines of this size.
        unpacked_bytes_max: of one batch. A larger one is taken for damaged.
    """

    partition: int
    first_offset: int
    end_offset: int
    is_backwards: bool
    lines_max: int
    lines_bytes_max: int
    unpacked_bytes_max: int


@attrs.frozen(slots=True, kw_only=True)
class Scanned:
    """What a scan has found.

    Attributes:
        lines: the newest first when the scan went backwards.
        next_offset: where to go on: everything before it was looked at; of a scan backwards, everything from it on.
        time_ns: about the time of what would be looked at next; 0: not known.
        scanned_bytes: bytes that were searched: unpacked, or as they are stored where the time of a batch was enough.
        unreadable: number of batches that could not be read: damaged by their producer, or of a later release.
    """

    lines: Sequence[FoundLine]
    next_offset: int
    time_ns: int
    scanned_bytes: int
    unreadable: int


def scan_frames(buffers: Iterable[bytes | memoryview], compiled: CompiledQuery, where: ScanRange) -> Scanned:
    """Look through the frames of a range in one direction. Of no frame before the first one in this direction is anything wanted.

    Raises CodecError: a frame is damaged.
    """
    found: list[FoundLine] = []
    found_bytes = scanned_bytes = unreadable = time_ns = 0
    next_offset = where.end_offset if where.is_backwards else where.first_offset
    frames = [frame for buffer in buffers for frame in decode_entries(buffer)]
    for frame in reversed(frames) if where.is_backwards else frames:
        if not frame.record_count or frame.end_offset <= where.first_offset or frame.base_offset >= where.end_offset:
            continue
        time_ns = frame.first_timestamp_ns if where.is_backwards else frame.last_timestamp_ns
        lines, batch_bytes, is_readable = _scan_frame(frame, compiled, where)
        scanned_bytes += batch_bytes
        unreadable += not is_readable
        for line in lines:
            if found and found_bytes + line.size_bytes > where.lines_bytes_max:
                return _stopped(found, where, scanned_bytes, unreadable)
            found.append(line)
            found_bytes += line.size_bytes
            if len(found) >= where.lines_max:
                return _stopped(found, where, scanned_bytes, unreadable)
        next_offset = max(frame.base_offset, where.first_offset) if where.is_backwards else min(frame.end_offset, where.end_offset)
    return Scanned(lines=found, next_offset=next_offset, time_ns=time_ns, scanned_bytes=scanned_bytes, unreadable=unreadable)


def _stopped(found: list[FoundLine], where: ScanRange, scanned_bytes: int, unreadable: int) -> Scanned:
    """There is no room for more lines: the scan goes on behind the last one."""
    last = found[-1]
    return Scanned(
        lines=found,
        next_offset=last.offset if where.is_backwards else last.offset + 1,
        time_ns=last.timestamp_ns,
        scanned_bytes=scanned_bytes,
        unreadable=unreadable,
    )


def _scan_frame(frame: EntryFrame, compiled: CompiledQuery, where: ScanRange) -> tuple[list[FoundLine], int, bool]:
    """The lines that fit, in the direction of the scan; the bytes searched; False when the batch could not be read."""
    query = compiled.query
    if frame.last_timestamp_ns < query.since_ns or (query.until_ns and frame.first_timestamp_ns >= query.until_ns):
        return [], frame.size_bytes, True
    try:
        batch = entry_batch(frame)
        data = unpack(batch.payload, batch.compression, where.unpacked_bytes_max)
        if not compiled.may_fit(data):
            return [], len(data), True
        lines = _fitting(batch, data, compiled, where)
    except (CodecError, UnknownBatchFormat):
        # The frame is as it was appended: its producer has sent what cannot be unpacked, or a newer release has stored it. Whatever
        # is in it, it cannot be shown here; consumers of it get the error.
        return [], frame.size_bytes, False
    return lines[::-1] if where.is_backwards else lines, len(data), True


def _fitting(batch: Batch, data: bytes, compiled: CompiledQuery, where: ScanRange) -> list[FoundLine]:
    message = parse_unpacked(batch, data, batch.record_count)
    lines = []
    for offset, record in enumerate(message.records, batch.base_offset):
        value = record.value
        if not compiled.may_fit(value) or not where.first_offset <= offset < where.end_offset:
            continue
        timestamp_ns = record.timestamp.seconds * NANOSECONDS + record.timestamp.nanos
        if compiled.fits(value, timestamp_ns):
            lines.append(FoundLine(value=value, timestamp_ns=timestamp_ns, partition=where.partition, offset=offset))
    return lines
