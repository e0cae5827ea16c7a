"""The loop that carries out what a Raft core decides. One task owns the core; nobody else touches it.

Each turn: take everything that has arrived (messages, proposals, ticks, what the disk finished, what was applied), step it all,
take the `Ready`, send what may leave at once, hand the rest to the disk task, go on while the disk works. Whatever arrives during
one fsync is the next write: group commit needs no timer.

What may leave when (docs/design/record-path.md):

- `Ready.messages` leave at once, in parallel with the disk: a leader's APPENDs promise nothing about its own disk.
- `Ready.append.responses` (votes, append replies, the leader's own acknowledgement) leave after the fsync of that append.
- Committed entries are applied in order, and only then is a proposal answered.
- The commit index is made durable before a configuration is switched: a node must never wake up in an older configuration than
  one it has acted in.
"""

import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs
import trio

from trio_eventlog.bounds import OFFSET_MAX
from trio_eventlog.codec.entry import HEADER_BYTES, EntryFrame, encode_entry
from trio_eventlog.codec.lives import Extent
from trio_eventlog.codec.stored_batch import HEAD, batch_entry
from trio_eventlog.errors import DiskFull, EventLogError, NewerRelease, NotLeader, OutcomeUnknown, ShuttingDown
from trio_eventlog.ids import NOBODY, GroupId, NodeId, format_id
from trio_eventlog.net.line_budget import LineBudget
from trio_eventlog.node.appliers import Applier
from trio_eventlog.node.configuration_changes import PendingChange, PendingChanges
from trio_eventlog.node.departed import NEVER, Departed
from trio_eventlog.node.inbox import Inbox, Received
from trio_eventlog.node.liveness import Reach
from trio_eventlog.node.proposals import Appended, Proposal, ProposalQueue, ProposalsUnderWay
from trio_eventlog.node.settled import SettledCount
from trio_eventlog.node.watermark import Watermark
from trio_eventlog.raft import (
    AppendToken,
    Configuration,
    ConfigurationChange,
    ConfigurationError,
    Entry,
    EntryKind,
    Event,
    HardState,
    Message,
    MessageType,
    NewerLayout,
    ProposalDropped,
    ProposedEntry,
    ProtocolError,
    RaftNode,
    ReadMode,
    ReadState,
    Role,
    Status,
    decode_change,
)
from trio_eventlog.records import Acks, Batch
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.segmented_log import SegmentedLog

logger = logging.getLogger(__name__)

REFUSAL_LINES_MAX = 5
"""Lines about refused messages of a group in a minute."""


@attrs.frozen(slots=True, kw_only=True)
class DriverSettings:
    """Bounds of one group's driver.

    Attributes:
        inbox_messages_max: waiting peer messages; more are dropped.
        inbox_bytes_max: bytes of entries among them.
        proposal_bytes_max: proposals queued for the core; producers wait for room.
        proposals_max: the same, counted.
        under_way_max: proposals given to the core and not yet answered; more wait in the queue.
        append_bytes_max: bytes of one APPEND read back from the disk for a follower that is behind.
        apply_bytes_max: bytes of committed entries read back at once.
        apply_at_once_max: committed entries applied by the driver itself; more are left to a task that lets others run.
        sleep_after_ticks: a group in which nothing happens for so many ticks falls asleep: it is not ticked and exchanges
            nothing. 0: never. Too small, and a group with a record now and then falls asleep in between, which costs it a round
            of heartbeats each time.
        commit_notice_seconds: how long an APPEND without entries, which only tells a follower of a new commit index, may wait for
            one with entries to carry it.
        producer_idle_seconds: an idempotent producer that wrote less than this ago is never forgotten: within it a repetition of a
            batch may come.
        read_retry_ticks: a linearizable read is asked for again after so many ticks without an answer, or after twice the time that
            the last answer took, if that is more; then after twice as many, and so on.
        read_retry_ticks_max: never after more.
        read_questions_max: questions for the same read that an answer may still come to; the oldest is given up for a new one.
    """

    inbox_messages_max: int = 4096
    inbox_bytes_max: int = 64 << 20
    proposal_bytes_max: int = 64 << 20
    proposals_max: int = 65536
    under_way_max: int = 65536
    append_bytes_max: int = 1 << 20
    apply_bytes_max: int = 4 << 20
    apply_at_once_max: int = 256
    sleep_after_ticks: int = 0
    commit_notice_seconds: float = 0.005
    producer_idle_seconds: float = 60.0
    read_retry_ticks: int = 5
    read_retry_ticks_max: int = 80
    read_questions_max: int = 4


Send = Callable[[GroupId, Message, Sequence[EntryFrame]], bool]
"""Give a message to the links, with the entries of an APPEND. False: not sent, and never will be."""


@attrs.frozen(slots=True, kw_only=True)
class Peers:
    """What sleeping takes of the node.

    Attributes:
        reach: whether a node is there.
        send_sleep: send a leader's last HEARTBEAT for a while. False: not sent.
        on_sleep: the group has fallen asleep (True), and is not to be ticked, or has woken. Called from the group's task.
    """

    reach: Callable[[NodeId], Reach]
    send_sleep: Callable[[GroupId, Message], bool]
    on_sleep: Callable[[GroupId, bool], None] = lambda group_id, is_asleep: None


@attrs.define(slots=True, eq=False)
class _Write:
    """One turn of the disk task: the hard state first (an entry may not be durable under a term that is not), then frames."""

    hard_state: HardState | None
    frames: list[EntryFrame]
    token: AppendToken | None
    responses: Sequence[Message]
    done: trio.Event | None = None


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
        core: made from what the disk holds; nothing applied yet.
        name: what log lines call the group.
        departed: how far the log went that was here before, if one was (`departed`).
        on_caught_up: writes down that a replica which had lost entries has caught up.
        peers: None: the group never sleeps.
        read_nonce: of this life of the node. Answers to reads that a former life has asked for are told apart by it.
    """

    def __init__(
        self,
        group_id: GroupId,
        core: RaftNode,
        log: SegmentedLog,
        hard_state: HardStateFile,
        applier: Applier,
        send: Send,
        settings: DriverSettings,
        *,
        name: str,
        read_nonce: int = 0,
        departed: Departed = NEVER,
        on_caught_up: Callable[[Departed], Awaitable[None]] | None = None,
        peers: Peers | None = None,
    ) -> None:
        self.group_id = group_id
        self.name = name
        self._departed = departed
        self._on_caught_up = on_caught_up
        self._ticks_caught_up = 0
        self._is_whole = trio.Event()
        if not departed.loss:
            self._is_whole.set()
        self._core = core
        self._log = log
        self._hard_state = hard_state
        self._applier = applier
        self._send = send
        self._settings = settings
        self._inbox = Inbox(settings.inbox_messages_max, settings.inbox_bytes_max)
        self._proposals = ProposalQueue(settings.proposal_bytes_max, settings.proposals_max, self._inbox.wake)
        self._settled_batches = SettledCount(settings.producer_idle_seconds)
        self._under_way = ProposalsUnderWay(self._settled_batches.value)
        self._changes = PendingChanges()
        self._wait_for_own_disk: deque[Proposal] = deque()
        self._requests: deque[Callable[[], object]] = deque()
        self._peers = peers if settings.sleep_after_ticks and core.settings.read_mode is not ReadMode.LEASE else None
        """A lease is counted in ticks, of which a sleeping leader has none."""
        self._is_asleep = False
        self._idle_ticks = 0
        """Number of ticks since something other than heartbeats was met."""
        self._sleep_asked: Message | None = None
        """The leader's last HEARTBEAT for a while, until this follower sleeps or something else is met."""
        self._counts_on_leaders_node = False
        self._slept_without: frozenset[NodeId] = frozenset()
        """Members that this sleeping leader knows to be gone."""
        self._quiet_requests: deque[Callable[[], object]] = deque()
        """As `_requests`, but they wake nobody by themselves."""
        self._ticks_due = 0
        self._staged_end_offset = log.log_end_offset
        self._received: dict[tuple[int, int], EntryFrame] = {}
        """By term and index: the bytes of the entries that the core has taken from this turn's APPENDs."""
        self._looked_up = (0, 0, 0)
        """Term, index and end offset of the entry that was read last to see whether an APPEND follows on it."""
        self._is_looking_up = False
        self._writes: deque[_Write] = deque()
        self._writes_waiting = 0
        self._term_and_vote = (hard_state.state.term, hard_state.state.vote)
        self._write_wanted = trio.Event()
        self._written: deque[_Write] = deque()
        self.writes_done = 0
        """Turns of the disk task since this was opened: promises may have been given after each."""
        self._to_apply: deque[range] = deque()
        self._apply_wanted = trio.Event()
        self._applied_index = 0
        self._told_commit_index = 0
        """The highest that a leader has told of, which its entries may be far from reaching here."""
        self._is_applying = False
        self._applied_notices: deque[tuple[int, ConfigurationChange | None]] = deque()
        self._commit_notices: dict[NodeId, Message] = {}
        self._commit_notice_wanted = trio.Event()
        self._catch_up: dict[NodeId, deque[Message]] = {}
        self._catch_up_wanted: dict[NodeId, trio.Event] = {}
        self._accepts_from_index: int | None = None
        self._reads_to_ask: dict[_Read, None] = {}
        self._questions: dict[bytes, _Question] = {}
        """By context: those that may still be answered."""
        self._read_answer_ticks = 0
        """How long the last answer took."""
        self._refusals: dict[_Read, tuple[Proposal, EventLogError, int]] = {}
        """Proposals about to be refused, with the error and this leader's term."""
        self._asked_of = (0, NOBODY)
        """Term and leader that the reads asked for were put to."""
        self._read_nonce = read_nonce.to_bytes(8, "little")
        self._read_number = 0
        self._ticks = 0
        self._heard_at: dict[NodeId, float] = {}
        """When the last message of each other node was taken."""
        self._closed_by: EventLogError | None = None
        self._leader_changed = trio.Event()
        self._scopes: dict[trio.CancelScope, NodeId] = {}
        self._applied_moved = Watermark()
        self._counters = Counter[str]()
        self._stopped_because = ""
        self._refusal_lines = LineBudget(logger, f"{name}: refused messages", lines_max=REFUSAL_LINES_MAX)
        self._nursery: trio.Nursery | None = None

    # For other tasks

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
        return max(self._told_commit_index, self._core.commit_index) - self._applied_index

    @property
    def stopped_because(self) -> str:
        """Why this replica is of no use as it is: nothing is applied any more, or it has no vote; "" when neither holds."""
        if self._departed.is_vote_lost:
            return (
                f"{self._departed.loss}, so that nobody knows whom it has elected: it takes no part any more. Remove this node from"
                " its cluster (`trio-eventlog node remove`), and start it with an empty data directory and --join"
            )
        if self._departed.loss:
            return f"{self._departed.loss}: it has no vote until it has caught up with a leader"
        return self._stopped_because

    @property
    def role(self) -> Role:
        return self._core.role

    @property
    def term(self) -> int:
        return self._core.term

    @property
    def applied_index(self) -> int:
        """Index of the last entry that the core knows to be applied."""
        return self._core.applied_index

    @property
    def is_asleep(self) -> bool:
        """Nothing happens in the group: it is not ticked, and exchanges nothing, until something is to be done."""
        return self._is_asleep

    @property
    def counts_on_leaders_node(self) -> bool:
        """This follower has slept, and not heard of its leader since: its election timeout does not say how long that is."""
        return self._counts_on_leaders_node

    async def wait_whole(self) -> None:
        """Until the replica has caught up with a leader, if it had lost something."""
        await self._is_whole.wait()

    def status(self) -> Status:
        return self._core.status()

    def heard_at(self, node_id: NodeId) -> float | None:
        """When this group's last message of the node was taken, in Trio's time; None: there was none in this life."""
        return self._heard_at.get(node_id)

    def statistics(self) -> DriverStatistics:
        counters = self._counters
        return DriverStatistics(
            appends=counters["appends"],
            appended_entries=counters["appended_entries"],
            appended_bytes=counters["appended_bytes"],
            applied_entries=counters["applied_entries"],
            elections_won=counters["elections_won"],
            dropped_messages=self._inbox.dropped,
            protocol_errors=counters["protocol_errors"],
            queued_proposal_bytes=self._proposals.queued_bytes,
            times_asleep=counters["times_asleep"],
        )

    async def wait_leader_other_than(self, node_id: NodeId) -> NodeId:
        """Until the leader this node knows of is not `node_id` (any longer). Raises the error of `close`."""
        while self.leader_id == node_id:
            if self._closed_by is not None:
                raise self._closed_by
            await self._leader_changed.wait()
        return self.leader_id

    @contextmanager
    def while_led_by(self, node_id: NodeId, scope: trio.CancelScope) -> Iterator[None]:
        """Within the block, `scope` is cancelled when somebody else is known to lead (not when just nobody is), or when this is
        closed. At once, when that is so already."""
        if self._closed_by is not None or self.leader_id not in (node_id, NOBODY):
            scope.cancel()
        self._scopes[scope] = node_id
        try:
            yield
        finally:
            del self._scopes[scope]

    async def propose(self, payload: Batch | bytes, acks: Acks) -> Proposal:
        """Queue a batch, or a command of the catalog. Proposals of one task keep their order.

        Raises:
            NotLeader: this node does not lead. (Once queued, the proposal itself carries every error.)
            BatchTooLarge, ShuttingDown.
        """
        if not self._core.is_leader:
            raise self._not_leader()
        proposal = Proposal(payload, acks, len(payload.payload) if isinstance(payload, Batch) else len(payload))
        await self._proposals.put(proposal)
        return proposal

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
        self._request(lambda: self._propose_change(pending))
        return await pending.outcome()

    def _propose_change(self, pending: PendingChange) -> None:
        try:
            pending.index = self._core.propose_configuration(pending.change)
        except (NotLeader, ProposalDropped, ConfigurationError) as error:
            self._changes.refused(pending, error)

    def receive(self, received: Received) -> None:
        """A peer's message; dropped when the inbox is full."""
        if self._departed.is_vote_lost:
            return
        self._inbox.put_message(received)

    def tick(self) -> None:
        """Another tick has passed."""
        self._ticks_due += 1
        self._inbox.wake()

    def report_unreachable(self, node_id: NodeId) -> None:
        """What was sent to the peer did not arrive."""
        (self._quiet_requests if self._is_asleep else self._requests).append(lambda: self._begin_again(node_id))
        self._inbox.wake()

    def peer_reset(self, node_id: NodeId) -> None:
        """The peer's process is gone, or silent. When it led, `campaign_if_leader_lost` should follow after a little time."""

        def wake_and_reset() -> None:
            self._rouse("lost leader")
            self._core.peer_reset(node_id)

        self._quiet_requests.append(wake_and_reset)
        self._inbox.wake()

    def peers_changed(self) -> None:
        """A node is gone, or back. A sleeping leader wakes when it has to: for one that it has slept without, and when those that
        are left are no quorum."""
        self._quiet_requests.append(self._wake_for_peers)
        self._inbox.wake()

    def campaign_if_leader_lost(self, node_id: NodeId) -> None:
        """Stand for election, unless somebody has been heard to lead since `peer_reset`."""
        if not self._is_returning:
            self._request(lambda: self._core.campaign_if_leader_lost(node_id))

    def campaign(self) -> None:
        """Stand for election now."""
        if not self._is_returning:
            self._request(self._core.campaign)

    def transfer_leadership(self, to: NodeId) -> None:
        """Hand over, if this node leads and `to` is a voter that keeps up."""
        self._request(lambda: self._core.transfer_leader(to))

    async def linearizable_index(self) -> int:
        """An index such that a machine that has applied it shows everything acknowledged before this call (ReadIndex).

        Waits for a leader and for its answer, however often the question has to be repeated: the time is the caller's to limit.
        Raises the error of `close`.
        """
        if self._closed_by is not None:
            raise self._closed_by
        read = _Read()
        self._reads_to_ask[read] = None
        self._inbox.wake()
        try:
            await read.done.wait()
        finally:
            self._forget_read(read)
        if read.error is not None:
            raise read.error
        return read.index

    def _forget_read(self, read: "_Read") -> None:
        self._reads_to_ask.pop(read, None)
        while read.contexts:
            self._give_up_question(read)

    def _give_up_question(self, read: "_Read") -> None:
        """The oldest one that was asked for this read does not answer it any more."""
        context = read.contexts.popleft()
        question = self._questions[context]
        del question.reads[read]
        if not question.reads:
            del self._questions[context]

    async def wait_applied(self, index: int) -> None:
        """Until the machine has taken the entry at `index`. Raises the error of `close`."""
        await self._applied_moved.wait_at_least(index)

    async def has_applied(self, index: int) -> bool:
        """Wait until the machine has taken the entry at `index`. False: it has stopped before. Raises the error of `close`."""
        try:
            await self.wait_applied(index)
        except EventLogError:
            if not self._stopped_because or self._closed_by is not None:
                raise
            return False
        return True

    def close(self, error: EventLogError) -> None:
        """What everybody who waits is told when `run` ends, which is about to be cancelled. Otherwise it is ShuttingDown."""
        self._closed_by = self._closed_by or error

    def _request(self, call: Callable[[], object]) -> None:
        self._requests.append(call)
        self._inbox.wake()

    # The loop

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive until cancelled. Anything that leaves this is fatal for the node: a failed write, damaged data, a bug."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._write_loop)
                nursery.start_soon(self._apply_loop)
                nursery.start_soon(self._commit_notice_loop)
                task_status.started()
                self._take_ready()
                while True:
                    await self._inbox.wait()
                    self._turn()
        finally:
            self._nursery = None
            # Of a group that goes on elsewhere, what was under way may come to be committed there.
            is_gone = self._closed_by is not None and not isinstance(self._closed_by, NotLeader)
            error = self._closed_by = self._closed_by or ShuttingDown("this node is stopping: go to another one")
            self._proposals.close(error)
            self._changes.close(error)
            self._under_way.abandon_above(0, "this node is stopping", error if is_gone else None)
            for read in list(self._refusals):
                self._refusals.pop(read)[0].fail(error)
            for read in [*self._reads_to_ask, *(read for question in self._questions.values() for read in question.reads)]:
                read.fail(error)
            self._applied_moved.close(error)
            for scope in self._scopes:
                scope.cancel()
            self._leader_changed.set()

    def _turn(self) -> None:
        core = self._core
        while self._written:
            self._finish_write(self._written.popleft())
        while self._applied_notices:
            index, change = self._applied_notices.popleft()
            if change is not None:
                # A leader may be removed by it, and then tells nobody any more that the change is committed: its only follower
                # would wait for it in every election, for ever.
                self._send_commit_notices()
                try:
                    configuration = core.apply_configuration(change, index)
                    self._heard_at = {node: at for node, at in self._heard_at.items() if node in configuration.nodes}
                    self._changes.applied(index, change, configuration)
                except ConfigurationError as error:
                    self._changes.applied(index, change, error)
                    logger.error("%s: entry %d changes nothing, on every replica alike: %s", self.name, index, error)
            core.on_applied(index)
        has_ticked = self._ticks_due > 0 and not self._is_asleep
        self._ticks_due = 0
        if has_ticked:
            # A loop that was held up has missed ticks, and so has seen no messages: catching up would start elections for nothing.
            self._idle_ticks += 1
            if not self._is_returning:
                core.tick()
            elif self._departed.loss and not self._departed.is_vote_lost:
                self._look_whether_caught_up()
            self._ticks += 1
            if self._applier.producers is not None:
                self._settled_batches.note(self._applier.producers.recorded)
            if self._questions:
                self._repeat_questions()
        now = trio.current_time()
        for received in self._inbox.take_messages():
            self._heard_at[received.message.sender] = now
            if not self._is_heartbeat(received.message):
                self._rouse("message")
            if received.message.sender == core.leader:
                self._counts_on_leaders_node = False
            self._step(received)
            if received.asks_to_sleep and self._peers is not None:
                self._sleep_asked = received.message
        while self._quiet_requests:
            self._quiet_requests.popleft()()
        if self._requests or self._reads_to_ask or len(self._proposals):
            self._rouse("work")
        while self._requests:
            try:
                self._requests.popleft()()
            except (NotLeader, ProposalDropped, ConfigurationError) as error:
                # Who asked waits for the effect, not for this call, and asks again or gives up by itself.
                logger.debug("%s: %s", self.name, error)
        if self._reads_to_ask:
            settings = self._settings
            wait_ticks = min(max(settings.read_retry_ticks, 2 * self._read_answer_ticks), settings.read_retry_ticks_max)
            if self._ask(self._reads_to_ask, wait_ticks):
                self._reads_to_ask = {}
        self._take_ready()
        if len(self._proposals):
            self._take_proposals()
            self._take_ready()
        if self._peers is not None and not self._is_asleep:
            if self._sleep_asked is not None:
                self._sleep_as_follower(self._peers, self._sleep_asked)
            elif has_ticked and self._idle_ticks >= self._settings.sleep_after_ticks and core.is_leader:
                self._sleep_as_leader(self._peers)

    def _step(self, received: Received) -> None:
        message = received.message
        try:
            news: Sequence[EntryFrame] = ()
            if received.frames:
                position = self._core.find_news(message)
                news = received.frames[position:] if position else received.frames
                if news and not self._continues_offsets(received, news[0]):
                    # Who leads, and where the logs agree, is heard at once.
                    message, news = attrs.evolve(message, entries=(), last_index=message.index), ()
            elif message.type is MessageType.SNAPSHOT:
                raise ProtocolError("a snapshot, which this release cannot install")
            elif message.type in _ELECTIONS and not self._may_take_part(message):
                return
            self._core.step(message)
            if news and self._core.entry_term(news[0].index) == news[0].term:
                # Taken, and only now: what is refused must not lend its bytes to an entry of the same term and index.
                for frame in news:
                    self._received[frame.term, frame.index] = frame
            if message.type is MessageType.APPEND:
                self._told_commit_index = max(self._told_commit_index, message.commit)
        except (ProtocolError, ProposalDropped) as error:
            self._counters["protocol_errors"] += 1
            sender = message.sender
            # One that was taken out of the configuration just now still answers what it was sent before.
            level = logging.WARNING if sender in self._core.configuration.nodes else logging.DEBUG
            self._refusal_lines.log(level, "%s: a message of %s was refused: %s", self.name, format_id(sender), error)

    # Sleeping (docs/decisions/0025)

    def _is_heartbeat(self, message: Message) -> bool:
        """It is part of being idle, and for a sleeping group it is late: sent before the group fell asleep."""
        if message.term != self._core.term or message.reject:
            return False
        if not self._is_asleep:
            return message.type is MessageType.HEARTBEAT or message.type is MessageType.HEARTBEAT_RESPONSE
        # A follower wakes by any message: its leader is awake, or somebody looks for one.
        is_answer = message.type is MessageType.HEARTBEAT_RESPONSE or message.type is MessageType.APPEND_RESPONSE
        return is_answer and self._core.is_leader and message.sender not in self._slept_without

    def _rouse(self, why: str) -> None:
        """Something happens: whoever is asleep wakes, and the time without work begins anew. `why` is for logs and simulations."""
        self._idle_ticks = 0
        self._sleep_asked = None
        if self._is_asleep:
            self._is_asleep = False
            assert self._peers is not None
            logger.debug("%s: woken by %s", self.name, why)
            self._peers.on_sleep(self.group_id, False)

    def _fall_asleep(self, peers: Peers) -> None:
        self._is_asleep = True
        self._counts_on_leaders_node = not self._core.is_leader
        self._sleep_asked = None
        self._counters["times_asleep"] += 1
        peers.on_sleep(self.group_id, True)

    def _sleep_as_leader(self, peers: Peers) -> None:
        without = self._absent_members(peers)
        if without is None:
            return
        core = self._core
        for node_id in core.configuration.nodes:
            if node_id != core.node_id and node_id not in without:
                message = Message(
                    type=MessageType.HEARTBEAT, to=node_id, sender=core.node_id, term=core.term, commit=core.commit_index
                )
                if not peers.send_sleep(self.group_id, message):
                    return  # Those who were asked wake by the next heartbeat.
        self._slept_without = without
        self._fall_asleep(peers)

    def _absent_members(self, peers: Peers) -> frozenset[NodeId] | None:
        """The members that are gone; None when this leader has to stay awake.

        It does while it has work, while a member that is there lacks something or cannot be asked to sleep, and when those
        that are there are no quorum: then it has to find out, and to step down.
        """
        core = self._core
        configuration = core.configuration
        if not core.is_leader or not self._is_quiet or configuration.is_joint or core.lead_transferee != NOBODY:
            return None
        absent: set[NodeId] = set()
        for node_id in configuration.nodes:
            if node_id == core.node_id:
                continue
            match peers.reach(node_id):
                case Reach.GONE:
                    absent.add(node_id)
                case Reach.ALIVE if core.match_of(node_id) == core.last_index:
                    pass
                case _:
                    return None
        if 2 * len(configuration.voters - absent) <= len(configuration.voters):
            return None
        return frozenset(absent)

    def _sleep_as_follower(self, peers: Peers, asked: Message) -> None:
        """Once everything that the leader has named is here, durable and applied."""
        core = self._core
        if core.term != asked.term or core.leader != asked.sender or core.is_leader or core.last_index != asked.commit:
            self._sleep_asked = None
        elif self._is_quiet and not self._is_returning:
            self._fall_asleep(peers)

    @property
    def _is_quiet(self) -> bool:
        """Everything is durable, committed and applied here, and nobody waits for anything."""
        core = self._core
        last_index = core.last_index
        return (
            last_index == core.stable_index == core.commit_index == core.applied_index == self._applied_index
            and not self._writes_waiting
            and not self._written
            and not self._applied_notices
            and not self._questions
            and not self._reads_to_ask
            and not self._requests
            and not self._commit_notices
            and not any(self._catch_up.values())
            and not len(self._proposals)
            and not len(self._under_way)
        )

    def _wake_for_peers(self) -> None:
        if self._is_asleep and self._core.is_leader:
            assert self._peers is not None
            absent = self._absent_members(self._peers)
            if absent is None or not self._slept_without <= absent:
                self._rouse("peers")
            else:
                self._slept_without = absent

    @property
    def _is_returning(self) -> bool:
        """The replica was here before, and does not hold yet what it may have acknowledged, or its configuration is an old one."""
        departed, core = self._departed, self._core
        if departed.loss:
            return True
        is_shorter = (core.last_term, core.last_index) < (departed.last_term, departed.last_index)
        return is_shorter or self._applied_index < departed.commit_index

    def _may_take_part(self, message: Message) -> bool:
        """Whether the replica that was here before could have elected the candidate, or could be asked to lead."""
        if message.type is MessageType.TIMEOUT_NOW or self._departed.loss:
            return not self._is_returning
        return (message.log_term, message.index) >= (self._departed.last_term, self._departed.last_index)

    def _look_whether_caught_up(self) -> None:
        """A leader that was elected without this replica holds all that it had acknowledged and that was committed."""
        is_level = self._core.leader != NOBODY and self._told_commit_index > 0 and not self.entries_behind
        self._ticks_caught_up = self._ticks_caught_up + 1 if is_level else 0
        # For a while: an answer of the time before the loss may still have been on its way to the leader.
        if self._ticks_caught_up == self._core.settings.election_timeout_ticks:
            assert self._nursery is not None
            self._nursery.start_soon(self._end_loss)

    async def _end_loss(self) -> None:
        status = self.status()
        now = Departed(last_term=status.last_term, last_index=self._log.last_index, commit_index=self._applied_index)
        departed = attrs.evolve(self._departed, loss="").joined(now)
        if self._on_caught_up is not None:
            await self._on_caught_up(departed)
        logger.info("%s has caught up with a leader, and has its vote again", self.name)
        self._departed = departed
        self._is_whole.set()

    def _continues_offsets(self, received: Received, first: EntryFrame) -> bool:
        """Whether `first`, the first entry of an APPEND that would be new here, begins where this log's entry before it ends.

        Offsets follow from the entry before; here a mismatch costs a message, in the log it would cost the node. False: the disk
        has to be asked, and the message comes again after that.

        Raises:
            ProtocolError: it begins elsewhere. (Among themselves the entries were checked when they were decoded.)
        """
        message = received.message
        before = first.index - 1
        if self._core.entry_term(message.index) != message.log_term:
            return True  # a conflict, for the core to answer
        expected = self._end_offset(before)
        if expected is None:
            self._look_up(received, before)
            return False
        if first.base_offset != expected:
            raise ProtocolError(
                f"entry {first.index} begins at offset {first.base_offset}, the one before ends at {expected} in this log"
            )
        return True

    def _end_offset(self, index: int) -> int | None:
        """One past the last record of the core's entry at `index` and of all before it; None when only the disk knows."""
        term = self._core.entry_term(index) or 0
        taken = self._received.get((term, index))
        if taken is not None:
            return taken.end_offset
        if index == self._log.staged_last_index:
            return self._staged_end_offset
        cached = self._log.cached(index, index, _NO_BOUND)
        if cached is not None:
            return cached[0].end_offset
        if index < self._log.first_index:
            return self._log.log_start_offset
        if self._looked_up[:2] == (term, index):
            return self._looked_up[2]
        return None

    def _look_up(self, received: Received, index: int) -> None:
        """Read the entry at `index`, then take the message again. One at a time: others are dropped, and come again."""
        if self._is_looking_up:
            return
        self._is_looking_up = True
        assert self._nursery is not None
        self._nursery.start_soon(self._read_end_offset, received, index)

    async def _read_end_offset(self, received: Received, index: int) -> None:
        try:
            (frame,) = await self._log.read(index, index, 1)
        except IndexError:
            return  # the suffix was removed while the disk was busy
        finally:
            self._is_looking_up = False
        self._looked_up = (frame.term, frame.index, frame.end_offset)
        self.receive(received)

    def _take_proposals(self) -> None:
        """Give the core what it has room for. The rest waits, and behind it the producers."""
        core = self._core
        queue = self._proposals
        if not self.is_leader:
            queue.fail_all(self._not_leader())
            return
        if self._accepts_from_index is None or self._applied_index < self._accepts_from_index:
            # A new leader first applies what older terms have left: then it knows every producer's last batch.
            return
        if core.lead_transferee != NOBODY:
            # It is over within an election timeout, with this leader or another.
            return
        accepted: list[Proposal] = []
        entries: list[ProposedEntry] = []
        waiting_bytes = core.uncommitted_bytes
        end_offset = self._staged_end_offset
        first_index = core.last_index + 1
        while (proposal := queue.first()) is not None:
            entry = _proposed(proposal.payload)
            is_full = len(self._under_way) >= self._settings.under_way_max
            if is_full or (waiting_bytes and waiting_bytes + entry.size_bytes > core.settings.max_uncommitted_bytes):
                break
            queue.take()
            if self._is_repetition(proposal):
                continue
            if end_offset + entry.record_count > OFFSET_MAX:
                proposal.fail(DiskFull(f"{self.name} is at offset {end_offset}, and there is none beyond {OFFSET_MAX}"))
                continue
            end_offset += entry.record_count
            proposal.index = first_index + len(entries)
            proposal.term = core.term
            self._under_way.add(proposal, self._applier.producers)
            waiting_bytes += entry.size_bytes
            accepted.append(proposal)
            entries.append(entry)
        if not entries:
            return
        try:
            indexes = core.propose(entries)
        except (NotLeader, ProposalDropped) as error:
            # Not for lack of room, which was looked at: this node is no member any more.
            for proposal in accepted:
                self._under_way.pop(proposal.index)
                proposal.fail(NotLeader(f"{self.name}: this node is about to stop leading ({error}): try again shortly"))
            return
        assert indexes.start == first_index
        self._wait_for_own_disk.extend(accepted)
        for proposal in accepted:
            if proposal.acks is Acks.NONE:
                count = proposal.payload.record_count if isinstance(proposal.payload, Batch) else 0
                proposal.reach(Acks.NONE, Appended(0, count))

    def _is_repetition(self, proposal: Proposal) -> bool:
        """Whether the batch is in the log or on its way there, or cannot follow what is; then the proposal is taken care of."""
        batch = proposal.payload
        if not isinstance(batch, Batch):
            return False
        producers = self._applier.producers
        assert producers is not None
        try:
            known = self._under_way.find(batch, producers)
        except EventLogError as error:
            self._refuse(proposal, error)
            return True
        if isinstance(known, Proposal):
            proposal.follow(known)
        elif known is not None:
            proposal.resolve(Appended(known.base_offset, known.record_count, duplicate=True))
        return known is not None

    def _refuse(self, proposal: Proposal, error: EventLogError) -> None:
        """Say no, once it is certain that this node knows: one that was replaced without hearing of it lacks the batches since.

        (To say "it is in the log already" needs no such certainty: what is applied stays.)
        """
        read = _Read()
        self._refusals[read] = (proposal, error, self._core.term)
        self._reads_to_ask[read] = None
        self._inbox.wake()

    def _confirm_refusal(self, read: "_Read") -> None:
        proposal, error, term = self._refusals.pop(read)
        proposal.fail(error if self.is_leader and term == self._core.term else self._not_leader())

    # Linearizable reads

    def _ask(self, reads: "dict[_Read, None]", wait_ticks: int) -> bool:
        """One question for all of them, to be repeated after `wait_ticks`. False: not now."""
        core = self._core
        if core.leader == NOBODY:
            return False  # asked when somebody leads
        self._read_number += 1
        context = self._read_nonce + self._read_number.to_bytes(8, "little")
        try:
            core.read_index(context)
        except (NotLeader, ProposalDropped) as error:
            logger.debug("%s: reads wait: %s", self.name, error)
            return False
        self._asked_of = (core.term, core.leader)
        self._questions[context] = _Question(self._ticks, wait_ticks, reads)
        for read in reads:
            read.contexts.append(context)
            if len(read.contexts) > self._settings.read_questions_max:
                self._give_up_question(read)
        return True

    def _repeat_questions(self) -> None:
        """Ask again for what has waited long enough. The question or its answer may be lost; or the way is long, and an answer to
        any question that was asked for a read, after it began, tells it what it wants to know."""
        due = [question for question in self._questions.values() if question.is_due(self._ticks)]
        if due:
            reads = {read: None for question in due for read in question.reads}
            wait_ticks = min(2 * max(question.wait_ticks for question in due), self._settings.read_retry_ticks_max)
            if self._ask(reads, wait_ticks):
                for question in due:
                    question.is_repeated = True

    def _ask_anew(self) -> None:
        """Another leader, or another term: what was asked before is lost."""
        for question in self._questions.values():
            self._reads_to_ask |= question.reads
        for read in self._reads_to_ask:
            read.contexts.clear()
        self._questions.clear()
        self._inbox.wake()

    def _answer_reads(self, state: ReadState) -> None:
        question = self._questions.get(state.context)
        if question is None:
            return
        self._read_answer_ticks = self._ticks - question.asked_at_tick
        for read in list(question.reads):
            self._forget_read(read)
            read.answer(state.index)
            if read in self._refusals:
                self._confirm_refusal(read)

    # What the core decided

    def _take_ready(self) -> None:
        while (ready := self._core.ready()) is not None:
            if ready.soft_state is not None:
                self._on_soft_state()
            frames: list[EntryFrame] = []
            append = ready.append
            if append is not None and append.entries:
                frames = [self._frame(entry) for entry in append.entries]
                self._log.stage(frames)
            for message in ready.messages:
                self._send_message(message)
            if append is not None:
                hard_state = append.hard_state
                if hard_state is not None and (hard_state.term, hard_state.vote) == self._term_and_vote and not append.sync_commit:
                    # The commit index alone is hardly ever worth an fsync: forgetting it costs a round trip.
                    hard_state = None
                if hard_state is not None:
                    self._term_and_vote = (hard_state.term, hard_state.vote)
                write = _Write(hard_state, frames, append.token, append.responses)
                if append.must_sync or self._writes_waiting or self._written:
                    self._write(write)
                else:
                    # A commit index alone is not worth a write, and with nothing before it, it is done.
                    self._finish_write(write)
            if ready.committed:
                self._apply_or_queue(ready.committed)
            for state in ready.read_states:
                self._answer_reads(state)
            for event in ready.events:
                self._log_event(event)
        self._received.clear()

    def _frame(self, entry: Entry) -> EntryFrame:
        """The bytes of an entry that the core wants on disk: received from the leader, proposed here, or made by the core."""
        frame = self._received.get((entry.term, entry.index))
        if frame is None:
            payload: Batch | bytes = entry.payload
            proposal = self._under_way.get(entry.index)
            if proposal is not None and proposal.term == entry.term:
                payload = proposal.payload
                proposal.base_offset = self._staged_end_offset
            if isinstance(payload, Batch):
                frame = batch_entry(payload, term=entry.term, index=entry.index, base_offset=self._staged_end_offset)
            else:
                assert payload or entry.kind in _MADE_BY_CORES, f"{self.name}: nobody has the payload of entry {entry.index}"
                frame = encode_entry(
                    entry.kind, term=entry.term, index=entry.index, base_offset=self._staged_end_offset, payload=payload
                )
        self._staged_end_offset = frame.end_offset
        return frame

    def _log_event(self, event: Event) -> None:
        level = logging.ERROR if event.kind.name.startswith("ALARM") else logging.INFO
        about = f" node {format_id(event.node)}" if event.node != NOBODY else ""
        text = f" ({event.text})" if event.text else ""
        logger.log(level, "%s: term %d: %s%s%s", self.name, event.term, event.kind.value, about, text)

    def _on_soft_state(self) -> None:
        if self.is_leader:
            if self._accepts_from_index is None:
                self._counters["elections_won"] += 1
                # The entry that opens the term is the last one now; everything of older terms is before it.
                self._accepts_from_index = self._core.last_index
        else:
            self._accepts_from_index = None
            self._wait_for_own_disk.clear()
            self._under_way.abandon_above(self._core.commit_index, "leadership was lost before the batch was committed")
            self._changes.abandon(OutcomeUnknown("leadership was lost before the change was applied: look at the configuration"))
            if len(self._proposals):
                self._take_proposals()
        for read in list(self._refusals):
            if not self.is_leader:
                self._confirm_refusal(read)
                self._forget_read(read)
        if self._questions and self._asked_of != (self._core.term, self._core.leader):
            self._ask_anew()
        for scope, node_id in self._scopes.items():
            if self.leader_id not in (node_id, NOBODY):
                scope.cancel()
        self._leader_changed.set()
        self._leader_changed = trio.Event()

    def _not_leader(self) -> EventLogError:
        leader_id = self._core.leader
        if leader_id == NOBODY:
            return NotLeader(f"{self.name} has no leader just now: try again shortly")
        return NotLeader(f"{self.name} is led by node {format_id(leader_id)}: go there", leader_id)

    # Sending

    def _send_message(self, message: Message) -> None:
        if message.type is not MessageType.APPEND:
            self._send(self.group_id, message, ())
            return
        if not self._is_of_this_leadership(message):
            return  # it had to wait for the disk, and the log may hold other entries there now
        behind = self._catch_up.get(message.to)
        if behind and message.index != behind[-1].last_index:
            # The follower has refused something, or something was lost: what waits would be refused too, or arrive twice.
            behind.clear()
        if message.last_index == message.index:
            # Half of all messages of a leader with one producer: each commit would be told to every follower, and answered.
            self._commit_notices[message.to] = message
            self._commit_notice_wanted.set()
            return
        # This one carries a newer commit index.
        self._commit_notices.pop(message.to, None)
        if not behind:
            frames = self._log.cached(message.index + 1, message.last_index, _NO_BOUND)
            if frames is not None and frames[-1].index == message.last_index:
                if not self._send(self.group_id, message, frames):
                    self._core.report_unreachable(message.to)
                return
        if behind is None:
            behind = self._catch_up[message.to] = deque()
            self._catch_up_wanted[message.to] = trio.Event()
            assert self._nursery is not None
            self._nursery.start_soon(self._catch_up_loop, message.to)
        if len(behind) >= self._core.settings.max_inflight_messages:
            # More than the core has under way: the follower acknowledges what was never sent to it.
            self._begin_again(message.to)
            return
        behind.append(message)
        self._catch_up_wanted[message.to].set()

    def _begin_again(self, node_id: NodeId) -> None:
        """Something did not get to the follower: the core asks where it stands, and what waits for it here has no use any more."""
        self._core.report_unreachable(node_id)
        if node_id in self._catch_up:
            self._catch_up[node_id].clear()
            self._commit_notices.pop(node_id, None)

    async def _commit_notice_loop(self) -> None:
        """Tell followers of the commit index when no entries came along to do so."""
        while True:
            await self._commit_notice_wanted.wait()
            self._commit_notice_wanted = trio.Event()
            await trio.sleep(self._settings.commit_notice_seconds)
            self._send_commit_notices()

    def _send_commit_notices(self) -> None:
        notices, self._commit_notices = self._commit_notices, {}
        for message in notices.values():
            if self._catch_up.get(message.to):
                # It counts on entries that still wait for the disk. Before them it would be refused, and all of them sent again.
                self._commit_notices[message.to] = message
            elif self._is_of_this_leadership(message):
                self._send(self.group_id, message, ())

    async def _catch_up_loop(self, node_id: NodeId) -> None:
        """APPENDs to one follower that need the disk, in order; those that come meanwhile wait behind them."""
        behind = self._catch_up[node_id]
        while True:
            while not behind:
                if node_id in self._commit_notices:
                    self._commit_notice_wanted.set()
                self._catch_up_wanted[node_id] = trio.Event()
                await self._catch_up_wanted[node_id].wait()
            message = behind[0]
            frames = await self._read_for(message)
            if not behind or behind[0] is not message:
                continue  # the core has begun again meanwhile
            behind.popleft()
            sent = False
            if frames and frames[-1].index == message.last_index and self._is_of_this_leadership(message):
                sent = self._send(self.group_id, message, frames)
            if not sent:
                behind.clear()
                self.report_unreachable(node_id)

    async def _read_for(self, message: Message) -> list[EntryFrame]:
        """The entries of an APPEND; nothing when they are not this leader's any more."""
        frames: list[EntryFrame] = []
        first = message.index + 1
        try:
            while self._is_of_this_leadership(message) and first <= message.last_index:
                # The newest may not be durable yet; those are in memory.
                more = self._log.cached(first, message.last_index, _NO_BOUND)
                if more is None:
                    more = await self._log.read(
                        first, min(message.last_index, self._log.last_index), self._settings.append_bytes_max
                    )
                frames += more
                first = frames[-1].index + 1
        except IndexError:
            # The suffix was removed while the disk was busy: another node leads.
            return []
        return frames

    def _is_of_this_leadership(self, message: Message) -> bool:
        """Entries of this message are still the leader's: within one term a leader never rewrites its log."""
        return self.is_leader and message.term == self._core.term

    # The disk

    def _write(self, write: _Write) -> None:
        self._writes.append(write)
        self._writes_waiting += 1
        self._write_wanted.set()

    async def _write_loop(self) -> None:
        """Everything that waits becomes one write: hard state, then entries, then one notice to the core."""
        while True:
            while not self._writes:
                self._write_wanted = trio.Event()
                await self._write_wanted.wait()
            batch = [self._writes.popleft()]
            frames = batch[0].frames
            while self._writes:
                following = self._writes[0].frames
                if frames and following and following[0].index != frames[-1].index + 1:
                    break  # a conflicting suffix: first make durable what it replaces, then replace it
                batch.append(self._writes.popleft())
                frames = frames + following if frames else following
            hard_state = next((write.hard_state for write in reversed(batch) if write.hard_state is not None), None)
            for part in _parts(frames) if hard_state is not None else [frames]:
                if hard_state is not None:
                    # These entries are not there yet, and what stands at their indexes may be entries that they replace. A commit
                    # index that covers those would commit them, should a crash come in between.
                    durable = part[0].index - 1 if part else self._log.last_index
                    await self._hard_state.save(attrs.evolve(hard_state, commit=min(hard_state.commit, durable)))
                if part:
                    await self._log.append(part)
                    self._counters["appends"] += 1
            if frames:
                self._counters["appended_entries"] += len(frames)
                self._counters["appended_bytes"] += sum(frame.size_bytes for frame in frames)
            self.writes_done += 1
            self._written.extend(batch)
            self._writes_waiting -= len(batch)
            self._inbox.wake()

    def _finish_write(self, write: _Write) -> None:
        """The disk has it: now the promises that depend on it may leave."""
        if write.done is not None:
            write.done.set()
        for message in write.responses:
            if message.to == self._core.node_id:
                self._step(Received(message))
            else:
                self._send_message(message)
        if write.token is not None:
            self._core.on_appended(write.token)
        while self._wait_for_own_disk and write.frames and self._wait_for_own_disk[0].index <= write.frames[-1].index:
            proposal = self._wait_for_own_disk.popleft()
            if isinstance(proposal.payload, Batch):
                proposal.reach(Acks.LEADER, Appended(proposal.base_offset, proposal.payload.record_count))

    # The machine

    def _apply_or_queue(self, indexes: range) -> None:
        """Apply at once what is in memory, is not much and needs no disk; the rest in order behind what waits already."""
        if not self._is_applying and not self._applied_notices and len(indexes) <= self._settings.apply_at_once_max:
            frames = self._log.cached(indexes[0], indexes[-1], _NO_BOUND)
            if (
                frames is not None
                and frames[-1].index == indexes[-1]
                and all(frame.kind is EntryKind.DATA or frame.kind is EntryKind.NO_OP for frame in frames)
            ):
                for frame in frames:
                    self._apply(frame)
                self._core.on_applied(indexes[-1])
                return
        self._is_applying = True
        self._to_apply.append(indexes)
        self._apply_wanted.set()

    async def _apply_loop(self) -> None:
        """Committed entries, in order, to the machine; then the answers to who proposed them. Ends where that cannot go on."""
        while not self._stopped_because:
            while not self._to_apply:
                self._apply_wanted = trio.Event()
                await self._apply_wanted.wait()
            indexes = self._to_apply.popleft()
            first, last = indexes[0], indexes[-1]
            while first <= last:
                frames = self._log.cached(first, last, self._settings.apply_bytes_max)
                if frames is None:
                    frames = await self._log.read(first, last, self._settings.apply_bytes_max)
                for frame in frames:
                    if frame.kind is EntryKind.CONFIGURATION or frame.kind is EntryKind.CONTROL:
                        await self._persist_commit(frame.index)
                    try:
                        self._apply(frame)
                    except NewerRelease as error:
                        self._stop_applying(frame.index, error)
                        return
                first = frames[-1].index + 1
                self._is_applying = bool(self._to_apply) or first <= last
                self._applied_notices.append((frames[-1].index, None))
                self._inbox.wake()
                if first <= last:
                    await trio.lowlevel.checkpoint()

    def _stop_applying(self, index: int, error: NewerRelease) -> None:
        """The rest of the log waits for an upgrade. The replica goes on storing and voting, and shows what it has applied."""
        self._stopped_because = f"entry {index} is of a newer release ({error}): upgrade this node"
        logger.error("%s: %s. Until then nothing behind it is applied here", self.name, self._stopped_because)
        self._applied_notices.append((self._applied_index, None))
        stopped = NotLeader(
            f"{self.name} is behind on this node for good: {self._stopped_because}; ask another one", self.leader_id
        )
        self._applied_moved.close(stopped)

        def confine() -> None:
            self._core.confine(self._stopped_because)
            self._under_way.abandon_above(self._applied_index, "this node cannot apply what it has committed")

        self._request(confine)

    def _apply(self, frame: EntryFrame) -> None:
        change = self._change_in(frame) if frame.kind is EntryKind.CONFIGURATION else None
        result = self._applier.apply(frame)
        self._applied_index = frame.index
        self._applied_moved.advance(frame.index)
        self._counters["applied_entries"] += 1
        if frame.kind is EntryKind.CONFIGURATION:
            self._applied_notices.append((frame.index, change))
            self._inbox.wake()
        proposal = self._under_way.pop(frame.index)
        if proposal is None:
            return
        if proposal.term != frame.term:
            proposal.fail(self._not_leader())
        elif isinstance(result, EventLogError):
            proposal.fail(result)
        else:
            proposal.resolve(result)

    def _change_in(self, frame: EntryFrame) -> ConfigurationChange | None:
        try:
            return decode_change(frame.payload)
        except NewerLayout as error:
            raise NewerRelease(str(error)) from error
        except ProtocolError as error:
            logger.error("%s: entry %d changes nothing, on every replica alike: %s", self.name, frame.index, error)
            return None

    async def _persist_commit(self, index: int) -> None:
        """Make the commit index durable before what it commits takes effect.

        A node must never wake up in an older configuration than one it has acted in (docs/decisions/0007), and a restarted node
        opens its topics without waiting for a leader.
        """
        saved = self._hard_state.state
        if saved.commit >= index:
            return
        done = trio.Event()
        state = self._core.status().hard_state
        self._write(_Write(attrs.evolve(state, commit=max(state.commit, index)), [], None, (), done))
        await done.wait()


def _parts(frames: list[EntryFrame]) -> list[list[EntryFrame]]:
    """Each configuration change begins a part: it says that the change before it is committed, and so much of the commit index has
    to be durable before it is (`StorageAppend.sync_commit`). All in one part if there is none."""
    parts: list[list[EntryFrame]] = [[]]
    for frame in frames:
        if frame.kind is EntryKind.CONFIGURATION and parts[-1]:
            parts.append([])
        parts[-1].append(frame)
    return parts


@attrs.define(slots=True, eq=False)
class _Read:
    """Somebody who waits for a ReadIndex answer. `contexts`: of the questions that were asked for it, the oldest first."""

    contexts: deque[bytes] = attrs.field(factory=deque)
    index: int = 0
    error: EventLogError | None = None
    done: trio.Event = attrs.field(factory=trio.Event)

    def answer(self, index: int) -> None:
        self.index = index
        self.done.set()

    def fail(self, error: EventLogError) -> None:
        self.error = error
        self.done.set()


@attrs.define(slots=True, eq=False)
class _Question:
    """What a leader was asked: who waits for the answer, and when it is asked again. All reads of one turn share one."""

    asked_at_tick: int
    wait_ticks: int
    reads: dict[_Read, None]
    is_repeated: bool = False

    def is_due(self, tick: int) -> bool:
        return not self.is_repeated and tick - self.asked_at_tick >= self.wait_ticks


def _proposed(payload: Batch | bytes) -> ProposedEntry:
    if isinstance(payload, Batch):
        return ProposedEntry(EntryKind.DATA, payload.record_count, HEADER_BYTES + HEAD.size + len(payload.payload))
    return ProposedEntry(EntryKind.CONTROL, 0, HEADER_BYTES + len(payload))


_NO_BOUND = 1 << 62
_ELECTIONS = frozenset({MessageType.VOTE, MessageType.PRE_VOTE, MessageType.TIMEOUT_NOW})
_MADE_BY_CORES = frozenset({EntryKind.NO_OP, EntryKind.CONFIGURATION})
