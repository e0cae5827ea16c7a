"""Packets in memory, beside `MemoryNetwork`: the same hosts, cuts and latency, and loss and duplication of their own.

`host(name)` is what a node gets. Names stand for made-up IP addresses, the same in every run of a test.
"""

import errno
import heapq
import ipaddress
import random

import attrs
import trio

from trio_eventlog.gossip.messages import Address
from trio_eventlog.net.network import join_address, split_address
from trio_eventlog.testing.network import MemoryNetwork

FIRST_HOST = int(ipaddress.ip_address("10.77.0.1"))


@attrs.define(slots=True, kw_only=True)
class PacketWeather:
    """What happens to packets; may be changed at any time.

    Attributes:
        loss, duplication: probability for each packet.
        queue_packets_max: waiting at a receiver; more are lost, as in the system's buffer.
    """

    loss: float = 0.0
    duplication: float = 0.0
    queue_packets_max: int = 2048


class MemoryDatagramNetwork:
    """All sockets for packets of one test."""

    def __init__(self, network: MemoryNetwork, rng: random.Random, weather: PacketWeather | None = None) -> None:
        self.network = network
        self.weather = weather or PacketWeather()
        self.rng = rng
        self.sent = 0
        self._sockets: dict[Address, MemoryDatagrams] = {}
        self._addresses: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {}

    def host(self, name: str) -> "MemoryDatagramHost":
        """The view of one node, known to the `MemoryNetwork` by the same name."""
        return MemoryDatagramHost(self, name)

    def crash(self, name: str) -> None:
        """The process of a host dies: its sockets vanish."""
        for one in [one for one in self._sockets.values() if one.owner == name]:
            one.close()

    def address_of(self, host: str) -> bytes:
        """The IP address that a name stands for."""
        try:
            return ipaddress.ip_address(host).packed
        except ValueError:
            if host not in self._addresses:
                packed = ipaddress.ip_address(FIRST_HOST + len(self._addresses)).packed
                self._addresses[host] = packed
                self._names[packed] = host
            return self._addresses[host]

    def name_of(self, packed: bytes) -> str:
        """The name that an IP address was made up for, or the address as text."""
        return self._names.get(packed) or str(ipaddress.ip_address(packed))


class MemoryDatagramHost:
    """`DatagramNetwork` of one node."""

    def __init__(self, network: MemoryDatagramNetwork, name: str) -> None:
        self._network = network
        self._name = name

    async def bind(self, address: str) -> "MemoryDatagrams":
        (host, port) = split_address(address)
        await trio.lowlevel.checkpoint()
        bound = Address(self._network.address_of(host), port)
        if port == 0 or bound in self._network._sockets:
            raise OSError(errno.EADDRINUSE, f"cannot receive packets on {address}: address already in use, or port 0")
        opened = MemoryDatagrams(self._network, self._name, bound, address)
        self._network._sockets[bound] = opened
        return opened

    async def resolve(self, address: str) -> list[Address]:
        (host, port) = split_address(address)
        await trio.lowlevel.checkpoint()
        return [Address(self._network.address_of(host), port)]

    def dialable(self, address: Address) -> str:
        return join_address(self._network.name_of(address.host), address.port)


class MemoryDatagrams:
    """`Datagrams` in memory."""

    def __init__(self, network: MemoryDatagramNetwork, owner: str, bound: Address, address: str) -> None:
        self._network = network
        self.owner = owner
        self._bound = bound
        self._address = address
        self._arriving: list[tuple[float, int, bytes, Address]] = []
        self._number = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._is_closed = False

    @property
    def address(self) -> str:
        return self._address

    def send_nowait(self, data: bytes, destination: Address) -> None:
        if self._is_closed:
            raise OSError(errno.EBADF, "this socket is closed")
        network = self._network
        network.sent += 1
        target = network._sockets.get(destination)
        if target is None or not network.network.passes(self.owner, target.owner):
            return
        for _ in range(1 + (network.rng.random() < network.weather.duplication)):
            if network.rng.random() >= network.weather.loss:
                target._put(trio.current_time() + network.network.latency_seconds(), data, self._bound)

    def _put(self, arrival: float, data: bytes, sender: Address) -> None:
        if len(self._arriving) < self._network.weather.queue_packets_max:
            self._number += 1
            heapq.heappush(self._arriving, (arrival, self._number, data, sender))
            self._changed.unpark_all()

    def receive_nowait(self) -> tuple[bytes, Address] | None:
        if not self._arriving or self._arriving[0][0] > trio.current_time():
            return None
        (_, _, data, sender) = heapq.heappop(self._arriving)
        return data, sender

    async def wait_receivable(self) -> None:
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("this socket is closed")
            arrival = self._arriving[0][0] if self._arriving else float("inf")
            if arrival <= trio.current_time():
                return
            with trio.CancelScope(deadline=arrival):
                await self._changed.park()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            del self._network._sockets[self._bound]
            self._changed.unpark_all()
