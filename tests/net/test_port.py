"""One number for connections and packets."""

import random
import socket

import attrs
import pytest

from trio_eventlog.errors import SettingsError
from trio_eventlog.gossip.messages import Address
from trio_eventlog.net.datagrams import DatagramNetwork, Datagrams
from trio_eventlog.net.port import ATTEMPTS_MAX, open_port
from trio_eventlog.net.real_datagrams import RealDatagramNetwork
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.testing.network import FIRST_FREE_PORT, SimNetwork


async def test_real_sockets_have_one_number_and_are_closed() -> None:
    """Both are there, both are free again afterwards."""
    async with open_port("127.0.0.1:0", RealNetwork(), RealDatagramNetwork()) as port:
        assert port.datagrams is not None
        assert port.datagrams.address == port.address
    number = int(port.address.rpartition(":")[2])
    with socket.socket(type=socket.SOCK_DGRAM) as packets:
        packets.bind(("127.0.0.1", number))


async def test_without_packets() -> None:
    """Only the connections, and the number stays free for somebody else's packets."""
    async with open_port("127.0.0.1:0", RealNetwork(), None) as port:
        assert port.datagrams is None
        with socket.socket(type=socket.SOCK_DGRAM) as packets:
            packets.bind(("127.0.0.1", int(port.address.rpartition(":")[2])))


@attrs.define(slots=True)
class Taken:
    """Packets of a host on which the numbers of the first connections are taken."""

    datagrams: DatagramNetwork
    refusals_left: int

    async def bind(self, address: str) -> Datagrams:
        if self.refusals_left:
            self.refusals_left -= 1
            raise OSError(98, f"cannot receive packets on {address}: address already in use")
        return await self.datagrams.bind(address)

    async def resolve(self, address: str) -> list[Address]:
        return await self.datagrams.resolve(address)

    def dialable(self, address: Address) -> str:
        return self.datagrams.dialable(address)


async def test_another_free_number_is_tried() -> None:
    """As long as numbers that are free for connections are taken for packets; a bounded number of times; nothing stays bound."""
    host = SimNetwork(random.Random(0)).host("n1")
    async with open_port("n1:0", host, Taken(host.datagrams, ATTEMPTS_MAX - 1)) as port:
        assert port.address == f"n1:{FIRST_FREE_PORT + ATTEMPTS_MAX - 1}"
    packets = Taken(host.datagrams, ATTEMPTS_MAX)
    with pytest.raises(SettingsError, match="UDP"):
        async with open_port("n1:0", host, packets):
            pass
    assert packets.refusals_left == 0
    for number in range(FIRST_FREE_PORT, FIRST_FREE_PORT + 2 * ATTEMPTS_MAX):
        async with open_port(f"n1:{number}", host, host.datagrams):
            pass


@pytest.mark.parametrize("kind", ["connections", "packets"])
async def test_a_fixed_number_that_is_taken(kind: str) -> None:
    """Refused, naming the address; what was bound already is given back."""
    network = SimNetwork(random.Random(0))
    host = network.host("n1")
    if kind == "packets":
        taken = await host.datagrams.bind("n1:8400")
    else:
        listener = (await host.listen("n1:8400")).listener
    with pytest.raises(SettingsError, match="n1:8400"):
        async with open_port("n1:8400", host, host.datagrams):
            pass
    if kind == "packets":
        taken.close()
    else:
        await listener.aclose()
    async with open_port("n1:8400", host, host.datagrams) as port:
        assert port.address == "n1:8400"
