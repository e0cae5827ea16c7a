"""Consuming: where it begins, what it survives, and when it gives up."""

import datetime

import attrs
import pytest
import trio
from fake_cluster import FakeCluster, open_fake

from trio_eventlog.client import BEGINNING, END, ClientSettings, RecordReceiver
from trio_eventlog.codec.batch import encode_records
from trio_eventlog.errors import CorruptBatch, InvalidArgument, OffsetOutOfRange, TopicNotFound, Unavailable
from trio_eventlog.records import Record
from trio_eventlog.v1 import records_pb2


async def take(records: RecordReceiver, count: int) -> list[int]:
    """The next offsets."""
    return [(await records.receive()).offset for _ in range(count)]


async def test_from_the_beginning_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    """What is there, then what comes."""
    async with open_fake() as (_, client):
        await client.produce("t", b"a", b"b")
        async with client.consume("t") as records:
            assert [(await records.receive()).value for _ in range(2)] == [b"a", b"b"]
            with trio.move_on_after(5) as scope:
                await records.receive()
            assert scope.cancelled_caught
            await client.produce("t", Record(value=b"c", key=b"k", timestamp_ns=5))
            assert await records.receive() == Record(value=b"c", key=b"k", timestamp_ns=5, offset=2, topic="t")


async def test_from_an_offset_inside_a_batch(autojump_clock: trio.testing.MockClock) -> None:
    """Records before it are left out, although the batch comes whole."""
    async with open_fake() as (_, client):
        await client.produce("t", *(b"%d" % number for number in range(10)))
        async with client.consume("t", start=7, partition=0) as records:
            assert await take(records, 3) == [7, 8, 9]
        async with client.consume_batches("t", start=7) as batches:
            item = await batches.receive()
            assert (item.batch.base_offset, item.first_offset, item.end_offset, item.high_watermark) == (0, 7, 10, 10)


async def test_from_the_end(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing acknowledged before, everything after: even when the connection is lost before the first record."""
    async with open_fake() as (cluster, client):
        await client.produce("t", b"before")
        async with client.consume("t", start=END) as records:
            await trio.sleep(1)
            for name in cluster.nodes:
                cluster.network.reset("client", name)
            await client.produce("t", b"after")
            assert (await records.receive()).value == b"after"


async def test_from_a_time(autojump_clock: trio.testing.MockClock) -> None:
    """The log finds the batch, the client leaves out the records before it."""
    when = datetime.datetime(2026, 11, 2, 12, 0, 0, 123456, tzinfo=datetime.UTC)
    at_ns = round(when.timestamp()) * 10**9 + 123456000
    async with open_fake() as (_, client):
        await client.produce("t", Record(value=b"a", timestamp_ns=at_ns - 5))
        await client.produce("t", Record(value=b"b", timestamp_ns=at_ns - 1), Record(value=b"c", timestamp_ns=at_ns))
        async with client.consume("t", start=when) as records:
            assert (await records.receive()).value == b"c"


async def test_all_partitions(autojump_clock: trio.testing.MockClock) -> None:
    """Everything, in order within each partition."""
    cluster = FakeCluster()
    cluster.add_topic("p", 3)
    async with open_fake(cluster) as (_, client):
        for number in range(30):
            await client.produce("p", b"%d" % number, partition=number % 3)
        seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
        async with client.consume("p") as records:
            for _ in range(30):
                record = await records.receive()
                seen[records.partition].append(int(record.value))
    assert seen == {number: list(range(number, 30, 3)) for number in range(3)}


async def test_followers_are_asked_first_and_in_turn(autojump_clock: trio.testing.MockClock) -> None:
    """Reading is spread; the leader is left to the producers."""
    async with open_fake() as (cluster, client):
        await client.produce("t", b"a")
        for _ in range(4):
            async with client.consume("t") as records:
                await records.receive()
        counts = {name: node.calls.count("ConsumeStream") for name, node in cluster.nodes.items()}
    assert counts == {"n1": 0, "n2": 2, "n3": 2}


async def test_neither_gap_nor_repetition(autojump_clock: trio.testing.MockClock) -> None:
    """Through lost connections, dead nodes and changed leaders."""
    async with open_fake() as (cluster, client):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def produce() -> None:
                for number in range(200):
                    await client.produce("t", b"%d" % number, b"again %d" % number)
                    await trio.sleep(0.01)

            async with client.consume("t") as records:
                assert await take(records, 100) == list(range(100))
                cluster.network.reset("client", "n2")
                cluster.network.reset("client", "n3")
                assert await take(records, 100) == list(range(100, 200))
                cluster.kill("n2")
                assert await take(records, 50) == list(range(200, 250))
                cluster.lead("t", 0, "n3")
                cluster.kill("n1")
                assert await take(records, 150) == list(range(250, 400))


async def test_follower_that_is_behind(autojump_clock: trio.testing.MockClock) -> None:
    """It says the offset is out of range, since it has not got there: somebody else is asked, and no error is raised."""
    async with open_fake() as (cluster, client):
        for _ in range(10):
            await client.produce("t", b"x")
        async with client.consume("t") as records:
            await take(records, 10)
            for name in ("n2", "n3"):
                cluster.nodes[name].visible_end = 3
                cluster.network.reset("client", name)
            await client.produce("t", b"x")
            assert await take(records, 1) == [10]


async def test_replica_that_is_cut_off_is_left(autojump_clock: trio.testing.MockClock) -> None:
    """It answers, but hears nothing new: after consumer_idle_seconds another one is asked."""
    async with open_fake(settings=ClientSettings(consumer_idle_seconds=5)) as (cluster, client):
        await client.produce("t", b"a")
        for name in ("n2", "n3"):
            cluster.nodes[name].visible_end = 1
        async with client.consume("t") as records:
            await take(records, 1)
            await client.produce("t", b"b")
            with trio.fail_after(20):
                assert await take(records, 1) == [1]


async def test_out_of_range(autojump_clock: trio.testing.MockClock) -> None:
    """Before the log's start, and beyond its end: with the numbers."""
    async with open_fake() as (cluster, client):
        await client.produce("t", b"a")
        await client.produce("t", b"b")
        partition = cluster.topics["t"][0]
        partition.log_start_offset = 1
        del partition.batches[0]
        for start in (0, 3):
            async with client.consume("t", start=start) as records:
                with pytest.raises(OffsetOutOfRange) as caught:
                    await records.receive()
                assert (caught.value.log_start_offset, caught.value.high_watermark) == (1, 2)
        async with client.consume("t", start=BEGINNING) as records:
            assert await take(records, 1) == [1]


async def test_retention_overtakes_a_slow_reader(autojump_clock: trio.testing.MockClock) -> None:
    """Records that are gone are never left out silently."""
    async with open_fake() as (cluster, client):
        for _ in range(40):
            await client.produce("t", b"x" * 100_000)
        offsets: list[int] = []
        async with client.consume("t", buffer_batches=0) as records:
            offsets += await take(records, 1)
            partition = cluster.topics["t"][0]
            del partition.batches[:35]
            partition.log_start_offset = 35
            for name in cluster.nodes:
                cluster.network.reset("client", name)
            with pytest.raises(OffsetOutOfRange) as caught:  # noqa: PT012
                while True:
                    offsets += await take(records, 1)
    assert caught.value.log_start_offset == 35
    assert offsets == list(range(len(offsets)))
    assert len(offsets) < 35


async def test_damage_on_one_replica(autojump_clock: trio.testing.MockClock) -> None:
    """Another replica has the batch whole."""

    def flip(batch: records_pb2.Batch) -> None:
        batch.payload = batch.payload[:-1] + b"!"

    async with open_fake() as (cluster, client):
        await client.produce("t", b"a")
        cluster.damage["n2"] = cluster.damage["n3"] = flip
        async with client.consume("t") as records:
            assert await take(records, 1) == [0]
        cluster.damage["n1"] = flip
        async with client.consume("t") as records:
            with pytest.raises(CorruptBatch, match="offset 0"):
                await records.receive()


async def test_batch_that_cannot_be_opened(autojump_clock: trio.testing.MockClock) -> None:
    """A producer's mistake, not the log's: the error says where to go on, and so one can."""
    async with open_fake() as (_, client):
        good = encode_records([Record(value=b"good")])
        await client.produce_batch("t", 0, attrs.evolve(good, record_count=3))
        await client.produce_batch("t", 0, good)
        async with client.consume("t") as records:
            with pytest.raises(CorruptBatch, match="start at 3"):
                await records.receive()
            assert await take(records, 1) == [3]


async def test_slow_reader_makes_nodes_wait(autojump_clock: trio.testing.MockClock) -> None:
    """What is fetched ahead is bounded by the buffer and the windows of the connection, not by the log."""
    settings = ClientSettings(consumer_buffer_batches=2, producer_batch_bytes=100_000)
    sent = 0

    def count(_batch: records_pb2.Batch) -> None:
        nonlocal sent
        sent += 1

    async with open_fake(settings=settings) as (cluster, client):
        payload = encode_records([Record(value=b"x" * 100_000)])
        for _ in range(100):
            await client.produce_batch("t", 0, payload)
        for name in cluster.nodes:
            cluster.damage[name] = count
        async with client.consume("t") as records:
            await take(records, 1)
            await trio.sleep(60)
            assert sent < 50
            assert await take(records, 99) == list(range(1, 100))


async def test_gives_up_when_nobody_answers(autojump_clock: trio.testing.MockClock) -> None:
    """After consumer_retry_seconds without an answer, with the last error; a pause before does not count."""
    async with open_fake(settings=ClientSettings(consumer_retry_seconds=20)) as (cluster, client):
        await client.produce("t", b"a")
        async with client.consume("t") as records:
            await take(records, 1)
            for name in cluster.nodes:
                cluster.kill(name)
            before = trio.current_time()
            with pytest.raises(Unavailable):
                await records.receive()
            assert 20 <= trio.current_time() - before < 30


async def test_topic_made_a_moment_ago(autojump_clock: trio.testing.MockClock) -> None:
    """A replica may hear of the topic later than the client: somebody else is asked, or the same one a little later."""
    async with open_fake() as (cluster, client):
        await client.create_topic("fresh")
        for node in cluster.nodes.values():
            node.hears_of_topics_at = trio.current_time() + 1
        async with client.consume("fresh", start=END) as records:
            await client.produce("fresh", b"a")
            assert await take(records, 1) == [0]


async def test_refused(autojump_clock: trio.testing.MockClock) -> None:
    """Starts that cannot be, and topics that are not."""
    cluster = FakeCluster()
    cluster.add_topic("p", 2)
    async with open_fake(cluster) as (_, client):
        for topic, start in (("p", 5), ("t", -1), ("t", datetime.datetime(2026, 1, 1))):
            with pytest.raises(InvalidArgument):
                async with client.consume(topic, start=start):
                    raise AssertionError
        with pytest.raises(InvalidArgument):
            async with client.consume("t", partition=-1):
                raise AssertionError
        with pytest.raises(TopicNotFound):
            async with client.consume("none"):
                raise AssertionError
        async with client.consume("t", partition=1) as records:
            with pytest.raises(TopicNotFound):
                await records.receive()


async def test_leaving_while_more_is_waiting(autojump_clock: trio.testing.MockClock) -> None:
    """A reader that waits for room in the buffer ends quietly, whether the block is left or the receiver closed."""
    async with open_fake() as (_, client):
        for _ in range(5):
            await client.produce("t", b"x")
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with client.consume("t", buffer_batches=0) as records:
                await take(records, 1)
                await trio.testing.wait_all_tasks_blocked()
                raise ZeroDivisionError
        async with client.consume("t", buffer_batches=0) as records:
            await take(records, 1)
            await trio.testing.wait_all_tasks_blocked()
            await records.aclose()
            await trio.testing.wait_all_tasks_blocked()


async def test_async_for_and_leaving(autojump_clock: trio.testing.MockClock) -> None:
    """`async for` works, an exception of the block comes out as it is, and nothing keeps running."""
    async with open_fake() as (_, client):
        await client.produce("t", *(b"%d" % number for number in range(300)))
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with client.consume("t") as records:
                async for record in records:
                    if record.offset == 299:
                        raise ZeroDivisionError
        async with client.consume("t") as records:
            assert len(await records.receive_batch()) == 300
        async with client.consume("t") as records:
            await take(records, 100)
            assert [record.offset for record in await records.receive_batch()] == list(range(100, 300))


@pytest.mark.parametrize("start", [0, 3, 7])
async def test_batches_open_themselves(autojump_clock: trio.testing.MockClock, start: int) -> None:
    """Records and values are those from the start on, also when it is inside a batch."""
    async with open_fake() as (_, client):
        await client.produce("t", *[b"%d" % number for number in range(5)])
        await client.produce("t", *[b"%d" % number for number in range(5, 10)])
        found: list[bytes] = []
        async with client.consume_batches("t", start=start, partition=0) as batches:
            while len(found) < 10 - start:
                item = await batches.receive()
                assert [record.value for record in item.records(1 << 20)] == item.values(1 << 20)
                found += item.values(1 << 20)
    assert found == [b"%d" % number for number in range(start, 10)]
