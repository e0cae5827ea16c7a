"""Topics come, are spread over the nodes, and go."""

import pytest
import trio

from tests.cluster.helpers import ADMIN, EVENT_LOG, QUICK, consume, produce, values_on
from trio_eventlog.errors import InvalidArgument, TopicExists, TopicNotFound
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.v1 import admin_pb2, event_log_pb2


async def test_partitions_have_leaders_of_their_own() -> None:
    """Six partitions on three nodes: each node leads some, and each partition takes records for itself."""
    async with Cluster(3, seed=51) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders", partitions=6)
        await cluster.wait_topic("orders")
        assert {cluster.leader("orders", number) for number in range(6)} == set(cluster.names)
        for number in range(6):
            result = await client.produce("orders", b"%d" % number, partition=number)
            assert (result.partition, result.base_offset) == (number, 0)
        for number in range(6):
            await cluster.wait_converged("orders", number)
            assert await values_on(cluster, "n1", "orders", number) == [b"%d" % number]


async def test_a_topic_is_made_when_it_is_first_produced_to() -> None:
    """By any node, also when several are asked at once: one topic, nothing lost."""
    async with Cluster(3, seed=52) as cluster, trio.open_nursery() as nursery:
        await cluster.wait_leader()

        async def first_record(name: str) -> None:
            async with cluster.channel(name) as channel:
                await produce(channel, "fresh", name.encode())

        async with trio.open_nursery() as nursery:
            for name in cluster.names:
                nursery.start_soon(first_record, name)
        await cluster.wait_converged("fresh")
        assert sorted(await values_on(cluster, "n2", "fresh")) == [b"n1", b"n2", b"n3"]


async def test_no_topic_is_made_where_that_is_switched_off() -> None:
    """A slip in the name is an error then, for producers and consumers alike."""
    async with Cluster(3, seed=53, auto_create_topics=False) as cluster:
        await cluster.wait_leader()
        async with cluster.channel("n1") as channel:
            with pytest.raises(TopicNotFound):
                await produce(channel, "fresh", b"x")
            with pytest.raises(TopicNotFound):
                await consume(channel, "fresh")


async def test_a_deleted_topic_is_gone_everywhere_and_its_name_can_be_used_again() -> None:
    """No node serves it, its files are gone, a new topic of that name begins empty, also after all nodes have restarted."""
    async with Cluster(3, seed=54, auto_create_topics=False) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders", partitions=2)
        await client.produce("orders", b"old", partition=0)
        await cluster.wait_converged("orders")
        replica = cluster.replica("n1", "orders")
        assert replica is not None
        group_path = cluster.node("n1").parts.directory.group_path(replica.group_id)
        await client.delete_topic("orders")
        await cluster.wait_until(lambda: not any(cluster.node(name).broker.topics() for name in cluster.names), "it is gone")
        for name in cluster.names:
            async with cluster.channel(name) as channel:
                with pytest.raises(TopicNotFound):
                    await produce(channel, "orders", b"x")
            assert await cluster.disk(name).list_directory(group_path) == ["log"]
            assert await cluster.disk(name).list_directory(f"{group_path}/log") == []
        with pytest.raises(TopicNotFound):
            await client.delete_topic("orders")
        await client.create_topic("orders", partitions=1)
        await client.produce("orders", b"new")
        for name in cluster.names:
            await cluster.restart(name)
        await cluster.wait_topic("orders")
        await cluster.wait_converged("orders")
        for name in cluster.names:
            assert await values_on(cluster, name, "orders") == [b"new"]
            # What was deleted is not opened again on the way through the catalog's history.
            assert len(cluster.node(name).parts.replicas.all()) == 2


async def test_every_node_knows_what_a_topic_is_to_keep() -> None:
    """Whichever node is asked to change it, one that was down at that time too, and all of them after a restart."""
    async with Cluster(3, seed=60) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders", partitions=2, retention_bytes=5)
        await client.create_topic("payments")

        def shown(name: str) -> list[tuple[int, int]]:
            return [(topic.retention_bytes, topic.retention_seconds) for topic in cluster.node(name).broker.topics()]

        for seconds, name in enumerate(cluster.names, 1):
            async with cluster.channel(name) as channel:
                request = admin_pb2.AlterTopicRequest(name="orders", retention_time={"seconds": seconds})
                answer = await channel.unary(ADMIN["AlterTopic"], request)
                assert (answer.topic.retention.bytes, answer.topic.retention.time.seconds) == (5, seconds)
                assert shown(name) == [(5, seconds), (0, 0)]
        cluster.crash("n2")
        await client.alter_topic("orders", retention_bytes=7)
        await cluster.start("n2")
        for name in cluster.names:
            await cluster.wait_until(lambda name=name: shown(name) == [(7, 3), (0, 0)], f"{name} knows")  # type: ignore[misc]
        for name in cluster.names:
            await cluster.restart(name)
        await cluster.wait_topic("orders")
        assert [shown(name) for name in cluster.names] == [[(7, 3), (0, 0)]] * 3


async def test_a_node_that_was_down_when_a_topic_was_deleted_removes_it_when_it_returns() -> None:
    """Deletion is an entry of the catalog's log, so it cannot be missed."""
    async with Cluster(3, seed=55) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await client.produce("orders", b"old")
        await cluster.wait_converged("orders")
        cluster.crash("n2")
        await client.delete_topic("orders")
        await cluster.start("n2")
        await cluster.wait_converged()
        await cluster.wait_until(lambda: not cluster.node("n2").broker.topics(), "n2 knows")
        assert len(cluster.node("n2").parts.replicas.all()) == 1


async def test_who_waits_for_a_deleted_topic_is_told() -> None:
    """A consumer at the end of the log, and one that reads linearizably, get TOPIC_NOT_FOUND at once."""
    async with Cluster(3, seed=56, auto_create_topics=False) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        told: list[str] = []

        async def stream(name: str) -> None:
            request = event_log_pb2.ConsumeRequest(topic="orders")
            async with cluster.channel(name) as channel, channel.stream(EVENT_LOG["ConsumeStream"], request) as call:
                with pytest.raises(TopicNotFound):
                    await call.receive()
                told.append(name)

        async def wait(name: str) -> None:
            async with cluster.channel(name) as channel:
                request = event_log_pb2.ConsumeRequest(topic="orders")
                request.max_wait.seconds = 50
                with pytest.raises(TopicNotFound):
                    await channel.unary(EVENT_LOG["Consume"], request)
                told.append(name)

        async with trio.open_nursery() as nursery:
            for name in cluster.names:
                nursery.start_soon(stream, name)
                nursery.start_soon(wait, name)
            await trio.sleep(1)
            before = trio.current_time()
            await client.delete_topic("orders")
        assert len(told) == 6
        assert trio.current_time() - before < 1


async def test_a_producer_of_a_topic_that_is_deleted_is_told() -> None:
    """Batches on their way when the topic goes are answered, with TOPIC_NOT_FOUND, not tried until the deadline."""
    async with Cluster(3, seed=57, auto_create_topics=False) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        others = [name for name in cluster.names if name != leader]
        outcomes: list[str] = []

        async def send(name: str) -> None:
            async with cluster.channel(name) as channel:
                try:
                    await produce(channel, "orders", b"x")
                except TopicNotFound:
                    outcomes.append("not found")
                else:
                    outcomes.append("in the log")

        # The leader of the partition gets no answers from the others, so nothing is committed...
        replica = cluster.replica(leader, "orders")
        assert replica is not None
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                for name in cluster.names:
                    nursery.start_soon(send, name)
            nursery.start_soon(client.delete_topic, "orders")
            before = trio.current_time()
        assert len(outcomes) == 90
        assert trio.current_time() - before < 2
        assert others


async def test_a_catalog_command_whose_answer_is_lost_is_not_done_twice() -> None:
    """The catalog's leader goes down with the command appended and not answered: the node that repeats it recognises its work."""
    for milliseconds in range(8):
        async with Cluster(3, seed=58, auto_create_topics=False) as cluster:
            leader = await cluster.wait_leader()
            await cluster.wait_converged()
            other = next(name for name in cluster.names if name != leader)
            async with cluster.channel(other) as channel, trio.open_nursery() as nursery:
                request = admin_pb2.CreateTopicRequest(name="orders", partitions=2)
                nursery.start_soon(channel.unary, ADMIN["CreateTopic"], request)
                await trio.sleep(milliseconds / 1000)
                cluster.crash(leader)
            await cluster.wait_topic("orders")
            async with cluster.channel(other) as channel, trio.open_nursery() as nursery:
                leader = await cluster.wait_leader()
                if leader == other:
                    continue
                nursery.start_soon(channel.unary, ADMIN["DeleteTopic"], admin_pb2.DeleteTopicRequest(name="orders"))
                await trio.sleep(milliseconds / 1000)


async def test_what_a_topic_may_not_be() -> None:
    """Names and counts out of bounds, twice the same name, more replicas than nodes: refused by code, from any node."""
    async with Cluster(3, seed=59) as cluster:
        await cluster.wait_leader()
        for name in cluster.names:
            async with cluster.channel(name) as channel:

                async def create(topic: str, partitions: int = 1, replicas: int = 0, channel: object = channel) -> object:
                    request = admin_pb2.CreateTopicRequest(name=topic, partitions=partitions, replicas=replicas)
                    return await channel.unary(ADMIN["CreateTopic"], request)  # type: ignore[attr-defined]

                for bad in ("", "a b", "a" * 201, "..", "ü", "a/b"):
                    with pytest.raises(InvalidArgument):
                        await create(bad)
                with pytest.raises(InvalidArgument):
                    await create("many", partitions=1025)
                with pytest.raises(InvalidArgument):
                    await create("wide", replicas=4)
                await create(name + "a" * 198)
                with pytest.raises(TopicExists):
                    await create(name + "a" * 198)
                with pytest.raises(TopicNotFound):
                    await channel.unary(ADMIN["DeleteTopic"], admin_pb2.DeleteTopicRequest(name="unknown"))
                with pytest.raises(TopicNotFound):
                    await channel.unary(ADMIN["DescribeTopic"], admin_pb2.DescribeTopicRequest(name="unknown"))
