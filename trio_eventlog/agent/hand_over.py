"""A node that stops hands the groups that it leads to others."""

import logging

import trio

from trio_eventlog.agent.parts import NodeParts
from trio_eventlog.errors import EventLogError, NotLeader
from trio_eventlog.ids import NOBODY, GroupId, NodeId, format_id
from trio_eventlog.node.replica import Replica

logger = logging.getLogger(__name__)

HAND_OVER_SECONDS_MAX = 2.0
"""The time that a leader which stops waits for another node to take over a group."""


class HandOvers:
    """The hand-overs of a node that stops. Nothing here happens before."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self._running: dict[GroupId, trio.CancelScope] = {}

    async def hand_over_all(self) -> None:
        """Every group that this node leads and that has another voter; returns when all have ended, well or not."""
        async with trio.open_nursery() as nursery:
            for replica in self._parts.replicas.all():
                if replica.is_leader and len(replica.status().configuration.voters) > 1:
                    nursery.start_soon(self._hand_over, replica)

    async def lead_no_more(self, replica: Replica) -> None:
        """Others do not know that this node is going, and may make it a leader again: hand over again then."""
        try:
            while True:
                await replica.wait_leader_other_than(replica.leader_id)
                if replica.is_leader:
                    # A new leader has to hear first which voters keep up.
                    await trio.sleep(self._parts.settings.tick_seconds)
                    await self._hand_over(replica)
        except EventLogError as error:
            logger.debug("%s is closed: %s", replica.name, error)

    def peer_lost(self, lost: NodeId) -> None:
        """The link to a node is down: a hand-over to it gives up, and tries another voter."""
        for group_id, scope in self._running.items():
            replica = self._parts.replicas.find(group_id)
            if replica is not None and replica.status().lead_transferee in (lost, NOBODY):
                scope.cancel()

    async def _hand_over(self, replica: Replica) -> None:
        """To the voter that is closest behind; should the link to it go down meanwhile, to another one."""
        deadline = trio.current_time() + HAND_OVER_SECONDS_MAX
        while self._reaches_another_voter(replica):
            with trio.CancelScope() as self._running[replica.group_id]:
                try:
                    leader_id = await replica.transfer_leadership(None, max(0.0, deadline - trio.current_time()))
                except NotLeader:
                    return
                except EventLogError as error:
                    if self._reaches_another_voter(replica):
                        logger.warning("%s could not be handed over: %s", replica.name, error)
                        return
                else:
                    logger.info("%s was handed over to %s", replica.name, format_id(leader_id))
                    return
        # Nodes that are stopped together hand over to each other until none is left, which is right.
        logger.info("%s is not handed over: no other voter of it can be reached", replica.name)

    def _reaches_another_voter(self, replica: Replica) -> bool:
        own_id = self._parts.identity.node_id
        return any(self._parts.transport.is_connected(node_id) for node_id in replica.voters() if node_id != own_id)
