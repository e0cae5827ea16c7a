"""Releases that speak different feature levels: nothing of a higher one is written before every node speaks it."""

import pytest
import trio

from tests.cluster.helpers import QUICK, values_on
from trio_eventlog.codec import catalog
from trio_eventlog.errors import InvalidArgument
from trio_eventlog.machine.catalog import DeleteTopic
from trio_eventlog.testing.cluster import Cluster


def levels(cluster: Cluster) -> list[int]:
    return [cluster.node(name).parts.replicas.machine.feature_level for name in cluster.running]


async def test_the_level_rises_when_the_last_node_speaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other is upgraded; a command of the next level is refused until then, by whoever leads."""
    monkeypatch.setitem(catalog.LEVELS, DeleteTopic, 2)
    async with Cluster(3, seed=71) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        for name in cluster.names:
            assert levels(cluster) == [1, 1, 1]
            with pytest.raises(InvalidArgument, match="needs feature level 2"):
                await client.delete_topic("orders")
            cluster.feature_level_of[name] = 2
            await cluster.restart(name)
            await cluster.wait_ready()
            if name != cluster.names[-1]:
                await trio.sleep(10)
        await cluster.wait_until(lambda: levels(cluster) == [2, 2, 2], "every node speaks level 2")
        status = cluster.node("n1").status()
        assert (status.feature_level, status.cluster_feature_level) == (2, 2)
        await client.delete_topic("orders")


async def test_a_node_that_is_down_holds_the_level_back() -> None:
    """Nobody knows which release it comes back with."""
    async with Cluster(3, seed=72, starts=False) as cluster:
        cluster.feature_level_of |= dict.fromkeys(cluster.names, 2)
        for name in cluster.names:
            await cluster.start(name)
        await cluster.wait_registered(*cluster.names)
        await cluster.wait_until(lambda: levels(cluster) == [2, 2, 2], "every node speaks level 2")
        cluster.feature_level_of |= dict.fromkeys(cluster.names, 3)
        cluster.crash("n3")
        for name in ("n1", "n2"):
            await cluster.restart(name)
        await trio.sleep(20)
        assert levels(cluster) == [2, 2]
        await cluster.start("n3")
        await cluster.wait_until(lambda: levels(cluster) == [3, 3, 3], "every node speaks level 3")


async def test_a_node_that_goes_back_to_an_older_release_says_so_and_does_what_it_can() -> None:
    """Its catalog stays where it was; its partitions go on with the files they have. After an upgrade it catches up."""
    async with Cluster(3, seed=73) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await client.produce("orders", b"before")
        await cluster.wait_converged("orders")
        cluster.feature_level_of |= dict.fromkeys(cluster.names, 2)
        for name in cluster.names:
            await cluster.restart(name)
            await cluster.wait_ready()
        await cluster.wait_until(lambda: levels(cluster) == [2, 2, 2], "every node speaks level 2")
        await client.create_topic("payments")
        await cluster.wait_topic("payments")
        cluster.feature_level_of["n3"] = 1
        await cluster.restart("n3")
        node = cluster.node("n3")
        await cluster.wait_until(lambda: "upgrade this node" in node.unready_because(), "n3 says why it is not ready")
        assert any("feature level 2" in warning for warning in node.status().warnings)
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
        cluster.feature_level_of["n3"] = 2
        await cluster.restart("n3")
        await cluster.wait_ready()
        await cluster.wait_converged("invoices")
        assert await values_on(cluster, "n3", "invoices") == [b"elsewhere"]


async def test_a_single_node_that_goes_back_says_so_and_goes_on_after_an_upgrade() -> None:
    """Nobody else leads its catalog; it starts, is not ready, and loses nothing."""
    async with Cluster(1, seed=74) as cluster, cluster.client(settings=QUICK) as client:
        await client.produce("orders", b"before")
        for level in (2, 1, 2):
            cluster.feature_level_of["n1"] = level
            await cluster.restart("n1")
            if level == 1:
                node = cluster.node("n1")
                await cluster.wait_until(lambda node=node: "upgrade this node" in node.unready_because(), "it says why")  # type: ignore[misc]
                assert "upgrade this node" in node.status().groups[0].problem
            else:
                await cluster.wait_until(lambda: levels(cluster) == [2], "level 2")
        await client.produce("orders", b"after")
        assert await values_on(cluster, "n1", "orders") == [b"before", b"after"]
