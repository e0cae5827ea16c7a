"""A replica begins anew with a snapshot of another node: when everything is here, and only if it still needs to."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import attrs
import pytest
import trio
import trio.testing

from tests.node.rig import Rig
from tests.storage.log_frames import following, make_frames, raw
from tests.storage.test_installing import SETTINGS, Elsewhere, elsewhere, entries
from trio_eventlog.codec.catch_up import CatchUpReport, CatchUpState
from trio_eventlog.codec.partition_snapshot import encode_partition
from trio_eventlog.codec.snapshot_file import SegmentRange, SnapshotFile
from trio_eventlog.ids import CATALOG_GROUP, GroupId, NodeId
from trio_eventlog.machine.partition import PartitionMachine
from trio_eventlog.node.catch_up import CatchUps
from trio_eventlog.node.file_fetcher import FileFetcher
from trio_eventlog.node.inbox import Received
from trio_eventlog.node.transfer_settings import TransferSettings
from trio_eventlog.node.transfers import TransferFailed
from trio_eventlog.raft import Message, MessageType, SnapshotMetadata
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.disk import join_path, write_atomically
from trio_eventlog.storage.fetched_segments import SegmentPart
from trio_eventlog.storage.installing import INSTALLING_FILE
from trio_eventlog.storage.segmented_log import SegmentedLog, open_segmented_log
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import SimDisk

ME, LEADER, OTHER = NodeId(1), NodeId(2), NodeId(3)
GROUP = GroupId(5)
MACHINE = encode_partition(PartitionMachine(5, 100).snapshot())
OLD = make_frames(25, term=1, seed=5)


class Kit:
    """The catch-ups of a node whose only group has a log; the network and the rest of the node are played."""

    def __init__(self, directory: DataDirectory, disk: SimDisk, there: Elsewhere, settings: TransferSettings) -> None:
        self.directory = directory
        self.disk = disk
        self.log_path = join_path(directory.group_path(GROUP), "log")
        self.snapshots = {there.snapshot.index: there}
        self.may_come = trio.Event()
        self.may_come.set()
        self.fetching = 0
        self.fetching_most = 0
        self.failure: Exception | None = None
        self.reports: list[tuple[NodeId, CatchUpReport]] = []
        self.reopened_with: list[Message] = []
        self.appended_before_closing: Sequence = ()
        self.catch_ups = CatchUps(
            cast("FileFetcher", self),
            directory,
            settings,
            rng=random.Random(1),
            sources=lambda configuration, leader: [leader],
            reinstall=self.reinstall,
            send_report=lambda node_id, group_id, report: self.reports.append((node_id, report)),
        )

    # As a FileFetcher.

    async def fetch_snapshot(
        self, group_id: GroupId, metadata: SnapshotMetadata, sources: Callable[[], Sequence[NodeId]]
    ) -> tuple[SnapshotFile, bytes]:
        self.fetching += 1
        self.fetching_most = max(self.fetching, self.fetching_most)
        try:
            await self.may_come.wait()
            await trio.sleep(1)
        finally:
            self.fetching -= 1
        if self.failure is not None:
            raise self.failure
        there = self.snapshots[metadata.index]
        return there.snapshot, there.data

    async def fetch_segments(
        self,
        group_id: GroupId,
        directory: str,
        wanted: Sequence[SegmentRange],
        sources: Callable[[], Sequence[NodeId]],
        on_received: Callable[[int], None],
    ) -> None:
        there = next(iter(self.snapshots.values()))
        for segment in wanted:
            async with SegmentPart(self.disk, directory, segment, 500) as part:
                await part.write(there.frames_of(segment))
                on_received(part.position)
                await part.finish()

    # As the rest of the node.

    async def reinstall(self, group_id: GroupId, run: Callable[[SegmentedLog], Awaitable[None]], received: Received) -> bool:
        async with open_segmented_log(self.disk, self.log_path, SETTINGS) as log:
            if self.appended_before_closing:
                await log.append(self.appended_before_closing)
        await run(log)
        self.reopened_with.append(received.message)
        return True

    def offer(self, there: Elsewhere, sender: NodeId = LEADER, group_id: GroupId = GROUP) -> Message:
        message = Message(type=MessageType.SNAPSHOT, to=ME, sender=sender, term=9, snapshot=there.snapshot.metadata)
        self.catch_ups.offer(group_id, "t/0", message)
        return message

    async def held(self) -> list[bytes]:
        async with open_segmented_log(self.disk, self.log_path, SETTINGS) as log:
            return await entries(log)


@asynccontextmanager
async def kit(there: Elsewhere, **changes: object) -> AsyncIterator[Kit]:
    disk = SimDisk(random.Random(1))
    async with (
        DataDirectory.open(disk, "/data", new_node_id=lambda: ME, now_seconds=lambda: 0.0) as directory,
        trio.open_nursery() as nursery,
    ):
        await directory.make_groups([GROUP])
        one = Kit(directory, disk, there, default(TransferSettings, **changes))
        async with open_segmented_log(disk, one.log_path, SETTINGS) as log:
            await log.append(OLD)
        await nursery.start(one.catch_ups.run)
        yield one
        nursery.cancel_scope.cancel()


async def a_snapshot(count: int = 60) -> Elsewhere:
    there = await elsewhere(make_frames(count, term=1))
    return attrs.evolve(there, snapshot=attrs.evolve(there.snapshot, machine=MACHINE))


async def test_a_replica_begins_anew_when_everything_is_here(autojump_clock: trio.testing.MockClock) -> None:
    there = await a_snapshot()
    async with kit(there) as one:
        message = one.offer(there)
        await trio.sleep(0.5)
        assert await one.held() == raw(OLD)
        assert one.catch_ups.progress(GROUP) is not None
        await trio.sleep(10)
        assert await one.held() == raw(there.covered)
        assert one.reopened_with == [message]
        assert one.catch_ups.installed == 1
        assert one.catch_ups.progress(GROUP) is None
        assert {node_id for node_id, _ in one.reports} == {LEADER}
        assert {report.state for _, report in one.reports} == {CatchUpState.UNDER_WAY}


async def test_a_log_that_has_got_there_meanwhile_is_not_replaced(autojump_clock: trio.testing.MockClock) -> None:
    """Another leader has sent the entries. What was acknowledged behind the snapshot's entry may be committed."""
    there = await a_snapshot()
    async with kit(there) as one:
        more = following(there.covered, 5, term=2)
        one.appended_before_closing = there.covered + more
        one.offer(there)
        await trio.sleep(10)
        assert await one.held() == raw(there.covered) + raw(more)
        assert one.catch_ups.installed == 0
        assert len(one.reopened_with) == 1
        assert not [path for path in one.disk.paths() if ".fetched" in path], "what was fetched is not needed any more"


async def test_the_same_snapshot_again_changes_who_gets_the_reports(autojump_clock: trio.testing.MockClock) -> None:
    there = await a_snapshot()
    async with kit(there) as one:
        one.may_come = trio.Event()
        one.offer(there)
        await trio.sleep(2.5)
        one.offer(there, OTHER)
        del one.reports[:]
        await trio.sleep(2)
        assert {node_id for node_id, _ in one.reports} == {OTHER}
        one.may_come.set()
        await trio.sleep(10)
        assert [message.sender for message in one.reopened_with] == [OTHER]
        assert one.fetching_most == 1


async def test_a_newer_snapshot_takes_the_place_of_an_older_one(autojump_clock: trio.testing.MockClock) -> None:
    there, newer = await a_snapshot(), await a_snapshot(100)
    async with kit(newer) as one:
        one.may_come = trio.Event()
        one.offer(there)
        await trio.sleep(1)
        one.offer(newer)
        one.offer(there, OTHER)
        one.may_come.set()
        await trio.sleep(10)
        assert await one.held() == raw(newer.covered)
        assert [message.snapshot for message in one.reopened_with] == [newer.snapshot.metadata]


async def test_a_failure_is_reported_after_a_pause(autojump_clock: trio.testing.MockClock) -> None:
    """The leader sends another snapshot then; without a pause, both would do nothing else."""
    there = await a_snapshot()
    async with kit(there, fetch_retry_seconds_max=20.0) as one:
        one.failure = TransferFailed("nobody has it")
        one.offer(there)
        await trio.sleep(20)
        assert CatchUpState.FAILED not in {report.state for _, report in one.reports}
        await trio.sleep(2)
        assert [(node_id, report.state) for node_id, report in one.reports][-1] == (LEADER, CatchUpState.FAILED)
        assert one.catch_ups.progress(GROUP) is None
        assert await one.held() == raw(OLD)
        one.failure = None
        one.offer(there)
        await trio.sleep(10)
        assert one.catch_ups.installed == 1


@pytest.mark.parametrize("machine", [b"", b"?" * 40, MACHINE[:-1]])
async def test_a_machine_that_cannot_be_restored_replaces_nothing(autojump_clock: trio.testing.MockClock, machine: bytes) -> None:
    """The replica could not be opened with it."""
    there = await a_snapshot()
    there = attrs.evolve(there, snapshot=attrs.evolve(there.snapshot, machine=machine))
    async with kit(there) as one:
        one.offer(there)
        await trio.sleep(30)
        assert one.reports[-1][1].state is CatchUpState.FAILED
        assert await one.held() == raw(OLD)
        assert one.reopened_with == []


async def test_no_more_groups_fetch_at_a_time_than_the_setting_says(autojump_clock: trio.testing.MockClock) -> None:
    there = await a_snapshot()
    async with kit(there, transfers_received_max=2) as one:
        one.failure = TransferFailed("nobody has it")
        for number in range(5):
            one.offer(there, group_id=GroupId(10 + number))
        await trio.sleep(10)
        assert one.fetching_most == 2


async def test_the_catalog_and_groups_that_are_closed_fetch_nothing(autojump_clock: trio.testing.MockClock) -> None:
    there = await a_snapshot()
    async with kit(there) as one:
        one.offer(there, group_id=CATALOG_GROUP)
        one.offer(there)
        await trio.sleep(0.5)
        one.catch_ups.stop(GROUP)
        await trio.sleep(20)
        assert one.reopened_with == []
        assert one.catch_ups.progress(GROUP) is None


async def test_an_installation_that_a_crash_has_cut_short_is_finished_when_the_replica_is_opened() -> None:
    there = await a_snapshot()
    disk = SimDisk(random.Random(1))
    async with Rig(disk).open():
        pass
    for segment in there.segments:
        async with SegmentPart(disk, "g/log", segment, 500) as part:
            await part.write(there.frames_of(segment))
            await part.finish()
    await write_atomically(disk, join_path("g", INSTALLING_FILE), there.data)
    async with Rig(disk).open() as rig:
        assert rig.replica.log.last_index == there.snapshot.index
        assert rig.replica.snapshot_index == there.snapshot.index
        assert join_path("g", INSTALLING_FILE) not in disk.paths()
