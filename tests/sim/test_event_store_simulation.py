"""Seeds of the event store's simulation, each in a few milliseconds."""

from collections import Counter

import pytest

from trio_eventlog.machine import events
from trio_eventlog.machine.events import AppendIntent, EventJudge, EventWindow, LoadedAggregate
from trio_eventlog.testing import event_simulator
from trio_eventlog.testing.event_simulator import MARKS, EventInvariantBroken, EventSimulation, run_seed

SEEDS = 120


def test_seeds() -> None:
    """And each of the rare things happens."""
    counts: Counter[str] = Counter()
    for seed in range(SEEDS):
        counts.update(run_seed(seed))
    assert [mark for mark in MARKS if not counts[mark]] == []


def find_out(seeds: int = SEEDS) -> str:
    """The first complaint."""
    for seed in range(seeds):
        try:
            EventSimulation(seed).run()
        except EventInvariantBroken as error:
            return str(error)
    return ""


def test_versions_judged_without_what_is_in_flight_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventJudge, "appended", lambda self, index, intent, first_version, token: None)
    assert "belongs" in find_out() or "twice" in find_out()


def test_refusals_by_what_is_in_flight_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that answers with a version that it has appended and that is not committed."""

    def judge(self: EventJudge[int], intent: AppendIntent, loaded: LoadedAggregate) -> object:
        verdict = original(self, intent, loaded)
        if isinstance(verdict, events.Waits):
            state = self._last[intent.aggregate_id].state
            error = events._error(intent, state)
            if error is not None:
                return events.Refused(error)
        return verdict

    original = EventJudge.judge
    monkeypatch.setattr(EventJudge, "judge", judge)
    assert "was told version" in find_out()


def test_a_window_that_is_cut_too_early_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is applied and not indexed is forgotten, and nobody notices."""

    def apply(self: EventWindow, index: int, heads: object) -> None:
        self.applied_index = max(self.applied_index, index)

    monkeypatch.setattr(EventWindow, "apply", apply)
    assert find_out()


def test_an_index_ahead_of_the_log_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def index_at(self: EventSimulation, node: event_simulator.Node) -> None:
        durable, node.durable = node.durable, len(node.log)
        original(self, node)
        node.durable = durable

    original = EventSimulation.index_at
    monkeypatch.setattr(EventSimulation, "index_at", index_at)
    assert "ahead of its log" in find_out()


def test_an_index_that_loses_a_transaction_and_says_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its position says that it holds what it does not."""

    def begin(self: event_simulator.Node) -> None:
        if self.journal.transactions and self.journal.transactions[-1][0]:
            self.journal.transactions[-1] = ((), self.journal.transactions[-1][1])
        original(self)

    original = event_simulator.Node.begin
    monkeypatch.setattr(event_simulator.Node, "begin", begin)
    assert find_out()


def test_ids_that_are_forgotten_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if they had been looked up in another partition."""
    monkeypatch.setattr(EventJudge, "_judge_ids", lambda self, intent, loaded: None)
    assert find_out()
