"""HTTP/1.1 on a stream: the limits that protect the port, and what ASGI promises an application."""

import json
from contextlib import suppress

import pytest
import trio
import trio.testing
from http_kit import NOW_NS, Client, answer, echo, end_of, make_server, probes, raw, read_body, serve_on, start

from trio_eventlog.http.exchange import Receive, Send
from trio_eventlog.http.heads import Scope
from trio_eventlog.http.problems import HttpProblem
from trio_eventlog.http.settings import HttpSettings
from trio_eventlog.net.mux import ConnectionInfo
from trio_eventlog.testing.defaults import default

GET = b"GET %s HTTP/1.1\r\nhost: x\r\n%s\r\n"
POST = b"POST %s HTTP/1.1\r\nhost: x\r\n%s\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"


# Probes


async def test_health(nursery: trio.Nursery) -> None:
    client = await start(nursery)
    (status, body) = await client.ask("GET", "/health?verbose=1")
    assert (status, json.loads(body)) == (200, {"status": "healthy", "node_id": "n1"})
    assert client.headers[b"content-type"] == b"application/json"


@pytest.mark.parametrize(
    ("reason", "status", "said"),
    [("", 200, {"status": "ready"}), ("no leader", 503, {"status": "not ready", "reason": "no leader"})],
)
async def test_readiness_is_not_liveness(nursery: trio.Nursery, reason: str, status: int, said: dict[str, str]) -> None:
    client = await start(nursery, probes(reason))
    for _ in range(2):
        (got, body) = await client.ask("GET", "/ready")
        assert (got, json.loads(body)) == (status, said)
        assert (await client.ask("GET", "/health"))[0] == 200
    assert (await client.ask("POST", "/ready"))[0] == 405


# One connection, many requests


async def test_one_connection_serves_many_requests(nursery: trio.Nursery) -> None:
    client = await start(nursery)
    answers = [await client.ask(*ask) for ask in (("GET", "/health"), ("GET", "/nothing"), ("POST", "/health"), ("GET", "/health"))]
    assert [status for status, _ in answers] == [200, 404, 405, 200]


async def test_an_error_is_a_problem_with_a_code(nursery: trio.Nursery) -> None:
    """RFC 9457, and the id by which its request is found in a log."""
    client = await start(nursery)
    (status, body) = await client.ask("GET", "/nothing", headers=(("x-request-id", "abc-1"),))
    assert status == 404
    assert client.headers[b"content-type"] == b"application/problem+json"
    assert json.loads(body) == {
        "type": "urn:trio-eventlog:error:NOT_FOUND",
        "title": "Not Found",
        "status": 404,
        "detail": "nothing at /nothing",
        "code": "NOT_FOUND",
        "instance": "urn:request:abc-1",
    }


async def test_405_says_what_is_allowed(nursery: trio.Nursery) -> None:
    client = await start(nursery)
    await client.ask("DELETE", "/health")
    assert client.headers[b"allow"] == b"GET, HEAD, OPTIONS"


async def test_head_has_no_body(nursery: trio.Nursery) -> None:
    client = await start(nursery)
    assert await client.ask("HEAD", "/health") == (200, b"")
    length = client.headers[b"content-length"]
    (_, body) = await client.ask("GET", "/health")
    assert int(length) == len(body)


@pytest.mark.parametrize("given", ["mine-1", "x" * 65, "two words", ""])
async def test_every_answer_has_an_id_its_time_and_the_date(nursery: trio.Nursery, given: str) -> None:
    """The client's own id when it can be repeated in a header and a log, and one of the server otherwise."""
    client = await start(nursery)
    for target in ("/health", "/nothing"):
        await client.ask("GET", target, headers=(("x-request-id", given),))
        got = client.headers[b"x-request-id"].decode()
        assert (got == given) == (given == "mine-1")
        assert len(got) in (6, 16)
        assert client.headers[b"server-timing"].startswith(b"app;dur=")
        assert client.headers[b"date"] == b"Tue, 14 Nov 2023 22:13:20 GMT"
    assert NOW_NS == 1_700_000_000_000_000_000


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Also those that arrive with the body of the one before."""
    said = await raw(
        POST % (b"/", b"content-length: 2\r\n") + b"ab" + GET % (b"/", b"") + POST % (b"/", CHUNKED) + CHUNKS, app=echo
    )
    assert said.count(b"HTTP/1.1 200") == 3
    assert said.index(b"\r\n\r\nba") < said.index(b"\r\n\r\ncba")


CHUNKS = b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"


async def test_the_application_sees_the_whole_request(nursery: trio.Nursery) -> None:
    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["client"] == ("client", 1)
        assert scope["state"]["connection"].remote_address == "client:1"
        assert (b"x-scope-orgid", b"me") in scope["headers"]
        assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=d%20")
        body = await read_body(receive)
        await answer(send, 201, body[::-1], (b"content-type", b"text/plain"))

    client = await start(nursery, look)
    assert await client.ask("POST", "/a%20b?c=d%20", b"abc" * 50_000, (("X-Scope-OrgID", "me"),)) == (201, b"cba" * 50_000)


async def test_a_body_comes_in_pieces_while_it_is_sent(nursery: trio.Nursery) -> None:
    """The application has the first piece before the second was sent, and may answer in between."""
    pieces: list[bytes] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        pieces.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        pieces.append((await receive())["body"])
        await send({"type": "http.response.body", "body": b"second"})

    client = await start(nursery, look)
    await client.stream.send_all(POST % (b"/", b"content-length: 4\r\n") + b"ab")
    said = bytes(await client.stream.receive_some())
    assert b"5\r\nfirst\r\n" in said
    assert b"connection: close" in said, "nobody knows whether the rest will be read"
    assert pieces == [b"ab"]
    await client.stream.send_all(b"cd")
    assert (await end_of(client)).endswith(b"6\r\nsecond\r\n0\r\n\r\n")
    assert pieces == [b"ab", b"cd"]


async def test_expect_100_continue(nursery: trio.Nursery) -> None:
    """The client is told to go on when the application wants the body, and not before."""
    wanted = trio.Event()

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        await wanted.wait()
        await answer(send, 200, await read_body(receive))

    client = await start(nursery, look)
    await client.stream.send_all(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    wanted.set()
    assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
    await client.stream.send_all(b"hi")
    assert (await client.stream.receive_some()).endswith(b"\r\n\r\nhi")


async def test_http_1_0_closes() -> None:
    said = await raw(b"GET /health HTTP/1.0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")


# What is refused


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
        (b"\x00\x01\x02\r\n\r\n", b"400"),
        (GET % (b"/", b"content-length: -1\r\n"), b"400"),
        (GET % (b"/", b"content-length: 9999999999999999999\r\n"), b"413"),
        (GET % (b"/", b"transfer-encoding: magic\r\n"), b"501"),
        (GET % (b"/health", b"connection: close\r\n"), b"200"),
        (b"GET / HTTP/9.9\r\nhost: x\r\n\r\n", b"505"),
        (GET % (b"nowhere", b""), b"400"),
        (GET % (b"/%ff", b""), b"400"),
    ],
)
async def test_malformed_requests_are_answered_and_end_the_connection(data: bytes, status: bytes) -> None:
    said = await raw(data)
    assert said.split(b" ")[1] == status
    assert said.count(b"HTTP/1.1 ") == 1


SMUGGLED = GET % (b"/smuggled", b"")


@pytest.mark.parametrize(
    "data",
    [
        POST % (b"/", b"content-length: 4\r\n" + CHUNKED) + b"0\r\n\r\n",
        POST % (b"/", CHUNKED + b"content-length: 4\r\n") + b"0\r\n\r\n",
        POST % (b"/", b"content-length: 4\r\ncontent-length: 4\r\n") + b"abcd",
        POST % (b"/", b"content-length: 4\r\ncontent-length: 5\r\n") + b"abcd",
        POST % (b"/", b"content-length: 4, 4\r\n") + b"abcd",
        POST % (b"/", CHUNKED + CHUNKED) + b"0\r\n\r\n",
        POST % (b"/", b"transfer-encoding: identity, chunked\r\n") + b"0\r\n\r\n",
        POST % (b"/", b"content-length : 4\r\n") + b"abcd",
        POST % (b"/", b"x: y\r\n content-length: 4\r\n") + b"abcd",
        POST % (b"/", b"x: y\r\n\tz\r\n"),
        POST % (b"/", b"x: y\ncontent-length: 4\r\n") + b"abcd",
        POST % (b"/", b"x: y\rcontent-length: 4\r\n") + b"abcd",
        b"POST / HTTP/1.1\nhost: x\n\n",
        b"POST / HTTP/1.0\r\nhost: x\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
        POST % (b"/", CHUNKED) + b"1\nz\r\n0\r\n\r\n",
        POST % (b"/", CHUNKED) + b"1\r\nz\r\n0\r\n\n",
        POST % (b"/", CHUNKED) + b"1\r\nz\r\n0\r\nx: y\r\n\r\n",
        POST % (b"/", CHUNKED) + b"1\r\nz\r\n0\r\nx: y\n\n",
        POST % (b"/", CHUNKED) + b"-1\r\nz\r\n0\r\n\r\n",
        POST % (b"/", CHUNKED) + b"0x1\r\nz\r\n0\r\n\r\n",
        POST % (b"/", CHUNKED) + b"1\r\nzz\r\n0\r\n\r\n",
        GET % (b"/", b"host: y\r\n"),
    ],
)
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_what_two_readers_may_read_differently_is_refused(data: bytes, in_pieces: bool, nursery: trio.Nursery) -> None:
    """Behind a proxy that reads it the other way, the rest would be another request: nothing behind it is looked at."""
    client = await start(nursery, echo)
    data += SMUGGLED
    with suppress(trio.BrokenResourceError):
        for at in range(0, len(data), 1 if in_pieces else len(data)):
            await client.stream.send_all(data[at : at + (1 if in_pieces else len(data))])
    await client.stream.send_eof()
    said = await end_of(client)
    assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), said
    assert said.count(b"HTTP/1.1 ") == 1


async def test_an_empty_line_in_front_of_a_request_is_passed_over() -> None:
    """RFC 9112, 2.2."""
    assert (await raw(b"\r\n" + GET % (b"/health", b""))).startswith(b"HTTP/1.1 200 ")


async def test_the_limit_of_headers() -> None:
    settings = default(HttpSettings, request_head_bytes_max=1000)

    def with_headers(size: int) -> bytes:
        frame = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\nfiller: \r\n\r\n"
        return frame.replace(b"filler: ", b"filler: " + b"x" * (size - len(frame)))

    assert b" 200 " in await raw(with_headers(1000), settings)
    assert b" 431 " in await raw(with_headers(1001), settings)
    assert b" 431 " in await raw(with_headers(1100)[:1050], settings)


async def test_the_limit_of_the_number_of_headers() -> None:
    settings = default(HttpSettings, request_headers_max=10)
    assert b" 200 " in await raw(GET % (b"/health", b"a: b\r\n" * 9), settings)
    assert b" 431 " in await raw(GET % (b"/health", b"a: b\r\n" * 10), settings)


@pytest.mark.parametrize("chunk", [1 << 20, 4096, 100])
async def test_the_limit_of_headers_holds_however_they_arrive(chunk: int, nursery: trio.Nursery) -> None:
    """In one read, or in many."""
    client = await start(nursery, settings=default(HttpSettings, request_head_bytes_max=32 * 1024))
    data = GET % (b"/health", b"filler: " + b"x" * 40_000 + b"\r\n")

    async def send() -> None:
        with suppress(trio.BrokenResourceError):
            for at in range(0, len(data), chunk):
                await client.stream.send_all(data[at : at + chunk])

    nursery.start_soon(send)
    assert bytes(await client.stream.receive_some()).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("continues", [b"", b"expect: 100-continue\r\n"])
@pytest.mark.parametrize(("target", "status"), [(b"/nothing", b"404"), (b"/health", b"405")])
async def test_what_the_head_decides_is_answered_without_the_body(
    target: bytes, status: bytes, continues: bytes, nursery: trio.Nursery
) -> None:
    """The head is all that was sent, and the answer comes, and the end; a client that waits to go on is not told to."""
    client = await start(nursery)
    await client.stream.send_all(POST % (target, b"content-length: 15000000\r\n" + continues))
    said = bytes(await client.stream.receive_some())
    assert said.startswith(b"HTTP/1.1 " + status)
    assert b"connection: close" in said.lower()
    assert await client.stream.receive_some() == b""


async def test_a_small_body_that_nobody_wants_does_not_end_the_connection(nursery: trio.Nursery) -> None:
    """It has arrived already: reading it is less than another connection."""
    client = await start(nursery)
    for _ in range(2):
        assert (await client.ask("POST", "/nothing", bytes(1000)))[0] == 404


async def test_a_client_that_sends_on_reads_the_answer(autojump_clock: trio.testing.MockClock) -> None:
    """What comes after the answer is discarded for a moment, and no longer, and not without end."""
    settings = default(HttpSettings, linger_seconds_max=1.0, linger_bytes_max=100_000)
    async with trio.open_nursery() as nursery:
        client = await start(nursery, settings=settings)
        began = trio.current_time()
        await client.stream.send_all(POST % (b"/x", b"content-length: 15000000\r\n") + bytes(50_000))
        assert b" 404 " in bytes(await client.stream.receive_some())
        await client.stream.send_all(bytes(40_000))
        assert await client.stream.receive_some() == b""
    assert trio.current_time() - began == pytest.approx(1.0)


@pytest.mark.parametrize("target", ["http://host/health", "HTTP://host:8400/health?x=1", "https://[::1]/ready"])
async def test_the_absolute_form(nursery: trio.Nursery, target: str) -> None:
    """A server has to take it (RFC 9112, 3.2.2): proxies and some probes send it."""
    assert (await (await start(nursery)).ask("GET", target))[0] == 200


# Time


async def test_a_slow_head_is_ended(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = await start(nursery, settings=default(HttpSettings, request_seconds_max=30, request_idle_seconds_max=5))
        for byte in b"GET /health HTTP/1.1\r\nx":
            await client.stream.send_all(bytes([byte]))
            await trio.sleep(2)
            if trio.current_time() > 29:
                break
        assert b" 408 " in await end_of(client)
        assert trio.current_time() == pytest.approx(30, abs=1)


async def test_a_body_that_falls_silent_is_ended(autojump_clock: trio.testing.MockClock) -> None:
    """Any time may pass from its first byte to its last, and no more than this between two of them."""
    async with trio.open_nursery() as nursery:
        client = await start(nursery, echo, default(HttpSettings, request_silence_seconds_max=10))
        await client.stream.send_all(POST % (b"/", b"content-length: 100\r\n"))
        for _ in range(5):
            await client.stream.send_all(b"x")
            await trio.sleep(9)
        assert b" 408 " in await end_of(client)
        assert trio.current_time() == pytest.approx(46, abs=1)


async def test_an_idle_connection_is_closed_without_a_word(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = await start(nursery, settings=default(HttpSettings, request_idle_seconds_max=75))
        assert (await client.ask("GET", "/health"))[0] == 200
        assert await end_of(client) == b""
        assert trio.current_time() == pytest.approx(75)


async def test_a_client_that_takes_nothing_of_its_answer_is_left(autojump_clock: trio.testing.MockClock) -> None:
    """Whatever it has asked for is held until then, and no longer."""

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, bytes(10_000_000))

    (mine, theirs) = trio.testing.lockstep_stream_pair()
    server = make_server(large, default(HttpSettings, answer_stall_seconds_max=20))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, theirs, ConnectionInfo())
        await mine.send_all(GET % (b"/", b""))
        await mine.receive_some(1)
    assert trio.current_time() == pytest.approx(20)


# Leaving and stopping


async def test_a_client_that_goes_away_is_no_error(nursery: trio.Nursery) -> None:
    for first in (b"", b"GET /hea", GET % (b"/health", b""), POST % (b"/", b"content-length: 10\r\n") + b"abc"):
        client = await start(nursery, echo)
        if first:
            await client.stream.send_all(first)
        await client.stream.send_eof()
        await end_of(client)


async def test_an_application_learns_that_its_client_has_left(nursery: trio.Nursery) -> None:
    """While it streams an answer; what the client sends meanwhile is its next request, and not its end."""
    left = trio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    client = await start(nursery, stream)
    await client.stream.send_all(GET % (b"/", b"") + GET % (b"/", b""))
    await trio.testing.wait_all_tasks_blocked()
    await client.stream.send_all(GET % (b"/", b""))
    await trio.testing.wait_all_tasks_blocked()
    assert not left.is_set()
    await client.stream.aclose()
    await left.wait()


async def test_requests_sent_ahead_of_a_streamed_answer_are_answered_behind_it(nursery: trio.Nursery) -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        async with trio.open_nursery() as watching:
            watching.start_soon(receive)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello", "more_body": True})
            await trio.testing.wait_all_tasks_blocked()
            watching.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    client = await start(nursery, stream)
    await client.stream.send_all(GET % (b"/1", b""))
    await client.stream.receive_some()
    await client.stream.send_all(GET % (b"/2", b"connection: close\r\n"))
    said = await end_of(client)
    assert said.index(b"/1") < said.index(b"/2")


async def test_a_crashing_application_is_500_and_goes_on_to_the_caller() -> None:
    async def crash(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with trio.open_nursery() as nursery:
            client = await start(nursery, crash)
            (status, body) = await client.ask("GET", "/")
            assert status == 500
            assert b"bug" not in body
            await trio.sleep_forever()
    assert caught.value.subgroup(ZeroDivisionError) is not None


async def test_a_failure_within_an_answer_shows_in_its_missing_end(nursery: trio.Nursery) -> None:
    """Its status has been sent already: there is no other sign that it is not whole."""

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise HttpProblem(503, "no more")

    client = await start(nursery, fail)
    await client.stream.send_all(GET % (b"/", b""))
    said = await end_of(client)
    assert said.endswith(b"4\r\nhalf\r\n")


async def test_a_stop_lets_requests_end_and_closes_what_idles(autojump_clock: trio.testing.MockClock) -> None:
    go_on = trio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await answer(send, 200, b"done")

    server = make_server(wait)
    async with trio.open_nursery() as nursery:
        idle, busy = [Client(await serve_on(nursery, server)) for _ in range(2)]
        await busy.stream.send_all(GET % (b"/", b""))
        await trio.testing.wait_all_tasks_blocked()
        drained: list[float] = []

        async def drain() -> None:
            await server.drain(trio.current_time() + 60)
            drained.append(trio.current_time())

        nursery.start_soon(drain)
        assert await end_of(idle) == b""
        await trio.sleep(5)
        assert not drained
        go_on.set()
        said = await end_of(busy)
        assert said.endswith(b"done")
        assert b"connection: close" in said
    assert drained == [pytest.approx(5)]


async def test_a_stop_does_not_wait_longer_than_it_may(autojump_clock: trio.testing.MockClock) -> None:
    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    server = make_server(wait)
    async with trio.open_nursery() as nursery:
        client = Client(await serve_on(nursery, server))
        await client.stream.send_all(GET % (b"/", b""))
        await trio.testing.wait_all_tasks_blocked()
        await server.drain(trio.current_time() + 7)
        assert trio.current_time() == pytest.approx(7)
        nursery.cancel_scope.cancel()


# The access log


async def test_the_access_log_has_a_line_for_each_request(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    """With its path as it was sent: one that is decoded could begin a line of its own."""
    caplog.set_level("INFO", "trio_eventlog.http.access")
    client = await start(nursery, echo, default(HttpSettings, http_access_log=True))
    await client.ask("POST", "/a%0Ab", b"xyz", (("x-request-id", "r1"),))
    await client.ask("GET", "/c?secret=1")
    assert [record.getMessage() for record in caplog.records] == ["POST /a%0Ab", "GET /c"]
    first = vars(caplog.records[0])
    assert (first["status"], first["received_bytes"], first["sent_bytes"], first["request_id"]) == (200, 3, 3, "r1")
    assert first["client"] == "client:1"


async def test_without_the_setting_there_is_no_access_log(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trio_eventlog.http.access")
    client = await start(nursery)
    await client.ask("GET", "/health")
    assert not caplog.records
