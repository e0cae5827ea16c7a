"""Reads of a log whose suffix is replaced, or which is closed, at any moment between two steps of the read."""

import os
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from log_frames import following, make_frames

from trio_eventlog.codec.entry import EntryFrame, decode_entries
from trio_eventlog.errors import OffsetOutOfRange, StorageFailed
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.storage.sealed_segments import SealedSegments
from trio_eventlog.storage.segmented_log import SegmentedLog, open_segmented_log
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import SimDisk, SimFile

ALL = 1 << 30
KEPT = 25
OLD = make_frames(40, payload_bytes_max=100)
NEW = {count: following(OLD[:KEPT], count, term=2, payload_bytes_max=100) for count in (2, 30)}
STEPS_MAX = 60

Read = Callable[[SegmentedLog, EntryFrame], Awaitable[object]]


def newer(frame: EntryFrame) -> int:
    return frame.last_timestamp_ns


READS: dict[str, Read] = {
    "read": lambda log, frame: log.read(frame.index, log.last_index, 200),
    "read_raw": lambda log, frame: log.read_raw(frame.index, log.last_index, 200),
    "read_raw_before": lambda log, frame: log.read_raw_before(frame.index, 200),
    "read_by_offset": lambda log, frame: log.read_by_offset(frame.base_offset, ALL, 200),
    "find_offset": lambda log, frame: log.find_offset(frame.base_offset),
    "find_timestamp": lambda log, frame: log.find_timestamp(newer(frame)),
    "find_offset_at": lambda log, frame: log.find_offset_at(newer(frame)),
}


def fitting(log: SegmentedLog, what: str, frame: EntryFrame, found: object, history: list[EntryFrame]) -> bool:
    """Whether the answer is right for the log as it is when it is given."""
    if isinstance(found, list):
        at_offset = what != "read_by_offset" or found[0].base_offset <= frame.base_offset < found[0].end_offset
        return at_offset and found == history[found[0].index - 1 : found[-1].index]
    if what in ("read_raw", "read_raw_before"):
        return list(decode_entries(b"".join(found.buffers))) == history[found.first_index - 1 : found.last_index]  # type: ignore[attr-defined]
    if what == "find_offset":
        entry = history[int(found) - 1]  # type: ignore[call-overload]
        return bool(entry.base_offset <= frame.base_offset < entry.end_offset)
    newer_ones = [entry for entry in history if entry.record_count and entry.last_timestamp_ns >= newer(frame)]
    if what == "find_timestamp":
        return found == (newer_ones[0].index if newer_ones else history[-1].index + 1)
    return found == (newer_ones[0].base_offset if newer_ones else history[-1].end_offset)


def wanted(last: int) -> EntryFrame:
    return next(frame for frame in reversed(OLD[:last]) if frame.record_count)


@pytest.mark.parametrize("tail_cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize("last", [10, KEPT + 8, 40])
@pytest.mark.parametrize("what", READS)
async def test_a_suffix_is_replaced_at_any_moment(what: str, last: int, tail_cache_bytes: int) -> None:
    """By fewer entries or by more. The read gives what is there when it returns, or says that it is gone; nothing else."""
    frame = wanted(last)
    settings = default(
        LogSettings, segment_bytes=1200, preallocate_bytes=0, tail_cache_bytes=tail_cache_bytes, index_interval_bytes=300
    )
    for steps in range(STEPS_MAX):
        for new in NEW.values():
            disk = SimDisk(random.Random(1))
            async with open_segmented_log(disk, "/log", settings, SealedSegments(2)) as log:
                await log.append(OLD)
                is_done = trio.Event()

                async def replace(log: SegmentedLog = log, new: list[EntryFrame] = new, steps: int = steps) -> None:
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    await log.append(new)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(replace)
                    try:
                        found = await READS[what](log, frame)
                    except IndexError:
                        assert what in ("read", "read_raw", "read_raw_before")
                        assert log.term(log.last_index) == 2 or log.last_index == KEPT
                    except OffsetOutOfRange:
                        assert what in ("read_by_offset", "find_offset")
                        assert frame.base_offset >= log.log_end_offset
                    else:
                        history = OLD if log.last_index == 40 and log.last_term == 1 else (OLD[:KEPT] + new)[: log.last_index]
                        assert fitting(log, what, frame, found, history)
                    is_done.set()


@pytest.mark.parametrize("tail_cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize("last", [10, 40])
@pytest.mark.parametrize("what", READS)
async def test_the_log_is_closed_at_any_moment(
    what: str, last: int, tail_cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read is answered, or the log says that it is closed; it is no damage, and no file stays open behind it."""
    frame = wanted(last)
    settings = default(LogSettings, segment_bytes=1200, preallocate_bytes=0, tail_cache_bytes=tail_cache_bytes)
    opened: list[SimFile] = []
    real_open = SimDisk.open

    async def watched(self: SimDisk, *arguments: object, **options: object) -> SimFile:
        file = await real_open(self, *arguments, **options)  # type: ignore[arg-type]
        opened.append(file)
        return file

    monkeypatch.setattr(SimDisk, "open", watched)
    refused = 0
    for steps in range(STEPS_MAX):
        disk = SimDisk(random.Random(1))
        async with trio.open_nursery() as nursery, open_segmented_log(disk, "/log", settings, SealedSegments(2)) as log:
            await log.append(OLD)

            async def read(log: SegmentedLog = log) -> None:
                nonlocal refused
                try:
                    assert fitting(log, what, frame, await READS[what](log, frame), OLD)
                except StorageFailed:
                    refused += 1

            nursery.start_soon(read)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
        assert all(file._failure for file in opened), "all of them are closed"
        opened.clear()
    assert refused or tail_cache_bytes


async def test_a_file_is_not_closed_under_a_thread_that_reads_it(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptor could be that of another file by then."""
    disk = RealDisk()
    file = await disk.open(f"{tmp_path}/a", create=True)
    content = bytes(range(256)) * 4096
    await file.write_at(0, [content])
    found: list[bytes] = []
    goes_on = threading.Event()
    preadv = os.preadv

    def held_up(*arguments: Any) -> int:
        assert goes_on.wait(60)
        return preadv(*arguments)

    async def read() -> None:
        found.append(bytes(await file.read_at(0, len(content))))

    monkeypatch.setattr(os, "preadv", held_up)
    file._nowait = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert not found
        await file.close()
        other = await disk.open(f"{tmp_path}/b", create=True)
        await other.write_at(0, [bytes(len(content))])
        goes_on.set()
    assert found == [content]
    assert file._descriptor < 0
    with pytest.raises(StorageFailed, match="closed"):
        await file.read_at(0, 1)
    await other.close()
