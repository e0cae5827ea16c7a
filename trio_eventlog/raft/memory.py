"""`MemoryLog`: a whole log in memory behind `LogView`, for tests, scripts and simulators."""

from collections.abc import Sequence

from trio_eventlog.raft.errors import Compacted, OutOfLog
from trio_eventlog.raft.messages import Entry, EntryKind, SnapshotMetadata


class MemoryLog:
    """A log beginning after a snapshot (index 0, term 0: at the beginning of time).

    `append` and `install` are what a disk would do with a `StorageAppend`.
    """

    def __init__(self, snapshot_index: int = 0, snapshot_term: int = 0) -> None:
        self.base_index = snapshot_index
        self.base_term = snapshot_term
        self.entries: list[Entry] = []
        self.sendable_snapshot: SnapshotMetadata | None = None

    @property
    def first_index(self) -> int:
        return self.base_index + 1

    @property
    def last_index(self) -> int:
        return self.base_index + len(self.entries)

    def term(self, index: int) -> int:
        if index == self.base_index:
            return self.base_term
        return self.entry(index).term

    def entry(self, index: int) -> Entry:
        """Raises Compacted or OutOfLog."""
        if index <= self.base_index:
            raise Compacted(f"index {index}: the log begins after {self.base_index}")
        if index > self.last_index:
            raise OutOfLog(f"index {index}: the log ends at {self.last_index}")
        return self.entries[index - self.base_index - 1]

    def fit(self, first: int, last: int, max_bytes: int) -> tuple[int, int]:
        size_bytes = self.entry(first).size_bytes
        index = first
        while index < last:
            total = size_bytes + self.entry(index + 1).size_bytes
            if total > max_bytes:
                break
            size_bytes = total
            index += 1
        return index, size_bytes

    def last_index_not_after(self, index: int, term: int) -> int:
        while index > self.base_index and self.term(index) > term:
            index -= 1
        return index

    def has_configuration(self, first: int, last: int) -> bool:
        return any(self.entry(index).kind is EntryKind.CONFIGURATION for index in range(first, last + 1))

    def snapshot(self) -> SnapshotMetadata | None:
        return self.sendable_snapshot

    def append(self, entries: Sequence[Entry]) -> None:
        """Put `entries` at their indexes; what stood there and after is gone."""
        if not entries:
            return
        first = entries[0].index
        if first <= self.base_index:
            raise Compacted(f"index {first}: the log begins after {self.base_index}")
        if first > self.last_index + 1:
            raise OutOfLog(f"index {first}: the log ends at {self.last_index}")
        del self.entries[first - self.base_index - 1 :]
        self.entries.extend(entries)

    def install(self, snapshot: SnapshotMetadata) -> None:
        """The log becomes empty, beginning after `snapshot`."""
        self.base_index = snapshot.index
        self.base_term = snapshot.term
        self.entries = []

    def compact(self, index: int) -> None:
        """Forget everything up to `index`, which becomes the point the log begins after."""
        term = self.term(index)
        del self.entries[: index - self.base_index]
        self.base_index = index
        self.base_term = term
