"""The server side: services, handlers' context, and one connection's life."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol

import trio

from .methods import Encoded, Metadata, Method, Pairs, Peer
from .settings import RpcSettings

Handler = Callable[..., Awaitable[Any]]
"""By the kind of the method:

- unary: `async def handler(request, context) -> response`
- client stream: `async def handler(requests, context) -> response`
- server stream: `async def handler(request, context, send) -> None`
- bidirectional: `async def handler(requests, context, send) -> None`

`requests` is a `Requests`; `await send(message)` waits for room under HTTP/2 flow control. A response is a message or `Encoded`.
A handler ends its call with an error by raising an `EventLogError`; anything else that leaves it is logged and told as UNKNOWN.
"""


class Send(Protocol):
    """Sends one response; waits while the peer does not read."""

    async def __call__(self, message: Any | Encoded) -> None: ...


class Requests(Protocol):
    """The requests of a call, in order. `async for request in requests`, or:"""

    async def receive(self) -> Any:
        """The next request; None when the client is done sending. (bytes when the method was asked for raw.)"""

    def __aiter__(self) -> "Requests": ...

    async def __anext__(self) -> Any: ...


class Context:
    """What a handler knows about its call, beside the request. The handler runs under a cancel scope with `deadline`."""

    method: Method
    peer: Peer
    metadata: Metadata
    deadline: float

    def set_initial_metadata(self, pairs: Pairs) -> None:
        """Metadata for the response's head; it leaves with the first message."""

    async def send_initial_metadata(self, pairs: Pairs = ()) -> None:
        """Sends the response's head now, before any message."""

    def set_trailing_metadata(self, pairs: Pairs) -> None:
        """Metadata to send with the status at the end."""


class Service:
    """A service: its descriptor, and a handler for each method."""

    def __init__(self, descriptor: Any, handlers: Mapping[str, Handler], *, raw: Collection[str] = ()) -> None:
        """`raw` names methods whose requests are given to the handler as bytes, not parsed."""


class Server:
    """Serves `services` on any number of connections."""

    def __init__(self, services: Collection[Service], settings: RpcSettings = RpcSettings()) -> None:  # noqa: B008
        raise NotImplementedError

    async def serve(self, stream: trio.abc.Stream, peer: Peer = Peer()) -> None:  # noqa: B008
        """Speaks HTTP/2 and gRPC on an accepted stream until the connection ends, and closes it."""

    def start_draining(self) -> None:
        """GOAWAY to every client: calls that run may finish, new ones are refused, connections end when they are idle."""

    async def drain(self, deadline: float) -> None:
        """`start_draining`, then waits until every connection has ended; cancels what still runs at `deadline` (trio's clock)."""


async def serve_connection(
    stream: trio.abc.Stream,
    services: Collection[Service],
    settings: RpcSettings = RpcSettings(),  # noqa: B008
    peer: Peer = Peer(),  # noqa: B008
) -> None:
    """One connection without a `Server` to drain it by."""
