"""Whether this node was removed while it was away: which nodes may report that, and how many of them have to.

A node that was away when it was removed does not receive the log any more. It learns of its removal when others refuse its links,
and then ends for ever. Since this is the only verdict about itself that a node accepts from outside, it counts only if:

- it comes from a voter of the catalog's configuration as this node has it in its own log, on a link that this node has dialled,
  after a hello in which the other side named itself as that voter (and proved it, if nodes have a secret or certificates);
- a majority of the voters other than this node agree. One voter that lies, or whose address another process has got, is not
  enough;
- none of them has accepted a link of this node since.

Anything less is only a warning.
"""

from collections.abc import Collection

import attrs

from trio_eventlog.ids import NodeId, format_id

SAYERS_MAX = 256
"""Number of nodes whose refusals are remembered."""


def needed(voters: Collection[NodeId], own: NodeId) -> int:
    """The number of voters that have to report the removal."""
    return len(frozenset(voters) - {own}) // 2 + 1


@attrs.define(slots=True)
class RemovalVerdict:
    """Collects the refusals of other nodes.

    Attributes:
        own: this node.
    """

    own: NodeId
    _said: dict[NodeId, str] = attrs.field(factory=dict, init=False)

    def says(self, node_id: NodeId, text: str) -> None:
        """A node that we dialled has refused us as removed."""
        if node_id in self._said or len(self._said) < SAYERS_MAX:
            self._said[node_id] = text

    def takes_back(self, node_id: NodeId) -> None:
        """A node that we dialled has accepted our link."""
        self._said.pop(node_id, None)

    def is_certain(self, voters: Collection[NodeId]) -> bool:
        """Whether enough of `voters`, those of the catalog as this node knows them, have reported the removal."""
        others = frozenset(voters) - {self.own}
        return bool(others) and len(others & self._said.keys()) >= needed(voters, self.own)

    def text(self, voters: Collection[NodeId]) -> str:
        """The text of a voter's refusal; "" without one."""
        return next((self._said[node_id] for node_id in sorted(self._said) if node_id in voters), "")

    def warning(self, voters: Collection[NodeId]) -> str:
        """A warning for operators while the removal is not certain; "" without any refusal of a voter."""
        others = frozenset(voters) - {self.own}
        sayers = sorted(others & self._said.keys())
        if not sayers:
            return ""
        return (
            f"{', '.join(map(format_id, sayers))} said that this node was removed from the cluster: {len(sayers)} of"
            f" {len(others)} other voters, and {needed(voters, self.own)} have to say it before it ends. If it was removed, stop"
            " it, and start it with an empty data directory"
        )
