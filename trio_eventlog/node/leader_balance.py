"""Gives leadership of partitions back to the nodes that should lead them."""

import logging
import math
from collections.abc import Callable, Collection

import trio

from trio_eventlog.errors import EventLogError
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.node.group_survey import GroupSurvey
from trio_eventlog.node.membership import MisplacedLeader, due_hand_over
from trio_eventlog.node.node_names import NodeNames
from trio_eventlog.node.reconciler_settings import ReconcilerSettings
from trio_eventlog.node.replica import Replica

logger = logging.getLogger(__name__)


class LeaderBalance:
    """For the reconciler's task: remembers since when each partition could have been handed over, and when one was.

    Args:
        possible_leaders: nodes that could take over the group that this node leads: connected, caught up, and with room.
    """

    def __init__(
        self,
        survey: GroupSurvey,
        settings: ReconcilerSettings,
        names: NodeNames,
        possible_leaders: Callable[[Replica], Collection[NodeId]],
    ) -> None:
        self._survey = survey
        self._settings = settings
        self._names = names
        self._possible_leaders = possible_leaders
        self._misplaced: dict[GroupId, MisplacedLeader] = {}
        self._handed_over_at = -math.inf

    def on_connected(self, node_id: NodeId) -> None:
        """Our link to the node has come up, so it was down before: its wait for leaderships starts again."""
        self._misplaced = {group_id: item for group_id, item in self._misplaced.items() if item.preferred != node_id}

    async def hand_over_one(self) -> None:
        """Transfer leadership of one partition to the node that should lead it, if `due_hand_over` finds one."""
        now = trio.current_time()
        # A preferred leader that is not connected, is behind or has no room could not take over.
        replicas = {
            replica.group_id: (replica, preferred)
            for replica, preferred in self._survey.get().misplaced
            if preferred in self._possible_leaders(replica)
        }
        self._misplaced = {
            group_id: MisplacedLeader(preferred=preferred, since=former.since if former and former.preferred == preferred else now)
            for group_id, (_, preferred) in replicas.items()
            for former in [self._misplaced.get(group_id)]
        }
        group_id = due_hand_over(self._misplaced, now, self._handed_over_at, self._settings.membership)
        if group_id is None:
            return
        self._handed_over_at = now
        # If the transfer fails, the wait begins again.
        to = self._misplaced.pop(group_id).preferred
        replica = replicas[group_id][0]
        logger.info("%s: transfer leadership to its preferred leader %s", replica.name, self._names.shown(to))
        try:
            await replica.transfer_leadership(to, self._settings.step_seconds_max)
        except EventLogError as error:
            logger.info("%s: not now: %s", replica.name, error)
