"""The state machine of the catalog group: which topics there are and where their partitions live.

Commands are values; applying one gives a result or one of the errors a client may see. A refused command changes nothing,
and is refused alike on every replica.
"""

import re

import attrs

from trio_eventlog.errors import EventLogError, InvalidArgument, TopicExists, TopicNotFound
from trio_eventlog.ids import GroupId, NodeId

TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
PARTITIONS_MAX = 1024
"""Of one topic: each partition is a Raft group with a log of its own."""


@attrs.frozen(slots=True, kw_only=True)
class Partition:
    """One partition: its Raft group and the first voters of that group."""

    group_id: GroupId
    replicas: tuple[NodeId, ...]


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
        replicas: the nodes that carry every partition.
        replica_count: what was asked for; 0 means "every voter".
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


Command = CreateTopic | DeleteTopic
Outcome = Topic | EventLogError


class CatalogMachine:
    """Attributes:
    applied_index: index of the last applied entry.
    topics: by name, in the order of creation.
    next_group_id: what the next partition's group is called; never reused.
    """

    def __init__(self) -> None:
        self.applied_index = 0
        self.topics: dict[str, Topic] = {}
        self.next_group_id = GroupId(1)

    def apply(self, index: int, command: Command) -> Outcome:
        """The result, or the error that the proposer is to see. Never raises for what a client may send."""
        self.skip(index)
        try:
            match command:
                case CreateTopic():
                    return self._create(command)
                case DeleteTopic():
                    return self._delete(command)
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
            partitions=tuple(
                Partition(group_id=GroupId(first + number), replicas=command.replicas) for number in range(command.partition_count)
            ),
        )
        self.topics[topic.name] = topic
        return topic

    def _delete(self, command: DeleteTopic) -> Topic:
        topic = self.topics.pop(command.name, None)
        if topic is None:
            raise TopicNotFound(f"there is no topic {command.name!r} to delete")
        return topic


def check_topic(name: str, partition_count: int) -> None:
    """Raises InvalidArgument for a name or a count that no topic may have."""
    if not TOPIC_NAME.fullmatch(name) or name in {".", ".."}:
        raise InvalidArgument(f"{name!r} is no topic name: use 1 to 200 letters, digits, '.', '_' or '-'")
    if not 1 <= partition_count <= PARTITIONS_MAX:
        raise InvalidArgument(f"a topic has 1 to {PARTITIONS_MAX} partitions, not {partition_count}")
