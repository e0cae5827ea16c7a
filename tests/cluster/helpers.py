"""What several stories need: plain calls to one node, without the client's routing and retries."""

from collections.abc import Sequence
from typing import Any

from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.codec.batch import encode_records, stamp
from trio_eventlog.grpc.batches import batch_message
from trio_eventlog.records import Record
from trio_eventlog.rpc import Channel, methods_of
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.v1 import admin_pb2, event_log_pb2

QUICK = ClientSettings(attempt_timeout_seconds=1.0)
"""A client that does not stay long with a node that does not answer."""

EVENT_LOG = methods_of(event_log_pb2.DESCRIPTOR.services_by_name["EventLog"])
ADMIN = methods_of(admin_pb2.DESCRIPTOR.services_by_name["Admin"])


def produce_request(
    topic: str, values: Sequence[bytes], *, partition: int | None = 0, acks: int = 0
) -> event_log_pb2.ProduceRequest:
    """Plain records: the node encodes them."""
    request = event_log_pb2.ProduceRequest(topic=topic, partition=partition, acks=acks)  # type: ignore[arg-type]
    for value in values:
        request.records.add(value=value)
    return request


def batch_request(
    topic: str, values: Sequence[bytes], *, producer_id: int, base_sequence: int, epoch: int = 0, partition: int = 0
) -> event_log_pb2.ProduceRequest:
    """A batch as an idempotent producer sends it."""
    batch = encode_records([Record(value=value) for value in values], now_ns=1)
    batch = stamp(batch, producer_id=producer_id, producer_epoch=epoch, base_sequence=base_sequence)
    message = batch_message(batch)
    message.payload = bytes(batch.payload)
    return event_log_pb2.ProduceRequest(topic=topic, partition=partition, batch=message)


async def produce(channel: Channel, topic: str, *values: bytes, partition: int | None = 0, acks: int = 0) -> Any:
    """One call; the response."""
    return await channel.unary(EVENT_LOG["Produce"], produce_request(topic, values, partition=partition, acks=acks))


async def consume(channel: Channel, topic: str, offset: int = 0, **fields: Any) -> Any:
    """One fetch; the response."""
    return await channel.unary(EVENT_LOG["Consume"], event_log_pb2.ConsumeRequest(topic=topic, offset=offset, **fields))


async def values_on(cluster: Cluster, name: str, topic: str, partition: int = 0) -> list[bytes]:
    """What a node's own replica shows, checked to be dense."""
    records = await cluster.read(name, topic, partition)
    assert [record.offset for record in records] == list(range(len(records)))
    return [record.value for record in records]
