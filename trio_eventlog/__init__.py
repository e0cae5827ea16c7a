"""A replicated, append-only event log on Trio.

    async with open_node(NodeSettings(data_dir="data")) as node:         # embedded
        await node.produce("orders", [Record(value=b"...")])

    async with open_client("eventlog://127.0.0.1:8400") as client:       # over the network
        await client.produce("orders", Record(key=b"42", value=b"..."))

Everything an application needs is here; the packages below are the inside. The node and the client are loaded when they are first
named: a program that only consumes does not wait for storage and Raft.
"""

import importlib
from typing import TYPE_CHECKING, Any

from trio_eventlog.errors import (
    BatchTooLarge,
    CallUnsent,
    CodecError,
    CorruptBatch,
    DamagedData,
    DataDirectoryError,
    DiskFull,
    DuplicateOutOfWindow,
    EventLogError,
    InvalidArgument,
    MembershipRefused,
    NewerRelease,
    NodeRemoved,
    NoQuorum,
    NotLeader,
    OffsetOutOfRange,
    OutcomeUnknown,
    OutOfOrderSequence,
    Overloaded,
    PermissionDenied,
    ProducerFenced,
    QuotaExceeded,
    ResourceShortage,
    SettingsError,
    ShuttingDown,
    StorageFailed,
    TooManyPartitions,
    TopicExists,
    TopicNotFound,
    TopicRecreated,
    Unauthenticated,
    Unavailable,
    UnknownBatchFormat,
    WrongExpectedVersion,
    WrongRun,
)
from trio_eventlog.records import Acks, Batch, BatchFormat, Compression, Header, Record

if TYPE_CHECKING:
    from trio_eventlog.agent import Node, Surroundings, open_node
    from trio_eventlog.client import (
        BEGINNING,
        END,
        BatchReceiver,
        BudgetInfo,
        Caller,
        Client,
        ClientSettings,
        ConsumedBatch,
        Delivery,
        EventLog,
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
        ProducedRange,
        Producer,
        ProduceResult,
        RecordReceiver,
        ServerInfo,
        Start,
        TopicDescription,
        TopicDiskUse,
        TopicInfo,
        build_client_context,
        open_client,
    )
    from trio_eventlog.rpc import RpcFailed
    from trio_eventlog.settings import NodeSettings

__all__ = [
    "BEGINNING",
    "END",
    "Acks",
    "Batch",
    "BatchFormat",
    "BatchReceiver",
    "BatchTooLarge",
    "BudgetInfo",
    "CallUnsent",
    "Caller",
    "Client",
    "ClientSettings",
    "CodecError",
    "Compression",
    "ConsumedBatch",
    "CorruptBatch",
    "DamagedData",
    "DataDirectoryError",
    "Delivery",
    "DiskFull",
    "DuplicateOutOfWindow",
    "EventLog",
    "EventLogError",
    "GroupInfo",
    "Header",
    "InvalidArgument",
    "MemberGroupInfo",
    "MemberInfo",
    "MembershipChange",
    "MembershipEvent",
    "MembershipRefused",
    "NewerRelease",
    "NoQuorum",
    "Node",
    "NodeRemoved",
    "NodeSettings",
    "NodeStatus",
    "NotLeader",
    "OffsetOutOfRange",
    "OutOfOrderSequence",
    "OutcomeUnknown",
    "Overloaded",
    "PartitionInfo",
    "PeerInfo",
    "PermissionDenied",
    "Placement",
    "Position",
    "ProduceResult",
    "ProducedRange",
    "Producer",
    "ProducerFenced",
    "QuotaExceeded",
    "Record",
    "RecordReceiver",
    "ResourceShortage",
    "RpcFailed",
    "ServerInfo",
    "SettingsError",
    "ShuttingDown",
    "Start",
    "StorageFailed",
    "Surroundings",
    "TooManyPartitions",
    "TopicDescription",
    "TopicDiskUse",
    "TopicExists",
    "TopicInfo",
    "TopicNotFound",
    "TopicRecreated",
    "Unauthenticated",
    "Unavailable",
    "UnknownBatchFormat",
    "WrongExpectedVersion",
    "WrongRun",
    "build_client_context",
    "open_client",
    "open_node",
]


_LOADED_WHEN_NAMED = {
    "trio_eventlog.agent": ("Node", "Surroundings", "open_node"),
    "trio_eventlog.client": (
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
        "GroupInfo",
        "MemberGroupInfo",
        "MemberInfo",
        "MembershipChange",
        "MembershipEvent",
        "NodeStatus",
        "PartitionInfo",
        "PeerInfo",
        "Placement",
        "Position",
        "ProducedRange",
        "ProduceResult",
        "Producer",
        "RecordReceiver",
        "ServerInfo",
        "Start",
        "TopicDescription",
        "TopicDiskUse",
        "TopicInfo",
        "build_client_context",
        "open_client",
    ),
    "trio_eventlog.rpc": ("RpcFailed",),
    "trio_eventlog.settings": ("NodeSettings",),
}
_MODULE_OF = {name: module for module, names in _LOADED_WHEN_NAMED.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
