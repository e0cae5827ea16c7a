"""The log of one replica: entries in segment files, the newest also in memory.

One appender at a time (`log_appender`); readers at any time, also while a segment is rolled or a suffix removed (`log_reader`).
All work on the same `LogContents`, which changes only between two awaits, so every plain property is consistent.
"""

from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.segment import LogBase
from trio_eventlog.codec.snapshot_file import Manifest
from trio_eventlog.storage.disk import Disk
from trio_eventlog.storage.frame_block import FrameRange
from trio_eventlog.storage.log_appender import LogAppender
from trio_eventlog.storage.log_contents import LogContents
from trio_eventlog.storage.log_files import LogFiles
from trio_eventlog.storage.log_prefix import LogPrefix
from trio_eventlog.storage.log_reader import LogReader
from trio_eventlog.storage.log_recovery import LogRecovery, recover_log
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.sealed_segments import WITHIN_ONE_LOG, SealedSegments
from trio_eventlog.storage.tail_cache import TailCache

CLOSE_SECONDS = 5.0
"""Closing holds up a cancellation for at most this long."""


class SegmentedLog:
    """The log of one replica. One appender at a time; readers at any time, also during a roll or a truncation.

    Properties and plain methods never touch the disk and describe what is durable, except where they say "staged".

    Attributes:
        prefix: hides and removes the beginning.
        recovery: what opening it found.
        check, read_raw_before: see `LogReader`.
    """

    def __init__(self, contents: LogContents, files: LogFiles, recovery: LogRecovery) -> None:
        """Use `open_segmented_log`."""
        self.recovery = recovery
        self._contents = contents
        self._files = files
        self._cache = TailCache(files.settings.tail_cache_bytes, contents.last_index)
        self._appender = LogAppender(contents, files, self._cache)
        self.prefix = LogPrefix(contents, files)
        self._reader = LogReader(contents, files, self._cache)
        self.check = self._reader.check
        self.read_raw_before = self._reader.read_raw_before

    # What is there.

    @property
    def first_index(self) -> int:
        """Index of the first entry held; `last_index + 1` when there is none."""
        return self._contents.first_index

    @property
    def last_index(self) -> int:
        """Index of the last durable entry; `first_index - 1` when there is none."""
        return self._contents.last_index

    @property
    def last_term(self) -> int:
        """Term of the entry at `last_index`; the base term when there is none."""
        return self._contents.terms.term(self._contents.last_index)

    @property
    def staged_last_index(self) -> int:
        """Index of the last entry staged; `last_index` when nothing is."""
        return self._appender.staged_last_index

    @property
    def log_start_offset(self) -> int:
        """Smallest offset that is readable. Segments may hold smaller ones, see `LogPrefix.hide_below`."""
        return self._contents.start_offset

    @property
    def log_end_offset(self) -> int:
        """One past the offset of the last durable record."""
        return self._contents.end_offset

    @property
    def size_bytes(self) -> int:
        """Bytes of all frames on disk."""
        return sum(segment.contents.frames_bytes for segment in self._contents.segments)

    @property
    def base(self) -> LogBase:
        """The entry before the first one held."""
        return self._contents.base

    @property
    def sealed_last_index(self) -> int:
        """The last entry of the newest sealed segment; `first_index - 1` when there is none."""
        return self._contents.sealed_last_index

    def manifest(self, last_index: int) -> Manifest | None:
        """The sealed segments up to the one that ends with `last_index`; None when none ends there."""
        return self._contents.manifest(last_index)

    def frames_bytes_after(self, index: int) -> int:
        """Size of the frames of all segments that begin after the entry at `index`."""
        return self._contents.frames_bytes_after(index)

    @property
    def segment_count(self) -> int:
        return len(self._contents.segments)

    @property
    def rebuilt_indexes(self) -> int:
        """Number of sparse indexes made anew since opening, because their file was missing or did not fit."""
        return self._files.rebuilt_indexes

    def sealed_segment_path(self, base_index: int, frames_bytes: int, frames_checksum: int) -> str | None:
        """The file of the sealed segment with exactly these frames; None when there is none."""
        contents = self._contents
        if not contents.first_index <= base_index <= contents.last_index:
            return None
        segment = contents.segment_of_index(base_index)
        found = segment.contents
        wanted = (base_index, frames_bytes, frames_checksum)
        if not segment.is_sealed or (found.base_index, found.frames_bytes, found.frames_checksum) != wanted:
            return None
        return segment.path

    def term(self, index: int) -> int:
        """Term of the durable entry at `index`; for `first_index - 1` the base term (0 at the beginning of the log).

        Raises IndexError outside first_index - 1 .. last_index.
        """
        contents = self._contents
        if not contents.base.index <= index <= contents.last_index:
            raise IndexError(f"entry {index} is not among {contents.base.index}..{contents.last_index}")
        return contents.terms.term(index)

    def last_index_not_after(self, index: int, term: int) -> int:
        """The largest durable index up to `index` whose term is at most `term`; `first_index - 1` when there is none."""
        return self._contents.terms.last_index_not_after(index, term)

    def last_index_within(self, first: int, last: int, max_bytes: int) -> int:
        """An index such that the frames first..it take at most `max_bytes`; at least `first`, at most `last`.

        Exact for frames in the tail cache (staged ones too); below it may be too small, never too large.
        """
        found = self._cache.last_index_within(first, last, max_bytes)
        if found is not None:
            return found
        if not self.first_index <= first <= self._contents.last_index:
            return first
        contents = self._contents.segment_of_index(first).contents
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
        no reader is given those from memory. Each run of frames that was staged is appended all the same, in order. An index is at
        most `staged_last_index + 1`.
        """
        self._appender.stage(frames)

    async def append(self, frames: Sequence[EntryFrame]) -> None:
        """Durable when this returns: one vectored write and one fdatasync, when no roll and no truncation is in it.

        The first index is at most `last_index + 1`; when it is smaller, the entries from there on are removed first, durably: a
        crash in between leaves a prefix of the old log, or of the new. A caller that stages nothing else
        need not stage these frames. Not cancelled halfway.

        Raises:
            CodecError: offsets or indexes leave a gap, or terms go back. Nothing was changed.
            DiskFull: no room. What went to earlier segments of the same call is appended, the rest is not, and nothing is staged.
            ResourceShortage: no descriptor for a new segment; as DiskFull. The same frames may be appended again.
            StorageFailed: a write or sync failed. The log refuses all further appends.
        """
        await self._appender.append(frames)

    async def seal(self) -> None:
        """Seal the active segment, durably, whatever its size; nothing to do without one. Not during an `append`. Not cancelled
        halfway.

        Raises:
            DiskFull, ResourceShortage: nothing was changed.
            StorageFailed: the log refuses all further appends.
        """
        await self._appender.seal()

    # Closing.

    async def aclose(self) -> None:
        """Close all files. Holds up a cancellation for at most `CLOSE_SECONDS`."""
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await self._files.close(self._contents.segments)

    def close_nowait(self) -> None:
        """`aclose` without a checkpoint, to clean up after an exception before the log was used."""
        self._files.is_closed = True
        for segment in self._contents.segments:
            if segment.file is not None:
                segment.file.close_nowait()

    # Reading.

    async def read(self, first: int, last: int, max_bytes: int) -> list[EntryFrame]:
        """The durable frames first..last, cut to fit `max_bytes`, but at least one. From the tail cache, or by one read of the
        disk, checksums checked.

        Raises:
            IndexError: first..last is not within first_index..last_index.
            DamagedData: with path and position.
        """
        return await self._reader.read(first, last, max_bytes)

    async def read_raw(self, first: int, last: int, max_bytes: int) -> FrameRange:
        """As `read`, but not decoded and checksums not checked: for sending on as they are, to a receiver that checks them."""
        return await self._reader.read_raw(first, last, max_bytes)

    async def read_by_offset(self, offset: int, end_offset: int, max_bytes: int) -> list[EntryFrame]:
        """Frames from the one that holds the record at `offset`, all whose records begin below `end_offset`, cut to fit
        `max_bytes`, but at least one. Frames without records in between are included.

        Raises:
            OffsetOutOfRange: `offset` is below `log_start_offset` or not below both `end_offset` and `log_end_offset`.
            DamagedData: with path and position.
        """
        return await self._reader.read_by_offset(offset, end_offset, max_bytes)

    async def find_offset(self, offset: int) -> int:
        """Index of the entry that holds the record at `offset`. Raises as `read_by_offset`."""
        return await self._reader.find_offset(offset)

    async def find_timestamp(self, timestamp_ns: int) -> int:
        """Index of the first entry with a record stamped at or after `timestamp_ns`; `last_index + 1` when there is none."""
        return await self._reader.find_timestamp(timestamp_ns)

    async def find_offset_at(self, timestamp_ns: int) -> int:
        """Offset of the first record of the first entry with one stamped at or after `timestamp_ns`; `log_end_offset` when there is
        none. Raises DamagedData, with path and position."""
        return await self._reader.find_offset_at(timestamp_ns)


@asynccontextmanager
async def open_segmented_log(
    disk: Disk, directory: str, settings: LogSettings, sealed: SealedSegments | None = None
) -> AsyncIterator[SegmentedLog]:
    """Open the log in `directory` (made when missing), recovered.

    Args:
        sealed: shared with other logs; None: the log is alone.

    Raises:
        DamagedData: an entry that was acknowledged is damaged, or a segment is missing or was changed. Nothing is cut.
        StorageFailed, DiskFull.
    """
    log = await recover_segmented_log(disk, disk, directory, settings, sealed or SealedSegments(WITHIN_ONE_LOG))
    try:
        yield log
    finally:
        await log.aclose()


async def recover_segmented_log(
    within: Disk, disk: Disk, directory: str, settings: LogSettings, sealed: SealedSegments, *, is_durable: bool = False
) -> SegmentedLog:
    """As `open_segmented_log`, for a caller that closes the log itself.

    Args:
        within: reads and mends what is there: `disk`, or what `disk.at_once` gives to its work.
        disk: used from then on.
        sealed: of all logs of the node.
        is_durable: this process has made the log's directory, and synced it.
    """
    contents = LogContents()
    try:
        recovery = await recover_log(within, directory, settings, contents, is_durable=is_durable)
    except BaseException:
        for segment in contents.segments:
            if segment.file is not None:
                segment.file.close_nowait()
        raise
    return SegmentedLog(contents, LogFiles(disk, directory, settings, sealed), recovery)
