"""Groups that live on other nodes only, as far as a call has to know them to be carried there."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import trio

from trio_eventlog.errors import EventLogError, NotLeader
from trio_eventlog.ids import NOBODY, GroupId, NodeId


def not_here(name: str, leader_id: NodeId) -> NotLeader:
    """The refusal of a call for a group that lives on other nodes only; `leader_id` is where to go."""
    return NotLeader(f"{name} does not live on this node: go to another one", leader_id)


class Elsewhere:
    """Stands in for a `Replica` where a call looks for the group's leader: a guess, corrected by what the nodes answer.

    Args:
        name: for people.
        nodes: the other nodes that carry the group now, by the catalog.
        why_unopened: the refusal of calls when no other node carries the group and this one cannot open it; None otherwise.
    """

    is_leader = False

    def __init__(
        self,
        group_id: GroupId,
        name: str,
        nodes: Callable[[], Sequence[NodeId]],
        why_unopened: Callable[[], EventLogError | None] = lambda: None,
    ) -> None:
        self.group_id = group_id
        self.name = name
        self.nodes = nodes
        self.why_unopened = why_unopened
        self._hint = NOBODY
        self._turn = 0

    @property
    def leader_id(self) -> NodeId:
        """Whom to ask: the leader as the last answer had it, else the replicas in turn."""
        nodes = self.nodes()
        if self._hint != NOBODY or not nodes:
            return self._hint
        return nodes[self._turn % len(nodes)]

    @property
    def known_leader_id(self) -> NodeId:
        """NOBODY when it is a guess only."""
        return self._hint

    def worked(self, node_id: NodeId) -> None:
        """The node answered as the leader."""
        self._hint = node_id

    def correct(self, error: EventLogError) -> None:
        """The node asked last was not the right one."""
        asked = self._hint
        self._hint = NodeId(error.leader_id) if isinstance(error, NotLeader) else NOBODY
        if self._hint in (NOBODY, asked):
            self._hint = NOBODY
            self._turn += 1

    def refusal(self) -> NotLeader:
        """Of a call that another node has carried here already."""
        return not_here(self.name, self.leader_id)

    async def wait_leader_other_than(self, node_id: NodeId) -> NodeId:
        """Nobody tells: whoever waits gives up after a while and asks again.

        Another guess is no leader. It too is worth its wait, or nodes none of which can be reached would be asked without a pause.
        """
        if self._hint in (NOBODY, node_id):
            await trio.sleep_forever()
        return self._hint

    def while_led_by(self, node_id: NodeId, scope: trio.CancelScope) -> AbstractContextManager[None]:
        return nullcontext()
