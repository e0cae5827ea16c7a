"""What a node answers when it is asked about itself: its status, its budgets, the servers of its cluster."""

from collections.abc import Iterable

from trio_eventlog.agent.parts import NodeParts
from trio_eventlog.agent.peers import NodePeers
from trio_eventlog.budgets import DESCRIPTORS_PER_PARTITION, BudgetUse
from trio_eventlog.ids import CATALOG_GROUP, NOBODY, NodeId, format_id
from trio_eventlog.machine.catalog import Place
from trio_eventlog.net.discovery import Member
from trio_eventlog.release import VERSION
from trio_eventlog.service.cluster import group_info, unopened_group_info
from trio_eventlog.service.topics import id_text
from trio_eventlog.service.values import BudgetInfo, ClusterView, GroupInfo, NodeStatus, PeerInfo, Placement, ServerInfo

_CATALOG = Place("", 0)
"""What the catalog is called in a status: no topic has this name."""

NO_GOSSIP = (
    "this node does not gossip: TLS is on, packets cannot use it; without gossip_key_file anyone in the network could read them."
    " So nodes know of each other through --join alone, and each has to be named there"
)


class StatusAnswers:
    """Builds the answers from the parts of a running node."""

    def __init__(self, parts: NodeParts, peers: NodePeers) -> None:
        self._parts = parts
        self._peers = peers

    def status(self, catalog_only: bool = False) -> NodeStatus:
        """This node as `trio-eventlog status` shows it. Other nodes ask for the catalog alone, every second."""
        parts = self._parts
        return NodeStatus(
            id=format_id(parts.identity.node_id),
            name=parts.identity.name,
            address=parts.identity.address,
            cluster_id=format_id(parts.directory.cluster_id),
            cluster_name=parts.settings.cluster_name,
            version=VERSION,
            feature_level=parts.replicas.feature_level,
            cluster_feature_level=parts.replicas.machine.feature_level,
            groups=tuple(self._groups(catalog_only)),
            partitions_max=parts.replicas.partitions_max,
            peers=tuple(
                PeerInfo(id=format_id(member.node_id), address=member.address) for member in parts.discovery.members().values()
            ),
            budgets=tuple(
                BudgetInfo(name=budget.name, limit=budget.limit, used=budget.used, refused=budget.refused)
                for budget in self.budgets()
            ),
            warnings=tuple(self.warnings()),
        )

    def _groups(self, catalog_only: bool) -> list[GroupInfo]:
        parts = self._parts
        if catalog_only:
            catalog = parts.replicas.find(CATALOG_GROUP)
            return [] if catalog is None else [group_info(catalog, "", 0)]
        place_of = parts.replicas.machine.place_of
        groups: list[GroupInfo] = []
        for replica in parts.replicas.all():
            if (place := _CATALOG if replica.group_id == CATALOG_GROUP else place_of.get(replica.group_id)) is not None:
                groups.append(group_info(replica, place.topic, place.number))
        for group in parts.replicas.unopened():
            if (place := _CATALOG if group.group_id == CATALOG_GROUP else place_of.get(group.group_id)) is not None:
                groups.append(unopened_group_info(group, place.topic, place.number))
        return groups

    def warnings(self) -> list[str]:
        """What an operator should do something about, in words."""
        parts = self._parts
        found: list[str] = []
        degraded = [group for group in parts.replicas.unopened() if group.trouble]
        if degraded:
            found.append(
                f"{len(degraded)} of the partitions that live on {parts.identity.name} cannot be opened there for now,"
                f" {degraded[0].name} for one: {degraded[0].trouble}"
            )
        found += [parts.disk_space.problem] if parts.disk_space.problem else []
        found += [warning for warning in (parts.credentials.exposure(), self._peers.removal_warning()) if warning]
        found += [f"{replica.name}: {replica.problem}" for replica in parts.replicas.awake() if replica.problem]
        if (not_heard := self._peers.not_heard()) is not None:
            found.append(not_heard)
        found += parts.peer_lives.warnings()
        found += [NO_GOSSIP] if parts.gossip is None else parts.gossip.warnings()
        return found

    def budgets(self) -> list[BudgetUse]:
        """What this node may use at most, and what it uses now."""
        parts = self._parts
        return [
            BudgetUse(
                name="descriptors of partitions",
                limit=parts.descriptors.partitions,
                used=DESCRIPTORS_PER_PARTITION * parts.replicas.open_count,
            ),
            parts.replicas.sealed_segments.budget_use(),
            *parts.mux.budgets(),
            parts.http_bodies.use(),
            parts.http_tails.use(),
            *parts.services.consuming.budgets(),
            *parts.services.events.budgets(),
        ]

    def nodes(self) -> tuple[ServerInfo, ...]:
        """The nodes of the cluster as clients should see them."""
        parts = self._parts
        catalog = parts.replicas.find(CATALOG_GROUP)
        leader_id = catalog.leader_id if catalog is not None else NOBODY
        seen = {one.node_id: one for one in self._peers.seen()}
        known = [(parts.identity.node_id, parts.identity.name, parts.identity.address, "alive")]
        # A node that does not answer is still one of the cluster: `status` says so, and its replicas are counted on.
        known += self._as_clients_see(parts.discovery.members().values(), "alive")
        known += self._as_clients_see(parts.discovery.failed().values(), "failed")
        servers: list[ServerInfo] = []
        for node_id, name, address, state in sorted(known):
            tags: dict[str, str] = {}
            if (one := seen.get(node_id)) is not None:
                tags = dict(one.tags)
                state = "left" if one.status == "left" else state
            tags["status"] = state
            servers.append(
                ServerInfo(
                    id=format_id(node_id),
                    name=name,
                    address=address,
                    is_leader=node_id == leader_id,
                    tags=tuple(sorted(tags.items())),
                )
            )
        return tuple(servers)

    def servers(self) -> ClusterView:
        """The cluster as clients should see it."""
        parts = self._parts
        placements = tuple(
            Placement(
                topic=topic.name,
                partition=number,
                leader_id=id_text(parts.broker.leader_of(topic, number)),
                replica_ids=tuple(map(format_id, partition.wanted)),
                group_id=partition.group_id,
            )
            for topic in parts.broker.topics()
            for number, partition in enumerate(topic.partitions)
        )
        return ClusterView(
            servers=self.nodes(),
            placements=placements,
            cluster_id=format_id(parts.directory.cluster_id),
            catalog_index=parts.replicas.catalog_index,
        )

    def _as_clients_see(self, members: Iterable[Member], state: str) -> list[tuple[NodeId, str, str, str]]:
        has_catalog = self._parts.replicas.find(CATALOG_GROUP) is not None
        return [
            (member.node_id, member.name, member.address, state)
            for member in members
            # One that has only said that it is a node is shown as `members` shows it, and no client is sent there.
            if not self._peers.is_removed(member.node_id) and (not has_catalog or self._peers.is_known(member.node_id))
        ]
