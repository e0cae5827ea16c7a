"""The state machine of the catalog group: which topics there are, where their partitions live, and which nodes may carry them.

Commands are values; applying one gives a result or one of the errors a client may see. A refused command changes nothing,
and is refused alike on every replica.

A command checks its own fields when it is made: one that no replica could apply is never proposed. The bounds below are part of
the format of the log, since replicas check again what they decode: narrower ones would refuse what a former release has applied,
wider ones would accept what a former release refuses. Both need a new command, or a new `FEATURE_LEVEL`.
"""

import re
from collections.abc import Callable
from typing import Any

import attrs
from attrs.validators import optional

from trio_eventlog.errors import EventLogError, InvalidArgument, TopicExists, TopicNotFound, TopicRecreated
from trio_eventlog.ids import GroupId, NodeId, format_id
from trio_eventlog.machine.placement import place

TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
PARTITIONS_MAX = 1024
"""Of one topic: each partition is a Raft group with a log of its own."""
NODES_MAX = (1 << 16) - 1
"""Of one partition, and of the cluster: what the encoding of a Raft configuration can count."""
ID_MAX = (1 << 64) - 1
RETENTION_BYTES_MAX = (1 << 64) - 1
RETENTION_SECONDS_MAX = (1 << 63) - 1
NODE_NAME_BYTES_MAX = 4096
"""In UTF-8. Hellos carry less; this is what bounds a single node, which sends none."""

FEATURE_LEVEL = 2
"""The highest level that this release supports. A release that adds a kind of command, or of entry, takes the next one for it."""
FEATURE_LEVEL_MAX = (1 << 16) - 1
EVENTS = "events"
"""The kind of a topic whose records are events of aggregates."""

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _whole(lowest: int, highest: int) -> Validator:
    def check(command: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
        if type(value) is not int or not lowest <= value <= highest:
            raise InvalidArgument(f"{attribute.name} is {value!r}: it has to be a whole number from {lowest} to {highest}")

    return check


def _nodes(count_min: int) -> Validator:
    is_node = _whole(1, ID_MAX)

    def check(command: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
        if not isinstance(value, tuple) or not count_min <= len(value) <= NODES_MAX:
            raise InvalidArgument(f"{attribute.name} has to be a tuple of {count_min} to {NODES_MAX} node ids")
        for item in value:
            is_node(command, attribute, item)

    return check


def _is_kind(command: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if value is not None and value != EVENTS:
        raise InvalidArgument(f"{value!r} is no kind of topics: {EVENTS!r}, or none for plain records")


def _is_topic_name(command: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    check_topic_name(value)


def _is_node_name(command: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    try:
        is_right = isinstance(value, str) and len(value.encode()) <= NODE_NAME_BYTES_MAX
    except UnicodeEncodeError:
        is_right = False
    if not is_right:
        raise InvalidArgument(f"{attribute.name} has to be a text of at most {NODE_NAME_BYTES_MAX} bytes in UTF-8")


def check_topic_name(name: object) -> None:
    """Raises InvalidArgument for what no topic may be called."""
    if not isinstance(name, str) or not TOPIC_NAME.fullmatch(name) or name in {".", ".."}:
        shown = repr(name if not isinstance(name, str) or len(name) <= 200 else f"{name[:200]}...")
        raise InvalidArgument(f"{shown} is no topic name: use 1 to 200 letters, digits, '.', '_' or '-'")


@attrs.frozen(slots=True, kw_only=True)
class Partition:
    """One partition and where it lives.

    Attributes:
        group_id: of its Raft group.
        first_voters: what that group began with. Never changes: every replica, whenever it is opened, starts from it and finds
            the later configurations in the group's own log.
        replicas: the nodes that keep a replica open. While replicas move, those that come and those that go.
        wanted: the nodes that shall be the group's voters. Equal to `replicas` when nothing moves.
    """

    group_id: GroupId
    first_voters: tuple[NodeId, ...]
    replicas: tuple[NodeId, ...]
    wanted: tuple[NodeId, ...]

    @property
    def is_moving(self) -> bool:
        return self.replicas != self.wanted


@attrs.frozen(slots=True, kw_only=True)
class Topic:
    """Attributes: see CreateTopic. `partitions[n]` is partition n."""

    name: str
    replica_count: int
    retention_bytes: int
    retention_seconds: int
    partitions: tuple[Partition, ...]
    kind: str | None = None

    @property
    def holds_events(self) -> bool:
        return self.kind == EVENTS


def _events_are_kept(name: str) -> InvalidArgument:
    return InvalidArgument(
        f"topic {name!r} holds events, and events are kept for ever: versions and ids of removed ones would be given out again"
    )


@attrs.frozen(slots=True, kw_only=True)
class CreateTopic:
    """Create a topic.

    Attributes:
        partition_count: at least 1.
        replicas: the nodes to choose from, by `placement.place`; at least one.
        replica_count: the number of them that carry each partition; 0 means "every voter of the catalog", also of those to come.
        retention_bytes, retention_seconds: 0 means no limit; always so for events.
        kind: EVENTS; None: plain records. Never changes.
    """

    name: str = attrs.field(validator=_is_topic_name)
    partition_count: int = attrs.field(validator=_whole(1, PARTITIONS_MAX))
    replicas: tuple[NodeId, ...] = attrs.field(validator=_nodes(1))
    replica_count: int = attrs.field(default=0, validator=_whole(0, NODES_MAX))
    retention_bytes: int = attrs.field(default=0, validator=_whole(0, RETENTION_BYTES_MAX))
    retention_seconds: int = attrs.field(default=0, validator=_whole(0, RETENTION_SECONDS_MAX))
    kind: str | None = attrs.field(default=None, validator=_is_kind)


@attrs.frozen(slots=True, kw_only=True)
class AlterTopic:
    """Change settings of a topic. What is None stays as it is, and is not written to the log: another setting can be added later.

    The number of partitions is none of them: a record's partition follows from its key and that number, so another number would
    part a key's new records from its old ones.

    Attributes:
        group_id: of partition 0: the topic that is meant, and not another one of that name.
        retention_bytes, retention_seconds: 0 means no limit.
    """

    name: str = attrs.field(validator=_is_topic_name)
    group_id: GroupId = attrs.field(validator=_whole(1, ID_MAX))
    retention_bytes: int | None = attrs.field(default=None, validator=optional(_whole(0, RETENTION_BYTES_MAX)))
    retention_seconds: int | None = attrs.field(default=None, validator=optional(_whole(0, RETENTION_SECONDS_MAX)))


ALTERED = ("retention_bytes", "retention_seconds")
"""Fields of a `Topic` that AlterTopic may change."""


@attrs.frozen(slots=True, kw_only=True)
class DeleteTopic:
    """Delete a topic and its records."""

    name: str = attrs.field(validator=_is_topic_name)


@attrs.frozen(slots=True, kw_only=True)
class SetReplicas:
    """Say where a partition lives from now on; see `Partition` for the two sets.

    A move begins by adding the nodes that come to `replicas`, and ends by taking those away that the group no longer has.
    Invariant: `wanted` is not empty and among `replicas`.
    """

    topic: str = attrs.field(validator=_is_topic_name)
    group_id: GroupId = attrs.field(validator=_whole(1, ID_MAX))
    replicas: tuple[NodeId, ...] = attrs.field(validator=_nodes(1))
    wanted: tuple[NodeId, ...] = attrs.field(validator=_nodes(1))

    def __attrs_post_init__(self) -> None:
        if not set(self.wanted) <= set(self.replicas):
            raise InvalidArgument(f"group {format_id(self.group_id)}: the wanted replicas are not among all of them")


@attrs.frozen(slots=True, kw_only=True)
class RegisterNode:
    """A node has shown that it is there to stay: it may carry partitions. Again: its name is another one now."""

    node_id: NodeId = attrs.field(validator=_whole(1, ID_MAX))
    name: str = attrs.field(validator=_is_node_name)


@attrs.frozen(slots=True, kw_only=True)
class DrainNode:
    """A node is to go: its replicas move off, then it is removed."""

    node_id: NodeId = attrs.field(validator=_whole(1, ID_MAX))


@attrs.frozen(slots=True, kw_only=True)
class RemoveNode:
    """A node is removed for ever. Other nodes refuse it; its id is never used again."""

    node_id: NodeId = attrs.field(validator=_whole(1, ID_MAX))


@attrs.frozen(slots=True, kw_only=True)
class RaiseFeatureLevel:
    """Every node supports this level: what belongs to it may be proposed from here on. It never falls.

    A node that does not support it (it was away, or went back to an older release) stops applying here, and reports why.
    """

    level: int = attrs.field(validator=_whole(1, FEATURE_LEVEL_MAX))


@attrs.frozen(slots=True, kw_only=True)
class CatalogNode:
    """A node as the catalog knows it."""

    node_id: NodeId
    name: str = ""
    is_draining: bool = False


@attrs.frozen(slots=True)
class FeatureLevel:
    """What the cluster speaks."""

    level: int


@attrs.frozen(slots=True)
class Place:
    """Which partition a group is: partition `number` of the topic."""

    topic: str
    number: int


@attrs.frozen(slots=True, kw_only=True)
class CatalogSnapshot:
    """A `CatalogMachine` as a value. Attributes: as of the machine; topics and nodes in its order."""

    applied_index: int
    command_index: int
    feature_level: int
    next_group_id: GroupId
    topics: tuple[Topic, ...]
    nodes: tuple[CatalogNode, ...]
    removed: tuple[CatalogNode, ...]


Command = CreateTopic | AlterTopic | DeleteTopic | SetReplicas | RegisterNode | DrainNode | RemoveNode | RaiseFeatureLevel
Result = Topic | CatalogNode | FeatureLevel
Outcome = Result | EventLogError


class CatalogMachine:
    """The state that every replica of the catalog has at an applied index. A `Machine`.

    Attributes:
        applied_index: index of the last applied entry.
        command_index: index of the last command, refused ones included; 0 before the first.
        topics: by name, in the order of creation.
        place_of: by group, the partition that it is. Follows from `topics`.
        next_group_id: id of the next partition's group; never reused.
        nodes: those that may carry partitions, and those that are being drained.
        removed: the tombstones. They only grow: an id is 8 bytes and a cluster loses a node now and then.
        feature_level: commands and entries of a higher one are not proposed. Never falls.
    """

    def __init__(self) -> None:
        self.applied_index = 0
        self.command_index = 0
        self.topics: dict[str, Topic] = {}
        self.place_of: dict[GroupId, Place] = {}
        self.next_group_id = GroupId(1)
        self.nodes: dict[NodeId, CatalogNode] = {}
        self.removed: dict[NodeId, CatalogNode] = {}
        self.feature_level = 1

    def apply(self, index: int, command: Command) -> Outcome:
        """The result, or the error that the proposer is to see. Never raises for what a client may send."""
        self.skip(index)
        self.command_index = index
        try:
            match command:
                case CreateTopic():
                    return self._create(command)
                case AlterTopic():
                    return self._alter(command)
                case DeleteTopic():
                    return self._delete(command)
                case SetReplicas():
                    return self._set_replicas(command)
                case RegisterNode():
                    return self._register(command)
                case DrainNode():
                    return self._drain(command)
                case RemoveNode():
                    return self._remove(command)
                case RaiseFeatureLevel():
                    self.feature_level = max(self.feature_level, command.level)
                    return FeatureLevel(self.feature_level)
        except EventLogError as error:
            return error

    def skip(self, index: int) -> None:
        """An entry that is no command: no-op or configuration."""
        assert index == self.applied_index + 1, "entries are applied in order, each once"
        self.applied_index = index

    def snapshot(self) -> CatalogSnapshot:
        return CatalogSnapshot(
            applied_index=self.applied_index,
            command_index=self.command_index,
            feature_level=self.feature_level,
            next_group_id=self.next_group_id,
            topics=tuple(self.topics.values()),
            nodes=tuple(self.nodes.values()),
            removed=tuple(self.removed.values()),
        )

    def restore(self, snapshot: CatalogSnapshot) -> None:
        """Take the state of `snapshot`, whatever was applied before."""
        self.applied_index = snapshot.applied_index
        self.command_index = snapshot.command_index
        self.feature_level = snapshot.feature_level
        self.next_group_id = snapshot.next_group_id
        self.nodes = {node.node_id: node for node in snapshot.nodes}
        self.removed = {node.node_id: node for node in snapshot.removed}
        self.topics = {}
        self.place_of = {}
        for topic in snapshot.topics:
            self._add_topic(topic)

    def find_partition(self, group_id: GroupId) -> Partition | None:
        """The partition that the group is; None for a group of no topic."""
        place = self.place_of.get(group_id)
        return self.topics[place.topic].partitions[place.number] if place is not None else None

    def topic_of(self, group_id: GroupId) -> Topic | None:
        """The topic that the group is a partition of; None for a group of no topic."""
        place = self.place_of.get(group_id)
        return self.topics[place.topic] if place is not None else None

    def _add_topic(self, topic: Topic) -> None:
        self.topics[topic.name] = topic
        for number, partition in enumerate(topic.partitions):
            self.place_of[partition.group_id] = Place(topic.name, number)

    def _create(self, command: CreateTopic) -> Topic:
        if command.name in self.topics:
            raise TopicExists(f"topic {command.name!r} exists already; use it, or choose another name")
        if command.kind == EVENTS and (command.retention_bytes or command.retention_seconds):
            raise _events_are_kept(command.name)
        first = self.next_group_id
        self.next_group_id = GroupId(first + command.partition_count)
        topic = Topic(
            name=command.name,
            replica_count=command.replica_count,
            retention_bytes=command.retention_bytes,
            retention_seconds=command.retention_seconds,
            partitions=tuple(self._new_partition(GroupId(first + number), command) for number in range(command.partition_count)),
            kind=command.kind,
        )
        self._add_topic(topic)
        return topic

    def _new_partition(self, group_id: GroupId, command: CreateTopic) -> Partition:
        replicas = place(group_id, command.replicas, command.replica_count)
        return Partition(group_id=group_id, first_voters=replicas, replicas=replicas, wanted=replicas)

    def _alter(self, command: AlterTopic) -> Topic:
        topic = self.topics.get(command.name)
        if topic is None:
            raise TopicNotFound(f"there is no topic {command.name!r} to alter", self.applied_index)
        if topic.partitions[0].group_id != command.group_id:
            raise TopicRecreated(
                f"topic {command.name!r} was deleted and created again: what was to change belonged to the old one",
                self.applied_index,
            )
        changes = {name: value for name in ALTERED if (value := getattr(command, name)) is not None}
        if topic.holds_events and any(changes.values()):
            raise _events_are_kept(command.name)
        self.topics[topic.name] = topic = attrs.evolve(topic, **changes)
        return topic

    def _delete(self, command: DeleteTopic) -> Topic:
        topic = self.topics.pop(command.name, None)
        if topic is None:
            raise TopicNotFound(f"there is no topic {command.name!r} to delete")
        for partition in topic.partitions:
            del self.place_of[partition.group_id]
        return topic

    def _set_replicas(self, command: SetReplicas) -> Topic:
        topic = self.topics.get(command.topic)
        place = self.place_of.get(command.group_id)
        if topic is None or place is None or place.topic != command.topic:
            raise TopicNotFound(f"topic {command.topic!r} has no group {format_id(command.group_id)} whose replicas could move")
        gone = self.removed.keys() & set(command.wanted)
        if gone:
            raise InvalidArgument(f"node {format_id(min(gone))} was removed: it cannot carry a replica")
        partitions = list(topic.partitions)
        partitions[place.number] = attrs.evolve(partitions[place.number], replicas=command.replicas, wanted=command.wanted)
        self.topics[topic.name] = topic = attrs.evolve(topic, partitions=tuple(partitions))
        return topic

    def _register(self, command: RegisterNode) -> CatalogNode:
        self._check_not_removed(command.node_id)
        node = attrs.evolve(self.nodes.get(command.node_id) or CatalogNode(node_id=command.node_id), name=command.name)
        self.nodes[command.node_id] = node
        return node

    def _drain(self, command: DrainNode) -> CatalogNode:
        self._check_not_removed(command.node_id)
        node = attrs.evolve(self.nodes.get(command.node_id) or CatalogNode(node_id=command.node_id), is_draining=True)
        self.nodes[command.node_id] = node
        return node

    def _remove(self, command: RemoveNode) -> CatalogNode:
        self._check_not_removed(command.node_id)
        node = self.nodes.pop(command.node_id, None) or CatalogNode(node_id=command.node_id)
        self.removed[command.node_id] = node
        return node

    def _check_not_removed(self, node_id: NodeId) -> None:
        if node_id in self.removed:
            raise InvalidArgument(f"node {format_id(node_id)} was removed already, for ever")
