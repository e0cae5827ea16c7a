"""The seam between a node and its network: dial and listen, nothing else.

`net/real_network.py` has the one over sockets, `testing/network.py` the simulated one.
"""

import errno
from typing import Protocol

import attrs
import trio

from trio_eventlog.setting_fields import format_address, parse_address
from trio_eventlog.texts import shown


@attrs.frozen(slots=True)
class BoundListener:
    """A listener that accepts already, and the "host:port" it is bound to (the real port when 0 was asked for)."""

    listener: trio.abc.Listener[trio.abc.Stream]
    address: str


class AddressError(OSError):
    """A text that is no address. An OSError, as is everything else that keeps an address from being reached: addresses come from
    other nodes too, and code that dials what a stranger wrote has to expect addresses that cannot be reached anyway."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EADDRNOTAVAIL, text)

    def __str__(self) -> str:
        return str(self.strerror)


class Network(Protocol):
    """Where a node dials and listens. Addresses are "host:port"."""

    async def open_stream(self, address: str) -> trio.abc.Stream:
        """A new connection, half-closeable. Has no timeout of its own.

        Raises:
            OSError: nothing listens there, there is no route, or (AddressError) it is not an address.
        """
        ...

    async def listen(self, address: str) -> BoundListener:
        """Listen on `address`; port 0 takes any free one.

        Raises:
            OSError: the port is taken or the address is not ours; the text says which address and why.
        """
        ...


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port" or "[v6]:port". Raises AddressError saying what is wrong."""
    try:
        return parse_address(address)
    except ValueError as error:
        raise AddressError(f"address {shown(address)!r}: {error}") from error


join_address = format_address
"""The inverse of `split_address`."""
