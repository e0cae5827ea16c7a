"""What happens when a leader goes away: without a word, with one, or in the middle of a batch."""

import trio

from tests.cluster.helpers import QUICK, values_on
from trio_eventlog.client.client import Client
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode


async def produce_many(client: Client, topic: str, count: int, acknowledged: dict[bytes, int]) -> None:
    """`count` batches, four at a time; `acknowledged` is filled with value and offset."""

    async def one_in_four(first: int) -> None:
        for number in range(first, count, 4):
            value = b"value-%d" % number
            result = await client.produce(topic, value, partition=0)
            acknowledged[value] = result.base_offset

    async with trio.open_nursery() as nursery:
        for first in range(4):
            nursery.start_soon(one_in_four, first)


async def check_acknowledged(cluster: Cluster, topic: str, acknowledged: dict[bytes, int]) -> None:
    """On every running node: each acknowledged value once, at its offset."""
    await cluster.wait_converged(topic)
    for name in cluster.running:
        values = await values_on(cluster, name, topic)
        assert len(set(values)) == len(values), f"{name} holds a value twice"
        for value, offset in acknowledged.items():
            assert values[offset] == value, f"{name}: {value!r} is not at {offset}"


async def test_leader_fails_in_mid_batch() -> None:
    """The leader's machine goes down while batches are under way: each is acknowledged in the end, and is there once."""
    acknowledged: dict[bytes, int] = {}
    async with Cluster(3, seed=1) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_many, client, "orders", 200, acknowledged)
            await cluster.wait_until(lambda: len(acknowledged) > 50, "some batches are acknowledged")
            cluster.crash(leader)
        assert len(acknowledged) == 200
        await check_acknowledged(cluster, "orders", acknowledged)
        await cluster.restart(leader)
        await check_acknowledged(cluster, "orders", acknowledged)


async def test_killed_leader_is_replaced_within_a_fraction_of_the_election_timeout() -> None:
    """A reset link says that the leader's process is gone: nobody waits for the election timeout (1 to 2 s)."""
    async with Cluster(3, seed=2) as cluster:
        leader = await cluster.wait_leader()
        await cluster.wait_converged()
        for _ in range(3):
            cluster.crash(leader, CrashMode.KEEP)
            crashed_at = trio.current_time()
            new_leader = await cluster.wait_leader(other_than=leader)
            assert trio.current_time() - crashed_at < 0.15
            await cluster.restart(leader)
            await cluster.wait_converged()
            leader = new_leader


async def test_silently_isolated_leader_is_replaced_after_its_silence_is_long_enough() -> None:
    """No reset, only silence: the first of the others whose timeout passes (1 to 2 s) is elected within 1.5 election timeouts."""
    async with Cluster(3, seed=3) as cluster:
        leader = await cluster.wait_leader()
        await cluster.wait_registered()
        await cluster.wait_converged()
        cluster.isolate(leader)
        isolated_at = trio.current_time()
        new_leader = await cluster.wait_leader(other_than=leader)
        assert trio.current_time() - isolated_at < 1.5 + 0.2
        cluster.heal()
        await cluster.wait_converged()
        assert await cluster.wait_leader() == new_leader, "who comes back follows, and disrupts nobody"
