"""The snapshot of the catalog's machine. See `codec.snapshot` for the frame around the part.

The part CATALOG is one JSON object, as catalog commands are (`codec.catalog`), with sorted keys and no blanks:

```
{"command_index": 12, "feature_level": 1, "next_group": 3,
 "topics": [{"name": "orders", "replica_count": 0, "retention_bytes": 0, "retention_seconds": 0,
             "partitions": [{"group": 1, "first_voters": [1, 2], "replicas": [1, 2], "wanted": [1, 2]}, ...]}, ...],
 "nodes": [{"node": 1, "name": "n1", "draining": false}, ...],
 "removed": [...]}
```

Topics and nodes keep the machine's order, which is that of the log. The state was made by commands, so decoding checks it
by making the commands that could have made it: their validators are the only declaration of the bounds.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from trio_eventlog.codec.snapshot import PartKind, SnapshotPart, decode_snapshot, encode_snapshot
from trio_eventlog.errors import CodecError, InvalidArgument
from trio_eventlog.machine.catalog import (
    ID_MAX,
    CatalogNode,
    CatalogSnapshot,
    CreateTopic,
    Partition,
    RaiseFeatureLevel,
    RegisterNode,
    SetReplicas,
    Topic,
)

FORMAT_VERSION = 1

T = TypeVar("T")

_VERSIONS = {PartKind.CATALOG: FORMAT_VERSION}
_KEYS = {"group_id": "group", "next_group_id": "next_group", "node_id": "node", "is_draining": "draining"}
"""Fields that are called differently in the snapshot."""
_FIELDS: dict[type, dict[str, str]] = {
    kind: {field.name: _KEYS.get(field.name, field.name) for field in attrs.fields(kind) if field.name != "applied_index"}
    for kind in (CatalogSnapshot, Topic, Partition, CatalogNode)
}
"""The fields of each class with their keys. The applied index is in the frame around the part."""
_OPTIONAL = {kind: {field.name for field in attrs.fields(kind) if field.default is None} for kind in _FIELDS}
"""Those that are None by default are left out while they are: a later release has added them."""


def encode_catalog(snapshot: CatalogSnapshot) -> bytes:
    """The bytes of the snapshot. Raises CodecError when there would be too many of them."""
    return encode_snapshot(snapshot.applied_index, [SnapshotPart(PartKind.CATALOG, FORMAT_VERSION, _encode_state(snapshot))])


def decode_catalog(data: bytes | memoryview) -> CatalogSnapshot:
    """The inverse. Raises NewerRelease and CodecError as `decode_snapshot`."""
    applied_index, parts = decode_snapshot(data, _VERSIONS)
    body = bytes(parts[PartKind.CATALOG].body)
    try:
        state = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"snapshot of a catalog: {error}") from error
    snapshot = _make(
        CatalogSnapshot,
        state,
        applied_index=applied_index,
        topics=lambda value: tuple(_make_topic(item) for item in _items(value)),
        nodes=lambda value: tuple(_make(CatalogNode, item) for item in _items(value)),
        removed=lambda value: tuple(_make(CatalogNode, item) for item in _items(value)),
    )
    try:
        _check(snapshot)
    except InvalidArgument as error:
        raise CodecError(f"snapshot of a catalog: {error}") from error
    if _encode_state(snapshot) != body:
        raise CodecError("snapshot of a catalog: the same state is encoded in another way")
    return snapshot


def _encode_state(snapshot: CatalogSnapshot) -> bytes:
    return json.dumps(_object(snapshot), separators=(",", ":"), sort_keys=True).encode()


def _object(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, tuple):
        return [_object(item) for item in value]
    keys = _FIELDS.get(type(value))
    if keys is None:
        return value
    return {key: _object(item) for name, key in keys.items() if (item := getattr(value, name)) is not None}


def _make(kind: type[T], fields: object, *, applied_index: int | None = None, **parts: Callable[[object], object]) -> T:
    """A value of `kind`; `parts` make those fields that are more than numbers, texts and tuples of them."""
    names = _FIELDS[kind]
    required = {key for name, key in names.items() if name not in _OPTIONAL[kind]}
    if not isinstance(fields, dict) or not required <= fields.keys() <= set(names.values()):
        raise CodecError(f"snapshot of a catalog: no {kind.__name__} with {', '.join(sorted(names.values()))}")
    values = {name: parts.get(name, _plain)(fields[key]) for name, key in names.items() if key in fields}
    if applied_index is not None:
        values["applied_index"] = applied_index
    return kind(**values)


def _make_topic(fields: object) -> Topic:
    return _make(Topic, fields, partitions=lambda value: tuple(_make(Partition, item) for item in _items(value)))


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise CodecError("snapshot of a catalog: something else than a list")
    return value


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _check(snapshot: CatalogSnapshot) -> None:
    """Raises InvalidArgument or CodecError when no commands lead to this state."""
    RaiseFeatureLevel(level=snapshot.feature_level)
    command_index = snapshot.command_index
    if type(command_index) is not int or not 0 <= command_index <= snapshot.applied_index:
        raise CodecError(f"snapshot of a catalog: entry {command_index!r} is no command up to entry {snapshot.applied_index}")
    next_group_id = snapshot.next_group_id
    if type(next_group_id) is not int or not 1 <= next_group_id <= ID_MAX + 1:
        raise CodecError(f"snapshot of a catalog: {next_group_id!r} is no group id")
    group_ids: list[int] = []
    for topic in snapshot.topics:
        _check_topic(topic)
        group_ids += [partition.group_id for partition in topic.partitions]
    node_ids: list[int] = []
    for node in (*snapshot.nodes, *snapshot.removed):
        RegisterNode(node_id=node.node_id, name=node.name)
        if not isinstance(node.is_draining, bool):
            raise CodecError(f"snapshot of a catalog: {node.is_draining!r} is neither true nor false")
        node_ids.append(node.node_id)
    for what, found in (("topic", [topic.name for topic in snapshot.topics]), ("group", group_ids), ("node", node_ids)):
        if len(set(found)) != len(found):
            raise CodecError(f"snapshot of a catalog: a {what} is in it twice")
    if group_ids and max(group_ids) >= next_group_id:
        raise CodecError(f"snapshot of a catalog: group {max(group_ids)} is not below {next_group_id}, which is to be the next one")


def _check_topic(topic: Topic) -> None:
    def create(partition_count: int, replicas: Any) -> None:
        CreateTopic(
            name=topic.name,
            partition_count=partition_count,
            replicas=replicas,
            replica_count=topic.replica_count,
            retention_bytes=topic.retention_bytes,
            retention_seconds=topic.retention_seconds,
            kind=topic.kind,
        )

    if not topic.partitions:
        raise CodecError(f"snapshot of a catalog: topic {topic.name!r} without partitions")
    create(len(topic.partitions), topic.partitions[0].first_voters)
    for partition in topic.partitions:
        create(1, partition.first_voters)
        SetReplicas(topic=topic.name, group_id=partition.group_id, replicas=partition.replicas, wanted=partition.wanted)
