"""More producers than a partition remembers: what is repeated is never taken twice, and whoever was idle for long goes on."""

import pytest
import trio

from tests.cluster.helpers import EVENT_LOG, QUICK, batch_request, values_on
from trio_eventlog.errors import DuplicateOutOfWindow, Overloaded
from trio_eventlog.rpc import Channel
from trio_eventlog.testing.cluster import Cluster

KNOWN = 8
IDLE_SECONDS = 10.0


async def send(channel: Channel, producer_id: int, base_sequence: int = 0) -> object:
    value = b"%d/%d" % (producer_id, base_sequence)
    return await channel.unary(
        EVENT_LOG["Produce"], batch_request("orders", [value], producer_id=producer_id, base_sequence=base_sequence)
    )


async def send_in_turn(channel: Channel, producer_ids: range) -> int:
    """Each sends one batch, and then all repeat theirs that have sent it lately. Returns the number of refusals."""
    refused = 0
    sent_at: dict[int, float] = {}
    for producer_id in producer_ids:
        while True:
            try:
                await send(channel, producer_id)
                break
            except Overloaded as error:
                refused += 1
                await trio.sleep(error.retry_after_seconds)
        sent_at[producer_id] = trio.current_time()
        for earlier, at in sent_at.items():
            if trio.current_time() - at < IDLE_SECONDS:
                response = await send(channel, earlier)
                assert response.duplicate, f"{earlier} was taken twice"  # type: ignore[attr-defined]
    return refused


async def test_no_batch_of_many_short_lived_producers_is_taken_twice() -> None:
    """As after lost answers. Those for whom there is no room are told so, and are taken once others were idle for long enough; a
    new leader has not seen when they wrote, and waits for the whole time."""
    async with Cluster(3, seed=81, producers_max=KNOWN, producer_idle_seconds=IDLE_SECONDS) as cluster, cluster.client() as client:
        await client.create_topic("orders")
        async with cluster.channel("n1") as channel:
            refused = await send_in_turn(channel, range(1, 21))
        assert refused > 10
        cluster.crash(await cluster.wait_leader("orders"))
        for name in cluster.names:
            if not cluster.is_running(name):
                await cluster.start(name)
        await cluster.wait_ready()
        async with cluster.channel("n2") as channel:
            assert await send_in_turn(channel, range(21, 31)) > 0
        await cluster.wait_converged("orders")
        assert await values_on(cluster, "n1", "orders") == [b"%d/0" % producer_id for producer_id in range(1, 31)]


async def test_a_forgotten_producer_is_not_taken_for_a_new_one() -> None:
    """Amid its sequence, what it sends may be a repetition. From 0 on it is a new producer."""
    async with Cluster(1, seed=82, producers_max=KNOWN, producer_idle_seconds=5.0) as cluster, cluster.client() as client:
        await client.create_topic("orders")
        async with cluster.channel("n1") as channel:
            await send(channel, 100, 7)
            await send(channel, 100, 8)
            await trio.sleep(30)
            for producer_id in range(1, KNOWN + 1):
                await send(channel, producer_id)
            with pytest.raises(DuplicateOutOfWindow, match="not known"):
                await send(channel, 100, 8)
            with pytest.raises(Overloaded):
                await send(channel, 101)
            await trio.sleep(30)
            await send(channel, 100)
        assert (await values_on(cluster, "n1", "orders")).count(b"100/8") == 1


async def test_a_producer_that_was_idle_for_long_goes_on() -> None:
    """Its client begins a new epoch by itself; so do the records of those that have no producer of their own."""
    async with Cluster(1, seed=83, producers_max=KNOWN, producer_idle_seconds=5.0) as cluster:
        async with cluster.client(settings=QUICK) as client, client.producer("orders", linger=0.0) as producer:
            for round_number in range(3):
                await (await producer.send(b"%d" % round_number)).wait()
                async with cluster.channel("n1") as channel:
                    for producer_id in range(1, KNOWN + 1):
                        await trio.sleep(30)
                        await send(channel, 1000 * (round_number + 1) + producer_id)
        values = await values_on(cluster, "n1", "orders")
        assert [value for value in values if b"/" not in value] == [b"0", b"1", b"2"]
