"""What a restore and a recovery have in common: groups that become those of one new node, which begins a new cluster."""

from collections.abc import Collection, Sequence

from trio_eventlog.codec.catalog import encode_command
from trio_eventlog.codec.entry import EntryKind, encode_entry
from trio_eventlog.ids import ClusterId, GroupId, NodeId
from trio_eventlog.machine.catalog import (
    PARTITIONS_MAX,
    CatalogSnapshot,
    Command,
    CreateTopic,
    DeleteTopic,
    RaiseFeatureLevel,
    RegisterNode,
)
from trio_eventlog.net.discovery import derive_cluster_id
from trio_eventlog.node.bootstrap import VOTERS_FILE, encode_voters
from trio_eventlog.raft import Configuration
from trio_eventlog.raft.ready import HardState
from trio_eventlog.storage.data_directory import HARD_STATE_FILE, LOG_DIRECTORY, NODE_FILE, NodeFile, encode_node_file
from trio_eventlog.storage.disk import TEMPORARY_SUFFIX, Disk, join_path, write_atomically
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.segmented_log import open_segmented_log


def only_voter(node_id: NodeId) -> Configuration:
    """The configuration of every group."""
    return Configuration(voters=frozenset((node_id,)))


def commands_to(catalog: CatalogSnapshot, node_id: NodeId, node_name: str, left_out: Collection[GroupId] = ()) -> list[Command]:
    """What leads to the same topics, with all partitions on one node, the only one; without those topics that have a partition in
    `left_out`.

    The catalog of the new cluster begins with these commands, as if they had been given to it. So it has a log from its first entry
    on, which every node that joins can follow. Groups keep their ids: they are given out in order, so what is missing in between is
    created under another name, and deleted.
    """
    commands: list[Command] = [RaiseFeatureLevel(level=catalog.feature_level), RegisterNode(node_id=node_id, name=node_name)]
    topics = [topic for topic in catalog.topics if not any(partition.group_id in left_out for partition in topic.partitions)]
    names = {topic.name for topic in topics}
    filler = next(name for number in range(len(names) + 1) if (name := f"deleted-{number}") not in names)
    next_id = 1

    def skip_to(group_id: int) -> None:
        nonlocal next_id
        while next_id < group_id:
            count = min(group_id - next_id, PARTITIONS_MAX)
            commands.append(CreateTopic(name=filler, partition_count=count, replicas=(node_id,)))
            commands.append(DeleteTopic(name=filler))
            next_id += count

    for topic in sorted(topics, key=lambda topic: topic.partitions[0].group_id):
        skip_to(topic.partitions[0].group_id)
        commands.append(
            CreateTopic(
                name=topic.name,
                partition_count=len(topic.partitions),
                replicas=(node_id,),
                replica_count=topic.replica_count,
                retention_bytes=topic.retention_bytes,
                retention_seconds=topic.retention_seconds,
                kind=topic.kind,
            )
        )
        next_id += len(topic.partitions)
    skip_to(catalog.next_group_id)
    return commands


async def write_catalog(disk: Disk, directory: str, commands: Sequence[Command], term: int, settings: LogSettings) -> None:
    """The log of the catalog: an entry for each command. What an earlier attempt has left is replaced."""
    log_directory = join_path(directory, LOG_DIRECTORY)
    await disk.make_directory(log_directory)
    for name in await disk.list_directory(log_directory):
        await disk.remove(join_path(log_directory, name))
    await disk.sync_directory(log_directory)
    frames = [
        encode_entry(EntryKind.CONTROL, term=term, index=index, base_offset=0, payload=encode_command(command))
        for index, command in enumerate(commands, start=1)
    ]
    async with open_segmented_log(disk, log_directory, settings) as log:
        await log.append(frames)
    await write_hard_state(disk, directory, term, len(frames))


async def write_hard_state(disk: Disk, directory: str, term: int, commit: int) -> None:
    """The last thing of a group: when a file of this name is there, the group is complete."""
    path = join_path(directory, HARD_STATE_FILE)
    async with await HardStateFile.open(disk, path + TEMPORARY_SUFFIX) as hard_state:
        await hard_state.save(HardState(term=term, commit=commit))
    await disk.rename(path + TEMPORARY_SUFFIX, path)
    await disk.sync_directory(directory)


async def write_first_voters(disk: Disk, catalog_directory: str, node_id: NodeId) -> None:
    """Whom the new cluster begins with."""
    await write_atomically(disk, join_path(catalog_directory, VOTERS_FILE), encode_voters([node_id]))


async def write_node_file(disk: Disk, path: str, node_id: NodeId, cluster_name: str, now_seconds: float) -> ClusterId:
    """The last thing of a data directory: a node starts there from now on. Returns the id of the new cluster."""
    cluster_id = derive_cluster_id(cluster_name, [node_id])
    node_file = NodeFile(node_id=node_id, created_seconds=int(now_seconds), cluster_id=cluster_id, cluster_name=cluster_name)
    await write_atomically(disk, join_path(path, NODE_FILE), encode_node_file(node_file))
    return cluster_id
