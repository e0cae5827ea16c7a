"""The reserve: a file that holds room on the disk for what has to be written when there is no other room left.

Small files (the lives of nodes, notes of replicas, snapshots) are written beside and renamed, so that even replacing one needs
room. Once the disk is full they would fail, and what frees room (removing segments, deleting a topic) with them. So a file of some
size is held, and removed when room runs out (docs/decisions/0044).
"""

from trio_eventlog.errors import DiskFull
from trio_eventlog.storage.disk import Disk, join_path, parent_directory, remove_if_there

RESERVE_FILE = "reserve"


async def hold_reserve(disk: Disk, data_dir: str, size_bytes: int) -> bool:
    """Make the reserve file of the data directory hold `size_bytes`, as far as there is room. Returns whether it does.

    A crash may leave it in any size; the next call mends that. Not synced: nothing depends on it after a crash.
    """
    path = join_path(data_dir, RESERVE_FILE)
    if not size_bytes:
        await remove_if_there(disk, path)
        return False
    try:
        file = await disk.open(path, create=not await disk.exists(path))
    except DiskFull:
        return False
    try:
        if file.size_bytes > size_bytes:
            await file.truncate(size_bytes)
        await file.preallocate(size_bytes)
    except DiskFull:
        return False
    finally:
        await file.close()
    return True


async def give_up_reserve(disk: Disk, data_dir: str) -> None:
    """Remove the reserve file: its room is free when this returns."""
    path = join_path(data_dir, RESERVE_FILE)
    await remove_if_there(disk, path)
    await disk.sync_directory(parent_directory(path))
