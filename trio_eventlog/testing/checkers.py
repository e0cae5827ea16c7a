"""Was what the clients saw possible for one log that takes appends one at a time?

`check_log` knows that offsets give the order, so it takes little more than one pass, over histories of any length. `linearizable`
searches for an order, in the manner of Wing and Gong with Lowe's memory of configurations (as Porcupine does it): for short
histories, of anything that has a model, and to check the checker above.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import attrs

from trio_eventlog.testing.history import Append, Call, History, Outcome, ReadEnd

State = TypeVar("State", bound=Hashable)
Operation = TypeVar("Operation")

PROBLEMS_MAX = 20


def check_log(history: History, values: Sequence[bytes], start: int = 0) -> list[str]:
    """What cannot be, in words; empty when all is well. At most `PROBLEMS_MAX`.

    Args:
        history: of one partition.
        values: those found at the end.
        start: offset of the first of them; what was before was removed on purpose.
    """
    problems: list[str] = []
    appends = {value: call for call in history.appends for value in call.values}
    log = _known_log(history, values, start)
    _check_contents(history, log, start, appends, problems)
    _check_real_time(history, log, start + len(values), appends, problems)
    _check_consumed(history, log, start, appends, problems)
    return problems[:PROBLEMS_MAX]


def _known_log(history: History, values: Sequence[bytes], start: int) -> dict[int, bytes]:
    """Value by offset: those that were found; and of those that were removed, the ones that were acknowledged."""
    known: dict[int, bytes] = {}
    for call in history.appends:
        if call.outcome is Outcome.OK and call.offset is not None:
            known |= {call.offset + number: value for number, value in enumerate(call.values) if call.offset + number < start}
    for item in history.consumed:
        if item.offset < start:
            known.setdefault(item.offset, item.value)
    return {**dict(sorted(known.items())), **dict(enumerate(values, start))}


def _check_contents(
    history: History, log: Mapping[int, bytes], start: int, appends: dict[bytes, Append], problems: list[str]
) -> None:
    """Every acknowledged value is there, at its offset; every value there was sent, once, with its batch, and not refused."""
    place: dict[bytes, int] = {}
    for offset, value in log.items():
        if value in place:
            problems.append(f"{value!r} is in the log twice, at {place[value]} and {offset}")
            continue
        place[value] = offset
        call = appends.get(value)
        if call is None:
            problems.append(f"{value!r} at {offset} was never sent")
        elif call.outcome is Outcome.REFUSED:
            problems.append(f"{value!r} at {offset} was refused")
    for call in history.appends:
        found = [place.get(value) for value in call.values]
        first = found[0]
        if first is None and start and call.offset is None:
            continue  # It may have been removed, and its offset is unknown.
        seen = [offset for offset in found if offset is not None]
        if seen and max(seen) >= start and (first is None or found != list(range(first, first + len(found)))):
            problems.append(f"the batch {call.values!r} is torn: its values are at {found}")
        if call.outcome is not Outcome.OK:
            continue
        if first is None:
            problems.append(f"{call.values!r} was acknowledged at {call.offset} and is not there")
        elif call.offset is not None and first != call.offset:
            problems.append(f"{call.values!r} was acknowledged at {call.offset} and is at {first}")


def _check_real_time(
    history: History, log: Mapping[int, bytes], end: int, appends: dict[bytes, Append], problems: list[str]
) -> None:
    """What was over before a call began comes before it: appends after acknowledged ones, reads of the end after everything."""
    offsets = {id(call): offset for offset, value in log.items() if (call := appends.get(value)) and value == call.values[0]}
    # One pass over the places: `floor` is the end of everything that is known to be in the log for sure at this place.
    starts: dict[int, Call] = {call.called: call for call in history.calls()}
    ends: dict[int, Call] = {call.returned: call for call in history.calls() if call.returned is not None}
    floor = 0
    floor_at_call: dict[int, int] = {}
    for place in sorted({*starts, *ends}):
        if place in starts:
            floor_at_call[id(starts[place])] = floor
            continue
        over = ends[place]
        if over.outcome is not Outcome.OK:
            continue
        if isinstance(over, ReadEnd):
            floor = max(floor, over.end or 0)
        elif id(over) in offsets:
            floor = max(floor, offsets[id(over)] + len(over.values))
    for append in history.appends:
        offset = offsets.get(id(append))
        if offset is not None and offset < floor_at_call[id(append)]:
            problems.append(
                f"{append.values!r} is at {offset}, but the log reached to {floor_at_call[id(append)]} when it was sent"
            )
    # A read cannot see what was sent after it had returned: the latest start among everything below an offset.
    latest_start = [0]
    for offset in range(end):
        sent = appends.get(log[offset]) if offset in log else None
        latest_start.append(max(latest_start[-1], sent.called if sent is not None else 0))
    for read in history.reads:
        if read.outcome is not Outcome.OK:
            continue
        assert read.end is not None
        assert read.returned is not None
        if read.end < floor_at_call[id(read)]:
            problems.append(f"{read.client} read the end {read.end}, but it was known to be {floor_at_call[id(read)]} before")
        at_end = log.get(read.end)
        if read.end > end:
            problems.append(f"{read.client} read the end {read.end}, but the log ends before {end}")
        elif at_end is not None and (call := appends.get(at_end)) is not None and at_end != call.values[0]:
            problems.append(f"{read.client} read the end {read.end}, which is inside of the batch {call.values!r}")
        elif latest_start[read.end] > read.returned:
            problems.append(f"{read.client} read the end {read.end} before all of that was sent")


def _check_consumed(
    history: History, log: Mapping[int, bytes], start: int, appends: dict[bytes, Append], problems: list[str]
) -> None:
    """Each consumer sees the log from where it began: no gap but over what was removed, no repetition, no change, nothing before it
    was sent."""
    next_offset: dict[str, int] = {}
    for item in history.consumed:
        expected = next_offset.get(item.consumer, item.offset)
        if item.offset != expected and not (item.after_removal and expected < item.offset <= start):
            problems.append(f"{item.consumer} was given offset {item.offset} after {expected - 1}")
        next_offset[item.consumer] = item.offset + 1
        there = log.get(item.offset)
        if there != item.value:
            problems.append(f"{item.consumer} was given {item.value!r} at {item.offset}, where {there!r} is")
        sent = appends.get(item.value)
        if sent is not None and sent.called > item.place:
            problems.append(f"{item.consumer} was given {item.value!r} before it was sent")


@attrs.frozen(slots=True, kw_only=True)
class Model(Generic[State, Operation]):
    """What one object does when it is used by one client at a time.

    Attributes:
        initial: its first state.
        step: the state after an operation; None when its recorded result is impossible in that state.
    """

    initial: State
    step: Callable[[State, Operation], State | None]


@attrs.frozen(slots=True)
class Interval(Generic[Operation]):
    """An operation between its call and its return, both included. `returned` None: it may have its effect later, or never."""

    operation: Operation
    called: int
    returned: int | None


def linearizable(model: Model[State, Operation], intervals: Sequence[Interval[Operation]]) -> bool:
    """Whether the operations can be put into an order that the model allows and that keeps what was over before what came after.

    Exponential at worst: for some dozens of operations.
    """
    count = len(intervals)
    must = 0
    for number, interval in enumerate(intervals):
        if interval.returned is not None:
            must |= 1 << number
    seen: set[tuple[int, State]] = set()
    pending: list[tuple[int, State]] = [(0, model.initial)]
    while pending:
        done, state = pending.pop()
        if done & must == must:
            return True
        # The first of the others to return must not come after anything that was called later.
        limit = min(
            (
                interval.returned
                for number, interval in enumerate(intervals)
                if not done >> number & 1 and interval.returned is not None
            )
        )
        for number in range(count):
            if done >> number & 1 or intervals[number].called > limit:
                continue
            after = model.step(state, intervals[number].operation)
            if after is None:
                continue
            configuration = (done | 1 << number, after)
            if configuration not in seen:
                seen.add(configuration)
                pending.append(configuration)
    return False


def _step_log(log: tuple[bytes, ...], call: Call) -> tuple[bytes, ...] | None:
    if isinstance(call, ReadEnd):
        return log if call.end == len(log) else None
    if call.offset is not None and call.offset != len(log):
        return None
    return log + call.values


LOG_MODEL: Model[tuple[bytes, ...], Call] = Model(initial=(), step=_step_log)
"""A log: an append answers with the end before it, a read with the end."""


def log_linearizable(history: History) -> bool:
    """`linearizable` for the appends and reads of a history. Looks neither at what was consumed nor at the log found."""
    intervals = [
        Interval(call, call.called, call.returned if call.outcome is Outcome.OK else None)
        for call in history.calls()
        if call.outcome is not Outcome.REFUSED and not (isinstance(call, ReadEnd) and call.outcome is not Outcome.OK)
    ]
    return linearizable(LOG_MODEL, intervals)
