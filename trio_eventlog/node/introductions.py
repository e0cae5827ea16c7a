"""Links to nodes that other nodes have named, and the end of links to removed nodes."""

import logging
from collections.abc import Mapping

import trio

from trio_eventlog.errors import EventLogError
from trio_eventlog.ids import NOBODY, NodeId, format_id
from trio_eventlog.node.group_survey import GroupSurvey
from trio_eventlog.node.reconciler_settings import PeerAccess
from trio_eventlog.node.replicas import Replicas

logger = logging.getLogger(__name__)


class Introductions:
    """For the reconciler's task.

    Args:
        answer_seconds_max: see `ReconcilerSettings`.
    """

    def __init__(
        self, node_id: NodeId, replicas: Replicas, survey: GroupSurvey, peers: PeerAccess, answer_seconds_max: float
    ) -> None:
        self._node_id = node_id
        self._replicas = replicas
        self._survey = survey
        self._peers = peers
        self._answer_seconds_max = answer_seconds_max
        self._forgotten: set[NodeId] = set()
        """Removed nodes whose links have been ended."""

    def meet(self, addresses: Mapping[NodeId, str]) -> None:
        """Connect to those of these nodes that are not known here yet and were not removed."""
        known = self._peers.members()
        for node_id, address in addresses.items():
            if node_id not in known and node_id not in (self._node_id, NOBODY) and node_id not in self._replicas.machine.removed:
                self._peers.meet(node_id, address)

    async def meet_missing(self) -> None:
        """If the address of a member of one of our groups is not known here, ask another node for the addresses it knows."""
        nodes = self._survey.get().nodes
        missing = nodes - self._peers.members().keys() - {self._node_id}
        if not missing:
            return
        asked = self._replicas.catalog.leader_id
        if asked in (NOBODY, self._node_id) or not self._peers.is_connected(asked):
            # Without a leader: perhaps this node was removed, and only the nodes whose addresses are missing could report that.
            asked = min(nodes & self._peers.members().keys(), default=NOBODY)
        if asked == NOBODY:
            return
        with trio.move_on_after(self._answer_seconds_max):
            try:
                self.meet((await self._peers.ask(asked, False)).peers)
            except EventLogError as error:
                logger.debug("node %s did not answer which nodes it knows: %s", format_id(asked), error)

    def forget_removed(self) -> None:
        """End the links to removed nodes that no group has as a member any more. Until then the link carries their removal."""
        for node_id in sorted(self._replicas.machine.removed.keys() - self._forgotten):
            if node_id not in self._survey.get().nodes:
                self._forgotten.add(node_id)
                self._peers.forget(node_id)
