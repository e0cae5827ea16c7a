"""Nodes of a core simulation: cores with their drivers, disks and machines."""

import random
from functools import partial
from typing import TYPE_CHECKING

import attrs

from trio_eventlog.ids import NodeId
from trio_eventlog.raft import (
    ConfigurationError,
    Entry,
    EntryKind,
    EventKind,
    HardState,
    Message,
    ProposalDropped,
    ProtocolError,
    RaftNode,
    Ready,
    decode_change,
)
from trio_eventlog.raft.configuration import change_configuration
from trio_eventlog.testing.core_replicas import (
    Checkpoint,
    DiskStep,
    Replica,
    disk_steps,
    next_digest,
    observable,
)
from trio_eventlog.testing.core_trace import TICK

if TYPE_CHECKING:
    from trio_eventlog.testing.core_simulator import CoreSimulation


class CoreNodes:
    """Starts, ticks, drives and crashes the nodes."""

    def __init__(self, simulation: "CoreSimulation") -> None:
        self.sim = simulation

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
        settings = self.sim.parameters.settings
        if self.sim.parameters.has_priorities:
            settings = attrs.evolve(settings, priority=replica.node_id % 3)
        replica.tick_length = int(
            TICK * (1 + self.sim.rngs["clock"].uniform(-self.sim.parameters.drift, self.sim.parameters.drift))
        )
        if checkpoint.configuration.is_joint:
            self.sim.counts["restart in a joint configuration"] += 1
        # Its own child for each life: the seed alone decides, not the order of starts.
        rng = random.Random(f"{self.sim.seed}:node:{replica.node_id}:{replica.incarnation}")
        replica.core = RaftNode(
            replica.node_id,
            settings,
            replica.hard_state,
            checkpoint.configuration,
            replica.log,
            rng,
            applied_index=checkpoint.index,
        )
        self.sim.note("start", f"{replica.node_id} {replica.hard_state} log {replica.log.first_index}..{replica.log.last_index}")
        self.sim.after_for(replica, self.sim.rngs["clock"].randrange(TICK), lambda: self.tick(replica))

    def tick(self, replica: Replica) -> None:
        core = replica.core
        assert core is not None
        replica.ticks += 1
        core.tick()
        self.pump(replica)
        if core.is_leader:
            self.sim.invariants.look_at_followers(replica, core)
            self.sim.invariants.check_still_leading(replica, core)
        self.sim.after_for(replica, replica.tick_length, lambda: self.tick(replica))

    def crash(self, replica: Replica, down_max_ticks: int = 0) -> None:
        """Power is lost, and with it all, a part or nothing of the writes in flight. `down_max_ticks` 0: back at random."""
        if replica.core is None:
            return
        rng = self.sim.rngs["disk"]
        if replica.writing:
            steps = disk_steps(replica, replica.writes[0])
            done = rng.randint(0, len(steps))
            for step in steps[:done]:
                self.persist(replica, step)
            kept = sum(isinstance(step, Entry) for step in steps[:done])
            if 0 < kept < len(replica.writes[0].entries):
                self.sim.counts["crash kept a part of the entries"] += 1
            elif done and not kept and replica.writes[0].entries:
                self.sim.counts["crash kept the term and no entries"] += 1
            elif steps and not done:
                self.sim.counts["crash lost a write"] += 1
        if rng.random() < 0.5:
            if replica.hard_state.commit > replica.durable_commit:
                self.sim.counts["commit index forgotten"] += 1
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
            self.sim.counts["machine restarts from before"] += 1
        self.sim.note("crash", f"{replica.node_id} keeps {replica.hard_state} log ..{replica.log.last_index}")
        self.reset_links(replica, rng)
        down_max_ticks = down_max_ticks or 3 * self.sim.parameters.settings.election_timeout_ticks
        down = self.sim.rngs["nemesis"].randrange(1, down_max_ticks * TICK)
        self.sim.after(down, lambda: self.restart(replica))

    def restart(self, replica: Replica) -> None:
        if replica.core is None:
            self.start(replica)

    def reset_links(self, replica: Replica, rng: random.Random) -> None:
        """Most of the others notice that the links to this one are gone."""
        for other in self.sim.replicas.values():
            if other.core is not None and rng.random() < 0.7:
                delay = rng.randrange(TICK)
                self.sim.after_for(other, delay, partial(self.peer_reset, other, replica.node_id))

    def peer_reset(self, replica: Replica, node: NodeId) -> None:
        core = replica.core
        assert core is not None
        if core.peer_reset(node):
            self.sim.note("peer reset", f"{replica.node_id} lost its leader {node}")
            delay = self.sim.rngs["clock"].randrange(TICK)
            self.sim.after_for(replica, delay, lambda: self.campaign_if_leader_lost(replica, node))
        self.pump(replica)

    def campaign_if_leader_lost(self, replica: Replica, node: NodeId) -> None:
        assert replica.core is not None
        if replica.core.campaign_if_leader_lost(node):
            self.sim.note("quick campaign", f"{replica.node_id}")
        self.pump(replica)

    def pump(self, replica: Replica) -> None:
        core = replica.core
        assert core is not None
        while (ready := core.ready()) is not None:
            self.carry_out(replica, core, ready)
        self.sim.invariants.check(replica, core)

    def carry_out(self, replica: Replica, core: RaftNode, ready: Ready) -> None:
        for event in ready.events:
            self.sim.counts[event.kind.name] += 1
            self.sim.marks.on_event(replica, core, event)
            if event.kind in (EventKind.ALARM_COMMIT_OUT_OF_RANGE, EventKind.ALARM_FOLLOWER_LOST_ENTRIES):
                self.sim.fail(f"{replica.node_id} raises {event}, though no disk has broken its word")
        if ready.soft_state is not None:
            self.sim.note("state", f"{replica.node_id} {ready.soft_state.role.name.lower()} t{core.term} of {core.leader}")
        append = ready.append
        if append is not None:
            self.sim.invariants.check_handed_out(replica, core, append)
            if append.snapshot is not None:
                replica.tail.clear()
            for entry in append.entries:
                replica.tail[entry.index] = entry
            if append.entries:
                for index in [index for index in replica.tail if index > append.entries[-1].index]:
                    del replica.tail[index]
            replica.writes.append(append)
            for message in append.responses:
                self.sim.invariants.check_promise(replica, message)
            self.write_next(replica)
        for message in ready.messages:
            self.sim.invariants.check_promise(replica, message)
            self.sim.network.send(replica, message)
        if ready.committed:
            replica.applying.append(ready.committed)
            self.apply_next(replica)
        for read in ready.read_states:
            self.sim.invariants.check_read(replica, read.index, read.context)

    def write_next(self, replica: Replica) -> None:
        if replica.writing or not replica.writes:
            return
        replica.writing = True
        replica.writing_since = replica.ticks
        delay = self.sim.delay("disk", self.sim.parameters.disk_delay_max) if replica.writes[0].must_sync else 0
        delay += max(replica.stalled_until - self.sim.now, 0)
        if replica.writes[0].snapshot is not None:
            # It is large.
            delay += self.sim.delay("disk", 3 * self.sim.parameters.settings.election_timeout_ticks * TICK)
        if replica.crashes_amid_write and replica.writes[0].entries:
            self.sim.after_for(replica, self.sim.rngs["nemesis"].randrange(delay + 1), lambda: self.crash(replica))
        self.sim.after_for(replica, delay, lambda: self.written(replica))

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
            self.sim.invariants.check_configuration(replica, core, replica.machine)
            replica.applying.clear()
            self.sim.note("installed", f"{replica.node_id} snapshot {snapshot.index}")
        if self.sim.log is not None:
            self.sim.log.add(
                f"{replica.node_id} disk {append.entries[0].index if append.entries else ''}..{replica.log.last_index}"
            )
        for message in append.responses:
            if message.to == replica.node_id:
                self.sim.invariants.check_leaving(replica, message)
                self.hand_over(replica, message)
            else:
                self.sim.network.send(replica, message)
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
            self.sim.invariants.check_change_durable(replica, step)
            replica.log.append((step,))
        else:
            # Its data came before the message that names it.
            digest = self.sim.invariants.digests[step.index]
            replica.checkpoints = [Checkpoint(index=step.index, term=step.term, digest=digest, configuration=step.configuration)]
            replica.log.install(step)

    def apply_next(self, replica: Replica) -> None:
        if not replica.applying_now and replica.applying:
            replica.applying_now = True
            delay = self.sim.delay("disk", self.sim.parameters.apply_delay_max) + max(replica.hung_until - self.sim.now, 0)
            self.sim.after_for(replica, delay, lambda: self.apply(replica))

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
        if self.sim.log is not None:
            self.sim.log.add(f"{replica.node_id} applies {page.start}..{page.stop - 1}")
        for index in page:
            if index <= machine.index:
                continue
            entry = self.entry(replica, index)
            if index > replica.log.last_index or replica.log.term(index) != entry.term:
                self.sim.fail(f"{replica.node_id} applies {entry.term}/{index}, which is not durable there")
            if entry.index != machine.index + 1:
                self.sim.fail(f"{replica.node_id} applies {entry.index} after {machine.index}")
            configuration = machine.configuration
            if entry.kind is EntryKind.CONFIGURATION:
                # Never wake up in an older configuration than one acted in.
                replica.durable_commit = max(replica.durable_commit, index)
                change = decode_change(entry.payload)
                try:
                    configuration = change_configuration(configuration, change).configuration
                    self.sim.note("configuration", f"{replica.node_id} {configuration}")
                except ConfigurationError as error:
                    self.sim.note("change refused", f"{replica.node_id} {index}: {error}")
                replica.heard = dict.fromkeys(self.sim.replicas, replica.ticks)
                try:
                    core.apply_configuration(change, index)
                except ConfigurationError:
                    # As the machine has; `check_configuration` compares the two.
                    self.sim.counts["change refused by the core"] += 1
                if self.sim.network.cut and machine.configuration.learners & configuration.voters:
                    self.sim.counts["learner promoted amid a cut"] += 1
            machine = Checkpoint(
                index=index, term=entry.term, digest=next_digest(machine.digest, entry), configuration=configuration
            )
            self.sim.invariants.check_applied(replica, entry, machine)
            self.sim.invariants.check_configuration(replica, core, machine)
        replica.machine = machine
        if self.sim.rngs["disk"].random() < 0.2:
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

    def hand_over(self, replica: Replica, message: Message) -> None:
        assert replica.core is not None
        # Looking costs more than stepping; the property tests look at everything.
        self.sim.steps += 1
        before = observable(replica.core) if self.sim.steps % 8 == 0 else None
        try:
            replica.core.step(message)
        except (ProtocolError, ProposalDropped) as error:
            self.sim.counts[type(error).__name__] += 1
            if before is not None and observable(replica.core) != before:
                self.sim.fail(f"{replica.node_id} raised {error!r} and changed all the same")
            if type(error) is ProtocolError:
                self.sim.fail(f"{replica.node_id} refuses an honest message: {error}")

    def snapshot_sent(self, replica: Replica, to: NodeId, ok: bool) -> None:
        assert replica.core is not None
        replica.core.report_snapshot(to, ok)
        self.pump(replica)
