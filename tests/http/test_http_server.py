"""HTTP/1.1 on a stream: the placeholder's answers, and the limits that protect the port."""

import json
from contextlib import suppress

import h11
import pytest
import trio
import trio.testing

from trio_eventlog.budgets import Allowance
from trio_eventlog.http.server import HttpHandler, HttpSettings, Request, Response, health_handler, probe_head, serve_http
from trio_eventlog.net.mux import ConnectionInfo
from trio_eventlog.testing.defaults import default


class Client:
    """A connection to a server that runs beside the test."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.connection = h11.Connection(h11.CLIENT)

    async def ask(
        self, method: str, target: str, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
    ) -> tuple[int, bytes]:
        request = h11.Request(method=method, target=target, headers=[("host", "x"), ("content-length", str(len(body))), *headers])
        data = self.connection.send(request) or b""
        if body:
            data += self.connection.send(h11.Data(data=body)) or b""
        data += self.connection.send(h11.EndOfMessage()) or b""
        await self.stream.send_all(data)
        answer = await self.answer()
        if self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE:
            self.connection.start_next_cycle()
        return answer

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
                assert isinstance(event, h11.InformationalResponse)


ALWAYS_READY = health_handler(lambda: "")


async def start(nursery: trio.Nursery, handler: HttpHandler = ALWAYS_READY, settings: HttpSettings | None = None) -> Client:
    (mine, theirs) = trio.testing.memory_stream_pair()

    async def serve() -> None:
        await serve_http(theirs, ConnectionInfo(remote_address="client:1"), handler, settings or default(HttpSettings))
        await theirs.aclose()

    nursery.start_soon(serve)
    return Client(mine)


async def end_of(client: Client) -> bytes:
    return b"".join([bytes(chunk) async for chunk in client.stream])


async def raw(data: bytes, settings: HttpSettings | None = None) -> bytes:
    """Everything a server says to `data`."""
    async with trio.open_nursery() as nursery:
        client = await start(nursery, settings=settings)
        await client.stream.send_all(data)
        return await end_of(client)


async def test_health(nursery: trio.Nursery) -> None:
    client = await start(nursery)
    (status, body) = await client.ask("GET", "/health?verbose=1")
    assert (status, json.loads(body)) == (200, {"status": "ok"})
    assert client.headers[b"content-type"] == b"application/json"


@pytest.mark.parametrize(
    ("reason", "status", "answer"),
    [("", 200, {"status": "ready"}), ("no leader", 503, {"status": "not ready", "reason": "no leader"})],
)
async def test_readiness_is_not_liveness(nursery: trio.Nursery, reason: str, status: int, answer: dict[str, str]) -> None:
    client = await start(nursery, health_handler(lambda: reason))
    for _ in range(2):
        (got, body) = await client.ask("GET", "/ready")
        assert (got, json.loads(body)) == (status, answer)
        assert (await client.ask("GET", "/health"))[0] == 200
    assert (await client.ask("POST", "/ready"))[0] == 405


async def test_one_connection_serves_many_requests(nursery: trio.Nursery) -> None:
    client = await start(nursery)
    answers = [await client.ask(*ask) for ask in (("GET", "/health"), ("GET", "/nothing"), ("POST", "/health"), ("GET", "/health"))]
    assert [status for status, _ in answers] == [200, 404, 405, 200]
    assert json.loads(answers[1][1]) == {"error": "nothing at /nothing"}


async def test_405_says_what_is_allowed(nursery: trio.Nursery) -> None:
    client = await start(nursery)
    await client.ask("DELETE", "/health")
    assert client.headers[b"allow"] == b"GET, HEAD"


async def test_head_has_no_body(nursery: trio.Nursery) -> None:
    client = await start(nursery)
    assert await client.ask("HEAD", "/health") == (200, b"")
    assert client.headers[b"content-length"] == b"16"
    assert await client.ask("GET", "/health") == (200, b'{"status": "ok"}')


async def test_pipelined_requests_are_answered_in_order() -> None:
    request = b"GET %s HTTP/1.1\r\nhost: x\r\n%s\r\n"
    said = await raw(request % (b"/health", b"") + request % (b"/other", b"connection: close\r\n"))
    assert said.index(b"200") < said.index(b"404")


async def test_the_handler_sees_the_whole_request(nursery: trio.Nursery) -> None:
    async def echo(request: Request) -> Response:
        assert request.info.remote_address == "client:1"
        assert (b"x-scope-orgid", b"me") in request.headers
        return Response(status=201, body=request.body[::-1], content_type="text/plain", headers=(("x-path", request.path),))

    client = await start(nursery, echo)
    assert await client.ask("POST", "/a?b", b"abc" * 50_000, (("X-Scope-OrgID", "me"),)) == (201, b"cba" * 50_000)
    assert client.headers[b"x-path"] == b"/a"


async def test_expect_100_continue(nursery: trio.Nursery) -> None:
    async def echo(request: Request) -> Response:
        return Response(status=200, body=request.body)

    client = await start(nursery, echo)
    await client.stream.send_all(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
    assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
    await client.stream.send_all(b"hi")
    assert (await client.stream.receive_some()).endswith(b"\r\n\r\nhi")


async def test_http_1_0_closes() -> None:
    said = await raw(b"GET /health HTTP/1.0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
        (b"\x00\x01\x02\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: magic\r\n\r\n", b"501"),
        (b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"200"),
    ],
)
async def test_malformed_requests_are_answered_and_end_the_connection(data: bytes, status: bytes) -> None:
    said = await raw(data)
    assert said.split(b" ")[1] == status
    assert said.count(b"HTTP/1.1 ") == 1


async def test_the_limit_of_headers() -> None:
    settings = default(HttpSettings, request_head_bytes_max=1000)

    def with_headers(size: int) -> bytes:
        frame = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\nfiller: \r\n\r\n"
        return frame.replace(b"filler: ", b"filler: " + b"x" * (size - len(frame)))

    assert b" 200 " in await raw(with_headers(1000), settings)
    assert b" 431 " in await raw(with_headers(1100)[:1050], settings)


async def test_the_limit_of_a_body(nursery: trio.Nursery) -> None:
    async def count(request: Request) -> Response:
        return Response(status=200, body=str(len(request.body)).encode())

    settings = default(HttpSettings, request_body_bytes_max=1000)
    assert await (await start(nursery, count, settings)).ask("POST", "/", bytes(1000)) == (200, b"1000")
    client = await start(nursery, count, settings)
    (status, _) = await client.ask("POST", "/", bytes(1001))
    assert status == 413
    assert await end_of(client) == b""


POST = b"POST %s HTTP/1.1\r\nhost: x\r\n%s\r\n"


@pytest.mark.parametrize(
    ("target", "length", "status"),
    [(b"/nothing", b"15000000", b"404"), (b"/health", b"1000", b"405"), (b"/nothing", b"16777217", b"413")],
)
@pytest.mark.parametrize("continues", [b"", b"expect: 100-continue\r\n"])
async def test_what_the_head_decides_is_answered_without_the_body(
    target: bytes, length: bytes, status: bytes, continues: bytes, nursery: trio.Nursery
) -> None:
    """The head is all that was sent, and the answer comes, and the end; a client that waits to go on is not told to."""
    allowance = Allowance("bodies", 1)
    (mine, theirs) = trio.testing.memory_stream_pair()

    async def serve() -> None:
        info = ConnectionInfo(remote_address="client:1")
        await serve_http(theirs, info, ALWAYS_READY, default(HttpSettings), answer_head=probe_head(lambda: ""), bodies=allowance)
        await theirs.aclose()

    nursery.start_soon(serve)
    await mine.send_all(POST % (target, b"content-length: " + length + b"\r\n" + continues))
    said = bytes(await mine.receive_some())
    assert said.startswith(b"HTTP/1.1 " + status)
    assert b"connection: close" in said.lower()
    assert await mine.receive_some() == b""
    assert allowance.refused == 0


async def test_a_client_that_sends_on_reads_the_answer(autojump_clock: trio.testing.MockClock) -> None:
    """What comes after the answer is thrown away for a moment, and no longer, and not without end."""
    settings = default(HttpSettings, linger_seconds_max=1.0, linger_bytes_max=100_000)
    async with trio.open_nursery() as nursery:
        (mine, theirs) = trio.testing.memory_stream_pair()

        async def serve() -> None:
            await serve_http(theirs, ConnectionInfo(), ALWAYS_READY, settings, answer_head=probe_head(lambda: ""))
            await theirs.aclose()

        nursery.start_soon(serve)
        began = trio.current_time()
        await mine.send_all(POST % (b"/x", b"content-length: 15000000\r\n") + bytes(50_000))
        assert b" 404 " in bytes(await mine.receive_some())
        await mine.send_all(bytes(40_000))
        assert await mine.receive_some() == b""
    assert trio.current_time() - began == pytest.approx(1.0)


async def test_bodies_of_all_connections_share_a_budget(nursery: trio.Nursery) -> None:
    """At the limit one fits; together they do not; what is done with is given back."""
    allowance = Allowance("bodies", 1000)
    go_on = trio.Event()

    async def hold(request: Request) -> Response:
        await go_on.wait()
        return Response(status=200, body=b"%d" % len(request.body))

    clients = []
    for _ in range(2):
        (mine, theirs) = trio.testing.memory_stream_pair()
        nursery.start_soon(
            lambda theirs=theirs: serve_http(theirs, ConnectionInfo(), hold, default(HttpSettings), bodies=allowance)
        )
        clients.append(Client(mine))
    await clients[0].stream.send_all(POST % (b"/", b"content-length: 1000\r\n") + bytes(1000))
    await trio.testing.wait_all_tasks_blocked()
    assert (await clients[1].ask("POST", "/", b"x"))[0] == 503
    assert clients[1].headers[b"retry-after"] == b"1"
    go_on.set()
    assert b" 200 " in bytes(await clients[0].stream.receive_some())
    await trio.testing.wait_all_tasks_blocked()
    assert allowance.used == 0


@pytest.mark.parametrize("order", [0, 1])
async def test_two_lengths_are_refused(order: int) -> None:
    """Behind a proxy that believes the other one, the rest would be another request."""
    both = (b"content-length: 4\r\n", b"transfer-encoding: chunked\r\n")
    said = await raw(POST % (b"/health", both[order] + both[1 - order]) + b"0\r\n\r\nGET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("chunk", [1 << 20, 4096, 100])
async def test_the_limit_of_headers_holds_however_they_arrive(chunk: int, nursery: trio.Nursery) -> None:
    """In one read, or in many."""
    client = await start(nursery, settings=default(HttpSettings, request_head_bytes_max=32 * 1024))
    data = b"GET /health HTTP/1.1\r\nhost: x\r\nfiller: " + b"x" * 40_000 + b"\r\n\r\n"

    async def send() -> None:
        with suppress(trio.BrokenResourceError):
            for at in range(0, len(data), chunk):
                await client.stream.send_all(data[at : at + chunk])

    nursery.start_soon(send)
    assert bytes(await client.stream.receive_some()).startswith(b"HTTP/1.1 431 ")


async def test_trailers_have_the_limit_of_headers() -> None:
    """They come after the body, and are headers all the same."""
    trailers = b"x: " + b"y" * 2000 + b"\r\n"
    data = POST % (b"/", b"transfer-encoding: chunked\r\n") + b"1\r\nz\r\n0\r\n" + trailers + b"\r\n"
    assert b" 431 " in await raw(data, default(HttpSettings, request_head_bytes_max=1000))


@pytest.mark.parametrize("target", ["http://host/health", "HTTP://host:8400/health?x=1", "https://[::1]/ready"])
async def test_the_absolute_form(nursery: trio.Nursery, target: str) -> None:
    """A server has to take it (RFC 9112, 3.2.2): proxies and some probes send it."""
    assert (await (await start(nursery)).ask("GET", target))[0] == 200


async def test_a_slow_request_is_ended(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = await start(nursery, settings=default(HttpSettings, request_seconds_max=30, request_idle_seconds_max=5))
        for byte in b"GET /health HTTP/1.1\r\nx":
            await client.stream.send_all(bytes([byte]))
            await trio.sleep(2)
            if trio.current_time() > 29:
                break
        assert b" 408 " in await end_of(client)
        assert trio.current_time() == pytest.approx(30, abs=1)


async def test_an_idle_connection_is_closed_without_a_word(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = await start(nursery, settings=default(HttpSettings, request_idle_seconds_max=75))
        assert (await client.ask("GET", "/health"))[0] == 200
        assert await end_of(client) == b""
        assert trio.current_time() == pytest.approx(75)


async def test_a_client_that_goes_away_is_no_error(nursery: trio.Nursery) -> None:
    for first in (b"", b"GET /hea"):
        client = await start(nursery)
        if first:
            await client.stream.send_all(first)
        await client.stream.send_eof()
        await end_of(client)


async def test_a_crashing_handler_is_500_and_goes_on_to_the_caller() -> None:
    async def crash(request: Request) -> Response:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with trio.open_nursery() as nursery:
            client = await start(nursery, crash)
            (status, body) = await client.ask("GET", "/")
            assert status == 500
            assert b"bug" not in body
            await trio.sleep_forever()
    assert caught.value.subgroup(ZeroDivisionError) is not None
