"""The batching producer: when batches leave, who waits, and what handles tell."""

import pytest
import trio
from fake_cluster import FakeCluster, open_fake

from trio_eventlog.client import ClientSettings
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import BatchTooLarge, InvalidArgument, Unavailable
from trio_eventlog.records import Compression, Header, Record
from trio_eventlog.v1 import records_pb2

BAD_HEADER = Record(value=b"", headers=(Header(key="\ud800", value=b""),))


async def test_linger_gathers(autojump_clock: trio.testing.MockClock) -> None:
    """Records sent within the linger time leave together; each handle tells its own offset."""
    async with open_fake() as (cluster, client):
        async with client.producer("t", linger=0.5) as producer:
            handles = [await producer.send(b"%d" % number) for number in range(5)]
            await trio.sleep(0.4)
            assert not cluster.topics["t"][0].batches
            assert [(await handle.wait()).base_offset for handle in handles] == [0, 1, 2, 3, 4]
            assert trio.current_time() == pytest.approx(0.5)
    assert [batch.record_count for batch in cluster.topics["t"][0].batches] == [5]


async def test_full_batches_do_not_linger(autojump_clock: trio.testing.MockClock) -> None:
    """By count and by bytes."""
    async with open_fake() as (cluster, client):
        async with client.producer("t", linger=60, batch_records=2) as producer:
            await producer.send(b"x")
            await (await producer.send(b"x")).wait()
        async with client.producer("t", linger=60, batch_bytes=1000) as producer:
            await producer.send(b"x" * 500)
            await (await producer.send(b"x" * 500)).wait()
        assert trio.current_time() == 0
    assert [batch.record_count for batch in cluster.topics["t"][0].batches] == [2, 2]


async def test_end_of_the_block_waits_for_everything(autojump_clock: trio.testing.MockClock) -> None:
    """What was sent is acknowledged when the block is left."""
    async with open_fake() as (cluster, client):
        async with client.producer("t", linger=60, compression=Compression.ZSTD) as producer:
            handles = await producer.send_many([b"a", Record(value=b"b", headers=(Header(key="h", value=b"v"),))])
        assert all(handle.is_done for handle in handles)
        with pytest.raises(Unavailable, match="closed"):
            await producer.send(b"c")
        async with client.consume("t") as records:
            assert [(await records.receive()).value for _ in range(2)] == [b"a", b"b"]
    assert cluster.topics["t"][0].batches[0].compression == records_pb2.ZSTD


async def test_order_and_keys_over_partitions(autojump_clock: trio.testing.MockClock) -> None:
    """Keys decide; within a partition the order of sending is kept, batches full or not."""
    cluster = FakeCluster()
    cluster.add_topic("p", 4)
    async with open_fake(cluster) as (_, client):
        sent: dict[int, list[bytes]] = {number: [] for number in range(4)}
        async with client.producer("p", linger=0.01, batch_records=7) as producer:
            for number in range(300):
                key = b"k%d" % (number % 17)
                sent[partition_of(key, 4)].append(b"%d" % number)
                await producer.send(b"%d" % number, key=key)
                if number % 50 == 0:
                    await trio.sleep(0.02)
            await producer.send(b"last", key=b"k0", partition=3)
            sent[3].append(b"last")
    for number, partition in enumerate(cluster.topics["p"]):
        assert partition.values() == sent[number]


async def test_without_a_key_a_batch_sticks_to_a_partition(autojump_clock: trio.testing.MockClock) -> None:
    """Few large batches rather than many small ones; the next batch goes to the next partition."""
    cluster = FakeCluster()
    cluster.add_topic("p", 3)
    async with open_fake(cluster) as (_, client):
        async with client.producer("p", linger=60, batch_records=10) as producer:
            await producer.send_many([b"x"] * 30)
    assert [[batch.record_count for batch in partition.batches] for partition in cluster.topics["p"]] == [[10]] * 3


async def test_full_buffer_makes_send_wait(autojump_clock: trio.testing.MockClock) -> None:
    """And sending goes on when there is room again."""
    settings = ClientSettings(producer_buffer_bytes=4000, producer_batch_bytes=1000)
    async with open_fake(settings=settings) as (cluster, client):
        release = trio.Event()

        async def hold(_batch: records_pb2.Batch) -> None:
            await release.wait()

        cluster.nodes["n1"].before_append = hold
        sent = 0
        async with client.producer("t", linger=0) as producer, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                nonlocal sent
                for _ in range(50):
                    await producer.send(b"x" * 400)
                    sent += 1

            await trio.sleep(1)
            assert 5 <= sent <= 13
            release.set()
    assert sent == 50
    assert len(cluster.topics["t"][0].values()) == 50


async def test_slow_partition_does_not_hold_up_lingering_in_another(autojump_clock: trio.testing.MockClock) -> None:
    """The buffer of each partition is its own."""
    cluster = FakeCluster()
    cluster.add_topic("p", 2)
    settings = ClientSettings(producer_buffer_bytes=2000, producer_batch_bytes=1000)
    async with open_fake(cluster, settings) as (_, client):
        release = trio.Event()

        async def hold(_batch: records_pb2.Batch) -> None:
            await release.wait()

        cluster.nodes["n1"].before_append = hold
        async with client.producer("p", linger=0.01) as producer:
            for _ in range(3):
                await producer.send(b"x" * 500, partition=0)
                await trio.sleep(0.1)
            before = trio.current_time()
            await (await producer.send(b"y", partition=1)).wait()
            assert trio.current_time() - before < 0.02
            release.set()
    assert len(cluster.topics["p"][0].values()) == 3


async def test_failure_is_told_once(autojump_clock: trio.testing.MockClock) -> None:
    """By the handle, or by the end of the block when nobody has asked the handle; not by both."""
    async with open_fake() as (cluster, client):

        async def refuse(_batch: records_pb2.Batch) -> None:
            raise InvalidArgument("no")

        cluster.nodes["n1"].before_append = refuse
        async with client.producer("t") as producer:
            handle = await producer.send(b"x")
            with pytest.raises(InvalidArgument):
                await handle.wait()
        with pytest.raises(InvalidArgument):
            async with client.producer("t") as producer:
                await producer.send(b"x")


async def test_exception_in_the_block_sends_nothing_more(autojump_clock: trio.testing.MockClock) -> None:
    """What lingered is not sent, its handle says so, and the exception comes out as it is."""
    async with open_fake() as (cluster, client):
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with client.producer("t", linger=60) as producer:
                handle = await producer.send(b"x")
                raise ZeroDivisionError
        with pytest.raises(Unavailable, match="closed before the record was sent"):
            await handle.wait()
    assert not cluster.topics["t"][0].batches


async def test_limits_of_a_record(autojump_clock: trio.testing.MockClock) -> None:
    """A record over the limit is refused alone; a partition that does not exist too."""
    settings = ClientSettings(batch_bytes_max=2048, producer_batch_bytes=2048)
    async with open_fake(settings=settings) as (cluster, client):
        async with client.producer("t", linger=60) as producer:
            with pytest.raises(BatchTooLarge):
                await producer.send(b"x" * 2048)
            with pytest.raises(InvalidArgument, match="partitions 0 to 0"):
                await producer.send(b"x", partition=1)
            with pytest.raises(InvalidArgument, match="one or the other"):
                await producer.send(Record(value=b"x"), key=b"k")
            for _ in range(3):
                await producer.send(b"x" * 1000)
    assert [batch.record_count for batch in cluster.topics["t"][0].batches] == [2, 1]
    assert all(len(batch.payload) <= 2048 for batch in cluster.topics["t"][0].batches)


async def test_leader_killed_under_load(autojump_clock: trio.testing.MockClock) -> None:
    """Every record once, in order, whoever leads."""
    async with open_fake() as (cluster, client):
        async with client.producer("t", linger=0.001, batch_records=5) as producer:
            for number in range(500):
                await producer.send(b"%d" % number)
                if number % 10 == 0:
                    await trio.sleep(0.001)
                if number == 200:
                    cluster.lead("t", 0, "n2")
                    cluster.kill("n1")
                if number == 350:
                    cluster.break_connections("n2")
                if number == 400:
                    cluster.lead("t", 0, "n3")
    assert cluster.topics["t"][0].values() == [b"%d" % number for number in range(500)]


@pytest.mark.parametrize("record", [Record(value=b"", timestamp_ns=-1), Record(value=b"", timestamp_ns=1 << 80), BAD_HEADER])
async def test_a_record_that_cannot_be_encoded(autojump_clock: trio.testing.MockClock, record: Record) -> None:
    """Its batch fails with words, whoever sends it: the task that lets batches linger goes on, and so does the client."""
    async with open_fake() as (_, client):
        with pytest.raises(InvalidArgument):
            await client.produce("t", record)
        async with client.producer("t", linger=0.1) as producer:
            delivery = await producer.send(record)
            with pytest.raises(InvalidArgument):
                await delivery.wait()
            assert (await (await producer.send(b"next")).wait()).base_offset == 0


async def test_values_by_the_list(autojump_clock: trio.testing.MockClock) -> None:
    """As one by one: batches fill up in order and linger, `ranges` counts them, and full ones go to partition after partition."""
    cluster = FakeCluster()
    cluster.add_topic("p", 2)
    first, second = cluster.topics["p"]
    values = [b"%d" % number for number in range(1000)]
    async with open_fake(cluster) as (_, client):
        async with client.producer("p", linger=0.5, batch_bytes=2000) as producer:
            await producer.send_values([])
            await producer.send(values[0], partition=0)
            await producer.send_values(values[1:400], partition=0)
            await producer.send_values(values[400:], partition=0)
            await trio.sleep(0.6)
            assert first.values() == values
            assert all(70 <= batch.record_count <= 80 and len(batch.payload) <= 2000 for batch in first.batches[:-1])
            await producer.send_values(values)
    assert sorted(first.values() + second.values()) == sorted(values * 2)
    assert len(second.batches) > 3
    assert [item.records for item in producer.ranges()] == [len(first.values()), len(second.values())]


async def test_values_by_the_list_have_limits(autojump_clock: trio.testing.MockClock) -> None:
    """By count; large ones among them; and one that no batch can carry, before which the others are handed in."""
    async with open_fake(settings=ClientSettings(batch_bytes_max=65536, producer_batch_bytes=65536)) as (cluster, client):
        partition = cluster.topics["t"][0]
        async with client.producer("t", linger=60, batch_records=3) as producer:
            await producer.send_values([b"x"] * 7)
        assert [batch.record_count for batch in partition.batches] == [3, 3, 1]
        large = [b"x", b"y" * 40_000, b"z" * 65_000]
        async with client.producer("t", linger=60) as producer:
            await producer.send_values(large)
            with pytest.raises(BatchTooLarge):
                await producer.send_values([b"last", b"x" * 70_000, b"never"])
        assert partition.values()[7:] == [*large, b"last"]
        with pytest.raises(InvalidArgument, match="partitions 0 to 0"):
            async with client.producer("t") as producer:
                await producer.send_values([b"x"], partition=1)


async def test_a_failure_is_known_before_the_flush(autojump_clock: trio.testing.MockClock) -> None:
    """So that a program that hands in values for ever can stop."""
    async with open_fake() as (cluster, client):
        cluster.nodes["n1"].before_append = _refuse
        async with client.producer("t", linger=0) as producer:
            await producer.send_values([b"x"])
            await trio.sleep(1)
            assert isinstance(producer.failure, InvalidArgument)
            assert not producer.ranges()
            with pytest.raises(InvalidArgument, match="not you"):
                await producer.flush()
            assert producer.failure is None


async def _refuse(batch: records_pb2.Batch) -> None:
    raise InvalidArgument("not you")
