"""Processes that stand still, ticks that drift, wall clocks that jump."""

import pytest
import trio

from tests.cluster.helpers import QUICK, consume, produce
from trio_eventlog.errors import EventLogError
from trio_eventlog.testing import determinism
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.machines import EPOCH_NS
from trio_eventlog.v1 import event_log_pb2


async def test_a_stopped_process_takes_no_step() -> None:
    """Nothing of it moves, whatever arrives; the others see a silent peer and elect another leader."""
    async with Cluster(3, seed=11) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        replica = cluster.replica(leader, "orders")
        assert replica is not None
        cluster.pause(leader)
        await trio.sleep(0.001)
        before = (replica.status(), cluster.disk(leader).statistics.writes)
        successor = await cluster.wait_leader("orders", other_than=leader)
        await client.produce("orders", b"after")
        await trio.sleep(30)
        assert (replica.status(), cluster.disk(leader).statistics.writes) == before
        assert replica.is_leader, "it does not know yet"
        cluster.resume(leader)
        await cluster.wait_until(lambda: not replica.is_leader, "the old leader learns of the new one")
        await cluster.wait_converged("orders")
        assert await cluster.wait_leader("orders") == successor


async def test_a_leader_that_wakes_up_tells_nothing_old_and_promises_nothing() -> None:
    """Asked while it stood still: a linearizable read shows what others have acknowledged since, a batch is not lost."""
    async with Cluster(3, seed=12) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        await client.produce("orders", b"before")
        outcomes: list[object] = []

        async def ask(what: str) -> None:
            try:
                async with cluster.channel(leader) as channel:
                    if what == "produce":
                        outcomes.append((await produce(channel, "orders", b"late")).base_offset)
                    else:
                        answer = await consume(channel, "orders", start=event_log_pb2.END, consistency=event_log_pb2.LINEARIZABLE)
                        assert answer.high_watermark >= 2, "the record acknowledged meanwhile is seen"
                        outcomes.append("read")
            except (EventLogError, OSError) as error:
                outcomes.append(error)

        async with trio.open_nursery() as nursery:
            cluster.pause(leader)
            nursery.start_soon(ask, "produce")
            nursery.start_soon(ask, "read")
            await cluster.wait_leader("orders", other_than=leader)
            assert (await client.produce("orders", b"meanwhile")).base_offset == 1
            await trio.sleep(5)
            cluster.resume(leader)
        assert len(outcomes) == 2
        assert 1 not in outcomes, "offset 1 has another record"
        await cluster.wait_converged("orders")
        values = [record.value for record in await cluster.read(leader, "orders")]
        assert values[:2] == [b"before", b"meanwhile"]
        assert (2 in outcomes) == (b"late" in values[2:])


async def test_a_paused_node_can_crash() -> None:
    """SIGKILL reaches a stopped process."""
    async with Cluster(3, seed=13) as cluster:
        leader = await cluster.wait_leader()
        cluster.pause(leader)
        await trio.sleep(1)
        cluster.crash(leader)
        await cluster.start(leader)
        await cluster.wait_converged()


async def test_ticks_of_different_length() -> None:
    """The leader's are a third longer than the others': it stays in the lead."""
    async with Cluster(3, seed=14, starts=False) as cluster:
        cluster.settings_of["n1"]["tick_seconds"] = 0.133
        for name in cluster.names:
            await cluster.start(name)
        await cluster.wait_converged()
        leader = await cluster.wait_leader()
        if leader != "n1":
            cluster.node(leader).parts.replicas.catalog.driver.requests.transfer_leadership(cluster.node_id("n1"))
        await cluster.wait_until(lambda: cluster.leader() == "n1", "the slow one leads")
        replica = cluster.replica("n1")
        assert replica is not None
        term = replica.status().hard_state.term
        await trio.sleep(60)
        assert (replica.is_leader, replica.status().hard_state.term) == (True, term)


@pytest.mark.parametrize("seconds", [-86_400.0 * 365, 86_400.0 * 365])
def test_nothing_is_decided_by_the_wall_clock(seconds: float) -> None:
    """With another date on every node and client the same bytes leave at the same times, but for the dates in them."""

    async def story(shift_seconds: float) -> tuple[list[tuple[float, str, str, int]], list[int]]:
        sent: list[tuple[float, str, str, int]] = []
        async with Cluster(3, seed=15) as cluster:
            cluster.network.on_write = lambda source, target, data: sent.append((trio.current_time(), source, target, len(data)))
            async with cluster.client(name="client", settings=QUICK) as client:
                await client.create_topic("orders")
                await cluster.wait_topic("orders")
                for number in range(10):
                    if number == 5:
                        for name in (*cluster.names, "client"):
                            cluster.shift_wall_clock(name, shift_seconds)
                    await client.produce("orders", b"%d" % number)
                cluster.crash(await cluster.wait_leader("orders"))
                await cluster.wait_leader("orders")
                await client.produce("orders", b"last")
            (name, *_) = cluster.running
            replica = cluster.replica(name, "orders")
            assert replica is not None
            stamps = [record.timestamp_ns for record in await cluster.read(name, "orders")]
            # The first batch that is not older, in the order of the log, whatever the clock did in between.
            assert await replica.offset_at_timestamp(stamps[5]) == next(at for at, ns in enumerate(stamps) if ns >= stamps[5])
            return sent, stamps

    plain, stamps = determinism.run(story, 0.0, seed=15)
    shifted, other_stamps = determinism.run(story, seconds, seed=15)
    assert shifted == plain
    assert stamps[:5] == other_stamps[:5]
    assert [ns - round(seconds * 1e9) for ns in other_stamps[5:]] == stamps[5:]
    assert all(abs(ns - EPOCH_NS) < 600e9 for ns in stamps)
