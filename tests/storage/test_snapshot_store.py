"""Snapshots of a replica: written whole or not at all, the newest that is sound is found, and few are kept."""

import random
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio.testing

from trio_eventlog.codec.segment import LogBase
from trio_eventlog.codec.snapshot_file import Manifest, SegmentRange, SnapshotFile
from trio_eventlog.errors import CodecError, DamagedData, DiskFull, NewerRelease, StorageFailed
from trio_eventlog.ids import NodeId
from trio_eventlog.raft import Configuration, SnapshotMetadata
from trio_eventlog.storage.disk import Disk
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.storage.snapshots import (
    Found,
    SnapshotName,
    SnapshotStore,
    find_snapshots,
    kept_names,
    parse_snapshot_name,
    remove_snapshots,
    remove_unfit_snapshots,
)
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, Fault, Operation, SimDisk

GROUP = "/d/group"


def snapshot(index: int, term: int = 1, machine: bytes = b"state") -> SnapshotFile:
    """Of a log from its beginning, with one segment."""
    segment = SegmentRange(
        base_index=1, last_index=index, base_offset=0, end_offset=index, frames_bytes=100 * index, frames_checksum=index
    )
    return SnapshotFile(
        metadata=SnapshotMetadata(index=index, term=term, configuration=Configuration(voters=frozenset({NodeId(1)}))),
        manifest=Manifest(base=LogBase(), segments=(segment,)),
        machine=machine,
    )


def any_fits(name: SnapshotName) -> bool:
    return True


async def find(disk: Disk, fit: Callable[[SnapshotName], bool | None] = any_fits, group: str = GROUP) -> Found:
    return await find_snapshots(disk, group, fit, decode)


def decode(machine: bytes) -> Callable[[], None]:
    """What is no state of a machine is found out, too."""
    if machine == b"newer":
        raise NewerRelease("a part of a newer release")
    if machine == b"wrong":
        raise CodecError("no state of a machine")
    return lambda: None


async def new_disk(seed: int = 1) -> SimDisk:
    disk = SimDisk(random.Random(seed))
    await disk.make_directory(GROUP)
    return disk


async def store(disk: Disk, group: str = GROUP) -> SnapshotStore:
    return SnapshotStore(disk, group, await find(disk, group=group))


async def newest(disk: Disk) -> int:
    found = (await find(disk)).newest
    return found.metadata.index if found is not None else 0


async def names(disk: Disk) -> list[str]:
    return await disk.list_directory(f"{GROUP}/snapshots")


async def damage(disk: SimDisk, index: int, term: int = 1) -> None:
    file = await disk.open(f"{GROUP}/snapshots/{SnapshotName(index, term).file_name}")
    (byte,) = await file.read_at(40, 1)
    await file.write_and_sync(40, [bytes([byte ^ 1])])
    await file.close()


def test_names() -> None:
    """Term and index of 20 digits each; whatever else is called otherwise is none."""
    name = SnapshotName(17, 3)
    assert name.file_name == "00000000000000000003-00000000000000000017.snapshot"
    assert parse_snapshot_name(name.file_name) == name
    for other in ("", name.file_name + ".new", name.file_name[1:], name.file_name.replace("0", "x", 1), "-.snapshot"):
        assert parse_snapshot_name(other) is None
    assert SnapshotName(17, 3) < SnapshotName(18, 2)


def test_which_are_kept() -> None:
    """The newest, and the oldest that fits the log; those of before the log fit nothing."""
    all_names = [SnapshotName(index, 1) for index in (10, 20, 30, 40)]
    assert [name.index for name in kept_names(all_names, 0)] == [10, 40]
    assert [name.index for name in kept_names(all_names, 15)] == [20, 40]
    assert [name.index for name in kept_names(all_names, 30)] == [30, 40]
    assert [name.index for name in kept_names(all_names, 31)] == [40]
    assert kept_names([], 0) == []


async def test_what_was_saved_is_durable(tmp_path: Path) -> None:
    """On a simulated disk that loses all that was not synced, and on the real one."""
    disk = await new_disk()
    snapshots = await store(disk)
    assert snapshots.newest is None
    metadata = await snapshots.save(lambda: snapshot(10), 0)
    assert snapshots.newest == metadata == snapshot(10).metadata
    disk = disk.crash(CrashMode.LOSE)
    assert await newest(disk) == 10
    real = RealDisk()
    await real.make_directory(str(tmp_path / "group"))
    snapshots = await store(real, str(tmp_path / "group"))
    await snapshots.save(lambda: snapshot(10), 0)
    assert await snapshots.load(SnapshotName(10, 1)) == snapshot(10)
    assert (await store(real, str(tmp_path / "group"))).newest_index == 10


async def test_the_newest_and_the_oldest_that_fits_are_kept() -> None:
    """Also over restarts; what a crash has left beside them is removed."""
    disk = await new_disk()
    snapshots = await store(disk)
    for index in (10, 20, 30):
        await snapshots.save(lambda index=index: snapshot(index), 0)  # type: ignore[misc]
    assert await names(disk) == [SnapshotName(index, 1).file_name for index in (10, 30)]
    left = await disk.open(f"{GROUP}/snapshots/{SnapshotName(35, 1).file_name}.new", create=True)
    await left.close()
    snapshots = await store(disk)
    assert snapshots.newest_index == 30
    await snapshots.save(lambda: snapshot(40), 15)
    assert await names(disk) == [SnapshotName(index, 1).file_name for index in (30, 40)]


async def test_segments_that_are_about_to_go_are_not_named_any_more() -> None:
    """By the newest, under the same name; whole whatever happens meanwhile."""
    base = LogBase(index=10, term=1, offset=10)
    both = attrs.evolve(
        snapshot(10).manifest,
        segments=(
            *snapshot(10).manifest.segments,
            attrs.evolve(snapshot(10).manifest.segments[0], base_index=11, last_index=20, base_offset=10, end_offset=20),
        ),
    )
    whole = attrs.evolve(snapshot(20), manifest=both)
    for cut in range(20):
        disk = await new_disk(cut)
        snapshots = await store(disk)
        await snapshots.save(lambda: whole, 0)
        disk.cut_power_after(cut)
        try:
            await snapshots.forget_before(base)
        except DiskCrashed:
            found = await (await store(disk.crash(CrashMode.LOSE))).load(SnapshotName(20, 1))
            assert found in (whole, attrs.evolve(whole, manifest=Manifest(base=base, segments=both.segments[1:])))
            continue
        disk.cut_power_after(1000)
        assert (await snapshots.load(SnapshotName(20, 1))).manifest == Manifest(base=base, segments=both.segments[1:])
        await snapshots.forget_before(LogBase(index=5, term=1, offset=5))
        assert (await snapshots.load(SnapshotName(20, 1))).manifest.base == base
        return
    raise AssertionError("cut at every place, and never at the end")


async def test_a_damaged_one_is_passed_over_for_an_older_one() -> None:
    """It is said which, and the next save removes it."""
    disk = await new_disk()
    snapshots = await store(disk)
    for index in (10, 20):
        await snapshots.save(lambda index=index: snapshot(index), 0)  # type: ignore[misc]
    await damage(disk, 20)
    found = await find(disk)
    assert found.newest is not None
    assert found.newest.metadata == snapshot(10).metadata
    assert SnapshotName(20, 1).file_name in found.problems[0]
    snapshots = SnapshotStore(disk, GROUP, found)
    with pytest.raises(DamagedData, match="checksum"):
        await snapshots.load(SnapshotName(20, 1))
    await snapshots.save(lambda: snapshot(30), 0)
    assert await names(disk) == [SnapshotName(index, 1).file_name for index in (10, 30)]


async def test_one_that_no_machine_can_take_is_passed_over() -> None:
    """Its bytes are no state, or of a newer release, which is kept apart: that release can begin with it."""
    disk = await new_disk()
    snapshots = await store(disk)
    await snapshots.save(lambda: snapshot(10), 0)
    await snapshots.save(lambda: snapshot(20, machine=b"newer"), 0)
    found = await find(disk)
    assert (found.names, found.newer_release) == ((SnapshotName(10, 1),), "a part of a newer release")
    await snapshots.save(lambda: snapshot(30, machine=b"wrong"), 0)
    assert (await find(disk)).names == (SnapshotName(10, 1),)
    await remove_unfit_snapshots(disk, GROUP, await find(disk))
    assert await names(disk.crash(CrashMode.LOSE)) == [SnapshotName(10, 1).file_name]


async def test_one_under_the_name_of_another_is_damaged() -> None:
    disk = await new_disk()
    snapshots = await store(disk)
    await snapshots.save(lambda: snapshot(10), 0)
    directory = f"{GROUP}/snapshots"
    await disk.rename(f"{directory}/{SnapshotName(10, 1).file_name}", f"{directory}/{SnapshotName(12, 1).file_name}")
    found = await find(disk)
    assert found.newest is None
    assert "holds the snapshot at entry 10" in found.problems[0]


async def test_what_does_not_fit_the_log() -> None:
    """One that another log had, and one that covers entries which are gone: the latter is told apart, since it shows a loss."""
    disk = await new_disk()
    snapshots = await store(disk)
    for index in (10, 20):
        await snapshots.save(lambda index=index: snapshot(index), 0)  # type: ignore[misc]
    found = await find(disk, lambda name: None if name.index > 15 else True)
    assert (found.beyond, found.names) == (SnapshotName(20, 1), (SnapshotName(10, 1),))
    found = await find(disk, lambda name: False)
    assert (found.beyond, found.newest, found.names) == (None, None, ())
    assert len(found.problems) == 2
    # Damaged ones prove nothing.
    await damage(disk, 20)
    assert (await find(disk, lambda name: None if name.index > 15 else True)).beyond is None


async def test_all_are_removed_with_the_log() -> None:
    disk = await new_disk()
    await remove_snapshots(disk, GROUP)  # none were ever written
    snapshots = await store(disk)
    await snapshots.save(lambda: snapshot(10), 0)
    await remove_snapshots(disk, GROUP)
    assert await find(disk.crash(CrashMode.LOSE)) == Found()


@pytest.mark.parametrize("mode", list(CrashMode))
async def test_a_crash_at_any_operation_leaves_the_old_one_or_the_new_one(
    mode: CrashMode, autojump_clock: trio.testing.MockClock
) -> None:
    """Never none, once there was one; and the store goes on from there."""
    cuts = 0
    for seed in range(12 if mode is CrashMode.DRAW else 1):
        for operations in range(1000):
            disk = await new_disk(seed)
            saved = 0
            try:
                disk.cut_power_after(operations)
                snapshots = await store(disk)
                for index in (10, 20, 30):
                    await snapshots.save(lambda index=index: snapshot(index, machine=bytes(2000)), index - 10)  # type: ignore[misc]
                    saved = index
                break
            except DiskCrashed:
                cuts += 1
            disk = disk.crash(mode)
            await disk.make_directory(GROUP)
            snapshots = await store(disk)
            assert saved <= snapshots.newest_index <= saved + 10
            await snapshots.save(lambda: snapshot(40), 0)
            assert await newest(disk.crash(CrashMode.LOSE)) == 40
    assert cuts > 20


async def test_a_full_disk_writes_nothing_and_can_be_tried_again() -> None:
    disk = await new_disk()
    snapshots = await store(disk)
    await snapshots.save(lambda: snapshot(10), 0)
    disk.fill(0)
    with pytest.raises((DiskFull, StorageFailed)):
        await snapshots.save(lambda: snapshot(20, machine=bytes(5000)), 0)
    disk.make_room()
    assert snapshots.newest_index == 10
    await snapshots.save(lambda: snapshot(20), 0)
    assert await newest(disk.crash(CrashMode.LOSE)) == 20


async def test_a_failed_sync_is_no_snapshot() -> None:
    disk = await new_disk()
    snapshots = await store(disk)
    disk.faults.append(Fault(operation=Operation.SYNC, path_part="snapshots", times=1))
    with pytest.raises(StorageFailed):
        await snapshots.save(lambda: snapshot(10), 0)
    assert snapshots.newest is None
