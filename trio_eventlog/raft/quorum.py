"""Quorum arithmetic: who decides, and what they have decided. Plain functions on sets and lookups; imports nothing of ours.

A joint quorum is a pair of majorities: a decision needs both. An empty half agrees with everything, which makes a configuration
that is not joint the special case `(voters, empty)`.
"""

import enum
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

Voter = TypeVar("Voter", bound=int)

UNBOUNDED = (1 << 64) - 1
"""What an empty majority has committed: everything."""


class VoteResult(enum.Enum):
    """The state of an election, or of any question asked of all voters."""

    PENDING = "VotePending"
    """Neither won nor lost yet: the voters still silent decide."""
    LOST = "VoteLost"
    WON = "VoteWon"


def majority_size(count: int) -> int:
    """How many of `count` voters are a majority."""
    return count // 2 + 1


def majority_committed(voters: Collection[Voter], acked: Callable[[Voter], int]) -> int:
    """The largest index that a majority of `voters` has acknowledged. `acked` answers 0 for a voter not heard from."""
    count = len(voters)
    if count == 0:
        return UNBOUNDED
    if count == 1:
        (voter,) = voters
        return acked(voter)
    return sorted(map(acked, voters))[(count - 1) // 2]


def joint_committed(incoming: Collection[Voter], outgoing: Collection[Voter], acked: Callable[[Voter], int]) -> int:
    """The largest index acknowledged by a majority of each half."""
    committed = majority_committed(incoming, acked)
    return min(committed, majority_committed(outgoing, acked)) if outgoing else committed


def majority_vote(voters: Collection[Voter], votes: Mapping[Voter, bool]) -> VoteResult:
    """The outcome among `voters`; votes of others do not count. No voters: won."""
    granted = refused = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is not None:
            if vote:
                granted += 1
            else:
                refused += 1
    needed = majority_size(len(voters))
    if granted >= needed or not voters:
        return VoteResult.WON
    return VoteResult.PENDING if len(voters) - refused >= needed else VoteResult.LOST


def joint_vote(incoming: Collection[Voter], outgoing: Collection[Voter], votes: Mapping[Voter, bool]) -> VoteResult:
    """The outcome when both halves have to agree: lost as soon as one of them is."""
    first = majority_vote(incoming, votes)
    if not outgoing:
        return first
    second = majority_vote(outgoing, votes)
    if first is second:
        return first
    return VoteResult.LOST if VoteResult.LOST in (first, second) else VoteResult.PENDING


def describe_committed(voters: Collection[Voter], acked: Mapping[Voter, int]) -> str:
    """A drawing for people: a line per voter, a bar as long as the number of voters behind it, `?` for those not heard from."""
    if not voters:
        return "<empty majority quorum>"
    width = len(voters)
    ordered = sorted(voters, key=lambda voter: (acked.get(voter, 0), voter))
    bars: dict[Voter, int] = {}
    for position, voter in enumerate(ordered):
        before = ordered[position - 1] if position else None
        tied = before is not None and acked.get(before, 0) == acked.get(voter, 0)
        bars[voter] = bars[before] if tied and before is not None else position
    lines = [" " * width + "    idx"]
    for voter in sorted(voters):
        mark = "x" * bars[voter] + ">" + " " * (width - bars[voter]) if voter in acked else "?" + " " * width
        lines.append(f"{mark} {acked.get(voter, 0):5d}    (id={voter})")
    return "\n".join(lines) + "\n"
