"""What admin calls answer: values to messages, where a node answers, and messages to values, where one asks."""

from collections.abc import Iterable

from trio_eventlog.service.values import (
    AsOf,
    BudgetInfo,
    ClusterView,
    GroupInfo,
    KnownTopic,
    MemberGroupInfo,
    MemberInfo,
    NodeStatus,
    PartitionInfo,
    PeerInfo,
    Placement,
    ServerInfo,
    TopicDescription,
    TopicDiskUse,
    TopicInfo,
)
from trio_eventlog.v1 import admin_pb2, event_log_pb2

NANOSECONDS = 1_000_000_000

# Topics


def topic_message(topic: TopicInfo) -> admin_pb2.Topic:
    message = admin_pb2.Topic(
        name=topic.name,
        partitions=topic.partitions,
        replicas=topic.replicas,
        group_ids=topic.group_ids,
        kind=topic.kind,
    )
    if topic.retention_bytes or topic.retention_seconds:
        message.retention.bytes = topic.retention_bytes
        message.retention.time.seconds = int(topic.retention_seconds)
    return message


def topic_info(message: admin_pb2.Topic) -> TopicInfo:
    retention = message.retention
    return TopicInfo(
        name=message.name,
        partitions=message.partitions,
        replicas=message.replicas,
        retention_bytes=retention.bytes,
        retention_seconds=retention.time.seconds + retention.time.nanos / 1e9,
        group_ids=tuple(message.group_ids),
        kind=message.kind,
    )


def disk_use_message(uses: Iterable[TopicDiskUse]) -> admin_pb2.GetDiskUseResponse:
    return admin_pb2.GetDiskUseResponse(
        topics=[admin_pb2.TopicDiskUse(name=use.name, partitions=use.partitions, size_bytes=use.size_bytes) for use in uses]
    )


def disk_use(message: admin_pb2.GetDiskUseResponse) -> list[TopicDiskUse]:
    return [TopicDiskUse(name=item.name, partitions=item.partitions, size_bytes=item.size_bytes) for item in message.topics]


def description_message(described: AsOf[TopicDescription]) -> admin_pb2.DescribeTopicResponse:
    return admin_pb2.DescribeTopicResponse(
        topic=topic_message(described.value.topic),
        partitions=[
            admin_pb2.PartitionDescription(
                partition=item.partition,
                group_id=item.group_id,
                leader_id=item.leader_id,
                replica_ids=item.replica_ids,
                log_start_offset=item.log_start_offset,
                high_watermark=item.high_watermark,
                problem=item.problem,
                size_bytes=item.size_bytes,
            )
            for item in described.value.partitions
        ],
        catalog_index=described.catalog_index,
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
                size_bytes=item.size_bytes if item.HasField("size_bytes") else None,
            )
            for item in message.partitions
        ),
    )


def described_topic(message: admin_pb2.DescribeTopicResponse) -> tuple[KnownTopic, list[Placement]]:
    """What a client's routing takes of it."""
    name = message.topic.name
    placements = [
        Placement(
            topic=name,
            partition=item.partition,
            leader_id=item.leader_id,
            replica_ids=tuple(item.replica_ids),
            group_id=item.group_id,
        )
        for item in message.partitions
    ]
    return KnownTopic(name=name, group_ids=tuple(item.group_id for item in message.partitions)), placements


# The cluster


def servers_message(view: ClusterView) -> event_log_pb2.GetServersResponse:
    message = event_log_pb2.GetServersResponse(cluster_id=view.cluster_id, catalog_index=view.catalog_index)
    for server in view.servers:
        message.servers.add(
            id=server.id, name=server.name, address=server.address, is_leader=server.is_leader, tags=dict(server.tags)
        )
    for place in view.placements:
        message.partitions.add(
            topic=place.topic,
            partition=place.partition,
            leader_id=place.leader_id,
            replica_ids=place.replica_ids,
            group_id=place.group_id,
        )
    return message


def cluster_view(message: event_log_pb2.GetServersResponse) -> ClusterView:
    return ClusterView(
        servers=tuple(
            ServerInfo(
                id=item.id, name=item.name, address=item.address, is_leader=item.is_leader, tags=tuple(sorted(item.tags.items()))
            )
            for item in message.servers
        ),
        placements=tuple(
            Placement(
                topic=item.topic,
                partition=item.partition,
                leader_id=item.leader_id,
                replica_ids=tuple(item.replica_ids),
                group_id=item.group_id,
            )
            for item in message.partitions
        ),
        cluster_id=message.cluster_id,
        catalog_index=message.catalog_index,
    )


def status_message(status: NodeStatus) -> admin_pb2.GetStatusResponse:
    return admin_pb2.GetStatusResponse(
        id=status.id,
        name=status.name,
        address=status.address,
        cluster_id=status.cluster_id,
        cluster_name=status.cluster_name,
        version=status.version,
        warnings=status.warnings,
        partitions_max=status.partitions_max,
        feature_level=status.feature_level,
        cluster_feature_level=status.cluster_feature_level,
        peers=[admin_pb2.Peer(id=peer.id, address=peer.address) for peer in status.peers],
        budgets=[
            admin_pb2.Budget(name=item.name, limit=item.limit, used=item.used, refused=item.refused) for item in status.budgets
        ],
        groups=[
            admin_pb2.GroupStatus(
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
                voter_ids=item.voter_ids,
                learner_ids=item.learner_ids,
                is_joint=item.is_joint,
                outgoing_voter_ids=item.outgoing_voter_ids,
                problem=item.problem,
                log_start_offset=item.log_start_offset,
                size_bytes=item.size_bytes,
                index_behind_entries=item.index_behind_entries,
            )
            for item in status.groups
        ],
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
        partitions_max=message.partitions_max,
        feature_level=message.feature_level,
        cluster_feature_level=message.cluster_feature_level,
        peers=tuple(PeerInfo(id=item.id, address=item.address) for item in message.peers),
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
                is_joint=item.is_joint,
                outgoing_voter_ids=tuple(item.outgoing_voter_ids),
                problem=item.problem,
                log_start_offset=item.log_start_offset,
                size_bytes=item.size_bytes,
                index_behind_entries=item.index_behind_entries,
            )
            for item in message.groups
        ),
    )


def members_message(members: Iterable[MemberInfo]) -> admin_pb2.ListMembersResponse:
    return admin_pb2.ListMembersResponse(members=map(_member_message, members))


def _member_message(member: MemberInfo) -> admin_pb2.Member:
    message = admin_pb2.Member(
        id=member.id,
        name=member.name,
        address=member.address,
        status=member.status,
        tags=dict(member.tags),
        role=member.role,
        lag_entries=member.lag_entries,
    )
    if member.last_contact_seconds is not None:
        contact_ns = round(member.last_contact_seconds * NANOSECONDS)
        message.last_contact.seconds, message.last_contact.nanos = divmod(contact_ns, NANOSECONDS)
    for group in member.groups:
        message.groups.add(group_id=group.group_id, topic=group.topic, partition=group.partition, role=group.role)
    return message


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
        groups=tuple(
            MemberGroupInfo(topic=group.topic, partition=group.partition, role=group.role, group_id=group.group_id)
            for group in message.groups
        ),
    )
