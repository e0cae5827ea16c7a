"""One node's copy of one group: log, core, driver, machine, put together and opened as one thing."""

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

import attrs
import trio

from trio_eventlog.codec.catch_up import CatchUpReport
from trio_eventlog.codec.events import EncodedEvents
from trio_eventlog.codec.lives import Extent
from trio_eventlog.errors import (
    DamagedData,
    EventLogError,
    InvalidArgument,
    NewerRelease,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    ShuttingDown,
    Unavailable,
)
from trio_eventlog.ids import CATALOG_GROUP, NOBODY, GroupId, NodeId, format_id
from trio_eventlog.machine.events import AppendIntent
from trio_eventlog.node.appliers import Applier
from trio_eventlog.node.departed import Departed, load_departed, save_departed
from trio_eventlog.node.disk_space import AMPLE, SpaceView
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.followers import Send
from trio_eventlog.node.leadership import CoreView, best_successor
from trio_eventlog.node.log_view import SegmentedLogView
from trio_eventlog.node.mending import Mending, end_loss
from trio_eventlog.node.partition_events import PartitionEvents
from trio_eventlog.node.proposals import Appended, PendingEvents, Proposal
from trio_eventlog.node.raft_driver import RaftDriver
from trio_eventlog.node.sleeping import Peers
from trio_eventlog.node.watermark import Watermark
from trio_eventlog.raft import (
    Configuration,
    ConfigurationChange,
    HardState,
    Message,
    RaftNode,
    RaftSettings,
    Status,
)
from trio_eventlog.raft.progress import ProgressState
from trio_eventlog.records import Acks, Batch
from trio_eventlog.storage.data_directory import HARD_STATE_FILE, LOG_DIRECTORY
from trio_eventlog.storage.disk import Disk, join_path, parent_directory
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.installing import finish_install
from trio_eventlog.storage.log_recovery import BASE_FILE
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.losses import Held, find_loss
from trio_eventlog.storage.sealed_segments import SealedSegments
from trio_eventlog.storage.segmented_log import SegmentedLog, recover_segmented_log
from trio_eventlog.storage.snapshots import Found, SnapshotName, SnapshotStore, find_snapshots, remove_unfit_snapshots

logger = logging.getLogger(__name__)


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class ReplicaSettings:
    """Settings of every group of a node."""

    raft: RaftSettings
    driver: DriverSettings
    log: LogSettings


@attrs.frozen(slots=True, kw_only=True)
class Follower:
    """Another node of a group, as the group's leader sees it.

    Attributes:
        is_learner: it receives the log and does not vote.
        keeps_up: entries are sent to it as they are proposed; it is neither probed nor unreachable.
        lag_entries: number of entries at the end of the leader's log that are not known to be durable there.
        last_contact_seconds: seconds since its last message of this group; None: none since this node has started.
        catch_up: how far it is with the files that it fetches; None: it fetches none.
    """

    is_learner: bool
    keeps_up: bool
    lag_entries: int
    last_contact_seconds: float | None
    catch_up: CatchUpReport | None = None


class Replica:
    """A running group on this node, as calls, the reconciler and `status` use it.

    Attributes:
        name: for people and log lines: "catalog", or topic and partition.
        core: what the core shows, without the cost of a whole `status`.
        watermark: the high watermark; stays 0 in the catalog.
        log: for readers; only the driver appends.
        departed: the position of the end of the log that was here before.
        holds_removal: see `SnapshotSends.holds_removal`: nothing of the log should be removed, since a follower needs it.
        events: what a partition of events has beside its log; None in all others.
        snapshotting: takes snapshots; only `take` of it is called from elsewhere.
        driver: takes messages, ticks and events of peers. Only `OpenGroups`, which holds the groups of a node, may use it.
    """

    def __init__(
        self,
        node_id: NodeId,
        core: CoreView,
        driver: RaftDriver,
        log: SegmentedLog,
        watermark: Watermark,
        departed: Departed,
        space: SpaceView,
        end: Callable[[DamagedData], None],
        events: PartitionEvents | None = None,
    ) -> None:
        self.node_id = node_id
        self.group_id = driver.group_id
        self.name = driver.name
        self.driver = driver
        self.snapshotting = driver.snapshotting
        self.log = log
        self.watermark = watermark
        self.departed = departed
        self.holds_removal = driver.followers.snapshots.holds_removal
        self._space = space
        self.events = events
        self._end = end
        self._damage = ""
        """What was found to be damaged, and cannot be mended while this replica is open."""
        self.core = self._core = core
        self._leadership = driver.leadership
        self._reads = driver.reads
        self._applying = driver.applying
        self._proposing = driver.proposing
        self._returning = driver.returning

    @property
    def leader_id(self) -> NodeId:
        """Who leads, as far as this node knows; NOBODY when it does not."""
        return self._core.leader

    @property
    def is_leader(self) -> bool:
        return self._core.is_leader

    @property
    def configuration(self) -> Configuration:
        """The one in force."""
        return self._core.configuration

    def status(self) -> Status:
        return self._core.status()

    @property
    def snapshot_index(self) -> int:
        """The last entry that the newest snapshot covers; 0 without one."""
        return self.driver.snapshotting.newest_index

    @property
    def snapshot_saved_at(self) -> float:
        """When it was written, or the group was opened, in Trio's time."""
        return self.driver.snapshotting.saved_at

    @property
    def uncovered_bytes(self) -> int:
        """Bytes of the log that a start would have to read: in segments that begin after the newest snapshot."""
        return self.driver.snapshotting.uncovered_bytes

    def request_snapshot(self) -> None:
        """Have the active segment sealed, and a snapshot taken as soon as everything in it is applied."""
        self.driver.snapshotting.request()

    @property
    def entries_behind(self) -> int:
        """Entries that are committed, as far as this node has heard, and not applied here."""
        return self.driver.entries_behind

    @property
    def stopped_because(self) -> str:
        """Why this replica is of no use as it is: nothing is applied any more, or it has no vote; "" when neither holds."""
        return self._returning.problem or self._applying.stopped_because

    @property
    def problem(self) -> str:
        """`stopped_because`, or what this replica waits for before it can store anything; "" when it is well."""
        shortage = self.driver.disk_writer.shortage
        return self.stopped_because or self._damage or (f"stores nothing just now, and tries again: {shortage}" if shortage else "")

    @property
    def applied_index(self) -> int:
        """Index of the last entry that this node's machine has taken."""
        return self._applying.index

    def voters(self) -> Collection[NodeId]:
        """Voters of the configuration in force."""
        return self.configuration.voters

    def followers(self) -> dict[NodeId, Follower]:
        """Voters and learners of the group but this node; empty unless it leads."""
        status = self.status()
        now = trio.current_time()
        followers = {}
        for node_id, progress in status.progress.items():
            if node_id != self.node_id:
                heard_at = self.driver.followers.heard_at.get(node_id)
                followers[node_id] = Follower(
                    is_learner=progress.is_learner,
                    keeps_up=progress.state == ProgressState.REPLICATE.value,
                    lag_entries=max(0, status.last_index - progress.match),
                    last_contact_seconds=None if heard_at is None else now - heard_at,
                    catch_up=self.driver.followers.snapshots.report(node_id),
                )
        return followers

    def report_damage(self, error: DamagedData) -> bool:
        """A reader has found damage. The replica is closed, and opened again without what is damaged; returns whether it is.

        It stays open as it is when no other node has what is damaged. The catalog does as well: the rest of the node rests on
        it, and what it has applied is sound. It is mended when the node starts the next time.
        """
        if self.group_id != CATALOG_GROUP and len(self.configuration.nodes) > 1:
            self.close(NotLeader(f"{self.name}: damage was found here, and is being mended: go to another node"))
            self._end(error)
            return True
        way_back = "start this node again, then it is mended" if len(self.configuration.nodes) > 1 else "restore a backup"
        self._damage = f"{error} Until then what is sound is read and written: {way_back}"
        return False

    def close(self, error: EventLogError) -> None:
        """Set the error that all waiters get. Call it before closing the replica for good."""
        self.driver.close(error)
        self.watermark.close(error)

    async def propose_batch(self, batch: Batch, acks: Acks) -> Proposal:
        """Raises as `Proposing.propose`; `Proposal.outcome` gives what has become of the batch."""
        return await self._proposing.propose(batch, acks)

    async def append_events(self, encoded: EncodedEvents, intent: AppendIntent) -> Appended:
        """Append events of an aggregate, which are judged in the leader's turn; returns once they are applied.

        Raises:
            WrongExpectedVersion, AggregateClosed, InvalidArgument: nothing was appended.
            NotLeader, Overloaded: likewise; try again.
            OutcomeUnknown: they may be in the log: the same event ids will tell.
        """
        events = self.events
        if events is None:
            raise InvalidArgument(f"{self.name} holds records and no events: create a topic of events, and append to that")
        if not self.is_leader:
            raise self._leadership.refusal()
        async with events.loaded(intent) as loaded:
            proposal = await self._proposing.propose_events(PendingEvents(encoded=encoded, intent=intent, loaded=loaded))
            result = await proposal.outcome()
        assert isinstance(result, Appended)
        return result

    async def propose_control(self, payload: bytes) -> Proposal:
        return await self._proposing.propose(payload, Acks.QUORUM)

    async def change_configuration(self, change: ConfigurationChange) -> Configuration:
        """As `RaftDriver.propose_configuration`."""
        return await self.driver.propose_configuration(change)

    def while_led_by(self, node_id: NodeId, scope: trio.CancelScope) -> AbstractContextManager[None]:
        """A block within which `scope` is cancelled once a node other than `node_id` is known to lead."""
        return self._leadership.while_led_by(node_id, scope)

    async def wait_leader_other_than(self, node_id: NodeId) -> NodeId:
        """Return once this node knows of another leader, or of none."""
        return await self._leadership.wait_leader_other_than(node_id)

    async def wait_whole(self) -> None:
        """Until the replica has caught up with a leader, if it had lost something."""
        await self._returning.wait_whole()

    async def wait_applied(self, index: int) -> None:
        """Until this node's machine has taken the entry at `index`."""
        await self._applying.wait_applied(index)

    async def has_applied(self, index: int) -> bool:
        """As `wait_applied`. False: the machine has stopped before."""
        return await self._applying.has_applied(index)

    async def wait_linearizable(self) -> None:
        """Until this node's machine shows everything acknowledged before the call."""
        await self._applying.wait_applied(await self._reads.linearizable_index())

    async def wait_readable(self, offset: int) -> None:
        """Until there is a record at `offset` to read.

        Raises:
            Unavailable: no records come here for lack of room on the disk: read at another node.
        """
        if self._space.is_exhausted and not self.is_leader and offset >= self.watermark.value:
            raise Unavailable(
                f"{self.name}: the disk of this node is full, and newer records do not come to it: read at another one"
            )
        await self.watermark.wait_above(offset)

    async def offset_at_timestamp(self, timestamp_ns: int) -> int:
        """Offset of the first batch with a record stamped at `timestamp_ns` or later; the high watermark when there is none.

        It may be the log start although what follows there is older: when such a batch is still in the files, and hidden.
        """
        return min(await self.log.find_offset_at(timestamp_ns), self.watermark.value)

    async def transfer_leadership(self, to: NodeId | None, seconds_max: float) -> NodeId:
        """Hand over to `to`, or to the voter that is closest behind; returns who leads then.

        Raises:
            NotLeader: this node does not lead.
            InvalidArgument: `to` is no voter.
            NoQuorum: no other voter keeps up.
            OutcomeUnknown: no other node had taken over in time; this node may still lead.
        """
        if not self.is_leader:
            raise NotLeader(f"{self.name} is not led by this node", self.leader_id)
        status = self.status()
        if to is None:
            to = best_successor(status, self.node_id)
            if to == NOBODY:
                raise NoQuorum(f"{self.name} has no other voter that keeps up and could take over")
        if to not in status.configuration.voters:
            raise InvalidArgument(f"node {format_id(to)} is no voter of {self.name}")
        if to == self.node_id:
            return to
        self.driver.requests.transfer_leadership(to)
        with trio.move_on_after(seconds_max):
            leader_id = self.node_id
            while leader_id in (self.node_id, NOBODY):
                leader_id = await self._leadership.wait_leader_other_than(leader_id)
            return leader_id
        raise OutcomeUnknown(f"{format_id(to)} had not taken over {self.name} after {seconds_max:g} s: check which node leads")


def _end_by(nursery: trio.Nursery, error: DamagedData) -> None:
    async def fail() -> None:
        raise error

    nursery.start_soon(fail)


@asynccontextmanager
async def open_replica(
    *,
    node_id: NodeId,
    group_id: GroupId,
    name: str,
    disk: Disk,
    directory: str,
    configuration: Configuration,
    applier: Applier,
    watermark: Watermark,
    send: Send,
    settings: ReplicaSettings,
    sealed: SealedSegments,
    rng: random.Random,
    peers: Peers | None = None,
    noted: Extent | None = None,
    accepts_loss: bool = False,
    is_alone: bool = False,
    is_made: bool = False,
    first_leader: NodeId = NOBODY,
    space: SpaceView = AMPLE,
    snapshot_slots: trio.CapacityLimiter | None = None,
    events: PartitionEvents | None = None,
    on_snapshot: Callable[[Message], None] = lambda message: None,
    has_others: bool = False,
    suspect: str = "",
) -> AsyncIterator[Replica]:
    """Open a group's files, in one operation of the disk, and run its driver for the length of the block.

    Args:
        directory: of the group; made when missing.
        configuration: the group's first one. Later ones are in its log, and in its snapshots.
        applier: with an empty machine; it takes the newest snapshot, and is fed from there on.
        sealed, snapshot_slots, space: of all groups of the node; the last is room on the disk.
        peers: None: the group never sleeps.
        noted: the position of the log's end that the node has last made durable; None: it never did.
        accepts_loss: the operator accepts that something is lost, and wants to go on with what is left.
        is_alone: no other node has ever been in the cluster, so no other node can have what is lost here.
        is_made: this process has made the group's files (`DataDirectory.make_groups`), and they are durable.
        first_leader: the node that should lead when there is no leader; NOBODY: it does not matter.
        events: of a partition of events; the same that the applier has.
        on_snapshot: see `RaftDriver`.
        space: room on the disk.
        has_others: other nodes have replicas of the group. What is damaged here is set aside then, and comes back from them.
        suspect: path of a file in which damage was found when the replica was open before; "" for none.

    Raises:
        DamagedData: files are damaged, or something is lost, and no other node could have it; or damage was found within the block.
    """
    opening = _Opening(
        disk=disk, directory=directory, name=name, log=settings.log, sealed=sealed, decode_snapshot=applier.decode_snapshot,
        noted=noted, accepts_loss=accepts_loss, is_alone=is_alone, is_made=is_made, has_others=has_others, suspect=suspect,
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        files, run_events = await _enter_files(opening, events, stack)
        snapshots = SnapshotStore(disk, directory, files.snapshots, snapshot_slots)
        core = _make_core(node_id, settings.raft, files, snapshots, configuration, first_leader, rng)
        make_driver = partial(RaftDriver, group_id, core, files.log, files.hard_state, snapshots, applier, send, settings.driver)
        driver = make_driver(
            name=name,
            read_nonce=rng.getrandbits(64),
            departed=files.departed,
            peers=peers,
            space=space,
            on_caught_up=partial(end_loss, disk, directory),
            on_snapshot=on_snapshot,
        )
        stack.callback(watermark.close, ShuttingDown("this node is stopping: go to another one"))
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            nursery.start_soon(run_events)
            yield Replica(node_id, core, driver, files.log, watermark, files.departed, space, partial(_end_by, nursery), events)
            nursery.cancel_scope.cancel()


async def _enter_files(
    opening: "_Opening", events: PartitionEvents | None, stack: AsyncExitStack
) -> tuple["_Files", Callable[[], Awaitable[None]]]:
    """Open the files of a replica, and what a partition of events has beside them, until `stack` closes them. Returns also the
    task of the latter."""
    files = await opening.disk.at_once(partial(_open_files, opening))
    stack.push_async_callback(files.log.aclose)
    await stack.enter_async_context(files.hard_state)
    if events is None:
        return files, trio.lowlevel.checkpoint
    await events.open(files.log)
    stack.push_async_callback(events.aclose)
    return files, events.run


def _make_core(
    node_id: NodeId,
    settings: RaftSettings,
    files: "_Files",
    snapshots: SnapshotStore,
    configuration: Configuration,
    first_leader: NodeId,
    rng: random.Random,
) -> RaftNode:
    """The core of a replica. The machine takes the newest snapshot before, if there is one."""
    if files.snapshots.newest is not None:
        files.snapshots.newest.restore()
        configuration = files.snapshots.newest.metadata.configuration
    view = SegmentedLogView(files.log, snapshots)
    core = RaftNode(node_id, settings, files.hard_state.state, configuration, view, rng, snapshots.newest_index)
    if first_leader in core.configuration.voters:
        core.set_randomized_election_timeout(_first_election_ticks(settings, first_leader == node_id, rng))
    return core


def _first_election_ticks(settings: RaftSettings, is_first_leader: bool, rng: random.Random) -> int:
    """After how many ticks without a leader a replica that has just been opened stands for election.

    When all nodes start, all replicas of all groups have no leader. If all of them stood at random times, thousands of elections
    would have several candidates each, and take each other's time until they fail. So the first leader stands first, within an
    election timeout (not at once: another one may lead already, and is about to be heard), and the others only after another half
    of one, if it is not there.
    """
    timeout = settings.election_timeout_ticks
    if is_first_leader:
        return timeout // 2 + rng.randint(1, timeout // 2)
    return timeout + timeout // 2 + rng.randrange(timeout)


@attrs.frozen(slots=True, kw_only=True)
class _Opening:
    """What the files of a replica are opened by: see `open_replica`. `disk` uses them afterwards."""

    disk: Disk
    directory: str
    name: str
    log: LogSettings
    sealed: SealedSegments
    noted: Extent | None
    accepts_loss: bool
    is_alone: bool
    is_made: bool
    decode_snapshot: Callable[[bytes], Callable[[], None]]
    has_others: bool
    suspect: str


@attrs.frozen(slots=True, kw_only=True)
class _Files:
    """The files of a replica, opened and judged."""

    departed: Departed
    log: SegmentedLog
    hard_state: HardStateFile
    snapshots: Found


async def _open_files(opening: _Opening, disk: Disk) -> _Files:
    """What `open_replica` does on the disk; `disk` is that of `at_once`."""
    directory = opening.directory
    if not opening.is_made:
        if await finish_install(disk, directory) is not None:
            logger.info("%s: the installation of a snapshot was finished", opening.name)
        if opening.noted is None and await disk.exists(directory):
            # Making it may have been cut short, by an error or a kill, which leaves names in the kernel's cache only.
            await disk.sync_directory(parent_directory(directory))
            await disk.sync_directory(directory)
        await disk.make_directory(directory)
    departed = await load_departed(disk, directory)
    hard_state_path = join_path(directory, HARD_STATE_FILE)
    has_hard_state = await disk.exists(hard_state_path)
    mending = Mending(
        name=opening.name,
        directory=directory,
        suspect=opening.suspect,
        may_mend=opening.has_others or opening.accepts_loss,
    )
    (log, snapshots), departed = await mending.open_log(disk, departed, partial(_open_log, opening, disk))
    hard_state: HardStateFile | None = None
    try:
        if has_hard_state:
            hard_state, departed = await mending.open_hard_state(disk, departed, is_durable=opening.is_made)
            has_hard_state = hard_state is not None
        if hard_state is None:
            # Before the file is made: from then on nothing would show that it was gone.
            departed = await _judge_files(opening, disk, departed, log, None, snapshots)
            hard_state = await HardStateFile.open(disk, hard_state_path, is_durable=opening.is_made)
        if not has_hard_state and (departed.is_vote_lost or opening.accepts_loss) and log.last_index:
            # Never again a term that the log holds.
            term = max(log.last_term, opening.noted.term if opening.noted is not None else 0) + 1
            await hard_state.save(HardState(term=term))
        departed = await _judge_files(opening, disk, departed, log, hard_state, snapshots)
    except BaseException:
        log.close_nowait()
        if hard_state is not None:
            hard_state.close_nowait()
        raise
    return _Files(departed=departed, log=log, hard_state=hard_state, snapshots=snapshots)


async def _open_log(opening: _Opening, disk: Disk) -> tuple[SegmentedLog, Found]:
    """The log, and the snapshots that fit it. Raises DamagedData, NewerRelease."""
    path = join_path(opening.directory, LOG_DIRECTORY)
    log = await recover_segmented_log(disk, opening.disk, path, opening.log, opening.sealed, is_durable=opening.is_made)
    try:
        return log, await _find_snapshots(opening, disk, log)
    except BaseException:
        log.close_nowait()
        raise


async def _find_snapshots(opening: _Opening, disk: Disk, log: SegmentedLog) -> Found:
    """The snapshot to begin with. Raises DamagedData, or NewerRelease, when the log needs one and there is none."""

    def fit(name: SnapshotName) -> bool | None:
        if name.index < log.base.index:
            return False
        return True if name.index <= log.last_index and log.term(name.index) == name.term else None

    found = await find_snapshots(disk, opening.directory, fit, opening.decode_snapshot)
    for problem in found.problems:
        logger.warning("%s: a snapshot is passed over: %s", opening.name, problem)
    if found.newest is None and log.base.index:
        if found.newer_release:
            raise NewerRelease(f"{opening.directory}: {found.newer_release}")
        raise DamagedData(
            f"{opening.directory}: the log begins after entry {log.base.index}, and no snapshot is left of what was before."
            " Restore the data directory from a backup; or, when other nodes carry the group, remove this node from its cluster and"
            " start it again with an empty data directory",
            path=join_path(opening.directory, LOG_DIRECTORY, BASE_FILE),
        )
    return found


async def _judge_files(
    opening: _Opening,
    disk: Disk,
    departed: Departed,
    log: SegmentedLog,
    hard_state: HardStateFile | None,
    snapshots: Found,
) -> Departed:
    """Look at all files of a replica together; what is lost takes its vote away, durably, before anything else is written."""
    directory, name, noted = opening.directory, opening.name, opening.noted
    last_term, last_index = max((log.last_term, log.last_index), (departed.last_term, departed.last_index))
    state = hard_state.state if hard_state is not None else HardState()
    commit_index = state.commit
    found = find_loss(
        Held(
            has_hard_state=hard_state is not None,
            term=state.term,
            commit_index=commit_index,
            last_term=last_term,
            last_index=last_index,
            snapshot_index=snapshots.beyond.index if snapshots.beyond is not None else 0,
        ),
        noted,
    )
    if opening.accepts_loss:
        if departed.loss or found is not None:
            logger.warning("%s goes on with what is left: %s", name, departed.loss or (found.text if found is not None else ""))
            departed = Departed()
            # What it covers may come to be something else.
            await remove_unfit_snapshots(disk, directory, snapshots)
            await save_departed(disk, directory, departed)
            if hard_state is not None and commit_index > log.last_index:
                await hard_state.save(attrs.evolve(hard_state.state, commit=log.last_index))
        return departed
    if found is not None and not departed.loss:
        if opening.is_alone:
            raise DamagedData(
                f"{directory}: {found.text}. What was acknowledged is lost here, and there is no other node that has it: restore"
                " the data directory from a backup, or start with --accept-loss to go on with what is left",
                path=directory,
            )
        departed = attrs.evolve(departed, loss=found.text, is_vote_lost=found.is_vote_lost)
        await save_departed(disk, directory, departed)
    if departed.loss:
        logger.error("%s: %s", name, departed.loss)
    return departed
