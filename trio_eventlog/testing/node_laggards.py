"""Nodes of a simulation that fall far behind, and are cut off amid the files that they fetch to catch up."""

from typing import TYPE_CHECKING

import trio

from trio_eventlog.ids import NodeId
from trio_eventlog.storage.fetched_segments import PART_SUFFIX
from trio_eventlog.testing import inside
from trio_eventlog.testing.determinism import derive
from trio_eventlog.testing.node_run_values import TOPIC

if TYPE_CHECKING:
    from trio_eventlog.testing.node_simulator import NodeRun

AWAY_SECONDS_MAX = 12.0
"""The longest time for which a node is kept down so that it falls behind."""
PRESENCE_SECONDS_MAX = 8.0
"""The longest time from the return of such a node until the next one goes down."""
LOOK_SECONDS = 0.05
"""The interval between two looks at what nodes fetch: a segment takes longer at the bandwidth of these runs."""
CUTS = 0.07
"""The probability that a look which finds a catch-up amid its files cuts it."""


class SimulatedLaggards:
    """Keeps one node down while the others go on, and crashes nodes while they fetch files, and those that send them."""

    def __init__(self, run: "NodeRun") -> None:
        self._run = run
        self._rng = derive(run.seed, "laggards")
        self._began: set[tuple[NodeId, int, int]] = set()
        """The catch-ups that were seen: who, and the group and index of the snapshot."""
        self._installed: dict[str, int] = {}

    async def fall_behind(self) -> None:
        """One node after the other, until cancelled."""
        rng, cluster = self._rng, self._run.cluster
        while True:
            await trio.sleep(rng.uniform(1, PRESENCE_SECONDS_MAX))
            names = [name for name in cluster.running if not cluster.is_paused(name)]
            if len(names) > len(cluster.founders) // 2 + 1:
                self._crash(rng.choice(names), rng.uniform(0.5, 1) * AWAY_SECONDS_MAX)

    async def cut_catch_ups(self) -> None:
        """Looks at what all nodes fetch, until cancelled."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            amid_files = [name for name in self._run.cluster.running if self._look(name)]
            if amid_files and self._rng.random() < CUTS:
                self._cut(self._rng.choice(amid_files))

    def _look(self, name: str) -> bool:
        """Whether the node has some of the files that it fetches, and not all of them."""
        node, counts = self._run.cluster.node(name), self._run.counts
        installed = inside.snapshots_installed(node)
        counts["snapshot installed"] += max(installed - self._installed.get(name, 0), 0)
        self._installed[name] = installed
        reports = inside.catching_up(node)
        for group_id, report in reports.items():
            key = (self._run.cluster.node_id(name), group_id, report.index)
            counts["catch-up by files"] += key not in self._began
            self._began.add(key)
        return any(0 < report.received_bytes < report.total_bytes for report in reports.values())

    def _cut(self, name: str) -> None:
        """The node that fetches crashes, or the leader that it fetches from first of all."""
        cluster, rng = self._run.cluster, self._rng
        leader = cluster.leader(TOPIC, rng.randrange(self._run.parameters.partitions))
        if leader is not None and rng.random() < 0.3:
            self._run.counts["leader crashed amid a catch-up"] += 1
            self._crash(leader, rng.uniform(0, 1))
            return
        self._run.counts["catch-up cut by a crash"] += 1
        self._crash(name, rng.uniform(0, 1))
        self._run.counts["part of a segment kept"] += any(
            path.endswith(PART_SUFFIX) and cluster.disk(name).content(path) for path in cluster.disk(name).paths()
        )

    def _crash(self, name: str, down_seconds: float) -> None:
        """The nemesis brings it back, as it does after crashes of its own."""
        self._run.cluster.note(f"laggards: crash {name}")
        self._run.cluster.crash(name, self._run.parameters.faults.crash_mode)
        self._run.nemesis.down[name] = trio.current_time() + down_seconds
