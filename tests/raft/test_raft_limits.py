"""Every bound, at its limit and one past it."""

import attrs
import pytest
from harness import PLAIN, Cluster, Peer, acknowledge, append_message, data, entries, kinds, message, only, voters

from trio_eventlog.codec.entry import HEADER_BYTES
from trio_eventlog.ids import NodeId
from trio_eventlog.raft import (
    ENTRY_OVERHEAD_BYTES,
    ChangeKind,
    ConfigurationChange,
    ConfigurationError,
    DropReason,
    EventKind,
    HardState,
    MessageType,
    NodeChange,
    ProposalDropped,
    ProtocolError,
    decode_change,
    encode_change,
)
from trio_eventlog.raft.configuration import CHANGES_MAX, CONTEXT_BYTES_MAX
from trio_eventlog.raft.node import EVENTS_MAX


def behind(**settings: int) -> Peer:
    """A leader of two, whose follower has nothing of six entries of ten bytes and is being probed from the start."""
    peer = Peer(configuration=voters(1, 2), terms=[1] * 6, settings=attrs.evolve(PLAIN, **settings), hard_state=HardState(term=1))
    peer.node.campaign()
    peer.take()
    peer.step(message(MessageType.VOTE_RESPONSE, 2, 2))
    peer.take()
    peer.step(message(MessageType.APPEND_RESPONSE, 2, 2, index=6, reject=True, reject_hint=0))
    return peer


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (10, 1), (19, 1), (20, 2), (60, 6), (60 + ENTRY_OVERHEAD_BYTES, 7)])
def test_max_append_bytes(limit: int, count: int) -> None:
    """As many entries as fit, at least one."""
    (sent,) = behind(append_bytes_max=limit, inflight_bytes_max=0).take()
    assert sent.last_index - sent.index == count


@pytest.mark.parametrize("window", [1, 2, 3])
def test_max_inflight_messages(window: int) -> None:
    """So many APPENDs with entries are under way, then none until one is acknowledged."""
    peer = Peer(configuration=voters(1, 2), settings=attrs.evolve(PLAIN, inflight_messages_max=window)).become_leader()
    for _ in range(5):
        peer.propose()
    sent = peer.take()
    assert len(only(sent, MessageType.APPEND)) == window
    acknowledge(peer, sent[:1])
    assert len([m for m in peer.take() if m.entries]) == 1


def test_max_inflight_bytes() -> None:
    """The message that reaches the limit is the last one."""
    settings = attrs.evolve(PLAIN, inflight_bytes_max=20, append_bytes_max=10)
    peer = Peer(configuration=voters(1, 2), settings=settings).become_leader()
    for _ in range(5):
        peer.propose(size_bytes=8)
    sent = only(peer.take(), MessageType.APPEND)
    assert len(sent) == 3
    assert peer.node.status().progress[NodeId(2)].inflight_bytes == 24
    acknowledge(peer, sent[:1])
    assert len([m for m in peer.take() if m.entries]) == 1


def test_max_uncommitted_bytes() -> None:
    """Up to the limit, not beyond; everything else but data is taken; applying makes room."""
    peer = Peer(settings=attrs.evolve(PLAIN, uncommitted_bytes_max=30)).become_leader()
    for _ in range(3):
        peer.propose(size_bytes=10)
    with pytest.raises(ProposalDropped) as caught:
        peer.propose(size_bytes=1)
    assert caught.value.reason is DropReason.QUOTA
    assert peer.node.uncommitted_bytes == 30
    change = ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_LEARNER, NodeId(4)),))
    peer.node.propose_configuration(change)
    sent = peer.take()
    acknowledge(peer, sent)
    peer.take()
    assert peer.node.uncommitted_bytes == 0
    peer.propose(size_bytes=1000)
    with pytest.raises(ProposalDropped):
        peer.propose(size_bytes=1)


def test_uncommitted_bytes_end_with_the_leadership() -> None:
    """A deposed leader owes nothing."""
    peer = Peer(settings=attrs.evolve(PLAIN, uncommitted_bytes_max=30)).become_leader()
    peer.propose(size_bytes=30)
    peer.step(append_message(2, 5, (0, 0)))
    assert peer.node.uncommitted_bytes == 0


@pytest.mark.parametrize(
    ("limit", "pages"), [(1, [1, 1, 1, 1, 1]), (10, [1, 1, 1, 1, 1]), (20, [2, 2, 1]), (29, [2, 2, 1]), (50, [5]), (1 << 20, [5])]
)
def test_max_committed_bytes_per_ready(limit: int, pages: list[int]) -> None:
    """Pages of at most that many bytes, at least one entry; the next one comes when this one is applied."""
    peer = Peer(
        terms=[1] * 5, settings=attrs.evolve(PLAIN, committed_bytes_per_ready_max=limit), hard_state=HardState(term=1, commit=5)
    )
    seen = []
    while True:
        ready = peer.node.ready()
        if ready is None:
            break
        assert peer.node.ready() is None, "nothing more before it is applied"
        seen.append(len(ready.committed))
        peer.node.on_applied(ready.committed[-1])
    assert seen == pages


def test_a_page_acknowledged_in_parts() -> None:
    """The room of a page comes back with its last entry."""
    settings = attrs.evolve(PLAIN, committed_bytes_per_ready_max=30)
    peer = Peer(terms=[1] * 6, settings=settings, hard_state=HardState(term=1, commit=6))
    ready = peer.node.ready()
    assert ready is not None
    assert ready.committed == range(1, 4)
    peer.node.on_applied(2)
    assert peer.node.ready() is None
    peer.node.on_applied(3)
    ready = peer.node.ready()
    assert ready is not None
    assert ready.committed == range(4, 7)


def test_max_pending_reads() -> None:
    """Own and others' together, confirmed or waiting for the first commit."""
    peer = Peer(settings=attrs.evolve(PLAIN, pending_reads_max=2)).become_leader()
    peer.node.read_index(b"1")
    peer.step(message(MessageType.READ_INDEX, 2, 0, context=b"2"))
    with pytest.raises(ProposalDropped) as caught:
        peer.node.read_index(b"3")
    assert caught.value.reason is DropReason.TOO_MANY_READS
    with pytest.raises(ProposalDropped):
        peer.node.step(message(MessageType.READ_INDEX, 2, 0, context=b"4"))


def test_events_are_bounded() -> None:
    """A driver that never asks costs no memory; the newest are kept."""
    peer = Peer()
    for _ in range(EVENTS_MAX + 10):
        peer.node.campaign()
    ready = peer.node.ready()
    assert ready is not None
    assert len(ready.events) == EVENTS_MAX
    assert ready.events[-1].kind is EventKind.BECAME_CANDIDATE
    assert ready.events[-1].term == peer.node.term


def test_changes_are_bounded() -> None:
    """In operations and in bytes of context, when encoded and when decoded."""
    operation = NodeChange(ChangeKind.UPDATE, NodeId(1))
    largest = ConfigurationChange(changes=(operation,) * CHANGES_MAX, context=bytes(CONTEXT_BYTES_MAX))
    encoded = encode_change(largest)
    assert decode_change(encoded) == largest
    with pytest.raises(ConfigurationError):
        encode_change(attrs.evolve(largest, changes=(operation,) * (CHANGES_MAX + 1)))
    with pytest.raises(ConfigurationError):
        encode_change(attrs.evolve(largest, context=bytes(CONTEXT_BYTES_MAX + 1)))
    count = CHANGES_MAX + 1
    with pytest.raises(ProtocolError):
        decode_change(b"\x01\x00" + count.to_bytes(2, "little") + bytes(4) + (b"\x04" + bytes(8)) * count)


def test_an_empty_entry_costs_what_its_frame_does() -> None:
    """The core does not know the codec, but has to reckon with the same size."""
    assert ENTRY_OVERHEAD_BYTES == HEADER_BYTES


def test_one_append_and_one_message_per_follower_for_a_batch() -> None:
    """However many entries are proposed at once."""
    peer = Peer().become_leader()
    peer.disk_works = False
    peer.node.propose([data() for _ in range(1000)])
    sent = peer.take()
    assert kinds(sent) == [MessageType.APPEND] * 2
    assert [len(append.entries) for append in peer.held] == [1000]
    assert len(peer.held[0].responses) == 1


def test_a_follower_acknowledges_a_batch_once() -> None:
    """One APPEND, one write, one reply."""
    peer = Peer()
    peer.disk_works = False
    peer.step(append_message(2, 1, (0, 0), entries([1] * 500)))
    peer.take()
    (append,) = peer.held
    assert len(append.entries) == 500
    assert len(append.responses) == 1


def test_a_slow_follower_catches_up_window_by_window() -> None:
    """Flow control loses nothing."""
    cluster = Cluster(3, attrs.evolve(PLAIN, inflight_messages_max=2, append_bytes_max=30, inflight_bytes_max=60))
    leader = cluster.elect(1)
    cluster.down.add(3)
    for _ in range(50):
        leader.propose()
        cluster.settle()
    cluster.down.discard(3)
    cluster.tick(5)
    assert cluster[3].log.entries == leader.log.entries
