"""A server's half of the protocol: requests in, responses out."""

from typing import Any

from trio_eventlog.rpc._purerpc import (
    ConnectionInputs,
    ConnectionState,
    ErrorCodes,
    RequestEnded,
    StatusCode,
    StreamInputs,
)
from trio_eventlog.rpc.events import CallReceived
from trio_eventlog.rpc.header_frames import HeadCache
from trio_eventlog.rpc.headers import ACCEPT_ENCODING, HeaderList, RequestHead, encode_headers, encode_metadata, parse_request
from trio_eventlog.rpc.http2 import RST_STREAM, ConnectionFailure, ControlBudget, Http2
from trio_eventlog.rpc.methods import Pairs
from trio_eventlog.rpc.settings import RpcSettings
from trio_eventlog.rpc.status import CODE_TRAILER, CallStatus, encode_status_text
from trio_eventlog.rpc.stream_entry import StreamEntry
from trio_eventlog.rpc.streams import Streams

_RESPONSE_HEADERS = [
    (b":status", b"200"),
    (b"content-type", b"application/grpc+proto"),
    (b"grpc-accept-encoding", ACCEPT_ENCODING),
]
_RESPONSE_BLOCK = encode_headers(_RESPONSE_HEADERS)
_OK_BLOCK = encode_headers([(b"grpc-status", b"0")])


class ServerSide:
    """Requests in, responses out."""

    def __init__(self, settings: RpcSettings, h2: Http2, budget: ControlBudget, streams: Streams) -> None:
        self._concurrent_calls_max = settings.streams_per_connection_max
        self._h2 = h2
        self._budget = budget
        self._streams = streams
        self.heads = HeadCache(settings, _parse)

    def receive_block(self, stream_id: int, block: bytes, ends: bool, events: list[Any]) -> None:
        """A request's headers or trailers."""
        entry = self._streams.entries.get(stream_id)
        if entry is None:
            self._receive_request(stream_id, block, ends, events)
            return
        self.heads.head(block, is_trailer=True)
        if not entry.can_receive or not ends:
            code = ErrorCodes.PROTOCOL_ERROR if entry.can_receive else ErrorCodes.STREAM_CLOSED
            self._streams.break_off(entry, code, events)
        else:
            self.end_receiving(entry, events)

    def end_receiving(self, entry: StreamEntry, events: list[Any]) -> None:
        """The client has sent its last request."""
        if self._streams.end_receiving(entry, events):
            events.append(RequestEnded(entry.stream_id))
        if entry.is_closed:
            self._streams.forget(entry)

    def _receive_request(self, stream_id: int, block: bytes, ends: bool, events: list[Any]) -> None:
        h2 = self._h2
        if not stream_id % 2:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "a client's stream has an odd number")
        head: RequestHead = self.heads.head(block, is_trailer=False)
        if stream_id <= h2.highest_inbound_stream_id:
            self._budget.count_frame()  # Trailers that were on their way when we reset the stream.
            return
        if h2.state_machine.state is ConnectionState.IDLE:
            h2.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
        streams = self._streams
        if streams.is_draining or len(streams.entries) >= self._concurrent_calls_max or head.malformed:
            h2.highest_inbound_stream_id = stream_id
            code = ErrorCodes.PROTOCOL_ERROR if head.malformed else ErrorCodes.REFUSED_STREAM
            self._budget.count_frame()
            before = h2.output_bytes
            h2.put_frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))
            self._budget.count_answer(h2.output_bytes - before)
            return
        entry = streams.open(stream_id)
        machine = entry.h2.state_machine
        machine.process_input(StreamInputs.RECV_HEADERS)
        if head.refusal is not None:
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
        self._budget.count_frame()
        if ends:
            entry.h2.state_machine.process_input(StreamInputs.RECV_END_STREAM)
        code = "BATCH_TOO_LARGE" if refusal.status is StatusCode.RESOURCE_EXHAUSTED else "INVALID_ARGUMENT"
        status = CallStatus(code=refusal.status, message=refusal.message, details={CODE_TRAILER: code})
        headers = [(b":status", refusal.http_status), *_RESPONSE_HEADERS[1:], *_status_headers(status, ())]
        before = self._h2.output_bytes
        self._streams.put_block(entry, encode_headers(headers), ends=True)
        if ends:
            self._streams.forget(entry)
        else:
            self._streams.reset(entry.stream_id, ErrorCodes.NO_ERROR)
        self._budget.count_answer(self._h2.output_bytes - before)

    def begin_response(self, entry: StreamEntry, metadata: Pairs) -> None:
        """Queues the response's headers."""
        entry.is_response_started = True
        extra = encode_metadata(metadata)
        self._streams.put_block(entry, _RESPONSE_BLOCK + encode_headers(extra) if extra else _RESPONSE_BLOCK, ends=False)

    def finish_response(self, entry: StreamEntry, status: CallStatus, trailing: Pairs, initial: Pairs) -> None:
        """Ends a call with its status; what the client still sends is no longer wanted."""
        if not entry.can_send:
            return
        if entry.is_response_started:
            trailers = encode_headers(_status_headers(status, trailing)) if trailing or not status.is_ok else _OK_BLOCK
        else:
            headers = [*_RESPONSE_HEADERS, *encode_metadata(initial), *_status_headers(status, trailing)]
            trailers = encode_headers(headers)
        self._streams.put_block(entry, trailers, ends=True)
        if entry.is_closed:
            self._streams.forget(entry)
            self._streams.release(entry)
        else:
            # The client may be in the middle of a long upload: NO_ERROR asks it to stop, the answer stands.
            self._streams.reset(entry.stream_id, ErrorCodes.NO_ERROR)

    def refuse_call(self, entry: StreamEntry, status: CallStatus | None) -> None:
        """Ends a call that was not run: with a status, or, with None, so that the client may repeat it at another node.

        Raises ConnectionFailure when too many refusals are queued.
        """
        before = self._h2.output_bytes
        if status is None:
            self._streams.reset(entry.stream_id, ErrorCodes.REFUSED_STREAM)
        else:
            self.finish_response(entry, status, (), ())
        self._budget.count_frame()
        self._budget.count_answer(self._h2.output_bytes - before)


def _parse(headers: HeaderList, size_bytes: int, size_bytes_max: int, is_trailer: bool) -> Any:
    # Trailers of a request mean nothing in gRPC.
    return True if is_trailer else parse_request(headers, size_bytes, size_bytes_max)


def _status_headers(status: CallStatus, metadata: Pairs) -> list[tuple[bytes, bytes]]:
    headers = [(b"grpc-status", b"%d" % status.code.value)]
    if status.message:
        headers.append((b"grpc-message", encode_status_text(status.message).encode("ascii")))
    headers += [(name.encode("ascii"), encode_status_text(value).encode("ascii")) for name, value in status.details.items()]
    headers += encode_metadata(metadata)
    return headers
