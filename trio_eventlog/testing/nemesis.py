"""Faults by seed: first the kinds and rates of this run are drawn (swarm testing), then the run.

Any number of nodes may go down at once and lose what was not synced; links may be cut, slow or broken; disks slow, full or failing;
processes may stand still; wall clocks may jump. Of durable data only a minority is ever damaged: a node whose disk was lost is
*spent*, until it has been replaced by a new one that has caught up; one in whose sealed segments a bit was flipped is *wounded*,
until the others have given back what was there.

| fault | what it does |
| --- | --- |
| crash, crash all | power fails: unsynced writes are lost, kept or torn |
| sharp crash | the same while one node writes entries, or a term and what comes with it; some again at their next write |
| stop | in good order |
| upgrade | the same, and the node comes back as of the next release, or of this one again |
| pause | the process stands still, whatever arrives, and goes on without knowing |
| outlast | the same to a leader that was cut off amid a write; the others elect and hand over, and it learns of two terms at once |
| cut off, split, one way | silent cuts |
| depose | a leader is cut off from the nodes and not from clients, until another leads; some crash as they replace what they held |
| clog | nothing passes between two, and comes in a burst later |
| reset, torn frame | connections between two, now or after a number of further bytes |
| slow network, slow link | latency everywhere; 20 kB/s between two |
| silent crash | power fails and no peer sees a reset: connections are half-open |
| address | the node's machine comes back under another IP address |
| slow disk | one kind of its calls |
| failing disk | one of its next writes, syncs or changes of names fails, and the node stops itself |
| unreadable | one to three of its next reads fail |
| full disk | for a while: records are refused, and at the end the reserve is given up |
| no descriptors | nothing can be opened, sometimes for longer than the disk tries; it goes on |
| index | the sparse indexes of a node, which are caches: flipped bits, a lost sector or a lost file in each; it restarts |
| flip | a bit in a sealed segment: the node finds it, and has it mended by the others |
| lost disk | spends the node |
| hard state, tail | a file of a replica is gone, or the end of its log, when the node comes back: spends the node |
| put back | the node comes back with its disk as it was before the last moments of its life: spends the node |
| copy | a process starts from a copy of a node's disk, which has gone on meanwhile; it ends a little later |
| clock | a node's or client's wall clock jumps, up to a day, either way |
| hand over | leaderships |
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable

import attrs
import trio

from trio_eventlog.ids import NodeId
from trio_eventlog.testing import inside
from trio_eventlog.testing.cluster import DEFAULT_SYNC_SECONDS, Cluster
from trio_eventlog.testing.disk import CrashMode, Operation
from trio_eventlog.testing.machines import NEXT_RELEASE, THIS_RELEASE
from trio_eventlog.testing.nemesis_disks import DiskFaults
from trio_eventlog.testing.nemesis_leaders import LeaderFaults
from trio_eventlog.testing.nemesis_ledger import FaultParameters, Ledger, Wound

CLOCK_JUMP_SECONDS_MAX = 86_400.0
LONG_SHORTAGES = 0.3
"""How many of the shortages of descriptors last longer than the disk waits for them."""

FAULTS = (
    "crash",
    "crash all",
    "sharp crash",
    "stop",
    "upgrade",
    "pause",
    "outlast",
    "cut off",
    "split",
    "one way",
    "clog",
    "depose",
    "reset",
    "torn frame",
    "slow network",
    "slow link",
    "silent crash",
    "address",
    "slow disk",
    "failing disk",
    "unreadable",
    "full disk",
    "no descriptors",
    "index",
    "flip",
    "lost disk",
    "hard state",
    "tail",
    "put back",
    "copy",
    "clock",
    "hand over",
)
LIKELY = {
    "crash all": 0.2,
    "stop": 0.5,
    "upgrade": 0.5,
    "lost disk": 0.5,
    "hard state": 0.5,
    "tail": 0.5,
    "flip": 2.0,
    "sharp crash": 2.0,
    "depose": 2.0,
    "outlast": 3.0,
}
"""How likely some are, the others being 1: hard on progress, or long in being repaired; or what most can go wrong with."""


def draw_parameters(rng: random.Random) -> FaultParameters:
    """Each fault is in about two runs of three, some of them much of the time."""
    return FaultParameters(
        weights={fault: rng.choice((0.0, 1.0, rng.uniform(0.2, 4.0))) * LIKELY.get(fault, 1.0) for fault in FAULTS},
        interval_seconds=rng.choice((0.5, 1.0, 3.0)),
        down_seconds_max=rng.choice((0.2, 3.0, 10.0)),
        cut_seconds_max=rng.choice((0.5, 3.0, 10.0)),
        crash_mode=rng.choice((CrashMode.DRAW, CrashMode.DRAW, CrashMode.LOSE, CrashMode.KEEP)),
        heals_all=rng.random() < 0.7,
    )


class Nemesis:
    """Injects faults into a cluster until cancelled; `end` undoes what is not to stay.

    Args:
        start: brings a node back.
        spendable: how many nodes may be spent at once: less than half of the voters of any group.

    Attributes:
        broken: after `end`: nodes that stay as they are.
    """

    def __init__(
        self,
        cluster: Cluster,
        parameters: FaultParameters,
        rng: random.Random,
        *,
        start: Callable[[str], Awaitable[None]],
        spendable: int,
    ) -> None:
        self._cluster = cluster
        self._parameters = parameters
        self._rng = rng
        self._start = start
        self._spendable = spendable
        self._ledger = Ledger(cluster, parameters, rng, spendable)
        self._leaders = LeaderFaults(cluster, parameters, rng, self._ledger)
        self._disks = DiskFaults(cluster, parameters, rng, self._ledger)
        self._cut_until = 0.0
        self.broken: set[str] = set()

    async def run(self) -> None:
        """For ever."""
        weights = [self._parameters.weights[fault] for fault in FAULTS]
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._rng.expovariate(1 / self._parameters.interval_seconds))
                await self._bring_back()
                if any(weights):
                    (fault,) = self._rng.choices(FAULTS, weights)
                    self._inject(fault, nursery)

    async def end(self) -> None:
        """A majority is up, connected and quick again; where everything heals, all but what is spent is."""
        cluster = self._cluster
        self.broken = set(self._ledger.spent)
        if not self._parameters.heals_all:
            for name in self._rng.sample(cluster.names, self._spendable):
                if cluster.is_new(name):
                    continue
                if self._ledger.is_minority({cluster.node_id(other) for other in self.broken | {name}}):
                    self.broken.add(name)
        self._ledger.deposed = None
        # What is cut off from now on stays cut off for good.
        cluster.heal()
        cluster.network.calm()
        for name in cluster.names:
            if name in self.broken:
                if self._rng.random() < 0.5:
                    cluster.isolate(name)
                continue
            disk = cluster.disk(name)
            disk.faults.clear()
            disk.latency_seconds = {Operation.SYNC: DEFAULT_SYNC_SECONDS}
            disk.make_room()
            disk.has_descriptors = True
            if cluster.is_paused(name):
                cluster.resume(name)
            if name in self._ledger.down or name in cluster.failures():
                await cluster.wait_down(name)
                await self._start(name)
        self._ledger.down.clear()
        self._ledger.until.clear()
        self._ledger.short_until.clear()

    def explains(self, name: str) -> bool:
        """Whether this node's disk was made to fail, fill up or lie, so that it may have stopped itself for it."""
        return name in self._ledger.touched

    @property
    def has_spoilt_segments(self) -> bool:
        """Whether some node may have to answer that it cannot read what it holds."""
        return bool(self._ledger.counts["flip"] or self._ledger.counts["unreadable"])

    @property
    def counts(self) -> Counter[str]:
        """How often each fault happened."""
        return self._ledger.counts

    @property
    def down(self) -> dict[str, float]:
        """Nodes that are down and will be brought back here, and when."""
        return self._ledger.down

    @property
    def spent(self) -> dict[str, NodeId]:
        """Nodes whose durable data was lost or damaged, and their ids. The operator removes them when it replaces them."""
        return self._ledger.spent

    @property
    def wounded(self) -> dict[str, Wound]:
        """Nodes with damage that is not mended yet."""
        return self._ledger.wounded

    @property
    def ever_wounded(self) -> set[NodeId]:
        """See `Ledger`."""
        return self._ledger.ever_wounded

    def look_after_wounded(self) -> None:
        """See `Ledger`."""
        self._ledger.look_after_wounded()

    @property
    def leaving(self) -> set[NodeId]:
        """See `Ledger`."""
        return self._ledger.leaving

    @property
    def deposed(self) -> str | None:
        """A leader that may not know yet that it is none any more, and that clients can reach."""
        return self._ledger.deposed

    # Faults

    def _inject(self, fault: str, nursery: trio.Nursery) -> None:
        cluster = self._cluster
        running = [name for name in cluster.running if not cluster.is_paused(name)]
        name = self._rng.choice(running) if running else ""
        match fault:
            case "crash" if name:
                self._ledger.crash(name)
            case "crash all":
                self._ledger.count(fault)
                for each in cluster.running:
                    self._ledger.crash(each)
            case "sharp crash":
                nursery.start_soon(self._leaders.crash_amid_a_write)
            case "outlast":
                nursery.start_soon(self._leaders.outlast_a_leader)
            case "depose" if self._ledger.deposed is None:
                nursery.start_soon(self._leaders.depose_a_leader)
            case "index" if name:
                self._disks.damage_indexes(name)
            case "stop" | "upgrade" if len(running) >= len(cluster.founders):
                self._ledger.count(fault)
                if fault == "upgrade":
                    is_next = cluster.protocol_versions_of.get(name) == NEXT_RELEASE
                    cluster.protocol_versions_of[name] = THIS_RELEASE if is_next else NEXT_RELEASE
                nursery.start_soon(cluster.stop, name)
                self._ledger.set_down(name)
            case "pause" if name:
                self._ledger.count(fault)
                cluster.pause(name)
                self._ledger.until[name] = self._ledger.after(self._parameters.down_seconds_max)
            case "cut off" | "split" | "one way" | "clog":
                self._ledger.count(fault)
                self._cut(fault)
            case "reset":
                self._ledger.count(fault)
                cluster.network.reset(*self._two())
            case "torn frame":
                self._ledger.count(fault)
                cluster.network.reset_inside(*self._two(), after_bytes=self._rng.randrange(3000))
            case "slow network":
                self._ledger.count(fault)
                longest = self._rng.choice((0.001, 0.02, 0.2))
                cluster.network.weather = attrs.evolve(
                    cluster.network.weather, latency_seconds_min=longest / 10, latency_seconds_max=longest
                )
            case "slow link":
                self._ledger.count(fault)
                slow = attrs.evolve(cluster.network.weather, bytes_per_second=20_000.0)
                cluster.network.set_weather(*self._two(), self._rng.choice((slow, None)))
            case "silent crash" if name:
                self._ledger.crash(name, is_silent=True)
            case "address" if name:
                self._ledger.crash(name)
                self._ledger.count(fault)
                cluster.network.move(name)
            case "clock":
                self._ledger.count(fault)
                who = self._rng.choice([*cluster.names, "producer 0"])
                cluster.shift_wall_clock(who, self._rng.choice((1.0, 60.0, CLOCK_JUMP_SECONDS_MAX)) * self._rng.uniform(-1, 1))
            case "hand over":
                self._leaders.hand_over()
            case "no descriptors" if name and cluster.disk(name).has_descriptors:
                self._ledger.count(fault)
                cluster.disk(name).has_descriptors = False
                patience_seconds = cluster.settings(name).shortage_patience_seconds
                if self._rng.random() < LONG_SHORTAGES:
                    until = trio.current_time() + patience_seconds * self._rng.uniform(1.1, 3.0)
                else:
                    until = self._ledger.after(min(self._parameters.down_seconds_max, 0.5 * patience_seconds))
                self._ledger.short_until[name] = until
            case "slow disk" | "failing disk" | "unreadable" | "full disk" if name:
                self._ledger.count(fault)
                self._disks.trouble_disk(fault, name)
            case "flip" if name and self._ledger.may_spend(name):
                self._disks.wound(fault, name)
            case "lost disk" | "hard state" | "tail" if name and self._ledger.may_spend(name):
                self._disks.spend(fault, name)
            case "put back" | "copy" if name and self._ledger.imaging is None:
                nursery.start_soon(self._disks.image, fault, name)

    def _cut(self, fault: str) -> None:
        cluster, rng = self._cluster, self._rng
        names = list(cluster.names)
        if fault == "cut off":
            # Preferably a leader.
            leader = cluster.leader() if rng.random() < 0.5 else None
            cluster.isolate(leader or rng.choice(names))
        elif fault == "split":
            rng.shuffle(names)
            at = rng.randrange(1, len(names)) if len(names) > 1 else 1
            cluster.partition(names[:at], names[at:])
        elif fault == "one way":
            cluster.network.cut(*self._two(), both_ways=False)
        else:
            cluster.network.clog(*self._two())
        if not self._cut_until:
            self._cut_until = self._ledger.after(self._parameters.cut_seconds_max)

    def _two(self) -> tuple[str, str]:
        names = self._cluster.names
        first = self._rng.choice(names)
        return first, self._rng.choice([name for name in names if name != first] or [first])

    # Undoing

    async def _bring_back(self) -> None:
        cluster = self._cluster
        now = trio.current_time()
        self._ledger.look_after_wounded()
        spent, self._ledger.restart_spent = self._ledger.restart_spent, None
        if spent is not None and spent in self._ledger.spent and cluster.is_startable(spent):
            await self._start(spent)
        if self._cut_until and now >= self._cut_until:
            self._cut_until = 0.0
            cluster.heal()
        for name, until in list(self._ledger.short_until.items()):
            if now >= until:
                del self._ledger.short_until[name]
                cluster.disk(name).has_descriptors = True
        for name, until in list(self._ledger.until.items()):
            if now >= until:
                del self._ledger.until[name]
                if cluster.is_running(name) and inside.disk_space(cluster.node(name)).is_exhausted:
                    self._ledger.count("room ran out")
                cluster.disk(name).make_room()
                if cluster.is_paused(name):
                    cluster.resume(name)
        for name, error in cluster.failures().items():
            if name not in self._ledger.down and self.explains(name) and cluster.is_startable(name):
                self._ledger.count(f"stopped itself: {type(error).__name__}")
                self._ledger.set_down(name)
        for name, until in list(self._ledger.down.items()):
            if now >= until and not cluster.is_running(name) and cluster.is_startable(name) and name not in self._ledger.spent:
                # A new process has descriptors of its own.
                self._ledger.short_until.pop(name, None)
                cluster.disk(name).has_descriptors = True
                await self._start(name)
                # Only now: a start that is cancelled half-way is one that `end` has to make up for.
                del self._ledger.down[name]
