"""A replica's log as its core sees it."""

from trio_eventlog.raft import Compacted, EntryKind, OutOfLog, SnapshotMetadata
from trio_eventlog.storage.segmented_log import SegmentedLog
from trio_eventlog.storage.snapshots import SnapshotStore

_NO_BOUND = 1 << 62


class SegmentedLogView:
    """`raft.LogView` over a `SegmentedLog` and its snapshots: everything from memory."""

    def __init__(self, log: SegmentedLog, snapshots: SnapshotStore) -> None:
        self._log = log
        self._snapshots = snapshots

    @property
    def first_index(self) -> int:
        return self._log.first_index

    @property
    def last_index(self) -> int:
        return self._log.last_index

    def term(self, index: int) -> int:
        if index + 1 < self._log.first_index:
            raise Compacted(f"index {index} is below the log, which begins at {self._log.first_index}")
        if index > self._log.last_index:
            raise OutOfLog(f"index {index} is beyond the log, which ends at {self._log.last_index}")
        return self._log.term(index)

    def fit(self, first: int, last: int, max_bytes: int) -> tuple[int, int]:
        fitting = self._log.last_index_within(first, last, max_bytes)
        frames = self._log.cached(first, fitting, max_bytes)
        # Below the tail cache only the bound is known, and an upper bound is what the core wants.
        return fitting, sum(frame.size_bytes for frame in frames) if frames is not None else max(max_bytes, 1)

    def last_index_not_after(self, index: int, term: int) -> int:
        return self._log.last_index_not_after(index, term)

    def has_configuration(self, first: int, last: int) -> bool:
        # Asked of what is committed and not applied: the newest entries, except just after a start. Not knowing puts off a
        # campaign; were that the answer every time, a busy leader could not hand over (the next one always learns of a commit).
        frames = self._log.cached(first, last, _NO_BOUND)
        if frames is None or frames[-1].index < last:
            return True
        return any(frame.kind is EntryKind.CONFIGURATION for frame in frames)

    def snapshot(self) -> SnapshotMetadata | None:
        return self._snapshots.newest
