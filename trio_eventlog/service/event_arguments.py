"""What callers of the event store pass in, looked at before anything is sent."""

from collections.abc import Callable, Sequence

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.events import Event, ExpectedVersion, check_append, new_event
from trio_eventlog.service.arguments import check_text, check_whole
from trio_eventlog.service.event_requests import AppendRequest, ReadAggregateRequest, ReadEventsRequest
from trio_eventlog.service.values import Position

LIMIT_MAX = 1 << 32
VERSION_MAX = (1 << 63) - 1


def append_request(
    aggregate_id: str,
    events: Sequence[Event],
    expected: ExpectedVersion,
    reopens: bool,
    topic: str,
    make_id: Callable[[], str],
) -> AppendRequest:
    """Raises InvalidArgument for what cannot be appended, whatever is in the log."""
    check_text("topic", topic)
    if not isinstance(events, list | tuple):
        raise InvalidArgument(f"events is {events!r}: it has to be a list of Events")
    new = [new_event(event, make_id) for event in events]
    check_append(aggregate_id, new, expected)
    return AppendRequest(aggregate_id=aggregate_id, events=new, expected=expected, topic=topic, reopens=bool(reopens))


def read_aggregate_request(
    aggregate_id: str, from_version: int | None, limit: int, backwards: bool, linearizable: bool, topic: str
) -> ReadAggregateRequest:
    """Raises InvalidArgument for arguments that cannot be."""
    check_text("aggregate_id", aggregate_id)
    check_text("topic", topic)
    check_whole("limit", limit, LIMIT_MAX, lowest=1)
    if from_version is not None:
        check_whole("from_version", from_version, VERSION_MAX)
    first = (VERSION_MAX if backwards else 1) if from_version is None else from_version
    return ReadAggregateRequest(
        aggregate_id=aggregate_id,
        from_version=first,
        limit=limit,
        is_backwards=bool(backwards),
        is_linearizable=bool(linearizable),
        topic=topic,
    )


def read_events_request(event_type: str, after: str, limit: int, linearizable: bool, topic: str) -> ReadEventsRequest:
    """As `read_aggregate_request`."""
    check_text("type", event_type)
    check_text("after", after)
    check_text("topic", topic)
    check_whole("limit", limit, LIMIT_MAX, lowest=1)
    return ReadEventsRequest(topic=topic, after=after, event_type=event_type, limit=limit, is_linearizable=bool(linearizable))


def check_tail(after: str | Position, event_type: str, aggregate_id: str, topic: str) -> None:
    """As `read_aggregate_request`."""
    if not isinstance(after, Position):
        check_text("after", after)
    check_text("type", event_type)
    check_text("aggregate_id", aggregate_id)
    check_text("topic", topic)
