"""Putting a snapshot from another node in the place of a replica's log, while the replica is closed.

The file `installing` beside the log is the point of no return. It holds the whole snapshot, manifest included. Until it is durable,
the log is the old one, whole; from then on it is the new one, and the next opening of the replica finishes the
installation first, after any number of crashes: every step can be repeated. What has to be fetched lies beside the log by then,
durable (`fetched_segments`).
"""

from trio_eventlog.codec.segment import encode_base
from trio_eventlog.codec.snapshot_file import FILE_BYTES_MAX, Manifest, SnapshotFile, decode_snapshot_file
from trio_eventlog.errors import CodecError, DamagedData
from trio_eventlog.storage.data_directory import LOG_DIRECTORY
from trio_eventlog.storage.disk import Disk, join_path, read_whole, remove_if_there, write_atomically
from trio_eventlog.storage.fetched_segments import fetched_name, remove_fetched_segments, segment_terms, terms_in_file
from trio_eventlog.storage.log_recovery import BASE_FILE, segment_base_indexes
from trio_eventlog.storage.segment import INDEX_SUFFIX, SEGMENT_SUFFIX, segment_name
from trio_eventlog.storage.snapshots import SNAPSHOTS_DIRECTORY, SnapshotName, remove_snapshots

INSTALLING_FILE = "installing"


async def check_complete(disk: Disk, directory: str, snapshot: SnapshotFile) -> None:
    """Check that every segment of the manifest is in the group's `directory`, in the log or fetched, and that their terms follow.

    Raises:
        CodecError: something is missing, or they are not those of one log that ends with the snapshot's entry.
    """
    log = join_path(directory, LOG_DIRECTORY)
    term = snapshot.manifest.base.term
    for wanted in snapshot.manifest.segments:
        terms = await segment_terms(disk, log, wanted)
        if terms is None:
            raise CodecError(f"segment {wanted.base_index} is missing")
        if terms[0] < term:
            raise CodecError(f"segment {wanted.base_index} begins in term {terms[0]}, behind an entry of term {term}")
        term = terms[1]
    if (snapshot.manifest.last_index, term) != (snapshot.index, snapshot.term):
        raise CodecError(
            f"the segments end with entry {snapshot.manifest.last_index} of term {term}, the snapshot with {snapshot.index} of term"
            f" {snapshot.term}"
        )


async def install(disk: Disk, directory: str, snapshot: SnapshotFile, data: bytes) -> None:
    """Replace log and snapshots in the group's `directory`, durably. The replica is closed.

    Args:
        data: the bytes of the file that `snapshot` was decoded from.

    Raises:
        CodecError: see `check_complete`. Nothing was changed.
        DiskFull, ResourceShortage: nothing was changed, or it is finished by `finish_install`.
        StorageFailed.
    """
    await check_complete(disk, directory, snapshot)
    await write_atomically(disk, join_path(directory, INSTALLING_FILE), data)
    await finish_install(disk, directory)


async def finish_install(disk: Disk, directory: str) -> SnapshotName | None:
    """Finish an installation that has been begun in the group's `directory`; None when there is none. The replica is closed.

    Raises:
        DamagedData: what was durable is not there.
        StorageFailed, DiskFull, ResourceShortage.
    """
    path = join_path(directory, INSTALLING_FILE)
    if not await disk.exists(path):
        return None
    data = await read_whole(disk, path, FILE_BYTES_MAX)
    try:
        snapshot = decode_snapshot_file(data)
    except CodecError as error:
        raise DamagedData(f"{path}: {error}", path=path) from error
    await _replace_log(disk, join_path(directory, LOG_DIRECTORY), snapshot.manifest)
    # Those of the log before: they may be of entries that are not in this one.
    await remove_snapshots(disk, directory)
    name = SnapshotName(snapshot.index, snapshot.term)
    await disk.make_directory(join_path(directory, SNAPSHOTS_DIRECTORY))
    await write_atomically(disk, join_path(directory, SNAPSHOTS_DIRECTORY, name.file_name), data)
    await disk.remove(path)
    await disk.sync_directory(directory)
    return name


async def _replace_log(disk: Disk, log: str, manifest: Manifest) -> None:
    names = await disk.list_directory(log)
    wanted = {segment.base_index for segment in manifest.segments}
    for base_index in segment_base_indexes(names):
        if base_index not in wanted:
            await _remove_segment(disk, join_path(log, segment_name(base_index)))
    for segment in manifest.segments:
        fetched = join_path(log, fetched_name(segment))
        path = join_path(log, segment_name(segment.base_index))
        if await terms_in_file(disk, fetched, segment) is not None:
            await disk.rename(fetched, path)
            if await disk.exists(fetched + INDEX_SUFFIX):
                await disk.rename(fetched + INDEX_SUFFIX, path.removesuffix(SEGMENT_SUFFIX) + INDEX_SUFFIX)
        elif await terms_in_file(disk, path, segment) is None:
            raise DamagedData(
                f"{path}: neither this file nor {fetched} is the segment that a snapshot names which is being installed. Remove"
                " this node from its cluster and start it again with an empty data directory",
                path=path,
            )
    if manifest.base.index:
        await write_atomically(disk, join_path(log, BASE_FILE), encode_base(manifest.base))
    else:
        await remove_if_there(disk, join_path(log, BASE_FILE))
    await remove_fetched_segments(disk, log)
    await disk.sync_directory(log)


async def _remove_segment(disk: Disk, path: str) -> None:
    await remove_if_there(disk, path.removesuffix(SEGMENT_SUFFIX) + INDEX_SUFFIX)
    await disk.remove(path)
