"""Seeded simulation of the cores alone.

`TRIO_EVENTLOG_SIM_SEEDS` says how many seeds (200), `TRIO_EVENTLOG_SIM_FIRST` where to begin (0).
"""

import os
from collections import Counter

import pytest

from trio_eventlog.testing.core_simulator import MARKS, run_seed

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
