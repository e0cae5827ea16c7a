"""Room for partitions: how many each node may carry, and how many it does."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from trio_eventlog.errors import TooManyPartitions
from trio_eventlog.ids import GroupId, NodeId, format_id
from trio_eventlog.machine.catalog import CatalogMachine, CreateTopic
from trio_eventlog.machine.placement import place


class PartitionRoom:
    """Looked at before a topic is created; only the leader of the catalog does that.

    Args:
        machine: the catalog as this node has applied it.
        partitions_max: number of partitions that this node has room for.

    Attributes:
        partitions_max: of other nodes, the number of partitions that they have room for, as far as they have reported it.
    """

    def __init__(self, node_id: NodeId, machine: CatalogMachine, partitions_max: int) -> None:
        self.partitions_max: dict[NodeId, int] = {}
        self._node_id = node_id
        self._machine = machine
        self._own_partitions_max = partitions_max
        self._creating: list[CreateTopic] = []
        """Topics that this node has proposed to create, and not heard of yet."""

    @contextmanager
    def held_for(self, command: CreateTopic) -> Iterator[None]:
        """Holds room for the topic's partitions, on every node that is to carry some, while the command is on its way.

        A node that has not reported how many partitions it has room for is taken to have as much as this one.

        Raises:
            TooManyPartitions: a node has no room for its part. (One that is over its limit all the same, since a command was
            applied after its caller was gone, or replicas have moved, carries the rest degraded.)
        """
        if command.name in self._machine.topics:
            yield  # refused when it is applied, or made already by an earlier attempt of the same call
            return
        first = self._machine.next_group_id + sum(item.partition_count for item in self._creating)
        carried = self._partitions_by_node()
        wanted = Counter(
            node_id
            for number in range(command.partition_count)
            for node_id in place(GroupId(first + number), command.replicas, command.replica_count)
        )
        for node_id, count in sorted(wanted.items()):
            room = self._room_of(node_id)
            if carried[node_id] + count > room:
                raise TooManyPartitions(
                    f"topic {command.name!r} would put {count} more partitions on node {format_id(node_id)}, which carries"
                    f" {carried[node_id]} and has room for {room}: ask for fewer partitions or replicas, delete topics, or raise"
                    " the limit of open files of the nodes (`ulimit -n`, LimitNOFILE=)"
                )
        self._creating.append(command)
        try:
            yield
        finally:
            self._creating.remove(command)

    def _room_of(self, node_id: NodeId) -> int:
        if node_id == self._node_id:
            return self._own_partitions_max
        return self.partitions_max.get(node_id, self._own_partitions_max)

    def _partitions_by_node(self) -> Counter[NodeId]:
        """How many partitions each node carries, those that are being created included."""
        carried = Counter(
            node_id for topic in self._machine.topics.values() for partition in topic.partitions for node_id in partition.replicas
        )
        group_id = self._machine.next_group_id
        for other in self._creating:
            for _ in range(other.partition_count):
                carried.update(place(group_id, other.replicas, other.replica_count))
                group_id = GroupId(group_id + 1)
        return carried
