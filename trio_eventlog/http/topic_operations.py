"""Topics over HTTP: making and deleting them, producing, pages of records, live tails."""

import datetime
import re
from typing import Annotated

import attrs
import msgspec
import trio
from msgspec import Meta
from starlette.responses import Response

from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import EventLogError, OffsetOutOfRange, TopicNotFound
from trio_eventlog.http.negotiation import JSON_TYPE, NDJSON_TYPE, SSE_TYPE, check_accepted
from trio_eventlog.http.operations import Call, Operation
from trio_eventlog.http.problems import HttpProblem, problem_of
from trio_eventlog.http.shapes import (
    NewTopicIn,
    Offset,
    ProducedAllOut,
    ProducedOut,
    RecordsIn,
    RecordsOut,
    TopicChangeIn,
    TopicDetailOut,
    TopicOut,
    TopicsOut,
    ValueForm,
    record_out,
)
from trio_eventlog.http.tails import tail_answer
from trio_eventlog.http.uploads import UploadAnswer, UploadQuery
from trio_eventlog.records import Acks, Record
from trio_eventlog.service.values import END, PartitionStart, Position

PAGE_RECORDS = 100
"""Records in a page that names no limit."""

_RANGE = re.compile(r"offsets=([0-9]{1,19})-([0-9]{0,19})")


async def list_topics(call: Call) -> Response:
    topics = sorted(await call.event_log.list_topics(caller=call.caller), key=lambda topic: topic.name)
    return call.answer(TopicsOut([TopicOut.of(topic) for topic in topics], len(topics)))


async def create_topic(call: Call) -> Response:
    given = await call.json(NewTopicIn)
    topic = await call.event_log.create_topic(
        given.name,
        partitions=given.partitions,
        replicas=given.replicas,
        retention_bytes=given.retention_bytes,
        retention_seconds=given.retention_seconds,
        kind="events" if given.kind == "events" else "",
        caller=call.caller,
    )
    return call.answer(TopicOut.of(topic), 201, {"location": f"/topics/{topic.name}"})


async def describe_topic(call: Call) -> Response:
    return call.answer(TopicDetailOut.of(await call.event_log.describe_topic(call.path("topic"), caller=call.caller)))


async def alter_topic(call: Call) -> Response:
    given = await call.json(TopicChangeIn)
    topic = await call.event_log.alter_topic(
        call.path("topic"),
        retention_bytes=given.retention_bytes,
        retention_seconds=given.retention_seconds,
        caller=call.caller,
    )
    return call.answer(TopicOut.of(topic))


async def delete_topic(call: Call) -> Response:
    await call.event_log.delete_topic(call.path("topic"), caller=call.caller)
    return Response(status_code=204)


async def produce(call: Call) -> Response:
    """A few records as JSON, or any number of them as lines."""
    query = call.query(UploadQuery)
    if call.check_content_type(JSON_TYPE, NDJSON_TYPE) == NDJSON_TYPE:
        return UploadAnswer(call, query)
    given = await call.json(RecordsIn)
    records = [one.record(f"#/records/{number}") for number, one in enumerate(given.records)]
    partition = given.partition if given.partition is not None else query.partition
    results: list[ProducedOut] = []
    for chosen, part in await _by_partition(call, records, partition):
        try:
            result = await call.event_log.produce(
                call.path("topic"), part, partition=chosen, acks=Acks[given.acks.upper()], caller=call.caller
            )
        except EventLogError as error:
            problem = problem_of(error)
            if results:
                problem.members["results"] = msgspec.to_builtins(results)  # These are in the log, whatever has failed since.
            raise problem from error
        results.append(ProducedOut.of(result))
    return call.answer(ProducedAllOut(len(records), results), 201)


async def _by_partition(call: Call, records: list[Record], partition: int | None) -> list[tuple[int | None, list[Record]]]:
    """Records that belong together, and where to: None leaves it to the log."""
    keys = dict.fromkeys(record.key or b"" for record in records)
    if partition is not None or len(keys) == 1:
        return [(partition, records)]
    try:
        count = await call.event_log.partitions(call.path("topic"), caller=call.caller)
    except TopicNotFound:
        count = 1  # The first one to produce to it makes it, or gets the error.
    groups: dict[int | None, list[Record]] = {}
    for record in records:
        chosen = 0 if count == 1 else partition_of(record.key, count) if record.key else None
        groups.setdefault(chosen, []).append(record)
    return [*groups.items()]


class RecordsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which records of a partition."""

    offset: Annotated[Offset, Meta(description="Of the first record. Without it: the log's start.")] | None = None
    timestamp: (
        Annotated[datetime.datetime, Meta(tz=True, description="The first record of that time or later, in place of an offset.")]
        | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=1_000_000, description="Most records in the page; the node has a limit of its own.")] = (
        PAGE_RECORDS
    )
    values: Annotated[ValueForm, Meta(description="How values are shown.")] = "auto"
    wait_seconds: Annotated[float, Meta(ge=0, le=60, description="How long to wait for a first record at the end of the log.")] = (
        0.0
    )


async def read_records(call: Call) -> Response:
    """One page."""
    query = call.query(RecordsQuery)
    media = check_accepted(call.request.headers.get("accept", ""), JSON_TYPE, NDJSON_TYPE)
    topic, partition = call.path("topic"), call.path("partition")
    settings = call.settings
    log_start, end = await call.event_log.offsets(topic, partition, caller=call.caller)
    first, limit, is_range = await _wanted(call, query, log_start, end)
    call.body.hold(settings.page_bytes_max)
    page = _Page(first, min(limit, settings.page_records_max), settings.page_bytes_max)
    if first < end:
        await _fill(call, page, end)
    elif query.wait_seconds:
        with trio.move_on_after(query.wait_seconds):
            await _fill(call, page, end + 1)
    end = max(end, page.next_offset)
    headers = {"accept-ranges": "offsets"}
    status = 200
    if is_range:
        status = 206
        headers["content-range"] = f"offsets {first}-{max(page.next_offset - 1, first)}/{end}"
    shown = [record_out(record, query.values) for record in page.records]
    if media == NDJSON_TYPE:
        headers |= {"x-next-offset": str(page.next_offset), "x-high-watermark": str(end)}
        return call.tagged(msgspec.json.Encoder().encode_lines(shown), NDJSON_TYPE, status, headers)
    value = RecordsOut(topic, partition, shown, len(shown), page.next_offset, log_start, end)
    return call.tagged(msgspec.json.encode(value), JSON_TYPE, status, headers)


async def _wanted(call: Call, query: RecordsQuery, log_start: int, end: int) -> tuple[int, int, bool]:
    """The first offset, the number of records, and whether a range was asked for. Raises OffsetOutOfRange."""
    topic, partition = call.path("topic"), call.path("partition")
    first, limit, is_range = query.offset, query.limit, False
    if query.timestamp is not None:
        if first is not None:
            raise HttpProblem(400, "give an offset or a timestamp, not both")
        first = await call.event_log.offset_at(topic, query.timestamp, partition, caller=call.caller)
    elif first is None:
        found = _RANGE.fullmatch(call.request.headers.get("range", "").strip())
        is_range = found is not None
        first = int(found[1]) if found else log_start
        if found and found[2]:
            limit = max(int(found[2]) - first + 1, 1)
    if not log_start <= first <= end or (is_range and first == end):
        raise OffsetOutOfRange(
            f"offset {first} of topic {topic!r}, partition {partition}: what there is begins at {log_start} and ends before {end}",
            log_start_offset=log_start,
            high_watermark=end,
        )
    return first, limit, is_range


@attrs.define(slots=True, eq=False)
class _Page:
    """Records that are gathered until the page is full."""

    next_offset: int
    records_left: int
    bytes_left: int
    records: list[Record] = attrs.field(factory=list)

    def take(self, records: list[Record]) -> None:
        for record in records:
            size_bytes = len(record.value or b"") + len(record.key or b"")
            if not self.records_left or (self.records and size_bytes > self.bytes_left):
                self.records_left = 0
                return
            self.records.append(record)
            self.records_left -= 1
            self.bytes_left -= size_bytes
            self.next_offset = record.offset + 1


async def _fill(call: Call, page: _Page, end: int) -> None:
    """Until the page is full, or has what was there when it was asked for."""
    async with call.event_log.consume(
        call.path("topic"),
        start=page.next_offset,
        partition=call.path("partition"),
        buffer_batches=1,
        fetch_bytes=page.bytes_left,
        caller=call.caller,
    ) as receiver:
        while page.records_left and page.bytes_left > 0 and page.next_offset < end:
            page.take(await receiver.receive_batch())


class TailQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Where a live tail begins."""

    offset: Annotated[Offset, Meta(description="Of the first record. `Last-Event-ID` comes before it.")] | None = None
    start: Annotated[Position, Meta(description="Where to begin without an offset.")] = END
    values: Annotated[ValueForm, Meta(description="How values are shown.")] = "auto"


async def tail(call: Call) -> Response:
    """Records as they come, for ever."""
    query = call.query(TailQuery)
    media = check_accepted(call.request.headers.get("accept", ""), SSE_TYPE, NDJSON_TYPE)
    topic, partition = call.path("topic"), call.path("partition")
    log_start, end = await call.event_log.offsets(topic, partition, caller=call.caller)
    start: PartitionStart = query.start if query.offset is None else query.offset
    if last := call.request.headers.get("last-event-id", "").strip():
        if not (last.isascii() and last.isdigit() and len(last) < 20):
            raise HttpProblem(400, "last-event-id: it is the offset of the last record that was received")
        start = int(last) + 1
    if isinstance(start, int) and not log_start <= start <= end:
        raise OffsetOutOfRange(
            f"offset {start} of topic {topic!r}, partition {partition}: what there is begins at {log_start} and ends before {end}",
            log_start_offset=log_start,
            high_watermark=end,
        )
    # What the answer begins with is fixed here: a record that comes before it is read is one of it.
    start = end if start is END else start
    return tail_answer(
        call,
        media,
        lambda: call.event_log.consume(
            topic,
            start=start,
            partition=partition,
            buffer_batches=1,
            fetch_bytes=call.settings.page_bytes_max,
            caller=call.lasting_caller,
        ),
        lambda record: (record.offset, record_out(record, query.values)),
    )


_PRODUCE_LINES = (
    "One record a line, as in `records`; with `lines=values` each line is a value itself. Of any size: it is put into the log as it"
    " arrives, and only as fast as the log takes it."
)

OPERATIONS = (
    Operation(
        method="GET",
        path="/topics",
        handle=list_topics,
        summary="Every topic.",
        tag="Topics",
        answer=TopicsOut,
    ),
    Operation(
        method="POST",
        path="/topics",
        handle=create_topic,
        summary="Make a topic.",
        tag="Topics",
        body=NewTopicIn,
        answer=TopicOut,
        status=201,
        problems=(409, 504),
    ),
    Operation(
        method="GET",
        path="/topics/{topic}",
        handle=describe_topic,
        summary="A topic with its partitions.",
        tag="Topics",
        answer=TopicDetailOut,
        problems=(404,),
    ),
    Operation(
        method="PATCH",
        path="/topics/{topic}",
        handle=alter_topic,
        summary="Change what a topic keeps.",
        tag="Topics",
        body=TopicChangeIn,
        answer=TopicOut,
        problems=(404, 504),
    ),
    Operation(
        method="DELETE",
        path="/topics/{topic}",
        handle=delete_topic,
        summary="Delete a topic and its records.",
        tag="Topics",
        status=204,
        problems=(404, 504),
    ),
    Operation(
        method="POST",
        path="/topics/{topic}/records",
        handle=produce,
        summary="Produce records.",
        description="Answered once they are acknowledged as `acks` says. A topic that is not there is made, if the node does that.",
        tag="Records",
        query=UploadQuery,
        body=RecordsIn,
        body_types={NDJSON_TYPE: _PRODUCE_LINES},
        brings_records=True,
        answer=ProducedAllOut,
        answer_types={NDJSON_TYPE: "Of an upload of lines: lines of progress, and one that says how it ended."},
        status=201,
        statuses={200: "An upload of lines: its last line says how it ended."},
        problems=(404, 409, 504),
    ),
    Operation(
        method="GET",
        path="/topics/{topic}/partitions/{partition:int}/records",
        handle=read_records,
        summary="A page of records.",
        description="`Range: offsets=10-19` is answered with 206.",
        tag="Records",
        query=RecordsQuery,
        answer=RecordsOut,
        answer_types={NDJSON_TYPE: "One record a line."},
        statuses={206: "The range of offsets that was asked for."},
        problems=(404, 416),
        headers={"range": "`offsets=FIRST-LAST`, inclusive"},
    ),
    Operation(
        method="GET",
        path="/topics/{topic}/partitions/{partition:int}/tail",
        handle=tail,
        summary="Records as they come, as server-sent events or lines.",
        description="An event's id is its offset. The event `moved` says that the node stops, and which other nodes there are;"
        " `problem` says why the stream has ended.",
        tag="Records",
        query=TailQuery,
        answer_types={SSE_TYPE: "Events.", NDJSON_TYPE: "One record a line; an empty line is a sign of life."},
        problems=(404, 416),
        headers={"last-event-id": "Offset of the last record that was received: the tail goes on behind it."},
    ),
)
