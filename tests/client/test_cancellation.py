"""Every outward method of the client, cancelled at each of its checkpoints: nothing is lost, doubled or left hanging by that."""

import datetime
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.client.cancelling import at_every_checkpoint, cancelled_at
from tests.client.fake_cluster import FakeCluster, open_fake
from trio_eventlog.client import BEGINNING, END, Client, ClientSettings
from trio_eventlog.codec.batch import encode_records
from trio_eventlog.records import Record
from trio_eventlog.service.producer import Delivery, Producer
from trio_eventlog.service.receivers import RecordReceiver
from trio_eventlog.testing import determinism

LONG_SECONDS = 300.0
SMALL = ClientSettings(producer_buffer_bytes=1024, batch_bytes_max=1024, producer_batch_bytes=1024, consumer_buffer_batches=1)


def encoded(value: bytes) -> Any:
    return encode_records([Record(value=value)], now_ns=1)


async def check_works(cluster: FakeCluster, client: Client) -> None:
    """The client serves the next caller as if nothing had been: nothing hangs, and nothing is held that nobody gives back."""
    with trio.fail_after(LONG_SECONDS):
        result = await client.produce("t", b"last")
        assert cluster.topics["t"][0].values()[result.base_offset] == b"last"
        await client.list_topics()
        async with client.producer("t") as producer:
            await producer.send(b"last of all")
        async with client.consume("t") as records:
            await records.receive()


CALLS: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "produce": lambda client: client.produce("t", b"x"),
    "produce_batch": lambda client: client.produce_batch("t", 0, encoded(b"x")),
    "submit_batch": lambda client: client.submit_batch("t", 0, encoded(b"x")),
    "offsets": lambda client: client.offsets("t"),
    "offset_at": lambda client: client.offset_at("t", datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)),
    "partitions": lambda client: client.partitions("t"),
    "create_topic": lambda client: client.create_topic("u"),
    "alter_topic": lambda client: client.alter_topic("t", retention_bytes=1),
    "delete_topic": lambda client: client.delete_topic("v"),
    "list_topics": lambda client: client.list_topics(),
    "describe_topic": lambda client: client.describe_topic("t"),
    "status": lambda client: client.status(),
    "servers": lambda client: client.servers(),
    "placements": lambda client: client.placements(),
    "transfer_leadership": lambda client: client.transfer_leadership("t", 0),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call(name: str) -> None:
    """On a client that has just been opened, so that connecting and asking for leaders are parts of it."""

    async def scenario(step: int) -> bool:
        cluster = FakeCluster()
        cluster.add_topic("t")
        cluster.add_topic("v")
        async with open_fake(cluster) as (_, client):
            has_returned, _ = await cancelled_at(step, lambda: CALLS[name](client))
            await check_works(cluster, client)
            assert cluster.topics["t"][0].values().count(b"x") <= 1
            return has_returned

    assert at_every_checkpoint(scenario) > 1


def test_methods_are_all_here() -> None:
    """A new method of the client joins the table, or is named here with the test that it has."""
    elsewhere = {"producer", "consume", "consume_batches"} | {"drain_node", "remove_node", "members"}
    elsewhere |= {"append", "read_aggregate", "read_events", "tail_events"}  # tests/cluster/test_event_store.py
    elsewhere |= {"disk_use", "trim_topic"}  # each asks one node or each, and changes nothing here
    public = {name for name in vars(Client) if not name.startswith("_") and callable(getattr(Client, name))}
    assert public <= set(CALLS) | elsewhere


async def check_deliveries(cluster: FakeCluster, sent: dict[bytes, Delivery], maybe: bytes) -> None:
    """Every record that was handed in is in the log, in order and once; the one of the cancelled call may be, where it belongs."""
    for delivery in sent.values():
        with trio.fail_after(LONG_SECONDS):
            await delivery.wait()
    values = [value for value in cluster.topics["t"][0].values() if value in sent or value == maybe]
    assert [value for value in values if value != maybe] == list(sent)
    assert values.count(maybe) <= 1


@pytest.mark.parametrize("how", ["send", "send_many", "flush"])
def test_a_producer(how: str) -> None:
    """With a buffer that is full: the call that is cancelled has sealed two batches, and records of others are in the first one."""

    async def scenario(step: int) -> bool:
        async with open_fake(settings=SMALL) as (cluster, client):
            gate = trio.Event()
            cluster.nodes["n1"].before_append = lambda batch: gate.wait()
            has_returned = False
            sent: dict[bytes, Delivery] = {}

            async def send(producer: Producer, value: bytes) -> None:
                sent[value] = await producer.send(value)

            async with client.producer("t", linger=3600.0) as producer, trio.open_nursery() as nursery:
                await send(producer, b"a" * 900)
                await send(producer, b"b" * 300)  # seals the first batch, which fills the lane
                await send(producer, b"c" * 10)
                nursery.start_soon(open_soon, gate)
                big = b"d" * 990
                if how == "flush":
                    has_returned, _ = await cancelled_at(step, producer.flush)
                elif how == "send":
                    has_returned, delivery = await cancelled_at(step, lambda: producer.send(big))
                else:
                    has_returned, delivery = await cancelled_at(step, lambda: producer.send_many([big]))
                    delivery = delivery[0] if has_returned else None
                if how != "flush" and has_returned:
                    sent[big] = delivery
                await send(producer, b"e" * 10)
                with trio.fail_after(LONG_SECONDS):
                    await producer.flush()
                await check_deliveries(cluster, sent, b"" if how == "flush" or has_returned else big)
            await check_works(cluster, client)
            return has_returned

    assert at_every_checkpoint(scenario) > 1


async def open_soon(gate: trio.Event) -> None:
    await trio.sleep(1.0)
    gate.set()


def test_what_a_cancelled_send_has_sealed_is_sent_although_nobody_sends_any_more() -> None:
    """The task that lingers goes on with it."""

    async def story() -> None:
        async with open_fake(settings=SMALL) as (cluster, client):
            gate = trio.Event()
            cluster.nodes["n1"].before_append = lambda batch: gate.wait()
            async with client.producer("t", linger=0.01) as producer:
                first = await producer.send(b"a" * 900)
                second = await producer.send(b"b" * 300)
                with trio.move_on_after(1.0) as scope:
                    await producer.send(b"c" * 990)
                assert scope.cancelled_caught
                gate.set()
                with trio.fail_after(10.0):
                    await first.wait()
                    await second.wait()
                    while cluster.topics["t"][0].end < 3:
                        await cluster.topics["t"][0].grown.wait()
            assert cluster.topics["t"][0].values() == [b"a" * 900, b"b" * 300, b"c" * 990]

    determinism.run(story)


@pytest.mark.parametrize("how", ["receive", "receive_batch"])
def test_a_consumer(how: str) -> None:
    """A receive that is cancelled takes nothing: the next one gives the record that it would have given."""

    async def call(records: RecordReceiver) -> list[bytes]:
        if how == "receive":
            return [(await records.receive()).value]
        return [record.value for record in await records.receive_batch()]

    async def scenario(step: int) -> bool:
        async with open_fake(settings=ClientSettings(consumer_buffer_batches=1)) as (_, client):
            wanted = [b"%d" % number for number in range(300)]
            for first in range(0, 300, 150):
                await client.produce("t", *wanted[first : first + 150])
            received: list[bytes] = []
            has_returned = True
            async with client.consume("t") as records:
                # At a record amid a batch, before one that lets others run, and before the first of a batch.
                for begin in (0, 3, 127, 150, 299):
                    while len(received) < begin:
                        received.append((await records.receive()).value)
                    if len(received) == len(wanted):
                        break
                    has_this_returned, values = await cancelled_at(step, lambda: call(records))
                    has_returned &= has_this_returned
                    received += values or []
                while len(received) < len(wanted):
                    with trio.fail_after(LONG_SECONDS):
                        received += await call(records)
            assert received == wanted
            return has_returned

    assert at_every_checkpoint(scenario) > 1


@pytest.mark.parametrize("start", [BEGINNING, END])
def test_entering_a_block(start: Any) -> None:
    """A consumer or a producer that never came to be leaves nothing behind."""

    async def scenario(step: int) -> bool:
        async with open_fake() as (cluster, client):

            async def enter() -> None:
                async with client.consume("t", start=start), client.producer("t"):
                    pass

            has_returned, _ = await cancelled_at(step, enter)
            await check_works(cluster, client)
            return has_returned

    assert at_every_checkpoint(scenario) > 1
