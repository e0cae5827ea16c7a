"""A produce stream keeps its order, whoever leads meanwhile."""

import pytest
import trio

from tests.cluster.helpers import EVENT_LOG, produce_request, values_on
from trio_eventlog.testing.cluster import Cluster

REQUESTS = 60


async def produce_in_order(cluster: Cluster, topic: str, name: str, offsets: list[int]) -> None:
    """`REQUESTS` requests to one node, several under way; `offsets` gets each answer's."""
    async with (
        cluster.channel(name) as channel,
        channel.stream(EVENT_LOG["ProduceStream"]) as call,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def send() -> None:
            for number in range(REQUESTS):
                await call.send(produce_request(topic, [b"%s-%d" % (name.encode(), number)]))
                await trio.sleep(0.001)
            await call.done_sending()

        for _ in range(REQUESTS):
            answer = await call.receive()
            assert not answer.error.code, answer.error
            offsets.append(answer.base_offset)


@pytest.mark.parametrize("seed", range(8))
async def test_batches_of_a_stream_do_not_overtake_each_other_when_its_node_becomes_the_leader(seed: int) -> None:
    """The leader dies while streams are open at both followers: one of these leads from then on, with batches still on their
    way elsewhere. Later batches of that stream must wait for them."""
    async with Cluster(3, seed=seed) as cluster:
        async with cluster.client() as client:
            await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        offsets: dict[str, list[int]] = {name: [] for name in cluster.names if name != leader}
        async with trio.open_nursery() as producers:
            for name, seen in offsets.items():
                producers.start_soon(produce_in_order, cluster, "orders", name, seen)
            await cluster.wait_until(lambda: all(len(seen) >= 10 for seen in offsets.values()), "answers from both")
            cluster.crash(leader)
        for name, seen in offsets.items():
            assert seen == sorted(seen), f"the stream at {name} was not kept in order"
        await cluster.wait_converged("orders")
        survivor = next(iter(offsets))
        values = await values_on(cluster, survivor, "orders")
        for name in offsets:
            own = [value for value in values if value.startswith(name.encode() + b"-")]
            assert own == [b"%s-%d" % (name.encode(), number) for number in range(REQUESTS)]
