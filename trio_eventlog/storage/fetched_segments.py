"""Sealed segments that are fetched from other nodes, beside those of the log that they are to become a part of.

```
groups/<group-id>/log/
  <base index>-<frames checksum>.part      its frames so far; a crash may leave anything behind those that are whole
  <base index>-<frames checksum>.fetched   whole, with its footer, and durable under this name
  <base index>-<frames checksum>.fetched.index   its sparse index: a cache
```

They lie in the log's own directory so that a rename within it makes them segments. Nothing that opens a log looks at them.
"""

from types import TracebackType
from typing import Self

from trio_eventlog.codec.segment import encode_footer
from trio_eventlog.codec.snapshot_file import SegmentRange
from trio_eventlog.errors import CodecError
from trio_eventlog.storage.disk import Buffer, Disk, File, join_path
from trio_eventlog.storage.log_files import write_sparse_index
from trio_eventlog.storage.segment import INDEX_SUFFIX, SegmentContents, range_of, read_footer, scan, segment_name

PART_SUFFIX = ".part"
FETCHED_SUFFIX = ".fetched"
SYNC_BYTES = 8 * 1024 * 1024
"""Number of bytes of a segment after which they are synced: a crash loses at most these, and the sync at the end is short."""


def part_name(wanted: SegmentRange) -> str:
    return f"{wanted.base_index:020d}-{wanted.frames_checksum:08x}{PART_SUFFIX}"


def fetched_name(wanted: SegmentRange) -> str:
    return f"{wanted.base_index:020d}-{wanted.frames_checksum:08x}{FETCHED_SUFFIX}"


class SegmentPart:
    """A segment whose frames are coming in. `async with SegmentPart(...) as part:`, which finds what has come before.

    Args:
        directory: of the log.
        index_interval_bytes: of its sparse index.

    Attributes:
        wanted: what it is to be, by the footer that it has elsewhere.
        position: of the next byte to come: all before it is here.
        found_bytes: of those, the ones that were here already when it was opened.
    """

    def __init__(self, disk: Disk, directory: str, wanted: SegmentRange, index_interval_bytes: int) -> None:
        self.wanted = wanted
        self.position = 0
        self.found_bytes = 0
        self._disk = disk
        self._directory = directory
        self._interval_bytes = index_interval_bytes
        self._path = join_path(directory, part_name(wanted))
        self._contents = self._no_contents()
        self._unsynced_bytes = 0
        self._file: File | None = None

    def _no_contents(self) -> SegmentContents:
        return SegmentContents(self.wanted.base_index, self.wanted.base_offset, self._interval_bytes)

    async def __aenter__(self) -> Self:
        if not await self._disk.exists(self._path):
            self._file = await self._disk.open(self._path, create=True)
            await self._disk.sync_directory(self._directory)
            return self
        file = self._file = await self._disk.open(self._path)
        try:
            # Not the size: a crash may have left zeros, or anything, where bytes had not been synced.
            await scan(file, self._contents, min(file.size_bytes, self.wanted.frames_bytes))
            self.position = self.found_bytes = self._contents.frames_bytes
        except BaseException:
            file.close_nowait()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close_nowait()

    async def write(self, data: Buffer) -> None:
        """The bytes at `position`."""
        assert self._file is not None
        await self._file.write_at(self.position, [data])
        self.position += len(data)
        self._unsynced_bytes += len(data)
        if self._unsynced_bytes >= SYNC_BYTES:
            self._unsynced_bytes = 0
            await self._file.sync()

    async def finish(self) -> None:
        """All bytes are here: check every one of them, and have the segment stand there whole, durably.

        Raises:
            CodecError: they are not those of the segment. What is here was removed; it has to come again.
        """
        file, contents, wanted = self._file, self._contents, self.wanted
        assert file is not None
        problem = await scan(file, contents, wanted.frames_bytes)
        if problem is None and range_of(contents) != wanted:
            problem = CodecError("its frames are whole, and not those that were asked for")
        if problem is not None:
            await self.discard()
            raise CodecError(f"segment {wanted.base_index}: {problem}")
        footer = encode_footer(contents.footer())
        await file.write_at(wanted.frames_bytes, [footer])
        await file.truncate(wanted.frames_bytes + len(footer))
        await file.sync()
        await file.close()
        self._file = None
        name = join_path(self._directory, fetched_name(wanted))
        await write_sparse_index(self._disk, name + INDEX_SUFFIX, contents)
        await self._disk.rename(self._path, name)
        await self._disk.sync_directory(self._directory)

    async def discard(self) -> None:
        """Begin again with an empty file."""
        assert self._file is not None
        await self._file.truncate(0)
        self.position = self.found_bytes = self._unsynced_bytes = 0
        self._contents = self._no_contents()


async def segment_terms(disk: Disk, directory: str, wanted: SegmentRange) -> tuple[int, int] | None:
    """The terms of the first and the last entry of the segment `wanted`; None when neither the log in `directory` has it nor it was
    fetched, whole, beside it."""
    for name in (fetched_name(wanted), segment_name(wanted.base_index)):
        terms = await terms_in_file(disk, join_path(directory, name), wanted)
        if terms is not None:
            return terms
    return None


async def terms_in_file(disk: Disk, path: str, wanted: SegmentRange) -> tuple[int, int] | None:
    """The terms of the first and the last entry of the sealed segment in the file `path`; None when that is missing, or is another
    segment than `wanted`. Reads its footer only."""
    try:
        file = await disk.open(path, writes=False)
    except FileNotFoundError:
        return None
    try:
        footer = await read_footer(file)
    except CodecError:
        return None
    finally:
        await file.close()
    if range_of(footer) != wanted:
        return None
    return footer.term_runs[0][1], footer.term_runs[-1][1]


async def remove_fetched_segments(disk: Disk, directory: str) -> None:
    """Remove whatever was fetched into the log's `directory` and has not become a part of the log."""
    for name in await disk.list_directory(directory):
        if name.endswith((PART_SUFFIX, FETCHED_SUFFIX, FETCHED_SUFFIX + INDEX_SUFFIX)):
            await disk.remove(join_path(directory, name))
