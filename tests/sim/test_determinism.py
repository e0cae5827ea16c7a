"""A seed names one run: in this process, again in this process, and in another one whose hashes are salted differently."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.testing import core_simulator, determinism, node_simulator
from trio_eventlog.testing.cluster import Cluster

CORE_SEEDS = range(10)


async def tell_a_story(seed: int) -> tuple[str, int]:
    """A bit of everything: topics, batches, a crash, a cut, a restart."""
    async with Cluster(3, seed=seed) as cluster:
        async with cluster.client(settings=ClientSettings(attempt_timeout_seconds=1.0)) as client, trio.open_nursery() as nursery:
            await client.create_topic("orders", partitions=2)

            async def produce(number: int) -> None:
                for value in range(10):
                    await client.produce("orders", b"%d-%d" % (number, value), partition=number % 2)

            for number in range(4):
                nursery.start_soon(produce, number)
            leader = await cluster.wait_leader("orders", 0)
            cluster.crash(leader)
            await cluster.wait_leader("orders", 0)
            await cluster.restart(leader)
            await cluster.wait_leader()
            cluster.isolate(cluster.random("story").choice(cluster.names))
            await trio.sleep(2.0)
            cluster.heal()
        for partition in range(2):
            await cluster.wait_converged("orders", partition)
        return cluster.trace.digest, cluster.trace.count


def test_a_seed_repeats_itself_in_one_process() -> None:
    """The same seed twice: every byte on the network at the same time. Another seed: another run."""
    first = determinism.run(tell_a_story, 5, seed=5)
    assert determinism.run(tell_a_story, 5, seed=5) == first
    assert determinism.run(tell_a_story, 6, seed=6) != first
    assert first[1] > 300


def fingerprints(node_seeds: Sequence[int]) -> list[str]:
    """Of a few runs of every simulator."""
    story = determinism.run(tell_a_story, 7, seed=7)
    nodes = [node_simulator.run_seed(seed).digest for seed in node_seeds]
    cores = [core_simulator.run_seed(seed).fingerprint.hexdigest() for seed in CORE_SEEDS]
    return [story[0], *nodes, *cores]


@pytest.mark.parametrize("node_seeds", [(), pytest.param((1, 2), marks=pytest.mark.slow)])
def test_seeds_repeat_themselves_in_other_processes(node_seeds: tuple[int, ...]) -> None:
    """Salted hashes of strings and bytes, and other addresses of objects, change nothing: in stories, whole nodes and cores."""
    expected = fingerprints(node_seeds)
    assert len(set(expected)) == len(expected) == 1 + len(node_seeds) + len(CORE_SEEDS)
    root = Path(__file__).resolve().parents[2]
    for salt in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, __file__, *map(str, node_seeds)],
            env=os.environ | {"PYTHONHASHSEED": salt, "PYTHONPATH": str(root)},
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.split() == expected


async def _order_of_tasks() -> list[int]:
    order: list[int] = []

    async def one(number: int) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(one, number)
    return order


def test_the_private_switch_of_trio_is_still_there() -> None:
    """The canary: Trio's scheduling follows from our seed, and is as free as before outside of the block."""
    assert determinism.run(_order_of_tasks, seed=1) == determinism.run(_order_of_tasks, seed=1)
    assert determinism.run(_order_of_tasks, seed=1) != determinism.run(_order_of_tasks, seed=2)
    free = {tuple(trio.run(_order_of_tasks)) for _ in range(20)}
    assert len(free) > 1


def test_a_trio_without_the_switch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather an error than runs that only seem to repeat."""
    monkeypatch.delattr(f"trio._core._run.{determinism.SWITCH}")
    with pytest.raises(RuntimeError, match="cannot be made deterministic"):
        determinism.run(_order_of_tasks, seed=1)


def test_generators_are_derived_by_name() -> None:
    """One generator's draws do not depend on another's."""
    network = determinism.derive(1, "network")
    disk = determinism.derive(1, "disk")
    assert network.random() != disk.random()
    assert determinism.derive(1, "network").random() != determinism.derive(2, "network").random()
    assert determinism.derive(3, "nemesis").getrandbits(64) == 17252899576383349783


if __name__ == "__main__":
    print(*fingerprints([int(seed) for seed in sys.argv[1:]]))
