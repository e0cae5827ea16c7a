"""Nodes that share a secret, and somebody who does not know it."""

from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from tests.cluster.helpers import QUICK
from tests.cluster.strangers import Stranger, refusal, reply
from tests.cluster.test_strangers import cluster_id_of, term_of
from trio_eventlog.codec.first_bytes import PEER_PREFACE
from trio_eventlog.codec.peer_frame import (
    Challenge,
    FrameKind,
    Hello,
    RefusedCode,
    decode_hello,
    decode_refused,
    encode_frame_head,
    encode_hello,
)
from trio_eventlog.codec.peer_secret import PeerSecrets, Side
from trio_eventlog.codec.raft_message import encode_raft_message
from trio_eventlog.ids import CATALOG_GROUP, NO_CLUSTER, NodeId
from trio_eventlog.raft import Message, MessageType
from trio_eventlog.testing.cluster import Cluster

SECRET = b"a secret of the whole cluster"
NONCE = bytes(range(16))


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def nonce_of(hello: Hello) -> bytes:
    assert hello.challenge is not None
    return hello.challenge.nonce


def high_term(to: NodeId, sender: NodeId) -> bytes:
    message = Message(type=MessageType.HEARTBEAT, sender=sender, to=to, term=1000)
    return encode_frame_head(FrameKind.RAFT, CATALOG_GROUP, encode_raft_message(message))


async def test_a_cluster_with_a_secret_works_and_grows(secret_file: Path) -> None:
    async with (
        Cluster(4, founders=3, seed=7, peer_secret_file=str(secret_file)) as cluster,
        cluster.client(settings=QUICK) as client,
    ):
        await cluster.wait_ready()
        await client.produce("orders", b"1")
        await cluster.start("n4")
        await cluster.wait_registered(*cluster.names)
        await cluster.restart("n2")
        await client.produce("orders", b"2")


async def test_who_does_not_know_the_secret_is_nobody(secret_file: Path) -> None:
    """Neither as a dialler nor as a listener, neither for Raft nor for a probe: nothing is even remembered of him."""
    async with (
        Cluster(3, seed=8, peer_secret_file=str(secret_file)) as cluster,
        cluster.client(settings=QUICK) as client,
        trio.open_nursery() as nursery,
    ):
        await cluster.wait_ready()
        stranger = Stranger(cluster)
        (n1, n2) = (cluster.node_id("n1"), cluster.node_id("n2"))
        plain = stranger.hello(n2, cluster_id=cluster_id_of(cluster), address="n2:8400")
        told = await stranger.say("n1", plain, high_term(n1, n2))
        assert [decode_refused(frame.body).code for frame in told] == [RefusedCode.SECRET]
        # With a challenge he learns the listener's proof, and has none himself: none, that one, one of another secret.
        claiming = attrs.evolve(plain, challenge=Challenge(nonce=NONCE, proves=True))
        answers = await stranger.say("n1", claiming)
        assert [frame.kind for frame in answers] == [FrameKind.HELLO_REPLY, FrameKind.PROOF]
        seen = bytes(answers[1].body)
        again = await stranger.say("n1", claiming)
        assert nonce_of(decode_hello(again[0].body)) != nonce_of(decode_hello(answers[0].body)), "nonces are used once"
        wrong = PeerSecrets((b"another secret of somebody",)).prove(Side.DIALLER, encode_hello(claiming), bytes(answers[0].body))
        for proof in (seen, wrong, b"", b"short"):
            told = await stranger.say("n1", claiming, encode_frame_head(FrameKind.PROOF, 0, proof) + high_term(n1, n2))
            assert FrameKind.REFUSED in [frame.kind for frame in told] or len(proof) < 32

        def answer(hello: Hello) -> list[bytes]:
            own = stranger.hello(99, cluster_id=cluster_id_of(cluster), challenge=Challenge(nonce=NONCE, proves=True))
            return [reply(own), encode_frame_head(FrameKind.PROOF, 0, seen)]

        await nursery.start(stranger.listen, answer)
        for name in cluster.names:
            await stranger.gossip(name, stranger.address, node_id=99)
        await trio.sleep(30)
        assert stranger.met
        assert len({nonce_of(hello) for hello in stranger.met}) == len(stranger.met)
        for name in cluster.names:
            assert term_of(cluster, name) < 1000
            assert set(cluster.node(name).parts.discovery.members()) == set(map(cluster.node_id, cluster.names)) - {
                cluster.node_id(name)
            }
        await client.produce("orders", b"still here")
        nursery.cancel_scope.cancel()


async def test_who_has_the_addresses_of_all_others_removes_nobody(secret_file: Path) -> None:
    """He answers where they were, with and without saying that he is one of them: none of it is proved, and none of it counts."""
    async with Cluster(3, seed=15, peer_secret_file=str(secret_file)) as cluster, trio.open_nursery() as nursery:
        await cluster.wait_ready()
        cluster_id = cluster_id_of(cluster)
        for name in ("n2", "n3"):
            cluster.crash(name)
            await cluster.wait_down(name)
            stranger = Stranger(cluster, name=name)
            node_id = cluster.node_id(name)

            def answer(hello: Hello, stranger: Stranger = stranger, node_id: NodeId = node_id) -> list[bytes]:
                removed = refusal(RefusedCode.REMOVED, "you were removed")
                if len(stranger.met) % 2:
                    return [removed]
                challenge = Challenge(nonce=NONCE, proves=True, refuses=True)
                own = stranger.hello(node_id, cluster_id=cluster_id, address=f"{stranger.name}:8400", challenge=challenge)
                return [reply(own), encode_frame_head(FrameKind.PROOF, 0, bytes(32)), removed]

            await nursery.start(partial(stranger.listen, answer, address=f"{name}:8400"))
        await trio.sleep(60)
        assert cluster.is_running("n1")
        assert cluster.node("n1").status().warnings == ()
        nursery.cancel_scope.cancel()


async def test_a_proof_counts_once(secret_file: Path) -> None:
    """What two nodes have said to each other, said again word by word."""
    recorded: dict[str, bytearray] = {}
    async with Cluster(3, seed=9, peer_secret_file=str(secret_file)) as cluster:
        trace = cluster.network.on_write

        def record(source: str, target: str, data: bytes) -> None:
            if (source, target) == ("n2", "n1") and (bytes(data).startswith(PEER_PREFACE) or recorded):
                recorded.setdefault("n2", bytearray()).extend(data)
            if trace is not None:
                trace(source, target, data)

        cluster.network.on_write = record
        await cluster.wait_ready()
        await cluster.restart("n2")
        await cluster.wait_ready()
        said = bytes(recorded["n2"][:1000])
        assert said.startswith(PEER_PREFACE)
        answers = await Stranger(cluster).send("n1", said)
        kinds = [frame.kind for frame in answers]
        assert FrameKind.PONG not in kinds
        assert not kinds or FrameKind.REFUSED in kinds or kinds[-1] == FrameKind.PROOF


async def test_all_nodes_or_none(secret_file: Path) -> None:
    """One without finds no cluster, and says why; it is let in once it has the secret."""
    async with Cluster(4, founders=3, seed=10, peer_secret_file=str(secret_file)) as cluster:
        await cluster.wait_ready()
        await cluster.start("n4", peer_secret_file="")
        await trio.sleep(30)
        assert cluster.node("n4").parts.directory.cluster_id == NO_CLUSTER
        await cluster.restart("n4", peer_secret_file=str(secret_file))
        await cluster.wait_registered(*cluster.names)


async def test_a_secret_is_turned_on_and_changed_in_a_running_cluster(tmp_path: Path) -> None:
    """Each step on one node after the other, while records flow; links that are there stay, and so does the leader."""
    files = {name: tmp_path / name for name in ("n1", "n2", "n3")}
    (one, two) = (b"the first secret of ours", b"the second secret of ours")
    for path in files.values():
        path.write_bytes(b"none\n")
    async with Cluster(3, seed=11, starts=False) as cluster:
        for name, path in files.items():
            cluster.settings_of[name]["peer_secret_file"] = str(path)
            await cluster.start(name)
        async with cluster.client(settings=QUICK) as client:
            await cluster.wait_ready()
            leader = await cluster.wait_leader()
            for content in (one, one + b"\n" + two, two + b"\n" + one, two):
                for name, path in files.items():
                    path.write_bytes(content)
                    cluster.node(name).reload_certificates()
                    await client.produce("orders", content)
                await trio.sleep(5)
            assert await cluster.wait_leader() == leader
            await cluster.restart("n1")
            await cluster.restart("n2")
            await cluster.wait_ready()
            await client.produce("orders", b"with the second")
            stranger = Stranger(cluster)
            hello = stranger.hello(99, challenge=Challenge(nonce=NONCE, proves=True))
            (answer, proof) = await stranger.say("n1", hello)
            assert PeerSecrets((two,)).accepts(bytes(proof.body), Side.LISTENER, encode_hello(hello), bytes(answer.body))
            assert decode_hello(answer.body).node_id == cluster.node_id("n1")
