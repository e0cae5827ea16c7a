"""Small clusters of cores for tests: no disk, no network, no time but what a test does by hand."""

import random
from collections.abc import Callable, Iterable, Sequence

import attrs

from trio_eventlog.ids import NodeId
from trio_eventlog.raft import (
    Configuration,
    ConfigurationError,
    Entry,
    EntryKind,
    Event,
    EventKind,
    HardState,
    MemoryLog,
    Message,
    MessageType,
    PeerNotFound,
    ProposedEntry,
    RaftNode,
    RaftSettings,
    ReadState,
    Ready,
    SnapshotMetadata,
    StorageAppend,
    decode_change,
)
from trio_eventlog.testing.defaults import default

PLAIN = default(RaftSettings, pre_vote=False, check_quorum=False)
"""The paper's Raft, without the thesis' refinements."""


def voters(*ids: int) -> Configuration:
    return Configuration(voters=frozenset(map(NodeId, ids)))


def data(payload: bytes = b"x", size_bytes: int = 10) -> ProposedEntry:
    return ProposedEntry(EntryKind.DATA, 1, size_bytes, payload)


def entries(terms: Sequence[int], first: int = 1) -> tuple[Entry, ...]:
    """Entries of these terms from index `first` on; the payload is unique to term and index."""
    return tuple(Entry(term, index, EntryKind.DATA, 1, 10, f"{term}/{index}".encode()) for index, term in enumerate(terms, first))


def log_of(terms: Sequence[int]) -> MemoryLog:
    log = MemoryLog()
    log.append(entries(terms))
    return log


def append_message(
    sender: int, term: int, previous: tuple[int, int], new: Sequence[Entry] = (), *, to: int = 1, commit: int = 0
) -> Message:
    """An APPEND; `previous` is (term, index)."""
    log_term, index = previous
    return Message(
        type=MessageType.APPEND,
        to=NodeId(to),
        sender=NodeId(sender),
        term=term,
        log_term=log_term,
        index=index,
        last_index=index + len(new),
        commit=commit,
        entries=tuple(new),
    )


def message(kind: MessageType, sender: int, term: int, *, to: int = 1, **fields: object) -> Message:
    return Message(type=kind, to=NodeId(to), sender=NodeId(sender), term=term, **fields)  # type: ignore[arg-type]


class Peer:
    """A node with a log in memory and a driver that persists, applies and acknowledges at once, unless told otherwise.

    Attributes:
        applied: entries applied, in order.
        reads, events: all answered and noted so far.
        held: appends not carried out, while `disk_works` is False.
    """

    def __init__(
        self,
        node_id: int = 1,
        configuration: Configuration | None = None,
        *,
        settings: RaftSettings = PLAIN,
        terms: Sequence[int] = (),
        hard_state: HardState | None = None,
        log: MemoryLog | None = None,
        applied_index: int = 0,
        seed: int = 0,
    ) -> None:
        self.log = log if log is not None else log_of(terms)
        self.hard_state = hard_state or HardState(term=self.log.term(self.log.last_index))
        self.node = RaftNode(
            NodeId(node_id),
            settings,
            self.hard_state,
            configuration if configuration is not None else voters(1, 2, 3),
            self.log,
            random.Random(seed * 1000 + node_id),
            applied_index=applied_index,
        )
        self.applied: list[Entry] = []
        self.reads: list[ReadState] = []
        self.events: list[Event] = []
        self.held: list[StorageAppend] = []
        self.disk_works = True
        self.tail: dict[int, Entry] = {}

    @property
    def id(self) -> NodeId:
        return self.node.node_id

    def entry(self, index: int) -> Entry:
        return self.tail.get(index) or self.log.entry(index)

    def terms(self) -> list[int]:
        """Of the whole log, durable or not."""
        held = [self.log.term(index) for index in range(self.log.first_index, self.log.last_index + 1)]
        for index, entry in sorted(self.tail.items()):
            del held[index - self.log.first_index :]
            held.append(entry.term)
        return held

    def take(self) -> list[Message]:
        """Carry out everything that is ready. Returns what leaves for other nodes, entries filled in."""
        out: list[Message] = []
        while (ready := self.node.ready()) is not None:
            out.extend(self.carry_out(ready))
        return out

    def carry_out(self, ready: Ready) -> list[Message]:
        out: list[Message] = []
        self.events.extend(ready.events)
        self.reads.extend(ready.read_states)
        if ready.append is not None:
            for entry in ready.append.entries:
                self.tail[entry.index] = entry
            self.held.append(ready.append)
        out.extend(map(self.filled, ready.messages))
        if self.disk_works:
            out.extend(self.persist())
        for index in ready.committed:
            entry = self.entry(index)
            if entry.kind is EntryKind.CONFIGURATION:
                try:
                    self.node.apply_configuration(decode_change(entry.payload), entry.index)
                except ConfigurationError:
                    pass
            self.applied.append(entry)
            self.node.on_applied(index)
        return out

    def filled(self, item: Message) -> Message:
        if item.type is not MessageType.APPEND:
            return item
        return attrs.evolve(item, entries=tuple(self.entry(i) for i in range(item.index + 1, item.last_index + 1)))

    def persist(self, count: int | None = None) -> list[Message]:
        """Let the disk carry out the first `count` held appends (all). Returns the responses for others."""
        out = []
        for append in self.held[:count]:
            if append.hard_state is not None:
                self.hard_state = append.hard_state
            if append.snapshot is not None:
                self.log.install(append.snapshot)
            self.log.append(append.entries)
            for entry in append.entries:
                if self.tail.get(entry.index) == entry:
                    del self.tail[entry.index]
            for response in append.responses:
                if response.to == self.id:
                    self.step(response)
                else:
                    out.append(self.filled(response))
            self.node.on_appended(append.token)
        del self.held[:count]
        return out

    def step(self, item: Message) -> None:
        try:
            self.node.step(item)
        except PeerNotFound:
            pass

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.node.tick()

    def propose(self, payload: bytes = b"x", size_bytes: int = 10) -> int:
        return self.node.propose([data(payload, size_bytes)])[-1]

    def saw(self, kind: EventKind) -> bool:
        return any(event.kind is kind for event in self.events)

    def become_leader(self) -> "Peer":
        """Win an election by the votes of all others, who then acknowledge everything."""
        self.node.campaign()
        for round_of in range(8):
            if self.node.is_leader:
                break
            answer_votes(self, self.take(), round_of)
        assert self.node.is_leader
        acknowledge(self, self.take())
        self.take()
        return self


def answer_votes(peer: Peer, sent: Iterable[Message], round_of: int = 0) -> None:
    answers = {MessageType.VOTE: MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESPONSE}
    for item in sent:
        if item.type in answers:
            peer.step(message(answers[item.type], item.to, item.term, to=peer.id))


def acknowledge(peer: Peer, sent: Iterable[Message], *, only: Iterable[int] | None = None) -> None:
    """Answer every APPEND among `sent` as a follower would that has it all."""
    chosen = None if only is None else set(only)
    for item in sent:
        if item.type is MessageType.APPEND and (chosen is None or item.to in chosen):
            peer.step(message(MessageType.APPEND_RESPONSE, item.to, item.term, to=peer.id, index=item.last_index))


class Cluster:
    """Peers and the messages between them.

    Attributes:
        under_way: messages not delivered yet, in order.
        drops: messages for which it is true are lost.
        down: nodes that neither do nor hear anything.
    """

    def __init__(
        self,
        count: int = 3,
        settings: RaftSettings = PLAIN,
        *,
        configuration: Configuration | None = None,
        logs: Sequence[Sequence[int]] | None = None,
        hard_states: Sequence[HardState] | None = None,
        seed: int = 0,
    ) -> None:
        held = configuration or voters(*range(1, count + 1))
        self.peers = {
            number: Peer(
                number,
                held,
                settings=settings,
                terms=logs[number - 1] if logs else (),
                hard_state=hard_states[number - 1] if hard_states else None,
                seed=seed,
            )
            for number in range(1, count + 1)
        }
        self.under_way: list[Message] = []
        self.drops: Callable[[Message], bool] = lambda item: False
        self.down: set[int] = set()

    def __getitem__(self, number: int) -> Peer:
        return self.peers[number]

    def cut(self, *numbers: int) -> None:
        """Isolate these nodes from all others."""
        self.drops = lambda item: (item.to in numbers) is not (item.sender in numbers)

    def heal(self) -> None:
        self.drops = lambda item: False

    def collect(self) -> None:
        for number, peer in self.peers.items():
            if number not in self.down:
                self.under_way.extend(peer.take())

    def settle(self, rounds: int = 200) -> None:
        """Deliver until nothing is left to say."""
        for _ in range(rounds):
            self.collect()
            if not self.under_way:
                return
            deliverable, self.under_way = self.under_way, []
            for item in deliverable:
                if item.to in self.peers and item.to not in self.down and not self.drops(item):
                    self.peers[item.to].step(item)
        raise AssertionError("never settles")

    def tick(self, count: int = 1, *, settle: bool = True) -> None:
        for _ in range(count):
            for number, peer in self.peers.items():
                if number not in self.down:
                    peer.tick()
            if settle:
                self.settle()

    def elect(self, number: int) -> Peer:
        self.peers[number].node.campaign()
        self.settle()
        assert self.peers[number].node.is_leader
        return self.peers[number]

    def wait_leader(self, ticks: int = 200) -> Peer:
        for _ in range(ticks):
            leaders = [p for n, p in self.peers.items() if p.node.is_leader and n not in self.down]
            if leaders:
                return max(leaders, key=lambda peer: peer.node.term)
            self.tick()
        raise AssertionError("no leader")

    def restart(self, number: int, applied_index: int | None = None) -> Peer:
        """Lose everything that is not durable, and start again."""
        before = self.peers[number]
        peer = Peer(
            number,
            before.node.configuration,
            settings=before.node.settings,
            hard_state=before.hard_state,
            log=before.log,
            applied_index=min(before.node.applied_index, before.log.last_index) if applied_index is None else applied_index,
        )
        self.peers[number] = peer
        return peer


def snapshot(index: int, term: int, configuration: Configuration) -> SnapshotMetadata:
    return SnapshotMetadata(index=index, term=term, configuration=configuration)


def kinds(sent: Iterable[Message]) -> list[MessageType]:
    return [item.type for item in sent]


def only(sent: Iterable[Message], kind: MessageType) -> list[Message]:
    return [item for item in sent if item.type is kind]
