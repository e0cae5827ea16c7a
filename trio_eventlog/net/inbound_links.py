"""The links that peers have dialled: frames in, which peers are trusted, and which link is closed for another one."""

import logging
from collections.abc import Callable, Mapping

import attrs
import trio

from trio_eventlog.codec.lives import Life
from trio_eventlog.codec.peer_frame import (
    Frame,
    FrameDecoder,
    FrameKind,
    FrameReader,
    Hello,
    Refused,
    RefusedCode,
    encode_frame_head,
)
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import GroupId, NodeId, format_id
from trio_eventlog.net.epochs import Epochs
from trio_eventlog.net.line_budget import LineBudget
from trio_eventlog.net.links import HELLO_BODY_BYTES_MAX, LinkSettings, OutboundLink
from trio_eventlog.net.socket_io import SocketIo, socket_io

SIGNS_OF_LIFE_INTERVALS = 2
"""The number of ping intervals for which we listen for a former life that was not seen to end, before another one is accepted."""


@attrs.frozen(slots=True, kw_only=True)
class Inbound:
    """What is known of a process that has dialled us.

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

Receive = Callable[[NodeId, int, GroupId, memoryview], None]
"""from, frame kind, group id, body. Synchronous, never blocks, never raises for bad bytes (it counts and drops)."""


@attrs.define(slots=True, eq=False)
class InboundLink:
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
    """A task that waits for something to arrive, or for the link to end."""

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


def is_other_life(hello: Hello, life: Life | None) -> bool:
    """The hello is of a process in another life than `life` (None: in any)."""
    return hello.lives is not None and (life is None or not hello.lives.present.is_life_of(life))


class InboundLinks:
    """The links that are served now, at most one per peer.

    Arguments:
        outbound: our own links, which show where a peer is.
        trusts: see `Trust`.
        receive: see `Receive`.
        lines: for what strangers can have logged.
        on_lost: takes the peer, the epoch of the connection that broke, and why.

    Attributes:
        links: the oldest first.
    """

    def __init__(
        self,
        settings: LinkSettings,
        *,
        outbound: Mapping[NodeId, OutboundLink],
        epochs: Epochs,
        trusts: Trust,
        receive: Receive,
        lines: LineBudget,
        on_lost: Callable[[NodeId, int, str], None],
    ) -> None:
        self._settings = settings
        self._outbound = outbound
        self._epochs = epochs
        self._trusts = trusts
        self._receive = receive
        self._lines = lines
        self._on_lost = on_lost
        self.links: dict[NodeId, InboundLink] = {}

    def on_interval(self) -> None:
        """A ping interval is over: ends the links that have been silent for too long."""
        for inbound in list(self.links.values()):
            inbound.on_interval(self._settings.silent_intervals_max)

    def remove(self, node_id: NodeId) -> None:
        """Ends the link of a peer, which is no loss."""
        inbound = self.links.pop(node_id, None)
        if inbound is not None:
            inbound.end("the peer was removed", is_loss=False)

    def end_other_lives(self, node_id: NodeId, life: Life | None, reason: str) -> None:
        """Ends the link of a process that has the node's id and is in another life than `life` (None: in any)."""
        inbound = self.links.get(node_id)
        if inbound is not None and is_other_life(inbound.hello, life):
            inbound.end(reason, is_loss=True)

    def judge_address(self, hello: Hello) -> Refused | None:
        """Whether links in both directions are up. Then another process that claims the same id does not replace it."""
        link = self._outbound.get(hello.node_id)
        inbound = self.links.get(hello.node_id)
        if link is None or inbound is None or not link.is_up or not inbound.is_trusted or hello.address == link.address:
            return None
        if hello.lives is not None and is_other_life(inbound.hello, hello.lives.present):
            return None  # see `judge_life`
        return Refused(
            RefusedCode.BUSY,
            f"node {format_id(hello.node_id)} is connected at {link.address}, you say that you are at {hello.address}",
        )

    async def judge_life(self, hello: Hello) -> Refused | None:
        """A node that has started again is dead in its former life: refuses a process whose other life is heard on a link."""
        inbound = self.links.get(hello.node_id)
        if (
            inbound is not None
            and hello.lives is not None
            and is_other_life(inbound.hello, hello.lives.present)
            and (inbound.is_trusted or self._is_trusted(inbound))
            and await self._speaks(inbound)
        ):
            return Refused(
                RefusedCode.NOT_THIS_LIFE,
                f"you at {hello.address} are not the node {format_id(hello.node_id)} that is connected here, at"
                f" {inbound.hello.address}: a copy of its data directory was started, or it was not stopped first",
            )
        return None

    async def _speaks(self, inbound: InboundLink) -> bool:
        """Wait whether anything arrives on the link: the peer may be gone without this node having noticed."""
        settings = self._settings
        chunks = inbound.chunks_received
        with trio.move_on_after(min(SIGNS_OF_LIFE_INTERVALS * settings.ping_interval_seconds, settings.hello_seconds_max / 2)):
            while inbound.chunks_received == chunks and self.links.get(inbound.hello.node_id) is inbound:
                await inbound.signs_of_life.park()
        return inbound.chunks_received != chunks and self.links.get(inbound.hello.node_id) is inbound

    def is_full_for(self, node_id: NodeId) -> bool:
        """A link of this peer would be one too many, and none can be ended for it."""
        return len(self.links) >= self._settings.inbound_links_max and node_id not in self.links and self._least_deserving() is None

    def _least_deserving(self) -> InboundLink | None:
        """The oldest link of a process that has not shown in any way that it is a node of the cluster."""
        return next((inbound for inbound in self.links.values() if not (inbound.is_trusted or self._is_trusted(inbound))), None)

    async def serve(self, stream: trio.abc.Stream, hello: Hello, is_proved: bool) -> None:
        """Takes frames until the link ends."""
        node_id = hello.node_id
        former = self.links.pop(node_id, None)
        if former is not None:
            # The peer has dialled again: whatever became of its former link, this one takes its place.
            former.end("replaced by a new link", is_loss=False)
        elif len(self.links) >= self._settings.inbound_links_max and (least := self._least_deserving()) is not None:
            del self.links[least.hello.node_id]
            least.end("pushed out by a newer link", is_loss=False)
        inbound = InboundLink(hello, is_proved, self._epochs.join(node_id))
        self.links[node_id] = inbound
        link = self._outbound.get(node_id)
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
            if self.links.get(node_id) is inbound:
                del self.links[node_id]
            inbound.signs_of_life.unpark_all()
            if inbound.is_loss:
                self._on_lost(node_id, inbound.epoch, f"its link: {inbound.reason or reason}")
            if node_id not in self._outbound and node_id not in self.links:
                # A stranger can invent ids.
                self._epochs.forget(node_id)

    async def _receive_frames(self, stream: trio.abc.Stream, inbound: InboundLink) -> None:
        """Until the end of the stream."""
        io = socket_io(stream)
        if io is not None:
            await self._receive_frames_from_socket(io, stream, inbound)
            return
        decoder = FrameDecoder(self._settings.peer_frame_bytes_max, HELLO_BODY_BYTES_MAX)
        while True:
            chunk = await stream.receive_some(self._settings.receive_chunk_bytes)
            if not chunk:
                return
            self._keep_more(decoder, inbound)
            await self._take_frames(decoder.feed(chunk), len(chunk), stream, inbound)

    async def _receive_frames_from_socket(self, io: SocketIo, stream: trio.abc.Stream, inbound: InboundLink) -> None:
        """The same, reading to where the frames stay, and yielding once for `receive_chunk_bytes` and not for every read."""
        reader = FrameReader(self._settings.peer_frame_bytes_max, kept_body_bytes_max=HELLO_BODY_BYTES_MAX)
        bytes_until_yield = self._settings.receive_chunk_bytes
        while True:
            count = io.read_nowait(reader.buffers())
            if count is None:
                await io.wait_readable()
                bytes_until_yield = self._settings.receive_chunk_bytes
                continue
            if count == 0:
                return
            self._keep_more(reader, inbound)
            await self._take_frames(reader.received(count), count, stream, inbound)
            bytes_until_yield -= count
            if bytes_until_yield <= 0:
                await trio.lowlevel.checkpoint()
                bytes_until_yield = self._settings.receive_chunk_bytes

    def _keep_more(self, reader: FrameDecoder | FrameReader, inbound: InboundLink) -> None:
        """Memory for large frames is for those whose frames count: others would only have to announce them."""
        if reader.kept_body_bytes_max == HELLO_BODY_BYTES_MAX and (inbound.is_trusted or self._is_trusted(inbound)):
            reader.kept_body_bytes_max = self._settings.peer_frame_bytes_max

    async def _take_frames(self, frames: list[Frame], read_bytes: int, stream: trio.abc.Stream, inbound: InboundLink) -> None:
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

    def is_trusted(self, hello: Hello, is_proved: bool) -> bool:
        """Whether frames of a link with this hello concern this node now."""
        return self._trusts(Inbound(hello=hello, is_proved=is_proved, has_met=self._has_met(hello)))

    def _is_trusted(self, inbound: InboundLink) -> bool:
        """Asks about a link that was not trusted until now."""
        inbound.is_trusted = self.is_trusted(inbound.hello, inbound.is_proved)
        return inbound.is_trusted

    def _has_met(self, hello: Hello) -> bool:
        """Our own link has found the node of this id at the address that it says it has."""
        link = self._outbound.get(hello.node_id)
        return link is not None and link.has_met and link.address == hello.address
