"""Releases that speak different feature levels: nothing of a higher one is written before every node speaks it."""

import pytest
import trio

from tests.cluster.helpers import QUICK, values_on
from trio_eventlog.codec import catalog
from trio_eventlog.errors import InvalidArgument
from trio_eventlog.machine.catalog import FEATURE_LEVEL, DeleteTopic
from trio_eventlog.testing.cluster import Cluster

NEXT = FEATURE_LEVEL + 1
"""What the next release speaks."""


def levels(cluster: Cluster) -> list[int]:
    return [cluster.node(name).parts.replicas.machine.feature_level for name in cluster.running]


async def test_the_level_rises_when_the_last_node_speaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other is upgraded; a command of the next level is refused until then, by whoever leads."""
    monkeypatch.setitem(catalog.LEVELS, DeleteTopic, NEXT)
    async with Cluster(3, seed=71) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        for name in cluster.names:
            await cluster.wait_until(lambda: levels(cluster) == [FEATURE_LEVEL] * 3, "every node speaks this release's level")
            with pytest.raises(InvalidArgument, match=f"needs feature level {NEXT}"):
                await client.delete_topic("orders")
            cluster.feature_level_of[name] = NEXT
            await cluster.restart(name)
            await cluster.wait_ready()
            if name != cluster.names[-1]:
                await trio.sleep(10)
        await cluster.wait_until(lambda: levels(cluster) == [NEXT] * 3, "every node speaks the next level")
        status = cluster.node("n1").status()
        assert (status.feature_level, status.cluster_feature_level) == (NEXT, NEXT)
        await client.delete_topic("orders")


async def test_a_node_that_is_down_holds_the_level_back() -> None:
    """Nobody knows which release it comes back with."""
    async with Cluster(3, seed=72, starts=False) as cluster:
        cluster.feature_level_of |= dict.fromkeys(cluster.names, NEXT)
        for name in cluster.names:
            await cluster.start(name)
        await cluster.wait_registered(*cluster.names)
        await cluster.wait_until(lambda: levels(cluster) == [NEXT] * 3, "every node speaks the next level")
        cluster.feature_level_of |= dict.fromkeys(cluster.names, NEXT + 1)
        cluster.crash("n3")
        for name in ("n1", "n2"):
            await cluster.restart(name)
        await trio.sleep(20)
        assert levels(cluster) == [NEXT] * 2
        await cluster.start("n3")
        await cluster.wait_until(lambda: levels(cluster) == [NEXT + 1] * 3, "every node speaks the level after it")


async def test_a_node_that_goes_back_to_an_older_release_says_so_and_does_what_it_can() -> None:
    """Its catalog stays where it was; its partitions go on with the files they have. After an upgrade it catches up."""
    async with Cluster(3, seed=73) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await client.produce("orders", b"before")
        await cluster.wait_converged("orders")
        cluster.feature_level_of |= dict.fromkeys(cluster.names, NEXT)
        for name in cluster.names:
            await cluster.restart(name)
            await cluster.wait_ready()
        await cluster.wait_until(lambda: levels(cluster) == [NEXT] * 3, "every node speaks the next level")
        await client.create_topic("payments")
        await cluster.wait_topic("payments")
        cluster.feature_level_of["n3"] = FEATURE_LEVEL
        await cluster.restart("n3")
        node = cluster.node("n3")
        await cluster.wait_until(lambda: "upgrade this node" in node.unready_because(), "n3 says why it is not ready")
        assert any(f"feature level {NEXT}" in warning for warning in node.status().warnings)
        await client.produce("orders", b"after")
        await client.create_topic("invoices")
        await client.produce("invoices", b"elsewhere")
        await cluster.wait_converged("orders")
        assert await values_on(cluster, "n3", "orders") == [b"before", b"after"]
        for _ in range(3):
            leader = await cluster.wait_leader()
            assert leader != "n3"
            cluster.crash(leader)
            await trio.sleep(10)
            assert cluster.leader() != "n3"
            await cluster.start(leader)
        cluster.feature_level_of["n3"] = NEXT
        await cluster.restart("n3")
        await cluster.wait_ready()
        await cluster.wait_converged("invoices")
        assert await values_on(cluster, "n3", "invoices") == [b"elsewhere"]


async def test_a_single_node_that_goes_back_says_so_and_goes_on_after_an_upgrade() -> None:
    """Nobody else leads its catalog; it starts, is not ready, and loses nothing."""
    async with Cluster(1, seed=74) as cluster, cluster.client(settings=QUICK) as client:
        await client.produce("orders", b"before")
        for level in (NEXT, FEATURE_LEVEL, NEXT):
            cluster.feature_level_of["n1"] = level
            await cluster.restart("n1")
            if level == FEATURE_LEVEL:
                node = cluster.node("n1")
                await cluster.wait_until(lambda node=node: "upgrade this node" in node.unready_because(), "it says why")  # type: ignore[misc]
                assert "upgrade this node" in node.status().groups[0].problem
            else:
                await cluster.wait_until(lambda: levels(cluster) == [NEXT], "the next level")
        await client.produce("orders", b"after")
        assert await values_on(cluster, "n1", "orders") == [b"before", b"after"]


async def test_the_first_call_of_a_new_cluster_waits_for_its_level_and_one_amid_an_upgrade_is_refused() -> None:
    """A new cluster has not spoken yet; one that has a node of an older release is not worth a long wait."""
    async with Cluster(3, seed=75, starts=False) as cluster, cluster.client() as client:
        for name in cluster.names:
            await cluster.start(name)
        await client.create_topic("orders")
        assert levels(cluster) == [1, 1, 1]
        assert (await client.alter_topic("orders", retention_bytes=5)).retention_bytes == 5
    async with Cluster(3, seed=76, starts=False) as cluster, cluster.client() as client:
        cluster.feature_level_of["n2"] = 1
        for name in cluster.names:
            await cluster.start(name)
        await client.create_topic("orders")
        before = trio.current_time()
        with pytest.raises(InvalidArgument, match="AlterTopic needs feature level 2"):
            await client.alter_topic("orders", retention_bytes=5)
        assert trio.current_time() - before < 3
        assert levels(cluster) == [1, 1, 1]
