"""The client: what an application holds."""

import datetime
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from trio_eventlog.client.arguments import U64_MAX, check_seconds, check_text, check_whole, check_whole_seconds, made
from trio_eventlog.client.background import background
from trio_eventlog.client.calls import Caller
from trio_eventlog.client.channels import ChannelPool, Connect, connect_over
from trio_eventlog.client.consumer import (
    BatchReceiver,
    Item,
    PartitionReader,
    RecordReceiver,
    ask_offset_at,
    ask_offsets,
    check_start,
    follow_partitions,
)
from trio_eventlog.client.lane import Lane
from trio_eventlog.client.producer import Delivery, OpenBatch, Producer
from trio_eventlog.client.producer_core import PendingBatch, ProduceResult
from trio_eventlog.client.routing import KnownTopic, Placement, Routing, ServerInfo
from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.client.target import find_seeds
from trio_eventlog.client.values import (
    MemberInfo,
    NodeStatus,
    TopicDescription,
    TopicInfo,
    member_info,
    node_status,
    topic_description,
    topic_info,
)
from trio_eventlog.client.wire import (
    BEGINNING,
    CREATE_TOPIC,
    DELETE_TOPIC,
    DESCRIBE_TOPIC,
    DRAIN_NODE,
    END,
    GET_STATUS,
    LIST_MEMBERS,
    LIST_TOPICS,
    REMOVE_NODE,
    TRANSFER_LEADERSHIP,
    Start,
    timestamp_ns,
)
from trio_eventlog.codec.batch import encode_records
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import InvalidArgument, OutcomeUnknown, TopicExists, TopicNotFound, TopicRecreated, Unavailable
from trio_eventlog.ids import CATALOG_GROUP
from trio_eventlog.net.names import Names
from trio_eventlog.net.network import Network
from trio_eventlog.net.real_names import RealNames
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.own_run import OwnRun, belongs_to_run, check_is_in_trio
from trio_eventlog.records import Acks, Batch, Compression, Record
from trio_eventlog.rpc import RpcSettings
from trio_eventlog.v1 import admin_pb2

_COMPRESSIONS = {compression.name.lower(): compression for compression in Compression}


LANES_KEPT_MIN = 64
"""Partitions produced to, below which nobody looks for those of topics that are gone."""


@belongs_to_run
class Client:
    """Made by `open_client`. Any number of tasks of its run may use it at once; from elsewhere each call raises WrongRun.

    A call cancelled after it was sent has an unknown outcome. A produce call then goes on in the background until its outcome
    is known, since later batches of the same partition depend on it; whether its records are in the log shows when reading.
    """

    def __init__(
        self,
        *,
        nursery: trio.Nursery,
        caller: Caller,
        settings: ClientSettings,
        rng: random.Random,
        now_ns: Callable[[], int],
    ) -> None:
        self._run = OwnRun()
        self._nursery = nursery
        self._caller = caller
        self._routing = caller.routing
        self._rng = rng
        self._now_ns = now_ns
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._lanes_max = LANES_KEPT_MIN
        self._sticky: dict[str, int] = {}
        self.settings = settings
        self.producer_id = self._lane_id = rng.randrange(1, 1 << 64)

    # Producing

    async def produce(
        self, topic: str, *records: Record | bytes, partition: int | None = None, acks: Acks = Acks.QUORUM
    ) -> ProduceResult:
        """Append `records`, together and in order, to one partition; returns once they are acknowledged.

        Repetitions after lost answers are recognised by the log: each record is in it at most once.

        Args:
            records: at least one; bytes stand for a record with that value.
            partition: where to; None: by the first record's key, and in turn when it has none.
            acks: what to wait for.

        Raises:
            BatchTooLarge: together they are over max_batch_bytes.
            OutcomeUnknown: no answer in time; they may be in the log or not.
            TopicNotFound: there is no such topic, and the nodes create none on first use.
            EventLogError: as the node says; then they are not in the log.
        """
        if not records:
            raise InvalidArgument("produce needs at least one record")
        check_text("topic", topic)
        if partition is not None:
            check_whole("partition", partition)
        values = [record if isinstance(record, Record) else Record(value=record) for record in records]
        batch = made("a record", lambda: encode_records(values, _COMPRESSIONS[self.settings.compression], self._now_ns()))
        key = values[0].key
        return await self._produce(
            topic, lambda known: self._partition_for(known, key) if partition is None else partition, batch, acks
        )

    async def produce_batch(self, topic: str, partition: int, batch: Batch, *, acks: Acks = Acks.QUORUM) -> ProduceResult:
        """Append a batch that is encoded already. As `produce`; several tasks doing so fill the pipeline."""
        check_text("topic", topic)
        check_whole("partition", partition)
        return await self._produce(topic, lambda known: partition, batch, acks)

    async def _produce(self, topic: str, choose: Callable[[KnownTopic], int], batch: Batch, acks: Acks) -> ProduceResult:
        deadline = trio.current_time() + self.settings.request_timeout_seconds
        while True:
            known = await self._caller.know_topic(topic, create=True)
            lane = self._lane(known, choose(known))
            try:
                return await self._submit(lane, batch, acks, deadline)
            except TopicRecreated:
                # The topic as it was is gone, and the batch is in no log: it goes to the one that has the name now, where its key
                # may belong to another partition.
                if self._routing.topic(topic) is known:
                    self._routing.forget_topic(topic)
                if trio.current_time() >= deadline:
                    raise

    async def _submit(self, lane: Lane, batch: Batch, acks: Acks, deadline: float) -> ProduceResult:
        outcome = OpenBatch(lane, 0.0)
        try:
            with trio.move_on_at(deadline):
                outcome.pending = await lane.submit(batch, acks, lambda done: outcome.resolve(done.result, done.error))
                return await outcome.wait()
        finally:
            was_withdrawn = outcome.pending is None or lane.withdraw(outcome.pending)
        if outcome.is_done:
            return await outcome.wait()
        raise self._late(outcome.pending, was_withdrawn)

    async def submit_batch(self, topic: str, partition: int, batch: Batch, *, acks: Acks = Acks.QUORUM) -> Delivery:
        """Queue a batch that is encoded already, waiting for room only; the handle tells the outcome of its first record."""
        check_whole("partition", partition)
        known = self._routing.topic(topic) or await self._caller.know_topic(topic, create=True)
        lane = self._lane(known, partition)
        outcome = OpenBatch(lane, 0.0)
        await trio.lowlevel.checkpoint()
        outcome.pending = await lane.submit(batch, acks, lambda done: outcome.resolve(done.result, done.error))
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
    ) -> AsyncIterator[Producer]:
        """A batching producer for the block. Its end waits until everything is acknowledged (unless an exception ends it).

        The number of partitions is followed meanwhile. When the topic is deleted and created again, records that were not
        acknowledged by then fail with TopicRecreated, and those sent afterwards go to the new one.

        Args:
            linger: seconds that a batch waits for more records. The other arguments likewise replace settings.

        Raises:
            TopicNotFound: there is no such topic, and the nodes create none on first use.
            EventLogError: at the end of the block, the first failure that nobody has been told of.
        """
        check_text("topic", topic)
        if linger is not None:
            check_seconds("linger", linger)
        for name, value in (("batch_bytes", batch_bytes), ("batch_records", batch_records)):
            if value is not None:
                check_whole(name, value, lowest=1)
        settings = self.settings
        producer = Producer(
            topic=await self._caller.know_topic(topic, create=True),
            known=lambda: self._routing.topic(topic),
            is_outdated=self._caller.is_outdated,
            ask=lambda: self._caller.know_topic(topic, create=True),
            lane_of=self._lane,
            rng=self._rng,
            now_ns=self._now_ns,
            acks=acks,
            compression=compression if compression is not None else _COMPRESSIONS[settings.compression],
            linger_seconds=settings.producer_linger_seconds if linger is None else linger,
            batch_bytes=min(batch_bytes or settings.producer_batch_bytes, settings.max_batch_bytes),
            batch_records=batch_records or settings.producer_batch_records,
            max_batch_bytes=settings.max_batch_bytes,
        )
        async with background() as nursery:
            nursery.start_soon(producer.run_linger)
            try:
                yield producer
                await producer.flush()
            finally:
                producer.close()

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
    ) -> AsyncIterator[RecordReceiver]:
        """The records of one partition, or of all of them (None), from `start` on, for ever.

        The order within a partition is kept; leaders and connections may change meanwhile. Batches fetched ahead are bounded:
        a slow reader makes the nodes wait.

        Args:
            start: BEGINNING, END (nothing acknowledged before the call), an offset (of one partition), or a datetime with zone: the
                first record of that time or later, and from there everything, also what has an earlier time.
            group_id: of the partition that the offset `start` is a place in, as `ConsumedBatch` and `RecordReceiver` have it. If
                the topic was deleted since, and created again, TopicRecreated is raised; without it the offset is looked up in
                the topic that has the name now.

        Raises:
            InvalidArgument: `start` cannot be.
            TopicNotFound: there is no such topic; when receiving: it was deleted.
            TopicRecreated: when receiving: it was deleted, and another one has its name.
            OffsetOutOfRange, ...: when receiving.
        """
        async with self.consume_batches(
            topic,
            start=start,
            partition=partition,
            group_id=group_id,
            buffer_batches=buffer_batches,
            fetch_bytes=fetch_bytes,
        ) as batches:
            yield RecordReceiver(batches, self.settings.max_unpacked_bytes)

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
    ) -> AsyncIterator[BatchReceiver]:
        """As `consume`, whole opaque batches: the first one may begin before `start`. The fastest way to read."""
        check_text("topic", topic)
        check_whole("group_id", group_id, U64_MAX)
        if partition is not None:
            check_whole("partition", partition)
        for name, value in (("buffer_batches", buffer_batches), ("fetch_bytes", fetch_bytes)):
            if value is not None:
                check_whole(name, value)
        known = await self._caller.know_topic(topic)
        try:
            check_start(start, known.partitions if partition is None else 1)
        except ValueError as error:
            raise InvalidArgument(f"start {start!r}: {error}") from None
        if group_id and partition is None:
            raise InvalidArgument("group_id belongs to one partition: name the partition")
        if partition is None:
            groups = dict(enumerate(known.group_ids))
        else:
            # One that is beyond those known may have come since: the node says whether it exists.
            groups = {partition: group_id or (known.group_ids[partition] if partition < known.partitions else 0)}
        starts: dict[int, Start] = dict.fromkeys(groups, start)
        if start is END:
            for number, group in groups.items():
                _, starts[number] = await ask_offsets(self._caller, topic, number, group)
        from_ns = dict.fromkeys(groups, 0)
        if isinstance(start, datetime.datetime):
            for number, group in groups.items():
                starts[number], is_found = await ask_offset_at(self._caller, topic, number, start, group)
                from_ns[number] = timestamp_ns(start) if is_found else 0
        buffered = self.settings.consumer_buffer_batches if buffer_batches is None else buffer_batches
        send: trio.MemorySendChannel[Item]
        receive: trio.MemoryReceiveChannel[Item]
        send, receive = trio.open_memory_channel[Item](buffered)
        # The readers end before what they send to is closed.
        async with receive, background() as nursery:

            def read(number: int, group: int, begin: Start, into: trio.MemorySendChannel[Item], begin_ns: int = 0) -> None:
                reader = PartitionReader(
                    topic,
                    number,
                    group,
                    begin,
                    self._caller,
                    into,
                    max_bytes=fetch_bytes or self.settings.consumer_fetch_bytes,
                    is_earned=isinstance(begin, int) and not isinstance(start, int),
                    from_ns=begin_ns,
                )
                nursery.start_soon(reader.run)

            async with send:
                for number, group in groups.items():
                    read(number, group, starts[number], send.clone(), from_ns[number])
                if partition is None:
                    nursery.start_soon(follow_partitions, self._caller, known, send.clone(), read)
            yield BatchReceiver(receive)

    async def offsets(self, topic: str, partition: int = 0) -> tuple[int, int]:
        """The partition's log start offset and its end: one past the last offset, of everything acknowledged before the call.

        Raises:
            TopicNotFound: no such topic or partition.
        """
        check_text("topic", topic)
        check_whole("partition", partition)
        return await ask_offsets(self._caller, topic, partition)

    async def offset_at(self, topic: str, when: datetime.datetime, partition: int = 0) -> int:
        """The offset of the first batch with a record of that time or later; the partition's end when there is none.

        Raises:
            InvalidArgument: the time has no zone.
            TopicNotFound: no such topic or partition.
        """
        try:
            check_start(when, 1)
        except ValueError as error:
            raise InvalidArgument(f"{when!r}: {error}") from None
        offset, _ = await ask_offset_at(self._caller, topic, partition, when)
        return offset

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises TopicNotFound; a topic that is made on first use is not made."""
        check_text("topic", topic)
        return (await self._caller.know_topic(topic)).partitions

    # Topics and the cluster

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        replicas: int = 0,
        retention_bytes: int = 0,
        retention_seconds: float = 0.0,
    ) -> TopicInfo:
        """Make a topic. `replicas` 0: one on every voter; retention 0: no limit, else whole seconds.

        Raises:
            InvalidArgument: a name or a number that no topic can have.
            TopicExists: there is one of this name already.
            TooManyPartitions: the nodes have no room for so many.
        """
        check_text("name", name)
        check_whole("partitions", partitions, lowest=1)
        check_whole("replicas", replicas)
        check_whole("retention_bytes", retention_bytes, U64_MAX)
        check_whole_seconds("retention_seconds", retention_seconds)
        check_whole("retention_seconds", int(retention_seconds), U64_MAX >> 1)
        request = admin_pb2.CreateTopicRequest(name=name, partitions=partitions, replicas=replicas)
        request.retention.bytes = retention_bytes
        if retention_seconds:
            request.retention.time.seconds = int(retention_seconds)
        uncertain: list[bool] = []
        try:
            response = await self._caller.call(
                CREATE_TOPIC, request, self._routing.for_catalog, on_uncertain=lambda: uncertain.append(True)
            )
        except TopicExists:
            if not uncertain:
                raise
            # An attempt of ours whose answer was lost has made it, unless somebody else did in the same moment.
            return (await self.describe_topic(name)).topic
        if response.topic.group_ids:
            self._routing.learn(KnownTopic(name=name, group_ids=tuple(response.topic.group_ids)), (), response.catalog_index)
        await self._caller.refresh_if_possible(newer_than=trio.current_time())
        return attrs.evolve(topic_info(response.topic), unopened_partitions=response.unopened_partitions)

    async def delete_topic(self, name: str) -> None:
        """Delete a topic and its records. Raises TopicNotFound."""
        check_text("name", name)
        uncertain: list[bool] = []
        catalog_index = 0
        try:
            response = await self._caller.call(
                DELETE_TOPIC,
                admin_pb2.DeleteTopicRequest(name=name),
                self._routing.for_catalog,
                on_uncertain=lambda: uncertain.append(True),
            )
            catalog_index = response.catalog_index
        except TopicNotFound:
            if not uncertain:
                raise
        self._routing.forget_topic(name, catalog_index)
        await self._caller.refresh_if_possible(newer_than=trio.current_time())

    async def list_topics(self) -> list[TopicInfo]:
        """Every topic."""
        response = await self._caller.call(LIST_TOPICS, admin_pb2.ListTopicsRequest(), self._routing.addresses)
        return [topic_info(topic) for topic in response.topics]

    async def describe_topic(self, name: str) -> TopicDescription:
        """A topic with its partitions. Raises TopicNotFound."""
        check_text("name", name)
        response = await self._caller.call(DESCRIBE_TOPIC, admin_pb2.DescribeTopicRequest(name=name), self._routing.for_catalog)
        return topic_description(response)

    async def status(self, address: str | None = None) -> NodeStatus:
        """How the node at `address` sees itself; None: any node."""
        request = admin_pb2.GetStatusRequest()
        if address is not None:
            return node_status(await self._caller.call_once(address, GET_STATUS, request))
        return node_status(await self._caller.call(GET_STATUS, request, self._routing.addresses))

    async def servers(self) -> list[ServerInfo]:
        """The nodes of the cluster, by name, asked for now."""
        await self._caller.refresh(newer_than=trio.current_time())
        return sorted(self._routing.servers, key=lambda server: (server.name, server.id))

    async def members(self) -> list[MemberInfo]:
        """Every node that is known to the cluster, the silent and the removed ones too, as the catalog's leader sees it."""
        response = await self._caller.call(LIST_MEMBERS, admin_pb2.ListMembersRequest(), self._routing.for_catalog)
        return [member_info(member) for member in response.members]

    async def drain_node(self, node_id: str) -> None:
        """Have everything moved off a node and the node removed. Returns when that is decided; `members` shows when it is done.

        Raises:
            InvalidArgument: no such node.
            MembershipRefused: not now; the text says why.
        """
        await self._caller.call(
            DRAIN_NODE, admin_pb2.DrainNodeRequest(id=node_id), self._routing.for_catalog, on_uncertain=lambda: None
        )

    async def remove_node(self, node_id: str) -> None:
        """Take a node out of the cluster for ever, at once: for one that does not come back. Raises as `drain_node`."""
        await self._caller.call(
            REMOVE_NODE, admin_pb2.RemoveNodeRequest(id=node_id), self._routing.for_catalog, on_uncertain=lambda: None
        )

    async def placements(self) -> list[Placement]:
        """Leader and replicas of every partition, asked for now."""
        await self._caller.refresh(newer_than=trio.current_time())
        return list(self._routing.placements)

    async def transfer_leadership(self, topic: str = "", partition: int = 0, *, to: str = "") -> str:
        """Hand over the leadership of a partition ("": of the catalog) to a node id ("": the best follower).

        Returns:
            The id of the new leader.

        Raises:
            TopicNotFound: no such topic or partition.
            OutcomeUnknown: it may have been handed over: an answer was lost, and no later attempt had one.
        """
        group_id: int = CATALOG_GROUP
        if topic:
            described = await self.describe_topic(topic)
            found = [item.group_id for item in described.partitions if item.partition == partition]
            if not found:
                raise TopicNotFound(f"topic {topic} has no partition {partition}: it has {len(described.partitions)}")
            group_id = found[0]
        response = await self._caller.call(
            TRANSFER_LEADERSHIP,
            admin_pb2.TransferLeadershipRequest(group_id=group_id, to_id=to),
            lambda now: self._routing.for_write(topic, partition, now) if topic else self._routing.for_catalog(now),
            on_uncertain=lambda: None,
        )
        await self._caller.refresh(newer_than=trio.current_time())
        leader_id: str = response.leader_id
        return leader_id

    async def _keep_routing_fresh(self) -> None:
        """While there is work on a stream, nobody asks where the leader is, so this does."""
        settings = self.settings
        seen = 0
        while True:
            await trio.sleep(min(settings.stall_seconds, settings.routing_refresh_seconds))
            stalled = [lane for lane in self._lanes.values() if lane.is_stalled]
            if stalled:
                silent = {lane.address for lane in stalled}
                await self._caller.refresh_if_possible(trio.current_time() - settings.stall_seconds, silent)
                for lane in stalled:
                    lane.leave_if_led_elsewhere()
                continue
            activity = sum(lane.activity for lane in self._lanes.values())
            if activity != seen:
                seen = activity
                # Any node carries batches on to a leader that the client does not know; the way round costs time.
                is_unknown = any(lane.has_unknown_leader for lane in self._lanes.values())
                await self._caller.refresh_if_possible(trio.current_time() - settings.stall_seconds if is_unknown else None)

    def _partition_for(self, known: KnownTopic, key: bytes) -> int:
        if key:
            return partition_of(key, known.partitions)
        turn = self._sticky.get(known.name, self._rng.randrange(known.partitions))
        self._sticky[known.name] = turn + 1
        return turn % known.partitions

    def _lane(self, known: KnownTopic, partition: int) -> Lane:
        topic = known.name
        # A partition beyond those known may have come since: the node says whether it exists.
        group_id = known.group_ids[partition] if 0 <= partition < known.partitions else 0
        lane = self._lanes.get((topic, partition))
        if lane is not None and group_id and lane.group_id != group_id:
            if not lane.group_id:
                lane.name_group(group_id)
            else:
                lane.retire(TopicRecreated(f"topic {topic!r} was deleted and created again: send again what was not acknowledged"))
                lane = None
        if lane is None:
            self._caller.pool.check_open()
            self._forget_lanes()
            lane = self._lanes[topic, partition] = Lane(topic, partition, group_id, self._lane_id, self._caller, self._start_lane)
        return lane

    def _start_lane(self, lane: Lane) -> None:
        self._nursery.start_soon(lane.run, name=f"lane of {lane.topic}/{lane.partition}")

    def _forget_lanes(self) -> None:
        """Of topics that are gone, now and then: when there are twice as many as were left the last time."""
        if len(self._lanes) < self._lanes_max:
            return
        kept = {key: lane for key, lane in self._lanes.items() if not lane.is_idle or self._routing.topic(lane.topic) is not None}
        if len(kept) < len(self._lanes):
            # Should one of them come back, the log must not take its first batch for an old one of the lane that was forgotten.
            self._lane_id = self._rng.randrange(1, 1 << 64)
        self._lanes = kept
        self._lanes_max = max(LANES_KEPT_MIN, 2 * len(kept))

    def _late(self, pending: PendingBatch | None, was_withdrawn: bool) -> Exception:
        within = f"within {self.settings.request_timeout_seconds:g} s (request_timeout_seconds)"
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
        rpc_settings = RpcSettings(
            message_bytes_max=settings.max_message_bytes,
            keepalive_seconds=settings.keepalive_seconds,
            keepalive_timeout_seconds=settings.keepalive_timeout_seconds,
            call_slot_seconds=settings.attempt_timeout_seconds / 2,
        )
        connect = connect_over(network or RealNetwork(), tls, rpc_settings)
    routing = Routing(await find_seeds(target, names or RealNames(), settings.request_timeout_seconds))
    async with background() as nursery:
        pool = ChannelPool(
            nursery,
            connect,
            channels_max=settings.channels_max,
            connections_max=settings.connections_per_node_max,
            connect_timeout_seconds=settings.connect_timeout_seconds,
        )
        client = Client(nursery=nursery, caller=Caller(routing, pool, settings, rng), settings=settings, rng=rng, now_ns=now_ns)
        nursery.start_soon(client._keep_routing_fresh)
        try:
            yield client
        finally:
            pool.close()
