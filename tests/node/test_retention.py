"""The beginning of a partition is given up: decided by its leader, carried out by every replica alike, in sight and on the disk."""

import random

import pytest
import trio.testing

from tests.node.rig import ME, THREE, TWO, Rig, data
from tests.node.test_snapshotting import DRIVER, LOG, VALUE, entries, follow, machine_after, new_rig
from trio_eventlog.codec.entry import EntryFrame, encode_entry
from trio_eventlog.codec.partition_command import decode_trim, encode_trim
from trio_eventlog.codec.snapshot_file import decode_snapshot_file
from trio_eventlog.errors import CodecError, InvalidArgument, NewerRelease, OffsetOutOfRange, StorageFailed
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.machine.catalog import EVENTS, CatalogMachine, CreateTopic, RaiseFeatureLevel
from trio_eventlog.machine.partition import LogStart
from trio_eventlog.node.retention import Retention, RetentionSettings, propose_trim
from trio_eventlog.raft import EntryKind, Message, MessageType
from trio_eventlog.storage.disk import read_whole
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, SimDisk

SECOND_NS = 10**9


def trim(index: int, base_offset: int, start: LogStart) -> EntryFrame:
    return encode_entry(EntryKind.CONTROL, term=1, index=index, base_offset=base_offset, payload=encode_trim(start))


def with_trim(count: int, start: LogStart) -> list[EntryFrame]:
    """A log whose last entry moves the log start."""
    frames = entries(count - 1)
    return [*frames, trim(count, frames[-1].end_offset, start)]


def catalog_with(retention_bytes: int = 0, retention_seconds: int = 0, level: int = 2, kind: str | None = None) -> CatalogMachine:
    """One topic, whose partition is the group of the rig."""
    machine = CatalogMachine()
    machine.next_group_id = GroupId(7)
    machine.apply(
        1,
        CreateTopic(
            name="t",
            partition_count=1,
            replicas=(ME,),
            replica_count=1,
            retention_bytes=retention_bytes,
            retention_seconds=retention_seconds,
            kind=kind,
        ),
    )
    machine.apply(2, RaiseFeatureLevel(level=level))
    return machine


def test_the_codec() -> None:
    """Golden bytes; whatever only a newer release can have written is told apart from what nobody writes."""
    data = bytes.fromhex("010100000000000005000000000000002a00000000000000")
    assert encode_trim(LogStart(5, 42)) == data
    assert decode_trim(data) == LogStart(5, 42)
    for newer in (b"\x02" + data[1:], b"\x01\x02" + data[2:]):
        with pytest.raises(NewerRelease):
            decode_trim(newer)
    others = (b"\0" + data[1:], data[:2] + b"\x01" + data[3:], data[:16] + b"\xff" * 8)
    for wrong in (b"", data[:1], data[:3], data[:-1], data + b"\0", *others):
        with pytest.raises(CodecError) as caught:
            decode_trim(wrong)
        assert not isinstance(caught.value, NewerRelease)


def test_the_machine() -> None:
    """The start moves forwards, to places that there are."""
    machine = machine_after(entries(10))
    end = machine.high_watermark
    assert machine.trim(11, LogStart(5, 3)) == LogStart(5, 3)
    assert machine.trim(12, LogStart(4, 2)) == LogStart(5, 3)
    assert isinstance(machine.trim(13, LogStart(5, end + 1)), InvalidArgument)
    assert isinstance(machine.trim(14, LogStart(14, end)), InvalidArgument)
    assert machine.trim(15, LogStart(14, end)) == LogStart(14, end)
    assert machine.applied_index == 15


async def test_what_is_before_the_start_is_out_of_sight_and_its_segments_go() -> None:
    """Once a snapshot covers them; and so it is after a start."""
    frames = with_trim(40, LogStart(20, 18))
    disk = SimDisk(random.Random(1))
    async with new_rig(disk).open() as rig:
        await follow(rig, frames[:39])
        assert rig.replica.log.first_index == 1
        await follow(rig, frames)
        log = rig.replica.log
        assert log.log_start_offset == 18
        assert 1 < log.first_index <= 21
        with pytest.raises(OffsetOutOfRange) as caught:
            await log.find_offset(17)
        assert caught.value.log_start_offset == 18
        first_index = log.first_index
    names = [path for path in disk.paths() if path.endswith(".log")]
    assert min(int(name[-24:-4]) for name in names) == first_index
    async with new_rig(disk).open() as rig:
        await follow(rig, frames)
        assert rig.replica.log.log_start_offset == 18
        assert rig.machine.log_start == LogStart(20, 18)
        assert rig.replica.log.first_index == first_index


async def test_the_newest_snapshot_names_no_segment_that_is_gone() -> None:
    """A follower that is sent it fetches all that it names. It is written anew before they go, so also after a crash in between."""
    frames = with_trim(40, LogStart(20, 18))
    for cut in range(1000):
        disk = SimDisk(random.Random(cut))
        async with new_rig(disk).open() as rig:
            await follow(rig, frames[:39])
        disk.cut_power_after(cut)
        is_cut = False
        try:
            async with new_rig(disk).open() as rig:
                await follow(rig, frames)
        except* (DiskCrashed, StorageFailed):
            is_cut = True
        disk = disk.crash(CrashMode.LOSE)
        there = {int(path[-24:-4]) for path in disk.paths() if path.endswith(".log")}
        newest = max(path for path in disk.paths() if path.endswith(".snapshot"))
        manifest = decode_snapshot_file(await read_whole(disk, newest, 1 << 20)).manifest
        assert {segment.base_index for segment in manifest.segments} <= there
        if not is_cut:
            assert manifest.base.index > 0
            return
    raise AssertionError("cut at every place, and never at the end")


async def test_everything_may_go() -> None:
    """Also what is in the active segment, with the entry that says so; offsets go on from there."""
    frames = entries(39)
    frames = [*frames, trim(40, frames[-1].end_offset, LogStart(39, frames[-1].end_offset))]
    disk = SimDisk(random.Random(1))
    async with new_rig(disk).open() as rig:
        await follow(rig, frames)
        assert (rig.replica.log.first_index, rig.replica.log.segment_count) == (41, 0)
        assert rig.replica.snapshot_index == 40
    async with new_rig(disk).open() as rig:
        assert rig.replica.watermark.value == rig.replica.log.log_start_offset == frames[-1].end_offset
        more = [*frames, data(1, 41, frames[-1].end_offset, VALUE)]
        await follow(rig, more)
        assert rig.replica.watermark.value == more[-1].end_offset
        assert rig.machine.applied_index == 41


async def test_nothing_goes_that_no_snapshot_covers() -> None:
    """While a snapshot cannot be written, everything stays, and a start applies all of it."""
    frames = with_trim(40, LogStart(30, 28))
    disk = SimDisk(random.Random(1))
    async with Rig(disk, log=LOG).open() as rig:  # the log is too small for a snapshot
        await follow(rig, frames[:39])
        assert rig.replica.snapshot_index == 0
    async with new_rig(disk).open() as rig:
        disk.fill(1500)
        await follow(rig, frames)
        if rig.replica.snapshot_index == 0:
            assert rig.replica.log.first_index == 1
        assert rig.replica.log.log_start_offset == 28
        assert rig.replica.log.base.index <= rig.replica.snapshot_index


async def test_a_follower_that_needs_what_is_gone_waits() -> None:
    """Nothing is sent to it again and again; the others go on."""
    frames = with_trim(40, LogStart(30, 28))
    async with new_rig().open() as rig:
        await follow(rig, frames)
        assert rig.replica.log.first_index > 10
        await rig.tick(20)
        await rig.lead()
        rig.take_sent()
        rig.give_response(MessageType.HEARTBEAT_RESPONSE, THREE)
        await rig.settle()
        for message, _ in rig.take_sent(MessageType.APPEND):
            if message.to == THREE:
                rig.give(refusal(message.index, rig.term, THREE))
        await rig.settle()
        counts = []
        for _ in range(6):
            rig.give_response(MessageType.HEARTBEAT_RESPONSE, THREE)
            rig.give_response(MessageType.HEARTBEAT_RESPONSE, TWO)
            await rig.tick(3)
            counts.append(sum(1 for message, _ in rig.take_sent() if message.to == THREE))
        assert max(counts) < 10
        await rig.acknowledge()
        assert rig.replica.is_leader


def refusal(index: int, term: int, sender: NodeId) -> Message:

    return Message(type=MessageType.APPEND_RESPONSE, to=ME, sender=sender, term=term, index=index, reject=True)


@pytest.mark.parametrize("mode", list(CrashMode))
async def test_a_crash_at_any_operation(mode: CrashMode, autojump_clock: trio.testing.MockClock) -> None:
    """The log always begins where a snapshot covers what was before, and what is after the start is all there."""
    frames = with_trim(30, LogStart(20, 18))
    frames += [data(1, index, frames[29].end_offset + index - 31, VALUE) for index in range(31, 41)]
    cuts = 0
    for operations in range(60, 1000, 3):
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
            await follow(rig, frames)
            assert rig.machine.log_start == LogStart(20, 18)
            log = rig.replica.log
            assert log.log_start_offset == 18
            for frame in frames:
                if frame.record_count and frame.base_offset >= 18:
                    (found,) = await log.read(frame.index, frame.index, 1)
                    assert found.raw == frame.raw
    assert cuts > 20


async def test_by_size_and_by_age() -> None:
    """Whole segments, the oldest first; as long as enough stays, or while all their records are too old."""
    async with new_rig().open() as rig:
        frames = entries(40)
        await follow(rig, frames)
        log = rig.replica.log
        assert log.prefix.retained_from(0, 0, 1000).index == 0
        assert log.prefix.retained_from(log.size_bytes, 0, 1000).index == 0
        some = log.prefix.retained_from(log.size_bytes - 1000, 0, 1000)
        assert 0 < some.index < 20
        assert log.prefix.retained_from(1, 0, 1000).index == log.sealed_last_index
        assert log.prefix.retained_from(1, 0, some.offset).index == some.index
        assert log.prefix.retained_from(1, 0, some.offset - 1).index < some.index
        # All are stamped with 1.
        assert log.prefix.retained_from(0, 1, 1000).index == 0
        assert log.prefix.retained_from(0, 2, 1000).index == log.last_index


async def run_retention(rig: Rig, catalog: CatalogMachine, seconds: float, now_ns: int) -> None:
    settings = RetentionSettings(retention_check_seconds=1.0, trim_seconds_max=1.0)
    retention = Retention(lambda: [rig.replica], catalog, settings, lambda: now_ns)
    with trio.move_on_after(seconds):
        await retention.run()


async def test_the_leader_has_a_control_entry_replicated(autojump_clock: trio.testing.MockClock) -> None:
    """Only the leader, only for a topic with retention, and only when every node knows such entries."""
    async with Rig(voters=(1,), log=LOG, driver=DRIVER).open() as rig:
        rig.replica.driver.requests.campaign()
        await rig.settle()
        assert rig.replica.is_leader
        from tests.node.rig import batch_of
        from trio_eventlog.records import Acks

        for _ in range(30):
            await (await rig.replica.propose_batch(batch_of(VALUE), Acks.QUORUM)).outcome()
        for catalog in (catalog_with(), catalog_with(retention_bytes=1 << 30), catalog_with(retention_bytes=2000, level=1)):
            await run_retention(rig, catalog, 3.5, 0)
            assert rig.replica.log.log_start_offset == 0
        await run_retention(rig, catalog_with(retention_bytes=2000), 3.5, 0)
        start = rig.replica.log.log_start_offset
        assert 0 < start < 30
        assert rig.machine.log_start.offset == start
        assert rig.replica.log.first_index > 1
        assert rig.replica.log.size_bytes < 4000
        # All records are stamped 1 ns after 1970.
        await run_retention(rig, catalog_with(retention_seconds=10), 20.0, 11 * SECOND_NS)
        assert rig.replica.log.log_start_offset == 30
        await rig.settle()
        with pytest.raises(InvalidArgument, match="feature level"):
            await propose_trim(rig.replica, catalog_with(level=1), LogStart(1, 1))
        with pytest.raises(InvalidArgument, match="events are kept for ever"):
            await propose_trim(rig.replica, catalog_with(kind=EVENTS), LogStart(1, 1))
        with pytest.raises(InvalidArgument, match="cannot start"):
            await propose_trim(rig.replica, catalog_with(), LogStart(1, 1000))


async def test_an_active_segment_that_is_filled_slowly_is_sealed(autojump_clock: trio.testing.MockClock) -> None:
    """On every replica, after half of the retention time: only whole segments can go."""
    frames = entries(5)
    async with Rig(driver=DRIVER).open() as rig:
        await follow(rig, frames)
        await run_retention(rig, catalog_with(retention_seconds=10), 4.5, 0)
        assert rig.replica.log.sealed_last_index == 0
        await run_retention(rig, catalog_with(retention_seconds=10), 8.5, 0)
        assert rig.replica.log.sealed_last_index == 5
