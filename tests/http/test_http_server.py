"""HTTP/1.1 on a stream: the placeholder's answers, and the limits that protect the port."""

import json

import h11
import pytest
import trio
import trio.testing

from trio_eventlog.http.server import HttpHandler, HttpSettings, Request, Response, health_handler, serve_http
from trio_eventlog.net.mux import ConnectionInfo


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
        await serve_http(theirs, ConnectionInfo(remote_address="client:1"), handler, settings)
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
    settings = HttpSettings(header_bytes_max=1000)

    def with_headers(size: int) -> bytes:
        frame = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\nfiller: \r\n\r\n"
        return frame.replace(b"filler: ", b"filler: " + b"x" * (size - len(frame)))

    assert b" 200 " in await raw(with_headers(1000), settings)
    assert b" 431 " in await raw(with_headers(1100)[:1050], settings)


async def test_the_limit_of_a_body(nursery: trio.Nursery) -> None:
    async def count(request: Request) -> Response:
        return Response(status=200, body=str(len(request.body)).encode())

    settings = HttpSettings(body_bytes_max=1000)
    assert await (await start(nursery, count, settings)).ask("POST", "/", bytes(1000)) == (200, b"1000")
    client = await start(nursery, count, settings)
    (status, _) = await client.ask("POST", "/", bytes(1001))
    assert status == 413
    assert await end_of(client) == b""


async def test_a_slow_request_is_ended(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = await start(nursery, settings=HttpSettings(request_seconds_max=30, idle_seconds_max=5))
        for byte in b"GET /health HTTP/1.1\r\nx":
            await client.stream.send_all(bytes([byte]))
            await trio.sleep(2)
            if trio.current_time() > 29:
                break
        assert b" 408 " in await end_of(client)
        assert trio.current_time() == pytest.approx(30, abs=1)


async def test_an_idle_connection_is_closed_without_a_word(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = await start(nursery, settings=HttpSettings(idle_seconds_max=75))
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
