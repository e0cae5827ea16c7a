"""The open streams of a connection, and flow control of what they receive."""

from typing import Any

from trio_eventlog.rpc._purerpc import AllowedStreamIDs, ErrorCodes, StatusCode, StreamInputs, StreamState
from trio_eventlog.rpc.events import CallFailed, StreamReset
from trio_eventlog.rpc.http2 import (
    DATA,
    END_STREAM,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    RST_STREAM,
    WINDOW_UPDATE,
    ControlBudget,
    Http2,
)
from trio_eventlog.rpc.settings import RpcSettings
from trio_eventlog.rpc.status import CallStatus
from trio_eventlog.rpc.stream_entry import StreamEntry

_RESET_FRAME_BYTES = FRAME_HEADER_BYTES + 4


class Streams:
    """The open streams. A stream is in `entries` exactly while the peer may still send something on it that matters.

    Attributes:
        entries: the open streams by their ids.
        is_draining: a GOAWAY was sent (server) or received (client): no new calls.
        overdraft_bytes: the sum over all entries.
    """

    def __init__(self, h2: Http2, budget: ControlBudget, settings: RpcSettings, *, client_side: bool) -> None:
        self._h2 = h2
        self._budget = budget
        self._overdraft_bytes_max = settings.overdraft_bytes_max
        self._client_side = client_side
        self.entries: dict[int, StreamEntry] = {}
        self.is_draining = False
        self.overdraft_bytes = 0

    def open(self, stream_id: int) -> StreamEntry:
        """Adds a stream that has just begun."""
        entry = StreamEntry(stream_id, self._h2._begin_new_stream(stream_id, AllowedStreamIDs.ODD))
        self.entries[stream_id] = entry
        return entry

    def was_opened(self, stream_id: int) -> bool:
        """A stream of this id was open once: what comes for it is late, not wrong."""
        h2 = self._h2
        is_ours = bool(stream_id % 2) == self._client_side
        return stream_id <= (h2.highest_outbound_stream_id if is_ours else h2.highest_inbound_stream_id)  # type: ignore[no-any-return]

    def forget(self, entry: StreamEntry) -> None:
        """Both sides are done: remove the stream's entry."""
        self.entries.pop(entry.stream_id, None)
        self._h2.streams.pop(entry.stream_id, None)
        entry.pieces.clear()

    def release(self, entry: StreamEntry) -> None:
        """Drops what this stream has received unread, now and later, and gives it back to the peer's windows."""
        entry.is_discarding = True
        entry.pieces.clear()
        self._repay(entry)
        if entry.uncredited_bytes:
            self.credit(entry, entry.uncredited_bytes)

    def close(self, entry: StreamEntry) -> None:
        """The connection is gone: the stream neither receives nor sends any more."""
        entry.h2.state_machine.state = StreamState.CLOSED
        self.forget(entry)

    def reset(self, stream_id: int, error_code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Ends a stream at once, if it is open."""
        entry = self.entries.get(stream_id)
        if entry is None:
            return
        machine = entry.h2.state_machine
        if machine.state is not StreamState.CLOSED:
            machine.process_input(StreamInputs.SEND_RST_STREAM)
            self._h2.put_frame(RST_STREAM, 0, stream_id, error_code.to_bytes(4, "big"))
        self.forget(entry)
        self.release(entry)

    def reset_quietly(self, entry: StreamEntry) -> None:
        """RST(NO_ERROR) of a stream whose received messages may still be read."""
        entry.h2.state_machine.process_input(StreamInputs.SEND_RST_STREAM)
        self._h2.put_frame(RST_STREAM, 0, entry.stream_id, bytes(4))
        self.entries.pop(entry.stream_id, None)
        self._h2.streams.pop(entry.stream_id, None)

    def break_off(self, entry: StreamEntry, code: ErrorCodes, events: list[Any]) -> None:
        """The peer broke HTTP/2 on this stream alone."""
        self._budget.count_frame()
        self._budget.count_answer(_RESET_FRAME_BYTES)
        self.reset(entry.stream_id, code)
        events.append(StreamReset(entry.stream_id, int(code), is_remote=False))

    def stop_reading(self, entry: StreamEntry, status: CallStatus, events: list[Any]) -> None:
        """The call fails with `status`; whatever else arrives on its stream is dropped."""
        self.release(entry)
        events.append(CallFailed(entry.stream_id, status))

    def end_receiving(self, entry: StreamEntry, events: list[Any]) -> bool:
        """A DATA frame or trailers have ended what the peer sends. False: in the middle of a message, and the call has failed."""
        is_cut = entry.is_within_message
        entry.h2.state_machine.process_input(StreamInputs.RECV_END_STREAM)
        if is_cut:
            status = CallStatus(code=StatusCode.INTERNAL, message="the stream ended in the middle of a message")
            self.stop_reading(entry, status, events)
        return not is_cut

    # Sending.

    def put_block(self, entry: StreamEntry, block: bytes, *, ends: bool) -> None:
        """Queues a header block of this stream."""
        machine = entry.h2.state_machine
        machine.process_input(StreamInputs.SEND_HEADERS)
        if ends:
            machine.process_input(StreamInputs.SEND_END_STREAM)
        self._h2.put_block(entry.stream_id, block, ends=ends)

    def put_data(self, entry: StreamEntry, buffers: Any, size_bytes: int, *, ends: bool) -> None:
        """Queues one DATA frame."""
        h2 = self._h2
        entry.h2.outbound_flow_control_window -= size_bytes
        h2.outbound_flow_control_window -= size_bytes
        output = h2.output
        output.append(FRAME_HEADER.pack(size_bytes >> 8, size_bytes & 0xFF, DATA, END_STREAM if ends else 0, entry.stream_id))
        output.extend(buffers)
        h2.output_bytes += FRAME_HEADER_BYTES + size_bytes
        if ends:
            entry.h2.state_machine.process_input(StreamInputs.SEND_END_STREAM)
            if entry.is_closed:
                self.forget(entry)

    # Flow control of what was received.

    def credit(self, entry: StreamEntry, size_bytes: int) -> None:
        """Gives bytes that were received back to the windows of the stream and of the connection."""
        entry.uncredited_bytes -= size_bytes
        self.credit_connection(size_bytes)
        if entry.can_receive:
            increment = entry.h2._inbound_window_manager.process_bytes(size_bytes)
            if increment:
                self._h2.put_frame(WINDOW_UPDATE, 0, entry.stream_id, increment.to_bytes(4, "big"))

    def credit_connection(self, size_bytes: int) -> None:
        """Gives bytes of no open stream back to the connection's window."""
        increment = self._h2._inbound_flow_control_window_manager.process_bytes(size_bytes)
        if increment:
            self._h2.put_frame(WINDOW_UPDATE, 0, 0, increment.to_bytes(4, "big"))

    def acknowledge(self, entry: StreamEntry, flow_controlled_length: int) -> None:
        """A message given out with this length was read: the peer may send as much again."""
        entry.unread -= 1
        if entry.is_discarding:
            return  # All of it was given back when it was released.
        self._repay(entry)
        if flow_controlled_length:
            self.credit(entry, flow_controlled_length)
        if not entry.unread and entry.partial_bytes:
            self._overdraw(entry)

    def overdraw(self, entry: StreamEntry) -> bool:
        """Gives back what has come of a message that is not complete: it may be larger than the window.

        False: that would be over `overdraft_bytes_max` for all calls together, and nothing was given back.
        """
        if self.overdraft_bytes + entry.partial_bytes > self._overdraft_bytes_max:
            return False
        self._overdraw(entry)
        return True

    def _overdraw(self, entry: StreamEntry) -> None:
        size_bytes, entry.partial_bytes = entry.partial_bytes, 0
        entry.overdraft_bytes += size_bytes
        self.overdraft_bytes += size_bytes
        self.credit(entry, size_bytes)

    def _repay(self, entry: StreamEntry) -> None:
        self.overdraft_bytes -= entry.overdraft_bytes
        entry.overdraft_bytes = 0
