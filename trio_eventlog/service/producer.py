"""The batching producer: records come one by one and leave in batches; each has a handle that gives its offset."""

import random
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import accumulate
from typing import Any, Protocol

import attrs
import trio

from trio_eventlog.codec.batch import encode_records
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import BatchTooLarge, EventLogError, InvalidArgument, TopicRecreated, Unavailable
from trio_eventlog.own_run import OwnRun, belongs_to_run
from trio_eventlog.records import Acks, Batch, Compression, Header, Record
from trio_eventlog.service.background import background
from trio_eventlog.service.values import NOBODY_IN_PARTICULAR, OFFSET_UNKNOWN, Caller, KnownTopic, ProduceResult

RECORD_OVERHEAD_BYTES = 24
"""What a record's tags, lengths and timestamp take in a batch, at most, while its value and key are below LARGE_RECORD_BYTES."""
LARGE_RECORD_OVERHEAD_BYTES = 29
LARGE_RECORD_BYTES = 1 << 14
HEADER_OVERHEAD_BYTES = 16
"""The same of one of its headers."""


def encoded_bytes_max(record: Record | bytes) -> int:
    """What the record takes in a batch at most, before it is packed. Little more than it does take: batches are filled by it."""
    if isinstance(record, bytes):
        return len(record) + (RECORD_OVERHEAD_BYTES if len(record) < LARGE_RECORD_BYTES else LARGE_RECORD_OVERHEAD_BYTES)
    size_bytes = len(record.value or b"") + len(record.key or b"")
    size_bytes += RECORD_OVERHEAD_BYTES if size_bytes < LARGE_RECORD_BYTES else LARGE_RECORD_OVERHEAD_BYTES
    for header in record.headers:
        # A key that is no text is refused when its batch is encoded, with words.
        size_bytes += len(header.key.encode(errors="surrogatepass")) + len(header.value) + HEADER_OVERHEAD_BYTES
    return size_bytes


OnDone = Callable[[ProduceResult | None, EventLogError | None], None]
"""Called once, when a batch is in the log or refused."""


class BatchQueue(Protocol):
    """The way of batches into one partition, in order and bounded: a client's is a stream to the leader, a node's its own log."""

    @property
    def partition(self) -> int: ...

    def has_room(self, size_bytes: int) -> bool:
        """Whether `submit_nowait` takes a batch of this payload now. An empty queue takes any."""

    async def submit(self, batch: Batch, acks: Acks, on_done: OnDone) -> Any:
        """Wait for room, first come first served, and queue the batch. Returns what `withdraw` takes."""

    def submit_nowait(self, batch: Batch, acks: Acks, on_done: OnDone) -> Any:
        """As `submit`. `has_room` must have returned True."""

    def withdraw(self, pending: Any) -> bool:
        """No caller waits for it any more. True when it was not sent, and will not be."""


class TopicSource(Protocol):
    """What a producer asks of its client or node."""

    def known(self, topic: str) -> KnownTopic | None:
        """The topic as it is known now; None: it is not."""

    def is_outdated(self) -> bool:
        """Whether what is known should be asked for again."""

    async def know_topic(self, topic: str, *, create: bool = False) -> KnownTopic:
        """The topic, asked for when it is not known. Raises TopicNotFound, Unavailable, NoQuorum."""

    def queue_of(self, known: KnownTopic, partition: int, caller: Caller) -> BatchQueue:
        """The same queue for all producers of a partition, as long as there is work in it."""


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class ProducerSettings:
    """What a batching producer gathers. `batch_bytes_max` bounds one batch; at `batch_bytes` or `batch_records` it is sent."""

    acks: Acks
    compression: Compression
    linger_seconds: float
    batch_bytes: int
    batch_records: int
    batch_bytes_max: int


class OpenBatch:
    """Records of one partition that wait to be sent together, and what became of them."""

    __slots__ = (
        *("_done", "error", "is_observed", "partition", "pending", "queue", "records", "result"),
        *("run", "seal_at", "size_bytes"),
    )

    def __init__(self, queue: BatchQueue, seal_at: float) -> None:
        # The queue is kept: the partition's name may be another partition's by the time that the batch is full.
        self.queue = queue
        self.partition = queue.partition
        self.run = OwnRun()
        self.seal_at = seal_at
        self.records: list[Record | bytes] = []
        self.size_bytes = 0
        self.pending: Any = None
        """Set once the queue has taken the batch."""
        self.result: ProduceResult | None = None
        self.error: EventLogError | None = None
        self.is_observed = False
        self._done = trio.Event()

    def resolve(self, result: ProduceResult | None, error: EventLogError | None) -> None:
        self.records = []
        self.result = result
        self.error = error
        self._done.set()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    async def wait_done(self) -> None:
        await self._done.wait()

    async def wait(self) -> ProduceResult:
        await self._done.wait()
        if self.error is not None:
            self.is_observed = True
            raise self.error
        assert self.result is not None
        return self.result


@attrs.define(slots=True, eq=False)
class _Sealed:
    """Batches of one partition that the queue has not taken yet, in order, and the way to it: one task at a time."""

    batches: deque[OpenBatch] = attrs.field(factory=deque)
    entrance: trio.StrictFIFOLock = attrs.field(factory=trio.StrictFIFOLock)


class Delivery:
    """A record on its way."""

    __slots__ = ("_batch", "_place")

    def __init__(self, batch: OpenBatch, place: int) -> None:
        self._batch = batch
        self._place = place

    @property
    def is_done(self) -> bool:
        """Whether `wait` returns or raises at once."""
        return self._batch.is_done

    async def wait(self) -> ProduceResult:
        """Where the record is, `base_offset` being its own offset.

        Raises:
            EventLogError: it was refused; OutcomeUnknown: it may be in the log or not.
        """
        self._batch.run.check()
        result = await self._batch.wait()
        offset = result.base_offset if result.base_offset == OFFSET_UNKNOWN else result.base_offset + self._place
        return attrs.evolve(result, base_offset=offset, record_count=1)


@attrs.frozen(slots=True, kw_only=True)
class ProducedRange:
    """What a producer has put into one partition. Offsets are inclusive, and -1 with `Acks.NONE`.

    Records of other producers may stand in between.
    """

    partition: int
    records: int
    first_offset: int
    last_offset: int


@belongs_to_run
class Producer:
    """Made by `EventLog.producer`.

    Records with a key go to the key's partition; those without stick to one partition until its batch is sent, then go on
    to the next, so that batches are large. Within a partition the order of `send` is the order of the log.
    """

    def __init__(
        self,
        *,
        topic: KnownTopic,
        source: TopicSource,
        settings: ProducerSettings,
        caller: Caller,
        rng: random.Random,
        now_ns: Callable[[], int],
    ) -> None:
        self._run = OwnRun()
        self._topic = topic
        self._source = source
        self._caller = caller
        self._now_ns = now_ns
        self._acks = settings.acks
        self._compression = settings.compression
        self._linger_seconds = settings.linger_seconds
        self._batch_bytes = settings.batch_bytes
        self._batch_records = settings.batch_records
        self._max_batch_bytes = settings.batch_bytes_max
        self._open: dict[int, OpenBatch] = {}
        self._sealed: dict[int, _Sealed] = {}
        # In the order of their making: a set would be walked by addresses in memory, otherwise in every process.
        self._unfinished: dict[OpenBatch, None] = {}
        self._failed: list[OpenBatch] = []
        self._ranges: dict[int, ProducedRange] = {}
        self._change = trio.Event()
        self._sticky = rng.randrange(topic.partitions)
        self._is_closed = False

    async def send(
        self, value: bytes | Record, *, key: bytes | None = None, headers: Sequence[Header] = (), partition: int | None = None
    ) -> Delivery:
        """Hand in one record; waits while the partition's buffer is full.

        A call that is cancelled while it waits for room has handed the record in: it is sent with its batch.

        Args:
            value: the message, or a whole Record (the other arguments are not given then).
            key: see `Record.key`.
            partition: where to put it, whatever its key.

        Raises:
            BatchTooLarge: the record alone is over the limit.
            TopicNotFound: the topic was deleted, and the nodes create none on first use.
            Unavailable: the producer is closed; or no node answers that knows the topic.
        """
        if isinstance(value, Record):
            if key is not None or headers:
                raise InvalidArgument("key and headers stand in the Record already: give one or the other")
            record = value
        else:
            record = Record(value=value, key=key, headers=tuple(headers))
        await trio.lowlevel.checkpoint()
        if self._has_changed():
            await self._follow_topic()
        delivery, full = self._add(record, partition)
        for batch in full:
            await self._submit_up_to(batch)
        return delivery

    async def send_many(self, records: Iterable[bytes | Record], *, partition: int | None = None) -> list[Delivery]:
        """As `send` for each, at a fraction of the cost: others run once per call and once per full batch."""
        await trio.lowlevel.checkpoint()
        deliveries: list[Delivery] = []
        if self._has_changed():
            await self._follow_topic()
        for item in records:
            record = item if isinstance(item, Record | bytes) else Record(value=item)
            delivery, full = self._add(record, partition)
            deliveries.append(delivery)
            for batch in full:
                await self._submit_up_to(batch)
            if full and self._source.known(self._topic.name) is not self._topic:
                await self._follow_topic()
        return deliveries

    async def send_values(self, values: Sequence[bytes], *, partition: int | None = None) -> None:
        """As `send_many` for records of values alone, without a handle for each, at a tenth of the cost.

        Nothing is done for each record but to encode it: for lines of a file, and whatever else comes by the million. `ranges`
        has what was acknowledged; `failure`, and in the end `flush`, say what was not.

        Raises:
            BatchTooLarge: a value alone is over the limit; those before it are handed in.
        """
        await trio.lowlevel.checkpoint()
        if self._has_changed():
            await self._follow_topic()
        if not values:
            return
        if max(map(len, values)) >= min(LARGE_RECORD_BYTES, self._max_batch_bytes - RECORD_OVERHEAD_BYTES):
            # Of large values there are not many, and each has to be looked at.
            await self.send_many(values, partition=partition)
            return
        ends = list(accumulate(map(len, values), initial=0))
        begin = 0
        while begin < len(values):
            begin, full = self._add_values(values, ends, begin, partition)
            if full is not None:
                await self._submit_up_to(full)
                if self._source.known(self._topic.name) is not self._topic:
                    await self._follow_topic()

    @property
    def failure(self) -> EventLogError | None:
        """The first failure that `flush` would raise now; None: everything that has an outcome is in the log."""
        return next((batch.error for batch in self._failed if not batch.is_observed), None)

    async def flush(self) -> None:
        """Send what waits, and wait until everything handed in before has an outcome.

        Raises:
            EventLogError: the first failure that no `Delivery.wait` has raised yet.
        """
        await trio.lowlevel.checkpoint()
        for batch in list(self._open.values()):
            self._seal(batch)
        for sealed in list(self._sealed.values()):
            if sealed.batches:
                await self._submit_up_to(sealed.batches[-1])
        for batch in list(self._unfinished):
            await batch.wait_done()
        failed, self._failed = self._failed, []
        for batch in failed:
            if not batch.is_observed and batch.error is not None:
                raise batch.error

    def ranges(self) -> list[ProducedRange]:
        """What has been acknowledged so far, by partition."""
        return [self._ranges[partition] for partition in sorted(self._ranges)]

    async def run_linger(self) -> None:
        """Send batches that have waited long enough, until cancelled."""
        while True:
            self._change = trio.Event()
            now = trio.current_time()
            look_again_at = now + max(self._linger_seconds, 0.001)
            next_at = float("inf")
            for sealed in self._sealed.values():
                # Left behind by callers that were cancelled while they waited for room.
                self._submit_while_there_is_room(sealed)
                if sealed.batches and not sealed.entrance.locked():
                    next_at = look_again_at
            for batch in [batch for batch in self._open.values() if batch.seal_at <= now]:
                sealed = self._sealed_of(batch.partition)
                if not sealed.batches and batch.queue.has_room(batch.size_bytes):
                    self._seal(batch)
                    self._submit_while_there_is_room(sealed)
                else:
                    # It fills up meanwhile; the task that fills it waits for room.
                    batch.seal_at = look_again_at
            next_at = min((batch.seal_at for batch in self._open.values()), default=next_at)
            with trio.move_on_at(next_at):
                await self._change.wait()

    def close(self) -> None:
        """Take nothing any more; what was never sent fails."""
        self._is_closed = True
        error = Unavailable("the producer was closed before the record was sent")
        for batch in list(self._unfinished):
            if batch.pending is None or batch.queue.withdraw(batch.pending):
                self._finish(batch, None, error)
        self._open.clear()
        for sealed in self._sealed.values():
            sealed.batches.clear()

    def _has_changed(self) -> bool:
        """Whether to look again. While records are on their way, the client keeps what it knows fresh, and `send` need not wait for
        that."""
        return self._source.known(self._topic.name) is not self._topic or (not self._unfinished and self._source.is_outdated())

    async def _follow_topic(self) -> None:
        """What is known of the topic may have changed: it has grown, or it is gone and perhaps another one has its name."""
        known = await self._source.know_topic(self._topic.name, create=True)
        if not known.is_same(self._topic):
            # What waits here was placed by its key in a topic that is gone. It fails as what was sent and not acknowledged does.
            error = TopicRecreated(f"topic {known.name!r} was deleted and created again: send again what was not acknowledged")
            for batch in self._open.values():
                self._finish(batch, None, error)
            self._open.clear()
            self._ranges.clear()
        self._topic = known
        self._sticky %= known.partitions

    def _add(self, record: Record | bytes, partition: int | None) -> tuple[Delivery, list[OpenBatch]]:
        """Put the record into an open batch; the batches that are full now are sealed, and the caller waits for room."""
        self._check_open()
        size_bytes = encoded_bytes_max(record)
        if size_bytes > self._max_batch_bytes:
            # This is an upper bound. A record that just fits becomes a batch by itself.
            size_bytes = len(encode_records([record], now_ns=self._now_ns()).payload)
        if size_bytes > self._max_batch_bytes:
            raise BatchTooLarge(
                f"the record has {size_bytes} bytes, the limit of a batch is {self._max_batch_bytes} (batch_bytes_max)",
                limit_bytes=self._max_batch_bytes,
            )
        partition = self._partition_for(None if isinstance(record, bytes) else record.key, partition)
        full: list[OpenBatch] = []
        batch = self._open.get(partition)
        if batch is not None and batch.size_bytes + size_bytes > self._max_batch_bytes:
            full.append(batch)
            self._seal(batch)
            batch = None
        batch = batch or self._begin_batch(partition)
        delivery = Delivery(batch, len(batch.records))
        batch.records.append(record)
        batch.size_bytes += size_bytes
        if self._is_full(batch):
            full.append(batch)
            self._seal(batch)
        return delivery, full

    def _add_values(
        self, values: Sequence[bytes], ends: Sequence[int], begin: int, partition: int | None
    ) -> tuple[int, OpenBatch | None]:
        """Put as many as there is room for into an open batch. Returns the first that was not, and the batch if it is full now.

        Args:
            ends: `ends[n]` is the size of the first n values together. None alone is over the limit of a batch.
        """
        self._check_open()
        partition = self._partition_for(b"", partition)
        batch = self._open.get(partition) or self._begin_batch(partition)

        def size_up_to(end: int) -> int:
            return ends[end] - ends[begin] + RECORD_OVERHEAD_BYTES * (end - begin)

        highest = min(len(values), begin + self._batch_records - len(batch.records))
        room_bytes = self._batch_bytes - batch.size_bytes
        end = begin + bisect_right(range(begin + 1, highest + 1), room_bytes, key=size_up_to)
        if end == begin and not batch.records:
            end += 1
        batch.records += values[begin:end]
        batch.size_bytes += size_up_to(end)
        if end == len(values) and not self._is_full(batch):
            return end, None
        self._seal(batch)
        return end, batch

    def _check_open(self) -> None:
        if self._is_closed:
            raise Unavailable("the producer is closed: its block has ended")

    def _partition_for(self, key: bytes | None, partition: int | None) -> int:
        if partition is None:
            return partition_of(key, self._topic.partitions) if key else self._sticky
        if not 0 <= partition < self._topic.partitions:
            raise InvalidArgument(f"topic {self._topic.name} has partitions 0 to {self._topic.partitions - 1}, not {partition}")
        return partition

    def _begin_batch(self, partition: int) -> OpenBatch:
        queue = self._source.queue_of(self._topic, partition, self._caller)
        batch = OpenBatch(queue, trio.current_time() + self._linger_seconds)
        self._open[partition] = batch
        self._unfinished[batch] = None
        self._change.set()
        return batch

    def _is_full(self, batch: OpenBatch) -> bool:
        return batch.size_bytes >= self._batch_bytes or len(batch.records) >= self._batch_records

    def _sealed_of(self, partition: int) -> "_Sealed":
        sealed = self._sealed.get(partition)
        if sealed is None:
            sealed = self._sealed[partition] = _Sealed()
        return sealed

    def _seal(self, batch: OpenBatch) -> None:
        """No more records: it waits for the queue, behind those sealed before it."""
        del self._open[batch.partition]
        self._sealed_of(batch.partition).batches.append(batch)
        if batch.partition == self._sticky:
            self._sticky = (self._sticky + 1) % self._topic.partitions

    async def _submit_up_to(self, batch: OpenBatch) -> None:
        """Give the queue what is sealed, in order, until it has taken `batch`.

        What is sealed belongs to the producer and not to the task that waits here: it may hold records of other callers, and
        when that task is cancelled, the next one goes on with it, or else `run_linger`.
        """
        sealed = self._sealed_of(batch.partition)
        self._submit_while_there_is_room(sealed)
        if batch not in sealed.batches:
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        try:
            async with sealed.entrance:
                while batch in sealed.batches:
                    first = sealed.batches[0]
                    try:
                        pending = await first.queue.submit(self._encode(first), self._acks, partial(self._finish, first))
                    except EventLogError as error:
                        self._finish(first, None, error)
                    else:
                        self._took(first, pending)
                    if first in sealed.batches:  # not so when the producer was closed meanwhile
                        sealed.batches.remove(first)
        finally:
            if sealed.batches:
                self._change.set()

    def _submit_while_there_is_room(self, sealed: "_Sealed") -> None:
        while sealed.batches and not sealed.entrance.locked():
            first = sealed.batches[0]
            if not first.queue.has_room(first.size_bytes):
                return
            sealed.batches.popleft()
            try:
                self._took(first, first.queue.submit_nowait(self._encode(first), self._acks, partial(self._finish, first)))
            except EventLogError as error:
                self._finish(first, None, error)

    def _took(self, batch: OpenBatch, pending: Any) -> None:
        batch.pending = pending
        if batch.is_done:
            # The producer was closed while the batch waited for room, and its records were given up.
            batch.queue.withdraw(pending)

    def _encode(self, batch: OpenBatch) -> Batch:
        return encode_records(batch.records, self._compression, self._now_ns())

    def _finish(self, batch: OpenBatch, result: ProduceResult | None, error: EventLogError | None) -> None:
        if batch.is_done:
            return
        batch.resolve(result, error)
        self._unfinished.pop(batch, None)
        if result is not None:
            last_offset = OFFSET_UNKNOWN
            if result.base_offset != OFFSET_UNKNOWN:
                last_offset = result.base_offset + result.record_count - 1
            before = self._ranges.get(batch.partition)
            self._ranges[batch.partition] = ProducedRange(
                partition=batch.partition,
                records=result.record_count + (before.records if before is not None else 0),
                first_offset=before.first_offset if before is not None else result.base_offset,
                last_offset=last_offset,
            )
        if error is not None and len(self._failed) < FAILED_BATCHES_KEPT:
            self._failed.append(batch)


FAILED_BATCHES_KEPT = 100
"""Number of failures that `flush` looks through for one that no caller has seen."""


@asynccontextmanager
async def open_producer(
    topic: str,
    source: TopicSource,
    settings: ProducerSettings,
    *,
    caller: Caller = NOBODY_IN_PARTICULAR,
    rng: random.Random,
    now_ns: Callable[[], int],
) -> AsyncIterator[Producer]:
    """A producer for the block; see `EventLog.producer`. Raises as `TopicSource.know_topic`."""
    producer = Producer(
        topic=await source.know_topic(topic, create=True),
        source=source,
        settings=settings,
        caller=caller,
        rng=rng,
        now_ns=now_ns,
    )
    async with background() as nursery:
        nursery.start_soon(producer.run_linger)
        try:
            yield producer
            await producer.flush()
        finally:
            producer.close()
