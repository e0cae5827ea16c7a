"""Carries out what `membership` decides: looks, plans, takes the steps, and looks again.

One task on every node. It does what leaders do for the groups that this node leads, and nothing for the others. Nothing is
remembered between rounds but since when others are healthy, so a round that fails half-way is no loss: the next one sees what
has become of it, on whichever node leads then.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import attrs
import trio

from trio_eventlog.errors import EventLogError, InvalidArgument, MembershipRefused, NotLeader
from trio_eventlog.ids import CATALOG_GROUP, NOBODY, GroupId, NodeId, format_id
from trio_eventlog.machine.catalog import DrainNode, Partition, RaiseFeatureLevel, RegisterNode, RemoveNode, SetReplicas, Topic
from trio_eventlog.net.discovery import Member
from trio_eventlog.node.membership import (
    AddLearner,
    Bury,
    Demote,
    Expel,
    GroupView,
    HandOver,
    MembershipSettings,
    MemberView,
    Misled,
    Promote,
    Register,
    Step,
    View,
    due_hand_over,
    leaving,
    plan,
    plan_group,
    preferred_leaders,
    refuse_drain,
    refuse_removal,
)
from trio_eventlog.node.replica import Replica
from trio_eventlog.node.replicas import Replicas
from trio_eventlog.raft import ChangeKind, Configuration, ConfigurationChange, NodeChange, Role

logger = logging.getLogger(__name__)


@attrs.frozen(slots=True, kw_only=True)
class GroupReport:
    """A group as one of its nodes sees it: what it has applied."""

    group_id: GroupId
    role: Role
    term: int
    applied_index: int
    voters: frozenset[NodeId]
    learners: frozenset[NodeId] = frozenset()
    is_joint: bool = False


@attrs.frozen(slots=True, kw_only=True)
class NodeReport:
    """What a node answers when it is asked how it is.

    Attributes:
        groups: the catalog always, the partitions when asked for.
        peers: addresses of other nodes that it knows.
        partitions_max: number of partitions that it has room for; 0: it does not say.
        feature_level: the highest that it speaks; 0: its release knows of none.
    """

    groups: Mapping[GroupId, GroupReport]
    peers: Mapping[NodeId, str] = attrs.field(factory=dict)
    partitions_max: int = 0
    feature_level: int = 0


@attrs.frozen(slots=True, kw_only=True)
class ReconcilerSettings:
    """Attributes:
    membership: of the decisions.
    reconcile_seconds: from the end of one round to the begin of the next.
    answer_seconds_max: a node that does not answer for so long is not healthy in this round.
    step_seconds_max: a step not done by then is left to the next round to look at.
    """

    membership: MembershipSettings
    reconcile_seconds: float
    answer_seconds_max: float
    step_seconds_max: float


@attrs.frozen(slots=True, kw_only=True)
class ReconcilerSurroundings:
    """What the reconciler is given of its node.

    Attributes:
        members: as discovery knows them, without ourselves.
        is_connected: our link to the node is up.
        ask: how a node is; with its partitions or only the catalog. Raises EventLogError.
        meet: dial this node at this address; it was learnt from another one.
        forget: no link to this node any more.
    """

    members: Callable[[], Mapping[NodeId, Member]]
    is_connected: Callable[[NodeId], bool]
    ask: Callable[[NodeId, bool], Awaitable[NodeReport]]
    meet: Callable[[NodeId, str], None]
    forget: Callable[[NodeId], None]


@attrs.frozen(slots=True, kw_only=True)
class _Groups:
    """What there is to know of the groups of this node that follows from the catalog, and from the role and configuration of each.

    There may be thousands, and nearly always nothing about them has changed since the last round.

    Attributes:
        state: of the catalog and the groups, when this was worked out.
        unsettled: partitions that this node leads whose members are not those wanted, with the nodes wanted, and the one that
            should lead (NOBODY: none).
        misled: the others that this node leads and another one should, with that node.
        nodes: members of any group.
        is_moving: a partition of the catalog is to move.
    """

    state: tuple[int, tuple[int, int]]
    unsettled: Sequence[tuple[Replica, Sequence[NodeId], NodeId]]
    misled: Sequence[tuple[Replica, NodeId]]
    nodes: frozenset[NodeId]
    is_moving: bool


@attrs.frozen(slots=True, kw_only=True)
class MemberStatus:
    """A node for people. `last_contact_seconds` and `lag_entries` (of the catalog) are None when not known."""

    node_id: NodeId
    name: str
    address: str
    status: str
    role: str
    last_contact_seconds: float | None
    lag_entries: int | None
    groups: Sequence[tuple[GroupId, str]]


class Reconciler:
    """Made for one node; `run` is its task.

    Args:
        first_voters: how many voters the cluster began with.
        name: of this node, for people.
    """

    def __init__(
        self,
        node_id: NodeId,
        name: str,
        address: str,
        replicas: Replicas,
        surroundings: ReconcilerSurroundings,
        settings: ReconcilerSettings,
        *,
        first_voters: Callable[[], int],
    ) -> None:
        self._node_id = node_id
        self._name = name
        self._address = address
        self._replicas = replicas
        self._surroundings = surroundings
        self._settings = settings
        self._first_voters = first_voters
        self._reports: dict[NodeId, NodeReport] = {}
        self._heard_at: dict[NodeId, float] = {}
        self._healthy_since: dict[NodeId, float] = {}
        self._removed_since: dict[NodeId, float] = {}
        self._misled: dict[GroupId, Misled] = {}
        self._preferred: dict[str, tuple[Topic, frozenset[NodeId], dict[GroupId, NodeId]]] = {}
        self._groups: _Groups | None = None
        self._balanced_at = -math.inf
        self._forgotten: set[NodeId] = set()
        self._departures = trio.Lock()

    async def run(self) -> None:
        """Round after round, until cancelled."""
        while True:
            await trio.sleep(self._settings.reconcile_seconds)
            self._forget_removed()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reconcile_catalog)
                for replica, wanted, to in self._known_groups().unsettled:
                    nursery.start_soon(self._reconcile_group, replica, wanted, to)
            await self._balance_leaders()

    def on_connected(self, node_id: NodeId) -> None:
        """Our link to the node has come up. It was away, if only between two rounds: how healthy it was before does not count."""
        self._healthy_since.pop(node_id, None)
        self._misled = {group_id: item for group_id, item in self._misled.items() if item.preferred != node_id}

    # What operators ask for

    async def drain(self, node_id: NodeId) -> None:
        """Have the node's leaderships and replicas moved off and the node removed. Returns when that is decided, not done.

        Raises:
            NotLeader: this node does not lead the catalog.
            InvalidArgument: there is no such node. MembershipRefused: not now, with the reason. OutcomeUnknown.
        """
        async with self._departures:
            view = await self._looked()
            self._check_known(view, node_id)
            node = view.nodes.get(node_id)
            if node is not None and node.is_draining:
                return
            refusal = refuse_drain(view, node_id)
            if refusal:
                raise MembershipRefused(f"node {self._called(node_id)} is not drained: {refusal}")
            await self._replicas.command(DrainNode(node_id=node_id))
            logger.info("node %s is being drained", self._called(node_id))

    async def remove(self, node_id: NodeId) -> None:
        """Remove the node for ever, at once. Raises as `drain`."""
        async with self._departures:
            view = await self._looked()
            if node_id in view.removed:
                return
            self._check_known(view, node_id)
            refusal = refuse_removal(view, node_id)
            if refusal:
                raise MembershipRefused(f"node {self._called(node_id)} is not removed: {refusal}")
            await self._replicas.command(RemoveNode(node_id=node_id))
            logger.info("node %s is removed", self._called(node_id))

    async def members(self) -> list[MemberStatus]:
        """Every node that is known or was removed. Raises NotLeader: only the leader of the catalog knows how all are."""
        catalog = self._replicas.catalog
        if not catalog.is_leader:
            raise NotLeader("only the leader of the catalog knows how all nodes are", catalog.leader_id)
        await self._ask_all(with_partitions=True)
        view = self._view()
        known = self._surroundings.members()
        ids = {self._node_id, *known, *view.configuration.nodes, *view.nodes, *view.removed}
        return [self._member_status(view, known, node_id) for node_id in sorted(ids)]

    def _member_status(self, view: View, known: Mapping[NodeId, Member], node_id: NodeId) -> MemberStatus:
        is_own = node_id == self._node_id
        member = known.get(node_id)
        named = view.nodes.get(node_id) or self._replicas.machine.removed.get(node_id)
        configuration = view.configuration
        report = self._own_report() if is_own else self._reports.get(node_id)
        of_catalog = report.groups.get(CATALOG_GROUP) if report is not None else None
        last_index = self._replicas.catalog.status().last_index
        is_removed = node_id in view.removed
        is_connected = is_own or self._surroundings.is_connected(node_id)
        if is_removed:
            status = "removed"
        elif node_id in view.leaving:
            status = "draining"
        elif node_id not in configuration.nodes:
            status = "joining" if is_connected else "unknown"
        else:
            status = "alive" if is_connected else "failed"
        heard_at = trio.current_time() if is_own else self._heard_at.get(node_id)
        return MemberStatus(
            node_id=node_id,
            name=self._name if is_own else member.name if member is not None else named.name if named is not None else "",
            address=self._address if is_own else member.address if member is not None and not is_removed else "",
            status=status,
            role="leader" if is_own else _role_in(configuration.all_voters, configuration.learners, node_id),
            last_contact_seconds=None if heard_at is None or is_removed else trio.current_time() - heard_at,
            lag_entries=None if of_catalog is None else max(0, last_index - of_catalog.applied_index),
            groups=[]
            if report is None or is_removed
            else [
                (group.group_id, "leader" if group.role is Role.LEADER else _role_in(group.voters, group.learners, node_id))
                for group in report.groups.values()
                if group.group_id != CATALOG_GROUP
            ],
        )

    async def _looked(self) -> View:
        """The view for an operator's wish: fresh, and settled enough to decide on."""
        catalog = self._replicas.catalog
        if not catalog.is_leader:
            raise NotLeader("membership is the business of the catalog's leader: go there", catalog.leader_id)
        await self._ask_all(with_partitions=True)
        return self._view()

    def _check_known(self, view: View, node_id: NodeId) -> None:
        if node_id in view.removed:
            raise InvalidArgument(f"node {self._called(node_id)} was removed already, for ever")
        if node_id not in view.configuration.nodes and node_id not in view.nodes:
            known = ", ".join(self._called(known) for known in sorted(view.configuration.nodes))
            raise InvalidArgument(f"there is no node {format_id(node_id)} in the cluster; there are {known}")

    # The catalog

    async def _reconcile_catalog(self) -> None:
        catalog = self._replicas.catalog
        if not catalog.is_leader:
            self._healthy_since.clear()
            self._removed_since.clear()
            await self._meet_missing()
            return
        is_moving = self._known_groups().is_moving
        await self._ask_all(with_partitions=is_moving)
        view = self._view(with_groups=is_moving)
        if catalog.leader_id != view.own:
            return
        await self._raise_feature_level(view)
        for step in plan(view, self._settings.membership):
            logger.info("catalog: %s", self._described(step))
            with trio.move_on_after(self._settings.step_seconds_max) as scope:
                try:
                    await self._take(catalog, step)
                except EventLogError as error:
                    logger.info("catalog: %s: not now: %s", self._described(step), error)
                    return
            if scope.cancelled_caught:
                logger.warning("catalog: %s: not done after %g s", self._described(step), self._settings.step_seconds_max)
                return

    async def _raise_feature_level(self, view: View) -> None:
        """To what every node says in this round that it speaks. One that does not answer, or knows of no levels, holds it back."""
        level = self._replicas.feature_level
        for node_id in sorted({*view.configuration.nodes, *view.nodes} - {self._node_id}):
            report = self._reports.get(node_id)
            level = min(level, report.feature_level if report is not None else 0)
        if level <= self._replicas.machine.feature_level:
            return
        with trio.move_on_after(self._settings.step_seconds_max):
            try:
                await self._replicas.command(RaiseFeatureLevel(level=level))
                logger.info("catalog: every node speaks feature level %d: the cluster does from now on", level)
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
            case Expel(node_id):
                await catalog.change_configuration(_single(ChangeKind.REMOVE, node_id))
            case HandOver(node_id):
                await catalog.transfer_leadership(node_id, self._settings.step_seconds_max)
            case Register(node_id, name):
                await self._replicas.command(RegisterNode(node_id=node_id, name=name))
            case Bury(node_id):
                await self._replicas.command(RemoveNode(node_id=node_id))
            case SetReplicas():
                await self._replicas.command(step)

    async def _ask_all(self, *, with_partitions: bool) -> None:
        """How everybody in the configuration is, and since when."""
        catalog = self._replicas.catalog
        asked_index = catalog.status().last_index
        nodes = sorted(catalog.status().configuration.nodes - {self._node_id})
        reports: dict[NodeId, NodeReport] = {}

        async def ask(node_id: NodeId) -> None:
            if not self._surroundings.is_connected(node_id):
                return
            with trio.move_on_after(self._settings.answer_seconds_max):
                try:
                    reports[node_id] = await self._surroundings.ask(node_id, with_partitions)
                except EventLogError as error:
                    logger.debug("node %s does not say how it is: %s", format_id(node_id), error)

        async with trio.open_nursery() as nursery:
            for node_id in nodes:
                nursery.start_soon(ask, node_id)
        now = trio.current_time()
        term = catalog.status().hard_state.term
        self._reports = reports
        for node_id, report in reports.items():
            if report.partitions_max:
                self._replicas.room.partitions_max[node_id] = report.partitions_max
        healthy_since = self._healthy_since
        self._healthy_since = {}
        for node_id, report in reports.items():
            self._heard_at[node_id] = now
            of_catalog = report.groups.get(CATALOG_GROUP)
            lag_entries_max = self._settings.membership.catch_up_entries_max
            if of_catalog is not None and of_catalog.term == term and of_catalog.applied_index >= asked_index - lag_entries_max:
                self._healthy_since[node_id] = healthy_since.get(node_id, now)
        for report in reports.values():
            self._meet(report.peers)

    def _view(self, *, with_groups: bool = True) -> View:
        catalog = self._replicas.catalog
        status = catalog.status()
        machine = self._replicas.machine
        now = trio.current_time()
        known = self._surroundings.members()
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
                    is_connected=self._surroundings.is_connected(node_id),
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

    def _group_views(self) -> dict[GroupId, GroupView]:
        """Each partition as its leader tells it; not when anybody has heard of a later term than the leader's."""
        by_group: dict[GroupId, list[GroupReport]] = {}
        for report in (self._own_report(), *self._reports.values()):
            for group in report.groups.values():
                by_group.setdefault(group.group_id, []).append(group)
        views: dict[GroupId, GroupView] = {}
        for group_id, reports in by_group.items():
            newest = max(reports, key=lambda group: (group.term, group.role is Role.LEADER))
            if newest.role is Role.LEADER:
                views[group_id] = GroupView(voters=newest.voters, learners=newest.learners, is_joint=newest.is_joint)
        return views

    def _own_report(self) -> NodeReport:
        return NodeReport(groups={replica.group_id: report_on(replica) for replica in self._replicas.all()})

    # Partitions

    async def _reconcile_group(self, replica: Replica, wanted: Sequence[NodeId], preferred: NodeId) -> None:
        healthy = {self._node_id, *self._healthy_followers(replica)}
        step = plan_group(self._node_id, replica.status().configuration, wanted, healthy, preferred)
        if step is None:
            return
        logger.info("%s: %s", replica.name, self._described(step))
        with trio.move_on_after(self._settings.step_seconds_max):
            try:
                if isinstance(step, HandOver):
                    await replica.transfer_leadership(step.node_id, self._settings.step_seconds_max)
                else:
                    await replica.change_configuration(step)
            except EventLogError as error:
                logger.info("%s: not now: %s", replica.name, error)

    def _healthy_followers(self, replica: Replica) -> set[NodeId]:
        lag_entries_max = self._settings.membership.catch_up_entries_max
        return {
            node_id
            for node_id, follower in replica.followers().items()
            if follower.keeps_up and follower.lag_entries <= lag_entries_max and self._surroundings.is_connected(node_id)
        }

    async def _balance_leaders(self) -> None:
        """Hand one partition over to the node that should lead it, when its turn has come."""
        now = trio.current_time()
        self._misled = {
            group_id: Misled(preferred=preferred, since=former.since if former and former.preferred == preferred else now)
            for group_id, preferred in self._find_misled()
            for former in [self._misled.get(group_id)]
        }
        group_id = due_hand_over(self._misled, now, self._balanced_at, self._settings.membership)
        replica = self._replicas.find(group_id) if group_id is not None else None
        if group_id is None or replica is None:
            return
        self._balanced_at = now
        # Should it fail, the wait begins again.
        to = self._misled.pop(group_id).preferred
        logger.info("%s: hand leadership over to %s, which should have it", replica.name, self._called(to))
        try:
            await replica.transfer_leadership(to, self._settings.step_seconds_max)
        except EventLogError as error:
            logger.info("%s: not now: %s", replica.name, error)

    def _find_misled(self) -> Iterator[tuple[GroupId, NodeId]]:
        """Partitions that this node leads and another one should, which could: it votes, is connected and has caught up."""
        for replica, to in self._known_groups().misled:
            if to in self._healthy_followers(replica):
                yield replica.group_id, to

    def _known_groups(self) -> _Groups:
        state = self._replicas.machine.applied_index, self._replicas.state_changes
        if self._groups is None or self._groups.state != state:
            self._groups = self._look_at_groups(state)
        return self._groups

    def _look_at_groups(self, state: tuple[int, tuple[int, int]]) -> _Groups:
        unsettled: list[tuple[Replica, Sequence[NodeId], NodeId]] = []
        misled: list[tuple[Replica, NodeId]] = []
        is_moving = False
        for topic in self._replicas.machine.topics.values():
            topic_is_moving = any(partition.is_moving for partition in topic.partitions)
            is_moving = is_moving or topic_is_moving
            for partition, replica in self._led(topic):
                to = self._preferred_leaders(topic).get(partition.group_id, NOBODY)
                if not _is_settled(replica.configuration, partition.wanted):
                    unsettled.append((replica, partition.wanted, to))
                elif to not in (self._node_id, NOBODY) and not topic_is_moving:
                    misled.append((replica, to))
        nodes = frozenset(node_id for replica in self._replicas.all() for node_id in replica.configuration.nodes)
        return _Groups(state=state, unsettled=unsettled, misled=misled, nodes=nodes, is_moving=is_moving)

    def _preferred_leaders(self, topic: Topic) -> dict[GroupId, NodeId]:
        """As `membership.preferred_leaders`, worked out again only when the topic, or who is leaving, has changed."""
        known = self._preferred.get(topic.name)
        leaving = self._leaving
        if known is None or known[0] is not topic or known[1] != leaving:
            topics = self._replicas.machine.topics
            self._preferred = {name: item for name, item in self._preferred.items() if name in topics}
            known = self._preferred[topic.name] = (topic, leaving, preferred_leaders(topic, leaving))
        return known[2]

    def _led(self, topic: Topic) -> list[tuple[Partition, Replica]]:
        """The topic's partitions that this node leads."""
        found = ((partition, self._replicas.find(partition.group_id)) for partition in topic.partitions)
        return [(partition, replica) for partition, replica in found if replica is not None and replica.is_leader]

    @property
    def _leaving(self) -> frozenset[NodeId]:
        machine = self._replicas.machine
        return leaving(machine.nodes.values(), machine.removed)

    # Acquaintances

    async def _meet_missing(self) -> None:
        """A peer whose address nobody has told us: another peer may know it."""
        nodes = self._known_groups().nodes
        missing = nodes - self._surroundings.members().keys() - {self._node_id}
        if not missing:
            return
        asked = self._replicas.catalog.leader_id
        if asked in (NOBODY, self._node_id) or not self._surroundings.is_connected(asked):
            # Nobody leads us: perhaps we were removed, and those that could say so are the ones that we miss.
            asked = min(nodes & self._surroundings.members().keys(), default=NOBODY)
        if asked == NOBODY:
            return
        with trio.move_on_after(self._settings.answer_seconds_max):
            try:
                self._meet((await self._surroundings.ask(asked, False)).peers)
            except EventLogError as error:
                logger.debug("node %s does not say whom it knows: %s", format_id(asked), error)

    def _meet(self, peers: Mapping[NodeId, str]) -> None:
        known = self._surroundings.members()
        for node_id, address in peers.items():
            if node_id not in known and node_id not in (self._node_id, NOBODY) and node_id not in self._replicas.machine.removed:
                self._surroundings.meet(node_id, address)

    def _forget_removed(self) -> None:
        """A removed node may still be told so on the links there are; once no group has it, they end."""
        for node_id in sorted(self._replicas.machine.removed.keys() - self._forgotten):
            if node_id not in self._known_groups().nodes:
                self._forgotten.add(node_id)
                self._surroundings.forget(node_id)

    # For people

    def _called(self, node_id: NodeId) -> str:
        member = self._surroundings.members().get(node_id)
        machine = self._replicas.machine
        named = machine.nodes.get(node_id) or machine.removed.get(node_id)
        name = self._name if node_id == self._node_id else member.name if member else named.name if named else ""
        return f"{name} ({format_id(node_id)})" if name else format_id(node_id)

    def _described(self, step: Step | ConfigurationChange) -> str:
        match step:
            case ConfigurationChange(changes=changes):
                return ", ".join(f"{change.kind.name.lower().replace('_', ' ')} {self._called(change.node)}" for change in changes)
            case SetReplicas(topic=topic, replicas=replicas, wanted=wanted):
                goes = ", ".join(map(self._called, sorted(set(replicas) - set(wanted))))
                return f"{topic}: replicas on {', '.join(map(self._called, wanted))}" + (f"; leaving {goes}" if goes else "")
        return f"{_WORDS[type(step)]} {self._called(step.node_id)}"


_WORDS: dict[type, str] = {
    AddLearner: "add as learner",
    Promote: "promote to voter",
    Demote: "demote to learner",
    Expel: "take out of the configuration",
    HandOver: "hand leadership over to",
    Register: "register",
    Bury: "remove for ever",
}


def _is_settled(configuration: Configuration, wanted: Sequence[NodeId]) -> bool:
    """The group's voters are those that the catalog wants, and it has no other members."""
    return not configuration.is_joint and not configuration.learners and configuration.voters == frozenset(wanted)


def report_on(replica: Replica) -> GroupReport:
    core = replica.core
    configuration = core.configuration
    return GroupReport(
        group_id=replica.group_id,
        role=core.role,
        term=core.term,
        applied_index=core.applied_index,
        voters=configuration.voters,
        learners=configuration.learners,
        is_joint=configuration.is_joint,
    )


def _single(kind: ChangeKind, node_id: NodeId) -> ConfigurationChange:
    return ConfigurationChange(changes=(NodeChange(kind, node_id),))


def _role_in(voters: frozenset[NodeId], learners: frozenset[NodeId], node_id: NodeId) -> str:
    return "voter" if node_id in voters else "learner" if node_id in learners else ""
