"""The data directory: who it belongs to, and each way it can be unusable."""

import errno
import os
import random
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from itertools import product
from pathlib import Path

import pytest

from trio_eventlog.errors import DataDirectoryError, DiskFull, StorageFailed
from trio_eventlog.ids import NO_CLUSTER, ClusterId, GroupId, NodeId
from trio_eventlog.storage.data_directory import DataDirectory, NodeFile, decode_node_file, encode_node_file
from trio_eventlog.storage.disk import Disk
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, Fault, Operation, SimDisk


def opened(disk: Disk, path: str = "/data", ids: Iterator[int] | None = None) -> AbstractAsyncContextManager[DataDirectory]:
    ids = ids or iter([7])
    return DataDirectory.open(disk, path, new_node_id=lambda: NodeId(next(ids)), now_seconds=lambda: 1_700_000_000.5)


def new_disk() -> SimDisk:
    return SimDisk(random.Random(0))


async def test_created_on_first_use_and_found_again() -> None:
    """The node id is made once and never again."""
    disk = new_disk()
    async with opened(disk, "/some/where/data", iter([7])) as directory:
        assert (directory.node_id, directory.cluster_id, directory.created_seconds) == (7, NO_CLUSTER, 1_700_000_000)
    async with opened(disk, "/some/where/data", iter([])) as directory:
        assert (directory.node_id, directory.created_seconds) == (7, 1_700_000_000)


@pytest.mark.parametrize("mode", CrashMode)
async def test_survives_power_cuts(mode: CrashMode) -> None:
    """Cut at any operation: once opened the identity is durable, and what is left can always be opened."""
    for operations, seed in product(range(30), range(4)):
        disk = SimDisk(random.Random(f"{operations} {seed}"))
        disk.cut_power_after(operations)
        node_id = cluster_id = 0
        try:
            async with opened(disk) as directory:
                node_id = directory.node_id
                await directory.set_cluster(ClusterId(5), "c")
                cluster_id = directory.cluster_id
        except DiskCrashed:
            pass
        disk = disk.crash(mode)
        async with opened(disk, ids=iter([8])) as directory:
            assert not node_id or directory.node_id == node_id
            assert not cluster_id or directory.cluster_id == cluster_id


async def test_what_a_killed_process_left_is_durable_once_opened() -> None:
    """The name of node.toml may stand in the kernel's cache only."""
    disk = new_disk()
    await disk.make_directory("/data/groups")
    file = await disk.open("/data/node.toml.new", create=True)
    await file.write_and_sync(0, [encode_node_file(NodeFile(node_id=NodeId(3), created_seconds=1))])
    await disk.rename("/data/node.toml.new", "/data/node.toml")
    async with opened(disk) as directory:
        assert directory.node_id == 3
    async with opened(disk.crash(CrashMode.LOSE)) as directory:
        assert directory.node_id == 3


async def test_cluster_is_set_once() -> None:
    """The same again is fine, another one is refused with both names, also after reopening."""
    disk = new_disk()
    async with opened(disk) as directory:
        await directory.set_cluster(ClusterId(0xAB), 'a "name"\\ with\ttrouble\n')
        await directory.set_cluster(ClusterId(0xAB), "other name, same id")
    async with opened(disk.crash(CrashMode.LOSE)) as directory:
        assert (directory.cluster_id, directory.cluster_name) == (0xAB, 'a "name"\\ with\ttrouble\n')
        with pytest.raises(DataDirectoryError, match=r"00000000000000ab.*00000000000000cd"):
            await directory.set_cluster(ClusterId(0xCD), "x")
        assert directory.cluster_id == 0xAB


async def test_groups() -> None:
    """A directory per group, made on demand, listed in order; foreign names are passed over."""
    disk = new_disk()
    async with opened(disk) as directory:
        assert await directory.group_ids() == []
        assert await directory.group_directory(GroupId(255)) == "/data/groups/00000000000000ff"
        for group_id in (1, 255, 0, 1 << 63):
            assert await directory.group_directory(GroupId(group_id)) == directory.group_path(GroupId(group_id))
        await disk.make_directory("/data/groups/lost+found")
        await disk.make_directory("/data/groups/00000000000000FF")
        assert await directory.group_ids() == [0, 1, 255, 1 << 63]


async def test_locked() -> None:
    """Two nodes never share a directory."""
    disk = new_disk()
    async with opened(disk):
        with pytest.raises(DataDirectoryError, match="/data/LOCK: held by another process"):
            async with opened(disk):
                pass
    async with opened(disk):
        pass


async def test_locked_on_the_real_disk(tmp_path: Path) -> None:
    """As above, within one process too."""
    async with opened(RealDisk(), str(tmp_path / "data")):
        with pytest.raises(DataDirectoryError, match="held by another process"):
            async with opened(RealDisk(), str(tmp_path / "data")):
                pass


@pytest.mark.parametrize("path", ["/file", "/file/below"])
async def test_a_file_is_in_the_way(path: str) -> None:
    """The text says so."""
    disk = new_disk()
    disk.put("/file", b"")
    with pytest.raises(DataDirectoryError, match="a file is in the way"):
        async with opened(disk, path):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
async def test_unwritable_on_the_real_disk(tmp_path: Path) -> None:
    """The text says so."""
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(DataDirectoryError, match="cannot be written"):
        async with opened(RealDisk(), str(tmp_path / "closed" / "data")):
            pass


async def test_read_only_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text says so."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(DataDirectoryError, match=r"cannot be written.*Read-only"):
        async with opened(RealDisk(), str(tmp_path / "data")):
            pass


async def test_forbidden_node_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node.toml of another user: the text says so, and the lock is given back."""
    disk = new_disk()
    async with opened(disk):
        pass

    async def refuse(path: str, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    with monkeypatch.context() as patched:
        patched.setattr(disk, "open", refuse)
        with pytest.raises(DataDirectoryError, match=r"cannot be used.*Permission denied"):
            async with opened(disk):
                pass
    async with opened(disk):
        pass


async def test_a_failing_disk() -> None:
    """A failed sync keeps its own name; the lock is given back."""
    disk = new_disk()
    disk.faults.append(Fault(operation=Operation.SYNC, path_part="node.toml", times=1))
    with pytest.raises(StorageFailed):
        async with opened(disk):
            pass
    async with opened(disk):
        pass


async def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk keeps its own name."""
    disk = new_disk()

    async def full(path: str, **options: object) -> None:
        raise DiskFull(path)

    monkeypatch.setattr(disk, "open", full)
    with pytest.raises(DiskFull):
        async with opened(disk):
            pass


async def test_unknown_format() -> None:
    """A directory of a later release is left alone, whatever else it says."""
    disk = new_disk()
    disk.put("/data/node.toml", b"format_version = 2\nnode = 'new words'\n")
    with pytest.raises(DataDirectoryError, match="format version 2; this release knows 1"):
        async with opened(disk):
            pass
    assert disk.content("/data/node.toml").startswith(b"format_version = 2")


async def test_node_file_missing_beside_data() -> None:
    """A new id beside another node's votes would be a second node with the first one's log."""
    disk = new_disk()
    async with opened(disk) as directory:
        await directory.group_directory(GroupId(1))
    disk.delete("/data/node.toml")
    with pytest.raises(DataDirectoryError, match="missing, but there is data beside it"):
        async with opened(disk):
            pass


GOOD = encode_node_file(NodeFile(node_id=NodeId(7), created_seconds=5, cluster_id=ClusterId(9), cluster_name="blue"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"not toml",
        GOOD[:-10],
        GOOD.replace(b"blue", b"glue"),
        GOOD + b"more = 1\n",
        b"x" * 70_000,
        b'checksum = "00000000"\n',
    ],
)
async def test_damaged_node_file(content: bytes) -> None:
    """Never a guess at the id."""
    disk = new_disk()
    disk.put("/data/node.toml", content)
    with pytest.raises(DataDirectoryError, match=r"node\.toml: damaged"):
        async with opened(disk):
            pass
    assert disk.content("/data/node.toml") == content


def test_any_flipped_bit_in_the_node_file_is_noticed() -> None:
    """Every one of them, the id's above all."""
    for position in range(len(GOOD)):
        for bit in range(8):
            damaged = bytearray(GOOD)
            damaged[position] ^= 1 << bit
            with pytest.raises(ValueError):
                decode_node_file(bytes(damaged))
