"""What files show together, and what they do not: a crash at any place is no loss."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.lives import Extent
from trio_eventlog.storage.losses import Held, find_loss

WHOLE = Held(has_hard_state=True, term=3, commit_index=90, last_term=3, last_index=100)
NOTED = Extent(term=3, last_term=3, last_index=100, commit_index=95)
NEW = Held(has_hard_state=False, term=0, commit_index=0, last_term=0, last_index=0)


@pytest.mark.parametrize(
    ("held", "noted"),
    [
        (NEW, None),
        (WHOLE, None),
        (WHOLE, NOTED),
        (attrs.evolve(WHOLE, last_index=1000, term=9), NOTED),
        # A later leader has replaced what this one had left, and a crash came in between.
        (attrs.evolve(WHOLE, term=4, last_index=95), NOTED),
        (attrs.evolve(WHOLE, last_index=95, last_term=2), attrs.evolve(NOTED, last_term=2)),
        (attrs.evolve(WHOLE, commit_index=100), NOTED),
    ],
)
def test_nothing_is_lost(held: Held, noted: Extent | None) -> None:
    assert find_loss(held, noted) is None


@pytest.mark.parametrize(
    ("held", "noted", "text"),
    [
        (attrs.evolve(WHOLE, has_hard_state=False), None, "missing beside entries up to 100"),
        (attrs.evolve(WHOLE, has_hard_state=False), NOTED, "missing beside entries up to 100"),
        (NEW, NOTED, "missing beside a group that was open here before"),
        (attrs.evolve(WHOLE, commit_index=101), None, "up to 101 were committed, and the log ends at 100"),
        (attrs.evolve(WHOLE, commit_index=0, last_index=94), NOTED, "up to 95 were committed, and the log ends at 94"),
        (attrs.evolve(WHOLE, term=9, commit_index=0, last_index=94), NOTED, "up to 95 were committed, and the log ends at 94"),
        (attrs.evolve(WHOLE, last_index=99), NOTED, "the log went up to entry 100, and ends at 99"),
        (attrs.evolve(WHOLE, commit_index=0, last_index=0, last_term=0), NOTED, "and the log ends at 0"),
    ],
)
def test_what_is_lost(held: Held, noted: Extent | None, text: str) -> None:
    loss = find_loss(held, noted)
    assert loss is not None
    assert text in loss.text
    assert loss.is_vote_lost == (not held.has_hard_state)


@given(
    terms=st.lists(st.integers(0, 2), max_size=12),
    committed=st.integers(0, 12),
    cut=st.integers(0, 12),
    appended=st.integers(0, 3),
)
def test_a_follower_whose_leader_replaces_its_end_has_lost_nothing(
    terms: list[int], committed: int, cut: int, appended: int
) -> None:
    """Whatever was noted before, and wherever the replacement was cut short."""
    log = [1 + sum(terms[: number + 1]) for number in range(len(terms))]
    committed = min(committed, len(log))
    term = log[-1] if log else 1
    noted = Extent(term=term, last_term=log[-1] if log else 0, last_index=len(log), commit_index=committed)
    later = [*log[: max(cut, committed)], *[term + 1] * appended]
    held = Held(
        has_hard_state=True,
        term=term + 1,
        commit_index=committed,
        last_term=later[-1] if later else 0,
        last_index=len(later),
    )
    assert find_loss(held, noted) is None
