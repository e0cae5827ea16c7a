"""A backup made the data directory of a new cluster, offline.

The new cluster has one node at first, with a node id and a cluster id of its own, and holds every partition of the backup: the same
records at the same offsets, and what is known of producers. Further nodes join it as they join any cluster, and get their replicas
from it. So the size of the new cluster does not depend on that of the old one, and no node of the old one can take part in it.

```
<data-dir>/restoring        which backup this is, and the ids of the new node: until the end
<data-dir>/node.toml        written last: without it no node starts here
```

Each file is written beside its name, synced and renamed. A restore that was cut short goes on when it is run again: what is there
and whole is not written again.
"""

from collections.abc import Callable

import attrs
import msgspec

from trio_eventlog.backup.check import read_snapshot
from trio_eventlog.backup.files import BackupFiles
from trio_eventlog.backup.manifest import StoredFile, StoredGroup
from trio_eventlog.backup.new_cluster import (
    commands_to,
    only_voter,
    write_catalog,
    write_first_voters,
    write_hard_state,
    write_node_file,
)
from trio_eventlog.codec.catalog_snapshot import decode_catalog
from trio_eventlog.codec.snapshot_file import (
    SegmentRange,
    SnapshotFile,
    encode_snapshot_file,
)
from trio_eventlog.errors import BackupUnusable, CodecError, DataDirectoryError
from trio_eventlog.ids import CATALOG_GROUP, ClusterId, NodeId, format_id, parse_id
from trio_eventlog.machine.catalog import Command
from trio_eventlog.raft import SnapshotMetadata
from trio_eventlog.storage.data_directory import (
    GROUPS_DIRECTORY,
    HARD_STATE_FILE,
    LOCK_FILE,
    LOG_DIRECTORY,
)
from trio_eventlog.storage.disk import TEMPORARY_SUFFIX, Disk, join_path, read_whole, write_atomically
from trio_eventlog.storage.fetched_segments import SegmentPart, segment_terms
from trio_eventlog.storage.installing import finish_install, install
from trio_eventlog.storage.log_settings import LogSettings

RESTORING_FILE = "restoring"
RESTORING_BYTES_MAX = 64 * 1024


class _Restoring(msgspec.Struct, frozen=True, kw_only=True):
    """The file `restoring`."""

    manifest_sha256: str
    node_id: str
    node_name: str
    cluster_name: str


@attrs.frozen(slots=True, kw_only=True)
class Restored:
    """What a restore has made.

    Attributes:
        node_id, cluster_id: of the new node and the new cluster.
        groups: number of groups, the catalog included.
        records: number of records in them.
    """

    node_id: NodeId
    cluster_id: ClusterId
    cluster_name: str
    groups: int
    records: int


async def restore(
    disk: Disk,
    backup: BackupFiles,
    path: str,
    *,
    new_node_id: Callable[[], NodeId],
    node_name: str,
    cluster_name: str,
    now_seconds: float,
    log_settings: LogSettings,
    on_bytes: Callable[[int], None] = lambda size_bytes: None,
) -> Restored:
    """Make the data directory `path` from a backup; durable when this returns.

    Args:
        path: of a directory that is missing or empty, or in which a restore of the same backup was cut short.
        new_node_id: makes the id of the new node; it is not asked when a restore is continued.
        node_name: of the new node, for people; it may be started with another.
        cluster_name: "": as in the backup.
        now_seconds: the wall clock.
        log_settings: of the logs that are made.
        on_bytes: is called with the size of each piece that was written, or found to be there.

    Raises:
        DataDirectoryError: there is something else in the directory, or another process holds it. Nothing was changed.
        BackupUnusable: the backup is damaged. What was restored by then stays; no node starts with it.
        StorageFailed, DiskFull.
    """
    await disk.make_directory(path)
    lock = await disk.lock(join_path(path, LOCK_FILE))
    try:
        note = await _begin(disk, path, backup, new_node_id, node_name, cluster_name or backup.manifest.cluster_name)
        target = _Target(
            disk, join_path(path, GROUPS_DIRECTORY), NodeId(parse_id(note.node_id)), note.node_name, log_settings, on_bytes
        )
        for group in backup.manifest.groups:
            await _restore_group(target, backup, group)
        return await _finish(target, path, backup, note, now_seconds)
    finally:
        lock.release()


@attrs.frozen(slots=True)
class _Target:
    disk: Disk
    groups: str
    node_id: NodeId
    node_name: str
    log_settings: LogSettings
    on_bytes: Callable[[int], None]


async def _begin(
    disk: Disk, path: str, backup: BackupFiles, new_node_id: Callable[[], NodeId], node_name: str, cluster_name: str
) -> _Restoring:
    note_path = join_path(path, RESTORING_FILE)
    names = await disk.list_directory(path)
    if RESTORING_FILE not in names:
        expected = (LOCK_FILE, RESTORING_FILE + TEMPORARY_SUFFIX)
        if others := [name for name in names if name not in expected]:
            raise DataDirectoryError(f"{path}: has {', '.join(others[:3])} in it: a restore needs an empty directory, or a new one")
        note = _Restoring(
            manifest_sha256=backup.manifest_sha256,
            node_id=format_id(new_node_id()),
            node_name=node_name,
            cluster_name=cluster_name,
        )
        await write_atomically(disk, note_path, msgspec.json.encode(note))
        return note
    try:
        note = msgspec.json.decode(await read_whole(disk, note_path, RESTORING_BYTES_MAX), type=_Restoring)
        parse_id(note.node_id)
    except (msgspec.DecodeError, ValueError) as error:
        raise DataDirectoryError(f"{note_path}: damaged: {error}. Remove the directory, and restore again.") from error
    if note.manifest_sha256 != backup.manifest_sha256:
        raise DataDirectoryError(
            f"{path}: a restore of another backup was cut short here: remove the directory, or go on with that"
        )
    return note


async def _restore_group(target: _Target, backup: BackupFiles, group: StoredGroup) -> None:
    directory = join_path(target.groups, group.group_id)
    if await target.disk.exists(join_path(directory, HARD_STATE_FILE)):
        target.on_bytes(sum(file.size_bytes for file in group.files))
        return  # an earlier attempt has completed it
    await target.disk.make_directory(join_path(directory, LOG_DIRECTORY))
    await finish_install(target.disk, directory)  # that an earlier attempt has begun; then all of it is there
    stored = await read_snapshot(backup, group)
    if group.id == CATALOG_GROUP:
        await write_first_voters(target.disk, directory, target.node_id)
        await write_catalog(target.disk, directory, _commands_of(target, backup, stored), group.term, target.log_settings)
        target.on_bytes(group.snapshot.size_bytes)
        return
    for file, segment in zip(group.segments, stored.manifest.segments, strict=True):
        await _write_segment(target, backup, directory, file, segment)
    target.on_bytes(group.snapshot.size_bytes)
    metadata = SnapshotMetadata(index=group.index, term=group.term, configuration=only_voter(target.node_id))
    snapshot = attrs.evolve(stored, metadata=metadata)
    try:
        await install(target.disk, directory, snapshot, encode_snapshot_file(snapshot))
    except CodecError as error:
        raise BackupUnusable(f"{group.what}: {error}") from error
    await write_hard_state(target.disk, directory, group.term, group.index)


def _commands_of(target: _Target, backup: BackupFiles, stored: SnapshotFile) -> list[Command]:
    try:
        catalog = decode_catalog(stored.machine)
    except CodecError as error:
        raise BackupUnusable(f"the catalog: {error}") from error
    group_ids = {partition.group_id for topic in catalog.topics for partition in topic.partitions}
    # What is in the catalog and not in the backup was deleted while it was taken.
    left_out = group_ids - {group.id for group in backup.manifest.groups}
    return commands_to(catalog, target.node_id, target.node_name, left_out)


async def _write_segment(target: _Target, backup: BackupFiles, directory: str, file: StoredFile, segment: SegmentRange) -> None:
    """Beside the log, whole and with its footer; what an earlier attempt has written is read and kept."""
    log = join_path(directory, LOG_DIRECTORY)
    if await segment_terms(target.disk, log, segment) is not None:
        target.on_bytes(file.size_bytes)
        return
    async with SegmentPart(target.disk, log, segment, target.log_settings.index_interval_bytes) as part:
        target.on_bytes(part.found_bytes)
        async with backup.pieces(file, start=part.found_bytes) as pieces:
            while piece := await pieces.next():
                await part.write(piece)
                target.on_bytes(len(piece))
        try:
            await part.finish()
        except CodecError as error:
            raise BackupUnusable(f"{file.name}: {error}") from error


async def _finish(target: _Target, path: str, backup: BackupFiles, note: _Restoring, now_seconds: float) -> Restored:
    cluster_id = await write_node_file(target.disk, path, target.node_id, note.cluster_name, now_seconds)
    await target.disk.remove(join_path(path, RESTORING_FILE))
    await target.disk.sync_directory(path)
    groups = backup.manifest.groups
    return Restored(
        node_id=target.node_id,
        cluster_id=cluster_id,
        cluster_name=note.cluster_name,
        groups=len(groups),
        records=sum(group.end_offset - group.log_start_offset for group in groups),
    )
