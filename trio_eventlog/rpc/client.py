"""The client side: a channel is one HTTP/2 connection over a stream that a dialer has opened.

A channel never reconnects: who holds it knows better where to go next. When it breaks, every open call raises `Unavailable` at
once.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from google.protobuf.message import DecodeError

from trio_eventlog.errors import CallUnsent, EventLogError, Overloaded, Unavailable
from trio_eventlog.rpc._purerpc import (
    ErrorCodes,
    H2Error,
    MessageReceived,
    ResponseEnded,
    ResponseReceived,
    StatusCode,
    WindowUpdated,
)
from trio_eventlog.rpc.events import CallFailed, GoAwayReceived, StreamReset
from trio_eventlog.rpc.methods import Encoded, Metadata, Method, Pairs
from trio_eventlog.rpc.protocol import RpcConnection
from trio_eventlog.rpc.settings import RpcSettings
from trio_eventlog.rpc.status import RpcFailed, error_of
from trio_eventlog.rpc.wire import CallStream, RpcWire, buffers_of, close_stream


class Call:
    """An open call. One task may send while another receives.

    Attributes:
        method: what was called.
        trailing_metadata: complete once `receive` has returned None or raised.
    """

    def __init__(self, stream: CallStream, method: Method, deadline: float, is_raw: bool) -> None:
        self.method = method
        self.trailing_metadata = Metadata()
        self._stream = stream
        self._deadline = deadline
        self._is_raw = is_raw
        self._initial_metadata = Metadata()
        self._has_head = trio.Event()
        self._error: EventLogError | None = None
        self._is_done_sending = False

    async def send(self, message: Any | Encoded, *, is_last: bool = False) -> None:
        """Sends one request; waits while the server does not read. With `is_last`, the same as `done_sending` after it.

        Raises:
            EventLogError: how the call has ended, when it has ended with an error.
            BatchTooLarge: the message is over the limit; nothing was sent.
            trio.BrokenResourceError: the server has ended the call with OK already.
            trio.ClosedResourceError: after `done_sending`.
        """
        await self._send(message, is_last, flushes=True)

    async def _send(self, message: Any | Encoded, is_last: bool, flushes: bool) -> None:
        if self._is_done_sending:
            raise trio.ClosedResourceError("no requests after done_sending")
        try:
            await self._stream.send(buffers_of(message), ends=is_last, flushes=flushes)
        except trio.BrokenResourceError:
            if self._error is not None:
                raise await self._final_error(self._error) from None
            raise
        self._is_done_sending = is_last

    async def done_sending(self) -> None:
        """No further requests."""
        await trio.lowlevel.checkpoint()
        if not self._is_done_sending:
            self._is_done_sending = True
            self._stream.wire.protocol.end_call(self._stream.entry)
            self._stream.wire.flush()

    async def receive(self) -> Any:
        """The next response (bytes when asked for raw); None when the server ended the call with OK.

        Raises:
            EventLogError: the class and attributes that the server raised; `Unavailable` when the connection broke.
        """
        data = await self._stream.receive()
        if data is None:
            if self._error is not None:
                raise await self._final_error(self._error)
            return None
        if self._is_raw:
            return data
        try:
            return self.method.response_type.FromString(data)
        except DecodeError:
            raise RpcFailed("the server's answer is not what the method returns", StatusCode.INTERNAL) from None

    def __aiter__(self) -> "Call":
        return self

    async def __anext__(self) -> Any:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def initial_metadata(self) -> Metadata:
        """Waits for the response's head. Empty when the call ended without one."""
        await self._has_head.wait()
        return self._initial_metadata

    async def _final_error(self, error: EventLogError) -> EventLogError:
        if isinstance(error, RpcFailed) and error.status is StatusCode.DEADLINE_EXCEEDED and self._deadline != math.inf:
            # The server's clock was a moment ahead. The deadline is the caller's own, and ends its scope in its own way.
            await trio.sleep_until(self._deadline)
        return error

    def _begin(self, metadata: Metadata) -> None:
        self._initial_metadata = metadata
        self._has_head.set()

    def _end(self, error: EventLogError | None, metadata: Metadata = Metadata()) -> None:  # noqa: B008
        if self._stream.is_ended:
            return
        self._error = error
        self.trailing_metadata = metadata
        self._has_head.set()
        self._stream.end()


_RESET_STATUS = {
    ErrorCodes.CANCEL: StatusCode.CANCELLED,
    ErrorCodes.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}


def _reset_error(event: StreamReset) -> EventLogError:
    """gRPC over HTTP/2, "Errors": what a reset without a status means."""
    if event.error_code == ErrorCodes.REFUSED_STREAM:
        return CallUnsent("the server refused the call before looking at it; go to another one or try again")
    if event.error_code == ErrorCodes.ENHANCE_YOUR_CALM:
        return Overloaded("the server wants fewer calls; try again later")
    status = StatusCode.INTERNAL
    if event.is_remote:
        for code, meaning in _RESET_STATUS.items():
            if event.error_code == code:
                status = meaning
    return RpcFailed(f"the stream was reset with HTTP/2 error code {event.error_code}", status)


class Channel:
    """Calls over one connection. When it breaks, every open call raises `Unavailable` at once, and so does every later one."""

    def __init__(self, stream: trio.abc.Stream, settings: RpcSettings, authority: str, is_secure: bool) -> None:
        self._settings = settings
        self._authority = authority
        self._scheme = "https" if is_secure else "http"
        self._protocol = RpcConnection(settings, client_side=True)
        self._wire = RpcWire(stream, self._protocol, settings, self._dispatch)
        self._calls: dict[int, Call] = {}
        self._lost = ""
        self._slots = trio.lowlevel.ParkingLot()
        self._busy_since = math.inf
        self._became_busy = trio.Event()
        self._unusable = trio.Event()
        self._ready = trio.Event()
        self._is_ready = False
        self._started_at = trio.current_time()

    @property
    def is_usable(self) -> bool:
        """False once the connection is lost or the server has said GOAWAY: open a new channel."""
        return not self._lost and not self._protocol.is_draining

    @property
    def calls_open(self) -> int:
        """How many calls are open."""
        return len(self._calls)

    @property
    def calls_max(self) -> int:
        """How many calls the server allows to be open at once. A guess before `wait_ready` has returned."""
        return self._protocol.peer_calls_max

    async def wait_ready(self) -> None:
        """Wait for the server's HTTP/2 settings. Raises CallUnsent when the connection is lost before."""
        await self._ready.wait()
        self._check_usable()

    async def wait_unusable(self) -> None:
        """Returns when `is_usable` becomes False."""
        await self._unusable.wait()

    async def unary(self, method: Method, request: Any | Encoded, *, metadata: Pairs = (), raw: bool = False) -> Any:
        """Calls `method` and returns its one response: a message, or its bytes when `raw`.

        The deadline is the caller's (`trio.fail_after`): it travels as `grpc-timeout`. When the caller is cancelled, so is the
        call on the server.

        Raises:
            EventLogError: the class and attributes that the server raised; `Unavailable` when the connection broke.
            BatchTooLarge: the request is over the limit; nothing was sent.
        """
        call = await self._start(method, metadata, raw)
        try:
            try:
                await call._send(request, is_last=True, flushes=False)
            except trio.BrokenResourceError:
                pass  # Answered before all of it was sent: the answer says why.
            self._flush_last()
            response = await call.receive()
            if response is None:
                raise RpcFailed("the server ended the call without an answer", StatusCode.INTERNAL)
            await call.receive()
            return response
        finally:
            self._close(call)

    @asynccontextmanager
    async def stream(
        self, method: Method, request: Any | Encoded | None = None, *, metadata: Pairs = (), raw: bool = False
    ) -> AsyncIterator[Call]:
        """`async with channel.stream(method) as call`: a call of any kind. Leaving the block before its end cancels the call.

        Args:
            request: the only request, for a method that takes one: `send` and `done_sending` at once.
            raw: responses are given as bytes, not parsed.
        """
        call = await self._start(method, metadata, raw)
        try:
            if request is not None:
                try:
                    await call._send(request, is_last=True, flushes=False)
                except trio.BrokenResourceError:
                    pass  # Answered before all of it was sent: `receive` says how.
                self._flush_last()
            else:
                self._wire.flush()
            yield call
        finally:
            self._close(call)

    def _flush_last(self) -> None:
        if len(self._calls) == 1:
            self._wire.flush_now()
        else:
            self._wire.flush()

    async def _start(self, method: Method, metadata: Pairs, is_raw: bool) -> Call:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_usable()
        if len(self._calls) >= self.calls_max:
            await self._wait_for_slot()
        deadline = trio.current_effective_deadline()
        timeout_seconds = deadline - trio.current_time()
        try:
            entry = self._protocol.start_call(method.path, self._authority, self._scheme, timeout_seconds, metadata)
        except H2Error:
            # All of the connection's 2^30 streams are used up.
            self._make_unusable()
            raise CallUnsent("the connection has served its calls; open a new one") from None
        call = Call(CallStream(self._wire, entry), method, deadline, is_raw)
        if not self._calls:
            self._busy_since = trio.current_time()
            self._became_busy.set()
        self._calls[entry.stream_id] = call
        return call

    async def _wait_for_slot(self) -> None:
        with trio.move_on_after(self._settings.call_slot_seconds):
            while len(self._calls) >= self.calls_max:
                await self._slots.park()
                self._check_usable()
            return
        raise Overloaded(
            f"the server allows {self.calls_max} calls at once on a connection, and none of them has ended for"
            f" {self._settings.call_slot_seconds:g} s; the call was not sent"
        )

    def _check_usable(self) -> None:
        if self._lost:
            raise CallUnsent(self._lost)
        if self._protocol.is_draining:
            raise CallUnsent("the server is stopping; go to another one")

    def _close(self, call: Call) -> None:
        stream_id = call._stream.entry.stream_id
        del self._calls[stream_id]
        if not self._calls:
            self._busy_since = math.inf
        self._protocol.reset_stream(stream_id, ErrorCodes.CANCEL)
        call._stream.abandon()
        self._wire.flush()
        if self._slots:
            self._slots.unpark()

    def _dispatch(self, events: list[Any]) -> None:
        if not self._is_ready and self._protocol.has_settings:
            self._is_ready = True
            self._ready.set()
        for event in events:
            kind = type(event)
            if kind is WindowUpdated and not event.stream_id:
                self._wire.wake_senders()
                # New settings come this way as well.
                self._slots.unpark_all()
                continue
            if kind is GoAwayReceived:
                self._receive_go_away(event)
                continue
            call = self._calls.get(getattr(event, "stream_id", 0))
            if call is None:
                continue
            if kind is MessageReceived:
                call._stream.put(event.data, event.flow_controlled_length)
            elif kind is ResponseEnded:
                status = event.status
                metadata = Metadata(event.custom_metadata)
                is_ok = status.int_value == 0
                call._end(None if is_ok else error_of(status.int_value, status.status_message, metadata), metadata)
                if call._stream in self._wire.blocked:
                    # Its sender waits for window that a server has no reason to give any more.
                    self._protocol.reset_stream(event.stream_id, ErrorCodes.CANCEL)
            elif kind is ResponseReceived:
                call._begin(event.custom_metadata)
            elif kind is WindowUpdated:
                call._stream.sendable.set()
            elif kind is StreamReset:
                call._end(_reset_error(event))
            elif kind is CallFailed:
                details = tuple(event.status.details.items())
                call._end(error_of(event.status.code.value, event.status.message, details))
                self._protocol.reset_stream(event.stream_id, ErrorCodes.CANCEL)

    def _receive_go_away(self, event: GoAwayReceived) -> None:
        for stream_id, call in self._calls.items():
            if stream_id > event.last_stream_id:
                # A sender that waits for window is woken as well, and finds the call ended.
                self._protocol.close_stream(call._stream.entry)
                call._end(CallUnsent("the server stopped before it looked at the call; go to another one"))
        self._make_unusable()

    def _make_unusable(self) -> None:
        self._unusable.set()
        self._ready.set()
        self._slots.unpark_all()

    def _lose(self, reason: str) -> None:
        """The connection is gone, and every call with it."""
        if self._lost:
            return
        self._lost = reason
        for call in self._calls.values():
            self._protocol.close_stream(call._stream.entry)
            call._end(Unavailable(reason))
        self._make_unusable()

    async def _read(self) -> None:
        reason = await self._wire.read()
        self._lose(reason)
        if self._protocol.failure is not None:
            with trio.move_on_after(self._settings.goodbye_seconds):
                await self._wire.wait_flushed()
        await trio.aclose_forcefully(self._wire.stream)

    async def _keep_house(self) -> None:
        while not self._lost:
            reason = self._wire.check(self._started_at, self._busy_since)
            if reason:
                self._lose(reason)
                await trio.aclose_forcefully(self._wire.stream)
                return
            self._became_busy = trio.Event()
            with trio.move_on_at(self._wire.next_check_time(self._started_at, self._busy_since)):
                if self._busy_since == math.inf and self._settings.call_silence_seconds != math.inf:
                    await self._became_busy.wait()
                else:
                    await trio.sleep_forever()

    async def _say_goodbye(self) -> None:
        if not self._lost:
            self._lose("the channel was closed")
            self._protocol.go_away()
            self._wire.flush()
            with trio.move_on_after(self._settings.goodbye_seconds):
                await self._wire.wait_flushed()


@asynccontextmanager
async def open_channel(
    stream: trio.abc.Stream, settings: RpcSettings, *, authority: str = "localhost", is_secure: bool = False
) -> AsyncIterator[Channel]:
    """Speaks HTTP/2 as a client on `stream`; closes it at the end, and cancels the calls that are open then.

    Does not wait for the server: a server without HTTP/2 makes the first call fail.

    Args:
        authority: `host:port` as the server should see it.
        is_secure: the stream is TLS (only the `:scheme` depends on it).
    """
    channel = Channel(stream, settings, authority, is_secure)
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            channel._protocol.initiate_connection()
            channel._wire.flush()
            nursery.start_soon(channel._wire.write)
            nursery.start_soon(channel._read)
            nursery.start_soon(channel._keep_house)
            try:
                yield channel
                await channel._say_goodbye()
            except BaseException as raised:
                # Kept to be raised outside of the nursery, which would wrap it in a group: the loops in here are ours, and the
                # caller need not know of them.
                error = raised
            nursery.cancel_scope.cancel()
    finally:
        channel._lose("the channel was closed")
        try:
            await close_stream(stream, channel._settings.goodbye_seconds)
        finally:
            if error is not None:
                raise error
