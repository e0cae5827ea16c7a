"""Nodes that fall silent, as when a machine loses its power: no connection is reset, nobody is told."""

import attrs
import pytest
import trio

from tests.cluster.helpers import EVENT_LOG, QUICK, produce
from trio_eventlog.client.client import Client
from trio_eventlog.ids import format_id
from trio_eventlog.settings import NodeSettings
from trio_eventlog.testing.cluster import DEFAULT_NETWORK, Cluster
from trio_eventlog.testing.streams import Retransmission
from trio_eventlog.v1 import event_log_pb2

ELECTION_TIMEOUT_SECONDS = NodeSettings().election_timeout_ticks * NodeSettings().tick_seconds


async def place_of(cluster: Cluster, client: Client, topic: str) -> tuple[str, str]:
    """A topic of three replicas in a cluster of four: the name of its leader, and of the node that has no replica."""
    await client.create_topic(topic, replicas=3)
    await cluster.wait_topic(topic)
    leader = await cluster.wait_leader(topic)
    (place,) = [place for place in await client.placements() if place.topic == topic]
    (without,) = [name for name in cluster.names if format_id(cluster.node_id(name)) not in place.replica_ids]
    return leader, without


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("is_connected", [True, False])
async def test_a_silent_leader_costs_callers_elsewhere_two_election_timeouts(seed: int, is_connected: bool) -> None:
    """At the node without a replica, which hears nothing of the group's elections, with and without a connection to the leader."""
    async with Cluster(4, seed=seed) as cluster, cluster.client(settings=QUICK) as client:
        leader, without = await place_of(cluster, client, "orders")
        async with cluster.channel(without) as channel:
            if is_connected:
                await produce(channel, "orders", b"before")
            cluster.crash(leader, silently=True)
            before = trio.current_time()
            response = await produce(channel, "orders", b"after")
            assert response.base_offset == int(is_connected)
            assert not response.duplicate
            assert trio.current_time() - before < 2 * ELECTION_TIMEOUT_SECONDS + 0.2, "the look for the new leader included"


async def test_a_silent_leader_is_asked_about_once_for_all_callers() -> None:
    """A hundred callers that wait do not make the remaining replicas answer a hundred times as many questions."""
    async with Cluster(4, seed=5) as cluster, cluster.client(settings=QUICK) as client:
        leader, without = await place_of(cluster, client, "orders")
        async with cluster.channel(without) as channel:
            await produce(channel, "orders", b"before")
            cluster.crash(leader, silently=True)
            (catalog_leader,) = {await cluster.wait_leader()} - {leader}
            before = trio.current_time()
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(produce, channel, "orders", b"%d" % number)
            assert trio.current_time() - before < 2 * ELECTION_TIMEOUT_SECONDS + 0.2
            assert catalog_leader


async def test_a_stream_of_records_goes_on_when_the_node_it_comes_from_falls_silent() -> None:
    """At the node without a replica: no record is left out, none comes twice, and the consumer need not begin anew."""
    async with Cluster(4, seed=6) as cluster, cluster.client(settings=QUICK) as client:
        leader, without = await place_of(cluster, client, "orders")
        async with cluster.channel(without) as channel:
            for number in range(3):
                await produce(channel, "orders", b"%d" % number)
            request = event_log_pb2.ConsumeRequest(topic="orders", start=event_log_pb2.BEGINNING)
            async with channel.stream(EVENT_LOG["ConsumeStream"], request) as call:
                received: list[bytes] = []
                while len(received) < 3:
                    received += [record.value for record in (await call.receive()).records]
                cluster.crash(leader, silently=True)
                for number in range(3, 6):
                    await produce(channel, "orders", b"%d" % number)
                while len(received) < 6:
                    with trio.fail_after(3 * ELECTION_TIMEOUT_SECONDS):
                        received += [record.value for record in (await call.receive()).records]
                assert received == [b"%d" % number for number in range(6)]


async def test_a_stream_from_the_end_leaves_nothing_out_when_it_moves() -> None:
    """What the end was is asked once: asked again at another node, it would leave out what came meanwhile."""
    async with Cluster(4, seed=7) as cluster, cluster.client(settings=QUICK) as client:
        leader, without = await place_of(cluster, client, "orders")
        async with cluster.channel(without) as channel:
            await produce(channel, "orders", b"before")
            request = event_log_pb2.ConsumeRequest(topic="orders", start=event_log_pb2.END)
            async with channel.stream(EVENT_LOG["ConsumeStream"], request) as call:
                await trio.sleep(0.1)
                cluster.isolate(leader)
                await produce(channel, "orders", b"after")
                with trio.fail_after(3 * ELECTION_TIMEOUT_SECONDS):
                    (record,) = (await call.receive()).records
                assert record.value == b"after"


@pytest.mark.parametrize("cut_seconds", [2.0, 14.0])
async def test_after_a_silent_cut_calls_go_on_although_the_old_connections_do_not(cut_seconds: float) -> None:
    """TCP tries again what was lost only after about as long as the cut has lasted. Links and channels do not wait for that."""
    network = attrs.evolve(DEFAULT_NETWORK, retransmission=Retransmission())
    async with Cluster(3, seed=8, network=network) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        follower = next(name for name in cluster.names if name != leader)
        async with cluster.channel(follower) as channel:
            await produce(channel, "orders", b"before")
            cluster.network.cut(leader, follower)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(produce, channel, "orders", b"meanwhile")
                await trio.sleep(cut_seconds)
                cluster.heal()
                healed_at = trio.current_time()
            assert trio.current_time() - healed_at < 3.0
            await produce(channel, "orders", b"after")
            assert trio.current_time() - healed_at < 3.0
