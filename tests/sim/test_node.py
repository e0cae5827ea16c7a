"""Seeded simulation of whole nodes.

`--seeds N` says how many seeds (4), `--first-seed N` where to begin (0).
Many seeds: `python -m trio_eventlog.testing.campaign nodes`.
"""

import os
import re
from collections import Counter

import pytest

from trio_eventlog.testing import node_ending
from trio_eventlog.testing.campaign import KINDS
from trio_eventlog.testing.nemesis import FAULTS
from trio_eventlog.testing.node_simulator import MARKS, draw_run, run_seed

SEEDS = int(os.environ.get("TRIO_EVENTLOG_SIM_SEEDS", "4"))
FIRST = int(os.environ.get("TRIO_EVENTLOG_SIM_FIRST", "0"))

pytestmark = pytest.mark.sim

seen: Counter[str] = Counter()


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_nothing_acknowledged_is_lost_and_progress_returns(seed: int) -> None:
    """While nodes, disks, clocks and links fail, the invariants hold; when a majority heals, clients are served, replicas equal."""
    seen.update(run_seed(seed).counts)
    seen["runs"] += 1


def test_every_mark_was_reached() -> None:
    """Coverage that is lost quietly is lost for long."""
    if seen["runs"] < KINDS["nodes"].marked_seeds_min:
        pytest.skip("the seeds above were not run in this process, or too few of them")
    assert [what for what in MARKS if not seen[what]] == []


@pytest.mark.slow
def test_a_seed_replays() -> None:
    """The same seed gives the same bytes at the same times, so a failure can be looked at."""
    first = run_seed(FIRST + 4)
    assert run_seed(FIRST + 4).digest == first.digest
    assert run_seed(FIRST + 5).digest != first.digest


def test_parameters_are_drawn_apart_from_the_run() -> None:
    """Swarm testing: runs differ in kind, not only in order; every fault is off in some runs and much of the time in others."""
    drawn = [draw_run(seed) for seed in range(100)]
    assert {run.nodes for run in drawn} == {3, 4, 5}
    for fault in FAULTS:
        weights = {run.faults.weights[fault] for run in drawn}
        assert 0 in weights
        assert len(weights) > 10
    assert {run.faults.heals_all for run in drawn} == {True, False}
    assert draw_run(7) == draw_run(7)


def test_a_failure_names_its_seed_and_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed is what somebody needs who finds it in a log: seed, parameters, release, and the command."""
    monkeypatch.setattr(node_ending, "check_log", lambda history, log, start: ["the sky is falling"])
    with pytest.raises(AssertionError, match="the sky is falling") as caught:
        run_seed(1)
    text = str(caught.value)
    assert "seed 1" in text
    assert "python -m trio_eventlog.testing.node_simulator 1" in text
    assert f"nodes {draw_run(1).nodes}, " in text
    assert re.search(r"trio-eventlog \d\.\d", text)


def test_a_run_tells_each_step_with_a_column_for_each_node() -> None:
    """Who leads which term, and how far each is, beside what was done."""
    lines: list[str] = []
    run_seed(FIRST + 1, write=lines.append)
    nodes = draw_run(FIRST + 1).nodes + draw_run(FIRST + 1).spares
    assert lines[0].split() == ["seconds", *(f"n{number + 1}" for number in range(nodes)), "step"]
    step = re.compile(r" *\d+\.\d{4} ")
    assert all(step.match(line) for line in lines[1:])
    assert any(re.search(r"L\d+:\d+/\d+ .*became leader", line) for line in lines)
    assert any("nemesis: " in line for line in lines)
