"""Bulk produce: lines of any number in one request, put into the log as they arrive, and only as fast as the log takes them."""

from typing import Annotated, Any, Literal

import msgspec
import trio
from msgspec import Meta, Struct
from starlette.responses import Response

from trio_eventlog.errors import EventLogError
from trio_eventlog.http.exchange import Receive, Send
from trio_eventlog.http.heads import Scope
from trio_eventlog.http.negotiation import NDJSON_TYPE
from trio_eventlog.http.operations import Call
from trio_eventlog.http.problems import HttpProblem, invalid_field, problem_of
from trio_eventlog.http.shapes import AcksName, Partition, RecordIn
from trio_eventlog.records import Acks
from trio_eventlog.service.producer import Producer

LINES_PER_TURN = 512
"""Lines that are decoded in one turn of the loop."""


class UploadQuery(Struct, forbid_unknown_fields=True):
    """How records are produced."""

    partition: Annotated[Partition, Meta(description="Where to, whatever the keys.")] | None = None
    acks: Annotated[AcksName, Meta(description="Of an upload of lines: what to wait for.")] = "quorum"
    lines: Annotated[
        Literal["records", "values"], Meta(description="Of an upload of lines: whether a line is a record, or a value itself.")
    ] = "records"


class UploadRange(Struct):
    """What an upload has put into one partition. Records of others may stand in between."""

    partition: int
    records: int
    first_offset: int
    last_offset: int


class UploadLine(Struct, omit_defaults=True):
    """A line of an upload's answer: progress, or with `done` the end. `records` are acknowledged, `bytes` are read."""

    done: bool
    records: int
    bytes: int
    ranges: list[UploadRange] = []
    problem: Any = None


class LineSplitter:
    """Lines of what arrives in any pieces.

    Attributes:
        lines: how many were given out, empty ones too.
    """

    def __init__(self, line_bytes_max: int) -> None:
        self.lines = 0
        self._line_bytes_max = line_bytes_max
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that are whole now. Raises HttpProblem: 413 for one that is too long."""
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > self._line_bytes_max:
            raise self._too_long()
        return lines

    def end(self) -> list[bytes]:
        """The last line, when nothing ends it."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []

    def check(self, lines: list[bytes]) -> None:
        """Raises HttpProblem: 413 for one of them that is too long."""
        if lines and max(map(len, lines)) > self._line_bytes_max:
            raise self._too_long()

    def _too_long(self) -> HttpProblem:
        return HttpProblem(
            413, f"line {self.lines + 1} or one soon after it has more than {self._line_bytes_max} bytes", code="LINE_TOO_LARGE"
        )


class UploadAnswer(Response):
    """Reads the request while it is answered: the first line of progress comes after a while, the last one says how it ended.

    As long as nothing was answered, a failure is an ordinary problem. Afterwards it is the `problem` of the last line.
    """

    def __init__(self, call: Call, query: UploadQuery) -> None:
        super().__init__(None, 200, None, NDJSON_TYPE)
        self._call = call
        self._query = query
        self._splitter = LineSplitter(call.settings.http_body_bytes_max)
        self._decoder = msgspec.json.Decoder(RecordIn)
        self._read_bytes = 0
        self._has_begun = False
        self._wait_seconds = call.settings.upload_progress_seconds
        self._report_at = trio.current_time() + self._wait_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call, query = self._call, self._query
        producer: Producer | None = None
        problem: HttpProblem | None = None
        try:
            async with call.event_log.producer(
                call.path("topic"),
                acks=Acks[query.acks.upper()],
                batch_bytes=call.settings.upload_batch_bytes,
                caller=call.lasting_caller,
            ) as producer:
                await self._read(producer, send)
                await producer.flush()
        except EventLogError as error:
            problem = problem_of(error)
        except HttpProblem as error:
            problem = error
        line = self._line(producer, True)
        if problem is not None:
            if not self._has_begun:
                problem.members["acknowledged"] = msgspec.to_builtins(line.ranges)
                raise problem
            line.problem = msgspec.json.decode(problem.body())
        await self._begin(send)
        await send({"type": "http.response.body", "body": msgspec.json.encode(line) + b"\n"})

    async def _read(self, producer: Producer, send: Send) -> None:
        splitter = self._splitter
        while piece := await self._call.body.read():
            self._read_bytes += len(piece)
            await self._produce(producer, splitter.feed(piece))
            if producer.failure is not None:
                raise producer.failure
            if trio.current_time() >= self._report_at:
                await self._report(producer, send)
        await self._produce(producer, splitter.end())

    async def _produce(self, producer: Producer, lines: list[bytes]) -> None:
        self._splitter.check(lines)
        partition = self._query.partition
        for begin in range(0, len(lines), LINES_PER_TURN):
            some = lines[begin : begin + LINES_PER_TURN]
            if self._query.lines == "values":
                values = [value for line in some if (value := line.removesuffix(b"\r"))]
                await producer.send_values(values, partition=partition)
            else:
                await producer.send_many(self._records(some), partition=partition)
            self._splitter.lines += len(some)

    def _records(self, lines: list[bytes]) -> list[Any]:
        first = self._splitter.lines + 1
        records = []
        for number, line in enumerate(lines, first):
            if not line or line.isspace():
                continue
            pointer = f"line {number}"
            try:
                records.append(self._decoder.decode(line).record(pointer))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise invalid_field(str(error), pointer) from error
        return records

    async def _report(self, producer: Producer, send: Send) -> None:
        """One line of progress. They come ever more rarely: a client that reads none before its end must not be waited for."""
        self._wait_seconds = min(self._wait_seconds * 2, self._call.settings.upload_progress_seconds_max)
        self._report_at = trio.current_time() + self._wait_seconds
        await self._begin(send)
        line = self._line(producer, False)
        await send({"type": "http.response.body", "body": msgspec.json.encode(line) + b"\n", "more_body": True})

    async def _begin(self, send: Send) -> None:
        if not self._has_begun:
            self._has_begun = True
            headers = [(b"content-type", NDJSON_TYPE.encode()), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

    def _line(self, producer: Producer | None, is_done: bool) -> UploadLine:
        ranges = [] if producer is None else producer.ranges()
        return UploadLine(
            is_done,
            sum(one.records for one in ranges),
            self._read_bytes,
            [UploadRange(one.partition, one.records, one.first_offset, one.last_offset) for one in ranges] if is_done else [],
        )
