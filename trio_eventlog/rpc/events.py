"""What a connection gives to its user: purerpc's events (`MessageReceived`, `RequestEnded`, `ResponseReceived`, `ResponseEnded`,
`WindowUpdated`) and those that it lacks."""

import attrs

from trio_eventlog.rpc._purerpc import RequestReceived
from trio_eventlog.rpc.headers import RequestHead
from trio_eventlog.rpc.status import CallStatus
from trio_eventlog.rpc.stream_entry import StreamEntry


class CallReceived(RequestReceived):  # type: ignore[misc]
    """purerpc's event of a new request, with its head as we read it."""

    def __init__(self, stream_id: int, head: RequestHead, entry: StreamEntry) -> None:
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
    """The server takes no further calls; it has not looked at those above `last_stream_id`."""

    last_stream_id: int
    error_code: int
    message: bytes


@attrs.define(slots=True)
class PingAcknowledged:
    """Our PING came back."""

    payload: bytes
