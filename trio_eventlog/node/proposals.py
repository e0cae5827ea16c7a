"""Proposals of clients, from the queue before the core to the answer."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

import attrs
import trio

from trio_eventlog.codec.events import EncodedEvents
from trio_eventlog.errors import BatchTooLarge, DuplicateOutOfWindow, EventLogError, OutcomeUnknown, Overloaded
from trio_eventlog.machine.events import AppendIntent, LoadedAggregate
from trio_eventlog.machine.producers import ProducerTable, Remembered, find_duplicate
from trio_eventlog.records import Acks, Batch


@attrs.frozen(slots=True)
class Appended:
    """Where a batch is in the log. `first_version`: of its first event; 0 when it has none."""

    base_offset: int
    record_count: int
    duplicate: bool = False
    first_version: int = 0


@attrs.frozen(slots=True, kw_only=True)
class PendingEvents:
    """Events of an aggregate that are to be judged before they are appended: which version they get is decided then.

    Attributes:
        loaded: what the index knew of the aggregate when they were queued.
    """

    encoded: EncodedEvents
    intent: AppendIntent
    loaded: LoadedAggregate


@attrs.define(slots=True, eq=False)
class Proposal:
    """One entry to be put into the log: a batch, or a command of the catalog.

    The task that made it waits in `outcome()`; the driver decides once.

    Attributes:
        payload: the batch or the encoded command.
        acks: the level of durability to reach before `outcome()` returns.
        size_bytes: its size for the bounds of queues and windows.
        index, term: where the core put it; 0 before.
        base_offset: where its records are, once it has an index.
        events: of an append to an aggregate, whose payload has no versions before it is judged; None for all others.
    """

    payload: Batch | bytes
    acks: Acks
    size_bytes: int
    events: PendingEvents | None = None
    index: int = 0
    term: int = 0
    base_offset: int = 0
    _done: trio.Event = attrs.field(factory=trio.Event)
    _result: object = None
    _error: EventLogError | None = None
    _reached: Acks | None = None
    _reached_result: object = None
    _followers: list["Proposal"] = attrs.field(factory=list)

    @property
    def is_decided(self) -> bool:
        return self._done.is_set()

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    def reach(self, level: Acks, result: object) -> None:
        """The batch has reached this level of durability: answer the callers that asked for this level or a lower one."""
        if self._reached is not None and self._reached <= level:
            return
        self._reached, self._reached_result = level, result
        if self.acks >= level:
            self._decide(result, None)
        if self._followers:
            again = _as_repetition(result)
            for follower in self._followers:
                follower.reach(level, again)

    def resolve(self, result: object) -> None:
        """It is committed and applied."""
        self.reach(Acks.QUORUM, result)

    def fail(self, error: EventLogError) -> None:
        """Fail, unless there is an outcome already: a batch that only the leader had to acknowledge may be lost later, which its
        caller has accepted."""
        self._decide(None, error)
        for follower in self._followers:
            follower.fail(error)

    def follow(self, original: "Proposal") -> None:
        """`original` is the same batch, still in flight. Resolve or fail with it, but at this proposal's own `acks` level."""
        original._followers.append(self)
        if original._reached is not None:
            self.reach(original._reached, _as_repetition(original._reached_result))

    async def outcome(self) -> object:
        """Return the result, or raise the error. Cancelling the caller does not withdraw the proposal."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result

    def _decide(self, result: object, error: EventLogError | None) -> None:
        if not self._done.is_set():
            self._result, self._error = result, error
            self._done.set()


def _as_repetition(result: object) -> object:
    return attrs.evolve(result, duplicate=True) if isinstance(result, Appended) else result


@attrs.define(slots=True, eq=False)
class _Waiting:
    proposal: Proposal
    admitted: trio.Event = attrs.field(factory=trio.Event)


class ProposalQueue:
    """Proposals on their way to the core: bounded; a producer waits for room (backpressure), first come first served.

    Args:
        max_bytes: bound on what is queued. A single proposal may be as large as that.
        max_proposals: bound on their number.
        wake: called when something was put.
    """

    def __init__(self, max_bytes: int, max_proposals: int, wake: Callable[[], None]) -> None:
        self._max_bytes = max_bytes
        self._max_proposals = max_proposals
        self._wake = wake
        self._queue: deque[Proposal] = deque()
        self._queued_bytes = 0
        self._waiting: deque[_Waiting] = deque()
        self._closed_by: EventLogError | None = None

    @property
    def queued_bytes(self) -> int:
        return self._queued_bytes

    @property
    def waiting(self) -> int:
        """How many producers wait for room."""
        return len(self._waiting)

    def __len__(self) -> int:
        return len(self._queue)

    async def put(self, proposal: Proposal) -> None:
        """Wait for room, then queue. When there is room, this yields to no other task: the caller waits for the outcome next.

        Raises:
            BatchTooLarge: it is larger than the whole queue.
            EventLogError: the error of `close`.
        """
        if proposal.size_bytes > self._max_bytes:
            raise BatchTooLarge(
                f"{proposal.size_bytes} bytes are more than the proposal queue holds ({self._max_bytes}); send smaller batches",
                limit_bytes=self._max_bytes,
            )
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed_by is not None:
            raise self._closed_by
        if not self._waiting and self._has_room(proposal):
            self._append(proposal)
            return
        waiting = _Waiting(proposal)
        self._waiting.append(waiting)
        try:
            await waiting.admitted.wait()
        finally:
            if not waiting.admitted.is_set():
                self._waiting.remove(waiting)
                # It may have been the one that all the others stood behind.
                self._admit()

    def first(self) -> Proposal | None:
        """The oldest one; it stays."""
        return self._queue[0] if self._queue else None

    def take(self) -> Proposal:
        """Remove and return the oldest one. The proposal that has waited longest gets its room."""
        proposal = self._queue.popleft()
        self._queued_bytes -= proposal.size_bytes
        if self._waiting:
            self._admit()
        return proposal

    def queued(self) -> Iterable[Proposal]:
        """The queued proposals, oldest first, without those that wait for room."""
        return self._queue

    def fail_batches(self, error: EventLogError) -> None:
        """Fail all batches, queued or waiting for room. Commands stay, in their order."""
        kept: list[Proposal] = []
        while self._queue:
            proposal = self.take()
            if isinstance(proposal.payload, Batch):
                proposal.fail(error)
            else:
                kept.append(proposal)
        for proposal in kept:
            self._queued_bytes += proposal.size_bytes
            self._queue.append(proposal)

    def fail_all(self, error: EventLogError) -> None:
        """Fail all proposals, queued or waiting for room."""
        while self._queue or self._waiting:
            while self._queue:
                self.take().fail(error)

    def close(self, error: EventLogError) -> None:
        """Fail all proposals, and all later ones."""
        self._closed_by = error
        self.fail_all(error)

    def _has_room(self, proposal: Proposal) -> bool:
        return self._queued_bytes + proposal.size_bytes <= self._max_bytes and len(self._queue) < self._max_proposals

    def _append(self, proposal: Proposal) -> None:
        self._queue.append(proposal)
        self._queued_bytes += proposal.size_bytes
        self._wake()

    def _admit(self) -> None:
        """Admit in order. If smaller proposals that fit could overtake a large one, it could wait for ever."""
        while self._waiting and self._has_room(self._waiting[0].proposal):
            waiting = self._waiting.popleft()
            self._append(waiting.proposal)
            waiting.admitted.set()


class ProposalsUnderWay:
    """The leader's own proposals between the core and the answer, by index, with the overlay that finds duplicates among them.

    The producers' table has applied batches only. A repetition of a batch that is still in flight is found here, and gets the same
    answer.
    A new leader begins empty: it takes proposals only once everything of older terms is applied.

    Args:
        settled: number of batches in the producers' table that are too old to be repeated any more.
    """

    def __init__(self, settled: Callable[[], int] = lambda: 0) -> None:
        self._settled = settled
        self._newcomers: set[int] = set()
        """Producers whose first batch is in flight."""
        self._by_index: OrderedDict[int, Proposal] = OrderedDict()
        # By producer: (epoch, base sequence) -> proposal, in the order of the log. Two epochs may begin at the same sequence.
        self._by_producer: dict[int, OrderedDict[tuple[int, int], Proposal]] = {}

    def __len__(self) -> int:
        return len(self._by_index)

    def find(self, batch: Batch, applied: ProducerTable) -> Remembered | Proposal | None:
        """None when `batch` is new; where it is, or the proposal that carries it, when it is a repetition.

        Raises:
            DuplicateOutOfWindow: also when the producer may be one that was forgotten.
            Overloaded: for a new producer, one would be forgotten that may still repeat a batch.
            As `machine.producers.find_duplicate`.
        """
        if not batch.producer_id:
            return None
        under_way = self._by_producer.get(batch.producer_id)
        if under_way:
            last = under_way[next(reversed(under_way))].payload
            assert isinstance(last, Batch)
            same = under_way.get((batch.producer_epoch, batch.base_sequence))
            if same is not None and batch.producer_epoch == last.producer_epoch:
                assert isinstance(same.payload, Batch)
                if same.payload.record_count == batch.record_count:
                    return same
            state = applied.get(batch.producer_id)
            return find_duplicate(
                batch.producer_epoch,
                batch.base_sequence,
                batch.record_count,
                last.producer_epoch,
                last.base_sequence + last.record_count,
                state.recent if state is not None and state.epoch == last.producer_epoch else (),
            )
        state = applied.get(batch.producer_id)
        if state is None:
            self._check_newcomer(batch, applied)
            return None
        return find_duplicate(
            batch.producer_epoch, batch.base_sequence, batch.record_count, state.epoch, state.next_sequence, state.recent
        )

    def _check_newcomer(self, batch: Batch, applied: ProducerTable) -> None:
        if batch.base_sequence and applied.has_forgotten:
            raise DuplicateOutOfWindow(
                f"the batch begins at sequence {batch.base_sequence} of a producer that is not known (any more): it may have been"
                " taken before, and is not taken again. A producer that was idle for long begins a new epoch, at sequence 0"
            )
        if applied.lacks_room(len(self._newcomers), self._settled(), self._by_producer):
            raise Overloaded(
                "the partition remembers as many producers as it can (producers_max), and none was idle long enough to be forgotten"
                " (producer_idle_seconds): use producers for more than a few batches, or try again later",
                retry_after_seconds=1.0,
            )

    def add(self, proposal: Proposal, applied: ProducerTable | None = None) -> None:
        self._by_index[proposal.index] = proposal
        batch = proposal.payload
        if isinstance(batch, Batch) and batch.producer_id:
            if applied is not None and batch.producer_id not in self._by_producer and applied.get(batch.producer_id) is None:
                self._newcomers.add(batch.producer_id)
            self._by_producer.setdefault(batch.producer_id, OrderedDict())[_key(batch)] = proposal

    def get(self, index: int) -> Proposal | None:
        return self._by_index.get(index)

    def pop(self, index: int) -> Proposal | None:
        proposal = self._by_index.pop(index, None)
        if proposal is not None and isinstance(proposal.payload, Batch) and proposal.payload.producer_id:
            under_way = self._by_producer[proposal.payload.producer_id]
            if under_way.get(_key(proposal.payload)) is proposal:
                del under_way[_key(proposal.payload)]
            # Applied by now, or abandoned.
            self._newcomers.discard(proposal.payload.producer_id)
            if not under_way:
                del self._by_producer[proposal.payload.producer_id]
        return proposal

    def abandon_above(self, index: int, why: str, error: EventLogError | None = None) -> None:
        """The node no longer leads: what is not known committed may or may not survive. `error`: it is known what became of it."""
        error = error or OutcomeUnknown(f"{why}; repeat the batch under the same producer id and sequence to find out")
        for at in [at for at in self._by_index if at > index]:
            proposal = self.pop(at)
            assert proposal is not None
            proposal.fail(error)


def _key(batch: Batch) -> tuple[int, int]:
    return batch.producer_epoch, batch.base_sequence
