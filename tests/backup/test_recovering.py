"""What is left of a cluster becomes a new one: of each group the replica that would win an election, whole."""

import random
from collections.abc import Sequence

import pytest

from tests.backup.kit import Group, batch, catalog, partition
from trio_eventlog.backup import (
    RecoveredGroup,
    RecoverySettings,
    Survivors,
    find_survivors,
    held,
    plan,
    recover,
)
from trio_eventlog.codec.partition_snapshot import decode_partition
from trio_eventlog.codec.segment import LogBase, encode_base
from trio_eventlog.codec.snapshot_file import SnapshotFile, decode_snapshot_file
from trio_eventlog.errors import DamagedData, DataDirectoryError
from trio_eventlog.ids import CATALOG_GROUP, ClusterId, GroupId, NodeId
from trio_eventlog.node.bootstrap import load_voters
from trio_eventlog.raft.ready import HardState
from trio_eventlog.storage.data_directory import DataDirectory, NodeFile, encode_node_file
from trio_eventlog.storage.disk import Disk, join_path, read_whole, write_atomically
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.installing import INSTALLING_FILE
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.segmented_log import open_segmented_log
from trio_eventlog.storage.snapshots import Found, SnapshotStore
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import SimDisk

ORDERS = GroupId(1)
SETTINGS = RecoverySettings(
    logs=default(LogSettings, segment_bytes=1500, preallocate_bytes=0), producer_window_batches=5, producers_max=100
)
TARGET = "/target"


async def survivor(disk: Disk, number: int, groups: dict[GroupId, Group], *, term: int = 1, cluster_id: int = 0xA1) -> str:
    """A data directory. Commit lags an entry behind the log, as it does."""
    home = f"/n{number}"
    node_file = NodeFile(node_id=NodeId(number), created_seconds=1, cluster_id=ClusterId(cluster_id), cluster_name="old")
    await disk.make_directory(join_path(home, "groups"))
    await write_atomically(disk, join_path(home, "node.toml"), encode_node_file(node_file))
    for group_id, group in groups.items():
        directory = join_path(home, "groups", f"{group_id:016x}")
        await disk.make_directory(directory)
        async with open_segmented_log(disk, join_path(directory, "log"), SETTINGS.logs) as log:
            for frame in group.frames:
                await log.append([frame])
        async with await HardStateFile.open(disk, join_path(directory, "hard_state")) as hard_state:
            await hard_state.save(HardState(term=term, vote=NodeId(number), commit=group.frames[-1].index - 1))
    return home


async def recovered(disk: Disk, homes: Sequence[str]) -> tuple[Survivors, list[RecoveredGroup]]:
    async with held(disk, homes):
        survivors = await find_survivors(disk, homes)
        groups = await plan(disk, survivors)
        await recover(
            disk,
            survivors,
            groups,
            TARGET,
            node_id=NodeId(77),
            node_name="n77",
            cluster_name="old",
            now_seconds=1e9,
            settings=SETTINGS,
        )
    return survivors, groups


async def frames_in(disk: Disk, group_id: GroupId) -> list[bytes]:
    async with open_segmented_log(disk, f"{TARGET}/groups/{group_id:016x}/log", SETTINGS.logs) as log:
        return [bytes((await log.read(index, index, 1))[0].raw) for index in range(log.first_index, log.last_index + 1)]


async def test_the_longest_log_of_the_highest_term_is_taken() -> None:
    """Not the longest: one of a term that was overtaken holds what was never acknowledged."""
    cat = catalog([("orders", 1)])
    old = partition(9)
    newer = Group([*old.frames[:6], batch(7, 12, term=2)], 3, b"")
    shorter = Group(newer.frames[:6], 3, b"")
    disk = SimDisk(random.Random(0))
    homes = [
        await survivor(disk, number, {CATALOG_GROUP: cat, ORDERS: group}, term=term)
        for number, group, term in ((1, old, 1), (2, newer, 2), (3, shorter, 3))
    ]
    survivors, groups = await recovered(disk, homes)
    assert [replica.home for replica in survivors.replicas[ORDERS]] == ["/n2", "/n1", "/n3"]
    assert [group.what for group in groups] == ["the catalog", "orders/0"]
    assert await frames_in(disk, ORDERS) == [bytes(frame.raw) for frame in newer.frames], "the uncommitted end, too"
    async with DataDirectory.open(disk, TARGET, new_node_id=lambda: NodeId(1), now_seconds=lambda: 0.0) as directory:
        assert (directory.node_id, directory.cluster_name) == (NodeId(77), "old")
        assert directory.cluster_id != survivors.cluster_id
        assert await load_voters(directory) == (NodeId(77),)
        async with await HardStateFile.open(disk, join_path(directory.group_path(ORDERS), "hard_state")) as hard_state:
            assert (hard_state.state.term, hard_state.state.commit, hard_state.state.vote) == (3, 7, 0), "no term is used twice"


async def test_what_is_known_of_producers_is_brought_up_to_the_end() -> None:
    disk = SimDisk(random.Random(0))
    group = partition(9)
    home = await survivor(disk, 1, {CATALOG_GROUP: catalog([("orders", 1)]), ORDERS: group})
    await recovered(disk, [home])
    found = await newest(disk)
    assert (found.index, decode_partition(found.machine).high_watermark) == (9, 18)
    assert [segment.last_index for segment in found.manifest.segments][-1] == 9
    assert len(found.manifest.segments) > 1


async def newest(disk: Disk) -> SnapshotFile:
    directory = f"{TARGET}/groups/{ORDERS:016x}/snapshots"
    (name,) = await disk.list_directory(directory)
    return decode_snapshot_file(await read_whole(disk, join_path(directory, name), 1 << 20))


async def test_the_machine_goes_on_from_the_newest_snapshot() -> None:
    """Here it knows a producer that is in no entry: only the snapshot can have told it."""
    group = partition(12)
    disk = SimDisk(random.Random(0))
    home = await survivor(disk, 1, {CATALOG_GROUP: catalog([("orders", 1)]), ORDERS: group})
    directory = f"{home}/groups/{ORDERS:016x}"
    async with open_segmented_log(disk, f"{directory}/log", SETTINGS.logs) as log:
        end = log.sealed_last_index
        manifest = log.manifest(end)
    assert manifest is not None
    whole = partition(end)
    snapshot = SnapshotFile(metadata=whole.snapshot().metadata, manifest=manifest, machine=whole.machine)
    await SnapshotStore(disk, directory, Found()).save(lambda: snapshot, 0)
    await recovered(disk, [home])
    found = await newest(disk)
    assert found.index == 12
    assert 9 in [producer.producer_id for producer in decode_partition(found.machine).producers.producers]


async def test_damage_is_passed_over_when_another_has_the_whole() -> None:
    cat, group = catalog([("orders", 1)]), partition(9)
    disk = SimDisk(random.Random(0))
    homes = [await survivor(disk, number, {CATALOG_GROUP: cat, ORDERS: group}) for number in (1, 2)]
    before = await damage(disk, homes[0])
    survivors = await find_survivors(disk, homes)
    assert [replica.usable_index for replica in survivors.replicas[ORDERS]] == [9, before]
    _, groups = await recovered(disk, homes)
    assert groups[1].losses == ()
    assert len(await frames_in(disk, ORDERS)) == 9


async def test_only_what_is_before_the_damage_is_taken_from_the_last_one_and_the_loss_is_named() -> None:
    disk = SimDisk(random.Random(0))
    home = await survivor(disk, 1, {CATALOG_GROUP: catalog([("orders", 1)]), ORDERS: partition(9)})
    before = await damage(disk, home)
    _, groups = await recovered(disk, [home])
    assert groups[1].losses == (f"entries {before + 1} to 9 are damaged in {home}",)
    assert len(await frames_in(disk, ORDERS)) == before


async def test_a_partition_that_nobody_has_is_named() -> None:
    disk = SimDisk(random.Random(0))
    home = await survivor(disk, 1, {CATALOG_GROUP: catalog([("orders", 2)]), ORDERS: partition(4)})
    _, groups = await recovered(disk, [home])
    assert groups[2].losses == ("no survivor has it: it will be empty",)
    assert not await disk.exists(f"{TARGET}/groups/{2:016x}")


async def test_nothing_is_changed_in_what_is_left() -> None:
    disk = SimDisk(random.Random(0))
    home = await survivor(disk, 1, {CATALOG_GROUP: catalog([("orders", 1)]), ORDERS: partition(4)})
    before = await tree(disk, home)
    await recovered(disk, [home])
    assert await tree(disk, home) == before


async def test_what_is_no_group_is_passed_over() -> None:
    """Directories of people and of file systems, beside those of groups."""
    disk = SimDisk(random.Random(0))
    home = await survivor(disk, 1, {CATALOG_GROUP: catalog([("orders", 1)]), ORDERS: partition(4)})
    for name in ("lost+found", "0000000000000001.old", "00000000000000FF"):
        await disk.make_directory(f"{home}/groups/{name}/log")
    assert list((await find_survivors(disk, [home])).replicas) == [CATALOG_GROUP, ORDERS]


async def test_a_directory_without_groups() -> None:
    disk = SimDisk(random.Random(0))
    await disk.make_directory("/n1")
    node_file = NodeFile(node_id=NodeId(1), created_seconds=1, cluster_id=ClusterId(1), cluster_name="old")
    await write_atomically(disk, "/n1/node.toml", encode_node_file(node_file))
    with pytest.raises(DataDirectoryError, match="leave it out"):
        await find_survivors(disk, ["/n1"])


async def test_a_snapshot_that_is_being_installed() -> None:
    """The log may be half of what it is to be: the node itself has to end that."""
    disk = SimDisk(random.Random(0))
    home = await survivor(disk, 1, {CATALOG_GROUP: catalog([("orders", 1)]), ORDERS: partition(4)})
    await write_atomically(disk, f"{home}/groups/{ORDERS:016x}/{INSTALLING_FILE}", b"snapshot")
    with pytest.raises(DataDirectoryError, match="start the node of this directory once"):
        await find_survivors(disk, [home])


async def test_what_was_set_aside_is_a_possible_loss() -> None:
    """Its commit index may be as old as the log that is left."""
    disk = SimDisk(random.Random(0))
    homes = [await survivor(disk, number, {CATALOG_GROUP: catalog([("orders", 1)]), ORDERS: partition(4)}) for number in (1, 2)]
    directory = f"{homes[1]}/groups/{ORDERS:016x}/quarantine"
    await disk.make_directory(directory)
    await write_atomically(disk, f"{directory}/00000000000000000005.log", b"damaged")
    _, groups = await recovered(disk, homes)
    assert groups[0].losses == ()
    (loss,) = groups[1].losses
    assert loss.startswith(f"{directory} has what was damaged")
    assert "00000000000000000005.log" in loss


async def test_directories_that_do_not_belong_together() -> None:
    disk = SimDisk(random.Random(0))
    groups = {CATALOG_GROUP: catalog([("orders", 1)])}
    one = await survivor(disk, 1, groups)
    with pytest.raises(DataDirectoryError, match="same node"):
        await find_survivors(disk, [one, one])
    other = await survivor(disk, 2, groups, cluster_id=0xB2)
    with pytest.raises(DataDirectoryError, match="2 clusters"):
        await find_survivors(disk, [one, other])
    bare = await survivor(disk, 3, {ORDERS: partition(2)})
    with pytest.raises(DataDirectoryError, match="catalog"):
        await plan(disk, await find_survivors(disk, [bare]))
    await disk.make_directory("/empty")
    with pytest.raises(DataDirectoryError, match="no data directory"):
        async with held(disk, ["/empty"]):
            pass
    async with held(disk, [one]):
        with pytest.raises(DataDirectoryError):
            async with held(disk, [one]):
                pass
    await disk.make_directory(f"{TARGET}/groups")
    with pytest.raises(DataDirectoryError, match="a recovery needs an empty directory"):
        await recovered(disk, [one])


async def test_a_beginning_that_no_snapshot_covers() -> None:
    disk = SimDisk(random.Random(0))
    group = partition(6)
    home = await survivor(disk, 1, {CATALOG_GROUP: catalog([("orders", 1)]), ORDERS: group})
    log = f"{home}/groups/{ORDERS:016x}/log"
    for name in await disk.list_directory(log):
        await disk.remove(join_path(log, name))
    await write_atomically(disk, f"{log}/base", encode_base(LogBase(index=3, term=1, offset=6)))
    async with open_segmented_log(disk, log, SETTINGS.logs) as opened:
        await opened.append(group.frames[3:])
    with pytest.raises(DamagedData, match="no snapshot is left"):
        await recovered(disk, [home])


async def damage(disk: Disk, home: str) -> int:
    """A bit in the second segment flips. Returns the last entry before."""
    log = f"{home}/groups/{ORDERS:016x}/log"
    path = join_path(log, sorted(name for name in await disk.list_directory(log) if name.endswith(".log"))[1])
    file = await disk.open(path)
    try:
        (byte,) = await file.read_at(200, 1)
        await file.write_and_sync(200, [bytes((byte ^ 1,))])
    finally:
        await file.close()
    return int(path.rpartition("/")[2].removesuffix(".log")) - 1


async def tree(disk: Disk, path: str) -> dict[str, bytes]:
    """Every file below `path` but the lock."""
    found: dict[str, bytes] = {}
    for name in await disk.list_directory(path):
        child = join_path(path, name)
        try:
            found |= await tree(disk, child)
        except NotADirectoryError:
            if name != "LOCK":
                found[child] = await read_whole(disk, child, 1 << 20)
    return found
