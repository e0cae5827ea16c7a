"""What cannot be opened here degrades one partition: the node goes on, says so, and opens it as soon as it can."""

import errno
import logging
import random

import pytest
import trio
import trio.testing

from tests.node.rig import ME, TWO
from tests.node.test_replicas import Kit, create, heartbeat
from trio_eventlog.codec.catalog import encode_command
from trio_eventlog.errors import DiskFull, NotLeader, ResourceShortage, StorageFailed, TooManyPartitions
from trio_eventlog.ids import CATALOG_GROUP, GroupId, format_id
from trio_eventlog.machine.catalog import CreateTopic, DeleteTopic
from trio_eventlog.storage.disk import FILE_MODE, is_shortage
from trio_eventlog.testing.disk import Operation, SimDisk, SimFile


class ShortDisk(SimDisk):
    """Has no descriptors to spare for the groups in `refused`."""

    def __init__(self) -> None:
        super().__init__(random.Random(1))
        self.refused: set[int] = set()
        self.attempts = 0

    async def open(self, path: str, *, create: bool = False, writes: bool = True, mode: int = FILE_MODE) -> SimFile:
        if any(f"/{format_id(group_id)}/" in path for group_id in self.refused):
            self.attempts += 1
            await trio.lowlevel.checkpoint()
            raise ResourceShortage(f"{path}: too many open files (simulated)")
        return await super().open(path, create=create, writes=writes, mode=mode)


def names(kit: Kit) -> list[str]:
    return [replica.name for replica in kit.replicas.all()]


async def test_without_descriptors_partitions_are_degraded_and_the_node_goes_on() -> None:
    """Those that fit are open and work; the others say why they are not, and are opened once there are descriptors again."""
    disk = ShortDisk()
    async with Kit(disk).open() as kit:
        disk.refused = {4, 5, 6}
        await kit.command(create("t", 6))
        assert [item.name for item in kit.replicas.unopened()] == ["t/3", "t/4", "t/5"]
        assert all("too many open files" in item.trouble for item in kit.replicas.unopened())
        assert names(kit) == ["catalog", "t/0", "t/1", "t/2"]
        assert kit.replicas.get(GroupId(3)).is_leader
        with pytest.raises(ResourceShortage, match="cannot be opened on its node for now, and no other one has it"):
            kit.replicas.get(GroupId(4))
        await kit.command(create("u"))
        assert "u/0" in names(kit), "the catalog works, and what can be opened is"
        disk.refused = {5}
        await trio.sleep(kit.settings.open_retry_seconds_max)
        assert [item.name for item in kit.replicas.unopened()] == ["t/4"]
        assert kit.replicas.get(GroupId(4)).is_leader


async def test_degraded_groups_can_be_deleted() -> None:
    """Their topic goes as any other: nothing waits for what cannot be opened."""
    disk = ShortDisk()
    async with Kit(disk).open() as kit:
        disk.refused = {1, 2}
        await kit.command(create("t", 2))
        await kit.command(DeleteTopic(name="t"))
        assert kit.replicas.unopened() == []
        attempts = disk.attempts
        await trio.sleep(100)
        assert disk.attempts == attempts, "nobody tries any more"


async def test_a_start_with_more_partitions_than_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    """The same at every start with what is there already: few attempts, and one line a minute about all of them."""
    disk = ShortDisk()
    async with Kit(disk).open() as kit:
        await kit.command(create("t", 10))
    disk.refused = set(range(4, 11))
    caplog.set_level(logging.WARNING)
    async with Kit(disk).open() as kit:
        await kit.replicas.wait_current()
        await trio.sleep(59)
        assert len(kit.replicas.unopened()) == 7
        assert kit.replicas.opening_at_start() == 0, "degraded ones do not keep the node from being ready"
        assert len([record for record in caplog.records if "has to wait" in record.message]) == 1
        assert disk.attempts <= 7 * 9
        await trio.sleep(300)
        assert 2 <= len([record for record in caplog.records if "has to wait" in record.message]) <= 6
        assert disk.attempts <= 7 * 30


async def test_the_catalog_waits_for_descriptors_too() -> None:
    """A node that finds none when it starts is not ready, and does not end."""
    disk = ShortDisk()
    async with Kit(disk).open() as kit:
        await kit.command(create("t"))
    disk.refused = {CATALOG_GROUP}

    async def free() -> None:
        await trio.sleep(10)
        disk.refused = set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(free)
        async with Kit(disk).open() as kit:
            assert trio.current_time() > 10
            await kit.replicas.wait_current()
            await trio.testing.wait_all_tasks_blocked()
            assert names(kit) == ["catalog", "t/0"]


async def test_at_most_partitions_max_are_open() -> None:
    """At the limit everything is open; what is beyond it waits until something goes."""
    async with Kit(partitions_max=3).open() as kit:
        await kit.command(create("a", 2))
        await kit.command(create("b"))
        assert kit.replicas.unopened() == []
        await kit.command(create("c"))  # proposed behind the check that refuses it
        (degraded,) = kit.replicas.unopened()
        assert (degraded.name, "partitions_max" in degraded.trouble) == ("c/0", True)
        await kit.command(DeleteTopic(name="a"))
        await trio.sleep(kit.settings.open_retry_seconds_max)
        assert names(kit) == ["catalog", "b/0", "c/0"]


async def test_a_create_beyond_the_room_of_any_node_is_refused_before_it_is_proposed() -> None:
    """Counted on every node that the placement would use, what is being created included; to the last one it may be made."""
    async with Kit(partitions_max=10).open() as kit:
        replicas = kit.replicas
        replicas.room.partitions_max[TWO] = 4
        both = CreateTopic(name="t", partition_count=4, replicas=(ME, TWO))
        with replicas.room.held_for(both):
            with replicas.room.held_for(create("here", 6)):
                pass
            with pytest.raises(TooManyPartitions, match="has room for 10"), replicas.room.held_for(create("here", 7)):
                raise AssertionError("there is no room")
            with (
                pytest.raises(TooManyPartitions, match=r"carries 4 and has room for 4"),
                replicas.room.held_for(CreateTopic(name="u", partition_count=1, replicas=(ME, TWO))),
            ):
                raise AssertionError("there is no room")
        await kit.command(create("a", 10))
        with pytest.raises(TooManyPartitions), replicas.room.held_for(create("b")):
            raise AssertionError("there is no room")


async def test_calls_for_a_group_that_is_being_opened_are_told_to_try_again() -> None:
    """It is neither missing nor broken, and messages that come for it meanwhile wait."""
    async with Kit().open() as kit:
        kit.disk.latency_seconds[Operation.NAMES] = 1.0
        await kit.replicas.catalog.propose_control(encode_command(create("t")))
        await kit.replicas.catalog_follower.wait_topic("t", present=True)
        (opening,) = kit.replicas.unopened()
        assert (opening.name, opening.trouble) == ("t/0", "")
        with pytest.raises(NotLeader, match="being opened"):
            kit.replicas.get(GroupId(1))
        kit.replicas.receive(GroupId(1), heartbeat(1, 7))
        await kit.replicas.catalog_follower.wait_settled("t")
        await trio.testing.wait_all_tasks_blocked()
        assert kit.replicas.get(GroupId(1)).status().hard_state.term >= 7


def test_what_is_a_shortage() -> None:
    """Only what may work later with the same disk: a write that failed otherwise is a broken disk."""

    def failed(number: int) -> StorageFailed:
        error = StorageFailed("failed")
        error.__cause__ = OSError(number, "failed")
        return error

    assert is_shortage(DiskFull("full"))
    assert is_shortage(ResourceShortage("none left"))
    assert is_shortage(failed(errno.ENOSPC))
    assert is_shortage(failed(errno.EDQUOT))
    assert not is_shortage(failed(errno.EIO))
    assert not is_shortage(StorageFailed("an earlier write failed"))
    assert not is_shortage(OSError(errno.ENOSPC, "not ours"))
