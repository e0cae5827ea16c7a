"""Taking a backup of a cluster that goes on working.

The catalog first: it says which groups there are. Then, group by group, its leader makes a cut (a snapshot of everything that was
acknowledged before it was asked), and what the cut names is read from it in pieces: the snapshot, and the sealed segments that an
earlier backup has not left. Segments are immutable, so neither appends nor a change of the leader disturb that. When a leader has
other segments than the one before, or retention has removed some, the group is begun again with a new cut.
"""

import datetime
from collections.abc import Callable

import attrs

from trio_eventlog.backup.arriving import ArrivingFrames
from trio_eventlog.backup.manifest import (
    FORMAT_VERSION,
    BackupManifest,
    StoredFile,
    StoredGroup,
    segment_file_name,
    snapshot_name,
)
from trio_eventlog.backup.target import BackupTarget
from trio_eventlog.codec.catalog_snapshot import decode_catalog
from trio_eventlog.codec.snapshot_file import SegmentRange, SnapshotFile, decode_snapshot_file
from trio_eventlog.errors import BackupUnusable, CodecError, FileGone, TopicNotFound
from trio_eventlog.file_keys import SnapshotKey
from trio_eventlog.ids import CATALOG_GROUP, GroupId, format_id
from trio_eventlog.net.pace import Pace
from trio_eventlog.service.backup_source import BackupSource

CUTS_MAX = 5
"""A group is begun again with a new cut at most so many times."""


@attrs.define(slots=True)
class Progress:
    """How far a backup is.

    Attributes:
        groups: number of groups that there are; 0 while that is not known.
        groups_done: of those, the ones that are complete.
        written_bytes, kept_bytes: of files that were read from the cluster, and of those that were there already.
        left_out: groups that were deleted meanwhile, for people.
    """

    groups: int = 0
    groups_done: int = 0
    written_bytes: int = 0
    kept_bytes: int = 0
    left_out: list[str] = attrs.field(factory=list)


async def take_backup(
    source: BackupSource,
    target: BackupTarget,
    *,
    cluster_id: str,
    cluster_name: str,
    release: str,
    now: Callable[[], datetime.datetime],
    piece_bytes: int,
    bytes_per_second: int,
    progress: Progress,
) -> BackupManifest:
    """Take a backup; it is complete when this returns.

    Args:
        now: the wall clock, with a zone.
        piece_bytes: how much is read in one call.
        bytes_per_second: how fast segments are read, at most; 0: no limit.

    Raises:
        BackupUnusable: a segment on a node is damaged, or a group was not complete after `CUTS_MAX` attempts.
        EventLogError: the cluster cannot be read. What was written stays: another attempt into the same directory goes on there.
        OSError: the backup cannot be written.
    """
    began = now()
    taker = _Taker(source, target, piece_bytes, Pace(bytes_per_second), progress)
    catalog, machine = await taker.take_group(CATALOG_GROUP, "", 0)
    try:
        topics = decode_catalog(machine).topics
    except CodecError as error:
        raise BackupUnusable(f"the catalog: {error}") from error
    places = {partition.group_id: (topic.name, number) for topic in topics for number, partition in enumerate(topic.partitions)}
    progress.groups, progress.groups_done = 1 + len(places), 1
    groups = [catalog]
    for group_id, (topic, partition) in sorted(places.items()):
        try:
            groups.append((await taker.take_group(group_id, topic, partition))[0])
        except TopicNotFound:
            progress.left_out.append(f"{topic}/{partition}")
        progress.groups_done += 1
    manifest = BackupManifest(
        format=FORMAT_VERSION,
        cluster_id=cluster_id,
        cluster_name=cluster_name,
        release=release,
        began=_text(began),
        ended=_text(now()),
        groups=tuple(groups),
    )
    await target.finish(manifest)
    return manifest


class _Taker:
    def __init__(self, source: BackupSource, target: BackupTarget, piece_bytes: int, pace: Pace, progress: Progress) -> None:
        self._source = source
        self._target = target
        self._piece_bytes = piece_bytes
        self._pace = pace
        self._progress = progress

    async def take_group(self, group_id: GroupId, topic: str, partition: int) -> tuple[StoredGroup, bytes]:
        """A whole group, and the bytes of its machine."""
        last: FileGone | None = None
        for _ in range(CUTS_MAX):
            try:
                return await self._take_cut(group_id, topic, partition, await self._source.take_snapshot(group_id))
            except FileGone as error:
                last = error
        raise BackupUnusable(f"group {format_id(group_id)}: not complete after {CUTS_MAX} attempts: {last}") from last

    async def _take_cut(self, group_id: GroupId, topic: str, partition: int, key: SnapshotKey) -> tuple[StoredGroup, bytes]:
        data = bytearray()
        file_bytes = 1
        while len(data) < file_bytes:
            piece = await self._source.read_file(group_id, key, len(data), self._piece_bytes)
            file_bytes = piece.file_bytes
            data += piece.data
        try:
            snapshot = decode_snapshot_file(data)
        except CodecError as error:
            # It may have been replaced between two pieces. Damaged on the disk it would be so again.
            raise FileGone(f"the snapshot at entry {key.index} cannot be used: {error}") from error
        # The catalog's state is in its snapshot. Its nodes remove what led to that at once, and nobody needs it.
        wanted = () if group_id == CATALOG_GROUP else snapshot.manifest.segments
        segments = [await self._take_segment(group_id, segment) for segment in wanted]
        async with self._target.writing(snapshot_name(group_id, snapshot.term, snapshot.index), len(data)) as writing:
            await writing.write(bytes(data))
        self._progress.written_bytes += len(data)
        group = StoredGroup(
            group_id=format_id(group_id),
            topic=topic,
            partition=partition,
            term=snapshot.term,
            index=snapshot.index,
            log_start_offset=snapshot.manifest.base.offset,
            end_offset=_end_offset(snapshot),
            snapshot=writing.stored(),
            segments=tuple(segments),
        )
        return group, snapshot.machine

    async def _take_segment(self, group_id: GroupId, segment: SegmentRange) -> StoredFile:
        name = segment_file_name(group_id, segment.base_index, segment.frames_checksum)
        found = await self._target.find(name, ArrivingFrames(segment))
        if found is not None:
            self._progress.kept_bytes += found.size_bytes
            return found
        frames = ArrivingFrames(segment)
        try:
            async with self._target.writing(name, segment.frames_bytes) as writing:
                while writing.position < segment.frames_bytes:
                    await self._pace.wait(self._piece_bytes)
                    piece = await self._source.read_file(group_id, segment.key, writing.position, self._piece_bytes)
                    frames.add(piece.data)
                    await writing.write(piece.data)
                    self._progress.written_bytes += len(piece.data)
                frames.end()
        except CodecError as error:
            raise BackupUnusable(f"group {format_id(group_id)}: {error}: see `trio-eventlog log verify` on its leader") from error
        return writing.stored()


def _end_offset(snapshot: SnapshotFile) -> int:
    segments = snapshot.manifest.segments
    return segments[-1].end_offset if segments else snapshot.manifest.base.offset


def _text(when: datetime.datetime) -> str:
    return when.astimezone(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
