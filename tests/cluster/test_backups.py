"""A backup of a cluster that works: what was acknowledged before it began is in it, whatever leads meanwhile."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from tests.backup.kit import back_up
from tests.cluster.helpers import QUICK
from trio_eventlog.backup.arriving import ArrivingFrames
from trio_eventlog.backup.manifest import BackupManifest, StoredFile, StoredGroup
from trio_eventlog.codec.batch import decode_records
from trio_eventlog.codec.entry import EntryKind, decode_entries
from trio_eventlog.codec.snapshot_file import decode_snapshot_file
from trio_eventlog.codec.stored_batch import entry_batch
from trio_eventlog.errors import FileGone, InvalidArgument, TopicNotFound
from trio_eventlog.file_keys import SegmentKey, SnapshotKey
from trio_eventlog.ids import CATALOG_GROUP
from trio_eventlog.testing.cluster import Cluster

SMALL_SEGMENTS = {"segment_bytes": 4096, "preallocate_bytes": 4096}


@attrs.define
class MemoryTarget:
    """A target without threads, which virtual time does not wait for."""

    files: dict[str, bytes] = attrs.field(factory=dict)
    has_files: trio.Event = attrs.field(factory=trio.Event)

    async def find(self, name: str, frames: ArrivingFrames) -> StoredFile | None:
        await trio.lowlevel.checkpoint()
        return None

    @asynccontextmanager
    async def writing(self, name: str, size_bytes: int) -> AsyncIterator["MemoryWriting"]:
        yield (writing := MemoryWriting(name))
        assert writing.position == size_bytes
        self.files[name] = bytes(writing.data)
        self.has_files.set()

    async def finish(self, manifest: BackupManifest) -> None:
        await trio.lowlevel.checkpoint()
        assert set(self.files) == {file.name for file in manifest.files}

    def values(self, group: StoredGroup) -> list[bytes]:
        """The values of the records of a group."""
        frames = decode_entries(b"".join(self.files[file.name] for file in group.segments))
        batches = [entry_batch(frame) for frame in frames if frame.kind is EntryKind.DATA]
        return [record.value or b"" for batch in batches for record in decode_records(batch, 1 << 20)]


@attrs.define
class MemoryWriting:
    name: str
    data: bytearray = attrs.field(factory=bytearray)

    @property
    def position(self) -> int:
        return len(self.data)

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.data += data

    def stored(self) -> StoredFile:
        return StoredFile(name=self.name, size_bytes=self.position, sha256="0" * 64)


async def test_everything_acknowledged_before_is_in_it_also_when_leaders_die() -> None:
    """Records come without a pause; while the backup is taken, the leader of one partition is killed. Of each partition the backup
    has a prefix of the log, with everything that was acknowledged before it began.
    """
    async with Cluster(3, seed=71, **SMALL_SEGMENTS) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders", partitions=2)
        await cluster.wait_topic("orders")
        acknowledged: list[list[bytes]] = [[], []]
        has_begun = trio.Event()

        async def produce(partition: int) -> None:
            while True:
                value = b"%d-%d" % (partition, len(acknowledged[partition]))
                await client.produce("orders", value.ljust(100), partition=partition)
                acknowledged[partition].append(value)
                if min(map(len, acknowledged)) == 100:
                    has_begun.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce, 0)
            nursery.start_soon(produce, 1)
            await has_begun.wait()
            before = [len(values) for values in acknowledged]
            target = MemoryTarget()

            async def kill_leader() -> None:
                await target.has_files.wait()
                cluster.crash(cluster.leader("orders", 1))

            nursery.start_soon(kill_leader)
            manifest = await back_up(client.backups, target)
            nursery.cancel_scope.cancel()
        assert [group.what for group in manifest.groups] == ["the catalog", "orders/0", "orders/1"]
        for group in manifest.groups[1:]:
            values = [value.rstrip() for value in target.values(group)]
            assert len(values) == group.end_offset >= before[group.partition]
            assert values == [b"%d-%d" % (group.partition, number) for number in range(len(values))]
            snapshot = decode_snapshot_file(target.files[group.snapshot.name])
            assert len(snapshot.manifest.segments) == len(group.segments) > 1


async def test_a_snapshot_that_is_asked_for_covers_everything_and_is_not_taken_twice() -> None:
    async with Cluster(3, seed=72) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        await client.produce("orders", b"one")
        group_id = (await client.describe_topic("orders")).partitions[0].group_id
        first = await client.backups.take_snapshot(group_id)
        assert await client.backups.take_snapshot(group_id) == first
        await client.produce("orders", b"two")
        assert (await client.backups.take_snapshot(group_id)).index == first.index + 1
        # From any node: those that do not lead ask the one that does.
        for name in cluster.names:
            assert (await cluster.node(name).client().backups.take_snapshot(CATALOG_GROUP)).index > 0


async def test_what_cannot_be_read() -> None:
    async with Cluster(1, seed=73) as cluster, cluster.client(settings=QUICK) as client:
        await client.produce("orders", b"one")
        group_id = (await client.describe_topic("orders")).partitions[0].group_id
        key = await client.backups.take_snapshot(group_id)
        whole = await client.backups.read_file(group_id, key)
        assert whole.file_bytes == len(whole.data)
        assert (await client.backups.read_file(group_id, key, 10, 3)).data == whole.data[10:13]
        (segment,) = decode_snapshot_file(whole.data).manifest.segments
        named = SegmentKey(
            base_index=segment.base_index, frames_bytes=segment.frames_bytes, frames_checksum=segment.frames_checksum
        )
        assert (await client.backups.read_file(group_id, named)).file_bytes == segment.frames_bytes
        for absent in (
            attrs.evolve(named, frames_checksum=named.frames_checksum ^ 1),
            attrs.evolve(named, base_index=1 << 62),
            SnapshotKey(term=key.term, index=key.index + 1),
            SnapshotKey(term=(1 << 64) - 1, index=(1 << 64) - 1),
        ):
            with pytest.raises(FileGone):
                await client.backups.read_file(group_id, absent)
        with pytest.raises(InvalidArgument, match="byte"):
            await client.backups.read_file(group_id, key, whole.file_bytes)
        for call in (client.backups.take_snapshot(999), client.backups.read_file(999, key)):
            with pytest.raises(TopicNotFound):
                await call
