"""Seeded simulation of Raft cores alone: no Trio, no bytes, one heap of events ordered by (time, sequence).

One seed makes one `random.Random`; from it first the *parameters* of the run are drawn (swarm testing: this run has slow disks
and no loss, that one has partitions and tiny windows), then the run. Faults for a while, then everything heals and the group has
to make progress. After every event the invariants of Raft are checked on its node; a failure names the seed, the parameters and
the last events.

What is simulated, per node: a core; a clock that drifts, and pauses; a disk that persists one append at a time after a delay, may
hang, and loses what was not durable when the node crashes, sometimes leaving a prefix of it; a machine that applies with a
delay and may restart from an older checkpoint; log compaction. Between nodes: delay, reorder, loss, duplication, cuts in one
direction or both, link resets. Above: proposals, linearizable reads, configuration changes, transfers of leadership.

To replay: `python -m trio_eventlog.testing.core_simulator --seed N`, which prints the whole trace. Many seeds:
`python -m trio_eventlog.testing.campaign cores --seeds N`.
"""

import argparse
import hashlib
import heapq
import random
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

import attrs

from trio_eventlog.errors import NotLeader
from trio_eventlog.ids import NOBODY, NodeId
from trio_eventlog.raft import (
    LEAVE_JOINT,
    TRANSFER_CAMPAIGN,
    ChangeKind,
    Compacted,
    Configuration,
    ConfigurationChange,
    ConfigurationError,
    Entry,
    EntryKind,
    Event,
    EventKind,
    HardState,
    MemoryLog,
    Message,
    MessageType,
    NodeChange,
    OutOfLog,
    ProgressStatus,
    ProposalDropped,
    ProposedEntry,
    ProtocolError,
    RaftNode,
    RaftSettings,
    ReadMode,
    Ready,
    SnapshotMetadata,
    StorageAppend,
    Transition,
    decode_change,
)
from trio_eventlog.raft.configuration import change_configuration
from trio_eventlog.testing.core_trace import TICK, StepLog, column, describe
from trio_eventlog.testing.revision import revision

ENTRY_BYTES_MAX = 300
ENTRIES_MAX = 4
"""Of one proposal."""

HEALED_PROPOSAL_RATE = 0.2
"""A tick: what is caught up with in spite of tiny windows, and enough to see progress."""

FROM_LEADER = frozenset({MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT})

HEALED_COMPACT_RATE = 0.1
"""At least, a node and tick: a snapshot from before a change does not know the node which that change has added."""

LINES_SHOWN = 120
"""Of the trace, with a failure."""

MARKS = (
    "StateProbe to StateReplicate",
    "StateProbe to StateSnapshot",
    "StateReplicate to StateProbe",
    "StateReplicate to StateSnapshot",
    "StateSnapshot to StateProbe",
    "StateSnapshot to StateReplicate",
    "append from below the commit index",
    "append refused",
    "append refused, entries skipped by a hint",
    "blackout",
    "clog",
    "change applied while a snapshot is restored",
    "change: ConfigurationError",
    "change: ProposalDropped",
    "commit index forgotten",
    "conflict of several entries removed",
    "confine",
    "conflict removed from the disk",
    "crash",
    "crash kept a part of the entries",
    "crash lost a write",
    "cut",
    "dwindle",
    "dropped QUOTA",
    "dropped TOO_MANY_READS",
    "dropped TRANSFERRING",
    "hang",
    "installed",
    "late",
    "leader cut off",
    "leader cut off amid a transfer",
    "leader deposed by APPEND_RESPONSE",
    "lost",
    "machine restarts from before",
    "message of an older term",
    "older entries committed by a newer one",
    "pause",
    "pre-vote ignored within a lease",
    "quick campaign",
    "read answered to a follower",
    "read answered under a lease",
    "read asked of a leader that was cut off",
    "read asked again",
    "read waits for the first commit of a term",
    "restart in a joint configuration",
    "snapshot lost",
    "stall",
    "strand",
    "transfer aborted",
    "two leaders, of different terms",
    "vote asked by a shorter log",
    "vote asked by transfer",
    "vote asked within a lease",
    "window full",
    "APPEND_STALLED",
    "CAMPAIGN_REFUSED",
    "JOINT_LEFT",
    "LEADER_FORGOTTEN",
    "PRE_VOTE_RESPONSE refused",
    "PeerNotFound",
    "QUORUM_LOST",
    "READS_DROPPED",
    "REMOVED",
    "SNAPSHOT_IGNORED",
    "SNAPSHOT_RESTORED",
    "TRANSFER_ENDED",
    "VOTE_RESPONSE refused",
)
"""Counted, each of them, by every few hundred seeds: coverage that is lost quietly is lost for long.

What is in small letters is seen from outside; the others are the core's own events, and messages.
"""


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
        clog_rate: leaders that hear everything later and later, until nobody hears them any more.
        strand_rate: leaders that lose disk or machine, then their links, which come back first.
        confine_rate: leaders that reach one follower only, one after the other.
        dwindle_rate: leaders that reach a bare quorum, and then nobody, while those who followed restart.
        blackout_rate: crashes of all nodes at once.
        pause_rate: nodes that do nothing for a while and then everything at once.
        drift: by how much of a tick a node's ticks are longer or shorter than they should be.
        proposal_rate, read_rate, change_rate, transfer_rate, compact_rate: requests.
        has_priorities: whether some nodes should rather lead than others.
        knows_configurations: whether logs tell exactly where configuration changes stand, or always "maybe".
        fault_ticks: length of the phase with faults.
        ends_quietly: whether nobody proposes anything in the second half of the faults, and once all is healed.
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
        max_append_bytes = rng.choice((100, 1000, 1 << 20))
        reorder = rng.random() < 0.5
        return cls(
            voters=rng.choice((1, 2, 3, 3, 3, 4, 5, 5)),
            spares=rng.choice((0, 1, 2)),
            settings=RaftSettings(
                election_timeout_ticks=election_timeout_ticks,
                heartbeat_ticks=rng.choice((1, 1, 2)),
                max_append_bytes=max_append_bytes,
                # Where messages overtake each other, what comes too early is refused, and refusals and acknowledgements in turn
                # send the window again each time: large ones would multiply without end.
                max_inflight_messages=rng.choice((1, 2, 16) if reorder else (1, 2, 16, 256)),
                max_inflight_bytes=rng.choice((0, max_append_bytes, 8 << 20)) if max_append_bytes < 1 << 20 else 0,
                max_uncommitted_bytes=rng.choice((300, 5000, 1 << 20)),
                max_committed_bytes_per_ready=rng.choice((1, 200, 1 << 20)),
                max_pending_reads=rng.choice((2, 1 << 14, 1 << 14)),
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


class CoreSimulation:
    """One run. `run()` raises InvariantViolated, or returns how often what happened."""

    def __init__(self, seed: int, parameters: Parameters | None = None, trace: Callable[[str], object] | None = None) -> None:
        self.seed = seed
        # Children by name, so that one more draw in one place does not shift all the others.
        self.rngs = {
            name: random.Random(f"{seed}:{name}")
            for name in ("parameters", "network", "disk", "nemesis", "load", "clock", "operator")
        }
        self.parameters = parameters or Parameters.draw(self.rngs["parameters"])
        self.now = 0
        self.sequence = 0
        self.heap: list[tuple[int, int, Callable[[], None]]] = []
        self.counts: Counter[str] = Counter()
        self.fingerprint = hashlib.sha256()
        """Running digest of what happened: two runs of one seed have to agree."""

        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.held_back: list[tuple[Replica, Message]] = []
        """Copies that arrive when somebody campaigns."""
        self.clogged: dict[tuple[NodeId, NodeId], int] = {}
        """Since when what is sent there waits, as long again as it has been so."""
        self.arrivals: dict[tuple[NodeId, NodeId], int] = {}
        """When the last message of each link arrives, if they keep their order."""
        self.confining: Replica | None = None
        """The only follower that the next leaders reach."""
        self.confinements = 0
        """How many of them."""
        self.healed = False
        self.proposals = 0
        self.steps = 0

        # The referee's knowledge.
        self.leaders: dict[int, NodeId] = {}
        self.votes: dict[tuple[int, NodeId], NodeId] = {}
        self.entries: dict[tuple[int, int], tuple[Entry, int]] = {}
        """Every entry ever handed to a disk, by (index, term), with the term before it."""
        self.committed: list[Entry] = []
        """What any node has committed, from index 1 on."""
        self.committed_in: list[int] = []
        """In which term each of these was committed, which is its own or a later one."""
        self.digests: list[bytes] = [b""]
        """The machine's state after each committed index."""
        self.configurations: dict[int, Configuration] = {}
        """The machine's configuration after each applied index."""
        self.commit_floor = 0
        """Highest commit index any node has ever shown: what a read asked for from now on must cover."""
        self.reads: dict[bytes, Read] = {}
        self.quiet_read: bytes | None = None
        """The last one asked of the leader at a quiet end."""
        self.released: set[int] = set()
        """Terms whose leaders have told someone to campaign: no promise made to them holds."""

        bootstrap = Configuration(voters=frozenset(NodeId(n) for n in range(1, self.parameters.voters + 1)))
        origin = Checkpoint(index=0, term=0, digest=b"", configuration=bootstrap)
        self.replicas: dict[NodeId, Replica] = {}
        for number in range(1, self.parameters.voters + self.parameters.spares + 1):
            node = NodeId(number)
            self.replicas[node] = Replica(node, SimulatedLog(self.parameters.knows_configurations), [origin])
        self.log = StepLog(list(self.replicas), trace) if trace is not None else None

    # Running.

    def run(self) -> Counter[str]:
        parameters = self.parameters
        for replica in self.replicas.values():
            self.start(replica)
        self.after(TICK, self.nemesis)
        fault_end = parameters.fault_ticks * TICK
        self.run_until(fault_end)
        self.heal()
        # Elections may collide a few times, and a lost node has much to catch up.
        deadline = fault_end + 60 * parameters.settings.election_timeout_ticks * TICK
        while not self.has_converged():
            if self.now >= deadline:
                self.fail("no progress and convergence after everything healed")
            self.run_until(self.now + parameters.settings.election_timeout_ticks * TICK)
        self.counts["committed"] = len(self.committed)
        return self.counts

    def run_until(self, end: int) -> None:
        heap = self.heap
        while heap and heap[0][0] <= end:
            self.now, _, action = heapq.heappop(heap)
            action()
            if self.log is not None:
                self.end_step(self.log)
        self.now = end

    def end_step(self, log: StepLog) -> None:
        log.end_step(
            self.now,
            [column(replica.core, replica.log.last_index, replica.paused_until > self.now) for replica in self.replicas.values()],
        )

    def after(self, delay: int, action: Callable[[], None]) -> None:
        self.sequence += 1
        heapq.heappush(self.heap, (self.now + delay, self.sequence, action))

    def after_for(self, replica: Replica, delay: int, action: Callable[[], None]) -> None:
        """`action` after `delay`, unless the node has crashed meanwhile; later if the node pauses."""
        incarnation = replica.incarnation

        def guarded() -> None:
            if replica.core is not None and replica.incarnation == incarnation:
                if replica.paused_until > self.now:
                    self.after(replica.paused_until - self.now, guarded)
                else:
                    action()

        self.after(delay, guarded)

    def delay(self, what: str, longest: int) -> int:
        """Up to `longest`; short once all is healed, since with tiny windows and long ways a backlog would take for ever."""
        return self.rngs[what].randrange(min(longest, 100) if self.healed else longest)

    def note(self, what: str, line: str) -> None:
        self.counts[what] += 1
        text = f"{what}: {line}"
        self.fingerprint.update(b"%d %b" % (self.now, text.encode()))
        if self.log is not None:
            self.log.add(text)

    def fail(self, reason: str) -> NoReturn:
        if self.log is not None:
            self.log.add(f"FAILED: {reason}")
            self.end_step(self.log)
        raise InvariantViolated(reason)

    # Nodes.

    def start(self, replica: Replica) -> None:
        replica.incarnation += 1
        checkpoint = replica.checkpoints[-1]
        replica.machine = checkpoint
        replica.commit_seen = 0
        replica.applied_seen = 0
        replica.led_term = 0
        replica.ticks = 0
        replica.handed_last = replica.log.last_index
        replica.promised.clear()
        replica.following.clear()
        replica.followed_tick = -1
        if replica.followed_term > replica.hard_state.term:
            # That term was lost with the power, so that its leader was not answered.
            replica.followed_term = 0
        replica.paused_until = 0
        settings = self.parameters.settings
        if self.parameters.has_priorities:
            settings = attrs.evolve(settings, priority=replica.node_id % 3)
        replica.tick_length = int(TICK * (1 + self.rngs["clock"].uniform(-self.parameters.drift, self.parameters.drift)))
        if checkpoint.configuration.is_joint:
            self.counts["restart in a joint configuration"] += 1
        # Its own child for each life: the seed alone decides, not the order of starts.
        rng = random.Random(f"{self.seed}:node:{replica.node_id}:{replica.incarnation}")
        replica.core = RaftNode(
            replica.node_id,
            settings,
            replica.hard_state,
            checkpoint.configuration,
            replica.log,
            rng,
            applied_index=checkpoint.index,
        )
        self.note("start", f"{replica.node_id} {replica.hard_state} log {replica.log.first_index}..{replica.log.last_index}")
        self.after_for(replica, self.rngs["clock"].randrange(TICK), lambda: self.tick(replica))

    def tick(self, replica: Replica) -> None:
        core = replica.core
        assert core is not None
        replica.ticks += 1
        core.tick()
        self.pump(replica)
        if core.is_leader:
            self.look_at_followers(replica, core)
            self.check_still_leading(replica, core)
        self.after_for(replica, replica.tick_length, lambda: self.tick(replica))

    def look_at_followers(self, replica: Replica, core: RaftNode) -> None:
        """What a leader knows of others is bounded, and moves."""
        settings = core.settings
        status = core.status()
        for node, progress in status.progress.items():
            if node == core.node_id:
                continue
            if progress.inflight_messages > settings.max_inflight_messages:
                self.fail(f"leader {core.node_id} has {progress.inflight_messages} messages under way to {node}")
            # The message that fills the window may exceed it, and is as large as an APPEND or an entry may be.
            largest = max(settings.max_append_bytes, ENTRY_BYTES_MAX)
            if settings.max_inflight_bytes and progress.inflight_bytes >= settings.max_inflight_bytes + largest:
                self.fail(f"leader {core.node_id} has {progress.inflight_bytes} bytes under way to {node}")
            before = replica.following.get(node)
            if before is not None and before.state != progress.state:
                self.counts[f"{before.state} to {progress.state}"] += 1
            if progress.inflight_messages == settings.max_inflight_messages:
                self.counts["window full"] += 1
        if status.uncommitted_bytes > max(settings.max_uncommitted_bytes, ENTRIES_MAX * ENTRY_BYTES_MAX):
            self.fail(f"leader {core.node_id} has taken {status.uncommitted_bytes} bytes that wait")
        replica.following = status.progress

    def check_still_leading(self, replica: Replica, core: RaftNode) -> None:
        """Who cannot commit does not keep others from leading."""
        settings = core.settings
        configuration = core.configuration
        patience_ticks = 2 * settings.election_timeout_ticks + 1
        writes_entries = replica.writing and bool(replica.writes[0].entries)
        if writes_entries and replica.ticks - replica.writing_since > patience_ticks:
            self.fail(f"leader {core.node_id} goes on although its disk hangs since its tick {replica.writing_since}")
        if core.node_id not in configuration.all_voters and settings.step_down_on_removal:
            self.fail(f"leader {core.node_id} goes on in {configuration}")
        heard = {node for node, at in replica.heard.items() if replica.ticks - at <= patience_ticks} | {core.node_id}
        for voters in (configuration.voters, configuration.voters_outgoing):
            if settings.check_quorum and voters and 2 * len(voters & heard) <= len(voters):
                self.fail(f"leader {core.node_id} goes on although it has heard from {sorted(heard)} only")

    def crash(self, replica: Replica, down_max_ticks: int = 0) -> None:
        """Power is lost: what is under way to the disk is lost too, or a part of it, or nothing of it. 0: back at random."""
        if replica.core is None:
            return
        rng = self.rngs["disk"]
        if replica.writing:
            steps = disk_steps(replica, replica.writes[0])
            done = rng.randint(0, len(steps))
            for step in steps[:done]:
                self.persist(replica, step)
            kept = sum(isinstance(step, Entry) for step in steps[:done])
            if 0 < kept < len(replica.writes[0].entries):
                self.counts["crash kept a part of the entries"] += 1
            elif done and not kept and replica.writes[0].entries:
                self.counts["crash kept the term and no entries"] += 1
            elif steps and not done:
                self.counts["crash lost a write"] += 1
        if rng.random() < 0.5:
            if replica.hard_state.commit > replica.durable_commit:
                self.counts["commit index forgotten"] += 1
            replica.hard_state = attrs.evolve(replica.hard_state, commit=replica.durable_commit)
        replica.core = None
        replica.machine = None
        replica.writes.clear()
        replica.writing = False
        replica.tail.clear()
        replica.applying.clear()
        replica.applying_now = False
        replica.stalled_until = 0
        replica.hung_until = 0
        replica.crashes_amid_write = False
        if len(replica.checkpoints) > 1 and rng.random() < 0.5:
            # The machine's last checkpoints were not synced either. The log still holds what follows.
            keep = [point for point in replica.checkpoints if point.index >= replica.log.base_index]
            replica.checkpoints = keep[: rng.randint(1, len(keep))]
            self.counts["machine restarts from before"] += 1
        self.note("crash", f"{replica.node_id} keeps {replica.hard_state} log ..{replica.log.last_index}")
        self.reset_links(replica, rng)
        down_max_ticks = down_max_ticks or 3 * self.parameters.settings.election_timeout_ticks
        down = self.rngs["nemesis"].randrange(1, down_max_ticks * TICK)
        self.after(down, lambda: self.restart(replica))

    def reset_links(self, replica: Replica, rng: random.Random) -> None:
        """Most of the others notice that the links to this one are gone."""
        for other in self.replicas.values():
            if other.core is not None and rng.random() < 0.7:
                delay = rng.randrange(TICK)
                self.after_for(other, delay, partial(self.peer_reset, other, replica.node_id))

    def peer_reset(self, replica: Replica, node: NodeId) -> None:
        core = replica.core
        assert core is not None
        if core.peer_reset(node):
            self.note("peer reset", f"{replica.node_id} lost its leader {node}")
            delay = self.rngs["clock"].randrange(TICK)
            self.after_for(replica, delay, lambda: self.campaign_if_leader_lost(replica, node))
        self.pump(replica)

    def campaign_if_leader_lost(self, replica: Replica, node: NodeId) -> None:
        assert replica.core is not None
        if replica.core.campaign_if_leader_lost(node):
            self.note("quick campaign", f"{replica.node_id}")
        self.pump(replica)

    # The driver.

    def pump(self, replica: Replica) -> None:
        core = replica.core
        assert core is not None
        while (ready := core.ready()) is not None:
            self.carry_out(replica, core, ready)
        self.check(replica, core)

    def carry_out(self, replica: Replica, core: RaftNode, ready: Ready) -> None:
        for event in ready.events:
            self.counts[event.kind.name] += 1
            self.on_event(replica, core, event)
            if event.kind in (EventKind.ALARM_COMMIT_OUT_OF_RANGE, EventKind.ALARM_FOLLOWER_LOST_ENTRIES):
                self.fail(f"{replica.node_id} raises {event}, though no disk has broken its word")
        if ready.soft_state is not None:
            self.note("state", f"{replica.node_id} {ready.soft_state.role.name.lower()} t{core.term} of {core.leader}")
        append = ready.append
        if append is not None:
            self.check_handed_out(replica, core, append)
            if append.snapshot is not None:
                replica.tail.clear()
            for entry in append.entries:
                replica.tail[entry.index] = entry
            if append.entries:
                for index in [index for index in replica.tail if index > append.entries[-1].index]:
                    del replica.tail[index]
            replica.writes.append(append)
            for message in append.responses:
                self.check_promise(replica, message)
            self.write_next(replica)
        for message in ready.messages:
            self.check_promise(replica, message)
            self.send(replica, message)
        if ready.committed:
            replica.applying.append(ready.committed)
            self.apply_next(replica)
        for read in ready.read_states:
            self.check_read(replica, read.index, read.context)

    def write_next(self, replica: Replica) -> None:
        if replica.writing or not replica.writes:
            return
        replica.writing = True
        replica.writing_since = replica.ticks
        delay = self.delay("disk", self.parameters.disk_delay_max) if replica.writes[0].must_sync else 0
        delay += max(replica.stalled_until - self.now, 0)
        if replica.writes[0].snapshot is not None:
            # It is large.
            delay += self.delay("disk", 3 * self.parameters.settings.election_timeout_ticks * TICK)
        if replica.crashes_amid_write and replica.writes[0].entries:
            self.after_for(replica, self.rngs["nemesis"].randrange(delay + 1), lambda: self.crash(replica))
        self.after_for(replica, delay, lambda: self.written(replica))

    def written(self, replica: Replica) -> None:
        core = replica.core
        assert core is not None
        append = replica.writes.popleft()
        replica.writing = False
        for step in disk_steps(replica, append):
            self.persist(replica, step)
        replica.hard_state = append.hard_state or replica.hard_state
        if append.snapshot is not None:
            snapshot = append.snapshot
            replica.machine = replica.checkpoints[-1]
            self.check_configuration(replica, core, replica.machine)
            replica.applying.clear()
            self.note("installed", f"{replica.node_id} snapshot {snapshot.index}")
        if self.log is not None:
            self.log.add(f"{replica.node_id} disk {append.entries[0].index if append.entries else ''}..{replica.log.last_index}")
        for message in append.responses:
            if message.to == replica.node_id:
                self.check_leaving(replica, message)
                self.hand_over(replica, message)
            else:
                self.send(replica, message)
        core.on_appended(append.token)
        stable = core.stable_index
        for index in [index for index in replica.tail if index <= stable]:
            del replica.tail[index]
        self.write_next(replica)
        self.pump(replica)

    def persist(self, replica: Replica, step: DiskStep) -> None:
        if isinstance(step, HardState):
            replica.durable_commit = max(replica.durable_commit, step.commit)
            replica.hard_state = attrs.evolve(step, commit=replica.durable_commit)
        elif isinstance(step, Entry):
            self.check_change_durable(replica, step)
            replica.log.append((step,))
        else:
            # Its data came before the message that names it.
            digest = self.digests[step.index]
            replica.checkpoints = [Checkpoint(index=step.index, term=step.term, digest=digest, configuration=step.configuration)]
            replica.log.install(step)

    def apply_next(self, replica: Replica) -> None:
        if not replica.applying_now and replica.applying:
            replica.applying_now = True
            delay = self.delay("disk", self.parameters.apply_delay_max) + max(replica.hung_until - self.now, 0)
            self.after_for(replica, delay, lambda: self.apply(replica))

    def apply(self, replica: Replica) -> None:
        core = replica.core
        machine = replica.machine
        assert core is not None
        assert machine is not None
        replica.applying_now = False
        if not replica.applying:
            # A snapshot has taken the place of what was to be applied.
            return
        page = replica.applying.popleft()
        if self.log is not None:
            self.log.add(f"{replica.node_id} applies {page.start}..{page.stop - 1}")
        for index in page:
            if index <= machine.index:
                continue
            entry = self.entry(replica, index)
            if index > replica.log.last_index or replica.log.term(index) != entry.term:
                self.fail(f"{replica.node_id} applies {entry.term}/{index}, which is not durable there")
            if entry.index != machine.index + 1:
                self.fail(f"{replica.node_id} applies {entry.index} after {machine.index}")
            configuration = machine.configuration
            if entry.kind is EntryKind.CONFIGURATION:
                # Never wake up in an older configuration than one acted in.
                replica.durable_commit = max(replica.durable_commit, index)
                change = decode_change(entry.payload)
                try:
                    configuration = change_configuration(configuration, change).configuration
                    self.note("configuration", f"{replica.node_id} {configuration}")
                except ConfigurationError as error:
                    self.note("change refused", f"{replica.node_id} {index}: {error}")
                replica.heard = dict.fromkeys(self.replicas, replica.ticks)
                try:
                    core.apply_configuration(change, index)
                except ConfigurationError:
                    # As the machine has; `check_configuration` compares the two.
                    self.counts["change refused by the core"] += 1
                if self.cut and machine.configuration.learners & configuration.voters:
                    self.counts["learner promoted amid a cut"] += 1
            machine = Checkpoint(
                index=index, term=entry.term, digest=next_digest(machine.digest, entry), configuration=configuration
            )
            self.check_applied(replica, entry, machine)
            self.check_configuration(replica, core, machine)
        replica.machine = machine
        if self.rngs["disk"].random() < 0.2:
            replica.checkpoints.append(machine)
        core.on_applied(max(machine.index, core.applied_index))
        self.apply_next(replica)
        self.pump(replica)

    def entry(self, replica: Replica, index: int) -> Entry:
        return replica.tail.get(index) or replica.log.entry(index)

    def term(self, replica: Replica, index: int) -> int:
        """Of what the core believes to be its log: on the disk, or on the way to it."""
        held = replica.tail.get(index)
        if held is not None:
            return held.term
        for append in reversed(replica.writes):
            if append.snapshot is not None and append.snapshot.index == index:
                return append.snapshot.term
        return replica.log.term(index)

    # The network.

    def send(self, replica: Replica, message: Message) -> None:
        core = replica.core
        assert core is not None
        self.check_leaving(replica, message)
        if message.type is MessageType.APPEND:
            if message.term != core.term:
                # What stands at those indexes now may be another leader's.
                self.counts["append of a former term not sent"] += 1
                core.report_unreachable(message.to)
                return
            try:
                entries = tuple(self.entry(replica, index) for index in range(message.index + 1, message.last_index + 1))
            except (Compacted, OutOfLog):
                self.counts["append gone before it was sent"] += 1
                core.report_unreachable(message.to)
                return
            message = attrs.evolve(message, entries=entries)
        target = self.replicas.get(message.to)
        rng = self.rngs["network"]
        parameters = self.parameters
        if message.type is MessageType.SNAPSHOT:
            # The data travels on the side; its end is reported, one way or the other.
            ok = rng.random() < 0.8 or self.healed
            self.after_for(
                replica, rng.randrange(5 * TICK), lambda: self.snapshot_sent(replica, message.to, ok and target is not None)
            )
            if not ok:
                self.counts["snapshot lost"] += 1
                return
        if target is None or (replica.node_id, message.to) in self.cut:
            return
        if not self.healed and rng.random() < parameters.loss:
            self.counts["lost"] += 1
            return
        copies = 2 if not self.healed and rng.random() < parameters.duplication else 1
        for _ in range(copies):
            delay = self.delay("network", parameters.delay_max)
            if self.clogged:
                delay += self.now - self.clogged.get((replica.node_id, message.to), self.now)
            if not parameters.reorder:
                link = (replica.node_id, message.to)
                arrival = self.arrivals[link] = max(self.arrivals.get(link, 0), self.now + delay)
                delay = arrival - self.now
            self.after(delay, lambda: self.deliver(target, message))
        if not self.healed and rng.random() < parameters.lateness:
            # Of another age, perhaps: leaders, terms and configurations have changed meanwhile, and whoever is cut off by now
            # gets an answer from before. Amid the next election it does the most.
            if rng.random() < 0.5:
                self.held_back.append((target, message))
            else:
                late = rng.randrange(6 * parameters.settings.election_timeout_ticks * TICK)
                self.after(late, lambda: self.deliver(target, message, is_late=True))

    def release_held_back(self) -> None:
        held_back, self.held_back = self.held_back, []
        for target, message in held_back:
            late = self.rngs["network"].randrange(6 * TICK)
            self.after(late, partial(self.deliver, target, message, is_late=True))

    def deliver(self, target: Replica, message: Message, is_late: bool = False) -> None:
        if target.core is None or (not is_late and (message.sender, message.to) in self.cut):
            return
        if target.paused_until > self.now:
            self.after(target.paused_until - self.now, lambda: self.deliver(target, message, is_late))
            return
        self.counts["late"] += is_late
        if self.log is not None:
            self.log.add(describe(message))
        core = target.core
        term = core.term
        commit = core.commit_index
        is_promised = message.type is MessageType.VOTE and message.context != TRANSFER_CAMPAIGN and self.has_promised(target, core)
        before = core.status().hard_state if is_promised else None
        target.heard[message.sender] = target.ticks
        self.mark_message(target, core, message)
        self.hand_over(target, message)
        if before is not None:
            self.counts["vote asked within a lease"] += 1
            state = core.status().hard_state
            if (state.term, state.vote) != (before.term, before.vote):
                self.fail(f"{target.node_id} heeds {message.sender} within a lease: {before}, now {state}")
        if message.type is MessageType.PRE_VOTE:
            if core.term != term:
                self.fail(f"{target.node_id} goes from term {term} to {core.term} although it was only asked")
            if not core.has_ready():
                self.counts["pre-vote ignored within a lease"] += 1
        self.pump(target)
        if message.type in FROM_LEADER and message.term == core.term:
            target.followed_term, target.followed_at, target.followed_tick = core.term, self.now, target.ticks
            if core.commit_index > commit and message.type is not MessageType.SNAPSHOT:
                self.check_shown(target, core)

    def hand_over(self, replica: Replica, message: Message) -> None:
        assert replica.core is not None
        # Looking costs more than stepping; the property tests look at everything.
        self.steps += 1
        before = observable(replica.core) if self.steps % 8 == 0 else None
        try:
            replica.core.step(message)
        except (ProtocolError, ProposalDropped) as error:
            self.counts[type(error).__name__] += 1
            if before is not None and observable(replica.core) != before:
                self.fail(f"{replica.node_id} raised {error!r} and changed all the same")
            if type(error) is ProtocolError:
                self.fail(f"{replica.node_id} refuses an honest message: {error}")

    def snapshot_sent(self, replica: Replica, to: NodeId, ok: bool) -> None:
        assert replica.core is not None
        replica.core.report_snapshot(to, ok)
        self.pump(replica)

    # Faults and load.

    def nemesis(self) -> None:
        parameters = self.parameters
        if self.healed:
            self.load(0 if parameters.ends_quietly else min(parameters.proposal_rate, HEALED_PROPOSAL_RATE))
            self.after(TICK, self.nemesis)
            return
        rng = self.rngs["nemesis"]
        timeout = parameters.settings.election_timeout_ticks * TICK
        replicas = list(self.replicas.values())
        leaders = [replica for replica in replicas if replica.core is not None and replica.core.is_leader]
        if rng.random() < parameters.crash_rate:
            victim = rng.choice(replicas)
            if rng.random() < 0.5:
                self.crash(victim)
            else:
                victim.crashes_amid_write = True
        if rng.random() < parameters.hang_rate:
            self.hang(rng.choice(replicas), rng.randrange(3 * timeout))
        if rng.random() < parameters.strand_rate:
            self.strand(rng.choice(leaders or replicas), rng)
        if rng.random() < parameters.clog_rate:
            self.clog(rng.choice(leaders or replicas), rng)
        if rng.random() < parameters.confine_rate:
            self.confine(rng.choice([replica for replica in replicas if replica not in leaders] or replicas), leaders, rng)
        if leaders and rng.random() < parameters.dwindle_rate:
            self.dwindle(rng.choice(leaders), rng)
        if rng.random() < parameters.blackout_rate:
            self.counts["blackout"] += 1
            for victim in replicas:
                self.crash(victim)
        if rng.random() < parameters.pause_rate:
            victim = rng.choice(replicas)
            victim.paused_until = self.now + rng.randrange(3 * timeout)
            self.note("pause", f"{victim.node_id} until {victim.paused_until}")
        if rng.random() < parameters.cut_rate:
            self.cut_links(rng)
        if rng.random() < parameters.stall_rate:
            victim, duration = rng.choice([*leaders, *replicas]), rng.randrange(1, 3 * timeout)
            self.stall(victim, duration)
            if rng.random() < 0.5:
                # Who leads begins again from what was acknowledged, which is less than it holds.
                self.after_for(victim, rng.randrange(duration), partial(self.reset_links, victim, rng))
        if rng.random() < parameters.reset_rate:
            victim = rng.choice(replicas)
            if victim.core is not None and victim.paused_until <= self.now:
                self.peer_reset(victim, rng.choice(replicas).node_id)
        is_quiet = parameters.ends_quietly and 2 * self.now > parameters.fault_ticks * TICK
        self.load(0 if is_quiet else parameters.proposal_rate)
        self.after(TICK, self.nemesis)

    def restart(self, replica: Replica) -> None:
        if replica.core is None:
            self.start(replica)

    def cut_links(self, rng: random.Random) -> None:
        """For a while: around one node, preferably a leader; one way between two; or right through."""
        nodes = list(self.replicas)
        duration = rng.randrange(1, 8 * self.parameters.settings.election_timeout_ticks * TICK)
        match rng.randrange(3):
            case 0:
                leaders = [replica for replica in self.replicas.values() if replica.core is not None and replica.core.is_leader]
                self.cut_off(rng.choice(leaders or list(self.replicas.values())), rng, duration)
            case 1:
                self.cut_for({(rng.choice(nodes), rng.choice(nodes))}, duration)
            case _:
                side = {node for node in nodes if rng.random() < 0.5}
                self.cut_for({(a, b) for a in nodes for b in nodes if (a in side) is not (b in side)}, duration)

    def cut_off(self, victim: Replica, rng: random.Random, duration: int) -> None:
        """From everyone. The others may notice at once; it may have been told to hand over; its clients go on to ask it."""
        core = victim.core
        cut = self.around(victim.node_id)
        if core is not None and core.is_leader and victim.paused_until <= self.now:
            self.counts["leader cut off"] += 1
            self.question(victim, rng)
            if rng.random() < 0.3:
                self.counts["leader cut off amid a transfer"] += 1
                self.transfer(victim, rng.choice(sorted(core.configuration.voters)))
                # The message to campaign gets through, an answer hardly.
                self.after(rng.randrange(2 * self.parameters.delay_max), lambda: self.cut_for(cut, duration))
                return
        self.cut_for(cut, duration)
        if rng.random() < 0.5:
            self.reset_links(victim, rng)

    def question(self, leader: Replica, rng: random.Random) -> None:
        """Its clients do not know yet that others may lead."""
        timeout = self.parameters.settings.election_timeout_ticks * TICK
        for _ in range(rng.randrange(8)):
            self.after_for(leader, rng.randrange(2 * timeout), partial(self.read_if_leader, leader))

    def clog(self, victim: Replica, rng: random.Random) -> None:
        """Answers queue up before it, later and later; and when nobody hears it any more, those from before go on to arrive."""
        timeout = self.parameters.settings.election_timeout_ticks * TICK
        begin = rng.randrange(timeout, 3 * timeout)
        duration = rng.randrange(timeout, 4 * timeout)
        self.note("clog", f"{victim.node_id}")
        for other in self.replicas:
            self.clogged[other, victim.node_id] = self.now
        self.after(begin, lambda: self.cut_for({(victim.node_id, other) for other in self.replicas}, duration))
        self.after_for(victim, begin, lambda: self.question(victim, rng))
        self.after(begin + duration, lambda: self.unclog(victim))

    def unclog(self, victim: Replica) -> None:
        for other in self.replicas:
            self.clogged.pop((other, victim.node_id), None)

    def around(self, node: NodeId) -> set[tuple[NodeId, NodeId]]:
        return {(node, other) for other in self.replicas} | {(other, node) for other in self.replicas}

    def cut_for(self, cut: set[tuple[NodeId, NodeId]], duration: int) -> None:
        if not self.healed:
            self.cut |= cut
            self.note("cut", f"{sorted(cut)}")
            self.after(duration, lambda: self.mend(cut))

    def strand(self, victim: Replica, rng: random.Random) -> None:
        """Its disk hangs, then its links are gone, and come back first.

        Others take over and replace the end of its log, part of which is on the way to its disk all the time. Or it is the machine
        that hangs, amid a change of the configuration, and goes on while a snapshot that covers the change is written.
        """
        timeout = self.parameters.settings.election_timeout_ticks * TICK
        cut = self.around(victim.node_id)
        duration = rng.randrange(2 * timeout, 6 * timeout)
        begin = rng.randrange(1, timeout)
        self.note("strand", f"{victim.node_id}")
        self.after(begin, lambda: self.cut_for(cut, duration))
        if rng.random() < 0.5:
            self.stall(victim, 8 * timeout)
            return
        self.hang(victim, begin + duration + rng.randrange(3 * timeout))
        for other in self.replicas.values():
            if other.core is not None and other.core.is_leader and other.paused_until <= self.now:
                self.propose_change(other, other.core, self.draw_change(other.core.configuration, rng))
                self.pump(other)
            if other is not victim:
                self.after_for(other, begin + rng.randrange(duration // 2, duration), partial(self.compact, other))

    def stall(self, victim: Replica, duration: int) -> None:
        """Its disk writes nothing."""
        victim.stalled_until = self.now + duration
        self.note("stall", f"{victim.node_id} until {victim.stalled_until}")

    def hang(self, victim: Replica, duration: int) -> None:
        """Its machine applies nothing."""
        victim.hung_until = self.now + duration
        self.note("hang", f"{victim.node_id} until {victim.hung_until}")

    def confine(self, follower: Replica, leaders: Sequence[Replica], rng: random.Random) -> None:
        """The leaders of now and of the next elections reach this one follower only, whose disk hangs (paper, figure 8).

        Each replaces what the one before has written there; nothing of it is durable yet, nor committed.
        """
        timeout = self.parameters.settings.election_timeout_ticks * TICK
        self.stall(follower, 12 * timeout)
        self.confining = follower
        self.confinements = rng.choice((2, 2, 3, 4))
        self.note("confine", f"to {follower.node_id}")
        for leader in leaders:
            self.confine_leader(leader)

    def confine_leader(self, leader: Replica) -> None:
        follower = self.confining
        if follower is None or follower is leader or self.healed:
            return
        self.confinements -= 1
        if not self.confinements:
            self.confining = None
        timeout = self.parameters.settings.election_timeout_ticks * TICK
        links = {(leader.node_id, follower.node_id), (follower.node_id, leader.node_id)}
        self.cut_for(self.around(leader.node_id) - links, self.rngs["nemesis"].randrange(timeout, 3 * timeout))

    def dwindle(self, leader: Replica, rng: random.Random) -> None:
        """It reaches a bare quorum, and the others want to lead; then nobody, and who followed it is killed and back at once.

        Nobody may be elected before the leader knows that its lease is over.
        """
        if leader.core is None:
            # Crashed in this very tick.
            return
        voters = sorted(leader.core.configuration.voters - {leader.node_id})
        kept = rng.sample(voters, (len(voters) + 1) // 2)
        timeout = self.parameters.settings.election_timeout_ticks * TICK
        first = rng.randrange(timeout, 4 * timeout)
        second = rng.randrange(timeout, 3 * timeout)
        self.note("dwindle", f"{leader.node_id} to {kept}")
        links = {(leader.node_id, node) for node in kept} | {(node, leader.node_id) for node in kept}
        self.cut_for(self.around(leader.node_id) - links, first + second)
        self.after(first, lambda: self.abandon(leader, [self.replicas[node] for node in kept], rng, second))

    def abandon(self, leader: Replica, followers: Sequence[Replica], rng: random.Random, duration: int) -> None:
        if not self.healed:
            self.cut_off(leader, rng, duration)
            for follower in followers:
                self.after_for(follower, rng.randrange(TICK), partial(self.crash, follower, down_max_ticks=2))

    def mend(self, cut: set[tuple[NodeId, NodeId]]) -> None:
        """Two cuts may overlap; the first to end ends them both where they do."""
        self.cut -= cut
        self.note("mend", f"{sorted(cut)}")

    def heal(self) -> None:
        self.healed = True
        self.cut.clear()
        self.clogged.clear()
        self.held_back.clear()
        self.note("heal", "")
        for replica in self.replicas.values():
            replica.stalled_until = 0
            replica.hung_until = 0
            replica.paused_until = 0
            replica.crashes_amid_write = False
            replica.tick_length = TICK
            self.restart(replica)

    def load(self, proposal_rate: float) -> None:
        parameters = self.parameters
        rng = self.rngs["load"]
        for replica in self.replicas.values():
            core = replica.core
            if core is None or replica.paused_until > self.now:
                continue
            if core.is_leader:
                self.propose_some(replica, core, rng, proposal_rate)
                if not self.healed:
                    self.change_some(replica, core, rng)
                elif core.configuration.is_joint and not core.configuration.auto_leave:
                    # What the operator forgot.
                    self.propose_change(replica, core, LEAVE_JOINT)
            if rng.random() < parameters.read_rate:
                self.read(replica, core)
            if rng.random() < (max(parameters.compact_rate, HEALED_COMPACT_RATE) if self.healed else parameters.compact_rate):
                self.compact(replica)
            self.pump(replica)

    def propose_some(self, replica: Replica, core: RaftNode, rng: random.Random, rate: float) -> None:
        count = int(rate) + (rng.random() < rate % 1)
        entries = []
        for _ in range(count):
            self.proposals += 1
            entries.append(ProposedEntry(EntryKind.DATA, 1, rng.randrange(1, ENTRY_BYTES_MAX), str(self.proposals).encode()))
        if not entries:
            return
        try:
            indexes = core.propose(entries)
        except ProposalDropped as error:
            self.counts[f"dropped {error.reason.name}"] += 1
        else:
            self.note("propose", f"{replica.node_id} {indexes} at term {core.term}")

    def change_some(self, replica: Replica, core: RaftNode, rng: random.Random) -> None:
        parameters = self.parameters
        if rng.random() < parameters.change_rate:
            self.propose_change(replica, core, self.draw_change(core.configuration, rng))
        if core.is_leader and rng.random() < parameters.transfer_rate:
            self.transfer(replica, rng.choice(list(self.replicas)))

    def hand_back(self, replica: Replica, core: RaftNode) -> None:
        """To who led just before, and has messages of that time on their way."""
        rng = self.rngs["load"]
        before = self.leaders.get(core.term - 1, replica.node_id)
        if before != replica.node_id and not self.healed and rng.random() < 10 * self.parameters.transfer_rate:
            self.after_for(replica, rng.randrange(3 * TICK), partial(self.transfer, replica, before))

    def transfer(self, replica: Replica, target: NodeId) -> None:
        core = replica.core
        assert core is not None
        if not core.is_leader:
            return
        try:
            core.transfer_leader(target)
        except ConfigurationError:
            self.counts["transfer refused"] += 1
        else:
            self.note("transfer", f"{replica.node_id} to {target}")
        self.pump(replica)

    def propose_change(self, replica: Replica, core: RaftNode, change: ConfigurationChange) -> None:
        try:
            index = core.propose_configuration(change)
        except (ProposalDropped, ConfigurationError) as error:
            self.counts[f"change: {type(error).__name__}"] += 1
        else:
            self.note("change", f"{replica.node_id} {index}: {change}")
            rng = self.rngs["operator"]
            if rng.random() < 10 * self.parameters.transfer_rate:
                # Before it is applied: the change has to wait for how that ends.
                self.transfer(replica, rng.choice(list(self.replicas)))

    def draw_change(self, configuration: Configuration, rng: random.Random) -> ConfigurationChange:
        if configuration.is_joint:
            return LEAVE_JOINT
        nodes = list(self.replicas)
        kinds = (ChangeKind.ADD_VOTER, ChangeKind.ADD_LEARNER, ChangeKind.REMOVE)
        changes = tuple(NodeChange(rng.choice(kinds), rng.choice(nodes)) for _ in range(rng.choice((1, 1, 2, 3))))
        return ConfigurationChange(changes=changes, transition=rng.choice(tuple(Transition)))

    def read_if_leader(self, replica: Replica) -> None:
        core = replica.core
        assert core is not None
        if core.is_leader and not self.healed:
            self.counts["read asked of a leader that was cut off"] += 1
            self.read(replica, core)
            self.pump(replica)

    def read(self, replica: Replica, core: RaftNode) -> bytes | None:
        """Returns its context, or None when it was refused."""
        context = f"{replica.node_id}.{replica.incarnation}.{self.sequence}.{self.now}".encode()
        if self.ask(core, context):
            self.reads[context] = Read(self.now, self.commit_floor)
            if core.is_leader and self.term(replica, core.commit_index) != core.term:
                self.counts["read waits for the first commit of a term"] += 1
            return context
        return None

    def ask(self, core: RaftNode, context: bytes) -> bool:
        try:
            core.read_index(context)
        except ProposalDropped as error:
            self.counts[f"dropped {error.reason.name}"] += 1
        except NotLeader:
            pass
        else:
            return True
        return False

    def ask_again(self, replica: Replica, contexts: tuple[bytes, ...]) -> None:
        """A leader that stepped down has named the reads it will not answer; they wait until there is one again."""
        assert replica.core is not None
        refused = []
        for context in contexts:
            if context in self.reads:
                if self.ask(replica.core, context):
                    self.counts["read asked again"] += 1
                else:
                    refused.append(context)
        if refused:
            self.after_for(replica, TICK, partial(self.ask_again, replica, tuple(refused)))
        self.pump(replica)

    def compact(self, replica: Replica) -> None:
        """The machine's state becomes durable, the log's prefix goes."""
        machine = replica.machine
        assert machine is not None
        index = machine.index
        if index <= replica.log.base_index or index > replica.log.last_index or replica.tail.get(index):
            return
        replica.checkpoints = [machine]
        replica.log.sendable_snapshot = SnapshotMetadata(index=index, term=machine.term, configuration=machine.configuration)
        replica.log.compact(index)
        self.note("compact", f"{replica.node_id} to {index}")

    # The referee.

    def check(self, replica: Replica, core: RaftNode) -> None:
        if core.is_leader:
            leader = self.leaders.setdefault(core.term, replica.node_id)
            if leader != replica.node_id:
                self.fail(f"{leader} and {replica.node_id} both lead term {core.term}")
            if replica.led_term != core.term:
                replica.led_term = core.term
                replica.heard = dict.fromkeys(self.replicas, replica.ticks)
                self.check_election(replica, core)
                self.check_leader_completeness(replica, core)
            elif core.commit_index > replica.commit_seen:
                if self.term(replica, core.commit_index) != core.term:
                    # Counting copies says nothing about an older entry: another leader may still replace it (paper, figure 8).
                    self.fail(f"leader {replica.node_id} of term {core.term} commits an older entry, {core.commit_index}")
                if replica.commit_seen >= replica.log.base_index and self.term(replica, replica.commit_seen + 1) != core.term:
                    self.counts["older entries committed by a newer one"] += 1
        commit = core.commit_index
        if commit < replica.commit_seen:
            self.fail(f"{replica.node_id}: commit went back from {replica.commit_seen} to {commit}")
        if commit > replica.commit_seen:
            self.check_committed(replica, core, commit)
            replica.commit_seen = commit
            self.commit_floor = max(self.commit_floor, commit)
        if not core.applied_index <= commit <= core.last_index:
            self.fail(f"{replica.node_id}: applied {core.applied_index}, commit {commit}, last {core.last_index}")
        if core.applied_index < replica.applied_seen:
            self.fail(f"{replica.node_id}: applied went back from {replica.applied_seen} to {core.applied_index}")
        replica.applied_seen = core.applied_index

    def check_election(self, replica: Replica, core: RaftNode) -> None:
        """A new leader has the votes of a majority of each half, by what the voters have said (thesis, section 4.3)."""
        granted = {node for node in self.replicas if self.votes.get((core.term, node)) == replica.node_id}
        for voters in (core.configuration.voters, core.configuration.voters_outgoing):
            if voters and 2 * len(voters & granted) <= len(voters):
                self.fail(f"{replica.node_id} leads term {core.term} in {core.configuration} by the votes of {sorted(granted)}")

    def check_leader_completeness(self, replica: Replica, core: RaftNode) -> None:
        """A new leader holds every entry that was committed in an earlier term than its own (paper, section 5.4).

        One whose votes were long on their way leads when entries have been committed in later terms, and they are nothing to it.
        """
        for entry, committed_in in zip(self.committed, self.committed_in, strict=True):
            if committed_in >= core.term:
                break
            if entry.index <= replica.log.base_index:
                continue
            try:
                held = self.entry(replica, entry.index)
            except OutOfLog:
                self.fail(f"leader {replica.node_id} of term {core.term} lacks committed {entry.term}/{entry.index}")
            else:
                if (held.term, held.payload) != (entry.term, entry.payload):
                    self.fail(f"leader {replica.node_id} has {held.term}/{held.index}, committed is {entry.term}")

    def check_committed(self, replica: Replica, core: RaftNode, commit: int) -> None:
        """What this node takes for committed is what all others do, and it is durable on a quorum."""
        for index in range(max(replica.commit_seen, replica.log.base_index) + 1, commit + 1):
            entry = self.entry(replica, index)
            if index <= len(self.committed):
                known = self.committed[index - 1]
                if (known.term, known.payload) != (entry.term, entry.payload):
                    self.fail(f"{replica.node_id} commits {entry.term}/{index}, committed before was {known.term}/{index}")
            else:
                if index != len(self.committed) + 1:
                    self.fail(f"{replica.node_id} commits {index} after {len(self.committed)}")
                self.check_durable_on_quorum(core, entry)
                self.committed.append(entry)
                self.committed_in.append(core.term)
                self.digests.append(next_digest(self.digests[-1], entry))

    def check_durable_on_quorum(self, core: RaftNode, entry: Entry) -> None:
        """Counted on the disks, not in the cores."""
        holders = set()
        for node, replica in self.replicas.items():
            log = replica.log
            if log.base_index >= entry.index or (log.last_index >= entry.index and log.term(entry.index) == entry.term):
                holders.add(node)
        for voters in (core.configuration.voters, core.configuration.voters_outgoing):
            if voters and 2 * len(voters & holders) <= len(voters):
                self.fail(f"{core.node_id} commits {entry.term}/{entry.index}; only {sorted(holders)} hold it")

    def check_handed_out(self, replica: Replica, core: RaftNode, append: StorageAppend) -> None:
        """Log matching, by induction: an index and a term name one entry and one predecessor (paper, section 5.3)."""
        snapshot = append.snapshot
        if snapshot is not None:
            replica.handed_last = snapshot.index
            if snapshot.index > len(self.committed) or self.committed[snapshot.index - 1].term != snapshot.term:
                self.fail(f"{replica.node_id} restores {snapshot}, which was not committed")
            replica.commit_seen = max(replica.commit_seen, snapshot.index)
        if append.entries:
            first = append.entries[0].index
            self.mark_conflict(replica, replica.handed_last - first + 1, replica.log.last_index - first + 1)
            if core.is_leader and any(entry.kind is EntryKind.CONFIGURATION for entry in append.entries):
                self.check_one_change(replica, core, append.entries)
            if core.is_leader and first <= replica.handed_last and append.entries[0].term == core.term:
                # The first entries of a new leader may replace nothing either: its log only grows.
                self.fail(f"leader {replica.node_id} rewrites {first}, its log ends at {replica.handed_last}")
            before = self.term(replica, first - 1)
            for entry in append.entries:
                known = self.entries.setdefault((entry.index, entry.term), (entry, before))
                if known != (entry, before):
                    self.fail(f"{replica.node_id} has {entry} after term {before}, elsewhere it is {known}")
                before = entry.term
            replica.handed_last = append.entries[-1].index

    def check_one_change(self, replica: Replica, core: RaftNode, entries: Sequence[Entry]) -> None:
        """No change before the last one is applied: quorums two changes apart need not overlap (thesis, section 4.1)."""
        first = entries[0].index
        before = 0
        for index in range(max(core.applied_index, replica.log.base_index) + 1, entries[-1].index + 1):
            entry = entries[index - first] if index >= first else self.entry(replica, index)
            if entry.kind is EntryKind.CONFIGURATION:
                if before and index >= first and entry.term == core.term:
                    self.fail(f"leader {replica.node_id} adds change {index}, {before} waits, applied is {core.applied_index}")
                before = index

    def check_change_durable(self, replica: Replica, entry: Entry) -> None:
        """A change in a log says that those before it are committed, and the same disk has to say so (`StorageAppend.sync_commit`).

        Otherwise this node could wake up two changes back, and win an election there.
        """
        if entry.kind is EntryKind.CONFIGURATION:
            for index in range(max(replica.durable_commit, replica.log.base_index) + 1, entry.index):
                if replica.log.entry(index).kind is EntryKind.CONFIGURATION:
                    self.fail(f"{replica.node_id} saves change {entry.index} after {index}, committed is {replica.durable_commit}")

    def check_shown(self, replica: Replica, core: RaftNode) -> None:
        """At its leader's word it commits what it has told this leader to hold; the rest may be another's (paper, figure 2)."""
        shown = replica.acknowledged.get(core.term, 0)
        if core.commit_index > shown:
            self.fail(f"{replica.node_id} commits {core.commit_index} in term {core.term}, and has acknowledged {shown}")

    def has_promised(self, replica: Replica, core: RaftNode) -> bool:
        """Whether this node has promised a leader to elect nobody else yet (thesis, sections 4.2.3 and 6.4.1).

        When reads rely on it, it is a matter of time alone: neither a restart nor another term ends it.
        """
        settings = core.settings
        timeout = settings.election_timeout_ticks
        if settings.read_mode is ReadMode.LEASE:
            if not replica.followed_term or replica.followed_term in self.released:
                return False
            # A tick of it is lost to rounding.
            return self.now - replica.followed_at < (timeout - 1) * TICK
        return (
            settings.check_quorum
            and core.leader != NOBODY
            and core.term == replica.followed_term
            and replica.followed_tick >= 0
            and replica.ticks - replica.followed_tick < timeout
        )

    def check_applied(self, replica: Replica, entry: Entry, machine: Checkpoint) -> None:
        """State machine safety: equal machines at equal indexes (paper, section 5.4.3)."""
        if entry.index > len(self.committed) or self.digests[entry.index] != machine.digest:
            self.fail(f"{replica.node_id} applied {entry}, which is not what was committed there")

    def check_configuration(self, replica: Replica, core: RaftNode, machine: Checkpoint) -> None:
        """Equal configurations at equal indexes, whether applied or restored, and the core acts in the newest."""
        known = self.configurations.setdefault(machine.index, machine.configuration)
        if known != machine.configuration:
            self.fail(f"{replica.node_id} has {machine.configuration} at {machine.index}, elsewhere it is {known}")
        if any(append.snapshot is not None for append in replica.writes):
            self.counts["change applied while a snapshot is restored"] += core.configuration != machine.configuration
        elif core.configuration != machine.configuration:
            self.fail(f"{replica.node_id} acts in {core.configuration}, at {machine.index} it is {machine.configuration}")

    def check_promise(self, replica: Replica, message: Message) -> None:
        """Which entry an acknowledgement is about, for when it leaves."""
        if message.type is not MessageType.APPEND_RESPONSE or message.reject:
            return
        replica.acknowledged[message.term] = max(replica.acknowledged.get(message.term, 0), message.index)
        if message.index > replica.log.base_index:
            if message.index > replica.handed_last:
                self.fail(f"{replica.node_id} acknowledges {message.index}, its log ends at {replica.handed_last}")
            term = self.term(replica, message.index)
            promised = replica.promised.setdefault((message.term, message.index), term)
            if promised != term:
                self.fail(f"{replica.node_id} acknowledges {message.index} in term {message.term} as {term} and as {promised}")

    def check_leaving(self, replica: Replica, message: Message) -> None:
        """Nothing leaves before what it promises is durable."""
        durable = replica.hard_state
        kind = message.type
        term = message.term - 1 if kind is MessageType.PRE_VOTE else message.term
        if kind is MessageType.PRE_VOTE_RESPONSE and not message.reject:
            return
        if durable.term < term:
            self.fail(f"{kind.name} of term {term} leaves {replica.node_id}, durable is {durable}")
        if kind is MessageType.VOTE_RESPONSE and not message.reject:
            if durable.term == term and durable.vote != message.to:
                self.fail(f"{replica.node_id} grants its vote of term {term} to {message.to}, durable is {durable}")
            granted = self.votes.setdefault((term, replica.node_id), message.to)
            if granted != message.to:
                self.fail(f"{replica.node_id} votes for {granted} and {message.to} in term {term}")
        if kind is MessageType.VOTE:
            granted = self.votes.setdefault((term, replica.node_id), replica.node_id)
            if granted != replica.node_id:
                self.fail(f"{replica.node_id} votes for {granted} and itself in term {term}")
        if kind is MessageType.TIMEOUT_NOW:
            self.released.add(term)
            assert replica.core is not None
            last = replica.core.last_index
            target = self.replicas[message.to].log
            if target.last_index < last or (target.base_index < last and target.term(last) != self.term(replica, last)):
                self.fail(f"{replica.node_id} hands over to {message.to}, which does not have {last} yet")
        if kind is MessageType.APPEND_RESPONSE and not message.reject and message.index > replica.log.base_index:
            promised = replica.promised[message.term, message.index]
            if message.index > replica.log.last_index or replica.log.term(message.index) != promised:
                self.fail(f"{replica.node_id} acknowledges {promised}/{message.index}, durable is {replica.log.last_index}")

    def check_read(self, replica: Replica, index: int, context: bytes) -> None:
        """A read sees all that was committed anywhere when it was asked for."""
        read = self.reads.pop(context, None)
        if read is None:
            # A duplicate answer; the first one was checked.
            return
        core = replica.core
        assert core is not None
        self.counts["reads answered"] += 1
        if not core.is_leader:
            self.counts["read answered to a follower"] += 1
        elif read.asked_at == self.now and len(core.configuration.voters) > 1:
            self.counts["read answered under a lease"] += 1
        if index < read.floor:
            self.fail(f"{replica.node_id}: read {context!r} is answered with {index}, {read.floor} was committed when it was asked")

    # Marks: what was reached, seen from outside.

    def on_event(self, replica: Replica, core: RaftNode, event: Event) -> None:
        if event.kind is EventKind.BECAME_CANDIDATE:
            self.release_held_back()
        if event.kind is EventKind.BECAME_LEADER:
            # Before it has sent anything.
            self.confine_leader(replica)
            self.hand_back(replica, core)
        match event.kind:
            case EventKind.TRANSFER_ENDED if core.is_leader:
                self.counts["transfer aborted"] += 1
            case EventKind.BECAME_LEADER if any(
                other.core is not None and other.core.is_leader and other is not replica for other in self.replicas.values()
            ):
                self.counts["two leaders, of different terms"] += 1
            case EventKind.TRANSFER_STARTED:
                # The quorum check begins anew, since its clock is the transfer's too.
                replica.heard = dict.fromkeys(self.replicas, replica.ticks)
            case EventKind.READS_DROPPED:
                self.after_for(replica, self.rngs["load"].randrange(3 * TICK), partial(self.ask_again, replica, event.contexts))
            case _:
                pass

    def mark_conflict(self, replica: Replica, removed: int, removed_from_disk: int) -> None:
        if removed > 0:
            self.counts["conflict removed"] += 1
        if removed > 1:
            self.counts["conflict of several entries removed"] += 1
        if removed_from_disk > 0:
            self.counts["conflict removed from the disk"] += 1

    def mark_message(self, replica: Replica, core: RaftNode, message: Message) -> None:
        """Before the core sees it."""
        counts = self.counts
        kind = message.type
        if message.term > core.term and core.is_leader and kind in (MessageType.APPEND_RESPONSE, MessageType.APPEND):
            counts[f"leader deposed by {kind.name}"] += 1
        elif 0 < message.term < core.term:
            counts["message of an older term"] += 1
        match kind:
            case MessageType.APPEND if message.term == core.term and message.index < core.commit_index:
                counts["append from below the commit index"] += 1
            case MessageType.APPEND_RESPONSE if message.reject:
                skipped = message.index - message.reject_hint
                counts["append refused, entries skipped by a hint" if skipped > 1 else "append refused"] += 1
            case MessageType.VOTE_RESPONSE | MessageType.PRE_VOTE_RESPONSE if message.reject:
                counts[f"{kind.name} refused"] += 1
            case MessageType.VOTE if (message.log_term, message.index) < (self.term(replica, core.last_index), core.last_index):
                counts["vote asked by a shorter log"] += 1
            case MessageType.VOTE if message.context:
                counts["vote asked by transfer"] += 1
            case _:
                pass

    def has_converged(self) -> bool:
        """One leader, no joint configuration left by mistake, all members hold and have applied the same, and it moves."""
        leaders = [replica for replica in self.replicas.values() if replica.core is not None and replica.core.is_leader]
        if not leaders:
            return False
        leader = max((replica.core for replica in leaders if replica.core is not None), key=lambda core: core.term)
        if leader.node_id not in leader.configuration.nodes and not self.parameters.settings.step_down_on_removal:
            # Removed, and told to stay: it takes no proposals, not even to leave a joint configuration. A push from above is due.
            return True
        if leader.configuration.is_joint:
            return False
        if leader.node_id not in leader.configuration.voters:
            return not self.parameters.settings.step_down_on_removal
        if self.parameters.ends_quietly:
            return self.has_settled(leader)
        before = self.counts["converged at"]
        if not before:
            self.counts["converged at"] = leader.commit_index + 1
            return False
        if leader.commit_index <= before:
            return False
        for node in leader.configuration.nodes:
            core = self.replicas[node].core
            if core is None or core.leader != leader.node_id or core.commit_index < before or core.applied_index < before:
                return False
        return True

    def has_settled(self, leader: RaftNode) -> bool:
        """All that is there has become committed and applied, and a read is answered, though nobody proposes anything."""
        answered = self.quiet_read is not None and self.quiet_read not in self.reads
        replica = self.replicas[leader.node_id]
        self.quiet_read = self.read(replica, leader)
        self.pump(replica)
        for node in leader.configuration.nodes:
            core = self.replicas[node].core
            if core is None or core.leader != leader.node_id or not core.applied_index == core.commit_index == leader.last_index:
                return False
        return answered


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


def run_seed(seed: int, trace: Callable[[str], object] | None = None) -> CoreSimulation:
    """Run one seed to its end. Raises InvariantViolated, with all that is needed to see it again."""
    simulation = CoreSimulation(seed, trace=trace)
    try:
        simulation.run()
    except Exception as error:
        # An assertion inside a core is a finding too, and needs its seed.
        reason = str(error) if isinstance(error, InvariantViolated) else repr(error)
        raise InvariantViolated(
            f"seed {seed}: {reason}\n{simulation.parameters}\n{last_lines(seed) if trace is None else ''}\n"
            f"seed {seed}: {reason}\n{revision()}\nreplay: python -m trio_eventlog.testing.core_simulator --seed {seed}"
        ) from error
    return simulation


def last_lines(seed: int) -> str:
    """The end of a failing seed's trace. The seed runs again for it: to write lines for all that do not fail takes longer."""
    lines: deque[str] = deque(maxlen=LINES_SHOWN)
    try:
        CoreSimulation(seed, trace=lines.append).run()
    except Exception:
        # That it fails is known; here it has to fail in the same way, which the reader sees.
        return "\n".join(lines)
    return "the second run of this seed did not fail: something here depends on more than the seed"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Run a seed of the core simulation again, with its trace.")
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args(arguments)
    simulation = run_seed(options.seed, print_line)
    print_line(f"{simulation.parameters}")
    for name, count in sorted(simulation.counts.items()):
        print_line(f"{count:10d} {name}")


def print_line(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
