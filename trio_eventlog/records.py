"""Records and batches as values: what producers hand in and consumers get back."""

import enum
from collections.abc import Sequence

import attrs

LOGS_TOPIC = "logs"
"""The topic that log lines go to, made when the first one comes."""


class Compression(enum.IntEnum):
    """How a batch's payload is packed. The numbers are those of the wire and of the disk."""

    NONE = 0
    ZSTD = 1
    GZIP = 2


class BatchFormat(enum.IntEnum):
    """What a batch's payload is, once unpacked. The numbers are those of the wire and of the disk."""

    RECORD_BATCH = 0
    """An encoded protobuf `RecordBatch`."""


class Acks(enum.IntEnum):
    """When a produce call returns. The numbers are those of the wire."""

    QUORUM = 0
    """Durable on a quorum: survives any minority of disks. The default."""
    LEADER = 1
    """Durable on the leader's disk only: lost if the leader is lost before the record is replicated."""
    NONE = 2
    """Accepted by the leader: may be lost. The answer carries no offset."""


@attrs.frozen(slots=True, kw_only=True)
class Header:
    """A named value beside a record."""

    key: str
    value: bytes


@attrs.frozen(slots=True, kw_only=True)
class Record:
    """One user message.

    Attributes:
        value: the message. None (null) is kept apart from an empty one.
        key: chooses the partition when neither None nor empty (FNV-1a, 32 bits, modulo the number of partitions). None (null) is
            kept apart from an empty one.
        headers: named values, in order. A tuple when consumed; a list will do to produce.
        timestamp_ns: nanoseconds since 1970 UTC; 0 means "stamp it when it is produced". Up to 2262 when produced; a consumed
            record has what its producer has put in, which may be before 1970, or in no calendar.
        topic, partition, offset: where the record is. Set when it is consumed, ignored when it is produced.
    """

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[Header] = ()
    timestamp_ns: int = 0
    offset: int = 0
    topic: str = ""
    partition: int = 0


@attrs.frozen(slots=True, kw_only=True)
class Batch:
    """Records produced together: the unit of checksum, compression, replication and disk.

    `payload` holds the records in the form `format`, packed by `compression`; `crc32c` covers the payload as it stands, so damage
    anywhere between producer and consumer is found. The log never looks inside.

    Attributes:
        base_offset: offset of the first record; known once the batch is in the log.
        record_count: number of records in the payload, at least 1.
        format: what `payload` is, once unpacked.
        producer_id: 0 when the producer is not idempotent.
        producer_epoch: raised by a producer that takes over an id; older ones are fenced.
        base_sequence: the producer's own number of the batch's first record in this partition.
        first_timestamp_ns, last_timestamp_ns: smallest and largest record timestamp.
    """

    record_count: int
    payload: bytes | memoryview
    crc32c: int
    compression: Compression = Compression.NONE
    format: BatchFormat = BatchFormat.RECORD_BATCH
    producer_id: int = 0
    producer_epoch: int = 0
    base_sequence: int = 0
    first_timestamp_ns: int = 0
    last_timestamp_ns: int = 0
    base_offset: int = 0
