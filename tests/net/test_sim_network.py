"""The simulated network keeps the promises of the real one; what its cuts, resets and crashes do to streams.

All other faults, and packets: test_sim_weather.py, test_sim_datagrams.py.
"""

import random
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from trio_eventlog.net.network import Network
from trio_eventlog.net.peeked_stream import PeekedStream
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.testing.network import SimNetwork, SimNetworkSettings
from trio_eventlog.testing.streams import Retransmission
from trio_eventlog.testing.weather import Weather

Pair = tuple[trio.abc.Stream, trio.abc.Stream]
SMALL_BYTES = 16 * 1024


async def pair_over(network: Network, address: str) -> Pair:
    bound = await network.listen(address)
    async with bound.listener:
        dialled: list[trio.abc.Stream] = []

        async def dial() -> None:
            dialled.append(await network.open_stream(bound.address))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            accepted = await bound.listener.accept()
    return dialled[0], accepted


async def simulated_pair() -> Pair:
    return await pair_over(SimNetwork(random.Random(1)).host("a"), "a:1")


async def late_pair() -> Pair:
    settings = SimNetworkSettings(weather=Weather(latency_seconds_min=0.0001, latency_seconds_max=0.001))
    return await pair_over(SimNetwork(random.Random(1), settings).host("a"), "a:1")


async def narrow_pair() -> Pair:
    settings = SimNetworkSettings(weather=Weather(bytes_per_second=1e9))
    return await pair_over(SimNetwork(random.Random(1), settings).host("a"), "a:1")


async def small_pair() -> Pair:
    return await pair_over(SimNetwork(random.Random(1), SimNetworkSettings(buffer_bytes_max=SMALL_BYTES)).host("a"), "a:1")


async def real_pair() -> Pair:
    return await pair_over(RealNetwork(), "127.0.0.1:0")


async def peeked_pair() -> Pair:
    (one, other) = await simulated_pair()
    return PeekedStream(one), PeekedStream(other)


async def full_pair() -> Pair:
    (one, other) = await small_pair()
    await one.send_all(b"x" * SMALL_BYTES)
    await other.send_all(b"x" * SMALL_BYTES)
    return one, other


@pytest.mark.parametrize(
    "make_pair", [simulated_pair, late_pair, narrow_pair, real_pair, peeked_pair], ids=lambda make: make.__name__
)
async def test_two_way_stream(make_pair: Callable[[], Awaitable[Pair]]) -> None:
    """The same suite for the fake, the real one and what wraps them."""
    await trio.testing.check_half_closeable_stream(make_pair, None)


async def test_two_way_stream_that_clogs() -> None:
    await trio.testing.check_half_closeable_stream(small_pair, full_pair)


kinds = pytest.mark.parametrize("kind", ["simulated", "real"])


def two_hosts(kind: str) -> tuple[Network, Network, str]:
    """Two programs' networks, and an address for the second to listen on, at a free port."""
    if kind == "real":
        return RealNetwork(), RealNetwork(), "127.0.0.1:0"
    network = SimNetwork(random.Random(1))
    return network.host("a"), network.host("b"), "b:0"


@kinds
async def test_listening(kind: str) -> None:
    """A taken port is named, a free one refuses, one that was closed is free."""
    (_, network, address) = two_hosts(kind)
    bound = await network.listen(address)
    assert not bound.address.endswith(":0")
    async with bound.listener:
        with pytest.raises(OSError, match=f"cannot listen on {bound.address}: [Aa]ddress already in use"):
            await network.listen(bound.address)
    with pytest.raises(trio.ClosedResourceError):
        await bound.listener.accept()
    with pytest.raises(OSError, match=bound.address.rpartition(":")[2]):
        await network.open_stream(bound.address)
    again = await network.listen(bound.address)
    await again.listener.aclose()


@kinds
async def test_a_server_and_many_clients(kind: str) -> None:
    """Each has a connection of its own; who half-closes is answered all the same."""
    (client, server, address) = two_hosts(kind)
    bound = await server.listen(address)

    async def echo_upside_down(stream: trio.abc.Stream) -> None:
        got = b"".join([bytes(part) async for part in stream])
        await stream.send_all(got[::-1])
        await stream.aclose()

    async def ask(question: bytes) -> None:
        stream = await client.open_stream(bound.address)
        assert isinstance(stream, trio.abc.HalfCloseableStream)
        async with stream:
            await stream.send_all(question)
            await stream.send_eof()
            assert b"".join([bytes(part) async for part in stream]) == question[::-1]
            assert await stream.receive_some() == b"", "the end stays the end"

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, echo_upside_down, [bound.listener])
            async with trio.open_nursery() as clients:
                for number in range(20):
                    clients.start_soon(ask, b"%d" % number * 10_000)
            nursery.cancel_scope.cancel()


@kinds
async def test_a_writer_waits_for_its_reader(kind: str) -> None:
    """More than all buffers hold: it is done when the reader has begun to read, not before."""
    (client, server, address) = two_hosts(kind)
    bound = await server.listen(address)
    size_bytes = 50_000_000
    has_read = False

    async def write() -> None:
        async with await client.open_stream(bound.address) as stream:
            await stream.send_all(bytes(size_bytes))
            assert has_read

    with trio.fail_after(20):
        async with bound.listener, trio.open_nursery() as nursery:
            nursery.start_soon(write)
            async with await bound.listener.accept() as stream:
                await trio.testing.wait_all_tasks_blocked(0.01)
                has_read = True
                assert sum([len(part) async for part in stream]) == size_bytes


@kinds
async def test_the_other_side_is_gone(kind: str) -> None:
    """What it had sent can be read; who sends to it is told, if not at once."""
    (client, server, address) = two_hosts(kind)
    bound = await server.listen(address)

    async def send_for_ever(stream: trio.abc.Stream) -> None:
        while True:
            await stream.send_all(bytes(10_000))

    with trio.fail_after(20):
        async with bound.listener, await client.open_stream(bound.address) as stream:
            accepted = await bound.listener.accept()
            await accepted.send_all(b"goodbye")
            await accepted.aclose()
            assert await stream.receive_some() == b"goodbye"
            assert await stream.receive_some() == b""
            with pytest.raises(trio.BrokenResourceError):
                await send_for_ever(stream)


@kinds
async def test_waiting_may_be_cancelled(kind: str) -> None:
    """For a connection or for bytes: nothing is lost by it."""
    (client, server, address) = two_hosts(kind)
    bound = await server.listen(address)
    with trio.fail_after(20):
        async with bound.listener:
            with trio.move_on_after(0):
                await bound.listener.accept()
            async with await client.open_stream(bound.address) as stream, await bound.listener.accept() as accepted:
                with trio.move_on_after(0):
                    await accepted.receive_some()
                await stream.send_all(b"x")
                assert await accepted.receive_some() == b"x"


async def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0: .*[Cc]annot assign"):
        await RealNetwork().listen("192.0.2.1:0")


class Two:
    """Hosts a and b, one connection from a to b."""

    def __init__(self, settings: SimNetworkSettings | None = None) -> None:
        self.network = SimNetwork(random.Random(1), settings)
        self.a = self.network.host("a")
        self.b = self.network.host("b")

    async def connect(self) -> Pair:
        self.bound = await self.b.listen("b:1")
        stream = await self.a.open_stream("b:1")
        return stream, await self.bound.listener.accept()


async def test_latency_is_virtual_and_keeps_the_order(autojump_clock: trio.testing.MockClock) -> None:
    two = Two(SimNetworkSettings(weather=Weather(latency_seconds_min=0.01, latency_seconds_max=0.5)))
    (at_a, at_b) = await two.connect()
    began = trio.current_time()
    for number in range(50):
        await at_a.send_all(bytes([number]))
    got = b""
    while len(got) < 50:
        got += await at_b.receive_some(7)
    assert got == bytes(range(50))
    assert 0.01 <= trio.current_time() - began <= 0.5


async def test_the_same_seed_gives_the_same_latencies(autojump_clock: trio.testing.MockClock) -> None:
    async def arrival() -> float:
        two = Two(SimNetworkSettings(weather=Weather(latency_seconds_max=0.5)))
        (at_a, at_b) = await two.connect()
        began = trio.current_time()
        await at_a.send_all(b"x")
        await at_b.receive_some()
        return trio.current_time() - began

    assert abs(await arrival() - await arrival()) < 1e-9


async def test_behind_a_cut_bytes_wait(autojump_clock: trio.testing.MockClock) -> None:
    two = Two()
    (at_a, at_b) = await two.connect()
    two.network.cut("a", "b")
    await at_a.send_all(b"held")
    await at_a.aclose()
    with trio.move_on_after(100) as scope:
        await at_b.receive_some()
    assert scope.cancelled_caught
    two.network.heal()
    assert await at_b.receive_some() == b"held"
    assert await at_b.receive_some() == b""


async def test_a_one_way_cut(autojump_clock: trio.testing.MockClock) -> None:
    two = Two()
    (at_a, at_b) = await two.connect()
    two.network.cut("a", "b", both_ways=False)
    await at_b.send_all(b"back")
    assert await at_a.receive_some() == b"back"
    await at_a.send_all(b"forth")
    with trio.move_on_after(1) as scope:
        await at_b.receive_some()
    assert scope.cancelled_caught


SEVERINGS: dict[str, Callable[[Two], None]] = {
    "cut": lambda two: two.network.cut("a", "b"),
    "cut from a": lambda two: two.network.cut("a", "b", both_ways=False),
    "cut from b": lambda two: two.network.cut("b", "a", both_ways=False),
    "clog": lambda two: two.network.clog("a", "b"),
    "clog from a": lambda two: two.network.clog("a", "b", both_ways=False),
    "clog from b": lambda two: two.network.clog("b", "a", both_ways=False),
    "isolate a": lambda two: two.network.isolate("a"),
    "isolate b": lambda two: two.network.isolate("b"),
}
HEALINGS: dict[str, Callable[[Two], None]] = {
    "all": lambda two: two.network.heal(),
    "calm": lambda two: two.network.calm(),
    "of a": lambda two: two.network.heal("a"),
    "of b": lambda two: two.network.heal("b"),
    "between": lambda two: two.network.heal("a", "b"),
    "between, named the other way round": lambda two: two.network.heal("b", "a"),
}


@pytest.mark.parametrize("severing", SEVERINGS)
@pytest.mark.parametrize("healing", HEALINGS)
async def test_a_heal_is_one_of_both_directions(autojump_clock: trio.testing.MockClock, severing: str, healing: str) -> None:
    """Whatever was severed, and whichever way it is healed, bytes pass from either side afterwards; old and new connections do.

    The isolation of a host ends when everything, or that host, is healed: not when one of its links is.
    """
    two = Two()
    (at_a, at_b) = await two.connect()
    SEVERINGS[severing](two)
    HEALINGS[healing](two)
    stays = severing == "isolate a" and healing not in ("all", "calm", "of a")
    stays = stays or (severing == "isolate b" and healing not in ("all", "calm", "of b"))
    for sender, receiver in ((at_a, at_b), (at_b, at_a)):
        await sender.send_all(b"x")
        with trio.move_on_after(10) as scope:
            assert await receiver.receive_some() == b"x"
        assert scope.cancelled_caught is stays
    with trio.move_on_after(10) as scope:
        await two.a.open_stream("b:1")
    assert scope.cancelled_caught is stays


@pytest.mark.parametrize(("cut_seconds", "silent_seconds"), [(0.1, 0.1), (1.0, 0.4), (14.0, 11.4), (100.0, 2.2), (500.0, 64.6)])
async def test_after_a_cut_bytes_come_when_they_are_sent_again(
    cut_seconds: float, silent_seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    """At intervals that double up to two minutes; what is written meanwhile comes behind, what was never lost is not late."""
    network = SimNetwork(random.Random(1), SimNetworkSettings(retransmission=Retransmission()))
    bound = await network.host("b").listen("b:1")
    ours = await network.host("a").open_stream("b:1")
    theirs = await bound.listener.accept()
    await ours.send_all(b"before ")
    assert await theirs.receive_some() == b"before "
    network.cut("a", "b")
    await trio.sleep(1.0)  # nothing is on its way
    network.heal()
    await ours.send_all(b"between ")
    assert await theirs.receive_some() == b"between "
    network.cut("a", "b")
    await ours.send_all(b"lost ")
    await trio.sleep(cut_seconds)
    network.heal()
    healed_at = trio.current_time()
    await ours.send_all(b"after")
    received = await theirs.receive_some()
    assert trio.current_time() - healed_at == pytest.approx(silent_seconds)
    while len(received) < 10:
        received += await theirs.receive_some()
    assert received == b"lost after"


async def test_after_a_cut_a_dial_succeeds_when_it_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    """After 1, 3, 7, 15 seconds; a new dial at once."""
    network = SimNetwork(random.Random(1), SimNetworkSettings(retransmission=Retransmission()))
    await network.host("b").listen("b:1")
    network.cut("a", "b")
    done_at: list[float] = []

    async def dial() -> None:
        await network.host("a").open_stream("b:1")
        done_at.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        await trio.sleep(8.0)
        network.heal()
        await network.host("a").open_stream("b:1")
        assert trio.current_time() == pytest.approx(8.0)
    assert done_at == [pytest.approx(15.0)]


async def test_a_dial_behind_a_cut_hangs_until_healed(autojump_clock: trio.testing.MockClock) -> None:
    two = Two()
    await two.connect()
    for sever in (lambda: two.network.cut("a", "b"), lambda: two.network.isolate("b"), lambda: two.network.isolate("a")):
        sever()
        with trio.move_on_after(100) as scope:
            await two.a.open_stream("b:1")
        assert scope.cancelled_caught
        two.network.heal()
        await two.a.open_stream("b:1")


async def test_a_dial_that_waited_behind_a_cut_is_refused_when_nobody_is_left(autojump_clock: trio.testing.MockClock) -> None:
    two = Two()
    await two.connect()
    two.network.cut("a", "b")
    two.network.crash("b")
    async with trio.open_nursery() as nursery:

        async def dial() -> None:
            with pytest.raises(ConnectionRefusedError):
                await two.a.open_stream("b:1")
            assert trio.current_time() >= 10

        nursery.start_soon(dial)
        await trio.sleep(10)
        two.network.heal()


async def test_reset_tells_both_sides_at_once(autojump_clock: trio.testing.MockClock) -> None:
    two = Two()
    (at_a, at_b) = await two.connect()
    await at_a.send_all(b"lost")
    assert two.network.reset("a", "b") == 1
    for stream in (at_a, at_b):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


async def test_a_crash_resets_and_nobody_listens_any_more(autojump_clock: trio.testing.MockClock) -> None:
    two = Two()
    (at_a, _) = await two.connect()
    two.network.crash("b")
    with pytest.raises(trio.BrokenResourceError):
        await at_a.receive_some()
    with pytest.raises(ConnectionRefusedError):
        await two.a.open_stream("b:1")
    with pytest.raises(trio.ClosedResourceError):
        await two.bound.listener.accept()
    await two.b.listen("b:1")
    await two.a.open_stream("b:1")


async def test_a_crash_behind_a_cut_is_not_told_until_healed(autojump_clock: trio.testing.MockClock) -> None:
    two = Two()
    (at_a, _) = await two.connect()
    two.network.isolate("b")
    two.network.crash("b")
    await at_a.send_all(b"into the void")
    with trio.move_on_after(100) as scope:
        await at_a.receive_some()
    assert scope.cancelled_caught
    two.network.heal()
    with pytest.raises(trio.BrokenResourceError):
        await at_a.receive_some()


async def test_a_writer_waits_at_the_limit_of_the_buffer(autojump_clock: trio.testing.MockClock) -> None:
    two = Two(SimNetworkSettings(buffer_bytes_max=100))
    (at_a, at_b) = await two.connect()
    await at_a.send_all(b"x" * 100)
    with trio.move_on_after(1) as scope:
        await at_a.send_all(b"y")
    assert scope.cancelled_caught
    assert len(await at_b.receive_some(10)) == 10
    await at_a.send_all(b"z" * 10)


async def test_the_limit_of_the_backlog(autojump_clock: trio.testing.MockClock) -> None:
    network = SimNetwork(random.Random(1), SimNetworkSettings(backlog_max=2))
    bound = await network.host("b").listen("b:1")
    for _ in range(2):
        await network.host("a").open_stream("b:1")
    with pytest.raises(ConnectionRefusedError, match="too many"):
        await network.host("a").open_stream("b:1")
    await bound.listener.accept()
    await network.host("a").open_stream("b:1")


async def test_closing_a_listener_resets_what_it_has_not_accepted() -> None:
    two = Two()
    bound = await two.b.listen("b:1")
    stream = await two.a.open_stream("b:1")
    await bound.listener.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()


async def test_connections_are_forgotten() -> None:
    two = Two()
    for stream in await two.connect():
        await stream.aclose()
    assert two.network.reset("a", "b") == 0


async def test_peeking_takes_nothing() -> None:
    (one, other) = await simulated_pair()
    peeked = PeekedStream(other)
    await one.send_all(b"abc")
    assert await peeked.peek_more(2)
    assert peeked.peeked == b"ab"
    await one.send_all(b"def")
    await one.aclose()
    assert await peeked.receive_some(1) == b"a"
    assert await peeked.receive_some() == b"b"
    assert await peeked.receive_some() == b"cdef"
    assert not await peeked.peek_more()
    assert await peeked.receive_some() == b""


async def test_half_closing_what_cannot_be_says_so() -> None:
    class Whole(trio.abc.Stream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...

        async def wait_send_all_might_not_block(self) -> None: ...

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return b""

        async def aclose(self) -> None: ...

    with pytest.raises(TypeError, match="Whole cannot close one direction only"):
        await PeekedStream(Whole()).send_eof()
