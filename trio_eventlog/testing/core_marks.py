"""What a core simulation has reached, seen from outside: rare branches, and the end."""

from functools import partial
from typing import TYPE_CHECKING

from trio_eventlog.raft import (
    Event,
    EventKind,
    Message,
    MessageType,
    RaftNode,
)
from trio_eventlog.testing.core_replicas import (
    Replica,
)
from trio_eventlog.testing.core_trace import TICK

if TYPE_CHECKING:
    from trio_eventlog.testing.core_simulator import CoreSimulation


class CoreMarks:
    """Counts rare branches, and says when a run has converged."""

    def __init__(self, simulation: "CoreSimulation") -> None:
        self.sim = simulation

    def on_event(self, replica: Replica, core: RaftNode, event: Event) -> None:
        if event.kind is EventKind.BECAME_CANDIDATE:
            self.sim.network.release_held_back()
        if event.kind is EventKind.BECAME_LEADER:
            # Before it has sent anything.
            self.sim.nemesis.confine_leader(replica)
            self.sim.load.hand_back(replica, core)
        match event.kind:
            case EventKind.TRANSFER_ENDED if core.is_leader:
                self.sim.counts["transfer aborted"] += 1
            case EventKind.BECAME_LEADER if any(
                other.core is not None and other.core.is_leader and other is not replica for other in self.sim.replicas.values()
            ):
                self.sim.counts["two leaders, of different terms"] += 1
            case EventKind.TRANSFER_STARTED:
                # The quorum check begins anew, since its clock is the transfer's too.
                replica.heard = dict.fromkeys(self.sim.replicas, replica.ticks)
            case EventKind.READS_DROPPED:
                self.sim.after_for(
                    replica, self.sim.rngs["load"].randrange(3 * TICK), partial(self.sim.load.ask_again, replica, event.contexts)
                )
            case _:
                pass

    def mark_conflict(self, replica: Replica, removed: int, removed_from_disk: int) -> None:
        if removed > 0:
            self.sim.counts["conflict removed"] += 1
        if removed > 1:
            self.sim.counts["conflict of several entries removed"] += 1
        if removed_from_disk > 0:
            self.sim.counts["conflict removed from the disk"] += 1

    def mark_message(self, replica: Replica, core: RaftNode, message: Message) -> None:
        """Before the core sees it."""
        counts = self.sim.counts
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
            case MessageType.VOTE if (message.log_term, message.index) < (
                self.sim.nodes.term(replica, core.last_index),
                core.last_index,
            ):
                counts["vote asked by a shorter log"] += 1
            case MessageType.VOTE if message.context:
                counts["vote asked by transfer"] += 1
            case _:
                pass

    def has_converged(self) -> bool:
        """One leader, no joint configuration left by mistake, all members hold and have applied the same, and it moves."""
        leaders = [replica for replica in self.sim.replicas.values() if replica.core is not None and replica.core.is_leader]
        if not leaders:
            return False
        leader = max((replica.core for replica in leaders if replica.core is not None), key=lambda core: core.term)
        if leader.node_id not in leader.configuration.nodes and not self.sim.parameters.settings.step_down_on_removal:
            # Removed, and told to stay: it takes no proposals, not even to leave a joint configuration. A push from above is due.
            return True
        if leader.configuration.is_joint:
            return False
        if leader.node_id not in leader.configuration.voters:
            return not self.sim.parameters.settings.step_down_on_removal
        if self.sim.parameters.ends_quietly:
            return self.has_settled(leader)
        before = self.sim.counts["converged at"]
        if not before:
            self.sim.counts["converged at"] = leader.commit_index + 1
            return False
        if leader.commit_index <= before:
            return False
        for node in leader.configuration.nodes:
            core = self.sim.replicas[node].core
            if core is None or core.leader != leader.node_id or core.commit_index < before or core.applied_index < before:
                return False
        return True

    def has_settled(self, leader: RaftNode) -> bool:
        """Whether all entries are committed and applied, and a read is answered, although nothing is proposed."""
        answered = self.sim.load.quiet_read is not None and self.sim.load.quiet_read not in self.sim.load.reads
        replica = self.sim.replicas[leader.node_id]
        self.sim.load.quiet_read = self.sim.load.read(replica, leader)
        self.sim.nodes.pump(replica)
        for node in leader.configuration.nodes:
            core = self.sim.replicas[node].core
            if core is None or core.leader != leader.node_id or not core.applied_index == core.commit_index == leader.last_index:
                return False
        return answered
