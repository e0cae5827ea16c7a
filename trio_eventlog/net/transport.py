"""Messages between nodes: one outbound link per peer, and the inbound links of the peers.

Each node sends on the link it has dialled and receives on the links dialled to it, so every link has one direction of traffic
and one owner (docs/design/wire.md). Losing frames is allowed; delaying the caller is not.
"""

import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from trio_eventlog.budgets import Activity, Standing
from trio_eventlog.codec.lives import Life
from trio_eventlog.codec.peer_frame import Buffer, Hello, Refused
from trio_eventlog.codec.peer_secret import PeerSecrets
from trio_eventlog.codec.transfer import FETCH_BODY_BYTES_MAX, PIECE_BODY_BYTES_MAX
from trio_eventlog.ids import NOBODY, NodeId, format_id
from trio_eventlog.net.epochs import Epochs
from trio_eventlog.net.inbound_links import Inbound, InboundLinks, Receive, Trust, is_other_life
from trio_eventlog.net.line_budget import LineBudget
from trio_eventlog.net.links import (
    Greeted,
    LinkOwner,
    LinkRefused,
    LinkSettings,
    LinkStatistics,
    OutboundLink,
    Priority,
    dial,
    new_challenge,
)
from trio_eventlog.net.listener_greeting import Admit, LinkRefusedHere, ListenerGreeting, RecognizeProcess, encode_refusal
from trio_eventlog.net.mux import ConnectionInfo
from trio_eventlog.net.network import Network
from trio_eventlog.net.side_connection import SideConnection
from trio_eventlog.net.tls import TlsSource

__all__ = [
    "Admit",
    "Inbound",
    "LinkEvent",
    "PeerConnected",
    "PeerIntroduced",
    "PeerRefused",
    "PeerReset",
    "Receive",
    "RecognizeProcess",
    "Transport",
    "Trust",
]

logger = logging.getLogger(__name__)

SAY_AGAIN_SECONDS = 60.0
"""A link that is refused again and again, for the same reason, to the same node, is logged at most this often."""
REFUSALS_REMEMBERED_MAX = 256
"""Of whom it was logged: the oldest is forgotten first."""


@attrs.frozen(slots=True, kw_only=True)
class PeerConnected:
    """Our link to the peer is up: what is sent from now on leaves. `hello` is what the peer said of itself."""

    node_id: NodeId
    hello: Hello


@attrs.frozen(slots=True, kw_only=True)
class PeerReset:
    """A connection with the peer, ours or its own, broke: it has probably crashed. Once per loss, at once."""

    node_id: NodeId
    reason: str


@attrs.frozen(slots=True, kw_only=True)
class PeerRefused:
    """A link was refused, by them or by us (`is_ours`). `node_id` is 0 when not known; `code` is a RefusedCode.

    `by` is the node that refused ours, 0 when it did not identify itself: any program can answer at an address learned from others.
    """

    node_id: NodeId
    address: str
    code: int
    text: str
    is_ours: bool = False
    by: NodeId = NOBODY


@attrs.frozen(slots=True, kw_only=True)
class PeerIntroduced:
    """A node of our cluster name has dialled us (for a link or a probe) and was accepted: it exists, at `hello.address`."""

    hello: Hello


LinkEvent = PeerConnected | PeerReset | PeerRefused | PeerIntroduced

ServeSide = Callable[[NodeId, bool, SideConnection, Standing], Awaitable[None]]
"""Serves a side connection that a node has opened, until it returns. The bool: whether the node is trusted, as `Trust` says."""


class Transport:
    """All links of one node.

    Arguments:
        identity: our own hello, asked for at each exchange since its values change; `is_probe` and `expected_id` are set here.
        network: where to dial.
        tls: for dialling peers, and for judging the certificates of those who dial us; None: plaintext.
        rng: for the jitter of reconnecting.
        receive: takes each frame of each peer, in order per peer. A CodecError from it ends the peer's link.
        on_event: takes each `LinkEvent`. Synchronous, must not raise; may call `set_peer`, `remove_peer` and `send`.
        admit: see `Admit`.
        trusts: see `Trust`: what comes on a link that is not trusted (yet) is dropped.
        secrets: what nodes prove themselves with, asked for at each exchange.
        recognize: see `RecognizeProcess`; decides about every process that dials us or answers us.
        serve_side: see `ServeSide`; called for each side connection. None: there are none here.

    One loss, one PeerReset: see `Epochs`.
    """

    def __init__(
        self,
        *,
        identity: Callable[[], Hello],
        network: Network,
        settings: LinkSettings,
        rng: random.Random,
        receive: Receive,
        on_event: Callable[[LinkEvent], None],
        tls: TlsSource | None = None,
        admit: Admit | None = None,
        trusts: Trust = lambda inbound: True,
        secrets: Callable[[], PeerSecrets] = PeerSecrets,
        recognize: RecognizeProcess | None = None,
        serve_side: ServeSide | None = None,
    ) -> None:
        self._identity = identity
        self._network = network
        self._settings = settings
        self._rng = rng
        self._on_event = on_event
        self._tls = tls
        self._secrets = secrets
        self._serve_side = serve_side
        self._said: OrderedDict[tuple[int, NodeId, str], float] = OrderedDict()
        """When it was last logged that a node at an address is refused for a reason."""
        self._lines = LineBudget(logger, "links that others have dialled")
        self._links: dict[NodeId, OutboundLink] = {}
        self._scopes: dict[OutboundLink, trio.CancelScope] = {}
        self._epochs = Epochs()
        self._inbound = InboundLinks(
            settings,
            outbound=self._links,
            epochs=self._epochs,
            trusts=trusts,
            receive=receive,
            lines=self._lines,
            on_lost=self._lost,
        )
        self._greeting = ListenerGreeting(
            settings,
            identity=identity,
            inbound=self._inbound,
            tls=tls,
            rng=rng,
            admit=admit,
            secrets=secrets,
            recognize=recognize,
            serves_side=serve_side is not None,
        )
        self._nursery: trio.Nursery | None = None
        self._owner = LinkOwner(on_up=self._on_up, on_lost=self._on_lost, on_refused=self._on_refused)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the links up until cancelled. Peers may be set before and after."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for link in self._links.values():
                    nursery.start_soon(self._run_link, link)
                task_status.started()
                while True:
                    await trio.sleep(self._settings.ping_interval_seconds)
                    for link in list(self._links.values()):
                        link.on_interval(self._epochs.present(link.node_id))
                    self._inbound.on_interval()
        finally:
            self._nursery = None

    def set_peer(self, node_id: NodeId, address: str) -> None:
        """Keep one link to `node_id` at `address`. The same again changes nothing; another address redials."""
        if node_id == NOBODY or node_id == self._identity().node_id:
            raise ValueError(f"node {format_id(node_id)} is no peer")
        known = self._links.get(node_id)
        if known is not None:
            if known.address == address:
                return
            self._stop_link(known)
        self._start_link(node_id, address)

    def renew_links(self) -> None:
        """Our identity is another one: dial all peers anew, who take us for what we said in the hello of each link."""
        for link in list(self._links.values()):
            self._stop_link(link)
            self._start_link(link.node_id, link.address)

    def _start_link(self, node_id: NodeId, address: str) -> None:
        link = OutboundLink(
            node_id,
            address,
            identity=self._identity,
            network=self._network,
            settings=self._settings,
            tls=self._tls,
            rng=self._rng,
            owner=self._owner,
            secrets=self._secrets,
            recognize=self._recognize_answer,
        )
        self._links[node_id] = link
        if self._nursery is not None:
            self._nursery.start_soon(self._run_link, link)

    def remove_peer(self, node_id: NodeId) -> None:
        """Drop the link and what it has queued, and close the peer's inbound link. No PeerReset follows here.

        The peer gets a goodbye on our link. The end of its own link looks like a loss to it, and it dials again.
        """
        link = self._links.pop(node_id, None)
        if link is not None:
            self._stop_link(link)
        self._inbound.remove(node_id)

    def send(self, node_id: NodeId, buffers: Buffer | Sequence[Buffer], priority: Priority, *, more: bool = False) -> bool:
        """Queue one or more whole frames (`encode_frame`), to leave together. Never blocks.

        The buffers must not change afterwards. `more`: another send to the same peer follows before the caller waits, so that
        these leave in one write. False: not queued, since the link is down, unknown or full.
        """
        link = self._links.get(node_id)
        return link is not None and link.send(buffers, priority, more)

    def send_to_all(self, buffers: Buffer | Sequence[Buffer], priority: Priority) -> None:
        """`send` to every peer whose link is up."""
        for link in self._links.values():
            if link.is_up:
                link.send(buffers, priority)

    def end_other_lives(self, node_id: NodeId, life: Life | None) -> None:
        """End the connections with processes that have the node's id and are in another life than `life` (None: in any)."""
        self._inbound.end_other_lives(node_id, life, _OTHER_LIFE)
        link = self._links.get(node_id)
        if link is not None and link.is_up and link.hello is not None and is_other_life(link.hello, life):
            link.end_session(_OTHER_LIFE)

    def is_connected(self, node_id: NodeId) -> bool:
        """Our link to the peer is up."""
        link = self._links.get(node_id)
        return link is not None and link.is_up

    def connected(self) -> list[NodeId]:
        """The peers whose links from us are up."""
        return [node_id for node_id, link in self._links.items() if link.is_up]

    async def probe(self, address: str, host: str = "") -> Hello:
        """Ask which node is at `address`; a certificate shown there has to be valid for `host`, or else for the host in `address`.

        Raises:
            OSError: no answer in time (TimeoutError), or an answer that is not a peer's.
            LinkRefused: a node answers, but not to us.
        """
        greeted = await self._dial(address, self._own_probe(), host)
        await trio.aclose_forcefully(greeted.stream)
        return greeted.hello

    async def open_side(self, node_id: NodeId) -> SideConnection:
        """A side connection to a peer, where our link to it dials. The caller closes it.

        Raises:
            OSError: the peer is not known, does not answer in time (TimeoutError), or is of a release without side connections.
            LinkRefused: it is not taken.
        """
        link = self._links.get(node_id)
        if link is None:
            raise OSError(f"no address of node {format_id(node_id)} is known")
        greeted = await self._dial(link.address, attrs.evolve(self._own_probe(), is_side=True, expected_id=node_id))
        if not greeted.hello.is_side or greeted.decoder.buffered_bytes:
            await trio.aclose_forcefully(greeted.stream)
            raise OSError(f"node {format_id(node_id)} is of a release that serves no files to other nodes")
        return SideConnection(greeted.stream, PIECE_BODY_BYTES_MAX)

    async def _dial(self, address: str, own: Hello, host: str = "") -> Greeted:
        secrets = self._secrets()
        return await dial(
            address,
            attrs.evolve(own, challenge=new_challenge(secrets, self._rng)),
            network=self._network,
            settings=self._settings,
            tls=self._tls,
            secrets=secrets,
            recognize=self._recognize_answer,
            host=host,
        )

    def _own_probe(self) -> Hello:
        return attrs.evolve(self._identity(), is_probe=True, expected_id=NOBODY)

    async def handle_inbound(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        """The mux's handler for peer links: hello, then frames until the link ends."""
        try:
            greeted = await self._greeting.greet(stream, info)
        except LinkRefusedHere as error:
            refused = error.refused
            # A node that is given the same list of addresses as all others finds itself in it.
            is_own_probe = error.hello is not None and error.hello.is_probe and _is_same_process(error.hello, self._own_probe())
            level = logging.DEBUG if is_own_probe or not self._is_news(error) else logging.WARNING
            self._lines.log(level, "peer link of %s refused: %s", info.remote_address or "(unknown)", refused.text)
            if not error.is_told:
                with trio.move_on_after(self._settings.hello_seconds_max):
                    await stream.send_all(encode_refusal(refused))
            if error.hello is not None:
                self._on_event(
                    PeerRefused(
                        node_id=error.hello.node_id,
                        address=error.hello.address,
                        code=refused.code,
                        text=refused.text,
                        is_ours=True,
                    )
                )
            return
        if greeted is None:
            return
        (hello, is_proved) = greeted
        if hello.is_side and self._serve_side is not None:
            is_trusted = self._inbound.is_trusted(hello, is_proved)
            await self._serve_side(hello.node_id, is_trusted, SideConnection(stream, FETCH_BODY_BYTES_MAX), info.standing)
            return
        self._on_event(PeerIntroduced(hello=hello))
        if not hello.is_probe:
            began = trio.current_time()
            # The longer a link has stood, the more it deserves its place: strangers who say they are peers come later.
            info.standing.look = lambda: Activity(requests=1, open_calls=1, last_active=-began)
            await self._inbound.serve(stream, hello, is_proved)

    def statistics(self) -> dict[NodeId, LinkStatistics]:
        """A frozen copy of each link's counters."""
        return {node_id: self._link_statistics(link) for node_id, link in self._links.items()}

    # Outbound.

    async def _run_link(self, link: OutboundLink) -> None:
        if self._links.get(link.node_id) is not link:
            return  # replaced before it ran
        with trio.CancelScope() as scope:
            self._scopes[link] = scope
            try:
                await link.run()
            finally:
                del self._scopes[link]

    def _stop_link(self, link: OutboundLink) -> None:
        scope = self._scopes.get(link)
        says_goodbye = link.leave()
        if scope is not None:
            # A goodbye waits behind the current write, which may hang.
            scope.deadline = trio.current_time() + (self._settings.hello_seconds_max if says_goodbye else 0.0)

    def _on_up(self, link: OutboundLink, hello: Hello) -> None:
        link.epoch = self._epochs.join(link.node_id)
        logger.info("link to %s (%s) at %s is up", format_id(link.node_id), hello.node_name, link.address)
        self._on_event(PeerConnected(node_id=link.node_id, hello=hello))

    def _on_lost(self, link: OutboundLink, reason: str) -> None:
        self._lost(link.node_id, link.epoch, f"our link: {reason}")

    def _on_refused(self, link: OutboundLink, error: LinkRefused) -> None:
        refused = error.refused
        by = error.by.node_id if error.by is not None else NOBODY
        self._on_event(
            PeerRefused(
                node_id=link.node_id,
                address=link.address,
                code=refused.code,
                text=refused.text,
                is_ours=error.is_ours,
                by=by,
            )
        )

    def _lost(self, node_id: NodeId, epoch: int, reason: str) -> None:
        """A connection of `epoch` broke."""
        if not self._epochs.end(node_id, epoch):
            return
        log = logger.log if node_id in self._links else self._lines.log
        log(logging.INFO, "lost %s: %s", format_id(node_id), reason)
        self._on_event(PeerReset(node_id=node_id, reason=reason))

    async def _recognize_answer(self, hello: Hello) -> Refused | None:
        """Decide about a process that answers where we have dialled."""
        return await self._greeting.recognize_process(hello, not hello.is_probe)

    def _is_news(self, error: LinkRefusedHere) -> bool:
        """Whether this refusal is to be logged."""
        if error.hello is None:
            return True
        key = (error.refused.code, error.hello.node_id, error.hello.address)
        now = trio.current_time()
        if now - self._said.get(key, -SAY_AGAIN_SECONDS) < SAY_AGAIN_SECONDS:
            return False
        self._said[key] = now
        self._said.move_to_end(key)
        if len(self._said) > REFUSALS_REMEMBERED_MAX:
            self._said.popitem(last=False)
        return True

    def _link_statistics(self, link: OutboundLink) -> LinkStatistics:
        inbound = self._inbound.links.get(link.node_id)
        return LinkStatistics(
            is_connected=link.is_up,
            queued_bytes=link.queued_bytes,
            sends=link.sends,
            dropped_sends=link.dropped_sends,
            sent_bytes=link.sent_bytes,
            writes=link.writes,
            received_frames=inbound.received_frames if inbound is not None else 0,
            received_bytes=inbound.received_bytes if inbound is not None else 0,
            dials=link.dials,
        )


_OTHER_LIFE = "another process is this node now"


def _is_same_process(one: Hello, other: Hello) -> bool:
    """Whether both are hellos of one process that says the same of itself, perhaps at two moments of its life."""
    if one.lives is None or other.lives is None:
        return one == other
    return one.lives.present.is_life_of(other.lives.present) and attrs.evolve(one, lives=other.lives) == other
