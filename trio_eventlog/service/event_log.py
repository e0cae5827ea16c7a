"""The `EventLog` service: protobuf in, broker or another node, protobuf out."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import trio

from trio_eventlog.budgets import BudgetUse
from trio_eventlog.codec.batch import NANOSECONDS, TooManyRecords, unpack_message
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import (
    BatchTooLarge,
    CodecError,
    DamagedData,
    DuplicateOutOfWindow,
    EventLogError,
    InvalidArgument,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    OutOfOrderSequence,
    ShuttingDown,
    TopicNotFound,
    TopicRecreated,
    Unavailable,
)
from trio_eventlog.ids import NOBODY, GroupId, format_id
from trio_eventlog.machine.catalog import Topic
from trio_eventlog.node.broker import Broker, Fetched
from trio_eventlog.node.elsewhere import Elsewhere
from trio_eventlog.node.proposals import Appended, Proposal
from trio_eventlog.node.replica import Replica
from trio_eventlog.records import Acks, Batch, Record
from trio_eventlog.rpc import Channel, Context, Encoded, Handler, Requests, Send, Service, methods_of
from trio_eventlog.rpc.status import error_details
from trio_eventlog.service.convert import (
    RECORD_OVERHEAD_BYTES,
    check_batch,
    encode_batches,
    encode_produce_request,
    requested_acks,
    requested_batch,
)
from trio_eventlog.service.fetch_budget import FetchBudget, Gate
from trio_eventlog.service.forwarding import FORWARDED, Doubt, Forwarder, forward
from trio_eventlog.service.lanes import Lanes
from trio_eventlog.service.topics import TopicAdministration
from trio_eventlog.v1 import event_log_pb2 as messages


@attrs.frozen(slots=True, kw_only=True)
class ServiceSettings:
    """Bounds of one call.

    Attributes:
        batch_bytes_max: payload of one batch.
        unpacked_bytes_max: the same, unpacked.
        batch_records_max: records of one batch.
        fetch_bytes_max, fetch_records_max: of one answer; a request may ask for less.
        fetched_bytes_max, fetched_bytes_per_connection_max: fetched for consumers and not sent yet.
        slow_consumer_seconds: a consumer that holds fetched bytes longer, while others wait for some, is sent away.
        response_bytes_max: of the records in one answer, unpacked: what gRPC lets through.
        fetch_wait_seconds_max: how long a Consume may wait.
        linearizable_seconds_max: how long a linearizable read may look for a leader that has a quorum.
        stream_requests_max: produce requests of one stream not yet answered.
        lanes_idle_max: producer ids of this node kept for each partition (see `lanes`).
        creates_topics: a topic is made when it is first produced to.
    """

    batch_bytes_max: int = 1 << 20
    unpacked_bytes_max: int = 16 << 20
    batch_records_max: int = 250_000
    fetch_bytes_max: int = 1 << 20
    fetch_records_max: int = 100_000
    response_bytes_max: int = 4032 << 10
    fetched_bytes_max: int = 256 << 20
    fetched_bytes_per_connection_max: int = 32 << 20
    slow_consumer_seconds: float = 10.0
    fetch_wait_seconds_max: float = 60.0
    linearizable_seconds_max: float = 30.0
    stream_requests_max: int = 32
    lanes_idle_max: int = 1024
    creates_topics: bool = False


class EventLogService:
    """Handlers of the `EventLog` service, for one node.

    Args:
        now_ns: the wall clock, for records that carry no timestamp.
        servers: what GetServers answers.
        ready: set when the node belongs to a cluster; calls that need one wait until then, under their callers' deadlines.
        stopping: set when the node begins to stop; consumers are sent to other nodes then.
    """

    def __init__(
        self,
        broker: Broker,
        topics: TopicAdministration,
        forwarder: Forwarder,
        lanes: Lanes,
        settings: ServiceSettings,
        *,
        now_ns: Callable[[], int],
        servers: Callable[[], messages.GetServersResponse],
        ready: trio.Event,
        stopping: trio.Event,
    ) -> None:
        self._broker = broker
        self._topics = topics
        self._forwarder = forwarder
        self._lanes = lanes
        self._settings = settings
        self._fetched = FetchBudget(
            settings.fetched_bytes_max, settings.fetched_bytes_per_connection_max, settings.slow_consumer_seconds
        )
        self._now_ns = now_ns
        self._servers = servers
        self._ready = ready
        self._stopping = stopping
        self._sticky = 0

    def service(self) -> Service:
        return Service(
            messages.DESCRIPTOR.services_by_name["EventLog"],
            {
                "Produce": when_ready(self._ready, self.produce),
                "ProduceStream": when_ready(self._ready, self.produce_stream),
                "Consume": when_ready(self._ready, self.consume),
                "ConsumeStream": when_ready(self._ready, self.consume_stream),
                "GetServers": self.get_servers,
            },
        )

    # Produce

    async def produce(self, request: messages.ProduceRequest, context: Context) -> messages.ProduceResponse:
        begun = await self._begin(request, is_forwarded=is_forwarded(context))
        return await begun.answer()

    async def produce_records(
        self, topic: str, records: Sequence[Record], *, partition: int | None, acks: Acks
    ) -> messages.ProduceResponse:
        """As `produce`, for an embedding application."""
        try:
            request = messages.ProduceRequest(topic=topic, partition=partition, acks=int(acks))  # type: ignore[arg-type]
            for record in records:
                item = request.records.add(value=record.value, key=record.key)
                for header in record.headers:
                    item.headers.add(key=header.key, value=header.value)
                if record.timestamp_ns:
                    item.timestamp.seconds, item.timestamp.nanos = divmod(record.timestamp_ns, NANOSECONDS)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidArgument(f"topic {topic!r}, partition {partition!r} or a record cannot be sent: {error}") from error
        begun = await self._begin(request, is_forwarded=False)
        return await begun.answer()

    async def produce_stream(self, requests: Requests, context: Context, send: Send) -> None:
        """Requests are taken in order, several may be under way at once, and answers leave in order."""
        forwarded = is_forwarded(context)
        send_answer, receive_answer = trio.open_memory_channel[_Begun | EventLogError](self._settings.stream_requests_max)
        last: _Begun | None = None
        answered = trio.Event()

        async def may_propose(replica: Replica) -> bool:
            """Whether a batch proposed now comes behind the earlier ones of the stream.

            When leadership has moved, batches that found no leader here, or lost it, go to the next one by one as their turn to be
            answered comes. None may overtake them, and when the next leader is this node, those that follow wait for them.
            """
            nonlocal answered
            while last is not None and last.is_on_its_way_elsewhere:
                if not replica.is_leader:
                    return False
                answered = trio.Event()
                await answered.wait()
            return True

        async def answer_in_order() -> None:
            async with receive_answer:
                async for begun in receive_answer:
                    try:
                        if isinstance(begun, EventLogError):
                            raise begun
                        response = await begun.answer()
                        begun.is_answered = True
                    except EventLogError as error:
                        if isinstance(begun, _Begun):
                            begun.is_answered = True
                        response = messages.ProduceResponse(
                            error=messages.Error(code=error.code, message=str(error), details=error_details(error))
                        )
                    answered.set()
                    await send(response)

        reading = trio.CancelScope()

        async def stop_reading() -> None:
            await self._stopping.wait()
            reading.cancel()

        async with trio.open_nursery() as stopper:
            stopper.start_soon(stop_reading)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer_in_order)
                async with send_answer:
                    while not self._stopping.is_set():
                        # A request that was taken is answered; only the wait for the next one is cut short.
                        with trio.CancelScope() as reading:
                            request = await requests.receive()
                        if reading.cancelled_caught or request is None:
                            break
                        begun: _Begun | EventLogError
                        try:
                            begun = last = await self._begin(request, is_forwarded=forwarded, may_propose=may_propose)
                        except EventLogError as error:
                            begun = error
                        await send_answer.send(begun)
            stopper.cancel_scope.cancel()
        if self._stopping.is_set():
            raise ShuttingDown("this node is stopping: repeat what was not answered at another one")

    async def _begin(
        self,
        request: messages.ProduceRequest,
        *,
        is_forwarded: bool,
        may_propose: Callable[[Replica], Awaitable[bool]] | None = None,
    ) -> "_Begun":
        """Give the request's batch to the log, in order; the answer waits for the acknowledgement, or for another leader."""
        settings = self._settings
        batch = requested_batch(
            request, max_bytes=settings.batch_bytes_max, max_records=settings.batch_records_max, now_ns=self._now_ns()
        )
        if request.HasField("batch"):
            # Carried ones too: anybody can claim to be a node that has looked at it.
            check_batch(batch, settings.unpacked_bytes_max, settings.batch_records_max, settings.response_bytes_max)
        if request.HasField("expected_version"):
            raise InvalidArgument("expected_version belongs to the event store, which this release does not have")
        acks = requested_acks(request)
        topic = await self._topics.find(
            request.topic,
            request.partition,
            request.group_id,
            create=self._settings.creates_topics and not is_forwarded,
        )
        partition = self._partition(topic, request)
        replica = self._broker.group(topic.partitions[partition].group_id)
        if isinstance(replica, Elsewhere) and is_forwarded:
            raise replica.refusal()
        lane = None
        if not batch.producer_id:
            lane = self._lanes.take(replica.group_id)
            batch = lane.stamp(batch)
        proposal: Proposal | None = None
        if isinstance(replica, Replica) and (may_propose is None or await may_propose(replica)):
            try:
                proposal = await replica.propose_batch(batch, acks)
            except NotLeader:
                if is_forwarded:
                    raise

        async def answer() -> messages.ProduceResponse:
            nonlocal batch, lane
            doubt = Doubt()
            try:
                appended = await self._appended(topic.name, partition, replica, batch, acks, proposal, doubt, is_forwarded)
            except TopicRecreated as error:
                if request.group_id:
                    raise
                raise _outdated(error) from error
            except OutcomeUnknown as error:
                if isinstance(error.__cause__, TopicNotFound):
                    # Whatever an earlier attempt may have put into the log is gone with the topic.
                    raise error.__cause__ from error
                raise
            except (OutOfOrderSequence, DuplicateOutOfWindow) as error:
                if lane is None or (isinstance(error, DuplicateOutOfWindow) and doubt.cause is not None):
                    raise
                # What went before it in the lane was acknowledged by less than a quorum and lost, or so long ago that the partition
                # has forgotten the lane. Nothing of that is the client's business, and this batch is not in the log: it begins
                # another lane.
                lane = self._lanes.begin(replica.group_id)
                batch = lane.stamp(batch)
                doubt = Doubt()
                appended = await self._appended(topic.name, partition, replica, batch, acks, None, doubt, is_forwarded)
            if lane is not None:
                self._lanes.give_back(lane, batch.record_count)
            return messages.ProduceResponse(
                topic=topic.name,
                partition=partition,
                base_offset=appended.base_offset,
                record_count=appended.record_count,
                # Under a lane, or after an attempt in doubt, a repetition is this node's own doing: its client sent it once.
                duplicate=appended.duplicate and lane is None and not doubt,
            )

        return _Begun(proposal, answer)

    async def _appended(
        self,
        topic: str,
        partition: int,
        replica: Replica | Elsewhere,
        batch: Batch,
        acks: Acks,
        proposal: Proposal | None,
        doubt: Doubt,
        is_forwarded: bool,
    ) -> Appended:
        if proposal is not None:
            try:
                return await _outcome(proposal)
            except (NotLeader, OutcomeUnknown, ShuttingDown) as error:
                if is_forwarded:
                    raise
                doubt.add(error)

        async def local() -> Appended:
            place = self._broker.group(replica.group_id)  # opened here meanwhile, perhaps
            if isinstance(place, Elsewhere):
                raise place.refusal()
            return await _outcome(await place.propose_batch(batch, acks))

        async def remote(channel: Channel) -> Appended:
            response = await forward(channel, _PRODUCE, encode_produce_request(topic, partition, batch, acks, replica.group_id))
            return Appended(response.base_offset, response.record_count, response.duplicate)

        return await self._forwarder.at_leader(replica, local, remote, doubt)

    def _partition(self, topic: Topic, request: messages.ProduceRequest) -> int:
        count = len(topic.partitions)
        if request.HasField("partition"):
            return int(request.partition)
        if request.records and request.records[0].key:
            return partition_of(request.records[0].key, count)
        # Sticky: a partition that this node leads saves the way to another node.
        led = [number for number, item in enumerate(topic.partitions) if self._broker.group(item.group_id).is_leader]
        self._sticky += 1
        return led[self._sticky % len(led)] if led else self._sticky % count

    # Consume

    def fetched_use(self) -> BudgetUse:
        """Bytes fetched for consumers and not sent yet."""
        return self._fetched.use()

    async def consume(self, request: messages.ConsumeRequest, context: Context) -> messages.ConsumeResponse | Encoded:
        _check_filter(request)
        place = await self._place(request, context)
        gate = Gate(self._fetched, context)
        if isinstance(place, Replica):
            try:
                return await self._consume_here(place, request, gate)
            except NotLeader:
                if is_forwarded(context):
                    raise
                # It was closed while the call waited, since its group has moved.
                place = self._broker.group(place.group_id)

        async def here() -> messages.ConsumeResponse | Encoded:
            found = self._broker.group(place.group_id)  # opened here meanwhile, perhaps
            if isinstance(found, Elsewhere):
                raise found.refusal()
            return await self._consume_here(found, request, gate)

        with _identified(request, place):
            return await self._forwarder.at_leader(place, here, lambda channel: _carried(channel, request))

    async def _consume_here(
        self, replica: Replica, request: messages.ConsumeRequest, gate: Gate
    ) -> messages.ConsumeResponse | Encoded:
        max_wait = request.max_wait
        if max_wait.seconds < 0 or not 0 <= max_wait.nanos < NANOSECONDS:
            raise InvalidArgument(f"max_wait is {max_wait.seconds} s and {max_wait.nanos} ns: it is 0 or more")
        offset = await self._start(replica, request)
        await gate.enter(self._memory_bytes(request))
        fetched = await self._fetch(replica, request, offset)
        if not fetched.batches and request.HasField("max_wait"):
            gate.leave()
            wait_seconds = max_wait.seconds + max_wait.nanos / NANOSECONDS
            with trio.move_on_after(min(wait_seconds, self._settings.fetch_wait_seconds_max)):
                await replica.wait_readable(offset)
            await gate.enter(self._memory_bytes(request))
            fetched = await self._fetch(replica, request, offset)
        response, _, size_bytes = await _response(request, replica.group_id, offset, fetched, self._settings)
        gate.shrink(size_bytes)  # It is given back when the answer is sent, with the end of the call.
        return response

    def _memory_bytes(self, request: messages.ConsumeRequest) -> int:
        """What one answer takes at most while it is made: what is fetched, and a batch unpacked."""
        packed_bytes = max(self._settings.fetch_bytes_max, self._settings.batch_bytes_max)
        return packed_bytes if request.batches else packed_bytes + self._settings.unpacked_bytes_max

    async def consume_stream(self, request: messages.ConsumeRequest, context: Context, send: Send) -> None:
        _check_filter(request)
        gate = Gate(self._fetched, context)
        async with trio.open_nursery() as nursery:
            place = await self._place(request, context)
            if isinstance(place, Elsewhere):
                nursery.start_soon(self._stream_from_elsewhere, place, request, send)
            else:
                nursery.start_soon(self._stream_from, place, request, send, gate)
            # A stream has no end of its own: a node that stops must send its consumers away, or it would wait for them.
            await self._stopping.wait()
            nursery.cancel_scope.cancel()
        raise ShuttingDown("this node is stopping: go on from the next offset at another one")

    async def _stream_from_elsewhere(self, place: Elsewhere, request: messages.ConsumeRequest, send: Send) -> None:
        # Not gated: what is left unread on the channel between two nodes would hold up all other calls on it.
        with _identified(request, place):
            await self._forwarder.stream(place, _CONSUME_STREAM, request, send)

    async def _stream_from(self, replica: Replica, request: messages.ConsumeRequest, send: Send, gate: Gate) -> None:
        offset = await self._start(replica, request)
        memory_bytes = self._memory_bytes(request)
        while True:
            await gate.enter(memory_bytes)
            fetched = await self._fetch(replica, request, offset)
            if fetched.batches:
                response, offset, size_bytes = await _response(request, replica.group_id, offset, fetched, self._settings)
                gate.shrink(size_bytes)
                # Nothing but the answer itself is held while its consumer takes its time.
                del fetched
                await send(response)
                del response
                gate.leave()
            else:
                gate.leave()
                await replica.wait_readable(offset)

    async def _place(self, request: messages.ConsumeRequest, context: Context) -> Replica | Elsewhere:
        """What to read from, or where to ask for it."""
        topic = await self._topics.find(request.topic, request.partition, request.group_id)
        place = self._broker.group(topic.partitions[request.partition].group_id)
        if isinstance(place, Elsewhere) and is_forwarded(context):
            raise place.refusal()
        return place

    async def _start(self, replica: Replica, request: messages.ConsumeRequest) -> int:
        """Where to begin.

        A linearizable request first waits until this node has everything acknowledged before the call. So does one for an
        offset above the watermark: the node may only be behind, or just restarted.
        """
        if request.consistency not in (messages.COMMITTED, messages.LINEARIZABLE):
            raise InvalidArgument(f"consistency {request.consistency} is none of COMMITTED, LINEARIZABLE")
        is_beyond = request.start == messages.OFFSET and request.offset > replica.watermark.value
        if request.consistency == messages.LINEARIZABLE or is_beyond:
            await self._wait_linearizable(replica)
        match request.start:
            case messages.OFFSET:
                return request.offset
            case messages.BEGINNING:
                return replica.log.log_start_offset
            case messages.END:
                return replica.watermark.value
            case messages.TIMESTAMP:
                timestamp_ns = request.start_timestamp.seconds * NANOSECONDS + request.start_timestamp.nanos
                return await self._broker.offset_at_timestamp(replica, timestamp_ns)
        raise InvalidArgument(f"start {request.start} is none of OFFSET, BEGINNING, END, TIMESTAMP")

    async def _wait_linearizable(self, replica: Replica) -> None:
        with trio.move_on_after(self._settings.linearizable_seconds_max):
            await replica.wait_linearizable()
            return
        leader_id = replica.leader_id
        known = "this node knows of no leader" if leader_id == NOBODY else f"node {format_id(leader_id)} leads, as far as it knows"
        raise NoQuorum(
            f"{replica.name}: after {self._settings.linearizable_seconds_max:g} s this node could not be sure of showing everything"
            f" that is acknowledged: {known}, and {replica.entries_behind} entries of what it has heard of are not applied here."
            " Try again later, or elsewhere, or read what this node has (COMMITTED)"
        )

    async def _fetch(self, replica: Replica, request: messages.ConsumeRequest, offset: int) -> Fetched:
        settings = self._settings
        return await self._broker.fetch_from(
            replica,
            request.topic,
            request.partition,
            offset,
            max_bytes=min(request.max_bytes or settings.fetch_bytes_max, settings.fetch_bytes_max),
            max_records=min(request.max_records or settings.fetch_records_max, settings.fetch_records_max),
        )

    # The cluster

    async def get_servers(self, request: messages.GetServersRequest, context: Context) -> messages.GetServersResponse:
        return self._servers()


SLICE_BYTES = 256 * 1024
"""Unpacked for a consumer before others have their turn; one batch always is."""
SLICE_RECORDS = 1024
"""Looked at for a consumer before others have their turn."""


@attrs.define(slots=True, eq=False)
class _Begun:
    """A produce request that was taken, and the way to its answer."""

    proposal: Proposal | None
    answer: Callable[[], Awaitable[messages.ProduceResponse]]
    is_answered: bool = False

    @property
    def is_on_its_way_elsewhere(self) -> bool:
        """Not given to this node's log, or given back by it: `answer` will take it to a leader, and has not yet done so."""
        return not self.is_answered and (self.proposal is None or self.proposal.has_failed)


_METHODS = methods_of(messages.DESCRIPTOR.services_by_name["EventLog"])
_PRODUCE = _METHODS["Produce"]
_CONSUME = _METHODS["Consume"]
_CONSUME_STREAM = _METHODS["ConsumeStream"]


async def _carried(channel: Channel, request: messages.ConsumeRequest) -> Encoded:
    """The answer of a node that has the records, moved and not parsed."""
    return Encoded(await channel.unary(_CONSUME, request, metadata=((FORWARDED, "1"),), raw=True))


def when_ready(ready: trio.Event, handler: Handler) -> Handler:
    """`handler`, once the node has something to answer with."""

    async def waiting(*arguments: Any) -> Any:
        await ready.wait()
        return await handler(*arguments)

    return waiting


def is_forwarded(context: Context) -> bool:
    return bool(context.metadata.get(FORWARDED))


async def _outcome(proposal: Proposal) -> Appended:
    result = await proposal.outcome()
    assert isinstance(result, Appended)
    return result


@contextmanager
def _identified(request: messages.ConsumeRequest, place: Replica | Elsewhere) -> Iterator[None]:
    """A block in which the request is carried elsewhere, where it must find this very group, and not what has its name by then."""
    is_asked_for = bool(request.group_id)
    request.group_id = place.group_id
    try:
        yield
    except TopicRecreated as error:
        if is_asked_for:
            raise
        raise _outdated(error) from error


def _outdated(error: TopicRecreated) -> Unavailable:
    """What a client is told that named no group, when this node was behind: the next time, it may not be."""
    return Unavailable(f"this node had not heard of it yet: {error}. Ask again")


def _check_filter(request: messages.ConsumeRequest) -> None:
    if request.batches and request.filter.key:
        raise InvalidArgument("a filter looks into records, and opaque batches were asked for: leave one of them out")


async def _response(
    request: messages.ConsumeRequest, group_id: GroupId, offset: int, fetched: Fetched, settings: ServiceSettings
) -> tuple[messages.ConsumeResponse | Encoded, int, int]:
    """The answer, the offset where the next one begins, and about how many bytes the answer has.

    Others run between two batches, and between some of the records of a large one: a small batch may unpack to very many.
    """
    if request.batches:
        encoded = encode_batches(
            fetched.batches,
            high_watermark=fetched.high_watermark,
            log_start_offset=fetched.log_start_offset,
            group_id=group_id,
        )
        return encoded, fetched.next_offset, sum(map(len, encoded.buffers))
    response = messages.ConsumeResponse(
        high_watermark=fetched.high_watermark, log_start_offset=fetched.log_start_offset, group_id=group_id
    )
    room_bytes = settings.response_bytes_max
    unpacked_bytes = 0
    for batch in fetched.batches:
        try:
            message, message_bytes = unpack_message(batch, settings.unpacked_bytes_max, settings.batch_records_max)
        except TooManyRecords as error:
            raise BatchTooLarge(
                f"the batch at offset {batch.base_offset} of {request.topic!r}: {error}. It can be read as a whole (batches), or"
                f" passed over: go on from offset {batch.base_offset + batch.record_count}",
                limit_bytes=settings.response_bytes_max,
            ) from error
        except CodecError as error:
            raise DamagedData(f"the batch at offset {batch.base_offset} of {request.topic!r}: {error}") from error
        unpacked_bytes += message_bytes
        if unpacked_bytes > SLICE_BYTES:
            unpacked_bytes = 0
            await trio.lowlevel.checkpoint()
        for at, record in enumerate(message.records, batch.base_offset):
            if at % SLICE_RECORDS == SLICE_RECORDS - 1:
                await trio.lowlevel.checkpoint()
            if at < offset or (request.filter.key and record.key != request.filter.key):
                continue
            if request.max_records and len(response.records) == request.max_records:
                return response, at, settings.response_bytes_max - room_bytes
            record.offset = at
            # Records may take a multiple of their packed batch: the rest comes with the next answer.
            record_bytes = record.ByteSize() + RECORD_OVERHEAD_BYTES
            room_bytes -= record_bytes
            if room_bytes < 0:
                if response.records:
                    return response, at, settings.response_bytes_max
                raise BatchTooLarge(
                    f"the record at offset {at} of {request.topic!r} has {record_bytes} bytes, and an answer with records"
                    f" {settings.response_bytes_max} at most. It can be read in its batch (batches), or passed over: go on from"
                    f" offset {at + 1}",
                    limit_bytes=settings.response_bytes_max,
                )
            response.records.append(record)
    return response, fetched.next_offset, settings.response_bytes_max - room_bytes
