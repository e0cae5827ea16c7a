"""What a nemesis has done to a cluster and has to undo, and what more it may do."""

import random
from collections import Counter

import attrs
import trio

from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.testing import inside
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode


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


@attrs.frozen(slots=True, kw_only=True)
class Wound:
    """A byte that is not what was written."""

    node_id: NodeId
    group_id: GroupId
    path: str
    position: int
    byte: bytes


class Ledger:
    """Shared by all parts of a nemesis.

    Args:
        spendable: how many nodes may be spent at once: less than half of the voters of any group.

    Attributes:
        counts: how often each fault happened.
        down: nodes that are down and will be brought back, and when.
        spent: nodes whose durable data was lost or damaged, and their ids. The operator removes them when it replaces them.
        wounded: nodes with damage in a log that they are to find and to have mended by the others.
        ever_wounded: ids of all nodes that were. A crash may bring a file back that was removed just before, damage and all.
        leaving: ids whose removal or drain was requested, and not refused: perhaps it is in a log, and takes effect
            when there is a leader again.
        deposed: a leader that may not know yet that it is none any more, and that clients can reach.
        touched: nodes whose disks were made to fail, fill up or lie.
        until: when a node is to go on that is paused or has a full disk.
        short_until: when a node has descriptors again.
        restart_spent: a node that files were taken from, and that is to start without them.
        imaging: the node of whose disk an image is held, to be started when it is an old one.
    """

    def __init__(self, cluster: Cluster, parameters: FaultParameters, rng: random.Random, spendable: int) -> None:
        self._cluster = cluster
        self._parameters = parameters
        self._rng = rng
        self._spendable = spendable
        self.counts: Counter[str] = Counter()
        self.down: dict[str, float] = {}
        self.spent: dict[str, NodeId] = {}
        self.wounded: dict[str, Wound] = {}
        self.ever_wounded: set[NodeId] = set()
        self.leaving: set[NodeId] = set()
        self.deposed: str | None = None
        self.touched: set[str] = set()
        self.until: dict[str, float] = {}
        self.short_until: dict[str, float] = {}
        self.restart_spent: str | None = None
        self.imaging: str | None = None

    def crash(self, name: str, mode: CrashMode | None = None, *, is_silent: bool = False) -> None:
        """The power of a node fails, as the run's parameters say."""
        self.count("silent crash" if is_silent else "crash")
        self._cluster.crash(name, mode or self._parameters.crash_mode, silently=is_silent)
        self.set_down(name)

    def set_down(self, name: str) -> None:
        """The node is down, and comes back a little later."""
        self.down[name] = self.after(self._parameters.down_seconds_max)

    def after(self, seconds_max: float) -> float:
        """A random moment, at most `seconds_max` from now."""
        return trio.current_time() + self._rng.uniform(0, seconds_max)

    def count(self, fault: str) -> None:
        """The fault happens now."""
        self._cluster.note(f"nemesis: {fault}")
        self.counts[fault] += 1

    def may_spend(self, name: str) -> bool:
        """Whether the durable data of one more node may go."""
        lost = {*self.spent.values(), *(wound.node_id for wound in self.wounded.values())}
        if name in self.spent or name in self.wounded or len(lost) >= self._spendable:
            return False
        return self.is_minority({*lost, self._cluster.node_id(name)})

    def look_after_wounded(self) -> None:
        """Drop the wounds that are mended, and those of nodes that are gone for good."""
        for name, wound in list(self.wounded.items()):
            cluster = self._cluster
            is_gone = cluster.node_id(name) != wound.node_id or wound.node_id in cluster.removed_ids()
            if is_gone or (cluster.is_running(name) and not cluster.is_paused(name) and self._is_mended(name, wound)):
                del self.wounded[name]
                self.count("damage gone with its node" if is_gone else "damage mended")

    def _is_mended(self, name: str, wound: "Wound") -> bool:
        disk = self._cluster.disk(name)
        if wound.path in disk.paths() and disk.content(wound.path)[wound.position : wound.position + 1] == wound.byte:
            return False
        groups = inside.groups(self._cluster.node(name))
        replica = groups.find(wound.group_id)
        if replica is None:
            return all(group.group_id != wound.group_id for group in groups.unopened())
        return not replica.problem

    def is_minority(self, node_ids: set[NodeId]) -> bool:
        """Of every group, as all groups are now; one that has no leader or is changing may be anything."""
        # A removed node's data is never started again, though it votes until the last group has let it go. And what is a minority
        # beside a node that is being drained is none without it.
        gone = node_ids | self.leaving | self._cluster.removed_ids() | self._cluster.draining_ids()
        return all(len(voters) > 2 * len(gone & voters) for voters in self._cluster.voters_of_groups())
