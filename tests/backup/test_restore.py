"""A backup made a data directory: the same records, another cluster; cut at every operation of the disk and run again."""

import random
from pathlib import Path

import attrs
import pytest

from tests.backup.kit import Source, back_up, cluster
from trio_eventlog.backup import BackupFiles, DirectoryTarget, Restored, open_backup, restore
from trio_eventlog.backup.new_cluster import commands_to
from trio_eventlog.codec.catalog_snapshot import decode_catalog
from trio_eventlog.codec.partition_snapshot import decode_partition
from trio_eventlog.codec.snapshot_file import SnapshotFile, decode_snapshot_file
from trio_eventlog.errors import BackupUnusable, DataDirectoryError
from trio_eventlog.ids import CATALOG_GROUP, GroupId, NodeId
from trio_eventlog.machine.catalog import (
    CatalogMachine,
    CatalogSnapshot,
    Command,
    CreateTopic,
    DeleteTopic,
    RaiseFeatureLevel,
    RegisterNode,
)
from trio_eventlog.net.discovery import derive_cluster_id
from trio_eventlog.node.appliers import CatalogApplier
from trio_eventlog.node.bootstrap import load_voters
from trio_eventlog.raft import Configuration
from trio_eventlog.storage.data_directory import HARD_STATE_FILE, DataDirectory
from trio_eventlog.storage.disk import Disk, join_path, read_whole
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.segmented_log import open_segmented_log
from trio_eventlog.storage.snapshots import SNAPSHOTS_DIRECTORY
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, SimDisk

PATH = "/data"
NODE = NodeId(77)


async def backup_in(path: Path, source: Source) -> BackupFiles:
    await back_up(source, DirectoryTarget(path))
    return await open_backup(path)


async def restored(disk: Disk, backup: BackupFiles, *, node_id: NodeId = NODE, cluster_name: str = "new") -> Restored:
    return await restore(
        disk,
        backup,
        PATH,
        new_node_id=lambda: node_id,
        node_name="n77",
        cluster_name=cluster_name,
        now_seconds=1e9,
        log_settings=default(LogSettings),
    )


def no_id() -> NodeId:
    raise AssertionError("the directory has an id")


async def check(disk: Disk, source: Source, *, node_id: NodeId = NODE) -> None:
    """The data directory holds what `source` does, as one node's."""
    async with DataDirectory.open(disk, PATH, new_node_id=no_id, now_seconds=lambda: 0.0) as directory:
        assert directory.node_id == node_id
        assert directory.cluster_id == derive_cluster_id("new", [node_id])
        assert await load_voters(directory) == (node_id,)
        assert await directory.group_ids() == sorted(source.groups)
        before = decode_catalog(source.groups[CATALOG_GROUP].machine)
        catalog = await catalog_in(disk, directory.group_path(CATALOG_GROUP))
        assert places(catalog) == places(before)
        assert catalog.next_group_id == before.next_group_id
        assert [node.node_id for node in catalog.nodes] == [node_id]
        assert all(partition.replicas == (node_id,) for topic in catalog.topics for partition in topic.partitions)
        for group_id, group in source.groups.items():
            if group_id == CATALOG_GROUP:
                continue
            path = directory.group_path(group_id)
            snapshot = await newest_snapshot(disk, path)
            assert snapshot.metadata.configuration == Configuration(voters=frozenset((node_id,)))
            assert decode_partition(snapshot.machine) == decode_partition(group.machine), "what is known of producers, too"
            async with await HardStateFile.open(disk, join_path(path, HARD_STATE_FILE)) as hard_state:
                assert (hard_state.state.term, hard_state.state.commit, hard_state.state.vote) == (1, snapshot.index, 0)
            async with open_segmented_log(disk, join_path(path, "log"), default(LogSettings)) as log:
                assert log.last_index == group.frames[-1].index
                for frame in group.frames:
                    (found,) = await log.read(frame.index, frame.index, 1)
                    assert found.raw == frame.raw


def places(catalog: CatalogSnapshot) -> list[tuple[str, list[GroupId]]]:
    return [(topic.name, [partition.group_id for partition in topic.partitions]) for topic in catalog.topics]


async def catalog_in(disk: Disk, group_path: str) -> CatalogSnapshot:
    """What the machine of a node knows after its start: every entry is committed."""
    machine = CatalogMachine()
    applier = CatalogApplier(machine, lambda command, outcome: None)
    async with await HardStateFile.open(disk, join_path(group_path, HARD_STATE_FILE)) as hard_state:
        commit = hard_state.state.commit
    async with open_segmented_log(disk, join_path(group_path, "log"), default(LogSettings)) as log:
        assert log.last_index == commit
        for index in range(1, commit + 1):
            (frame,) = await log.read(index, index, 1)
            assert not isinstance(applier.apply(frame), Exception)
    return machine.snapshot()


async def newest_snapshot(disk: Disk, group_path: str) -> SnapshotFile:
    directory = join_path(group_path, SNAPSHOTS_DIRECTORY)
    (name,) = await disk.list_directory(directory)
    return decode_snapshot_file(await read_whole(disk, join_path(directory, name), 1 << 20))


async def test_a_restore_makes_one_node_with_everything(tmp_path: Path) -> None:
    source = cluster()
    disk = SimDisk(random.Random(0))
    made = await restored(disk, await backup_in(tmp_path, source))
    assert (made.node_id, made.groups, made.records) == (NODE, 4, 22 + 24 + 26)
    disk = disk.crash(CrashMode.LOSE)
    await check(disk, source)


async def test_a_restore_that_is_cut_short_anywhere_goes_on(tmp_path: Path) -> None:
    """The machine fails after any operation. Until the end no node starts; then everything is there, under the id of the first
    attempt."""
    source = cluster(3, [("orders", 1)])
    backup = await backup_in(tmp_path, source)
    cuts = 0
    while True:
        disk = SimDisk(random.Random(cuts))
        disk.cut_power_after(cuts)
        try:
            await restored(disk, backup)
        except DiskCrashed:
            disk = disk.crash(random.Random(cuts).choice(list(CrashMode)))
        else:
            break
        if await disk.exists(PATH) and "node.toml" in await disk.list_directory(PATH):
            await check(disk, source)
        noted = await disk.exists(join_path(PATH, "restoring"))
        again = NODE if noted or await disk.exists(join_path(PATH, "node.toml")) else NodeId(88)
        if not await disk.exists(join_path(PATH, "node.toml")) or noted:
            await restored(disk, backup, node_id=NodeId(88))
        await check(disk.crash(CrashMode.LOSE), source, node_id=again)
        cuts += 1
    assert cuts > 100


async def test_only_an_empty_directory_is_taken(tmp_path: Path) -> None:
    source = cluster(2)
    backup = await backup_in(tmp_path / "one", source)
    disk = SimDisk(random.Random(0))
    await disk.make_directory(join_path(PATH, "groups"))
    with pytest.raises(DataDirectoryError, match="groups in it"):
        await restored(disk, backup)
    disk = SimDisk(random.Random(0))
    disk.cut_power_after(30)
    with pytest.raises(DiskCrashed):
        await restored(disk, backup)
    other = await backup_in(tmp_path / "two", cluster(5))
    with pytest.raises(DataDirectoryError, match="another backup"):
        await restored(disk.crash(CrashMode.KEEP), other)


async def test_a_damaged_backup_makes_no_node(tmp_path: Path) -> None:
    source = cluster(2)
    backup = await backup_in(tmp_path, source)
    path = tmp_path / backup.manifest.groups[-1].segments[-1].name
    data = path.read_bytes()
    path.write_bytes(data[:50] + bytes((data[50] ^ 1,)) + data[51:])
    disk = SimDisk(random.Random(0))
    with pytest.raises(BackupUnusable, match=path.name):
        await restored(disk, backup)
    assert not await disk.exists(join_path(PATH, "node.toml"))
    path.write_bytes(data)
    await restored(disk, backup)
    await check(disk, source)


async def test_a_topic_without_all_of_its_partitions_is_left_out(tmp_path: Path) -> None:
    """It was deleted while the backup was taken."""
    source = cluster(2)
    del source.groups[GroupId(2)]
    disk = SimDisk(random.Random(0))
    await restored(disk, await backup_in(tmp_path, source))
    catalog = await catalog_in(disk, f"{PATH}/groups/{0:016x}")
    assert places(catalog) == [("events", [GroupId(3)])]


async def test_groups_keep_their_ids_whatever_was_deleted_before() -> None:
    """The catalog is made anew by commands; its groups have the ids that their files have."""
    machine = CatalogMachine()
    commands: list[Command] = [
        RegisterNode(node_id=NodeId(1), name="n1"),
        RaiseFeatureLevel(level=2),
        CreateTopic(name="deleted-0", partition_count=3, replicas=(NodeId(1),), retention_bytes=7),
        CreateTopic(name="old", partition_count=1024, replicas=(NodeId(1),)),
        CreateTopic(name="older", partition_count=1000, replicas=(NodeId(1),)),
        CreateTopic(name="kept", partition_count=2, replicas=(NodeId(1),), replica_count=3, kind="events"),
        CreateTopic(name="short", partition_count=1, replicas=(NodeId(1),), retention_seconds=9),
        CreateTopic(name="last", partition_count=5, replicas=(NodeId(1),)),
        *(DeleteTopic(name=name) for name in ("old", "older", "last")),
    ]
    for index, command in enumerate(commands, start=1):
        assert not isinstance(machine.apply(index, command), Exception)
    again = CatalogMachine()
    for index, command in enumerate(commands_to(machine.snapshot(), NODE, "n77"), start=1):
        assert not isinstance(again.apply(index, command), Exception)
    moved = again.snapshot()
    before = machine.snapshot()
    assert (moved.next_group_id, moved.feature_level) == (before.next_group_id, before.feature_level)
    assert [attrs.evolve(topic, partitions=()) for topic in moved.topics] == [
        attrs.evolve(topic, partitions=()) for topic in before.topics
    ]
    assert places(moved) == places(before)
    assert {node for topic in moved.topics for partition in topic.partitions for node in partition.first_voters} == {NODE}
