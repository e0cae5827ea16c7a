"""Room on the disk: when records are refused, and when the reserve is given up and taken back."""

import random

import attrs
import pytest

from trio_eventlog.errors import DiskFull
from trio_eventlog.ids import NodeId
from trio_eventlog.node.disk_space import DiskSpace, DiskSpaceSettings
from trio_eventlog.storage.disk import write_atomically
from trio_eventlog.storage.reserve import RESERVE_FILE
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import SimDisk

KIB = 1024
SETTINGS = default(DiskSpaceSettings, disk_reserve_bytes=64 * KIB, disk_free_bytes_min=100 * KIB)
RESERVE = f"data/{RESERVE_FILE}"


async def opened(free_bytes: int = 1 << 30, settings: DiskSpaceSettings = SETTINGS) -> tuple[SimDisk, DiskSpace]:
    disk = SimDisk(random.Random(1))
    await disk.make_directory("data")
    disk.fill(free_bytes)
    space = DiskSpace(disk, "data", settings)
    await space.begin()
    return disk, space


async def test_records_are_refused_below_the_mark_and_taken_again_a_quarter_above_it() -> None:
    """So the state does not change back and forth with each batch that comes and each segment that goes."""
    disk, space = await opened()
    for free_bytes, is_scarce in ((101, False), (100, False), (99, True), (124, True), (125, False), (101, False), (0, True)):
        disk.fill(free_bytes * KIB)
        await space.look()
        assert space.is_scarce is is_scarce, free_bytes
        assert bool(space.problem) is is_scarce


async def test_the_reserve_is_given_up_when_nothing_is_left_and_taken_back() -> None:
    """What it held is free for small files; records are not taken again before it is whole."""
    disk, space = await opened()
    assert len(disk.content(RESERVE)) == 64 * KIB
    disk.fill(0)
    await space.look()
    assert (space.is_exhausted, space.is_scarce) == (True, True)
    assert RESERVE not in disk.paths()
    await write_atomically(disk, "data/lives", bytes(KIB))
    disk.fill(71 * KIB)
    await space.look()
    assert space.is_exhausted
    assert space.free_bytes == 7 * KIB
    disk.fill(72 * KIB)
    await space.look()
    assert not space.is_exhausted
    assert space.is_scarce
    assert len(disk.content(RESERVE)) == 64 * KIB
    assert space.free_bytes == 8 * KIB
    disk.make_room()
    await space.look()
    assert not space.is_scarce


async def test_a_node_starts_on_a_full_disk() -> None:
    """A reserve that a crash has left in any size is made whole, or given up."""
    for left_bytes in (0, 1000, 64 * KIB, 100 * KIB):
        disk, _ = await opened(free_bytes=1 << 20)
        disk.put(RESERVE, bytes(left_bytes))
        disk.fill(KIB)
        space = DiskSpace(disk, "data", SETTINGS)
        await space.begin()
        assert space.is_exhausted is (left_bytes < 64 * KIB) or left_bytes == 64 * KIB
        await write_atomically(disk, "data/lives", bytes(100))


async def test_without_a_reserve_there_is_no_file() -> None:
    disk, space = await opened(settings=attrs.evolve(SETTINGS, disk_reserve_bytes=0))
    assert disk.paths() == []
    disk.fill(0)
    await space.look()
    assert (space.is_exhausted, space.is_scarce) == (False, True)


async def test_a_peer_is_short_of_room_while_it_says_so() -> None:
    """And for an election timeout after that: what it says may get lost."""
    _, space = await opened()
    space.peer_is_short(NodeId(2))
    for _ in range(SETTINGS.election_timeout_ticks - 1):
        space.tick()
    assert space.short_peers() == {2}
    space.tick()
    assert space.short_peers() == frozenset()


@pytest.mark.parametrize("free_bytes", [0, 1])
async def test_small_files_are_not_half_written_on_a_full_disk(free_bytes: int) -> None:
    """DiskFull, before anything of the new content is there; the former content stays."""
    disk, _ = await opened(settings=attrs.evolve(SETTINGS, disk_reserve_bytes=0))
    await write_atomically(disk, "data/lives", b"before")
    disk.fill(free_bytes)
    with pytest.raises(DiskFull):
        await write_atomically(disk, "data/lives", b"after")
    assert disk.content("data/lives") == b"before"
    disk.make_room()
    await write_atomically(disk, "data/lives", b"after")
    assert disk.content("data/lives") == b"after"
