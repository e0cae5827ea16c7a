"""The index of aggregates of one partition: derived from its log, and made again from there when it is lost.

`EventIndex` is what an index offers, `MemoryEventIndex` the one that is kept in memory. `SqliteEventIndex`
(`sqlite_event_index.py`) is the one on a disk. One suite tests both.

An index holds the events of the entries up to its position, and nothing else: `write` takes events and the position behind them
together or not at all.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import attrs
import trio

from trio_eventlog.errors import EventLogError
from trio_eventlog.events import EventHead
from trio_eventlog.machine.events import NO_EVENTS, AggregateState, EventPlace

T = TypeVar("T")


class IndexDamaged(EventLogError):
    """The index is not what was written, or does not continue with the events of the log: make it again from the log."""


class IndexBusy(EventLogError):
    """The index cannot be written just now: there is no room on the disk, or no descriptor. Nothing has changed; try again
    later."""


@attrs.frozen(slots=True)
class IndexPosition:
    """The entry up to which an index holds the log: its index and its term. (0, 0): nothing."""

    index: int = 0
    term: int = 0


@attrs.frozen(slots=True)
class IndexQuestion:
    """About an aggregate, and about some event ids of it."""

    aggregate_id: str
    event_ids: tuple[str, ...] = ()


@attrs.frozen(slots=True)
class IndexAnswer:
    """The aggregate's state, and where those of the event ids are that the index holds."""

    state: AggregateState
    known: dict[str, EventPlace]


class EventIndex(Protocol):
    """Not for several threads at once. Methods may wait for a disk.

    Raises:
        IndexDamaged: see there.
        IndexBusy: see there.
    """

    @property
    def position(self) -> IndexPosition:
        """Everything up to here is held."""

    @property
    def event_count(self) -> int:
        """Number of events held."""

    def write(self, heads: Sequence[EventHead], position: IndexPosition) -> None:
        """Hold these events too, those of all entries up to `position`; all or nothing.

        Raises:
            IndexDamaged: an aggregate does not continue at the version that the index has of it. Nothing was written.
        """

    def ask(self, questions: Sequence[IndexQuestion]) -> list[IndexAnswer]:
        """An answer to each question."""

    def places(self, aggregate_id: str, from_version: int, limit: int, *, backwards: bool = False) -> list[EventPlace]:
        """At most `limit` events of an aggregate, `from_version` the first: upwards, or downwards when `backwards`."""

    def offsets_of_type(self, event_type: str, from_offset: int, limit: int) -> list[int]:
        """Offsets of at most `limit` events of a type, from `from_offset` on, in order."""

    def close(self) -> None:
        """Give back what it holds open. What was written stays."""


class EventIndexes(Protocol):
    """Where the indexes of a node are kept."""

    async def open(self, path: str) -> "OpenIndex":
        """The index at `path`, made empty when it is missing or damaged. Raises IndexBusy."""

    async def remove(self, path: str) -> None:
        """Remove the index at `path`, which is not open. No index: nothing happens."""


class OpenIndex(Protocol):
    """An index that is open, and how its methods are called without holding up the event loop."""

    index: EventIndex

    async def run(self, work: Callable[[EventIndex], T]) -> T:
        """`work` on the index, away from the loop when it may wait for a disk. One at a time."""

    async def aclose(self) -> None:
        """Close it."""


class MemoryEventIndexes:
    """Indexes that nothing is left of when they are closed (`EventIndexes`)."""

    async def open(self, path: str) -> "OpenMemoryIndex":
        """See `EventIndexes.open`."""
        await trio.lowlevel.checkpoint()
        return OpenMemoryIndex(MemoryEventIndex())

    async def remove(self, path: str) -> None:
        """See `EventIndexes.remove`."""
        await trio.lowlevel.checkpoint()


class OpenMemoryIndex:
    """An index that never waits (`OpenIndex`)."""

    def __init__(self, index: EventIndex) -> None:
        self.index = index

    async def run(self, work: Callable[[EventIndex], T]) -> T:
        """See `OpenIndex.run`."""
        await trio.lowlevel.checkpoint()
        return work(self.index)

    async def aclose(self) -> None:
        """See `OpenIndex.aclose`."""
        self.index.close()


class MemoryEventIndex:
    """An `EventIndex` in memory."""

    def __init__(self) -> None:
        self._position = IndexPosition()
        self._aggregates: dict[str, list[EventPlace]] = {}
        self._states: dict[str, AggregateState] = {}
        self._ids: dict[tuple[str, str], EventPlace] = {}
        self._types: dict[str, list[int]] = {}

    @property
    def position(self) -> IndexPosition:
        return self._position

    @property
    def event_count(self) -> int:
        return len(self._ids)

    def write(self, heads: Sequence[EventHead], position: IndexPosition) -> None:
        check_continues(heads, lambda aggregate_id: self._states.get(aggregate_id, NO_EVENTS).version)
        for head in heads:
            place = EventPlace(head.version, head.offset)
            self._aggregates.setdefault(head.aggregate_id, []).append(place)
            self._states[head.aggregate_id] = AggregateState(head.version, head.closes)
            self._ids[(head.aggregate_id, head.event_id)] = place
            self._types.setdefault(head.type, []).append(head.offset)
        self._position = position

    def ask(self, questions: Sequence[IndexQuestion]) -> list[IndexAnswer]:
        return [
            IndexAnswer(
                self._states.get(question.aggregate_id, NO_EVENTS),
                {
                    event_id: place
                    for event_id in question.event_ids
                    if (place := self._ids.get((question.aggregate_id, event_id))) is not None
                },
            )
            for question in questions
        ]

    def places(self, aggregate_id: str, from_version: int, limit: int, *, backwards: bool = False) -> list[EventPlace]:
        places = self._aggregates.get(aggregate_id, [])
        if backwards:
            end = bisect_right(places, from_version, key=_version)
            return places[max(0, end - limit) : end][::-1]
        start = bisect_left(places, from_version, key=_version)
        return places[start : start + limit]

    def offsets_of_type(self, event_type: str, from_offset: int, limit: int) -> list[int]:
        offsets = self._types.get(event_type, [])
        start = bisect_left(offsets, from_offset)
        return offsets[start : start + limit]

    def close(self) -> None:
        pass


def check_continues(heads: Sequence[EventHead], version_of: Callable[[str], int]) -> None:
    """Raises IndexDamaged when some event does not have the version behind the one that is known of its aggregate.

    The leader stamps versions without a gap. So a gap means that the index has lost what it was given. An aggregate that is not
    known may begin anywhere: its first events may have been removed from the log before the index was made.
    """
    versions: dict[str, int] = {}
    for head in heads:
        version = versions.get(head.aggregate_id)
        if version is None:
            version = version_of(head.aggregate_id)
        if version and head.version != version + 1:
            raise IndexDamaged(
                f"offset {head.offset} holds version {head.version} of aggregate {head.aggregate_id!r}, and the index of aggregates"
                f" has version {version} before it"
            )
        versions[head.aggregate_id] = head.version


def _version(place: EventPlace) -> int:
    return place.version
