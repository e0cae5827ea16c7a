"""A node that is short of descriptors, for a while: partitions wait, nothing ends, nothing is lost."""

import pytest
import trio

from tests.cluster.helpers import QUICK, values_on
from trio_eventlog.testing.cluster import Cluster

SMALL_SEGMENTS = {"segment_bytes": 4096, "preallocate_bytes": 4096, "tail_cache_bytes": 0}


@pytest.mark.parametrize("size", [1, 3])
async def test_a_roll_without_descriptors_waits(size: int) -> None:
    """All nodes at once, at every place that a roll has: produce waits, and goes on as soon as something can be opened again."""
    async with Cluster(size, seed=7, **SMALL_SEGMENTS) as cluster, cluster.client(*cluster.names, settings=QUICK) as client:
        await client.create_topic("orders")
        values = [b"%d" % number + bytes(1500) for number in range(30)]
        for number, value in enumerate(values):
            if number % 3 == 1:
                for name in cluster.names:
                    cluster.disk(name).has_descriptors = False

                async def find_some() -> None:
                    await trio.sleep(0.3)
                    for name in cluster.names:
                        cluster.disk(name).has_descriptors = True

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(find_some)
                    await client.produce("orders", value)
            else:
                await client.produce("orders", value)
        await cluster.wait_converged("orders")
        assert await values_on(cluster, "n1", "orders") == values
        assert not cluster.failures()


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_a_shortage_that_outlasts_all_patience_ends_no_node(who: str) -> None:
    """In the middle of a roll, for a minute. A leader lets another lead; what was acknowledged is there; the node goes on."""
    async with Cluster(3, seed=11, **SMALL_SEGMENTS) as cluster, cluster.client(*cluster.names, settings=QUICK) as client:
        await client.create_topic("orders")
        await client.produce("orders", b"first")
        leader = await cluster.wait_leader("orders")
        short = leader if who == "leader" else next(name for name in cluster.names if name != leader)
        cluster.disk(short).has_descriptors = False
        began_at = trio.current_time()
        values = [b"first"]
        while trio.current_time() - began_at < 60:
            values.append(b"%d" % len(values) + bytes(1500))
            await client.produce("orders", values[-1])
            await trio.sleep(2)
        assert not cluster.failures()
        if who == "leader":
            assert cluster.leader("orders") not in (short, None)
        replica = cluster.replica(short, "orders")
        assert replica is not None
        assert "stores nothing just now" in replica.problem
        cluster.disk(short).has_descriptors = True
        await cluster.wait_converged("orders")
        assert not replica.problem
        assert await values_on(cluster, short, "orders") == values
        assert not cluster.failures()


async def test_a_topic_is_made_when_there_are_descriptors_again() -> None:
    """Opening a replica needs several; the topic waits for them."""
    async with Cluster(1, seed=8) as cluster, cluster.client("n1", settings=QUICK) as client:
        cluster.disk("n1").has_descriptors = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.create_topic, "orders")
            await trio.sleep(2)
            cluster.disk("n1").has_descriptors = True
        await client.produce("orders", b"there")
        assert await values_on(cluster, "n1", "orders") == [b"there"]
        assert not cluster.failures()


async def test_status_shows_the_budgets() -> None:
    """What the node may use, and what it uses."""
    async with Cluster(1, seed=9) as cluster, cluster.client("n1", settings=QUICK) as client:
        await client.create_topic("orders", partitions=3)
        await cluster.wait_topic("orders")
        budgets = {budget.name: budget for budget in (await client.status()).budgets}
        assert budgets["descriptors of partitions"].used == 2 * 4
        assert budgets["descriptors of partitions"].limit == cluster.node("n1").descriptors.partitions
        assert budgets["connections of clients"].used == 1


async def test_all_partitions_share_the_descriptors_of_sealed_segments() -> None:
    """A node that may open few files: readers of many partitions at the same time are all given what they ask for, and no more
    segments are open than the node has set aside for that."""
    cluster = Cluster(1, seed=13, **SMALL_SEGMENTS)
    cluster.descriptors_of["n1"] = 128
    async with cluster, cluster.client(settings=QUICK) as client:
        topics = [f"t{number}" for number in range(5)]
        values = [b"%d" % number + bytes(1500) for number in range(20)]
        for topic in topics:
            await client.create_topic(topic)
            for value in values:
                await client.produce(topic, value)
        sealed = cluster.node("n1").parts.replicas.sealed_segments
        assert sealed.budget_use().limit < len(topics)
        async with trio.open_nursery() as nursery:

            async def read(topic: str) -> None:
                assert await values_on(cluster, "n1", topic) == values
                use = sealed.budget_use()
                assert use.used <= use.limit

            for topic in topics:
                nursery.start_soon(read, topic)
        (shown,) = [use for use in cluster.node("n1").budgets() if use.name == "descriptors of sealed segments"]
        assert shown.used == shown.limit
