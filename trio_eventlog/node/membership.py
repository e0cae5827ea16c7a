"""Decisions about membership, as pure functions of what a leader observes.

There are two, each taken on a leader, from the state applied there and nothing else. If a decision is lost half-way, the next
leader takes it again:

- `plan`, for the leader of the catalog: which nodes become learners or voters of the catalog, which nodes leave, and where
  partitions are placed;
- `plan_group`, for the leader of a partition: the next change of its group towards the replicas that the catalog wants.

Both follow three rules (docs/design/membership.md):

- one change at a time, never while an earlier one is unapplied;
- no node is removed because it is silent. Only an operator removes a node, by name;
- no change leaves a group without a majority of healthy voters, neither of the voters before it nor of those after it.
"""

from collections.abc import Collection, Container, Iterable, Mapping, Sequence

import attrs

from trio_eventlog.errors import SettingsError
from trio_eventlog.ids import NOBODY, GroupId, NodeId, format_id
from trio_eventlog.machine.catalog import CatalogNode, SetReplicas, Topic
from trio_eventlog.machine.placement import place, spread_leaders
from trio_eventlog.raft import ChangeKind, Configuration, ConfigurationChange, NodeChange, Transition


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class MembershipSettings:
    """What the decisions go by.

    Attributes:
        voters_wanted: number of voters of the catalog up to which learners are promoted. Odd: an even number tolerates no more
            failures than the odd one below it. Never below the number that the cluster began with. Each voter more adds an
            answer that every change of the catalog may wait for.
        stabilisation_seconds: seconds for which a node has to be healthy without a break before it becomes a voter, carries
            partitions, or gets leaderships back. Small values move data and votes to nodes that keep failing; large ones delay
            the use of a new node.
        catch_up_entries_max: number of entries that a node may be behind the leader's log and still counts as caught up. Too
            small, and a busy group never sees a follower as caught up; too large, and a new voter delays commits.
        replica_moves_max: number of partitions whose replicas move at the same time. Each move copies the partition's data.
        nodes_max: number of nodes in the catalog's configuration; a further node is not added.
        farewell_seconds: seconds for which the catalog's leader keeps sending to a removed node that is still connected, so that
            the node learns of its removal and ends. If it is too small, the node ends only when other nodes refuse its links.
        leader_balance_seconds: interval between two transfers of leadership from this node to a partition's preferred leader.
            0 disables them. Small values interrupt many partitions for a moment each in short succession.
    """

    voters_wanted: int
    stabilisation_seconds: float
    catch_up_entries_max: int
    replica_moves_max: int
    nodes_max: int
    farewell_seconds: float
    leader_balance_seconds: float

    def __attrs_post_init__(self) -> None:
        if self.voters_wanted < 1 or not self.voters_wanted % 2:
            raise SettingsError(f"voters_wanted is {self.voters_wanted}; it has to be odd: 1, 3, 5, ...")


@attrs.frozen(slots=True, kw_only=True)
class MemberView:
    """A node as the catalog's leader sees it.

    Attributes:
        name: for people.
        is_connected: the link to it is up, so it has proved its id, and that it belongs to this cluster or to none yet.
        healthy_since: since when, without a break, it has answered in the leader's term and close to the end of the leader's
            log; None: it is not healthy now. Always None for a node outside the configuration.
        removed_since: when this leader first saw the node's tombstone; None without one.
    """

    name: str = ""
    is_connected: bool = False
    healthy_since: float | None = None
    removed_since: float | None = None


@attrs.frozen(slots=True, kw_only=True)
class GroupView:
    """A partition's group as its leader reports it: the configuration that the leader has applied."""

    voters: frozenset[NodeId]
    learners: frozenset[NodeId] = frozenset()
    is_joint: bool = False


@attrs.frozen(slots=True, kw_only=True)
class View:
    """All that a decision may depend on.

    Attributes:
        now: seconds, of the clock of `MemberView`.
        own: the leader of the catalog.
        configuration: of the catalog.
        is_settled: everything in the catalog's log is applied, and no transfer of leadership is in progress.
        first_voters: number of voters that the cluster began with.
        members: all nodes known to discovery or to the configuration, this one included.
        nodes, removed, topics: of the catalog.
        groups: partitions, as far as their leaders reported them.
    """

    now: float
    own: NodeId
    configuration: Configuration
    is_settled: bool = True
    first_voters: int = 1
    members: Mapping[NodeId, MemberView] = attrs.field(factory=dict)
    nodes: Mapping[NodeId, CatalogNode] = attrs.field(factory=dict)
    removed: Collection[NodeId] = ()
    topics: Sequence[Topic] = ()
    groups: Mapping[GroupId, GroupView] = attrs.field(factory=dict)

    @property
    def leaving(self) -> frozenset[NodeId]:
        return leaving(self.nodes.values(), self.removed)

    def is_healthy(self, node_id: NodeId) -> bool:
        member = self.members.get(node_id)
        return node_id == self.own or (member is not None and member.healthy_since is not None)

    def healthy(self, nodes: Iterable[NodeId]) -> int:
        """The number of healthy nodes among them."""
        return sum(map(self.is_healthy, nodes))


def leaving(nodes: Iterable[CatalogNode], removed: Iterable[NodeId]) -> frozenset[NodeId]:
    """Nodes that are being drained, or that have a tombstone."""
    return frozenset(node.node_id for node in nodes if node.is_draining) | frozenset(removed)


@attrs.frozen(slots=True)
class AddLearner:
    """Add the node to the catalog's configuration as a learner."""

    node_id: NodeId


@attrs.frozen(slots=True)
class Promote:
    """Make a learner of the catalog a voter."""

    node_id: NodeId


@attrs.frozen(slots=True)
class Demote:
    """Make a voter that is being drained a learner: as one it still receives the catalog's entries, its tombstone among them."""

    node_id: NodeId


@attrs.frozen(slots=True)
class RemoveMember:
    """Take a node that has a tombstone out of the catalog's configuration."""

    node_id: NodeId


@attrs.frozen(slots=True)
class HandOver:
    """Transfer leadership to the node."""

    node_id: NodeId


@attrs.frozen(slots=True)
class Register:
    """Register the node in the catalog, with its name: from then on it may carry partitions."""

    node_id: NodeId
    name: str


@attrs.frozen(slots=True)
class AddTombstone:
    """Give a drained node its tombstone: it is removed for ever."""

    node_id: NodeId


CatalogChange = AddLearner | Promote | Demote | RemoveMember | HandOver
Step = CatalogChange | Register | AddTombstone | SetReplicas


def quorum(voters: Collection[NodeId]) -> int:
    """The size of a majority of them."""
    return len(voters) // 2 + 1


def plan(view: View, settings: MembershipSettings) -> list[Step]:
    """What the catalog's leader should do now: commands to the catalog, and at most one `CatalogChange`, which comes last.

    Empty while a change is in progress: the next view may look different.
    """
    if not view.is_settled or view.configuration.is_joint:
        return []
    promotion = _promotion(view, settings)
    moves = _moves(view, settings, voters_are_settled=promotion is None)
    steps: list[Step] = [*_registrations(view, settings), *moves, *_tombstones(view)]
    change = _departure(view, settings) or promotion or _arrival(view, settings)
    return [*steps, change] if change is not None else steps


def is_stable(view: View, node_id: NodeId, settings: MembershipSettings) -> bool:
    """Whether the node has been healthy for `stabilisation_seconds` without a break."""
    since = view.members[node_id].healthy_since if node_id in view.members else None
    return since is not None and view.now - since >= settings.stabilisation_seconds


def _registrations(view: View, settings: MembershipSettings) -> list[Step]:
    steps: list[Step] = []
    for node_id in sorted(view.configuration.nodes - frozenset(view.removed)):
        member = view.members.get(node_id)
        if member is None or not member.is_connected:
            continue
        known = view.nodes.get(node_id)
        has_proved = node_id in view.configuration.voters or is_stable(view, node_id, settings)
        if (known is not None and known.name != member.name) or (known is None and has_proved):
            steps.append(Register(node_id, member.name))
    return steps


def _moves(view: View, settings: MembershipSettings, *, voters_are_settled: bool) -> list[Step]:
    """Moves of replicas to the nodes that `place` chooses, at most `replica_moves_max` partitions at a time.

    Topics whose replicas follow the voters wait while a learner is about to be promoted. Otherwise they would move twice, and if
    the new voter replaces a drained one, they would have one replica less in between.
    """
    voters = view.configuration.voters - view.leaving
    carriers = (voters | (view.nodes.keys() & view.configuration.learners)) - view.leaving
    steps: list[Step] = []
    moving = sum(partition.is_moving for topic in view.topics for partition in topic.partitions)
    for topic in view.topics:
        for partition in topic.partitions:
            if topic.replica_count:
                wanted = place(partition.group_id, carriers, topic.replica_count)
            else:
                wanted = place(partition.group_id, voters, 0) if voters_are_settled else partition.wanted
            replicas = partition.replicas
            if not wanted:
                continue
            if wanted != partition.wanted:
                # A partition that is moving already gets its new destination at once; others wait for a free place.
                if not partition.is_moving:
                    if moving >= settings.replica_moves_max:
                        continue
                    moving += 1
                replicas = tuple(sorted({*replicas, *wanted}))
            elif partition.is_moving and _has_arrived(view.groups.get(partition.group_id), wanted):
                replicas = wanted
            else:
                continue
            steps.append(SetReplicas(topic=topic.name, group_id=partition.group_id, replicas=replicas, wanted=wanted))
    return steps


def _has_arrived(group: GroupView | None, wanted: Collection[NodeId]) -> bool:
    return group is not None and not group.is_joint and group.voters == frozenset(wanted) and not group.learners


def carries_partitions(node_id: NodeId, topics: Iterable[Topic]) -> bool:
    """Whether the node still has, or may have, a replica of any partition."""
    return any(node_id in partition.replicas for topic in topics for partition in topic.partitions)


def _tombstones(view: View) -> list[Step]:
    """Tombstones for drained nodes that carry no partition and have no vote any more."""
    return [
        AddTombstone(node.node_id)
        for node in sorted(view.nodes.values(), key=lambda node: node.node_id)
        if node.is_draining and node.node_id not in view.configuration.voters and not carries_partitions(node.node_id, view.topics)
    ]


def _departure(view: View, settings: MembershipSettings) -> CatalogChange | None:
    voters = view.configuration.voters
    if view.own in view.leaving:
        # This node leaves, so another one has to lead the change.
        to = min((node_id for node_id in voters - view.leaving if view.is_healthy(node_id)), default=None)
        return HandOver(to) if to is not None else None
    for node_id in sorted(view.leaving & view.configuration.nodes):
        rest = voters - {node_id}
        if node_id in voters and view.healthy(rest) < quorum(rest):
            continue
        if node_id in view.removed:
            if _has_gone(view, node_id, settings):
                return RemoveMember(node_id)
        elif node_id in voters and not carries_partitions(node_id, view.topics):
            return Demote(node_id)
    return None


def _has_gone(view: View, node_id: NodeId, settings: MembershipSettings) -> bool:
    """Whether the removed node is disconnected (it ends once it knows of its removal), or has had `farewell_seconds` for that."""
    member = view.members.get(node_id)
    if member is None or not member.is_connected:
        return True
    return member.removed_since is not None and view.now - member.removed_since >= settings.farewell_seconds


def _promotion(view: View, settings: MembershipSettings) -> CatalogChange | None:
    voters = view.configuration.voters
    staying = voters - view.leaving
    ready = [node_id for node_id in sorted(view.configuration.learners - view.leaving) if is_stable(view, node_id, settings)]
    possible = len(staying) + len(ready)
    goal = min(max(settings.voters_wanted, view.first_voters), possible - 1 + possible % 2)
    if len(staying) >= goal:
        return None
    after = voters | {ready[0]}
    return Promote(ready[0]) if view.healthy(after) >= quorum(after) else None


def _arrival(view: View, settings: MembershipSettings) -> CatalogChange | None:
    if len(view.configuration.nodes) >= settings.nodes_max:
        return None
    for node_id in sorted(view.members.keys() - view.configuration.nodes - view.leaving):
        if view.members[node_id].is_connected:
            return AddLearner(node_id)
    return None


def refuse_drain(view: View, node_id: NodeId) -> str:
    """Why the node cannot be drained now, or ""."""
    refusal = _refuse_departure(view, node_id)
    if refusal:
        return refusal
    rest = view.configuration.voters - view.leaving - {node_id}
    if node_id in view.configuration.voters and view.healthy(rest) < quorum(rest):
        return (
            f"without it {view.healthy(rest)} of {len(rest)} voters of the catalog would be healthy, {quorum(rest)} are"
            " needed: bring the others back, or let a new node join first"
        )
    return ""


def refuse_removal(view: View, node_id: NodeId) -> str:
    """Why the node cannot be removed at once, or "". Every group that it votes in has to go on without it."""
    refusal = _refuse_departure(view, node_id)
    if refusal:
        return refusal
    groups = {"the catalog": view.configuration.voters}
    for topic in view.topics:
        for number, partition in enumerate(topic.partitions):
            group = view.groups.get(partition.group_id)
            moves_there = partition.is_moving and node_id in partition.wanted and view.is_healthy(node_id)
            if moves_there or (group is not None and group.is_joint):
                # Its leader may be about to make the node a voter, or counts two sets of voters: the check below could be
                # wrong by the time of the removal.
                return f"the replicas of {topic.name}/{number} are moving: try again when they have arrived, or drain it"
            if group is not None:
                groups[f"{topic.name}/{number}"] = group.voters
            elif node_id in partition.replicas:
                return f"no leader of {topic.name}/{number} answers: it could be the last node that has its records"
    for name, voters in groups.items():
        healthy = view.healthy(voters - {node_id})
        if node_id in voters and healthy < quorum(voters):
            return (
                f"{name} has {len(voters)} voters, of which {healthy} would be healthy without it, and {quorum(voters)} are"
                " needed to go on: bring the others back, or drain it (`node drain`) while it is alive"
            )
    return ""


def _refuse_departure(view: View, node_id: NodeId) -> str:
    others = sorted((view.leaving & (view.configuration.nodes | _carriers(view.topics))) - {node_id})
    if others:
        return f"one at a time: node {format_id(others[0])} is still leaving"
    return ""


def _carriers(topics: Iterable[Topic]) -> frozenset[NodeId]:
    return frozenset(node_id for topic in topics for partition in topic.partitions for node_id in partition.replicas)


# The partitions.


def plan_group(
    own: NodeId,
    configuration: Configuration,
    wanted: Collection[NodeId],
    healthy: Collection[NodeId],
    preferred: NodeId = NOBODY,
) -> ConfigurationChange | HandOver | None:
    """The next step of a partition's leader towards `wanted` as the group's only voters; None: it is there, or has to wait.

    New nodes are learners first. When all of them have caught up, one joint change makes them voters and removes the others.
    While some have not, those that have replace voters that are to leave and do not answer: a node that is waited for may never
    come, and until then the group would be short of voters. A leader that is not wanted stays a voter until it has transferred
    leadership, so that no election timeout has to pass.

    Args:
        healthy: nodes that are connected and have caught up, `own` among them.
        preferred: the node that should lead. It gets leadership if this node has to give it up.
    """
    target = frozenset(wanted)
    if configuration.is_joint or not target:
        return None
    voters, learners = configuration.voters, configuration.learners
    superfluous = learners - target
    if superfluous:
        return ConfigurationChange(changes=(NodeChange(ChangeKind.REMOVE, min(superfluous)),))
    new = target - configuration.nodes
    if new:
        return ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_LEARNER, min(new)),))
    if not learners <= frozenset(healthy):
        target = _with_substitutes(configuration, target, frozenset(healthy))
    elif own not in target:
        if voters == target | {own}:
            heirs = target & frozenset(healthy)
            return HandOver(preferred if preferred in heirs else min(heirs)) if heirs else None
        target |= {own}
    if voters == target or not all(_has_majority(half, healthy) for half in (voters, target)):
        return None
    changes = (
        *(NodeChange(ChangeKind.ADD_VOTER, node_id) for node_id in sorted(target - voters)),
        *(NodeChange(ChangeKind.REMOVE, node_id) for node_id in sorted(voters - target)),
    )
    return ConfigurationChange(changes=changes, transition=Transition.JOINT_IMPLICIT if len(changes) > 1 else Transition.AUTO)


def _with_substitutes(configuration: Configuration, target: frozenset[NodeId], healthy: frozenset[NodeId]) -> frozenset[NodeId]:
    """The voters, with learners that have caught up in the places of voters that do not answer and are not wanted."""
    voters = configuration.voters
    pairs = list(zip(sorted(configuration.learners & healthy), sorted(voters - target - healthy), strict=False))
    return voters - {lost for _, lost in pairs} | {substitute for substitute, _ in pairs}


def _has_majority(voters: frozenset[NodeId], healthy: Collection[NodeId]) -> bool:
    return len(voters & frozenset(healthy)) >= quorum(voters)


# Who leads the partitions.


@attrs.frozen(slots=True, kw_only=True)
class MisplacedLeader:
    """A partition that this node leads although another node, which is able to take over, is its preferred leader.

    Attributes:
        preferred: the preferred leader.
        since: since when that has been so without a break, by the clock of `due_hand_over`.
    """

    preferred: NodeId
    since: float


def preferred_leaders(topic: Topic, leaving: Container[NodeId]) -> dict[GroupId, NodeId]:
    """The preferred leader of each partition of the topic: one of the nodes that should carry it and are not leaving.

    It depends on the topic's entry in the catalog and on `leaving` alone. So all nodes get the same result, and it does not change
    when leaders change, when nodes fail or return, or with other topics.
    """
    return spread_leaders(
        (partition.group_id, [node_id for node_id in partition.wanted if node_id not in leaving]) for partition in topic.partitions
    )


def due_hand_over(
    misplaced: Mapping[GroupId, MisplacedLeader], now: float, balanced_at: float, settings: MembershipSettings
) -> GroupId | None:
    """The partition whose leadership this node should transfer now, or None.

    It is the one that has waited longest, at least `stabilisation_seconds`, unless the last transfer was less than
    `leader_balance_seconds` ago.

    Args:
        balanced_at: time of the last transfer or attempt.
    """
    if not settings.leader_balance_seconds or now - balanced_at < settings.leader_balance_seconds:
        return None
    due = [(item.since, group_id) for group_id, item in misplaced.items() if now - item.since >= settings.stabilisation_seconds]
    return min(due)[1] if due else None
