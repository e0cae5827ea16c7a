"""The `Admin` service: messages to calls of `service/`, and answers back."""

from typing import Any

import trio

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.grpc.answers import description_message, disk_use_message, members_message, status_message, topic_message
from trio_eventlog.grpc.callers import caller_of
from trio_eventlog.grpc.event_log import when_ready
from trio_eventlog.grpc.requests import requested_change, requested_file, requested_topic, requested_trim
from trio_eventlog.ids import GroupId, NodeId, format_id, parse_id
from trio_eventlog.rpc import Context, Service
from trio_eventlog.service.backups import Backups
from trio_eventlog.service.cluster import ClusterAdministration, parsed_node_id
from trio_eventlog.service.topics import TopicAdministration
from trio_eventlog.v1 import admin_pb2 as messages


class AdminHandlers:
    """Handlers of the `Admin` service, for one node.

    Args:
        ready: as for `EventLogHandlers`.
        creates_topics: whether producers that describe a topic may have it created by that.
    """

    def __init__(
        self,
        topics: TopicAdministration,
        cluster: ClusterAdministration,
        backups: Backups,
        *,
        ready: trio.Event,
        creates_topics: bool,
    ) -> None:
        self._topics = topics
        self._cluster = cluster
        self._backups = backups
        self._ready = ready
        self._creates_topics = creates_topics

    def service(self) -> Service:
        handlers: dict[str, Any] = {
            "CreateTopic": self.create_topic,
            "AlterTopic": self.alter_topic,
            "DeleteTopic": self.delete_topic,
            "ListTopics": self.list_topics,
            "DescribeTopic": self.describe_topic,
            "GetDiskUse": self.get_disk_use,
            "TrimPartition": self.trim_partition,
            "TransferLeadership": self.transfer_leadership,
            "ListMembers": self.list_members,
            "DrainNode": self.drain_node,
            "RemoveNode": self.remove_node,
            "TakeSnapshot": self.take_snapshot,
            "Backup": self.backup,
        }
        waiting = {name: when_ready(self._ready, handler) for name, handler in handlers.items()}
        return Service(messages.DESCRIPTOR.services_by_name["Admin"], {**waiting, "GetStatus": self.get_status})

    async def create_topic(self, request: messages.CreateTopicRequest, context: Context) -> messages.CreateTopicResponse:
        created = await self._topics.create(requested_topic(request), caller_of(context))
        return messages.CreateTopicResponse(
            topic=topic_message(created.value),
            unopened_partitions=created.value.unopened_partitions,
            catalog_index=created.catalog_index,
        )

    async def alter_topic(self, request: messages.AlterTopicRequest, context: Context) -> messages.AlterTopicResponse:
        altered = await self._topics.alter(requested_change(request), caller_of(context))
        return messages.AlterTopicResponse(topic=topic_message(altered.value), catalog_index=altered.catalog_index)

    async def delete_topic(self, request: messages.DeleteTopicRequest, context: Context) -> messages.DeleteTopicResponse:
        deleted = await self._topics.delete(request.name, caller_of(context))
        return messages.DeleteTopicResponse(catalog_index=deleted.catalog_index)

    async def list_topics(self, request: messages.ListTopicsRequest, context: Context) -> messages.ListTopicsResponse:
        listed = await self._topics.list_all()
        return messages.ListTopicsResponse(topics=map(topic_message, listed.value), catalog_index=listed.catalog_index)

    async def describe_topic(self, request: messages.DescribeTopicRequest, context: Context) -> messages.DescribeTopicResponse:
        create = request.create and self._creates_topics
        return description_message(await self._topics.describe(request.name, caller_of(context), create=create))

    async def get_disk_use(self, request: messages.GetDiskUseRequest, context: Context) -> messages.GetDiskUseResponse:
        return disk_use_message(self._topics.disk_use())

    async def get_status(self, request: messages.GetStatusRequest, context: Context) -> messages.GetStatusResponse:
        return status_message(self._cluster.status(request.catalog_only))

    async def trim_partition(self, request: messages.TrimPartitionRequest, context: Context) -> messages.TrimPartitionResponse:
        before = requested_trim(request)
        offset = await self._topics.trim(GroupId(request.group_id), before, caller_of(context))
        return messages.TrimPartitionResponse(log_start_offset=offset)

    async def transfer_leadership(
        self, request: messages.TransferLeadershipRequest, context: Context
    ) -> messages.TransferLeadershipResponse:
        try:
            to = NodeId(parse_id(request.to_id)) if request.to_id else None
        except ValueError as error:
            raise InvalidArgument(f"to_id: {error}") from error
        leader_id = await self._cluster.transfer_leadership(GroupId(request.group_id), to, caller_of(context))
        return messages.TransferLeadershipResponse(leader_id=format_id(leader_id))

    async def list_members(self, request: messages.ListMembersRequest, context: Context) -> messages.ListMembersResponse:
        return members_message(await self._cluster.members(caller_of(context)))

    async def drain_node(self, request: messages.DrainNodeRequest, context: Context) -> messages.DrainNodeResponse:
        await self._cluster.drain_node(parsed_node_id(request.id), caller_of(context))
        return messages.DrainNodeResponse()

    async def take_snapshot(self, request: messages.TakeSnapshotRequest, context: Context) -> messages.TakeSnapshotResponse:
        taken = await self._backups.take_snapshot(GroupId(request.group_id), caller_of(context))
        return messages.TakeSnapshotResponse(term=taken.term, index=taken.index)

    async def backup(self, request: messages.BackupRequest, context: Context) -> messages.BackupResponse:
        file = requested_file(request)
        piece = await self._backups.read(GroupId(request.group_id), file, request.position, request.length, caller_of(context))
        return messages.BackupResponse(file_bytes=piece.file_bytes, data=piece.data)

    async def remove_node(self, request: messages.RemoveNodeRequest, context: Context) -> messages.RemoveNodeResponse:
        await self._cluster.remove_node(parsed_node_id(request.id), caller_of(context))
        return messages.RemoveNodeResponse()
