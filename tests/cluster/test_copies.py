"""Data directories that are copied, or put back to an earlier state: of all processes with one node id one is heard, or none.

The third node is far behind most of the time, so that what is acknowledged is on the disks of two nodes, one of which is copied.
"""

import logging
import re

import pytest
import trio

from tests.cluster.helpers import QUICK
from tests.combinations import combinations
from trio_eventlog.agent.lives import MOMENT_SECONDS
from trio_eventlog.errors import EventLogError
from trio_eventlog.ids import format_id
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode, SimDisk

TOPIC = "orders"
ORIGINAL, COPY, OTHER, BEHIND = "n1", "n4", "n2", "n3"
"""n4 is the machine on which a copy of n1's directory is started."""
BATCH_RECORDS = 25
BATCHES = 4


class Story:
    """Three nodes, a place for a copy, and a producer that notes what was acknowledged."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.acknowledged: list[bytes] = []
        self.tried = 0

    async def begin(self) -> None:
        cluster = self.cluster
        async with cluster.client(settings=QUICK) as client:
            await client.create_topic(TOPIC)
        await cluster.wait_topic(TOPIC)
        await cluster.wait_registered()
        await self.produce()

    async def produce(self, seconds_max: float = 60.0) -> None:
        """Some batches, as far as they are acknowledged in time."""
        async with self.cluster.client("n1", "n2", "n3", settings=QUICK) as client:
            for _ in range(BATCHES):
                values = [b"%d" % (self.tried + number) for number in range(BATCH_RECORDS)]
                self.tried += BATCH_RECORDS
                with trio.move_on_after(seconds_max):
                    try:
                        await client.produce(TOPIC, *values)
                    except EventLogError:
                        continue
                    self.acknowledged += values

    async def lead(self, name: str) -> None:
        """Make this node lead the partition."""
        replica = self.cluster.replica(await self.cluster.wait_leader(TOPIC), TOPIC)
        assert replica is not None
        await replica.transfer_leadership(self.cluster.node_id(name), 5.0)
        await self.cluster.wait_leader(TOPIC)

    async def check(self, *names: str) -> None:
        """These nodes agree, and hold everything that was acknowledged, once, in order."""
        cluster = self.cluster

        def is_same() -> bool:
            replicas = [cluster.replica(name, TOPIC) for name in names]
            states = {(r.status().last_index, r.status().applied_index) for r in replicas if r is not None}
            return None not in replicas and len(states) == 1 and all(last == applied for last, applied in states)

        await cluster.wait_until(is_same, f"{names} equal")
        for name in names:
            values = [record.value for record in await cluster.read(name, TOPIC)]
            kept = set(self.acknowledged)
            assert [value for value in values if value in kept] == self.acknowledged, f"{name} has lost what was acknowledged"
            assert len(values) == len(set(values)), f"{name} has records twice"

    def end(self, name: str, how: str) -> None:
        if how == "paused":
            self.cluster.pause(name)
        elif how == "ended":
            self.cluster.crash(name, CrashMode.LOSE)

    def is_not_heard(self, name: str) -> bool:
        return "is not heard" in self.cluster.node(name).unready_because()


def refusals(caplog: pytest.LogCaptureFixture, who: str, by: str | None = None) -> list[str]:
    """What was logged of a process that was refused, by those who refuse it."""
    pattern = re.compile(rf"refused: you at {who}:8400 are not the node [0-9a-f]{{16}} that is (known|connected) here")
    return [record.getMessage() for record in caplog.records if pattern.search(record.getMessage()) and "peer link" in record.msg]


async def settle() -> None:
    """What was promised is in a moment that others know."""
    await trio.sleep(2 * MOMENT_SECONDS)


@pytest.mark.parametrize(("copied", "leads"), combinations(["before", "after"], [ORIGINAL, OTHER]))
async def test_a_copy_beside_the_original_is_not_heard(copied: str, leads: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whether the original has gone on since or not: it speaks, so the copy is none. Both are named, once a minute at most."""
    caplog.set_level(logging.WARNING)
    async with Cluster(4, founders=3, seed=21) as cluster:
        story = Story(cluster)
        await story.begin()
        await story.lead(leads)
        image = cluster.image(ORIGINAL)
        await story.produce()
        if copied == "after":
            image = cluster.image(ORIGINAL)
        cluster.put_disk(COPY, image)
        began = trio.current_time()
        await cluster.start(COPY)
        assert cluster.node_id(COPY) == cluster.node_id(ORIGINAL)
        await cluster.wait_until(lambda: story.is_not_heard(COPY), "the copy knows")
        assert "n1:8400" in cluster.node(COPY).unready_because()
        await story.produce()
        await trio.sleep(30)
        minutes = 1 + (trio.current_time() - began) // 60
        for name in (OTHER, BEHIND):
            assert not cluster.node(name).unready_because()
        said = refusals(caplog, COPY)
        assert 2 <= len(said) <= 2 * minutes
        assert all("n1:8400" in text for text in said)
        assert len([record for record in caplog.records if "refused" in record.getMessage()]) <= 20 * minutes
        assert any("n4:8400" in text for text in cluster.node(OTHER).status().warnings) or "connected" in said[0]
        assert cluster.node(ORIGINAL).unready_because() == ""
        await story.check("n1", "n2", "n3")


@pytest.mark.parametrize(("how", "leads"), combinations(["paused", "ended", "stopped"], [ORIGINAL, OTHER]))
async def test_a_copy_that_nothing_was_promised_after_takes_the_place_of_its_original(how: str, leads: str) -> None:
    """It is the node then, and the original is not, however it comes back. When the copy goes too, the others go on alone."""
    async with Cluster(4, founders=3, seed=22) as cluster:
        story = Story(cluster)
        await story.begin()
        await story.lead(leads)
        await settle()
        if how == "stopped":
            await cluster.stop(ORIGINAL)
        image = cluster.image(ORIGINAL)
        story.end(ORIGINAL, how)
        cluster.put_disk(COPY, image)
        await cluster.start(COPY)
        await cluster.wait_until(lambda: not cluster.node(COPY).unready_because(), "the copy is the node")
        cluster.crash(BEHIND, CrashMode.LOSE)
        await story.produce()  # on the copy and n2
        await settle()
        cluster.crash(COPY, CrashMode.LOSE)
        await cluster.start(BEHIND)
        if how == "paused":
            cluster.resume(ORIGINAL)
        else:
            await cluster.start(ORIGINAL)
        await cluster.wait_until(lambda: story.is_not_heard(ORIGINAL), "the original knows")
        assert "n4:8400" in cluster.node(ORIGINAL).unready_because()
        await story.produce()
        await story.check(OTHER, BEHIND)
        assert len(story.acknowledged) >= 3 * BATCHES * BATCH_RECORDS


@pytest.mark.parametrize(("how", "leads"), combinations(["paused", "ended", "stopped"], [ORIGINAL, OTHER]))
async def test_a_copy_made_before_something_was_promised_is_not_heard(how: str, leads: str) -> None:
    """Whatever has become of the original, which comes back and is the node."""
    async with Cluster(4, founders=3, seed=23) as cluster:
        story = Story(cluster)
        await story.begin()
        await story.lead(leads)
        cluster.put_disk(COPY, cluster.image(ORIGINAL))
        cluster.crash(BEHIND, CrashMode.LOSE)
        await story.produce()  # on the original and n2
        await settle()
        if how == "stopped":
            await cluster.stop(ORIGINAL)
        else:
            story.end(ORIGINAL, how)
        await cluster.start(BEHIND)
        await cluster.start(COPY)
        await cluster.wait_until(lambda: story.is_not_heard(COPY), "the copy knows")
        await story.produce()
        cluster.crash(COPY, CrashMode.LOSE)
        if how == "paused":
            cluster.resume(ORIGINAL)
        else:
            await cluster.start(ORIGINAL)
        await cluster.wait_until(lambda: not cluster.node(ORIGINAL).unready_because(), "the original is the node")
        await story.produce()
        await story.check(ORIGINAL, OTHER, BEHIND)


@pytest.mark.parametrize(("how", "lives_since"), combinations(["ended", "stopped"], [0, 1, 3]))
async def test_a_directory_put_back_to_an_earlier_state_gets_no_vote(how: str, lives_since: int) -> None:
    """Not even to elect somebody who lacks what it has forgotten. The way back is a new node in its place."""
    async with Cluster(4, founders=3, seed=24, stabilisation_seconds=0.1, reconcile_seconds=0.1) as cluster:
        story = Story(cluster)
        await story.begin()
        await story.lead(ORIGINAL)
        image = cluster.image(ORIGINAL)
        await story.produce()
        await settle()
        # From here on it is away: what is promised now, and every further life, it knows nothing of.
        cluster.crash(BEHIND, CrashMode.LOSE)
        for _ in range(lives_since):
            await story.produce()
            await cluster.restart(ORIGINAL)
        await story.produce()
        await settle()
        if how == "stopped":
            await cluster.stop(ORIGINAL)
        else:
            story.end(ORIGINAL, how)
        # The node that has it all stands still, and the two others would be a majority without it.
        cluster.pause(OTHER)
        cluster.put_disk(ORIGINAL, image)
        await cluster.start(BEHIND)
        await cluster.start(ORIGINAL)
        await trio.sleep(15)
        assert cluster.leader(TOPIC) is None
        cluster.resume(OTHER)
        await cluster.wait_until(lambda: story.is_not_heard(ORIGINAL), "it knows")
        await story.produce()
        await story.check(OTHER, BEHIND)
        former = cluster.node_id(ORIGINAL)
        cluster.crash(ORIGINAL)
        async with cluster.client(OTHER, BEHIND, settings=QUICK) as client:
            await client.remove_node(format_id(former))
        await cluster.wait_gone(former)
        cluster.wipe(ORIGINAL)
        await cluster.start(ORIGINAL)
        three = {cluster.node_id(name) for name in (ORIGINAL, OTHER, BEHIND)}
        await cluster.wait_until(lambda: all(voters == three for voters in cluster.voters_of_groups()), "it has its place back")
        await story.check(ORIGINAL, OTHER, BEHIND)


async def test_when_a_cut_let_both_be_heard_neither_is_heard_after_it() -> None:
    """A majority cannot tell a copy on its side of a cut from the original on the other. Both gave promises: neither is heard."""
    async with Cluster(4, founders=3, seed=25) as cluster:
        story = Story(cluster)
        await story.begin()
        await settle()
        cluster.put_disk(COPY, cluster.image(ORIGINAL))
        cluster.partition([ORIGINAL, OTHER], [COPY, BEHIND])
        await story.produce()
        await settle()
        await cluster.start(COPY)
        await trio.sleep(10)
        cluster.heal()
        both = (ORIGINAL, COPY)
        await cluster.wait_until(lambda: all("two processes" in cluster.node(name).unready_because() for name in both), "both know")
        for name in (OTHER, BEHIND):
            assert any("two processes" in warning for warning in cluster.node(name).status().warnings)
        await cluster.wait_leader()


@pytest.mark.parametrize("seed", range(4))
async def test_a_node_that_joins_beside_a_copy_does_not_condemn_the_original(seed: int) -> None:
    """The original is down just then, and the newcomer knows no better until the members have told it."""
    async with Cluster(5, founders=3, seed=29 + seed) as cluster:
        story = Story(cluster)
        await story.begin()
        cluster.put_disk(COPY, cluster.image(ORIGINAL))
        await story.produce()
        await settle()
        cluster.crash(ORIGINAL, CrashMode.LOSE)
        await cluster.start(COPY)
        await cluster.wait_until(lambda: story.is_not_heard(COPY), "the members know the copy")
        await cluster.start("n5")
        await cluster.wait_until(lambda: not cluster.node("n5").unready_because(), "it has joined")
        cluster.crash(COPY, CrashMode.LOSE)
        await cluster.start(ORIGINAL)
        await cluster.wait_until(lambda: not cluster.node(ORIGINAL).unready_because(), "the original is the node")
        for name in (OTHER, BEHIND, "n5"):
            assert not any("not heard" in warning for warning in cluster.node(name).status().warnings)
        await story.produce()
        await story.check(ORIGINAL, OTHER, BEHIND)


@pytest.mark.parametrize("size", [1, 2])
async def test_small_clusters_restart(size: int) -> None:
    """One has nobody who could refuse it; of two each needs the other, and is heard whenever it starts again."""
    async with Cluster(size, seed=26) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic(TOPIC)
        for round_number in range(5):
            await client.produce(TOPIC, b"%d" % round_number)
            for name in cluster.names:
                cluster.crash(name)
            for name in cluster.names:
                await cluster.start(name)
            await cluster.wait_ready()
        await client.produce(TOPIC, b"last")
        await cluster.wait_converged(TOPIC)


async def test_a_disk_without_room_begins_a_new_life_all_the_same() -> None:
    """The reserve is there for such files. The node is a part of its cluster, takes no records, and says why."""
    async with Cluster(3, seed=27) as cluster:
        await cluster.wait_ready()
        await cluster.stop("n1")
        cluster.disk("n1").fill(free_bytes=10)
        await cluster.start("n1")
        await cluster.wait_until(lambda: not cluster.node("n1").unready_because(), "it is back")
        assert "full" in " ".join(cluster.node("n1").status().warnings)
        cluster.disk("n1").make_room()
        await cluster.wait_until(lambda: "full" not in " ".join(cluster.node("n1").status().warnings), "it has room")


async def test_a_start_cut_at_any_place_is_followed_by_another() -> None:
    """The life that was begun and never seen is one that the next continues."""
    async with Cluster(3, seed=28, may_fail=lambda name, error: name == "n1") as cluster:
        await cluster.wait_ready()
        for operations in range(0, 40, 3):
            cluster.crash("n1", CrashMode.DRAW)
            cluster.disk("n1").cut_power_after(operations)
            await cluster.start("n1", may_fail=True)
            await trio.sleep(0.5)
            if cluster.is_running("n1"):
                cluster.crash("n1", CrashMode.DRAW)
            else:
                cluster.put_disk("n1", SimDisk.crash(cluster.disk("n1")))
            await cluster.start("n1")
            await cluster.wait_until(lambda: not cluster.node("n1").unready_because(), "it is back")
