"""Growing, shrinking, replacing: nodes join, are promoted, drained, removed, while records flow."""

import trio

from tests.cluster.helpers import ADMIN, QUICK, values_on
from trio_eventlog.client.client import Client
from trio_eventlog.ids import format_id
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.v1 import admin_pb2


async def produce_until(client: Client, topic: str, enough: trio.Event, acknowledged: dict[bytes, int]) -> None:
    """One batch after the other; `acknowledged` is filled with value and offset."""
    number = 0
    while not enough.is_set():
        value = b"value-%d" % number
        acknowledged[value] = (await client.produce(topic, value, partition=0)).base_offset
        number += 1
        await trio.sleep(0.05)


async def check_acknowledged(cluster: Cluster, topic: str, acknowledged: dict[bytes, int], *names: str) -> None:
    """On these nodes: each acknowledged value once, at its offset."""
    for name in names:
        replica = cluster.replica(name, topic)
        assert replica is not None
        await replica.wait_linearizable()
        values = await values_on(cluster, name, topic)
        assert len(set(values)) == len(values), f"{name} holds a value twice"
        for value, offset in acknowledged.items():
            assert values[offset] == value, f"{name}: {value!r} is not at {offset}"


async def drain(cluster: Cluster, name: str, *, by: str) -> None:
    async with cluster.channel(by) as channel:
        await channel.unary(ADMIN["DrainNode"], admin_pb2.DrainNodeRequest(id=format_id(cluster.node_id(name))))


async def test_three_nodes_grow_to_five_and_shrink_to_three_under_load() -> None:
    """Two join and vote after the stabilisation time; two old ones, the leader first, are drained, and their disks wiped."""
    acknowledged: dict[bytes, int] = {}
    enough = trio.Event()
    async with Cluster(5, founders=3, seed=21) as cluster, cluster.client("n3", "n4", "n5", settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_leader("orders")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_until, client, "orders", enough, acknowledged)
            began = trio.current_time()
            await cluster.start("n4")
            await cluster.start("n5")
            await cluster.wait_voters(None, *cluster.names)
            assert trio.current_time() - began > 10, "nobody votes before it was healthy for long enough"
            await cluster.wait_voters("orders", *cluster.names)
            first = await cluster.wait_leader()
            second = next(name for name in ("n1", "n2", "n3") if name != first)
            for name in (first, second):
                await drain(cluster, name, by="n5")
                await cluster.wait_over(name)
                cluster.wipe(name)
                await cluster.wait_gone(cluster.node_id(name))
            rest = set(cluster.names) - {first, second}
            await cluster.wait_voters(None, *rest)
            await cluster.wait_voters("orders", *rest)
            enough.set()
        assert len(acknowledged) > 100
        await check_acknowledged(cluster, "orders", acknowledged, *rest)
