"""A group in which nothing happens falls asleep: it is not ticked, and exchanges nothing (docs/decisions/0025)."""

import logging
from collections.abc import Callable

import attrs

from trio_eventlog.ids import NOBODY, GroupId, NodeId
from trio_eventlog.node.liveness import Reach
from trio_eventlog.node.returning import Returning
from trio_eventlog.raft import Message, MessageType, RaftNode

logger = logging.getLogger(__name__)


@attrs.frozen(slots=True, kw_only=True)
class Peers:
    """What sleeping takes of the node.

    Attributes:
        reach: whether a node is there.
        send_sleep: send a leader's last HEARTBEAT for a while. False: not sent.
        on_sleep: the group has fallen asleep (True), and is not to be ticked, or has woken. Called from the group's task.
    """

    reach: Callable[[NodeId], Reach]
    send_sleep: Callable[[GroupId, Message], bool]
    on_sleep: Callable[[GroupId, bool], None] = lambda group_id, is_asleep: None


class Sleeping:
    """Owns whether the group sleeps, and for how long nothing has happened in it. All in the driver's task.

    Args:
        after_ticks, unused_after_ticks: see `sleep_after_ticks` and `sleep_unused_after_ticks` of `DriverSettings`.
        peers: None: the group never sleeps.
        is_quiet: whether everything is durable, committed and applied here, and no caller waits.
    """

    def __init__(
        self,
        group_id: GroupId,
        core: RaftNode,
        returning: Returning,
        name: str,
        after_ticks: int,
        unused_after_ticks: int,
        peers: Peers | None,
        is_quiet: Callable[[], bool],
    ) -> None:
        self._group_id = group_id
        self._core = core
        self._returning = returning
        self._name = name
        self._used_after_ticks = after_ticks
        self._after_ticks = min(after_ticks, unused_after_ticks)
        self._peers = peers
        self._is_quiet = is_quiet
        self._idle_ticks = 0
        """Number of ticks since something other than heartbeats was met."""
        self._asked: Message | None = None
        """The leader's last HEARTBEAT for a while, until this follower sleeps or something else is met."""
        self._slept_without: frozenset[NodeId] = frozenset()
        """Members that this sleeping leader knows to be gone."""
        self.is_asleep = False
        self.counts_on_leaders_node = False
        """This follower has slept, and not heard of its leader since: its election timeout does not say how long that is."""
        self.times_asleep = 0

    def tick(self) -> None:
        self._idle_ticks += 1

    def met(self, message: Message) -> None:
        """A message is about to be stepped."""
        if not self._is_heartbeat(message):
            self.rouse("message")
            if message.type is MessageType.READ_INDEX:
                self.used()
        if message.sender == self._core.leader:
            self.counts_on_leaders_node = False

    def ask(self, message: Message) -> None:
        """The leader's last HEARTBEAT for a while was stepped."""
        if self._peers is not None:
            self._asked = message

    def rouse(self, why: str) -> None:
        """Something happens: a sleeping group wakes, and the time without work begins anew. `why` is for logs and simulations."""
        self._idle_ticks = 0
        self._asked = None
        if self.is_asleep:
            self.is_asleep = False
            assert self._peers is not None
            logger.debug("%s: woken by %s", self._name, why)
            self._peers.on_sleep(self._group_id, False)

    def used(self) -> None:
        """Something is read or proposed: more of it may follow."""
        self._after_ticks = self._used_after_ticks

    def end_turn(self, has_ticked: bool) -> None:
        """Fall asleep, if it is time to."""
        if self._peers is None or self.is_asleep:
            return
        if self._asked is not None:
            self._sleep_as_follower(self._peers, self._asked)
        elif has_ticked and self._idle_ticks >= self._after_ticks and self._core.is_leader:
            self._sleep_as_leader(self._peers)

    def wake_for_peers(self) -> None:
        """A node is gone, or back: a sleeping leader wakes for one that it has slept without, and when those that are left are no
        quorum."""
        if self.is_asleep and self._core.is_leader:
            assert self._peers is not None
            absent = self._absent_members(self._peers)
            if absent is None or not self._slept_without <= absent:
                self.rouse("peers")
            else:
                self._slept_without = absent

    def _is_heartbeat(self, message: Message) -> bool:
        """It is part of being idle, and for a sleeping group it is late: sent before the group fell asleep."""
        if message.term != self._core.term or message.reject:
            return False
        if not self.is_asleep:
            return message.type is MessageType.HEARTBEAT or message.type is MessageType.HEARTBEAT_RESPONSE
        # Any message wakes a follower: its leader is awake, or a candidate asks for votes.
        is_answer = message.type is MessageType.HEARTBEAT_RESPONSE or message.type is MessageType.APPEND_RESPONSE
        return is_answer and self._core.is_leader and message.sender not in self._slept_without

    def _fall_asleep(self, peers: Peers) -> None:
        self.is_asleep = True
        self.counts_on_leaders_node = not self._core.is_leader
        self._asked = None
        self.times_asleep += 1
        peers.on_sleep(self._group_id, True)

    def _sleep_as_leader(self, peers: Peers) -> None:
        without = self._absent_members(peers)
        if without is None:
            return
        core = self._core
        for node_id in core.configuration.nodes:
            if node_id != core.node_id and node_id not in without:
                message = Message(
                    type=MessageType.HEARTBEAT, to=node_id, sender=core.node_id, term=core.term, commit=core.commit_index
                )
                if not peers.send_sleep(self._group_id, message):
                    return  # Those who were asked wake by the next heartbeat.
        self._slept_without = without
        self._fall_asleep(peers)

    def _absent_members(self, peers: Peers) -> frozenset[NodeId] | None:
        """The members that are gone; None when this leader has to stay awake.

        It does while it has work, while a member that is there lacks something or cannot be asked to sleep, and when those
        that are there are no quorum: then it has to find out, and to step down.
        """
        core = self._core
        configuration = core.configuration
        if not core.is_leader or not self._is_quiet() or configuration.is_joint or core.lead_transferee != NOBODY:
            return None
        absent: set[NodeId] = set()
        for node_id in configuration.nodes:
            if node_id == core.node_id:
                continue
            match peers.reach(node_id):
                case Reach.GONE:
                    absent.add(node_id)
                case Reach.ALIVE if core.match_of(node_id) == core.last_index:
                    pass
                case _:
                    return None
        if 2 * len(configuration.voters - absent) <= len(configuration.voters):
            return None
        return frozenset(absent)

    def _sleep_as_follower(self, peers: Peers, asked: Message) -> None:
        """Once everything that the leader has named is here, durable and applied."""
        core = self._core
        if core.term != asked.term or core.leader != asked.sender or core.is_leader or core.last_index != asked.commit:
            self._asked = None
        elif self._is_quiet() and not self._returning.is_returning:
            self._fall_asleep(peers)
