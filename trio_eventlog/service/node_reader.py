"""Partitions as an application reads them from the node that it embeds."""

import datetime
import random
from collections.abc import Awaitable, Callable

import trio

from trio_eventlog.backoff import Backoff
from trio_eventlog.errors import EventLogError, Overloaded
from trio_eventlog.service.consume import ConsumeService
from trio_eventlog.service.node_queue import NodeQueues
from trio_eventlog.service.receivers import ConsumedBatch, Item, ReadFrom
from trio_eventlog.service.requests import Answer, ConsumeRequest, Fetched, Timestamp
from trio_eventlog.service.settings import ApplicationSettings
from trio_eventlog.service.values import Caller, KnownTopic, Position, timestamp_ns


class LocalConsumer:
    """A call of the application, as the budget of fetched bytes sees it (`Consumer`).

    Attributes:
        shed_by: the error with which another task has ended the call, because its bytes were needed for other calls.
    """

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.shed_by: Overloaded | None = None
        self._at_end: list[Callable[[], None]] = []

    @property
    def connection(self) -> object:
        return self

    async def wait_sendable(self) -> None:
        await trio.lowlevel.checkpoint()

    def call_finally(self, function: Callable[[], None]) -> None:
        self._at_end.append(function)

    def shed(self, error: Overloaded) -> None:
        self.shed_by = error
        self.scope.cancel()

    def end(self) -> None:
        """The call is over."""
        for function in self._at_end:
            function()


class NodePartitions:
    """The partitions of topics, wherever they live (`PartitionSource`)."""

    def __init__(
        self,
        consuming: ConsumeService,
        queues: NodeQueues,
        settings: ApplicationSettings,
        rng: random.Random,
        stopping: trio.Event,
        *,
        fetch_bytes: int,
        caller: Caller,
    ) -> None:
        self._consuming = consuming
        self._queues = queues
        self._settings = settings
        self._rng = rng
        self._stopping = stopping
        self._fetch_bytes = fetch_bytes
        self._caller = caller
        self.join_refresh_seconds = settings.join_refresh_seconds

    async def know_topic(self, topic: str) -> KnownTopic:
        return await self._queues.know_topic(topic)

    async def newest(self, topic: str) -> KnownTopic | None:
        return self._queues.known(topic)

    async def end_of(self, topic: str, partition: int, group_id: int) -> int:
        return (await self.ask(topic, partition, group_id, Position.END)).high_watermark

    async def first_at(self, topic: str, partition: int, group_id: int, when: datetime.datetime) -> tuple[int, bool]:
        answer = await self.ask(topic, partition, group_id, Timestamp(timestamp_ns(when)))
        return (answer.batches[0].base_offset, True) if answer.batches else (answer.high_watermark, False)

    async def ask(self, topic: str, partition: int, group_id: int, start: Position | Timestamp) -> Fetched:
        """One batch at most, and the offsets of everything acknowledged before the call. Raises as `ConsumeService.consume`."""
        request = ConsumeRequest(
            topic=topic, partition=partition, start=start, max_bytes=1, is_linearizable=True, group_id=group_id
        )
        consumer = LocalConsumer()
        try:
            answer = await self._consuming.consume(request, self._caller, self._consuming.gate(consumer))
        finally:
            consumer.end()
        return answer if isinstance(answer, Fetched) else answer.fetched()

    async def read(self, place: ReadFrom, items: trio.MemorySendChannel[Item]) -> None:
        async with items:
            try:
                try:
                    await _NodeReader(place, items).run(self)
                except EventLogError as error:
                    await items.send(error)
            except trio.BrokenResourceError:
                return  # The receiving end was closed.

    async def stream(self, request: ConsumeRequest, deliver: Callable[[Answer, int | None], Awaitable[int]]) -> None:
        """Raises as `ConsumeService.stream`; also Overloaded, when the bytes fetched were needed for other calls."""
        consumer = LocalConsumer()
        try:
            with consumer.scope:
                await self._consuming.stream(request, self._caller, self._consuming.gate(consumer), deliver)
        finally:
            consumer.end()
        if consumer.shed_by is not None:
            raise consumer.shed_by

    def goes_on_after(self, error: EventLogError) -> bool:
        return error.retryable and not self._stopping.is_set()

    def request_from(self, place: ReadFrom, start: Position | int) -> ConsumeRequest:
        return ConsumeRequest(
            topic=place.topic, partition=place.partition, start=start, max_bytes=self._fetch_bytes, group_id=place.group_id
        )

    def backoff(self) -> Backoff:
        return Backoff(self._rng, self._settings.backoff_seconds_min, self._settings.backoff_seconds_max)

    @property
    def retry_seconds(self) -> float:
        return self._settings.retry_seconds


class _NodeReader:
    """Follows one partition without a gap and without a repetition, also when its replica moves."""

    def __init__(self, place: ReadFrom, items: trio.MemorySendChannel[Item]) -> None:
        self._place = place
        self._items = items
        self._next: Position | int = place.start
        self._from_ns = place.from_ns
        self._heard_at = trio.current_time()

    async def run(self, source: NodePartitions) -> None:
        backoff = source.backoff()
        while True:
            attempt_at = trio.current_time()
            try:
                await source.stream(source.request_from(self._place, self._next), self._deliver)
            except EventLogError as error:
                if not source.goes_on_after(error) or trio.current_time() - self._heard_at > source.retry_seconds:
                    raise
            if self._heard_at > attempt_at:
                backoff.reset()
            await trio.sleep(backoff.next_seconds())

    async def _deliver(self, answer: Answer, offset: int | None) -> int:
        fetched = answer if isinstance(answer, Fetched) else answer.fetched()
        self._heard_at = trio.current_time()
        for batch in fetched.batches:
            end_offset = batch.base_offset + batch.record_count
            first_offset = self._next if isinstance(self._next, int) else max(batch.base_offset, offset or 0)
            if end_offset <= first_offset:
                continue
            from_ns, self._from_ns = self._from_ns, 0
            item = ConsumedBatch(
                topic=self._place.topic,
                partition=self._place.partition,
                batch=batch,
                first_offset=max(first_offset, batch.base_offset),
                high_watermark=fetched.high_watermark,
                group_id=fetched.group_id,
                from_ns=from_ns,
            )
            await self._items.send(item)
            # Only now: had the call been ended meanwhile, the batch would be read again.
            self._next = end_offset
        return fetched.next_offset
