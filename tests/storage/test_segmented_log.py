"""The segmented log: appending, reading, rolling, cutting, and each of its errors."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from log_frames import following, make_frames, raw
from trio.testing import MockClock

from trio_eventlog.codec.entry import EntryFrame, EntryKind, decode_entries, encode_entry
from trio_eventlog.codec.segment import LogBase, encode_base
from trio_eventlog.errors import CodecError, DamagedData, DiskFull, OffsetOutOfRange, SettingsError, StorageFailed
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.storage.sealed_segments import SealedSegments
from trio_eventlog.storage.segment import segment_name
from trio_eventlog.storage.segmented_log import SegmentedLog, open_segmented_log
from trio_eventlog.storage.verify import verify_log
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import CrashMode, Fault, Operation, SimDisk, SimFile

SETTINGS = default(
    LogSettings,
    segment_bytes=3000,
    preallocate_bytes=1024,
    index_interval_bytes=400,
    tail_cache_bytes=9000,
)
LARGE = default(LogSettings, preallocate_bytes=64 * 1024)
ALL = 1 << 30


def new_disk(seed: int = 0, capacity_bytes: int = 1 << 30) -> SimDisk:
    return SimDisk(random.Random(seed), capacity_bytes=capacity_bytes)


async def fill(disk: SimDisk, frames: Sequence[EntryFrame], settings: LogSettings = SETTINGS, size: int = 5) -> None:
    async with open_segmented_log(disk, "/log", settings) as log:
        for start in range(0, len(frames), size):
            await log.append(frames[start : start + size])


async def read_all(log: SegmentedLog) -> list[bytes]:
    found: list[bytes] = []
    index = log.first_index
    while index <= log.last_index:
        found += raw(await log.read(index, log.last_index, 1000))
        index = log.first_index + len(found)
    return found


def segment_path(index: int) -> str:
    return f"/log/{segment_name(index)}"


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(LogSettings)])
def test_settings_are_checked(name: str) -> None:
    """Each has a least value, and the error names it."""
    with pytest.raises(SettingsError, match=f"{name} is -1"):
        default(LogSettings, **{name: -1})


async def test_an_empty_log() -> None:
    """Nothing before, nothing in it, nothing to read."""
    async with open_segmented_log(new_disk(), "/some/log", SETTINGS) as log:
        assert (log.first_index, log.last_index, log.last_term, log.staged_last_index) == (1, 0, 0, 0)
        assert (log.log_start_offset, log.log_end_offset, log.size_bytes, log.segment_count) == (0, 0, 0, 0)
        assert log.term(0) == 0
        for index in (-1, 1):
            with pytest.raises(IndexError):
                log.term(index)
        with pytest.raises(IndexError):
            await log.read(1, 1, ALL)
        with pytest.raises(OffsetOutOfRange):
            await log.find_offset(0)
        assert await log.find_timestamp(0) == 1
        await log.append([])


async def test_what_was_appended_is_read_before_and_after_reopening() -> None:
    """Over several segments, from memory and from the disk, decoded and raw, one entry and many."""
    disk = new_disk()
    frames = make_frames(100)
    await fill(disk, frames)
    for _ in range(2):
        async with open_segmented_log(disk, "/log", SETTINGS) as log:
            assert (log.first_index, log.last_index, log.segment_count > 3) == (1, 100, True)
            assert (log.log_start_offset, log.log_end_offset) == (0, frames[-1].end_offset)
            assert log.size_bytes == sum(frame.size_bytes for frame in frames)
            assert log.recovery.torn_bytes == 0
            assert await read_all(log) == raw(frames)
            for index in range(1, 101):
                assert raw(await log.read(index, index, 0)) == raw(frames[index - 1 : index])


@pytest.mark.parametrize("fills_with_zeros", [False, True])
async def test_on_the_real_disk(tmp_path: Path, fills_with_zeros: bool) -> None:
    """Appends, rolls, a replaced suffix, reads by several tasks, reopening: as on the simulated one."""
    disk = RealDisk(trio.CapacityLimiter(2), fills_with_zeros=fills_with_zeros)
    directory = str(tmp_path / "log")
    old = make_frames(100)
    new = following(old[:40], 50, term=2, payload_bytes_max=2000)
    expected = old[:40] + new

    async def read_here_and_there(log: SegmentedLog, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(50):
            index = rng.randint(1, 90)
            got = await log.read(index, 90, rng.choice((0, 1000, ALL)))
            assert raw(got) == raw(expected[index - 1 : index - 1 + len(got)])
            sent = await log.read_raw(index, 90, 3000)
            assert b"".join(sent.buffers) == b"".join(raw(expected[index - 1 : sent.last_index]))

    async with open_segmented_log(disk, directory, SETTINGS) as log:
        for start in range(0, 100, 5):
            await log.append(old[start : start + 5])
        await log.append(new[:20])
        await log.append(new[20:])
        async with trio.open_nursery() as nursery:
            for seed in range(3):
                nursery.start_soon(read_here_and_there, log, seed)
    async with open_segmented_log(disk, directory, SETTINGS) as log:
        assert await read_all(log) == raw(expected)
        assert (log.recovery.torn_bytes, log.rebuilt_indexes) == (0, 0)
        assert (await verify_log(disk, directory)).problems == ()
    with (tmp_path / "log" / segment_name(1)).open("r+b") as file:
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))
    async with open_segmented_log(disk, directory, SETTINGS) as log:
        with pytest.raises(DamagedData):
            await read_all(log)


async def test_reads_are_cut_to_fit() -> None:
    """At least one frame, at most `max_bytes` of them, never across a segment's end, raw and decoded alike; and the bound given
    beforehand is never larger than what then fits."""
    disk = new_disk()
    frames = make_frames(60)
    await fill(disk, frames)
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        for first in range(1, 61):
            for last in (first, min(first + 3, 60), 60):
                for max_bytes in (0, 150, 700, ALL):
                    got = await log.read(first, last, max_bytes)
                    assert raw(got) == raw(frames[first - 1 : first - 1 + len(got)])
                    assert len(got) == 1 or sum(frame.size_bytes for frame in got) <= max_bytes
                    following_frame = frames[got[-1].index] if got[-1].index < last else None
                    assert (
                        following_frame is None
                        or sum(frame.size_bytes for frame in got) + following_frame.size_bytes > max_bytes
                        or await disk.exists(segment_path(following_frame.index))
                    )
                    sent = await log.read_raw(first, last, max_bytes)
                    assert (sent.first_index, sent.last_index) == (first, got[-1].index)
                    assert b"".join(sent.buffers) == b"".join(raw(got))
                    assert sent.size_bytes == sum(frame.size_bytes for frame in got)
                    within = log.last_index_within(first, last, max_bytes)
                    assert first <= within <= last
                    assert within == first or sum(frame.size_bytes for frame in frames[first - 1 : within]) <= max_bytes


@pytest.mark.parametrize("tail_cache_bytes", [0, 1 << 20])
async def test_reads_backwards_cover_the_log(tail_cache_bytes: int) -> None:
    """Each ends with the entry asked for and begins where the sparse index has a place, within a segment and about the size."""
    disk = new_disk()
    frames = make_frames(80)
    settings = default(
        LogSettings, segment_bytes=3000, index_interval_bytes=400, tail_cache_bytes=tail_cache_bytes, preallocate_bytes=1024
    )
    await fill(disk, frames, settings)
    async with open_segmented_log(disk, "/log", settings) as log:
        for max_bytes in (0, 900, ALL):
            last = 80
            while last:
                found = await log.read_raw_before(last, max_bytes)
                assert found.last_index == last
                assert b"".join(found.buffers) == b"".join(raw(frames[found.first_index - 1 : last]))
                # A block of the sparse index is read as a whole: up to its interval and one frame.
                block_bytes = 400 + max(frame.size_bytes for frame in frames)
                assert found.size_bytes <= max(max_bytes, block_bytes)
                assert max_bytes < ALL or await disk.exists(segment_path(found.first_index))
                last = found.first_index - 1
        for beyond in (0, 81):
            with pytest.raises(IndexError):
                await log.read_raw_before(beyond, ALL)


async def test_last_index_within_is_useful_below_the_cache() -> None:
    """Once a segment is loaded its sparse index answers, to within its interval."""
    disk = new_disk()
    frames = make_frames(200)
    settings = default(LogSettings, index_interval_bytes=400, tail_cache_bytes=0, preallocate_bytes=1024)
    await fill(disk, frames, settings)
    async with open_segmented_log(disk, "/log", settings) as log:
        for first in range(1, 150):
            within = log.last_index_within(first, 200, 5000)
            size_bytes = sum(frame.size_bytes for frame in frames[first - 1 : within])
            assert 5000 - 3 * 400 - 300 < size_bytes <= 5000
        assert log.last_index_within(190, 200, ALL) == 200
        assert log.last_index_within(190, 195, ALL) == 195


async def test_offsets_and_timestamps() -> None:
    """Every offset is found in its entry, every timestamp at the first entry that reaches it; outside is an error with the ends."""
    disk = new_disk()
    frames = make_frames(80)
    await fill(disk, frames)
    owners = {offset: frame.index for frame in frames for offset in range(frame.base_offset, frame.end_offset)}
    for settings in (SETTINGS, LARGE):  # without the entries in the tail cache, and (after a first read) with some
        async with open_segmented_log(disk, "/log", settings) as log:
            for offset, index in owners.items():
                assert await log.find_offset(offset) == index
            for timestamp_ns in range(0, 820, 3):
                expected = next((f.index for f in frames if f.record_count and f.last_timestamp_ns >= timestamp_ns), 81)
                assert await log.find_timestamp(timestamp_ns) == expected
            for offset in (-1, len(owners)):
                with pytest.raises(OffsetOutOfRange) as caught:
                    await log.find_offset(offset)
                assert (caught.value.log_start_offset, caught.value.high_watermark) == (0, len(owners))


async def test_timestamps_of_clocks_that_disagree() -> None:
    """Producers' clocks may go back: still the first entry at or after the time asked for."""
    rng = random.Random(4)
    frames: list[EntryFrame] = []
    for index in range(1, 101):
        timestamp_ns = rng.randint(-50, 1000)
        frames.append(
            encode_entry(
                EntryKind.DATA,
                term=1,
                index=index,
                base_offset=index - 1,
                record_count=1,
                last_timestamp_ns=timestamp_ns,
                payload=bytes(100),
            )
        )
    disk = new_disk()
    await fill(disk, frames)
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        for timestamp_ns in range(-60, 1010, 7):
            expected = next((frame.index for frame in frames if frame.last_timestamp_ns >= timestamp_ns), 101)
            assert await log.find_timestamp(timestamp_ns) == expected


async def test_reading_by_offset() -> None:
    """From the entry that holds the offset, up to entries that begin below the end."""
    disk = new_disk()
    frames = make_frames(60)
    await fill(disk, frames)
    end = frames[-1].end_offset
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        for offset in range(end):
            for end_offset in (offset + 1, offset + 6, end, end + 100):
                got = await log.read_by_offset(offset, end_offset, 600)
                assert got[0].base_offset <= offset < got[0].end_offset
                assert raw(got) == raw(frames[got[0].index - 1 : got[-1].index])
                assert all(frame.base_offset < end_offset for frame in got)
        for offset, end_offset in ((end, end + 1), (3, 3), (3, 2)):
            with pytest.raises(OffsetOutOfRange):
                await log.read_by_offset(offset, end_offset, 600)


async def test_terms() -> None:
    """By index, from memory, also after reopening; outside an error that says what is held."""
    disk = new_disk()
    frames: list[EntryFrame] = []
    for term in (1, 1, 4, 4, 9):
        frames += following(frames, 20, term=term)
    await fill(disk, frames)
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        assert [log.term(index) for index in range(101)] == [0] + [frame.term for frame in frames]
        assert log.last_term == 9
        with pytest.raises(IndexError, match=r"entry 101 is not among 0\.\.100"):
            log.term(101)


async def test_one_write_and_one_sync_per_append() -> None:
    """Whatever the number of frames; preallocation changes the size of the file seldom."""
    disk = new_disk()
    frames: list[EntryFrame] = []
    async with open_segmented_log(disk, "/log", LARGE) as log:
        await log.append(make_frames(1))
        frames = make_frames(1)
        size_bytes = len(disk.content(segment_path(1)))
        for count in (1, 16, 50):
            new = following(frames, count)
            frames += new
            writes, syncs, directory_syncs = disk.statistics.writes, disk.statistics.syncs, disk.statistics.directory_syncs
            await log.append(new)
            assert (disk.statistics.writes - writes, disk.statistics.syncs - syncs) == (1, 1)
            assert disk.statistics.directory_syncs == directory_syncs
            assert len(disk.content(segment_path(1))) == size_bytes


async def test_appended_means_durable() -> None:
    """Everything an append returned for survives a crash that loses all that was not synced, rolls included."""
    disk = new_disk()
    frames: list[EntryFrame] = []
    for number in range(40):
        async with open_segmented_log(disk, "/log", SETTINGS) as log:
            assert await read_all(log) == raw(frames)
            new = following(frames, 1 + number % 4)
            await log.append(new)
            frames += new
            disk = disk.crash(CrashMode.LOSE)


async def test_what_was_found_after_a_kill_is_durable() -> None:
    """A killed process leaves a tail that only the kernel's cache has. It is readable after opening, so it must stay."""
    disk = new_disk()
    frames = make_frames(20)
    await fill(disk, frames[:5])
    file = await disk.open(segment_path(1))
    position = sum(frame.size_bytes for frame in frames[:5])
    await file.write_at(position, raw(frames[5:7]))
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        assert log.last_index == 7
    async with open_segmented_log(disk.crash(CrashMode.LOSE), "/log", SETTINGS) as log:
        assert await read_all(log) == raw(frames[:7])


async def test_a_name_that_was_found_after_a_kill_is_durable() -> None:
    """As above for a segment that was created, but whose name no sync of the directory has made durable."""
    disk = new_disk()
    await disk.make_directory("/log")
    frames = make_frames(5)
    file = await disk.open(segment_path(1), create=True)
    await file.write_at(0, raw(frames))
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        assert log.last_index == 5
    async with open_segmented_log(disk.crash(CrashMode.LOSE), "/log", SETTINGS) as log:
        assert await read_all(log) == raw(frames)


async def test_staged_frames_are_readable_from_memory_only() -> None:
    """Before they are durable they are given to those who ask for staged frames, and to nobody else."""
    disk = new_disk()
    frames = make_frames(10)
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        await log.append(frames[:5])
        log.stage(frames[5:])
        assert (log.last_index, log.staged_last_index) == (5, 10)
        assert log.cached(6, 10, ALL) == frames[5:]
        assert log.cached(4, 7, ALL) == frames[3:7]
        assert log.last_index_within(4, 10, ALL) == 10
        assert raw(await log.read(1, 5, ALL)) == raw(frames[:5])
        with pytest.raises(IndexError):
            await log.read(5, 6, ALL)
        with pytest.raises(IndexError):
            log.term(6)
        await log.append(frames[5:])
        assert (log.last_index, log.staged_last_index) == (10, 10)
        assert await log.read(6, 10, ALL) == frames[5:]


async def test_staging_over_durable_frames() -> None:
    """Until the append has removed them, the old entries are what is durable; the staged ones are what is cached."""
    disk = new_disk()
    old = make_frames(10)
    new = following(old[:6], 2, term=2)
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        await log.append(old)
        log.stage(new)
        assert (log.last_index, log.staged_last_index) == (10, 8)
        assert log.cached(7, 8, ALL) == new
        assert raw(await log.read(7, 10, ALL)) == raw(old[6:])
        assert b"".join((await log.read_raw(7, 10, ALL)).buffers) == b"".join(raw(old[6:]))
        assert await log.find_offset(old[9].base_offset - 1) <= 10
        assert log.term(8) == 1
        await log.append(new)
        assert (log.last_index, log.last_term) == (8, 2)
        assert await read_all(log) == raw(old[:6] + new)


@pytest.mark.parametrize("first", [1, 2, 14, 15, 16, 29, 30, 60, 99, 100])
async def test_a_conflicting_suffix_is_replaced(first: int) -> None:
    """At every kind of place: in the active segment, in a sealed one, at a boundary, all of it."""
    disk = new_disk()
    old = make_frames(100, payload_bytes_max=300)
    await fill(disk, old)
    new = following(old[: first - 1], 30, term=3)
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        await log.append(new[:4])
        assert (log.last_index, log.last_term, log.log_end_offset) == (first + 3, 3, new[3].end_offset)
        assert log.term(first - 1) == (1 if first > 1 else 0)
        await log.append(new[4:])
        expected = raw(old[: first - 1] + new)
        assert await read_all(log) == expected
        for frame in (old[: first - 1] + new)[::7]:
            if frame.record_count:
                assert await log.find_offset(frame.base_offset) == frame.index
                assert await log.find_timestamp(frame.last_timestamp_ns) == frame.index
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        assert await read_all(log) == expected
        assert log.rebuilt_indexes == 0
    async with open_segmented_log(disk.crash(), "/log", SETTINGS) as log:
        assert await read_all(log) == expected  # whichever sparse indexes of the old and the new suffix are left


async def test_refused_appends_change_nothing() -> None:
    """Gaps in index or offset, terms that go back, against the log and within the frames: CodecError, and the log goes on."""
    disk = new_disk()
    frames = make_frames(10, term=5)
    good = following(frames, 4)
    wrong = [
        following(frames, 3, term=4),
        [good[0], good[2]],
        [good[0], good[0]],
        make_frames(2, first=11, term=5, offset=frames[-1].end_offset + 1),
        [*good[:2], *following(good[:2], 1, term=4)],
        [good[0], make_frames(1, first=12, term=5, offset=good[0].end_offset + 1)[0]],
        make_frames(2, first=6, term=4, offset=frames[4].end_offset),  # a suffix with an older term
        make_frames(2, first=6, term=5, offset=frames[4].end_offset + 1),  # a suffix at the wrong offset
    ]
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        await log.append(frames)
        for refused in wrong:
            content = disk.content(segment_path(1))
            with pytest.raises(CodecError, match="does not follow"):
                await log.append(refused)
            assert disk.content(segment_path(1)) == content
            assert await read_all(log) == raw(frames)
        await log.append(good)
        assert await read_all(log) == raw(frames + good)


async def test_programmer_errors_are_asserts() -> None:
    """A gap after the last entry, an entry before the first, two appends at a time."""
    disk = new_disk()
    frames = make_frames(10)
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        with pytest.raises(AssertionError, match="leaves a gap"):
            await log.append(frames[1:])
        with pytest.raises(AssertionError, match="leave a gap"):
            log.stage(frames[1:])
        disk.latency_seconds[Operation.SYNC] = 0.0
        with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="one append at a time")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(log.append, frames[:2])
                nursery.start_soon(log.append, frames[:2])


async def test_rolling_limits() -> None:
    """A segment never passes its size, except by one frame larger than it; nor its index limit, but for one write."""
    disk = new_disk()
    small = make_frames(40, payload_bytes_max=400)
    huge = following(small, 1, payload_bytes_max=1)
    huge = [
        encode_entry(
            EntryKind.DATA,
            term=1,
            index=41,
            base_offset=small[-1].end_offset,
            record_count=1,
            payload=b"x" * 5000,
        )
    ]
    after = following(huge, 3)
    await fill(disk, [*small, *huge, *after], size=7)
    names = [name for name in await disk.list_directory("/log") if name.endswith(".log")]
    for name in names:
        frames = segment_frames(disk, f"/log/{name}")
        assert sum(frame.size_bytes for frame in frames) <= 3000 or len(frames) == 1
    assert segment_name(41) in names
    assert segment_name(42) in names
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        assert await read_all(log) == raw([*small, *huge, *after])
        assert len(await log.read(41, 44, 10)) == 1
    disk = new_disk()
    settings = default(LogSettings, segment_bytes=1 << 20, index_interval_bytes=1, index_entries_max=10, preallocate_bytes=1024)
    await fill(disk, small, settings, size=1)
    assert [name for name in await disk.list_directory("/log") if name.endswith(".log")] == [
        segment_name(index) for index in (1, 11, 21, 31)
    ]


def segment_frames(disk: SimDisk, path: str) -> list[EntryFrame]:
    """The frames at the beginning of a segment file."""
    found = []
    try:
        for frame in decode_entries(disk.content(path)):
            found.append(frame)
    except CodecError:
        pass
    return found


async def test_sealed_files_have_their_exact_size() -> None:
    """Preallocated room is given back when a segment is sealed; without preallocation there is none."""
    for preallocate_bytes in (0, 1024, 64 * 1024):
        disk = new_disk()
        frames = make_frames(60)
        await fill(disk, frames, default(LogSettings, segment_bytes=3000, preallocate_bytes=preallocate_bytes))
        *sealed, _active = [name for name in await disk.list_directory("/log") if name.endswith(".log")]
        assert len(sealed) > 2
        for name in sealed:
            size_bytes = sum(frame.size_bytes for frame in segment_frames(disk, f"/log/{name}"))
            assert size_bytes < len(disk.content(f"/log/{name}")) < size_bytes + 200


@pytest.mark.parametrize("harm", ["missing", "flipped", "cut", "of another", "unreadable"])
async def test_sparse_indexes_are_only_a_cache(harm: str) -> None:
    """Missing, damaged, stale or unreadable: made again from the frames when it is needed, and never in the way of a start."""
    disk = new_disk()
    frames = make_frames(60)
    await fill(disk, frames)
    path = f"/log/{1:020d}.index"
    content = disk.content(path)
    if harm == "missing":
        disk.delete(path)
    elif harm == "flipped":
        disk.flip_bit(path, 60)
    elif harm == "cut":
        disk.put(path, content[:-1])
    elif harm == "of another":
        other = next(name for name in await disk.list_directory("/log") if name.endswith(".index") and name not in path)
        disk.put(path, disk.content(f"/log/{other}"))
    else:
        disk.faults.append(Fault(operation=Operation.READ, path_part=path, times=1))
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        assert log.rebuilt_indexes == 0
        assert await read_all(log) == raw(frames)
        assert log.rebuilt_indexes == 1
    assert disk.content(path) == content


async def test_a_failing_index_write_does_not_fail_the_append(caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and made up for later."""
    disk = new_disk()
    disk.faults.append(Fault(operation=Operation.WRITE, path_part=".index", times=1))
    frames = make_frames(60)
    await fill(disk, frames)
    assert "could not be written" in caplog.text
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        assert await read_all(log) == raw(frames)
        assert log.rebuilt_indexes == 1


async def test_damage_in_a_sealed_segment_is_found_and_located() -> None:
    """Any bit of any entry, when it is read: file and byte of the frame. Other entries stay readable."""
    disk = new_disk()
    frames = make_frames(60)
    await fill(disk, frames)
    sealed = segment_frames(disk, segment_path(1))
    content = disk.content(segment_path(1))
    starts = [sum(frame.size_bytes for frame in sealed[:number]) for number in range(len(sealed) + 1)]
    settings = default(LogSettings, segment_bytes=3000, index_interval_bytes=400, tail_cache_bytes=0, preallocate_bytes=1024)
    for position in range(0, starts[-1], 13):
        number = next(number for number, start in enumerate(starts) if position < start) - 1
        disk.put(segment_path(1), content)
        disk.flip_bit(segment_path(1), position, position % 8)
        async with open_segmented_log(disk, "/log", settings) as log:
            with pytest.raises(DamagedData) as caught:
                await read_all(log)
            assert caught.value.path == segment_path(1)
            assert caught.value.position == starts[number]
            assert await log.read(len(sealed) + 1, 60, ALL)


async def test_a_damaged_footer_is_found_at_the_start() -> None:
    """Of a sealed segment: any bit. In the last segment a footer without its next segment is only half of a roll."""
    disk = new_disk()
    frames = make_frames(60)
    await fill(disk, frames)
    content = disk.content(segment_path(1))
    start = sum(frame.size_bytes for frame in segment_frames(disk, segment_path(1)))
    for position in range(start, len(content)):
        disk.put(segment_path(1), content)
        disk.flip_bit(segment_path(1), position, position % 8)
        with pytest.raises(DamagedData) as caught:
            async with open_segmented_log(disk, "/log", SETTINGS):
                pass
        assert caught.value.path == segment_path(1)


async def test_missing_and_mixed_up_segments() -> None:
    """A gap names the missing file; a segment of another place is refused; foreign files are passed over."""
    frames = make_frames(100)

    async def with_change(change: object) -> SimDisk:
        disk = new_disk()
        await fill(disk, frames)
        names = [name for name in await disk.list_directory("/log") if name.endswith(".log")]
        assert callable(change)
        change(disk, names)
        return disk

    disk = await with_change(lambda disk, names: disk.delete(f"/log/{names[1]}"))
    second = [name for name in await disk.list_directory("/log") if name.endswith(".index")][1].replace(".index", ".log")
    with pytest.raises(DamagedData, match="missing") as caught:
        async with open_segmented_log(disk, "/log", SETTINGS):
            pass
    assert caught.value.path == f"/log/{second}"
    disk = await with_change(lambda disk, names: disk.delete(f"/log/{names[0]}"))
    with pytest.raises(DamagedData, match="missing"):
        async with open_segmented_log(disk, "/log", SETTINGS):
            pass
    disk = await with_change(lambda disk, names: disk.put(f"/log/{names[1]}", disk.content(f"/log/{names[2]}")))
    with pytest.raises(DamagedData, match="footer of another segment"):
        async with open_segmented_log(disk, "/log", SETTINGS):
            pass
    disk = await with_change(lambda disk, names: disk.put("/log/notes.txt", b"hello"))
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        assert log.last_index == 100


async def test_terms_that_go_back_between_segments() -> None:
    """Segments of different histories are not put together."""
    one, other = new_disk(), new_disk()
    frames = make_frames(100, term=5)
    await fill(one, frames)
    await fill(other, make_frames(100, term=4))
    names = [name for name in await one.list_directory("/log") if name.endswith(".log")]
    for name in (names[1], names[-1]):
        content = one.content(f"/log/{name}")
        if name in await other.list_directory("/log"):
            one.put(f"/log/{name}", other.content(f"/log/{name}"))
            with pytest.raises(DamagedData):
                async with open_segmented_log(one, "/log", SETTINGS):
                    pass
            one.put(f"/log/{name}", content)
    first = segment_frames(one, segment_path(1))
    lower = following(first, 2, term=4)
    disk = new_disk()
    disk.put(segment_path(1), one.content(segment_path(1)))
    disk.put(segment_path(len(first) + 1), b"".join(raw(lower)))
    with pytest.raises(DamagedData, match="terms go back"):
        async with open_segmented_log(disk, "/log", SETTINGS):
            pass


@pytest.mark.parametrize("operation", [Operation.READ, Operation.SYNC])
async def test_a_failed_recovery_leaves_no_file_open(operation: Operation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node tries to open a partition again and again while it is short of descriptors: each attempt would cost one more."""
    disk = new_disk()
    await fill(disk, make_frames(30))
    opened: list[SimFile] = []
    real_open = SimDisk.open

    async def watched(self: SimDisk, *arguments: Any, **options: Any) -> SimFile:
        opened.append(await real_open(self, *arguments, **options))
        return opened[-1]

    real_close = SimFile.close_nowait

    def closing(self: SimFile) -> None:
        real_close(self)
        if self in opened:
            opened.remove(self)

    monkeypatch.setattr(SimDisk, "open", watched)
    monkeypatch.setattr(SimFile, "close_nowait", closing)
    disk.faults.append(Fault(operation=operation, path_part=".log", times=1))
    with pytest.raises((StorageFailed, DamagedData)):
        async with open_segmented_log(disk, "/log", SETTINGS):
            pass
    assert not disk.faults[0].times
    assert not opened


@pytest.mark.parametrize("operation", [Operation.WRITE, Operation.SYNC])
async def test_a_failed_write_or_sync_is_final(operation: Operation) -> None:
    """The log refuses further appends, and what it counts as durable is what was before."""
    disk = new_disk()
    frames = make_frames(10)
    async with open_segmented_log(disk, "/log", LARGE) as log:
        await log.append(frames[:5])
        disk.faults.append(Fault(operation=operation, path_part=".log", times=1))
        with pytest.raises(StorageFailed, match="injected EIO"):
            await log.append(frames[5:7])
        assert log.last_index == 5
        with pytest.raises(StorageFailed, match="refused"):
            await log.append(frames[5:7])
    async with open_segmented_log(disk.crash(CrashMode.LOSE), "/log", LARGE) as log:
        assert await read_all(log) == raw(frames[:5])


async def test_a_failed_read_is_damage() -> None:
    """EIO says where; the next read may work again."""
    disk = new_disk()
    await fill(disk, make_frames(60))
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        disk.faults.append(Fault(operation=Operation.READ, path_part=segment_path(1), times=1))
        with pytest.raises(DamagedData) as caught:
            await log.read(1, 5, ALL)
        assert caught.value.path == segment_path(1)
        assert len(await log.read(1, 5, ALL)) == 5


async def test_a_full_disk_refuses_and_goes_on_later() -> None:
    """Nothing is lost, reading works, and when there is room again so does appending."""
    frames = make_frames(60)
    disk = new_disk(capacity_bytes=5000)
    done = 0
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        try:
            while True:
                await log.append(frames[done : done + 3])
                done += 3
        except DiskFull:
            pass
        assert done == log.last_index > 10
        assert await read_all(log) == raw(frames[:done])
        with pytest.raises(DiskFull):
            await log.append(frames[done : done + 3])
        disk.capacity_bytes = 1 << 20
        await log.append(frames[done:])
        assert await read_all(log) == raw(frames)
    async with open_segmented_log(disk.crash(CrashMode.LOSE), "/log", SETTINGS) as log:
        assert await read_all(log) == raw(frames)


async def test_an_empty_file_left_by_a_full_disk() -> None:
    """The segment that could not be preallocated is removed at the next start."""
    frames = make_frames(30)
    disk = new_disk()
    await fill(disk, frames[:10], LARGE)
    disk.put(segment_path(11), b"")
    with pytest.raises(DamagedData, match="without its footer"):
        async with open_segmented_log(disk, "/log", LARGE):
            pass  # the one before was never sealed: something else is wrong
    disk = new_disk()
    await fill(disk, frames[:1], default(LogSettings, segment_bytes=1, preallocate_bytes=0))
    async with open_segmented_log(disk, "/log", default(LogSettings, segment_bytes=1, preallocate_bytes=1024)) as log:
        disk.capacity_bytes -= await disk.free_bytes("/") - 240  # enough for a footer
        with pytest.raises(DiskFull):
            await log.append(frames[1:3])
        disk.capacity_bytes = 1 << 20
    assert disk.content(segment_path(2)) == b""
    async with open_segmented_log(disk, "/log", LARGE) as log:
        assert not await disk.exists(segment_path(2))
        await log.append(frames[1:])
        assert await read_all(log) == raw(frames)


async def test_an_append_is_not_cancelled_halfway(autojump_clock: MockClock) -> None:
    """Cancelled before: nothing happened. Cancelled under way: it runs to its end first."""
    disk = new_disk()
    disk.latency_seconds = {Operation.WRITE: 1.0, Operation.SYNC: 1.0, Operation.NAMES: 1.0}
    frames = make_frames(40)
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        with trio.CancelScope() as scope:
            scope.cancel()
            await log.append(frames)
        assert scope.cancelled_caught
        assert (log.last_index, log.staged_last_index) == (0, 0)
        with trio.move_on_after(2.5) as scope:
            await log.append(frames)
            await trio.sleep(1)
        assert scope.cancelled_caught
        assert log.last_index == 40
        with trio.move_on_after(2.5) as scope:
            await log.append(following(frames[:20], 20, term=2))
            await trio.sleep(1)
        assert scope.cancelled_caught
        assert (log.last_index, log.last_term) == (40, 2)
        assert await read_all(log) == raw(frames[:20] + following(frames[:20], 20, term=2))


async def test_closing_is_bounded_and_works_when_cancelled(autojump_clock: MockClock) -> None:
    """A log is closed under a short shield; afterwards it refuses."""
    disk = new_disk()
    with trio.CancelScope() as scope:
        async with open_segmented_log(disk, "/log", SETTINGS) as log:
            await log.append(make_frames(5))
            scope.cancel()
            await trio.lowlevel.checkpoint()
    with pytest.raises(StorageFailed, match="closed"):
        await log.append(following(make_frames(5), 1))
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        assert log.last_index == 5


async def test_open_segments_are_bounded() -> None:
    """However many segments are read, only so many files and sparse indexes are held."""
    disk = new_disk()
    frames = make_frames(200)
    await fill(disk, frames)
    sealed = SealedSegments(2)
    async with open_segmented_log(disk, "/log", SETTINGS, sealed) as log:
        assert log.segment_count > 8
        rng = random.Random(1)

        async def read_some() -> None:
            for _ in range(50):
                index = rng.randint(1, 200)
                (frame, *_) = await log.read(index, 200, 0)
                assert bytes(frame.raw) == frames[index - 1].raw
                held = [segment for segment in log._contents.segments if segment.file is not None]
                assert len(held) <= 3  # and the active one

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read_some)
        assert sum(segment.contents.sparse is not None for segment in log._contents.segments) <= 3
        assert sealed.budget_use().used == 2
    assert not sealed.budget_use().used


@pytest.mark.parametrize("seed", range(8))
async def test_readers_while_suffixes_are_replaced(seed: int) -> None:
    """A reader is given entries of one history, all of them durable; entries cut off meanwhile are an IndexError at most."""
    rng = random.Random(seed)
    disk = new_disk()
    frames = make_frames(60)
    await fill(disk, frames)
    reads = 0
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        written = {(frame.index, frame.term): frame.raw for frame in frames}

        async def read_on() -> None:
            nonlocal reads
            while True:
                first = rng.randint(1, log.last_index)
                last = rng.randint(first, log.last_index)
                max_bytes = rng.choice((0, 500, ALL))
                try:
                    if rng.random() < 0.5:
                        got = await log.read(first, last, max_bytes)
                    else:
                        found = await log.read_raw(first, last, max_bytes)
                        got = list(decode_entries(b"".join(found.buffers)))
                        assert found.last_index == got[-1].index
                except IndexError:
                    assert last > log.last_index or first <= log.last_index
                    continue
                reads += 1
                assert [frame.index for frame in got] == list(range(first, first + len(got)))
                assert all(frame.raw == written[frame.index, frame.term] for frame in got)
                # Nothing is given that is not durable, and nothing that was cut off before it was given.
                assert [frame.term for frame in got] == [log.term(frame.index) for frame in got]
                offset = rng.randrange(log.log_end_offset)
                try:
                    index = await log.find_offset(offset)
                except OffsetOutOfRange:
                    continue
                assert index >= 1

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read_on)
            for term in range(2, 25):
                kept = rng.randint(1, len(frames))
                new = following(frames[:kept], rng.randint(1, 30), term=term)
                frames = frames[:kept] + new
                written.update({(frame.index, frame.term): frame.raw for frame in new})
                await log.append(new)
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert await read_all(log) == raw(frames)
    assert reads > 20


@pytest.mark.parametrize("seed", range(12))
async def test_runs_are_staged_while_others_wait_for_the_disk(seed: int) -> None:
    """Runs are staged on top of others, or over them, whose append waits or is under way. From memory one gets what was staged
    last, with no gap; `read` gives what is durable, and nothing that only waits."""
    rng = random.Random(seed)
    disk = new_disk()
    staged = make_frames(8)
    written = {(frame.index, frame.term): frame.raw for frame in staged}
    waiting: list[list[EntryFrame]] = []
    settings = default(LogSettings, segment_bytes=2000, preallocate_bytes=0, tail_cache_bytes=rng.choice((0, 1500, 1 << 20)))
    async with open_segmented_log(disk, "/log", settings) as log, trio.open_nursery() as nursery:
        await log.append(staged)

        async def write() -> None:
            while True:
                if waiting:
                    await log.append(waiting.pop(0))
                await trio.lowlevel.checkpoint()

        async def read_on() -> None:
            while True:
                first = rng.randint(1, log.last_index)
                try:
                    got = await log.read(first, log.last_index, rng.choice((0, 500, ALL)))
                except IndexError:
                    continue
                assert [(frame.index, frame.term) for frame in got] == [(frame.index, log.term(frame.index)) for frame in got]
                assert all(frame.raw == written[frame.index, frame.term] for frame in got)

        nursery.start_soon(write)
        nursery.start_soon(read_on)
        for term in range(2, 60):
            if rng.random() < 0.5:
                del staged[rng.randint(max(len(staged) - 6, 1), len(staged)) :]
            run = following(staged, rng.randint(1, 4), term=term)
            staged += run
            written.update({(frame.index, frame.term): frame.raw for frame in run})
            log.stage(run)
            waiting.append(run)
            for _ in range(rng.choice((0, 0, 1, 5, 30))):
                await trio.lowlevel.checkpoint()
                assert log.staged_last_index == len(staged)
                for frame in staged[-8:]:
                    cached = log.cached(frame.index, frame.index, ALL)
                    assert cached is None or cached == [frame]
        while waiting or log.last_index != len(staged):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    async with open_segmented_log(disk.crash(CrashMode.LOSE), "/log", settings) as log:
        assert await read_all(log) == raw(staged)


async def test_a_log_that_begins_later() -> None:
    """Its base says what was before: first index, term and offset hang on it; older segments left behind are removed."""
    frames = make_frames(100, term=3)
    disk = new_disk()
    await fill(disk, frames)
    names = [name for name in await disk.list_directory("/log") if name.endswith(".log")]
    boundary = int(names[2].removesuffix(".log"))
    base = frames[boundary - 2]
    disk.put("/log/base", encode_base(LogBase(index=base.index, term=base.term, offset=base.end_offset)))
    for _ in range(2):
        async with open_segmented_log(disk, "/log", SETTINGS) as log:
            assert (log.first_index, log.last_index, log.log_start_offset) == (boundary, 100, base.end_offset)
            assert log.term(boundary - 1) == 3
            with pytest.raises(IndexError):
                log.term(boundary - 2)
            with pytest.raises(IndexError):
                await log.read(boundary - 1, boundary, ALL)
            with pytest.raises(OffsetOutOfRange):
                await log.find_offset(base.end_offset - 1)
            assert await read_all(log) == raw(frames[boundary - 1 :])
        assert not await disk.exists(f"/log/{names[0]}")
        assert not await disk.exists(f"/log/{names[1]}")
    disk.flip_bit("/log/base", 20)
    with pytest.raises(DamagedData) as caught:
        async with open_segmented_log(disk, "/log", SETTINGS):
            pass
    assert caught.value.path == "/log/base"
