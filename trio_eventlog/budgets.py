"""What a node may use at most, known when it starts: descriptors divided by purpose, and counted allowances.

Values and arithmetic only. What reads the limits of the system is in `net/real_limits.py`; who keeps to a budget is named with it.
"""

from collections.abc import Callable

import attrs

from trio_eventlog.errors import SettingsError

DESCRIPTORS_MIN = 128
"""A node does not start with fewer: no part would be left enough to work with."""
DESCRIPTORS_PER_PARTITION = 2
"""The active segment and the hard state."""
OWN_DESCRIPTORS = 32
"""Standard streams, the event loop, the port, the lock, and files that are open for a moment (directories, sparse indexes)."""
OPEN_SEGMENTS_MAX = 1024
"""Sealed segments that a node keeps open at most, however many descriptors there are: each has a sparse index in memory too, of
36 KiB by the default settings."""
CLIENT_CONNECTIONS_MAX = 4096
"""Default of the most connections of clients, however many descriptors there are: each costs memory too."""


@attrs.frozen(slots=True, kw_only=True)
class DescriptorBudgets:
    """The descriptors of the process, divided. The parts never add up to more than `limit`.

    Attributes:
        limit: descriptors that the process may have open (the soft limit, RLIMIT_NOFILE).
        own: of the node itself, see OWN_DESCRIPTORS.
        partitions: files of replicas that stay open: DESCRIPTORS_PER_PARTITION for each, the catalog's included.
        segments: sealed segments that are open for readers.
        peers: connections of peers, both directions, links and forwarded calls.
        probes: connections that ask for /health or /ready. No client takes them.
        unidentified: connections that have not shown their protocol.
        clients: all other connections.
    """

    limit: int
    own: int
    partitions: int
    segments: int
    peers: int
    probes: int
    unidentified: int
    clients: int

    @property
    def partitions_max(self) -> int:
        """Replicas that can be open at the same time, the catalog's included."""
        return self.partitions // DESCRIPTORS_PER_PARTITION

    def __str__(self) -> str:
        return (
            f"{self.limit} descriptors: {self.partitions} for files of {self.partitions_max} partitions, {self.segments} for sealed"
            f" segments, {self.clients} for clients, {self.peers} for peers, {self.probes} for probes, {self.unidentified} for new"
            f" connections, {self.own} for the node itself"
        )


def divide_descriptors(
    limit: int,
    *,
    inbound_clients_max: int | None = None,
    inbound_peers_max: int | None = None,
    inbound_probes_max: int = 16,
    inbound_unidentified_max: int = 256,
) -> DescriptorBudgets:
    """Divide `limit` descriptors. None: as many as the limit suggests; a number is kept, what it leaves goes to files.

    Raises:
        SettingsError: the limit is below DESCRIPTORS_MIN, or the numbers leave too little for the files of partitions.
    """
    if limit < DESCRIPTORS_MIN:
        raise SettingsError(
            f"this process may open {limit} files and connections; a node needs at least {DESCRIPTORS_MIN}: raise the limit"
            " (`ulimit -n`, LimitNOFILE of systemd)"
        )
    peers = inbound_peers_max if inbound_peers_max is not None else min(max(limit // 12, 16), 256)
    rest = limit - OWN_DESCRIPTORS - inbound_probes_max - peers
    unidentified = min(max(rest // 12, 4), inbound_unidentified_max)
    clients = inbound_clients_max if inbound_clients_max is not None else min(rest // 3, CLIENT_CONNECTIONS_MAX)
    files = rest - unidentified - clients
    segments = min(files // 8, OPEN_SEGMENTS_MAX)
    partitions = files - segments
    if partitions < 8 or segments < 2:
        raise SettingsError(
            f"inbound_clients_max ({clients}), inbound_peers_max ({peers}) and inbound_probes_max"
            f" ({inbound_probes_max}) leave {max(files, 0)} of {limit} descriptors for the files of partitions: lower them, or"
            " raise the limit (`ulimit -n`)"
        )
    return DescriptorBudgets(
        limit=limit,
        own=OWN_DESCRIPTORS,
        partitions=partitions,
        segments=segments,
        peers=peers,
        probes=inbound_probes_max,
        unidentified=unidentified,
        clients=clients,
    )


@attrs.frozen(slots=True, kw_only=True)
class BudgetUse:
    """One budget as `status` shows it. `used` may pass `limit` for a moment where what is over is pushed out."""

    name: str
    limit: int
    used: int
    refused: int = 0
    """How often something was refused or pushed out because of it, since the start."""


class Allowance:
    """A number of bytes, or of anything else, that all who take part share. Never waits.

    Attributes:
        name: for people.
        limit: what may be taken at most, all together.
        used: what is taken now.
        refused: how often there was not enough left.
    """

    __slots__ = ("limit", "name", "refused", "used")

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.used = 0
        self.refused = 0

    def take_nowait(self, count: int) -> bool:
        """Take `count`; False, and nothing is taken, when it is not there."""
        if self.used + count > self.limit:
            self.refused += 1
            return False
        self.used += count
        return True

    def give_back(self, count: int) -> None:
        """Return what was taken."""
        assert 0 <= count <= self.used, f"{self.name}: {count} given back of {self.used}"
        self.used -= count

    def use(self) -> BudgetUse:
        return BudgetUse(name=self.name, limit=self.limit, used=self.used, refused=self.refused)


@attrs.frozen(slots=True)
class Activity:
    """What a connection has done so far.

    Attributes:
        requests: since it began.
        open_calls: that are under way now.
        last_active: when something of it was last received or begun, by Trio's clock.
    """

    requests: int = 0
    open_calls: int = 0
    last_active: float = 0.0


class Standing:
    """How much a connection deserves its place: its handler says how to find out, whoever needs the place asks.

    Attributes:
        look: gives the activity as of now. None: the handler has not said.
    """

    __slots__ = ("look",)

    def __init__(self) -> None:
        self.look: Callable[[], Activity] | None = None
