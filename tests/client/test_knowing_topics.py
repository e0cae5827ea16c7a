"""What a client knows of topics, and what it does while it does not know: no default fills a hole."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from fake_cluster import FakeCluster, open_fake

from trio_eventlog.client import BEGINNING, Client, ClientSettings
from trio_eventlog.client.routing import Routing
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import InvalidArgument, TopicNotFound, TopicRecreated, Unavailable
from trio_eventlog.records import Record
from trio_eventlog.service.receivers import RecordReceiver
from trio_eventlog.service.values import KnownTopic, Placement, ServerInfo

KEYS = [b"key %d" % number for number in range(40)]


def with_topic(partitions: int) -> FakeCluster:
    cluster = FakeCluster()
    cluster.add_topic("p", partitions)
    return cluster


def misplaced(cluster: FakeCluster, topic: str = "p") -> list[bytes]:
    """Keys, which are the values too, that are in a partition that is not theirs."""
    partitions = cluster.topics[topic]
    return [
        value
        for number, partition in enumerate(partitions)
        for value in partition.values()
        if partition_of(value, len(partitions)) != number
    ]


def values(cluster: FakeCluster, topic: str = "p") -> list[bytes]:
    return sorted(value for partition in cluster.topics[topic] for value in partition.values())


async def send_keys(client: Client, keys: Sequence[bytes] = KEYS) -> None:
    for key in keys:
        await client.produce("p", Record(key=key, value=key))


async def take(records: RecordReceiver, count: int) -> list[bytes]:
    with trio.fail_after(60):
        return sorted([(await records.receive()).value for _ in range(count)])


async def test_a_node_that_is_starting_is_not_believed(autojump_clock: trio.testing.MockClock) -> None:
    """It lists no topics, since it does not know them yet. Each call waits until a node knows, and keys find their partitions."""
    cluster = with_topic(8)
    async with open_fake(cluster, target="n1:8400") as (_, client):
        cluster.nodes["n1"].starts_until = trio.current_time() + 3
        await send_keys(client)
        assert trio.current_time() >= 3
        cluster.nodes["n1"].starts_until = trio.current_time() + 3
        assert await client.partitions("p") == 8
        async with client.consume("p") as records:
            assert await take(records, len(KEYS)) == sorted(KEYS)
    assert misplaced(cluster) == []


async def test_a_batching_producer_that_begins_at_a_starting_node(autojump_clock: trio.testing.MockClock) -> None:
    """The same for the number of partitions that it keeps."""
    cluster = with_topic(8)
    async with open_fake(cluster, target="n1:8400") as (_, client):
        cluster.nodes["n1"].starts_until = trio.current_time() + 3
        async with client.producer("p") as producer:
            for key in KEYS:
                await producer.send(key, key=key)
            with pytest.raises(InvalidArgument, match="partitions 0 to 7, not 8"):
                await producer.send(b"", partition=8)
    assert values(cluster) == sorted(KEYS)
    assert misplaced(cluster) == []


async def test_who_knew_does_not_unlearn(autojump_clock: trio.testing.MockClock) -> None:
    """Answers of nodes that start, or lag behind, take nothing away: another node is asked, or what was known stays."""
    cluster = with_topic(8)
    async with open_fake(cluster, settings=ClientSettings(routing_refresh_seconds=1)) as (_, client):
        await send_keys(client, KEYS[:20])
        before = cluster.catalog_index
        cluster.add_topic("later")
        assert await client.partitions("later") == 1
        for node in cluster.nodes.values():
            node.shows_since = before
        cluster.nodes["n1"].starts_until = float("inf")
        await trio.sleep(2)
        await send_keys(client, KEYS[20:])
        routing = client._calls.routing
        assert routing.catalog_index == cluster.catalog_index
        assert routing.topic("later") is not None
        with pytest.raises(Unavailable, match="has not applied the catalog as far as others have"):
            await client.placements()
    assert misplaced(cluster) == []
    assert values(cluster) == sorted(KEYS)


async def test_nodes_that_describe_what_was(autojump_clock: trio.testing.MockClock) -> None:
    """A client that has seen a newer catalog does not take an older description of a topic: it asks until a node knows."""
    cluster = with_topic(2)
    async with open_fake(cluster) as (_, client):
        assert await client.partitions("p") == 2
        old = cluster.catalog_index
        await client.delete_topic("p")
        await client.create_topic("p", partitions=5)
        for node in cluster.nodes.values():
            node.shows_since = old
        client._calls.routing.forget_topic("p")
        cluster.nodes["n3"].shows_since = 0
        assert await client.partitions("p") == 5
        await send_keys(client)
    assert misplaced(cluster) == []


async def test_nobody_knows(autojump_clock: trio.testing.MockClock) -> None:
    """Then the call fails when its time is over; nothing was written anywhere."""
    cluster = with_topic(8)
    async with open_fake(cluster, settings=ClientSettings(request_timeout_seconds=4)) as (_, client):
        for node in cluster.nodes.values():
            node.starts_until = float("inf")
        with pytest.raises(Unavailable):
            await send_keys(client)
        assert 4 <= trio.current_time() < 5
    assert values(cluster) == []


async def test_made_on_first_use(autojump_clock: trio.testing.MockClock) -> None:
    """Producers ask for it, and learn how many partitions there are from the answer. Consumers never make a topic."""
    cluster = FakeCluster()
    cluster.auto_create = True
    async with open_fake(cluster) as (_, client):
        with pytest.raises(TopicNotFound):
            async with client.consume("p"):
                raise AssertionError
        with pytest.raises(TopicNotFound):
            await client.partitions("p")
        assert "p" not in cluster.topics
        async with client.producer("p") as producer:
            await producer.send(b"first")
        assert await client.partitions("p") == 1
    assert values(cluster) == [b"first"]


async def test_a_producer_follows_a_topic_that_grows(autojump_clock: trio.testing.MockClock) -> None:
    """And so do those who consume all of it; nothing is missed."""
    cluster = with_topic(2)
    async with open_fake(cluster) as (_, client), client.consume("p") as records, client.producer("p") as producer:
        for key in KEYS[:20]:
            await producer.send(key, key=key)
        await producer.flush()
        assert await take(records, 20) == sorted(KEYS[:20])
        cluster.grow_topic("p", 3)
        await trio.sleep(20)
        for key in KEYS[20:]:
            await producer.send(key, key=key)
        await producer.flush()
        assert await take(records, 20) == sorted(KEYS[20:])
    for number, partition in enumerate(cluster.topics["p"]):
        assert all(partition_of(key, 5) == number for key in partition.values() if key in KEYS[20:])
    assert any(partition.values() for partition in cluster.topics["p"][2:])


@pytest.mark.parametrize("hears_seconds", [0, 20])
async def test_a_producer_follows_a_topic_that_is_made_anew(autojump_clock: trio.testing.MockClock, hears_seconds: float) -> None:
    """With another number of partitions. Whether the client hears of it before it sends more, or is told by the refusal."""
    cluster = with_topic(2)
    async with open_fake(cluster) as (_, client), client.producer("p") as producer:
        await producer.send(b"a", key=b"a")
        await producer.flush()
        cluster.drop_topic("p")
        cluster.add_topic("p", 7)
        await trio.sleep(hears_seconds)
        if not hears_seconds:
            delivery = await producer.send(b"b", key=b"b")
            with pytest.raises(TopicRecreated):
                await delivery.wait()
        for key in KEYS:
            await producer.send(key, key=key)
        await producer.flush()
        await send_keys(client, [b"c"])
    assert values(cluster) == sorted([*KEYS, b"c"])
    assert misplaced(cluster) == []


async def test_single_calls_follow_a_topic_that_is_made_anew(autojump_clock: trio.testing.MockClock) -> None:
    """The records are in no log, so they are sent again, to where their key belongs now; and once."""
    cluster = with_topic(2)
    async with open_fake(cluster) as (_, client):
        await send_keys(client, KEYS[:10])
        cluster.drop_topic("p")
        cluster.add_topic("p", 7)
        async with trio.open_nursery() as nursery:
            for key in KEYS:
                nursery.start_soon(client.produce, "p", Record(key=key, value=key))
    assert values(cluster) == sorted(KEYS)
    assert misplaced(cluster) == []


@pytest.mark.parametrize("partition", [None, 0])
async def test_a_consumer_is_told_that_its_topic_is_another_one(
    autojump_clock: trio.testing.MockClock, partition: int | None
) -> None:
    """Its positions are places in a log that is gone. The new topic is not read from the middle as if it were the old one."""
    async with open_fake() as (cluster, client):
        for _ in range(5):
            await client.produce("t", b"old")
        async with client.consume("t", partition=partition) as records:
            assert await take(records, 5) == [b"old"] * 5
            group_id = records.group_id
            cluster.drop_topic("t")
            cluster.add_topic("t")
            for number in range(8):
                await client.produce("t", b"new %d" % number)
            with pytest.raises(TopicRecreated):
                await records.receive()
        # A position that was kept is refused likewise; without the group it is taken for one in the new topic.
        async with client.consume("t", start=5, partition=0, group_id=group_id) as records:
            with pytest.raises(TopicRecreated):
                await records.receive()
        async with client.consume("t", start=BEGINNING) as records:
            assert await take(records, 8) == [b"new %d" % number for number in range(8)]
        with pytest.raises(InvalidArgument, match="group_id"):
            async with client.consume("t", group_id=group_id):
                raise AssertionError


async def test_nodes_of_an_older_release(autojump_clock: trio.testing.MockClock) -> None:
    """They give no catalog index and no groups. What they list is taken, what they do not list is asked for."""
    cluster = with_topic(8)
    cluster.auto_create = True
    for node in cluster.nodes.values():
        node.is_old_release = True
    async with open_fake(cluster) as (_, client):
        await send_keys(client, KEYS[:20])
        async with client.consume("p") as records:
            assert await take(records, 20) == sorted(KEYS[:20])
        # They are upgraded one by one, and the sequences of the producer go on.
        for node in cluster.nodes.values():
            node.is_old_release = False
            await trio.sleep(10)
            await send_keys(client, KEYS[20:])
        assert client._calls.routing.catalog_index == cluster.catalog_index
    assert misplaced(cluster) == []
    assert values(cluster) == sorted(KEYS[:20] + 3 * KEYS[20:])


# The table itself

SERVERS = [ServerInfo(id=name, name=name, address=f"{name}:1") for name in ("a", "b")]


def place(group_id: int, *, topic: str = "t", partition: int = 0, leader: str = "a") -> Placement:
    return Placement(topic=topic, partition=partition, leader_id=leader, replica_ids=("a", "b"), group_id=group_id)


def test_answers_in_any_order() -> None:
    """The newest one counts; from older ones only the leaders of what is still there are taken."""
    routing = Routing(("seed:1",))
    assert routing.update(SERVERS, [place(1), place(2, topic="u")], 0.0, catalog_index=5, cluster_id="c")
    assert routing.update(SERVERS, [place(7)], 0.0, catalog_index=9, cluster_id="c")
    assert not routing.update(SERVERS, [place(1, leader="b"), place(2, topic="u")], 0.0, catalog_index=6, cluster_id="c")
    assert routing.topic("t") == KnownTopic(name="t", group_ids=(7,))
    assert routing.topic("u") is None
    assert routing.leader("t", 0) == "a:1"
    assert not routing.update(SERVERS, [place(7, leader="b")], 0.0, catalog_index=8, cluster_id="c")
    assert routing.leader("t", 0) == "b:1"
    assert not routing.update([], [], 0.0)
    assert routing.topic("t") is not None
    assert len(routing.servers) == 2
    assert not routing.learn(KnownTopic(name="t", group_ids=(1,)), (), 5)
    assert routing.learn(KnownTopic(name="u", group_ids=(9, 10)), (), 12)
    assert not routing.update(SERVERS, [place(7)], 0.0, catalog_index=9, cluster_id="c")
    assert routing.topic("u") is not None
    # Another cluster has taken the addresses.
    assert routing.update(SERVERS, [place(1)], 0.0, catalog_index=3, cluster_id="d")
    assert routing.topic("u") is None
    assert routing.topic("t") == KnownTopic(name="t", group_ids=(1,))


def test_a_restarted_node_does_not_hide_the_others() -> None:
    """It has met nobody yet, but knows which nodes carry partitions: their addresses are kept. Who is left out of both is gone."""
    routing = Routing(("seed:1",))
    gone = ServerInfo(id="z", name="z", address="z:1")
    routing.update([*SERVERS, gone], [place(1)], 0.0, catalog_index=5, cluster_id="c")
    routing.update(SERVERS[:1], [place(1)], 0.0, catalog_index=5, cluster_id="c")
    assert sorted(server.id for server in routing.servers) == ["a", "b"]
