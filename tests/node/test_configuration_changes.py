"""Changing a group's configuration through its driver: groups of one on a simulated disk, and what waits for them."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from trio_eventlog.errors import EventLogError, NotLeader, OutcomeUnknown, ShuttingDown
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.machine.partition import PartitionMachine
from trio_eventlog.node.appliers import PartitionApplier
from trio_eventlog.node.configuration_changes import PendingChanges
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.replica import Replica, ReplicaSettings, open_replica
from trio_eventlog.node.watermark import Watermark
from trio_eventlog.raft import (
    ChangeKind,
    Configuration,
    ConfigurationChange,
    ConfigurationError,
    NodeChange,
    ProposalDropped,
    RaftSettings,
)
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.sealed_segments import SealedSegments
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import SimDisk

ONE, TWO = NodeId(1), NodeId(2)
LEARN_TWO = ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_LEARNER, TWO),))
VOTE_TWO = ConfigurationChange(changes=(NodeChange(ChangeKind.ADD_VOTER, TWO),))
REMOVE_ONE = ConfigurationChange(changes=(NodeChange(ChangeKind.REMOVE, ONE),))


@asynccontextmanager
async def group_of_one(disk: SimDisk) -> AsyncIterator[Replica]:
    watermark = Watermark()
    async with open_replica(
        node_id=ONE,
        group_id=GroupId(7),
        name="t/0",
        disk=disk,
        directory="g",
        configuration=Configuration(voters=frozenset({ONE})),
        applier=PartitionApplier(PartitionMachine(5, 100), watermark),
        watermark=watermark,
        send=lambda group_id, message, frames: True,
        settings=ReplicaSettings(
            raft=default(RaftSettings), driver=default(DriverSettings), log=default(LogSettings, preallocate_bytes=0)
        ),
        sealed=SealedSegments(2),
        rng=random.Random(1),
    ) as replica:
        yield replica


async def lead(replica: Replica) -> None:
    replica.driver.requests.campaign()
    await replica.wait_leader_other_than(NodeId(0))


async def test_a_change_is_answered_with_the_configuration_it_leads_to(autojump_clock: object) -> None:
    """A learner, by the only voter's own decision; and it is still there after a restart."""
    disk = SimDisk(random.Random(1))
    async with group_of_one(disk) as replica:
        await lead(replica)
        changed = await replica.change_configuration(LEARN_TWO)
        assert changed == Configuration(voters=frozenset({ONE}), learners=frozenset({TWO})) == replica.status().configuration
    async with group_of_one(disk) as replica:
        await replica.wait_applied(2)
        await trio.testing.wait_all_tasks_blocked()
        assert replica.status().configuration == changed


async def test_refusals_reach_whoever_asked(autojump_clock: object) -> None:
    """Not the leader; not legal; another change still unapplied. Nothing is changed by any of them."""
    async with group_of_one(SimDisk(random.Random(1))) as replica:
        with pytest.raises(NotLeader):
            await replica.change_configuration(LEARN_TWO)
        await lead(replica)
        with pytest.raises(ConfigurationError):
            await replica.change_configuration(REMOVE_ONE)
        results: list[object] = []

        async def ask(change: ConfigurationChange) -> None:
            try:
                results.append(await replica.change_configuration(change))
            except EventLogError as error:
                results.append(type(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, LEARN_TWO)
            nursery.start_soon(ask, LEARN_TWO)
        assert sorted(map(str, results))[0] == str(ProposalDropped)
        assert len(results) == 2


async def test_a_node_that_stops_leaves_nobody_waiting(autojump_clock: object) -> None:
    """The second voter never answers, so nothing is committed; whoever waits hears of the stop."""
    async with trio.open_nursery() as nursery:
        async with group_of_one(SimDisk(random.Random(1))) as replica:
            await lead(replica)
            await replica.change_configuration(VOTE_TWO)

            @nursery.start_soon
            async def wait_in_vain() -> None:
                with pytest.raises(ShuttingDown):
                    await replica.change_configuration(ConfigurationChange(changes=(NodeChange(ChangeKind.REMOVE, TWO),)))

            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ShuttingDown):
            await replica.change_configuration(LEARN_TWO)


async def test_a_lost_leadership_leaves_the_outcome_open() -> None:
    """Another leader's change at the same index is not the answer to ours; what is not in the log yet may still get there."""
    changes = PendingChanges()
    ours, lost, queued = changes.add(LEARN_TWO), changes.add(VOTE_TWO), changes.add(REMOVE_ONE)
    ours.index, lost.index = 5, 6
    changes.applied(5, VOTE_TWO, Configuration(voters=frozenset({ONE, TWO})))
    with pytest.raises(OutcomeUnknown):
        await ours.outcome()
    changes.abandon(OutcomeUnknown("lost"))
    with pytest.raises(OutcomeUnknown):
        await lost.outcome()
    queued.index = 7
    changes.applied(7, REMOVE_ONE, ConfigurationError("no"))
    with pytest.raises(ConfigurationError):
        await queued.outcome()
