"""Taking a backup: what is in it, what a second one adds, and what happens when the cluster changes meanwhile."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backup.kit import back_up, cluster, files_in, partition
from trio_eventlog.backup import ArchiveTarget, DirectoryTarget, Progress, check_backup, open_backup
from trio_eventlog.backup.manifest import MANIFEST_NAME, decode_manifest
from trio_eventlog.backup.taking import CUTS_MAX
from trio_eventlog.errors import BackupUnusable
from trio_eventlog.ids import GroupId


async def test_a_backup_is_the_catalog_and_every_partition_whole(tmp_path: Path) -> None:
    source = cluster()
    manifest = await back_up(source, DirectoryTarget(tmp_path))
    assert [(group.topic, group.partition, group.end_offset) for group in manifest.groups] == [
        ("", 0, 0),
        ("orders", 0, 22),
        ("orders", 1, 24),
        ("events", 0, 26),
    ]
    backup = await open_backup(tmp_path)
    assert backup.manifest == manifest
    assert await check_backup(backup) == []
    assert set(files_in(tmp_path)) == {MANIFEST_NAME, *(file.name for file in manifest.files)}
    assert manifest.groups[0].segments == ()
    for group in manifest.groups[1:]:
        content = b"".join([await backup.read(file) for file in group.segments])
        assert content == b"".join(frame.raw for frame in source.groups[group.id].frames)


async def test_an_archive_holds_the_same_files(tmp_path: Path) -> None:
    directory, archive = tmp_path / "directory", tmp_path / "all.tar"
    out = io.BytesIO()
    await back_up(cluster(), DirectoryTarget(directory))
    await back_up(cluster(), ArchiveTarget(out))
    archive.write_bytes(out.getvalue())
    opened = await open_backup(archive)
    assert opened.manifest == (await open_backup(directory)).manifest
    assert await check_backup(opened) == []


async def test_a_second_backup_reads_what_is_new(tmp_path: Path) -> None:
    source = cluster()
    await back_up(source, DirectoryTarget(tmp_path))
    first_bytes, source.read_bytes = source.read_bytes, 0
    source.groups[GroupId(1)] = partition(14)
    progress = Progress()
    manifest = await back_up(source, DirectoryTarget(tmp_path), progress)
    # Snapshots are always read. Of segments: the last one of the group that has grown, and none of the others.
    grown = sum(file.size_bytes for file in manifest.groups[1].segments[3:])
    snapshots = sum(group.snapshot.size_bytes for group in manifest.groups)
    assert source.read_bytes == grown + snapshots < first_bytes / 2
    assert progress.kept_bytes == manifest.size_bytes - snapshots - grown
    assert await check_backup(await open_backup(tmp_path)) == []
    assert set(files_in(tmp_path)) == {MANIFEST_NAME, *(file.name for file in manifest.files)}, "nothing else is left"


async def test_a_kept_file_that_was_damaged_is_read_again(tmp_path: Path) -> None:
    """Damage between two backups must not be taken for the truth by the second one."""
    manifest = await back_up(cluster(), DirectoryTarget(tmp_path))
    path = tmp_path / manifest.groups[1].segments[0].name
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert [problem.split(":")[0] for problem in await check_backup(await open_backup(tmp_path))] == [
        manifest.groups[1].segments[0].name
    ]
    assert await back_up(cluster(), DirectoryTarget(tmp_path)) == manifest
    assert await check_backup(await open_backup(tmp_path)) == []


@pytest.mark.parametrize("in_archive", [False, True])
async def test_a_group_whose_segments_are_removed_meanwhile_is_begun_again(tmp_path: Path, in_archive: bool) -> None:
    source = cluster()
    source.gone = CUTS_MAX - 1
    out = io.BytesIO()
    target = ArchiveTarget(out) if in_archive else DirectoryTarget(tmp_path / "backup")
    await back_up(source, target)
    path = tmp_path / "backup"
    if in_archive:
        path.write_bytes(out.getvalue())
    assert await check_backup(await open_backup(path)) == []
    source.gone = CUTS_MAX
    with pytest.raises(BackupUnusable, match=f"{CUTS_MAX} attempts"):
        await back_up(source, DirectoryTarget(tmp_path / "another"))


async def test_a_topic_that_is_deleted_meanwhile_is_left_out(tmp_path: Path) -> None:
    source = cluster()
    del source.groups[GroupId(2)]
    progress = Progress()
    manifest = await back_up(source, DirectoryTarget(tmp_path), progress)
    assert progress.left_out == ["orders/1"]
    assert [group.id for group in manifest.groups] == [0, 1, 3]
    assert (progress.groups, progress.groups_done) == (4, 4)


async def test_damage_on_the_way_makes_no_backup(tmp_path: Path) -> None:
    source = cluster()
    source.damaged = True
    with pytest.raises(BackupUnusable, match="log verify"):
        await back_up(source, DirectoryTarget(tmp_path))
    assert MANIFEST_NAME not in files_in(tmp_path)
    with pytest.raises(BackupUnusable, match="not finished"):
        await open_backup(tmp_path)


async def test_an_unfinished_archive_is_no_backup(tmp_path: Path) -> None:
    out = io.BytesIO()
    await back_up(cluster(), ArchiveTarget(out))
    path = tmp_path / "cut.tar"
    for size_bytes in (0, 100, 5000, len(out.getvalue()) // 2):
        path.write_bytes(out.getvalue()[:size_bytes])
        with pytest.raises(BackupUnusable):
            await open_backup(path)


async def test_flipped_bytes_of_each_file_are_found(tmp_path: Path) -> None:
    await back_up(cluster(2), DirectoryTarget(tmp_path))
    opened = await open_backup(tmp_path)
    for file in opened.manifest.files:
        path = tmp_path / file.name
        data = path.read_bytes()
        for position in {0, len(data) // 3, len(data) - 1}:
            path.write_bytes(flipped(data, position))
            problems = await check_backup(opened)
            assert len(problems) == 1
            assert file.name in problems[0]
        path.write_bytes(data[:-1])
        assert file.name in (await check_backup(opened))[0]
        path.unlink()
        assert "missing" in (await check_backup(await open_backup(tmp_path)))[0]
        path.write_bytes(data)


async def test_every_flipped_byte_of_a_manifest(tmp_path: Path) -> None:
    """Refused; or a value that means something, and then it is that of one field, which the check of files finds if it matters."""
    await back_up(cluster(2), DirectoryTarget(tmp_path))
    data = (tmp_path / MANIFEST_NAME).read_bytes()
    refused = 0
    for position in range(len(data)):
        try:
            decode_manifest(flipped(data, position))
        except BackupUnusable:
            refused += 1
    assert refused > len(data) / 2


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers(), st.lists).map(json.dumps).map(str.encode))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    with pytest.raises(BackupUnusable):
        decode_manifest(data)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes((data[position] ^ 1,)) + data[position + 1 :]
