"""What a node is given of the world: network, disk, clock, randomness."""

import random
import time
from collections.abc import Callable

import attrs

from trio_eventlog.codec.peer_frame import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION
from trio_eventlog.machine.catalog import FEATURE_LEVEL
from trio_eventlog.net.datagrams import DatagramNetwork
from trio_eventlog.net.names import Names
from trio_eventlog.net.network import Network
from trio_eventlog.net.real_datagrams import RealDatagramNetwork
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.storage.disk import Disk
from trio_eventlog.storage.event_index import EventIndexes


@attrs.frozen(slots=True, kw_only=True)
class Surroundings:
    """The seams: what a node is given of the world. The defaults are the real ones.

    Attributes:
        network: where it dials and listens.
        datagrams: where its packets come and go; of one node only.
        names: how names in `join` are looked up. None: as the system does; but another network than the system's may know hosts
            that the system does not, and there each is dialled as it is written.
        disk: where its data directory is.
        rng: for ids, jitter and election timeouts.
        now_ns: the wall clock, nanoseconds since 1970 UTC; stamped into records, and compared with their stamps; never waited on.
        protocol_versions: the oldest and the newest version of peer links that the node says it speaks. Simulated upgrades set
            others.
        feature_level: the highest that the node claims to support. Simulated upgrades set another.
        descriptors_max: the number of files and connections that may be open. None: what the process is allowed.
        event_indexes: where indexes of aggregates are kept. None: in the data directory, or in memory when `disk` is given.
        host_name: a node without a name is called after it, followed by the beginning of the node's id, since other nodes may be
            on the same host. "": the name is the id alone.
    """

    network: Network = attrs.field(factory=RealNetwork)
    datagrams: DatagramNetwork = attrs.field(factory=RealDatagramNetwork)
    names: Names | None = None
    disk: Disk | None = None
    rng: random.Random = attrs.field(factory=random.SystemRandom)
    now_ns: Callable[[], int] = time.time_ns
    protocol_versions: tuple[int, int] = (OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION)
    feature_level: int = FEATURE_LEVEL
    descriptors_max: int | None = None
    event_indexes: EventIndexes | None = None
    host_name: str = ""
