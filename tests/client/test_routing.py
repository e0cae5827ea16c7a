"""Where calls go: targets, the routing table, waits between attempts."""

import random

import pytest
import trio.testing

from trio_eventlog.backoff import Backoff
from trio_eventlog.client.routing import Routing
from trio_eventlog.client.target import find_seeds, parse_target
from trio_eventlog.errors import InvalidArgument, NotLeader, Unavailable
from trio_eventlog.ids import format_id
from trio_eventlog.net.names import ServiceHost
from trio_eventlog.service.values import Placement, ServerInfo
from trio_eventlog.testing.names import TableNames

SERVERS = [
    ServerInfo(id=format_id(number), name=f"n{number}", address=f"n{number}:1", is_leader=number == 2) for number in (1, 2, 3)
]


def known(leader: int = 1) -> Routing:
    routing = Routing(("seed:1",))
    place = Placement(
        topic="t",
        partition=0,
        leader_id=format_id(leader) if leader else "",
        replica_ids=tuple(server.id for server in SERVERS),
    )
    routing.update(SERVERS, [place], now=0.0)
    return routing


@pytest.mark.parametrize(
    ("target", "addresses"),
    [
        ("eventlog://a:1", ("a:1",)),
        ("eventlog://a:1,b:2/", ("a:1", "b:2")),
        ("a", ("a:8400",)),
        (" a , a:8400 ,b:9", ("a:8400", "b:9")),
        ("[::1]:7,[::2]", ("[::1]:7", "[::2]:8400")),
    ],
)
def test_targets(target: str, addresses: tuple[str, ...]) -> None:
    """Scheme and port may be left out; repetitions are."""
    assert parse_target(target) == addresses


@pytest.mark.parametrize("target", ["", "eventlog://", "http://a:1", "a:1,,b:2", "a:x", "::1:8400", "a:99999"])
def test_no_targets(target: str) -> None:
    """Refused, with the text at fault."""
    with pytest.raises(InvalidArgument, match="target"):
        parse_target(target)


SRV_NAMES = TableNames(records={"_eventlog._tcp.log.example": [ServiceHost("n0.log", 8400), ServiceHost("fd00::1", 9)]})


@pytest.mark.parametrize("target", ["eventlog+srv://log.example", " eventlog+srv://_eventlog._tcp.log.example/"])
async def test_targets_that_dns_knows(target: str) -> None:
    """Hosts stay names: their addresses are looked up whenever one is connected to."""
    assert await find_seeds(target, SRV_NAMES, 1) == ("n0.log:8400", "[fd00::1]:9")


async def test_targets_that_dns_does_not_know(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(Unavailable, match=r"_eventlog\._tcp\.nobody: no such name"):
        await find_seeds("eventlog+srv://nobody", SRV_NAMES, 1)
    with pytest.raises(Unavailable, match="within 1 s"):
        await find_seeds("eventlog+srv://log.example", TableNames(latency_seconds=5), 1)
    for target in ("eventlog+srv://", "eventlog+srv://a:1", "eventlog+srv://a,b:2"):
        with pytest.raises(InvalidArgument, match="write eventlog"):
            await find_seeds(target, SRV_NAMES, 1)


async def test_other_targets_are_asked_of_nobody() -> None:
    names = TableNames()
    assert await find_seeds("eventlog://a,b:2", names, 1) == ("a:8400", "b:2")
    assert names.asked == []


def test_nothing_known() -> None:
    """The seeds, in turn."""
    routing = Routing(("a:1", "b:1"))
    firsts = [routing.for_write("t", 0, 0.0)[0] for _ in range(4)]
    assert sorted(firsts) == ["a:1", "a:1", "b:1", "b:1"]
    assert routing.topic("t") is None
    assert routing.leader("t", 0) is None


def test_writes_go_to_the_leader_and_reads_to_followers() -> None:
    """Everybody else comes after, the seeds last, each once."""
    routing = known()
    assert routing.for_write("t", 0, 0.0)[0] == "n1:1"
    assert sorted(routing.for_write("t", 0, 0.0)) == ["n1:1", "n2:1", "n3:1", "seed:1"]
    reads = [routing.for_read("t", 0, 0.0) for _ in range(2)]
    assert {order[0] for order in reads} == {"n2:1", "n3:1"}
    assert all(order[2:] == ["n1:1", "seed:1"] for order in reads)
    assert routing.for_catalog(0.0)[0] == "n2:1"
    found = routing.topic("t")
    assert found is not None
    assert found.partitions == 1


def test_hints() -> None:
    """An address, or an id whose address is known; the next answer replaces them."""
    routing = known()
    assert routing.hinted(NotLeader("", 3, "x:1")) == "x:1"
    assert routing.hinted(NotLeader("", 3)) == "n3:1"
    assert routing.hinted(NotLeader("", 9)) == ""
    assert routing.hinted(NotLeader("")) == ""
    routing.set_leader("t", 0, "n3:1")
    assert routing.for_write("t", 0, 0.0)[0] == "n3:1"
    routing.forget_leader("t", 0, "n2:1")
    assert routing.leader("t", 0) == "n3:1"
    routing.forget_leader("t", 0, "n3:1")
    assert routing.leader("t", 0) is None
    routing.update(SERVERS, known(2).placements, now=1.0)
    assert routing.leader("t", 0) == "n2:1"
    assert known(0).leader("t", 0) is None


def test_failed_addresses_come_last_for_a_while() -> None:
    """Longer each time, up to a limit, until they answer."""
    routing = known()
    routing.avoid("n1:1", 0.0)
    assert routing.for_write("t", 0, 0.5)[-1] == "n1:1"
    assert routing.for_write("t", 0, 1.0)[0] == "n1:1"
    routing.avoid("n1:1", 1.0)
    assert routing.is_avoided("n1:1", 2.9)
    assert not routing.is_avoided("n1:1", 3.0)
    for _ in range(20):
        routing.avoid("n1:1", 3.0)
    assert not routing.is_avoided("n1:1", 63.0)
    routing.worked("n1:1")
    assert not routing.is_avoided("n1:1", 3.0)
    routing.avoid("n1:1", 3.0)
    assert not routing.is_avoided("n1:1", 4.0)


def test_backoff() -> None:
    """Doubles up to the limit, with jitter; what the server asks for counts, as far as the limit allows."""
    backoff = Backoff(random.Random(1), 0.1, 1.0)
    for ceiling in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        assert ceiling / 2 <= backoff.next_seconds() <= ceiling
    backoff.reset()
    assert backoff.next_seconds() <= 0.1
    assert backoff.next_seconds(at_least_seconds=0.7) == 0.7
    assert backoff.next_seconds(at_least_seconds=50) == 1.0
