"""What the files of a replica show together: that it once held more than it does.

Each file by itself may look whole. A log without its hard state looks like one that was never written to, a log whose last
segment is gone like a shorter one. So a replica is judged by its hard state, its log and what the node has last written down of it
(`lives`, see codec/lives.py) together, when it is opened and by `log verify` alike. Pure.
"""

import attrs

from trio_eventlog.codec.lives import Extent


@attrs.frozen(slots=True, kw_only=True)
class Held:
    """What is there.

    Attributes:
        has_hard_state: the file is there, whole.
        term, commit_index: of the hard state; 0 without.
        last_term, last_index: of the last entry of the log, or of one that was here before and was removed in good order.
        snapshot_index: of the newest snapshot whose last entry the log does not hold; 0: there is none.
    """

    has_hard_state: bool
    term: int
    commit_index: int
    last_term: int
    last_index: int
    snapshot_index: int = 0


@attrs.frozen(slots=True, kw_only=True)
class Loss:
    """What is not there any more.

    Attributes:
        text: for people.
        is_vote_lost: the term and the vote are; otherwise only entries.
    """

    text: str
    is_vote_lost: bool = False


def find_loss(held: Held, noted: Extent | None) -> Loss | None:
    """What has been lost of a replica; None when nothing shows that anything has.

    Args:
        noted: how far it went when the node last wrote that down; None: the node never did.
    """
    if not held.has_hard_state and (held.last_index or noted is not None):
        before = f"entries up to {held.last_index}" if held.last_index else "a group that was open here before"
        return Loss(text=f"the hard state (term and vote) is missing beside {before}", is_vote_lost=True)
    if held.snapshot_index:
        return Loss(
            text=f"entries up to {held.snapshot_index} were committed, as a snapshot shows, and the log, which ends at"
            f" {held.last_index}, does not hold them"
        )
    if held.commit_index > held.last_index:
        return Loss(text=f"entries up to {held.commit_index} were committed, and the log ends at {held.last_index}")
    if noted is None:
        return None
    if noted.commit_index > held.last_index:
        return Loss(text=f"entries up to {noted.commit_index} were committed, and the log ends at {held.last_index}")
    # A new leader replaces what earlier ones have left, and a crash may come in between: the log is shorter then, and all is well.
    # But entries that a leader has appended in its term are not removed before there is a later term.
    is_same_term = noted.last_term == noted.term == held.term
    if is_same_term and (held.last_term, held.last_index) < (noted.last_term, noted.last_index):
        return Loss(text=f"the log went up to entry {noted.last_index}, and ends at {held.last_index}")
    return None
