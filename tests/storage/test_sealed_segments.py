"""The sealed segments of all logs of a node share one budget of descriptors."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio
import trio.testing
from log_frames import following, make_frames

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.sealed_segments import SealedSegments
from trio_eventlog.storage.segmented_log import SegmentedLog, open_segmented_log
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import Operation, SimDisk

SETTINGS = default(LogSettings, segment_bytes=2000, preallocate_bytes=0, tail_cache_bytes=0)
FRAMES = make_frames(60)
OPEN_MAX = 3
WRITERS = 4
"""Each has one segment at most that is being sealed, with the descriptor that it had before."""


@asynccontextmanager
async def open_logs(disk: SimDisk, count: int, sealed: SealedSegments) -> AsyncIterator[list[SegmentedLog]]:
    """Logs that hold `FRAMES`, each in many segments."""
    async with AsyncExitStack() as stack:
        logs = [
            await stack.enter_async_context(open_segmented_log(disk, f"/{number}", SETTINGS, sealed)) for number in range(count)
        ]
        for log in logs:
            if not log.last_index:
                await log.append(FRAMES)
            assert log.segment_count > OPEN_MAX
        yield logs


def open_files(logs: Sequence[SegmentedLog]) -> int:
    return sum(segment.is_sealed and segment.file is not None for log in logs for segment in log._contents.segments)


def first_indexes(log: SegmentedLog) -> list[int]:
    """Of the sealed segments."""
    return [segment.contents.base_index for segment in log._contents.segments if segment.is_sealed]


async def read_one(log: SegmentedLog, index: int) -> EntryFrame:
    (frame,) = await log.read(index, index, 0)
    return frame


async def test_many_logs_hold_no_more_open_than_one() -> None:
    """Readers of eight logs at the same time, appends and replaced suffixes among them: never more than the limit is open, every
    read is right, and a log that is closed leaves nothing behind."""
    sealed = SealedSegments(OPEN_MAX)
    disk = SimDisk(random.Random(1))
    async with open_logs(disk, 8, sealed) as logs:
        written = [list(FRAMES) for _ in logs]

        async def read_some(number: int) -> None:
            rng = random.Random(number)
            log = logs[number % len(logs)]
            for _ in range(60):
                index = rng.randint(1, 40)
                assert bytes((await read_one(log, index)).raw) == bytes(FRAMES[index - 1].raw)
                assert open_files(logs) <= OPEN_MAX + WRITERS

        async def write_some(number: int) -> None:
            frames = written[number]
            for round_number in range(10):
                if round_number % 3 == 2:
                    del frames[45:]
                more = following(frames, 5, term=round_number + 1, seed=round_number)
                await logs[number].append(more)
                frames += more

        async with trio.open_nursery() as nursery:
            for number in range(24):
                nursery.start_soon(read_some, number)
            for number in range(WRITERS):
                nursery.start_soon(write_some, number)
        assert open_files(logs) == sealed.budget_use().used == OPEN_MAX
    assert sealed.budget_use().used == 0


async def test_the_least_recently_used_of_any_log_is_closed_first() -> None:
    sealed = SealedSegments(2)
    async with open_logs(SimDisk(random.Random(2)), 3, sealed) as logs:
        await read_one(logs[0], 1)
        await read_one(logs[1], 1)
        await read_one(logs[0], 1)
        await read_one(logs[2], 1)
        assert [open_files([log]) for log in logs] == [1, 0, 1]


async def test_one_more_reader_than_segments_may_be_open_waits_for_another_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """At the limit nobody waits; one beyond it, the last one waits until the first is done. One that is cancelled while it waits
    leaves its turn to the next."""
    sealed = SealedSegments(OPEN_MAX)
    disk = SimDisk(random.Random(3))
    async with open_logs(disk, OPEN_MAX + 2, sealed) as logs:
        indexes = [first_indexes(log)[0] for log in logs]
        for log, index in zip(logs[:OPEN_MAX], indexes, strict=False):
            await read_one(log, index)
        disk.latency_seconds[Operation.READ] = 10.0
        done: list[int] = []
        leaving = trio.CancelScope()

        async def read(number: int) -> None:
            await read_one(logs[number], indexes[number])
            done.append(number)

        async def leave_early() -> None:
            with leaving:
                await read(OPEN_MAX)

        async with trio.open_nursery() as nursery:
            for number in range(OPEN_MAX):
                nursery.start_soon(read, number)
            await trio.testing.wait_all_tasks_blocked()
            assert sealed.budget_use().refused == 0
            nursery.start_soon(leave_early)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(read, OPEN_MAX + 1)
            await trio.sleep(5)
            assert not done
            assert open_files(logs) == OPEN_MAX
            assert sealed.budget_use().refused == 2
            leaving.cancel()
        assert sorted(done) == [0, 1, 2, OPEN_MAX + 1]
        assert open_files(logs) == OPEN_MAX
