"""Nodes and leaders: members, status, draining, removing, handing over, from any node. The catalog's leader decides."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.ids import NOBODY, GroupId, NodeId, format_id, parse_id
from trio_eventlog.node.gossip_discovery import Seen
from trio_eventlog.node.group_opener import Unopened
from trio_eventlog.node.membership_requests import MembershipRequests, MemberStatus
from trio_eventlog.node.node_reports import GroupReport, NodeReport
from trio_eventlog.node.remote_group import RemoteGroup
from trio_eventlog.node.replica import Replica
from trio_eventlog.raft import Role
from trio_eventlog.service.broker import Broker
from trio_eventlog.service.forwarding import Doubt, Forwarder
from trio_eventlog.service.remote_node import RemoteNode, RemoteNodes
from trio_eventlog.service.topics import id_text
from trio_eventlog.service.values import (
    NOBODY_IN_PARTICULAR,
    Caller,
    ClusterView,
    GroupInfo,
    MemberGroupInfo,
    MemberInfo,
    NodeStatus,
)

_ROLES = {role.name.lower().replace("_", "-"): role for role in Role}


class ClusterAdministration:
    """Requests about the nodes of a cluster.

    Args:
        seen: the members of gossip.
        status: this node as it sees itself; True: the catalog's group only.
        view: the cluster as clients should see it.
        transfer_seconds_max: how long a transfer of leadership is waited for.
    """

    def __init__(
        self,
        broker: Broker,
        membership: MembershipRequests,
        forwarder: Forwarder,
        *,
        seen: Callable[[], Sequence[Seen]],
        status: Callable[[bool], NodeStatus],
        view: Callable[[], ClusterView],
        transfer_seconds_max: float,
    ) -> None:
        self._broker = broker
        self._membership = membership
        self._forwarder = forwarder
        self._seen = seen
        self.status = status
        self.view = view
        self._transfer_seconds_max = transfer_seconds_max

    async def members(self, caller: Caller) -> list[MemberInfo]:
        """As the catalog's leader sees them. Raises NoQuorum."""
        return await self._forwarder.at_leader(
            self._broker.catalog, self._members_here, partial(_members_there, caller), caller=caller
        )

    async def _members_here(self) -> list[MemberInfo]:
        places = {
            partition.group_id: (topic.name, number)
            for topic in self._broker.topics()
            for number, partition in enumerate(topic.partitions)
        }
        members = await self._membership.members()
        seen = self._seen()
        by_id = {one.node_id: one for one in seen}
        listed = {member.node_id for member in members}
        return [_member_info(member, places, by_id.get(member.node_id)) for member in members] + [
            _gossip_info(one) for one in seen if one.node_id not in listed
        ]

    async def drain_node(self, node_id: NodeId, caller: Caller) -> None:
        """Raises InvalidArgument, MembershipRefused, NoQuorum, OutcomeUnknown."""
        await self._change(partial(self._membership.drain, node_id), partial(_drain_there, node_id, caller), caller)

    async def remove_node(self, node_id: NodeId, caller: Caller) -> None:
        """Raises as `drain_node`."""
        await self._change(partial(self._membership.remove, node_id), partial(_remove_there, node_id, caller), caller)

    async def _change(
        self, here: Callable[[], Awaitable[None]], there: Callable[[RemoteNode], Awaitable[None]], caller: Caller
    ) -> None:
        await self._forwarder.at_leader(self._broker.catalog, here, there, Doubt(), caller=caller)

    async def transfer_leadership(self, group_id: GroupId, to: NodeId | None, caller: Caller) -> NodeId:
        """Hand a group over to `to`, or to the best follower; returns who leads then.

        Raises:
            TopicNotFound: there is no such group.
            InvalidArgument: `to` is no voter.
            NoQuorum, OutcomeUnknown.
        """
        place = self._broker.group(group_id)
        return await self._forwarder.at_leader(
            place,
            partial(self._transfer_here, group_id, to),
            partial(_transfer_there, group_id, to, caller),
            Doubt(),
            caller=caller,
        )

    async def _transfer_here(self, group_id: GroupId, to: NodeId | None) -> NodeId:
        place = self._broker.group(group_id)  # opened here meanwhile, perhaps
        if isinstance(place, RemoteGroup):
            raise place.refusal()
        return await place.transfer_leadership(to, self._transfer_seconds_max)


async def ask_node(nodes: RemoteNodes, node_id: NodeId, with_partitions: bool) -> NodeReport:
    """How a node is, by its own word. Raises EventLogError."""
    node = await nodes.get(node_id)
    status = await node.status(catalog_only=not with_partitions, caller=NOBODY_IN_PARTICULAR)
    reports = [
        GroupReport(
            group_id=GroupId(group.group_id),
            role=_ROLES[group.role],
            term=group.term,
            applied_index=group.applied_index,
            voters=frozenset(map(parsed_node_id, group.voter_ids)),
            learners=frozenset(map(parsed_node_id, group.learner_ids)),
            is_joint=group.is_joint,
        )
        for group in status.groups
        if group.role in _ROLES  # others have no replica that is open
    ]
    return NodeReport(
        groups={report.group_id: report for report in reports},
        partitions_max=status.partitions_max,
        peers={parsed_node_id(peer.id): peer.address for peer in status.peers},
        feature_level=status.feature_level,
    )


def parsed_node_id(text: str) -> NodeId:
    """Raises InvalidArgument."""
    try:
        return NodeId(parse_id(text))
    except ValueError as error:
        raise InvalidArgument(f"node id: {error}") from error


def group_info(replica: Replica, topic: str, partition: int) -> GroupInfo:
    """`topic` is "" for the catalog."""
    status = replica.status()
    return GroupInfo(
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
        voter_ids=_id_texts(status.configuration.voters),
        learner_ids=_id_texts(status.configuration.learners),
        is_joint=status.configuration.is_joint,
        outgoing_voter_ids=_id_texts(status.configuration.voters_outgoing),
        log_start_offset=replica.log.log_start_offset,
        size_bytes=replica.log.size_bytes,
        index_behind_entries=replica.events.status.entries_behind if replica.events is not None else 0,
    )


def unopened_group_info(group: Unopened, topic: str, partition: int) -> GroupInfo:
    """Of a group that lives here and is not open."""
    role = "degraded" if group.trouble else "opening"
    return GroupInfo(group_id=group.group_id, topic=topic, partition=partition, role=role, problem=group.trouble)


def _id_texts(node_ids: Iterable[NodeId]) -> tuple[str, ...]:
    return tuple(map(format_id, sorted(node_ids)))


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


def _gossip_info(seen: Seen) -> MemberInfo:
    """A member that only gossip knows: a foreign program, or a node that has not sent a hello."""
    return MemberInfo(
        id=format_id(seen.node_id) if seen.node_id != NOBODY else "",
        name=seen.name,
        address=seen.address,
        status=seen.status,
        role="",
        tags=tuple(sorted(seen.tags.items())),
    )


def _member_info(member: MemberStatus, places: dict[GroupId, tuple[str, int]], seen: Seen | None) -> MemberInfo:
    return MemberInfo(
        id=format_id(member.node_id),
        name=member.name,
        address=member.address,
        status=member.status if seen is None else _status(member.status, seen.status),
        role=member.role,
        tags=() if seen is None else tuple(sorted(seen.tags.items())),
        last_contact_seconds=member.last_contact_seconds,
        lag_entries=member.lag_entries,
        groups=tuple(_member_group(group_id, role, *places.get(group_id, ("", 0))) for group_id, role in member.groups),
    )


def _member_group(group_id: GroupId, role: str, topic: str, partition: int) -> MemberGroupInfo:
    return MemberGroupInfo(topic=topic, partition=partition, role=role, group_id=group_id)


async def _members_there(caller: Caller, node: RemoteNode) -> list[MemberInfo]:
    return await node.members(caller)


async def _drain_there(node_id: NodeId, caller: Caller, node: RemoteNode) -> None:
    await node.drain_node(node_id, caller)


async def _remove_there(node_id: NodeId, caller: Caller, node: RemoteNode) -> None:
    await node.remove_node(node_id, caller)


async def _transfer_there(group_id: GroupId, to: NodeId | None, caller: Caller, node: RemoteNode) -> NodeId:
    return await node.transfer_leadership(group_id, to, caller)
