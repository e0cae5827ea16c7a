"""What a client reads for backups."""

from functools import partial

from trio_eventlog.client.calls import Calls
from trio_eventlog.file_keys import FileKey, SnapshotKey
from trio_eventlog.grpc.methods import BACKUP, TAKE_SNAPSHOT
from trio_eventlog.grpc.requests import backup_request, file_piece
from trio_eventlog.service.values import NOBODY_IN_PARTICULAR, Caller, FilePiece
from trio_eventlog.v1 import admin_pb2


class BackupCalls:
    """A `BackupSource`: that of a client. The leader of a group is asked first; others pass the call on."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._routing = calls.routing

    async def take_snapshot(self, group_id: int, *, caller: Caller = NOBODY_IN_PARTICULAR) -> SnapshotKey:
        """See `BackupSource.take_snapshot`."""
        request = admin_pb2.TakeSnapshotRequest(group_id=group_id)
        response = await self._calls.call(TAKE_SNAPSHOT, request, partial(self._routing.for_group, group_id), caller=caller)
        return SnapshotKey(term=response.term, index=response.index)

    async def read_file(
        self, group_id: int, file: FileKey, position: int = 0, length: int = 0, *, caller: Caller = NOBODY_IN_PARTICULAR
    ) -> FilePiece:
        """See `BackupSource.read_file`."""
        request = backup_request(group_id, file, position, length)
        return file_piece(await self._calls.call(BACKUP, request, partial(self._routing.for_group, group_id), caller=caller))
