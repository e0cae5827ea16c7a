"""What the reconciler asks other nodes, and what it makes of answers that are old, wrong, late or missing.

`tests/membership` starts from finished views; here is how they come about.
"""

import random
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from trio_eventlog.errors import EventLogError, InvalidArgument, NotLeader, Unavailable
from trio_eventlog.ids import CATALOG_GROUP, NOBODY, GroupId, NodeId
from trio_eventlog.machine.catalog import CatalogMachine
from trio_eventlog.net.discovery import Member
from trio_eventlog.node.membership import View
from trio_eventlog.node.node_reports import GroupReport, NodeReport
from trio_eventlog.node.reconciler import Reconciler
from trio_eventlog.node.reconciler_settings import PeerAccess, ReconcilerSettings
from trio_eventlog.node.replicas import Replicas
from trio_eventlog.raft import Configuration, HardState, MemoryLog, RaftNode, RaftSettings, Role, Status
from trio_eventlog.testing.defaults import default

ME, TWO, THREE = NodeId(1), NodeId(2), NodeId(3)
TERM, LAST_INDEX = 7, 1000
PARTITION = GroupId(5)
SETTINGS = default(ReconcilerSettings)
LAG_MAX = SETTINGS.membership.catch_up_entries_max


def leader_status() -> Status:
    """Of a catalog of three that this node leads and that is wholly applied."""
    core = RaftNode(
        node_id=ME,
        settings=default(RaftSettings),
        log=MemoryLog(),
        hard_state=HardState(),
        configuration=Configuration(voters=frozenset({ME, TWO, THREE})),
        rng=random.Random(1),
    )
    return attrs.evolve(
        core.status(),
        role=Role.LEADER,
        leader=ME,
        hard_state=HardState(term=TERM, vote=ME, commit=LAST_INDEX),
        last_index=LAST_INDEX,
        applied_index=LAST_INDEX,
    )


class FakeReplica:
    """The catalog as this node has it."""

    group_id = CATALOG_GROUP
    name = "catalog"

    def __init__(self) -> None:
        self.now = leader_status()

    @property
    def is_leader(self) -> bool:
        return self.now.role is Role.LEADER

    @property
    def leader_id(self) -> NodeId:
        return self.now.leader

    @property
    def configuration(self) -> Configuration:
        return self.now.configuration

    @property
    def core(self) -> SimpleNamespace:
        now = self.now
        return SimpleNamespace(
            role=now.role, term=now.hard_state.term, applied_index=now.applied_index, configuration=now.configuration
        )

    def status(self) -> Status:
        return self.now


Answer = Callable[[], Awaitable[NodeReport]]


def catalog(*, term: int = TERM, applied_index: int = LAST_INDEX, role: Role = Role.FOLLOWER) -> GroupReport:
    return GroupReport(
        group_id=CATALOG_GROUP, role=role, term=term, applied_index=applied_index, voters=frozenset({ME, TWO, THREE})
    )


def answers(*groups: GroupReport, peers: Mapping[NodeId, str] | None = None) -> Answer:
    async def answer() -> NodeReport:
        await trio.lowlevel.checkpoint()
        return NodeReport(groups={group.group_id: group for group in groups}, peers=peers or {})

    return answer


def fails(error: EventLogError) -> Answer:
    async def answer() -> NodeReport:
        await trio.lowlevel.checkpoint()
        raise error

    return answer


async def silence() -> NodeReport:
    await trio.sleep_forever()
    raise AssertionError


async def _refuse(command: object) -> None:
    await trio.lowlevel.checkpoint()
    raise NotLeader("not now", NOBODY)


class Kit:
    """A reconciler on the leader of the catalog, and nodes that answer as the test says."""

    def __init__(self) -> None:
        self.catalog = FakeReplica()
        self.answers: dict[NodeId, Answer] = {TWO: answers(catalog()), THREE: answers(catalog())}
        self.connected = {TWO, THREE}
        self.asked: list[NodeId] = []
        self.met: list[tuple[NodeId, str]] = []
        machine = CatalogMachine()
        self.replicas = SimpleNamespace(
            catalog=self.catalog, machine=machine, all=self._all, state_changes=(1, 0), feature_level=1, room={}, command=_refuse
        )
        self.looked_at_all = 0
        self.machine = machine
        self.reconciler = Reconciler(
            ME,
            "one",
            "one:1",
            cast("Replicas", self.replicas),
            PeerAccess(
                members=lambda: {node: Member(node_id=node, name=f"n{node}", address=f"n{node}:1") for node in (TWO, THREE)},
                is_connected=lambda node_id: node_id in self.connected,
                ask=self._ask,
                meet=lambda node_id, address: self.met.append((node_id, address)),
                forget=lambda node_id: None,
            ),
            SETTINGS,
            first_voters=lambda: 3,
        )

    def _all(self) -> list[FakeReplica]:
        self.looked_at_all += 1
        return [self.catalog]

    async def _ask(self, node_id: NodeId, with_partitions: bool) -> NodeReport:
        self.asked.append(node_id)
        return await self.answers[node_id]()

    async def look(self) -> View:
        """One round of questions, and the view that decisions are made from."""
        await self.reconciler.observer.ask_all(with_partitions=True)
        return self.reconciler.observer.view()


CASES: dict[str, tuple[Answer, bool]] = {
    "at the end": (answers(catalog()), True),
    "as far behind as is caught up": (answers(catalog(applied_index=LAST_INDEX - LAG_MAX)), True),
    "one entry further behind": (answers(catalog(applied_index=LAST_INDEX - LAG_MAX - 1)), False),
    "far behind": (answers(catalog(applied_index=0)), False),
    "in an older term": (answers(catalog(term=TERM - 1)), False),
    "in a newer term": (answers(catalog(term=TERM + 1)), False),
    "says that it leads an older term": (answers(catalog(term=TERM - 1, role=Role.LEADER)), False),
    "without the catalog": (answers(), False),
    "with another group only": (answers(attrs.evolve(catalog(), group_id=PARTITION)), False),
    "refuses": (fails(NotLeader("no", NOBODY)), False),
    "cannot be reached": (fails(Unavailable("no")), False),
    "answers what is no answer": (fails(InvalidArgument("node id: x")), False),
    "silent": (silence, False),
}


@pytest.mark.parametrize("case", CASES)
async def test_who_counts_as_healthy(case: str, autojump_clock: trio.testing.MockClock) -> None:
    """Who answers in this leader's term and is close to its end; the other nodes of the round do not suffer, nor wait for ever."""
    kit = Kit()
    kit.answers[TWO], is_healthy = CASES[case]
    began = trio.current_time()
    view = await kit.look()
    assert trio.current_time() - began <= SETTINGS.answer_seconds_max
    assert view.is_healthy(TWO) is is_healthy
    assert view.is_healthy(THREE)


async def test_who_is_not_connected_is_not_asked(autojump_clock: trio.testing.MockClock) -> None:
    """However well it would answer by another way."""
    kit = Kit()
    kit.connected.remove(TWO)
    view = await kit.look()
    assert kit.asked == [THREE]
    assert not view.is_healthy(TWO)
    assert not view.members[TWO].is_connected


@pytest.mark.parametrize("case", [case for case in CASES if not CASES[case][1]])
async def test_health_is_unbroken(case: str, autojump_clock: trio.testing.MockClock) -> None:
    """It counts since the first of the good answers in a row: one bad round, or a link that was away, and it begins anew."""
    kit = Kit()
    first = (await kit.look()).now
    await trio.sleep(5)
    view = await kit.look()
    assert view.members[TWO].healthy_since == first
    good, kit.answers[TWO] = kit.answers[TWO], CASES[case][0]
    await kit.look()
    kit.answers[TWO] = good
    again = await kit.look()
    assert again.members[TWO].healthy_since == again.now
    assert again.members[THREE].healthy_since == first
    await trio.sleep(1)
    kit.reconciler.on_connected(THREE)
    later = await kit.look()
    assert later.members[THREE].healthy_since == later.now
    assert later.members[TWO].healthy_since == again.now


async def test_the_end_that_counts_is_the_one_when_the_question_was_asked(autojump_clock: trio.testing.MockClock) -> None:
    """While answers are on their way the log grows: who was at its end is healthy. Who is behind that end is not, later on."""
    kit = Kit()

    async def slow() -> NodeReport:
        kit.catalog.now = attrs.evolve(kit.catalog.now, last_index=LAST_INDEX + 10 * LAG_MAX)
        return await answers(catalog())()

    kit.answers[TWO] = slow
    assert (await kit.look()).is_healthy(TWO)
    assert not (await kit.look()).is_healthy(TWO)


async def test_a_partition_is_seen_as_its_leader_tells_it_unless_a_later_term_is_known(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Of two that say they lead, the later term; none at all when a follower has heard of a later term than any leader."""
    kit = Kit()

    def group(term: int, role: Role, *voters: NodeId) -> GroupReport:
        return GroupReport(group_id=PARTITION, role=role, term=term, applied_index=1, voters=frozenset(voters))

    kit.answers[TWO] = answers(catalog(), group(3, Role.LEADER, ME, TWO))
    kit.answers[THREE] = answers(catalog(), group(4, Role.LEADER, TWO, THREE))
    assert (await kit.look()).groups[PARTITION].voters == {TWO, THREE}
    kit.answers[THREE] = answers(catalog(), group(4, Role.FOLLOWER, TWO, THREE))
    assert PARTITION not in (await kit.look()).groups
    kit.answers[THREE] = answers(catalog(), group(3, Role.FOLLOWER, TWO, THREE))
    assert (await kit.look()).groups[PARTITION].voters == {ME, TWO}


async def test_only_unknown_nodes_are_met(autojump_clock: trio.testing.MockClock) -> None:
    """Addresses that others tell are dialled for nodes that are not known, not ourselves, not nobody and not removed."""
    kit = Kit()
    four, five = NodeId(4), NodeId(5)
    kit.machine.removed[five] = cast("Any", None)
    kit.answers[TWO] = answers(catalog(), peers={ME: "x:1", NOBODY: "x:2", TWO: "x:3", four: "x:4", five: "x:5"})
    await kit.reconciler.observer.ask_all(with_partitions=False)
    assert kit.met == [(four, "x:4")]


async def test_groups_are_looked_at_when_one_has_changed(autojump_clock: trio.testing.MockClock) -> None:
    """There may be thousands that sleep: rounds in which nothing has changed go through none of them."""
    kit = Kit()

    async def looked_in(rounds: int) -> int:
        before = kit.looked_at_all
        await trio.sleep(rounds * SETTINGS.reconcile_seconds)
        return kit.looked_at_all - before

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kit.reconciler.run)
        await trio.sleep(SETTINGS.reconcile_seconds / 2)
        for is_leader in (True, False):
            kit.catalog.now = attrs.evolve(kit.catalog.now, role=Role.LEADER if is_leader else Role.FOLLOWER)
            kit.replicas.state_changes = (1, kit.replicas.state_changes[1] + 1)
            assert await looked_in(1) == 1
            assert await looked_in(10) == 0
        kit.machine.applied_index += 1
        assert await looked_in(10) == 1
        kit.replicas.state_changes = (2, 0)
        assert await looked_in(10) == 1
        nursery.cancel_scope.cancel()
