"""Reads and writes on the socket under a Trio stream, without a turn of Trio's scheduler for each.

A Trio stream checkpoints on every call: right for most code, and 5 to 10 microseconds each. A peer link makes one read and one
write for every message of its peer, so it goes to the socket itself, and yields where its own loop says so. This works for plain
TCP only; over TLS and in memory a link uses the stream.
"""

import os
import socket
from collections.abc import Sequence

import trio

from trio_eventlog.codec.peer_frame import Buffer
from trio_eventlog.net.peeked_stream import PeekedStream

BUFFERS_MAX = 512
"""Given to one system call; POSIX promises 16, Linux 1024."""


class SocketIo:
    """The socket under `stream`, which stays its owner: it closes it, and is not used for the same direction meanwhile."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self._descriptor = stream.socket.fileno()

    def read_nowait(self, buffers: Sequence[memoryview]) -> int | None:
        """Bytes read into `buffers`, in order; 0 at the end of the stream; None when nothing is there yet.

        Raises:
            BrokenResourceError: the connection was reset.
        """
        try:
            return os.readv(self._descriptor, buffers)
        except BlockingIOError:
            return None
        except OSError as error:
            raise trio.BrokenResourceError("socket connection broken") from error

    def write_nowait(self, buffers: Sequence[Buffer]) -> int:
        """Bytes taken from the front of `buffers`; 0 when the socket takes none now.

        Raises:
            BrokenResourceError: the connection was reset.
        """
        try:
            return os.writev(self._descriptor, buffers[:BUFFERS_MAX])
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError("socket connection broken") from error

    async def write_all(self, buffers: Sequence[Buffer]) -> None:
        """All of `buffers`. Yields only when the socket is full. Raises as `write_nowait`."""
        while True:
            buffers = drop_front(buffers, self.write_nowait(buffers))
            if not buffers:
                return
            await trio.lowlevel.wait_writable(self._socket)

    def set_unsent_bytes_max(self, bytes_max: int) -> None:
        """Bytes that the kernel may hold unsent before the socket counts as full."""
        option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if option is not None:
            try:
                self._socket.setsockopt(socket.IPPROTO_TCP, option, bytes_max)
            except OSError:
                return  # No TCP socket, or broken already: the next write raises the error.

    async def wait_readable(self) -> None:
        """Until there is something to read, or the end."""
        await trio.lowlevel.wait_readable(self._socket)


def drop_front(buffers: Sequence[Buffer], count: int) -> Sequence[Buffer]:
    """What is left of `buffers` without their first `count` bytes. Copies none of them."""
    for number, buffer in enumerate(buffers):
        if count < len(buffer):
            return [memoryview(buffer)[count:], *buffers[number + 1 :]]
        count -= len(buffer)
    return []


def socket_io(stream: trio.abc.Stream) -> SocketIo | None:
    """The way to the socket under `stream`; None when there is none, or when it has bytes that were peeked at."""
    if isinstance(stream, PeekedStream) and not stream.peeked:
        stream = stream.stream
    if isinstance(stream, trio.SocketStream) and hasattr(os, "readv"):
        return SocketIo(stream)
    return None
