"""Every transition of a Raft node, one method per role and message type. After etcd-io/raft.

Two rules:

1. Everything a method decides ends up in this object's state, to be collected by `ready()`; nothing is done here.
2. Whatever is refused is refused before the first change: an exception leaves the node as it was.

Theory of operation. `step` looks at the terms first (`_step_newer_term`, `_step_older_term`) and then hands the message to
`_HANDLERS[role, type]`, the table at the end of this file; a pair that is not in the table is ignored. A node enters a role
through one of the four `_become_*` methods. What may leave at once goes to `_messages`, what has to wait for the disk to
`_after_append`.
"""

import random
import struct
from collections import deque
from collections.abc import Callable, Sequence

import attrs

from trio_eventlog.bounds import TERM_JUMP_MAX, TERM_MAX
from trio_eventlog.errors import NotLeader
from trio_eventlog.ids import NOBODY, NodeId
from trio_eventlog.raft import quorum
from trio_eventlog.raft.configuration import (
    LEAVE_JOINT,
    Configuration,
    ConfigurationChange,
    change_configuration,
    contradiction,
    decode_change,
    encode_change,
)
from trio_eventlog.raft.errors import ConfigurationError, DropReason, PeerNotFound, ProposalDropped, ProtocolError
from trio_eventlog.raft.log import LogView, RaftLog
from trio_eventlog.raft.messages import (
    ENTRY_OVERHEAD_BYTES,
    RESPONSES,
    TRANSFER_CAMPAIGN,
    Entry,
    EntryKind,
    Message,
    MessageType,
    ProposedEntry,
    SnapshotMetadata,
)
from trio_eventlog.raft.progress import Inflights, Progress, ProgressState
from trio_eventlog.raft.quorum import VoteResult
from trio_eventlog.raft.ready import (
    AppendToken,
    Event,
    EventKind,
    HardState,
    ProgressStatus,
    ReadState,
    Ready,
    Role,
    SoftState,
    Status,
    StorageAppend,
)
from trio_eventlog.raft.settings import RaftSettings, ReadMode

EVENTS_MAX = 1024
"""Events kept until the next `Ready`; older ones are dropped."""

_HEARTBEAT_CONTEXT = struct.Struct("<QQ")
"""Number of the newest waiting read, and the leader's tick. Sent when reads wait or the read mode is LEASE; echoed."""

_NO_OP = ProposedEntry(EntryKind.NO_OP, 0, ENTRY_OVERHEAD_BYTES)

_VOTES = (MessageType.VOTE, MessageType.PRE_VOTE)
_VOTE_RESPONSES = (MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE)
_FROM_LEADER = frozenset({MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT})
_TO_SELF = frozenset({MessageType.APPEND_RESPONSE, MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE})
_WITHOUT_TERM = frozenset({MessageType.READ_INDEX, MessageType.PROPOSE})


@attrs.frozen(slots=True)
class _Read:
    """A linearizable read waiting for confirmation. `number` counts this leader's reads; `requester` NOBODY: asked here."""

    number: int
    index: int
    requester: NodeId
    context: bytes


class RaftNode:
    """One replica's consensus core: messages, ticks and requests in, `Ready` out.

    Not thread-safe; one task owns it. See the package's docstring for the caller's duties.

    Args:
        node_id: this node.
        settings: of the group.
        hard_state: as persisted; the default for a node that never ran.
        configuration: as of `applied_index`; empty for a node that is to be added by others.
        log: the durable log.
        rng: draws election timeouts.
        applied_index: highest index the machine holds already; entries up to it are not handed out again.
    """

    def __init__(
        self,
        node_id: NodeId,
        settings: RaftSettings,
        hard_state: HardState,
        configuration: Configuration,
        log: LogView,
        rng: random.Random,
        applied_index: int = 0,
    ) -> None:
        assert node_id != NOBODY, "0 means nobody"
        self.node_id = node_id
        self.settings = settings
        self._rng = rng
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)

        self._term = hard_state.term
        self._vote = hard_state.vote
        self._durable_term = hard_state.term
        """Highest term known to be persisted here. Nothing that speaks for a later one leaves this node."""

        compacted = log.first_index - 1
        applied = max(applied_index, compacted)
        assert applied <= log.last_index, f"applied {applied} is beyond the log's last index {log.last_index}"
        commit = max(hard_state.commit, applied)
        if commit > log.last_index:
            # Either a crash kept the commit index and lost entries that were never acknowledged, which is harmless, as the commit
            # index is only a hint; or fsync lied, and acknowledged entries are lost. The event lets the driver decide.
            self._note(EventKind.ALARM_COMMIT_BEYOND_LOG, index=commit, text=f"the log ends at {log.last_index}")
            commit = log.last_index
        self._log = RaftLog(log, committed=commit, applied=applied, max_applying_bytes=settings.committed_bytes_per_ready_max)

        self._role = Role.FOLLOWER
        self._leader = NOBODY
        self._configuration = configuration
        self._progress: dict[NodeId, Progress] = {}
        """Everyone in the configuration, this node included, in ascending order. Means something on a leader only."""
        self._votes: dict[NodeId, bool] = {}

        self._election_elapsed = 0
        """Follower: ticks since it last heard from its leader. Leader: ticks since the last quorum check."""
        self._heartbeat_elapsed = 0
        self._randomized_election_timeout = 0
        self._ticks = 1
        self._append_wait_ticks = 0
        """Ticks since the disk last acknowledged anything, while it owes something."""
        self._promise_ticks = settings.election_timeout_ticks if settings.read_mode is ReadMode.LEASE and self._term else 0
        """Ticks during which this node grants no vote, whatever the term: a leader's lease reads rely on it. A restarted voter
        does not remember its promise, so it makes it again."""
        self._lost_leader = NOBODY
        self._lost_leader_term = 0
        self._confined_because = ""

        self._lead_transferee = NOBODY
        self._timeout_now_sent = False
        """Whether someone may campaign in spite of leases, in this term of leadership."""
        self._pending_configuration_index = 0
        """No configuration change is appended while this is above the applied index."""
        self._uncommitted: deque[tuple[int, int]] = deque()
        self._uncommitted_bytes = 0

        self._reads: deque[_Read] = deque()
        self._postponed_reads: list[_Read] = []
        self._read_number = 0
        self._reads_due = False

        self._messages: list[Message] = []
        self._after_append: list[Message] = []
        self._read_states: list[ReadState] = []

        self._reset_progress(configuration)
        self._become_follower(self._term, NOBODY)
        self._emitted_soft_state = SoftState()
        self._emitted_hard_state = HardState(self._term, self._vote, commit)

    # What callers may look at. Plain attributes of the moment, cheap enough for every loop.

    @property
    def role(self) -> Role:
        return self._role

    @property
    def is_leader(self) -> bool:
        return self._role is Role.LEADER

    @property
    def leader(self) -> NodeId:
        """Who leads in this node's term, as far as it knows; NOBODY if it does not."""
        return self._leader

    @property
    def term(self) -> int:
        return self._term

    @property
    def commit_index(self) -> int:
        return self._log.committed

    @property
    def applied_index(self) -> int:
        return self._log.applied

    @property
    def last_index(self) -> int:
        """Of the log including what is not durable yet."""
        return self._log.last_index

    @property
    def last_term(self) -> int:
        """Of the entry at `last_index`."""
        return self._log.last_term

    def entry_term(self, index: int) -> int | None:
        """Term of the entry at `index`, durable or not; None when it is compacted or not there."""
        return self._log.term(index)

    def match_of(self, node: NodeId) -> int:
        """Leader: the last index that is known to be durable on the node; 0 when nothing is known of it."""
        progress = self._progress.get(node)
        return 0 if progress is None else progress.match

    def find_news(self, message: Message) -> int:
        """Position of the first entry of an APPEND that this log does not hold; their number when it holds all of them.

        `step` takes that one and all behind it, or none: a message may be refused, and its entries with it.
        """
        return 0 if message.index >= self._log.last_index else self._log.find_conflict(message.entries)

    @property
    def stable_index(self) -> int:
        """Highest index this node's disk has acknowledged."""
        return self._log.stable_index

    @property
    def configuration(self) -> Configuration:
        return self._configuration

    @property
    def lead_transferee(self) -> NodeId:
        """The target of the leadership transfer that is in progress; NOBODY when there is none."""
        return self._lead_transferee

    @property
    def uncommitted_bytes(self) -> int:
        """Bytes of this leader's proposals that are not applied yet."""
        return self._uncommitted_bytes

    @property
    def election_elapsed_ticks(self) -> int:
        return self._election_elapsed

    @property
    def randomized_election_timeout_ticks(self) -> int:
        """The number of ticks without a leader after which this node campaigns. Drawn anew whenever its role or term changes."""
        return self._randomized_election_timeout

    def set_randomized_election_timeout(self, ticks: int) -> None:
        """Replace the draw until the next one: for tests, and for a driver that staggers elections by what it knows."""
        assert ticks > 0
        self._randomized_election_timeout = ticks

    def status(self) -> Status:
        log = self._log
        progress: dict[NodeId, ProgressStatus] = {}
        if self._role is Role.LEADER:
            for node, item in self._progress.items():
                progress[node] = ProgressStatus(
                    match=item.match,
                    next=item.next,
                    state=item.state.value,
                    is_learner=item.is_learner,
                    is_paused=item.is_paused,
                    recent_active=item.recent_active,
                    pending_snapshot=item.pending_snapshot,
                    inflight_messages=len(item.inflights),
                    inflight_bytes=item.inflights.size_bytes,
                    text=str(item),
                )
        return Status(
            node_id=self.node_id,
            role=self._role,
            leader=self._leader,
            hard_state=HardState(self._term, self._vote, log.committed),
            configuration=self._configuration,
            first_index=log.first_index,
            last_index=log.last_index,
            last_term=log.last_term,
            stable_index=log.stable_index,
            applied_index=log.applied,
            lead_transferee=self._lead_transferee,
            uncommitted_bytes=self._uncommitted_bytes,
            pending_reads=len(self._reads) + len(self._postponed_reads),
            progress=progress,
        )

    # Ready.

    def has_ready(self) -> bool:
        """Whether `ready()` would return something."""
        log = self._log
        unstable = log.unstable
        hard_state = self._emitted_hard_state
        soft_state = self._emitted_soft_state
        return bool(
            self._messages
            or self._after_append
            or unstable.offset_in_progress < unstable.offset + len(unstable.entries)
            or hard_state.commit != log.committed
            or hard_state.term != self._term
            or hard_state.vote != self._vote
            or soft_state.role is not self._role
            or soft_state.leader != self._leader
            or log.has_to_apply(self.settings.apply_unstable)
            or self._read_states
            or self._reads_due
            or (unstable.snapshot is not None and not unstable.snapshot_in_progress)
        )

    def ready(self) -> Ready | None:
        """The work to be done now, or None. It counts as handed out: the next `Ready` begins where this one ends."""
        if not self.has_ready():
            return None
        if self._reads_due:
            self._broadcast_heartbeat()
        log = self._log
        unstable = log.unstable

        soft_state = None
        if self._emitted_soft_state.role is not self._role or self._emitted_soft_state.leader != self._leader:
            soft_state = self._emitted_soft_state = SoftState(self._leader, self._role)

        entries = unstable.take()
        hard_state = None
        before = self._emitted_hard_state
        must_sync = before.term != self._term or before.vote != self._vote
        # The commit index goes with every configuration change, even if it was handed out before and perhaps not synced: a change
        # in the log says that the one before it is committed, and a node that forgets that could campaign in a configuration two
        # steps old, whose quorums need not overlap with today's.
        sync_commit = bool(entries) and log.has_configuration(entries[0].index, entries[-1].index)
        if must_sync or before.commit != log.committed or sync_commit:
            hard_state = self._emitted_hard_state = HardState(self._term, self._vote, log.committed)

        messages, self._messages = self._messages, []
        responses, self._after_append = self._after_append, []
        if self._durable_term < self._term and messages:
            # No message of a term leaves before that term is durable. Otherwise a node could lead the same term twice:
            # win it, send entries, lose its own vote with the power, be voted for again (a vote repeats itself), and then send
            # other entries with the same index and term. In order, once one has to wait, the later ones wait behind it.
            for position, message in enumerate(messages):
                if message.term > self._durable_term:
                    responses = messages[position:] + responses
                    del messages[position:]
                    break

        committed = log.take_to_apply(self.settings.apply_unstable)
        snapshot = None
        if unstable.snapshot is not None and not unstable.snapshot_in_progress:
            snapshot = unstable.snapshot
            unstable.snapshot_in_progress = True

        append = None
        if entries or hard_state is not None or snapshot is not None or responses:
            # The token names the last unstable entry even when this append has none: if the term has changed since that entry
            # was handed out, the acknowledgement of its own append will be ignored, and this one has to do.
            last = unstable.entries[-1] if unstable.entries else None
            append = StorageAppend(
                hard_state=hard_state,
                entries=entries,
                snapshot=snapshot,
                must_sync=must_sync or bool(entries) or snapshot is not None,
                sync_commit=sync_commit,
                responses=tuple(responses),
                token=AppendToken(
                    self._term,
                    last.index if last is not None else 0,
                    last.term if last is not None else 0,
                    snapshot.index if snapshot is not None else 0,
                ),
            )

        read_states, self._read_states = self._read_states, []
        events = tuple(self._events)
        self._events.clear()
        return Ready(
            soft_state=soft_state,
            messages=tuple(messages),
            append=append,
            committed=committed,
            read_states=tuple(read_states),
            events=events,
        )

    def on_appended(self, token: AppendToken) -> None:
        """The append with this token, and all before it, are durable, and its responses are on their way."""
        self._durable_term = max(self._durable_term, token.term)
        # An append handed out in an earlier term says nothing about what the log holds now: its entries may have been
        # overwritten, and written again, since. An append of the current term with the same last entry is on its way.
        if token.index and token.term == self._term and self._log.unstable.stable_to(token.index, token.log_term):
            self._append_wait_ticks = 0
        if token.snapshot_index:
            # Whatever the term: snapshots hold committed state only.
            self._append_wait_ticks = 0
            self._log.unstable.stable_snapshot_to(token.snapshot_index)
            self._applied_to(max(token.snapshot_index, self._log.applied))

    def on_applied(self, index: int) -> None:
        """The machine has taken everything up to `index`, of the ranges handed out in `Ready.committed`."""
        assert index <= self._log.applying, f"applied {index}, handed out to {self._log.applying}"
        self._applied_to(max(index, self._log.applied))

    def _applied_to(self, index: int) -> None:
        self._log.applied_to(index)
        while self._uncommitted and self._uncommitted[0][0] <= index:
            self._uncommitted_bytes -= self._uncommitted.popleft()[1]
        self._maybe_leave_joint()

    def _maybe_leave_joint(self) -> None:
        """Called after every apply, and after a failed leadership transfer.

        A transfer blocks leaving, and if nothing is applied afterwards, nothing else would trigger it.
        """
        configuration = self._configuration
        if (
            configuration.auto_leave
            and self._role is Role.LEADER
            and self._log.applied >= self._pending_configuration_index
            and self._lead_transferee == NOBODY
            and self.node_id in self._progress
        ):
            self._note(EventKind.JOINT_LEFT, text=str(configuration))
            self._pending_configuration_index = self._log.last_index + 1
            self._append_and_broadcast([_configuration_entry(LEAVE_JOINT)], charged_bytes=0)

    # Ticks.

    def tick(self) -> None:
        """One tick of time has passed."""
        self._ticks += 1
        if self._promise_ticks:
            self._promise_ticks -= 1
        unstable = self._log.unstable
        if unstable.offset_in_progress > unstable.offset or unstable.snapshot_in_progress:
            self._append_wait_ticks += 1
        else:
            self._append_wait_ticks = 0
        if self._role is Role.LEADER:
            self._tick_leader()
        else:
            self._election_elapsed += 1
            if self._election_elapsed >= self._randomized_election_timeout and self._is_promotable():
                self._election_elapsed = 0
                if not self._campaign_if_possible() and self._confined_because:
                    # It cannot campaign, but others can: it must not refuse them its vote because of a leader that is silent.
                    self.forget_leader()

    def _tick_leader(self) -> None:
        settings = self.settings
        self._heartbeat_elapsed += 1
        self._election_elapsed += 1
        if settings.step_down_on_stalled_append and self._append_wait_ticks >= settings.election_timeout_ticks:
            # Otherwise its heartbeats would prevent the others from electing a node that can commit (hashicorp/raft#503 and #614).
            self._note(EventKind.APPEND_STALLED, index=self._log.last_index)
            self._become_follower(self._term, NOBODY)
            return
        if self._election_elapsed >= settings.election_timeout_ticks:
            self._election_elapsed = 0
            if settings.check_quorum:
                self._check_quorum()
            if self._role is Role.LEADER and self._lead_transferee != NOBODY:
                # The transfer did not finish within an election timeout: abort it and go on leading.
                self._abort_transfer()
                self._maybe_leave_joint()
        if self._role is Role.LEADER and self._heartbeat_elapsed >= settings.heartbeat_ticks:
            self._heartbeat_elapsed = 0
            self._broadcast_heartbeat()

    def _check_quorum(self) -> None:
        active = {node: progress.recent_active for node, progress in self._progress.items() if not progress.is_learner}
        won = quorum.joint_vote(self._configuration.voters, self._configuration.voters_outgoing, active) is VoteResult.WON
        if not won:
            self._note(EventKind.QUORUM_LOST)
            self._become_follower(self._term, NOBODY)
        for node, progress in self._progress.items():
            if node != self.node_id:
                progress.recent_active = False

    # Requests.

    def propose(self, entries: Sequence[ProposedEntry]) -> range:
        """Append `entries` (at least one) in one go.

        Returns:
            Their indexes, in this node's current term; an empty range when they were sent on to the leader.

        Raises:
            NotLeader: this node does not lead (and does not forward, or knows of no leader).
            ProposalDropped: refused, with the reason.
            ProtocolError: the payload of a CONFIGURATION entry is malformed.

        A CONFIGURATION entry that may not be appended now becomes a NO_OP at the same index, as in etcd-io/raft, so that the
        others of the batch are not lost; use `propose_configuration` to be told.
        """
        assert entries, "nothing proposed"
        if self._role is Role.LEADER:
            return self._propose_as_leader(entries)
        if not self.settings.forward_proposals or self._leader == NOBODY:
            raise NotLeader(f"node {self.node_id} does not lead", self._leader)
        _check_configuration_payloads(entries)
        self._messages.append(
            Message(
                type=MessageType.PROPOSE,
                to=self._leader,
                sender=self.node_id,
                entries=tuple(Entry(0, 0, e.kind, e.record_count, e.size_bytes, e.payload) for e in entries),
            )
        )
        return range(0)

    def propose_configuration(self, change: ConfigurationChange) -> int:
        """Append a change of the configuration. It takes effect when it is applied. Returns its index.

        Raises:
            NotLeader: this node does not lead.
            ProposalDropped: refused for now, with the reason.
            ConfigurationError: not legal in the current configuration.
        """
        if self._role is not Role.LEADER:
            raise NotLeader(f"node {self.node_id} does not lead", self._leader)
        self._check_accepts_proposals()
        if self.settings.validate_configuration_changes:
            if self._pending_configuration_index > self._log.applied:
                raise ProposalDropped(
                    DropReason.CONFIGURATION_PENDING,
                    f"at index {self._pending_configuration_index}, applied {self._log.applied}",
                )
            change_configuration(self._configuration, change)
        entry = _configuration_entry(change)
        self._pending_configuration_index = self._log.last_index + 1
        return self._append_and_broadcast([entry], charged_bytes=0).start

    def apply_configuration(self, change: ConfigurationChange, index: int) -> Configuration:
        """Apply the committed change at `index`: for every CONFIGURATION entry in its turn, before `on_applied` of its index.

        Returns the configuration now in force. One that a snapshot covers which was restored meanwhile, while the entry was with
        the machine, is part of the snapshot's configuration and changes nothing.

        Raises:
            ConfigurationError: not legal, which is the same on every replica: log it, go on; nothing has changed. (So it is for
                a payload that `decode_change` refuses.)
        """
        if index < self._log.first_index:
            return self._configuration
        changed = change_configuration(self._configuration, change)
        self._switch_configuration(changed.configuration, changed.renewed)
        return changed.configuration

    def read_index(self, context: bytes) -> None:
        """Ask for an index such that a read of a machine that has applied it is linearizable.

        The answer comes as a `ReadState` with this `context`; or never, when leadership or messages are lost: the caller has
        its own deadline, and may ask again. A leader that steps down names the reads it drops in an event.

        Raises:
            NotLeader: no leader is known.
            ProposalDropped: too many reads wait.
        """
        if self._role is Role.LEADER:
            self._read_as_leader(NOBODY, context)
        elif self._leader == NOBODY:
            raise NotLeader(f"node {self.node_id} knows of no leader")
        else:
            self._messages.append(Message(type=MessageType.READ_INDEX, to=self._leader, sender=self.node_id, context=context))

    def transfer_leader(self, to: NodeId) -> None:
        """Hand leadership to `to`; on a follower: ask the leader to.

        It is over when `lead_transferee` is NOBODY again: the transferee leads, or an election timeout has passed in vain.

        Raises:
            NotLeader: no leader is known.
            ConfigurationError: `to` is no voter (of the incoming half).
        """
        if self._role is Role.LEADER:
            if to not in self._configuration.voters:
                raise ConfigurationError(f"node {to} is no voter, it cannot lead")
            self._start_transfer(to)
        elif self._leader == NOBODY:
            raise NotLeader(f"node {self.node_id} knows of no leader")
        else:
            self._send(MessageType.TRANSFER_LEADER, self._leader, transferee=to)

    def confine(self, why: str) -> None:
        """From now on this node stores and votes, but neither leads nor campaigns: its machine cannot apply what is committed."""
        self._confined_because = why
        if self._role is not Role.FOLLOWER:
            self._become_follower(self._term, NOBODY)

    def campaign(self) -> bool:
        """Try to become leader now. Returns whether a campaign was started (a leader, a learner, ... do not)."""
        return self._campaign_if_possible()

    def forget_leader(self) -> bool:
        """A follower forgets its leader, in the same term: it will vote, and grant pre-votes, without waiting for the timeout.

        It does not campaign by itself earlier. Returns whether it did; never under `ReadMode.LEASE`, whose leader relies on it.
        """
        if self._role is not Role.FOLLOWER or self._leader == NOBODY or self.settings.read_mode is ReadMode.LEASE:
            return False
        self._note(EventKind.LEADER_FORGOTTEN, node=self._leader)
        self._leader = NOBODY
        return True

    def peer_reset(self, node: NodeId, campaign_within_ticks: int = 0) -> bool:
        """The link to `node` was reset by the other side: its process has probably died.

        If this node follows it, it forgets it (`forget_leader`), so that it grants pre-votes at once. Returns True then, and
        the caller should call `campaign_if_leader_lost(node)` after a little random time, shorter than a tick; or it names
        `campaign_within_ticks`, and the core does so at a random tick up to that one. On a leader it is `report_unreachable`.

        Why that is safe and disrupts nobody. Votes are not touched: who has voted in this term keeps its vote, and who has not
        may now vote for another candidate of this term, which cannot win it as a majority has voted for the leader. Nor is the
        term: only a pre-vote follows. When the leader's process really died, all followers see their resets, forget it, and the
        first to ask has its quorum a round trip later, instead of an election timeout later. When just one link broke, the
        others still hear from the leader, are within its lease (check-quorum) and ignore the pre-vote; this node stays at its
        term and follows again at the next heartbeat. To depose a healthy leader, a quorum has to lose its links to it at the
        same moment, and then it was about to lose its quorum anyway. Without `pre_vote` and `check_quorum` none of that holds,
        and then nothing is done.
        """
        if self._role is Role.LEADER:
            self.report_unreachable(node)
            return False
        settings = self.settings
        if node != self._leader or not (settings.pre_vote and settings.check_quorum) or not self.forget_leader():
            return False
        self._lost_leader = node
        self._lost_leader_term = self._term
        if campaign_within_ticks:
            within = self._rng.randint(1, campaign_within_ticks)
            self._randomized_election_timeout = min(self._randomized_election_timeout, self._election_elapsed + within)
        return True

    def campaign_if_leader_lost(self, node: NodeId) -> bool:
        """Campaign, if since `peer_reset(node)` nobody has been heard to lead. Returns whether a campaign was started."""
        if (
            node != self._lost_leader
            or self._term != self._lost_leader_term
            or self._leader != NOBODY
            or self._role is not Role.FOLLOWER
        ):
            return False
        self._lost_leader = NOBODY
        return self._campaign_if_possible()

    def report_unreachable(self, node: NodeId) -> None:
        """Messages to `node` were lost, or not sent: an APPEND whose frames were no longer there, a broken link.

        The leader stops streaming to it and asks where it stands, at the next heartbeat interval at the latest.
        """
        progress = self._progress.get(node)
        if self._role is Role.LEADER and progress is not None and progress.state is ProgressState.REPLICATE:
            progress.become_probe()

    @property
    def newest_snapshot(self) -> SnapshotMetadata | None:
        """The newest snapshot that can be sent."""
        return self._log.snapshot()

    def wants_snapshot(self, message: Message) -> bool:
        """Whether stepping this SNAPSHOT would replace the log. If so, its data has to be here before it is stepped.

        Raises:
            ProtocolError: as `step`.
        """
        self._check(message)
        snapshot = message.snapshot
        assert snapshot is not None, "checked"
        return (
            message.term >= self._term
            and snapshot.index > self._log.committed
            and self.node_id in snapshot.configuration.nodes
            and not self._log.matches(snapshot.index, snapshot.term)
        )

    def follower_state(self, node: NodeId) -> ProgressState | None:
        """How this leader sends to `node`; None when this node does not lead, or `node` is no member."""
        progress = self._progress.get(node)
        return progress.state if self._role is Role.LEADER and progress is not None else None

    def send_snapshot(self, node: NodeId) -> bool:
        """Send `node` the newest snapshot although the log may still hold what it needs: it is so much that files are cheaper.

        False: there is no snapshot that brings it further, one is under way, or this node does not lead.
        """
        progress = self._progress.get(node)
        snapshot = self._log.snapshot()
        if (
            self._role is not Role.LEADER
            or progress is None
            or progress.state is ProgressState.SNAPSHOT
            or snapshot is None
            or snapshot.index <= progress.match
        ):
            return False
        is_sent = self._maybe_send_snapshot(node, progress)
        progress.is_snapshot_by_choice = is_sent
        return is_sent

    def report_snapshot(self, node: NodeId, ok: bool) -> None:
        """The transfer of a snapshot to `node` has ended. Must come once for every SNAPSHOT message handed out.

        Either way the follower is probed: from behind the snapshot, or from where it was before.
        """
        progress = self._progress.get(node)
        if self._role is not Role.LEADER or progress is None or progress.state is not ProgressState.SNAPSHOT:
            return
        if not ok:
            progress.pending_snapshot = 0
        progress.become_probe()
        # The follower's own reply comes next; or, after a failure, a heartbeat interval passes before the next try.
        progress.append_paused = True

    # Messages: terms first.

    def step(self, message: Message) -> None:
        """Take a message from a peer, or one of this node's own `StorageAppend.responses`.

        Raises:
            ProtocolError: it cannot be right (`PeerNotFound`: it answers a question of a configuration that is gone).
            ProposalDropped: a forwarded proposal that cannot be taken.
        """
        kind = message.type
        self._check(message)
        term = message.term
        if term != self._term and kind not in _WITHOUT_TERM:
            if term < self._term:
                self._step_older_term(message)
                return
            if kind in _VOTES and message.context != TRANSFER_CAMPAIGN and self._is_in_lease():
                # A leader is alive: neither vote nor enter the candidate's term (thesis, section 4.2.3).
                return
            self._step_newer_term(message)
        handler = _HANDLERS.get((self._role, kind))
        if handler is not None:
            handler(self, message)

    def _step_newer_term(self, message: Message) -> None:
        kind = message.type
        if kind is MessageType.PRE_VOTE or (kind is MessageType.PRE_VOTE_RESPONSE and not message.reject):
            # A pre-vote and a granted pre-vote carry a term that no node has entered. (A rejection carries the real term.)
            return
        self._become_follower(message.term, message.sender if kind in _FROM_LEADER else NOBODY)

    def _step_older_term(self, message: Message) -> None:
        kind = message.type
        if kind is MessageType.HEARTBEAT or kind is MessageType.APPEND:
            if self.settings.check_quorum or self.settings.pre_vote:
                # This node was cut off, has campaigned, and is now unable to win (its log is behind) and unable to follow (its
                # term is ahead), while the others ignore its votes. The leader has to learn the term, and this is the way:
                # without a bare VOTE that would disrupt (etcd-io/etcd#8243).
                self._respond(MessageType.APPEND_RESPONSE, message.sender)
        elif kind is MessageType.PRE_VOTE:
            # Candidates of a lower term must learn this one too, or nobody wins (etcd-io/etcd#8501).
            self._answer_vote(MessageType.PRE_VOTE_RESPONSE, message.sender, self._term, reject=True)

    def _is_in_lease(self) -> bool:
        """Whether this node has promised its leader not to elect another one yet."""
        if self._promise_ticks:
            return True
        return (
            self.settings.check_quorum and self._leader != NOBODY and self._election_elapsed < self.settings.election_timeout_ticks
        )

    def _check(self, message: Message) -> None:
        """Reject messages that cannot be right, before anything changes. Raises ProtocolError."""
        kind = message.type
        sender = message.sender
        if message.to != self.node_id or sender == NOBODY:
            raise ProtocolError(f"{kind.name} from {sender} to {message.to} came to {self.node_id}")
        if message.term > self._term and (message.term > TERM_MAX or message.term - self._term > TERM_JUMP_MAX):
            # If adopted, this term would be persisted and would spread, and no higher term might be left for an election.
            raise ProtocolError(f"{kind.name} of term {message.term}: no elections can lead there from term {self._term}")
        if kind in RESPONSES and sender not in self._progress:
            raise PeerNotFound(f"{kind.name} from {sender}, which is not in {self._configuration}")
        if sender == self.node_id and kind not in _TO_SELF:
            raise ProtocolError(f"{kind.name} from this node to itself")
        if (message.term == 0) is not (kind in _WITHOUT_TERM) and not (kind is MessageType.PRE_VOTE_RESPONSE and message.reject):
            raise ProtocolError(f"{kind.name} of term {message.term}")
        check = _CHECKS.get(kind)
        if check is not None:
            check(self, message)

    def _check_from_leader(self, message: Message) -> None:
        if message.term == self._term and (
            self._role is Role.LEADER or (self._leader != NOBODY and self._leader != message.sender)
        ):
            raise ProtocolError(f"{message.sender} and {self._leader} both lead term {message.term}")

    def _check_append(self, message: Message) -> None:
        self._check_from_leader(message)
        index = message.index
        term = message.log_term
        for entry in message.entries:
            index += 1
            if entry.index != index or not term <= entry.term <= message.term or not entry.term:
                raise ProtocolError(f"APPEND: entry {entry.term}/{entry.index} after {term}/{index - 1} at term {message.term}")
            term = entry.term
        if message.last_index != index or term > message.term:
            raise ProtocolError(f"APPEND: {message.index + 1}..{message.last_index} announced, entries to {term}/{index} came")

    def _check_append_response(self, message: Message) -> None:
        last_index = self._log.last_index
        if message.index > last_index and self._role is Role.LEADER and message.term == self._term and not message.reject:
            raise ProtocolError(f"{message.sender} acknowledges {message.index}; the log ends at {last_index}")

    def _check_vote(self, message: Message) -> None:
        if message.log_term > message.term:
            raise ProtocolError(f"{message.type.name} of term {message.term} by a log that ends in term {message.log_term}")

    def _check_snapshot(self, message: Message) -> None:
        self._check_from_leader(message)
        snapshot = message.snapshot
        if snapshot is None or snapshot.index < 1 or not 1 <= snapshot.term <= message.term:
            raise ProtocolError(f"SNAPSHOT of term {message.term} with {snapshot}")
        problem = contradiction(snapshot.configuration)
        if problem or not snapshot.configuration.voters:
            raise ProtocolError(f"SNAPSHOT: {problem or 'no voters'} in {snapshot.configuration}")

    def _check_transfer(self, message: Message) -> None:
        if message.transferee == NOBODY:
            raise ProtocolError("TRANSFER_LEADER to nobody")

    def _check_propose(self, message: Message) -> None:
        if not message.entries:
            raise ProtocolError("PROPOSE without entries")
        _check_configuration_payloads(message.entries)

    # Elections.

    def _is_promotable(self) -> bool:
        """Whether this node may lead: a voter whose log is its own (no snapshot on the way to the disk)."""
        progress = self._progress.get(self.node_id)
        return progress is not None and not progress.is_learner and self._log.unstable.snapshot is None

    def _campaign_if_possible(self, by_transfer: bool = False) -> bool:
        if self._role is Role.LEADER:
            return False
        log = self._log
        settings = self.settings
        refusal = ""
        if not self._is_promotable():
            refusal = "no voter, or a snapshot is being installed"
        elif log.applied < log.committed and log.has_configuration(log.applied + 1, log.committed):
            # A committed configuration change is not applied here yet: a quorum of the old configuration may not be one any more.
            refusal = "a committed configuration change is not applied yet"
        elif settings.step_down_on_stalled_append and self._append_wait_ticks >= settings.election_timeout_ticks:
            refusal = "the disk does not answer"
        elif self._confined_because:
            refusal = self._confined_because
        elif self._term >= TERM_MAX:
            refusal = "there is no term left: stop every node, and set their terms back with `trio-eventlog log repair`"
        if refusal:
            self._note(EventKind.CAMPAIGN_REFUSED, text=refusal)
            return False
        if by_transfer:
            # The leader asked for it, so that no leader is disrupted and no pre-vote is needed.
            self._campaign(TRANSFER_CAMPAIGN)
        elif settings.pre_vote:
            self._pre_campaign()
        else:
            self._campaign(b"")
        return True

    def _pre_campaign(self) -> None:
        self._become_pre_candidate()
        # The candidate asks for the next term without entering it.
        self._ask_for_votes(MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE, self._term + 1, b"")

    def _campaign(self, context: bytes) -> None:
        self._become_candidate()
        self._ask_for_votes(MessageType.VOTE, MessageType.VOTE_RESPONSE, self._term, context)

    def _ask_for_votes(self, question: MessageType, answer: MessageType, term: int, context: bytes) -> None:
        log = self._log
        last_index = log.last_index
        last_term = log.last_term
        commit_term = log.term(log.committed) or 0
        for node in sorted(self._configuration.all_voters):
            if node == self.node_id:
                # Its own vote counts when it is durable, like any other.
                self._after_append.append(Message(type=answer, to=node, sender=node, term=term))
            else:
                self._messages.append(
                    Message(
                        type=question,
                        to=node,
                        sender=self.node_id,
                        term=term,
                        log_term=last_term,
                        index=last_index,
                        commit=log.committed,
                        commit_term=commit_term,
                        context=context,
                        priority=self.settings.priority,
                    )
                )

    def _on_vote(self, message: Message) -> None:
        """VOTE and PRE_VOTE, in any role. A learner votes too: the candidate may know of a promotion it has not heard of."""
        self._learn_commit(message)
        is_pre_vote = message.type is MessageType.PRE_VOTE
        can_vote = (
            self._vote == message.sender  # Repeating a vote is no second one.
            or (self._vote == NOBODY and self._leader == NOBODY)
            or (is_pre_vote and message.term > self._term)
        )
        answer = MessageType.PRE_VOTE_RESPONSE if is_pre_vote else MessageType.VOTE_RESPONSE
        if self._promise_ticks and self._vote != message.sender and message.context != TRANSFER_CAMPAIGN:
            # This node entered the term because of a response, within the lease of a leader of an older term.
            can_vote = False
        if can_vote and self._log.is_up_to_date(message.index, message.log_term) and not self._outranks(message):
            # A granted vote carries the term asked for, which for a pre-vote is not this node's term.
            self._answer_vote(answer, message.sender, message.term, reject=False)
            if not is_pre_vote:
                self._election_elapsed = 0
                self._vote = message.sender
        else:
            self._answer_vote(answer, message.sender, self._term, reject=True)

    def _answer_vote(self, kind: MessageType, to: NodeId, term: int, *, reject: bool) -> None:
        committed = self._log.committed
        self._after_append.append(
            Message(
                type=kind,
                to=to,
                sender=self.node_id,
                term=term,
                reject=reject,
                commit=committed,
                commit_term=self._log.term(committed) or 0,
            )
        )

    def _learn_commit(self, message: Message) -> None:
        """Candidates, and voters that reject, report their commit index; an entry held here with the same term is committed too.

        Without it a change of the configuration can leave a group without a leader for ever. One that removes or demotes the
        leader is applied by it alone before it steps down; the others, who have the change but do not know that it is committed,
        still need its vote, which it refuses as its log is longer than theirs. Or the node with the longest log is a voter by
        now, but does not know, and so refuses all others and does not campaign. (tikv/raft-rs has this too.)
        """
        log = self._log
        if self._role is Role.LEADER or message.commit <= log.committed or log.term(message.commit) != message.commit_term:
            return
        if message.type in _VOTE_RESPONSES and not message.reject:
            # A granted vote is no reason to give up a campaign that may be won.
            return
        log.commit_to(message.commit)
        if self._role is not Role.FOLLOWER and log.has_configuration(log.applied + 1, log.committed):
            # The campaign counts a quorum of the old configuration, which may not be one any more.
            self._become_follower(self._term, NOBODY)

    def _outranks(self, message: Message) -> bool:
        """Whether this node should lead rather than that candidate: same log, higher priority, able to."""
        return (
            self.settings.priority > message.priority
            and message.context != TRANSFER_CAMPAIGN
            and message.log_term == self._log.last_term
            and message.index == self._log.last_index
            and self._is_promotable()
        )

    def _on_vote_response(self, message: Message) -> None:
        """CANDIDATE on VOTE_RESPONSE, PRE_CANDIDATE on PRE_VOTE_RESPONSE."""
        role = self._role
        self._learn_commit(message)
        if self._role is not role:
            return
        self._votes.setdefault(message.sender, not message.reject)
        configuration = self._configuration
        result = quorum.joint_vote(configuration.voters, configuration.voters_outgoing, self._votes)
        if result is VoteResult.WON:
            if self._role is Role.PRE_CANDIDATE:
                self._campaign(b"")
            else:
                self._become_leader()
                self._broadcast_append()
        elif result is VoteResult.LOST:
            # A granted pre-vote carries a future term; this node's own is what counts.
            self._become_follower(self._term, NOBODY)

    def _on_timeout_now(self, message: Message) -> None:
        self._campaign_if_possible(by_transfer=True)

    # Roles.

    def _reset(self, term: int) -> None:
        if self._term != term:
            self._term = term
            self._vote = NOBODY
        self._leader = NOBODY
        self._lost_leader = NOBODY
        self._election_elapsed = 0
        self._heartbeat_elapsed = 0
        timeout = self.settings.election_timeout_ticks
        self._randomized_election_timeout = timeout + self._rng.randrange(timeout)
        self._abort_transfer()
        self._timeout_now_sent = False
        self._votes = {}
        self._reset_progress(self._configuration)
        self._pending_configuration_index = 0
        self._uncommitted.clear()
        self._uncommitted_bytes = 0
        self._drop_reads()

    def _reset_progress(self, configuration: Configuration) -> None:
        last_index = self._log.last_index
        self._progress = {
            node: self._new_progress(last_index + 1, node in configuration.learners) for node in sorted(configuration.nodes)
        }
        own = self._progress.get(self.node_id)
        if own is not None:
            # Part of this may not be durable yet. It cannot commit anything too early: only an entry of this node's own term as
            # leader commits, and its acknowledgement comes after all earlier ones.
            own.match = last_index

    def _new_progress(self, next_index: int, is_learner: bool, recent_active: bool = False) -> Progress:
        settings = self.settings
        return Progress(
            match=0,
            next=next_index,
            inflights=Inflights(settings.inflight_messages_max, settings.inflight_bytes_max),
            is_learner=is_learner,
            recent_active=recent_active,
        )

    def _become_follower(self, term: int, leader: NodeId) -> None:
        changed = self._role is not Role.FOLLOWER or self._term != term or self._leader != leader
        self._reset(term)
        self._role = Role.FOLLOWER
        self._leader = leader
        if changed:
            self._note(EventKind.BECAME_FOLLOWER, node=leader)

    def _become_pre_candidate(self) -> None:
        assert self._role is not Role.LEADER
        # Neither term nor vote change: nothing has happened yet.
        self._votes = {}
        self._leader = NOBODY
        self._lost_leader = NOBODY
        self._role = Role.PRE_CANDIDATE
        self._note(EventKind.BECAME_PRE_CANDIDATE)

    def _become_candidate(self) -> None:
        assert self._role is not Role.LEADER
        self._reset(self._term + 1)
        self._vote = self.node_id
        self._role = Role.CANDIDATE
        self._note(EventKind.BECAME_CANDIDATE)

    def _become_leader(self) -> None:
        assert self._role is Role.CANDIDATE
        self._reset(self._term)
        self._role = Role.LEADER
        self._leader = self.node_id
        own = self._progress[self.node_id]
        own.become_replicate()
        own.recent_active = True
        # There may be a configuration change in the tail, or not; to wait until it is applied is cheaper than to look.
        self._pending_configuration_index = self._log.last_index
        self._note(EventKind.BECAME_LEADER, index=self._log.last_index)
        # Without an entry of its own term it could commit nothing (paper, section 5.4.2), and answer no read.
        self._append_as_leader([_NO_OP], charged_bytes=0)

    def _follow(self, message: Message) -> None:
        """The sender leads this term. Candidates give up, followers wait on."""
        if self.settings.read_mode is ReadMode.LEASE:
            self._promise_ticks = self.settings.election_timeout_ticks
        if self._role is not Role.FOLLOWER:
            self._become_follower(message.term, message.sender)
            return
        self._election_elapsed = 0
        if self._leader != message.sender:
            self._leader = message.sender
            self._note(EventKind.LEADER_CHANGED, node=message.sender)

    # Appending and replicating, as leader.

    def _check_accepts_proposals(self) -> None:
        if self.node_id not in self._progress:
            raise ProposalDropped(DropReason.REMOVED)
        if self._lead_transferee != NOBODY:
            raise ProposalDropped(DropReason.TRANSFERRING, f"to {self._lead_transferee}")

    def _propose_as_leader(self, entries: Sequence[ProposedEntry] | Sequence[Entry]) -> range:
        self._check_accepts_proposals()
        _check_configuration_payloads(entries)
        charged_bytes = 0
        for entry in entries:
            if entry.kind is EntryKind.DATA or entry.kind is EntryKind.CONTROL:
                charged_bytes += entry.size_bytes
        # One proposal is taken however large it is, and no-ops and configuration changes always: a leader that cannot commit
        # must still be able to remove the node that keeps it from that.
        waiting = self._uncommitted_bytes
        if charged_bytes and waiting and waiting + charged_bytes > self.settings.uncommitted_bytes_max:
            raise ProposalDropped(DropReason.QUOTA, f"{waiting} bytes wait")
        checked: list[ProposedEntry | Entry] = list(entries)
        for position, entry in enumerate(checked):
            if entry.kind is EntryKind.CONFIGURATION:
                refusal = self._refuse_configuration(decode_change(entry.payload))
                if refusal and self.settings.validate_configuration_changes:
                    self._note(EventKind.CONFIGURATION_REFUSED, text=refusal)
                    checked[position] = _NO_OP
                else:
                    self._pending_configuration_index = self._log.last_index + 1 + position
        return self._append_and_broadcast(checked, charged_bytes)

    def _refuse_configuration(self, change: ConfigurationChange) -> str:
        """Why `change` must not be appended now, or "". Legality in itself is checked when it is applied."""
        if self._pending_configuration_index > self._log.applied:
            return f"possible unapplied change at index {self._pending_configuration_index} (applied to {self._log.applied})"
        if self._configuration.is_joint and not change.leaves_joint:
            return "must transition out of joint config first"
        if not self._configuration.is_joint and change.leaves_joint:
            return "not in joint state; refusing empty change"
        return ""

    def _append_and_broadcast(self, entries: Sequence[ProposedEntry | Entry], charged_bytes: int) -> range:
        indexes = self._append_as_leader(entries, charged_bytes)
        self._broadcast_append()
        return indexes

    def _append_as_leader(self, entries: Sequence[ProposedEntry | Entry], charged_bytes: int) -> range:
        term = self._term
        first = self._log.last_index + 1
        self._log.append(
            [
                Entry(term, index, entry.kind, entry.record_count, entry.size_bytes, entry.payload)
                for index, entry in enumerate(entries, first)
            ]
        )
        last = first + len(entries) - 1
        if charged_bytes:
            self._uncommitted.append((last, charged_bytes))
            self._uncommitted_bytes += charged_bytes
        # Its own acknowledgement counts when the disk has it, in parallel with the followers'.
        self._after_append.append(
            Message(type=MessageType.APPEND_RESPONSE, to=self.node_id, sender=self.node_id, term=term, index=last)
        )
        return range(first, last + 1)

    def _broadcast_append(self) -> None:
        for node, progress in self._progress.items():
            if node != self.node_id:
                self._maybe_send_append(node, progress, send_if_empty=True)

    def _maybe_send_append(self, to: NodeId, progress: Progress, send_if_empty: bool) -> bool:
        """Send what `to` needs next, as far as flow control allows: entries, a bare commit index, or a snapshot."""
        state = progress.state
        if progress.append_paused or state is ProgressState.SNAPSHOT:
            return False
        log = self._log
        previous = progress.next - 1
        previous_term = log.term(previous)
        if previous_term is None:
            # Compacted: the log cannot help.
            return self._maybe_send_snapshot(to, progress)
        last = previous
        size_bytes = 0
        # Into a full window goes at most an empty APPEND, whose answer frees the window should all the rest be lost.
        last_index = log.last_index
        if previous < last_index and not (state is ProgressState.REPLICATE and progress.inflights.is_full):
            last, size_bytes = log.fit(previous + 1, last_index, self.settings.append_bytes_max)
        if last == previous and not send_if_empty:
            return False
        commit = log.committed
        self._messages.append(
            Message(
                type=MessageType.APPEND,
                to=to,
                sender=self.node_id,
                term=self._term,
                log_term=previous_term,
                index=previous,
                last_index=last,
                commit=commit,
            )
        )
        progress.sent_entries(last - previous, size_bytes)
        progress.sent_commit = commit
        return True

    def _maybe_send_snapshot(self, to: NodeId, progress: Progress) -> bool:
        if not progress.recent_active:
            return False
        snapshot = self._log.snapshot()
        if snapshot is None or to not in snapshot.configuration.nodes:
            # One of before it was added would be ignored there.
            return False
        progress.become_snapshot(snapshot.index)
        self._note(EventKind.SNAPSHOT_SENT, node=to, index=snapshot.index)
        self._send(MessageType.SNAPSHOT, to, snapshot=snapshot)
        return True

    def _broadcast_heartbeat(self) -> None:
        """Also confirms the waiting reads, and renews the lease."""
        self._reads_due = False
        context = b""
        if self._reads or self.settings.read_mode is ReadMode.LEASE:
            context = _HEARTBEAT_CONTEXT.pack(self._read_number, self._ticks)
        committed = self._log.committed
        for node, progress in self._progress.items():
            if node != self.node_id:
                # Never beyond what the follower is known to share: it may hold other entries there.
                commit = min(progress.match, committed)
                self._messages.append(
                    Message(
                        type=MessageType.HEARTBEAT,
                        to=node,
                        sender=self.node_id,
                        term=self._term,
                        commit=commit,
                        context=context,
                    )
                )
                progress.sent_commit = commit

    def _on_append_response(self, message: Message) -> None:
        node = message.sender
        progress = self._progress[node]
        progress.recent_active = True
        if message.reject:
            self._on_append_rejected(node, progress, message)
            return
        index = message.index
        # A probe's answer counts even without news: it ends the probing.
        if not progress.maybe_update(index) and not (progress.match == index and progress.state is ProgressState.PROBE):
            return
        log = self._log
        if progress.state is ProgressState.REPLICATE:
            progress.inflights.free_to(index)
        elif progress.state is ProgressState.PROBE:
            progress.become_replicate()
        elif progress.match + 1 >= log.first_index and not (
            progress.is_snapshot_by_choice and progress.match < progress.pending_snapshot
        ):
            # Whichever snapshot was installed, the log can take over from here.
            progress.become_probe()
            progress.become_replicate()
        if index > log.committed and self._maybe_commit():
            self._release_postponed_reads()
            self._broadcast_append()
        elif node != self.node_id and progress.can_bump_commit(log.committed):
            self._maybe_send_append(node, progress, send_if_empty=True)
        if node == self.node_id:
            return
        # The window has room again, perhaps for several messages.
        while progress.next <= log.last_index and self._maybe_send_append(node, progress, send_if_empty=False):
            pass
        if node == self._lead_transferee and progress.match == log.last_index:
            self._send_timeout_now(node)

    def _on_append_rejected(self, node: NodeId, progress: Progress, message: Message) -> None:
        hint = message.reject_hint
        if message.log_term:
            # The follower's log at `hint` is of that term: skip all of ours that are of later ones.
            hint, _ = self._log.find_conflict_by_term(min(hint, self._log.last_index), message.log_term)
        if message.commit and hint < progress.match:
            # The follower reports, in answer to a heartbeat, that its disk lost acknowledged entries. Without lowering `match`
            # it would be probed beyond the end of its log for ever. Lowering it is always safe.
            self._note(EventKind.ALARM_FOLLOWER_LOST_ENTRIES, node=node, index=progress.match)
            progress.match = hint
            progress.become_probe()
            self._maybe_send_append(node, progress, send_if_empty=True)
            return
        if progress.maybe_decrease(message.index, hint):
            if progress.state is ProgressState.REPLICATE:
                progress.become_probe()
            self._maybe_send_append(node, progress, send_if_empty=True)

    def _maybe_commit(self) -> bool:
        configuration = self._configuration
        progress = self._progress
        index = quorum.joint_committed(configuration.voters, configuration.voters_outgoing, lambda node: progress[node].match)
        log = self._log
        # Only an entry of its own term commits by counting; it commits all before it (paper, section 5.4.2).
        if index <= log.committed or log.term(index) != self._term:
            return False
        log.commit_to(index)
        return True

    def _on_heartbeat_response(self, message: Message) -> None:
        node = message.sender
        progress = self._progress[node]
        progress.recent_active = True
        progress.append_paused = False
        # Messages in flight may be lost; and a follower that has everything but is being probed must get something to answer.
        if progress.match < self._log.last_index or progress.state is ProgressState.PROBE:
            self._maybe_send_append(node, progress, send_if_empty=True)
        if len(message.context) == _HEARTBEAT_CONTEXT.size:
            number, stamp = _HEARTBEAT_CONTEXT.unpack(message.context)
            if number <= self._read_number and stamp <= self._ticks:
                progress.acked_read = max(progress.acked_read, number)
                progress.acked_stamp = max(progress.acked_stamp, stamp)
                if self._reads:
                    self._answer_confirmed_reads()

    # Appending, as follower.

    def _on_append(self, message: Message) -> None:
        self._follow(message)
        log = self._log
        sender = message.sender
        if message.index < log.committed:
            # A stale message: nothing below the commit index needs comparing. Report where this log really is.
            self._respond(MessageType.APPEND_RESPONSE, sender, index=log.committed)
            return
        if log.term(message.index) != message.log_term:
            hint, hint_term = log.find_conflict_by_term(min(message.index, log.last_index), message.log_term)
            self._respond(
                MessageType.APPEND_RESPONSE,
                sender,
                index=message.index,
                reject=True,
                reject_hint=hint,
                log_term=hint_term,
            )
            return
        entries = message.entries
        if entries:
            # Entries that match stay: a delayed APPEND must not truncate entries of a newer one.
            conflict = log.find_conflict(entries)
            if conflict < len(entries):
                log.append(entries[conflict:])
        last = message.last_index
        log.commit_to(min(message.commit, last))
        self._respond(MessageType.APPEND_RESPONSE, sender, index=last)

    def _on_heartbeat(self, message: Message) -> None:
        self._follow(message)
        log = self._log
        if message.commit <= log.last_index:
            log.commit_to(message.commit)
        else:
            # The leader relies on entries that this log acknowledged in this term and has lost since. Reject, and set
            # `commit`, so that the rejection cannot be mistaken for a stale one (etcd-io/etcd#10166).
            self._note(EventKind.ALARM_COMMIT_OUT_OF_RANGE, node=message.sender, index=message.commit)
            self._respond(
                MessageType.APPEND_RESPONSE,
                message.sender,
                index=message.commit,
                reject=True,
                reject_hint=log.last_index,
                log_term=log.last_term,
                commit=message.commit,
            )
        self._send(MessageType.HEARTBEAT_RESPONSE, message.sender, context=message.context)

    def _on_snapshot(self, message: Message) -> None:
        self._follow(message)
        assert message.snapshot is not None, "checked"
        index = self._log.last_index if self._restore(message.snapshot) else self._log.committed
        self._respond(MessageType.APPEND_RESPONSE, message.sender, index=index)

    def _restore(self, snapshot: SnapshotMetadata) -> bool:
        """Replace log and configuration by the snapshot's. Returns False when it is of no use here."""
        log = self._log
        if snapshot.index <= log.committed:
            return False
        if self.node_id not in snapshot.configuration.nodes:
            # A configuration without this node must be stale or a mistake: this node would forget that it is a member.
            self._note(EventKind.SNAPSHOT_IGNORED, index=snapshot.index, text=f"not in {snapshot.configuration}")
            return False
        if log.matches(snapshot.index, snapshot.term):
            # The log holds all of it: only the commit index was behind.
            log.commit_to(snapshot.index)
            self._note(EventKind.SNAPSHOT_IGNORED, index=snapshot.index, text="the log has it already")
            return False
        log.restore(snapshot)
        self._note(EventKind.SNAPSHOT_RESTORED, index=snapshot.index, text=str(snapshot.configuration))
        self._switch_configuration(snapshot.configuration, snapshot.configuration.nodes)
        return True

    # Configuration.

    def _switch_configuration(self, configuration: Configuration, renewed: frozenset[NodeId]) -> None:
        before = self._progress
        next_index = max(self._log.last_index, 1)
        self._configuration = configuration
        self._progress = {}
        for node in sorted(configuration.nodes):
            progress = before.get(node)
            is_learner = node in configuration.learners
            if progress is None or node in renewed:
                # Counts as active, so that a quorum check before its first answer does not end this leadership.
                progress = self._new_progress(next_index, is_learner, recent_active=True)
            progress.is_learner = is_learner
            self._progress[node] = progress
        self._note(EventKind.CONFIGURATION_CHANGED, text=str(configuration))

        own = self._progress.get(self.node_id)
        if self._role is not Role.LEADER:
            return
        if own is None or own.is_learner:
            # It led up to here without counting itself: some leader has to commit its removal (paper, section 6).
            if self.settings.step_down_on_removal:
                self._note(EventKind.REMOVED)
                self._become_follower(self._term, NOBODY)
            return
        if self._maybe_commit():
            # A smaller quorum may have been reached already.
            self._release_postponed_reads()
            self._broadcast_append()
        else:
            # New nodes need not wait for the next heartbeat.
            for node, progress in self._progress.items():
                if node != self.node_id:
                    self._maybe_send_append(node, progress, send_if_empty=False)
        if self._lead_transferee != NOBODY and self._lead_transferee not in configuration.voters:
            self._abort_transfer()
        if self._reads:
            self._answer_confirmed_reads()

    # Transfer of leadership.

    def _on_transfer_leader_as_leader(self, message: Message) -> None:
        if message.transferee in self._configuration.voters:
            self._start_transfer(message.transferee)

    def _on_transfer_leader_as_follower(self, message: Message) -> None:
        if self._leader != NOBODY:
            self._send(MessageType.TRANSFER_LEADER, self._leader, transferee=message.transferee)

    def _start_transfer(self, to: NodeId) -> None:
        if self._lead_transferee == to:
            return
        self._abort_transfer()
        if to == self.node_id:
            self._maybe_leave_joint()
            return
        # It has one election timeout.
        self._election_elapsed = 0
        self._lead_transferee = to
        self._note(EventKind.TRANSFER_STARTED, node=to)
        progress = self._progress[to]
        if progress.match == self._log.last_index:
            self._send_timeout_now(to)
        else:
            self._maybe_send_append(to, progress, send_if_empty=True)

    def _send_timeout_now(self, to: NodeId) -> None:
        self._timeout_now_sent = True
        self._send(MessageType.TIMEOUT_NOW, to)

    def _abort_transfer(self) -> None:
        if self._lead_transferee != NOBODY:
            self._note(EventKind.TRANSFER_ENDED, node=self._lead_transferee)
            self._lead_transferee = NOBODY

    # Linearizable reads.

    def _on_read_index_as_leader(self, message: Message) -> None:
        self._read_as_leader(message.sender, message.context)

    def _on_read_index_response(self, message: Message) -> None:
        self._read_states.append(ReadState(message.index, message.context))

    def _read_as_leader(self, requester: NodeId, context: bytes) -> None:
        if len(self._reads) + len(self._postponed_reads) >= self.settings.pending_reads_max:
            raise ProposalDropped(DropReason.TOO_MANY_READS)
        if self._log.term(self._log.committed) != self._term:
            # Its commit index may be behind the one that its predecessor has reported to clients (paper, section 8).
            self._postponed_reads.append(_Read(0, 0, requester, context))
        else:
            self._confirm_read(requester, context)

    def _confirm_read(self, requester: NodeId, context: bytes) -> None:
        index = self._log.committed
        own_word_is_enough = self._configuration.is_singleton and self.node_id in self._configuration.voters
        if own_word_is_enough or (self.settings.read_mode is ReadMode.LEASE and self._has_lease()):
            self._answer_read(requester, index, context)
            return
        self._read_number += 1
        self._reads.append(_Read(self._read_number, index, requester, context))
        # One round of heartbeats per Ready serves all reads asked for until then.
        self._reads_due = True

    def _has_lease(self) -> bool:
        """Whether no other node can lead before this node's next tick.

        A quorum has answered heartbeats sent at `stamp` or later, and each of them keeps quiet for an election timeout from
        when it received it. Two ticks are lost to rounding, one on either side. Once someone was told to campaign (a
        transfer, even a failed one: the message may still be on its way), no promise holds for the rest of this leadership.
        """
        if self._lead_transferee != NOBODY or self._timeout_now_sent:
            return False
        configuration = self._configuration
        stamp = quorum.joint_committed(
            configuration.voters,
            configuration.voters_outgoing,
            lambda node: self._ticks if node == self.node_id else self._progress[node].acked_stamp,
        )
        return stamp > 0 and self._ticks - stamp < self.settings.election_timeout_ticks - 1

    def _answer_confirmed_reads(self) -> None:
        configuration = self._configuration
        confirmed = quorum.joint_committed(
            configuration.voters,
            configuration.voters_outgoing,
            lambda node: self._read_number if node == self.node_id else self._progress[node].acked_read,
        )
        while self._reads and self._reads[0].number <= confirmed:
            read = self._reads.popleft()
            self._answer_read(read.requester, read.index, read.context)

    def _answer_read(self, requester: NodeId, index: int, context: bytes) -> None:
        if requester == NOBODY:
            self._read_states.append(ReadState(index, context))
        else:
            self._send(MessageType.READ_INDEX_RESPONSE, requester, index=index, context=context)

    def _release_postponed_reads(self) -> None:
        if self._postponed_reads:
            postponed, self._postponed_reads = self._postponed_reads, []
            for read in postponed:
                self._confirm_read(read.requester, read.context)

    def _drop_reads(self) -> None:
        dropped = [read.context for read in (*self._reads, *self._postponed_reads) if read.requester == NOBODY]
        if dropped:
            self._note(EventKind.READS_DROPPED, contexts=tuple(dropped))
        self._reads.clear()
        self._postponed_reads = []
        self._read_number = 0
        self._reads_due = False

    # Proposals of others.

    def _on_propose_as_leader(self, message: Message) -> None:
        self._propose_as_leader(message.entries)

    def _on_propose_as_follower(self, message: Message) -> None:
        if self._leader == NOBODY:
            raise ProposalDropped(DropReason.NO_LEADER)
        if not self.settings.forward_proposals:
            raise ProposalDropped(DropReason.FORWARDING_OFF)
        self._messages.append(attrs.evolve(message, to=self._leader))

    def _on_propose_as_candidate(self, message: Message) -> None:
        raise ProposalDropped(DropReason.NO_LEADER)

    # Small helpers.

    def _send(
        self,
        kind: MessageType,
        to: NodeId,
        *,
        index: int = 0,
        context: bytes = b"",
        snapshot: SnapshotMetadata | None = None,
        transferee: NodeId = NOBODY,
    ) -> None:
        """Queue a message that may leave at once."""
        self._messages.append(
            Message(
                type=kind,
                to=to,
                sender=self.node_id,
                term=self._term,
                index=index,
                context=context,
                snapshot=snapshot,
                transferee=transferee,
            )
        )

    def _respond(
        self,
        kind: MessageType,
        to: NodeId,
        *,
        index: int = 0,
        reject: bool = False,
        reject_hint: int = 0,
        log_term: int = 0,
        commit: int = 0,
    ) -> None:
        """Queue a message that promises something about this node's disk: it waits for the disk."""
        self._after_append.append(
            Message(
                type=kind,
                to=to,
                sender=self.node_id,
                term=self._term,
                index=index,
                reject=reject,
                reject_hint=reject_hint,
                log_term=log_term,
                commit=commit,
            )
        )

    def _note(
        self,
        kind: EventKind,
        *,
        node: NodeId = NOBODY,
        index: int = 0,
        text: str = "",
        contexts: tuple[bytes, ...] = (),
    ) -> None:
        self._events.append(Event(kind=kind, term=self._term, node=node, index=index, text=text, contexts=contexts))


def _configuration_entry(change: ConfigurationChange) -> ProposedEntry:
    payload = encode_change(change)
    return ProposedEntry(EntryKind.CONFIGURATION, 0, ENTRY_OVERHEAD_BYTES + len(payload), payload)


def _check_configuration_payloads(entries: Sequence[ProposedEntry] | Sequence[Entry]) -> None:
    for entry in entries:
        if entry.kind is EntryKind.CONFIGURATION:
            decode_change(entry.payload)


_Handler = Callable[[RaftNode, Message], None]

_CHECKS: dict[MessageType, _Handler] = {
    MessageType.APPEND: RaftNode._check_append,
    MessageType.HEARTBEAT: RaftNode._check_from_leader,
    MessageType.SNAPSHOT: RaftNode._check_snapshot,
    MessageType.APPEND_RESPONSE: RaftNode._check_append_response,
    MessageType.VOTE: RaftNode._check_vote,
    MessageType.PRE_VOTE: RaftNode._check_vote,
    MessageType.TRANSFER_LEADER: RaftNode._check_transfer,
    MessageType.PROPOSE: RaftNode._check_propose,
}

_NOT_LEADING = (Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE)

_HANDLERS: dict[tuple[Role, MessageType], _Handler] = {
    **{(role, kind): RaftNode._on_vote for role in Role for kind in _VOTES},
    **{(role, MessageType.APPEND): RaftNode._on_append for role in _NOT_LEADING},
    **{(role, MessageType.HEARTBEAT): RaftNode._on_heartbeat for role in _NOT_LEADING},
    **{(role, MessageType.SNAPSHOT): RaftNode._on_snapshot for role in _NOT_LEADING},
    **{(role, kind): RaftNode._learn_commit for role in _NOT_LEADING for kind in _VOTE_RESPONSES},
    (Role.CANDIDATE, MessageType.VOTE_RESPONSE): RaftNode._on_vote_response,
    (Role.PRE_CANDIDATE, MessageType.PRE_VOTE_RESPONSE): RaftNode._on_vote_response,
    (Role.LEADER, MessageType.APPEND_RESPONSE): RaftNode._on_append_response,
    (Role.LEADER, MessageType.HEARTBEAT_RESPONSE): RaftNode._on_heartbeat_response,
    (Role.LEADER, MessageType.TRANSFER_LEADER): RaftNode._on_transfer_leader_as_leader,
    (Role.LEADER, MessageType.READ_INDEX): RaftNode._on_read_index_as_leader,
    (Role.LEADER, MessageType.PROPOSE): RaftNode._on_propose_as_leader,
    (Role.FOLLOWER, MessageType.TIMEOUT_NOW): RaftNode._on_timeout_now,
    (Role.FOLLOWER, MessageType.TRANSFER_LEADER): RaftNode._on_transfer_leader_as_follower,
    (Role.FOLLOWER, MessageType.READ_INDEX_RESPONSE): RaftNode._on_read_index_response,
    (Role.FOLLOWER, MessageType.PROPOSE): RaftNode._on_propose_as_follower,
    (Role.PRE_CANDIDATE, MessageType.PROPOSE): RaftNode._on_propose_as_candidate,
    (Role.CANDIDATE, MessageType.PROPOSE): RaftNode._on_propose_as_candidate,
}
