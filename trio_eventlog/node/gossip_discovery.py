"""Where nodes are, by gossip: members that say by their tags that they are nodes of this event log."""

import functools
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs
import trio

from trio_eventlog.codec.gossip_crypto import Keyring
from trio_eventlog.codec.peer_frame import Hello
from trio_eventlog.gossip import events as gossip_events
from trio_eventlog.gossip.messages import Address
from trio_eventlog.ids import NOBODY, NodeId, format_id, parse_id
from trio_eventlog.net.datagrams import DatagramNetwork, Datagrams
from trio_eventlog.net.discovery import (
    DiscoveryEvent,
    Member,
    MemberAppeared,
    MemberChanged,
    MemberFailed,
    MemberLeft,
)
from trio_eventlog.net.network import Network, join_address, split_address
from trio_eventlog.node.gossip_driver import GossipDriver
from trio_eventlog.node.gossip_settings import GossipSettings
from trio_eventlog.texts import shown

ROLE = "eventlog"
CLUSTER_TAG_LENGTH_MAX = 64
ADDRESS_TAG_LENGTH_MAX = 255
WARNING_SECONDS = 600.0
"""How long a warning is shown after it was last noticed; a conflict is noticed again with every exchange of tables."""
WARNINGS_MAX = 64
META_BYTES_MAX = 512
"""Of all tags of a member together."""


def node_tags(node_id: NodeId, *, address: str, cluster_name: str, version: str) -> dict[str, str]:
    """The tags of a node: role, id, cluster, version, the port, and the address that other nodes shall dial.

    The address is there beside gossip's own since it may be a name, which certificates are made out to.
    """
    (_, port) = split_address(address)
    tags = {
        "role": ROLE,
        "id": format_id(node_id),
        "port": str(port),
        "cluster": cluster_tag(cluster_name),
        "v": version,
    }
    if len(address) <= ADDRESS_TAG_LENGTH_MAX:
        tags["addr"] = address
    return tags


def cluster_tag(cluster_name: str) -> str:
    """The name, or a digest of a long one: all tags together have 512 bytes."""
    if len(cluster_name.encode()) <= CLUSTER_TAG_LENGTH_MAX:
        return cluster_name
    return "sha256:" + hashlib.sha256(cluster_name.encode()).hexdigest()[:32]


def accepts_cluster(cluster_name: str) -> Callable[[str, Mapping[str, str]], bool]:
    """May a member gossip with us? Not when it is of another cluster; foreign programs that name none may look on."""
    own = cluster_tag(cluster_name)
    return lambda name, tags: tags.get("cluster", own) == own


@attrs.frozen(slots=True, kw_only=True)
class Seen:
    """A member of gossip, for people.

    Attributes:
        node_id: NOBODY for one that is no node of this program.
        status: "alive", "suspect", "leaving", "left", "failed".
    """

    node_id: NodeId
    name: str
    address: str
    status: str
    tags: Mapping[str, str]


class DriverMaker(Protocol):
    """Makes a driver whose events go to `on_event`: `functools.partial(GossipDriver, name=..., ...)`."""

    def __call__(self, *, on_event: Callable[[gossip_events.Event], None]) -> GossipDriver: ...


class GossipDiscovery:
    """Nodes as gossip knows them, by id, and the driver behind it. Gossip alone admits nobody to Raft.

    Arguments:
        make_driver: makes `driver`.
        node_id: our own.
        on_event: takes each `DiscoveryEvent`; synchronous.
        on_gossip_event: takes every event of gossip too, after this has looked at it.
    """

    def __init__(
        self,
        make_driver: DriverMaker,
        *,
        node_id: NodeId,
        on_event: Callable[[DiscoveryEvent], None],
        on_gossip_event: Callable[[gossip_events.Event], None] = lambda event: None,
    ) -> None:
        self._node_id = node_id
        self._on_event = on_event
        self._on_gossip_event = on_gossip_event
        self._members: dict[NodeId, Member] = {}
        self._ids: dict[str, NodeId] = {}
        """By gossip name: who it was when last alive, until it is forgotten."""
        self._warnings: dict[str, float] = {}
        """When each was last noticed, in that order."""
        self.driver = make_driver(on_event=self._on_driver_event)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Gossip until cancelled."""
        await self.driver.run(task_status=task_status)

    def members(self) -> Mapping[NodeId, Member]:
        """Members that neither failed nor left, without ourselves."""
        return dict(self._members)

    def seen(self) -> list[Seen]:
        """Everybody as gossip knows them, ourselves, those that failed or left, and foreign programs too; by name."""
        return [self.shown(member) for (_, member) in sorted(self.driver.members.items())]

    def shown(self, gossip_member: gossip_events.Member) -> Seen:
        """A member as people see it."""
        member = member_of(gossip_member, self.driver.shown_host(gossip_member.address))
        is_suspect = gossip_member.is_suspect and gossip_member.status is gossip_events.GossipStatus.ALIVE
        return Seen(
            node_id=NOBODY if member is None else member.node_id,
            name=shown(gossip_member.name),
            address=self.driver.shown(gossip_member.address) if member is None else member.address,
            status="suspect" if is_suspect else gossip_member.status.name.lower(),
            # Bytes that are not UTF-8 fit into no answer to a client.
            tags={shown(name): shown(value, META_BYTES_MAX) for name, value in gossip_member.tags.items()},
        )

    def warnings(self) -> list[str]:
        """What an operator should look at, noticed in the last `WARNING_SECONDS`."""
        oldest = trio.current_time() - WARNING_SECONDS
        return [text for text, noticed_at in self._warnings.items() if noticed_at >= oldest]

    def _warn(self, text: str) -> None:
        self._warnings.pop(text, None)
        self._warnings[text] = trio.current_time()
        if len(self._warnings) > WARNINGS_MAX:
            del self._warnings[next(iter(self._warnings))]

    def introduce(self, hello: Hello) -> None:
        """A node has told us of itself: gossip with it too."""
        if hello.node_id != self._node_id and hello.node_id not in self._members and hello.address:
            self.driver.try_to_join(hello.address)

    def _on_driver_event(self, event: gossip_events.Event) -> None:
        match event:
            case gossip_events.MemberJoined(member=member) | gossip_events.MemberUpdated(member=member):
                self._is_alive(member)
            case gossip_events.MemberFailed(member=member):
                self._is_gone(member.name, MemberFailed)
            case gossip_events.MemberLeft(member=member):
                self._is_gone(member.name, MemberLeft)
            case gossip_events.MemberReaped(member=member):
                self._is_gone(member.name, MemberLeft)
                self._ids.pop(member.name, None)
            case gossip_events.NameConflict():
                self._warn(self.driver.log.conflict_text(event))
            case _:
                pass
        self._on_gossip_event(event)

    def _is_alive(self, gossip_member: gossip_events.Member) -> None:
        member = member_of(gossip_member, self.driver.shown_host(gossip_member.address))
        former_id = self._ids.get(gossip_member.name)
        if former_id is not None and (member is None or member.node_id != former_id):
            # The same name with another id: a wiped disk, and so another node.
            now = "no node at all" if member is None else f"node {format_id(member.node_id)}"
            text = (
                f"{gossip_member.name!r} was node {format_id(former_id)} and is {now}: another data directory, or another machine"
                " of the same name. If the former node does not come back, remove it by its id: trio-eventlog node remove"
            )
            self.driver.log.warn(f"another {gossip_member.name}", "%s", text)
            self._warn(text)
            self._is_gone(gossip_member.name, MemberFailed)
        if member is None or member.node_id == self._node_id:
            return
        known = self._members.get(member.node_id)
        self._members[member.node_id] = member
        self._ids[gossip_member.name] = member.node_id
        if known is None:
            self._on_event(MemberAppeared(member))
        elif known != member:
            self._on_event(MemberChanged(member))

    def _is_gone(self, name: str, how: "type[MemberFailed] | type[MemberLeft]") -> None:
        node_id = self._ids.get(name, NOBODY)
        member = self._members.get(node_id)
        if member is not None and member.name == name:
            del self._members[node_id]
            self._on_event(how(member))


def make_gossip_discovery(
    *,
    node_id: NodeId,
    name: str,
    advertised: str,
    cluster_name: str,
    version: str,
    datagrams: Datagrams,
    address: Address,
    network: Network,
    datagram_network: DatagramNetwork,
    rng: random.Random,
    on_event: Callable[[DiscoveryEvent], None],
    on_gossip_event: Callable[[gossip_events.Event], None] = lambda event: None,
    seeds: Sequence[str] = (),
    keyring: Keyring | None = None,
    settings: GossipSettings,
) -> GossipDiscovery:
    """A node's gossip: run it, and give `driver.streams.handle` to the mux.

    Arguments:
        advertised: the "host:port" that other nodes shall dial.
        datagrams: a socket on the number of the node's TCP port; closed when the driver's `run` ends.
        address: what others send packets to: gossip carries IP addresses.
        seeds: "host:port" of nodes to join through.
    """
    make_driver = functools.partial(
        GossipDriver,
        name=name,
        address=address,
        tags=node_tags(node_id, address=advertised, cluster_name=cluster_name, version=version),
        settings=settings,
        datagrams=datagrams,
        datagram_network=datagram_network,
        network=network,
        rng=rng,
        seeds=seeds,
        keyring=keyring,
        accepts=accepts_cluster(cluster_name),
    )
    return GossipDiscovery(make_driver, node_id=node_id, on_event=on_event, on_gossip_event=on_gossip_event)


def member_of(member: gossip_events.Member, host: str) -> Member | None:
    """The node behind a gossip member; None when its tags are not those of a node of this program."""
    tags = member.tags
    if tags.get("role") != ROLE:
        return None
    try:
        node_id = NodeId(parse_id(tags.get("id", "")))
        address = tags.get("addr") or join_address(host, int(tags.get("port", "")))
        split_address(address)
    except (ValueError, OSError):
        return None
    if node_id == NOBODY:
        return None
    return Member(node_id=node_id, name=member.name, address=address, tags=tags)
