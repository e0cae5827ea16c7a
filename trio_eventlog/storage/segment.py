"""One segment file: its contents, how it is scanned, and how a torn tail is distinguished from damage."""

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Sequence

import attrs

from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.entry import (
    HEADER,
    HEADER_BYTES,
    LENGTH_BYTES,
    EntryFrame,
    decode_entry,
    find_whole_frames,
    whole_frame_bytes,
)
from trio_eventlog.codec.segment import (
    FOOTER_MAGIC_BYTES,
    MARK,
    MARK_BYTES,
    MARK_MAGIC_BYTES,
    AppendMark,
    SegmentFooter,
    decode_footer,
    decode_mark,
    encode_mark,
    footer_bytes,
)
from trio_eventlog.codec.snapshot_file import SegmentRange
from trio_eventlog.codec.sparse_index import NO_TIMESTAMP_NS, SparseIndex
from trio_eventlog.errors import CodecError
from trio_eventlog.storage.disk import File
from trio_eventlog.storage.frame_block import damaged

SECTOR_BYTES = 512
"""The smallest piece a disk writes or loses."""

SCAN_BYTES = 1024 * 1024
"""Size of the reads of a scan."""

PACED_SCAN_BYTES = 64 * 1024
"""The same of one beside which others work: decoding what one read gives takes well below a millisecond."""

Paced = Callable[[int], Awaitable[None]]
"""Waits until the given number of bytes may be read."""

SEGMENT_SUFFIX = ".log"
INDEX_SUFFIX = ".index"

_FOOTER_GUESS_BYTES = 4096
_FRAME_HEAD_BYTES = 12  # length and checksum


def segment_name(base_index: int) -> str:
    """Name of the segment file whose first entry is `base_index`."""
    return f"{base_index:020d}{SEGMENT_SUFFIX}"


def parse_segment_name(name: str) -> int | None:
    """The base index, or None when it is no segment's name."""
    stem = name.removesuffix(SEGMENT_SUFFIX)
    return int(stem) if len(stem) == 20 and stem != name and stem.isascii() and stem.isdigit() else None


class TermRuns:
    """Terms of consecutive indexes as runs. Never touches a disk.

    Invariants: firsts rising, terms rising.
    """

    __slots__ = ("_firsts", "_terms")

    def __init__(self, base_index: int, base_term: int) -> None:
        """`base_term` is the term of `base_index`, the entry before the first one held."""
        self._firsts = [base_index]
        self._terms = [base_term]

    def add(self, first_index: int, term: int) -> None:
        """Entries from `first_index` on have `term`. No-op when the run before has it already."""
        if term != self._terms[-1]:
            self._firsts.append(first_index)
            self._terms.append(term)

    def truncate(self, index: int) -> None:
        """Remove the entries from `index` on."""
        keep = max(bisect_left(self._firsts, index), 1)
        del self._firsts[keep:]
        del self._terms[keep:]

    def remove_prefix(self, base_index: int) -> None:
        """Remove the entries before `base_index`, whose own term stays known."""
        run = bisect_right(self._firsts, base_index) - 1
        del self._firsts[:run]
        del self._terms[:run]
        self._firsts[0] = base_index

    def term(self, index: int) -> int:
        """Term of the entry at `index`, which the caller has checked to be held."""
        return self._terms[bisect_right(self._firsts, index) - 1]

    def last_index_not_after(self, index: int, term: int) -> int:
        """The largest index up to `index` whose term is at most `term`; the base index when there is none above it."""
        run = bisect_right(self._terms, term)
        if run == 0:
            return self._firsts[0]
        return index if run == len(self._terms) else min(index, self._firsts[run] - 1)


class SegmentContents:
    """What a segment holds, in memory: grown by appends and scans, or taken from a footer.

    Attributes:
        base_index: index of its first entry.
        next_index: one past its last entry; equal to `base_index` when it is empty.
        base_offset, end_offset: offsets of its records, half-open.
        frames_bytes: size of its frames, and so the position of the next one.
        max_timestamp_ns: the largest last timestamp of entries with records.
        frames_checksum: CRC-32C of the first 12 bytes of every frame.
        term_runs: (first index, term) of each run.
        sparse: None for a sealed segment whose sparse index is not loaded.
    """

    __slots__ = (
        "_interval_bytes",
        "_next_listed",
        "base_index",
        "base_offset",
        "end_offset",
        "frames_bytes",
        "frames_checksum",
        "max_timestamp_ns",
        "next_index",
        "sparse",
        "term_runs",
    )

    def __init__(self, base_index: int, base_offset: int, interval_bytes: int) -> None:
        self.base_index = self.next_index = base_index
        self.base_offset = self.end_offset = base_offset
        self.frames_bytes = 0
        self.max_timestamp_ns = NO_TIMESTAMP_NS
        self.frames_checksum = 0
        self.term_runs: list[tuple[int, int]] = []
        self.sparse: SparseIndex | None = SparseIndex()
        self._interval_bytes = interval_bytes
        self._next_listed = 0

    @classmethod
    def from_footer(cls, footer: SegmentFooter, interval_bytes: int) -> "SegmentContents":
        self = cls(footer.base_index, footer.base_offset, interval_bytes)
        self.next_index = footer.last_index + 1
        self.end_offset = footer.end_offset
        self.frames_bytes = footer.frames_bytes
        self.max_timestamp_ns = footer.max_timestamp_ns
        self.frames_checksum = footer.frames_checksum
        self.term_runs = list(footer.term_runs)
        self.sparse = None
        return self

    @property
    def last_index(self) -> int:
        return self.next_index - 1

    def footer(self) -> SegmentFooter:
        return SegmentFooter(
            base_index=self.base_index,
            last_index=self.last_index,
            base_offset=self.base_offset,
            end_offset=self.end_offset,
            frames_bytes=self.frames_bytes,
            max_timestamp_ns=self.max_timestamp_ns,
            frames_checksum=self.frames_checksum,
            term_runs=tuple(self.term_runs),
        )

    def check(self, frame: EntryFrame) -> None:
        """Raises CodecError when `frame` does not follow on what is here."""
        if frame.index != self.next_index:
            raise CodecError(f"entry {frame.index} where {self.next_index} belongs")
        if frame.base_offset != self.end_offset:
            raise CodecError(f"entry {frame.index}: base offset {frame.base_offset} where {self.end_offset} belongs")
        if self.term_runs and frame.term < self.term_runs[-1][1]:
            raise CodecError(f"entry {frame.index}: term {frame.term} after term {self.term_runs[-1][1]}")

    def add(self, frames: Sequence[EntryFrame]) -> None:
        """Take `frames`, checked to follow."""
        sparse = self.sparse
        assert sparse is not None
        position = self.frames_bytes
        next_listed = self._next_listed
        timestamp_ns = self.max_timestamp_ns
        term = self.term_runs[-1][1] if self.term_runs else -1
        heads: list[bytes | memoryview] = []
        for frame in frames:
            raw = frame.raw
            if position >= next_listed:
                self.frames_checksum = crc32c(b"".join(heads), self.frames_checksum)
                heads.clear()
                sparse.add(frame.index, frame.base_offset, position, timestamp_ns, self.frames_checksum)
                next_listed = position + self._interval_bytes
            heads.append(raw[:_FRAME_HEAD_BYTES])
            if frame.record_count and frame.last_timestamp_ns > timestamp_ns:
                timestamp_ns = frame.last_timestamp_ns
            if frame.term != term:
                term = frame.term
                self.term_runs.append((frame.index, term))
            position += len(raw)
        self.frames_checksum = crc32c(b"".join(heads), self.frames_checksum)
        self.frames_bytes = position
        self._next_listed = next_listed
        self.max_timestamp_ns = timestamp_ns
        self.next_index += len(frames)
        self.end_offset = frames[-1].base_offset + frames[-1].record_count

    def rewind(self, slot: int) -> int:
        """Remove everything from the entry listed in `slot` of the sparse index on. Returns the position at which the rest ends."""
        sparse = self.sparse
        assert sparse is not None
        self.next_index = sparse.indexes[slot]
        self.end_offset = sparse.base_offsets[slot]
        self.frames_bytes = self._next_listed = sparse.positions[slot]
        self.max_timestamp_ns = sparse.timestamps_ns[slot]
        self.frames_checksum = sparse.checksums[slot]
        self.term_runs = [run for run in self.term_runs if run[0] < self.next_index]
        sparse.truncate(slot)
        return self.frames_bytes


def range_of(segment: SegmentContents | SegmentFooter) -> SegmentRange:
    """A sealed segment, as manifests name it."""
    return SegmentRange(
        base_index=segment.base_index,
        last_index=segment.last_index,
        base_offset=segment.base_offset,
        end_offset=segment.end_offset,
        frames_bytes=segment.frames_bytes,
        frames_checksum=segment.frames_checksum,
    )


async def scan(file: File, contents: SegmentContents, end: int, paced: Paced | None = None) -> CodecError | None:
    """Add the frames of `file` from where `contents` ends up to `end`, all checked, until one is not whole and right.

    Returns why it stopped at `contents.frames_bytes`; None when that is `end`.

    Args:
        paced: awaited before each read, with its size; reads are smaller then.
    """
    read_bytes = SCAN_BYTES if paced is None else PACED_SCAN_BYTES
    wanted_bytes = read_bytes
    while contents.frames_bytes < end:
        position = contents.frames_bytes
        wanted_bytes = min(wanted_bytes, end - position)
        if paced is not None:
            await paced(wanted_bytes)
        data = await file.read_at(position, wanted_bytes)
        view = memoryview(data)
        wanted_bytes = read_bytes
        frames: list[EntryFrame] = []
        start = 0
        error: CodecError | None = None
        while start < len(view):
            try:
                frame = decode_entry(view, start)
                if frames:
                    check_follows(frames[-1], frame)
                else:
                    contents.check(frame)
            except CodecError as caught:
                error = caught
                break
            frames.append(frame)
            start += len(frame.raw)
        if frames:
            contents.add(frames)
        if error is None:
            continue
        whole_bytes = frame_bytes_at(view, start)
        if whole_bytes <= len(view) - start or position + start + whole_bytes > end:
            return CodecError(_at(error, position))
        if not frames:
            wanted_bytes = whole_bytes  # larger than one read: once more, all of it
    return None


async def check_frames(file: File, contents: SegmentContents, frames_bytes: int, paced: Paced | None = None) -> None:
    """Read the first `frames_bytes` bytes of a segment into the empty `contents`, every frame checked.

    Args:
        paced: awaited before each read, with its size.

    Raises:
        DamagedData: with the place of the first frame that is damaged.
    """
    problem = await scan(file, contents, frames_bytes, paced)
    if problem is not None:
        raise damaged(file.path, contents.frames_bytes, contents.next_index, str(problem)) from problem


def frame_bytes_at(view: memoryview, start: int) -> int:
    """How many bytes the frame that begins at `start` says it has; those of a header when not even that is there."""
    if len(view) - start < HEADER_BYTES:
        return HEADER_BYTES
    return LENGTH_BYTES + int.from_bytes(view[start : start + LENGTH_BYTES], "little")


def check_follows(before: EntryFrame, frame: EntryFrame) -> None:
    """Raises CodecError when `frame` is not the next one after `before`."""
    if frame.index != before.index + 1:
        raise CodecError(f"entry {frame.index} where {before.index + 1} belongs")
    if frame.base_offset != before.base_offset + before.record_count:
        raise CodecError(f"entry {frame.index}: base offset {frame.base_offset} where {before.end_offset} belongs")
    if frame.term < before.term:
        raise CodecError(f"entry {frame.index}: term {frame.term} after term {before.term}")


def _at(error: CodecError, position: int) -> str:
    return f"{error} (in the part from byte {position})" if position else str(error)


async def read_footer(file: File) -> SegmentFooter:
    """The footer at the end of the file. Raises CodecError when there is none, or when it is not right for the file."""
    size_bytes = file.size_bytes
    tail = await file.read_at(max(size_bytes - _FOOTER_GUESS_BYTES, 0), _FOOTER_GUESS_BYTES)
    length = footer_bytes(tail)
    if length > size_bytes:
        raise CodecError("segment footer: longer than the file")
    if length > len(tail):
        tail = await file.read_at(size_bytes - length, length)
    footer = decode_footer(memoryview(tail)[len(tail) - length :])
    if footer.frames_bytes + length != size_bytes:
        raise CodecError(f"segment footer: {footer.frames_bytes} bytes of frames do not fit a file of {size_bytes}")
    return footer


@attrs.frozen(slots=True, kw_only=True)
class TailVerdict:
    """What follows the last whole frame of the active segment.

    Attributes:
        damaged: why this is damage to entries that were acknowledged, or cannot be told from it; "" when it is not.
        torn_bytes: how many bytes have to be cut; 0 when there are only an append mark and zeros.
    """

    damaged: str = ""
    torn_bytes: int = 0


def judge_tail(tail: bytes | bytearray, position: int, next_index: int, last_term: int) -> TailVerdict:
    """Tell a torn write from damage. `tail` is everything from `position`, where the first frame that is not right begins, to
    the end of the file; `next_index` is the entry that belongs there.

    The facts it rests on:

    * one write is in flight at a time, and the next begins only when the one before is durable. So only the *last* write can
      be torn, and a torn write was never acknowledged;
    * each write ends with an append mark that says where it began. A mark after `position` whose write began after `position`
      proves that what stands at `position` was durable: damage;
    * a write goes over zeros (and the last mark): the file is cut before it is written again. A sector that did not make it to
      the medium is all zeros, or still holds (a part of) the last mark. A damaged frame without such a sector was not torn: damage.

    Limits: a frame of the last write that is damaged *and* has a whole sector of zeros in it looks torn.
    """
    content_bytes = len(tail.rstrip(b"\0"))
    has_mark = _has_own_mark(tail, position)
    if not content_bytes or (has_mark and content_bytes <= MARK_BYTES):
        is_intact = not content_bytes or _mark_at(tail, 0, position) is not None
        return TailVerdict() if is_intact else TailVerdict(torn_bytes=content_bytes)
    torn = TailVerdict(torn_bytes=content_bytes)
    later_mark = _last_mark(tail, position, content_bytes)
    if later_mark is not None and later_mark.start > position:
        return TailVerdict(damaged=f"a write that began at byte {later_mark.start} followed it, so it had been durable")
    if has_mark:
        return torn  # the write after the mark lost its first sector
    claimed_bytes = _claimed_bytes(tail, next_index)
    if whole_frame_bytes(tail):
        return TailVerdict(damaged="it is whole as it stands there, so it was not torn: does this release know what wrote it?")
    later_frame = find_frame(tail, claimed_bytes if 0 < claimed_bytes < len(tail) else 1, next_index, last_term)
    if tail.startswith(FOOTER_MAGIC_BYTES):
        # The segment was being sealed. A footer is written when all frames are durable, so nothing of them is in here.
        return torn if later_frame is None else TailVerdict(damaged="frames follow a footer")
    if later_mark is not None:
        end = later_mark.end - position
    elif later_frame is not None:
        end = later_frame
    elif content_bytes < max(HEADER_BYTES, claimed_bytes):
        return torn  # the file ends inside the frame, or only zeros follow from some place inside it on, the mark missing too
    else:
        end = content_bytes
    if _has_lost_sector(tail, position, end):
        return torn
    return TailVerdict(damaged="it is not torn: no sector of it is missing")


def _has_own_mark(tail: bytes | bytearray, position: int) -> bool:
    """Is there an append mark at the start of `tail`, perhaps with a flipped bit or its second half missing?"""
    if tail.startswith(MARK_MAGIC_BYTES):
        return True
    if len(tail) < MARK_BYTES:
        return MARK_MAGIC_BYTES.startswith(bytes(tail[:8]))
    _, checksum, _, _, end = MARK.unpack_from(tail)
    return bool(end == position and crc32c(memoryview(tail)[_FRAME_HEAD_BYTES:MARK_BYTES]) == checksum)


def _mark_at(tail: bytes | bytearray, start: int, position: int) -> AppendMark | None:
    try:
        mark = decode_mark(tail, start)
    except CodecError:
        return None
    return mark if mark.end == position + start else None


def _last_mark(tail: bytes | bytearray, position: int, content_bytes: int) -> AppendMark | None:
    """The append mark that ends the content of `tail`. One that anything but zeros follows is none: nothing is written behind a
    mark, but payloads may hold any bytes."""
    start = tail.rfind(MARK_MAGIC_BYTES, 1)
    return _mark_at(tail, start, position) if start > 0 and content_bytes <= start + MARK_BYTES else None


def _claimed_bytes(tail: bytes | bytearray, next_index: int) -> int:
    """Length of the frame at the start of `tail` by its own header, when that is the header of `next_index`; else 0."""
    if len(tail) < HEADER_BYTES:
        return 0
    length, _, _, _, _, _, index, *_ = HEADER.unpack_from(tail)
    return LENGTH_BYTES + int(length) if index == next_index and length >= HEADER_BYTES - LENGTH_BYTES else 0


def find_frame(tail: bytes | bytearray | memoryview, start: int, next_index: int, last_term: int) -> int | None:
    """Where in `tail`, from `start` on, the first whole frame of a later entry stands, or of a form that a later release writes."""
    for at in find_whole_frames(tail, start):
        try:
            frame = decode_entry(memoryview(tail), at)
        except CodecError:
            return at
        if frame.index > next_index and frame.term >= last_term:
            return at
    return None


def _has_lost_sector(tail: bytes | bytearray, position: int, end: int) -> bool:
    """Does a sector that overlaps the first `end` bytes of `tail` still hold, as far as it is in `tail`, what was there before?"""
    start = 0
    while start < end:
        stop = start + SECTOR_BYTES - (position + start) % SECTOR_BYTES
        if not any(tail[start:stop]) or (start < MARK_BYTES and _is_rest_of_mark(tail, position, start, stop)):
            return True
        start = stop
    return False


def _is_rest_of_mark(tail: bytes | bytearray, position: int, start: int, stop: int) -> bool:
    """Are the bytes start..stop of `tail` those of the mark that stood at `position`, and zeros?

    A mark may lie across two sectors. Its checksum and start are not known, the rest is.
    """
    if any(tail[MARK_BYTES:stop]):
        return False
    known = encode_mark(0, max(position, 1))
    return all(tail[at] == known[at] for at in range(start, min(stop, len(tail), MARK_BYTES)) if at not in _MARK_UNKNOWN)


_MARK_UNKNOWN = frozenset((*range(8, 12), *range(16, 24)))
