"""Faults that strike a node at the worst moment: amid a write, or while it leads and does not know that it is none any more."""

import random
from collections.abc import Sequence

import trio

from trio_eventlog.ids import CATALOG_GROUP, GroupId
from trio_eventlog.node.replica import Replica
from trio_eventlog.testing import inside
from trio_eventlog.testing.cluster import DEFAULT_SYNC_SECONDS, Cluster
from trio_eventlog.testing.cluster_view import LOOK_SECONDS
from trio_eventlog.testing.disk import CrashMode, Operation
from trio_eventlog.testing.nemesis_ledger import FaultParameters, Ledger

SHARP_SECONDS_MAX = 10.0
"""How long a sharp crash waits for its moment."""
OUTLAST_SECONDS_MAX = 10.0
"""How long a leader is cut off, at most, until it has a successor."""


class LeaderFaults:
    """Crashes amid writes, and leaders that outlast their term."""

    def __init__(self, cluster: Cluster, parameters: FaultParameters, rng: random.Random, ledger: Ledger) -> None:
        self._cluster = cluster
        self._parameters = parameters
        self._rng = rng
        self._ledger = ledger

    async def crash_amid_a_write(self) -> None:
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
            self._ledger.count("sharp crash")
            self._ledger.crash(name, mode)

    async def outlast_a_leader(self) -> None:
        """Cut a leader off with entries that no other node has, and pause it; when it resumes, two others have led."""
        cluster, rng = self._cluster, self._rng
        name, group_id = self._a_leader()
        if name is None or self._ledger.deposed is not None:
            return
        self._ledger.count("outlast")
        self._cut_from_nodes(name)
        await self._wait_write([name], "/log/", seconds_max=1.0)
        if cluster.is_running(name) and not cluster.is_paused(name):
            cluster.pause(name)
            self._ledger.until[name] = self._ledger.after(0) + 2 * OUTLAST_SECONDS_MAX
        successor = await self._wait_successor(name, group_id)
        # What the two send it arrives, and waits, while its process stands still.
        self._join_with_nodes(name)
        await trio.sleep(rng.uniform(0, 0.05))
        replica = self._replica(successor, group_id)
        if replica is not None and replica.is_leader:
            candidates = sorted(set(replica.voters()) - {cluster.node_id(name), replica.node_id})
            if candidates:
                replica.driver.requests.transfer_leadership(rng.choice(candidates))
        await trio.sleep(rng.uniform(0, 0.5))
        if cluster.is_paused(name):
            self._ledger.until.pop(name, None)
            cluster.resume(name)
        await trio.sleep(rng.uniform(0, 1))
        self._ledger.deposed = None

    async def depose_a_leader(self) -> None:
        """Cut a leader off. It accepts proposals until it notices that no follower answers, then learns of its successor."""
        rng = self._rng
        name, group_id = self._a_leader()
        if name is None:
            return
        self._ledger.count("depose")
        self._cut_from_nodes(name)
        await self._wait_successor(name, group_id)
        await trio.sleep(rng.uniform(0, 2))
        self._join_with_nodes(name)
        self._ledger.deposed = None
        if rng.random() < 0.5 and await self._wait_write([name], "/log/") is not None:
            self._crash_sharply(name, self._parameters.crash_mode)

    def hand_over(self) -> None:
        """Some leaders ask another node to lead."""
        for name in self._cluster.running:
            for replica in inside.groups(self._cluster.node(name)).all():
                if replica.is_leader and self._rng.random() < 0.5:
                    self._ledger.count("hand over")
                    replica.driver.requests.transfer_leadership(self._rng.choice(sorted(replica.voters())))

    def _cut_from_nodes(self, name: str) -> None:
        """Clients still reach it."""
        self._ledger.deposed = name
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
            for replica in inside.groups(self._cluster.node(name)).all()
            if replica.is_leader and len(replica.voters()) > 1
        ]
        leaders = [found for found in leaders if found[1] != CATALOG_GROUP] or leaders
        return self._rng.choice(leaders) if leaders else (None, CATALOG_GROUP)

    def _replica(self, name: str | None, group_id: GroupId) -> Replica | None:
        return (
            inside.groups(self._cluster.node(name)).find(group_id) if name is not None and self._cluster.is_running(name) else None
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
