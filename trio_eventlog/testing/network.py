"""A network in memory, deterministic under MockClock, with latency, cuts, crashes and resets; each node sees a `Network`."""

import random

import attrs
import trio

from trio_eventlog.net.network import BoundListener


@attrs.frozen(slots=True, kw_only=True)
class MemoryNetworkSettings:
    """Shape of the network.

    Attributes:
        latency_seconds_min, latency_seconds_max: of each write, drawn evenly; order within a direction is kept.
        buffer_bytes_max: on its way in one direction of one connection; a writer waits when it is full.
        backlog_max: connections not yet accepted; more are refused.
    """

    latency_seconds_min: float = 0.0
    latency_seconds_max: float = 0.0
    buffer_bytes_max: int = 256 * 1024
    backlog_max: int = 128


class MemoryNetwork:
    """All hosts of one test. `host(name)` is what a node gets.

    Any "host:port" may be listened on by any host; by default tests use the node's name as the host part ("n1:8400").
    """

    def __init__(self, rng: random.Random, settings: MemoryNetworkSettings | None = None) -> None:
        raise NotImplementedError

    def host(self, name: str) -> "MemoryHost":
        """The view of one node. The same name gives the same host."""
        raise NotImplementedError

    def cut(self, a: str, b: str, *, both_ways: bool = True) -> None:
        """Nothing passes from `a` to `b` (nor back) until healed: bytes wait, dials hang, nobody is told."""
        raise NotImplementedError

    def isolate(self, name: str) -> None:
        """Cut one host from all others, later ones too."""
        raise NotImplementedError

    def heal(self) -> None:
        """End all cuts and isolations; what waited is delivered."""
        raise NotImplementedError

    def reset(self, a: str, b: str) -> int:
        """Break every connection between two hosts, both sides told. Returns how many."""
        raise NotImplementedError

    def crash(self, name: str) -> None:
        """The process of a host dies: its listeners vanish, its connections are reset (unless cut: then nobody is told)."""
        raise NotImplementedError


class MemoryHost:
    """`Network` of one node."""

    name: str

    async def open_stream(self, address: str) -> trio.abc.Stream:
        raise NotImplementedError

    async def listen(self, address: str) -> BoundListener:
        raise NotImplementedError
