"""Which peers are alive: one frame for each pair of nodes and heartbeat interval, whatever the number of groups.

Groups that sleep (docs/decisions/0025) exchange nothing. Their followers count on the node of their leader instead: while it says
that it is there, and that it is the same process as before, its groups are as it left them. When it falls silent, each of them
looks for another leader, as an awake group does.

Values and arithmetic only; the driver of the links calls in, and is called back.
"""

import enum
from collections.abc import Callable

from trio_eventlog.ids import NodeId


class Reach(enum.Enum):
    """What is known of a peer."""

    ALIVE = "alive"
    """It has said so within the last `silent_ticks_max` ticks, and our link to it is up."""
    GONE = "gone"
    """No link, or it has fallen silent."""
    UNKNOWN = "unknown"
    """Our link to it is up, and it has not said anything yet: just connected, or of a release that does not."""


class PeerLiveness:
    """Attributes and methods are for one task at a time: everything is synchronous.

    Args:
        silent_ticks_max: number of ticks without a word after which a peer counts as gone: an election timeout.
        is_connected: our link to the peer is up.
        on_gone: called when a peer is silent, or has restarted: sleeping groups have to assume that it leads nothing any more.
        on_back: a peer is alive that was not before.
    """

    def __init__(
        self,
        silent_ticks_max: int,
        *,
        is_connected: Callable[[NodeId], bool],
        on_gone: Callable[[NodeId], None],
        on_back: Callable[[NodeId], None],
    ) -> None:
        self._silent_ticks_max = silent_ticks_max
        self._is_connected = is_connected
        self._on_gone = on_gone
        self._on_back = on_back
        self._ticks = 0
        self._heard_at: dict[NodeId, int] = {}
        """Tick of the last word of each peer that is alive."""
        self._lives: dict[NodeId, int] = {}
        self._silent: set[NodeId] = set()

    def tick(self) -> None:
        """Another tick has passed."""
        self._ticks += 1
        oldest = self._ticks - self._silent_ticks_max
        for node_id in [node_id for node_id, at in self._heard_at.items() if at < oldest]:
            self._leave(node_id)
            self._on_gone(node_id)

    def heard(self, node_id: NodeId, life: int) -> None:
        """The peer has said that it is there. `life` names its process."""
        was_alive = node_id in self._heard_at
        former = self._lives.get(node_id, life)
        self._heard_at[node_id] = self._ticks
        self._lives[node_id] = life
        self._silent.discard(node_id)
        if former != life:
            self._on_gone(node_id)
        if not was_alive or former != life:
            self._on_back(node_id)

    def connected(self, node_id: NodeId) -> None:
        """A new link to the peer is up. What it said before does not count: another release may be there now."""
        self._heard_at.pop(node_id, None)
        self._silent.discard(node_id)

    def lost(self, node_id: NodeId) -> None:
        """A connection with the peer broke. `on_gone` is not called: the caller does the same itself."""
        self._leave(node_id)

    def _leave(self, node_id: NodeId) -> None:
        self._heard_at.pop(node_id, None)
        self._silent.add(node_id)

    def reach(self, node_id: NodeId) -> Reach:
        if node_id in self._silent or not self._is_connected(node_id):
            return Reach.GONE
        return Reach.ALIVE if node_id in self._heard_at else Reach.UNKNOWN
