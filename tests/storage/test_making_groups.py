"""The files of new groups are made in one operation of the disk; a crash amid it leaves groups in which nothing has happened."""

import random
from pathlib import Path

import pytest
import trio.testing

from trio_eventlog.errors import StorageFailed
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.raft import HardState
from trio_eventlog.storage.data_directory import HARD_STATE_FILE, LOG_DIRECTORY, DataDirectory
from trio_eventlog.storage.disk import Disk, join_path
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.storage.segmented_log import open_segmented_log
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, Fault, Operation, SimDisk

GROUPS = tuple(map(GroupId, (1, 2, 3)))


async def make(disk: Disk, path: str, groups: tuple[GroupId, ...] = GROUPS) -> frozenset[GroupId]:
    async with DataDirectory.open(disk, path, new_node_id=lambda: NodeId(7), now_seconds=lambda: 0.0) as directory:
        return await directory.make_groups(groups)


async def check_new(disk: Disk, path: str, groups: tuple[GroupId, ...] = GROUPS) -> None:
    """Every group can be opened, and nothing has happened in it."""
    async with DataDirectory.open(disk, path, new_node_id=lambda: NodeId(7), now_seconds=lambda: 0.0) as directory:
        for group_id in groups:
            group = await directory.group_directory(group_id)
            async with (
                await HardStateFile.open(disk, join_path(group, HARD_STATE_FILE)) as hard_state,
                open_segmented_log(disk, join_path(group, LOG_DIRECTORY), default(LogSettings)) as log,
            ):
                assert hard_state.state == HardState()
                assert log.last_index == 0


async def test_what_was_made_is_durable() -> None:
    """All of it, when the call returns; a second call finds nothing to make."""
    disk = SimDisk(random.Random(1))
    assert await make(disk, "/data") == set(GROUPS)
    disk = disk.crash(CrashMode.LOSE)
    for group_id in GROUPS:
        assert f"/data/groups/{group_id:016x}/hard_state" in disk.paths()
        assert await disk.exists(f"/data/groups/{group_id:016x}/log")
    await check_new(disk, "/data")
    assert await make(disk, "/data") == set()


async def test_many_share_the_sync_of_the_directory_above() -> None:
    """One sync of the hard state and one of its directory for each, and one for all."""
    disk = SimDisk(random.Random(1))
    await make(disk, "/data", ())
    before = (disk.statistics.syncs, disk.statistics.directory_syncs)
    async with DataDirectory.open(disk, "/data", new_node_id=lambda: NodeId(7), now_seconds=lambda: 0.0) as directory:
        opened = (disk.statistics.syncs, disk.statistics.directory_syncs)
        await directory.make_groups(GROUPS)
    assert (disk.statistics.syncs - opened[0], disk.statistics.directory_syncs - opened[1]) == (3, 4)
    assert opened[0] == before[0]


async def test_on_the_real_disk(tmp_path: Path) -> None:
    """The same there."""
    assert await make(RealDisk(), str(tmp_path / "data")) == set(GROUPS)
    await check_new(RealDisk(), str(tmp_path / "data"))


@pytest.mark.parametrize("mode", list(CrashMode))
async def test_a_crash_at_any_place_leaves_new_groups(mode: CrashMode, autojump_clock: trio.testing.MockClock) -> None:
    """Whatever of it is left, by chance or by order: the groups are opened as new ones, or made again."""
    cuts = 0
    for seed in range(8 if mode is CrashMode.DRAW else 1):
        for operations in range(1000):
            disk = SimDisk(random.Random(seed))
            await make(disk, "/data", ())
            async with DataDirectory.open(disk, "/data", new_node_id=lambda: NodeId(7), now_seconds=lambda: 0.0) as directory:
                disk.cut_power_after(operations)
                try:
                    await directory.make_groups(GROUPS)
                    break
                except DiskCrashed:
                    cuts += 1
            disk = disk.crash(mode)
            await check_new(disk, "/data")
            await make(disk, "/data", (*GROUPS, GroupId(4)))
            await check_new(disk, "/data", (*GROUPS, GroupId(4)))
    assert cuts > 20


async def test_a_full_disk_leaves_new_groups() -> None:
    """The error says so; with room again they are opened as new ones."""
    disk = SimDisk(random.Random(1))
    await make(disk, "/data", ())
    disk.fill(10_000)
    with pytest.raises(StorageFailed, match="no space"):
        await make(disk, "/data")
    disk = disk.crash(CrashMode.KEEP)
    disk.make_room()
    await check_new(disk, "/data")


async def test_what_was_made_when_the_last_step_failed_is_durable_the_next_time() -> None:
    """All files are there then, and one name is not durable."""
    disk = SimDisk(random.Random(1))
    await make(disk, "/data", ())
    disk.faults.append(Fault(operation=Operation.SYNC, path_part="/data/groups", after=2 * len(GROUPS), times=1))
    with pytest.raises(StorageFailed):
        await make(disk, "/data")
    assert await make(disk, "/data") == set()
    disk = disk.crash(CrashMode.LOSE)
    assert [await disk.exists(f"/data/groups/{group_id:016x}/hard_state") for group_id in GROUPS] == [True] * len(GROUPS)
