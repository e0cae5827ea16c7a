"""Releases side by side: nodes of this one and of the next, whose peer protocol is one newer and who speaks both."""

import pytest
import trio

from tests.cluster.helpers import QUICK, values_on
from trio_eventlog.codec.peer_frame import PROTOCOL_VERSION, Hello, RefusedCode
from trio_eventlog.ids import NodeId
from trio_eventlog.net.links import judge_hello
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.machines import NEXT_RELEASE, THIS_RELEASE

SMALL_SEGMENTS = {"segment_bytes": 4096, "index_interval_bytes": 1024, "preallocate_bytes": 4096}


def hello(number: int, versions: tuple[int, int]) -> Hello:
    oldest, newest = versions
    return Hello(
        node_id=NodeId(number),
        cluster_name="c",
        protocol_version=newest,
        oldest_protocol_version=oldest if oldest != newest else 0,
    )


@pytest.mark.parametrize(
    ("one", "other", "is_understood"),
    [
        ((1, 1), (1, 1), True),
        ((1, 1), (1, 2), True),
        ((1, 2), (2, 3), True),
        ((1, 1), (2, 3), False),
        ((1, 1), (2, 2), False),
        ((1, 4), (2, 3), True),
        ((3, 3), (9, 2), False),
    ],
)
def test_two_nodes_need_one_version_in_common(one: tuple[int, int], other: tuple[int, int], is_understood: bool) -> None:
    """Either way round, and a hello that contradicts itself is never understood."""
    for own, theirs in ((one, other), (other, one)):
        refused = judge_hello(hello(1, own), hello(2, theirs))
        assert (refused is None) is is_understood
        assert refused is None or refused.code == RefusedCode.PROTOCOL_VERSION


async def test_a_rolling_upgrade_and_back_under_load() -> None:
    """One node after the other, each direction: every batch is acknowledged, and no reader sees anything twice or not at all."""
    async with Cluster(3, seed=51, **SMALL_SEGMENTS) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        sent: list[bytes] = []
        is_over = False

        async def produce() -> None:
            while not is_over:
                value = b"%d" % len(sent)
                await client.produce("orders", value)
                sent.append(value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            for release in (NEXT_RELEASE, THIS_RELEASE):
                for name in cluster.names:
                    cluster.protocol_versions_of[name] = release
                    await cluster.restart(name)
                    await cluster.wait_leader("orders")
                    before = len(sent)
                    await cluster.wait_until(lambda before=before: len(sent) > before + 5, "batches are acknowledged")  # type: ignore[misc]
                    assert all(
                        cluster.node(one).parts.transport.is_connected(cluster.node_id(other))
                        for one in cluster.names
                        for other in cluster.names
                        if one != other
                    )
            is_over = True
        await cluster.wait_converged("orders")
        for name in cluster.names:
            assert await values_on(cluster, name, "orders") == sent
            replica = cluster.replica(name, "orders")
            assert replica is not None
            assert replica.driver._log.rebuilt_indexes > 0, "those of the next release were no use"


async def test_a_node_two_releases_ahead_is_refused_and_does_no_harm() -> None:
    """It is told which versions are spoken; the others go on without it, and take it back when it is what they know."""
    async with Cluster(3, seed=52) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        await client.produce("orders", b"before")
        cluster.protocol_versions_of["n3"] = (PROTOCOL_VERSION + 1, PROTOCOL_VERSION + 2)
        await cluster.restart("n3")
        await client.produce("orders", b"meanwhile")
        await trio.sleep(10)
        node = cluster.node("n3")
        assert not any(node.parts.transport.is_connected(cluster.node_id(name)) for name in ("n1", "n2"))
        assert await values_on(cluster, "n3", "orders") in ([], [b"before"])
        del cluster.protocol_versions_of["n3"]
        await cluster.restart("n3")
        await cluster.wait_converged("orders")
        assert await values_on(cluster, "n3", "orders") == [b"before", b"meanwhile"]
