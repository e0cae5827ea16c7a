"""A side connection: frames both ways on a connection of its own, so that files delay no Raft traffic between the two nodes.

It is opened as a link is, hello and proofs included, and then carries questions of the dialler and answers of the listener.
"""

from collections import deque
from collections.abc import Sequence

import trio

from trio_eventlog.codec.peer_frame import Buffer, Frame, FrameDecoder, FrameReader
from trio_eventlog.net.socket_io import SocketIo, socket_io

RECEIVE_BYTES = 256 * 1024
"""Bytes asked for in one read."""


class SideConnection:
    """One end of a side connection. One task sends, one receives; they may be the same.

    Both methods raise BrokenResourceError or ClosedResourceError when the connection is gone.
    """

    def __init__(self, stream: trio.abc.Stream, body_bytes_max: int) -> None:
        """`body_bytes_max`: of a frame that is received."""
        self._stream = stream
        self._io = socket_io(stream)
        self._decoder = FrameDecoder(body_bytes_max)
        self._reader = FrameReader(body_bytes_max)
        self._frames: deque[Frame] = deque()

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """All of `buffers`: whole frames. Always yields."""
        if self._io is None:
            await self._stream.send_all(b"".join(buffers))
        else:
            await self._io.write_all(buffers)
            await trio.lowlevel.checkpoint()

    async def receive(self) -> Frame | None:
        """The next frame; None at the end of the stream. Always yields.

        Raises:
            CodecError: the bytes are no frame; nothing can be read any more.
        """
        await trio.lowlevel.checkpoint()
        while not self._frames:
            frames = await (self._receive_some() if self._io is None else self._read_some(self._io))
            if frames is None:
                return None
            self._frames.extend(frames)
        return self._frames.popleft()

    async def aclose(self) -> None:
        """Close without a goodbye. The other side notices the end of the stream."""
        await trio.aclose_forcefully(self._stream)

    async def _receive_some(self) -> list[Frame] | None:
        chunk = await self._stream.receive_some(RECEIVE_BYTES)
        return self._decoder.feed(chunk) if chunk else None

    async def _read_some(self, io: SocketIo) -> list[Frame] | None:
        while (count := io.read_nowait(self._reader.buffers())) is None:
            await io.wait_readable()
        return self._reader.received(count) if count else None
