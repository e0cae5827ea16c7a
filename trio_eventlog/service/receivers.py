"""What a consumer holds: channels of batches and of records, filled by a client or by a node."""

import datetime
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

import attrs
import trio

from trio_eventlog.codec.batch import NANOSECONDS, decode_message, decode_records
from trio_eventlog.errors import CodecError, CorruptBatch, EventLogError, InvalidArgument
from trio_eventlog.own_run import OwnRun, belongs_to_run
from trio_eventlog.records import Batch, Record
from trio_eventlog.service.arguments import check_start
from trio_eventlog.service.background import background
from trio_eventlog.service.values import KnownTopic, Position, Start, timestamp_ns

RECORDS_PER_CHECKPOINT = 128


@attrs.frozen(slots=True, kw_only=True)
class ConsumedBatch:
    """A batch as a consumer gets it, its checksum checked.

    Attributes:
        topic, partition: where it is from.
        group_id: identifies the partition for ever; 0 when its nodes do not report it. Keep it with a position: offsets of a topic
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

    def records(self, unpacked_bytes_max: int) -> list[Record]:
        """Those that are wanted. Raises CorruptBatch."""
        with self._corruption_placed():
            records = decode_records(self.batch, unpacked_bytes_max, self.topic, self.partition)
        return records[self._first_wanted(record.timestamp_ns for record in records) :]

    def values(self, unpacked_bytes_max: int) -> list[bytes]:
        """Of the records that are wanted, at a fraction of the cost of `records`: no object for each. A null value is given as an
        empty one. Raises CorruptBatch."""
        with self._corruption_placed():
            records = decode_message(self.batch, unpacked_bytes_max).records
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


@attrs.frozen(slots=True, kw_only=True)
class ReadFrom:
    """Where the reader of one partition begins.

    Attributes:
        group_id: of the partition: its records are wanted, and not those of another topic of the same name. 0: not told yet; then
            the first answer decides.
        start: neither END nor a time, asked for once and before: again after a lost stream, they would leave out records.
        from_ns: the first batch was found by this time; 0: it was not.
        is_earned: `start` is what the log has said, not what the user has.
    """

    topic: str
    partition: int
    group_id: int
    start: Position | int
    from_ns: int = 0
    is_earned: bool = False


class PartitionSource(Protocol):
    """What consuming asks of its client or node, for one caller.

    Attributes:
        join_refresh_seconds: the interval between two looks for partitions that are new.
    """

    join_refresh_seconds: float

    async def know_topic(self, topic: str) -> KnownTopic:
        """Raises TopicNotFound, Unavailable, NoQuorum."""

    async def newest(self, topic: str) -> KnownTopic | None:
        """As it is known now; None: it is not."""

    async def end_of(self, topic: str, partition: int, group_id: int) -> int:
        """The high watermark, which covers everything acknowledged before the call."""

    async def first_at(self, topic: str, partition: int, group_id: int, when: datetime.datetime) -> tuple[int, bool]:
        """Where the first batch begins with a record of that time or later, and True; the high watermark and False without one."""

    async def read(self, place: ReadFrom, items: trio.MemorySendChannel[Item]) -> None:
        """Put batches into the channel until cancelled, and the error that ends it. Closes the channel."""


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

    def __init__(self, batches: BatchReceiver, unpacked_bytes_max: int) -> None:
        self._batches = batches
        self._max_unpacked_bytes = unpacked_bytes_max
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


@asynccontextmanager
async def open_batches(
    source: PartitionSource, topic: str, start: Start, partition: int | None, group_id: int, *, buffer_batches: int
) -> AsyncIterator[BatchReceiver]:
    """See `EventLog.consume_batches`: a reader task for each partition, and one that looks for new partitions."""
    if isinstance(start, Mapping):
        if partition is not None:
            raise InvalidArgument("start names partitions, and so does partition: give one or the other")
        # What the caller does with it afterwards changes nothing.
        start = dict(start)
    known = await source.know_topic(topic)
    check_start(start, known.partitions if partition is None else 1)
    if partition is None:
        groups = dict(enumerate(known.group_ids))
    else:
        # One that is beyond those known may have come since: the node says whether it exists.
        groups = {partition: group_id or (known.group_ids[partition] if partition < known.partitions else 0)}
    places = [await _place(source, topic, number, group, start) for number, group in groups.items()]
    send, receive = trio.open_memory_channel[Item](buffer_batches)
    # The readers end before what they send to is closed.
    async with receive, background() as nursery:
        async with send:
            for place in places:
                nursery.start_soon(source.read, place, send.clone())
            if partition is None:
                nursery.start_soon(_read_new_partitions, source, known, start, send.clone(), nursery)
        yield BatchReceiver(receive)


async def _place(source: PartitionSource, topic: str, partition: int, group_id: int, start: Start) -> ReadFrom:
    if isinstance(start, Mapping):
        start = start.get(partition, Position.BEGINNING)
    if isinstance(start, datetime.datetime):
        offset, is_found = await source.first_at(topic, partition, group_id, start)
        from_ns = timestamp_ns(start) if is_found else 0
        return ReadFrom(topic=topic, partition=partition, group_id=group_id, start=offset, from_ns=from_ns, is_earned=True)
    if start is Position.END:
        end = await source.end_of(topic, partition, group_id)
        return ReadFrom(topic=topic, partition=partition, group_id=group_id, start=end, is_earned=True)
    return ReadFrom(topic=topic, partition=partition, group_id=group_id, start=start)


async def _read_new_partitions(
    source: PartitionSource, known: KnownTopic, start: Start, items: trio.MemorySendChannel[Item], readers: trio.Nursery
) -> None:
    """Have partitions read that a topic gets while all of it is consumed, each from its beginning, unless `start` names it."""
    named = start if isinstance(start, Mapping) else {}
    async with items:
        while True:
            await trio.sleep(source.join_refresh_seconds)
            newest = await source.newest(known.name)
            if newest is None or not newest.is_same(known):
                # Its partitions are gone: their readers get the nodes' error.
                continue
            for number in range(known.partitions, newest.partitions):
                begin = named.get(number, Position.BEGINNING)
                place = ReadFrom(topic=known.name, partition=number, group_id=newest.group_ids[number], start=begin)
                readers.start_soon(source.read, place, items.clone())
            known = newest if newest.partitions > known.partitions else known
