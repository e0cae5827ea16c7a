"""One test per claim of "In Search of an Understandable Consensus Algorithm" (extended version) and of Ongaro's thesis.

Each docstring names the section and what must hold.
"""

import random
from collections.abc import Sequence

import attrs
import pytest
from harness import (
    PLAIN,
    Cluster,
    Peer,
    acknowledge,
    append_message,
    data,
    entries,
    kinds,
    log_of,
    message,
    only,
    snapshot,
    voters,
)

from trio_eventlog.errors import NotLeader
from trio_eventlog.ids import NOBODY, NodeId
from trio_eventlog.raft import (
    LEAVE_JOINT,
    ChangeKind,
    Configuration,
    ConfigurationChange,
    DropReason,
    EntryKind,
    EventKind,
    HardState,
    Message,
    MessageType,
    NodeChange,
    ProposalDropped,
    ProtocolError,
    RaftNode,
    RaftSettings,
    ReadMode,
    Role,
    Transition,
)
from trio_eventlog.testing.defaults import default

ROLES = [Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEADER]
FULL = default(RaftSettings)


def in_role(role: Role, settings: RaftSettings = PLAIN) -> Peer:
    """A node of three in term 1, in `role`."""
    if role is Role.PRE_CANDIDATE:
        settings = attrs.evolve(settings, pre_vote=True)
    peer = Peer(settings=settings, hard_state=HardState(term=1 if role in (Role.FOLLOWER, Role.PRE_CANDIDATE) else 0))
    if role is Role.FOLLOWER:
        peer.step(append_message(2, 1, (0, 0)))
    elif role is Role.LEADER:
        peer.become_leader()
    else:
        peer.node.campaign()
    peer.take()
    assert peer.node.role is role
    assert peer.node.term == 1
    return peer


# Section 5.1: terms.


@pytest.mark.parametrize("role", ROLES)
def test_a_newer_term_is_adopted_and_makes_a_follower(role: Role) -> None:
    """5.1: if one server's term is smaller than the other's it updates; candidate or leader reverts to follower."""
    peer = in_role(role)
    peer.step(append_message(2, 2, (0, 0)))
    assert peer.node.term == 2
    assert peer.node.role is Role.FOLLOWER
    assert peer.node.leader == 2


@pytest.mark.parametrize("role", ROLES)
def test_a_message_of_an_older_term_changes_nothing(role: Role) -> None:
    """5.1: a server that receives a request with a stale term rejects it."""
    peer = in_role(role)
    peer.step(append_message(2, 3, (0, 0)))
    peer.take()
    before = peer.node.status()
    peer.step(append_message(3, 2, (0, 0), entries([2])))
    assert peer.node.status() == before
    # At most it tells its own term, so that a leader cut off learns of it (only with pre-vote or check-quorum).
    assert [(item.type, item.term, item.index) for item in peer.take()] in ([], [(MessageType.APPEND_RESPONSE, 3, 0)])


def test_a_vote_of_an_older_term_is_ignored() -> None:
    """5.1: the same for RequestVote; nobody votes in the past."""
    peer = Peer(hard_state=HardState(term=3))
    peer.step(message(MessageType.VOTE, 2, 2))
    assert peer.take() == []
    assert peer.node.term == 3


# Section 5.2: elections.


def test_servers_start_as_followers() -> None:
    """5.2: when servers start up, they begin as followers."""
    assert Peer().node.role is Role.FOLLOWER


def test_a_leader_sends_heartbeats() -> None:
    """5.2: leaders send periodic heartbeats (APPEND without entries; here a message of its own) to all followers."""
    peer = Peer(settings=attrs.evolve(PLAIN, heartbeat_ticks=2)).become_leader()
    peer.take()
    peer.tick(1)
    assert peer.take() == []
    peer.tick(1)
    sent = peer.take()
    assert [(item.type, item.to, item.term) for item in sent] == [(MessageType.HEARTBEAT, 2, 1), (MessageType.HEARTBEAT, 3, 1)]


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_an_election_timeout_starts_an_election(role: Role) -> None:
    """5.2: a follower without word from a leader, and a candidate that neither wins nor loses, starts an election: it increments
    its term, votes for itself and asks all others in parallel."""
    peer = in_role(role)
    peer.tick(2 * PLAIN.election_timeout_ticks)
    sent = peer.take()
    assert peer.node.role is Role.CANDIDATE
    assert peer.node.term == 2
    assert peer.hard_state == HardState(term=2, vote=NodeId(1), commit=peer.hard_state.commit)
    assert [(item.type, item.to, item.term) for item in sent] == [(MessageType.VOTE, 2, 2), (MessageType.VOTE, 3, 2)]


@pytest.mark.parametrize(
    ("size", "granted", "refused", "role"),
    [
        (1, [], [], Role.LEADER),
        (3, [2], [], Role.LEADER),
        (3, [2, 3], [], Role.LEADER),
        (5, [2, 3], [], Role.LEADER),
        (5, [2, 3], [4, 5], Role.LEADER),
        (5, [2], [3, 4, 5], Role.FOLLOWER),
        (3, [], [2, 3], Role.FOLLOWER),
        (4, [2], [3, 4], Role.FOLLOWER),
        (3, [], [], Role.CANDIDATE),
        (5, [2], [3], Role.CANDIDATE),
        (4, [2], [3], Role.CANDIDATE),
    ],
)
def test_a_majority_of_votes_makes_a_leader(size: int, granted: Sequence[int], refused: Sequence[int], role: Role) -> None:
    """5.2: a candidate wins with the votes of a majority of the full cluster for the same term."""
    peer = Peer(configuration=voters(*range(1, size + 1)))
    peer.node.campaign()
    peer.take()
    for node in granted:
        peer.step(message(MessageType.VOTE_RESPONSE, node, 1))
    for node in refused:
        peer.step(message(MessageType.VOTE_RESPONSE, node, 1, reject=True))
    assert peer.node.role is role


def test_a_vote_is_counted_once() -> None:
    """5.2: a majority is one of servers, not of messages."""
    peer = Peer(configuration=voters(1, 2, 3, 4, 5))
    peer.node.campaign()
    peer.take()
    for _ in range(3):
        peer.step(message(MessageType.VOTE_RESPONSE, 2, 1))
    assert peer.node.role is Role.CANDIDATE
    peer.step(message(MessageType.VOTE_RESPONSE, 2, 1, reject=True))
    peer.step(message(MessageType.VOTE_RESPONSE, 3, 1))
    assert peer.node.is_leader


@pytest.mark.parametrize(
    ("vote", "asker", "granted"), [(NOBODY, 2, True), (NOBODY, 3, True), (2, 2, True), (3, 3, True), (2, 3, False), (3, 2, False)]
)
def test_one_vote_a_term_first_come_first_served(vote: int, asker: int, granted: bool) -> None:
    """5.2: each server votes for at most one candidate in a given term."""
    peer = Peer(hard_state=HardState(term=1, vote=NodeId(vote)))
    peer.step(message(MessageType.VOTE, asker, 1))
    (answer,) = peer.take()
    assert (answer.type, answer.to, answer.reject) == (MessageType.VOTE_RESPONSE, asker, not granted)
    assert peer.hard_state.vote == (asker if granted else vote)


@pytest.mark.parametrize("term", [1, 2])
def test_a_candidate_gives_up_for_a_leader_of_its_term(term: int) -> None:
    """5.2: a candidate that hears of a leader whose term is at least its own returns to follower."""
    peer = in_role(Role.CANDIDATE)
    peer.step(append_message(2, term, (0, 0)))
    assert (peer.node.role, peer.node.term, peer.node.leader) == (Role.FOLLOWER, term, 2)


def test_election_timeouts_are_random_within_their_bounds() -> None:
    """5.2: timeouts are chosen randomly from a fixed interval; here [t, 2t) ticks."""
    base = PLAIN.election_timeout_ticks
    drawn = {Peer(seed=seed).node.randomized_election_timeout_ticks for seed in range(200)}
    assert drawn == set(range(base, 2 * base))


@pytest.mark.parametrize("kind", [MessageType.HEARTBEAT, MessageType.APPEND])
def test_a_follower_that_hears_its_leader_does_not_campaign(kind: MessageType) -> None:
    """5.2: a server remains in follower state as long as it receives valid messages from a leader."""
    peer = Peer()
    for _ in range(5 * PLAIN.election_timeout_ticks):
        peer.step(append_message(2, 1, (0, 0)) if kind is MessageType.APPEND else message(kind, 2, 1))
        peer.tick(PLAIN.election_timeout_ticks - 1)
        peer.take()
        assert peer.node.role is Role.FOLLOWER


def test_a_vote_given_puts_off_the_own_campaign() -> None:
    """5.2: or grants a vote to a candidate. A refused one does not."""
    peer = Peer(terms=[1], hard_state=HardState(term=2))
    peer.tick(3)
    peer.step(message(MessageType.VOTE, 2, 2))
    assert peer.node.election_elapsed_ticks == 3
    peer.step(message(MessageType.VOTE, 3, 2, log_term=1, index=1))
    assert peer.node.election_elapsed_ticks == 0


def test_split_votes_are_rare() -> None:
    """5.2: randomization spreads servers out: mostly one of five times out alone."""
    alone = 0
    for seed in range(300):
        timeouts = [Peer(number, seed=seed).node.randomized_election_timeout_ticks for number in range(1, 6)]
        alone += timeouts.count(min(timeouts)) == 1
    assert alone > 300 * 0.6


def test_timeouts_are_drawn_anew_for_each_election() -> None:
    """5.2: each candidate restarts its randomized timeout at the start of an election."""
    peer = Peer()
    drawn = []
    for _ in range(30):
        peer.node.campaign()
        drawn.append(peer.node.randomized_election_timeout_ticks)
    assert len(set(drawn)) > 3


# Section 5.3: replication.


def test_a_leader_appends_and_sends_in_parallel() -> None:
    """5.3: the leader appends the command to its log and issues AppendEntries in parallel to each of the others, with index and
    term of the entry that precedes the new ones."""
    peer = Peer().become_leader()
    index = peer.propose(b"command")
    assert index == 2
    sent = peer.take()
    assert [(m.type, m.to, m.index, m.log_term, m.last_index, m.commit) for m in sent] == [
        (MessageType.APPEND, node, 1, 1, 2, 1) for node in (2, 3)
    ]
    assert sent[0].entries[0].payload == b"command"
    assert peer.node.commit_index == 1


def test_an_entry_commits_on_a_majority_and_is_applied() -> None:
    """5.3: an entry is committed once the leader that created it has replicated it on a majority; the leader then applies it, and
    tells its commit index in later messages."""
    peer = Peer().become_leader()
    peer.propose(b"command")
    acknowledge(peer, peer.take(), only=[2])
    sent = peer.take()
    assert peer.node.commit_index == 2
    assert peer.applied[-1].payload == b"command"
    assert {m.to: m.commit for m in only(sent, MessageType.APPEND)} == {2: 2, 3: 2}


@pytest.mark.parametrize(
    ("size", "acknowledging", "committed"),
    [
        (1, [], True),
        (3, [], False),
        (3, [2], True),
        (3, [2, 3], True),
        (5, [], False),
        (5, [2], False),
        (5, [2, 3], True),
        (5, [2, 3, 4, 5], True),
    ],
)
def test_only_a_majority_commits(size: int, acknowledging: Sequence[int], committed: bool) -> None:
    """5.3: for every size of the cluster."""
    peer = Peer(configuration=voters(*range(1, size + 1))).become_leader()
    index = peer.propose()
    acknowledge(peer, peer.take(), only=acknowledging)
    peer.take()
    assert (peer.node.commit_index == index) is committed


@pytest.mark.parametrize("terms", [[], [2], [1, 2], [1]])
def test_committing_commits_all_preceding_entries(terms: Sequence[int]) -> None:
    """5.3: committing an entry also commits all preceding ones in the leader's log, those of previous leaders too."""
    peer = Peer(terms=terms, hard_state=HardState(term=2))
    peer.node.campaign()
    peer.take()
    peer.step(message(MessageType.VOTE_RESPONSE, 2, 3))
    acknowledge(peer, peer.take(), only=[2])
    peer.take()
    assert [entry.term for entry in peer.applied] == [*terms, 3]


@pytest.mark.parametrize("commit", [0, 1, 2, 3])
def test_a_follower_applies_what_it_learns_to_be_committed(commit: int) -> None:
    """5.3: once a follower learns that an entry is committed, it applies it, in log order."""
    peer = Peer()
    peer.step(append_message(2, 1, (0, 0), entries([1, 1, 1]), commit=commit))
    peer.take()
    assert [entry.index for entry in peer.applied] == list(range(1, commit + 1))


def test_a_follower_commits_no_further_than_what_was_sent() -> None:
    """5.3 (figure 2): commitIndex = min(leaderCommit, index of last new entry): what follows may be another leader's."""
    peer = Peer(terms=[1, 1, 1])
    peer.step(append_message(2, 1, (1, 1), entries([1], 2), commit=3))
    assert peer.node.commit_index == 2


@pytest.mark.parametrize(
    ("terms", "previous", "accepted"),
    [
        ([1, 2], (0, 0), True),
        ([1, 2], (1, 1), True),
        ([1, 2], (2, 2), True),
        ([1, 2], (1, 2), False),
        ([1, 2], (3, 3), False),
        ([1, 2], (2, 1), False),
    ],
)
def test_the_consistency_check(terms: Sequence[int], previous: tuple[int, int], accepted: bool) -> None:
    """5.3: a follower without an entry of that index and term refuses the new ones."""
    peer = Peer(terms=terms)
    peer.step(append_message(2, 3, previous))
    (answer,) = peer.take()
    assert answer.type is MessageType.APPEND_RESPONSE
    assert answer.reject is not accepted
    assert answer.index == previous[1]


@pytest.mark.parametrize(
    ("previous", "new", "result"),
    [
        ((2, 2), [3], [1, 2, 3]),
        ((1, 1), [3, 4], [1, 3, 4]),
        ((0, 0), [1], [1, 2]),
        ((0, 0), [3], [3]),
        ((0, 0), [1, 2, 3], [1, 2, 3]),
        ((1, 1), [2], [1, 2]),
    ],
)
def test_conflicting_entries_are_replaced_matching_ones_kept(
    previous: tuple[int, int], new: Sequence[int], result: Sequence[int]
) -> None:
    """5.3: a conflicting entry and all that follow it are deleted; entries already there stay."""
    peer = Peer(terms=[1, 2])
    peer.step(append_message(2, 4, previous, entries(new, previous[1] + 1)))
    peer.take()
    assert peer.terms() == result


FIGURE_7 = {
    "leader": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6],
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "e", "f"])
def test_a_leader_brings_followers_logs_into_agreement(name: str) -> None:
    """5.3, figure 7: whatever a follower's log, it becomes the leader's: what is missing is sent, what is extra is deleted."""
    cluster = Cluster(logs=[FIGURE_7["leader"], FIGURE_7[name], [1]], hard_states=[HardState(term=7)] * 3)
    cluster[1].node.campaign()
    cluster.settle()
    if not cluster[1].node.is_leader:
        cluster.elect(1)
    assert cluster[2].terms() == cluster[1].terms() == [*FIGURE_7["leader"], cluster[1].node.term]
    assert cluster[2].log.entries == cluster[1].log.entries


def test_next_index_skips_conflicting_terms() -> None:
    """5.3, last paragraphs: one refusal per conflicting term, not per entry."""
    leader_log = [1] * 2 + [5] * 30
    cluster = Cluster(logs=[leader_log, [1] * 2 + [2] * 10 + [3] * 10 + [4] * 10, leader_log])
    probes: list[Message] = []
    cluster.drops = lambda item: item.type is MessageType.APPEND and item.to == 2 and probes.append(item) is not None
    leader = cluster.elect(1)
    assert cluster[2].terms() == leader.terms()
    refused = [item for item in probes if item.index > 2]
    assert len(refused) <= 3


# Section 5.4: safety.


def test_a_vote_request_tells_the_last_entry() -> None:
    """5.4.1: RequestVote includes information about the candidate's log."""
    peer = Peer(terms=[1, 2, 2])
    peer.node.campaign()
    assert [(m.log_term, m.index, m.term) for m in peer.take()] == [(2, 3, 3), (2, 3, 3)]


@pytest.mark.parametrize(
    ("terms", "log_term", "index", "granted"),
    [
        ([1], 1, 1, True),
        ([1], 1, 2, True),
        ([1, 1], 1, 1, False),
        ([1], 2, 1, True),
        ([1], 2, 2, True),
        ([1, 1], 2, 1, True),
        ([2], 1, 1, False),
        ([2], 1, 2, False),
        ([1, 2], 1, 1, False),
    ],
)
def test_a_voter_denies_a_less_complete_log(terms: Sequence[int], log_term: int, index: int, granted: bool) -> None:
    """5.4.1: later last term is more up-to-date; with the same, the longer log is."""
    peer = Peer(terms=terms, hard_state=HardState(term=2))
    peer.step(message(MessageType.VOTE, 2, 3, log_term=log_term, index=index))
    (answer,) = peer.take()
    assert answer.reject is not granted


@pytest.mark.parametrize(("index", "committed"), [(1, 0), (2, 0), (3, 3)])
def test_only_entries_of_its_own_term_commit_by_counting(index: int, committed: int) -> None:
    """5.4.2, figure 8: a leader never commits entries of previous terms by counting replicas."""
    peer = Peer(terms=[1, 2], hard_state=HardState(term=2))
    peer.node.campaign()
    peer.take()
    peer.step(message(MessageType.VOTE_RESPONSE, 2, 3))
    peer.take()
    peer.step(message(MessageType.APPEND_RESPONSE, 2, 3, index=index))
    assert peer.node.commit_index == committed


def test_a_new_leader_appends_a_no_op() -> None:
    """8 (and 5.4.2): each leader commits a blank no-op entry at the start of its term."""
    peer = Peer(terms=[1], hard_state=HardState(term=1))
    peer.become_leader()
    assert peer.log.entry(2).kind is EntryKind.NO_OP
    assert peer.node.commit_index == 2


# Section 5.5: crashes; persistence (figure 2).


def test_term_and_vote_survive_a_restart() -> None:
    """5.5, figure 2: currentTerm, votedFor and the log are persistent: no second vote after a restart."""
    cluster = Cluster()
    cluster[1].step(message(MessageType.VOTE, 2, 5))
    (answer,) = cluster[1].take()
    assert not answer.reject
    peer = cluster.restart(1)
    peer.step(message(MessageType.VOTE, 3, 5))
    (answer,) = peer.take()
    assert answer.reject
    peer.step(message(MessageType.VOTE, 2, 5))
    (answer,) = peer.take()
    assert not answer.reject


def test_messages_are_idempotent() -> None:
    """5.5: Raft RPCs are idempotent: a repeated AppendEntries does no harm."""
    peer = Peer()
    item = append_message(2, 1, (0, 0), entries([1, 1]))
    peer.step(item)
    (first,) = peer.take()
    peer.step(item)
    (second,) = peer.take()
    assert first == second
    assert peer.terms() == [1, 1]


def test_a_crashed_follower_catches_up() -> None:
    """5.5: a leader retries; a restarted follower completes."""
    cluster = Cluster()
    leader = cluster.elect(1)
    cluster.down.add(3)
    for number in range(20):
        leader.propose(str(number).encode())
        cluster.settle()
    cluster.down.discard(3)
    cluster.restart(3)
    cluster.tick(3)
    assert cluster[3].log.entries == leader.log.entries
    assert cluster[3].node.commit_index == leader.node.commit_index


# Section 6: configurations.


def change(*operations: tuple[ChangeKind, int], transition: Transition = Transition.AUTO) -> ConfigurationChange:
    return ConfigurationChange(changes=tuple(NodeChange(kind, NodeId(node)) for kind, node in operations), transition=transition)


def test_learners_get_the_log_and_do_not_count() -> None:
    """6 (thesis 4.2.1): new servers join as non-voting members: the leader replicates to them, but they do not count."""
    configuration = Configuration(voters=frozenset({NodeId(1), NodeId(2)}), learners=frozenset({NodeId(3)}))
    peer = Peer(configuration=configuration).become_leader()
    index = peer.propose()
    sent = peer.take()
    assert {m.to for m in sent} == {2, 3}
    acknowledge(peer, sent, only=[3])
    assert peer.node.commit_index < index
    acknowledge(peer, sent, only=[2])
    assert peer.node.commit_index == index


def test_learners_do_not_campaign_but_answer() -> None:
    """Thesis 4.2.1: a learner never starts an election. It votes when asked, as it may have been promoted without knowing."""
    configuration = Configuration(voters=frozenset({NodeId(2), NodeId(3)}), learners=frozenset({NodeId(1)}))
    peer = Peer(configuration=configuration)
    peer.tick(10 * PLAIN.election_timeout_ticks)
    assert peer.node.role is Role.FOLLOWER
    assert not peer.node.campaign()
    peer.step(message(MessageType.VOTE, 2, 1))
    (answer,) = peer.take()
    assert not answer.reject


def test_a_joint_change_needs_both_majorities() -> None:
    """6: elections and entry commitment require separate majorities from both the old and new configurations."""
    cluster = Cluster(6, configuration=voters(1, 2, 3))
    leader = cluster.elect(1)
    joint = change(
        (ChangeKind.ADD_VOTER, 4),
        (ChangeKind.ADD_VOTER, 5),
        (ChangeKind.ADD_VOTER, 6),
        (ChangeKind.REMOVE, 2),
        (ChangeKind.REMOVE, 3),
        transition=Transition.JOINT_EXPLICIT,
    )
    leader.node.propose_configuration(joint)
    cluster.settle()
    assert leader.node.configuration.voters == {1, 4, 5, 6}
    assert leader.node.configuration.voters_outgoing == {1, 2, 3}
    index = leader.propose()
    sent = leader.take()
    acknowledge(leader, sent, only=[4, 5, 6])
    assert leader.node.commit_index < index
    acknowledge(leader, sent, only=[2])
    assert leader.node.commit_index == index


def test_a_joint_election_needs_both_majorities() -> None:
    """6: the same for votes."""
    joint = Configuration(voters=frozenset(map(NodeId, (1, 4, 5))), voters_outgoing=frozenset(map(NodeId, (1, 2, 3))))
    peer = Peer(configuration=joint)
    peer.node.campaign()
    peer.take()
    for node in (4, 5):
        peer.step(message(MessageType.VOTE_RESPONSE, node, 1))
    assert peer.node.role is Role.CANDIDATE
    peer.step(message(MessageType.VOTE_RESPONSE, 3, 1))
    assert peer.node.is_leader


def test_a_joint_configuration_is_left_automatically() -> None:
    """6: once C_old,new is committed, the leader creates C_new and replicates it."""
    cluster = Cluster(4, configuration=voters(1, 2, 3))
    leader = cluster.elect(1)
    leader.node.propose_configuration(change((ChangeKind.ADD_VOTER, 4), (ChangeKind.REMOVE, 3)))
    cluster.settle()
    assert {peer.node.configuration for peer in cluster.peers.values() if peer.id != 3} == {voters(1, 2, 4)}


def test_one_change_at_a_time() -> None:
    """Thesis 4.1: a leader does not begin a change while an earlier one is not applied; nor before its first entry is."""
    peer = Peer().become_leader()
    peer.node.propose_configuration(change((ChangeKind.ADD_LEARNER, 4)))
    with pytest.raises(ProposalDropped) as caught:
        peer.node.propose_configuration(change((ChangeKind.ADD_LEARNER, 5)))
    assert caught.value.reason is DropReason.CONFIGURATION_PENDING
    acknowledge(peer, peer.take())
    peer.take()
    peer.node.propose_configuration(change((ChangeKind.ADD_LEARNER, 5)))

    fresh = Peer(terms=[1], hard_state=HardState(term=1))
    fresh.node.campaign()
    fresh.take()
    fresh.step(message(MessageType.VOTE_RESPONSE, 2, 2))
    with pytest.raises(ProposalDropped):
        fresh.node.propose_configuration(change((ChangeKind.ADD_LEARNER, 5)))


def test_a_change_in_a_batch_that_comes_too_early_becomes_a_no_op() -> None:
    """Thesis 4.1, as etcd-io/raft does it: the rest of the batch is kept, at the same indexes."""
    from trio_eventlog.raft import ProposedEntry, encode_change

    peer = Peer().become_leader()
    payload = encode_change(change((ChangeKind.ADD_LEARNER, 4)))
    proposed = ProposedEntry(EntryKind.CONFIGURATION, 0, 64, payload)
    assert list(peer.node.propose([data(), proposed, proposed, data()])) == [2, 3, 4, 5]
    sent = peer.take()
    assert [entry.kind.name for entry in sent[0].entries] == ["DATA", "CONFIGURATION", "NO_OP", "DATA"]
    assert peer.saw(EventKind.CONFIGURATION_REFUSED)


def test_no_campaign_in_a_configuration_that_is_out_of_date() -> None:
    """6, with configurations that take effect when applied: a committed change comes first, or the wrong quorum is counted."""
    peer = Peer(configuration=voters(1, 2))
    leader = Peer(2, configuration=voters(1, 2)).become_leader()
    leader.node.propose_configuration(change((ChangeKind.ADD_VOTER, 3)))
    leader.take()
    peer.step(append_message(2, 1, (0, 0), [leader.entry(1), leader.entry(2)], commit=2))
    ready = peer.node.ready()
    assert ready is not None
    assert ready.append is not None
    peer.log.append(ready.append.entries)
    peer.node.on_appended(ready.append.token)
    assert not peer.node.campaign()
    peer.tick(3 * PLAIN.election_timeout_ticks)
    assert peer.node.role is Role.FOLLOWER
    peer.take()
    assert peer.node.configuration == voters(1, 2, 3)
    assert peer.node.campaign()


def test_leaving_asks_for_a_joint_configuration_and_entering_for_none() -> None:
    """6: the two steps alternate."""
    peer = Peer().become_leader()
    with pytest.raises(Exception, match="can't leave a non-joint config"):
        peer.node.propose_configuration(LEAVE_JOINT)
    peer.node.propose_configuration(change((ChangeKind.ADD_LEARNER, 4), transition=Transition.JOINT_EXPLICIT))
    acknowledge(peer, peer.take())
    peer.take()
    assert peer.node.configuration.is_joint
    with pytest.raises(Exception, match="joint"):
        peer.node.propose_configuration(change((ChangeKind.ADD_LEARNER, 5)))
    peer.node.propose_configuration(LEAVE_JOINT)
    acknowledge(peer, peer.take())
    peer.take()
    assert not peer.node.configuration.is_joint


def test_a_leader_manages_its_own_removal_and_steps_down() -> None:
    """6: a leader that is not part of C_new steps down once C_new is committed; it does not count itself meanwhile."""
    cluster = Cluster()
    leader = cluster.elect(1)
    leader.node.propose_configuration(change((ChangeKind.REMOVE, 1)))
    cluster.settle()
    assert leader.node.role is Role.FOLLOWER
    assert leader.saw(EventKind.REMOVED)
    successor = cluster.wait_leader()
    assert successor.id in (2, 3)
    assert successor.node.configuration == voters(2, 3)


def test_a_removed_server_does_not_disrupt() -> None:
    """6 (thesis 4.2.3): servers disregard RequestVote while they believe a current leader exists."""
    cluster = Cluster(settings=attrs.evolve(FULL, pre_vote=False))
    leader = cluster.elect(1)
    term = leader.node.term
    for number in (2, 3):
        cluster[number].step(message(MessageType.VOTE, 3 if number == 2 else 2, term + 5, to=number, index=100, log_term=term))
        assert cluster[number].take() == []
        assert cluster[number].node.term == term
    leader.step(message(MessageType.VOTE, 3, term + 5, index=100, log_term=term))
    assert leader.node.is_leader


# Section 7: snapshots.


def test_a_snapshot_replaces_the_log() -> None:
    """7: a follower that is behind discards its whole log in favour of the snapshot, and takes its configuration."""
    peer = Peer(terms=[1, 1], hard_state=HardState(term=2))
    peer.step(message(MessageType.SNAPSHOT, 2, 2, snapshot=snapshot(10, 2, voters(1, 2, 4))))
    (answer,) = peer.take()
    assert (answer.type, answer.index, answer.reject) == (MessageType.APPEND_RESPONSE, 10, False)
    assert (peer.log.first_index, peer.log.last_index, peer.node.commit_index) == (11, 10, 10)
    assert peer.node.configuration == voters(1, 2, 4)
    assert peer.node.applied_index == 10


def test_a_snapshot_of_a_prefix_keeps_the_rest() -> None:
    """7: if the snapshot describes a prefix of its log, entries following it are retained."""
    peer = Peer(terms=[1, 1, 1])
    peer.step(message(MessageType.SNAPSHOT, 2, 1, snapshot=snapshot(2, 1, voters(1, 2, 3))))
    (answer,) = peer.take()
    assert answer.index == 2
    assert peer.terms() == [1, 1, 1]
    assert peer.node.commit_index == 2


def test_a_leader_sends_a_snapshot_when_the_log_is_gone() -> None:
    """7: when the leader has discarded the next entry a follower needs, it sends a snapshot, and resumes behind it."""
    cluster = Cluster()
    leader = cluster.elect(1)
    cluster.down.add(3)
    for _ in range(5):
        leader.propose()
        cluster.settle()
    leader.log.sendable_snapshot = snapshot(5, leader.log.term(5), leader.node.configuration)
    leader.log.compact(5)
    cluster.down.discard(3)
    cluster.restart(3)
    cluster.tick(3)
    assert cluster[3].log.base_index == 5
    assert cluster[3].log.last_index == leader.log.last_index
    assert leader.node.status().progress[NodeId(3)].state == "StateReplicate"


# Section 8: reads.


def reader(settings: RaftSettings = PLAIN, size: int = 3) -> Peer:
    return Peer(configuration=voters(*range(1, size + 1)), settings=settings).become_leader()


def echo(peer: Peer, sent: Sequence[Message], only_of: Sequence[int]) -> None:
    """Answer the heartbeats among `sent` that went to these."""
    for item in sent:
        if item.type is MessageType.HEARTBEAT and item.to in only_of:
            peer.step(message(MessageType.HEARTBEAT_RESPONSE, item.to, item.term, context=item.context))


def test_a_read_waits_for_a_round_of_heartbeats() -> None:
    """8: a leader checks that it has not been deposed, by exchanging heartbeats with a majority, before it answers a read."""
    peer = reader(size=5)
    peer.node.read_index(b"question")
    sent = peer.take()
    assert kinds(sent) == [MessageType.HEARTBEAT] * 4
    echo(peer, sent, [2])
    peer.take()
    assert peer.reads == []
    echo(peer, sent, [3])
    peer.take()
    assert [(read.index, read.context) for read in peer.reads] == [(1, b"question")]


def test_one_round_serves_all_reads_asked_before_it() -> None:
    """Thesis 6.4: reads are batched."""
    peer = reader()
    for number in range(100):
        peer.node.read_index(str(number).encode())
    sent = peer.take()
    assert len(sent) == 2
    echo(peer, sent, [2])
    peer.take()
    assert [read.context for read in peer.reads] == [str(number).encode() for number in range(100)]


def test_an_old_heartbeat_confirms_no_new_read() -> None:
    """8: the exchange has to come after the question."""
    peer = reader()
    peer.node.read_index(b"first")
    old = peer.take()
    peer.node.read_index(b"second")
    peer.take()
    echo(peer, old, [2, 3])
    peer.take()
    assert [read.context for read in peer.reads] == [b"first"]


def test_a_lost_round_is_repeated_with_the_next_heartbeat() -> None:
    """8: reads survive lost messages."""
    peer = reader()
    peer.node.read_index(b"question")
    peer.take()
    peer.tick()
    echo(peer, peer.take(), [3])
    peer.take()
    assert [read.context for read in peer.reads] == [b"question"]


@pytest.mark.parametrize("size", [1, 3])
def test_a_read_waits_for_the_first_commit_of_the_term(size: int) -> None:
    """8: a leader must know which entries are committed, and at the start of its term it may not: alone or not."""
    peer = Peer(configuration=voters(*range(1, size + 1)), terms=[1, 1], hard_state=HardState(term=1))
    peer.disk_works = False
    peer.node.campaign()
    peer.take()
    peer.persist()
    peer.take()
    if size > 1:
        peer.step(message(MessageType.VOTE_RESPONSE, 2, 2))
    assert peer.node.is_leader
    peer.node.read_index(b"question")
    sent = peer.take()
    assert peer.reads == []
    peer.disk_works = True
    peer.persist()
    acknowledge(peer, sent)
    sent = peer.take()
    echo(peer, sent, [2])
    peer.take()
    assert [(read.index, read.context) for read in peer.reads] == [(3, b"question")]


def test_a_follower_asks_the_leader() -> None:
    """Thesis 6.4: followers may serve reads after asking the leader for its commit index."""
    cluster = Cluster()
    leader = cluster.elect(1)
    leader.propose()
    cluster.settle()
    cluster[2].node.read_index(b"question")
    cluster.settle()
    assert [(read.index, read.context) for read in cluster[2].reads] == [(2, b"question")]


def test_reads_of_a_deposed_leader_are_not_answered() -> None:
    """8: never a stale answer; the caller is told that there will be none."""
    peer = reader()
    peer.node.read_index(b"question")
    sent = peer.take()
    peer.step(append_message(2, 5, (0, 0)))
    echo(peer, sent, [2, 3])
    peer.take()
    assert peer.reads == []
    (event,) = [event for event in peer.events if event.kind is EventKind.READS_DROPPED]
    assert event.contexts == (b"question",)


def test_reads_without_a_leader_are_refused() -> None:
    """8: nobody to ask."""
    with pytest.raises(NotLeader):
        Peer().node.read_index(b"question")


LEASE = attrs.evolve(FULL, read_mode=ReadMode.LEASE, pre_vote=False)


def test_a_lease_answers_at_once_and_expires() -> None:
    """Thesis 6.4.1: a leader answered by a quorum within an election timeout needs no round; later it does."""
    peer = reader(LEASE)
    peer.tick()
    echo(peer, peer.take(), [2])
    peer.node.read_index(b"at once")
    assert MessageType.HEARTBEAT not in kinds(peer.take())
    assert [read.context for read in peer.reads] == [b"at once"]
    for _ in range(LEASE.election_timeout_ticks - 1):
        assert peer.node.is_leader
        peer.tick()
    peer.take()
    peer.node.read_index(b"expired")
    sent = peer.take()
    assert MessageType.HEARTBEAT in kinds(sent)
    assert [read.context for read in peer.reads] == [b"at once"]
    echo(peer, sent, [3])
    peer.take()
    assert [read.context for read in peer.reads] == [b"at once", b"expired"]


def test_a_late_answer_does_not_renew_the_lease() -> None:
    """Thesis 6.4.1: the lease runs from when the heartbeat was sent, not from when its answer came."""
    peer = reader(LEASE)
    peer.tick()
    old = peer.take()
    peer.tick(LEASE.election_timeout_ticks - 2)
    echo(peer, old, [2, 3])
    peer.take()
    peer.tick(1)
    peer.take()
    peer.node.read_index(b"question")
    peer.take()
    assert peer.reads == []


def test_a_restarted_voter_keeps_the_lease_it_granted() -> None:
    """Thesis 6.4.1: it has forgotten whom it heard when; it waits one election timeout before it votes."""
    peer = Peer(settings=LEASE, hard_state=HardState(term=3))
    peer.step(message(MessageType.VOTE, 2, 4))
    assert peer.take() == []
    assert peer.node.term == 3
    peer.tick(LEASE.election_timeout_ticks)
    peer.take()
    peer.step(message(MessageType.VOTE, 2, 9))
    (answer,) = only(peer.take(), MessageType.VOTE_RESPONSE)
    assert not answer.reject


# Thesis 3.10: transfer of leadership.


def test_leadership_is_transferred() -> None:
    """Thesis 3.10: the leader stops accepting requests, brings the target up to date and tells it to campaign."""
    cluster = Cluster()
    leader = cluster.elect(1)
    leader.node.transfer_leader(NodeId(3))
    cluster.settle()
    assert cluster[3].node.is_leader
    assert leader.node.leader == 3


def test_a_transfer_waits_until_the_target_has_everything() -> None:
    """Thesis 3.10: the target's log is completed first."""
    peer = Peer().become_leader()
    peer.propose()
    acknowledge(peer, peer.take(), only=[2])
    peer.take()
    peer.node.transfer_leader(NodeId(3))
    assert MessageType.TIMEOUT_NOW not in kinds(peer.take())
    peer.step(message(MessageType.APPEND_RESPONSE, 3, 1, index=2))
    assert [m.to for m in only(peer.take(), MessageType.TIMEOUT_NOW)] == [3]


def test_proposals_are_refused_during_a_transfer_and_taken_after_it_failed() -> None:
    """Thesis 3.10: if it does not complete within an election timeout, the leader aborts it and goes on."""
    peer = Peer().become_leader()
    peer.node.transfer_leader(NodeId(3))
    with pytest.raises(ProposalDropped) as caught:
        peer.propose()
    assert caught.value.reason is DropReason.TRANSFERRING
    peer.tick(PLAIN.election_timeout_ticks)
    assert peer.node.lead_transferee == NOBODY
    assert peer.propose() == 2


def test_a_transfer_ignores_leases_and_pre_vote() -> None:
    """Thesis 4.2.3: a flag in the request tells that the leader itself has asked for the disruption."""
    cluster = Cluster(settings=FULL)
    leader = cluster.elect(1)
    term = leader.node.term
    leader.node.transfer_leader(NodeId(2))
    cluster.settle()
    assert cluster[2].node.is_leader
    assert cluster[2].node.term == term + 1


def test_a_second_transfer_replaces_the_first() -> None:
    """Thesis 3.10: the newest wish counts; the same one again changes nothing."""
    peer = Peer().become_leader()
    peer.propose()
    peer.take()
    peer.node.transfer_leader(NodeId(2))
    peer.node.transfer_leader(NodeId(3))
    assert peer.node.lead_transferee == 3
    peer.node.transfer_leader(NodeId(1))
    assert peer.node.lead_transferee == NOBODY


def test_a_follower_passes_the_wish_on() -> None:
    """Thesis 3.10: any server may be asked."""
    cluster = Cluster()
    cluster.elect(1)
    cluster[2].node.transfer_leader(NodeId(3))
    cluster.settle()
    assert cluster[3].node.is_leader


# Thesis 6.2, 9.6, 10.2.1.


def test_a_leader_without_quorum_steps_down() -> None:
    """Thesis 6.2: a leader steps down if an election timeout elapses without a round of heartbeats to a majority."""
    cluster = Cluster(settings=FULL)
    leader = cluster.elect(1)
    cluster.cut(1)
    cluster.tick(2 * FULL.election_timeout_ticks)
    assert leader.node.role is not Role.LEADER
    assert leader.saw(EventKind.QUORUM_LOST)
    assert leader.node.term == 1, "pre-vote keeps it from counting up"


def test_pre_vote_keeps_terms_still() -> None:
    """Thesis 9.6: a server increments its term only if it learns that a majority would vote for it."""
    cluster = Cluster(settings=FULL)
    leader = cluster.elect(1)
    cluster.cut(3)
    cluster.tick(10 * FULL.election_timeout_ticks)
    assert cluster[3].node.term == 1
    cluster.heal()
    cluster.tick(FULL.heartbeat_ticks * 3)
    assert leader.node.is_leader
    assert cluster[3].node.leader == 1


def test_a_pre_vote_moves_no_term_and_no_vote() -> None:
    """Thesis 9.6: neither asking nor answering changes anything."""
    peer = Peer(settings=FULL)
    peer.step(message(MessageType.PRE_VOTE, 2, 1))
    peer.step(message(MessageType.PRE_VOTE, 3, 1))
    assert [item.reject for item in peer.take()] == [False, False]
    assert peer.hard_state == HardState()


def test_a_behind_node_gets_no_pre_votes() -> None:
    """Thesis 9.6: the log is compared as in a real vote."""
    peer = Peer(terms=[1, 1], settings=FULL)
    peer.step(message(MessageType.PRE_VOTE, 2, 2, log_term=1, index=1))
    (answer,) = peer.take()
    assert answer.reject
    assert answer.term == 1


def test_the_leaders_disk_works_in_parallel() -> None:
    """Thesis 10.2.1: the leader replicates while it writes; entries commit by the followers' disks before its own is done."""
    peer = Peer().become_leader()
    peer.disk_works = False
    index = peer.propose()
    sent = peer.take()
    assert kinds(sent) == [MessageType.APPEND] * 2
    assert peer.held[-1].entries[0].index == index
    acknowledge(peer, sent, only=[2])
    assert peer.node.commit_index < index, "its own copy does not count yet"
    acknowledge(peer, sent, only=[3])
    assert peer.node.commit_index == index
    assert peer.take() != []
    assert peer.applied[-1].index < index, "but it is not applied before it is durable here"
    peer.persist()
    peer.take()
    assert peer.applied[-1].index == index


def test_pipelining() -> None:
    """Thesis 10.2.1: the leader sends further entries without waiting, once a follower is known to follow."""
    peer = Peer().become_leader()
    sent = []
    for _ in range(5):
        peer.propose()
        sent.extend(only(peer.take(), MessageType.APPEND))
    assert [(m.index, m.last_index) for m in sent if m.to == 2] == [(n, n + 1) for n in range(1, 6)]


# Requests in the wrong place.


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE])
def test_only_a_leader_takes_proposals(role: Role) -> None:
    """5.3: clients talk to the leader; others say who that is, as far as they know."""
    peer = in_role(role)
    with pytest.raises(NotLeader) as caught:
        peer.propose()
    assert caught.value.leader_id == (2 if role is Role.FOLLOWER else 0)
    with pytest.raises(NotLeader):
        peer.node.propose_configuration(change((ChangeKind.ADD_LEARNER, 4)))


def test_forwarding_when_asked_for() -> None:
    """5.3: or they redirect: under `forward_proposals` a follower sends the proposal on."""
    cluster = Cluster(settings=attrs.evolve(PLAIN, forward_proposals=True))
    leader = cluster.elect(1)
    assert list(cluster[2].node.propose([data(b"forwarded")])) == []
    cluster.settle()
    assert leader.applied[-1].payload == cluster[3].applied[-1].payload == b"forwarded"


def test_two_leaders_of_one_term_are_refused() -> None:
    """5.2, election safety: an APPEND of the same term from someone else cannot be right."""
    leader = Peer().become_leader()
    with pytest.raises(ProtocolError, match="both lead"):
        leader.node.step(append_message(2, 1, (0, 0)))
    follower = in_role(Role.FOLLOWER)
    with pytest.raises(ProtocolError, match="both lead"):
        follower.node.step(append_message(3, 1, (0, 0)))


def test_the_same_seed_makes_the_same_node() -> None:
    """All randomness is handed in."""

    def timeouts(seed: int) -> list[int]:
        node = RaftNode(NodeId(1), PLAIN, HardState(), voters(1, 2, 3), log_of([]), random.Random(seed))
        drawn = []
        for _ in range(20):
            node.campaign()
            drawn.append(node.randomized_election_timeout_ticks)
        return drawn

    assert timeouts(7) == timeouts(7) != timeouts(8)
