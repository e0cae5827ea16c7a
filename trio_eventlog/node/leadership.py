"""Who leads a group, for the tasks that wait to hear it."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

from trio_eventlog.errors import EventLogError, NotLeader
from trio_eventlog.ids import NOBODY, NodeId, format_id
from trio_eventlog.raft import Configuration, Role, Status
from trio_eventlog.raft.progress import ProgressState


class CoreView(Protocol):
    """What every task may read of a core. Only the driver's task changes one."""

    @property
    def leader(self) -> NodeId:
        """Who leads, as far as this node knows; NOBODY when it does not."""
        ...

    @property
    def is_leader(self) -> bool: ...

    @property
    def role(self) -> Role: ...

    @property
    def term(self) -> int: ...

    @property
    def applied_index(self) -> int:
        """Index of the last entry that the core knows to be applied."""
        ...

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        ...

    @property
    def configuration(self) -> Configuration:
        """The one in force."""
        ...

    def status(self) -> Status: ...


def best_successor(status: Status, node_id: NodeId, without: Collection[NodeId] = ()) -> NodeId:
    """The voter that is closest behind the leader `node_id` and keeps up; NOBODY when there is none.

    Args:
        without: nodes that should not lead now.
    """
    matches = [
        (progress.match, other)
        for other, progress in status.progress.items()
        if other != node_id
        and other not in without
        and other in status.configuration.voters
        and progress.state == ProgressState.REPLICATE.value
    ]
    return max(matches)[1] if matches else NOBODY


class Leadership:
    """Owns the waits for a change of the leader. Waiting is for any task, `changed` and `end` are for the driver's."""

    def __init__(self, core: CoreView, name: str) -> None:
        self._core = core
        self._name = name
        self._changed = trio.Event()
        self._scopes: dict[trio.CancelScope, NodeId] = {}
        self._closed_by: EventLogError | None = None

    def refusal(self) -> NotLeader:
        """Of what only the leader does. It names the leader, if this node knows it."""
        leader_id = self._core.leader
        if leader_id == NOBODY:
            return NotLeader(f"{self._name} has no leader at the moment: try again shortly")
        return NotLeader(f"{self._name} is led by node {format_id(leader_id)}: go there", leader_id)

    async def wait_leader_other_than(self, node_id: NodeId) -> NodeId:
        """Until the leader this node knows of is not `node_id` (any longer). Raises the error of `close`."""
        while self._core.leader == node_id:
            if self._closed_by is not None:
                raise self._closed_by
            await self._changed.wait()
        return self._core.leader

    @contextmanager
    def while_led_by(self, node_id: NodeId, scope: trio.CancelScope) -> Iterator[None]:
        """Within the block, `scope` is cancelled once another node is known to lead, or this is closed; at once if that is the case
        already. Losing the leader without knowing a new one does not cancel it."""
        if self._closed_by is not None or self._core.leader not in (node_id, NOBODY):
            scope.cancel()
        self._scopes[scope] = node_id
        try:
            yield
        finally:
            del self._scopes[scope]

    def changed(self) -> None:
        """Another leader, another term, or another role of this node."""
        for scope, node_id in self._scopes.items():
            if self._core.leader not in (node_id, NOBODY):
                scope.cancel()
        self._changed.set()
        self._changed = trio.Event()

    def close(self, error: EventLogError) -> None:
        """Later calls of `wait_leader_other_than` fail with `error`."""
        self._closed_by = error

    def end(self) -> None:
        """Fail the waiters with the error of `close`."""
        for scope in self._scopes:
            scope.cancel()
        self._changed.set()
