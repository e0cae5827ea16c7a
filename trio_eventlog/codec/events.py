"""Events as records: what the record of an event looks like, and how its version gets into it.

| part of the record | is |
| --- | --- |
| key | the aggregate id, UTF-8 |
| value | the payload, byte for byte |
| timestamp | when it happened |
| header `event-id`, `event-type` | UTF-8 |
| header `content-type` | UTF-8; absent: application/json |
| header `event-metadata` | JSON; absent: none |
| header `event-closes` | empty; there when the event closes its aggregate |
| header `event-version` | the version, 8 bytes, big-endian. The last 8 bytes of the record |

Any consumer can read these records. An event is encoded before it is known which version it gets: the leader decides that in its
turn, and then only the 8 bytes and the checksum of the batch have to be written.
"""

import struct
from collections.abc import Sequence

import attrs

from trio_eventlog.codec.batch import NANOSECONDS, decode_message, encode_varint
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import CodecError
from trio_eventlog.events import JSON, EventHead, NewEvent, RecordedEvent
from trio_eventlog.records import Batch, Record
from trio_eventlog.v1 import records_pb2

ID = "event-id"
TYPE = "event-type"
CONTENT_TYPE = "content-type"
METADATA = "event-metadata"
CLOSES = "event-closes"
VERSION = "event-version"

_VERSION_BYTES = struct.Struct(">Q")
_RECORDS_TAG = b"\x0a"
_slot = records_pb2.Record()
_slot.headers.add(key=VERSION, value=bytes(8))
_VERSION_HEADER = _slot.SerializeToString()
"""Appended to an encoded record it is one more header of it."""


@attrs.frozen(slots=True, kw_only=True)
class EncodedEvents:
    """Events of one aggregate as a batch that has no versions yet.

    Attributes:
        batch: its checksum is that of no payload.
        ends: behind the version of each event, a position in the payload.
    """

    batch: Batch
    ends: tuple[int, ...]

    def stamped(self, first_version: int) -> Batch:
        """The batch with the versions `first_version` and so on."""
        payload = bytearray(self.batch.payload)
        for version, end in enumerate(self.ends, first_version):
            _VERSION_BYTES.pack_into(payload, end - 8, version)
        stamped = bytes(payload)
        return attrs.evolve(self.batch, payload=stamped, crc32c=crc32c(stamped))


def encode_events(aggregate_id: str, events: Sequence[NewEvent], now_ns: int) -> EncodedEvents:
    """The events, those without a timestamp at `now_ns`."""
    parts: list[bytes] = []
    ends: list[int] = []
    size_bytes = 0
    key = aggregate_id.encode()
    stamps = [event.timestamp_ns or now_ns for event in events]
    for event, timestamp_ns in zip(events, stamps, strict=True):
        record = _record(key, event, timestamp_ns).SerializeToString() + _VERSION_HEADER
        head = _RECORDS_TAG + encode_varint(len(record))
        parts += head, record
        size_bytes += len(head) + len(record)
        ends.append(size_bytes)
    batch = Batch(
        record_count=len(events),
        payload=b"".join(parts),
        crc32c=0,
        first_timestamp_ns=min(stamps),
        last_timestamp_ns=max(stamps),
    )
    return EncodedEvents(batch=batch, ends=tuple(ends))


def _record(key: bytes, event: NewEvent, timestamp_ns: int) -> records_pb2.Record:
    record = records_pb2.Record(key=key, value=event.data)
    add = record.headers.add
    add(key=ID, value=event.event_id.encode())
    add(key=TYPE, value=event.type.encode())
    if event.content_type != JSON:
        add(key=CONTENT_TYPE, value=event.content_type.encode())
    if event.metadata:
        add(key=METADATA, value=event.metadata)
    if event.closes:
        add(key=CLOSES)
    record.timestamp.seconds, record.timestamp.nanos = divmod(timestamp_ns, NANOSECONDS)
    return record


def event_heads(batch: Batch, unpacked_bytes_max: int) -> list[EventHead]:
    """What an index keeps of a batch. Records that are no events, and batches that cannot be read, have nothing: whatever is in the
    log, a node has to go on behind it."""
    try:
        message = decode_message(batch, unpacked_bytes_max)
    except CodecError:
        return []
    heads: list[EventHead] = []
    for offset, item in enumerate(message.records, batch.base_offset):
        headers = {header.key: header.value for header in item.headers}
        event_id, kind, version = headers.get(ID), headers.get(TYPE), headers.get(VERSION)
        if not (event_id and kind and item.key) or version is None or len(version) != 8:
            continue
        try:
            heads.append(
                EventHead(
                    offset,
                    item.key.decode(),
                    event_id.decode(),
                    kind.decode(),
                    _VERSION_BYTES.unpack(version)[0],
                    CLOSES in headers,
                )
            )
        except UnicodeDecodeError:
            continue
    return heads


def recorded_event(record: Record) -> RecordedEvent | None:
    """The event that a consumed record is; None for one that is none."""
    headers = {header.key: header.value for header in record.headers}
    event_id, kind, version = headers.get(ID), headers.get(TYPE), headers.get(VERSION)
    if not (event_id and kind and record.key) or version is None or len(version) != 8:
        return None
    try:
        return RecordedEvent(
            event_id=event_id.decode(),
            type=kind.decode(),
            aggregate_id=record.key.decode(),
            version=_VERSION_BYTES.unpack(version)[0],
            data=record.value or b"",
            content_type=headers[CONTENT_TYPE].decode() if CONTENT_TYPE in headers else JSON,
            metadata=headers.get(METADATA, b""),
            timestamp_ns=record.timestamp_ns,
            closes=CLOSES in headers,
            offset=record.offset,
            topic=record.topic,
            partition=record.partition,
        )
    except UnicodeDecodeError:
        return None


def decode_events(batch: Batch, max_bytes: int, topic: str, partition: int) -> list[RecordedEvent | None]:
    """What `recorded_event` makes of each record, without the records: reading an aggregate is nothing else.

    Raises:
        CodecError: the batch is damaged, or unpacks to more than `max_bytes`.
    """
    return [
        _event_of(item, offset, topic, partition)
        for offset, item in enumerate(decode_message(batch, max_bytes).records, batch.base_offset)
    ]


def _event_of(item: records_pb2.Record, offset: int, topic: str, partition: int) -> RecordedEvent | None:
    headers = {header.key: header.value for header in item.headers}
    event_id, kind, version, key = headers.get(ID), headers.get(TYPE), headers.get(VERSION), item.key
    if not (event_id and kind and key) or version is None or len(version) != 8:
        return None
    timestamp = item.timestamp
    try:
        return RecordedEvent(
            event_id=event_id.decode(),
            type=kind.decode(),
            aggregate_id=key.decode(),
            version=_VERSION_BYTES.unpack(version)[0],
            data=item.value,
            content_type=headers[CONTENT_TYPE].decode() if CONTENT_TYPE in headers else JSON,
            metadata=headers.get(METADATA, b""),
            timestamp_ns=timestamp.seconds * NANOSECONDS + timestamp.nanos,
            closes=CLOSES in headers,
            offset=offset,
            topic=topic,
            partition=partition,
        )
    except UnicodeDecodeError:
        return None
