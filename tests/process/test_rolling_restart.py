"""Daemons restarted one after the other, under clients that have been told of one of them.

`--rolls 100` restarts more of them: some ten minutes.
"""

from collections.abc import Callable

import pytest
import trio
from daemons import DaemonCluster

from trio_eventlog.client import Client, ClientSettings, open_client
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.records import Record

pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]

PARTITIONS = 12
SETTINGS = ClientSettings(attempt_timeout_seconds=2.0, request_timeout_seconds=60.0)
SEEN_SECONDS_MAX = 60.0


async def test_keys_find_their_partitions_and_consumers_see_all(make_cluster: Callable[..., DaemonCluster], rolls: int) -> None:
    """Most daemons are stopped in order, some killed. While each starts, a client begins that knows only this one. No record is in
    a partition that is not its key's, and consumers of all partitions, those from before and those that begin now, miss none."""
    cluster = await trio.to_thread.run_sync(make_cluster().start)
    sent: set[bytes] = set()
    misplaced: set[bytes] = set()
    seen: list[set[bytes]] = []
    is_over = False
    grown = trio.Event()

    def check(key: bytes, partition: int) -> None:
        if partition != partition_of(key, PARTITIONS):
            misplaced.add(key)

    async def produce(client: Client, name: str, count: int) -> None:
        async with client.producer("orders") as producer:
            for number in range(count):
                key = b"%s %d" % (name.encode(), number)
                result = await (await producer.send(key, key=key)).wait()
                check(key, result.partition)
                sent.add(key)
                await trio.sleep(0.02)

    async def produce_on(client: Client) -> None:
        number = 0
        while not is_over:
            await produce(client, f"block {number}", 25)
            key = b"call %d" % number
            check(key, (await client.produce("orders", Record(key=key, value=b""))).partition)
            sent.add(key)
            number += 1

    async def consume(client: Client) -> None:
        keys: set[bytes] = set()
        seen.append(keys)
        async with client.consume("orders") as records:
            async for record in records:
                check(record.key, records.partition)
                assert record.key not in keys, "once"
                keys.add(record.key)
                grown.set()

    async def begin(number: int, *, task_status: trio.TaskStatus[None]) -> None:
        async with open_client(f"eventlog://{cluster.addresses[number % 3]}", settings=SETTINGS) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(produce, client, f"roll {number}", 10)
                if number % 25 < 2:
                    nursery.start_soon(consume, client)
                task_status.started()

    async with open_client(f"eventlog://{cluster.addresses[0]}", settings=SETTINGS) as client, trio.open_nursery() as background:
        await client.create_topic("orders", partitions=PARTITIONS)
        background.start_soon(consume, client)
        async with trio.open_nursery() as producing:
            producing.start_soon(produce_on, client)
            for number in range(rolls):
                node = cluster.nodes[number % 3]
                await trio.to_thread.run_sync(node.kill if number % 5 == 4 else node.stop)
                node.launch()
                await background.start(begin, number)
                await trio.to_thread.run_sync(node.wait_listening)
                await trio.sleep(0.5)
            is_over = True
        with trio.fail_after(SEEN_SECONDS_MAX):
            while not all(keys >= sent for keys in seen):
                grown = trio.Event()
                await grown.wait()
        background.cancel_scope.cancel()
    assert misplaced == set()
    print(f"{rolls} restarts, {len(sent)} records, {len(seen)} consumers: none misplaced, none missed")
