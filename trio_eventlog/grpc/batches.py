"""Batches and records as protobuf messages, both ways. Payloads are moved, not copied through protobuf."""

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from trio_eventlog.bounds import SEQUENCE_END_MAX
from trio_eventlog.codec.batch import NANOSECONDS, TIMESTAMP_NS_END, encode_varint
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import BatchTooLarge, CorruptBatch, InvalidArgument, UnknownBatchFormat
from trio_eventlog.records import Acks, Batch, BatchFormat, Compression
from trio_eventlog.rpc import Encoded
from trio_eventlog.v1 import event_log_pb2, records_pb2

_COMPRESSIONS = {int(compression): compression for compression in Compression}
_FORMATS = {int(batch_format): batch_format for batch_format in BatchFormat}
_ACKS = {int(acks): acks for acks in Acks}


# Messages to values


def requested_acks(request: event_log_pb2.ProduceRequest) -> Acks:
    acks = _ACKS.get(request.acks)
    if acks is None:
        raise InvalidArgument(f"acks {request.acks} is none of QUORUM, LEADER, ACCEPTED")
    return acks


def requested_batch(request: event_log_pb2.ProduceRequest, *, max_bytes: int, max_records: int, now_ns: int) -> Batch:
    """The batch that a request carries, or that its records make.

    Raises:
        InvalidArgument: neither records nor a batch, or both.
        BatchTooLarge: more than `max_records` records that are no batch yet; `max_bytes` is only told.
        UnknownBatchFormat: the payload is in a form that this release does not know.
    """
    if request.HasField("batch"):
        if request.records:
            raise InvalidArgument("the request carries records and a batch: send one of them")
        return _given_batch(request.batch)
    if not request.records:
        raise InvalidArgument("the request carries no records: send records or a batch")
    if len(request.records) > max_records:
        raise BatchTooLarge(
            f"{len(request.records)} records in one request, and {max_records} are the most: send fewer", limit_bytes=max_bytes
        )
    return _batch_of_records(request.records, now_ns)


def _given_batch(message: records_pb2.Batch) -> Batch:
    compression = _COMPRESSIONS.get(message.compression)
    if compression is None:
        raise InvalidArgument(f"compression {message.compression} is none of NONE, ZSTD, GZIP")
    batch_format = _FORMATS.get(message.format)
    if batch_format is None:
        raise UnknownBatchFormat(
            f"the batch has format {message.format}, and this release takes only 0 (RECORD_BATCH): send that, or ask a newer node"
        )
    if not message.record_count:
        raise InvalidArgument("the batch announces no records: record_count is at least 1")
    if message.base_sequence + message.record_count > SEQUENCE_END_MAX:
        raise InvalidArgument(f"the batch begins at sequence {message.base_sequence}: its sequence numbers would overflow")
    first_timestamp_ns, last_timestamp_ns = _nanoseconds(message.first_timestamp), _nanoseconds(message.last_timestamp)
    if first_timestamp_ns > last_timestamp_ns:
        raise InvalidArgument(
            f"first_timestamp {first_timestamp_ns} ns is after last_timestamp {last_timestamp_ns} ns: they are the smallest and the"
            " largest timestamp of the records"
        )
    return Batch(
        record_count=message.record_count,
        payload=message.payload,
        crc32c=message.crc32c,
        compression=compression,
        format=batch_format,
        producer_id=message.producer_id,
        producer_epoch=message.producer_epoch,
        base_sequence=message.base_sequence,
        first_timestamp_ns=first_timestamp_ns,
        last_timestamp_ns=last_timestamp_ns,
    )


def _nanoseconds(timestamp: Timestamp) -> int:
    """Since 1970. Raises InvalidArgument for what the log has no place for."""
    if not 0 <= timestamp.nanos < NANOSECONDS:
        raise InvalidArgument(f"timestamp with {timestamp.nanos} nanos: they are from 0 to 999,999,999, the rest is seconds")
    nanoseconds: int = timestamp.seconds * NANOSECONDS + timestamp.nanos
    if not 0 <= nanoseconds < TIMESTAMP_NS_END:
        raise InvalidArgument(f"timestamp {timestamp.seconds} s: between 1970 and 2262 is what can be stored")
    return nanoseconds


def _batch_of_records(records: Iterable[records_pb2.Record], now_ns: int) -> Batch:
    message = records_pb2.RecordBatch(records=records)
    first = last = 0
    seconds, nanos = divmod(now_ns, NANOSECONDS)
    for record in message.records:
        record.ClearField("offset")
        if not record.HasField("timestamp"):
            record.timestamp.seconds, record.timestamp.nanos = seconds, nanos
        timestamp_ns = _nanoseconds(record.timestamp)
        first = min(first or timestamp_ns, timestamp_ns)
        last = max(last, timestamp_ns)
    payload = message.SerializeToString()
    return Batch(
        record_count=len(message.records),
        payload=payload,
        crc32c=crc32c(payload),
        first_timestamp_ns=first,
        last_timestamp_ns=last,
    )


def consumed_batch(message: records_pb2.Batch) -> Batch:
    """A batch of an answer. Raises UnknownBatchFormat and CorruptBatch, for a format and a compression that this release lacks."""
    batch_format = _FORMATS.get(message.format)
    if batch_format is None:
        raise UnknownBatchFormat(
            f"batch at offset {message.base_offset}: its format {message.format} is that of a newer release; update the client"
        )
    compression = _COMPRESSIONS.get(message.compression)
    if compression is None:
        raise CorruptBatch(f"batch at offset {message.base_offset}: unknown compression {message.compression}; update the client")
    return Batch(
        record_count=message.record_count,
        payload=message.payload,
        crc32c=message.crc32c,
        compression=compression,
        format=batch_format,
        producer_id=message.producer_id,
        producer_epoch=message.producer_epoch,
        base_sequence=message.base_sequence,
        first_timestamp_ns=message.first_timestamp.seconds * NANOSECONDS + message.first_timestamp.nanos,
        last_timestamp_ns=message.last_timestamp.seconds * NANOSECONDS + message.last_timestamp.nanos,
        base_offset=message.base_offset,
    )


# Values to messages


def batch_message(batch: Batch) -> records_pb2.Batch:
    """Without its payload, which may be large: see `encode_batches` and `encode_produce_request`."""
    return numbered_batch_message(batch, batch.producer_id, batch.producer_epoch, batch.base_sequence)


def numbered_batch_message(batch: Batch, producer_id: int, producer_epoch: int, base_sequence: int) -> records_pb2.Batch:
    """As `batch_message`, with the numbers of a producer in place of the batch's own."""
    message = records_pb2.Batch(
        base_offset=batch.base_offset,
        record_count=batch.record_count,
        compression=int(batch.compression),  # type: ignore[arg-type]
        crc32c=batch.crc32c,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        format=int(batch.format),  # type: ignore[arg-type]
    )
    for field, timestamp_ns in (
        (message.first_timestamp, batch.first_timestamp_ns),
        (message.last_timestamp, batch.last_timestamp_ns),
    ):
        if timestamp_ns:
            field.seconds, field.nanos = divmod(timestamp_ns, NANOSECONDS)
    return message


def encode_batches(batches: Iterable[Batch], *, high_watermark: int, log_start_offset: int, group_id: int) -> Encoded:
    """A ConsumeResponse of opaque batches.

    A length-delimited field is its tag, its length and its bytes, in any order among the others, so the payload can be put
    behind the fields that protobuf encodes.
    """
    buffers: list[bytes | memoryview] = []
    for batch in batches:
        buffers += (_head(_BATCHES_TAG, batch_message(batch), batch), batch.payload)
    rest = event_log_pb2.ConsumeResponse(high_watermark=high_watermark, log_start_offset=log_start_offset, group_id=group_id)
    buffers.append(rest.SerializeToString())
    return Encoded(*buffers)


def produce_head(topic: str, partition: int, group_id: int, acks: Acks) -> bytes:
    """The part of a ProduceRequest that is the same for all batches of a partition; `group_id` is where they must go."""
    message = event_log_pb2.ProduceRequest(topic=topic, partition=partition, group_id=group_id)
    message.acks = int(acks)  # type: ignore[assignment]
    return message.SerializeToString()


def encode_produce_request(head: bytes, message: records_pb2.Batch, batch: Batch) -> Encoded:
    """A ProduceRequest of `batch`, whose fields but the payload are `message`."""
    return Encoded(head + _head(_BATCH_TAG, message, batch), batch.payload)


def _head(tag: bytes, message: records_pb2.Batch, batch: Batch) -> bytes:
    """All bytes of a batch in a message but its payload, which follows as the last field."""
    fields = message.SerializeToString()
    payload_head = _PAYLOAD_TAG + encode_varint(len(batch.payload))
    size_bytes = len(fields) + len(payload_head) + len(batch.payload)
    return tag + encode_varint(size_bytes) + fields + payload_head


def _tag(message: type, field: str) -> bytes:
    number: int = message.DESCRIPTOR.fields_by_name[field].number  # type: ignore[attr-defined]
    return encode_varint(number << 3 | 2)


_PAYLOAD_TAG = _tag(records_pb2.Batch, "payload")
_BATCHES_TAG = _tag(event_log_pb2.ConsumeResponse, "batches")
_BATCH_TAG = _tag(event_log_pb2.ProduceRequest, "batch")
