"""The client side: a channel is one HTTP/2 connection over a stream that a dialer has opened."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio

from .methods import Encoded, Metadata, Method, Pairs
from .settings import RpcSettings


class Channel:
    """Calls over one connection. When it breaks, every open call raises `Unavailable` at once, and so does every later one."""

    is_usable: bool
    """False once the connection is lost or the server has said GOAWAY: open a new channel."""

    async def unary(self, method: Method, request: Any | Encoded, *, metadata: Pairs = (), raw: bool = False) -> Any:
        """Calls `method` (unary) and returns the response: a message, or its bytes when `raw`.

        The deadline is the caller's (`trio.fail_after`): it travels as `grpc-timeout`. When the caller is cancelled, so is the
        call on the server.

        Raises:
            EventLogError: the class and attributes that the server raised; `Unavailable` when the connection broke.
        """

    def stream(self, method: Method, *, metadata: Pairs = (), raw: bool = False) -> AbstractAsyncContextManager["Call"]:
        """`async with channel.stream(method) as call`: a call of any kind. Leaving the block early cancels the call."""
        raise NotImplementedError

    async def wait_unusable(self) -> None:
        """Returns when `is_usable` becomes False."""


class Call:
    """An open call. One task may send while another receives."""

    trailing_metadata: Metadata
    """Complete once `receive` has returned None or raised."""

    async def send(self, message: Any | Encoded) -> None:
        """Sends one request; waits while the server does not read. Raises the call's error when it is over already."""

    async def done_sending(self) -> None:
        """No further requests."""

    async def receive(self) -> Any:
        """The next response; None when the server ended the call with OK. Raises the server's `EventLogError` otherwise."""

    def __aiter__(self) -> "Call":
        return self

    async def __anext__(self) -> Any:
        raise StopAsyncIteration

    async def initial_metadata(self) -> Metadata:
        """Waits for the response's head."""
        raise NotImplementedError


@asynccontextmanager
async def open_channel(
    stream: trio.abc.Stream,
    settings: RpcSettings = RpcSettings(),  # noqa: B008
    *,
    authority: str = "localhost",
    is_secure: bool = False,
) -> AsyncIterator[Channel]:
    """Speaks HTTP/2 as a client on `stream`; closes it at the end.

    Args:
        authority: `host:port` as the server should see it.
        is_secure: the stream is TLS (only the `:scheme` depends on it).
    """
    raise NotImplementedError
    yield
