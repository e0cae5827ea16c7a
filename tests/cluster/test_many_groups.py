"""Many partitions at once: one election each when they are made and when all nodes start, and silence soon afterwards."""

from collections import Counter
from collections.abc import Sequence

import pytest
import trio

from tests.cluster.helpers import QUICK
from trio_eventlog.ids import GroupId
from trio_eventlog.node.replicas import ReplicasSettings
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.defaults import default

TOPIC = "t"
PARTITIONS = 48
ELECTION_TIMEOUT_SECONDS = 1.0


def elections(cluster: Cluster) -> Counter[int]:
    """By partition, how often one of its replicas was elected since its node started."""
    won = Counter[int]()
    for name in cluster.running:
        for number in range(PARTITIONS):
            replica = cluster.replica(name, TOPIC, number)
            if replica is not None:
                won[number] += replica.driver.statistics().elections_won
    return won


def leaders(cluster: Cluster) -> list[str | None]:
    return [cluster.leader(TOPIC, number) for number in range(PARTITIONS)]


def all_sleep(cluster: Cluster) -> bool:
    found = [cluster.replica(name, TOPIC, number) for name in cluster.running for number in range(PARTITIONS)]
    return all(replica is not None and replica.driver.sleeping.is_asleep for replica in found)


async def test_new_groups_elect_once_and_sleep_at_once() -> None:
    """Nobody has used them: they do not wait for the ticks of the setting (thirty, three seconds)."""
    async with Cluster(3, seed=5, leader_balance_seconds=0) as cluster, cluster.client(settings=QUICK) as client:
        await cluster.wait_ready()
        await client.create_topic(TOPIC, partitions=PARTITIONS, replicas=3)
        await cluster.wait_topic(TOPIC)
        await cluster.wait_until(lambda: all_sleep(cluster), "every group sleeps", ELECTION_TIMEOUT_SECONDS)
        assert elections(cluster) == dict.fromkeys(range(PARTITIONS), 1)
        assert Counter(leaders(cluster)) == dict.fromkeys(cluster.names, PARTITIONS // 3)


async def test_all_groups_elect_their_first_leaders_when_all_nodes_start() -> None:
    """Each once: replicas that stand at random times would meet, and a thousand such elections keep each other from ending."""
    async with Cluster(3, seed=5, leader_balance_seconds=0) as cluster:
        await cluster.wait_ready()
        async with cluster.client(settings=QUICK) as client:
            await client.create_topic(TOPIC, partitions=PARTITIONS, replicas=3)
            await cluster.wait_topic(TOPIC)
            for number in range(0, PARTITIONS, 5):
                await client.produce(TOPIC, b"0", partition=number)
        first = leaders(cluster)
        for name in cluster.names:
            cluster.crash(name)
        async with trio.open_nursery() as nursery:
            for name in cluster.names:
                nursery.start_soon(cluster.start, name)
        await cluster.wait_until(lambda: None not in leaders(cluster), "every partition has a leader")
        await cluster.wait_until(lambda: all_sleep(cluster), "every group sleeps")
        assert leaders(cluster) == first
        assert elections(cluster) == dict.fromkeys(range(PARTITIONS), 1)


async def test_without_the_first_leader_another_one_stands() -> None:
    """Within two and a half election timeouts, and one more round of two where both others stand at the same tick and split the
    votes, as some of so many do."""
    async with Cluster(3, seed=6, leader_balance_seconds=0) as cluster:
        await cluster.wait_ready()
        async with cluster.client(settings=QUICK) as client:
            await client.create_topic(TOPIC, partitions=PARTITIONS, replicas=3)
            await cluster.wait_topic(TOPIC)
        for name in cluster.names:
            cluster.crash(name)
        async with trio.open_nursery() as nursery:
            for name in cluster.names[1:]:
                nursery.start_soon(cluster.start, name)
        await cluster.wait_ready()
        await cluster.wait_until(lambda: None not in leaders(cluster), "every partition has a leader", 5 * ELECTION_TIMEOUT_SECONDS)


async def test_new_groups_are_made_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sixty that are wanted at once: as many in one operation of the disk, and as many operations at a time, as the settings
    say, and no more."""
    under_way = 0
    most_under_way = 0
    most_at_once = 0
    make_groups = DataDirectory.make_groups

    async def counted(self: DataDirectory, group_ids: Sequence[GroupId]) -> frozenset[GroupId]:
        nonlocal under_way, most_under_way, most_at_once
        under_way += 1
        most_under_way = max(most_under_way, under_way)
        most_at_once = max(most_at_once, len(group_ids))
        try:
            await trio.sleep(0.01)
            return await make_groups(self, group_ids)
        finally:
            under_way -= 1

    monkeypatch.setattr(DataDirectory, "make_groups", counted)
    async with Cluster(1, seed=21) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders", partitions=60)
        await cluster.wait_topic("orders")
        limits = default(ReplicasSettings)
        assert (most_under_way, most_at_once) == (limits.making_max, limits.made_at_once_max)
