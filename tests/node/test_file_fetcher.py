"""Segments and snapshots are fetched from whichever nodes have them, and what has come is kept."""

import random
from collections.abc import Sequence

import attrs
import pytest
import trio
import trio.testing

from tests.node.transfer_rig import GROUP, Node, open_nodes
from tests.storage.log_frames import make_frames
from tests.storage.test_installing import Elsewhere, elsewhere
from trio_eventlog.codec.transfer import SegmentKey, SnapshotKey
from trio_eventlog.ids import NodeId
from trio_eventlog.node.file_fetcher import FileFetcher
from trio_eventlog.node.transfer_settings import TransferSettings
from trio_eventlog.node.transfers import TransferFailed
from trio_eventlog.storage.disk import join_path
from trio_eventlog.storage.fetched_segments import fetched_name, terms_in_file
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import SimDisk

LOG = "/log"


def give(node: Node, there: Elsewhere, numbers: Sequence[int] | None = None, flipped: int | None = None) -> None:
    """Let a node have the snapshot, and segments of it; `flipped`: the number of one in which a bit is wrong."""
    node.has(SnapshotKey(term=there.snapshot.term, index=there.snapshot.index), there.data)
    for number, segment in enumerate(there.segments):
        if numbers is None or number in numbers:
            data = bytearray(there.frames_of(segment))
            if number == flipped:
                data[len(data) // 2] ^= 4
            key = SegmentKey(
                base_index=segment.base_index, frames_bytes=segment.frames_bytes, frames_checksum=segment.frames_checksum
            )
            node.has(key, bytes(data))


@attrs.define
class Fetching:
    """The fetcher of node 1, and what it has reported."""

    fetcher: FileFetcher
    disk: SimDisk
    received_bytes: int = 0

    async def segments(self, there: Elsewhere, *sources: int) -> None:
        def count(size_bytes: int) -> None:
            self.received_bytes += size_bytes

        await self.fetcher.fetch_segments(GROUP, LOG, there.segments, lambda: list(map(NodeId, sources)), count)

    async def check(self, there: Elsewhere) -> None:
        for segment in there.segments:
            assert await terms_in_file(self.disk, join_path(LOG, fetched_name(segment)), segment) is not None
        assert self.received_bytes == there.snapshot.manifest.frames_bytes


async def fetching(node: Node) -> Fetching:
    disk = SimDisk(random.Random(1))
    await disk.make_directory(LOG)
    return Fetching(FileFetcher(node.transfers, disk, default(TransferSettings), random.Random(1), 500), disk)


async def log_of(count: int = 60, seed: int = 0) -> Elsewhere:
    return await elsewhere(make_frames(count, term=1, seed=seed))


async def test_all_come_from_one_source(autojump_clock: trio.testing.MockClock) -> None:
    there = await log_of()
    async with open_nodes(2) as (_, (n1, n2)):
        give(n2, there)
        one = await fetching(n1)
        await one.segments(there, 2)
        await one.check(there)
        assert n2.server.served_bytes == there.snapshot.manifest.frames_bytes


async def test_each_comes_from_a_source_that_has_it(autojump_clock: trio.testing.MockClock) -> None:
    there = await log_of()
    async with open_nodes(4) as (_, (n1, n2, n3, n4)):
        give(n3, there, [0, 2])
        give(n4, there, range(1, 99))
        one = await fetching(n1)
        await one.segments(there, 2, 3, 4)
        await one.check(there)
        assert n2.server.served_bytes == 0
        assert n3.server.served_bytes + n4.server.served_bytes == there.snapshot.manifest.frames_bytes


async def test_what_none_of_them_has_is_a_failure(autojump_clock: trio.testing.MockClock) -> None:
    there = await log_of()
    async with open_nodes(3) as (_, (n1, n2, n3)):
        give(n2, there, [0, 2])
        give(n3, there, [0])
        one = await fetching(n1)
        with pytest.raises(TransferFailed, match="no such file"):
            await one.segments(there, 2, 3)


async def test_a_damaged_file_is_asked_of_another_node(autojump_clock: trio.testing.MockClock) -> None:
    there = await log_of()
    async with open_nodes(3) as (_, (n1, n2, n3)):
        give(n2, there, flipped=1)
        give(n3, there)
        one = await fetching(n1)
        await one.segments(there, 2, 3)
        await one.check(there)
        assert n3.server.served_bytes == there.segments[1].frames_bytes


async def test_a_damaged_file_that_nobody_else_has_is_a_failure(autojump_clock: trio.testing.MockClock) -> None:
    there = await log_of()
    async with open_nodes(2) as (_, (n1, n2)):
        give(n2, there, flipped=1)
        one = await fetching(n1)
        with pytest.raises(TransferFailed, match="segment"):
            await one.segments(there, 2)


async def test_another_source_goes_on_where_a_dead_one_was(autojump_clock: trio.testing.MockClock) -> None:
    """At the byte after the last whole frame: only what was cut off comes again."""
    there = await log_of()
    total_bytes = there.snapshot.manifest.frames_bytes
    async with open_nodes(3, transfer_bytes_per_second=1000, piece_bytes_max=100) as (network, (n1, n2, n3)):
        for node in (n2, n3):
            give(node, there)
        one = await fetching(n1)
        async with trio.open_nursery() as nursery:

            async def crash() -> None:
                await trio.sleep(total_bytes / 2000)
                network.crash("n2")
                n2.scope.cancel()

            nursery.start_soon(crash)
            await one.segments(there, 2, 3)
        await one.check(there)
        largest = max(len(frame.raw) for frame in there.frames)
        assert 0 <= n2.server.served_bytes + n3.server.served_bytes - total_bytes <= largest + 5 * 100


async def test_a_process_that_was_started_again_goes_on_where_it_was(autojump_clock: trio.testing.MockClock) -> None:
    there = await log_of()
    total_bytes = there.snapshot.manifest.frames_bytes
    async with open_nodes(2, transfer_bytes_per_second=1000, piece_bytes_max=100) as (_, (n1, n2)):
        give(n2, there)
        one = await fetching(n1)
        with trio.move_on_after(total_bytes / 2000):
            await one.segments(there, 2)
        assert 0 < n2.server.served_bytes < total_bytes
        left = [segment for segment in there.segments if fetched_name(segment) not in await one.disk.list_directory(LOG)]
        again = Fetching(one.fetcher, one.disk)
        await again.segments(attrs.evolve(there, segments=left), 2)
        for segment in there.segments:
            assert await terms_in_file(one.disk, join_path(LOG, fetched_name(segment)), segment)
        largest = max(len(frame.raw) for frame in there.frames)
        assert n2.server.served_bytes - total_bytes <= largest + 5 * 100


async def test_sources_that_are_not_there_are_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    there = await log_of()
    async with open_nodes(3, transfers_served_max=1) as (_, (n1, n2, n3)):
        give(n2, there)
        one = await fetching(n1)
        connection = await n3.transport.open_side(NodeId(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.segments, there, 2)
            await trio.sleep(5)
            assert one.received_bytes == 0
            await connection.aclose()
        await one.check(there)


async def test_a_snapshot_is_the_one_that_was_named(autojump_clock: trio.testing.MockClock) -> None:
    there = await log_of()
    async with open_nodes(3) as (_, (n1, n2, n3)):
        give(n2, there)
        give(n3, there)
        one = await fetching(n1)
        n2.disk.flip_bit("/0", 60)
        found = await one.fetcher.fetch_snapshot(GROUP, there.snapshot.metadata, lambda: [NodeId(2), NodeId(3)])
        assert found == (there.snapshot, there.data)
        with pytest.raises(TransferFailed, match="checksum"):
            await one.fetcher.fetch_snapshot(GROUP, there.snapshot.metadata, lambda: [NodeId(2)])
        configuration = attrs.evolve(there.snapshot.metadata.configuration, voters=frozenset({NodeId(5)}))
        other = attrs.evolve(there.snapshot.metadata, configuration=configuration)
        with pytest.raises(TransferFailed, match="the snapshot at entry"):
            await one.fetcher.fetch_snapshot(GROUP, other, lambda: [NodeId(3)])
