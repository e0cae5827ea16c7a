"""More streams than a node allows on one connection: further connections, up to a limit, and words beyond it."""

import pytest
import trio
import trio.testing

from tests.client.fake_cluster import FakeCluster, open_fake
from trio_eventlog.client import Caller, ClientSettings
from trio_eventlog.errors import Overloaded, Unavailable
from trio_eventlog.grpc.methods import PRODUCE_STREAM
from trio_eventlog.rpc import RpcSettings
from trio_eventlog.testing.defaults import default

VIRTUAL_TIME = True
PARTITIONS = 12


def one_node(calls_max: int) -> FakeCluster:
    """A node that allows so many calls at once on a connection, with twelve partitions."""
    cluster = FakeCluster(("n1",))
    cluster.rpc = default(RpcSettings, streams_per_connection_max=calls_max)
    cluster.add_topic("t", PARTITIONS)
    return cluster


@pytest.mark.parametrize("calls_max", [2, 3, 8, 100])
async def test_more_partitions_than_calls(calls_max: int) -> None:
    """Twelve partitions are produced to, then consumed, and calls that end have their place all the while."""
    settings = ClientSettings(connections_per_node_max=30)
    async with open_fake(one_node(calls_max), settings, "n1:8400") as (_, client):
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            for partition in range(PARTITIONS):
                nursery.start_soon(lambda partition: client.produce("t", b"%d" % partition, partition=partition), partition)
        async with client.consume("t") as records:
            values = {(await records.receive()).value for _ in range(PARTITIONS)}
            await client.list_topics()
            await client.produce("t", b"x", partition=11)
        assert values == {b"%d" % partition for partition in range(PARTITIONS)}
        assert trio.current_time() - before < 1.0, "nobody waited for a stream to be given up"


async def test_no_more_connections_than_are_needed_and_allowed() -> None:
    """A quarter of the calls of each connection is left to calls that end: with 8, a connection has 6 streams."""
    async with open_fake(one_node(8), ClientSettings(connections_per_node_max=3), "n1:8400") as (_, client):
        pool = client._calls.pool
        for partition in range(PARTITIONS):
            await client.produce("t", b"x", partition=partition)
        assert [one.streams for one in pool._entries["n1:8400"].connections] == [6, 6]
        async with client.consume("t", partition=0) as records:
            await records.receive()
            assert [one.streams for one in pool._entries["n1:8400"].connections] == [6, 6, 1]
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(client.settings.produce_stream_idle_seconds + 1.0)
        assert sum(one.streams for one in pool._entries["n1:8400"].connections) == 0


async def test_beyond_the_limit_a_produce_call_says_so_and_not_that_its_outcome_is_unknown() -> None:
    """Its records were never sent. The other partitions, and calls that end, are served."""
    settings = ClientSettings(connections_per_node_max=1, request_timeout_seconds=5.0)
    async with open_fake(one_node(8), settings, "n1:8400") as (cluster, client):
        for partition in range(6):
            await client.produce("t", b"x", partition=partition)
        with pytest.raises(Overloaded, match="connections_per_node_max"):
            await client.produce("t", b"y", partition=6)
        assert cluster.topics["t"][6].values() == []
        await client.list_topics()
        await client.produce("t", b"x", partition=0)


async def test_a_call_that_finds_no_slot_in_time_was_not_sent() -> None:
    """Where a node allows one call at once, and that one hangs."""
    settings = ClientSettings(attempt_timeout_seconds=1.0, request_timeout_seconds=3.0, connections_per_node_max=1)
    async with open_fake(one_node(1), settings, "n1:8400") as (cluster, client):
        hang = trio.Event()
        cluster.nodes["n1"].before_append = lambda batch: hang.wait()
        async with trio.open_nursery() as nursery:
            async with client._calls.pool.use("n1:8400") as channel:
                async with channel.stream(PRODUCE_STREAM):
                    with pytest.raises(Overloaded, match="was not sent"):
                        await client.create_topic("u")
            nursery.cancel_scope.cancel()
        assert "u" not in cluster.topics


async def test_senders_without_work_have_no_task_and_those_of_lost_topics_are_forgotten() -> None:
    """A partition that is produced to again goes on in its sequence."""
    settings = ClientSettings(sender_idle_seconds=60.0, produce_stream_idle_seconds=10.0)
    async with open_fake(settings=settings) as (cluster, client):
        names = [f"t{number}" for number in range(100)]
        for name in names:
            cluster.add_topic(name)
            await client.produce(name, b"first")
        busy = len(client._senders._nursery.child_tasks)
        await trio.sleep(120.0)
        assert len(client._senders._nursery.child_tasks) <= busy - len(names)
        for name in names[:10]:
            assert not (await client.produce(name, b"second")).duplicate
            assert cluster.topics[name][0].values() == [b"first", b"second"]
        for name in names:
            await client.delete_topic(name)
        await trio.sleep(120.0)
        for number in range(100, 200):
            cluster.add_topic(f"t{number}")
            await client.produce(f"t{number}", b"first")
        assert not set(client._senders._by_partition) & {(name, 0, Caller().identity) for name in names}


async def test_a_client_that_is_closed_says_so() -> None:
    """And does not start tasks in a nursery that is no more."""
    async with open_fake() as (_, client):
        await client.produce("t", b"x")
        pool = client._calls.pool
        pool.close()
        for call in (lambda: client.list_topics(), lambda: client.produce("u", b"x")):
            with pytest.raises(Unavailable, match="closed"), trio.fail_after(client.settings.request_timeout_seconds + 1):
                await call()
