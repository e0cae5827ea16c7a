"""Reads of an open log, at any time, also while a segment is rolled or a suffix or prefix removed.

A reader waits for the disk, and entries may be removed meanwhile. Then whatever the reader saw proves nothing: it starts again.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from trio_eventlog.codec.entry import LENGTH_BYTES, EntryFrame
from trio_eventlog.codec.sparse_index import SparseIndex
from trio_eventlog.errors import CodecError, DamagedData, OffsetOutOfRange
from trio_eventlog.storage.disk import File
from trio_eventlog.storage.frame_block import FrameBlock, FrameRange, damaged, frame_header, frame_range
from trio_eventlog.storage.log_contents import LogContents, OpenSegment
from trio_eventlog.storage.log_files import LogFiles
from trio_eventlog.storage.segment import Paced, SegmentContents, check_frames, read_footer
from trio_eventlog.storage.tail_cache import TailCache

T = TypeVar("T")


class LogReader:
    """Reads durable entries, from the tail cache or from the segments. The methods are described at `SegmentedLog`."""

    def __init__(self, contents: LogContents, files: LogFiles, cache: TailCache) -> None:
        self._contents = contents
        self._files = files
        self._cache = cache

    async def read(self, first: int, last: int, max_bytes: int) -> list[EntryFrame]:
        frames = await self._cached_durable(first, last, max_bytes)
        if frames is not None:
            return frames
        block = await self._repeated(lambda: self._load(first, last, max_bytes))
        return block.frames(first, last, max_bytes)

    async def read_raw(self, first: int, last: int, max_bytes: int) -> FrameRange:
        frames = await self._cached_durable(first, last, max_bytes)
        if frames is not None:
            return frame_range(frames)
        block = await self._repeated(lambda: self._load(first, last, max_bytes))
        return block.raw(first, last, max_bytes)

    async def read_raw_before(self, last: int, max_bytes: int) -> FrameRange:
        """As `read_raw`, backwards: the frames that end with `last`, of one segment, of about `max_bytes`, but at least one. They
        begin with an entry that the sparse index lists, or with the log.

        Raises as `read_raw`.
        """

        async def read_from_slot() -> FrameRange:
            self._check_range(last, last)
            segment = self._contents.segment_of_index(last)
            _, sparse = await self._acquire(segment)
            try:
                slot = sparse.slot_of_index(last)
                end = sparse.positions[slot + 1] if slot + 1 < len(sparse) else segment.contents.frames_bytes
                first = sparse.indexes[min(slot, bisect_left(sparse.positions, max(0, end - max_bytes)))]
            finally:
                await self._files.release(segment)
            return await self.read_raw(first, last, end)

        return await self._repeated(read_from_slot)

    async def read_by_offset(self, offset: int, end_offset: int, max_bytes: int) -> list[EntryFrame]:
        if offset >= end_offset:
            raise self._out_of_range(offset)

        async def read_from_offset() -> list[EntryFrame]:
            index = await self.find_offset(offset)
            return await self.read(index, self._contents.last_index, max_bytes)

        frames = await self._repeated(read_from_offset)
        while frames[-1].base_offset >= end_offset:
            frames.pop()
        return frames

    async def find_offset(self, offset: int) -> int:
        self._check_offset(offset)
        index = self._cache.find_offset(offset)
        if index is not None and index <= self._cache.persisted_index:
            removals = self._contents.removals
            await trio.lowlevel.checkpoint()
            if removals == self._contents.removals:
                return index

        async def find_on_disk() -> int:
            self._check_offset(offset)
            segment = self._contents.segment_of_offset(offset)
            return await self._find_in_block(segment, lambda sparse: sparse.slot_of_offset(offset), _holds_offset, offset)

        return await self._repeated(find_on_disk)

    async def find_timestamp(self, timestamp_ns: int) -> int:
        async def find() -> int:
            segment = self._contents.first_segment_reaching(timestamp_ns)
            if segment is None:
                # The next entry appended is the answer, whatever its timestamp.
                next_index = self._contents.last_index + 1
                await trio.lowlevel.checkpoint()
                return next_index
            return await self._find_in_block(
                segment, lambda sparse: sparse.slot_of_timestamp(timestamp_ns), _reaches_timestamp, timestamp_ns
            )

        return await self._repeated(find)

    async def find_offset_at(self, timestamp_ns: int) -> int:
        async def find() -> int:
            index = await self.find_timestamp(timestamp_ns)
            if index > self._contents.last_index:
                return self._contents.end_offset
            (frame,) = await self.read(index, index, 1)
            return max(frame.base_offset, self._contents.start_offset)

        return await self._repeated(find)

    async def check(self, paced: Paced) -> None:
        """Read all durable frames from the disk, segment by segment, checksums and footers checked.

        Args:
            paced: awaited before each read, with its size in bytes.

        Raises:
            DamagedData: with path and position. What comes behind it was not looked at.
            ResourceShortage.
        """
        for segment in list(self._contents.segments):
            await self._check_segment(segment, paced)

    async def _check_segment(self, segment: OpenSegment, paced: Paced) -> None:
        """Check the frames that the segment has now. What was removed meanwhile, of it or before it, proves nothing."""
        if self._files.is_closed or segment.is_removed:
            return
        removals = self._contents.removals
        expected = segment.contents.footer() if segment.contents.frames_bytes else None
        is_sealed = segment.is_sealed
        if expected is None:
            return
        try:
            file = await self._files.disk.open(segment.path, writes=False)
            try:
                if is_sealed and await read_footer(file) != expected:
                    raise CodecError("its footer is another one")
                again = SegmentContents(expected.base_index, expected.base_offset, self._files.settings.index_interval_bytes)
                await check_frames(file, again, expected.frames_bytes, paced)
                if again.footer() != expected:
                    raise CodecError("the frames are not those that were written")
            finally:
                await file.close()
        except (FileNotFoundError, CodecError, DamagedData) as error:
            if removals != self._contents.removals or segment.is_removed or self._files.is_closed:
                return
            if isinstance(error, DamagedData):
                raise
            raise damaged(segment.path, expected.frames_bytes, expected.base_index, str(error)) from error

    async def _repeated(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of the first `attempt` during which nothing was removed.

        An attempt that was disturbed may return a stale result, or fail: with DamagedData, because a file was cut or removed under
        it, or with IndexError, because the entry it looked for is gone. Neither counts. Each attempt therefore checks its
        arguments against the log as it is then.
        """
        contents = self._contents
        while True:
            removals = contents.removals
            try:
                result = await attempt()
            except (DamagedData, IndexError):
                if removals == contents.removals:
                    raise
            else:
                if removals == contents.removals:
                    return result

    async def _cached_durable(self, first: int, last: int, max_bytes: int) -> list[EntryFrame] | None:
        """From the tail cache, without what is only staged; None when `first` has to be read from the disk."""
        self._check_range(first, last)
        cache = self._cache
        if first < cache.first_index:
            return None
        await trio.lowlevel.checkpoint()
        self._check_range(first, last)
        persisted_index = cache.persisted_index
        return cache.get(first, min(last, persisted_index), max_bytes) if first <= persisted_index else None

    def _check_range(self, first: int, last: int) -> None:
        contents = self._contents
        if not contents.base.index < first <= last <= contents.last_index:
            raise IndexError(f"entries {first}..{last} are not within {contents.first_index}..{contents.last_index}")

    def _check_offset(self, offset: int) -> None:
        if not self._contents.start_offset <= offset < self._contents.end_offset:
            raise self._out_of_range(offset)

    def _out_of_range(self, offset: int) -> OffsetOutOfRange:
        start, end = self._contents.start_offset, self._contents.end_offset
        return OffsetOutOfRange(
            f"offset {offset} is not among {start}..{end - 1} held in {self._files.directory}",
            log_start_offset=start,
            high_watermark=end,
        )

    async def _acquire(self, segment: OpenSegment) -> tuple[File, SparseIndex]:
        """The file and the sparse index of `segment`, held open until it is released."""
        removals = self._contents.removals
        await self._files.acquire(segment)
        file, sparse = segment.file, segment.contents.sparse
        if removals != self._contents.removals or file is None or sparse is None:
            await self._files.release(segment)
            raise DamagedData(f"{segment.path}: changed meanwhile")  # never seen outside: `_repeated` starts again
        return file, sparse

    async def _load(self, first: int, last: int, max_bytes: int) -> FrameBlock:
        """One read that holds the frame `first` whole, and further ones up to `last` or about `max_bytes`."""
        self._check_range(first, last)
        segment = self._contents.segment_of_index(first)
        file, sparse = await self._acquire(segment)
        try:
            contents = segment.contents
            slot = sparse.slot_of_index(first)
            start = sparse.positions[slot]
            first_end = sparse.positions[slot + 1] if slot + 1 < len(sparse) else contents.frames_bytes
            beyond = bisect_right(sparse.indexes, last)
            end = sparse.positions[beyond] if beyond < len(sparse) else contents.frames_bytes
            wanted = (start if sparse.indexes[slot] == first else first_end) + max_bytes
            stop = min(end, max(first_end, wanted))
            first_listed = sparse.indexes[slot]
            last = min(last, contents.last_index)
            data = await file.read_at(start, stop - start)
            if len(data) != stop - start:
                raise DamagedData(
                    f"{segment.path}: ends at byte {start + len(data)}, but held {contents.frames_bytes} bytes of frames",
                    path=segment.path,
                    position=start + len(data),
                )
            return FrameBlock(segment.path, sparse, memoryview(data), start, first_listed, last, stop < end)
        finally:
            await self._files.release(segment)

    async def _find_in_block(
        self,
        segment: OpenSegment,
        slot_of: Callable[[SparseIndex], int],
        is_wanted: Callable[[tuple[int, ...], int], bool],
        value: int,
    ) -> int:
        """Index of the first entry, from the slot that `slot_of` gives on, whose header `is_wanted`."""
        _, sparse = await self._acquire(segment)
        try:
            slot = slot_of(sparse)
            index = sparse.indexes[slot]
            data, position = await self._files.read_block(segment, slot)
        finally:
            await self._files.release(segment)
        view = memoryview(data)
        start = 0
        while start < len(view):
            header = frame_header(segment.path, view, start, position, index)
            if is_wanted(header, value):
                return index
            start += LENGTH_BYTES + header[0]
            index += 1
        raise DamagedData(
            f"{segment.path}: the entry looked for is not between bytes {position} and {position + len(view)}",
            path=segment.path,
            position=position,
        )


def _holds_offset(header: tuple[int, ...], offset: int) -> bool:
    return header[7] <= offset < header[7] + header[8]


def _reaches_timestamp(header: tuple[int, ...], timestamp_ns: int) -> bool:
    return bool(header[8]) and header[11] >= timestamp_ns
