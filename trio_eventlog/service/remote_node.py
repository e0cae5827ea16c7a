"""Another node, as a call sees it that is forwarded there. `grpc/` has the implementation; tests have others."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from trio_eventlog.file_keys import FileKey, SnapshotKey
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.node.proposals import Appended
from trio_eventlog.records import Acks, Batch
from trio_eventlog.service.event_requests import AppendRequest, EventsFound, PartitionEventsRequest, ReadAggregateRequest
from trio_eventlog.service.log_requests import PartitionLines, PartitionSearchRequest
from trio_eventlog.service.requests import ConsumeRequest, ForwardedAnswer, Timestamp
from trio_eventlog.service.values import Caller, FilePiece, MemberInfo, NewTopic, NodeStatus, TopicChange, TopicDiskUse


class RemoteNode(Protocol):
    """Each call is answered by that node itself or refused with `NotLeader`, and raises what it raises there. `caller` goes along.

    Raises:
        CallUnsent: the node has not seen the call.
        Unavailable: there is no answer.
    """

    async def produce(
        self, topic: str, partition: int, group_id: GroupId, batch: Batch, acks: Acks, caller: Caller
    ) -> Appended: ...

    async def consume(self, request: ConsumeRequest, caller: Caller) -> ForwardedAnswer: ...

    def consume_stream(
        self, request: ConsumeRequest, caller: Caller
    ) -> AbstractAsyncContextManager[AsyncIterator[ForwardedAnswer]]: ...

    async def append(self, request: AppendRequest, caller: Caller) -> Appended: ...

    async def read_aggregate(self, request: ReadAggregateRequest, caller: Caller) -> EventsFound: ...

    async def read_event_partition(self, request: PartitionEventsRequest, caller: Caller) -> EventsFound: ...

    async def search_partition(self, request: PartitionSearchRequest, caller: Caller) -> PartitionLines: ...

    async def create_topic(self, topic: NewTopic, caller: Caller) -> str:
        """Returns its name."""

    async def alter_topic(self, change: TopicChange, caller: Caller) -> None: ...

    async def delete_topic(self, name: str, caller: Caller) -> None: ...

    async def trim_partition(self, group_id: GroupId, before: int | Timestamp, caller: Caller) -> int:
        """Returns the log start offset."""

    async def transfer_leadership(self, group_id: GroupId, to: NodeId | None, caller: Caller) -> NodeId:
        """`to` None: the best follower."""

    async def members(self, caller: Caller) -> list[MemberInfo]: ...

    async def drain_node(self, node_id: NodeId, caller: Caller) -> None: ...

    async def remove_node(self, node_id: NodeId, caller: Caller) -> None: ...

    async def take_snapshot(self, group_id: GroupId, caller: Caller) -> SnapshotKey: ...

    async def read_file(self, group_id: GroupId, file: FileKey, position: int, length: int, caller: Caller) -> FilePiece: ...

    async def status(self, *, catalog_only: bool, caller: Caller) -> NodeStatus: ...

    async def disk_use(self, caller: Caller) -> list[TopicDiskUse]: ...


class RemoteNodes(Protocol):
    """The other nodes of the cluster."""

    async def get(self, node_id: NodeId) -> RemoteNode:
        """Connected to when it is not yet. Raises Unavailable, ShuttingDown."""
