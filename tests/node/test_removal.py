"""Whose word counts when it says that this node was removed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.ids import NodeId
from trio_eventlog.node.removal import SAYERS_MAX, RemovalVerdict, needed

OWN = NodeId(1)
ids = st.integers(1, 12).map(NodeId)


@given(st.frozensets(ids, max_size=9), st.lists(st.tuples(ids, st.booleans()), max_size=40))
def test_a_majority_of_the_other_voters_and_nobody_else(voters: frozenset[NodeId], said: list[tuple[NodeId, bool]]) -> None:
    """In any order; who takes it back has not said it; whether this node is a voter itself does not matter."""
    verdict = RemovalVerdict(OWN)
    saying: set[NodeId] = set()
    for node_id, is_said in said:
        if is_said:
            verdict.says(node_id, "you were removed")
            saying.add(node_id)
        else:
            verdict.takes_back(node_id)
            saying.discard(node_id)
        others = voters - {OWN}
        assert verdict.is_certain(voters) == (2 * len(saying & others) > len(others))
        assert bool(verdict.warning(voters)) == bool(saying & others)
        assert verdict.text(voters) == ("you were removed" if saying & voters else "")


@pytest.mark.parametrize(("voters", "count"), [((1,), 1), ((1, 2), 1), ((1, 2, 3), 2), ((2, 3, 4), 2), ((1, 2, 3, 4, 5), 3)])
def test_how_many_are_needed(voters: tuple[int, ...], count: int) -> None:
    assert needed(tuple(map(NodeId, voters)), OWN) == count
    assert not RemovalVerdict(OWN).is_certain(tuple(map(NodeId, voters)))


def test_strangers_take_no_memory() -> None:
    verdict = RemovalVerdict(OWN)
    for number in range(2, 10_000):
        verdict.says(NodeId(number), "no")
    assert len(verdict._said) == SAYERS_MAX
