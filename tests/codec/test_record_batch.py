"""Record batches: golden bytes, round trips, damage, bounds, and any bytes at all."""

from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.batch import decode_records, encode_records, pack, stamp, unpack
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.entry import EntryKind, decode_entry, encode_entry
from trio_eventlog.codec.stored_batch import HEAD, batch_entry, batch_producer, entry_batch
from trio_eventlog.errors import CodecError, InvalidArgument, UnknownBatchFormat
from trio_eventlog.records import Batch, BatchFormat, Compression, Header, Record
from trio_eventlog.v1 import records_pb2

GOLDEN = Path(__file__).parent / "golden"
LIMIT = 1 << 20

RECORDS = [
    Record(value=b"first", key=b"k", headers=(Header(key="a", value=b"1"), Header(key="a", value=b"\xff")), timestamp_ns=5),
    Record(value=None, timestamp_ns=1_700_000_000_123_456_789, offset=1),
    Record(value=b"\x00" * 100, timestamp_ns=3, offset=2),
]

records = st.builds(
    Record,
    value=st.none() | st.binary(max_size=50),
    key=st.none() | st.binary(max_size=10),
    headers=st.lists(st.builds(Header, key=st.text(max_size=5), value=st.binary(max_size=5)), max_size=3).map(tuple),
    timestamp_ns=st.integers(1, 4_000_000_000_000_000_000),
)
each_compression = pytest.mark.parametrize("compression", Compression, ids=lambda compression: compression.name)


@each_compression
def test_golden(compression: Compression) -> None:
    """Entries written with each compression are read; what is written without compression is the same to the byte."""
    data = bytes.fromhex((GOLDEN / f"batch_entry_{compression.name.lower()}.v1.hex").read_text())
    batch = entry_batch(decode_entry(data))
    assert decode_records(batch, LIMIT) == [attrs.evolve(record, offset=record.offset + 40) for record in RECORDS]
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (77, 2, 9)
    assert (batch.first_timestamp_ns, batch.last_timestamp_ns) == (3, 1_700_000_000_123_456_789)
    if compression is Compression.NONE:
        again = stamp(encode_records(RECORDS), producer_id=77, producer_epoch=2, base_sequence=9)
        assert batch_entry(again, term=3, index=17, base_offset=40).raw == data


@given(st.lists(records, min_size=1, max_size=5), st.sampled_from(Compression), st.integers(0, 1 << 40))
def test_round_trip(written: list[Record], compression: Compression, base_offset: int) -> None:
    """Records come back with their offsets, through any compression and an entry."""
    batch = encode_records(written, compression)
    frame = batch_entry(batch, term=1, index=1, base_offset=base_offset)
    stored = entry_batch(decode_entry(frame.raw))
    assert stored == attrs.evolve(batch, base_offset=base_offset)
    expected = [attrs.evolve(record, offset=base_offset + number) for number, record in enumerate(written)]
    assert decode_records(stored, LIMIT) == expected
    assert batch.first_timestamp_ns == min(record.timestamp_ns for record in written)
    assert batch.last_timestamp_ns == max(record.timestamp_ns for record in written)


def test_records_without_a_timestamp_are_stamped() -> None:
    """With the time handed in."""
    batch = encode_records([Record(value=b"a"), Record(value=b"b", timestamp_ns=7)], now_ns=9)
    assert [record.timestamp_ns for record in decode_records(batch, LIMIT)] == [9, 7]
    assert (batch.first_timestamp_ns, batch.last_timestamp_ns) == (7, 9)


@each_compression
def test_any_flipped_bit_of_the_payload_is_noticed(compression: Compression) -> None:
    """By the producer's checksum, at the reader."""
    batch = encode_records(RECORDS, compression)
    for position in range(len(batch.payload)):
        damaged = bytearray(batch.payload)
        damaged[position] ^= 1
        with pytest.raises(CodecError, match="checksum"):
            decode_records(attrs.evolve(batch, payload=bytes(damaged)), LIMIT)


def test_a_wrong_count_is_noticed() -> None:
    """The offsets of all later records hang on it."""
    with pytest.raises(CodecError, match="3 records in the payload, 4 announced"):
        decode_records(attrs.evolve(encode_records(RECORDS), record_count=4), LIMIT)


@each_compression
def test_unpacks_up_to_the_limit(compression: Compression) -> None:
    """A few bytes that unpack to gigabytes are refused, whatever they claim; exactly the limit is fine."""
    packed = pack(bytes(10_000), compression)
    assert unpack(packed, compression, 10_000) == bytes(10_000)
    with pytest.raises(CodecError, match="more than 9999 bytes"):
        unpack(packed, compression, 9_999)


@given(st.binary(max_size=200), st.sampled_from(Compression))
def test_any_payload(payload: bytes, compression: Compression) -> None:
    """Records or CodecError, never anything else, even when the checksum is right."""
    batch = Batch(record_count=1, payload=payload, crc32c=crc32c(payload), compression=compression)
    try:
        decode_records(batch, 10_000)
    except CodecError:
        pass


@given(st.binary(max_size=200), st.sampled_from(Compression), st.data())
def test_any_damage_to_a_packed_payload(data: bytes, compression: Compression, draw: st.DataObject) -> None:
    """Cut short or changed: some bytes or CodecError, never anything else."""
    packed = bytearray(pack(data, compression))
    end = draw.draw(st.integers(0, len(packed)))
    if packed:
        packed[draw.draw(st.integers(0, len(packed) - 1))] ^= draw.draw(st.integers(0, 255))
    try:
        unpack(bytes(packed[:end]), compression, 10_000)
    except CodecError:
        pass


@given(st.binary(max_size=100), st.integers(0, 3))
def test_any_stored_batch(payload: bytes, record_count: int) -> None:
    """A batch or CodecError, never anything else."""
    frame = encode_entry(EntryKind.DATA, term=1, index=1, base_offset=0, record_count=record_count, payload=payload)
    try:
        batch = entry_batch(frame)
    except CodecError:
        return
    assert bytes(batch.payload) == payload[HEAD.size :]


def test_malformed_heads_are_refused() -> None:
    """Unknown compression, reserved fields, another kind, no records, too short."""
    head = HEAD.pack(0, 0, 0, 0, 0, 0, 0, 0)
    entry_batch(encode_entry(EntryKind.DATA, term=1, index=1, base_offset=0, record_count=1, payload=head))
    for position in (0, 2, 28):
        damaged = bytearray(head)
        damaged[position] = 9
        frame = encode_entry(EntryKind.DATA, term=1, index=1, base_offset=0, record_count=1, payload=bytes(damaged))
        with pytest.raises(CodecError, match="malformed"):
            entry_batch(frame)
    with pytest.raises(CodecError, match="no batch"):
        entry_batch(encode_entry(EntryKind.CONTROL, term=1, index=1, base_offset=0, payload=head))
    with pytest.raises(CodecError, match="malformed"):
        entry_batch(encode_entry(EntryKind.DATA, term=1, index=1, base_offset=0, payload=head))
    with pytest.raises(CodecError, match="no batch"):
        entry_batch(encode_entry(EntryKind.DATA, term=1, index=1, base_offset=0, record_count=1, payload=head[:-1]))


VALUES = st.binary(max_size=300) | st.sampled_from([0, 127, 128, 16_383, 16_384]).map(lambda size: b"v" * size)


@given(st.lists(VALUES, min_size=1, max_size=20), st.sampled_from([0, 1, 999_999_999, 1_700_000_000_123_456_789, 2**63 - 1]))
def test_values_alone_are_encoded_as_protobuf_does(values: list[bytes], now_ns: int) -> None:
    """Without an object for each record; the batch is the same, byte for byte."""
    assert encode_records(values, now_ns=now_ns) == encode_records([Record(value=value) for value in values], now_ns=now_ns)


def test_values_beside_records() -> None:
    """Bytes stand for a record with that value, and a time that cannot be stored is refused for them too."""
    batch = encode_records([b"a", Record(value=b"b", key=b"k")], now_ns=5)
    assert [(record.value, record.key) for record in decode_records(batch, 100)] == [(b"a", None), (b"b", b"k")]
    for now_ns in (-1, 1 << 63, 1 << 99):
        with pytest.raises(InvalidArgument, match="between 1970 and 2262"):
            encode_records([b"a"], now_ns=now_ns)


def test_a_format_that_only_a_newer_release_knows_is_neither_read_nor_damage() -> None:
    """Its number is in the head, so that other forms of batches can be stored as they are."""
    frame = batch_entry(encode_records(RECORDS), term=1, index=5, base_offset=0)
    assert bytes(frame.payload)[1] == BatchFormat.RECORD_BATCH == 0
    assert entry_batch(frame).format is BatchFormat.RECORD_BATCH
    head = bytearray(frame.payload[: HEAD.size])
    for number in (1, 255):
        head[1] = number
        payload = bytes(head) + bytes(frame.payload[HEAD.size :])
        newer = encode_entry(EntryKind.DATA, term=1, index=5, base_offset=0, record_count=2, payload=payload)
        with pytest.raises(UnknownBatchFormat, match=f"entry 5: its batch has format {number}, which a newer release has stored"):
            entry_batch(newer)
        assert batch_producer(newer) == batch_producer(frame)


@pytest.mark.parametrize("value", [None, b"", b"x"])
@pytest.mark.parametrize("key", [None, b"", b"k"])
def test_null_is_told_apart_from_empty(value: bytes | None, key: bytes | None) -> None:
    """In values, and on the wire, where null is absent."""
    batch = encode_records([Record(value=value, key=key, timestamp_ns=1)])
    (record,) = decode_records(batch, LIMIT)
    assert (record.value, record.key) == (value, key)
    (message,) = records_pb2.RecordBatch.FromString(batch.payload).records
    assert (message.HasField("value"), message.HasField("key")) == (value is not None, key is not None)


def test_plain_values_are_never_null() -> None:
    """They are encoded by a way of their own."""
    assert [record.value for record in decode_records(encode_records([b"", b"a", b""], now_ns=7), LIMIT)] == [b"", b"a", b""]
    assert encode_records([b"", b"a"], now_ns=7) == encode_records([Record(value=b""), Record(value=b"a")], now_ns=7)
