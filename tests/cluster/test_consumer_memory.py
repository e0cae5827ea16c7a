"""Consumers that do not read, filters over much, batches that unpack to very much: bounded, and others have their turn."""

import pytest
import trio

from tests.cluster.helpers import QUICK
from trio_eventlog.codec.batch import pack
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import BatchTooLarge, Overloaded
from trio_eventlog.events import Event
from trio_eventlog.grpc.record_answers import record_answer
from trio_eventlog.records import Compression
from trio_eventlog.rpc import Channel, RpcSettings, methods_of, open_channel
from trio_eventlog.service.requests import ConsumeRequest
from trio_eventlog.service.settings import ServiceSettings
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.defaults import default
from trio_eventlog.v1 import event_log_pb2, records_pb2

METHODS = methods_of(event_log_pb2.DESCRIPTOR.services_by_name["EventLog"])
MIB = 1 << 20


@pytest.mark.parametrize("batches", [True, False])
async def test_many_streams_that_do_not_read(batches: bool) -> None:
    """What is fetched for them stays within the budget of a connection; another consumer reads as if they were not there."""
    limits = {"fetched_bytes_max": 64 * MIB, "fetched_bytes_per_connection_max": 8 * MIB}
    async with Cluster(1, seed=4, **limits) as cluster, cluster.client("n1", settings=QUICK) as client:
        await client.create_topic("orders")
        for number in range(3):
            await client.produce("orders", b"%d" % number + bytes(900_000))
        node = cluster.node("n1")
        stream = await cluster.network.host("stranger").open_stream(cluster.address("n1"))
        request = event_log_pb2.ConsumeRequest(topic="orders", batches=batches)
        async with (
            open_channel(stream, default(RpcSettings, stream_window_bytes=1024)) as channel,
            trio.open_nursery() as nursery,
        ):

            async def ask() -> None:
                async with channel.stream(METHODS["ConsumeStream"], request):
                    await trio.sleep_forever()

            for _ in range(50):
                nursery.start_soon(ask)
            most = 0
            for _ in range(50):
                await trio.sleep(0.1)
                most = max(most, node.parts.services.consuming.budgets()[0].used)
            assert 0 < most <= (8 if batches else 24) * MIB
            async with cluster.channel("n1") as polite:
                response = await polite.unary(METHODS["Consume"], request)
                assert response.records or response.batches
            nursery.cancel_scope.cancel()
        await trio.sleep(1)
        assert node.parts.services.consuming.budgets()[0].used == 0


async def test_a_consumer_that_does_not_read_is_sent_away() -> None:
    """Amid a message too: it is told that the node has too much to do, which our client takes for "later"."""
    limits = {"fetched_bytes_max": MIB, "fetched_bytes_per_connection_max": MIB, "slow_consumer_seconds": 5.0}
    async with Cluster(1, seed=8, **limits) as cluster, cluster.client("n1", settings=QUICK) as client:
        await client.create_topic("orders")
        await client.produce("orders", bytes(900_000))
        stream = await cluster.network.host("reader").open_stream(cluster.address("n1"))
        async with open_channel(stream, default(RpcSettings, stream_window_bytes=1024)) as channel:
            request = event_log_pb2.ConsumeRequest(topic="orders", batches=True)
            async with channel.stream(METHODS["ConsumeStream"], request) as slow:
                slow._stream.put(b"", 0)  # Unread: no part of the message that comes is given back to the window.
                slow._stream.entry.unread += 1
                await trio.sleep(60)
                assert cluster.node("n1").parts.services.consuming.budgets()[0].used > 0
                async with cluster.channel("n1") as other:
                    with trio.fail_after(6):
                        assert (await other.unary(METHODS["Consume"], request)).batches
                assert await slow.receive() is not None
                with pytest.raises(Overloaded):
                    await slow.receive()


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("method", ["ReadAggregate", "ReadEvents"])
async def test_readers_of_events_that_do_not_read(method: str, partitions: int) -> None:
    """What is read for them stays within the budget of a connection; another one reads as if they were not there."""
    limits = {"fetched_bytes_max": 64 * MIB, "fetched_bytes_per_connection_max": 12 * MIB, "event_cache_bytes": 0}
    async with Cluster(1, seed=4, **limits) as cluster, cluster.client("n1", settings=QUICK) as client:
        await client.create_topic("orders", partitions=partitions, kind="events")
        for _ in range(3):
            await client.append("a", [Event(type="T", payload="x" * 900_000)], topic="orders")
        node = cluster.node("n1")
        stream = await cluster.network.host("stranger").open_stream(cluster.address("n1"))
        request: event_log_pb2.ReadAggregateRequest | event_log_pb2.ReadEventsRequest
        if method == "ReadAggregate":
            request = event_log_pb2.ReadAggregateRequest(topic="orders", aggregate_id="a")
        else:
            request = event_log_pb2.ReadEventsRequest(topic="orders")
        async with (
            open_channel(stream, default(RpcSettings, stream_window_bytes=1024)) as channel,
            trio.open_nursery() as nursery,
        ):

            async def ask() -> None:
                async with channel.stream(METHODS[method], request):
                    await trio.sleep_forever()

            for _ in range(20):
                nursery.start_soon(ask)
            most = 0
            for _ in range(20):
                await trio.sleep(0.1)
                most = max(most, node.parts.services.consuming.budgets()[0].used)
            assert 0 < most <= 12 * MIB
            async with cluster.channel("n1") as polite, polite.stream(METHODS[method], request) as answers:
                with trio.fail_after(5):
                    answer = await answers.receive()
                assert answer is not None
                assert answer.events
            nursery.cancel_scope.cancel()
        await trio.sleep(1)
        assert node.parts.services.consuming.budgets()[0].used == 0


def packed(data: bytes, record_count: int) -> records_pb2.Batch:
    payload = pack(data, Compression.ZSTD)
    return records_pb2.Batch(
        record_count=record_count,
        payload=payload,
        compression=int(Compression.ZSTD),
        crc32c=crc32c(payload),  # type: ignore[arg-type]
    )


async def test_what_no_consumer_can_be_given_is_refused() -> None:
    """A record larger than an answer, very many records or headers, however they are announced: the producer is told why."""
    record = records_pb2.Record(value=bytes(5 * MIB))
    just_right = records_pb2.Record(value=bytes(3 * MIB))
    async with Cluster(1, seed=5) as cluster, cluster.channel("n1") as channel:
        for data, count, word in (
            (records_pb2.RecordBatch(records=[record]).SerializeToString(), 1, "smaller records"),
            (b"\x0a\x00" * 8_000_000, 8_000_000, "smaller batches"),
            (b"\x0a\x00" * 8_000_000, 1, "smaller batches"),
            (records_pb2.RecordBatch(records=[records_pb2.Record()]).SerializeToString() + _many_headers(), 2, "smaller batches"),
        ):
            request = event_log_pb2.ProduceRequest(topic="orders", partition=0, batch=packed(data, count))
            with pytest.raises(BatchTooLarge, match=word):
                await channel.unary(METHODS["Produce"], request)
        data = records_pb2.RecordBatch(records=[just_right, just_right]).SerializeToString()
        await channel.unary(METHODS["Produce"], event_log_pb2.ProduceRequest(topic="orders", partition=0, batch=packed(data, 2)))
        response = await channel.unary(METHODS["Consume"], event_log_pb2.ConsumeRequest(topic="orders"))
        assert len(response.records) == 1
        assert len(response.records[0].value) == 3 * MIB


def _many_headers() -> bytes:
    headers = b"\x22\x00" * 4_000_000
    return b"\x0a" + _varint(len(headers)) + headers


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


async def test_a_record_that_was_too_large_already_can_be_passed_over() -> None:
    """Taken under larger limits: a consumer of records is told its offset and what to do; one of batches gets it."""
    async with Cluster(1, seed=6, message_bytes_max=8 * MIB) as cluster:
        async with cluster.channel("n1") as channel:
            data = records_pb2.RecordBatch(records=[records_pb2.Record(value=bytes(5 * MIB))]).SerializeToString()
            await channel.unary(
                METHODS["Produce"], event_log_pb2.ProduceRequest(topic="orders", partition=0, batch=packed(data, 1))
            )
        await cluster.stop("n1")
        await cluster.start("n1", message_bytes_max=4 * MIB)
        await cluster.wait_ready()
        async with cluster.channel("n1") as channel, cluster.client("n1", settings=QUICK) as client:
            await client.produce("orders", b"next")
            with pytest.raises(BatchTooLarge, match=r"offset 0 .*batches.*go on from offset 1"):
                await channel.unary(METHODS["Consume"], event_log_pb2.ConsumeRequest(topic="orders"))
            response = await channel.unary(METHODS["Consume"], event_log_pb2.ConsumeRequest(topic="orders", offset=1))
            assert [record.value for record in response.records] == [b"next"]
            response = await channel.unary(METHODS["Consume"], event_log_pb2.ConsumeRequest(topic="orders", batches=True))
            assert response.batches


async def test_what_looks_like_very_many_records_is_taken() -> None:
    """Bytes that could begin records or headers, in few records of many such bytes: all are counted before they are refused."""
    values = [
        b'"\n' * (2 * MIB),
        b"\x0a\x00\x00\x00" * (3 * MIB // 4),
        b"\x22\x00" * (3 * MIB // 2),
        b"\xa2\x80\n\n" * (3 * MIB // 4),
    ]
    record = records_pb2.Record(value=b"v", headers=[records_pb2.Header(key="k", value=b"w")])
    data = records_pb2.RecordBatch(records=[*(records_pb2.Record(value=value[: 3 * MIB]) for value in values), record])
    async with Cluster(1, seed=9) as cluster, cluster.channel("n1") as channel:
        batch = packed(data.SerializeToString(), 5)
        await channel.unary(METHODS["Produce"], event_log_pb2.ProduceRequest(topic="orders", partition=0, batch=batch))
        request = event_log_pb2.ConsumeRequest(topic="orders", offset=4)
        response = await channel.unary(METHODS["Consume"], request)
        assert response.records[0].headers[0].key == "k"


async def test_streams_that_are_read_slowly_lose_nothing() -> None:
    """More than the budget has room for; those that pause in the middle of messages are sent away for those that wait: each
    gets all records in order, and goes on behind the last one when it was sent away."""
    limits = {"fetched_bytes_max": 4 * MIB, "fetched_bytes_per_connection_max": 2 * MIB, "slow_consumer_seconds": 2.0}
    async with Cluster(1, seed=10, **limits) as cluster, cluster.client("n1", settings=QUICK) as client:
        await client.create_topic("orders")
        for _ in range(6):
            await client.produce("orders", bytes(900_000))
        stream = await cluster.network.host("stranger").open_stream(cluster.address("n1"))
        sent_away = 0

        async def read(channel: Channel, pause_seconds: float) -> None:
            nonlocal sent_away
            offset = 0
            while offset < 6:
                request = event_log_pb2.ConsumeRequest(topic="orders", batches=True, max_bytes=1, offset=offset)
                try:
                    async with channel.stream(METHODS["ConsumeStream"], request) as call:
                        while offset < 6:
                            response = await call.receive()
                            assert [batch.base_offset for batch in response.batches] == [offset]
                            offset += 1
                            await trio.sleep(pause_seconds)
                except Overloaded:
                    sent_away += 1

        with trio.fail_after(600):
            async with open_channel(stream, default(RpcSettings)) as channel, trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(read, channel, 20.0 * (number % 2))
        assert sent_away == cluster.node("n1").parts.services.consuming.budgets()[0].refused
        await trio.sleep(1)
        assert cluster.node("n1").parts.services.consuming.budgets()[0].used == 0


async def test_a_filter_over_much_lets_others_run() -> None:
    """Batches that are small and unpack to much: between two of them others have their turn."""
    record = records_pb2.Record(value=bytes(2 * MIB), key=b"other")
    data = records_pb2.RecordBatch(records=[record]).SerializeToString()
    async with Cluster(1, seed=7) as cluster, cluster.channel("n1") as channel:
        for _ in range(40):
            await channel.unary(
                METHODS["Produce"], event_log_pb2.ProduceRequest(topic="orders", partition=0, batch=packed(data, 1))
            )
        turns = 0
        filtered = event_log_pb2.ConsumeRequest(topic="orders", filter=event_log_pb2.Filter(key=b"wanted"))

        async def others() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        broker = cluster.node("n1").broker
        fetched = await broker.fetch(broker.replica("orders", 0), ConsumeRequest(topic="orders", max_bytes=MIB), 0)
        assert len(fetched.batches) == 40
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            before = turns
            response, next_offset, _ = await record_answer(filtered, 0, fetched, default(ServiceSettings))
            assert turns - before >= 30
            nursery.cancel_scope.cancel()
        assert isinstance(response, event_log_pb2.ConsumeResponse)
        assert (len(response.records), next_offset) == (0, 40)
