"""Reads that any node with a replica of the group may answer."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from trio_eventlog.errors import NotLeader
from trio_eventlog.ids import GroupId
from trio_eventlog.node.remote_group import RemoteGroup
from trio_eventlog.node.replica import Replica
from trio_eventlog.service.broker import Broker
from trio_eventlog.service.forwarding import Forwarder
from trio_eventlog.service.remote_node import RemoteNode
from trio_eventlog.service.values import Caller

T = TypeVar("T")


async def at_replica(
    broker: Broker,
    forwarder: Forwarder,
    group_id: GroupId,
    read: Callable[[Replica], Awaitable[T]],
    remote: Callable[[RemoteNode], Awaitable[T]],
    caller: Caller,
) -> T:
    """What `read` gives on this node's replica of the group; when there is none, what `remote` gives at the leader.

    Raises as `Forwarder.at_leader`.
    """

    async def here() -> T:
        place = broker.group(group_id)
        if isinstance(place, RemoteGroup):
            raise place.refusal()
        return await read(place)

    place = broker.group(group_id)
    if isinstance(place, Replica):
        try:
            return await read(place)
        except NotLeader:
            if caller.is_forwarded:
                raise
            # It was closed while the call waited, since its group has moved.
            place = broker.group(group_id)
    return await forwarder.at_leader(place, here, remote, caller=caller)
