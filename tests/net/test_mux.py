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

from trio_eventlog.budgets import Activity
from trio_eventlog.codec.first_bytes import HTTP2_PREFACE, PEER_PREFACE
from trio_eventlog.net.mux import ConnectionInfo, Handler, Mux, MuxSettings
from trio_eventlog.testing.defaults import default
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
    mux = Mux(settings or default(MuxSettings), **named)  # type: ignore[arg-type]
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
        (b"\x00\x85\xa3", "gossip", "no gossip here"),
        (bytes.fromhex("00000024001200030000"), "kafka", "use the gRPC or the HTTP interface"),
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
    async with open_port(default(MuxSettings, peek_timeout_seconds=5)) as port:
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
    """At the cap the oldest one gives its place to the newcomer; who speaks is served; the flood is logged in a few lines."""
    async with open_port(default(MuxSettings, inbound_unidentified_max=3, peek_timeout_seconds=5)) as port:
        silent = [await port.connect() for _ in range(3)]
        await trio.sleep(0.01)
        assert port.mux.statistics().unidentified_now == 3
        began = trio.current_time()
        for _ in range(50):
            silent.append(await port.connect())
        for early in silent[:50]:
            assert await until_end(early) == b""
        assert trio.current_time() == began
        assert port.mux.statistics().unidentified_now == 3
        assert port.mux.statistics().closed["too many unidentified"] == 50
        assert caplog.text.count("too many unidentified") == 1
        late = await port.connect()
        await late.send_all(b"GET /")
        assert await until_end(late) == b"http"
        await silent[-1].send_all(b"GET /")
        assert await until_end(silent[-1]) == b"http"


@pytest.mark.parametrize("flood", [320, 5000])
async def test_silent_connections_keep_nobody_out(flood: int, autojump_clock: trio.testing.MockClock) -> None:
    """However many there are, and as they go on: whoever speaks in his first bytes, or a moment later, is served at once."""
    async with open_port(default(MuxSettings, inbound_unidentified_max=64)) as port:
        attacker = port.network.host("attacker")
        silent = []
        for number in range(flood):
            silent.append(await attacker.open_stream(ADDRESS))
            if number % (flood // 20) == 0:
                slow = await port.connect()
                began = trio.current_time()
                for first, answer in ((b"GET /health", b"http"), (HTTP2_PREFACE, b"grpc"), (PEER_PREFACE, b"peer")):
                    client = await port.connect()
                    await client.send_all(first)
                    assert await until_end(client) == answer
                await trio.sleep(0.2)
                await slow.send_all(b"GET /")
                assert await until_end(slow) == b"http"
                assert trio.current_time() - began < 0.3
        assert port.mux.statistics().unidentified_now <= 64


async def test_an_address_with_many_silent_connections_loses_its_own(autojump_clock: trio.testing.MockClock) -> None:
    """The oldest of all is another address's only one: it keeps its place."""
    async with open_port(default(MuxSettings, inbound_unidentified_max=8)) as port:
        patient = await port.connect()
        flood = [await port.network.host("attacker").open_stream(ADDRESS) for _ in range(100)]
        await trio.sleep(0.1)
        await patient.send_all(b"GET /")
        assert await until_end(patient) == b"http"
        assert await until_end(flood[0]) == b""


async def test_the_time_to_show_oneself_is_shorter_when_places_are_few(autojump_clock: trio.testing.MockClock) -> None:
    """Full time up to half of the places, then less and less down to the minimum."""
    settings = default(MuxSettings, inbound_unidentified_max=10, peek_timeout_seconds=5, peek_timeout_seconds_min=0.5)
    async with open_port(settings) as port:
        took: list[float] = []

        async def wait_end(stream: trio.abc.Stream, began: float) -> None:
            await until_end(stream)
            took.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(wait_end, await port.connect(), trio.current_time())
                await trio.sleep(0.001)
        assert max(took) == pytest.approx(5, abs=0.1)
        assert min(took) == pytest.approx(0.5, abs=0.1)
        assert sum(seconds > 4.9 for seconds in took) == 5


class Idle:
    """A handler of connections that stay: says of each what a test decides."""

    def __init__(self) -> None:
        self.served: list[ConnectionInfo] = []

    async def handle(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        self.served.append(info)
        await stream.send_all(b"in")
        await trio.sleep_forever()


async def connect_as(port: Port, host: str, first: bytes) -> trio.abc.Stream:
    stream = await port.network.host(host).open_stream(ADDRESS)
    await stream.send_all(first)
    assert await stream.receive_some(2) == b"in"
    return stream


async def is_over(stream: trio.abc.Stream) -> bool:
    with trio.move_on_after(0.01):
        return await stream.receive_some(1) == b""
    return False


async def test_at_the_cap_of_clients_the_least_deserving_goes(autojump_clock: trio.testing.MockClock) -> None:
    """Who never asked for anything, then who idles longest, then who has a call under way; a newcomer always gets in."""
    idle = Idle()
    async with open_port(default(MuxSettings, inbound_clients_max=4), grpc=idle.handle) as port:
        activities = [Activity(5, 1, 1.0), Activity(5, 0, 3.0), Activity(5, 0, 2.0), Activity(0, 0, 9.0)]
        streams = []
        for number, activity in enumerate(activities):
            streams.append(await connect_as(port, f"host{number}", HTTP2_PREFACE))
            idle.served[-1].standing.look = lambda activity=activity: activity  # type: ignore[misc]
        for gone in (3, 2, 1, 0):
            await connect_as(port, f"new{gone}", HTTP2_PREFACE)
            idle.served[-1].standing.look = lambda: Activity(9, 9, 99.0)
            assert await is_over(streams[gone])
            assert not any([await is_over(stream) for stream in streams[:gone]])
        assert port.mux.statistics().closed == {"too many clients": 4}


async def test_an_address_with_more_than_its_share_pays(autojump_clock: trio.testing.MockClock) -> None:
    """An address with busy connections in more than half of the places, beside one with an idle one."""
    idle = Idle()
    async with open_port(default(MuxSettings, inbound_clients_max=4), grpc=idle.handle) as port:
        quiet = await connect_as(port, "quiet", HTTP2_PREFACE)
        idle.served[-1].standing.look = lambda: Activity(1, 0, 0.0)
        busy = [await connect_as(port, "busy", HTTP2_PREFACE) for _ in range(3)]
        for number, info in enumerate(idle.served[1:]):
            info.standing.look = lambda number=number: Activity(7, 7, 50.0 + number)  # type: ignore[misc]
        await connect_as(port, "new", HTTP2_PREFACE)
        assert await is_over(busy[0])
        assert not await is_over(quiet)


async def test_clients_take_no_place_of_peers_or_probes(autojump_clock: trio.testing.MockClock) -> None:
    """Thousands of clients: links stay, and so does the connection of a probe."""
    idle = Idle()
    handlers = {"grpc": idle.handle, "http": idle.handle, "peer": idle.handle}
    async with open_port(
        default(MuxSettings, inbound_clients_max=16, inbound_peers_max=2, inbound_probes_max=1), **handlers
    ) as port:
        kept = [await connect_as(port, "peer", PEER_PREFACE) for _ in range(2)]
        kept.append(await connect_as(port, "probe", b"GET /health HTTP/1.1"))
        for number in range(1000):
            await connect_as(port, f"client{number % 3}", HTTP2_PREFACE if number % 2 else b"GET /else")
        assert not any([await is_over(stream) for stream in kept])
        used = {budget.name: budget.used for budget in port.mux.budgets()}
        assert used == {"connections of clients": 16, "connections of peers": 2, "connections of probes": 1, "new connections": 0}


async def test_who_says_to_be_a_peer_takes_no_place_of_one(autojump_clock: trio.testing.MockClock) -> None:
    """Links that stand are kept before those that have not said hello, and those before newer ones."""
    idle = Idle()
    async with open_port(default(MuxSettings, inbound_peers_max=4), peer=idle.handle) as port:
        links = []
        for number in range(3):
            links.append(await connect_as(port, f"n{number}", PEER_PREFACE))
            idle.served[-1].standing.look = lambda number=number: Activity(1, 1, -number)  # type: ignore[misc]
        for _ in range(100):
            await connect_as(port, "stranger", PEER_PREFACE)
        assert not any([await is_over(link) for link in links])


async def test_relief_closes_what_is_worth_least(autojump_clock: trio.testing.MockClock) -> None:
    """The process is short of descriptors: the unidentified, then idle clients, never peers."""
    idle = Idle()
    async with open_port(grpc=idle.handle, peer=idle.handle) as port:
        peer = await connect_as(port, "peer", PEER_PREFACE)
        clients = [await connect_as(port, "client", HTTP2_PREFACE) for _ in range(3)]
        silent = await port.connect()
        await trio.sleep(0.01)
        port.mux.relieve()
        assert await is_over(silent)
        assert all([await is_over(client) for client in clients])
        port.mux.relieve()
        assert not await is_over(peer)


async def test_a_knock_at_the_door_is_no_warning(autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Balancers connect and leave without a word, every few seconds: counted, and no line at the usual level."""
    async with open_port() as port:
        await (await port.connect()).aclose()
        await port.wait(lambda: port.mux.statistics().closed)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_connections_that_are_served_are_not_unidentified(autojump_clock: trio.testing.MockClock) -> None:
    async def forever(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        await trio.sleep_forever()

    async with open_port(default(MuxSettings, inbound_unidentified_max=1), http=forever) as port:
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
    mux = Mux(default(MuxSettings), grpc=slow, http=slow, peer=slow)
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
    mux = Mux(
        default(MuxSettings, accept_retry_seconds=0.1),
        grpc=seen.handler("a"),
        http=seen.handler("b"),
        peer=seen.handler("c"),
    )
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
    mux = Mux(default(MuxSettings), grpc=seen.handler("a"), http=seen.handler("b"), peer=seen.handler("c"))
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
        Mux(default(MuxSettings, tls_required=True), grpc=handler, http=handler, peer=handler)
