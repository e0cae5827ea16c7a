"""A batch that is sent again is in the log once."""

import pytest
import trio

from tests.cluster.helpers import EVENT_LOG, QUICK, batch_request, produce, values_on
from trio_eventlog.errors import DuplicateOutOfWindow, OutOfOrderSequence, ProducerFenced
from trio_eventlog.records import Acks
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode


async def test_a_repeated_batch_is_answered_with_its_first_offset_by_any_leader() -> None:
    """Sent again at once, after the next batch, through another node, after the leader changed, after all of them restarted."""
    async with Cluster(3, seed=21) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        first = batch_request("orders", [b"a", b"b"], producer_id=7, base_sequence=0)
        second = batch_request("orders", [b"c"], producer_id=7, base_sequence=2)

        async def send(request: object, name: str) -> tuple[int, bool]:
            async with cluster.channel(name) as channel:
                response = await channel.unary(EVENT_LOG["Produce"], request)
                return response.base_offset, response.duplicate

        assert await send(first, "n1") == (0, False)
        assert await send(first, "n1") == (0, True)
        assert await send(second, "n2") == (2, False)
        assert await send(first, "n3") == (0, True)
        leader = await cluster.wait_leader("orders")
        cluster.crash(leader)
        new_leader = await cluster.wait_leader("orders", other_than=leader)
        assert await send(second, new_leader) == (2, True)
        assert await send(first, new_leader) == (0, True)
        for name in cluster.running:
            cluster.crash(name, CrashMode.LOSE)
        for name in cluster.names:
            await cluster.start(name)
        await cluster.wait_topic("orders")
        assert await send(first, "n1") == (0, True)
        await cluster.wait_converged("orders")
        for name in cluster.names:
            assert await values_on(cluster, name, "orders") == [b"a", b"b", b"c"]


async def test_batches_out_of_order_or_too_old_are_refused() -> None:
    """A gap, a batch beyond the window of five, and a fenced producer each have an error of their own."""
    async with Cluster(3, seed=22) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        async with cluster.channel("n1") as channel:
            for sequence in range(7):
                await channel.unary(
                    EVENT_LOG["Produce"], batch_request("orders", [b"%d" % sequence], producer_id=7, base_sequence=sequence)
                )
            with pytest.raises(OutOfOrderSequence) as caught:
                await channel.unary(EVENT_LOG["Produce"], batch_request("orders", [b"x"], producer_id=7, base_sequence=9))
            assert caught.value.expected_sequence == 7
            with pytest.raises(DuplicateOutOfWindow):
                await channel.unary(EVENT_LOG["Produce"], batch_request("orders", [b"0"], producer_id=7, base_sequence=0))
            await channel.unary(EVENT_LOG["Produce"], batch_request("orders", [b"y"], producer_id=7, base_sequence=0, epoch=1))
            with pytest.raises(ProducerFenced):
                await channel.unary(EVENT_LOG["Produce"], batch_request("orders", [b"z"], producer_id=7, base_sequence=7))


async def test_a_lost_batch_that_only_the_leader_had_is_no_hole_in_front_of_the_next_one() -> None:
    """Plain records have no sequence: the node's own one, in which something is missing now, is not the client's business."""
    async with Cluster(3, seed=29) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        async with cluster.channel(leader) as channel:
            await produce(channel, "orders", b"first")
            cluster.partition([leader], [name for name in cluster.names if name != leader])
            await produce(channel, "orders", b"lost", acks=int(Acks.LEADER))
            await cluster.wait_leader("orders", other_than=leader)
            cluster.heal()
            response = await produce(channel, "orders", b"next")
        assert (response.base_offset, response.duplicate) == (1, False)
        await cluster.wait_converged("orders")
        for name in cluster.names:
            assert await values_on(cluster, name, "orders") == [b"first", b"next"]


async def test_a_call_that_the_node_has_to_repeat_is_in_the_log_once() -> None:
    """Plain records without a producer id: the node that took them repeats them for a leader that crashed, under its own id."""
    async with Cluster(3, seed=23) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        for _ in range(5):
            leader = await cluster.wait_leader("orders")
            taker = next(name for name in cluster.running if name != leader)
            async with cluster.channel(taker) as channel, trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(produce, channel, "orders", b"x")
                # In the middle of them: some are on the leader's disk, some on the way, some answered.
                await trio.sleep(0.0035)
                cluster.crash(leader)
            await cluster.restart(leader)
            await cluster.wait_converged("orders")
        for name in cluster.names:
            assert len(await values_on(cluster, name, "orders")) == 50
