"""What a backup is made of: snapshots that are taken when asked for, and pieces of files, from the leader of each group."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import trio

from trio_eventlog.errors import FileGone, InvalidArgument
from trio_eventlog.file_keys import FileKey, SnapshotKey
from trio_eventlog.ids import GroupId
from trio_eventlog.node.remote_group import RemoteGroup
from trio_eventlog.node.replica import Replica
from trio_eventlog.node.transfer_server import OpenFile
from trio_eventlog.service.broker import Broker
from trio_eventlog.service.forwarding import Forwarder
from trio_eventlog.service.remote_node import RemoteNode
from trio_eventlog.service.values import NOBODY_IN_PARTICULAR, Caller, FilePiece

T = TypeVar("T")


class Backups:
    """Reads the files of groups for backups.

    Args:
        open_file: a snapshot or a sealed segment of a group that is open on this node.
        piece_bytes_max: most bytes that are read in one call.
    """

    def __init__(self, broker: Broker, forwarder: Forwarder, open_file: OpenFile, piece_bytes_max: int) -> None:
        self._broker = broker
        self._forwarder = forwarder
        self._open_file = open_file
        self._piece_bytes_max = piece_bytes_max

    async def take_snapshot(self, group_id: GroupId, caller: Caller) -> SnapshotKey:
        """A snapshot of everything that was acknowledged before the call, durable on the leader of the group.

        Raises:
            TopicNotFound: there is no such group.
            NoQuorum: not in time; it may be asked for again.
        """
        return await self._at_leader(group_id, partial(self._take_here, group_id), partial(_take_there, group_id, caller), caller)

    async def _take_here(self, group_id: GroupId) -> SnapshotKey:
        replica = self._here(group_id)
        await replica.wait_linearizable()
        metadata = await replica.snapshotting.take(replica.status().applied_index)
        return SnapshotKey(term=metadata.term, index=metadata.index)

    async def read(self, group_id: GroupId, file: FileKey, position: int, length: int, caller: Caller) -> FilePiece:
        """The bytes of a file from `position` on, as many as `length`, or as one call may read, or as there are.

        Raises:
            FileGone: the leader of the group has no such file.
            InvalidArgument: the file is not that long.
            TopicNotFound, NoQuorum.
        """
        return await self._at_leader(
            group_id,
            partial(self._read_here, group_id, file, position, length),
            partial(_read_there, group_id, file, position, length, caller),
            caller,
        )

    async def _read_here(self, group_id: GroupId, file: FileKey, position: int, length: int) -> FilePiece:
        self._here(group_id)
        wanted_bytes = min(length or self._piece_bytes_max, self._piece_bytes_max)
        served = await self._open_file(group_id, file)
        if served is None:
            raise FileGone(f"the leader of the group has no such file: {file}")
        try:
            if position >= served.size_bytes:
                raise InvalidArgument(f"byte {position} of a file of {served.size_bytes}")
            data = await served.file.read_at(position, min(wanted_bytes, served.size_bytes - position))
            return FilePiece(file_bytes=served.size_bytes, data=bytes(data))
        finally:
            with trio.CancelScope(shield=True):
                await served.file.close()

    def _here(self, group_id: GroupId) -> Replica:
        place = self._broker.group(group_id)
        if isinstance(place, RemoteGroup):
            raise place.refusal()
        return place

    async def _at_leader(
        self,
        group_id: GroupId,
        here: Callable[[], Awaitable[T]],
        there: Callable[[RemoteNode], Awaitable[T]],
        caller: Caller,
    ) -> T:
        return await self._forwarder.at_leader(self._broker.group(group_id), here, there, caller=caller)


class NodeBackups:
    """A `BackupSource`: that of an embedded node.

    Args:
        ready: set when the node belongs to a cluster; calls wait until then.
    """

    def __init__(self, backups: Backups, ready: trio.Event) -> None:
        self._backups = backups
        self._ready = ready

    async def take_snapshot(self, group_id: int, *, caller: Caller = NOBODY_IN_PARTICULAR) -> SnapshotKey:
        """See `BackupSource.take_snapshot`."""
        await self._ready.wait()
        return await self._backups.take_snapshot(GroupId(group_id), caller)

    async def read_file(
        self, group_id: int, file: FileKey, position: int = 0, length: int = 0, *, caller: Caller = NOBODY_IN_PARTICULAR
    ) -> FilePiece:
        """See `BackupSource.read_file`."""
        await self._ready.wait()
        return await self._backups.read(GroupId(group_id), file, position, length, caller)


async def _take_there(group_id: GroupId, caller: Caller, node: RemoteNode) -> SnapshotKey:
    return await node.take_snapshot(group_id, caller)


async def _read_there(group_id: GroupId, file: FileKey, position: int, length: int, caller: Caller, node: RemoteNode) -> FilePiece:
    return await node.read_file(group_id, file, position, length, caller)
