"""SETTINGS, PING, GOAWAY, PRIORITY (by h2's hand), WINDOW_UPDATE and RST_STREAM in."""

from typing import Any

from trio_eventlog.rpc._purerpc import ErrorCodes, Frame, HyperframeError, StreamInputs, WindowUpdated
from trio_eventlog.rpc.events import GoAwayReceived, PingAcknowledged, StreamReset
from trio_eventlog.rpc.http2 import (
    FRAME_HEADER_BYTES,
    GOAWAY,
    PING,
    SETTINGS,
    WINDOW_BYTES_MAX,
    ConnectionFailure,
    ControlBudget,
    Http2,
)
from trio_eventlog.rpc.streams import Streams

_KNOWN_SETTINGS = frozenset(range(1, 7))


class ControlReader:
    """The frames that carry neither headers nor data.

    Attributes:
        has_settings: the peer's SETTINGS have arrived.
    """

    def __init__(self, h2: Http2, budget: ControlBudget, streams: Streams) -> None:
        self._h2 = h2
        self._budget = budget
        self._streams = streams
        self.has_settings = False

    def receive_through_h2(self, kind: int, raw: memoryview, events: list[Any]) -> None:
        """SETTINGS, PING, GOAWAY and PRIORITY: they are rare, and h2 handles them well."""
        h2 = self._h2
        try:
            frame, _ = Frame.parse_frame_header(raw[:FRAME_HEADER_BYTES])
            frame.parse_body(raw[FRAME_HEADER_BYTES:])
        except HyperframeError as error:
            code = ErrorCodes.PROTOCOL_ERROR if "tream" in str(error) else ErrorCodes.FRAME_SIZE_ERROR
            raise ConnectionFailure(code, f"a malformed frame of type {kind}") from None
        is_ack = kind in (SETTINGS, PING) and "ACK" in frame.flags
        if not is_ack and kind != GOAWAY:
            self._budget.count_frame()
        if kind == SETTINGS:
            # h2 would keep the values of unknown settings for ever.
            frame.settings = {code: value for code, value in frame.settings.items() if code in _KNOWN_SETTINGS}
        before = h2.output_bytes
        for event in h2._receive_frame(frame):
            if kind == SETTINGS and not is_ack:
                events.append(WindowUpdated(0, 1))
            elif kind == PING and is_ack:
                events.append(PingAcknowledged(bytes(event.ping_data)))
            elif kind == GOAWAY:
                self._streams.is_draining = True
                events.append(GoAwayReceived(event.last_stream_id, int(event.error_code), bytes(event.additional_data or b"")))
        if kind == SETTINGS and not is_ack:
            self.has_settings = True
        if h2.output_bytes > before:
            self._budget.count_answer(h2.output_bytes - before)

    def receive_window_update(self, stream_id: int, body: memoryview, events: list[Any]) -> None:
        if len(body) != 4:
            raise ConnectionFailure(ErrorCodes.FRAME_SIZE_ERROR, "a WINDOW_UPDATE that is not 4 bytes")
        increment = int.from_bytes(body, "big") & WINDOW_BYTES_MAX
        h2 = self._h2
        if not stream_id:
            window = h2.outbound_flow_control_window + increment
            if not increment or window > WINDOW_BYTES_MAX:
                raise ConnectionFailure(ErrorCodes.FLOW_CONTROL_ERROR, "a WINDOW_UPDATE of nothing or too much")
            h2.outbound_flow_control_window = window
            events.append(WindowUpdated(0, increment))
            return
        entry = self._streams.entries.get(stream_id)
        if entry is None:
            if not self._streams.was_opened(stream_id):
                raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was never opened")
            return  # Late: the stream has ended meanwhile.
        window = entry.h2.outbound_flow_control_window + increment
        if not increment or window > WINDOW_BYTES_MAX:
            code = ErrorCodes.FLOW_CONTROL_ERROR if increment else ErrorCodes.PROTOCOL_ERROR
            self._streams.break_off(entry, code, events)
            return
        entry.h2.outbound_flow_control_window = window
        events.append(WindowUpdated(stream_id, increment))

    def receive_reset(self, stream_id: int, body: memoryview, events: list[Any]) -> None:
        if len(body) != 4:
            raise ConnectionFailure(ErrorCodes.FRAME_SIZE_ERROR, "an RST_STREAM that is not 4 bytes")
        self._budget.count_frame()
        entry = self._streams.entries.get(stream_id)
        if entry is None:
            if not stream_id or not self._streams.was_opened(stream_id):
                raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "RST_STREAM on a stream that was never opened")
            return
        entry.h2.state_machine.process_input(StreamInputs.RECV_RST_STREAM)
        self._streams.forget(entry)
        self._streams.release(entry)
        events.append(StreamReset(stream_id, int.from_bytes(body, "big"), is_remote=True))
