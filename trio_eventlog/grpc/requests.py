"""Requests as protobuf messages, both ways, batches excepted."""

import datetime

from google.protobuf.duration_pb2 import Duration

from trio_eventlog.codec.batch import NANOSECONDS
from trio_eventlog.errors import InvalidArgument, Unavailable
from trio_eventlog.file_keys import FileKey, SegmentKey, SnapshotKey
from trio_eventlog.service.requests import ConsumeRequest, Timestamp
from trio_eventlog.service.values import FilePiece, NewTopic, PartitionStart, Position, TopicChange, timestamp_ns
from trio_eventlog.v1 import admin_pb2, event_log_pb2

DURATION_SECONDS_MAX = 315_576_000_000
"""10,000 years: the most that a protobuf Duration may hold."""
_POSITIONS = {event_log_pb2.BEGINNING: Position.BEGINNING, event_log_pb2.END: Position.END}


# Topics


def create_topic_request(topic: NewTopic) -> admin_pb2.CreateTopicRequest:
    request = admin_pb2.CreateTopicRequest(name=topic.name, partitions=topic.partitions, replicas=topic.replicas)
    request.kind = topic.kind
    request.retention.bytes = topic.retention_bytes
    if topic.retention_seconds:
        request.retention.time.seconds = topic.retention_seconds
    return request


def requested_topic(request: admin_pb2.CreateTopicRequest) -> NewTopic:
    """Raises InvalidArgument for what a retention cannot be."""
    return NewTopic(
        name=request.name,
        partitions=request.partitions or 1,
        replicas=request.replicas,
        retention_bytes=request.retention.bytes,
        retention_seconds=_whole_seconds(request.retention.time),
        kind=request.kind,
    )


def alter_topic_request(change: TopicChange) -> admin_pb2.AlterTopicRequest:
    request = admin_pb2.AlterTopicRequest(name=change.name, group_id=change.group_id, retention_bytes=change.retention_bytes)
    if change.retention_seconds is not None:
        request.retention_time.seconds = change.retention_seconds
    return request


def requested_change(request: admin_pb2.AlterTopicRequest) -> TopicChange:
    """Raises InvalidArgument for what a retention cannot be."""
    return TopicChange(
        name=request.name,
        group_id=request.group_id,
        retention_bytes=request.retention_bytes if request.HasField("retention_bytes") else None,
        retention_seconds=_whole_seconds(request.retention_time) if request.HasField("retention_time") else None,
    )


def trim_request(group_id: int, before: int | Timestamp) -> admin_pb2.TrimPartitionRequest:
    request = admin_pb2.TrimPartitionRequest(group_id=group_id)
    if isinstance(before, Timestamp):
        request.time.seconds, request.time.nanos = divmod(before.ns, NANOSECONDS)
    else:
        request.offset = before
    return request


def requested_trim(request: admin_pb2.TrimPartitionRequest) -> int | Timestamp:
    """Raises InvalidArgument when neither is said."""
    match request.WhichOneof("before"):
        case "offset":
            offset: int = request.offset
            return offset
        case "time":
            return Timestamp(request.time.seconds * NANOSECONDS + request.time.nanos)
        case _:
            raise InvalidArgument("before which offset or time records are to go is not said")


# Files


def backup_request(group_id: int, file: FileKey, position: int, length: int) -> admin_pb2.BackupRequest:
    request = admin_pb2.BackupRequest(group_id=group_id, position=position, length=length)
    match file:
        case SegmentKey():
            request.segment.base_index = file.base_index
            request.segment.frames_bytes = file.frames_bytes
            request.segment.frames_checksum = file.frames_checksum
        case SnapshotKey():
            request.snapshot.term = file.term
            request.snapshot.index = file.index
    return request


def requested_file(request: admin_pb2.BackupRequest) -> FileKey:
    """Raises InvalidArgument when none is named."""
    match request.WhichOneof("file"):
        case "segment":
            return SegmentKey(
                base_index=request.segment.base_index,
                frames_bytes=request.segment.frames_bytes,
                frames_checksum=request.segment.frames_checksum,
            )
        case "snapshot":
            return SnapshotKey(term=request.snapshot.term, index=request.snapshot.index)
    raise InvalidArgument("file: a segment or a snapshot has to be named")


def file_piece(response: admin_pb2.BackupResponse) -> FilePiece:
    """Raises Unavailable for an answer that no node gives."""
    if not response.data:
        raise Unavailable("a node has answered with no bytes of a file")
    return FilePiece(file_bytes=response.file_bytes, data=response.data)


def _whole_seconds(time: Duration) -> int:
    """0 when it is absent."""
    if time.nanos or not 0 <= time.seconds <= DURATION_SECONDS_MAX:
        raise InvalidArgument(
            f"retention time {time.seconds + time.nanos / 1e9:g} s: give whole seconds, from 1 to {DURATION_SECONDS_MAX};"
            " without a retention time there is no limit"
        )
    return int(time.seconds)


# Consuming


def consume_request(
    topic: str, partition: int, start: PartitionStart, max_bytes: int, group_id: int = 0
) -> event_log_pb2.ConsumeRequest:
    """A client's request for opaque batches from `start` on; of that very group, unless it is 0."""
    request = event_log_pb2.ConsumeRequest(topic=topic, partition=partition, max_bytes=max_bytes, batches=True, group_id=group_id)
    _set_start(request, Timestamp(timestamp_ns(start)) if isinstance(start, datetime.datetime) else start)
    return request


def forwarded_consume_request(consume: ConsumeRequest) -> event_log_pb2.ConsumeRequest:
    """The same request to another node, for whole batches: this one takes them apart when its caller wants records."""
    request = event_log_pb2.ConsumeRequest(
        topic=consume.topic,
        partition=consume.partition,
        max_bytes=consume.max_bytes,
        max_records=consume.max_records,
        batches=True,
        group_id=consume.group_id,
        consistency=event_log_pb2.LINEARIZABLE if consume.is_linearizable else event_log_pb2.COMMITTED,
    )
    _set_start(request, consume.start)
    if consume.max_wait_seconds is not None:
        request.max_wait.FromNanoseconds(round(consume.max_wait_seconds * NANOSECONDS))
    return request


def _set_start(request: event_log_pb2.ConsumeRequest, start: Position | int | Timestamp) -> None:
    match start:
        case Position.BEGINNING:
            request.start = event_log_pb2.BEGINNING
        case Position.END:
            request.start = event_log_pb2.END
        case Timestamp(ns=ns):
            request.start = event_log_pb2.TIMESTAMP
            request.start_timestamp.seconds, request.start_timestamp.nanos = divmod(ns, NANOSECONDS)
        case int():
            request.offset = start


def requested_consume(request: event_log_pb2.ConsumeRequest, *, is_stream: bool) -> ConsumeRequest:
    """Raises InvalidArgument for a request that cannot be."""
    if request.batches and request.filter.key:
        raise InvalidArgument("a filter looks into records, and opaque batches were asked for: leave one of them out")
    if request.consistency not in (event_log_pb2.COMMITTED, event_log_pb2.LINEARIZABLE):
        raise InvalidArgument(f"consistency {request.consistency} is none of COMMITTED, LINEARIZABLE")
    return ConsumeRequest(
        topic=request.topic,
        partition=request.partition,
        start=_requested_start(request),
        max_bytes=request.max_bytes,
        max_records=request.max_records,
        max_wait_seconds=None if is_stream or not request.HasField("max_wait") else _wait_seconds(request.max_wait),
        is_linearizable=request.consistency == event_log_pb2.LINEARIZABLE,
        group_id=request.group_id,
        unpacks=not request.batches,
    )


def _requested_start(request: event_log_pb2.ConsumeRequest) -> Position | int | Timestamp:
    if request.start == event_log_pb2.OFFSET:
        return request.offset
    if request.start == event_log_pb2.TIMESTAMP:
        return Timestamp(request.start_timestamp.seconds * NANOSECONDS + request.start_timestamp.nanos)
    position = _POSITIONS.get(request.start)
    if position is None:
        raise InvalidArgument(f"start {request.start} is none of OFFSET, BEGINNING, END, TIMESTAMP")
    return position


def _wait_seconds(max_wait: Duration) -> float:
    if max_wait.seconds < 0 or not 0 <= max_wait.nanos < NANOSECONDS:
        raise InvalidArgument(f"max_wait is {max_wait.seconds} s and {max_wait.nanos} ns: it is 0 or more")
    return max_wait.seconds + max_wait.nanos / NANOSECONDS
