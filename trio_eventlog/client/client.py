"""The client: what an application holds."""

import datetime
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from trio_eventlog.client.admin_calls import AdminCalls
from trio_eventlog.client.backup_calls import BackupCalls
from trio_eventlog.client.calls import Calls
from trio_eventlog.client.channels import ChannelPool, Connect, connect_over, rpc_settings
from trio_eventlog.client.consumer import ClientPartitions, ask_offset_at, ask_offsets
from trio_eventlog.client.event_calls import EventCalls
from trio_eventlog.client.log_calls import log_source
from trio_eventlog.client.partition_sender import PartitionSender
from trio_eventlog.client.producer_core import PendingBatch
from trio_eventlog.client.routing import Routing
from trio_eventlog.client.senders import Senders
from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.client.target import find_seeds
from trio_eventlog.codec.batch import encode_records
from trio_eventlog.errors import OutcomeUnknown, TopicRecreated, Unavailable
from trio_eventlog.events import ANY, EVENTS_TOPIC, AggregatePage, AppendResult, Event, EventPage, ExpectedVersion
from trio_eventlog.net.names import Names
from trio_eventlog.net.network import Network
from trio_eventlog.net.real_names import RealNames
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.own_run import OwnRun, belongs_to_run, check_is_in_trio
from trio_eventlog.records import Acks, Batch, Compression, Record
from trio_eventlog.service.arguments import (
    check_consume,
    check_producer,
    check_start,
    check_text,
    check_whole,
    made,
    new_topic,
    records_of,
    topic_change,
)
from trio_eventlog.service.background import background
from trio_eventlog.service.event_arguments import append_request, check_tail, read_aggregate_request, read_events_request
from trio_eventlog.service.event_requests import PAGE_EVENTS, new_event_id
from trio_eventlog.service.event_tail import EventTail, open_tail
from trio_eventlog.service.producer import Delivery, OpenBatch, Producer, ProducerSettings, open_producer
from trio_eventlog.service.receivers import BatchReceiver, RecordReceiver, open_batches
from trio_eventlog.service.values import (
    BEGINNING,
    NOBODY_IN_PARTICULAR,
    Caller,
    KnownTopic,
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
)

_COMPRESSIONS = {compression.name.lower(): compression for compression in Compression}


@belongs_to_run
class Client:
    """Made by `open_client`; an `EventLog`, whose docstrings say what each call does.

    Any number of tasks of its run may use it at once; from elsewhere each call raises WrongRun.

    A call cancelled after it was sent has an unknown outcome. A produce call then goes on in the background until its outcome
    is known, since later batches of the same partition depend on it; whether its records are in the log shows when reading.

    The `caller` of a call may name a tenant and a deadline, not a subject: nodes know a client by its connection.
    """

    def __init__(
        self,
        *,
        calls: Calls,
        senders: Senders,
        settings: ClientSettings,
        rng: random.Random,
        now_ns: Callable[[], int],
    ) -> None:
        self._run = OwnRun()
        self._calls = calls
        self._senders = senders
        self._admin = AdminCalls(calls)
        self._events = EventCalls(calls)
        self._make_event_id = new_event_id(rng)
        self.backups = BackupCalls(calls)
        self.logs = log_source(calls)
        self._rng = rng
        self._now_ns = now_ns
        self.settings = settings
        self.producer_id = senders.producer_id

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
        batch = made("a record", lambda: encode_records(values, _COMPRESSIONS[self.settings.compression], self._now_ns()))
        return await self._produce(topic, partition, values[0].key or b"", batch, acks, caller)

    async def produce_batch(
        self, topic: str, partition: int, batch: Batch, *, acks: Acks = Acks.QUORUM, caller: Caller = NOBODY_IN_PARTICULAR
    ) -> ProduceResult:
        """See `EventLog.produce_batch`."""
        check_text("topic", topic)
        check_whole("partition", partition)
        return await self._produce(topic, partition, b"", batch, acks, caller)

    async def _produce(
        self, topic: str, partition: int | None, key: bytes, batch: Batch, acks: Acks, caller: Caller
    ) -> ProduceResult:
        deadline = min(trio.current_time() + self.settings.request_timeout_seconds, caller.deadline)
        while True:
            known = await self._calls.know_topic(topic, create=True, caller=caller)
            chosen = self._senders.partition_for(known, key) if partition is None else partition
            sender = self._senders.queue_of(known, chosen, caller)
            try:
                return await self._submit(sender, batch, acks, deadline)
            except TopicRecreated:
                # The topic as it was is gone, and the batch is in no log: it goes to the one that has the name now, where its key
                # may belong to another partition.
                if self._calls.routing.topic(topic) is known:
                    self._calls.routing.forget_topic(topic)
                if trio.current_time() >= deadline:
                    raise

    async def _submit(self, sender: PartitionSender, batch: Batch, acks: Acks, deadline: float) -> ProduceResult:
        outcome = OpenBatch(sender, 0.0)
        try:
            with trio.move_on_at(deadline):
                outcome.pending = await sender.submit(batch, acks, outcome.resolve)
                return await outcome.wait()
        finally:
            was_withdrawn = outcome.pending is None or sender.withdraw(outcome.pending)
        if outcome.is_done:
            return await outcome.wait()
        raise _late(outcome.pending, was_withdrawn, self.settings.request_timeout_seconds)

    async def submit_batch(
        self, topic: str, partition: int, batch: Batch, *, acks: Acks = Acks.QUORUM, caller: Caller = NOBODY_IN_PARTICULAR
    ) -> Delivery:
        """See `EventLog.submit_batch`."""
        check_whole("partition", partition)
        known: KnownTopic = self._senders.known(topic) or await self._calls.know_topic(topic, create=True, caller=caller)
        sender = self._senders.queue_of(known, partition, caller)
        outcome = OpenBatch(sender, 0.0)
        await trio.lowlevel.checkpoint()
        outcome.pending = await sender.submit(batch, acks, outcome.resolve)
        return Delivery(outcome, 0)

    def producer(
        self,
        topic: str,
        *,
        linger: float | None = None,
        acks: Acks = Acks.QUORUM,
        batch_bytes: int | None = None,
        batch_records: int | None = None,
        compression: Compression | None = None,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AbstractAsyncContextManager[Producer]:
        """See `EventLog.producer`."""
        check_producer(topic, linger, batch_bytes=batch_bytes, batch_records=batch_records)
        settings = self.settings
        chosen = ProducerSettings(
            acks=acks,
            compression=compression if compression is not None else _COMPRESSIONS[settings.compression],
            linger_seconds=settings.producer_linger_seconds if linger is None else linger,
            batch_bytes=min(batch_bytes or settings.producer_batch_bytes, settings.batch_bytes_max),
            batch_records=batch_records or settings.producer_batch_records,
            batch_bytes_max=settings.batch_bytes_max,
        )
        return open_producer(topic, self._senders, chosen, caller=caller, rng=self._rng, now_ns=self._now_ns)

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
            yield RecordReceiver(batches, self.settings.unpacked_bytes_max)

    def consume_batches(
        self,
        topic: str,
        *,
        start: Start = BEGINNING,
        partition: int | None = None,
        group_id: int = 0,
        buffer_batches: int | None = None,
        fetch_bytes: int | None = None,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AbstractAsyncContextManager[BatchReceiver]:
        """See `EventLog.consume_batches`."""
        check_consume(topic, partition, group_id, buffer_batches=buffer_batches, fetch_bytes=fetch_bytes)
        buffered = self.settings.consumer_buffer_batches if buffer_batches is None else buffer_batches
        source = ClientPartitions(self._calls, fetch_bytes or self.settings.consumer_fetch_bytes, caller)
        return open_batches(source, topic, start, partition, group_id, buffer_batches=buffered)

    async def offsets(self, topic: str, partition: int = 0, *, caller: Caller = NOBODY_IN_PARTICULAR) -> tuple[int, int]:
        """See `EventLog.offsets`."""
        check_text("topic", topic)
        check_whole("partition", partition)
        return await ask_offsets(self._calls, topic, partition, caller=caller)

    async def offset_at(
        self, topic: str, when: datetime.datetime, partition: int = 0, *, caller: Caller = NOBODY_IN_PARTICULAR
    ) -> int:
        """See `EventLog.offset_at`."""
        check_start(when, 1)
        offset, _ = await ask_offset_at(self._calls, topic, partition, when, caller=caller)
        return offset

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
        return await self._events.append(request, caller)

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
        return await self._events.read_aggregate(request, caller)

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
        return await self._events.read_events(read_events_request(type, after, limit, linearizable, topic), caller)

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
        return (await self._calls.know_topic(topic, caller=caller)).partitions

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
        return await self._admin.create_topic(topic, caller)

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
        return await self._admin.alter_topic(topic_change(name, group_id, retention_bytes, retention_seconds), caller)

    async def trim_topic(
        self,
        name: str,
        before: int | datetime.datetime,
        *,
        partition: int | None = None,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> dict[int, int]:
        """See `EventLog.trim_topic`."""
        return await self._admin.trim_topic(name, before, partition, caller)

    async def delete_topic(self, name: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> None:
        """See `EventLog.delete_topic`."""
        check_text("name", name)
        await self._admin.delete_topic(name, caller)

    async def list_topics(self, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[TopicInfo]:
        """See `EventLog.list_topics`."""
        return await self._admin.list_topics(caller)

    async def describe_topic(self, name: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> TopicDescription:
        """See `EventLog.describe_topic`."""
        check_text("name", name)
        return await self._admin.describe_topic(name, caller)

    async def disk_use(self, address: str | None = None, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[TopicDiskUse]:
        """See `EventLog.disk_use`."""
        return await self._admin.disk_use(address, caller)

    # The cluster

    async def status(self, address: str | None = None, *, caller: Caller = NOBODY_IN_PARTICULAR) -> NodeStatus:
        """See `EventLog.status`."""
        return await self._admin.status(address, caller)

    async def servers(self, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[ServerInfo]:
        """See `EventLog.servers`."""
        return await self._admin.servers()

    async def placements(self, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[Placement]:
        """See `EventLog.placements`."""
        return await self._admin.placements()

    async def members(self, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[MemberInfo]:
        """See `EventLog.members`."""
        return await self._admin.members(caller)

    async def drain_node(self, node_id: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> None:
        """See `EventLog.drain_node`."""
        await self._admin.drain_node(node_id, caller)

    async def remove_node(self, node_id: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> None:
        """See `EventLog.remove_node`."""
        await self._admin.remove_node(node_id, caller)

    async def transfer_leadership(
        self, topic: str = "", partition: int = 0, *, to: str = "", caller: Caller = NOBODY_IN_PARTICULAR
    ) -> str:
        """See `EventLog.transfer_leadership`."""
        return await self._admin.transfer_leadership(topic, partition, to, caller)


def _late(pending: PendingBatch | None, was_withdrawn: bool, seconds: float) -> Exception:
    within = f"within {seconds:g} s (request_timeout_seconds)"
    if was_withdrawn:
        last = pending.last_error if pending is not None else None
        return last or Unavailable(f"the records were not sent {within}: the partition's buffer is full, or no leader is known")
    return OutcomeUnknown(f"no acknowledgement {within}: the records may be in the log, or get there still")


@asynccontextmanager
async def open_client(
    target: str,
    *,
    settings: ClientSettings | None = None,
    network: Network | None = None,
    names: Names | None = None,
    tls: ssl.SSLContext | None = None,
    rng: random.Random | None = None,
    now_ns: Callable[[], int] = time.time_ns,
    connect: Connect | None = None,
) -> AsyncIterator[Client]:
    """A client of the cluster that `target` names, for the block.

    Opening does not connect: the first call does. (SRV records of `eventlog+srv://` are looked up at once.) At the end,
    connections are closed and calls still open in the background are given up; a batching producer's own block waits for its
    records.

    Args:
        target: `eventlog://host:port[,host:port...]`: any nodes of the cluster; the others are learned from them. A host may
            have several addresses: one that can be connected to is taken. `eventlog+srv://name`: hosts and ports of the SRV
            records of `_eventlog._tcp.name`.
        settings: limits and timeouts.
        network: where to dial; the operating system's by default.
        names: where SRV records are looked up; DNS by default.
        tls: a context with ALPN `h2`, as `build_client_context` makes it; None: no TLS.
        rng: for the producer id, jitter and turns; the operating system's by default.
        now_ns: the wall clock, nanoseconds since 1970 UTC: stamps records.
        connect: how to open a channel, in place of `network` and `tls`.

    Raises:
        InvalidArgument: the target is malformed.
        WrongRun: this is no task of Trio.
        Unavailable: SRV records could not be looked up.
    """
    check_is_in_trio()
    settings = settings or ClientSettings()
    rng = rng or random.SystemRandom()
    if connect is None:
        connect = connect_over(network or RealNetwork(), tls, rpc_settings(settings))
    routing = Routing(await find_seeds(target, names or RealNames(), settings.request_timeout_seconds))
    async with background() as nursery:
        pool = ChannelPool(
            nursery,
            connect,
            channels_max=settings.channels_max,
            connections_max=settings.connections_per_node_max,
            connect_timeout_seconds=settings.connect_timeout_seconds,
        )
        calls = Calls(routing, pool, settings, rng)
        senders = Senders(nursery, calls, rng)
        client = Client(calls=calls, senders=senders, settings=settings, rng=rng, now_ns=now_ns)
        nursery.start_soon(senders.keep_routing_fresh)
        try:
            yield client
        finally:
            pool.close()
