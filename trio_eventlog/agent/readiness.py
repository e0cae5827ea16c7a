"""Whether a node should be given work, and the probes that report it."""

from trio_eventlog.agent.parts import NodeParts
from trio_eventlog.agent.peers import NodePeers
from trio_eventlog.grpc.health import Health
from trio_eventlog.ids import NOBODY
from trio_eventlog.v1 import admin_pb2, event_log_pb2

HEALTH_NAMES = (
    "",  # the node as a whole
    event_log_pb2.DESCRIPTOR.services_by_name["EventLog"].full_name,
    admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name,
)


class Readiness:
    """Answers of probes: `/readyz`, and the health service of gRPC, which is updated at each tick."""

    def __init__(self, parts: NodeParts, peers: NodePeers) -> None:
        self._parts = parts
        self._peers = peers

    def knows_leader(self) -> bool:
        """Whether the node belongs to a cluster and knows who leads its catalog."""
        return self._parts.milestones.ready.is_set() and self._parts.replicas.catalog.leader_id != NOBODY

    def unready_because(self) -> str:
        """Why this node should be given no work just now; "" when it should.

        Nothing that brings a cluster about waits for this: nodes that are not ready find each other, vote and replicate.
        """
        parts = self._parts
        if parts.milestones.stopping.is_set():
            return "the node is stopping"
        if (not_heard := self._peers.not_heard()) is not None:
            return not_heard
        # At each tick: only groups that are awake are looked at. One that has stopped applying never sleeps.
        for replica in parts.replicas.awake():
            if replica.stopped_because:
                return f"{replica.name}: {replica.stopped_because}"
        if not parts.milestones.ready.is_set():
            reason = f": {parts.forming.waits_for}" if parts.forming.waits_for else ""
            return f"the node has not found a cluster with a leader yet{reason}"
        if not self.knows_leader():
            return "no leader of the catalog is known: there is an election, or no quorum"
        opening = parts.replicas.opening_at_start()
        if opening:
            return f"{opening} partitions are being opened"
        for replica in parts.replicas.awake():
            if replica.entries_behind > parts.settings.catch_up_entries_max:
                return f"{replica.name} is {replica.entries_behind} entries behind"
        return ""

    def report(self, health: Health) -> None:
        """Bring the health service of gRPC up to date."""
        is_ready = not self.unready_because()
        for name in HEALTH_NAMES:
            health.set_serving(is_ready, name)
