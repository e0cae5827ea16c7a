"""What goes into a call of the event log and comes out of it, as plain values: shared by nodes and clients, with no node code."""

import datetime
import enum
import math
from collections.abc import Mapping
from typing import Generic, TypeVar

import attrs

T = TypeVar("T")

ANONYMOUS = "anonymous"
"""Subject of a caller that has not shown who it is, and tenant of one that names none."""


@attrs.frozen(slots=True, kw_only=True)
class Caller:
    """Who asks. A node that forwards a call passes the caller on, so that rules judge the caller and not the node in between.

    Attributes:
        subject: whose rights count. Nothing is decided by it yet.
        tenant: owner of the topics and quotas that the call is about.
        address: "host:port" that the call came from; "" within the process.
        deadline: by Trio's clock. The edge runs the call under a cancel scope with this deadline; the service passes it on and
            never waits beyond it. inf: none.
        is_forwarded: another node has forwarded the call here. It is answered here or refused, never forwarded again.
    """

    subject: str = ANONYMOUS
    tenant: str = ANONYMOUS
    address: str = ""
    deadline: float = math.inf
    is_forwarded: bool = False

    @property
    def identity(self) -> tuple[str, str]:
        """Subject and tenant: calls with the same identity may share a stream."""
        return self.subject, self.tenant


@attrs.frozen(slots=True, kw_only=True)
class FilePiece:
    """Bytes of a file of a log.

    Attributes:
        file_bytes: size of the whole file.
        data: at least one byte, from the position that was asked for.
    """

    file_bytes: int
    data: bytes


NOBODY_IN_PARTICULAR = Caller()
"""The caller of calls that name none: an application that embeds a node, or uses a client for itself."""


class Position(enum.Enum):
    """Where to begin, when it is no offset."""

    BEGINNING = "beginning"
    END = "end"


BEGINNING = Position.BEGINNING
END = Position.END
PartitionStart = Position | int | datetime.datetime
"""Where a consumer begins in one partition: BEGINNING, END, an offset, or a time with its zone."""
Start = PartitionStart | Mapping[int, int]
"""Where a consumer begins: as in one partition, or an offset for each of some partitions."""


def timestamp_ns(when: datetime.datetime) -> int:
    """Nanoseconds since 1970 UTC, exactly."""
    since = when - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (since // datetime.timedelta(microseconds=1)) * 1000


OFFSET_UNKNOWN = -1


@attrs.frozen(slots=True, kw_only=True)
class ProduceResult:
    """Where records went.

    Attributes:
        topic, partition: where they are.
        base_offset: offset of the first record; -1 with `Acks.NONE`, since it is not known yet.
        record_count: how many records; they have consecutive offsets.
        duplicate: an earlier attempt had succeeded already. The records are in the log once all the same.
    """

    topic: str
    partition: int
    base_offset: int
    record_count: int
    duplicate: bool = False


@attrs.frozen(slots=True)
class AsOf(Generic[T]):
    """An answer about the catalog, and the entry of the catalog that it reflects.

    Attributes:
        catalog_index: 0 when the node does not know which topics there are.
    """

    value: T
    catalog_index: int


@attrs.frozen(slots=True, kw_only=True)
class KnownTopic:
    """A topic that exists, as of the newest answer.

    Attributes:
        group_ids: of partition 0, 1, ...: another topic of the same name has others, larger ones. 0: not reported.
    """

    name: str
    group_ids: tuple[int, ...]

    @property
    def partitions(self) -> int:
        """How many there are; at least 1."""
        return len(self.group_ids)

    @property
    def is_told(self) -> bool:
        """Whether the groups are known."""
        return all(self.group_ids)

    def is_same(self, other: "KnownTopic") -> bool:
        """Whether both are one topic, which may have grown, and not two of one name."""
        return not self.group_ids[0] or not other.group_ids[0] or self.group_ids[0] == other.group_ids[0]


@attrs.frozen(slots=True, kw_only=True)
class ServerInfo:
    """A node as clients should see it. `is_leader`: of the catalog."""

    id: str
    name: str
    address: str
    is_leader: bool = False
    tags: tuple[tuple[str, str], ...] = ()


@attrs.frozen(slots=True, kw_only=True)
class Placement:
    """Where a partition is.

    Attributes:
        leader_id: "" while there is no leader.
        group_id: identifies the partition for ever. 0 when nodes of an older release have answered.
    """

    topic: str
    partition: int
    leader_id: str
    replica_ids: tuple[str, ...]
    group_id: int = 0


@attrs.frozen(slots=True, kw_only=True)
class ClusterView:
    """Nodes and leaders, as the answering node knows them.

    Attributes:
        cluster_id: identifies the cluster for ever.
        catalog_index: as in `AsOf`.
    """

    servers: tuple[ServerInfo, ...]
    placements: tuple[Placement, ...]
    cluster_id: str
    catalog_index: int


@attrs.frozen(slots=True, kw_only=True)
class NewTopic:
    """What a topic is created with. `replicas` 0: one on every voter; retention 0: no limit; `kind` "": plain records, "events":
    events of aggregates."""

    name: str
    partitions: int = 1
    replicas: int = 0
    retention_bytes: int = 0
    retention_seconds: int = 0
    kind: str = ""


@attrs.frozen(slots=True, kw_only=True)
class TopicChange:
    """What is to be changed of a topic; None: it stays as it is.

    Attributes:
        group_id: of partition 0: that very topic, and none that was made under its name later. 0: whichever has the name now.
        retention_bytes, retention_seconds: 0 means no limit.
    """

    name: str
    group_id: int = 0
    retention_bytes: int | None = None
    retention_seconds: int | None = None


@attrs.frozen(slots=True, kw_only=True)
class TopicInfo:
    """A topic. `retention_bytes` and `retention_seconds` are 0 when there is no limit.

    `unopened_partitions` is above 0 only in the answer to `create_topic`: the topic is made, and the node that has answered is
    still busy opening these. `group_ids` identify the partitions for ever, in their order; nodes of an older release name none.
    `kind` is "events" for a topic of events, and "" for one of plain records.
    """

    name: str
    partitions: int
    replicas: int
    retention_bytes: int = 0
    retention_seconds: float = 0.0
    unopened_partitions: int = 0
    group_ids: tuple[int, ...] = ()
    kind: str = ""


@attrs.frozen(slots=True, kw_only=True)
class PartitionInfo:
    """A partition as the answering node knows it; `leader_id` is "" while there is no leader, `problem` when it is open there.

    Attributes:
        size_bytes: of the log's entries in the node's files. None: no replica is open there, and the two offsets are 0. The status
            of a node that carries it (`GroupInfo`) has them.
    """

    partition: int
    group_id: int
    leader_id: str
    replica_ids: tuple[str, ...]
    log_start_offset: int
    high_watermark: int
    problem: str = ""
    size_bytes: int | None = None


@attrs.frozen(slots=True, kw_only=True)
class TopicDescription:
    """A topic with its partitions."""

    topic: TopicInfo
    partitions: tuple[PartitionInfo, ...]


@attrs.frozen(slots=True, kw_only=True)
class TopicDiskUse:
    """What a topic takes on the disk of one node.

    Attributes:
        partitions: number of its partitions that are open on that node.
        size_bytes: bytes of their logs' entries in the node's files.
    """

    name: str
    partitions: int
    size_bytes: int


@attrs.frozen(slots=True, kw_only=True)
class GroupInfo:
    """A Raft group as one of its nodes sees it. `topic` is "" for the catalog; `problem` says why it is degraded there.

    `outgoing_voter_ids` are those of the configuration that is being left, while it is joint (`is_joint`). `size_bytes` counts the
    log's entries in its files. Of a partition of events, `index_behind_entries` is the number of applied entries that the index of
    aggregates on this node does not hold yet.
    """

    group_id: int
    topic: str
    partition: int
    role: str
    leader_id: str = ""
    term: int = 0
    first_index: int = 0
    last_index: int = 0
    commit_index: int = 0
    applied_index: int = 0
    high_watermark: int = 0
    voter_ids: tuple[str, ...] = ()
    learner_ids: tuple[str, ...] = ()
    problem: str = ""
    is_joint: bool = False
    outgoing_voter_ids: tuple[str, ...] = ()
    log_start_offset: int = 0
    size_bytes: int = 0
    index_behind_entries: int = 0


@attrs.frozen(slots=True, kw_only=True)
class BudgetInfo:
    """What a node may use at most of one thing (`limit`), what it uses now, and how often it refused more since it started."""

    name: str
    limit: int
    used: int
    refused: int


@attrs.frozen(slots=True, kw_only=True)
class PeerInfo:
    """Another node that the node has met, and where."""

    id: str
    address: str


@attrs.frozen(slots=True, kw_only=True)
class NodeStatus:
    """A node as it sees itself.

    Attributes:
        partitions_max: how many partitions may live on it.
        feature_level: the highest that its release supports; `cluster_feature_level` is what the cluster uses.
    """

    id: str
    name: str
    address: str
    cluster_id: str
    cluster_name: str
    version: str
    groups: tuple[GroupInfo, ...]
    warnings: tuple[str, ...] = ()
    budgets: tuple[BudgetInfo, ...] = ()
    peers: tuple[PeerInfo, ...] = ()
    partitions_max: int = 0
    feature_level: int = 0
    cluster_feature_level: int = 0


@attrs.frozen(slots=True, kw_only=True)
class MemberGroupInfo:
    """A node's part in a partition: `role` is "leader", "voter", "learner", or "" while it is on its way in or out."""

    topic: str
    partition: int
    role: str
    group_id: int = 0


@attrs.frozen(slots=True, kw_only=True)
class MemberInfo:
    """A node as the catalog's leader sees it.

    Attributes:
        id: "" for one that gossips but is no node, as a Serf agent.
        status: "alive", "suspect" (gossip had no answer from it for a while), "failed" (it does not answer, and is waited for),
            "left" (it has announced that it leaves, and may come back), "joining", "draining", "removed", "unknown".
        role: in the catalog: "leader", "voter", "learner", "".
        last_contact_seconds: since it last answered; None when it never did.
        lag_entries: entries of the catalog that it has not applied; None when not known.
    """

    id: str
    name: str
    address: str
    status: str
    role: str
    tags: tuple[tuple[str, str], ...] = ()
    last_contact_seconds: float | None = None
    lag_entries: int | None = None
    groups: tuple[MemberGroupInfo, ...] = ()

    @property
    def is_gone(self) -> bool:
        """Removed, and in no configuration any more."""
        return self.status == "removed" and not self.role and not self.groups


class MembershipEvent(enum.Enum):
    """What has happened to a member."""

    JOINED = "joined"
    """New, or back after it had failed or left."""
    CHANGED = "changed"
    """Its address or its tags are others now."""
    FAILED = "failed"
    """It does not answer."""
    LEFT = "left"
    """It has announced that it leaves."""


@attrs.frozen(slots=True, kw_only=True)
class MembershipChange:
    """Another member has joined, changed, failed or left, as this node sees it.

    Attributes:
        id: "" for one that gossips but is no node, as a Serf agent.
        tags: name and value, by name; empty when the node does not gossip.
    """

    event: MembershipEvent
    id: str
    name: str
    address: str
    tags: tuple[tuple[str, str], ...] = ()
