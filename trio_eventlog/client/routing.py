"""Who leads what, as far as the client knows. Pure: answers come in, addresses go out.

What is known may be stale at any time. That costs a detour, never correctness: a node that does not lead forwards the call or
says who leads.
"""

from collections.abc import Iterable, Sequence

import attrs

from trio_eventlog.errors import NotLeader
from trio_eventlog.ids import format_id


@attrs.frozen(slots=True, kw_only=True)
class ServerInfo:
    """A node as GetServers tells it."""

    id: str
    name: str
    address: str
    is_leader: bool = False
    tags: tuple[tuple[str, str], ...] = ()


@attrs.frozen(slots=True, kw_only=True)
class Placement:
    """Where a partition is. `leader_id` is "" while nobody leads."""

    topic: str
    partition: int
    leader_id: str
    replica_ids: tuple[str, ...]


class Routing:
    """The routing table of one client.

    Args:
        seeds: addresses of the target; they are asked when nothing else is known, and again when all else fails.
        avoid_seconds_min, avoid_seconds_max: how long an address that failed comes last; doubles each time.
    """

    def __init__(self, seeds: Sequence[str], avoid_seconds_min: float = 1.0, avoid_seconds_max: float = 60.0) -> None:
        assert seeds
        self._seeds = tuple(seeds)
        self._avoid_seconds_min = avoid_seconds_min
        self._avoid_seconds_max = avoid_seconds_max
        self._servers: dict[str, ServerInfo] = {}
        self._placements: dict[tuple[str, int], Placement] = {}
        self._partitions: dict[str, int] = {}
        self._leaders: dict[tuple[str, int], str] = {}
        self._avoid_until: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._turn = 0
        self.updated_at = float("-inf")

    @property
    def servers(self) -> tuple[ServerInfo, ...]:
        return tuple(self._servers.values())

    @property
    def placements(self) -> tuple[Placement, ...]:
        return tuple(self._placements.values())

    def update(self, servers: Iterable[ServerInfo], placements: Iterable[Placement], now: float) -> None:
        """A fresh answer replaces everything known, hints too."""
        self._servers = {server.id: server for server in servers}
        self._placements = {(place.topic, place.partition): place for place in placements}
        self._partitions = {}
        for topic, partition in self._placements:
            self._partitions[topic] = max(self._partitions.get(topic, 0), partition + 1)
        self._leaders = {
            key: self._servers[place.leader_id].address
            for key, place in self._placements.items()
            if place.leader_id in self._servers
        }
        known = {*self._seeds, *(server.address for server in self._servers.values())}
        self._avoid_until = {address: until for address, until in self._avoid_until.items() if address in known}
        self._failures = {address: count for address, count in self._failures.items() if address in known}
        self.updated_at = now

    def partitions(self, topic: str) -> int | None:
        """How many partitions the topic has; None when it is not known."""
        return self._partitions.get(topic)

    def leader(self, topic: str, partition: int) -> str | None:
        """Address of the partition's leader; None when it is not known."""
        return self._leaders.get((topic, partition))

    def catalog_leader(self) -> str | None:
        """Address of the catalog's leader; None when it is not known."""
        return next((server.address for server in self._servers.values() if server.is_leader), None)

    def set_leader(self, topic: str, partition: int, address: str) -> None:
        """A node said who leads now."""
        self._leaders[topic, partition] = address

    def forget_leader(self, topic: str, partition: int, address: str) -> None:
        """`address` does not lead (any more), and nobody said who does."""
        if self._leaders.get((topic, partition)) == address:
            del self._leaders[topic, partition]

    def avoid(self, address: str, now: float) -> None:
        """`address` failed: it comes last for a while."""
        failures = self._failures.get(address, 0)
        self._failures[address] = failures + 1
        self._avoid_until[address] = now + min(self._avoid_seconds_min * 2**failures, self._avoid_seconds_max)

    def worked(self, address: str) -> None:
        """`address` answered."""
        if address in self._failures:
            del self._failures[address]
            self._avoid_until.pop(address, None)

    def is_avoided(self, address: str, now: float) -> bool:
        """Whether `address` failed lately."""
        return self._avoid_until.get(address, 0.0) > now

    def hinted(self, error: NotLeader) -> str:
        """The address that a refusal points to; "" when it does not."""
        if error.leader_address or not error.leader_id:
            return error.leader_address
        server = self._servers.get(format_id(error.leader_id))
        return server.address if server is not None else ""

    def addresses(self, now: float) -> list[str]:
        """Every address there is, each once: in turn, those that failed lately last."""
        self._turn += 1
        servers = [server.address for server in self._servers.values()]
        return self._ordered(_rotated(servers, self._turn) + _rotated(list(self._seeds), self._turn), now)

    def for_write(self, topic: str, partition: int, now: float) -> list[str]:
        """The leader first, then everybody else: they forward."""
        return self._first(self.leader(topic, partition), now)

    def for_catalog(self, now: float) -> list[str]:
        """The catalog's leader first, then everybody else: they forward."""
        return self._first(self.catalog_leader(), now)

    def for_read(self, topic: str, partition: int, now: float) -> list[str]:
        """Followers in turn, then the leader, then everybody else."""
        self._turn += 1
        place = self._placements.get((topic, partition))
        leader = self.leader(topic, partition)
        replicas = [self._servers[node].address for node in place.replica_ids if node in self._servers] if place else []
        followers = _rotated([address for address in replicas if address != leader], self._turn)
        rest = [server.address for server in self._servers.values()]
        return self._ordered(followers + ([leader] if leader else []) + rest + list(self._seeds), now)

    def _first(self, leader: str | None, now: float) -> list[str]:
        others = self.addresses(now)
        return self._ordered(([leader] if leader else []) + others, now)

    def _ordered(self, addresses: list[str], now: float) -> list[str]:
        unique = list(dict.fromkeys(addresses))
        return sorted(unique, key=lambda address: self.is_avoided(address, now))


def _rotated(items: list[str], turn: int) -> list[str]:
    if not items:
        return items
    start = turn % len(items)
    return items[start:] + items[:start]
