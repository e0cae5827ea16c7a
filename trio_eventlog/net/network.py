"""The seam between a node and its network: dial and listen, nothing else.

`net/real_network.py` has the one over sockets, `testing/network.py` the one in memory.
"""

from typing import Protocol

import attrs
import trio

from trio_eventlog.errors import SettingsError


@attrs.frozen(slots=True)
class BoundListener:
    """A listener that accepts already, and the "host:port" it is bound to (the real port when 0 was asked for)."""

    listener: trio.abc.Listener[trio.abc.Stream]
    address: str


class Network(Protocol):
    """Where a node dials and listens. Addresses are "host:port"."""

    async def open_stream(self, address: str) -> trio.abc.Stream:
        """A new connection, half-closeable. Has no timeout of its own.

        Raises:
            OSError: nobody listens there, or there is no way there.
        """
        ...

    async def listen(self, address: str) -> BoundListener:
        """Listen on `address`; port 0 takes any free one.

        Raises:
            OSError: the port is taken or the address is not ours; the text says which address and why.
        """
        ...


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port" or "[v6]:port". Raises SettingsError saying what is wrong."""
    host, separator, port_text = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise SettingsError(f"address {address!r}: an IPv6 host stands in brackets, as in [::1]:8400")
    if not separator or not host:
        raise SettingsError(f"address {address!r} is not host:port")
    if not (port_text.isascii() and port_text.isdigit()) or int(port_text) > 65535:
        raise SettingsError(f"address {address!r}: port {port_text!r} is not a number from 0 to 65535")
    return host, int(port_text)


def join_address(host: str, port: int) -> str:
    """The inverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
