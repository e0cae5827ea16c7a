"""Values of a core simulation: the conditions of a run, and what a node is."""

import hashlib
import random
from collections import deque

import attrs

from trio_eventlog.ids import NodeId
from trio_eventlog.raft import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    MemoryLog,
    MessageType,
    ProgressStatus,
    RaftNode,
    RaftSettings,
    ReadMode,
    SnapshotMetadata,
    StorageAppend,
)
from trio_eventlog.testing.core_trace import TICK
from trio_eventlog.testing.defaults import default

ENTRY_BYTES_MAX = 300
ENTRIES_MAX = 4
"""Of one proposal."""

HEALED_PROPOSAL_RATE = 0.2
"""A tick: what is caught up with in spite of tiny windows, and enough to see progress."""

FROM_LEADER = frozenset({MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT})

HEALED_COMPACT_RATE = 0.1
"""At least, a node and tick: a snapshot from before a change does not know the node which that change has added."""


class InvariantViolated(AssertionError):
    """The cores did something Raft forbids; the text says what, and how to see it again."""


@attrs.frozen(slots=True, kw_only=True)
class Parameters:
    """One run's conditions, drawn from its seed. Rates are per tick of the whole cluster, chances per message or write.

    Attributes:
        voters, spares: nodes of the first configuration; further ones that may be added.
        delay_max: longest delay of a message, in units of time.
        disk_delay_max, apply_delay_max: longest time of a write, and of applying a page.
        reorder: whether messages of one link may overtake each other.
        loss, duplication, lateness: chances per message; of what is late, a copy came in time.
        crash_rate, cut_rate, stall_rate, reset_rate: crashes, cuts of links, disks that hang, links reset without cause.
        hang_rate: machines that apply nothing for a while.
        clog_rate: leaders that receive messages later and later, until no node receives theirs any more.
        strand_rate: leaders that lose disk or machine, then their links, which come back first.
        confine_rate: leaders that reach one follower only, one after the other.
        dwindle_rate: leaders that reach a bare quorum, and then no node, while their followers restart.
        blackout_rate: crashes of all nodes at once.
        pause_rate: nodes that do nothing for a while and then everything at once.
        drift: by how much of a tick a node's ticks are longer or shorter than they should be.
        proposal_rate, read_rate, change_rate, transfer_rate, compact_rate: requests.
        has_priorities: whether some nodes should rather lead than others.
        knows_configurations: whether logs tell exactly where configuration changes stand, or always "maybe".
        fault_ticks: length of the phase with faults.
        ends_quietly: whether nothing is proposed in the second half of the faults, and once all is healed.
    """

    voters: int
    spares: int
    settings: RaftSettings
    delay_max: int
    disk_delay_max: int
    apply_delay_max: int
    reorder: bool
    loss: float
    duplication: float
    lateness: float
    crash_rate: float
    cut_rate: float
    stall_rate: float
    reset_rate: float
    hang_rate: float
    clog_rate: float
    strand_rate: float
    confine_rate: float
    dwindle_rate: float
    blackout_rate: float
    pause_rate: float
    drift: float
    proposal_rate: float
    read_rate: float
    change_rate: float
    transfer_rate: float
    compact_rate: float
    has_priorities: bool
    knows_configurations: bool
    fault_ticks: int
    ends_quietly: bool

    @classmethod
    def draw(cls, rng: random.Random) -> "Parameters":
        def some(*values: float) -> float:
            return rng.choice(values)

        check_quorum = rng.random() < 0.8
        lease = check_quorum and rng.random() < 0.4
        election_timeout_ticks = rng.choice((5, 10))
        append_bytes_max = rng.choice((100, 1000, 1 << 20))
        reorder = rng.random() < 0.5
        return cls(
            voters=rng.choice((1, 2, 3, 3, 3, 4, 5, 5)),
            spares=rng.choice((0, 1, 2)),
            settings=default(
                RaftSettings,
                election_timeout_ticks=election_timeout_ticks,
                heartbeat_ticks=rng.choice((1, 1, 2)),
                append_bytes_max=append_bytes_max,
                # Where messages overtake each other, what comes too early is refused, and refusals and acknowledgements in turn
                # send the window again each time: large ones would multiply without end.
                inflight_messages_max=rng.choice((1, 2, 16) if reorder else (1, 2, 16, 256)),
                inflight_bytes_max=rng.choice((0, append_bytes_max, 8 << 20)) if append_bytes_max < 1 << 20 else 0,
                uncommitted_bytes_max=rng.choice((300, 5000, 1 << 20)),
                committed_bytes_per_ready_max=rng.choice((1, 200, 1 << 20)),
                pending_reads_max=rng.choice((2, 1 << 14, 1 << 14)),
                pre_vote=rng.random() < 0.8,
                check_quorum=check_quorum,
                read_mode=ReadMode.LEASE if lease else ReadMode.SAFE,
                step_down_on_removal=rng.random() < 0.9,
            ),
            delay_max=int(some(10, 100, TICK, 3 * TICK)),
            disk_delay_max=int(some(1, 100, TICK, 2 * TICK)),
            apply_delay_max=int(some(1, 100, 2 * TICK)),
            reorder=reorder,
            loss=some(0, 0, 0.01, 0.1, 0.3),
            duplication=some(0, 0, 0.02, 0.2),
            lateness=some(0, 0.02, 0.1),
            crash_rate=some(0, 0.005, 0.02, 0.05),
            cut_rate=some(0, 0, 0.01, 0.05),
            stall_rate=some(0, 0, 0.02),
            reset_rate=some(0, 0, 0.02),
            hang_rate=some(0, 0, 0.02),
            clog_rate=some(0, 0, 0.02),
            strand_rate=some(0, 0, 0.02),
            confine_rate=some(0, 0, 0.02),
            dwindle_rate=some(0, 0, 0.02),
            blackout_rate=some(0, 0, 0.01),
            # A lease is only as good as the clocks.
            pause_rate=0 if lease else some(0, 0, 0.01, 0.03),
            drift=0 if lease else some(0, 0.1, 0.3),
            proposal_rate=some(0.2, 1, 3),
            read_rate=some(0, 0.1, 0.5),
            change_rate=some(0, 0, 0.01, 0.05),
            transfer_rate=some(0, 0, 0.01, 0.05),
            compact_rate=some(0, 0, 0.02, 0.1),
            has_priorities=rng.random() < 0.2,
            knows_configurations=rng.random() < 0.5,
            fault_ticks=rng.choice((50, 100, 200)),
            ends_quietly=rng.random() < 0.3,
        )


@attrs.frozen(slots=True, kw_only=True)
class Checkpoint:
    """A machine's state at an index, and what a snapshot of it says."""

    index: int
    term: int
    digest: bytes
    configuration: Configuration


@attrs.frozen(slots=True)
class Read:
    """A linearizable read that waits: when it was asked, and what was committed anywhere then."""

    asked_at: int
    floor: int


DiskStep = HardState | SnapshotMetadata | Entry


class SimulatedLog(MemoryLog):
    """The durable log, of a shell that may not know where configuration changes stand."""

    def __init__(self, knows_configurations: bool) -> None:
        super().__init__()
        self.knows_configurations = knows_configurations

    def has_configuration(self, first: int, last: int) -> bool:
        return super().has_configuration(first, last) if self.knows_configurations else True


@attrs.define(slots=True, eq=False)
class Replica:
    """One node: what survives a crash, and what does not.

    Attributes:
        log, hard_state, checkpoints: durable, but for the commit index. The machine restarts from the last checkpoint.
        durable_commit: what is left of the commit index for certain.
        core, writes, writing, tail, machine, applying: gone with a crash. `tail` holds entries handed to the disk, by index.
        incarnation: counts starts, so that events of an earlier life are recognized.
        stalled_until: when the disk goes on; hung_until: when the machine does; paused_until: when the whole node does.
        crashes_amid_write: whether the power fails during its next write of entries.
        tick_length: what it takes for a tick.
        commit_seen, applied_seen, led_term, handed_last: what the referee saw last.
        ticks: of this life.
        writing_since: at which tick the disk began what it is at.
        heard: at which tick each node was last heard from; a new leader, configuration or transfer begins with everyone.
        promised: the entry's term for each (term, index) that this life is to acknowledge.
        following: what it, as a leader, thought of each follower at its last tick.
        acknowledged: how far it has told the leader of each term to hold its log, in this life or an earlier one.
        followed_term, followed_at, followed_tick: whom it heard lead last, when, and at which tick of this life (-1: of another).
    """

    node_id: NodeId
    log: SimulatedLog
    checkpoints: list[Checkpoint]
    hard_state: HardState = attrs.Factory(HardState)
    durable_commit: int = 0
    core: RaftNode | None = None
    writes: deque[StorageAppend] = attrs.Factory(deque)
    writing: bool = False
    tail: dict[int, Entry] = attrs.Factory(dict)
    machine: Checkpoint | None = None
    applying: deque[range] = attrs.Factory(deque)
    applying_now: bool = False
    handed_last: int = 0
    incarnation: int = 0
    stalled_until: int = 0
    hung_until: int = 0
    paused_until: int = 0
    crashes_amid_write: bool = False
    tick_length: int = TICK
    commit_seen: int = 0
    applied_seen: int = 0
    led_term: int = 0
    ticks: int = 0
    writing_since: int = 0
    heard: dict[NodeId, int] = attrs.Factory(dict)
    promised: dict[tuple[int, int], int] = attrs.Factory(dict)
    following: dict[NodeId, ProgressStatus] = attrs.Factory(dict)
    acknowledged: dict[int, int] = attrs.Factory(dict)
    followed_term: int = 0
    followed_at: int = 0
    followed_tick: int = -1


def disk_steps(replica: Replica, append: StorageAppend) -> list[DiskStep]:
    """What a shell does for an append, one durable step after the other; a crash comes in between any two of them.

    The hard state is first, for no entry may be durable under a term that is not. But its commit index must not cover what this
    very append brings, since other entries may stand there, which it replaces. And it must cover all it can before a configuration
    change is there (`StorageAppend.sync_commit`), which says that the change before it is committed.
    """
    steps: list[DiskStep] = []
    state = append.hard_state
    if state is not None and not append.sync_commit:
        saved = replica.hard_state
        if (state.term, state.vote) == (saved.term, saved.vote):
            # A commit index alone is not worth a sync.
            state = None
    if append.snapshot is not None:
        if state is not None:
            steps.append(attrs.evolve(state, commit=replica.durable_commit))
        steps.append(append.snapshot)
        return steps
    if state is not None:
        before = append.entries[0].index - 1 if append.entries else replica.log.last_index
        steps.append(attrs.evolve(state, commit=min(state.commit, before)))
    for entry in append.entries:
        if state is not None and entry.kind is EntryKind.CONFIGURATION and entry is not append.entries[0]:
            steps.append(attrs.evolve(state, commit=min(state.commit, entry.index - 1)))
        steps.append(entry)
    return steps


def next_digest(digest: bytes, entry: Entry) -> bytes:
    data = b"%b:%d:%d:%d:%b" % (digest, entry.index, entry.term, entry.kind, entry.payload)
    return hashlib.blake2b(data, digest_size=8).digest()


def observable(core: RaftNode) -> tuple[object, ...]:
    """What an exception must leave as it was."""
    return (
        core.term,
        core.role,
        core.leader,
        core.commit_index,
        core.last_index,
        core.has_ready(),
        core.election_elapsed_ticks,
    )
