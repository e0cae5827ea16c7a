"""Every byte of a replica's small directory, changed one at a time: it is opened, mended or refused, and gives nothing wrong."""

import random
from functools import partial

import pytest
import trio

from tests.storage.log_frames import make_frames
from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.errors import DamagedData, EventLogError
from trio_eventlog.ids import NodeId
from trio_eventlog.node.departed import Departed, load_departed
from trio_eventlog.node.mending import Mending
from trio_eventlog.raft import HardState
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.quarantine import QUARANTINE_DIRECTORY
from trio_eventlog.storage.sealed_segments import WITHIN_ONE_LOG, SealedSegments
from trio_eventlog.storage.segmented_log import SegmentedLog, open_segmented_log, recover_segmented_log
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import CrashMode, SimDisk

SETTINGS = default(LogSettings, segment_bytes=600, preallocate_bytes=0, index_interval_bytes=256, tail_cache_bytes=0)
FRAMES = make_frames(16)
STATE = HardState(term=FRAMES[-1].term, vote=NodeId(2), commit=12)
DIRECTORY = "group"
LOG = f"{DIRECTORY}/log"
HARD_STATE = f"{DIRECTORY}/hard_state"


async def new_disk() -> SimDisk:
    disk = SimDisk(random.Random(1))
    await disk.make_directory(DIRECTORY)
    async with open_segmented_log(disk, LOG, SETTINGS) as log:
        for frame in FRAMES:
            await log.append([frame])
    async with await HardStateFile.open(disk, HARD_STATE) as hard_state:
        await hard_state.save(STATE)
    await disk.sync_directory(DIRECTORY)
    return disk.image()


async def mended(disk: SimDisk, suspect: str = "", *, may_mend: bool = True) -> tuple[SegmentedLog, HardStateFile | None, Departed]:
    mending = Mending(name="t/0", directory=DIRECTORY, suspect=suspect, may_mend=may_mend)
    departed = await load_departed(disk, DIRECTORY)
    sealed = SealedSegments(WITHIN_ONE_LOG)
    log, departed = await mending.open_log(disk, departed, partial(recover_segmented_log, disk, disk, LOG, SETTINGS, sealed))
    hard_state, departed = await mending.open_hard_state(disk, departed, is_durable=False)
    return log, hard_state, departed


async def read_or_damage(log: SegmentedLog) -> list[EntryFrame] | DamagedData:
    frames: list[EntryFrame] = []
    try:
        while log.last_index >= len(frames) + 1:
            frames += await log.read(len(frames) + 1, log.last_index, 1 << 30)
    except DamagedData as error:
        return error
    return frames


def raw(frames: list[EntryFrame]) -> list[bytes]:
    return [bytes(frame.raw) for frame in frames]


async def check(disk: SimDisk, what: str) -> None:
    """What the directory gives is a prefix of what was written, and a shorter one has no vote."""
    log, hard_state, departed = await mended(disk)
    found = await read_or_damage(log)
    if isinstance(found, DamagedData):
        await log.aclose()
        log, hard_state, departed = await mended(disk, suspect=found.path)
        found = await read_or_damage(log)
    assert not isinstance(found, DamagedData), what
    assert raw(found) == raw(FRAMES[: len(found)]), what
    is_short = len(found) < len(FRAMES)
    assert not is_short or departed.loss, what
    assert (hard_state is None) == departed.is_vote_lost, what
    assert hard_state is None or hard_state.state == STATE, what
    # What was noted is there before anything is moved, and after a crash.
    after = disk.crash(CrashMode.LOSE)
    assert await load_departed(after, DIRECTORY) == departed, what
    await log.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("bits", [0x01, 0xFF])
async def test_every_byte(bits: int) -> None:
    """Segments, sparse indexes and the hard state. A byte of a sealed frame is found when it is read."""
    original = await new_disk()
    counted = 0
    for path in original.paths():
        # The hard state has eight copies in each slot: some of their bytes say enough.
        step = 37 if path == HARD_STATE else 1
        for position in range(0, len(original.content(path)), step):
            disk = original.image()
            content = bytearray(disk.content(path))
            content[position] ^= bits
            disk.put(path, bytes(content))
            await check(disk, f"{path} byte {position}")
            counted += 1
    assert counted > 1500


@pytest.mark.parametrize("left", [0, 1, 100])
async def test_files_that_are_gone_or_cut_short(left: int) -> None:
    original = await new_disk()
    segments = [path for path in original.paths() if path.endswith(".log")]
    for path in segments[:-1]:
        disk = original.image()
        if left:
            disk.put(path, disk.content(path)[: left - 1])
        else:
            disk.delete(path)
        await check(disk, path)


async def test_without_another_node_nothing_is_moved() -> None:
    """It is refused, and the text says which byte, and what to do."""
    original = await new_disk()
    segment = next(path for path in original.paths() if path.endswith(".log"))
    disk = original.image()
    disk.delete(segment)
    before = disk.paths()
    with pytest.raises(DamagedData, match="--accept-loss") as caught:
        await mended(disk, may_mend=False)
    assert segment in str(caught.value)
    assert disk.paths() == before


async def test_a_crash_at_any_step_of_setting_aside() -> None:
    """Nothing is moved before it is noted that something is lost; the next start goes on with what is left to do."""
    original = await new_disk()
    segments = [path for path in original.paths() if path.endswith(".log")]
    for mode in CrashMode:
        for operations in range(200):
            disk = original.image()
            disk.put(segments[1], bytes(len(disk.content(segments[1]))))
            disk.cut_power_after(operations)
            try:
                log, _, _ = await mended(disk)
                await log.aclose()
            except EventLogError:
                pass
            is_done = disk.has_power
            disk = disk.crash(mode)
            moved = {path for path in segments if path not in disk.paths()}
            departed = await load_departed(disk, DIRECTORY)
            assert not moved or departed.loss, (mode, operations)
            log, _, departed = await mended(disk)
            assert departed.loss
            found = await read_or_damage(log)
            assert not isinstance(found, DamagedData)
            assert raw(found) == raw(FRAMES[: len(found)])
            await log.aclose()
            if is_done:
                break
        else:
            raise AssertionError("it never came to its end")
        assert any(path.startswith(f"{DIRECTORY}/{QUARANTINE_DIRECTORY}/") for path in disk.paths())


async def test_the_check_of_a_log_finds_every_byte() -> None:
    """What the scrub reads: frames and footers of sealed segments, and the frames of the active one."""
    original = await new_disk()
    reads: list[int] = []

    async def paced(size_bytes: int) -> None:
        reads.append(size_bytes)
        await trio.lowlevel.checkpoint()

    async with open_segmented_log(original, LOG, SETTINGS) as log:
        await log.check(paced)
        assert sum(reads) == log.size_bytes
        active = max(path for path in original.paths() if path.endswith(".log"))
        for path in [path for path in original.paths() if path.endswith(".log")]:
            content = original.content(path)
            for position in range(0, len(content) - (32 if path == active else 0), 7):
                original.flip_bit(path, position)
                with pytest.raises(DamagedData, match=path):
                    await log.check(paced)
                original.flip_bit(path, position)
        await log.check(paced)
