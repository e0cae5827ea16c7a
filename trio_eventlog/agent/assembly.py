"""Puts a node together out of what was opened for it: every part once, in the order of `NodeParts`.

Parts are connected only here: each gets the functions that it calls, and knows nothing of the others.
"""

import logging

import attrs
import trio

from trio_eventlog import part_settings
from trio_eventlog.agent.credentials import Credentials
from trio_eventlog.agent.edge import Edge, make_mux, make_server
from trio_eventlog.agent.hand_over import HandOvers
from trio_eventlog.agent.http_face import HttpFace, make_http_server
from trio_eventlog.agent.identity import identify
from trio_eventlog.agent.life import NodeLife
from trio_eventlog.agent.lives import NodeLives
from trio_eventlog.agent.parts import Milestones, NodeParts, Opened
from trio_eventlog.agent.peers import NodePeers
from trio_eventlog.agent.readiness import Readiness
from trio_eventlog.agent.services import make_forwarding, make_handlers, make_services
from trio_eventlog.agent.status import StatusAnswers
from trio_eventlog.agent.traffic import PeerTraffic
from trio_eventlog.budgets import Allowance
from trio_eventlog.ids import GroupId
from trio_eventlog.measures import RecentMaximum
from trio_eventlog.net.discovery import HelloDiscovery
from trio_eventlog.net.join import Joiner
from trio_eventlog.net.real_limits import descriptors_max
from trio_eventlog.net.real_names import RealNames
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.net.transport import Transport
from trio_eventlog.node.bootstrap import Forming
from trio_eventlog.node.catch_up import CatchUps
from trio_eventlog.node.file_fetcher import FileFetcher
from trio_eventlog.node.gossip_discovery import make_gossip_discovery
from trio_eventlog.node.liveness import PeerLiveness
from trio_eventlog.node.peer_lives import PeerLives
from trio_eventlog.node.reconciler import Reconciler
from trio_eventlog.node.reconciler_settings import PeerAccess
from trio_eventlog.node.replicas import Replicas
from trio_eventlog.node.scrubber import Scrubber
from trio_eventlog.node.sleeping import Peers
from trio_eventlog.node.transfer_server import TransferServer, files_of_replicas
from trio_eventlog.node.transfers import Transfers
from trio_eventlog.release import VERSION
from trio_eventlog.service.broker import Broker
from trio_eventlog.service.membership_changes import MembershipChanges
from trio_eventlog.service.node_event_log import NodeEventLog
from trio_eventlog.storage.event_index import EventIndexes, MemoryEventIndexes
from trio_eventlog.storage.sqlite_event_index import SqliteEventIndexes

logger = logging.getLogger(__name__)

LAG_WINDOW_SECONDS = 15.0
"""How far back the lag of the event loop is remembered: about as far as one question of a monitoring program from the next."""


@attrs.frozen(slots=True, kw_only=True)
class Assembled:
    """A whole node that does nothing yet: its parts, and what is done with them."""

    parts: NodeParts
    readiness: Readiness
    answers: StatusAnswers
    life: NodeLife


def assemble(opened: Opened) -> Assembled:
    """Make every part. No task is started here."""
    parts = NodeParts(opened)
    _know_itself(parts)
    lives = NodeLives(parts)
    hand_overs = HandOvers(parts)
    peers = NodePeers(parts, lives, hand_overs)
    readiness = Readiness(parts, peers)
    answers = StatusAnswers(parts, peers)
    life = NodeLife(parts, peers, lives, hand_overs, readiness)
    traffic = PeerTraffic(parts, lives)
    _reach_others(parts, peers, lives, traffic, readiness)
    _keep_log(parts, peers, traffic)
    _serve_clients(parts, peers, readiness, answers)
    return Assembled(parts=parts, readiness=readiness, answers=answers, life=life)


def _know_itself(parts: NodeParts) -> None:
    settings, surroundings = parts.settings, parts.surroundings
    parts.identity = identify(settings, parts.directory.node_id, parts.port, surroundings.host_name)
    limit = surroundings.descriptors_max
    if limit is None:
        limit = descriptors_max(raises=bool(settings.raise_descriptor_limit))
    parts.descriptors = part_settings.descriptors(settings, limit)
    logger.info("%s", parts.descriptors)
    parts.credentials = Credentials(settings, parts.identity, surroundings.network)
    parts.milestones = Milestones()
    parts.loop_lag = RecentMaximum(LAG_WINDOW_SECONDS)
    parts.forming = Forming()


def _reach_others(parts: NodeParts, peers: NodePeers, lives: NodeLives, traffic: PeerTraffic, readiness: Readiness) -> None:
    settings, surroundings, rng = parts.settings, parts.surroundings, parts.surroundings.rng
    parts.peer_lives = PeerLives(
        parts.directory,
        is_member=peers.is_known,
        is_removed=peers.is_removed,
        on_accepted=lives.on_accepted,
        on_news=lives.announce,
        settings=part_settings.peer_lives(settings),
    )
    parts.transfer_server = TransferServer(
        files_of_replicas(lambda group_id: parts.replicas.find(group_id), parts.directory), part_settings.transfers(settings)
    )
    parts.transport = Transport(
        identity=peers.hello,
        network=surroundings.network,
        settings=part_settings.links(settings),
        rng=rng,
        receive=traffic.receive,
        on_event=peers.on_link_event,
        tls=parts.credentials.tls,
        admit=peers.admit,
        trusts=peers.trusts,
        secrets=parts.credentials.peer_secrets,
        recognize=parts.peer_lives.recognize,
        serve_side=parts.transfer_server.serve,
    )
    looks_up = surroundings.names is not None or isinstance(surroundings.network, RealNetwork)
    fixed, named = part_settings.addresses_to_join(settings, looks_up)
    parts.discovery = HelloDiscovery(
        fixed,
        probe=peers.probe,
        identity=peers.identity,
        settings=part_settings.discovery(settings),
        rng=rng,
        on_event=peers.on_discovery_event,
        is_known=peers.is_known,
        is_linked=parts.transport.is_connected,
    )
    parts.joiner = Joiner(
        named,
        names=surroundings.names or RealNames(settings.dns_servers),
        probe=peers.probe_place,
        on_hello=peers.meet,
        is_waiting=lambda: not readiness.knows_leader(),
        settings=part_settings.joiner(settings),
        rng=rng,
    )
    parts.membership_changes = MembershipChanges()
    parts.gossip = None
    if (socket := parts.gossip_socket) is not None:
        parts.gossip = make_gossip_discovery(
            node_id=parts.identity.node_id,
            name=parts.identity.name,
            advertised=parts.identity.address,
            cluster_name=settings.cluster_name,
            version=VERSION,
            datagrams=socket.datagrams,
            address=socket.address,
            network=surroundings.network,
            datagram_network=surroundings.datagrams,
            rng=rng,
            on_event=peers.on_gossip_discovery_event,
            on_gossip_event=peers.on_gossip_event,
            seeds=fixed,
            keyring=None if socket.keys is None else socket.keys.keyring,
            settings=part_settings.gossip(settings),
        )
    parts.liveness = PeerLiveness(
        settings.election_timeout_ticks,
        is_connected=parts.transport.is_connected,
        on_gone=lambda node_id: parts.replicas.peer_gone(node_id),
        on_back=lambda node_id: parts.replicas.peer_back(),
    )


def _keep_log(parts: NodeParts, peers: NodePeers, traffic: PeerTraffic) -> None:
    def on_deleted(group_id: GroupId) -> None:
        parts.sequences.forget(group_id)
        parts.catch_ups.stop(group_id)

    parts.replicas = Replicas(
        node_id=parts.identity.node_id,
        directory=parts.directory,
        send=traffic.send,
        settings=part_settings.replicas(parts.settings, parts.descriptors),
        rng=parts.surroundings.rng,
        now_ns=parts.surroundings.now_ns,
        peers=Peers(reach=parts.liveness.reach, send_sleep=traffic.send_sleep),
        on_removed=parts.milestones.removed.set,
        on_deleted=on_deleted,
        feature_level=parts.surroundings.feature_level,
        noted=parts.own_lives.extents,
        accepts_loss=parts.settings.accept_loss,
        is_alone=lambda: not parts.peer_lives.has_known,
        space=parts.disk_space,
        event_indexes=_event_indexes(parts),
        on_snapshot=lambda group_id, name, message: parts.catch_ups.offer(group_id, name, message),
    )
    transfers = part_settings.transfers(parts.settings)
    fetcher = FileFetcher(
        Transfers(parts.transport.open_side, transfers),
        parts.directory.disk,
        transfers,
        parts.surroundings.rng,
        parts.settings.index_interval_bytes,
    )
    parts.catch_ups = CatchUps(
        fetcher,
        parts.directory,
        transfers,
        rng=parts.surroundings.rng,
        sources=peers.sources,
        reinstall=parts.replicas.reinstall,
        send_report=traffic.send_report,
    )
    parts.scrubber = Scrubber(parts.replicas.all, part_settings.scrub(parts.settings))
    parts.broker = Broker(parts.replicas)
    parts.reconciler = Reconciler(
        parts.identity.node_id,
        parts.identity.name,
        parts.identity.address,
        parts.replicas,
        PeerAccess(
            members=parts.discovery.members,
            is_connected=parts.transport.is_connected,
            ask=peers.ask,
            meet=parts.transport.set_peer,
            forget=parts.transport.remove_peer,
        ),
        part_settings.reconciler(parts.settings),
        first_voters=lambda: len(peers.first_voters),
    )


def _event_indexes(parts: NodeParts) -> EventIndexes:
    surroundings = parts.surroundings
    if surroundings.event_indexes is not None:
        return surroundings.event_indexes
    if surroundings.disk is not None:
        return MemoryEventIndexes()
    # Apart from the threads that append: an index that waits for the disk holds up no log.
    return SqliteEventIndexes(trio.CapacityLimiter(parts.settings.disk_threads), parts.settings.event_index_cache_bytes)


def _serve_clients(parts: NodeParts, peers: NodePeers, readiness: Readiness, answers: StatusAnswers) -> None:
    make_forwarding(parts, peers)
    make_services(parts, peers, answers)
    handlers = make_handlers(parts)
    readiness.report(parts.health)
    edge = Edge(parts)
    parts.event_log = NodeEventLog(
        parts.services, part_settings.application(parts.settings), parts.surroundings.rng, parts.surroundings.now_ns
    )
    parts.http_bodies = Allowance("bytes of HTTP bodies", parts.settings.http_bodies_bytes_max)
    parts.http_tails = Allowance("live tails over HTTP", parts.settings.http_tails_max)
    parts.http = make_http_server(parts, HttpFace(parts, readiness, answers))
    parts.server = make_server(parts, handlers)
    parts.mux = make_mux(parts, edge)
