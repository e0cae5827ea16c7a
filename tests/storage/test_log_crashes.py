"""The segmented log against a plain list, over crashes at any place: everything acknowledged is there, nothing is made up."""

import random

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from log_frames import following, raw

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.storage.log_contents import LogContents
from trio_eventlog.storage.log_files import LogFiles
from trio_eventlog.storage.log_recovery import recover_log
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.sealed_segments import SealedSegments
from trio_eventlog.storage.segmented_log import SegmentedLog, open_segmented_log
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, SimDisk

SETTINGS = default(LogSettings, segment_bytes=2500, preallocate_bytes=1024, index_interval_bytes=300, tail_cache_bytes=800)
ALL = 1 << 30


async def read_all(log: SegmentedLog) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < log.last_index:
        found += raw(await log.read(len(found) + 1, log.last_index, 1 << 20))
    return found


@attrs.define
class Model:
    """What must be found: all of `acknowledged`, or what an append that was under way may have made of it."""

    acknowledged: list[EntryFrame] = attrs.Factory(list)
    kept: int = 0
    under_way: list[EntryFrame] = attrs.Factory(list)

    def begin(self, kept: int, frames: list[EntryFrame]) -> None:
        self.kept, self.under_way = kept, frames

    def end(self) -> None:
        self.acknowledged = self.acknowledged[: self.kept] + self.under_way
        self.kept, self.under_way = len(self.acknowledged), []

    def allows(self, found: list[bytes]) -> bool:
        old = raw(self.acknowledged)
        new = old[: self.kept] + raw(self.under_way)
        return len(found) >= self.kept and (found == old[: len(found)] or found == new[: len(found)])

    def settle(self, found: list[bytes]) -> None:
        """What was found is the truth from now on."""
        old = self.acknowledged
        new = old[: self.kept] + self.under_way
        self.acknowledged = (old if raw(old[: len(found)]) == found else new)[: len(found)]
        self.kept, self.under_way = len(self.acknowledged), []


async def story(disk: SimDisk, model: Model, rng: random.Random, appends: int) -> None:
    """Appends, some of which replace a suffix, until the power is cut."""
    async with open_segmented_log(disk, "/log", SETTINGS, SealedSegments(2)) as log:
        found = await read_all(log)
        assert model.allows(found)
        model.settle(found)
        for _ in range(appends):
            count = len(model.acknowledged)
            kept = count if rng.random() < 0.7 else rng.randint(max(count - 40, 0), count)
            before = model.acknowledged[:kept]
            term = (before[-1].term if before else 0) + (kept < count or rng.random() < 0.1)
            frames = following(before, rng.randint(1, 9), term=max(term, 1), payload_bytes_max=rng.choice((50, 400, 1500)))
            model.begin(kept, frames)
            if rng.random() < 0.5:
                log.stage(frames)
            await log.append(frames)
            model.end()
            assert log.last_index == len(model.acknowledged)


@pytest.mark.parametrize("mode", CrashMode)
async def test_power_cut_at_every_operation(mode: CrashMode) -> None:
    """One story with rolls and replaced suffixes, cut at each of its operations in turn; then the next story, cut again."""
    operations = 0
    cut = True
    while cut:
        disk = SimDisk(random.Random(operations))
        model = Model()
        disk.cut_power_after(operations)
        try:
            await story(disk, model, random.Random(7), 12)
        except DiskCrashed:
            pass
        cut = not disk.has_power
        disk = disk.crash(mode)
        disk.cut_power_after(10 + operations % 50)
        try:
            await story(disk, model, random.Random(8), 5)
        except DiskCrashed:
            pass
        async with open_segmented_log(disk.crash(mode), "/log", SETTINGS, SealedSegments(2)) as log:
            assert model.allows(await read_all(log))
        operations += 1
    assert operations > 60


@pytest.mark.parametrize("seed", range(60))
async def test_many_crashes(seed: int) -> None:
    """Long lives: crash after crash at drawn places, in drawn ways, a kill without a crash among them."""
    rng = random.Random(seed)
    disk = SimDisk(rng)
    model = Model()
    for _ in range(12):
        disk.cut_power_after(rng.randint(1, 120))
        try:
            await story(disk, model, rng, rng.randint(1, 12))
        except DiskCrashed:
            pass
        disk = disk.crash(rng.choice(list(CrashMode)))
    async with open_segmented_log(disk, "/log", SETTINGS, SealedSegments(2)) as log:
        found = await read_all(log)
        assert model.allows(found)
        assert len(found) == len({bytes(frame) for frame in found})


@given(st.integers(0, 1 << 30))
@settings(max_examples=15)
async def test_drawn_lives(seed: int) -> None:
    """As above, with seeds that shrink."""
    await test_many_crashes(seed)


class LogMachine(RuleBasedStateMachine):
    """Rules in any order that Hypothesis finds telling. Each runs Trio for itself: the log has no task of its own."""

    @initialize(seed=st.integers(0, 1 << 20))
    def begin(self, seed: int) -> None:
        self.disk = SimDisk(random.Random(seed))
        self.model = Model()
        self.number = 0
        self.open()

    def open(self) -> None:
        # What open_segmented_log does; a generator of it would be finalized when this run of Trio ends.
        self.files, contents = LogFiles(self.disk, "/log", SETTINGS, SealedSegments(2)), LogContents()
        self.log = SegmentedLog(contents, self.files, trio.run(recover_log, self.disk, "/log", SETTINGS, contents))
        found = trio.run(read_all, self.log)
        assert self.model.allows(found)
        self.model.settle(found)

    def close(self) -> None:
        trio.run(self.files.close, self.log._contents.segments)

    @rule(count=st.integers(1, 12), payload_bytes_max=st.sampled_from((20, 300, 3000)), stage=st.booleans())
    def append(self, count: int, payload_bytes_max: int, stage: bool) -> None:
        self.replace(len(self.model.acknowledged), count, payload_bytes_max, stage, new_term=False)

    @rule(
        back=st.integers(0, 40),
        count=st.integers(1, 6),
        payload_bytes_max=st.sampled_from((20, 300)),
        stage=st.booleans(),
        new_term=st.booleans(),
    )
    def cut_back(self, back: int, count: int, payload_bytes_max: int, stage: bool, new_term: bool) -> None:
        self.replace(max(len(self.model.acknowledged) - back, 0), count, payload_bytes_max, stage, new_term)

    def replace(self, kept: int, count: int, payload_bytes_max: int, stage: bool, new_term: bool) -> None:
        self.number += 1
        before = self.model.acknowledged[:kept]
        term = (before[-1].term if before else 1) + new_term
        frames = following(before, count, term=term, payload_bytes_max=payload_bytes_max, seed=self.number)
        self.model.begin(kept, frames)
        if stage:
            self.log.stage(frames)
            assert self.log.cached(frames[0].index, frames[-1].index, ALL) == frames
        try:
            trio.run(self.log.append, frames)
        except DiskCrashed:
            assert not self.disk.has_power
            self.close()
            self.disk = self.disk.crash()
            self.open()
        else:
            self.model.end()

    @rule(operations=st.integers(0, 12))
    def cut_power_soon(self, operations: int) -> None:
        self.disk.cut_power_after(operations)

    @precondition(lambda self: self.disk.has_power and self.disk._operations_left is None)
    @rule()
    def reopen(self) -> None:
        self.close()
        self.open()

    @rule(mode=st.sampled_from(CrashMode))
    def crash(self, mode: CrashMode) -> None:
        old = self.disk
        self.disk = old.crash(mode)
        self.close()
        self.open()

    @precondition(lambda self: self.disk._operations_left is None and self.model.acknowledged)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        frames = self.model.acknowledged
        first = data.draw(st.integers(1, len(frames)))
        last = data.draw(st.integers(first, len(frames)))
        max_bytes = data.draw(st.sampled_from((0, 500, ALL)))
        got = trio.run(self.log.read, first, last, max_bytes)
        assert raw(got) == raw(frames[first - 1 : first - 1 + len(got)])
        assert len(got) == 1 or sum(frame.size_bytes for frame in got) <= max_bytes
        if frames[-1].end_offset:
            offset = data.draw(st.integers(0, frames[-1].end_offset - 1))
            index = trio.run(self.log.find_offset, offset)
            assert frames[index - 1].base_offset <= offset < frames[index - 1].end_offset

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "log"):
            return
        frames = self.model.acknowledged
        assert self.log.last_index == len(frames)
        assert self.log.log_end_offset == (frames[-1].end_offset if frames else 0)
        assert self.log.last_term == (frames[-1].term if frames else 0)
        assert self.log.size_bytes == sum(frame.size_bytes for frame in frames)
        assert [self.log.term(frame.index) for frame in frames] == [frame.term for frame in frames]

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.close()


LogMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25)
TestLogMachine = LogMachine.TestCase
