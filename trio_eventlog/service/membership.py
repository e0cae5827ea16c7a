"""Members, draining and removing, from any node: the catalog's leader decides."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.ids import NOBODY, GroupId, NodeId, format_id, parse_id
from trio_eventlog.node.broker import Broker
from trio_eventlog.node.gossip_discovery import Seen
from trio_eventlog.node.reconciler import GroupReport, MemberStatus, NodeReport, Reconciler
from trio_eventlog.raft import Role
from trio_eventlog.rpc import Channel, Context, methods_of
from trio_eventlog.service.event_log import is_forwarded
from trio_eventlog.service.forwarding import Doubt, Forwarder, forward
from trio_eventlog.v1 import admin_pb2 as messages

_METHODS = methods_of(messages.DESCRIPTOR.services_by_name["Admin"])
_ROLES = {role.name.lower().replace("_", "-"): role for role in Role}


class MembershipAdministration:
    """Handlers of ListMembers, DrainNode and RemoveNode, for one node."""

    def __init__(self, broker: Broker, reconciler: Reconciler, forwarder: Forwarder, seen: Callable[[], Sequence[Seen]]) -> None:
        self._broker = broker
        self._reconciler = reconciler
        self._forwarder = forwarder
        self._seen = seen

    async def list_members(self, request: messages.ListMembersRequest, context: Context) -> messages.ListMembersResponse:
        async def local() -> messages.ListMembersResponse:
            places = {
                partition.group_id: (topic.name, number)
                for topic in self._broker.topics()
                for number, partition in enumerate(topic.partitions)
            }
            members = await self._reconciler.members()
            seen = self._seen()
            by_id = {one.node_id: one for one in seen}
            listed = {member.node_id for member in members}
            return messages.ListMembersResponse(
                members=[_member_message(member, places, by_id.get(member.node_id)) for member in members]
                + [_gossip_message(one) for one in seen if one.node_id not in listed]
            )

        async def remote(channel: Channel) -> messages.ListMembersResponse:
            response: messages.ListMembersResponse = await forward(channel, _METHODS["ListMembers"], request)
            return response

        if is_forwarded(context):
            return await local()
        return await self._forwarder.at_leader(self._broker.catalog, local, remote)

    async def drain_node(self, request: messages.DrainNodeRequest, context: Context) -> messages.DrainNodeResponse:
        node_id = _node_id(request.id)
        await self._at_leader("DrainNode", request, context, lambda: self._reconciler.drain(node_id))
        return messages.DrainNodeResponse()

    async def remove_node(self, request: messages.RemoveNodeRequest, context: Context) -> messages.RemoveNodeResponse:
        node_id = _node_id(request.id)
        await self._at_leader("RemoveNode", request, context, lambda: self._reconciler.remove(node_id))
        return messages.RemoveNodeResponse()

    async def _at_leader(self, method: str, request: Any, context: Context, local: Callable[[], Awaitable[None]]) -> None:
        async def remote(channel: Channel) -> None:
            await forward(channel, _METHODS[method], request)

        await (local() if is_forwarded(context) else self._forwarder.at_leader(self._broker.catalog, local, remote, Doubt()))


async def ask_node(forwarder: Forwarder, node_id: NodeId, with_partitions: bool) -> NodeReport:
    """How a node is, by its own word. Raises EventLogError."""
    channel = await forwarder.channel(node_id)
    response = await forward(channel, _METHODS["GetStatus"], messages.GetStatusRequest(catalog_only=not with_partitions))
    reports = [
        GroupReport(
            group_id=GroupId(group.group_id),
            role=_ROLES[group.role],
            term=group.term,
            applied_index=group.applied_index,
            voters=frozenset(map(_node_id, group.voter_ids)),
            learners=frozenset(map(_node_id, group.learner_ids)),
            is_joint=group.is_joint,
        )
        for group in response.groups
        if group.role in _ROLES  # others have no replica that is open
    ]
    return NodeReport(
        groups={report.group_id: report for report in reports},
        partitions_max=response.partitions_max,
        peers={_node_id(peer.id): peer.address for peer in response.peers},
        feature_level=response.feature_level,
    )


def _node_id(text: str) -> NodeId:
    try:
        return NodeId(parse_id(text))
    except ValueError as error:
        raise InvalidArgument(f"node id: {error}") from error


def _status(status: str, seen: str) -> str:
    """What the catalog's leader finds, sharpened by what it has heard in gossip."""
    match status, seen:
        case "alive", "suspect":
            return seen
        case "failed" | "unknown", "left":
            return seen
        case "unknown", "failed":
            return seen
    return status


def _gossip_message(seen: Seen) -> messages.Member:
    """Somebody whom only gossip knows: a foreign program, or a node that no hello has come from."""
    node_id = format_id(seen.node_id) if seen.node_id != NOBODY else ""
    return messages.Member(id=node_id, name=seen.name, address=seen.address, status=seen.status, tags=seen.tags)


def _member_message(member: MemberStatus, places: dict[GroupId, tuple[str, int]], seen: Seen | None) -> messages.Member:
    message = messages.Member(
        id=format_id(member.node_id),
        name=member.name,
        address=member.address,
        status=member.status if seen is None else _status(member.status, seen.status),
        tags={} if seen is None else seen.tags,
        role=member.role,
        lag_entries=member.lag_entries,
    )
    if member.last_contact_seconds is not None:
        nanoseconds = round(member.last_contact_seconds * 1e9)
        message.last_contact.seconds, message.last_contact.nanos = divmod(nanoseconds, 1_000_000_000)
    for group_id, role in member.groups:
        topic, partition = places.get(group_id, ("", 0))
        message.groups.add(group_id=group_id, topic=topic, partition=partition, role=role)
    return message
