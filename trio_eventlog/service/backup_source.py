"""What a backup reads: snapshots that are taken when asked for, and pieces of files."""

from typing import Protocol

from trio_eventlog.file_keys import FileKey, SnapshotKey
from trio_eventlog.service.values import NOBODY_IN_PARTICULAR, Caller, FilePiece


class BackupSource(Protocol):
    """A cluster as a backup sees it: `EventLog.backups`."""

    async def take_snapshot(self, group_id: int, *, caller: Caller = NOBODY_IN_PARTICULAR) -> SnapshotKey:
        """Have the leader of a group (0: the catalog) take a snapshot of everything that was acknowledged before the call.

        Returns:
            The snapshot's name. The log up to there is in sealed segments, which the snapshot lists (`codec.snapshot_file`).

        Raises:
            TopicNotFound: there is no such group.
            NoQuorum: not in time; it may be asked for again.
        """

    async def read_file(
        self, group_id: int, file: FileKey, position: int = 0, length: int = 0, *, caller: Caller = NOBODY_IN_PARTICULAR
    ) -> FilePiece:
        """Read a snapshot, or the frames of a sealed segment, from the leader of a group.

        Args:
            position: of the first byte.
            length: most bytes that are read; 0, or more than a node gives at once: as many as it gives.

        Raises:
            FileGone: the leader has no such file, or not any more.
            InvalidArgument: the file is not that long.
            TopicNotFound: there is no such group.
        """
