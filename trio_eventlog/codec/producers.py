"""The producers' part of a partition snapshot.

```
 0  u64  number of batches recorded in the partition
 8  u8   1 when a producer was forgotten, else 0
 9  u32  number of producers, the least recently heard first; for each of them:
         u64  producer id
         u32  epoch
         u64  number of batches recorded in the partition, with this one's last; rising from producer to producer
         u64  base sequence of the first batch
         u16  number of batches remembered, at least 1; for each of them, the oldest first:
              u32  number of records
              u64  base offset
```

The batches of a producer are contiguous, so one base sequence is enough. All numbers little-endian.
"""

import struct

from trio_eventlog.bounds import OFFSET_MAX, PRODUCERS_MAX, WINDOW_BATCHES_MAX
from trio_eventlog.errors import CodecError
from trio_eventlog.machine.producers import ProducerSnapshot, ProducersSnapshot, Remembered

FORMAT_VERSION = 1

_HEAD = struct.Struct("<QBI")
_PRODUCER = struct.Struct("<QIQQH")
_BATCH = struct.Struct("<IQ")
_SEQUENCE_END = 1 << 64


def encode_producers(snapshot: ProducersSnapshot) -> bytes:
    """See the layout above."""
    pieces = [_HEAD.pack(snapshot.recorded, snapshot.has_forgotten, len(snapshot.producers))]
    for producer in snapshot.producers:
        recent = producer.recent
        pieces.append(_PRODUCER.pack(producer.producer_id, producer.epoch, producer.recorded, recent[0].base_sequence, len(recent)))
        pieces.extend(_BATCH.pack(batch.record_count, batch.base_offset) for batch in recent)
    return b"".join(pieces)


def decode_producers(body: bytes | memoryview) -> ProducersSnapshot:
    """The inverse. Raises CodecError for anything that `encode_producers` does not make."""
    if len(body) < _HEAD.size:
        raise CodecError(f"snapshot of producers: {len(body)} bytes are too few")
    recorded, has_forgotten, count = _HEAD.unpack_from(body)
    if has_forgotten > 1:
        raise CodecError(f"snapshot of producers: {has_forgotten} is neither 0 nor 1")
    if count > PRODUCERS_MAX:
        raise CodecError(f"snapshot of producers: {count} producers, at most {PRODUCERS_MAX} are kept")
    producers: list[ProducerSnapshot] = []
    known: set[int] = set()
    position = _HEAD.size
    before = 0
    for _ in range(count):
        producer, position = _decode_producer(body, position)
        if not before < producer.recorded <= recorded:
            raise CodecError(f"snapshot of producers: batch {producer.recorded} after batch {before} of {recorded}")
        if producer.producer_id in known:
            raise CodecError(f"snapshot of producers: {producer.producer_id} is in it twice")
        before = producer.recorded
        known.add(producer.producer_id)
        producers.append(producer)
    if position != len(body):
        raise CodecError(f"snapshot of producers: {len(body) - position} bytes follow its end")
    return ProducersSnapshot(recorded=recorded, has_forgotten=bool(has_forgotten), producers=tuple(producers))


def _decode_producer(body: bytes | memoryview, position: int) -> tuple[ProducerSnapshot, int]:
    """One producer, and the position after it."""
    if len(body) - position < _PRODUCER.size:
        raise CodecError("snapshot of producers: it ends inside a producer")
    producer_id, epoch, recorded, sequence, count = _PRODUCER.unpack_from(body, position)
    start = position + _PRODUCER.size
    end = start + count * _BATCH.size
    if not producer_id or not 1 <= count <= WINDOW_BATCHES_MAX or end > len(body):
        raise CodecError(f"snapshot of producers: producer {producer_id} with {count} batches")
    recent: list[Remembered] = []
    end_offset = 0
    for record_count, base_offset in _BATCH.iter_unpack(body[start:end]):
        if not end_offset <= base_offset <= OFFSET_MAX or sequence >= _SEQUENCE_END:
            raise CodecError(f"snapshot of producers: producer {producer_id}, sequence {sequence} at offset {base_offset}")
        recent.append(Remembered(sequence, record_count, base_offset))
        sequence += record_count
        end_offset = base_offset + record_count
    return ProducerSnapshot(producer_id=producer_id, epoch=epoch, recorded=recorded, recent=tuple(recent)), end
