"""Many gossip cores in one event heap: no Trio, no sockets, one seed. Packets are real bytes, streams are not."""

import heapq
import random
from collections import Counter
from collections.abc import Callable

import attrs

from trio_eventlog.codec.gossip_wire import GossipWire
from trio_eventlog.codec.memberlist import WireLimits, decode_packet, encode_packet, encode_stream_message
from trio_eventlog.errors import InvalidArgument
from trio_eventlog.gossip.events import Event, GossipStatus, LeaveFinished, MemberFailed, MemberJoined, MemberLeft
from trio_eventlog.gossip.messages import Ack, Address, Ping, PushPull, StreamMessage
from trio_eventlog.gossip.serf import Serf
from trio_eventlog.gossip.settings import LAN, SerfSettings, SwimSettings
from trio_eventlog.testing.defaults import default

LIMITS = default(WireLimits)
WIRE = GossipWire()
PACKET_BYTES_MAX = 1400
UDP_HEADER_BYTES = 28


@attrs.frozen(slots=True, kw_only=True)
class Weather:
    """What the network does to packets; streams are only delayed and cut. A packet's copy may come much later than itself."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_seconds_min: float = 0.0005
    delay_seconds_max: float = 0.005
    copy_delay_seconds_max: float = 0.0
    streams_work: bool = True


@attrs.define(slots=True)
class Node:
    """One simulated process. `serf` is None after a crash."""

    name: str
    address: Address
    serf: Serf | None
    timer: int = 0
    """Number of the timer that counts; older ones are void."""
    paused_until: float = 0.0
    inbox: list[Callable[[], None]] = attrs.field(factory=list)
    """What has arrived while the process stood still."""


class Simulation:
    """A cluster. `now` is virtual seconds; every random draw comes from the seed."""

    def __init__(
        self,
        seed: int,
        *,
        settings: SwimSettings = LAN,
        serf_settings: SerfSettings | None = None,
        weather: Weather | None = None,
    ) -> None:
        self.rng = random.Random(f"network {seed}")
        self.seed = seed
        self.settings = settings
        self.serf_settings = serf_settings or default(SerfSettings)
        self.weather = weather or Weather()
        self.now = 0.0
        self.nodes: dict[str, Node] = {}
        self.by_address: dict[Address, Node] = {}
        self.events: list[tuple[float, str, Event]] = []
        self.traffic: Counter[str] = Counter()
        self.groups: dict[str, int] = {}
        """Partition: nodes of different groups do not hear each other."""
        self.cut_pairs: set[frozenset[str]] = set()
        """These two do not hear each other, though everybody else hears both."""
        self.incarnations: dict[str, int] = {}
        """The highest that each name has ever taken itself."""
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.lives: Counter[str] = Counter()

    # --- What a test does. ---

    def start(self, name: str, join: str | None = None) -> Node:
        """A new process of this name (again, after a crash); it joins at once through `join`."""
        number = int(name[1:])
        address = Address(bytes((10, 0, number >> 8, number & 255)), 7946)
        self.lives[name] += 1
        serf = Serf(
            name=name,
            address=address,
            tags={"role": "eventlog", "id": f"{number:016x}", "port": "8400", "cluster": "sim", "v": "1"},
            swim_settings=self.settings,
            serf_settings=self.serf_settings,
            wire=WIRE,
            rng=random.Random(f"{self.seed} {name} {self.lives[name]}"),
            now=self.now,
        )
        node = Node(name, address, serf)
        self.nodes[name] = node
        self.by_address[address] = node
        self.settle(node)
        if join is not None:
            self._join(node, join)
        return node

    def crash(self, name: str) -> None:
        """Without a word."""
        self.nodes[name].serf = None

    def pause(self, name: str, seconds: float) -> None:
        """Stopped, as by SIGSTOP; what arrives meanwhile waits."""
        node = self.nodes[name]
        node.paused_until = self.now + seconds
        self.at(node.paused_until, lambda: self._resume(node))

    def leave(self, name: str) -> None:
        """Gracefully; the process ends when that is done."""
        node = self.nodes[name]
        assert node.serf is not None
        node.serf.wake(self.now)
        node.serf.leave(self.now)
        self.settle(node)

    def partition(self, *groups: set[str]) -> None:
        """Cut; names in no group stay with the first."""
        self.groups = {name: number for number, group in enumerate(groups) for name in group}

    def heal(self) -> None:
        self.groups = {}

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, is_done: Callable[[], bool], seconds_max: float) -> float | None:
        """Until the condition holds (looked at 20 times a second); how long that took, None when it did not come."""
        began = self.now
        end = began + seconds_max
        look_at = began
        while True:
            if self.now >= look_at:
                if is_done():
                    return self.now - began
                look_at = self.now + 0.05
            if not self._heap or self._heap[0][0] > end:
                self.now = end
                return self.now - began if is_done() else None
            (self.now, _, action) = heapq.heappop(self._heap)
            action()

    def live(self) -> list[Node]:
        """Processes that run."""
        return [node for node in self.nodes.values() if node.serf is not None]

    def status(self, observer: Node, name: str) -> GossipStatus | None:
        assert observer.serf is not None
        member = observer.serf.member(name)
        return None if member is None else member.status

    def agree(self, observers: list[Node] | None = None, alive: set[str] | None = None) -> bool:
        """Each sees exactly these (all that run) as alive."""
        observers = self.live() if observers is None else observers
        alive = {node.name for node in self.live()} if alive is None else alive
        for node in observers:
            assert node.serf is not None
            records = node.serf._members.records.values()
            if {one.name for one in records if one.status is GossipStatus.ALIVE} != alive:
                return False
        return True

    def failures(self) -> list[tuple[float, str, str]]:
        """When, who, whom."""
        return [(at, who, event.member.name) for at, who, event in self.events if isinstance(event, MemberFailed)]

    # --- The machinery. ---

    def at(self, time: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, action))

    def settle(self, node: Node) -> None:
        """Carry out what a core wants, and set its timer."""
        serf = node.serf
        assert serf is not None
        actions = serf.actions.take()
        self.incarnations[node.name] = max(self.incarnations.get(node.name, 0), serf.swim.own.incarnation)
        for event in actions.events:
            self.events.append((self.now, node.name, event))
            if isinstance(event, MemberJoined):
                assert event.member.incarnation <= self.incarnations[event.member.name], "nobody invents incarnations"
            if isinstance(event, LeaveFinished):
                node.serf = None
                return
        for datagram in actions.datagrams:
            data = encode_packet(datagram.messages, with_checksum=datagram.with_checksum)
            assert len(data) <= PACKET_BYTES_MAX
            self._send(node, datagram.address, data)
        for exchange in actions.exchanges:
            self._exchange(node, exchange.address, is_join=exchange.is_join)
        for ping in actions.stream_pings:
            self._stream_ping(node, ping.address, ping.name, ping.sequence)
        node.timer += 1
        timer = node.timer
        self.at(max(serf.next_deadline(), self.now), lambda: self._fire(node, timer))

    def _fire(self, node: Node, timer: int) -> None:
        if timer == node.timer and node.serf is not None and self.now >= node.paused_until:
            node.serf.wake(self.now)
            node.serf.tick(self.now)
            self.settle(node)

    def _resume(self, node: Node) -> None:
        if node.serf is None or self.now < node.paused_until:
            return
        node.serf.wake(self.now)
        inbox, node.inbox = node.inbox, []
        for action in inbox:
            action()
        node.serf.tick(self.now)
        self.settle(node)

    def _deliver(self, node: Node, action: Callable[[], None]) -> None:
        """`action` hands something to the core of `node`, now or when it goes on."""
        if node.serf is None:
            return
        if self.now < node.paused_until:
            if len(node.inbox) < 1000:
                node.inbox.append(action)
            return
        node.serf.wake(self.now)
        action()
        node.serf.tick(self.now)
        self.settle(node)

    def hears(self, source: str, target: str) -> bool:
        is_together = self.groups.get(source, 0) == self.groups.get(target, 0)
        return is_together and frozenset((source, target)) not in self.cut_pairs

    def _delay(self) -> float:
        return self.rng.uniform(self.weather.delay_seconds_min, self.weather.delay_seconds_max)

    def _send(self, source: Node, address: Address, data: bytes) -> None:
        self.traffic["packets"] += 1
        self.traffic["packet bytes"] += len(data) + UDP_HEADER_BYTES
        copies = 1 + (self.rng.random() < self.weather.duplication)
        for number in range(copies):
            if self.rng.random() >= self.weather.loss:
                late = number * self.rng.random() * self.weather.copy_delay_seconds_max
                self.at(self.now + self._delay() + late, lambda: self._arrive(source, address, data))

    def _arrive(self, source: Node, address: Address, data: bytes) -> None:
        target = self.by_address.get(address)
        if target is None or not self.hears(source.name, target.name):
            return
        packet = decode_packet(data, limits=LIMITS)
        assert packet.dropped == 0

        def receive() -> None:
            if target.serf is not None:
                target.serf.receive(packet.messages, source.address, self.now)

        self._deliver(target, receive)

    def _reach(self, source: Node, address: Address, use: Callable[[Node], None]) -> None:
        """Dial; `use` runs on the other side after three crossings, if it is there. A stopped process accepts later."""
        target = self.by_address.get(address)
        if target is None or not self.weather.streams_work:
            return

        def connected() -> None:
            if target.serf is not None and self.hears(source.name, target.name):
                self._deliver(target, lambda: use(target))

        self.at(self.now + 3 * self._delay(), connected)

    def _count_stream(self, message: StreamMessage) -> None:
        self.traffic["streams"] += 1
        self.traffic["stream bytes"] += len(encode_stream_message(message)) + 200

    def _exchange(self, node: Node, address: Address, *, is_join: bool, then: Callable[[PushPull], None] | None = None) -> None:
        assert node.serf is not None
        request = node.serf.push_pull(is_join=is_join)
        self._count_stream(request)

        def serve(target: Node) -> None:
            assert target.serf is not None
            answer = target.serf.receive_stream(request, self.now)
            assert isinstance(answer, PushPull)
            self._count_stream(answer)

            def merge() -> None:
                if node.serf is None or not self.hears(node.name, target.name):
                    return
                if then is not None:
                    then(answer)
                    return
                try:
                    node.serf.merge(answer, self.now)
                except InvalidArgument:
                    return

            self.at(self.now + self._delay(), lambda: self._deliver(node, merge))

        self._reach(node, address, serve)

    def _join(self, node: Node, through: str) -> None:
        """Tried again every second until it succeeds."""
        serf = node.serf
        done = []

        def joined(answer: PushPull) -> None:
            if node.serf is not None and not done:
                done.append(True)
                node.serf.merge(answer, self.now, is_first_join=True)
                node.serf.joined(self.now)

        def attempt() -> None:
            if node.serf is serf and not done:
                streams_work, self.weather = self.weather, attrs.evolve(self.weather, streams_work=True)
                self._exchange(node, self.nodes[through].address, is_join=True, then=joined)
                self.weather = streams_work
                self.at(self.now + 1.0, attempt)

        attempt()

    def _stream_ping(self, node: Node, address: Address, name: str, sequence: int) -> None:
        assert node.serf is not None
        ping = Ping(sequence=sequence, target=name)
        self._count_stream(ping)

        def serve(target: Node) -> None:
            assert target.serf is not None
            answer = target.serf.receive_stream(ping, self.now)

            def acked() -> None:
                if node.serf is not None and isinstance(answer, Ack) and self.hears(node.name, target.name):
                    node.serf.stream_ack(answer.sequence, self.now)

            self.at(self.now + self._delay(), lambda: self._deliver(node, acked))

        self._reach(node, address, serve)


def gone_events(simulation: Simulation, name: str) -> dict[str, tuple[float, str]]:
    """By observer: when it first saw `name` go, and how."""
    found: dict[str, tuple[float, str]] = {}
    for at, who, event in simulation.events:
        if isinstance(event, MemberFailed | MemberLeft) and event.member.name == name and who != name:
            found.setdefault(who, (at, "failed" if isinstance(event, MemberFailed) else "left"))
    return found
