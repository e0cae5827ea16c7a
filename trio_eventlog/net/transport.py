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

from trio_eventlog.budgets import Activity
from trio_eventlog.codec.first_bytes import PEER_MAGIC, PEER_PREFACE, PEER_VERSION
from trio_eventlog.codec.lives import Life
from trio_eventlog.codec.peer_frame import (
    FRAME_HEADER_BYTES,
    Buffer,
    Frame,
    FrameDecoder,
    FrameKind,
    FrameReader,
    Hello,
    Refused,
    RefusedCode,
    decode_hello,
    encode_frame_head,
    encode_hello,
    encode_refused,
)
from trio_eventlog.codec.peer_secret import PROOF_BYTES, PeerSecrets, Side
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import NOBODY, GroupId, NodeId, format_id
from trio_eventlog.net.line_budget import LineBudget
from trio_eventlog.net.links import (
    HELLO_BODY_BYTES_MAX,
    Lane,
    LinkOwner,
    LinkRefused,
    LinkSettings,
    LinkStatistics,
    OutboundLink,
    dial,
    judge_certificate,
    judge_hello,
    judge_secret,
    new_challenge,
)
from trio_eventlog.net.mux import ConnectionInfo
from trio_eventlog.net.network import Network
from trio_eventlog.net.socket_io import SocketIo, socket_io
from trio_eventlog.net.tls import TlsSource

logger = logging.getLogger(__name__)

SAY_AGAIN_SECONDS = 60.0
"""A link that is refused again and again, for the same reason, to the same node, is logged at most this often."""
REFUSALS_REMEMBERED_MAX = 256
"""Of whom it was logged: the oldest is forgotten first."""
SIGNS_OF_LIFE_INTERVALS = 2
"""For so many ping intervals a node that starts again waits for a sign of its former life, where that was not seen to end."""


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

    `by` is the node that refused ours, 0 when it did not say who it is: anybody can answer at an address that somebody has told us.
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


@attrs.frozen(slots=True, kw_only=True)
class Inbound:
    """What is known of somebody who has dialled us.

    Attributes:
        hello: what he said of himself.
        is_proved: he has shown that he is a node of the cluster: by the secret, or by a certificate that only nodes have.
        has_met: our own link has found the node of this id at the address that he says he has.
    """

    hello: Hello
    is_proved: bool
    has_met: bool


Trust = Callable[[Inbound], bool]
"""Whether frames of an inbound link concern this node. Asked again for each until the answer is yes."""

Admit = Callable[[Hello, ConnectionInfo], Refused | None]
"""A last word on an inbound hello that is right in itself: None takes it. For what only the node knows, such as who was removed."""

RecognizeProcess = Callable[[Hello, bool], Awaitable[Refused | None]]
"""Whether the process behind a hello is the node that it says; None: it is. True: and no other is from now on, durably."""

Receive = Callable[[NodeId, int, GroupId, memoryview], None]
"""from, frame kind, group id, body. Synchronous, never blocks, never raises for bad bytes (it counts and drops)."""


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
        recognize: see `RecognizeProcess`; the last word on everybody who dials us or answers us.

    One loss, one PeerReset: a crash breaks both connections with a peer, one a little later than the other, perhaps after the
    peer is back. So each peer has an epoch, which a loss ends. A connection belongs to the epoch in which it was made, and
    moves to a later one when a PONG shows that it has outlived the loss; only a connection of the present epoch can end it.
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
    ) -> None:
        self._identity = identity
        self._network = network
        self._settings = settings
        self._rng = rng
        self._receive = receive
        self._on_event = on_event
        self._tls = tls
        self._admit = admit
        self._trusts = trusts
        self._secrets = secrets
        self._recognize = recognize
        self._said: OrderedDict[tuple[int, NodeId, str], float] = OrderedDict()
        """When it was last logged that a node at an address is refused for a reason."""
        self._lines = LineBudget(logger, "links that others have dialled")
        self._links: dict[NodeId, OutboundLink] = {}
        self._scopes: dict[OutboundLink, trio.CancelScope] = {}
        self._inbound: dict[NodeId, _InboundLink] = {}
        self._epochs: dict[NodeId, int] = {}
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
                        link.on_interval(self._epochs.get(link.node_id, 0))
                    for inbound in list(self._inbound.values()):
                        inbound.on_interval(self._settings.silent_intervals_max)
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

        The peer is told that our link ends on purpose; that its own ends it takes for a loss, and dials again.
        """
        link = self._links.pop(node_id, None)
        if link is not None:
            self._stop_link(link)
        inbound = self._inbound.pop(node_id, None)
        if inbound is not None:
            inbound.end("the peer was removed", is_loss=False)

    def send(self, node_id: NodeId, buffers: Buffer | Sequence[Buffer], lane: Lane, *, more: bool = False) -> bool:
        """Queue one or more whole frames (`encode_frame`), to leave together. Never blocks.

        The buffers must not change afterwards. `more`: another send to the same peer follows before the caller waits, so that
        these leave in one write. False: not queued, since the link is down, unknown or full.
        """
        link = self._links.get(node_id)
        return link is not None and link.send(buffers, lane, more)

    def send_to_all(self, buffers: Buffer | Sequence[Buffer], lane: Lane) -> None:
        """`send` to every peer whose link is up."""
        for link in self._links.values():
            if link.is_up:
                link.send(buffers, lane)

    def end_other_lives(self, node_id: NodeId, life: Life | None) -> None:
        """End the connections with processes that have the node's id and are in another life than `life` (None: in any)."""
        inbound = self._inbound.get(node_id)
        if inbound is not None and _is_other_life(inbound.hello, life):
            inbound.end(_OTHER_LIFE, is_loss=True)
        link = self._links.get(node_id)
        if link is not None and link.is_up and link.hello is not None and _is_other_life(link.hello, life):
            link.end_session(_OTHER_LIFE)

    def is_connected(self, node_id: NodeId) -> bool:
        """Our link to the peer is up."""
        link = self._links.get(node_id)
        return link is not None and link.is_up

    def connected(self) -> list[NodeId]:
        """The peers whose links from us are up."""
        return [node_id for node_id, link in self._links.items() if link.is_up]

    async def probe(self, address: str, host: str = "") -> Hello:
        """Ask who is at `address`; a certificate shown there is to be good for `host`, or else for the host in `address`.

        Raises:
            OSError: nobody answers in time (TimeoutError), or not as a peer.
            LinkRefused: a node answers, but not to us.
        """
        secrets = self._secrets()
        own = attrs.evolve(self._own_probe(), challenge=new_challenge(secrets, self._rng))
        greeted = await dial(
            address,
            own,
            network=self._network,
            settings=self._settings,
            tls=self._tls,
            secrets=secrets,
            recognize=self._recognize_answer,
            host=host,
        )
        await trio.aclose_forcefully(greeted.stream)
        return greeted.hello

    def _own_probe(self) -> Hello:
        return attrs.evolve(self._identity(), is_probe=True, expected_id=NOBODY)

    async def handle_inbound(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        """The mux's handler for peer links: hello, then frames until the link ends."""
        try:
            (hello, is_proved) = await self._greet(stream, info)
        except LinkRefusedHere as error:
            refused = error.refused
            # A node that is given the same list of addresses as all others finds itself in it.
            is_own_probe = error.hello is not None and error.hello.is_probe and _is_same_process(error.hello, self._own_probe())
            level = logging.DEBUG if is_own_probe or not self._is_news(error) else logging.WARNING
            self._lines.log(level, "peer link of %s refused: %s", info.remote_address or "(unknown)", refused.text)
            if not error.is_told:
                with trio.move_on_after(self._settings.hello_seconds_max):
                    await stream.send_all(_refusal(refused))
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
        if hello is None:
            return
        self._on_event(PeerIntroduced(hello=hello))
        if not hello.is_probe:
            began = trio.current_time()
            # The longer a link has stood, the more it deserves its place: strangers who say they are peers come later.
            info.standing.look = lambda: Activity(requests=1, open_calls=1, last_active=-began)
            await self._serve_inbound(stream, hello, is_proved)

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
            # A goodbye waits behind the write under way, which may hang.
            scope.deadline = trio.current_time() + (self._settings.hello_seconds_max if says_goodbye else 0.0)

    def _on_up(self, link: OutboundLink, hello: Hello) -> None:
        link.epoch = self._epochs.setdefault(link.node_id, 0)
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
        if epoch != self._epochs.get(node_id, 0):
            return
        self._epochs[node_id] = epoch + 1
        log = logger.log if node_id in self._links else self._lines.log
        log(logging.INFO, "lost %s: %s", format_id(node_id), reason)
        self._on_event(PeerReset(node_id=node_id, reason=reason))

    # Inbound.

    async def _greet(self, stream: trio.abc.Stream, info: ConnectionInfo) -> tuple[Hello | None, bool]:
        """The hello of the dialler, answered, and whether he has proved it. None when he went away or said nothing.

        Raises:
            LinkRefusedHere: he is not taken.
        """
        with trio.move_on_after(self._settings.hello_seconds_max):
            body = await self._receive_hello(stream)
            if body is None:
                return None, False
            try:
                said = decode_hello(body)
            except CodecError as error:
                raise LinkRefusedHere(Refused(RefusedCode.MALFORMED, str(error)), None) from error
            (hello, challenge, secrets) = (attrs.evolve(said, challenge=None), said.challenge, self._secrets())
            own = self._identity()
            refused = judge_hello(own, hello)
            if refused is None and hello.expected_id not in (NOBODY, own.node_id):
                refused = Refused(
                    RefusedCode.WRONG_NODE,
                    f"this is node {format_id(own.node_id)}, you look for {format_id(hello.expected_id)}",
                )
            if refused is None and not hello.is_probe and self._is_full_for(hello.node_id):
                refused = Refused(RefusedCode.BUSY, f"{len(self._inbound)} peer links are the limit here")
            if refused is None and self._tls is not None:
                refused = judge_certificate(hello, info.peer_certificate, self._tls.peer_name)
            if refused is None:
                refused = judge_secret(secrets, challenge)
            if refused is None and not hello.is_probe:
                refused = self._judge_address(hello)
            if refused is not None:
                raise LinkRefusedHere(refused, hello)
            refused = self._admit(hello, info) if self._admit is not None else None
            if refused is None:
                refused = await self._recognize_process(hello, False)
            if refused is not None and challenge is None:
                raise LinkRefusedHere(refused, hello)
            reply = attrs.evolve(self._identity(), is_probe=hello.is_probe, expected_id=NOBODY)
            if challenge is not None:
                reply = attrs.evolve(reply, challenge=new_challenge(secrets, self._rng, refuses=refused is not None))
            reply_body = encode_hello(reply)
            answer = encode_frame_head(FrameKind.HELLO_REPLY, 0, reply_body)
            if secrets:
                answer += encode_frame_head(FrameKind.PROOF, 0, secrets.prove(Side.LISTENER, body, reply_body))
            if refused is not None:
                # Behind who we are: so whom it concerns knows who says it.
                await stream.send_all(answer + _refusal(refused))
                raise LinkRefusedHere(refused, hello, is_told=True)
            await stream.send_all(answer)
            if secrets:
                proof = await self._receive_proof(stream)
                if proof is None:
                    return None, False
                if not secrets.accepts(proof, Side.DIALLER, body, reply_body):
                    raise LinkRefusedHere(Refused(RefusedCode.SECRET, "you have another peer secret than this node"), hello)
            is_proved = bool(secrets) or (self._tls is not None and bool(self._tls.peer_name))
            if not hello.is_probe and self._trusts(Inbound(hello=hello, is_proved=is_proved, has_met=self._has_met(hello))):
                # Only now has it proved what there is to be proved. Somebody else may have come meanwhile.
                refused = await self._recognize_process(hello, True)
                if refused is not None:
                    raise LinkRefusedHere(refused, hello)
            return hello, is_proved
        logger.debug("peer link of %s: no hello in time", info.remote_address)
        return None, False

    def _judge_address(self, hello: Hello) -> Refused | None:
        """A node that is linked both ways is where it is: somebody else who says its id does not push it out."""
        link = self._links.get(hello.node_id)
        inbound = self._inbound.get(hello.node_id)
        if link is None or inbound is None or not link.is_up or not inbound.is_trusted or hello.address == link.address:
            return None
        if hello.lives is not None and _is_other_life(inbound.hello, hello.lives.present):
            return None  # see `_recognize_process`
        return Refused(
            RefusedCode.BUSY,
            f"node {format_id(hello.node_id)} is connected at {link.address}, you say that you are at {hello.address}",
        )

    async def _receive_proof(self, stream: trio.abc.Stream) -> bytes | None:
        """The dialler's proof; None when the stream ends. Not a byte more is read: frames follow it."""
        wanted = FRAME_HEADER_BYTES + PROOF_BYTES
        data = b""
        while len(data) < wanted:
            chunk = await stream.receive_some(wanted - len(data))
            if not chunk:
                return None
            data += chunk
        try:
            (frame,) = FrameDecoder(PROOF_BYTES).feed(data)
        except (CodecError, ValueError) as error:
            raise LinkRefusedHere(Refused(RefusedCode.MALFORMED, f"no proof after the hello: {error}"), None) from error
        return bytes(frame.body) if frame.kind == FrameKind.PROOF else b""

    async def _recognize_answer(self, hello: Hello) -> Refused | None:
        """Who answers where we have dialled."""
        return await self._recognize_process(hello, not hello.is_probe)

    async def _recognize_process(self, hello: Hello, remembers: bool) -> Refused | None:
        """The last word on who is at the other end."""
        if self._recognize is None:
            return None
        inbound = self._inbound.get(hello.node_id)
        if (
            inbound is not None
            and hello.lives is not None
            and _is_other_life(inbound.hello, hello.lives.present)
            and (inbound.is_trusted or self._is_trusted(inbound))
            and await self._speaks(inbound)
        ):
            # A node that has started again is dead in its former life; this one lives.
            return Refused(
                RefusedCode.NOT_THIS_LIFE,
                f"you at {hello.address} are not the node {format_id(hello.node_id)} that is connected here, at"
                f" {inbound.hello.address}: a copy of its data directory was started, or it was not stopped first",
            )
        return await self._recognize(hello, remembers)

    async def _speaks(self, inbound: "_InboundLink") -> bool:
        """Whether something arrives on the link from now on: perhaps nobody has noticed yet that the peer is gone."""
        settings = self._settings
        chunks = inbound.chunks_received
        with trio.move_on_after(min(SIGNS_OF_LIFE_INTERVALS * settings.ping_interval_seconds, settings.hello_seconds_max / 2)):
            while inbound.chunks_received == chunks and self._inbound.get(inbound.hello.node_id) is inbound:
                await inbound.signs_of_life.park()
        return inbound.chunks_received != chunks and self._inbound.get(inbound.hello.node_id) is inbound

    def _is_news(self, error: "LinkRefusedHere") -> bool:
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

    def _is_full_for(self, node_id: NodeId) -> bool:
        return (
            len(self._inbound) >= self._settings.inbound_links_max
            and node_id not in self._inbound
            and self._least_deserving() is None
        )

    def _least_deserving(self) -> "_InboundLink | None":
        """The oldest link of somebody who has shown by nothing that he is a node of the cluster."""
        return next((inbound for inbound in self._inbound.values() if not (inbound.is_trusted or self._is_trusted(inbound))), None)

    async def _receive_hello(self, stream: trio.abc.Stream) -> bytes | None:
        """The body of a hello; None when the stream ends first. Raises LinkRefusedHere for anything else."""
        decoder = FrameDecoder(HELLO_BODY_BYTES_MAX)
        preface = b""
        while True:
            chunk = await stream.receive_some(HELLO_BODY_BYTES_MAX)
            if not chunk:
                return None
            if len(preface) < len(PEER_PREFACE):
                missing = len(PEER_PREFACE) - len(preface)
                preface += bytes(chunk[:missing])
                chunk = chunk[missing:]
                if len(preface) < len(PEER_PREFACE):
                    continue
                if preface != PEER_PREFACE:
                    raise LinkRefusedHere(_judge_preface(preface), None)
            try:
                frames = decoder.feed(chunk)
                if not frames:
                    continue
                if frames[0].kind != FrameKind.HELLO or len(frames) > 1 or decoder.buffered_bytes:
                    raise CodecError(f"a frame of kind {frames[0].kind}, or more than one, instead of a hello")
                return bytes(frames[0].body)
            except CodecError as error:
                raise LinkRefusedHere(Refused(RefusedCode.MALFORMED, str(error)), None) from error

    async def _serve_inbound(self, stream: trio.abc.Stream, hello: Hello, is_proved: bool) -> None:
        node_id = hello.node_id
        former = self._inbound.pop(node_id, None)
        if former is not None:
            # The peer has dialled again: whatever became of its former link, this one takes its place.
            former.end("replaced by a new link", is_loss=False)
        elif len(self._inbound) >= self._settings.inbound_links_max and (least := self._least_deserving()) is not None:
            del self._inbound[least.hello.node_id]
            least.end("pushed out by a newer link", is_loss=False)
        inbound = _InboundLink(hello, is_proved, self._epochs.setdefault(node_id, 0))
        self._inbound[node_id] = inbound
        link = self._links.get(node_id)
        if link is not None:
            link.poke()
        reason = "closed by the peer"
        try:
            with inbound.scope:
                await self._receive_frames(stream, inbound)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            reason = str(error.__cause__ or error) or type(error).__name__
        except CodecError as error:
            reason = str(error)
            self._lines.log(logging.WARNING, "peer link of %s: %s", format_id(node_id), error)
        except BaseException:
            inbound.is_loss = False  # we are stopping, or a bug of ours: no news of the peer
            raise
        finally:
            if self._inbound.get(node_id) is inbound:
                del self._inbound[node_id]
            inbound.signs_of_life.unpark_all()
            if inbound.is_loss:
                self._lost(node_id, inbound.epoch, f"its link: {inbound.reason or reason}")
            if node_id not in self._links and node_id not in self._inbound:
                # Anybody can invent ids.
                self._epochs.pop(node_id, None)

    async def _receive_frames(self, stream: trio.abc.Stream, inbound: "_InboundLink") -> None:
        """Until the end of the stream."""
        io = socket_io(stream)
        if io is not None:
            await self._receive_frames_from_socket(io, stream, inbound)
            return
        decoder = FrameDecoder(self._settings.body_bytes_max)
        while True:
            chunk = await stream.receive_some(self._settings.receive_chunk_bytes)
            if not chunk:
                return
            await self._take_frames(decoder.feed(chunk), len(chunk), stream, inbound)

    async def _receive_frames_from_socket(self, io: SocketIo, stream: trio.abc.Stream, inbound: "_InboundLink") -> None:
        """The same, reading to where the frames stay, and yielding once for `receive_chunk_bytes` and not for every read."""
        reader = FrameReader(self._settings.body_bytes_max)
        bytes_until_yield = self._settings.receive_chunk_bytes
        while True:
            count = io.read_nowait(reader.buffers())
            if count is None:
                await io.wait_readable()
                bytes_until_yield = self._settings.receive_chunk_bytes
                continue
            if count == 0:
                return
            await self._take_frames(reader.received(count), count, stream, inbound)
            bytes_until_yield -= count
            if bytes_until_yield <= 0:
                await trio.lowlevel.checkpoint()
                bytes_until_yield = self._settings.receive_chunk_bytes

    async def _take_frames(self, frames: list[Frame], read_bytes: int, stream: trio.abc.Stream, inbound: "_InboundLink") -> None:
        """Give each frame to whom it concerns. Waits only to answer a PING."""
        inbound.on_chunk()
        inbound.received_bytes += read_bytes
        inbound.received_frames += len(frames)
        for kind, group_id, body in frames:
            if inbound.scope.cancel_called:
                return  # another process is this node now
            if kind >= FrameKind.RAFT:
                if not (inbound.is_trusted or self._is_trusted(inbound)):
                    inbound.dropped_frames += 1
                    continue
                self._receive(inbound.hello.node_id, kind, group_id, body)
            elif kind == FrameKind.GOODBYE:
                inbound.is_loss = False
            elif kind == FrameKind.PING:
                await stream.send_all(encode_frame_head(FrameKind.PONG, 0, body))

    def _is_trusted(self, inbound: "_InboundLink") -> bool:
        """Ask about a link that is not trusted yet."""
        hello = inbound.hello
        inbound.is_trusted = self._trusts(Inbound(hello=hello, is_proved=inbound.is_proved, has_met=self._has_met(hello)))
        return inbound.is_trusted

    def _has_met(self, hello: Hello) -> bool:
        """Our own link has found the node of this id at the address that it says it has."""
        link = self._links.get(hello.node_id)
        return link is not None and link.has_met and link.address == hello.address

    def _link_statistics(self, link: OutboundLink) -> LinkStatistics:
        inbound = self._inbound.get(link.node_id)
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


class LinkRefusedHere(Exception):
    """We do not take the link; `hello` is None when there was none; `is_told`: the dialler knows already."""

    def __init__(self, refused: Refused, hello: Hello | None, *, is_told: bool = False) -> None:
        super().__init__(refused.text)
        self.refused = refused
        self.hello = hello
        self.is_told = is_told


@attrs.define(slots=True, eq=False)
class _InboundLink:
    """A peer's link while it is served."""

    hello: Hello
    is_proved: bool
    epoch: int
    is_trusted: bool = False
    dropped_frames: int = 0
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    is_loss: bool = True
    reason: str = ""
    chunks_received: int = 0
    chunks_seen: int = 0
    silent_intervals: int = 0
    received_bytes: int = 0
    received_frames: int = 0
    signs_of_life: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    """Who waits for something to arrive, or for the link to end."""

    def on_chunk(self) -> None:
        self.chunks_received += 1
        if self.signs_of_life:
            self.signs_of_life.unpark_all()

    def end(self, reason: str, *, is_loss: bool) -> None:
        self.is_loss = is_loss
        self.reason = reason
        self.scope.cancel()

    def on_interval(self, silent_intervals_max: int) -> None:
        """A ping interval is over: a live peer has sent at least a PING in a few of them."""
        if self.chunks_received != self.chunks_seen:
            self.chunks_seen = self.chunks_received
            self.silent_intervals = 0
            return
        self.silent_intervals += 1
        if self.silent_intervals >= silent_intervals_max:
            self.end(f"silent for {self.silent_intervals} ping intervals", is_loss=True)


_OTHER_LIFE = "another process is this node now"


def _is_same_process(one: Hello, other: Hello) -> bool:
    """Whether both are hellos of one process that says the same of itself, perhaps at two moments of its life."""
    if one.lives is None or other.lives is None:
        return one == other
    return one.lives.present.is_life_of(other.lives.present) and attrs.evolve(one, lives=other.lives) == other


def _is_other_life(hello: Hello, life: Life | None) -> bool:
    return hello.lives is not None and (life is None or not hello.lives.present.is_life_of(life))


def _refusal(refused: Refused) -> bytes:
    return encode_frame_head(FrameKind.REFUSED, 0, encode_refused(refused))


def _judge_preface(preface: bytes) -> Refused:
    if preface[: len(PEER_MAGIC)] != PEER_MAGIC:
        return Refused(RefusedCode.MALFORMED, f"{preface.hex(' ')} does not begin a peer link")
    return Refused(RefusedCode.PROTOCOL_VERSION, f"peer links of version {preface[-1]} are not spoken here, of {PEER_VERSION} are")
