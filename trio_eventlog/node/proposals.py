"""What clients ask of a group's log, from the queue before the core to the answer."""

from collections import OrderedDict, deque
from collections.abc import Callable

import attrs
import trio

from trio_eventlog.errors import BatchTooLarge, EventLogError, OutcomeUnknown
from trio_eventlog.machine.producers import ProducerTable, Remembered, find_duplicate
from trio_eventlog.records import Acks, Batch


@attrs.frozen(slots=True)
class Appended:
    """Where a batch is in the log."""

    base_offset: int
    record_count: int
    duplicate: bool = False


@attrs.define(slots=True, eq=False)
class Proposal:
    """One entry that somebody wants in the log: a batch, or a command of the catalog.

    The task that made it waits in `outcome()`; the driver decides once.

    Attributes:
        payload: the batch or the encoded command.
        size_bytes: what it counts for in queues and windows.
        index, term: where the core put it; 0 before.
    """

    payload: Batch | bytes
    acks: Acks
    size_bytes: int
    index: int = 0
    term: int = 0
    base_offset: int = 0
    _done: trio.Event = attrs.field(factory=trio.Event)
    _result: object = None
    _error: EventLogError | None = None
    _followers: list["Proposal"] = attrs.field(factory=list)

    @property
    def is_decided(self) -> bool:
        return self._done.is_set()

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    def resolve(self, result: object) -> None:
        """The first decision counts: an acknowledged proposal may still be reported lost later, and that is no news."""
        if not self._done.is_set():
            self._result = result
            self._done.set()
            for follower in self._followers:
                follower.resolve(attrs.evolve(result, duplicate=True) if isinstance(result, Appended) else result)

    def fail(self, error: EventLogError) -> None:
        if not self._done.is_set():
            self._error = error
            self._done.set()
            for follower in self._followers:
                follower.fail(error)

    def follow(self, original: "Proposal") -> None:
        """Share the fate of `original`, which is the same batch and still under way."""
        original._followers.append(self)

    async def outcome(self) -> object:
        """The result, or the error raised. A caller that is cancelled leaves the proposal to its fate."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result


class ProposalQueue:
    """Proposals on their way to the core: bounded in bytes; a producer waits for room (backpressure), first come first served.

    Args:
        max_bytes: bound on what waits here. A single proposal may be as large as that.
        wake: called when something was put.
    """

    def __init__(self, max_bytes: int, wake: Callable[[], None]) -> None:
        self._max_bytes = max_bytes
        self._wake = wake
        self._queue: deque[Proposal] = deque()
        self._queued_bytes = 0
        self._room = trio.lowlevel.ParkingLot()
        self._closed_by: EventLogError | None = None

    @property
    def queued_bytes(self) -> int:
        return self._queued_bytes

    def __len__(self) -> int:
        return len(self._queue)

    async def put(self, proposal: Proposal) -> None:
        """Wait for room, then queue. Raises the error of `close`. Always a checkpoint."""
        if proposal.size_bytes > self._max_bytes:
            raise BatchTooLarge(
                f"{proposal.size_bytes} bytes are more than the proposal queue holds ({self._max_bytes}); send smaller batches",
                limit_bytes=self._max_bytes,
            )
        await trio.lowlevel.checkpoint_if_cancelled()
        parked = False
        while self._closed_by is None and (
            self._queued_bytes + proposal.size_bytes > self._max_bytes or (not parked and len(self._room))
        ):
            await self._room.park()
            parked = True
        if not parked:
            await trio.lowlevel.cancel_shielded_checkpoint()
        if self._closed_by is not None:
            raise self._closed_by
        self._queue.append(proposal)
        self._queued_bytes += proposal.size_bytes
        self._wake()

    def take(self, count_max: int, bytes_max: int) -> list[Proposal]:
        """The next proposals, in order: at most `count_max`, together at most `bytes_max`. The rest stays."""
        taken: list[Proposal] = []
        while self._queue and len(taken) < count_max and self._queue[0].size_bytes <= bytes_max:
            proposal = self._queue.popleft()
            self._queued_bytes -= proposal.size_bytes
            bytes_max -= proposal.size_bytes
            taken.append(proposal)
        if taken:
            self._room.unpark_all()
        return taken

    def take_all(self) -> list[Proposal]:
        return self.take(len(self._queue), self._queued_bytes)

    def close(self, error: EventLogError) -> None:
        """Fail what waits, and everybody who comes."""
        self._closed_by = error
        for proposal in self.take_all():
            proposal.fail(error)
        self._room.unpark_all()


class ProposalsUnderWay:
    """The leader's own proposals between the core and the answer, by index, with the overlay that finds duplicates among them.

    The producers' table knows applied batches only; a repetition of one still under way is found here and shares its answer.
    A new leader begins empty: it takes proposals only once everything of older terms is applied.
    """

    def __init__(self) -> None:
        self._by_index: OrderedDict[int, Proposal] = OrderedDict()
        self._by_producer: dict[int, OrderedDict[int, Proposal]] = {}

    def __len__(self) -> int:
        return len(self._by_index)

    def find(self, batch: Batch, applied: ProducerTable) -> Remembered | Proposal | None:
        """None when `batch` is new; where it is, or the proposal that carries it, when it is a repetition.

        Raises as `machine.producers.find_duplicate`.
        """
        if not batch.producer_id:
            return None
        under_way = self._by_producer.get(batch.producer_id)
        if under_way:
            last = under_way[next(reversed(under_way))].payload
            assert isinstance(last, Batch)
            if batch.producer_epoch == last.producer_epoch:
                same = under_way.get(batch.base_sequence)
                if same is not None:
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
            return None
        return find_duplicate(
            batch.producer_epoch, batch.base_sequence, batch.record_count, state.epoch, state.next_sequence, state.recent
        )

    def add(self, proposal: Proposal) -> None:
        self._by_index[proposal.index] = proposal
        batch = proposal.payload
        if isinstance(batch, Batch) and batch.producer_id:
            self._by_producer.setdefault(batch.producer_id, OrderedDict())[batch.base_sequence] = proposal

    def get(self, index: int) -> Proposal | None:
        return self._by_index.get(index)

    def pop(self, index: int) -> Proposal | None:
        proposal = self._by_index.pop(index, None)
        if proposal is not None and isinstance(proposal.payload, Batch) and proposal.payload.producer_id:
            under_way = self._by_producer[proposal.payload.producer_id]
            del under_way[proposal.payload.base_sequence]
            if not under_way:
                del self._by_producer[proposal.payload.producer_id]
        return proposal

    def abandon_above(self, index: int, why: str) -> None:
        """The node no longer leads: what is not known committed may or may not survive."""
        for at in [at for at in self._by_index if at > index]:
            proposal = self.pop(at)
            assert proposal is not None
            proposal.fail(OutcomeUnknown(f"{why}; repeat the batch under the same producer id and sequence to find out"))
