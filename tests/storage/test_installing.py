"""Segments that are fetched, and a snapshot of another node in the place of a replica's log: one or the other, never a mix."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

from tests.storage.log_frames import following, make_frames, raw
from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.segment import LogBase
from trio_eventlog.codec.snapshot_file import Manifest, SegmentRange, SnapshotFile, encode_snapshot_file
from trio_eventlog.errors import CodecError, DamagedData
from trio_eventlog.ids import NodeId
from trio_eventlog.raft import Configuration, SnapshotMetadata
from trio_eventlog.storage.disk import Disk, join_path, write_atomically
from trio_eventlog.storage.fetched_segments import (
    SegmentPart,
    fetched_name,
    part_name,
    remove_fetched_segments,
    terms_in_file,
)
from trio_eventlog.storage.installing import INSTALLING_FILE, finish_install, install
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.storage.segment import range_of, read_footer, segment_name
from trio_eventlog.storage.segmented_log import SegmentedLog, open_segmented_log
from trio_eventlog.storage.snapshots import SnapshotName
from trio_eventlog.storage.verify import verify_replica
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, SimDisk

GROUP = "/d/group"
LOG = "/d/group/log"
SETTINGS = default(LogSettings, segment_bytes=2000, preallocate_bytes=0, index_interval_bytes=500)
OLD_SNAPSHOT = "/d/group/snapshots/" + SnapshotName(5, 1).file_name


def sim_disk(seed: int = 1) -> SimDisk:
    return SimDisk(random.Random(seed))


async def ranges(disk: Disk, directory: str) -> list[SegmentRange]:
    """The sealed segments of a log, as its files say."""
    found = []
    for name in await disk.list_directory(directory):
        if name.endswith(".log"):
            file = await disk.open(join_path(directory, name), writes=False)
            try:
                footer = await read_footer(file)
            except CodecError:
                continue  # the active one
            finally:
                await file.close()
            found.append(range_of(footer))
    return found


@attrs.frozen
class Elsewhere:
    """A log on another node, and a snapshot of it."""

    frames: list[EntryFrame]
    segments: list[SegmentRange]
    files: dict[int, bytes]
    snapshot: SnapshotFile

    @property
    def data(self) -> bytes:
        return encode_snapshot_file(self.snapshot)

    @property
    def covered(self) -> list[EntryFrame]:
        """Of a log that begins behind `base`, the entries that the snapshot covers."""
        first = self.snapshot.manifest.base.index
        return [frame for frame in self.frames if first < frame.index <= self.snapshot.index]

    def frames_of(self, segment: SegmentRange) -> bytes:
        return self.files[segment.base_index][: segment.frames_bytes]


async def elsewhere(frames: list[EntryFrame], first_segment: int = 0) -> Elsewhere:
    """A log of `frames`, whose segments before `first_segment` are gone."""
    disk = sim_disk()
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        await log.append(frames)
        segments = (await ranges(disk, "/log"))[first_segment:]
        last, base = segments[-1].last_index, segments[0].base_index - 1
        snapshot = SnapshotFile(
            metadata=SnapshotMetadata(index=last, term=log.term(last), configuration=Configuration(voters=frozenset({NodeId(1)}))),
            manifest=Manifest(
                base=LogBase(index=base, term=log.term(base), offset=segments[0].base_offset), segments=tuple(segments)
            ),
            machine=b"state",
        )
    files = {one.base_index: disk.content("/log/" + segment_name(one.base_index)) for one in segments}
    return Elsewhere(frames, segments, files, snapshot)


async def fetch(disk: Disk, there: Elsewhere, directory: str = LOG, segments: Sequence[SegmentRange] | None = None) -> None:
    for segment in there.segments if segments is None else segments:
        async with SegmentPart(disk, directory, segment, 500) as part:
            await part.write(there.frames_of(segment)[part.position :])
            await part.finish()


async def old_group(disk: Disk, frames: list[EntryFrame]) -> None:
    """The replica before: a log, and a snapshot."""
    async with open_segmented_log(disk, LOG, SETTINGS) as log:
        await log.append(frames)
    await disk.make_directory(GROUP + "/snapshots")
    await write_atomically(disk, OLD_SNAPSHOT, b"old")


@asynccontextmanager
async def opened(disk: Disk) -> AsyncIterator[SegmentedLog]:
    await finish_install(disk, GROUP)
    async with open_segmented_log(disk, LOG, SETTINGS) as log:
        yield log


async def entries(log: SegmentedLog) -> list[bytes]:
    found: list[EntryFrame] = []
    while log.first_index + len(found) <= log.last_index:
        found += await log.read(log.first_index + len(found), log.last_index, 1 << 30)
    return raw(found)


async def check_new(disk: SimDisk, there: Elsewhere) -> None:
    """The log is the one of the snapshot, which is there, and nothing else is left."""
    async with opened(disk) as log:
        assert await entries(log) == raw(there.covered)
        assert log.first_index == there.snapshot.manifest.base.index + 1
        assert log.term(log.first_index - 1) == there.snapshot.manifest.base.term
        assert log.last_term == there.snapshot.term
        more = following(there.covered, 3, term=9)
        await log.append(more)
        assert await entries(log) == raw(there.covered) + raw(more)
    names = [path.removeprefix(GROUP + "/") for path in disk.paths() if not path.startswith(LOG)]
    assert names == ["snapshots/" + SnapshotName(there.snapshot.index, there.snapshot.term).file_name]
    assert disk.content(GROUP + "/" + names[0]) == there.data
    assert not [path for path in disk.paths() if ".fetched" in path or path.endswith(".part")]


LOGS = {
    "an empty one": list,
    "one that is a part of it": lambda: make_frames(60, term=1)[:25],
    "another one": lambda: make_frames(40, term=1, seed=5),
    "a longer one": lambda: make_frames(100, term=1, seed=5),
}


@pytest.mark.parametrize("old", LOGS.values(), ids=LOGS)
@pytest.mark.parametrize("first_segment", [0, 2])
async def test_a_snapshot_takes_the_place_of_any_log(old: object, first_segment: int) -> None:
    assert callable(old)
    there = await elsewhere(make_frames(60, term=1), first_segment)
    disk = sim_disk()
    await old_group(disk, old())
    await fetch(disk, there)
    await install(disk, GROUP, there.snapshot, there.data)
    disk = disk.crash(CrashMode.LOSE)
    await check_new(disk, there)


async def test_on_a_real_disk(tmp_path: Path) -> None:
    there = await elsewhere(make_frames(60, term=1))
    disk = RealDisk()
    group = str(tmp_path / "group")
    log_directory = join_path(group, "log")
    async with open_segmented_log(disk, log_directory, SETTINGS) as log:
        await log.append(make_frames(40, term=1, seed=5))
    await fetch(disk, there, log_directory)
    await install(disk, group, there.snapshot, there.data)
    async with open_segmented_log(disk, log_directory, SETTINGS) as log:
        assert await entries(log) == raw(there.covered)
        assert log.rebuilt_indexes == 0, "the sparse indexes came to be with the segments"


async def test_segments_that_the_log_has_already_are_kept() -> None:
    frames = make_frames(60, term=1)
    there = await elsewhere(frames)
    disk = sim_disk()
    await old_group(disk, frames[: there.segments[2].last_index])
    kept = [one for one in there.segments if await terms_in_file(disk, join_path(LOG, segment_name(one.base_index)), one)]
    assert len(kept) in (2, 3)
    await fetch(disk, there, segments=there.segments[len(kept) :])
    await install(disk, GROUP, there.snapshot, there.data)
    await check_new(disk, there)


@pytest.mark.parametrize("mode", CrashMode)
@pytest.mark.parametrize("seed", range(2))
async def test_a_crash_at_any_operation_leaves_the_old_log_or_the_new_one(mode: CrashMode, seed: int) -> None:
    """Also one that comes while a node which was started again finishes the installation."""
    old_frames = make_frames(40, term=1, seed=5)
    there = await elsewhere(make_frames(60, term=2), first_segment=seed % 2)
    outcomes = set()
    operations = 0
    is_over = False
    while not is_over:
        disk = sim_disk(seed * 1000 + operations)
        await old_group(disk, old_frames)
        is_installed = False
        disk.cut_power_after(operations)
        try:
            await fetch(disk, there)
            await install(disk, GROUP, there.snapshot, there.data)
            is_installed = is_over = True
        except DiskCrashed:
            pass
        disk = disk.crash(mode)
        if operations % 2:
            # The next start does not get far either.
            disk.cut_power_after(operations % 17)
            try:
                await finish_install(disk, GROUP)
            except DiskCrashed:
                pass
            disk = disk.crash(mode)
        async with opened(disk) as log:
            held = await entries(log)
        is_new = held == raw(there.covered)
        assert is_new or held == raw(old_frames)
        assert is_new or not is_installed
        if is_new:
            await check_new(disk, there)
        else:
            assert disk.content(OLD_SNAPSHOT) == b"old"
            # What was fetched is of use again.
            names = await disk.list_directory(LOG)
            await fetch(disk, there, segments=[one for one in there.segments if fetched_name(one) not in names])
            await install(disk, GROUP, there.snapshot, there.data)
            await check_new(disk, there)
        outcomes.add(is_new)
        operations += 1
    assert outcomes == {True, False}


async def test_nothing_is_installed_when_a_segment_is_missing() -> None:
    there = await elsewhere(make_frames(60, term=1))
    disk = sim_disk()
    old_frames = make_frames(40, term=1, seed=5)
    await old_group(disk, old_frames)
    await fetch(disk, there, segments=there.segments[:1] + there.segments[2:])
    with pytest.raises(CodecError, match=f"segment {there.segments[1].base_index} is missing"):
        await install(disk, GROUP, there.snapshot, there.data)
    async with opened(disk) as log:
        assert await entries(log) == raw(old_frames)


async def test_segments_whose_terms_go_back_are_not_installed() -> None:
    frames = make_frames(30, term=3)
    there = await elsewhere(frames + following(frames, 30, term=4))
    manifest = attrs.evolve(there.snapshot.manifest, base=LogBase(index=0, term=4, offset=0))
    disk = sim_disk()
    await old_group(disk, [])
    await fetch(disk, there)
    with pytest.raises(CodecError, match="begins in term 3, behind an entry of term 4"):
        await install(disk, GROUP, attrs.evolve(there.snapshot, manifest=manifest), there.data)
    metadata = attrs.evolve(there.snapshot.metadata, term=5)
    with pytest.raises(CodecError, match="of term 5"):
        await install(disk, GROUP, attrs.evolve(there.snapshot, metadata=metadata), there.data)


async def test_an_installation_whose_files_are_gone_is_said_to_be_damaged() -> None:
    there = await elsewhere(make_frames(60, term=1))
    disk = sim_disk()
    await old_group(disk, [])
    await write_atomically(disk, join_path(GROUP, INSTALLING_FILE), there.data)
    with pytest.raises(DamagedData, match="start it again with an empty data directory"):
        await finish_install(disk, GROUP)
    disk.put(join_path(GROUP, INSTALLING_FILE), b"?" + there.data[1:])
    with pytest.raises(DamagedData, match="installing"):
        await finish_install(disk, GROUP)


async def test_verifying_amid_an_installation_says_so() -> None:
    there = await elsewhere(make_frames(60, term=1))
    disk = sim_disk()
    await old_group(disk, make_frames(40, term=1, seed=5))
    await write_atomically(disk, join_path(GROUP, INSTALLING_FILE), there.data)
    (problem,) = (await verify_replica(disk, GROUP)).problems
    assert "start the node" in problem.text


async def test_a_segment_comes_in_any_number_of_pieces_and_goes_on_where_it_was() -> None:
    there = await elsewhere(make_frames(60, term=1))
    segment = there.segments[1]
    data = there.frames_of(segment)
    disk = sim_disk()
    await disk.make_directory(LOG)
    position = 0
    while position < len(data):
        async with SegmentPart(disk, LOG, segment, 500) as part:
            assert part.position <= position, "of the frame that was cut off nothing is kept"
            assert part.position == part.found_bytes
            position = part.position
            for _ in range(3):
                await part.write(data[position : position + 150])
                position = part.position
            if position >= len(data):
                await part.finish()
    assert await terms_in_file(disk, join_path(LOG, fetched_name(segment)), segment) == (1, 1)
    assert disk.content(join_path(LOG, fetched_name(segment)))[: len(data)] == data


@pytest.mark.parametrize("mode", CrashMode)
async def test_what_a_crash_leaves_of_a_part_is_looked_at(mode: CrashMode) -> None:
    """Zeros where bytes had not been synced, an old file that is longer: what is whole is kept, and the rest comes again."""
    there = await elsewhere(make_frames(60, term=1))
    segment = there.segments[0]
    data = there.frames_of(segment)
    for cut in range(0, len(data), 97):
        disk = sim_disk(cut)
        await disk.make_directory(LOG)
        async with SegmentPart(disk, LOG, segment, 500) as part:
            await part.write(data[: cut + 1])
            await part.write(bytes(100))
        disk = disk.crash(mode)
        async with SegmentPart(disk, LOG, segment, 500) as part:
            assert part.position <= cut + 1
            await part.write(data[part.position :])
            await part.finish()
        assert await terms_in_file(disk, join_path(LOG, fetched_name(segment)), segment) == (1, 1)


async def test_frames_that_are_whole_and_of_another_log_are_thrown_away() -> None:
    there, other = await elsewhere(make_frames(60, term=1)), await elsewhere(make_frames(60, term=1, seed=5))
    segment = there.segments[0]
    disk = sim_disk()
    await disk.make_directory(LOG)
    async with SegmentPart(disk, LOG, segment, 500) as part:
        await part.write((other.frames_of(other.segments[0]) * 2)[: segment.frames_bytes])
        with pytest.raises(CodecError):
            await part.finish()
        assert part.position == 0
        await part.write(there.frames_of(segment))
        await part.finish()
    assert await terms_in_file(disk, join_path(LOG, fetched_name(segment)), segment)


async def test_every_flipped_bit_of_a_segment_is_noticed() -> None:
    there = await elsewhere(make_frames(20, term=1))
    segment = there.segments[0]
    data = there.frames_of(segment)
    disk = sim_disk()
    await disk.make_directory(LOG)
    for position in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        async with SegmentPart(disk, LOG, segment, 500) as part:
            await part.write(flipped[part.position :])
            with pytest.raises(CodecError):
                await part.finish()


async def test_nothing_that_opens_a_log_looks_at_what_was_fetched() -> None:
    there = await elsewhere(make_frames(60, term=1))
    disk = sim_disk()
    frames = make_frames(40, term=1, seed=5)
    await old_group(disk, frames)
    await fetch(disk, there, segments=there.segments[1:])
    async with SegmentPart(disk, LOG, there.segments[0], 500) as part:
        await part.write(b"x" * 100)
    async with opened(disk) as log:
        assert await entries(log) == raw(frames)
    assert join_path(LOG, part_name(there.segments[0])) in disk.paths()
    await remove_fetched_segments(disk, LOG)
    async with opened(disk) as log:
        assert await entries(log) == raw(frames)
    assert not [path for path in disk.paths() if ".fetched" in path or path.endswith(".part")]
