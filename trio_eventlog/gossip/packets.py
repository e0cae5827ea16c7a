"""What leaves in packets: messages, with as many rumors as fit beside them, and rumors alone."""

from collections.abc import Callable, Sequence

from trio_eventlog.gossip.actions import Actions, Datagram
from trio_eventlog.gossip.messages import CRC_PROTOCOL, Address, Message, RowStatus
from trio_eventlog.gossip.rows import Row, Table, filled
from trio_eventlog.gossip.rumors import RumorQueue, take_rumors
from trio_eventlog.gossip.settings import SwimSettings

COMPOUND_BYTES = 2
MESSAGES_MAX = 255
"""In one packet."""


def rumor_bytes_max(settings: SwimSettings) -> int:
    """Bytes of the longest rumor that fits into a packet alone."""
    return settings.packet_bytes_max - settings.packet_overhead_bytes - COMPOUND_BYTES - 2


def knows_checksums(row: Row) -> bool:
    """The member understands packets with a checksum."""
    return row.versions.protocol_max >= CRC_PROTOCOL


class PacketSender:
    """Makes packets of messages and rumors, into `actions`.

    Arguments:
        encode: the bytes of a message.
        queues: rumors, the most urgent queue first.
    """

    def __init__(
        self,
        settings: SwimSettings,
        *,
        table: Table,
        actions: Actions,
        encode: Callable[[Message], bytes],
        queues: Sequence[RumorQueue],
    ) -> None:
        self._settings = settings
        self._table = table
        self._actions = actions
        self._encode = encode
        self._queues = tuple(queues)

    @property
    def has_rumors(self) -> bool:
        return any(self._queues)

    def send(self, address: Address, *messages: Message, with_checksum: bool = False) -> None:
        """Messages, and as many rumors as fit beside them."""
        settings = self._settings
        bodies = [self._encode(message) for message in messages]
        if any(self._queues):
            room = settings.packet_bytes_max - settings.packet_overhead_bytes - COMPOUND_BYTES
            room -= sum(2 + len(body) for body in bodies)
            limit = MESSAGES_MAX - len(bodies)
            bodies += take_rumors(self._queues, room, limit, len(self._table), settings.retransmit_multiplier)
        self._actions.datagrams.append(Datagram(address, tuple(bodies), with_checksum))

    def send_alone(self, address: Address, message: Message) -> None:
        """One message by itself: what the upper layer sends."""
        self._actions.datagrams.append(Datagram(filled(address), (self._encode(message),)))

    def gossip(self, now: float) -> None:
        """Rumors to some members, the failed among them: they may be alive and not know that they are accused."""
        settings = self._settings

        def is_worth_it(row: Row) -> bool:
            if row.status is RowStatus.FAILED:
                return now - row.changed_at < settings.gossip_to_dead_seconds
            return row.is_here

        room = settings.packet_bytes_max - settings.packet_overhead_bytes - COMPOUND_BYTES
        for row in self._table.pick(settings.gossip_members, is_worth_it):
            bodies = take_rumors(self._queues, room, MESSAGES_MAX, len(self._table), settings.retransmit_multiplier)
            if not bodies:
                return
            self._actions.datagrams.append(Datagram(row.address, tuple(bodies), knows_checksums(row)))
