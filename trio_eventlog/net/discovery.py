"""Who is out there, and when a new cluster may begin."""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import attrs
import trio

from trio_eventlog.codec.peer_frame import Hello
from trio_eventlog.ids import ClusterId, NodeId


@attrs.frozen(slots=True, kw_only=True)
class Member:
    """A node as discovery knows it."""

    node_id: NodeId
    name: str
    address: str
    tags: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(slots=True)
class MemberAppeared:
    """Seen for the first time, or again after it had failed or left."""

    member: Member


@attrs.frozen(slots=True)
class MemberChanged:
    """Name, address or tags are others now."""

    member: Member


@attrs.frozen(slots=True)
class MemberFailed:
    """No longer answers."""

    member: Member


@attrs.frozen(slots=True)
class MemberLeft:
    """Said that it goes."""

    member: Member


DiscoveryEvent = MemberAppeared | MemberChanged | MemberFailed | MemberLeft


class Discovery(Protocol):
    """A source of members. Events go to the `on_event` its constructor was given, from the task that runs it."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled."""
        ...

    def members(self) -> Mapping[NodeId, Member]:
        """Members that neither failed nor left, without ourselves."""
        ...

    def introduce(self, hello: Hello) -> None:
        """A node has told us of itself (`PeerIntroduced`, `PeerConnected`)."""
        ...


@attrs.frozen(slots=True)
class Wait:
    """Not yet; `reason` says for what."""

    reason: str


@attrs.frozen(slots=True, kw_only=True)
class Bootstrap:
    """Begin the cluster `cluster_id` with exactly these voters (sorted, ourselves among them)."""

    cluster_id: ClusterId
    voters: tuple[NodeId, ...]


@attrs.frozen(slots=True)
class Join:
    """This cluster exists already: be added to it, never bootstrap."""

    cluster_id: ClusterId


@attrs.frozen(slots=True)
class Refuse:
    """The settings of the nodes contradict each other; `reason` names both values."""

    reason: str


BootstrapDecision = Wait | Bootstrap | Join | Refuse


def derive_cluster_id(cluster_name: str, voters: Sequence[NodeId]) -> ClusterId:
    """The same name and the same voters (in any order) give the same id, everywhere. Never 0."""
    raise NotImplementedError


def decide_bootstrap(own: Hello, hellos: Sequence[Hello]) -> BootstrapDecision:
    """What `own` may do, having heard `hellos` (the latest of each other node). Pure."""
    raise NotImplementedError


@attrs.frozen(slots=True, kw_only=True)
class DiscoverySettings:
    """How often addresses are asked.

    Attributes:
        probe_seconds_min: between two probes of an address while a cluster is being formed.
        probe_seconds_max: between two probes of an address otherwise.
        failed_probes_max: so many failures in a row and the member has failed.
    """

    probe_seconds_min: float = 0.1
    probe_seconds_max: float = 5.0
    failed_probes_max: int = 3


class StaticDiscovery:
    """A `Discovery` over fixed addresses (`--join`); the ids are learnt in the hello exchange.

    Arguments:
        addresses: "host:port" of other nodes; our own among them is noticed and skipped.
        probe: `Transport.probe`.
        identity: our own hello without `known_ids`.
        on_event: takes each `DiscoveryEvent`; synchronous.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        probe: Callable[[str], Awaitable[Hello]],
        identity: Callable[[], Hello],
        settings: DiscoverySettings,
        rng: random.Random,
        on_event: Callable[[DiscoveryEvent], None],
    ) -> None:
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        raise NotImplementedError

    def members(self) -> Mapping[NodeId, Member]:
        raise NotImplementedError

    def introduce(self, hello: Hello) -> None:
        raise NotImplementedError

    def known_ids(self) -> tuple[NodeId, ...]:
        """Bootstrap candidates heard of so far, ourselves included, sorted: for our own hello. Only grows."""
        raise NotImplementedError

    def decision(self) -> BootstrapDecision:
        """`decide_bootstrap` of what is known now."""
        raise NotImplementedError

    async def wait_decision(self) -> Bootstrap | Join | Refuse:
        """The first decision that is not to wait."""
        raise NotImplementedError
