"""Replicas move from one node to another while nodes crash and links are cut, at every step of the move.

The move: of three voters one is drained, and a fourth node takes its place, in the catalog and in the partition. Whatever
happens on the way, it ends in order, and no acknowledged record is lost.
"""

import itertools
from collections.abc import Awaitable, Callable

import pytest
import trio
from google.protobuf.duration_pb2 import Duration

from tests.cluster.helpers import QUICK, consume, produce
from tests.cluster.test_membership import check_acknowledged, drain, produce_until
from tests.combinations import combinations
from trio_eventlog.client.client import Client
from trio_eventlog.ids import NodeId
from trio_eventlog.machine.catalog import Partition
from trio_eventlog.raft import Configuration
from trio_eventlog.service.values import BEGINNING
from trio_eventlog.testing.cluster import Cluster

JOINT = "two sets of voters decide"
STAYING = ("n2", "n3", "n4")
AWAY_SECONDS = 4.0


def partitions(cluster: Cluster) -> list[Partition]:
    """As the running nodes have it that know of it (again)."""
    topics = (cluster.node(name).parts.replicas.machine.topics.get("orders") for name in cluster.running)
    return [topic.partitions[0] for topic in topics if topic is not None]


def configurations(cluster: Cluster) -> list[Configuration]:
    """Of the partition, as its running replicas have them."""
    found = (cluster.replica(name, "orders") for name in cluster.running)
    return [replica.status().configuration for replica in found if replica is not None]


def voters_are_moved(cluster: Cluster, configuration: Configuration) -> bool:
    return configuration.voters == {cluster.node_id(name) for name in STAYING} and not configuration.is_joint


PHASES: dict[str, Callable[[Cluster], bool]] = {
    "it is wanted": lambda cluster: any(partition.is_moving for partition in partitions(cluster)),
    "the new one is a learner": lambda cluster: any(
        cluster.node_id("n4") in configuration.learners for configuration in configurations(cluster)
    ),
    JOINT: lambda cluster: any(configuration.is_joint for configuration in configurations(cluster)),
    "the new voters decide": lambda cluster: any(
        voters_are_moved(cluster, configuration) for configuration in configurations(cluster)
    ),
}


def catalog_leader(cluster: Cluster) -> str:
    return cluster.leader() or "n2"


def partition_leader(cluster: Cluster) -> str:
    return cluster.leader("orders") or "n3"


CRASHES: dict[str, Callable[[Cluster], str]] = {
    "the catalog's leader": catalog_leader,
    "the partition's leader": partition_leader,
    "the new one": lambda cluster: "n4",
    "the old one": lambda cluster: "n1",
}


async def move_amid(
    cluster: Cluster, client: Client, phase: str, disturb: Callable[[], Awaitable[None]], first_leader: str
) -> dict[bytes, int]:
    """Drain n1 under load, have `disturb` happen in the phase, see it through; returns what was acknowledged."""
    acknowledged: dict[bytes, int] = {}
    enough = trio.Event()
    for name in ("n1", "n2", "n3"):
        # A node that does not hear of its removal while it can still end in good order is refused later.
        await cluster.start(name, may_fail=name == "n1")
    await client.create_topic("orders")
    await cluster.wait_topic("orders")
    await cluster.start("n4")
    await cluster.wait_registered(*cluster.names)
    leader = await cluster.wait_leader("orders")
    replica = cluster.replica(leader, "orders")
    assert replica is not None
    await replica.transfer_leadership(cluster.node_id(first_leader), 5.0)
    old_id = cluster.node_id("n1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce_until, client, "orders", enough, acknowledged)
        await drain(cluster, "n1", by="n2")
        deadline = trio.current_time() + 60
        while not PHASES[phase](cluster):
            assert trio.current_time() < deadline, f"it never came to this: {phase}\n{cluster.describe()}"
            await trio.sleep(0.001)
        await disturb()
        await has_moved(cluster, old_id)
        count = len(acknowledged)
        await cluster.wait_until(lambda: len(acknowledged) > count + 3, "records flow")
        enough.set()
    await check_acknowledged(cluster, "orders", acknowledged, *STAYING)
    return acknowledged


async def has_moved(cluster: Cluster, old_id: NodeId) -> None:
    await cluster.wait_gone(old_id)
    await cluster.wait_voters(None, *STAYING)
    await cluster.wait_voters("orders", *STAYING)
    wanted = tuple(sorted(map(cluster.node_id, STAYING)))
    await cluster.wait_until(
        lambda: [(partition.wanted, partition.replicas) for partition in partitions(cluster)] == [(wanted, wanted)] * len(STAYING),
        "it has arrived",
    )


def four_nodes(seed: int) -> Cluster:
    """The disks are so slow that every step can be seen, and the rounds so quick that the story is short."""
    return Cluster(4, founders=3, seed=seed, sync_seconds=0.01, stabilisation_seconds=1.0, reconcile_seconds=0.3, starts=False)


@pytest.mark.parametrize(
    ("who", "phase", "first_leader"),
    [
        *combinations(CRASHES, PHASES, ["n3"]),
        # A leader that is to go is not taken away at once: it stays until another one leads.
        *(pytest.param("the old one", phase, "n1", marks=pytest.mark.slow) for phase in PHASES if phase != JOINT),
    ],
)
async def test_a_crash_at_every_step_of_a_move(who: str, phase: str, first_leader: str) -> None:
    """It loses what it had not synced and is back after a few seconds, or learns then that it was removed."""
    async with four_nodes(71) as cluster, cluster.client(*STAYING, settings=QUICK) as client:

        async def crash() -> None:
            name = CRASHES[who](cluster)
            cluster.crash(name)
            await trio.sleep(AWAY_SECONDS)
            await cluster.start(name, may_fail=True)

        await move_amid(cluster, client, phase, crash, first_leader)


CUTS: dict[str, tuple[set[str], set[str]]] = {
    "the new one alone": ({"n4"}, {"n1", "n2", "n3"}),
    "the old one alone": ({"n1"}, {"n2", "n3", "n4"}),
    "two and two": ({"n1", "n2"}, {"n3", "n4"}),
}


@pytest.mark.parametrize(("cut", "phase"), combinations(CUTS, PHASES))
async def test_a_cut_at_every_step_of_a_move(cut: str, phase: str) -> None:
    """Silence for a few seconds: the move waits, or goes on without who is missing, and nobody is removed for it."""
    async with four_nodes(72) as cluster, cluster.client(*STAYING, settings=QUICK) as client:

        async def separate() -> None:
            cluster.partition(*CUTS[cut])
            await trio.sleep(AWAY_SECONDS)
            cluster.heal()

        await move_amid(cluster, client, phase, separate, "n2")


async def test_a_node_that_dies_while_it_is_drained_is_removed_all_the_same() -> None:
    """What it carried moves to the others without it. Should it come back, it is told."""
    async with four_nodes(73) as cluster, cluster.client(*STAYING, settings=QUICK) as client:

        async def crash() -> None:
            cluster.crash("n1")

        await move_amid(cluster, client, "it is wanted", crash, "n1")
        await cluster.start("n1", may_fail=True)
        assert "empty data directory" in await cluster.wait_failure("n1")


async def test_calls_go_where_the_replicas_have_gone() -> None:
    """A plain client that produces and fetches at one node, whose partitions move away meanwhile, hears of no move; neither does a
    client of ours that reads them."""
    partitions = 8
    enough = trio.Event()
    produced: list[list[bytes]] = [[] for _ in range(partitions)]
    seen: list[list[bytes]] = [[] for _ in range(partitions)]
    async with Cluster(4, founders=3, seed=75, stabilisation_seconds=1.0) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders", partitions=partitions, replicas=1)
        await cluster.wait_leader("orders", 0)

        async def read(partition: int) -> None:
            async with client.consume("orders", partition=partition, start=BEGINNING) as records:
                async for record in records:
                    seen[partition].append(record.value)

        async def call(partition: int) -> None:
            async with cluster.channel("n1") as channel:
                for number in itertools.count():
                    if enough.is_set():
                        return
                    value = b"%d-%d" % (partition, number)
                    response = await produce(channel, "orders", value, partition=partition)
                    assert response.base_offset == number
                    fetched = await consume(channel, "orders", number, partition=partition, max_wait=Duration(seconds=5))
                    assert [record.value for record in fetched.records] == [value]
                    produced[partition].append(value)
                    await trio.sleep(0.1)

        def carried() -> list[int]:
            return [number for number in range(partitions) if cluster.replica("n1", "orders", number) is not None]

        before = carried()
        async with trio.open_nursery() as readers:
            async with trio.open_nursery() as callers:
                for partition in range(partitions):
                    readers.start_soon(read, partition)
                    callers.start_soon(call, partition)
                await cluster.start("n4")
                await cluster.wait_until(lambda: len(carried()) < len(before), "some have gone", 10)
                await trio.sleep(2)
                enough.set()
            await cluster.wait_until(lambda: seen == produced, "everything is read")
            readers.cancel_scope.cancel()
