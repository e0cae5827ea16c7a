"""Groups that live on other nodes only, as far as a call has to know them to be forwarded there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from trio_eventlog.errors import EventLogError, NotLeader, Unavailable
from trio_eventlog.ids import NOBODY, GroupId, NodeId


def not_here(name: str, leader_id: NodeId) -> NotLeader:
    """The error of a call for a group that lives on other nodes only; `leader_id` is where to go."""
    return NotLeader(f"{name} does not live on this node: go to another one", leader_id)


class RemoteGroup:
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
        self._lost = NOBODY
        """A node that went away or fell silent while it led: hints that point to it are older than that."""
        self._attempts: dict[trio.CancelScope, tuple[NodeId, float]] = {}
        """Calls on their way to the leader: whom they were given to, and when."""
        self._waiters = 0
        self._changed = trio.Event()
        self._sought = trio.Event()
        self._looked_at = float("-inf")
        self._unused_since = float("-inf")

    @property
    def leader_id(self) -> NodeId:
        """Whom to ask: the leader as the last answer had it, else the replicas in turn; NOBODY when there is none."""
        nodes = self.nodes()
        if self._hint != NOBODY or not nodes:
            return self._hint
        return nodes[self._turn % len(nodes)]

    @property
    def is_sought(self) -> bool:
        """Whether there are calls, and no leader is known that they could go to."""
        return self._hint == NOBODY and bool(self._waiters or self._attempts)

    @property
    def known_leader_id(self) -> NodeId:
        """The leader, if an answer has named it; NOBODY when there is only a guess."""
        return self._hint

    def worked(self, node_id: NodeId) -> None:
        """The node answered as the leader."""
        if node_id != self._hint:
            self.found(node_id)

    def found(self, node_id: NodeId) -> None:
        """The node says that it leads: calls that wait go there, and those that another node has not answered yet."""
        self._lost = NOBODY
        for scope, (asked, _) in self._attempts.items():
            if asked != node_id:
                scope.cancel()
        self._point_to(node_id)

    def correct(self, error: EventLogError, asked: NodeId) -> None:
        """The node `asked` was not the right one."""
        if asked != self.leader_id:
            return  # Another call has learned more since then.
        hint = NodeId(error.leader_id) if isinstance(error, NotLeader) else NOBODY
        if isinstance(error, Unavailable):
            self._lost = asked
        if hint not in (NOBODY, asked, self._lost):
            self._point_to(hint)
            return
        self._hint = NOBODY
        self._turn += 1
        if self.leader_id == self._lost:
            self._turn += 1

    def _point_to(self, node_id: NodeId) -> None:
        self._hint = node_id
        self._changed.set()
        self._changed = trio.Event()

    def refusal(self) -> NotLeader:
        """The error of a call that another node has forwarded here already."""
        return not_here(self.name, self.leader_id)

    async def wait_leader_other_than(self, node_id: NodeId) -> NodeId:
        """Until an answer has named a leader other than `node_id`. Meanwhile `wait_sought` says that one is sought.

        A guess in turn is no leader: nodes none of which can be reached would be asked without a pause.
        """
        while self._hint in (NOBODY, node_id):
            self._waiters += 1
            self._sought.set()
            try:
                await self._changed.wait()
            finally:
                self._waiters -= 1
        return self._hint

    @contextmanager
    def while_led_by(self, node_id: NodeId, scope: trio.CancelScope) -> Iterator[None]:
        """A block within which `scope` is cancelled when another node than `node_id` is found to lead."""
        self._attempts[scope] = (node_id, trio.current_time())
        try:
            yield
        finally:
            del self._attempts[scope]
            self._unused_since = trio.current_time()

    async def wait_sought(self, patience_seconds: float) -> bool:
        """Return once the nodes should be asked which of them leads. False: no caller has needed that for `patience_seconds`.

        That is as soon as a call waits for a leader, and once in `patience_seconds` while one has had no answer for as long.
        """
        while True:
            if self._hint == NOBODY and self._waiters:
                return True
            due_at = self._unused_since + patience_seconds
            if self._attempts:
                oldest = min(begun_at for _, begun_at in self._attempts.values())
                due_at = max(oldest, self._looked_at) + patience_seconds
            if trio.current_time() >= due_at:
                self._looked_at = trio.current_time()
                return bool(self._attempts)
            self._sought = trio.Event()
            with trio.move_on_at(due_at):
                await self._sought.wait()
