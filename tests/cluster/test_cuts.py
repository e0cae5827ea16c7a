"""A network that falls apart and comes together again."""

import pytest
import trio

from tests.cluster.helpers import EVENT_LOG, QUICK, consume, produce, produce_request, values_on
from trio_eventlog.errors import EventLogError, NoQuorum, OutcomeUnknown
from trio_eventlog.records import Acks
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import Operation
from trio_eventlog.v1 import event_log_pb2


def others(cluster: Cluster, name: str) -> list[str]:
    return [other for other in cluster.names if other != name]


async def test_minority_refuses_produce_while_the_majority_goes_on() -> None:
    """A leader cut off with nobody acknowledges nothing: of what it has appended the outcome is unknown, and once it has stepped
    down it says NO_QUORUM in time; the others elect and go on."""
    async with Cluster(3, seed=11, forward_timeout_seconds=5.0) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        # Before that it takes nothing.
        await cluster.wait_until(lambda: cluster.replica(leader, "orders").status().hard_state.commit > 0, "its term has begun")  # type: ignore[union-attr]
        majority = others(cluster, leader)
        cluster.partition([leader], majority)
        async with cluster.channel(leader) as channel:
            with pytest.raises(OutcomeUnknown, match="may have had its effect"):
                await produce(channel, "orders", b"by the minority")
            with pytest.raises(NoQuorum, match="nothing was changed"):
                await produce(channel, "orders", b"by the minority, once it has stepped down")
        new_leader = await cluster.wait_leader("orders", other_than=leader)
        assert new_leader in majority
        async with cluster.channel(new_leader) as channel:
            response = await produce(channel, "orders", b"by the majority")
            assert response.base_offset == 0
        cluster.heal()
        await cluster.wait_converged("orders")
        for name in cluster.names:
            assert await values_on(cluster, name, "orders") == [b"by the majority"], "the minority's suffix is gone"


async def test_the_client_s_deadline_is_kept_by_a_node_without_quorum() -> None:
    """The caller's own deadline comes first: the call ends with it, and the node forgets about it."""
    async with Cluster(3, seed=12) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        cluster.partition([leader], others(cluster, leader))
        async with cluster.channel(leader) as channel:
            before = trio.current_time()
            with pytest.raises(trio.TooSlowError):
                with trio.fail_after(0.7):
                    await channel.unary(EVENT_LOG["Produce"], produce_request("orders", [b"x"]))
            assert trio.current_time() - before == pytest.approx(0.7)


async def test_unacknowledged_suffix_of_an_old_leader_is_replaced() -> None:
    """What a cut-off leader has appended for itself alone is gone after healing, on its own disk too; acknowledged by the
    leader's disk only (acks leader) it was lost, as such acknowledgements may be."""
    async with Cluster(3, seed=13) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        async with cluster.channel(leader) as channel:
            await produce(channel, "orders", b"kept")
            cluster.partition([leader], others(cluster, leader))
            with trio.move_on_after(0.3):
                await produce(channel, "orders", b"lost")
            response = await produce(channel, "orders", b"on the leader's disk", acks=Acks.LEADER)
            assert response.base_offset == 2
            seen = await consume(channel, "orders")
            assert [record.value for record in seen.records] == [b"kept"], "what is not committed is nobody's to read"
            assert seen.high_watermark == 1
        replica = cluster.replica(leader, "orders")
        assert replica is not None
        assert replica.log.log_end_offset == 3
        new_leader = await cluster.wait_leader("orders", other_than=leader)
        async with cluster.channel(new_leader) as channel:
            assert (await produce(channel, "orders", b"new")).base_offset == 1
        cluster.heal()
        await cluster.wait_converged("orders")
        for name in cluster.names:
            assert await values_on(cluster, name, "orders") == [b"kept", b"new"]
        assert replica.log.log_end_offset == 2


async def test_a_slow_follower_does_not_stop_the_others() -> None:
    """One node whose disk takes seconds: the other two acknowledge as quickly as before, and it catches up in the end."""
    async with Cluster(3, seed=14, tail_cache_bytes=4096) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        catalog_leader = await cluster.wait_leader()
        slow = next(name for name in cluster.names if name not in (leader, catalog_leader))
        cluster.disk(slow).latency_seconds[Operation.SYNC] = 3.0
        before = trio.current_time()
        for number in range(50):
            await client.produce("orders", b"%d" % number + bytes(1000))
        assert trio.current_time() - before < 1.0
        cluster.disk(slow).latency_seconds[Operation.SYNC] = 0.001
        await cluster.wait_converged("orders")
        assert len(await values_on(cluster, slow, "orders")) == 50


async def test_a_follower_cut_off_for_long_catches_up_from_the_disk() -> None:
    """What the leader's memory no longer holds (the tail cache is tiny here) is read back from its segments, many of them."""
    async with Cluster(3, seed=15, tail_cache_bytes=2000, segment_bytes=8192) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        away = next(name for name in cluster.names if name != leader)
        cluster.isolate(away)
        for number in range(100):
            await client.produce("orders", b"%d" % number + bytes(500))
        replica = cluster.replica(leader, "orders")
        assert replica is not None
        assert replica.log.segment_count > 5
        cluster.heal()
        await cluster.wait_converged("orders")
        assert len(await values_on(cluster, away, "orders")) == 100


async def test_one_way_cut_from_the_leader() -> None:
    """The followers hear nothing any more while the leader hears them: it steps down for lack of answers, another leads."""
    async with Cluster(3, seed=16) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        for other in others(cluster, leader):
            cluster.network.cut(leader, other, both_ways=False)
        await cluster.wait_leader("orders", other_than=leader, seconds_max=10)
        result = await client.produce("orders", b"x")
        assert result.base_offset == 0
        cluster.heal()
        await cluster.wait_converged("orders")


async def test_errors_without_a_quorum_name_what_to_do() -> None:
    """Reads go on at a node that is alone, as far as it knows the log; what needs the others says so."""
    async with Cluster(3, seed=17, forward_timeout_seconds=3.0) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await client.produce("orders", b"a")
        await cluster.wait_converged("orders")
        cluster.partition(["n1"], ["n2", "n3"])
        async with cluster.channel("n1") as channel:
            response = await consume(channel, "orders")
            assert [record.value for record in response.records] == [b"a"]
            with pytest.raises(NoQuorum, match="COMMITTED"):
                await consume(channel, "orders", consistency=event_log_pb2.LINEARIZABLE)
            with pytest.raises((NoQuorum, OutcomeUnknown)) as caught:
                await produce(channel, "orders", b"b")
            assert isinstance(caught.value, EventLogError)
            assert caught.value.retryable
