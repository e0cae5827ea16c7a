"""What a core wants done, and what it has noticed."""

import attrs

from trio_eventlog.gossip.events import Event
from trio_eventlog.gossip.messages import Address


@attrs.frozen(slots=True)
class Datagram:
    """Encoded messages to be sent in one packet. A failure to send counts as a lost packet."""

    address: Address
    messages: tuple[bytes, ...]
    with_checksum: bool = False


@attrs.frozen(slots=True, kw_only=True)
class Exchange:
    """A push/pull to be made: dial, send `Serf.push_pull`, read the answer, hand it to `Serf.merge`."""

    address: Address
    name: str
    is_join: bool = False


@attrs.frozen(slots=True, kw_only=True)
class StreamPing:
    """A ping to be made on a stream; hand an ack of the same sequence to `Serf.stream_ack`."""

    address: Address
    name: str
    sequence: int


@attrs.define(slots=True)
class Actions:
    """Everything wanted since the last `take`, in order."""

    datagrams: list[Datagram] = attrs.field(factory=list)
    exchanges: list[Exchange] = attrs.field(factory=list)
    stream_pings: list[StreamPing] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)

    def take(self) -> "Actions":
        """What there is; nothing is left."""
        taken = Actions(self.datagrams, self.exchanges, self.stream_pings, self.events)
        self.datagrams, self.exchanges, self.stream_pings, self.events = [], [], [], []
        return taken
