"""What the leader of the catalog knows of the other nodes: their latest reports, and since when each has been healthy."""

import logging
from collections.abc import Callable

import trio

from trio_eventlog.errors import EventLogError
from trio_eventlog.ids import CATALOG_GROUP, NOBODY, GroupId, NodeId, format_id
from trio_eventlog.node.introductions import Introductions
from trio_eventlog.node.membership import GroupView, MemberView, View
from trio_eventlog.node.node_reports import GroupReport, NodeReport, report_on
from trio_eventlog.node.reconciler_settings import PeerAccess, ReconcilerSettings
from trio_eventlog.node.replicas import Replicas
from trio_eventlog.raft import Role

logger = logging.getLogger(__name__)


class Observer:
    """Asks all nodes for their status, and makes the `View` that decisions are taken from.

    Attributes:
        reports: of the last round, by node; nodes that did not answer are missing.
        heard_at: when each node has last answered, by Trio's clock.
    """

    def __init__(
        self,
        node_id: NodeId,
        name: str,
        replicas: Replicas,
        peers: PeerAccess,
        introductions: Introductions,
        settings: ReconcilerSettings,
        first_voters: Callable[[], int],
    ) -> None:
        self._node_id = node_id
        self._name = name
        self._replicas = replicas
        self._peers = peers
        self._introductions = introductions
        self._settings = settings
        self._first_voters = first_voters
        self.reports: dict[NodeId, NodeReport] = {}
        self.heard_at: dict[NodeId, float] = {}
        self._healthy_since: dict[NodeId, float] = {}
        self._removed_since: dict[NodeId, float] = {}

    def reset(self) -> None:
        """This node does not lead the catalog: what it saw as leader no longer counts."""
        self._healthy_since.clear()
        self._removed_since.clear()

    def on_connected(self, node_id: NodeId) -> None:
        """Our link to the node has come up, so it was down before: the time for which it has been healthy starts again."""
        self._healthy_since.pop(node_id, None)

    async def ask_all(self, *, with_partitions: bool) -> None:
        """Ask every connected node of the catalog's configuration for its status, and note which are healthy."""
        catalog = self._replicas.catalog
        asked_index = catalog.status().last_index
        nodes = sorted(catalog.status().configuration.nodes - {self._node_id})
        reports: dict[NodeId, NodeReport] = {}

        async def ask(node_id: NodeId) -> None:
            if not self._peers.is_connected(node_id):
                return
            with trio.move_on_after(self._settings.answer_seconds_max):
                try:
                    reports[node_id] = await self._peers.ask(node_id, with_partitions)
                except EventLogError as error:
                    logger.debug("node %s did not report its status: %s", format_id(node_id), error)

        async with trio.open_nursery() as nursery:
            for node_id in nodes:
                nursery.start_soon(ask, node_id)
        now = trio.current_time()
        term = catalog.status().hard_state.term
        self.reports = reports
        for node_id, report in reports.items():
            if report.partitions_max:
                self._replicas.room.partitions_max[node_id] = report.partitions_max
        healthy_since = self._healthy_since
        self._healthy_since = {}
        for node_id, report in reports.items():
            self.heard_at[node_id] = now
            of_catalog = report.groups.get(CATALOG_GROUP)
            lag_entries_max = self._settings.membership.catch_up_entries_max
            if of_catalog is not None and of_catalog.term == term and of_catalog.applied_index >= asked_index - lag_entries_max:
                self._healthy_since[node_id] = healthy_since.get(node_id, now)
        for report in reports.values():
            self._introductions.meet(report.peers)

    def view(self, *, with_groups: bool = True) -> View:
        """All that decisions depend on, as of now and of the latest reports."""
        catalog = self._replicas.catalog
        status = catalog.status()
        machine = self._replicas.machine
        now = trio.current_time()
        known = self._peers.members()
        for node_id in machine.removed:
            self._removed_since.setdefault(node_id, now)
        return View(
            now=now,
            own=self._node_id,
            configuration=status.configuration,
            is_settled=status.applied_index == status.last_index and status.lead_transferee == NOBODY,
            first_voters=self._first_voters(),
            members={
                node_id: MemberView(
                    name=known[node_id].name if node_id in known else "",
                    is_connected=self._peers.is_connected(node_id),
                    healthy_since=self._healthy_since.get(node_id),
                    removed_since=self._removed_since.get(node_id),
                )
                for node_id in sorted({*known, *status.configuration.nodes} - {self._node_id})
            }
            | {self._node_id: MemberView(name=self._name, is_connected=True, healthy_since=now)},
            nodes=dict(machine.nodes),
            removed=frozenset(machine.removed),
            topics=tuple(machine.topics.values()),
            groups=self._group_views() if with_groups else {},
        )

    def own_report(self) -> NodeReport:
        """The report of this node on all its groups."""
        return NodeReport(groups={replica.group_id: report_on(replica) for replica in self._replicas.all()})

    def _group_views(self) -> dict[GroupId, GroupView]:
        """Each partition as its leader reports it. Left out when a follower reports a later term than any leader."""
        by_group: dict[GroupId, list[GroupReport]] = {}
        for report in (self.own_report(), *self.reports.values()):
            for group in report.groups.values():
                by_group.setdefault(group.group_id, []).append(group)
        views: dict[GroupId, GroupView] = {}
        for group_id, reports in by_group.items():
            newest = max(reports, key=lambda group: (group.term, group.role is Role.LEADER))
            if newest.role is Role.LEADER:
                views[group_id] = GroupView(voters=newest.voters, learners=newest.learners, is_joint=newest.is_joint)
        return views
