"""Groups that are opened, closed and spoken of."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from tests.node.rig import ME, TWO, batch_of, data
from trio_eventlog.codec.catalog import encode_command
from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.errors import EventLogError, TopicNotFound
from trio_eventlog.ids import CATALOG_GROUP, ClusterId, GroupId, NodeId
from trio_eventlog.machine.catalog import Command, CreateTopic, DeleteTopic, SetReplicas
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.inbox import Received
from trio_eventlog.node.replica import ReplicaSettings
from trio_eventlog.node.replicas import Replicas, ReplicasSettings
from trio_eventlog.raft import Message, MessageType, RaftSettings
from trio_eventlog.records import Acks
from trio_eventlog.service.broker import Broker
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import Operation, SimDisk


class Kit:
    """The groups of a node of one, and what it has sent."""

    def __init__(self, disk: SimDisk | None = None, voters: tuple[NodeId, ...] = (ME,), **settings: int) -> None:
        self.disk = disk if disk is not None else SimDisk(random.Random(1))
        self.voters = voters
        self.sent: list[tuple[GroupId, Message]] = []
        self.deleted: list[GroupId] = []
        self.settings = default(
            ReplicasSettings,
            replica=ReplicaSettings(
                raft=default(RaftSettings), driver=default(DriverSettings), log=default(LogSettings, preallocate_bytes=0)
            ),
            **settings,
        )
        self.replicas: Replicas

    def _send(self, group_id: GroupId, message: Message, frames: Sequence[EntryFrame]) -> bool:
        self.sent.append((group_id, message))
        return True

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Kit"]:
        async with DataDirectory.open(self.disk, "data", new_node_id=lambda: ME, now_seconds=lambda: 0.0) as directory:
            if not directory.cluster_id:
                await directory.set_cluster(ClusterId(1), "test")
            self.replicas = Replicas(
                node_id=ME,
                directory=directory,
                send=self._send,
                settings=self.settings,
                rng=random.Random(1),
                now_ns=lambda: 0,
                on_deleted=self.deleted.append,
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(self.replicas.run, self.voters)
                await trio.testing.wait_all_tasks_blocked()
                yield self
                nursery.cancel_scope.cancel()

    async def command(self, command: Command) -> object:
        proposal = await self.replicas.catalog.propose_control(encode_command(command))
        result = await proposal.outcome()
        await self.replicas.wait_current()
        await trio.testing.wait_all_tasks_blocked()
        return result


def create(name: str, partitions: int = 1) -> CreateTopic:
    return CreateTopic(name=name, partition_count=partitions, replicas=(ME,))


def heartbeat(group_id: int, term: int = 1) -> Received:
    return Received(Message(type=MessageType.HEARTBEAT, to=ME, sender=TWO, term=term))


async def test_partitions_open_and_close_with_their_topics() -> None:
    """Topics appear with their partitions, and go with their files."""
    async with Kit().open() as kit:
        await kit.command(create("a", 2))
        await kit.command(create("b"))
        assert [replica.name for replica in kit.replicas.all()] == ["catalog", "a/0", "a/1", "b/0"]
        assert all(replica.is_leader for replica in kit.replicas.all()), "a group of one waits for nobody"
        await kit.command(DeleteTopic(name="a"))
        assert list(kit.replicas.topics) == ["b"]
        assert sorted(kit.deleted) == [1, 2]
        assert kit.replicas.find(GroupId(1)) is None
        with pytest.raises(TopicNotFound):
            kit.replicas.get(GroupId(1))
        assert not await kit.disk.exists("data/groups/0000000000000001/hard_state")


async def test_after_a_restart_only_what_is_still_there_is_opened() -> None:
    """The catalog's whole history comes by; deleted topics are not opened on the way, and files left of them are removed."""
    kit = Kit()
    async with kit.open():
        for number in range(5):
            await kit.command(create(f"t{number}"))
        for number in range(4):
            await kit.command(DeleteTopic(name=f"t{number}"))
    # As if a crash had come before the files were removed.
    kit.disk.put("data/groups/0000000000000002/hard_state", b"left over")
    kit = Kit(kit.disk)
    async with kit.open():
        await kit.replicas.wait_current()
        assert [replica.name for replica in kit.replicas.all()] == ["catalog", "t4/0"]
        assert not await kit.disk.exists("data/groups/0000000000000002/hard_state")


async def test_a_group_of_one_that_has_moved_does_not_begin_again_when_it_comes_back() -> None:
    """A crash came before the files were removed: they go when the node is back, and nothing was applied again by then."""
    kit = Kit()
    elsewhere = SetReplicas(topic="t", group_id=GroupId(1), replicas=(TWO,), wanted=(TWO,))
    async with kit.open():
        await kit.command(create("t"))
        assert kit.replicas.get(GroupId(1)).is_leader
        files = {path: kit.disk.content(path) for path in kit.disk.paths() if path.startswith("data/groups/0000000000000001/")}
        await kit.command(elsewhere)
        assert kit.replicas.find(GroupId(1)) is None
    for path in [path for path in kit.disk.paths() if path.startswith("data/groups/0000000000000001/")]:
        kit.disk.delete(path)
    for path, content in files.items():
        kit.disk.put(path, content)
    kit = Kit(kit.disk)
    async with kit.open():
        await kit.replicas.wait_current()
        assert kit.replicas.find(GroupId(1)) is None
        await kit.command(attrs.evolve(elsewhere, replicas=(ME, TWO)))
        replica = kit.replicas.get(GroupId(1))
        for _ in range(50):
            kit.replicas.tick()
            await trio.testing.wait_all_tasks_blocked()
        assert replica.status().last_index == 0
        assert not replica.is_leader


async def test_messages_for_a_group_not_heard_of_yet_wait_for_it() -> None:
    """The leader's node may open a new partition before this one has applied the command. Entries are not kept: they come again."""
    async with Kit(early_messages_max=2).open() as kit:
        for term in (1, 2, 3):
            kit.replicas.receive(GroupId(1), heartbeat(1, term))
        kit.replicas.receive(GroupId(1), Received(heartbeat(1).message, [data(1, 1, 0, b"x")]))
        waiting = kit.replicas._early._by_group[GroupId(1)]
        assert [received.message.term for received in waiting] == [2, 3], "the newest two"
        await kit.command(create("t"))
        assert not len(kit.replicas._early)
        replica = kit.replicas.find(GroupId(1))
        assert replica is not None
        assert replica.status().hard_state.term >= 3, "they have arrived"


async def test_so_many_unknown_groups_and_no_more() -> None:
    """A peer that speaks of thousands of groups does not fill the memory; the oldest are forgotten."""
    async with Kit(early_groups_max=3).open() as kit:
        for group in range(1, 6):
            kit.replicas.receive(GroupId(group), heartbeat(group))
        assert kit.replicas._early.groups() == [3, 4, 5]


async def test_messages_for_deleted_groups_are_dropped() -> None:
    """Group ids are never used again, so nobody waits for them."""
    async with Kit().open() as kit:
        await kit.command(create("t"))
        await kit.command(DeleteTopic(name="t"))
        kit.replicas.receive(GroupId(1), heartbeat(1))
        assert not len(kit.replicas._early)


async def test_a_reset_link_concerns_the_groups_that_the_peer_led() -> None:
    """Others do not stand for election."""
    async with Kit(voters=(ME, TWO, NodeId(3))).open() as kit:
        kit.replicas.receive(CATALOG_GROUP, heartbeat(0, 5))
        await trio.testing.wait_all_tasks_blocked()
        assert kit.replicas.catalog.leader_id == TWO
        kit.sent.clear()
        kit.replicas.peer_reset(NodeId(3))
        await trio.sleep(1)
        assert [message.type for _, message in kit.sent] == []
        kit.replicas.peer_reset(TWO)
        await trio.sleep(1)
        assert MessageType.PRE_VOTE in [message.type for _, message in kit.sent]
        assert kit.replicas.catalog.leader_id == 0


async def search_while_deleted(delay_seconds: float) -> object:
    """The answer to a search by time in a partition that is deleted so long after it began; or the kind of error."""
    log = default(LogSettings, preallocate_bytes=0, tail_cache_bytes=0, segment_bytes=4096)
    kit = Kit()
    kit.settings = attrs.evolve(kit.settings, replica=attrs.evolve(kit.settings.replica, log=log))
    results: list[object] = []
    async with kit.open(), trio.open_nursery() as nursery:
        await kit.command(create("t"))
        replica = kit.replicas.get(GroupId(1))
        for _ in range(4):
            await (await replica.propose_batch(batch_of(bytes(2000)), Acks.QUORUM)).outcome()
        broker = Broker(kit.replicas)
        kit.disk.latency_seconds[Operation.READ] = kit.disk.latency_seconds[Operation.NAMES] = 0.01

        async def search() -> None:
            try:
                results.append(await broker.offset_at_timestamp(replica, 1))
            except EventLogError as error:
                results.append(type(error))

        nursery.start_soon(search)
        await trio.sleep(delay_seconds)
        await kit.command(DeleteTopic(name="t"))
        await trio.sleep(1)
    (result,) = results
    return result


async def test_a_search_by_time_in_a_partition_that_is_deleted_meanwhile_says_so() -> None:
    """Like a fetch: the log's own words about files that are closed are for nobody."""
    results = {await search_while_deleted(0.005 * steps) for steps in range(12)}
    assert results == {0, TopicNotFound}, "some ended before, some had the log closed under them"
