"""Seeded simulation of Raft cores alone: no Trio, no bytes, one heap of events ordered by (time, sequence).

One seed makes one `random.Random`; from it first the *parameters* of the run are drawn (swarm testing: this run has slow disks
and no loss, that one has partitions and tiny windows), then the run. Faults for a while, then everything heals and the group has
to make progress. After every event the invariants of Raft are checked on its node; a failure names the seed, the parameters and
the last events.

What is simulated, per node: a core; a clock that drifts, and pauses; a disk that persists one append at a time after a delay, may
hang, and loses what was not durable when the node crashes, sometimes leaving a prefix of it; a machine that applies with a
delay and may restart from an older checkpoint; log compaction. Between nodes: delay, reorder, loss, duplication, cuts in one
direction or both, link resets. Above: proposals, linearizable reads, configuration changes, transfers of leadership.

The parts, each with a reference to the simulation: `core_nodes.py` (cores with their drivers, disks, machines), `core_network.py`,
`core_nemesis.py` (faults), `core_load.py` (what is asked of nodes), `core_invariants.py` (the referee), `core_marks.py` (what was
reached). `core_replicas.py` has their values.

To replay: `python -m trio_eventlog.testing.core_simulator --seed N`, which prints the whole trace. Many seeds:
`python -m trio_eventlog.testing.campaign cores --seeds N`.
"""

import argparse
import hashlib
import heapq
import random
import sys
from collections import Counter, deque
from collections.abc import Callable
from typing import NoReturn

from trio_eventlog.ids import NodeId
from trio_eventlog.raft import (
    Configuration,
)
from trio_eventlog.testing.core_invariants import CoreInvariants
from trio_eventlog.testing.core_load import CoreLoad
from trio_eventlog.testing.core_marks import CoreMarks
from trio_eventlog.testing.core_nemesis import CoreNemesis
from trio_eventlog.testing.core_network import CoreNetwork
from trio_eventlog.testing.core_nodes import CoreNodes
from trio_eventlog.testing.core_replicas import Checkpoint, InvariantViolated, Parameters, Replica, SimulatedLog
from trio_eventlog.testing.core_trace import TICK, StepLog, column
from trio_eventlog.testing.revision import revision

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

        self.healed = False
        self.steps = 0

        self.nodes = CoreNodes(self)
        self.network = CoreNetwork(self)
        self.nemesis = CoreNemesis(self)
        self.load = CoreLoad(self)
        self.invariants = CoreInvariants(self)
        self.marks = CoreMarks(self)

        bootstrap = Configuration(voters=frozenset(NodeId(n) for n in range(1, self.parameters.voters + 1)))
        origin = Checkpoint(index=0, term=0, digest=b"", configuration=bootstrap)
        self.replicas: dict[NodeId, Replica] = {}
        for number in range(1, self.parameters.voters + self.parameters.spares + 1):
            node = NodeId(number)
            self.replicas[node] = Replica(node, SimulatedLog(self.parameters.knows_configurations), [origin])
        self.log = StepLog(list(self.replicas), trace) if trace is not None else None

    def run(self) -> Counter[str]:
        parameters = self.parameters
        for replica in self.replicas.values():
            self.nodes.start(replica)
        self.after(TICK, self.nemesis.strike)
        fault_end = parameters.fault_ticks * TICK
        self.run_until(fault_end)
        self.nemesis.heal()
        # Elections may collide a few times, and a lost node has much to catch up.
        deadline = fault_end + 60 * parameters.settings.election_timeout_ticks * TICK
        while not self.marks.has_converged():
            if self.now >= deadline:
                self.fail("no progress and convergence after everything healed")
            self.run_until(self.now + parameters.settings.election_timeout_ticks * TICK)
        self.counts["committed"] = len(self.invariants.committed)
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
