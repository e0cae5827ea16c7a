"""The disk of the machine: every call that may wait runs in a thread, bounded by a limiter.

Reads of what the page cache holds do not wait, and a thread hop (40 to 140 microseconds) costs more than the copy. Linux can
tell: `preadv` with RWF_NOWAIT copies what is cached and refuses the rest. So reads up to `INLINE_READ_BYTES_MAX` are tried in
the caller's thread first; what the cache does not hold is read by a thread, and the loop never waits for the medium.
"""

import errno
import fcntl
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import trio

from trio_eventlog.errors import DamagedData, DataDirectoryError, DiskFull, EventLogError, ResourceShortage, StorageFailed
from trio_eventlog.storage.disk import FILE_MODE, NO_ROOM, Buffer, Disk, parent_directory

DISK_THREADS_MAX = 8
"""Default of the number of threads one node's disk may use at a time, over all groups."""

THREAD_PATIENCE_SECONDS = 10.0
"""How long starting a thread is tried again, when the process may have no further one, before the operation fails."""
THREAD_RETRY_SECONDS = 0.05

INLINE_READ_BYTES_MAX = 1024 * 1024
"""Reads up to this size are tried without a thread first: copying so much takes about 100 microseconds."""

_IOV_MAX = 1024
_SHORT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))
"""The process or the machine is short of something; that says nothing about the disk."""
_NO_NOWAIT = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS))
_RWF_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)
_ZEROS = bytes(1 << 20)
_T = TypeVar("_T")


async def run_in_thread(work: Callable[[], _T], limiter: trio.CapacityLimiter) -> _T:
    """`work()` in one of Trio's worker threads. Checkpoints; once begun it runs to its end.

    What `trio.to_thread.run_sync` does, without what is not needed here (a copied context, calling back into Trio, a thread
    name): half of the loop's work per hop, about 17 microseconds, and an append is one hop.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    task = trio.lowlevel.current_task()
    try:
        limiter.acquire_on_behalf_of_nowait(task)
    except trio.WouldBlock:
        await limiter.acquire_on_behalf_of(task)
    try:
        token = trio.lowlevel.current_trio_token()

        def deliver(result: Any) -> None:
            token.run_sync_soon(trio.lowlevel.reschedule, task, result)

        give_up_at = trio.current_time() + THREAD_PATIENCE_SECONDS
        while True:
            try:
                trio.lowlevel.start_thread_soon(work, deliver)
                break
            except RuntimeError as error:
                # No further thread: a limit of processes, or memory. `work` has not begun.
                if trio.current_time() >= give_up_at:
                    raise ResourceShortage(f"{error} for the disk: raise the limit of processes (`ulimit -u`)") from error
                await trio.sleep(THREAD_RETRY_SECONDS)
        result: _T = await trio.lowlevel.wait_task_rescheduled(_never_abort)
        return result
    finally:
        limiter.release_on_behalf_of(task)


async def _run(work: Callable[[], _T], limiter: trio.CapacityLimiter | None) -> _T:
    """As `run_in_thread`; without a limiter, within `RealDisk.at_once`, in the thread that this is."""
    if limiter is None:
        return work()
    return await run_in_thread(work, limiter)


def _never_abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


class RealFile:
    """A file of `RealDisk`. Without a limiter it was opened within `RealDisk.at_once`, which has not returned yet."""

    def __init__(self, path: str, descriptor: int, limiter: trio.CapacityLimiter | None, *, fills_with_zeros: bool) -> None:
        """Use `RealDisk.open`."""
        self._path = path
        self._descriptor = descriptor
        self._limiter = limiter
        self._fills_with_zeros = fills_with_zeros
        self._size_bytes = os.fstat(descriptor).st_size
        self._failure: str = ""
        self._nowait = _RWF_NOWAIT
        self._readers = 0
        self._is_closed = False
        # fdatasync may leave out a size that shrank; the next sync is a full one.
        self._is_size_changed = False

    @property
    def path(self) -> str:
        return self._path

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    async def read_at(self, position: int, size_bytes: int) -> bytes | bytearray:
        self._check_usable()
        size_bytes = max(min(size_bytes, self._size_bytes - position), 0)
        buffer = bytearray(size_bytes)
        found = 0
        if self._limiter is not None and self._nowait and size_bytes <= INLINE_READ_BYTES_MAX:
            await trio.lowlevel.checkpoint()
            self._check_usable()
            try:
                found = os.preadv(self._descriptor, [buffer], position, self._nowait)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno not in _NO_NOWAIT:
                    raise self._damaged(error, position) from error
                self._nowait = 0
            if found == size_bytes:
                return buffer
        self._readers += 1
        try:
            with memoryview(buffer) as view:
                found += await self._in_thread_reading(position, lambda: self._read_into(view[found:], position + found))
        finally:
            self._readers -= 1
            self._close_unused()
        del buffer[found:]
        return buffer

    async def write_at(self, position: int, buffers: Sequence[Buffer]) -> None:
        await self._in_thread("write", lambda: self._write(position, buffers))

    async def sync(self) -> None:
        await self._in_thread("sync", self._sync)

    async def write_and_sync(self, position: int, buffers: Sequence[Buffer]) -> None:
        await self._in_thread("write or sync", lambda: self._write_and_sync(position, buffers))

    async def truncate(self, size_bytes: int) -> None:
        await self._in_thread("truncate", lambda: self._truncate(size_bytes))

    async def preallocate(self, size_bytes: int) -> None:
        await self._in_thread("preallocate", lambda: self._preallocate(size_bytes))

    async def close(self) -> None:
        self.close_nowait()
        if self._limiter is not None:
            await trio.lowlevel.checkpoint()

    def close_nowait(self) -> None:
        self._is_closed = True
        self._failure = self._failure or "it is closed"
        self._close_unused()

    def hand_out(self, limiter: trio.CapacityLimiter) -> None:
        """`RealDisk.at_once`, in which this file was opened, is over."""
        self._limiter = limiter

    def _close_unused(self) -> None:
        """Not under a reading thread: its descriptor may be that of another file a moment later."""
        if self._is_closed and not self._readers and self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            # Nothing is lost by a failing close: all that matters was synced before, with its error seen.
            with suppress(OSError):
                os.close(descriptor)

    def _check_usable(self) -> None:
        if self._failure:
            raise StorageFailed(f"{self._path}: refused, because {self._failure}")

    async def _in_thread(self, what: str, work: Callable[[], None]) -> None:
        """Run `work`; any failure of it is final for this file."""
        self._check_usable()
        try:
            await _run(work, self._limiter)
        except OSError as error:
            self._failure = f"an earlier {what} failed: {error}"
            raise StorageFailed(
                f"{self._path}: {what} failed: {error}. The node must stop; look at the disk and the kernel's log "
                "before it is started again."
            ) from error

    async def _in_thread_reading(self, position: int, work: Callable[[], int]) -> int:
        try:
            return await _run(work, self._limiter)
        except OSError as error:
            raise self._damaged(error, position) from error

    def _damaged(self, error: OSError, position: int) -> EventLogError:
        if error.errno in _SHORT:
            return ResourceShortage(f"{self._path}: cannot be read just now: {error}")
        return DamagedData(f"{self._path}: cannot be read at {position}: {error}", path=self._path, position=position)

    # What follows runs in a thread.

    def _read_into(self, view: memoryview, position: int) -> int:
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], position + done)
            if not count:
                break
            done += count
        return done

    def _write(self, position: int, buffers: Sequence[Buffer]) -> None:
        descriptor = self._descriptor
        for start in range(0, len(buffers), _IOV_MAX):
            part = buffers[start : start + _IOV_MAX]
            total = sum(map(len, part))
            count = os.pwritev(descriptor, part, position)
            position += count
            while count < total:  # rare: a short write
                total -= count
                part = _after(part, count)
                count = os.pwritev(descriptor, part, position)
                position += count
        self._size_bytes = max(self._size_bytes, position)

    def _sync(self) -> None:
        if self._is_size_changed:
            os.fsync(self._descriptor)
            self._is_size_changed = False
        else:
            os.fdatasync(self._descriptor)

    def _write_and_sync(self, position: int, buffers: Sequence[Buffer]) -> None:
        self._write(position, buffers)
        self._sync()

    def _truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._descriptor, size_bytes)
        self._size_bytes = size_bytes
        self._is_size_changed = True

    def _preallocate(self, size_bytes: int) -> None:
        start = self._size_bytes
        if size_bytes <= start:
            return
        try:
            os.posix_fallocate(self._descriptor, start, size_bytes - start)
            if self._fills_with_zeros:
                for position in range(start, size_bytes, len(_ZEROS)):
                    part = memoryview(_ZEROS)[: size_bytes - position]
                    if os.pwrite(self._descriptor, part, position) != len(part):
                        raise OSError(errno.EIO, "short write into room that was allocated")
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            os.ftruncate(self._descriptor, start)  # some file systems keep what they got hold of
            raise DiskFull(f"{self._path}: no room for {size_bytes - start} more bytes. Free some, or raise the quota.") from error
        self._size_bytes = size_bytes
        self._is_size_changed = True


class RealLock:
    """An `flock`: per open file, so that it holds against this process too, and ends with the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class RealDisk:
    """The file system of the machine.

    Args:
        limiter: bounds the threads at work at a time. None: `DISK_THREADS_MAX` of its own. There may be as many again at work on
            what `at_once` was given, which takes long: appends do not wait behind it.
        fills_with_zeros: preallocation writes zeros instead of only reserving room. Syncing an append then has no extent to
            mark as written (one journal commit less per append), for twice the bytes written. For disks where a sync costs
            much and bandwidth little.
    """

    def __init__(self, limiter: trio.CapacityLimiter | None = None, *, fills_with_zeros: bool = False) -> None:
        limiter = limiter or trio.CapacityLimiter(DISK_THREADS_MAX)
        self._limiter: trio.CapacityLimiter | None = limiter
        self._fills_with_zeros = fills_with_zeros
        self._at_once_limiter = trio.CapacityLimiter(limiter.total_tokens)
        self._opened: list[RealFile] | None = None
        """Within `at_once`: the files opened since it began."""

    async def make_directory(self, path: str) -> None:
        await self._in_thread(path, lambda: _make_directory(path))

    async def add_directory(self, path: str) -> None:
        await self._in_thread(path, lambda: _add_directory(path))

    async def list_directory(self, path: str) -> list[str]:
        return await self._in_thread(path, lambda: sorted(os.listdir(path)))

    async def exists(self, path: str) -> bool:
        return await self._in_thread(path, lambda: os.path.lexists(path))

    async def open(self, path: str, *, create: bool = False, writes: bool = True, mode: int = FILE_MODE) -> RealFile:
        flags = (os.O_RDWR if writes else os.O_RDONLY) | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        descriptor = await self._in_thread(path, lambda: os.open(path, flags, mode))
        file = RealFile(path, descriptor, self._limiter, fills_with_zeros=self._fills_with_zeros)
        if self._opened is not None:
            self._opened.append(file)
        return file

    async def rename(self, source: str, target: str) -> None:
        await self._in_thread(source, lambda: os.rename(source, target))

    async def remove(self, path: str) -> None:
        await self._in_thread(path, lambda: os.remove(path))

    async def sync_directory(self, path: str) -> None:
        await self._in_thread(path, lambda: _sync_directory(path))

    async def lock(self, path: str) -> RealLock:
        return await self._in_thread(path, lambda: _lock(path))

    async def free_bytes(self, path: str) -> int:
        statistics = await self._in_thread(path, lambda: os.statvfs(path))
        return statistics.f_bavail * statistics.f_frsize

    async def at_once(self, work: Callable[[Disk], Awaitable[_T]]) -> _T:
        limiter = self._limiter
        if limiter is None:
            return await work(self)  # within another `at_once`
        here = RealDisk(limiter, fills_with_zeros=self._fills_with_zeros)
        here._limiter = None
        opened: list[RealFile] = []
        here._opened = opened
        try:
            return await run_in_thread(lambda: _run_to_end(work(here)), self._at_once_limiter)
        finally:
            for file in opened:
                file.hand_out(limiter)

    async def _in_thread(self, path: str, work: Callable[[], _T]) -> _T:
        try:
            return await _run(work, self._limiter)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError):
            raise
        except OSError as error:
            raise _translated(error, path) from error


def _run_to_end(work: Awaitable[_T]) -> _T:
    """The result of what never waits for an event of Trio's."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    raise AssertionError("awaits something other than its disk")


def _translated(error: OSError, path: str) -> EventLogError | OSError:
    if error.errno == errno.EROFS:
        return PermissionError(error.errno, error.strerror, path)
    if error.errno in _SHORT:
        return ResourceShortage(f"{path}: {error}. Raise the limit (`ulimit -n`), or let less be open at the same time.")
    if error.errno in NO_ROOM:
        return DiskFull(f"{path}: {error}. Free some room, or raise the quota.")
    return StorageFailed(f"{path}: {error}")


def _make_directory(path: str) -> None:
    if os.path.isdir(path):
        return
    parent = parent_directory(path)
    _make_directory(parent)
    with suppress(FileExistsError):  # made by another task meanwhile, or a file, which the next line tells
        os.mkdir(path, 0o750)
    if not os.path.isdir(path):
        raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
    _sync_directory(parent)


def _add_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o750)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(path: str) -> RealLock:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise DataDirectoryError(
            f"{path}: held by another process (pid {holder}). Stop that one, or use another data directory."
        ) from error
    except OSError:
        os.close(descriptor)
        raise
    with suppress(OSError):  # only for the text of the error above; a full disk has no room for it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return RealLock(descriptor)


def _after(buffers: Sequence[Buffer], count: int) -> list[Buffer]:
    """What is left of `buffers` once `count` bytes of them are written."""
    rest: list[Buffer] = []
    for buffer in buffers:
        if count >= len(buffer):
            count -= len(buffer)
        else:
            rest.append(memoryview(buffer)[count:])
            count = 0
    return rest
