"""The beginning of a log is removed, in whole segments: at any time, over crashes at any place, beside readers."""

import random

import pytest
import trio
import trio.testing
from log_frames import following, raw

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.errors import DamagedData, DiskFull, OffsetOutOfRange, StorageFailed
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.segmented_log import SegmentedLog, open_segmented_log
from trio_eventlog.storage.verify import verify_log
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, Fault, Operation, SimDisk

SETTINGS = default(LogSettings, segment_bytes=2000, preallocate_bytes=1024, index_interval_bytes=300, tail_cache_bytes=500)


def frames_of(count: int, rng: random.Random | None = None) -> list[EntryFrame]:
    return following([], count, term=1, payload_bytes_max=300)


async def read_all(log: SegmentedLog) -> list[bytes]:
    found: list[bytes] = []
    first = log.first_index
    while first + len(found) <= log.last_index:
        found += raw(await log.read(first + len(found), log.last_index, 1 << 20))
    return found


async def test_whole_segments_go_and_the_rest_stays() -> None:
    """Their files, too; and it is found so when the log is opened again, with nothing to scan but the active segment."""
    frames = frames_of(60)
    disk = SimDisk(random.Random(1))
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        await log.append(frames)
        ends = [base - 1 for base in sorted(int(path[5:25]) for path in disk.paths() if path.endswith(".log"))[1:]]
        await log.prefix.remove(ends[0] - 1)
        assert log.first_index == 1
        await log.prefix.remove(ends[2] + 1)
        assert log.first_index == ends[2] + 1
        base = frames[ends[2] - 1]
        assert (log.base.index, log.base.term, log.log_start_offset) == (base.index, base.term, base.end_offset)
        assert log.term(base.index) == base.term
        assert await read_all(log) == raw(frames[ends[2] :])
        with pytest.raises(IndexError):
            await log.read(ends[2], ends[2], 1)
        with pytest.raises(OffsetOutOfRange) as caught:
            await log.find_offset(base.end_offset - 1)
        assert caught.value.log_start_offset == base.end_offset
        assert log.manifest(ends[3]) is not None
        assert log.manifest(ends[1]) is None
    assert len([path for path in disk.paths() if path.endswith(".log")]) == len(ends) - 2
    disk = disk.crash(CrashMode.LOSE)
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        assert log.first_index == ends[2] + 1
        assert await read_all(log) == raw(frames[ends[2] :])
    report = await verify_log(disk, "/log")
    assert not report.problems


async def test_all_that_is_sealed_may_go() -> None:
    """The log is empty then, and the next entry begins a segment after the base."""
    frames = frames_of(20)
    disk = SimDisk(random.Random(1))
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        await log.append(frames)
        await log.prefix.remove(20)
        assert 1 < log.first_index <= 20  # the active segment stays
        await log.seal()
        await log.prefix.remove(20)
        assert (log.first_index, log.last_index, log.segment_count) == (21, 20, 0)
        assert log.last_term == frames[-1].term
        assert log.log_start_offset == log.log_end_offset == frames[-1].end_offset
    async with open_segmented_log(disk.crash(CrashMode.LOSE), "/log", SETTINGS) as log:
        assert (log.first_index, log.last_index) == (21, 20)
        more = following(frames, 5, term=2, payload_bytes_max=300)
        await log.append(more)
        assert await read_all(log) == raw(more)
        assert log.log_end_offset == more[-1].end_offset


async def test_what_is_hidden_is_not_readable_and_still_there() -> None:
    """Readers see the offset that they are shown; entries are there for followers until their segment goes."""
    frames = frames_of(40)
    async with open_segmented_log(SimDisk(random.Random(1)), "/log", SETTINGS) as log:
        await log.append(frames)
        offset = frames[20].base_offset
        assert log.prefix.last_index_hidden == 0
        log.prefix.hide_below(offset)
        log.prefix.hide_below(offset - 1)
        assert log.log_start_offset == offset
        with pytest.raises(OffsetOutOfRange):
            await log.find_offset(offset - 1)
        assert await log.find_offset(offset) >= 20
        assert await log.find_offset_at(0) == offset
        assert raw(await log.read(1, 1, 1)) == raw(frames[:1])
        hidden = log.prefix.last_index_hidden
        assert 0 < hidden <= 20
        await log.prefix.remove(hidden)
        assert log.first_index == hidden + 1
        assert log.log_start_offset == offset


@pytest.mark.parametrize("mode", list(CrashMode))
async def test_power_cut_at_every_operation(mode: CrashMode, autojump_clock: trio.testing.MockClock) -> None:
    """The log begins where it did, or where it was to begin; nothing behind that is gone, and appends go on."""
    frames = frames_of(60)
    cuts = 0
    for operations in range(10_000):
        disk = SimDisk(random.Random(operations))
        async with open_segmented_log(disk, "/log", SETTINGS) as log:
            await log.append(frames[:40])
        disk.cut_power_after(operations)
        removed = 0
        try:
            async with open_segmented_log(disk, "/log", SETTINGS) as log:
                for index in (12, 31):
                    await log.prefix.remove(index)
                    removed = log.base.index
                    await log.append(frames[log.last_index : log.last_index + 5])
                await log.seal()
                await log.prefix.remove(log.last_index)
            break
        except DiskCrashed:
            cuts += 1
        disk = disk.crash(mode)
        async with open_segmented_log(disk, "/log", SETTINGS) as log:
            assert log.first_index > removed
            assert log.last_index >= 40
            assert await read_all(log) == raw(frames[log.base.index : log.last_index])
            await log.append(frames[log.last_index :])
            assert await read_all(log) == raw(frames[log.base.index :])
        names = sorted(path for path in disk.paths() if path.endswith(".log"))
        assert all(int(name[5:25]) > log.base.index for name in names)
    assert cuts > 30


async def test_a_segment_that_goes_on_after_the_base_is_not_taken_for_removed() -> None:
    """No removal leaves such a thing, so something else has happened: it is said, and nothing is removed."""
    disk = SimDisk(random.Random(1))
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        await log.append(frames_of(60))
        await log.prefix.remove(30)
        await log.seal()
        await log.prefix.remove(60)
        assert log.segment_count == 0
        newest = disk.content("/log/base")
    other = SimDisk(random.Random(1))
    async with open_segmented_log(other, "/log", default(LogSettings)) as log:
        await log.append(following([], 70, term=1, payload_bytes_max=300))
        await log.seal()
    other.put("/log/base", newest)
    paths = other.paths()
    with pytest.raises(DamagedData):
        async with open_segmented_log(other, "/log", SETTINGS):
            pass
    assert other.paths() == paths


async def test_readers_beside_a_removal(autojump_clock: trio.testing.MockClock) -> None:
    """Each reader gets what it asked for, or is told that it is gone; none gets anything else, and none hangs."""
    frames = frames_of(80)
    disk = SimDisk(random.Random(1))
    answers = 0
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        await log.append(frames)
        disk.latency_seconds = {Operation.READ: 0.01, Operation.NAMES: 0.003, Operation.SYNC: 0.005}

        async def read(seed: int) -> None:
            nonlocal answers
            rng = random.Random(seed)
            for _ in range(40):
                index = rng.randint(1, 80)
                try:
                    assert raw(await log.read(index, 80, 1000))[0] == frames[index - 1].raw
                    offset = frames[index - 1].base_offset
                    if frames[index - 1].record_count:
                        assert await log.find_offset(offset) == index
                    answers += 1
                except IndexError:
                    assert index <= log.base.index
                except OffsetOutOfRange:
                    assert index <= log.base.index

        async with trio.open_nursery() as nursery:
            for seed in range(6):
                nursery.start_soon(read, seed)
            for index in (10, 25, 40, 60):
                await trio.sleep(0.1)
                await log.prefix.remove(index)
        assert log.base.index > 40
    assert answers > 20


async def test_a_full_disk_changes_nothing() -> None:
    """With room again it is done by the next call."""
    disk = SimDisk(random.Random(1))
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        await log.append(frames_of(60))
        disk.fill(0)
        with pytest.raises(DiskFull):
            await log.prefix.remove(40)
        assert log.first_index == 1
        disk.make_room()
        await log.prefix.remove(40)
        assert log.base.index > 20
        names = sorted(path for path in disk.paths() if path.endswith(".log"))
        assert int(names[0][5:25]) == log.first_index


async def test_a_failed_write_of_the_base_changes_nothing() -> None:
    """The error is the disk's; the entries are all there."""
    frames = frames_of(60)
    disk = SimDisk(random.Random(1))
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        await log.append(frames)
        disk.faults.append(Fault(operation=Operation.SYNC, path_part="base", times=1))
        with pytest.raises(StorageFailed, match="EIO"):
            await log.prefix.remove(40)
        assert log.first_index == 1
        assert await read_all(log) == raw(frames)
