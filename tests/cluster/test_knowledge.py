"""Which topics there are, asked of nodes that start, lag, or were cut off: nobody takes what a node does not know for what is not.

`python -m pytest tests/cluster/test_knowledge.py --rolls 100` restarts more nodes.
"""

import pytest
import trio

from tests.cluster.helpers import ADMIN, QUICK, consume
from trio_eventlog.client import Client
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import NoQuorum, TopicNotFound, TopicRecreated
from trio_eventlog.records import Record
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.weather import Weather
from trio_eventlog.v1 import admin_pb2

PARTITIONS = 12
KEYS = [b"key %d" % number for number in range(20)]


async def misplaced(cluster: Cluster, topic: str = "orders") -> list[bytes]:
    """Keys, which are the values too, in partitions that are not theirs."""
    (name, *_) = cluster.running
    count = len(cluster.node(name).broker.topic(topic).partitions)
    found: list[bytes] = []
    for number in range(count):
        await cluster.wait_converged(topic, number)
        found += [record.key for record in await cluster.read(name, topic, number) if partition_of(record.key, count) != number]
    return found


async def send_keys(client: Client, prefix: bytes, count: int = 20) -> list[bytes]:
    keys = [b"%s %d" % (prefix, number) for number in range(count)]
    async with client.producer("orders") as producer:
        for key in keys:
            await producer.send(key, key=key)
    return keys


async def test_one_node_that_has_just_been_started_is_asked() -> None:
    """It listens before it has read its catalog, and is all that the client knows. Keys go to their partitions all the same."""
    async with Cluster(1, seed=201) as cluster:
        async with cluster.client() as client:
            await client.create_topic("orders", partitions=40)
        for number in range(3):
            await cluster.restart("n1")
            async with cluster.client() as client, trio.open_nursery() as nursery:
                nursery.start_soon(send_keys, client, b"single %d" % number)
                await client.produce("orders", Record(key=b"one %d" % number, value=b""))
                assert await client.partitions("orders") == 40
                assert [topic.name for topic in await client.list_topics()] == ["orders"]
                async with client.consume("orders") as records:
                    for _ in range(21 * (number + 1)):
                        await records.receive()
        assert await misplaced(cluster) == []


@pytest.mark.timeout(1800)
async def test_a_rolling_restart_under_clients_that_name_one_node(rolls: int) -> None:
    """Keyed producers, and consumers of all partitions, that live on, and others that begin while the one node that they name
    restarts: no record is in a partition that is not its key's, and none is missed."""
    async with Cluster(3, seed=202) as cluster, trio.open_nursery() as background:
        async with cluster.client() as client:
            await client.create_topic("orders", partitions=PARTITIONS)
            await cluster.wait_topic("orders")
        sent: list[bytes] = []
        seen: list[list[bytes]] = []
        is_over = False

        async def produce_on() -> None:
            async with cluster.client("n1", settings=QUICK) as client, client.producer("orders") as producer:
                number = 0
                while not is_over:
                    key = b"long %d" % number
                    number += 1
                    if number % 2:
                        await (await producer.send(key, key=key)).wait()
                    else:
                        await client.produce("orders", Record(key=key, value=b""))
                    sent.append(key)
                    await trio.sleep(0.02)

        async def consume_on(name: str) -> None:
            keys: list[bytes] = []
            seen.append(keys)
            async with cluster.client(name, settings=QUICK) as client, client.consume("orders") as records:
                async for record in records:
                    keys.append(record.key)

        async def begin(name: str, number: int) -> None:
            """It produces, and consumes what there is."""
            async with cluster.client(name, settings=QUICK) as client:
                sent.extend(await send_keys(client, b"roll %d" % number, 10))
                left = set(sent)
                with trio.fail_after(60):
                    async with client.consume("orders") as records:
                        while left:
                            left -= {record.key for record in await records.receive_batch()}

        for name in cluster.names:
            background.start_soon(consume_on, name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_on)
            for number in range(rolls):
                name = cluster.names[number % 3]
                await cluster.restart(name)
                # It listens, and knows nothing yet.
                if number < 3:
                    background.start_soon(consume_on, name)
                await begin(name, number)
                await trio.sleep(1)
            is_over = True
        await cluster.wait_until(
            lambda: all(len(keys) >= len(sent) for keys in seen), f"{len(seen)} consumers see {len(sent)} records", 60
        )
        assert all(sorted(keys) == sorted(sent) for keys in seen)
        assert await misplaced(cluster) == []
        background.cancel_scope.cancel()


async def test_a_topic_that_one_node_has_not_heard_of() -> None:
    """Its links to the others are slow, those to the clients are not. Who asks it waits, or asks another node."""
    async with Cluster(3, seed=208) as cluster, cluster.client(settings=QUICK) as client:
        leader = await cluster.wait_leader()
        await cluster.wait_converged()
        slow = next(name for name in cluster.names if name != leader)
        for other in cluster.names:
            if other != slow:
                cluster.network.set_weather(slow, other, Weather(latency_seconds_max=0.5))
        for number in range(3):
            topic = f"orders-{number}"
            await client.create_topic(topic, partitions=PARTITIONS)
            for name in (slow, *cluster.names):
                async with cluster.client(name, settings=QUICK) as another, another.producer(topic) as producer:
                    for key in KEYS:
                        await producer.send(b"", key=key)
                    assert await another.partitions(topic) == PARTITIONS
            assert await misplaced(cluster, topic) == []


async def test_a_node_that_lags_does_not_say_that_a_topic_is_missing() -> None:
    """Cut off from the others, and not from its clients, it says that it cannot know; healed, it asks before it answers."""
    async with Cluster(3, seed=203, forward_timeout_seconds=2.0, auto_create_topics=False) as cluster:
        leader = await cluster.wait_leader()
        await cluster.wait_converged()
        lagging, other = (name for name in cluster.names if name != leader)
        cluster.partition({lagging}, {leader, other})
        async with cluster.client(other, settings=QUICK) as client, cluster.channel(lagging) as channel:
            await client.create_topic("orders", partitions=3)
            for call in (
                channel.unary(ADMIN["DescribeTopic"], admin_pb2.DescribeTopicRequest(name="orders")),
                channel.unary(ADMIN["ListTopics"], admin_pb2.ListTopicsRequest()),
                consume(channel, "orders", partition=2),
            ):
                with pytest.raises(NoQuorum):
                    await call
            cluster.heal()
            async with cluster.client(lagging, settings=QUICK) as another:
                assert [topic.name for topic in await another.list_topics()] == ["orders"]
                assert await another.partitions("orders") == 3
                with pytest.raises(TopicNotFound) as raised:
                    await another.partitions("nothing")
                assert raised.value.catalog_index > 1


async def test_an_answer_says_how_much_of_the_catalog_it_reflects() -> None:
    """Nothing until the node has applied what it knows to be committed; then the same on all nodes that show the same."""
    async with Cluster(3, seed=204) as cluster, cluster.client(settings=QUICK) as client:
        await cluster.wait_leader()
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        await trio.sleep(5)  # The nodes are registered meanwhile, each by a command.
        indexes = {cluster.node(name).servers().catalog_index for name in cluster.names}
        assert len(indexes) == 1
        cluster.crash("n2")
        await cluster.start("n2")
        empty = cluster.node("n2").servers()
        assert (empty.catalog_index, len(empty.placements)) == (0, 0)
        await cluster.wait_converged()
        await cluster.wait_until(lambda: cluster.node("n2").servers().catalog_index in indexes, "n2 has caught up")
        # A new leader adds an entry, which changes no topic, and no index.
        cluster.crash(await cluster.wait_leader())
        await cluster.wait_leader()
        await trio.sleep(3)
        assert {cluster.node(name).servers().catalog_index for name in cluster.running} == indexes


@pytest.mark.parametrize("is_down", [False, True])
async def test_a_topic_that_is_deleted_and_created_again_under_its_clients(is_down: bool) -> None:
    """A consumer is told, and does not skip the first records of the new topic; a producer goes on with the new number of
    partitions. Also when the node that both have named was down meanwhile."""
    async with Cluster(3, seed=205) as cluster, cluster.client("n2", settings=QUICK) as admin:
        await admin.create_topic("orders", partitions=2)
        await cluster.wait_topic("orders")
        async with (
            cluster.client("n1", settings=QUICK) as client,
            client.consume("orders") as records,
            client.producer("orders") as producer,
        ):
            for number in range(30):
                await producer.send(b"old", key=b"%d" % number)
            await producer.flush()
            for _ in range(30):
                assert (await records.receive()).value == b"old"
            if is_down:
                await cluster.stop("n1")
            await admin.delete_topic("orders")
            await admin.create_topic("orders", partitions=5)
            if is_down:
                await cluster.start("n1")
            keys = [b"new %d" % number for number in range(50)]
            for key in keys:
                while True:
                    try:
                        await (await producer.send(key, key=key)).wait()
                        break
                    except TopicRecreated:
                        continue
            with pytest.raises(TopicRecreated):
                await records.receive()
            async with client.consume("orders") as anew:
                assert sorted([(await anew.receive()).key for _ in keys]) == sorted(keys)
        assert await misplaced(cluster) == []


async def test_a_position_of_another_topic_of_the_name_is_refused() -> None:
    """By every node, in plain calls that say which group they mean."""
    async with Cluster(3, seed=206) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders", partitions=2)
        await client.produce("orders", b"old", partition=1)
        old = (await client.describe_topic("orders")).partitions[1].group_id
        await client.delete_topic("orders")
        await client.create_topic("orders", partitions=2)
        for name in cluster.names:
            async with cluster.channel(name) as channel:
                with pytest.raises(TopicRecreated):
                    await consume(channel, "orders", partition=1, group_id=old)
                response = await consume(channel, "orders", partition=1)
                assert response.group_id > old
                assert response == await consume(channel, "orders", partition=1, group_id=response.group_id)


async def test_consuming_creates_no_topic() -> None:
    """Even where producing does: a slip in a name would be there for ever."""
    async with Cluster(1, seed=207) as cluster, cluster.client() as client, cluster.channel("n1") as channel:
        await cluster.wait_leader()
        with pytest.raises(TopicNotFound):
            await consume(channel, "ordres")
        with pytest.raises(TopicNotFound):
            async with client.consume("ordres", partition=0):
                raise AssertionError
        assert await client.list_topics() == []
        await client.produce("orders", b"x")
        assert [topic.partitions for topic in await client.list_topics()] == [1]
