"""A node that cannot open a partition for now: the group goes on without it, calls reach it elsewhere, and `status` says why."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from tests.cluster.helpers import ADMIN, QUICK, consume, produce, values_on
from trio_eventlog.errors import ResourceShortage, TooManyPartitions
from trio_eventlog.ids import format_id
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import SimDisk, SimFile
from trio_eventlog.v1 import admin_pb2


@contextmanager
def no_descriptors_for(monkeypatch: pytest.MonkeyPatch, disk: SimDisk, group_id: int) -> Iterator[None]:
    """Within the block, files of the group cannot be opened on the disk."""
    open_file = SimDisk.open

    async def refuse(self: SimDisk, path: str, **how: object) -> SimFile:
        if self is disk and f"/{format_id(group_id)}/" in path:
            await trio.lowlevel.checkpoint()
            raise ResourceShortage(f"{path}: too many open files (simulated)")
        return await open_file(self, path, **how)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(SimDisk, "open", refuse)
        yield


async def test_a_group_goes_on_without_the_node_that_cannot_open_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Produce and consume at that node are carried to the others; it opens its replica as soon as it can, and catches up."""
    async with Cluster(3, seed=3) as cluster, cluster.client("n2", settings=QUICK) as client:
        await cluster.wait_ready()
        with no_descriptors_for(monkeypatch, cluster.disk("n1"), 1):
            await client.create_topic("orders")
            await cluster.wait_leader("orders")
            replicas = cluster.node("n1").parts.replicas
            await cluster.wait_until(lambda: any(item.trouble for item in replicas.unopened()), "n1 has given up for now")
            async with cluster.channel("n1") as channel:
                await produce(channel, "orders", b"one")
                response = await consume(channel, "orders")
                assert [record.value for record in response.records] == [b"one"]
                status = await channel.unary(ADMIN["GetStatus"], admin_pb2.GetStatusRequest())
                (group,) = [group for group in status.groups if group.topic == "orders"]
                assert group.role == "degraded"
                assert "too many open files" in group.problem
                assert any("orders/0" in warning for warning in status.warnings)
            assert not cluster.failures()
        await cluster.wait_topic("orders")
        await cluster.wait_converged("orders")
        assert await values_on(cluster, "n1", "orders") == [b"one"]


async def test_a_topic_for_which_any_node_has_no_room_is_refused() -> None:
    """In words, before anything is proposed; what fits is made. The leader knows the room of the others from what they say."""
    async with Cluster(3, seed=4) as cluster:
        await cluster.wait_ready()
        leader = await cluster.wait_leader()
        (small, _) = [name for name in cluster.names if name != leader]
        await cluster.stop(small)
        cluster.descriptors_of[small] = 256
        await cluster.start(small)
        await cluster.wait_ready()
        await trio.sleep(5)
        room = cluster.node(small).parts.replicas.partitions_max
        assert room < 100
        async with cluster.client(*cluster.names, settings=QUICK) as client:
            with pytest.raises(TooManyPartitions, match=f"has room for {room}"):
                await client.create_topic("big", partitions=room + 1, replicas=3)
            assert await client.list_topics() == []
            await client.create_topic("fits", partitions=3, replicas=3)
        assert not cluster.failures()
