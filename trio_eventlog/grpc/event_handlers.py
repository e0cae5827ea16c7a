"""The event store over gRPC: the handlers of a node."""

from collections.abc import Mapping

import trio

from trio_eventlog.grpc.callers import caller_of
from trio_eventlog.grpc.events import (
    NO_LIMIT,
    MakeId,
    append_message,
    event_message,
    partition_message,
    requested_aggregate,
    requested_append,
    requested_events,
    requested_partition,
)
from trio_eventlog.rpc import Context, Handler, Send
from trio_eventlog.service.consume import ConsumeService
from trio_eventlog.service.events import EventStore
from trio_eventlog.v1 import event_log_pb2 as messages


class EventHandlers:
    """Handlers of the calls of the event store.

    Args:
        consuming: whose memory for what was fetched and is not sent yet counts what is read here too.
        ready: set when the node belongs to a cluster; calls wait until then, under their callers' deadlines.
    """

    def __init__(self, store: EventStore, consuming: ConsumeService, ready: trio.Event, make_id: MakeId) -> None:
        self._store = store
        self._consuming = consuming
        self._ready = ready
        self._make_id = make_id

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the method."""
        return {"Append": self.append, "ReadAggregate": self.read_aggregate, "ReadEvents": self.read_events}

    async def append(self, message: messages.AppendRequest, context: Context) -> messages.AppendResponse:
        request = requested_append(message, self._make_id)
        await self._ready.wait()
        return append_message(await self._store.append(request, caller_of(context)))

    async def read_aggregate(self, message: messages.ReadAggregateRequest, context: Context, send: Send) -> None:
        """Pages, until as many events are sent as were asked for, or there are no more."""
        await self._ready.wait()
        left = message.limit or NO_LIMIT
        caller, gate = caller_of(context), self._consuming.gate(context)
        while True:
            found = await self._store.read_aggregate(requested_aggregate(message, left), caller, gate)
            await send(
                messages.ReadAggregateResponse(
                    events=map(event_message, found.events), version=found.version, closed=found.is_closed, end=found.is_end
                )
            )
            gate.leave()
            left -= len(found.events)
            if found.is_end or not left or not found.events:
                return
            step = -1 if message.backwards else 1
            message.from_version = found.events[-1].version + step
            if not message.from_version:
                return

    async def read_events(self, message: messages.ReadEventsRequest, context: Context, send: Send) -> None:
        """As `read_aggregate`."""
        await self._ready.wait()
        left = message.limit or NO_LIMIT
        caller, gate = caller_of(context), self._consuming.gate(context)
        if message.group_id:
            await send(partition_message(await self._store.read_partition(requested_partition(message), caller, gate)))
            return
        while True:
            page = await self._store.read_events(requested_events(message, left), caller, gate)
            await send(messages.ReadEventsResponse(events=map(event_message, page.events), next=page.next, end=page.is_end))
            gate.leave()
            left -= len(page.events)
            if page.is_end or not left:
                return
            message.after = page.next
