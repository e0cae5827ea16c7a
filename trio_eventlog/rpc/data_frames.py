"""DATA frames in: taken in pieces as they arrive, assembled to messages, inflated within bounds."""

import struct
import zlib
from collections.abc import Callable
from typing import Any

from trio_eventlog.errors import Overloaded
from trio_eventlog.rpc._purerpc import ErrorCodes, FlowControlError, MessageReceived, StatusCode
from trio_eventlog.rpc.http2 import END_STREAM, PADDED, ConnectionFailure, ControlBudget, Http2
from trio_eventlog.rpc.settings import RpcSettings
from trio_eventlog.rpc.status import CODE_TRAILER, CallStatus, status_of
from trio_eventlog.rpc.stream_entry import StreamEntry
from trio_eventlog.rpc.streams import Streams

_MESSAGE_HEADER = struct.Struct(">BL")
"""Is the message compressed; its length."""

_OVERLOADED = status_of(Overloaded("too many large messages at once; send fewer, or smaller batches"))


class DataReader:
    """The DATA frame that is arriving, at most one at a time.

    A frame is never waited for as a whole: its payload is handed on as it comes.

    Attributes:
        payload_left: bytes of the frame's payload that are still to come.
        padding_left: bytes of padding that come after it.
    """

    def __init__(
        self,
        settings: RpcSettings,
        h2: Http2,
        budget: ControlBudget,
        streams: Streams,
        end_receiving: Callable[[StreamEntry, list[Any]], None],
        *,
        client_side: bool,
    ) -> None:
        self._settings = settings
        self._h2 = h2
        self._budget = budget
        self._streams = streams
        self._end_receiving = end_receiving
        self._client_side = client_side
        self.payload_left = 0
        self.padding_left = 0
        self._entry: StreamEntry | None = None
        self._ends_stream = False

    def begin(self, view: memoryview, position: int, length: int, flags: int, stream_id: int, events: list[Any]) -> int:
        """Reads what stands between the frame's header, which ends at `position`, and the payload. Returns where that begins."""
        if length > self._settings.frame_bytes_max:
            raise ConnectionFailure(ErrorCodes.FRAME_SIZE_ERROR, f"a DATA frame of {length} bytes")
        self._h2._inbound_flow_control_window_manager.window_consumed(length)
        padding = 0
        overhead = 0
        if flags & PADDED:
            if not length:
                raise ConnectionFailure(ErrorCodes.FRAME_SIZE_ERROR, "padding without room for it")
            padding = view[position]
            position += 1
            overhead = padding + 1
            if overhead > length:
                raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "more padding than frame")
        ends = bool(flags & END_STREAM)
        if not ends and length == overhead:
            self._budget.count_frame()  # Empty: nothing but work.
        entry = self._streams.entries.get(stream_id)
        self._entry = None
        self._ends_stream = False
        if entry is None:
            if not self._streams.was_opened(stream_id):
                raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "DATA on a stream that was never opened")
            # In flight when the stream was reset: no call waits for it, and its room is given back.
            if length:
                self._streams.credit_connection(length)
        elif (error_code := self._check(entry, length)) is not None:
            self._streams.credit_connection(length)
            self._streams.break_off(entry, error_code, events)
        else:
            if overhead:
                entry.uncredited_bytes += overhead
                self._streams.credit(entry, overhead)
            self._entry = entry
            self._ends_stream = ends
        self.payload_left = length - overhead
        self.padding_left = padding
        if not self.payload_left and not padding:
            self._finish(events)
        return position

    def _check(self, entry: StreamEntry, length: int) -> ErrorCodes | None:
        """How a frame of this length breaks HTTP/2 on this stream; None when it does not, and the stream's window is charged."""
        if not entry.can_receive:
            return ErrorCodes.STREAM_CLOSED
        if self._client_side and not entry.is_response_started:
            return ErrorCodes.PROTOCOL_ERROR
        try:
            entry.h2._inbound_window_manager.window_consumed(length)
        except FlowControlError:
            return ErrorCodes.FLOW_CONTROL_ERROR
        return None

    def receive(self, view: memoryview, position: int, end: int, events: list[Any]) -> int:
        """Takes what has come of the frame from `position` on. Returns the position after it."""
        if self.payload_left:
            if position == end:
                return position
            stop = min(end, position + self.payload_left)
            self.payload_left -= stop - position
            if self._entry is not None:
                self._receive_payload(self._entry, view[position:stop], end, events)
            position = stop
            if self.payload_left:
                return position
            if not self.padding_left:
                self._finish(events)
        if self.padding_left:
            stop = min(end, position + self.padding_left)
            self.padding_left -= stop - position
            position = stop
            if not self.padding_left:
                self._finish(events)
        return position

    def _finish(self, events: list[Any]) -> None:
        entry = self._entry
        self._entry = None
        if entry is not None and self._ends_stream and entry.can_receive:
            self._end_receiving(entry, events)

    def _receive_payload(self, entry: StreamEntry, view: memoryview, chunk_bytes: int, events: list[Any]) -> None:
        """Takes a piece of a stream's data: zero or more messages and parts of them. `chunk_bytes`: the size of the read."""
        entry.uncredited_bytes += len(view)
        if entry.is_discarding:
            self._streams.credit(entry, len(view))
            return
        while True:
            if entry.need < 0:
                view = self._receive_prefix(entry, view)
                if entry.need < 0 or not self._check_prefix(entry, events):
                    return
            missing = entry.need - entry.have
            if len(view) < missing:
                self._keep(entry, view, chunk_bytes, events)
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

    def _receive_prefix(self, entry: StreamEntry, view: memoryview) -> memoryview:
        """Reads a message's header; `entry.need` stays negative while it is not complete. Returns what comes after it."""
        if entry.prefix or len(view) < 5:
            missing = 5 - len(entry.prefix)
            entry.prefix += bytes(view[:missing])
            entry.partial_bytes += min(missing, len(view))
            view = view[missing:]
            if len(entry.prefix) < 5:
                return view  # At most 4 bytes; they are given back with the message.
            entry.compressed, entry.need = _MESSAGE_HEADER.unpack(entry.prefix)
            entry.prefix = b""
        else:
            entry.compressed, entry.need = _MESSAGE_HEADER.unpack_from(view)
            entry.partial_bytes += 5
            view = view[5:]
        entry.have = 0
        return view

    def _check_prefix(self, entry: StreamEntry, events: list[Any]) -> bool:
        if entry.need > self._settings.message_bytes_max:
            self._streams.stop_reading(entry, _too_large(entry.need, self._settings.message_bytes_max), events)
        elif entry.compressed > 1 or (entry.compressed and entry.encoding in (None, "identity")):
            message = "a message is marked as compressed without a compression that is known here"
            self._streams.stop_reading(entry, CallStatus(code=StatusCode.INTERNAL, message=message), events)
        else:
            return True
        return False

    def _keep(self, entry: StreamEntry, view: memoryview, chunk_bytes: int, events: list[Any]) -> None:
        """Keeps a part of a message."""
        if len(view):
            # A small piece must not hold on to the large buffer that it came in.
            entry.pieces.append(view if len(view) * 4 >= chunk_bytes else bytes(view))
            entry.have += len(view)
            entry.partial_bytes += len(view)
        if not entry.unread and entry.partial_bytes and not self._streams.overdraw(entry):
            self._streams.stop_reading(entry, _OVERLOADED, events)

    def _inflate(self, entry: StreamEntry, message: bytes, events: list[Any]) -> bytes | None:
        limit = self._settings.message_bytes_max
        inflater = zlib.decompressobj(31 if entry.encoding == "gzip" else 15)
        try:
            out = inflater.decompress(message, limit + 1)
        except zlib.error:
            out = b""
        if len(out) > limit:
            self._streams.stop_reading(entry, _too_large(len(out), limit), events)
            return None
        if not inflater.eof:
            status = CallStatus(code=StatusCode.INTERNAL, message=f"a message that is not {entry.encoding}")
            self._streams.stop_reading(entry, status, events)
            return None
        return out


def _too_large(size_bytes: int, limit_bytes: int) -> CallStatus:
    return CallStatus(
        code=StatusCode.RESOURCE_EXHAUSTED,
        message=f"a message of {size_bytes} bytes; the limit is {limit_bytes}: send smaller batches",
        details={CODE_TRAILER: "BATCH_TOO_LARGE", "limit-bytes": str(limit_bytes)},
    )
