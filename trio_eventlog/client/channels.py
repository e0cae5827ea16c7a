"""Connections to nodes, one each, opened when needed and shared."""

import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import attrs
import trio

from trio_eventlog.errors import EventLogError, Overloaded, Unavailable
from trio_eventlog.net.network import Network
from trio_eventlog.rpc import Encoded, Method, RpcSettings, open_channel
from trio_eventlog.setting_fields import parse_address

logger = logging.getLogger(__name__)


class ClientCall(Protocol):
    """The part of `rpc.Call` that a client uses."""

    async def send(self, message: Any | Encoded) -> None: ...

    async def done_sending(self) -> None: ...

    async def receive(self) -> Any: ...


class ClientChannel(Protocol):
    """The part of `rpc.Channel` that a client uses."""

    @property
    def is_usable(self) -> bool: ...

    async def unary(self, method: Method, request: Any | Encoded) -> Any: ...

    def stream(self, method: Method) -> AbstractAsyncContextManager[ClientCall]: ...

    async def wait_unusable(self) -> None: ...


Connect = Callable[[str], AbstractAsyncContextManager[ClientChannel]]
"""Opens a channel to "host:port". Raises OSError or EventLogError."""


def connect_over(network: Network, tls: ssl.SSLContext | None, settings: RpcSettings) -> Connect:
    """Channels over connections of `network`, under TLS when a context is given."""

    @asynccontextmanager
    async def connect(address: str) -> AsyncIterator[ClientChannel]:
        stream = await network.open_stream(address)
        try:
            if tls is not None:
                host, _ = parse_address(address)
                secured = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
                await secured.do_handshake()
                stream = secured
            async with open_channel(stream, settings, authority=address, is_secure=tls is not None) as channel:
                yield channel
        finally:
            # Closes a stream that never became a channel; otherwise it is closed already.
            await trio.aclose_forcefully(stream)

    return connect


@attrs.define(eq=False)
class _Entry:
    channel: ClientChannel | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    lock: trio.Lock = attrs.field(factory=trio.Lock)
    users: int = 0


class ChannelPool:
    """Args:
    nursery: holds the connections; cancelling it closes them.
    channels_max: how many nodes at once; the least recently used idle one makes room.
    """

    def __init__(self, nursery: trio.Nursery, connect: Connect, *, channels_max: int, connect_timeout_seconds: float) -> None:
        self._nursery = nursery
        self._connect = connect
        self._channels_max = channels_max
        self._connect_timeout_seconds = connect_timeout_seconds
        self._entries: dict[str, _Entry] = {}  # The least recently used first.

    @asynccontextmanager
    async def use(self, address: str) -> AsyncIterator[ClientChannel]:
        """A usable channel to `address`, which is kept open at least for the block.

        Raises:
            Unavailable: there is no connection to be had, and why.
        """
        entry = self._entries.pop(address, None)
        if entry is None:
            self._make_room()
            entry = _Entry()
        self._entries[address] = entry
        entry.users += 1
        try:
            channel = entry.channel
            if channel is None or not channel.is_usable:
                async with entry.lock:
                    channel = entry.channel
                    if channel is None or not channel.is_usable:
                        channel = entry.channel = await self._open(address, entry)
            yield channel
        finally:
            entry.users -= 1

    def _make_room(self) -> None:
        if len(self._entries) < self._channels_max:
            return
        for address, entry in self._entries.items():
            if not entry.users:
                entry.scope.cancel()
                del self._entries[address]
                return
        raise Overloaded(f"{self._channels_max} connections are in use (channels_max); finish some calls or raise the limit")

    async def _open(self, address: str, entry: _Entry) -> ClientChannel:
        entry.scope = trio.CancelScope()
        with trio.move_on_after(self._connect_timeout_seconds):
            opened: ClientChannel | EventLogError = await self._nursery.start(self._hold, address, entry.scope)
            if isinstance(opened, EventLogError):
                raise opened
            return opened
        raise Unavailable(f"{address} could not be connected to within {self._connect_timeout_seconds:g} s: is the node running?")

    async def _hold(
        self,
        address: str,
        scope: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[ClientChannel | EventLogError],
    ) -> None:
        is_open = False
        try:
            with scope:
                async with self._connect(address) as channel:
                    is_open = True
                    task_status.started(channel)
                    await channel.wait_unusable()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, EventLogError) as error:
            if is_open:
                # Every open call was told. Nobody waits for this task.
                logger.debug("connection to %s ended: %s", address, error)
            else:
                task_status.started(_unavailable(address, error))


def _unavailable(address: str, error: Exception) -> EventLogError:
    if isinstance(error, EventLogError):
        return error
    if isinstance(error, OSError):
        reason = (error.strerror or str(error)).removeprefix(f"{address}: ")
    else:
        # Trio's SSLStream puts the handshake's own error behind a BrokenResourceError.
        reason = str(error.__cause__ or error) or "the connection broke"
    unavailable = Unavailable(f"{address} cannot be connected to: {reason}")
    unavailable.__cause__ = error
    return unavailable
