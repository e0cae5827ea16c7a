"""A network in memory, deterministic under MockClock, with latency, cuts, crashes and resets; each node sees a `Network`.

What it keeps of TCP: bytes arrive in order or not at all, writers wait when the other side does not read, closing ends the
stream after what was sent, a reset breaks both sides at once. While two hosts are cut, bytes wait as TCP's retransmissions do,
and neither side is told anything.
"""

import errno
import operator
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import attrs
import trio

from trio_eventlog.net.network import BoundListener, join_address, split_address

DEFAULT_RECEIVE_BYTES = 64 * 1024
FIRST_FREE_PORT = 20_000


@attrs.frozen(slots=True, kw_only=True)
class MemoryNetworkSettings:
    """Shape of the network.

    Attributes:
        latency_seconds_min, latency_seconds_max: of each write, drawn evenly; order within a direction is kept.
        buffer_bytes_max: on its way in one direction of one connection; a writer waits when it is full.
        backlog_max: connections not yet accepted; more are refused.
    """

    latency_seconds_min: float = 0.0
    latency_seconds_max: float = 0.0
    buffer_bytes_max: int = 256 * 1024
    backlog_max: int = 128


class MemoryNetwork:
    """All hosts of one test. `host(name)` is what a node gets.

    Any "host:port" may be listened on by any host; by default tests use the node's name as the host part ("n1:8400").
    """

    def __init__(self, rng: random.Random, settings: MemoryNetworkSettings | None = None) -> None:
        self.settings = settings or MemoryNetworkSettings()
        self._rng = rng
        self._hosts: dict[str, MemoryHost] = {}
        self._listeners: dict[str, _MemoryListener] = {}
        self._owners: dict[str, str] = {}
        """The host that has last listened on an address: a dial to a dead host behind a cut hangs as well."""
        self._connections: list[_Connection] = []
        self._cuts: set[tuple[str, str]] = set()
        self._isolated: set[str] = set()
        self._healed = trio.lowlevel.ParkingLot()
        self._next_port = FIRST_FREE_PORT
        self.on_write: Callable[[str, str, bytes], None] | None = None
        """Told of all bytes that a host gives to a connection: source, target, bytes. For traces."""

    def host(self, name: str) -> "MemoryHost":
        """The view of one node. The same name gives the same host."""
        if name not in self._hosts:
            self._hosts[name] = MemoryHost(self, name)
        return self._hosts[name]

    def cut(self, a: str, b: str, *, both_ways: bool = True) -> None:
        """Nothing passes from `a` to `b` (nor back) until healed: bytes wait, dials hang, nobody is told."""
        self._cuts.add((a, b))
        if both_ways:
            self._cuts.add((b, a))

    def isolate(self, name: str) -> None:
        """Cut one host from all others, later ones too."""
        self._isolated.add(name)

    def heal(self) -> None:
        """End all cuts and isolations; what waited is delivered."""
        self._cuts.clear()
        self._isolated.clear()
        self._healed.unpark_all()
        for connection in self._connections:
            connection.wake()

    def reset(self, a: str, b: str, *, dialled_by: str | None = None) -> int:
        """Break every connection between two hosts (dialled by one of them only), both sides told. Returns how many."""
        count = 0
        for connection in list(self._connections):
            if {connection.dialler, connection.acceptor} == {a, b} and dialled_by in (None, connection.dialler):
                connection.break_now(None)
                count += 1
        return count

    def crash(self, name: str) -> None:
        """The process of a host dies: its listeners vanish, its connections are reset.

        Behind a cut the other side is told when the cut is healed, as by the answer to its next packet.
        """
        for listener in [one for one in self._listeners.values() if one.owner == name]:
            listener.close()
        for connection in list(self._connections):
            if name in (connection.dialler, connection.acceptor):
                connection.break_now(name)

    def passes(self, source: str, target: str) -> bool:
        """Bytes from `source` reach `target` now."""
        if source == target:
            return True
        return (source, target) not in self._cuts and source not in self._isolated and target not in self._isolated

    def latency_seconds(self) -> float:
        """The latency of one write."""
        (low, high) = (self.settings.latency_seconds_min, self.settings.latency_seconds_max)
        return low if low == high else self._rng.uniform(low, high)

    async def _dial(self, dialler: str, address: str) -> "MemoryStream":
        split_address(address)
        await trio.lowlevel.checkpoint()
        await trio.sleep(self.latency_seconds())
        owner = self._owners.get(address)
        while owner is not None and not (self.passes(dialler, owner) and self.passes(owner, dialler)):
            await self._healed.park()
        while dialler in self._isolated:  # whoever listens there, or nobody: from here it cannot be told
            await self._healed.park()
        listener = self._listeners.get(address)
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"{address}: nobody listens there")
        if len(listener.queue) >= self.settings.backlog_max:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"{address}: too many connections wait to be accepted")
        connection = _Connection(self, dialler, listener.owner, address)
        self._connections.append(connection)
        listener.queue.append(connection.acceptor_stream)
        listener.waiting.unpark()
        return connection.dialler_stream

    async def _listen(self, owner: str, address: str) -> BoundListener:
        (host, port) = split_address(address)
        await trio.lowlevel.checkpoint()
        if port == 0:
            while join_address(host, self._next_port) in self._listeners:
                self._next_port += 1
            port = self._next_port
            self._next_port += 1
        bound = join_address(host, port)
        if bound in self._listeners:
            raise OSError(errno.EADDRINUSE, f"cannot listen on {bound}: address already in use")
        listener = _MemoryListener(self, owner, bound)
        self._listeners[bound] = listener
        self._owners[bound] = owner
        return BoundListener(listener, bound)


class MemoryHost:
    """`Network` of one node."""

    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self.network = network
        self.name = name

    async def open_stream(self, address: str) -> trio.abc.Stream:
        return await self.network._dial(self.name, address)

    async def listen(self, address: str) -> BoundListener:
        return await self.network._listen(self.name, address)


class _MemoryListener(trio.abc.Listener["MemoryStream"]):
    def __init__(self, network: MemoryNetwork, owner: str, address: str) -> None:
        self._network = network
        self.owner = owner
        self.address = address
        self.queue: deque[MemoryStream] = deque()
        self.waiting = trio.lowlevel.ParkingLot()
        self._is_closed = False

    async def accept(self) -> "MemoryStream":
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("this listener is closed")
            if self.queue:
                return self.queue.popleft()
            await self.waiting.park()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            del self._network._listeners[self.address]
            while self.queue:
                self.queue.popleft().connection.break_now(None)
            self.waiting.unpark_all()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


Side = Literal["dialler", "acceptor"]


class _Connection:
    """Two directions between two hosts, and whether it is broken."""

    def __init__(self, network: MemoryNetwork, dialler: str, acceptor: str, address: str) -> None:
        self.network = network
        self.dialler = dialler
        self.acceptor = acceptor
        self._is_broken = False
        self._broken_by: str | None = None
        forth = _Pipe(self, dialler, acceptor)
        back = _Pipe(self, acceptor, dialler)
        self._pipes = (forth, back)
        self.dialler_stream = MemoryStream(self, dialler, outgoing=forth, incoming=back, remote_address=address)
        self.acceptor_stream = MemoryStream(self, acceptor, outgoing=back, incoming=forth, remote_address=f"{dialler}:0")

    def is_broken_for(self, host: str) -> bool:
        """`host` has learnt that the connection is broken."""
        if not self._is_broken:
            return False
        if self._broken_by is None or self._broken_by == host:
            return True
        return self.network.passes(self._broken_by, host)

    def break_now(self, by: str | None) -> None:
        """Reset, by one host (who dies) or by the network (None)."""
        if not self._is_broken:
            self._is_broken = True
            self._broken_by = by
            self.wake()

    def wake(self) -> None:
        for pipe in self._pipes:
            pipe.changed.unpark_all()

    def forget_if_over(self) -> None:
        if all(pipe.reader_is_gone for pipe in self._pipes) and self in self.network._connections:
            self.network._connections.remove(self)


@attrs.define(slots=True)
class _Pipe:
    """One direction of a connection. An empty chunk is the end of the stream."""

    connection: _Connection
    source: str
    target: str
    chunks: deque[tuple[float, bytes]] = attrs.field(factory=deque)
    queued_bytes: int = 0
    last_arrival: float = 0.0
    ended: bool = False
    reader_is_gone: bool = False
    changed: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    @property
    def room_bytes(self) -> int:
        return self.connection.network.settings.buffer_bytes_max - self.queued_bytes

    def put(self, data: bytes) -> None:
        # A later write never overtakes an earlier one, however small its own latency is.
        network = self.connection.network
        self.last_arrival = max(self.last_arrival, trio.current_time() + network.latency_seconds())
        if network.on_write is not None:
            network.on_write(self.source, self.target, data)
        self.chunks.append((self.last_arrival, data))
        self.queued_bytes += len(data)
        self.changed.unpark_all()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self.put(b"")

    def take(self, bytes_max: int) -> bytes:
        """What has arrived, at most `bytes_max`; the first chunk must have arrived. b"" at the end of the stream."""
        taken: list[bytes] = []
        now = trio.current_time()
        while bytes_max and self.chunks and self.chunks[0][0] <= now and self.chunks[0][1]:
            (arrival, chunk) = self.chunks.popleft()
            if len(chunk) > bytes_max:
                self.chunks.appendleft((arrival, chunk[bytes_max:]))
                chunk = chunk[:bytes_max]
            taken.append(chunk)
            bytes_max -= len(chunk)
            self.queued_bytes -= len(chunk)
        self.changed.unpark_all()
        return b"".join(taken)


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of a connection in memory."""

    def __init__(self, connection: _Connection, host: str, *, outgoing: _Pipe, incoming: _Pipe, remote_address: str) -> None:
        self.connection = connection
        self.host = host
        self.remote_address = remote_address
        self._outgoing = outgoing
        self._incoming = incoming
        self._is_closed = False
        self._busy: set[str] = set()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._alone("send"):
            await trio.lowlevel.checkpoint()
            rest = bytes(data)
            while True:
                self._check_sendable()
                if not rest:
                    return
                room = self._outgoing.room_bytes
                if room > 0:
                    self._outgoing.put(rest[:room])
                    rest = rest[room:]
                else:
                    await self._outgoing.changed.park()

    async def wait_send_all_might_not_block(self) -> None:
        with self._alone("send"):
            await trio.lowlevel.checkpoint()
            while True:
                if self._is_closed:
                    raise trio.ClosedResourceError("this stream is closed")
                if self._is_broken() or self._outgoing.room_bytes > 0:
                    return
                await self._outgoing.changed.park()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        bytes_max = DEFAULT_RECEIVE_BYTES if max_bytes is None else operator.index(max_bytes)
        if bytes_max < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._alone("receive"):
            await trio.lowlevel.checkpoint()
            pipe = self._incoming
            network = self.connection.network
            while True:
                if self._is_closed:
                    raise trio.ClosedResourceError("this stream is closed")
                if self.connection.is_broken_for(self.host):
                    raise trio.BrokenResourceError("connection reset")
                if not pipe.chunks or not network.passes(pipe.source, pipe.target):
                    await pipe.changed.park()
                    continue
                arrival = pipe.chunks[0][0]
                if arrival <= trio.current_time():
                    return pipe.take(bytes_max)
                with trio.CancelScope(deadline=arrival):
                    await pipe.changed.park()

    async def send_eof(self) -> None:
        with self._alone("send"):
            await trio.lowlevel.checkpoint()
            if self._is_closed:
                raise trio.ClosedResourceError("this stream is closed")
            self._outgoing.end()

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._outgoing.end()
            self._incoming.reader_is_gone = True
            self.connection.wake()
            self.connection.forget_if_over()
        await trio.lowlevel.checkpoint()

    def _is_broken(self) -> bool:
        """The other side is known to be gone."""
        pipe = self._outgoing
        return self.connection.is_broken_for(self.host) or (
            pipe.reader_is_gone and self.connection.network.passes(pipe.target, pipe.source)
        )

    def _check_sendable(self) -> None:
        if self._is_closed or self._outgoing.ended:
            raise trio.ClosedResourceError("this stream is closed for sending")
        if self._is_broken():
            raise trio.BrokenResourceError("the other side is gone")

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        if what in self._busy:
            raise trio.BusyResourceError(f"another task is using this stream to {what}")
        self._busy.add(what)
        try:
            yield
        finally:
            self._busy.remove(what)
