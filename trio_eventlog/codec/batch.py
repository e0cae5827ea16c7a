"""Record batches: records <-> payload. How a batch is stored in an entry: `codec/stored_batch.py`; clients need no entries."""

import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import cast

import attrs
import zstandard
from google.protobuf.message import DecodeError

from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import CodecError, InvalidArgument
from trio_eventlog.records import Batch, Compression, Header, Record
from trio_eventlog.v1 import records_pb2

NANOSECONDS = 1_000_000_000
TIMESTAMP_NS_END = 1 << 63
_EMPTY_RECORD_BYTES = 2
"""Of an empty record, or an empty header, in a payload: its tag and its length."""
_UNCOUNTED = 8
"""Multiple of the permitted number up to which protobuf may make objects that nobody has counted: each is a hundred bytes for a
moment, and to count them first takes longer than all the rest. A batch that unpacks to less than this many records need (4 MB by
default) is not looked at."""
_RECORDS_TAG = b"\x0a"
_HEADERS_TAG = b"\x22"
"""How a record of a batch begins, and how a header of a record does."""
_VALUE_TAG = b"\x12"
"""How the value of a record begins."""
_SMALL = {tag: re.compile(tag + rb"[\x00-\x1f\x80-\x9f]") for tag in (_RECORDS_TAG, _HEADERS_TAG)}
"""How those of less than 32 bytes begin, in whichever form their lengths are. Rare in text: no character begins with 80 to 9f."""
_SMALL_LENGTHS = bytes((*range(0x20), *range(0x80, 0xA0)))
"""What follows the tags of such."""
_VARINT_SHIFT_MAX = 63
_ZSTD_WINDOW_BYTES_MAX = 1 << 27


def encode_records(records: Sequence[Record | bytes], compression: Compression = Compression.NONE, now_ns: int = 0) -> Batch:
    """A batch of `records`; those without a timestamp get `now_ns`. Offsets are left out (they are relative anyway).

    Bytes stand for a record with that value. A batch of nothing else is encoded without a look at each record.

    Raises:
        InvalidArgument: a timestamp that the log has no place for, or a header's key that is no text.
    """
    if set(map(type, records)) == {bytes}:
        first = last = now_ns
        _check_timestamps(first, last)
        data = _encode_values(cast("Sequence[bytes]", records), now_ns)
    else:
        data, first, last = _encode_each(records, now_ns)
        _check_timestamps(first, last)
    payload = pack(data, compression)
    return Batch(
        record_count=len(records),
        payload=payload,
        crc32c=crc32c(payload),
        compression=compression,
        first_timestamp_ns=first,
        last_timestamp_ns=last,
    )


def _check_timestamps(first: int, last: int) -> None:
    if first < 0 or last >= TIMESTAMP_NS_END:
        raise InvalidArgument(
            f"a record's timestamp is {first if first < 0 else last} ns: between 1970 and 2262 is what can be stored"
        )


def _encode_each(records: Sequence[Record | bytes], now_ns: int) -> tuple[bytes, int, int]:
    """An encoded RecordBatch, its smallest and its largest timestamp."""
    message = records_pb2.RecordBatch()
    first = last = 0
    try:
        for given in records:
            record = given if isinstance(given, Record) else Record(value=given)
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
    return message.SerializeToString(), first, last


def _encode_values(values: Sequence[bytes], timestamp_ns: int) -> bytes:
    """What protobuf makes of records of these values and one timestamp, byte for byte, in a tenth of its time.

    What stands before a value depends on its size alone, and what stands behind it is the timestamp of all.
    """
    tail = b""
    if timestamp_ns:
        stamped = records_pb2.Record()
        stamped.timestamp.seconds, stamped.timestamp.nanos = divmod(timestamp_ns, NANOSECONDS)
        tail = stamped.SerializeToString()

    def between(size: int) -> bytes:
        """The end of a record, and the beginning of the next one, whose value has this size."""
        field = _VALUE_TAG + encode_varint(size)
        return tail + _RECORDS_TAG + encode_varint(len(field) + size + len(tail)) + field

    sizes = list(map(len, values))
    heads = {size: between(size) for size in dict.fromkeys(sizes)}
    parts = [b""] * (2 * len(values) + 1)
    parts[0:-1:2] = map(heads.__getitem__, sizes)
    parts[1::2] = values
    parts[0] = parts[0][len(tail) :]
    parts[-1] = tail
    return b"".join(parts)


def encode_varint(value: int) -> bytes:
    """Protobuf's form of a whole number from 0 on."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class TooManyRecords(CodecError):
    """A batch of more records than may be unpacked at once. Its payload may be well."""


def decode_message(batch: Batch, max_bytes: int, max_records: int | None = None) -> records_pb2.RecordBatch:
    """As `unpack_message`, without the size."""
    return unpack_message(batch, max_bytes, max_records)[0]


def unpack_message(batch: Batch, max_bytes: int, max_records: int | None = None) -> tuple[records_pb2.RecordBatch, int]:
    """The payload as protobuf, checked against checksum and count, and its size unpacked in bytes.

    Args:
        max_bytes: most that is unpacked.
        max_records: most records. Of a payload that seems to be mostly very small records and headers, most fields of all kinds.
            None: as many as `max_bytes` has room for.

    Raises:
        TooManyRecords: it announces or holds more than `max_records`.
        CodecError: damage, or more than `max_bytes` unpacked.
    """
    if max_records is not None and batch.record_count > max_records:
        raise TooManyRecords(f"{batch.record_count} records in one batch, and {max_records} are the most")
    if crc32c(batch.payload) != batch.crc32c:
        raise CodecError("batch: the payload does not have the checksum its producer gave it")
    data = unpack(batch.payload, batch.compression, max_bytes)
    return parse_unpacked(batch, data, max_records), len(data)


def parse_unpacked(batch: Batch, data: bytes, max_records: int | None) -> records_pb2.RecordBatch:
    """The payload of `batch` as protobuf, which is `data` unpacked. Raises as `unpack_message`."""
    if max_records is not None and len(data) > _EMPTY_RECORD_BYTES * _UNCOUNTED * max_records:
        _check_count(data, max_records)
    try:
        message = records_pb2.RecordBatch.FromString(data)
    except DecodeError as error:
        raise CodecError("batch: the payload is no RecordBatch") from error
    if len(message.records) != batch.record_count:
        raise CodecError(f"batch: {len(message.records)} records in the payload, {batch.record_count} announced")
    return message


def _check_count(data: bytes, max_records: int) -> None:
    """Raises TooManyRecords before protobuf makes an object of each: an empty record is 2 bytes here and a hundred there, and so is
    an empty header.

    Only small ones can be very many, and each of them begins with one of a few pairs of bytes. That these are not very many nearly
    always settles it, at the speed of a search. Only else fields are walked one by one, whatever they are, and no more of them than
    records are permitted: the walk is work too.
    """
    uncounted = _UNCOUNTED * max_records
    if len(data) - len(data.translate(None, _SMALL_LENGTHS)) <= uncounted:
        return
    if all(_are_few(data, tag, uncounted) for tag in _SMALL):
        return
    fields = 0
    for tag, start, end in _fields(data, 0, len(data)):
        fields += 1
        if tag == _RECORDS_TAG[0]:
            fields += sum(1 for _ in islice(_fields(data, start, end), max_records))
        if fields > max_records:
            raise TooManyRecords(f"more than {max_records} records, headers and other fields in one batch, most of them very small")


def _are_few(data: bytes, tag: bytes, limit: int) -> bool:
    """Whether not very many small values with this tag can be there. (The tag has a second form: a varint longer than need be.)"""
    long_tag = bytes((tag[0] | 0x80,))
    if data.count(tag) + data.count(long_tag) <= limit:
        return True
    has_many = next(islice(_SMALL[tag].finditer(data), limit, None), None) is not None
    return not has_many and data.count(long_tag + b"\x00") + data.count(long_tag + b"\x80") <= limit


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Tag of each field of a message, and where its value begins and ends. Raises CodecError."""
    while position < end:
        tag, position = _read_varint(data, position, end)
        size = 0
        match tag & 7:
            case 0:
                _, position = _read_varint(data, position, end)
            case 1:
                size = 8
            case 2:
                size, position = _read_varint(data, position, end)
            case 5:
                size = 4
            case _:
                raise CodecError("batch: the payload is no RecordBatch")
        if position + size > end:
            raise CodecError("batch: the payload is no RecordBatch")
        yield tag, position, position + size
        position += size


def _read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift <= _VARINT_SHIFT_MAX:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise CodecError("batch: the payload is no RecordBatch")


def decode_records(batch: Batch, max_bytes: int, topic: str = "", partition: int = 0) -> list[Record]:
    """The records with their offsets, in that partition. Raises CodecError; unpacks at most `max_bytes`."""
    message = decode_message(batch, max_bytes)
    return [
        Record(
            # Absent is null. Only what is empty needs to be asked.
            value=item.value or (b"" if item.HasField("value") else None),
            key=item.key or (b"" if item.HasField("key") else None),
            headers=tuple(Header(key=header.key, value=header.value) for header in item.headers),
            timestamp_ns=item.timestamp.seconds * NANOSECONDS + item.timestamp.nanos,
            offset=offset,
            topic=topic,
            partition=partition,
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
            decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX)
            try:
                if 0 < zstandard.frame_content_size(data) <= max_bytes:
                    # Four times as fast as a stream. It makes room for what the header claims, and fails when there is more.
                    return decompressor.decompress(data)
                # read() on a stream stops at the bound whatever size the frame's header claims.
                with decompressor.stream_reader(io.BytesIO(data)) as reader:
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


def stamp(batch: Batch, *, producer_id: int, producer_epoch: int, base_sequence: int) -> Batch:
    """The same batch as an idempotent producer sends it."""
    return attrs.evolve(batch, producer_id=producer_id, producer_epoch=producer_epoch, base_sequence=base_sequence)


def largest_record_bytes(message: records_pb2.RecordBatch) -> int:
    """Of the records in what `unpack_message` has returned, the size of the largest."""
    return max(map(records_pb2.Record.ByteSize, message.records))
