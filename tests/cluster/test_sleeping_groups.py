"""Groups without work sleep: they cost nothing, and wake by work, by a lost leader, and for whoever comes back."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from tests.cluster.helpers import QUICK, values_on
from trio_eventlog.ids import NodeId
from trio_eventlog.node.replica import Replica
from trio_eventlog.raft.ready import Role
from trio_eventlog.testing.cluster import Cluster

TICK_SECONDS = 0.1
ELECTION_TIMEOUT_SECONDS = 1.0
TOPIC = "t"


def replicas(cluster: Cluster, partitions: int = 1) -> list[Replica]:
    found = [cluster.replica(name, TOPIC, number) for name in cluster.running for number in range(partitions)]
    return [replica for replica in found if replica is not None]


async def wait_asleep(cluster: Cluster, partitions: int = 1) -> None:
    def sleeps() -> bool:
        found = replicas(cluster, partitions)
        return len(found) == partitions * len(cluster.running) and all(replica.driver.sleeping.is_asleep for replica in found)

    await cluster.wait_until(sleeps, "every replica sleeps")


@asynccontextmanager
async def asleep(size: int = 3, partitions: int = 1, seed: int = 1) -> AsyncIterator[Cluster]:
    """A cluster whose partitions hold a record each, and sleep."""
    async with Cluster(size, seed=seed, sleep_after_ticks=3, leader_balance_seconds=0) as cluster:
        await cluster.wait_ready()
        async with cluster.client(*cluster.names, settings=QUICK) as client:
            await client.create_topic(TOPIC, partitions=partitions, replicas=3)
            await cluster.wait_topic(TOPIC)
            for number in range(partitions):
                await client.produce(TOPIC, b"0", partition=number)
        await wait_asleep(cluster, partitions)
        yield cluster


async def test_groups_that_sleep_do_nothing() -> None:
    """No tick, no message, no write, at any replica, for as long as nothing is to be done; and nobody looks for a leader."""
    async with asleep(partitions=4) as cluster:

        def work() -> list[tuple[int, int, int]]:
            return [
                (replica.driver.reads._ticks, replica.driver.statistics().appends, replica.status().hard_state.term)
                for replica in replicas(cluster, 4)
            ]

        before = work()
        await trio.sleep(120)
        assert work() == before
        assert all(replica.driver.sleeping.is_asleep for replica in replicas(cluster, 4))


async def test_a_record_wakes_its_group_within_a_tick_and_no_other() -> None:
    """Every replica of it; and they sleep again when it is everywhere."""
    async with asleep(partitions=2) as cluster, cluster.client(*cluster.names, settings=QUICK) as client:
        began = trio.current_time()
        await client.produce(TOPIC, b"1", partition=0)
        assert trio.current_time() - began < TICK_SECONDS
        await trio.sleep(TICK_SECONDS)
        for name in cluster.names:
            woken, other = cluster.replica(name, TOPIC, 0), cluster.replica(name, TOPIC, 1)
            assert woken is not None
            assert other is not None
            assert not woken.driver.sleeping.is_asleep
            assert other.driver.sleeping.is_asleep
        await wait_asleep(cluster, 2)
        assert [await values_on(cluster, name, TOPIC) for name in cluster.names] == [[b"0", b"1"]] * 3


async def test_a_linearizable_read_at_any_replica_wakes_the_group() -> None:
    """A sleeping leader answers nothing from memory: it asks its followers first, as ever."""
    async with asleep() as cluster:
        for name in cluster.names:
            await wait_asleep(cluster)
            replica = cluster.replica(name, TOPIC)
            assert replica is not None
            began = trio.current_time()
            await replica.wait_linearizable()
            assert trio.current_time() - began < 2 * TICK_SECONDS
            leader = cluster.replica(cluster.leader(TOPIC) or "", TOPIC)
            assert leader is not None
            assert not leader.driver.sleeping.is_asleep


@pytest.mark.parametrize("seed", range(8))
async def test_a_leader_that_falls_silent_is_replaced_as_soon_as_one_that_is_awake(seed: int) -> None:
    """No link breaks: its node says nothing any more. All groups that it led have another leader within 1.5 election timeouts."""
    async with asleep(partitions=6, seed=seed) as cluster:
        lost = cluster.leader(TOPIC)
        assert lost is not None
        began = trio.current_time()
        cluster.crash(lost, silently=True)
        for number in range(6):
            await cluster.wait_leader(TOPIC, number, other_than=lost)
        assert trio.current_time() - began < 1.5 * ELECTION_TIMEOUT_SECONDS + 2 * TICK_SECONDS


async def test_a_leader_whose_process_ends_is_replaced_at_once() -> None:
    """Its links break, which is seen at once, by sleeping groups too."""
    async with asleep(partitions=6) as cluster:
        lost = cluster.leader(TOPIC)
        assert lost is not None
        began = trio.current_time()
        cluster.crash(lost)
        for number in range(6):
            await cluster.wait_leader(TOPIC, number, other_than=lost)
        assert trio.current_time() - began < 3 * TICK_SECONDS


async def test_a_node_that_is_down_keeps_no_group_awake_and_is_told_when_it_is_back() -> None:
    """Groups sleep without it; when it returns it follows within a few ticks, without an election, and gets what it has missed."""
    async with asleep(partitions=3) as cluster, cluster.client(*cluster.names, settings=QUICK) as client:
        (absent, *_) = [name for name in cluster.names if name != cluster.leader(TOPIC)]
        cluster.crash(absent, silently=True)
        for number in range(3):
            await cluster.wait_leader(TOPIC, number, other_than=absent)
            await client.produce(TOPIC, b"1", partition=number)
        await wait_asleep(cluster, 3)
        terms = [replica.status().hard_state.term for replica in replicas(cluster, 3)]
        await trio.sleep(60)
        assert all(replica.driver.sleeping.is_asleep for replica in replicas(cluster, 3))
        await cluster.start(absent)
        await cluster.wait_ready()
        began = trio.current_time()
        for number in range(3):
            await cluster.wait_converged(TOPIC, number)
        assert trio.current_time() - began < ELECTION_TIMEOUT_SECONDS
        assert await values_on(cluster, absent, TOPIC) == [b"0", b"1"]
        await wait_asleep(cluster, 3)
        assert {replica.status().hard_state.term for replica in replicas(cluster, 3)} == set(terms), "nobody was elected for it"


async def test_a_follower_that_was_cut_off_is_heard_again() -> None:
    """No process ends: its link is silent for a while. It looks for a leader meanwhile, and disturbs nobody when it is back."""
    async with asleep() as cluster:
        leader = cluster.leader(TOPIC)
        (cut, *_) = [name for name in cluster.names if name != leader]
        cluster.isolate(cut)
        await trio.sleep(10)
        replica = cluster.replica(cut, TOPIC)
        assert replica is not None
        assert not replica.driver.sleeping.is_asleep
        assert replica.status().role in (Role.FOLLOWER, Role.PRE_CANDIDATE)
        cluster.heal()
        await wait_asleep(cluster)
        assert cluster.leader(TOPIC) == leader
        assert len({replica.status().hard_state.term for replica in replicas(cluster)}) == 1


async def test_a_sleeping_leader_that_is_cut_off_finds_out() -> None:
    """It does not go on for ever as the leader of a group that has another one: it wakes, and steps down."""
    async with asleep() as cluster:
        cut = cluster.leader(TOPIC)
        assert cut is not None
        cluster.isolate(cut)
        old = cluster.replica(cut, TOPIC)
        assert old is not None
        await cluster.wait_until(lambda: not old.is_leader, "it has stepped down", 4 * ELECTION_TIMEOUT_SECONDS)
        with trio.move_on_after(5) as scope:
            await old.wait_linearizable()
        assert scope.cancelled_caught, "it cannot know what the others have"


async def test_a_moved_leader_takes_its_group_along() -> None:
    """A transfer wakes, and works."""
    async with asleep() as cluster:
        leader = cluster.leader(TOPIC)
        (to, *_) = [name for name in cluster.names if name != leader]
        replica = cluster.replica(leader or "", TOPIC)
        assert replica is not None
        assert await replica.transfer_leadership(cluster.node_id(to), 1.0) == cluster.node_id(to)
        await wait_asleep(cluster)
        assert cluster.leader(TOPIC) == to


async def test_a_group_of_one_sleeps_too() -> None:
    """Nobody has to agree."""
    async with Cluster(1, seed=2, sleep_after_ticks=3) as cluster, cluster.client("n1", settings=QUICK) as client:
        await client.create_topic(TOPIC)
        await client.produce(TOPIC, b"0")
        await wait_asleep(cluster)
        await client.produce(TOPIC, b"1")
        assert await values_on(cluster, "n1", TOPIC) == [b"0", b"1"]


async def test_without_the_setting_nobody_sleeps() -> None:
    """sleep_after_ticks=0."""
    async with Cluster(3, seed=2, sleep_after_ticks=0) as cluster, cluster.client("n1", settings=QUICK) as client:
        await client.create_topic(TOPIC)
        await client.produce(TOPIC, b"0")
        await trio.sleep(60)
        assert not any(replica.driver.statistics().times_asleep for replica in replicas(cluster))


async def test_one_node_of_three_that_does_not_speak_of_itself_keeps_its_groups_awake() -> None:
    """As a release before this one: it would take the silence of a sleeping leader for its end."""
    async with Cluster(3, seed=2, sleep_after_ticks=3) as cluster:
        await cluster.wait_ready()
        leader = await cluster.wait_leader()
        (older, *_) = [name for name in cluster.names if name != leader]
        older_id = cluster.node_id(older)

        def deaf(heard: Callable[[NodeId, int], None]) -> Callable[[NodeId, int], None]:
            return lambda node_id, life: None if node_id == older_id else heard(node_id, life)

        for name in cluster.names:
            liveness = cluster.node(name).parts.liveness
            liveness.heard = deaf(liveness.heard)  # type: ignore[method-assign]
            liveness.connected(older_id)
        async with cluster.client(*cluster.names, settings=QUICK) as client:
            await client.create_topic(TOPIC)
            await cluster.wait_topic(TOPIC)
            await client.produce(TOPIC, b"0")
        await trio.sleep(30)
        assert not any(replica.driver.statistics().times_asleep for replica in replicas(cluster) if cluster.leader(TOPIC) != older)
