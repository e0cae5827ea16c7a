"""Whether a backup is whole: every file, its SHA-256, and that what is in it belongs together."""

from collections.abc import Callable

from trio_eventlog.backup.arriving import ArrivingFrames
from trio_eventlog.backup.files import BackupFiles
from trio_eventlog.backup.manifest import StoredFile, StoredGroup
from trio_eventlog.codec.catalog_snapshot import decode_catalog
from trio_eventlog.codec.partition_snapshot import decode_partition
from trio_eventlog.codec.snapshot_file import FILE_BYTES_MAX, SegmentRange, SnapshotFile, decode_snapshot_file
from trio_eventlog.errors import BackupUnusable, CodecError
from trio_eventlog.ids import CATALOG_GROUP


async def check_backup(backup: BackupFiles, on_bytes: Callable[[int], None] = lambda size_bytes: None) -> list[str]:
    """What is wrong with a backup, a sentence each, naming the file; nothing when all of it is whole.

    Args:
        on_bytes: is called with the size of each piece that was read.
    """
    problems: list[str] = []
    for group in backup.manifest.groups:
        try:
            snapshot = await read_snapshot(backup, group)
            on_bytes(group.snapshot.size_bytes)
            _check_machine(group, snapshot)
        except BackupUnusable as error:
            problems.append(str(error))
            continue
        for file, segment in zip(group.segments, snapshot.manifest.segments, strict=group.id != CATALOG_GROUP):
            try:
                await _check_segment(backup, file, segment, on_bytes)
            except BackupUnusable as error:
                problems.append(str(error))
    return problems


async def read_snapshot(backup: BackupFiles, group: StoredGroup) -> SnapshotFile:
    """The snapshot of a group, checked against the manifest. Raises BackupUnusable."""
    name = group.snapshot.name
    if group.snapshot.size_bytes > FILE_BYTES_MAX:
        raise BackupUnusable(f"{name}: {group.snapshot.size_bytes} bytes, at most {FILE_BYTES_MAX} are possible")
    try:
        snapshot = decode_snapshot_file(await backup.read(group.snapshot))
    except CodecError as error:
        raise BackupUnusable(f"{name}: {error}") from error
    if (snapshot.index, snapshot.term) != (group.index, group.term):
        raise BackupUnusable(f"{name}: of entry {snapshot.index}, and the manifest says {group.index}")
    named = 0 if group.id == CATALOG_GROUP else len(snapshot.manifest.segments)
    if len(group.segments) != named:
        raise BackupUnusable(f"{name}: names {named} segments, and the backup has {len(group.segments)}")
    return snapshot


def _check_machine(group: StoredGroup, snapshot: SnapshotFile) -> None:
    try:
        if group.id == CATALOG_GROUP:
            decode_catalog(snapshot.machine)
        else:
            decode_partition(snapshot.machine)
    except CodecError as error:
        raise BackupUnusable(f"{group.snapshot.name}: {error}") from error


async def _check_segment(backup: BackupFiles, file: StoredFile, segment: SegmentRange, on_bytes: Callable[[int], None]) -> None:
    frames = ArrivingFrames(segment)
    try:
        async with backup.pieces(file) as pieces:
            while piece := await pieces.next():
                frames.add(piece)
                on_bytes(len(piece))
        frames.end()
    except CodecError as error:
        raise BackupUnusable(f"{file.name}: {error}") from error
