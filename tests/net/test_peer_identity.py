"""Who may be a peer under TLS: not who comes from a known address, but who shows a node's certificate, wherever it comes from."""

import datetime
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from authority import Authority
from tls_node import TlsNode

from trio_eventlog.codec.peer_frame import Hello, RefusedCode
from trio_eventlog.ids import NodeId
from trio_eventlog.net.links import CertificateRefused, LinkRefused, judge_certificate
from trio_eventlog.net.tls import (
    ALPN_HTTP2,
    ALPN_PEER,
    FileTls,
    TlsSettings,
    build_client_context,
    certificate_is_for,
    why_refused_by_peers,
)
from trio_eventlog.net.transport import PeerConnected, PeerIntroduced
from trio_eventlog.testing.network import SimNetwork, SimNetworkSettings, Weather

VIRTUAL_TIME = True

PEERS = "peers.log.example"
PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


def named(*names: tuple[str, str]) -> dict[str, Any]:
    return {"subject": ((("commonName", "n1"),),), "subjectAltName": names}


@pytest.mark.parametrize(
    ("names", "host", "is_for"),
    [
        ([("DNS", "n1")], "n1", True),
        ([("DNS", "N1.Example")], "n1.eXample.", True),
        ([("DNS", "n1")], "n2", False),
        ([("DNS", "n1.example")], "n1", False),
        ([("DNS", "*.log.example")], "n1.log.example", True),
        ([("DNS", "*.log.example")], "a.n1.log.example", False),
        ([("DNS", "*.log.example")], "log.example", False),
        ([("DNS", "*.log.example")], "*.log.example", False),
        ([("DNS", "*.example")], "n1.example", False),
        ([("DNS", "*")], "n1", False),
        ([("DNS", "n*.log.example")], "n1.log.example", False),
        ([("DNS", "xn--bcher-kva.example")], "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", True),
        ([("IP Address", "10.0.0.1")], "10.0.0.1", True),
        ([("IP Address", "10.0.0.1")], "10.0.0.2", False),
        ([("DNS", "10.0.0.1")], "10.0.0.1", False),
        ([("DNS", "*.0.0.1")], "10.0.0.1", False),
        ([("IP Address", "FD00:0:0:0:0:0:0:1")], "fd00::1", True),
        ([("IP Address", "<invalid>")], "10.0.0.1", False),
        ([("URI", "n1"), ("email", "n1")], "n1", False),
        ([], "n1", False),
        ([("DNS", "n1")], "", False),
        ([("DNS", "n1")], "." * 300, False),
    ],
)
def test_whom_a_certificate_is_for(names: list[tuple[str, str]], host: str, is_for: bool) -> None:
    assert certificate_is_for(named(*names), host) is is_for


def test_a_subject_is_no_name() -> None:
    assert not certificate_is_for({"subject": ((("commonName", "n1"),),)}, "n1")


def hello(address: str) -> Hello:
    return Hello(node_id=NodeId(1), cluster_name="test", node_name="n1", address=address)


def test_the_refusal_names_both_sides() -> None:
    refused = judge_certificate(hello("n1:1"), named(("DNS", "client.example"), ("DNS", "c2")), "")
    assert refused is not None
    assert refused.code == RefusedCode.CERTIFICATE
    assert "for client.example, c2 and not for n1" in refused.text
    refused = judge_certificate(hello("n1:1"), named(("DNS", "n1")), PEERS)
    assert refused is not None
    assert f"for n1 and not for {PEERS}, tls_peer_name" in refused.text


@pytest.mark.parametrize("address", ["", "n1", "[n1", "n1:x"])
def test_a_hello_without_a_host_proves_nothing(address: str) -> None:
    assert judge_certificate(hello(address), named(("DNS", "n1")), "") is not None


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ours")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "theirs")


@attrs.frozen
class Pair:
    """A node of the cluster, at n1:1, and another that wants to be one, at the address that it advertises."""

    node: TlsNode
    other: TlsNode
    other_address: str

    async def other_dials(self) -> str:
        """What the other is told; the name of the node when it is let in."""
        try:
            return (await self.other.transport.probe("n1:1")).node_name
        except LinkRefused as error:
            return f"{RefusedCode(error.refused.code).name}: {error.refused.text}"
        except OSError as error:
            return str(error)

    async def node_dials(self) -> str:
        """What the node thinks of the other."""
        try:
            return (await self.node.transport.probe(self.other_address)).node_name
        except CertificateRefused as error:
            return str(error)

    async def linked(self) -> bool:
        """Both keep a link to each other for a while: whether it came about, in either direction."""
        self.node.transport.set_peer(NodeId(2), self.other_address)
        self.other.transport.set_peer(NodeId(1), "n1:1")
        await trio.sleep(60)
        connected = [any(isinstance(event, PeerConnected) for event in one.events) for one in (self.node, self.other)]
        assert connected[0] == connected[1]
        return connected[0]


@asynccontextmanager
async def pair(node: TlsSettings, other: TlsSettings, address: str) -> AsyncIterator[Pair]:
    network = SimNetwork(
        random.Random(1), SimNetworkSettings(weather=Weather(latency_seconds_min=0.001, latency_seconds_max=0.001))
    )
    one = TlsNode(network.host("n1"), 1, "n1:1", node)
    two = TlsNode(network.host("n2"), 2, address, other)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run, "n1:1")
        await nursery.start(two.run, address)
        yield Pair(one, two, address)
        nursery.cancel_scope.cancel()


def introduced(node: TlsNode) -> bool:
    return any(isinstance(event, PeerIntroduced) for event in node.events)


async def test_a_node_that_comes_back_under_another_address_is_known_by_its_certificate(authority: Authority) -> None:
    """The certificate says nothing of the address that the node has today."""
    node = authority.issue("n1", PEERS, peer_name=PEERS)
    moved = authority.issue("n2", PEERS, peer_name=PEERS)
    async with pair(node, moved, "10.9.9.9:1") as both:
        assert await both.other_dials() == "n1"
        assert await both.node_dials() == "n2"
        assert await both.linked()


async def test_without_a_name_for_all_peers_a_certificate_is_for_the_advertised_host(authority: Authority) -> None:
    async with pair(authority.issue("n1"), authority.issue("n2"), "n2:1") as both:
        assert await both.linked()
    async with pair(authority.issue("n1"), authority.issue("*.log.example"), "n2.log.example:1") as both:
        assert await both.linked()


async def test_a_moved_node_whose_certificate_is_for_where_it_was(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """Advertising a name that moves with the node avoids this, and so does a name for all peers."""
    async with pair(authority.issue("n1"), authority.issue("10.0.0.2"), "10.9.9.9:1") as both:
        assert "your certificate is for 10.0.0.2 and not for 10.9.9.9" in await both.other_dials()
        assert "IP address mismatch, certificate is not valid for '10.9.9.9'" in await both.node_dials()
        assert not await both.linked()
        assert not introduced(both.node)
    assert "refused: your certificate is for 10.0.0.2 and not for 10.9.9.9" in caplog.text


@pytest.mark.parametrize("peer_name", ["", PEERS])
async def test_a_client_of_the_same_authority_is_no_peer(
    authority: Authority, peer_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes the place where n2 was, and says that it is n2."""
    node = authority.issue("n1", PEERS, peer_name=peer_name)
    async with pair(node, authority.issue("client.example", peer_name=peer_name), "n2:1") as both:
        said = await both.other_dials()
        assert said.startswith(f"CERTIFICATE: your certificate is for client.example and not for {peer_name or 'n2'},")
        assert "Hostname mismatch" in await both.node_dials()
        assert not await both.linked()
        assert not introduced(both.node)
    assert "refused: your certificate is for client.example" in caplog.text
    warnings = [line for line in caplog.messages if "link to 0000000000000002 at n2:1: " in line and "Hostname mismatch" in line]
    assert len(warnings) == 1, "once, not at every attempt"


async def test_a_client_that_owns_its_host_is_no_peer_where_peers_have_a_name(authority: Authority) -> None:
    """A certificate for a host shows which host it is. That the host is a node follows only from a name that clients do not get."""
    client = authority.issue("client.example", peer_name=PEERS)
    async with pair(authority.issue("n1", PEERS, peer_name=PEERS), client, "client.example:1") as both:
        assert f"not for {PEERS}" in await both.other_dials()
        assert "Hostname mismatch" in await both.node_dials()


async def test_a_wildcard_does_not_stand_for_the_name_of_all_peers(authority: Authority) -> None:
    """`*.log.example` is on servers of every kind; a node's certificate carries `peers.log.example` itself."""
    node = authority.issue("n1", PEERS, peer_name=PEERS)
    async with pair(node, authority.issue("n2", "*.log.example", peer_name=PEERS), "n2:1") as both:
        assert f"not for {PEERS}" in await both.other_dials()
        assert f"carries {PEERS} by a wildcard only" in await both.node_dials()
        assert not await both.linked()
    both_names = authority.issue("n2", "*.log.example", PEERS, peer_name=PEERS)
    async with pair(node, both_names, "n2:1") as both:
        assert await both.linked()
    wildcard = FileTls(authority.issue("*.log.example", peer_name=PEERS))
    assert "by a wildcard only" in why_refused_by_peers(wildcard, "n1")


async def test_an_expired_certificate_is_refused_both_ways(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    expired = authority.issue("n2", not_before=PAST, not_after=PAST + datetime.timedelta(days=1))
    async with pair(authority.issue("n1"), expired, "n2:1") as both:
        assert "if it does not accept our certificate, its log says so" in await both.other_dials()
        assert "certificate verify failed: certificate has expired" in await both.node_dials()
        assert not await both.linked()
    assert any("tls handshake failed" in line and "certificate has expired" in line for line in caplog.messages)


async def test_a_foreign_certificate_is_refused_both_ways(
    authority: Authority, strangers: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """It trusts our authority, so that only its own certificate is in the way."""
    foreign = strangers.issue("n2", authority=authority.path)
    async with pair(authority.issue("n1"), foreign, "n2:1") as both:
        assert "if it does not accept our certificate, its log says so" in await both.other_dials()
        assert "certificate verify failed: unable to get local issuer certificate" in await both.node_dials()
        assert not await both.linked()
    assert any("tls handshake failed" in line and "unable to get local issuer" in line for line in caplog.messages)


async def test_nodes_show_a_certificate_where_clients_need_not(authority: Authority) -> None:
    """Not even `tls_require_client_cert` is needed: whoever dials as a peer without a certificate is told to show one."""
    async with pair(authority.issue("n1"), authority.issue("n2"), "n2:1") as both:
        for alpn in ((ALPN_PEER,), ()):
            bare = build_client_context(authority.path, alpn=alpn)
            both.other.tls._peer = bare
            assert "you showed none" in await both.other_dials()
        assert not introduced(both.node)


async def test_clients_are_asked_for_no_certificate(authority: Authority, strangers: Authority) -> None:
    """One that has a certificate of somebody else is served as before; the same offer as a peer is refused."""
    node = authority.issue("n1")
    async with pair(node, authority.issue("n2"), "n2:1") as both:
        foreign = strangers.issue("client.example")
        for alpn, is_served in ((ALPN_HTTP2, True), (ALPN_PEER, False)):
            context = build_client_context(authority.path, certificate=foreign.certificate, key=foreign.key, alpn=(alpn,))
            plain = await both.other.network.open_stream("n1:1")
            stream = trio.SSLStream(plain, context, server_hostname="n1", https_compatible=True)
            await stream.do_handshake()
            if is_served:
                await stream.send_all(b"PRI * HTTP/2.0\r\n")
                assert await stream.receive_some() == b""
            else:
                assert await stream.receive_some() == b""
                assert both.node.mux.statistics().closed == {"tls handshake failed": 1}
            await trio.aclose_forcefully(stream)
        assert both.node.grpc_connections == 1


async def test_what_led_to_an_address_is_what_its_certificate_is_for(authority: Authority) -> None:
    """A name was looked up, and its address dialled: the name counts. A name for all peers comes before it."""
    async with pair(authority.issue("n1"), authority.issue("n2"), "10.0.0.2:1") as both:
        with pytest.raises(CertificateRefused, match="IP address mismatch"):
            await both.node.transport.probe("10.0.0.2:1")
        with pytest.raises(CertificateRefused, match="not valid for 'n3'"):
            await both.node.transport.probe("10.0.0.2:1", "n3")
    # The listener looks at the dialler in its turn, so this one has both names.
    async with pair(authority.issue("n1"), authority.issue("n2", "n2.log.example"), "n2:1") as both:
        assert (await both.node.transport.probe("n2:1", "n2.log.example")).node_name == "n2"
    node = authority.issue("n1", PEERS, peer_name=PEERS)
    async with pair(node, authority.issue("n2", PEERS, peer_name=PEERS), "10.0.0.2:1") as both:
        assert (await both.node.transport.probe("10.0.0.2:1", "n3")).node_name == "n2"


@pytest.mark.parametrize(
    ("names", "peer_name", "says"),
    [
        (("n1",), "", ""),
        (("10.0.0.1", PEERS), PEERS, ""),
        (("n2",), "", "Hostname mismatch, certificate is not valid for 'n1'"),
        (("n1",), PEERS, f"Hostname mismatch, certificate is not valid for '{PEERS}'"),
    ],
)
def test_a_node_knows_what_others_will_say(authority: Authority, names: tuple[str, ...], peer_name: str, says: str) -> None:
    reason = why_refused_by_peers(FileTls(authority.issue(*names, peer_name=peer_name)), "n1")
    assert reason.startswith(says)
    assert bool(reason) is bool(says)


def test_a_node_knows_that_its_certificate_has_expired_or_is_foreign(authority: Authority, strangers: Authority) -> None:
    expired = authority.issue("n1", not_before=PAST, not_after=PAST + datetime.timedelta(days=1))
    assert why_refused_by_peers(FileTls(expired), "n1") == "certificate has expired"
    foreign = strangers.issue("n1", authority=authority.path)
    assert why_refused_by_peers(FileTls(foreign), "n1") == "unable to get local issuer certificate"


async def test_a_node_without_an_authority_has_no_peers(authority: Authority) -> None:
    node = attrs.evolve(authority.issue("n1"), authority="")
    async with pair(node, authority.issue("n2"), "n2:1") as both:
        assert "no authority (tls_ca) here" in await both.other_dials()
