"""TLS on the port and between peers, with certificates made for the test."""

import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from authority import Authority
from tls_node import TlsNode

from trio_eventlog.codec.first_bytes import HTTP2_PREFACE, PEER_PREFACE
from trio_eventlog.codec.peer_frame import FrameKind, encode_frame
from trio_eventlog.errors import SettingsError
from trio_eventlog.ids import NodeId
from trio_eventlog.net.links import Priority
from trio_eventlog.net.mux import ConnectionInfo, Handler, Mux, MuxSettings
from trio_eventlog.net.network import Network
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.net.tls import (
    ALPN_HTTP1,
    ALPN_HTTP2,
    ALPN_PEER,
    FileTls,
    TlsSettings,
    build_client_context,
    build_server_context,
)
from trio_eventlog.net.transport import PeerConnected, PeerReset
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.network import SimNetwork


class Nodes:
    """Certificates of one authority for each node."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.authority = authority.path
        self._settings = {name: authority.issue(name) for name in ("n1", "n2", "localhost")}

    def settings(self, name: str, *, require_client_certificate: bool = False) -> TlsSettings:
        return attrs.evolve(self._settings[name], require_client_certificate=require_client_certificate)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Nodes:
    return Nodes(tmp_path_factory.mktemp("tls") / "one")


@pytest.fixture(scope="module")
def other_nodes(tmp_path_factory: pytest.TempPathFactory) -> Nodes:
    return Nodes(tmp_path_factory.mktemp("tls") / "other")


@attrs.frozen
class Port:
    host: Network
    address: str
    mux: Mux
    seen: list[tuple[str, bytes, ConnectionInfo]]

    async def connect(self, context: ssl.SSLContext, name: str = "n1") -> "trio.SSLStream[trio.abc.Stream]":
        stream = await self.host.open_stream(self.address)
        return trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)


@asynccontextmanager
async def open_port(
    settings: TlsSettings, *, tls_required: bool = False, network: Network | None = None, address: str = "n1:8400"
) -> AsyncIterator[Port]:
    network = network or SimNetwork(random.Random(1)).host("n1")
    seen: list[tuple[str, bytes, ConnectionInfo]] = []

    def noting(name: str) -> Handler:
        async def handle(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
            seen.append((name, bytes(await stream.receive_some()), info))
            await stream.send_all(name.encode())

        return handle

    mux = Mux(
        default(MuxSettings, tls_required=tls_required),
        grpc=noting("grpc"),
        http=noting("http"),
        peer=noting("peer"),
        tls=FileTls(settings),
    )
    bound = await network.listen(address)
    async with trio.open_nursery() as nursery:
        await nursery.start(mux.serve, bound.listener)
        yield Port(network, bound.address, mux, seen)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("alpn", "first", "name"),
    [
        (ALPN_HTTP2, HTTP2_PREFACE, "grpc"),
        (ALPN_HTTP1, b"GET / HTTP/1.1\r\n", "http"),
        (ALPN_PEER, PEER_PREFACE, "peer"),
    ],
)
async def test_the_agreed_protocol_decides(
    nodes: Nodes, alpn: str, first: bytes, name: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_port(nodes.settings("n1")) as port:
        stream = await port.connect(build_client_context(nodes.authority, alpn=(alpn,)))
        await stream.send_all(first)
        assert await stream.receive_some() == name.encode()
        ((handler, received, info),) = port.seen
        assert (handler, received, info.alpn, info.is_tls, info.peer_certificate) == (name, first, alpn, True, None)


@pytest.mark.parametrize(("first", "name"), [(HTTP2_PREFACE, "grpc"), (b"GET /", "http"), (PEER_PREFACE, "peer")])
async def test_without_alpn_the_decrypted_bytes_decide(
    nodes: Nodes, first: bytes, name: str, autojump_clock: trio.testing.MockClock
) -> None:
    context = ssl.create_default_context(cafile=nodes.authority)
    async with open_port(nodes.settings("n1"), tls_required=True) as port:
        stream = await port.connect(context)
        await stream.send_all(first)
        assert await stream.receive_some() == name.encode()
        assert port.seen[0][1] == first
        assert port.seen[0][2].alpn is None


async def test_silence_after_the_handshake_ends_too(nodes: Nodes, autojump_clock: trio.testing.MockClock) -> None:
    context = ssl.create_default_context(cafile=nodes.authority)
    async with open_port(nodes.settings("n1")) as port:
        stream = await port.connect(context)
        await stream.do_handshake()
        assert await stream.receive_some() == b""
        assert trio.current_time() == pytest.approx(5)
        assert port.mux.statistics().closed == {"silent": 1}


async def test_half_a_tls_hello_then_silence(nodes: Nodes, autojump_clock: trio.testing.MockClock) -> None:
    async with open_port(nodes.settings("n1")) as port:
        stream = await port.host.open_stream(port.address)
        await stream.send_all(b"\x16\x03\x01\x02\x00\x01")
        assert await stream.receive_some() == b""
        assert trio.current_time() == pytest.approx(5)
        assert port.mux.statistics().closed == {"silent": 1}


@pytest.mark.parametrize("inner", [b"\x16\x03\x01", b"\x01", b"\x06"])
async def test_nonsense_within_tls(nodes: Nodes, inner: bytes, autojump_clock: trio.testing.MockClock) -> None:
    context = ssl.create_default_context(cafile=nodes.authority)
    async with open_port(nodes.settings("n1")) as port:
        stream = await port.connect(context)
        await stream.send_all(inner)
        assert await stream.receive_some() == b""
        assert sum(port.mux.statistics().closed.values()) == 1
        assert port.seen == []


@pytest.mark.parametrize("first", [HTTP2_PREFACE, b"GET /", PEER_PREFACE])
async def test_plaintext_is_refused_when_tls_is_required(
    nodes: Nodes, first: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_port(nodes.settings("n1"), tls_required=True) as port:
        stream = await port.host.open_stream(port.address)
        await stream.send_all(first)
        assert await stream.receive_some() == b""
        assert port.mux.statistics().closed == {"tls required": 1}


async def test_plaintext_beside_tls_when_it_is_not_required(nodes: Nodes, autojump_clock: trio.testing.MockClock) -> None:
    async with open_port(nodes.settings("n1")) as port:
        stream = await port.host.open_stream(port.address)
        await stream.send_all(b"GET /")
        assert await stream.receive_some() == b"http"


async def test_a_wrong_authority_is_refused_by_the_client(
    nodes: Nodes, other_nodes: Nodes, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_port(nodes.settings("n1")) as port:
        stream = await port.connect(build_client_context(other_nodes.authority))
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.do_handshake()
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        await trio.aclose_forcefully(stream)
        await trio.sleep(1)
        assert port.mux.statistics().closed == {"tls handshake failed": 1}


async def test_a_certificate_for_another_host_is_refused(nodes: Nodes, autojump_clock: trio.testing.MockClock) -> None:
    async with open_port(nodes.settings("n1")) as port:
        stream = await port.connect(build_client_context(nodes.authority), name="n2")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.do_handshake()
        assert "n2" in str(caught.value.__cause__)


async def test_mutual_tls_shows_who_it_is(nodes: Nodes, autojump_clock: trio.testing.MockClock) -> None:
    shown = nodes.settings("n2")
    async with open_port(nodes.settings("n1", require_client_certificate=True)) as port:
        stream = await port.connect(build_client_context(nodes.authority, certificate=shown.certificate, key=shown.key))
        await stream.send_all(PEER_PREFACE)
        assert await stream.receive_some() == b"peer"
        certificate_seen = port.seen[0][2].peer_certificate
        assert certificate_seen is not None
        assert ("DNS", "n2") in certificate_seen["subjectAltName"]


@pytest.mark.parametrize("shown", ["none", "other authority"])
async def test_mutual_tls_refuses_strangers(
    nodes: Nodes, other_nodes: Nodes, shown: str, autojump_clock: trio.testing.MockClock
) -> None:
    stranger = other_nodes.settings("n2")
    certificate, key = (stranger.certificate, stranger.key) if shown == "other authority" else ("", "")
    async with open_port(nodes.settings("n1", require_client_certificate=True)) as port:
        stream = await port.connect(build_client_context(nodes.authority, certificate=certificate, key=key))
        # In TLS 1.3 the client's handshake is over before the server has looked at its certificate.
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            await stream.send_all(PEER_PREFACE)
            await stream.receive_some()
        await trio.sleep(1)
        assert port.mux.statistics().closed == {"tls handshake failed": 1}
        assert port.seen == []


async def test_old_tls_is_refused(nodes: Nodes, autojump_clock: trio.testing.MockClock) -> None:
    context = build_server_context(nodes.settings("n1"))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert build_client_context(nodes.authority).minimum_version == ssl.TLSVersion.TLSv1_2


async def exchange(one: TlsNode, other: TlsNode, addresses: tuple[str, str], host: str | None = None) -> None:
    """Both directions of a link, with a frame larger than a TLS record, and its end."""
    async with trio.open_nursery() as nursery:
        first_scope = trio.CancelScope()

        async def run_first(*, task_status: trio.TaskStatus[str]) -> None:
            with first_scope:
                await one.run(addresses[0], task_status=task_status)

        address = [await nursery.start(run_first), await nursery.start(other.run, addresses[1])]
        if host is not None:
            address = [f"{host}:{one.rpartition(':')[2]}" for one in address]
        one.transport.set_peer(NodeId(2), address[1])
        other.transport.set_peer(NodeId(1), address[0])
        big = b"x" * 300_000
        for sender, to, receiver in ((one, 2, other), (other, 1, one)):
            with trio.fail_after(20):
                while not sender.transport.is_connected(NodeId(to)):  # noqa: ASYNC110
                    await trio.sleep(0.005)
                assert sender.transport.send(NodeId(to), encode_frame(FrameKind.APPEND, 1, b"head", [big]), Priority.BULK)
                while not receiver.received:  # noqa: ASYNC110
                    await trio.sleep(0.005)
            assert receiver.received == [b"head" + big]
        first_scope.cancel()
        with trio.fail_after(20):
            while not any(isinstance(event, PeerReset) for event in other.events):  # noqa: ASYNC110
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()


async def test_links_over_mutual_tls(nodes: Nodes, autojump_clock: trio.testing.MockClock) -> None:
    network = SimNetwork(random.Random(1))
    one = TlsNode(network.host("n1"), 1, "n1:1", nodes.settings("n1", require_client_certificate=True))
    other = TlsNode(network.host("n2"), 2, "n2:1", nodes.settings("n2", require_client_certificate=True))
    await exchange(one, other, ("n1:1", "n2:1"))


async def test_links_over_mutual_tls_and_real_sockets(nodes: Nodes) -> None:
    one = TlsNode(RealNetwork(), 1, "localhost:1", nodes.settings("localhost", require_client_certificate=True))
    other = TlsNode(RealNetwork(), 2, "localhost:2", nodes.settings("localhost", require_client_certificate=True))
    await exchange(one, other, ("127.0.0.1:0", "127.0.0.1:0"), host="localhost")


async def test_a_peer_of_another_authority_never_links(
    nodes: Nodes, other_nodes: Nodes, autojump_clock: trio.testing.MockClock
) -> None:
    network = SimNetwork(random.Random(1))
    one = TlsNode(network.host("n1"), 1, "n1:1", nodes.settings("n1", require_client_certificate=True))
    other = TlsNode(network.host("n2"), 2, "n2:1", other_nodes.settings("n2", require_client_certificate=True))
    async with trio.open_nursery() as nursery:
        for node, address in ((one, "n1:1"), (other, "n2:1")):
            await nursery.start(node.run, address)
        one.transport.set_peer(NodeId(2), "n2:1")
        other.transport.set_peer(NodeId(1), "n1:1")
        await trio.sleep(30)
        assert not any(isinstance(event, PeerConnected) for node in (one, other) for event in node.events)
        with pytest.raises(OSError, match="certificate verify failed"):
            await one.transport.probe("n2:1")
        nursery.cancel_scope.cancel()


# Files.


def test_a_missing_file_is_named(nodes: Nodes, tmp_path: Path) -> None:
    settings = nodes.settings("n1")
    with pytest.raises(SettingsError, match=r"cannot read the certificate .*nowhere\.pem: No such file"):
        build_server_context(attrs.evolve(settings, certificate=str(tmp_path / "nowhere.pem")))
    with pytest.raises(SettingsError, match=r"cannot read the key .*nowhere\.key: No such file"):
        build_server_context(attrs.evolve(settings, key=str(tmp_path / "nowhere.key")))
    with pytest.raises(SettingsError, match=r"cannot read the authority .*nowhere\.pem: No such file"):
        build_client_context(str(tmp_path / "nowhere.pem"))


def test_a_key_of_another_certificate_is_refused(nodes: Nodes) -> None:
    mixed = attrs.evolve(nodes.settings("n1"), key=nodes.settings("n2").key)
    with pytest.raises(SettingsError, match="is not the key of the certificate"):
        build_server_context(mixed)


def test_files_that_are_no_pem_are_refused(nodes: Nodes, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("not a certificate")
    with pytest.raises(SettingsError, match="no PEM certificate and key"):
        build_server_context(attrs.evolve(nodes.settings("n1"), certificate=str(junk)))
    with pytest.raises(SettingsError, match="has no PEM certificate"):
        build_client_context(str(junk))


def test_a_certificate_without_a_key_is_refused(nodes: Nodes) -> None:
    with pytest.raises(SettingsError, match="the key is missing"):
        build_client_context(nodes.authority, certificate=nodes.settings("n1").certificate)


def test_client_certificates_need_an_authority(nodes: Nodes) -> None:
    with pytest.raises(SettingsError, match="no authority"):
        build_server_context(attrs.evolve(nodes.settings("n1", require_client_certificate=True), authority=""))


def test_an_encrypted_key_is_refused_without_asking_at_the_terminal(nodes: Nodes, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    settings = nodes.settings("n1")
    locked = tmp_path / "locked.key"
    private = load_pem_private_key(Path(settings.key).read_bytes(), None)
    locked.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(SettingsError, match="the key is encrypted"):
        build_server_context(attrs.evolve(settings, key=str(locked)))


async def test_reload_takes_the_new_files_or_keeps_the_old(
    nodes: Nodes, other_nodes: Nodes, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    certificate = tmp_path / "node.pem"
    key = tmp_path / "node.key"

    def install(source: Nodes) -> None:
        settings = source.settings("n1")
        certificate.write_bytes(Path(settings.certificate).read_bytes())
        key.write_bytes(Path(settings.key).read_bytes())

    install(nodes)
    tls = FileTls(default(TlsSettings, certificate=str(certificate), key=str(key), authority=nodes.authority))
    before = (tls.server_context(), tls.peer_context())
    certificate.write_text("half written")
    with pytest.raises(SettingsError):
        tls.reload()
    assert (tls.server_context(), tls.peer_context()) == before
    install(other_nodes)
    tls.reload()
    assert tls.server_context() is not before[0]
