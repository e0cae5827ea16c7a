"""The data directory of a node: who it is, the lock that keeps others out, and a place for each group.

```
<data-dir>/
  node.toml      format version, node id, cluster id, when it was created; written atomically, with a checksum
  LOCK           held while open
  groups/<group-id>/
    hard_state   term, vote and commit index
    log/         segments and their sparse indexes
    departing, departed   notes of a replica whose group has moved to other nodes
  derived/       what can be made again from the logs
    <group-id>.events     index of aggregates of a partition of events (`sqlite_event_index`)
```
"""

import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Self

import attrs

from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.hard_state import encode_new_file
from trio_eventlog.errors import DataDirectoryError
from trio_eventlog.ids import NO_CLUSTER, ClusterId, GroupId, NodeId, format_id, parse_id
from trio_eventlog.storage.disk import TEMPORARY_SUFFIX, Disk, join_path, read_whole, write_atomically

FORMAT_VERSION = 1
NODE_FILE = "node.toml"
NODE_FILE_BYTES_MAX = 64 * 1024
LOCK_FILE = "LOCK"
GROUPS_DIRECTORY = "groups"
HARD_STATE_FILE = "hard_state"
LOG_DIRECTORY = "log"
DERIVED_DIRECTORY = "derived"
INDEX_SUFFIX = ".events"
DEPARTING_FILE = "departing"
DEPARTED_FILE = "departed"


@attrs.frozen(slots=True, kw_only=True)
class NodeFile:
    """What node.toml says.

    Attributes:
        node_id: made at first start, never changed.
        cluster_id: 0 until the node has joined or bootstrapped a cluster; set once.
        cluster_name: beside it, for people.
        created_seconds: when the directory was made, seconds since 1970 UTC.
    """

    node_id: NodeId
    created_seconds: int
    cluster_id: ClusterId = NO_CLUSTER
    cluster_name: str = ""


class DataDirectory:
    """An open, locked data directory. Use `async with DataDirectory.open(...) as directory:`."""

    def __init__(self, disk: Disk, path: str, node_file: NodeFile) -> None:
        """Use `open`."""
        self.disk = disk
        self.path = path
        self._node_file = node_file

    @classmethod
    @asynccontextmanager
    async def open(
        cls, disk: Disk, path: str, *, new_node_id: Callable[[], NodeId], now_seconds: Callable[[], float]
    ) -> AsyncIterator[Self]:
        """Lock the directory and read who it belongs to; make it when it is not there yet.

        Args:
            disk: where it is.
            path: of the directory; missing parents are made.
            new_node_id: called once, when the directory is new.
            now_seconds: the wall clock, for the time of creation.

        Raises:
            DataDirectoryError: held by another process, not writable, a file, damaged, or of a format this release does
                not know. The text says which and what to do.
            DiskFull: a new directory, and no room for it.
            StorageFailed: the disk failed.
        """
        try:
            await disk.make_directory(path)
            await disk.make_directory(join_path(path, GROUPS_DIRECTORY))
            lock = await disk.lock(join_path(path, LOCK_FILE))
        except (NotADirectoryError, FileExistsError) as error:
            raise DataDirectoryError(f"{path}: cannot be the data directory, a file is in the way ({error})") from error
        except OSError as error:
            raise DataDirectoryError(f"{path}: cannot be written: {error}. Give the directory to the user of the node.") from error
        try:
            yield cls(disk, path, await _load_or_create(disk, path, new_node_id, now_seconds))
        finally:
            lock.release()

    @property
    def node_id(self) -> NodeId:
        return self._node_file.node_id

    @property
    def cluster_id(self) -> ClusterId:
        """0 until `set_cluster`."""
        return self._node_file.cluster_id

    @property
    def cluster_name(self) -> str:
        return self._node_file.cluster_name

    @property
    def created_seconds(self) -> int:
        return self._node_file.created_seconds

    async def set_cluster(self, cluster_id: ClusterId, cluster_name: str = "") -> None:
        """Bind the node to a cluster, durably. The same id again changes nothing.

        Raises:
            DataDirectoryError: it is bound to a different one already.
        """
        assert cluster_id != NO_CLUSTER
        if self.cluster_id == cluster_id:
            return
        if self.cluster_id != NO_CLUSTER:
            raise DataDirectoryError(
                f"{self.path}: belongs to cluster {format_id(self.cluster_id)} {self.cluster_name!r}, not to "
                f"{format_id(cluster_id)} {cluster_name!r}. Use another data directory, or remove this one to start afresh."
            )
        node_file = attrs.evolve(self._node_file, cluster_id=cluster_id, cluster_name=cluster_name)
        await write_atomically(self.disk, join_path(self.path, NODE_FILE), encode_node_file(node_file))
        self._node_file = node_file

    async def group_ids(self) -> list[GroupId]:
        """The groups that have a directory here, ascending. Names that are no group id are passed over."""
        names = await self.disk.list_directory(join_path(self.path, GROUPS_DIRECTORY))
        return [group_id for name in names if (group_id := parse_group_name(name)) is not None]

    async def group_directory(self, group_id: GroupId) -> str:
        """Path of the group's directory, made (durably) when it is not there yet."""
        path = self.group_path(group_id)
        await self.disk.make_directory(path)
        return path

    async def make_groups(self, group_ids: Sequence[GroupId]) -> frozenset[GroupId]:
        """Make the files of those groups that have no directory here yet, each as one in which nothing has happened; return which.

        In one operation of the disk, durable when this returns. A crash, or an error, leaves of each group no directory; or one
        without a hard state, as of a group that was never opened; or one with it, whole, since it was synced under another name
        before. In all of them the log is empty or missing, and nothing was acknowledged. Opening makes what is missing,
        and finds a group in which nothing has happened.

        Raises:
            StorageFailed, DiskFull, ResourceShortage.
        """
        groups = join_path(self.path, GROUPS_DIRECTORY)
        return await self.disk.at_once(lambda disk: _make_groups(disk, groups, group_ids))

    async def remove_group(self, group_id: GroupId) -> None:
        """Remove the group's files; its empty directories stay. A crash in between leaves files that a next call removes."""
        path = self.group_path(group_id)
        if await self.disk.exists(path):
            await _remove_files(self.disk, path)

    def index_path(self, group_id: GroupId) -> str:
        """Path of the group's index of aggregates, there or not."""
        return join_path(self.path, DERIVED_DIRECTORY, format_id(group_id) + INDEX_SUFFIX)

    def group_path(self, group_id: GroupId) -> str:
        """Path of the group's directory, there or not."""
        return join_path(self.path, GROUPS_DIRECTORY, format_id(group_id))


def encode_node_file(node_file: NodeFile) -> bytes:
    """node.toml: lines for people, and a checksum over them, because a flipped bit in an id makes another id."""
    body = (
        "# Who this data directory belongs to. Written by trio-eventlog; not for editing.\n"
        f"format_version = {FORMAT_VERSION}\n"
        f'node_id = "{format_id(node_file.node_id)}"\n'
        f'cluster_id = "{format_id(node_file.cluster_id)}"\n'
        f"cluster_name = {_toml_string(node_file.cluster_name)}\n"
        f"created_seconds = {node_file.created_seconds}\n"
    ).encode()
    return body + f'checksum = "{crc32c(body):08x}"\n'.encode()


def decode_node_file(data: bytes) -> NodeFile:
    """Raises ValueError with the reason, `UnknownFormat` when another release wrote it."""
    if len(data) > NODE_FILE_BYTES_MAX:
        raise ValueError(f"longer than {NODE_FILE_BYTES_MAX} bytes")
    values = tomllib.loads(data.decode())  # both errors are ValueErrors
    version = values.get("format_version")
    if type(version) is int and version != FORMAT_VERSION:
        raise UnknownFormat(f"format version {version}")
    body, found, checksum_line = data.rpartition(b"checksum = ")
    if not found or checksum_line != f'"{crc32c(body):08x}"\n'.encode():
        raise ValueError("the checksum does not agree with the lines above it")
    try:
        return NodeFile(
            node_id=NodeId(parse_id(values["node_id"])),
            cluster_id=ClusterId(parse_id(values["cluster_id"])),
            cluster_name=str(values["cluster_name"]),
            created_seconds=int(values["created_seconds"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"a value is missing or of the wrong type: {error}") from error


class UnknownFormat(ValueError):
    """Whole, but of a format version this release does not know."""


async def _load_or_create(disk: Disk, path: str, new_node_id: Callable[[], NodeId], now_seconds: Callable[[], float]) -> NodeFile:
    node_path = join_path(path, NODE_FILE)
    try:
        if not await disk.exists(node_path):
            if await disk.list_directory(join_path(path, GROUPS_DIRECTORY)):
                raise DataDirectoryError(
                    f"{node_path}: missing, but there is data beside it. Restore the file from a backup, or remove the "
                    "directory to start afresh as a new node."
                )
            node_file = NodeFile(node_id=new_node_id(), created_seconds=int(now_seconds()))
            await write_atomically(disk, node_path, encode_node_file(node_file))
            return node_file
        node_file = decode_node_file(await read_whole(disk, node_path, NODE_FILE_BYTES_MAX))
        await disk.sync_directory(path)  # a process killed after the renaming may have left the name in the kernel's cache only
        return node_file
    except UnknownFormat as error:
        raise DataDirectoryError(
            f"{node_path}: {error}; this release knows {FORMAT_VERSION}. Start the release that wrote it, or a newer one."
        ) from error
    except ValueError as error:
        raise DataDirectoryError(
            f"{node_path}: damaged: {error}. Restore the file from a backup, or remove the directory to start afresh as a new node."
        ) from error
    except OSError as error:
        raise DataDirectoryError(f"{path}: cannot be used: {error}") from error


async def _make_groups(disk: Disk, groups: str, group_ids: Sequence[GroupId]) -> frozenset[GroupId]:
    made: list[GroupId] = []
    for group_id in group_ids:
        path = join_path(groups, format_id(group_id))
        if await disk.exists(path):
            continue
        await disk.add_directory(path)
        await disk.add_directory(join_path(path, LOG_DIRECTORY))
        hard_state = join_path(path, HARD_STATE_FILE)
        file = await disk.open(hard_state + TEMPORARY_SUFFIX, create=True)
        try:
            await file.write_and_sync(0, [_NEW_HARD_STATE])
        finally:
            file.close_nowait()
        await disk.rename(hard_state + TEMPORARY_SUFFIX, hard_state)
        await disk.sync_directory(path)  # both names in it
        made.append(group_id)
    # Also when all were there: it may be this that has failed the last time.
    await disk.sync_directory(groups)
    return frozenset(made)


_NEW_HARD_STATE = encode_new_file()


def parse_group_name(name: str) -> GroupId | None:
    """The group whose directory has this name; None: no group's has."""
    is_one = len(name) == 16 and all(character in "0123456789abcdef" for character in name)
    return GroupId(int(name, 16)) if is_one else None


def _toml_string(text: str) -> str:
    """A TOML basic string: what would end it or is a control character is escaped."""
    escaped = "".join(
        f"\\u{ord(character):04x}" if character in '"\\' or ord(character) < 0x20 or ord(character) == 0x7F else character
        for character in text
    )
    return f'"{escaped}"'


async def _remove_files(disk: Disk, path: str) -> None:
    for name in await disk.list_directory(path):
        child = join_path(path, name)
        try:
            await disk.remove(child)
        except IsADirectoryError:
            await _remove_files(disk, child)
    await disk.sync_directory(path)
