"""The lists of bugs to plant keep up with the code: each names one place, and what it makes of it is Python."""

import ast
from pathlib import Path

import pytest

from tests import gossip_mutations, mutations, planted_bugs
from tests.mutations import Mutation

ROOT = Path(__file__).resolve().parents[1]
LISTS: dict[str, tuple[Mutation, ...]] = {
    "mutations": tuple(mutations.MUTATIONS),
    "cores": tuple(planted_bugs.CORES),
    "nodes": tuple(planted_bugs.NODES),
    "gossip": tuple(gossip_mutations.MUTATIONS),
}


@pytest.mark.parametrize("which", LISTS)
def test_each_bug_has_a_place_to_be_planted_in(which: str) -> None:
    """Else it is noticed only by whoever runs the list, which takes an hour."""
    lost = []
    for mutation in LISTS[which]:
        text = (ROOT / mutation.path).read_text()
        if text.count(mutation.old) != 1:
            lost.append(f"{mutation.name}: the text to replace is in {mutation.path} {text.count(mutation.old)} times")
            continue
        ast.parse(text.replace(mutation.old, mutation.new), mutation.name)
    assert not lost, "\n".join(lost)


@pytest.mark.parametrize("which", LISTS)
def test_names_are_unique(which: str) -> None:
    """A name is how a bug is chosen and found again in the tables."""
    names = [mutation.name for mutation in LISTS[which]]
    assert len(names) == len(set(names))
