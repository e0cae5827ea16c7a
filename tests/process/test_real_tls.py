"""TLS on the one port, with certificates from an authority of the test's own: clients, peers, and who is kept out."""

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import grpc
import pytest
from authority import Authority
from daemons import Daemon, DaemonCluster, wait_until, watched
from foreign import ForeignClient, Protocol

from trio_eventlog.daemon import RELOAD_SIGNAL
from trio_eventlog.net.tls import TlsSettings
from trio_eventlog.testing.defaults import default

pytestmark = pytest.mark.process

TOPIC = "orders"
HTTP2_CLIENT_START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""The preface and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5)."""


@attrs.frozen(slots=True)
class Files:
    """PEM files as an operator has them."""

    settings: TlsSettings

    def flags(self) -> tuple[str, ...]:
        settings = self.settings
        return ("--tls-cert", settings.certificate, "--tls-key", settings.key, "--tls-ca", settings.authority)

    def credentials(self, *, with_certificate: bool = True) -> grpc.ChannelCredentials:
        settings = self.settings
        authority, key, certificate = (Path(path).read_bytes() for path in (settings.authority, settings.key, settings.certificate))
        return grpc.ssl_channel_credentials(authority, *((key, certificate) if with_certificate else ()))

    def context(self, *alpn: str) -> ssl.SSLContext:
        settings = self.settings
        context = ssl.create_default_context(cafile=settings.authority)
        context.load_cert_chain(settings.certificate, settings.key)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def node_files(authority: Authority) -> Files:
    return Files(authority.issue("127.0.0.1", "localhost"))


@pytest.fixture(scope="module")
def client_files(authority: Authority) -> Files:
    return Files(authority.issue("client.example"))


@pytest.fixture(scope="module")
def strange_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Of an authority that nobody here trusts."""
    return Files(Authority(tmp_path_factory.mktemp("tls") / "strange").issue("127.0.0.1", "localhost"))


@pytest.fixture(scope="module")
def mutual(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, node_files: Files) -> Iterator[DaemonCluster]:
    """Three nodes that know each other by certificates and let nobody in without one."""
    cluster = DaemonCluster(tmp_path_factory.mktemp("mutual"), *node_files.flags(), "--tls-require-client-cert")
    with watched(request.node, cluster.nodes):
        yield cluster.start()
        for daemon in cluster.nodes:
            assert daemon.is_running
            assert "Traceback" not in daemon.log()


@pytest.fixture(scope="module")
def client(mutual: DaemonCluster, protocol: Protocol, client_files: Files) -> Iterator[ForeignClient]:
    client = ForeignClient(protocol, mutual.addresses, client_files.credentials())
    client.create_topic(TOPIC)
    yield client
    client.close()


def kept_out(protocol: Protocol, cluster: DaemonCluster, credentials: grpc.ChannelCredentials | None) -> str:
    """Why a client with these credentials gets no answer."""
    stranger = ForeignClient(protocol, cluster.addresses, credentials)
    try:
        with pytest.raises(grpc.RpcError) as caught:
            stranger.method(0, "EventLog/GetServers")(protocol.GetServersRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        return str(caught.value.details())
    finally:
        stranger.close()


def test_peers_and_clients_over_mutual_tls(mutual: DaemonCluster, client: ForeignClient) -> None:
    """The cluster forms over TLS alone, and every node serves every call, its own or forwarded over TLS."""
    for node in range(3):
        assert client.produce(node, TOPIC, [b"%d" % node]).base_offset == node
    for node in range(3):
        assert client.read_all(node, TOPIC) == [b"0", b"1", b"2"]
        assert client.stream_values(node, TOPIC, 3) == [b"0", b"1", b"2"]


def test_the_leader_dies_under_mutual_tls(mutual: DaemonCluster, client: ForeignClient) -> None:
    """The links are made anew over TLS, both ways."""
    leader = wait_until(lambda: client.leader(TOPIC), "a leader")
    before = len(client.read_all(0, TOPIC))
    mutual.nodes[leader].kill()
    survivors = mutual.alive()
    wait_until(lambda: client.leader(TOPIC, asked=survivors) in survivors or None, "another leader")
    assert client.produce(survivors[0], TOPIC, [b"between"]).base_offset == before
    mutual.nodes[leader].start()
    assert client.read_all(leader, TOPIC)[before] == b"between"


def test_a_client_that_does_not_trust_the_node(mutual: DaemonCluster, protocol: Protocol, strange_files: Files) -> None:
    assert "CERTIFICATE_VERIFY_FAILED" in kept_out(protocol, mutual, strange_files.credentials(with_certificate=False))


def test_a_client_without_a_certificate(mutual: DaemonCluster, protocol: Protocol, client_files: Files) -> None:
    kept_out(protocol, mutual, client_files.credentials(with_certificate=False))
    mutual.nodes[0].wait_logged("tls handshake failed")


def test_a_client_with_a_strange_certificate(
    mutual: DaemonCluster, protocol: Protocol, client_files: Files, strange_files: Files
) -> None:
    """It trusts the node, but the node does not trust it."""
    kept_out(
        protocol,
        mutual,
        Files(attrs.evolve(strange_files.settings, authority=client_files.settings.authority)).credentials(),
    )


def test_a_client_in_plaintext(mutual: DaemonCluster, protocol: Protocol) -> None:
    kept_out(protocol, mutual, None)
    mutual.nodes[0].wait_logged("tls required")


@pytest.mark.parametrize(
    "first_bytes", [HTTP2_CLIENT_START, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"\xe1vlg\x01"], ids=["gRPC", "HTTP", "peer"]
)
def test_plaintext_is_refused_before_it_is_answered(mutual: DaemonCluster, first_bytes: bytes) -> None:
    host, _, port = mutual.addresses[1].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(first_bytes)
        try:
            assert connection.recv(100) == b""
        except ConnectionResetError:
            pass
    mutual.nodes[1].wait_logged("tls required")


def talk(address: str, context: ssl.SSLContext, sent: bytes, until: Callable[[bytes], bool]) -> tuple[str | None, bytes]:
    """The protocol agreed by ALPN, and what came back."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        secure.sendall(sent)
        received = b""
        while not until(received):
            part = secure.recv(4096)
            assert part, received
            received += part
        return secure.selected_alpn_protocol(), received


def test_a_client_without_alpn_is_served_by_its_first_bytes(mutual: DaemonCluster, client_files: Files) -> None:
    """HTTP/2 and HTTP/1.1 alike: the decrypted bytes are looked at."""
    agreed, received = talk(mutual.addresses[0], client_files.context(), HTTP2_CLIENT_START, lambda got: len(got) >= 9)
    assert agreed is None
    assert received[3] == 4, "the first frame of a server is SETTINGS"
    request = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    agreed, received = talk(mutual.addresses[0], client_files.context(), request, lambda got: b"\r\n\r\n" in got)
    assert agreed is None
    assert received.startswith(b"HTTP/1.1 200")


def test_alpn_chooses_the_protocol(mutual: DaemonCluster, client_files: Files) -> None:
    """A gRPC client offers `h2` alone; browsers, curl and probes offer both and want HTTP."""
    agreed, _ = talk(mutual.addresses[0], client_files.context("h2"), HTTP2_CLIENT_START, lambda got: len(got) >= 9)
    assert agreed == "h2"
    request = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for offered in (("h2", "http/1.1"), ("http/1.1",)):
        agreed, received = talk(mutual.addresses[0], client_files.context(*offered), request, lambda got: b"\r\n\r\n" in got)
        assert agreed == "http/1.1"
        assert received.startswith(b"HTTP/1.1 200")


def test_a_peer_with_a_strange_certificate(
    mutual: DaemonCluster, client: ForeignClient, strange_files: Files, make_daemon: Callable[..., Daemon]
) -> None:
    """It is not let in, says why, and the cluster goes on."""
    stranger = make_daemon("stranger", "--listen", "127.0.0.1:0", "--join", mutual.addresses[0], *strange_files.flags()).start()
    stranger.wait_logged("certificate verify failed")
    assert client.produce(0, TOPIC, [b"still here"]).record_count == 1


def test_a_client_with_a_certificate_is_no_peer(
    mutual: DaemonCluster, client: ForeignClient, client_files: Files, make_daemon: Callable[..., Daemon]
) -> None:
    """Of the authority that everybody trusts, but for another host than it advertises. It says so itself, and is told so."""
    flags = ("--listen", "127.0.0.1:0", "--join", mutual.addresses[0], *client_files.flags())
    pretender = make_daemon("pretender", *flags).start()
    pretender.wait_logged("other nodes will not accept the certificate")
    pretender.wait_logged("your certificate is for client.example and not for 127.0.0.1")
    mutual.nodes[0].wait_logged("refused: your certificate is for client.example")
    assert client.produce(0, TOPIC, [b"still here"]).record_count == 1


def test_tls_without_client_certificates(
    make_daemon: Callable[..., Daemon], make_client: Callable[..., ForeignClient], node_files: Files
) -> None:
    """Server authentication alone: any client that trusts the node. Without keys nothing is gossiped beside TLS."""
    daemon = make_daemon("n0", "--listen", "127.0.0.1:0", *node_files.flags()).start()
    assert "this node does not gossip" in daemon.log()
    with socket.socket(type=socket.SOCK_DGRAM) as packets:
        packets.bind(("127.0.0.1", int(daemon.address.rpartition(":")[2])))
    client = make_client([daemon.address], credentials=node_files.credentials(with_certificate=False))
    assert client.produce(0, TOPIC, [b"x"]).base_offset == 0
    assert client.read_all(0, TOPIC) == [b"x"]
    assert daemon.stop() == 0


def test_renewed_certificates_are_read_on_a_signal(
    make_daemon: Callable[..., Daemon],
    make_client: Callable[..., ForeignClient],
    node_files: Files,
    strange_files: Files,
    tmp_path: Path,
) -> None:
    """Even those of another authority. What cannot be used is said, and changes nothing."""

    def install(files: Files) -> None:
        for path in ("certificate", "key", "authority"):
            (tmp_path / path).write_bytes(Path(getattr(files.settings, path)).read_bytes())

    install(node_files)
    installed = Files(
        default(
            TlsSettings, certificate=str(tmp_path / "certificate"), key=str(tmp_path / "key"), authority=str(tmp_path / "authority")
        )
    )
    daemon = make_daemon("n0", "--listen", "127.0.0.1:0", *installed.flags()).start()
    before = make_client([daemon.address], credentials=node_files.credentials(with_certificate=False))
    assert before.produce(0, TOPIC, [b"1"]).base_offset == 0

    (tmp_path / "key").write_bytes(Path(strange_files.settings.key).read_bytes())
    daemon.signal(RELOAD_SIGNAL)
    daemon.wait_logged("certificates not read again")
    assert make_client([daemon.address], credentials=node_files.credentials(with_certificate=False)).read_all(0, TOPIC) == [b"1"]

    install(strange_files)
    daemon.signal(RELOAD_SIGNAL)
    daemon.wait_logged("certificates read again")
    after = make_client([daemon.address], credentials=strange_files.credentials(with_certificate=False))
    assert after.produce(0, TOPIC, [b"2"]).base_offset == 1
    assert before.produce(0, TOPIC, [b"3"]).base_offset == 2
    assert daemon.stop() == 0
