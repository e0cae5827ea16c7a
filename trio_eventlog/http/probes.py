"""Liveness and readiness, which need nothing but the node. The rest of the application is loaded by its first request."""

import json
from collections.abc import Callable, Mapping
from typing import Protocol

import trio

from trio_eventlog.http.exchange import Application, Receive, Send
from trio_eventlog.http.heads import Scope
from trio_eventlog.http.problems import HttpProblem

PROBE_PATHS = ("/health", "/ready")


class Probed(Protocol):
    """A node, as probes see it."""

    def liveness(self) -> Mapping[str, object]:
        """What `/health` says beside its status. It looks at no other node, no quorum and no disk."""

    def unready_because(self) -> str:
        """Why the node should be given no work just now; "" when it should."""


def answer_probe(path: str, node: Probed) -> tuple[int, dict[str, object]] | None:
    """Status and answer of a probe; None: it is none.

    `/health` is liveness: it answers, so the event loop turns, and that is all that its status says. It looks at no other node, no
    quorum and no disk: a restart, which is what follows when it fails, mends none of them.

    `/ready` is readiness: 200 when the node should be given work, else 503 with the reason.
    """
    if path == "/health":
        return 200, {"status": "healthy", **node.liveness()}
    if path == "/ready":
        reason = node.unready_because()
        return (503, {"status": "not ready", "reason": reason}) if reason else (200, {"status": "ready"})
    return None


class LazyApplication:
    """Answers probes, and loads the rest when something else is asked for: a node that starts needs none of it.

    Args:
        load: imports and makes the application.
    """

    def __init__(self, node: Probed, load: Callable[[], Application]) -> None:
        self._node = node
        self._load = load
        self._application: Application | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = answer_probe(scope["path"], self._node)
        if answer is None or scope["method"] == "OPTIONS":
            if self._application is None:
                self._application = self._load()
            await self._application(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            raise HttpProblem(405, f"{scope['method']} is not allowed here", headers=[("allow", "GET, HEAD, OPTIONS")])
        await trio.lowlevel.checkpoint()
        status, value = answer
        body = json.dumps(value).encode()
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
