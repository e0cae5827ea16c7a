"""HTTP/1.1 on accepted streams: connections, their limits, and an ASGI application that answers.

One task serves a connection: its requests one after the other, so that pipelined ones are answered in order. Nothing here opens a
nursery; an application that answers with a stream watches for the client's departure itself (`receive`).
"""

import email.utils
import logging
import random
from collections.abc import Callable

import attrs
import h11
import trio

from trio_eventlog.budgets import Activity
from trio_eventlog.errors import EventLogError
from trio_eventlog.http.exchange import RECEIVE_BYTES, Application, ClientLeft, Exchange, reason_of
from trio_eventlog.http.heads import check_head, find_head_end, make_scope, requested_id
from trio_eventlog.http.problems import PROBLEM_TYPE, HttpProblem, problem_of
from trio_eventlog.http.settings import HttpSettings
from trio_eventlog.net.mux import ConnectionInfo

access_logger = logging.getLogger("trio_eventlog.http.access")

KINDS_OF_STATUS = ("2xx", "3xx", "4xx", "5xx", "left")

RequestHeaders = list[tuple[bytes, bytes]]


@attrs.define(slots=True)
class HttpStatistics:
    """Counters since the start.

    Attributes:
        requests: by the hundred of their status ("2xx"); "left": the client left before its answer began.
        seconds: from the end of a head to the end of its answer, all together. Tails and uploads take long.
        uploads: those of `requests` that brought records.
        received_bytes, sent_bytes: of bodies.
    """

    requests: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(KINDS_OF_STATUS, 0))
    uploads: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(KINDS_OF_STATUS, 0))
    seconds: float = 0.0
    received_bytes: int = 0
    sent_bytes: int = 0


class HttpServer:
    """Serves any number of connections.

    Args:
        rng: makes ids of requests that bring none.
        now_ns: the wall clock, for `Date`.

    Attributes:
        open_requests: requests that are answered now.
    """

    def __init__(self, application: Application, settings: HttpSettings, *, rng: random.Random, now_ns: Callable[[], int]) -> None:
        self.application = application
        self.settings = settings
        self.open_requests = 0
        self.statistics = HttpStatistics()
        self.is_stopping = False
        self.idle: dict[trio.CancelScope, None] = {}
        self._rng = rng
        self._now_ns = now_ns
        self._date = (0, b"")
        self._all_answered = trio.Event()

    async def serve(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        """Answer the requests of one connection, one after the other, until it ends. The caller closes the stream.

        A request that is malformed, too large or too slow is answered with 400, 431, 413 or 408 and ends the connection. An
        `HttpProblem` or `EventLogError` of the application becomes the answer; anything else is answered with 500 and goes on to
        the caller, who logs it.
        """
        await _Connection(self, stream, info).serve()

    async def drain(self, deadline: float) -> None:
        """Close connections that idle, and wait until every request was answered, at most until `deadline`.

        Answers that begin from now on say that their connection is closed behind them.
        """
        self.is_stopping = True
        for scope in self.idle:
            scope.cancel()
        if self.open_requests:
            with trio.CancelScope(deadline=deadline):
                await self._all_answered.wait()

    # For connections

    def begin_request(self) -> None:
        self.open_requests += 1

    def end_request(self) -> None:
        self.open_requests -= 1
        if self.is_stopping and not self.open_requests:
            self._all_answered.set()

    def new_request_id(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"

    def date(self) -> bytes:
        """The value of `Date`."""
        seconds = self._now_ns() // 1_000_000_000
        if seconds != self._date[0]:
            self._date = (seconds, email.utils.formatdate(seconds, usegmt=True).encode())
        return self._date[1]


class _Connection:
    """One connection: what it has asked for, and what has arrived of its next request."""

    def __init__(self, server: HttpServer, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        self._server = server
        self._settings = server.settings
        self._stream = stream
        self._info = info
        self._buffer = bytearray()
        self._requests = 0
        self._last_active = trio.current_time()
        self._exchange: Exchange | None = None
        self._request_id = ""
        self._began = 0.0

    async def serve(self) -> None:
        self._info.standing.look = self._activity
        try:
            while await self._serve_request():
                pass
        except ClientLeft:
            return

    def _activity(self) -> Activity:
        exchange = self._exchange
        last_active = self._last_active if exchange is None else exchange.last_active
        return Activity(self._requests, int(exchange is not None), last_active)

    async def _serve_request(self) -> bool:
        """The next request and its answer. Whether another one may follow."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=self._settings.request_head_bytes_max)
        self._request_id = ""
        try:
            head = await self._receive_head()
            if head is None:
                return False
            self._requests += 1
            self._began = trio.current_time()
            exchange = self._exchange = self._make_exchange(connection, head)
        except HttpProblem as problem:
            self._requests += 1
            await self._refuse(problem)
            return False
        self._server.begin_request()
        try:
            await self._answer(exchange)
        finally:
            self._server.end_request()
            self._exchange = None
            self._last_active = exchange.last_active
            self._note(exchange)
        if exchange.may_go_on and not self._server.is_stopping:
            self._buffer = bytearray(exchange.rest)
            return True
        # Without the end of an answer, the client learns that it is not whole.
        if exchange.has_ended and not exchange.is_read:
            await self._linger()
        return False

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._server.application(exchange.scope, exchange.receive, exchange.send)
        except HttpProblem as problem:
            await self._answer_problem(exchange, problem)
        except EventLogError as error:
            await self._answer_problem(exchange, problem_of(error))
        except ClientLeft:
            raise
        except Exception:
            await self._answer_problem(exchange, HttpProblem(500, "something is wrong in this node; its log says what"))
            raise
        if not exchange.status:
            raise AssertionError(f"no answer to {exchange.scope['method']} {exchange.scope['path']}")

    async def _answer_problem(self, exchange: Exchange, problem: HttpProblem) -> None:
        if not exchange.status:
            await exchange.send_problem(problem, self._request_id)

    async def _receive_head(self) -> bytes | None:
        """The next head, taken from the buffer; None: the client has gone or idles, or the server stops. Raises HttpProblem."""
        settings, buffer = self._settings, self._buffer
        looked_at = 0
        with trio.CancelScope() as scope:
            began = bool(buffer)
            seconds = settings.request_seconds_max if began else settings.request_idle_seconds_max
            scope.deadline = trio.current_time() + seconds
            try:
                while True:
                    while not looked_at and buffer.startswith(b"\r\n"):
                        # An empty line in front of a request is no harm (RFC 9112, 2.2).
                        del buffer[:2]
                    if (end := find_head_end(buffer, looked_at, settings.request_head_bytes_max)) >= 0:
                        head = bytes(buffer[:end])
                        del buffer[:end]
                        return head
                    looked_at = len(buffer)
                    if not buffer:
                        if self._server.is_stopping:
                            return None
                        self._server.idle[scope] = None
                    try:
                        data = await self._stream.receive_some(RECEIVE_BYTES)
                    except trio.BrokenResourceError:
                        return None
                    self._server.idle.pop(scope, None)
                    if not data:
                        return None
                    self._last_active = trio.current_time()
                    if not began:
                        began = True
                        scope.deadline = self._last_active + settings.request_seconds_max
                    buffer += data
            finally:
                self._server.idle.pop(scope, None)
        if began:
            raise HttpProblem(408, f"no whole head of a request in {settings.request_seconds_max:g} s")
        return None

    def _make_exchange(self, connection: h11.Connection, head: bytes) -> Exchange:
        check_head(head, self._settings.request_headers_max)
        connection.receive_data(head)
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise HttpProblem(error.error_status_hint, str(error)) from error
        if not isinstance(event, h11.Request):
            raise HttpProblem(400, "no head of a request")
        scope = make_scope(event, self._info)
        self._request_id = requested_id(scope["headers"]) or self._server.new_request_id()
        scope["state"]["request_id"] = self._request_id
        exchange = Exchange(self._stream, connection, self._settings, scope, self._head_of_answer)
        if self._buffer:
            exchange.take(bytes(self._buffer))
            self._buffer.clear()
        return exchange

    def _head_of_answer(self, status: int, headers: RequestHeaders) -> RequestHeaders:
        milliseconds = (trio.current_time() - self._began) * 1000
        headers += [
            (b"date", self._server.date()),
            (b"x-request-id", self._request_id.encode()),
            (b"server-timing", b"app;dur=%.2f" % milliseconds),
        ]
        if self._server.is_stopping:
            headers.append((b"connection", b"close"))
        return headers

    async def _refuse(self, problem: HttpProblem) -> None:
        """Answer bytes that are no request that anything could be asked about, and end the connection."""
        self._request_id = self._request_id or self._server.new_request_id()
        self._began = trio.current_time()
        body = problem.body(self._request_id)
        headers = [(b"content-type", PROBLEM_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        headers = [*self._head_of_answer(problem.status, headers), (b"connection", b"close")]
        connection = h11.Connection(h11.SERVER)
        parts = [
            connection.send(h11.Response(status_code=problem.status, headers=headers, reason=reason_of(problem.status))),
            connection.send(h11.Data(data=body)),
            connection.send(h11.EndOfMessage()),
        ]
        with trio.move_on_after(self._settings.answer_stall_seconds_max):
            try:
                await self._stream.send_all(b"".join(part or b"" for part in parts))
            except trio.BrokenResourceError:
                return
        self._count(problem.status)
        await self._linger()

    async def _linger(self) -> None:
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

    def _count(self, status: int, is_upload: bool = False) -> None:
        kind = f"{status // 100}xx" if status else "left"
        statistics = self._server.statistics
        for counts in (statistics.requests, statistics.uploads) if is_upload else (statistics.requests,):
            counts[kind] += 1

    def _note(self, exchange: Exchange) -> None:
        """Count the request, and write it to the access log."""
        statistics = self._server.statistics
        seconds = trio.current_time() - self._began
        statistics.seconds += seconds
        statistics.received_bytes += exchange.received_bytes
        statistics.sent_bytes += exchange.sent_bytes
        self._count(exchange.status, "is_upload" in exchange.scope["state"])
        if self._settings.http_access_log:
            scope = exchange.scope
            access_logger.info(
                "%s %s",
                scope["method"],
                # With its percent signs: a decoded path could begin a line of its own.
                scope["raw_path"].decode("ascii"),
                extra={
                    "status": exchange.status,
                    "milliseconds": round(seconds * 1000, 2),
                    "received_bytes": exchange.received_bytes,
                    "sent_bytes": exchange.sent_bytes,
                    "client": self._info.remote_address,
                    "request_id": self._request_id,
                },
            )
