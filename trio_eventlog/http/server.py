"""HTTP/1.1 on an accepted stream, by h11."""

from collections.abc import Awaitable, Callable

import attrs
import trio

from trio_eventlog.net.mux import ConnectionInfo


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
    """Answer the requests of one connection, one after the other, until it ends."""
    raise NotImplementedError


async def health_handler(request: Request) -> Response:
    """The placeholder: `GET /health` says ok, everything else is 404 or 405."""
    raise NotImplementedError
