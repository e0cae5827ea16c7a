"""A group's snapshots: taken at the end of sealed segments, and what a start begins with."""

import random
from collections.abc import Sequence

import attrs
import pytest
import trio

from tests.node.rig import ME, TWO, Rig, data, no_op
from trio_eventlog.codec.entry import EntryFrame, encode_entry
from trio_eventlog.codec.partition_snapshot import decode_partition
from trio_eventlog.codec.snapshot_file import SnapshotFile, decode_snapshot_file
from trio_eventlog.codec.stored_batch import batch_producer
from trio_eventlog.errors import StorageFailed
from trio_eventlog.ids import NodeId
from trio_eventlog.machine.partition import AppliedBatch, PartitionMachine
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.raft import (
    ChangeKind,
    ConfigurationChange,
    EntryKind,
    NodeChange,
    encode_change,
)
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import CrashMode, SimDisk

VALUE = b"x" * 200
LOG = default(LogSettings, preallocate_bytes=0, segment_bytes=1000, tail_cache_bytes=4000)
DRIVER = default(DriverSettings, snapshot_bytes_min=1)
SNAPSHOTS = "g/snapshots"
ADD_FOUR = encode_change(ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_LEARNER, NodeId(4)),)))


def entries(count: int) -> list[EntryFrame]:
    """A log of one term: the entry that opens it, batches of two idempotent producers, and a change of the configuration in the
    middle."""
    frames = [no_op(1, 1, 0)]
    while len(frames) < count:
        index, offset = len(frames) + 1, frames[-1].end_offset
        if index == count // 2:
            frames.append(encode_entry(EntryKind.CONFIGURATION, term=1, index=index, base_offset=offset, payload=ADD_FOUR))
        else:
            producer = index % 2 + 1
            sequence = sum(frame.record_count for frame in frames if frame.record_count and batch_producer(frame)[0] == producer)
            frames.append(data(1, index, offset, VALUE, producer_id=producer, base_sequence=sequence))
    return frames


def machine_after(frames: Sequence[EntryFrame]) -> PartitionMachine:
    """What applying all of them gives."""
    machine = PartitionMachine(5, 100)
    for frame in frames:
        if frame.record_count:
            machine.apply(frame.index, AppliedBatch(frame.base_offset, frame.record_count, *batch_producer(frame)))
        else:
            machine.skip(frame.index)
    return machine


def new_rig(disk: SimDisk | None = None) -> Rig:
    return Rig(disk, log=LOG, driver=DRIVER)


async def follow(rig: Rig, frames: Sequence[EntryFrame], *, step: int = 1) -> None:
    """Have the replica append and apply what it does not have yet, `step` entries at a time."""
    for first in range(rig.replica.status().last_index, len(frames), step):
        part = frames[first : first + step]
        rig.give_append(TWO, 1, (1 if first else 0, first), *part, commit=part[-1].index)
        await rig.settle()
    rig.give_append(TWO, 1, (1, len(frames)), commit=len(frames))
    await rig.settle()


def saved(disk: SimDisk) -> list[SnapshotFile]:
    """All snapshots on the disk, the oldest first."""
    return [decode_snapshot_file(disk.content(path)) for path in sorted(disk.paths()) if path.startswith(f"{SNAPSHOTS}/")]


@pytest.mark.parametrize("step", [1, 3, 40])
async def test_a_snapshot_is_of_the_end_of_a_sealed_segment(step: int) -> None:
    """Whether entries come one by one, or several segments of them in one write: the machine, the configuration and the list of
    segments are those of that very entry."""
    frames = entries(40)
    async with new_rig().open() as rig:
        await follow(rig, frames, step=step)
        assert rig.replica.snapshot_index == rig.replica.log.sealed_last_index > 30
        for snapshot in saved(rig.disk):
            assert decode_partition(snapshot.machine) == machine_after(frames[: snapshot.index]).snapshot()
            assert (NodeId(4) in snapshot.metadata.configuration.learners) == (snapshot.index >= 20)
            assert snapshot.manifest == rig.replica.log.manifest(snapshot.index)
            assert snapshot.manifest.base.index == 0
        assert len(saved(rig.disk)) == (2 if step < 40 else 1)


async def test_a_start_applies_what_comes_after_the_newest_snapshot() -> None:
    """The machine, its watermark and the configuration are those of the whole log."""
    frames = entries(40)
    disk = SimDisk(random.Random(1))
    async with new_rig(disk).open() as rig:
        await follow(rig, frames)
        covered = rig.replica.snapshot_index
    async with new_rig(disk).open() as rig:
        assert rig.replica.snapshot_index == covered
        assert rig.machine.applied_index == covered
        assert rig.replica.watermark.value == machine_after(frames[:covered]).high_watermark
        assert NodeId(4) in rig.replica.configuration.learners
        await follow(rig, frames)
        assert rig.machine.snapshot() == machine_after(frames).snapshot()
        assert rig.replica.driver.statistics().applied_entries == len(frames) - covered


async def test_entries_after_the_snapshot_that_are_known_to_be_committed_are_applied_at_once() -> None:
    """A commit index that was made durable counts as it always does."""
    frames = entries(42)
    disk = SimDisk(random.Random(1))
    async with new_rig(disk).open() as rig:
        await follow(rig, frames[:41], step=41)
        covered = rig.replica.snapshot_index
        assert 20 < covered < 41
    async with new_rig(disk).open() as rig:
        await follow(rig, frames)
        assert rig.machine.snapshot() == machine_after(frames).snapshot()


@pytest.mark.parametrize("gone", [1, 2])
async def test_damaged_snapshots_are_passed_over(gone: int) -> None:
    """The older one does, and without any the whole log is applied."""
    frames = entries(40)
    disk = SimDisk(random.Random(1))
    async with new_rig(disk).open() as rig:
        await follow(rig, frames)
    paths = sorted(path for path in disk.paths() if path.startswith(SNAPSHOTS))
    for path in paths[-gone:]:
        content = bytearray(disk.content(path))
        content[50] ^= 1
        disk.put(path, bytes(content))
    async with new_rig(disk).open() as rig:
        assert (rig.machine.applied_index > 0) == (gone == 1)
        await follow(rig, frames)
        assert rig.machine.snapshot() == machine_after(frames).snapshot()


async def test_a_snapshot_of_entries_that_are_gone_shows_that_they_are() -> None:
    """The log ends before: without a word the replica would elect somebody who has even less."""
    frames = entries(40)
    disk = SimDisk(random.Random(1))
    async with new_rig(disk).open() as rig:
        await follow(rig, frames)
        segments = rig.replica.log.segment_count
        assert segments > 3
    logs = sorted(path for path in disk.paths() if path.startswith("g/log/") and path.endswith(".log"))
    for path in logs[-2:]:
        await disk.remove(path)
    async with new_rig(disk).open() as rig:
        assert "as a snapshot shows" in rig.replica.problem
        assert rig.machine.applied_index < rig.replica.log.last_index + 1
        await follow(rig, frames)
        assert rig.machine.snapshot() == machine_after(frames).snapshot()


async def test_none_is_taken_before_the_log_has_grown_enough() -> None:
    """At the bound one is, below it none."""
    frames = entries(40)
    async with new_rig().open() as rig:
        await follow(rig, frames)
        covered = rig.replica.log.frames_bytes_after(0) - rig.replica.log.frames_bytes_after(rig.replica.snapshot_index)
    for bytes_min, is_taken in ((covered, True), (covered + 1, False)):
        rig = Rig(log=LOG, driver=attrs.evolve(DRIVER, snapshot_bytes_min=bytes_min))
        async with rig.open():
            await follow(rig, frames)
            assert bool(rig.replica.snapshot_index) is is_taken


async def test_on_request_the_active_segment_is_sealed() -> None:
    """Nothing has to be written for it, and a second request finds nothing to do."""
    frames = entries(7)
    async with Rig(driver=DRIVER).open() as rig:
        await follow(rig, frames)
        assert rig.replica.snapshot_index == 0
        rig.replica.driver.snapshotting.request()
        await rig.settle()
        assert rig.replica.snapshot_index == rig.replica.log.sealed_last_index == 7
        rig.replica.driver.snapshotting.request()
        await rig.settle()
        assert rig.replica.driver.snapshotting.newest_index == 7
        assert len(saved(rig.disk)) == 1
    async with Rig(rig.disk, driver=DRIVER).open() as rig:
        assert rig.machine.snapshot() == machine_after(frames).snapshot()
        assert rig.replica.driver.snapshotting.uncovered_bytes == 0


async def test_a_segment_that_ends_with_what_is_not_committed_waits() -> None:
    """The snapshot is taken when its last entry is applied; not when another leader replaces that."""
    frames = entries(9)
    async with Rig(driver=DRIVER).open() as rig:
        rig.give_append(TWO, 1, (0, 0), *frames, commit=3)
        await rig.settle()
        rig.replica.driver.snapshotting.request()
        await rig.settle()
        assert (rig.replica.log.sealed_last_index, rig.replica.snapshot_index) == (9, 0)
        rig.give_append(TWO, 1, (1, 9), commit=9)
        await rig.settle()
        assert rig.replica.snapshot_index == 9
    async with Rig(driver=DRIVER).open() as rig:
        rig.give_append(TWO, 1, (0, 0), *frames, commit=3)
        await rig.settle()
        rig.replica.driver.snapshotting.request()
        await rig.settle()
        other = [data(2, index, frames[6].base_offset + index - 7, VALUE) for index in range(7, 12)]
        rig.give_append(TWO, 2, (1, 6), *other, commit=11)
        await rig.settle()
        assert rig.replica.snapshot_index == 0
        rig.replica.driver.snapshotting.request()
        await rig.settle()
        assert rig.replica.snapshot_index == 11


@pytest.mark.parametrize("mode", list(CrashMode))
async def test_a_crash_at_any_operation(mode: CrashMode, autojump_clock: trio.testing.MockClock) -> None:
    """Whatever snapshots and segments are left: what was applied before, and all that comes, gives the machine of the whole log."""
    frames = entries(30)
    cuts = 0
    for operations in range(0, 1000, 3):
        disk = SimDisk(random.Random(operations))
        rig = new_rig(disk)
        disk.cut_power_after(operations)
        is_over = True
        try:
            async with rig.open():
                await follow(rig, frames, step=2)
        except* StorageFailed:
            is_over = False
        if is_over:
            break
        cuts += 1
        rig = new_rig(disk.crash(mode))
        async with rig.open():
            assert not rig.replica.problem
            applied = rig.machine.applied_index
            assert rig.machine.snapshot() == machine_after(frames[:applied]).snapshot()
            await follow(rig, frames)
            assert rig.machine.snapshot() == machine_after(frames).snapshot()
            assert rig.replica.node_id == ME
    assert cuts > 20
