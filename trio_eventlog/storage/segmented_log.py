"""The log of one replica: entries in segment files, the newest also in memory."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.storage.disk import Disk


@attrs.frozen(slots=True, kw_only=True)
class LogSettings:
    """Limits of one log.

    Attributes:
        segment_bytes: roll when the next frames would make the segment longer. A larger frame gets a segment of its own.
        preallocate_bytes: how far ahead of the data the active segment is made long. 0: not at all.
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


@attrs.frozen(slots=True, kw_only=True)
class LogRecovery:
    """What opening found and did.

    Attributes:
        segments: number of segments found.
        scanned_bytes: how much of the active segment was read.
        torn_path: the active segment when a torn tail was cut from it, else "".
        torn_position: where it was cut.
        torn_bytes: how many bytes that were not zero were cut.
        rebuilt_indexes: sparse indexes written anew because they were missing or did not fit (more may follow when first used).
    """

    segments: int = 0
    scanned_bytes: int = 0
    torn_path: str = ""
    torn_position: int = 0
    torn_bytes: int = 0
    rebuilt_indexes: int = 0


@attrs.frozen(slots=True, kw_only=True)
class FrameRange:
    """Frames as they are sent: whole frames of first_index..last_index, one after the other across `buffers`, not decoded.

    The checksums of the frames were not looked at: the receiver does.
    """

    first_index: int
    last_index: int
    buffers: list[bytes | memoryview]
    size_bytes: int


class SegmentedLog:
    """The log of one replica. One appender at a time; readers at any time, also during a roll or a truncation.

    Properties and plain methods never touch the disk and describe what is durable, except where they say "staged".
    """

    recovery: LogRecovery

    @property
    def first_index(self) -> int:
        """Index of the first entry held; `last_index + 1` when there is none."""
        raise NotImplementedError

    @property
    def last_index(self) -> int:
        """Index of the last durable entry; `first_index - 1` when there is none."""
        raise NotImplementedError

    @property
    def last_term(self) -> int:
        """Term of the entry at `last_index`; the base term when there is none."""
        raise NotImplementedError

    @property
    def staged_last_index(self) -> int:
        """Index of the last entry staged; `last_index` when nothing is."""
        raise NotImplementedError

    @property
    def log_start_offset(self) -> int:
        """Smallest offset held."""
        raise NotImplementedError

    @property
    def log_end_offset(self) -> int:
        """One past the offset of the last durable record."""
        raise NotImplementedError

    @property
    def size_bytes(self) -> int:
        """Bytes of all frames on disk."""
        raise NotImplementedError

    def term(self, index: int) -> int:
        """Term of the durable entry at `index`; for `first_index - 1` the base term (0 at the beginning of the log).

        Raises IndexError outside first_index - 1 .. last_index.
        """
        raise NotImplementedError

    def last_index_within(self, first: int, last: int, max_bytes: int) -> int:
        """An index such that the frames first..it take at most `max_bytes`; at least `first`, at most `last`.

        Exact for frames in the tail cache (staged ones too); below it may be too small, never too large.
        """
        raise NotImplementedError

    def cached(self, first: int, last: int, max_bytes: int) -> list[EntryFrame] | None:
        """As `read`, from memory alone, staged frames too; None when `first` is not there."""
        raise NotImplementedError

    def stage(self, frames: Sequence[EntryFrame]) -> None:
        """Make frames readable by `cached` and `last_index_within` before they are durable; `append` them next.

        Same rules for the indexes as `append`. Frames staged before at these indexes are replaced.
        """
        raise NotImplementedError

    async def append(self, frames: Sequence[EntryFrame]) -> None:
        """Durable when this returns: one vectored write and one fdatasync, when no roll and no truncation is in it.

        The first index is at most `last_index + 1`; when it is smaller, the entries from there on are removed first, durably: a
        crash in between leaves a prefix of the old log, or of the new. Frames are staged when they were not yet.
        Not cancelled halfway.

        Raises:
            CodecError: indexes or offsets leave a gap or terms go back. Nothing was changed.
            DiskFull: no room. What went to earlier segments of the same call is appended, the rest is not.
            StorageFailed: a write or sync failed. The log refuses all further appends.
        """
        raise NotImplementedError

    async def read(self, first: int, last: int, max_bytes: int) -> list[EntryFrame]:
        """The durable frames first..last, cut to fit `max_bytes`, but at least one. From the tail cache, or by one read of the disk,
        checksums checked.

        Raises:
            IndexError: first..last is not within first_index..last_index.
            DamagedData: with path and position.
        """
        raise NotImplementedError

    async def read_raw(self, first: int, last: int, max_bytes: int) -> FrameRange:
        """As `read`, but not decoded: for sending on as they are."""
        raise NotImplementedError

    async def read_by_offset(self, offset: int, end_offset: int, max_bytes: int) -> list[EntryFrame]:
        """Frames from the one that holds the record at `offset`, all whose records begin below `end_offset`, cut to fit
        `max_bytes`, but at least one. Frames without records in between are included.

        Raises:
            OffsetOutOfRange: `offset` is below `log_start_offset` or not below both `end_offset` and `log_end_offset`.
            DamagedData: with path and position.
        """
        raise NotImplementedError

    async def find_offset(self, offset: int) -> int:
        """Index of the entry that holds the record at `offset`. Raises as `read_by_offset`."""
        raise NotImplementedError

    async def find_timestamp(self, timestamp_ns: int) -> int:
        """Index of the first entry with a record stamped at or after `timestamp_ns`; `last_index + 1` when there is none."""
        raise NotImplementedError


@asynccontextmanager
async def open_segmented_log(disk: Disk, directory: str, settings: LogSettings | None = None) -> AsyncIterator[SegmentedLog]:
    """Open the log in `directory` (made when missing), recovered.

    Raises:
        DamagedData: an entry that was acknowledged is damaged, or a segment is missing or was changed. Nothing is cut.
        StorageFailed, DiskFull.
    """
    raise NotImplementedError
    yield
