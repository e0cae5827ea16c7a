"""A replica's log as its core sees it."""

import random

import pytest

from trio_eventlog.codec.entry import EntryFrame, EntryKind, encode_entry
from trio_eventlog.node.log_view import SegmentedLogView
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.segmented_log import SegmentedLog, open_segmented_log
from trio_eventlog.storage.snapshots import Found, SnapshotStore
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import SimDisk


def frames_of(*kinds: EntryKind) -> list[EntryFrame]:
    return [
        encode_entry(kind, term=1, index=index, base_offset=0, payload=b"x" * 100 if kind is EntryKind.CONTROL else b"")
        for index, kind in enumerate(kinds, 1)
    ]


def view(log: SegmentedLog) -> SegmentedLogView:
    return SegmentedLogView(log, SnapshotStore(SimDisk(random.Random(1)), "g", Found()))


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(1, 2, False), (1, 3, True), (3, 3, True), (4, 4, False), (4, 5, True)],
)
async def test_configurations_are_found_where_they_are_and_nowhere_else(first: int, last: int, expected: bool) -> None:
    """A candidate that learns from a vote what is committed would give up its campaign for a configuration that is not there."""
    kinds = [EntryKind.NO_OP, EntryKind.CONTROL, EntryKind.CONFIGURATION, EntryKind.CONTROL, EntryKind.CONFIGURATION]
    async with open_segmented_log(SimDisk(random.Random(0)), "log", default(LogSettings)) as log:
        await log.append(frames_of(*kinds))
        assert view(log).has_configuration(first, last) is expected


async def test_what_is_not_in_memory_may_hold_a_configuration() -> None:
    """The disk is not asked: the core only puts off a campaign until the range is applied."""
    async with open_segmented_log(SimDisk(random.Random(0)), "log", default(LogSettings, tail_cache_bytes=0)) as log:
        await log.append(frames_of(*[EntryKind.CONTROL] * 3))
        assert log.cached(1, 3, 1 << 20) is None
        assert view(log).has_configuration(1, 3)
