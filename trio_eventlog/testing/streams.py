"""Streams of a `SimNetwork`: what two hosts have of a connection, and how it ends."""

import math
import operator
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import trio

from trio_eventlog.testing.weather import Link

DEFAULT_RECEIVE_BYTES = 64 * 1024


@attrs.frozen(slots=True, kw_only=True)
class Retransmission:
    """How TCP tries again what was not acknowledged. No chance in it: the same cut gives the same times.

    Attributes:
        seconds_min, seconds_max: the first interval, which doubles with each further attempt, and the longest one.
        dial_seconds: the first interval between two attempts to connect.
    """

    seconds_min: float = 0.2
    seconds_max: float = 120.0
    dial_seconds: float = 1.0

    def next_time(self, begun_at: float, now: float) -> float:
        """When what was sent at `begun_at`, and in vain since, is tried next, at `now` or later."""
        return self._next(begun_at, now, self.seconds_min)

    def next_dial_time(self, begun_at: float, now: float) -> float:
        """The same of a dial."""
        return self._next(begun_at, now, self.dial_seconds)

    def _next(self, at: float, now: float, interval_seconds: float) -> float:
        while at < now:
            at += interval_seconds
            interval_seconds = min(2 * interval_seconds, self.seconds_max)
        return at


class SimListener(trio.abc.Listener["SimStream"]):
    """Accepts the connections that the network adds to its queue."""

    def __init__(self, owner: str, *, on_close: Callable[[], object]) -> None:
        self.owner = owner
        self.queue: deque[SimStream] = deque()
        self._on_close = on_close
        self._waiting = trio.lowlevel.ParkingLot()
        self._is_closed = False

    def add(self, connection: "Connection") -> None:
        self.queue.append(connection.acceptor_stream)
        self._waiting.unpark()

    async def accept(self) -> "SimStream":
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("this listener is closed")
            if self.queue:
                return self.queue.popleft()
            await self._waiting.park()

    def close(self) -> None:
        """What was not accepted is reset."""
        if not self._is_closed:
            self._is_closed = True
            self._on_close()
            while self.queue:
                self.queue.popleft().connection.reset()
            self._waiting.unpark_all()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class Connection:
    """Two directions between two hosts.

    Arguments:
        forth, back: the links from the dialler to the acceptor and back.
        address: that was dialled.
        retransmission: see `SimNetworkSettings`.
        on_over: called once, when neither side can use it any more.
    """

    def __init__(
        self,
        forth: Link,
        back: Link,
        *,
        address: str,
        buffer_bytes_max: int,
        retransmission: Retransmission | None = None,
        on_over: Callable[["Connection"], object],
    ) -> None:
        self.dialler = forth.source
        self.acceptor = forth.target
        there = _Pipe(forth, self.dialler, buffer_bytes_max, retransmission)
        here = _Pipe(back, self.dialler, buffer_bytes_max, retransmission)
        self._pipes = (there, here)
        self._on_over = on_over
        self._is_over = False
        self.dialler_stream = SimStream(self, outgoing=there, incoming=here, remote_address=address)
        self.acceptor_stream = SimStream(self, outgoing=here, incoming=there, remote_address=f"{self.dialler}:0")

    def reset(self) -> None:
        """By the network: both sides know at once."""
        self.dialler_stream.break_now()
        self.acceptor_stream.break_now()

    def crash(self, host: str, *, silently: bool) -> None:
        """Drop the side that `host` has of this connection, if any. The other side sees a reset, unless `silently`."""
        for stream in (self.dialler_stream, self.acceptor_stream):
            if stream.host == host and not stream.is_over:
                if not silently:
                    stream.outgoing.reset(trio.current_time())
                stream.break_now()

    def come_back(self, host: str) -> None:
        """A host that had crashed silently is back and knows nothing of this: whatever reaches it is answered by a reset."""
        for stream in (self.dialler_stream, self.acceptor_stream):
            if stream.host == host:
                stream.come_back()

    def on_links_changed(self) -> None:
        """A cut has begun or ended, perhaps one of the links of this."""
        for pipe in self._pipes:
            pipe.on_link_changed()
        self.wake()

    def wake(self) -> None:
        """Wake all waiters, which check their condition again."""
        for pipe in self._pipes:
            pipe.changed.unpark_all()

    def forget_if_over(self) -> None:
        if not self._is_over and self.dialler_stream.is_over and self.acceptor_stream.is_over:
            self._is_over = True
            self._on_over(self)


@attrs.define(slots=True, eq=False)
class _Pipe:
    """One direction of a connection.

    Attributes:
        dialler: of the connection.
        chunks: when they arrive, and the bytes; no bytes are the end of the stream.
        reset_arrival: when the reader sees that the connection is reset, after the chunks; infinite while it is not.
        lost_since: when the oldest bytes that have not arrived were lost in a cut; infinite when none were.
        resumes_at: when they are sent again after the cut: nothing arrives before.
        reader_is_gone: it has closed its side.
        reader_is_back: it had crashed silently, and knows nothing of the connection.
    """

    link: Link
    dialler: str
    buffer_bytes_max: int
    retransmission: Retransmission | None = None
    lost_since: float = math.inf
    resumes_at: float = -math.inf
    chunks: deque[tuple[float, bytes]] = attrs.field(factory=deque)
    queued_bytes: int = 0
    reset_arrival: float = math.inf
    is_ended: bool = False
    reader_is_gone: bool = False
    reader_is_back: bool = False
    changed: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    @property
    def room_bytes(self) -> int:
        return self.buffer_bytes_max - self.queued_bytes

    def put(self, data: bytes) -> float:
        """Send; returns when the last of it is there. Chunks are taken in order, so one never overtakes those before it."""
        link = self.link
        if link.on_write is not None:
            link.on_write(link.source, link.target, data)
        (data, is_reset) = link.spoil(data, self.dialler)
        arrival = 0.0
        for piece in link.pieces(data):
            arrival = link.arrival(len(piece))
            if piece or not is_reset:
                self.chunks.append((arrival, piece))
        self.queued_bytes += len(data)
        if not link.passes:
            self.lost_since = min(self.lost_since, trio.current_time())
        if is_reset:
            self.is_ended = True
            self.reset_arrival = arrival
        self.changed.unpark_all()
        return arrival

    def on_link_changed(self) -> None:
        """What is on its way when a cut begins is lost, and sent again from then on; what had arrived waits for its reader."""
        if self.retransmission is None:
            return
        now = trio.current_time()
        if not self.link.passes:
            if self.chunks and self.chunks[-1][0] > now:
                self.lost_since = min(self.lost_since, now)
        elif self.lost_since < math.inf:
            self.resumes_at = self.retransmission.next_time(self.lost_since, now)
            if self.resumes_at <= now:
                self.lost_since = math.inf

    def reset(self, arrival: float) -> None:
        """Bytes in flight are lost; the reader sees the reset at `arrival`."""
        self.is_ended = True
        self.chunks.clear()
        self.reset_arrival = min(self.reset_arrival, arrival)
        self.changed.unpark_all()

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


class SimStream(trio.abc.HalfCloseableStream):
    """One side of a connection.

    Attributes:
        remote_address: "host:port" of the other side; the port of a dialler is 0.
    """

    def __init__(self, connection: Connection, *, outgoing: _Pipe, incoming: _Pipe, remote_address: str) -> None:
        self.connection = connection
        self.host = outgoing.link.source
        self.remote_address = remote_address
        self.outgoing = outgoing
        self._incoming = incoming
        self._is_closed = False
        self._is_broken = False
        self._busy: set[str] = set()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._alone("send"):
            await trio.lowlevel.checkpoint()
            data = bytes(data)
            sent_bytes = 0
            while True:
                if self._is_closed:
                    raise trio.ClosedResourceError("this stream is closed")
                if self._cannot_send():
                    raise trio.BrokenResourceError("the other side is gone")
                if self.outgoing.is_ended:
                    raise trio.ClosedResourceError("this stream is closed for sending")
                if sent_bytes == len(data):
                    return
                room = self.outgoing.room_bytes
                if room > 0:
                    self._put(data[sent_bytes : sent_bytes + room])
                    sent_bytes = min(sent_bytes + room, len(data))
                else:
                    await self._wait_for_room()

    async def wait_send_all_might_not_block(self) -> None:
        with self._alone("send"):
            await trio.lowlevel.checkpoint()
            while True:
                if self._is_closed:
                    raise trio.ClosedResourceError("this stream is closed")
                if self._cannot_send() or self.outgoing.room_bytes > 0:
                    return
                await self._wait_for_room()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        bytes_max = DEFAULT_RECEIVE_BYTES if max_bytes is None else operator.index(max_bytes)
        if bytes_max < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._alone("receive"):
            await trio.lowlevel.checkpoint()
            pipe = self._incoming
            while True:
                if self._is_closed:
                    raise trio.ClosedResourceError("this stream is closed")
                if self._is_broken:
                    raise trio.BrokenResourceError("connection reset")
                arrival = pipe.chunks[0][0] if pipe.chunks else pipe.reset_arrival
                if pipe.resumes_at > trio.current_time():
                    arrival = max(arrival, pipe.resumes_at)
                elif pipe.link.passes:
                    pipe.lost_since = math.inf
                if arrival == math.inf or not pipe.link.passes:
                    await pipe.changed.park()
                elif arrival > trio.current_time():
                    with trio.CancelScope(deadline=arrival):
                        await pipe.changed.park()
                elif pipe.chunks:
                    return pipe.take(bytes_max)
                else:
                    self.break_now()

    async def send_eof(self) -> None:
        with self._alone("send"):
            await trio.lowlevel.checkpoint()
            if self._is_closed:
                raise trio.ClosedResourceError("this stream is closed")
            if self._is_broken:
                raise trio.BrokenResourceError("connection reset")
            self._end()

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            if not self._is_broken:
                self._end()
                self._incoming.reader_is_gone = True
            self.connection.wake()
            self.connection.forget_if_over()
        await trio.lowlevel.checkpoint()

    @property
    def is_over(self) -> bool:
        """Nothing can be done with it any more."""
        return self._is_closed or self._is_broken

    def break_now(self) -> None:
        """This side learns that the connection is reset."""
        self._is_broken = True
        self.connection.wake()
        self.connection.forget_if_over()

    def come_back(self) -> None:
        """See `Connection.come_back`."""
        incoming = self._incoming
        incoming.reader_is_back = True
        if incoming.chunks:  # the other side is still repeating it
            self.outgoing.reset(self.outgoing.link.arrival(0))

    def _put(self, data: bytes) -> None:
        outgoing = self.outgoing
        arrival = outgoing.put(data)
        if outgoing.reset_arrival < math.inf:
            self.break_now()
        elif outgoing.reader_is_back:
            self._incoming.reset(arrival + self._incoming.link.latency_seconds())

    def _end(self) -> None:
        if not self.outgoing.is_ended:
            self.outgoing.is_ended = True
            self._put(b"")

    async def _wait_for_room(self) -> None:
        # A reset that is on its way comes without waking anybody.
        with trio.CancelScope(deadline=self._incoming.reset_arrival):
            await self.outgoing.changed.park()

    def _cannot_send(self) -> bool:
        """The other side is known to be gone."""
        incoming = self._incoming
        if incoming.link.passes and (self.outgoing.reader_is_gone or incoming.reset_arrival <= trio.current_time()):
            return True
        return self._is_broken

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        if what in self._busy:
            raise trio.BusyResourceError(f"another task is using this stream to {what}")
        self._busy.add(what)
        try:
            yield
        finally:
            self._busy.remove(what)
