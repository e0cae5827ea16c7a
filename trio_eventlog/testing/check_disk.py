"""The conformance suite of the `Disk` Protocol: what passes it can be trusted under storage.

Asserts, so that it runs without a test framework, like Trio's own stream checks.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints

from trio_eventlog.errors import DataDirectoryError, StorageFailed
from trio_eventlog.storage.disk import Disk, File, join_path, read_whole, write_atomically


async def check_disk(disk: Disk, directory: str) -> None:
    """Run all of it in `directory`, which is made and must not exist yet."""
    await _check_directories(disk, join_path(directory, "directories"))
    await _check_bytes(disk, join_path(directory, "bytes"))
    await _check_names(disk, join_path(directory, "names"))
    await _check_closing(disk, join_path(directory, "closing"))
    await _check_lock(disk, join_path(directory, "lock"))
    await _check_atomic_writes(disk, join_path(directory, "atomic"))
    await _check_cancellation(disk, join_path(directory, "cancellation"))
    await _check_at_once(disk, join_path(directory, "at_once"))
    with assert_checkpoints():
        assert await disk.free_bytes(directory) > 0


async def _check_directories(disk: Disk, directory: str) -> None:
    with assert_checkpoints():
        assert not await disk.exists(directory)
    await _raises(FileNotFoundError, lambda: disk.list_directory(directory))
    deep = join_path(directory, "a", "b")
    with assert_checkpoints():
        await disk.make_directory(deep)
    with assert_checkpoints():
        await disk.make_directory(deep)  # a second time is fine
    assert await disk.exists(deep)
    with assert_checkpoints():
        await disk.add_directory(join_path(directory, "0"))
    await disk.add_directory(join_path(directory, "0"))
    await _raises(FileNotFoundError, lambda: disk.add_directory(join_path(directory, "none", "deep")))
    async with _opened(disk, join_path(directory, "f"), create=True):
        pass
    with assert_checkpoints():
        assert await disk.list_directory(directory) == ["0", "a", "f"]
    await _raises(NotADirectoryError, lambda: disk.list_directory(join_path(directory, "f")))
    await _raises((NotADirectoryError, FileExistsError), lambda: disk.make_directory(join_path(directory, "f")))
    await _raises((NotADirectoryError, FileExistsError), lambda: disk.make_directory(join_path(directory, "f", "below")))
    await _raises((NotADirectoryError, FileExistsError), lambda: disk.add_directory(join_path(directory, "f")))
    await _raises(IsADirectoryError, lambda: disk.open(deep))
    await _raises(IsADirectoryError, lambda: disk.remove(deep))


async def _check_bytes(disk: Disk, directory: str) -> None:
    await disk.make_directory(directory)
    async with _opened(disk, join_path(directory, "f"), create=True) as file:
        assert file.path == join_path(directory, "f")
        with assert_no_checkpoints():
            assert file.size_bytes == 0
        with assert_checkpoints():
            assert await file.read_at(0, 10) == b""
        with assert_checkpoints():
            await file.write_at(0, [b"hello ", bytearray(b""), memoryview(b"world")])
        with assert_checkpoints():
            assert await file.read_at(0, 100) == b"hello world"
        assert await file.read_at(6, 3) == b"wor"
        assert await file.read_at(9, 100) == b"ld"
        assert await file.read_at(11, 1) == b""
        assert await file.read_at(1000, 1) == b""
        assert await file.read_at(0, 0) == b""
        await file.write_at(0, [b"J"])
        with assert_checkpoints():
            await file.write_and_sync(15, [b"!"])  # zeros in between
        assert await file.read_at(0, 100) == b"Jello world\0\0\0\0!"
        assert file.size_bytes == 16
        with assert_checkpoints():
            await file.truncate(5)
        assert (file.size_bytes, bytes(await file.read_at(0, 100))) == (5, b"Jello")
        await file.truncate(7)
        assert await file.read_at(0, 100) == b"Jello\0\0"
        with assert_checkpoints():
            await file.preallocate(5000)
        with assert_checkpoints():
            await file.sync()
        assert file.size_bytes == 5000
        await file.preallocate(100)  # never shorter
        assert file.size_bytes == 5000
        assert await file.read_at(0, 6000) == b"Jello".ljust(5000, b"\0")
        with assert_checkpoints():
            await file.write_and_sync(5, [])
        # More buffers than one system call takes, and more bytes than one read is tried without a thread for.
        await file.write_and_sync(5, [b"%d," % number for number in range(3000)])
        numbers = b"".join(b"%d," % number for number in range(3000))
        assert await file.read_at(5, len(numbers)) == numbers
        large = bytes(range(256)) * 10_000
        await file.write_and_sync(0, [large[:1_000_000], large[1_000_000:]])
        assert await file.read_at(0, len(large)) == large
        assert await file.read_at(1, len(large)) == large[1:]
    async with _opened(disk, join_path(directory, "f")) as file:
        assert file.size_bytes == len(large)
        assert await file.read_at(len(large) - 1, 10) == large[-1:]


async def _check_names(disk: Disk, directory: str) -> None:
    await disk.make_directory(directory)
    a, b = join_path(directory, "a"), join_path(directory, "b")
    await _raises(FileNotFoundError, lambda: disk.open(a))
    await _raises(FileNotFoundError, lambda: disk.remove(a))
    await _raises(FileNotFoundError, lambda: disk.rename(a, b))
    await _raises(FileNotFoundError, lambda: disk.open(join_path(directory, "none", "f"), create=True))
    for path, content in ((a, b"of a"), (b, b"of b")):
        async with _opened(disk, path, create=True) as file:
            await file.write_at(0, [content])
    await _raises(FileExistsError, lambda: disk.open(a, create=True))
    async with _opened(disk, b) as replaced:
        with assert_checkpoints():
            await disk.rename(a, b)
        with assert_checkpoints():
            await disk.sync_directory(directory)
        assert not await disk.exists(a)
        assert await replaced.read_at(0, 10) == b"of b"
    async with _opened(disk, b) as file:
        assert await file.read_at(0, 10) == b"of a"
        with assert_checkpoints():
            await disk.remove(b)
        assert not await disk.exists(b)
        assert await disk.list_directory(directory) == []
        assert await file.read_at(0, 10) == b"of a"  # open files outlive their names
        await file.write_and_sync(0, [b"OF"])
        assert await file.read_at(0, 10) == b"OF a"


async def _check_closing(disk: Disk, directory: str) -> None:
    await disk.make_directory(directory)
    file = await disk.open(join_path(directory, "f"), create=True)
    with assert_checkpoints():
        await file.close()
    with assert_checkpoints():
        await file.close()
    await _raises(StorageFailed, lambda: file.read_at(0, 1))
    await _raises(StorageFailed, lambda: file.write_at(0, [b"x"]))
    await _raises(StorageFailed, file.sync)
    await _raises(StorageFailed, lambda: file.write_and_sync(0, [b"x"]))
    await _raises(StorageFailed, lambda: file.truncate(0))
    await _raises(StorageFailed, lambda: file.preallocate(1))


async def _check_lock(disk: Disk, directory: str) -> None:
    await disk.make_directory(directory)
    path = join_path(directory, "LOCK")
    with assert_checkpoints():
        lock = await disk.lock(path)
    error = await _raises(DataDirectoryError, lambda: disk.lock(path))
    assert path in str(error)
    with assert_no_checkpoints():
        lock.release()
    again = await disk.lock(path)
    lock.release()  # a second time releases nothing of anybody else's
    await _raises(DataDirectoryError, lambda: disk.lock(path))
    again.release()


async def _check_atomic_writes(disk: Disk, directory: str) -> None:
    await disk.make_directory(directory)
    path = join_path(directory, "f")
    for content in (b"first", b"", b"third, longer"):
        await write_atomically(disk, path, content)
        assert await read_whole(disk, path, 100) == content
        assert await disk.list_directory(directory) == ["f"]
    async with _opened(disk, path + ".new", create=True):
        pass  # left by a crash
    await write_atomically(disk, path, b"fourth")
    assert await disk.list_directory(directory) == ["f"]
    assert await read_whole(disk, path, 3) == b"four"


async def _check_cancellation(disk: Disk, directory: str) -> None:
    await disk.make_directory(directory)
    async with _opened(disk, join_path(directory, "f"), create=True) as file:
        with trio.CancelScope() as scope:
            scope.cancel()
            await file.write_and_sync(0, [b"x"])
        assert scope.cancelled_caught
        assert await file.read_at(0, 1) == b""


async def _check_at_once(disk: Disk, directory: str) -> None:
    await disk.make_directory(directory)
    path = join_path(directory, "f")

    async def make(within: Disk) -> File:
        await within.add_directory(join_path(directory, "d"))
        await write_atomically(within, join_path(directory, "d", "small"), b"small")
        file = await within.open(path, create=True)
        await file.preallocate(100)
        await file.write_and_sync(0, [b"written"])
        assert await file.read_at(0, 7) == b"written"
        closed = await within.open(path)
        await closed.close()
        assert await within.list_directory(directory) == ["d", "f"]
        assert await within.at_once(lambda again: read_whole(again, path, 7)) == b"written\0"
        await within.sync_directory(directory)
        return file

    with assert_checkpoints():
        file = await disk.at_once(make)
    # From here on it is a file like any other.
    with assert_checkpoints():
        assert await file.read_at(0, 3) == b"wri"
    with assert_checkpoints():
        await file.write_and_sync(0, [b"W"])
    with assert_no_checkpoints():
        file.close_nowait()
    await _raises(StorageFailed, lambda: file.write_at(0, [b"x"]))
    await _raises(FileExistsError, lambda: disk.at_once(make))
    with trio.CancelScope() as scope:
        scope.cancel()
        await disk.at_once(lambda within: within.remove(path))
    assert scope.cancelled_caught
    assert await disk.exists(path)


@asynccontextmanager
async def _opened(disk: Disk, path: str, *, create: bool = False) -> AsyncIterator[File]:
    with assert_checkpoints():
        file = await disk.open(path, create=create)
    try:
        yield file
    finally:
        await file.close()


async def _raises(expected: type[Exception] | tuple[type[Exception], ...], call: Callable[[], Awaitable[object]]) -> Exception:
    try:
        await call()
    except expected as error:
        return error
    raise AssertionError(f"{expected} was not raised")
