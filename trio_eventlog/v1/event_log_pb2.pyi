import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from trio_eventlog.v1 import records_pb2 as _records_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Acks(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUORUM: _ClassVar[Acks]
    LEADER: _ClassVar[Acks]
    ACCEPTED: _ClassVar[Acks]

class StartPosition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OFFSET: _ClassVar[StartPosition]
    BEGINNING: _ClassVar[StartPosition]
    END: _ClassVar[StartPosition]
    TIMESTAMP: _ClassVar[StartPosition]

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMMITTED: _ClassVar[Consistency]
    LINEARIZABLE: _ClassVar[Consistency]
QUORUM: Acks
LEADER: Acks
ACCEPTED: Acks
OFFSET: StartPosition
BEGINNING: StartPosition
END: StartPosition
TIMESTAMP: StartPosition
COMMITTED: Consistency
LINEARIZABLE: Consistency

class ExpectedVersion(_message.Message):
    __slots__ = ("exact", "exists")
    EXACT_FIELD_NUMBER: _ClassVar[int]
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    exact: int
    exists: bool
    def __init__(self, exact: _Optional[int] = ..., exists: bool = ...) -> None: ...

class NewEvent(_message.Message):
    __slots__ = ("event_id", "type", "data", "content_type", "metadata", "timestamp", "closes")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    CLOSES_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    type: str
    data: bytes
    content_type: str
    metadata: bytes
    timestamp: _timestamp_pb2.Timestamp
    closes: bool
    def __init__(self, event_id: _Optional[str] = ..., type: _Optional[str] = ..., data: _Optional[bytes] = ..., content_type: _Optional[str] = ..., metadata: _Optional[bytes] = ..., timestamp: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., closes: bool = ...) -> None: ...

class AppendRequest(_message.Message):
    __slots__ = ("topic", "aggregate_id", "events", "expected_version", "reopens", "group_id")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    REOPENS_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    topic: str
    aggregate_id: str
    events: _containers.RepeatedCompositeFieldContainer[NewEvent]
    expected_version: ExpectedVersion
    reopens: bool
    group_id: int
    def __init__(self, topic: _Optional[str] = ..., aggregate_id: _Optional[str] = ..., events: _Optional[_Iterable[_Union[NewEvent, _Mapping]]] = ..., expected_version: _Optional[_Union[ExpectedVersion, _Mapping]] = ..., reopens: bool = ..., group_id: _Optional[int] = ...) -> None: ...

class AppendResponse(_message.Message):
    __slots__ = ("topic", "partition", "aggregate_id", "version", "first_offset", "event_ids", "duplicate")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FIRST_OFFSET_FIELD_NUMBER: _ClassVar[int]
    EVENT_IDS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    aggregate_id: str
    version: int
    first_offset: int
    event_ids: _containers.RepeatedScalarFieldContainer[str]
    duplicate: bool
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., aggregate_id: _Optional[str] = ..., version: _Optional[int] = ..., first_offset: _Optional[int] = ..., event_ids: _Optional[_Iterable[str]] = ..., duplicate: bool = ...) -> None: ...

class RecordedEvent(_message.Message):
    __slots__ = ("event_id", "type", "aggregate_id", "version", "data", "content_type", "metadata", "timestamp_ns", "closes", "partition", "offset")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_NS_FIELD_NUMBER: _ClassVar[int]
    CLOSES_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    type: str
    aggregate_id: str
    version: int
    data: bytes
    content_type: str
    metadata: bytes
    timestamp_ns: int
    closes: bool
    partition: int
    offset: int
    def __init__(self, event_id: _Optional[str] = ..., type: _Optional[str] = ..., aggregate_id: _Optional[str] = ..., version: _Optional[int] = ..., data: _Optional[bytes] = ..., content_type: _Optional[str] = ..., metadata: _Optional[bytes] = ..., timestamp_ns: _Optional[int] = ..., closes: bool = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class ReadAggregateRequest(_message.Message):
    __slots__ = ("topic", "aggregate_id", "from_version", "limit", "backwards", "consistency", "group_id")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_VERSION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    BACKWARDS_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    topic: str
    aggregate_id: str
    from_version: int
    limit: int
    backwards: bool
    consistency: Consistency
    group_id: int
    def __init__(self, topic: _Optional[str] = ..., aggregate_id: _Optional[str] = ..., from_version: _Optional[int] = ..., limit: _Optional[int] = ..., backwards: bool = ..., consistency: _Optional[_Union[Consistency, str]] = ..., group_id: _Optional[int] = ...) -> None: ...

class ReadAggregateResponse(_message.Message):
    __slots__ = ("events", "version", "closed", "end")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[RecordedEvent]
    version: int
    closed: bool
    end: bool
    def __init__(self, events: _Optional[_Iterable[_Union[RecordedEvent, _Mapping]]] = ..., version: _Optional[int] = ..., closed: bool = ..., end: bool = ...) -> None: ...

class ReadEventsRequest(_message.Message):
    __slots__ = ("topic", "after", "type", "limit", "consistency", "group_id", "partition", "from_offset")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    FROM_OFFSET_FIELD_NUMBER: _ClassVar[int]
    topic: str
    after: str
    type: str
    limit: int
    consistency: Consistency
    group_id: int
    partition: int
    from_offset: int
    def __init__(self, topic: _Optional[str] = ..., after: _Optional[str] = ..., type: _Optional[str] = ..., limit: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., group_id: _Optional[int] = ..., partition: _Optional[int] = ..., from_offset: _Optional[int] = ...) -> None: ...

class ReadEventsResponse(_message.Message):
    __slots__ = ("events", "next", "end", "next_offset")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    NEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[RecordedEvent]
    next: str
    end: bool
    next_offset: int
    def __init__(self, events: _Optional[_Iterable[_Union[RecordedEvent, _Mapping]]] = ..., next: _Optional[str] = ..., end: bool = ..., next_offset: _Optional[int] = ...) -> None: ...

class LogQuery(_message.Message):
    __slots__ = ("service", "level", "since_ns", "until_ns", "contains", "regex", "labels", "trace_id")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    CONTAINS_FIELD_NUMBER: _ClassVar[int]
    REGEX_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    service: str
    level: str
    since_ns: int
    until_ns: int
    contains: str
    regex: str
    labels: _containers.ScalarMap[str, str]
    trace_id: str
    def __init__(self, service: _Optional[str] = ..., level: _Optional[str] = ..., since_ns: _Optional[int] = ..., until_ns: _Optional[int] = ..., contains: _Optional[str] = ..., regex: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., trace_id: _Optional[str] = ...) -> None: ...

class SearchLogsRequest(_message.Message):
    __slots__ = ("topic", "query", "after", "limit", "oldest_first", "counting", "group_id", "partition", "place")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    OLDEST_FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNTING_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    topic: str
    query: LogQuery
    after: str
    limit: int
    oldest_first: bool
    counting: LogCounting
    group_id: int
    partition: int
    place: int
    def __init__(self, topic: _Optional[str] = ..., query: _Optional[_Union[LogQuery, _Mapping]] = ..., after: _Optional[str] = ..., limit: _Optional[int] = ..., oldest_first: bool = ..., counting: _Optional[_Union[LogCounting, _Mapping]] = ..., group_id: _Optional[int] = ..., partition: _Optional[int] = ..., place: _Optional[int] = ...) -> None: ...

class LogCounting(_message.Message):
    __slots__ = ("step_ns", "labels")
    STEP_NS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    step_ns: int
    labels: bool
    def __init__(self, step_ns: _Optional[int] = ..., labels: bool = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("value", "timestamp_ns", "partition", "offset")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_NS_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    timestamp_ns: int
    partition: int
    offset: int
    def __init__(self, value: _Optional[bytes] = ..., timestamp_ns: _Optional[int] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class LogCount(_message.Message):
    __slots__ = ("bucket_ns", "service", "level", "lines")
    BUCKET_NS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    bucket_ns: int
    service: str
    level: str
    lines: int
    def __init__(self, bucket_ns: _Optional[int] = ..., service: _Optional[str] = ..., level: _Optional[str] = ..., lines: _Optional[int] = ...) -> None: ...

class LogLabel(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class SearchLogsResponse(_message.Message):
    __slots__ = ("lines", "next", "end", "scanned_bytes", "unreadable_batches", "tail", "counts", "labels", "truncated", "next_place", "time_ns", "first_place")
    LINES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    SCANNED_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_BATCHES_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    NEXT_PLACE_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    FIRST_PLACE_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[LogLine]
    next: str
    end: bool
    scanned_bytes: int
    unreadable_batches: int
    tail: str
    counts: _containers.RepeatedCompositeFieldContainer[LogCount]
    labels: _containers.RepeatedCompositeFieldContainer[LogLabel]
    truncated: bool
    next_place: int
    time_ns: int
    first_place: int
    def __init__(self, lines: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ..., next: _Optional[str] = ..., end: bool = ..., scanned_bytes: _Optional[int] = ..., unreadable_batches: _Optional[int] = ..., tail: _Optional[str] = ..., counts: _Optional[_Iterable[_Union[LogCount, _Mapping]]] = ..., labels: _Optional[_Iterable[_Union[LogLabel, _Mapping]]] = ..., truncated: bool = ..., next_place: _Optional[int] = ..., time_ns: _Optional[int] = ..., first_place: _Optional[int] = ...) -> None: ...

class ProduceRequest(_message.Message):
    __slots__ = ("topic", "partition", "records", "batch", "acks", "expected_version", "group_id")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    records: _containers.RepeatedCompositeFieldContainer[_records_pb2.Record]
    batch: _records_pb2.Batch
    acks: Acks
    expected_version: ExpectedVersion
    group_id: int
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., records: _Optional[_Iterable[_Union[_records_pb2.Record, _Mapping]]] = ..., batch: _Optional[_Union[_records_pb2.Batch, _Mapping]] = ..., acks: _Optional[_Union[Acks, str]] = ..., expected_version: _Optional[_Union[ExpectedVersion, _Mapping]] = ..., group_id: _Optional[int] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "details")
    class DetailsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    details: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., details: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ProduceResponse(_message.Message):
    __slots__ = ("topic", "partition", "base_offset", "record_count", "duplicate", "error")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    BASE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    base_offset: int
    record_count: int
    duplicate: bool
    error: Error
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., base_offset: _Optional[int] = ..., record_count: _Optional[int] = ..., duplicate: bool = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    def __init__(self, key: _Optional[bytes] = ...) -> None: ...

class ConsumeRequest(_message.Message):
    __slots__ = ("topic", "partition", "offset", "start", "start_timestamp", "max_records", "max_bytes", "max_wait", "batches", "consistency", "filter", "group_id")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    START_TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    MAX_RECORDS_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    offset: int
    start: StartPosition
    start_timestamp: _timestamp_pb2.Timestamp
    max_records: int
    max_bytes: int
    max_wait: _duration_pb2.Duration
    batches: bool
    consistency: Consistency
    filter: Filter
    group_id: int
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ..., start: _Optional[_Union[StartPosition, str]] = ..., start_timestamp: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., max_records: _Optional[int] = ..., max_bytes: _Optional[int] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., batches: bool = ..., consistency: _Optional[_Union[Consistency, str]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., group_id: _Optional[int] = ...) -> None: ...

class ConsumeResponse(_message.Message):
    __slots__ = ("records", "batches", "high_watermark", "log_start_offset", "group_id")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    HIGH_WATERMARK_FIELD_NUMBER: _ClassVar[int]
    LOG_START_OFFSET_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[_records_pb2.Record]
    batches: _containers.RepeatedCompositeFieldContainer[_records_pb2.Batch]
    high_watermark: int
    log_start_offset: int
    group_id: int
    def __init__(self, records: _Optional[_Iterable[_Union[_records_pb2.Record, _Mapping]]] = ..., batches: _Optional[_Iterable[_Union[_records_pb2.Batch, _Mapping]]] = ..., high_watermark: _Optional[int] = ..., log_start_offset: _Optional[int] = ..., group_id: _Optional[int] = ...) -> None: ...

class GetServersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Server(_message.Message):
    __slots__ = ("id", "name", "address", "is_leader", "tags")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IS_LEADER_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    address: str
    is_leader: bool
    tags: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., is_leader: bool = ..., tags: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PartitionPlacement(_message.Message):
    __slots__ = ("topic", "partition", "leader_id", "replica_ids", "group_id")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    REPLICA_IDS_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    leader_id: str
    replica_ids: _containers.RepeatedScalarFieldContainer[str]
    group_id: int
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., leader_id: _Optional[str] = ..., replica_ids: _Optional[_Iterable[str]] = ..., group_id: _Optional[int] = ...) -> None: ...

class GetServersResponse(_message.Message):
    __slots__ = ("servers", "partitions", "cluster_id", "catalog_index")
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    CATALOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    servers: _containers.RepeatedCompositeFieldContainer[Server]
    partitions: _containers.RepeatedCompositeFieldContainer[PartitionPlacement]
    cluster_id: str
    catalog_index: int
    def __init__(self, servers: _Optional[_Iterable[_Union[Server, _Mapping]]] = ..., partitions: _Optional[_Iterable[_Union[PartitionPlacement, _Mapping]]] = ..., cluster_id: _Optional[str] = ..., catalog_index: _Optional[int] = ...) -> None: ...
