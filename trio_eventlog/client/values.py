"""What admin calls answer, as plain values."""

import attrs

from trio_eventlog.v1 import admin_pb2


@attrs.frozen(slots=True, kw_only=True)
class TopicInfo:
    """A topic. `retention_bytes` and `retention_seconds` are 0 when there is no limit.

    `unopened_partitions` is above 0 only in the answer to `create_topic`: the topic is made, and the node that has answered is
    still busy opening these.
    """

    name: str
    partitions: int
    replicas: int
    retention_bytes: int = 0
    retention_seconds: float = 0.0
    unopened_partitions: int = 0


@attrs.frozen(slots=True, kw_only=True)
class PartitionInfo:
    """A partition as the answering node knows it; `leader_id` is "" while nobody leads, `problem` when it is open there."""

    partition: int
    group_id: int
    leader_id: str
    replica_ids: tuple[str, ...]
    log_start_offset: int
    high_watermark: int
    problem: str = ""


@attrs.frozen(slots=True, kw_only=True)
class TopicDescription:
    """A topic with its partitions."""

    topic: TopicInfo
    partitions: tuple[PartitionInfo, ...]


@attrs.frozen(slots=True, kw_only=True)
class GroupInfo:
    """A Raft group as one of its nodes sees it. `topic` is "" for the catalog; `problem` says why it is degraded there."""

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
    voter_ids: tuple[str, ...]
    learner_ids: tuple[str, ...]
    problem: str = ""


@attrs.frozen(slots=True, kw_only=True)
class BudgetInfo:
    """What a node may use at most of one thing (`limit`), what it uses now, and how often it refused more since it started."""

    name: str
    limit: int
    used: int
    refused: int


@attrs.frozen(slots=True, kw_only=True)
class NodeStatus:
    """A node as it sees itself."""

    id: str
    name: str
    address: str
    cluster_id: str
    cluster_name: str
    version: str
    groups: tuple[GroupInfo, ...]
    warnings: tuple[str, ...] = ()
    budgets: tuple[BudgetInfo, ...] = ()


@attrs.frozen(slots=True, kw_only=True)
class MemberGroupInfo:
    """A node's part in a partition: `role` is "leader", "voter", "learner", or "" while it is on its way in or out."""

    topic: str
    partition: int
    role: str


@attrs.frozen(slots=True, kw_only=True)
class MemberInfo:
    """A node as the catalog's leader sees it.

    Attributes:
        id: "" for one that gossips but is no node, as a Serf agent.
        status: "alive", "suspect" (gossip had no answer from it for a while), "failed" (it does not answer, and is waited for),
            "left" (it said that it goes, and is waited for), "joining", "draining", "removed", "unknown".
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
        """Removed, and no longer in anybody's configuration."""
        return self.status == "removed" and not self.role and not self.groups


def member_info(message: admin_pb2.Member) -> MemberInfo:
    contact = message.last_contact
    return MemberInfo(
        id=message.id,
        name=message.name,
        address=message.address,
        status=message.status,
        role=message.role,
        tags=tuple(sorted(message.tags.items())),
        last_contact_seconds=contact.seconds + contact.nanos / 1e9 if message.HasField("last_contact") else None,
        lag_entries=message.lag_entries if message.HasField("lag_entries") else None,
        groups=tuple(MemberGroupInfo(topic=group.topic, partition=group.partition, role=group.role) for group in message.groups),
    )


def topic_info(message: admin_pb2.Topic) -> TopicInfo:
    retention = message.retention
    return TopicInfo(
        name=message.name,
        partitions=message.partitions,
        replicas=message.replicas,
        retention_bytes=retention.bytes,
        retention_seconds=retention.time.seconds + retention.time.nanos / 1e9,
    )


def topic_description(message: admin_pb2.DescribeTopicResponse) -> TopicDescription:
    return TopicDescription(
        topic=topic_info(message.topic),
        partitions=tuple(
            PartitionInfo(
                partition=item.partition,
                group_id=item.group_id,
                leader_id=item.leader_id,
                replica_ids=tuple(item.replica_ids),
                log_start_offset=item.log_start_offset,
                high_watermark=item.high_watermark,
                problem=item.problem,
            )
            for item in message.partitions
        ),
    )


def node_status(message: admin_pb2.GetStatusResponse) -> NodeStatus:
    return NodeStatus(
        id=message.id,
        name=message.name,
        address=message.address,
        cluster_id=message.cluster_id,
        cluster_name=message.cluster_name,
        version=message.version,
        warnings=tuple(message.warnings),
        budgets=tuple(
            BudgetInfo(name=item.name, limit=item.limit, used=item.used, refused=item.refused) for item in message.budgets
        ),
        groups=tuple(
            GroupInfo(
                group_id=item.group_id,
                topic=item.topic,
                partition=item.partition,
                role=item.role,
                leader_id=item.leader_id,
                term=item.term,
                first_index=item.first_index,
                last_index=item.last_index,
                commit_index=item.commit_index,
                applied_index=item.applied_index,
                high_watermark=item.high_watermark,
                voter_ids=tuple(item.voter_ids),
                learner_ids=tuple(item.learner_ids),
                problem=item.problem,
            )
            for item in message.groups
        ),
    )
