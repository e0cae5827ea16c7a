"""Creating, deleting and finding topics from any node: the catalog's leader decides, this node waits until it knows."""

from collections.abc import Sequence

import trio
from google.protobuf.duration_pb2 import Duration

from trio_eventlog.errors import InvalidArgument, NoQuorum, OutcomeUnknown, TopicExists, TopicNotFound, TopicRecreated
from trio_eventlog.machine.catalog import Topic
from trio_eventlog.node.broker import Broker
from trio_eventlog.rpc import Channel, methods_of
from trio_eventlog.service.forwarding import Doubt, Forwarder, forward
from trio_eventlog.v1 import admin_pb2

_METHODS = methods_of(admin_pb2.DESCRIPTOR.services_by_name["Admin"])

DURATION_SECONDS_MAX = 315_576_000_000
"""10,000 years: the most that a protobuf Duration may hold."""


class TopicAdministration:
    """Topics as a client sees them: what a call has created is there when the next call asks this node."""

    def __init__(self, broker: Broker, forwarder: Forwarder, *, visible_seconds_max: float) -> None:
        self._broker = broker
        self._forwarder = forwarder
        self._visible_seconds_max = visible_seconds_max

    async def create(self, request: admin_pb2.CreateTopicRequest, *, is_forwarded: bool = False) -> Topic:
        """Make a topic; returns when this node has opened its partitions, or after half of the caller's time.

        Raises TopicExists, InvalidArgument, TooManyPartitions, NoQuorum, OutcomeUnknown; NotLeader when the call was
        forwarded here in vain.
        """
        retention_seconds = _whole_seconds(request.retention.time)
        doubt = Doubt()

        async def local() -> str:
            topic = await self._broker.create_topic(
                request.name,
                request.partitions or 1,
                replica_count=request.replicas,
                retention_bytes=request.retention.bytes,
                retention_seconds=retention_seconds,
            )
            return topic.name

        async def remote(channel: Channel) -> str:
            response = await forward(channel, _METHODS["CreateTopic"], request)
            name: str = response.topic.name
            return name

        try:
            name = await (local() if is_forwarded else self._forwarder.at_leader(self._broker.catalog, local, remote, doubt))
        except OutcomeUnknown as error:
            if not isinstance(error.__cause__, TopicExists):
                raise
            # An attempt whose answer was lost has made it, unless somebody else did in the same moment.
            name = request.name
        await self._wait(name, present=True)
        if not is_forwarded:
            # The node that was asked first waits, and the caller's deadline is not used up by it: the topic is made.
            seconds_max = (trio.current_effective_deadline() - trio.current_time()) / 2
            with trio.move_on_after(max(0.0, min(seconds_max, self._visible_seconds_max))):
                await self._broker.wait_settled(name)
        return self._broker.topic(name)

    async def delete(self, request: admin_pb2.DeleteTopicRequest, *, is_forwarded: bool = False) -> None:
        """Raises TopicNotFound, InvalidArgument, NoQuorum, OutcomeUnknown; NotLeader when the call was forwarded here in vain."""
        doubt = Doubt()

        async def local() -> None:
            await self._broker.delete_topic(request.name)

        async def remote(channel: Channel) -> None:
            await forward(channel, _METHODS["DeleteTopic"], request)

        try:
            await (local() if is_forwarded else self._forwarder.at_leader(self._broker.catalog, local, remote, doubt))
        except OutcomeUnknown as error:
            if not isinstance(error.__cause__, TopicNotFound):
                raise
            # An attempt whose answer was lost has deleted it, or somebody else has meanwhile.
        await self._wait(request.name, present=False)

    async def find(self, name: str, partition: int = 0, group_id: int = 0, *, create: bool = False) -> Topic:
        """The topic, which has this partition.

        What this node has not heard of, another one may have created just now. So nothing is said to be missing before this node
        has applied everything that the catalog's leader has acknowledged.

        Args:
            group_id: what the caller takes the partition's group for; 0: the caller does not know.
            create: make the topic if it does not exist.

        Raises:
            TopicNotFound: nobody has created it, or it was deleted, before this call.
            TopicRecreated: the topic whose partition had this group was deleted; another one has its name.
            NoQuorum: this node does not know it, and cannot find out whether others do.
        """
        topic = self._broker.find_topic(name)
        if topic is None and create:
            topic = await self._create_on_first_use(name)
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

    async def _create_on_first_use(self, name: str) -> Topic:
        try:
            return await self.create(admin_pb2.CreateTopicRequest(name=name))
        except TopicExists:
            # Somebody else was quicker, or this node is behind: it will know soon.
            await self._wait(name, present=True)
            return self._broker.topic(name)
        except OutcomeUnknown as error:
            # The topic may come to be made. Of what the caller wants to do with it, nothing was done.
            raise NoQuorum(f"topic {name!r} could not be made for certain: {error}") from error

    async def list_all(self) -> Sequence[Topic]:
        """Every topic created, and none deleted, by calls that were answered before this one. Raises NoQuorum."""
        await self.wait_current("which topics there are")
        return self._broker.topics()

    async def wait_current(self, what: str) -> None:
        """Until this node shows every change of topics that was acknowledged before the call.

        Raises:
            NoQuorum: it could not find out in time; `what` is told to be unknown.
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


def _whole_seconds(time: Duration) -> int:
    """0 when it is absent. Raises InvalidArgument for what a retention cannot be."""
    if time.nanos or not 0 <= time.seconds <= DURATION_SECONDS_MAX:
        raise InvalidArgument(
            f"retention time {time.seconds + time.nanos / 1e9:g} s: give whole seconds, from 1 to {DURATION_SECONDS_MAX};"
            " without a retention time there is no limit"
        )
    return int(time.seconds)


def _has(topic: Topic, partition: int, group_id: int) -> bool:
    """Whether a caller can be answered by what this node knows. Group ids only grow: of two topics of one name, the one with the
    larger ids is the newer one, and what a caller has from an older one needs no more asking."""
    return partition < len(topic.partitions) and topic.partitions[partition].group_id >= group_id
