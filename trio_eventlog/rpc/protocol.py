"""gRPC over HTTP/2 as values: bytes in, events out; requests and messages in, bytes out. No I/O, no clock, no tasks.

`RpcConnection` is a frame loop of our own over the state machines of h2.

* Of h2: the state machines of the connection and of its streams, settings, the windows' arithmetic, and the handling of
  SETTINGS, PING, PRIORITY and GOAWAY frames.
* Of purerpc: the events' classes and the status codes. Its `GRPCConnection` is not used.
* Ours: the loop over frames (DATA is taken in pieces as it arrives and never waits for a whole frame; nothing is copied
  twice), header blocks, assembling of messages with bounded inflation, flow control of partial messages, budgets, GOAWAY that
  drains, and the rule that an error of one stream stays on that stream.

The parts, each of which may be read alone:

    protocol.py         RpcConnection: the loop over frames, and the front that `wire.py` uses
    server_side.py      requests in, responses out
    client_side.py      requests out, responses in
    header_frames.py    HEADERS and CONTINUATION, what equal blocks mean
    data_frames.py      DATA, messages
    control_frames.py   all other frames
    streams.py          the open streams, flow control of what they receive
    http2.py            h2's connection with our output; the budget for useless frames

Two rules keep the rest simple. An error of the *connection* sets `failure` (a GOAWAY is in the output then) and ends the
events; an error of a *stream* is an event or a refusal and leaves everything else alone. And a stream is in `entries` exactly
while the peer may still send something on it that matters: what arrives for another stream that was open once is dropped.
"""

from collections.abc import Iterable
from typing import Any

from trio_eventlog.rpc._purerpc import ErrorCodes, H2Error, HPACKError
from trio_eventlog.rpc.client_side import ClientSide
from trio_eventlog.rpc.control_frames import ControlReader
from trio_eventlog.rpc.data_frames import DataReader
from trio_eventlog.rpc.header_frames import HeaderReader
from trio_eventlog.rpc.headers import HeaderListTooLarge
from trio_eventlog.rpc.http2 import (
    CONTINUATION,
    DATA,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Buffer,
    ConnectionFailure,
    ControlBudget,
    Http2,
)
from trio_eventlog.rpc.methods import Pairs
from trio_eventlog.rpc.server_side import ServerSide
from trio_eventlog.rpc.settings import RpcSettings
from trio_eventlog.rpc.status import CallStatus
from trio_eventlog.rpc.stream_entry import StreamEntry
from trio_eventlog.rpc.streams import Streams


class RpcConnection:
    """One connection's protocol, either side.

    Attributes:
        http2: h2's connection.
        entries: the open streams.
        failure: set when the connection must end: the peer broke a rule of the connection. The output holds a GOAWAY.
        has_pending: `receive_data(b"")` has more to read from what was given before.
        frames_per_pass: the number of frames that `receive_data` looks at.
    """

    def __init__(self, settings: RpcSettings, *, client_side: bool) -> None:
        self._settings = settings
        self.http2 = Http2(settings, client_side=client_side)
        self._budget = budget = ControlBudget(settings)
        self._streams = streams = Streams(self.http2, budget, settings, client_side=client_side)
        self._client: ClientSide
        self._server: ServerSide
        side: ClientSide | ServerSide
        if client_side:
            side = self._client = ClientSide(settings, self.http2, budget, streams)
        else:
            side = self._server = ServerSide(settings, self.http2, budget, streams)
        self._headers = HeaderReader(settings, budget, side.receive_block)
        self._data = DataReader(settings, self.http2, budget, streams, side.end_receiving, client_side=client_side)
        self._control = ControlReader(self.http2, budget, streams)
        self.entries: dict[int, StreamEntry] = streams.entries
        self.failure: ConnectionFailure | None = None
        self.has_pending = False
        self.frames_per_pass = settings.frames_per_pass
        self._pending: Buffer = b""
        self._preface_left = 0 if client_side else len(PREFACE)

    @property
    def is_draining(self) -> bool:
        """A GOAWAY was sent (server) or received (client): no new calls."""
        return self._streams.is_draining

    @property
    def has_settings(self) -> bool:
        """The peer's SETTINGS have arrived."""
        return self._control.has_settings

    @property
    def useless_frames(self) -> int:
        """The number of control frames since the connection began: work without progress."""
        return self._budget.useless_frames

    @property
    def peer_calls_max(self) -> int:
        """The number of calls at once that the peer's settings allow."""
        return int(self.http2.remote_settings.max_concurrent_streams)

    # Output.

    @property
    def output_bytes(self) -> int:
        """The size of what is queued to be written."""
        return self.http2.output_bytes

    def take_output(self) -> list[Buffer]:
        """Everything to write, in order; it counts as written from here on."""
        self._budget.answers_taken()
        return self.http2.take_output()

    def give_back_output(self, data: Buffer) -> None:
        """Puts bytes that were taken and could not be written at the front again."""
        self.http2.give_back_output(data)

    def initiate_connection(self) -> None:
        """Queues the preface (client), SETTINGS, and the connection's window."""
        self.http2.begin()

    def renew_budget(self) -> None:
        """Begins a new period of `control_seconds`."""
        self._budget.renew()

    def ping(self, payload: bytes) -> None:
        """Queues a PING with 8 bytes; `PingAcknowledged` reports its return."""
        self.http2.ping(payload)

    def go_away(self, code: ErrorCodes = ErrorCodes.NO_ERROR, message: bytes = b"") -> None:
        """Queues a GOAWAY: calls up to the highest stream seen may finish, later ones are refused."""
        self._streams.is_draining = True
        self.http2.close_connection(error_code=code, additional_data=message)

    def room(self, entry: StreamEntry) -> int:
        """The number of bytes of DATA that may go out now in one frame."""
        h2 = self.http2
        return min(  # type: ignore[no-any-return]
            h2.outbound_flow_control_window,
            entry.h2.outbound_flow_control_window,
            h2.max_outbound_frame_size,
            self._settings.frame_bytes_max,
        )

    def put_data(self, entry: StreamEntry, buffers: Iterable[Buffer], size_bytes: int, *, ends: bool = False) -> None:
        """Queues one DATA frame of `size_bytes` in all; `size_bytes <= room(entry)`."""
        self._streams.put_data(entry, buffers, size_bytes, ends=ends)

    def acknowledge(self, entry: StreamEntry, flow_controlled_length: int) -> None:
        """A message given out with this length was read: the peer may send as much again."""
        self._streams.acknowledge(entry, flow_controlled_length)

    def release(self, entry: StreamEntry) -> None:
        """Drops what this stream has received unread, now and later."""
        self._streams.release(entry)

    def reset_stream(self, stream_id: int, error_code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Ends a stream at once, if it is open."""
        self._streams.reset(stream_id, error_code)

    def close_stream(self, entry: StreamEntry) -> None:
        """The connection is gone: the stream neither receives nor sends any more."""
        self._streams.close(entry)

    # Calls of a client.

    def start_call(self, path: str, authority: str, scheme: str, timeout_seconds: float, metadata: Pairs) -> StreamEntry:
        """Opens a stream and queues the request's headers. Raises `H2Error` when there are no stream ids left."""
        return self._client.start_call(path, authority, scheme, timeout_seconds, metadata)

    def end_call(self, entry: StreamEntry) -> None:
        """No more requests."""
        if entry.can_send:
            self._streams.put_data(entry, (), 0, ends=True)

    # Calls of a server.

    def begin_response(self, entry: StreamEntry, metadata: Pairs = ()) -> None:
        """Queues the response's headers."""
        self._server.begin_response(entry, metadata)

    def finish_response(self, entry: StreamEntry, status: CallStatus, trailing: Pairs = (), initial: Pairs = ()) -> None:
        """Ends a call with its status; what the client still sends is no longer wanted."""
        self._server.finish_response(entry, status, trailing, initial)

    def refuse_call(self, entry: StreamEntry, status: CallStatus | None) -> None:
        """Ends a call that was not run: with a status, or, with None, so that the client may repeat it at another node."""
        try:
            self._server.refuse_call(entry, status)
        except ConnectionFailure as failure:
            self._fail(failure)

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
        reader = self._data
        while True:
            if reader.payload_left or reader.padding_left:
                position = reader.receive(view, position, end, events)
                if reader.payload_left or reader.padding_left:
                    return
            if end - position < FRAME_HEADER_BYTES:
                break
            high, low, kind, flags, stream_id = FRAME_HEADER.unpack_from(view, position)
            length = high << 8 | low
            stream_id &= 0x7FFFFFFF
            if kind == DATA:
                if flags & PADDED and end - position <= FRAME_HEADER_BYTES:
                    break  # The number of padding bytes has not arrived.
                if self._headers.open_stream_id or not stream_id or not self._control.has_settings:
                    raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "DATA where none may be")
                position = reader.begin(view, position + FRAME_HEADER_BYTES, length, flags, stream_id, events)
            else:
                if length > self._settings.header_block_bytes_max:
                    raise ConnectionFailure(ErrorCodes.FRAME_SIZE_ERROR, f"a frame of type {kind} with {length} bytes")
                stop = position + FRAME_HEADER_BYTES + length
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
        expected = PREFACE[-self._preface_left :][: len(view)]
        if view[: len(expected)] != expected:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "this is not HTTP/2")
        self._preface_left -= len(expected)
        return len(expected)

    def _receive_frame(self, kind: int, flags: int, stream_id: int, frame: memoryview, events: list[Any]) -> None:
        """Every frame but DATA, whole."""
        block_stream_id = self._headers.open_stream_id
        if block_stream_id and (kind != CONTINUATION or stream_id != block_stream_id):
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "a frame in the middle of a header block")
        if not self._control.has_settings and kind != SETTINGS:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        body = frame[FRAME_HEADER_BYTES:]
        if kind == HEADERS:
            self._headers.receive_headers(flags, stream_id, body, events)
        elif kind == WINDOW_UPDATE:
            self._control.receive_window_update(stream_id, body, events)
        elif kind == RST_STREAM:
            self._control.receive_reset(stream_id, body, events)
        elif kind == CONTINUATION:
            self._headers.receive_continuation(flags, body, events)
        elif kind in (SETTINGS, PING, GOAWAY, PRIORITY):
            self._control.receive_through_h2(kind, frame, events)
        elif kind == PUSH_PROMISE:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "PUSH_PROMISE was not asked for")
        else:
            self._budget.count_frame()  # Unknown types are to be ignored (RFC 9113, 4.1).
