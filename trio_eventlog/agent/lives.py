"""Lives of nodes (decision 20): this node counts the moments of its own, and hears and repeats those of its peers."""

import logging

import trio

from trio_eventlog.agent.parts import NodeParts
from trio_eventlog.codec.lives import Claim, decode_claim, encode_claim
from trio_eventlog.codec.peer_frame import FrameKind, encode_frame_head
from trio_eventlog.errors import CodecError, EventLogError
from trio_eventlog.ids import NodeId, format_id
from trio_eventlog.net.links import Priority
from trio_eventlog.storage.disk import is_shortage

logger = logging.getLogger(__name__)

MOMENT_SECONDS = 5.0
"""The interval at which a node that writes moves to the next moment of its life, and announces it: a copy of its directory made
before that is refused."""
CLAIMS_MAX = 1024
"""The number of claims of peers about lives that wait to be looked at. More are dropped; peers repeat them when a link comes up."""


class NodeLives:
    """The tasks that keep lives up to date, and the way of claims between the links and `PeerLives`."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self._writes_announced = 0
        self._claims, self._claims_received = trio.open_memory_channel[tuple[NodeId, Claim]](CLAIMS_MAX)

    # This node's own life

    async def count_moments(self) -> None:
        while True:
            await trio.sleep(MOMENT_SECONDS)
            await self.next_moment()

    async def next_moment(self) -> None:
        """Begin another moment, if anything was written since the last one.

        What was promised since then is not in copies of the data directory that were made before.
        """
        replicas, own = self._parts.replicas, self._parts.own_lives
        writes = replicas.writes_done
        if writes == self._writes_announced:
            return
        try:
            lives = await own.next_moment(replicas.extents(own.extents))
        except EventLogError as error:
            if not is_shortage(error):
                raise
            logger.warning("another moment of this node cannot be written down just now: %s", error)
            return
        self._writes_announced = writes
        self.announce(Claim(node_id=self._parts.identity.node_id, lives=lives))

    async def end(self) -> None:
        """Write down that the node was stopped in good order. Nothing is written after this."""
        replicas, own = self._parts.replicas, self._parts.own_lives
        try:
            await own.next_moment(replicas.extents(own.extents), is_orderly=True)
        except EventLogError as error:
            if not is_shortage(error):
                raise
            logger.warning("that this was an orderly stop cannot be written down: %s", error)

    # The lives of peers

    def receive(self, node_id: NodeId, body: memoryview) -> None:
        """A claim has come on the link of `node_id`."""
        try:
            self._claims.send_nowait((node_id, decode_claim(body)))
        except CodecError as error:
            logger.warning("what %s says of a life was dropped: %s", format_id(node_id), error)
        except trio.WouldBlock:
            logger.debug("what %s says of a life was dropped: too much waits", format_id(node_id))

    async def hear_claims(self) -> None:
        async for sender, claim in self._claims_received:
            await self._parts.peer_lives.claimed(sender, claim)

    def send_known(self, node_id: NodeId) -> None:
        """A link has come up: send to it what this node knows."""
        for claim in self._parts.peer_lives.claims(node_id):
            self._parts.transport.send(node_id, encode_frame_head(FrameKind.LIVES, 0, encode_claim(claim)), Priority.URGENT)

    def announce(self, claim: Claim) -> None:
        self._parts.transport.send_to_all(encode_frame_head(FrameKind.LIVES, 0, encode_claim(claim)), Priority.URGENT)

    def on_accepted(self, node_id: NodeId) -> None:
        """Which process is `node_id` has become clear: links of other processes that say they are it end."""
        lives = self._parts.peer_lives.lives(node_id)
        self._parts.transport.end_other_lives(node_id, lives.present if lives is not None else None)
