"""Record batches: records <-> payload, and the batch as it is stored in a DATA entry.

A stored batch is a fixed head and the producer's payload, byte for byte:

```
 0  u8   compression
 1  u8   0
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

import gzip
import io
import struct
import zlib
from collections.abc import Sequence

import attrs
import zstandard
from google.protobuf.message import DecodeError

from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.entry import EntryFrame, encode_entry
from trio_eventlog.errors import CodecError, InvalidArgument
from trio_eventlog.raft.messages import EntryKind
from trio_eventlog.records import Batch, Compression, Header, Record
from trio_eventlog.v1 import records_pb2

HEAD = struct.Struct("<BBHIQQII")
NANOSECONDS = 1_000_000_000
TIMESTAMP_NS_END = 1 << 63
_COMPRESSIONS = {int(compression): compression for compression in Compression}


def encode_records(records: Sequence[Record], compression: Compression = Compression.NONE, now_ns: int = 0) -> Batch:
    """A batch of `records`; those without a timestamp get `now_ns`. Offsets are left out (they are relative anyway).

    Raises:
        InvalidArgument: a timestamp that the log has no place for, or a header's key that is no text.
    """
    message = records_pb2.RecordBatch()
    first = last = 0
    try:
        for record in records:
            timestamp_ns = record.timestamp_ns or now_ns
            item = message.records.add(value=record.value, key=record.key)
            for header in record.headers:
                item.headers.add(key=header.key, value=header.value)
            if timestamp_ns:
                item.timestamp.seconds, item.timestamp.nanos = divmod(timestamp_ns, NANOSECONDS)
                first = timestamp_ns if not first else min(first, timestamp_ns)
                last = max(last, timestamp_ns)
    except ValueError as error:
        raise InvalidArgument(f"a record cannot be encoded: {error}") from error
    if first < 0 or last >= TIMESTAMP_NS_END:
        raise InvalidArgument(
            f"a record's timestamp is {first if first < 0 else last} ns: between 1970 and 2262 is what can be stored"
        )
    payload = pack(message.SerializeToString(), compression)
    return Batch(
        record_count=len(records),
        payload=payload,
        crc32c=crc32c(payload),
        compression=compression,
        first_timestamp_ns=first,
        last_timestamp_ns=last,
    )


def decode_message(batch: Batch, max_bytes: int) -> records_pb2.RecordBatch:
    """The payload as protobuf, checked against checksum and count. Raises CodecError; unpacks at most `max_bytes`."""
    if crc32c(batch.payload) != batch.crc32c:
        raise CodecError("batch: the payload does not have the checksum its producer gave it")
    data = unpack(batch.payload, batch.compression, max_bytes)
    try:
        message = records_pb2.RecordBatch.FromString(data)
    except DecodeError as error:
        raise CodecError("batch: the payload is no RecordBatch") from error
    if len(message.records) != batch.record_count:
        raise CodecError(f"batch: {len(message.records)} records in the payload, {batch.record_count} announced")
    return message


def decode_records(batch: Batch, max_bytes: int) -> list[Record]:
    """The records with their offsets. Raises CodecError; unpacks at most `max_bytes`."""
    message = decode_message(batch, max_bytes)
    return [
        Record(
            value=item.value,
            key=item.key,
            headers=tuple(Header(key=header.key, value=header.value) for header in item.headers),
            timestamp_ns=item.timestamp.seconds * NANOSECONDS + item.timestamp.nanos,
            offset=offset,
        )
        for offset, item in enumerate(message.records, batch.base_offset)
    ]


def pack(data: bytes, compression: Compression) -> bytes:
    match compression:
        case Compression.NONE:
            return data
        case Compression.ZSTD:
            return zstandard.ZstdCompressor().compress(data)
        case Compression.GZIP:
            return gzip.compress(data, mtime=0)


def unpack(data: bytes | memoryview, compression: Compression, max_bytes: int) -> bytes:
    """The inverse of `pack`. Raises CodecError for damage and for more than `max_bytes` of result."""
    match compression:
        case Compression.NONE:
            result = bytes(data)
        case Compression.ZSTD:
            try:
                # read() on a stream stops at the bound whatever size the frame's header claims.
                with zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX).stream_reader(io.BytesIO(data)) as reader:
                    result = reader.read(max_bytes + 1)
            except zstandard.ZstdError as error:
                raise CodecError(f"batch: not zstd: {error}") from error
        case Compression.GZIP:
            inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            try:
                result = inflate.decompress(data, max_bytes + 1)
            except zlib.error as error:
                raise CodecError(f"batch: not gzip: {error}") from error
            if len(result) <= max_bytes and not inflate.eof:
                raise CodecError("batch: the gzip stream ends early")
    if len(result) > max_bytes:
        raise CodecError(f"batch: unpacks to more than {max_bytes} bytes")
    return result


def batch_entry(batch: Batch, *, term: int, index: int, base_offset: int) -> EntryFrame:
    """The DATA entry that carries `batch`."""
    head = HEAD.pack(batch.compression, 0, 0, batch.producer_epoch, batch.producer_id, batch.base_sequence, batch.crc32c, 0)
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
    """The batch in a DATA entry; its payload is a view of the frame. Raises CodecError when the head is malformed."""
    payload = frame.payload
    if frame.kind is not EntryKind.DATA or len(payload) < HEAD.size:
        raise CodecError(f"entry {frame.index}: no batch in it")
    compression, zero, zero_too, epoch, producer_id, base_sequence, checksum, zero_again = HEAD.unpack_from(payload)
    if compression not in _COMPRESSIONS or zero or zero_too or zero_again or not frame.record_count:
        raise CodecError(f"entry {frame.index}: the head of its batch is malformed")
    return Batch(
        record_count=frame.record_count,
        payload=payload[HEAD.size :],
        crc32c=checksum,
        compression=_COMPRESSIONS[compression],
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


def stamp(batch: Batch, *, producer_id: int, producer_epoch: int, base_sequence: int) -> Batch:
    """The same batch as an idempotent producer sends it."""
    return attrs.evolve(batch, producer_id=producer_id, producer_epoch=producer_epoch, base_sequence=base_sequence)


_ZSTD_WINDOW_BYTES_MAX = 1 << 27
