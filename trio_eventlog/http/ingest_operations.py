"""Log lines over HTTP: `/v1/logs` for JSON and for OpenTelemetry, and Loki's push."""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.responses import Response

from trio_eventlog.http.negotiation import JSON_TYPE, NDJSON_TYPE, media_type
from trio_eventlog.http.operations import Call, Operation
from trio_eventlog.http.problems import HttpProblem, invalid_field
from trio_eventlog.http.shapes import AcksName
from trio_eventlog.ingest import json_lines, loki, otlp
from trio_eventlog.ingest.intake import Intake, LineIn
from trio_eventlog.ingest.taking import BadLines, take_lines
from trio_eventlog.records import Acks

PROTOBUF_TYPE = "application/x-protobuf"


class LogsQuery(Struct, forbid_unknown_fields=True):
    """How lines are taken."""

    acks: Annotated[AcksName, Meta(description="What to wait for.")] = "quorum"
    partial: Annotated[bool, Meta(description="Take the good lines of a request that has bad ones, instead of none.")] = False


class BadLineOut(Struct):
    """A line that was not taken: its number, from 0, and why."""

    line: int
    detail: str


class TakenOut(Struct):
    """How many lines were taken, and which were not (the first hundred of them)."""

    accepted: int
    rejected: int = 0
    errors: list[BadLineOut] = []


class _Taking:
    """The lines of one request, taken one after the other."""

    def __init__(self, call: Call, query: LogsQuery) -> None:
        self.bad = BadLines()
        self._call = call
        self._query = query

    def _intake(self, has_replaced_bytes: bool) -> Intake:
        call = self._call
        return Intake(
            call.settings.intake,
            received_ns=call.node.now_ns(),
            caller=call.caller,
            node_id=str(call.node.liveness()["node_id"]),
            has_replaced_bytes=has_replaced_bytes,
            hold=call.body.hold,
        )

    def on_bad(self, number: int, error: Exception) -> None:
        """Notes it; without `partial` it ends the request, and nothing of it is taken."""
        if not self._query.partial:
            raise invalid_field(str(error), f"#/{number}") from error
        self.bad.note(number, error)

    async def take(self, lines: Iterable[LineIn | None], has_replaced_bytes: bool = False) -> int:
        """Put all of them into the log; returns how many."""
        intake = self._intake(has_replaced_bytes)
        await take_lines(intake, lines, self.on_bad)
        if intake.records:
            await self._call.node.log_sink.put(intake.records, acks=Acks[self._query.acks.upper()], caller=self._call.caller)
        return len(intake.records)


async def take_logs(call: Call) -> Response:
    """By content type and shape: lines of ours, or an export of OpenTelemetry."""
    query = call.query(LogsQuery)
    if media_type(call.request.headers.get("content-type", "")) == PROTOBUF_TYPE:
        return await _export(call, query, await call.body.read_all(), PROTOBUF_TYPE)
    given = call.check_content_type(JSON_TYPE, NDJSON_TYPE, PROTOBUF_TYPE)
    data = await call.body.read_all()
    text, has_replaced = _utf8(data)
    taking = _Taking(call, query)
    try:
        if given == NDJSON_TYPE:
            accepted = await taking.take(json_lines.lines_of_text(text, taking.on_bad), has_replaced)
        else:
            shape = json_lines.shape_of(text)
            if shape is not None and shape.resource_logs is not msgspec.UNSET:
                return await _export(call, query, text, JSON_TYPE)
            accepted = await taking.take(json_lines.lines_of(text, shape, taking.on_bad), has_replaced)
    except (msgspec.DecodeError, RecursionError) as error:
        raise HttpProblem(400, f"the body is not what it says to be: {error}") from error
    taken = TakenOut(accepted, taking.bad.count, [BadLineOut(*shown) for shown in taking.bad.shown])
    return Response(msgspec.json.encode(taken), 202 if query.acks == "none" else 201, media_type=JSON_TYPE)


async def _export(call: Call, query: LogsQuery, data: bytes, form: str) -> Response:
    """Answered as the protocol says: in the form of the request, and with what was not taken as a partial success."""
    taking = _Taking(call, LogsQuery(acks=query.acks, partial=True))
    try:
        await taking.take(otlp.lines_of_json(data) if form == JSON_TYPE else otlp.lines_of_protobuf(data))
    except ModuleNotFoundError as error:
        raise HttpProblem(415, "this node lacks the package for protobuf of OpenTelemetry (extra `otlp`): send JSON") from error
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise HttpProblem(400, f"the body is no export of logs: {error}") from error
    bad = taking.bad
    if form == JSON_TYPE:
        partial = {"rejectedLogRecords": str(bad.count), "errorMessage": bad.why}
        return Response(msgspec.json.encode({"partialSuccess": partial} if bad.count else {}), media_type=JSON_TYPE)
    return Response(otlp.answer(bad.count, bad.why), media_type=PROTOBUF_TYPE)


async def push_loki(call: Call) -> Response:
    """Streams of lines, as Loki takes them."""
    query = call.query(LogsQuery)
    is_packed = media_type(call.request.headers.get("content-type", "")) == PROTOBUF_TYPE
    if not is_packed:
        call.check_content_type(JSON_TYPE, PROTOBUF_TYPE)
    data = await call.body.read_all()
    taking = _Taking(call, query)
    try:
        if is_packed:
            call.body.hold(call.settings.http_body_bytes_max)
            await taking.take(loki.lines_of_protobuf(data, call.settings.http_body_bytes_max))
        else:
            text, has_replaced = _utf8(data)
            await taking.take(loki.lines_of_json(text), has_replaced)
    except ModuleNotFoundError as error:
        raise HttpProblem(415, "this node lacks the package that unpacks snappy (extra `loki`): send JSON") from error
    except loki.PushTooLarge as error:
        raise HttpProblem(413, str(error)) from error
    except (msgspec.DecodeError, RecursionError, loki.PushRefused) as error:
        raise HttpProblem(400, f"the body is no push: {error}") from error
    return Response(status_code=204)


def _utf8(data: bytes) -> tuple[bytes, bool]:
    """The same in UTF-8, and whether bytes had to be replaced for it."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode(errors="replace").encode(), True
    return data, False


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="POST",
        path="/v1/logs",
        handle=take_logs,
        summary="Take log lines.",
        description=(
            "An array of lines, an object with `logs`, one line, or (`application/x-ndjson`) one line of text for each. All of them"
            " are taken or none, unless `partial` is given. An export of OpenTelemetry, as JSON or protobuf, is answered as its"
            " protocol says. Lines are put into the topic `logs`, by service. When the answer is an error that is not 4xx, some"
            " lines may be in the log."
        ),
        tag="Logs",
        query=LogsQuery,
        body=list[LineIn],
        body_types={
            NDJSON_TYPE: "A line of JSON for each line.",
            PROTOBUF_TYPE: "OpenTelemetry's ExportLogsServiceRequest.",
        },
        answer=TakenOut,
        answer_types={PROTOBUF_TYPE: "To an export as protobuf: ExportLogsServiceResponse."},
        status=201,
        statuses={200: "An export was taken.", 202: "Taken, without waiting for it to be durable."},
        brings_records=True,
    ),
    Operation(
        method="POST",
        path="/loki/api/v1/push",
        handle=push_loki,
        summary="Take log lines as Loki does.",
        description=f"The service is the first of these labels that a stream has: {', '.join(loki.SERVICE_LABELS)}.",
        tag="Logs",
        query=LogsQuery,
        body=loki.Push,
        body_types={PROTOBUF_TYPE: "Loki's PushRequest, packed by snappy."},
        status=204,
        brings_records=True,
    ),
)
