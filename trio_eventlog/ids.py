"""The words for "which": nodes, groups, clusters.

Ids are 64-bit integers: they travel in fixed-width fields of every peer frame and sort the same way everywhere. People see
them as 16 hexadecimal digits.
"""

import random
import re
from typing import NewType

NodeId = NewType("NodeId", int)
"""Names a node for ever. Never 0, which means "nobody" (no vote, no leader)."""

GroupId = NewType("GroupId", int)
"""Names a Raft group. `CATALOG_GROUP` is the catalog; partitions count up from 1 and are never reused."""

ClusterId = NewType("ClusterId", int)
"""Names a cluster for ever, derived at bootstrap from its name and first voters. 0: not bootstrapped yet."""

NOBODY = NodeId(0)
CATALOG_GROUP = GroupId(0)
NO_CLUSTER = ClusterId(0)


def new_node_id(rng: random.Random) -> NodeId:
    """A fresh id from the randomness handed in (`random.SystemRandom()` in the daemon, seeded in tests)."""
    return NodeId(rng.randrange(1, 1 << 64))


def format_id(value: int) -> str:
    """The form people see: 16 hexadecimal digits."""
    return f"{value:016x}"


def parse_id(text: str) -> int:
    """The inverse of `format_id`. Raises ValueError when `text` is not 1 to 16 hexadecimal digits."""
    if _ID.fullmatch(text) is None:
        raise ValueError(f"an id has 1 to 16 hexadecimal digits, not {text[:32]!r}")
    return int(text, 16)


_ID = re.compile("[0-9a-fA-F]{1,16}")
"""`int` takes signs, blanks, underscores, a prefix and the digits of other scripts as well."""
