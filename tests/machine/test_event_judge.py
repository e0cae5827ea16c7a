"""Judging appends to aggregates: expected versions, repeated ids, and what is in flight."""

import pytest

from trio_eventlog.errors import AggregateClosed, InvalidArgument, WrongExpectedVersion
from trio_eventlog.events import ANY, EXISTS, NO_STREAM, EventHead, ExpectedVersion
from trio_eventlog.machine.events import (
    NO_EVENTS,
    Accepted,
    AggregateState,
    AppendIntent,
    EventJudge,
    EventPlace,
    EventWindow,
    Follows,
    InLog,
    LoadedAggregate,
    Outdated,
    Refused,
    Waits,
)

NOTHING = LoadedAggregate(0, NO_EVENTS, {})


def head(offset: int, event_id: str, version: int, aggregate_id: str = "a", *, closes: bool = False) -> EventHead:
    return EventHead(offset, aggregate_id, event_id, "T", version, closes)


def intent(*event_ids: str, expected: ExpectedVersion = ANY, reopens: bool = False, closes: bool = False) -> AppendIntent:
    return AppendIntent(aggregate_id="a", event_ids=event_ids, expected=expected, reopens=reopens, closes=closes)


def judge_of(*entries: list[EventHead], events_max: int = 100) -> EventJudge[str]:
    window = EventWindow(0, events_max)
    for index, heads in enumerate(entries, 1):
        window.apply(index, heads)
    return EventJudge(window)


@pytest.mark.parametrize(
    ("version", "expected", "is_right"),
    [
        *[(0, NO_STREAM, True), (1, NO_STREAM, False), (0, ANY, True), (3, ANY, True), (0, EXISTS, False), (1, EXISTS, True)],
        *[(3, 3, True), (3, 2, False), (3, 4, False)],
    ],
)
def test_an_expected_version_is_the_number_of_events_so_far(version: int, expected: ExpectedVersion, is_right: bool) -> None:
    loaded = LoadedAggregate(0, AggregateState(version), {})
    verdict = judge_of().judge(intent("new", expected=expected), loaded)
    if is_right:
        assert verdict == Accepted(version + 1)
        return
    assert isinstance(verdict, Refused)
    assert isinstance(verdict.error, WrongExpectedVersion)
    assert verdict.error.actual_version == version
    assert verdict.error.expected_version == ("exists" if expected is EXISTS else str(expected))


def test_what_is_applied_and_not_in_the_index_counts() -> None:
    judge = judge_of([head(0, "one", 1)])
    assert judge.judge(intent("two", expected=1), NOTHING) == Accepted(2)
    refused = judge.judge(intent("two", expected=NO_STREAM), NOTHING)
    assert isinstance(refused, Refused)


def test_what_is_in_flight_counts_and_nobody_is_refused_by_it_before_it_is_applied() -> None:
    """Should the leader be deposed, what is in flight may never have been: a refusal that names its version would be wrong."""
    judge = judge_of()
    judge.appended(1, intent("one", expected=NO_STREAM), 1, "first")
    assert judge.judge(intent("two", expected=1), NOTHING) == Accepted(2)
    assert judge.judge(intent("other", expected=NO_STREAM), NOTHING) == Waits("first")
    judge.window.apply(1, [head(0, "one", 1)])
    judge.decided(1)
    refused = judge.judge(intent("other", expected=NO_STREAM), NOTHING)
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, WrongExpectedVersion)
    assert refused.error.actual_version == 1


def test_what_was_abandoned_does_not_count() -> None:
    judge = judge_of()
    judge.appended(1, intent("one"), 1, "first")
    judge.appended(2, intent("two"), 2, "second")
    judge.abandon_above(0)
    assert judge.judge(intent("two", expected=NO_STREAM), NOTHING) == Accepted(1)


def test_a_repeated_id_is_answered_with_the_original_before_any_version_is_judged() -> None:
    loaded = LoadedAggregate(0, AggregateState(7), {"old": EventPlace(3, 41)})
    assert judge_of().judge(intent("old", expected=NO_STREAM), loaded) == InLog(EventPlace(3, 41))
    judge = judge_of([head(5, "one", 1), head(6, "two", 2)])
    assert judge.judge(intent("one", "two", expected=9), NOTHING) == InLog(EventPlace(1, 5))


def test_a_repeated_id_in_flight_shares_the_fate_of_the_first() -> None:
    judge = judge_of()
    judge.appended(1, intent("one", "two"), 1, "first")
    assert judge.judge(intent("one", "two", expected=5), NOTHING) == Follows("first")
    assert judge.judge(intent("two"), NOTHING) == Waits("first")


def test_an_id_names_one_event_of_its_aggregate() -> None:
    judge = judge_of([head(0, "one", 1), head(1, "two", 2), head(2, "three", 3)])
    for ids in (("one", "new"), ("new", "one"), ("one", "three"), ("two", "one")):
        refused = judge.judge(intent(*ids), NOTHING)
        assert isinstance(refused, Refused), ids
        assert isinstance(refused.error, InvalidArgument), ids
    other = AppendIntent(aggregate_id="b", event_ids=("one",))
    assert judge.judge(other, NOTHING) == Accepted(1)


def test_a_closed_aggregate_takes_events_only_when_it_is_to_be_opened_again() -> None:
    judge = judge_of([head(0, "one", 1, closes=True)])
    refused = judge.judge(intent("two"), NOTHING)
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, AggregateClosed)
    assert refused.error.actual_version == 1
    assert judge.judge(intent("two", reopens=True), NOTHING) == Accepted(2)
    judge.appended(2, intent("two", reopens=True), 2, "opening")
    assert judge.judge(intent("three"), NOTHING) == Accepted(3)
    judge.appended(3, intent("three", closes=True), 3, "closing")
    assert isinstance(judge.judge(intent("four"), NOTHING), Refused), "as of what is applied, it is closed"


def test_closing_in_flight_is_waited_for() -> None:
    judge = judge_of([head(0, "one", 1)])
    judge.appended(2, intent("two", closes=True), 2, "closing")
    assert judge.judge(intent("three"), NOTHING) == Waits("closing")


def test_nothing_is_judged_by_what_was_loaded_before_the_window_begins() -> None:
    judge = judge_of([head(0, "one", 1)], [head(1, "two", 2)])
    judge.window.trim(1)
    assert judge.judge(intent("new", expected=2), NOTHING) == Outdated()
    assert judge.judge(intent("one"), LoadedAggregate(1, AggregateState(1), {"one": EventPlace(1, 0)})) == InLog(EventPlace(1, 0))


def test_a_window_keeps_a_bounded_number_of_events() -> None:
    window = EventWindow(0, 3)
    for index in range(1, 6):
        window.apply(index, [head(index - 1, str(index), index)])
    assert window.event_count == 3
    assert window.covers(3)
    assert not window.covers(2)
    assert window.find("a", "2") is None
    assert window.find("a", "3") == EventPlace(3, 2)
    window.trim(5)
    assert window.state("a") == NO_EVENTS
    assert not window.event_count


def test_a_window_covers_nothing_before_a_gap() -> None:
    """After a snapshot the entries before it are never applied."""
    window = EventWindow(2, 10)
    window.apply(1, ())
    window.apply(3, [head(0, "x", 1)])
    assert window.covers(3)
    window.apply(9, [head(7, "y", 1, "b")])
    assert not window.covers(8)
    assert window.covers(9)
    assert window.find("a", "x") is None
