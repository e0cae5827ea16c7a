"""Whether others have removed this node: who may say so, and how many of them have to.

A node that was away when it was removed learns it from others, since nobody sends it the log any more; and then it ends for ever.
So this is the one verdict about a node that it takes from outside, and everything that has to be true of it is in here:

- it comes from a voter of the catalog's configuration as this node has it in its own log, on a link that this node has dialled,
  from whoever said there that he is that voter (and proved it, where nodes prove themselves): not from whoever answers at an
  address that somebody has told;
- a majority of the voters other than this node agree. One that lies, or whose address somebody else has got, is not enough;
- a voter that takes a link of this node again has changed its mind.

Anything less is a warning for people.
"""

from collections.abc import Collection

import attrs

from trio_eventlog.ids import NodeId, format_id

SAYERS_MAX = 256


def needed(voters: Collection[NodeId], own: NodeId) -> int:
    """How many of the voters have to say it."""
    return len(frozenset(voters) - {own}) // 2 + 1


@attrs.define(slots=True)
class RemovalVerdict:
    """Collects what others say.

    Attributes:
        own: this node.
    """

    own: NodeId
    _said: dict[NodeId, str] = attrs.field(factory=dict, init=False)

    def says(self, node_id: NodeId, text: str) -> None:
        """A node that we have dialled refuses us as removed."""
        if node_id in self._said or len(self._said) < SAYERS_MAX:
            self._said[node_id] = text

    def takes_back(self, node_id: NodeId) -> None:
        """A node that we have dialled takes our link."""
        self._said.pop(node_id, None)

    def is_certain(self, voters: Collection[NodeId]) -> bool:
        """Whether enough of `voters`, those of the catalog as this node knows them, have said it."""
        others = frozenset(voters) - {self.own}
        return bool(others) and len(others & self._said.keys()) >= needed(voters, self.own)

    def text(self, voters: Collection[NodeId]) -> str:
        """What a voter has said, in its words; "" when none has."""
        return next((self._said[node_id] for node_id in sorted(self._said) if node_id in voters), "")

    def warning(self, voters: Collection[NodeId]) -> str:
        """What people are to know when it is not certain; "" when no voter has said anything."""
        others = frozenset(voters) - {self.own}
        sayers = sorted(others & self._said.keys())
        if not sayers:
            return ""
        return (
            f"{', '.join(map(format_id, sayers))} said that this node was removed from the cluster: {len(sayers)} of"
            f" {len(others)} other voters, and {needed(voters, self.own)} have to say it before it ends. If it was removed, stop"
            " it, and start it with an empty data directory"
        )
