"""Every bound of the gRPC engine, in one frozen value."""

import attrs

from trio_eventlog.errors import SettingsError


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class RpcSettings:
    """Limits of one gRPC connection, either side. The defaults are what the daemon runs with.

    Attributes:
        message_bytes_max: largest message taken or sent, after inflation. Over it: RESOURCE_EXHAUSTED with
            `BATCH_TOO_LARGE`, on that call only.
        stream_window_bytes: what a peer may send on one call before the handler has read it.
        connection_window_bytes: the same for all calls of the connection together.
        overdraft_bytes_max: what may be held beyond the windows, all calls together: a message larger than its window is let in
            as it comes, or it would never be complete. Over it: OVERLOADED, on that call only.
        frame_bytes_max: largest inbound frame.
        receive_bytes: how much is asked of the socket at once.
        send_buffer_bytes: how much output may be queued before senders wait for the socket.
        call_slot_seconds: how long a client's call waits until the server allows one more at once; then OVERLOADED, unsent.
        streams_per_connection_max: number of calls at a time; further ones are refused and may be repeated on another connection.
        header_bytes_max: largest header list taken, decoded, as HTTP/2 counts it (32 bytes more per header).
        header_block_bytes_max: largest encoded header block that reaches the HPACK decoder. A call with headers beyond
            `header_bytes_max` is refused alone; a block beyond this ends the connection, as what is not decoded leaves the
            tables of the two sides apart.
        control_frames_max: frames without payload progress (PING, SETTINGS, RST_STREAM, PRIORITY, empty DATA, ...) a
            peer may send per `control_seconds`; over it the connection ends.
        control_seconds: the period of `control_frames_max`.
        useless_frames_per_second_max: the same of all connections of a server together. When there are more, connections that sent
            more than an equal part are not read from until the second is over.
        frames_per_pass: frames of one connection looked at before others have their turn.
        control_bytes_max: unsent answers to control frames; over it the connection ends.
        preface_timeout_seconds: how long the peer may take from the first byte to its SETTINGS.
        idle_timeout_seconds: a connection without calls is closed after this (server side); inf: never.
        keepalive_seconds: PING after this long without a byte from the peer; inf: never.
        keepalive_timeout_seconds: the connection is lost when nothing comes within this time after the PING.
        call_silence_seconds: the same for a client's connection with open calls: it is lost when nothing has come for this long,
            answers to PINGs included. PINGs leave after a quarter of it. Below the round-trip time no call succeeds; inf: the
            two settings above apply with and without calls.
        goodbye_seconds: how long a connection that ends waits for its last bytes to leave, and a drained one for the client to
            close it.
        messages_per_checkpoint: a sender that never has to wait lets others run after this many messages...
        bytes_per_checkpoint: ...or this many bytes.
    """

    message_bytes_max: int
    stream_window_bytes: int
    connection_window_bytes: int
    overdraft_bytes_max: int
    frame_bytes_max: int
    receive_bytes: int
    send_buffer_bytes: int
    streams_per_connection_max: int
    header_bytes_max: int
    header_block_bytes_max: int
    control_frames_max: int
    control_seconds: float
    useless_frames_per_second_max: int
    frames_per_pass: int
    control_bytes_max: int
    preface_timeout_seconds: float
    idle_timeout_seconds: float
    keepalive_seconds: float
    keepalive_timeout_seconds: float
    call_silence_seconds: float
    call_slot_seconds: float
    goodbye_seconds: float
    messages_per_checkpoint: int
    bytes_per_checkpoint: int

    def __attrs_post_init__(self) -> None:
        """Raises SettingsError for what HTTP/2 does not allow or would make every call hang."""
        for name, (lowest, highest) in _RANGES.items():
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise SettingsError(f"gRPC setting {name} is {value}; it must be from {lowest} to {highest}")
        for attribute in attrs.fields(RpcSettings):
            if attribute.name.endswith("_seconds") and not getattr(self, attribute.name) > 0:
                raise SettingsError(f"gRPC setting {attribute.name} is {getattr(self, attribute.name)}; it must be over 0")


_WINDOW_MAX = 2**31 - 1
_RANGES: dict[str, tuple[int, int]] = {
    "message_bytes_max": (1, 2**31 - 1),
    # The connection's window starts at 65,535 bytes by the standard, and can only be opened further.
    "stream_window_bytes": (1024, _WINDOW_MAX),
    "connection_window_bytes": (65_535, _WINDOW_MAX),
    "overdraft_bytes_max": (0, 2**62),
    "frame_bytes_max": (16_384, 2**24 - 1),
    "receive_bytes": (1024, 2**26),
    "send_buffer_bytes": (1024, 2**31),
    "streams_per_connection_max": (1, 2**31 - 1),
    "header_bytes_max": (1024, 2**24),
    # A frame of other kinds than DATA may be as long as this, and peers may send 16 KiB without asking.
    "header_block_bytes_max": (16_384, 2**24),
    "control_frames_max": (100, 2**62),
    "useless_frames_per_second_max": (1, 2**62),
    "frames_per_pass": (1, 2**31),
    "control_bytes_max": (1024, 2**62),
    "messages_per_checkpoint": (1, 2**31),
    "bytes_per_checkpoint": (1, 2**62),
}
