"""Damaged files of a replica, set aside: out of the way, and not lost.

A log is cut off in front of its first damaged segment: that segment and all behind it are moved to `quarantine/` in the directory
of the replica, as they are. What is left is a log that can be opened. The caller has to have noted before, durably, that entries
are lost here (docs/decisions/0045).
"""

from collections.abc import Sequence

from trio_eventlog.errors import CodecError
from trio_eventlog.storage.data_directory import LOG_DIRECTORY
from trio_eventlog.storage.disk import Disk, join_path, parent_directory, remove_if_there
from trio_eventlog.storage.frame_block import damaged
from trio_eventlog.storage.log_recovery import BASE_FILE, segment_base_indexes
from trio_eventlog.storage.segment import (
    INDEX_SUFFIX,
    SEGMENT_SUFFIX,
    SegmentContents,
    check_frames,
    parse_segment_name,
    read_footer,
    segment_name,
)

QUARANTINE_DIRECTORY = "quarantine"

_INTERVAL_BYTES = 1 << 62


async def check_segment(disk: Disk, path: str) -> None:
    """Read a sealed segment whole. A segment without a footer, one that is not there, and another file are left to the recovery of
    the log.

    Raises:
        DamagedData: a frame is damaged, or they are not those that the footer was made of; or it cannot be read.
    """
    if not path.endswith(SEGMENT_SUFFIX) or not await disk.exists(path):
        return
    file = await disk.open(path, writes=False)
    try:
        try:
            footer = await read_footer(file)
        except CodecError:
            return
        contents = SegmentContents(footer.base_index, footer.base_offset, _INTERVAL_BYTES)
        await check_frames(file, contents, footer.frames_bytes)
        if contents.footer() != footer:
            raise damaged(path, footer.frames_bytes, footer.base_index, "the footer does not agree with the frames")
    finally:
        file.close_nowait()


async def set_log_aside(disk: Disk, directory: str, damaged_path: str) -> list[str]:
    """Cut the log of the replica in `directory` off in front of the damaged file `damaged_path`; returns the names set aside.

    There may be none: the file is not of the log. If it names a segment that is missing, those behind it are set aside; if there
    are none, the last one there is. Called again and again, it ends with a log that is empty. A crash leaves some of them set
    aside, the last ones.
    """
    log = join_path(directory, LOG_DIRECTORY)
    if parent_directory(damaged_path) != log:
        return []
    bases = segment_base_indexes(await disk.list_directory(log))
    names: list[str] = []
    if damaged_path == join_path(log, BASE_FILE):
        names = [*map(segment_name, reversed(bases)), BASE_FILE]
    else:
        name = damaged_path.rpartition("/")[2].removesuffix(SEGMENT_SUFFIX).removesuffix(INDEX_SUFFIX) + SEGMENT_SUFFIX
        first = parse_segment_name(name)
        if first is None:
            return []
        names = [segment_name(base) for base in reversed(bases) if base >= first] or [segment_name(base) for base in bases[-1:]]
    await _move(disk, log, join_path(directory, QUARANTINE_DIRECTORY), names)
    return names


async def set_file_aside(disk: Disk, directory: str, name: str) -> None:
    """Set a file aside that is in the directory of the replica itself."""
    await _move(disk, directory, join_path(directory, QUARANTINE_DIRECTORY), [name])


async def remove_quarantine(disk: Disk, directory: str) -> None:
    """Remove what was set aside of the replica in `directory`: it is whole again."""
    quarantine = join_path(directory, QUARANTINE_DIRECTORY)
    if not await disk.exists(quarantine):
        return
    for name in await disk.list_directory(quarantine):
        await disk.remove(join_path(quarantine, name))
    await disk.sync_directory(quarantine)


async def _move(disk: Disk, source: str, target: str, names: Sequence[str]) -> None:
    if not names:
        return
    await disk.make_directory(target)
    for name in names:
        await remove_if_there(disk, join_path(source, name.removesuffix(SEGMENT_SUFFIX) + INDEX_SUFFIX))
        await disk.rename(join_path(source, name), join_path(target, name))
    # In this order: a crash may leave a file in both places, and in none only if it was to go anyway.
    await disk.sync_directory(target)
    await disk.sync_directory(source)
