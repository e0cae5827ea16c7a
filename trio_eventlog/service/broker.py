"""Topics and partitions of this very node. A call that needs another node raises `NotLeader` and says which; see `forwarding`."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from trio_eventlog.codec.partition_command import FEATURE_LEVEL
from trio_eventlog.codec.stored_batch import entry_batch
from trio_eventlog.errors import (
    DamagedData,
    EventLogError,
    InvalidArgument,
    NotLeader,
    OffsetOutOfRange,
    TopicNotFound,
    Unavailable,
)
from trio_eventlog.ids import NOBODY, GroupId, NodeId
from trio_eventlog.machine.catalog import AlterTopic, CreateTopic, DeleteTopic, Topic
from trio_eventlog.machine.partition import LogStart
from trio_eventlog.node.remote_group import RemoteGroup
from trio_eventlog.node.replica import Replica
from trio_eventlog.node.replicas import Replicas
from trio_eventlog.node.retention import propose_trim
from trio_eventlog.records import Batch
from trio_eventlog.service.requests import ConsumeRequest, Fetched, Timestamp

T = TypeVar("T")

LEVEL_SECONDS_MAX = 2.0
"""Seconds that a command waits for a higher feature level: a new cluster reaches its level in its first rounds. When it
is over, the command is refused: some node is of an older release."""


class Broker:
    """Topics and records of one node."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._remote_groups: dict[GroupId, RemoteGroup] = {}

    @property
    def catalog(self) -> Replica:
        return self._replicas.catalog

    def group(self, group_id: GroupId) -> Replica | RemoteGroup:
        """This node's replica of a group, or what stands in for one. Raises TopicNotFound."""
        replica = self._replicas.find(group_id)
        if replica is not None:
            self._remote_groups.pop(group_id, None)
            return replica
        remote = self._remote_groups.get(group_id)
        if remote is None:
            # What is deleted is forgotten when something new is met, so that there are never more than there are partitions.
            place_of = self._replicas.machine.place_of
            self._remote_groups = {met: value for met, value in self._remote_groups.items() if met in place_of}
            name = self._replicas.catalog_follower.name_elsewhere(group_id)
            remote = RemoteGroup(
                group_id,
                name,
                lambda: self._replicas.catalog_follower.nodes_elsewhere(group_id),
                lambda: self._replicas.why_unopened(group_id),
            )
            self._remote_groups[group_id] = remote
        return remote

    def leads(self, group_id: GroupId) -> bool:
        """Whether this node leads the group."""
        replica = self._replicas.find(group_id)
        return replica is not None and replica.is_leader

    @property
    def catalog_index(self) -> int:
        """See `CatalogFollower.index`."""
        return self._replicas.catalog_index

    @property
    def applied_command_index(self) -> int:
        """See `CatalogFollower.applied_command_index`."""
        return self._replicas.catalog_follower.applied_command_index

    def find_topic(self, name: str) -> Topic | None:
        """None when this node knows no such topic, which may be because it is behind: see `wait_current`."""
        return self._replicas.topics.get(name)

    def topic(self, name: str) -> Topic:
        """Raises TopicNotFound."""
        topic = self.find_topic(name)
        if topic is None:
            raise TopicNotFound(f"there is no topic {name!r}: create it, or let a producer create it (auto_create_topics)")
        return topic

    def topics(self) -> Sequence[Topic]:
        return tuple(self._replicas.topics.values())

    async def wait_topic(self, name: str, *, present: bool) -> None:
        """Until this node knows the topic (or that it is gone)."""
        await self._replicas.catalog_follower.wait_topic(name, present=present)

    async def wait_settled(self, name: str) -> None:
        """Until every partition of the topic that lives here is open, or could not be opened at the first attempt."""
        await self._replicas.catalog_follower.wait_settled(name)

    def unopened(self, topic: Topic) -> dict[int, str]:
        """Partitions of the topic that live here and are not open: by number, why ("" while they are being opened)."""
        number_of = {partition.group_id: number for number, partition in enumerate(topic.partitions)}
        return {number_of[item.group_id]: item.trouble for item in self._replicas.unopened() if item.group_id in number_of}

    async def wait_current(self) -> None:
        """Until this node knows every topic created, and none deleted, by calls that were answered before this one."""
        await self._replicas.wait_current()

    def replica(self, topic_name: str, partition: int) -> Replica:
        """This node's replica of a partition. Raises TopicNotFound; NotLeader when only other nodes have one."""
        return self._replicas.get(self._group_id(topic_name, partition))

    def _group_id(self, topic_name: str, partition: int) -> GroupId:
        topic = self.topic(topic_name)
        if partition >= len(topic.partitions):
            raise TopicNotFound(
                f"topic {topic_name!r} has {len(topic.partitions)} partitions, numbered from 0: there is no partition {partition}"
            )
        return topic.partitions[partition].group_id

    async def fetch(self, replica: Replica, request: ConsumeRequest, offset: int) -> Fetched:
        """Committed batches from `offset` on, as many as fit `max_bytes`, but at least one if there is one; no further ones
        once they hold `max_records` from `offset` on (0: no bound).

        Args:
            replica: a topic of the same name made later has other records at the same offsets.

        Raises:
            OffsetOutOfRange: below the log's start or above the high watermark.
            Unavailable: it is damaged here: read at another node.
            DamagedData: it is damaged, and no other node has it.
            TopicNotFound, NotLeader: the replica was closed, since its topic was deleted, or since it has moved.
        """
        return await self.reading(replica, partial(self._fetch, replica, request, offset))

    async def offset_at_timestamp(self, replica: Replica, timestamp_ns: int) -> int:
        """As `Replica.offset_at_timestamp`. Raises as `fetch`."""
        return await self.reading(replica, partial(replica.offset_at_timestamp, timestamp_ns))

    async def reading(self, replica: Replica, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives, which reads the replica's log. Raises as `fetch`, and as `work` does."""
        try:
            return await work()
        except (EventLogError, OSError, IndexError) as error:
            self._tell_if_closed(replica, error)
            raise

    def _tell_if_closed(self, replica: Replica, error: Exception) -> None:
        """A replica may be closed while its disk is read. Then that is the news, whatever its log had to say to it.

        Damage is reported, and then the reader has to go to another node, if others have what is damaged.
        """
        if self._replicas.find(replica.group_id) is not replica:
            self._replicas.get(replica.group_id)
            raise NotLeader(f"{replica.name} has moved, and is back: ask again") from error
        if isinstance(error, DamagedData) and replica.report_damage(error):
            raise Unavailable(f"{replica.name}: it is damaged on this node, and is being mended: read at another one") from error

    async def _fetch(self, replica: Replica, request: ConsumeRequest, offset: int) -> Fetched:
        self._replicas.get(replica.group_id)
        high_watermark = replica.watermark.value
        log_start_offset = replica.log.log_start_offset
        if not log_start_offset <= offset <= high_watermark:
            raise OffsetOutOfRange(
                f"offset {offset} of {request.topic!r} partition {request.partition}: readable are {log_start_offset} up to"
                f" {high_watermark} (exclusive)",
                log_start_offset,
                high_watermark,
            )
        batches: list[Batch] = []
        next_offset = offset
        if offset < high_watermark:
            records = 0
            for frame in await replica.log.read_by_offset(offset, high_watermark, request.max_bytes):
                if not frame.record_count:
                    continue
                if request.max_records and records >= request.max_records:
                    break
                batches.append(entry_batch(frame))
                records += frame.end_offset - max(frame.base_offset, offset)
                next_offset = frame.end_offset
        return Fetched(
            batches=batches,
            offset=offset,
            next_offset=next_offset,
            high_watermark=high_watermark,
            log_start_offset=log_start_offset,
            group_id=replica.group_id,
        )

    async def create_topic(
        self,
        name: str,
        partition_count: int,
        *,
        replica_count: int = 0,
        retention_bytes: int = 0,
        retention_seconds: int = 0,
        kind: str = "",
    ) -> Topic:
        """Create a topic on every voter of the catalog.

        Raises:
            TopicExists, InvalidArgument, NotLeader, OutcomeUnknown.
            TooManyPartitions: a node that would carry some has no room for them. Nothing was proposed.
        """
        catalog = self._replicas.catalog
        if not catalog.is_leader:
            raise NotLeader("topics are created by the catalog's leader: go there", catalog.leader_id)
        voters = frozenset(catalog.voters())
        if replica_count > len(voters):
            raise InvalidArgument(f"{replica_count} replicas asked for, but the cluster has {len(voters)} voters")
        command = CreateTopic(
            name=name,
            partition_count=partition_count,
            replicas=tuple(sorted(voters)),
            replica_count=replica_count,
            retention_bytes=retention_bytes,
            retention_seconds=retention_seconds,
            kind=kind or None,
        )
        with self._replicas.room.held_for(command):
            return await self._command(command)

    async def trim(self, group_id: GroupId, before: int | Timestamp) -> int:
        """Have a partition that this node leads begin at an offset, or with what is of a time; returns its log start offset then.

        Raises:
            OffsetOutOfRange: an offset above the high watermark.
            NotLeader, TopicNotFound, InvalidArgument, OutcomeUnknown: see `propose_trim`.
        """
        replica = self.group(group_id)
        if isinstance(replica, RemoteGroup):
            raise replica.refusal()
        if not replica.is_leader:
            raise NotLeader(f"{replica.name} is not led by this node", replica.leader_id)
        offset = await self.offset_at_timestamp(replica, before.ns) if isinstance(before, Timestamp) else before
        log_start_offset, high_watermark = replica.log.log_start_offset, replica.watermark.value
        if offset > high_watermark:
            raise OffsetOutOfRange(
                f"offset {offset} of {replica.name} is above {high_watermark}, the end: give one up to that",
                log_start_offset,
                high_watermark,
            )
        if offset <= log_start_offset:
            return log_start_offset
        index = replica.applied_index if offset == high_watermark else await replica.log.find_offset(offset) - 1
        with trio.move_on_after(LEVEL_SECONDS_MAX):
            await self._replicas.catalog_follower.wait_level(FEATURE_LEVEL)
        return (await propose_trim(replica, self._replicas.machine, LogStart(index, offset))).offset

    async def alter_topic(
        self, name: str, group_id: GroupId, *, retention_bytes: int | None, retention_seconds: int | None
    ) -> Topic:
        """Change the topic whose partition 0 has this group; None: it stays as it is.

        Raises TopicNotFound, TopicRecreated, InvalidArgument, NotLeader, OutcomeUnknown.
        """
        command = AlterTopic(name=name, group_id=group_id, retention_bytes=retention_bytes, retention_seconds=retention_seconds)
        return await self._command(command)

    async def delete_topic(self, name: str) -> Topic:
        """Raises TopicNotFound, InvalidArgument, NotLeader, OutcomeUnknown."""
        return await self._command(DeleteTopic(name=name))

    async def _command(self, command: CreateTopic | AlterTopic | DeleteTopic) -> Topic:
        if not isinstance(command, DeleteTopic):
            # The nodes of a new cluster need a moment until each has reported the level that it supports.
            with trio.move_on_after(LEVEL_SECONDS_MAX):
                await self._replicas.catalog_follower.wait_level_of(command)
        topic = await self._replicas.command(command)
        assert isinstance(topic, Topic)
        return topic

    def leader_of(self, topic: Topic, partition: int) -> NodeId:
        """Who leads the partition, as far as this node knows; NOBODY when it does not."""
        group_id = topic.partitions[partition].group_id
        replica = self._replicas.find(group_id)
        if replica is not None:
            return replica.leader_id
        remote = self._remote_groups.get(group_id)
        return remote.known_leader_id if remote is not None else NOBODY
