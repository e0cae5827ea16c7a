"""How a cluster begins, and how it does not."""

import pytest
import trio

from tests.cluster.helpers import QUICK, values_on
from trio_eventlog.net.links import LinkRefused
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode


def cluster_ids(cluster: Cluster) -> set[int]:
    return {cluster.node(name).parts.directory.cluster_id for name in cluster.running}


async def test_three_nodes_begin_only_when_all_three_agree() -> None:
    """Two of three wait for the third, however long; with it they begin, and all of them mean the same cluster."""
    async with Cluster(3, seed=41, starts=False) as cluster:
        await cluster.start("n1")
        await cluster.start("n2")
        await trio.sleep(60)
        assert cluster_ids(cluster) == {0}
        assert cluster.replica("n1") is None
        await cluster.start("n3")
        await cluster.wait_leader()
        assert len(cluster_ids(cluster)) == 1
        await cluster.wait_converged()


async def test_a_crash_between_the_others_beginning_and_its_own() -> None:
    """The third node is told "these three are all", and goes down before it has written it: it learns it from the others."""
    async with Cluster(3, seed=42) as cluster, cluster.client(settings=QUICK) as client:
        await cluster.wait_until(
            lambda: any(cluster.node(name).parts.directory.cluster_id for name in cluster.running), "the first one begins"
        )
        late = [name for name in cluster.names if not cluster.node(name).parts.directory.cluster_id]
        assert late, "the story needs one that has not begun"
        for name in late:
            cluster.crash(name, CrashMode.LOSE)
        await cluster.wait_until(
            lambda: all(cluster.node(name).parts.directory.cluster_id for name in cluster.running), "the survivors have begun"
        )
        await trio.sleep(10)
        for name in late:
            await cluster.start(name)
        await cluster.wait_leader()
        await cluster.wait_converged()
        assert len(cluster_ids(cluster)) == 1
        await client.produce("orders", b"x")
        await cluster.wait_converged("orders")
        for name in cluster.names:
            assert await values_on(cluster, name, "orders") == [b"x"]


async def test_every_moment_of_beginning_survives_a_power_failure() -> None:
    """All nodes go down after 1, 2, 3... ms of their beginning and lose what was not synced: they begin, or go on, as one."""
    for milliseconds in range(1, 60, 4):
        async with Cluster(3, seed=43 + milliseconds) as cluster:
            await trio.sleep(milliseconds / 1000)
            for name in cluster.running:
                cluster.crash(name)
            for name in cluster.names:
                await cluster.start(name)
            await cluster.wait_leader()
            await cluster.wait_converged()
            assert len(cluster_ids(cluster)) == 1


async def test_other_numbers_of_expected_nodes_are_told_naming_both_and_waited_out() -> None:
    """One node expects two, the others three: who notices says so, and goes on once it has been put right."""
    async with Cluster(3, seed=44, starts=False) as cluster:
        await cluster.start("n1", bootstrap_expect=3)
        await cluster.start("n2", bootstrap_expect=2)
        await cluster.wait_until(lambda: "expects 2" in cluster.node("n1").unready_because(), "what is the matter, in words")
        assert "this one 3" in cluster.node("n1").unready_because()
        await trio.sleep(30)
        assert cluster.running == ("n1", "n2")
        assert cluster_ids(cluster) == {0}
        await cluster.restart("n2", bootstrap_expect=3)
        await cluster.start("n3")
        await cluster.wait_leader()


async def test_another_cluster_name_is_refused_naming_both() -> None:
    """The links are refused with both names; nobody begins a cluster with a stranger."""
    async with Cluster(3, seed=45, starts=False) as cluster:
        await cluster.start("n1", may_fail=True)
        await cluster.start("n2", may_fail=True, cluster_name="other")
        await cluster.start("n3", may_fail=True)
        await trio.sleep(20)
        assert cluster_ids(cluster) <= {0}
        with pytest.raises(LinkRefused) as caught:
            await cluster.node("n1").parts.transport.probe("n2:8400")
        assert "'other'" in str(caught.value)
        assert "'default'" in str(caught.value)


async def test_a_node_that_may_only_join_begins_nothing() -> None:
    """`--join` without `--bootstrap-expect` waits for a cluster that adds it."""
    async with Cluster(2, seed=46, starts=False) as cluster:
        await cluster.start("n1", bootstrap_expect=None)
        await cluster.start("n2", bootstrap_expect=None)
        await trio.sleep(60)
        assert cluster_ids(cluster) == {0}


async def test_a_cluster_goes_on_after_every_node_was_restarted_in_turn() -> None:
    """Bootstrap settings are ignored by nodes that have data, whatever they say now."""
    async with Cluster(3, seed=47) as cluster, cluster.client(settings=QUICK) as client:
        await client.produce("orders", b"x")
        await cluster.wait_registered()  # two of three may be quicker than the third, which has no data until then
        before = cluster_ids(cluster)
        for name in cluster.names:
            await cluster.restart(name, bootstrap_expect=1)
        await cluster.wait_leader("orders")
        await client.produce("orders", b"y")
        assert cluster_ids(cluster) == before
        await cluster.wait_converged("orders")
