"""Answers without an end that is known when they begin: live tails, as server-sent events or as lines of JSON.

An answer that streams watches whether its client is still there. What it has to say is gathered while a write is under way, so that
many small events are one write; what a slow client does not take is bounded, and behind that bound its source waits.
"""

from collections.abc import Awaitable, Callable

import attrs
import trio
from starlette.responses import Response

from trio_eventlog.http.exchange import ClientLeft, Receive, Send
from trio_eventlog.http.heads import Scope
from trio_eventlog.service.background import background

NO_BUFFERING = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""A proxy that gathers a live answer into large pieces would take the life out of it."""


class Outlet:
    """Where the source of a stream leaves what is to be sent. Bounded: `put` waits while the client has not taken what is there.

    Args:
        bytes_max: gathered before the source has to wait; about the size of a write.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._is_closed = False
        self._filled = trio.Event()
        self._taken = trio.Event()

    async def put(self, part: bytes) -> None:
        """Have `part` sent, behind everything before it. An empty one is nothing: to the taker it would be the end."""
        if not part:
            await trio.lowlevel.checkpoint()
            return
        while self._size_bytes >= self._bytes_max:
            self._taken = trio.Event()
            await self._taken.wait()
        self._add(part)

    def close(self, last: bytes = b"") -> None:
        """Nothing comes behind `last`."""
        if not self._is_closed:
            self._is_closed = True
            self._add(last)

    async def take(self) -> bytes:
        """Everything that is there; waits for the first part. b"": it is closed."""
        await self._filled.wait()
        gathered = b"".join(self._parts)
        self._parts.clear()
        self._size_bytes = 0
        if not self._is_closed:
            self._filled = trio.Event()
        self._taken.set()
        return gathered

    def _add(self, part: bytes) -> None:
        self._parts.append(part)
        self._size_bytes += len(part)
        self._filled.set()


Source = Callable[[Outlet], Awaitable[None]]
"""Puts what is to be sent into the outlet; the answer ends when it returns."""


@attrs.frozen(slots=True, kw_only=True)
class StreamForm:
    """How a stream is written.

    Attributes:
        media_type: of the answer.
        first: sent at once.
        heartbeat: sent when nothing else was for `heartbeat_seconds`: proxies close what is silent, and a write shows that a client
            has gone.
        farewell: makes what is sent last when the node stops.
        write_bytes: events are gathered into writes of about this size.
    """

    media_type: str
    first: bytes
    heartbeat: bytes
    heartbeat_seconds: float
    farewell: Callable[[], bytes]
    write_bytes: int


class StreamAnswer(Response):
    """An answer that is sent as it comes to be known, until its source ends, the client leaves or the node stops.

    Args:
        at_end: called when it is over.
    """

    def __init__(self, source: Source, form: StreamForm, stopping: trio.Event, at_end: Callable[[], None]) -> None:
        super().__init__(None, 200, NO_BUFFERING, form.media_type)
        # Starlette counts the body that an answer is made with; this one has none yet.
        self.raw_headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        self._source = source
        self._form = form
        self._stopping = stopping
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ClientLeft."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                await self._stream(receive, send)
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._at_end()

    async def _stream(self, receive: Receive, send: Send) -> None:
        outlet = Outlet(self._form.write_bytes)
        sending, making = trio.CancelScope(), trio.CancelScope()
        async with background() as nursery:
            nursery.start_soon(_cancel_on_departure, receive, sending)
            nursery.start_soon(self._cancel_on_stop, making, outlet)
            nursery.start_soon(self._make, making, outlet)
            with sending:
                await self._send_on(outlet, send)
        if sending.cancelled_caught:
            raise ClientLeft("the client left while its answer was sent")

    async def _send_on(self, outlet: Outlet, send: Send) -> None:
        data = self._form.first
        while True:
            await send({"type": "http.response.body", "body": data, "more_body": True})
            data = self._form.heartbeat
            with trio.move_on_after(self._form.heartbeat_seconds):
                data = await outlet.take()
                if not data:
                    return

    async def _make(self, scope: trio.CancelScope, outlet: Outlet) -> None:
        with scope:
            await self._source(outlet)
            outlet.close()

    async def _cancel_on_stop(self, making: trio.CancelScope, outlet: Outlet) -> None:
        await self._stopping.wait()
        making.cancel()
        outlet.close(self._form.farewell())


async def _cancel_on_departure(receive: Receive, sending: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # What is left of the request's body says nothing here.
    sending.cancel()
