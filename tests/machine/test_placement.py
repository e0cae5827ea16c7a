"""Where partitions go: evenly, and nowhere else when the nodes change."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.machine.placement import place, weight

NODE_IDS = st.integers(1, (1 << 64) - 1).map(NodeId)
GROUP_IDS = st.integers(1, 1 << 40).map(GroupId)


@given(GROUP_IDS, st.sets(NODE_IDS, min_size=1, max_size=9), st.integers(0, 10))
def test_as_many_as_asked_for_and_never_one_twice(group_id: GroupId, nodes: set[NodeId], replica_count: int) -> None:
    """0 means all; more than there are, all as well. The order of the nodes does not matter."""
    placed = place(group_id, nodes, replica_count)
    assert len(placed) == (min(replica_count, len(nodes)) or len(nodes))
    assert set(placed) <= nodes
    assert list(placed) == sorted(set(placed))
    assert placed == place(group_id, sorted(nodes, reverse=True), replica_count)


@given(GROUP_IDS, st.sets(NODE_IDS, min_size=2, max_size=9), NODE_IDS, st.integers(1, 5))
def test_a_node_that_comes_displaces_at_most_one(group_id: GroupId, nodes: set[NodeId], new: NodeId, replica_count: int) -> None:
    """And a node that goes, read backwards, is replaced by one other: nothing else moves."""
    nodes -= {new}
    before = set(place(group_id, nodes, replica_count))
    after = set(place(group_id, nodes | {new}, replica_count))
    assert after - before <= {new}
    assert len(before - after) <= 1


def test_groups_are_spread() -> None:
    """1000 groups with 3 replicas on 5 nodes: each node carries 600, give or take a tenth."""
    nodes = [NodeId(0x9E3779B97F4A7C15 * number % (1 << 64)) for number in range(1, 6)]
    carried = Counter(node_id for number in range(1, 1001) for node_id in place(GroupId(number), nodes, 3))
    assert all(540 <= carried[node_id] <= 660 for node_id in nodes), carried


def test_weights_are_for_ever() -> None:
    """Another weight would move every partition of every cluster."""
    assert weight(GroupId(1), NodeId(2)) == 0xA4B606D672CFA396
