"""The decisions about membership: tables for each rule, and simulated clusters in which everything goes wrong in turn."""

import random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.errors import SettingsError
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.machine.catalog import (
    CatalogMachine,
    CatalogNode,
    CreateTopic,
    DrainNode,
    Partition,
    RegisterNode,
    RemoveNode,
    SetReplicas,
    Topic,
)
from trio_eventlog.node.membership import (
    AddLearner,
    AddTombstone,
    Demote,
    GroupView,
    HandOver,
    MembershipSettings,
    MemberView,
    Promote,
    Register,
    RemoveMember,
    View,
    plan,
    plan_group,
    quorum,
    refuse_drain,
    refuse_removal,
)
from trio_eventlog.raft import (
    ChangeKind,
    Configuration,
    ConfigurationChange,
    NodeChange,
    Transition,
    change_configuration,
)
from trio_eventlog.testing.defaults import default

SETTINGS = default(MembershipSettings)
NOW = 1000.0


def ids(*numbers: int) -> frozenset[NodeId]:
    return frozenset(map(NodeId, numbers))


def seen(node_id: int, *, healthy_for: float | None = 100.0, is_connected: bool = True) -> MemberView:
    return MemberView(
        name=f"n{node_id}", is_connected=is_connected, healthy_since=None if healthy_for is None else NOW - healthy_for
    )


def view(
    voters: tuple[int, ...] = (1, 2, 3),
    learners: tuple[int, ...] = (),
    *,
    outside: tuple[int, ...] = (),
    silent: tuple[int, ...] = (),
    young: tuple[int, ...] = (),
    draining: tuple[int, ...] = (),
    removed: tuple[int, ...] = (),
    own: int = 1,
    **fields: object,
) -> View:
    """Everybody registered, healthy for long enough and connected, unless said otherwise. Node 1 leads."""
    members = {
        NodeId(node_id): seen(
            node_id,
            healthy_for=None if node_id in (*silent, *outside) else 5.0 if node_id in young else 100.0,
            is_connected=node_id not in silent,
        )
        for node_id in (*voters, *learners, *outside)
    }
    values: dict[str, object] = {
        "now": NOW,
        "own": NodeId(own),
        "configuration": Configuration(voters=ids(*voters), learners=ids(*learners)),
        "first_voters": 3,
        "members": members,
        "nodes": {
            NodeId(node_id): CatalogNode(node_id=NodeId(node_id), name=f"n{node_id}", is_draining=node_id in draining)
            for node_id in (*voters, *learners)
            if node_id not in young and node_id not in removed
        },
        "removed": ids(*removed),
    }
    return View(**(values | fields))  # type: ignore[arg-type]


def topic(*replicas: int, wanted: tuple[int, ...] = (), replica_count: int = 0) -> Topic:
    placed = tuple(map(NodeId, replicas))
    return Topic(
        name="t",
        replica_count=replica_count,
        retention_bytes=0,
        retention_seconds=0,
        partitions=(
            Partition(group_id=GroupId(1), first_voters=placed, replicas=placed, wanted=tuple(map(NodeId, wanted)) or placed),
        ),
    )


def moves(replicas: tuple[int, ...], wanted: tuple[int, ...]) -> SetReplicas:
    return SetReplicas(topic="t", group_id=GroupId(1), replicas=tuple(map(NodeId, replicas)), wanted=tuple(map(NodeId, wanted)))


TABLE = {
    "nothing to do": (view(), []),
    "who shows itself becomes a learner, one at a time": (view(outside=(4, 5)), [AddLearner(NodeId(4))]),
    "who is only heard of does not": (
        view(members={NodeId(4): seen(4, is_connected=False)} | dict(view().members)),
        [],
    ),
    "nothing while a change is unapplied": (view(outside=(4,), is_settled=False), []),
    "nothing while joint": (
        view(outside=(4,), configuration=Configuration(voters=ids(1, 2, 3), voters_outgoing=ids(1, 2))),
        [],
    ),
    "one learner more would make an even number of voters": (view(learners=(4,)), []),
    "two make five": (view(learners=(4, 5)), [Promote(NodeId(4))]),
    "the second of them": (view((1, 2, 3, 4), (5,)), [Promote(NodeId(5))]),
    "not beyond the wanted number": (view((1, 2, 3, 4, 5), (6, 7)), []),
    "never below the size the cluster began with": (
        view((1, 2, 3, 4, 5), (6, 7), first_voters=7),
        [Promote(NodeId(6))],
    ),
    "not before it was healthy for long enough": (view(learners=(4, 5), young=(5,)), []),
    "a voter lost for good is replaced once it is removed": (view((1, 2), (4,)), [Promote(NodeId(4))]),
    "not while it is only silent": (view(learners=(4,), silent=(3,)), []),
    "stable learners are registered": (
        view(learners=(4,), nodes=view().nodes),
        [Register(NodeId(4), "n4")],
    ),
    "young ones are not": (view(learners=(4,), young=(4,)), []),
    "a new name is told": (
        view(nodes=dict(view().nodes) | {NodeId(2): CatalogNode(node_id=NodeId(2), name="old")}),
        [Register(NodeId(2), "n2")],
    ),
    "silence removes nobody": (view(silent=(2, 3)), []),
    "a drained voter becomes a learner": (view(draining=(3,)), [Demote(NodeId(3))]),
    "not while it carries a partition": (
        view(draining=(3,), topics=(topic(1, 2, 3, wanted=(1, 2)),)),
        [],
    ),
    "not when the rest would have no healthy majority": (view(draining=(3,), silent=(2,)), []),
    "a drained leader hands over at once": (view(draining=(1,)), [HandOver(NodeId(2))]),
    "to a healthy one": (view(draining=(1,), silent=(2,)), [HandOver(NodeId(3))]),
    "a drained node without vote and replicas is removed": (view((1, 2), (3,), draining=(3,)), [AddTombstone(NodeId(3))]),
    "a removed one leaves the configuration once it is gone": (
        view((1, 2), (3,), removed=(3,), silent=(3,)),
        [RemoveMember(NodeId(3))],
    ),
    "it is given time to hear of it": (
        view((1, 2), (3,), removed=(3,), members={NodeId(2): seen(2), NodeId(3): attrs.evolve(seen(3), removed_since=NOW - 9)}),
        [],
    ),
    "but not for ever": (
        view((1, 2), (3,), removed=(3,), members={NodeId(2): seen(2), NodeId(3): attrs.evolve(seen(3), removed_since=NOW - 10)}),
        [RemoveMember(NodeId(3))],
    ),
    "a removed voter leaves as well": (view(removed=(3,), silent=(3,)), [RemoveMember(NodeId(3))]),
    "a removed node is never taken in again": (view(outside=(4,), removed=(4,)), []),
    "a topic of every voter follows the voters": (
        view((1, 2, 3), topics=(topic(1, 2),)),
        [moves((1, 2, 3), (1, 2, 3))],
    ),
    "a drained node's replicas are no longer wanted": (
        view(draining=(3,), topics=(topic(1, 2, 3),)),
        [moves((1, 2, 3), (1, 2))],
    ),
    "but a node that is about to be promoted takes its place at once": (
        view(learners=(4,), draining=(3,), topics=(topic(1, 2, 3),)),
        [Promote(NodeId(4))],
    ),
    "in one move": (
        view((1, 2, 3, 4), draining=(3,), topics=(topic(1, 2, 3),)),
        [moves((1, 2, 3, 4), (1, 2, 4))],
    ),
    "with a number of their own they need not wait": (
        view(learners=(4,), draining=(3,), topics=(topic(3, replica_count=1),)),
        [moves((2, 3), (2,)), Promote(NodeId(4))],
    ),
    "what has arrived is settled": (
        view(topics=(topic(1, 2, 3, 4, wanted=(1, 2, 3)),), groups={GroupId(1): GroupView(voters=ids(1, 2, 3))}),
        [moves((1, 2, 3), (1, 2, 3))],
    ),
    "what is joint has not arrived": (
        view(
            topics=(topic(1, 2, 3, 4, wanted=(1, 2, 3)),),
            groups={GroupId(1): GroupView(voters=ids(1, 2, 3), is_joint=True)},
        ),
        [],
    ),
    "nor has what nobody tells": (view(topics=(topic(1, 2, 3, 4, wanted=(1, 2, 3)),)), []),
    "a move takes a new direction at once": (
        view(draining=(3,), topics=(topic(1, 2, 3, 4, wanted=(2, 3)),)),
        [moves((1, 2, 3, 4), (1, 2))],
    ),
    "fewer replicas may live on learners, but not on young ones": (
        view((1,), (4, 5), young=(4, 5), first_voters=1, topics=(topic(1, replica_count=3),)),
        [],
    ),
    "once registered, they do": (
        view((1,), (4,), first_voters=1, topics=(topic(1, replica_count=3),)),
        [moves((1, 4), (1, 4))],
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_table(case: str) -> None:
    """Each rule alone."""
    situation, steps = TABLE[case]
    assert plan(situation, SETTINGS) == steps


def test_partitions_move_a_few_at_a_time() -> None:
    """At the limit the next one waits."""
    many = attrs.evolve(
        topic(1, 2, 3),
        partitions=tuple(
            Partition(group_id=GroupId(number), first_voters=(NodeId(1),), replicas=(NodeId(1),), wanted=(NodeId(1),))
            for number in range(1, 20)
        ),
    )
    assert len(plan(view(topics=(many,)), SETTINGS)) == SETTINGS.replica_moves_max
    one_under_way = attrs.evolve(many.partitions[0], replicas=tuple(sorted(ids(1, 2, 3))), wanted=tuple(sorted(ids(1, 2, 3))))
    moving = attrs.evolve(one_under_way, replicas=tuple(sorted(ids(1, 2, 3, 4))))
    situation = view(topics=(attrs.evolve(many, partitions=(moving, *many.partitions[1:])),))
    assert len(plan(situation, SETTINGS)) == SETTINGS.replica_moves_max - 1


def test_no_more_members_than_the_limit() -> None:
    """At the limit nobody is taken in any more."""
    settings = default(MembershipSettings, nodes_max=4)
    assert plan(view(outside=(4,)), settings) == [AddLearner(NodeId(4))]
    assert plan(view(learners=(4,), outside=(5,)), settings) == []


@pytest.mark.parametrize("voters_wanted", [0, 2, 4, -1])
def test_an_even_number_of_voters_is_refused(voters_wanted: int) -> None:
    """It would tolerate no more failures than one less, and need one more answer for everything."""
    with pytest.raises(SettingsError, match="odd"):
        default(MembershipSettings, voters_wanted=voters_wanted)


REFUSALS = {
    "any of three healthy ones may go": (view(), 3, "", ""),
    "with one silent, no other may": (view(silent=(2,)), 3, "healthy", "healthy"),
    "the silent one may": (view(silent=(2,)), 2, "", ""),
    "a learner always may": (view(learners=(4,), silent=(2,)), 4, "", ""),
    "one at a time": (view(draining=(2,)), 3, "one at a time", "one at a time"),
    "the same again": (view(draining=(3,)), 3, "", ""),
    "one that is still carried is still on its way": (
        view((1, 3), removed=(2,), topics=(topic(1, 2, 3),), groups={GroupId(1): GroupView(voters=ids(1, 2, 3))}),
        3,
        "one at a time",
        "one at a time",
    ),
    "the last voter stays": (view((1,), first_voters=1), 1, "needed", "needed"),
    "one of two may be drained, not removed": (view((1, 2)), 2, "", "drain it"),
    "the only replica is not thrown away": (
        view(topics=(topic(3),), groups={GroupId(1): GroupView(voters=ids(3))}),
        3,
        "",
        "drain it",
    ),
    "a partition that nobody speaks for stays": (view(topics=(topic(1, 2, 3),)), 3, "", "no leader"),
    "a leader may be about to count on a node that replicas move to": (
        view(topics=(topic(1, 2, 3, wanted=(1, 3)),), groups={GroupId(1): GroupView(voters=ids(1, 2))}),
        3,
        "",
        "are moving",
    ),
    "on a silent one nobody counts": (
        view(silent=(3,), topics=(topic(1, 2, 3, wanted=(1, 3)),), groups={GroupId(1): GroupView(voters=ids(1, 2))}),
        3,
        "",
        "",
    ),
    "two sets of voters decide just now": (
        view(topics=(topic(1, 2, 3),), groups={GroupId(1): GroupView(voters=ids(1, 2), is_joint=True)}),
        3,
        "",
        "are moving",
    ),
    "other partitions do not matter": (view(topics=(topic(1, 2),)), 3, "", ""),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str) -> None:
    """What an operator may not do, and is told why."""
    situation, node_id, drain_text, removal_text = REFUSALS[case]
    for text, refusal in (
        (drain_text, refuse_drain(situation, NodeId(node_id))),
        (removal_text, refuse_removal(situation, NodeId(node_id))),
    ):
        assert text in refusal
        assert bool(text) == bool(refusal), refusal


# One partition.


def test_a_replica_moves_in_three_changes() -> None:
    """1 2 3 becomes 1 2 4: a learner, caught up, one joint change."""
    wanted = ids(1, 2, 4)
    first = plan_group(NodeId(1), Configuration(voters=ids(1, 2, 3)), wanted, ids(1, 2, 3))
    assert first == ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_LEARNER, NodeId(4)),))
    learning = Configuration(voters=ids(1, 2, 3), learners=ids(4))
    assert plan_group(NodeId(1), learning, wanted, ids(1, 2, 3)) is None, "it has not caught up"
    assert plan_group(NodeId(1), learning, wanted, ids(1, 2, 3, 4)) == ConfigurationChange(
        changes=(NodeChange(ChangeKind.ADD_VOTER, NodeId(4)), NodeChange(ChangeKind.REMOVE, NodeId(3))),
        transition=Transition.JOINT_IMPLICIT,
    )
    assert plan_group(NodeId(1), Configuration(voters=wanted), wanted, wanted) is None


def test_who_has_come_takes_the_place_of_who_is_gone_while_others_are_waited_for() -> None:
    """3 is lost for good, and so is 5, for which the group would wait for ever: 4 votes meanwhile."""
    wanted = ids(1, 2, 4, 5, 6)
    waiting = Configuration(voters=ids(1, 2, 3), learners=ids(4, 5, 6))
    assert plan_group(NodeId(1), waiting, wanted, ids(1, 2, 4)) == ConfigurationChange(
        changes=(NodeChange(ChangeKind.ADD_VOTER, NodeId(4)), NodeChange(ChangeKind.REMOVE, NodeId(3))),
        transition=Transition.JOINT_IMPLICIT,
    )
    assert plan_group(NodeId(1), waiting, wanted, ids(1, 2)) is None, "nobody has come"
    assert plan_group(NodeId(1), waiting, wanted, ids(1, 2, 3, 4)) is None, "nobody is gone"
    assert plan_group(NodeId(1), waiting, ids(1, 2, 3, 4, 5, 6), ids(1, 2, 4)) is None, "nobody is to go"
    assert plan_group(NodeId(1), Configuration(voters=ids(1, 2, 4), learners=ids(5, 6)), wanted, ids(1, 2, 4, 6)) is None


def test_a_leader_that_is_not_wanted_hands_over_before_it_goes() -> None:
    """It stays a voter until somebody else leads; that one takes it away."""
    wanted = ids(4)
    moved = plan_group(NodeId(1), Configuration(voters=ids(1, 2, 3), learners=ids(4)), wanted, ids(1, 2, 3, 4))
    assert isinstance(moved, ConfigurationChange)
    both = Configuration(voters=ids(1, 4))
    assert plan_group(NodeId(1), both, wanted, ids(1, 4)) == HandOver(NodeId(4))
    more = Configuration(voters=ids(1, 4, 5, 6))
    assert plan_group(NodeId(1), more, ids(4, 5, 6), ids(1, 4, 5, 6), NodeId(5)) == HandOver(NodeId(5)), "to who should lead"
    assert plan_group(NodeId(1), more, ids(4, 5, 6), ids(1, 4, 6), NodeId(5)) == HandOver(NodeId(4)), "if it can"
    assert plan_group(NodeId(4), both, wanted, ids(1, 4)) == ConfigurationChange(
        changes=(NodeChange(ChangeKind.REMOVE, NodeId(1)),)
    )


nodes = st.sets(st.integers(1, 7).map(NodeId), min_size=1, max_size=7)


@given(nodes, nodes, nodes, nodes)
def test_no_change_of_a_group_leaves_it_without_a_healthy_majority(
    voters: set[NodeId], learners: set[NodeId], wanted: set[NodeId], healthy: set[NodeId]
) -> None:
    """Of voters before and after alike, whatever is asked for; and every change is legal."""
    own = min(voters)
    healthy |= {own}
    configuration = Configuration(voters=frozenset(voters), learners=frozenset(learners - voters))
    step = plan_group(own, configuration, wanted, healthy)
    if isinstance(step, HandOver):
        assert step.node_id in healthy & voters & wanted
    elif step is not None:
        after = change_configuration(configuration, step).configuration
        assert own in after.voters
        if after.voters != configuration.voters:
            assert len(voters & healthy) >= quorum(voters)
            assert len(after.voters & healthy) >= quorum(after.voters)


@given(nodes, nodes, st.randoms(use_true_random=False))
def test_a_healthy_group_gets_where_it_is_wanted(voters: set[NodeId], wanted: set[NodeId], rng: random.Random) -> None:
    """From any voters to any others, in as many steps as there are nodes, and a few."""
    configuration = Configuration(voters=frozenset(voters))
    own = rng.choice(sorted(voters))
    everybody = {NodeId(number) for number in range(1, 8)}
    for _ in range(2 * len(everybody) + 4):
        step = plan_group(own, configuration, wanted, everybody)
        if step is None:
            break
        if isinstance(step, HandOver):
            own = step.node_id
        else:
            configuration = change_configuration(configuration, step).configuration
            if configuration.is_joint:
                assert plan_group(own, configuration, wanted, everybody) is None
                configuration = change_configuration(configuration, ConfigurationChange()).configuration
    assert configuration == Configuration(voters=frozenset(wanted))


# The whole, simulated: nodes come, fail, recover and are taken out at random; the leader plans and everything it plans happens.


class Churn:
    """A cluster of bare facts. A node is up or down; what is up and in a configuration is healthy."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = NOW
        self.up_since: dict[NodeId, float] = {NodeId(number): 0.0 for number in (1, 2, 3)}
        self.configuration = Configuration(voters=ids(1, 2, 3))
        self.leader = NodeId(1)
        self.machine = CatalogMachine()
        self.index = 0
        self.next_id = 4
        self.command(CreateTopic(name="all", partition_count=2, replicas=tuple(sorted(ids(1, 2, 3)))))
        self.command(CreateTopic(name="two", partition_count=4, replicas=tuple(sorted(ids(1, 2, 3))), replica_count=2))
        self.groups = {
            partition.group_id: Configuration(voters=frozenset(partition.replicas))
            for item in self.machine.topics.values()
            for partition in item.partitions
        }
        self.group_leaders: dict[GroupId, NodeId] = {}

    def command(self, command: object) -> None:
        self.index += 1
        outcome = self.machine.apply(self.index, command)  # type: ignore[arg-type]
        assert not isinstance(outcome, Exception), outcome

    def is_up(self, node_id: NodeId) -> bool:
        return node_id in self.up_since

    def has_quorum(self, configuration: Configuration) -> bool:
        halves = [half for half in (configuration.voters, configuration.voters_outgoing) if half]
        return all(sum(map(self.is_up, half)) >= quorum(half) for half in halves)

    def view(self) -> View:
        known = {*self.configuration.nodes, *self.up_since}
        return View(
            now=self.now,
            own=self.leader,
            configuration=self.configuration,
            first_voters=3,
            members={
                node_id: MemberView(
                    name=f"n{node_id}",
                    is_connected=self.is_up(node_id),
                    healthy_since=self.up_since.get(node_id) if node_id in self.configuration.nodes else None,
                    removed_since=0.0,
                )
                for node_id in known
            },
            nodes=dict(self.machine.nodes),
            removed=frozenset(self.machine.removed),
            topics=tuple(self.machine.topics.values()),
            groups={
                group_id: GroupView(voters=item.voters, learners=item.learners, is_joint=item.is_joint)
                for group_id, item in self.groups.items()
                if self.has_quorum(item)
            },
        )

    def elect(self, configuration: Configuration, leader: NodeId) -> NodeId:
        if leader in configuration.voters and self.is_up(leader):
            return leader
        return self.rng.choice(sorted(filter(self.is_up, configuration.voters)))

    def round(self) -> None:
        self.now += 1
        if self.has_quorum(self.configuration):
            self.leader = self.elect(self.configuration, self.leader)
            for step in plan(self.view(), SETTINGS):
                self.take(step)
        for item in self.machine.topics.values():
            for partition in item.partitions:
                self.round_of(partition)
        for node_id in self.machine.removed:
            self.up_since.pop(node_id, None)

    def take(self, step: object) -> None:
        kinds = {AddLearner: ChangeKind.ADD_LEARNER, Promote: ChangeKind.ADD_VOTER, Demote: ChangeKind.ADD_LEARNER}
        match step:
            case AddLearner(node_id) | Promote(node_id) | Demote(node_id):
                self.change(NodeChange(kinds[type(step)], node_id))
            case RemoveMember(node_id):
                self.change(NodeChange(ChangeKind.REMOVE, node_id))
            case HandOver(node_id):
                assert node_id in self.configuration.voters
                self.leader = node_id
            case Register(node_id, name):
                self.command(RegisterNode(node_id=node_id, name=name))
            case AddTombstone(node_id):
                for item in self.groups.values():
                    assert node_id not in item.voters, "removed while it is needed"
                self.command(RemoveNode(node_id=node_id))
            case SetReplicas():
                configuration = self.groups[step.group_id]
                assert configuration.nodes <= set(step.replicas), "a replica is closed that its group still has"
                self.command(step)

    def change(self, change: NodeChange) -> None:
        before = self.configuration
        self.configuration = change_configuration(before, ConfigurationChange(changes=(change,))).configuration
        self.check(before, self.configuration)

    def check(self, before: Configuration, after: Configuration) -> None:
        if before.voters != after.voters:
            assert self.has_quorum(before), "committed by a majority that is up"
            assert self.has_quorum(after), "and the next one can be as well"

    def round_of(self, partition: Partition) -> None:
        group_id = partition.group_id
        configuration = self.groups[group_id]
        if not self.has_quorum(configuration):
            return
        if configuration.is_joint:
            self.groups[group_id] = change_configuration(configuration, ConfigurationChange()).configuration
            return
        leader = self.group_leaders[group_id] = self.elect(configuration, self.group_leaders.get(group_id, NodeId(0)))
        healthy = {node_id for node_id in configuration.nodes if self.is_up(node_id)}
        step = plan_group(leader, configuration, partition.wanted, healthy)
        if isinstance(step, HandOver):
            self.group_leaders[group_id] = step.node_id
        elif step is not None:
            self.groups[group_id] = change_configuration(configuration, step).configuration
            self.check(configuration, self.groups[group_id])

    def happen(self) -> None:
        """Something from outside: never more than a minority of any group is down at once, as is promised to nobody beyond."""
        match self.rng.choice(("start", "fail", "recover", "recover", "drain", "remove", "nothing", "nothing")):
            case "start" if len(self.configuration.nodes) < 8:
                self.up_since[NodeId(self.next_id)] = self.now
                self.next_id += 1
            case "fail":
                node_id = self.rng.choice(sorted(self.up_since))
                since = self.up_since.pop(node_id)
                if not all(map(self.has_quorum, (self.configuration, *self.groups.values()))):
                    self.up_since[node_id] = since
            case "recover":
                down = sorted(
                    (self.configuration.nodes | set(self.machine.nodes)) - self.up_since.keys() - self.machine.removed.keys()
                )
                if down:
                    self.up_since[self.rng.choice(down)] = self.now
            case "drain":
                node_id = self.rng.choice(sorted(self.configuration.nodes))
                if node_id not in self.machine.removed and not refuse_drain(self.view(), node_id):
                    self.command(DrainNode(node_id=node_id))
            case "remove":
                node_id = self.rng.choice(sorted(self.configuration.nodes))
                if node_id not in self.machine.removed and not refuse_removal(self.view(), node_id):
                    self.command(RemoveNode(node_id=node_id))
                    self.up_since.pop(node_id, None)
                    assert all(map(self.has_quorum, (self.configuration, *self.groups.values()))), "refused in time"


@pytest.mark.parametrize("seed", range(60))
def test_churn_never_costs_the_quorum_and_ends_in_order(seed: int) -> None:
    """Whatever happens, each group keeps a majority that is up; left alone, everything that is leaving has left."""
    churn = Churn(seed)
    for _ in range(200):
        churn.happen()
        for _ in range(churn.rng.randrange(4)):
            churn.round()
        assert churn.has_quorum(churn.configuration)
        assert all(map(churn.has_quorum, churn.groups.values()))
    for node_id in (churn.configuration.nodes | set(churn.machine.nodes)) - churn.machine.removed.keys():
        churn.up_since.setdefault(node_id, churn.now)
    for _ in range(300):
        churn.round()
    assert not churn.view().leaving & churn.configuration.nodes, "whoever was to leave has left"
    voters = churn.configuration.voters
    assert len(voters) == 5 or len(voters) % 2 or not churn.configuration.learners
    for item in churn.machine.topics.values():
        for partition in item.partitions:
            assert not partition.is_moving
            assert churn.groups[partition.group_id] == Configuration(voters=frozenset(partition.wanted))
            if not item.replica_count:
                assert frozenset(partition.wanted) == voters
