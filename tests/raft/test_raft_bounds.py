"""Numbers that no cluster reaches by what it does: whoever sends them, they are refused before anything is adopted."""

import attrs
import pytest
from harness import PLAIN, Peer, message, voters
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.bounds import INDEX_MAX, TERM_JUMP_MAX, TERM_MAX
from trio_eventlog.codec.raft_message import decode_raft_message, encode_raft_message
from trio_eventlog.raft import Configuration, EventKind, HardState, MessageType, ProtocolError, SnapshotMetadata

OWN_TERM = 7
NUMBERS = sorted({0, 1, OWN_TERM, *(1 << bits for bits in (16, 31, 32, 33, 47, 48, 62, 63)), TERM_MAX, (1 << 64) - 1})
FIELDS = ("term", "log_term", "index", "last_index", "commit", "commit_term", "reject_hint")
KINDS = [kind for kind in MessageType if kind is not MessageType.PROPOSE]


def peer(term: int = OWN_TERM) -> Peer:
    settings = attrs.evolve(PLAIN, pre_vote=True, check_quorum=True)
    return Peer(terms=[1, 2, 5], settings=settings, hard_state=HardState(term=term, commit=2))


def wrong(kind: MessageType, sender: int, fields: dict[str, int]) -> object:
    snapshot = None
    if kind is MessageType.SNAPSHOT:
        configuration = Configuration(voters=frozenset({message(kind, 2, 1).sender}))
        snapshot = SnapshotMetadata(index=fields["index"], term=fields["log_term"], configuration=configuration)
    return message(kind, sender, snapshot=snapshot, reject=bool(fields["commit"] % 2), **fields)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sender", [2, 9], ids=["member", "stranger"])
@pytest.mark.parametrize("term", [OWN_TERM + TERM_JUMP_MAX + 1, TERM_MAX, TERM_MAX + 1, (1 << 64) - 1])
def test_no_message_takes_a_node_to_a_term_that_no_elections_lead_to(kind: MessageType, sender: int, term: int) -> None:
    """It would be durable, spread with every answer, and leave no term above it."""
    node = peer()
    with pytest.raises(ProtocolError):
        node.node.step(message(kind, sender, term, transferee=2))
    assert node.node.term == OWN_TERM
    assert node.node.ready() is None or not node.take()


def test_the_jump_at_its_limit() -> None:
    """A node that was away for years still finds back."""
    node = peer()
    node.step(message(MessageType.HEARTBEAT, 2, OWN_TERM + TERM_JUMP_MAX))
    assert node.node.term == OWN_TERM + TERM_JUMP_MAX


def test_nobody_campaigns_beyond_the_last_term() -> None:
    """It says why, and what to do."""
    node = peer(term=TERM_MAX)
    assert not node.node.campaign()
    node.take()
    refusals = [event for event in node.events if event.kind is EventKind.CAMPAIGN_REFUSED]
    assert "log repair" in refusals[-1].text
    last = peer(term=TERM_MAX - 1)
    assert last.node.campaign()
    for item in last.take():
        decode_raft_message(encode_raft_message(item))


@given(
    st.sampled_from([voters(1, 2, 3), voters(1), voters(2, 3)]),
    st.lists(
        st.tuples(
            st.sampled_from(KINDS),
            st.sampled_from([1, 2, 3, 9]),
            st.fixed_dictionaries(dict.fromkeys(FIELDS, st.sampled_from(NUMBERS))),
        ),
        max_size=6,
    ),
)
def test_whatever_arrives_everything_that_leaves_can_be_encoded(
    configuration: Configuration, arriving: list[tuple[MessageType, int, dict[str, int]]]
) -> None:
    """A message that the codec takes is taken or refused by the core; and afterwards too the node ticks, campaigns and answers."""
    node = Peer(configuration=configuration, terms=[1, 2, 5], hard_state=HardState(term=OWN_TERM, commit=2))
    for kind, sender, fields in arriving:
        item = wrong(kind, sender, fields)
        in_bounds = all(fields[name] <= (TERM_MAX if "term" in name else INDEX_MAX) for name in FIELDS)
        if not in_bounds or item.sender == node.id:  # type: ignore[attr-defined]
            continue  # the codec refuses it; and nobody else's link brings what this node says to itself
        if kind is MessageType.APPEND:
            item = attrs.evolve(item, last_index=fields["index"])  # type: ignore[type-var]
        try:
            node.node.step(item)  # type: ignore[arg-type]
        except ProtocolError:
            pass
        for _ in range(25):
            node.tick()
            for answer in node.take():
                decode_raft_message(encode_raft_message(attrs.evolve(answer, entries=(), last_index=answer.index)))
    assert node.hard_state.term <= TERM_MAX
