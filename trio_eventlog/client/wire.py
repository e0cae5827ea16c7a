"""Values of the client <-> messages of the service."""

import datetime
import enum

from trio_eventlog.client.producer_core import OFFSET_UNKNOWN, PendingBatch, ProduceResult
from trio_eventlog.client.routing import KnownTopic, Placement, ServerInfo
from trio_eventlog.codec.batch import encode_varint
from trio_eventlog.errors import CorruptBatch, EventLogError
from trio_eventlog.records import Acks, Batch, Compression
from trio_eventlog.rpc import Encoded, methods_of
from trio_eventlog.rpc.status import RpcFailed, error_from_code
from trio_eventlog.v1 import admin_pb2, event_log_pb2, records_pb2

NANOSECONDS = 1_000_000_000

_EVENT_LOG = methods_of(event_log_pb2.DESCRIPTOR.services_by_name["EventLog"])
_ADMIN = methods_of(admin_pb2.DESCRIPTOR.services_by_name["Admin"])
PRODUCE_STREAM = _EVENT_LOG["ProduceStream"]
CONSUME = _EVENT_LOG["Consume"]
CONSUME_STREAM = _EVENT_LOG["ConsumeStream"]
GET_SERVERS = _EVENT_LOG["GetServers"]
CREATE_TOPIC = _ADMIN["CreateTopic"]
DELETE_TOPIC = _ADMIN["DeleteTopic"]
LIST_TOPICS = _ADMIN["ListTopics"]
DESCRIBE_TOPIC = _ADMIN["DescribeTopic"]
GET_STATUS = _ADMIN["GetStatus"]
TRANSFER_LEADERSHIP = _ADMIN["TransferLeadership"]
LIST_MEMBERS = _ADMIN["ListMembers"]
DRAIN_NODE = _ADMIN["DrainNode"]
REMOVE_NODE = _ADMIN["RemoveNode"]

# Field 4, length-delimited: `batch` of ProduceRequest, and `payload` of Batch.
_TAG_4 = b"\x22"
_COMPRESSIONS = {int(compression): compression for compression in Compression}


class Position(enum.Enum):
    """Where to begin, when it is no offset."""

    BEGINNING = "beginning"
    END = "end"


BEGINNING = Position.BEGINNING
END = Position.END
Start = Position | int | datetime.datetime
"""Where a consumer begins: BEGINNING, END, an offset, or a time with its zone."""


def produce_head(topic: str, partition: int, group_id: int, acks: Acks) -> bytes:
    """The part of a ProduceRequest that is the same for all batches of a partition."""
    message = event_log_pb2.ProduceRequest(topic=topic, partition=partition, group_id=group_id)
    message.acks = int(acks)  # type: ignore[assignment]
    return message.SerializeToString()


def produce_request(head: bytes, pending: PendingBatch, producer_id: int) -> Encoded:
    """The request for a numbered batch. The payload is not copied: it is the last field of the last field."""
    batch = pending.batch
    message = records_pb2.Batch(
        record_count=batch.record_count,
        crc32c=batch.crc32c,
        producer_id=producer_id,
        producer_epoch=pending.epoch,
        base_sequence=pending.base_sequence,
    )
    message.compression = int(batch.compression)  # type: ignore[assignment]
    if batch.first_timestamp_ns:
        message.first_timestamp.seconds, message.first_timestamp.nanos = divmod(batch.first_timestamp_ns, NANOSECONDS)
        message.last_timestamp.seconds, message.last_timestamp.nanos = divmod(batch.last_timestamp_ns, NANOSECONDS)
    fields = message.SerializeToString() + _TAG_4 + encode_varint(len(batch.payload))
    return Encoded(head + _TAG_4 + encode_varint(len(fields) + len(batch.payload)) + fields, batch.payload)


def produce_result(response: event_log_pb2.ProduceResponse, pending: PendingBatch, topic: str, partition: int) -> ProduceResult:
    return ProduceResult(
        topic=topic,
        partition=partition,
        base_offset=OFFSET_UNKNOWN if pending.acks is Acks.NONE and not response.duplicate else response.base_offset,
        record_count=pending.batch.record_count,
        duplicate=response.duplicate,
    )


def stream_error(error: event_log_pb2.Error) -> EventLogError:
    """The error of one request on a stream, as the exception it would have been on its own."""
    return error_from_code(error.code, error.message, error.details) or RpcFailed(f"{error.code}: {error.message}")


def batch_of(message: records_pb2.Batch) -> Batch:
    """Raises CorruptBatch for a compression that this version does not know."""
    compression = _COMPRESSIONS.get(message.compression)
    if compression is None:
        raise CorruptBatch(f"batch at offset {message.base_offset}: unknown compression {message.compression}; update the client")
    return Batch(
        record_count=message.record_count,
        payload=message.payload,
        crc32c=message.crc32c,
        compression=compression,
        producer_id=message.producer_id,
        producer_epoch=message.producer_epoch,
        base_sequence=message.base_sequence,
        first_timestamp_ns=message.first_timestamp.seconds * NANOSECONDS + message.first_timestamp.nanos,
        last_timestamp_ns=message.last_timestamp.seconds * NANOSECONDS + message.last_timestamp.nanos,
        base_offset=message.base_offset,
    )


def consume_request(topic: str, partition: int, start: Start, max_bytes: int, group_id: int = 0) -> event_log_pb2.ConsumeRequest:
    """A request for opaque batches from `start` on; of that very group, unless it is 0."""
    request = event_log_pb2.ConsumeRequest(topic=topic, partition=partition, max_bytes=max_bytes, batches=True, group_id=group_id)
    match start:
        case Position.BEGINNING:
            request.start = event_log_pb2.BEGINNING
        case Position.END:
            request.start = event_log_pb2.END
        case datetime.datetime():
            request.start = event_log_pb2.TIMESTAMP
            request.start_timestamp.seconds, request.start_timestamp.nanos = divmod(timestamp_ns(start), NANOSECONDS)
        case int():
            request.offset = start
    return request


def timestamp_ns(when: datetime.datetime) -> int:
    """Nanoseconds since 1970 UTC, exactly."""
    since = when - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (since // datetime.timedelta(microseconds=1)) * 1000


def routing_of(response: event_log_pb2.GetServersResponse) -> tuple[list[ServerInfo], list[Placement]]:
    servers = [
        ServerInfo(
            id=item.id, name=item.name, address=item.address, is_leader=item.is_leader, tags=tuple(sorted(item.tags.items()))
        )
        for item in response.servers
    ]
    placements = [
        Placement(
            topic=item.topic,
            partition=item.partition,
            leader_id=item.leader_id,
            replica_ids=tuple(item.replica_ids),
            group_id=item.group_id,
        )
        for item in response.partitions
    ]
    return servers, placements


def described_topic(response: admin_pb2.DescribeTopicResponse) -> tuple[KnownTopic, list[Placement]]:
    name = response.topic.name
    placements = [
        Placement(
            topic=name,
            partition=item.partition,
            leader_id=item.leader_id,
            replica_ids=tuple(item.replica_ids),
            group_id=item.group_id,
        )
        for item in response.partitions
    ]
    return KnownTopic(name=name, group_ids=tuple(item.group_id for item in response.partitions)), placements
