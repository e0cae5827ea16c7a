"""The files of an open log: which are open, and the sparse indexes beside them.

A sealed segment is open only while it is among those used last on this node, or while a reader is at work on it.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress

import trio

from trio_eventlog.codec.segment import SegmentFooter
from trio_eventlog.codec.sparse_index import SparseIndex, decode_sparse_index, encode_sparse_index
from trio_eventlog.errors import CodecError, DamagedData, DiskFull, ResourceShortage, StorageFailed
from trio_eventlog.storage.disk import Disk, read_whole, remove_if_there
from trio_eventlog.storage.frame_block import damaged
from trio_eventlog.storage.log_contents import OpenSegment
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.sealed_segments import SealedSegments
from trio_eventlog.storage.segment import SegmentContents, scan

logger = logging.getLogger(__name__)

INDEX_BYTES_MAX = 256 * 1024 * 1024
"""A sparse index file that is longer is taken for damaged."""


class LogFiles:
    """The files in a log's directory.

    Attributes:
        is_closed: the log was closed. No file is opened afterwards.
        rebuilt_indexes: number of sparse indexes made anew since opening, because their file was missing or did not fit.
    """

    def __init__(self, disk: Disk, directory: str, settings: LogSettings, sealed: SealedSegments) -> None:
        self.disk = disk
        self.directory = directory
        self.settings = settings
        self.is_closed = False
        self.rebuilt_indexes = 0
        self._opening = trio.Lock()
        self._sealed = sealed

    async def acquire(self, segment: OpenSegment) -> None:
        """Hold the segment's file and sparse index open until `release`.

        Raises:
            StorageFailed: the log is closed.
            DamagedData: the sparse index had to be made anew, and the frames are damaged; or the segment was removed while
                this call waited (`LogContents.removals` has changed then).
        """
        self._check_open()
        if segment.is_sealed:
            await self._sealed.use(segment)
        segment.users += 1
        if segment.file is not None and segment.contents.sparse is not None:
            return
        try:
            async with self._opening:
                if segment.file is None and not segment.is_removed:
                    self._check_open()
                    segment.file = await self.disk.open(segment.path)
                    self._check_open()
                if segment.contents.sparse is None and segment.file is not None:
                    await self._load_sparse_index(segment)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.release(segment)
            raise
        if segment.file is None or segment.contents.sparse is None:
            await self.release(segment)
            self._check_open()
            raise DamagedData(f"{segment.path}: removed meanwhile")

    async def release(self, segment: OpenSegment) -> None:
        segment.users -= 1
        if segment.users:
            return
        if segment.is_removed or self.is_closed or segment.file is None:
            self._sealed.forget(segment)
            await segment.close()
        elif segment.is_sealed:
            await self._sealed.on_unused()

    async def keep_sealed(self, segment: OpenSegment) -> None:
        """A segment has just been sealed: write its sparse index, and close the file when others are used more."""
        await self._write_sparse_index(segment)
        if not self.is_closed:
            await self._sealed.keep(segment)

    def forget(self, segment: OpenSegment) -> None:
        """A sealed segment is going to be removed or appended to: it is not closed as a surplus one any more."""
        self._sealed.forget(segment)

    async def remove(self, segment: OpenSegment) -> None:
        """Durably remove the segment's files. Readers at work on it go on; the last of them closes the file.

        May be called again when it met a shortage.
        """
        segment.is_removed = True
        await remove_if_there(self.disk, segment.index_path)
        with suppress(FileNotFoundError):  # an earlier attempt has removed it, and could not sync the directory
            await self.disk.remove(segment.path)
        await self.disk.sync_directory(self.directory)
        if not segment.users:
            self._sealed.forget(segment)
            await segment.close()

    async def close(self, segments: Iterable[OpenSegment]) -> None:
        """Close all files. A file that a reader is waiting for in a thread is closed when that thread is done."""
        self.is_closed = True
        for segment in segments:
            self._sealed.forget(segment)
            await segment.close()

    async def read_block(self, segment: OpenSegment, slot: int) -> tuple[bytes | bytearray, int]:
        """The frames of an acquired segment from the one listed in `slot` up to the next one listed, and their position."""
        sparse, file = segment.contents.sparse, segment.file
        assert sparse is not None
        assert file is not None
        position = sparse.positions[slot]
        end = sparse.positions[slot + 1] if slot + 1 < len(sparse) else segment.contents.frames_bytes
        return await file.read_at(position, end - position), position

    def _check_open(self) -> None:
        if self.is_closed:
            raise StorageFailed(f"{self.directory}: the log is closed")

    async def _load_sparse_index(self, segment: OpenSegment) -> None:
        contents, file = segment.contents, segment.file
        assert file is not None
        try:
            contents.sparse = await read_sparse_index(self.disk, segment.index_path, contents.footer())
        except (FileNotFoundError, CodecError, DamagedData):
            again = SegmentContents(contents.base_index, contents.base_offset, self.settings.index_interval_bytes)
            problem = await scan(file, again, contents.frames_bytes)
            if problem is None and again.footer() != contents.footer():
                problem = CodecError("the frames are not those its footer was made of")
            if problem is not None:
                raise damaged(segment.path, again.frames_bytes, again.next_index, str(problem)) from problem
            contents.sparse = again.sparse
            self.rebuilt_indexes += 1
            await self._write_sparse_index(segment)

    async def _write_sparse_index(self, segment: OpenSegment) -> None:
        try:
            await write_sparse_index(self.disk, segment.index_path, segment.contents)
        except (DiskFull, ResourceShortage, StorageFailed) as error:
            # It is made again when it is missed. Files that must not be lost are written elsewhere, and their failures are raised.
            logger.warning("the sparse index %s could not be written: %s", segment.index_path, error)


async def write_sparse_index(disk: Disk, path: str, contents: SegmentContents) -> None:
    """Put the sparse index of a sealed segment in the file `path`. Not synced: it is a cache."""
    assert contents.sparse is not None
    data = encode_sparse_index(
        contents.sparse,
        base_index=contents.base_index,
        frames_bytes=contents.frames_bytes,
        frames_checksum=contents.frames_checksum,
    )
    await remove_if_there(disk, path)
    file = await disk.open(path, create=True)
    try:
        await file.write_at(0, [data])
    finally:
        await file.close()


async def read_sparse_index(disk: Disk, path: str, footer: SegmentFooter) -> SparseIndex:
    """The sparse index in the file `path`.

    Raises:
        FileNotFoundError: there is none.
        CodecError, DamagedData: the file is damaged, or is not that of the segment with this footer.
    """
    data = await read_whole(disk, path, INDEX_BYTES_MAX)
    return decode_sparse_index(
        data,
        base_index=footer.base_index,
        frames_bytes=footer.frames_bytes,
        frames_checksum=footer.frames_checksum,
    )
