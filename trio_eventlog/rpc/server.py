"""The server side: services, the handlers' context, and one connection's life.

Every call runs in a task of its own, in the nursery of its connection, under a cancel scope that carries the client's
deadline. The scope is cancelled when the client resets the stream, when its request cannot be read any further, and when the
connection is lost; what a handler raises ends its own call and nothing else.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol

import attrs
import trio
from google.protobuf.message import DecodeError

from trio_eventlog.budgets import Activity, Standing
from trio_eventlog.errors import EventLogError, InvalidArgument, Overloaded
from trio_eventlog.rpc._purerpc import ErrorCodes, MessageReceived, RequestEnded, StatusCode, WindowUpdated
from trio_eventlog.rpc.events import CallFailed, CallReceived, PingAcknowledged, StreamReset
from trio_eventlog.rpc.methods import Encoded, Metadata, Method, MethodKind, Pairs, Peer, methods_of
from trio_eventlog.rpc.protocol import RpcConnection
from trio_eventlog.rpc.settings import RpcSettings
from trio_eventlog.rpc.status import CODE_TRAILER, OK, CallStatus, RpcFailed, status_of
from trio_eventlog.rpc.useless_work import UselessWork
from trio_eventlog.rpc.wire import CallStream, RpcWire, buffers_of, close_stream

logger = logging.getLogger(__name__)

Handler = Callable[..., Awaitable[Any]]
"""By the kind of the method:

- unary: `async def handler(request, context) -> response`
- client stream: `async def handler(requests, context) -> response`
- server stream: `async def handler(request, context, send) -> None`
- bidirectional: `async def handler(requests, context, send) -> None`

`requests` is a `Requests`; `await send(message)` waits for room under HTTP/2 flow control. A response is a message or
`Encoded`. A handler ends its call with an error by raising an `EventLogError`; any other exception is logged and sent as UNKNOWN.
"""


class Send(Protocol):
    """Sends one response; waits while the peer does not read. One task at a time."""

    async def __call__(self, message: Any | Encoded) -> None: ...


class Requests:
    """The requests of a call, in order: `async for request in requests`, or `await requests.receive()`."""

    __slots__ = ("_call",)

    def __init__(self, call: "_ServerCall") -> None:
        self._call = call

    async def receive(self) -> Any:
        """The next request; None when the client is done sending. (bytes when the method was asked for raw.)"""
        data = await self._call.stream.receive()
        return None if data is None else self._call.parse(data)

    def __aiter__(self) -> "Requests":
        return self

    async def __anext__(self) -> Any:
        data = await self._call.stream.receive()
        if data is None:
            raise StopAsyncIteration
        return self._call.parse(data)


class Context:
    """What a handler knows about its call, beside the request. The handler runs under a cancel scope with `deadline`.

    Attributes:
        method: what was called.
        peer: who is at the other end.
        metadata: what the client sent along.
        deadline: by Trio's clock; inf when the client set none.
    """

    __slots__ = ("_call", "deadline", "metadata", "method", "peer")

    def __init__(self, call: "_ServerCall", method: Method, peer: Peer, metadata: Metadata, deadline: float) -> None:
        self._call = call
        self.method = method
        self.peer = peer
        self.metadata = metadata
        self.deadline = deadline

    def set_initial_metadata(self, pairs: Pairs) -> None:
        """Metadata for the response's head; it leaves with the first message."""
        self._call.initial = tuple(pairs)

    async def send_initial_metadata(self, pairs: Pairs = ()) -> None:
        """Sends the response's head now, before any message."""
        await trio.lowlevel.checkpoint()
        call = self._call
        if not call.stream.entry.is_response_started:
            call.initial += tuple(pairs)
            call.begin_response()
            call.stream.wire.flush()

    @property
    def connection(self) -> object:
        """Of the call: the same for all calls of one connection, and for no others."""
        return self._call.stream.wire

    async def wait_sendable(self) -> None:
        """Returns when at least a part of a message could be sent now: the client reads. Raises BrokenResourceError at the end."""
        await self._call.stream.wait_sendable()

    def call_finally(self, function: Callable[[], None]) -> None:
        """Have `function` called when the call is over, its answer sent or not."""
        self._call.finally_.append(function)

    def shed(self, error: Overloaded) -> None:
        """End the call from another task: its bytes are needed for other calls. Within a message, only a reset can end it."""
        call = self._call
        call.final_status = status_of(error)
        if call.stream.is_sending:
            call.is_gone = True
            call.stream.wire.protocol.reset_stream(call.stream.entry.stream_id, ErrorCodes.ENHANCE_YOUR_CALM)
            call.stream.wire.flush()
        call.scope.cancel()

    def set_trailing_metadata(self, pairs: Pairs) -> None:
        """Metadata to send with the status at the end."""
        self._call.trailing = tuple(pairs)


@attrs.frozen(slots=True)
class _BoundMethod:
    method: Method
    handler: Handler
    is_raw: bool


class Service:
    """A service: its descriptor, and a handler for each method."""

    def __init__(self, descriptor: Any, handlers: Mapping[str, Handler], *, raw: Collection[str] = (), name: str = "") -> None:
        """Binds `handlers`, by the methods' short names, to the methods of `descriptor`.

        Args:
            raw: methods whose requests are given to the handler as bytes, not parsed.
            name: by which it is called, when that is not the one of `descriptor`.

        Raises:
            ValueError: a handler or a name in `raw` is for no method. Methods without a handler answer UNIMPLEMENTED.
        """
        methods = methods_of(descriptor)
        unknown = (set(handlers) | set(raw)) - set(methods)
        if unknown:
            raise ValueError(f"{descriptor.full_name} has no method {', '.join(sorted(unknown))}")
        self.name: str = name or descriptor.full_name
        self.descriptor = descriptor
        self.methods = {name: _BoundMethod(methods[name], handler, name in raw) for name, handler in handlers.items()}


@attrs.frozen(slots=True, kw_only=True)
class ServerStatistics:
    """Counters of a server since its start, and what is open now."""

    connections_open: int
    connections_total: int
    calls_open: int
    calls_total: int
    calls_failed_total: int
    received_bytes_total: int
    sent_bytes_total: int


class _Counters:
    def __init__(self) -> None:
        self.connections = 0
        self.calls = 0
        self.calls_failed = 0
        self.received_bytes = 0
        self.sent_bytes = 0


class _ServerCall:
    """One call on the server: what the connection and the handler's task share."""

    __slots__ = ("bound", "final_status", "finally_", "initial", "is_gone", "metadata", "scope", "stream", "trailing")

    def __init__(self, stream: CallStream, bound: _BoundMethod, metadata: Metadata, deadline: float) -> None:
        self.stream = stream
        self.bound = bound
        self.metadata = metadata
        self.scope = trio.CancelScope(deadline=deadline)
        self.final_status: CallStatus | None = None
        self.finally_: list[Callable[[], None]] = []
        self.is_gone = False
        self.initial: tuple[tuple[str, str | bytes], ...] = ()
        self.trailing: tuple[tuple[str, str | bytes], ...] = ()

    def parse(self, data: bytes) -> Any:
        if self.bound.is_raw:
            return data
        try:
            return self.bound.method.request_type.FromString(data)
        except DecodeError:
            raise InvalidArgument(f"a request that is not a {self.bound.method.request_type.DESCRIPTOR.full_name}") from None

    def begin_response(self) -> None:
        entry = self.stream.entry
        if entry.can_send:
            self.stream.wire.protocol.begin_response(entry, self.initial)

    async def send(self, message: Any | Encoded) -> None:
        buffers = buffers_of(message)
        if not self.stream.entry.is_response_started:
            self.begin_response()
        await self.stream.send(buffers)

    async def send_last(self, message: Any | Encoded) -> None:
        """The status follows at once, and both leave together."""
        buffers = buffers_of(message)
        if not self.stream.entry.is_response_started:
            self.begin_response()
        await self.stream.send(buffers, flushes=False)


_NO_REQUEST = "the client ended the call without a request"


class _ServerConnection:
    """One connection: its wire, its calls, and how it ends."""

    def __init__(self, server: "Server", stream: trio.abc.Stream, peer: Peer) -> None:
        self._server = server
        self._settings = server.settings
        self.peer = peer
        self._services = server.services
        self._counters = server.counters
        self.protocol = RpcConnection(server.settings, client_side=False)
        self.wire = RpcWire(stream, self.protocol, server.settings, self._dispatch, server.useless_work)
        self.calls: dict[int, _ServerCall] = {}
        self._calls_begun = 0
        self._nursery: trio.Nursery | None = None
        self._started_at = trio.current_time()
        self._idle_since = self._started_at
        self._drained = trio.Event()

    async def run(self) -> None:
        self.protocol.initiate_connection()
        if self._server.is_draining:
            self.protocol.go_away()
        self.wire.flush()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.wire.write)
                nursery.start_soon(self._keep_house)
                nursery.start_soon(self._finish)
                reason = await self.wire.read()
                # The calls end with the connection, and at once: there is no client to answer.
                for call in self.calls.values():
                    call.is_gone = True
                    call.scope.cancel()
                if self.protocol.failure is not None:
                    logger.info("gRPC connection of %s ends: %s", self.peer.address, reason)
                    with trio.move_on_after(self._settings.goodbye_seconds):
                        await self.wire.wait_flushed()
                nursery.cancel_scope.cancel()
        finally:
            await close_stream(self.wire.stream, self._settings.goodbye_seconds)

    def activity(self) -> Activity:
        return Activity(self._calls_begun, len(self.calls), max(self.wire.last_receive_time, self._idle_since))

    def start_draining(self) -> None:
        if not self.protocol.is_draining:
            self.protocol.go_away()
            self.wire.flush()
            self._finish_if_drained()

    def cancel(self) -> None:
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def _finish_if_drained(self) -> None:
        if self.protocol.is_draining and not self.calls:
            # A task that waits from the beginning: the nursery of a connection that is just ending takes no new one.
            self._drained.set()

    async def _finish(self) -> None:
        """The last answer is out: the client has a moment to close its side, as closing first could lose what is on its way."""
        assert self._nursery is not None
        await self._drained.wait()
        with trio.move_on_after(self._settings.goodbye_seconds):
            await self.wire.wait_flushed()
            await trio.sleep_forever()
        self._nursery.cancel_scope.cancel()

    async def _keep_house(self) -> None:
        assert self._nursery is not None
        while True:
            reason = self.wire.check(self._started_at)
            if reason:
                logger.info("gRPC connection of %s ends: %s", self.peer.address, reason)
                self._nursery.cancel_scope.cancel()
                return
            next_time = self.wire.next_check_time(self._started_at)
            if self.protocol.has_settings and not self.protocol.is_draining:
                idle_until = self._idle_since + self._settings.idle_timeout_seconds
                if not self.calls and trio.current_time() >= idle_until:
                    self.start_draining()
                elif not self.calls:
                    next_time = min(next_time, idle_until)
                else:
                    next_time = min(next_time, trio.current_time() + self._settings.idle_timeout_seconds)
            await trio.sleep_until(next_time)

    def _dispatch(self, events: list[Any]) -> None:
        calls = self.calls
        started: list[_ServerCall] = []
        for event in events:
            kind = type(event)
            if kind is MessageReceived:
                call = calls.get(event.stream_id)
                if call is not None:
                    call.stream.put(event.data, event.flow_controlled_length)
            elif kind is RequestEnded:
                call = calls.get(event.stream_id)
                if call is not None:
                    call.stream.end()
            elif kind is CallReceived:
                call = self._begin_call(event)
                if call is not None:
                    started.append(call)
            elif kind is WindowUpdated:
                if event.stream_id:
                    call = calls.get(event.stream_id)
                    if call is not None:
                        call.stream.sendable.set()
                else:
                    self.wire.wake_senders()
            elif kind is StreamReset:
                call = calls.get(event.stream_id)
                if call is not None:
                    call.is_gone = True
                    call.scope.cancel()
            elif kind is CallFailed:
                call = calls.get(event.stream_id)
                if call is not None:
                    call.final_status = event.status
                    call.scope.cancel()
            else:
                assert kind is PingAcknowledged or event is not None
        # Only now: what came in the same bytes as the headers is there when the handler starts.
        for call in started:
            assert self._nursery is not None
            if call.is_gone:
                # Reset in the bytes that began it: no task is needed to find that out.
                del calls[call.stream.entry.stream_id]
                call.stream.abandon()
                self._finish_if_drained()
            else:
                self._nursery.start_soon(self._run_call, call)

    def _begin_call(self, event: CallReceived) -> _ServerCall | None:
        head = event.head
        service = self._services.get(head.service)
        bound = None if service is None else service.methods.get(head.method)
        if bound is None:
            what = f"{head.service} has no method {head.method}" if service is not None else f"there is no service {head.service}"
            status = CallStatus(code=StatusCode.UNIMPLEMENTED, message=what, details={CODE_TRAILER: "INVALID_ARGUMENT"})
            self.protocol.refuse_call(event.entry, status)
            self._counters.calls_failed += 1
            return None
        if len(self.calls) >= self._settings.streams_per_connection_max:
            # Calls that were reset count until their handlers have ended, or resets in quick succession would pile up tasks.
            self.protocol.refuse_call(event.entry, None)
            return None
        deadline = trio.current_time() + head.timeout_seconds
        call = _ServerCall(CallStream(self.wire, event.entry), bound, head.metadata, deadline)
        self.calls[event.stream_id] = call
        self._calls_begun += 1
        self._counters.calls += 1
        return call

    async def _run_call(self, call: _ServerCall) -> None:
        stream = call.stream
        status = OK
        try:
            try:
                with call.scope:
                    status = await self._handle(call)
            except Exception as error:
                # Some tasks of the handler were cancelled while another failed: what is left when the cancellation is taken out.
                status = self._status_of(error, call)
            if call.scope.cancelled_caught:
                status = call.final_status or self._cancelled_status(call)
            if not status.is_ok:
                await stream.wait_output_room()  # Errors without end to a client that does not read must not pile up.
            if not call.is_gone:
                self._finish_call(call, status)
        finally:
            del self.calls[stream.entry.stream_id]
            for function in call.finally_:
                function()
            stream.abandon()
            self._idle_since = trio.current_time()
            if self.calls:
                self.wire.flush()
            else:
                self.wire.flush_now()
            self._finish_if_drained()

    def _cancelled_status(self, call: _ServerCall) -> CallStatus:
        if trio.current_time() >= call.scope.deadline:
            return CallStatus(code=StatusCode.DEADLINE_EXCEEDED, message="the deadline of the call has passed")
        return CallStatus(code=StatusCode.CANCELLED, message="the call was cancelled")

    def _finish_call(self, call: _ServerCall, status: CallStatus) -> None:
        entry = call.stream.entry
        if not status.is_ok:
            self._counters.calls_failed += 1
        try:
            self.protocol.finish_response(entry, status, call.trailing, call.initial)
        except ValueError:
            # Metadata that gRPC cannot carry is the handler's mistake; the client still needs an end.
            logger.exception("%s: its metadata cannot be sent", call.bound.method.path)
            self.protocol.finish_response(entry, _INTERNAL)

    async def _handle(self, call: _ServerCall) -> CallStatus:
        bound = call.bound
        method = bound.method
        stream = call.stream
        context = Context(call, method, self.peer, call.metadata, call.scope.deadline)
        kind = method.kind
        try:
            if kind is MethodKind.UNARY or kind is MethodKind.SERVER_STREAM:
                data = await stream.receive()
                if data is None:
                    raise InvalidArgument(_NO_REQUEST)
                request = call.parse(data)
            else:
                request = Requests(call)
            if kind is MethodKind.UNARY or kind is MethodKind.CLIENT_STREAM:
                await call.send_last(await bound.handler(request, context))
            else:
                await bound.handler(request, context, call.send)
        except Exception as error:
            return self._status_of(error, call)
        return OK

    def _status_of(self, error: Exception, call: _ServerCall) -> CallStatus:
        while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            # A handler with a nursery: its only error is what it means to say.
            error = error.exceptions[0]
        if isinstance(error, EventLogError):
            if error.code == "INTERNAL" and not isinstance(error, RpcFailed):
                logger.error("%s failed", call.bound.method.path, exc_info=error)
            return status_of(error)
        if isinstance(error, trio.BrokenResourceError) and not call.stream.entry.can_send:
            return _GONE  # It noticed before it was cancelled; the result is not used.
        logger.error("%s failed", call.bound.method.path, exc_info=error)
        return _INTERNAL


_INTERNAL = CallStatus(
    code=StatusCode.UNKNOWN, message="the call failed inside the node; its log says why", details={CODE_TRAILER: "INTERNAL"}
)
_GONE = CallStatus(code=StatusCode.CANCELLED)


class Server:
    """Serves `services` on any number of connections."""

    def __init__(self, services: Collection[Service], settings: RpcSettings) -> None:
        self.settings = settings
        self.services = {service.name: service for service in services}
        self.is_draining = False
        self.counters = _Counters()
        self.useless_work = UselessWork(self.settings)
        self._connections: dict[_ServerConnection, None] = {}
        self._all_ended = trio.Event()

    async def serve(self, stream: trio.abc.Stream, peer: Peer | None = None, standing: Standing | None = None) -> None:
        """Serve gRPC on an accepted stream until the connection ends, and close it. Run one task per connection.

        Nothing that a client or a handler does makes this raise: a crash of one connection ends that connection only.

        Args:
            standing: gets the functions by which others find out what the connection does.
        """
        connection = _ServerConnection(self, stream, peer or Peer())
        if standing is not None:
            standing.look = connection.activity
        self._connections[connection] = None
        self.counters.connections += 1
        try:
            await connection.run()
        except Exception:
            # A mistake of ours, as the handlers' are dealt with where they are called. The node and the others go on.
            logger.exception("gRPC connection of %s crashed", connection.peer.address)
        finally:
            # Without a checkpoint between these lines, so no byte is counted twice or not at all.
            del self._connections[connection]
            self.counters.received_bytes += connection.wire.received_bytes
            self.counters.sent_bytes += connection.wire.sent_bytes
            if not self._connections:
                self._all_ended.set()

    def start_draining(self) -> None:
        """GOAWAY to every client: calls that run may finish, new ones are refused, connections end when they are idle."""
        self.is_draining = True
        for connection in list(self._connections):
            connection.start_draining()

    async def drain(self, deadline: float = math.inf) -> None:
        """`start_draining`, then waits until all connections have ended; at `deadline` (Trio's clock) cancels what still runs.

        The clients whose calls are done have `goodbye_seconds` to close their side.
        """
        self.start_draining()
        with trio.move_on_at(deadline):
            await self._wait_ended()
        for connection in list(self._connections):
            connection.cancel()
        await self._wait_ended()

    async def _wait_ended(self) -> None:
        while self._connections:
            self._all_ended = trio.Event()
            await self._all_ended.wait()

    def statistics(self) -> ServerStatistics:
        """What the server has done, as of now."""
        counters = self.counters
        wires = [connection.wire for connection in self._connections]
        return ServerStatistics(
            connections_open=len(self._connections),
            connections_total=counters.connections,
            calls_open=sum(len(connection.calls) for connection in self._connections),
            calls_total=counters.calls,
            calls_failed_total=counters.calls_failed,
            received_bytes_total=counters.received_bytes + sum(wire.received_bytes for wire in wires),
            sent_bytes_total=counters.sent_bytes + sum(wire.sent_bytes for wire in wires),
        )


async def serve_connection(
    stream: trio.abc.Stream, services: Collection[Service], settings: RpcSettings, peer: Peer | None = None
) -> None:
    """One connection without a `Server` to drain it by."""
    await Server(services, settings).serve(stream, peer)
