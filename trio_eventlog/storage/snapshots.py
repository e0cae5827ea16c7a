"""The snapshots of one replica: files in `snapshots/`, named by term and index of the last entry that each covers.

```
groups/<group-id>/snapshots/<term>-<index>.snapshot     both with 20 digits
```

A snapshot is written beside its name, synced and renamed, so what is found by name was whole once. What a crash may leave is a
file with another ending, and snapshots that were to be removed; the next `save` removes them. One that is damaged later is passed
over for an older one. Kept are the newest, and the oldest that still fits the log, which stands in for it should it be damaged.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import attrs
import trio

from trio_eventlog.codec.segment import LogBase
from trio_eventlog.codec.snapshot_file import FILE_BYTES_MAX, Manifest, SnapshotFile, decode_snapshot_file, encode_snapshot_file
from trio_eventlog.errors import CodecError, DamagedData, NewerRelease
from trio_eventlog.raft import SnapshotMetadata
from trio_eventlog.storage.disk import Disk, join_path, read_whole, write_atomically

logger = logging.getLogger(__name__)

SNAPSHOTS_DIRECTORY = "snapshots"
SNAPSHOT_SUFFIX = ".snapshot"


@attrs.frozen(slots=True, order=True)
class SnapshotName:
    """A snapshot by the last entry that it covers. The newest is the greatest: snapshots cover committed entries only."""

    index: int
    term: int

    @property
    def file_name(self) -> str:
        """Of its file in the directory of snapshots."""
        return f"{self.term:020d}-{self.index:020d}{SNAPSHOT_SUFFIX}"


def parse_snapshot_name(name: str) -> SnapshotName | None:
    """The inverse of `SnapshotName.file_name`; None when it is no snapshot's name."""
    term, dash, index = name.removesuffix(SNAPSHOT_SUFFIX).partition("-")
    is_name = dash and all(len(part) == 20 and part.isascii() and part.isdigit() for part in (term, index))
    found = SnapshotName(int(index), int(term)) if is_name else None
    return found if found is not None and found.file_name == name else None


@attrs.frozen(slots=True)
class Readable:
    """A snapshot that a machine can be restored from, by calling `restore`."""

    metadata: SnapshotMetadata
    restore: Callable[[], None]


@attrs.frozen(slots=True, kw_only=True)
class Found:
    """What looking for a snapshot has found.

    Attributes:
        names: of those that may be good; the others are removed by the next `SnapshotStore.save`.
        newest: the newest one that is whole and fits, decoded; None when there is none.
        beyond: the newest one that is whole and covers an entry which the log does not hold any more.
        problems: why each of those that were passed over was, for people.
        newer_release: the text of one that only a newer release can read; "" when there is none.
    """

    names: tuple[SnapshotName, ...] = ()
    newest: Readable | None = None
    beyond: SnapshotName | None = None
    problems: tuple[str, ...] = ()
    newer_release: str = ""


class SnapshotStore:
    """The snapshots of an open replica. One `save` at a time.

    Args:
        directory: of the group.
        found: what `find_snapshots` has found in it.

    Attributes:
        slots: taken by who saves, over all replicas of a node.
        newest: the newest one that is durable; None when there is none.
        saved: number of snapshots written since this was opened.
    """

    def __init__(self, disk: Disk, directory: str, found: Found, slots: trio.CapacityLimiter | None = None) -> None:
        self.slots = slots or trio.CapacityLimiter(1)
        self._disk = disk
        self._directory = join_path(directory, SNAPSHOTS_DIRECTORY)
        self._names = list(found.names)
        self.newest: SnapshotMetadata | None = found.newest.metadata if found.newest is not None else None
        self.saved = 0

    @property
    def newest_index(self) -> int:
        """The last entry that the newest snapshot covers; 0 without one."""
        return self.newest.index if self.newest is not None else 0

    async def save(self, make: Callable[[], SnapshotFile], base_index: int) -> SnapshotMetadata:
        """Write a snapshot, durably, and remove those that are not needed any more.

        Args:
            make: the snapshot, newer than all others. It is called where the disk works (on a real one: in a thread), since
                encoding a large machine takes time; so it uses immutable values only.
            base_index: the entry before the first one of the log: snapshots of before do not fit any more.

        Raises:
            CodecError: it would be too large. Nothing was written.
            DiskFull, ResourceShortage: nothing was written; it may be tried again.
            StorageFailed.
        """
        metadata, names = await self._disk.at_once(partial(_save, self._directory, make, tuple(self._names), base_index))
        self._names = list(names)
        self.newest = metadata
        self.saved += 1
        return metadata

    async def forget_before(self, base: LogBase) -> None:
        """Have the newest snapshot name no segment up to the one that ends with `base`: they are about to be removed, and a
        node that fetches the segments it names must find them.

        Raises:
            DamagedData, NewerRelease: it cannot be read back.
            DiskFull, ResourceShortage: nothing was changed.
            StorageFailed.
        """
        if self.newest is not None:
            name = SnapshotName(self.newest.index, self.newest.term)
            await self._disk.at_once(partial(_forget_before, self._directory, name, base))

    async def load(self, name: SnapshotName) -> SnapshotFile:
        """Read one back. Raises FileNotFoundError when it was replaced meanwhile, DamagedData, NewerRelease."""
        return await self._disk.at_once(partial(_load, self._directory, name))


async def find_snapshots(
    disk: Disk,
    directory: str,
    fit: Callable[[SnapshotName], bool | None],
    decode_machine: Callable[[bytes], Callable[[], None]],
) -> Found:
    """The newest snapshot in the group's `directory` that is whole and fits the log. Removes nothing.

    Args:
        disk: read within `disk.at_once` or not.
        fit: whether a snapshot fits the log; None: it covers entries that the log does not hold.
        decode_machine: the machine's bytes, as a function that restores what they say. Raises NewerRelease, CodecError.
    """
    snapshots = join_path(directory, SNAPSHOTS_DIRECTORY)
    try:
        names = sorted(filter(None, map(parse_snapshot_name, await disk.list_directory(snapshots))), reverse=True)
    except FileNotFoundError:
        return Found()
    problems: list[str] = []
    beyond: SnapshotName | None = None
    newer_release = ""
    for position, name in enumerate(names):
        path = join_path(snapshots, name.file_name)
        fits = fit(name)
        if fits is False:
            problems.append(f"{path}: does not fit the log")
            continue
        try:
            snapshot = await _load(snapshots, name, disk)
            restore = decode_machine(snapshot.machine)
        except NewerRelease as error:
            newer_release = str(error)
            problems.append(f"{path}: {error}")
            continue
        except DamagedData as error:
            problems.append(str(error))
            continue
        except CodecError as error:
            problems.append(f"{path}: {error}")
            continue
        if fits is None:
            beyond = beyond or name
            problems.append(f"{path}: covers entries that the log does not hold")
            continue
        return Found(
            names=tuple(names[position:]),
            newest=Readable(snapshot.metadata, restore),
            beyond=beyond,
            problems=tuple(problems),
            newer_release=newer_release,
        )
    return Found(beyond=beyond, problems=tuple(problems), newer_release=newer_release)


async def remove_snapshots(disk: Disk, directory: str) -> None:
    """Remove all snapshots in the group's `directory`, durably: the log that they are of goes."""
    await remove_unfit_snapshots(disk, directory, Found())


async def remove_unfit_snapshots(disk: Disk, directory: str, found: Found) -> None:
    """Remove what `find_snapshots` has passed over, durably."""
    snapshots = join_path(directory, SNAPSHOTS_DIRECTORY)
    try:
        names = await disk.list_directory(snapshots)
    except FileNotFoundError:
        return
    kept = {name.file_name for name in found.names}
    for name in names:
        if name not in kept:
            await disk.remove(join_path(snapshots, name))
    await disk.sync_directory(snapshots)


async def _load(snapshots: str, name: SnapshotName, disk: Disk) -> SnapshotFile:
    path = join_path(snapshots, name.file_name)
    try:
        snapshot = decode_snapshot_file(await read_whole(disk, path, FILE_BYTES_MAX))
    except NewerRelease:
        raise
    except CodecError as error:
        raise DamagedData(f"{path}: {error}", path=path) from error
    if (snapshot.index, snapshot.term) != (name.index, name.term):
        raise DamagedData(f"{path}: holds the snapshot at entry {snapshot.index} of term {snapshot.term}", path=path)
    return snapshot


async def _save(
    snapshots: str, make: Callable[[], SnapshotFile], names: Iterable[SnapshotName], base_index: int, disk: Disk
) -> tuple[SnapshotMetadata, list[SnapshotName]]:
    snapshot = make()
    name = SnapshotName(snapshot.index, snapshot.term)
    data = encode_snapshot_file(snapshot)
    await disk.make_directory(snapshots)
    await write_atomically(disk, join_path(snapshots, name.file_name), data)
    # Only now that the new one is durable.
    kept = kept_names((*names, name), base_index)
    files = {other.file_name for other in kept}
    for other in await disk.list_directory(snapshots):
        if other not in files:
            with suppress(FileNotFoundError):
                await disk.remove(join_path(snapshots, other))
    return snapshot.metadata, kept


async def _forget_before(snapshots: str, name: SnapshotName, base: LogBase, disk: Disk) -> None:
    snapshot = await _load(snapshots, name, disk)
    if snapshot.manifest.base.index >= base.index:
        return
    segments = tuple(segment for segment in snapshot.manifest.segments if segment.base_index > base.index)
    snapshot = attrs.evolve(snapshot, manifest=Manifest(base=base, segments=segments))
    await write_atomically(disk, join_path(snapshots, name.file_name), encode_snapshot_file(snapshot))


def kept_names(names: Iterable[SnapshotName], base_index: int) -> list[SnapshotName]:
    """Of all, those that are kept, the oldest first: the newest, and the oldest that fits a log which begins after `base_index`."""
    fitting = sorted(name for name in set(names) if name.index >= base_index)
    return fitting[:1] + fitting[1:][-1:]
