"""A cluster that backups are taken of, as the files of its groups: enough for everything but the nodes."""

import datetime
from collections.abc import Sequence
from pathlib import Path

import attrs

from trio_eventlog.backup import BackupManifest, BackupTarget, Progress, take_backup
from trio_eventlog.codec.catalog import encode_command
from trio_eventlog.codec.catalog_snapshot import encode_catalog
from trio_eventlog.codec.entry import EntryFrame, EntryKind, encode_entry
from trio_eventlog.codec.partition_snapshot import encode_partition
from trio_eventlog.codec.segment import LogBase
from trio_eventlog.codec.snapshot_file import Manifest, SegmentRange, SnapshotFile, encode_snapshot_file
from trio_eventlog.errors import FileGone, TopicNotFound
from trio_eventlog.file_keys import FileKey, SnapshotKey
from trio_eventlog.ids import CATALOG_GROUP, GroupId, NodeId
from trio_eventlog.machine.catalog import CatalogMachine, CreateTopic, RegisterNode
from trio_eventlog.machine.partition import AppliedBatch, PartitionMachine
from trio_eventlog.raft import Configuration, SnapshotMetadata
from trio_eventlog.service.values import NOBODY_IN_PARTICULAR, Caller, FilePiece
from trio_eventlog.storage.segment import SegmentContents, range_of

VOTERS = tuple(map(NodeId, (1, 2, 3)))
WHEN = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def batch(index: int, offset: int, count: int = 2, *, term: int = 1, size_bytes: int = 300) -> EntryFrame:
    payload = bytes((index * 7 + position) % 251 for position in range(size_bytes))
    return encode_entry(EntryKind.DATA, term=term, index=index, base_offset=offset, record_count=count, payload=payload)


@attrs.define(slots=True)
class Group:
    """A group: its frames, cut into segments of some entries each; the machine has applied all of them."""

    frames: list[EntryFrame]
    entries_per_segment: int
    machine: bytes
    base: LogBase = attrs.field(factory=LogBase)

    def segments(self) -> list[tuple[SegmentRange, bytes]]:
        found = []
        for first in range(0, len(self.frames), self.entries_per_segment):
            frames = self.frames[first : first + self.entries_per_segment]
            contents = SegmentContents(frames[0].index, frames[0].base_offset, 1 << 40)
            contents.add(frames)
            found.append((range_of(contents), b"".join(frame.raw for frame in frames)))
        return found

    def snapshot(self) -> SnapshotFile:
        segments = tuple(segment for segment, _ in self.segments())
        return SnapshotFile(
            metadata=SnapshotMetadata(
                index=self.frames[-1].index, term=self.frames[-1].term, configuration=Configuration(voters=frozenset(VOTERS))
            ),
            manifest=Manifest(base=self.base, segments=segments),
            machine=self.machine,
        )


def partition(entries: int, entries_per_segment: int = 3) -> Group:
    frames = [batch(index, (index - 1) * 2) for index in range(1, entries + 1)]
    machine = PartitionMachine(5, 100)
    for frame in frames:
        machine.apply(frame.index, AppliedBatch(frame.base_offset, frame.record_count, 9, 1, frame.base_offset))
    return Group(frames, entries_per_segment, encode_partition(machine.snapshot()))


def catalog(topics: Sequence[tuple[str, int]]) -> Group:
    machine = CatalogMachine()
    commands = [RegisterNode(node_id=node_id, name=f"n{node_id}") for node_id in VOTERS]
    created = [CreateTopic(name=name, partition_count=count, replicas=VOTERS) for name, count in topics]
    frames = []
    for index, command in enumerate([*commands, *created], start=1):
        machine.apply(index, command)
        frames.append(encode_entry(EntryKind.CONTROL, term=1, index=index, base_offset=0, payload=encode_command(command)))
    return Group(frames, 100, encode_catalog(machine.snapshot()))


@attrs.define(slots=True)
class Source:
    """A cluster. `gone` counts down: so many times a segment is not there any more when it is asked for."""

    groups: dict[GroupId, Group]
    gone: int = 0
    damaged: bool = False
    read_bytes: int = 0

    async def take_snapshot(self, group_id: int, *, caller: Caller = NOBODY_IN_PARTICULAR) -> SnapshotKey:
        if group_id not in self.groups:
            raise TopicNotFound("deleted")
        metadata = self.groups[GroupId(group_id)].snapshot().metadata
        return SnapshotKey(term=metadata.term, index=metadata.index)

    async def read_file(
        self, group_id: int, file: FileKey, position: int = 0, length: int = 0, *, caller: Caller = NOBODY_IN_PARTICULAR
    ) -> FilePiece:
        data = self._content(self.groups[GroupId(group_id)], file)
        piece = data[position : position + length]
        self.read_bytes += len(piece)
        return FilePiece(file_bytes=len(data), data=piece)

    def _content(self, group: Group, file: FileKey) -> bytes:
        if isinstance(file, SnapshotKey):
            return encode_snapshot_file(group.snapshot())
        if self.gone:
            self.gone -= 1
            raise FileGone("removed")
        wanted = (file.base_index, file.frames_bytes, file.frames_checksum)
        for segment, data in group.segments():
            if (segment.base_index, segment.frames_bytes, segment.frames_checksum) == wanted:
                return data[:-1] + bytes((data[-1] ^ 1,)) if self.damaged else data
        raise FileGone("no such segment")


def cluster(entries: int = 10, topics: Sequence[tuple[str, int]] = (("orders", 2), ("events", 1))) -> Source:
    """Topics with their numbers of partitions; group 1 has one entry more than `entries`, and so on."""
    groups = {CATALOG_GROUP: catalog(topics)}
    for group_id in range(1, 1 + sum(count for _, count in topics)):
        groups[GroupId(group_id)] = partition(entries + group_id)
    return Source(groups)


async def back_up(source: Source, target: BackupTarget, progress: Progress | None = None) -> BackupManifest:
    return await take_backup(
        source,
        target,
        cluster_id="00000000000000a1",
        cluster_name="old",
        release="0.1.0",
        now=lambda: WHEN,
        piece_bytes=256,
        bytes_per_second=0,
        progress=progress or Progress(),
    )


def files_in(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
