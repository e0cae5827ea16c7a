"""A simulated network for any Trio program: streams as over TCP, packets as over UDP, one weather and one set of faults for both.

    network = SimNetwork(random.Random(seed), SimNetworkSettings(weather=Weather(latency_seconds_max=0.01)))
    bound = await network.host("server").listen("server:80")
    stream = await network.host("client").open_stream("server:80")
    network.cut("client", "server")

Deterministic: all chance comes from the `random.Random` given to it, and under Trio's `MockClock` nothing takes real time.

What it keeps of TCP: bytes arrive in order or not at all, writers wait when the other side does not read, closing ends the
stream after what was sent, a reset breaks both sides. While two hosts are cut, bytes wait as TCP's retransmissions do, and
neither side sees an error. docs/simulated-network.md is the guide.
"""

import errno
import ipaddress
import random

import attrs
import trio

from trio_eventlog.gossip.messages import Address
from trio_eventlog.net.network import BoundListener, join_address, split_address
from trio_eventlog.testing.datagrams import SimDatagrams
from trio_eventlog.testing.streams import Connection, Retransmission, SimListener, SimStream
from trio_eventlog.testing.weather import Link, OnWrite, PlannedFault, Weather

FIRST_FREE_PORT = 20_000
FIRST_HOST = int(ipaddress.ip_address("10.77.0.1"))
POSITIVE = attrs.validators.ge(1)


@attrs.frozen(slots=True, kw_only=True)
class SimNetworkSettings:
    """Shape of a network.

    Attributes:
        weather: of every link that is given none of its own, at the beginning (`SimNetwork.weather` changes it).
        buffer_bytes_max: on its way in one direction of one connection; a writer waits when it is full.
        backlog_max: connections not yet accepted by a listener; more are refused.
        retransmission: what waited for the end of a cut arrives when TCP tries it again, and so do dials: at intervals that double,
            so that a connection may stay silent for as long again as the cut has lasted. None: at once when the cut ends.
        queue_packets_max: packets that wait at one receiver; more are lost, as in the system's buffer.
    """

    weather: Weather = attrs.field(factory=Weather)
    buffer_bytes_max: int = attrs.field(default=256 * 1024, validator=POSITIVE)
    retransmission: Retransmission | None = None
    backlog_max: int = attrs.field(default=128, validator=POSITIVE)
    queue_packets_max: int = attrs.field(default=2048, validator=POSITIVE)


class SimNetwork:
    """All hosts of one test. `host(name)` is what a program gets.

    Every name stands for a made-up IP address, the same in every run. Any host may listen on any "host:port"; by default tests
    use the host's own name ("n1:8400"). A dial to a host that is cut off hangs, one to a port without a listener is refused.
    """

    def __init__(self, rng: random.Random, settings: SimNetworkSettings | None = None) -> None:
        self.settings = settings or SimNetworkSettings()
        self._rng = rng
        self._on_write: OnWrite | None = None
        self._weather = self.settings.weather
        self._hosts: dict[str, SimHost] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._isolated: set[str] = set()
        self._switched_off: set[str] = set()
        """Hosts that have crashed silently and not come back yet."""
        self._healed = trio.lowlevel.ParkingLot()
        self._addresses: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {}
        self._next_host = FIRST_HOST
        self._next_port = FIRST_FREE_PORT
        self._listeners: dict[Address, SimListener] = {}
        self._owners: dict[Address, str] = {}
        """The host that has last listened on an address: a dial to a dead host behind a cut hangs as well."""
        self._connections: dict[Connection, None] = {}
        self._sockets: dict[Address, SimDatagrams] = {}

    def host(self, name: str) -> "SimHost":
        """The view of one program. The same name gives the same host."""
        if name not in self._hosts:
            self._hosts[name] = SimHost(self, name)
        return self._hosts[name]

    @property
    def on_write(self) -> OnWrite | None:
        """Called with all bytes that a host gives to a connection, and with every packet: source, target, bytes. For traces."""
        return self._on_write

    @on_write.setter
    def on_write(self, on_write: OnWrite | None) -> None:
        self._on_write = on_write
        for link in self._links.values():
            link.on_write = on_write

    # Weather

    @property
    def weather(self) -> Weather:
        """Of every link that was given none of its own. May be set at any time; what is on its way already arrives as it would."""
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        self._weather = weather
        for link in self._links.values():
            if not link.has_own_weather:
                link.weather = weather

    def set_weather(self, a: str, b: str, weather: Weather | None, *, both_ways: bool = True) -> None:
        """Give the link from `a` to `b` (and back) a weather of its own; None: that of the whole network again."""
        for link in self._links_between(a, b, both_ways):
            link.has_own_weather = weather is not None
            link.weather = weather or self._weather

    # Faults

    def cut(self, a: str, b: str, *, both_ways: bool = True) -> None:
        """Nothing passes from `a` to `b` (nor back) until healed: bytes wait, packets are lost, dials hang, without an error."""
        for link in self._links_between(a, b, both_ways):
            link.is_cut = True
        self._look_at_links()

    def isolate(self, name: str) -> None:
        """Cut one host from all others, later ones too."""
        self._isolated.add(name)
        self._look_at_links()

    def clog(self, a: str, b: str, *, both_ways: bool = True) -> None:
        """Nothing passes from `a` to `b` (nor back) until healed. Unlike with a cut, packets wait too, and come in a burst."""
        for link in self._links_between(a, b, both_ways):
            link.is_clogged = True
        self._look_at_links()

    def heal(self, a: str | None = None, b: str | None = None, *, both_ways: bool = True) -> None:
        """End cuts, clogs and isolations: all; those of one host; or the cuts and clogs between two. What waited arrives."""
        if a is None:
            links = list(self._links.values())
            self._isolated.clear()
        elif b is None:
            links = [link for link in self._links.values() if a in (link.source, link.target)]
            self._isolated.discard(a)
        else:
            links = self._links_between(a, b, both_ways)
        for link in links:
            link.is_cut = link.is_clogged = False
        self._look_at_links()

    def calm(self) -> None:
        """Heal everything, drop planned faults, and return to the weather of the settings."""
        for link in self._links.values():
            link.has_own_weather = False
            link.planned.clear()
        self.weather = self.settings.weather
        self.heal()

    def flip(self, source: str, target: str, *, within_bytes: int = 1, dialled_by: str | None = None) -> None:
        """One bit of one of the next bytes from `source` to `target` arrives wrong.

        Args:
            within_bytes: the bit is in a random one of this number of next bytes; 1: in the very next one.
            dialled_by: only bytes of connections that this host has dialled count; None: packets, too.
        """
        after_bytes = self._rng.randrange(within_bytes)
        self._link(source, target).planned.append(PlannedFault(is_reset=False, after_bytes=after_bytes, dialled_by=dialled_by))

    def reset_inside(self, source: str, target: str, *, after_bytes: int, dialled_by: str | None = None) -> None:
        """Exactly this number of further bytes arrives at `target`, then the connection that carried the last of them is reset.

        Args:
            after_bytes: of all connections between the two, or of those only that are `dialled_by` one of them.
        """
        self._link(source, target).planned.append(PlannedFault(is_reset=True, after_bytes=after_bytes, dialled_by=dialled_by))

    def reset(self, a: str, b: str, *, dialled_by: str | None = None) -> int:
        """Break every connection between two hosts (dialled by one of them only), both sides told. Returns how many."""
        count = 0
        for connection in list(self._connections):
            if {connection.dialler, connection.acceptor} == {a, b} and dialled_by in (None, connection.dialler):
                connection.reset()
                count += 1
        return count

    def crash(self, name: str, *, silently: bool = False) -> None:
        """The process of a host dies: its listeners and sockets vanish, its connections are reset.

        Behind a cut the other side sees the reset when the cut is healed, as by the answer to its next packet.

        Args:
            silently: the machine loses its power instead. No peer sees a reset: connections are half-open, dials hang. When it
                dials, listens or binds again, a peer that sends on an old connection gets a reset; one that only reads does not.
        """
        if silently:
            self._switched_off.add(name)
        # Before the listeners: connections that were not accepted yet are no special case.
        for connection in list(self._connections):
            connection.crash(name, silently=silently)
        for listener in [one for one in self._listeners.values() if one.owner == name]:
            listener.queue.clear()
            listener.close()
        for socket in [one for one in self._sockets.values() if one.owner == name]:
            socket.close()

    # Names and addresses

    def ip_address(self, host: str) -> bytes:
        """The IP address that a name stands for (or that the text is one of)."""
        try:
            return ipaddress.ip_address(host).packed
        except ValueError:
            if host not in self._addresses:
                self.move(host)
            return self._addresses[host]

    def name_of(self, ip_address: bytes) -> str:
        """The name that stands for an IP address, or the address as text."""
        return self._names.get(ip_address) or str(ipaddress.ip_address(ip_address))

    def move(self, host: str, to: str | None = None) -> None:
        """Let a name stand for another IP address from now on, as a change in DNS does. What is bound stays where it is.

        Args:
            to: a name whose address it is now, or the text of an IP address; None: one that no host has ever had.
        """
        if to is None:
            packed = ipaddress.ip_address(self._next_host).packed
            self._next_host += 1
        else:
            packed = self.ip_address(to)
        former = self._addresses.get(host)
        if former is not None and self._names.get(former) == host:
            del self._names[former]
        self._addresses[host] = packed
        self._names[packed] = host

    # The inside

    def _link(self, source: str, target: str) -> Link:
        link = self._links.get((source, target))
        if link is None:
            link = self._links[source, target] = Link(source, target, self._weather, self._rng)
            link.on_write = self._on_write
            self._look_at_link(link)
        return link

    def _links_between(self, a: str, b: str, both_ways: bool) -> list[Link]:
        return [self._link(a, b), self._link(b, a)] if both_ways else [self._link(a, b)]

    def _look_at_link(self, link: Link) -> None:
        is_within_a_host = link.source == link.target
        link.loses = not is_within_a_host and (link.is_cut or link.source in self._isolated or link.target in self._isolated)
        link.passes = is_within_a_host or not (link.loses or link.is_clogged)
        while link.held and link.passes:
            link.held.popleft()()

    def _look_at_links(self) -> None:
        """After every change of what passes: who waits looks again."""
        for link in self._links.values():
            self._look_at_link(link)
        self._healed.unpark_all()
        for connection in self._connections:
            connection.on_links_changed()

    def _switch_on(self, name: str) -> None:
        """A host does something: if it had crashed silently, it is back."""
        if name in self._switched_off:
            self._switched_off.remove(name)
            for connection in self._connections:
                connection.come_back(name)
            self._healed.unpark_all()

    async def _dial(self, dialler: str, address: str) -> SimStream:
        (host, port) = split_address(address)
        await trio.lowlevel.checkpoint()
        self._switch_on(dialler)
        where = Address(self.ip_address(host), port)
        (forth, back) = self._links_between(dialler, self._owners.get(where, host), both_ways=True)
        await trio.sleep(forth.latency_seconds() + back.latency_seconds())
        begun_at = trio.current_time()
        while True:
            # The host that listens there by now, or was the last to do so.
            owner = self._owners.get(where, host)
            (forth, back) = self._links_between(dialler, owner, both_ways=True)
            if forth.passes and back.passes and owner not in self._switched_off:
                break
            await self._healed.park()
            if self.settings.retransmission is not None:
                await trio.sleep_until(self.settings.retransmission.next_dial_time(begun_at, trio.current_time()))
        listener = self._listeners.get(where)
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"{address}: nobody listens there")
        if len(listener.queue) >= self.settings.backlog_max:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"{address}: too many connections wait to be accepted")
        connection = Connection(
            forth,
            back,
            address=address,
            buffer_bytes_max=self.settings.buffer_bytes_max,
            retransmission=self.settings.retransmission,
            on_over=self._connections.pop,
        )
        self._connections[connection] = None
        listener.add(connection)
        return connection.dialler_stream

    async def _listen(self, owner: str, address: str) -> BoundListener:
        (host, port) = split_address(address)
        await trio.lowlevel.checkpoint()
        self._switch_on(owner)
        where = Address(self.ip_address(host), port or self._free_port())
        bound = join_address(host, where.port)
        if where in self._listeners:
            raise OSError(errno.EADDRINUSE, f"cannot listen on {bound}: address already in use")
        listener = SimListener(owner, on_close=lambda: self._listeners.pop(where))
        self._listeners[where] = listener
        self._owners[where] = owner
        return BoundListener(listener, bound)

    async def _bind(self, owner: str, address: str) -> SimDatagrams:
        (host, port) = split_address(address)
        await trio.lowlevel.checkpoint()
        self._switch_on(owner)
        where = Address(self.ip_address(host), port or self._free_port())
        bound = join_address(host, where.port)
        if where in self._sockets:
            raise OSError(errno.EADDRINUSE, f"cannot receive packets on {bound}: address already in use")
        socket = SimDatagrams(
            owner,
            where,
            bound,
            queue_packets_max=self.settings.queue_packets_max,
            send=self._send_packet,
            on_close=lambda: self._sockets.pop(where),
        )
        self._sockets[where] = socket
        return socket

    def _free_port(self) -> int:
        """Free on every address, for streams and packets alike."""
        taken = {where.port for where in (*self._listeners, *self._sockets)}
        while self._next_port in taken:
            self._next_port += 1
        self._next_port += 1
        return self._next_port - 1

    def _send_packet(self, source: SimDatagrams, data: bytes, destination: Address) -> None:
        target = self._sockets.get(destination)
        link = self._link(source.owner, target.owner if target is not None else self.name_of(destination.host))
        if link.on_write is not None:
            link.on_write(link.source, link.target, data)
        if link.passes:
            self._carry_packet(link, data, source.bound, destination)
        elif not link.loses and len(link.held) < self.settings.queue_packets_max:
            link.held.append(lambda: self._carry_packet(link, data, source.bound, destination))

    def _carry_packet(self, link: Link, data: bytes, sender: Address, destination: Address) -> None:
        target = self._sockets.get(destination)
        if target is None:
            return
        arrivals = link.packet_arrivals(len(data))
        if arrivals:
            (data, _) = link.spoil(data)
            for arrival in arrivals:
                target.put(arrival, data, sender)


class SimHost:
    """One host of a `SimNetwork`: the `Network` of a program.

    Attributes:
        name: of the host, for faults.
        datagrams: the `DatagramNetwork` of the same program.
    """

    def __init__(self, network: SimNetwork, name: str) -> None:
        self.name = name
        self.datagrams = SimDatagramHost(network, name)
        self._network = network

    async def open_stream(self, address: str) -> SimStream:
        return await self._network._dial(self.name, address)

    async def listen(self, address: str) -> BoundListener:
        return await self._network._listen(self.name, address)


class SimDatagramHost:
    """`DatagramNetwork` of one host."""

    def __init__(self, network: SimNetwork, name: str) -> None:
        self._network = network
        self._name = name

    async def bind(self, address: str) -> SimDatagrams:
        return await self._network._bind(self._name, address)

    async def resolve(self, address: str) -> list[Address]:
        (host, port) = split_address(address)
        await trio.lowlevel.checkpoint()
        return [Address(self._network.ip_address(host), port)]

    def dialable(self, address: Address) -> str:
        return join_address(self._network.name_of(address.host), address.port)
