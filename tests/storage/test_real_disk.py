"""What only the real disk has: system calls that do less than asked, fail, or would wait."""

import errno
import os
from pathlib import Path

import pytest
import trio

from trio_eventlog.errors import DamagedData, DataDirectoryError, DiskFull, StorageFailed
from trio_eventlog.storage.real_disk import RealDisk


async def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may take fewer bytes than offered; the rest follows at the right place."""
    real_pwritev = os.pwritev

    def short_pwritev(descriptor: int, buffers: list[bytes], position: int) -> int:
        return real_pwritev(descriptor, [b"".join(buffers)[:7]], position)

    monkeypatch.setattr(os, "pwritev", short_pwritev)
    file = await RealDisk().open(str(tmp_path / "f"), create=True)
    buffers = [bytes([number]) * number for number in range(40)]
    await file.write_and_sync(3, buffers)
    assert (tmp_path / "f").read_bytes() == b"\0\0\0" + b"".join(buffers)
    assert file.size_bytes == 3 + sum(range(40))
    await file.close()


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
async def test_a_failed_write_or_sync_is_never_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The kernel may have dropped the dirty pages: a second fsync that succeeds would prove nothing."""
    file = await RealDisk().open(str(tmp_path / "f"), create=True)
    calls = 0

    def fail(*_: object) -> int:
        nonlocal calls
        calls += 1
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(StorageFailed, match="Input/output error"):
            await file.write_and_sync(0, [b"x"])
        assert calls == 1
    with pytest.raises(StorageFailed, match="refused"):
        await file.write_and_sync(0, [b"x"])
    with pytest.raises(StorageFailed, match="refused"):
        await file.sync()
    await file.close()


async def test_reads_that_would_wait_go_to_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the page cache holds nothing, or only the beginning, the rest is read by a thread."""
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    loop_thread = trio.lowlevel.current_trio_token()
    real_preadv = os.preadv
    inline: list[int] = []
    threaded: list[int] = []

    def preadv(descriptor: int, buffers: list[memoryview], position: int, flags: int = 0) -> int:
        try:
            on_loop = trio.lowlevel.current_trio_token() is loop_thread
        except RuntimeError:
            on_loop = False
        if on_loop:
            assert flags
            inline.append(position)
            if cached_bytes == 0:
                raise BlockingIOError(errno.EAGAIN, "would wait")
            return real_preadv(descriptor, [memoryview(buffers[0])[:cached_bytes]], position)
        assert not flags
        threaded.append(position)
        return real_preadv(descriptor, buffers, position)

    monkeypatch.setattr(os, "preadv", preadv)
    file = await RealDisk().open(str(path))
    cached_bytes = 0
    assert await file.read_at(2, 5) == b"23456"
    cached_bytes = 3
    assert await file.read_at(2, 5) == b"23456"
    assert (inline, threaded) == ([2, 2], [2, 5])
    await file.close()


async def test_file_systems_without_nowait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some refuse the flag; that is asked once per file."""
    (tmp_path / "f").write_bytes(b"0123456789")
    real_preadv = os.preadv
    refused = 0

    def preadv(descriptor: int, buffers: list[memoryview], position: int, flags: int = 0) -> int:
        nonlocal refused
        if flags:
            refused += 1
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real_preadv(descriptor, buffers, position)

    monkeypatch.setattr(os, "preadv", preadv)
    file = await RealDisk().open(str(tmp_path / "f"))
    for _ in range(3):
        assert await file.read_at(2, 5) == b"23456"
    assert refused == 1
    await file.close()


async def test_a_failed_read_is_damage_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO on a read says which file and which byte."""
    (tmp_path / "f").write_bytes(b"0123456789")

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    file = await RealDisk().open(str(tmp_path / "f"))
    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(DamagedData) as caught:
        await file.read_at(4, 2)
    assert (caught.value.path, caught.value.position) == (str(tmp_path / "f"), 4)
    await file.close()


async def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preallocation without room leaves the file as it was, and usable."""

    def full(descriptor: int, position: int, size_bytes: int) -> None:
        os.ftruncate(descriptor, position + size_bytes // 2)  # as some file systems leave it
        raise OSError(errno.ENOSPC, "No space left on device")

    file = await RealDisk().open(str(tmp_path / "f"), create=True)
    await file.write_and_sync(0, [b"abc"])
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFull):
        await file.preallocate(1000)
    assert (tmp_path / "f").read_bytes() == b"abc"
    await file.write_and_sync(3, [b"def"])
    assert file.size_bytes == 6
    await file.close()


async def test_lock_names_the_holder(tmp_path: Path) -> None:
    """The error tells which process to stop; the lock ends with its holder's descriptor."""
    disk = RealDisk()
    lock = await disk.lock(str(tmp_path / "LOCK"))
    with pytest.raises(DataDirectoryError, match=f"pid {os.getpid()}"):
        await disk.lock(str(tmp_path / "LOCK"))
    lock.release()
    (await disk.lock(str(tmp_path / "LOCK"))).release()


async def test_threads_are_bounded_by_the_limiter(tmp_path: Path) -> None:
    """All hops go through the limiter handed in."""
    limiter = trio.CapacityLimiter(1)
    disk = RealDisk(limiter)
    file = await disk.open(str(tmp_path / "f"), create=True)
    await limiter.acquire_on_behalf_of("somebody else")
    with trio.move_on_after(0.01) as scope:
        await file.write_and_sync(0, [b"x"])
    assert scope.cancelled_caught
    limiter.release_on_behalf_of("somebody else")
    await file.write_and_sync(0, [b"x"])
    await file.close()
