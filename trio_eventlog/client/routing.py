"""Which topics there are and who leads what, as far as the client knows. Pure: answers come in, addresses go out.

Who leads may be out of date at any time. That costs a detour, never correctness: a node that does not lead forwards the call or
says who leads.

Which partitions a topic has decides where a keyed record goes, so there only knowledge counts. Each answer says which entry of the
catalog it reflects, and an answer never replaces a newer one. What an answer leaves out is absent only if the answering node knows:
one that has just started lists nothing, and takes nothing away.
"""

from collections.abc import Iterable, Mapping, Sequence

from trio_eventlog.errors import NotLeader
from trio_eventlog.ids import CATALOG_GROUP, format_id
from trio_eventlog.service.values import KnownTopic, Placement, ServerInfo


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
        self._topics: dict[str, KnownTopic] = {}
        self._leaders: dict[tuple[str, int], str] = {}
        self._avoid_until: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._turn = 0
        self._cluster_id = ""
        self.catalog_index = 0
        self.updated_at = float("-inf")

    @property
    def servers(self) -> tuple[ServerInfo, ...]:
        return tuple(self._servers.values())

    @property
    def placements(self) -> tuple[Placement, ...]:
        return tuple(self._placements.values())

    def update(
        self,
        servers: Iterable[ServerInfo],
        placements: Iterable[Placement],
        now: float,
        *,
        catalog_index: int = 0,
        cluster_id: str = "",
    ) -> bool:
        """Take an answer of GetServers.

        Args:
            catalog_index: as in GetServersResponse; 0: the node does not know which topics there are, or is of an older release.

        Returns:
            Whether everything known is now as the answer says. If not, the answer is older than what is known, or is not complete:
            only what is new in it was taken.
        """
        self.updated_at = now
        if catalog_index and cluster_id != self._cluster_id:
            if self._cluster_id:
                # Another cluster at the same addresses: its catalog begins anew, and so does what is known.
                self.catalog_index = 0
                self._servers, self._placements, self._topics, self._leaders = {}, {}, {}, {}
            self._cluster_id = cluster_id
        told = {server.id: server for server in servers}
        placements = list(placements)
        if not catalog_index or catalog_index < self.catalog_index:
            self._servers = {**self._servers, **told} if not self.catalog_index else {**told, **self._servers}
            if not self.catalog_index:
                self._take_topics(placements)
            self._take_leaders(placements)
            return False
        # A node that was just started has not met all others yet, and still knows from the catalog that they are there.
        replicas = {node_id for place in placements for node_id in place.replica_ids}
        self._servers = told | {node: server for node, server in self._servers.items() if node in replicas and node not in told}
        known, self._topics, self._placements, self._leaders = self._topics, {}, {}, {}
        self._take_topics(placements, known)
        self._take_leaders(placements)
        self.catalog_index = catalog_index
        addresses = {*self._seeds, *(server.address for server in self._servers.values())}
        self._avoid_until = {address: until for address, until in self._avoid_until.items() if address in addresses}
        self._failures = {address: count for address, count in self._failures.items() if address in addresses}
        return True

    def learn(self, topic: KnownTopic, placements: Sequence[Placement], catalog_index: int) -> bool:
        """Take an answer about one topic that exists. False when a newer answer is known: then this one is not taken."""
        if catalog_index and catalog_index < self.catalog_index:
            return False
        self.catalog_index = max(self.catalog_index, catalog_index)
        self.forget_topic(topic.name)
        self._topics[topic.name] = topic
        for place in placements:
            self._placements[place.topic, place.partition] = place
        self._take_leaders(placements)
        return True

    def forget_topic(self, name: str, catalog_index: int = 0) -> None:
        """A node has answered that there is no such topic, or that it is another one now: the next call that needs it asks again.

        Args:
            catalog_index: as of which entry; answers that are older than that are not taken from here on.
        """
        self.catalog_index = max(self.catalog_index, catalog_index)
        known = self._topics.pop(name, None)
        for partition in range(known.partitions if known is not None else 0):
            self._placements.pop((name, partition), None)
            self._leaders.pop((name, partition), None)

    def _take_topics(self, placements: Sequence[Placement], known: Mapping[str, KnownTopic] | None = None) -> None:
        by_topic: dict[str, list[Placement]] = {}
        for place in placements:
            by_topic.setdefault(place.topic, []).append(place)
        for name, places in by_topic.items():
            groups = {place.partition: place.group_id for place in places}
            topic = KnownTopic(name=name, group_ids=tuple(groups.get(partition, 0) for partition in range(max(groups) + 1)))
            before = None if known is None else known.get(name)
            if before is not None and (before == topic or (before.is_told and not topic.is_told)):
                # A group id that was reported once is not forgotten because a node of an older release does not report it.
                topic = before
            self._topics[name] = topic
            for place in places:
                self._placements[name, place.partition] = place

    def _take_leaders(self, placements: Iterable[Placement]) -> None:
        """Also takes an answer that is out of date: the group ids show whether it means the partitions that are known."""
        for place in placements:
            known = self._placements.get((place.topic, place.partition))
            server = self._servers.get(place.leader_id)
            if server is not None and known is not None and place.group_id in (0, known.group_id):
                self._leaders[place.topic, place.partition] = server.address

    def topic(self, name: str) -> KnownTopic | None:
        """None when the client does not know: that is no proof that there is no such topic."""
        return self._topics.get(name)

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
        """`address` does not lead (any more), and did not name the leader."""
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
        """The leader first, then all other nodes: they forward."""
        return self._first(self.leader(topic, partition), now)

    def for_catalog(self, now: float) -> list[str]:
        """The catalog's leader first, then all other nodes: they forward."""
        return self._first(self.catalog_leader(), now)

    def for_group(self, group_id: int, now: float) -> list[str]:
        """The leader of a group first, then everybody else: they forward."""
        if group_id == CATALOG_GROUP:
            return self.for_catalog(now)
        place = next((place for place in self._placements.values() if place.group_id == group_id), None)
        return self._first(self.leader(place.topic, place.partition) if place is not None else None, now)

    def for_read(self, topic: str, partition: int, now: float) -> list[str]:
        """Followers in turn, then the leader, then all other nodes."""
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
