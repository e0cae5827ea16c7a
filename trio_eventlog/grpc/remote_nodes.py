"""The other nodes of the cluster, over gRPC: calls are forwarded to them on one connection each."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import trio

from trio_eventlog.background import Background
from trio_eventlog.errors import CallUnsent, EventLogError, ShuttingDown, Unavailable
from trio_eventlog.file_keys import FileKey, SnapshotKey
from trio_eventlog.grpc.answers import disk_use, member_info, node_status
from trio_eventlog.grpc.batches import batch_message, consumed_batch, encode_produce_request, produce_head
from trio_eventlog.grpc.callers import forwarded_metadata
from trio_eventlog.grpc.events import (
    append_request_message,
    append_result,
    found_in_aggregate,
    found_in_partition,
    read_aggregate_message,
    read_partition_message,
)
from trio_eventlog.grpc.logs import partition_lines, partition_search_message
from trio_eventlog.grpc.methods import (
    ALTER_TOPIC,
    APPEND,
    BACKUP,
    CONSUME,
    CONSUME_STREAM,
    CREATE_TOPIC,
    DELETE_TOPIC,
    DRAIN_NODE,
    GET_DISK_USE,
    GET_STATUS,
    LIST_MEMBERS,
    PRODUCE,
    READ_AGGREGATE,
    READ_EVENTS,
    REMOVE_NODE,
    SEARCH_LOGS,
    TAKE_SNAPSHOT,
    TRANSFER_LEADERSHIP,
    TRIM_PARTITION,
)
from trio_eventlog.grpc.requests import (
    alter_topic_request,
    backup_request,
    create_topic_request,
    file_piece,
    forwarded_consume_request,
    trim_request,
)
from trio_eventlog.ids import GroupId, NodeId, format_id, parse_id
from trio_eventlog.node.proposals import Appended
from trio_eventlog.records import Acks, Batch
from trio_eventlog.rpc import Call, Channel, Method, RpcSettings, open_channel
from trio_eventlog.service.event_requests import AppendRequest, EventsFound, PartitionEventsRequest, ReadAggregateRequest
from trio_eventlog.service.log_requests import PartitionLines, PartitionSearchRequest
from trio_eventlog.service.requests import ConsumeRequest, Fetched, ForwardedAnswer, Timestamp
from trio_eventlog.service.values import Caller, FilePiece, MemberInfo, NewTopic, NodeStatus, TopicChange, TopicDiskUse
from trio_eventlog.v1 import admin_pb2, event_log_pb2

ANSWER_HEAD_BYTES_MAX = 22
"""Of an answer to a consumer without records: two numbers with their tags."""
Connect = Callable[[NodeId], Awaitable[trio.abc.Stream]]
"""Dial a node of the cluster for gRPC. Raises OSError, also when its address is not known."""


@attrs.frozen(slots=True)
class EncodedAnswer:
    """What another node has answered to a consumer, as its bytes came (`ForwardedAnswer`)."""

    raw: bytes

    def fetched(self) -> Fetched:
        """Raises CorruptBatch."""
        response = event_log_pb2.ConsumeResponse.FromString(self.raw)
        batches = list(map(consumed_batch, response.batches))
        end = response.high_watermark
        return Fetched(
            batches=batches,
            offset=batches[0].base_offset if batches else end,
            next_offset=batches[-1].base_offset + batches[-1].record_count if batches else end,
            high_watermark=end,
            log_start_offset=response.log_start_offset,
            group_id=response.group_id,
        )

    @property
    def holds_records(self) -> bool:
        return len(self.raw) > ANSWER_HEAD_BYTES_MAX or self.next_offset is not None

    @property
    def next_offset(self) -> int | None:
        response = event_log_pb2.ConsumeResponse.FromString(self.raw)
        return response.batches[-1].base_offset + response.batches[-1].record_count if response.batches else None


class GrpcNode:
    """A node over a channel to it (`RemoteNode`)."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def produce(self, topic: str, partition: int, group_id: GroupId, batch: Batch, acks: Acks, caller: Caller) -> Appended:
        request = encode_produce_request(produce_head(topic, partition, group_id, acks), batch_message(batch), batch)
        response = await self._channel.unary(PRODUCE, request, metadata=forwarded_metadata(caller))
        return Appended(response.base_offset, response.record_count, response.duplicate)

    async def consume(self, request: ConsumeRequest, caller: Caller) -> EncodedAnswer:
        message = forwarded_consume_request(request)
        return EncodedAnswer(await self._channel.unary(CONSUME, message, metadata=forwarded_metadata(caller), raw=True))

    @asynccontextmanager
    async def consume_stream(self, request: ConsumeRequest, caller: Caller) -> AsyncIterator["EncodedAnswers"]:
        message = forwarded_consume_request(request)
        async with self._channel.stream(CONSUME_STREAM, message, metadata=forwarded_metadata(caller), raw=True) as call:
            yield EncodedAnswers(call)

    async def append(self, request: AppendRequest, caller: Caller) -> Appended:
        response = await self._channel.unary(APPEND, append_request_message(request), metadata=forwarded_metadata(caller))
        result = append_result(response)
        return Appended(result.first_offset, len(result.event_ids), result.duplicate, result.first_version)

    async def read_aggregate(self, request: ReadAggregateRequest, caller: Caller) -> EventsFound:
        return found_in_aggregate(await self._page(READ_AGGREGATE, read_aggregate_message(request), caller), request.topic)

    async def read_event_partition(self, request: PartitionEventsRequest, caller: Caller) -> EventsFound:
        return found_in_partition(await self._page(READ_EVENTS, read_partition_message(request), caller), request.topic)

    async def search_partition(self, request: PartitionSearchRequest, caller: Caller) -> PartitionLines:
        message = partition_search_message(request)
        return partition_lines(await self._channel.unary(SEARCH_LOGS, message, metadata=forwarded_metadata(caller)))

    async def _page(self, method: Method, request: Any, caller: Caller) -> Any:
        """The first answer of a call that streams them; the others are not wanted."""
        async with self._channel.stream(method, request, metadata=forwarded_metadata(caller)) as call:
            response = await call.receive()
        if response is None:
            raise Unavailable("the node has ended a stream of events without an answer")
        return response

    async def create_topic(self, topic: NewTopic, caller: Caller) -> str:
        request = create_topic_request(topic)
        response = await self._channel.unary(CREATE_TOPIC, request, metadata=forwarded_metadata(caller))
        name: str = response.topic.name
        return name

    async def alter_topic(self, change: TopicChange, caller: Caller) -> None:
        await self._channel.unary(ALTER_TOPIC, alter_topic_request(change), metadata=forwarded_metadata(caller))

    async def delete_topic(self, name: str, caller: Caller) -> None:
        request = admin_pb2.DeleteTopicRequest(name=name)
        await self._channel.unary(DELETE_TOPIC, request, metadata=forwarded_metadata(caller))

    async def trim_partition(self, group_id: GroupId, before: int | Timestamp, caller: Caller) -> int:
        request = trim_request(group_id, before)
        response = await self._channel.unary(TRIM_PARTITION, request, metadata=forwarded_metadata(caller))
        offset: int = response.log_start_offset
        return offset

    async def transfer_leadership(self, group_id: GroupId, to: NodeId | None, caller: Caller) -> NodeId:
        request = admin_pb2.TransferLeadershipRequest(group_id=group_id, to_id="" if to is None else format_id(to))
        response = await self._channel.unary(TRANSFER_LEADERSHIP, request, metadata=forwarded_metadata(caller))
        return NodeId(parse_id(response.leader_id))

    async def members(self, caller: Caller) -> list[MemberInfo]:
        request = admin_pb2.ListMembersRequest()
        response = await self._channel.unary(LIST_MEMBERS, request, metadata=forwarded_metadata(caller))
        return list(map(member_info, response.members))

    async def drain_node(self, node_id: NodeId, caller: Caller) -> None:
        request = admin_pb2.DrainNodeRequest(id=format_id(node_id))
        await self._channel.unary(DRAIN_NODE, request, metadata=forwarded_metadata(caller))

    async def remove_node(self, node_id: NodeId, caller: Caller) -> None:
        request = admin_pb2.RemoveNodeRequest(id=format_id(node_id))
        await self._channel.unary(REMOVE_NODE, request, metadata=forwarded_metadata(caller))

    async def take_snapshot(self, group_id: GroupId, caller: Caller) -> SnapshotKey:
        request = admin_pb2.TakeSnapshotRequest(group_id=group_id)
        response = await self._channel.unary(TAKE_SNAPSHOT, request, metadata=forwarded_metadata(caller))
        return SnapshotKey(term=response.term, index=response.index)

    async def read_file(self, group_id: GroupId, file: FileKey, position: int, length: int, caller: Caller) -> FilePiece:
        request = backup_request(group_id, file, position, length)
        return file_piece(await self._channel.unary(BACKUP, request, metadata=forwarded_metadata(caller)))

    async def status(self, *, catalog_only: bool, caller: Caller) -> NodeStatus:
        request = admin_pb2.GetStatusRequest(catalog_only=catalog_only)
        return node_status(await self._channel.unary(GET_STATUS, request, metadata=forwarded_metadata(caller)))

    async def disk_use(self, caller: Caller) -> list[TopicDiskUse]:
        request = admin_pb2.GetDiskUseRequest()
        return disk_use(await self._channel.unary(GET_DISK_USE, request, metadata=forwarded_metadata(caller)))


@attrs.frozen(slots=True)
class EncodedAnswers:
    """The answers of a stream, as they come."""

    call: Call

    def __aiter__(self) -> "EncodedAnswers":
        return self

    async def __anext__(self) -> ForwardedAnswer:
        raw = await self.call.receive()
        if raw is None:
            raise StopAsyncIteration
        return EncodedAnswer(raw)


@attrs.define(slots=True, eq=False)
class _Dial:
    """A connection on its way. Every caller that waits for it gets its outcome; none dials a silent node once more after it."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    done: trio.Event = attrs.field(factory=trio.Event)
    channel: Channel | None = None
    error: EventLogError | None = None

    def decide(self, channel: Channel | None, error: EventLogError | None) -> None:
        if not self.done.is_set():
            self.channel, self.error = channel, error
            self.done.set()


class GrpcNodes:
    """Channels to the other nodes, opened when first needed (`RemoteNodes`).

    Args:
        attempt_timeout_seconds: how long a node may stay silent, answers to PINGs included, before its connection is given up, and
            how long connecting may take.
    """

    def __init__(self, connect: Connect, rpc: RpcSettings, attempt_timeout_seconds: float) -> None:
        self._connect = connect
        self._rpc = attrs.evolve(rpc, call_silence_seconds=attempt_timeout_seconds)
        self._attempt_timeout_seconds = attempt_timeout_seconds
        self._dials: dict[NodeId, _Dial] = {}
        self._background = Background()

    def running(self) -> AbstractAsyncContextManager[None]:
        """The channels live inside this block."""
        return self._background.running()

    async def get(self, node_id: NodeId) -> "GrpcNode":
        """See `RemoteNodes.get`."""
        return GrpcNode(await self.channel(node_id))

    async def channel(self, node_id: NodeId) -> Channel:
        """To a node, opened when there is none. Raises Unavailable, ShuttingDown."""
        dial = self._dials.get(node_id)
        if dial is None or (dial.channel is not None and not dial.channel.is_usable):
            if self._background.nursery is None:
                raise ShuttingDown("this node is stopping: go to another one")
            dial = self._dials[node_id] = _Dial()
            self._background.nursery.start_soon(self._keep_channel, node_id, dial)
        if dial.channel is None:
            await dial.done.wait()
            if dial.error is not None:
                raise dial.error
        assert dial.channel is not None
        return dial.channel

    def on_link_lost(self, node_id: NodeId) -> None:
        """Give up the connection to the node. After a silent cut it would be in TCP's backoff for as long as the cut has lasted."""
        dial = self._dials.pop(node_id, None)
        if dial is not None:
            dial.decide(None, CallUnsent(f"the link to node {format_id(node_id)} was lost"))
            dial.scope.cancel()

    def on_link_renewed(self, node_id: NodeId) -> None:
        """The node can be reached again: what was dialled before may wait for TCP's next attempt, a new dial does not."""
        dial = self._dials.get(node_id)
        if dial is not None and dial.channel is None:
            self.on_link_lost(node_id)

    async def _keep_channel(self, node_id: NodeId, dial: _Dial) -> None:
        try:
            with dial.scope:
                stream = await self._dial(node_id)
                async with open_channel(stream, self._rpc) as channel:
                    dial.decide(channel, None)
                    await channel.wait_unusable()
        except OSError as error:
            dial.decide(None, CallUnsent(f"node {format_id(node_id)} cannot be reached: {error}"))
        finally:
            dial.decide(None, ShuttingDown("this node is stopping: go to another one"))
            if self._dials.get(node_id) is dial:
                del self._dials[node_id]

    async def _dial(self, node_id: NodeId) -> trio.abc.Stream:
        with trio.move_on_after(self._attempt_timeout_seconds):
            return await self._connect(node_id)
        raise TimeoutError(f"no answer within {self._attempt_timeout_seconds:g} s")
