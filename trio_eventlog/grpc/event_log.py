"""The `EventLog` service: messages to requests of `service/`, and results back."""

from collections.abc import Callable
from typing import Any

import attrs
import trio

from trio_eventlog.errors import EventLogError, InvalidArgument
from trio_eventlog.grpc.answers import servers_message
from trio_eventlog.grpc.batches import encode_batches, requested_acks, requested_batch
from trio_eventlog.grpc.callers import caller_of
from trio_eventlog.grpc.event_handlers import EventHandlers
from trio_eventlog.grpc.log_handlers import LogHandlers
from trio_eventlog.grpc.record_answers import record_answer
from trio_eventlog.grpc.remote_nodes import EncodedAnswer
from trio_eventlog.grpc.requests import requested_consume
from trio_eventlog.rpc import Context, Encoded, Handler, Requests, Send, Service
from trio_eventlog.rpc.status import error_details
from trio_eventlog.service.consume import ConsumeService
from trio_eventlog.service.fetch_budget import Gate
from trio_eventlog.service.produce import ProduceService
from trio_eventlog.service.produce_stream import ProduceStream
from trio_eventlog.service.requests import Answer, Fetched, ProduceRequest
from trio_eventlog.service.settings import ServiceSettings
from trio_eventlog.service.values import ClusterView, ProduceResult
from trio_eventlog.v1 import event_log_pb2 as messages


class EventLogHandlers:
    """Handlers of the `EventLog` service, for one node.

    Args:
        now_ns: the wall clock, for records that carry no timestamp.
        view: what GetServers answers.
        ready: set when the node belongs to a cluster; calls that need one wait until then, under their callers' deadlines.
        stopping: set when the node begins to stop.
    """

    def __init__(
        self,
        producing: ProduceService,
        consuming: ConsumeService,
        events: EventHandlers,
        logs: LogHandlers,
        settings: ServiceSettings,
        *,
        now_ns: Callable[[], int],
        view: Callable[[], ClusterView],
        ready: trio.Event,
        stopping: trio.Event,
    ) -> None:
        self._producing = producing
        self._consuming = consuming
        self._events = events
        self._logs = logs
        self._settings = settings
        self._now_ns = now_ns
        self._view = view
        self._ready = ready
        self._stopping = stopping

    def service(self) -> Service:
        return Service(
            messages.DESCRIPTOR.services_by_name["EventLog"],
            {
                "Produce": when_ready(self._ready, self.produce),
                "ProduceStream": when_ready(self._ready, self.produce_stream),
                "Consume": when_ready(self._ready, self.consume),
                "ConsumeStream": when_ready(self._ready, self.consume_stream),
                "GetServers": self.get_servers,
                **self._events.handlers(),
                **self._logs.handlers(),
            },
        )

    async def produce(self, message: messages.ProduceRequest, context: Context) -> messages.ProduceResponse:
        return produce_message(await self._producing.produce(self._produce_request(message), caller_of(context)))

    async def produce_stream(self, requests: Requests, context: Context, send: Send) -> None:
        """Requests are taken in order, several may be in flight at once, and answers leave in order."""

        async def receive() -> ProduceRequest | EventLogError | None:
            message = await requests.receive()
            if message is None:
                return None
            try:
                return self._produce_request(message)
            except EventLogError as error:
                return error

        async def answer(result: ProduceResult | EventLogError) -> None:
            await send(error_message(result) if isinstance(result, EventLogError) else produce_message(result))

        stream = ProduceStream(
            self._producing.begin,
            caller_of(context),
            receive,
            answer,
            requests_max=self._settings.produce_stream_requests_max,
            stopping=self._stopping,
        )
        await stream.run()

    def _produce_request(self, message: messages.ProduceRequest) -> ProduceRequest:
        is_batch = message.HasField("batch")
        batch = requested_batch(
            message,
            max_bytes=self._settings.batch_bytes_max,
            max_records=self._settings.batch_records_max,
            now_ns=self._now_ns(),
        )
        if message.HasField("expected_version"):
            raise InvalidArgument("expected_version belongs to events of an aggregate: use Append")
        return ProduceRequest(
            topic=message.topic,
            batch=batch,
            acks=requested_acks(message),
            partition=message.partition if message.HasField("partition") else None,
            key=b"" if is_batch else message.records[0].key,
            group_id=message.group_id,
            is_checked=not is_batch,
        )

    async def consume(self, message: messages.ConsumeRequest, context: Context) -> messages.ConsumeResponse | Encoded:
        request = requested_consume(message, is_stream=False)
        gate = self._consuming.gate(context)
        answer = await self._consuming.consume(request, caller_of(context), gate)
        consumer = _AnswerMaker(message, gate, self._settings)
        response, _ = await consumer.response(answer, _wanted_from(message, answer))
        return response

    async def consume_stream(self, message: messages.ConsumeRequest, context: Context, send: Send) -> None:
        gate = self._consuming.gate(context)
        consumer = _AnswerMaker(message, gate, self._settings)

        async def deliver(answer: Answer, offset: int | None) -> int:
            making = consumer.response(answer, offset)
            # Nothing but the response itself is held while its consumer takes its time.
            del answer
            response, next_offset = await making
            await send(response)
            return next_offset

        await self._consuming.stream(requested_consume(message, is_stream=True), caller_of(context), gate, deliver)

    async def get_servers(self, message: messages.GetServersRequest, context: Context) -> messages.GetServersResponse:
        return servers_message(self._view())


@attrs.frozen(slots=True)
class _AnswerMaker:
    """Answers to one consumer, as it has asked for them: opaque batches or records."""

    message: messages.ConsumeRequest
    gate: Gate
    settings: ServiceSettings

    async def response(self, answer: Answer, offset: int | None) -> tuple[messages.ConsumeResponse | Encoded, int]:
        """With the offset behind the last record in it (0 for what another node has answered in batches)."""
        if self.message.batches:
            if isinstance(answer, EncodedAnswer):
                return Encoded(answer.raw), 0
            fetched = answer if isinstance(answer, Fetched) else answer.fetched()
            encoded = encode_batches(
                fetched.batches,
                high_watermark=fetched.high_watermark,
                log_start_offset=fetched.log_start_offset,
                group_id=fetched.group_id,
            )
            self.gate.shrink(sum(map(len, encoded.buffers)))
            return encoded, fetched.next_offset
        fetched = answer if isinstance(answer, Fetched) else answer.fetched()
        making = record_answer(self.message, fetched.offset if offset is None else offset, fetched, self.settings)
        del answer, fetched
        response, next_offset, size_bytes = await making
        self.gate.shrink(size_bytes)
        return response, next_offset


def _wanted_from(message: messages.ConsumeRequest, answer: Answer) -> int | None:
    """Where a unary answer begins: another node does not say it, but then an offset was asked for, or the first batch is wanted."""
    if isinstance(answer, Fetched):
        return answer.offset
    return message.offset if message.start == messages.OFFSET else None


def produce_message(result: ProduceResult) -> messages.ProduceResponse:
    return messages.ProduceResponse(
        topic=result.topic,
        partition=result.partition,
        base_offset=result.base_offset,
        record_count=result.record_count,
        duplicate=result.duplicate,
    )


def error_message(error: EventLogError) -> messages.ProduceResponse:
    """The error of one request on a stream."""
    return messages.ProduceResponse(error=messages.Error(code=error.code, message=str(error), details=error_details(error)))


def when_ready(ready: trio.Event, handler: Handler) -> Handler:
    """`handler`, once the node has something to answer with."""

    async def waiting(*arguments: Any) -> Any:
        if not ready.is_set():
            await ready.wait()
        return await handler(*arguments)

    return waiting
