"""Serves sealed segments and snapshots to other nodes, on side connections.

Any replica serves them: what is asked for is named by its checksum or by the entry that it ends with, so it does not matter who
leads.
"""

import logging
import math
from collections.abc import Awaitable, Callable

import attrs
import trio

from trio_eventlog.budgets import Activity, Standing
from trio_eventlog.codec.peer_frame import FrameKind
from trio_eventlog.codec.transfer import (
    Fetch,
    FetchRefusedCode,
    FileKey,
    SegmentKey,
    SnapshotKey,
    decode_fetch,
    encode_fetch_refused,
    encode_piece_head,
)
from trio_eventlog.errors import CodecError, DamagedData, ResourceShortage, StorageFailed
from trio_eventlog.ids import GroupId, NodeId, format_id
from trio_eventlog.net.line_budget import LineBudget
from trio_eventlog.net.pace import Pace
from trio_eventlog.net.side_connection import SideConnection
from trio_eventlog.node.replica import Replica
from trio_eventlog.node.transfer_settings import TransferSettings
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.disk import File, join_path
from trio_eventlog.storage.snapshots import SNAPSHOTS_DIRECTORY, SnapshotName

logger = logging.getLogger(__name__)


@attrs.frozen(slots=True)
class ServedFile:
    """A file that is open for reading; its first `size_bytes` bytes are served. The caller closes it."""

    file: File
    size_bytes: int


OpenFile = Callable[[GroupId, FileKey], Awaitable[ServedFile | None]]
"""The file that is meant, opened for one transfer; None: this node has none. Raises DamagedData, StorageFailed and
ResourceShortage."""


def files_of_replicas(find: Callable[[GroupId], Replica | None], directory: DataDirectory) -> OpenFile:
    """The sealed segments and snapshots of the groups that are open on this node."""

    async def open_file(group_id: GroupId, key: FileKey) -> ServedFile | None:
        replica = find(group_id)
        if replica is None:
            return None
        size_bytes: int | None = None
        match key:
            case SegmentKey(base_index=base_index, frames_bytes=frames_bytes, frames_checksum=frames_checksum):
                path, size_bytes = replica.log.sealed_segment_path(base_index, frames_bytes, frames_checksum), frames_bytes
            case SnapshotKey(term=term, index=index):
                path = join_path(directory.group_path(group_id), SNAPSHOTS_DIRECTORY, SnapshotName(index, term).file_name)
        if path is None:
            return None
        try:
            # Opened once more, so that readers of the log and transfers do not close each other's files.
            file = await directory.disk.open(path, writes=False)
        except FileNotFoundError:
            return None
        return ServedFile(file, file.size_bytes if size_bytes is None else size_bytes)

    return open_file


Refusal = tuple[FetchRefusedCode, str]


class TransferServer:
    """Owns the set of nodes that are being served. `serve` is called in the task of each side connection.

    Attributes:
        served_bytes: data of pieces since this was made.
        refused: number of questions that were refused.
    """

    def __init__(self, open_file: OpenFile, settings: TransferSettings) -> None:
        self._open_file = open_file
        self._settings = settings
        self._pace = Pace(settings.transfer_bytes_per_second)
        self._lines = LineBudget(logger, "side connections")
        self._serving: dict[NodeId, trio.CancelScope] = {}
        self.served_bytes = 0
        self.refused = 0

    @property
    def serving(self) -> int:
        """Number of nodes that are connected for transfers."""
        return len(self._serving)

    async def serve(self, node_id: NodeId, is_trusted: bool, connection: SideConnection, standing: Standing) -> None:
        """Answer what `node_id` asks on `connection`, until either side ends it.

        A node that is not trusted is refused, whatever it asks. A node has one connection at a time: a new one ends the former,
        which the node has given up, or has not seen end.
        """
        # Links are worth more: a node without places for connections gives up this one first.
        standing.look = lambda: Activity(requests=1, open_calls=1, last_active=-math.inf)
        with trio.CancelScope() as scope:
            refusal = None
            if not is_trusted:
                refusal = (FetchRefusedCode.STRANGER, "this node does not know yours as one of its cluster")
            else:
                former = self._serving.pop(node_id, None)
                if former is not None:
                    former.cancel()
                if len(self._serving) < self._settings.transfers_served_max:
                    self._serving[node_id] = scope
                else:
                    refusal = (FetchRefusedCode.BUSY, f"{len(self._serving)} nodes are served already")
            try:
                await self._answer_all(connection, refusal)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                logger.debug("side connection of %s: broken", format_id(node_id))
            except CodecError as error:
                self._lines.log(logging.WARNING, "side connection of %s: %s", format_id(node_id), error)
            finally:
                if self._serving.get(node_id) is scope:
                    del self._serving[node_id]

    async def _answer_all(self, connection: SideConnection, refusal: Refusal | None) -> None:
        """`refusal`: what the first question is answered with, which is the last one then."""
        while True:
            frame = None
            with trio.move_on_after(self._settings.transfer_silence_seconds):
                frame = await connection.receive()
            if frame is None:
                return
            if frame.kind != FrameKind.FETCH:
                continue  # of a later release
            try:
                fetch = decode_fetch(frame.body)
            except CodecError as error:
                await self._refuse(connection, frame.group_id, FetchRefusedCode.MALFORMED, str(error))
                raise
            refused = refusal or await self._send_range(connection, frame.group_id, fetch)
            if refused is not None:
                await self._refuse(connection, frame.group_id, *refused)
            if refusal is not None:
                return

    async def _send_range(self, connection: SideConnection, group_id: GroupId, fetch: Fetch) -> Refusal | None:
        """Send what was asked for; returns why not (all of it), if so."""
        try:
            served = await self._open_file(group_id, fetch.file)
            if served is None:
                return FetchRefusedCode.NOT_HERE, "there is no such file here"
            try:
                if fetch.position >= served.size_bytes:
                    return FetchRefusedCode.MALFORMED, f"byte {fetch.position} of a file of {served.size_bytes}"
                await self._send_pieces(connection, group_id, served, fetch)
            finally:
                with trio.CancelScope(shield=True):
                    await served.file.close()
        except ResourceShortage as error:
            return FetchRefusedCode.BUSY, str(error)
        except (DamagedData, StorageFailed) as error:
            return FetchRefusedCode.UNREADABLE, str(error)
        return None

    async def _send_pieces(self, connection: SideConnection, group_id: GroupId, served: ServedFile, fetch: Fetch) -> None:
        position = fetch.position
        end = min(position + fetch.length, served.size_bytes)
        piece_bytes = self._settings.piece_bytes
        while position < end:
            wanted_bytes = min(piece_bytes, end - position)
            await self._pace.wait(wanted_bytes)
            data = await served.file.read_at(position, wanted_bytes)
            if len(data) < wanted_bytes:
                raise DamagedData(f"{served.file.path}: it ends before byte {end}", path=served.file.path)
            head = encode_piece_head(group_id, position, served.size_bytes, data)
            with trio.move_on_after(self._settings.transfer_silence_seconds) as scope:
                await connection.send([head, data])
            if scope.cancelled_caught:
                raise trio.BrokenResourceError("nothing of a piece was taken in time")
            position += wanted_bytes
            self.served_bytes += wanted_bytes

    async def _refuse(self, connection: SideConnection, group_id: GroupId, code: FetchRefusedCode, text: str) -> None:
        self.refused += 1
        with trio.move_on_after(self._settings.transfer_silence_seconds):
            await connection.send([encode_fetch_refused(group_id, code, text)])
