"""The disk as a Protocol: what storage asks of it, and the promises it relies on.

`RealDisk` (real_disk.py) keeps them with threads, `SimDisk` (testing/disk.py) without; one conformance suite runs on both.

Rules for every implementation:

* Paths are text with "/" between names. Nothing is durable before it is synced: bytes of a file by `File.sync` or
  `File.write_and_sync`, names in a directory (create, rename, remove) by `Disk.sync_directory`.
* An `async` method always checkpoints, also when it has nothing to do; a plain one never does and never blocks for long.
* An operation that has started runs to its end. Cancellation is delivered before it starts, or at the next checkpoint.
* Errors: a failed write or sync raises `StorageFailed`, and that file refuses everything but `close` from then on. A failed
  read raises `DamagedData` with path and position. No descriptors, memory or threads (EMFILE, ENFILE, ENOMEM) where something is
  opened or begun raises `ResourceShortage`; nothing has changed then, and it may be tried again. No room (`preallocate`, `open`,
  `make_directory`) raises `DiskFull`; nothing has changed then. A name that is missing, there already, of the wrong kind or
  forbidden raises the `OSError` subclass for that.
"""

import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from trio_eventlog.errors import DamagedData, DiskFull, ResourceShortage, StorageFailed

T = TypeVar("T")

Buffer = bytes | bytearray | memoryview
FILE_MODE = 0o640
"""Who may read a new file: the owner and the group, which operators may belong to."""


class File(Protocol):
    """An open file. One writer at a time; readers whenever they like."""

    @property
    def path(self) -> str: ...

    @property
    def size_bytes(self) -> int:
        """The size now, preallocated zeros included. Never checkpoints."""

    async def read_at(self, position: int, size_bytes: int) -> bytes | bytearray:
        """The bytes from `position`; fewer than `size_bytes` only where the file ends."""

    async def write_at(self, position: int, buffers: Sequence[Buffer]) -> None:
        """All buffers, one after the other, from `position`. Not durable before `sync`."""

    async def sync(self) -> None:
        """Everything written, truncated and preallocated so far is durable when this returns."""

    async def write_and_sync(self, position: int, buffers: Sequence[Buffer]) -> None:
        """`write_at` and `sync` in one step (on a real disk: one thread hop)."""

    async def truncate(self, size_bytes: int) -> None:
        """Cut or extend (with zeros) to `size_bytes`. Not durable before `sync`."""

    async def preallocate(self, size_bytes: int) -> None:
        """Make the file at least `size_bytes` long, zeros at the end, with room for them held on the disk.

        Writes below `size_bytes` no longer change the size, so that syncing them has no metadata of the size to write.
        Not durable before `sync`. Raises DiskFull when there is no room.
        """

    async def close(self) -> None:
        """Give the file back; a second time is fine. Does not sync. Never raises for a file that has failed."""

    def close_nowait(self) -> None:
        """`close` without a checkpoint: for cleaning up after an exception."""


class DiskLock(Protocol):
    """Held until released, or until the process ends."""

    def release(self) -> None:
        """Let others have it; a second time is fine. Never checkpoints."""


class Disk(Protocol):
    """A file system as storage sees it."""

    async def make_directory(self, path: str) -> None:
        """Create `path` and what is missing above it; fine when it is there. Raises NotADirectoryError or FileExistsError
        when a file is in the way. Each name it created is durable when this returns."""

    async def add_directory(self, path: str) -> None:
        """Create `path`, whose parent must be there (FileNotFoundError); fine when it is there itself. Not durable before
        `sync_directory` of its parent: one sync serves many directories. Raises NotADirectoryError or FileExistsError when a file
        is in the way."""

    async def list_directory(self, path: str) -> list[str]:
        """The names in `path`, sorted. Raises FileNotFoundError, NotADirectoryError."""

    async def exists(self, path: str) -> bool:
        """Whether there is anything of this name, be it a link to nowhere."""

    async def open(self, path: str, *, create: bool = False, writes: bool = True, mode: int = FILE_MODE) -> File:
        """Open for reading and, with `writes`, writing. With `create` the file must not be there yet (FileExistsError) and gets
        `mode`; without it must (FileNotFoundError). A new name is not durable before `sync_directory` of its directory."""

    async def rename(self, source: str, target: str) -> None:
        """Atomically put `source` in the place of `target`. Not durable before `sync_directory`."""

    async def remove(self, path: str) -> None:
        """Remove a file, not a directory (IsADirectoryError). Open files of it stay readable. Not durable before
        `sync_directory`."""

    async def sync_directory(self, path: str) -> None:
        """The names in `path` are durable when this returns."""

    async def lock(self, path: str) -> DiskLock:
        """Create the file `path` if need be and hold it alone. Raises DataDirectoryError, naming `path`, when it is held."""

    async def free_bytes(self, path: str) -> int:
        """Room left on the file system of `path`, for this process."""

    async def at_once(self, work: Callable[["Disk"], Awaitable[T]]) -> T:
        """The result of `work`, which is given a disk to do many operations on, one after the other, as one operation of this disk:
        on a real disk in one thread hop.

        `work` awaits nothing but the methods of the disk that it is given and of files that it opens there, uses nothing else of
        Trio, and shares no value that another task changes meanwhile. Files that it leaves open are files of this disk once
        `at_once` returns; when it raises, it closes them by `close_nowait` before. It may be run again after it raised
        ResourceShortage. A crash may come between any two of its operations.
        """


async def write_atomically(disk: Disk, path: str, data: Buffer, *, mode: int = FILE_MODE) -> None:
    """Put a small file in place so that a crash leaves the old content or the new, never a mixture.

    Written beside as `<path>.new`, synced, renamed over `path`, directory synced. Durable when this returns. Raises DiskFull,
    StorageFailed.
    """
    beside = path + TEMPORARY_SUFFIX
    if await disk.exists(beside):
        await disk.remove(beside)  # left by a crash in the middle of an earlier call
    file = await disk.open(beside, create=True, mode=mode)
    try:
        await file.preallocate(len(data))  # so that a full disk shows before anything is written
        await file.write_and_sync(0, [data])
    finally:
        await file.close()
    await disk.rename(beside, path)
    await disk.sync_directory(parent_directory(path))


async def open_present(disk: Disk, path: str) -> File:
    """Open a file whose name is known to be there.

    Raises:
        DamagedData: something else is there: a directory, a link to nowhere, a file that is not ours to open.
    """
    try:
        return await disk.open(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise DamagedData(
            f"{path}: cannot be opened: {error.strerror or error}. It has to be a file of this node: look what has taken its place,"
            " or restore it from a backup. Nothing was changed.",
            path=path,
        ) from error


async def read_whole(disk: Disk, path: str, max_bytes: int) -> bytes:
    """The content of a small file, at most `max_bytes + 1` of it, so that the caller can see that it is too long."""
    file = await disk.open(path, writes=False)
    try:
        return bytes(await file.read_at(0, max_bytes + 1))
    finally:
        await file.close()


async def remove_if_there(disk: Disk, path: str) -> None:
    """Remove a file that may be missing. As durable as `Disk.remove`."""
    if await disk.exists(path):
        await disk.remove(path)


def is_shortage(error: BaseException) -> bool:
    """The call failed for lack of descriptors, memory or room, and not because the disk is broken: it may succeed later."""
    if isinstance(error, DiskFull | ResourceShortage):
        return True
    cause = error.__cause__
    return isinstance(error, StorageFailed) and isinstance(cause, OSError) and cause.errno in NO_ROOM


def parent_directory(path: str) -> str:
    """The directory `path` is in."""
    head, _, _ = path.rstrip("/").rpartition("/")
    return head or ("/" if path.startswith("/") else ".")


def join_path(*parts: str) -> str:
    """The parts with one "/" between them."""
    return "/".join([parts[0].rstrip("/"), *parts[1:]]) if parts[0] != "/" else "/" + "/".join(parts[1:])


NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT))
TEMPORARY_SUFFIX = ".new"
