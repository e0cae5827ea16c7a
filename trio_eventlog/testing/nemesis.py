"""Faults by seed: first the kinds and rates of this run are drawn (swarm testing), then the run.

Any number of nodes may go down at once and lose what was not synced; links may be cut, slow or broken; disks slow, full or failing;
processes may stand still; wall clocks may jump. Of durable data only a minority is ever damaged: a node whose disk was lost, or in
whose sealed segments bits were flipped, is *spent*, until it has been replaced by a new one that has caught up.

| fault | what it does |
| --- | --- |
| crash, crash all | power fails: unsynced writes are lost, kept or torn |
| sharp crash | the same while one node writes entries, or a term and what comes with it; some again at their next write |
| stop | in good order |
| upgrade | the same, and the node comes back as of the next release, or of this one again |
| pause | the process stands still, whatever arrives, and goes on without knowing |
| outlast | the same to a leader that was cut off amid a write; the others elect, and hand over, and it hears of two terms at once |
| cut off, split, one way | silent cuts |
| depose | a leader is cut off from the nodes and not from clients, until another leads; some crash as they replace what they held |
| clog | nothing passes between two, and comes in a burst later |
| reset, torn frame | connections between two, now or after so many more bytes |
| slow network, slow link | latency everywhere; 20 kB/s between two |
| silent crash | power fails and nobody is told: connections are half-open |
| address | the node's machine comes back under another IP address |
| slow disk | one kind of its calls |
| failing disk | one of its next writes, syncs or changes of names fails, and the node stops itself |
| unreadable | one to three of its next reads fail |
| full disk | for a while |
| no descriptors | nothing can be opened, for less time than the node tries; it goes on |
| index | the sparse indexes of a node, which are caches: flipped bits, a lost sector or a lost file in each; it restarts |
| flip, lost disk | spends the node |
| hard state, tail | a file of a replica is gone, or the end of its log, when the node comes back: spends the node |
| put back | the node comes back with its disk as it was before the last moments of its life: spends the node |
| copy | a process starts from a copy of a node's disk, which has gone on meanwhile; it ends a little later |
| clock | a node's or client's wall clock jumps, up to a day, either way |
| hand over | leaderships |
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from trio_eventlog.codec.lives import Lives, Relation, relate
from trio_eventlog.ids import CATALOG_GROUP, GroupId, NodeId
from trio_eventlog.node.replica import Replica
from trio_eventlog.storage.segment import INDEX_SUFFIX, SEGMENT_SUFFIX
from trio_eventlog.testing.cluster import DEFAULT_SYNC_SECONDS, LOOK_SECONDS, NEXT_RELEASE, THIS_RELEASE, Cluster
from trio_eventlog.testing.disk import SECTOR_BYTES, CrashMode, Fault, Operation

SHARP_SECONDS_MAX = 10.0
"""How long a sharp crash waits for its moment."""
IMAGE_SECONDS_MAX = 40.0
"""How long an image of a disk is held until it is an old one."""
OUTLAST_SECONDS_MAX = 10.0
"""How long a leader is cut off, at most, until it has a successor."""
CLOCK_JUMP_SECONDS_MAX = 86_400.0

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
    "flip": 0.5,
    "sharp crash": 2.0,
    "depose": 2.0,
    "outlast": 3.0,
}
"""How likely some are, the others being 1: hard on progress, or long in being repaired; or what most can go wrong with."""


@attrs.frozen(slots=True, kw_only=True)
class FaultParameters:
    """What this run's nemesis likes.

    Attributes:
        weights: by fault; 0 switches it off.
        interval_seconds: between two faults, on average.
        down_seconds_max: how long a node stays down, paused or without room.
        cut_seconds_max: how long a cut lasts.
        crash_mode: what becomes of unsynced writes.
        heals_all: at the end. Otherwise a minority stays as it is then.
    """

    weights: dict[str, float]
    interval_seconds: float
    down_seconds_max: float
    cut_seconds_max: float
    crash_mode: CrashMode
    heals_all: bool


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
        counts: how often each fault happened.
        down: nodes that are down and will be brought back here, and when.
        spent: nodes whose durable data is not what it was, and their ids. Whoever replaces them takes them out.
        leaving: ids that somebody has asked to be removed or drained, and was not refused: perhaps it is in a log, and takes effect
            when there is a leader again.
        broken: after `end`: nodes that stay as they are.
        deposed: a leader that may not know yet that it is none any more, and that clients can reach.
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
        self._cut_until = 0.0
        self._until: dict[str, float] = {}
        self._short_until: dict[str, float] = {}
        """When a node is to go on that is paused or has a full disk."""
        self._touched: set[str] = set()
        self._restart_spent: str | None = None
        """A node that files were taken from, and that is to start without them."""
        self._imaging: str | None = None
        """The node of whose disk an image is held, to be started when it is an old one."""
        self.counts: Counter[str] = Counter()
        self.down: dict[str, float] = {}
        self.spent: dict[str, NodeId] = {}
        self.leaving: set[NodeId] = set()
        self.broken: set[str] = set()
        self.deposed: str | None = None

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
        self.broken = set(self.spent)
        if not self._parameters.heals_all:
            for name in self._rng.sample(cluster.names, self._spendable):
                if not cluster.is_new(name) and self._is_minority({cluster.node_id(other) for other in self.broken | {name}}):
                    self.broken.add(name)
        self.deposed = None
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
            if name in self.down or name in cluster.failures():
                await cluster.wait_down(name)
                await self._start(name)
        self.down.clear()
        self._until.clear()
        self._short_until.clear()

    def explains(self, name: str) -> bool:
        """Whether this node's disk was made to fail, fill up or lie, so that it may have stopped itself for it."""
        return name in self._touched

    @property
    def has_spoilt_segments(self) -> bool:
        """Whether some node may have to answer that it cannot read what it holds."""
        return bool(self.counts["flip"] or self.counts["unreadable"])

    # Faults

    def _inject(self, fault: str, nursery: trio.Nursery) -> None:
        cluster = self._cluster
        running = [name for name in cluster.running if not cluster.is_paused(name)]
        name = self._rng.choice(running) if running else ""
        match fault:
            case "crash" if name:
                self._crash(name)
            case "crash all":
                self._count(fault)
                for each in cluster.running:
                    self._crash(each)
            case "sharp crash":
                nursery.start_soon(self._crash_amid_a_write)
            case "outlast":
                nursery.start_soon(self._outlast_a_leader)
            case "depose" if self.deposed is None:
                nursery.start_soon(self._depose_a_leader)
            case "index" if name:
                self._damage_indexes(name)
            case "stop" | "upgrade" if len(running) >= len(cluster.founders):
                self._count(fault)
                if fault == "upgrade":
                    is_next = cluster.protocol_versions_of.get(name) == NEXT_RELEASE
                    cluster.protocol_versions_of[name] = THIS_RELEASE if is_next else NEXT_RELEASE
                nursery.start_soon(cluster.stop, name)
                self._set_down(name)
            case "pause" if name:
                self._count(fault)
                cluster.pause(name)
                self._until[name] = self._after(self._parameters.down_seconds_max)
            case "cut off" | "split" | "one way" | "clog":
                self._count(fault)
                self._cut(fault)
            case "reset":
                self._count(fault)
                cluster.network.reset(*self._two())
            case "torn frame":
                self._count(fault)
                cluster.network.reset_inside(*self._two(), after_bytes=self._rng.randrange(3000))
            case "slow network":
                self._count(fault)
                longest = self._rng.choice((0.001, 0.02, 0.2))
                cluster.network.weather = attrs.evolve(
                    cluster.network.weather, latency_seconds_min=longest / 10, latency_seconds_max=longest
                )
            case "slow link":
                self._count(fault)
                slow = attrs.evolve(cluster.network.weather, bytes_per_second=20_000.0)
                cluster.network.set_weather(*self._two(), self._rng.choice((slow, None)))
            case "silent crash" if name:
                self._crash(name, is_silent=True)
            case "address" if name:
                self._crash(name)
                self._count(fault)
                cluster.network.move(name)
            case "clock":
                self._count(fault)
                who = self._rng.choice([*cluster.names, "producer 0"])
                cluster.shift_wall_clock(who, self._rng.choice((1.0, 60.0, CLOCK_JUMP_SECONDS_MAX)) * self._rng.uniform(-1, 1))
            case "hand over":
                self._hand_over()
            case "no descriptors" if name and cluster.disk(name).has_descriptors:
                self._count(fault)
                # Not for long: a node that cannot open anything for ever may give up.
                cluster.disk(name).has_descriptors = False
                patience_seconds = cluster.settings(name).shortage_patience_seconds
                self._short_until[name] = self._after(min(self._parameters.down_seconds_max, 0.5 * patience_seconds))
            case "slow disk" | "failing disk" | "unreadable" | "full disk" if name:
                self._count(fault)
                self._trouble_disk(fault, name)
            case "flip" | "lost disk" | "hard state" | "tail" if name and self._may_spend(name):
                self._spend(fault, name)
            case "put back" | "copy" if name and self._imaging is None:
                nursery.start_soon(self._image, fault, name)

    def _crash(self, name: str, mode: CrashMode | None = None, *, is_silent: bool = False) -> None:
        self._count("silent crash" if is_silent else "crash")
        self._cluster.crash(name, mode or self._parameters.crash_mode, silently=is_silent)
        self._set_down(name)

    async def _crash_amid_a_write(self) -> None:
        """Term and vote are on their way to the disk, and entries follow, to another file; or any write is."""
        cluster = self._cluster
        rng = self._rng
        found = await self._wait_write(cluster.running, rng.choice(("hard_state", "/log/")))
        if found is not None:
            mode = rng.choice((CrashMode.LOSE, CrashMode.DRAW, CrashMode.DRAW))
            for victim in cluster.running if rng.random() < 0.4 else [found]:
                self._crash_sharply(victim, mode)
            if rng.random() < 0.5 and await self._wait_write([found], "/log/") is not None:
                # It writes where the first crash has left something, and recovery has found it.
                self._crash_sharply(found, mode)

    async def _wait_write(self, names: Sequence[str], path_part: str, *, seconds_max: float = SHARP_SECONDS_MAX) -> str | None:
        """Until one of these begins to write there, and a moment more; which. None: they do not."""
        cluster = self._cluster
        found: list[str] = []

        async def look(name: str) -> None:
            await cluster.disk(name).wait_operation(Operation.WRITE, path_part)
            found.append(name)
            nursery.cancel_scope.cancel()

        with trio.move_on_after(seconds_max):
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(look, name)
        # Amid its sync, or in what comes after a new term: entries, to another file.
        await trio.sleep(self._rng.uniform(0, DEFAULT_SYNC_SECONDS if path_part == "/log/" else 3 * DEFAULT_SYNC_SECONDS))
        return found[0] if found else None

    def _crash_sharply(self, name: str, mode: CrashMode) -> None:
        if self._cluster.is_running(name):
            self._count("sharp crash")
            self._crash(name, mode)

    async def _outlast_a_leader(self) -> None:
        """Cut off with entries that nobody else has, its process stands still; when it goes on, two others have led."""
        cluster, rng = self._cluster, self._rng
        name, group_id = self._a_leader()
        if name is None or self.deposed is not None:
            return
        self._count("outlast")
        self._cut_from_nodes(name)
        await self._wait_write([name], "/log/", seconds_max=1.0)
        if cluster.is_running(name) and not cluster.is_paused(name):
            cluster.pause(name)
            self._until[name] = self._after(0) + 2 * OUTLAST_SECONDS_MAX
        successor = await self._wait_successor(name, group_id)
        # What the two send it arrives, and waits, while its process stands still.
        self._join_with_nodes(name)
        await trio.sleep(rng.uniform(0, 0.05))
        replica = self._replica(successor, group_id)
        if replica is not None and replica.is_leader:
            candidates = sorted(set(replica.voters()) - {cluster.node_id(name), replica.node_id})
            if candidates:
                replica.driver.transfer_leadership(rng.choice(candidates))
        await trio.sleep(rng.uniform(0, 0.5))
        if cluster.is_paused(name):
            self._until.pop(name, None)
            cluster.resume(name)
        await trio.sleep(rng.uniform(0, 1))
        self.deposed = None

    async def _depose_a_leader(self) -> None:
        """It goes on, and takes what clients bring, until it notices that nobody answers. Then it hears of its successor."""
        rng = self._rng
        name, group_id = self._a_leader()
        if name is None:
            return
        self._count("depose")
        self._cut_from_nodes(name)
        await self._wait_successor(name, group_id)
        await trio.sleep(rng.uniform(0, 2))
        self._join_with_nodes(name)
        self.deposed = None
        if rng.random() < 0.5 and await self._wait_write([name], "/log/") is not None:
            self._crash_sharply(name, self._parameters.crash_mode)

    def _cut_from_nodes(self, name: str) -> None:
        """Clients still reach it."""
        self.deposed = name
        self._cluster.partition([name], self._others(name))

    def _join_with_nodes(self, name: str) -> None:
        for other in self._others(name):
            self._cluster.network.heal(name, other)

    def _others(self, name: str) -> list[str]:
        return [other for other in self._cluster.names if other != name]

    def _a_leader(self) -> tuple[str, GroupId] | tuple[None, GroupId]:
        """Of a partition, or of the catalog when there is none."""
        leaders = [
            (name, replica.group_id)
            for name in self._cluster.running
            if not self._cluster.is_paused(name)
            for replica in self._cluster.node(name).parts.replicas.all()
            if replica.is_leader and len(replica.voters()) > 1
        ]
        leaders = [found for found in leaders if found[1] != CATALOG_GROUP] or leaders
        return self._rng.choice(leaders) if leaders else (None, CATALOG_GROUP)

    def _replica(self, name: str | None, group_id: GroupId) -> Replica | None:
        return (
            self._cluster.node(name).parts.replicas.find(group_id) if name is not None and self._cluster.is_running(name) else None
        )

    def _leads(self, name: str, group_id: GroupId) -> bool:
        replica = self._replica(name, group_id)
        return replica is not None and replica.is_leader

    async def _wait_successor(self, name: str, group_id: GroupId) -> str | None:
        """Until another node leads the group, which; None when none does."""
        with trio.move_on_after(OUTLAST_SECONDS_MAX):
            while True:
                for other in self._cluster.running:
                    if other != name and self._leads(other, group_id):
                        return other
                await trio.sleep(LOOK_SECONDS)
        return None

    def _damage_indexes(self, name: str) -> None:
        """It holds what can be made again from the segments, so any number of nodes may lose any of it."""
        disk, rng = self._cluster.disk(name), self._rng
        paths = [path for path in disk.paths() if path.endswith(INDEX_SUFFIX)]
        if not paths:
            return
        self._count("index")
        for path in paths:
            content = disk.content(path)
            match rng.choice(("bits", "bits", "sector", "file")):
                case "bits" if content:
                    # One is seldom where it would lead astray.
                    for _ in range(rng.choice((1, 10))):
                        disk.flip_bit(path, rng.randrange(len(content)), rng.randrange(8))
                case "sector" if content:
                    start = rng.randrange(0, len(content), SECTOR_BYTES)
                    end = min(start + SECTOR_BYTES, len(content))
                    disk.put(path, content[:start] + bytes(end - start) + content[end:])
                case "file":
                    disk.delete(path)
        self._crash(name)

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
            self._cut_until = self._after(self._parameters.cut_seconds_max)

    def _two(self) -> tuple[str, str]:
        names = self._cluster.names
        first = self._rng.choice(names)
        return first, self._rng.choice([name for name in names if name != first] or [first])

    def _hand_over(self) -> None:
        for name in self._cluster.running:
            for replica in self._cluster.node(name).parts.replicas.all():
                if replica.is_leader and self._rng.random() < 0.5:
                    self._count("hand over")
                    replica.driver.transfer_leadership(self._rng.choice(sorted(replica.voters())))

    def _trouble_disk(self, fault: str, name: str) -> None:
        disk, rng = self._cluster.disk(name), self._rng
        if fault == "slow disk":
            disk.latency_seconds[rng.choice(list(Operation))] = rng.choice((0.001, 0.02, 0.3))
            return
        self._touched.add(name)
        if fault == "failing disk":
            operation = rng.choice((Operation.WRITE, Operation.SYNC, Operation.NAMES))
            disk.faults.append(
                Fault(
                    operation=operation, path_part=rng.choice(("", "hard_state", SEGMENT_SUFFIX)), after=rng.randrange(10), times=1
                )
            )
        elif fault == "unreadable":
            disk.faults.append(Fault(operation=Operation.READ, after=rng.randrange(3), times=rng.randrange(1, 4)))
        else:
            disk.fill(free_bytes=rng.randrange(8192))
            self._until[name] = self._after(self._parameters.down_seconds_max)

    def _may_spend(self, name: str) -> bool:
        """Whether the durable data of one more node may go."""
        if name in self.spent or len(self.spent) >= self._spendable:
            return False
        return self._is_minority({*self.spent.values(), self._cluster.node_id(name)})

    def _is_minority(self, node_ids: set[NodeId]) -> bool:
        """Of every group, as all groups are now; one that has no leader or is changing may be anything."""
        # Nobody starts a removed node's data again, though it votes until the last group has let it go. And what is a minority
        # beside a node that is being drained is none without it.
        gone = node_ids | self.leaving | self._cluster.removed_ids() | self._cluster.draining_ids()
        return all(len(voters) > 2 * len(gone & voters) for voters in self._cluster.voters_of_groups())

    def _spend(self, fault: str, name: str) -> None:
        cluster, rng = self._cluster, self._rng
        if fault == "lost disk":
            self._count(fault)
            cluster.crash(name)
        elif fault in ("hard state", "tail"):
            if not self._take_files(fault, name):
                return
        else:
            disk = cluster.disk(name)
            sealed = [path for path in disk.paths() if path.endswith(SEGMENT_SUFFIX) and _is_sealed(path, disk.paths())]
            if not sealed:
                return
            self._count(fault)
            path = rng.choice(sealed)
            disk.flip_bit(path, rng.randrange(len(disk.content(path))), rng.randrange(8))
        self.spent[name] = cluster.node_id(name)
        self._touched.add(name)

    def _take_files(self, fault: str, name: str) -> bool:
        """Of one replica; the node is started again by itself. Not so little that nothing shows it."""
        cluster, rng = self._cluster, self._rng
        extents = cluster.node(name).parts.own_lives.extents
        groups = [group_id for group_id, extent in sorted(extents.items()) if extent.commit_index]
        if not groups:
            return False
        group_id = rng.choice(groups)
        directory = f"data/groups/{group_id:016x}"
        cluster.crash(name, self._parameters.crash_mode)
        disk = cluster.disk(name)
        segments = [path for path in disk.paths() if path.startswith(f"{directory}/log/") and path.endswith(SEGMENT_SUFFIX)]
        first = [path for path in segments if _base_index(path) <= extents[group_id].commit_index][-1:]
        if not first:
            return True  # crashed, and spent: its replica is just leaving
        self._count(fault)
        if fault == "hard state":
            disk.delete(f"{directory}/hard_state")
        else:
            for path in segments[segments.index(first[0]) :]:
                disk.delete(path)
        self._restart_spent = name
        return True

    async def _image(self, fault: str, name: str) -> None:
        """Hold an image until every other node has written down that this one has gone on; then start a process from it."""
        cluster, rng = self._cluster, self._rng
        self._imaging = name
        try:
            node_id = cluster.node_id(name)
            image, lives = cluster.image(name), cluster.node(name).parts.own_lives.lives
            with trio.move_on_after(IMAGE_SECONDS_MAX):
                while not self._is_old(name, node_id, lives):  # noqa: ASYNC110 -- nobody announces it
                    await trio.sleep(rng.uniform(0, 1))
                if fault == "copy":
                    self._count(fault)
                    copy = await cluster.start_copy(name, image)
                    await trio.sleep(rng.uniform(0, 2 * self._parameters.down_seconds_max))
                    if cluster.is_running(copy):
                        cluster.crash(copy)
                elif self._may_spend(name):
                    self._count(fault)
                    self.spent[name] = node_id
                    self._touched.add(name)
                    cluster.crash(name)
                    cluster.put_disk(name, image)
                    await cluster.start(name, is_outcast=True)
        finally:
            self._imaging = None

    def _is_old(self, name: str, node_id: NodeId, lives: Lives) -> bool:
        """Everybody else is up, and remembers durably that the node is further than the image."""
        cluster = self._cluster
        others = [other for other in cluster.names if other != name and not cluster.is_new(other)]
        if not all(map(cluster.is_running, (name, *others))) or any(map(cluster.is_paused, (name, *others))):
            return False
        known = [cluster.node(other).parts.peer_lives._written.get(node_id) for other in others]
        return cluster.node_id(name) == node_id and all(
            item is not None and relate(item.lives, lives) is Relation.BEHIND for item in known
        )

    # Undoing

    def _set_down(self, name: str) -> None:
        self.down[name] = self._after(self._parameters.down_seconds_max)

    def _after(self, seconds_max: float) -> float:
        return trio.current_time() + self._rng.uniform(0, seconds_max)

    async def _bring_back(self) -> None:
        cluster = self._cluster
        now = trio.current_time()
        spent, self._restart_spent = self._restart_spent, None
        if spent is not None and spent in self.spent and cluster.is_startable(spent):
            await self._start(spent)
        if self._cut_until and now >= self._cut_until:
            self._cut_until = 0.0
            cluster.heal()
        for name, until in list(self._short_until.items()):
            if now >= until:
                del self._short_until[name]
                cluster.disk(name).has_descriptors = True
        for name, until in list(self._until.items()):
            if now >= until:
                del self._until[name]
                cluster.disk(name).make_room()
                if cluster.is_paused(name):
                    cluster.resume(name)
        for name, error in cluster.failures().items():
            if name not in self.down and self.explains(name) and cluster.is_startable(name):
                self._count(f"stopped itself: {type(error).__name__}")
                self._set_down(name)
        for name, until in list(self.down.items()):
            if now >= until and not cluster.is_running(name) and cluster.is_startable(name) and name not in self.spent:
                await self._start(name)
                # Only now: a start that is cancelled half-way is one that `end` has to make up for.
                del self.down[name]

    def _count(self, fault: str) -> None:
        self._cluster.note(f"nemesis: {fault}")
        self.counts[fault] += 1


def _base_index(path: str) -> int:
    return int(path.rpartition("/")[2].removesuffix(SEGMENT_SUFFIX))


def _is_sealed(path: str, paths: list[str]) -> bool:
    """Only the last segment of a log may be active."""
    directory = path.rpartition("/")[0] + "/"
    return path != max(other for other in paths if other.startswith(directory) and other.endswith(SEGMENT_SUFFIX))
