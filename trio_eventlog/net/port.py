"""A node's port: connections and packets under one number."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from trio_eventlog.errors import SettingsError
from trio_eventlog.net.datagrams import DatagramNetwork, Datagrams
from trio_eventlog.net.network import BoundListener, Network, split_address

ATTEMPTS_MAX = 16
"""How often another free number is asked for when that of the connections is taken for packets."""


@attrs.frozen(slots=True)
class Port:
    """Bound, and accepting already. `datagrams` is None when no packets were asked for."""

    bound: BoundListener
    datagrams: Datagrams | None

    @property
    def address(self) -> str:
        """The bound "host:port"."""
        return self.bound.address


@asynccontextmanager
async def open_port(address: str, network: Network, datagram_network: DatagramNetwork | None) -> AsyncIterator[Port]:
    """Listen on `address`, and on the same number for packets; both are closed with the block, if not before.

    With port 0 the system chooses a number that is free for connections. If it is taken for packets, another one is tried.

    Raises:
        SettingsError: a fixed number is taken, or the address is not ours.
    """
    port = await _bind(address, network, datagram_network)
    try:
        yield port
    finally:
        if port.datagrams is not None:
            port.datagrams.close()
        await port.bound.listener.aclose()


async def _bind(address: str, network: Network, datagram_network: DatagramNetwork | None) -> Port:
    attempts = 1 if split_address(address)[1] else ATTEMPTS_MAX
    while True:
        attempts -= 1
        try:
            bound = await network.listen(address)
        except OSError as error:
            raise SettingsError(f"{error}: choose another --listen address, or stop what uses it") from error
        if datagram_network is None:
            return Port(bound, None)
        try:
            return Port(bound, await datagram_network.bind(bound.address))
        except OSError as error:
            await bound.listener.aclose()
            if not attempts:
                raise SettingsError(
                    f"{error}: gossip needs the number of the TCP port for UDP too. Choose another --listen address, or stop"
                    " what uses it"
                ) from error
        except BaseException:
            await trio.aclose_forcefully(bound.listener)
            raise
