"""Reading a topic: one task per partition follows a replica; what it fetches waits in one bounded channel."""

import datetime

import trio

from trio_eventlog.client.calls import Calls, TopicGrace
from trio_eventlog.client.channels import ClientCall
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import (
    CorruptBatch,
    EventLogError,
    OffsetOutOfRange,
    ShuttingDown,
    TopicNotFound,
    TopicRecreated,
    Unavailable,
)
from trio_eventlog.grpc.batches import consumed_batch
from trio_eventlog.grpc.callers import client_metadata
from trio_eventlog.grpc.methods import CONSUME, CONSUME_STREAM
from trio_eventlog.grpc.requests import consume_request
from trio_eventlog.records import Batch
from trio_eventlog.service.receivers import ConsumedBatch, Item, ReadFrom
from trio_eventlog.service.values import END, NOBODY_IN_PARTICULAR, Caller, KnownTopic
from trio_eventlog.v1 import event_log_pb2

CORRUPT_REPLICAS_MAX = 3
"""Replicas in a row that may give damaged bytes before the damage is believed."""


class PartitionReader:
    """Follows one partition across the nodes that serve it, without a gap and without a repetition.

    Attributes:
        next_offset: of the next record wanted; None until the first answer when the start is no offset.
    """

    def __init__(
        self, place: ReadFrom, calls: Calls, items: trio.MemorySendChannel[Item], *, max_bytes: int, caller: Caller
    ) -> None:
        self._topic = place.topic
        self._partition = place.partition
        self._group_id = place.group_id
        self._start = place.start
        self._calls = calls
        self._items = items
        self._max_bytes = max_bytes
        self.next_offset: int | None = place.start if isinstance(place.start, int) else None
        self._is_earned = place.is_earned
        self._from_ns = place.from_ns
        self._heard_at = 0.0
        self._corrupt = 0
        self._grace = TopicGrace(calls, place.topic, place.partition)
        self._metadata = client_metadata(caller)

    async def run(self) -> None:
        """Put batches into the channel until cancelled; an error that cannot be retried is put into the channel too."""
        async with self._items:
            try:
                try:
                    await self._run()
                except EventLogError as error:
                    await self._items.send(error)
            except trio.BrokenResourceError:
                # The receiving end was closed. (Connections that break raise Unavailable.)
                return

    async def _run(self) -> None:
        calls = self._calls
        backoff = calls.backoff()
        self._heard_at = trio.current_time()
        choose = calls.routing.for_read
        while True:
            leader = calls.routing.leader(self._topic, self._partition)
            attempt_at = trio.current_time()
            address = choose(self._topic, self._partition, attempt_at)[0]
            choose = calls.routing.for_read
            try:
                async with (
                    calls.pool.use(address, is_stream=True) as channel,
                    channel.stream(CONSUME_STREAM, metadata=self._metadata) as call,
                ):
                    await self._follow(call)
                # Silence: either there is nothing new, or the replica is cut off. The leader knows.
                if address != leader:
                    choose = calls.routing.for_write
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
            if trio.current_time() - self._heard_at > calls.settings.consumer_retry_seconds:
                raise failure
            if self._heard_at > attempt_at:
                backoff.reset()
            if isinstance(failure, Unavailable | ShuttingDown | OffsetOutOfRange | CorruptBatch | TopicNotFound):
                calls.routing.avoid(address, trio.current_time())
            await calls.before_retry(backoff, failure)

    def _goes_on_after(self, error: EventLogError) -> bool:
        return error.retryable or isinstance(error, OffsetOutOfRange) or type(error).code == EventLogError.code

    async def _follow(self, call: ClientCall) -> None:
        """Read until the stream ends (raises), or has been silent long enough to ask another replica (returns)."""
        start = self._start if self.next_offset is None else self.next_offset
        await call.send(consume_request(self._topic, self._partition, start, self._max_bytes, self._group_id))
        await call.done_sending()
        while True:
            response: event_log_pb2.ConsumeResponse | None = None
            with trio.move_on_after(self._calls.settings.consumer_idle_seconds) as scope:
                response = await call.receive()
            if scope.cancelled_caught:
                return
            if response is None:
                raise Unavailable(f"topic {self._topic}, partition {self._partition}: the node ended the stream")
            self._check_group(response.group_id)
            self._heard_at = trio.current_time()
            self._grace.reset()
            for message in response.batches:
                item = self._take(consumed_batch(message), response)
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


class ClientPartitions:
    """The partitions of topics, as a client reads them (`PartitionSource`)."""

    def __init__(self, calls: Calls, fetch_bytes: int, caller: Caller) -> None:
        self._calls = calls
        self._fetch_bytes = fetch_bytes
        self._caller = caller
        self.join_refresh_seconds = calls.settings.routing_refresh_seconds

    async def know_topic(self, topic: str) -> KnownTopic:
        return await self._calls.know_topic(topic, caller=self._caller)

    async def newest(self, topic: str) -> KnownTopic | None:
        await self._calls.refresh_if_possible()
        return self._calls.routing.topic(topic)

    async def end_of(self, topic: str, partition: int, group_id: int) -> int:
        _, end = await ask_offsets(self._calls, topic, partition, group_id, caller=self._caller)
        return end

    async def first_at(self, topic: str, partition: int, group_id: int, when: datetime.datetime) -> tuple[int, bool]:
        return await ask_offset_at(self._calls, topic, partition, when, group_id, caller=self._caller)

    async def read(self, place: ReadFrom, items: trio.MemorySendChannel[Item]) -> None:
        await PartitionReader(place, self._calls, items, max_bytes=self._fetch_bytes, caller=self._caller).run()


async def ask_offsets(
    calls: Calls, topic: str, partition: int, group_id: int = 0, *, caller: Caller = NOBODY_IN_PARTICULAR
) -> tuple[int, int]:
    """Log start offset and high watermark, which covers everything acknowledged before the call."""
    request = consume_request(topic, partition, END, max_bytes=1, group_id=group_id)
    request.consistency = event_log_pb2.LINEARIZABLE
    grace = TopicGrace(calls, topic, partition)
    response = await calls.call(
        CONSUME, request, lambda now: calls.routing.for_write(topic, partition, now), grace=grace, caller=caller
    )
    return response.log_start_offset, response.high_watermark


async def ask_offset_at(
    calls: Calls,
    topic: str,
    partition: int,
    when: datetime.datetime,
    group_id: int = 0,
    *,
    caller: Caller = NOBODY_IN_PARTICULAR,
) -> tuple[int, bool]:
    """Where the first batch begins that has a record of that time or later, and True; the high watermark and False without one."""
    request = consume_request(topic, partition, when, max_bytes=1, group_id=group_id)
    request.consistency = event_log_pb2.LINEARIZABLE
    grace = TopicGrace(calls, topic, partition)
    response = await calls.call(
        CONSUME, request, lambda now: calls.routing.for_write(topic, partition, now), grace=grace, caller=caller
    )
    return (response.batches[0].base_offset, True) if response.batches else (response.high_watermark, False)
