"""What others have tripped over, each as a test with the story's address. The numbers are those of the design page."""

import random

import attrs
import pytest
from harness import (
    PLAIN,
    Cluster,
    Peer,
    acknowledge,
    append_message,
    entries,
    kinds,
    message,
    only,
    snapshot,
    voters,
)

from trio_eventlog.ids import NOBODY, NodeId
from trio_eventlog.raft import (
    ChangeKind,
    Configuration,
    ConfigurationChange,
    ConfigurationError,
    Entry,
    EntryKind,
    EventKind,
    HardState,
    MemoryLog,
    MessageType,
    NodeChange,
    RaftNode,
    RaftSettings,
    ReadMode,
    Role,
    Transition,
    encode_change,
)
from trio_eventlog.testing.defaults import default

FULL = default(RaftSettings)
T = FULL.election_timeout_ticks


def remove(node: int) -> ConfigurationChange:
    return ConfigurationChange(changes=(NodeChange(ChangeKind.REMOVE, NodeId(node)),))


# 1. Asynchronous-append ABA. cockroachdb/cockroach#124440, etcd-io/etcd#1690


def test_1_a_late_acknowledgement_says_nothing_about_an_entry_written_again() -> None:
    """Entry 1/2 is written, overwritten by 2/2, and written again: the acknowledgement of the first write must not count."""
    peer = Peer(terms=[1], hard_state=HardState(term=1))
    peer.disk_works = False
    peer.step(append_message(2, 1, (1, 1), entries([1], 2)))
    peer.take()
    peer.step(append_message(3, 2, (1, 1), entries([2], 2)))
    peer.take()
    peer.step(append_message(2, 3, (1, 1), entries([1, 3], 2)))
    peer.take()
    assert [[(e.term, e.index) for e in append.entries] for append in peer.held] == [[(1, 2)], [(2, 2)], [(1, 2), (3, 3)]]
    for held in (1, 1):
        peer.persist(held)
        assert peer.node.stable_index == 1
    peer.persist()
    assert peer.node.stable_index == 3
    assert peer.log.entries == [*entries([1]), *entries([1, 3], 2)]


def test_1_an_entry_written_in_an_earlier_term_becomes_stable_all_the_same() -> None:
    """The other side of it: when the term changes while a write is under way, a later append has to acknowledge its entries."""
    peer = Peer(terms=[1], hard_state=HardState(term=1))
    peer.disk_works = False
    peer.step(append_message(2, 1, (1, 1), entries([1], 2)))
    peer.take()
    peer.step(append_message(3, 2, (1, 2)))
    peer.take()
    peer.persist(1)
    assert peer.node.stable_index == 1
    peer.persist()
    assert peer.node.stable_index == 2


# 2. Pre-vote with check-quorum: deadlocks and livelocks.
# etcd-io/etcd#8243, #10355; hashicorp/raft#605; redpanda-data/redpanda#30815


def test_2_a_node_with_a_higher_term_and_a_shorter_log_comes_back() -> None:
    """It cannot win, and it cannot follow a leader of a lower term that ignores its votes: the leader has to learn its term."""
    cluster = Cluster(
        settings=FULL, logs=[[1, 1], [1, 1], [1]], hard_states=[HardState(term=1), HardState(term=1), HardState(term=7)]
    )
    cluster.tick(8 * T)
    leader = cluster.wait_leader()
    cluster.tick(T)
    assert leader.id in (1, 2)
    assert leader.node.term > 7
    assert {peer.node.leader for peer in cluster.peers.values()} == {leader.id}
    assert cluster[3].terms() == leader.terms()


@pytest.mark.parametrize("seed", range(20))
def test_2_different_terms_and_logs_elect_somebody_soon(seed: int) -> None:
    """No combination of terms and logs may keep the others refusing each other for ever."""
    import random

    rng = random.Random(seed)
    logs = [[1] * rng.randrange(4) + [2] * rng.randrange(3) for _ in range(3)]
    states = [HardState(term=rng.randrange(2, 9)) for _ in range(3)]
    cluster = Cluster(settings=FULL, logs=logs, hard_states=states, seed=seed)
    cluster.wait_leader(20 * T)


def test_2_followers_of_a_dead_leader_are_not_held_by_its_lease() -> None:
    """A lease ends with the election timeout at the latest, for whoever campaigns."""
    cluster = Cluster(5, settings=FULL)
    cluster.elect(1)
    cluster.down.add(1)
    cluster.wait_leader(3 * T)


def test_2_a_restarted_leader_does_not_block_the_election() -> None:
    """A leader that restarts is a follower without leader, so no lease binds it or makes it refuse."""
    cluster = Cluster(settings=FULL)
    cluster.elect(1)
    cluster.restart(1)
    assert cluster.wait_leader(3 * T).node.term == 2


# 3. A leader that heartbeats while its disk stalls. hashicorp/raft#503, #614


def test_3_a_leader_whose_disk_stalls_steps_down_and_does_not_campaign() -> None:
    """Its heartbeats would keep the others from electing a node that can commit."""
    cluster = Cluster(settings=FULL)
    leader = cluster.elect(1)
    leader.disk_works = False
    leader.propose()
    cluster.settle()
    cluster.tick(T - 1)
    assert leader.node.is_leader
    cluster.tick(1)
    assert leader.node.role is Role.FOLLOWER
    assert leader.saw(EventKind.APPEND_STALLED)
    assert not leader.node.campaign()
    assert cluster.wait_leader().id in (2, 3)
    leader.disk_works = True
    leader.persist()
    cluster.settle()
    leader.tick()
    assert leader.node.campaign()


def test_3_a_slow_disk_that_goes_on_is_no_stalled_one() -> None:
    """Only an election timeout without any acknowledgement counts."""
    cluster = Cluster(settings=FULL)
    leader = cluster.elect(1)
    leader.disk_works = False
    for _ in range(3 * T):
        leader.propose()
        cluster.collect()
        cluster.under_way.extend(leader.persist(1))
        cluster.settle()
        cluster.tick()
        if len(leader.held) > 3:
            cluster.under_way.extend(leader.persist(len(leader.held) - 2))
    assert leader.node.is_leader


# 4. The removed leader; removal before leaving joint; transfer to a demoted target.
# etcd-io/etcd#11038, #12359, #11326; tikv/raft-rs#584; cockroachdb/cockroach#105578


def test_4_a_removed_leader_does_not_take_the_group_with_it() -> None:
    """It alone knows that its removal is committed, its log is longer, and the other needs its vote: it tells what is committed."""
    cluster = Cluster(2, settings=FULL)
    leader = cluster.elect(1)
    leader.node.propose_configuration(remove(1))
    out = leader.take()
    cluster[2].step(only(out, MessageType.APPEND)[0])
    answers = cluster[2].take()
    leader.propose(b"never replicated")
    leader.take()
    for answer in answers:
        leader.step(answer)
    lost = leader.take()
    assert leader.node.role is Role.FOLLOWER
    assert MessageType.APPEND in kinds(lost), "the message that told the commit index, lost with the links"
    assert cluster[2].node.commit_index < leader.node.commit_index
    assert leader.node.last_index > cluster[2].node.last_index
    cluster.tick(6 * T)
    assert cluster[2].node.is_leader
    assert cluster[2].node.configuration == voters(2)


def test_4_a_promoted_node_that_does_not_know_it_learns_it_from_who_asks_for_its_vote() -> None:
    """It has the longest log, refuses all others, and would not campaign itself, as it takes itself for a learner."""
    before = Configuration(voters=frozenset({NodeId(2)}), learners=frozenset({NodeId(1)}))
    cluster = Cluster(2, FULL, configuration=before)
    leader = cluster.elect(2)
    leader.disk_works = False
    leader.node.propose_configuration(ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_VOTER, NodeId(1)),)))
    cluster.collect()
    leader.propose(b"the leader's own disk is slower")
    cluster.settle()
    leader.persist(1)
    leader.take()
    assert leader.node.configuration == voters(1, 2)
    crashed = cluster.restart(2)
    learner = cluster[1]
    assert (crashed.node.last_index, learner.node.last_index, learner.node.configuration) == (2, 3, before)
    cluster.wait_leader()
    assert learner.node.configuration == voters(1, 2)


@pytest.mark.parametrize(("commit", "commit_term", "believed"), [(2, 1, True), (2, 2, False), (3, 1, False), (4, 1, False)])
def test_4_what_a_voter_tells_counts_only_for_the_same_entry(commit: int, commit_term: int, believed: bool) -> None:
    """Another entry at that index, or none, is not committed by that."""
    peer = Peer(terms=[1, 1, 2], hard_state=HardState(term=2))
    peer.node.campaign()
    peer.take()
    peer.step(message(MessageType.VOTE_RESPONSE, 2, 3, reject=True, commit=commit, commit_term=commit_term))
    assert peer.node.commit_index == (commit if believed else 0)


def test_4_a_leader_cannot_leave_by_a_change_it_has_not_applied() -> None:
    """While its removal is on the way it counts as before, and it does not count itself afterwards."""
    peer = Peer(settings=FULL).become_leader()
    index = peer.node.propose_configuration(remove(1))
    later = peer.propose()
    sent = peer.take()
    acknowledge(peer, [m for m in sent if m.last_index == index], only=[2])
    peer.take()
    assert peer.node.commit_index == index
    assert peer.node.role is Role.FOLLOWER
    assert later > index


def test_4_no_second_change_before_leaving_joint() -> None:
    """Removing further nodes from a joint configuration is refused until it is left."""
    peer = Peer(configuration=voters(1, 2, 3)).become_leader()
    joint = ConfigurationChange(
        changes=(NodeChange(ChangeKind.ADD_VOTER, NodeId(4)), NodeChange(ChangeKind.REMOVE, NodeId(3))),
        transition=Transition.JOINT_EXPLICIT,
    )
    peer.node.propose_configuration(joint)
    acknowledge(peer, peer.take())
    peer.take()
    assert peer.node.configuration.is_joint
    with pytest.raises(ConfigurationError):
        peer.node.propose_configuration(remove(2))


def test_4_the_commit_index_is_durable_with_every_change() -> None:
    """A change in the log says that the one before is committed; to forget it would be to campaign two configurations back."""
    peer = Peer(2, settings=FULL)
    peer.disk_works = False
    leader = Peer(settings=FULL).become_leader()
    leader.propose()
    leader.node.propose_configuration(remove(3))
    (sent,) = [m for m in leader.take() if m.to == 2 and m.last_index == 3]
    peer.step(append_message(1, 1, (0, 0), [leader.log.entry(1)], to=2, commit=1))
    peer.take()
    peer.step(append_message(1, 1, (1, 1), [leader.log.entry(2)], to=2, commit=1))
    peer.take()
    peer.step(sent)
    peer.take()
    assert [append.sync_commit for append in peer.held] == [False, False, True]
    assert peer.held[2].hard_state == HardState(term=1, vote=NOBODY, commit=1), "although it was handed out before"


def test_4_a_joint_configuration_is_left_once() -> None:
    """The automatic leave is proposed once, however many entries are applied meanwhile (etcd-io/etcd#12359)."""
    peer = Peer(configuration=voters(1)).become_leader()
    peer.node.propose_configuration(
        ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_VOTER, NodeId(2)), NodeChange(ChangeKind.ADD_VOTER, NodeId(3))))
    )
    sent = peer.take()
    for _ in range(5):
        peer.propose()
        sent.extend(peer.take())
    for _ in range(10):
        acknowledge(peer, sent)
        sent = peer.take()
    assert peer.node.configuration == voters(1, 2, 3)
    assert [event.kind for event in peer.events].count(EventKind.JOINT_LEFT) == 1


@pytest.mark.parametrize("how", ["timeout", "taken back"])
def test_4_a_joint_configuration_is_left_after_a_transfer_that_failed(how: str) -> None:
    """The transfer puts it off. Afterwards nobody may propose anything any more, so that no entry reminds of it."""
    cluster = Cluster(4, configuration=voters(1, 2, 3), settings=FULL)
    leader = cluster.elect(1)
    leader.node.propose_configuration(
        ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_VOTER, NodeId(4)), NodeChange(ChangeKind.REMOVE, NodeId(3))))
    )
    cluster.drops = lambda item: item.type is MessageType.TIMEOUT_NOW
    leader.node.transfer_leader(NodeId(2))
    cluster.settle()
    assert leader.node.configuration.is_joint
    if how == "timeout":
        cluster.tick(T)
    else:
        leader.node.transfer_leader(leader.id)
        cluster.settle()
    assert leader.node.is_leader
    assert leader.node.configuration == voters(1, 2, 4)


def test_4_a_new_leader_leaves_the_joint_configuration_for_the_old_one() -> None:
    """If the leader dies between the two steps, its successor takes the second."""
    cluster = Cluster(4, configuration=voters(1, 2, 3))
    leader = cluster.elect(1)
    cluster.drops = lambda item: (
        item.type is MessageType.APPEND and any(e.index > 2 and not e.payload.startswith(b"\x01\x00\x02") for e in item.entries)
    )
    leader.node.propose_configuration(
        ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_VOTER, NodeId(4)), NodeChange(ChangeKind.REMOVE, NodeId(3))))
    )
    cluster.settle()
    assert cluster[2].node.configuration.is_joint
    cluster.heal()
    cluster.down.add(1)
    successor = cluster.wait_leader()
    cluster.tick(3)
    assert successor.node.configuration == voters(1, 2, 4)


def test_4_a_transfer_to_a_demoted_node_is_aborted() -> None:
    """A target that is no voter any more could never win, and proposals would be refused until the timeout."""
    cluster = Cluster(settings=FULL)
    leader = cluster.elect(1)
    leader.propose()
    leader.node.propose_configuration(ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_LEARNER, NodeId(3)),)))
    cluster.drops = lambda item: item.sender == 3
    leader.node.transfer_leader(NodeId(3))
    cluster.settle()
    assert leader.node.configuration.learners == {3}
    assert leader.node.lead_transferee == NOBODY
    leader.propose()


def test_4_a_transfer_to_a_learner_is_refused() -> None:
    """It cannot lead."""
    configuration = Configuration(voters=frozenset({NodeId(1)}), learners=frozenset({NodeId(2)}))
    peer = Peer(configuration=configuration).become_leader()
    with pytest.raises(ConfigurationError):
        peer.node.transfer_leader(NodeId(2))
    learner = Peer(2, configuration=configuration)
    learner.step(append_message(1, 1, (0, 0), to=2))
    learner.step(message(MessageType.TIMEOUT_NOW, 1, 1, to=2))
    assert learner.node.role is Role.FOLLOWER


# 5. A snapshot with stale membership loses data. databendlabs/openraft#1808; nats-io/nats-server#7545


def test_5_an_older_snapshot_does_not_bring_back_an_older_configuration() -> None:
    """A snapshot at or below the commit index is ignored, its configuration too."""
    peer = Peer(configuration=voters(1, 2, 3, 4), terms=[1] * 5, hard_state=HardState(term=1, commit=5), applied_index=5)
    peer.step(message(MessageType.SNAPSHOT, 2, 1, snapshot=snapshot(4, 1, voters(1, 2))))
    (answer,) = peer.take()
    assert answer.index == 5
    assert peer.node.configuration == voters(1, 2, 3, 4)


def test_5_an_older_snapshot_does_not_replace_a_compacted_log() -> None:
    """Nor when the log cannot compare any more."""
    log = MemoryLog(5, 1)
    log.append(entries([1] * 3, 6))
    peer = Peer(configuration=voters(1, 2, 3, 4), log=log, hard_state=HardState(term=1, commit=7))
    peer.take()
    peer.step(message(MessageType.SNAPSHOT, 2, 1, snapshot=snapshot(3, 1, voters(1, 2))))
    (answer,) = peer.take()
    assert answer.index == 7
    assert (peer.log.first_index, peer.log.last_index) == (6, 8)
    assert peer.node.configuration == voters(1, 2, 3, 4)


def test_5_a_snapshot_without_this_node_is_ignored() -> None:
    """It would make the node forget that it is a member, and its log with it."""
    peer = Peer(terms=[1], hard_state=HardState(term=1))
    peer.step(message(MessageType.SNAPSHOT, 2, 1, snapshot=snapshot(9, 1, voters(2, 3))))
    peer.take()
    assert peer.terms() == [1]
    assert peer.node.configuration == voters(1, 2, 3)
    assert peer.saw(EventKind.SNAPSHOT_IGNORED)


def test_5_entries_behind_a_snapshot_change_its_configuration() -> None:
    """The snapshot's configuration is that of its index; changes in the log behind it are applied on top, after a restart too."""
    cluster = Cluster(4, configuration=voters(1, 2, 3))
    leader = cluster.elect(1)
    before = leader.node.configuration
    leader.propose()
    cluster.settle()
    index = leader.node.applied_index
    leader.node.propose_configuration(ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_LEARNER, NodeId(4)),)))
    cluster.settle()
    again = Peer(
        2,
        before,
        hard_state=cluster[2].hard_state,
        log=cluster[2].log,
        applied_index=index,
    )
    again.take()
    assert again.node.configuration == leader.node.configuration != before


def test_5_a_change_that_a_snapshot_covers_is_not_applied_on_top_of_it() -> None:
    """The entry was with the machine when the snapshot came, whose configuration is the later one (found by the simulator)."""
    change = remove(4)
    both = [*entries([1], 1), Entry(1, 2, EntryKind.CONFIGURATION, 0, 64, encode_change(change))]
    log = MemoryLog()
    log.append(both)
    node = RaftNode(NodeId(1), FULL, HardState(term=1, commit=2), voters(1, 2, 3, 4), log, random.Random(1))
    ready = node.ready()
    assert ready is not None
    assert ready.committed == range(1, 3)
    # Node 4 was removed at 2 and has come back since.
    node.step(message(MessageType.SNAPSHOT, 2, 1, snapshot=snapshot(9, 1, voters(1, 2, 3, 4))))
    assert node.apply_configuration(change, 2) == voters(1, 2, 3, 4)
    node.on_applied(2)
    ready = node.ready()
    assert ready is not None
    assert ready.append is not None
    assert ready.append.snapshot is not None
    log.install(ready.append.snapshot)
    node.on_appended(ready.append.token)
    assert node.apply_configuration(change, 2) == node.configuration == voters(1, 2, 3, 4)
    assert node.apply_configuration(change, 10) == node.configuration == voters(1, 2, 3), "the same change, made again"


# 6. A follower skips matching entries and truncates only on conflict. databendlabs/openraft#511, #1795


def test_6_a_delayed_append_cuts_nothing_off() -> None:
    """Entries acknowledged and perhaps committed would be lost."""
    peer = Peer()
    old = append_message(2, 1, (0, 0), entries([1]))
    peer.step(append_message(2, 1, (0, 0), entries([1, 1, 1])))
    peer.take()
    peer.step(old)
    (answer,) = peer.take()
    assert peer.terms() == [1, 1, 1]
    assert answer.index == 1, "it acknowledges what that message brought, not more"
    assert peer.held == []


def test_6_only_the_conflicting_part_is_written() -> None:
    """What is there already is not written again."""
    peer = Peer(terms=[1, 1, 2], hard_state=HardState(term=2))
    peer.disk_works = False
    peer.step(append_message(2, 3, (0, 0), entries([1, 1, 3, 3])))
    peer.take()
    (append,) = peer.held
    assert [entry.index for entry in append.entries] == [3, 4]
    assert append.entries[0].index <= peer.log.last_index, "which says: truncate first"


# 7. Progress stuck for ever in probe or snapshot. etcd-io/raft#52, #110


def test_7_a_lost_probe_is_repeated() -> None:
    """A probing follower is paused until it answers, or until a heartbeat is answered."""
    peer = Peer(terms=[1] * 5, hard_state=HardState(term=1))
    peer.node.campaign()
    peer.take()
    peer.step(message(MessageType.VOTE_RESPONSE, 2, 2))
    peer.take()
    peer.propose()
    assert peer.take() == []
    peer.step(message(MessageType.HEARTBEAT_RESPONSE, 2, 2))
    (probe,) = peer.take()
    assert (probe.type, probe.to, probe.index, probe.last_index) == (MessageType.APPEND, 2, 5, 7)


def test_7_a_full_window_of_lost_messages_is_noticed() -> None:
    """All APPENDs that filled the window may be lost: heartbeat answers let an empty one through, whose refusal resets it."""
    settings = attrs.evolve(PLAIN, inflight_messages_max=2)
    cluster = Cluster(2, settings)
    leader = cluster.elect(1)
    cluster.drops = lambda item: item.type is MessageType.APPEND
    for _ in range(5):
        leader.propose()
        cluster.settle()
    cluster.heal()
    cluster.tick(4)
    assert cluster[2].node.commit_index == leader.node.last_index


@pytest.mark.parametrize("ok", [True, False])
def test_7_a_reported_snapshot_ends_the_waiting(ok: bool) -> None:
    """Whether it arrived or not, the follower is probed again, and gets another one if it needs it."""
    cluster = Cluster(2)
    leader = cluster.elect(1)
    leader.propose()
    cluster.settle()
    leader.log.sendable_snapshot = snapshot(2, 1, leader.node.configuration)
    leader.log.compact(2)
    cluster.peers[2] = Peer(2, leader.node.configuration, log=MemoryLog(), hard_state=HardState(term=1))
    progress = leader.node._progress[NodeId(2)]
    progress.match, progress.next = 0, 1
    progress.become_probe()
    cluster.drops = lambda item: item.type is MessageType.SNAPSHOT
    cluster.tick()
    assert leader.node.status().progress[NodeId(2)].state == "StateSnapshot"
    cluster.heal()
    leader.node.report_snapshot(NodeId(2), ok)
    assert leader.node.status().progress[NodeId(2)].state == "StateProbe"
    cluster.tick(4)
    if leader.node.status().progress[NodeId(2)].state == "StateSnapshot":
        leader.node.report_snapshot(NodeId(2), True)
    cluster.tick(4)
    assert cluster[2].log.last_index == leader.log.last_index
    assert leader.node.status().progress[NodeId(2)].state == "StateReplicate"


def test_7_the_log_may_take_over_from_a_snapshot_under_way() -> None:
    """Whatever the follower acknowledges counts, as soon as the log reaches it: not only the snapshot that was sent."""
    peer = Peer(configuration=voters(1, 2), terms=[1] * 10, hard_state=HardState(term=1))
    peer.become_leader()
    peer.log.compact(3)
    progress = peer.node._progress[NodeId(2)]
    progress.match = 0
    progress.become_snapshot(11)
    peer.step(message(MessageType.APPEND_RESPONSE, 2, 2, index=5))
    assert progress.state.value == "StateReplicate"
    assert (progress.match, progress.next) == (5, 12)


def test_7_an_unreachable_follower_is_probed_and_recovers() -> None:
    """`report_unreachable` ends streaming; the answer to the next heartbeat starts it again, with or without new entries."""
    cluster = Cluster(2)
    leader = cluster.elect(1)
    leader.node.report_unreachable(NodeId(2))
    assert leader.node.status().progress[NodeId(2)].state == "StateProbe"
    cluster.tick()
    assert leader.node.status().progress[NodeId(2)].state == "StateReplicate"


# 8. `commit out of range` after lost fsyncs. etcd-io/etcd#10166


def test_8_lost_entries_raise_an_alarm_and_are_sent_again() -> None:
    """A follower whose disk lost acknowledged entries neither dies nor pretends, and its leader believes it."""
    cluster = Cluster()
    leader = cluster.elect(1)
    for _ in range(4):
        leader.propose()
    cluster.settle()
    broken = cluster[3]
    del broken.log.entries[2:]
    broken.hard_state = attrs.evolve(broken.hard_state, commit=2)
    cluster.restart(3, applied_index=1)
    cluster.tick(3)
    assert cluster[3].saw(EventKind.ALARM_COMMIT_OUT_OF_RANGE)
    assert leader.saw(EventKind.ALARM_FOLLOWER_LOST_ENTRIES)
    assert cluster[3].log.entries == leader.log.entries
    assert cluster[3].node.commit_index == leader.node.commit_index


def test_8_a_commit_index_beyond_the_log_is_only_a_hint() -> None:
    """A torn shutdown may keep the commit index and lose the entries it came with, of which nobody was told."""
    peer = Peer(terms=[1, 1], hard_state=HardState(term=1, commit=9))
    assert peer.node.commit_index == 2
    peer.take()
    peer.step(append_message(2, 1, (1, 2), entries([1], 3), commit=3))
    peer.take()
    assert peer.saw(EventKind.ALARM_COMMIT_BEYOND_LOG)
    assert peer.node.commit_index == 3


# 9. Lease reads during transfer. etcd-io/raft#99, #166


def test_9_no_lease_once_somebody_was_told_to_campaign() -> None:
    """The target campaigns in spite of all leases; that may still happen long after the transfer was given up."""
    settings = attrs.evolve(FULL, read_mode=ReadMode.LEASE)
    peer = Peer(settings=settings).become_leader()

    def renew() -> None:
        for item in only(peer.take(), MessageType.HEARTBEAT):
            peer.step(message(MessageType.HEARTBEAT_RESPONSE, item.to, item.term, context=item.context))

    peer.tick()
    renew()
    peer.node.read_index(b"before")
    peer.take()
    assert [read.context for read in peer.reads] == [b"before"]
    peer.node.transfer_leader(NodeId(2))
    peer.node.read_index(b"during")
    sent = peer.take()
    assert MessageType.TIMEOUT_NOW in kinds(sent)
    assert len(peer.reads) == 1
    for _ in range(T):
        peer.tick()
        renew()
    peer.take()
    assert peer.node.lead_transferee == NOBODY
    answered = len(peer.reads)
    peer.node.read_index(b"after")
    sent = peer.take()
    assert len(peer.reads) == answered
    assert MessageType.HEARTBEAT in kinds(sent)


def test_9_a_lease_outlives_the_term_it_was_granted_in() -> None:
    """A refusal of an older question moves this node to a term without a leader. The leader it has promised its lease reads on."""
    settings = attrs.evolve(FULL, read_mode=ReadMode.LEASE)
    peer = Peer(settings=settings)
    peer.tick(T)
    peer.step(append_message(2, 1, (0, 0)))
    peer.take()
    peer.step(message(MessageType.PRE_VOTE_RESPONSE, 3, 3, reject=True))
    assert (peer.node.term, peer.node.leader) == (3, NOBODY)
    for term in (3, 4):
        peer.step(message(MessageType.VOTE, 3, term))
    assert not [item for item in only(peer.take(), MessageType.VOTE_RESPONSE) if not item.reject]
    peer.tick(T)
    peer.step(message(MessageType.VOTE, 3, 4))
    assert [item.reject for item in only(peer.take(), MessageType.VOTE_RESPONSE)] == [False]


def test_9_a_lease_forbids_forgetting() -> None:
    """Followers that forget would elect another leader while this one answers by its lease."""
    settings = attrs.evolve(FULL, read_mode=ReadMode.LEASE)
    peer = Peer(settings=settings)
    peer.step(append_message(2, 1, (0, 0)))
    assert not peer.node.forget_leader()
    assert not peer.node.peer_reset(NodeId(2))
    assert peer.node.leader == 2


# 10. Power loss without sync becomes split brain. nats-io/nats-server#7567


def test_10_nothing_leaves_before_what_it_promises_is_durable() -> None:
    """Votes, append replies, and everything else that speaks for a term the disk does not have yet."""
    peer = Peer()
    peer.disk_works = False
    peer.step(message(MessageType.VOTE, 2, 1))
    assert peer.take() == []
    peer.step(append_message(2, 1, (0, 0), entries([1])))
    assert peer.take() == []
    peer.step(message(MessageType.HEARTBEAT, 2, 1))
    assert peer.take() == []
    released = peer.persist()
    assert peer.hard_state == HardState(term=1, vote=NodeId(2))
    assert peer.log.last_index == 1
    assert kinds(released) == [MessageType.VOTE_RESPONSE, MessageType.APPEND_RESPONSE, MessageType.HEARTBEAT_RESPONSE]


def test_10_append_replies_wait_in_the_steady_state_too() -> None:
    """The term is durable, the entries are not."""
    peer = Peer(hard_state=HardState(term=1))
    peer.disk_works = False
    peer.step(append_message(2, 1, (0, 0), entries([1])))
    peer.step(message(MessageType.HEARTBEAT, 2, 1))
    assert kinds(peer.take()) == [MessageType.HEARTBEAT_RESPONSE]
    assert kinds(peer.persist()) == [MessageType.APPEND_RESPONSE]


def test_10_a_candidate_asks_when_its_own_vote_is_durable() -> None:
    """Or it could win a term, lose its vote with the power, and win it a second time with another log."""
    peer = Peer()
    peer.disk_works = False
    peer.node.campaign()
    assert peer.take() == []
    released = peer.persist()
    assert peer.hard_state == HardState(term=1, vote=NodeId(1))
    assert kinds(released) == [MessageType.VOTE] * 2


def test_10_its_own_vote_and_its_own_copy_count_when_they_are_durable() -> None:
    """With two nodes both have to be."""
    peer = Peer(configuration=voters(1, 2))
    peer.disk_works = False
    peer.node.campaign()
    peer.take()
    peer.step(message(MessageType.VOTE_RESPONSE, 2, 1))
    assert peer.node.role is Role.CANDIDATE
    peer.persist()
    assert peer.node.is_leader
    acknowledge(peer, peer.take())
    assert peer.node.commit_index == 0
    peer.persist()
    assert peer.node.commit_index == 1


def test_10_messages_of_a_durable_term_do_not_wait() -> None:
    """In the steady state nothing is held back but replies."""
    peer = Peer().become_leader()
    peer.disk_works = False
    peer.propose()
    assert kinds(peer.take()) == [MessageType.APPEND] * 2
    peer.tick()
    assert kinds(peer.take()) == [MessageType.HEARTBEAT] * 2


def test_2_a_grant_that_knows_more_does_not_end_a_campaign() -> None:
    """A voter may have heard of a later commit index; only a configuration change among what it covers would matter."""
    cluster = Cluster(settings=FULL)
    leader = cluster.elect(1)
    leader.propose()
    cluster.drops = lambda item: item.to == 2 and item.type is MessageType.APPEND and not item.entries
    cluster.settle()
    assert cluster[2].node.commit_index < cluster[3].node.commit_index
    cluster.heal()
    cluster.down.add(1)
    for number in (2, 3):
        cluster[number].node.peer_reset(NodeId(1))
    cluster[2].node.campaign_if_leader_lost(NodeId(1))
    cluster.settle()
    assert cluster[2].node.is_leader


# Beyond the list: a reset link, priorities.


def test_a_reset_link_brings_a_new_leader_within_a_tick() -> None:
    """All followers see the leader's links reset: the first to ask wins, without waiting for the election timeout."""
    cluster = Cluster(5, settings=FULL)
    leader = cluster.elect(1)
    cluster.down.add(1)
    for number in (2, 3, 4, 5):
        assert cluster[number].node.peer_reset(leader.id)
    assert cluster[4].node.campaign_if_leader_lost(leader.id)
    cluster.settle()
    assert cluster[4].node.is_leader
    assert not cluster[2].node.campaign_if_leader_lost(leader.id)


def test_one_broken_link_deposes_nobody() -> None:
    """The others still hear from the leader and ignore the pre-vote; the term stands still; the next heartbeat ends it."""
    cluster = Cluster(5, settings=FULL)
    leader = cluster.elect(1)
    cluster.tick()
    assert cluster[3].node.peer_reset(leader.id)
    assert cluster[3].node.campaign_if_leader_lost(leader.id)
    cluster.settle()
    assert cluster[3].node.role is Role.PRE_CANDIDATE
    cluster.tick(FULL.heartbeat_ticks)
    assert leader.node.is_leader
    assert cluster[3].node.leader == leader.id
    assert {peer.node.term for peer in cluster.peers.values()} == {1}


def test_a_reset_link_to_anyone_else_means_nothing() -> None:
    """Only the leader's counts; on a leader it makes the follower be probed."""
    cluster = Cluster(settings=FULL)
    leader = cluster.elect(1)
    assert not cluster[2].node.peer_reset(NodeId(3))
    assert not leader.node.peer_reset(NodeId(3))
    assert leader.node.status().progress[NodeId(3)].state == "StateProbe"
    assert not cluster[2].node.campaign_if_leader_lost(NodeId(1))


def test_a_leader_heard_of_again_is_not_lost() -> None:
    """Between the reset and the campaign the leader may have connected again."""
    cluster = Cluster(settings=FULL)
    leader = cluster.elect(1)
    assert cluster[2].node.peer_reset(leader.id)
    cluster.tick()
    assert not cluster[2].node.campaign_if_leader_lost(leader.id)


def test_the_core_counts_the_jitter_in_ticks_when_asked_to() -> None:
    """For a driver without a finer clock."""
    cluster = Cluster(settings=FULL)
    leader = cluster.elect(1)
    cluster.down.add(1)
    for number in (2, 3):
        assert cluster[number].node.peer_reset(leader.id, campaign_within_ticks=2)
    cluster.tick(2)
    assert max(cluster[number].node.term for number in (2, 3)) == 2
    assert cluster.wait_leader().id in (2, 3)


def test_without_pre_vote_and_check_quorum_a_reset_does_nothing() -> None:
    """There is no lease then that protects a healthy leader."""
    cluster = Cluster(settings=PLAIN)
    leader = cluster.elect(1)
    assert not cluster[2].node.peer_reset(leader.id)


def priorities(*values: int) -> Cluster:
    cluster = Cluster(len(values), FULL)
    for number, value in enumerate(values, 1):
        cluster.peers[number] = Peer(number, voters(*range(1, len(values) + 1)), settings=attrs.evolve(FULL, priority=value))
    return cluster


def test_the_highest_priority_wins_among_equals() -> None:
    """Others are refused by it, and it campaigns in its turn."""
    cluster = priorities(0, 5)
    cluster[1].node.campaign()
    cluster.settle()
    assert not cluster[1].node.is_leader
    assert cluster.wait_leader().id == 2


def test_priority_does_not_outweigh_the_log_nor_a_transfer() -> None:
    """A longer log wins; and so does a node the leader has chosen."""
    cluster = priorities(0, 5)
    cluster[1].log.append(entries([1]))
    longer = Peer(1, voters(1, 2), settings=attrs.evolve(FULL, priority=0), log=cluster[1].log, hard_state=HardState(term=1))
    cluster.peers[1] = longer
    longer.node.campaign()
    cluster.settle()
    assert longer.node.is_leader

    cluster = priorities(0, 5)
    leader = cluster.elect(2)
    leader.node.transfer_leader(NodeId(1))
    cluster.settle()
    assert cluster[1].node.is_leader
