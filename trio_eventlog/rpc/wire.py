"""What both sides share above the protocol: the loops that read and write a stream, and one call's two directions.

The reader turns bytes into events and hands them on; the writer takes whatever has queued and sends it in one piece. Nobody
else touches the stream. Tasks wake each other through `Signal`s, whose cost is a fraction of an event's. When a batch of tasks
has run, the writer's turn comes after all of them, so answers that are ready together leave together.
"""

import math
import os
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Any

import trio

from trio_eventlog.errors import BatchTooLarge
from trio_eventlog.rpc._purerpc import ErrorCodes
from trio_eventlog.rpc.http2 import Buffer
from trio_eventlog.rpc.methods import Encoded
from trio_eventlog.rpc.protocol import RpcConnection
from trio_eventlog.rpc.settings import RpcSettings
from trio_eventlog.rpc.stream_entry import StreamEntry
from trio_eventlog.rpc.useless_work import UselessWork

_MESSAGE_HEADER = Struct(">BL")


class Signal:
    """Wakes the one task that waits; remembered once when none does. `set` may be called from anywhere in the Trio thread."""

    __slots__ = ("_is_set", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._is_set = False

    def set(self) -> None:
        task = self._task
        if task is None:
            self._is_set = True
        else:
            self._task = None
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Returns at once when it was set since the last wait (then without a checkpoint)."""
        if self._is_set:
            self._is_set = False
            return
        if self._task is not None:
            raise trio.BusyResourceError("another task is in this method already")
        self._task = trio.lowlevel.current_task()

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


_JOINED_BYTES_MAX = 32 * 1024
_BUFFERS_AT_ONCE = 512


def sending_end(stream: trio.abc.SendStream) -> trio.abc.SendStream:
    """Where the bytes go: a stream that only passes on what it is given may say so by an attribute `sends_to`."""
    while (below := getattr(stream, "sends_to", None)) is not None:
        stream = below
    return stream


async def send_buffers(stream: trio.abc.SendStream, buffers: list[Buffer]) -> int:
    """Sends `buffers` as one, and says how many bytes they were. Raises as `send_all`.

    On a plain socket, payload goes to the kernel from where it lies; joining it first would cost as much as making it.
    """
    size = sum(map(len, buffers))
    if size <= _JOINED_BYTES_MAX or type(stream) is not trio.SocketStream:
        await stream.send_all(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        return size
    first = 0
    try:
        while first < len(buffers):
            sent = await stream.socket.sendmsg(buffers[first : first + _BUFFERS_AT_ONCE])
            while first < len(buffers) and sent >= len(buffers[first]):
                sent -= len(buffers[first])
                first += 1
            if sent:
                buffers[first] = memoryview(buffers[first])[sent:]
    except OSError as error:
        raise trio.BrokenResourceError(f"socket connection broken: {error}") from error
    return size


async def close_stream(stream: trio.abc.AsyncResource, seconds_max: float) -> None:
    """Closes politely if that is quick: TLS wants to say goodbye, and the other side may not be listening."""
    with trio.move_on_after(seconds_max):
        await stream.aclose()


class RpcWire:
    """A stream, its protocol, and the two loops between them."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        protocol: RpcConnection,
        settings: RpcSettings,
        dispatch: Callable[[list[Any]], None],
        useless_work: UselessWork | None = None,
    ) -> None:
        self.stream = stream
        self.protocol = protocol
        self.settings = settings
        self.calls: dict[int, CallStream] = {}
        self.blocked: dict[CallStream, None] = {}
        self.last_receive_time = trio.current_time()
        self.received_bytes = 0
        self.sent_bytes = 0
        self._sending_end = sending_end(stream)
        self._dispatch = dispatch
        self._useless_work = useless_work
        self._useless_frames = 0
        self._writable = Signal()
        self._flushed: trio.Event | None = None
        self._is_writing = False
        self._ping_time = math.inf

    def flush(self) -> None:
        """Lets the writer send what has queued."""
        if self.protocol.output_bytes:
            self._writable.set()

    def flush_now(self) -> None:
        """As `flush`, without waiting for the writer's turn when the socket takes everything at once.

        For the last words of the only call that is open: with one caller at a time, every turn of the loop between a request and
        its answer is felt. With several, their answers should leave together instead.
        """
        if not self.protocol.output_bytes:
            return
        end = self._sending_end
        if self._is_writing or type(end) is not trio.SocketStream or self.protocol.output_bytes > _JOINED_BYTES_MAX:
            self._writable.set()
            return
        data = b"".join(self.protocol.take_output())
        try:
            sent = os.write(end.socket.fileno(), data)
        except OSError:
            sent = 0  # Full, or broken: the writer waits for room, or finds out.
        self.sent_bytes += sent
        if sent < len(data):
            self.protocol.give_back_output(data[sent:])
            self._writable.set()

    async def wait_flushed(self) -> None:
        """Returns when everything queued has been handed to the stream."""
        if self.protocol.output_bytes or self._is_writing:
            self._flushed = trio.Event()
            self._writable.set()
            await self._flushed.wait()

    async def read(self) -> str:
        """Until the connection ends; says why, for people."""
        protocol = self.protocol
        stream = self.stream
        receive_bytes = self.settings.receive_bytes
        renewal_time = trio.current_time() + self.settings.control_seconds
        while True:
            try:
                data = await stream.receive_some(receive_bytes)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                return f"the connection broke ({error})" if str(error) else "the connection broke"
            if not data:
                return "the connection was closed by the other side"
            self.received_bytes += len(data)
            now = self.last_receive_time = trio.current_time()
            if now >= renewal_time:
                protocol.renew_budget()
                renewal_time = now + self.settings.control_seconds
            if self._useless_work is not None:
                protocol.frames_per_pass = self._useless_work.frames_per_pass(now)
            events = protocol.receive_data(data)
            while True:
                self._dispatch(events)
                self.flush()
                if protocol.failure is not None:
                    return f"the other side broke HTTP/2: {protocol.failure}"
                if protocol.useless_frames != self._useless_frames:
                    await self._wait_turn()
                if not protocol.has_pending:
                    break
                # Very many small frames: others run in between.
                await trio.lowlevel.checkpoint()
                events = protocol.receive_data(b"")

    async def _wait_turn(self) -> None:
        """Who makes others work for nothing waits, once there is much of that."""
        frames = self.protocol.useless_frames - self._useless_frames
        self._useless_frames = self.protocol.useless_frames
        if self._useless_work is not None:
            now = trio.current_time()
            pause_seconds = self._useless_work.add(self, frames, now)
            self.protocol.frames_per_pass = self._useless_work.frames_per_pass(now)
            if pause_seconds:
                await trio.sleep(pause_seconds)

    async def write(self) -> None:
        """For ever; a stream that breaks is for the reader to notice."""
        protocol = self.protocol
        while True:
            await self._writable.wait()
            while output := protocol.take_output():
                self._is_writing = True
                if self.blocked:
                    self.wake_senders()  # They queue the next piece while this one is being written.
                try:
                    self.sent_bytes += await send_buffers(self._sending_end, output)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    # What cannot be sent is thrown away, or it would pile up until the reader has seen the end.
                    while True:
                        protocol.take_output()
                        self._is_writing = False
                        self._set_flushed()
                        await self._writable.wait()
                self._is_writing = False
            self._set_flushed()

    def _set_flushed(self) -> None:
        if self._flushed is not None:
            self._flushed.set()
            self._flushed = None

    def wake_senders(self) -> None:
        """Room has appeared: every sender that waits checks again."""
        for call in self.blocked:
            call.sendable.set()

    def next_check_time(self, started_at: float, busy_since: float = math.inf) -> float:
        """When `check` should be called next. `busy_since`: when the first of the open calls began; inf: none is open."""
        ping_after, lost_after = self._patience(busy_since)
        if not self.protocol.has_settings:
            # Nobody says when they have come.
            return min(started_at + self.settings.preface_timeout_seconds, trio.current_time() + ping_after)
        if self._ping_time != math.inf:
            return self._ping_time + lost_after
        return self._silent_since(busy_since) + ping_after

    def check(self, started_at: float, busy_since: float = math.inf) -> str:
        """Sends a PING when it is due. Says why the connection must end, or "" when it need not."""
        now = trio.current_time()
        if not self.protocol.has_settings:
            return "no HTTP/2 settings came in time" if now >= started_at + self.settings.preface_timeout_seconds else ""
        ping_after, lost_after = self._patience(busy_since)
        if self._ping_time != math.inf:
            if self.last_receive_time >= self._ping_time:
                self._ping_time = math.inf
            elif now >= self._ping_time + lost_after:
                return "the other side does not answer"
        elif now >= self._silent_since(busy_since) + ping_after:
            self.protocol.ping(b"keepaliv")
            self._ping_time = now
            self.flush()
        return ""

    def _patience(self, busy_since: float) -> tuple[float, float]:
        """Seconds of silence after which a PING leaves, and seconds from then on after which the connection is lost."""
        settings = self.settings
        if busy_since == math.inf or settings.call_silence_seconds == math.inf:
            return settings.keepalive_seconds, settings.keepalive_timeout_seconds
        ping_after = settings.call_silence_seconds / 4
        return ping_after, settings.call_silence_seconds - ping_after

    def _silent_since(self, busy_since: float) -> float:
        # A connection without calls may have been silent for long: a call that begins has a PING of its own.
        return self.last_receive_time if busy_since == math.inf else max(self.last_receive_time, busy_since)


class CallStream:
    """One call's two directions on a wire, used by one sender and one receiver at a time."""

    __slots__ = (
        "_bytes_since_checkpoint",
        "_messages_since_checkpoint",
        "_received_bytes",
        "_received_messages",
        "entry",
        "is_ended",
        "is_sending",
        "queue",
        "readable",
        "sendable",
        "wire",
    )

    def __init__(self, wire: RpcWire, entry: StreamEntry) -> None:
        self.wire = wire
        self.entry = entry
        self.queue: deque[tuple[bytes, int]] = deque()
        self.readable = Signal()
        self.sendable = Signal()
        self.is_ended = False
        """Nothing further will come into the queue."""
        self.is_sending = False
        """A message waits for room, a part of it perhaps sent."""
        self._messages_since_checkpoint = 0
        self._bytes_since_checkpoint = 0
        self._received_messages = 0
        self._received_bytes = 0

    def put(self, data: bytes, flow_controlled_length: int) -> None:
        self.queue.append((data, flow_controlled_length))
        self.readable.set()

    def end(self) -> None:
        self.is_ended = True
        self.readable.set()
        self.sendable.set()

    async def receive(self) -> bytes | None:
        """The next message; None when there will be none. Always checks for cancellation, and lets others run at intervals."""
        await trio.lowlevel.checkpoint_if_cancelled()
        queue = self.queue
        while not queue:
            if self.is_ended:
                return None
            await self.readable.wait()
            self._received_messages = self._received_bytes = 0
        data, flow_controlled_length = queue.popleft()
        wire = self.wire
        wire.protocol.acknowledge(self.entry, flow_controlled_length)
        wire.flush()
        self._received_messages += 1
        self._received_bytes += len(data)
        settings = wire.settings
        if self._received_messages >= settings.messages_per_checkpoint or self._received_bytes >= settings.bytes_per_checkpoint:
            self._received_messages = self._received_bytes = 0
            # The message is out of the queue already: it must not get lost in a cancellation.
            await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    async def send(self, buffers: tuple[Buffer, ...], *, ends: bool = False, flushes: bool = True) -> None:
        """Sends one message; with `ends`, the last one; without `flushes`, the caller sees to it that the writer hears of it.

        Waits for the peer's windows and for the writer. Always checks for cancellation, and lets others run at intervals. A
        message that was cut in the middle by a cancellation resets the stream.

        Raises:
            BatchTooLarge: the message is over the limit; nothing was sent.
            trio.BrokenResourceError: the stream takes no more.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        wire = self.wire
        protocol = wire.protocol
        entry = self.entry
        settings = wire.settings
        size = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        if size > settings.message_bytes_max:
            raise BatchTooLarge(
                f"a message of {size} bytes; the limit is {settings.message_bytes_max}: send smaller batches",
                settings.message_bytes_max,
            )
        if self.is_sending:
            raise trio.BusyResourceError("another task is sending on this call already")
        if not entry.can_send:
            raise trio.BrokenResourceError("the call is over")
        total = size + 5
        if protocol.output_bytes < settings.send_buffer_bytes and total <= protocol.room(entry):
            protocol.put_data(entry, (_MESSAGE_HEADER.pack(0, size), *buffers), total, ends=ends)
            if flushes:
                wire.flush()
        else:
            self.is_sending = True
            try:
                await self._send_in_pieces(buffers, size, ends)
            finally:
                self.is_sending = False
        self._messages_since_checkpoint += 1
        self._bytes_since_checkpoint += total
        if (
            self._messages_since_checkpoint >= settings.messages_per_checkpoint
            or self._bytes_since_checkpoint >= settings.bytes_per_checkpoint
        ):
            self._messages_since_checkpoint = self._bytes_since_checkpoint = 0
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _send_in_pieces(self, buffers: tuple[Buffer, ...], size: int, ends: bool) -> None:
        wire = self.wire
        protocol = wire.protocol
        entry = self.entry
        pieces: deque[memoryview] = deque([memoryview(_MESSAGE_HEADER.pack(0, size)), *(memoryview(b).cast("B") for b in buffers)])
        left = size + 5
        try:
            while left:
                room = protocol.room(entry)
                if room <= 0 or protocol.output_bytes >= wire.settings.send_buffer_bytes:
                    await self._wait_room()
                    if not entry.can_send:
                        raise trio.BrokenResourceError("the call is over")
                    continue
                take = min(room, left)
                left -= take
                protocol.put_data(entry, _split(pieces, take), take, ends=ends and not left)
                wire.flush()
        except BaseException:
            if left < size + 5 and entry.can_send:
                # Half a message is out; nothing sensible can follow it.
                protocol.reset_stream(entry.stream_id, ErrorCodes.CANCEL)
                wire.flush()
            raise

    async def wait_sendable(self) -> None:
        """Returns when the peer's windows and the output have room for something. Always checks for cancellation.

        (Not for a whole message: peers open their windows again as lazily as they like, and more room may never come.)

        Raises:
            trio.BrokenResourceError: the stream takes no more.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while self.entry.can_send and not self._has_room():
            await self._wait_room()
        if not self.entry.can_send:
            raise trio.BrokenResourceError("the call is over")

    def _has_room(self) -> bool:
        protocol = self.wire.protocol
        return protocol.room(self.entry) > 0 and protocol.output_bytes < self.wire.settings.send_buffer_bytes

    async def _wait_room(self) -> None:
        """Until room may have appeared."""
        self.wire.blocked[self] = None
        try:
            await self.sendable.wait()
        finally:
            del self.wire.blocked[self]

    async def wait_output_room(self) -> None:
        """Returns when the output is below its bound: what must be said without a message (a status) waits here."""
        wire = self.wire
        while wire.protocol.output_bytes >= wire.settings.send_buffer_bytes:
            await self._wait_room()

    def abandon(self) -> None:
        """Drop what is left: it will not be read."""
        self.wire.calls.pop(self.entry.stream_id, None)
        self.wire.protocol.release(self.entry)
        self.queue.clear()


def _split(pieces: deque[memoryview], size: int) -> list[Buffer]:
    """Takes `size` bytes from the front of `pieces`, without copying."""
    taken: list[Buffer] = []
    while size:
        piece = pieces.popleft()
        if len(piece) > size:
            pieces.appendleft(piece[size:])
            piece = piece[:size]
        size -= len(piece)
        taken.append(piece)
    return taken


def buffers_of(message: Any) -> tuple[Buffer, ...]:
    """The wire form of a message or of `Encoded`."""
    # Deterministic, for runs that are repeated from a seed: maps would go in the order of salted hashes.
    return message.buffers if type(message) is Encoded else (message.SerializeToString(deterministic=True),)
