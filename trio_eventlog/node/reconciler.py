"""Carries out what `membership` decides: observes, plans, takes the steps, and observes again.

One task on every node. It does what leaders do for the groups that this node leads, and nothing for the others. Between rounds it
remembers only since when others are healthy, so nothing is lost when a round fails half-way: the next round, on the node that
leads then, starts from what has become of it.

Its parts own their state: `GroupSurvey` (which groups need attention), `Introductions` (links to nodes that others named),
`Observer` (reports and health of nodes), `LeaderBalance` (preferred leaders). `MembershipRequests` is for operators.
"""

import logging
from collections.abc import Callable, Sequence

import trio

from trio_eventlog.errors import EventLogError
from trio_eventlog.ids import NodeId
from trio_eventlog.machine.catalog import RaiseFeatureLevel, RegisterNode, RemoveNode, SetReplicas
from trio_eventlog.node.group_survey import GroupSurvey
from trio_eventlog.node.introductions import Introductions
from trio_eventlog.node.leader_balance import LeaderBalance
from trio_eventlog.node.membership import (
    AddLearner,
    AddTombstone,
    Demote,
    HandOver,
    Promote,
    Register,
    RemoveMember,
    Step,
    View,
    plan,
    plan_group,
)
from trio_eventlog.node.membership_requests import MembershipRequests
from trio_eventlog.node.node_names import NodeNames
from trio_eventlog.node.observer import Observer
from trio_eventlog.node.reconciler_settings import PeerAccess, ReconcilerSettings
from trio_eventlog.node.replica import Replica
from trio_eventlog.node.replicas import Replicas
from trio_eventlog.raft import ChangeKind, ConfigurationChange, NodeChange

logger = logging.getLogger(__name__)


class Reconciler:
    """Made for one node; `run` is its task.

    Args:
        name: of this node, for people.
        first_voters: number of voters that the cluster began with.

    Attributes:
        observer: what this node knows of the others while it leads the catalog.
        requests: what operators ask.
    """

    def __init__(
        self,
        node_id: NodeId,
        name: str,
        address: str,
        replicas: Replicas,
        peers: PeerAccess,
        settings: ReconcilerSettings,
        *,
        first_voters: Callable[[], int],
    ) -> None:
        self._node_id = node_id
        self._replicas = replicas
        self._peers = peers
        self._settings = settings
        self._survey = GroupSurvey(node_id, replicas)
        self._names = NodeNames(node_id, name, peers.members, replicas)
        self._introductions = Introductions(node_id, replicas, self._survey, peers, settings.answer_seconds_max)
        self.observer = Observer(node_id, name, replicas, peers, self._introductions, settings, first_voters)
        self.requests = MembershipRequests(node_id, address, replicas, peers, self.observer, self._names)
        self._balance = LeaderBalance(self._survey, settings, self._names, self._possible_leaders)

    async def run(self) -> None:
        """Round after round, until cancelled."""
        while True:
            await trio.sleep(self._settings.reconcile_seconds)
            self._introductions.forget_removed()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reconcile_catalog)
                for replica, wanted, preferred in self._survey.get().unsettled:
                    nursery.start_soon(self._reconcile_group, replica, wanted, preferred)
            await self._balance.hand_over_one()

    def on_connected(self, node_id: NodeId) -> None:
        """Our link to the node has come up. Even if it was down only between two rounds, its health is counted anew."""
        self.observer.on_connected(node_id)
        self._balance.on_connected(node_id)

    # The catalog

    async def _reconcile_catalog(self) -> None:
        catalog = self._replicas.catalog
        if not catalog.is_leader:
            self.observer.reset()
            await self._introductions.meet_missing()
            return
        is_moving = self._survey.get().is_moving
        await self.observer.ask_all(with_partitions=is_moving)
        view = self.observer.view(with_groups=is_moving)
        if catalog.leader_id != view.own:
            return
        await self._raise_feature_level(view)
        for step in plan(view, self._settings.membership):
            logger.info("catalog: %s", self._names.shown_step(step))
            with trio.move_on_after(self._settings.step_seconds_max) as scope:
                try:
                    await self._take(catalog, step)
                except EventLogError as error:
                    logger.info("catalog: %s: not now: %s", self._names.shown_step(step), error)
                    return
            if scope.cancelled_caught:
                seconds = self._settings.step_seconds_max
                logger.warning("catalog: %s: not done after %g s", self._names.shown_step(step), seconds)
                return

    async def _raise_feature_level(self, view: View) -> None:
        """Raise it to the lowest level that any node supports. A node without a report in this round counts as level 0."""
        level = self._replicas.feature_level
        for node_id in sorted({*view.configuration.nodes, *view.nodes} - {self._node_id}):
            report = self.observer.reports.get(node_id)
            level = min(level, report.feature_level if report is not None else 0)
        if level <= self._replicas.machine.feature_level:
            return
        with trio.move_on_after(self._settings.step_seconds_max):
            try:
                await self._replicas.command(RaiseFeatureLevel(level=level))
                logger.info("catalog: every node supports feature level %d, which is used from now on", level)
            except EventLogError as error:
                logger.info("catalog: feature level %d: not now: %s", level, error)

    async def _take(self, catalog: Replica, step: Step) -> None:
        match step:
            case AddLearner(node_id):
                await catalog.change_configuration(_single(ChangeKind.ADD_LEARNER, node_id))
            case Promote(node_id):
                await catalog.change_configuration(_single(ChangeKind.ADD_VOTER, node_id))
            case Demote(node_id):
                await catalog.change_configuration(_single(ChangeKind.ADD_LEARNER, node_id))
            case RemoveMember(node_id):
                await catalog.change_configuration(_single(ChangeKind.REMOVE, node_id))
            case HandOver(node_id):
                await catalog.transfer_leadership(node_id, self._settings.step_seconds_max)
            case Register(node_id, name):
                await self._replicas.command(RegisterNode(node_id=node_id, name=name))
            case AddTombstone(node_id):
                await self._replicas.command(RemoveNode(node_id=node_id))
            case SetReplicas():
                await self._replicas.command(step)

    # Partitions

    async def _reconcile_group(self, replica: Replica, wanted: Sequence[NodeId], preferred: NodeId) -> None:
        healthy = {self._node_id, *self._healthy_followers(replica)}
        step = plan_group(self._node_id, replica.status().configuration, wanted, healthy, preferred)
        if step is None:
            return
        logger.info("%s: %s", replica.name, self._names.shown_step(step))
        with trio.move_on_after(self._settings.step_seconds_max):
            try:
                if isinstance(step, HandOver):
                    await replica.transfer_leadership(step.node_id, self._settings.step_seconds_max)
                else:
                    await replica.change_configuration(step)
            except EventLogError as error:
                logger.info("%s: not now: %s", replica.name, error)

    def _possible_leaders(self, replica: Replica) -> set[NodeId]:
        """Healthy followers that would not hand the group back for lack of room."""
        return self._healthy_followers(replica) - frozenset(self._replicas.space.short_peers())

    def _healthy_followers(self, replica: Replica) -> set[NodeId]:
        """Followers that are connected and have caught up."""
        lag_entries_max = self._settings.membership.catch_up_entries_max
        return {
            node_id
            for node_id, follower in replica.followers().items()
            if follower.keeps_up and follower.lag_entries <= lag_entries_max and self._peers.is_connected(node_id)
        }


def _single(kind: ChangeKind, node_id: NodeId) -> ConfigurationChange:
    return ConfigurationChange(changes=(NodeChange(kind, node_id),))
