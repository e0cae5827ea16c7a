"""Fetches ranges of files from other nodes, on side connections."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from trio_eventlog.codec.peer_frame import FrameKind, decode_refused
from trio_eventlog.codec.transfer import Fetch, FetchRefusedCode, FileKey, Piece, decode_piece, encode_fetch
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import GroupId, NodeId, format_id
from trio_eventlog.net.links import LinkRefused
from trio_eventlog.net.side_connection import SideConnection
from trio_eventlog.node.transfer_settings import TransferSettings

OpenSide = Callable[[NodeId], Awaitable[SideConnection]]
"""As `Transport.open_side`."""


class TransferFailed(Exception):
    """A file, or the rest of it, was not received; what has arrived before is good.

    Attributes:
        code: why the other node refused it, a `FetchRefusedCode`; 0: the connection could not be opened, or broke.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Source:
    """A node that files are fetched from, over one side connection. One range at a time."""

    def __init__(self, node_id: NodeId, connection: SideConnection, silence_seconds: float) -> None:
        self.node_id = node_id
        self._connection = connection
        self._silence_seconds = silence_seconds

    async def fetch(
        self, group_id: GroupId, file: FileKey, position: int, length: int, take: Callable[[Piece], Awaitable[None]]
    ) -> int:
        """Have `take` called with the pieces of a file, without gaps, from `position` on, for `length` bytes or to its end.

        Returns the size of the whole file.

        Raises:
            TransferFailed: some of it did not come; the connection is of no use any more, unless `code` says that it was refused.
        """
        fetch = Fetch(file=file, position=position, length=length)
        end = position + length
        try:
            await self._connection.send([encode_fetch(group_id, fetch)])
            while True:
                piece = await self._next_piece(group_id)
                if piece.position != position or piece.end > end:
                    raise CodecError(f"bytes {piece.position} to {piece.end} where {position} to {end} were asked for")
                await take(piece)
                position = piece.end
                if position in (end, piece.file_bytes):
                    return piece.file_bytes
        except (trio.BrokenResourceError, trio.ClosedResourceError, CodecError) as error:
            raise TransferFailed(f"node {format_id(self.node_id)}: {error.__cause__ or error}") from error

    async def _next_piece(self, group_id: GroupId) -> Piece:
        while True:
            with trio.move_on_after(self._silence_seconds) as scope:
                frame = await self._connection.receive()
            if scope.cancelled_caught:
                raise trio.BrokenResourceError(f"nothing came for {self._silence_seconds:g} s")
            if frame is None:
                raise trio.BrokenResourceError("it has closed the connection")
            if frame.kind == FrameKind.FETCH_REFUSED:
                refused = decode_refused(frame.body)
                raise TransferFailed(f"node {format_id(self.node_id)}: {refused.text}", refused.code)
            if frame.kind != FrameKind.PIECE:
                continue  # of a later release
            if frame.group_id != group_id:
                raise CodecError(f"a piece of group {format_id(frame.group_id)} where group {format_id(group_id)} was asked for")
            return decode_piece(frame.body)


class Transfers:
    """Side connections of this node to others, at most one to each, since a node serves one per peer."""

    def __init__(self, open_side: OpenSide, settings: TransferSettings) -> None:
        self._open_side = open_side
        self._settings = settings
        self._turns: dict[NodeId, trio.Lock] = {}

    @asynccontextmanager
    async def from_node(self, node_id: NodeId) -> AsyncIterator[Source]:
        """A connection to `node_id` for the length of the block; waits while another block has one to it.

        Raises:
            TransferFailed: it could not be opened.
        """
        turn = self._turns.setdefault(node_id, trio.Lock())
        async with turn:
            try:
                connection = await self._open_side(node_id)
            except LinkRefused as error:
                raise TransferFailed(f"node {format_id(node_id)}: {error.refused.text}") from error
            except OSError as error:
                raise TransferFailed(f"node {format_id(node_id)}: {error.strerror or error}") from error
            try:
                yield Source(node_id, connection, self._settings.transfer_silence_seconds)
            finally:
                with trio.CancelScope(shield=True):
                    await connection.aclose()
                if not turn.statistics().tasks_waiting:
                    self._turns.pop(node_id, None)


def is_refused_for_good(error: TransferFailed) -> bool:
    """Whether asking the same node again for the same file is of no use."""
    return error.code in (FetchRefusedCode.NOT_HERE, FetchRefusedCode.MALFORMED, FetchRefusedCode.UNREADABLE)
