"""Groups that do not fill segments get snapshots as well, by their age and by what a start would have to read in all."""

from typing import cast

import attrs
import trio
from trio.testing import MockClock

from trio_eventlog.node.replica import Replica
from trio_eventlog.node.snapshotter import Snapshotter, SnapshotterSettings

SETTINGS = SnapshotterSettings(snapshot_bytes_min=100, snapshot_seconds=60.0, replay_bytes_max=1000, snapshot_check_seconds=5.0)


@attrs.define(eq=False)
class Group:
    """A replica as the snapshotter sees it."""

    group_id: int
    uncovered_bytes: int
    stopped_because: str = ""
    snapshot_saved_at: float = attrs.field(factory=trio.current_time)
    asked_at: list[float] = attrs.field(factory=list)

    def request_snapshot(self) -> None:
        self.asked_at.append(trio.current_time())
        self.uncovered_bytes = 0
        self.snapshot_saved_at = trio.current_time()


async def run(groups: list[Group], seconds: float, settings: SnapshotterSettings = SETTINGS) -> None:
    snapshotter = Snapshotter(lambda: [cast("Replica", group) for group in groups], settings)
    with trio.move_on_after(seconds):
        await snapshotter.run()


async def test_by_age(autojump_clock: MockClock) -> None:
    """When the newest snapshot is old and the log has grown by enough since; a byte less, and there is none, ever."""
    at, below, stopped = Group(1, 100), Group(2, 99), Group(3, 500, "is of a newer release")
    await run([at, below, stopped], 57.0)
    assert at.asked_at == []
    await run([at, below, stopped], 300.0)
    assert len(at.asked_at) == 1
    assert below.asked_at == stopped.asked_at == []


async def test_an_idle_group_gets_one_and_no_more(autojump_clock: MockClock) -> None:
    """Until something is written again."""
    group = Group(1, 200)
    await run([group], 1000.0)
    assert len(group.asked_at) == 1
    group.uncovered_bytes = 200
    await run([group], 100.0)
    assert len(group.asked_at) == 2


async def test_by_what_a_start_would_have_to_read(autojump_clock: MockClock) -> None:
    """At the bound nothing happens; a byte above, those with most are asked until half is left."""
    groups = [Group(number, size) for number, size in enumerate((150, 400, 250, 200), 1)]
    await run(groups, 6.0)
    assert not any(group.asked_at for group in groups)
    groups[0].uncovered_bytes += 1
    await run(groups, 6.0)
    assert [bool(group.asked_at) for group in groups] == [False, True, True, False]


async def test_a_group_that_is_old_does_not_count_twice(autojump_clock: MockClock) -> None:
    """It is asked by its age; the others are within the bound without it."""
    old, young = Group(1, 900, snapshot_saved_at=-100.0), Group(2, 500)
    await run([old, young], 6.0)
    assert (len(old.asked_at), len(young.asked_at)) == (1, 0)
