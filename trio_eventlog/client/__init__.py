"""The client: `async with open_client("eventlog://host:port") as client`. It knows no node code.

From the top down: `client` is what an application holds, an `EventLog`; `senders` has a `partition_sender` for each partition that
is produced to, which takes batches to the leader, and `consumer` follows a partition's replicas, both through `calls` (routing,
repetition) and `channels` (connections); `admin_calls` asks about topics and nodes. Pure: `target`, `routing`, `producer_core`.
`wire` and `grpc/` turn messages into values. The batching producer and the receivers are those of every `EventLog` (`service/`).
"""

from trio_eventlog.client.client import Client, open_client
from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.client.tls import build_client_context
from trio_eventlog.search.values import FoundLine, LogCounting, LogQuery
from trio_eventlog.service.event_log import EventLog
from trio_eventlog.service.event_tail import EventTail
from trio_eventlog.service.log_requests import LogPage
from trio_eventlog.service.producer import Delivery, ProducedRange, Producer
from trio_eventlog.service.receivers import BatchReceiver, ConsumedBatch, RecordReceiver
from trio_eventlog.service.values import (
    BEGINNING,
    END,
    BudgetInfo,
    Caller,
    FilePiece,
    GroupInfo,
    MemberGroupInfo,
    MemberInfo,
    MembershipChange,
    MembershipEvent,
    NodeStatus,
    PartitionInfo,
    PeerInfo,
    Placement,
    Position,
    ProduceResult,
    ServerInfo,
    Start,
    TopicDescription,
    TopicDiskUse,
    TopicInfo,
)

__all__ = [
    "BEGINNING",
    "END",
    "BatchReceiver",
    "BudgetInfo",
    "Caller",
    "Client",
    "ClientSettings",
    "ConsumedBatch",
    "Delivery",
    "EventLog",
    "EventTail",
    "FilePiece",
    "FoundLine",
    "GroupInfo",
    "LogCounting",
    "LogPage",
    "LogQuery",
    "MemberGroupInfo",
    "MemberInfo",
    "MembershipChange",
    "MembershipEvent",
    "NodeStatus",
    "PartitionInfo",
    "PeerInfo",
    "Placement",
    "Position",
    "ProduceResult",
    "ProducedRange",
    "Producer",
    "RecordReceiver",
    "ServerInfo",
    "Start",
    "TopicDescription",
    "TopicDiskUse",
    "TopicInfo",
    "build_client_context",
    "open_client",
]
