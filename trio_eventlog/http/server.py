"""HTTP/1.1 on an accepted stream, by h11."""

import json
from collections.abc import Awaitable, Callable

import attrs
import h11
import trio

from trio_eventlog.net.mux import ConnectionInfo

RECEIVE_BYTES = 64 * 1024


@attrs.frozen(slots=True, kw_only=True)
class HttpSettings:
    """Limits of one HTTP connection.

    Attributes:
        header_bytes_max: request line and headers together.
        body_bytes_max: of a request.
        request_seconds_max: from its first byte to its last.
        idle_seconds_max: between two requests of a connection.
    """

    header_bytes_max: int = 32 * 1024
    body_bytes_max: int = 16 * 1024 * 1024
    request_seconds_max: float = 30.0
    idle_seconds_max: float = 75.0


@attrs.frozen(slots=True, kw_only=True)
class Request:
    """One request, its body read. `target` is as sent ("/path?query"); header names are lower case."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    info: ConnectionInfo

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


@attrs.frozen(slots=True, kw_only=True)
class Response:
    """One whole response."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


HttpHandler = Callable[[Request], Awaitable[Response]]


async def serve_http(
    stream: trio.abc.Stream, info: ConnectionInfo, handler: HttpHandler, settings: HttpSettings | None = None
) -> None:
    """Answer the requests of one connection, one after the other, until it ends. The caller closes the stream.

    A request that is malformed, too large or too slow is answered with 400, 431, 413 or 408 and ends the connection. What the
    handler raises is answered with 500 and goes on to the caller, who logs it.
    """
    settings = settings or HttpSettings()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=settings.header_bytes_max)
    while True:
        try:
            request = await _receive_request(stream, connection, info, settings)
        except _BadRequest as bad:
            await _send_response(stream, connection, json_response(bad.status, {"error": bad.text}), must_close=True)
            return
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            await _send_response(stream, connection, json_response(status, {"error": str(error)}), must_close=True)
            return
        if request is None:
            return
        try:
            response = await handler(request)
        except Exception:
            await _send_response(stream, connection, json_response(500, {"error": "internal error"}), must_close=True)
            raise
        await _send_response(stream, connection, response, must_close=False, is_head=request.method == "HEAD")
        if connection.our_state is h11.MUST_CLOSE:
            return
        connection.start_next_cycle()


def json_response(status: int, value: object, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """`value` as JSON."""
    return Response(status=status, body=json.dumps(value).encode(), headers=headers)


def answer_probe(path: str, unready_because: Callable[[], str]) -> Response | None:
    """The answer to a GET of a probe; None: it is none.

    `/health` is liveness: it answers, so the event loop turns, and that is all it says. It looks at no other node, no quorum
    and no disk: a restart, which is what follows when it fails, mends none of them.

    `/ready` is readiness: 200 when `unready_because` gives "", else 503 with what it gives.
    """
    if path == "/health":
        return json_response(200, {"status": "ok"})
    if path == "/ready":
        reason = unready_because()
        return json_response(503, {"status": "not ready", "reason": reason}) if reason else json_response(200, {"status": "ready"})
    return None


def health_handler(unready_because: Callable[[], str]) -> HttpHandler:
    """Answers probes."""

    async def handle(request: Request) -> Response:
        answer = answer_probe(request.path, unready_because)
        if answer is None:
            return json_response(404, {"error": f"nothing at {request.path}"})
        if request.method not in ("GET", "HEAD"):
            return json_response(405, {"error": f"{request.method} is not allowed here"}, headers=(("allow", "GET, HEAD"),))
        return answer

    return handle


class _BadRequest(Exception):
    """A request that is answered without the handler."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


async def _receive_request(
    stream: trio.abc.Stream, connection: h11.Connection, info: ConnectionInfo, settings: HttpSettings
) -> Request | None:
    """The next request, whole; None when the client has gone or idles. Raises _BadRequest and h11.RemoteProtocolError."""
    head: h11.Request | None = None
    body: list[bytes] = []
    body_bytes = 0
    with trio.CancelScope() as scope:
        # The stream begins with bytes of a request (the mux has seen them), later requests may take their time to begin.
        began = bool(connection.trailing_data[0])
        scope.deadline = trio.current_time() + (settings.request_seconds_max if began else settings.idle_seconds_max)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    go_ahead = connection.send(h11.InformationalResponse(status_code=100, headers=[]))
                    await stream.send_all(go_ahead or b"")
                data = await stream.receive_some(RECEIVE_BYTES)
                if data and not began:
                    began = True
                    scope.deadline = trio.current_time() + settings.request_seconds_max
                connection.receive_data(bytes(data))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body_bytes += len(event.data)
                if body_bytes > settings.body_bytes_max:
                    raise _BadRequest(413, f"a body of more than {settings.body_bytes_max} bytes")
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                return Request(
                    method=head.method.decode("ascii"),
                    target=head.target.decode("ascii"),
                    headers=tuple(head.headers),
                    body=b"".join(body),
                    info=info,
                )
            else:  # ConnectionClosed or PAUSED: no further request
                return None
    if began:
        raise _BadRequest(408, f"no whole request in {settings.request_seconds_max:g} s")
    return None


async def _send_response(
    stream: trio.abc.Stream, connection: h11.Connection, response: Response, *, must_close: bool, is_head: bool = False
) -> None:
    """One whole response in one write. Without a word when h11 can say nothing any more."""
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    headers = [
        ("content-type", response.content_type),
        ("content-length", str(len(response.body))),
        *response.headers,
        *([("connection", "close")] if must_close else []),
    ]
    parts = [
        connection.send(h11.Response(status_code=response.status, headers=headers)),
        connection.send(h11.Data(data=response.body)) if response.body and not is_head else b"",
        connection.send(h11.EndOfMessage()),
    ]
    await stream.send_all(b"".join(part or b"" for part in parts))
