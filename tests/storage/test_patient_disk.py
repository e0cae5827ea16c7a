"""A shortage of the process is no failure of the disk: it is waited out, told as what it is, and leaves the log usable."""

import errno
import os
import random
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_eventlog.codec.entry import EntryFrame, EntryKind, encode_entry
from trio_eventlog.errors import ResourceShortage
from trio_eventlog.storage import real_disk
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.patient_disk import PatienceSettings, PatientDisk
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.storage.segmented_log import open_segmented_log
from trio_eventlog.testing.check_disk import check_disk
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import SimDisk

SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def frame(index: int, size_bytes: int = 3000) -> EntryFrame:
    return encode_entry(term=1, index=index, base_offset=index - 1, record_count=1, kind=EntryKind.DATA, payload=bytes(size_bytes))


@pytest.mark.parametrize("number", SHORT)
@pytest.mark.parametrize("call", ["open", "sync_directory", "list_directory", "lock"])
async def test_a_shortage_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str) -> None:
    """What opens a descriptor says that there was none, and not that the disk failed."""
    disk = RealDisk()
    (tmp_path / "f").touch()

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(ResourceShortage, match=os.strerror(number)):
        await getattr(disk, call)(str(tmp_path / "f" if call in ("open", "lock") else tmp_path))


async def test_it_is_a_disk(autojump_clock: trio.testing.MockClock) -> None:
    """The suite of the Protocol."""
    await check_disk(PatientDisk(SimDisk(random.Random(1)), default(PatienceSettings)), "/checked")


async def test_a_shortage_that_passes_is_not_seen(autojump_clock: trio.testing.MockClock) -> None:
    """Whatever needs a descriptor is tried again, and others are asked to give theirs up, until it works."""
    inner = SimDisk(random.Random(1))
    relieved = 0

    def relieve() -> None:
        nonlocal relieved
        relieved += 1
        if relieved == 3:
            inner.has_descriptors = True

    disk = PatientDisk(inner, default(PatienceSettings), relieve)
    await disk.make_directory("data")
    inner.has_descriptors = False
    file = await disk.open("data/f", create=True)
    await file.write_and_sync(0, [b"x"])
    assert relieved == 3
    assert disk.shortages == 1


async def test_patience_ends(autojump_clock: trio.testing.MockClock) -> None:
    """At the limit the caller is told, and nothing was changed."""
    inner = SimDisk(random.Random(1))
    disk = PatientDisk(inner, default(PatienceSettings, shortage_patience_seconds=5.0, shortage_retry_seconds_max=0.5))
    await disk.make_directory("data")
    inner.has_descriptors = False
    began = trio.current_time()
    with pytest.raises(ResourceShortage):
        await disk.open("data/f", create=True)
    assert 5.0 <= trio.current_time() - began <= 5.5
    assert inner.paths() == []


@pytest.mark.parametrize("after_writes", range(1, 9))
async def test_a_log_goes_on_where_a_shortage_stopped_it(after_writes: int, autojump_clock: trio.testing.MockClock) -> None:
    """A roll that gets no descriptor, wherever in it: the same frames are appended again, and a restart finds all of them."""
    disk = SimDisk(random.Random(1))
    settings = default(LogSettings, segment_bytes=4096, preallocate_bytes=0)
    frames = [frame(index) for index in range(1, 10)]
    async with open_segmented_log(disk, "log", settings) as log:
        await log.append(frames[:1])
        short_from = disk.statistics.writes + after_writes
        at = 1
        failures = 0
        while at < len(frames):
            disk.has_descriptors = disk.statistics.writes < short_from
            try:
                await log.append(frames[at : at + 3])
            except ResourceShortage:
                failures += 1
                short_from = 1 << 30
                disk.has_descriptors = True
                await log.append(frames[at : at + 3])
            at += 3
        assert failures <= 1
        assert log.last_index == len(frames)
    async with open_segmented_log(disk.crash(), "log", settings) as log:
        assert [one.raw for one in await log.read(1, len(frames), 1 << 20)][:1] == [frames[0].raw]
        assert log.last_index == len(frames)


async def test_a_thread_that_cannot_be_started_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of processes: the write has not begun, so it may be tried again, and its file is well."""
    disk = RealDisk()
    file = await disk.open(str(tmp_path / "f"), create=True)
    start = trio.lowlevel.start_thread_soon
    refused = 0

    def refuse(*arguments: object) -> None:
        nonlocal refused
        if refused < 3:
            refused += 1
            raise RuntimeError("can't start new thread")
        start(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(real_disk, "THREAD_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", refuse)
    await file.write_and_sync(0, [b"there"])
    assert refused == 3
    monkeypatch.setattr(real_disk, "THREAD_PATIENCE_SECONDS", 0.0)
    refused = 0
    with pytest.raises(ResourceShortage):
        await file.write_and_sync(0, [b"later"])
    refused = 3
    await file.write_and_sync(0, [b"again"])
    await file.close()
    assert (tmp_path / "f").read_bytes() == b"again"
