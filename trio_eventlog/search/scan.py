"""Log lines found in the frames of a partition: most batches are thrown away by a search for bytes, the rest is decoded."""

from collections import Counter
from collections.abc import Iterable

from trio_eventlog.codec.batch import NANOSECONDS, parse_unpacked, unpack
from trio_eventlog.codec.entry import EntryFrame, decode_entries
from trio_eventlog.codec.log_lines import decode_line
from trio_eventlog.codec.stored_batch import entry_batch
from trio_eventlog.errors import CodecError, UnknownBatchFormat
from trio_eventlog.records import Batch
from trio_eventlog.search.counting import decoded, fronts, label_maps
from trio_eventlog.search.query import CompiledQuery
from trio_eventlog.search.values import Counts, FoundLine, LogCounting, Scanned, ScanRange


def scan_frames(buffers: Iterable[bytes | memoryview], compiled: CompiledQuery, where: ScanRange) -> Scanned:
    """Look through the frames of a range, in the direction that is wanted, until it is enough.

    Raises CodecError: a frame is damaged.
    """
    scan = _Scan(compiled, where)
    frames = [frame for buffer in buffers for frame in decode_entries(buffer)]
    for frame in reversed(frames) if where.is_backwards else frames:
        if frame.record_count and frame.end_offset > where.first_offset and frame.base_offset < where.end_offset:
            scan.look_at(frame)
        if scan.is_full:
            break
    return scan.result()


class _Scan:
    """One scan, and what it has found so far."""

    def __init__(self, compiled: CompiledQuery, where: ScanRange) -> None:
        self._compiled = compiled
        self._where = where
        self._found: list[FoundLine] = []
        self._found_bytes = 0
        self._counts = Counts()
        self._scanned_bytes = 0
        self._unreadable = 0
        self._next_offset = where.end_offset if where.is_backwards else where.first_offset
        self._time_ns = 0
        self.is_full = False

    def result(self) -> Scanned:
        return Scanned(
            lines=self._found,
            next_offset=self._next_offset,
            time_ns=self._time_ns,
            scanned_bytes=self._scanned_bytes,
            unreadable=self._unreadable,
            counts=self._counts,
        )

    def look_at(self, frame: EntryFrame) -> None:
        where = self._where
        for line in self._lines(frame):
            if self._found and self._found_bytes + line.size_bytes > where.lines_bytes_max:
                self.is_full = True
                return
            self._found.append(line)
            self._found_bytes += line.size_bytes
            # The scan goes on behind this line when there is no room for the next one.
            self._next_offset = line.offset if where.is_backwards else line.offset + 1
            self._time_ns = line.timestamp_ns
            if len(self._found) >= where.lines_max:
                self.is_full = True
                return
        self.is_full = self._scanned_bytes >= where.scanned_bytes_max
        if where.is_backwards:
            self._next_offset = max(frame.base_offset, where.first_offset)
            self._time_ns = frame.first_timestamp_ns
        else:
            self._next_offset = min(frame.end_offset, where.end_offset)
            self._time_ns = frame.last_timestamp_ns

    def _lines(self, frame: EntryFrame) -> list[FoundLine]:
        """The lines that fit, in the direction of the scan. When they are counted: none, and they are."""
        query = self._compiled.query
        if frame.last_timestamp_ns < query.since_ns or (query.until_ns and frame.first_timestamp_ns >= query.until_ns):
            self._scanned_bytes += frame.size_bytes
            return []
        try:
            batch = entry_batch(frame)
            data = unpack(batch.payload, batch.compression, self._where.unpacked_bytes_max)
            self._scanned_bytes += len(data)
            if not self._compiled.may_fit(data):
                return []
            counting = self._where.counting
            if counting is not None:
                self._count(batch, data, counting)
                return []
            lines = self._fitting(batch, data)
        except (CodecError, UnknownBatchFormat):
            # The frame is as it was appended: its producer has sent what cannot be unpacked, or a newer release has stored it.
            # Whatever is in it, it cannot be shown here; consumers of it get the error.
            self._scanned_bytes += frame.size_bytes
            self._unreadable += 1
            return []
        return lines[::-1] if self._where.is_backwards else lines

    def _fitting(self, batch: Batch, data: bytes) -> list[FoundLine]:
        compiled, where = self._compiled, self._where
        message = parse_unpacked(batch, data, batch.record_count)
        # Nearly all lines of a batch are left out by this one: what comes behind it may take longer.
        rarest = compiled.literals[0] if compiled.literals else b""
        lines = []
        for offset, record in enumerate(message.records, batch.base_offset):
            value = record.value
            if rarest not in value or not where.first_offset <= offset < where.end_offset:
                continue
            timestamp_ns = record.timestamp.seconds * NANOSECONDS + record.timestamp.nanos
            if compiled.fits(value, timestamp_ns):
                lines.append(FoundLine(value=value, timestamp_ns=timestamp_ns, partition=where.partition, offset=offset))
        return lines

    def _count(self, batch: Batch, data: bytes, counting: LogCounting) -> None:
        counts = self._counts
        if self._counts_by_fronts(batch, counting):
            found = Counter(fronts(data))
            # Otherwise there are other records among the lines.
            if found.total() == batch.record_count:
                bucket_ns = counting.bucket(batch.first_timestamp_ns)
                query = self._compiled.query
                for (encoded_service, encoded_level), lines in found.items():
                    service, level = decoded(encoded_service), decoded(encoded_level)
                    if query.service in ("", service) and query.level in ("", level):
                        counts.add(bucket_ns, service, level, lines)
                if counting.with_labels:
                    for labels in label_maps(data):
                        for name, value in labels.items():
                            counts.add_label(name, value)
                return
        for line in self._fitting(batch, data):
            looked_at = decode_line(line.value)
            counts.add(counting.bucket(line.timestamp_ns), looked_at.service, looked_at.level, 1)
            if counting.with_labels:
                for name, value in looked_at.labels.items():
                    counts.add_label(name, value)

    def _counts_by_fronts(self, batch: Batch, counting: LogCounting) -> bool:
        """Whether the lines of the batch count by their services and levels alone, in one bucket: then none is decoded."""
        where, query = self._where, self._compiled.query
        return (
            not (query.contains or query.regex or query.labels or query.trace_id)
            and not (counting.with_labels and (query.service or query.level))
            and where.first_offset <= batch.base_offset
            and batch.base_offset + batch.record_count <= where.end_offset
            and query.since_ns <= batch.first_timestamp_ns
            and (not query.until_ns or batch.last_timestamp_ns < query.until_ns)
            and counting.bucket(batch.first_timestamp_ns) == counting.bucket(batch.last_timestamp_ns)
        )
