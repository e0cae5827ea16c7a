"""Search of log lines over HTTP: pages, streams of what is found, live tails, and what the lines have: services, levels, labels."""

from typing import Annotated, Any

import msgspec
import trio
from msgspec import Meta
from starlette.responses import Response

from trio_eventlog.codec.log_lines import known_level
from trio_eventlog.errors import EventLogError, TopicNotFound
from trio_eventlog.http.log_shapes import (
    BucketOut,
    CountedOut,
    HistogramOut,
    LabelsOut,
    LevelsOut,
    LogsOut,
    ServicesOut,
)
from trio_eventlog.http.negotiation import JSON_TYPE, NDJSON_TYPE, SSE_TYPE, check_accepted
from trio_eventlog.http.operations import Call, Operation
from trio_eventlog.http.problems import invalid_field, problem_of
from trio_eventlog.http.shapes import rfc3339
from trio_eventlog.http.streaming import Outlet
from trio_eventlog.http.tails import event_bytes, stream_answer, tail_answer
from trio_eventlog.records import Record
from trio_eventlog.search.query import CompiledQuery
from trio_eventlog.search.values import ALL_TIME, Counts, FoundLine, LogCounting, LogQuery, line_json
from trio_eventlog.service.log_requests import LOGS_TOPIC, PAGE_LINES, LogPage, decode_place, encode_place
from trio_eventlog.service.log_times import NANOSECONDS, parse_time
from trio_eventlog.service.values import END, Position
from trio_eventlog.setting_fields import parse_duration

LABEL_FRONT = "label."
"""What stands before the name of a label in a parameter."""
LOOK_BACK = "1h"
"""How far back lines are counted when nothing else is said."""
BUCKETS_MAX = 1_000
BUCKETS = 60
"""Of a histogram that does not say how wide they are."""
LINES_PER_PART = 64

Time = Annotated[str, Meta(max_length=64, description="RFC 3339, or seconds since 1970, or how long ago: 90s, 15m, 2h, 7d.")]
Topic = Annotated[str, Meta(min_length=1, max_length=255, description="Of log lines.")]


class LinesQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which lines: those that fit all of it."""

    service: Annotated[str, Meta(description="Exactly this service.")] = ""
    level: Annotated[str, Meta(description="This level: TRACE, DEBUG, INFO, WARN, ERROR or FATAL.")] = ""
    contains: Annotated[str, Meta(description="Part of the message; upper and lower case are different.")] = ""
    q: Annotated[str, Meta(description="Another name for `contains`.")] = ""
    regex: Annotated[str, Meta(description="Fits somewhere in the message; in the syntax of RE2. `(?i)` ignores case.")] = ""
    trace_id: Annotated[str, Meta(description="Exactly this trace.")] = ""
    topic: Topic = LOGS_TOPIC

    def log_query(self, call: Call, since: str = "", until: str = "") -> LogQuery:
        """Raises HttpProblem, InvalidArgument."""
        if self.contains and self.q:
            raise invalid_field("give one of contains and q, which are the same", "?q")
        now_ns = call.node.now_ns()
        return LogQuery(
            service=self.service,
            level=known_level(self.level) or self.level,
            since_ns=parse_time(since, now_ns, "since") if since else 0,
            until_ns=parse_time(until, now_ns, "until") if until else 0,
            contains=self.contains or self.q,
            regex=self.regex,
            labels=call.query_beginning_with(LABEL_FRONT),
            trace_id=self.trace_id,
        )


class SearchQuery(LinesQuery, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Which lines, and how many of them."""

    since: Annotated[Time, Meta(description="Stamped then or later.")] = ""
    until: Annotated[Time, Meta(description="Stamped before.")] = ""
    limit: Annotated[int, Meta(ge=1, le=10_000, description="Most lines.")] = PAGE_LINES
    direction: Annotated[str, Meta(pattern="^(backward|forward)$", description="backward: the newest first.")] = "backward"
    from_: Annotated[str, Meta(description="`next` of an earlier answer to the same search.")] = ""


class _Search:
    """A search that goes on from page to page until it has enough."""

    def __init__(self, call: Call, query: SearchQuery) -> None:
        self._call = call
        self._query = query
        self._log_query = query.log_query(call, query.since, query.until)
        self._lines_left = query.limit
        self._lasting = call.lasting_caller
        self.next = query.from_
        self.tail = ""
        self.is_end = False
        self.scanned_bytes = 0
        self.unreadable_batches = 0

    async def page(self) -> LogPage:
        """The next one. Raises as `LogSource.search`."""
        page = await self._call.event_log.logs.search(
            self._log_query,
            after=self.next,
            limit=self._lines_left,
            oldest_first=self._query.direction == "forward",
            topic=self._query.topic,
            caller=self._lasting,
        )
        self._lines_left -= len(page.lines)
        self.next, self.is_end = page.next, page.is_end
        self.tail = page.tail or self.tail
        self.scanned_bytes += page.scanned_bytes
        self.unreadable_batches += page.unreadable_batches
        return page

    @property
    def is_over(self) -> bool:
        """There is no more, or there are enough, or enough was looked through."""
        return self.is_end or self._lines_left <= 0 or self.scanned_bytes >= self._call.settings.search_bytes_max

    def state(self) -> dict[str, Any]:
        """Where the search is, as it stands in an answer."""
        return {
            "next": self.next,
            "end": self.is_end,
            "scanned_bytes": self.scanned_bytes,
            "unreadable_batches": self.unreadable_batches,
            "tail": self.tail,
        }


async def search_logs(call: Call) -> Response:
    """A page, or a stream of what is found."""
    query = call.query(SearchQuery, but_for=LABEL_FRONT)
    media = check_accepted(call.request.headers.get("accept", ""), JSON_TYPE, NDJSON_TYPE, SSE_TYPE)
    search = _Search(call, query)
    if media != JSON_TYPE:
        return await _search_stream(call, search, media)
    call.body.hold(2 * call.settings.page_bytes_max)
    lines: list[msgspec.Raw] = []
    size_bytes = 0
    half_time = (trio.current_time() + call.caller.deadline) / 2
    try:
        while not search.is_over and size_bytes < call.settings.page_bytes_max and trio.current_time() < half_time:
            page = await search.page()
            lines += (msgspec.Raw(line_json(line)) for line in page.lines)
            size_bytes += sum(line.size_bytes for line in page.lines)
    except TopicNotFound:
        search.is_end = True  # There was no line yet.
    return call.answer({"logs": lines, "count": len(lines), **search.state()})


async def _search_stream(call: Call, search: _Search, media: str) -> Response:
    is_sse = media == SSE_TYPE
    # The first page before the answer begins: what is wrong with the search is then its status.
    first: LogPage | None = None
    try:
        first = await search.page()
    except TopicNotFound:
        search.is_end = True

    async def source(outlet: Outlet) -> None:
        page = first
        try:
            while True:
                lines = () if page is None else page.lines
                for begin in range(0, len(lines), LINES_PER_PART):
                    await outlet.put(b"".join(_written(line, is_sse) for line in lines[begin : begin + LINES_PER_PART]))
                if search.is_over:
                    break
                if is_sse:
                    await outlet.put(event_bytes("progress", msgspec.json.encode(search.state()), is_sse))
                page = await search.page()
        except EventLogError as error:
            await outlet.put(event_bytes("problem", problem_of(error).body(), is_sse))
            return
        state = msgspec.json.encode(search.state())
        await outlet.put(event_bytes("end", state, is_sse) if is_sse else state + b"\n")

    return stream_answer(call, media, source)


def _written(line: FoundLine, is_sse: bool) -> bytes:
    return b"data: %b\n\n" % line_json(line) if is_sse else line_json(line) + b"\n"


class LogTailQuery(LinesQuery, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Which lines, and from where on."""

    from_: Annotated[
        str, Meta(description="`tail` of a search, or a line's id in an earlier tail. `Last-Event-ID` comes before it.")
    ] = ""
    start: Annotated[Position, Meta(description="Where to begin without one.")] = END


async def tail_logs(call: Call) -> Response:
    """Lines as they come, for ever."""
    query = call.query(LogTailQuery, but_for=LABEL_FRONT)
    media = check_accepted(call.request.headers.get("accept", ""), SSE_TYPE, NDJSON_TYPE)
    compiled = CompiledQuery(query.log_query(call))
    described = await call.event_log.describe_topic(query.topic, caller=call.caller)
    groups = [partition.group_id for partition in described.partitions]
    token = call.request.headers.get("last-event-id", "").strip() or query.from_
    offsets = decode_place(token, groups, is_backwards=False)
    if not token and query.start is END:
        for number in range(len(groups)):
            _, offsets[number] = await call.event_log.offsets(query.topic, number, caller=call.caller)

    def show(record: Record) -> tuple[str, object] | None:
        offsets[record.partition] = record.offset + 1
        value = record.value or b""
        if not compiled.fits(value, record.timestamp_ns):
            return None
        line = FoundLine(value=value, timestamp_ns=record.timestamp_ns, partition=record.partition, offset=record.offset)
        return encode_place(dict(zip(groups, offsets, strict=True)), is_backwards=False), msgspec.Raw(line_json(line))

    return tail_answer(
        call,
        media,
        lambda: call.event_log.consume(
            query.topic,
            start=dict(enumerate(offsets)),
            buffer_batches=1,
            fetch_bytes=call.settings.page_bytes_max,
            caller=call.lasting_caller,
        ),
        show,
    )


class CountQuery(LinesQuery, forbid_unknown_fields=True):
    """Which lines are counted."""

    since: Annotated[Time, Meta(description="Stamped then or later.")] = LOOK_BACK
    until: Annotated[Time, Meta(description="Stamped before.")] = ""


class _Counted:
    """Numbers of lines of all pages.

    Attributes:
        query: what was counted.
        is_complete: False: there was more than one answer may look through; what was counted is the newest.
    """

    def __init__(self, query: LogQuery) -> None:
        self.query = query
        self.counts = Counts()
        self.scanned_bytes = 0
        self.is_complete = False

    def by(self, part: int) -> dict[str, int]:
        """Numbers by service (1) or level (2), the largest first."""
        found: dict[str, int] = {}
        for key, lines in self.counts.lines.items():
            name = str(key[part])
            found[name] = found.get(name, 0) + lines
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def state(self) -> dict[str, Any]:
        return {
            "since": rfc3339(self.query.since_ns),
            "scanned_bytes": self.scanned_bytes,
            "complete": self.is_complete and not self.counts.is_truncated,
        }


async def _count(call: Call, topic: str, query: LogQuery, counting: LogCounting) -> _Counted:
    counted = _Counted(query)
    half_time = (trio.current_time() + call.caller.deadline) / 2
    after = ""
    try:
        while not counted.is_complete and counted.scanned_bytes < call.settings.search_bytes_max:
            page = await call.event_log.logs.count(query, counting, after=after, topic=topic, caller=call.caller)
            counted.counts.add_all(page.counts)
            counted.scanned_bytes += page.scanned_bytes
            counted.is_complete = page.is_end
            after = page.next
            if trio.current_time() > half_time:
                break
    except TopicNotFound:
        counted.is_complete = True  # There was no line yet.
    return counted


async def list_services(call: Call) -> Response:
    """With the number of their lines."""
    query = call.query(CountQuery, but_for=LABEL_FRONT)
    counted = await _count(call, query.topic, query.log_query(call, query.since, query.until), ALL_TIME)
    services = [CountedOut(name, lines) for name, lines in counted.by(1).items()]
    return call.answer(ServicesOut(services, **counted.state()))


async def list_levels(call: Call) -> Response:
    """With the number of their lines."""
    query = call.query(CountQuery, but_for=LABEL_FRONT)
    counted = await _count(call, query.topic, query.log_query(call, query.since, query.until), ALL_TIME)
    levels = [CountedOut(name, lines) for name, lines in counted.by(2).items()]
    return call.answer(LevelsOut(levels, **counted.state()))


async def list_labels(call: Call) -> Response:
    """With their values."""
    query = call.query(CountQuery, but_for=LABEL_FRONT)
    log_query = query.log_query(call, query.since, query.until)
    counted = await _count(call, query.topic, log_query, LogCounting(with_labels=True))
    labels = {name: sorted(values) for name, values in sorted(counted.counts.labels.items())}
    return call.answer(LabelsOut(labels, **counted.state()))


class HistogramQuery(CountQuery, forbid_unknown_fields=True):
    """Which lines are counted, and how wide a bucket of time is."""

    step: Annotated[
        str, Meta(max_length=32, description="Width of a bucket, such as 10s or 1m. Without it: a sixtieth of the time asked for.")
    ] = ""


async def log_histogram(call: Call) -> Response:
    """Numbers of lines over time, by level."""
    query = call.query(HistogramQuery, but_for=LABEL_FRONT)
    log_query = query.log_query(call, query.since, query.until)
    until_ns = log_query.until_ns or call.node.now_ns()
    step_ns = _step_ns(query.step, until_ns - log_query.since_ns)
    counted = await _count(call, query.topic, log_query, LogCounting(step_ns=step_ns))
    levels: dict[int, dict[str, int]] = {}
    for (bucket_ns, _, level), lines in sorted(counted.counts.lines.items()):
        bucket = levels.setdefault(bucket_ns, {})
        bucket[level] = bucket.get(level, 0) + lines
    buckets = [BucketOut(rfc3339(bucket_ns), sum(bucket.values()), bucket) for bucket_ns, bucket in levels.items()]
    return call.answer(HistogramOut(step_ns / NANOSECONDS, buckets, **counted.state()))


def _step_ns(text: str, span_ns: int) -> int:
    if not text:
        return max(NANOSECONDS, span_ns // BUCKETS)
    try:
        step_ns = round(parse_duration(text) * NANOSECONDS)
    except (ValueError, OverflowError) as error:
        raise invalid_field(str(error), "?step") from error
    if not 0 < step_ns < 1 << 62 or span_ns // step_ns > BUCKETS_MAX:
        raise invalid_field(f"it gives more than {BUCKETS_MAX} buckets, or none: ask for a wider step or a shorter time", "?step")
    return step_ns


_LABELS_WORDS = " `label.NAME=VALUE`, as often as there are names, asks for labels."
OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/logs",
        handle=search_logs,
        summary="Search log lines, the newest first.",
        description="Partitions are scanned and merged by time. As JSON an answer has at most `limit` lines and about 1 MiB; as"
        " server-sent events or lines of JSON it is written while the search finds them, and ends with the place where it is (the"
        " event `end`, the last line). An answer that is not `end` goes on with `from`=`next`; `tail` is where to follow from."
        + _LABELS_WORDS,
        tag="Logs",
        query=SearchQuery,
        answer=LogsOut,
        answer_types={
            SSE_TYPE: "Lines as events; the events `progress` and `end` say where the search is.",
            NDJSON_TYPE: "Lines; the last one says where the search is.",
        },
        problems=(429,),
    ),
    Operation(
        method="GET",
        path="/v1/logs/tail",
        handle=tail_logs,
        summary="Log lines as they come, as server-sent events or lines.",
        description="A line's id is a place in all partitions: as `Last-Event-ID` it resumes behind the line. The event `moved`"
        " says that the node stops, and which other nodes there are; `problem` says why the stream has ended." + _LABELS_WORDS,
        tag="Logs",
        query=LogTailQuery,
        answer_types={SSE_TYPE: "Lines as events.", NDJSON_TYPE: "Lines; an empty one is a sign of life."},
        problems=(404, 429),
        headers={"last-event-id": "The id of the last line that was received."},
    ),
    Operation(
        method="GET",
        path="/v1/logs/services",
        handle=list_services,
        summary="Services that have log lines, with numbers.",
        description="Of the last hour, unless `since` says otherwise." + _LABELS_WORDS,
        tag="Logs",
        query=CountQuery,
        answer=ServicesOut,
        problems=(429,),
    ),
    Operation(
        method="GET",
        path="/v1/logs/levels",
        handle=list_levels,
        summary="Levels that log lines have, with numbers.",
        description="Of the last hour, unless `since` says otherwise." + _LABELS_WORDS,
        tag="Logs",
        query=CountQuery,
        answer=LevelsOut,
        problems=(429,),
    ),
    Operation(
        method="GET",
        path="/v1/logs/labels",
        handle=list_labels,
        summary="Labels that log lines have, with their values.",
        description="Of the last hour, unless `since` says otherwise." + _LABELS_WORDS,
        tag="Logs",
        query=CountQuery,
        answer=LabelsOut,
        problems=(429,),
    ),
    Operation(
        method="GET",
        path="/v1/logs/histogram",
        handle=log_histogram,
        summary="Numbers of log lines over time, by level.",
        description="Of the last hour, unless `since` says otherwise. Buckets without a line are left out." + _LABELS_WORDS,
        tag="Logs",
        query=HistogramQuery,
        answer=HistogramOut,
        problems=(429,),
    ),
)
