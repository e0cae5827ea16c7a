"""The parts of a node, in the order in which they are made. `assembly` makes them; the other modules of this package use them."""

import attrs
import trio

from trio_eventlog.agent.credentials import Credentials
from trio_eventlog.agent.identity import Identity
from trio_eventlog.agent.surroundings import Surroundings
from trio_eventlog.budgets import Allowance, DescriptorBudgets
from trio_eventlog.gossip.messages import Address
from trio_eventlog.grpc.health import Health
from trio_eventlog.grpc.remote_nodes import GrpcNodes
from trio_eventlog.http.server import HttpServer
from trio_eventlog.measures import RecentMaximum
from trio_eventlog.net.datagrams import Datagrams
from trio_eventlog.net.discovery import HelloDiscovery
from trio_eventlog.net.join import Joiner
from trio_eventlog.net.mux import Mux
from trio_eventlog.net.port import Port
from trio_eventlog.net.transport import Transport
from trio_eventlog.node.bootstrap import Forming
from trio_eventlog.node.catch_up import CatchUps
from trio_eventlog.node.disk_space import DiskSpace
from trio_eventlog.node.gossip_discovery import GossipDiscovery
from trio_eventlog.node.gossip_keys import KeyFile
from trio_eventlog.node.liveness import PeerLiveness
from trio_eventlog.node.peer_lives import PeerLives
from trio_eventlog.node.reconciler import Reconciler
from trio_eventlog.node.replicas import Replicas
from trio_eventlog.node.scrubber import Scrubber
from trio_eventlog.node.transfer_server import TransferServer
from trio_eventlog.rpc import Server
from trio_eventlog.service.broker import Broker
from trio_eventlog.service.forwarding import Forwarder
from trio_eventlog.service.membership_changes import MembershipChanges
from trio_eventlog.service.node_event_log import NodeEventLog, NodeServices
from trio_eventlog.service.own_sequences import OwnSequences
from trio_eventlog.settings import NodeSettings
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.lives import OwnLives


@attrs.frozen(slots=True, kw_only=True)
class GossipSocket:
    """What a node that gossips has opened for it.

    Attributes:
        address: where others send packets to.
        keys: None: packets are not encrypted.
    """

    datagrams: Datagrams
    address: Address
    keys: KeyFile | None


@attrs.frozen(slots=True, kw_only=True)
class Opened:
    """What has to be there before a node can be put together, in the order in which it is opened.

    It is closed in the reverse order, after all tasks of the node have ended.
    """

    settings: NodeSettings
    surroundings: Surroundings
    directory: DataDirectory
    port: Port
    gossip: GossipSocket | None
    lives: OwnLives
    disk_space: DiskSpace


class Milestones:
    """Events of a node's life; each happens once.

    Attributes:
        ready: the node belongs to a cluster and has heard who leads the catalog.
        stopping: it has been asked to stop.
        removed: its own log says that the cluster has removed it.
    """

    def __init__(self) -> None:
        self.ready = trio.Event()
        self.stopping = trio.Event()
        self.removed = trio.Event()


class NodeParts:
    """The parts of one node. Each may use those above it when it is made, and all of them once the node runs.

    Tests and tools reach into a running node by `node.parts`; applications do not: names here change without notice.
    """

    # What was opened.
    settings: NodeSettings
    surroundings: Surroundings
    directory: DataDirectory
    port: Port
    gossip_socket: GossipSocket | None
    own_lives: OwnLives
    disk_space: DiskSpace

    # Who the node is and what it may use.
    identity: Identity
    descriptors: DescriptorBudgets
    credentials: Credentials
    milestones: Milestones
    loop_lag: RecentMaximum
    """By how much ticks came late, which is how long the event loop was busy with something else."""
    forming: Forming
    """Why a node that has no cluster yet has none."""

    # Other nodes: which processes they are, files for them, links to them, where they are, whether they answer.
    peer_lives: PeerLives
    transfer_server: TransferServer
    transport: Transport
    discovery: HelloDiscovery
    joiner: Joiner
    gossip: GossipDiscovery | None
    membership_changes: MembershipChanges
    liveness: PeerLiveness

    # The log, and the one that changes who carries it.
    replicas: Replicas
    catch_ups: CatchUps
    scrubber: Scrubber
    broker: Broker
    reconciler: Reconciler

    # What clients reach.
    nodes: GrpcNodes
    forwarder: Forwarder
    sequences: OwnSequences
    services: NodeServices
    event_log: NodeEventLog
    health: Health
    server: Server
    http_bodies: Allowance
    http_tails: Allowance
    http: HttpServer
    mux: Mux

    def __init__(self, opened: Opened) -> None:
        self.settings = opened.settings
        self.surroundings = opened.surroundings
        self.directory = opened.directory
        self.port = opened.port
        self.gossip_socket = opened.gossip
        self.own_lives = opened.lives
        self.disk_space = opened.disk_space
