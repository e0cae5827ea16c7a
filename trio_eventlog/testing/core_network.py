"""The network of a core simulation: what is sent arrives late, twice, in another order, or never."""

from functools import partial
from typing import TYPE_CHECKING

import attrs

from trio_eventlog.ids import NodeId
from trio_eventlog.raft import (
    TRANSFER_CAMPAIGN,
    Compacted,
    Message,
    MessageType,
    OutOfLog,
)
from trio_eventlog.testing.core_replicas import (
    FROM_LEADER,
    Replica,
)
from trio_eventlog.testing.core_trace import TICK, describe

if TYPE_CHECKING:
    from trio_eventlog.testing.core_simulator import CoreSimulation


class CoreNetwork:
    """Carries messages between nodes."""

    def __init__(self, simulation: "CoreSimulation") -> None:
        self.sim = simulation
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.held_back: list[tuple[Replica, Message]] = []
        """Copies that arrive when a node campaigns."""
        self.clogged: dict[tuple[NodeId, NodeId], int] = {}
        """Since when what is sent there waits, as long again as it has been so."""
        self.arrivals: dict[tuple[NodeId, NodeId], int] = {}
        """When the last message of each link arrives, if they keep their order."""

    def send(self, replica: Replica, message: Message) -> None:
        core = replica.core
        assert core is not None
        self.sim.invariants.check_leaving(replica, message)
        if message.type is MessageType.APPEND:
            if message.term != core.term:
                # What stands at those indexes now may be another leader's.
                self.sim.counts["append of a former term not sent"] += 1
                core.report_unreachable(message.to)
                return
            try:
                entries = tuple(self.sim.nodes.entry(replica, index) for index in range(message.index + 1, message.last_index + 1))
            except (Compacted, OutOfLog):
                self.sim.counts["append gone before it was sent"] += 1
                core.report_unreachable(message.to)
                return
            message = attrs.evolve(message, entries=entries)
        target = self.sim.replicas.get(message.to)
        rng = self.sim.rngs["network"]
        parameters = self.sim.parameters
        if message.type is MessageType.SNAPSHOT:
            # The data travels on the side; its end is reported, one way or the other.
            ok = rng.random() < 0.8 or self.sim.healed
            self.sim.after_for(
                replica,
                rng.randrange(5 * TICK),
                lambda: self.sim.nodes.snapshot_sent(replica, message.to, ok and target is not None),
            )
            if not ok:
                self.sim.counts["snapshot lost"] += 1
                return
        if target is None or (replica.node_id, message.to) in self.cut:
            return
        if not self.sim.healed and rng.random() < parameters.loss:
            self.sim.counts["lost"] += 1
            return
        copies = 2 if not self.sim.healed and rng.random() < parameters.duplication else 1
        for _ in range(copies):
            delay = self.sim.delay("network", parameters.delay_max)
            if self.clogged:
                delay += self.sim.now - self.clogged.get((replica.node_id, message.to), self.sim.now)
            if not parameters.reorder:
                link = (replica.node_id, message.to)
                arrival = self.arrivals[link] = max(self.arrivals.get(link, 0), self.sim.now + delay)
                delay = arrival - self.sim.now
            self.sim.after(delay, lambda: self.deliver(target, message))
        if not self.sim.healed and rng.random() < parameters.lateness:
            # Possibly stale: leaders, terms and configurations have changed meanwhile, and a node that is cut off by now
            # gets an old answer. It does the most harm during the next election.
            if rng.random() < 0.5:
                self.held_back.append((target, message))
            else:
                late = rng.randrange(6 * parameters.settings.election_timeout_ticks * TICK)
                self.sim.after(late, lambda: self.deliver(target, message, is_late=True))

    def release_held_back(self) -> None:
        held_back, self.held_back = self.held_back, []
        for target, message in held_back:
            late = self.sim.rngs["network"].randrange(6 * TICK)
            self.sim.after(late, partial(self.deliver, target, message, is_late=True))

    def deliver(self, target: Replica, message: Message, is_late: bool = False) -> None:
        if target.core is None or (not is_late and (message.sender, message.to) in self.cut):
            return
        if target.paused_until > self.sim.now:
            self.sim.after(target.paused_until - self.sim.now, lambda: self.deliver(target, message, is_late))
            return
        self.sim.counts["late"] += is_late
        if self.sim.log is not None:
            self.sim.log.add(describe(message))
        core = target.core
        term = core.term
        commit = core.commit_index
        is_promised = (
            message.type is MessageType.VOTE
            and message.context != TRANSFER_CAMPAIGN
            and self.sim.invariants.has_promised(target, core)
        )
        before = core.status().hard_state if is_promised else None
        target.heard[message.sender] = target.ticks
        self.sim.marks.mark_message(target, core, message)
        self.sim.nodes.hand_over(target, message)
        if before is not None:
            self.sim.counts["vote asked within a lease"] += 1
            state = core.status().hard_state
            if (state.term, state.vote) != (before.term, before.vote):
                self.sim.fail(f"{target.node_id} heeds {message.sender} within a lease: {before}, now {state}")
        if message.type is MessageType.PRE_VOTE:
            if core.term != term:
                self.sim.fail(f"{target.node_id} goes from term {term} to {core.term} although it was only asked")
            if not core.has_ready():
                self.sim.counts["pre-vote ignored within a lease"] += 1
        self.sim.nodes.pump(target)
        if message.type in FROM_LEADER and message.term == core.term:
            target.followed_term, target.followed_at, target.followed_tick = core.term, self.sim.now, target.ticks
            if core.commit_index > commit and message.type is not MessageType.SNAPSHOT:
                self.sim.invariants.check_shown(target, core)

    def unclog(self, victim: Replica) -> None:
        for other in self.sim.replicas:
            self.clogged.pop((other, victim.node_id), None)

    def around(self, node: NodeId) -> set[tuple[NodeId, NodeId]]:
        return {(node, other) for other in self.sim.replicas} | {(other, node) for other in self.sim.replicas}

    def cut_for(self, cut: set[tuple[NodeId, NodeId]], duration: int) -> None:
        if not self.sim.healed:
            self.cut |= cut
            self.sim.note("cut", f"{sorted(cut)}")
            self.sim.after(duration, lambda: self.mend(cut))

    def mend(self, cut: set[tuple[NodeId, NodeId]]) -> None:
        """Two cuts may overlap; the first to end ends them both where they do."""
        self.cut -= cut
        self.sim.note("mend", f"{sorted(cut)}")
