"""Joining by name, in virtual time: what is tried, when, and what is said of it."""

import logging
import random
from typing import Any

import pytest
import trio

from trio_eventlog.codec.peer_frame import Hello, Refused, RefusedCode
from trio_eventlog.errors import SettingsError
from trio_eventlog.ids import NodeId
from trio_eventlog.net.join import Joiner, JoinSettings, Place
from trio_eventlog.net.links import LinkRefused
from trio_eventlog.net.names import ServiceHost
from trio_eventlog.setting_fields import parse_join
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.names import TableNames

VIRTUAL_TIME = True

SRV = "dns+srv://_eventlog._tcp.peers"
SERVICE = "_eventlog._tcp.peers"


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("a:1", ("a", 1, False)),
        ("[::1]:8400", ("::1", 8400, False)),
        ("dns://peers", ("peers", 8400, False)),
        ("dns://peers:9", ("peers", 9, False)),
        ("dns://[::1]", ("::1", 8400, False)),
        (SRV, (SERVICE, 0, True)),
        ("dns+srv://peers.ns.svc.cluster.local", ("_eventlog._tcp.peers.ns.svc.cluster.local", 0, True)),
        ("dns+srv://_log._udp.peers.", ("_log._udp.peers.", 0, True)),
    ],
)
def test_what_may_be_joined(text: str, target: tuple[str, int, bool]) -> None:
    parsed = parse_join(text)
    assert (parsed.host, parsed.port, parsed.is_service) == target
    assert parsed.text == text


@pytest.mark.parametrize(
    "text", ["a", "", "dns+srv://", "dns+srv://a:1", "dns+srv://a..b", "dns+srv://.a", "dns+srv://a/b", "dns://", "http://a", "a:b"]
)
def test_what_may_not(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_join(text)


class World:
    """Names, and who is where: a name of a node, or the error of a probe."""

    def __init__(self) -> None:
        self.names = TableNames()
        self.places: dict[str, str | Exception] = {}
        self.probed: list[tuple[Place, float]] = []
        self.heard: list[str] = []
        self.is_waiting = True
        self.under_way = self.under_way_most = 0

    async def probe(self, place: Place) -> Hello:
        self.probed.append((place, trio.current_time()))
        self.under_way += 1
        self.under_way_most = max(self.under_way, self.under_way_most)
        try:
            await trio.sleep(0.001)
        finally:
            self.under_way -= 1
        who = self.places.get(place.address, ConnectionRefusedError(111, "Connection refused"))
        if isinstance(who, Exception):
            raise who
        return Hello(node_id=NodeId(1), cluster_name="test", node_name=who, address="elsewhere:1", bootstrap_expect=0, known_ids=())

    async def run(self, seconds: float, *texts: str, **settings: Any) -> None:
        joiner = Joiner(
            [parse_join(text) for text in texts],
            names=self.names,
            probe=self.probe,
            on_hello=lambda hello: self.heard.append(hello.node_name),
            is_waiting=lambda: self.is_waiting,
            settings=default(JoinSettings, **settings),
            rng=random.Random(1),
        )
        with trio.move_on_after(seconds):
            await joiner.run()

    def asked_at(self) -> list[float]:
        return [when for _, when in self.names.asked]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> World:
    caplog.set_level(logging.INFO)
    return World()


async def test_every_address_of_a_name_is_asked(world: World) -> None:
    """A headless service: one name, a node behind each address, of either family; one that refuses keeps nobody from the others."""
    world.names.hosts["peers"] = ["10.0.0.1", "10.0.0.2", "fd00::3"]
    world.places = {"10.0.0.2:8400": "n2", "[fd00::3]:8400": "n3"}
    await world.run(0.05, "peers:8400")
    assert sorted(world.heard) == ["n2", "n3"]
    assert {place for place, _ in world.probed} == {
        Place(address, "peers") for address in ("10.0.0.1:8400", "10.0.0.2:8400", "[fd00::3]:8400")
    }
    assert world.under_way_most == 3, "all at once: one that hangs delays none"


async def test_srv_records_give_hosts_and_ports(world: World) -> None:
    """A certificate is to be good for the host that the record names, wherever that is today."""
    world.names.records[SERVICE] = [ServiceHost("n0.peers", 8400), ServiceHost("n1.peers", 9400)]
    world.names.hosts |= {"n0.peers": ["10.0.0.1"], "n1.peers": ["10.0.0.2", "10.0.0.3"]}
    world.places = {"10.0.0.3:9400": "n1"}
    await world.run(0.05, SRV)
    assert world.heard == ["n1"]
    assert {place for place, _ in world.probed} == {
        Place("10.0.0.1:8400", "n0.peers"),
        Place("10.0.0.2:9400", "n1.peers"),
        Place("10.0.0.3:9400", "n1.peers"),
    }


async def test_a_name_is_looked_up_anew_at_every_try(world: World) -> None:
    world.names.hosts["peers"] = ["10.0.0.1"]
    world.places = {"10.0.0.1:1": "n1", "10.0.0.9:1": "n9"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run, 60, "peers:1")
        await trio.sleep(20)
        assert set(world.heard) == {"n1"}
        world.names.hosts["peers"] = ["10.0.0.9"]
        world.heard.clear()
        await trio.sleep(6)
        assert set(world.heard) == {"n9"}


async def test_tries_back_off_within_their_bounds(world: World) -> None:
    await world.run(100, "peers:1", join_retry_seconds_min=0.5, join_retry_seconds_max=8)
    waits = [later - before for before, later in zip(world.asked_at(), world.asked_at()[1:], strict=False)]
    longest = [min(0.5 * 2**number, 8) for number in range(len(waits))]
    assert len(waits) > 12
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))
    assert len(set(waits)) == len(waits), "jittered"


async def test_one_seed_gives_the_same_tries(world: World) -> None:
    await world.run(50, "peers:1")
    first = world.asked_at()
    world.names.asked.clear()
    began = trio.current_time()
    await world.run(50, "peers:1")
    assert [when - began for when in world.asked_at()] == pytest.approx(first)


async def test_what_is_waited_for_is_said_once_and_then_once_a_minute(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.names.records[SERVICE] = [ServiceHost("n0.peers", 8400), ServiceHost("n1.peers", 8400), ServiceHost("n2.peers", 8400)]
    world.names.hosts |= {"n0.peers": ["10.0.0.1"], "n1.peers": ["10.0.0.2"]}
    world.places["10.0.0.1:8400"] = LinkRefused(Refused(RefusedCode.SAME_NODE_ID, "mine"), "10.0.0.1:8400")
    await world.run(200, SRV)
    said = (
        "waiting for other nodes, looked for at dns+srv://_eventlog._tcp.peers"
        " (n2.peers: no such name, 10.0.0.1:8400: this node, 10.0.0.2:8400: Connection refused)"
    )
    assert lines(caplog) == [said] * 4
    caplog.clear()
    world.places["10.0.0.2:8400"] = "n1"
    await world.run(50, SRV)
    assert ["10.0.0.2:8400: n1" in line for line in lines(caplog)] == [True]


async def test_one_line_for_all_names(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.names.hosts["b"] = OSError("the resolver is on fire")
    await world.run(50, "a:1", "b:2", "a:1")
    assert lines(caplog)[-1] == ("waiting for other nodes, looked for at a:1 (a: no such name); b:2 (b: the resolver is on fire)")
    assert len(lines(caplog)) == 2, "the second name came a moment after the first"


async def test_a_node_that_waits_for_nobody_says_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.is_waiting = False
    await world.run(200, "peers:1")
    assert not lines(caplog)
    assert len(world.names.asked) == 4, "but it goes on now and then: the name may stand for others some day"


async def test_a_node_that_misses_others_again_tries_as_often_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.is_waiting = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run, 130, "peers:1")
        await trio.sleep(100)
        assert len(world.names.asked) == 2
        world.is_waiting = True
        await trio.sleep(25)
        assert 2 + 4 <= len(world.names.asked) <= 2 + 11


async def test_a_changing_answer_does_not_flood_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def change() -> None:
        for number in range(10_000):
            world.names.hosts["peers"] = [f"10.0.{number // 256}.{number % 256}"]
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        await world.run(100, "peers:1", join_retry_seconds_max=5)
        nursery.cancel_scope.cancel()
    assert len(lines(caplog)) < 40


async def test_a_look_up_that_hangs_is_given_up(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.names.latency_seconds = 1e6
    await world.run(12, "peers:1", SRV, dns_timeout_seconds=3)
    assert world.asked_at()[:2] == [0, 0]
    assert 3 <= world.asked_at()[2] <= 3.25
    assert "no answer to the look-up in time" in lines(caplog)[-1]


async def test_no_more_places_than_the_limit(world: World) -> None:
    world.names.hosts["peers"] = [f"10.0.0.{number}" for number in range(100)]
    await world.run(0.05, "peers:1", join_addresses_max=7)
    assert len(world.probed) == 7
    world.probed.clear()
    world.names.records[SERVICE] = [ServiceHost("peers", port) for port in range(1, 100)]
    await world.run(0.05, SRV, join_addresses_max=7)
    assert len(world.probed) == 7


async def test_a_refusal_of_another_node_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.names.hosts["peers"] = ["10.0.0.1"]
    world.places["10.0.0.1:1"] = LinkRefused(Refused(RefusedCode.CLUSTER_NAME, "you are of another cluster"), "10.0.0.1:1")
    await world.run(5, "peers:1")
    assert lines(caplog) == ["waiting for other nodes, looked for at peers:1 (10.0.0.1:1: refused: you are of another cluster)"]


@pytest.mark.parametrize(("least", "most"), [(0, 1), (-1, 1), (2, 1)])
def test_settings_that_cannot_be(least: float, most: float) -> None:
    with pytest.raises(SettingsError):
        default(JoinSettings, join_retry_seconds_min=least, join_retry_seconds_max=most)
