"""Stopping in order, and not stopping in order."""

import pytest
import trio

from tests.cluster.helpers import EVENT_LOG, QUICK, values_on
from tests.cluster.test_leader_failure import check_acknowledged, produce_many
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode
from trio_eventlog.v1 import event_log_pb2


async def test_a_graceful_stop_hands_leadership_over() -> None:
    """The gap that a producer sees is far below an election timeout (1 to 2 s)."""
    async with Cluster(3, seed=31) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        worst_seconds = 0.0
        is_over = False

        async def produce_all_the_time() -> None:
            nonlocal worst_seconds
            while not is_over:
                before = trio.current_time()
                await client.produce("orders", b"x")
                worst_seconds = max(worst_seconds, trio.current_time() - before)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_all_the_time)
            await trio.sleep(0.5)
            await cluster.stop(leader)
            await trio.sleep(0.5)
            is_over = True
        assert worst_seconds < 0.1
        assert await cluster.wait_leader("orders") != leader


async def test_leadership_goes_before_the_last_calls_do() -> None:
    """A call that takes its time keeps the stopping node up for a while, but not in the lead."""
    async with Cluster(3, seed=37) as cluster, cluster.client(settings=QUICK) as client, trio.open_nursery() as nursery:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        async with cluster.channel(leader) as channel:
            request = event_log_pb2.ConsumeRequest(topic="orders")
            request.max_wait.seconds = 5
            nursery.start_soon(channel.unary, EVENT_LOG["Consume"], request)
            await trio.sleep(0.1)
            before = trio.current_time()
            nursery.start_soon(cluster.stop, leader)
            await trio.lowlevel.checkpoint()
            await cluster.wait_leader("orders", other_than=leader)
            assert trio.current_time() - before < 0.2
            assert not cluster.is_startable(leader), "it is not over yet"
            await cluster.wait_down(leader)
            assert trio.current_time() - before > 4


async def test_shutdown_under_load_loses_nothing_acknowledged() -> None:
    """A rolling restart of all three while batches stream in."""
    acknowledged: dict[bytes, int] = {}
    async with Cluster(3, seed=32) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_many, client, "orders", 400, acknowledged)
            for name in cluster.names:
                await trio.sleep(0.1)
                await cluster.stop(name)
                await trio.sleep(0.1)
                await cluster.start(name)
                await cluster.wait_leader("orders")
        assert len(acknowledged) == 400
        await check_acknowledged(cluster, "orders", acknowledged)


async def test_all_nodes_crash_at_once_and_lose_what_was_not_synced() -> None:
    """A power failure: everything acknowledged is there afterwards, once, at its offset."""
    acknowledged: dict[bytes, int] = {}
    async with Cluster(3, seed=33) as cluster:
        async with cluster.client(settings=QUICK) as client:
            await client.create_topic("orders")
            await cluster.wait_topic("orders")
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(produce_many, client, "orders", 10_000, acknowledged)
                    await cluster.wait_until(lambda: len(acknowledged) > 100, "some batches are acknowledged")
                    for name in cluster.names:
                        cluster.crash(name, CrashMode.LOSE)
                    scope.cancel()
        for name in cluster.names:
            await cluster.start(name)
        await cluster.wait_topic("orders")
        await check_acknowledged(cluster, "orders", acknowledged)


async def test_a_restarted_single_node_serves_at_once() -> None:
    """A group of one waits for nobody: no election timeout passes before its records can be read."""
    async with Cluster(1, seed=34) as cluster:
        async with cluster.client(settings=QUICK) as client:
            await client.produce("orders", b"a", b"b")
        for mode in (CrashMode.LOSE, CrashMode.DRAW, None):
            if mode is None:
                await cluster.stop("n1")
            else:
                cluster.crash("n1", mode)
            before = trio.current_time()
            await cluster.start("n1")
            await cluster.wait_topic("orders")
            await cluster.wait_until(lambda: cluster.replica("n1", "orders").watermark.value == 2, "its records")  # type: ignore[union-attr]
            assert trio.current_time() - before < 0.1
            assert await values_on(cluster, "n1", "orders") == [b"a", b"b"]


async def test_a_follower_returns_from_the_dead() -> None:
    """Down while much was produced, its unsynced writes lost: it catches up and is as the others."""
    async with Cluster(3, seed=35) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        follower = next(name for name in cluster.names if name != leader)
        await client.produce("orders", b"before")
        cluster.crash(follower)
        for number in range(30):
            await client.produce("orders", b"%d" % number)
        await cluster.start(follower)
        await cluster.wait_converged("orders")
        assert len(await values_on(cluster, follower, "orders")) == 31


async def test_a_node_cancelled_from_outside_hands_over_too() -> None:
    """The embedding application is cancelled, as by Ctrl-C: there is a second for the leadership, and no election follows."""
    async with Cluster(3, seed=36) as cluster:
        leader = await cluster.wait_leader()
        await cluster.wait_converged()
        cluster._machines.lives[leader].scope.cancel()
        before = trio.current_time()
        await cluster.wait_leader(other_than=leader)
        assert trio.current_time() - before < 0.1


async def test_a_stopping_node_that_is_handed_a_leadership_hands_it_on() -> None:
    """A call keeps it up for a while; somebody who does not know that it is going makes it a leader meanwhile."""
    async with Cluster(3, seed=38) as cluster, cluster.client(settings=QUICK) as client, trio.open_nursery() as nursery:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        stopping_id = cluster.node_id(leader)
        async with cluster.channel(leader) as channel:
            request = event_log_pb2.ConsumeRequest(topic="orders")
            request.max_wait.seconds = 5
            nursery.start_soon(channel.unary, EVENT_LOG["Consume"], request)
            await trio.sleep(0.1)
            stopping = cluster.replica(leader, "orders")
            assert stopping is not None
            nursery.start_soon(cluster.stop, leader)
            successor = await cluster.wait_leader("orders", other_than=leader)
            replica = cluster.replica(successor, "orders")
            assert replica is not None
            assert await replica.transfer_leadership(stopping_id, 1.0) == stopping_id
            await cluster.wait_leader("orders", other_than=leader, seconds_max=0.5)
            assert not cluster.is_startable(leader), "it is not over yet"
            assert not stopping.is_leader
            await cluster.wait_down(leader)


@pytest.mark.parametrize("seed", range(4))
async def test_nodes_that_are_stopped_together_stop_quickly_and_quietly(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Each leader hands over to a node that is stopping too. That is no news for anybody, and nobody waits for it."""
    async with Cluster(3, seed=seed) as cluster, cluster.client(settings=QUICK) as client:
        for number in range(6):
            await client.create_topic(f"t{number}")
            await client.produce(f"t{number}", b"x")
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            for name in cluster.names:
                nursery.start_soon(cluster.stop, name)
        assert trio.current_time() - before < 1.5, "the clients' second included"
    assert not [record for record in caplog.records if "could not be handed over" in record.getMessage()]
