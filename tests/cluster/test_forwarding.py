"""Calls that reach a node that cannot serve them."""

import pytest
import trio

from tests.cluster.helpers import ADMIN, EVENT_LOG, QUICK, produce, produce_request
from trio_eventlog.errors import InvalidArgument, NotLeader
from trio_eventlog.grpc.callers import FORWARDED
from trio_eventlog.ids import format_id
from trio_eventlog.rpc import Channel
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.v1 import admin_pb2, event_log_pb2


async def test_any_node_takes_any_call() -> None:
    """Produce and catalog commands at a node that leads neither: carried to the leader, answered as if it were it."""
    async with Cluster(3, seed=71) as cluster:
        await cluster.wait_leader()
        for number, name in enumerate(cluster.names):
            async with cluster.channel(name) as channel:
                response = await produce(channel, "orders", b"x")
                assert (response.topic, response.partition, response.base_offset) == ("orders", 0, number)
                await channel.unary(ADMIN["CreateTopic"], admin_pb2.CreateTopicRequest(name=name))
                listed = await channel.unary(ADMIN["ListTopics"], admin_pb2.ListTopicsRequest())
                assert name in [topic.name for topic in listed.topics], "what a call has made is there for the next one"


async def test_a_call_is_carried_on_once_and_never_again() -> None:
    """Nodes that believe each other to be the leader cannot send a call in circles: a carried call is served or refused."""
    async with Cluster(3, seed=72) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        follower = next(name for name in cluster.names if name != leader)
        async with cluster.channel(follower) as channel:

            async def carried(channel: Channel, method: object, request: object) -> object:
                return await channel.unary(method, request, metadata=((FORWARDED, "1"),))  # type: ignore[arg-type]

            before = trio.current_time()
            with pytest.raises(NotLeader) as caught:
                await carried(channel, EVENT_LOG["Produce"], produce_request("orders", [b"x"]))
            assert caught.value.leader_id == cluster.node_id(leader)
            catalog_leader = await cluster.wait_leader()
            other = next(name for name in cluster.names if name != catalog_leader)
            async with cluster.channel(other) as other_channel:
                with pytest.raises(NotLeader):
                    await carried(other_channel, ADMIN["CreateTopic"], admin_pb2.CreateTopicRequest(name="t"))
                with pytest.raises(NotLeader):
                    await carried(other_channel, ADMIN["DeleteTopic"], admin_pb2.DeleteTopicRequest(name="orders"))
                with pytest.raises(NotLeader):
                    await carried(other_channel, ADMIN["TransferLeadership"], admin_pb2.TransferLeadershipRequest(group_id=0))
            assert trio.current_time() - before < 0.1, "refused at once"


async def test_a_call_does_not_hang_at_a_leader_that_was_cut_off() -> None:
    """Its connections stay open and silent; the call goes to the next leader as soon as there is one."""
    async with Cluster(3, seed=73) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await client.produce("orders", b"x")
        leader = await cluster.wait_leader("orders")
        follower = next(name for name in cluster.names if name != leader)
        async with cluster.channel(follower) as channel:
            await produce(channel, "orders", b"y")  # so that the connection to the leader is there
            cluster.isolate(leader)
            before = trio.current_time()
            response = await produce(channel, "orders", b"z")
            assert response.base_offset == 2
            assert trio.current_time() - before < 2.5


async def test_streams_of_requests_keep_their_order_wherever_they_go() -> None:
    """ProduceStream at the leader, at a follower, and while the leader changes: answers in order, offsets in order."""
    async with Cluster(3, seed=74) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        for name in (leader, next(name for name in cluster.names if name != leader)):
            async with cluster.channel(name) as channel, channel.stream(EVENT_LOG["ProduceStream"]) as call:
                for number in range(20):
                    await call.send(produce_request("orders", [b"%s-%d" % (name.encode(), number)]))
                await call.done_sending()
                offsets = [response.base_offset async for response in call]
                assert offsets == sorted(offsets)
                assert len(offsets) == 20


async def test_a_bad_request_in_a_stream_is_answered_alone() -> None:
    """The one without records gets its error; those before and after it are taken."""
    async with Cluster(3, seed=75) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        async with cluster.channel("n1") as channel, channel.stream(EVENT_LOG["ProduceStream"]) as call:
            await call.send(produce_request("orders", [b"a"]))
            await call.send(event_log_pb2.ProduceRequest(topic="orders", partition=0))
            await call.send(produce_request("nowhere/", [b"a"]))
            await call.send(produce_request("orders", [b"b"]))
            await call.done_sending()
            codes = [response.error.code async for response in call]
        assert codes == ["", "INVALID_ARGUMENT", "INVALID_ARGUMENT", ""]


async def test_leadership_is_handed_over_on_request() -> None:
    """By group and node id, asked of any node; to a node that is none of its voters it is refused."""
    async with Cluster(3, seed=76) as cluster:
        leader = await cluster.wait_leader()
        await cluster.wait_converged()
        target = next(name for name in cluster.names if name != leader)
        asked = next(name for name in cluster.names if name not in (leader, target))
        async with cluster.channel(asked) as channel:
            request = admin_pb2.TransferLeadershipRequest(group_id=0, to_id=format_id(cluster.node_id(target)))
            response = await channel.unary(ADMIN["TransferLeadership"], request)
            assert response.leader_id == format_id(cluster.node_id(target))
            assert await cluster.wait_leader() == target
            for bad in ("zz", format_id(1)):
                with pytest.raises(InvalidArgument):
                    await channel.unary(ADMIN["TransferLeadership"], admin_pb2.TransferLeadershipRequest(group_id=0, to_id=bad))
