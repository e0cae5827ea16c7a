"""What a client may send wrong, each with its error code; and every limit at its limit."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.cluster.helpers import EVENT_LOG, batch_request, consume, produce, produce_request
from trio_eventlog.codec.batch import encode_records
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import (
    BatchTooLarge,
    CorruptBatch,
    InvalidArgument,
    OffsetOutOfRange,
    TopicNotFound,
    UnknownBatchFormat,
)
from trio_eventlog.grpc.batches import batch_message
from trio_eventlog.grpc.callers import FORWARDED
from trio_eventlog.records import Compression, Record
from trio_eventlog.rpc import Channel
from trio_eventlog.service.settings import ServiceSettings
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.defaults import default
from trio_eventlog.v1 import event_log_pb2, records_pb2

VIRTUAL_TIME = True

LIMIT_BYTES = 4096


@asynccontextmanager
async def one_node(**overrides: Any) -> AsyncIterator[Channel]:
    async with Cluster(1, seed=1, batch_bytes_max=LIMIT_BYTES, auto_create_topics=False, **overrides) as cluster:
        async with cluster.client() as client:
            await client.create_topic("orders", partitions=2)
        async with cluster.channel("n1") as channel:
            yield channel


def given(
    change: Callable[[records_pb2.Batch], None] = lambda batch: None, compression: Compression = Compression.NONE
) -> event_log_pb2.ProduceRequest:
    """A batch of two records, with something changed afterwards."""
    batch = encode_records([Record(value=b"a"), Record(value=b"b")], compression, now_ns=10**18)
    message = batch_message(batch)
    message.payload = bytes(batch.payload)
    change(message)
    return event_log_pb2.ProduceRequest(topic="orders", partition=0, batch=message)


def set_fields(**fields: Any) -> Callable[[records_pb2.Batch], None]:
    def change(batch: records_pb2.Batch) -> None:
        for name, value in fields.items():
            setattr(batch, name, value)

    return change


def damage_payload(batch: records_pb2.Batch) -> None:
    batch.payload = batch.payload[:-1] + b"x"


def empty_payload(batch: records_pb2.Batch) -> None:
    batch.payload = b""
    batch.crc32c = crc32c(b"")


def not_records(batch: records_pb2.Batch) -> None:
    batch.payload = b"\xff" * 20
    batch.crc32c = crc32c(batch.payload)


BAD_PRODUCES = {
    "unknown topic": (event_log_pb2.ProduceRequest(topic="nowhere", records=[records_pb2.Record()]), TopicNotFound),
    "no topic": (event_log_pb2.ProduceRequest(records=[records_pb2.Record()]), TopicNotFound),
    "partition beyond the last": (produce_request("orders", [b"x"], partition=2), TopicNotFound),
    "partition far beyond": (produce_request("orders", [b"x"], partition=2**32 - 1), TopicNotFound),
    "neither records nor batch": (event_log_pb2.ProduceRequest(topic="orders", partition=0), InvalidArgument),
    "records and batch": (given(), InvalidArgument),
    "unknown acks": (produce_request("orders", [b"x"], acks=7), InvalidArgument),
    "expected version": (
        event_log_pb2.ProduceRequest(
            topic="orders", records=[records_pb2.Record()], expected_version=event_log_pb2.ExpectedVersion(exact=1)
        ),
        InvalidArgument,
    ),
    "damaged payload": (given(damage_payload), CorruptBatch),
    "wrong checksum": (given(set_fields(crc32c=1)), CorruptBatch),
    "one record too many announced": (given(set_fields(record_count=3)), CorruptBatch),
    "one record too few announced": (given(set_fields(record_count=1)), CorruptBatch),
    "no records announced": (given(set_fields(record_count=0)), InvalidArgument),
    "payload without records": (given(empty_payload), CorruptBatch),
    "payload that is no RecordBatch": (given(not_records), CorruptBatch),
    "unknown compression": (given(set_fields(compression=9)), InvalidArgument),
    "unknown format": (given(set_fields(format=1)), UnknownBatchFormat),
    "format far beyond": (given(set_fields(format=2**31 - 1)), UnknownBatchFormat),
    "first timestamp after the last": (
        given(lambda batch: batch.last_timestamp.FromSeconds(1)),
        InvalidArgument,
    ),
    "first timestamp without a last": (given(lambda batch: batch.ClearField("last_timestamp")), InvalidArgument),
    "nanoseconds beyond a second": (given(lambda batch: setattr(batch.last_timestamp, "nanos", 10**9)), InvalidArgument),
    "negative nanoseconds": (given(lambda batch: setattr(batch.last_timestamp, "nanos", -1)), InvalidArgument),
    "compression that the payload does not have": (given(set_fields(compression=1)), CorruptBatch),
    "first timestamp beyond what can be stored": (
        given(lambda batch: batch.first_timestamp.FromSeconds(2**34)),
        InvalidArgument,
    ),
    "last timestamp beyond what can be stored": (given(lambda batch: batch.last_timestamp.FromSeconds(2**34)), InvalidArgument),
}
BAD_PRODUCES["records and batch"][0].records.add(value=b"x")


@pytest.mark.parametrize("name", BAD_PRODUCES)
async def test_bad_produce_requests_have_their_error_and_leave_nothing(name: str) -> None:
    """Also when the caller claims that another node has looked at it already."""
    request, error = BAD_PRODUCES[name]
    async with one_node() as channel:
        for metadata in ((), ((FORWARDED, "1"),)):
            with pytest.raises(error) as caught:
                await channel.unary(EVENT_LOG["Produce"], request, metadata=metadata)
            assert len(str(caught.value)) > 20, "the text says what, why and what to do"
        # The node is well, and nothing was appended.
        assert (await produce(channel, "orders", b"good")).base_offset == 0


async def test_records_with_any_timestamp_do_no_harm() -> None:
    """Records that the node packs itself: what cannot be stored is refused, what can is kept."""
    async with one_node() as channel:
        for seconds, is_good in ((0, True), (2**33, True), (-1, False), (2**34, False), (-(2**34), False)):
            request = produce_request("orders", [b"x"])
            request.records[0].timestamp.seconds = seconds
            if is_good:
                await channel.unary(EVENT_LOG["Produce"], request)
            else:
                with pytest.raises(InvalidArgument, match="timestamp"):
                    await channel.unary(EVENT_LOG["Produce"], request)
        response = await consume(channel, "orders")
        assert [record.timestamp.seconds for record in response.records] == [0, 2**33]


async def test_a_batch_at_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    """`batch_bytes_max`, for records that the node packs and for batches that the producer has packed."""
    async with one_node() as channel:

        async def send(value_bytes: int) -> int:
            batch = batch_request("orders", [bytes(value_bytes)], producer_id=1, base_sequence=0)
            response = await channel.unary(EVENT_LOG["Produce"], batch)
            return len(batch.batch.payload) if response is not None else 0

        empty_bytes = len(encode_records([Record(value=bytes(LIMIT_BYTES // 2))], now_ns=1).payload) - LIMIT_BYTES // 2
        assert await send(LIMIT_BYTES - empty_bytes) == LIMIT_BYTES
        with pytest.raises(BatchTooLarge) as caught:
            await send(LIMIT_BYTES - empty_bytes + 1)
        assert caught.value.limit_bytes == LIMIT_BYTES
        await produce(channel, "orders", bytes(LIMIT_BYTES - 40))
        with pytest.raises(BatchTooLarge):
            await produce(channel, "orders", bytes(LIMIT_BYTES))


async def test_a_compressed_batch_that_unpacks_beyond_the_limit_is_refused() -> None:
    """A small payload may be a large one in disguise."""
    limit_bytes = default(ServiceSettings).unpacked_bytes_max
    async with one_node() as channel:
        batch = encode_records([Record(value=bytes(limit_bytes))], Compression.ZSTD, now_ns=1)
        assert len(batch.payload) < LIMIT_BYTES
        message = batch_message(batch)
        message.payload = bytes(batch.payload)
        with pytest.raises(CorruptBatch):
            await channel.unary(EVENT_LOG["Produce"], event_log_pb2.ProduceRequest(topic="orders", partition=0, batch=message))


BAD_CONSUMES: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "unknown topic": ({"topic": "nowhere"}, TopicNotFound),
    "no topic": ({"topic": ""}, TopicNotFound),
    "partition beyond the last": ({"partition": 2}, TopicNotFound),
    "offset beyond the end": ({"offset": 4}, OffsetOutOfRange),
    "offset far beyond the end": ({"offset": 2**64 - 1}, OffsetOutOfRange),
    "unknown start": ({"start": 9}, InvalidArgument),
    "filter with batches": ({"batches": True, "filter": event_log_pb2.Filter(key=b"k")}, InvalidArgument),
    "unknown consistency": ({"consistency": 9}, InvalidArgument),
}


@pytest.mark.parametrize("name", BAD_CONSUMES)
async def test_bad_consume_requests_have_their_error(name: str) -> None:
    """Of Consume and of ConsumeStream alike."""
    fields, error = BAD_CONSUMES[name]
    request = event_log_pb2.ConsumeRequest(**({"topic": "orders"} | fields))
    async with one_node() as channel:
        await produce(channel, "orders", b"a", b"b", b"c")
        with pytest.raises(error):
            await channel.unary(EVENT_LOG["Consume"], request)
        async with channel.stream(EVENT_LOG["ConsumeStream"], request) as call:
            with pytest.raises(error):
                await call.receive()
        assert len((await consume(channel, "orders")).records) == 3


async def test_the_end_is_a_place_to_read_from() -> None:
    """Offset 3 of three records is not out of range: it is where the next one will be."""
    async with one_node() as channel:
        await produce(channel, "orders", b"a", b"b", b"c")
        response = await consume(channel, "orders", 3)
        assert (len(response.records), response.high_watermark, response.log_start_offset) == (0, 3, 0)
        with pytest.raises(OffsetOutOfRange) as caught:
            await consume(channel, "orders", 4)
        assert (caught.value.log_start_offset, caught.value.high_watermark) == (0, 3)


async def test_where_reading_may_begin() -> None:
    """Beginning, end, an offset inside of a batch, a moment in time."""
    async with one_node() as channel:
        for seconds in (100, 200, 300):
            request = produce_request("orders", [b"%d" % seconds, b"%d more" % seconds])
            for record in request.records:
                record.timestamp.seconds = seconds
            await channel.unary(EVENT_LOG["Produce"], request)

        async def values(**fields: Any) -> list[bytes]:
            return [record.value for record in (await consume(channel, "orders", **fields)).records]

        assert len(await values(start=event_log_pb2.BEGINNING)) == 6
        assert await values(start=event_log_pb2.END) == []
        assert await values(offset=3) == [b"200 more", b"300", b"300 more"]
        for at, first in ((0, b"100"), (100, b"100"), (101, b"200"), (300, b"300")):
            wanted = event_log_pb2.ConsumeRequest(topic="orders", start=event_log_pb2.TIMESTAMP)
            wanted.start_timestamp.seconds = at
            response = await channel.unary(EVENT_LOG["Consume"], wanted)
            assert response.records[0].value == first
        wanted.start_timestamp.seconds = 301
        assert not (await channel.unary(EVENT_LOG["Consume"], wanted)).records


async def test_how_much_an_answer_holds() -> None:
    """`max_records` to the record; `max_bytes` to the batch, but at least one; a key narrows, and offsets stay what they are."""
    async with one_node() as channel:
        for number in range(4):
            request = produce_request("orders", [b"%d" % number, bytes(500)])
            request.records[0].key = b"k%d" % (number % 2)
            await channel.unary(EVENT_LOG["Produce"], request)
        for count in (1, 2, 3, 5, 8, 9):
            response = await consume(channel, "orders", max_records=count)
            assert [record.offset for record in response.records] == list(range(min(count, 8)))
        assert len((await consume(channel, "orders", max_bytes=1)).records) == 2
        assert len((await consume(channel, "orders", max_bytes=1300)).records) == 4
        response = await consume(channel, "orders", filter=event_log_pb2.Filter(key=b"k1"))
        assert [record.offset for record in response.records] == [2, 6]
        response = await consume(channel, "orders", 3, batches=True, max_records=1)
        assert [(batch.base_offset, batch.record_count) for batch in response.batches] == [(2, 2)], "batches are whole"


async def test_records_that_unpack_to_more_than_a_message_come_in_several_answers() -> None:
    """A packed megabyte may hold sixteen: every record arrives nevertheless, by fetch and by stream."""
    async with one_node() as channel:
        values = [bytes([number]) * (1 << 20) for number in range(9)]
        batch = encode_records([Record(value=value) for value in values], Compression.ZSTD, now_ns=1)
        message = batch_message(batch)
        message.payload = bytes(batch.payload)
        await channel.unary(EVENT_LOG["Produce"], event_log_pb2.ProduceRequest(topic="orders", partition=0, batch=message))
        got: list[bytes] = []
        while len(got) < 9:
            response = await consume(channel, "orders", len(got))
            assert len(response.records) <= 4
            got += [record.value for record in response.records]
        assert got == values
        request = event_log_pb2.ConsumeRequest(topic="orders")
        async with channel.stream(EVENT_LOG["ConsumeStream"], request) as call:
            streamed: list[bytes] = []
            while len(streamed) < 9:
                streamed += [record.value for record in (await call.receive()).records]
        assert streamed == values


async def test_partitions_are_chosen_by_key_or_in_turn() -> None:
    """The key decides for ever; without one every partition gets something."""
    async with one_node() as channel:
        request = event_log_pb2.ProduceRequest(topic="orders", records=[records_pb2.Record(key=b"42", value=b"x")])
        assert len({(await channel.unary(EVENT_LOG["Produce"], request)).partition for _ in range(4)}) == 1
        assert {(await produce(channel, "orders", b"x", partition=None)).partition for _ in range(4)} == {0, 1}


async def test_acks_none_and_leader() -> None:
    """NONE carries no offset and is in the log soon; LEADER has the offset."""
    async with one_node() as channel:
        response = await produce(channel, "orders", b"a", acks=2)
        assert (response.base_offset, response.record_count) == (0, 1)
        response = await produce(channel, "orders", b"b", acks=1)
        assert response.base_offset == 1
        await trio.sleep(0.1)
        assert len((await consume(channel, "orders")).records) == 2
