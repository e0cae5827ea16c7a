"""Clever against simple, with Hypothesis: quorums, configurations and their bytes, windows, the log, and refusals."""

import itertools
import pickle
import random
from functools import partial

import attrs
import pytest
from harness import PLAIN, Peer, data, entries, voters
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_eventlog.errors import EventLogError, NotLeader
from trio_eventlog.ids import NOBODY, NodeId
from trio_eventlog.raft import (
    ChangeKind,
    Configuration,
    ConfigurationChange,
    ConfigurationError,
    Entry,
    EntryKind,
    HardState,
    MemoryLog,
    Message,
    MessageType,
    NodeChange,
    ProposalDropped,
    ProposedEntry,
    ProtocolError,
    RaftNode,
    RaftSettings,
    ReadMode,
    SnapshotMetadata,
    Transition,
    change_configuration,
    decode_change,
    decode_configuration,
    encode_change,
    encode_configuration,
    quorum,
)
from trio_eventlog.raft.configuration import contradiction
from trio_eventlog.raft.log import Unstable
from trio_eventlog.raft.progress import Inflights
from trio_eventlog.raft.quorum import VoteResult
from trio_eventlog.testing.defaults import default

ids = st.integers(1, 6).map(NodeId)
id_sets = st.integers(0, 63).map(lambda bits: frozenset(NodeId(n) for n in range(1, 7) if bits >> n - 1 & 1))
indexes = st.dictionaries(ids, st.integers(0, 20))
ballots = st.dictionaries(ids, st.booleans())


# Quorums.


def committed_by_counting(voters_: frozenset[NodeId], acked: dict[NodeId, int]) -> int:
    """The largest index that more than half of the voters have, by trying them all."""
    if not voters_:
        return quorum.UNBOUNDED
    return max(index for index in range(21) if 2 * sum(acked.get(voter, 0) >= index for voter in voters_) > len(voters_))


@given(id_sets, id_sets, indexes)
def test_committed_index_is_the_brute_force_one(
    incoming: frozenset[NodeId], outgoing: frozenset[NodeId], acked: dict[NodeId, int]
) -> None:
    """For one majority, and for two: the smaller of both."""

    def lookup(voter: NodeId) -> int:
        return acked.get(voter, 0)

    first = committed_by_counting(incoming, acked)
    assert quorum.majority_committed(incoming, lookup) == first
    assert quorum.joint_committed(incoming, outgoing, lookup) == min(first, committed_by_counting(outgoing, acked))


def outcomes(voters_: frozenset[NodeId], votes: dict[NodeId, bool]) -> set[bool]:
    """What can still come out, over all ways the silent voters may vote."""
    silent = sorted(voter for voter in voters_ if voter not in votes)
    possible = set()
    for rest in itertools.product((True, False), repeat=len(silent)):
        full = {**votes, **dict(zip(silent, rest, strict=True))}
        possible.add(not voters_ or 2 * sum(full[voter] for voter in voters_) > len(voters_))
    return possible


@given(id_sets, id_sets, ballots)
def test_a_vote_is_decided_exactly_when_the_rest_cannot_change_it(
    incoming: frozenset[NodeId], outgoing: frozenset[NodeId], votes: dict[NodeId, bool]
) -> None:
    """By trying every way the others might vote; a joint vote is lost as soon as one half is."""
    names = {frozenset({True}): VoteResult.WON, frozenset({False}): VoteResult.LOST}
    first = names.get(frozenset(outcomes(incoming, votes)), VoteResult.PENDING)
    assert quorum.majority_vote(incoming, votes) is first
    second = names.get(frozenset(outcomes(outgoing, votes)), VoteResult.PENDING)
    both = quorum.joint_vote(incoming, outgoing, votes)
    if VoteResult.LOST in (first, second):
        assert both is VoteResult.LOST
    else:
        assert (both is VoteResult.WON) is (first is second is VoteResult.WON)


# Configurations.

operations = st.builds(NodeChange, st.sampled_from(ChangeKind), st.one_of(ids, st.just(NOBODY)))
changes = st.builds(
    ConfigurationChange,
    changes=st.lists(operations, max_size=4).map(tuple),
    transition=st.sampled_from(Transition),
    context=st.binary(max_size=8),
)


def majorities(held: Configuration) -> list[frozenset[NodeId]]:
    """All minimal sets that can decide."""
    everyone = sorted(held.all_voters)
    deciding = []
    for size in range(len(everyone) + 1):
        for chosen in itertools.combinations(everyone, size):
            votes = dict.fromkeys(chosen, True)
            if quorum.joint_vote(held.voters, held.voters_outgoing, votes) is VoteResult.WON:
                deciding.append(frozenset(chosen))
    return deciding


@settings(max_examples=300)
@given(st.lists(changes, max_size=8))
def test_every_legal_change_keeps_quorums_overlapping(wanted: list[ConfigurationChange]) -> None:
    """Any quorum before and any quorum after a change share a node: no two leaders, nothing committed is lost."""
    held = voters(1, 2, 3)
    for change in wanted:
        try:
            after = change_configuration(held, change).configuration
        except ConfigurationError:
            continue
        assert contradiction(after) == ""
        assert after.voters
        for before_set, after_set in itertools.product(majorities(held), majorities(after)):
            assert before_set & after_set, f"{held} -> {after}"
        held = after


@given(st.lists(changes, max_size=8))
def test_a_refused_change_changes_nothing_and_a_joint_one_can_be_left(wanted: list[ConfigurationChange]) -> None:
    """Whatever is asked for, there is a way out of a joint configuration, to the incoming voters."""
    held = voters(1, 2, 3)
    for change in wanted:
        try:
            held = change_configuration(held, change).configuration
        except ConfigurationError:
            continue
    if held.is_joint:
        left = change_configuration(held, ConfigurationChange()).configuration
        assert left.voters == held.voters
        assert left.learners == held.learners | held.learners_next
        assert not left.is_joint


@given(changes)
def test_a_change_survives_its_bytes(change: ConfigurationChange) -> None:
    """Decode of encode."""
    assert decode_change(encode_change(change)) == change


@given(
    st.one_of(
        st.binary(max_size=64), changes.map(encode_change).flatmap(lambda b: st.integers(0, 255).map(lambda x: b + bytes([x])))
    )
)
def test_bytes_are_a_change_or_refused(payload: bytes) -> None:
    """Total: no other exception, and one encoding per change."""
    try:
        change = decode_change(payload)
    except ProtocolError:
        return
    assert encode_change(change) == payload


@given(st.lists(changes, max_size=5))
def test_a_configuration_survives_its_bytes(wanted: list[ConfigurationChange]) -> None:
    """Decode of encode, for every configuration that can come about."""
    held = voters(1, 2, 3)
    for change in wanted:
        try:
            held = change_configuration(held, change).configuration
        except ConfigurationError:
            continue
        assert decode_configuration(encode_configuration(held)) == held


@given(st.binary(max_size=80))
def test_bytes_are_a_configuration_or_refused(payload: bytes) -> None:
    """Total, and one encoding per configuration."""
    try:
        held = decode_configuration(payload)
    except ProtocolError:
        return
    assert encode_configuration(held) == payload


def test_the_bytes_are_these() -> None:
    """The layout is on disks: changing it is a visible act."""
    change = ConfigurationChange(
        changes=(NodeChange(ChangeKind.ADD_VOTER, NodeId(0x0102)), NodeChange(ChangeKind.REMOVE, NodeId(3))),
        transition=Transition.JOINT_EXPLICIT,
        context=b"why",
    )
    assert encode_change(change).hex() == "0102020003000000" + "010201000000000000" + "030300000000000000" + "776879"
    held = Configuration(
        voters=frozenset({NodeId(1), NodeId(2)}),
        voters_outgoing=frozenset({NodeId(1), NodeId(4)}),
        learners=frozenset({NodeId(3)}),
        learners_next=frozenset({NodeId(4)}),
        auto_leave=True,
    )
    numbers = "".join(number.to_bytes(8, "little").hex() for number in (1, 2, 1, 4, 3, 4))
    assert encode_configuration(held).hex() == "0101" + "0200020001000100" + numbers


# Windows and the unstable tail.


@given(st.integers(1, 5), st.integers(0, 20), st.lists(st.tuples(st.sampled_from(["add", "free"]), st.integers(1, 9)), max_size=40))
def test_inflights_are_a_list(max_messages: int, max_bytes: int, steps: list[tuple[str, int]]) -> None:
    """Against a plain list."""
    window = Inflights(max_messages, max_bytes)
    model: list[tuple[int, int]] = []
    last = 0
    for what, amount in steps:
        full = len(model) >= max_messages or bool(max_bytes and sum(size for _, size in model) >= max_bytes)
        assert window.is_full is full
        if what == "free":
            window.free_to(last - amount)
            model = [item for item in model if item[0] > last - amount]
        elif not full:
            last += amount
            window.add(last, amount)
            model.append((last, amount))
        assert list(window) == model
        assert window.size_bytes == sum(size for _, size in model)


@given(st.data())
def test_the_unstable_tail_is_a_dict(draw: st.DataObject) -> None:
    """Appends anywhere at or after a floor, and acknowledgements of what was handed out, against a plain dict."""
    tail = Unstable(1)
    model: dict[int, int] = {}
    stable = 0
    handed: list[tuple[int, int]] = []
    term = 1
    for _ in range(draw.draw(st.integers(0, 15))):
        what = draw.draw(st.sampled_from(["append", "take", "acknowledge"]))
        if what == "append":
            term += draw.draw(st.integers(0, 1))
            end = max([stable, *model]) + 1
            first = draw.draw(st.integers(1, end))
            count = draw.draw(st.integers(1, 3))
            tail.append(entries([term] * count, first))
            model = {index: t for index, t in model.items() if index < first}
            model.update(dict.fromkeys(range(first, first + count), term))
            stable = min(stable, first - 1)
        elif what == "take":
            taken = tail.take()
            if taken:
                handed.append((taken[-1].index, taken[-1].term))
        elif handed:
            index, entry_term = draw.draw(st.sampled_from(handed))
            if tail.stable_to(index, entry_term):
                assert model[index] == entry_term
                model = {i: t for i, t in model.items() if i > index}
                stable = index
        assert {entry.index: entry.term for entry in tail.entries} == model
        assert tail.offset <= tail.offset_in_progress <= tail.offset + len(tail.entries)
        for index in range(1, 20):
            assert tail.term(index) == model.get(index)


@given(st.lists(st.integers(1, 4), max_size=12).map(sorted), st.integers(0, 12), st.integers(1, 4), st.integers(1, 60))
def test_the_log_over_both_parts(terms: list[int], split: int, term: int, limit: int) -> None:
    """Terms, sizes and the search for a conflict do not depend on where the durable part ends."""
    split = min(split, len(terms))
    whole = Peer(terms=terms, hard_state=HardState(term=4)).node._log
    parts_peer = Peer(terms=terms[:split], hard_state=HardState(term=4))
    parts = parts_peer.node._log
    if split < len(terms):
        parts.append(entries(terms[split:], split + 1))
    assert parts.last_index == whole.last_index == len(terms)
    for index in range(len(terms) + 2):
        assert parts.term(index) == whole.term(index)
        held = [i for i in range(min(index, len(terms)) + 1) if i == 0 or terms[i - 1] <= term]
        if index <= len(terms):
            assert parts.find_conflict_by_term(index, term)[0] == max(held)
    for first in range(1, len(terms) + 1):
        fitting = max(1, min(limit // 10, len(terms) - first + 1))
        assert parts.fit(first, len(terms), limit) == whole.fit(first, len(terms), limit) == (first + fitting - 1, 10 * fitting)


# Refusals.


def frozen(node: RaftNode) -> bytes:
    """Everything a node is, its randomness included."""
    return pickle.dumps(node.__dict__)


small = st.integers(0, 6)
any_entries = st.lists(
    st.builds(
        Entry,
        small,
        small,
        st.sampled_from(EntryKind),
        small,
        small,
        st.one_of(st.binary(max_size=3), st.just(encode_change(ConfigurationChange()))),
    ),
    max_size=3,
).map(tuple)
any_configuration = st.builds(
    Configuration, voters=id_sets, voters_outgoing=id_sets, learners=id_sets, learners_next=id_sets, auto_leave=st.booleans()
)
any_message = st.builds(
    Message,
    type=st.sampled_from(MessageType),
    to=st.sampled_from([NodeId(1)] * 9 + [NodeId(2)]),
    sender=st.integers(0, 4).map(NodeId),
    term=small,
    log_term=small,
    index=small,
    last_index=small,
    commit=small,
    commit_term=small,
    reject=st.booleans(),
    reject_hint=small,
    context=st.one_of(st.just(b""), st.binary(max_size=17), st.just(b"CampaignTransfer")),
    entries=any_entries,
    snapshot=st.none() | st.builds(SnapshotMetadata, index=small, term=small, configuration=any_configuration),
    priority=small,
    transferee=st.integers(0, 4).map(NodeId),
)


def sensible(message: Message) -> Message:
    """The same message with its entries in order, so that more than refusals are tried."""
    if message.type is not MessageType.APPEND:
        return message
    term = message.log_term
    ordered = []
    for index, entry in enumerate(message.entries, message.index + 1):
        term = max(term, min(entry.term, message.term), 1)
        ordered.append(attrs.evolve(entry, index=index, term=term))
    return attrs.evolve(message, entries=tuple(ordered), last_index=message.index + len(ordered))


node_settings = st.builds(
    partial(default, RaftSettings),
    election_timeout_ticks=st.just(3),
    pre_vote=st.booleans(),
    check_quorum=st.just(True),
    read_mode=st.sampled_from(ReadMode),
    priority=st.integers(0, 1),
    pending_reads_max=st.just(2),
    uncommitted_bytes_max=st.just(25),
    forward_proposals=st.booleans(),
    step_down_on_removal=st.booleans(),
)


@settings(max_examples=200)
@given(st.data(), node_settings)
def test_an_exception_leaves_the_node_unchanged_and_nothing_kills_it(draw: st.DataObject, chosen: RaftSettings) -> None:
    """Any messages, honest or not, and any requests: what is refused is refused by a named error, and changes nothing at all."""
    peer = Peer(settings=chosen, terms=draw.draw(st.lists(st.integers(1, 3), max_size=4).map(sorted)), hard_state=HardState(term=3))
    peer.log.sendable_snapshot = None
    node = peer.node
    for _ in range(draw.draw(st.integers(1, 25))):
        what = draw.draw(st.sampled_from(["step", "step", "sensible", "sensible", "take", "tick", "campaign", "win", "request"]))
        before = frozen(node)
        try:
            if what in ("step", "sensible"):
                message = draw.draw(any_message)
                node.step(sensible(message) if what == "sensible" else message)
            elif what == "take":
                peer.take()
            elif what == "tick":
                node.tick()
            elif what == "campaign":
                node.campaign()
            elif what == "win":
                for kind in (MessageType.PRE_VOTE_RESPONSE, MessageType.VOTE_RESPONSE):
                    for sender in (NodeId(1), NodeId(2)):
                        term = node.term + (kind is MessageType.PRE_VOTE_RESPONSE)
                        node.step(Message(type=kind, to=NodeId(1), sender=sender, term=term))
            else:
                request(draw, node)
        except (ProtocolError, ProposalDropped, NotLeader, ConfigurationError):
            assert what != "take"
            if what != "win":
                assert frozen(node) == before
        assert node.applied_index <= node.commit_index <= node.last_index


def request(draw: st.DataObject, node: RaftNode) -> None:
    match draw.draw(st.integers(0, 6)):
        case 0:
            node.propose([data(size_bytes=draw.draw(st.integers(1, 30))) for _ in range(draw.draw(st.integers(1, 3)))])
        case 1:
            node.propose([ProposedEntry(EntryKind.CONFIGURATION, 0, 64, draw.draw(st.binary(max_size=10)))])
        case 2:
            node.propose_configuration(draw.draw(changes))
        case 3:
            node.read_index(b"question")
        case 4:
            node.transfer_leader(draw.draw(ids))
        case 5:
            node.peer_reset(draw.draw(ids))
        case _:
            node.report_snapshot(draw.draw(ids), draw.draw(st.booleans()))


def test_errors_are_the_packages_own() -> None:
    """One base class to catch."""
    for kind in (ProtocolError, ProposalDropped, NotLeader, ConfigurationError):
        assert issubclass(kind, EventLogError)


# Settings.


@pytest.mark.parametrize(
    "wrong",
    [
        {"heartbeat_ticks": 0},
        {"election_timeout_ticks": 1},
        {"append_bytes_max": 0},
        {"inflight_messages_max": 0},
        {"inflight_bytes_max": 5},
        {"inflight_bytes_max": -1},
        {"uncommitted_bytes_max": 0},
        {"committed_bytes_per_ready_max": 0},
        {"pending_reads_max": 0},
        {"priority": -1},
        {"read_mode": ReadMode.LEASE, "check_quorum": False},
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, object]) -> None:
    """Checked once, when they are made, and named in the text."""
    with pytest.raises(EventLogError, match=next(iter(wrong))):
        attrs.evolve(PLAIN, **wrong)


def test_the_memory_log_is_a_log() -> None:
    """The fake that all of this stands on."""
    rng = random.Random(1)
    log = MemoryLog()
    model: dict[int, int] = {}
    for _ in range(300):
        first = rng.randint(log.base_index + 1, log.last_index + 1)
        new = entries([rng.randint(1, 3)] * rng.randint(1, 3), first)
        log.append(new)
        model = {i: t for i, t in model.items() if i < first} | {entry.index: entry.term for entry in new}
        if rng.random() < 0.1:
            log.compact(rng.randint(log.base_index, log.last_index))
        assert {entry.index: entry.term for entry in log.entries} == {i: t for i, t in model.items() if i > log.base_index}
        if log.base_index:
            assert log.term(log.base_index) == model[log.base_index]
