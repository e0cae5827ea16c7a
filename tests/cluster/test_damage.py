"""Damaged files: what is wrong is never served, never voted with, and comes back from the other nodes."""

from collections.abc import Callable

import pytest
import trio

from tests.cluster.helpers import QUICK, values_on
from trio_eventlog.client.client import Client
from trio_eventlog.errors import DamagedData, EventLogError, Unavailable
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import SimDisk

SMALL_SEGMENTS = {"segment_bytes": 4096, "preallocate_bytes": 4096, "tail_cache_bytes": 0}
VALUES = [b"%d/" % number + bytes(range(256)) * 2 for number in range(40)]


async def fill(client: Client, topic: str = "orders") -> None:
    for value in VALUES:
        await client.produce(topic, value)


def directory_of(cluster: Cluster, name: str, topic: str = "orders") -> str:
    replica = cluster.replica(name, topic)
    assert replica is not None
    return f"data/groups/{replica.group_id:016x}"


def segments(disk: SimDisk, directory: str) -> list[str]:
    return [path for path in disk.paths() if path.startswith(f"{directory}/log/") and path.endswith(".log")]


def is_whole(cluster: Cluster, name: str, topic: str | None = "orders") -> bool:
    replica = cluster.replica(name, topic)
    return replica is not None and not replica.problem


async def wait_whole(cluster: Cluster, name: str, topic: str | None = "orders") -> None:
    await cluster.wait_until(lambda: is_whole(cluster, name, topic), f"a whole replica of {topic} on {name}")


async def test_a_flipped_bit_that_a_reader_meets() -> None:
    """The reader is sent to another node; the replica is opened again without the segment, and is whole a little later."""
    async with Cluster(3, seed=8, **SMALL_SEGMENTS) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await fill(client)
        await cluster.wait_converged("orders")
        directory = directory_of(cluster, "n1")
        disk = cluster.disk("n1")
        disk.flip_bit(segments(disk, directory)[0], 700)
        with pytest.raises(Unavailable, match="is damaged on this node"):
            await cluster.read("n1", "orders")
        assert await values_on(cluster, "n2", "orders") == VALUES
        await client.produce("orders", b"meanwhile")
        await cluster.wait_until(lambda: cluster.replica("n1", "orders") is not None, "the replica, open again")
        assert any("quarantine" in path for path in disk.paths())
        await wait_whole(cluster, "n1")
        assert await values_on(cluster, "n1", "orders") == [*VALUES, b"meanwhile"]
        await cluster.wait_until(lambda: not any("quarantine" in path for path in disk.paths()), "the end of the quarantine")
        assert not cluster.failures()


@pytest.mark.parametrize("oldest_first", [False, True])
async def test_a_flipped_bit_that_a_search_meets(oldest_first: bool) -> None:
    """It is reported as a consumer's read reports it: another node has the lines, and this one has them again a little later."""
    async with Cluster(3, seed=8, **SMALL_SEGMENTS) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("logs")
        lines = [b'{"service":"s","level":"INFO","message":"%d %b"}' % (number, b"x" * 500) for number in range(40)]
        for line in lines:
            await client.produce("logs", line)
        await cluster.wait_converged("logs")
        disk = cluster.disk("n1")
        disk.flip_bit(segments(disk, directory_of(cluster, "n1", "logs"))[2], 700)

        async def found(name: str) -> list[bytes]:
            page = await cluster.node(name).client().logs.search(limit=100, oldest_first=oldest_first)
            assert page.is_end
            return [one.value for one in page.lines]

        with pytest.raises(Unavailable, match="is damaged on this node"):
            await found("n1")
        expected = lines if oldest_first else lines[::-1]
        assert await found("n2") == expected
        await wait_whole(cluster, "n1", "logs")
        assert await found("n1") == expected
        assert not cluster.failures()


def _swap(disk: SimDisk, first: str, second: str) -> None:
    content = disk.content(first)
    disk.put(first, disk.content(second))
    disk.put(second, content)


DAMAGE: dict[str, Callable[[SimDisk, list[str]], object]] = {
    "a flipped bit": lambda disk, paths: disk.flip_bit(paths[1], 100),
    "a flipped bit in a footer": lambda disk, paths: disk.flip_bit(paths[1], len(disk.content(paths[1])) - 30),
    "a flipped bit in the active segment": lambda disk, paths: disk.flip_bit(paths[-1], 100),
    "a truncated segment": lambda disk, paths: disk.put(paths[1], disk.content(paths[1])[:1000]),
    "a missing segment": lambda disk, paths: disk.delete(paths[1]),
    "the first one missing": lambda disk, paths: disk.delete(paths[0]),
    "the last ones missing": lambda disk, paths: [disk.delete(path) for path in paths[2:]],
    "an empty segment": lambda disk, paths: disk.put(paths[1], b""),
    "zeros": lambda disk, paths: disk.put(paths[1], bytes(len(disk.content(paths[1])))),
    "swapped segments": lambda disk, paths: _swap(disk, paths[1], paths[2]),
    "a base that is none": lambda disk, paths: disk.put(paths[0].rpartition("/")[0] + "/base", b"base"),
}


async def test_damage_that_a_start_meets() -> None:
    """Whatever it is: the node starts, has no vote in that group, serves nothing wrong, and is whole a little later."""
    async with Cluster(3, seed=9, **SMALL_SEGMENTS) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await client.create_topic("others")
        await fill(client)
        await client.produce("others", b"other")
        written = list(VALUES)
        for what, damage in DAMAGE.items():
            await cluster.wait_converged("orders")
            directory = directory_of(cluster, "n1")
            await trio.sleep(6)  # what is at the end of the log can be missed once it is noted
            cluster.crash("n1")
            damage(cluster.disk("n1"), segments(cluster.disk("n1"), directory))
            await cluster.start("n1")
            await cluster.wait_until(lambda: cluster.replica("n1", "orders") is not None, f"a replica with {what}")
            written.append(what.encode())
            await client.produce("orders", written[-1])
            await wait_whole(cluster, "n1")
            await cluster.wait_converged("orders")
            assert await values_on(cluster, "n1", "orders") == written, what
            await cluster.wait_converged("others")
            assert await values_on(cluster, "n1", "others") == [b"other"]
        assert not cluster.failures()


async def test_a_damaged_catalog_comes_back_as_well() -> None:
    """Its partitions are opened when it is whole."""
    async with Cluster(3, seed=10, **SMALL_SEGMENTS) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await fill(client)
        await cluster.wait_converged("orders")
        cluster.crash("n1")
        disk = cluster.disk("n1")
        disk.flip_bit(segments(disk, "data/groups/0000000000000000")[0], 100)
        await cluster.start("n1")
        await cluster.wait_until(lambda: is_whole(cluster, "n1", None), "a whole catalog")
        await cluster.wait_converged("orders")
        assert await values_on(cluster, "n1", "orders") == VALUES


async def test_a_damaged_hard_state_takes_the_vote_of_one_partition() -> None:
    """For good, since nobody knows whom it has elected; the other partitions of the node go on."""
    async with Cluster(3, seed=11, **SMALL_SEGMENTS) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await client.create_topic("others")
        await fill(client)
        await cluster.wait_converged("orders")
        directory = directory_of(cluster, "n1")
        cluster.crash("n1")
        disk = cluster.disk("n1")
        disk.put(f"{directory}/hard_state", bytes(len(disk.content(f"{directory}/hard_state"))))
        await cluster.start("n1")
        await cluster.wait_until(lambda: cluster.replica("n1", "orders") is not None, "the replica")
        replica = cluster.replica("n1", "orders")
        assert replica is not None
        assert "takes no part any more" in replica.problem
        assert any("hard_state (term" not in warning for warning in cluster.node("n1").status().warnings)
        await client.produce("others", b"one")
        await cluster.wait_converged("others")
        assert await values_on(cluster, "n1", "others") == [b"one"]
        cluster.crash("n1")
        await cluster.start("n1")
        await cluster.wait_until(lambda: cluster.replica("n1", "orders") is not None, "the replica")
        replica = cluster.replica("n1", "orders")
        assert replica is not None
        assert "takes no part any more" in replica.problem


async def test_the_scrub_finds_what_nobody_reads() -> None:
    """Also in a group that sleeps, and in the footer of a segment."""
    async with (
        Cluster(3, seed=12, scrub_interval_seconds=1.0, sleep_after_ticks=1, **SMALL_SEGMENTS) as cluster,
        cluster.client(settings=QUICK) as client,
    ):
        await client.create_topic("orders")
        await fill(client)
        await cluster.wait_converged("orders")
        await trio.sleep(5)
        directory, disk = directory_of(cluster, "n1"), cluster.disk("n1")
        for path, position in ((segments(disk, directory)[1], 200), (segments(disk, directory)[2], -30)):
            before = cluster.replica("n1", "orders")
            disk.flip_bit(path, position % len(disk.content(path)))
            await cluster.wait_until(lambda before=before: cluster.replica("n1", "orders") is not before, "the scrub")  # type: ignore[misc]
            await wait_whole(cluster, "n1")
            await cluster.wait_converged("orders")
            assert await values_on(cluster, "n1", "orders") == VALUES
        assert not cluster.failures()


async def test_what_no_other_node_has_is_refused_and_the_rest_goes_on() -> None:
    """A partition of one replica: the words say what to do. With the loss accepted, what is in front of the damage is served."""
    async with Cluster(3, seed=13, **SMALL_SEGMENTS) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders", replicas=1)
        await client.create_topic("others")
        await fill(client)
        owner = await cluster.wait_leader("orders")
        directory = directory_of(cluster, owner)
        cluster.crash(owner)
        disk = cluster.disk(owner)
        damaged = segments(disk, directory)[1]
        disk.flip_bit(damaged, 100)
        await cluster.start(owner)
        await cluster.wait_until(
            lambda: any("--accept-loss" in warning for warning in cluster.node(owner).status().warnings), "a refusal"
        )
        (warning, *_) = [warning for warning in cluster.node(owner).status().warnings if "cannot be opened" in warning]
        assert damaged in warning
        assert "--accept-loss" in warning
        with pytest.raises(EventLogError, match="--accept-loss"):
            await client.produce("orders", b"more")
        await client.produce("others", b"one")
        await cluster.wait_converged("others")
        assert disk.content(damaged)
        await cluster.stop(owner)
        await cluster.start(owner, accept_loss=True)
        await cluster.wait_leader("orders")
        first = int(damaged.rpartition("/")[2].removesuffix(".log"))
        await client.produce("orders", b"more")
        left = await values_on(cluster, owner, "orders")
        assert left == [*VALUES[: len(left) - 1], b"more"]
        assert 1 < len(left) < first


async def test_a_node_alone_with_damage_does_not_serve_it() -> None:
    async with Cluster(1, seed=14, **SMALL_SEGMENTS) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await fill(client)
        directory, disk = directory_of(cluster, "n1"), cluster.disk("n1")
        disk.flip_bit(segments(disk, directory)[1], 100)
        with pytest.raises(DamagedData, match="is damaged"):
            await cluster.read("n1", "orders")
        await client.produce("orders", b"what is sound is served")
        assert "restore a backup" in " ".join(cluster.node("n1").status().warnings)
