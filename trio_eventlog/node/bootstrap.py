"""How a node without data enters a cluster: it forms one with other nodes, or learns from a node that one exists.

The first voters of a cluster are made durable before the cluster id is, and every hello announces them from then on. So a
node that was among them and stopped before it could write them itself learns them from any other node: the cluster id is derived
from the voters, which proves them.

Before that, a node agrees to one complete set of first voters, and makes it durable before it announces it. Otherwise a node that
restarts while the cluster is being formed could agree to a second set, and two clusters could begin that share this node.

```
<group of the catalog>/candidates     agreed to; never changes
<group of the catalog>/first_voters   what the cluster began with
```
"""

import json
import logging
from collections.abc import Sequence

import attrs

from trio_eventlog.codec.peer_frame import Hello
from trio_eventlog.errors import CodecError, DataDirectoryError
from trio_eventlog.ids import CATALOG_GROUP, NO_CLUSTER, ClusterId, NodeId, format_id
from trio_eventlog.net.discovery import Bootstrap, HelloDiscovery, Join, Refuse, Wait, derive_cluster_id
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.disk import join_path, read_whole, write_atomically

logger = logging.getLogger(__name__)

CANDIDATES_FILE = "candidates"
VOTERS_FILE = "first_voters"
VOTERS_FILE_BYTES_MAX = 64 * 1024


async def load_voters(directory: DataDirectory) -> tuple[NodeId, ...]:
    """The first voters of this node's cluster; empty when it belongs to none yet.

    Raises:
        DataDirectoryError: the file is missing or damaged although the node belongs to a cluster.
    """
    if directory.cluster_id == NO_CLUSTER:
        return ()
    path = _path(directory, VOTERS_FILE)
    try:
        voters = decode_voters(await read_whole(directory.disk, path, VOTERS_FILE_BYTES_MAX))
        if derive_cluster_id(directory.cluster_name, voters) != directory.cluster_id:
            raise CodecError(f"they are not the voters that cluster {format_id(directory.cluster_id)} began with")
    except (OSError, CodecError) as error:
        raise DataDirectoryError(
            f"{path}: cannot be used: {error}. Restore it from a backup, or copy it from another node of the cluster."
        ) from error
    return voters


async def save_voters(directory: DataDirectory, cluster_id: ClusterId, cluster_name: str, voters: Sequence[NodeId]) -> None:
    """Bind the node to the cluster that begins with `voters`: they are durable before the cluster id is."""
    await directory.group_directory(CATALOG_GROUP)
    await write_atomically(directory.disk, _path(directory, VOTERS_FILE), encode_voters(voters))
    await directory.set_cluster(cluster_id, cluster_name)


async def load_candidates(directory: DataDirectory) -> tuple[NodeId, ...]:
    """The first voters that this node has agreed to, at some time before it belonged to a cluster; empty when it has not.

    Raises:
        DataDirectoryError: the file is damaged.
    """
    path = _path(directory, CANDIDATES_FILE)
    try:
        return decode_voters(await read_whole(directory.disk, path, VOTERS_FILE_BYTES_MAX))
    except FileNotFoundError:
        return ()
    except (OSError, CodecError) as error:
        raise DataDirectoryError(
            f"{path}: cannot be used: {error}. This node belongs to no cluster yet: start it with an empty data directory."
        ) from error


async def save_candidates(directory: DataDirectory, candidates: Sequence[NodeId]) -> None:
    await directory.group_directory(CATALOG_GROUP)
    await write_atomically(directory.disk, _path(directory, CANDIDATES_FILE), encode_voters(candidates))


@attrs.define(slots=True)
class Forming:
    """What a node that belongs to no cluster waits for, in words for people; "" when it waits for nothing."""

    waits_for: str = ""


async def find_cluster(
    discovery: HelloDiscovery, directory: DataDirectory, cluster_name: str, bootstrap_expect: int, forming: Forming
) -> Bootstrap:
    """Wait until it is certain which voters this node's cluster began with, or begins with.

    A cluster that exists is joined whether or not this node was among the first voters: its leader adds it.

    Contradicting settings of two nodes are logged with both values, and this node waits until the other one is gone or has
    changed. It does not end because of them: any process could send such a hello.

    Args:
        bootstrap_expect: number of nodes that form a cluster; 0: this node only joins one.
        forming: updated with what this node waits for.

    Raises:
        DataDirectoryError: what this node had agreed to cannot be read.
    """
    agreed = await load_candidates(directory)
    discovery.agree(agreed)
    while True:
        is_conflict = False
        decision = discovery.decision()
        match decision:
            case Wait() | Bootstrap() if agreed and bootstrap_expect not in (0, len(agreed)):
                reason = (
                    f"this node has agreed to begin one of {len(agreed)}, with {', '.join(map(format_id, agreed))}, and"
                    f" bootstrap_expect is {bootstrap_expect} now: set it to {len(agreed)}, or start with an empty data directory"
                )
            case Bootstrap():
                forming.waits_for = ""
                return decision
            case Refuse(reason):
                is_conflict = True
            case Join(cluster_id):
                founded = _founded(discovery.hellos(), cluster_id, cluster_name)
                if founded:
                    forming.waits_for = ""
                    return Bootstrap(cluster_id=cluster_id, voters=founded)
                reason = f"cluster {format_id(cluster_id)} exists already, but no node has announced its first voters yet"
            case Wait(reason):
                candidates = discovery.known_ids()
                if not agreed and candidates and len(candidates) == bootstrap_expect:
                    await save_candidates(directory, candidates)
                    agreed = candidates
                    discovery.agree(agreed)
                    continue
        if reason != forming.waits_for:
            logger.log(logging.WARNING if is_conflict else logging.INFO, "waiting for a cluster: %s", reason)
            forming.waits_for = reason
        await discovery.wait_heard()


def _founded(hellos: Sequence[Hello], cluster_id: ClusterId, cluster_name: str) -> tuple[NodeId, ...]:
    """The voters that `cluster_id` began with, from a hello whose list the id proves; empty when there is none yet."""
    for hello in hellos:
        if hello.cluster_id == cluster_id and derive_cluster_id(cluster_name, hello.known_ids) == cluster_id:
            return tuple(sorted(hello.known_ids))
    return ()


def encode_voters(voters: Sequence[NodeId]) -> bytes:
    return json.dumps({"format": 1, "voters": [format_id(node_id) for node_id in sorted(voters)]}).encode() + b"\n"


def decode_voters(data: bytes) -> tuple[NodeId, ...]:
    """Raises CodecError for anything `encode_voters` does not make."""
    try:
        match json.loads(data):
            case {"format": 1, "voters": [*voters]} if voters:
                ids = tuple(NodeId(int(text, 16)) for text in voters)
                if encode_voters(ids) == data:
                    return ids
    except (ValueError, TypeError, RecursionError) as error:
        raise CodecError(f"first voters: {error}") from error
    raise CodecError("first voters: not a file that this release wrote")


def _path(directory: DataDirectory, name: str) -> str:
    return join_path(directory.group_path(CATALOG_GROUP), name)
