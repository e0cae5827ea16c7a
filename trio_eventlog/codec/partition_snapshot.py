"""The snapshot of a partition's machine. See `codec.snapshot` for the frame around the parts.

The part PARTITION is three u64, little-endian: the high watermark, and index and offset of the log start. The part PRODUCERS is in
`codec.producers`.
"""

import struct

from trio_eventlog.bounds import INDEX_MAX, OFFSET_MAX
from trio_eventlog.codec import producers
from trio_eventlog.codec.producers import decode_producers, encode_producers
from trio_eventlog.codec.snapshot import PartKind, SnapshotPart, decode_snapshot, encode_snapshot
from trio_eventlog.errors import CodecError
from trio_eventlog.machine.partition import LogStart, PartitionSnapshot

FORMAT_VERSION = 1

_BODY = struct.Struct("<QQQ")
_VERSIONS = {PartKind.PARTITION: FORMAT_VERSION, PartKind.PRODUCERS: producers.FORMAT_VERSION}


def encode_partition(snapshot: PartitionSnapshot) -> bytes:
    """The bytes of the snapshot. Raises CodecError when there would be too many of them."""
    return encode_snapshot(
        snapshot.applied_index,
        [
            SnapshotPart(
                PartKind.PARTITION,
                FORMAT_VERSION,
                _BODY.pack(snapshot.high_watermark, snapshot.log_start.index, snapshot.log_start.offset),
            ),
            SnapshotPart(PartKind.PRODUCERS, producers.FORMAT_VERSION, encode_producers(snapshot.producers)),
        ],
    )


def decode_partition(data: bytes | memoryview) -> PartitionSnapshot:
    """The inverse. Raises NewerRelease and CodecError as `decode_snapshot`."""
    applied_index, parts = decode_snapshot(data, _VERSIONS)
    body = parts[PartKind.PARTITION].body
    if len(body) != _BODY.size:
        raise CodecError(f"snapshot of a partition: {len(body)} bytes")
    high_watermark, start_index, start_offset = _BODY.unpack(body)
    if high_watermark > OFFSET_MAX:
        raise CodecError(f"snapshot of a partition: offset {high_watermark} is beyond {OFFSET_MAX}")
    if start_offset > high_watermark or start_index > min(applied_index, INDEX_MAX):
        raise CodecError(
            f"snapshot of a partition: the log starts at offset {start_offset} after entry {start_index}, and goes up to offset"
            f" {high_watermark} and entry {applied_index}"
        )
    found = decode_producers(parts[PartKind.PRODUCERS].body)
    for producer in found.producers:
        last = producer.recent[-1]
        if last.base_offset + last.record_count > high_watermark:
            raise CodecError(
                f"snapshot of a partition: a batch of producer {producer.producer_id} at offset {last.base_offset}, which is not"
                f" below the high watermark {high_watermark}"
            )
    return PartitionSnapshot(
        applied_index=applied_index,
        high_watermark=high_watermark,
        log_start=LogStart(start_index, start_offset),
        producers=found,
    )
