"""The weather of a simulated network, and what it does to the bytes and packets that one host sends to another."""

import random
from collections.abc import Callable

import attrs
import trio

CHANCE = attrs.validators.and_(attrs.validators.ge(0.0), attrs.validators.le(1.0))
NOT_NEGATIVE = attrs.validators.ge(0.0)

OnWrite = Callable[[str, str, bytes], None]


@attrs.frozen(slots=True, kw_only=True)
class Weather:
    """What becomes of all that one host sends to another. Nothing happens by default.

    Attributes:
        latency_seconds_min, latency_seconds_max: of each write to a stream and of each packet, drawn evenly. The bytes of a
            connection keep their order, packets do not.
        loss_chance, duplication_chance: of each packet.

    Raises:
        ValueError: a chance outside 0..1, a negative latency, a maximum below its minimum.
    """

    latency_seconds_min: float = attrs.field(default=0.0, validator=NOT_NEGATIVE)
    latency_seconds_max: float = attrs.field(default=0.0, validator=NOT_NEGATIVE)
    loss_chance: float = attrs.field(default=0.0, validator=CHANCE)
    duplication_chance: float = attrs.field(default=0.0, validator=CHANCE)

    @latency_seconds_max.validator
    def _check_latency(self, attribute: object, value: float) -> None:
        if value < self.latency_seconds_min:
            raise ValueError(f"latency_seconds_max {value} is below latency_seconds_min {self.latency_seconds_min}")


class Link:
    """All that one host sends to another, of all connections and sockets between them. The network keeps its fields up to date.

    Attributes:
        source, target: names of hosts.
        weather: the link's own, or that of the whole network.
        is_cut: asked to be; hosts may be isolated besides.
        passes: what is sent arrives now. While it does not, bytes wait and packets are lost.
        on_write: see `SimNetwork.on_write`.
    """

    __slots__ = ("_rng", "has_own_weather", "is_cut", "on_write", "passes", "source", "target", "weather")

    def __init__(self, source: str, target: str, weather: Weather, rng: random.Random) -> None:
        self.source = source
        self.target = target
        self.weather = weather
        self.has_own_weather = False
        self.is_cut = False
        self.passes = True
        self.on_write: OnWrite | None = None
        self._rng = rng

    def latency_seconds(self) -> float:
        """The latency of one write or packet."""
        weather = self.weather
        (low, high) = (weather.latency_seconds_min, weather.latency_seconds_max)
        return low if low == high else self._rng.uniform(low, high)

    def arrival(self) -> float:
        """When what is sent now is there."""
        return trio.current_time() + self.latency_seconds()

    def packet_arrivals(self) -> list[float]:
        """When the copies of a packet that is sent now are there: none of a lost one."""
        weather = self.weather
        if not self.passes:
            return []
        copies = 1
        if weather.duplication_chance and self._rng.random() < weather.duplication_chance:
            copies = 2
        if weather.loss_chance:
            copies = sum(self._rng.random() >= weather.loss_chance for _ in range(copies))
        return [self.arrival() for _ in range(copies)]
