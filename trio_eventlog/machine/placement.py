"""Which nodes carry a partition, and which of them leads it.

Who carries: rendezvous hashing (Thaler and Ravishankar, 1996), also known as highest random weight.

Every node has a weight for every group, and the nodes with the highest weights carry it. So a node that comes takes over a fair
share from all the others and moves nothing else, and of a node that goes only its own replicas move.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable, Sequence

from trio_eventlog.ids import GroupId, NodeId


def place(group_id: GroupId, nodes: Iterable[NodeId], replica_count: int) -> tuple[NodeId, ...]:
    """The nodes that carry the group, ascending: `replica_count` of `nodes`; all of them for 0, or when there are no more."""
    candidates = sorted(set(nodes))
    if replica_count and replica_count < len(candidates):
        candidates.sort(key=lambda node_id: (weight(group_id, node_id), node_id), reverse=True)
        candidates = sorted(candidates[:replica_count])
    return tuple(candidates)


def spread_leaders(places: Iterable[tuple[GroupId, Sequence[NodeId]]]) -> dict[GroupId, NodeId]:
    """Who should lead each partition of a topic, such that each node leads about as many of them as any other.

    In the order given, each partition goes to whichever of its nodes has been given the fewest. Where that leaves a choice the
    group ids take turns, so that topics of one partition do not all have the same leader.

    Args:
        places: of a topic's partitions in order, the group and the nodes that may lead it. A group without any is left out.
    """
    leaders: dict[GroupId, NodeId] = {}
    count_of = Counter[NodeId]()
    for group_id, nodes in places:
        if nodes:
            turn = group_id % len(nodes)
            leader = min([*nodes[turn:], *nodes[:turn]], key=count_of.__getitem__)
            leaders[group_id] = leader
            count_of[leader] += 1
    return leaders


def weight(group_id: GroupId, node_id: NodeId) -> int:
    """The same everywhere and for ever: 64 bits of BLAKE2b over both ids as little-endian u64."""
    digest = hashlib.blake2b(struct.pack("<QQ", group_id, node_id), digest_size=8).digest()
    return int.from_bytes(digest, "little")
