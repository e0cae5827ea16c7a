"""How a node runs: the order in which its tasks start, and the order in which they stop.

run     links, lives, discovery, joining by name, gossip
          the cluster is found; the catalog and the partitions are opened; clocks tick, the reconciler looks after membership
        the port is served; the node has started
        a leader of the catalog is known: the node is ready

stop    not ready any more, as the health service shows; no connection is accepted any more
        gossip is left while leaderships are handed over, then calls come to their end (until the deadline)
        the port's connections end
        everything else ends
"""

import logging

import trio

from trio_eventlog.agent.hand_over import HandOvers
from trio_eventlog.agent.lives import NodeLives
from trio_eventlog.agent.parts import NodeParts
from trio_eventlog.agent.peers import NodePeers
from trio_eventlog.agent.readiness import Readiness
from trio_eventlog.agent.services import make_own_lines
from trio_eventlog.codec.peer_frame import HEARTBEATS_BODY, FrameKind, encode_frame_head
from trio_eventlog.errors import ShuttingDown
from trio_eventlog.ids import NOBODY, format_id
from trio_eventlog.net.links import Priority
from trio_eventlog.node.bootstrap import find_cluster, load_voters, save_voters

logger = logging.getLogger(__name__)


class NodeLife:
    """All tasks of a node, from `run` to `stop`."""

    def __init__(self, parts: NodeParts, peers: NodePeers, lives: NodeLives, hand_overs: HandOvers, readiness: Readiness) -> None:
        self._parts = parts
        self._peers = peers
        self._lives = lives
        self._hand_overs = hand_overs
        self._readiness = readiness
        self._core_scope = trio.CancelScope()
        self._edge_scope = trio.CancelScope()
        self._stop_scope = trio.CancelScope()
        self._is_over = False

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """All of the node's tasks, until `stop` ends them. Started when the port is served.

        Shielded: when the embedding block is cancelled, the block ends first, then these, so that leadership can still be handed
        over and calls be answered. `stop` bounds how long that takes.
        """
        try:
            with self._core_scope:
                async with trio.open_nursery() as core:
                    await core.start(self._run_core)
                    with self._edge_scope:
                        async with trio.open_nursery() as edge:
                            await edge.start(self._parts.mux.serve, self._parts.port.bound.listener)
                            self._core_scope.shield = True
                            task_status.started()
                    await trio.sleep_forever()
        finally:
            self._is_over = True
            # Nothing is left to be stopped.
            self._stop_scope.cancel()

    async def _run_core(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Everything but the port, until cancelled."""
        parts = self._parts
        if exposure := parts.credentials.exposure():
            logger.warning("%s", exposure)
        self._peers.first_voters = await load_voters(parts.directory)
        await parts.peer_lives.load(is_newcomer=not self._peers.first_voters)
        try:
            async with (
                parts.nodes.running(),
                parts.forwarder.running(),
                parts.services.queues.running(),
                trio.open_nursery() as nursery,
            ):
                await nursery.start(parts.transport.run)
                nursery.start_soon(parts.disk_space.run)
                nursery.start_soon(parts.peer_lives.run)
                nursery.start_soon(self._lives.hear_claims)
                nursery.start_soon(self._lives.count_moments)
                nursery.start_soon(parts.discovery.run)
                nursery.start_soon(parts.joiner.run)
                if parts.gossip is not None:
                    nursery.start_soon(parts.gossip.run)
                if parts.gossip_socket is not None and parts.gossip_socket.keys is not None:
                    nursery.start_soon(parts.gossip_socket.keys.run)
                nursery.start_soon(self._join_cluster, nursery)
                nursery.start_soon(self._peers.end_when_disowned)
                task_status.started()
        except BaseExceptionGroup as group:
            # Tasks that wait at a group which fails get ShuttingDown; that is never why it failed.
            (_, cause) = group.split(ShuttingDown)
            raise (cause or group) from None

    async def _join_cluster(self, nursery: trio.Nursery) -> None:
        parts = self._parts
        if not self._peers.first_voters:
            await self._find_cluster()
        await parts.peer_lives.join()
        await nursery.start(parts.catch_ups.run)
        await nursery.start(parts.replicas.run, self._peers.first_voters)
        self._peers.judge_removal()
        nursery.start_soon(self._tick)
        nursery.start_soon(parts.reconciler.run)
        nursery.start_soon(parts.scrubber.run)
        await parts.replicas.catalog.wait_leader_other_than(NOBODY)
        parts.milestones.ready.set()
        self._readiness.report(parts.health)
        if parts.settings.log_to_topic:
            nursery.start_soon(make_own_lines(parts).run)

    async def _find_cluster(self) -> None:
        parts, settings = self._parts, self._parts.settings
        found = await find_cluster(parts.discovery, parts.directory, settings.cluster_name, settings.bootstraps, parts.forming)
        await save_voters(parts.directory, found.cluster_id, settings.cluster_name, found.voters)
        self._peers.first_voters = found.voters
        # Until now this node's hellos had no cluster id, and peers take no Raft messages on such links.
        parts.transport.renew_links()
        logger.info(
            "cluster %s (%s) begins with %s",
            format_id(found.cluster_id),
            settings.cluster_name,
            ", ".join(map(format_id, found.voters)),
        )

    async def _tick(self) -> None:
        parts = self._parts
        frame = encode_frame_head(FrameKind.HEARTBEATS, 0, HEARTBEATS_BODY.pack(parts.surroundings.rng.getrandbits(64)))
        short_frame = encode_frame_head(FrameKind.SHORT_OF_SPACE, 0, b"")
        ticks = 0
        while True:
            due = trio.current_time() + parts.settings.tick_seconds
            await trio.sleep_until(due)
            now = trio.current_time()
            parts.loop_lag.note(now - due, now)
            parts.replicas.tick()
            parts.liveness.tick()
            parts.disk_space.tick()
            ticks += 1
            if ticks % parts.settings.heartbeat_ticks == 0:
                for node_id in parts.transport.connected():
                    parts.transport.send(node_id, frame, Priority.URGENT)
                    if parts.disk_space.is_scarce:
                        parts.transport.send(node_id, short_frame, Priority.URGENT)
            self._readiness.report(parts.health)

    async def stop(self, seconds_max: float) -> None:
        """Outside in: accept no connection, transfer leadership, let calls finish, then stop everything else."""
        parts = self._parts
        parts.milestones.stopping.set()
        parts.membership_changes.end()
        parts.health.stop()
        parts.mux.stop_accepting()
        deadline = self._stop_scope.deadline = trio.current_time() + seconds_max
        if not self._is_over:
            with self._stop_scope:
                async with trio.open_nursery() as leaving:
                    leaving.start_soon(self._leave_gossip)
                    await self._hand_overs.hand_over_all()
                    async with trio.open_nursery() as nursery:
                        for replica in parts.replicas.all():
                            nursery.start_soon(self._hand_overs.lead_no_more, replica)
                        async with trio.open_nursery() as answering:
                            answering.start_soon(parts.http.drain, deadline)
                            await parts.server.drain(deadline)
                        nursery.cancel_scope.cancel()
                    await self._lives.next_moment()
        self._edge_scope.cancel()
        self._core_scope.cancel()

    async def _leave_gossip(self) -> None:
        gossip = self._parts.gossip
        if gossip is None:
            return
        try:
            if not await gossip.driver.leave():
                logger.warning("gossip could not be left in time: other nodes will call this one failed")
        except ShuttingDown:
            logger.debug("gossip has ended already")

    async def write_orderly_end(self) -> None:
        """The last thing of an orderly stop, once all tasks have ended."""
        await self._lives.end()
