"""What the Kubernetes files rely on, with real daemons: nodes that know each other by DNS only, each at an address of its own.

The DNS server is the test's, and publishes every node, ready or not, as a headless service with `publishNotReadyAddresses` does.
"""

import base64
import http.client
import random
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from authority import Authority
from daemons import Daemon, wait_until
from foreign import ForeignClient

from tests.net.dns_server import DnsServer, dns_server
from trio_eventlog.cli.loopback_ports import reserve_ports
from trio_eventlog.net.tls import TlsSettings

pytestmark = pytest.mark.process

TOPIC = "orders"
SERVICE = "_eventlog._tcp.peers.test"
PEER_NAME = "peers.eventlog.internal"
QUICK = ("--join-retry-seconds-max", "500ms", "--dns-timeout-seconds", "500ms")
NUMBERS = range(3)
FORMER = [f"127.0.0.{number}" for number in (1, 2, 3)]
LATER = [f"127.0.0.{number}" for number in (4, 5, 6)]


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with dns_server() as server:
        yield server


def publish(server: DnsServer, hosts: list[str], port: int) -> None:
    server.zone = {(SERVICE, "SRV"): [f"0 0 {port} n{number}.peers.test." for number in NUMBERS]} | {
        (f"n{number}.peers.test", "A"): [host] for number, host in enumerate(hosts)
    }


def probe(address: str, path: str, context: ssl.SSLContext | None) -> int:
    """The HTTP status, asked for as a kubelet does: whatever certificate, offering both versions of HTTP."""
    host, _, port = address.rpartition(":")
    connection = (
        http.client.HTTPConnection(host, int(port), timeout=20)
        if context is None
        else http.client.HTTPSConnection(host, int(port), timeout=20, context=context)
    )
    with closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


@pytest.fixture(params=[pytest.param(False, marks=pytest.mark.slow), True], ids=["plaintext", "TLS"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> TlsSettings | None:
    """A certificate that all nodes share, as pods do; it names none of their addresses."""
    if not request.param:
        return None
    return Authority(tmp_path / "tls").issue(PEER_NAME, "localhost")


def test_nodes_known_by_dns_only(
    make_daemon: Callable[..., Daemon],
    make_client: Callable[..., ForeignClient],
    dns: DnsServer,
    tls: TlsSettings | None,
    tmp_path: Path,
) -> None:
    """DNS knows nobody, then says nonsense, then names three nodes; then all three come back at other addresses."""
    (port,) = reserve_ports(1, [*FORMER, *LATER])
    flags = ["--join", "dns+srv://peers.test", "--dns-servers", dns.address, *QUICK]
    context = credentials = None
    if tls is not None:
        flags += ["--tls-cert", tls.certificate, "--tls-key", tls.key]
        flags += ["--tls-ca", tls.authority, "--tls-peer-name", PEER_NAME]
        (tmp_path / "keys").write_text(base64.b64encode(bytes(range(32))).decode() + "\n")
        flags += ["--gossip-key-file", str(tmp_path / "keys")]
        context = ssl.create_default_context(cafile=tls.authority)
        context.check_hostname = False
        context.set_alpn_protocols(["h2", "http/1.1"])
        credentials = grpc.ssl_channel_credentials(Path(tls.authority).read_bytes())
    nodes = [make_daemon(f"n{number}") for number in NUMBERS]

    def start(hosts: list[str]) -> list[str]:
        for number, host in enumerate(hosts):
            nodes[number]._flags = (
                *("--node-name", f"n{number}", "--data-dir", "data", "--listen", f"{host}:{port}", "--bootstrap-expect", "3"),
                *flags,
            )
            nodes[number].launch()
        return [node.wait_listening().address for node in nodes]

    def are_ready(addresses: list[str]) -> bool:
        return all(probe(address, "/ready", context) == 200 for address in addresses)

    addresses = start(FORMER)
    for node in nodes:
        node.wait_logged("waiting for other nodes, looked for at dns+srv://peers.test (no such name in DNS)")
    rng = random.Random(1)
    dns.damage = lambda wire: wire[:2] + rng.randbytes(rng.randrange(60))
    asked = len(dns.asked)
    wait_until(lambda: len(dns.asked) > asked + 12, "several tries against a server that talks nonsense")
    for address in addresses:
        assert probe(address, "/health", context) == 200
        assert probe(address, "/ready", context) == 503
    publish(dns, FORMER, port)
    dns.damage = lambda wire: wire
    wait_until(lambda: are_ready(addresses), "all nodes are ready")

    client = make_client(addresses, credentials=credentials)
    client.create_topic(TOPIC)
    assert client.produce(0, TOPIC, [b"before"]).base_offset == 0
    ids = [node.start_line.split("id=")[1] for node in nodes]
    assert [node.stop() for node in nodes] == [0, 0, 0]

    addresses = start(LATER)
    for node in nodes:
        node.wait_logged("Connection refused")
    assert not any(probe(address, "/ready", context) == 200 for address in addresses)
    publish(dns, LATER, port)
    wait_until(lambda: are_ready(addresses), "all nodes are ready at their new addresses")
    assert [node.start_line.split("id=")[1] for node in nodes] == ids
    client = make_client(addresses, credentials=credentials)
    for number in NUMBERS:
        assert client.read_all(number, TOPIC) == [b"before"]
    assert client.produce(2, TOPIC, [b"after"]).base_offset == 1
    for node in nodes:
        assert node.stop() == 0
        assert "Traceback" not in node.log()


def test_a_host_that_the_system_knows(make_daemon: Callable[..., Daemon]) -> None:
    """The system's resolver, which may give an IPv6 address too, where nobody listens."""
    first = make_daemon("n0", "--node-name", "n0", "--listen", "127.0.0.1:0").start()
    port = first.address.rpartition(":")[2]
    second = make_daemon("n1", "--node-name", "n1", "--listen", "127.0.0.1:0", "--join", f"localhost:{port}", *QUICK).start()
    wait_until(lambda: probe(second.address, "/ready", None) == 200, "the second node is ready")
    for node in (second, first):
        assert node.stop() == 0
