import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Retention(_message.Message):
    __slots__ = ("bytes", "time")
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    time: _duration_pb2.Duration
    def __init__(self, bytes: _Optional[int] = ..., time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CreateTopicRequest(_message.Message):
    __slots__ = ("name", "partitions", "replicas", "retention", "kind")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    name: str
    partitions: int
    replicas: int
    retention: Retention
    kind: str
    def __init__(self, name: _Optional[str] = ..., partitions: _Optional[int] = ..., replicas: _Optional[int] = ..., retention: _Optional[_Union[Retention, _Mapping]] = ..., kind: _Optional[str] = ...) -> None: ...

class Topic(_message.Message):
    __slots__ = ("name", "partitions", "replicas", "retention", "group_ids", "kind")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    GROUP_IDS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    name: str
    partitions: int
    replicas: int
    retention: Retention
    group_ids: _containers.RepeatedScalarFieldContainer[int]
    kind: str
    def __init__(self, name: _Optional[str] = ..., partitions: _Optional[int] = ..., replicas: _Optional[int] = ..., retention: _Optional[_Union[Retention, _Mapping]] = ..., group_ids: _Optional[_Iterable[int]] = ..., kind: _Optional[str] = ...) -> None: ...

class CreateTopicResponse(_message.Message):
    __slots__ = ("topic", "unopened_partitions", "catalog_index")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    UNOPENED_PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    CATALOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    topic: Topic
    unopened_partitions: int
    catalog_index: int
    def __init__(self, topic: _Optional[_Union[Topic, _Mapping]] = ..., unopened_partitions: _Optional[int] = ..., catalog_index: _Optional[int] = ...) -> None: ...

class AlterTopicRequest(_message.Message):
    __slots__ = ("name", "group_id", "retention_bytes", "retention_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    RETENTION_BYTES_FIELD_NUMBER: _ClassVar[int]
    RETENTION_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    group_id: int
    retention_bytes: int
    retention_time: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., group_id: _Optional[int] = ..., retention_bytes: _Optional[int] = ..., retention_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class AlterTopicResponse(_message.Message):
    __slots__ = ("topic", "catalog_index")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    CATALOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    topic: Topic
    catalog_index: int
    def __init__(self, topic: _Optional[_Union[Topic, _Mapping]] = ..., catalog_index: _Optional[int] = ...) -> None: ...

class DeleteTopicRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteTopicResponse(_message.Message):
    __slots__ = ("catalog_index",)
    CATALOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    catalog_index: int
    def __init__(self, catalog_index: _Optional[int] = ...) -> None: ...

class ListTopicsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTopicsResponse(_message.Message):
    __slots__ = ("topics", "catalog_index")
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    CATALOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    topics: _containers.RepeatedCompositeFieldContainer[Topic]
    catalog_index: int
    def __init__(self, topics: _Optional[_Iterable[_Union[Topic, _Mapping]]] = ..., catalog_index: _Optional[int] = ...) -> None: ...

class DescribeTopicRequest(_message.Message):
    __slots__ = ("name", "create")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    create: bool
    def __init__(self, name: _Optional[str] = ..., create: bool = ...) -> None: ...

class PartitionDescription(_message.Message):
    __slots__ = ("partition", "group_id", "leader_id", "replica_ids", "log_start_offset", "high_watermark", "problem", "size_bytes")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    REPLICA_IDS_FIELD_NUMBER: _ClassVar[int]
    LOG_START_OFFSET_FIELD_NUMBER: _ClassVar[int]
    HIGH_WATERMARK_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    partition: int
    group_id: int
    leader_id: str
    replica_ids: _containers.RepeatedScalarFieldContainer[str]
    log_start_offset: int
    high_watermark: int
    problem: str
    size_bytes: int
    def __init__(self, partition: _Optional[int] = ..., group_id: _Optional[int] = ..., leader_id: _Optional[str] = ..., replica_ids: _Optional[_Iterable[str]] = ..., log_start_offset: _Optional[int] = ..., high_watermark: _Optional[int] = ..., problem: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class DescribeTopicResponse(_message.Message):
    __slots__ = ("topic", "partitions", "catalog_index")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    CATALOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    topic: Topic
    partitions: _containers.RepeatedCompositeFieldContainer[PartitionDescription]
    catalog_index: int
    def __init__(self, topic: _Optional[_Union[Topic, _Mapping]] = ..., partitions: _Optional[_Iterable[_Union[PartitionDescription, _Mapping]]] = ..., catalog_index: _Optional[int] = ...) -> None: ...

class GetDiskUseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TopicDiskUse(_message.Message):
    __slots__ = ("name", "partitions", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    partitions: int
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., partitions: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class GetDiskUseResponse(_message.Message):
    __slots__ = ("topics",)
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    topics: _containers.RepeatedCompositeFieldContainer[TopicDiskUse]
    def __init__(self, topics: _Optional[_Iterable[_Union[TopicDiskUse, _Mapping]]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("catalog_only",)
    CATALOG_ONLY_FIELD_NUMBER: _ClassVar[int]
    catalog_only: bool
    def __init__(self, catalog_only: bool = ...) -> None: ...

class GroupStatus(_message.Message):
    __slots__ = ("group_id", "topic", "partition", "role", "leader_id", "term", "first_index", "last_index", "commit_index", "applied_index", "high_watermark", "voter_ids", "learner_ids", "is_joint", "outgoing_voter_ids", "problem", "log_start_offset", "size_bytes", "index_behind_entries")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    HIGH_WATERMARK_FIELD_NUMBER: _ClassVar[int]
    VOTER_IDS_FIELD_NUMBER: _ClassVar[int]
    LEARNER_IDS_FIELD_NUMBER: _ClassVar[int]
    IS_JOINT_FIELD_NUMBER: _ClassVar[int]
    OUTGOING_VOTER_IDS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    LOG_START_OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    INDEX_BEHIND_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    topic: str
    partition: int
    role: str
    leader_id: str
    term: int
    first_index: int
    last_index: int
    commit_index: int
    applied_index: int
    high_watermark: int
    voter_ids: _containers.RepeatedScalarFieldContainer[str]
    learner_ids: _containers.RepeatedScalarFieldContainer[str]
    is_joint: bool
    outgoing_voter_ids: _containers.RepeatedScalarFieldContainer[str]
    problem: str
    log_start_offset: int
    size_bytes: int
    index_behind_entries: int
    def __init__(self, group_id: _Optional[int] = ..., topic: _Optional[str] = ..., partition: _Optional[int] = ..., role: _Optional[str] = ..., leader_id: _Optional[str] = ..., term: _Optional[int] = ..., first_index: _Optional[int] = ..., last_index: _Optional[int] = ..., commit_index: _Optional[int] = ..., applied_index: _Optional[int] = ..., high_watermark: _Optional[int] = ..., voter_ids: _Optional[_Iterable[str]] = ..., learner_ids: _Optional[_Iterable[str]] = ..., is_joint: bool = ..., outgoing_voter_ids: _Optional[_Iterable[str]] = ..., problem: _Optional[str] = ..., log_start_offset: _Optional[int] = ..., size_bytes: _Optional[int] = ..., index_behind_entries: _Optional[int] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("id", "address")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    id: str
    address: str
    def __init__(self, id: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("id", "name", "address", "cluster_id", "cluster_name", "version", "groups", "peers", "warnings", "budgets", "partitions_max", "feature_level", "cluster_feature_level")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_MAX_FIELD_NUMBER: _ClassVar[int]
    FEATURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FEATURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    address: str
    cluster_id: str
    cluster_name: str
    version: str
    groups: _containers.RepeatedCompositeFieldContainer[GroupStatus]
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    budgets: _containers.RepeatedCompositeFieldContainer[Budget]
    partitions_max: int
    feature_level: int
    cluster_feature_level: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., cluster_id: _Optional[str] = ..., cluster_name: _Optional[str] = ..., version: _Optional[str] = ..., groups: _Optional[_Iterable[_Union[GroupStatus, _Mapping]]] = ..., peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ..., budgets: _Optional[_Iterable[_Union[Budget, _Mapping]]] = ..., partitions_max: _Optional[int] = ..., feature_level: _Optional[int] = ..., cluster_feature_level: _Optional[int] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("name", "limit", "used", "refused")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    name: str
    limit: int
    used: int
    refused: int
    def __init__(self, name: _Optional[str] = ..., limit: _Optional[int] = ..., used: _Optional[int] = ..., refused: _Optional[int] = ...) -> None: ...

class TrimPartitionRequest(_message.Message):
    __slots__ = ("group_id", "offset", "time")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    offset: int
    time: _timestamp_pb2.Timestamp
    def __init__(self, group_id: _Optional[int] = ..., offset: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TrimPartitionResponse(_message.Message):
    __slots__ = ("log_start_offset",)
    LOG_START_OFFSET_FIELD_NUMBER: _ClassVar[int]
    log_start_offset: int
    def __init__(self, log_start_offset: _Optional[int] = ...) -> None: ...

class TransferLeadershipRequest(_message.Message):
    __slots__ = ("group_id", "to_id")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    TO_ID_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    to_id: str
    def __init__(self, group_id: _Optional[int] = ..., to_id: _Optional[str] = ...) -> None: ...

class TransferLeadershipResponse(_message.Message):
    __slots__ = ("leader_id",)
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    leader_id: str
    def __init__(self, leader_id: _Optional[str] = ...) -> None: ...

class ListMembersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MemberGroup(_message.Message):
    __slots__ = ("group_id", "topic", "partition", "role")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    topic: str
    partition: int
    role: str
    def __init__(self, group_id: _Optional[int] = ..., topic: _Optional[str] = ..., partition: _Optional[int] = ..., role: _Optional[str] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("id", "name", "address", "status", "tags", "role", "last_contact", "lag_entries", "groups")
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
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    LAST_CONTACT_FIELD_NUMBER: _ClassVar[int]
    LAG_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    address: str
    status: str
    tags: _containers.ScalarMap[str, str]
    role: str
    last_contact: _duration_pb2.Duration
    lag_entries: int
    groups: _containers.RepeatedCompositeFieldContainer[MemberGroup]
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., status: _Optional[str] = ..., tags: _Optional[_Mapping[str, str]] = ..., role: _Optional[str] = ..., last_contact: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., lag_entries: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[MemberGroup, _Mapping]]] = ...) -> None: ...

class ListMembersResponse(_message.Message):
    __slots__ = ("members",)
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class RemoveNodeRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RemoveNodeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainNodeRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DrainNodeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TakeSnapshotRequest(_message.Message):
    __slots__ = ("group_id",)
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    def __init__(self, group_id: _Optional[int] = ...) -> None: ...

class TakeSnapshotResponse(_message.Message):
    __slots__ = ("term", "index")
    TERM_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    term: int
    index: int
    def __init__(self, term: _Optional[int] = ..., index: _Optional[int] = ...) -> None: ...

class SegmentName(_message.Message):
    __slots__ = ("base_index", "frames_bytes", "frames_checksum")
    BASE_INDEX_FIELD_NUMBER: _ClassVar[int]
    FRAMES_BYTES_FIELD_NUMBER: _ClassVar[int]
    FRAMES_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    base_index: int
    frames_bytes: int
    frames_checksum: int
    def __init__(self, base_index: _Optional[int] = ..., frames_bytes: _Optional[int] = ..., frames_checksum: _Optional[int] = ...) -> None: ...

class SnapshotName(_message.Message):
    __slots__ = ("term", "index")
    TERM_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    term: int
    index: int
    def __init__(self, term: _Optional[int] = ..., index: _Optional[int] = ...) -> None: ...

class BackupRequest(_message.Message):
    __slots__ = ("group_id", "segment", "snapshot", "position", "length")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    segment: SegmentName
    snapshot: SnapshotName
    position: int
    length: int
    def __init__(self, group_id: _Optional[int] = ..., segment: _Optional[_Union[SegmentName, _Mapping]] = ..., snapshot: _Optional[_Union[SnapshotName, _Mapping]] = ..., position: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class BackupResponse(_message.Message):
    __slots__ = ("file_bytes", "data")
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    file_bytes: int
    data: bytes
    def __init__(self, file_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
