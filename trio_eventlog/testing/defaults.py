"""Settings of parts for tests of parts: what a node of default settings gives them."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs

from trio_eventlog import part_settings
from trio_eventlog.budgets import DescriptorBudgets
from trio_eventlog.codec.memberlist import WireLimits
from trio_eventlog.gossip.settings import SerfSettings
from trio_eventlog.http.settings import HttpSettings
from trio_eventlog.net.discovery import DiscoverySettings
from trio_eventlog.net.join import JoinSettings
from trio_eventlog.net.links import LinkSettings
from trio_eventlog.net.mux import MuxSettings
from trio_eventlog.net.tls import TlsSettings
from trio_eventlog.node.disk_space import DiskSpaceSettings
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.gossip_settings import GossipSettings
from trio_eventlog.node.membership import MembershipSettings
from trio_eventlog.node.partition_events import EventSettings
from trio_eventlog.node.peer_lives import PeerLivesSettings
from trio_eventlog.node.reconciler_settings import ReconcilerSettings
from trio_eventlog.node.replica import ReplicaSettings
from trio_eventlog.node.replicas import ReplicasSettings
from trio_eventlog.node.scrubber import ScrubSettings
from trio_eventlog.node.transfer_settings import TransferSettings
from trio_eventlog.raft import RaftSettings
from trio_eventlog.rpc import RpcSettings
from trio_eventlog.service.forwarding import ForwardingSettings
from trio_eventlog.service.settings import ServiceSettings
from trio_eventlog.settings import NodeSettings
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.patient_disk import PatienceSettings

DESCRIPTORS = 65536
"""Of the imagined process: enough for no limit to be smaller than on a large machine."""

T = TypeVar("T")


def default(cls: type[T], **changes: object) -> T:
    """The settings of a part as a node of default settings has them, with `changes`.

    Parts have no defaults of their own, so that a test or a benchmark which changes nothing measures what the product runs with.

    Args:
        cls: the class of the settings, as `LogSettings`.
    """
    made = _MAKERS[cls]()
    assert isinstance(made, cls)
    return attrs.evolve(made, **changes)  # type: ignore[misc]


def _budgets() -> DescriptorBudgets:
    return part_settings.descriptors(NodeSettings(), DESCRIPTORS)


def _tls() -> object:
    return part_settings.tls(NodeSettings(tls_cert="node.pem", tls_key="node.key"))


_MAKERS: Mapping[type, Callable[[], object]] = {
    DiscoverySettings: lambda: part_settings.discovery(NodeSettings()),
    DiskSpaceSettings: lambda: part_settings.disk_space(NodeSettings()),
    DriverSettings: lambda: part_settings.driver(NodeSettings()),
    EventSettings: lambda: part_settings.events(NodeSettings()),
    ForwardingSettings: lambda: part_settings.forwarding(NodeSettings()),
    GossipSettings: lambda: part_settings.gossip(NodeSettings()),
    HttpSettings: lambda: part_settings.http(NodeSettings()),
    JoinSettings: lambda: part_settings.joiner(NodeSettings()),
    LinkSettings: lambda: part_settings.links(NodeSettings()),
    LogSettings: lambda: part_settings.log(NodeSettings()),
    MembershipSettings: lambda: part_settings.membership(NodeSettings()),
    MuxSettings: lambda: part_settings.mux(NodeSettings(), _budgets()),
    PatienceSettings: lambda: part_settings.patience(NodeSettings()),
    PeerLivesSettings: lambda: part_settings.peer_lives(NodeSettings()),
    RaftSettings: lambda: part_settings.raft(NodeSettings()),
    ReconcilerSettings: lambda: part_settings.reconciler(NodeSettings()),
    ReplicaSettings: lambda: part_settings.replica(NodeSettings()),
    ReplicasSettings: lambda: part_settings.replicas(NodeSettings(), _budgets()),
    RpcSettings: lambda: part_settings.rpc(NodeSettings()),
    ScrubSettings: lambda: part_settings.scrub(NodeSettings()),
    SerfSettings: lambda: part_settings.serf(NodeSettings()),
    ServiceSettings: lambda: part_settings.service(NodeSettings()),
    TlsSettings: _tls,
    TransferSettings: lambda: part_settings.transfers(NodeSettings()),
    WireLimits: part_settings.gossip_limits,
}
