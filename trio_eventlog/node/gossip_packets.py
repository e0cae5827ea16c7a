"""Packets of gossip: from the socket into the core, and from the core to the socket."""

from collections import Counter
from collections.abc import Callable, Iterable

import trio

from trio_eventlog.codec.gossip_crypto import Keyring
from trio_eventlog.codec.memberlist import decode_packet, encode_packet
from trio_eventlog.errors import CodecError
from trio_eventlog.gossip.actions import Datagram
from trio_eventlog.gossip.messages import Address
from trio_eventlog.gossip.serf import Serf
from trio_eventlog.net.datagrams import Datagrams
from trio_eventlog.node.gossip_settings import GossipSettings


class GossipPackets:
    """Reads and sends packets, for the driver's task alone.

    Arguments:
        datagrams: bound already; `close` closes it.
        keyring: None when packets are not encrypted.
        counts: the driver's counters.
        warn: see `GossipLog.warn`.
        shown: see `GossipDriver.shown`.
    """

    def __init__(
        self,
        settings: GossipSettings,
        datagrams: Datagrams,
        keyring: Keyring | None,
        counts: Counter[str],
        *,
        warn: Callable[..., None],
        shown: Callable[[Address], str],
    ) -> None:
        self._settings = settings
        self._datagrams = datagrams
        self._keyring = keyring
        self._counts = counts
        self._warn = warn
        self._shown = shown
        self._round_packets = 0
        """Number of packets read in this round, which may take several turns."""

    @property
    def has_unfinished_round(self) -> bool:
        """The last `receive` has stopped because its turn was over; there may be more packets."""
        return self._round_packets > 0

    async def wait_receivable(self) -> None:
        """Return when a packet may have arrived."""
        await self._datagrams.wait_receivable()

    def receive(self, serf: Serf, now: float) -> bool:
        """Give the core what has arrived. False when the turn was over before: call again after other tasks have run."""
        settings = self._settings
        turn_ends_at = now + settings.turn_seconds_max
        while self._round_packets < settings.packets_per_round_max:
            if trio.current_time() > turn_ends_at:
                return False
            self._round_packets += 1
            try:
                received = self._datagrams.receive_nowait()
            except OSError as error:
                self._counts["receive errors"] += 1
                self._warn("receive", "a packet could not be received: %s", error)
                continue
            if received is None:
                break
            (data, sender) = received
            self._counts["packets received"] += 1
            self._counts["packet bytes received"] += len(data)
            try:
                packet = decode_packet(data, label=settings.label, keyring=self._keyring, limits=settings.limits)
            except CodecError as error:
                self._counts["packets dropped"] += 1
                self._warn("packet", "a packet from %s was dropped: %s", self._shown(sender), error)
                continue
            self._counts["messages dropped"] += packet.dropped
            serf.receive(packet.messages, sender, now)
        self._round_packets = 0
        return True

    def send(self, datagrams: Iterable[Datagram]) -> None:
        """Send them. One that cannot be sent is a lost packet: indirect probes follow, and then a suspicion."""
        for datagram in datagrams:
            data = encode_packet(
                datagram.messages,
                with_checksum=datagram.with_checksum,
                label=self._settings.label,
                keyring=self._keyring,
            )
            self._counts["packets sent"] += 1
            self._counts["packet bytes sent"] += len(data)
            try:
                self._datagrams.send_nowait(data, datagram.address)
            except OSError as error:
                self._counts["send errors"] += 1
                self._warn("send", "a packet to %s could not be sent: %s", self._shown(datagram.address), error)

    def close(self) -> None:
        self._datagrams.close()
