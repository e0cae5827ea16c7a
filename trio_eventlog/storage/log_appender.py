"""Appends to an open log: the one task at a time that changes what is in the files.

Order within each step: checks, then the disk, then memory. A removal of a suffix is the exception: memory first and at once, so
that no reader is given an entry that is going away.
"""

from collections.abc import Awaitable, Callable, Sequence

import trio

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.segment import MARK_BYTES, encode_footer, encode_mark
from trio_eventlog.errors import CodecError, DiskFull, ResourceShortage, StorageFailed
from trio_eventlog.storage.disk import File, join_path, remove_if_there
from trio_eventlog.storage.frame_block import decode_frame
from trio_eventlog.storage.log_contents import Cut, LogContents, OpenSegment
from trio_eventlog.storage.log_files import LogFiles
from trio_eventlog.storage.segment import SegmentContents, segment_name
from trio_eventlog.storage.tail_cache import TailCache

_PREALLOCATE_BYTES_MIN = 256 * 1024


class LogAppender:
    """Stages and appends frames, rolls segments, removes suffixes. The methods are described at `SegmentedLog`."""

    def __init__(self, contents: LogContents, files: LogFiles, cache: TailCache) -> None:
        self._contents = contents
        self._files = files
        self._disk = files.disk
        self._settings = files.settings
        self._cache = cache
        self._is_appending = False
        self._failure = ""
        self._unremoved: list[OpenSegment] = []
        """Segments that are forgotten, and whose files are still to be removed, the newest first."""
        self._unshortened: OpenSegment | None = None
        """The active segment, when entries at its end are forgotten that its file still holds."""

    def stage(self, frames: Sequence[EntryFrame]) -> None:
        if frames:
            assert self._contents.base.index < frames[0].index <= self.staged_last_index + 1, "staged frames leave a gap"
            self._cache.stage(frames)

    @property
    def staged_last_index(self) -> int:
        return self._cache.end_index - 1 if self._cache.holds_staged else self._contents.last_index

    async def append(self, frames: Sequence[EntryFrame]) -> None:
        self._check_usable()
        await trio.lowlevel.checkpoint_if_cancelled()
        if not frames:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        try:
            await self._uninterrupted(lambda: self._append(frames))
        except (DiskFull, ResourceShortage):
            self._cache.truncate(self._cache.persisted_index + 1)
            raise

    async def seal(self) -> None:
        self._check_usable()
        await trio.lowlevel.checkpoint()
        await self._uninterrupted(self._seal_active)

    async def _seal_active(self) -> None:
        await self._finish_removal()
        active = self._contents.active
        if active is not None and active.contents.frames_bytes:
            await self._seal(active)

    def _check_usable(self) -> None:
        assert not self._is_appending, "one append at a time"
        failure = self._failure or ("the log is closed" if self._files.is_closed else "")
        if failure:
            raise StorageFailed(f"{self._files.directory}: refused, because {failure}")

    async def _uninterrupted(self, work: Callable[[], Awaitable[None]]) -> None:
        self._is_appending = True
        try:
            # Each step is bounded by the disk; a cancellation between two of them would leave memory and disk apart.
            with trio.CancelScope(shield=True):
                await work()
        except (StorageFailed, OSError) as error:
            self._failure = self._failure or f"an earlier append failed: {error}"
            raise
        finally:
            self._is_appending = False

    async def _append(self, frames: Sequence[EntryFrame]) -> None:
        contents = self._contents
        await self._finish_removal()
        first = frames[0].index
        assert contents.base.index < first <= contents.last_index + 1, f"entry {first} leaves a gap after {contents.last_index}"
        if first <= contents.last_index:
            cut = await self._locate(first)
            try:
                _check_run(frames, contents.terms.term(first - 1), cut.end_offset)
                self._stage_missing(frames)
                await self._remove_suffix(first, cut)
            finally:
                await self._files.release(cut.segment)
        else:
            _check_run(frames, contents.terms.term(contents.last_index), contents.end_offset)
            self._stage_missing(frames)
        start = 0
        while start < len(frames):
            active = contents.active or await self._create_segment(frames[start])
            end = self._fitting(active.contents, frames, start)
            if end == start:
                await self._seal(active)
                continue
            await self._write(active, frames[start:end] if end - start < len(frames) else frames)
            start = end

    def _stage_missing(self, frames: Sequence[EntryFrame]) -> None:
        # When the caller stages, frames that are not held have been replaced while they waited, by those staged now.
        if not self._cache.holds_staged:
            self._cache.stage(frames)

    def _fitting(self, contents: SegmentContents, frames: Sequence[EntryFrame], start: int) -> int:
        """The end of the run from `start` that fits the segment; `start` when not even one frame does."""
        assert contents.sparse is not None
        # One write may list several slots; the limit is checked between writes, so one write may pass it.
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

    async def _write(self, segment: OpenSegment, frames: Sequence[EntryFrame]) -> None:
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
            # The name is made durable after the first frames, so that a segment found by its name is never empty.
            await self._disk.sync_directory(self._files.directory)
        runs = len(contents.term_runs)
        contents.add(frames)
        for first_index, term in contents.term_runs[runs:]:
            self._contents.terms.add(first_index, term)
        self._contents.last_index = contents.last_index
        self._cache.mark_persisted(frames)

    async def _preallocate(self, file: File, needed_bytes: int) -> None:
        step_bytes = min(self._settings.preallocate_bytes, max(file.size_bytes, _PREALLOCATE_BYTES_MIN))
        if step_bytes and needed_bytes > file.size_bytes:
            try:
                await file.preallocate((needed_bytes + step_bytes - 1) // step_bytes * step_bytes)
            except DiskFull:
                # What is left may do for this write all the same.
                await file.preallocate(needed_bytes)

    async def _create_segment(self, frame: EntryFrame) -> OpenSegment:
        path = join_path(self._files.directory, segment_name(frame.index))
        file = await self._disk.open(path, create=True)
        contents = SegmentContents(frame.index, frame.base_offset, self._settings.index_interval_bytes)
        segment = OpenSegment(path, contents, is_sealed=False, file=file)
        self._contents.add_segment(segment)
        return segment

    async def _seal(self, segment: OpenSegment) -> None:
        contents, file = segment.contents, segment.file
        assert file is not None
        footer = encode_footer(contents.footer())
        end = contents.frames_bytes + len(footer)
        await file.preallocate(end)  # nearly always there; a full disk shows here, before anything is written
        await file.write_at(contents.frames_bytes, [footer])
        await file.truncate(end)
        await file.sync()
        segment.is_sealed = True
        await self._files.keep_sealed(segment)

    async def _locate(self, first: int) -> Cut:
        """Where to cut so that `first` is the first entry to go. The segment is acquired for the caller."""
        segment = self._contents.segment_of_index(first)
        contents = segment.contents
        await self._files.acquire(segment)
        try:
            if first == contents.base_index:
                return Cut(segment, 0, [], contents.base_offset)
            assert contents.sparse is not None
            slot = contents.sparse.slot_of_index(first)
            data, position = await self._files.read_block(segment, slot)
            view = memoryview(data)
            kept: list[EntryFrame] = []
            start = 0
            for index in range(contents.sparse.indexes[slot], first + 1):
                frame = decode_frame(segment.path, view, start, position, index)
                kept.append(frame)
                start += len(frame.raw)
            return Cut(segment, slot, kept[:-1], kept[-1].base_offset)
        except BaseException:
            await self._files.release(segment)
            raise

    async def _remove_suffix(self, first: int, cut: Cut) -> None:
        """Durably remove the entries from `first` on.

        The newest segment goes first and each removal is synced before the next, so a crash leaves a prefix wherever it happens.
        """
        removed = self._contents.remove_suffix(first, cut)
        shortened = self._contents.active
        for segment in removed if shortened is None else (*removed, shortened):
            self._files.forget(segment)
        self._unremoved, self._unshortened = removed, shortened
        await self._finish_removal()

    async def _finish_removal(self) -> None:
        """Remove from the disk what is forgotten. Once a shortage has cut it short, the next append goes on with it."""
        while self._unremoved:
            await self._files.remove(self._unremoved[0])
            del self._unremoved[0]
        shortened = self._unshortened
        if shortened is not None:
            assert shortened.file is not None
            await shortened.file.truncate(shortened.contents.frames_bytes)
            await shortened.file.sync()
            await remove_if_there(self._disk, shortened.index_path)
            self._unshortened = None


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
