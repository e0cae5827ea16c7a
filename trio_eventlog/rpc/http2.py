"""h2's connection with an output of ours, and the budget for frames that are work without progress."""

import struct
from collections.abc import Iterable
from typing import Any

from trio_eventlog.rpc._purerpc import (
    ConnectionInputs,
    ErrorCodes,
    Frame,
    H2Configuration,
    H2Connection,
    H2ConnectionStateMachine,
    SettingCodes,
    Settings,
)
from trio_eventlog.rpc.settings import RpcSettings

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITY_FLAG = 0x01, 0x04, 0x08, 0x20
FRAME_HEADER = struct.Struct(">HBBBL")
"""Two parts of the length (its upper 16 bits, its lower 8), type, flags, stream id."""
FRAME_HEADER_BYTES = 9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW_BYTES_MAX = 0x7FFFFFFF

Buffer = bytes | bytearray | memoryview


class ConnectionFailure(Exception):
    """The peer broke a rule of the connection itself."""

    def __init__(self, code: ErrorCodes, message: str) -> None:
        super().__init__(message)
        self.code = code


class _StateMachine(H2ConnectionStateMachine):  # type: ignore[misc]
    """h2's closes the connection at a GOAWAY, sent or received, which would abort the calls that may still finish."""

    def process_input(self, input_: ConnectionInputs) -> Any:
        if input_ is ConnectionInputs.SEND_GOAWAY or input_ is ConnectionInputs.RECV_GOAWAY:
            return []
        return super().process_input(input_)


class Http2(H2Connection):  # type: ignore[misc]
    """h2's connection with its output as a list of buffers, so that payload is joined once, by the writer.

    It inherits because h2 has no other place to put an output of one's own: every frame that h2 makes passes through
    `_prepare_for_sending`.

    Attributes:
        output: what is to be written, in order.
        output_bytes: the total size of `output`.
    """

    def __init__(self, settings: RpcSettings, *, client_side: bool) -> None:
        super().__init__(H2Configuration(client_side=client_side, header_encoding=None))
        self.state_machine = _StateMachine()
        self.output: list[Buffer] = []
        self.output_bytes = 0
        self._extra_window_bytes = settings.connection_window_bytes - 65535
        self.local_settings = Settings(
            client=client_side,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: settings.streams_per_connection_max,
                SettingCodes.INITIAL_WINDOW_SIZE: settings.stream_window_bytes,
                SettingCodes.MAX_FRAME_SIZE: settings.frame_bytes_max,
                SettingCodes.MAX_HEADER_LIST_SIZE: settings.header_bytes_max,
            },
        )

    def begin(self) -> None:
        """Queues the preface (client), SETTINGS, and the WINDOW_UPDATE that widens the connection's window."""
        self.initiate_connection()
        self.put(bytes(self._data_to_send))
        self._data_to_send: bytearray = bytearray()
        if self._extra_window_bytes > 0:
            self.increment_flow_control_window(self._extra_window_bytes)

    def _prepare_for_sending(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            self.put(frame.serialize())

    def put(self, data: Buffer) -> None:
        """Queues bytes."""
        self.output.append(data)
        self.output_bytes += len(data)

    def put_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Queues one frame."""
        length = len(payload)
        self.put(FRAME_HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id) + payload)

    def put_block(self, stream_id: int, block: bytes, *, ends: bool) -> None:
        """Queues an encoded header block: HEADERS, and CONTINUATION for what the peer's frame size leaves over."""
        if self.encoder.header_table.resized:
            # The peer changed our table's size, which the next block has to acknowledge at its head (RFC 7541, 4.2).
            block = self.encoder.encode([]) + block
        size_max: int = self.max_outbound_frame_size
        flags = END_STREAM if ends else 0
        if len(block) <= size_max:
            self.put_frame(HEADERS, flags | END_HEADERS, stream_id, block)
            return
        self.put_frame(HEADERS, flags, stream_id, block[:size_max])
        for start in range(size_max, len(block), size_max):
            is_last = start + size_max >= len(block)
            self.put_frame(CONTINUATION, END_HEADERS if is_last else 0, stream_id, block[start : start + size_max])

    def take_output(self) -> list[Buffer]:
        """Everything to write, in order; it counts as written from here on."""
        output = self.output
        self.output = []
        self.output_bytes = 0
        return output

    def give_back_output(self, data: Buffer) -> None:
        """Puts bytes that were taken and could not be written at the front again."""
        self.output.insert(0, data)
        self.output_bytes += len(data)

    def clear_outbound_data_buffer(self) -> None:
        """h2 throws its output away at a GOAWAY; the calls that may still finish need it."""


class ControlBudget:
    """What a peer may send that is work without progress, and what may be queued in answer to it.

    Attributes:
        useless_frames: control frames since the connection began.
    """

    def __init__(self, settings: RpcSettings) -> None:
        self._settings = settings
        self.useless_frames = 0
        self._frames = 0
        self._answer_bytes = 0

    def count_frame(self) -> None:
        """Counts one frame of the current period. Raises ConnectionFailure over `control_frames_max`."""
        self.useless_frames += 1
        self._frames += 1
        if self._frames > self._settings.control_frames_max:
            raise ConnectionFailure(ErrorCodes.ENHANCE_YOUR_CALM, "too many control frames")

    def count_answer(self, size_bytes: int) -> None:
        """Counts bytes queued in answer to the peer's frames: a peer that does not read could make us queue them for ever.

        Raises ConnectionFailure over `control_bytes_max`.
        """
        self._answer_bytes += size_bytes
        if self._answer_bytes > self._settings.control_bytes_max:
            raise ConnectionFailure(ErrorCodes.ENHANCE_YOUR_CALM, "answers to control frames pile up unread")

    def renew(self) -> None:
        """Begins a new period of `control_seconds`."""
        self._frames = 0

    def answers_taken(self) -> None:
        """The output was taken to be written: nothing is queued."""
        self._answer_bytes = 0
