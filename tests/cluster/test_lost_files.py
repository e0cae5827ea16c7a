"""Files of a replica that are gone, emptied or shortened: it notices by all of them together, and has no vote."""

import pytest
import trio

from tests.cluster.helpers import QUICK, values_on
from tests.combinations import combinations
from trio_eventlog.agent.lives import MOMENT_SECONDS
from trio_eventlog.client.client import Client
from trio_eventlog.errors import EventLogError
from trio_eventlog.ids import NOBODY, format_id
from trio_eventlog.storage.verify import verify_replica
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode

TOPIC = "orders"
SMALL = {"segment_bytes": 4096, "preallocate_bytes": 4096, "tail_cache_bytes": 0, "index_interval_bytes": 1024}
LOST, FULL, BEHIND = "n1", "n2", "n3"


def group_directory(cluster: Cluster, name: str) -> str:
    replica = cluster.replica(name, TOPIC)
    assert replica is not None
    return f"data/groups/{replica.group_id:016x}"


def spoil(cluster: Cluster, name: str, directory: str, what: str) -> None:
    """What somebody else, or a file system, has done to a node that is down."""
    disk = cluster.disk(name)
    segments = [path for path in disk.paths() if path.startswith(f"{directory}/log/") and path.endswith(".log")]
    match what:
        case "hard state":
            disk.delete(f"{directory}/hard_state")
        case "last segment":
            disk.delete(segments[-1])
        case "last segments":
            for path in segments[len(segments) // 2 :]:
                disk.delete(path)
        case "emptied":
            disk.put(segments[-1], b"")
        case "zeroed":
            disk.put(segments[-1], bytes(len(disk.content(segments[-1]))))
        case "log":
            for path in [path for path in disk.paths() if path.startswith(f"{directory}/log/")]:
                disk.delete(path)
        case "all":
            for path in [path for path in disk.paths() if path.startswith(f"{directory}/")]:
                disk.delete(path)


async def fill(client: Client, first: int, count: int) -> None:
    for number in range(first, first + count):
        await client.produce(TOPIC, b"%d" % number + bytes(500))


def values(count: int) -> list[bytes]:
    return [b"%d" % number + bytes(500) for number in range(count)]


@pytest.mark.parametrize(
    ("what", "ends"), combinations(["last segment", "last segments", "emptied", "zeroed", "log"], ["stopped", "crashed"])
)
async def test_a_replica_that_has_lost_entries_has_no_vote_until_it_has_caught_up(what: str, ends: str) -> None:
    """With it and the one that is behind there is no leader; when the one that has everything is back, nothing is lost."""
    async with Cluster(3, seed=31, **SMALL) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic(TOPIC)
        await cluster.wait_topic(TOPIC)
        await fill(client, 0, 10)
        await cluster.wait_converged(TOPIC)
        cluster.crash(BEHIND, CrashMode.LOSE)
        await fill(client, 10, 31)
        await trio.sleep(2 * MOMENT_SECONDS)
        directory = group_directory(cluster, LOST)
        if ends == "stopped":
            await cluster.stop(LOST)
        else:
            cluster.crash(LOST, CrashMode.LOSE)
        spoil(cluster, LOST, directory, what)
        cluster.pause(FULL)
        await cluster.start(BEHIND)
        await cluster.start(LOST)
        await trio.sleep(20)
        assert cluster.leader(TOPIC) is None
        replica = cluster.replica(LOST, TOPIC)
        assert replica is not None
        assert "has no vote until it has caught up" in replica.stopped_because
        assert f"{TOPIC}/0: " in " ".join(cluster.node(LOST).status().warnings)
        # It knows, also when it starts again before it has caught up.
        cluster.crash(LOST, CrashMode.LOSE)
        report = await verify_replica(cluster.disk(LOST), directory)
        assert report.is_damaged
        await cluster.start(LOST)
        await trio.sleep(20)
        assert cluster.leader(TOPIC) is None
        cluster.resume(FULL)
        await cluster.wait_leader(TOPIC)
        await cluster.wait_until(lambda: not cluster.node(LOST).unready_because(), "it has caught up")
        await fill(client, 41, 5)
        await cluster.wait_converged(TOPIC)
        for name in cluster.names:
            assert await values_on(cluster, name, TOPIC) == values(46)
        # And it votes again, in this life and in the next.
        cluster.crash(FULL)
        await cluster.wait_leader(TOPIC, other_than=FULL)
        await cluster.restart(LOST)
        await cluster.wait_leader(TOPIC, other_than=FULL)
        await fill(client, 46, 1)


@pytest.mark.parametrize(("what", "group"), combinations(["hard state", "all"], ["partition", "catalog"]))
async def test_a_replica_that_has_lost_its_vote_takes_no_part_any_more(what: str, group: str) -> None:
    """Nobody knows whom it has elected. The others go on; the way back is a new node in its place."""
    async with (
        Cluster(3, seed=32, stabilisation_seconds=0.1, reconcile_seconds=0.1, **SMALL) as cluster,
        cluster.client(settings=QUICK) as client,
    ):
        await client.create_topic(TOPIC)
        await cluster.wait_topic(TOPIC)
        await cluster.wait_registered()
        await fill(client, 0, 20)
        await cluster.wait_converged(TOPIC)
        directory = group_directory(cluster, LOST) if group == "partition" else "data/groups/0000000000000000"
        await cluster.stop(LOST)
        if what == "all" and group == "catalog":
            voters = cluster.disk(LOST).content(f"{directory}/first_voters")
            spoil(cluster, LOST, directory, what)
            cluster.disk(LOST).put(f"{directory}/first_voters", voters)
        else:
            spoil(cluster, LOST, directory, what)
        for _ in range(2):
            await cluster.start(LOST)
            await cluster.wait_until(lambda: "takes no part any more" in cluster.node(LOST).unready_because(), "it says so")
            assert "node remove" in " ".join(cluster.node(LOST).status().warnings)
            await trio.sleep(10)
            cluster.pause(FULL)
            await trio.sleep(20)
            replica = cluster.replica(LOST, TOPIC if group == "partition" else None)
            assert replica is not None
            status = replica.status()
            assert (status.hard_state.vote, status.leader) == (NOBODY, NOBODY), "it elects nobody, and follows nobody"
            cluster.resume(FULL)
            await cluster.wait_leader(TOPIC, seconds_max=30)
            cluster.crash(LOST, CrashMode.LOSE)
        await fill(client, 20, 5)
        former = cluster.node_id(LOST)
        await client.remove_node(format_id(former))
        await cluster.wait_gone(former)
        cluster.wipe(LOST)
        await cluster.start(LOST)
        three = {cluster.node_id(name) for name in cluster.names}
        await cluster.wait_until(lambda: all(voters == three for voters in cluster.voters_of_groups()), "three again")
        await cluster.wait_converged(TOPIC)
        assert await values_on(cluster, LOST, TOPIC) == values(25)


def degraded(cluster: Cluster) -> str:
    """Why partitions of the only node are not open."""
    return " ".join(group.problem for group in cluster.node("n1").status().groups if group.role == "degraded")


@pytest.mark.parametrize("what", ["hard state", "last segment", "emptied", "zeroed", "log", "all"])
@pytest.mark.parametrize("ends", ["stopped", "crashed"])
async def test_a_node_alone_does_not_open_a_shortened_partition(what: str, ends: str) -> None:
    """There is nobody to have what is lost: the node says what that is, serves nothing of the partition, and goes on with what is
    left when it is told to."""
    async with Cluster(1, seed=33, **SMALL) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic(TOPIC)
        await fill(client, 0, 31)
        await trio.sleep(2 * MOMENT_SECONDS)
        directory = group_directory(cluster, "n1")
        if ends == "stopped":
            await cluster.stop("n1")
        else:
            cluster.crash("n1", CrashMode.LOSE)
        spoil(cluster, "n1", directory, what)
        for _ in range(2):
            await cluster.start("n1")
            await cluster.wait_until(lambda: directory in degraded(cluster), "it has looked at the partition")
            assert "--accept-loss" in degraded(cluster)
            with pytest.raises(EventLogError):
                await values_on(cluster, "n1", TOPIC)
            await cluster.stop("n1")
        await cluster.start("n1", accept_loss=True)
        await cluster.wait_ready()
        await fill(client, 31, 3)
        left = await values_on(cluster, "n1", TOPIC)
        assert left[-3:] == values(34)[31:]
        assert left[:-3] == values(31)[: len(left) - 3]
        assert (len(left) == 34) == (what == "hard state")
        await trio.sleep(2 * MOMENT_SECONDS)
        await cluster.restart("n1")
        await cluster.wait_ready()
        await cluster.wait_leader(TOPIC)
        assert await values_on(cluster, "n1", TOPIC) == left
