"""Seeded simulation of whole nodes.

`--seeds N` says how many seeds (20), `--first-seed N` where to begin (0).
"""

import os
from collections import Counter

import pytest

from trio_eventlog.testing import node_simulator
from trio_eventlog.testing.node_simulator import MARKS, draw_run, run_seed

SEEDS = int(os.environ.get("TRIO_EVENTLOG_SIM_SEEDS", "20"))
FIRST = int(os.environ.get("TRIO_EVENTLOG_SIM_FIRST", "0"))

pytestmark = pytest.mark.sim

seen: Counter[str] = Counter()


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_nothing_acknowledged_is_lost_and_progress_returns(seed: int) -> None:
    """While nodes and links fail, the invariants hold; when all heals, the clients are served and the replicas are equal."""
    seen.update(run_seed(seed).counts)
    seen["runs"] += 1


def test_every_kind_of_fault_has_happened() -> None:
    """A nemesis that does nothing finds nothing."""
    if seen["runs"] < 20:
        pytest.skip("the seeds above were not run in this process, or too few of them")
    assert [what for what in MARKS if not seen[what]] == []


def test_a_seed_replays() -> None:
    """The same seed gives the same bytes at the same times, so a failure can be looked at."""
    assert run_seed(FIRST + 4).digest == run_seed(FIRST + 4).digest
    assert run_seed(FIRST + 4).digest != run_seed(FIRST + 5).digest


def test_parameters_are_drawn_apart_from_the_run() -> None:
    """Swarm testing: runs differ in kind, not only in order."""
    drawn = [draw_run(seed) for seed in range(50)]
    assert {run.nodes for run in drawn} == {3, 4, 5}
    assert any(run.faults.weights["crash"] == 0 for run in drawn)
    assert any(run.faults.weights["crash"] > 1 for run in drawn)
    assert draw_run(7) == draw_run(7)


def test_a_failure_names_its_seed_and_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed is what somebody needs who finds it in a log."""
    monkeypatch.setattr(node_simulator, "check_log", lambda history, log: ["the sky is falling"])
    with pytest.raises(AssertionError, match="the sky is falling") as caught:
        run_seed(3)
    assert "seed 3" in str(caught.value)
    assert "python -m trio_eventlog.testing.node_simulator 3" in str(caught.value)
