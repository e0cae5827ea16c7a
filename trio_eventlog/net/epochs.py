"""Epochs of peers: a crash of a peer breaks two connections, and is reported once."""

from collections.abc import Iterator

from trio_eventlog.ids import NodeId


class Epochs:
    """One epoch per peer, which a loss ends.

    A crash breaks both connections with a peer, one a little later than the other, perhaps after the peer is back. A connection
    belongs to the epoch in which it was made, and moves to a later one when a PONG shows that it has outlived the loss; only a
    connection of the present epoch can end it.
    """

    def __init__(self) -> None:
        self._present: dict[NodeId, int] = {}

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._present)

    def __len__(self) -> int:
        return len(self._present)

    def present(self, node_id: NodeId) -> int:
        """The present epoch; 0 for a peer that is not known."""
        return self._present.get(node_id, 0)

    def join(self, node_id: NodeId) -> int:
        """The epoch of a connection that was made now."""
        return self._present.setdefault(node_id, 0)

    def end(self, node_id: NodeId, epoch: int) -> bool:
        """A connection of `epoch` broke. True: that epoch was the present one, so that this is news."""
        if epoch != self.present(node_id):
            return False
        self._present[node_id] = epoch + 1
        return True

    def forget(self, node_id: NodeId) -> None:
        """There is no connection with the peer, and none is wanted."""
        self._present.pop(node_id, None)
