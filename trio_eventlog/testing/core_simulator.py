"""Seeded simulation of Raft cores alone: no Trio, no bytes, one heap of events ordered by (time, sequence).

One seed makes one `random.Random`; from it first the *parameters* of the run are drawn (swarm testing: this run has slow disks
and no loss, that one has partitions and tiny windows), then the run. Faults for a while, then everything heals and the group has
to make progress. After every event the invariants of Raft are checked on its node; a failure names the seed, the parameters and
the last events.

What is simulated, per node: a core; a disk that persists one append at a time after a delay and loses what was not durable when
the node crashes, sometimes leaving a prefix of it; a machine that applies with a delay and may restart from an older
checkpoint; log compaction. Between nodes: delay, reorder, loss, duplication, cuts in one direction or both, link resets. Above:
proposals, linearizable reads, configuration changes, transfers of leadership.

To replay: `python -m trio_eventlog.testing.core_simulator --seed N`, which prints the whole trace.
"""

import argparse
import hashlib
import heapq
import random
import sys
from collections import Counter, deque
from collections.abc import Callable

import attrs

from trio_eventlog.errors import NotLeader
from trio_eventlog.ids import NodeId
from trio_eventlog.raft import (
    LEAVE_JOINT,
    ChangeKind,
    Compacted,
    Configuration,
    ConfigurationChange,
    ConfigurationError,
    Entry,
    EntryKind,
    EventKind,
    HardState,
    MemoryLog,
    Message,
    MessageType,
    NodeChange,
    OutOfLog,
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

TICK = 1000
"""Length of a tick in units of simulated time."""

TRACE_LINES_KEPT = 400

MARKS = (
    "crash",
    "installed",
    "lost",
    "cut",
    "stall",
    "quick campaign",
    "reads answered",
    "READS_DROPPED",
    "QUORUM_LOST",
    "REMOVED",
    "JOINT_LEFT",
    "TRANSFER_ENDED",
    "SNAPSHOT_RESTORED",
    "SNAPSHOT_IGNORED",
    "APPEND_STALLED",
    "CAMPAIGN_REFUSED",
    "LEADER_FORGOTTEN",
    "PeerNotFound",
    "dropped QUOTA",
    "dropped TRANSFERRING",
)
"""Counted, each of them, by every few hundred seeds: coverage that is lost quietly is lost for long."""


class InvariantViolated(AssertionError):
    """The cores did something Raft forbids; the text says what, and how to see it again."""


@attrs.frozen(slots=True, kw_only=True)
class Parameters:
    """One run's conditions, drawn from its seed. Rates are per tick of the whole cluster, chances per message or write.

    Attributes:
        voters, spares: nodes of the first configuration; further ones that may be added.
        delay_max: longest delay of a message, in units of time.
        disk_delay_max, apply_delay_max: longest time of a write, and of applying a page.
        loss, duplication: chances per message.
        crash_rate, cut_rate, stall_rate, reset_rate: crashes, cuts of links, disks that hang, links reset without cause.
        proposal_rate, read_rate, change_rate, transfer_rate, compact_rate: requests.
        knows_configurations: whether logs tell exactly where configuration changes stand, or always "maybe".
        fault_ticks: length of the phase with faults.
    """

    voters: int
    spares: int
    settings: RaftSettings
    delay_max: int
    disk_delay_max: int
    apply_delay_max: int
    loss: float
    duplication: float
    crash_rate: float
    cut_rate: float
    stall_rate: float
    reset_rate: float
    proposal_rate: float
    read_rate: float
    change_rate: float
    transfer_rate: float
    compact_rate: float
    knows_configurations: bool
    fault_ticks: int

    @classmethod
    def draw(cls, rng: random.Random) -> "Parameters":
        def some(*values: float) -> float:
            return rng.choice(values)

        check_quorum = rng.random() < 0.8
        lease = check_quorum and rng.random() < 0.25
        election_timeout_ticks = rng.choice((5, 10))
        max_append_bytes = rng.choice((100, 1000, 1 << 20))
        return cls(
            voters=rng.choice((1, 2, 3, 3, 3, 4, 5)),
            spares=rng.choice((0, 1, 2)),
            settings=RaftSettings(
                election_timeout_ticks=election_timeout_ticks,
                heartbeat_ticks=rng.choice((1, 1, 2)),
                max_append_bytes=max_append_bytes,
                max_inflight_messages=rng.choice((1, 2, 16, 256)),
                max_inflight_bytes=rng.choice((0, max_append_bytes, 8 << 20)) if max_append_bytes < 1 << 20 else 0,
                max_uncommitted_bytes=rng.choice((300, 5000, 1 << 20)),
                max_committed_bytes_per_ready=rng.choice((1, 200, 1 << 20)),
                pre_vote=rng.random() < 0.8,
                check_quorum=check_quorum,
                read_mode=ReadMode.LEASE if lease else ReadMode.SAFE,
                step_down_on_removal=rng.random() < 0.9,
            ),
            delay_max=int(some(10, 100, TICK, 3 * TICK)),
            disk_delay_max=int(some(1, 100, TICK, 2 * TICK)),
            apply_delay_max=int(some(1, 100, 2 * TICK)),
            loss=some(0, 0, 0.01, 0.1, 0.3),
            duplication=some(0, 0, 0.02, 0.2),
            crash_rate=some(0, 0.005, 0.02, 0.05),
            cut_rate=some(0, 0, 0.01, 0.05),
            stall_rate=some(0, 0, 0.01),
            reset_rate=some(0, 0, 0.02),
            proposal_rate=some(0.2, 1, 3),
            read_rate=some(0, 0.3, 1),
            change_rate=some(0, 0, 0.01, 0.05),
            transfer_rate=some(0, 0, 0.01, 0.05),
            compact_rate=some(0, 0, 0.02, 0.1),
            knows_configurations=rng.random() < 0.5,
            fault_ticks=rng.choice((50, 100, 200)),
        )


@attrs.frozen(slots=True, kw_only=True)
class Checkpoint:
    """A machine's state at an index, and what a snapshot of it says."""

    index: int
    term: int
    digest: bytes
    configuration: Configuration


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
    commit_seen: int = 0
    led_term: int = 0


class CoreSimulation:
    """One run. `run()` raises InvariantViolated, or returns how often what happened."""

    def __init__(self, seed: int, parameters: Parameters | None = None, trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        # Children by name, so that one more draw in one place does not shift all the others.
        self.rngs = {
            name: random.Random(f"{seed}:{name}") for name in ("parameters", "network", "disk", "nemesis", "load", "clock")
        }
        self.parameters = parameters or Parameters.draw(self.rngs["parameters"])
        self.now = 0
        self.sequence = 0
        self.heap: list[tuple[int, int, Callable[[], None]]] = []
        self.counts: Counter[str] = Counter()
        self.lines: deque[str] = deque(maxlen=TRACE_LINES_KEPT)
        self.trace = trace
        self.fingerprint = hashlib.sha256()
        """Running digest of the trace: two runs of one seed have to agree."""

        self.cut: set[tuple[NodeId, NodeId]] = set()
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
        self.digests: list[bytes] = [b""]
        """The machine's state after each committed index."""
        self.commit_floor = 0
        """Highest commit index any node has ever shown: what a read asked for from now on must cover."""
        self.reads: dict[bytes, int] = {}

        bootstrap = Configuration(voters=frozenset(NodeId(n) for n in range(1, self.parameters.voters + 1)))
        origin = Checkpoint(index=0, term=0, digest=b"", configuration=bootstrap)
        self.replicas: dict[NodeId, Replica] = {}
        for number in range(1, self.parameters.voters + self.parameters.spares + 1):
            node = NodeId(number)
            self.replicas[node] = Replica(node, SimulatedLog(self.parameters.knows_configurations), [origin])

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
        self.now = end

    def after(self, delay: int, action: Callable[[], None]) -> None:
        self.sequence += 1
        heapq.heappush(self.heap, (self.now + delay, self.sequence, action))

    def after_for(self, replica: Replica, delay: int, action: Callable[[], None]) -> None:
        """`action` after `delay`, unless the node has crashed meanwhile."""
        incarnation = replica.incarnation

        def guarded() -> None:
            if replica.core is not None and replica.incarnation == incarnation:
                action()

        self.after(delay, guarded)

    def delay(self, what: str, longest: int) -> int:
        """Up to `longest`; short once all is healed, since with tiny windows and long ways a backlog would take for ever."""
        return self.rngs[what].randrange(min(longest, 100) if self.healed else longest)

    def note(self, what: str, line: str) -> None:
        self.counts[what] += 1
        text = f"{self.now:9d} {what} {line}"
        self.fingerprint.update(text.encode())
        self.lines.append(text)
        if self.trace is not None:
            self.trace(text)

    def fail(self, reason: str) -> None:
        recent = "\n".join(self.lines)
        raise InvariantViolated(
            f"seed {self.seed}: {reason}\n{self.parameters}\nlast events:\n{recent}\nseed {self.seed}: {reason}\n"
            f"replay: python -m trio_eventlog.testing.core_simulator --seed {self.seed}"
        )

    # Nodes.

    def start(self, replica: Replica) -> None:
        replica.incarnation += 1
        checkpoint = replica.checkpoints[-1]
        replica.machine = checkpoint
        replica.commit_seen = 0
        replica.led_term = 0
        replica.handed_last = replica.log.last_index
        # Its own child for each life: the seed alone decides, not the order of starts.
        rng = random.Random(f"{self.seed}:node:{replica.node_id}:{replica.incarnation}")
        replica.core = RaftNode(
            replica.node_id,
            self.parameters.settings,
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
        core.tick()
        self.pump(replica)
        drift = 0
        if self.parameters.settings.read_mode is ReadMode.SAFE and not self.healed:
            drift = self.rngs["clock"].randrange(-TICK // 10, TICK // 10 + 1)
        self.after_for(replica, TICK + drift, lambda: self.tick(replica))

    def crash(self, replica: Replica) -> None:
        """Power is lost: what is under way to the disk is lost too, or a part of it, or nothing of it."""
        if replica.core is None:
            return
        rng = self.rngs["disk"]
        if replica.writing:
            append = replica.writes[0]
            # The hard state is written first: no entry is durable under a term that is not.
            if append.hard_state is None or rng.random() < 0.7:
                replica.hard_state = append.hard_state or replica.hard_state
                if append.sync_commit:
                    replica.durable_commit = replica.hard_state.commit
                if append.entries and rng.random() < 0.7:
                    # A frame that is half there is cut off at the next start; whole ones before it stay.
                    replica.log.append(append.entries[: rng.randint(0, len(append.entries))])
        if rng.random() < 0.5:
            replica.hard_state = attrs.evolve(replica.hard_state, commit=replica.durable_commit)
        replica.core = None
        replica.machine = None
        replica.writes.clear()
        replica.writing = False
        replica.tail.clear()
        replica.applying.clear()
        replica.applying_now = False
        replica.stalled_until = 0
        if len(replica.checkpoints) > 1 and rng.random() < 0.5:
            # The machine's last checkpoints were not synced either. The log still holds what follows.
            keep = [point for point in replica.checkpoints if point.index >= replica.log.base_index]
            replica.checkpoints = keep[: rng.randint(1, len(keep))]
        self.note("crash", f"{replica.node_id} keeps {replica.hard_state} log ..{replica.log.last_index}")
        for other in self.replicas.values():
            if other.core is not None and rng.random() < 0.7:
                delay = rng.randrange(TICK)
                self.after_for(other, delay, lambda other=other: self.peer_reset(other, replica.node_id))  # type: ignore[misc]

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
            if event.kind in (EventKind.ALARM_COMMIT_OUT_OF_RANGE, EventKind.ALARM_FOLLOWER_LOST_ENTRIES):
                self.fail(f"{replica.node_id} raises {event}, though no disk has broken its word")
        if ready.soft_state is not None:
            self.note("state", f"{replica.node_id} {ready.soft_state.role.value} term {core.term} leader {core.leader}")
        append = ready.append
        if append is not None:
            self.check_handed_out(replica, core, append)
            if append.snapshot is not None:
                replica.tail.clear()
            for entry in append.entries:
                replica.tail[entry.index] = entry
            replica.writes.append(append)
            self.write_next(replica)
        for message in ready.messages:
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
        delay = self.delay("disk", self.parameters.disk_delay_max) if replica.writes[0].must_sync else 0
        delay += max(replica.stalled_until - self.now, 0)
        self.after_for(replica, delay, lambda: self.written(replica))

    def written(self, replica: Replica) -> None:
        core = replica.core
        assert core is not None
        append = replica.writes.popleft()
        replica.writing = False
        if append.snapshot is not None:
            snapshot = append.snapshot
            replica.log.install(snapshot)
            replica.machine = Checkpoint(
                index=snapshot.index,
                term=snapshot.term,
                digest=self.digests[snapshot.index],
                configuration=snapshot.configuration,
            )
            replica.checkpoints = [replica.machine]
            replica.applying.clear()
            self.note("installed", f"{replica.node_id} snapshot {snapshot.index}")
        replica.log.append(append.entries)
        replica.hard_state = append.hard_state or replica.hard_state
        if append.sync_commit:
            replica.durable_commit = replica.hard_state.commit
        for message in append.responses:
            if message.to == replica.node_id:
                self.hand_over(replica, message)
            else:
                self.send(replica, message)
        core.on_appended(append.token)
        stable = core.stable_index
        for index in [index for index in replica.tail if index <= stable]:
            del replica.tail[index]
        self.write_next(replica)
        self.pump(replica)

    def apply_next(self, replica: Replica) -> None:
        if not replica.applying_now and replica.applying:
            replica.applying_now = True
            self.after_for(replica, self.delay("disk", self.parameters.apply_delay_max), lambda: self.apply(replica))

    def apply(self, replica: Replica) -> None:
        core = replica.core
        machine = replica.machine
        assert core is not None
        assert machine is not None
        replica.applying_now = False
        if not replica.applying:
            # A snapshot has taken the place of what was to be applied.
            return
        for index in replica.applying.popleft():
            if index <= machine.index:
                continue
            entry = self.entry(replica, index)
            if entry.index != machine.index + 1:
                self.fail(f"{replica.node_id} applies {entry.index} after {machine.index}")
            configuration = machine.configuration
            if entry.kind is EntryKind.CONFIGURATION:
                # Never wake up in an older configuration than one acted in.
                replica.durable_commit = max(replica.durable_commit, index)
                try:
                    configuration = core.apply_configuration(decode_change(entry.payload))
                except ConfigurationError as error:
                    self.note("change refused", f"{replica.node_id} {index}: {error}")
            machine = Checkpoint(
                index=index, term=entry.term, digest=next_digest(machine.digest, entry), configuration=configuration
            )
            self.check_applied(replica, entry, machine)
        replica.machine = machine
        if self.rngs["disk"].random() < 0.2:
            replica.checkpoints.append(machine)
        core.on_applied(max(machine.index, core.applied_index))
        self.apply_next(replica)
        self.pump(replica)

    def entry(self, replica: Replica, index: int) -> Entry:
        return replica.tail.get(index) or replica.log.entry(index)

    # The network.

    def send(self, replica: Replica, message: Message) -> None:
        core = replica.core
        assert core is not None
        self.check_leaving(replica, message)
        if message.type is MessageType.APPEND:
            if message.term != core.term:
                # What stands at those indexes now may be another leader's.
                core.report_unreachable(message.to)
                return
            try:
                entries = tuple(self.entry(replica, index) for index in range(message.index + 1, message.last_index + 1))
            except (Compacted, OutOfLog):
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
                return
        if target is None or (replica.node_id, message.to) in self.cut:
            self.counts["cut"] += 1
            return
        if not self.healed and rng.random() < parameters.loss:
            self.counts["lost"] += 1
            return
        copies = 2 if not self.healed and rng.random() < parameters.duplication else 1
        for _ in range(copies):
            self.after(self.delay("network", parameters.delay_max), lambda: self.deliver(target, message))

    def deliver(self, target: Replica, message: Message) -> None:
        if target.core is None or (message.sender, message.to) in self.cut:
            return
        self.hand_over(target, message)
        self.pump(target)

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
        if self.healed:
            self.load(0.2)
            self.after(TICK, self.nemesis)
            return
        parameters = self.parameters
        rng = self.rngs["nemesis"]
        replicas = list(self.replicas.values())
        if rng.random() < parameters.crash_rate:
            victim = rng.choice(replicas)
            self.crash(victim)
            self.after(rng.randrange(1, 3 * parameters.settings.election_timeout_ticks * TICK), lambda: self.restart(victim))
        if rng.random() < parameters.cut_rate:
            self.cut_links(rng)
        if rng.random() < parameters.stall_rate:
            victim = rng.choice(replicas)
            victim.stalled_until = self.now + rng.randrange(3 * parameters.settings.election_timeout_ticks * TICK)
            self.note("stall", f"{victim.node_id} until {victim.stalled_until}")
        if rng.random() < parameters.reset_rate:
            victim = rng.choice(replicas)
            if victim.core is not None:
                self.peer_reset(victim, rng.choice(replicas).node_id)
        self.load(1.0)
        self.after(TICK, self.nemesis)

    def restart(self, replica: Replica) -> None:
        if replica.core is None:
            self.start(replica)

    def cut_links(self, rng: random.Random) -> None:
        nodes = list(self.replicas)
        match rng.randrange(4):
            case 0:
                self.cut.clear()
            case 1:
                one = rng.choice(nodes)
                self.cut |= {(one, other) for other in nodes} | {(other, one) for other in nodes}
            case 2:
                self.cut.add((rng.choice(nodes), rng.choice(nodes)))
            case _:
                side = {node for node in nodes if rng.random() < 0.5}
                self.cut |= {(a, b) for a in nodes for b in nodes if (a in side) is not (b in side)}
        self.note("cut", f"{sorted(self.cut)}")

    def heal(self) -> None:
        self.healed = True
        self.cut.clear()
        self.note("heal", "")
        for replica in self.replicas.values():
            replica.stalled_until = 0
            self.restart(replica)

    def load(self, factor: float) -> None:
        parameters = self.parameters
        rng = self.rngs["load"]
        for replica in self.replicas.values():
            core = replica.core
            if core is None:
                continue
            if core.is_leader:
                self.propose_some(replica, core, rng, parameters.proposal_rate * factor)
                if not self.healed:
                    self.change_some(replica, core, rng)
                elif core.configuration.is_joint and not core.configuration.auto_leave:
                    self.leave_joint(replica, core)
            if rng.random() < parameters.read_rate:
                self.read(replica, core)
            machine = replica.machine
            if machine is not None and rng.random() < parameters.compact_rate:
                self.compact(replica, machine)
            self.pump(replica)

    def propose_some(self, replica: Replica, core: RaftNode, rng: random.Random, rate: float) -> None:
        count = int(rate) + (rng.random() < rate % 1)
        entries = []
        for _ in range(count):
            self.proposals += 1
            entries.append(ProposedEntry(EntryKind.DATA, 1, rng.randrange(1, 300), str(self.proposals).encode()))
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
            change = self.draw_change(core.configuration, rng)
            try:
                index = core.propose_configuration(change)
            except (ProposalDropped, ConfigurationError) as error:
                self.counts[f"change: {type(error).__name__}"] += 1
            else:
                self.note("change", f"{replica.node_id} {index}: {change}")
        if core.is_leader and rng.random() < parameters.transfer_rate:
            target = rng.choice(list(self.replicas))
            try:
                core.transfer_leader(target)
            except ConfigurationError:
                self.counts["transfer refused"] += 1
            else:
                self.note("transfer", f"{replica.node_id} to {target}")

    def leave_joint(self, replica: Replica, core: RaftNode) -> None:
        """What the operator forgot."""
        try:
            core.propose_configuration(LEAVE_JOINT)
        except (ProposalDropped, ConfigurationError) as error:
            self.counts[f"leave: {type(error).__name__}"] += 1

    def draw_change(self, configuration: Configuration, rng: random.Random) -> ConfigurationChange:
        if configuration.is_joint:
            return ConfigurationChange()
        nodes = list(self.replicas)
        kinds = (ChangeKind.ADD_VOTER, ChangeKind.ADD_LEARNER, ChangeKind.REMOVE)
        changes = tuple(NodeChange(rng.choice(kinds), rng.choice(nodes)) for _ in range(rng.choice((1, 1, 2, 3))))
        return ConfigurationChange(changes=changes, transition=rng.choice(tuple(Transition)))

    def read(self, replica: Replica, core: RaftNode) -> None:
        context = f"{replica.node_id}.{replica.incarnation}.{self.sequence}.{self.now}".encode()
        floor = self.commit_floor
        try:
            core.read_index(context)
        except (ProposalDropped, NotLeader):
            return
        self.reads[context] = floor

    def compact(self, replica: Replica, machine: Checkpoint) -> None:
        """The machine's state becomes durable, the log's prefix goes."""
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
                self.check_leader_completeness(replica, core)
            elif core.commit_index > replica.commit_seen and self.entry(replica, core.commit_index).term != core.term:
                # Counting copies says nothing about an older entry: another leader may still replace it (paper, figure 8).
                self.fail(f"leader {replica.node_id} of term {core.term} commits an older entry, {core.commit_index}, by itself")
        commit = core.commit_index
        if commit < replica.commit_seen:
            self.fail(f"{replica.node_id}: commit went back from {replica.commit_seen} to {commit}")
        if commit > replica.commit_seen:
            self.check_committed(replica, core, commit)
            replica.commit_seen = commit
            self.commit_floor = max(self.commit_floor, commit)
        if not core.applied_index <= commit <= core.last_index:
            self.fail(f"{replica.node_id}: applied {core.applied_index}, commit {commit}, last {core.last_index}")

    def check_leader_completeness(self, replica: Replica, core: RaftNode) -> None:
        """A new leader holds every committed entry (paper, section 5.4)."""
        for entry in self.committed:
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
            if core.is_leader and first <= replica.handed_last and append.entries[0].term == core.term:
                # The first entries of a new leader may replace nothing either: its log only grows.
                self.fail(f"leader {replica.node_id} rewrites {first}, its log ends at {replica.handed_last}")
            before = self.term_before(replica, first)
            for entry in append.entries:
                known = self.entries.setdefault((entry.index, entry.term), (entry, before))
                if known != (entry, before):
                    self.fail(f"{replica.node_id} has {entry} after term {before}, elsewhere it is {known}")
                before = entry.term
            replica.handed_last = append.entries[-1].index

    def term_before(self, replica: Replica, index: int) -> int:
        held = replica.tail.get(index - 1)
        if held is not None:
            return held.term
        for append in reversed(replica.writes):
            if append.snapshot is not None and append.snapshot.index == index - 1:
                return append.snapshot.term
        return replica.log.term(index - 1)

    def check_applied(self, replica: Replica, entry: Entry, machine: Checkpoint) -> None:
        """State machine safety: equal machines at equal indexes (paper, section 5.4.3)."""
        if entry.index > len(self.committed) or self.digests[entry.index] != machine.digest:
            self.fail(f"{replica.node_id} applied {entry}, which is not what was committed there")

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
        if kind is MessageType.APPEND_RESPONSE and not message.reject and message.index > replica.log.last_index:
            self.fail(f"{replica.node_id} acknowledges {message.index}, durable is {replica.log.last_index}")

    def check_read(self, replica: Replica, index: int, context: bytes) -> None:
        """A read sees all that was committed anywhere when it was asked for."""
        floor = self.reads.pop(context, None)
        if floor is None:
            # A duplicate answer; the first one was checked.
            return
        self.counts["reads answered"] += 1
        if index < floor:
            self.fail(f"{replica.node_id}: read {context!r} is answered with {index}, {floor} was committed when it was asked")

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


def run_seed(seed: int, trace: Callable[[str], None] | None = None) -> CoreSimulation:
    """Run one seed to its end. Raises InvariantViolated."""
    simulation = CoreSimulation(seed, trace=trace)
    try:
        simulation.run()
    except InvariantViolated:
        raise
    except Exception as error:
        # An assertion inside a core is a finding too, and needs its seed.
        raise InvariantViolated(
            f"seed {seed}: {error!r}\nlast events:\n" + "\n".join(simulation.lines) + f"\nseed {seed}: {error!r}\n"
            f"replay: python -m trio_eventlog.testing.core_simulator --seed {seed}"
        ) from error
    return simulation


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, required=True, help="the seed to run, or the first of them")
    parser.add_argument("--count", type=int, default=1, help="how many seeds; more than one: no trace")
    options = parser.parse_args(arguments)
    totals: Counter[str] = Counter()
    for seed in range(options.seed, options.seed + options.count):
        trace = (lambda line: print_line(line)) if options.count == 1 else None
        totals += run_seed(seed, trace).counts
    for name, count in sorted(totals.items()):
        print_line(f"{count:10d} {name}")


def print_line(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
