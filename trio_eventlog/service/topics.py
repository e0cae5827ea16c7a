"""Creating, deleting and finding topics from any node: the catalog's leader decides, this node waits until it knows."""

from functools import partial

import attrs
import trio

from trio_eventlog.errors import InvalidArgument, NoQuorum, OutcomeUnknown, TopicExists, TopicNotFound, TopicRecreated
from trio_eventlog.ids import CATALOG_GROUP, GroupId, NodeId, format_id
from trio_eventlog.machine.catalog import Topic
from trio_eventlog.node.replica import Replica
from trio_eventlog.service.broker import Broker
from trio_eventlog.service.forwarding import Doubt, Forwarder
from trio_eventlog.service.remote_node import RemoteNode
from trio_eventlog.service.requests import Timestamp
from trio_eventlog.service.values import (
    NOBODY_IN_PARTICULAR,
    AsOf,
    Caller,
    NewTopic,
    PartitionInfo,
    TopicChange,
    TopicDescription,
    TopicDiskUse,
    TopicInfo,
)


class TopicAdministration:
    """Topics as a client sees them: what a call has created is there when the next call asks this node."""

    def __init__(self, broker: Broker, forwarder: Forwarder, *, visible_seconds_max: float) -> None:
        self._broker = broker
        self._forwarder = forwarder
        self._visible_seconds_max = visible_seconds_max

    async def create(self, new: NewTopic, caller: Caller) -> AsOf[TopicInfo]:
        """Make a topic; returns when this node has opened its partitions, or after half of the caller's time.

        Raises TopicExists, InvalidArgument, TooManyPartitions, NoQuorum, OutcomeUnknown; NotLeader when the call was
        forwarded here in vain.
        """
        topic = await self._create(new, caller)
        info = attrs.evolve(topic_info(topic), unopened_partitions=len(self._broker.unopened(topic)))
        # Of what is applied, and not of what is carried out: the answer must not claim to be older than this very change.
        return AsOf(info, self._broker.applied_command_index)

    async def _create(self, new: NewTopic, caller: Caller) -> Topic:
        doubt = Doubt()
        try:
            name = await self._forwarder.at_leader(
                self._broker.catalog, partial(self._create_here, new), partial(_create_there, new, caller), doubt, caller=caller
            )
        except OutcomeUnknown as error:
            if not isinstance(error.__cause__, TopicExists):
                raise
            # An attempt whose answer was lost has created it, unless another caller did at the same moment.
            name = new.name
        await self._wait(name, present=True)
        if not caller.is_forwarded:
            # The node that was asked first waits, and the caller's deadline is not used up by it: the topic is made.
            deadline = min(trio.current_effective_deadline(), caller.deadline)
            seconds_max = (deadline - trio.current_time()) / 2
            with trio.move_on_after(max(0.0, min(seconds_max, self._visible_seconds_max))):
                await self._broker.wait_settled(name)
        return self._broker.topic(name)

    async def _create_here(self, new: NewTopic) -> str:
        topic = await self._broker.create_topic(
            new.name,
            new.partitions,
            replica_count=new.replicas,
            retention_bytes=new.retention_bytes,
            retention_seconds=new.retention_seconds,
            kind=new.kind,
        )
        return topic.name

    async def alter(self, change: TopicChange, caller: Caller) -> AsOf[TopicInfo]:
        """Change a topic; returns it as it is then.

        Raises TopicNotFound, TopicRecreated, InvalidArgument, NoQuorum, OutcomeUnknown; NotLeader when the call was forwarded here
        in vain.
        """
        if change.retention_bytes is None and change.retention_seconds is None:
            raise InvalidArgument(f"no change of topic {change.name!r} is given")
        topic = await self.find(change.name, group_id=change.group_id, caller=caller)
        # Named from here on: an attempt that is repeated must not change a topic that was made meanwhile.
        change = attrs.evolve(change, group_id=topic.partitions[0].group_id)
        try:
            await self._forwarder.at_leader(
                self._broker.catalog,
                partial(self._alter_here, change),
                partial(_alter_there, change, caller),
                Doubt(),
                caller=caller,
            )
        except OutcomeUnknown as error:
            if isinstance(error.__cause__, TopicNotFound):
                # Whether or not an attempt whose answer was lost has changed it: it is gone.
                raise error.__cause__ from error
            raise
        await self.wait_current(f"of the change of topic {change.name!r}, which was made")
        topic = await self.find(change.name, group_id=change.group_id, caller=caller)
        return AsOf(topic_info(topic), self._broker.catalog_index)

    async def _alter_here(self, change: TopicChange) -> None:
        await self._broker.alter_topic(
            change.name,
            GroupId(change.group_id),
            retention_bytes=change.retention_bytes,
            retention_seconds=change.retention_seconds,
        )

    async def delete(self, name: str, caller: Caller) -> AsOf[None]:
        """Raises TopicNotFound, InvalidArgument, NoQuorum, OutcomeUnknown; NotLeader when the call was forwarded here in vain."""
        doubt = Doubt()
        try:
            await self._forwarder.at_leader(
                self._broker.catalog, partial(self._delete_here, name), partial(_delete_there, name, caller), doubt, caller=caller
            )
        except OutcomeUnknown as error:
            if not isinstance(error.__cause__, TopicNotFound):
                raise
            # An attempt whose answer was lost has deleted it, or another caller has meanwhile.
        await self._wait(name, present=False)
        return AsOf(None, self._broker.applied_command_index)

    async def _delete_here(self, name: str) -> None:
        await self._broker.delete_topic(name)

    async def trim(self, group_id: GroupId, before: int | Timestamp, caller: Caller) -> int:
        """Give up what a partition holds before an offset or a time, on every replica; returns its log start offset then.

        Raises:
            TopicNotFound: there is no such partition.
            OffsetOutOfRange: an offset above the high watermark.
            InvalidArgument: a node of the cluster is of a release that cannot do it.
            NoQuorum, OutcomeUnknown; NotLeader when the call was forwarded here in vain.
        """
        if group_id == CATALOG_GROUP:
            raise InvalidArgument("the catalog cannot be trimmed: name a partition of a topic")
        return await self._forwarder.at_leader(
            self._broker.group(group_id),
            partial(self._broker.trim, group_id, before),
            partial(_trim_there, group_id, before, caller),
            Doubt(),
            caller=caller,
        )

    async def describe(self, name: str, caller: Caller, *, create: bool = False) -> AsOf[TopicDescription]:
        """A topic with its partitions. Raises as `find`."""
        topic = await self.find(name, create=create, caller=caller)
        unopened = self._broker.unopened(topic)
        partitions = []
        for number, partition in enumerate(topic.partitions):
            place = self._broker.group(partition.group_id)
            replica = place if isinstance(place, Replica) else None
            partitions.append(
                PartitionInfo(
                    partition=number,
                    group_id=partition.group_id,
                    leader_id=id_text(self._broker.leader_of(topic, number)),
                    replica_ids=tuple(map(format_id, partition.wanted)),
                    log_start_offset=replica.log.log_start_offset if replica is not None else 0,
                    high_watermark=replica.watermark.value if replica is not None else 0,
                    problem=(unopened[number] or "being opened") if replica is None and number in unopened else "",
                    size_bytes=replica.log.size_bytes if replica is not None else None,
                )
            )
        described = TopicDescription(topic=topic_info(topic), partitions=tuple(partitions))
        return AsOf(described, self._broker.catalog_index)

    def disk_use(self) -> list[TopicDiskUse]:
        """Of each topic with a partition that is open on this node, the largest first."""
        uses = []
        for topic in self._broker.topics():
            places = [self._broker.group(partition.group_id) for partition in topic.partitions]
            sizes = [place.log.size_bytes for place in places if isinstance(place, Replica)]
            if sizes:
                uses.append(TopicDiskUse(name=topic.name, partitions=len(sizes), size_bytes=sum(sizes)))
        return sorted(uses, key=lambda use: (-use.size_bytes, use.name))

    def known(self, name: str, partition: int, group_id: int) -> Topic | None:
        """The topic when this node knows it and the partition, and nothing has to be asked; None otherwise: see `find`."""
        topic = self._broker.find_topic(name)
        if topic is None or partition >= len(topic.partitions):
            return None
        return topic if not group_id or topic.partitions[partition].group_id == group_id else None

    async def find(
        self,
        name: str,
        partition: int = 0,
        group_id: int = 0,
        *,
        create: bool = False,
        kind: str = "",
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> Topic:
        """The topic, which has this partition.

        What this node has not heard of, another one may have created just now. So nothing is said to be missing before this node
        has applied everything that the catalog's leader has acknowledged.

        Args:
            group_id: what the caller takes the partition's group for; 0: the caller does not know.
            create: make the topic if it does not exist.
            kind: of a topic that is made; see `NewTopic`.

        Raises:
            TopicNotFound: it does not exist: it was never created, or deleted before this call.
            TopicRecreated: the topic whose partition had this group was deleted; another one has its name.
            NoQuorum: this node does not know it, and cannot find out whether others do.
        """
        topic = self._broker.find_topic(name)
        if topic is None and create:
            topic = await self._create_on_first_use(name, kind, caller)
        if topic is None or not _has(topic, partition, group_id):
            await self.wait_current(f"whether topic {name!r} has a partition {partition}")
            topic = self._broker.find_topic(name)
        if topic is None:
            raise TopicNotFound(
                f"there is no topic {name!r}: create it, or let a producer create it (auto_create_topics)",
                self._broker.catalog_index,
            )
        if partition >= len(topic.partitions):
            raise TopicNotFound(
                f"topic {name!r} has {len(topic.partitions)} partitions, numbered from 0: there is no partition {partition}",
                self._broker.catalog_index,
            )
        if group_id and topic.partitions[partition].group_id != group_id:
            raise TopicRecreated(
                f"topic {name!r} was deleted and created again: what belonged to the old one, offsets and batches on their way,"
                " means nothing in the new one. Begin anew",
                self._broker.catalog_index,
            )
        return topic

    async def _create_on_first_use(self, name: str, kind: str, caller: Caller) -> Topic:
        try:
            return await self._create(NewTopic(name=name, kind=kind), caller)
        except TopicExists:
            # Another caller was quicker, or this node is behind: it will know soon.
            await self._wait(name, present=True)
            return self._broker.topic(name)
        except OutcomeUnknown as error:
            # The topic may come to be made. Of what the caller wants to do with it, nothing was done.
            raise NoQuorum(f"topic {name!r} could not be made for certain: {error}") from error

    async def list_all(self) -> AsOf[list[TopicInfo]]:
        """Every topic created, and none deleted, by calls that were answered before this one. Raises NoQuorum."""
        await self.wait_current("which topics there are")
        return AsOf(list(map(topic_info, self._broker.topics())), self._broker.catalog_index)

    async def wait_current(self, what: str) -> None:
        """Until this node shows every change of topics that was acknowledged before the call.

        Raises:
            NoQuorum: it could not find out in time; the text calls `what` unknown.
        """
        with trio.move_on_after(self._visible_seconds_max) as scope:
            await self._broker.wait_current()
        if scope.cancelled_caught:
            raise NoQuorum(f"this node does not know {what}, and cannot ask the catalog's leader: ask again, or ask another node")

    async def _wait(self, name: str, *, present: bool) -> None:
        with trio.move_on_after(self._visible_seconds_max) as scope:
            await self._broker.wait_topic(name, present=present)
        if scope.cancelled_caught:
            raise NoQuorum(f"topic {name!r} was changed, but this node has not heard of it yet: ask again, or ask another node")


def topic_info(topic: Topic) -> TopicInfo:
    return TopicInfo(
        name=topic.name,
        partitions=len(topic.partitions),
        replicas=len(topic.partitions[0].wanted),
        retention_bytes=topic.retention_bytes,
        retention_seconds=topic.retention_seconds,
        group_ids=tuple(partition.group_id for partition in topic.partitions),
        kind=topic.kind or "",
    )


def id_text(node_id: NodeId) -> str:
    """The id as clients see it: "" for no node."""
    return format_id(node_id) if node_id else ""


async def _create_there(new: NewTopic, caller: Caller, node: RemoteNode) -> str:
    return await node.create_topic(new, caller)


async def _alter_there(change: TopicChange, caller: Caller, node: RemoteNode) -> None:
    await node.alter_topic(change, caller)


async def _trim_there(group_id: GroupId, before: int | Timestamp, caller: Caller, node: RemoteNode) -> int:
    return await node.trim_partition(group_id, before, caller)


async def _delete_there(name: str, caller: Caller, node: RemoteNode) -> None:
    await node.delete_topic(name, caller)


def _has(topic: Topic, partition: int, group_id: int) -> bool:
    """Whether a caller can be answered by what this node knows. Group ids only grow: of two topics of one name, the one with the
    larger ids is the newer one, and what a caller has from an older one needs no more asking."""
    return partition < len(topic.partitions) and topic.partitions[partition].group_id >= group_id
