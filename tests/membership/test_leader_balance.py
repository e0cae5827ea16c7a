"""Who should lead which partition, and when a node hands one over: pure decisions."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.machine.catalog import CatalogMachine, CreateTopic, Topic
from trio_eventlog.machine.placement import spread_leaders
from trio_eventlog.node.membership import MembershipSettings, MisplacedLeader, due_hand_over, preferred_leaders
from trio_eventlog.testing.defaults import default

A, B, C, D = (NodeId(number) for number in (0xA, 0xB, 0xC, 0xD))

SPREAD = {
    "one": ([(1, (A,))], [A]),
    "in turn, from where the group id says": ([(4, (A, B, C)), (5, (A, B, C)), (6, (A, B, C)), (7, (A, B, C))], [B, C, A, B]),
    "one partition of another topic begins elsewhere": ([(5, (A, B, C))], [C]),
    "whoever leads fewer goes first": ([(2, (A, B)), (4, (A, B, C)), (6, (A, C))], [A, B, C]),
    "as far as the replicas allow": ([(1, (A,)), (2, (A,)), (3, (A, B)), (4, (A, B))], [A, A, B, B]),
    "nobody may lead": ([(1, ()), (2, (A,))], [A]),
    "nothing": ([], []),
}


@pytest.mark.parametrize("case", SPREAD)
def test_spread(case: str) -> None:
    places, leaders = SPREAD[case]
    found = spread_leaders([(GroupId(group_id), nodes) for group_id, nodes in places])
    assert list(found.values()) == leaders
    assert list(found) == [group_id for group_id, nodes in places if nodes]


def make_topic(partition_count: int, nodes: set[NodeId], replica_count: int = 0, groups_before: int = 0) -> Topic:
    machine = CatalogMachine()
    if groups_before:
        machine.apply(1, CreateTopic(name="before", partition_count=groups_before, replicas=(NodeId(1),)))
    command = CreateTopic(name="t", partition_count=partition_count, replicas=tuple(sorted(nodes)), replica_count=replica_count)
    topic = machine.apply(machine.applied_index + 1, command)
    assert isinstance(topic, Topic)
    return topic


node_ids = st.integers(1, 2**64 - 1).map(NodeId)


@given(st.integers(1, 40), st.sets(node_ids, min_size=1, max_size=7), st.integers(0, 50))
def test_with_replicas_everywhere_no_node_leads_more_than_one_more_than_another(
    partition_count: int, nodes: set[NodeId], groups_before: int
) -> None:
    """Whatever the ids are and wherever the group ids begin."""
    led = Counter(preferred_leaders(make_topic(partition_count, nodes, 0, groups_before), ()).values())
    assert max(led.values()) - min(led[node_id] for node_id in nodes) <= 1


@given(st.integers(1, 40), st.sets(node_ids, min_size=2, max_size=7), st.integers(1, 4), st.data())
def test_the_preferred_leader_carries_the_partition_and_is_not_on_its_way_out(
    partition_count: int, nodes: set[NodeId], replica_count: int, data: st.DataObject
) -> None:
    """With fewer replicas than nodes as well. A partition that only nodes on their way out carry has none."""
    topic = make_topic(partition_count, nodes, replica_count)
    leaving = data.draw(st.sets(st.sampled_from(sorted(nodes)), max_size=len(nodes) - 1))
    preferred = preferred_leaders(topic, leaving)
    for partition in topic.partitions:
        staying = set(partition.wanted) - leaving
        if staying:
            assert preferred[partition.group_id] in staying
        else:
            assert partition.group_id not in preferred


SETTINGS = default(MembershipSettings, stabilisation_seconds=10, leader_balance_seconds=5)
ONE, TWO = GroupId(1), GroupId(2)


def misplaced(since: float) -> MisplacedLeader:
    return MisplacedLeader(preferred=A, since=since)


DUE = {
    "nothing is misplaced": ({}, 100.0, 0.0, None),
    "not for long enough": ({ONE: misplaced(91)}, 100.0, 0.0, None),
    "just long enough": ({ONE: misplaced(90)}, 100.0, 0.0, ONE),
    "too soon after the last one": ({ONE: misplaced(0)}, 100.0, 95.1, None),
    "the longest first": ({ONE: misplaced(50), TWO: misplaced(40)}, 100.0, 95.0, TWO),
    "in order": ({TWO: misplaced(40), ONE: misplaced(40)}, 100.0, 0.0, ONE),
}


@pytest.mark.parametrize("case", DUE)
def test_due(case: str) -> None:
    """One at a time, each only after the stabilisation time."""
    waiting, now, balanced_at, expected = DUE[case]
    assert due_hand_over(waiting, now, balanced_at, SETTINGS) == expected


def test_it_can_be_turned_off() -> None:
    never = default(MembershipSettings, leader_balance_seconds=0)
    assert due_hand_over({ONE: misplaced(0)}, 1e9, 0.0, never) is None
