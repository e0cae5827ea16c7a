"""What strangers may send to a gossiping node, in any amount: dropped and counted, bounded, and nobody else starves.

The bounds are settings; each has a test at its limit here or beside the core.
"""

import logging
import random
import sys
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from gossip_rig import Node, Rig, rig, sees, three, until
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).resolve().parent.parent / "codec"))

from test_lzw import deflate
from test_memberlist import GOLDEN, JOIN_REQUEST

from trio_eventlog.codec.gossip_crypto import Keyring
from trio_eventlog.codec.memberlist import (
    StreamDecoder,
    WireLimits,
    encode_gossip_message,
    encode_label,
    encode_packet,
    encode_stream_message,
)
from trio_eventlog.codec.msgpack import pack
from trio_eventlog.codec.serf import encode_tags
from trio_eventlog.errors import CodecError
from trio_eventlog.gossip.events import GossipStatus, LoopStalled, MemberFailed, UserEventReceived
from trio_eventlog.gossip.messages import (
    OWN_VERSIONS,
    Address,
    Alive,
    Dead,
    ErrorText,
    MemberRecord,
    Message,
    PushPull,
    RowStatus,
    SerfState,
    StreamMessage,
    Suspect,
    UserEvent,
    UserMessage,
)
from trio_eventlog.gossip.settings import LAN, SerfSettings
from trio_eventlog.net.datagrams import Datagrams
from trio_eventlog.node.gossip_discovery import accepts_cluster
from trio_eventlog.node.gossip_settings import GossipSettings
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.determinism import run

KEY = bytes(range(32))
VECTORS = [bytes.fromhex(row[1]) for row in GOLDEN]


@attrs.frozen(slots=True)
class Stranger:
    """Somebody on the network who sends what it likes to n1."""

    cluster: Rig
    datagrams: Datagrams
    target: Address

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            self.datagrams.send_nowait(packet, self.target)

    def say(self, *messages: Message) -> None:
        """Each in a packet of its own."""
        self.send(*(encode_packet([encode_gossip_message(one)]) for one in messages))

    async def dial(self, data: bytes) -> StreamMessage | None:
        """What n1 answers on a stream that brings these bytes; None when it closes instead, or answers what only it can read."""
        stream = await self.cluster.network.host("stranger").open_stream("n1:8400")
        async with stream:
            decoder = StreamDecoder(is_accepting=False, limits=default(WireLimits))
            try:
                await stream.send_all(data)
                while chunk := await stream.receive_some():
                    if (message := decoder.feed(chunk)) is not None:
                        return message
            except (trio.BrokenResourceError, CodecError):
                pass
        return None


def count(node: Node, what: str) -> int:
    return node.driver.statistics().get(what, 0)


async def stranger(cluster: Rig) -> Stranger:
    host = cluster.network.host("stranger").datagrams
    [target] = await host.resolve("n1:8400")
    return Stranger(cluster, await host.bind("stranger:8400"), target)


def somebody(number: int, *, incarnation: int = 1, tags: dict[str, str] | None = None) -> Alive:
    """An alive message of a made-up name."""
    return Alive(
        name=f"nobody-{number}",
        incarnation=incarnation,
        address=Address(bytes((10, 9, number >> 8 & 255, number & 255)), 1),
        meta=encode_tags(tags or {"role": "x"}),
        versions=OWN_VERSIONS,
    )


def compressed(plain: bytes) -> bytes:
    return b"\x09" + pack({"Algo": 0, "Buf": deflate(plain)})


# --- Bytes of any kind. ---


@st.composite
def mutated(draw: st.DrawFn, vectors: list[bytes]) -> bytes:
    """Bytes that agents have sent, with some changed, left out, put in or repeated; or any bytes."""
    data = bytearray(draw(st.sampled_from([*vectors, b""])))
    for _ in range(draw(st.integers(0, 4))):
        position = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["change", "cut", "put", "repeat"])):
            case "change":
                data[position : position + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del data[position : position + draw(st.integers(1, 40))]
            case "put":
                data[position:position] = draw(st.binary(max_size=20))
            case _:
                data += data[position:]
    return bytes(data)


@settings(max_examples=25)
@given(
    packets=st.lists(mutated(VECTORS) | st.lists(mutated(VECTORS), min_size=2, max_size=5).map(encode_packet), max_size=30),
    streams=st.lists(mutated([*VECTORS, JOIN_REQUEST]), max_size=5),
    keys=st.sampled_from([(), (KEY,)]),
    is_sealed=st.booleans(),
)
def test_anything_in_packets_and_streams(
    packets: list[bytes], streams: list[bytes], keys: tuple[bytes, ...], is_sealed: bool
) -> None:
    """Whatever arrives is read or counted as dropped; the node goes on, and nobody is thrown out for it.

    With a keyring nothing of it is even read, unless the stranger has the key.
    """

    async def story() -> None:
        async with rig() as cluster:
            n1 = await cluster.start("n1", keys=keys)
            n2 = await cluster.start("n2", "n1", keys=keys)
            await cluster.agree()
            bad = await stranger(cluster)
            sealing = Keyring(keys, random.Random(1)) if keys and is_sealed else None
            bad.send(*(packet if sealing is None else sealing.seal(packet, b"") for packet in packets))
            async with trio.open_nursery() as nursery:
                for data in streams:
                    nursery.start_soon(bad.dial, data)
            await trio.sleep(1)
            if keys and not is_sealed:
                assert count(n1, "packets dropped") == len(packets)
                assert sees({"n1", "n2"}, n1.driver.members)
            assert is_alive(n1, "n2")
            assert is_alive(n2, "n1")

    run(story, seed=1)


# --- Bombs. ---


async def test_bombs_in_packets() -> None:
    """Compressed ones, alone, in layers and side by side, are dropped at the limit, and the next packet is read."""
    async with rig() as cluster:
        limits = default(WireLimits, packet_inflated_bytes_max=10_000)
        n1 = await cluster.start("n1", settings=default(GossipSettings, limits=limits))
        bad = await stranger(cluster)
        half = compressed(b"\x08" + bytes(4_999))
        good = [half, encode_packet([half, half])]
        bombs = [
            compressed(b"\x08" + bytes(10_000)),
            encode_packet([half] * 3),
            compressed(encode_packet([half] * 20)),
            compressed(compressed(b"\x08" + bytes(10_000))),
            encode_packet([encode_packet([half] * 2)] * 2),
        ]
        bad.send(*good, *bombs)
        await until(lambda: count(n1, "packets received") == len(good) + len(bombs))
        assert count(n1, "packets dropped") == len(bombs)
        assert count(n1, "user messages not understood") == 3


async def test_compound_bombs() -> None:
    """Compounds within compounds up to the limit of messages; deeper than four layers never."""
    async with rig() as cluster:
        n1 = await cluster.start("n1", settings=default(GossipSettings, limits=default(WireLimits, packet_messages_max=100)))
        bad = await stranger(cluster)
        empty = UserEvent(time=1, name="e")
        event = encode_gossip_message(UserMessage(empty))
        fits = encode_packet([encode_packet([event] * 50), encode_packet([event] * 50)])
        deep = event
        for _ in range(5):
            deep = encode_packet([deep, event])
        bad.send(fits, encode_packet([fits, event]), deep)
        await until(lambda: count(n1, "packets received") == 3)
        assert count(n1, "packets dropped") == 2
        assert len(n1.of(UserEventReceived)) == 1


async def test_bombs_on_streams() -> None:
    """Compressed too far, too many rows, a state too long: an error for the dialler, and the next one is served."""
    async with rig() as cluster:
        limits = default(WireLimits, stream_inflated_bytes_max=10_000, members_max=20, stream_bytes_max=60_000)
        n1 = await cluster.start("n1", settings=default(GossipSettings, limits=limits))
        bad = await stranger(cluster)

        def exchange(rows: int, *, events: int = 0) -> bytes:
            members = tuple(
                MemberRecord(
                    name=f"r{row}",
                    address=Address(bytes((10, 8, 0, row)), 1),
                    incarnation=1,
                    status=RowStatus.ALIVE,
                    meta=b"",
                    versions=OWN_VERSIONS,
                )
                for row in range(rows)
            )
            state = SerfState(
                time=1,
                status_times={f"s{number}": 1 for number in range(events)},
                left_members=(),
                event_time=1,
                events=(),
                query_time=1,
            )
            return encode_stream_message(PushPull(members=members, is_join=True, state=state))

        for data in (exchange(21), exchange(1, events=9000), compressed(b"\x06" + bytes(10_000))):
            assert isinstance(await bad.dial(data), ErrorText)
        assert count(n1, "streams refused") == 3
        for data in (exchange(20), compressed(exchange(19))):
            assert isinstance(await bad.dial(data), PushPull)
        assert set(n1.driver.members) == {"n1", *(f"r{row}" for row in range(20))}
        answer = await bad.dial(encode_label(b"blue") * 3 + exchange(1))
        assert answer is None, "a label is taken off once"


async def test_slow_streams() -> None:
    """A byte now and then: the time for a stream ends it, however much comes, and others are served meanwhile."""
    async with rig() as cluster:
        n1 = await cluster.start("n1")
        bad = await stranger(cluster)

        async def drip() -> None:
            stream = await cluster.network.host("stranger").open_stream("n1:8400")
            async with stream:
                began = trio.current_time()
                try:
                    for byte in JOIN_REQUEST[:-1]:
                        await stream.send_all(bytes((byte,)))
                        await trio.sleep(0.3)
                except trio.BrokenResourceError:
                    pass
                assert trio.current_time() - began == pytest.approx(LAN.stream_timeout_seconds, abs=0.5)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(drip)
            await trio.sleep(5)
            assert n1.driver.streams._accepted == 10
            assert isinstance(await bad.dial(JOIN_REQUEST), PushPull)
        await trio.sleep(1)
        assert n1.driver.streams._accepted == 0
        assert n1.driver.streams._accepted_bytes == 0


async def test_bytes_of_all_streams_are_bounded() -> None:
    """Each may be large, all together may not: who brings the byte that is too much is dropped, and room comes back."""
    async with rig() as cluster:
        n1 = await cluster.start("n1", settings=default(GossipSettings, streams_bytes_max=100_000))
        bad = await stranger(cluster)
        head = b"\x06" + pack({"Nodes": 0, "UserStateLen": 60_000, "Join": False})
        streams = []
        for _ in range(2):
            stream = await cluster.network.host("stranger").open_stream("n1:8400")
            streams.append(stream)
            await stream.send_all(head + bytes(50_000 - len(head)))
        await until(lambda: n1.driver.streams._accepted_bytes == 100_000)
        assert count(n1, "streams refused") == 0
        assert await bad.dial(JOIN_REQUEST) is None
        assert count(n1, "streams refused") == 1
        for stream in streams:
            await stream.aclose()
        await until(lambda: n1.driver.streams._accepted_bytes == 0)
        assert isinstance(await bad.dial(JOIN_REQUEST), PushPull)


# --- Floods of what is valid. ---


async def test_a_flood_of_names() -> None:
    """A stranger makes us remember as many members as the setting says, and we say so once; when it is over there is room again,
    and those who are really there have not been touched."""
    async with rig() as cluster:
        settings = default(GossipSettings, swim=attrs.evolve(LAN, members_max=40))
        (n1, n2, _) = await three(cluster, settings=settings)
        bad = await stranger(cluster)
        for number in range(1000):
            bad.say(somebody(number))
            if number % 100 == 99:
                await trio.sleep(0.05)
        assert len(n1.driver.members) == 40
        assert count(n1, "members over the limit") == 1000 - 37
        newcomer = await cluster.start("n4", "n1", "n2", settings=settings)
        await until(lambda: is_alive(n1, "n4") and is_alive(newcomer, "n1"), 300)
        for number in range(1000, 2000):
            bad.say(somebody(number))
            if number % 100 == 99:
                await trio.sleep(5)
        assert len(n1.driver.members) == 40
        assert count(n1, "members forgotten for others") > 10
        real = {"n1", "n2", "n3", "n4"}
        for node in (n1, n2):
            assert not {event.member.name for event in node.of(MemberFailed)} & real  # type: ignore[union-attr]
            assert all(is_alive(node, name) for name in real)


def is_alive(node: Node, name: str) -> bool:
    member = node.driver.members.get(name)
    return member is not None and member.status is GossipStatus.ALIVE


async def test_a_flood_of_events() -> None:
    """All are read, few are remembered, and what we send in turn stays what three packets per gossip interval can hold."""
    async with rig() as cluster:
        serf = default(SerfSettings, recent_times_max=50, recent_per_time_max=4, recent_bytes_max=20_000)
        swim = attrs.evolve(LAN, rumors_max=100)
        (n1, n2, _) = await three(cluster, settings=default(GossipSettings, swim=swim, serf=serf))
        bad = await stranger(cluster)
        (sent, began) = (count(n1, "packets sent"), trio.current_time())
        for time in range(1, 800):
            bad.say(*(UserMessage(UserEvent(time=time, name=f"e{number}", payload=bytes(200))) for number in range(5)))
            if time % 100 == 0:
                await trio.sleep(0.5)
        core = n1.driver._serf
        assert len(core._events._recent._seen) <= 50
        assert sum(len(name) + len(payload) for seen in core._events._recent._seen.values() for name, payload in seen) <= 20_000
        assert count(n1, "event rumors queued") == 100
        assert 1000 < len(n1.of(UserEventReceived)) <= 4 * 799
        intervals = (trio.current_time() - began) / swim.gossip_interval_seconds
        assert count(n1, "packets sent") - sent < 3 * intervals + 60
        await trio.sleep(60)
        assert count(n1, "event rumors queued") == 0
        assert not n1.of(MemberFailed)
        assert not n2.of(MemberFailed)


async def test_floods_are_told_of_in_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Names that come and go, conflicts, nonsense: a bounded number of lines per minute, and no name begins a line."""
    with caplog.at_level(logging.INFO):
        async with rig() as cluster:
            settings = default(GossipSettings, log_lines_max=10)
            n1 = await cluster.start("n1", settings=settings)
            bad = await stranger(cluster)
            await trio.sleep(61)
            caplog.clear()
            bad.say(attrs.evolve(somebody(0), name="x\nERROR all is lost"))
            await trio.sleep(1)
            for number in range(1, 300):
                alive = somebody(number)
                bad.say(alive, attrs.evolve(alive, address=bad.target))
                bad.say(Dead(name=alive.name, incarnation=1, accuser="x"), Suspect(name="n1", incarnation=1, accuser="y"))
                bad.send(b"nonsense")
            await until(lambda: count(n1, "packets dropped") == 299)
            about_members = [one for one in caplog.messages if "nobody" in one and "is used at" not in one]
            assert len(about_members) == 9
            assert any("too many members come and go" in one for one in caplog.messages)
            assert len([one for one in caplog.messages if "is used at" in one]) < 64
            assert len(caplog.messages) < 90
            assert not any("\n" in one for one in caplog.messages)
            assert any(r"x\nERROR" in one for one in caplog.messages)


async def test_another_cluster_is_named_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Its gossip is refused each time, by packet and by stream, and told of once a minute, with its name."""
    async with rig() as cluster:
        n1 = await cluster.start("n1", tags={"cluster": "blue"}, accepts=accepts_cluster("blue"))
        bad = await stranger(cluster)
        red = somebody(1, tags={"cluster": "red"})
        row = MemberRecord(
            name=red.name, address=red.address, incarnation=1, status=RowStatus.ALIVE, meta=red.meta, versions=red.versions
        )
        state = SerfState(time=1, status_times={}, left_members=(), event_time=1, events=(), query_time=1)
        request = encode_stream_message(PushPull(members=(row,), is_join=True, state=state))
        for second in range(300):
            bad.say(attrs.evolve(red, incarnation=second + 1))
            answer = await bad.dial(request)
            assert isinstance(answer, ErrorText)
            assert "red" in answer.text
            await trio.sleep(1)
        assert count(n1, "alive of another cluster") == 300
        assert count(n1, "merges refused") == 300
        assert sees({"n1"}, n1.driver.members)
        lines = [one for one in caplog.messages if "another cluster" in one]
        by_kind = [one for one in lines if one.startswith("gossip with another node")]
        assert 5 <= len(by_kind) <= 6
        assert all("'cluster': 'red'" in one for one in by_kind)
        assert len(lines) - len(by_kind) <= 6, "and once a minute for the stream"


# --- Whose turn it is. ---


@attrs.define(slots=True)
class SlowReading:
    """Datagrams of a node for which each packet takes a while of everybody's time."""

    inner: Datagrams
    clock: trio.testing.MockClock
    seconds: float
    read: int = 0

    @property
    def address(self) -> str:
        return self.inner.address

    def send_nowait(self, data: bytes, destination: Address) -> None:
        self.inner.send_nowait(data, destination)

    def receive_nowait(self) -> tuple[bytes, Address] | None:
        received = self.inner.receive_nowait()
        if received is not None:
            self.read += 1
            self.clock.jump(self.seconds)
        return received

    async def wait_receivable(self) -> None:
        await self.inner.wait_receivable()

    def close(self) -> None:
        self.inner.close()


async def slow(cluster: Rig, clock: trio.testing.MockClock, seconds: float, **arguments: float) -> tuple[Node, SlowReading]:
    """n1, whose socket is slow to read from now on; n2 has already gone, under suspicion."""
    n1 = await cluster.start("n1", settings=default(GossipSettings, **arguments))  # type: ignore[arg-type]
    reading = SlowReading(n1.driver._packets._datagrams, clock, seconds)
    n1.driver._packets._datagrams = reading
    return n1, reading


async def test_a_flood_leaves_others_their_turn(autojump_clock: trio.testing.MockClock) -> None:
    """However much has arrived, after `turn_seconds_max` of reading everybody else runs, and time acts when all is read."""
    async with rig() as cluster:
        (_, reading) = await slow(cluster, autojump_clock, 0.003, turn_seconds_max=0.01)
        bad = await stranger(cluster)
        bad.send(*[b"nonsense"] * 1000)
        between: list[int] = []

        async def others() -> None:
            while reading.read < 1000:
                before = reading.read
                await trio.lowlevel.checkpoint()
                between.append(reading.read - before)

        await until(lambda: reading.read)
        await others()
        assert sum(between) > 900
        # 0.01 s of packets that take 0.003 s each; twice when Trio runs the two in another order the next time.
        assert max(between) <= 2 * 4


async def test_a_flood_does_not_put_time_off(autojump_clock: trio.testing.MockClock) -> None:
    """It is never all read; after `packets_per_round_max` packets time acts nevertheless, and a dead member is found out."""
    async with rig() as cluster:
        (n1, reading) = await slow(cluster, autojump_clock, 0.005, turn_seconds_max=0.01, packets_per_round_max=50)
        await cluster.start("n2", "n1")
        await cluster.agree()
        bad = await stranger(cluster)
        cluster.crash("n2")
        began = trio.current_time()

        async def flood() -> None:
            while True:
                bad.send(*[b"nonsense"] * 300)
                await until(lambda: not reading.inner._arriving[200:])  # type: ignore[attr-defined]

        cluster.nursery.start_soon(flood)
        await until(lambda: n1.of(MemberFailed), 60)
        assert trio.current_time() - began < 20
        assert reading.read > 1000


@pytest.mark.parametrize("junk", [0, 100])
async def test_sockets_are_drained_before_a_suspicion_expires(junk: int, autojump_clock: trio.testing.MockClock) -> None:
    """The loop comes late, by less than a stall: the refutation that lay in the socket is read first, also behind so much else
    that reading it takes several turns, although the suspicion is over when the first of them begins."""
    async with rig() as cluster:
        (n1, _) = await slow(cluster, autojump_clock, 0.002, turn_seconds_max=0.01)
        bad = await stranger(cluster)
        member = somebody(1)
        bad.say(member)
        await until(lambda: is_alive(n1, member.name))
        bad.say(Suspect(name=member.name, incarnation=1, accuser="x"))
        await until(lambda: n1.driver.members[member.name].is_suspect)
        row = n1.driver._serf.swim.rows[member.name]
        assert row.suspicion is not None
        await trio.sleep_until(row.suspicion.deadline - 0.05)
        # What follows happens at one instant: nobody has run when all of it is there and the deadline is past.
        bad.send(*[b"nonsense"] * junk)
        bad.say(attrs.evolve(member, incarnation=2))
        autojump_clock.jump(0.5)
        await until(lambda: n1.driver.members[member.name].incarnation == 2)
        assert not n1.of(LoopStalled)
        assert not n1.of(MemberFailed)
        assert is_alive(n1, member.name)
