"""What somebody on the network who is no node can say: it ends no node, moves no term, and counts for nothing."""

import random

import pytest
import trio

from tests.cluster.helpers import ADMIN, QUICK
from tests.cluster.strangers import Stranger
from trio_eventlog.codec.first_bytes import PEER_PREFACE
from trio_eventlog.codec.peer_frame import FrameKind, encode_frame_head, encode_hello
from trio_eventlog.ids import ClusterId, NodeId
from trio_eventlog.node.gossip_discovery import node_tags
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.v1 import admin_pb2


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
