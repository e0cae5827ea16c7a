"""A cluster as clients see it: real gRPC over a network in memory, and behind it plain lists that obey what tests tell them."""

import random
import ssl
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from trio_eventlog.client import Client, ClientSettings, open_client
from trio_eventlog.errors import (
    DuplicateOutOfWindow,
    EventLogError,
    NotLeader,
    OffsetOutOfRange,
    OutOfOrderSequence,
    TopicExists,
    TopicNotFound,
    TopicRecreated,
    Unavailable,
)
from trio_eventlog.rpc import Context, Requests, RpcSettings, Send, Server, Service
from trio_eventlog.rpc.status import error_details, public_message
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.network import SimNetwork
from trio_eventlog.v1 import admin_pb2, event_log_pb2, records_pb2

WINDOW = 5


@attrs.define(eq=False)
class FakePartition:
    leader: str
    group_id: int = 0
    batches: list[records_pb2.Batch] = attrs.field(factory=list)
    log_start_offset: int = 0
    known: dict[int, tuple[int, int]] = attrs.field(factory=dict)  # producer -> epoch, next sequence
    recent: dict[int, deque[tuple[int, int]]] = attrs.field(factory=lambda: defaultdict(lambda: deque(maxlen=WINDOW)))
    grown: trio.Event = attrs.field(factory=trio.Event)

    @property
    def end(self) -> int:
        return self.batches[-1].base_offset + self.batches[-1].record_count if self.batches else self.log_start_offset

    def values(self) -> list[bytes]:
        return [record.value for batch in self.batches for record in records_pb2.RecordBatch.FromString(batch.payload).records]

    def append(self, batch: records_pb2.Batch) -> tuple[int, bool]:
        """Base offset, and whether the batch was there already."""
        epoch, next_sequence = self.known.get(batch.producer_id, (-1, 0))
        recent = self.recent[batch.producer_id]
        if batch.producer_epoch == epoch:
            if batch.base_sequence > next_sequence:
                raise OutOfOrderSequence("a batch is missing", next_sequence)
            if batch.base_sequence < next_sequence:
                for base_sequence, base_offset in recent:
                    if base_sequence == batch.base_sequence:
                        return base_offset, True
                raise DuplicateOutOfWindow("too old")
        batch.base_offset = self.end
        self.batches.append(batch)
        self.known[batch.producer_id] = (batch.producer_epoch, batch.base_sequence + batch.record_count)
        recent.append((batch.base_sequence, batch.base_offset))
        self.grown.set()
        self.grown = trio.Event()
        return batch.base_offset, False


class FakeNode:
    """One node. `on_produce` and `on_consume` may wait, raise, or break the connection."""

    def __init__(self, cluster: "FakeCluster", name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.address = f"{name}:8400"
        self.calls: list[str] = []
        self.open_produce_streams = 0
        self.scope: trio.CancelScope | None = None
        self.before_append: Callable[[records_pb2.Batch], Any] | None = None
        self.after_append: Callable[[records_pb2.Batch], Any] | None = None
        self.hears_of_topics_at = float("-inf")
        self.is_old_release = False  # It gives neither catalog index nor groups, and looks at none.
        self.starts_until = float("-inf")  # Until then it lists nobody but itself.
        self.shows_since = 0  # A node that lags: what it shows is the cluster as it was at that index.
        self.visible_end: int | None = None  # A follower that lags.

    def services(self) -> list[Service]:
        log = event_log_pb2.DESCRIPTOR.services_by_name["EventLog"]
        admin = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
        return [
            Service(
                log,
                {
                    "Produce": self.produce,
                    "ProduceStream": self.produce_stream,
                    "Consume": self.consume,
                    "ConsumeStream": self.consume_stream,
                    "GetServers": self.get_servers,
                },
            ),
            Service(
                admin,
                {
                    "CreateTopic": self.create_topic,
                    "AlterTopic": self.alter_topic,
                    "DeleteTopic": self.delete_topic,
                    "ListTopics": self.list_topics,
                    "DescribeTopic": self.describe_topic,
                    "GetStatus": self.get_status,
                    "TransferLeadership": self.transfer_leadership,
                },
            ),
        ]

    @property
    def catalog_index(self) -> int:
        if self.is_old_release or trio.current_time() < self.starts_until:
            return 0
        if trio.current_time() < self.hears_of_topics_at:
            return 1
        return self.shows_since or self.cluster.catalog_index

    @property
    def topics(self) -> dict[str, list[FakePartition]]:
        """As this node shows them."""
        if trio.current_time() < max(self.hears_of_topics_at, self.starts_until):
            return {}
        return self.cluster.history[self.shows_since] if self.shows_since else self.cluster.topics

    def check_group(self, topic: str, partition: FakePartition, group_id: int) -> None:
        if group_id and group_id != partition.group_id and not self.is_old_release:
            raise TopicRecreated(f"topic {topic} is another one now", self.cluster.catalog_index)

    def partition(self, topic: str, number: int, group_id: int = 0) -> FakePartition:
        found = self.cluster.topics.get(topic)
        if trio.current_time() < self.hears_of_topics_at:
            raise TopicNotFound(f"no topic {topic} here yet")
        if found is None and self.cluster.auto_create:
            self.cluster.add_topic(topic)
            found = self.cluster.topics[topic]
        if found is None or number >= len(found):
            raise TopicNotFound(f"topic {topic} has no partition {number}", 0 if self.is_old_release else self.catalog_index)
        self.check_group(topic, found[number], group_id)
        return found[number]

    def check_leads(self, leader: str) -> None:
        if leader != self.name and not self.cluster.forwards:
            hint = self.cluster.nodes[leader].address if self.cluster.gives_hints and leader else ""
            raise NotLeader(f"{self.name} does not lead", 1 if hint else 0, hint)

    async def append(self, request: event_log_pb2.ProduceRequest) -> event_log_pb2.ProduceResponse:
        partition = self.partition(request.topic, request.partition, request.group_id)
        if self.before_append is not None:
            await self.before_append(request.batch)
        self.check_leads(partition.leader)
        offset, duplicate = partition.append(request.batch)
        if self.after_append is not None:
            await self.after_append(request.batch)
        return event_log_pb2.ProduceResponse(
            topic=request.topic,
            partition=request.partition,
            base_offset=offset,
            record_count=request.batch.record_count,
            duplicate=duplicate,
        )

    async def produce(self, request: event_log_pb2.ProduceRequest, context: Context) -> event_log_pb2.ProduceResponse:
        self.calls.append("Produce")
        return await self.append(request)

    async def produce_stream(self, requests: Requests, context: Context, send: Send) -> None:
        self.calls.append("ProduceStream")
        self.open_produce_streams += 1
        try:
            async for request in requests:
                try:
                    await send(await self.append(request))
                except EventLogError as error:
                    answer = event_log_pb2.ProduceResponse(topic=request.topic, partition=request.partition)
                    answer.error.code = error.code
                    answer.error.message = public_message(error)
                    for key, value in error_details(error).items():
                        answer.error.details[key] = value
                    await send(answer)
        finally:
            self.open_produce_streams -= 1

    def start_of(self, request: event_log_pb2.ConsumeRequest, partition: FakePartition, end: int) -> int:
        if request.start == event_log_pb2.BEGINNING:
            return partition.log_start_offset
        if request.start == event_log_pb2.END:
            return end
        if request.start == event_log_pb2.TIMESTAMP:
            wanted = request.start_timestamp.ToNanoseconds()
            later = [batch.base_offset for batch in partition.batches if batch.last_timestamp.ToNanoseconds() >= wanted]
            return min(later, default=end)
        if not partition.log_start_offset <= request.offset <= end:
            raise OffsetOutOfRange(f"no offset {request.offset}", partition.log_start_offset, end)
        return request.offset

    def end_of(self, partition: FakePartition) -> int:
        return partition.end if self.visible_end is None else min(self.visible_end, partition.end)

    async def consume(self, request: event_log_pb2.ConsumeRequest, context: Context) -> event_log_pb2.ConsumeResponse:
        self.calls.append("Consume")
        partition = self.partition(request.topic, request.partition, request.group_id)
        if request.consistency == event_log_pb2.LINEARIZABLE:
            self.check_leads(partition.leader)
        end = self.end_of(partition)
        response = event_log_pb2.ConsumeResponse(high_watermark=end, log_start_offset=partition.log_start_offset)
        offset = self.start_of(request, partition, end)
        response.batches.extend(
            [batch for batch in partition.batches if offset < batch.base_offset + batch.record_count <= end][:1]
        )
        return response

    async def consume_stream(self, request: event_log_pb2.ConsumeRequest, context: Context, send: Send) -> None:
        self.calls.append("ConsumeStream")
        partition = self.partition(request.topic, request.partition, request.group_id)
        next_offset = self.start_of(request, partition, self.end_of(partition))
        while True:
            if self.cluster.topics.get(request.topic, [None] * 99)[request.partition] is not partition:
                raise TopicNotFound("the topic was deleted")
            grown = partition.grown
            end = self.end_of(partition)
            for batch in list(partition.batches):
                batch_end = batch.base_offset + batch.record_count
                if next_offset < batch_end <= end:
                    damaged = self.cluster.damage.get(self.name)
                    sent = records_pb2.Batch.FromString(batch.SerializeToString())
                    if damaged is not None:
                        damaged(sent)
                    await send(
                        event_log_pb2.ConsumeResponse(
                            batches=[sent],
                            high_watermark=end,
                            log_start_offset=partition.log_start_offset,
                            group_id=0 if self.is_old_release else partition.group_id,
                        )
                    )
                    next_offset = batch_end
            if grown is partition.grown:
                await grown.wait()

    async def get_servers(self, request: event_log_pb2.GetServersRequest, context: Context) -> event_log_pb2.GetServersResponse:
        self.calls.append("GetServers")
        nodes = [node for node in self.cluster.nodes.values() if node is self or trio.current_time() >= self.starts_until]
        return event_log_pb2.GetServersResponse(
            cluster_id="c",
            catalog_index=self.catalog_index,
            servers=[
                event_log_pb2.Server(
                    id=f"id-{node.name}",
                    name=node.name,
                    address=node.address,
                    is_leader=node.name == self.cluster.catalog_leader,
                )
                for node in nodes
            ],
            partitions=[
                event_log_pb2.PartitionPlacement(
                    topic=topic,
                    partition=number,
                    leader_id=f"id-{partition.leader}" if partition.leader else "",
                    replica_ids=[f"id-{node.name}" for node in nodes],
                    group_id=0 if self.is_old_release else partition.group_id,
                )
                for topic, partitions in self.topics.items()
                for number, partition in enumerate(partitions)
            ],
        )

    async def create_topic(self, request: admin_pb2.CreateTopicRequest, context: Context) -> admin_pb2.CreateTopicResponse:
        self.calls.append("CreateTopic")
        self.check_leads(self.cluster.catalog_leader)
        if request.name in self.cluster.topics:
            raise TopicExists(f"topic {request.name} exists")
        self.cluster.add_topic(request.name, request.partitions or 1)
        if self.cluster.lose_next_admin_answer:
            self.cluster.lose_next_admin_answer = False
            raise Unavailable("lost")
        return admin_pb2.CreateTopicResponse(topic=self.topic(request.name), catalog_index=self.catalog_index)

    async def alter_topic(self, request: admin_pb2.AlterTopicRequest, context: Context) -> admin_pb2.AlterTopicResponse:
        self.calls.append("AlterTopic")
        self.check_leads(self.cluster.catalog_leader)
        if request.name not in self.cluster.topics:
            raise TopicNotFound(f"no topic {request.name}")
        if self.cluster.topics[request.name][0].group_id != request.group_id:
            raise TopicRecreated(f"another topic {request.name}")
        self.cluster.altered.append(request)
        if self.cluster.lose_next_admin_answer:
            self.cluster.lose_next_admin_answer = False
            raise Unavailable("lost")
        topic = self.topic(request.name)
        topic.retention.bytes = request.retention_bytes
        topic.retention.time.CopyFrom(request.retention_time)
        return admin_pb2.AlterTopicResponse(topic=topic, catalog_index=self.catalog_index)

    async def delete_topic(self, request: admin_pb2.DeleteTopicRequest, context: Context) -> admin_pb2.DeleteTopicResponse:
        self.calls.append("DeleteTopic")
        self.check_leads(self.cluster.catalog_leader)
        if request.name not in self.cluster.topics:
            raise TopicNotFound(f"no topic {request.name}")
        self.cluster.drop_topic(request.name)
        if self.cluster.lose_next_admin_answer:
            self.cluster.lose_next_admin_answer = False
            raise Unavailable("lost")
        return admin_pb2.DeleteTopicResponse(catalog_index=self.catalog_index)

    async def list_topics(self, request: admin_pb2.ListTopicsRequest, context: Context) -> admin_pb2.ListTopicsResponse:
        return admin_pb2.ListTopicsResponse(topics=[self.topic(name) for name in sorted(self.cluster.topics)])

    async def describe_topic(self, request: admin_pb2.DescribeTopicRequest, context: Context) -> admin_pb2.DescribeTopicResponse:
        self.calls.append("DescribeTopic")
        await trio.sleep_until(max(self.starts_until, trio.current_time()))
        # What is not there now is asked of the catalog's leader.
        topics = self.topics if request.name in self.topics else self.cluster.topics
        if request.name not in topics and request.create and self.cluster.auto_create:
            self.cluster.add_topic(request.name)
        if request.name not in topics:
            raise TopicNotFound(f"there is no topic {request.name!r}", 0 if self.is_old_release else self.cluster.catalog_index)
        return admin_pb2.DescribeTopicResponse(
            topic=self.topic(request.name),
            catalog_index=self.catalog_index if topics is self.topics else self.cluster.catalog_index,
            partitions=[
                admin_pb2.PartitionDescription(
                    partition=number,
                    group_id=partition.group_id,
                    leader_id=f"id-{partition.leader}",
                    replica_ids=[f"id-{name}" for name in self.cluster.nodes],
                    log_start_offset=partition.log_start_offset,
                    high_watermark=partition.end,
                )
                for number, partition in enumerate(topics[request.name])
            ],
        )

    async def get_status(self, request: admin_pb2.GetStatusRequest, context: Context) -> admin_pb2.GetStatusResponse:
        group = admin_pb2.GroupStatus(
            group_id=0, role="leader" if self.name == self.cluster.catalog_leader else "follower", term=2, commit_index=9
        )
        return admin_pb2.GetStatusResponse(
            id=f"id-{self.name}", name=self.name, address=self.address, cluster_name="c", version="1", groups=[group]
        )

    async def transfer_leadership(
        self, request: admin_pb2.TransferLeadershipRequest, context: Context
    ) -> admin_pb2.TransferLeadershipResponse:
        to = request.to_id.removeprefix("id-") or next(name for name in self.cluster.nodes if name != self.name)
        if request.group_id == 0:
            self.check_leads(self.cluster.catalog_leader)
            self.cluster.catalog_leader = to
        else:
            (partition,) = [item for item in self.cluster.topics["t"] if item.group_id == request.group_id]
            self.check_leads(partition.leader)
            partition.leader = to
        if self.cluster.loses_transfer_answers:
            raise Unavailable("lost")
        return admin_pb2.TransferLeadershipResponse(leader_id=f"id-{to}")

    def topic(self, name: str) -> admin_pb2.Topic:
        partitions = self.cluster.topics[name]
        ids = [] if self.is_old_release else [partition.group_id for partition in partitions]
        return admin_pb2.Topic(name=name, partitions=len(partitions), replicas=len(self.cluster.nodes), group_ids=ids)


class FakeCluster:
    def __init__(self, names: tuple[str, ...] = ("n1", "n2", "n3")) -> None:
        self.network = SimNetwork(random.Random(1))
        self.nodes = {name: FakeNode(self, name) for name in names}
        self.topics: dict[str, list[FakePartition]] = {}
        self.catalog_index = 1
        self.history = {1: dict(self.topics)}  # Catalog index -> the topics there were then.
        self.next_group_id = 1
        self.catalog_leader = names[0]
        self.altered: list[admin_pb2.AlterTopicRequest] = []
        self.auto_create = False
        self.gives_hints = True
        self.forwards = False
        self.tls: ssl.SSLContext | None = None
        self.rpc = default(RpcSettings)
        self.lose_next_admin_answer = False
        self.loses_transfer_answers = False
        self.damage: dict[str, Callable[[records_pb2.Batch], None]] = {}

    def add_topic(self, name: str, partitions: int = 1) -> None:
        names = list(self.nodes)
        self.topics[name] = [self.new_partition(names[number % len(names)]) for number in range(partitions)]
        self.change()

    def grow_topic(self, name: str, partitions: int) -> None:
        self.topics[name] += [self.new_partition("n1") for _ in range(partitions)]
        self.change()

    def new_partition(self, leader: str) -> FakePartition:
        self.next_group_id += 1
        return FakePartition(leader, self.next_group_id - 1)

    def drop_topic(self, name: str) -> None:
        """Who reads from it is told."""
        for partition in self.topics.pop(name):
            partition.grown.set()
            partition.grown = trio.Event()
        self.change()

    def change(self) -> None:
        """The catalog has applied a command."""
        self.catalog_index += 1
        self.history[self.catalog_index] = {name: list(partitions) for name, partitions in self.topics.items()}

    def lead(self, topic: str, partition: int, name: str) -> None:
        self.topics[topic][partition].leader = name

    async def run_node(self, name: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        node = self.nodes[name]
        bound = await self.network.host(name).listen(node.address)
        server = Server(node.services(), self.rpc)
        with trio.CancelScope() as node.scope:
            async with bound.listener, trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    nursery.start_soon(self.serve_connection, server, await bound.listener.accept())

    async def serve_connection(self, server: Server, stream: trio.abc.Stream) -> None:
        try:
            if self.tls is not None:
                secured = trio.SSLStream(stream, self.tls, server_side=True, https_compatible=True)
                await secured.do_handshake()
                stream = secured
            await server.serve(stream)
        except trio.BrokenResourceError:
            pass  # The handshake failed, or the connection was reset: the client is told, and tests look there.

    def kill(self, name: str) -> None:
        """As kill -9: connections break, nobody listens."""
        scope = self.nodes[name].scope
        assert scope is not None
        scope.cancel()
        self.network.crash(name)

    def break_connections(self, name: str) -> None:
        """Every connection of the client to the node is reset."""
        assert self.network.reset("client", name)


@asynccontextmanager
async def open_fake(
    cluster: FakeCluster | None = None, settings: ClientSettings | None = None, target: str = "n1:8400,n2:8400,n3:8400"
) -> AsyncIterator[tuple[FakeCluster, Client]]:
    """A running cluster with topic `t` of one partition, led by n1, and a client of it."""
    cluster = cluster or FakeCluster()
    if "t" not in cluster.topics:
        cluster.add_topic("t")
    # A test that waits for ever fails at once, since its clock jumps.
    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            for name in cluster.nodes:
                await nursery.start(cluster.run_node, name)
            async with open_client(
                target,
                settings=settings or ClientSettings(),
                network=cluster.network.host("client"),
                rng=random.Random(7),
                now_ns=lambda: 1_700_000_000_000_000_000,
            ) as client:
                yield cluster, client
            nursery.cancel_scope.cancel()
