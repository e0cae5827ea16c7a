"""What an open log holds, in memory. Never touches a disk: every method is plain and quick.

`LogAppender` and recovery change it, readers look at it. It changes only when the disk has what was appended, or before the disk
is touched (removal of a suffix), never across an await in between, so it is consistent whenever a task looks.
"""

from bisect import bisect_right

import attrs

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.segment import LogBase
from trio_eventlog.codec.snapshot_file import Manifest
from trio_eventlog.storage.disk import File
from trio_eventlog.storage.segment import INDEX_SUFFIX, SEGMENT_SUFFIX, SegmentContents, TermRuns, range_of


@attrs.define(slots=True, eq=False)
class OpenSegment:
    """A segment of an open log.

    Attributes:
        is_sealed: its footer is written and nothing is appended to it any more. Only the last segment of a log is not sealed.
        file: None while a sealed segment is closed.
        users: number of readers at work on `file`; it stays open while there are any.
        is_removed: its file was removed from the disk; the last user closes it.
    """

    path: str
    contents: SegmentContents
    is_sealed: bool
    file: File | None = None
    users: int = 0
    is_removed: bool = False

    @property
    def index_path(self) -> str:
        return self.path.removesuffix(SEGMENT_SUFFIX) + INDEX_SUFFIX

    async def close(self) -> None:
        """Close its file, if it is open. When a thread reads it, the file is closed when that thread is done."""
        file, self.file = self.file, None
        if file is not None:
            await file.close()


@attrs.frozen(slots=True)
class Cut:
    """Where a suffix is to be cut off.

    Attributes:
        segment: holds the first entry to go.
        slot: the last one of its sparse index at or before that entry.
        kept: the entries between that slot and the first one to go.
        end_offset: log end offset of what stays.
    """

    segment: OpenSegment
    slot: int
    kept: list[EntryFrame]
    end_offset: int


class LogContents:
    """Segments, terms and ends of an open log.

    Attributes:
        base: the entry before the first one held.
        segments: in the order of their indexes, without gaps. None of them is empty, except for the active one before its
            first write.
        terms: of the durable entries.
        last_index: of the last durable entry; `base.index` when there is none.
        hidden_below: no reader is to see offsets below this, though segments may hold them.
        removals: number of suffixes and prefixes removed since opening. A reader that waited compares it: when it has changed, what
            the reader looked at before may be gone.
    """

    __slots__ = ("_base_indexes", "base", "hidden_below", "last_index", "removals", "segments", "terms")

    def __init__(self) -> None:
        self.segments: list[OpenSegment] = []
        self._base_indexes: list[int] = []  # of `segments`, for bisection
        self.removals = 0
        self.hidden_below = 0
        self.begin_after(LogBase())

    def begin_after(self, base: LogBase) -> None:
        """Set the base of a log that is still empty."""
        self.base = base
        self.terms = TermRuns(base.index, base.term)
        self.last_index = base.index

    @property
    def first_index(self) -> int:
        return self.base.index + 1

    @property
    def start_offset(self) -> int:
        """The smallest offset that readers see."""
        return max(self.base.offset, self.hidden_below)

    @property
    def end_offset(self) -> int:
        """One past the offset of the last durable record."""
        return self.segments[-1].contents.end_offset if self.segments else self.base.offset

    @property
    def active(self) -> OpenSegment | None:
        """The segment that is appended to; None when the next append creates one."""
        return self.segments[-1] if self.segments and not self.segments[-1].is_sealed else None

    @property
    def sealed_last_index(self) -> int:
        """The last entry of the newest sealed segment; `base.index` when there is none."""
        active = self.active
        if active is not None:
            return active.contents.base_index - 1
        return self.segments[-1].contents.last_index if self.segments else self.base.index

    def manifest(self, last_index: int) -> Manifest | None:
        """The sealed segments up to the one that ends with `last_index`; None when none ends there."""
        if last_index == self.base.index:
            return Manifest(base=self.base, segments=())
        if not self.base.index < last_index <= self.sealed_last_index:
            return None
        end = bisect_right(self._base_indexes, last_index)
        if self.segments[end - 1].contents.last_index != last_index:
            return None
        return Manifest(base=self.base, segments=tuple(range_of(segment.contents) for segment in self.segments[:end]))

    def frames_bytes_after(self, index: int) -> int:
        """Size of the frames of all segments that begin after the entry at `index`."""
        size_bytes = 0
        for segment in reversed(self.segments):
            if segment.contents.base_index <= index:
                break
            size_bytes += segment.contents.frames_bytes
        return size_bytes

    def add_segment(self, segment: OpenSegment) -> None:
        self.segments.append(segment)
        self._base_indexes.append(segment.contents.base_index)

    def segment_of_index(self, index: int) -> OpenSegment:
        """The segment that holds the entry at `index`, which is one of those held."""
        return self.segments[bisect_right(self._base_indexes, index) - 1]

    def segment_of_offset(self, offset: int) -> OpenSegment:
        """The segment that holds the record at `offset`, which is one of those held."""
        return self.segments[bisect_right(self.segments, offset, key=_base_offset) - 1]

    def first_segment_reaching(self, timestamp_ns: int) -> OpenSegment | None:
        """The first segment with a record stamped at or after `timestamp_ns`; None when there is none."""
        for segment in self.segments:
            contents = segment.contents
            is_visible = contents.end_offset > self.hidden_below
            if is_visible and contents.max_timestamp_ns >= timestamp_ns and contents.next_index > contents.base_index:
                return segment
        return None

    def remove_suffix(self, first: int, cut: Cut) -> list[OpenSegment]:
        """Remove the entries from `first` on, at `cut`.

        Returns the segments that go as a whole, the newest first. When the first entry to go is not the first one of its segment,
        that segment stays with the entries before, and is the active one then.
        """
        self.removals += 1
        self.terms.truncate(first)
        self.last_index = first - 1
        removed: list[OpenSegment] = []
        while self.segments and self.segments[-1].contents.base_index >= first:
            removed.append(self.segments.pop())
            self._base_indexes.pop()
        if self.segments and self.segments[-1] is cut.segment:
            cut.segment.is_sealed = False
            cut.segment.contents.rewind(cut.slot)
            if cut.kept:
                cut.segment.contents.add(cut.kept)
        return removed

    def last_index_hidden(self) -> int:
        """See `LogPrefix.last_index_hidden`."""
        last_index = self.base.index
        # A log without records, the catalog's among them, is all before offset 0, and is wanted.
        for segment in self.segments if self.hidden_below else ():
            if not segment.is_sealed or segment.contents.end_offset > self.hidden_below:
                break
            last_index = segment.contents.last_index
        return last_index

    def retained_from(self, bytes_max: int, oldest_ns: int, end_offset: int) -> LogBase:
        """See `LogPrefix.retained_from`."""
        size_bytes = sum(segment.contents.frames_bytes for segment in self.segments) if bytes_max else 0
        start = self.base
        for segment in self.segments:
            contents = segment.contents
            size_bytes -= contents.frames_bytes
            is_surplus = bytes_max > 0 and size_bytes >= bytes_max
            is_old = oldest_ns > 0 and contents.max_timestamp_ns < oldest_ns
            if not (is_surplus or is_old) or contents.end_offset > end_offset or not contents.frames_bytes:
                break
            start = LogBase(index=contents.last_index, term=self.terms.term(contents.last_index), offset=contents.end_offset)
        return start

    def remove_prefix(self, base: LogBase) -> list[OpenSegment]:
        """Remove the segments up to the one that ends with `base` from the list. Returns them, the oldest first."""
        self.removals += 1
        end = bisect_right(self._base_indexes, base.index)
        removed = self.segments[:end]
        assert all(segment.is_sealed for segment in removed), "the active segment stays"
        del self.segments[:end]
        del self._base_indexes[:end]
        self.base = base
        self.terms.remove_prefix(base.index)
        return removed


def _base_offset(segment: OpenSegment) -> int:
    return segment.contents.base_offset
