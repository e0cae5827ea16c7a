"""Which batches of which producer are in the log: the memory that turns a repeated batch into the original answer.

A producer numbers the records it sends to a partition. A batch is accepted when its base sequence continues where the last one
ended, answered with the original offset when it is one of the last `window_batches`, and refused otherwise. The first batch of
a producer may begin anywhere, as long as none was ever forgotten in the partition: then it begins at 0, or it may be a repetition.
"""

from collections import OrderedDict, deque
from collections.abc import Container, Iterable

import attrs

from trio_eventlog.errors import DuplicateOutOfWindow, OutOfOrderSequence, ProducerFenced


@attrs.frozen(slots=True)
class Remembered:
    """A batch in the log. Sequences are half-open: `base_sequence <= s < base_sequence + record_count`."""

    base_sequence: int
    record_count: int
    base_offset: int


@attrs.define(slots=True)
class ProducerState:
    """One producer in one partition. Invariant: `recent` is contiguous and ends at `next_sequence`.

    Attributes:
        recorded: number of batches of idempotent producers recorded in the partition, with this one's last.
    """

    epoch: int
    next_sequence: int
    recent: deque[Remembered]
    recorded: int = 0


@attrs.frozen(slots=True, kw_only=True)
class ProducerSnapshot:
    """One producer in a snapshot. Attributes: as of `ProducerState`; `recent` is not empty, contiguous, the oldest first."""

    producer_id: int
    epoch: int
    recorded: int
    recent: tuple[Remembered, ...]


@attrs.frozen(slots=True, kw_only=True)
class ProducersSnapshot:
    """A `ProducerTable` as a value. `producers`: the least recently heard first."""

    recorded: int = 0
    has_forgotten: bool = False
    producers: tuple[ProducerSnapshot, ...] = ()


class ProducerTable:
    """The producers of one partition, the least recently heard forgotten first.

    Forgetting goes by the order of applied entries, never by time, so that every replica forgets the same ones. Leaders see to it
    that a producer that may still repeat a batch is not among them: they take no new one while the table is full of such
    (`node.proposals`).

    Args:
        window_batches: number of batches of a producer that are remembered. A client keeps fewer than that in flight.
        producers_max: number of producers that are remembered.

    Attributes:
        recorded: number of batches recorded so far.
        has_forgotten: some producer was forgotten, and it could be any that is not known.
    """

    def __init__(self, window_batches: int, producers_max: int) -> None:
        self._window_batches = window_batches
        self._producers_max = producers_max
        self._producers: OrderedDict[int, ProducerState] = OrderedDict()
        self.recorded = 0
        self.has_forgotten = False

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ProducerTable)
            and (self.recorded, self.has_forgotten) == (other.recorded, other.has_forgotten)
            and list(self._producers.items()) == list(other._producers.items())
        )

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._producers)

    def get(self, producer_id: int) -> ProducerState | None:
        return self._producers.get(producer_id)

    def record(self, producer_id: int, epoch: int, batch: Remembered) -> None:
        """The batch is in the log. Out-of-order sequences are taken as they are: what is in the log is the truth."""
        state = self._producers.get(producer_id)
        if state is None or state.epoch != epoch or state.next_sequence != batch.base_sequence:
            state = ProducerState(epoch, batch.base_sequence, deque(maxlen=self._window_batches))
            self._producers[producer_id] = state
        self.recorded += 1
        state.recorded = self.recorded
        state.recent.append(batch)
        state.next_sequence = batch.base_sequence + batch.record_count
        self._producers.move_to_end(producer_id)
        self._forget_surplus()

    def _forget_surplus(self) -> None:
        while len(self._producers) > self._producers_max:
            self._producers.popitem(last=False)
            self.has_forgotten = True

    def snapshot(self) -> ProducersSnapshot:
        """The whole table. Takes about 1 us for each producer."""
        return ProducersSnapshot(
            recorded=self.recorded,
            has_forgotten=self.has_forgotten,
            producers=tuple(
                ProducerSnapshot(producer_id=producer_id, epoch=state.epoch, recorded=state.recorded, recent=tuple(state.recent))
                for producer_id, state in self._producers.items()
            ),
        )

    def restore(self, snapshot: ProducersSnapshot) -> None:
        """Take the state of `snapshot`. What is beyond the limits of this table is forgotten, the oldest first."""
        self.recorded = snapshot.recorded
        self.has_forgotten = snapshot.has_forgotten
        self._producers = OrderedDict(
            (
                producer.producer_id,
                ProducerState(
                    producer.epoch,
                    producer.recent[-1].base_sequence + producer.recent[-1].record_count,
                    deque(producer.recent, maxlen=self._window_batches),
                    producer.recorded,
                ),
            )
            for producer in snapshot.producers
        )
        self._forget_surplus()

    def lacks_room(self, newcomers: int, recorded: int, busy: Container[int]) -> bool:
        """Whether one more new producer would make this forget one that wrote after `recorded` batches had been recorded, or one of
        `busy`. `newcomers`: the number of new producers whose first batch is on its way already."""
        wanted = len(self._producers) + newcomers + 1 - self._producers_max
        for producer_id, state in self._producers.items():
            if wanted <= 0 or state.recorded > recorded:
                break
            if producer_id not in busy:
                wanted -= 1
        return wanted > 0


def find_duplicate(
    epoch: int, base_sequence: int, record_count: int, known_epoch: int, next_sequence: int, recent: Iterable[Remembered]
) -> Remembered | None:
    """Judge a batch against what is known of its producer.

    Returns:
        None when the batch is new and continues the sequence; the remembered batch when it is a repetition.

    Raises:
        ProducerFenced: a newer epoch has written.
        DuplicateOutOfWindow: it repeats a batch no longer remembered, or part of one.
        OutOfOrderSequence: a batch before it is missing.
    """
    if epoch < known_epoch:
        raise ProducerFenced(
            f"epoch {epoch} of this producer id was replaced by epoch {known_epoch}: another producer has taken it over; stop"
        )
    if epoch > known_epoch or base_sequence == next_sequence:
        return None
    if base_sequence > next_sequence:
        raise OutOfOrderSequence(
            f"the batch begins at sequence {base_sequence}, but {next_sequence} is the next one: send what is missing first",
            expected_sequence=next_sequence,
        )
    for batch in recent:
        if batch.base_sequence == base_sequence and batch.record_count == record_count:
            return batch
    raise DuplicateOutOfWindow(
        f"sequence {base_sequence} is below {next_sequence} and no longer remembered: the batch was taken before, its offset is"
        " not known any more; keep fewer batches in flight"
    )
