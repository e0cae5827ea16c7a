"""Protobuf messages of the outward contract <-> values of this package."""

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from trio_eventlog.bounds import SEQUENCE_END_MAX
from trio_eventlog.codec.batch import NANOSECONDS, TIMESTAMP_NS_END, TooManyRecords, unpack_message
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import BatchTooLarge, CodecError, CorruptBatch, InvalidArgument
from trio_eventlog.records import Acks, Batch, Compression
from trio_eventlog.rpc import Encoded
from trio_eventlog.v1 import event_log_pb2, records_pb2

_COMPRESSIONS = {int(compression): compression for compression in Compression}
_ACKS = {int(acks): acks for acks in Acks}


def requested_acks(request: event_log_pb2.ProduceRequest) -> Acks:
    acks = _ACKS.get(request.acks)
    if acks is None:
        raise InvalidArgument(f"acks {request.acks} is none of QUORUM, LEADER, ACCEPTED")
    return acks


def requested_batch(request: event_log_pb2.ProduceRequest, *, max_bytes: int, max_records: int, now_ns: int) -> Batch:
    """The batch that a request carries, or that its records make.

    Raises:
        InvalidArgument: neither records nor a batch, or both.
        BatchTooLarge: over `max_bytes`, packed or unpacked; more than `max_records` records that are no batch yet.
        CorruptBatch: checksum or record count do not agree with the payload.
    """
    if request.HasField("batch"):
        if request.records:
            raise InvalidArgument("the request carries records and a batch: send one of them")
        batch = _given_batch(request.batch)
    elif request.records:
        if len(request.records) > max_records:
            raise BatchTooLarge(
                f"{len(request.records)} records in one request, and {max_records} are the most: send fewer", limit_bytes=max_bytes
            )
        batch = _batch_of(request.records, now_ns)
    else:
        raise InvalidArgument("the request carries no records: send records or a batch")
    if len(batch.payload) > max_bytes:
        raise BatchTooLarge(
            f"the batch has {len(batch.payload)} bytes, the limit is {max_bytes}: send smaller batches", limit_bytes=max_bytes
        )
    return batch


RECORD_OVERHEAD_BYTES = 6
"""Tag and length of a record in its answer."""
OFFSET_BYTES_MAX = 11
"""Of the offset, which a record gets in its answer."""


def check_batch(batch: Batch, max_unpacked_bytes: int, records_max: int, record_bytes_max: int) -> None:
    """Refuse what no consumer could be given.

    The count is looked at because offsets are dense: a batch that announces more records than it has would leave a hole for ever.

    Raises:
        CorruptBatch: checksum or record count do not agree with the payload.
        BatchTooLarge: more than `records_max` records, or one that an answer with `record_bytes_max` of records cannot carry.
    """
    try:
        message, unpacked_bytes = unpack_message(batch, max_unpacked_bytes, records_max)
        # Only what is large as a whole can hold one that is too large: ordinary batches are not looked through.
        if unpacked_bytes + OFFSET_BYTES_MAX > record_bytes_max:
            largest_bytes = max(map(records_pb2.Record.ByteSize, message.records)) + RECORD_OVERHEAD_BYTES + OFFSET_BYTES_MAX
            if largest_bytes > record_bytes_max:
                raise BatchTooLarge(
                    f"the batch holds a record of {largest_bytes} bytes unpacked, and consumers can be given {record_bytes_max} at"
                    " once: send smaller records",
                    limit_bytes=record_bytes_max,
                )
    except TooManyRecords as error:
        raise BatchTooLarge(f"{error}: send smaller batches", limit_bytes=max_unpacked_bytes) from error
    except CodecError as error:
        raise CorruptBatch(f"{error}; nothing was appended: build the batch again") from error


def _given_batch(message: records_pb2.Batch) -> Batch:
    compression = _COMPRESSIONS.get(message.compression)
    if compression is None:
        raise InvalidArgument(f"compression {message.compression} is none of NONE, ZSTD, GZIP")
    if not message.record_count:
        raise InvalidArgument("the batch announces no records: record_count is at least 1")
    if message.base_sequence + message.record_count > SEQUENCE_END_MAX:
        raise InvalidArgument(f"the batch begins at sequence {message.base_sequence}: there are not so many numbers after it")
    return Batch(
        record_count=message.record_count,
        payload=message.payload,
        crc32c=message.crc32c,
        compression=compression,
        producer_id=message.producer_id,
        producer_epoch=message.producer_epoch,
        base_sequence=message.base_sequence,
        first_timestamp_ns=_nanoseconds(message.first_timestamp),
        last_timestamp_ns=_nanoseconds(message.last_timestamp),
    )


def _nanoseconds(timestamp: Timestamp) -> int:
    """Since 1970. Raises InvalidArgument for what the log has no place for."""
    nanoseconds: int = timestamp.seconds * NANOSECONDS + timestamp.nanos
    if not 0 <= nanoseconds < TIMESTAMP_NS_END:
        raise InvalidArgument(f"timestamp {timestamp.seconds} s: between 1970 and 2262 is what can be stored")
    return nanoseconds


def _batch_of(records: Iterable[records_pb2.Record], now_ns: int) -> Batch:
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


def batch_message(batch: Batch) -> records_pb2.Batch:
    """Without its payload, which may be large: see `encode_batches` and `with_payload`."""
    message = records_pb2.Batch(
        base_offset=batch.base_offset,
        record_count=batch.record_count,
        compression=int(batch.compression),  # type: ignore[arg-type]
        crc32c=batch.crc32c,
        producer_id=batch.producer_id,
        producer_epoch=batch.producer_epoch,
        base_sequence=batch.base_sequence,
    )
    for field, timestamp_ns in (
        (message.first_timestamp, batch.first_timestamp_ns),
        (message.last_timestamp, batch.last_timestamp_ns),
    ):
        if timestamp_ns:
            field.seconds, field.nanos = divmod(timestamp_ns, NANOSECONDS)
    return message


def encode_batches(batches: Iterable[Batch], *, high_watermark: int, log_start_offset: int, group_id: int) -> Encoded:
    """A ConsumeResponse of opaque batches, with their payloads moved rather than copied through protobuf.

    A length-delimited field is its tag, its length and its bytes, in any order among the others, so the payload can be put
    behind the fields that protobuf encodes.
    """
    buffers: list[bytes | memoryview] = []
    for batch in batches:
        fields = batch_message(batch).SerializeToString()
        payload_head = _PAYLOAD_TAG + _varint(len(batch.payload))
        size = len(fields) + len(payload_head) + len(batch.payload)
        buffers += (_BATCHES_TAG + _varint(size) + fields + payload_head, batch.payload)
    rest = event_log_pb2.ConsumeResponse(high_watermark=high_watermark, log_start_offset=log_start_offset, group_id=group_id)
    buffers.append(rest.SerializeToString())
    return Encoded(*buffers)


def encode_produce_request(topic: str, partition: int, batch: Batch, acks: Acks, group_id: int = 0) -> Encoded:
    """A ProduceRequest with its payload moved, for forwarding; `group_id` is the group that it must go to."""
    head = event_log_pb2.ProduceRequest(topic=topic, partition=partition, acks=int(acks), group_id=group_id)  # type: ignore[arg-type]
    fields = batch_message(batch).SerializeToString()
    payload_head = _PAYLOAD_TAG + _varint(len(batch.payload))
    size = len(fields) + len(payload_head) + len(batch.payload)
    return Encoded(head.SerializeToString(), _BATCH_TAG + _varint(size) + fields + payload_head, batch.payload)


def _tag(message: type, field: str) -> bytes:
    number: int = message.DESCRIPTOR.fields_by_name[field].number  # type: ignore[attr-defined]
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_PAYLOAD_TAG = _tag(records_pb2.Batch, "payload")
_BATCHES_TAG = _tag(event_log_pb2.ConsumeResponse, "batches")
_BATCH_TAG = _tag(event_log_pb2.ProduceRequest, "batch")
