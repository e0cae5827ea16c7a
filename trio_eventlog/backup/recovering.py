"""The way on after a majority of a cluster was lost for good: what is left becomes the first node of a new cluster.

The directories of the survivors are read and never changed. Every entry of the best replica of each group is written into a new
data directory, the machine is brought up to the last of them, and a snapshot there says that the new node is the only voter. The
cluster id is another one, so no node of the old cluster, should one come back, can take part in the new one.
"""

from collections.abc import Callable

import attrs

from trio_eventlog.backup.new_cluster import (
    commands_to,
    only_voter,
    write_catalog,
    write_first_voters,
    write_hard_state,
    write_node_file,
)
from trio_eventlog.backup.survivors import SurvivingReplica, Survivors, frames_of
from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.segment import LogBase, encode_base
from trio_eventlog.codec.snapshot_file import Manifest, SnapshotFile
from trio_eventlog.errors import DamagedData, DataDirectoryError
from trio_eventlog.ids import CATALOG_GROUP, ClusterId, GroupId, NodeId, format_id
from trio_eventlog.machine.catalog import CatalogMachine
from trio_eventlog.machine.partition import PartitionMachine
from trio_eventlog.node.appliers import Applier, CatalogApplier, PartitionApplier
from trio_eventlog.node.watermark import Watermark
from trio_eventlog.raft import SnapshotMetadata
from trio_eventlog.storage.data_directory import GROUPS_DIRECTORY, LOCK_FILE, LOG_DIRECTORY
from trio_eventlog.storage.disk import Disk, join_path, write_atomically
from trio_eventlog.storage.log_recovery import BASE_FILE
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.segmented_log import SegmentedLog, open_segmented_log
from trio_eventlog.storage.snapshots import Found, SnapshotName, SnapshotStore, find_snapshots

APPEND_BYTES = 4 << 20
"""So much is written at a time."""


@attrs.frozen(slots=True, kw_only=True)
class RecoverySettings:
    """Attributes: `logs`, of the logs that are made; the others as of `PartitionMachine`, the same as on the lost nodes."""

    logs: LogSettings
    producer_window_batches: int
    producers_max: int


@attrs.frozen(slots=True, kw_only=True)
class RecoveredGroup:
    """A partition that was recovered, or of which nothing is left.

    Attributes:
        replica: where it was taken from; None: no survivor has it, and it is empty in the new cluster.
        losses: what is known to be lost, for people.
    """

    group_id: GroupId
    topic: str
    partition: int
    replica: SurvivingReplica | None
    losses: tuple[str, ...]

    @property
    def what(self) -> str:
        """The group, for people."""
        return "the catalog" if self.group_id == CATALOG_GROUP else f"{self.topic}/{self.partition}"


async def plan(disk: Disk, survivors: Survivors) -> list[RecoveredGroup]:
    """What a recovery would take from where, the catalog first. Changes nothing.

    Raises:
        DataDirectoryError: no survivor has the catalog.
        DamagedData: the best replica of the catalog cannot be read.
    """
    machine = await _catalog(disk, survivors)
    groups = [_planned(survivors, CATALOG_GROUP, "", 0)]
    for group_id, place in sorted(machine.place_of.items()):
        groups.append(_planned(survivors, group_id, place.topic, place.number))
    return groups


def _planned(survivors: Survivors, group_id: GroupId, topic: str, partition: int) -> RecoveredGroup:
    found = survivors.replicas.get(group_id)
    return RecoveredGroup(
        group_id=group_id,
        topic=topic,
        partition=partition,
        replica=found[0] if found else None,
        losses=tuple(survivors.losses_of(group_id)) if found else ("no survivor has it: it will be empty",),
    )


async def recover(
    disk: Disk,
    survivors: Survivors,
    groups: list[RecoveredGroup],
    path: str,
    *,
    node_id: NodeId,
    node_name: str,
    cluster_name: str,
    now_seconds: float,
    settings: RecoverySettings,
    on_bytes: Callable[[int], None] = lambda size_bytes: None,
) -> ClusterId:
    """Make the data directory `path` of the first node of a new cluster; returns the cluster's id. Durable when this returns.

    Args:
        groups: as `plan` gives them.
        path: of a directory that is missing or empty. One in which a recovery was cut short has to be removed first.
        on_bytes: is called with the size of what was written.

    Raises:
        DataDirectoryError: there is something in the directory.
        DamagedData: a file of a survivor cannot be read any more.
        StorageFailed, DiskFull.
    """
    await disk.make_directory(path)
    lock = await disk.lock(join_path(path, LOCK_FILE))
    try:
        if others := [name for name in await disk.list_directory(path) if name != LOCK_FILE]:
            raise DataDirectoryError(
                f"{path}: has {', '.join(others[:3])} in it: a recovery needs an empty directory, or a new one"
            )
        for group in groups:
            if group.replica is not None:
                target = join_path(path, GROUPS_DIRECTORY, format_id(group.group_id))
                term = max(replica.term for replica in survivors.replicas[group.group_id])
                term = max(term, group.replica.usable_term)
                await disk.make_directory(join_path(target, LOG_DIRECTORY))
                if group.group_id == CATALOG_GROUP:
                    catalog = (await _catalog(disk, survivors)).snapshot()
                    await write_first_voters(disk, target, node_id)
                    await write_catalog(disk, target, commands_to(catalog, node_id, node_name), term, settings.logs)
                    continue
                manifest, machine = await _write_partition(disk, target, group.replica, settings, on_bytes)
                await _write_snapshot(disk, target, group.replica, manifest, machine, node_id)
                await write_hard_state(disk, target, term, group.replica.usable_index)
        return await write_node_file(disk, path, node_id, cluster_name, now_seconds)
    finally:
        lock.release()


async def _catalog(disk: Disk, survivors: Survivors) -> CatalogMachine:
    replicas = survivors.replicas.get(CATALOG_GROUP)
    if not replicas:
        raise DataDirectoryError(
            "none of the directories has the catalog, which says what the groups are: give those of more nodes"
        )
    machine = CatalogMachine()
    await _replay(disk, replicas[0], CatalogApplier(machine, lambda command, outcome: None), None)
    return machine


async def _write_partition(
    disk: Disk, directory: str, replica: SurvivingReplica, settings: RecoverySettings, on_bytes: Callable[[int], None]
) -> tuple[Manifest, bytes]:
    """The log, and the bytes of the machine at its end."""
    base = replica.report.base
    await _write_base(disk, directory, base)
    applier = PartitionApplier(PartitionMachine(settings.producer_window_batches, settings.producers_max), Watermark())
    async with open_segmented_log(disk, join_path(directory, LOG_DIRECTORY), settings.logs) as log:
        await _replay(disk, replica, applier, _Writer(log, on_bytes))
        await log.seal()
        manifest = log.manifest(replica.usable_index) or Manifest(base=base, segments=())
    return manifest, applier.snapshot()()


class _Writer:
    """Appends frames, many at a time."""

    def __init__(self, log: SegmentedLog, on_bytes: Callable[[int], None]) -> None:
        self._log = log
        self._on_bytes = on_bytes
        self._waiting: list[EntryFrame] = []
        self._waiting_bytes = 0

    async def add(self, frame: EntryFrame) -> None:
        self._waiting.append(frame)
        self._waiting_bytes += frame.size_bytes
        if self._waiting_bytes >= APPEND_BYTES:
            await self.flush()

    async def flush(self) -> None:
        if self._waiting:
            await self._log.append(self._waiting)
            self._on_bytes(self._waiting_bytes)
        self._waiting = []
        self._waiting_bytes = 0


async def _replay(disk: Disk, replica: SurvivingReplica, applier: Applier, writer: _Writer | None) -> None:
    """Bring the machine up to the last usable entry, and pass every entry of the log to `writer`."""
    base = replica.report.base

    def fit(name: SnapshotName) -> bool:
        return base.index <= name.index <= replica.usable_index

    found = (await find_snapshots(disk, replica.directory, fit, applier.decode_snapshot)).newest
    applied_index = 0
    if found is not None:
        found.restore()
        applied_index = found.metadata.index
    elif base.index:
        raise DamagedData(
            f"{replica.directory}: the log begins after entry {base.index}, and no snapshot is left of what was before: give the"
            " directories of other nodes that have the group",
            path=replica.directory,
        )
    last_index = base.index
    async with frames_of(disk, replica.directory, replica.usable_index) as frames:
        async for frame in frames:
            if frame.index > applied_index:
                applier.apply(frame)
            if writer is not None:
                await writer.add(frame)
            last_index = frame.index
    if writer is not None:
        await writer.flush()
    if last_index != replica.usable_index:
        raise DamagedData(f"{replica.directory}: could be read up to entry {replica.usable_index}, and now up to {last_index}")


async def _write_snapshot(
    disk: Disk, directory: str, replica: SurvivingReplica, manifest: Manifest, machine: bytes, node_id: NodeId
) -> None:
    metadata = SnapshotMetadata(index=replica.usable_index, term=replica.usable_term, configuration=only_voter(node_id))
    snapshot = SnapshotFile(metadata=metadata, manifest=manifest, machine=machine)
    await SnapshotStore(disk, directory, Found()).save(lambda: snapshot, manifest.base.index)


async def _write_base(disk: Disk, directory: str, base: LogBase) -> None:
    if base != LogBase():
        await write_atomically(disk, join_path(directory, LOG_DIRECTORY, BASE_FILE), encode_base(base))
