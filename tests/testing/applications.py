"""Small applications, each with a mistake that many have made, and with it mended; and for each the test that finds it.

`mended` chooses. What outlives an application (its database, what it did to the world) is in the objects that its tests make. A
test is what a user would write: at most fifteen lines.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import trio

import trio_eventlog as el
from trio_eventlog.testing import Cluster

ORDERS = [b"order %d" % number for number in range(6)]


@attrs.define
class Store:
    """A database: each assignment is a transaction of its own, each method one transaction."""

    position: int = 0
    positions: dict[int, int] = attrs.field(factory=dict)
    done: list[bytes] = attrs.field(factory=list)
    counts: Counter[bytes] = attrs.field(factory=Counter)
    in_flight_max: int = 0

    def do_and_move(self, work: bytes, position: int) -> None:
        if position > self.position:
            self.done.append(work)
            self.position = position


async def fill(client: el.Client, topic: str = "orders") -> None:
    for order in ORDERS:
        await client.produce(topic, order)


# 1. The position is stored before the work is done.


async def position_first(client: el.Client, store: Store, mended: bool) -> None:
    async with client.consume("orders", start=store.position) as records:
        while store.position < len(ORDERS):
            record = await records.receive()
            if mended:
                await trio.sleep(0.01)
                store.do_and_move(record.value, record.offset + 1)
            else:
                store.position = record.offset + 1
                await trio.sleep(0.01)  # the work takes its time
                store.done.append(record.value)


async def nothing_is_left_out(cluster: Cluster, mended: bool) -> None:
    store = Store()
    async with cluster.client() as client:
        await fill(client)
    await cluster.run_app(position_first, store, mended, step_max=100)
    assert set(store.done) == set(ORDERS)


# 2. The work is done before the position is stored, and doing it twice does harm.


async def work_first(client: el.Client, store: Store, mended: bool) -> None:
    async with client.consume("orders", start=store.position) as records:
        while store.position < len(ORDERS):
            record = await records.receive()
            await trio.sleep(0.01)
            if mended:
                store.do_and_move(record.value, record.offset + 1)
            else:
                store.done.append(record.value)
                await trio.sleep(0.01)  # another database keeps the position
                store.position = record.offset + 1


async def nothing_is_done_twice(cluster: Cluster, mended: bool) -> None:
    store = Store()
    async with cluster.client() as client:
        await fill(client)
    await cluster.run_app(work_first, store, mended, step_max=100)
    assert store.done == ORDERS


# 3. An answer that did not come is taken for "it was not done", and the next attempt is another record.


async def retry(client: el.Client, store: Store, mended: bool) -> None:
    for order in ORDERS:
        while True:
            with trio.move_on_after(30 if mended else 0.5):
                await client.produce("orders", order)
                break


async def each_order_is_there_once(cluster: Cluster, mended: bool) -> None:
    async with cluster.client() as client, trio.open_nursery() as nursery:
        await client.produce("orders", b"first")
        nursery.start_soon(retry, client, Store(), mended)
        await cluster.advance(cluster.random("when").random() * 0.1)
        cluster.isolate(await cluster.wait_leader("orders"))
    cluster.heal()
    await cluster.wait_converged("orders")
    values = [record.value for record in await cluster.read(cluster.running[0], "orders")]
    assert values == [b"first", *ORDERS]


# 4. A projection is kept, and built again from the beginning on top of itself.


async def project(client: el.Client, store: Store, mended: bool) -> None:
    if mended:
        store.counts.clear()
    async with client.consume("orders") as records:
        for _ in ORDERS:
            store.counts[(await records.receive()).value] += 1


async def the_projection_counts_once(cluster: Cluster, mended: bool) -> None:
    store = Store()
    async with cluster.client() as client:
        await fill(client)
    await cluster.run_app(project, store, mended)
    assert set(store.counts.values()) == {1}


# 5. What was read is trusted to be the present, and acted upon.


async def withdraw(client: el.Client, name: bytes, mended: bool) -> None:
    _, end = await client.offsets("account")
    taken = 0
    async with client.consume("account") as records:
        while taken < end:
            await records.receive()
            taken += 1
    if not mended and taken == 0:
        await client.produce("account", name)
    if mended:
        # The first one in the log has the money: the log decides, and readers skip the others.
        await client.produce("account", name)


async def money_is_spent_once(cluster: Cluster, mended: bool) -> None:
    async with cluster.client() as client:
        await client.create_topic("account")
    async with cluster.client() as one, cluster.client() as two, trio.open_nursery() as nursery:
        for client, name in ((one, b"ann"), (two, b"bob")):
            nursery.start_soon(withdraw, client, name, mended)
    await cluster.wait_converged("account")
    spent = [record.value for record in await cluster.read("n1", "account")]
    assert len(spent[:1] if mended else spent) == 1


# 6. One position for all partitions.


async def one_position(client: el.Client, store: Store, mended: bool) -> None:
    starts = store.positions if mended else dict.fromkeys(range(2), store.position)

    async def follow(partition: int) -> None:
        async with client.consume("orders", partition=partition, start=starts.get(partition, 0)) as records:
            while len(set(store.done)) < len(ORDERS):
                record = await records.receive()
                store.done.append(record.value)
                store.position = store.positions[partition] = record.offset + 1
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()

    with trio.move_on_after(20):
        async with trio.open_nursery() as nursery:
            for partition in range(2):
                nursery.start_soon(follow, partition)


async def all_partitions_are_read(cluster: Cluster, mended: bool) -> None:
    store = Store()
    async with cluster.client() as client:
        await client.create_topic("orders", partitions=2)
        for number, order in enumerate(ORDERS):
            await client.produce("orders", order, partition=min(number, 1))
    await cluster.run_app(one_position, store, mended, step_max=120)
    assert sorted(set(store.done)) == ORDERS


# 7. A call that was given up is taken for one that is done.


async def give_up(client: el.Client, store: Store, mended: bool) -> None:
    for order in ORDERS[len(store.done) :]:
        with trio.move_on_after(100 if mended else 0.2):
            await client.produce("orders", order)
        store.done.append(order)


async def what_is_done_is_there(cluster: Cluster, mended: bool) -> None:
    store = Store()
    async with cluster.client() as client, trio.open_nursery() as nursery:
        await client.produce("orders", b"first")
        cluster.isolate(await cluster.wait_leader("orders"))
        nursery.start_soon(cluster.run_app, give_up, store, mended)
    cluster.heal()
    await cluster.wait_converged("orders")
    assert {record.value for record in await cluster.read("n1", "orders")} >= set(store.done)


# 8. Each thing that comes in starts a task that tries for ever.


async def try_for_ever(client: el.Client, store: Store, mended: bool) -> None:
    limit = trio.CapacityLimiter(4 if mended else 1000)

    async def send(value: bytes) -> None:
        async with limit:
            store.in_flight_max = max(store.in_flight_max, limit.borrowed_tokens)
            await client.produce("orders", value)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(send, b"%d" % number)
            await trio.sleep(0.05)


async def memory_is_bounded(cluster: Cluster, mended: bool) -> None:
    store = Store()
    async with cluster.client() as client, trio.open_nursery() as nursery:
        await client.produce("orders", b"first")
        nursery.start_soon(try_for_ever, client, store, mended)
        for name in cluster.names[:2]:
            cluster.pause(name)
        await cluster.advance(4)
        for name in cluster.names[:2]:
            cluster.resume(name)
    assert store.in_flight_max <= 10


# 9. What belongs together is produced under different keys.


async def wrong_key(client: el.Client, store: Store, mended: bool) -> None:
    for order in ORDERS:
        for state in (b"paid", b"sent"):
            key = order if mended else order + state
            await client.produce("orders", el.Record(key=key, value=order + b": " + state))


async def an_order_is_paid_before_it_is_sent(cluster: Cluster, mended: bool) -> None:
    async with cluster.client() as client:
        await client.create_topic("orders", partitions=3)
        await wrong_key(client, Store(), mended)
        state: dict[bytes, bytes] = {}
        async with client.consume("orders") as records:
            for _ in range(2 * len(ORDERS)):
                order, _, new = (await records.receive()).value.partition(b": ")
                assert (state.get(order), new) in {(None, b"paid"), (b"paid", b"sent")}
                state[order] = new


# 10. The order of what was produced is assumed among partitions.


async def spread(client: el.Client, store: Store, mended: bool) -> None:
    for number in range(20):
        await client.produce("orders", b"%d" % number, partition=0 if mended else number % 3)


async def the_last_is_the_newest(cluster: Cluster, mended: bool) -> None:
    async with cluster.client() as client:
        await client.create_topic("orders", partitions=3)
        await spread(client, Store(), mended)
        async with client.consume("orders") as records:
            seen = [int((await records.receive()).value) for _ in range(20)]
    assert seen == sorted(seen)


# 11. The latest is found by its timestamp.


async def by_time(client: el.Client, store: Store, mended: bool) -> bytes:
    async with client.consume("prices") as records:
        seen = [await records.receive() for _ in range(2)]
    return max(seen, key=lambda record: record.offset if mended else record.timestamp_ns).value


async def the_latest_price_counts(cluster: Cluster, mended: bool) -> None:
    async with cluster.client(name="one") as one, cluster.client(name="two") as two:
        for name in ("one", "two"):
            cluster.shift_wall_clock(name, cluster.random(name).uniform(-5, 5))
        await one.produce("prices", b"old")
        await two.produce("prices", b"new")
        assert await by_time(one, Store(), mended) == b"new"


# 12. A position outlives the topic that it is one of.


async def go_on(client: el.Client, store: Store, mended: bool) -> None:
    if mended:
        _, end = await client.offsets("orders")
        if store.position > end:
            store.position = 0
    with trio.move_on_after(10):
        async with client.consume("orders", start=store.position) as records:
            while True:
                record = await records.receive()
                store.done.append(record.value)
                store.position = record.offset + 1


async def a_new_topic_is_read_from_its_beginning(cluster: Cluster, mended: bool) -> None:
    store = Store()
    async with cluster.client() as client:
        await fill(client)
        await go_on(client, store, mended)
        await client.delete_topic("orders")
        await client.create_topic("orders")
        await client.produce("orders", b"new")
        await go_on(client, store, mended)
    assert store.done[-1] == b"new"


BUGS: dict[str, Callable[[Cluster, bool], Any]] = {
    "the position before the work": nothing_is_left_out,
    "the work before the position, without idempotence": nothing_is_done_twice,
    "a repetition without a sequence": each_order_is_there_once,
    "a projection that counts twice": the_projection_counts_once,
    "a stale read that is trusted": money_is_spent_once,
    "one position for all partitions": all_partitions_are_read,
    "a call that was given up and counts as done": what_is_done_is_there,
    "attempts without a bound": memory_is_bounded,
    "the wrong key": an_order_is_paid_before_it_is_sent,
    "an order among partitions": the_last_is_the_newest,
    "a timestamp that is trusted": the_latest_price_counts,
    "a position in a topic that was deleted": a_new_topic_is_read_from_its_beginning,
}
