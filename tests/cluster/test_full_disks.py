"""Disks that fill up: no node ends, what can go on goes on, and all of it does when there is room again."""

import pytest
import trio

from tests.cluster.helpers import QUICK, values_on
from trio_eventlog.errors import DiskFull
from trio_eventlog.testing.cluster import Cluster

SMALL_SEGMENTS = {"segment_bytes": 4096, "preallocate_bytes": 4096, "tail_cache_bytes": 0, "disk_check_seconds": 0.1}
VALUES = [b"%d" % number + bytes(500) for number in range(40)]


async def test_a_leader_without_room_hands_over_and_is_not_handed_back_to() -> None:
    """No call fails. Its replica is brought up to date when there is room, and the group returns to it."""
    async with (
        Cluster(3, seed=7, leader_balance_seconds=0.1, stabilisation_seconds=0.1, **SMALL_SEGMENTS) as cluster,
        cluster.client(settings=QUICK) as client,
    ):
        await client.create_topic("orders")
        leader = await cluster.wait_leader("orders")
        await client.produce("orders", VALUES[0])
        cluster.disk(leader).fill(free_bytes=2000)
        await trio.sleep(0.5)
        for value in VALUES[1:]:
            await client.produce("orders", value)
            await trio.sleep(0.1)
            replica = cluster.replica(leader, "orders")
            assert replica is not None
            assert not replica.is_leader
        (warning, *_) = [text for text in cluster.node(leader).status().warnings if "nearly full" in text]
        assert "free some room" in warning
        cluster.disk(leader).make_room()
        await cluster.wait_converged("orders")
        assert await values_on(cluster, leader, "orders") == VALUES
        await cluster.wait_until(lambda: cluster.leader("orders") == leader, "its former leader")
        assert not cluster.failures()


async def test_with_all_disks_full_records_are_refused_and_the_rest_works() -> None:
    """Reading, deleting a topic, stopping and starting need no room of their own; producing works again without a restart."""
    async with Cluster(3, seed=8, **SMALL_SEGMENTS) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await client.create_topic("others")
        for value in VALUES:
            await client.produce("orders", value)
        await cluster.wait_converged("orders")
        for name in cluster.names:
            cluster.disk(name).fill(free_bytes=0)
        await trio.sleep(1)
        with pytest.raises(DiskFull, match="nearly full"):
            await client.produce("orders", b"one more")
        for name in cluster.names:
            assert await values_on(cluster, name, "orders") == VALUES
        await client.delete_topic("others")
        await cluster.stop("n1")
        await cluster.start("n1")
        await cluster.wait_converged("orders")
        assert await values_on(cluster, "n1", "orders") == VALUES
        for name in cluster.names:
            cluster.disk(name).make_room()
        await trio.sleep(1)
        await client.produce("orders", b"one more")
        await cluster.wait_converged("orders")
        assert await values_on(cluster, "n1", "orders") == [*VALUES, b"one more"]
        assert not cluster.failures()


async def test_a_full_follower_is_behind_votes_and_catches_up() -> None:
    """It elects a leader all the same: term and vote need no room."""
    async with Cluster(3, seed=9, **SMALL_SEGMENTS) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        leader = await cluster.wait_leader("orders")
        full, other = [name for name in cluster.names if name != leader]
        cluster.disk(full).fill(free_bytes=0)
        for value in VALUES:
            await client.produce("orders", value)
        assert len(await values_on(cluster, full, "orders")) < len(VALUES)
        cluster.disk(full).make_room()
        await cluster.wait_converged("orders")
        cluster.disk(full).fill(free_bytes=0)
        await trio.sleep(1)
        cluster.crash(leader)
        assert await cluster.wait_leader("orders", other_than=leader) in (full, other)
        cluster.disk(full).make_room()
        await client.produce("orders", b"last")
        await cluster.start(leader)
        await cluster.wait_converged("orders")
        assert await values_on(cluster, full, "orders") == [*VALUES, b"last"]
