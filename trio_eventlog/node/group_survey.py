"""Which groups of this node need attention. There may be thousands, and usually none of them has changed since the last round."""

from collections.abc import Sequence

import attrs

from trio_eventlog.ids import NOBODY, GroupId, NodeId
from trio_eventlog.machine.catalog import Partition, Topic
from trio_eventlog.node.membership import leaving, preferred_leaders
from trio_eventlog.node.replica import Replica
from trio_eventlog.node.replicas import Replicas
from trio_eventlog.raft import Configuration


@attrs.frozen(slots=True, kw_only=True)
class Survey:
    """What follows from the catalog, and from the role and configuration of each group of this node.

    Attributes:
        state: of the catalog and the groups, when this was worked out.
        unsettled: partitions that this node leads and whose members are not those wanted, with the nodes wanted, and the node
            that should lead (NOBODY: none).
        misplaced: the other partitions that this node leads although another node should, with that node.
        nodes: members of any group.
        is_moving: some partition of the catalog is moving to other nodes.
    """

    state: tuple[int, tuple[int, int]]
    unsettled: Sequence[tuple[Replica, Sequence[NodeId], NodeId]]
    misplaced: Sequence[tuple[Replica, NodeId]]
    nodes: frozenset[NodeId]
    is_moving: bool


class GroupSurvey:
    """Goes through all groups when one of them, or the catalog, has changed, and remembers what it found."""

    def __init__(self, node_id: NodeId, replicas: Replicas) -> None:
        self._node_id = node_id
        self._replicas = replicas
        self._latest: Survey | None = None
        self._preferred: dict[str, tuple[Topic, frozenset[NodeId], dict[GroupId, NodeId]]] = {}
        """By topic, with the values that it was worked out from."""

    def get(self) -> Survey:
        """The survey as of now."""
        state = self._replicas.machine.applied_index, self._replicas.state_changes
        if self._latest is None or self._latest.state != state:
            self._latest = self._survey(state)
        return self._latest

    def _survey(self, state: tuple[int, tuple[int, int]]) -> Survey:
        unsettled: list[tuple[Replica, Sequence[NodeId], NodeId]] = []
        misplaced: list[tuple[Replica, NodeId]] = []
        is_moving = False
        for topic in self._replicas.machine.topics.values():
            topic_is_moving = any(partition.is_moving for partition in topic.partitions)
            is_moving = is_moving or topic_is_moving
            for partition, replica in self._led(topic):
                preferred = self._preferred_leaders(topic).get(partition.group_id, NOBODY)
                if not _is_settled(replica.configuration, partition.wanted):
                    unsettled.append((replica, partition.wanted, preferred))
                elif preferred not in (self._node_id, NOBODY) and not topic_is_moving:
                    misplaced.append((replica, preferred))
        nodes = frozenset(node_id for replica in self._replicas.all() for node_id in replica.configuration.nodes)
        return Survey(state=state, unsettled=unsettled, misplaced=misplaced, nodes=nodes, is_moving=is_moving)

    def _preferred_leaders(self, topic: Topic) -> dict[GroupId, NodeId]:
        """As `membership.preferred_leaders`, worked out again only when the topic, or the set of leaving nodes, has changed."""
        machine = self._replicas.machine
        now_leaving = leaving(machine.nodes.values(), machine.removed)
        known = self._preferred.get(topic.name)
        if known is None or known[0] is not topic or known[1] != now_leaving:
            self._preferred = {name: item for name, item in self._preferred.items() if name in machine.topics}
            known = self._preferred[topic.name] = (topic, now_leaving, preferred_leaders(topic, now_leaving))
        return known[2]

    def _led(self, topic: Topic) -> list[tuple[Partition, Replica]]:
        """The topic's partitions that this node leads."""
        found = ((partition, self._replicas.find(partition.group_id)) for partition in topic.partitions)
        return [(partition, replica) for partition, replica in found if replica is not None and replica.is_leader]


def _is_settled(configuration: Configuration, wanted: Sequence[NodeId]) -> bool:
    """The group's voters are those that the catalog wants, and it has no other members."""
    return not configuration.is_joint and not configuration.learners and configuration.voters == frozenset(wanted)
