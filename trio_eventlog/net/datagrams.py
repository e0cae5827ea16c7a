"""The seam between gossip and its network: packets, on the port's number.

`net/real_datagrams.py` has the one over UDP sockets, `testing/network.py` the simulated one. Addresses are those of gossip
messages, bytes of an IP address and a port, since packets come and go by them and names do not.
"""

from typing import Protocol

from trio_eventlog.gossip.messages import Address

PACKET_BYTES_MAX = 65_535


class Datagrams(Protocol):
    """A bound socket for packets. Sending and receiving never wait; one task at a time may wait for a packet."""

    @property
    def address(self) -> str:
        """The "host:port" it is bound to."""
        ...

    def send_nowait(self, data: bytes, destination: Address) -> None:
        """Send, or lose, one packet.

        Raises:
            OSError: it could not be sent, and will not be. There is nothing to be done about it: packets get lost.
        """
        ...

    def receive_nowait(self) -> tuple[bytes, Address] | None:
        """The next packet that has arrived already and its sender; None: there is none.

        Raises:
            OSError: one packet was lost; there may be more.
        """
        ...

    async def wait_receivable(self) -> None:
        """Until `receive_nowait` may have something. Raises trio.ClosedResourceError when the socket is closed."""
        ...

    def close(self) -> None:
        """Nothing is received or sent any more."""
        ...


class DatagramNetwork(Protocol):
    """Where a node binds its socket, and how names and addresses hang together."""

    async def bind(self, address: str) -> Datagrams:
        """A socket on "host:port".

        Raises:
            OSError: the port is taken or the address is not ours; the text says which address and why.
        """
        ...

    async def resolve(self, address: str) -> list[Address]:
        """The addresses that "host:port" stands for, of the kind this node's socket can send to; at least one.

        Raises:
            OSError: there is no such host, or (AddressError) it is no address.
        """
        ...

    def dialable(self, address: Address) -> str:
        """The "host:port" by which `Network.open_stream` reaches the same place."""
        ...
