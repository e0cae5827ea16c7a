"""gRPC over HTTP/2 as values: bytes in, events out; requests and messages in, bytes out. No I/O, no clock, no tasks.

`RpcConnection` is purerpc's `GRPCConnection` over h2's `H2Connection`, with the parts replaced from outside that are fragile or
on the hot path:

* what stays theirs: the connection's and the streams' state machines, settings, the windows' arithmetic, PING, PRIORITY and
  GOAWAY frames, the events' classes, the status codes;
* what is ours: the frame loop (DATA is taken in pieces as it arrives and never waits for a whole frame; nothing is copied
  twice), header blocks (`headers.py`), assembling of messages with bounded inflation, flow control of partial messages,
  budgets, GOAWAY that drains, and the rule that an error of one stream stays on that stream.

Two rules keep the rest simple. An error of the *connection* sets `failure` (a GOAWAY is in the output then) and ends the
events; an error of a *stream* is an event or a refusal and leaves everything else alone. And a stream is in `entries` exactly
while the peer may still send something on it that matters: what comes for another stream that was open once is dropped.
"""

import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from trio_eventlog.errors import Overloaded
from trio_eventlog.rpc._purerpc import (
    AllowedStreamIDs,
    ConnectionInputs,
    ConnectionState,
    ErrorCodes,
    FlowControlError,
    Frame,
    GRPCConfiguration,
    GRPCConnection,
    H2Configuration,
    H2Connection,
    H2ConnectionStateMachine,
    H2Error,
    H2Stream,
    HPACKError,
    HyperframeError,
    MessageReceived,
    RequestEnded,
    RequestReceived,
    ResponseEnded,
    ResponseReceived,
    SettingCodes,
    Settings,
    Status,
    StatusCode,
    StreamInputs,
    StreamState,
    WindowUpdated,
)
from trio_eventlog.rpc.headers import (
    ACCEPT_ENCODING,
    HeaderDecoder,
    HeaderListTooLarge,
    RequestHead,
    ResponseHead,
    encode_headers,
    encode_metadata,
    encode_timeout,
    parse_request,
    parse_response,
)
from trio_eventlog.rpc.methods import Metadata, Pairs
from trio_eventlog.rpc.settings import RpcSettings
from trio_eventlog.rpc.status import CODE_TRAILER, CallStatus, decode_message, encode_message, status_of

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY_FLAG = 0x01, 0x04, 0x08, 0x20
_FRAME_HEADER = struct.Struct(">HBBBL")
_MESSAGE_HEADER = struct.Struct(">BL")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_KNOWN_SETTINGS = frozenset(range(1, 7))
_CACHED_BLOCK_BYTES_MAX = 1024
_CACHED_BLOCKS_MAX = 256

Buffer = bytes | bytearray | memoryview


class CallReceived(RequestReceived):  # type: ignore[misc]
    """purerpc's event of a new request, with its head as we read it."""

    def __init__(self, stream_id: int, head: RequestHead, entry: "StreamEntry") -> None:
        super().__init__(stream_id, head.scheme, head.service, head.method, head.content_type)
        self.head = head
        self.entry = entry


@attrs.define(slots=True)
class CallFailed:
    """The peer's side of a call cannot be read any further, for a reason that is the call's own."""

    stream_id: int
    status: CallStatus


@attrs.define(slots=True)
class StreamReset:
    """The peer reset the stream, or broke HTTP/2 on it so that we did (`is_remote` False)."""

    stream_id: int
    error_code: int
    is_remote: bool


@attrs.define(slots=True)
class GoAwayReceived:
    """The server takes no further calls; those above `last_stream_id` were not looked at."""

    last_stream_id: int
    error_code: int
    message: bytes


@attrs.define(slots=True)
class PingAcknowledged:
    """Our PING came back."""

    payload: bytes


class ConnectionFailure(Exception):
    """The peer broke a rule of the connection itself."""

    def __init__(self, code: ErrorCodes, message: str) -> None:
        super().__init__(message)
        self.code = code


class _StreamError(Exception):
    def __init__(self, code: ErrorCodes) -> None:
        self.code = code


class StreamEntry:
    """One stream that is open: h2's view of it, the message being assembled, and what flow control is owed.

    Attributes:
        unread: messages given out as events and not acknowledged yet.
        uncredited_bytes: received and not given back to the peer's window; bounded by the stream's window.
        overdraft_bytes: given back before they were read, of the message that is coming or, once complete, waits as the first.
    """

    __slots__ = (
        "compressed",
        "encoding",
        "h2",
        "have",
        "is_discarding",
        "is_response_started",
        "need",
        "overdraft_bytes",
        "partial_bytes",
        "pieces",
        "prefix",
        "stream_id",
        "uncredited_bytes",
        "unread",
    )

    def __init__(self, stream_id: int, h2_stream: H2Stream) -> None:
        self.stream_id = stream_id
        self.h2 = h2_stream
        self.encoding: str | None = "identity"
        self.prefix = b""
        self.need = -1
        self.have = 0
        self.compressed = 0
        self.pieces: list[Buffer] = []
        self.partial_bytes = 0
        self.overdraft_bytes = 0
        self.unread = 0
        self.uncredited_bytes = 0
        self.is_discarding = False
        self.is_response_started = False

    @property
    def can_receive(self) -> bool:
        state = self.h2.state_machine.state
        return state is StreamState.OPEN or state is StreamState.HALF_CLOSED_LOCAL

    @property
    def can_send(self) -> bool:
        state = self.h2.state_machine.state
        return state is StreamState.OPEN or state is StreamState.HALF_CLOSED_REMOTE


class _StateMachine(H2ConnectionStateMachine):  # type: ignore[misc]
    """h2's closes the connection at a GOAWAY, sent or received, which would abort the calls that may still finish."""

    def process_input(self, input_: ConnectionInputs) -> Any:
        if input_ is ConnectionInputs.SEND_GOAWAY or input_ is ConnectionInputs.RECV_GOAWAY:
            return []
        return super().process_input(input_)


class _Http2(H2Connection):  # type: ignore[misc]
    """h2's connection with its output as a list of buffers, so that payload is joined once, by the writer."""

    def __init__(self, config: H2Configuration) -> None:
        super().__init__(config)
        self.state_machine = _StateMachine()
        self.output: list[Buffer] = []
        self.output_bytes = 0

    def _prepare_for_sending(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            self.put(frame.serialize())

    def put(self, data: Buffer) -> None:
        self.output.append(data)
        self.output_bytes += len(data)

    def clear_outbound_data_buffer(self) -> None:
        """h2 throws its output away at a GOAWAY; the calls that may still finish need it."""


_RESPONSE_HEADERS = [
    (b":status", b"200"),
    (b"content-type", b"application/grpc+proto"),
    (b"grpc-accept-encoding", ACCEPT_ENCODING),
]
_RESPONSE_BLOCK = encode_headers(_RESPONSE_HEADERS)
_OK_BLOCK = encode_headers([(b"grpc-status", b"0")])


def _status_headers(status: CallStatus, metadata: Pairs) -> list[tuple[bytes, bytes]]:
    headers = [(b"grpc-status", b"%d" % status.code.value)]
    if status.message:
        headers.append((b"grpc-message", encode_message(status.message).encode("ascii")))
    headers += [(name.encode("ascii"), encode_message(value).encode("ascii")) for name, value in status.details.items()]
    headers += encode_metadata(metadata)
    return headers


AnswerGet = Callable[[str], int | None]
"""The HTTP status that a GET of a path is answered with, without a body; None: it is refused as no gRPC call."""


class RpcConnection(GRPCConnection):  # type: ignore[misc]
    """One connection's protocol, either side.

    Attributes:
        entries: the open streams.
        failure: set when the connection must end: the peer broke a rule of the connection. The output holds a GOAWAY.
        is_draining: a GOAWAY was sent (server) or received (client): no new calls.
        has_settings: the peer's SETTINGS have arrived.
        has_pending: `receive_data(b"")` has more to read from what was given before.
        frames_per_pass: how many frames `receive_data` looks at.
        useless_frames: control frames since the beginning: work without progress.
    """

    def __init__(self, settings: RpcSettings, *, client_side: bool, answer_get: AnswerGet | None = None) -> None:
        self._settings = settings
        self._client_side = client_side
        self._answer_get = answer_get
        # The constructor calls back into _set_h2_connection_local_settings.
        super().__init__(GRPCConfiguration(client_side=client_side, max_message_length=settings.message_bytes_max))
        self.entries: dict[int, StreamEntry] = {}
        self.failure: ConnectionFailure | None = None
        self.is_draining = False
        self.has_settings = False
        self.has_pending = False
        self.frames_per_pass = settings.frames_per_pass
        self.useless_frames = 0
        self._decoder = HeaderDecoder(list_bytes_max=max(4 * settings.header_bytes_max, 2 * settings.header_block_bytes_max))
        self._heads: dict[bytes, Any] = {}
        self._heads_version = 0
        self._pending: Buffer = b""
        self._preface_left = 0 if client_side else len(_PREFACE)
        self._data_left = 0
        self._padding_left = 0
        self._data_entry: StreamEntry | None = None
        self._data_ends = False
        self._block: bytearray | None = None
        self._block_stream_id = 0
        self._block_ends = False
        self._control_frames = 0
        self._control_bytes = 0
        self._overdraft_bytes = 0

    def _set_h2_connection_local_settings(self) -> None:
        settings = self._settings
        self.h2_connection = _Http2(H2Configuration(client_side=self._client_side, header_encoding=None))
        self.h2_connection.local_settings = Settings(
            client=self._client_side,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: settings.concurrent_calls_max,
                SettingCodes.INITIAL_WINDOW_SIZE: settings.stream_window_bytes,
                SettingCodes.MAX_FRAME_SIZE: settings.frame_bytes_max,
                SettingCodes.MAX_HEADER_LIST_SIZE: settings.header_bytes_max,
            },
        )

    # Output.

    @property
    def output_bytes(self) -> int:
        """What waits to be written."""
        return self.h2_connection.output_bytes

    def take_output(self) -> list[Buffer]:
        """Everything to write, in order; it counts as written from here on."""
        h2 = self.h2_connection
        output: list[Buffer] = h2.output
        h2.output = []
        h2.output_bytes = 0
        self._control_bytes = 0
        return output

    def give_back_output(self, data: Buffer) -> None:
        """What was taken and could not be written goes first again."""
        h2 = self.h2_connection
        h2.output.insert(0, data)
        h2.output_bytes += len(data)

    def data_to_send(self, amount: int | None = None) -> bytes:
        """purerpc's name for `take_output`, joined."""
        return b"".join(self.take_output())

    def initiate_connection(self) -> None:
        """Queues the preface (client), SETTINGS, and the connection's window."""
        h2 = self.h2_connection
        h2.initiate_connection()
        h2.put(bytes(h2._data_to_send))
        h2._data_to_send = bytearray()
        extra = self._settings.connection_window_bytes - 65535
        if extra > 0:
            h2.increment_flow_control_window(extra)

    def _put_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        length = len(payload)
        self.h2_connection.put(_FRAME_HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id) + payload)

    def _put_control(self, kind: int, stream_id: int, payload: bytes) -> None:
        """A frame that answers one of the peer's: bounded, as a peer that does not read could make us queue them for ever."""
        self._put_frame(kind, 0, stream_id, payload)
        self._count_control_bytes(9 + len(payload))

    def _count_control_bytes(self, count: int) -> None:
        self._control_bytes += count
        if self._control_bytes > self._settings.control_bytes_max:
            raise ConnectionFailure(ErrorCodes.ENHANCE_YOUR_CALM, "answers to control frames pile up unread")

    def _count_control(self) -> None:
        self.useless_frames += 1
        self._control_frames += 1
        if self._control_frames > self._settings.control_frames_max:
            raise ConnectionFailure(ErrorCodes.ENHANCE_YOUR_CALM, "too many control frames")

    def renew_budget(self) -> None:
        """A new period of `control_seconds` begins."""
        self._control_frames = 0

    def ping(self, payload: bytes) -> None:
        """Queues a PING with 8 bytes; `PingAcknowledged` tells of its return."""
        self.h2_connection.ping(payload)

    def go_away(self, code: ErrorCodes = ErrorCodes.NO_ERROR, message: bytes = b"") -> None:
        """Queues a GOAWAY: calls up to the highest stream seen may finish, later ones are refused."""
        self.is_draining = True
        self.h2_connection.close_connection(error_code=code, additional_data=message)

    def _put_block(self, entry: StreamEntry, block: bytes, *, ends: bool) -> None:
        h2 = self.h2_connection
        machine = entry.h2.state_machine
        machine.process_input(StreamInputs.SEND_HEADERS)
        if ends:
            machine.process_input(StreamInputs.SEND_END_STREAM)
        if h2.encoder.header_table.resized:
            # The peer changed our table's size, and wants to be told so at the head of the next block (RFC 7541, 4.2).
            block = h2.encoder.encode([]) + block
        size_max: int = h2.max_outbound_frame_size
        flags = _END_STREAM if ends else 0
        if len(block) <= size_max:
            self._put_frame(HEADERS, flags | _END_HEADERS, entry.stream_id, block)
            return
        self._put_frame(HEADERS, flags, entry.stream_id, block[:size_max])
        for start in range(size_max, len(block), size_max):
            is_last = start + size_max >= len(block)
            self._put_frame(CONTINUATION, _END_HEADERS if is_last else 0, entry.stream_id, block[start : start + size_max])

    def room(self, entry: StreamEntry) -> int:
        """How many bytes of DATA may go out now in one frame."""
        h2 = self.h2_connection
        return min(  # type: ignore[no-any-return]
            h2.outbound_flow_control_window,
            entry.h2.outbound_flow_control_window,
            h2.max_outbound_frame_size,
            self._settings.frame_bytes_max,
        )

    def put_data(self, entry: StreamEntry, buffers: Iterable[Buffer], size: int, *, ends: bool = False) -> None:
        """Queues one DATA frame of `size` bytes in all; `size <= room(entry)`."""
        h2 = self.h2_connection
        entry.h2.outbound_flow_control_window -= size
        h2.outbound_flow_control_window -= size
        output = h2.output
        output.append(_FRAME_HEADER.pack(size >> 8, size & 0xFF, DATA, _END_STREAM if ends else 0, entry.stream_id))
        output.extend(buffers)
        h2.output_bytes += 9 + size
        if ends:
            self._end_sending(entry)

    def _end_sending(self, entry: StreamEntry) -> None:
        machine = entry.h2.state_machine
        machine.process_input(StreamInputs.SEND_END_STREAM)
        if machine.state is StreamState.CLOSED:
            self._forget(entry)

    def _forget(self, entry: StreamEntry) -> None:
        """Both sides are done: the stream's entry goes, and what was not read of it no longer holds the window."""
        self.entries.pop(entry.stream_id, None)
        self.h2_connection.streams.pop(entry.stream_id, None)
        entry.pieces.clear()

    def release(self, entry: StreamEntry) -> None:
        """Nobody will read the rest of what this stream received."""
        entry.is_discarding = True
        entry.pieces.clear()
        self._repay(entry)
        if entry.uncredited_bytes:
            self._credit(entry, entry.uncredited_bytes)

    def reset_stream(self, stream_id: int, error_code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Ends a stream at once, if it is open."""
        entry = self.entries.get(stream_id)
        if entry is None:
            return
        machine = entry.h2.state_machine
        if machine.state is not StreamState.CLOSED:
            machine.process_input(StreamInputs.SEND_RST_STREAM)
            self._put_frame(RST_STREAM, 0, stream_id, error_code.to_bytes(4, "big"))
        self._forget(entry)
        self.release(entry)

    def close_stream(self, entry: StreamEntry) -> None:
        """The connection is gone: the stream takes and gives nothing any more."""
        entry.h2.state_machine.state = StreamState.CLOSED
        self._forget(entry)

    # Output of a client.

    def start_call(self, path: str, authority: str, scheme: str, timeout_seconds: float, metadata: Pairs) -> StreamEntry:
        """Opens a stream and queues the request's headers. Raises `H2Error` when there are no stream ids left."""
        h2 = self.h2_connection
        headers = [
            (b":method", b"POST"),
            (b":scheme", scheme.encode("ascii")),
            (b":path", path.encode("ascii")),
            (b":authority", authority.encode("ascii")),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc+proto"),
        ]
        if timeout_seconds != float("inf"):
            headers.append((b"grpc-timeout", encode_timeout(timeout_seconds)))
        headers.append((b"grpc-accept-encoding", ACCEPT_ENCODING))
        headers += encode_metadata(metadata)
        stream_id = h2.get_next_available_stream_id()
        if h2.state_machine.state is ConnectionState.IDLE:
            h2.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
        entry = StreamEntry(stream_id, h2._begin_new_stream(stream_id, AllowedStreamIDs.ODD))
        self.entries[stream_id] = entry
        self._put_block(entry, encode_headers(headers), ends=False)
        return entry

    def end_call(self, entry: StreamEntry) -> None:
        """No more requests."""
        if entry.can_send:
            self.put_data(entry, (), 0, ends=True)

    # Output of a server.

    def begin_response(self, entry: StreamEntry, metadata: Pairs = ()) -> None:
        """Queues the response's headers."""
        entry.is_response_started = True
        extra = encode_metadata(metadata)
        self._put_block(entry, _RESPONSE_BLOCK + encode_headers(extra) if extra else _RESPONSE_BLOCK, ends=False)

    def finish_response(self, entry: StreamEntry, status: CallStatus, trailing: Pairs = (), initial: Pairs = ()) -> None:
        """Ends a call with its status; what the client still sends is no longer wanted."""
        if not entry.can_send:
            return
        if entry.is_response_started:
            trailers = encode_headers(_status_headers(status, trailing)) if trailing or not status.is_ok else _OK_BLOCK
        else:
            headers = [*_RESPONSE_HEADERS, *encode_metadata(initial), *_status_headers(status, trailing)]
            trailers = encode_headers(headers)
        self._put_block(entry, trailers, ends=True)
        if entry.h2.state_machine.state is StreamState.CLOSED:
            self._forget(entry)
            self.release(entry)
        else:
            # The client may be in the middle of a long upload: NO_ERROR tells it to stop, the answer stands.
            self.reset_stream(entry.stream_id, ErrorCodes.NO_ERROR)

    def refuse_call(self, entry: StreamEntry, status: CallStatus | None) -> None:
        """Ends a call that was not run: with a status, or, with None, so that the client may try it elsewhere."""
        before = self.output_bytes
        if status is None:
            self.reset_stream(entry.stream_id, ErrorCodes.REFUSED_STREAM)
        else:
            self.finish_response(entry, status)
        try:
            self._count_control()
            self._count_control_bytes(self.output_bytes - before)
        except ConnectionFailure as failure:
            self._fail(failure)

    # Flow control of what was received.

    def _credit(self, entry: StreamEntry, size: int) -> None:
        entry.uncredited_bytes -= size
        self._credit_connection(size)
        if entry.can_receive:
            increment = entry.h2._inbound_window_manager.process_bytes(size)
            if increment:
                self._put_frame(WINDOW_UPDATE, 0, entry.stream_id, increment.to_bytes(4, "big"))

    def _credit_connection(self, size: int) -> None:
        increment = self.h2_connection._inbound_flow_control_window_manager.process_bytes(size)
        if increment:
            self._put_frame(WINDOW_UPDATE, 0, 0, increment.to_bytes(4, "big"))

    def acknowledge(self, entry: StreamEntry, flow_controlled_length: int) -> None:
        """A message given out with this length was read: the peer may send as much again."""
        entry.unread -= 1
        if entry.is_discarding:
            return  # All of it was given back when it was released.
        self._repay(entry)
        if flow_controlled_length:
            self._credit(entry, flow_controlled_length)
        if not entry.unread and entry.partial_bytes:
            self._overdraw(entry)

    def _overdraw(self, entry: StreamEntry) -> None:
        """Gives back what has come of a message that is not complete: it may be larger than the window."""
        size, entry.partial_bytes = entry.partial_bytes, 0
        entry.overdraft_bytes += size
        self._overdraft_bytes += size
        self._credit(entry, size)

    def _repay(self, entry: StreamEntry) -> None:
        self._overdraft_bytes -= entry.overdraft_bytes
        entry.overdraft_bytes = 0

    # Input.

    def receive_data(self, data: Buffer) -> list[Any]:
        """Reads what arrived and returns events. At most `frames_per_pass` frames at a time: see `has_pending`."""
        events: list[Any] = []
        if self.failure is not None:
            return events
        if self._pending:
            data = b"".join((self._pending, data)) if data else self._pending
            self._pending = b""
        try:
            self._receive(data, events)
        except ConnectionFailure as failure:
            self._fail(failure)
        except HPACKError as error:
            self._fail(ConnectionFailure(ErrorCodes.COMPRESSION_ERROR, str(error)))
        except HeaderListTooLarge as error:
            self._fail(ConnectionFailure(ErrorCodes.ENHANCE_YOUR_CALM, str(error)))
        except H2Error as error:
            code = getattr(error, "error_code", ErrorCodes.PROTOCOL_ERROR)
            self._fail(ConnectionFailure(code, str(error) or type(error).__name__))
        return events

    def _fail(self, failure: ConnectionFailure) -> None:
        self.failure = failure
        self.has_pending = False
        self.go_away(failure.code, str(failure).encode("utf-8", "replace")[:200])

    def _receive(self, data: Buffer, events: list[Any]) -> None:
        view = memoryview(data)
        end = len(view)
        position = 0
        frames_left = self.frames_per_pass
        if self._preface_left:
            position = self._receive_preface(view)
            if self._preface_left:
                return
        self.has_pending = False
        while True:
            if self._data_left:
                if position == end:
                    return
                stop = min(end, position + self._data_left)
                self._data_left -= stop - position
                if self._data_entry is not None:
                    self._receive_payload(self._data_entry, view[position:stop], end, events)
                position = stop
                if self._data_left:
                    return
                if not self._padding_left:
                    self._finish_data(events)
            if self._padding_left:
                stop = min(end, position + self._padding_left)
                self._padding_left -= stop - position
                position = stop
                if self._padding_left:
                    return
                self._finish_data(events)
            if end - position < 9:
                break
            high, low, kind, flags, stream_id = _FRAME_HEADER.unpack_from(view, position)
            length = high << 8 | low
            stream_id &= 0x7FFFFFFF
            if kind == DATA:
                if flags & _PADDED and end - position < 10:
                    break
                position = self._begin_data(view, position + 9, length, flags, stream_id, events)
            else:
                if length > self._settings.header_block_bytes_max:
                    raise ConnectionFailure(ErrorCodes.FRAME_SIZE_ERROR, f"a frame of type {kind} with {length} bytes")
                stop = position + 9 + length
                if stop > end:
                    break
                self._receive_frame(kind, flags, stream_id, view[position:stop], events)
                position = stop
            frames_left -= 1
            if not frames_left and position < end:
                self.has_pending = True
                break
        if position < end:
            # A whole rest is kept only when there are very many small frames in it.
            self._pending = view[position:] if self.has_pending else bytes(view[position:])

    def _receive_preface(self, view: memoryview) -> int:
        expected = _PREFACE[-self._preface_left :][: len(view)]
        if view[: len(expected)] != expected:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "this is not HTTP/2")
        self._preface_left -= len(expected)
        return len(expected)

    # DATA.

    def _begin_data(self, view: memoryview, position: int, length: int, flags: int, stream_id: int, events: list[Any]) -> int:
        if self._block is not None or not stream_id or not self.has_settings:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "DATA where none may be")
        if length > self._settings.frame_bytes_max:
            raise ConnectionFailure(ErrorCodes.FRAME_SIZE_ERROR, f"a DATA frame of {length} bytes")
        h2 = self.h2_connection
        h2._inbound_flow_control_window_manager.window_consumed(length)
        padding = 0
        overhead = 0
        if flags & _PADDED:
            if not length:
                raise ConnectionFailure(ErrorCodes.FRAME_SIZE_ERROR, "padding without room for it")
            padding = view[position]
            position += 1
            overhead = padding + 1
            if overhead > length:
                raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "more padding than frame")
        ends = bool(flags & _END_STREAM)
        if not ends and length == overhead:
            self._count_control()  # Empty: nothing but work.
        entry = self.entries.get(stream_id)
        self._data_ends = False
        if entry is None:
            if self._is_idle(stream_id):
                raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "DATA on a stream that was never opened")
            # In flight when the stream was reset: nobody waits for it, and its room is for others.
            self._data_entry = None
            if length:
                self._credit_connection(length)
        else:
            try:
                self._open_data(entry, length, overhead)
                self._data_entry = entry
                self._data_ends = ends
            except _StreamError as error:
                self._data_entry = None
                self._credit_connection(length)
                self._break_stream(entry, error.code, events)
        self._data_left = length - overhead
        self._padding_left = padding
        if not self._data_left and not padding:
            self._finish_data(events)
        return position

    def _open_data(self, entry: StreamEntry, length: int, overhead: int) -> None:
        if not entry.can_receive:
            raise _StreamError(ErrorCodes.STREAM_CLOSED)
        if self._client_side and not entry.is_response_started:
            raise _StreamError(ErrorCodes.PROTOCOL_ERROR)
        try:
            entry.h2._inbound_window_manager.window_consumed(length)
        except FlowControlError:
            raise _StreamError(ErrorCodes.FLOW_CONTROL_ERROR) from None
        if overhead:
            entry.uncredited_bytes += overhead
            self._credit(entry, overhead)

    def _finish_data(self, events: list[Any]) -> None:
        entry = self._data_entry
        self._data_entry = None
        if entry is not None and self._data_ends and entry.can_receive:
            self._end_receiving(entry, events)

    def _break_stream(self, entry: StreamEntry, code: ErrorCodes, events: list[Any]) -> None:
        """The peer broke HTTP/2 on this stream alone."""
        self._count_control()
        self._count_control_bytes(13)
        self.reset_stream(entry.stream_id, code)
        events.append(StreamReset(entry.stream_id, int(code), is_remote=False))

    def _receive_payload(self, entry: StreamEntry, view: memoryview, chunk_bytes: int, events: list[Any]) -> None:
        """Takes a piece of a stream's data: zero or more messages and parts of them."""
        entry.uncredited_bytes += len(view)
        if entry.is_discarding:
            self._credit(entry, len(view))
            return
        while True:
            if entry.need < 0:
                if entry.prefix or len(view) < 5:
                    missing = 5 - len(entry.prefix)
                    entry.prefix += bytes(view[:missing])
                    entry.partial_bytes += min(missing, len(view))
                    view = view[missing:]
                    if len(entry.prefix) < 5:
                        return  # At most 4 bytes; they are given back with the message.
                    entry.compressed, entry.need = _MESSAGE_HEADER.unpack(entry.prefix)
                    entry.prefix = b""
                else:
                    entry.compressed, entry.need = _MESSAGE_HEADER.unpack_from(view)
                    entry.partial_bytes += 5
                    view = view[5:]
                entry.have = 0
                if not self._check_prefix(entry, events):
                    return
            missing = entry.need - entry.have
            if len(view) < missing:
                if len(view):
                    # A small piece must not hold on to the large buffer that it came in.
                    entry.pieces.append(view if len(view) * 4 >= chunk_bytes else bytes(view))
                    entry.have += len(view)
                    entry.partial_bytes += len(view)
                if not entry.unread and entry.partial_bytes:
                    if self._overdraft_bytes + entry.partial_bytes > self._settings.overdraft_bytes_max:
                        self._stop_reading(entry, _OVERLOADED, events)
                    else:
                        self._overdraw(entry)
                return
            if entry.pieces:
                entry.pieces.append(view[:missing])
                message = b"".join(entry.pieces)
                entry.pieces.clear()
            else:
                message = bytes(view[:missing])
            view = view[missing:]
            entry.need = -1
            size, entry.partial_bytes = entry.partial_bytes + missing, 0
            if entry.compressed:
                inflated = self._inflate(entry, message, events)
                if inflated is None:
                    return
                message = inflated
            entry.unread += 1
            events.append(MessageReceived(entry.stream_id, message, size))
            if not len(view):
                return

    def _check_prefix(self, entry: StreamEntry, events: list[Any]) -> bool:
        if entry.need > self._settings.message_bytes_max:
            self._stop_reading(entry, _too_large(entry.need, self._settings.message_bytes_max), events)
        elif entry.compressed > 1 or (entry.compressed and entry.encoding in (None, "identity")):
            message = "a message is marked as compressed without a compression that is known here"
            self._stop_reading(entry, CallStatus(code=StatusCode.INTERNAL, message=message), events)
        else:
            return True
        return False

    def _stop_reading(self, entry: StreamEntry, status: CallStatus, events: list[Any]) -> None:
        self.release(entry)
        events.append(CallFailed(entry.stream_id, status))

    def _inflate(self, entry: StreamEntry, message: bytes, events: list[Any]) -> bytes | None:
        limit = self._settings.message_bytes_max
        inflater = zlib.decompressobj(31 if entry.encoding == "gzip" else 15)
        try:
            out = inflater.decompress(message, limit + 1)
        except zlib.error:
            out = b""
        if len(out) > limit:
            self._stop_reading(entry, _too_large(len(out), limit), events)
            return None
        if not inflater.eof:
            self._stop_reading(
                entry, CallStatus(code=StatusCode.INTERNAL, message=f"a message that is not {entry.encoding}"), events
            )
            return None
        return out

    def _end_receiving(self, entry: StreamEntry, events: list[Any]) -> None:
        machine = entry.h2.state_machine
        is_cut = not entry.is_discarding and (entry.need >= 0 or entry.prefix)
        machine.process_input(StreamInputs.RECV_END_STREAM)
        if is_cut:
            status = CallStatus(code=StatusCode.INTERNAL, message="the stream ended in the middle of a message")
            self._stop_reading(entry, status, events)
        elif not self._client_side:
            events.append(RequestEnded(entry.stream_id))
        else:
            self._end_response(entry, ResponseHead(), events)
        if machine.state is StreamState.CLOSED:
            self._forget(entry)

    # Everything but DATA.

    def _receive_frame(self, kind: int, flags: int, stream_id: int, frame: memoryview, events: list[Any]) -> None:
        if self._block is not None and (kind != CONTINUATION or stream_id != self._block_stream_id):
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "a frame in the middle of a header block")
        if not self.has_settings and kind != SETTINGS:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        body = frame[9:]
        if kind == HEADERS:
            self._receive_headers(flags, stream_id, body, events)
        elif kind == WINDOW_UPDATE:
            self._receive_window_update(stream_id, body, events)
        elif kind == RST_STREAM:
            self._receive_reset(stream_id, body, events)
        elif kind == CONTINUATION:
            self._receive_continuation(flags, body, events)
        elif kind in (SETTINGS, PING, GOAWAY, PRIORITY):
            self._receive_through_h2(kind, frame, events)
        elif kind == PUSH_PROMISE:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "PUSH_PROMISE was not asked for")
        else:
            self._count_control()  # Unknown types are to be ignored (RFC 9113, 4.1).

    def _receive_through_h2(self, kind: int, raw: memoryview, events: list[Any]) -> None:
        h2 = self.h2_connection
        try:
            frame, _ = Frame.parse_frame_header(raw[:9])
            frame.parse_body(raw[9:])
        except HyperframeError as error:
            code = ErrorCodes.PROTOCOL_ERROR if "tream" in str(error) else ErrorCodes.FRAME_SIZE_ERROR
            raise ConnectionFailure(code, f"a malformed frame of type {kind}") from None
        is_ack = kind in (SETTINGS, PING) and "ACK" in frame.flags
        if not is_ack and kind != GOAWAY:
            self._count_control()
        if kind == SETTINGS:
            # Values of settings that nobody knows would be kept for ever.
            frame.settings = {code: value for code, value in frame.settings.items() if code in _KNOWN_SETTINGS}
        before = h2.output_bytes
        for event in h2._receive_frame(frame):
            if kind == SETTINGS and not is_ack:
                events.append(WindowUpdated(0, 1))
            elif kind == PING and is_ack:
                events.append(PingAcknowledged(bytes(event.ping_data)))
            elif kind == GOAWAY:
                self.is_draining = True
                events.append(GoAwayReceived(event.last_stream_id, int(event.error_code), bytes(event.additional_data or b"")))
        if kind == SETTINGS and not is_ack:
            self.has_settings = True
        if h2.output_bytes > before:
            self._count_control_bytes(h2.output_bytes - before)

    def _is_idle(self, stream_id: int) -> bool:
        h2 = self.h2_connection
        is_ours = bool(stream_id % 2) == self._client_side
        return stream_id > (h2.highest_outbound_stream_id if is_ours else h2.highest_inbound_stream_id)  # type: ignore[no-any-return]

    def _receive_window_update(self, stream_id: int, body: memoryview, events: list[Any]) -> None:
        if len(body) != 4:
            raise ConnectionFailure(ErrorCodes.FRAME_SIZE_ERROR, "a WINDOW_UPDATE that is not 4 bytes")
        increment = int.from_bytes(body, "big") & 0x7FFFFFFF
        h2 = self.h2_connection
        if not stream_id:
            window = h2.outbound_flow_control_window + increment
            if not increment or window > 0x7FFFFFFF:
                raise ConnectionFailure(ErrorCodes.FLOW_CONTROL_ERROR, "a WINDOW_UPDATE of nothing or too much")
            h2.outbound_flow_control_window = window
            events.append(WindowUpdated(0, increment))
            return
        entry = self.entries.get(stream_id)
        if entry is None:
            if self._is_idle(stream_id):
                raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was never opened")
            return  # Late: the stream has ended meanwhile.
        window = entry.h2.outbound_flow_control_window + increment
        if not increment or window > 0x7FFFFFFF:
            self._break_stream(entry, ErrorCodes.FLOW_CONTROL_ERROR if increment else ErrorCodes.PROTOCOL_ERROR, events)
            return
        entry.h2.outbound_flow_control_window = window
        events.append(WindowUpdated(stream_id, increment))

    def _receive_reset(self, stream_id: int, body: memoryview, events: list[Any]) -> None:
        if len(body) != 4:
            raise ConnectionFailure(ErrorCodes.FRAME_SIZE_ERROR, "an RST_STREAM that is not 4 bytes")
        self._count_control()
        entry = self.entries.get(stream_id)
        if entry is None:
            if not stream_id or self._is_idle(stream_id):
                raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "RST_STREAM on a stream that was never opened")
            return
        entry.h2.state_machine.process_input(StreamInputs.RECV_RST_STREAM)
        self._forget(entry)
        self.release(entry)
        events.append(StreamReset(stream_id, int.from_bytes(body, "big"), is_remote=True))

    def _receive_headers(self, flags: int, stream_id: int, body: memoryview, events: list[Any]) -> None:
        if not stream_id:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "HEADERS on stream 0")
        start, stop = 0, len(body)
        if flags & _PADDED:
            if not stop:
                raise ConnectionFailure(ErrorCodes.FRAME_SIZE_ERROR, "padding without room for it")
            start, stop = 1, stop - body[0]
        if flags & _PRIORITY_FLAG:
            start += 5  # Priorities are advice that RFC 9113 has withdrawn.
        if start > stop:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "more padding than frame")
        if flags & _END_HEADERS:
            self._receive_block(stream_id, bytes(body[start:stop]), bool(flags & _END_STREAM), events)
        else:
            self._block = bytearray(body[start:stop])
            self._block_stream_id = stream_id
            self._block_ends = bool(flags & _END_STREAM)

    def _receive_continuation(self, flags: int, body: memoryview, events: list[Any]) -> None:
        if self._block is None:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._count_control()
        self._block += body
        if len(self._block) > self._settings.header_block_bytes_max:
            raise ConnectionFailure(ErrorCodes.ENHANCE_YOUR_CALM, "a header block that is too long")
        if flags & _END_HEADERS:
            block, self._block = bytes(self._block), None
            self._receive_block(self._block_stream_id, block, self._block_ends, events)

    def _head(self, block: bytes, *, is_trailer: bool) -> Any:
        """What a block says. Equal blocks say the same while the decoder's table stays, and clients repeat themselves."""
        if self._heads_version != self._decoder.version:
            self._heads.clear()
            self._heads_version = self._decoder.version
        key = b"\x00" + block if is_trailer else block
        head = self._heads.get(key)
        if head is not None:
            return head
        headers, size = self._decoder.decode(block)
        limit = self._settings.header_bytes_max
        if self._client_side:
            head = parse_response(headers, size, limit, is_trailer=is_trailer)
        elif is_trailer:
            head = True  # Trailers of a request say nothing in gRPC.
        else:
            head = parse_request(headers, size, limit)
        if self._heads_version == self._decoder.version and len(block) <= _CACHED_BLOCK_BYTES_MAX:
            if len(self._heads) >= _CACHED_BLOCKS_MAX:
                self._heads.clear()  # What is said often is soon in there again.
            self._heads[key] = head
        return head

    def _receive_block(self, stream_id: int, block: bytes, ends: bool, events: list[Any]) -> None:
        entry = self.entries.get(stream_id)
        if self._client_side:
            self._receive_response_block(entry, stream_id, block, ends, events)
        elif entry is not None:
            self._head(block, is_trailer=True)
            if not entry.can_receive or not ends:
                self._break_stream(entry, ErrorCodes.PROTOCOL_ERROR if entry.can_receive else ErrorCodes.STREAM_CLOSED, events)
            else:
                self._end_receiving(entry, events)
        else:
            self._receive_request_block(stream_id, block, ends, events)

    def _receive_request_block(self, stream_id: int, block: bytes, ends: bool, events: list[Any]) -> None:
        h2 = self.h2_connection
        if not stream_id % 2:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "a client's stream has an odd number")
        head: RequestHead = self._head(block, is_trailer=False)
        if stream_id <= h2.highest_inbound_stream_id:
            self._count_control()  # Trailers that were on their way when we reset the stream.
            return
        if h2.state_machine.state is ConnectionState.IDLE:
            h2.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
        if self.is_draining or len(self.entries) >= self._settings.concurrent_calls_max or head.malformed:
            h2.highest_inbound_stream_id = stream_id
            code = ErrorCodes.PROTOCOL_ERROR if head.malformed else ErrorCodes.REFUSED_STREAM
            self._count_control()
            self._put_control(RST_STREAM, stream_id, code.to_bytes(4, "big"))
            return
        entry = StreamEntry(stream_id, h2._begin_new_stream(stream_id, AllowedStreamIDs.ODD))
        machine = entry.h2.state_machine
        machine.process_input(StreamInputs.RECV_HEADERS)
        self.entries[stream_id] = entry
        refusal = head.refusal
        if refusal is not None:
            self._refuse(entry, head, ends)
            return
        entry.encoding = head.encoding
        events.append(CallReceived(stream_id, head, entry))
        if ends:
            machine.process_input(StreamInputs.RECV_END_STREAM)
            events.append(RequestEnded(stream_id))

    def _refuse(self, entry: StreamEntry, head: RequestHead, ends: bool) -> None:
        refusal = head.refusal
        assert refusal is not None
        self._count_control()
        if ends:
            entry.h2.state_machine.process_input(StreamInputs.RECV_END_STREAM)
        code = "BATCH_TOO_LARGE" if refusal.status is StatusCode.RESOURCE_EXHAUSTED else "INVALID_ARGUMENT"
        status = CallStatus(code=refusal.status, message=refusal.message, details={CODE_TRAILER: code})
        headers = [(b":status", refusal.http_status), *_RESPONSE_HEADERS[1:], *_status_headers(status, ())]
        if head.get_path and self._answer_get is not None:
            http_status = self._answer_get(head.get_path.partition("?")[0])
            headers = headers if http_status is None else [(b":status", b"%d" % http_status), (b"content-length", b"0")]
        before = self.output_bytes
        self._put_block(entry, encode_headers(headers), ends=True)
        if ends:
            self._forget(entry)
        else:
            self.reset_stream(entry.stream_id, ErrorCodes.NO_ERROR)
        self._count_control_bytes(self.output_bytes - before)

    def _receive_response_block(
        self, entry: StreamEntry | None, stream_id: int, block: bytes, ends: bool, events: list[Any]
    ) -> None:
        is_trailer = entry is not None and entry.is_response_started
        head: ResponseHead = self._head(block, is_trailer=is_trailer)
        if entry is None:
            if self._is_idle(stream_id):
                raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "HEADERS on a stream that was never opened")
            return
        if head.malformed or not entry.can_receive or (is_trailer and not ends):
            self._break_stream(entry, ErrorCodes.PROTOCOL_ERROR, events)
            return
        if not is_trailer:
            if 100 <= head.http_status < 200:
                self._count_control()
                if ends:
                    self._break_stream(entry, ErrorCodes.PROTOCOL_ERROR, events)
                return
            entry.is_response_started = True
            entry.encoding = head.encoding
            received = ResponseReceived(stream_id, head.content_type)
            received.custom_metadata = Metadata() if ends else head.metadata
            events.append(received)
            if not ends and (head.http_status != 200 or not head.content_type.startswith("application/grpc")):
                self._stop_reading(entry, _http_status(head), events)
                return
        if not ends:
            return
        machine = entry.h2.state_machine
        if not entry.is_discarding and (entry.need >= 0 or entry.prefix):
            status = CallStatus(code=StatusCode.INTERNAL, message="the response ended in the middle of a message")
            self._stop_reading(entry, status, events)
        machine.process_input(StreamInputs.RECV_END_STREAM)
        self._end_response(entry, head, events)

    def _end_response(self, entry: StreamEntry, head: ResponseHead, events: list[Any]) -> None:
        if head.status is None:
            status = _http_status(head)
            ended = ResponseEnded(entry.stream_id, Status(status.code, status.message))
        else:
            ended = ResponseEnded(entry.stream_id, Status(head.status, decode_message(head.message)))
            ended.custom_metadata = head.metadata
        events.append(ended)
        if entry.h2.state_machine.state is StreamState.CLOSED:
            self._forget(entry)
        else:
            # The server answered without waiting for all requests: nobody needs the rest.
            self._reset_quietly(entry)

    def _reset_quietly(self, entry: StreamEntry) -> None:
        """RST(NO_ERROR) of a stream whose received messages may still be read."""
        entry.h2.state_machine.process_input(StreamInputs.SEND_RST_STREAM)
        self._put_frame(RST_STREAM, 0, entry.stream_id, bytes(4))
        self.entries.pop(entry.stream_id, None)
        self.h2_connection.streams.pop(entry.stream_id, None)


def _too_large(size_bytes: int, limit_bytes: int) -> CallStatus:
    return CallStatus(
        code=StatusCode.RESOURCE_EXHAUSTED,
        message=f"a message of {size_bytes} bytes; the limit is {limit_bytes}: send smaller batches",
        details={CODE_TRAILER: "BATCH_TOO_LARGE", "limit-bytes": str(limit_bytes)},
    )


_OVERLOADED = status_of(Overloaded("too many large messages at once; send fewer, or smaller batches"))


# gRPC over HTTP/2, "HTTP2 Status Code Mapping".
_HTTP_STATUS = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}


def _http_status(head: ResponseHead) -> CallStatus:
    if head.http_status in (0, 200):
        return CallStatus(code=StatusCode.INTERNAL, message="the server's answer ended without a gRPC status")
    code = _HTTP_STATUS.get(head.http_status, StatusCode.UNKNOWN)
    return CallStatus(code=code, message=f"the server answered with HTTP status {head.http_status}, not with gRPC")
