"""Faults of a core simulation, drawn at each tick of the whole cluster."""

import random
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from trio_eventlog.testing.core_replicas import (
    HEALED_PROPOSAL_RATE,
    Replica,
)
from trio_eventlog.testing.core_trace import TICK

if TYPE_CHECKING:
    from trio_eventlog.testing.core_simulator import CoreSimulation


class CoreNemesis:
    """Injects faults until it heals everything."""

    def __init__(self, simulation: "CoreSimulation") -> None:
        self.sim = simulation
        self.confining: Replica | None = None
        """The only follower that the next leaders reach."""
        self.confinements = 0
        """How many of them."""

    def strike(self) -> None:
        parameters = self.sim.parameters
        if self.sim.healed:
            self.sim.load.ask_some(0 if parameters.ends_quietly else min(parameters.proposal_rate, HEALED_PROPOSAL_RATE))
            self.sim.after(TICK, self.strike)
            return
        rng = self.sim.rngs["nemesis"]
        timeout = parameters.settings.election_timeout_ticks * TICK
        replicas = list(self.sim.replicas.values())
        leaders = [replica for replica in replicas if replica.core is not None and replica.core.is_leader]
        if rng.random() < parameters.crash_rate:
            victim = rng.choice(replicas)
            if rng.random() < 0.5:
                self.sim.nodes.crash(victim)
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
            self.sim.counts["blackout"] += 1
            for victim in replicas:
                self.sim.nodes.crash(victim)
        if rng.random() < parameters.pause_rate:
            victim = rng.choice(replicas)
            victim.paused_until = self.sim.now + rng.randrange(3 * timeout)
            self.sim.note("pause", f"{victim.node_id} until {victim.paused_until}")
        if rng.random() < parameters.cut_rate:
            self.cut_links(rng)
        if rng.random() < parameters.stall_rate:
            victim, duration = rng.choice([*leaders, *replicas]), rng.randrange(1, 3 * timeout)
            self.stall(victim, duration)
            if rng.random() < 0.5:
                # Who leads begins again from what was acknowledged, which is less than it holds.
                self.sim.after_for(victim, rng.randrange(duration), partial(self.sim.nodes.reset_links, victim, rng))
        if rng.random() < parameters.reset_rate:
            victim = rng.choice(replicas)
            if victim.core is not None and victim.paused_until <= self.sim.now:
                self.sim.nodes.peer_reset(victim, rng.choice(replicas).node_id)
        is_quiet = parameters.ends_quietly and 2 * self.sim.now > parameters.fault_ticks * TICK
        self.sim.load.ask_some(0 if is_quiet else parameters.proposal_rate)
        self.sim.after(TICK, self.strike)

    def cut_links(self, rng: random.Random) -> None:
        """For a while: around one node, preferably a leader; one way between two; or right through."""
        nodes = list(self.sim.replicas)
        duration = rng.randrange(1, 8 * self.sim.parameters.settings.election_timeout_ticks * TICK)
        match rng.randrange(3):
            case 0:
                leaders = [replica for replica in self.sim.replicas.values() if replica.core is not None and replica.core.is_leader]
                self.cut_off(rng.choice(leaders or list(self.sim.replicas.values())), rng, duration)
            case 1:
                self.sim.network.cut_for({(rng.choice(nodes), rng.choice(nodes))}, duration)
            case _:
                side = {node for node in nodes if rng.random() < 0.5}
                self.sim.network.cut_for({(a, b) for a in nodes for b in nodes if (a in side) is not (b in side)}, duration)

    def cut_off(self, victim: Replica, rng: random.Random, duration: int) -> None:
        """From everyone. The others may notice at once; it may have been told to hand over; its clients go on to ask it."""
        core = victim.core
        cut = self.sim.network.around(victim.node_id)
        if core is not None and core.is_leader and victim.paused_until <= self.sim.now:
            self.sim.counts["leader cut off"] += 1
            self.question(victim, rng)
            if rng.random() < 0.3:
                self.sim.counts["leader cut off amid a transfer"] += 1
                self.sim.load.transfer(victim, rng.choice(sorted(core.configuration.voters)))
                # The message to campaign gets through, an answer hardly.
                self.sim.after(rng.randrange(2 * self.sim.parameters.delay_max), lambda: self.sim.network.cut_for(cut, duration))
                return
        self.sim.network.cut_for(cut, duration)
        if rng.random() < 0.5:
            self.sim.nodes.reset_links(victim, rng)

    def question(self, leader: Replica, rng: random.Random) -> None:
        """Its clients do not know yet that others may lead."""
        timeout = self.sim.parameters.settings.election_timeout_ticks * TICK
        for _ in range(rng.randrange(8)):
            self.sim.after_for(leader, rng.randrange(2 * timeout), partial(self.sim.load.read_if_leader, leader))

    def clog(self, victim: Replica, rng: random.Random) -> None:
        """Messages to it arrive later and later; and when its own reach no node any more, the delayed ones go on to arrive."""
        timeout = self.sim.parameters.settings.election_timeout_ticks * TICK
        begin = rng.randrange(timeout, 3 * timeout)
        duration = rng.randrange(timeout, 4 * timeout)
        self.sim.note("clog", f"{victim.node_id}")
        for other in self.sim.replicas:
            self.sim.network.clogged[other, victim.node_id] = self.sim.now
        self.sim.after(begin, lambda: self.sim.network.cut_for({(victim.node_id, other) for other in self.sim.replicas}, duration))
        self.sim.after_for(victim, begin, lambda: self.question(victim, rng))
        self.sim.after(begin + duration, lambda: self.sim.network.unclog(victim))

    def strand(self, victim: Replica, rng: random.Random) -> None:
        """Its disk hangs, then its links are gone, and come back first.

        Others take over and replace the end of its log, part of which is on the way to its disk all the time. Or it is the machine
        that hangs, amid a change of the configuration, and goes on while a snapshot that covers the change is written.
        """
        timeout = self.sim.parameters.settings.election_timeout_ticks * TICK
        cut = self.sim.network.around(victim.node_id)
        duration = rng.randrange(2 * timeout, 6 * timeout)
        begin = rng.randrange(1, timeout)
        self.sim.note("strand", f"{victim.node_id}")
        self.sim.after(begin, lambda: self.sim.network.cut_for(cut, duration))
        if rng.random() < 0.5:
            self.stall(victim, 8 * timeout)
            return
        self.hang(victim, begin + duration + rng.randrange(3 * timeout))
        for other in self.sim.replicas.values():
            if other.core is not None and other.core.is_leader and other.paused_until <= self.sim.now:
                self.sim.load.propose_change(other, other.core, self.sim.load.draw_change(other.core.configuration, rng))
                self.sim.nodes.pump(other)
            if other is not victim:
                self.sim.after_for(other, begin + rng.randrange(duration // 2, duration), partial(self.sim.load.compact, other))

    def stall(self, victim: Replica, duration: int) -> None:
        """Its disk writes nothing."""
        victim.stalled_until = self.sim.now + duration
        self.sim.note("stall", f"{victim.node_id} until {victim.stalled_until}")

    def hang(self, victim: Replica, duration: int) -> None:
        """Its machine applies nothing."""
        victim.hung_until = self.sim.now + duration
        self.sim.note("hang", f"{victim.node_id} until {victim.hung_until}")

    def confine(self, follower: Replica, leaders: Sequence[Replica], rng: random.Random) -> None:
        """The leaders of now and of the next elections reach this one follower only, whose disk hangs (paper, figure 8).

        Each replaces what the one before has written there; nothing of it is durable yet, nor committed.
        """
        timeout = self.sim.parameters.settings.election_timeout_ticks * TICK
        self.stall(follower, 12 * timeout)
        self.confining = follower
        self.confinements = rng.choice((2, 2, 3, 4))
        self.sim.note("confine", f"to {follower.node_id}")
        for leader in leaders:
            self.confine_leader(leader)

    def confine_leader(self, leader: Replica) -> None:
        follower = self.confining
        if follower is None or follower is leader or self.sim.healed:
            return
        self.confinements -= 1
        if not self.confinements:
            self.confining = None
        timeout = self.sim.parameters.settings.election_timeout_ticks * TICK
        links = {(leader.node_id, follower.node_id), (follower.node_id, leader.node_id)}
        self.sim.network.cut_for(
            self.sim.network.around(leader.node_id) - links, self.sim.rngs["nemesis"].randrange(timeout, 3 * timeout)
        )

    def dwindle(self, leader: Replica, rng: random.Random) -> None:
        """The leader reaches a bare quorum while the others campaign, then no node; its followers are killed and restart at once.

        No node may be elected before the leader knows that its lease is over.
        """
        if leader.core is None:
            # Crashed in this very tick.
            return
        voters = sorted(leader.core.configuration.voters - {leader.node_id})
        kept = rng.sample(voters, (len(voters) + 1) // 2)
        timeout = self.sim.parameters.settings.election_timeout_ticks * TICK
        first = rng.randrange(timeout, 4 * timeout)
        second = rng.randrange(timeout, 3 * timeout)
        self.sim.note("dwindle", f"{leader.node_id} to {kept}")
        links = {(leader.node_id, node) for node in kept} | {(node, leader.node_id) for node in kept}
        self.sim.network.cut_for(self.sim.network.around(leader.node_id) - links, first + second)
        self.sim.after(first, lambda: self.abandon(leader, [self.sim.replicas[node] for node in kept], rng, second))

    def abandon(self, leader: Replica, followers: Sequence[Replica], rng: random.Random, duration: int) -> None:
        if not self.sim.healed:
            self.cut_off(leader, rng, duration)
            for follower in followers:
                self.sim.after_for(follower, rng.randrange(TICK), partial(self.sim.nodes.crash, follower, down_max_ticks=2))

    def heal(self) -> None:
        self.sim.healed = True
        self.sim.network.cut.clear()
        self.sim.network.clogged.clear()
        self.sim.network.held_back.clear()
        self.sim.note("heal", "")
        for replica in self.sim.replicas.values():
            replica.stalled_until = 0
            replica.hung_until = 0
            replica.paused_until = 0
            replica.crashes_amid_write = False
            replica.tick_length = TICK
            self.sim.nodes.restart(replica)
