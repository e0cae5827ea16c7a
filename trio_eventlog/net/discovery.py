"""Which other nodes there are, and when a new cluster may begin."""

import hashlib
import logging
import random
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

import attrs
import trio

from trio_eventlog.backoff import jittered
from trio_eventlog.codec.peer_frame import Hello, RefusedCode
from trio_eventlog.ids import NO_CLUSTER, NOBODY, ClusterId, NodeId, format_id
from trio_eventlog.net.line_budget import LineBudget
from trio_eventlog.net.links import CertificateRefused, LinkRefused

logger = logging.getLogger(__name__)


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
    """It has announced that it leaves."""

    member: Member


@attrs.frozen(slots=True)
class MemberForgotten:
    """Only the node itself has ever claimed to belong here, and it does not answer, or its place is needed for another one."""

    member: Member


DiscoveryEvent = MemberAppeared | MemberChanged | MemberFailed | MemberLeft | MemberForgotten


class Discovery(Protocol):
    """A source of members. Events go to the `on_event` its constructor was given, from the task that runs it."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled."""
        ...

    def members(self) -> Mapping[NodeId, Member]:
        """Members that neither failed nor left, without ourselves."""
        ...

    def failed(self) -> Mapping[NodeId, Member]:
        """Members that do not answer."""
        ...

    def introduce(self, hello: Hello) -> None:
        """A process has dialled us with this hello (`PeerIntroduced`)."""
        ...

    def met(self, hello: Hello, address: str) -> None:
        """A process that we dialled has answered with this hello (`PeerConnected`)."""
        ...


@attrs.frozen(slots=True)
class Wait:
    """Not yet; `reason` says what this node waits for."""

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
    """The same name and the same voters (in any order) give the same id, everywhere. Never 0.

    The first 8 bytes, little-endian, of SHA-256 over the name in UTF-8, a zero byte, and the sorted ids as u64.
    """
    digest = hashlib.sha256(cluster_name.encode() + b"\0" + struct.pack(f"<{len(voters)}Q", *sorted(voters))).digest()
    return ClusterId(int.from_bytes(digest[:8], "little") or 1)


def decide_bootstrap(own: Hello, hellos: Sequence[Hello]) -> BootstrapDecision:
    """What the node of `own` may do, having heard `hellos` (the latest of each other node). Pure.

    Safe as long as every node announces at most one complete set, for ever (`told_ids`): a node that has announced one set of N
    nodes as complete never announces another one. So two sets of voters that share a node cannot both be confirmed
    by it (docs/design/wire.md).
    """
    for hello in hellos:
        if hello.cluster_name != own.cluster_name:
            return Refuse(f"{_called(hello)} is of the cluster named {hello.cluster_name!r}, this node of {own.cluster_name!r}")
    clusters = {hello.cluster_id: hello for hello in (own, *hellos) if hello.cluster_id != NO_CLUSTER}
    if len(clusters) > 1:
        (one, other) = [clusters[cluster_id] for cluster_id in sorted(clusters)][:2]
        return Refuse(
            f"{_called(one)} belongs to cluster {format_id(one.cluster_id)}, "
            f"{_called(other)} to cluster {format_id(other.cluster_id)}"
        )
    if clusters:
        return Join(next(iter(clusters)))
    if own.has_data:
        return Refuse(f"{_called(own)} has data, but of no cluster: it can neither begin one nor join one")
    if own.bootstrap_expect == 0:
        return Wait("no node heard so far belongs to a cluster, and this one may not begin one (bootstrap_expect is 0)")
    candidates = [hello for hello in hellos if hello.bootstrap_expect != 0]
    for hello in candidates:
        if hello.bootstrap_expect != own.bootstrap_expect:
            return Refuse(
                f"{_called(hello)} expects {hello.bootstrap_expect} nodes to begin a cluster, this one {own.bootstrap_expect}"
            )
    voters = tuple(sorted({own.node_id, *own.known_ids, *(hello.node_id for hello in candidates)}))
    if len(voters) > own.bootstrap_expect:
        return Refuse(
            f"{len(voters)} nodes want to begin a cluster of {own.bootstrap_expect}: {', '.join(map(format_id, voters))}; "
            "start as many as are expected; one that was replaced is forgotten when all of them, none of which has begun a cluster"
            " yet, are started again with empty data directories"
        )
    for hello in candidates:
        if hello.has_data:
            return Wait(f"{_called(hello)} has data and does not yet say of which cluster")
    if len(voters) < own.bootstrap_expect:
        return Wait(f"{len(voters)} of {own.bootstrap_expect} nodes known")
    if len(candidates) < len(voters) - 1:
        return Wait(f"heard {len(candidates)} of the {len(voters) - 1} other nodes")
    for hello in candidates:
        if tuple(sorted(hello.known_ids)) != voters:
            return Wait(f"{_called(hello)} knows {len(hello.known_ids)} of {own.bootstrap_expect} nodes")
    return Bootstrap(cluster_id=derive_cluster_id(own.cluster_name, voters), voters=voters)


def told_ids(own: NodeId, known: Sequence[NodeId], agreed: Sequence[NodeId], expect: int) -> tuple[NodeId, ...]:
    """The ids that a node which is forming a cluster may announce. Pure.

    Args:
        known: ids of all known candidates, our own included.
        agreed: the first complete set it knew, once that is written down; empty before.
        expect: how many make a set complete.
    """
    return tuple(agreed or (known if len(known) < expect else (own,)))


def _called(hello: Hello) -> str:
    return f"{hello.node_name or 'node'} ({format_id(hello.node_id)} at {hello.address or 'an unknown address'})"


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class DiscoverySettings:
    """How often addresses are asked.

    Attributes:
        probe_seconds_min: between two probes of an address while a cluster is being formed.
        probe_seconds_max: between two probes of an address otherwise, and after a refusal. Waits are drawn from the upper half.
        failed_probes_max: number of failed probes in a row after which a member counts as failed. Small values report nodes that
            are only slow; large ones delay the report.
        addresses_max: number of addresses probed, those learnt from hellos included, and of nodes remembered. Beyond it the
            oldest one is evicted that neither the operator nor our own log has named.
        claims_max: number of those addresses that a hello to us has named and at which no node was met yet. The oldest is evicted
            first, so strangers cannot push out other addresses.
    """

    probe_seconds_min: float
    probe_seconds_max: float
    failed_probes_max: int
    addresses_max: int
    claims_max: int


class HelloDiscovery:
    """A `Discovery` over addresses: fixed ones (`--join`), and hints. The exchange of hellos shows which node is there.

    The hello of a process that has dialled us is only a claim: it gives an address to probe. A node becomes a member when it has
    answered there. So what a stranger invents is not remembered for longer than one probe takes.

    Arguments:
        addresses: "host:port" of other nodes; our own among them is noticed and skipped.
        probe: `Transport.probe`.
        identity: our own hello; its `known_ids` are not looked at, they come from here.
        on_event: takes each `DiscoveryEvent`; synchronous.
        is_known: whether our own log has the node as a member of the cluster. Other nodes are forgotten when they do not answer.
        is_linked: whether our link to the node is up. Then a claim of its id at another address does not move it.
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
        is_known: Callable[[NodeId], bool] = lambda node_id: True,
        is_linked: Callable[[NodeId], bool] = lambda node_id: False,
    ) -> None:
        self._is_known = is_known
        self._is_linked = is_linked
        self._fixed = frozenset(addresses)
        self._hints: frozenset[str] = frozenset()
        self._watched: dict[str, trio.CancelScope] = {address: trio.CancelScope() for address in addresses}
        self._claims: dict[str, None] = {}
        """Addresses that are watched for a claim alone, the oldest first."""
        self._probe = probe
        self._identity = identity
        self._settings = settings
        self._rng = rng
        self._on_event = on_event
        self._lines = LineBudget(logger, "probes")
        self._hellos: dict[NodeId, Hello] = {}
        self._agreed: tuple[NodeId, ...] = ()
        self._members: dict[NodeId, Member] = {}
        self._failed: set[NodeId] = set()
        self._elsewhere: dict[NodeId, str] = {}
        """Other addresses at which the id of a connected member was claimed: each is logged once."""
        self._nursery: trio.Nursery | None = None
        self._changed = trio.lowlevel.ParkingLot()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Probe until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for address, scope in self._watched.items():
                    nursery.start_soon(self._watch, address, scope)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def members(self) -> Mapping[NodeId, Member]:
        """Members that have not failed, without ourselves."""
        return {node_id: member for node_id, member in self._members.items() if node_id not in self._failed}

    def failed(self) -> Mapping[NodeId, Member]:
        """Members that do not answer."""
        return {node_id: self._members[node_id] for node_id in self._failed}

    def introduce(self, hello: Hello) -> None:
        """A process has dialled us with this hello (`PeerIntroduced`)."""
        address = hello.address
        if not address or hello.node_id == self._identity().node_id or address in self._watched:
            return
        if len(self._claims) >= self._settings.claims_max:
            self._stop_watching(next(iter(self._claims)))
        if self._begin_watching(address):
            self._claims[address] = None

    def met(self, hello: Hello, address: str) -> None:
        """A process that we dialled at `address` has answered with this hello (`PeerConnected`, a probe)."""
        if self._heard(hello, address):
            self._claims.pop(self._members[hello.node_id].address, None)
            self._begin_watching(self._members[hello.node_id].address)

    def hello(self, node_id: NodeId) -> Hello:
        """The latest of a member."""
        return self._hellos[node_id]

    def set_hints(self, addresses: Iterable[str]) -> None:
        """All addresses that another part names: they are probed until the next call leaves them out."""
        hints = list(addresses)
        self._hints = frozenset(hints)
        for address in hints:
            self._claims.pop(address, None)
            self._begin_watching(address)

    def known_ids(self) -> tuple[NodeId, ...]:
        """Bootstrap candidates that our own probes have met and that answer, ourselves and those agreed to included, sorted.

        Until this node has agreed to a set it has announced none as complete, so it may drop nodes that are gone.
        Empty for a node that may not begin a cluster.
        """
        own = self._identity()
        met = (
            ()
            if own.cluster_id != NO_CLUSTER
            else (
                hello.node_id
                for hello in self._hellos.values()
                if hello.bootstrap_expect != 0 and (hello.cluster_id == NO_CLUSTER) and hello.node_id not in self._failed
            )
        )
        return tuple(sorted({own.node_id, *self._agreed, *met})) if own.bootstrap_expect else ()

    def agree(self, ids: Sequence[NodeId]) -> None:
        """It is durable that this node forms a cluster with these nodes or none. Its hellos announce that from now on."""
        self._agreed = tuple(ids)

    def told_ids(self) -> tuple[NodeId, ...]:
        """The candidates, for our own hello."""
        own = self._identity()
        return told_ids(own.node_id, self.known_ids(), self._agreed, own.bootstrap_expect) if own.bootstrap_expect else ()

    def decision(self) -> BootstrapDecision:
        """`decide_bootstrap` of what is known now."""
        own = attrs.evolve(self._identity(), known_ids=self.known_ids())
        return decide_bootstrap(own, list(self._hellos.values()))

    def hellos(self) -> Sequence[Hello]:
        """The latest hello of each other node."""
        return tuple(self._hellos.values())

    async def wait_heard(self) -> None:
        """Until any node has said anything."""
        await self._changed.park()

    async def wait_decision(self) -> Bootstrap | Join | Refuse:
        """The first decision that is not to wait."""
        while isinstance(decision := self.decision(), Wait):
            await self._changed.park()
        return decision

    def _begin_watching(self, address: str) -> bool:
        """Probe the address from now on. False: there is no room, and no other address may be evicted for it."""
        if address in self._watched:
            return True
        if len(self._watched) >= self._settings.addresses_max:
            known = {member.address for member in self._members.values() if self._is_known(member.node_id)}
            least = next((one for one in (*self._claims, *self._watched) if one not in self._fixed and one not in known), None)
            if least is None:
                return False
            self._stop_watching(least)
        scope = self._watched[address] = trio.CancelScope()
        if self._nursery is not None:
            self._nursery.start_soon(self._watch, address, scope)
        return True

    def _stop_watching(self, address: str) -> None:
        self._claims.pop(address, None)
        self._watched.pop(address).cancel()

    def _is_wanted(self, address: str) -> bool:
        return (
            address in self._fixed or address in self._hints or any(member.address == address for member in self._members.values())
        )

    async def _watch(self, address: str, scope: trio.CancelScope) -> None:
        with scope:
            await self._probe_for_ever(address)
        if self._watched.get(address) is scope:
            self._stop_watching(address)

    async def _probe_for_ever(self, address: str) -> None:
        """Probe one address until cancelled, until it turns out to be our own, or until no node is believed to be there."""
        settings = self._settings
        failures = 0
        last_text = ""
        while True:
            seconds_max = settings.probe_seconds_max
            try:
                hello = await self._probe(address)
            except OSError as error:
                failures += 1
                text = str(error)
                if text != last_text:
                    level = logging.WARNING if isinstance(error, CertificateRefused) else logging.INFO
                    self._lines.log(level, "probe of %s: %s", address, text)
                    last_text = text
                if failures == settings.failed_probes_max:
                    self._nobody_at(address)
                if self._is_forming():
                    seconds_max = settings.probe_seconds_min
            except LinkRefused as error:
                if error.refused.code == RefusedCode.SAME_NODE_ID:
                    logger.info("%s is this node: not probed again", address)
                    return
                if error.refused.text != last_text:
                    self._lines.log(logging.WARNING, "probe of %s refused: %s", address, error.refused.text)
                    last_text = error.refused.text
                if error.is_ours and error.refused.code == RefusedCode.NOT_THIS_LIFE:
                    self._nobody_at(address)  # Another process answers there than the node that was.
            else:
                failures = 0
                last_text = ""
                self.met(hello, address)
                self._nobody_at(address, but=hello.node_id)
                if self._is_forming():
                    seconds_max = settings.probe_seconds_min
            if not self._is_wanted(address):
                return
            await trio.sleep(jittered(self._rng, seconds_max))

    def _is_forming(self) -> bool:
        return self._identity().cluster_id == NO_CLUSTER

    def _heard(self, hello: Hello, address: str) -> bool:
        """Whether it is a member now, at the address that it says or, if it says none, at which it was met."""
        (node_id, own) = (hello.node_id, self._identity())
        if node_id == own.node_id:
            return False
        member = Member(node_id=node_id, name=hello.node_name, address=hello.address or address)
        former = self._members.get(node_id)
        if former is not None and former.address != member.address and node_id not in self._failed and self._is_linked(node_id):
            if self._elsewhere.get(node_id) != member.address:
                self._elsewhere[node_id] = member.address
                self._lines.log(
                    logging.WARNING,
                    "a process at %s claims to be node %s, which is connected at %s: ignored while that link is up",
                    member.address,
                    format_id(node_id),
                    former.address,
                )
            return False
        if former is None and len(self._members) >= self._settings.addresses_max and not self._forget_least():
            self._lines.log(logging.WARNING, "node %s is one more than can be remembered", format_id(node_id))
            return False
        self._elsewhere.pop(node_id, None)
        self._hellos[node_id] = hello
        self._members[node_id] = member
        if former is None or node_id in self._failed:
            self._failed.discard(node_id)
            self._on_event(MemberAppeared(member))
        elif member != former:
            self._on_event(MemberChanged(member))
        self._changed.unpark_all()
        return True

    def _forget_least(self) -> bool:
        """Evict a member that no other node has named: one that does not answer, or else the one known for longest."""
        unknown = [
            node_id
            for node_id, member in self._members.items()
            if member.address not in self._fixed and not self._is_known(node_id)
        ]
        least = next((node_id for node_id in unknown if node_id in self._failed), unknown[0] if unknown else None)
        if least is None:
            return False
        self._forget(least)
        return True

    def _forget(self, node_id: NodeId) -> None:
        member = self._members.pop(node_id)
        self._failed.discard(node_id)
        self._elsewhere.pop(node_id, None)
        del self._hellos[node_id]
        self._on_event(MemberForgotten(member))
        self._changed.unpark_all()

    def _nobody_at(self, address: str, *, but: NodeId = NOBODY) -> None:
        """No node answers there, or only the node `but`."""
        for member in list(self._members.values()):
            if member.address == address and member.node_id != but and member.node_id not in self._failed:
                self._failed.add(member.node_id)
                self._on_event(MemberFailed(member))
                if not self._is_known(member.node_id):
                    self._forget(member.node_id)
                else:
                    self._changed.unpark_all()
