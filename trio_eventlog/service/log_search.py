"""Search of log lines on a node: the partitions of a topic are scanned, by this node or by others, and merged by time.

Nothing is indexed. A page looks through a bounded number of bytes and says where to go on: a caller asks for page after page, and
when it leaves, all that is left to stop is one step. Within a page partitions are scanned in steps, always the one whose next lines
are the newest (or the oldest) as far as is known: lines come in order, and only a few of them are held.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs
import trio

from trio_eventlog.errors import CodecError, InvalidArgument, OffsetOutOfRange, Overloaded, Unavailable
from trio_eventlog.machine.catalog import Topic
from trio_eventlog.node.replica import Replica
from trio_eventlog.search.values import Counts, FoundLine, LogQuery, Scanned, ScanRange
from trio_eventlog.service.broker import Broker
from trio_eventlog.service.forwarding import Forwarder
from trio_eventlog.service.log_requests import (
    PLACE_MAX,
    LogPage,
    PartitionLines,
    PartitionSearchRequest,
    SearchRequest,
    decode_place,
    encode_place,
)
from trio_eventlog.service.log_source import LogSource
from trio_eventlog.service.replica_reads import at_replica
from trio_eventlog.service.settings import SearchSettings
from trio_eventlog.service.topics import TopicAdministration
from trio_eventlog.service.values import Caller
from trio_eventlog.storage.frame_block import FrameRange
from trio_eventlog.storage.real_disk import run_in_thread

if TYPE_CHECKING:
    from trio_eventlog.search.query import CompiledQuery

T = TypeVar("T")

SLICE_BYTES = 1024 * 1024
"""Read and scanned in one go. A scan that nobody waits for any more ends after its slice."""


class RunScan(Protocol):
    """Runs work that takes a while where it does not hold up the node: in a thread. Waits while others run as many as may."""

    async def __call__(self, work: Callable[[], T], /) -> T: ...


class ScanThreads:
    """Scans in threads of their own (`RunScan`), so that writes and fsyncs never wait for one.

    Args:
        threads_max: at a time.
    """

    def __init__(self, threads_max: int) -> None:
        self._limiter = trio.CapacityLimiter(threads_max)

    async def __call__(self, work: Callable[[], T], /) -> T:
        return await run_in_thread(work, self._limiter)


async def run_inline(work: Callable[[], T], /) -> T:
    """A `RunScan` for virtual time, which goes on while threads run."""
    await trio.lowlevel.checkpoint()
    return work()


class LogSearch:
    """Searches topics of log lines, on any node."""

    def __init__(
        self, broker: Broker, topics: TopicAdministration, forwarder: Forwarder, settings: SearchSettings, run_scan: RunScan
    ) -> None:
        self._broker = broker
        self._topics = topics
        self._forwarder = forwarder
        self._settings = settings
        self._run_scan = run_scan
        self._running = 0

    async def search(self, request: SearchRequest, caller: Caller) -> LogPage:
        """One page, of what the nodes have that are asked: a line that was acknowledged just now may be missing.

        Raises:
            InvalidArgument: the query cannot be, or `after` is no place in this topic and direction.
            TopicNotFound: there is no such topic.
            Overloaded: as many searches run on this node as may (`searches_max`).
            Unavailable, NoQuorum: a partition cannot be read just now.
        """
        compiled = _compiled(request.query)
        topic = self._topics.known(request.topic, 0, 0) or await self._topics.find(request.topic, caller=caller)
        places = decode_place(request.after, [partition.group_id for partition in topic.partitions], request.is_backwards)
        if self._running >= self._settings.searches_max:
            raise Overloaded(f"this node runs {self._running} searches and may run no more: ask again, or another node", 1.0)
        self._running += 1
        try:
            return await _Merge(self, topic, request, compiled, places, caller, self._settings).page()
        finally:
            self._running -= 1

    async def search_partition(self, request: PartitionSearchRequest, caller: Caller) -> PartitionLines:
        """A step through one partition, for another node. Raises as `search`."""
        topic = await self._topics.find(request.topic, request.partition, request.group_id, caller=caller)
        return await self.step(topic, request, _compiled(request.query), self._settings.page_lines_bytes_max, caller)

    async def step(
        self, topic: Topic, request: PartitionSearchRequest, compiled: "CompiledQuery", lines_bytes_max: int, caller: Caller
    ) -> PartitionLines:
        """Look through some of one partition, here or elsewhere."""
        return await at_replica(
            self._broker,
            self._forwarder,
            topic.partitions[request.partition].group_id,
            partial(self._step_here, request=request, compiled=compiled, lines_bytes_max=lines_bytes_max),
            lambda node: node.search_partition(request, caller),
            caller,
        )

    async def _step_here(
        self, replica: Replica, *, request: PartitionSearchRequest, compiled: "CompiledQuery", lines_bytes_max: int
    ) -> PartitionLines:
        end = replica.watermark.value
        if request.place != PLACE_MAX and request.place > end:
            raise Unavailable(f"{replica.name} ends at offset {end} on this node, and {request.place} was asked for: ask again")
        step = _Step(replica, request, min(request.place, end), lines_bytes_max, self._settings)
        if compiled.query.since_ns:
            # Whatever comes before the first batch that reaches this time is older.
            step.low = await self._broker.offset_at_timestamp(replica, compiled.query.since_ns)
        from trio_eventlog.search.scan import scan_frames  # As in `_compiled`.

        while not step.is_done():
            found = await self._broker.reading(replica, step.read_slice)
            if found is None:
                continue  # The beginning of the log was given up meanwhile.
            try:
                scanned = await self._run_scan(partial(scan_frames, found.buffers, compiled, step.where()))
            except CodecError:
                # Raw frames are read unchecked. This read checks them, and its error names the place of the damage.
                again = partial(replica.log.read, found.first_index, found.last_index, found.size_bytes)
                await self._broker.reading(replica, again)
                raise
            step.add(scanned)
        return step.result()


def _compiled(query: LogQuery) -> "CompiledQuery":
    # Loaded with the first search: the start of a node waits for none of it.
    from trio_eventlog.search.query import CompiledQuery

    return CompiledQuery(query)


class _Step:
    """A step through a partition: what is left to look at, and what was found."""

    def __init__(
        self,
        replica: Replica,
        request: PartitionSearchRequest,
        place: int,
        lines_bytes_max: int,
        settings: SearchSettings,
    ) -> None:
        self._replica = replica
        self._request = request
        self._first_place = place
        self._end = replica.watermark.value
        self._place = place
        self._lines_bytes_max = lines_bytes_max
        self._bytes_max = settings.step_bytes
        self._unpacked_bytes_max = settings.unpacked_bytes_max
        self._lines: list[FoundLine] = []
        self._counts = Counts()
        self._scanned_bytes = 0
        self._unreadable = 0
        self._time_ns = 0
        self.low = 0

    @property
    def _is_end(self) -> bool:
        return self._place <= self._start if self._request.is_backwards else self._place >= self._end

    @property
    def _start(self) -> int:
        return max(self.low, self._replica.log.log_start_offset)

    def is_done(self) -> bool:
        """Enough was looked at, or enough was found, or there is no more."""
        if not self._request.is_backwards:
            self._place = max(self._place, min(self._start, self._end))
        return self._is_end or self._scanned_bytes >= self._bytes_max or bool(self._lines)

    async def read_slice(self) -> FrameRange | None:
        """The next frames; None: they are gone, see what there is now."""
        log = self._replica.log
        try:
            if self._request.is_backwards:
                return await log.read_raw_before(await log.find_offset(self._place - 1), SLICE_BYTES)
            first = await log.find_offset(self._place)
            return await log.read_raw(first, await log.find_offset(self._end - 1), SLICE_BYTES)
        except (OffsetOutOfRange, IndexError):
            if self._start <= self._place - self._request.is_backwards:
                raise
            return None

    def where(self) -> ScanRange:
        request = self._request
        return ScanRange(
            partition=request.partition,
            first_offset=self._start if request.is_backwards else self._place,
            end_offset=self._place if request.is_backwards else self._end,
            is_backwards=request.is_backwards,
            lines_max=request.limit,
            lines_bytes_max=self._lines_bytes_max,
            scanned_bytes_max=self._bytes_max - self._scanned_bytes,
            unpacked_bytes_max=self._unpacked_bytes_max,
            counting=request.counting,
        )

    def add(self, scanned: Scanned) -> None:
        self._lines += scanned.lines
        self._counts.add_all(scanned.counts)
        self._scanned_bytes += scanned.scanned_bytes
        self._unreadable += scanned.unreadable
        self._place = scanned.next_offset
        self._time_ns = scanned.time_ns

    def result(self) -> PartitionLines:
        return PartitionLines(
            lines=self._lines,
            first_place=self._first_place,
            next_place=self._place,
            is_end=self._is_end,
            time_ns=self._time_ns,
            scanned_bytes=self._scanned_bytes,
            unreadable_batches=self._unreadable,
            counts=self._counts,
        )


@attrs.define(slots=True, eq=False)
class _Cursor:
    """A partition in a merge.

    Attributes:
        place: behind the last line that the page has.
        scanned_to: behind the last line that was found; lines in between wait for their turn.
        time_ns: about the time of what comes behind that; None: nothing was looked at yet.
    """

    partition: int
    group_id: int
    place: int
    scanned_to: int
    first_place: int = 0
    lines: deque[FoundLine] = attrs.field(factory=deque)
    time_ns: int | None = None
    is_end: bool = False


class _Merge:
    """A page in the making."""

    def __init__(
        self,
        search: LogSearch,
        topic: Topic,
        request: SearchRequest,
        compiled: "CompiledQuery",
        places: list[int],
        caller: Caller,
        settings: SearchSettings,
    ) -> None:
        self._search = search
        self._topic = topic
        self._request = request
        self._compiled = compiled
        self._caller = caller
        self._settings = settings
        self._limit = min(request.limit, settings.page_lines_max)
        self._cursors = [
            _Cursor(partition=number, group_id=partition.group_id, place=place, scanned_to=place)
            for number, (partition, place) in enumerate(zip(topic.partitions, places, strict=True))
        ]
        self._lines: list[FoundLine] = []
        self._lines_bytes = 0
        self._counts = Counts()
        self._scanned_bytes = 0
        self._unreadable = 0
        self._has_advanced = False

    async def page(self) -> LogPage:
        if self._limit < 1:
            raise InvalidArgument("a page has at least one line")
        while len(self._lines) < self._limit:
            cursor = self._next_cursor()
            if cursor is None:
                break
            if cursor.lines:
                if not self._give(cursor):
                    break
            else:
                is_spent = self._scanned_bytes >= self._settings.page_bytes and self._has_advanced
                if is_spent and cursor.time_ns is not None:
                    break
                await self._scan(cursor)
        return self._result()

    def _next_cursor(self) -> _Cursor | None:
        """The partition whose next line may be the first of all; None: there are no more."""
        left = [cursor for cursor in self._cursors if cursor.lines or not cursor.is_end]
        return max(left, key=self._rank) if left else None

    def _rank(self, cursor: _Cursor) -> tuple[bool, int, bool]:
        # Each is looked at first; of equal times a line that is there comes before a scan.
        if cursor.time_ns is None:
            return True, 0, False
        time_ns = cursor.lines[0].timestamp_ns if cursor.lines else cursor.time_ns
        return False, time_ns if self._request.is_backwards else -time_ns, bool(cursor.lines)

    def _give(self, cursor: _Cursor) -> bool:
        """Put the partition's next line on the page. False: there is no room."""
        line = cursor.lines[0]
        if self._lines and self._lines_bytes + line.size_bytes > self._settings.page_lines_bytes_max:
            return False
        cursor.lines.popleft()
        self._lines.append(line)
        self._lines_bytes += line.size_bytes
        self._has_advanced = True
        if cursor.lines:
            cursor.place = line.offset if self._request.is_backwards else line.offset + 1
        else:
            cursor.place = cursor.scanned_to
        return True

    async def _scan(self, cursor: _Cursor) -> None:
        request = PartitionSearchRequest(
            query=self._request.query,
            topic=self._topic.name,
            partition=cursor.partition,
            group_id=cursor.group_id,
            place=cursor.scanned_to,
            limit=self._limit - len(self._lines),
            is_backwards=self._request.is_backwards,
            counting=self._request.counting,
        )
        lines_bytes_max = max(self._settings.page_lines_bytes_max // len(self._cursors), 1)
        found = await self._search.step(self._topic, request, self._compiled, lines_bytes_max, self._caller)
        if cursor.time_ns is None:
            cursor.first_place = found.first_place
        cursor.lines.extend(found.lines)
        cursor.scanned_to = found.next_place
        cursor.time_ns = found.time_ns
        cursor.is_end = found.is_end
        if not found.lines:
            cursor.place = found.next_place
            self._has_advanced = True
        elif cursor.place == PLACE_MAX:
            cursor.place = found.first_place
        self._counts.add_all(found.counts)
        self._scanned_bytes += found.scanned_bytes
        self._unreadable += found.unreadable_batches

    def _result(self) -> LogPage:
        is_first = self._request.is_backwards and not self._request.after
        return LogPage(
            lines=self._lines,
            next=encode_place({cursor.group_id: cursor.place for cursor in self._cursors}, self._request.is_backwards),
            is_end=all(cursor.is_end and not cursor.lines for cursor in self._cursors),
            scanned_bytes=self._scanned_bytes,
            unreadable_batches=self._unreadable,
            tail=encode_place({cursor.group_id: cursor.first_place for cursor in self._cursors}, False) if is_first else "",
            counts=self._counts,
        )


def log_source(search: LogSearch, ready: trio.Event) -> LogSource:
    """That of an embedded node; calls wait until it belongs to a cluster."""

    async def page(request: SearchRequest, caller: Caller) -> LogPage:
        await ready.wait()
        return await search.search(request, caller)

    return LogSource(page)
