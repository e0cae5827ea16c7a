"""Messages between nodes: one outbound link per peer, and the inbound links of the peers.

Each node sends on the link it has dialled and receives on the links dialled to it, so every link has one direction of traffic
and one owner (docs/design/wire.md). Losing frames is allowed; delaying the caller is not.
"""

import random
from collections.abc import Callable, Sequence

import attrs
import trio

from trio_eventlog.codec.peer_frame import Buffer, Hello
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.net.links import Lane, LinkSettings, LinkStatistics
from trio_eventlog.net.mux import ConnectionInfo
from trio_eventlog.net.network import Network
from trio_eventlog.net.tls import TlsSource


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
    """A link was refused, by them or by us. `node_id` is 0 when not known; `code` is a RefusedCode."""

    node_id: NodeId
    address: str
    code: int
    text: str


@attrs.frozen(slots=True, kw_only=True)
class PeerIntroduced:
    """A node of our cluster name has dialled us (for a link or a probe) and was accepted: it exists, at `hello.address`."""

    hello: Hello


LinkEvent = PeerConnected | PeerReset | PeerRefused | PeerIntroduced

Receive = Callable[[NodeId, int, GroupId, memoryview], None]
"""from, frame kind, group id, body. Synchronous, never blocks, never raises for bad bytes (it counts and drops)."""


class Transport:
    """All links of one node.

    Arguments:
        identity: our own hello, asked for at each exchange since its values change; `is_probe` is set by the transport.
        network: where to dial.
        tls: for dialling peers; None dials in plaintext.
        rng: for the jitter of reconnecting.
        receive: takes each frame of each peer, in order per peer.
        on_event: takes each `LinkEvent`. Synchronous, must not raise; may call `set_peer`, `remove_peer` and `send`.
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
    ) -> None:
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the links up until cancelled. Peers may be set before and after."""
        raise NotImplementedError

    def set_peer(self, node_id: NodeId, address: str) -> None:
        """Keep one link to `node_id` at `address`. The same again changes nothing; another address redials."""
        raise NotImplementedError

    def remove_peer(self, node_id: NodeId) -> None:
        """Drop the link and what it has queued, and close the peer's inbound link. No PeerReset follows."""
        raise NotImplementedError

    def send(self, node_id: NodeId, buffers: Buffer | Sequence[Buffer], lane: Lane) -> bool:
        """Queue one or more whole frames (`encode_frame`), to leave together. Never blocks.

        The buffers must not change afterwards. False: not queued, since the link is down, unknown or full.
        """
        raise NotImplementedError

    def is_connected(self, node_id: NodeId) -> bool:
        """Our link to the peer is up."""
        raise NotImplementedError

    async def probe(self, address: str) -> Hello:
        """Ask who is at `address`.

        Raises:
            OSError: nobody answers in time (TimeoutError), or not as a peer.
            LinkRefused: a node answers, but not to us.
        """
        raise NotImplementedError

    async def handle_inbound(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        """The mux's handler for peer links: hello, then frames until the link ends."""
        raise NotImplementedError

    def statistics(self) -> dict[NodeId, LinkStatistics]:
        """A frozen copy of each link's counters."""
        raise NotImplementedError
