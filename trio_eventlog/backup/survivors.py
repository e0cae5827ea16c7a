"""What the data directories of some nodes hold together, after a majority of a cluster was lost for good.

Nothing in them is changed. Of each group the replica that would win an election among those that are left is taken: the one whose
log ends with the highest term, and is the longest of those. Its whole log counts, also what the replica does not know to be
committed: an entry may have been acknowledged without that replica having heard of it, and one that was never acknowledged may come
to be in a log at any time.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import attrs

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.hard_state import FILE_BYTES as HARD_STATE_BYTES
from trio_eventlog.codec.hard_state import decode_file
from trio_eventlog.errors import CodecError, DamagedData, DataDirectoryError
from trio_eventlog.ids import ClusterId, GroupId, NodeId, format_id
from trio_eventlog.storage.data_directory import (
    GROUPS_DIRECTORY,
    HARD_STATE_FILE,
    LOCK_FILE,
    LOG_DIRECTORY,
    NODE_FILE,
    NODE_FILE_BYTES_MAX,
    decode_node_file,
    parse_group_name,
)
from trio_eventlog.storage.disk import Disk, DiskLock, join_path, read_whole
from trio_eventlog.storage.installing import INSTALLING_FILE
from trio_eventlog.storage.quarantine import QUARANTINE_DIRECTORY
from trio_eventlog.storage.verify import EntryPlace, LogReport, Problem, SegmentReport, dump_log, verify_log


@attrs.frozen(slots=True, kw_only=True)
class SurvivingReplica:
    """A group in one of the data directories.

    Attributes:
        home: the data directory.
        directory: of the group in it.
        report: of its log.
        usable_index: its log can be read up to this entry; beyond it is damage.
        usable_term: of that entry.
        end_offset: one past the last record up to there.
        commit_index: up to here the replica knew its log to be committed.
        term: of its hard state.
        set_aside: files of its log that were damaged, or lay behind damage, when the node still ran.
    """

    home: str
    directory: str
    report: LogReport
    usable_index: int
    usable_term: int
    end_offset: int
    commit_index: int
    term: int
    set_aside: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[int, int]:
        """The greatest would win an election."""
        return self.usable_term, self.usable_index


@attrs.frozen(slots=True, kw_only=True)
class Survivors:
    """All of them.

    Attributes:
        cluster_id, cluster_name: that they belonged to.
        node_ids: by data directory.
        replicas: of each group, the best first.
    """

    cluster_id: ClusterId
    cluster_name: str
    node_ids: dict[str, NodeId]
    replicas: dict[GroupId, list[SurvivingReplica]]

    def losses_of(self, group_id: GroupId) -> list[str]:
        """What is known to be lost of a group, for people. What only nodes had that are gone, nobody can know."""
        best = self.replicas[group_id][0]
        committed = max(replica.commit_index for replica in self.replicas[group_id])
        losses = []
        if best.report.last_index > best.usable_index:
            losses.append(f"entries {best.usable_index + 1} to {best.report.last_index} are damaged in {best.home}")
        if committed > max(best.usable_index, best.report.last_index):
            losses.append(f"entries up to {committed} were committed, and the longest log ends at {best.report.last_index}")
        losses += [
            f"{join_path(replica.directory, QUARANTINE_DIRECTORY)} has what was damaged, or lay behind damage, and had not been"
            f" received again ({', '.join(replica.set_aside)}): entries that no other survivor has are lost"
            for replica in self.replicas[group_id]
            if replica.set_aside
        ]
        return losses


@asynccontextmanager
async def held(disk: Disk, homes: Sequence[str]) -> AsyncIterator[None]:
    """Hold data directories for the length of the block, so that no node starts there. Raises DataDirectoryError when one runs."""
    locks: list[DiskLock] = []
    try:
        for home in homes:
            if not await disk.exists(join_path(home, NODE_FILE)):
                raise DataDirectoryError(f"{home}: no {NODE_FILE} in it: it is no data directory of a node")
            locks.append(await disk.lock(join_path(home, LOCK_FILE)))
        yield
    finally:
        for lock in locks:
            lock.release()


async def find_survivors(disk: Disk, homes: Sequence[str], on_segment: Callable[[SegmentReport], None] | None = None) -> Survivors:
    """Look at every byte of the logs in some data directories of one cluster.

    Args:
        on_segment: called after each segment, with what was found in it.

    Raises:
        DataDirectoryError: a directory is no node's, or has lost its groups, or a snapshot is being installed in it; or they are
            not of one cluster.
    """
    node_ids: dict[str, NodeId] = {}
    clusters: dict[ClusterId, str] = {}
    replicas: dict[GroupId, list[SurvivingReplica]] = {}
    for home in homes:
        try:
            node_file = decode_node_file(await read_whole(disk, join_path(home, NODE_FILE), NODE_FILE_BYTES_MAX))
        except (OSError, ValueError) as error:
            raise DataDirectoryError(f"{join_path(home, NODE_FILE)}: cannot be used: {error}") from error
        if node_file.node_id in node_ids.values():
            raise DataDirectoryError(f"{home}: another one of the directories is of the same node: give one of them")
        node_ids[home] = node_file.node_id
        clusters[node_file.cluster_id] = node_file.cluster_name
        groups = join_path(home, GROUPS_DIRECTORY)
        try:
            names = await disk.list_directory(groups)
        except OSError as error:
            raise DataDirectoryError(f"{groups}: cannot be read: {error}. If nothing is left of this node, leave it out") from error
        for name in names:
            group_id = parse_group_name(name)
            if group_id is None:
                continue
            replica = await _look_at(disk, home, join_path(groups, name), on_segment)
            if replica is not None:
                replicas.setdefault(group_id, []).append(replica)
    if len(clusters) != 1:
        found = ", ".join(f"{format_id(cluster_id)} {name!r}" for cluster_id, name in clusters.items())
        raise DataDirectoryError(f"the directories are of {len(clusters)} clusters: {found}")
    ((cluster_id, cluster_name),) = clusters.items()
    return Survivors(
        cluster_id=cluster_id,
        cluster_name=cluster_name,
        node_ids=node_ids,
        replicas={
            group_id: sorted(replicas[group_id], key=lambda replica: replica.rank, reverse=True) for group_id in sorted(replicas)
        },
    )


async def _look_at(
    disk: Disk, home: str, directory: str, on_segment: Callable[[SegmentReport], None] | None
) -> SurvivingReplica | None:
    """None when the group has moved off this node, or never had an entry here."""
    names = await disk.list_directory(directory)
    if INSTALLING_FILE in names:
        raise DataDirectoryError(
            f"{directory}: a snapshot of another node is being installed, and the log is neither the old one nor the new one: start"
            " the node of this directory once, which ends that, stop it, and try again"
        )
    set_aside = await disk.list_directory(join_path(directory, QUARANTINE_DIRECTORY)) if QUARANTINE_DIRECTORY in names else []
    if LOG_DIRECTORY not in names:
        return None
    report = await verify_log(disk, join_path(directory, LOG_DIRECTORY), on_segment=on_segment)
    if not report.last_index:
        return None
    term = commit_index = 0
    if HARD_STATE_FILE in names:
        with suppress(CodecError, DamagedData):  # a damaged vote is of no use, and what was committed is in the logs
            state = decode_file(await read_whole(disk, join_path(directory, HARD_STATE_FILE), HARD_STATE_BYTES)).state
            term, commit_index = state.term, state.commit
    damage = min((problem.index for problem in report.problems if problem.is_damage), default=report.last_index + 1)
    usable_index, usable_term, end_offset = report.base.index, report.base.term, report.base.offset
    if damage > report.last_index:
        usable_index, usable_term, end_offset = report.last_index, report.last_term, report.end_offset
    elif damage > report.base.index:
        async with frames_of(disk, directory, damage - 1) as frames:
            async for frame in frames:
                usable_index, usable_term, end_offset = frame.index, frame.term, frame.end_offset
    return SurvivingReplica(
        home=home,
        directory=directory,
        report=report,
        usable_index=usable_index,
        usable_term=usable_term,
        end_offset=end_offset,
        commit_index=commit_index,
        term=term,
        set_aside=tuple(set_aside),
    )


@asynccontextmanager
async def frames_of(disk: Disk, directory: str, last_index: int) -> AsyncIterator[AsyncIterator[EntryFrame]]:
    """The entries of the log in the group's `directory` up to `last_index`, in order, as far as they are undamaged."""
    async with dump_log(disk, join_path(directory, LOG_DIRECTORY)) as places:
        frames = _frames(places, last_index)
        try:
            yield frames
        finally:
            await frames.aclose()


async def _frames(places: AsyncIterator[EntryPlace | Problem], last_index: int) -> AsyncGenerator[EntryFrame, None]:
    next_index = 0
    async for place in places:
        if isinstance(place, Problem) or place.frame.index > last_index or place.frame.index != (next_index or place.frame.index):
            return
        next_index = place.frame.index + 1
        yield place.frame
