"""The log of one replica: entries in segment files, the newest also in memory.

Who may do what: one appender at a time; readers at any time, also while a segment is rolled or a suffix removed. What is in
memory changes only when the disk has it (append) or before the disk is touched (removal), never across an await in between, so
every plain property is consistent. A reader that waited for the disk looks whether a suffix was removed meanwhile and starts
again if so.
"""

import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from trio_eventlog.codec.entry import HEADER, HEADER_BYTES, LENGTH_BYTES, EntryFrame, decode_entry
from trio_eventlog.codec.segment import BASE_BYTES, MARK_BYTES, LogBase, decode_base, encode_footer, encode_mark
from trio_eventlog.codec.sparse_index import SparseIndex, decode_sparse_index, encode_sparse_index
from trio_eventlog.errors import CodecError, DamagedData, DiskFull, OffsetOutOfRange, ResourceShortage, SettingsError, StorageFailed
from trio_eventlog.storage.disk import Disk, File, join_path, open_present, read_whole
from trio_eventlog.storage.segment import (
    INDEX_SUFFIX,
    SEGMENT_SUFFIX,
    SegmentContents,
    TermRuns,
    judge_tail,
    parse_segment_name,
    read_footer,
    scan,
    segment_name,
)
from trio_eventlog.storage.tail_cache import TailCache

logger = logging.getLogger(__name__)

BASE_FILE = "base"
INDEX_BYTES_MAX = 256 * 1024 * 1024
"""A sparse index file that is longer is taken for damaged."""
CLOSE_SECONDS = 5.0
"""How long closing may hold up a cancellation."""


@attrs.frozen(slots=True, kw_only=True)
class LogSettings:
    """Limits of one log.

    Attributes:
        segment_bytes: roll when the next frames would make the segment longer. A larger frame gets a segment of its own.
        preallocate_bytes: the active segment is made longer by its own size, at most by this. 0: not at all; each append
            changes the size of the file then, and a full disk is a failed write.
        index_interval_bytes: one entry of the sparse index for at least so many bytes of frames.
        index_entries_max: roll when the sparse index of the segment is full.
        tail_cache_bytes: the newest frames kept in memory; frames not yet durable are kept whatever they take.
        open_segments_max: sealed segments whose file and sparse index are kept open.
    """

    segment_bytes: int = 64 * 1024 * 1024
    preallocate_bytes: int = 16 * 1024 * 1024
    index_interval_bytes: int = 16 * 1024
    index_entries_max: int = 16 * 1024
    tail_cache_bytes: int = 16 * 1024 * 1024
    open_segments_max: int = 16

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(type(self)):
            least = 0 if field.name in {"preallocate_bytes", "tail_cache_bytes"} else 1
            if getattr(self, field.name) < least:
                raise SettingsError(f"{field.name} is {getattr(self, field.name)}; it must be at least {least}")


@attrs.frozen(slots=True, kw_only=True)
class LogRecovery:
    """What opening found and did.

    Attributes:
        segments: number of segments held.
        scanned_bytes: how much of the active segment was read.
        torn_path: the active segment when a torn tail was cut from it, else "".
        torn_position: where it was cut.
        torn_bytes: how many bytes that were not zero were cut.
    """

    segments: int = 0
    scanned_bytes: int = 0
    torn_path: str = ""
    torn_position: int = 0
    torn_bytes: int = 0


@attrs.frozen(slots=True, kw_only=True)
class FrameRange:
    """Frames as they are sent: whole frames of first_index..last_index, one after the other across `buffers`, not decoded.

    The checksums of the frames were not looked at: the receiver does.
    """

    first_index: int
    last_index: int
    buffers: list[bytes | memoryview]
    size_bytes: int


@attrs.define(slots=True, eq=False)
class _Segment:
    """A segment of the open log.

    Attributes:
        file: None while a sealed segment is closed.
        users: readers at work on `file`; it stays open while there are any.
        is_removed: its file was removed: close it when the last user has gone.
    """

    path: str
    contents: SegmentContents
    file: File | None = None
    users: int = 0
    is_removed: bool = False

    @property
    def index_path(self) -> str:
        return self.path.removesuffix(SEGMENT_SUFFIX) + INDEX_SUFFIX


class SegmentedLog:
    """The log of one replica. One appender at a time; readers at any time, also during a roll or a truncation.

    Properties and plain methods never touch the disk and describe what is durable, except where they say "staged".
    """

    def __init__(self, disk: Disk, directory: str, settings: LogSettings) -> None:
        """Use `open_segmented_log`."""
        self._disk = disk
        self._directory = directory
        self._settings = settings
        self._segments: list[_Segment] = []
        self._base_indexes: list[int] = []  # of _segments, for bisection
        self._active: _Segment | None = None  # the last of _segments, when it is not sealed
        self._base = LogBase()
        self._terms = TermRuns(0, 0)
        self._cache = TailCache(settings.tail_cache_bytes)
        self._last_index = 0
        self._is_appending = False
        self._is_closed = False
        self._failure = ""
        self._truncations = 0
        self._opening = trio.Lock()
        self._opened: dict[_Segment, None] = {}  # sealed segments with an open file, the least recently used first
        self.recovery = LogRecovery()
        self.rebuilt_indexes = 0
        """Sparse indexes made anew since opening, because their file was missing or did not fit."""

    # What is there.

    @property
    def first_index(self) -> int:
        """Index of the first entry held; `last_index + 1` when there is none."""
        return self._base.index + 1

    @property
    def last_index(self) -> int:
        """Index of the last durable entry; `first_index - 1` when there is none."""
        return self._last_index

    @property
    def last_term(self) -> int:
        """Term of the entry at `last_index`; the base term when there is none."""
        return self._terms.term(self._last_index)

    @property
    def staged_last_index(self) -> int:
        """Index of the last entry staged; `last_index` when nothing is."""
        return self._cache.end_index - 1 if self._cache.holds_staged else self._last_index

    @property
    def log_start_offset(self) -> int:
        """Smallest offset held."""
        return self._base.offset

    @property
    def log_end_offset(self) -> int:
        """One past the offset of the last durable record."""
        return self._segments[-1].contents.end_offset if self._segments else self._base.offset

    @property
    def size_bytes(self) -> int:
        """Bytes of all frames on disk."""
        return sum(segment.contents.frames_bytes for segment in self._segments)

    @property
    def segment_count(self) -> int:
        return len(self._segments)

    def term(self, index: int) -> int:
        """Term of the durable entry at `index`; for `first_index - 1` the base term (0 at the beginning of the log).

        Raises IndexError outside first_index - 1 .. last_index.
        """
        if not self._base.index <= index <= self._last_index:
            raise IndexError(f"entry {index} is not among {self._base.index}..{self._last_index}")
        return self._terms.term(index)

    def last_index_not_after(self, index: int, term: int) -> int:
        """The largest durable index up to `index` whose term is at most `term`; `first_index - 1` when there is none."""
        return self._terms.last_index_not_after(index, term)

    def last_index_within(self, first: int, last: int, max_bytes: int) -> int:
        """An index such that the frames first..it take at most `max_bytes`; at least `first`, at most `last`.

        Exact for frames in the tail cache (staged ones too); below it may be too small, never too large.
        """
        found = self._cache.last_index_within(first, last, max_bytes)
        if found is not None:
            return found
        if not self.first_index <= first <= self._last_index:
            return first
        contents = self._segment_of_index(first).contents
        sparse = contents.sparse
        if sparse is None:
            return first  # not loaded: the read that follows loads it
        slot = sparse.slot_of_index(first)
        limit = sparse.positions[slot] + max_bytes
        if contents.frames_bytes <= limit:
            return min(last, contents.last_index)
        beyond = bisect_right(sparse.positions, limit) - 1
        return max(first, min(last, sparse.indexes[beyond] - 1))

    def cached(self, first: int, last: int, max_bytes: int) -> list[EntryFrame] | None:
        """As `read`, from memory alone, staged frames too; None when `first` is not there."""
        return self._cache.get(first, last, max_bytes)

    # Appending.

    def stage(self, frames: Sequence[EntryFrame]) -> None:
        """Make frames readable by `cached` and `last_index_within` before they are durable; `append` them next.

        Frames may be staged on top of others that wait for their append or are being written, and may replace them: from then on
        nobody is given those from memory. Each run of frames that was staged is appended all the same, in order. An index is at
        most `staged_last_index + 1`.
        """
        if frames:
            assert self._base.index < frames[0].index <= self.staged_last_index + 1, "staged frames leave a gap"
            self._cache.stage(frames)

    async def append(self, frames: Sequence[EntryFrame]) -> None:
        """Durable when this returns: one vectored write and one fdatasync, when no roll and no truncation is in it.

        The first index is at most `last_index + 1`; when it is smaller, the entries from there on are removed first, durably: a
        crash in between leaves a prefix of the old log, or of the new. Who stages nothing need not stage these frames either.
        Not cancelled halfway.

        Raises:
            CodecError: offsets or indexes leave a gap, or terms go back. Nothing was changed.
            DiskFull: no room. What went to earlier segments of the same call is appended, the rest is not, and nothing is staged.
            ResourceShortage: no descriptor for a new segment; as DiskFull. The same frames may be appended again.
            StorageFailed: a write or sync failed. The log refuses all further appends.
        """
        assert not self._is_appending, "one append at a time"
        if self._failure:
            raise StorageFailed(f"{self._directory}: refused, because {self._failure}")
        await trio.lowlevel.checkpoint_if_cancelled()
        if not frames:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        self._is_appending = True
        try:
            # Each step is bounded by the disk; a cancellation between two of them would leave memory and disk apart.
            with trio.CancelScope(shield=True):
                await self._append(frames)
        except (DiskFull, ResourceShortage):
            self._cache.truncate(self._cache.persisted_index + 1)
            raise
        except (StorageFailed, OSError) as error:
            self._failure = self._failure or f"an earlier append failed: {error}"
            raise
        finally:
            self._is_appending = False

    async def _append(self, frames: Sequence[EntryFrame]) -> None:
        first = frames[0].index
        assert self._base.index < first <= self._last_index + 1, f"entry {first} leaves a gap after {self._last_index}"
        if first <= self._last_index:
            cut = await self._locate(first)
            try:
                _check_run(frames, self._terms.term(first - 1), cut.end_offset)
                self._stage_missing(frames)
                await self._remove_suffix(first, cut)
            finally:
                await self._release(cut.segment)
        else:
            _check_run(frames, self.last_term, self.log_end_offset)
            self._stage_missing(frames)
        start = 0
        while start < len(frames):
            active = self._active or await self._create_segment(frames[start])
            end = self._fitting(active.contents, frames, start)
            if end == start:
                await self._seal(active)
                continue
            await self._write(active, frames[start:end] if end - start < len(frames) else frames)
            start = end

    def _stage_missing(self, frames: Sequence[EntryFrame]) -> None:
        # Of a caller who stages, frames that are not held have been replaced while they waited, by what is staged now.
        if not self._cache.holds_staged:
            self._cache.stage(frames)

    def _fitting(self, contents: SegmentContents, frames: Sequence[EntryFrame], start: int) -> int:
        """The end of the run from `start` that fits the segment; `start` when not even one frame does."""
        assert contents.sparse is not None
        # One write may list several slots; the limit is looked at between writes, so one write may pass it.
        if len(contents.sparse) >= self._settings.index_entries_max:
            return start
        room = self._settings.segment_bytes - contents.frames_bytes
        end = start
        while end < len(frames):
            room -= len(frames[end].raw)
            if room < 0:
                break
            end += 1
        if end == start and not contents.frames_bytes:
            return start + 1  # larger than a segment: one of its own
        return end

    async def _write(self, segment: _Segment, frames: Sequence[EntryFrame]) -> None:
        contents, file = segment.contents, segment.file
        assert file is not None
        position = contents.frames_bytes
        buffers = [frame.raw for frame in frames]
        end = position + sum(map(len, buffers))
        buffers.append(encode_mark(position, end))
        await self._preallocate(file, end + MARK_BYTES)
        is_new = not position
        await file.write_and_sync(position, buffers)
        if is_new:
            # The name is made durable after the first frames, so that what is found by name is never empty.
            await self._disk.sync_directory(self._directory)
        runs = len(contents.term_runs)
        contents.add(frames)
        for first_index, term in contents.term_runs[runs:]:
            self._terms.add(first_index, term)
        self._last_index = contents.last_index
        self._cache.mark_persisted(frames)

    async def _preallocate(self, file: File, needed_bytes: int) -> None:
        step_bytes = min(self._settings.preallocate_bytes, max(file.size_bytes, _PREALLOCATE_BYTES_MIN))
        if step_bytes and needed_bytes > file.size_bytes:
            await file.preallocate((needed_bytes + step_bytes - 1) // step_bytes * step_bytes)

    async def _create_segment(self, frame: EntryFrame) -> _Segment:
        path = join_path(self._directory, segment_name(frame.index))
        file = await self._disk.open(path, create=True)
        contents = SegmentContents(frame.index, frame.base_offset, self._settings.index_interval_bytes)
        segment = _Segment(path, contents, file)
        self._add_segment(segment)
        self._active = segment
        return segment

    def _add_segment(self, segment: _Segment) -> None:
        self._segments.append(segment)
        self._base_indexes.append(segment.contents.base_index)

    async def _seal(self, segment: _Segment) -> None:
        contents, file = segment.contents, segment.file
        assert file is not None
        footer = encode_footer(contents.footer())
        end = contents.frames_bytes + len(footer)
        await file.preallocate(end)  # nearly always there; a full disk shows here, before anything is written
        await file.write_at(contents.frames_bytes, [footer])
        await file.truncate(end)
        await file.sync()
        self._active = None
        self._opened[segment] = None
        await self._write_sparse_index(segment)
        await self._close_surplus()

    async def _write_sparse_index(self, segment: _Segment) -> None:
        """Put the sparse index beside a sealed segment. Not synced: it is a cache."""
        contents = segment.contents
        assert contents.sparse is not None
        data = encode_sparse_index(
            contents.sparse,
            base_index=contents.base_index,
            frames_bytes=contents.frames_bytes,
            frames_checksum=contents.frames_checksum,
        )
        try:
            await self._remove_if_there(segment.index_path)
            file = await self._disk.open(segment.index_path, create=True)
            try:
                await file.write_at(0, [data])
            finally:
                await file.close()
        except (DiskFull, ResourceShortage, StorageFailed) as error:
            # It is made again when it is missed. What must not be lost is written elsewhere, and fails there for itself.
            logger.warning("the sparse index %s could not be written: %s", segment.index_path, error)

    async def _locate(self, first: int) -> "_Cut":
        """Where to cut so that `first` is the first entry gone. The segment is acquired for the caller."""
        segment = self._segment_of_index(first)
        contents = segment.contents
        await self._acquire(segment)
        try:
            if first == contents.base_index:
                return _Cut(segment, 0, [], contents.base_offset)
            assert contents.sparse is not None
            slot = contents.sparse.slot_of_index(first)
            data, position = await self._read_block(segment, slot)
            view = memoryview(data)
            kept: list[EntryFrame] = []
            start = 0
            for index in range(contents.sparse.indexes[slot], first + 1):
                frame = _decode(segment.path, view, start, position, index)
                kept.append(frame)
                start += len(frame.raw)
            return _Cut(segment, slot, kept[:-1], kept[-1].base_offset)
        except BaseException:
            await self._release(segment)
            raise

    async def _remove_suffix(self, first: int, cut: "_Cut") -> None:
        """Durably remove the entries from `first` on.

        The newest segment goes first and each removal is synced before the next, so whatever a crash leaves is a prefix.
        """
        # Memory first and at once: from here on nobody is given an entry that is going away.
        self._truncations += 1
        self._terms.truncate(first)
        self._last_index = first - 1
        self._active = None
        removed: list[_Segment] = []
        while self._segments and self._segments[-1].contents.base_index >= first:
            removed.append(self._segments.pop())
            self._base_indexes.pop()
            self._opened.pop(removed[-1], None)
        shortened = self._segments[-1] if self._segments and self._segments[-1] is cut.segment else None
        if shortened is not None:
            shortened.contents.rewind(cut.slot)
            if cut.kept:
                shortened.contents.add(cut.kept)
            self._opened.pop(shortened, None)
            self._active = shortened
        for segment in removed:
            await self._remove_segment(segment)
        if shortened is not None:
            assert shortened.file is not None
            await shortened.file.truncate(shortened.contents.frames_bytes)
            await shortened.file.sync()
            await self._remove_if_there(shortened.index_path)

    async def _remove_segment(self, segment: _Segment) -> None:
        segment.is_removed = True
        await self._remove_if_there(segment.index_path)
        await self._disk.remove(segment.path)
        await self._disk.sync_directory(self._directory)
        if not segment.users:
            await _close(segment)

    async def _remove_if_there(self, path: str) -> None:
        if await self._disk.exists(path):
            await self._disk.remove(path)

    # Reading.

    async def read(self, first: int, last: int, max_bytes: int) -> list[EntryFrame]:
        """The durable frames first..last, cut to fit `max_bytes`, but at least one. From the tail cache, or by one read of the
        disk, checksums checked.

        Raises:
            IndexError: first..last is not within first_index..last_index.
            DamagedData: with path and position.
        """
        self._check_range(first, last)
        if self._cache.first_index <= first:
            await trio.lowlevel.checkpoint()
            self._check_range(first, last)
            frames = self._cached_durable(first, last, max_bytes)
            if frames is not None:
                return frames
        while True:
            truncations = self._truncations
            try:
                span = await self._load(first, last, max_bytes)
                if truncations == self._truncations:
                    return span.frames(first, last, max_bytes)
            except DamagedData:
                if truncations == self._truncations:
                    raise
            self._check_range(first, last)

    async def read_raw(self, first: int, last: int, max_bytes: int) -> FrameRange:
        """As `read`, but not decoded and checksums not looked at: for sending on as they are, to a receiver who does."""
        self._check_range(first, last)
        if self._cache.first_index <= first:
            await trio.lowlevel.checkpoint()
            self._check_range(first, last)
            frames = self._cached_durable(first, last, max_bytes)
            if frames is not None:
                return frame_range(frames)
        while True:
            truncations = self._truncations
            try:
                span = await self._load(first, last, max_bytes)
                if truncations == self._truncations:
                    return span.raw(first, last, max_bytes)
            except DamagedData:
                if truncations == self._truncations:
                    raise
            self._check_range(first, last)

    async def read_by_offset(self, offset: int, end_offset: int, max_bytes: int) -> list[EntryFrame]:
        """Frames from the one that holds the record at `offset`, all whose records begin below `end_offset`, cut to fit
        `max_bytes`, but at least one. Frames without records in between are included.

        Raises:
            OffsetOutOfRange: `offset` is below `log_start_offset` or not below both `end_offset` and `log_end_offset`.
            DamagedData: with path and position.
        """
        if offset >= end_offset:
            raise self._out_of_range(offset)
        while True:
            truncations = self._truncations
            index = await self.find_offset(offset)
            try:
                frames = await self.read(index, self._last_index, max_bytes)
            except IndexError:
                # What was to be read along was cut off meanwhile, or that very entry; then `find_offset` says so.
                if truncations == self._truncations:
                    raise
                continue
            if truncations == self._truncations:
                break
        while frames[-1].base_offset >= end_offset:
            frames.pop()
        return frames

    async def find_offset(self, offset: int) -> int:
        """Index of the entry that holds the record at `offset`. Raises as `read_by_offset`."""
        if not self._base.offset <= offset < self.log_end_offset:
            raise self._out_of_range(offset)
        truncations = self._truncations
        index = self._cache.find_offset(offset)
        if index is not None and index <= self._cache.persisted_index:
            await trio.lowlevel.checkpoint()
            if truncations == self._truncations:
                return index
            if offset >= self.log_end_offset:
                raise self._out_of_range(offset)
        while True:
            truncations = self._truncations
            segment = self._segments[bisect_right(self._segments, offset, key=_base_offset) - 1]
            try:
                found = await self._find_in_block(segment, lambda sparse: sparse.slot_of_offset(offset), _holds_offset, offset)
                if truncations == self._truncations:
                    return found
            except DamagedData:
                if truncations == self._truncations:
                    raise
            if not self._base.offset <= offset < self.log_end_offset:
                raise self._out_of_range(offset)

    async def find_timestamp(self, timestamp_ns: int) -> int:
        """Index of the first entry with a record stamped at or after `timestamp_ns`; `last_index + 1` when there is none."""
        while True:
            truncations = self._truncations
            for segment in self._segments:
                if segment.contents.max_timestamp_ns >= timestamp_ns and segment.contents.next_index > segment.contents.base_index:
                    break
            else:
                # What is appended from here on is what comes next, whatever its timestamp.
                next_index = self._last_index + 1
                await trio.lowlevel.checkpoint()
                if truncations == self._truncations:
                    return next_index
                continue
            try:
                found = await self._find_in_block(
                    segment, lambda sparse: sparse.slot_of_timestamp(timestamp_ns), _reaches_timestamp, timestamp_ns
                )
                if truncations == self._truncations:
                    return found
            except DamagedData:
                if truncations == self._truncations:
                    raise

    async def find_offset_at(self, timestamp_ns: int) -> int:
        """Offset of the first record of the first entry with one stamped at or after `timestamp_ns`; `log_end_offset` when there is
        none. Raises DamagedData, with path and position."""
        while True:
            truncations = self._truncations
            index = await self.find_timestamp(timestamp_ns)
            if truncations != self._truncations:
                continue
            if index > self._last_index:
                return self.log_end_offset
            try:
                (frame,) = await self.read(index, index, 1)
            except IndexError:
                if truncations == self._truncations:
                    raise
                continue
            if truncations == self._truncations:
                return frame.base_offset

    def _cached_durable(self, first: int, last: int, max_bytes: int) -> list[EntryFrame] | None:
        """From the tail cache, without what is only staged."""
        persisted_index = self._cache.persisted_index
        return self._cache.get(first, min(last, persisted_index), max_bytes) if first <= persisted_index else None

    def _out_of_range(self, offset: int) -> OffsetOutOfRange:
        return OffsetOutOfRange(
            f"offset {offset} is not among {self._base.offset}..{self.log_end_offset - 1} held in {self._directory}",
            log_start_offset=self._base.offset,
            high_watermark=self.log_end_offset,
        )

    def _check_range(self, first: int, last: int) -> None:
        if not self._base.index < first <= last <= self._last_index:
            raise IndexError(f"entries {first}..{last} are not within {self.first_index}..{self._last_index}")

    def _segment_of_index(self, index: int) -> _Segment:
        return self._segments[bisect_right(self._base_indexes, index) - 1]

    async def _load(self, first: int, last: int, max_bytes: int) -> "_Span":
        """One read that holds the frame `first` whole, and further ones up to `last` or about `max_bytes`."""
        segment = self._segment_of_index(first)
        truncations = self._truncations
        await self._acquire(segment)
        try:
            contents, file, sparse = segment.contents, segment.file, segment.contents.sparse
            assert file is not None
            if truncations != self._truncations or sparse is None:
                raise DamagedData(f"{segment.path}: changed meanwhile")  # the caller looks at `_truncations` and starts again
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
            return _Span(segment.path, sparse, memoryview(data), start, first_listed, last, stop < end)
        finally:
            await self._release(segment)

    async def _find_in_block(
        self,
        segment: _Segment,
        slot_of: Callable[[SparseIndex], int],
        is_wanted: Callable[[tuple[int, ...], int], bool],
        value: int,
    ) -> int:
        """Index of the first entry, from the slot that `slot_of` gives on, whose header `is_wanted`."""
        truncations = self._truncations
        await self._acquire(segment)
        try:
            sparse = segment.contents.sparse
            if truncations != self._truncations or sparse is None:
                raise DamagedData(f"{segment.path}: changed meanwhile")  # as in _load
            slot = slot_of(sparse)
            index = sparse.indexes[slot]
            data, position = await self._read_block(segment, slot)
        finally:
            await self._release(segment)
        view = memoryview(data)
        start = 0
        while start < len(view):
            header = _header(segment.path, view, start, position, index)
            if is_wanted(header, value):
                return index
            start += LENGTH_BYTES + header[0]
            index += 1
        raise DamagedData(
            f"{segment.path}: the entry looked for is not between bytes {position} and {position + len(view)}",
            path=segment.path,
            position=position,
        )

    async def _read_block(self, segment: _Segment, slot: int) -> tuple[bytes | bytearray, int]:
        """The frames from the one listed in `slot` up to the next one listed, and their position."""
        sparse, file = segment.contents.sparse, segment.file
        assert sparse is not None
        assert file is not None
        position = sparse.positions[slot]
        end = sparse.positions[slot + 1] if slot + 1 < len(sparse) else segment.contents.frames_bytes
        return await file.read_at(position, end - position), position

    # Files of sealed segments are open only as long as they are among the most recently used.

    async def _acquire(self, segment: _Segment) -> None:
        """Hold the segment's file and sparse index open until `_release`. Raises StorageFailed when the log is closed."""
        self._check_open()
        segment.users += 1
        if segment in self._opened:
            self._opened.pop(segment)
            self._opened[segment] = None
        if segment.file is not None and segment.contents.sparse is not None:
            return
        try:
            async with self._opening:
                if segment.file is None and not segment.is_removed:
                    self._check_open()
                    segment.file = await self._disk.open(segment.path)
                    self._check_open()
                if segment.contents.sparse is None and segment.file is not None:
                    await self._load_sparse_index(segment)
                if not segment.is_removed and segment is not self._active:
                    self._opened[segment] = None
                await self._close_surplus()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._release(segment)
            raise
        if segment.file is None or segment.contents.sparse is None:
            await self._release(segment)
            self._check_open()
            raise DamagedData(f"{segment.path}: removed meanwhile")  # `_truncations` has changed too

    async def _release(self, segment: _Segment) -> None:
        segment.users -= 1
        if segment.users:
            return
        if segment.is_removed or self._is_closed:
            await _close(segment)
        elif len(self._opened) > self._settings.open_segments_max:
            await self._close_surplus()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageFailed(f"{self._directory}: the log is closed")

    async def _close_surplus(self) -> None:
        for segment in list(self._opened):
            if len(self._opened) <= self._settings.open_segments_max:
                return
            if not segment.users:
                del self._opened[segment]
                segment.contents.sparse = None
                await _close(segment)

    async def _load_sparse_index(self, segment: _Segment) -> None:
        contents, file = segment.contents, segment.file
        assert file is not None
        try:
            data = await read_whole(self._disk, segment.index_path, INDEX_BYTES_MAX)
            contents.sparse = decode_sparse_index(
                data,
                base_index=contents.base_index,
                frames_bytes=contents.frames_bytes,
                frames_checksum=contents.frames_checksum,
            )
        except (FileNotFoundError, CodecError, DamagedData):
            again = SegmentContents(contents.base_index, contents.base_offset, self._settings.index_interval_bytes)
            problem = await scan(file, again, contents.frames_bytes)
            if problem is None and again.footer() != contents.footer():
                problem = CodecError("the frames are not those its footer was made of")
            if problem is not None:
                raise _damaged(segment.path, again.frames_bytes, again.next_index, str(problem)) from problem
            contents.sparse = again.sparse
            self.rebuilt_indexes += 1
            await self._write_sparse_index(segment)

    # Opening and closing.

    async def _recover(self) -> None:
        disk, directory = self._disk, self._directory
        try:
            names = await disk.list_directory(directory)
        except FileNotFoundError:
            await disk.make_directory(directory)
            return  # nothing is in it, and that it is there is durable
        if BASE_FILE in names:
            path = join_path(directory, BASE_FILE)
            try:
                self._base = decode_base(await read_whole(disk, path, BASE_BYTES))
            except CodecError as error:
                raise DamagedData(f"{path}: {error}", path=path) from error
        self._terms = TermRuns(self._base.index, self._base.term)
        base_indexes = [base_index for base_index in map(parse_segment_name, names) if base_index is not None]
        # Left over from a removal of old segments that a crash interrupted.
        held = max(bisect_right(base_indexes, self._base.index + 1) - 1, 0)
        for base_index in base_indexes[:held]:
            path = join_path(directory, segment_name(base_index))
            await self._remove_if_there(path.removesuffix(SEGMENT_SUFFIX) + INDEX_SUFFIX)
            await disk.remove(path)
        base_indexes = base_indexes[held:]
        for base_index in base_indexes:
            await self._recover_segment(base_index, is_last=base_index == base_indexes[-1])
        self._last_index = self._segments[-1].contents.last_index if self._segments else self._base.index
        self._cache = TailCache(self._settings.tail_cache_bytes, self._last_index)
        self.recovery = attrs.evolve(self.recovery, segments=len(self._segments))
        # What was found may stand in the kernel's cache only, left there by a process that was killed; files were synced above.
        await disk.sync_directory(directory)

    async def _recover_segment(self, base_index: int, *, is_last: bool) -> None:
        path = join_path(self._directory, segment_name(base_index))
        expected_index = self._segments[-1].contents.next_index if self._segments else self._base.index + 1
        if base_index != expected_index:
            missing_path = join_path(self._directory, segment_name(expected_index))
            raise DamagedData(
                f"{missing_path}: missing, the next segment begins at entry {base_index}. Nothing was changed.",
                path=missing_path,
            )
        file = await open_present(self._disk, path)
        segment: _Segment | None = None
        try:
            try:
                footer = await read_footer(file)
            except CodecError as error:
                if not is_last:
                    raise _damaged(path, file.size_bytes, base_index, f"a sealed segment without its footer: {error}") from error
                segment = await self._recover_active(file, path)
            else:
                contents = SegmentContents.from_footer(footer, self._settings.index_interval_bytes)
                if (contents.base_index, contents.base_offset) != (base_index, self.log_end_offset):
                    raise _damaged(path, footer.frames_bytes, base_index, "the footer of another segment")
                if contents.term_runs[0][1] < self._terms.term(base_index):
                    raise _damaged(path, footer.frames_bytes, base_index, "terms go back")
                segment = _Segment(path, contents)
            if segment is None:
                return
            if is_last:
                await file.sync()
            self._add_segment(segment)
            for first_index, term in segment.contents.term_runs:
                self._terms.add(first_index, term)
        finally:
            if segment is None or segment.file is None:
                with trio.CancelScope(shield=True):
                    await file.close()

    async def _recover_active(self, file: File, path: str) -> _Segment | None:
        """The active segment, its torn tail cut. None when nothing is left of it; its file is removed then."""
        base_index = self._segments[-1].contents.next_index if self._segments else self._base.index + 1
        contents = SegmentContents(base_index, self.log_end_offset, self._settings.index_interval_bytes)
        before = self._terms.term(base_index)
        problem = await scan(file, contents, file.size_bytes)
        position = contents.frames_bytes
        if contents.term_runs and contents.term_runs[0][1] < before:
            raise _damaged(path, 0, base_index, "terms go back")
        tail = await file.read_at(position, file.size_bytes - position)
        last_term = contents.term_runs[-1][1] if contents.term_runs else before
        verdict = judge_tail(tail, position, contents.next_index, last_term)
        if verdict.damaged:
            raise _damaged(path, position, contents.next_index, f"{problem}; {verdict.damaged}")
        if verdict.torn_bytes:
            self.recovery = LogRecovery(
                scanned_bytes=position, torn_path=path, torn_position=position, torn_bytes=verdict.torn_bytes
            )
            await file.truncate(position)  # synced with the rest of what was found
        else:
            self.recovery = LogRecovery(scanned_bytes=position)
        if not position:
            await self._remove_if_there(path)
            return None
        segment = _Segment(path, contents, file)
        self._active = segment
        return segment

    async def _aclose(self) -> None:
        self._is_closed = True
        self._failure = self._failure or "the log is closed"
        for segment in self._segments:
            await _close(segment)


@asynccontextmanager
async def open_segmented_log(disk: Disk, directory: str, settings: LogSettings | None = None) -> AsyncIterator[SegmentedLog]:
    """Open the log in `directory` (made when missing), recovered.

    Raises:
        DamagedData: an entry that was acknowledged is damaged, or a segment is missing or was changed. Nothing is cut.
        StorageFailed, DiskFull.
    """
    log = SegmentedLog(disk, directory, settings or LogSettings())
    try:
        await log._recover()
        yield log
    finally:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await log._aclose()


def frame_range(frames: Sequence[EntryFrame]) -> FrameRange:
    """Dense frames as they are sent."""
    buffers = [frame.raw for frame in frames]
    return FrameRange(first_index=frames[0].index, last_index=frames[-1].index, buffers=buffers, size_bytes=sum(map(len, buffers)))


@attrs.frozen(slots=True)
class _Cut:
    """Where a suffix is to be cut off.

    Attributes:
        segment: holds the first entry that goes.
        slot: the last one of its sparse index at or before that entry.
        kept: the entries between that slot and the first that goes.
        end_offset: of what stays.
    """

    segment: _Segment
    slot: int
    kept: list[EntryFrame]
    end_offset: int


@attrs.frozen(slots=True)
class _Span:
    """What one read of the disk brought.

    Attributes:
        path: of the segment.
        sparse: its sparse index.
        view: the bytes.
        position: where they stand in the file.
        first_listed: index of the entry they begin with.
        last: no entry after this one is wanted from here.
        is_cut: True when they may end inside a frame.
    """

    path: str
    sparse: SparseIndex
    view: memoryview
    position: int
    first_listed: int
    last: int
    is_cut: bool

    def frames(self, first: int, last: int, max_bytes: int) -> list[EntryFrame]:
        view, position = self.view, self.position
        start = self._start_of(first)
        stop = start + max_bytes
        frames: list[EntryFrame] = []
        for index in range(first, min(last, self.last) + 1):
            if frames and self._end_of(start) > min(stop, len(view)):
                break
            frame = _decode(self.path, view, start, position, index)
            frames.append(frame)
            start += len(frame.raw)
        return frames

    def raw(self, first: int, last: int, max_bytes: int) -> FrameRange:
        view, sparse = self.view, self.sparse
        last = min(last, self.last)
        start = self._start_of(first)
        stop = min(start + max_bytes, len(view))
        # Jump to the last entry listed that ends nothing too late, then walk. What is jumped over is not looked at.
        slot = min(
            bisect_right(sparse.positions, self.position + stop) - 1,
            bisect_right(sparse.indexes, last) - 1,
        )
        index, end = first, start
        if sparse.indexes[slot] > first:
            index, end = sparse.indexes[slot], sparse.positions[slot] - self.position
        while index <= last and ((frame_end := self._end_of(end)) <= stop or index == first):
            _header(self.path, view, end, self.position, index)
            end = frame_end
            index += 1
        return FrameRange(first_index=first, last_index=index - 1, buffers=[view[start:end]], size_bytes=end - start)

    def _start_of(self, first: int) -> int:
        start = 0
        for index in range(self.first_listed, first):
            start += LENGTH_BYTES + _header(self.path, self.view, start, self.position, index)[0]
        return start

    def _end_of(self, start: int) -> int:
        """Where the frame at `start` ends; beyond the view when it is not whole in here because the read was cut."""
        if self.is_cut and len(self.view) - start < HEADER_BYTES:
            return len(self.view) + 1
        if len(self.view) - start < LENGTH_BYTES:
            return start  # damage; decoding says so
        end = start + LENGTH_BYTES + int.from_bytes(self.view[start : start + LENGTH_BYTES], "little")
        return end if self.is_cut or end <= len(self.view) else start


_PREALLOCATE_BYTES_MIN = 256 * 1024


def _check_run(frames: Sequence[EntryFrame], term: int, end_offset: int) -> None:
    """Raises CodecError when the frames are not dense, or do not follow on `term` and `end_offset`."""
    index = frames[0].index
    for frame in frames:
        if frame.index != index or frame.base_offset != end_offset or frame.term < term:
            raise CodecError(
                f"entry {frame.index} of term {frame.term} at offset {frame.base_offset} does not follow: "
                f"entry {index} at offset {end_offset}, term {term} or later, was expected"
            )
        index += 1
        term = frame.term
        end_offset += frame.record_count


def _header(path: str, view: memoryview, start: int, position: int, index: int) -> tuple[int, ...]:
    """The header of the frame at `start`, which must be that of `index`. Its checksum is not looked at."""
    if len(view) - start >= HEADER_BYTES:
        header = HEADER.unpack_from(view, start)
        if header[6] == index and header[0] >= HEADER_BYTES - LENGTH_BYTES and start + LENGTH_BYTES + header[0] <= len(view):
            return header
    raise _damaged(path, position + start, index, "its header does not stand there")


def _decode(path: str, view: memoryview, start: int, position: int, index: int) -> EntryFrame:
    try:
        frame = decode_entry(view, start)
    except CodecError as error:
        raise _damaged(path, position + start, index, str(error)) from error
    if frame.index != index:
        raise _damaged(path, position + start, index, f"entry {frame.index} stands there")
    return frame


def _damaged(path: str, position: int, index: int, why: str) -> DamagedData:
    return DamagedData(
        f"{path}: entry {index} at byte {position} is damaged: {why}. Nothing was changed. "
        "`trio-eventlog log verify` shows how far the damage reaches.",
        path=path,
        position=position,
    )


def _base_offset(segment: _Segment) -> int:
    return segment.contents.base_offset


def _holds_offset(header: tuple[int, ...], offset: int) -> bool:
    return header[7] <= offset < header[7] + header[8]


def _reaches_timestamp(header: tuple[int, ...], timestamp_ns: int) -> bool:
    return bool(header[8]) and header[11] >= timestamp_ns


async def _close(segment: _Segment) -> None:
    file, segment.file = segment.file, None
    if file is not None:
        await file.close()
