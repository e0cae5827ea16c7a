"""Load of a core simulation: proposals, reads, changes of the configuration, transfers, compaction."""

import random
from functools import partial
from typing import TYPE_CHECKING

from trio_eventlog.errors import NotLeader
from trio_eventlog.ids import NodeId
from trio_eventlog.raft import (
    LEAVE_JOINT,
    ChangeKind,
    Configuration,
    ConfigurationChange,
    ConfigurationError,
    EntryKind,
    NodeChange,
    ProposalDropped,
    ProposedEntry,
    RaftNode,
    SnapshotMetadata,
    Transition,
)
from trio_eventlog.testing.core_replicas import (
    ENTRY_BYTES_MAX,
    HEALED_COMPACT_RATE,
    Read,
    Replica,
)
from trio_eventlog.testing.core_trace import TICK

if TYPE_CHECKING:
    from trio_eventlog.testing.core_simulator import CoreSimulation


class CoreLoad:
    """Asks nodes for things, at random."""

    def __init__(self, simulation: "CoreSimulation") -> None:
        self.sim = simulation
        self.proposals = 0
        self.reads: dict[bytes, Read] = {}
        self.quiet_read: bytes | None = None
        """The last one asked of the leader at a quiet end."""

    def ask_some(self, proposal_rate: float) -> None:
        parameters = self.sim.parameters
        rng = self.sim.rngs["load"]
        for replica in self.sim.replicas.values():
            core = replica.core
            if core is None or replica.paused_until > self.sim.now:
                continue
            if core.is_leader:
                self.propose_some(replica, core, rng, proposal_rate)
                if not self.sim.healed:
                    self.change_some(replica, core, rng)
                elif core.configuration.is_joint and not core.configuration.auto_leave:
                    # What the operator forgot.
                    self.propose_change(replica, core, LEAVE_JOINT)
            if rng.random() < parameters.read_rate:
                self.read(replica, core)
            if rng.random() < (max(parameters.compact_rate, HEALED_COMPACT_RATE) if self.sim.healed else parameters.compact_rate):
                self.compact(replica)
            self.sim.nodes.pump(replica)

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
            self.sim.counts[f"dropped {error.reason.name}"] += 1
        else:
            self.sim.note("propose", f"{replica.node_id} {indexes} at term {core.term}")

    def change_some(self, replica: Replica, core: RaftNode, rng: random.Random) -> None:
        parameters = self.sim.parameters
        if rng.random() < parameters.change_rate:
            self.propose_change(replica, core, self.draw_change(core.configuration, rng))
        if core.is_leader and rng.random() < parameters.transfer_rate:
            self.transfer(replica, rng.choice(list(self.sim.replicas)))

    def hand_back(self, replica: Replica, core: RaftNode) -> None:
        """To who led just before, and has messages of that time on their way."""
        rng = self.sim.rngs["load"]
        before = self.sim.invariants.leaders.get(core.term - 1, replica.node_id)
        if before != replica.node_id and not self.sim.healed and rng.random() < 10 * self.sim.parameters.transfer_rate:
            self.sim.after_for(replica, rng.randrange(3 * TICK), partial(self.transfer, replica, before))

    def transfer(self, replica: Replica, target: NodeId) -> None:
        core = replica.core
        assert core is not None
        if not core.is_leader:
            return
        try:
            core.transfer_leader(target)
        except ConfigurationError:
            self.sim.counts["transfer refused"] += 1
        else:
            self.sim.note("transfer", f"{replica.node_id} to {target}")
        self.sim.nodes.pump(replica)

    def propose_change(self, replica: Replica, core: RaftNode, change: ConfigurationChange) -> None:
        try:
            index = core.propose_configuration(change)
        except (ProposalDropped, ConfigurationError) as error:
            self.sim.counts[f"change: {type(error).__name__}"] += 1
        else:
            self.sim.note("change", f"{replica.node_id} {index}: {change}")
            rng = self.sim.rngs["operator"]
            if rng.random() < 10 * self.sim.parameters.transfer_rate:
                # Before it is applied: the change has to wait for how that ends.
                self.transfer(replica, rng.choice(list(self.sim.replicas)))

    def draw_change(self, configuration: Configuration, rng: random.Random) -> ConfigurationChange:
        if configuration.is_joint:
            return LEAVE_JOINT
        nodes = list(self.sim.replicas)
        kinds = (ChangeKind.ADD_VOTER, ChangeKind.ADD_LEARNER, ChangeKind.REMOVE)
        changes = tuple(NodeChange(rng.choice(kinds), rng.choice(nodes)) for _ in range(rng.choice((1, 1, 2, 3))))
        return ConfigurationChange(changes=changes, transition=rng.choice(tuple(Transition)))

    def read_if_leader(self, replica: Replica) -> None:
        core = replica.core
        assert core is not None
        if core.is_leader and not self.sim.healed:
            self.sim.counts["read asked of a leader that was cut off"] += 1
            self.read(replica, core)
            self.sim.nodes.pump(replica)

    def read(self, replica: Replica, core: RaftNode) -> bytes | None:
        """Returns its context, or None when it was refused."""
        context = f"{replica.node_id}.{replica.incarnation}.{self.sim.sequence}.{self.sim.now}".encode()
        if self.ask(core, context):
            self.reads[context] = Read(self.sim.now, self.sim.invariants.commit_floor)
            if core.is_leader and self.sim.nodes.term(replica, core.commit_index) != core.term:
                self.sim.counts["read waits for the first commit of a term"] += 1
            return context
        return None

    def ask(self, core: RaftNode, context: bytes) -> bool:
        try:
            core.read_index(context)
        except ProposalDropped as error:
            self.sim.counts[f"dropped {error.reason.name}"] += 1
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
                    self.sim.counts["read asked again"] += 1
                else:
                    refused.append(context)
        if refused:
            self.sim.after_for(replica, TICK, partial(self.ask_again, replica, tuple(refused)))
        self.sim.nodes.pump(replica)

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
        self.sim.note("compact", f"{replica.node_id} to {index}")
