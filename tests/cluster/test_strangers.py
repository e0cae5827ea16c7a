"""What somebody on the network who is no node can say: it ends no node, moves no term, and counts for nothing."""

import random
import tracemalloc
from pathlib import Path

import attrs
import pytest
import trio
from authority import Authority

from tests.cluster.helpers import ADMIN, EVENT_LOG, QUICK
from tests.cluster.strangers import ANSWER_SECONDS_MAX, Stranger, refusal, reply
from trio_eventlog.codec.first_bytes import PEER_PREFACE
from trio_eventlog.codec.peer_frame import (
    Challenge,
    Frame,
    FrameKind,
    Hello,
    RefusedCode,
    decode_refused,
    encode_frame_head,
    encode_hello,
)
from trio_eventlog.codec.raft_message import encode_raft_message
from trio_eventlog.ids import CATALOG_GROUP, ClusterId, GroupId, NodeId
from trio_eventlog.node.gossip_discovery import node_tags
from trio_eventlog.raft import Message, MessageType
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.v1 import admin_pb2, event_log_pb2


@pytest.mark.parametrize("address", ["x", "x:99999", "a b:1", "a..b:1", "", "nobody.anywhere:1", "\n:1"])
async def test_a_hello_with_any_address_ends_no_node(address: str) -> None:
    async with Cluster(3, seed=1) as cluster, cluster.client(settings=QUICK) as client:
        await cluster.wait_ready()
        stranger = Stranger(cluster)
        for name in cluster.names:
            await stranger.say(name, stranger.hello(99, address=address, is_probe=True))
        await trio.sleep(30)
        assert cluster.running == cluster.names
        await client.produce("orders", b"still here")


async def test_a_gossip_packet_with_any_tags_ends_no_node() -> None:
    """Tags that are no tags, names that are no text, addresses that are none; members and clients can still be answered."""
    async with Cluster(3, seed=2) as cluster, cluster.client(settings=QUICK) as client:
        await cluster.wait_ready()
        stranger = Stranger(cluster)
        good = node_tags(NodeId(99), address="evil:1", cluster_name="default", version="1")
        odd: list[tuple[str, dict[str, str]]] = [
            ("a\nb", good),
            ("\udcff\udcfe", good | {"x": "\udcff"}),
            ("x" * 255, good | {"addr": "x"}),
            ("port", good | {"addr": "", "port": "99999999"}),
            ("digits", good | {"addr": "", "port": "\N{ARABIC-INDIC DIGIT FOUR}"}),
            *((text, good | {"id": text}) for text in ("0x1", "+1", "1_0", "-1", " 1", "0", "g", "")),
            *((text, good | {"addr": text}) for text in ("a..b:1", "a b:1", "\x00:1", f"{'x' * 64}:1")),
        ]
        for name, tags in odd:
            for to in cluster.names:
                await stranger.gossip_tags(to, name, tags)
        await trio.sleep(30)
        assert cluster.running == cluster.names
        leader = await cluster.wait_leader()
        async with cluster.channel(leader) as channel:
            listed = await channel.unary(ADMIN["ListMembers"], admin_pb2.ListMembersRequest())
        assert all(member.name.isprintable() for member in listed.members)
        await client.produce("orders", b"still here")


@pytest.mark.parametrize("seed", range(4))
async def test_random_bytes_of_every_protocol_end_no_node(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Hellos, frames, packets and streams that are nearly right. No handler crashes; what arrives is refused or dropped."""
    rng = random.Random(seed)
    async with Cluster(3, seed=seed) as cluster, cluster.client(settings=QUICK) as client:
        await cluster.wait_ready()
        await client.produce("orders", b"before")
        stranger = Stranger(cluster)
        own = cluster.node_id("n1")
        async with trio.open_nursery() as nursery:
            for number in range(150):
                to = rng.choice(cluster.names)
                match number % 5:
                    case 0:
                        body = encode_hello(stranger.hello(rng.choice((own, 1, 2**64 - 1)), is_probe=rng.random() < 0.5))
                        nursery.start_soon(stranger.say, to, spoilt(rng, body))
                    case 1:
                        cluster_id = cluster_id_of(cluster)
                        hello = stranger.hello(rng.randrange(1, 2**64), cluster_id=rng.choice((0, cluster_id)))
                        kind = rng.choice((*FrameKind, 99))
                        frame = encode_frame_head(kind, rng.randrange(3), spoilt(rng, rng.randbytes(rng.randrange(100))))
                        nursery.start_soon(stranger.say, to, hello, frame)
                    case 2:
                        nursery.start_soon(stranger.send, to, spoilt(rng, PEER_PREFACE + rng.randbytes(60)))
                    case 3:
                        tags = node_tags(NodeId(rng.randrange(1, 2**64)), address="evil:1", cluster_name="default", version="1")
                        nursery.start_soon(stranger.packets, to, spoilt(rng, await stranger.alive(f"s{number}", tags)))
                    case 4:
                        nursery.start_soon(stranger.send, to, bytes([rng.choice((0, 6, 8, 9, 10, 244)), 0x81]) + rng.randbytes(40))
        await trio.sleep(10)
        assert cluster.running == cluster.names
        await client.produce("orders", b"after")
    assert not [record for record in caplog.records if record.exc_info]


def cluster_id_of(cluster: Cluster) -> ClusterId:
    return ClusterId(int(cluster.node("n1").status().cluster_id, 16))


def spoilt(rng: random.Random, data: bytes) -> bytes:
    """The same with a few bytes changed, cut off, or more at the end."""
    changed = bytearray(data)
    for _ in range(rng.randrange(4)):
        changed[rng.randrange(len(changed) + 1) : rng.randrange(len(changed) + 1)] = rng.randbytes(rng.randrange(3))
    return bytes(changed)


@pytest.mark.parametrize("says_who", ["nobody", "an invented node", "a node of the cluster"])
async def test_who_answers_at_an_address_from_gossip_removes_nobody(says_who: str) -> None:
    """One packet names an address, everybody asks there, and hears that it was removed from the cluster."""
    async with Cluster(3, seed=3) as cluster, cluster.client(settings=QUICK) as client, trio.open_nursery() as nursery:
        await cluster.wait_ready()
        stranger = Stranger(cluster)
        own_id = 99 if says_who == "an invented node" else cluster.node_id("n2")

        def answer(hello: Hello) -> list[bytes]:
            removed = refusal(RefusedCode.REMOVED, "you were removed")
            if says_who == "nobody":
                return [removed]
            cluster_id = cluster_id_of(cluster)
            return [reply(stranger.hello(own_id, cluster_id=cluster_id, challenge=Challenge(refuses=True))), removed]

        await nursery.start(stranger.listen, answer)
        for name in cluster.names:
            await stranger.gossip(name, stranger.address, node_id=99)
        await trio.sleep(60)
        assert {hello.node_id for hello in stranger.met} == set(map(cluster.node_id, cluster.names)), "everybody has asked"
        assert cluster.running == cluster.names
        await client.produce("orders", b"still here")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("belongs", [False, True])
async def test_raft_of_somebody_whom_nobody_has_met_moves_no_term(belongs: bool) -> None:
    """An invented id, with our cluster's id and without: heartbeats and votes of a high term."""
    async with Cluster(3, seed=4) as cluster, cluster.client(settings=QUICK) as client:
        await cluster.wait_ready()
        terms = {name: term_of(cluster, name) for name in cluster.names}
        stranger = Stranger(cluster)
        for name in cluster.names:
            hello = stranger.hello(99, cluster_id=cluster_id_of(cluster) if belongs else ClusterId(0))
            frames = [
                encode_frame_head(
                    FrameKind.RAFT,
                    CATALOG_GROUP,
                    encode_raft_message(Message(type=kind, sender=NodeId(99), to=cluster.node_id(name), term=1000)),
                )
                for kind in (MessageType.HEARTBEAT, MessageType.VOTE, MessageType.HEARTBEAT_RESPONSE)
            ]
            answers = await stranger.say(name, hello, *frames)
            assert answers[0].kind == FrameKind.HELLO_REPLY
        await trio.sleep(5)
        assert {name: term_of(cluster, name) for name in cluster.names} == terms
        await client.produce("orders", b"still here")


async def test_a_node_of_no_cluster_sends_no_raft() -> None:
    """It answers at its address and is about to be added, and says on its link that it belongs to no cluster yet."""
    async with Cluster(3, seed=16) as cluster, cluster.client(settings=QUICK) as client, trio.open_nursery() as nursery:
        await cluster.wait_ready()
        terms = {name: term_of(cluster, name) for name in cluster.names}
        stranger = Stranger(cluster)
        hello = stranger.hello(99)
        await nursery.start(stranger.listen, lambda other: [reply(hello)])
        for name in cluster.names:
            await stranger.say(name, hello)
        await cluster.wait_until(
            lambda: all(cluster.node(name).parts.transport.is_connected(NodeId(99)) for name in cluster.names), "links to it"
        )
        for name in cluster.names:
            vote = Message(type=MessageType.HEARTBEAT, sender=NodeId(99), to=cluster.node_id(name), term=1000)
            await stranger.say(name, hello, encode_frame_head(FrameKind.RAFT, CATALOG_GROUP, encode_raft_message(vote)))
        await trio.sleep(5)
        assert {name: term_of(cluster, name) for name in cluster.names} == terms
        await client.produce("orders", b"still here")
        nursery.cancel_scope.cancel()


async def test_hundreds_of_invented_hellos_keep_no_newcomer_out() -> None:
    """Links and probes of ids that nobody has; then a real node comes, and clients are told of real nodes only."""
    async with Cluster(4, founders=3, seed=5) as cluster, cluster.client("n1", settings=QUICK) as client:
        await cluster.wait_ready()
        stranger = Stranger(cluster)
        async with trio.open_nursery() as nursery:
            for number in range(300):
                for name in ("n1", "n2", "n3"):
                    hello = stranger.hello(1000 + number, address=f"x{number}:1", is_probe=bool(number % 2))
                    nursery.start_soon(stranger.say, name, hello)
                if number % 60 == 59:
                    await trio.sleep(1)
            await cluster.start("n4")
            await cluster.wait_registered(*cluster.names)
        await trio.sleep(30)
        async with cluster.channel("n1") as channel:
            servers = await channel.unary(EVENT_LOG["GetServers"], event_log_pb2.GetServersRequest())
        assert {server.name for server in servers.servers} == set(cluster.names)
        for name in cluster.names:
            assert len(cluster.node(name).parts.discovery._watched) <= 4
            assert len(cluster.node(name).parts.transport._links) == 3
            assert len(cluster.node(name).parts.transport._epochs) <= 4
        await client.produce("orders", b"still here")


@pytest.mark.parametrize("answers", [False, True])
async def test_a_stranger_keeps_no_cluster_from_being_formed(answers: bool) -> None:
    """Hellos that contradict everybody's settings, to nodes that wait for each other: nobody ends, and they begin without him.

    In plaintext and without a secret he can be one of the three, if he answers like one; that is not looked at here.
    """
    async with Cluster(3, seed=6, starts=False) as cluster, trio.open_nursery() as nursery:
        stranger = Stranger(cluster)
        lies: list[dict[str, object]] = [
            {"bootstrap_expect": 7},
            {"bootstrap_expect": 3},
            {"cluster_id": ClusterId(7), "has_data": True, "known_ids": (NodeId(99),)},
            {"bootstrap_expect": 3, "known_ids": tuple(map(NodeId, range(90, 100)))},
        ]
        if answers:
            lies = [lie for lie in lies if lie.get("bootstrap_expect") != 3]
        hellos = [stranger.hello(90 + number, **lie) for number, lie in enumerate(lies)]
        listening = trio.CancelScope()

        async def listen(*, task_status: trio.TaskStatus[None]) -> None:
            with listening:
                await stranger.listen(lambda hello: [reply(hellos[len(stranger.met) % len(hellos)])], task_status=task_status)

        if answers:
            await nursery.start(listen)
        for name in ("n1", "n2"):
            await cluster.start(name)
        for _ in range(5):
            for name in ("n1", "n2"):
                for hello in hellos:
                    await stranger.say(name, hello)
        assert cluster.running == ("n1", "n2")
        listening.cancel()
        await trio.sleep(20)
        await cluster.start("n3")
        await cluster.wait_leader()
        await cluster.wait_converged()
        assert len({cluster.node(name).status().cluster_id for name in cluster.names}) == 1
        nursery.cancel_scope.cancel()


def term_of(cluster: Cluster, name: str) -> int:
    replica = cluster.replica(name)
    assert replica is not None
    return replica.status().hard_state.term


async def test_a_client_with_a_certificate_of_a_host_of_its_own_is_no_peer(tmp_path: Path) -> None:
    """The default set-up of TLS: certificates are for hosts. He dials as that host, says what he likes, and is not met there."""
    authority = Authority(tmp_path / "ca")
    client_files = authority.issue("evil")
    async with Cluster(3, seed=12, starts=False) as cluster:
        for name in cluster.names:
            files = authority.issue(name)
            cluster.settings_of[name] |= {"tls_cert": files.certificate, "tls_key": files.key, "tls_ca": files.authority}
            await cluster.start(name)
        await cluster.wait_ready()
        terms = {name: term_of(cluster, name) for name in cluster.names}
        stranger = Stranger(cluster, tls=client_files)
        for node_id in (NodeId(99), cluster.node_id("n2")):
            hello = stranger.hello(node_id, cluster_id=cluster_id_of(cluster))
            to = cluster.node_id("n1")
            vote = Message(type=MessageType.VOTE, sender=node_id, to=to, term=1000)
            beat = Message(type=MessageType.HEARTBEAT, sender=node_id, to=to, term=1000)
            frames = [encode_frame_head(FrameKind.RAFT, CATALOG_GROUP, encode_raft_message(one)) for one in (vote, beat)]
            await stranger.say("n1", hello, *frames)
            elsewhere = attrs.evolve(hello, address="n2:8400")
            (refused,) = await stranger.say("n1", elsewhere, *frames)
            assert decode_refused(refused.body).code == RefusedCode.CERTIFICATE
        await trio.sleep(10)
        assert {name: term_of(cluster, name) for name in cluster.names} == terms
        assert cluster.running == cluster.names


async def test_a_stranger_gets_no_memory_for_what_he_announces() -> None:
    """Links of invented nodes, each of which announces a frame as large as a peer may send."""
    async with Cluster(1, seed=17) as cluster, trio.open_nursery() as nursery:
        await cluster.wait_ready()
        stranger = Stranger(cluster)
        body_bytes = cluster.node("n1").parts.settings.peer_frame_bytes_max
        announced = encode_frame_head(FrameKind.APPEND, GroupId(1), b"", body_bytes)
        answers: list[list[Frame]] = []

        async def announce(node_id: int) -> None:
            answers.append(
                await stranger.say("n1", stranger.hello(node_id, cluster_id=cluster_id_of(cluster)), announced, bytes(100))
            )

        tracemalloc.start()
        try:
            for number in range(8):
                nursery.start_soon(announce, 100 + number)
            await trio.sleep(ANSWER_SECONDS_MAX / 2)
            taken_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken_bytes < body_bytes / 2
    assert [[frame.kind for frame in frames] for frames in answers] == [[FrameKind.HELLO_REPLY]] * 8
