"""Faults by seed: first the kinds and rates of this run are drawn (swarm testing), then the run.

Only faults that the design promises to survive: any number of nodes may go down at once and lose what was not synced, links may be
cut, slow or broken, disks slow. Durable data is never damaged here.
"""

import random
from collections.abc import Awaitable, Callable

import attrs
import trio

from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode, Operation

SHARP_SECONDS_MAX = 3.0
"""How long a sharp crash waits for its moment."""
SHARP_LOOK_SECONDS = 0.0005


@attrs.frozen(slots=True, kw_only=True)
class FaultParameters:
    """What this run's nemesis likes. Weights of 0 switch a fault off.

    Attributes:
        interval_seconds: between two faults, on average.
        down_seconds_max: how long a node stays down.
        cut_seconds_max: how long a cut lasts.
        crash, crash_all, stop, cut_off, split, one_way, reset, slow_disk, slow_network, hand_over: weights.
        sharp_crash: weight of a crash of one node or all in the moment in which one writes entries, or a new term and the entries
            that come with it: when the most may go wrong between disks, and between the files of one.
        crash_mode: what becomes of unsynced writes.
    """

    interval_seconds: float
    down_seconds_max: float
    cut_seconds_max: float
    crash: float
    crash_all: float
    sharp_crash: float
    stop: float
    cut_off: float
    split: float
    one_way: float
    reset: float
    slow_disk: float
    slow_network: float
    hand_over: float
    crash_mode: CrashMode


def draw_parameters(rng: random.Random) -> FaultParameters:
    """Each fault is in about two runs of three, some of them much of the time."""

    def weight() -> float:
        return rng.choice((0.0, 1.0, rng.uniform(0.2, 4.0)))

    return FaultParameters(
        interval_seconds=rng.choice((0.5, 1.0, 3.0)),
        down_seconds_max=rng.choice((0.2, 3.0, 10.0)),
        cut_seconds_max=rng.choice((0.5, 3.0, 10.0)),
        crash=weight(),
        crash_all=rng.choice((0.0, 0.0, 0.3)),
        sharp_crash=rng.choice((0.0, 1.0)),
        stop=weight() / 2,
        cut_off=weight(),
        split=weight(),
        one_way=weight(),
        reset=weight(),
        slow_disk=weight(),
        slow_network=weight(),
        hand_over=weight(),
        crash_mode=rng.choice((CrashMode.DRAW, CrashMode.DRAW, CrashMode.LOSE, CrashMode.KEEP)),
    )


class Nemesis:
    """Injects faults into a cluster until cancelled; `end` undoes all of them.

    Args:
        start: brings a node back; `Cluster.start` by default.

    Attributes:
        counts: how often each fault happened.
        down: nodes that it has taken down and will bring back, and when.
    """

    def __init__(
        self,
        cluster: Cluster,
        parameters: FaultParameters,
        rng: random.Random,
        start: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._start = start or cluster.start
        self._cluster = cluster
        self._parameters = parameters
        self._rng = rng
        self.down: dict[str, float] = {}
        self._cut_until = 0.0
        self._weather = cluster.network.weather
        self.counts: dict[str, int] = {}

    async def run(self) -> None:
        """For ever."""
        parameters = self._parameters
        faults: list[tuple[float, Callable[[], None]]] = [
            (parameters.crash, self._crash),
            (parameters.crash_all, self._crash_all),
            (parameters.cut_off, self._cut_off),
            (parameters.split, self._split),
            (parameters.one_way, self._one_way),
            (parameters.reset, self._reset),
            (parameters.slow_disk, self._slow_disk),
            (parameters.slow_network, self._slow_network),
            (parameters.hand_over, self._hand_over),
        ]
        weights = [weight for weight, _ in faults]
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._rng.expovariate(1 / parameters.interval_seconds))
                await self._bring_back(nursery)
                at = self._rng.random() * (sum(weights) + parameters.stop + parameters.sharp_crash)
                if at < parameters.stop:
                    self._stop(nursery)
                elif at < parameters.stop + parameters.sharp_crash:
                    nursery.start_soon(self._crash_amid_a_write)
                elif any(weights):
                    self._rng.choices([fault for _, fault in faults], weights)[0]()

    async def end(self) -> None:
        """Everything up, connected and quick again."""
        cluster = self._cluster
        cluster.heal()
        cluster.network.weather = self._weather
        for name in cluster.names:
            cluster.disk(name).latency_seconds[Operation.SYNC] = 0.001
            if name in self.down and not cluster.is_running(name):
                await cluster.wait_down(name)
                await self._start(name)
        self.down.clear()

    # One method for each fault.

    def _crash(self) -> None:
        running = self._cluster.running
        if running:
            self._crash_node(self._rng.choice(running))

    def _crash_all(self) -> None:
        for name in self._cluster.running:
            self._crash_node(name)

    def _crash_node(self, name: str, mode: CrashMode | None = None) -> None:
        self._count("crash")
        self._cluster.crash(name, mode or self._parameters.crash_mode)
        self.down[name] = trio.current_time() + self._rng.uniform(0, self._parameters.down_seconds_max)

    async def _crash_amid_a_write(self) -> None:
        cluster = self._cluster
        is_of_term = self._rng.random() < 0.5
        is_everywhere = self._rng.random() < 0.4
        with trio.move_on_after(SHARP_SECONDS_MAX):
            while True:
                for name in cluster.running:
                    drivers = [replica.driver for replica in cluster.node(name)._replicas.all()]
                    # Term and vote are on their way to the disk, and entries follow, to another file; or any write is.
                    if any(driver._hard_state._is_saving if is_of_term else driver._writes_waiting for driver in drivers):
                        await trio.sleep(self._rng.uniform(0, 5) * SHARP_LOOK_SECONDS)
                        for victim in cluster.running if is_everywhere else [name]:
                            if cluster.is_running(victim):
                                self._count("sharp crash")
                                self._crash_node(victim, CrashMode.LOSE)
                        return
                await trio.sleep(SHARP_LOOK_SECONDS)

    def _stop(self, nursery: trio.Nursery) -> None:
        running = self._cluster.running
        if len(running) >= len(self._cluster.founders):
            self._count("stop")
            name = self._rng.choice(running)
            nursery.start_soon(self._cluster.stop, name)
            self.down[name] = trio.current_time() + self._rng.uniform(0, self._parameters.down_seconds_max)

    def _cut_off(self) -> None:
        """Preferably a leader."""
        self._count("cut off")
        name = self._cluster.leader() if self._rng.random() < 0.5 else None
        self._cluster.isolate(name or self._rng.choice(self._cluster.names))
        self._set_cut()

    def _split(self) -> None:
        self._count("split")
        names = list(self._cluster.names)
        self._rng.shuffle(names)
        at = self._rng.randrange(1, len(names)) if len(names) > 1 else 1
        self._cluster.partition(names[:at], names[at:])
        self._set_cut()

    def _one_way(self) -> None:
        self._count("one way")
        source, target = self._two()
        self._cluster.network.cut(source, target, both_ways=False)
        self._set_cut()

    def _reset(self) -> None:
        self._count("reset")
        one, two = self._two()
        self._cluster.network.reset(one, two)

    def _two(self) -> tuple[str, str]:
        names = self._cluster.names
        first = self._rng.choice(names)
        return first, self._rng.choice([name for name in names if name != first] or [first])

    def _slow_disk(self) -> None:
        self._count("slow disk")
        disk = self._cluster.disk(self._rng.choice(self._cluster.names))
        disk.latency_seconds[Operation.SYNC] = self._rng.choice((0.001, 0.02, 0.3))

    def _slow_network(self) -> None:
        self._count("slow network")
        longest = self._rng.choice((0.001, 0.02, 0.2))
        self._cluster.network.weather = attrs.evolve(self._weather, latency_seconds_min=longest / 10, latency_seconds_max=longest)

    def _hand_over(self) -> None:
        for name in self._cluster.running:
            for replica in self._cluster.node(name)._replicas.all():
                if replica.is_leader and self._rng.random() < 0.5:
                    self._count("hand over")
                    replica.driver.transfer_leadership(self._rng.choice(sorted(replica.voters())))

    # Undoing

    def _set_cut(self) -> None:
        if not self._cut_until:
            self._cut_until = trio.current_time() + self._rng.uniform(0, self._parameters.cut_seconds_max)

    async def _bring_back(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        if self._cut_until and now >= self._cut_until:
            self._cut_until = 0.0
            self._cluster.heal()
        for name, until in list(self.down.items()):
            if now >= until and not self._cluster.is_running(name) and self._cluster.is_startable(name):
                await self._start(name)
                # Only now: a start that is cancelled half-way is one that `end` has to make up for.
                del self.down[name]

    def _count(self, fault: str) -> None:
        self.counts[fault] = self.counts.get(fault, 0) + 1
