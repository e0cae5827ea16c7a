"""Seeded simulation of the cores alone.

`TRIO_EVENTLOG_SIM_SEEDS` says how many seeds (200), `TRIO_EVENTLOG_SIM_FIRST` where to begin (0).
"""

import os
from collections import Counter

import pytest

from trio_eventlog.raft.log import RaftLog
from trio_eventlog.testing.core_simulator import MARKS, CoreSimulation, InvariantViolated, run_seed

SEEDS = int(os.environ.get("TRIO_EVENTLOG_SIM_SEEDS", "200"))
FIRST = int(os.environ.get("TRIO_EVENTLOG_SIM_FIRST", "0"))
PER_TEST = 20

pytestmark = pytest.mark.sim

seen: Counter[str] = Counter()


@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, PER_TEST))
def test_invariants_hold_and_progress_returns(first: int) -> None:
    """Whatever breaks, the invariants hold after every event; when all heals, the group agrees and moves on."""
    for seed in range(first, min(first + PER_TEST, FIRST + SEEDS)):
        seen.update(run_seed(seed).counts)


def test_the_rare_branches_were_reached() -> None:
    """Coverage that is lost quietly is lost for long: over the seeds above each of these has to happen."""
    if seen["start"] < 500:
        pytest.skip("the seeds above were not run in this process, or too few of them")
    assert [what for what in MARKS if not seen[what]] == []


def test_a_seed_replays() -> None:
    """The same seed gives the same events, so a failure can be looked at."""
    fingerprints = {run_seed(FIRST).fingerprint.hexdigest() for _ in range(2)}
    assert len(fingerprints) == 1
    assert run_seed(FIRST + 1).fingerprint.hexdigest() not in fingerprints


def test_the_trace_does_not_change_the_run() -> None:
    """A failure is run a second time for its trace: with it everything has to happen as it did without."""
    lines: list[str] = []
    assert run_seed(FIRST, lines.append).fingerprint.hexdigest() == run_seed(FIRST).fingerprint.hexdigest()


def test_the_trace_has_a_column_for_each_node() -> None:
    """Somebody has to read it: one line for each step, what happened on the left, each node in its column."""
    lines: list[str] = []
    simulation = run_seed(FIRST, lines.append)
    header, first, *_ = lines
    assert [name.strip() for name in header.split("|")[1:-1]] == [f"node {node}" for node in simulation.replicas]
    assert "start: 1" in first
    assert {line.count("|") for line in lines} == {len(simulation.replicas) + 1}
    times = [float(line.split()[0]) for line in lines if not line.endswith("|") or line.split()[0] != "tick"]
    assert times == sorted(times)


def test_a_failure_says_all_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed, parameters, source, the last steps, and the one command that shows it again: for those who find it in a log."""
    monkeypatch.setattr(RaftLog, "is_up_to_date", lambda self, index, term: True)
    for seed in range(200):
        try:
            CoreSimulation(seed).run()
        except InvariantViolated as error:
            reason = str(error)
            break
        except AssertionError:
            continue
    else:
        pytest.fail("elections that ask for no log went unnoticed")
    with pytest.raises(InvariantViolated) as caught:
        run_seed(seed)
    text = str(caught.value)
    for needed in (
        f"seed {seed}: {reason}",
        "Parameters(voters=",
        "commit ",
        f"core_simulator --seed {seed}",
        "|node 1 ",
        "FAILED: ",
    ):
        assert needed in text
