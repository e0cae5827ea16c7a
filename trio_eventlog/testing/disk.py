"""A disk in memory that loses what was not synced when it crashes, and fails on request.

No threads: it runs under MockClock. Deterministic: all chance comes from the `random.Random` given to it.

What a crash does. Each file keeps the writes, truncations and preallocations since its last sync apart, in order, and each
directory the names created, renamed and removed. At a crash every one of them is drawn to be lost, kept or (writes) torn: a
torn write keeps any of its 512-byte sectors and loses the others, as a disk that reorders its queue may. Lost bytes read as
what was there before, zeros beyond the old end. Names are lost or kept one by one, those of directories with all that is in them.
`CrashMode.LOSE` loses all of it, `CrashMode.KEEP` loses nothing (a killed process: the kernel still writes everything).
"""

import enum
import errno
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import attrs
import trio

from trio_eventlog.errors import DamagedData, DataDirectoryError, DiskFull, ResourceShortage, StorageFailed
from trio_eventlog.storage.disk import FILE_MODE, Buffer, Disk, parent_directory
from trio_eventlog.testing.files import Change, CrashMode, Directory, FileTree, Inode
from trio_eventlog.testing.journal import Journal

__all__ = ["CrashMode", "DiskCrashed", "Fault", "Operation", "SimDisk", "SimDiskStatistics", "SimFile", "SimLock"]

T = TypeVar("T")


class DiskCrashed(StorageFailed):
    """The simulated machine went down under this call."""


class Operation(enum.Enum):
    """What a fault or a latency can be attached to."""

    READ = "read"
    WRITE = "write"
    SYNC = "sync"
    NAMES = "names"


@attrs.define(slots=True)
class SimDiskStatistics:
    """Counts since the disk was made.

    A `write_and_sync` counts as one write and one sync.
    """

    reads: int = 0
    writes: int = 0
    written_bytes: int = 0
    syncs: int = 0
    directory_syncs: int = 0


@attrs.define(slots=True, kw_only=True)
class Fault:
    """Makes calls fail with EIO.

    Attributes:
        operation: which kind of call.
        path_part: only files whose path contains this text.
        after: number of calls that succeed first.
        times: number of calls that fail then; None: all further ones.
    """

    operation: Operation
    path_part: str = ""
    after: int = 0
    times: int | None = None

    def strikes(self, operation: Operation, path: str) -> bool:
        if operation is not self.operation or self.path_part not in path or self.times == 0:
            return False
        if self.after:
            self.after -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class SimFile:
    """A file of `SimDisk`."""

    def __init__(self, disk: "SimDisk", path: str, inode: Inode) -> None:
        """Use `SimDisk.open`."""
        self._disk = disk
        self._path = path
        self._inode = inode
        self._failure = ""

    @property
    def path(self) -> str:
        return self._path

    @property
    def size_bytes(self) -> int:
        return len(self._inode.live)

    async def read_at(self, position: int, size_bytes: int) -> bytes:
        self._check_usable()
        await self._disk._pass_time(Operation.READ)
        self._check_usable()
        self._disk.statistics.reads += 1
        if self._disk._strikes(Operation.READ, self._path):
            cause = OSError(errno.EIO, "injected EIO")
            raise DamagedData(f"{self._path}: cannot be read at {position}: {cause}", path=self._path, position=position) from cause
        return bytes(self._inode.live[position : position + max(size_bytes, 0)])

    async def write_at(self, position: int, buffers: Sequence[Buffer]) -> None:
        await self._start(Operation.WRITE)
        self._write(position, buffers)

    async def sync(self) -> None:
        await self._start(Operation.SYNC)
        self._sync()

    async def write_and_sync(self, position: int, buffers: Sequence[Buffer]) -> None:
        await self._start(Operation.WRITE)
        self._write(position, buffers)
        # A crash may come between the two, so time passes; once begun the call runs to its end, as a thread would.
        with trio.CancelScope(shield=True):
            await self._start(Operation.SYNC)
        self._sync()

    async def truncate(self, size_bytes: int) -> None:
        await self._start(Operation.WRITE)
        self._inode.apply(Change(size_bytes, None))

    async def preallocate(self, size_bytes: int) -> None:
        await self._start(Operation.WRITE)
        if size_bytes > len(self._inode.live):
            if self._disk._free_bytes() < size_bytes - len(self._inode.live):
                raise DiskFull(f"{self._path}: no room for {size_bytes - len(self._inode.live)} more bytes (simulated)")
            self._inode.apply(Change(size_bytes, None))

    async def close(self) -> None:
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> None:
        self._failure = self._failure or "it is closed"

    # What tests look at.

    def durable_content(self) -> bytes:
        """What is left when everything unsynced is lost."""
        return bytes(self._inode.durable)

    def content(self) -> bytes:
        """What it reads as now."""
        return bytes(self._inode.live)

    def unsynced_from(self) -> int:
        """Where the first unsynced change begins (a new size: there); beyond everything when there is none."""
        return min((change.position for change in self._inode.pending), default=1 << 62)

    def is_named_durably(self) -> bool:
        """A crash leaves the file under its name."""
        directory = self._disk.tree.directory(parent_directory(self._path))
        return directory.durable.get(self._path.rpartition("/")[2]) is self._inode

    async def _start(self, operation: Operation) -> None:
        self._check_usable()
        self._disk._begin(operation, self._path)
        await self._disk._pass_time(operation)
        self._check_usable()
        if self._disk._strikes(operation, self._path):
            self._failure = f"an earlier {operation.value} failed"
            raise StorageFailed(f"{self._path}: {operation.value} failed: injected EIO")

    def _write(self, position: int, buffers: Sequence[Buffer]) -> None:
        data = b"".join(buffers)
        growth = position + len(data) - len(self._inode.live)
        if growth > 0 and self._disk._free_bytes() < growth:
            self._failure = "an earlier write failed"
            raise StorageFailed(f"{self._path}: write failed: no space left (simulated)")
        self._disk.statistics.writes += 1
        self._disk.statistics.written_bytes += len(data)
        if data:
            self._inode.apply(Change(position, data))

    def _sync(self) -> None:
        self._disk.statistics.syncs += 1
        self._inode.sync()

    def _check_usable(self) -> None:
        self._disk._check_up()
        if self._failure:
            raise StorageFailed(f"{self._path}: refused, because {self._failure}")


class SimLock:
    def __init__(self, held: set[str], path: str) -> None:
        self._held = held
        self._path = path
        held.add(path)

    def release(self) -> None:
        self._held.discard(self._path)
        self._held = set()


class SimDisk:
    """A simulated disk.

    Args:
        rng: decides what a crash keeps. Draws nothing until then.
        capacity_bytes: room for file contents; preallocated room counts.

    Attributes:
        latency_seconds: how long each kind of call takes (virtual time). Absent: only a checkpoint.
        faults: looked through for each call; add and remove as the story goes.
        has_descriptors: while False, what needs one raises ResourceShortage: `open`, `list_directory`, `sync_directory`, `lock`.
            It is a state of the process: after `crash` there are some again.
        statistics: counts.
        tree: the files; `paths`, `content`, `put`, `delete` and `flip_bit` are its methods.
        journals: of the indexes of aggregates (`SimEventIndexes`), by path.
    """

    def __init__(self, rng: random.Random, *, capacity_bytes: int = 1 << 40) -> None:
        self._rng = rng
        self.capacity_bytes = capacity_bytes
        self._former_capacity_bytes = capacity_bytes
        self._awaited: list[tuple[Operation, str, trio.Event]] = []
        self.latency_seconds: dict[Operation, float | Callable[[], float]] = {}
        self.faults: list[Fault] = []
        self.has_descriptors = True
        self.statistics = SimDiskStatistics()
        self.journals: dict[str, Journal] = {}
        self._hold(FileTree())
        self._locked: set[str] = set()
        self._is_crashed = False
        self._operations_left: int | None = None

    def _hold(self, tree: FileTree) -> None:
        """What tests read and put by hand are methods of the tree, and the disk's too."""
        self.tree = tree
        self.paths = tree.paths
        self.content = tree.content
        self.put = tree.put
        self.delete = tree.delete
        self.flip_bit = tree.flip_bit

    # The Protocol.

    async def make_directory(self, path: str) -> None:
        await self._start_names(path)
        self.tree.make_directory(path.rstrip("/") or "/")

    async def add_directory(self, path: str) -> None:
        await self._start_names(path)
        path = path.rstrip("/")
        if path.rpartition("/")[2] in self.tree.directory(parent_directory(path)).live:
            raise FileExistsError(f"a file: {path}")
        if path not in self.tree.directories:
            self.tree.directories[path] = Directory()
            self.tree.unsynced_directories.add(path)

    async def list_directory(self, path: str) -> list[str]:
        await self._start_names(path)
        path = path.rstrip("/") or "/"
        self._check_descriptors(path)
        directory = self.tree.directory(path)
        below = (name for name in self.tree.directories if name != path and name not in "/." and parent_directory(name) == path)
        return sorted({*directory.live, *(name.rpartition("/")[2] for name in below)})

    async def exists(self, path: str) -> bool:
        await self._start_names(path)
        return path.rstrip("/") in self.tree.directories or self.tree.find(path) is not None

    async def open(self, path: str, *, create: bool = False, writes: bool = True, mode: int = FILE_MODE) -> SimFile:
        await self._start_names(path)
        self._check_descriptors(path)
        directory, name = self.tree.directory(parent_directory(path)), path.rpartition("/")[2]
        if path in self.tree.directories:
            raise IsADirectoryError(f"a directory: {path}")
        inode = directory.live.get(name)
        if create:
            if inode is not None:
                raise FileExistsError(f"there already: {path}")
            inode = Inode()
            directory.apply([(name, inode)])
        elif inode is None:
            raise FileNotFoundError(f"no such file: {path}")
        return SimFile(self, path, inode)

    async def rename(self, source: str, target: str) -> None:
        await self._start_names(source)
        inode = self.tree.find(source)
        if inode is None:
            raise FileNotFoundError(f"no such file: {source}")
        former, later = (source.rpartition("/")[2], None), (target.rpartition("/")[2], inode)
        if parent_directory(target) == parent_directory(source):
            self.tree.directory(parent_directory(source)).apply([former, later])
        else:
            # A crash may keep one half: harsher than a journal, which keeps both or none.
            self.tree.directory(parent_directory(target)).apply([later])
            self.tree.directory(parent_directory(source)).apply([former])

    async def remove(self, path: str) -> None:
        await self._start_names(path)
        if path in self.tree.directories:
            raise IsADirectoryError(f"a directory: {path}")
        if self.tree.find(path) is None:
            raise FileNotFoundError(f"no such file: {path}")
        self.tree.directory(parent_directory(path)).apply([(path.rpartition("/")[2], None)])

    async def sync_directory(self, path: str) -> None:
        self._check_up()
        await self._pass_time(Operation.SYNC)
        self._check_up()
        self._check_descriptors(path)
        if self._strikes(Operation.SYNC, path):
            raise StorageFailed(f"{path}: sync failed: injected EIO")
        self.statistics.directory_syncs += 1
        path = path.rstrip("/") or "/"
        self.tree.directory(path).sync()
        self.tree.unsynced_directories = {added for added in self.tree.unsynced_directories if parent_directory(added) != path}

    async def lock(self, path: str) -> SimLock:
        await self._start_names(path)
        self._check_descriptors(path)
        if path in self._locked:
            raise DataDirectoryError(f"{path}: held by another process (simulated)")
        directory = self.tree.directory(parent_directory(path))
        if path.rpartition("/")[2] not in directory.live:
            directory.apply([(path.rpartition("/")[2], Inode())])
        return SimLock(self._locked, path)

    async def free_bytes(self, path: str) -> int:
        await self._start_names(path)
        return self._free_bytes()

    async def at_once(self, work: Callable[[Disk], Awaitable[T]]) -> T:
        await trio.lowlevel.checkpoint()
        with trio.CancelScope(shield=True):
            return await work(self)
        raise AssertionError("a shield swallows nothing")

    # What tests do to it.

    def crash(self, mode: CrashMode = CrashMode.DRAW) -> "SimDisk":
        """The machine goes down now. Returns the disk as it is found when it comes up again; this one and all of its files
        raise DiskCrashed from now on. Never checkpoints."""
        assert not self._is_crashed, "it went down before; use the disk that crash returned"
        self._is_crashed = True
        fresh = SimDisk(self._rng, capacity_bytes=self.capacity_bytes)
        fresh._former_capacity_bytes = self._former_capacity_bytes
        fresh.latency_seconds = dict(self.latency_seconds)
        fresh._hold(self.tree.after_crash(mode, self._rng))
        fresh.journals = {path: journal.after_crash(mode is CrashMode.KEEP) for path, journal in self.journals.items()}
        return fresh

    def image(self) -> "SimDisk":
        """A copy of all files as they read now, all of it durable: what `cp` makes beside a node that runs. Never checkpoints."""
        copy = SimDisk(random.Random(0), capacity_bytes=self.capacity_bytes)
        copy._former_capacity_bytes = self._former_capacity_bytes
        copy.latency_seconds = dict(self.latency_seconds)
        copy._hold(self.tree.image())
        return copy

    def cut_power_after(self, operations: int) -> None:
        """Let this number of further operations happen; all later ones raise DiskCrashed. Then call `crash`.

        A `write_and_sync` is two operations. With a count from 0 up a story can be cut at every place there is.
        """
        self._operations_left = operations

    @property
    def has_power(self) -> bool:
        """False once `cut_power_after` has struck, and after `crash`."""
        return not self._is_crashed and self._operations_left != 0

    def fill(self, free_bytes: int) -> None:
        """Others use the disk too: only so much is left, until `make_room`."""
        self.capacity_bytes += free_bytes - self._free_bytes()

    def make_room(self) -> None:
        """End what `fill` has done."""
        self.capacity_bytes = self._former_capacity_bytes

    async def wait_operation(self, operation: Operation, path_part: str = "") -> None:
        """Until a write or sync begins, on a file whose path contains the text. For ever, on a disk that has crashed."""
        event = trio.Event()
        item = (operation, path_part, event)
        self._awaited.append(item)
        try:
            await event.wait()
        finally:
            self._awaited.remove(item)

    # Inside.

    def _free_bytes(self) -> int:
        return self.capacity_bytes - self.tree.used_bytes()

    def _begin(self, operation: Operation, path: str) -> None:
        for awaited, path_part, event in self._awaited:
            if awaited is operation and path_part in path:
                event.set()

    def _strikes(self, operation: Operation, path: str) -> bool:
        return any(fault.strikes(operation, path) for fault in self.faults)

    def _check_up(self) -> None:
        if self._is_crashed:
            raise DiskCrashed("the simulated machine is down")

    def _check_descriptors(self, path: str) -> None:
        if not self.has_descriptors:
            raise ResourceShortage(f"{path}: no descriptors (simulated)")

    async def _start_names(self, path: str) -> None:
        self._check_up()
        await self._pass_time(Operation.NAMES)
        self._check_up()
        if self._strikes(Operation.NAMES, path):
            raise StorageFailed(f"{path}: injected EIO")

    async def _pass_time(self, operation: Operation) -> None:
        if self._operations_left == 0:
            raise DiskCrashed("the simulated power is cut")
        latency = self.latency_seconds.get(operation)
        if latency is None:
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(latency() if callable(latency) else latency)
        if self._operations_left is not None:
            if self._operations_left == 0:
                raise DiskCrashed("the simulated power is cut")
            self._operations_left -= 1
