"""Data directories written by each format version so far open, and say what was written.

`python tests/storage/test_older_formats.py NAME` writes one as this release does; that of a format version is made once, when
the version is new, committed, and never changed.
"""

import shutil
import sys
from pathlib import Path

import pytest
import trio
from log_frames import following, make_frames, raw

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.ids import ClusterId, GroupId, NodeId
from trio_eventlog.raft.ready import HardState
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.disk import join_path
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.storage.segmented_log import open_segmented_log
from trio_eventlog.storage.verify import verify_log
from trio_eventlog.testing.defaults import default

DATA = Path(__file__).parent / "data"
NODE_ID = NodeId(0x1122334455667788)
STATE = HardState(term=3, vote=NODE_ID, commit=17)
SETTINGS = default(LogSettings, segment_bytes=1000, preallocate_bytes=512, index_interval_bytes=300)


def frames_written() -> list[EntryFrame]:
    frames = make_frames(12, payload_bytes_max=100)
    return frames + following(frames, 8, term=3, payload_bytes_max=100)


async def write(path: Path) -> None:
    disk = RealDisk()
    async with DataDirectory.open(disk, str(path), new_node_id=lambda: NODE_ID, now_seconds=lambda: 1_700_000_000) as directory:
        await directory.set_cluster(ClusterId(0xABCD), "blue")
        group = await directory.group_directory(GroupId(1))
        async with await HardStateFile.open(disk, join_path(group, "hard_state")) as hard_state:
            await hard_state.save(STATE)
        async with open_segmented_log(disk, join_path(group, "log"), SETTINGS) as log:
            frames = frames_written()
            await log.append(make_frames(12, payload_bytes_max=100))
            for start in range(12, len(frames), 3):
                await log.append(frames[start : start + 3])


@pytest.mark.parametrize("version", [1])
async def test_a_data_directory_of_this_format_opens(version: int, tmp_path: Path) -> None:
    """Identity, hard state and every entry; and the log goes on from there."""
    shutil.copytree(DATA / f"v{version}", tmp_path / "data")
    disk = RealDisk()

    def never() -> NodeId:
        raise AssertionError("the node has an id")

    async with DataDirectory.open(disk, str(tmp_path / "data"), new_node_id=never, now_seconds=lambda: 0) as directory:
        assert (directory.node_id, directory.cluster_id, directory.cluster_name) == (NODE_ID, 0xABCD, "blue")
        assert directory.created_seconds == 1_700_000_000
        assert await directory.group_ids() == [1]
        group = directory.group_path(GroupId(1))
        assert (await verify_log(disk, join_path(group, "log"))).problems == ()
        async with await HardStateFile.open(disk, join_path(group, "hard_state")) as hard_state:
            assert hard_state.state == STATE
        async with open_segmented_log(disk, join_path(group, "log"), SETTINGS) as log:
            frames = frames_written()
            assert (log.last_index, log.last_term, log.segment_count) == (20, 3, 3)
            found: list[bytes] = []
            while len(found) < 20:
                found += raw(await log.read(len(found) + 1, 20, 10_000))
            assert found == raw(frames)
            assert log.rebuilt_indexes == 0
            assert log.recovery.torn_bytes == 0
            await log.append(following(frames, 5))
            assert log.last_index == 25


async def test_this_release_writes_the_newest_format(tmp_path: Path) -> None:
    """File by file and byte by byte what is committed: a changed layout needs a new version."""
    await write(tmp_path / "now")
    committed = DATA / "v1"
    names = sorted(str(path.relative_to(committed)) for path in committed.rglob("*") if path.is_file())
    now = sorted(str(path.relative_to(tmp_path / "now")) for path in (tmp_path / "now").rglob("*") if path.is_file())
    assert [name for name in now if name != "LOCK"] == [name for name in names if name != "LOCK"]
    for name in now:
        if name != "LOCK":
            assert (tmp_path / "now" / name).read_bytes() == (committed / name).read_bytes(), name


if __name__ == "__main__":
    trio.run(write, DATA / sys.argv[1])
