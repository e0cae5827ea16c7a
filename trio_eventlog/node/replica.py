"""One node's copy of one group: log, core, driver, machine, put together and opened as one thing."""

import random
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager

import attrs
import trio

from trio_eventlog.errors import EventLogError, InvalidArgument, NoQuorum, NotLeader, OutcomeUnknown, ShuttingDown
from trio_eventlog.ids import NOBODY, GroupId, NodeId, format_id
from trio_eventlog.node.appliers import Applier
from trio_eventlog.node.departed import Departed, load_departed
from trio_eventlog.node.log_view import SegmentedLogView
from trio_eventlog.node.proposals import Proposal
from trio_eventlog.node.raft_driver import DriverSettings, Peers, RaftDriver, Send
from trio_eventlog.node.watermark import Watermark
from trio_eventlog.raft import Configuration, ConfigurationChange, RaftNode, RaftSettings, Status
from trio_eventlog.raft.progress import ProgressState
from trio_eventlog.records import Acks, Batch
from trio_eventlog.storage.data_directory import HARD_STATE_FILE, LOG_DIRECTORY
from trio_eventlog.storage.disk import Disk, join_path
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.segmented_log import LogSettings, SegmentedLog, open_segmented_log


@attrs.frozen(slots=True, kw_only=True)
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
        keeps_up: entries are sent to it as they come; it is neither probed nor unreachable.
        lag_entries: of the leader's log, so many at the end are not known to be durable there.
        last_contact_seconds: since its last message of this group; None: it has not sent any in this life of the leader.
    """

    is_learner: bool
    keeps_up: bool
    lag_entries: int
    last_contact_seconds: float | None


class Replica:
    """A group on this node, running.

    Attributes:
        name: for people and log lines: "catalog", or topic and partition.
        watermark: the high watermark; stays 0 in the catalog.
        log: for readers; only the driver appends.
        departed: how far the log went that was here before.
    """

    def __init__(
        self, node_id: NodeId, group_id: GroupId, driver: RaftDriver, log: SegmentedLog, watermark: Watermark, departed: Departed
    ) -> None:
        self.node_id = node_id
        self.group_id = group_id
        self.driver = driver
        self.log = log
        self.watermark = watermark
        self.departed = departed

    @property
    def name(self) -> str:
        return self.driver.name

    @property
    def leader_id(self) -> NodeId:
        return self.driver.leader_id

    @property
    def is_leader(self) -> bool:
        return self.driver.is_leader

    @property
    def entries_behind(self) -> int:
        return self.driver.entries_behind

    @property
    def stopped_because(self) -> str:
        return self.driver.stopped_because

    def status(self) -> Status:
        return self.driver.status()

    def voters(self) -> Collection[NodeId]:
        """Voters of the configuration in force."""
        return self.configuration.voters

    @property
    def configuration(self) -> Configuration:
        """The one in force."""
        return self.driver.configuration

    def followers(self) -> dict[NodeId, Follower]:
        """Voters and learners of the group but this node; empty unless it leads."""
        status = self.status()
        now = trio.current_time()
        followers = {}
        for node_id, progress in status.progress.items():
            if node_id != self.node_id:
                heard_at = self.driver.heard_at(node_id)
                followers[node_id] = Follower(
                    is_learner=progress.is_learner,
                    keeps_up=progress.state == ProgressState.REPLICATE.value,
                    lag_entries=max(0, status.last_index - progress.match),
                    last_contact_seconds=None if heard_at is None else now - heard_at,
                )
        return followers

    def close(self, error: EventLogError) -> None:
        """What everybody who waits here is told; the replica is about to be closed for good."""
        self.driver.close(error)
        self.watermark.close(error)

    async def propose_batch(self, batch: Batch, acks: Acks) -> Proposal:
        """Raises as `RaftDriver.propose`; what becomes of the batch is told by `Proposal.outcome`."""
        return await self.driver.propose(batch, acks)

    async def propose_control(self, payload: bytes) -> Proposal:
        return await self.driver.propose(payload, Acks.QUORUM)

    async def change_configuration(self, change: ConfigurationChange) -> Configuration:
        """As `RaftDriver.propose_configuration`."""
        return await self.driver.propose_configuration(change)

    def while_led_by(self, node_id: NodeId, scope: trio.CancelScope) -> AbstractContextManager[None]:
        """A block within which `scope` is cancelled when somebody else than `node_id` is known to lead."""
        return self.driver.while_led_by(node_id, scope)

    async def wait_leader_other_than(self, node_id: NodeId) -> NodeId:
        """Until the leader this node knows of is another (or nobody)."""
        return await self.driver.wait_leader_other_than(node_id)

    async def wait_linearizable(self) -> None:
        """Until this node's machine shows everything acknowledged before the call."""
        await self.driver.wait_applied(await self.driver.linearizable_index())

    async def wait_readable(self, offset: int) -> None:
        """Until there is a record at `offset` to read."""
        await self.watermark.wait_above(offset)

    async def offset_at_timestamp(self, timestamp_ns: int) -> int:
        """Offset of the first batch with a record stamped at `timestamp_ns` or later; the high watermark when there is none."""
        return min(await self.log.find_offset_at(timestamp_ns), self.watermark.value)

    async def transfer_leadership(self, to: NodeId | None, seconds_max: float) -> NodeId:
        """Hand over to `to`, or to the voter that is closest behind; returns who leads then.

        Raises:
            NotLeader: this node does not lead.
            InvalidArgument: `to` is no voter.
            NoQuorum: no other voter keeps up.
            OutcomeUnknown: nobody had taken over in time; this node may lead on.
        """
        if not self.is_leader:
            raise NotLeader(f"{self.name} is not led by this node", self.leader_id)
        status = self.status()
        if to is None:
            others = [
                (progress.match, node_id)
                for node_id, progress in status.progress.items()
                if node_id != self.node_id
                and node_id in status.configuration.voters
                and progress.state == ProgressState.REPLICATE.value
            ]
            if not others:
                raise NoQuorum(f"{self.name} has no other voter that keeps up and could take over")
            _, to = max(others)
        if to not in status.configuration.voters:
            raise InvalidArgument(f"node {format_id(to)} is no voter of {self.name}")
        if to == self.node_id:
            return to
        self.driver.transfer_leadership(to)
        with trio.move_on_after(seconds_max):
            leader_id = self.node_id
            while leader_id in (self.node_id, NOBODY):
                leader_id = await self.driver.wait_leader_other_than(leader_id)
            return leader_id
        raise OutcomeUnknown(f"{format_id(to)} had not taken over {self.name} after {seconds_max:g} s: look who leads")


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
    rng: random.Random,
    peers: Peers | None = None,
) -> AsyncIterator[Replica]:
    """Open a group's files and run its driver for the length of the block.

    Args:
        directory: of the group; made when missing.
        configuration: the group's first one. Later ones are in its log.
        applier: with an empty machine; it is fed from the first entry on.
        peers: None: the group never sleeps.
    """
    async with AsyncExitStack() as stack:
        await disk.make_directory(directory)
        departed = await load_departed(disk, directory)
        hard_state = await stack.enter_async_context(await HardStateFile.open(disk, join_path(directory, HARD_STATE_FILE)))
        log = await stack.enter_async_context(open_segmented_log(disk, join_path(directory, LOG_DIRECTORY), settings.log))
        core = RaftNode(node_id, settings.raft, hard_state.state, configuration, SegmentedLogView(log), rng)
        driver = RaftDriver(
            group_id,
            core,
            log,
            hard_state,
            applier,
            send,
            settings.driver,
            name=name,
            read_nonce=rng.getrandbits(64),
            departed=departed,
            peers=peers,
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(driver.run)
                yield Replica(node_id, group_id, driver, log, watermark, departed)
                nursery.cancel_scope.cancel()
        finally:
            watermark.close(ShuttingDown("this node is stopping: go to another one"))
