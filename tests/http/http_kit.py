"""Clients and applications for tests of HTTP: everything over streams in memory."""

import json
import random
from collections.abc import Mapping
from typing import Any

import h11
import trio
import trio.testing

from trio_eventlog.http.exchange import Application, ClientLeft, Receive, Send
from trio_eventlog.http.heads import Scope
from trio_eventlog.http.probes import LazyApplication
from trio_eventlog.http.problems import HttpProblem
from trio_eventlog.http.server import HttpServer
from trio_eventlog.http.settings import HttpSettings
from trio_eventlog.net.mux import ConnectionInfo
from trio_eventlog.testing.defaults import default

NOW_NS = 1_700_000_000_000_000_000


class ProbedNode:
    """A node as probes see it, which is ready or not."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason

    def liveness(self) -> Mapping[str, object]:
        return {"node_id": "n1"}

    def unready_because(self) -> str:
        return self.reason


async def not_there(scope: Scope, receive: Receive, send: Send) -> None:
    await trio.lowlevel.checkpoint()
    raise HttpProblem(404, f"nothing at {scope['path']}")


def probes(reason: str = "") -> Application:
    """Answers probes, and nothing else is there."""
    return LazyApplication(ProbedNode(reason), lambda: not_there)


async def read_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body += message["body"]
        if not message["more_body"]:
            return body


async def answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The body, backwards."""
    await answer(send, 200, (await read_body(receive))[::-1])


def make_server(app: Application, settings: HttpSettings | None = None) -> HttpServer:
    return HttpServer(app, settings or default(HttpSettings), rng=random.Random(1), now_ns=lambda: NOW_NS)


class Client:
    """A connection to a server."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.connection = h11.Connection(h11.CLIENT)
        self.headers: dict[bytes, bytes] = {}

    async def ask(
        self, method: str, target: str, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
    ) -> tuple[int, bytes]:
        """Status and body of the answer; `headers` has its headers."""
        lengths = [("content-length", str(len(body)))] if body or method in ("POST", "PUT") else []
        request = h11.Request(method=method, target=target, headers=[("host", "x"), *lengths, *headers])
        data = self.connection.send(request) or b""
        if body:
            data += self.connection.send(h11.Data(data=body)) or b""
        data += self.connection.send(h11.EndOfMessage()) or b""
        await self.stream.send_all(data)
        got = await self.answer()
        if self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE:
            self.connection.start_next_cycle()
        return got

    async def ask_json(
        self, method: str, target: str, value: Any = None, headers: tuple[tuple[str, str], ...] = ()
    ) -> tuple[int, Any]:
        """The same with JSON both ways; None when the answer has no body."""
        body = b"" if value is None else json.dumps(value).encode()
        types = () if value is None else (("content-type", "application/json"),)
        status, said = await self.ask(method, target, body, (*types, *headers))
        return status, json.loads(said) if said else None

    async def answer(self) -> tuple[int, bytes]:
        status = 0
        body = b""
        while True:
            event = self.connection.next_event()
            if event is h11.NEED_DATA:
                self.connection.receive_data(bytes(await self.stream.receive_some()))
            elif isinstance(event, h11.Response):
                status = event.status_code
                self.headers = dict(event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, body
            else:
                assert isinstance(event, h11.InformationalResponse), event


async def serve_on(nursery: trio.Nursery, server: HttpServer) -> trio.abc.HalfCloseableStream:
    """A new connection to the server, on which it serves until it is done."""
    (mine, theirs) = trio.testing.memory_stream_pair()

    async def serve() -> None:
        try:
            await server.serve(theirs, ConnectionInfo(remote_address="client:1"))
        finally:
            await theirs.aclose()

    nursery.start_soon(serve)
    return mine


async def start(nursery: trio.Nursery, app: Application | None = None, settings: HttpSettings | None = None) -> Client:
    return Client(await serve_on(nursery, make_server(app or probes(), settings)))


async def end_of(client: Client) -> bytes:
    """Everything that still comes."""
    return b"".join([bytes(chunk) async for chunk in client.stream])


async def raw(data: bytes, settings: HttpSettings | None = None, app: Application | None = None) -> bytes:
    """Everything a server says to `data`, behind which the client says no more."""
    async with trio.open_nursery() as nursery:
        client = await start(nursery, app, settings)
        await client.stream.send_all(data)
        await client.stream.send_eof()
        return await end_of(client)
