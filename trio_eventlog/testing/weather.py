"""The weather of a simulated network, and what it does to the bytes and packets that one host sends to another."""

import random
from collections import deque
from collections.abc import Callable

import attrs
import trio
from attrs.validators import and_, ge, gt, le, optional

SEGMENT_BYTES = 1460
"""On a slow link a write arrives in pieces of this size, as over Ethernet."""

OnWrite = Callable[[str, str, bytes], None]
_CHANCE = and_(ge(0.0), le(1.0))


@attrs.frozen(slots=True, kw_only=True)
class Weather:
    """What becomes of all that one host sends to another. By default it is there at once and unharmed.

    Attributes:
        latency_seconds_min, latency_seconds_max: of each write to a stream and of each packet, drawn evenly. The bytes of a
            connection keep their order, packets do not.
        bytes_per_second: so much passes, of all connections and packets together, one after the other; None: without limit.
        flip_chance: of each write and packet, that one of its bits is wrong when it arrives. TCP's and UDP's own checksums
            let such damage through now and then.
        loss_chance, duplication_chance: of each packet.
        reorder_chance, reorder_seconds_max: of each packet, that it is held back by up to so much and others overtake it.

    Raises:
        ValueError: a chance outside 0..1, a negative time, a maximum below its minimum, a speed of 0.
    """

    latency_seconds_min: float = attrs.field(default=0.0, validator=ge(0.0))
    latency_seconds_max: float = attrs.field(default=0.0, validator=ge(0.0))
    bytes_per_second: float | None = attrs.field(default=None, validator=optional(gt(0.0)))
    flip_chance: float = attrs.field(default=0.0, validator=_CHANCE)
    loss_chance: float = attrs.field(default=0.0, validator=_CHANCE)
    duplication_chance: float = attrs.field(default=0.0, validator=_CHANCE)
    reorder_chance: float = attrs.field(default=0.0, validator=_CHANCE)
    reorder_seconds_max: float = attrs.field(default=0.0, validator=ge(0.0))

    @latency_seconds_max.validator
    def _check_latency(self, attribute: object, value: float) -> None:
        if value < self.latency_seconds_min:
            raise ValueError(f"latency_seconds_max {value} is below latency_seconds_min {self.latency_seconds_min}")


@attrs.define(slots=True, eq=False)
class PlannedFault:
    """Something that will happen once to what a link carries.

    Attributes:
        is_reset: the connection is reset; otherwise a bit is flipped.
        after_bytes: pass unharmed before it.
        dialled_by: only connections that this host has dialled count; None: everything on the link does.
    """

    is_reset: bool
    after_bytes: int = attrs.field(validator=ge(0))
    dialled_by: str | None = None


class Link:
    """All that one host sends to another, over all connections and sockets between them.

    The network keeps the fields up to date; nothing looks them up where bytes pass.

    Attributes:
        source, target: names of hosts.
        weather: the link's own, or that of the whole network.
        is_cut, is_clogged: as requested by `cut` and `clog`.
        passes: what is sent arrives. While it does not, bytes wait.
        loses: what is sent as a packet is lost: cut, or one of the hosts isolated.
        planned: faults that are to happen.
        held: packets that wait while the link is clogged: how to send each on.
        on_write: see `SimNetwork.on_write`.
    """

    __slots__ = (
        "_free_at",
        "_rng",
        "has_own_weather",
        "held",
        "is_clogged",
        "is_cut",
        "loses",
        "on_write",
        "passes",
        "planned",
        "source",
        "target",
        "weather",
    )

    def __init__(self, source: str, target: str, weather: Weather, rng: random.Random) -> None:
        self.source = source
        self.target = target
        self.weather = weather
        self.has_own_weather = False
        self.is_cut = False
        self.is_clogged = False
        self.passes = True
        self.loses = False
        self.planned: list[PlannedFault] = []
        self.held: deque[Callable[[], None]] = deque()
        self.on_write: OnWrite | None = None
        self._free_at = 0.0
        self._rng = rng

    def latency_seconds(self) -> float:
        """The latency of one write or packet."""
        weather = self.weather
        (low, high) = (weather.latency_seconds_min, weather.latency_seconds_max)
        return low if low == high else self._rng.uniform(low, high)

    def arrival(self, size_bytes: int) -> float:
        """When `size_bytes` that are sent now arrive. On a slow link they occupy it until then."""
        leaves_at = trio.current_time()
        speed = self.weather.bytes_per_second
        if speed is not None:
            leaves_at = self._free_at = max(self._free_at, leaves_at) + size_bytes / speed
        return leaves_at + self.latency_seconds()

    def packet_arrivals(self, size_bytes: int) -> list[float]:
        """When the copies of a packet that is sent now are there: none of a lost one."""
        weather = self.weather
        copies = 1
        if weather.duplication_chance and self._rng.random() < weather.duplication_chance:
            copies = 2
        if weather.loss_chance:
            copies = sum(self._rng.random() >= weather.loss_chance for _ in range(copies))
        arrivals = [self.arrival(size_bytes) for _ in range(copies)]
        if weather.reorder_chance:
            for at in range(copies):
                if self._rng.random() < weather.reorder_chance:
                    arrivals[at] += self._rng.uniform(0.0, weather.reorder_seconds_max)
        return arrivals

    def pieces(self, data: bytes) -> list[bytes]:
        """What a write arrives in."""
        if self.weather.bytes_per_second is None or len(data) <= SEGMENT_BYTES:
            return [data]
        return [data[at : at + SEGMENT_BYTES] for at in range(0, len(data), SEGMENT_BYTES)]

    def spoil(self, data: bytes, dialler: str | None = None) -> tuple[bytes, bool]:
        """What arrives of a write or packet, and whether its connection is reset after that.

        Args:
            dialler: of the connection; None for a packet.
        """
        if self.weather.flip_chance and data and self._rng.random() < self.weather.flip_chance:
            data = self._flipped(data, self._rng.randrange(len(data)))
        if not self.planned:
            return data, False
        size_bytes = kept_bytes = len(data)
        is_reset = False
        for fault in self.planned.copy():
            if fault.dialled_by not in (None, dialler) or (fault.is_reset and dialler is None):
                continue
            if fault.is_reset and fault.after_bytes <= size_bytes:
                kept_bytes = min(kept_bytes, fault.after_bytes)
                is_reset = True
            elif not fault.is_reset and fault.after_bytes < size_bytes:
                data = self._flipped(data, fault.after_bytes)
            else:
                fault.after_bytes -= size_bytes
                continue
            self.planned.remove(fault)
        return data[:kept_bytes], is_reset

    def _flipped(self, data: bytes, at: int) -> bytes:
        return b"%b%c%b" % (data[:at], data[at] ^ 1 << self._rng.randrange(8), data[at + 1 :])
