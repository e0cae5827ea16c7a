"""What a connection knows of one of its open streams."""

from trio_eventlog.rpc._purerpc import H2Stream, StreamState
from trio_eventlog.rpc.http2 import Buffer


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

    @property
    def is_closed(self) -> bool:
        return self.h2.state_machine.state is StreamState.CLOSED

    @property
    def is_within_message(self) -> bool:
        """A part of a message has arrived that a call waits for."""
        return not self.is_discarding and (self.need >= 0 or bool(self.prefix))
