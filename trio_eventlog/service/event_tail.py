"""Following the events of a topic as they come, from any place in it on."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import trio

from trio_eventlog.codec.events import recorded_event
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.events import RecordedEvent
from trio_eventlog.service.event_requests import decode_token, encode_token
from trio_eventlog.service.receivers import RecordReceiver
from trio_eventlog.service.values import Caller, Position, Start, TopicDescription


class Followed(Protocol):
    """What following events needs of an `EventLog`."""

    async def describe_topic(self, name: str, *, caller: Caller) -> TopicDescription: ...

    async def offsets(self, topic: str, partition: int = 0, *, caller: Caller) -> tuple[int, int]: ...

    def consume(
        self, topic: str, *, start: Start, partition: int | None = None, caller: Caller
    ) -> AbstractAsyncContextManager[RecordReceiver]: ...


class EventTail:
    """Events as they come, each partition in its order: `async for event in tail`.

    Attributes:
        token: the place behind the last event that was given, to go on from (`after`).
    """

    def __init__(
        self, records: RecordReceiver, group_ids: Sequence[int], offsets: Sequence[int], event_type: str, aggregate_id: str
    ) -> None:
        self._records = records
        self._group_ids = group_ids
        self._offsets = list(offsets)
        self._event_type = event_type
        self._aggregate_id = aggregate_id

    @property
    def token(self) -> str:
        return encode_token(dict(zip(self._group_ids, self._offsets, strict=True)))

    def __aiter__(self) -> "EventTail":
        return self

    async def __anext__(self) -> RecordedEvent:
        """Waits for the next event. Raises as a consumer of the topic does."""
        while True:
            record = await self._records.receive()
            if record.partition < len(self._offsets):
                self._offsets[record.partition] = record.offset + 1
            event = recorded_event(record)
            if event is not None and self._is_wanted(event):
                return event

    def _is_wanted(self, event: RecordedEvent) -> bool:
        return self._event_type in ("", event.type) and self._aggregate_id in ("", event.aggregate_id)


@asynccontextmanager
async def open_tail(
    log: Followed, topic: str, after: str | Position, event_type: str, aggregate_id: str, caller: Caller
) -> AsyncIterator[EventTail]:
    """See `EventLog.tail_events`."""
    described = await log.describe_topic(topic, caller=caller)
    group_ids = [partition.group_id for partition in described.partitions]
    if isinstance(after, str):
        offsets = decode_token(after, group_ids)
    elif after is Position.BEGINNING:
        offsets = [0] * len(group_ids)
    else:
        offsets = await _ends(log, topic, len(group_ids), caller)
    only = partition_of(aggregate_id.encode(), len(group_ids)) if aggregate_id else None
    start: Start = dict(enumerate(offsets)) if only is None else offsets[only]
    async with log.consume(topic, start=start, partition=only, caller=caller) as records:
        yield EventTail(records, group_ids, offsets, event_type, aggregate_id)


async def _ends(log: Followed, topic: str, partitions: int, caller: Caller) -> list[int]:
    ends = [0] * partitions

    async def ask(partition: int) -> None:
        _, ends[partition] = await log.offsets(topic, partition, caller=caller)

    async with trio.open_nursery() as nursery:
        for partition in range(partitions):
            nursery.start_soon(ask, partition)
    return ends
