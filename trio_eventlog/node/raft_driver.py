"""The loop that carries out what a Raft core decides. One task owns the core; nobody else changes it.

Each turn: take everything that has arrived (messages, proposals, ticks, what the disk finished, what was applied), step it all,
take the `Ready`, send what may leave at once, hand the rest to the disk task, go on while the disk works. Whatever arrives during
one fsync is the next write: group commit needs no timer.

What may leave when (docs/design/record-path.md):

- `Ready.messages` leave at once, in parallel with the disk: a leader's APPENDs promise nothing about its own disk.
- `Ready.append.responses` (votes, append replies, the leader's own acknowledgement) leave after the fsync of that append.
- Committed entries are applied in order, and only then is a proposal answered.
- The commit index is made durable before a configuration is switched: a node must never wake up in an older configuration than
  one it has acted in.

The turn is here. What it is made of is in parts that this task owns, each with its own state (docs/design/node.md): `followers`
(what is sent), `disk_writer`, `reads`, `applying`, `proposing`; and the small `leadership`, `entry_frames`, `returning` and
`sleeping`.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import trio

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.lives import Extent
from trio_eventlog.errors import EventLogError, NotLeader, OutcomeUnknown, ShuttingDown
from trio_eventlog.ids import CATALOG_GROUP, NOBODY, GroupId, NodeId, format_id
from trio_eventlog.net.line_budget import LineBudget
from trio_eventlog.node.appliers import Applier
from trio_eventlog.node.applying import Applying
from trio_eventlog.node.configuration_changes import PendingChanges
from trio_eventlog.node.core_requests import CoreRequests
from trio_eventlog.node.departed import NEVER, Departed
from trio_eventlog.node.disk_space import AMPLE, SpaceView
from trio_eventlog.node.disk_writer import DiskWriter, Write
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.entry_frames import EntryFrames
from trio_eventlog.node.followers import Followers, Send
from trio_eventlog.node.inbox import Inbox, Received
from trio_eventlog.node.leadership import Leadership
from trio_eventlog.node.mending import damage_in
from trio_eventlog.node.proposing import Proposing
from trio_eventlog.node.reads import Reads
from trio_eventlog.node.returning import Returning
from trio_eventlog.node.sleeping import Peers, Sleeping
from trio_eventlog.node.snapshot_sends import SnapshotSends
from trio_eventlog.node.snapshotting import Snapshotting
from trio_eventlog.raft import (
    Configuration,
    ConfigurationChange,
    ConfigurationError,
    Event,
    Message,
    MessageType,
    ProposalDropped,
    ProtocolError,
    RaftNode,
    ReadMode,
)
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.segmented_log import SegmentedLog
from trio_eventlog.storage.snapshots import SnapshotStore

logger = logging.getLogger(__name__)

REFUSAL_LINES_MAX = 5
"""Lines about refused messages of a group in a minute."""

_ELECTIONS = frozenset({MessageType.VOTE, MessageType.PRE_VOTE, MessageType.TIMEOUT_NOW})


@attrs.frozen(slots=True, kw_only=True)
class DriverStatistics:
    """Counters of one driver since it was opened."""

    appends: int
    appended_entries: int
    appended_bytes: int
    applied_entries: int
    elections_won: int
    dropped_messages: int
    protocol_errors: int
    queued_proposal_bytes: int
    times_asleep: int


class RaftDriver:
    """Carries out one core's decisions. `run` is the task that owns the core; every other method is for other tasks.

    Args:
        core: made from what the disk holds.
        snapshots: on the disk.
        applier: its machine holds what the core takes for applied.
        name: what log lines call the group.
        departed: how far the log went that was here before, if one was (`departed`).
        on_caught_up: writes down that a replica which had lost entries has caught up.
        peers: None: the group never sleeps.
        space: room on the disk.
        on_snapshot: takes a SNAPSHOT whose data has to be here before the replica can begin anew with it.
        read_nonce: of this start of the node; see `Reads`.

    Attributes:
        leadership, reads, proposing, applying, followers, disk_writer, returning, sleeping, snapshotting, requests: its parts. Each
            says which of its methods are for other tasks.
    """

    def __init__(
        self,
        group_id: GroupId,
        core: RaftNode,
        log: SegmentedLog,
        hard_state: HardStateFile,
        snapshots: SnapshotStore,
        applier: Applier,
        send: Send,
        settings: DriverSettings,
        *,
        name: str,
        read_nonce: int = 0,
        departed: Departed = NEVER,
        on_caught_up: Callable[[Departed], Awaitable[None]] | None = None,
        peers: Peers | None = None,
        space: SpaceView = AMPLE,
        on_snapshot: Callable[[Message], None] = lambda message: None,
    ) -> None:
        self.group_id = group_id
        self.name = name
        self._core = core
        self._log = log
        self._hard_state = hard_state
        self._settings = settings
        self._on_snapshot = on_snapshot
        self._inbox = Inbox(settings.inbox_messages_max, settings.inbox_bytes_max)
        wake = self._inbox.wake
        self.leadership = Leadership(core, name)
        self.reads = Reads(core, self.leadership, settings, name, read_nonce, wake)
        self.proposing = Proposing(core, applier, self.leadership, self.reads, settings, name, wake, space)
        self._space = space
        self._entry_frames = EntryFrames(core, log, self.proposing, name, self._start, self.receive)
        hand_over = self.proposing.hand_over
        self.disk_writer = DiskWriter(
            log, hard_state, name, settings.shortage_retry_seconds, wake, lambda: self.requests.add(hand_over), space.look_soon
        )
        sends = SnapshotSends(core, log, settings.snapshot_sends, lambda: self.snapshotting.request())
        self.followers = Followers(group_id, core, log, settings, send, self._start, self._on_lost, sends)
        self.applying = Applying(
            core,
            log,
            applier,
            self.proposing,
            settings,
            name,
            persist_commit=self._persist_commit,
            confine=self._confine,
            wake=wake,
        )
        self.snapshotting = Snapshotting(core, log, snapshots, self.applying, settings, name, self._start, self.disk_writer.seal)
        self.returning = Returning(
            core, log, name, departed, lambda: self.applying.index, self._start, self.followers.send_message, on_caught_up
        )
        # A lease is counted in ticks, of which a sleeping leader has none.
        may_sleep = settings.sleep_after_ticks and core.settings.read_mode is not ReadMode.LEASE
        self.sleeping = Sleeping(
            group_id,
            core,
            self.returning,
            name,
            settings.sleep_after_ticks,
            settings.sleep_unused_after_ticks,
            peers if may_sleep else None,
            self._is_quiet,
        )
        self._changes = PendingChanges()
        self.requests = CoreRequests(core, self.followers, self.returning, self.sleeping, name, wake)
        self._ticks_due = 0
        self._announced_commit_index = 0
        """Highest commit index announced by any leader. May be ahead of the entries held here."""
        self.state_changes = 0
        """Number of changes of the role, the leader or the configuration since this was opened."""
        self._closed_by: EventLogError | None = None
        self._counters = Counter[str]()
        self._refusal_lines = LineBudget(logger, f"{name}: refused messages", lines_max=REFUSAL_LINES_MAX)
        self._nursery: trio.Nursery | None = None

    # For other tasks

    @property
    def extent(self) -> Extent:
        """How far this replica went, as far as that is durable."""
        log = self._log
        return Extent(
            term=self._hard_state.state.term,
            last_term=log.last_term,
            last_index=log.last_index,
            commit_index=min(self._core.commit_index, log.last_index),
        )

    @property
    def entries_behind(self) -> int:
        """Entries that are committed, as far as this node has heard, and not applied here."""
        return max(self._announced_commit_index, self._core.commit_index) - self.applying.index

    def statistics(self) -> DriverStatistics:
        writer = self.disk_writer
        return DriverStatistics(
            appends=writer.appends,
            appended_entries=writer.appended_entries,
            appended_bytes=writer.appended_bytes,
            applied_entries=self.applying.count,
            elections_won=self._counters["elections_won"],
            dropped_messages=self._inbox.dropped,
            protocol_errors=self._counters["protocol_errors"],
            queued_proposal_bytes=self.proposing.queued_bytes,
            times_asleep=self.sleeping.times_asleep,
        )

    async def propose_configuration(self, change: ConfigurationChange) -> Configuration:
        """Change the group's configuration; returns the one that is in force once the change is applied here.

        A change by a joint configuration is applied when that is entered; it is left by itself.

        Raises:
            NotLeader, ProposalDropped: refused for now: another node leads, or an earlier change may be unapplied.
            ConfigurationError: not legal in the present configuration.
            OutcomeUnknown: leadership was lost before the change was applied: it may come to be in force or not.
            ShuttingDown.
        """
        pending = self._changes.add(change)

        def propose() -> None:
            try:
                pending.index = self._core.propose_configuration(change)
            except (NotLeader, ProposalDropped, ConfigurationError) as error:
                self._changes.refused(pending, error)

        self.requests.add(propose)
        return await pending.outcome()

    def receive(self, received: Received) -> None:
        """A peer's message; dropped when the inbox is full."""
        if self.returning.is_vote_lost:
            return
        self._inbox.put_message(received)

    def tick(self) -> None:
        """Another tick has passed."""
        self._ticks_due += 1
        self._inbox.wake()

    def close(self, error: EventLogError) -> None:
        """Set the error that all waiters get when `run` is cancelled (default ShuttingDown). Call it before cancelling."""
        self._closed_by = self._closed_by or error
        for part in (self.leadership, self.reads, self.applying, self.snapshotting):
            part.close(self._closed_by)

    # The loop

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive until cancelled. Anything that leaves this is fatal for the node (a failed write, a bug), but for damaged data of a
        partition: its replica is opened again."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.disk_writer.run)
                nursery.start_soon(self.applying.run)
                nursery.start_soon(self.followers.run)
                task_status.started()
                self.snapshotting.look_at_log()
                self._take_ready()
                while True:
                    await self._inbox.wait()
                    self._turn()
        except BaseExceptionGroup as group:
            if self.group_id != CATALOG_GROUP and damage_in(group) is not None:
                self.close(NotLeader(f"{self.name}: damage was found here, and is being mended: go to another node"))
            raise
        finally:
            self._nursery = None
            self._end()

    def _end(self) -> None:
        # Of a group that goes on elsewhere, what was in flight may come to be committed there.
        is_gone = self._closed_by is not None and not isinstance(self._closed_by, NotLeader)
        error = self._closed_by or ShuttingDown("this node is stopping: go to another one")
        self.close(error)
        self.proposing.close(error)
        self._changes.close(error)
        self.proposing.end("this node is stopping", error if is_gone else None)
        self.reads.end()
        self.applying.end()
        self.leadership.end()

    def _on_lost(self, node_id: NodeId) -> None:
        self.requests.report_unreachable(node_id)

    def _start(self, work: Callable[..., Awaitable[object]], *arguments: Any) -> None:
        """A task that ends with the driver."""
        assert self._nursery is not None
        self._nursery.start_soon(work, *arguments)

    def _turn(self) -> None:
        core = self._core
        while self.disk_writer.has_written:
            self._finish_write(self.disk_writer.take_written())
        while self.applying.has_notices:
            self._finish_applying(*self.applying.take_notice())
        has_ticked = self._ticks_due > 0 and not self.sleeping.is_asleep
        self._ticks_due = 0
        if has_ticked:
            # A loop that was held up has missed ticks, and so has seen no messages: catching up would start elections for nothing.
            self.sleeping.tick()
            if not self.returning.is_returning:
                core.tick()
            else:
                self.returning.tick(self._announced_commit_index, self.entries_behind)
            self.proposing.tick()
            self.reads.tick()
            self.followers.snapshots.tick()
        now = trio.current_time()
        for received in self._inbox.take_messages():
            self.followers.heard_at[received.message.sender] = now
            self.sleeping.met(received.message)
            self._step(received)
            if received.asks_to_sleep:
                self.sleeping.ask(received.message)
        self.requests.carry_out_quiet()
        if self.requests or self.reads.are_new or self.proposing.queued_count:
            self.sleeping.rouse("work")
            if self.reads.are_new or self.proposing.queued_count:
                self.sleeping.used()
        self.requests.carry_out()
        if self.reads.are_new:
            self.reads.ask()
        self._take_ready()
        if core.is_leader and self.disk_writer.shortage:
            # It can append nothing for now, and would only fill its memory with what the followers may commit.
            self.proposing.refuse_for_lack_of_room()
        elif self.proposing.queued_count:
            self.proposing.take(self.applying.index, self._entry_frames.end_offset)
            self._take_ready()
        self.sleeping.end_turn(has_ticked)

    def _step(self, received: Received) -> None:
        message = received.message
        try:
            news: Sequence[EntryFrame] = ()
            if received.frames:
                position = self._core.find_news(message)
                news = received.frames[position:] if position else received.frames
                is_refused = self._space.is_exhausted and any(frame.record_count for frame in news)
                if news and (is_refused or not self._entry_frames.continues_offsets(received, news[0])):
                    # Who leads, and where the logs agree, is heard at once. Records that there is no room for come again, as if
                    # they were lost on the way.
                    message, news = attrs.evolve(message, entries=(), last_index=message.index), ()
            elif message.type is MessageType.SNAPSHOT and self._core.wants_snapshot(message):
                # It comes back to the replica that is opened with it.
                self._on_snapshot(message)
                return
            elif message.type in _ELECTIONS and not self.returning.may_take_part(message):
                return
            self._core.step(message)
            if news and self._core.entry_term(news[0].index) == news[0].term:
                # Taken, and only now: what is refused must not lend its bytes to an entry of the same term and index.
                for frame in news:
                    self._entry_frames.keep(frame)
            if message.type is MessageType.APPEND:
                self._announced_commit_index = max(self._announced_commit_index, message.commit)
        except (ProtocolError, ProposalDropped) as error:
            self._counters["protocol_errors"] += 1
            sender = message.sender
            # One that was taken out of the configuration just now still answers what it was sent before.
            level = logging.WARNING if sender in self._core.configuration.nodes else logging.DEBUG
            self._refusal_lines.log(level, "%s: a message of %s was refused: %s", self.name, format_id(sender), error)

    def _is_quiet(self) -> bool:
        """Everything is durable, committed and applied here, and no caller waits."""
        core = self._core
        last_index = core.last_index
        return (
            last_index == core.stable_index == core.commit_index == core.applied_index == self.applying.index
            and self.disk_writer.is_idle
            and not self.applying.has_notices
            and self.reads.is_idle
            and not self.requests
            and self.followers.is_idle
            and self.proposing.is_idle
        )

    # What the core decided

    def _take_ready(self) -> None:
        while (ready := self._core.ready()) is not None:
            if ready.soft_state is not None:
                self._on_soft_state()
            frames: list[EntryFrame] = []
            append = ready.append
            if append is not None and append.entries:
                frames = [self._entry_frames.frame_of(entry) for entry in append.entries]
                self._log.stage(frames)
            for message in ready.messages:
                self.followers.send_message(message)
            if append is not None:
                write = self.disk_writer.write_of(append, frames)
                if append.must_sync or not self.disk_writer.is_idle:
                    self.disk_writer.put(write)
                else:
                    # A commit index alone is not worth a write, and with nothing before it, it is done.
                    self._finish_write(write)
            if ready.committed and self.applying.take(ready.committed):
                self._core.on_applied(ready.committed[-1])
                self.snapshotting.take_captured()
            for state in ready.read_states:
                self.reads.answer(state)
            for event in ready.events:
                self._log_event(event)
        self._entry_frames.forget_received()

    def _finish_write(self, write: Write) -> None:
        """The disk has it: now the promises that depend on it may leave."""
        if write.done is not None:
            write.done.set()
        self.snapshotting.look_at_log()
        for message in write.responses:
            if message.to == self._core.node_id:
                self._step(Received(message))
            else:
                self.followers.send_message(message)
        if write.token is not None:
            self._core.on_appended(write.token)
        if write.frames:
            self.proposing.on_durable(write.frames[-1].index)

    def _finish_applying(self, index: int, change: ConfigurationChange | None) -> None:
        """The machine has taken the entries up to `index`; `change` is what stands there, if it changes the configuration."""
        if change is not None:
            # If the change removes this leader, it will not announce any more that the change is committed. Its only follower
            # would then count this node as a voter in every election, for ever.
            self.followers.send_notices()
            try:
                configuration = self._core.apply_configuration(change, index)
                self.state_changes += 1
                self.followers.keep_only(configuration)
                self._changes.applied(index, change, configuration)
            except ConfigurationError as error:
                self._changes.applied(index, change, error)
                logger.error("%s: entry %d changes nothing, on every replica alike: %s", self.name, index, error)
        self._core.on_applied(index)
        self.snapshotting.take_captured()
        self.snapshotting.look_at_start()

    def _on_soft_state(self) -> None:
        """Another leader, another term, or another role of this node."""
        self.state_changes += 1
        if self._core.is_leader:
            self._counters["elections_won"] += self.proposing.begin_to_lead()
        else:
            self.proposing.lead_no_more()
            self._changes.abandon(OutcomeUnknown("leadership was lost before the change was applied: look at the configuration"))
        self.reads.leadership_changed()
        self.leadership.changed()

    def _log_event(self, event: Event) -> None:
        level = logging.ERROR if event.kind.name.startswith("ALARM") else logging.INFO
        about = f" node {format_id(event.node)}" if event.node != NOBODY else ""
        text = f" ({event.text})" if event.text else ""
        logger.log(level, "%s: term %d: %s%s%s", self.name, event.term, event.kind.value, about, text)

    async def _persist_commit(self, index: int) -> None:
        """Make the commit index durable before what it commits takes effect."""
        if self._hard_state.state.commit < index:
            await self.disk_writer.persist_commit(index, self._core.status().hard_state)

    def _confine(self, why: str) -> None:
        """Nothing is applied here any more: this replica does not lead."""

        def confine() -> None:
            self._core.confine(why)
            self.proposing.abandon_above(self.applying.index, "this node cannot apply what it has committed")

        self.requests.add(confine)
