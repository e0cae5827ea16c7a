"""HTTP/1.1 on an accepted stream, by h11."""

import json
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import attrs
import h11
import trio

from trio_eventlog.budgets import Activity, Allowance
from trio_eventlog.net.mux import ConnectionInfo

RECEIVE_BYTES = 64 * 1024


@attrs.frozen(slots=True, kw_only=True)
class HttpSettings:
    """Limits of one HTTP connection.

    Attributes:
        request_head_bytes_max: request line and headers together, however they arrive.
        request_body_bytes_max: of a request.
        request_seconds_max: from its first byte to its last.
        request_idle_seconds_max: between two requests of a connection.
        linger_seconds_max: after an answer that came before its request was read: so long what still comes is thrown away, because
            closing at once would reset the connection and could take the answer with it.
        linger_bytes_max: thrown away at most.
    """

    request_head_bytes_max: int
    request_body_bytes_max: int
    request_seconds_max: float
    request_idle_seconds_max: float
    linger_seconds_max: float
    linger_bytes_max: int


@attrs.frozen(slots=True, kw_only=True)
class Request:
    """One request, its body read. `target` is "/path?query" (an absolute form has lost its front); header names are lower case."""

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

HeadHandler = Callable[[Request], Response | None]
"""Answers a request by its head: `body` is empty, and the body is not read. None: `HttpHandler` is to have it, with its body."""


async def serve_http(
    stream: trio.abc.Stream,
    info: ConnectionInfo,
    handler: HttpHandler,
    settings: HttpSettings,
    *,
    answer_head: HeadHandler | None = None,
    bodies: Allowance | None = None,
) -> None:
    """Answer the requests of one connection, one after the other, until it ends. The caller closes the stream.

    A request that is malformed, too large or too slow is answered with 400, 431, 413 or 408 and ends the connection, and so does
    one that has a body and is answered by its head. What the handler raises is answered with 500 and goes on to the caller, who
    logs it.

    Args:
        answer_head: asked first. Without, all requests are the handler's.
        bodies: bytes of bodies that all connections may hold together; over it: 503. Without, each has its own limit alone.
    """
    connection = _Connection(stream, info, settings, answer_head or _answer_none, bodies or Allowance("bodies", 1 << 62))
    began = trio.current_time()
    requests = 0
    info.standing.look = lambda: Activity(requests, int(connection.is_at_work), max(began, connection.last_active))
    while True:
        try:
            request = await connection.receive_request()
            if request is None:
                return
            requests += 1
            response = connection.answer_head(request)
            if response is None:
                response = await handler(request)
        except _AnsweredEarly as early:
            requests += 1
            connection.forget_body()
            await connection.send_response(early.response, must_close=True)
            await connection.linger()
            return
        except h11.RemoteProtocolError as error:
            await connection.send_response(json_response(error.error_status_hint, {"error": str(error)}), must_close=True)
            await connection.linger()
            return
        except Exception:
            await connection.send_response(json_response(500, {"error": "internal error"}), must_close=True)
            raise
        finally:
            connection.forget_body()
        if not await connection.send_response(response, is_head=request.method == "HEAD"):
            return


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


def probe_head(unready_because: Callable[[], str]) -> Callable[[Request], Response]:
    """Answers probes, and says of all else by its head that it is not there."""

    def answer_head(request: Request) -> Response:
        answer = answer_probe(request.path, unready_because)
        if answer is None:
            return json_response(404, {"error": f"nothing at {request.path}"})
        if request.method not in ("GET", "HEAD"):
            return json_response(405, {"error": f"{request.method} is not allowed here"}, headers=(("allow", "GET, HEAD"),))
        return answer

    return answer_head


def health_handler(unready_because: Callable[[], str]) -> HttpHandler:
    """The same for whole requests."""
    answer_head = probe_head(unready_because)

    async def handle(request: Request) -> Response:
        return answer_head(request)

    return handle


def _answer_none(request: Request) -> None:
    return None


class _AnsweredEarly(Exception):
    """A request that gets its answer before it was read to its end."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def _refused(status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> _AnsweredEarly:
    return _AnsweredEarly(json_response(status, {"error": text}, headers))


class _Connection:
    """One connection: h11's view of it, and the body that is held."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        info: ConnectionInfo,
        settings: HttpSettings,
        answer_head: HeadHandler,
        bodies: Allowance,
    ) -> None:
        self.answer_head = answer_head
        self.is_at_work = False
        self.last_active = float("-inf")
        self._stream = stream
        self._info = info
        self._settings = settings
        self._bodies = bodies
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=settings.request_head_bytes_max)

    async def receive_request(self) -> Request | None:
        """The next request, whole; None when the client has gone or idles. Raises _AnsweredEarly and h11.RemoteProtocolError."""
        settings = self._settings
        head: Request | None = None
        with trio.CancelScope() as scope:
            # The stream begins with bytes of a request (the mux has seen them), later requests may take their time to begin.
            began = bool(self._h11.trailing_data[0])
            scope.deadline = trio.current_time() + (settings.request_seconds_max if began else settings.request_idle_seconds_max)
            while True:
                event = self._h11.next_event()
                if event is h11.NEED_DATA:
                    if self._h11.they_are_waiting_for_100_continue:
                        go_ahead = self._h11.send(h11.InformationalResponse(status_code=100, headers=[]))
                        await self._stream.send_all(go_ahead or b"")
                    data = await self._stream.receive_some(RECEIVE_BYTES)
                    self.last_active = trio.current_time()
                    if data and not began:
                        began = True
                        scope.deadline = trio.current_time() + settings.request_seconds_max
                    self._h11.receive_data(bytes(data))
                elif isinstance(event, h11.Request):
                    self.is_at_work = True
                    head = self._judge(event)
                elif isinstance(event, h11.Data):
                    self._hold(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    assert head is not None
                    # Trailers: h11 limits them only while they are not whole.
                    _check_headers_size(0, event.headers, settings.request_head_bytes_max)
                    return attrs.evolve(head, body=b"".join(self._body))
                else:  # ConnectionClosed or PAUSED: no further request
                    return None
        if began:
            raise _refused(408, f"no whole request in {settings.request_seconds_max:g} s")
        return None

    def _judge(self, event: h11.Request) -> Request:
        """What the head says. Raises _AnsweredEarly when the body is not worth reading."""
        # h11 compares with the limit what is not whole yet: a head that comes in one piece may be as long as a read.
        _check_headers_size(len(event.method) + len(event.target), event.headers, self._settings.request_head_bytes_max)
        names = {name for name, _ in event.headers}
        if b"content-length" in names and b"transfer-encoding" in names:
            # Two who believe different ones of the two see different requests in the same bytes (RFC 9112, 6.3).
            raise _refused(400, "content-length and transfer-encoding in one request")
        head = Request(
            method=event.method.decode("ascii"),
            target=_origin_form(event.target.decode("ascii")),
            headers=tuple(event.headers),
            body=b"",
            info=self._info,
        )
        length = next((int(value) for name, value in event.headers if name == b"content-length"), 0)
        if length > self._settings.request_body_bytes_max:
            raise self._too_large()
        if (length or b"transfer-encoding" in names) and (response := self.answer_head(head)) is not None:
            raise _AnsweredEarly(response)
        return head

    def _hold(self, data: bytes) -> None:
        if self._body_bytes + len(data) > self._settings.request_body_bytes_max:
            raise self._too_large()
        if not self._bodies.take_nowait(len(data)):
            raise _refused(503, "too many large requests at once; try again", headers=(("retry-after", "1"),))
        self._body_bytes += len(data)
        self._body.append(data)

    def _too_large(self) -> _AnsweredEarly:
        return _refused(413, f"a body of more than {self._settings.request_body_bytes_max} bytes")

    def forget_body(self) -> None:
        """The request is done with: its bytes are free for others."""
        self._bodies.give_back(self._body_bytes)
        self._body_bytes = 0
        self._body = []

    async def send_response(self, response: Response, *, must_close: bool = False, is_head: bool = False) -> bool:
        """One whole response in one write; without a word when h11 can say nothing any more. Whether another request may follow."""
        connection = self._h11
        if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return False
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
        await self._stream.send_all(b"".join(part or b"" for part in parts))
        self.is_at_work = False
        state: object = connection.our_state
        if must_close or state is h11.MUST_CLOSE:
            return False
        connection.start_next_cycle()
        return True

    async def linger(self) -> None:
        """Say that nothing more comes, and let the other side read it before the connection is closed."""
        left = self._settings.linger_bytes_max
        with trio.move_on_after(self._settings.linger_seconds_max):
            try:
                if isinstance(self._stream, trio.abc.HalfCloseableStream):
                    await self._stream.send_eof()
                while left > 0 and (data := await self._stream.receive_some(RECEIVE_BYTES)):
                    left -= len(data)
            except (trio.BrokenResourceError, TypeError):
                return  # It has gone, or it is TLS, which cannot close one direction only.


def _check_headers_size(line_bytes: int, headers: Sequence[tuple[bytes, bytes]], limit: int) -> None:
    if line_bytes + sum(len(name) + len(value) + 4 for name, value in headers) + 14 > limit:
        raise _refused(431, f"headers of more than {limit} bytes")


def _origin_form(target: str) -> str:
    """ "/path?query"; proxies and some probes send the whole URL (RFC 9112, 3.2.2)."""
    if not target.lower().startswith(("http://", "https://")):
        return target
    try:
        url = urlsplit(target)
    except ValueError:
        return target
    return (url.path or "/") + (f"?{url.query}" if url.query else "")
