"""The newest frames of a log, in memory: what followers and tailing consumers ask for nearly always.

Frames may be staged before they are durable, so that they go out to the followers while the disk works. Those are pinned: only
durable frames are dropped to make room, the oldest first. Every method is plain and quick.

What is held is the log as it was staged last. The disk may be at a write that was staged earlier and is replaced by now, so a
finished write makes durable those of its very frames that are still held, and no others at their indexes.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from trio_eventlog.codec.entry import EntryFrame

FRAME_OVERHEAD_BYTES = 900
"""What a frame in memory takes beside its bytes, at most: the values of its header, the view of its bytes and what holds them. A
cache of small frames takes many times the bytes of its frames."""


class TailCache:
    """A dense run of frames that ends at the newest one.

    Invariants: frames are dense in index; `memory_bytes <= max_bytes` unless pinned frames alone need more.

    A frame may be a view into a larger buffer (what a peer sent in one piece); the buffer lives as long as its last frame.
    """

    def __init__(self, max_bytes: int, persisted_index: int = 0) -> None:
        self.max_bytes = max_bytes
        self._frames: list[EntryFrame] = []
        # _ends[i] is the sum of sizes of everything ever staged up to and including _frames[i]; differences are sizes of runs.
        self._ends: list[int] = []
        self._head = 0  # frames before it are dropped; the lists are compacted now and then, not at each drop
        self._persisted_index = persisted_index

    @property
    def persisted_index(self) -> int:
        """Frames held up to this index are durable."""
        return self._persisted_index

    @property
    def holds_staged(self) -> bool:
        """Whether frames are held that are not durable."""
        return self.end_index > self._persisted_index + 1

    @property
    def first_index(self) -> int:
        """Index of the oldest frame held; `end_index` when there is none."""
        return self._frames[self._head].index if self._head < len(self._frames) else self._persisted_index + 1

    @property
    def end_index(self) -> int:
        """One past the index of the newest frame held."""
        return self._frames[-1].index + 1 if self._head < len(self._frames) else self._persisted_index + 1

    @property
    def size_bytes(self) -> int:
        if self._head == len(self._frames):
            return 0
        return self._ends[-1] - self._ends[self._head] + self._frames[self._head].size_bytes

    @property
    def memory_bytes(self) -> int:
        """About what the frames held take in memory."""
        return self.size_bytes + FRAME_OVERHEAD_BYTES * (len(self._frames) - self._head)

    def stage(self, frames: Sequence[EntryFrame]) -> None:
        """Hold `frames`, dense among themselves, pinned until `mark_persisted`. Frames held from the first one's index on are
        replaced; when `frames` do not follow on what is held, they replace all of it."""
        if not frames:
            return
        first = frames[0].index
        if first < self.end_index:
            self.truncate(first)
        if first != self.end_index:
            self.clear()
        end = self._ends[-1] if self._ends else 0
        for frame in frames:
            end += len(frame.raw)
            self._ends.append(end)
        self._frames.extend(frames)
        self._evict()

    def mark_persisted(self, frames: Sequence[EntryFrame]) -> None:
        """These frames (dense, not empty, staged before) are durable with all before them, and may be dropped when room is needed.

        Only frames that are held themselves count. Others at the same indexes have replaced them, and wait for their own write.
        """
        held = len(frames)
        if not self._is_held(frames[-1]):
            # A suffix was replaced: what is left of these frames is a prefix.
            held = bisect_left(frames, True, key=lambda frame: not self._is_held(frame))
        if held:
            self._persisted_index = frames[held - 1].index
            self._evict()

    def _is_held(self, frame: EntryFrame) -> bool:
        """Is this very frame the one held at its index?"""
        if self._head == len(self._frames):
            return False
        position = frame.index - self._frames[self._head].index + self._head
        return self._head <= position < len(self._frames) and self._frames[position] is frame

    def truncate(self, index: int) -> None:
        """Remove the frames from `index` on."""
        self._persisted_index = min(self._persisted_index, index - 1)
        if self._head == len(self._frames):
            return
        keep = max(index - self._frames[self._head].index, 0)
        del self._frames[self._head + keep :]
        del self._ends[self._head + keep :]
        if not keep:
            self.clear()

    def clear(self) -> None:
        self._frames.clear()
        self._ends.clear()
        self._head = 0

    def get(self, first: int, last: int, max_bytes: int) -> list[EntryFrame] | None:
        """The frames first..last, cut so that they fit `max_bytes`, but at least one; None when `first` is not held."""
        if self._head == len(self._frames):
            return None
        start = first - self._frames[self._head].index
        if start < 0:
            return None
        start += self._head
        end = min(start + last - first + 1, len(self._frames))
        if start >= end:
            return None
        before = self._ends[start] - len(self._frames[start].raw)
        fitting = bisect_right(self._ends, before + max_bytes, start, end)
        return self._frames[start : max(fitting, start + 1)]

    def last_index_within(self, first: int, last: int, max_bytes: int) -> int | None:
        """The largest index such that first..it fit `max_bytes`, at least `first`; None when `first` is not held."""
        if self._head == len(self._frames):
            return None
        base = self._frames[self._head].index
        start = first - base
        if start < 0:
            return None
        start += self._head
        end = min(start + last - first + 1, len(self._frames))
        if start >= end:
            return None
        before = self._ends[start] - len(self._frames[start].raw)
        fitting = bisect_right(self._ends, before + max_bytes, start, end)
        return max(first, first + fitting - start - 1)

    def find_offset(self, offset: int) -> int | None:
        """Index of the held frame that has the record at `offset`; None when no held frame has it."""
        frames = self._frames
        if self._head == len(frames) or offset < frames[self._head].base_offset or offset >= frames[-1].end_offset:
            return None
        low, high = self._head, len(frames)
        while high - low > 1:  # the last frame with base_offset <= offset
            middle = (low + high) // 2
            if frames[middle].base_offset <= offset:
                low = middle
            else:
                high = middle
        return frames[low].index

    def _evict(self) -> None:
        frames, ends = self._frames, self._ends
        if not frames:
            return
        head = self._head
        # Drop while what is dropped takes no more than this, plus one that straddles.
        excess = ends[-1] + FRAME_OVERHEAD_BYTES * len(frames) - self.max_bytes
        while (
            head < len(frames)
            and frames[head].index <= self._persisted_index
            and ends[head] - len(frames[head].raw) + FRAME_OVERHEAD_BYTES * head < excess
        ):
            head += 1
        if head == len(frames):
            self.clear()
        elif head > 64 and head > len(frames) // 2:
            del frames[:head]
            del ends[:head]
            self._head = 0
        else:
            # Dropped frames must not be kept alive by the list until the next compaction: a frame may be megabytes.
            for position in range(self._head, head):
                frames[position] = _DROPPED
            self._head = head


_DROPPED = EntryFrame(0, 0, 2, 0, 0, 0, 0, b"")  # type: ignore[arg-type]
