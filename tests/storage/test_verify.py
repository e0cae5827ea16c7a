"""Offline verification and dump of a log."""

import random

from log_frames import following, make_frames, raw

from trio_eventlog.codec.segment import LogBase, encode_base
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.segment import segment_name
from trio_eventlog.storage.segmented_log import open_segmented_log
from trio_eventlog.storage.verify import EntryPlace, LogReport, Problem, dump_log, verify_log
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, Fault, Operation, SimDisk

SETTINGS = default(LogSettings, segment_bytes=3000, preallocate_bytes=1024, index_interval_bytes=400)
FRAMES = make_frames(60, term=2)


async def written() -> SimDisk:
    disk = SimDisk(random.Random(0))
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        for start in range(0, 60, 4):
            await log.append(FRAMES[start : start + 4])
    return disk


async def logs(disk: SimDisk) -> list[str]:
    return [name for name in await disk.list_directory("/log") if name.endswith(".log")]


async def dumped(disk: SimDisk, first_index: int = 1) -> list[EntryPlace | Problem]:
    async with dump_log(disk, "/log", first_index=first_index) as places:
        return [place async for place in places]


async def checked(disk: SimDisk) -> LogReport:
    """The report; verification changes nothing."""
    before = {name: disk.content(f"/log/{name}") for name in await disk.list_directory("/log")}
    report = await verify_log(disk, "/log")
    assert before == {name: disk.content(f"/log/{name}") for name in await disk.list_directory("/log")}
    return report


async def test_a_whole_log() -> None:
    """Counts and ranges, no problems; the dump gives every entry with its place."""
    disk = await written()
    report = await checked(disk)
    assert (report.entries, report.last_index, report.end_offset) == (60, 60, FRAMES[-1].end_offset)
    assert (report.problems, report.is_damaged) == ((), False)
    assert [segment.is_sealed for segment in report.segments] == [True] * (len(report.segments) - 1) + [False]
    assert sum(segment.frames_bytes for segment in report.segments) == sum(frame.size_bytes for frame in FRAMES)
    places = await dumped(disk)
    assert raw([place.frame for place in places if isinstance(place, EntryPlace)]) == raw(FRAMES)
    for place in places:
        assert isinstance(place, EntryPlace)
        assert disk.content(place.path)[place.position :].startswith(place.frame.raw)
    assert [place.frame.index for place in await dumped(disk, 33) if isinstance(place, EntryPlace)] == list(range(33, 61))


async def test_an_empty_log() -> None:
    """Nothing is fine."""
    disk = SimDisk(random.Random(0))
    await disk.make_directory("/log")
    report = await checked(disk)
    assert (report.entries, report.last_index, report.problems) == (0, 0, ())
    assert await dumped(disk) == []


async def test_damaged_entries_are_found_and_what_follows_is_read() -> None:
    """Each with file, byte and index; the entries around them are counted and dumped."""
    disk = await written()
    *_, active = await logs(disk)
    places = {place.frame.index: place for place in await dumped(disk) if isinstance(place, EntryPlace)}
    in_active = int(active.removesuffix(".log"))
    damaged = [3, 4, 20, in_active]
    for index in damaged:
        disk.flip_bit(places[index].path, places[index].position + 40)
    report = await checked(disk)
    found = [(problem.path, problem.position, problem.index) for problem in report.problems]
    # One problem for a run of damaged entries: it begins at the first of them.
    assert found == [(places[index].path, places[index].position, index) for index in (3, 20, in_active)]
    assert report.is_damaged
    assert report.entries == 60 - len(damaged)
    dump = await dumped(disk)
    assert [place.frame.index for place in dump if isinstance(place, EntryPlace)] == [
        index for index in range(1, 61) if index not in damaged
    ]
    assert [problem.index for problem in dump if isinstance(problem, Problem)] == [3, 20, in_active]


async def test_a_torn_tail_is_no_damage() -> None:
    """It is said, and that opening mends it."""
    disk = await written()
    *_, active = await logs(disk)
    position = sum(frame.size_bytes for frame in FRAMES[int(active[:20]) - 1 :])
    file = await disk.open(f"/log/{active}")
    await file.truncate(position + 200)
    await file.write_at(position, [bytes(following(FRAMES, 1)[0].raw)[:50]])
    report = await checked(disk)
    assert not report.is_damaged
    (problem,) = report.problems
    assert (problem.position, problem.index) == (position, 61)
    assert "torn" in problem.text
    assert report.last_index == 60
    assert len(await dumped(disk)) == 60


async def test_footers_and_indexes() -> None:
    """A footer that is damaged or of other frames is damage, a sparse index never."""
    disk = await written()
    first, second, *_ = await logs(disk)
    content = disk.content(f"/log/{first}")
    disk.flip_bit(f"/log/{first}", len(content) - 40)
    disk.delete(f"/log/{second.replace('.log', '.index')}")
    disk.flip_bit(f"/log/{first.replace('.log', '.index')}", 50)
    report = await checked(disk)
    assert [(problem.path, problem.is_damage) for problem in report.problems] == [
        (f"/log/{first}", True),
        (f"/log/{first}", True),
        (f"/log/{second.replace('.log', '.index')}", False),
    ]
    assert "without its footer" in report.problems[1].text
    assert report.entries == 60
    disk = await written()
    disk.flip_bit(f"/log/{first.replace('.log', '.index')}", 50)
    report = await checked(disk)
    assert [problem.is_damage for problem in report.problems] == [False]


async def test_missing_segments_and_foreign_ones() -> None:
    """Gaps are named with their entries; a segment of another place does not follow."""
    disk = await written()
    _, second, third, *_ = await logs(disk)
    disk.delete(f"/log/{second}")
    report = await checked(disk)
    assert report.is_damaged
    (problem,) = [problem for problem in report.problems if problem.is_damage]
    assert problem.path == f"/log/{second}"
    assert f"entries {int(second[:20])}..{int(third[:20]) - 1} are missing" in problem.text
    disk = await written()
    disk.put(f"/log/{second}", disk.content(f"/log/{third}"))
    report = await checked(disk)
    assert any(problem.path == f"/log/{second}" and problem.position == 0 for problem in report.problems)


async def test_offsets_and_terms_between_segments() -> None:
    """Segments of different histories are told apart though each is whole."""
    disk = SimDisk(random.Random(0))
    disk.put(f"/log/{segment_name(1)}", b"".join(raw(FRAMES[:5])))
    wrong = make_frames(3, first=6, term=1, offset=FRAMES[4].end_offset + 7)
    disk.put(f"/log/{segment_name(6)}", b"".join(raw(wrong)))
    texts = [problem.text for problem in (await checked(disk)).problems]
    assert any("without its footer" in text for text in texts)
    assert any(f"base offset {wrong[0].base_offset} where {FRAMES[4].end_offset} belongs" in text for text in texts)
    assert any("term 1 after term 2" in text for text in texts)


async def test_unreadable_files() -> None:
    """EIO is a problem of that file; the others are verified."""
    disk = await written()
    first, *_ = await logs(disk)
    disk.faults.append(Fault(operation=Operation.READ, path_part=first))
    report = await checked(disk)
    assert report.problems[0].path == f"/log/{first}"
    assert report.segments[1].entries > 0
    assert report.last_index == 60


async def test_a_log_that_begins_later() -> None:
    """The base is taken into account, and a damaged one is a problem."""
    disk = await written()
    first, second, *_ = await logs(disk)
    base = FRAMES[int(second[:20]) - 2]
    disk.delete(f"/log/{first}")
    assert (await checked(disk)).is_damaged
    disk.put("/log/base", encode_base(LogBase(index=base.index, term=base.term, offset=base.end_offset)))
    report = await checked(disk)
    assert not report.is_damaged
    assert report.base.index == base.index
    disk.flip_bit("/log/base", 18)
    assert (await checked(disk)).is_damaged


async def test_verification_agrees_with_opening() -> None:
    """After crashes at drawn places: never damage, and the entries that are then found."""
    for seed in range(40):
        disk = SimDisk(random.Random(seed))
        disk.cut_power_after(20 + seed * 3)
        try:
            async with open_segmented_log(disk, "/log", SETTINGS) as log:
                for start in range(0, 60, 3):
                    await log.append(FRAMES[start : start + 3])
        except DiskCrashed:
            pass
        disk = disk.crash(random.Random(seed).choice(list(CrashMode)))
        report = await checked(disk)
        assert not report.is_damaged, report.problems
        async with open_segmented_log(disk, "/log", SETTINGS) as log:
            assert (log.last_index, log.log_end_offset) == (report.last_index, report.end_offset)
        assert (await checked(disk)).problems == () or all(
            problem.path.endswith(".index") for problem in (await checked(disk)).problems
        )
