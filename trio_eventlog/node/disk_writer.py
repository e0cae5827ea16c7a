"""What one group has written: its hard state and its log.

Whatever waits becomes one write: the hard state, then the entries, then one notice to the driver. What arrives during one fsync is
the next write: group commit needs no timer.

A shortage of descriptors, threads or room says nothing about the disk, and nothing has changed when one is met (the roll of a
segment needs a descriptor, preallocating room): the writer waits and appends again, for as long as it takes (docs/decisions/0031,
0044). A failed write or fsync
leaves `run`, and ends the node.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence

import attrs
import trio

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.errors import DiskFull, ResourceShortage
from trio_eventlog.measures import Histogram
from trio_eventlog.raft import AppendToken, EntryKind, HardState, Message, StorageAppend
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.segmented_log import SegmentedLog

logger = logging.getLogger(__name__)


@attrs.define(slots=True, eq=False)
class Write:
    """One write: the hard state first (an entry may not be durable under a term that is not), then frames.

    Attributes:
        token, responses: what the core learns, and what leaves, once this is durable.
        done: set then, if a caller waits for it.
        seals: the active segment is sealed behind it.
    """

    hard_state: HardState | None
    frames: list[EntryFrame]
    token: AppendToken | None
    responses: Sequence[Message]
    done: trio.Event | None = None
    seals: bool = False


class DiskWriter:
    """Owns the writes that wait, those that are done and not reported yet, and the files of the group. `run` is a separate task.

    Everything else is called in the driver's task, but for `persist_commit` and `seal`, which any task may call.

    Args:
        name: what log lines call the group.
        retry_seconds: see `DriverSettings.shortage_retry_seconds`.
        wake: has the driver take a turn.
        on_shortage: called after each attempt to append that met a shortage.
        on_disk_full: called when that was one of room.
    """

    def __init__(
        self,
        log: SegmentedLog,
        hard_state: HardStateFile,
        name: str,
        retry_seconds: float,
        wake: Callable[[], None],
        on_shortage: Callable[[], None],
        on_disk_full: Callable[[], None],
    ) -> None:
        self._log = log
        self._hard_state = hard_state
        self._name = name
        self._retry_seconds = retry_seconds
        self._wake = wake
        self._on_shortage = on_shortage
        self._on_disk_full = on_disk_full
        self._waiting: deque[Write] = deque()
        self._unfinished = 0
        """Number of writes that wait, or are at the disk."""
        self._wanted = trio.Event()
        self._written: deque[Write] = deque()
        self._term_and_vote = (hard_state.state.term, hard_state.state.vote)
        """As the core has decided last, whether they are durable yet or not."""
        self.shortage = ""
        """What is missing while an append waits for it; "" when none does."""
        self.writes_done = 0
        """Number of writes since this was opened: promises may have been given after each."""
        self.appends = 0
        self.appended_entries = 0
        self.appended_bytes = 0
        self.write_seconds = Histogram()
        """How long each write took, its fsync included."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be written, or to be reported."""
        return not self._unfinished and not self._written

    @property
    def has_written(self) -> bool:
        return bool(self._written)

    def take_written(self) -> Write:
        """The oldest write that is durable now and was not reported yet."""
        return self._written.popleft()

    def write_of(self, append: StorageAppend, frames: list[EntryFrame]) -> Write:
        """What has to be written of what the core wants durable; `frames` are its entries."""
        hard_state = append.hard_state
        if hard_state is not None:
            term_and_vote = (hard_state.term, hard_state.vote)
            if term_and_vote == self._term_and_vote and not append.sync_commit:
                # The commit index alone is hardly ever worth an fsync: forgetting it costs a round trip.
                hard_state = None
            self._term_and_vote = term_and_vote
        return Write(hard_state, frames, append.token, append.responses)

    def put(self, write: Write) -> None:
        """Have it written behind what waits. Its frames are staged already."""
        self._waiting.append(write)
        self._unfinished += 1
        self._wanted.set()

    async def persist_commit(self, index: int, state: HardState) -> None:
        """Make the commit index durable, at least as high as `index`, with term and vote of `state`.

        A node must never wake up in an older configuration than one it has acted in (docs/decisions/0007), and a restarted node
        opens its topics without waiting for a leader.
        """
        done = trio.Event()
        self.put(Write(attrs.evolve(state, commit=max(state.commit, index)), [], None, (), done))
        await done.wait()

    def seal(self) -> None:
        """Have the active segment sealed behind what waits. Not done when there is no room for its footer."""
        self.put(Write(None, [], None, (), seals=True))

    async def run(self) -> None:
        while True:
            while not self._waiting:
                self._wanted = trio.Event()
                await self._wanted.wait()
            batch, frames = self._gather()
            hard_state = next((write.hard_state for write in reversed(batch) if write.hard_state is not None), None)
            began = trio.current_time()
            await self._carry_out(hard_state, frames)
            self.write_seconds.observe(trio.current_time() - began)
            if batch[-1].seals:
                await self._seal()
            if frames:
                self.appended_entries += len(frames)
                self.appended_bytes += sum(frame.size_bytes for frame in frames)
            self.writes_done += 1
            self._written.extend(batch)
            self._unfinished -= len(batch)
            self._wake()

    def _gather(self) -> tuple[list[Write], list[EntryFrame]]:
        """What waits, as far as it can be one write, and its frames."""
        batch = [self._waiting.popleft()]
        frames = batch[0].frames
        while self._waiting and not batch[-1].seals:
            following = self._waiting[0].frames
            if frames and following and following[0].index != frames[-1].index + 1:
                break  # a conflicting suffix: first make durable what it replaces, then replace it
            batch.append(self._waiting.popleft())
            frames = frames + following if frames else following
        return batch, frames

    async def _carry_out(self, hard_state: HardState | None, frames: list[EntryFrame]) -> None:
        parts = deque(_parts(frames) if hard_state is not None else [frames])
        while parts:
            part = parts.popleft()
            if hard_state is not None:
                # These entries are not there yet, and what stands at their indexes may be entries that they replace. A commit
                # index that covers those would commit them, should a crash come in between.
                durable = part[0].index - 1 if part else self._log.last_index
                await self._hard_state.save(attrs.evolve(hard_state, commit=min(hard_state.commit, durable)))
            if part:
                await self._append(part, parts)
                self.appends += 1

    async def _seal(self) -> None:
        try:
            await self._log.seal()
        except (DiskFull, ResourceShortage) as error:
            # It is asked for again when it is still wanted.
            logger.warning("%s: the active segment cannot be sealed just now: %s", self._name, error)

    async def _append(self, frames: list[EntryFrame], behind: Sequence[list[EntryFrame]]) -> None:
        """Append, however often that takes. `behind`: what the same write appends after this."""
        while True:
            try:
                await self._log.append(frames)
                break
            except (DiskFull, ResourceShortage) as error:
                # Before anything else runs: the driver stages what comes next on top of what is staged.
                frames = self._stage_again(frames, behind)
                if not self.shortage:
                    logger.warning(
                        "%s: entries from %d on wait for what an append needs, and are not acknowledged here until then: %s",
                        self._name,
                        frames[0].index,
                        error,
                    )
                self.shortage = str(error)
                if isinstance(error, DiskFull):
                    self._on_disk_full()
            self._on_shortage()
            await trio.sleep(self._retry_seconds)
        if self.shortage:
            self.shortage = ""
            logger.info("%s: entries are appended again", self._name)

    def _stage_again(self, frames: list[EntryFrame], behind: Sequence[list[EntryFrame]]) -> list[EntryFrame]:
        """Stage all that is not on the disk, in the order in which it was: a failed append has dropped it. Returns what is left of
        `frames`: the first of them may be in the segment before the one that could not be made."""
        log = self._log
        left = [frame for frame in frames if frame.index > log.last_index or log.term(frame.index) != frame.term]
        assert left, "all of it is appended, and something was short"
        for run in (left, *behind, *(write.frames for write in self._waiting)):
            log.stage(run)
        return left


def _parts(frames: list[EntryFrame]) -> list[list[EntryFrame]]:
    """Each configuration change begins a part: it says that the change before it is committed, and so much of the commit index has
    to be durable before it is (`StorageAppend.sync_commit`). All in one part if there is none."""
    parts: list[list[EntryFrame]] = [[]]
    for frame in frames:
        if frame.kind is EntryKind.CONFIGURATION and parts[-1]:
            parts.append([])
        parts[-1].append(frame)
    return parts
