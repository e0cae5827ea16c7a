"""What a leader has to know to judge appends to aggregates: expected versions, and events that are in the log already.

An event in the log carries its version, stamped by the leader that appended it. So what is known of an aggregate is the newest of
three pieces of knowledge, and never a sum of them:

* what was *loaded* from the index of aggregates, as of some applied entry;
* what was applied since (`EventWindow`);
* what this leader has appended and not applied yet (`EventJudge`).

A new leader judges nothing before it has applied everything that older terms left, so the third begins empty.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import attrs

from trio_eventlog.errors import AggregateClosed, EventLogError, InvalidArgument, WrongExpectedVersion
from trio_eventlog.events import ANY, EXISTS, EventHead, Expectation, ExpectedVersion

T = TypeVar("T")


@attrs.frozen(slots=True)
class EventPlace:
    """Where an event of a known aggregate is."""

    version: int
    offset: int


@attrs.frozen(slots=True)
class AggregateState:
    """An aggregate after some event. Version 0: it has none."""

    version: int = 0
    is_closed: bool = False


NO_EVENTS = AggregateState()


@attrs.frozen(slots=True)
class LoadedAggregate:
    """What the index knows of an aggregate.

    Attributes:
        as_of: index of the last entry that the index holds.
        known: of the event ids that were asked for, those that it holds.
    """

    as_of: int
    state: AggregateState
    known: Mapping[str, EventPlace]


@attrs.frozen(slots=True, kw_only=True)
class AppendIntent:
    """What a writer wants to append.

    Attributes:
        reopens: append also when the aggregate is closed.
        closes: the last of the events closes the aggregate.
    """

    aggregate_id: str
    event_ids: tuple[str, ...]
    expected: ExpectedVersion = ANY
    reopens: bool = False
    closes: bool = False


class EventWindow:
    """The events of the last applied entries, until the index of aggregates holds them and no waiting append was loaded before.

    Args:
        index: of the last entry that the index holds when this is made.
        events_max: bound on the number of events kept. Beyond it the oldest go, and appends are refused until the index has
            caught up: see `covers`.
    """

    def __init__(self, index: int, events_max: int) -> None:
        self._events_max = events_max
        self._floor = index
        self._entries: OrderedDict[int, Sequence[EventHead]] = OrderedDict()
        self._ids: dict[tuple[str, str], EventPlace] = {}
        self._states: dict[str, tuple[int, AggregateState]] = {}
        """By aggregate: the last entry that has changed it, and what it is since."""
        self.applied_index = index
        self.event_count = 0

    def covers(self, index: int) -> bool:
        """Whether this has all events of applied entries from `index` on."""
        return index > self._floor

    def apply(self, index: int, heads: Sequence[EventHead]) -> None:
        """Entry `index` is applied. Entries that the index of aggregates holds already may be left out, and so may those before a
        snapshot: what is behind a gap is covered."""
        self.restored(index - 1)
        self.applied_index = max(self.applied_index, index)
        if not heads:
            return
        self._entries[index] = heads
        self.event_count += len(heads)
        for head in heads:
            self._ids[(head.aggregate_id, head.event_id)] = EventPlace(head.version, head.offset)
            self._states[head.aggregate_id] = (index, AggregateState(head.version, head.closes))
        while self.event_count > self._events_max:
            self.trim(next(iter(self._entries)))

    def restored(self, index: int) -> None:
        """A snapshot stands for all entries up to `index`: those that were not applied are in the log at best."""
        if index > self.applied_index:
            self.trim(index)
            self.applied_index = index

    def trim(self, index: int) -> None:
        """Forget the entries up to `index`."""
        self._floor = max(self._floor, index)
        while self._entries and next(iter(self._entries)) <= index:
            entry, heads = self._entries.popitem(last=False)
            self.event_count -= len(heads)
            for head in heads:
                self._ids.pop((head.aggregate_id, head.event_id), None)
                state = self._states.get(head.aggregate_id)
                if state is not None and state[0] <= entry:
                    del self._states[head.aggregate_id]

    def heads_of(self, index: int) -> Sequence[EventHead]:
        """The events of an entry that is covered."""
        return self._entries.get(index, ())

    def state(self, aggregate_id: str) -> AggregateState:
        """What the entries here say; NO_EVENTS when they say nothing."""
        state = self._states.get(aggregate_id)
        return state[1] if state is not None else NO_EVENTS

    def find(self, aggregate_id: str, event_id: str) -> EventPlace | None:
        return self._ids.get((aggregate_id, event_id))


@attrs.frozen(slots=True)
class Accepted:
    """To be appended; the first event has this version."""

    first_version: int


@attrs.frozen(slots=True)
class InLog:
    """All of it is in the log already."""

    first: EventPlace


@attrs.frozen(slots=True)
class Follows(Generic[T]):
    """The very same append is in flight: `original`."""

    original: T


@attrs.frozen(slots=True)
class Waits(Generic[T]):
    """It depends on what becomes of `other`, which is in flight: to be judged again then.

    To refuse it now would be to answer with a version that may never have been, should this leader be deposed.
    """

    other: T


@attrs.frozen(slots=True)
class Refused:
    """As of what is applied."""

    error: EventLogError


@attrs.frozen(slots=True)
class Outdated:
    """What was loaded for it is too old to be judged by: load again."""


@attrs.define(slots=True, eq=False)
class _InFlight(Generic[T]):
    token: T
    intent: AppendIntent
    state: AggregateState
    """Of the aggregate, once it is applied."""


class EventJudge(Generic[T]):
    """Judges appends, and remembers those of this leader that are in flight. `T` stands for one of them.

    Attributes:
        window: what was applied.
    """

    def __init__(self, window: EventWindow) -> None:
        self.window = window
        self._in_flight: OrderedDict[int, _InFlight[T]] = OrderedDict()
        self._ids: dict[tuple[str, str], _InFlight[T]] = {}
        self._last: dict[str, _InFlight[T]] = {}
        """By aggregate: the last one in flight."""

    def judge(self, intent: AppendIntent, loaded: LoadedAggregate) -> Accepted | InLog | Follows[T] | Waits[T] | Refused | Outdated:
        """What is to become of an append, the next one in the log. Nothing is changed."""
        window = self.window
        if not window.covers(loaded.as_of + 1):
            return Outdated()
        aggregate_id = intent.aggregate_id
        repeated = self._judge_ids(intent, loaded)
        if repeated is not None:
            return repeated
        applied = max(loaded.state, window.state(aggregate_id), key=_version_of)
        last = self._last.get(aggregate_id)
        state = applied if last is None else last.state
        if _error(intent, state) is None:
            return Accepted(state.version + 1)
        error = _error(intent, applied)
        if error is not None:
            return Refused(error)
        assert last is not None
        return Waits(last.token)

    def _judge_ids(self, intent: AppendIntent, loaded: LoadedAggregate) -> InLog | Follows[T] | Waits[T] | Refused | None:
        """None when all ids are new."""
        aggregate_id, event_ids = intent.aggregate_id, intent.event_ids
        for event_id in event_ids:
            other = self._ids.get((aggregate_id, event_id))
            if other is not None:
                return Follows(other.token) if other.intent.event_ids == event_ids else Waits(other.token)
        places = [self.window.find(aggregate_id, event_id) or loaded.known.get(event_id) for event_id in event_ids]
        found = [place for place in places if place is not None]
        if not found:
            return None
        first = found[0]
        if len(found) == len(event_ids) and all(
            (place.version, place.offset) == (first.version + number, first.offset + number) for number, place in enumerate(found)
        ):
            return InLog(first)
        names = [event_id for event_id, place in zip(event_ids, places, strict=True) if place is not None]
        return Refused(
            InvalidArgument(
                f"event {names[0]!r} of aggregate {aggregate_id!r} is in the log already, as version {first.version}, and was not"
                " appended together with the others of this call: an event id names one event for ever. Append the others alone"
            )
        )

    def appended(self, index: int, intent: AppendIntent, first_version: int, token: T) -> None:
        """It was accepted, and is the entry `index` of this leader's log."""
        state = AggregateState(first_version + len(intent.event_ids) - 1, intent.closes)
        item = self._in_flight[index] = _InFlight(token, intent, state)
        for event_id in intent.event_ids:
            self._ids[(intent.aggregate_id, event_id)] = item
        self._last[intent.aggregate_id] = item

    def abandon_above(self, index: int) -> None:
        """What becomes of the entries above `index` is not known here: this node does not lead any more."""
        for entry in [entry for entry in self._in_flight if entry > index]:
            self.decided(entry)

    def decided(self, index: int) -> None:
        """Entry `index` is applied, or in no log."""
        item = self._in_flight.pop(index, None)
        if item is None:
            return
        aggregate_id = item.intent.aggregate_id
        for event_id in item.intent.event_ids:
            if self._ids.get((aggregate_id, event_id)) is item:
                del self._ids[(aggregate_id, event_id)]
        if self._last.get(aggregate_id) is item:
            del self._last[aggregate_id]


def _version_of(state: AggregateState) -> int:
    return state.version


def _error(intent: AppendIntent, state: AggregateState) -> EventLogError | None:
    """Why the append is refused by an aggregate in this state; None when it is not."""
    expected = intent.expected
    if not _meets(expected, state.version):
        wanted = expected.value if isinstance(expected, Expectation) else expected
        return WrongExpectedVersion(
            f"aggregate {intent.aggregate_id!r} is at version {state.version}, and {_in_words(expected)} was expected: read what is"
            " new, decide again, and append with the version that you have read",
            actual_version=state.version,
            expected_version=str(wanted),
        )
    if state.is_closed and not intent.reopens:
        return AggregateClosed(
            f"aggregate {intent.aggregate_id!r} was closed by its event of version {state.version}: ask for it to be opened again"
            " if further events are meant to be appended",
            actual_version=state.version,
        )
    return None


def _meets(expected: ExpectedVersion, version: int) -> bool:
    if expected is ANY:
        return True
    if expected is EXISTS:
        return version > 0
    return version == expected


def _in_words(expected: ExpectedVersion) -> str:
    if isinstance(expected, Expectation):
        return "an aggregate that exists"
    return f"version {expected}" if expected else "an aggregate without events"
