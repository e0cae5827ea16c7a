"""Creating and deleting topics from any node: the catalog's leader decides, this node waits until it knows."""

import trio

from trio_eventlog.errors import NoQuorum, TopicExists, TopicNotFound
from trio_eventlog.machine.catalog import Topic
from trio_eventlog.node.broker import Broker
from trio_eventlog.rpc import Channel, methods_of
from trio_eventlog.service.forwarding import Forwarder, forward
from trio_eventlog.v1 import admin_pb2

_METHODS = methods_of(admin_pb2.DESCRIPTOR.services_by_name["Admin"])


class TopicAdministration:
    """Topics as a client sees them: what a call has created is there when the next call asks this node."""

    def __init__(self, broker: Broker, forwarder: Forwarder, *, visible_seconds_max: float) -> None:
        self._broker = broker
        self._forwarder = forwarder
        self._visible_seconds_max = visible_seconds_max

    async def create(self, request: admin_pb2.CreateTopicRequest, *, is_forwarded: bool = False) -> Topic:
        """Raises TopicExists, InvalidArgument, NoQuorum; NotLeader when the call was forwarded here in vain."""

        attempts = 0

        async def local() -> str:
            nonlocal attempts
            attempts += 1
            topic = await self._broker.create_topic(
                request.name,
                request.partitions or 1,
                replica_count=request.replicas,
                retention_bytes=request.retention.bytes,
                retention_seconds=request.retention.time.seconds,
            )
            return topic.name

        async def remote(channel: Channel) -> str:
            nonlocal attempts
            attempts += 1
            response = await forward(channel, _METHODS["CreateTopic"], request)
            name: str = response.topic.name
            return name

        try:
            name = await (local() if is_forwarded else self._forwarder.at_leader(self._broker.catalog, local, remote))
        except TopicExists:
            if attempts < 2:
                raise
            # An attempt whose answer was lost has made it, unless somebody else did in the same moment.
            name = request.name
        await self._wait(name, present=True)
        return self._broker.topic(name)

    async def delete(self, request: admin_pb2.DeleteTopicRequest, *, is_forwarded: bool = False) -> None:
        """Raises TopicNotFound, NoQuorum; NotLeader when the call was forwarded here in vain."""

        attempts = 0

        async def local() -> None:
            nonlocal attempts
            attempts += 1
            await self._broker.delete_topic(request.name)

        async def remote(channel: Channel) -> None:
            nonlocal attempts
            attempts += 1
            await forward(channel, _METHODS["DeleteTopic"], request)

        try:
            await (local() if is_forwarded else self._forwarder.at_leader(self._broker.catalog, local, remote))
        except TopicNotFound:
            if attempts < 2:
                raise
        await self._wait(request.name, present=False)

    async def find_or_create(self, name: str, *, create: bool) -> Topic:
        """The topic. One that does not exist is created when `create` is set.

        Raises:
            TopicNotFound: nobody has created it, or it was deleted, before this call.
            NoQuorum: this node does not know it, and cannot find out whether others do.
        """
        try:
            return self._broker.topic(name)
        except TopicNotFound:
            if not create:
                return await self.find(name)
        try:
            return await self.create(admin_pb2.CreateTopicRequest(name=name))
        except TopicExists:
            # Somebody else was quicker, or this node is behind: it will know soon.
            await self._wait(name, present=True)
            return self._broker.topic(name)

    async def find(self, name: str) -> Topic:
        """The topic, although another node may have created it just now. Raises as `find_or_create`."""
        with trio.move_on_after(self._visible_seconds_max) as scope:
            await self._broker.wait_current()
        if scope.cancelled_caught:
            raise NoQuorum(
                f"this node knows no topic {name!r}, and cannot ask the catalog's leader: ask again, or ask another node"
            )
        return self._broker.topic(name)

    async def _wait(self, name: str, *, present: bool) -> None:
        with trio.move_on_after(self._visible_seconds_max) as scope:
            await self._broker.wait_topic(name, present=present)
        if scope.cancelled_caught:
            raise NoQuorum(f"topic {name!r} was changed, but this node has not heard of it yet: ask again, or ask another node")
