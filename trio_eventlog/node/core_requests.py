"""What other tasks want of a core. They queue it here; the driver's task carries it out in its next turn."""

import logging
from collections import deque
from collections.abc import Callable

from trio_eventlog.codec.catch_up import CatchUpReport
from trio_eventlog.errors import NotLeader
from trio_eventlog.ids import NodeId
from trio_eventlog.node.followers import Followers
from trio_eventlog.node.returning import Returning
from trio_eventlog.node.sleeping import Sleeping
from trio_eventlog.raft import ConfigurationError, ProposalDropped, RaftNode

logger = logging.getLogger(__name__)


class CoreRequests:
    """`carry_out` and `carry_out_quiet` are for the driver's task; the other methods are for any task, and return at once.

    Arguments:
        wake: ends the wait of the driver's task.
    """

    def __init__(
        self, core: RaftNode, followers: Followers, returning: Returning, sleeping: Sleeping, name: str, wake: Callable[[], None]
    ) -> None:
        self._core = core
        self._followers = followers
        self._returning = returning
        self._sleeping = sleeping
        self._name = name
        self._wake = wake
        self._waiting: deque[Callable[[], object]] = deque()
        self._quiet: deque[Callable[[], object]] = deque()
        """As `_waiting`, but these do not wake a sleeping group."""

    def __bool__(self) -> bool:
        """A request waits that is work for the group."""
        return bool(self._waiting)

    def add(self, call: Callable[[], object]) -> None:
        """Have the driver's task do this. NotLeader, ProposalDropped and ConfigurationError that it raises are only logged."""
        self._waiting.append(call)
        self._wake()

    def campaign(self) -> None:
        """Stand for election now."""
        if not self._returning.is_returning:
            self.add(self._core.campaign)

    def campaign_if_leader_lost(self, node_id: NodeId) -> None:
        """Stand for election, unless a leader has been heard since `peer_reset`."""
        if not self._returning.is_returning:
            self.add(lambda: self._core.campaign_if_leader_lost(node_id))

    def transfer_leadership(self, to: NodeId) -> None:
        """Transfer leadership, if this node leads and `to` is a voter that keeps up."""
        self.add(lambda: self._core.transfer_leader(to))

    def report_unreachable(self, node_id: NodeId) -> None:
        """What was sent to the peer did not arrive."""
        requests = self._quiet if self._sleeping.is_asleep else self._waiting
        requests.append(lambda: self._followers.begin_again(node_id))
        self._wake()

    def receive_report(self, node_id: NodeId, report: CatchUpReport) -> None:
        """A follower says how far it is with a snapshot."""
        self._quiet.append(lambda: self._followers.snapshots.on_report(node_id, report))
        self._wake()

    def peer_reset(self, node_id: NodeId) -> None:
        """The peer's process is gone, or silent. If it led, call `campaign_if_leader_lost` a little later."""

        def wake_and_reset() -> None:
            self._sleeping.rouse("lost leader")
            self._core.peer_reset(node_id)

        self._quiet.append(wake_and_reset)
        self._wake()

    def peers_changed(self) -> None:
        """A node is gone, or back. A sleeping leader wakes if the node was there when it fell asleep and is needed for a quorum,
        or if it has slept without that node."""
        self._quiet.append(self._sleeping.wake_for_peers)
        self._wake()

    def carry_out_quiet(self) -> None:
        """Do what wakes no sleeping group by itself."""
        while self._quiet:
            self._quiet.popleft()()

    def carry_out(self) -> None:
        """Do the rest. A caller waits for the effect of its request and not for the call: it asks again, or gives up by itself."""
        while self._waiting:
            try:
                self._waiting.popleft()()
            except (NotLeader, ProposalDropped, ConfigurationError) as error:
                logger.debug("%s: %s", self._name, error)
