"""The `Admin` service: topics, status, leadership."""

from collections.abc import Callable

import trio

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.ids import GroupId, NodeId, format_id, parse_id
from trio_eventlog.machine.catalog import Topic
from trio_eventlog.node.broker import Broker
from trio_eventlog.node.elsewhere import Elsewhere
from trio_eventlog.node.group_opener import Unopened
from trio_eventlog.node.replica import Replica
from trio_eventlog.rpc import Channel, Context, Service, methods_of
from trio_eventlog.service.event_log import is_forwarded, when_ready
from trio_eventlog.service.forwarding import Doubt, Forwarder, forward
from trio_eventlog.service.membership import MembershipAdministration
from trio_eventlog.service.topics import TopicAdministration
from trio_eventlog.v1 import admin_pb2 as messages


class AdminService:
    """Handlers of the `Admin` service, for one node.

    Args:
        creates_topics: whether producers that describe a topic may have it created by that.
    """

    def __init__(
        self,
        broker: Broker,
        topics: TopicAdministration,
        forwarder: Forwarder,
        membership: MembershipAdministration,
        *,
        status: Callable[[bool], messages.GetStatusResponse],
        ready: trio.Event,
        transfer_seconds_max: float,
        creates_topics: bool,
    ) -> None:
        self._broker = broker
        self._topics = topics
        self._forwarder = forwarder
        self._membership = membership
        self._status = status
        self._ready = ready
        self._transfer_seconds_max = transfer_seconds_max
        self._creates_topics = creates_topics

    def service(self) -> Service:
        return Service(
            messages.DESCRIPTOR.services_by_name["Admin"],
            {
                "CreateTopic": when_ready(self._ready, self.create_topic),
                "DeleteTopic": when_ready(self._ready, self.delete_topic),
                "ListTopics": when_ready(self._ready, self.list_topics),
                "DescribeTopic": when_ready(self._ready, self.describe_topic),
                "GetStatus": self.get_status,
                "TransferLeadership": when_ready(self._ready, self.transfer_leadership),
                "ListMembers": when_ready(self._ready, self._membership.list_members),
                "DrainNode": when_ready(self._ready, self._membership.drain_node),
                "RemoveNode": when_ready(self._ready, self._membership.remove_node),
            },
        )

    async def create_topic(self, request: messages.CreateTopicRequest, context: Context) -> messages.CreateTopicResponse:
        topic = await self._topics.create(request, is_forwarded=is_forwarded(context))
        return messages.CreateTopicResponse(
            topic=topic_message(topic),
            unopened_partitions=len(self._broker.unopened(topic)),
            # Of what is applied, and not of what is carried out: the answer must not claim to be older than this very change.
            catalog_index=self._broker.applied_command_index,
        )

    async def delete_topic(self, request: messages.DeleteTopicRequest, context: Context) -> messages.DeleteTopicResponse:
        await self._topics.delete(request, is_forwarded=is_forwarded(context))
        return messages.DeleteTopicResponse(catalog_index=self._broker.applied_command_index)

    async def list_topics(self, request: messages.ListTopicsRequest, context: Context) -> messages.ListTopicsResponse:
        topics = await self._topics.list_all()
        return messages.ListTopicsResponse(topics=map(topic_message, topics), catalog_index=self._broker.catalog_index)

    async def describe_topic(self, request: messages.DescribeTopicRequest, context: Context) -> messages.DescribeTopicResponse:
        topic = await self._topics.find(request.name, create=request.create and self._creates_topics)
        response = messages.DescribeTopicResponse(topic=topic_message(topic), catalog_index=self._broker.catalog_index)
        unopened = self._broker.unopened(topic)
        for number, partition in enumerate(topic.partitions):
            place = self._broker.group(partition.group_id)
            described = response.partitions.add(
                partition=number,
                group_id=partition.group_id,
                leader_id=id_text(self._broker.leader_of(topic, number)),
                replica_ids=map(format_id, partition.wanted),
            )
            if isinstance(place, Replica):
                described.log_start_offset = place.log.log_start_offset
                described.high_watermark = place.watermark.value
            elif number in unopened:
                described.problem = unopened[number] or "being opened"
        return response

    async def get_status(self, request: messages.GetStatusRequest, context: Context) -> messages.GetStatusResponse:
        return self._status(request.catalog_only)

    async def transfer_leadership(
        self, request: messages.TransferLeadershipRequest, context: Context
    ) -> messages.TransferLeadershipResponse:
        replica = self._broker.group(GroupId(request.group_id))
        try:
            to = NodeId(parse_id(request.to_id)) if request.to_id else None
        except ValueError as error:
            raise InvalidArgument(f"to_id: {error}") from error

        async def local() -> str:
            here = self._broker.group(replica.group_id)  # opened here meanwhile, perhaps
            if isinstance(here, Elsewhere):
                raise here.refusal()
            return format_id(await here.transfer_leadership(to, self._transfer_seconds_max))

        async def remote(channel: Channel) -> str:
            response = await forward(channel, _METHODS["TransferLeadership"], request)
            leader_id: str = response.leader_id
            return leader_id

        leader_id = await (local() if is_forwarded(context) else self._forwarder.at_leader(replica, local, remote, Doubt()))
        return messages.TransferLeadershipResponse(leader_id=leader_id)


_METHODS = methods_of(messages.DESCRIPTOR.services_by_name["Admin"])


def id_text(node_id: NodeId) -> str:
    """As the outward contract has it: "" for nobody."""
    return format_id(node_id) if node_id else ""


def topic_message(topic: Topic) -> messages.Topic:
    message = messages.Topic(
        name=topic.name,
        partitions=len(topic.partitions),
        replicas=len(topic.partitions[0].wanted),
        group_ids=[partition.group_id for partition in topic.partitions],
    )
    if topic.retention_bytes or topic.retention_seconds:
        message.retention.bytes = topic.retention_bytes
        message.retention.time.seconds = topic.retention_seconds
    return message


def unopened_status(group: Unopened, topic: str, partition: int) -> messages.GroupStatus:
    role = "degraded" if group.trouble else "opening"
    return messages.GroupStatus(group_id=group.group_id, topic=topic, partition=partition, role=role, problem=group.trouble)


def group_status(replica: Replica, topic: str, partition: int) -> messages.GroupStatus:
    """`topic` is "" for the catalog."""
    status = replica.status()
    return messages.GroupStatus(
        group_id=replica.group_id,
        topic=topic,
        partition=partition,
        role=status.role.name.lower().replace("_", "-"),
        problem=replica.problem,
        leader_id=id_text(status.leader),
        term=status.hard_state.term,
        first_index=status.first_index,
        last_index=status.last_index,
        commit_index=status.hard_state.commit,
        applied_index=status.applied_index,
        high_watermark=replica.watermark.value,
        voter_ids=map(format_id, sorted(status.configuration.voters)),
        learner_ids=map(format_id, sorted(status.configuration.learners)),
        is_joint=status.configuration.is_joint,
        outgoing_voter_ids=map(format_id, sorted(status.configuration.voters_outgoing)),
    )
