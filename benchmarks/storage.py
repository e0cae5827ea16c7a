"""The cost of the log beside the bare system calls, in the same run on the same directory.

    python benchmarks/storage.py [directory]

Appends: `SegmentedLog.append` against a plain pwritev and fdatasync of the same bytes to a preallocated file, in turns, so that
both see the same disk. Sketch: an append is one thread hop (about 50 microseconds on an idle machine) and a few microseconds per
frame on top of the write; above 64 KiB the write and the sync should be nearly all of it.
Reads: one megabyte from the tail cache, from the page cache without a thread, and by a thread.
"""

import argparse
import cProfile
import os
import pstats
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import trio

from trio_eventlog.codec.entry import EntryFrame, EntryKind, encode_entry
from trio_eventlog.storage import real_disk
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.storage.segmented_log import SegmentedLog, open_segmented_log
from trio_eventlog.testing.defaults import default


def make_frames(count: int, payload: bytes, first: int) -> list[EntryFrame]:
    return [
        encode_entry(
            EntryKind.DATA, term=1, index=index, base_offset=index - 1, record_count=1, last_timestamp_ns=index, payload=payload
        )
        for index in range(first, first + count)
    ]


def median(times: list[float]) -> float:
    return statistics.median(times) * 1e6


async def compare_appends(directory: str, count: int, payload_bytes: int, rounds: int, fills_with_zeros: bool) -> None:
    payload = random.Random(1).randbytes(payload_bytes)
    size_bytes = count * (payload_bytes + 64)
    limiter = trio.CapacityLimiter(8)
    disk = RealDisk(limiter, fills_with_zeros=fills_with_zeros)
    paths = [os.path.join(directory, name) for name in ("bare", "threaded")]
    for path in paths:
        made = await disk.open(path, create=True)
        await made.preallocate(size_bytes * rounds)
        await made.sync()
        await made.close()
    descriptors = [os.open(path, os.O_RDWR) for path in paths]

    def write(descriptor: int, buffers: list[bytes], position: int) -> None:
        os.pwritev(descriptor, buffers, position)
        os.fdatasync(descriptor)

    bare: list[float] = []
    threaded: list[float] = []
    appended: list[float] = []
    cpu_seconds = process_cpu_seconds = 0.0
    async with open_segmented_log(disk, os.path.join(directory, "log"), default(LogSettings, tail_cache_bytes=4 << 20)) as log:
        for number in range(rounds):
            frames = make_frames(count, payload, log.last_index + 1)
            buffers = [bytes(frame.raw) for frame in frames]
            position = number * size_bytes
            turns = [0, 1, 2]
            random.Random(number).shuffle(turns)
            for turn in turns:
                start = time.perf_counter()
                if turn == 0:
                    write(descriptors[0], buffers, position)
                    bare.append(time.perf_counter() - start)
                elif turn == 1:
                    await real_disk.run_in_thread(lambda: write(descriptors[1], buffers, position), limiter)  # noqa: B023
                    threaded.append(time.perf_counter() - start)
                else:
                    cpu_start, process_start = time.thread_time(), time.process_time()
                    await log.append(frames)
                    cpu_seconds += time.thread_time() - cpu_start
                    process_cpu_seconds += time.process_time() - process_start
                    appended.append(time.perf_counter() - start)
    for descriptor, path in zip(descriptors, paths, strict=True):
        os.close(descriptor)
        os.remove(path)
    shutil.rmtree(os.path.join(directory, "log"))
    print(
        f"append {count:4} x {payload_bytes:6} B: bare {median(bare):7.0f} us  in a thread {median(threaded):7.0f} us  "
        f"log {median(appended):7.0f} us  log/bare {median(appended) / median(bare):4.2f}  log/thread "
        f"{median(appended) / median(threaded):4.2f}  CPU of the loop {cpu_seconds / rounds * 1e6:4.0f} us, of the process "
        f"{process_cpu_seconds / rounds * 1e6:4.0f} us"
    )


async def profile_appends(count: int, payload_bytes: int, rounds: int, show: bool) -> None:
    """The loop's own work per append, with a disk that does nothing."""

    class NoFile:
        path = "none"
        size_bytes = 1 << 40

        async def write_and_sync(self, position: int, buffers: list[bytes]) -> None:
            await trio.lowlevel.checkpoint()

        async def close(self) -> None:
            await trio.lowlevel.checkpoint()

    class NoDisk(RealDisk):
        async def open(self, path: str, *, create: bool = False) -> NoFile:  # type: ignore[override]
            return NoFile()

        async def sync_directory(self, path: str) -> None: ...

    payload = random.Random(1).randbytes(payload_bytes)
    with tempfile.TemporaryDirectory() as directory:
        settings = default(LogSettings, segment_bytes=1 << 40, index_entries_max=1 << 30)
        async with open_segmented_log(NoDisk(), directory, settings) as log:
            batches = [make_frames(count, payload, 1 + number * count) for number in range(rounds)]
            profiler = cProfile.Profile()
            start = time.perf_counter()
            if show:
                profiler.enable()
            for frames in batches:
                log.stage(frames)
                await log.append(frames)
            profiler.disable()
            seconds = time.perf_counter() - start
    microseconds = seconds / rounds * 1e6
    print(f"own work: {count:4} x {payload_bytes:6} B: {microseconds:6.1f} us per append, {microseconds / count:5.2f} per frame")
    if show:
        pstats.Stats(profiler, stream=sys.stdout).sort_stats("tottime").print_stats(14)


async def time_reads(directory: str, payload_bytes: int) -> None:
    payload = random.Random(1).randbytes(payload_bytes)
    count = (8 << 20) // payload_bytes

    async def measure(what: str, log: SegmentedLog, read: Callable[[int], object], rounds: int = 100) -> None:
        rng = random.Random(2)
        times = []
        for _ in range(rounds):
            first = rng.randint(1, count - (1 << 20) // payload_bytes)
            start = time.perf_counter()
            await read(first)  # type: ignore[misc]
            times.append(time.perf_counter() - start)
        print(f"read 1 MiB of {payload_bytes} B frames, {what}: {median(times):6.0f} us")

    path = os.path.join(directory, "reads")
    for cache_bytes, inline_bytes, what in (
        (64 << 20, 1 << 20, "tail cache"),
        (0, 1 << 22, "page cache, no thread"),
        (0, 0, "page cache, by a thread"),
    ):
        real_disk.INLINE_READ_BYTES_MAX = inline_bytes
        settings = default(LogSettings, tail_cache_bytes=cache_bytes)
        async with open_segmented_log(RealDisk(), path, settings) as log:
            if cache_bytes:
                await log.append(make_frames(count, payload, 1))
            await measure(what, log, lambda first: log.read(first, count, 1 << 20))
            await measure(what + ", raw", log, lambda first: log.read_raw(first, count, 1 << 20))
            await measure(what + ", one frame", log, lambda first: log.read(first, first, 0), 500)
    shutil.rmtree(path)


async def main(directory: str, show: bool) -> None:
    for count, payload_bytes in ((1, 200), (100, 200), (1000, 200), (16, 65536)):
        await profile_appends(count, payload_bytes, 300, show)
    for fills_with_zeros in (False, True):
        print("preallocated by", "writing zeros" if fills_with_zeros else "fallocate")
        for count, payload_bytes, rounds in ((1, 200, 300), (100, 200, 300), (1, 65536, 300), (16, 65536, 200)):
            await compare_appends(directory, count, payload_bytes, rounds, fills_with_zeros)
    for payload_bytes in (200, 65536):
        await time_reads(directory, payload_bytes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="the cost of the log beside the bare system calls")
    parser.add_argument("directory", nargs="?", default=".", help="on the disk to measure; a directory is made in it")
    parser.add_argument("--profile", action="store_true", help="show where the loop's own work goes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as made:
        trio.run(main, made, arguments.profile)
