"""A client's half of the protocol: requests out, responses in."""

from typing import Any

from trio_eventlog.rpc._purerpc import (
    ConnectionInputs,
    ConnectionState,
    ErrorCodes,
    ResponseEnded,
    ResponseReceived,
    Status,
    StatusCode,
    StreamInputs,
)
from trio_eventlog.rpc.header_frames import HeadCache
from trio_eventlog.rpc.headers import (
    ACCEPT_ENCODING,
    HeaderList,
    ResponseHead,
    encode_headers,
    encode_metadata,
    encode_timeout,
    parse_response,
)
from trio_eventlog.rpc.http2 import ConnectionFailure, ControlBudget, Http2
from trio_eventlog.rpc.methods import Metadata, Pairs
from trio_eventlog.rpc.settings import RpcSettings
from trio_eventlog.rpc.status import CallStatus, decode_status_text
from trio_eventlog.rpc.stream_entry import StreamEntry
from trio_eventlog.rpc.streams import Streams

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


class ClientSide:
    """Requests out, responses in."""

    def __init__(self, settings: RpcSettings, h2: Http2, budget: ControlBudget, streams: Streams) -> None:
        self._h2 = h2
        self._budget = budget
        self._streams = streams
        self.heads = HeadCache(settings, _parse)

    def start_call(self, path: str, authority: str, scheme: str, timeout_seconds: float, metadata: Pairs) -> StreamEntry:
        """Opens a stream and queues the request's headers. Raises `H2Error` when there are no stream ids left."""
        h2 = self._h2
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
        entry = self._streams.open(stream_id)
        self._streams.put_block(entry, encode_headers(headers), ends=False)
        return entry

    def receive_block(self, stream_id: int, block: bytes, ends: bool, events: list[Any]) -> None:
        """A response's headers or trailers."""
        entry = self._streams.entries.get(stream_id)
        is_trailer = entry is not None and entry.is_response_started
        head: ResponseHead = self.heads.head(block, is_trailer=is_trailer)
        if entry is None:
            if not self._streams.was_opened(stream_id):
                raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "HEADERS on a stream that was never opened")
            return
        if head.malformed or not entry.can_receive or (is_trailer and not ends):
            self._streams.break_off(entry, ErrorCodes.PROTOCOL_ERROR, events)
            return
        if not is_trailer:
            if 100 <= head.http_status < 200:
                self._budget.count_frame()
                if ends:
                    self._streams.break_off(entry, ErrorCodes.PROTOCOL_ERROR, events)
                return
            entry.is_response_started = True
            entry.encoding = head.encoding
            received = ResponseReceived(stream_id, head.content_type)
            received.custom_metadata = Metadata() if ends else head.metadata
            events.append(received)
            if not ends and (head.http_status != 200 or not head.content_type.startswith("application/grpc")):
                self._streams.stop_reading(entry, _http_status(head), events)
                return
        if not ends:
            return
        if entry.is_within_message:
            status = CallStatus(code=StatusCode.INTERNAL, message="the response ended in the middle of a message")
            self._streams.stop_reading(entry, status, events)
        entry.h2.state_machine.process_input(StreamInputs.RECV_END_STREAM)
        self._end_response(entry, head, events)

    def end_receiving(self, entry: StreamEntry, events: list[Any]) -> None:
        """A DATA frame has ended the response, which has no trailers then."""
        if self._streams.end_receiving(entry, events):
            self._end_response(entry, ResponseHead(), events)
        if entry.is_closed:
            self._streams.forget(entry)

    def _end_response(self, entry: StreamEntry, head: ResponseHead, events: list[Any]) -> None:
        if head.status is None:
            status = _http_status(head)
            ended = ResponseEnded(entry.stream_id, Status(status.code, status.message))
        else:
            ended = ResponseEnded(entry.stream_id, Status(head.status, decode_status_text(head.message)))
            ended.custom_metadata = head.metadata
        events.append(ended)
        if entry.is_closed:
            self._streams.forget(entry)
        else:
            # The server answered without waiting for all requests: the rest is not needed.
            self._streams.reset_quietly(entry)


def _parse(headers: HeaderList, size_bytes: int, size_bytes_max: int, is_trailer: bool) -> ResponseHead:
    return parse_response(headers, size_bytes, size_bytes_max, is_trailer=is_trailer)


def _http_status(head: ResponseHead) -> CallStatus:
    if head.http_status in (0, 200):
        return CallStatus(code=StatusCode.INTERNAL, message="the server's answer ended without a gRPC status")
    code = _HTTP_STATUS.get(head.http_status, StatusCode.UNKNOWN)
    return CallStatus(code=code, message=f"the server answered with HTTP status {head.http_status}, not with gRPC")
