"""A leader's own proposals, from the queue before the core to the answer."""

from collections import deque
from collections.abc import Callable

from trio_eventlog.bounds import OFFSET_MAX
from trio_eventlog.codec.entry import HEADER_BYTES, EntryFrame
from trio_eventlog.codec.stored_batch import HEAD
from trio_eventlog.errors import DiskFull, EventLogError, NotLeader, Overloaded
from trio_eventlog.ids import NOBODY, NodeId
from trio_eventlog.machine.events import Accepted, Follows, InLog, Outdated, Refused, Waits
from trio_eventlog.node.appliers import Applier
from trio_eventlog.node.disk_space import AMPLE, SpaceView
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.leadership import Leadership, best_successor
from trio_eventlog.node.proposals import Appended, PendingEvents, Proposal, ProposalQueue, ProposalsUnderWay
from trio_eventlog.node.reads import Reads
from trio_eventlog.node.settled import SettledCount
from trio_eventlog.raft import EntryKind, ProposalDropped, ProposedEntry, RaftNode
from trio_eventlog.records import Acks, Batch


class Proposing:
    """Owns the proposals that are queued, those in the log that are not answered, and from where on a leader takes them.

    `propose` is for any task; `resolve` is called by the one that applies; everything else in the driver's task.

    Args:
        wake: has the driver take a turn.
        space: room on the disk.
    """

    def __init__(
        self,
        core: RaftNode,
        applier: Applier,
        leadership: Leadership,
        reads: Reads,
        settings: DriverSettings,
        name: str,
        wake: Callable[[], None],
        space: SpaceView = AMPLE,
    ) -> None:
        self._core = core
        self._applier = applier
        self._leadership = leadership
        self._reads = reads
        self._settings = settings
        self._name = name
        self._space = space
        self._wake = wake
        self._queue = ProposalQueue(settings.proposal_bytes_max, settings.proposals_max, wake)
        self._put_aside: dict[int, list[Proposal]] = {}
        """Appends to aggregates that wait until the entry at this index is decided."""
        self._to_judge_again: deque[Proposal] = deque()
        self._settled_batches = SettledCount(settings.producer_idle_seconds)
        self._under_way = ProposalsUnderWay(self._settled_batches.value)
        self._wait_for_own_disk: deque[Proposal] = deque()
        self._accepts_from_index: int | None = None
        """A leader takes proposals once it has applied the entry at this index; None while this node does not lead."""

    async def propose(self, payload: Batch | bytes, acks: Acks) -> Proposal:
        """Queue a batch, or a command of the catalog. Proposals of one task keep their order.

        Raises:
            NotLeader: this node does not lead. (Once queued, the proposal itself carries every error.)
            DiskFull: a batch, there is no room for it here, and no other voter has some.
            BatchTooLarge, ShuttingDown.
        """
        if not self._core.is_leader:
            raise self._leadership.refusal()
        if self._space.is_scarce and isinstance(payload, Batch) and self._successor() == NOBODY:
            raise self._space.refusal(self._name)
        proposal = Proposal(payload, acks, len(payload.payload) if isinstance(payload, Batch) else len(payload))
        await self._queue.put(proposal)
        return proposal

    async def propose_events(self, events: PendingEvents) -> Proposal:
        """Queue an append to an aggregate, to be judged in its turn. Raises as `propose`."""
        if not self._core.is_leader:
            raise self._leadership.refusal()
        batch = events.encoded.batch
        proposal = Proposal(batch, Acks.QUORUM, len(batch.payload), events)
        await self._queue.put(proposal)
        return proposal

    @property
    def queued_count(self) -> int:
        return len(self._queue) + len(self._to_judge_again)

    @property
    def queued_bytes(self) -> int:
        return self._queue.queued_bytes

    @property
    def is_idle(self) -> bool:
        """Whether no proposal waits for an answer."""
        return not self.queued_count and not len(self._under_way)

    def tick(self) -> None:
        if self._applier.producers is not None:
            self._settled_batches.note(self._applier.producers.recorded)

    def take(self, applied_index: int, end_offset: int) -> None:
        """Give the core what it has room for. The rest waits, and behind it the producers.

        Args:
            applied_index: of the last entry that the machine has taken.
            end_offset: one past the last record of the core's log.
        """
        core = self._core
        queue = self._queue
        if not core.is_leader:
            self._fail_queued(self._leadership.refusal())
            return
        if self._accepts_from_index is None or applied_index < self._accepts_from_index:
            # A new leader first applies what older terms have left: then it knows every producer's last batch.
            return
        if core.lead_transferee != NOBODY:
            # It is over within an election timeout, with this leader or another.
            return
        if self._space.is_scarce and not self._make_way():
            return
        accepted: list[Proposal] = []
        entries: list[ProposedEntry] = []
        waiting_bytes = core.uncommitted_bytes
        first_index = core.last_index + 1
        while (proposal := self._to_judge_again[0] if self._to_judge_again else queue.first()) is not None:
            entry = _proposed(proposal.payload)
            is_full = len(self._under_way) >= self._settings.proposals_in_flight_max
            if is_full or (waiting_bytes and waiting_bytes + entry.size_bytes > core.settings.uncommitted_bytes_max):
                break
            if self._to_judge_again:
                self._to_judge_again.popleft()
            else:
                queue.take()
            if self._is_repetition(proposal):
                continue
            if end_offset + entry.record_count > OFFSET_MAX:
                proposal.fail(DiskFull(f"{self._name} is at offset {end_offset}, and there is none beyond {OFFSET_MAX}"))
                continue
            index = first_index + len(entries)
            if proposal.events is not None and not self._is_accepted(proposal, proposal.events, index):
                continue
            end_offset += entry.record_count
            proposal.index = index
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
            self._abandon_events_above(first_index - 1, self._leadership.refusal())
            for proposal in accepted:
                self._under_way.pop(proposal.index)
                proposal.fail(NotLeader(f"{self._name}: this node is about to stop leading ({error}): try again shortly"))
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
            self._reads.refuse(proposal, error)
            return True
        if isinstance(known, Proposal):
            proposal.follow(known)
        elif known is not None:
            proposal.resolve(Appended(known.base_offset, known.record_count, duplicate=True))
        return known is not None

    def _is_accepted(self, proposal: Proposal, events: PendingEvents, index: int) -> bool:
        """Judge an append to an aggregate. True: it is to be the entry `index`, and its events have their versions. False: it is
        taken care of."""
        judge = self._applier.events
        assert judge is not None
        match judge.judge(events.intent, events.loaded):
            case Accepted(first_version=first_version):
                proposal.payload = events.encoded.stamped(first_version)
                judge.appended(index, events.intent, first_version, proposal)
                return True
            case InLog(first=first):
                count = len(events.intent.event_ids)
                proposal.resolve(Appended(first.offset, count, duplicate=True, first_version=first.version))
            case Follows(original=original):
                proposal.follow(original)
            case Waits(other=other):
                self._put_aside.setdefault(other.index, []).append(proposal)
            case Refused(error=error):
                self._reads.refuse(proposal, error)
            case Outdated():
                proposal.fail(Overloaded(f"{self._name}: too much was applied since the append was queued: try again"))
        return False

    def _fail_queued(self, error: EventLogError) -> None:
        while self._to_judge_again:
            self._to_judge_again.popleft().fail(error)
        self._queue.fail_all(error)

    def _abandon_events_above(self, index: int, error: EventLogError) -> None:
        """Appends that wait for entries above `index` fail: they are in no log."""
        if self._applier.events is not None:
            self._applier.events.abandon_above(index)
        for other in [other for other in self._put_aside if other > index]:
            for proposal in self._put_aside.pop(other):
                proposal.fail(error)

    def find(self, index: int, term: int) -> Proposal | None:
        """The proposal that the core has put there, until it is answered."""
        proposal = self._under_way.get(index)
        return proposal if proposal is not None and proposal.term == term else None

    def on_durable(self, last_index: int) -> None:
        """This node's disk has the entries up to this index."""
        while self._wait_for_own_disk and self._wait_for_own_disk[0].index <= last_index:
            proposal = self._wait_for_own_disk.popleft()
            if isinstance(proposal.payload, Batch):
                proposal.reach(Acks.LEADER, Appended(proposal.base_offset, proposal.payload.record_count))

    def resolve(self, frame: EntryFrame, result: object) -> None:
        """The machine has taken the entry; `result` is what it has made of it."""
        proposal = self._under_way.pop(frame.index)
        if proposal is None:
            return
        if proposal.events is not None and self._applier.events is not None:
            self._applier.events.decided(frame.index)
            if (waiting := self._put_aside.pop(frame.index, None)) is not None:
                self._to_judge_again += waiting
                self._wake()
        if proposal.term != frame.term:
            proposal.fail(self._leadership.refusal())
        elif isinstance(result, EventLogError):
            proposal.fail(result)
        else:
            proposal.resolve(result)

    def begin_to_lead(self) -> bool:
        """This node leads. False: it has for some time."""
        if self._accepts_from_index is not None:
            return False
        # The entry that opens the term is the last one now; everything of older terms is before it.
        self._accepts_from_index = self._core.last_index
        return True

    def lead_no_more(self) -> None:
        """This node does not lead (any more)."""
        self._accepts_from_index = None
        self._wait_for_own_disk.clear()
        self.abandon_above(self._core.commit_index, "leadership was lost before the batch was committed")
        if self.queued_count:
            self._fail_queued(self._leadership.refusal())

    def hand_over(self) -> None:
        """This node can append nothing for now. A leader lets the voter lead that is closest behind it, of those that have room."""
        core = self._core
        if core.is_leader and core.lead_transferee == NOBODY:
            successor = self._successor()
            if successor != NOBODY:
                core.transfer_leader(successor)

    def _successor(self) -> NodeId:
        return best_successor(self._core.status(), self._core.node_id, self._space.short_peers())

    def _make_way(self) -> bool:
        """There is no room for records here. Hand over to a voter that has some: what is queued waits for that. False: it does.

        Without one, queued batches are refused, and everything else (retention, configuration) may go on.
        """
        if self._to_judge_again or any(isinstance(proposal.payload, Batch) for proposal in self._queue.queued()):
            self.hand_over()
            if self._core.lead_transferee != NOBODY:
                return False
            while self._to_judge_again:
                self._to_judge_again.popleft().fail(self._space.refusal(self._name))
            self._queue.fail_batches(self._space.refusal(self._name))
        return True

    def refuse_for_lack_of_room(self) -> None:
        """Called when an append waits for room. If no other voter has room either, the queued appends are refused at once."""
        if self._space.is_scarce and self._core.is_leader and self._core.lead_transferee == NOBODY:
            self._make_way()

    def abandon_above(self, index: int, why: str) -> None:
        """What becomes of the entries above `index` is not known here."""
        self._abandon_events_above(index, self._leadership.refusal())
        self._under_way.abandon_above(index, why)

    def close(self, error: EventLogError) -> None:
        """Fail what is queued, and all later proposals."""
        self._fail_queued(error)
        self._queue.close(error)

    def end(self, why: str, error: EventLogError | None) -> None:
        """Nothing in the log is answered any more. `error`: it is known what has become of it."""
        self._abandon_events_above(0, error or self._leadership.refusal())
        self._under_way.abandon_above(0, why, error)


def _proposed(payload: Batch | bytes) -> ProposedEntry:
    if isinstance(payload, Batch):
        return ProposedEntry(EntryKind.DATA, payload.record_count, HEADER_BYTES + HEAD.size + len(payload.payload))
    return ProposedEntry(EntryKind.CONTROL, 0, HEADER_BYTES + len(payload))
