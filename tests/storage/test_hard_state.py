"""Term, vote and commit over crashes and damage."""

import random

import pytest

from trio_eventlog.bounds import INDEX_MAX, TERM_MAX
from trio_eventlog.codec.hard_state import FILE_BYTES, SECTOR_BYTES, SLOT_BYTES, encode_slot, slot_position
from trio_eventlog.errors import DamagedData, StorageFailed
from trio_eventlog.ids import NodeId
from trio_eventlog.raft.ready import HardState
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, Fault, Operation, SimDisk

PATH = "/d/hard_state"


async def new_disk(seed: int = 0) -> SimDisk:
    disk = SimDisk(random.Random(seed))
    await disk.make_directory("/d")
    return disk


async def read(disk: SimDisk) -> HardState:
    async with await HardStateFile.open(disk, PATH) as hard_state:
        return hard_state.state


def state(number: int) -> HardState:
    return HardState(term=number, vote=NodeId(number * 7), commit=number * 100)


async def save(hard_state: HardStateFile, number: int) -> None:
    await hard_state.save(state(number))


async def test_a_new_one_is_empty_and_the_last_save_is_found() -> None:
    """Values come back after each of several saves."""
    disk = await new_disk()
    assert await read(disk) == HardState()
    for number in range(1, 6):
        async with await HardStateFile.open(disk, PATH) as hard_state:
            await save(hard_state, number)
            assert hard_state.state == state(number)
        assert await read(disk) == state(number)


async def test_saved_means_durable() -> None:
    """Everything saved survives a crash that loses all that was not synced; each save is one write and one sync."""
    disk = await new_disk()
    for number in range(1, 5):
        async with await HardStateFile.open(disk, PATH) as hard_state:
            writes, syncs = disk.statistics.writes, disk.statistics.syncs
            await save(hard_state, number)
            assert (disk.statistics.writes - writes, disk.statistics.syncs - syncs) == (1, 1)
        disk = disk.crash(CrashMode.LOSE)
        assert await read(disk) == state(number)


async def test_what_is_read_after_a_kill_is_durable() -> None:
    """A killed process may leave a state that only the kernel's cache has. Once opened it must survive a power cut."""
    disk = await new_disk()
    async with await HardStateFile.open(disk, PATH) as hard_state:
        await save(hard_state, 1)
    file = await disk.open(PATH)
    await file.write_at(slot_position(3), [encode_slot(state(2), 3)])
    assert await read(disk) == state(2)
    assert await read(disk.crash(CrashMode.LOSE)) == state(2)


@pytest.mark.parametrize("mode", CrashMode)
async def test_power_cut_at_every_operation(mode: CrashMode) -> None:
    """The state found is the last one saved, or the one being saved; never older, never a mixture; and it stays."""
    for seed in range(8):
        for operations in range(40):
            disk = await new_disk(seed)
            disk.cut_power_after(operations)
            saved = 0
            try:
                async with await HardStateFile.open(disk, PATH) as hard_state:
                    for number in range(1, 5):
                        await save(hard_state, number)
                        saved = number
            except DiskCrashed:
                pass
            disk = disk.crash(mode)
            found = await read(disk)
            assert found in (state(saved), state(saved + 1))
            assert await read(disk.crash(CrashMode.LOSE)) == found


async def test_every_torn_write() -> None:
    """Whatever mixture of sectors a write leaves: the old state or the new one, then one for good."""
    for number in (5, 6):
        old_slot, new_slot = encode_slot(state(number - 2), number - 2), encode_slot(state(number), number)
        for kept in range(256):
            disk = await new_disk()
            slot = b"".join(
                (new_slot if kept >> sector & 1 else old_slot)[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]
                for sector in range(8)
            )
            other = encode_slot(state(number - 1), number - 1)
            disk.put(PATH, slot + other if number % 2 == 0 else other + slot)
            expected = state(number) if kept else state(number - 1)
            assert await read(disk) == expected
            # The repair has put the state into both reach and durability: what stood in one sector is in eight.
            assert await read(disk.crash(CrashMode.LOSE)) == expected


async def test_a_tear_inside_a_sector() -> None:
    """Even when the tear leaves a sector that is neither old nor new, one of the other copies is right."""
    old_slot, new_slot, other = encode_slot(state(3), 3), encode_slot(state(5), 5), encode_slot(state(4), 4)
    for cut in range(0, SLOT_BYTES + 1, 7):
        disk = await new_disk()
        disk.put(PATH, other + new_slot[:cut] + old_slot[cut:])
        assert await read(disk) in (state(4), state(5))


async def test_a_state_in_one_sector_is_made_whole_before_it_is_relied_on() -> None:
    """A torn newest state, once read, survives the loss of the only sector that had it."""
    old_slot, new_slot, other = encode_slot(state(3), 3), encode_slot(state(5), 5), encode_slot(state(4), 4)
    disk = await new_disk()
    disk.put(PATH, other + new_slot[:SECTOR_BYTES] + old_slot[SECTOR_BYTES:])
    assert await read(disk) == state(5)
    disk.flip_bit(PATH, SLOT_BYTES + 20)
    assert await read(disk) == state(5)


async def test_any_flipped_bit_is_survived() -> None:
    """One bit damages one of eight copies."""
    disk = await new_disk()
    async with await HardStateFile.open(disk, PATH) as hard_state:
        for number in range(1, 4):
            await save(hard_state, number)
    content = disk.content(PATH)
    for position in range(0, FILE_BYTES, 11):
        disk.put(PATH, content)
        disk.flip_bit(PATH, position, position % 8)
        assert await read(disk) == state(3)


@pytest.mark.parametrize("slot", [0, 1])
async def test_a_slot_without_a_copy_is_damage(slot: int) -> None:
    """A torn write cannot do that; the slot may have held a vote that was acknowledged, so the other one must not be used."""
    disk = await new_disk()
    async with await HardStateFile.open(disk, PATH) as hard_state:
        for number in range(1, 4):
            await save(hard_state, number)
    for sector in range(8):
        disk.flip_bit(PATH, slot * SLOT_BYTES + sector * SECTOR_BYTES + 30)
    content = disk.content(PATH)
    with pytest.raises(DamagedData) as caught:
        await HardStateFile.open(disk, PATH)
    assert caught.value.path == PATH
    assert disk.content(PATH) == content  # nothing was changed


@pytest.mark.parametrize("content", [b"", b"\0" * FILE_BYTES, b"\0" * (FILE_BYTES - 1), b"x" * (FILE_BYTES + 1)])
async def test_a_file_of_something_else_is_damage(content: bytes) -> None:
    """Empty, zeros, cut short, too long: never an empty state."""
    disk = await new_disk()
    disk.put(PATH, content)
    with pytest.raises(DamagedData):
        await HardStateFile.open(disk, PATH)


async def test_a_failed_save_is_final() -> None:
    """After a failed sync nothing can be saved any more, and the state known is still the last one that was."""
    disk = await new_disk()
    async with await HardStateFile.open(disk, PATH) as hard_state:
        await save(hard_state, 1)
        disk.faults.append(Fault(operation=Operation.SYNC, times=1))
        with pytest.raises(StorageFailed):
            await save(hard_state, 2)
        with pytest.raises(StorageFailed):
            await save(hard_state, 3)
        assert hard_state.state == state(1)


@pytest.mark.parametrize("beyond", [HardState(term=TERM_MAX + 1), HardState(term=(1 << 64) - 1), HardState(commit=INDEX_MAX + 1)])
async def test_a_state_that_no_replica_comes_to_is_refused_and_the_way_back_is_named(beyond: HardState) -> None:
    """A former release has taken it from a message. With it nobody could be elected, and it would spread."""
    disk = await new_disk()
    async with await HardStateFile.open(disk, PATH) as hard_state:
        await hard_state.save(HardState(term=TERM_MAX, commit=INDEX_MAX))
        await hard_state.save(beyond)
    with pytest.raises(DamagedData, match="log repair"):
        await HardStateFile.open(disk, PATH)
    async with await HardStateFile.open(disk, PATH, is_repair=True) as hard_state:
        assert hard_state.state == beyond
        await hard_state.save(HardState(term=TERM_MAX, commit=INDEX_MAX))
    assert await read(disk) == HardState(term=TERM_MAX, commit=INDEX_MAX)
