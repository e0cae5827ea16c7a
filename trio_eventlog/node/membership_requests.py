"""What operators ask about membership: the list of nodes, draining, removing. Answered by the leader of the catalog."""

import logging
from collections.abc import Mapping, Sequence

import attrs
import trio

from trio_eventlog.errors import InvalidArgument, MembershipRefused, NotLeader
from trio_eventlog.ids import CATALOG_GROUP, GroupId, NodeId, format_id
from trio_eventlog.machine.catalog import DrainNode, RemoveNode
from trio_eventlog.net.discovery import Member
from trio_eventlog.node.membership import View, refuse_drain, refuse_removal
from trio_eventlog.node.node_names import NodeNames
from trio_eventlog.node.node_reports import NodeReport
from trio_eventlog.node.observer import Observer
from trio_eventlog.node.reconciler_settings import PeerAccess
from trio_eventlog.node.replicas import Replicas
from trio_eventlog.raft import Role

logger = logging.getLogger(__name__)


@attrs.frozen(slots=True, kw_only=True)
class MemberStatus:
    """A node, for people.

    Attributes:
        status: "alive", "failed", "joining", "unknown", "draining", "removed".
        role: in the catalog: "leader", "voter", "learner", or "".
        last_contact_seconds: seconds since its last answer; None when there was none.
        lag_entries: number of entries of the catalog's log that it has not applied; None when not known.
        groups: its partitions, each with its role there.
    """

    node_id: NodeId
    name: str
    address: str
    status: str
    role: str
    last_contact_seconds: float | None
    lag_entries: int | None
    groups: Sequence[tuple[GroupId, str]]


class MembershipRequests:
    """For any task. Requests to drain and to remove are handled one at a time, since each is judged by what the others left."""

    def __init__(
        self, node_id: NodeId, address: str, replicas: Replicas, peers: PeerAccess, observer: Observer, names: NodeNames
    ) -> None:
        self._node_id = node_id
        self._address = address
        self._replicas = replicas
        self._peers = peers
        self._observer = observer
        self._names = names
        self._departures = trio.Lock()

    async def drain(self, node_id: NodeId) -> None:
        """Have the node's leaderships and replicas moved off and the node removed. Returns when that is decided, not done.

        Raises:
            NotLeader: this node does not lead the catalog.
            InvalidArgument: there is no such node.
            MembershipRefused: not now, with the reason.
            OutcomeUnknown.
        """
        async with self._departures:
            view = await self._fresh_view()
            self._check_known(view, node_id)
            node = view.nodes.get(node_id)
            if node is not None and node.is_draining:
                return
            refusal = refuse_drain(view, node_id)
            if refusal:
                raise MembershipRefused(f"node {self._names.shown(node_id)} is not drained: {refusal}")
            await self._replicas.command(DrainNode(node_id=node_id))
            logger.info("node %s is being drained", self._names.shown(node_id))

    async def remove(self, node_id: NodeId) -> None:
        """Remove the node for ever, at once. Raises as `drain`."""
        async with self._departures:
            view = await self._fresh_view()
            if node_id in view.removed:
                return
            self._check_known(view, node_id)
            refusal = refuse_removal(view, node_id)
            if refusal:
                raise MembershipRefused(f"node {self._names.shown(node_id)} is not removed: {refusal}")
            await self._replicas.command(RemoveNode(node_id=node_id))
            logger.info("node %s is removed", self._names.shown(node_id))

    async def members(self) -> list[MemberStatus]:
        """Every node that is known or was removed. Raises NotLeader."""
        view = await self._fresh_view()
        known = self._peers.members()
        ids = {self._node_id, *known, *view.configuration.nodes, *view.nodes, *view.removed}
        return [self._member_status(view, known, node_id) for node_id in sorted(ids)]

    async def _fresh_view(self) -> View:
        catalog = self._replicas.catalog
        if not catalog.is_leader:
            raise NotLeader("only the leader of the catalog knows the state of all nodes", catalog.leader_id)
        await self._observer.ask_all(with_partitions=True)
        return self._observer.view()

    def _check_known(self, view: View, node_id: NodeId) -> None:
        if node_id in view.removed:
            raise InvalidArgument(f"node {self._names.shown(node_id)} was removed already, for ever")
        if node_id not in view.configuration.nodes and node_id not in view.nodes:
            known = ", ".join(self._names.shown(known) for known in sorted(view.configuration.nodes))
            raise InvalidArgument(f"there is no node {format_id(node_id)} in the cluster; there are {known}")

    def _member_status(self, view: View, known: Mapping[NodeId, Member], node_id: NodeId) -> MemberStatus:
        is_own = node_id == self._node_id
        member = known.get(node_id)
        configuration = view.configuration
        report = self._observer.own_report() if is_own else self._observer.reports.get(node_id)
        of_catalog = report.groups.get(CATALOG_GROUP) if report is not None else None
        last_index = self._replicas.catalog.status().last_index
        is_removed = node_id in view.removed
        heard_at = trio.current_time() if is_own else self._observer.heard_at.get(node_id)
        return MemberStatus(
            node_id=node_id,
            name=self._names.name_of(node_id),
            address=self._address if is_own else member.address if member is not None and not is_removed else "",
            status=_status_of(view, node_id, is_connected=is_own or self._peers.is_connected(node_id)),
            role="leader" if is_own else _role_in(configuration.all_voters, configuration.learners, node_id),
            last_contact_seconds=None if heard_at is None or is_removed else trio.current_time() - heard_at,
            lag_entries=None if of_catalog is None else max(0, last_index - of_catalog.applied_index),
            groups=[] if report is None or is_removed else _roles_in_partitions(report, node_id),
        )


def _status_of(view: View, node_id: NodeId, *, is_connected: bool) -> str:
    if node_id in view.removed:
        return "removed"
    if node_id in view.leaving:
        return "draining"
    if node_id not in view.configuration.nodes:
        return "joining" if is_connected else "unknown"
    return "alive" if is_connected else "failed"


def _roles_in_partitions(report: NodeReport, node_id: NodeId) -> list[tuple[GroupId, str]]:
    return [
        (group.group_id, "leader" if group.role is Role.LEADER else _role_in(group.voters, group.learners, node_id))
        for group in report.groups.values()
        if group.group_id != CATALOG_GROUP
    ]


def _role_in(voters: frozenset[NodeId], learners: frozenset[NodeId], node_id: NodeId) -> str:
    return "voter" if node_id in voters else "learner" if node_id in learners else ""
