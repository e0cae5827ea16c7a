"""One suite for both event logs: the client's over the network, and that of a node in its own process.

Each test runs on a cluster of three with a topic whose one replica lives on another node than the one that is asked, and on the
node that leads; so that local and forwarded calls are both looked at.
"""

import datetime
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from trio_eventlog.client import Client
from trio_eventlog.codec.batch import decode_records, encode_records
from trio_eventlog.errors import (
    InvalidArgument,
    OffsetOutOfRange,
    OutcomeUnknown,
    TopicExists,
    TopicNotFound,
    TopicRecreated,
    Unavailable,
)
from trio_eventlog.ids import CATALOG_GROUP, format_id
from trio_eventlog.records import Acks, Record
from trio_eventlog.service.event_log import EventLog
from trio_eventlog.service.node_event_log import NodeEventLog
from trio_eventlog.service.values import BEGINNING, END, Caller
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.inside import groups

VIRTUAL_TIME = True

WHICH = ["client", "node"]


@asynccontextmanager
async def opened(which: str, **overrides: object) -> AsyncIterator[tuple[Cluster, EventLog]]:
    """Of a cluster of three, where topic "here" lives on all nodes, and "there" not on n1, which is the node that is asked."""
    async with Cluster(3, seed=31, auto_create_topics=False, **overrides) as cluster:  # type: ignore[arg-type]
        async with cluster.client("n1") as client:
            await cluster.wait_until(lambda: all(cluster.node(name).unready_because() == "" for name in cluster.names), "ready")
            await client.create_topic("here", partitions=2)
            for number in range(20):
                await client.create_topic(f"there{number}", replicas=1)
                described = await client.describe_topic(f"there{number}")
                if format_id(cluster.node("n1").node_id) not in described.partitions[0].replica_ids:
                    break
            if which == "client":
                yield cluster, client
            else:
                yield cluster, cluster.node("n1").client()


def both_conform() -> tuple[type[EventLog], type[EventLog]]:
    """Looked at by mypy."""
    return Client, NodeEventLog


def test_both_have_every_method_of_the_protocol() -> None:
    """And with the same arguments, or a caller could not be moved from one to the other."""
    for name, method in vars(EventLog).items():
        if name.startswith("_") or not callable(method):
            continue
        for implementation in both_conform():
            found = inspect.signature(getattr(implementation, name))
            assert list(found.parameters) == list(inspect.signature(method).parameters), f"{implementation.__name__}.{name}"
            assert "caller" in found.parameters


@pytest.mark.parametrize("which", WHICH)
async def test_producing(which: str) -> None:
    """Records, bytes, lists of them; by key, by partition, and with every kind of acknowledgement."""
    async with opened(which) as (_, log):
        assert (await log.produce("here", b"a", Record(value=b"b"), partition=1)).base_offset == 0
        result = await log.produce("here", [Record(value=b"c"), b"d"], partition=1)
        assert (result.topic, result.partition, result.base_offset, result.record_count) == ("here", 1, 2, 2)
        keyed = {(await log.produce("here", Record(key=b"k", value=b"x"))).partition for _ in range(3)}
        assert len(keyed) == 1
        assert (await log.produce("here", b"e", acks=Acks.NONE)).base_offset == -1
        batch = encode_records([Record(value=b"f"), Record(value=b"g")], now_ns=1)
        assert (await log.produce_batch("here", 1, batch)).record_count == 2
        delivery = await log.submit_batch("here", 1, batch)
        assert (await delivery.wait()).record_count == 1
        start, end = await log.offsets("here", 1)
        assert (start, end >= 8) == (0, True)


@pytest.mark.parametrize("which", WHICH)
async def test_what_cannot_be_produced(which: str) -> None:
    async with opened(which) as (_, log):
        with pytest.raises(InvalidArgument):
            await log.produce("here")
        with pytest.raises(InvalidArgument):
            await log.produce("here", "text")  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            await log.produce("here", b"x", partition=-1)
        with pytest.raises(TopicNotFound):
            await log.produce("nowhere", b"x")
        with pytest.raises(TopicNotFound):
            await log.produce("here", b"x", partition=7)


@pytest.mark.parametrize("which", WHICH)
async def test_a_partition_that_lives_on_other_nodes(which: str) -> None:
    """Is produced to and consumed as any other."""
    async with opened(which) as (_, log):
        topics = sorted(topic.name for topic in await log.list_topics() if topic.name.startswith("there"))
        topic = topics[-1]
        assert [(await log.produce(topic, b"%d" % number)).base_offset for number in range(3)] == [0, 1, 2]
        assert await log.offsets(topic) == (0, 3)
        async with log.consume(topic) as records:
            assert [(await records.receive()).value for _ in range(3)] == [b"0", b"1", b"2"]
            await log.produce(topic, b"3")
            assert (await records.receive()).value == b"3"


@pytest.mark.parametrize("which", WHICH)
async def test_a_batching_producer(which: str) -> None:
    """All of it is in the log at the end of the block, in order, and its ranges say where."""
    async with opened(which) as (_, log):
        async with log.producer("here", linger=0.01, batch_records=10) as producer:
            for number in range(100):
                await producer.send(b"%d" % number, partition=0)
            await producer.flush()
            (produced,) = producer.ranges()
            assert (produced.records, produced.first_offset, produced.last_offset) == (100, 0, 99)
        async with log.consume("here", partition=0, start=40) as records:
            assert [(await records.receive()).value for _ in range(60)] == [b"%d" % number for number in range(40, 100)]


@pytest.mark.parametrize("which", WHICH)
async def test_consuming_from_everywhere(which: str) -> None:
    """From the beginning, from an offset, from a time, from the end; all partitions; batches."""
    async with opened(which) as (_, log):
        second = 1_000_000_000
        for number in range(3):
            await log.produce("here", Record(value=b"%d" % number, timestamp_ns=(number + 1) * second), partition=0)
        await log.produce("here", b"other", partition=1)
        async with log.consume("here", start=BEGINNING) as records:
            assert {(await records.receive()).value for _ in range(4)} == {b"0", b"1", b"2", b"other"}
        when = datetime.datetime.fromtimestamp(2, tz=datetime.UTC)
        assert await log.offset_at("here", when) == 1
        async with log.consume("here", start=when, partition=0) as records:
            assert (await records.receive()).value == b"1"
            assert (records.partition, records.end_offset) == (0, 2)
        async with log.consume("here", start=END, partition=0) as records:
            await log.produce("here", b"new", partition=0)
            assert (await records.receive()).value == b"new"
        async with log.consume_batches("here", start=1, partition=0) as batches:
            batch = await batches.receive()
            assert (batch.first_offset, decode_records(batch.batch, 1000)[0].value) == (1, b"1")
        async with log.consume("here", start=99, partition=0) as records:
            with pytest.raises(OffsetOutOfRange):
                await records.receive()
        with pytest.raises(InvalidArgument):
            async with log.consume("here", start=5):
                pass


@pytest.mark.parametrize("which", WHICH)
async def test_topics(which: str) -> None:
    """Made, described, listed, deleted; and a consumer of one that is made anew is told so."""
    async with opened(which) as (_, log):
        made = await log.create_topic("new", partitions=3, retention_bytes=1 << 30)
        assert (made.name, made.partitions, made.replicas, made.retention_bytes) == ("new", 3, 3, 1 << 30)
        assert await log.partitions("new") == 3
        with pytest.raises(TopicExists):
            await log.create_topic("new")
        described = await log.describe_topic("new")
        assert [item.partition for item in described.partitions] == [0, 1, 2]
        assert "new" in {topic.name for topic in await log.list_topics()}
        await log.produce("new", b"x", partition=0)
        async with log.consume("new", partition=0) as records:
            assert (await records.receive()).value == b"x"
            await log.delete_topic("new")
            await log.create_topic("new")
            with pytest.raises(TopicNotFound) as caught:
                await records.receive()
            assert isinstance(caught.value, TopicRecreated) or "deleted" in str(caught.value)
        with pytest.raises(TopicNotFound):
            await log.delete_topic("nowhere")


@pytest.mark.parametrize("which", WHICH)
async def test_a_topic_is_altered(which: str) -> None:
    """The answer and the next look, at whichever node, show it; another topic of that name is not touched."""
    async with opened(which) as (_, log):
        await log.create_topic("new", retention_bytes=1 << 30)
        altered = await log.alter_topic("new", retention_seconds=60)
        assert (altered.retention_bytes, altered.retention_seconds) == (1 << 30, 60)
        assert (await log.describe_topic("new")).topic == altered
        assert (await log.alter_topic("new", retention_bytes=0, group_id=altered.group_ids[0])).retention_bytes == 0
        for call in (
            log.alter_topic("new"),
            log.alter_topic("new", retention_bytes=-1),
            log.alter_topic("new", retention_bytes=1 << 64),
            log.alter_topic("new", retention_seconds=0.5),
        ):
            with pytest.raises(InvalidArgument):
                await call
        with pytest.raises(TopicNotFound):
            await log.alter_topic("nowhere", retention_bytes=1)
        await log.delete_topic("new")
        await log.create_topic("new")
        with pytest.raises(TopicRecreated):
            await log.alter_topic("new", retention_bytes=1, group_id=altered.group_ids[0])
        assert (await log.describe_topic("new")).topic.retention_bytes == 0


@pytest.mark.parametrize("which", WHICH)
async def test_the_disk_use_of_topics(which: str) -> None:
    """Of the node that is named, whichever answers; the largest topic first. An address without a node is an error."""
    async with opened(which) as (cluster, log):
        await log.produce("here", b"x" * 10_000)
        addresses = [server.address for server in await log.servers()]
        for address in addresses:
            uses = await log.disk_use(address)
            assert [use.size_bytes for use in uses] == sorted((use.size_bytes for use in uses), reverse=True)
            node = next(cluster.node(name) for name in cluster.names if cluster.address(name) == address)
            replicas = [replica for replica in groups(node).all() if replica.group_id != CATALOG_GROUP]
            assert sum(use.partitions for use in uses) == len(replicas)
            assert sum(use.size_bytes for use in uses) == sum(replica.log.size_bytes for replica in replicas)
        assert any(use.name == "here" and use.size_bytes > 10_000 for use in await log.disk_use(addresses[0]))
        assert await log.disk_use() in [await log.disk_use(address) for address in addresses]
        with pytest.raises(Unavailable):
            await log.disk_use("nowhere:1")


@pytest.mark.parametrize("which", WHICH)
async def test_the_cluster(which: str) -> None:
    """Nodes, leaders, members, status; leadership is handed over, and what cannot be is refused."""
    async with opened(which) as (_, log):
        servers = await log.servers()
        assert [server.name for server in servers] == ["n1", "n2", "n3"]
        assert {member.name for member in await log.members()} >= {"n1", "n2", "n3"}
        other = servers[1]
        assert (await log.status(other.address)).name == other.name
        assert (await log.status()).cluster_name
        (place,) = [place for place in await log.placements() if (place.topic, place.partition) == ("here", 0)]
        to = next(node_id for node_id in place.replica_ids if node_id != place.leader_id)
        assert await log.transfer_leadership("here", 0, to=to) == to
        with pytest.raises(TopicNotFound):
            await log.transfer_leadership("here", 9)
        with pytest.raises(InvalidArgument):
            await log.remove_node("no id")


@pytest.mark.parametrize("which", WHICH)
async def test_the_deadline_of_a_caller(which: str) -> None:
    """Ends a call that nobody can answer, with an error that says no more than is known."""
    async with opened(which) as (cluster, log):
        for name in ("n2", "n3"):
            cluster.crash(name)
        before = trio.current_time()
        caller = Caller(tenant="acme", deadline=before + 2.0)
        with pytest.raises((OutcomeUnknown, Unavailable)):
            await log.produce("here", b"x", partition=0, caller=caller)
        assert trio.current_time() - before <= 2.5


@pytest.mark.parametrize("which", WHICH)
async def test_a_topic_is_trimmed(which: str) -> None:
    """By offset and by time; never back; what is gone says where the log starts."""
    async with opened(which) as (cluster, log):

        def starts_at(offset: int) -> bool:
            replicas = [cluster.replica(name, "old") for name in cluster.names]
            return all(replica is not None and replica.log.log_start_offset == offset for replica in replicas)

        await log.create_topic("old", partitions=1)
        for number in range(6):
            await log.produce("old", Record(value=b"%d" % number))
        assert await log.trim_topic("old", 2) == {0: 2}
        assert await log.trim_topic("old", 1, partition=0) == {0: 2}
        await cluster.wait_until(lambda: starts_at(2), "all replicas follow")
        assert (await log.describe_topic("old")).partitions[0].log_start_offset == 2
        async with log.consume("old", start=BEGINNING) as records:
            assert (await records.receive()).offset == 2
        with pytest.raises(OffsetOutOfRange) as caught:
            async with log.consume("old", start=1) as records:
                await records.receive()
        assert caught.value.log_start_offset == 2
        with pytest.raises(OffsetOutOfRange):
            await log.trim_topic("old", 7)
        assert await log.trim_topic("old", datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC)) == {0: 2}
        assert await log.trim_topic("old", datetime.datetime(2200, 1, 1, tzinfo=datetime.UTC)) == {0: 6}
        await cluster.wait_until(lambda: starts_at(6), "all replicas follow")
        assert (await log.produce("old", Record(value=b"6"))).base_offset == 6
        async with log.consume("old", start=BEGINNING) as records:
            assert (await records.receive()).value == b"6"
        await log.create_topic("wide", partitions=2)
        for call in (
            log.trim_topic("wide", 0),
            log.trim_topic("old", -1),
            log.trim_topic("old", 1 << 63),
            log.trim_topic("old", datetime.datetime(1990, 1, 1)),
        ):
            with pytest.raises(InvalidArgument):
                await call
        assert await log.trim_topic("wide", 0, partition=1) == {1: 0}
        with pytest.raises(TopicNotFound):
            await log.trim_topic("wide", 0, partition=2)
        with pytest.raises(TopicNotFound):
            await log.trim_topic("nowhere", 0)
