"""The event store over HTTP: appending events and CloudEvents, reading aggregates and all events, live tails."""

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta
from starlette.responses import Response

from trio_eventlog.codec.events import recorded_event
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import TopicNotFound
from trio_eventlog.events import EVENTS_TOPIC, Event, ExpectedVersion
from trio_eventlog.http.event_shapes import (
    CLOUD_EVENT_TYPE,
    CLOUD_EVENTS_TYPE,
    AggregateOut,
    AppendedOut,
    AppendIn,
    EventOut,
    EventsOut,
    cloud_event,
    decoded_cloud_event,
    expected_version,
)
from trio_eventlog.http.negotiation import JSON_TYPE, NDJSON_TYPE, SSE_TYPE, check_accepted, media_type
from trio_eventlog.http.operations import Call, Operation
from trio_eventlog.http.problems import HttpProblem, invalid_field
from trio_eventlog.http.tails import tail_answer
from trio_eventlog.records import Record
from trio_eventlog.service.event_requests import PAGE_EVENTS, decode_token, encode_token
from trio_eventlog.service.values import END, Position

EXPECTED_HEADER = "expected-version"
"""Of a CloudEvent, whose body has no place for it."""
_VERSION_MAX = (1 << 63) - 1

Limit = Annotated[int, Meta(ge=1, le=1_000_000, description="Most events in the page; the node has a limit of its own.")]
Topic = Annotated[str, Meta(min_length=1, max_length=255, description="Of events.")]


class AppendQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Where events are appended."""

    topic: Topic = EVENTS_TOPIC


async def append_events(call: Call) -> Response:
    """One event, or several of one aggregate."""
    query = call.query(AppendQuery)
    if "ce-specversion" in call.request.headers:
        return await _append_cloud_events(call, query.topic, [await _binary(call)])
    given = media_type(call.request.headers.get("content-type", ""))
    if given == CLOUD_EVENT_TYPE:
        data = await call.body.read_all()
        return await _append_cloud_events(call, query.topic, [cloud_event(decoded_cloud_event(data, "#"), None, "#")])
    if given == CLOUD_EVENTS_TYPE:
        return await _append_cloud_events(call, query.topic, await _batch(call))
    body = await call.json(AppendIn)
    return await _append(
        call, query.topic, body.aggregate_id, body.all_events(), expected_version(body.expected_version), body.reopens
    )


async def _binary(call: Call) -> tuple[str, Event]:
    """A CloudEvent whose attributes are headers."""
    headers = call.request.headers
    attributes: dict[str, object] = {name[3:]: value for name, value in headers.items() if name.startswith("ce-")}
    attributes["datacontenttype"] = headers.get("content-type", JSON_TYPE)
    return cloud_event(attributes, await call.body.read_all(), "ce-")


async def _batch(call: Call) -> list[tuple[str, Event]]:
    try:
        items = msgspec.json.decode(await call.body.read_all(), type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpProblem(400, f"the body is no list of CloudEvents: {error}") from error
    return [cloud_event(decoded_cloud_event(bytes(item), f"#/{number}"), None, f"#/{number}") for number, item in enumerate(items)]


async def _append_cloud_events(call: Call, topic: str, given: Sequence[tuple[str, Event]]) -> Response:
    aggregates = list(dict.fromkeys(aggregate_id for aggregate_id, _ in given))
    if len(aggregates) != 1:
        raise invalid_field("the events of one request have one subject, and there is at least one", "#/0/subject")
    (aggregate_id,) = aggregates
    return await _append(call, topic, aggregate_id, [event for _, event in given], _expected_in_header(call), False)


def _expected_in_header(call: Call) -> ExpectedVersion:
    text = call.request.headers.get(EXPECTED_HEADER, "any").strip()
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    if text not in ("any", "exists"):
        raise invalid_field("it is a number from 0 on, exists or any", EXPECTED_HEADER)
    return expected_version(text)


async def _append(
    call: Call, topic: str, aggregate_id: str, events: Sequence[Event], expected: ExpectedVersion, reopens: bool
) -> Response:
    result = await call.event_log.append(
        aggregate_id, events, expected_version=expected, reopens=reopens, topic=topic, caller=call.caller
    )
    headers = {"location": f"/events/{quote(aggregate_id)}?from_version={result.first_version}", "etag": f'"{result.version}"'}
    return call.answer(AppendedOut.of(result), 200 if result.duplicate else 201, headers)


class AggregateQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which events of an aggregate."""

    from_version: Annotated[int, Meta(ge=1, le=_VERSION_MAX, description="Of the first event.")] | None = None
    limit: Limit = PAGE_EVENTS
    direction: Annotated[str, Meta(pattern="^(forwards|backwards)$", description="forwards or backwards.")] = "forwards"
    consistency: Annotated[
        str, Meta(pattern="^(linearizable|committed)$", description="linearizable, or committed: what this node has.")
    ] = "linearizable"
    topic: Topic = EVENTS_TOPIC


async def read_aggregate(call: Call) -> Response:
    """Its ETag is its version."""
    query = call.query(AggregateQuery)
    check_accepted(call.request.headers.get("accept", ""), JSON_TYPE)
    aggregate_id = call.path("aggregate_id")
    call.body.hold(call.settings.page_bytes_max)
    try:
        page = await call.event_log.read_aggregate(
            aggregate_id,
            from_version=query.from_version,
            limit=query.limit,
            backwards=query.direction == "backwards",
            linearizable=query.consistency == "linearizable",
            topic=query.topic,
            caller=call.caller,
        )
        events, version, is_closed = page.events, page.version, page.is_closed
    except TopicNotFound:
        # Nobody has appended anything.
        events, version, is_closed = (), 0, False
    tag = f'"{version}"'
    headers = {"etag": tag, "cache-control": "no-cache", "x-aggregate-version": str(version)}
    known = call.request.headers.get("if-none-match", "")
    if tag in (one.strip().removeprefix("W/") for one in known.split(",")):
        return Response(status_code=304, headers=headers)
    value = AggregateOut([EventOut.of(event) for event in events], len(events), aggregate_id, version, is_closed)
    return Response(msgspec.json.encode(value), 200, headers, JSON_TYPE)


class EventsQuery(msgspec.Struct, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Which events."""

    type: Annotated[str, Meta(description="Only of this type.")] = ""
    from_: Annotated[str, Meta(description="`next` of an earlier page.")] = ""
    limit: Limit = PAGE_EVENTS
    consistency: Annotated[
        str, Meta(pattern="^(linearizable|committed)$", description="linearizable, or committed: what this node has.")
    ] = "linearizable"
    topic: Topic = EVENTS_TOPIC


async def read_events(call: Call) -> Response:
    """A page of all events."""
    query = call.query(EventsQuery)
    call.body.hold(call.settings.page_bytes_max)
    try:
        page = await call.event_log.read_events(
            type=query.type,
            after=query.from_,
            limit=query.limit,
            linearizable=query.consistency == "linearizable",
            topic=query.topic,
            caller=call.caller,
        )
    except TopicNotFound:
        return call.answer(EventsOut([], 0, "", True))
    return call.answer(EventsOut([EventOut.of(event) for event in page.events], len(page.events), page.next, page.is_end))


class EventTailQuery(msgspec.Struct, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Where a live tail of events begins, and which it has."""

    type: Annotated[str, Meta(description="Only of this type.")] = ""
    aggregate_id: Annotated[str, Meta(description="Only of this aggregate.")] = ""
    from_: Annotated[
        str, Meta(description="An event's id in an earlier tail, or `next` of a page. `Last-Event-ID` comes before it.")
    ] = ""
    start: Annotated[Position, Meta(description="Where to begin without one.")] = END
    topic: Topic = EVENTS_TOPIC


async def tail_events(call: Call) -> Response:
    """Events as they come, for ever."""
    query = call.query(EventTailQuery)
    media = check_accepted(call.request.headers.get("accept", ""), SSE_TYPE, NDJSON_TYPE)
    described = await call.event_log.describe_topic(query.topic, caller=call.caller)
    groups = [partition.group_id for partition in described.partitions]
    token = call.request.headers.get("last-event-id", "").strip() or query.from_
    offsets = decode_token(token, groups)
    if not token and query.start is END:
        for number in range(len(groups)):
            _, offsets[number] = await call.event_log.offsets(query.topic, number, caller=call.caller)
    only = partition_of(query.aggregate_id.encode(), len(groups)) if query.aggregate_id else None

    def show(record: Record) -> tuple[str, object] | None:
        offsets[record.partition] = record.offset + 1
        event = recorded_event(record)
        if event is None or query.type not in ("", event.type) or query.aggregate_id not in ("", event.aggregate_id):
            return None
        return encode_token(dict(zip(groups, offsets, strict=True))), EventOut.of(event)

    return tail_answer(
        call,
        media,
        lambda: call.event_log.consume(
            query.topic,
            start=dict(enumerate(offsets)) if only is None else offsets[only],
            partition=only,
            buffer_batches=1,
            fetch_bytes=call.settings.page_bytes_max,
            caller=call.lasting_caller,
        ),
        show,
    )


OPERATIONS = (
    Operation(
        method="POST",
        path="/events",
        handle=append_events,
        summary="Append events of one aggregate.",
        description="Together or not at all, and durable on a quorum when it is answered. An `event_id` that is in the log"
        " is answered with the original and 200, whatever version is expected. CloudEvents: binary, structured or batch; the"
        " subject is the aggregate id, source and id together are the event id.",
        tag="Events",
        query=AppendQuery,
        body=AppendIn,
        body_types={CLOUD_EVENT_TYPE: "A CloudEvent.", CLOUD_EVENTS_TYPE: "CloudEvents of one subject."},
        answer=AppendedOut,
        status=201,
        statuses={200: "They were in the log already."},
        problems=(404, 409, 504),
        headers={EXPECTED_HEADER: "Of CloudEvents: as `expected_version`."},
    ),
    Operation(
        method="GET",
        path="/events",
        handle=read_events,
        summary="A page of all events.",
        description="In the order of each partition; of several partitions, by their timestamps.",
        tag="Events",
        query=EventsQuery,
        answer=EventsOut,
    ),
    Operation(
        method="GET",
        path="/events/stream",
        handle=tail_events,
        summary="Events as they come, as server-sent events or lines.",
        description="An event's id is a place in all partitions: as `Last-Event-ID` it resumes behind the event. The event `moved`"
        " says that the node stops, and which other nodes there are; `problem` says why the stream has ended.",
        tag="Events",
        query=EventTailQuery,
        answer_types={SSE_TYPE: "Events.", NDJSON_TYPE: "One event a line; an empty line is a sign of life."},
        problems=(404,),
        headers={"last-event-id": "The id of the last event that was received."},
    ),
    Operation(
        method="GET",
        path="/events/{aggregate_id:path}",
        handle=read_aggregate,
        summary="Events of an aggregate.",
        description="The ETag is the aggregate's version, and 0 for one without events.",
        tag="Events",
        query=AggregateQuery,
        answer=AggregateOut,
        statuses={304: "Its version is the one in `If-None-Match`."},
        headers={"if-none-match": "A version."},
        problems=(404,),  # an id with a line break is no path
    ),
)
