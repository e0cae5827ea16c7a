"""One replica on a simulated disk, whose peers are played by the test, message by message."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio
import trio.testing

from trio_eventlog.codec.batch import encode_records, stamp
from trio_eventlog.codec.entry import EntryFrame, encode_entry
from trio_eventlog.codec.lives import Extent
from trio_eventlog.codec.raft_message import entry_of
from trio_eventlog.codec.stored_batch import batch_entry
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.machine.partition import PartitionMachine
from trio_eventlog.node.appliers import PartitionApplier
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.inbox import Received
from trio_eventlog.node.replica import Replica, ReplicaSettings, open_replica
from trio_eventlog.node.sleeping import Peers
from trio_eventlog.node.watermark import Watermark
from trio_eventlog.raft import Configuration, EntryKind, Message, MessageType, RaftSettings
from trio_eventlog.records import Batch, Record
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.sealed_segments import WITHIN_ONE_LOG, SealedSegments
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import SimDisk

ME, TWO, THREE = NodeId(1), NodeId(2), NodeId(3)


def batch_of(*values: bytes, producer_id: int = 0, base_sequence: int = 0, epoch: int = 0) -> Batch:
    batch = encode_records([Record(value=value) for value in values], now_ns=1)
    return stamp(batch, producer_id=producer_id, producer_epoch=epoch, base_sequence=base_sequence)


def data(term: int, index: int, base_offset: int, *values: bytes, **stamps: int) -> EntryFrame:
    return batch_entry(batch_of(*values, **stamps), term=term, index=index, base_offset=base_offset)


def no_op(term: int, index: int, base_offset: int) -> EntryFrame:
    return encode_entry(EntryKind.NO_OP, term=term, index=index, base_offset=base_offset)


class Rig:
    """A replica and what it has sent. `tick_seconds` does not exist here: ticks are given by hand."""

    def __init__(
        self,
        disk: SimDisk | None = None,
        *,
        voters: Sequence[int] = (1, 2, 3),
        driver: DriverSettings | None = None,
        raft: RaftSettings | None = None,
        log: LogSettings | None = None,
        open_segments_max: int = WITHIN_ONE_LOG,
        seed: int = 1,
        peers: Peers | None = None,
    ) -> None:
        self.seed = seed
        self.open_segments_max = open_segments_max
        self.peers = peers
        self.disk = disk if disk is not None else SimDisk(random.Random(1))
        self.settings = ReplicaSettings(
            raft=raft or default(RaftSettings),
            driver=driver or default(DriverSettings),
            log=log or default(LogSettings, preallocate_bytes=0),
        )
        self.voters = frozenset(map(NodeId, voters))
        self.noted: Extent | None = None
        self.is_made = False
        self.sent: list[tuple[Message, Sequence[EntryFrame]]] = []
        self.offered: list[Message] = []
        """SNAPSHOT messages that the replica cannot take as it is."""
        self.links_are_up = True
        self.machine = PartitionMachine(5, 100)
        self.replica: Replica

    def _send(self, group_id: GroupId, message: Message, frames: Sequence[EntryFrame]) -> bool:
        if self.links_are_up:
            self.sent.append((message, frames))
        return self.links_are_up

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Rig"]:
        watermark = Watermark()
        async with open_replica(
            node_id=ME,
            group_id=GroupId(7),
            name="t/0",
            disk=self.disk,
            directory="g",
            configuration=Configuration(voters=self.voters),
            applier=PartitionApplier(self.machine, watermark),
            watermark=watermark,
            send=self._send,
            settings=self.settings,
            sealed=SealedSegments(self.open_segments_max),
            rng=random.Random(self.seed),
            peers=self.peers,
            noted=self.noted,
            is_made=self.is_made,
            on_snapshot=self.offered.append,
        ) as self.replica:
            yield self

    @property
    def term(self) -> int:
        return self.replica.status().hard_state.term

    def take_sent(self, kind: MessageType | None = None) -> list[tuple[Message, Sequence[EntryFrame]]]:
        """What was sent since the last call, of one kind; the rest is forgotten."""
        sent, self.sent = self.sent, []
        return [item for item in sent if kind is None or item[0].type is kind]

    def give(self, message: Message, frames: Sequence[EntryFrame] = ()) -> None:
        """A peer's message, without letting anything run."""
        self.replica.driver.receive(Received(attrs.evolve(message, entries=tuple(map(entry_of, frames))), frames))

    def give_append(self, sender: NodeId, term: int, previous: tuple[int, int], *frames: EntryFrame, commit: int = 0) -> None:
        """`previous` is (term, index) of the entry before the first one."""
        log_term, index = previous
        message = Message(
            type=MessageType.APPEND,
            to=ME,
            sender=sender,
            term=term,
            log_term=log_term,
            index=index,
            last_index=index + len(frames),
            commit=commit,
        )
        self.give(message, frames)

    def give_response(self, kind: MessageType, sender: NodeId, *, term: int | None = None, index: int = 0) -> None:
        self.give(Message(type=kind, to=ME, sender=sender, term=self.term if term is None else term, index=index))

    async def settle(self) -> None:
        """Until nothing moves but the clock."""
        await trio.testing.wait_all_tasks_blocked()

    async def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.replica.driver.tick()
            await self.settle()

    async def lead(self) -> None:
        """Win an election by the vote of node 2, and have the entry that opens the term committed."""
        self.replica.driver.requests.campaign()
        await self.settle()
        self.give_response(MessageType.PRE_VOTE_RESPONSE, TWO, term=self.term + 1)
        await self.settle()
        self.give_response(MessageType.VOTE_RESPONSE, TWO)
        await self.settle()
        assert self.replica.is_leader
        await self.acknowledge()

    async def acknowledge(self, sender: NodeId = TWO) -> None:
        """The follower has everything."""
        self.give_response(MessageType.APPEND_RESPONSE, sender, index=self.replica.status().last_index)
        await self.settle()
