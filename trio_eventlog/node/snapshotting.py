"""When a group's snapshots are taken, and the writing of them.

A snapshot covers the log up to the end of a sealed segment, so that the records of all that it covers are in files which do not
change any more. When a segment is sealed, the machine has not gone beyond its end: what comes next is not durable yet. So the
driver, which looks at the log before it tells the core what was written, can still have the machine captured there.

A capture is a value, taken between two entries. A task of its own has it encoded and written, on the disk's side, while the machine
goes on. Few are written at a time, over all groups of a node.
"""

import logging
from collections.abc import Callable

import attrs
import trio

from trio_eventlog.codec.snapshot_file import Manifest, SnapshotFile
from trio_eventlog.errors import CodecError, DamagedData, EventLogError, NewerRelease
from trio_eventlog.node.applying import Applying
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.leadership import CoreView
from trio_eventlog.raft import SnapshotMetadata
from trio_eventlog.storage.disk import is_shortage
from trio_eventlog.storage.segmented_log import SegmentedLog
from trio_eventlog.storage.snapshots import SnapshotStore

logger = logging.getLogger(__name__)


@attrs.frozen(slots=True, kw_only=True)
class _Pending:
    """A snapshot that is to be written."""

    metadata: SnapshotMetadata
    manifest: Manifest
    encode_machine: Callable[[], bytes]

    def file(self) -> SnapshotFile:
        return SnapshotFile(metadata=self.metadata, manifest=self.manifest, machine=self.encode_machine())


class Snapshotting:
    """Owns which snapshot of the group is wanted, and which waits to be written.

    Called in the driver's task, but for `request`, `take` and what is plain to read.

    Args:
        start: starts a task that ends with the driver.
        seal: has the active segment sealed behind what waits to be written; `look_at_log` is called after that.
    """

    def __init__(
        self,
        core: CoreView,
        log: SegmentedLog,
        store: SnapshotStore,
        applying: Applying,
        settings: DriverSettings,
        name: str,
        start: Callable[..., None],
        seal: Callable[[], None],
    ) -> None:
        self._core = core
        self._log = log
        self._store = store
        self._applying = applying
        self._settings = settings
        self._name = name
        self._start = start
        self._seal = seal
        self._seen = -1
        """Where the newest sealed segment ended when the log was looked at last."""
        self._is_requested = False
        self._pending: _Pending | None = None
        self._is_working = False
        self._is_beginning_kept = False
        """The newest snapshot cannot be read: until there is another one, nothing is removed."""
        self._saved = trio.Event()
        """Set, and replaced, when a snapshot is durable."""
        self._closed_by: EventLogError | None = None
        self.saved_at = trio.current_time()
        """When the newest snapshot was written, or the group was opened, in Trio's time."""

    @property
    def newest(self) -> SnapshotMetadata | None:
        """The newest snapshot that is durable; None when there is none."""
        return self._store.newest

    @property
    def newest_index(self) -> int:
        """The last entry that it covers; 0 without one."""
        return self._store.newest_index

    @property
    def uncovered_bytes(self) -> int:
        """Size of the log that a start would have to apply, in segments that begin after the newest snapshot."""
        return self._log.frames_bytes_after(self._store.newest_index)

    def request(self) -> None:
        """Have the active segment sealed, if it holds anything, and a snapshot taken at its end."""
        self._is_requested = True
        self._seal()

    async def take(self, index: int) -> SnapshotMetadata:
        """A durable snapshot that covers the entry at `index`, which is applied here. For any task.

        Raises:
            ShuttingDown, NotLeader, TopicNotFound: the group is closed here.
        """
        while self._store.newest is None or self._store.newest.index < index:
            if self._closed_by is not None:
                raise self._closed_by
            # Asked for again: the segment's end may be replaced before it is committed, and a full disk puts off the sealing.
            self.request()
            with trio.move_on_after(self._settings.shortage_retry_seconds):
                await self._saved.wait()
        return self._store.newest

    def close(self, error: EventLogError) -> None:
        """The driver ends: tasks that wait in `take` get `error`."""
        self._closed_by = error
        self._saved.set()

    def look_at_log(self) -> None:
        """Something was written, and the core does not know of it yet: has a segment been sealed?"""
        boundary = self._log.sealed_last_index
        if boundary == self._seen and not self._is_requested:
            return
        self._seen = boundary
        covered = max(self._store.newest_index, self._pending.metadata.index if self._pending is not None else 0)
        has_grown = self._sealed_bytes(covered, boundary) >= self._settings.snapshot_bytes_min
        if boundary > covered and (self._is_requested or has_grown):
            self._applying.capture_at(boundary)
            self.take_captured()
        self._is_requested = False

    def _sealed_bytes(self, covered: int, boundary: int) -> int:
        """Size of the sealed segments that no snapshot covers."""
        return self._log.frames_bytes_after(covered) - self._log.frames_bytes_after(boundary)

    def take_captured(self) -> None:
        """The core has applied something: has the machine been captured there?"""
        captured = self._applying.take_captured(self._core.applied_index)
        if captured is None:
            return
        manifest = self._log.manifest(captured.index)
        if manifest is None:
            return  # the segment's end was replaced before it was committed
        metadata = SnapshotMetadata(
            index=captured.index, term=self._log.term(captured.index), configuration=self._core.configuration
        )
        self._pending = _Pending(metadata=metadata, manifest=manifest, encode_machine=captured.encode)
        self._begin_work()

    def look_at_start(self) -> None:
        """The machine has taken entries: has the log start moved beyond segments? Then they go, once a snapshot covers them."""
        log = self._log
        is_all_hidden = log.log_start_offset == log.log_end_offset > log.base.offset
        if log.prefix.last_index_hidden > max(self._store.newest_index, log.base.index) or (
            is_all_hidden and log.last_index > log.sealed_last_index
        ):
            self.request()
        self._begin_work()

    @property
    def _removable_index(self) -> int:
        """Up to this entry the log is of no use: nothing in it is readable, and a start does not need it."""
        return min(self._log.prefix.last_index_hidden, self._store.newest_index) if not self._is_beginning_kept else 0

    def _begin_work(self) -> None:
        if not self._is_working and (self._pending is not None or self._removable_index > self._log.base.index):
            self._is_working = True
            self._start(self._work)

    async def _work(self) -> None:
        """Write what waits, and remove what is of no use, until there is nothing of either."""
        while True:
            pending = self._pending
            try:
                if pending is not None:
                    await self._write(pending)
                elif self._removable_index > self._log.base.index:
                    await self._remove_prefix(self._removable_index)
                else:
                    break
            except EventLogError as error:
                if not is_shortage(error):
                    raise
                logger.warning("%s: a snapshot, or a removal of old segments, waits: %s", self._name, error)
                await trio.sleep(self._settings.shortage_retry_seconds)
        self._is_working = False

    async def _remove_prefix(self, last_index: int) -> None:
        try:
            async with self._store.slots:
                await self._store.forget_before(self._log.prefix.base_without(last_index))
        except (DamagedData, NewerRelease) as error:
            # A start looks for an older one then, or applies the log from its beginning.
            logger.error("%s: its beginning is kept, the newest snapshot is of no use: %s", self._name, error)
            self._is_beginning_kept = True
            return
        await self._log.prefix.remove(last_index)

    async def _write(self, pending: _Pending) -> None:
        async with self._store.slots:
            pending = self._pending or pending  # a newer one may have come while this waited
            try:
                await self._store.save(pending.file, self._log.base.index)
            except CodecError as error:
                logger.error("%s: no snapshot at entry %d: %s", self._name, pending.metadata.index, error)
            else:
                self.saved_at = trio.current_time()
                self._is_beginning_kept = False
                self._saved.set()
                self._saved = trio.Event()
        if self._pending is pending:
            self._pending = None
