"""Offline looks at the directory of a replica: `trio-eventlog log verify` and `log dump`. Nothing is changed.

Each segment is read whole into memory (64 MiB by default), one at a time, and every frame is checked. After a damaged place the
search goes on at the next whole frame, so that the report shows how far the damage reaches.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import zip_longest

import attrs
import trio

from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.entry import EntryFrame, EntryKind, decode_entry, find_whole_frames
from trio_eventlog.codec.hard_state import FILE_BYTES as HARD_STATE_BYTES
from trio_eventlog.codec.hard_state import beyond_bounds
from trio_eventlog.codec.hard_state import decode_file as decode_hard_state
from trio_eventlog.codec.lives import Extent
from trio_eventlog.codec.segment import LogBase, SegmentFooter
from trio_eventlog.codec.stored_batch import entry_batch
from trio_eventlog.errors import CodecError, DamagedData, UnknownBatchFormat
from trio_eventlog.raft.ready import HardState
from trio_eventlog.storage.data_directory import DEPARTED_FILE, DEPARTING_FILE, HARD_STATE_FILE, LOG_DIRECTORY
from trio_eventlog.storage.disk import Disk, join_path, open_present, read_whole
from trio_eventlog.storage.installing import INSTALLING_FILE
from trio_eventlog.storage.log_files import read_sparse_index
from trio_eventlog.storage.log_recovery import read_base, segment_base_indexes
from trio_eventlog.storage.losses import Held, find_loss
from trio_eventlog.storage.segment import (
    INDEX_SUFFIX,
    SCAN_BYTES,
    SEGMENT_SUFFIX,
    SegmentContents,
    check_follows,
    judge_tail,
    read_footer,
    segment_name,
)

_FRAMES_PER_CHECKPOINT = 1000
NOTICED_BYTES_MAX = 1024


@attrs.frozen(slots=True, kw_only=True)
class Problem:
    """Something that is not as it was written.

    Attributes:
        path: of the file.
        position: byte in it where the problem begins.
        index: the entry that belongs there.
        text: what is wrong.
        is_damage: False for what opening the log repairs: a torn tail, a sparse index that does not fit.
    """

    path: str
    position: int
    index: int
    text: str
    is_damage: bool = True


@attrs.frozen(slots=True, kw_only=True)
class SegmentReport:
    """One segment file. The ranges are those of its whole frames; `last_index < base_index` when there are none."""

    path: str
    base_index: int
    last_index: int
    end_offset: int
    entries: int
    records: int
    frames_bytes: int
    file_bytes: int
    is_sealed: bool


@attrs.frozen(slots=True, kw_only=True)
class LogReport:
    """What `verify_log` found.

    Attributes:
        base: the entry before the first one held.
        last_index, last_term: of the last whole frame; those of `base` when there is none.
        end_offset: one past the last record's offset.
        entries: number of whole frames.
        torn_bytes: of a write at the end that was never acknowledged; 0 when there is none.
        segments, problems: in the order of the log.
    """

    base: LogBase
    last_index: int
    last_term: int
    end_offset: int
    entries: int
    torn_bytes: int
    segments: tuple[SegmentReport, ...]
    problems: tuple[Problem, ...]

    @property
    def is_damaged(self) -> bool:
        """True when something is wrong that opening the log does not mend."""
        return any(problem.is_damage for problem in self.problems)


@attrs.frozen(slots=True, kw_only=True)
class EntryPlace:
    """One entry of a dump: its frame, and where it stands."""

    path: str
    position: int
    frame: EntryFrame


async def verify_log(
    disk: Disk, directory: str, *, checks_batches: bool = False, on_segment: Callable[[SegmentReport], None] | None = None
) -> LogReport:
    """Check every frame, footer and sparse index of the log in `directory`.

    Args:
        checks_batches: look into data entries too, at the checksum that the producer of the batch gave it.
        on_segment: called after each segment, with what was found in it.

    Raises:
        FileNotFoundError: there is no log.
    """
    problems: list[Problem] = []
    base, segment_indexes, names = await _survey(disk, directory, problems)
    reports: list[SegmentReport] = []
    next_index, end_offset = base.index + 1, base.offset
    term, torn_bytes = base.term, 0
    for base_index in segment_indexes:
        path = join_path(directory, segment_name(base_index))
        if base_index != next_index:
            # Missing with a file, or with the damaged end of the segment before.
            is_end_damaged = bool(problems) and bool(reports) and problems[-1].path == reports[-1].path
            problems.append(
                Problem(
                    path=reports[-1].path if is_end_damaged else join_path(directory, segment_name(next_index)),
                    position=0,
                    index=next_index,
                    text=f"entries {next_index}..{base_index - 1} are missing" if base_index > next_index else "segments overlap",
                )
            )
        is_last = base_index == segment_indexes[-1]
        base_offset = end_offset if base_index == next_index else None
        checker = _Checker(disk, path, base_index, base_offset, term, is_last, checks_batches)
        report = await checker.run(problems, segment_name(base_index).removesuffix(SEGMENT_SUFFIX) + INDEX_SUFFIX in names)
        reports.append(report)
        if on_segment is not None:
            on_segment(report)
        next_index, end_offset, term = max(next_index, report.last_index + 1), report.end_offset, checker.term
        torn_bytes = checker.torn_bytes
    return LogReport(
        base=base,
        last_index=next_index - 1,
        last_term=term,
        end_offset=end_offset,
        entries=sum(report.entries for report in reports),
        torn_bytes=torn_bytes,
        segments=tuple(reports),
        problems=tuple(problems),
    )


async def verify_replica(
    disk: Disk, directory: str, noted: Extent | None = None, on_segment: Callable[[SegmentReport], None] | None = None
) -> LogReport:
    """`verify_log` of the log in a replica's directory, and what all files show together (`losses`).

    Args:
        noted: how far the replica went when the node last wrote that down.
        on_segment: as of `verify_log`.
    """
    names = await disk.list_directory(directory)
    if INSTALLING_FILE in names:
        text = "a snapshot of another node is being installed, and the log is neither the old one nor the new one: start the node"
        problem = Problem(path=join_path(directory, INSTALLING_FILE), position=0, index=0, text=text)
        return attrs.evolve(_NOTHING, problems=(problem,))
    if LOG_DIRECTORY in names:
        report = await verify_log(disk, join_path(directory, LOG_DIRECTORY), checks_batches=True, on_segment=on_segment)
    else:
        report = _NOTHING
    text = ""
    if DEPARTED_FILE in names:
        text = await _noticed_loss(disk, join_path(directory, DEPARTED_FILE))
    if not text and {DEPARTING_FILE, DEPARTED_FILE} & set(names):
        return report  # Its group has moved to other nodes: the hard state stays, and the log was removed on purpose.
    text = text or await _contradiction(disk, join_path(directory, HARD_STATE_FILE), HARD_STATE_FILE in names, report, noted)
    if not text:
        return report
    problem = Problem(path=join_path(directory, HARD_STATE_FILE), position=0, index=report.last_index + 1, text=text)
    return attrs.evolve(report, problems=(*report.problems, problem))


_NOTHING = LogReport(base=LogBase(), last_index=0, last_term=0, end_offset=0, entries=0, torn_bytes=0, segments=(), problems=())


async def _noticed_loss(disk: Disk, path: str) -> str:
    """What a start has found to be lost, before it wrote anything else."""
    try:
        return str(json.loads(await read_whole(disk, path, NOTICED_BYTES_MAX)).get("loss", ""))
    except (ValueError, AttributeError) as error:
        return f"it cannot be read: {error}"


async def _contradiction(disk: Disk, path: str, exists: bool, report: LogReport, noted: Extent | None) -> str:
    """What is wrong with the hard state beside this log; "" when nothing is."""
    state = HardState()
    try:
        if exists:
            state = decode_hard_state(await read_whole(disk, path, HARD_STATE_BYTES)).state
    except (CodecError, DamagedData) as error:
        return str(error)
    if beyond := beyond_bounds(state):
        return beyond
    held = Held(
        has_hard_state=exists,
        term=state.term,
        commit_index=state.commit,
        last_term=report.last_term,
        last_index=report.last_index,
    )
    loss = find_loss(held, noted)
    return loss.text if loss is not None else ""


@asynccontextmanager
async def dump_log(disk: Disk, directory: str, *, first_index: int = 1) -> AsyncIterator[AsyncIterator[EntryPlace | Problem]]:
    """The entries from `first_index` on, in order, damaged places among them as problems.

    Use as `async with dump_log(...) as places: async for place in places: ...`. Raises FileNotFoundError when there is no log.
    """
    problems: list[Problem] = []
    _, segment_indexes, _ = await _survey(disk, directory, problems)
    places = _dump(disk, directory, segment_indexes, first_index, problems)
    try:
        yield places
    finally:
        await places.aclose()


async def _dump(
    disk: Disk, directory: str, segment_indexes: list[int], first_index: int, problems: list[Problem]
) -> AsyncGenerator[EntryPlace | Problem, None]:
    for problem in problems:
        yield problem
    for base_index, following in zip_longest(segment_indexes, segment_indexes[1:]):
        if following is not None and following <= first_index:
            continue
        path = join_path(directory, segment_name(base_index))
        data, footer = await _read_segment(disk, path)
        end = footer.frames_bytes if footer is not None else len(data)
        for position, item in _walk(memoryview(data)[:end], base_index, 0):
            if isinstance(item, EntryFrame):
                if item.index >= first_index:
                    yield EntryPlace(path=path, position=position, frame=item)
            elif footer is None and following is None and not judge_tail(data[position:], position, item[0], 0).damaged:
                break  # the end, perhaps with a torn write after it
            else:
                yield Problem(path=path, position=position, index=item[0], text=item[1])


class _Checker:
    """Checks one segment.

    Attributes:
        term: of the last whole frame, when it is done.
        torn_bytes: behind it, of a write that was never acknowledged.
    """

    def __init__(
        self,
        disk: Disk,
        path: str,
        base_index: int,
        base_offset: int | None,
        term: int,
        is_last: bool,
        checks_batches: bool,
    ) -> None:
        self._disk = disk
        self._path = path
        self._base_index = base_index
        self._base_offset = base_offset
        self._is_last = is_last
        self._checks_batches = checks_batches
        self.term = term
        self.torn_bytes = 0

    async def run(self, problems: list[Problem], has_index: bool) -> SegmentReport:
        try:
            data, footer = await _read_segment(self._disk, self._path)
        except DamagedData as error:
            problems.append(Problem(path=self._path, position=error.position, index=self._base_index, text=str(error)))
            data, footer = bytearray(), None
        frames_bytes = footer.frames_bytes if footer is not None else len(data)
        contents: SegmentContents | None = None
        entries = records = 0
        last: EntryFrame | None = None
        before = len(problems)
        for position, item in _walk(memoryview(data)[:frames_bytes], self._base_index, self.term):
            if not isinstance(item, EntryFrame):
                if self._is_end(problems, data, position, item, footer, last):
                    break
                continue
            if contents is None:
                contents = SegmentContents(self._base_index, item.base_offset, 1 << 62)
                if item.index == self._base_index and self._base_offset not in (None, item.base_offset):
                    text = f"base offset {item.base_offset} where {self._base_offset} belongs"
                    problems.append(Problem(path=self._path, position=position, index=item.index, text=text))
                if item.term < self.term:
                    text = f"term {item.term} after term {self.term}"
                    problems.append(Problem(path=self._path, position=position, index=item.index, text=text))
            contents.add([item])
            self._check_batch(problems, position, item)
            last = item
            entries += 1
            records += item.record_count
            if entries % _FRAMES_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
        if last is not None:
            self.term = last.term
        if footer is None and not self._is_last:
            self._add(problems, len(data), last, "a sealed segment without its footer")
        if footer is not None and before == len(problems) and (contents is None or contents.footer() != footer):
            self._add(problems, footer.frames_bytes, last, "the footer does not agree with the frames")
        if footer is not None:
            await self._check_index(problems, footer, has_index)
        return SegmentReport(
            path=self._path,
            base_index=self._base_index,
            last_index=last.index if last is not None else self._base_index - 1,
            end_offset=last.end_offset if last is not None else self._base_offset or 0,
            entries=entries,
            records=records,
            file_bytes=len(data),
            frames_bytes=contents.frames_bytes if contents is not None else 0,
            is_sealed=footer is not None,
        )

    def _check_batch(self, problems: list[Problem], position: int, frame: EntryFrame) -> None:
        """The producer's own checksum, which consumers check."""
        if not self._checks_batches or frame.kind is not EntryKind.DATA:
            return
        try:
            batch = entry_batch(frame)
            if crc32c(batch.payload) == batch.crc32c:
                return
            text = "the batch does not have the checksum that its producer gave it"
        except UnknownBatchFormat:
            return  # the frame's own checksum is right, and more can only be said by the release that stored it
        except CodecError as error:
            text = str(error)
        problems.append(Problem(path=self._path, position=position, index=frame.index, text=text))

    def _is_end(
        self,
        problems: list[Problem],
        data: bytearray,
        position: int,
        item: tuple[int, str],
        footer: SegmentFooter | None,
        last: EntryFrame | None,
    ) -> bool:
        """Does the log end here, perhaps with a torn write? If not it is a problem."""
        index, text = item
        if footer is None and self._is_last:
            verdict = judge_tail(data[position:], position, index, last.term if last is not None else self.term)
            if not verdict.damaged:
                if verdict.torn_bytes:
                    self.torn_bytes = verdict.torn_bytes
                    text = f"a torn write of {verdict.torn_bytes} bytes, never acknowledged; it is cut when the log is opened"
                    problems.append(Problem(path=self._path, position=position, index=index, text=text, is_damage=False))
                return True
            text = f"{text}; {verdict.damaged}"
        problems.append(Problem(path=self._path, position=position, index=index, text=text))
        return False

    def _add(self, problems: list[Problem], position: int, last: EntryFrame | None, text: str) -> None:
        index = last.index + 1 if last is not None else self._base_index
        problems.append(Problem(path=self._path, position=position, index=index, text=text))

    async def _check_index(self, problems: list[Problem], footer: SegmentFooter, has_index: bool) -> None:
        path = self._path.removesuffix(SEGMENT_SUFFIX) + INDEX_SUFFIX
        text = "missing"
        if has_index:
            try:
                await read_sparse_index(self._disk, path, footer)
            except (CodecError, DamagedData) as error:
                text = str(error)
            else:
                return
        text = f"{text}; it is made again when it is needed"
        problems.append(Problem(path=path, position=0, index=footer.base_index, text=text, is_damage=False))


async def _survey(disk: Disk, directory: str, problems: list[Problem]) -> tuple[LogBase, list[int], frozenset[str]]:
    names = await disk.list_directory(directory)
    base = LogBase()
    try:
        base = await read_base(disk, directory, names)
    except DamagedData as error:
        problems.append(Problem(path=error.path, position=error.position, index=0, text=str(error)))
    return base, segment_base_indexes(names), frozenset(names)


async def _read_segment(disk: Disk, path: str) -> tuple[bytearray, SegmentFooter | None]:
    file = await open_present(disk, path)
    try:
        try:
            footer = await read_footer(file)
        except CodecError:
            footer = None
        data = bytearray()
        while part := await file.read_at(len(data), SCAN_BYTES):
            data += part
        return data, footer
    finally:
        with trio.CancelScope(shield=True):
            await file.close()


def _later_frame(view: memoryview, start: int, next_index: int, last_term: int) -> tuple[int, EntryFrame] | None:
    """The first readable frame of a later entry from `start` on, and where it stands. Those of a newer release are passed over."""
    for position in find_whole_frames(view, start):
        try:
            frame = decode_entry(view, position)
        except CodecError:
            continue
        if frame.index > next_index and frame.term >= last_term:
            return position, frame
    return None


def _walk(view: memoryview, next_index: int, term: int) -> Iterator[tuple[int, EntryFrame | tuple[int, str]]]:
    """(position, frame) for each whole frame; (position, (index that belongs there, why)) where one is not right."""
    position = 0
    before: EntryFrame | None = None
    while position < len(view):
        try:
            frame = decode_entry(view, position)
            if before is not None:
                check_follows(before, frame)
            elif frame.index != next_index:
                raise CodecError(f"entry {frame.index} where {next_index} belongs")
        except CodecError as error:
            yield position, (next_index, str(error))
            later = _later_frame(view, position + 1, next_index - 1, before.term if before is not None else term)
            if later is None:
                return
            position, frame = later
        yield position, frame
        before = frame
        next_index = frame.index + 1
        position += len(frame.raw)
