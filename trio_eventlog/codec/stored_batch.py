"""The batch as it is stored in a DATA entry: a fixed head and the producer's payload, byte for byte.

```
 0  u8   compression
 1  u8   format of the payload: 0, a protobuf RecordBatch; others are for later releases
 2  u16  0
 4  u32  producer epoch
 8  u64  producer id
16  u64  base sequence
24  u32  CRC-32C of the payload, made by the producer
28  u32  0
32       payload
```

Record count and timestamps stand in the entry frame's header.
"""

import struct

from trio_eventlog.codec.entry import EntryFrame, encode_entry
from trio_eventlog.errors import CodecError, UnknownBatchFormat
from trio_eventlog.raft.messages import EntryKind
from trio_eventlog.records import Batch, BatchFormat, Compression

HEAD = struct.Struct("<BBHIQQII")
_COMPRESSIONS = {int(compression): compression for compression in Compression}
_FORMATS = {int(batch_format): batch_format for batch_format in BatchFormat}


def batch_entry(batch: Batch, *, term: int, index: int, base_offset: int) -> EntryFrame:
    """The DATA entry that carries `batch`."""
    head = HEAD.pack(
        batch.compression, batch.format, 0, batch.producer_epoch, batch.producer_id, batch.base_sequence, batch.crc32c, 0
    )
    return encode_entry(
        EntryKind.DATA,
        term=term,
        index=index,
        base_offset=base_offset,
        record_count=batch.record_count,
        first_timestamp_ns=batch.first_timestamp_ns,
        last_timestamp_ns=batch.last_timestamp_ns,
        payload_head=head,
        payload=batch.payload,
    )


def entry_batch(frame: EntryFrame) -> Batch:
    """The batch in a DATA entry; its payload is a view of the frame.

    Raises:
        UnknownBatchFormat: a newer release has stored it.
        CodecError: the head is malformed.
    """
    payload = frame.payload
    if frame.kind is not EntryKind.DATA or len(payload) < HEAD.size:
        raise CodecError(f"entry {frame.index}: no batch in it")
    compression, format_number, zero, epoch, producer_id, base_sequence, checksum, zero_too = HEAD.unpack_from(payload)
    batch_format = _FORMATS.get(format_number)
    if batch_format is None:
        raise UnknownBatchFormat(
            f"entry {frame.index}: its batch has format {format_number}, which a newer release has stored: read it by that release"
        )
    if compression not in _COMPRESSIONS or zero or zero_too or not frame.record_count:
        raise CodecError(f"entry {frame.index}: the head of its batch is malformed")
    return Batch(
        record_count=frame.record_count,
        payload=payload[HEAD.size :],
        crc32c=checksum,
        compression=_COMPRESSIONS[compression],
        format=batch_format,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=base_sequence,
        first_timestamp_ns=frame.first_timestamp_ns,
        last_timestamp_ns=frame.last_timestamp_ns,
        base_offset=frame.base_offset,
    )


def batch_producer(frame: EntryFrame) -> tuple[int, int, int]:
    """Producer id, epoch and base sequence of the batch in a DATA entry. Zeros when there is no room for them."""
    payload = frame.payload
    if len(payload) < HEAD.size:
        return 0, 0, 0
    _, _, _, epoch, producer_id, base_sequence, _, _ = HEAD.unpack_from(payload)
    return producer_id, epoch, base_sequence
