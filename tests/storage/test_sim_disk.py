"""What the simulated disk forgets, and how it fails."""

import random
from collections import Counter

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_eventlog.errors import DamagedData, DiskFull, StorageFailed
from trio_eventlog.storage.disk import Disk
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, Fault, Operation, SimDisk


async def put(disk: SimDisk, path: str, data: bytes) -> None:
    """A file, durably."""
    file = await disk.open(path, create=True)
    await file.write_and_sync(0, [data])
    await disk.sync_directory("/d")
    await file.close()


async def new_disk(seed: int = 0, capacity_bytes: int = 1 << 30) -> SimDisk:
    disk = SimDisk(random.Random(seed), capacity_bytes=capacity_bytes)
    await disk.make_directory("/d")
    return disk


async def test_unsynced_bytes_are_lost() -> None:
    """In the plain mode a crash leaves exactly what was synced."""
    disk = await new_disk()
    await put(disk, "/d/f", b"durable")
    file = await disk.open("/d/f")
    await file.write_at(0, [b"DURABLE and more"])
    await file.truncate(2)
    assert disk.content("/d/f") == b"DU"
    after = disk.crash(CrashMode.LOSE)
    assert after.content("/d/f") == b"durable"


async def test_a_killed_process_loses_nothing() -> None:
    """What was written but not synced is in the kernel, and stays."""
    disk = await new_disk()
    file = await disk.open("/d/f", create=True)
    await file.write_at(0, [b"abc"])
    assert disk.crash(CrashMode.KEEP).content("/d/f") == b"abc"


async def test_unsynced_names_are_lost() -> None:
    """Create, rename and remove wait for the directory's sync."""
    disk = await new_disk()
    await put(disk, "/d/old", b"old")
    await put(disk, "/d/gone", b"gone")
    file = await disk.open("/d/new", create=True)
    await file.write_and_sync(0, [b"new"])
    await disk.rename("/d/new", "/d/old")
    await disk.remove("/d/gone")
    assert await disk.list_directory("/d") == ["old"]
    after = disk.crash(CrashMode.LOSE)
    assert await after.list_directory("/d") == ["gone", "old"]
    assert after.content("/d/old") == b"old"


async def test_unsynced_directories_are_lost() -> None:
    """With all that is in them, be it synced; one sync of the directory above keeps all of them."""
    disk = await new_disk()
    for name in ("a", "b"):
        await disk.add_directory(f"/d/{name}")
        file = await disk.open(f"/d/{name}/f", create=True)
        await file.write_and_sync(0, [b"synced"])
        await disk.sync_directory(f"/d/{name}")
    copy = disk.image().crash(CrashMode.LOSE)
    assert await copy.list_directory("/d") == ["a", "b"]
    await disk.sync_directory("/d")
    await disk.add_directory("/d/a/deep")
    await disk.add_directory("/d/c")
    await disk.add_directory("/d/c/deep")
    await disk.sync_directory("/d/c")
    disk = disk.crash(CrashMode.LOSE)
    assert await disk.list_directory("/d") == ["a", "b"]
    assert await disk.list_directory("/d/a") == ["f"]
    assert not await disk.exists("/d/c/deep")
    await disk.add_directory("/d/c")
    disk = disk.crash(CrashMode.KEEP)
    assert await disk.list_directory("/d") == ["a", "b", "c"]


async def test_a_crash_comes_between_the_operations_of_at_once() -> None:
    """Each of them counts."""
    disk = await new_disk()
    disk.cut_power_after(2)

    async def work(within: Disk) -> None:
        for name in "abc":
            await (await within.open(f"/d/{name}", create=True)).close()

    with pytest.raises(DiskCrashed):
        await disk.at_once(work)
    assert disk.paths() == ["/d/a", "/d/b"]


async def test_synced_names_stay() -> None:
    """After the directory's sync they survive, with the bytes that were synced."""
    disk = await new_disk()
    file = await disk.open("/d/new", create=True)
    await file.write_and_sync(0, [b"new"])
    await file.write_at(0, [b"NEW"])
    await disk.rename("/d/new", "/d/renamed")
    await disk.sync_directory("/d")
    after = disk.crash(CrashMode.LOSE)
    assert await after.list_directory("/d") == ["renamed"]
    assert after.content("/d/renamed") == b"new"


async def test_torn_writes() -> None:
    """Drawn crashes lose, keep and tear, sector by sector, and never touch what was synced."""
    outcomes: Counter[str] = Counter()
    for seed in range(60):
        disk = await new_disk(seed)
        await put(disk, "/d/f", b"a" * 700)
        file = await disk.open("/d/f")
        await file.write_at(700, [b"b" * 2000])
        data = disk.crash().content("/d/f")
        assert data[:700] == b"a" * 700
        written = data[700:].ljust(2000, b"\0")
        sectors = [written[:324], *(written[start : start + 512] for start in range(324, 2000, 512))]
        assert all(set(sector) in ({0}, {ord("b")}) for sector in sectors)
        outcomes["kept" if set(written) == {ord("b")} else "lost" if not any(written) else "torn"] += 1
    assert min(outcomes[outcome] for outcome in ("kept", "lost", "torn")) > 5, outcomes


async def test_drawn_crashes_lose_names_and_keep_them() -> None:
    """Names that were created, renamed or removed, one by one, each of them in some crashes and not in others."""
    outcomes: Counter[tuple[str, bool]] = Counter()
    for seed in range(80):
        disk = await new_disk(seed)
        for name in ("a", "b", "gone"):
            await put(disk, f"/d/{name}", name.encode())
        await (await disk.open("/d/created", create=True)).write_and_sync(0, [b"created"])
        await disk.rename("/d/a", "/d/renamed")
        await disk.rename("/d/b", "/d/renamed too")
        await disk.remove("/d/gone")
        names = await disk.crash().list_directory("/d")
        for name in ("created", "renamed", "renamed too", "gone"):
            outcomes[name, name in names] += 1
        assert ("a" in names) is not ("renamed" in names), "a file keeps a name"
        outcomes["only the second", "renamed" not in names and "renamed too" in names] += 1
    assert len(outcomes) == 10
    assert min(outcomes.values()) > 8, outcomes


async def test_same_seed_same_crash() -> None:
    """All chance comes from the generator handed in."""

    async def story(seed: int) -> list[bytes]:
        disk = await new_disk(seed)
        for number in range(5):
            file = await disk.open(f"/d/{number}", create=True)
            await file.write_at(0, [b"x" * 3000])
        after = disk.crash()
        return [name.encode() + after.content(f"/d/{name}") for name in await after.list_directory("/d")]

    assert await story(1) == await story(1)
    assert len({tuple(await story(seed)) for seed in range(5)}) > 1


async def test_old_handles_are_dead_after_a_crash() -> None:
    """A task of the crashed node cannot touch the disk of the restarted one."""
    disk = await new_disk()
    file = await disk.open("/d/f", create=True)
    lock = await disk.lock("/d/LOCK")
    after = disk.crash(CrashMode.KEEP)
    with pytest.raises(DiskCrashed):
        await file.write_and_sync(0, [b"x"])
    with pytest.raises(DiskCrashed):
        await disk.list_directory("/d")
    lock.release()
    await file.close()
    await after.lock("/d/LOCK")  # locks end with the machine
    assert after.content("/d/f") == b""


async def test_crash_between_write_and_sync(autojump_clock: MockClock) -> None:
    """A write_and_sync under way at the crash is not durable, and raises."""
    disk = await new_disk()
    disk.latency_seconds[Operation.SYNC] = 1.0
    file = await disk.open("/d/f", create=True)
    with pytest.RaisesGroup(DiskCrashed):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.write_and_sync, 0, [b"x"])
            await trio.sleep(0.5)
            assert disk.content("/d/f") == b"x"
            after = disk.crash(CrashMode.LOSE)
    assert not await after.exists("/d/f")


async def test_power_cut_at_each_operation() -> None:
    """Operations before the cut happen, the one after does not."""
    for operations in range(4):
        disk = await new_disk()
        disk.cut_power_after(operations)
        done = 0
        try:
            file = await disk.open("/d/f", create=True)
            done = 1
            await file.write_and_sync(0, [b"x"])  # two operations
            done = 3
            await disk.sync_directory("/d")
            done = 4
        except DiskCrashed:
            assert not disk.has_power
        assert done == {0: 0, 1: 1, 2: 1, 3: 3}[operations]
        assert disk.crash(CrashMode.LOSE).has_power


@pytest.mark.parametrize("operation", [Operation.WRITE, Operation.SYNC])
async def test_a_failed_write_or_sync_is_final_for_the_file(operation: Operation) -> None:
    """As on the real disk: nothing but close works afterwards."""
    disk = await new_disk()
    file = await disk.open("/d/f", create=True)
    disk.faults.append(Fault(operation=operation, path_part="f", after=1, times=1))
    await file.write_and_sync(0, [b"x"])
    with pytest.raises(StorageFailed, match="injected EIO"):
        await file.write_and_sync(0, [b"y"])
    with pytest.raises(StorageFailed, match="refused"):
        await file.write_and_sync(0, [b"z"])
    await file.close()
    assert disk.crash(CrashMode.LOSE) is not None


async def test_a_failed_read_is_damage_with_its_place() -> None:
    """Reading fails as often as told, for the file told, and heals."""
    disk = await new_disk()
    await put(disk, "/d/f", b"abc")
    await put(disk, "/d/g", b"abc")
    disk.faults.append(Fault(operation=Operation.READ, path_part="f", times=2))
    for _ in range(2):
        file = await disk.open("/d/f")
        with pytest.raises(DamagedData) as caught:
            await file.read_at(1, 1)
        assert (caught.value.path, caught.value.position) == ("/d/f", 1)
        assert await (await disk.open("/d/g")).read_at(0, 3) == b"abc"
    assert await file.read_at(0, 3) == b"abc"


async def test_faults_of_names() -> None:
    """Operations on names and syncs of directories fail too."""
    disk = await new_disk()
    disk.faults.append(Fault(operation=Operation.NAMES, times=1))
    with pytest.raises(StorageFailed):
        await disk.open("/d/f", create=True)
    disk.faults.append(Fault(operation=Operation.SYNC, path_part="/d", times=1))
    with pytest.raises(StorageFailed):
        await disk.sync_directory("/d")
    await disk.sync_directory("/d")


async def test_full() -> None:
    """Preallocation is refused and changes nothing; a write without room is a failed write."""
    disk = await new_disk(capacity_bytes=1000)
    file = await disk.open("/d/f", create=True)
    await file.preallocate(900)
    with pytest.raises(DiskFull):
        await file.preallocate(1001)
    await file.write_and_sync(0, [b"x" * 900])
    assert await disk.free_bytes("/d") == 100
    with pytest.raises(StorageFailed):
        await file.write_at(900, [b"x" * 101])


async def test_full_for_a_while() -> None:
    """Others may fill the disk; it stays full when the machine crashes, and is as before once they have made room."""
    disk = await new_disk(capacity_bytes=1000)
    await put(disk, "/d/f", b"x" * 300)
    disk.fill(free_bytes=50)
    assert await disk.free_bytes("/d") == 50
    disk = disk.crash()
    file = await disk.open("/d/f")
    with pytest.raises(DiskFull):
        await file.preallocate(351)
    disk.make_room()
    assert await disk.free_bytes("/d") == 700
    await file.preallocate(351)


async def test_a_write_can_be_waited_for() -> None:
    """Told as it begins, by kind and by path, once for each who waits."""
    disk = await new_disk()
    disk.latency_seconds = {Operation.WRITE: lambda: 0.0}
    told: list[str] = []

    async def wait(operation: Operation, path_part: str) -> None:
        await disk.wait_operation(operation, path_part)
        told.append(path_part)

    async with trio.open_nursery() as nursery:
        for operation, path_part in ((Operation.WRITE, "f"), (Operation.WRITE, "other"), (Operation.SYNC, "")):
            nursery.start_soon(wait, operation, path_part)
        await trio.testing.wait_all_tasks_blocked()
        file = await disk.open("/d/f", create=True)
        await file.write_at(0, [b"x"])
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["f"]
        await file.sync()
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["f", ""]
        nursery.cancel_scope.cancel()


async def test_what_is_durable_of_a_file_can_be_seen() -> None:
    """Bytes by sync, the name by the directory's."""
    disk = await new_disk()
    file = await disk.open("/d/f", create=True)
    await file.write_and_sync(0, [b"abc"])
    assert (file.durable_content(), file.is_named_durably()) == (b"abc", False)
    await disk.sync_directory("/d")
    assert file.is_named_durably()
    await file.write_at(1, [b"?"])
    await file.write_at(2, [b"?"])
    assert (file.durable_content(), file.unsynced_from()) == (b"abc", 1)
    await file.sync()
    assert file.durable_content() == b"a??"
    assert file.unsynced_from() > 3
    assert disk.paths() == ["/d/f"]


async def test_latency_is_virtual(autojump_clock: MockClock) -> None:
    """Operations take the time told, fixed or drawn, on the clock of the test."""
    disk = await new_disk()
    disk.latency_seconds = {Operation.WRITE: 2.0, Operation.SYNC: lambda: 3.0}
    start = trio.current_time()
    file = await disk.open("/d/f", create=True)
    await file.write_and_sync(0, [b"x"])
    assert trio.current_time() - start == pytest.approx(5.0)


async def test_counts_and_flipped_bits() -> None:
    """Writes, bytes and syncs are counted; a flipped bit is seen at once and after a crash."""
    disk = await new_disk()
    await put(disk, "/d/f", b"abc")
    assert (disk.statistics.writes, disk.statistics.written_bytes) == (1, 3)
    assert (disk.statistics.syncs, disk.statistics.directory_syncs) == (1, 1)
    disk.flip_bit("/d/f", 1, bit=5)
    assert disk.content("/d/f") == b"aBc"
    after = disk.crash(CrashMode.LOSE)
    assert after.content("/d/f") == b"aBc"
    after.put("/d/new/g", b"placed")
    after.delete("/d/f")
    assert await after.list_directory("/d") == ["new"]
    assert after.crash(CrashMode.LOSE).content("/d/new/g") == b"placed"
