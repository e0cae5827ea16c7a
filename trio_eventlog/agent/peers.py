"""Other nodes: the hellos they get, which of them are trusted, and what follows when links, hellos and gossip report something."""

import logging

import attrs
import trio

from trio_eventlog.agent.hand_over import HandOvers
from trio_eventlog.agent.lives import NodeLives
from trio_eventlog.agent.membership_changes import gossip_change, hello_change
from trio_eventlog.agent.parts import NodeParts
from trio_eventlog.codec.peer_frame import Hello, Refused, RefusedCode
from trio_eventlog.errors import NodeRemoved
from trio_eventlog.gossip.events import Event as GossipEvent
from trio_eventlog.gossip.events import KeysChanged
from trio_eventlog.ids import CATALOG_GROUP, NO_CLUSTER, NOBODY, NodeId, format_id
from trio_eventlog.net.discovery import DiscoveryEvent, MemberAppeared, MemberChanged, MemberForgotten
from trio_eventlog.net.join import Place
from trio_eventlog.net.links import LinkRefused
from trio_eventlog.net.mux import ConnectionInfo
from trio_eventlog.net.network import split_address
from trio_eventlog.net.transport import Inbound, LinkEvent, PeerConnected, PeerIntroduced, PeerRefused, PeerReset
from trio_eventlog.node.catalog_follower import REMOVED_TEXT
from trio_eventlog.node.gossip_discovery import Seen
from trio_eventlog.node.membership import quorum
from trio_eventlog.node.node_reports import NodeReport
from trio_eventlog.node.removal import RemovalVerdict
from trio_eventlog.raft import Configuration
from trio_eventlog.service.cluster import ask_node

logger = logging.getLogger(__name__)

FAREWELL_SECONDS_MAX = 2.0
"""Seconds for which a node that others refuse as removed waits for its tombstone in its own log."""


class NodePeers:
    """What a node announces to other nodes, and which of their announcements it accepts.

    Attributes:
        first_voters: the nodes that the cluster began with; empty until this node belongs to one.
    """

    def __init__(self, parts: NodeParts, lives: NodeLives, hand_overs: HandOvers) -> None:
        self._parts = parts
        self._lives = lives
        self._hand_overs = hand_overs
        self.first_voters: tuple[NodeId, ...] = ()
        self._not_heard_by: dict[NodeId, str] = {}
        """Peers that take another process for this node, and the texts of their refusals."""
        self._removal = RemovalVerdict(parts.identity.node_id)
        self._disowned: NodeRemoved | None = None
        self._disowned_wanted = trio.Event()

    # What this node announces

    def hello(self) -> Hello:
        """The hello on links: with the first voters once they are known, with the candidates heard of before."""
        return attrs.evolve(self.identity(), known_ids=self.first_voters or self._parts.discovery.told_ids())

    def identity(self) -> Hello:
        """The hello without other nodes."""
        parts = self._parts
        oldest, newest = parts.surroundings.protocol_versions
        return Hello(
            node_id=parts.identity.node_id,
            cluster_name=parts.settings.cluster_name,
            node_name=parts.identity.name,
            address=parts.identity.address,
            cluster_id=parts.directory.cluster_id,
            bootstrap_expect=parts.settings.bootstraps,
            has_data=parts.directory.cluster_id != NO_CLUSTER,
            protocol_version=newest,
            # Peers of one version only are told nothing else: that is the hello of the releases before there were two.
            oldest_protocol_version=oldest if oldest != newest else 0,
            lives=parts.own_lives.lives,
        )

    # Whom this node trusts

    def is_known(self, node_id: NodeId) -> bool:
        """Whether the node is of this cluster as far as our own log says."""
        replicas = self._parts.replicas
        catalog = replicas.find(CATALOG_GROUP)
        return node_id in self.first_voters or (
            catalog is not None and (node_id in replicas.machine.nodes or node_id in catalog.status().configuration.nodes)
        )

    def is_removed(self, node_id: NodeId) -> bool:
        return node_id in self._parts.replicas.removed

    def trusts(self, inbound: Inbound) -> bool:
        """Whether Raft is taken on a link: only from a node of this very cluster that our log knows or our own link has met."""
        hello = inbound.hello
        cluster_id = self._parts.directory.cluster_id
        if cluster_id == NO_CLUSTER or hello.cluster_id != cluster_id or self.is_removed(hello.node_id):
            return False
        return inbound.has_met or (inbound.is_proved and self.is_known(hello.node_id))

    def admit(self, hello: Hello, info: ConnectionInfo) -> Refused | None:
        if self.is_removed(hello.node_id):
            return Refused(RefusedCode.REMOVED, REMOVED_TEXT.format(format_id(hello.node_id)))
        return None

    # Meeting them

    async def probe(self, address: str, host: str = "") -> Hello:
        """Dial `address` and ask which node is there.

        Raises:
            LinkRefused, OSError: as `Transport.probe`.
        """
        try:
            return await self._parts.transport.probe(address, host)
        except LinkRefused as error:
            if error.by is not None:
                # It refuses this node, but it is there: the link to it asks again, and what the link is told counts.
                self._parts.discovery.met(error.by, address)
            raise

    async def probe_place(self, place: Place) -> Hello:
        return await self.probe(place.address, place.host)

    def meet(self, hello: Hello) -> None:
        """A node that this one has dialled has answered."""
        self._parts.discovery.met(hello, hello.address)
        if self._parts.gossip is not None:
            self._parts.gossip.introduce(hello)

    def seen(self) -> list[Seen]:
        """The members that gossip knows."""
        return [] if self._parts.gossip is None else self._parts.gossip.seen()

    async def connect(self, node_id: NodeId) -> trio.abc.Stream:
        """A connection for gRPC to another node; TLS as this node has it.

        Raises:
            OSError: the node's address is not known, or nothing answers there in time.
        """
        parts = self._parts
        member = parts.discovery.members().get(node_id)
        if member is None:
            raise OSError("its address is not known")
        with trio.move_on_after(parts.settings.connect_timeout_seconds):
            stream = await parts.surroundings.network.open_stream(member.address)
            tls = parts.credentials.tls
            if tls is None:
                return stream
            host = tls.peer_name or split_address(member.address)[0]
            return trio.SSLStream(stream, tls.grpc_context(), server_hostname=host, https_compatible=True)
        raise TimeoutError(f"{member.address} did not answer within {parts.settings.connect_timeout_seconds:g} s")

    def sources(self, configuration: Configuration, leader: NodeId) -> list[NodeId]:
        """The nodes of a group to fetch its files from, those that are connected, in the order in which to ask them.

        The leader is the last one: it has the most to do.
        """
        others = (node_id for node_id in configuration.nodes if self._parts.transport.is_connected(node_id))
        return sorted(others, key=lambda node_id: (node_id == leader, node_id))

    async def ask(self, node_id: NodeId, with_partitions: bool) -> NodeReport:
        """Ask another node for its own status."""
        return await ask_node(self._parts.nodes, node_id, with_partitions)

    # What they say of this node

    def removal_warning(self) -> str:
        """What is known of others that call this node removed, while they are too few to be believed; "" when none does."""
        return self._removal.warning(self._catalog_voters())

    def judge_removal(self) -> None:
        """Called when a peer has called this node removed, and when the node's log has been opened."""
        voters = self._catalog_voters()
        if self._removal.is_certain(voters):
            self._disowned = NodeRemoved(self._removal.text(voters))
            self._disowned_wanted.set()
        elif warning := self._removal.warning(voters):
            logger.warning("%s", warning)

    async def end_when_disowned(self) -> None:
        """End a node that missed its own removal, once the nodes that it dials have refused it as removed.

        Raises:
            NodeRemoved: always, unless its own log has its tombstone first.
        """
        await self._disowned_wanted.wait()
        assert self._disowned is not None
        # A node that is being removed just now may hear it on links before its own log has it; then it ends in good order.
        with trio.move_on_after(FAREWELL_SECONDS_MAX):
            await self._parts.milestones.removed.wait()
            return
        raise self._disowned

    def not_heard(self) -> str | None:
        """Why this process cannot reach a quorum as this node: too many voters take another process for it. None: it can.

        It counts their refusals on links that this node has dialled. The node does not end because of them: any process that
        answers at such an address could send one.
        """
        catalog = self._parts.replicas.find(CATALOG_GROUP)
        voters = catalog.configuration.voters if catalog is not None else frozenset(self.first_voters)
        refusing = sorted(voters & self._not_heard_by.keys())
        if not refusing or len(voters) - len(refusing) >= quorum(voters):
            return None
        own_id = format_id(self._parts.identity.node_id)
        return (
            f"this process is not heard: for {', '.join(map(format_id, refusing))} another one is node {own_id}"
            f" ({self._not_heard_by[refusing[0]]})"
        )

    def _catalog_voters(self) -> frozenset[NodeId]:
        """The voters of the catalog as this node has them in its own log."""
        catalog = self._parts.replicas.find(CATALOG_GROUP)
        return catalog.status().configuration.all_voters if catalog is not None else frozenset()

    # What links, hellos and gossip report

    def on_link_event(self, event: LinkEvent) -> None:
        parts = self._parts
        match event:
            case PeerConnected(node_id=node_id, hello=hello):
                self._not_heard_by.pop(node_id, None)
                self._lives.send_known(node_id)
                self._removal.takes_back(node_id)
                self.meet(hello)
                parts.nodes.on_link_renewed(node_id)
                parts.reconciler.on_connected(node_id)
                parts.liveness.connected(node_id)
            case PeerIntroduced(hello=hello):
                # A node has dialled this one and says who it is: a probe of its address shows whether that is so.
                parts.discovery.introduce(hello)
            case PeerReset(node_id=node_id):
                parts.nodes.on_link_lost(node_id)
                parts.liveness.lost(node_id)
                self._hand_overs.peer_lost(node_id)
                parts.replicas.report_unreachable(node_id)
                parts.replicas.peer_reset(node_id)
            case PeerRefused(code=RefusedCode.REMOVED, is_ours=False, by=node_id) if node_id != NOBODY:
                self._removal.says(node_id, event.text)
                self.judge_removal()
            case PeerRefused(code=RefusedCode.NOT_THIS_LIFE, is_ours=False, by=node_id) if node_id != NOBODY:
                self._not_heard_by[node_id] = event.text
            case PeerRefused():
                pass  # The links log it, as they do what the others are about; nothing follows from it here.

    def on_discovery_event(self, event: DiscoveryEvent) -> None:
        parts = self._parts
        if parts.gossip is None and (change := hello_change(event)) is not None:
            parts.membership_changes.publish(change)
        node_id = event.member.node_id
        if isinstance(event, MemberForgotten):
            parts.transport.remove_peer(node_id)
        elif isinstance(event, MemberAppeared | MemberChanged) and not self.is_removed(node_id):
            parts.transport.set_peer(node_id, event.member.address)
            if parts.gossip is not None:
                parts.gossip.introduce(parts.discovery.hello(node_id))

    def on_gossip_discovery_event(self, event: DiscoveryEvent) -> None:
        """Gossip only says where a node might be: the hello proves which one is there."""
        gossip = self._parts.gossip
        assert gossip is not None
        members = gossip.members().values()
        self._parts.discovery.set_hints(member.address for member in members if not self.is_removed(member.node_id))

    def on_gossip_event(self, event: GossipEvent) -> None:
        gossip = self._parts.gossip
        assert gossip is not None
        if (change := gossip_change(event, gossip, self._parts.identity.node_id)) is not None:
            self._parts.membership_changes.publish(change)
        socket = self._parts.gossip_socket
        if isinstance(event, KeysChanged) and socket is not None and socket.keys is not None:
            socket.keys.on_changed()
