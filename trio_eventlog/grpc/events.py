"""The event store over gRPC: messages to values and back, for nodes, clients and nodes that forward calls."""

from collections.abc import Callable

from trio_eventlog.codec.batch import NANOSECONDS
from trio_eventlog.errors import InvalidArgument
from trio_eventlog.events import (
    ANY,
    EVENTS_TOPIC,
    EXISTS,
    JSON,
    AppendResult,
    EventPage,
    ExpectedVersion,
    NewEvent,
    RecordedEvent,
)
from trio_eventlog.ids import GroupId
from trio_eventlog.service.event_requests import (
    AppendRequest,
    EventsFound,
    PartitionEventsRequest,
    ReadAggregateRequest,
    ReadEventsRequest,
)
from trio_eventlog.v1 import event_log_pb2 as messages

MakeId = Callable[[], str]
"""A new event id."""
NO_LIMIT = (1 << 63) - 1


# Messages to values


def requested_append(message: messages.AppendRequest, make_id: MakeId) -> AppendRequest:
    """Raises InvalidArgument for an expected version that is none."""
    return AppendRequest(
        aggregate_id=message.aggregate_id,
        events=[
            NewEvent(
                event_id=event.event_id or make_id(),
                type=event.type,
                data=event.data,
                content_type=event.content_type or JSON,
                metadata=event.metadata,
                timestamp_ns=event.timestamp.seconds * NANOSECONDS + event.timestamp.nanos,
                closes=event.closes,
            )
            for event in message.events
        ],
        expected=_requested_version(message),
        topic=message.topic or EVENTS_TOPIC,
        reopens=message.reopens,
        group_id=message.group_id,
    )


def _requested_version(message: messages.AppendRequest) -> ExpectedVersion:
    match message.expected_version.WhichOneof("expectation"):
        case "exact":
            version: int = message.expected_version.exact
            return version
        case "exists":
            if not message.expected_version.exists:
                raise InvalidArgument("expected_version: exists is false; an aggregate without events is exact = 0")
            return EXISTS
        case _:
            return ANY


def requested_aggregate(message: messages.ReadAggregateRequest, limit: int) -> ReadAggregateRequest:
    return ReadAggregateRequest(
        aggregate_id=message.aggregate_id,
        from_version=message.from_version or (NO_LIMIT if message.backwards else 1),
        limit=limit,
        is_backwards=message.backwards,
        is_linearizable=_is_linearizable(message.consistency),
        topic=message.topic or EVENTS_TOPIC,
        group_id=message.group_id,
    )


def requested_events(message: messages.ReadEventsRequest, limit: int) -> ReadEventsRequest:
    return ReadEventsRequest(
        topic=message.topic or EVENTS_TOPIC,
        after=message.after,
        event_type=message.type,
        limit=limit,
        is_linearizable=_is_linearizable(message.consistency),
    )


def requested_partition(message: messages.ReadEventsRequest) -> PartitionEventsRequest:
    return PartitionEventsRequest(
        topic=message.topic,
        partition=message.partition,
        group_id=message.group_id,
        from_offset=message.from_offset,
        limit=message.limit,
        event_type=message.type,
        is_linearizable=_is_linearizable(message.consistency),
    )


def _is_linearizable(consistency: int) -> bool:
    if consistency not in (messages.COMMITTED, messages.LINEARIZABLE):
        raise InvalidArgument(f"consistency {consistency} is none of COMMITTED, LINEARIZABLE")
    return consistency == messages.LINEARIZABLE


def append_result(message: messages.AppendResponse) -> AppendResult:
    return AppendResult(
        topic=message.topic,
        partition=message.partition,
        aggregate_id=message.aggregate_id,
        version=message.version,
        first_offset=message.first_offset,
        event_ids=tuple(message.event_ids),
        duplicate=message.duplicate,
    )


def recorded_event(message: messages.RecordedEvent, topic: str) -> RecordedEvent:
    return RecordedEvent(
        event_id=message.event_id,
        type=message.type,
        aggregate_id=message.aggregate_id,
        version=message.version,
        data=message.data,
        content_type=message.content_type or JSON,
        metadata=message.metadata,
        timestamp_ns=message.timestamp_ns,
        closes=message.closes,
        offset=message.offset,
        topic=topic,
        partition=message.partition,
    )


def found_in_aggregate(message: messages.ReadAggregateResponse, topic: str) -> EventsFound:
    return EventsFound(
        events=[recorded_event(event, topic) for event in message.events],
        version=message.version,
        is_closed=message.closed,
        is_end=message.end,
    )


def found_in_partition(message: messages.ReadEventsResponse, topic: str) -> EventsFound:
    return EventsFound(
        events=[recorded_event(event, topic) for event in message.events], is_end=message.end, next_offset=message.next_offset
    )


def event_page(message: messages.ReadEventsResponse, topic: str) -> EventPage:
    return EventPage(events=[recorded_event(event, topic) for event in message.events], next=message.next, is_end=message.end)


# Values to messages


def append_request_message(request: AppendRequest) -> messages.AppendRequest:
    message = messages.AppendRequest(
        topic=request.topic, aggregate_id=request.aggregate_id, reopens=request.reopens, group_id=request.group_id
    )
    for event in request.events:
        item = message.events.add(
            event_id=event.event_id,
            type=event.type,
            data=event.data,
            content_type="" if event.content_type == JSON else event.content_type,
            metadata=event.metadata,
            closes=event.closes,
        )
        if event.timestamp_ns:
            item.timestamp.seconds, item.timestamp.nanos = divmod(event.timestamp_ns, NANOSECONDS)
    if request.expected is EXISTS:
        message.expected_version.exists = True
    elif isinstance(request.expected, int):
        message.expected_version.exact = request.expected
    return message


def append_message(result: AppendResult) -> messages.AppendResponse:
    return messages.AppendResponse(
        topic=result.topic,
        partition=result.partition,
        aggregate_id=result.aggregate_id,
        version=result.version,
        first_offset=result.first_offset,
        event_ids=result.event_ids,
        duplicate=result.duplicate,
    )


def event_message(event: RecordedEvent) -> messages.RecordedEvent:
    return messages.RecordedEvent(
        event_id=event.event_id,
        type=event.type,
        aggregate_id=event.aggregate_id,
        version=event.version,
        data=event.data,
        content_type="" if event.content_type == JSON else event.content_type,
        metadata=event.metadata,
        timestamp_ns=max(0, event.timestamp_ns),
        closes=event.closes,
        partition=event.partition,
        offset=event.offset,
    )


def partition_message(found: EventsFound) -> messages.ReadEventsResponse:
    return messages.ReadEventsResponse(events=map(event_message, found.events), end=found.is_end, next_offset=found.next_offset)


def read_aggregate_message(request: ReadAggregateRequest) -> messages.ReadAggregateRequest:
    return messages.ReadAggregateRequest(
        topic=request.topic,
        aggregate_id=request.aggregate_id,
        from_version=request.from_version,
        limit=request.limit,
        backwards=request.is_backwards,
        consistency=_consistency(request.is_linearizable),
        group_id=request.group_id,
    )


def read_events_message(request: ReadEventsRequest) -> messages.ReadEventsRequest:
    return messages.ReadEventsRequest(
        topic=request.topic,
        after=request.after,
        type=request.event_type,
        limit=request.limit,
        consistency=_consistency(request.is_linearizable),
    )


def read_partition_message(request: PartitionEventsRequest) -> messages.ReadEventsRequest:
    return messages.ReadEventsRequest(
        topic=request.topic,
        type=request.event_type,
        limit=request.limit,
        consistency=_consistency(request.is_linearizable),
        group_id=GroupId(request.group_id),
        partition=request.partition,
        from_offset=request.from_offset,
    )


def _consistency(is_linearizable: bool) -> "messages.Consistency":
    return messages.LINEARIZABLE if is_linearizable else messages.COMMITTED
