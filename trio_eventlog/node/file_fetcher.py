"""Fetches sealed segments and snapshots of a group from whichever other nodes have them, and checks them."""

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from trio_eventlog.backoff import Backoff
from trio_eventlog.codec.snapshot_file import FILE_BYTES_MAX, SegmentRange, SnapshotFile, decode_snapshot_file
from trio_eventlog.codec.transfer import FetchRefusedCode, Piece, SnapshotKey
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import GroupId, NodeId, format_id
from trio_eventlog.node.transfer_settings import TransferSettings
from trio_eventlog.node.transfers import Source, TransferFailed, Transfers, is_refused_for_good
from trio_eventlog.raft import SnapshotMetadata
from trio_eventlog.storage.disk import Disk
from trio_eventlog.storage.fetched_segments import SegmentPart

logger = logging.getLogger(__name__)

T = TypeVar("T")


class FileFetcher:
    """Fetches files of groups. Any number of calls at a time.

    A source that breaks, is busy or not there is asked again, after the others and after a pause, for as long as it takes: what has
    come is kept, and a fetch goes on at the byte after it.

    Args:
        index_interval_bytes: of the sparse indexes of segments.
    """

    def __init__(
        self, transfers: Transfers, disk: Disk, settings: TransferSettings, rng: random.Random, index_interval_bytes: int
    ) -> None:
        self._transfers = transfers
        self._disk = disk
        self._settings = settings
        self._rng = rng
        self._index_interval_bytes = index_interval_bytes

    async def fetch_segments(
        self,
        group_id: GroupId,
        directory: str,
        wanted: Sequence[SegmentRange],
        sources: Callable[[], Sequence[NodeId]],
        on_received: Callable[[int], None] = lambda size_bytes: None,
    ) -> None:
        """Have `fetched_name` of each segment stand in `directory`, the log's, whole, checked and durable.

        Args:
            sources: the nodes to ask, in this order; asked again in each round.
            on_received: told the number of bytes of frames that are here, as they come; below 0 when some were of no use.

        Raises:
            TransferFailed: none of the sources has one of them.
            DiskFull, ResourceShortage, StorageFailed.
        """

        async def fetch_one(source: Source, segment: SegmentRange) -> None:
            await self._fetch_segment(source, group_id, directory, segment, on_received)

        await self._fetch_all(sources, wanted, fetch_one)

    async def fetch_snapshot(
        self, group_id: GroupId, metadata: SnapshotMetadata, sources: Callable[[], Sequence[NodeId]]
    ) -> tuple[SnapshotFile, bytes]:
        """The snapshot with exactly this metadata, and its bytes.

        Raises:
            TransferFailed: none of the sources has it.
            NewerRelease: only a newer release can read it.
        """
        found: list[tuple[SnapshotFile, bytes]] = []

        async def fetch_one(source: Source, wanted: SnapshotMetadata) -> None:
            found.append(await _fetch_snapshot(source, group_id, wanted))

        await self._fetch_all(sources, [metadata], fetch_one)
        return found[0]

    async def _fetch_all(
        self,
        sources: Callable[[], Sequence[NodeId]],
        wanted: Sequence[T],
        fetch_one: Callable[[Source, T], Awaitable[None]],
    ) -> None:
        missing = list(enumerate(wanted))
        refusals: dict[tuple[NodeId, int], TransferFailed] = {}
        backoff = Backoff(self._rng, self._settings.fetch_retry_seconds_min, self._settings.fetch_retry_seconds_max)
        while missing:
            nodes = list(sources())
            before = len(missing)
            for node_id in nodes:
                asked = [item for item in missing if (node_id, item[0]) not in refusals]
                try:
                    if asked:
                        async with self._transfers.from_node(node_id) as source:
                            for number, item in asked:
                                try:
                                    await fetch_one(source, item)
                                    missing.remove((number, item))
                                except TransferFailed as error:
                                    if not is_refused_for_good(error):
                                        raise
                                    refusals[node_id, number] = error
                except TransferFailed as error:
                    logger.debug("a transfer broke off: %s", error)
            for number, _ in missing:
                if nodes and all((node_id, number) in refusals for node_id in nodes):
                    raise refusals[nodes[-1], number]
            if missing and len(missing) < before:
                backoff.reset()
            elif missing:
                await trio.sleep(backoff.next_seconds())

    async def _fetch_segment(
        self,
        source: Source,
        group_id: GroupId,
        directory: str,
        wanted: SegmentRange,
        on_received: Callable[[int], None],
    ) -> None:
        async with SegmentPart(self._disk, directory, wanted, self._index_interval_bytes) as part:
            counted = 0

            def count() -> None:
                nonlocal counted
                on_received(part.position - counted)
                counted = part.position

            async def take(piece: Piece) -> None:
                if piece.file_bytes != wanted.frames_bytes:
                    raise CodecError(f"a segment of {piece.file_bytes} bytes, not {wanted.frames_bytes}")
                await part.write(piece.data)
                count()

            count()
            try:
                if part.position < wanted.frames_bytes:
                    await source.fetch(group_id, wanted.key, part.position, wanted.frames_bytes - part.position, take)
                is_all_of_source = not part.found_bytes
                await part.finish()
            except CodecError as error:
                count()
                # What was here before may be at fault; then the next attempt begins with nothing.
                code = FetchRefusedCode.UNREADABLE if is_all_of_source else 0
                raise TransferFailed(f"node {format_id(source.node_id)}: {error}", code) from error
            except BaseException:
                on_received(-counted)  # counted again when it goes on
                raise


async def _fetch_snapshot(source: Source, group_id: GroupId, wanted: SnapshotMetadata) -> tuple[SnapshotFile, bytes]:
    received: list[bytes] = []

    async def take(piece: Piece) -> None:
        if piece.file_bytes > FILE_BYTES_MAX:
            raise CodecError(f"a snapshot of {piece.file_bytes} bytes")
        received.append(bytes(piece.data))

    await source.fetch(group_id, SnapshotKey(term=wanted.term, index=wanted.index), 0, FILE_BYTES_MAX, take)
    data = b"".join(received)
    try:
        snapshot = decode_snapshot_file(data)
        if snapshot.metadata != wanted:
            raise CodecError(
                f"the snapshot at entry {snapshot.index} of term {snapshot.term} with {snapshot.metadata.configuration}"
            )
    except CodecError as error:
        raise TransferFailed(f"node {format_id(source.node_id)}: {error}", FetchRefusedCode.UNREADABLE) from error
    return snapshot, data
