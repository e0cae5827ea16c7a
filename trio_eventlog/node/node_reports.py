"""What nodes report of themselves and of their groups."""

from collections.abc import Mapping

import attrs

from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.node.replica import Replica
from trio_eventlog.raft import Role


@attrs.frozen(slots=True, kw_only=True)
class GroupReport:
    """A group as one of its nodes sees it: what that node has applied."""

    group_id: GroupId
    role: Role
    term: int
    applied_index: int
    voters: frozenset[NodeId]
    learners: frozenset[NodeId] = frozenset()
    is_joint: bool = False


@attrs.frozen(slots=True, kw_only=True)
class NodeReport:
    """The answer of a node to a status request.

    Attributes:
        groups: the catalog always, the partitions when they were asked for.
        peers: addresses of other nodes that it knows.
        partitions_max: number of partitions that it has room for; 0: not reported.
        feature_level: the highest that it supports; 0: its release has no feature levels.
    """

    groups: Mapping[GroupId, GroupReport]
    peers: Mapping[NodeId, str] = attrs.field(factory=dict)
    partitions_max: int = 0
    feature_level: int = 0


def report_on(replica: Replica) -> GroupReport:
    """The report of this node on one of its groups."""
    core = replica.core
    configuration = core.configuration
    return GroupReport(
        group_id=replica.group_id,
        role=core.role,
        term=core.term,
        applied_index=core.applied_index,
        voters=configuration.voters,
        learners=configuration.learners,
        is_joint=configuration.is_joint,
    )
