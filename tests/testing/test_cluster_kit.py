"""What a `Cluster` is to whoever tests with it."""

import math

import pytest
import trio

from trio_eventlog.errors import StorageFailed
from trio_eventlog.records import Record
from trio_eventlog.testing import Cluster, CrashMode, NodeFailed, run
from trio_eventlog.testing.cluster_view import ClusterView


async def produce(cluster: Cluster) -> tuple[float, str]:
    async with cluster.client() as client:
        await client.produce("orders", b"one")
        before = trio.current_time()
        await client.produce("orders", b"two")
        return trio.current_time() - before, cluster.trace.digest


def test_each_run_begins_anew() -> None:
    """The same story twice, to the byte; and what was done to the cluster is not there the next time."""
    cluster = Cluster(3, seed=4)
    first = cluster.run(produce)

    async def damage(cluster: Cluster) -> None:
        cluster.slow_disk("n1", 5.0)
        cluster.isolate("n2")
        cluster.crash("n3")

    cluster.run(damage)
    assert cluster.run(produce) == first
    assert Cluster(3, seed=4).run(produce) == first
    assert Cluster(3, seed=5).run(produce) != first
    assert repr(cluster) == "Cluster(3, seed=4)"


def test_it_is_a_block_of_any_program_in_virtual_time() -> None:
    """`run` is `trio.run`; a program in real time is told so rather than left waiting."""

    async def program(seed: int) -> tuple[float, str]:
        async with Cluster(3, seed=seed) as cluster:
            await cluster.wait_ready()
            return await produce(cluster)

    # (The deadline of a run travels with its calls.)
    assert run(program, 4, seed=4) == Cluster(3, seed=4, run_seconds_max=math.inf).run(produce)
    with pytest.raises(AssertionError, match="in real time this takes for ever"):
        trio.run(program, 4)


def test_slow_disks_are_felt() -> None:
    """A majority of them: an acknowledgement waits for their fsync."""

    async def slow(cluster: Cluster) -> tuple[float, str]:
        for name in ("n1", "n2"):
            cluster.slow_disk(name, 0.5)
        return await produce(cluster)

    assert Cluster(3).run(produce)[0] < 0.1
    assert Cluster(3).run(slow)[0] >= 0.5


@pytest.mark.parametrize("survives", [True, False])
def test_a_power_failure_loses_what_was_not_synced(survives: bool) -> None:
    """A killed process does not."""

    async def story(cluster: Cluster) -> int:
        disk = cluster.disk("n1")
        file = await disk.open("data/mine", create=True)
        await disk.sync_directory("data")
        await file.write_at(0, [b"unsynced"])
        if survives:
            cluster.crash("n1", CrashMode.KEEP)
        else:
            cluster.lose_unsynced_writes("n1")
        return (await cluster.disk("n1").open("data/mine")).size_bytes

    assert Cluster(1).run(story) == (8 if survives else 0)


def test_time_is_the_tests() -> None:
    """An hour passes when nothing else is to be done; a test that never ends is ended."""

    async def an_hour(cluster: Cluster) -> float:
        before = trio.current_time()
        await cluster.advance(3600)
        return trio.current_time() - before

    assert Cluster(1, tick_seconds=10.0, run_seconds_max=4000.0).run(an_hour) == pytest.approx(3600)

    async def for_ever(cluster: Cluster) -> None:
        await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError):
        Cluster(3, run_seconds_max=5.0).run(for_ever)


def test_errors_come_out_as_they_are() -> None:
    """With seed and time as a note, the state is kept; a node that stops by itself fails the test, whatever that waits for."""

    async def fail(cluster: Cluster) -> None:
        raise KeyError("mine")

    cluster = Cluster(1, seed=9)
    with pytest.raises(KeyError, match="mine") as caught:
        cluster.run(fail)
    (note,) = caught.value.__notes__
    assert note.startswith("seed 9, at ")
    assert "n1: catalog: leader" in cluster.state_at_failure

    async def break_a_disk(cluster: Cluster) -> None:
        cluster.disk("n1").cut_power_after(0)
        async with cluster.client() as client:
            await client.produce("orders", b"one")

    with pytest.RaisesGroup(NodeFailed) as group:
        Cluster(1, seed=9).run(break_a_disk)
    assert group.value.exceptions[0].__notes__[0].startswith("seed 9, time ")


def test_what_cannot_be_read_does_not_take_the_place_of_the_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes out as it is, and the other partitions are told of under their own numbers."""
    read = ClusterView.read

    async def read_some(self: ClusterView, name: str, topic: str, partition: int = 0) -> list[Record]:
        if partition == 0:
            raise StorageFailed("broken")
        return await read(self, name, topic, partition)

    async def fail(cluster: Cluster) -> None:
        async with cluster.client() as client:
            await client.create_topic("orders", partitions=2)
            await client.produce("orders", b"x", partition=1)
        raise KeyError("mine")

    monkeypatch.setattr(ClusterView, "read", read_some)
    cluster = Cluster(1, seed=9)
    with pytest.raises(KeyError, match="mine"):
        cluster.run(fail)
    assert cluster.logs_at_failure == ["orders/1 holds 1 records, the last: 0: b'x'"]
