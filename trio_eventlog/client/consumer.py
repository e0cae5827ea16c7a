"""Reading a topic: one task per partition follows a replica; what it fetches waits in one bounded channel."""

import datetime
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import attrs
import trio

from trio_eventlog.client.calls import Caller, TopicGrace
from trio_eventlog.client.channels import ClientCall
from trio_eventlog.client.routing import KnownTopic
from trio_eventlog.client.wire import (
    BEGINNING,
    CONSUME,
    CONSUME_STREAM,
    END,
    Start,
    batch_of,
    consume_request,
)
from trio_eventlog.codec.batch import NANOSECONDS, decode_message, decode_records
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import (
    CodecError,
    CorruptBatch,
    EventLogError,
    OffsetOutOfRange,
    ShuttingDown,
    TopicNotFound,
    TopicRecreated,
    Unavailable,
)
from trio_eventlog.own_run import OwnRun, belongs_to_run
from trio_eventlog.records import Batch, Record
from trio_eventlog.v1 import event_log_pb2

RECORDS_PER_CHECKPOINT = 128
CORRUPT_REPLICAS_MAX = 3
"""Replicas in a row that may give damaged bytes before the damage is believed."""


@attrs.frozen(slots=True, kw_only=True)
class ConsumedBatch:
    """A batch as a consumer gets it, its checksum checked.

    Attributes:
        topic, partition: where it is from.
        group_id: identifies the partition for ever; 0 when its nodes do not tell it. Keep it with a position: offsets of a topic
            that was deleted mean nothing in the next one of its name.
        batch: opaque; `decode_records` opens it.
        first_offset: the first record wanted. Above `batch.base_offset` when consuming began inside the batch.
        high_watermark: one past the last readable offset, when it was sent.
        from_ns: of the first batch of a partition that is consumed from a time on: that time. What comes before it in the batch is
            not wanted. 0: of all others, whatever time their records have.
    """

    topic: str
    partition: int
    batch: Batch
    first_offset: int
    high_watermark: int
    group_id: int = 0
    from_ns: int = 0

    @property
    def end_offset(self) -> int:
        """One past the last record's offset."""
        return self.batch.base_offset + self.batch.record_count

    def records(self, max_unpacked_bytes: int) -> list[Record]:
        """Those that are wanted. Raises CorruptBatch."""
        with self._corruption_placed():
            records = decode_records(self.batch, max_unpacked_bytes, self.topic, self.partition)
        return records[self._first_wanted(record.timestamp_ns for record in records) :]

    def values(self, max_unpacked_bytes: int) -> list[bytes]:
        """Of the records that are wanted, at a fraction of the cost of `records`: no object for each. Raises CorruptBatch."""
        with self._corruption_placed():
            records = decode_message(self.batch, max_unpacked_bytes).records
        values = [record.value for record in records]
        if self.from_ns or self.first_offset > self.batch.base_offset:
            times = (record.timestamp.seconds * NANOSECONDS + record.timestamp.nanos for record in records)
            return values[self._first_wanted(times) :]
        return values

    def _first_wanted(self, timestamps_ns: Iterable[int]) -> int:
        """Its place in the batch: at `first_offset` or behind it, and of the time `from_ns` or later, unless none is."""
        place = max(self.first_offset - self.batch.base_offset, 0)
        if not self.from_ns:
            return place
        times = enumerate(timestamps_ns)
        return next((number for number, time_ns in times if number >= place and time_ns >= self.from_ns), place)

    @contextmanager
    def _corruption_placed(self) -> Iterator[None]:
        try:
            yield
        except CodecError as error:
            raise CorruptBatch(
                f"topic {self.topic}, partition {self.partition}, offset {self.batch.base_offset}: {error};"
                f" to go on behind it, start at {self.end_offset}"
            ) from error


Item = ConsumedBatch | EventLogError


@belongs_to_run
class BatchReceiver(trio.abc.ReceiveChannel[ConsumedBatch]):
    """Whole batches, in order within each partition. Ends only by an error."""

    def __init__(self, items: trio.MemoryReceiveChannel[Item]) -> None:
        self._run = OwnRun()
        self._items = items

    async def receive(self) -> ConsumedBatch:
        """The next batch.

        Raises:
            OffsetOutOfRange: the next record is gone (retention), or the start is beyond the end.
            TopicRecreated: the topic was deleted, and another one has its name now.
            TopicNotFound, PermissionDenied, CorruptBatch, Unavailable: it cannot go on.
        """
        item = await self._items.receive()
        if isinstance(item, EventLogError):
            raise item
        return item

    async def aclose(self) -> None:
        await self._items.aclose()


class RecordReceiver(trio.abc.ReceiveChannel[Record]):
    """Records, in order within each partition. Ends only by an error.

    A checkpoint for each batch and each 128 records: a checkpoint for each record would take longer than the record.

    Attributes:
        partition: where the last record or batch received is from.
        group_id: identifies that partition for ever; see `ConsumedBatch`.
        end_offset: one past the last record of the last batch.
    """

    def __init__(self, batches: BatchReceiver, max_unpacked_bytes: int) -> None:
        self._batches = batches
        self._max_unpacked_bytes = max_unpacked_bytes
        self._records: list[Record] = []
        self._next = 0
        self.partition = 0
        self.group_id = 0
        self.end_offset = 0

    async def receive(self) -> Record:
        """The next record. Raises as `BatchReceiver.receive`."""
        while self._next == len(self._records):
            self._records = await self.receive_batch()
            self._next = 0
        if not (self._next + 1) % RECORDS_PER_CHECKPOINT:
            await trio.lowlevel.checkpoint()
        record = self._records[self._next]
        self._next += 1
        return record

    async def receive_batch(self) -> list[Record]:
        """The records of the next batch, those already received of the present one excepted: for loops over lists."""
        if self._next < len(self._records):
            await trio.lowlevel.checkpoint()
            rest = self._records[self._next :]
            self._records = []
            self._next = 0
            return rest
        item = await self._batches.receive()
        self.partition = item.partition
        self.group_id = item.group_id
        self.end_offset = item.end_offset
        return item.records(self._max_unpacked_bytes)

    async def aclose(self) -> None:
        await self._batches.aclose()


class PartitionReader:
    """Follows one partition, whoever serves it, without a gap and without a repetition.

    Args:
        group_id: of the partition: its records are wanted, and not those of another topic of the same name. 0: not told yet; then
            the first answer decides.
        start: neither END nor a time, asked for once and before: again after a lost stream, they would leave out records.
        from_ns: the first batch was found by this time; 0: it was not.
        is_earned: `start` is what the log has said, not what the user has.

    Attributes:
        next_offset: of the next record wanted; None until the first answer when the start is no offset.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        group_id: int,
        start: Start,
        caller: Caller,
        items: trio.MemorySendChannel[Item],
        *,
        max_bytes: int,
        is_earned: bool,
        from_ns: int = 0,
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._group_id = group_id
        self._start = start
        self._caller = caller
        self._items = items
        self._max_bytes = max_bytes
        self.next_offset: int | None = start if isinstance(start, int) else None
        self._is_earned = is_earned
        self._from_ns = from_ns
        self._heard_at = 0.0
        self._corrupt = 0
        self._grace = TopicGrace(caller, topic, partition)

    async def run(self) -> None:
        """Put batches into the channel until cancelled; an error that cannot be overcome goes into the channel too."""
        async with self._items:
            try:
                try:
                    await self._run()
                except EventLogError as error:
                    await self._items.send(error)
            except trio.BrokenResourceError:
                # The receiving end was closed: nobody wants more. (Connections that break raise Unavailable.)
                return

    async def _run(self) -> None:
        caller = self._caller
        backoff = caller.backoff()
        self._heard_at = trio.current_time()
        choose = caller.routing.for_read
        while True:
            leader = caller.routing.leader(self._topic, self._partition)
            attempt_at = trio.current_time()
            address = choose(self._topic, self._partition, attempt_at)[0]
            choose = caller.routing.for_read
            try:
                async with caller.pool.use(address, is_stream=True) as channel, channel.stream(CONSUME_STREAM) as call:
                    await self._follow(call)
                # Silence: either there is nothing new, or the replica is cut off. The leader is the one to tell.
                if address != leader:
                    choose = caller.routing.for_write
                continue
            except EventLogError as error:
                failure = error
            if isinstance(failure, OffsetOutOfRange) and not self._is_only_behind(failure, address == leader):
                raise failure
            if isinstance(failure, CorruptBatch):
                self._corrupt += 1
                if self._corrupt >= CORRUPT_REPLICAS_MAX:
                    raise failure
            elif not (self._goes_on_after(failure) or self._grace.forgives(failure)):
                raise failure
            if trio.current_time() - self._heard_at > caller.settings.consumer_retry_seconds:
                raise failure
            if self._heard_at > attempt_at:
                backoff.reset()
            if isinstance(failure, Unavailable | ShuttingDown | OffsetOutOfRange | CorruptBatch | TopicNotFound):
                caller.routing.avoid(address, trio.current_time())
            await caller.before_retry(backoff, failure)

    def _goes_on_after(self, error: EventLogError) -> bool:
        return error.retryable or isinstance(error, OffsetOutOfRange) or type(error).code == EventLogError.code

    async def _follow(self, call: ClientCall) -> None:
        """Until the stream ends (raises), or is silent for so long that another replica is asked (returns)."""
        start = self._start if self.next_offset is None else self.next_offset
        await call.send(consume_request(self._topic, self._partition, start, self._max_bytes, self._group_id))
        await call.done_sending()
        while True:
            response: event_log_pb2.ConsumeResponse | None = None
            with trio.move_on_after(self._caller.settings.consumer_idle_seconds) as scope:
                response = await call.receive()
            if scope.cancelled_caught:
                return
            if response is None:
                raise Unavailable(f"topic {self._topic}, partition {self._partition}: the node ended the stream")
            self._check_group(response.group_id)
            self._heard_at = trio.current_time()
            self._grace.reset()
            for message in response.batches:
                item = self._take(batch_of(message), response)
                if item is not None:
                    await self._items.send(item)
                    self._corrupt = 0

    def _check_group(self, group_id: int) -> None:
        if not self._group_id:
            self._group_id = group_id
        elif group_id and group_id != self._group_id:
            raise TopicRecreated(f"topic {self._topic!r} was deleted and created again: consume the new one from its beginning")

    def _take(self, batch: Batch, response: event_log_pb2.ConsumeResponse) -> ConsumedBatch | None:
        """The batch for the channel, and `next_offset` moved behind it; None when everything in it was had before."""
        end_offset = batch.base_offset + batch.record_count
        first_offset = batch.base_offset if self.next_offset is None else self.next_offset
        if end_offset <= first_offset:
            return None
        where = f"topic {self._topic}, partition {self._partition}"
        if batch.base_offset > first_offset:
            if response.log_start_offset > first_offset:
                raise OffsetOutOfRange(
                    f"{where}: offset {first_offset} is gone, the log starts at {response.log_start_offset}",
                    response.log_start_offset,
                    response.high_watermark,
                )
            raise CorruptBatch(f"{where}: the node left out offsets {first_offset} to {batch.base_offset - 1}")
        if crc32c(batch.payload) != batch.crc32c:
            raise CorruptBatch(f"{where}, offset {batch.base_offset}: the payload does not have its checksum")
        from_ns, self._from_ns = self._from_ns, 0
        self.next_offset = end_offset
        self._is_earned = True
        return ConsumedBatch(
            topic=self._topic,
            partition=self._partition,
            batch=batch,
            first_offset=first_offset,
            high_watermark=response.high_watermark,
            group_id=self._group_id,
            from_ns=from_ns,
        )

    def _is_only_behind(self, error: OffsetOutOfRange, from_leader: bool) -> bool:
        """The replica has not got as far yet as what others have shown us."""
        if self.next_offset is None or self.next_offset < error.log_start_offset or self.next_offset <= error.high_watermark:
            return False
        return self._is_earned or not from_leader


async def follow_partitions(
    caller: Caller,
    known: KnownTopic,
    items: trio.MemorySendChannel[Item],
    read: Callable[[int, int, Start, trio.MemorySendChannel[Item]], None],
) -> None:
    """Have partitions read that a topic gets while all of it is consumed, each from its beginning."""
    async with items:
        while True:
            await trio.sleep(caller.settings.routing_refresh_seconds)
            await caller.refresh_if_possible()
            newest = caller.routing.topic(known.name)
            if newest is None or not newest.is_same(known):
                # Its partitions are no more: their readers are told so by the nodes.
                continue
            for number in range(known.partitions, newest.partitions):
                read(number, newest.group_ids[number], BEGINNING, items.clone())
            known = newest if newest.partitions > known.partitions else known


async def ask_offsets(caller: Caller, topic: str, partition: int, group_id: int = 0) -> tuple[int, int]:
    """Log start offset and high watermark, which covers everything acknowledged before the call."""
    request = consume_request(topic, partition, END, max_bytes=1, group_id=group_id)
    request.consistency = event_log_pb2.LINEARIZABLE
    grace = TopicGrace(caller, topic, partition)
    response = await caller.call(CONSUME, request, lambda now: caller.routing.for_write(topic, partition, now), grace=grace)
    return response.log_start_offset, response.high_watermark


async def ask_offset_at(caller: Caller, topic: str, partition: int, when: datetime.datetime, group_id: int = 0) -> tuple[int, bool]:
    """Where the first batch begins that has a record of that time or later, and True; the high watermark and False without one."""
    request = consume_request(topic, partition, when, max_bytes=1, group_id=group_id)
    request.consistency = event_log_pb2.LINEARIZABLE
    grace = TopicGrace(caller, topic, partition)
    response = await caller.call(CONSUME, request, lambda now: caller.routing.for_write(topic, partition, now), grace=grace)
    return (response.batches[0].base_offset, True) if response.batches else (response.high_watermark, False)


def check_start(start: Start, partitions: int) -> None:
    """Raises ValueError for a start that cannot be."""
    if isinstance(start, datetime.datetime) and start.tzinfo is None:
        raise ValueError("a start time needs its zone: datetime(..., tzinfo=UTC)")
    if isinstance(start, int) and start < 0:
        raise ValueError("an offset is 0 or more")
    if isinstance(start, int) and partitions > 1:
        raise ValueError("an offset belongs to one partition: name the partition")
