"""A replica that is far behind fetches sealed segments as files, from whichever replica has them, while records flow."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from tests.cluster.helpers import ADMIN, QUICK, values_on
from trio_eventlog.client.client import Client
from trio_eventlog.codec.partition_command import FEATURE_LEVEL
from trio_eventlog.ids import format_id
from trio_eventlog.machine.partition import LogStart
from trio_eventlog.node.retention import propose_trim
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode
from trio_eventlog.v1 import admin_pb2

TOPIC = "orders"
VALUE = bytes(500)
SMALL = {
    "segment_bytes": 4096,
    "preallocate_bytes": 4096,
    "tail_cache_bytes": 0,
    "index_interval_bytes": 1024,
    "snapshot_bytes_min": 4096,
    "catch_up_bytes_min": 8192,
}
AWAY = "n3"


def value(number: int) -> bytes:
    return b"%d" % number + VALUE


async def fill(client: Client, first: int, count: int) -> None:
    for number in range(first, first + count):
        await client.produce(TOPIC, value(number))


def served_bytes(cluster: Cluster) -> int:
    return sum(cluster.node(name).parts.transfer_server.served_bytes for name in cluster.running)


def installed(cluster: Cluster, name: str) -> int:
    return cluster.node(name).parts.catch_ups.installed


def check_installed(cluster: Cluster, name: str) -> None:
    """Once; or once more for what came meanwhile, if that is enough for files again."""
    assert 1 <= installed(cluster, name) <= 2


async def check(cluster: Cluster, count: int, *names: str) -> None:
    """Once all have applied all: the same records everywhere."""
    await cluster.wait_converged(TOPIC)
    for name in names or cluster.running:
        assert await values_on(cluster, name, TOPIC) == [value(number) for number in range(count)]


@asynccontextmanager
async def behind(seed: int, **settings: object) -> AsyncIterator[tuple[Cluster, Client]]:
    """A cluster in which n3 was away while records for some twenty segments were produced, and is not back yet."""
    async with (
        Cluster(3, seed=seed, **{**SMALL, **settings}) as cluster,
        cluster.client("n1", "n2", settings=QUICK) as client,
    ):
        await client.create_topic(TOPIC)
        await cluster.wait_topic(TOPIC)
        await fill(client, 0, 3)
        machine = cluster.node("n1").parts.replicas.machine
        await cluster.wait_until(lambda: machine.feature_level >= FEATURE_LEVEL, "all releases are known")
        cluster.crash(AWAY, CrashMode.KEEP)
        await fill(client, 3, 150)
        yield cluster, client


async def wait_served(cluster: Cluster, size_bytes: int) -> None:
    await cluster.wait_until(lambda: served_bytes(cluster) >= size_bytes, "enough bytes are served")


async def test_a_replica_that_was_away_for_long_fetches_files() -> None:
    async with behind(seed=1) as (cluster, client):
        await cluster.start(AWAY)
        await fill(client, 153, 20)
        await check(cluster, 173)
        check_installed(cluster, AWAY)
        assert served_bytes(cluster) > 60_000


async def test_a_new_node_fetches_what_its_partitions_hold() -> None:
    """Records flow meanwhile; it comes to vote."""
    async with Cluster(4, founders=3, seed=2, **SMALL) as cluster, cluster.client("n1", "n2", "n3", settings=QUICK) as client:
        await client.create_topic(TOPIC)
        await cluster.wait_topic(TOPIC)
        await fill(client, 0, 150)
        enough = trio.Event()
        count = 150
        async with trio.open_nursery() as nursery:

            async def keep_producing() -> None:
                nonlocal count
                while not enough.is_set():
                    await client.produce(TOPIC, value(count))
                    count += 1
                    await trio.sleep(0.1)

            nursery.start_soon(keep_producing)
            victim = next(name for name in ("n1", "n2", "n3") if name != cluster.leader(TOPIC))
            await cluster.start("n4")
            await cluster.wait_registered("n4")
            await cluster.stop(victim)
            async with cluster.channel(str(cluster.leader())) as channel:
                await channel.unary(ADMIN["RemoveNode"], admin_pb2.RemoveNodeRequest(id=format_id(cluster.node_id(victim))))
            rest = set(cluster.names) - {victim}
            await cluster.wait_voters(TOPIC, *rest)
            enough.set()
        await check(cluster, count, *rest)
        check_installed(cluster, "n4")


async def test_another_leader_changes_nothing() -> None:
    """What is being fetched is committed, whoever leads; what has come is not fetched again."""
    async with behind(seed=3, transfer_bytes_per_second=5000) as (cluster, client):
        leader = str(cluster.leader(TOPIC))
        other = next(name for name in ("n1", "n2") if name != leader)
        await cluster.start(AWAY)
        await wait_served(cluster, 20_000)
        served_before = cluster.node(leader).parts.transfer_server.served_bytes
        cluster.crash(leader, CrashMode.KEEP)
        await cluster.wait_until(lambda: cluster.leader(TOPIC) == other, "the other one leads")
        await fill(client, 153, 10)
        await check(cluster, 163, other, AWAY)
        check_installed(cluster, AWAY)
        log = cluster.replica(other, TOPIC)
        assert log is not None
        assert served_before + served_bytes(cluster) < log.log.size_bytes + 10_000
        await cluster.start(leader)
        await check(cluster, 163)


async def test_it_goes_on_where_it_was_when_it_is_started_again() -> None:
    async with behind(seed=4, transfer_bytes_per_second=5000) as (cluster, client):
        await cluster.start(AWAY)
        await wait_served(cluster, 40_000)
        cluster.crash(AWAY, CrashMode.KEEP)
        assert installed_never(cluster)
        await cluster.start(AWAY)
        await fill(client, 153, 10)
        await check(cluster, 163)
        check_installed(cluster, AWAY)
        replica = cluster.replica(AWAY, TOPIC)
        assert replica is not None
        assert served_bytes(cluster) < replica.log.size_bytes + 10_000


def installed_never(cluster: Cluster) -> bool:
    return all(installed(cluster, name) == 0 for name in cluster.running)


async def test_a_cut_amid_the_transfer_is_waited_out() -> None:
    async with behind(seed=5, transfer_bytes_per_second=5000) as (cluster, client):
        await cluster.start(AWAY)
        await wait_served(cluster, 20_000)
        cluster.isolate(AWAY)
        await trio.sleep(30)
        cluster.heal()
        await fill(client, 153, 10)
        await check(cluster, 163)
        check_installed(cluster, AWAY)


async def test_the_leader_knows_how_far_it_is() -> None:
    async with behind(seed=6, transfer_bytes_per_second=5000) as (cluster, _):
        await cluster.start(AWAY)
        await wait_served(cluster, 40_000)
        await trio.sleep(1.5)
        replica = cluster.replica(str(cluster.leader(TOPIC)), TOPIC)
        assert replica is not None
        report = replica.followers()[cluster.node_id(AWAY)].catch_up
        assert report is not None
        assert 30_000 < report.received_bytes < report.total_bytes
        assert replica.holds_removal()
        await check(cluster, 153)
        await cluster.wait_until(lambda: not replica.holds_removal(), "nothing is held back")
        assert replica.followers()[cluster.node_id(AWAY)].catch_up is None


async def test_a_replica_that_was_away_past_the_log_start_begins_there() -> None:
    """What it lacks is in no log any more: it gets a snapshot, whatever `catch_up_bytes_min` says."""
    async with behind(seed=7, catch_up_bytes_min=0) as (cluster, client):
        leader = cluster.replica(str(cluster.leader(TOPIC)), TOPIC)
        assert leader is not None
        await cluster.wait_until(lambda: leader.snapshot_index > 100, "a snapshot")
        machine = cluster.node(str(cluster.leader(TOPIC))).parts.replicas.machine
        offset = 100
        index = await leader.log.find_offset(offset)
        await propose_trim(leader, machine, LogStart(index - 1, offset))
        await cluster.wait_until(lambda: leader.log.first_index > 50, "segments are removed")
        await cluster.start(AWAY)
        await fill(client, 153, 10)
        await cluster.wait_converged(TOPIC)
        check_installed(cluster, AWAY)
        replica = cluster.replica(AWAY, TOPIC)
        assert replica is not None
        assert replica.log.first_index > 50
        found = await replica.log.read_by_offset(offset, replica.watermark.value, 1 << 30)
        assert found[0].base_offset <= offset < found[0].end_offset
