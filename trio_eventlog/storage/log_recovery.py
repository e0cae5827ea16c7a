"""Opening a log: which segments there are, what is in them, and the torn tail of the active one cut.

Nothing that was acknowledged is ever cut: damage raises DamagedData and changes nothing.
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence

import attrs

from trio_eventlog.codec.segment import BASE_BYTES, LogBase, SegmentFooter, decode_base
from trio_eventlog.errors import CodecError, DamagedData
from trio_eventlog.storage.disk import Disk, File, join_path, open_present, read_whole, remove_if_there
from trio_eventlog.storage.frame_block import damaged
from trio_eventlog.storage.log_contents import LogContents, OpenSegment
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.segment import (
    INDEX_SUFFIX,
    SEGMENT_SUFFIX,
    SegmentContents,
    judge_tail,
    parse_segment_name,
    read_footer,
    scan,
    segment_name,
)

BASE_FILE = "base"


@attrs.frozen(slots=True, kw_only=True)
class LogRecovery:
    """What opening a log found and did.

    Attributes:
        segments: number of segments held.
        scanned_bytes: number of bytes read of the active segment.
        torn_path: the active segment when a torn tail was cut from it, else "".
        torn_position: byte at which it was cut.
        torn_bytes: number of bytes cut, without zeros at their end.
    """

    segments: int = 0
    scanned_bytes: int = 0
    torn_path: str = ""
    torn_position: int = 0
    torn_bytes: int = 0


async def recover_log(
    disk: Disk, directory: str, settings: LogSettings, contents: LogContents, *, is_durable: bool = False
) -> LogRecovery:
    """Fill the empty `contents` with what is in the log's `directory`, which is made when it is missing; cut a torn tail.

    The caller closes the files of the segments in `contents`, also when this raises. `is_durable`: this process has made the log's
    directory, and synced it: it need not be synced again.

    Raises:
        DamagedData: an entry that was acknowledged is damaged, or a segment is missing or was changed. Nothing is cut.
        StorageFailed, DiskFull, ResourceShortage.
    """
    try:
        names = await disk.list_directory(directory)
    except FileNotFoundError:
        await disk.make_directory(directory)
        return LogRecovery()  # it is empty, and its name is durable
    contents.begin_after(await read_base(disk, directory, names))
    base_indexes = segment_base_indexes(names)
    # A crash may have interrupted a removal of old segments.
    held = await _count_removed(disk, directory, base_indexes, contents.base.index)
    for base_index in base_indexes[:held]:
        path = join_path(directory, segment_name(base_index))
        await remove_if_there(disk, path.removesuffix(SEGMENT_SUFFIX) + INDEX_SUFFIX)
        await disk.remove(path)
    recovery = LogRecovery()
    for base_index in base_indexes[held:]:
        recovery = await _recover_segment(disk, directory, settings, contents, base_index, is_last=base_index == base_indexes[-1])
    if contents.segments:
        contents.last_index = contents.segments[-1].contents.last_index
    # What was found may stand in the kernel's cache only, left there by a process that was killed; files were synced above.
    if not is_durable:
        await disk.sync_directory(directory)
    return attrs.evolve(recovery, segments=len(contents.segments))


async def _count_removed(disk: Disk, directory: str, base_indexes: Sequence[int], removed_index: int) -> int:
    """Number of the segments that hold entries up to `removed_index` only: the removal of a prefix has left them."""
    begun = bisect_right(base_indexes, removed_index)
    if not begun or begun < len(base_indexes):
        return begun
    # All of them begin before. What does not end before as well, is no part of a removed prefix.
    file = await open_present(disk, join_path(directory, segment_name(base_indexes[-1])))
    try:
        footer = await read_footer(file)
    except CodecError:
        return begun - 1
    finally:
        file.close_nowait()
    return begun if footer.last_index <= removed_index else begun - 1


async def read_base(disk: Disk, directory: str, names: Collection[str]) -> LogBase:
    """The entry before the first one held. Raises DamagedData when its file is damaged."""
    if BASE_FILE not in names:
        return LogBase()
    path = join_path(directory, BASE_FILE)
    try:
        return decode_base(await read_whole(disk, path, BASE_BYTES))
    except CodecError as error:
        raise DamagedData(f"{path}: {error}", path=path) from error


def segment_base_indexes(names: Collection[str]) -> list[int]:
    """The base indexes of the segments among the files `names`, rising."""
    return sorted(base_index for base_index in map(parse_segment_name, names) if base_index is not None)


async def _recover_segment(
    disk: Disk, directory: str, settings: LogSettings, contents: LogContents, base_index: int, *, is_last: bool
) -> LogRecovery:
    path = join_path(directory, segment_name(base_index))
    expected_index = contents.segments[-1].contents.next_index if contents.segments else contents.first_index
    if base_index != expected_index:
        missing_path = join_path(directory, segment_name(expected_index))
        raise DamagedData(
            f"{missing_path}: missing, the next segment begins at entry {base_index}. Nothing was changed.",
            path=missing_path,
        )
    file = await open_present(disk, path)
    recovery = LogRecovery()
    try:
        try:
            footer = await read_footer(file)
        except CodecError as error:
            if not is_last:
                raise damaged(path, file.size_bytes, base_index, f"a sealed segment without its footer: {error}") from error
            segment, recovery = await _recover_active(disk, settings, contents, file, path, base_index)
        else:
            segment = _sealed_segment(settings, contents, path, base_index, footer)
        if segment is not None:
            if is_last:
                await file.sync()
            contents.add_segment(segment)
            for first_index, term in segment.contents.term_runs:
                contents.terms.add(first_index, term)
    except BaseException:
        file.close_nowait()
        raise
    if segment is None or segment.file is None:
        await file.close()
    return recovery


def _sealed_segment(settings: LogSettings, contents: LogContents, path: str, base_index: int, footer: SegmentFooter) -> OpenSegment:
    """A segment as its footer describes it, not open."""
    found = SegmentContents.from_footer(footer, settings.index_interval_bytes)
    if (found.base_index, found.base_offset) != (base_index, contents.end_offset):
        raise damaged(path, footer.frames_bytes, base_index, "the footer of another segment")
    if found.term_runs[0][1] < contents.terms.term(base_index):
        raise damaged(path, footer.frames_bytes, base_index, "terms go back")
    return OpenSegment(path, found, is_sealed=True)


async def _recover_active(
    disk: Disk, settings: LogSettings, contents: LogContents, file: File, path: str, base_index: int
) -> tuple[OpenSegment | None, LogRecovery]:
    """The active segment, its torn tail cut. None when no frame of it is left; its file is removed then."""
    found = SegmentContents(base_index, contents.end_offset, settings.index_interval_bytes)
    before = contents.terms.term(base_index)
    problem = await scan(file, found, file.size_bytes)
    position = found.frames_bytes
    if found.term_runs and found.term_runs[0][1] < before:
        raise damaged(path, 0, base_index, "terms go back")
    tail = await file.read_at(position, file.size_bytes - position)
    last_term = found.term_runs[-1][1] if found.term_runs else before
    verdict = judge_tail(tail, position, found.next_index, last_term)
    if verdict.damaged:
        raise damaged(path, position, found.next_index, f"{problem}; {verdict.damaged}")
    recovery = LogRecovery(scanned_bytes=position)
    if verdict.torn_bytes:
        recovery = attrs.evolve(recovery, torn_path=path, torn_position=position, torn_bytes=verdict.torn_bytes)
        await file.truncate(position)  # synced with the rest of what was found
    if not position:
        await remove_if_there(disk, path)
        return None, recovery
    return OpenSegment(path, found, is_sealed=False, file=file), recovery
