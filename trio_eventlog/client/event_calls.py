"""Calls of the event store, to the node that leads the aggregate's partition when it is known."""

import attrs

from trio_eventlog.client.admin_calls import Flag
from trio_eventlog.client.calls import Calls
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.events import AggregatePage, AppendResult, EventPage
from trio_eventlog.grpc.events import (
    append_request_message,
    append_result,
    event_page,
    found_in_aggregate,
    read_aggregate_message,
    read_events_message,
)
from trio_eventlog.grpc.methods import APPEND, READ_AGGREGATE, READ_EVENTS
from trio_eventlog.service.event_requests import AppendRequest, ReadAggregateRequest, ReadEventsRequest
from trio_eventlog.service.values import Caller


class EventCalls:
    """Appends and reads by gRPC. Every call may be repeated: an append is known by its event ids."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def append(self, request: AppendRequest, caller: Caller) -> AppendResult:
        is_uncertain = Flag()
        response = await self._calls.call(
            APPEND,
            append_request_message(request),
            lambda now: self._for_append(request, now),
            on_uncertain=is_uncertain.set,
            caller=caller,
        )
        result = append_result(response)
        # After an attempt without an answer, a repetition is this client's own doing.
        return attrs.evolve(result, duplicate=False) if is_uncertain else result

    def _for_append(self, request: AppendRequest, now: float) -> list[str]:
        routing = self._calls.routing
        known = routing.topic(request.topic)
        if known is None:
            return routing.addresses(now)
        return routing.for_write(request.topic, partition_of(request.aggregate_id.encode(), known.partitions), now)

    def _for_read(self, request: ReadAggregateRequest, now: float) -> list[str]:
        routing = self._calls.routing
        known = routing.topic(request.topic)
        if known is None:
            return routing.addresses(now)
        return routing.for_read(request.topic, partition_of(request.aggregate_id.encode(), known.partitions), now)

    async def read_aggregate(self, request: ReadAggregateRequest, caller: Caller) -> AggregatePage:
        response = await self._calls.call(
            READ_AGGREGATE, read_aggregate_message(request), lambda now: self._for_read(request, now), caller=caller
        )
        found = found_in_aggregate(response, request.topic)
        return AggregatePage(events=found.events, version=found.version, is_closed=found.is_closed)

    async def read_events(self, request: ReadEventsRequest, caller: Caller) -> EventPage:
        routing = self._calls.routing
        response = await self._calls.call(READ_EVENTS, read_events_message(request), routing.addresses, caller=caller)
        return event_page(response, request.topic)
