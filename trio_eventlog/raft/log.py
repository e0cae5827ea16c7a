"""The log as the core sees it: what the shell holds (`LogView`) and, above it, the tail that is not durable yet.

```
   first_index                stable_index | offset             last_index
       |  in the shell's log               |  in `Unstable`         |
       +-----------------------------------+------------------------+
                  applied <= applying <= commit                ^ may exceed the stable part
```
"""

from collections.abc import Sequence
from typing import Protocol

from trio_eventlog.raft.messages import Entry, EntryKind, SnapshotMetadata


class LogView(Protocol):
    """The durable log, lent by the shell. Everything answers from memory and at once.

    What it shows must change only by the appends a core handed out (each visible at the latest when `on_appended` is called for
    it) and by prefix truncation below the applied index.
    """

    @property
    def first_index(self) -> int:
        """First index held; 1 for a log from its beginning. One past the last index when it is empty."""
        ...

    @property
    def last_index(self) -> int:
        """Last index held; `first_index - 1` when it is empty."""
        ...

    def term(self, index: int) -> int:
        """Term of the entry at `index`, for `first_index - 1 <= index <= last_index`; 0 for index 0.

        The index before the first one is that of the snapshot the log begins with, and its term is known.

        Raises:
            Compacted: below that range.
            OutOfLog: above it.
        """
        ...

    def fit(self, first: int, last: int, max_bytes: int) -> tuple[int, int]:
        """How much of `first..last` (inclusive, all held) fits into `max_bytes`: the last index, and the bytes up to it.

        At least the first entry, however large. Sizes are those of `Entry.size_bytes`; a shell that knows only upper bounds for
        old entries may answer with those.
        """
        ...

    def last_index_not_after(self, index: int, term: int) -> int:
        """The largest held index up to `index` (itself held) whose term is at most `term`; `first_index - 1` if there is none.

        Terms never decrease along a log, so a shell with a run-length list of terms answers by bisection.
        """
        ...

    def has_configuration(self, first: int, last: int) -> bool:
        """Whether a CONFIGURATION entry may stand in `first..last` (inclusive, all held).

        True is the safe answer: the core only uses it to put off a campaign until that range is applied.
        """
        ...

    def snapshot(self) -> SnapshotMetadata | None:
        """The newest snapshot that can be sent; None when there is none just now.

        A follower ignores one from before the change that added it, and is sent it again until the shell has a newer one.
        """
        ...


class Unstable:
    """The tail handed in but not acknowledged by the disk, and a snapshot on its way there.

    Invariants: `entries[i].index == offset + i`; `offset <= offset_in_progress <= offset + len(entries)`; the part below
    `offset_in_progress` has been handed out in a `StorageAppend`.
    """

    __slots__ = ("entries", "offset", "offset_in_progress", "snapshot", "snapshot_in_progress")

    def __init__(self, offset: int) -> None:
        self.entries: list[Entry] = []
        self.offset = offset
        self.offset_in_progress = offset
        self.snapshot: SnapshotMetadata | None = None
        self.snapshot_in_progress = False

    def term(self, index: int) -> int | None:
        """Term at `index` if it is known here."""
        if index < self.offset:
            snapshot = self.snapshot
            return snapshot.term if snapshot is not None and snapshot.index == index else None
        position = index - self.offset
        return self.entries[position].term if position < len(self.entries) else None

    def append(self, entries: Sequence[Entry]) -> None:
        """Put `entries` in, from their first index on; what stood there and after is dropped."""
        first = entries[0].index
        end = self.offset + len(self.entries)
        if first == end:
            self.entries.extend(entries)
        elif first <= self.offset:
            # All of it is replaced, and perhaps a part of the stable log too, which the next append truncates.
            self.entries = list(entries)
            self.offset = self.offset_in_progress = first
        else:
            del self.entries[first - self.offset :]
            self.entries.extend(entries)
            self.offset_in_progress = min(self.offset_in_progress, first)

    def take(self) -> tuple[Entry, ...]:
        """What has not been handed to the disk yet; it counts as handed out from now on."""
        taken = tuple(self.entries[self.offset_in_progress - self.offset :])
        self.offset_in_progress = self.offset + len(self.entries)
        return taken

    def stable_to(self, index: int, term: int) -> bool:
        """The disk has everything up to entry (`term`, `index`). Ignored when that is no longer what stands here."""
        if index < self.offset or self.term(index) != term:
            return False
        del self.entries[: index + 1 - self.offset]
        self.offset = index + 1
        self.offset_in_progress = max(self.offset_in_progress, self.offset)
        return True

    def stable_snapshot_to(self, index: int) -> None:
        if self.snapshot is not None and self.snapshot.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    def restore(self, snapshot: SnapshotMetadata) -> None:
        self.entries = []
        self.offset = self.offset_in_progress = snapshot.index + 1
        self.snapshot = snapshot
        self.snapshot_in_progress = False


class RaftLog:
    """The whole log: `LogView` below, `Unstable` above, and how far it is committed and applied.

    Invariants: `applied <= applying <= committed <= last_index`.

    Attributes:
        committed: highest index known to be durable on a quorum.
        applying: highest index handed out to be applied.
        applied: highest index acknowledged as applied.
        last_index: of both parts. Kept up to date rather than computed, as everything asks for it.
    """

    __slots__ = (
        "_configurations",
        "_configurations_known_from",
        "_fit_answer",
        "_fit_asked",
        "_handed_out",
        "_handed_out_bytes",
        "_max_applying_bytes",
        "_paused",
        "_view",
        "applied",
        "applying",
        "committed",
        "last_index",
        "unstable",
    )

    def __init__(self, view: LogView, *, committed: int, applied: int, max_applying_bytes: int) -> None:
        self._view = view
        self.unstable = Unstable(view.last_index + 1)
        self.last_index = view.last_index
        self.committed = committed
        self.applying = self.applied = applied
        self._max_applying_bytes = max_applying_bytes
        self._handed_out: list[tuple[int, int]] = []
        self._handed_out_bytes = 0
        self._paused = False
        self._fit_asked = (0, 0, 0)
        self._fit_answer = (0, 0)
        self._configurations: list[int] = []
        """Indexes of CONFIGURATION entries above the applied index, as far as they were appended in this life."""
        self._configurations_known_from = view.last_index + 1

    @property
    def first_index(self) -> int:
        snapshot = self.unstable.snapshot
        return self._view.first_index if snapshot is None else snapshot.index + 1

    @property
    def last_term(self) -> int:
        term = self.term(self.last_index)
        assert term is not None, "the last entry always has a known term"
        return term

    @property
    def stable_index(self) -> int:
        """Highest index the disk has acknowledged."""
        return self.unstable.offset - 1 if self.unstable.snapshot is None else 0

    def term(self, index: int) -> int | None:
        """Term at `index`; None when it is compacted or not there yet."""
        unstable = self.unstable
        if index >= unstable.offset:
            position = index - unstable.offset
            return unstable.entries[position].term if position < len(unstable.entries) else None
        snapshot = unstable.snapshot
        if snapshot is not None:
            # The snapshot that is being written will replace the stable log below it.
            return snapshot.term if snapshot.index == index else None
        return self._view.term(index) if index + 1 >= self._view.first_index else None

    def matches(self, index: int, term: int) -> bool:
        return self.term(index) == term

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Whether a log ending in (`term`, `index`) holds at least as much as this one (paper, section 5.4.1)."""
        last_term = self.last_term
        return term > last_term or (term == last_term and index >= self.last_index)

    def append(self, entries: Sequence[Entry]) -> None:
        assert entries[0].index > self.committed, "a committed entry would be overwritten"
        self.unstable.append(entries)
        self.last_index = entries[-1].index
        self._fit_asked = (0, 0, 0)
        first = entries[0].index
        while self._configurations and self._configurations[-1] >= first:
            self._configurations.pop()
        for entry in entries:
            if entry.kind is EntryKind.CONFIGURATION:
                self._configurations.append(entry.index)
        self._configurations_known_from = min(self._configurations_known_from, first)

    def find_conflict(self, entries: Sequence[Entry]) -> int:
        """Position of the first of `entries` that this log does not hold with the same term; their number when it holds all."""
        for position, entry in enumerate(entries):
            if self.term(entry.index) != entry.term:
                return position
        return len(entries)

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """Largest index up to `index` whose term is at most `term`, and its term (0 when it is compacted).

        Logs can agree at most there, when the other one has `term` at `index`: it lets both sides skip whole terms.
        """
        while index > 0:
            own = self.term(index)
            if own is None:
                # Compacted (or beyond the end): nothing more to compare.
                return index, 0
            if own <= term:
                return index, own
            if index < self.unstable.offset and self._view.first_index <= index <= self._view.last_index:
                index = min(index - 1, self._view.last_index_not_after(index, term))
            else:
                index -= 1
        return 0, 0

    def fit(self, first: int, last: int, max_bytes: int) -> tuple[int, int]:
        """As `LogView.fit`, over both parts of the log."""
        # A leader asks the same for every follower that keeps up.
        asked = (first, last, max_bytes)
        if self._fit_asked != asked:
            self._fit_answer = self._fit(first, last, max_bytes)
            self._fit_asked = asked
        return self._fit_answer

    def _fit(self, first: int, last: int, max_bytes: int) -> tuple[int, int]:
        size_bytes = 0
        offset = self.unstable.offset
        if first < offset:
            stable_last = min(last, offset - 1)
            fitting, size_bytes = self._view.fit(first, stable_last, max_bytes)
            if fitting < stable_last or fitting == last:
                return fitting, size_bytes
            position, index = 0, stable_last
        else:
            position, index = first - offset, first - 1
        entries = self.unstable.entries
        while index < last:
            total = size_bytes + entries[position].size_bytes
            if total > max_bytes and index >= first:
                break
            size_bytes = total
            position += 1
            index += 1
        return index, size_bytes

    def has_configuration(self, first: int, last: int) -> bool:
        """Whether a CONFIGURATION entry may stand in `first..last`, all above the applied index.

        The shell is asked about what was in the log at the start only; the rest has passed through here.
        """
        known_from = self._configurations_known_from
        if first < known_from and self._view.has_configuration(first, min(last, known_from - 1)):
            return True
        return any(first <= index <= last for index in self._configurations)

    def snapshot(self) -> SnapshotMetadata | None:
        return self.unstable.snapshot or self._view.snapshot()

    def commit_to(self, index: int) -> None:
        """Never goes back."""
        if index > self.committed:
            assert index <= self.last_index, f"commit {index} is beyond the last index {self.last_index}"
            self.committed = index

    def restore(self, snapshot: SnapshotMetadata) -> None:
        self.committed = snapshot.index
        self.unstable.restore(snapshot)
        self.last_index = snapshot.index
        self._fit_asked = (0, 0, 0)
        self._configurations.clear()
        self._configurations_known_from = snapshot.index + 1

    # Applying.

    def appliable_index(self, allow_unstable: bool) -> int:
        """Highest index that may be applied: committed, and durable here unless the caller takes care of that."""
        return self.committed if allow_unstable else min(self.committed, self.unstable.offset - 1)

    def has_to_apply(self, allow_unstable: bool) -> bool:
        return not self._paused and self.unstable.snapshot is None and self.applying < self.appliable_index(allow_unstable)

    def take_to_apply(self, allow_unstable: bool) -> range:
        """The next page of committed entries; it counts as handed out. Empty while the pages handed out fill the limit."""
        first = self.applying + 1
        if not self.has_to_apply(allow_unstable):
            return range(first, first)
        appliable = self.appliable_index(allow_unstable)
        last, size_bytes = self.fit(first, appliable, self._max_applying_bytes - self._handed_out_bytes)
        self.applying = last
        self._handed_out.append((last, size_bytes))
        self._handed_out_bytes += size_bytes
        # Truncated by the limit means: the next entry does not fit either.
        self._paused = self._handed_out_bytes >= self._max_applying_bytes or last < appliable
        return range(first, last + 1)

    def applied_to(self, index: int) -> None:
        """Everything up to `index` is applied."""
        assert self.applied <= index <= self.committed, f"applied {index}, not in {self.applied}..{self.committed}"
        self.applied = index
        self.applying = max(self.applying, index)
        while self._handed_out and self._handed_out[0][0] <= index:
            self._handed_out_bytes -= self._handed_out.pop(0)[1]
        while self._configurations and self._configurations[0] <= index:
            self._configurations.pop(0)
        self._paused = self._handed_out_bytes >= self._max_applying_bytes
