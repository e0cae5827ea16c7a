"""Look-ups of hosts and services, at a DNS server on loopback that answers well, badly, or not at all."""

import random
import threading
from collections.abc import Iterator

import pytest
import trio
from dns_server import DnsServer, dns_server

from trio_eventlog.net.names import ServiceHost
from trio_eventlog.net.real_names import RealNames

SERVICE = "_eventlog._tcp.peers.test"


@pytest.fixture
def server() -> Iterator[DnsServer]:
    zone = {
        (SERVICE, "SRV"): ["0 50 8400 n1.peers.test.", "0 50 8401 n0.peers.test.", "10 50 8400 n2.peers.test."],
        ("n0.peers.test", "A"): ["127.0.0.1"],
        ("n1.peers.test", "A"): ["127.0.0.2", "127.0.0.3"],
        ("n1.peers.test", "AAAA"): ["::1"],
        ("alias.test", "CNAME"): ["n1.peers.test."],
        ("text.test", "TXT"): ["nothing else"],
        ("none.test", "SRV"): ["0 0 0 ."],
        ("portless.test", "SRV"): ["0 0 0 n0.peers.test."],
    }
    with dns_server(zone) as server:
        yield server


async def test_services_are_hosts_and_ports(server: DnsServer) -> None:
    """In an order that does not depend on that of the answer."""
    names = RealNames([server.address])
    assert await names.services(SERVICE) == [
        ServiceHost("n0.peers.test", 8401),
        ServiceHost("n1.peers.test", 8400),
        ServiceHost("n2.peers.test", 8400),
    ]


async def test_addresses_of_both_families(server: DnsServer) -> None:
    names = RealNames([server.address])
    assert await names.addresses("n1.peers.test") == ["127.0.0.2", "127.0.0.3", "::1"]
    assert await names.addresses("n0.peers.test") == ["127.0.0.1"]


@pytest.mark.parametrize("servers", [["127.0.0.1:1"], []], ids=["DNS", "system"])
async def test_an_address_is_asked_of_nobody(servers: list[str]) -> None:
    assert await RealNames(servers).addresses("10.0.0.7") == ("10.0.0.7",)
    assert await RealNames(servers).addresses("fe80::7") == ("fe80::7",)


async def test_the_system_knows_its_own_hosts() -> None:
    assert "127.0.0.1" in await RealNames().addresses("localhost")


@pytest.mark.parametrize("host", ["", "nobody.invalid", "a..b", "x" * 300, "\N{SNOWMAN}" * 80, "nul\0"])
async def test_the_system_is_asked_for_nonsense(host: str) -> None:
    with pytest.raises(OSError):
        await RealNames().addresses(host)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("_eventlog._tcp.nobody.test", "no such name"),
        ("text.test", "no such records"),
        ("none.test", "no host and port"),
        ("portless.test", "no host and port"),
        ("x" * 64, "DNS"),
        ("a..b", "DNS"),
        ("y." * 200, "DNS"),
    ],
)
async def test_what_dns_says_of_a_service_that_is_not(server: DnsServer, name: str, says: str) -> None:
    with pytest.raises(OSError, match=says):
        await RealNames([server.address]).services(name)


async def test_no_server_answers_there() -> None:
    """The kernel says that the port is closed; DNS over UDP may not hear of it and waits, which the caller bounds."""
    with pytest.raises((OSError, trio.TooSlowError)):
        with trio.fail_after(1):
            await RealNames(["127.0.0.1:1"]).services(SERVICE)


async def test_a_long_answer_comes_by_tcp(server: DnsServer) -> None:
    server.truncates = True
    assert len(await RealNames([server.address]).services(SERVICE)) == 3
    assert server.asked == [f"{SERVICE} SRV udp", f"{SERVICE} SRV tcp"]


async def test_nothing_is_remembered(server: DnsServer) -> None:
    """What DNS says now counts, whatever its records said of how long they are good for."""
    names = RealNames([server.address])
    await names.services(SERVICE)
    server.zone[SERVICE, "SRV"] = ["0 0 9 n9.peers.test."]
    assert await names.services(SERVICE) == [ServiceHost("n9.peers.test", 9)]


async def test_a_silent_server_can_be_given_up_at_any_time(server: DnsServer) -> None:
    server.damage = lambda wire: None
    with trio.move_on_after(0.05) as scope:
        await RealNames([server.address]).services(SERVICE)
    assert scope.cancelled_caught


async def test_srv_records_need_no_thread(server: DnsServer) -> None:
    before = threading.active_count()
    await RealNames([server.address]).services(SERVICE)
    assert threading.active_count() == before


@pytest.mark.parametrize("seed", range(25))
async def test_damaged_answers_are_errors_or_services(server: DnsServer, seed: int) -> None:
    """Bytes flipped, cut off, added; headers of failure. Nothing but an OSError comes of it, or a wait that the caller ends."""
    rng = random.Random(seed)

    def damage(wire: bytes) -> bytes:
        data = bytearray(wire)
        for _ in range(rng.randrange(1, 6)):
            # Behind the id, without which an answer is nobody's.
            data[rng.randrange(2, len(data))] = rng.randrange(256)
        match rng.randrange(4):
            case 0:
                del data[rng.randrange(2, len(data)) :]
            case 1:
                data += rng.randbytes(rng.randrange(1, 200))
            case _:
                pass
        return bytes(data)

    server.damage = damage
    with trio.move_on_after(0.2):
        try:
            found = await RealNames([server.address]).services(SERVICE)
        except OSError:
            found = []
        assert all(service.host and 0 < service.port < 65536 for service in found)
