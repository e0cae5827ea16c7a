"""Events of a partition out of its log, by their offsets: from memory those that were read lately, the others from the log."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from trio_eventlog.codec.events import decode_events
from trio_eventlog.errors import CodecError
from trio_eventlog.events import RecordedEvent
from trio_eventlog.node.replica import Replica
from trio_eventlog.service.broker import Broker
from trio_eventlog.service.event_cache import EventCache, Sized, event_bytes
from trio_eventlog.service.fetch_budget import Gate
from trio_eventlog.service.requests import ConsumeRequest
from trio_eventlog.service.settings import ServiceSettings

NEAR_OFFSETS = 256
"""Offsets between two events up to which they are read from the log in one go."""
STRETCH_OFFSETS_MAX = 1024
"""Events that are looked for in one go."""
READ_BYTES = 256 * 1024
"""Read from the log in one go."""


@attrs.define(slots=True, eq=False)
class Reading:
    """An answer in the making."""

    topic: str
    partition: int
    replica: Replica
    bytes_max: int
    events: list[RecordedEvent] = attrs.field(factory=list)
    size_bytes: int = 0

    def add(self, event: RecordedEvent, size_bytes: int) -> bool:
        """False: there is no room for it."""
        if self.events and self.size_bytes + size_bytes > self.bytes_max:
            return False
        self.events.append(event)
        self.size_bytes += size_bytes
        return True


class EventReader:
    """Reads events of the replicas of this node. Raises as `Broker.fetch`.

    Attributes:
        cache: of events that were read by their offsets. Reads of whole ranges leave it alone: they would push out everything.
    """

    def __init__(self, broker: Broker, settings: ServiceSettings) -> None:
        self._broker = broker
        self._settings = settings
        self.cache = EventCache(settings.event_cache_bytes)

    @asynccontextmanager
    async def counted(self, reading: Reading, gate: Gate | None) -> AsyncIterator[None]:
        """A block that reads, when its reader has room for an answer and the node has memory for one. What was read counts until
        the gate is left."""
        if gate is not None:
            await gate.enter(answer_bytes(reading.bytes_max) + self._settings.batch_bytes_max)
        yield
        if gate is not None:
            gate.shrink(answer_bytes(reading.size_bytes))

    async def read_offsets(self, reading: Reading, offsets: Sequence[int]) -> None:
        """Add the events at these offsets, ascending or descending, as many as the answer has room for."""
        group_id = reading.replica.group_id
        loaded: dict[int, Sized] = {}
        one_by_one = False
        for number, offset in enumerate(offsets):
            sized = self.cache.find(group_id, offset) or loaded.get(offset)
            if sized is None:
                stretch = offsets[number : number + 1] if one_by_one else _stretch(offsets, number)
                if not await self._load(reading, stretch, loaded):
                    # Downwards, and what lies before this event has filled a whole read. So they are large.
                    one_by_one = True
                    await self._load(reading, offsets[number : number + 1], loaded)
                sized = loaded.get(offset)
            if sized is None or not reading.add(*sized):
                return
            loaded.pop(offset, None)

    async def _load(self, reading: Reading, wanted: Sequence[int], loaded: dict[int, Sized]) -> bool:
        """Read these offsets in one go. False: not as far as the first one that is wanted."""
        first, last = min(wanted), max(wanted)
        found = await self._events(reading, first, READ_BYTES if first < last else 1, last + 1)
        places = frozenset(wanted)
        for offset, event in found:
            if event is not None and offset in places:
                sized = loaded[offset] = (event, event_bytes(event))
                self.cache.add(reading.replica.group_id, sized)
        return bool(found) and found[-1][0] >= wanted[0]

    async def read_range(self, reading: Reading, offset: int, end_offset: int, limit: int) -> int:
        """Add events from `offset` on, at most `limit`, as many as the answer has room for. Returns where to go on."""
        while offset < end_offset and len(reading.events) < limit:
            for at, event in await self._events(reading, offset, READ_BYTES, end_offset):
                if event is not None and (len(reading.events) == limit or not reading.add(event, event_bytes(event))):
                    return offset
                offset = at + 1
        return offset

    async def _events(
        self, reading: Reading, offset: int, max_bytes: int, end_offset: int
    ) -> list[tuple[int, RecordedEvent | None]]:
        """Some records from `offset` on, at least one, with their offsets; None for those that are no events."""
        request = ConsumeRequest(
            topic=reading.topic, partition=reading.partition, start=offset, max_bytes=max_bytes, max_records=end_offset - offset
        )
        fetched = await self._broker.fetch(reading.replica, request, offset)
        found: list[tuple[int, RecordedEvent | None]] = []
        for batch in fetched.batches:
            try:
                events = decode_events(batch, self._settings.unpacked_bytes_max, reading.topic, reading.partition)
            except CodecError:
                # Whatever is there, it is no event. Readers of the topic are told of it.
                events = [None] * batch.record_count
            found += enumerate(events, batch.base_offset)
        await trio.lowlevel.checkpoint()
        return found if not found or found[0][0] >= offset else [item for item in found if item[0] >= offset]


def _stretch(offsets: Sequence[int], number: int) -> Sequence[int]:
    """The offset at `number`, and those behind it that each lie near the one before."""
    end = number + 1
    end_max = min(len(offsets), number + STRETCH_OFFSETS_MAX)
    while end < end_max and abs(offsets[end] - offsets[end - 1]) <= NEAR_OFFSETS:
        end += 1
    return offsets[number:end]


def answer_bytes(size_bytes: int) -> int:
    """What events of `size_bytes` take until they are sent: as values and as a message."""
    return 2 * size_bytes


def fitting(events: Sequence[RecordedEvent], bytes_max: int) -> Sequence[RecordedEvent]:
    """As many of the first ones as an answer of `bytes_max` has room for, and at least one if there is one."""
    size_bytes = 0
    for number, event in enumerate(events):
        size_bytes += event_bytes(event)
        if number and size_bytes > bytes_max:
            return events[:number]
    return events
