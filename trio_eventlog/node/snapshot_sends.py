"""Which followers of a leader begin anew with a snapshot, and how far they are.

A SNAPSHOT message is small: the follower fetches the files by itself and reports. The core sends such a follower nothing until it
acknowledges something, or until the end of the snapshot is reported to the core. This part sees to it that this always happens.
"""

from collections.abc import Callable

import attrs
import trio

from trio_eventlog.codec.catch_up import CatchUpReport, CatchUpState
from trio_eventlog.ids import NodeId
from trio_eventlog.raft import Message, RaftNode
from trio_eventlog.raft.progress import ProgressState
from trio_eventlog.storage.segmented_log import SegmentedLog


@attrs.frozen(slots=True, kw_only=True)
class SnapshotSendSettings:
    """When snapshots are sent, and for how long they are waited for.

    Attributes:
        catch_up_bytes_min: a follower that lacks this much, in sealed segments that the newest snapshot covers, gets a snapshot,
            although the log still holds the entries: files are cheaper. 0: only when the log does not hold them any more.
        catch_up_silence_seconds: a follower that reports nothing for this long is taken to have lost the message, and is asked
            where it stands.
        catch_up_hold_seconds: for this long after a SNAPSHOT was sent, no entry behind it and no segment of it is removed here, so
            that the follower finds everything. Too small, and a slow follower needs another snapshot; too large, and one that
            never comes to an end keeps space in use.
    """

    catch_up_bytes_min: int
    catch_up_silence_seconds: float
    catch_up_hold_seconds: float


@attrs.define(slots=True, eq=False)
class _Sent:
    """What is known of a follower since it was sent a SNAPSHOT. `began_at`: when the first one was sent since it last followed."""

    began_at: float
    heard_at: float
    report: CatchUpReport | None = None


class SnapshotSends:
    """Owns the snapshots that are on their way. All in the driver's task, but for what is plain to read.

    Args:
        request: has a snapshot taken soon, of what is in the log now.
    """

    def __init__(self, core: RaftNode, log: SegmentedLog, settings: SnapshotSendSettings, request: Callable[[], object]) -> None:
        self._core = core
        self._log = log
        self._settings = settings
        self._request = request
        self._requested_after = -1
        """Index of the newest snapshot when another one was requested last."""
        self._sent: dict[NodeId, _Sent] = {}
        self._takes_no_files: set[NodeId] = set()
        """Nodes that have not reacted to a SNAPSHOT, perhaps because of their release. They get entries while there are some."""

    def report(self, node_id: NodeId) -> CatchUpReport | None:
        """The last report of a follower that fetches a snapshot; None: it does not, or has not reported yet."""
        sent = self._sent.get(node_id)
        return None if sent is None else sent.report

    def holds_removal(self) -> bool:
        """Whether a follower still needs the segments of a snapshot, or the entries behind it."""
        since = trio.current_time() - self._settings.catch_up_hold_seconds
        return any(sent.began_at > since for sent in self._sent.values())

    def is_better(self, message: Message) -> bool:
        """Whether the follower that this APPEND is for, whose entries are not in memory any more, should get a snapshot instead."""
        newest = self._core.newest_snapshot
        least = self._settings.catch_up_bytes_min
        if not least or newest is None or newest.index <= message.index or message.to in self._takes_no_files:
            return False
        log = self._log
        is_far_behind = log.frames_bytes_after(message.index) - log.frames_bytes_after(newest.index) >= least
        if is_far_behind and message.to not in newest.configuration.nodes:
            self._request_one()
            return False
        return is_far_behind

    def _request_one(self) -> None:
        """The newest snapshot is of before a node was added: it needs another one."""
        newest = self._core.newest_snapshot
        index = newest.index if newest is not None else 0
        if index != self._requested_after:
            self._requested_after = index
            self._request()

    def on_sent(self, message: Message) -> None:
        """A SNAPSHOT was given to the link."""
        now = trio.current_time()
        former = self._sent.get(message.to)
        self._sent[message.to] = _Sent(former.began_at if former is not None else now, now)

    def on_report(self, node_id: NodeId, report: CatchUpReport) -> None:
        """A follower says how far it is."""
        self._takes_no_files.discard(node_id)
        sent = self._sent.get(node_id)
        if sent is None:
            return
        sent.heard_at = trio.current_time()
        sent.report = report
        if report.state is CatchUpState.FAILED:
            self._core.report_snapshot(node_id, False)

    def on_lost(self, node_id: NodeId) -> None:
        """What was sent to the node may be lost, or its process is gone."""
        if node_id in self._sent:
            self._core.report_snapshot(node_id, False)

    def tick(self) -> None:
        """Look for followers that follow again, and for those that have fallen silent."""
        now = trio.current_time()
        core = self._core
        if core.is_leader and self._log.first_index > 1:
            newest = core.newest_snapshot
            added = core.configuration.nodes - (newest.configuration.nodes if newest is not None else frozenset())
            if any(core.follower_state(node_id) is ProgressState.PROBE for node_id in added if node_id != core.node_id):
                self._request_one()
        for node_id, sent in list(self._sent.items()):
            match self._core.follower_state(node_id):
                case ProgressState.SNAPSHOT if now - sent.heard_at > self._settings.catch_up_silence_seconds:
                    if sent.report is None:
                        self._takes_no_files.add(node_id)
                    self._core.report_snapshot(node_id, False)
                case None | ProgressState.REPLICATE:
                    # It follows, or it is no follower any more. (While it is probed, another snapshot may be next.)
                    del self._sent[node_id]
