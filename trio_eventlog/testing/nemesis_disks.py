"""Faults of disks: slow, full, failing, damaged, emptied, put back, copied."""

import random

import trio

from trio_eventlog.codec.lives import Lives, Relation, relate
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.storage.segment import INDEX_SUFFIX, SECTOR_BYTES, SEGMENT_SUFFIX
from trio_eventlog.testing import inside
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import Fault, Operation
from trio_eventlog.testing.nemesis_ledger import FaultParameters, Ledger, Wound

IMAGE_SECONDS_MAX = 40.0
"""How long an image of a disk is held until it is an old one."""


class DiskFaults:
    """Does things to the disks of nodes."""

    def __init__(self, cluster: Cluster, parameters: FaultParameters, rng: random.Random, ledger: Ledger) -> None:
        self._cluster = cluster
        self._parameters = parameters
        self._rng = rng
        self._ledger = ledger

    def damage_indexes(self, name: str) -> None:
        """It holds what can be made again from the segments, so any number of nodes may lose any of it."""
        disk, rng = self._cluster.disk(name), self._rng
        paths = [path for path in disk.paths() if path.endswith(INDEX_SUFFIX)]
        if not paths:
            return
        self._ledger.count("index")
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
        self._ledger.crash(name)

    def trouble_disk(self, fault: str, name: str) -> None:
        """Slow, full or failing, for a while."""
        disk, rng = self._cluster.disk(name), self._rng
        if fault == "slow disk":
            disk.latency_seconds[rng.choice(list(Operation))] = rng.choice((0.001, 0.02, 0.3))
            return
        self._ledger.touched.add(name)
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
            self._ledger.until[name] = self._ledger.after(self._parameters.down_seconds_max)

    def spend(self, fault: str, name: str) -> None:
        """The durable data of a node is not what it was; the node counts as lost from now on."""
        cluster = self._cluster
        if fault == "lost disk":
            self._ledger.count(fault)
            cluster.crash(name)
        elif not self._take_files(fault, name):
            return
        self._ledger.spent[name] = cluster.node_id(name)
        self._ledger.touched.add(name)

    def wound(self, fault: str, name: str) -> None:
        """Flip a bit of a sealed segment. The node finds it, and the others give back what was there."""
        disk, rng = self._cluster.disk(name), self._rng
        paths = [path for path in disk.paths() if "/log/" in path and path.endswith(SEGMENT_SUFFIX)]
        sealed = [path for path in paths if _is_sealed(path, paths)]
        if not sealed:
            return
        self._ledger.count(fault)
        path = rng.choice(sealed)
        position = rng.randrange(len(disk.content(path)))
        disk.flip_bit(path, position, rng.randrange(8))
        self._ledger.wounded[name] = Wound(
            node_id=self._cluster.node_id(name),
            group_id=GroupId(int(path.split("/groups/")[1].partition("/")[0], 16)),
            path=path,
            position=position,
            byte=disk.content(path)[position : position + 1],
        )
        self._ledger.ever_wounded.add(self._cluster.node_id(name))
        self._ledger.touched.add(name)

    def _take_files(self, fault: str, name: str) -> bool:
        """Of one replica; the node is started again by itself. Not so little that nothing shows it."""
        cluster, rng = self._cluster, self._rng
        extents = inside.lives(cluster.node(name)).extents
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
        self._ledger.count(fault)
        if fault == "hard state":
            disk.delete(f"{directory}/hard_state")
        else:
            for path in segments[segments.index(first[0]) :]:
                disk.delete(path)
        self._ledger.restart_spent = name
        return True

    async def image(self, fault: str, name: str) -> None:
        """Hold an image until every other node has written down that this one has gone on; then start a process from it."""
        cluster, rng = self._cluster, self._rng
        self._ledger.imaging = name
        try:
            node_id = cluster.node_id(name)
            image, lives = cluster.image(name), inside.lives(cluster.node(name)).lives
            with trio.move_on_after(IMAGE_SECONDS_MAX):
                while not self._is_old(name, node_id, lives):  # noqa: ASYNC110 -- nobody announces it
                    await trio.sleep(rng.uniform(0, 1))
                if fault == "copy":
                    self._ledger.count(fault)
                    copy = await cluster.start_copy(name, image)
                    await trio.sleep(rng.uniform(0, 2 * self._parameters.down_seconds_max))
                    if cluster.is_running(copy):
                        cluster.crash(copy)
                elif self._ledger.may_spend(name):
                    self._ledger.count(fault)
                    self._ledger.spent[name] = node_id
                    self._ledger.touched.add(name)
                    cluster.crash(name)
                    cluster.put_disk(name, image)
                    await cluster.start(name, is_outcast=True)
        finally:
            self._ledger.imaging = None

    def _is_old(self, name: str, node_id: NodeId, lives: Lives) -> bool:
        """Everybody else is up, and remembers durably that the node is further than the image."""
        cluster = self._cluster
        others = [other for other in cluster.names if other != name and not cluster.is_new(other)]
        if not all(map(cluster.is_running, (name, *others))) or any(map(cluster.is_paused, (name, *others))):
            return False
        known = [inside.lives_written(cluster.node(other), node_id) for other in others]
        return cluster.node_id(name) == node_id and all(
            item is not None and relate(item, lives) is Relation.BEHIND for item in known
        )


def _base_index(path: str) -> int:
    return int(path.rpartition("/")[2].removesuffix(SEGMENT_SUFFIX))


def _is_sealed(path: str, paths: list[str]) -> bool:
    """Only the last segment of a log may be active."""
    directory = path.rpartition("/")[0] + "/"
    return path != max(other for other in paths if other.startswith(directory) and other.endswith(SEGMENT_SUFFIX))
