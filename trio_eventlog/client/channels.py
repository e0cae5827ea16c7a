"""Connections to nodes, opened when needed and shared: one each, unless streams need more."""

import logging
import math
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import attrs
import trio

from trio_eventlog.client.settings import KIB, MIB, ClientSettings
from trio_eventlog.errors import CallUnsent, EventLogError, Overloaded, Unavailable
from trio_eventlog.grpc.callers import Pairs
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

    @property
    def calls_open(self) -> int: ...

    @property
    def calls_max(self) -> int: ...

    async def wait_ready(self) -> None: ...

    async def unary(self, method: Method, request: Any | Encoded, *, metadata: Pairs = ()) -> Any: ...

    def stream(self, method: Method, *, metadata: Pairs = ()) -> AbstractAsyncContextManager[ClientCall]: ...

    async def wait_unusable(self) -> None: ...


Connect = Callable[[str], AbstractAsyncContextManager[ClientChannel]]
"""Opens a channel to "host:port". Raises OSError or EventLogError."""


def rpc_settings(settings: ClientSettings) -> RpcSettings:
    """What a client's connections run with."""
    return RpcSettings(
        message_bytes_max=settings.message_bytes_max,
        stream_window_bytes=1 * MIB,
        connection_window_bytes=16 * MIB,
        overdraft_bytes_max=64 * MIB,
        frame_bytes_max=1 * MIB,
        receive_bytes=256 * KIB,
        send_buffer_bytes=1 * MIB,
        streams_per_connection_max=1024,
        header_bytes_max=16 * KIB,
        header_block_bytes_max=64 * KIB,
        control_frames_max=10_000,
        control_seconds=10.0,
        useless_frames_per_second_max=1000,
        frames_per_pass=128,
        control_bytes_max=256 * KIB,
        preface_timeout_seconds=10.0,
        idle_timeout_seconds=math.inf,
        keepalive_seconds=settings.keepalive_seconds,
        keepalive_timeout_seconds=settings.keepalive_timeout_seconds,
        call_silence_seconds=math.inf,
        call_slot_seconds=settings.attempt_timeout_seconds / 2,
        goodbye_seconds=1.0,
        messages_per_checkpoint=64,
        bytes_per_checkpoint=256 * KIB,
    )


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
class _Connection:
    """One of the connections to a node. `streams`: calls without an end of their own that it has, or that wait for it to open."""

    channel: ClientChannel | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    lock: trio.Lock = attrs.field(factory=trio.Lock)
    streams: int = 0

    @property
    def usable(self) -> ClientChannel | None:
        return self.channel if self.channel is not None and self.channel.is_usable else None


@attrs.define(eq=False)
class _Entry:
    connections: list[_Connection] = attrs.field(factory=list)
    users: int = 0


class ChannelPool:
    """Connections to nodes. A node bounds the calls of each connection; when streams have used them up, another one is opened.

    Args:
        nursery: holds the connections; cancelling it closes them.
        channels_max: how many nodes at once; the least recently used idle one makes room.
        connections_max: to one node.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        connect: Connect,
        *,
        channels_max: int,
        connections_max: int,
        connect_timeout_seconds: float,
    ) -> None:
        self._nursery = nursery
        self._connect = connect
        self._channels_max = channels_max
        self._connections_max = connections_max
        self._connect_timeout_seconds = connect_timeout_seconds
        self._entries: dict[str, _Entry] = {}  # The least recently used first.
        self.is_closed = False

    def close(self) -> None:
        """Open nothing any more: the client's block has ended."""
        self.is_closed = True

    def check_open(self) -> None:
        """Raises Unavailable after `close`."""
        if self.is_closed:
            raise Unavailable("the client is closed: its block has ended")

    @asynccontextmanager
    async def use(self, address: str, *, is_stream: bool = False) -> AsyncIterator[ClientChannel]:
        """A usable channel to `address`, which is kept open at least for the block.

        Args:
            is_stream: for a call that lasts until it is cancelled. Such calls never take all that a connection may have, so that
                others find room.

        Raises:
            Unavailable: there is no connection to be had, and why.
            Overloaded: as many connections as there may be are full of streams.
        """
        self.check_open()
        entry = self._entries.pop(address, None)
        if entry is None:
            self._make_room()
            entry = _Entry()
        self._entries[address] = entry
        entry.users += 1
        try:
            if not is_stream:
                yield await self._opened(address, self._for_call(entry))
                return
            connection, channel = await self._for_stream(address, entry)
            try:
                yield channel
            finally:
                connection.streams -= 1
        finally:
            entry.users -= 1

    def _for_call(self, entry: _Entry) -> _Connection:
        """The first connection with room for a call; the first of all, where the call waits, when there is none."""
        for connection in entry.connections:
            channel = connection.usable
            if channel is not None and channel.calls_open < channel.calls_max:
                return connection
        if not entry.connections:
            entry.connections.append(_Connection())
        return entry.connections[0]

    async def _for_stream(self, address: str, entry: _Entry) -> tuple[_Connection, ClientChannel]:
        """A connection with room for a stream, which is counted there already."""
        while True:
            connection = self._with_room_for_stream(address, entry)
            # Before it is open: calls that come meanwhile use another connection.
            connection.streams += 1
            try:
                channel = await self._opened(address, connection)
            except BaseException:
                connection.streams -= 1
                raise
            if connection.streams <= self._streams_max(channel, is_first=connection is entry.connections[0]):
                return connection, channel
            # More came while it was being opened than it turned out to have room for.
            connection.streams -= 1

    def _with_room_for_stream(self, address: str, entry: _Entry) -> _Connection:
        first = entry.connections[0] if entry.connections else None
        entry.connections = [one for one in entry.connections if one is first or one.streams or one.usable is not None]
        for connection in entry.connections:
            channel = connection.usable
            if channel is None or connection.streams < self._streams_max(channel, is_first=connection is first):
                return connection
        if len(entry.connections) < self._connections_max:
            entry.connections.append(_Connection())
            return entry.connections[-1]
        raise Overloaded(
            f"{address} is read from and written to by {sum(one.streams for one in entry.connections)} streams of this client, on"
            f" {self._connections_max} connections (connections_per_node_max), and allows no more: consume or produce to fewer"
            " partitions, or raise that limit or streams_per_connection_max of the node",
            retry_after_seconds=1.0,
        )

    def _streams_max(self, channel: ClientChannel, *, is_first: bool) -> int:
        """How many streams a connection takes: a quarter of its calls, one at least, is left to calls that end."""
        streams_max = channel.calls_max - max(1, channel.calls_max // 4)
        # Where a node allows one call only, the first connection is for calls that end, if there may be others.
        return streams_max if is_first and self._connections_max > 1 else max(1, streams_max)

    def _make_room(self) -> None:
        if len(self._entries) < self._channels_max:
            return
        for address, entry in self._entries.items():
            if not entry.users:
                for connection in entry.connections:
                    connection.scope.cancel()
                del self._entries[address]
                return
        raise Overloaded(f"{self._channels_max} connections are in use (channels_max); finish some calls or raise the limit")

    async def _opened(self, address: str, connection: _Connection) -> ClientChannel:
        channel = connection.usable
        if channel is not None:
            return channel
        async with connection.lock:
            channel = connection.usable
            if channel is None:
                self.check_open()
                channel = connection.channel = await self._open(address, connection)
            return channel

    async def _open(self, address: str, connection: _Connection) -> ClientChannel:
        connection.scope = trio.CancelScope()
        with trio.move_on_after(self._connect_timeout_seconds):
            opened: ClientChannel | EventLogError = await self._nursery.start(self._hold, address, connection.scope)
            if isinstance(opened, EventLogError):
                raise opened
            return opened
        raise CallUnsent(f"{address} could not be connected to within {self._connect_timeout_seconds:g} s: is the node running?")

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
                    await channel.wait_ready()
                    is_open = True
                    task_status.started(channel)
                    await channel.wait_unusable()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, EventLogError) as error:
            if is_open:
                # Every open call got the error. No caller waits for this task.
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
    unavailable = CallUnsent(f"{address} cannot be connected to: {reason}")
    unavailable.__cause__ = error
    return unavailable
