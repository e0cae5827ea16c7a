"""The client: `async with open_client("eventlog://host:port") as client`. It knows no node code.

From the top down: `client` is what an application holds; `producer` gathers records into batches; `lane` carries batches to a
partition's leader and `consumer` follows a partition's replicas, both through `calls` (routing, repetition) and `channels`
(connections). Pure: `target`, `routing`, `producer_core`, `backoff`. `wire` and `values` turn messages into values.
"""

from trio_eventlog.client.client import Client, open_client
from trio_eventlog.client.consumer import BatchReceiver, ConsumedBatch, RecordReceiver
from trio_eventlog.client.producer import Delivery, ProducedRange, Producer
from trio_eventlog.client.producer_core import ProduceResult
from trio_eventlog.client.routing import Placement, ServerInfo
from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.client.tls import build_client_context
from trio_eventlog.client.values import (
    BudgetInfo,
    GroupInfo,
    MemberGroupInfo,
    MemberInfo,
    NodeStatus,
    PartitionInfo,
    TopicDescription,
    TopicInfo,
)
from trio_eventlog.client.wire import BEGINNING, END, Position, Start

__all__ = [
    "BEGINNING",
    "END",
    "BatchReceiver",
    "BudgetInfo",
    "Client",
    "ClientSettings",
    "ConsumedBatch",
    "Delivery",
    "GroupInfo",
    "MemberGroupInfo",
    "MemberInfo",
    "NodeStatus",
    "PartitionInfo",
    "Placement",
    "Position",
    "ProduceResult",
    "ProducedRange",
    "Producer",
    "RecordReceiver",
    "ServerInfo",
    "Start",
    "TopicDescription",
    "TopicInfo",
    "build_client_context",
    "open_client",
]
