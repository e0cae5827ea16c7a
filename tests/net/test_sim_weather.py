"""Weather and faults of a `SimNetwork`: each does what its page (docs/simulated-network.md) says, to streams and packets."""

import math
import random
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from trio_eventlog.gossip.messages import Address
from trio_eventlog.testing.datagrams import SimDatagrams
from trio_eventlog.testing.network import SimNetwork, SimNetworkSettings
from trio_eventlog.testing.streams import SimListener, SimStream
from trio_eventlog.testing.weather import Weather

VIRTUAL_TIME = True


class Hosts:
    """Hosts a, b and c; a connection from a to b, and a socket for packets on each of the two."""

    def __init__(self, seed: int = 1, **settings: object) -> None:
        self.network = SimNetwork(random.Random(seed), SimNetworkSettings(**settings))  # type: ignore[arg-type]
        (self.a, self.b, self.c) = (self.network.host(name) for name in "abc")
        self.listener: SimListener
        self.at_a: SimStream
        self.at_b: SimStream
        self.packets_a: SimDatagrams
        self.packets_b: SimDatagrams
        self.where_b: Address

    async def open(self) -> "Hosts":
        bound = await self.b.listen("b:1")
        assert isinstance(bound.listener, SimListener)
        self.listener = bound.listener
        (self.at_a, self.at_b) = await self.connect()
        self.packets_a = await self.a.datagrams.bind("a:1")
        self.packets_b = await self.b.datagrams.bind("b:1")
        [self.where_b] = await self.a.datagrams.resolve("b:1")
        return self

    async def connect(self, address: str = "b:1") -> tuple[SimStream, SimStream]:
        stream = await self.a.open_stream(address)
        return stream, await self.listener.accept()

    def send_packets(self, *packets: bytes) -> None:
        for packet in packets:
            self.packets_a.send_nowait(packet, self.where_b)

    def received_packets(self) -> list[bytes]:
        """At b, without waiting."""
        found = []
        while (received := self.packets_b.receive_nowait()) is not None:
            found.append(received[0])
        return found


async def hosts(seed: int = 1, **settings: object) -> Hosts:
    return await Hosts(seed, **settings).open()


async def receive(stream: SimStream, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = await stream.receive_some(count - len(got))
        assert part, "the stream ends too early"
        got += part
    return got


async def hangs(call: Callable[[], Awaitable[object]], seconds: float = 1000.0) -> bool:
    with trio.move_on_after(seconds) as scope:
        await call()
    return scope.cancelled_caught


def differing_bits(one: bytes, other: bytes) -> int:
    assert len(one) == len(other)
    return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))


# Weather


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"latency_seconds_min": -0.1, "latency_seconds_max": 1.0}, "latency_seconds_min"),
        ({"latency_seconds_min": 2.0, "latency_seconds_max": 1.0}, "latency_seconds_max"),
        ({"loss_chance": 1.1}, "loss_chance"),
        ({"duplication_chance": -0.1}, "duplication_chance"),
        ({"flip_chance": 2}, "flip_chance"),
        ({"reorder_chance": 2}, "reorder_chance"),
        ({"reorder_seconds_max": -1}, "reorder_seconds_max"),
        ({"bytes_per_second": 0}, "bytes_per_second"),
    ],
)
async def test_impossible_weather_is_refused(values: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Weather(**values)


@pytest.mark.parametrize("name", ["buffer_bytes_max", "backlog_max", "queue_packets_max"])
async def test_impossible_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        SimNetworkSettings(**{name: 0})


async def test_weather_of_one_direction() -> None:
    """The other direction, other hosts and later connections keep the weather of the network."""
    two = await hosts()
    two.network.set_weather("a", "b", Weather(latency_seconds_min=3.0, latency_seconds_max=3.0), both_ways=False)
    began = trio.current_time()
    await two.at_b.send_all(b"quick")
    await receive(two.at_a, 5)
    assert trio.current_time() == began
    await two.at_a.send_all(b"slow")
    two.send_packets(b"slow")
    await receive(two.at_b, 4)
    assert trio.current_time() - began == pytest.approx(3.0)
    assert two.received_packets() == [b"slow"]
    two.network.weather = Weather(latency_seconds_min=1.0, latency_seconds_max=1.0)
    began = trio.current_time()
    await two.c.open_stream("b:1")
    assert trio.current_time() - began == pytest.approx(2.0), "a dial takes a round trip"
    began = trio.current_time()
    await two.a.open_stream("b:1")
    assert trio.current_time() - began == pytest.approx(4.0), "there at the link's own pace, back at the network's"
    two.network.set_weather("a", "b", None)
    await two.at_a.send_all(b"x")
    began = trio.current_time()
    await receive(two.at_b, 1)
    assert trio.current_time() - began == pytest.approx(1.0)


async def test_a_slow_link_carries_so_many_bytes_a_second() -> None:
    """Of all connections and packets together; they trickle, one after the other. The way back is quick."""
    two = await hosts()
    (other_a, other_b) = await two.connect()
    two.network.set_weather("a", "b", Weather(bytes_per_second=10_000), both_ways=False)
    began = trio.current_time()
    await two.at_a.send_all(b"x" * 20_000)
    assert trio.current_time() == began, "there is room in the buffer"
    await two.at_b.receive_some()
    assert 0 < trio.current_time() - began < 0.2, "the first bytes do not wait for the last"
    await other_a.send_all(b"y" * 10_000)
    two.send_packets(b"z" * 10_000)
    await receive(other_b, 10_000)
    assert trio.current_time() - began == pytest.approx(3.0)
    await two.packets_b.wait_receivable()
    assert trio.current_time() - began == pytest.approx(4.0)
    began = trio.current_time()
    await two.at_b.send_all(b"back" * 1000)
    await receive(two.at_a, 4000)
    assert trio.current_time() == began


async def test_a_slow_link_holds_its_writer_back() -> None:
    """Back pressure: no more than the buffer is under way."""
    two = await hosts(weather=Weather(bytes_per_second=10_000), buffer_bytes_max=10_000)
    began = trio.current_time()

    async def read() -> None:
        await receive(two.at_b, 100_000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await two.at_a.send_all(b"x" * 100_000)
        assert 8.5 < trio.current_time() - began < 9.5
    assert trio.current_time() - began == pytest.approx(10.0)


async def test_packets_overtake_each_other() -> None:
    two = await hosts(weather=Weather(reorder_chance=0.5, reorder_seconds_max=1.0))
    sent = [bytes([number]) for number in range(100)]
    two.send_packets(*sent)
    at_once = two.received_packets()
    assert 30 < len(at_once) < 70
    assert at_once == sorted(at_once), "those that are not held back keep their order"
    await trio.sleep(1.0)
    later = two.received_packets()
    assert later != sorted(later)
    assert sorted(at_once + later) == sent


async def test_packets_are_lost_and_doubled() -> None:
    two = await hosts()
    sent = [b"%d" % number for number in range(1000)]
    two.network.weather = Weather(loss_chance=0.5)
    two.send_packets(*sent)
    assert 400 < len(two.received_packets()) < 600
    two.network.weather = Weather(duplication_chance=0.5)
    two.send_packets(*sent)
    received = two.received_packets()
    assert 1400 < len(received) < 1600
    assert set(received) == set(sent)


async def test_a_full_queue_loses_packets() -> None:
    two = await hosts(queue_packets_max=10)
    two.send_packets(*[b"x"] * 20)
    assert len(two.received_packets()) == 10
    two.send_packets(b"x")
    assert len(two.received_packets()) == 1


async def test_bits_flip_by_chance() -> None:
    """At most one of each write and of each packet; nothing else changes."""
    two = await hosts(weather=Weather(flip_chance=0.5))
    bits = []
    for _ in range(400):
        await two.at_a.send_all(bytes(32))
        bits.append(differing_bits(await receive(two.at_b, 32), bytes(32)))
    assert set(bits) == {0, 1}
    assert 150 < sum(bits) < 250
    two.send_packets(*[bytes(32)] * 400)
    bits = [differing_bits(packet, bytes(32)) for packet in two.received_packets()]
    assert set(bits) == {0, 1}
    assert 150 < sum(bits) < 250


# Planned faults


async def test_one_bit_of_the_next_bytes_flips() -> None:
    """Somewhere within; before and after it all is well."""
    places = set()
    for seed in range(20):
        two = await hosts(seed)
        two.network.flip("a", "b", within_bytes=10)
        got = b""
        for _ in range(10):
            await two.at_a.send_all(bytes(3))
            got += await receive(two.at_b, 3)
        assert differing_bits(got, bytes(30)) == 1
        places.add(next(at for at, byte in enumerate(got) if byte))
    assert max(places) <= 9
    assert len(places) > 4


async def test_the_very_next_byte_of_a_packet_flips() -> None:
    """And not one of the way back, nor of a connection dialled by another."""
    two = await hosts()
    two.network.flip("a", "b")
    await two.at_b.send_all(bytes(5))
    assert await receive(two.at_a, 5) == bytes(5)
    two.send_packets(bytes(5), bytes(5))
    [first, second] = two.received_packets()
    assert differing_bits(first, bytes(5)) == 1
    assert first[0]
    assert second == bytes(5)
    two.network.flip("a", "b", dialled_by="b")
    await two.at_a.send_all(bytes(5))
    two.send_packets(bytes(5))
    assert await receive(two.at_b, 5) == bytes(5)
    assert two.received_packets() == [bytes(5)]


@pytest.mark.parametrize("after_bytes", [0, 1, 5, 9, 10, 15])
async def test_a_reset_inside_a_frame(after_bytes: int) -> None:
    """Exactly so many bytes arrive, then both sides know. Packets do not count."""
    two = await hosts(weather=Weather(latency_seconds_min=1.0, latency_seconds_max=1.0))
    two.network.reset_inside("a", "b", after_bytes=after_bytes)
    two.send_packets(b"y" * 100)
    frames = [bytes(range(10)), bytes(range(10, 20))]
    if after_bytes > 10:
        await two.at_a.send_all(frames.pop(0))
    with pytest.raises(trio.BrokenResourceError):
        await two.at_a.send_all(frames.pop(0))
    await two.at_b.send_all(b"in time")
    assert await receive(two.at_b, after_bytes) == bytes(range(after_bytes))
    with pytest.raises(trio.BrokenResourceError):
        await two.at_b.receive_some()
    for stream in (two.at_a, two.at_b):
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
        await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await two.at_a.receive_some()
    (again, _) = await two.connect()
    await again.send_all(b"x" * 100)
    assert two.network.reset("a", "b") == 1, "broken connections are forgotten"


async def test_no_reset_before_the_next_byte() -> None:
    with pytest.raises(ValueError, match="after_bytes"):
        (await hosts()).network.reset_inside("a", "b", after_bytes=-1)


async def test_a_reset_of_the_connections_that_one_side_dials() -> None:
    two = await hosts()
    bound = await two.a.listen("a:1")
    back_at_b = await two.b.open_stream("a:1")
    back_at_a = await bound.listener.accept()
    two.network.reset_inside("a", "b", after_bytes=3, dialled_by="b")
    await two.at_a.send_all(b"12345")
    with pytest.raises(trio.BrokenResourceError):
        await back_at_a.send_all(b"12345")
    assert await two.at_b.receive_some() == b"12345"
    assert await back_at_b.receive_some() == b"123"


async def test_a_reset_reaches_who_waits_for_room() -> None:
    """The reader of the rest writes himself, into a buffer that nobody empties any more."""
    two = await hosts(weather=Weather(latency_seconds_min=1.0, latency_seconds_max=1.0), buffer_bytes_max=10)
    two.network.reset_inside("a", "b", after_bytes=1)
    with pytest.raises(trio.BrokenResourceError):
        await two.at_a.send_all(b"xx")
    began = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        await two.at_b.send_all(b"y" * 100)
    assert trio.current_time() - began == pytest.approx(1.0)


# Cuts and clogs


async def test_a_clogged_link_holds_bytes_packets_and_dials() -> None:
    """And gives them back in their order; a cut loses the packets."""
    two = await hosts()
    two.network.clog("a", "b")
    two.network.cut("a", "b", both_ways=False)
    two.send_packets(b"lost by the cut")
    two.network.heal()
    assert two.received_packets() == []
    two.network.clog("a", "b")
    await two.at_a.send_all(b"held")
    two.send_packets(b"1", b"2", b"3")
    assert await hangs(lambda: two.at_b.receive_some())
    assert await hangs(lambda: two.a.open_stream("b:1"))
    assert two.received_packets() == []

    async def read() -> None:
        assert await two.at_b.receive_some() == b"held"
        assert trio.current_time() == healed_at

    async def dial() -> None:
        await two.a.open_stream("b:1")
        assert trio.current_time() == healed_at

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(dial)
        await trio.sleep(10)
        healed_at = trio.current_time()
        two.network.heal()
    assert two.received_packets() == [b"1", b"2", b"3"]


async def test_a_clogged_link_has_bounds() -> None:
    """Its writer waits for room, packets beyond the limit are lost."""
    two = await hosts(buffer_bytes_max=100, queue_packets_max=5)
    two.network.clog("a", "b", both_ways=False)
    await two.at_a.send_all(b"x" * 100)
    assert await hangs(lambda: two.at_a.send_all(b"y"))
    two.send_packets(*[b"x"] * 10)
    assert len(two.network._link("a", "b").held) == 5
    two.network.heal()
    assert await receive(two.at_b, 100) == b"x" * 100
    assert len(two.received_packets()) == 5


async def test_links_are_released_in_another_order() -> None:
    """Healing one pair, or one direction, leaves the others as they are."""
    two = await hosts()
    at_c = await two.c.open_stream("b:1")
    from_c = await two.listener.accept()
    two.network.clog("a", "b")
    two.network.clog("c", "b")
    await two.at_a.send_all(b"first sent")
    await at_c.send_all(b"second sent")
    two.network.heal("b", "c")
    assert await from_c.receive_some() == b"second sent"
    assert await hangs(lambda: two.at_b.receive_some())
    two.network.heal("b", "a", both_ways=False)
    assert await hangs(lambda: two.at_b.receive_some())
    two.network.heal("a", "b", both_ways=False)
    assert await two.at_b.receive_some() == b"first sent"


async def test_one_host_is_healed() -> None:
    two = await hosts()
    for name in ("a", "c"):
        two.network.isolate(name)
        two.network.cut(name, "b")
    two.network.heal("a")
    await two.a.open_stream("b:1")
    assert await hangs(lambda: two.c.open_stream("b:1"))


async def test_a_cut_applies_to_streams_and_packets_alike() -> None:
    two = await hosts()
    faults = (
        lambda: two.network.cut("a", "b", both_ways=False),
        lambda: two.network.isolate("a"),
        lambda: two.network.isolate("b"),
    )
    for number, fault in enumerate(faults):
        fault()
        await two.at_a.send_all(b"%d" % number)
        two.send_packets(b"lost")
        assert await hangs(lambda: two.at_b.receive_some())
        two.network.heal()
        assert await two.at_b.receive_some() == b"%d" % number
        assert two.received_packets() == []


async def test_a_host_reaches_itself_whatever_happens() -> None:
    two = await hosts()
    two.network.isolate("b")
    two.network.clog("b", "b")
    stream = await two.b.open_stream("b:1")
    accepted = await two.listener.accept()
    await stream.send_all(b"x")
    assert await accepted.receive_some() == b"x"
    two.packets_b.send_nowait(b"y", two.where_b)
    assert two.received_packets() == [b"y"]


async def test_calm_ends_everything() -> None:
    storm = Weather(loss_chance=1.0, flip_chance=1.0, latency_seconds_min=9.0, latency_seconds_max=9.0, bytes_per_second=1.0)
    two = await hosts()
    two.network.weather = storm
    two.network.set_weather("a", "b", storm)
    two.network.clog("a", "b")
    two.network.cut("a", "b")
    two.network.isolate("a")
    two.network.flip("a", "b")
    two.network.reset_inside("a", "b", after_bytes=1)
    two.network.calm()
    began = trio.current_time()
    await two.at_a.send_all(bytes(10_000))
    assert await receive(two.at_b, 10_000) == bytes(10_000)
    two.send_packets(b"x")
    assert two.received_packets() == [b"x"]
    assert trio.current_time() == began


# Crashes


async def test_a_crash_takes_streams_and_packets() -> None:
    two = await hosts()
    waiting = await two.a.open_stream("b:1")
    await two.at_b.send_all(b"lost")
    two.network.crash("b")
    for stream in (two.at_a, waiting):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await two.packets_b.wait_receivable()
    with pytest.raises(trio.ClosedResourceError):
        await two.listener.accept()
    two.send_packets(b"lost")
    await two.b.datagrams.bind("b:1")
    assert two.network.reset("a", "b") == 0, "broken connections are forgotten"


async def test_what_was_closed_before_a_crash_arrives() -> None:
    two = await hosts(weather=Weather(latency_seconds_min=1.0, latency_seconds_max=1.0))
    await two.at_b.send_all(b"last words")
    await two.at_b.aclose()
    two.network.crash("b")
    assert await receive(two.at_a, 10) == b"last words"
    assert await two.at_a.receive_some() == b""


async def test_a_silent_crash_leaves_connections_half_open() -> None:
    """Nobody is told; who writes fills the buffer and waits; dials hang. What was on its way still arrives."""
    two = await hosts(buffer_bytes_max=10, weather=Weather(latency_seconds_min=1.0, latency_seconds_max=1.0))
    await two.at_b.send_all(b"last")
    not_accepted = await two.a.open_stream("b:1")
    two.network.crash("b", silently=True)
    assert await hangs(not_accepted.receive_some)
    for dying in (lambda: two.at_b.send_all(b"x"), two.at_b.send_eof):
        with pytest.raises(trio.BrokenResourceError):
            await dying()
    await two.at_b.aclose()
    assert await receive(two.at_a, 4) == b"last"
    assert await hangs(lambda: two.at_a.receive_some())
    await two.at_a.send_all(b"x" * 10)
    assert await hangs(lambda: two.at_a.send_all(b"x"))
    assert await hangs(lambda: two.a.open_stream("b:1"))
    two.send_packets(b"lost")


async def test_who_sends_to_a_host_that_is_back_is_told() -> None:
    """At once if there is something unanswered, else with the next bytes; who only reads is never told."""
    two = await hosts(weather=Weather(latency_seconds_min=1.0, latency_seconds_max=1.0))
    connections = [await two.connect() for _ in range(3)]
    [sends, sends_later, reads] = [at_a for at_a, _ in connections]
    two.network.crash("b", silently=True)
    await sends.send_all(b"into the void")
    await trio.sleep(100)
    async with trio.open_nursery() as nursery:

        async def dial() -> None:
            await two.a.open_stream("b:1")
            assert trio.current_time() - began < 3.0, "dials that hung go on"

        began = math.inf
        nursery.start_soon(dial)
        await trio.sleep(10)
        began = trio.current_time()
        await two.b.listen("b:1")
    with pytest.raises(trio.BrokenResourceError):
        await sends.receive_some()
    assert trio.current_time() - began == pytest.approx(1.0)
    assert await hangs(lambda: sends_later.receive_some())
    began = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):  # noqa: PT012 -- one of many
        while True:
            await sends_later.send_all(b"are you there?")
            await trio.sleep(0.3)
    assert 2.0 <= trio.current_time() - began < 2.5
    assert await hangs(lambda: reads.receive_some())


async def test_a_host_is_back_when_it_dials_or_binds() -> None:
    two = await hosts()
    await two.c.listen("c:1")
    for comes_back in (lambda: two.b.open_stream("c:1"), lambda: two.b.datagrams.bind("b:2")):
        two.network.crash("b", silently=True)
        assert await hangs(lambda: two.a.open_stream("b:1"))
        await comes_back()
        with pytest.raises(ConnectionRefusedError):
            await two.a.open_stream("b:1")


# Addresses


async def test_a_host_under_another_name() -> None:
    """Between two lives: the old address refuses."""
    two = await hosts()
    two.network.crash("b")
    bound = await two.b.listen("b-new:1")
    with pytest.raises(ConnectionRefusedError):
        await two.a.open_stream("b:1")
    await two.a.open_stream("b-new:1")
    await bound.listener.accept()
    two.network.isolate("b")
    assert await hangs(lambda: two.a.open_stream("b-new:1")), "faults go by host, not by name"


async def test_a_name_that_stands_for_another_address() -> None:
    """As when DNS changes: the name leads to the new one, the old one by number to nobody; what is bound stays bound."""
    two = await hosts()
    assert two.a.datagrams.dialable(two.where_b) == "b:1"
    two.network.move("b")
    [new] = await two.a.datagrams.resolve("b:1")
    assert new != two.where_b
    assert two.a.datagrams.dialable(new) == "b:1"
    old = two.a.datagrams.dialable(two.where_b)
    assert old == "10.77.0.1:1"
    await two.a.open_stream(old)
    with pytest.raises(ConnectionRefusedError):
        await two.a.open_stream("b:1")
    two.network.crash("b")
    packets = await two.b.datagrams.bind("b:1")
    await two.b.listen("b:1")
    await two.a.open_stream("b:1")
    with pytest.raises(ConnectionRefusedError):
        await two.a.open_stream(old)
    two.send_packets(b"to the old one")
    assert packets.receive_nowait() is None
    two.packets_a.send_nowait(b"to the new one", new)
    assert packets.receive_nowait() is not None


async def test_an_address_that_leads_to_somebody_else() -> None:
    two = await hosts()
    two.network.crash("b")
    two.network.move("c", to="b")
    two.network.move("b")
    packets = await two.c.datagrams.bind("c:1")
    bound = await two.c.listen("c:1")
    two.send_packets(b"for b")
    assert packets.receive_nowait() is not None
    assert two.a.datagrams.dialable(two.where_b) == "c:1"
    await two.a.open_stream("10.77.0.1:1")
    assert (await bound.listener.accept()) is not None
    with pytest.raises(ConnectionRefusedError):
        await two.a.open_stream("b:1")


# The seed


async def test_the_same_seed_gives_the_same_run() -> None:
    """Times, losses and flips; another seed gives another run."""

    async def run(seed: int) -> list[object]:
        weather = Weather(
            latency_seconds_max=0.5,
            flip_chance=0.3,
            loss_chance=0.3,
            duplication_chance=0.3,
            reorder_chance=0.3,
            reorder_seconds_max=1.0,
        )
        two = await hosts(seed, weather=attrs.evolve(weather, bytes_per_second=1000.0))
        seen: list[object] = []
        began = trio.current_time()
        for _ in range(20):
            two.send_packets(bytes(8))
            await two.at_a.send_all(bytes(8))
            seen.append((await receive(two.at_b, 8), round(trio.current_time() - began, 6)))
        await trio.sleep(3.0)
        return [*seen, *two.received_packets()]

    assert await run(1) == await run(1)
    assert await run(1) != await run(2)


async def test_everything_sent_is_told() -> None:
    """As it was sent, before the weather."""
    told: list[tuple[str, str, bytes]] = []
    two = await hosts(weather=Weather(flip_chance=1.0, loss_chance=1.0))
    two.network.on_write = lambda source, target, data: told.append((source, target, data))
    await two.at_a.send_all(b"bytes")
    two.send_packets(b"packet")
    two.packets_a.send_nowait(b"to nobody", Address(two.network.ip_address("nobody"), 1))
    await two.at_b.aclose()
    assert told == [("a", "b", b"bytes"), ("a", "b", b"packet"), ("a", "nobody", b"to nobody"), ("b", "a", b"")]
    two.network.on_write = None
    two.send_packets(b"untold")
    assert len(told) == 4
