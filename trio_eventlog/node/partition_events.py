"""The events of one partition on this node: what appends are judged by, and the index of aggregates.

`PartitionEvents.run` is the task that owns the index: it writes what is applied, and answers questions, one after the other. So an
answer is as of a definite entry, and the window of applied events is cut only behind what the index holds.
"""

import logging
from bisect import insort
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Generic, TypeVar

import attrs
import trio

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.events import event_heads
from trio_eventlog.codec.stored_batch import entry_batch
from trio_eventlog.errors import CodecError, EventLogError, Overloaded, ResourceShortage
from trio_eventlog.events import EventHead
from trio_eventlog.machine.events import AppendIntent, EventJudge, EventWindow, LoadedAggregate
from trio_eventlog.node.proposals import Proposal
from trio_eventlog.raft import EntryKind
from trio_eventlog.storage.event_index import (
    EventIndex,
    EventIndexes,
    IndexAnswer,
    IndexBusy,
    IndexDamaged,
    IndexPosition,
    IndexQuestion,
    OpenIndex,
)
from trio_eventlog.storage.segmented_log import SegmentedLog

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECKED_ENTRIES = 256
"""At the end of what an index says to hold: looked for in it when it is opened."""


@attrs.frozen(slots=True, kw_only=True)
class EventSettings:
    """Bounds of the events of a partition.

    Attributes:
        event_window_max: applied events that are kept in memory until the index of aggregates holds them. Beyond it appends are
            refused with OVERLOADED until the index has caught up.
        event_index_batch: events written to the index in one transaction. Questions wait for it.
        event_index_retry_seconds: the pause between two looks at what the index waits for: this node's own disk, or room on it.
        unpacked_bytes_max: of a batch; what unpacks to more has no events.
        event_read_bytes_max: bytes of entries read back at once while the index is made from the log.
    """

    event_window_max: int
    event_index_batch: int
    event_index_retry_seconds: float
    unpacked_bytes_max: int
    event_read_bytes_max: int


@attrs.frozen(slots=True, kw_only=True)
class IndexStatus:
    """How far the index of aggregates is.

    Attributes:
        index: of the last entry that it holds.
        entries_behind: of the entries that are applied here, the number that it does not hold yet.
        event_count: number of events in it.
        rebuilt_because: it is being made from the log again, for this reason; "" when it is not.
    """

    index: int
    entries_behind: int
    event_count: int
    rebuilt_because: str


@attrs.define(slots=True, eq=False)
class _Call(Generic[T]):
    work: Callable[[EventIndex], T]
    done: trio.Event = attrs.field(factory=trio.Event)
    result: T | None = None
    error: EventLogError | None = None


class PartitionEvents:
    """Owns the window, the judge and the index of a partition. Everything but `run` may be called by any task, or in the driver's.

    Args:
        name: of the partition, for log lines.
        indexes: where indexes are kept.
        path: of this one.

    Attributes:
        judge: of the leader's turn.
    """

    def __init__(self, name: str, indexes: EventIndexes, path: str, settings: EventSettings) -> None:
        self._name = name
        self._indexes = indexes
        self._path = path
        self._settings = settings
        self._window = EventWindow(0, settings.event_window_max)
        self.judge: EventJudge[Proposal] = EventJudge(self._window)
        self._open: OpenIndex
        self._log: SegmentedLog
        self._indexed = 0
        """Index of the last entry that the index of aggregates holds."""
        self._index_moved = trio.Event()
        self._calls: deque[_Call[object]] = deque()
        self._wanted = trio.Event()
        self._pins: list[int] = []
        """As of which entries the appends that wait were loaded, ascending."""
        self._rebuilt_because = ""
        self._rebuilt_up_to = 0
        self._closed_by: EventLogError | None = None

    # Opening and closing

    async def open(self, log: SegmentedLog) -> None:
        """Open the index, before anything is applied. One that does not belong to this log is made anew.

        Raises:
            ResourceShortage: it cannot be opened just now.
        """
        self._log = log
        try:
            self._open = await self._indexes.open(self._path)
            why = self._foreign_because(self._open.index.position) or await self._incomplete_because(self._open.index.position)
            if why is not None:
                await self._make_anew(why)
        except IndexDamaged as error:
            await self._make_anew(str(error))
        except IndexBusy as error:
            raise ResourceShortage(str(error)) from error
        self._begin_window(self._open.index.position.index)

    def _foreign_because(self, position: IndexPosition) -> str | None:
        log = self._log
        if position.index > log.last_index:
            return f"it holds entry {position.index}, and the log ends at {log.last_index}"
        if position.index >= log.first_index and log.term(position.index) != position.term:
            return f"its entry {position.index} is of term {position.term}, and that of the log is not"
        return None

    async def _incomplete_because(self, position: IndexPosition) -> str | None:
        """Whether the index has the events of the last entries that it says to hold. What it lacks would be appended again."""
        first = max(self._log.first_index, position.index - CHECKED_ENTRIES + 1)
        while first <= position.index:
            frames = await self._log.read(first, position.index, self._settings.event_read_bytes_max)
            heads = [head for frame in frames if frame.kind is EntryKind.DATA for head in self._heads(frame)]
            questions = [IndexQuestion(head.aggregate_id, (head.event_id,)) for head in heads]
            answers = await self._open.run(partial(_ask, questions))
            for head, answer in zip(heads, answers, strict=True):
                if answer.state.version < head.version or head.event_id not in answer.known:
                    return f"it says to hold entry {position.index}, and event {head.event_id!r} at offset {head.offset} is missing"
            first = frames[-1].index + 1
        return None

    async def _make_anew(self, why: str) -> None:
        """Go on with an empty index."""
        logger.warning("%s: the index of aggregates is made from the log again: %s", self._name, why)
        await self._open.aclose()
        await self._indexes.remove(self._path)
        self._open = await self._indexes.open(self._path)
        self._rebuilt_because, self._rebuilt_up_to = why, max(self._window.applied_index, self._log.last_index)
        self._indexed = 0

    def _begin_window(self, index: int) -> None:
        self._window = EventWindow(index, self._settings.event_window_max)
        self.judge = EventJudge(self._window)
        self._move(index)

    def _move(self, index: int) -> None:
        self._indexed = index
        self._index_moved.set()
        self._index_moved = trio.Event()

    async def aclose(self) -> None:
        """Close the index. What waits for it gets an error."""
        self._closed_by = self._closed_by or Overloaded(f"{self._name} is being closed on this node: ask another one")
        self._index_moved.set()
        while self._calls:
            self._end(self._calls.popleft(), self._closed_by)
        await self._open.aclose()

    # What is applied

    def applied(self, frame: EntryFrame) -> int:
        """A committed entry is applied. Returns the version of its first event; 0 when it has none."""
        window = self._window
        heads: Sequence[EventHead] = ()
        # At a start everything is applied again. What the index holds need not be looked at.
        if frame.kind is EntryKind.DATA and window.covers(frame.index):
            heads = self._heads(frame)
        window.apply(frame.index, heads)
        self._wake()
        return heads[0].version if heads else 0

    def restored(self, index: int) -> None:
        """The machine has taken a snapshot that stands for the entries up to `index`."""
        self._window.restored(index)
        self._wake()

    def _heads(self, frame: EntryFrame) -> Sequence[EventHead]:
        try:
            return event_heads(entry_batch(frame), self._settings.unpacked_bytes_max)
        except CodecError:
            return ()

    def _wake(self) -> None:
        self._wanted.set()

    # For those who append

    @asynccontextmanager
    async def loaded(self, intent: AppendIntent) -> AsyncIterator[LoadedAggregate]:
        """What the index knows of the aggregate and the ids of an append. Within the block the window keeps what is applied from
        then on, unless it is full.

        Raises:
            Overloaded: the index is too far behind what is applied to judge by it.
        """
        pin = self._indexed
        insort(self._pins, pin)
        try:
            yield await self._load(IndexQuestion(intent.aggregate_id, intent.event_ids))
        finally:
            self._pins.remove(pin)

    async def _load(self, question: IndexQuestion) -> LoadedAggregate:
        def ask(index: EventIndex) -> LoadedAggregate:
            (answer,) = index.ask([question])
            return LoadedAggregate(index.position.index, answer.state, answer.known)

        self._check_caught_up()
        loaded = await self._ask(ask)
        self._check_caught_up()
        return loaded

    def _check_caught_up(self) -> None:
        """Raises Overloaded when the window has lost events that the index does not hold."""
        if not self._window.covers(self._indexed + 1):
            raise Overloaded(
                f"{self._name}: the index of aggregates holds {self._indexed} of {self._window.applied_index} entries on this"
                " node, and nothing can be judged by it before it has caught up: try again",
                retry_after_seconds=0.2,
            )

    # For those who read

    async def read(self, index: int, work: Callable[[EventIndex], T]) -> T:
        """What `work` finds in the index once that holds the events of entry `index`. The time is the caller's to limit.

        Raises:
            Overloaded: the partition is closed here, or the index cannot be read just now.
        """
        while True:
            await self._wait_indexed(index)
            # It may be made anew meanwhile, and holds nothing then.
            found = await self._ask(lambda held: (work(held),) if held.position.index >= index else None)
            if found is not None:
                return found[0]

    async def _wait_indexed(self, index: int) -> None:
        while self._indexed < index:
            if self._closed_by is not None:
                raise self._closed_by
            await self._index_moved.wait()

    @property
    def status(self) -> IndexStatus:
        behind = max(0, self._window.applied_index - self._indexed)
        is_rebuilding = bool(self._rebuilt_because) and self._indexed < self._rebuilt_up_to
        return IndexStatus(
            index=self._indexed,
            entries_behind=behind,
            event_count=self._open.index.event_count,
            rebuilt_because=self._rebuilt_because if is_rebuilding else "",
        )

    async def _ask(self, work: Callable[[EventIndex], T]) -> T:
        if self._closed_by is not None:
            raise self._closed_by
        call: _Call[T] = _Call(work)
        self._calls.append(call)  # type: ignore[arg-type]
        self._wake()
        await call.done.wait()
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[return-value]

    # The task

    async def run(self) -> None:
        """Keep the index up with what is applied, and answer questions. For ever."""
        while True:
            if not self._calls and not self._is_behind:
                self._wanted = trio.Event()
                await self._wanted.wait()
            calls, self._calls = list(self._calls), deque()
            try:
                await self._turn(calls)
            except (IndexBusy, ResourceShortage) as error:
                logger.warning("%s: %s", self._name, error)
                busy = Overloaded(f"{self._name}: {error}; try again", retry_after_seconds=1.0)
                for call in calls:
                    self._end(call, busy)
                await trio.sleep(self._settings.event_index_retry_seconds)
            except IndexDamaged as error:
                self._calls.extendleft(reversed([call for call in calls if not call.done.is_set()]))
                await self._rebuild(str(error))

    @property
    def _is_behind(self) -> bool:
        return self._indexed < self._window.applied_index

    async def _turn(self, calls: Sequence[_Call[object]]) -> None:
        entries: Sequence[Sequence[EventHead]] = ()
        position = self._open.index.position
        last = min(self._window.applied_index, self._log.last_index)
        # Never ahead of this node's own log: what others have made durable may be lost here when it stops now.
        if last > position.index:
            entries, last = await self._next_entries(position.index + 1, last)
            position = IndexPosition(last, self._log.term(last))
        elif self._is_behind and not calls:
            await trio.sleep(self._settings.event_index_retry_seconds)
            return

        def work(index: EventIndex) -> list[object]:
            if position != index.position:
                index.write([head for heads in entries for head in heads], position)
            return [call.work(index) for call in calls]

        results = await self._open.run(work)
        self._move(position.index)
        for call, result in zip(calls, results, strict=True):
            call.result = result
            call.done.set()
        self._trim()

    async def _next_entries(self, first: int, last: int) -> tuple[list[Sequence[EventHead]], int]:
        """The events of entries from `first` on, about as many as are written at once, and the index of the last of these
        entries."""
        entries: list[Sequence[EventHead]] = []
        count = 0
        if self._window.covers(first):
            for index in range(first, last + 1):
                heads = self._window.heads_of(index)
                entries.append(heads)
                count += len(heads)
                if count >= self._settings.event_index_batch:
                    return entries, index
            return entries, last
        first = max(first, self._log.first_index)
        frames = await self._log.read(first, last, self._settings.event_read_bytes_max)
        for frame in frames:
            entries.append(self._heads(frame) if frame.kind is EntryKind.DATA else ())
        await trio.lowlevel.checkpoint()
        return entries, frames[-1].index

    def _trim(self) -> None:
        """The window goes as far back as the index does not reach, and as the oldest of what was loaded and waits."""
        indexed = self._indexed
        self._window.trim(min(indexed, self._pins[0]) if self._pins else indexed)

    async def _rebuild(self, why: str) -> None:
        while True:
            try:
                await self._make_anew(why)
                return
            except IndexBusy as error:
                logger.warning("%s: %s", self._name, error)
                await trio.sleep(self._settings.event_index_retry_seconds)

    def _end(self, call: _Call[object], error: EventLogError) -> None:
        call.error = error
        call.done.set()


def _ask(questions: Sequence[IndexQuestion], index: EventIndex) -> list[IndexAnswer]:
    return index.ask(questions)
