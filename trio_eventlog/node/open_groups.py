"""The groups that are open on this node, awake or asleep, and what becomes of their peers.

Owns which groups are open and which of those are ticked. A group is added once it is open and removed before it is closed.
"""

import copy
import random

import attrs
import trio

from trio_eventlog.codec.catch_up import CatchUpReport
from trio_eventlog.codec.lives import Extent
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.measures import Histogram
from trio_eventlog.node.inbox import Received
from trio_eventlog.node.replica import Replica


@attrs.define(slots=True)
class GroupTotals:
    """Counters of all groups of a node since it was started, those that were closed since included.

    Attributes:
        appends: writes with entries.
        appended_entries, appended_bytes: written to logs.
        applied_entries: given to machines.
        elections_won: times that this node has come to lead a group.
        dropped_messages: of peers, for which there was no room.
        write_seconds: how long writes took, their fsync included.
    """

    appends: int = 0
    appended_entries: int = 0
    appended_bytes: int = 0
    applied_entries: int = 0
    elections_won: int = 0
    dropped_messages: int = 0
    write_seconds: Histogram = attrs.field(factory=Histogram)

    def add(self, replica: Replica) -> None:
        """Take in what one group has counted."""
        counted = replica.driver.statistics()
        self.appends += counted.appends
        self.appended_entries += counted.appended_entries
        self.appended_bytes += counted.appended_bytes
        self.applied_entries += counted.applied_entries
        self.elections_won += counted.elections_won
        self.dropped_messages += counted.dropped_messages
        self.write_seconds.add(replica.driver.disk_writer.write_seconds)


class OpenGroups:
    """Called from any task; `begin` comes first, from the task in whose nursery elections are waited for.

    Args:
        reset_stagger_seconds: see `ReplicasSettings`.
    """

    def __init__(self, node_id: NodeId, reset_stagger_seconds: float, rng: random.Random) -> None:
        self._node_id = node_id
        self._reset_stagger_seconds = reset_stagger_seconds
        self._rng = rng
        self._open: dict[GroupId, Replica] = {}
        self._awake: dict[GroupId, Replica] = {}
        """Those of them that are ticked."""
        self._nursery: trio.Nursery | None = None
        self._gone = GroupTotals()
        """What groups have counted that are closed."""
        self._removals = 0

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, nursery: trio.Nursery | None) -> None:
        """Where tasks are started; None: none is any more."""
        self._nursery = nursery

    def add(self, replica: Replica) -> None:
        """A group that was opened just now."""
        self._open[replica.group_id] = self._awake[replica.group_id] = replica

    def remove(self, group_id: GroupId) -> Replica | None:
        """The replica that was open, if one was."""
        self._removals += 1
        self._awake.pop(group_id, None)
        replica = self._open.pop(group_id, None)
        if replica is not None:
            self._gone.add(replica)
        return replica

    def find(self, group_id: GroupId) -> Replica | None:
        return self._open.get(group_id)

    def all(self) -> list[Replica]:
        """Every open replica, the catalog first."""
        return [replica for _, replica in sorted(self._open.items())]

    def awake(self) -> list[Replica]:
        """Every open replica in which something may happen."""
        return list(self._awake.values())

    def totals(self) -> GroupTotals:
        """Counters of all groups together, which never go back."""
        totals = copy.deepcopy(self._gone)
        for replica in self._open.values():
            totals.add(replica)
        return totals

    def queued_proposal_bytes(self) -> int:
        """Of batches that wait for their leader here."""
        return sum(replica.driver.proposing.queued_bytes for replica in self._open.values())

    def writes_done(self) -> int:
        """Grows with what is made durable, and changes when a group is removed."""
        return sum(replica.driver.disk_writer.writes_done for replica in self._open.values())

    def state_changes(self) -> tuple[int, int]:
        """Changes when a group is added or removed, and when role, leader or configuration of one change."""
        return len(self._open) + 2 * self._removals, sum(replica.driver.state_changes for replica in self._open.values())

    def extents(self) -> dict[GroupId, Extent]:
        """How far each group went, as far as that is durable."""
        return {group_id: replica.driver.extent for group_id, replica in self._open.items()}

    def receive(self, group_id: GroupId, received: Received) -> bool:
        """A peer's message. False: the group is not open."""
        replica = self._open.get(group_id)
        if replica is None:
            return False
        replica.driver.receive(received)
        return True

    def receive_report(self, group_id: GroupId, node_id: NodeId, report: CatchUpReport) -> None:
        """A follower of the group says how far it is with a snapshot."""
        replica = self._open.get(group_id)
        if replica is not None:
            replica.driver.requests.receive_report(node_id, report)

    def campaign(self, group_id: GroupId) -> None:
        """The group stands for election, if it is (still) open."""
        replica = self._open.get(group_id)
        if replica is not None:
            replica.driver.requests.campaign()

    def on_sleep(self, group_id: GroupId, is_asleep: bool) -> None:
        """A group has fallen asleep, or has woken."""
        if is_asleep:
            self._awake.pop(group_id, None)
        elif group_id in self._open:
            self._awake[group_id] = self._open[group_id]

    def tick(self) -> None:
        """Another tick has passed, for every group that is awake."""
        for replica in list(self._awake.values()):
            replica.driver.tick()

    # What becomes of peers

    def report_unreachable(self, node_id: NodeId) -> None:
        """Our link to the peer is gone, and what was on its way with it."""
        for replica in self._open.values():
            if replica.is_leader or not replica.driver.sleeping.is_asleep:
                replica.driver.requests.report_unreachable(node_id)
            self._notify_sleeping_leader(replica)

    def peer_reset(self, node_id: NodeId) -> None:
        """A peer's process is gone: each group that it led looks for another leader at once."""
        for replica in self._open.values():
            if replica.leader_id == node_id:
                self._lose_leader(replica, node_id)

    def peer_gone(self, node_id: NodeId) -> None:
        """A peer has been silent for an election timeout, or was started again.

        The sleeping groups that it led, and those that others have woken since, look for another leader at once; awake ones have
        clocks of their own. Those led here look who is left.
        """
        for replica in self._open.values():
            if replica.leader_id == node_id and replica.driver.sleeping.counts_on_leaders_node:
                self._lose_leader(replica, node_id)
            else:
                self._notify_sleeping_leader(replica)

    def peer_back(self) -> None:
        """A peer is back: leaders that sleep without it announce to it that they lead."""
        for replica in self._open.values():
            self._notify_sleeping_leader(replica)

    def _notify_sleeping_leader(self, replica: Replica) -> None:
        # Sleeping followers have nothing to think about, and there may be thousands.
        if replica.driver.sleeping.is_asleep and replica.is_leader:
            replica.driver.requests.peers_changed()

    def _lose_leader(self, replica: Replica, node_id: NodeId) -> None:
        if self._nursery is not None:
            replica.driver.requests.peer_reset(node_id)
            self._nursery.start_soon(self._campaign_in_turn, replica, node_id)

    async def _campaign_in_turn(self, replica: Replica, node_id: NodeId) -> None:
        """All followers lose the leader at the same moment. In turn, not by chance: two at a time would split the votes."""
        status = replica.status()
        others = sorted(status.configuration.voters - {node_id})
        if self._node_id not in others:
            return
        # Turned by the term, so that it is not always the same node; the term is the same for all that followed the leader.
        turn = (others.index(self._node_id) + status.hard_state.term) % len(others)
        await trio.sleep(turn * self._reset_stagger_seconds * self._rng.uniform(1.0, 1.25))
        replica.driver.requests.campaign_if_leader_lost(node_id)
