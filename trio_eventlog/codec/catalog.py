"""Catalog commands as the payload of CONTROL entries: one JSON object, so that `log dump` shows them as they are."""

import json
from typing import Any

from trio_eventlog.errors import CodecError
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.machine.catalog import Command, CreateTopic, DeleteTopic, DrainNode, RegisterNode, RemoveNode, SetReplicas


def encode_command(command: Command) -> bytes:
    match command:
        case CreateTopic():
            fields: dict[str, Any] = {
                "command": "create_topic",
                "name": command.name,
                "partitions": command.partition_count,
                "replicas": list(command.replicas),
                "replica_count": command.replica_count,
                "retention_bytes": command.retention_bytes,
                "retention_seconds": command.retention_seconds,
            }
        case DeleteTopic():
            fields = {"command": "delete_topic", "name": command.name}
        case SetReplicas():
            fields = {
                "command": "set_replicas",
                "topic": command.topic,
                "group": command.group_id,
                "replicas": list(command.replicas),
                "wanted": list(command.wanted),
            }
        case RegisterNode():
            fields = {"command": "register_node", "node": command.node_id, "name": command.name}
        case DrainNode():
            fields = {"command": "drain_node", "node": command.node_id}
        case RemoveNode():
            fields = {"command": "remove_node", "node": command.node_id}
    return json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()


def decode_command(payload: bytes | memoryview) -> Command:
    """Raises CodecError for anything `encode_command` does not make."""
    try:
        fields = json.loads(bytes(payload))
        match fields:
            case {"command": "create_topic", "name": str(name), "partitions": int(partitions), "replicas": list(replicas)}:
                return CreateTopic(
                    name=name,
                    partition_count=partitions,
                    replicas=_nodes(replicas),
                    replica_count=_whole(fields["replica_count"]),
                    retention_bytes=_whole(fields["retention_bytes"]),
                    retention_seconds=_whole(fields["retention_seconds"]),
                )
            case {"command": "delete_topic", "name": str(name)}:
                return DeleteTopic(name=name)
            case {
                "command": "set_replicas",
                "topic": str(topic),
                "group": group,
                "replicas": list(replicas),
                "wanted": list(wanted),
            }:
                return SetReplicas(topic=topic, group_id=GroupId(_whole(group)), replicas=_nodes(replicas), wanted=_nodes(wanted))
            case {"command": "register_node", "node": node, "name": str(name)}:
                return RegisterNode(node_id=NodeId(_whole(node)), name=name)
            case {"command": "drain_node", "node": node}:
                return DrainNode(node_id=NodeId(_whole(node)))
            case {"command": "remove_node", "node": node}:
                return RemoveNode(node_id=NodeId(_whole(node)))
    except (ValueError, KeyError, RecursionError) as error:
        raise CodecError(f"catalog command: {error}") from error
    raise CodecError("catalog command: not one that this release knows")


def _nodes(items: list[object]) -> tuple[NodeId, ...]:
    return tuple(NodeId(_whole(item)) for item in items)


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no whole number")
    return value
