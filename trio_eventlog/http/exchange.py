"""One request and its answer: the two functions that ASGI gives to an application, over h11 and a stream."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import h11
import trio

from trio_eventlog.http.heads import Scope
from trio_eventlog.http.problems import PROBLEM_TYPE, TITLES, HttpProblem
from trio_eventlog.http.settings import HttpSettings

RECEIVE_BYTES = 256 * 1024
PIECE_BYTES = 64 * 1024
"""Of a body, as an application is given it; and of an answer, as it is written under one time limit."""
PIECES_PER_RECEIVE = 64
"""Chunks that are joined into one piece. Each costs time, and a client may send them of one byte each."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_DISCONNECT: Message = {"type": "http.disconnect"}


def reason_of(status: int) -> bytes:
    """The words behind the status."""
    return (TITLES.get(status) or "OK").encode()


class ClientLeft(OSError):
    """The client has gone, or takes nothing of its answer. ASGI wants an OSError from `send`."""


class Exchange:
    """One request whose head was read, until its answer was sent.

    Args:
        head_of_answer: called once, with status and headers of the application; returns the headers to send.

    Attributes:
        status: of the answer; 0 until it has begun.
        sent_bytes: of the answer's body.
        received_bytes: of the request's body.
        is_read: the request was read to its end.
        ahead: bytes that arrived while the answer was made: of the next request.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        connection: h11.Connection,
        settings: HttpSettings,
        scope: Scope,
        head_of_answer: Callable[[int, list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]],
    ) -> None:
        self.scope = scope
        self.status = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.last_active = trio.current_time()
        self.ahead = bytearray()
        self._stream = stream
        self._h11 = connection
        self._settings = settings
        self._head_of_answer = head_of_answer
        self._is_head = scope["method"] == "HEAD"
        self._is_chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        self.is_read = False
        self._has_begun_to_read = False
        self._start: Message | None = None
        self._tail = b""

    def take(self, data: bytes) -> None:
        """Bytes that have arrived behind the head."""
        if self._is_chunked:
            # The end of a body lies in the piece that completes it, but for three bytes at most.
            self._tail = self._tail[-3:] + data
        self._h11.receive_data(data)

    # What the application receives

    async def receive(self) -> Message:
        """The next piece of the body; once there is no more, waits until the client leaves.

        Raises:
            HttpProblem: 408, 400.
        """
        if self.is_read:
            await self._wait_departure()
            return _DISCONNECT
        if not self._has_begun_to_read:
            self._has_begun_to_read = True
        else:
            # What is in the buffer may be many small chunks.
            await trio.lowlevel.checkpoint()
        parts: list[bytes] = []
        size_bytes = 0
        while True:
            event = self._next_event()
            if event is h11.NEED_DATA:
                if parts:
                    break
                if not await self._receive_more():
                    return _DISCONNECT
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                size_bytes += len(event.data)
                if size_bytes >= PIECE_BYTES or len(parts) >= PIECES_PER_RECEIVE:
                    break
            else:
                self._end_request(event)
                break
        self.received_bytes += size_bytes
        return {"type": "http.request", "body": b"".join(parts), "more_body": not self.is_read}

    async def _receive_more(self) -> bool:
        """More bytes for h11; False: the client has left."""
        if self._h11.they_are_waiting_for_100_continue:
            go_ahead = self._h11.send(h11.InformationalResponse(status_code=100, headers=[]))
            await self._write(go_ahead or b"")
        with trio.move_on_after(self._settings.request_silence_seconds_max):
            try:
                data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
            except trio.BrokenResourceError:
                return False
            self.last_active = trio.current_time()
            if not data:
                return False
            self.take(data)
            return True
        raise HttpProblem(408, f"nothing of the body for {self._settings.request_silence_seconds_max:g} s")

    def _next_event(self) -> Any:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise HttpProblem(error.error_status_hint, str(error)) from error

    def _end_request(self, event: Any) -> None:
        assert isinstance(event, h11.EndOfMessage), event
        if event.headers:
            # Nothing here uses them, h11 is lenient about their lines, and not every proxy passes them on.
            raise HttpProblem(400, "trailers behind the body are not taken")
        if self._is_chunked:
            end = len(self._tail) - len(self._h11.trailing_data[0])
            if not self._tail.endswith(b"\r\n\r\n", 0, end):
                raise HttpProblem(400, "the body ends in a line feed without a carriage return")
        self.is_read = True

    async def _wait_departure(self) -> None:
        """Returns when the client has closed the connection. What it sends meanwhile belongs to its next request."""
        while len(self.ahead) <= self._settings.request_head_bytes_max:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            self.ahead += data
        # It sends ahead more than is kept: the rest stays in the network, and so does the end.
        await trio.sleep_forever()

    # What the application sends

    async def send(self, message: Message) -> None:
        """One message of the answer. Raises ClientLeft."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        assert message["type"] == "http.response.body", message["type"]
        body = message.get("body", b"")
        more = message.get("more_body", False)
        parts: list[bytes] = []
        if not self.status:
            assert self._start is not None
            parts.append(self._begin_answer(int(self._start["status"]), list(self._start.get("headers", ())), body, more))
        if body and not self._is_head:
            self.sent_bytes += len(body)
            parts.append(self._h11.send(h11.Data(data=body)) or b"")
        if not more:
            parts.append(self._h11.send(h11.EndOfMessage()) or b"")
        await self._write(b"".join(parts))

    async def send_whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """A whole answer. Raises ClientLeft."""
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def send_problem(self, problem: HttpProblem, request_id: str) -> None:
        """The answer to a request that failed before its answer had begun. Raises ClientLeft."""
        headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in problem.headers]
        await self.send_whole(problem.status, [(b"content-type", PROBLEM_TYPE.encode()), *headers], problem.body(request_id))

    def _begin_answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes, more: bool) -> bytes:
        self.status = status
        if not more and status >= 200 and status not in (204, 304) and all(name != b"content-length" for name, _ in headers):
            headers.append((b"content-length", str(len(body)).encode()))
        headers = self._head_of_answer(status, headers)
        if not self._reads_to_the_end():
            headers.append((b"connection", b"close"))
        return self._h11.send(h11.Response(status_code=status, headers=headers, reason=reason_of(status))) or b""

    def _reads_to_the_end(self) -> bool:
        """Whether the body was read, or what is not read of it has arrived already and is small."""
        if self.is_read:
            return True
        if self._has_begun_to_read:
            return False
        try:
            for _ in range(PIECES_PER_RECEIVE):
                event = self._h11.next_event()
                if isinstance(event, h11.EndOfMessage):
                    self._end_request(event)
                    return True
                if not isinstance(event, h11.Data):
                    return False
        except (h11.RemoteProtocolError, HttpProblem):
            return False
        return False

    @property
    def has_ended(self) -> bool:
        """The answer was sent to its end."""
        return self._h11.our_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)

    @property
    def may_go_on(self) -> bool:
        """Another request may follow on this connection."""
        return self.is_read and self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    @property
    def rest(self) -> bytes:
        """What has arrived of the next request."""
        return self._h11.trailing_data[0] + bytes(self.ahead)

    async def _write(self, data: bytes) -> None:
        """Write, as long as the client takes something."""
        view = memoryview(data)
        try:
            for begin in range(0, len(data), PIECE_BYTES):
                with trio.move_on_after(self._settings.answer_stall_seconds_max) as scope:
                    await self._stream.send_all(view[begin : begin + PIECE_BYTES])
                if scope.cancelled_caught:
                    raise ClientLeft(f"the client took nothing of its answer for {self._settings.answer_stall_seconds_max:g} s")
        except trio.BrokenResourceError as error:
            raise ClientLeft(str(error)) from error
        self.last_active = trio.current_time()
