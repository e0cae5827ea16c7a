"""Replicas by seed: drivers, logs and cores, with slow disks and long ways, and nothing around them."""

import pytest

from tests.sim.replica_simulation import run_seed

SEEDS = range(16)


@pytest.mark.parametrize("seed", SEEDS)
def test_replicas(seed: int) -> None:
    """All that `replica_simulation` says."""
    run_seed(seed)


def test_everything_happens() -> None:
    """A simulation in which nothing happens finds nothing."""
    counts = run_seed(1) + run_seed(3) + run_seed(5)
    faults = ("slow", "campaign", "usurp", "transfer", "cut", "crash", "restart")
    for what in (*faults, "reads", "suffix replaced", "caught up", "removed"):
        assert counts[what], what


def test_a_seed_gives_the_same_run_again() -> None:
    assert run_seed(2) == run_seed(2)
