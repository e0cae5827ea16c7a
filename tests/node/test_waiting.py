"""Everybody who waits for something of a replica, and every way in which the replica ends: nobody is left waiting."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.node.rig import ME, THREE, TWO, Rig, batch_of, no_op
from trio_eventlog.errors import EventLogError, ShuttingDown, StorageFailed, TopicNotFound
from trio_eventlog.ids import NodeId
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.raft import ChangeKind, ConfigurationChange, NodeChange, RaftSettings
from trio_eventlog.records import Acks, Batch
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import Operation

PLAIN = batch_of(bytes(100))
REPEATED = batch_of(bytes(100), producer_id=9)
GAP = batch_of(b"x", producer_id=8, base_sequence=5)
RAFT = default(RaftSettings, uncommitted_bytes_max=400)
DRIVER = default(DriverSettings, proposal_bytes_max=250)

Wait = Callable[[Rig], Awaitable[object]]


async def outcome(rig: Rig, batch: Batch = PLAIN, acks: Acks = Acks.QUORUM) -> object:
    return await (await rig.replica.propose_batch(batch, acks)).outcome()


async def outcome_of_a_repetition(rig: Rig) -> object:
    await rig.replica.propose_batch(REPEATED, Acks.QUORUM)
    return await outcome(rig, REPEATED)


async def outcome_of_a_batch_that_cannot_follow(rig: Rig) -> object:
    """The leader knows the producer, and makes sure that it leads before it refuses."""
    first = await rig.replica.propose_batch(batch_of(b"x", producer_id=8), Acks.QUORUM)
    await rig.settle()
    await rig.acknowledge()
    await first.outcome()
    return await outcome(rig, GAP)


async def queued(rig: Rig) -> object:
    """The window of the core is full, the queue is not."""
    for _ in range(3):
        await rig.replica.propose_batch(PLAIN, Acks.QUORUM)
        await rig.settle()
    return await outcome(rig)


async def room_in_the_queue(rig: Rig) -> object:
    for _ in range(5):
        await rig.replica.propose_batch(PLAIN, Acks.QUORUM)
        await rig.settle()
    return await rig.replica.propose_batch(PLAIN, Acks.QUORUM)


async def block_of_a_leader(rig: Rig) -> object:
    with trio.CancelScope() as scope, rig.replica.while_led_by(ME, scope):
        await trio.sleep_forever()
    raise ShuttingDown("the block was left")


LEARN_FOUR = ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_LEARNER, NodeId(4)),))

OF_A_LEADER: dict[str, Wait] = {
    "outcome": outcome,
    "outcome, own disk": lambda rig: outcome(rig, acks=Acks.LEADER),
    "outcome of a repetition": outcome_of_a_repetition,
    "outcome of a batch that cannot follow": outcome_of_a_batch_that_cannot_follow,
    "queued": queued,
    "room in the queue": room_in_the_queue,
    "configuration": lambda rig: rig.replica.change_configuration(LEARN_FOUR),
    "linearizable read": lambda rig: rig.replica.wait_linearizable(),
    "applied": lambda rig: rig.replica.wait_applied(100),
    "readable": lambda rig: rig.replica.wait_readable(100),
    "another leader": lambda rig: rig.replica.wait_leader_other_than(ME),
    "block of a leader": block_of_a_leader,
    "transfer": lambda rig: rig.replica.transfer_leadership(THREE, 100),
}
OF_A_FOLLOWER: dict[str, Wait] = {
    "linearizable read, no leader": lambda rig: rig.replica.wait_linearizable(),
    "linearizable read, asked": lambda rig: rig.replica.wait_linearizable(),
    "another leader, none now": lambda rig: rig.replica.wait_leader_other_than(rig.replica.leader_id),
}
WAITS = OF_A_LEADER | OF_A_FOLLOWER


async def left(rig: Rig) -> None:
    """The block of the replica ends."""


async def closed(rig: Rig) -> None:
    rig.replica.close(TopicNotFound("it was deleted"))


async def closed_twice(rig: Rig) -> None:
    await closed(rig)
    rig.replica.close(ShuttingDown("too late"))


async def failed(rig: Rig) -> None:
    """The driver ends with an error of its own, as by a write that fails."""

    def fail() -> None:
        raise StorageFailed("the disk is gone")

    rig.replica.driver.requests.add(fail)
    await trio.sleep(1)


WAYS = {"left": left, "closed": closed, "closed twice": closed_twice, "failed": failed}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", WAITS)
async def test_nobody_waits_for_a_replica_that_has_ended(what: str, way: str) -> None:
    """Who waits is told when it ends, and who comes later at once; by the error of whoever closed it."""
    results: list[EventLogError] = []
    rig = Rig(raft=RAFT, driver=DRIVER)

    async def wait() -> None:
        try:
            await WAITS[what](rig)
        except EventLogError as error:
            results.append(error)

    async with trio.open_nursery() as nursery:
        try:
            async with rig.open():
                if what in OF_A_LEADER:
                    await rig.lead()
                elif "none now" not in what and "no leader" not in what:
                    rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0))
                await rig.settle()
                if what == "outcome, own disk":
                    rig.disk.latency_seconds[Operation.SYNC] = 50.0
                nursery.start_soon(wait)
                for _ in range(20):
                    await rig.settle()
                assert results == []
                await WAYS[way](rig)
        except* StorageFailed:
            assert way == "failed"
        for _ in range(20):
            await rig.settle()
        assert len(results) == 1, "it was told"
        if way.startswith("closed") and what != "block of a leader":
            assert isinstance(results[0], TopicNotFound)
        with trio.fail_after(1):
            await wait()
        assert len(results) == 2, "who comes later is told at once"
        nursery.cancel_scope.cancel()
