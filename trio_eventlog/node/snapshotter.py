"""Has snapshots taken of groups that write too little to fill a segment, one task for all groups of a node.

A start has to read and apply the log after the newest snapshot, in all groups. A group that fills segments gets its snapshots by
that (`snapshotting`). The others are looked at here from time to time: those whose newest snapshot is old; and those that have most
to read, when it is too much over all groups. A group in which nothing was written is left alone. None is woken: sealing a segment
and taking a snapshot concern no other node.
"""

from collections.abc import Callable, Iterable

import attrs
import trio

from trio_eventlog.node.replica import Replica


@attrs.frozen(slots=True, kw_only=True)
class SnapshotterSettings:
    """When snapshots are taken before a segment is full.

    Attributes:
        snapshot_bytes_min: not of a log that has grown by less since its last one. Bounds the number of small segments.
        snapshot_seconds: of one that has grown by that much, when its last one is older than this.
        replay_bytes_max: bytes of log that a start may have to read, over all groups. Above, the logs that have most of it are
            sealed, until it is half. Too small, and segments are small; too large, and a start takes long.
        snapshot_check_seconds: the interval between two looks at all groups.
    """

    snapshot_bytes_min: int
    snapshot_seconds: float
    replay_bytes_max: int
    snapshot_check_seconds: float


class Snapshotter:
    """`run` is its task.

    Args:
        groups: the open groups of the node.
    """

    def __init__(self, groups: Callable[[], Iterable[Replica]], settings: SnapshotterSettings) -> None:
        self._groups = groups
        self._settings = settings

    async def run(self) -> None:
        """Look at all groups again and again, until cancelled."""
        while True:
            await trio.sleep(self._settings.snapshot_check_seconds)
            self._look()

    def _look(self) -> None:
        settings = self._settings
        now = trio.current_time()
        waiting: list[tuple[int, int, Replica]] = []
        for replica in self._groups():
            size_bytes = replica.uncovered_bytes
            if size_bytes < settings.snapshot_bytes_min or replica.stopped_because:
                continue
            if now - replica.snapshot_saved_at >= settings.snapshot_seconds:
                replica.request_snapshot()
            else:
                waiting.append((size_bytes, replica.group_id, replica))
        replay_bytes = sum(size_bytes for size_bytes, _, _ in waiting)
        if replay_bytes <= settings.replay_bytes_max:
            return
        for size_bytes, _, replica in sorted(waiting, key=lambda item: item[:2], reverse=True):
            if replay_bytes <= settings.replay_bytes_max // 2:
                break
            replica.request_snapshot()
            replay_bytes -= size_bytes
