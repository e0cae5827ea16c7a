"""A whole node, put together: the one place that knows every part.

Started inside out, so that "started" means "listening and able to work"; stopped outside in, so that nobody is cut off who could
have been served. docs/design/architecture.md has the picture of the nurseries.
"""

import importlib.metadata
import ipaddress
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from trio_eventlog import part_settings
from trio_eventlog.budgets import DESCRIPTORS_PER_PARTITION, Allowance, BudgetUse
from trio_eventlog.client.producer_core import ProduceResult
from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.lives import Claim, decode_claim, encode_claim
from trio_eventlog.codec.peer_frame import (
    HEARTBEATS_BODY,
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    FrameKind,
    Hello,
    Refused,
    RefusedCode,
    encode_frame,
    encode_frame_head,
)
from trio_eventlog.codec.peer_secret import PeerSecrets
from trio_eventlog.codec.raft_message import decode_message, encode_message
from trio_eventlog.errors import CodecError, DataDirectoryError, EventLogError, NodeRemoved, NotLeader, SettingsError, ShuttingDown
from trio_eventlog.gossip.events import Event as GossipEvent
from trio_eventlog.gossip.events import KeysChanged
from trio_eventlog.gossip.messages import Address
from trio_eventlog.http.server import answer_probe, health_handler, probe_head, serve_http
from trio_eventlog.ids import CATALOG_GROUP, NO_CLUSTER, NOBODY, GroupId, NodeId, format_id, new_node_id
from trio_eventlog.machine.catalog import FEATURE_LEVEL
from trio_eventlog.net.datagrams import DatagramNetwork, Datagrams
from trio_eventlog.net.discovery import (
    DiscoveryEvent,
    DiscoverySettings,
    HelloDiscovery,
    MemberAppeared,
    MemberChanged,
    MemberForgotten,
)
from trio_eventlog.net.join import Joiner, Place
from trio_eventlog.net.line_budget import LineBudget
from trio_eventlog.net.links import Lane, LinkRefused
from trio_eventlog.net.mux import ConnectionInfo, Mux
from trio_eventlog.net.names import Names
from trio_eventlog.net.network import Network, join_address, split_address
from trio_eventlog.net.peer_secret import SecretFile
from trio_eventlog.net.port import Port, open_port
from trio_eventlog.net.real_datagrams import RealDatagramNetwork
from trio_eventlog.net.real_limits import descriptors_max
from trio_eventlog.net.real_names import RealNames
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.net.tls import FileTls, why_refused_by_peers
from trio_eventlog.net.transport import Inbound, LinkEvent, PeerConnected, PeerIntroduced, PeerRefused, PeerReset, Transport
from trio_eventlog.node.bootstrap import Forming, find_cluster, load_voters, save_voters
from trio_eventlog.node.broker import Broker
from trio_eventlog.node.catalog_follower import REMOVED_TEXT
from trio_eventlog.node.gossip_discovery import Seen, make_gossip_discovery
from trio_eventlog.node.gossip_keys import KeyFile
from trio_eventlog.node.inbox import Received
from trio_eventlog.node.liveness import PeerLiveness
from trio_eventlog.node.membership import quorum
from trio_eventlog.node.peer_lives import PeerLives, PeerLivesSettings
from trio_eventlog.node.raft_driver import Peers
from trio_eventlog.node.reconciler import NodeReport, Reconciler
from trio_eventlog.node.reconciler import Surroundings as ReconcilerSurroundings
from trio_eventlog.node.removal import RemovalVerdict
from trio_eventlog.node.replica import Replica
from trio_eventlog.node.replicas import Replicas
from trio_eventlog.raft import Message, MessageType
from trio_eventlog.records import Acks, Record
from trio_eventlog.rpc import Peer, Server
from trio_eventlog.service.admin import AdminService, group_status, id_text, unopened_status
from trio_eventlog.service.event_log import EventLogService
from trio_eventlog.service.forwarding import Forwarder
from trio_eventlog.service.health import Health
from trio_eventlog.service.lanes import Lanes
from trio_eventlog.service.membership import MembershipAdministration, ask_node
from trio_eventlog.service.reflection import reflection_services
from trio_eventlog.service.topics import TopicAdministration
from trio_eventlog.settings import NodeSettings, is_loopback, is_wildcard
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.disk import Disk, is_shortage
from trio_eventlog.storage.lives import OwnLives, begin_life
from trio_eventlog.storage.patient_disk import PatientDisk
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.v1 import admin_pb2, event_log_pb2

logger = logging.getLogger(__name__)

VERSION = importlib.metadata.version("trio-eventlog")
_OWN_SERVICES = (
    event_log_pb2.DESCRIPTOR.services_by_name["EventLog"],
    admin_pb2.DESCRIPTOR.services_by_name["Admin"],
)
_HEALTH_NAMES = ("", *(service.full_name for service in _OWN_SERVICES))
ANYBODY_IS_A_NODE = (
    "whoever reaches {} can be a node of this cluster, lead it and write what it likes: there is neither TLS nor a peer secret."
    " Give all nodes a peer_secret_file, or TLS with tls_peer_name, or let only nodes reach the port"
)
HOSTS_ARE_NODES = (
    "who has a certificate of tls_ca for a host where it can listen can be a node of this cluster: give the certificates of nodes"
    " a name that no client's has (tls_peer_name), or all nodes a peer_secret_file"
)
NO_GOSSIP = (
    "this node does not gossip: TLS is on, packets cannot be TLS, and without gossip_key_file everybody could read them."
    " So nodes know of each other through --join alone, and each has to be named there"
)
MOMENT_SECONDS = 5.0
"""A node that writes moves to another moment of its life this often, and tells its peers: a copy made before that is refused."""
CLAIMS_MAX = 1024
"""What peers have said of lives, not looked at yet; more is dropped, and said again when a link comes up."""
FAREWELL_SECONDS_MAX = 2.0
"""How long a node that others refuse as removed waits for its own log to say so."""
ID_DIGITS_IN_NAME = 6
HAND_OVER_SECONDS_MAX = 2.0
"""How long a stopping leader waits for another to take over."""
CANCELLED_STOP_SECONDS_MAX = 1.0
"""How long a stop may take when the embedding block was left by an exception."""


@attrs.frozen(slots=True, kw_only=True)
class Surroundings:
    """The seams: what a node is given of the world. The defaults are the real ones.

    Attributes:
        network: where it dials and listens.
        datagrams: where its packets come and go; of one node only.
        names: how names in `join` are looked up. None: as the system does; but another network than the system's may know hosts
            that the system does not, and there each is dialled as it is written.
        disk: where its data directory is.
        rng: for ids, jitter and election timeouts.
        now_ns: the wall clock, nanoseconds since 1970 UTC; only stamped into records, never waited on.
        protocol_versions: of peer links: the oldest and the newest that the node says it speaks. Simulated upgrades say others.
        feature_level: the highest that the node says it speaks. Simulated upgrades say others.
        descriptors_max: how many files and connections may be open. None: what the process is allowed.
        host_name: what a node without a name is called after, with the beginning of its id, since other nodes may be on the same
            host. "": only the id is its name.
    """

    network: Network = attrs.field(factory=RealNetwork)
    datagrams: DatagramNetwork = attrs.field(factory=RealDatagramNetwork)
    names: Names | None = None
    disk: Disk | None = None
    rng: random.Random = attrs.field(factory=random.SystemRandom)
    now_ns: Callable[[], int] = time.time_ns
    protocol_versions: tuple[int, int] = (OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION)
    feature_level: int = FEATURE_LEVEL
    descriptors_max: int | None = None
    host_name: str = ""


@attrs.frozen(slots=True, kw_only=True)
class _GossipParts:
    """What a node's gossip needs and has to be waited for."""

    datagrams: Datagrams
    address: Address
    keys: KeyFile | None


class Node:
    """A running node, as an embedding application and the daemon see it. Made by `open_node`.

    Attributes:
        node_id: made at first start, kept for ever.
        name: for people.
        listening_on: the bound "host:port", with the real port when 0 was asked for.
        address: the "host:port" that others are told.
        broker: produce and consume on this very node; other nodes' partitions are not reached through it.
        descriptors: how the descriptors of the process are divided.
    """

    def __init__(
        self,
        settings: NodeSettings,
        surroundings: Surroundings,
        directory: DataDirectory,
        lives: OwnLives,
        port: Port,
        gossip: _GossipParts | None,
    ) -> None:
        self.node_id = directory.node_id
        self.listening_on = port.address
        self.address = _advertised(settings, port, surroundings.host_name)
        self.name = settings.node_name or default_name(surroundings.host_name, self.node_id)
        self._settings = settings
        self._surroundings = surroundings
        self._directory = directory
        self._lives = lives
        self._writes_told = 0
        self._not_heard_by: dict[NodeId, str] = {}
        """Peers that do not take this process for this node, and what they say."""
        self._claims, self._claims_received = trio.open_memory_channel[tuple[NodeId, Claim]](CLAIMS_MAX)
        self._peer_lives = PeerLives(
            directory,
            is_member=self._is_known,
            is_removed=lambda node_id: node_id in self._replicas.removed,
            on_accepted=self._on_life_accepted,
            on_news=self._tell_life,
            settings=PeerLivesSettings(),
        )
        self._port = port
        self._keys = None if gossip is None else gossip.keys
        self._voters: tuple[NodeId, ...] = ()
        self._ready = trio.Event()
        self._stopping = trio.Event()
        self._removed = trio.Event()
        self._forming = Forming()
        self._removal = RemovalVerdict(self.node_id)
        self._disowned: NodeRemoved | None = None
        self._disowned_wanted = trio.Event()
        self._core_scope = trio.CancelScope()
        self._edge_scope = trio.CancelScope()
        self._stop_scope = trio.CancelScope()
        self._hand_overs: dict[GroupId, trio.CancelScope] = {}
        self._is_over = False
        self._dropped_lines = LineBudget(logger, "messages that cannot be read")
        limit = surroundings.descriptors_max
        if limit is None:
            limit = descriptors_max(raises=bool(settings.raise_descriptor_limit))
        self.descriptors = part_settings.descriptors(settings, limit)
        logger.info("%s", self.descriptors)
        rng = surroundings.rng
        tls_settings = part_settings.tls(settings)
        self._tls = FileTls(tls_settings) if tls_settings is not None else None
        self._secret_file = SecretFile(settings.peer_secret_file) if settings.peer_secret_file else None
        self._judge_certificate()
        self._transport = Transport(
            identity=self._hello,
            network=surroundings.network,
            settings=part_settings.links(settings),
            rng=rng,
            receive=self._receive,
            on_event=self._on_link_event,
            tls=self._tls,
            admit=self._admit,
            trusts=self._trusts,
            secrets=self._peer_secrets,
            recognize=self._peer_lives.recognize,
        )
        looks_up = surroundings.names is not None or isinstance(surroundings.network, RealNetwork)
        fixed, named = part_settings.addresses_to_join(settings, looks_up)
        self._discovery = HelloDiscovery(
            fixed,
            probe=self._probe,
            identity=self._identity,
            settings=DiscoverySettings(),
            rng=rng,
            on_event=self._on_discovery_event,
            is_known=self._is_known,
            is_linked=self._transport.is_connected,
        )
        self._joiner = Joiner(
            named,
            names=surroundings.names or RealNames(settings.dns_servers),
            probe=self._probe_place,
            on_hello=self._meet,
            is_waiting=lambda: not self._knows_leader,
            settings=part_settings.joiner(settings),
            rng=rng,
        )
        self._gossip = (
            None
            if gossip is None
            else make_gossip_discovery(
                node_id=self.node_id,
                name=self.name,
                advertised=self.address,
                cluster_name=settings.cluster_name,
                version=VERSION,
                datagrams=gossip.datagrams,
                address=gossip.address,
                network=surroundings.network,
                datagram_network=surroundings.datagrams,
                rng=rng,
                on_event=self._on_gossip_discovery_event,
                on_gossip_event=self._on_gossip_event,
                seeds=fixed,
                keyring=None if gossip.keys is None else gossip.keys.keyring,
                settings=part_settings.gossip(settings),
            )
        )
        self._liveness = PeerLiveness(
            settings.election_timeout_ticks,
            is_connected=self._transport.is_connected,
            on_gone=lambda node_id: self._replicas.peer_gone(node_id),
            on_back=lambda node_id: self._replicas.peer_back(),
        )
        self._replicas = Replicas(
            node_id=self.node_id,
            directory=directory,
            send=self._send,
            settings=part_settings.replicas(settings, self.descriptors),
            rng=rng,
            peers=Peers(reach=self._liveness.reach, send_sleep=self._send_sleep),
            on_removed=self._removed.set,
            on_deleted=self._forget_group,
            feature_level=surroundings.feature_level,
            noted=lives.extents,
            accepts_loss=settings.accept_loss,
            is_alone=lambda: not self._peer_lives.has_known,
        )
        self.broker = Broker(self._replicas)
        rpc = part_settings.rpc(settings)
        self._forwarder = Forwarder(
            self.node_id,
            self.broker.group,
            self._connect,
            part_settings.forwarding(settings),
            rpc,
            rng,
        )
        topics = TopicAdministration(self.broker, self._forwarder, visible_seconds_max=settings.forward_timeout_seconds)
        service_settings = part_settings.service(settings)
        self._lanes = Lanes(rng, service_settings.lanes_idle_max)
        self._event_log = EventLogService(
            self.broker,
            topics,
            self._forwarder,
            self._lanes,
            service_settings,
            now_ns=surroundings.now_ns,
            servers=self.servers,
            ready=self._ready,
            stopping=self._stopping,
        )
        self._reconciler = Reconciler(
            self.node_id,
            self.name,
            self.address,
            self._replicas,
            ReconcilerSurroundings(
                members=self._discovery.members,
                is_connected=self._transport.is_connected,
                ask=self._ask,
                meet=self._transport.set_peer,
                forget=self._transport.remove_peer,
            ),
            part_settings.reconciler(settings),
            first_voters=lambda: len(self._voters),
        )
        admin = AdminService(
            self.broker,
            topics,
            self._forwarder,
            MembershipAdministration(self.broker, self._reconciler, self._forwarder, self._seen),
            status=self.status,
            ready=self._ready,
            transfer_seconds_max=HAND_OVER_SECONDS_MAX,
            creates_topics=service_settings.creates_topics,
        )
        services = [self._event_log.service(), admin.service()]
        self._health = Health()
        self._tell_health()
        services.append(self._health.service())
        self._server = Server([*services, *reflection_services(services)], rpc, self._answer_get)
        self._http_bodies = Allowance("bytes of HTTP request bodies", settings.http_bodies_bytes_max)
        self._mux = Mux(
            part_settings.mux(settings, self.descriptors),
            grpc=self._serve_grpc,
            http=self._serve_http,
            peer=self._transport.handle_inbound,
            gossip=None if self._gossip is None else self._gossip.driver.handle_stream,
            tls=self._tls,
        )

    # For embedding applications

    async def wait_ready(self) -> None:
        """Until the node belongs to a cluster and knows who leads its catalog."""
        await self._ready.wait()

    @property
    def _knows_leader(self) -> bool:
        return self._ready.is_set() and self._replicas.catalog.leader_id != NOBODY

    def unready_because(self) -> str:
        """Why this node should be given no work just now; "" when it should.

        Nothing that brings a cluster about waits for this: nodes that are not ready find each other, vote and replicate.
        """
        if self._stopping.is_set():
            return "the node is stopping"
        if (not_heard := self._not_heard()) is not None:
            return not_heard
        # At each tick: only groups that are awake are looked at. One that has stopped applying never sleeps.
        for replica in self._replicas.awake():
            if replica.stopped_because:
                return f"{replica.name}: {replica.stopped_because}"
        if not self._ready.is_set():
            reason = f": {self._forming.waits_for}" if self._forming.waits_for else ""
            return f"the node has not found a cluster with a leader yet{reason}"
        if not self._knows_leader:
            return "no leader of the catalog is known: an election is under way, or there is no quorum"
        opening = self._replicas.opening_at_start()
        if opening:
            return f"{opening} partitions are being opened"
        for replica in self._replicas.awake():
            if replica.entries_behind > self._settings.catch_up_entries_max:
                return f"{replica.name} is {replica.entries_behind} entries behind"
        return ""

    def _not_heard(self) -> str | None:
        """What is the matter when so many voters take another process for this node that the others are no quorum.

        They said so on links that this node has dialled, to where it believes them to be. No reason to end: anybody may say so.
        """
        catalog = self._replicas.find(CATALOG_GROUP)
        voters = catalog.driver.configuration.voters if catalog is not None else frozenset(self._voters)
        refusing = sorted(voters & self._not_heard_by.keys())
        if not refusing or len(voters) - len(refusing) >= quorum(voters):
            return None
        return (
            f"this process is not heard: for {', '.join(map(format_id, refusing))} another one is node {format_id(self.node_id)}"
            f" ({self._not_heard_by[refusing[0]]})"
        )

    async def wait_removed(self) -> None:
        """Until the cluster has removed this node, for ever: whoever runs it should end it then."""
        await self._removed.wait()

    async def produce(
        self, topic: str, records: Sequence[Record], *, partition: int | None = None, acks: Acks = Acks.QUORUM
    ) -> ProduceResult:
        """Append `records` as one batch to one partition and wait for the acknowledgement, wherever the partition's leader is.

        Raises:
            EventLogError: as a remote client would see it.
        """
        await self._ready.wait()
        response = await self._event_log.produce_records(topic, records, partition=partition, acks=acks)
        return ProduceResult(
            topic=response.topic,
            partition=response.partition,
            base_offset=response.base_offset,
            record_count=response.record_count,
            duplicate=response.duplicate,
        )

    def reload_certificates(self) -> None:
        """Read certificate, key and authority again, and the peer secret; connections that are open stay as they are.

        Raises:
            SettingsError: the files cannot be used; those read before stay in use.
        """
        if self._secret_file is not None:
            self._secret_file.reload()
        if self._tls is not None:
            self._tls.reload()
            self._judge_certificate()

    def status(self, catalog_only: bool = False) -> admin_pb2.GetStatusResponse:
        """This node as `trio-eventlog status` shows it."""
        response = admin_pb2.GetStatusResponse(
            id=format_id(self.node_id),
            name=self.name,
            address=self.address,
            cluster_id=format_id(self._directory.cluster_id),
            cluster_name=self._settings.cluster_name,
            version=VERSION,
            feature_level=self._replicas.feature_level,
            cluster_feature_level=self._replicas.machine.feature_level,
        )
        places = {CATALOG_GROUP: ("", 0)}
        if not catalog_only:  # which other nodes ask for every second
            places |= {
                partition.group_id: (topic.name, number)
                for topic in self.broker.topics()
                for number, partition in enumerate(topic.partitions)
            }
        catalog = self._replicas.find(CATALOG_GROUP)
        replicas = self._replicas.all() if not catalog_only else [catalog] if catalog is not None else []
        response.groups.extend(
            group_status(replica, *places[replica.group_id]) for replica in replicas if replica.group_id in places
        )
        unopened = self._replicas.unopened()
        if not catalog_only:
            response.groups.extend(
                unopened_status(group, *places[group.group_id]) for group in unopened if group.group_id in places
            )
        degraded = [group for group in unopened if group.trouble]
        if degraded:
            response.warnings.append(
                f"{len(degraded)} of the partitions that live on {self.name} cannot be opened there for now, {degraded[0].name} for"
                f" one: {degraded[0].trouble}"
            )
        response.partitions_max = self._replicas.partitions_max
        response.peers.extend(
            admin_pb2.Peer(id=format_id(member.node_id), address=member.address) for member in self._discovery.members().values()
        )
        response.budgets.extend(
            admin_pb2.Budget(name=budget.name, limit=budget.limit, used=budget.used, refused=budget.refused)
            for budget in self.budgets()
        )
        if exposure := self._exposure():
            response.warnings.append(exposure)
        if warning := self._removal.warning(self._catalog_voters):
            response.warnings.append(warning)
        response.warnings.extend(
            f"{replica.name}: {replica.stopped_because}" for replica in self._replicas.awake() if replica.stopped_because
        )
        if (not_heard := self._not_heard()) is not None:
            response.warnings.append(not_heard)
        response.warnings.extend(self._peer_lives.warnings())
        response.warnings.extend([NO_GOSSIP] if self._gossip is None else self._gossip.warnings())
        return response

    def budgets(self) -> list[BudgetUse]:
        """What this node may use at most, and what it uses now."""
        return [
            BudgetUse(
                name="descriptors of partitions",
                limit=self.descriptors.partitions,
                used=DESCRIPTORS_PER_PARTITION * self._replicas.open_count,
            ),
            *self._mux.budgets(),
            self._http_bodies.use(),
            self._event_log.fetched_use(),
        ]

    def servers(self) -> event_log_pb2.GetServersResponse:
        """The cluster as clients should see it."""
        response = event_log_pb2.GetServersResponse(
            cluster_id=format_id(self._directory.cluster_id), catalog_index=self._replicas.catalog_index
        )
        catalog = self._replicas.find(CATALOG_GROUP)
        leader_id = catalog.leader_id if catalog is not None else NOBODY
        seen = {one.node_id: one for one in self._seen()}
        known = [(self.node_id, self.name, self.address, "alive")]
        # Who does not answer is still one of us: `status` says so, and its replicas are counted on.
        for found, state in ((self._discovery.members(), "alive"), (self._discovery.failed(), "failed")):
            known += [
                (member.node_id, member.name, member.address, state)
                for member in found.values()
                # Who has only said that it is a node is shown as `members` shows it, and no client is sent there.
                if member.node_id not in self._replicas.removed and (catalog is None or self._is_known(member.node_id))
            ]
        for node_id, name, address, state in sorted(known):
            tags: dict[str, str] = {}
            if (one := seen.get(node_id)) is not None:
                tags = dict(one.tags)
                state = "left" if one.status == "left" else state
            tags["status"] = state
            response.servers.add(id=format_id(node_id), name=name, address=address, is_leader=node_id == leader_id, tags=tags)
        for topic in self.broker.topics():
            for number, partition in enumerate(topic.partitions):
                response.partitions.add(
                    topic=topic.name,
                    partition=number,
                    leader_id=id_text(self.broker.leader_of(topic, number)),
                    replica_ids=map(format_id, partition.wanted),
                    group_id=partition.group_id,
                )
        return response

    def relieve(self) -> None:
        """Give up connections that are worth least: something more important needs their descriptors."""
        self._mux.relieve()

    # Life

    async def _live(self, *, task_status: trio.TaskStatus[None]) -> None:
        """All of the node's tasks, until `_stop` ends them.

        Shielded: when the embedding block is cancelled, the block ends first, then these, so that leadership can still be handed
        over and calls be answered. `_stop` bounds how long that takes.
        """
        try:
            with self._core_scope:
                async with trio.open_nursery() as core:
                    await core.start(self._run)
                    with self._edge_scope:
                        async with trio.open_nursery() as edge:
                            await edge.start(self._mux.serve, self._port.bound.listener)
                            self._core_scope.shield = True
                            task_status.started()
                    await trio.sleep_forever()
        finally:
            self._is_over = True
            # Nothing is left to be stopped.
            self._stop_scope.cancel()

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Everything but the port's door, until cancelled."""
        if exposure := self._exposure():
            logger.warning("%s", exposure)
        self._voters = await load_voters(self._directory)
        await self._peer_lives.load(is_newcomer=not self._voters)
        try:
            async with self._forwarder.running(), trio.open_nursery() as nursery:
                await nursery.start(self._transport.run)
                nursery.start_soon(self._peer_lives.run)
                nursery.start_soon(self._hear_claims)
                nursery.start_soon(self._count_moments)
                nursery.start_soon(self._discovery.run)
                nursery.start_soon(self._joiner.run)
                if self._gossip is not None:
                    nursery.start_soon(self._gossip.run)
                if self._keys is not None:
                    nursery.start_soon(self._keys.run)
                nursery.start_soon(self._join_cluster, nursery)
                nursery.start_soon(self._end_when_disowned)
                task_status.started()
        except BaseExceptionGroup as group:
            # What tasks are told who wait at a group that fails is never why it failed.
            (_, cause) = group.split(ShuttingDown)
            raise (cause or group) from None

    async def _join_cluster(self, nursery: trio.Nursery) -> None:
        if not self._voters:
            found = await find_cluster(
                self._discovery, self._directory, self._settings.cluster_name, self._settings.bootstraps, self._forming
            )
            await save_voters(self._directory, found.cluster_id, self._settings.cluster_name, found.voters)
            self._voters = found.voters
            # Until now this node has said that it belongs to no cluster, and on such links nobody takes Raft.
            self._transport.renew_links()
            logger.info(
                "cluster %s (%s) begins with %s",
                format_id(found.cluster_id),
                self._settings.cluster_name,
                ", ".join(map(format_id, found.voters)),
            )
        await self._peer_lives.join()
        await nursery.start(self._replicas.run, self._voters)
        self._judge_removal()
        nursery.start_soon(self._tick)
        nursery.start_soon(self._reconciler.run)
        await self._replicas.catalog.wait_leader_other_than(NOBODY)
        self._ready.set()
        self._tell_health()

    async def _end_when_disowned(self) -> None:
        """A node that missed its removal is told by those that it dials."""
        await self._disowned_wanted.wait()
        assert self._disowned is not None
        # One that is being taken out just now can hear it there before its own log has it, and then it ends in good order.
        with trio.move_on_after(FAREWELL_SECONDS_MAX):
            await self._removed.wait()
            return
        raise self._disowned

    async def _count_moments(self) -> None:
        while True:
            await trio.sleep(MOMENT_SECONDS)
            await self._next_moment()

    async def _next_moment(self) -> None:
        """What was promised since the last one is not in copies of the data directory that were made before."""
        writes = self._replicas.writes_done
        if writes == self._writes_told:
            return
        try:
            lives = await self._lives.next_moment(self._replicas.extents(self._lives.extents))
        except EventLogError as error:
            if not is_shortage(error):
                raise
            logger.warning("another moment of this node cannot be written down just now: %s", error)
            return
        self._writes_told = writes
        self._tell_life(Claim(node_id=self.node_id, lives=lives))

    async def _end_life(self) -> None:
        """Nothing is written after this: the last thing of an orderly stop."""
        try:
            await self._lives.next_moment(self._replicas.extents(self._lives.extents), is_orderly=True)
        except EventLogError as error:
            if not is_shortage(error):
                raise
            logger.warning("that this was an orderly stop cannot be written down: %s", error)

    async def _hear_claims(self) -> None:
        async for sender, claim in self._claims_received:
            await self._peer_lives.claimed(sender, claim)

    def _tell_life(self, claim: Claim) -> None:
        self._transport.send_to_all(encode_frame_head(FrameKind.LIVES, 0, encode_claim(claim)), Lane.URGENT)

    def _on_life_accepted(self, node_id: NodeId) -> None:
        lives = self._peer_lives.lives(node_id)
        self._transport.end_other_lives(node_id, lives.present if lives is not None else None)

    async def _tick(self) -> None:
        frame = encode_frame_head(FrameKind.HEARTBEATS, 0, HEARTBEATS_BODY.pack(self._surroundings.rng.getrandbits(64)))
        ticks = 0
        while True:
            await trio.sleep(self._settings.tick_seconds)
            self._replicas.tick()
            self._liveness.tick()
            ticks += 1
            if ticks % self._settings.heartbeat_ticks == 0:
                for node_id in self._transport.connected():
                    self._transport.send(node_id, frame, Lane.URGENT)
            self._tell_health()

    def _tell_health(self) -> None:
        is_ready = not self.unready_because()
        for name in _HEALTH_NAMES:
            self._health.set_serving(is_ready, name)

    async def _stop(self, seconds_max: float) -> None:
        """Outside in: nobody new, leadership away, calls to their end, then everything else."""
        self._stopping.set()
        self._health.stop()
        self._mux.stop_accepting()
        deadline = self._stop_scope.deadline = trio.current_time() + seconds_max
        if not self._is_over:
            with self._stop_scope:
                async with trio.open_nursery() as leaving:
                    leaving.start_soon(self._leave_gossip)
                    async with trio.open_nursery() as nursery:
                        for replica in self._replicas.all():
                            if replica.is_leader and len(replica.status().configuration.voters) > 1:
                                nursery.start_soon(self._hand_over, replica)
                    async with trio.open_nursery() as nursery:
                        for replica in self._replicas.all():
                            nursery.start_soon(self._lead_no_more, replica)
                        await self._server.drain(deadline)
                        nursery.cancel_scope.cancel()
                    await self._next_moment()
        self._edge_scope.cancel()
        self._core_scope.cancel()

    async def _lead_no_more(self, replica: Replica) -> None:
        """Others do not know that this node is going, and may make it a leader again."""
        try:
            while True:
                await replica.wait_leader_other_than(replica.leader_id)
                if replica.is_leader:
                    await trio.sleep(self._settings.tick_seconds)  # it has to hear first who keeps up
                    await self._hand_over(replica)
        except EventLogError as error:
            logger.debug("%s is closed: %s", replica.name, error)

    async def _hand_over(self, replica: Replica) -> None:
        """To the voter that is closest behind; should that one go away meanwhile, to another one."""
        deadline = trio.current_time() + HAND_OVER_SECONDS_MAX
        while self._reaches_another_voter(replica):
            with trio.CancelScope() as self._hand_overs[replica.group_id]:
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
        # Nodes that are stopped together hand over to each other, until nobody is left. That is as it should be.
        logger.info("%s is not handed over: no other voter of it can be reached", replica.name)

    def _reaches_another_voter(self, replica: Replica) -> bool:
        return any(self._transport.is_connected(node_id) for node_id in replica.voters() if node_id != self.node_id)

    def _look_at_hand_overs(self, lost: NodeId) -> None:
        """A node has gone away: who hands over to it would wait in vain."""
        for group_id, scope in self._hand_overs.items():
            replica = self._replicas.find(group_id)
            if replica is not None and replica.status().lead_transferee in (lost, NOBODY):
                scope.cancel()

    def _judge_certificate(self) -> None:
        """Say what other nodes will have against ours, if there are to be any."""
        settings = self._settings
        if self._tls is not None and (settings.join or settings.bootstraps > 1):
            reason = why_refused_by_peers(self._tls, split_address(self.address)[0])
            if reason:
                logger.warning("other nodes will not accept the certificate %s of this one: %s", settings.tls_cert, reason)

    async def _leave_gossip(self) -> None:
        if self._gossip is None:
            return
        try:
            if not await self._gossip.driver.leave():
                logger.warning("gossip could not be left in time: other nodes will call this one failed")
        except ShuttingDown:
            logger.debug("gossip has ended already")

    # The edge

    async def _serve_grpc(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        peer = Peer(address=info.remote_address, is_secure=info.is_tls, certificate=info.peer_certificate)
        await self._server.serve(stream, peer, info.standing)

    def _answer_get(self, path: str) -> int | None:
        answer = answer_probe(path, self.unready_because)
        return None if answer is None else answer.status

    async def _serve_http(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        head = probe_head(self.unready_because)
        await serve_http(stream, info, health_handler(self.unready_because), answer_head=head, bodies=self._http_bodies)

    async def _connect(self, node_id: NodeId) -> trio.abc.Stream:
        member = self._discovery.members().get(node_id)
        if member is None:
            raise OSError("its address is not known")
        with trio.move_on_after(self._settings.connect_timeout_seconds):
            stream = await self._surroundings.network.open_stream(member.address)
            if self._tls is None:
                return stream
            host = self._tls.peer_name or split_address(member.address)[0]
            return trio.SSLStream(stream, self._tls.grpc_context(), server_hostname=host, https_compatible=True)
        raise TimeoutError(f"{member.address} did not answer within {self._settings.connect_timeout_seconds:g} s")

    # Peers

    def _hello(self) -> Hello:
        """What peers are told: with the first voters once they are known, with the candidates heard of before."""
        return attrs.evolve(self._identity(), known_ids=self._voters or self._discovery.told_ids())

    def _identity(self) -> Hello:
        oldest, newest = self._surroundings.protocol_versions
        return Hello(
            node_id=self.node_id,
            cluster_name=self._settings.cluster_name,
            node_name=self.name,
            address=self.address,
            cluster_id=self._directory.cluster_id,
            bootstrap_expect=self._settings.bootstraps,
            has_data=self._directory.cluster_id != NO_CLUSTER,
            protocol_version=newest,
            # Peers of one version only are told nothing else: that is the hello of the releases before there were two.
            oldest_protocol_version=oldest if oldest != newest else 0,
            lives=self._lives.lives,
        )

    def _send(self, group_id: GroupId, message: Message, frames: Sequence[EntryFrame]) -> bool:
        kind = FrameKind.APPEND if message.type is MessageType.APPEND else FrameKind.RAFT
        buffers = encode_frame(kind, group_id, encode_message(message), [frame.raw for frame in frames])
        # Every APPEND keeps to one lane: one that overtakes another is refused and slows the follower down.
        return self._transport.send(message.to, buffers, Lane.BULK if kind is FrameKind.APPEND else Lane.URGENT)

    def _send_sleep(self, group_id: GroupId, message: Message) -> bool:
        frame = encode_frame_head(FrameKind.SLEEP, group_id, encode_message(message))
        return self._transport.send(message.to, frame, Lane.URGENT)

    def _receive(self, node_id: NodeId, kind: int, group_id: GroupId, body: memoryview) -> None:
        if kind == FrameKind.LIVES:
            self._receive_claim(node_id, body)
        if kind == FrameKind.HEARTBEATS and len(body) == HEARTBEATS_BODY.size:
            self._liveness.heard(node_id, *HEARTBEATS_BODY.unpack(body))
            return
        if kind not in (FrameKind.RAFT, FrameKind.APPEND, FrameKind.SLEEP):
            return
        try:
            message, frames = decode_message(body)
        except CodecError as error:
            self._dropped_lines.log(logging.WARNING, "a message of %s was dropped: %s", format_id(node_id), error)
            return
        if message.sender != node_id or message.to != self.node_id:
            logger.warning(
                "a message from %s to %s came on the link of %s: dropped",
                format_id(message.sender),
                format_id(message.to),
                format_id(node_id),
            )
            return
        self._replicas.receive(group_id, Received(message, frames, kind == FrameKind.SLEEP))

    def _receive_claim(self, node_id: NodeId, body: memoryview) -> None:
        try:
            self._claims.send_nowait((node_id, decode_claim(body)))
        except CodecError as error:
            logger.warning("what %s says of a life was dropped: %s", format_id(node_id), error)
        except trio.WouldBlock:
            logger.debug("what %s says of a life was dropped: too much waits", format_id(node_id))

    def _forget_group(self, group_id: GroupId) -> None:
        self._lanes.forget(group_id)

    def _admit(self, hello: Hello, info: ConnectionInfo) -> Refused | None:
        if hello.node_id in self._replicas.removed:
            return Refused(RefusedCode.REMOVED, REMOVED_TEXT.format(format_id(hello.node_id)))
        return None

    async def _probe_place(self, place: Place) -> Hello:
        return await self._probe(place.address, place.host)

    async def _probe(self, address: str, host: str = "") -> Hello:
        try:
            return await self._transport.probe(address, host)
        except LinkRefused as error:
            if error.by is not None:
                # It does not take us, but it is there: the link to it asks again, and what it is told counts.
                self._discovery.met(error.by, address)
            raise

    @property
    def _catalog_voters(self) -> frozenset[NodeId]:
        """As this node has them in its own log."""
        catalog = self._replicas.find(CATALOG_GROUP)
        return catalog.status().configuration.all_voters if catalog is not None else frozenset()

    def _is_known(self, node_id: NodeId) -> bool:
        """Whether the node is of this cluster as far as our own log says."""
        catalog = self._replicas.find(CATALOG_GROUP)
        return node_id in self._voters or (
            catalog is not None and (node_id in self._replicas.machine.nodes or node_id in catalog.status().configuration.nodes)
        )

    def _trusts(self, inbound: Inbound) -> bool:
        """Whether Raft is taken on a link: only from a node of this very cluster that our log knows or our own link has met."""
        hello = inbound.hello
        cluster_id = self._directory.cluster_id
        if cluster_id == NO_CLUSTER or hello.cluster_id != cluster_id or hello.node_id in self._replicas.removed:
            return False
        return inbound.has_met or (inbound.is_proved and self._is_known(hello.node_id))

    def _peer_secrets(self) -> PeerSecrets:
        return self._secret_file.secrets() if self._secret_file is not None else PeerSecrets()

    def _exposure(self) -> str:
        """What lets a stranger be a node, in words; "" when nothing does. There are no strangers on a simulated network."""
        if self._peer_secrets() or not isinstance(self._surroundings.network, RealNetwork):
            return ""
        if self._tls is not None:
            return HOSTS_ARE_NODES if self._settings.tls_ca and not self._settings.tls_peer_name else ""
        beyond = [address for address in (self.listening_on, self.address) if not is_loopback(split_address(address)[0])]
        return ANYBODY_IS_A_NODE.format(beyond[0]) if beyond else ""

    def _judge_removal(self) -> None:
        voters = self._catalog_voters
        if self._removal.is_certain(voters):
            self._disowned = NodeRemoved(self._removal.text(voters))
            self._disowned_wanted.set()
        elif warning := self._removal.warning(voters):
            logger.warning("%s", warning)

    async def _ask(self, node_id: NodeId, with_partitions: bool) -> NodeReport:
        return await ask_node(self._forwarder, node_id, with_partitions)

    def _on_link_event(self, event: LinkEvent) -> None:
        match event:
            case PeerConnected(node_id=node_id, hello=hello):
                self._not_heard_by.pop(node_id, None)
                for claim in self._peer_lives.claims(node_id):
                    self._transport.send(node_id, encode_frame_head(FrameKind.LIVES, 0, encode_claim(claim)), Lane.URGENT)
                self._removal.takes_back(node_id)
                self._meet(hello)
                self._forwarder.on_link_renewed(node_id)
                self._reconciler.on_connected(node_id)
                self._liveness.connected(node_id)
            case PeerIntroduced(hello=hello):
                self._introduce(hello)
            case PeerReset(node_id=node_id):
                self._forwarder.on_link_lost(node_id)
                self._liveness.lost(node_id)
                self._look_at_hand_overs(node_id)
                self._replicas.report_unreachable(node_id)
                self._replicas.peer_reset(node_id)
            case PeerRefused(code=RefusedCode.REMOVED, is_ours=False, by=node_id) if node_id != NOBODY:
                self._removal.says(node_id, event.text)
                self._judge_removal()
            case PeerRefused(code=RefusedCode.NOT_THIS_LIFE, is_ours=False, by=node_id) if node_id != NOBODY:
                self._not_heard_by[node_id] = event.text
            case PeerRefused():
                pass  # The links log it, as they do what the others are about; nothing follows from it here.

    def _seen(self) -> list[Seen]:
        return [] if self._gossip is None else self._gossip.seen()

    def _introduce(self, hello: Hello) -> None:
        """Somebody has dialled us and says who he is: whether that is so, our own question at his address shows."""
        self._discovery.introduce(hello)

    def _meet(self, hello: Hello) -> None:
        """Somebody whom we have dialled has answered."""
        self._discovery.met(hello, hello.address)
        if self._gossip is not None:
            self._gossip.introduce(hello)

    def _on_discovery_event(self, event: DiscoveryEvent) -> None:
        node_id = event.member.node_id
        if isinstance(event, MemberForgotten):
            self._transport.remove_peer(node_id)
        elif isinstance(event, MemberAppeared | MemberChanged) and node_id not in self._replicas.removed:
            self._transport.set_peer(node_id, event.member.address)
            if self._gossip is not None:
                self._gossip.introduce(self._discovery.hello(node_id))

    def _on_gossip_discovery_event(self, event: DiscoveryEvent) -> None:
        """Gossip only says where somebody might be: who is there is proved by the hello."""
        assert self._gossip is not None
        members = self._gossip.members().values()
        self._discovery.set_hints(member.address for member in members if member.node_id not in self._replicas.removed)

    def _on_gossip_event(self, event: GossipEvent) -> None:
        if isinstance(event, KeysChanged) and self._keys is not None:
            self._keys.on_changed()


@asynccontextmanager
async def open_node(settings: NodeSettings, surroundings: Surroundings | None = None) -> AsyncIterator[Node]:
    """A node for the length of the block: listening when the block begins, stopped gracefully when it ends.

    No signal handlers, no logging set-up, no global state: several nodes live in one process.

    Raises:
        EventLogError: settings, data directory, port or certificates cannot be used; the text says which and what to do.
        A failure of the node while it runs cancels the block and is raised from it.
    """
    surroundings = surroundings or Surroundings()
    bare_disk = surroundings.disk if surroundings.disk is not None else RealDisk(trio.CapacityLimiter(settings.disk_threads))
    disk = PatientDisk(bare_disk, part_settings.patience(settings))
    async with DataDirectory.open(
        disk,
        settings.data_dir,
        new_node_id=lambda: new_node_id(surroundings.rng),
        now_seconds=lambda: surroundings.now_ns() / 1e9,
    ) as directory:
        if directory.cluster_id != NO_CLUSTER and directory.cluster_name != settings.cluster_name:
            raise DataDirectoryError(
                f"{settings.data_dir}: holds data of the cluster named {directory.cluster_name!r}, and cluster_name is"
                f" {settings.cluster_name!r}. Use the directory of that cluster, or set the name that belongs to this one."
            )
        keys = await KeyFile.open(disk, settings.gossip_key_file, surroundings.rng) if settings.gossip_key_file else None
        gossips = keys is not None or not settings.has_tls
        if not gossips:
            logger.warning(NO_GOSSIP)
        async with open_port(settings.listen, surroundings.network, surroundings.datagrams if gossips else None) as port:
            gossip = None
            if port.datagrams is not None:
                address = await _gossip_address(settings, port, surroundings)
                gossip = _GossipParts(datagrams=port.datagrams, address=address, keys=keys)
            lives = await begin_life(directory, surroundings.rng.getrandbits(64))
            node = Node(settings, surroundings, directory, lives, port, gossip)
            disk.relieve = node.relieve
            async with trio.open_nursery() as nursery:
                await nursery.start(node._live)
                is_orderly = False
                try:
                    yield node
                    is_orderly = True
                finally:
                    with trio.CancelScope(shield=True):
                        await node._stop(settings.shutdown_timeout_seconds if is_orderly else CANCELLED_STOP_SECONDS_MAX)
            await node._end_life()


async def run_node(settings: NodeSettings, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED) -> None:
    """`open_node` as a task: runs until cancelled, then stops gracefully."""
    async with open_node(settings) as node:
        task_status.started(node)
        await trio.sleep_forever()


def default_name(host_name: str, node_id: NodeId) -> str:
    """What a node is called that nobody has named. Unique, as a name has to be: several nodes may be on one host."""
    return f"{host_name}-{format_id(node_id)[:ID_DIGITS_IN_NAME]}" if host_name else format_id(node_id)


def _advertised(settings: NodeSettings, port: Port, host_name: str) -> str:
    return settings.advertised(split_address(port.address)[1], host_name)


async def _gossip_address(settings: NodeSettings, port: Port, surroundings: Surroundings) -> Address:
    """Where others send packets to: what the advertised address stands for, since gossip carries IP addresses. A name may take its
    time until it is known; until the next start it is then what the node's name stands for, or the address listened on.

    Raises:
        SettingsError: none of these is of use to others.
    """
    (host, number) = split_address(port.address)
    datagrams = surroundings.datagrams
    advertised = _advertised(settings, port, surroundings.host_name)
    own_name = settings.node_name or surroundings.host_name
    substitute = port.address if not is_wildcard(host) else join_address(own_name, number) if own_name else ""
    for candidate in (advertised, substitute):
        try:
            with trio.fail_after(settings.dns_timeout_seconds):
                found = (await datagrams.resolve(candidate))[0]
        except (OSError, trio.TooSlowError) as error:
            logger.warning("where packets of gossip go: %s cannot be looked up: %s", candidate, error or "no answer in time")
            continue
        if is_wildcard(host) and ipaddress.ip_address(found.host).is_loopback:
            logger.warning(
                "%s is a loopback address: nodes on other machines cannot gossip with this one. Give an address with --advertise",
                datagrams.dialable(found),
            )
        return found
    raise SettingsError(
        f"advertise: {advertised} cannot be looked up, and gossip carries IP addresses. Give an address that other nodes can reach"
    )
