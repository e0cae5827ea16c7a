"""Admin calls of a client: topics, nodes, leaders."""

import datetime
from functools import partial
from typing import Any

import attrs
import trio

from trio_eventlog.client.calls import Calls
from trio_eventlog.errors import TopicExists, TopicNotFound
from trio_eventlog.grpc.answers import disk_use, member_info, node_status, topic_description, topic_info
from trio_eventlog.grpc.methods import (
    ALTER_TOPIC,
    CREATE_TOPIC,
    DELETE_TOPIC,
    DESCRIBE_TOPIC,
    DRAIN_NODE,
    GET_DISK_USE,
    GET_STATUS,
    LIST_MEMBERS,
    LIST_TOPICS,
    REMOVE_NODE,
    TRANSFER_LEADERSHIP,
    TRIM_PARTITION,
)
from trio_eventlog.grpc.requests import alter_topic_request, create_topic_request, trim_request
from trio_eventlog.ids import CATALOG_GROUP
from trio_eventlog.rpc import Method
from trio_eventlog.service.arguments import group_of, trim_groups
from trio_eventlog.service.values import (
    Caller,
    KnownTopic,
    MemberInfo,
    NewTopic,
    NodeStatus,
    Placement,
    ServerInfo,
    TopicChange,
    TopicDescription,
    TopicDiskUse,
    TopicInfo,
)
from trio_eventlog.v1 import admin_pb2


class AdminCalls:
    """What `Client` answers about topics and nodes; see `EventLog` for each."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._routing = calls.routing

    async def create_topic(self, topic: NewTopic, caller: Caller) -> TopicInfo:
        is_uncertain = Flag()
        try:
            response = await self._calls.call(
                CREATE_TOPIC,
                create_topic_request(topic),
                self._routing.for_catalog,
                on_uncertain=is_uncertain.set,
                caller=caller,
            )
        except TopicExists:
            if not is_uncertain:
                raise
            # An attempt of ours whose answer was lost has created it, unless another caller did at the same moment.
            return (await self.describe_topic(topic.name, caller)).topic
        info = topic_info(response.topic)
        if info.group_ids:
            self._routing.learn(KnownTopic(name=topic.name, group_ids=info.group_ids), (), response.catalog_index)
        await self._calls.refresh_if_possible(newer_than=trio.current_time())
        return attrs.evolve(info, unopened_partitions=response.unopened_partitions)

    async def alter_topic(self, change: TopicChange, caller: Caller) -> TopicInfo:
        if not change.group_id:
            # Looked up once: an attempt that is repeated must not change a topic that was made meanwhile.
            described = await self.describe_topic(change.name, caller)
            change = attrs.evolve(change, group_id=described.partitions[0].group_id)
        response = await self._calls.call(
            ALTER_TOPIC, alter_topic_request(change), self._routing.for_catalog, on_uncertain=lambda: None, caller=caller
        )
        return topic_info(response.topic)

    async def trim_topic(self, name: str, before: int | datetime.datetime, partition: int | None, caller: Caller) -> dict[int, int]:
        groups, point = trim_groups(await self.describe_topic(name, caller), before, partition)
        found: dict[int, int] = {}
        for number, group_id in groups.items():
            response = await self._calls.call(
                TRIM_PARTITION,
                trim_request(group_id, point),
                partial(self._routing.for_write, name, number),
                on_uncertain=lambda: None,
                caller=caller,
            )
            found[number] = response.log_start_offset
        return found

    async def delete_topic(self, name: str, caller: Caller) -> None:
        is_uncertain = Flag()
        catalog_index = 0
        try:
            response = await self._calls.call(
                DELETE_TOPIC,
                admin_pb2.DeleteTopicRequest(name=name),
                self._routing.for_catalog,
                on_uncertain=is_uncertain.set,
                caller=caller,
            )
            catalog_index = response.catalog_index
        except TopicNotFound:
            if not is_uncertain:
                raise
        self._routing.forget_topic(name, catalog_index)
        await self._calls.refresh_if_possible(newer_than=trio.current_time())

    async def list_topics(self, caller: Caller) -> list[TopicInfo]:
        request = admin_pb2.ListTopicsRequest()
        response = await self._calls.call(LIST_TOPICS, request, self._routing.addresses, caller=caller)
        return [topic_info(topic) for topic in response.topics]

    async def describe_topic(self, name: str, caller: Caller) -> TopicDescription:
        request = admin_pb2.DescribeTopicRequest(name=name)
        return topic_description(await self._calls.call(DESCRIBE_TOPIC, request, self._routing.for_catalog, caller=caller))

    async def status(self, address: str | None, caller: Caller) -> NodeStatus:
        request = admin_pb2.GetStatusRequest()
        if address is not None:
            return node_status(await self._calls.call_once(address, GET_STATUS, request, caller=caller))
        return node_status(await self._calls.call(GET_STATUS, request, self._routing.addresses, caller=caller))

    async def disk_use(self, address: str | None, caller: Caller) -> list[TopicDiskUse]:
        request = admin_pb2.GetDiskUseRequest()
        if address is not None:
            return disk_use(await self._calls.call_once(address, GET_DISK_USE, request, caller=caller))
        return disk_use(await self._calls.call(GET_DISK_USE, request, self._routing.addresses, caller=caller))

    async def servers(self) -> list[ServerInfo]:
        await self._calls.refresh(newer_than=trio.current_time())
        return sorted(self._routing.servers, key=lambda server: (server.name, server.id))

    async def placements(self) -> list[Placement]:
        await self._calls.refresh(newer_than=trio.current_time())
        return list(self._routing.placements)

    async def members(self, caller: Caller) -> list[MemberInfo]:
        request = admin_pb2.ListMembersRequest()
        response = await self._calls.call(LIST_MEMBERS, request, self._routing.for_catalog, caller=caller)
        return [member_info(member) for member in response.members]

    async def drain_node(self, node_id: str, caller: Caller) -> None:
        await self._change_catalog(DRAIN_NODE, admin_pb2.DrainNodeRequest(id=node_id), caller)

    async def remove_node(self, node_id: str, caller: Caller) -> None:
        await self._change_catalog(REMOVE_NODE, admin_pb2.RemoveNodeRequest(id=node_id), caller)

    async def _change_catalog(self, method: Method, request: Any, caller: Caller) -> None:
        await self._calls.call(method, request, self._routing.for_catalog, on_uncertain=lambda: None, caller=caller)

    async def transfer_leadership(self, topic: str, partition: int, to: str, caller: Caller) -> str:
        group_id: int = CATALOG_GROUP
        if topic:
            described = await self.describe_topic(topic, caller)
            group_id = group_of(described, partition)
        response = await self._calls.call(
            TRANSFER_LEADERSHIP,
            admin_pb2.TransferLeadershipRequest(group_id=group_id, to_id=to),
            lambda now: self._routing.for_write(topic, partition, now) if topic else self._routing.for_catalog(now),
            on_uncertain=lambda: None,
            caller=caller,
        )
        await self._calls.refresh(newer_than=trio.current_time())
        leader_id: str = response.leader_id
        return leader_id


@attrs.define(slots=True, eq=False)
class Flag:
    """Whether some attempt may have had its effect without an answer."""

    is_set: bool = False

    def set(self) -> None:
        self.is_set = True

    def __bool__(self) -> bool:
        return self.is_set
