"""The event log as the application sees it that embeds a node: an `EventLog` without a network in between."""

import datetime
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import attrs
import trio

from trio_eventlog.codec.batch import encode_records
from trio_eventlog.errors import EventLogError, OutcomeUnknown, Unavailable
from trio_eventlog.events import ANY, EVENTS_TOPIC, AggregatePage, AppendResult, Event, EventPage, ExpectedVersion
from trio_eventlog.ids import CATALOG_GROUP, GroupId, NodeId, format_id
from trio_eventlog.own_run import OwnRun, belongs_to_run
from trio_eventlog.records import Acks, Batch, Compression, Record
from trio_eventlog.service.arguments import (
    check_consume,
    check_producer,
    check_start,
    check_text,
    check_whole,
    group_of,
    made,
    new_topic,
    records_of,
    topic_change,
    trim_groups,
)
from trio_eventlog.service.backups import Backups, NodeBackups
from trio_eventlog.service.cluster import ClusterAdministration, parsed_node_id
from trio_eventlog.service.consume import ConsumeService
from trio_eventlog.service.event_arguments import append_request, check_tail, read_aggregate_request, read_events_request
from trio_eventlog.service.event_requests import PAGE_EVENTS, new_event_id
from trio_eventlog.service.event_tail import EventTail, open_tail
from trio_eventlog.service.events import EventStore
from trio_eventlog.service.log_search import LogSearch, log_source
from trio_eventlog.service.node_queue import NodeQueues, known_offset
from trio_eventlog.service.node_reader import NodePartitions
from trio_eventlog.service.produce import ProduceService
from trio_eventlog.service.producer import Delivery, OpenBatch, Producer, ProducerSettings, open_producer
from trio_eventlog.service.receivers import BatchReceiver, RecordReceiver, open_batches
from trio_eventlog.service.remote_node import RemoteNodes
from trio_eventlog.service.requests import ProduceRequest, Timestamp
from trio_eventlog.service.settings import ApplicationSettings
from trio_eventlog.service.topics import TopicAdministration
from trio_eventlog.service.values import (
    BEGINNING,
    NOBODY_IN_PARTICULAR,
    Caller,
    MemberInfo,
    NodeStatus,
    Placement,
    Position,
    ProduceResult,
    ServerInfo,
    Start,
    TopicDescription,
    TopicDiskUse,
    TopicInfo,
    timestamp_ns,
)

T = TypeVar("T")


@attrs.frozen(slots=True, kw_only=True)
class NodeServices:
    """What a node offers, in parts.

    Attributes:
        ready: set when the node belongs to a cluster; calls wait until then.
        stopping: set when the node begins to stop.
    """

    topics: TopicAdministration
    producing: ProduceService
    events: EventStore
    consuming: ConsumeService
    cluster: ClusterAdministration
    backups: Backups
    log_search: LogSearch
    queues: NodeQueues
    nodes: RemoteNodes
    ready: trio.Event
    stopping: trio.Event


@belongs_to_run
class NodeEventLog:
    """An `EventLog`, whose docstrings say what each call does.

    Any number of tasks of its run may use it at once; from elsewhere each call raises WrongRun.

    A call waits until the node belongs to a cluster. It ends at `caller.deadline`, or with a cancel scope of the application. A
    produce call that is cancelled has an unknown outcome.
    """

    def __init__(
        self, services: NodeServices, settings: ApplicationSettings, rng: random.Random, now_ns: Callable[[], int]
    ) -> None:
        self._run = OwnRun()
        self._services = services
        self._settings = settings
        self._rng = rng
        self._now_ns = now_ns
        self._make_event_id = new_event_id(rng)
        self.backups = NodeBackups(services.backups, services.ready)
        self.logs = log_source(services.log_search, services.ready)

    # Producing

    async def produce(
        self,
        topic: str,
        *records: Record | bytes | Sequence[Record | bytes],
        partition: int | None = None,
        acks: Acks = Acks.QUORUM,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> ProduceResult:
        """See `EventLog.produce`."""
        values = records_of(records)
        check_text("topic", topic)
        if partition is not None:
            check_whole("partition", partition)
        batch = made("a record", lambda: encode_records(values, self._settings.compression, self._now_ns()))
        request = ProduceRequest(
            topic=topic, batch=batch, acks=acks, partition=partition, key=values[0].key or b"", is_checked=True
        )
        return await self._produce(request, caller)

    async def produce_batch(
        self, topic: str, partition: int, batch: Batch, *, acks: Acks = Acks.QUORUM, caller: Caller = NOBODY_IN_PARTICULAR
    ) -> ProduceResult:
        """See `EventLog.produce_batch`."""
        check_text("topic", topic)
        check_whole("partition", partition)
        return await self._produce(ProduceRequest(topic=topic, batch=batch, acks=acks, partition=partition), caller)

    async def _produce(self, request: ProduceRequest, caller: Caller) -> ProduceResult:
        late = OutcomeUnknown("no acknowledgement by the caller's deadline: the records may be in the log, or get there still")
        result = await self._in_time(self._services.producing.produce(request, caller), caller, late)
        return known_offset(result, request.acks)

    async def submit_batch(
        self, topic: str, partition: int, batch: Batch, *, acks: Acks = Acks.QUORUM, caller: Caller = NOBODY_IN_PARTICULAR
    ) -> Delivery:
        """See `EventLog.submit_batch`."""
        check_whole("partition", partition)
        await self._services.ready.wait()
        queues = self._services.queues
        known = queues.known(topic) or await queues.know_topic(topic, create=True)
        queue = queues.queue_of(known, partition, caller)
        outcome = OpenBatch(queue, 0.0)
        outcome.pending = await queue.submit(batch, acks, outcome.resolve)
        return Delivery(outcome, 0)

    @asynccontextmanager
    async def producer(
        self,
        topic: str,
        *,
        linger: float | None = None,
        acks: Acks = Acks.QUORUM,
        batch_bytes: int | None = None,
        batch_records: int | None = None,
        compression: Compression | None = None,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AsyncIterator[Producer]:
        """See `EventLog.producer`."""
        check_producer(topic, linger, batch_bytes=batch_bytes, batch_records=batch_records)
        settings = self._settings
        chosen = ProducerSettings(
            acks=acks,
            compression=settings.compression if compression is None else compression,
            linger_seconds=settings.linger_seconds if linger is None else linger,
            batch_bytes=min(batch_bytes or settings.batch_bytes, settings.batch_bytes_max),
            batch_records=batch_records or settings.batch_records,
            batch_bytes_max=settings.batch_bytes_max,
        )
        await self._services.ready.wait()
        queues = self._services.queues
        async with open_producer(topic, queues, chosen, caller=caller, rng=self._rng, now_ns=self._now_ns) as producer:
            yield producer

    # Consuming

    @asynccontextmanager
    async def consume(
        self,
        topic: str,
        *,
        start: Start = BEGINNING,
        partition: int | None = None,
        group_id: int = 0,
        buffer_batches: int | None = None,
        fetch_bytes: int | None = None,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AsyncIterator[RecordReceiver]:
        """See `EventLog.consume`."""
        async with self.consume_batches(
            topic,
            start=start,
            partition=partition,
            group_id=group_id,
            buffer_batches=buffer_batches,
            fetch_bytes=fetch_bytes,
            caller=caller,
        ) as batches:
            yield RecordReceiver(batches, self._settings.unpacked_bytes_max)

    @asynccontextmanager
    async def consume_batches(
        self,
        topic: str,
        *,
        start: Start = BEGINNING,
        partition: int | None = None,
        group_id: int = 0,
        buffer_batches: int | None = None,
        fetch_bytes: int | None = None,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AsyncIterator[BatchReceiver]:
        """See `EventLog.consume_batches`."""
        check_consume(topic, partition, group_id, buffer_batches=buffer_batches, fetch_bytes=fetch_bytes)
        await self._services.ready.wait()
        buffered = self._settings.buffer_batches if buffer_batches is None else buffer_batches
        source = _partitions(self._services, self._settings, self._rng, caller, fetch_bytes or self._settings.fetch_bytes)
        async with open_batches(source, topic, start, partition, group_id, buffer_batches=buffered) as batches:
            yield batches

    async def offsets(self, topic: str, partition: int = 0, *, caller: Caller = NOBODY_IN_PARTICULAR) -> tuple[int, int]:
        """See `EventLog.offsets`."""
        check_text("topic", topic)
        check_whole("partition", partition)
        answer = await self._in_time(
            _partitions(self._services, self._settings, self._rng, caller, 1).ask(topic, partition, 0, Position.END), caller
        )
        return answer.log_start_offset, answer.high_watermark

    async def offset_at(
        self, topic: str, when: datetime.datetime, partition: int = 0, *, caller: Caller = NOBODY_IN_PARTICULAR
    ) -> int:
        """See `EventLog.offset_at`."""
        check_start(when, 1)
        start = Timestamp(timestamp_ns(when))
        answer = await self._in_time(
            _partitions(self._services, self._settings, self._rng, caller, 1).ask(topic, partition, 0, start), caller
        )
        return answer.batches[0].base_offset if answer.batches else answer.high_watermark

    # Events of aggregates

    async def append(
        self,
        aggregate_id: str,
        events: Sequence[Event],
        *,
        expected_version: ExpectedVersion = ANY,
        reopens: bool = False,
        topic: str = EVENTS_TOPIC,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AppendResult:
        """See `EventLog.append`."""
        request = append_request(aggregate_id, events, expected_version, reopens, topic, self._make_event_id)
        late = OutcomeUnknown("no answer by the caller's deadline: the events may be in the log, or get there still")
        return await self._in_time(self._services.events.append(request, caller), caller, late)

    async def read_aggregate(
        self,
        aggregate_id: str,
        *,
        from_version: int | None = None,
        limit: int = PAGE_EVENTS,
        backwards: bool = False,
        linearizable: bool = False,
        topic: str = EVENTS_TOPIC,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AggregatePage:
        """See `EventLog.read_aggregate`."""
        request = read_aggregate_request(aggregate_id, from_version, limit, backwards, linearizable, topic)
        found = await self._in_time(self._services.events.read_aggregate(request, caller), caller)
        return AggregatePage(events=found.events, version=found.version, is_closed=found.is_closed)

    async def read_events(
        self,
        *,
        type: str = "",  # noqa: A002
        after: str = "",
        limit: int = PAGE_EVENTS,
        linearizable: bool = False,
        topic: str = EVENTS_TOPIC,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> EventPage:
        """See `EventLog.read_events`."""
        request = read_events_request(type, after, limit, linearizable, topic)
        return await self._in_time(self._services.events.read_events(request, caller), caller)

    def tail_events(
        self,
        *,
        after: str | Position = Position.END,
        type: str = "",  # noqa: A002
        aggregate_id: str = "",
        topic: str = EVENTS_TOPIC,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AbstractAsyncContextManager[EventTail]:
        """See `EventLog.tail_events`."""
        check_tail(after, type, aggregate_id, topic)
        return open_tail(self, topic, after, type, aggregate_id, caller)

    # Topics

    async def partitions(self, topic: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> int:
        """See `EventLog.partitions`."""
        check_text("topic", topic)
        return (await self._in_time(self._services.queues.know_topic(topic), caller)).partitions

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        replicas: int = 0,
        retention_bytes: int = 0,
        retention_seconds: float = 0.0,
        kind: str = "",
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> TopicInfo:
        """See `EventLog.create_topic`."""
        topic = new_topic(name, partitions, replicas, retention_bytes, retention_seconds, kind)
        return (await self._in_time(self._services.topics.create(topic, caller), caller, _late_change())).value

    async def alter_topic(
        self,
        name: str,
        *,
        retention_bytes: int | None = None,
        retention_seconds: float | None = None,
        group_id: int = 0,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> TopicInfo:
        """See `EventLog.alter_topic`."""
        change = topic_change(name, group_id, retention_bytes, retention_seconds)
        return (await self._in_time(self._services.topics.alter(change, caller), caller, _late_change())).value

    async def trim_topic(
        self,
        name: str,
        before: int | datetime.datetime,
        *,
        partition: int | None = None,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> dict[int, int]:
        """See `EventLog.trim_topic`."""
        groups, point = trim_groups(await self.describe_topic(name, caller=caller), before, partition)
        starts: dict[int, int] = {}
        for number, group_id in groups.items():
            trim = self._services.topics.trim(GroupId(group_id), point, caller)
            starts[number] = await self._in_time(trim, caller, _late_change())
        return starts

    async def delete_topic(self, name: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> None:
        """See `EventLog.delete_topic`."""
        check_text("name", name)
        await self._in_time(self._services.topics.delete(name, caller), caller, _late_change())

    async def list_topics(self, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[TopicInfo]:
        """See `EventLog.list_topics`."""
        return (await self._in_time(self._services.topics.list_all(), caller)).value

    async def describe_topic(self, name: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> TopicDescription:
        """See `EventLog.describe_topic`."""
        check_text("name", name)
        return (await self._in_time(self._services.topics.describe(name, caller), caller)).value

    async def disk_use(self, address: str | None = None, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[TopicDiskUse]:
        """See `EventLog.disk_use`."""
        await self._services.ready.wait()
        if address in (None, self._services.cluster.status(True).address):
            return self._services.topics.disk_use()
        node = await self._in_time(self._services.nodes.get(_node_id_at(self._services, address)), caller)
        return await self._in_time(node.disk_use(caller), caller)

    # The cluster

    async def status(self, address: str | None = None, *, caller: Caller = NOBODY_IN_PARTICULAR) -> NodeStatus:
        """See `EventLog.status`."""
        await trio.lowlevel.checkpoint()
        status = self._services.cluster.status(False)
        if address in (None, status.address):
            return status
        node = await self._in_time(self._services.nodes.get(_node_id_at(self._services, address)), caller)
        return await self._in_time(node.status(catalog_only=False, caller=caller), caller)

    async def servers(self, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[ServerInfo]:
        """See `EventLog.servers`."""
        await self._services.ready.wait()
        return sorted(self._services.cluster.view().servers, key=lambda server: (server.name, server.id))

    async def placements(self, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[Placement]:
        """See `EventLog.placements`."""
        await self._services.ready.wait()
        return list(self._services.cluster.view().placements)

    async def members(self, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[MemberInfo]:
        """See `EventLog.members`."""
        return await self._in_time(self._services.cluster.members(caller), caller)

    async def drain_node(self, node_id: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> None:
        """See `EventLog.drain_node`."""
        await self._in_time(self._services.cluster.drain_node(parsed_node_id(node_id), caller), caller, _late_change())

    async def remove_node(self, node_id: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> None:
        """See `EventLog.remove_node`."""
        await self._in_time(self._services.cluster.remove_node(parsed_node_id(node_id), caller), caller, _late_change())

    async def transfer_leadership(
        self, topic: str = "", partition: int = 0, *, to: str = "", caller: Caller = NOBODY_IN_PARTICULAR
    ) -> str:
        """See `EventLog.transfer_leadership`."""
        group_id: int = CATALOG_GROUP
        if topic:
            group_id = group_of(await self.describe_topic(topic, caller=caller), partition)
        to_id = parsed_node_id(to) if to else None
        transfer = self._services.cluster.transfer_leadership(GroupId(group_id), to_id, caller)
        return format_id(await self._in_time(transfer, caller, _late_change()))

    async def _in_time(self, call: Coroutine[Any, Any, T], caller: Caller, late: EventLogError | None = None) -> T:
        """The result of `call`, begun when the node is ready. Raises `late` when the caller's deadline passes before."""
        try:
            with trio.CancelScope(deadline=caller.deadline):
                await self._services.ready.wait()
                return await call
        finally:
            call.close()
        raise late or Unavailable("there was no answer by the caller's deadline")


def _node_id_at(services: NodeServices, address: str | None) -> NodeId:
    for server in services.cluster.view().servers:
        if server.address == address:
            return parsed_node_id(server.id)
    raise Unavailable(f"this node knows of no node at {address}")


def _partitions(
    services: NodeServices, settings: ApplicationSettings, rng: random.Random, caller: Caller, fetch_bytes: int
) -> NodePartitions:
    return NodePartitions(
        services.consuming, services.queues, settings, rng, services.stopping, fetch_bytes=fetch_bytes, caller=caller
    )


def _late_change() -> OutcomeUnknown:
    return OutcomeUnknown("no answer by the caller's deadline: look whether it was done before you repeat it")
