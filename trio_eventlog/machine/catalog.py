"""The state machine of the catalog group: which topics there are, where their partitions live, and which nodes may carry them.

Commands are values; applying one gives a result or one of the errors a client may see. A refused command changes nothing,
and is refused alike on every replica.
"""

import re

import attrs

from trio_eventlog.errors import EventLogError, InvalidArgument, TopicExists, TopicNotFound
from trio_eventlog.ids import NOBODY, GroupId, NodeId, format_id
from trio_eventlog.machine.placement import place

TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
PARTITIONS_MAX = 1024
"""Of one topic: each partition is a Raft group with a log of its own."""


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


@attrs.frozen(slots=True, kw_only=True)
class CreateTopic:
    """Create a topic.

    Attributes:
        partition_count: at least 1.
        replicas: the nodes to choose from, by `placement.place`.
        replica_count: how many of them carry each partition; 0 means "every voter of the catalog", also of those to come.
        retention_bytes, retention_seconds: 0 means no limit.
    """

    name: str
    partition_count: int
    replicas: tuple[NodeId, ...]
    replica_count: int = 0
    retention_bytes: int = 0
    retention_seconds: int = 0


@attrs.frozen(slots=True, kw_only=True)
class DeleteTopic:
    """Delete a topic and its records."""

    name: str


@attrs.frozen(slots=True, kw_only=True)
class SetReplicas:
    """Say where a partition lives from now on; see `Partition` for the two sets.

    A move begins by adding the nodes that come to `replicas`, and ends by taking those away that the group no longer has.
    """

    topic: str
    group_id: GroupId
    replicas: tuple[NodeId, ...]
    wanted: tuple[NodeId, ...]


@attrs.frozen(slots=True, kw_only=True)
class RegisterNode:
    """A node has shown that it is there to stay: it may carry partitions. Again: its name is another one now."""

    node_id: NodeId
    name: str


@attrs.frozen(slots=True, kw_only=True)
class DrainNode:
    """A node is to go: its replicas move off, then it is removed."""

    node_id: NodeId


@attrs.frozen(slots=True, kw_only=True)
class RemoveNode:
    """A node is gone for ever. Nobody talks to it any more; its id never comes back."""

    node_id: NodeId


@attrs.frozen(slots=True, kw_only=True)
class CatalogNode:
    """A node as the catalog knows it."""

    node_id: NodeId
    name: str = ""
    is_draining: bool = False


Command = CreateTopic | DeleteTopic | SetReplicas | RegisterNode | DrainNode | RemoveNode
Result = Topic | CatalogNode
Outcome = Result | EventLogError


class CatalogMachine:
    """Attributes:
    applied_index: index of the last applied entry.
    topics: by name, in the order of creation.
    next_group_id: what the next partition's group is called; never reused.
    nodes: those that may carry partitions, and those that are being drained.
    removed: the tombstones. They only grow: an id is 8 bytes and a cluster loses a node now and then.
    """

    def __init__(self) -> None:
        self.applied_index = 0
        self.topics: dict[str, Topic] = {}
        self.next_group_id = GroupId(1)
        self.nodes: dict[NodeId, CatalogNode] = {}
        self.removed: dict[NodeId, CatalogNode] = {}

    def apply(self, index: int, command: Command) -> Outcome:
        """The result, or the error that the proposer is to see. Never raises for what a client may send."""
        self.skip(index)
        try:
            match command:
                case CreateTopic():
                    return self._create(command)
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
        except EventLogError as error:
            return error

    def skip(self, index: int) -> None:
        """An entry that is no command: no-op or configuration."""
        assert index == self.applied_index + 1, "entries are applied in order, each once"
        self.applied_index = index

    def _create(self, command: CreateTopic) -> Topic:
        check_topic(command.name, command.partition_count)
        if command.name in self.topics:
            raise TopicExists(f"topic {command.name!r} exists already; use it, or choose another name")
        if not command.replicas:
            raise InvalidArgument(f"topic {command.name!r} has no node to live on")
        first = self.next_group_id
        self.next_group_id = GroupId(first + command.partition_count)
        topic = Topic(
            name=command.name,
            replica_count=command.replica_count,
            retention_bytes=command.retention_bytes,
            retention_seconds=command.retention_seconds,
            partitions=tuple(self._new_partition(GroupId(first + number), command) for number in range(command.partition_count)),
        )
        self.topics[topic.name] = topic
        return topic

    def _new_partition(self, group_id: GroupId, command: CreateTopic) -> Partition:
        replicas = place(group_id, command.replicas, command.replica_count)
        return Partition(group_id=group_id, first_voters=replicas, replicas=replicas, wanted=replicas)

    def _delete(self, command: DeleteTopic) -> Topic:
        topic = self.topics.pop(command.name, None)
        if topic is None:
            raise TopicNotFound(f"there is no topic {command.name!r} to delete")
        return topic

    def _set_replicas(self, command: SetReplicas) -> Topic:
        topic = self.topics.get(command.topic)
        known = [partition.group_id for partition in topic.partitions] if topic is not None else []
        if topic is None or command.group_id not in known:
            raise TopicNotFound(f"topic {command.topic!r} has no group {format_id(command.group_id)} whose replicas could move")
        if not command.wanted or not set(command.wanted) <= set(command.replicas):
            raise InvalidArgument(f"group {format_id(command.group_id)}: the wanted replicas are none, or not among all of them")
        gone = self.removed.keys() & set(command.wanted)
        if gone:
            raise InvalidArgument(f"node {format_id(min(gone))} was removed: it cannot carry a replica")
        partitions = list(topic.partitions)
        number = known.index(command.group_id)
        partitions[number] = attrs.evolve(partitions[number], replicas=command.replicas, wanted=command.wanted)
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
        if node_id == NOBODY:
            raise InvalidArgument("0 is no node's id")
        if node_id in self.removed:
            raise InvalidArgument(f"node {format_id(node_id)} was removed already, for ever")


def check_topic(name: str, partition_count: int) -> None:
    """Raises InvalidArgument for a name or a count that no topic may have."""
    if not TOPIC_NAME.fullmatch(name) or name in {".", ".."}:
        raise InvalidArgument(f"{name!r} is no topic name: use 1 to 200 letters, digits, '.', '_' or '-'")
    if not 1 <= partition_count <= PARTITIONS_MAX:
        raise InvalidArgument(f"a topic has 1 to {PARTITIONS_MAX} partitions, not {partition_count}")
