"""A replica that is far behind fetches a snapshot, and the segments that its manifest names, and begins anew with them.

The SNAPSHOT message of a leader says only which snapshot that is. Until everything is here and checked, the replica goes on as it
is: it votes, and takes entries from its leader. Then it is closed, its log is replaced (`storage/installing`), and it is opened
again, which restores its machine as at every start. The message waits for it there, and the answer to it tells the leader where to
go on. So a snapshot is installed in no other way than a node starts.

One task for each group that catches up; few of them fetch at a time.
"""

import logging
import random
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from trio_eventlog.backoff import Backoff
from trio_eventlog.codec.catch_up import CatchUpReport, CatchUpState
from trio_eventlog.codec.partition_snapshot import decode_partition
from trio_eventlog.codec.snapshot_file import SnapshotFile
from trio_eventlog.errors import CodecError, EventLogError, NewerRelease
from trio_eventlog.ids import CATALOG_GROUP, GroupId, NodeId, format_id
from trio_eventlog.node.file_fetcher import FileFetcher
from trio_eventlog.node.inbox import Received
from trio_eventlog.node.transfer_settings import TransferSettings
from trio_eventlog.node.transfers import TransferFailed
from trio_eventlog.raft import Configuration, Message, SnapshotMetadata
from trio_eventlog.storage.data_directory import LOG_DIRECTORY, DataDirectory
from trio_eventlog.storage.disk import is_shortage, join_path
from trio_eventlog.storage.fetched_segments import remove_fetched_segments, segment_terms
from trio_eventlog.storage.installing import install
from trio_eventlog.storage.segmented_log import SegmentedLog

logger = logging.getLogger(__name__)

Reinstall = Callable[[GroupId, Callable[[SegmentedLog], Awaitable[None]], Received], Awaitable[bool]]
"""As `GroupOpener.reinstall`."""

SendReport = Callable[[NodeId, GroupId, CatchUpReport], object]
"""Gives a report to the link to a node, if that is up."""


@attrs.define(slots=True, eq=False)
class _CatchUp:
    """A group that catches up.

    Attributes:
        message: the newest that named this snapshot; who sent it gets the reports.
        received_bytes, total_bytes: of the frames that the manifest names; what the log held already counts as received.
        is_replaced: another snapshot has taken the place of this one.
    """

    group_id: GroupId
    name: str
    message: Message
    snapshot: SnapshotMetadata
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    received_bytes: int = 0
    total_bytes: int = 0
    is_replaced: bool = False

    def report(self, state: CatchUpState) -> CatchUpReport:
        return CatchUpReport(
            index=self.snapshot.index,
            term=self.snapshot.term,
            state=state,
            received_bytes=self.received_bytes,
            total_bytes=self.total_bytes,
        )


class CatchUps:
    """Owns which groups of this node catch up. `run` comes first; `offer` is called in the task of each group's driver.

    Args:
        sources: of the nodes of a configuration those that can be reached, in the order in which to ask them; given who leads.
    """

    def __init__(
        self,
        fetcher: FileFetcher,
        directory: DataDirectory,
        settings: TransferSettings,
        *,
        rng: random.Random,
        sources: Callable[[Configuration, NodeId], Sequence[NodeId]],
        reinstall: Reinstall,
        send_report: SendReport,
    ) -> None:
        self._fetcher = fetcher
        self._directory = directory
        self._settings = settings
        self._rng = rng
        self._sources = sources
        self._reinstall = reinstall
        self._send_report = send_report
        self._slots = trio.CapacityLimiter(settings.transfers_received_max)
        self._groups: dict[GroupId, _CatchUp] = {}
        self._nursery: trio.Nursery | None = None
        self.installed = 0
        """Number of snapshots installed since this was made."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The tasks of all groups, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def offer(self, group_id: GroupId, name: str, message: Message) -> None:
        """A leader says that a group should begin anew with a snapshot."""
        snapshot = message.snapshot
        assert snapshot is not None
        if self._nursery is None:
            return
        if group_id == CATALOG_GROUP:
            logger.error(
                "the catalog cannot begin anew with a snapshot: remove this node and start it with an empty data directory"
            )
            return
        present = self._groups.get(group_id)
        if present is not None:
            if (present.snapshot.index, present.snapshot.term) >= (snapshot.index, snapshot.term):
                # The leader asks again, or another one leads. What is being fetched is committed under any leader.
                present.message = attrs.evolve(message, snapshot=present.snapshot)
                self._send_report(message.sender, group_id, present.report(CatchUpState.UNDER_WAY))
                return
            present.is_replaced = True
            present.scope.cancel()
        catch_up = self._groups[group_id] = _CatchUp(group_id, name, message, snapshot)
        self._nursery.start_soon(self._run_one, catch_up)

    def progress(self, group_id: GroupId) -> CatchUpReport | None:
        """How far a group is that catches up; None: it does not."""
        catch_up = self._groups.get(group_id)
        return None if catch_up is None else catch_up.report(CatchUpState.UNDER_WAY)

    def stop(self, group_id: GroupId) -> None:
        """The group is to be closed for good."""
        catch_up = self._groups.get(group_id)
        if catch_up is not None:
            catch_up.is_replaced = True
            catch_up.scope.cancel()

    async def _run_one(self, catch_up: _CatchUp) -> None:
        logger.info(
            "%s: node %s says that a snapshot at entry %d is to be fetched",
            catch_up.name,
            format_id(catch_up.message.sender),
            catch_up.snapshot.index,
        )
        try:
            with catch_up.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._report_regularly, catch_up)
                    await self._fetch_and_install(catch_up)
                    nursery.cancel_scope.cancel()
        finally:
            if self._groups.get(catch_up.group_id) is catch_up:
                del self._groups[catch_up.group_id]

    async def _report_regularly(self, catch_up: _CatchUp) -> None:
        while True:
            self._send_report(catch_up.message.sender, catch_up.group_id, catch_up.report(CatchUpState.UNDER_WAY))
            await trio.sleep(self._settings.report_seconds)

    async def _fetch_and_install(self, catch_up: _CatchUp) -> None:
        """Until the replica has begun anew, or need not. A failure is reported after a pause: another snapshot follows."""
        why = ""
        backoff = Backoff(self._rng, self._settings.fetch_retry_seconds_min, self._settings.fetch_retry_seconds_max)
        while True:
            try:
                async with self._slots:
                    snapshot, data = await self._fetch(catch_up)
                    await self._install(catch_up, snapshot, data)
                return
            except (TransferFailed, CodecError, NewerRelease) as error:
                why = str(error)
                break
            except EventLogError as error:
                if not is_shortage(error):
                    raise
                logger.warning("%s: the snapshot at entry %d waits: %s", catch_up.name, catch_up.snapshot.index, error)
            await trio.sleep(backoff.next_seconds())
        logger.warning("%s: the snapshot at entry %d is of no use here: %s", catch_up.name, catch_up.snapshot.index, why)
        await trio.sleep(self._settings.fetch_retry_seconds_max)
        self._send_report(catch_up.message.sender, catch_up.group_id, catch_up.report(CatchUpState.FAILED))

    async def _fetch(self, catch_up: _CatchUp) -> tuple[SnapshotFile, bytes]:
        """Have everything here, checked and durable, that the snapshot needs."""
        group_id = catch_up.group_id

        def sources() -> Sequence[NodeId]:
            return self._sources(catch_up.snapshot.configuration, catch_up.message.sender)

        snapshot, data = await self._fetcher.fetch_snapshot(group_id, catch_up.snapshot, sources)
        # Before anything is replaced: a machine that cannot be restored would keep the replica from being opened.
        decode_partition(snapshot.machine)
        disk = self._directory.disk
        log = join_path(self._directory.group_path(group_id), LOG_DIRECTORY)
        wanted = [segment for segment in snapshot.manifest.segments if await segment_terms(disk, log, segment) is None]
        catch_up.total_bytes = snapshot.manifest.frames_bytes
        catch_up.received_bytes = catch_up.total_bytes - sum(segment.frames_bytes for segment in wanted)

        def count(size_bytes: int) -> None:
            catch_up.received_bytes += size_bytes

        await self._fetcher.fetch_segments(group_id, log, wanted, sources, count)
        return snapshot, data

    async def _install(self, catch_up: _CatchUp, snapshot: SnapshotFile, data: bytes) -> None:
        """Close the replica, replace its log, and have it opened again, unless it has got there by itself meanwhile."""
        group_id = catch_up.group_id
        disk = self._directory.disk
        problem: CodecError | None = None
        is_replaced = False

        async def replace(log: SegmentedLog) -> None:
            nonlocal problem, is_replaced
            # Only now that nothing is appended any more: what this replica has acknowledged behind the snapshot's entry, on top of
            # that very entry, may be committed.
            if _has_reached(log, catch_up.snapshot):
                await remove_fetched_segments(disk, join_path(self._directory.group_path(group_id), LOG_DIRECTORY))
                return
            try:
                await install(disk, self._directory.group_path(group_id), snapshot, data)
            except CodecError as error:
                problem = error
            else:
                is_replaced = True
                self.installed += 1

        if await self._reinstall(group_id, replace, Received(catch_up.message, ())):
            if problem is not None:
                raise problem
            if is_replaced:
                logger.info("%s: begins anew with the snapshot at entry %d", catch_up.name, snapshot.index)


def _has_reached(log: SegmentedLog, snapshot: SnapshotMetadata) -> bool:
    """The log holds the entry that the snapshot ends with, and so everything that the snapshot covers, or begins behind it."""
    if snapshot.index < log.first_index:
        return True
    return snapshot.index <= log.last_index and log.term(snapshot.index) == snapshot.term
