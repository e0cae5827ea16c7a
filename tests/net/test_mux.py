"""One port for everything: who gets which connection, and what becomes of the rest."""

import errno
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from trio_eventlog.codec.first_bytes import HTTP2_PREFACE, PEER_PREFACE
from trio_eventlog.net.mux import ConnectionInfo, Handler, Mux, MuxSettings
from trio_eventlog.testing.network import SimNetwork

ADDRESS = "node:8400"


class Seen:
    """Handlers that note what reached them and answer with their own name."""

    def __init__(self) -> None:
        self.connections: list[tuple[str, bytes, ConnectionInfo]] = []

    def handler(self, name: str) -> Handler:
        async def handle(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
            self.connections.append((name, bytes(await stream.receive_some()), info))
            await stream.send_all(name.encode())

        return handle


@attrs.frozen
class Port:
    network: SimNetwork
    mux: Mux
    seen: Seen

    async def connect(self) -> trio.abc.Stream:
        return await self.network.host("client").open_stream(ADDRESS)

    async def wait(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(60):
            while not condition():  # noqa: ASYNC110 -- virtual time costs nothing
                await trio.sleep(0.01)


@asynccontextmanager
async def open_port(settings: MuxSettings | None = None, **handlers: Handler) -> AsyncIterator[Port]:
    network = SimNetwork(random.Random(1))
    seen = Seen()
    named: dict[str, Handler] = {name: seen.handler(name) for name in ("grpc", "http", "peer")} | handlers
    mux = Mux(settings or MuxSettings(), **named)  # type: ignore[arg-type]
    bound = await network.host("server").listen(ADDRESS)
    async with trio.open_nursery() as nursery:
        await nursery.start(mux.serve, bound.listener)
        yield Port(network, mux, seen)
        nursery.cancel_scope.cancel()


async def until_end(stream: trio.abc.Stream) -> bytes:
    return b"".join([bytes(chunk) async for chunk in stream])


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (HTTP2_PREFACE + b"\r\n\r\nSM\r\n\r\n", "grpc"),
        (b"GET /health HTTP/1.1\r\n", "http"),
        (b"POST /", "http"),
        (PEER_PREFACE + b"more", "peer"),
    ],
)
async def test_who_gets_it_gets_every_byte(first: bytes, name: str, autojump_clock: trio.testing.MockClock) -> None:
    async with open_port() as port:
        stream = await port.connect()
        await stream.send_all(first)
        assert await until_end(stream) == name.encode()
        assert port.seen.connections == [(name, first, ConnectionInfo(remote_address="client:0"))]
        assert port.mux.statistics().identified == {name: 1}
        assert port.mux.statistics().closed == {}


async def test_a_preface_byte_by_byte(autojump_clock: trio.testing.MockClock) -> None:
    async with open_port() as port:
        stream = await port.connect()
        for byte in HTTP2_PREFACE:
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.1)
        assert await until_end(stream) == b"grpc"


@pytest.mark.parametrize(
    ("first", "reason", "logged"),
    [
        (b"\x01\x02\x03 garbage", "unknown bytes", "01 02 03 20 67"),
        (b"\xe1nope", "unknown bytes", "e1 6e 6f 70 65"),
        (b"\x06\x85\xa3", "gossip", "no gossip here"),
        (b"\x16\x03\x01\x02\x00", "tls not configured", "no certificate"),
    ],
)
async def test_bytes_nobody_takes(
    first: bytes, reason: str, logged: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_port() as port:
        stream = await port.connect()
        await stream.send_all(first)
        assert await until_end(stream) == b""
        assert port.mux.statistics().closed == {reason: 1}
        assert port.seen.connections == []
    assert logged in caplog.text
    assert "client:0" in caplog.text


@pytest.mark.parametrize("first", [b"", b"PRI * HT", b"\xe1v"])
async def test_silence_ends_at_the_deadline(first: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with open_port(MuxSettings(identify_seconds_max=5)) as port:
        stream = await port.connect()
        began = trio.current_time()
        if first:
            await stream.send_all(first)
        assert await until_end(stream) == b""
        assert trio.current_time() == pytest.approx(began + 5)
        assert port.mux.statistics().closed == {"silent": 1}


@pytest.mark.parametrize("first", [b"", b"PRI"])
async def test_going_away_before_a_word(first: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with open_port() as port:
        stream = await port.connect()
        if first:
            await stream.send_all(first)
        await stream.aclose()
        await port.wait(lambda: port.mux.statistics().closed)
        assert port.mux.statistics().closed == {"closed before identified": 1}


async def test_a_reset_before_a_word(autojump_clock: trio.testing.MockClock) -> None:
    async with open_port() as port:
        await port.connect()
        await trio.sleep(0.1)
        port.network.reset("client", "server")
        await port.wait(lambda: port.mux.statistics().closed)
        assert port.mux.statistics().closed == {"closed before identified": 1}
        assert port.mux.statistics().unidentified_now == port.mux.statistics().open_now == 0


async def test_a_flood_of_silence_keeps_no_more_than_the_cap(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """At the cap one more is closed at once; those who speak free their place; the flood is logged in a few lines."""
    async with open_port(MuxSettings(unidentified_connections_max=3, identify_seconds_max=5)) as port:
        silent = [await port.connect() for _ in range(3)]
        await trio.sleep(0.01)
        assert port.mux.statistics().unidentified_now == 3
        began = trio.current_time()
        for _ in range(50):
            assert await until_end(await port.connect()) == b""
        assert trio.current_time() == began
        assert port.mux.statistics().closed["too many unidentified"] == 50
        assert caplog.text.count("too many unidentified") == 1
        await silent[0].send_all(b"GET /")
        assert await until_end(silent[0]) == b"http"
        late = await port.connect()
        await late.send_all(b"GET /")
        assert await until_end(late) == b"http"


async def test_connections_that_are_served_are_not_unidentified(autojump_clock: trio.testing.MockClock) -> None:
    async def forever(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        await trio.sleep_forever()

    async with open_port(MuxSettings(unidentified_connections_max=1), http=forever) as port:
        for _ in range(20):
            stream = await port.connect()
            await stream.send_all(b"GET /")
            await trio.sleep(0.01)
        statistics = port.mux.statistics()
        assert (statistics.open_now, statistics.unidentified_now, statistics.accepted) == (20, 0, 20)


async def test_a_crash_ends_one_connection_only(autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async def crash(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        async with trio.open_nursery():
            raise ZeroDivisionError("a bug")

    async with open_port(http=crash) as port:
        stream = await port.connect()
        await stream.send_all(b"GET /")
        assert await until_end(stream) == b""
        assert port.mux.statistics().crashed == 1
        other = await port.connect()
        await other.send_all(HTTP2_PREFACE)
        assert await until_end(other) == b"grpc"
    assert "ZeroDivisionError: a bug" in caplog.text


async def test_a_broken_connection_is_no_crash(autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async def read(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        while True:
            await stream.receive_some()

    async with open_port(http=read) as port:
        stream = await port.connect()
        await stream.send_all(b"GET /")
        await trio.sleep(0.1)
        port.network.reset("client", "server")
        await port.wait(lambda: not port.mux.statistics().open_now)
        assert port.mux.statistics().crashed == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class Bug(BaseException):
    """Not an Exception: like KeyboardInterrupt."""


async def test_what_is_no_exception_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    async def interrupt(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        raise Bug

    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with open_port(http=interrupt) as port:
            stream = await port.connect()
            await stream.send_all(b"GET /")
            await trio.sleep_forever()
    assert caught.value.subgroup(Bug) is not None


async def test_cancelling_ends_handlers_and_closes_streams(autojump_clock: trio.testing.MockClock) -> None:
    cancelled = []

    async def handle(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(1)
            raise

    async with open_port(http=handle) as port:
        stream = await port.connect()
        await stream.send_all(b"GET /")
        await port.wait(lambda: port.mux.statistics().identified)
    assert cancelled == [1]
    assert await until_end(stream) == b""
    with pytest.raises(ConnectionRefusedError):
        await port.connect()


async def test_stop_accepting_lets_handlers_finish(autojump_clock: trio.testing.MockClock) -> None:
    async def slow(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        await trio.sleep(3)
        await stream.send_all(b"done")

    network = SimNetwork(random.Random(1))
    mux = Mux(MuxSettings(), grpc=slow, http=slow, peer=slow)
    bound = await network.host("server").listen(ADDRESS)
    async with trio.open_nursery() as nursery:
        await nursery.start(mux.serve, bound.listener)
        stream = await network.host("client").open_stream(ADDRESS)
        await stream.send_all(b"GET /")
        await trio.sleep(1)
        mux.stop_accepting()
        await trio.sleep(0.1)
        with pytest.raises(ConnectionRefusedError):
            await network.host("client").open_stream(ADDRESS)
        assert await until_end(stream) == b"done"
    assert trio.current_time() == pytest.approx(3.0, abs=0.2)


class FullListener(trio.abc.Listener[trio.abc.Stream]):
    """As if the process had no file descriptors left, for a while."""

    def __init__(self, error: int, times: int, then: Callable[[], Awaitable[trio.abc.Stream]]) -> None:
        self.error = error
        self.times = times
        self.then = then

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self.times:
            self.times -= 1
            raise OSError(self.error, "no")
        return await self.then()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def sleep_forever() -> trio.abc.Stream:
    await trio.sleep_forever()
    raise AssertionError


async def test_no_file_descriptors_is_waited_out(autojump_clock: trio.testing.MockClock) -> None:
    seen = Seen()
    mux = Mux(MuxSettings(accept_retry_seconds=0.1), grpc=seen.handler("a"), http=seen.handler("b"), peer=seen.handler("c"))
    (mine, theirs) = trio.testing.memory_stream_pair()
    streams = [theirs]

    async def accept() -> trio.abc.Stream:
        return streams.pop() if streams else await sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(mux.serve, FullListener(errno.EMFILE, 5, accept))
        began = trio.current_time()
        await mine.send_all(b"GET /")
        assert await until_end(mine) == b"b"
        assert trio.current_time() - began == pytest.approx(0.5)
        nursery.cancel_scope.cancel()


async def test_another_error_of_accept_is_not_hidden(autojump_clock: trio.testing.MockClock) -> None:
    seen = Seen()
    mux = Mux(MuxSettings(), grpc=seen.handler("a"), http=seen.handler("b"), peer=seen.handler("c"))
    with pytest.raises(ExceptionGroup) as caught:
        await mux.serve(FullListener(errno.EBADF, 1, sleep_forever))
    assert caught.value.subgroup(lambda one: isinstance(one, OSError) and one.errno == errno.EBADF) is not None


async def test_gossip_has_a_handler_when_given(autojump_clock: trio.testing.MockClock) -> None:
    seen = Seen()
    async with open_port(gossip=seen.handler("gossip")) as port:
        stream = await port.connect()
        await stream.send_all(b"\x06\x85")
        assert await until_end(stream) == b"gossip"


def test_tls_cannot_be_required_without_a_certificate() -> None:
    handler = Seen().handler("x")
    with pytest.raises(ValueError, match="certificate"):
        Mux(MuxSettings(tls_required=True), grpc=handler, http=handler, peer=handler)
