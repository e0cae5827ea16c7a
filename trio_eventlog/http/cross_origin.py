"""Use of the interface by pages of other origins (CORS): off, unless the settings name them."""

from collections.abc import Sequence

from trio_eventlog.http.exchange import Application, Message, Receive, Send
from trio_eventlog.http.heads import Scope
from trio_eventlog.http.problems import HttpProblem

ALLOWED_METHODS = b"GET, HEAD, POST, PATCH, DELETE"
ALLOWED_HEADERS = b"accept, content-type, content-encoding, if-none-match, last-event-id, range, x-request-id, x-scope-orgid"
EXPOSED_HEADERS = b"etag, content-range, location, retry-after, server-timing, x-request-id"
PREFLIGHT_SECONDS = b"600"


class CrossOrigin:
    """Answers preflights, and names the origin in answers, for origins that may use the interface.

    Args:
        origins: such as "https://example.org"; "*" stands for all. None: a browser keeps every answer from pages of other origins.
    """

    def __init__(self, application: Application, origins: Sequence[str]) -> None:
        self._application = application
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = self._allowed_origin(scope)
        if origin is None:
            await self._application(scope, receive, send)
            return
        headers = [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
        asks = any(name == b"access-control-request-method" for name, _ in scope["headers"])
        if scope["method"] == "OPTIONS" and asks:
            headers += [
                (b"access-control-allow-methods", ALLOWED_METHODS),
                (b"access-control-allow-headers", ALLOWED_HEADERS),
                (b"access-control-max-age", PREFLIGHT_SECONDS),
            ]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        headers.append((b"access-control-expose-headers", EXPOSED_HEADERS))

        async def send_with_origin(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        try:
            await self._application(scope, receive, send_with_origin)
        except HttpProblem as problem:
            problem.headers += tuple((name.decode(), value.decode()) for name, value in headers)
            raise

    def _allowed_origin(self, scope: Scope) -> bytes | None:
        origin = next((bytes(value) for name, value in scope["headers"] if name == b"origin"), None)
        if origin is None or not self._origins:
            return None
        return origin if origin in self._origins or b"*" in self._origins else None
