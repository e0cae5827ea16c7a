"""From committed entries to the machine, in order, and to those who wait for them.

What is in memory, is not much and needs no disk is applied in the driver's own task. The rest is applied by a task of its own.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable

import attrs
import trio

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.errors import EventLogError, NewerRelease, NotLeader, ResourceShortage
from trio_eventlog.node.appliers import Applier
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.leadership import CoreView
from trio_eventlog.node.proposing import Proposing
from trio_eventlog.node.watermark import Watermark
from trio_eventlog.raft import ConfigurationChange, EntryKind, NewerLayout, ProtocolError, decode_change
from trio_eventlog.storage.segmented_log import SegmentedLog

logger = logging.getLogger(__name__)

_NO_BOUND = 1 << 62


@attrs.frozen(slots=True)
class Captured:
    """The machine as it stood after the entry at `index`; `encode` gives its bytes, see `Applier.snapshot`."""

    index: int
    encode: Callable[[], bytes]


class Applying:
    """Owns the machine's position, and the entries that it has to apply next. `run` is a separate task.

    `take` and `take_notice` are called in the driver's task; waiting is for any task.

    Args:
        persist_commit: makes the commit index durable, at least as high as an index.
        confine: the core is to lead no more, for this reason; called in the task of `run`.
        wake: has the driver take a turn.
    """

    def __init__(
        self,
        core: CoreView,
        log: SegmentedLog,
        applier: Applier,
        proposing: Proposing,
        settings: DriverSettings,
        name: str,
        *,
        persist_commit: Callable[[int], Awaitable[None]],
        confine: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self._core = core
        self._log = log
        self._applier = applier
        self._proposing = proposing
        self._settings = settings
        self._name = name
        self._persist_commit = persist_commit
        self._confine = confine
        self._wake = wake
        self._waiting: deque[range] = deque()
        self._wanted = trio.Event()
        self._is_applying = False
        self._notices: deque[tuple[int, ConfigurationChange | None]] = deque()
        self._moved = Watermark(core.applied_index)
        self._boundary = 0
        """Where the machine is to be captured next; it is there already, or there is none, when this is not above `index`."""
        self._captured: Captured | None = None
        self._closed_by: EventLogError | None = None
        log.prefix.hide_below(applier.log_start_offset)
        self.index = core.applied_index
        """Of the last entry that the machine has taken."""
        self.count = 0
        """Number of entries applied since this was opened."""
        self.stopped_because = ""
        """Why nothing is applied any more; "" while it is."""

    async def wait_applied(self, index: int) -> None:
        """Until the machine has taken the entry at `index`. Raises the error of `close`."""
        await self._moved.wait_at_least(index)

    async def has_applied(self, index: int) -> bool:
        """Wait until the machine has taken the entry at `index`. False: it has stopped before. Raises the error of `close`."""
        try:
            await self.wait_applied(index)
        except EventLogError:
            if not self.stopped_because or self._closed_by is not None:
                raise
            return False
        return True

    def take(self, indexes: range) -> bool:
        """Committed entries. True: they are applied. False: they will be, behind what waits already; `take_notice` says when."""
        if not self._is_applying and not self._notices and len(indexes) <= self._settings.apply_at_once_max:
            frames = self._log.cached(indexes[0], indexes[-1], _NO_BOUND)
            if (
                frames is not None
                and frames[-1].index == indexes[-1]
                and all(frame.kind is EntryKind.DATA or frame.kind is EntryKind.NO_OP for frame in frames)
            ):
                for frame in frames:
                    self._apply(frame)
                return True
        self._is_applying = True
        self._waiting.append(indexes)
        self._wanted.set()
        return False

    def capture_at(self, index: int) -> None:
        """Have the machine captured when it stands after the entry at `index`, where the log's newest sealed segment ends. Replaces
        what was asked for before and has not come yet."""
        self._boundary = index
        if index == self.index:
            self._capture()

    def take_captured(self, applied_index: int) -> Captured | None:
        """What was captured last, once, if the core has applied the entry there: `applied_index` is the core's. A later capture is
        left for later: the core's configuration is not that of its entry yet."""
        captured = self._captured
        if captured is None or captured.index > applied_index:
            return None
        self._captured = None
        return captured

    @property
    def has_notices(self) -> bool:
        return bool(self._notices)

    def take_notice(self) -> tuple[int, ConfigurationChange | None]:
        """The index that the machine has got to, the oldest first, and the change of the configuration that stands there."""
        return self._notices.popleft()

    async def run(self) -> None:
        """Apply what `take` has put off, in order. Ends where that cannot go on."""
        while not self.stopped_because:
            while not self._waiting:
                self._wanted = trio.Event()
                await self._wanted.wait()
            indexes = self._waiting.popleft()
            first, last = indexes[0], indexes[-1]
            while first <= last:
                frames = self._log.cached(first, last, self._settings.apply_bytes_max)
                if frames is None:
                    frames = await self._read(first, last)
                for frame in frames:
                    if frame.kind is EntryKind.CONFIGURATION or frame.kind is EntryKind.CONTROL:
                        await self._persist_commit(frame.index)
                    try:
                        self._apply(frame)
                    except NewerRelease as error:
                        self._stop(frame.index, error)
                        return
                first = frames[-1].index + 1
                self._is_applying = bool(self._waiting) or first <= last
                self._notices.append((frames[-1].index, None))
                self._wake()
                if first <= last:
                    await trio.lowlevel.checkpoint()

    async def _read(self, first: int, last: int) -> list[EntryFrame]:
        """From the disk, as many as may be read at once, however long that takes."""
        while True:
            try:
                return await self._log.read(first, last, self._settings.apply_bytes_max)
            except ResourceShortage as error:
                logger.warning("%s: entries from %d on cannot be read just now: %s", self._name, first, error)
            await trio.sleep(self._settings.shortage_retry_seconds)

    def _stop(self, index: int, error: NewerRelease) -> None:
        """The rest of the log waits for an upgrade. The replica goes on storing and voting, and shows what it has applied."""
        self.stopped_because = f"entry {index} is of a newer release ({error}): upgrade this node"
        logger.error("%s: %s. Until then nothing behind it is applied here", self._name, self.stopped_because)
        self._notices.append((self.index, None))
        stopped = NotLeader(
            f"{self._name} is behind on this node for good: {self.stopped_because}; ask another one", self._core.leader
        )
        self._moved.close(stopped)
        self._confine(self.stopped_because)

    def _apply(self, frame: EntryFrame) -> None:
        change = self._change_in(frame) if frame.kind is EntryKind.CONFIGURATION else None
        result = self._applier.apply(frame)
        if frame.kind is EntryKind.CONTROL:
            self._log.prefix.hide_below(self._applier.log_start_offset)
        self.index = frame.index
        self._moved.advance(frame.index)
        self.count += 1
        if frame.kind is EntryKind.CONFIGURATION:
            self._notices.append((frame.index, change))
            self._wake()
        if frame.index == self._boundary:
            self._capture()
        self._proposing.resolve(frame, result)

    def _capture(self) -> None:
        self._captured = Captured(self.index, self._applier.snapshot())
        if self._is_applying:
            # The configuration is the driver's to know. When it gets here, it is that of this entry.
            self._notices.append((self.index, None))
            self._wake()

    def _change_in(self, frame: EntryFrame) -> ConfigurationChange | None:
        try:
            return decode_change(frame.payload)
        except NewerLayout as error:
            raise NewerRelease(str(error)) from error
        except ProtocolError as error:
            logger.error("%s: entry %d changes nothing, on every replica alike: %s", self._name, frame.index, error)
            return None

    def close(self, error: EventLogError) -> None:
        """The group is about to be closed, for this reason."""
        self._closed_by = error

    def end(self) -> None:
        """Fail the waiters, and later ones, with the error of `close`."""
        assert self._closed_by is not None
        self._moved.close(self._closed_by)
