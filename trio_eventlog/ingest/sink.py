"""Where lines go once they are taken: into the log, by way of whatever implements `LogSink`."""

from collections.abc import Sequence
from typing import Protocol

import trio

from trio_eventlog.codec.log_lines import LOGS_PARTITIONS, LOGS_TOPIC
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import EventLogError, TopicExists, TopicNotFound
from trio_eventlog.records import Acks, Record
from trio_eventlog.service.event_log import EventLog
from trio_eventlog.service.values import Caller


class LogSink(Protocol):
    """Takes lines: the log itself, or a gateway that keeps them until the log has them."""

    async def put(self, lines: Sequence[Record], *, acks: Acks, caller: Caller) -> None:
        """Lines of any services, in order. Returns once they are as safe as `acks` says; lines of one service keep their order.

        Raises:
            EventLogError: lines of some services may have been taken all the same: sent again, they are there twice.
        """


class EventLogSink:
    """Puts lines into a topic of the log, which is made by the first of them.

    Args:
        batch_bytes: lines of one partition go together up to about this size.
    """

    def __init__(self, event_log: EventLog, *, topic: str = LOGS_TOPIC, batch_bytes: int) -> None:
        self._event_log = event_log
        self._topic = topic
        self._batch_bytes = batch_bytes

    async def put(self, lines: Sequence[Record], *, acks: Acks, caller: Caller) -> None:
        partitions = await self._partitions(caller)
        parts: dict[int, list[Record]] = {}
        for line in lines:
            assert line.key, "the key of a line is its service"
            parts.setdefault(partition_of(line.key, partitions), []).append(line)
        failures: list[EventLogError] = []

        async def put_into(partition: int) -> None:
            try:
                for batch in self._batches(parts[partition]):
                    await self._event_log.produce(self._topic, batch, partition=partition, acks=acks, caller=caller)
            except EventLogError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for partition in parts:
                nursery.start_soon(put_into, partition)
        if failures:
            raise failures[0]

    async def _partitions(self, caller: Caller) -> int:
        try:
            return await self._event_log.partitions(self._topic, caller=caller)
        except TopicNotFound:
            pass
        try:
            return (await self._event_log.create_topic(self._topic, partitions=LOGS_PARTITIONS, caller=caller)).partitions
        except TopicExists:
            return await self._event_log.partitions(self._topic, caller=caller)

    def _batches(self, lines: list[Record]) -> list[list[Record]]:
        batches: list[list[Record]] = [[]]
        size_bytes = 0
        for line in lines:
            size_bytes += len(line.value or b"")
            if size_bytes > self._batch_bytes and batches[-1]:
                batches.append([])
                size_bytes = len(line.value or b"")
            batches[-1].append(line)
        return batches
