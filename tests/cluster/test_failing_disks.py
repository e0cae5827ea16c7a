"""Disks that fail, lie or are lost: the node concerned stops and says why, the others go on, and nothing wrong is told."""

import pytest
import trio

from tests.cluster.helpers import QUICK, values_on
from trio_eventlog.client.client import Client
from trio_eventlog.errors import DamagedData, StorageFailed
from trio_eventlog.ids import format_id
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import Fault, Operation

SMALL_SEGMENTS = {"segment_bytes": 4096, "preallocate_bytes": 4096, "tail_cache_bytes": 0}
VALUES = [b"%d" % number + bytes(500) for number in range(40)]


def is_of_the_disk(name: str, error: BaseException) -> bool:
    return name == "n1" and isinstance(error, StorageFailed | DamagedData)


async def fill_topic(client: Client) -> None:
    await client.create_topic("orders")
    for value in VALUES:
        await client.produce("orders", value)


@pytest.mark.parametrize("operation", [Operation.WRITE, Operation.SYNC])
@pytest.mark.parametrize("file", ["hard_state", ".log"])
async def test_a_node_whose_disk_fails_stops_and_says_so(operation: Operation, file: str) -> None:
    """Never retried: what a failed fsync has left nobody knows. The two others go on, and it comes back with what was durable."""
    async with Cluster(3, seed=5, may_fail=is_of_the_disk) as cluster, cluster.client("n2", "n3", settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        cluster.disk("n1").faults.append(Fault(operation=operation, path_part=file, times=1))
        for number in range(20):
            await client.produce("orders", b"%d" % number)
            # Terms are written when they change.
            leader = await cluster.wait_leader()
            driver = cluster.node(leader).parts.replicas.catalog.driver
            driver.requests.transfer_leadership(cluster.node_id("n3" if leader == "n2" else "n2"))
            if not cluster.is_running("n1"):
                break
            await trio.sleep(0.5)
        reason = await cluster.wait_failure("n1")
        assert file in reason
        assert f"{operation.value} failed: injected EIO" in reason
        await client.produce("orders", b"last")
        await cluster.start("n1")
        await cluster.wait_converged("orders")
        assert (await values_on(cluster, "n1", "orders"))[-1] == b"last"


async def test_a_disk_that_fails_before_there_is_a_leader_is_named_too() -> None:
    """Tasks that wait for a leader end with the group; what they are told is not the cause."""
    async with Cluster(3, seed=6, starts=False, may_fail=is_of_the_disk) as cluster:
        for name in cluster.names:
            await cluster.start(name)
        await cluster.wait_leader()
        await cluster.stop("n2")
        await cluster.stop("n3")
        await cluster.stop("n1")
        await cluster.start("n1")
        cluster.disk("n1").faults.append(Fault(operation=Operation.WRITE, path_part="hard_state", times=1))
        await cluster.start("n2")
        assert "hard_state: write failed" in await cluster.wait_failure("n1")


async def test_a_node_with_a_lost_disk_is_replaced_by_a_new_one() -> None:
    """Its id is removed for ever; the new node with the empty disk learns everything."""
    async with (
        Cluster(3, seed=9, stabilisation_seconds=0.1, reconcile_seconds=0.1) as cluster,
        cluster.client(settings=QUICK) as client,
    ):
        await fill_topic(client)
        await cluster.wait_converged("orders")
        await cluster.wait_registered()
        former = cluster.node_id("n1")
        cluster.crash("n1")
        leader = await cluster.wait_leader(other_than="n1")
        await client.remove_node(format_id(former))
        await cluster.wait_gone(former)
        cluster.wipe("n1")
        await cluster.start("n1")
        await cluster.wait_voters(None, "n1", "n2", "n3")
        await cluster.wait_voters("orders", "n1", "n2", "n3")
        assert cluster.node_id("n1") != former
        await cluster.wait_converged("orders")
        assert await values_on(cluster, "n1", "orders") == VALUES
        assert leader in ("n2", "n3")


@pytest.mark.parametrize("times", [1, 3])
async def test_reads_that_fail_at_a_start_cut_nothing(times: int) -> None:
    """What cannot be read is not a torn tail: the node does not start now, and starts with everything when the disk answers."""
    async with Cluster(3, seed=10, may_fail=is_of_the_disk, **SMALL_SEGMENTS) as cluster, cluster.client(settings=QUICK) as client:
        await fill_topic(client)
        await cluster.wait_converged("orders")
        for after in range(12):
            cluster.crash("n1")
            cluster.disk("n1").faults.append(Fault(operation=Operation.READ, after=after, times=times))
            await cluster.start("n1")
            await trio.sleep(1)
            cluster.disk("n1").faults.clear()
            if not cluster.is_running("n1"):
                assert "EIO" in await cluster.wait_failure("n1")
                await cluster.start("n1")
            await cluster.wait_converged("orders")
            assert await values_on(cluster, "n1", "orders") == VALUES
