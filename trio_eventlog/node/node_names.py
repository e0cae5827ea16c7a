"""Nodes and steps in log lines and refusals: by name and id."""

from collections.abc import Callable, Mapping

from trio_eventlog.ids import NodeId, format_id
from trio_eventlog.machine.catalog import SetReplicas
from trio_eventlog.net.discovery import Member
from trio_eventlog.node.membership import (
    AddLearner,
    AddTombstone,
    Demote,
    HandOver,
    Promote,
    Register,
    RemoveMember,
    Step,
)
from trio_eventlog.node.replicas import Replicas
from trio_eventlog.raft import ConfigurationChange

_VERBS: dict[type, str] = {
    AddLearner: "add as learner",
    Promote: "promote to voter",
    Demote: "demote to learner",
    RemoveMember: "remove from the configuration",
    HandOver: "transfer leadership to",
    Register: "register",
    AddTombstone: "remove for ever",
}


class NodeNames:
    """The names that discovery and the catalog have for nodes."""

    def __init__(self, node_id: NodeId, name: str, members: Callable[[], Mapping[NodeId, Member]], replicas: Replicas) -> None:
        self._node_id = node_id
        self._name = name
        self._members = members
        self._replicas = replicas

    def name_of(self, node_id: NodeId) -> str:
        """The latest name; "" when none is known."""
        if node_id == self._node_id:
            return self._name
        member = self._members().get(node_id)
        machine = self._replicas.machine
        named = machine.nodes.get(node_id) or machine.removed.get(node_id)
        return member.name if member else named.name if named else ""

    def shown(self, node_id: NodeId) -> str:
        """ "n1 (5579e6674bdcc564)", or the id alone."""
        name = self.name_of(node_id)
        return f"{name} ({format_id(node_id)})" if name else format_id(node_id)

    def shown_step(self, step: Step | ConfigurationChange) -> str:
        """A step as a log line has it."""
        match step:
            case ConfigurationChange(changes=changes):
                return ", ".join(f"{change.kind.name.lower().replace('_', ' ')} {self.shown(change.node)}" for change in changes)
            case SetReplicas(topic=topic, replicas=replicas, wanted=wanted):
                goes = ", ".join(map(self.shown, sorted(set(replicas) - set(wanted))))
                return f"{topic}: replicas on {', '.join(map(self.shown, wanted))}" + (f"; leaving {goes}" if goes else "")
        return f"{_VERBS[type(step)]} {self.shown(step.node_id)}"
