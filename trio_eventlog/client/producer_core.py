"""The batches of one producer for one partition: numbering, window, answers, repetitions. Values in, values out.

The rules, of which "each batch at most once, in order" follows:

1. A batch gets its sequence when it is first sent, and keeps it for every repetition.
2. Batches are sent in the order of their sequences, at most `window_batches` without an answer: as many as the log remembers
   of a producer, so that every repetition is recognised.
3. The first batch of an epoch goes alone. The log takes the first batch it sees of a producer wherever its sequence begins;
   were the second to arrive first, the first would be taken for an old repetition, and be lost.
4. After an error nothing is sent until everything on its way has been answered or its stream is gone. Then what is not in the
   log goes again, in order.
5. A batch refused for good leaves a hole in the sequence, over which the log takes nothing. The next epoch begins: batches
   known not to be in the log are numbered anew; those that may be in it cannot be, and fail as OutcomeUnknown.

The driver (`sender.py`) owns the stream: it asks for `next_to_send`, reports answers in the order of the requests, and reports
a lost stream.
"""

from collections import deque
from collections.abc import Callable, Iterator

import attrs

from trio_eventlog.errors import (
    DuplicateOutOfWindow,
    EventLogError,
    NotLeader,
    OutcomeUnknown,
    OutOfOrderSequence,
    Overloaded,
    QuotaExceeded,
    TopicRecreated,
    Unavailable,
)
from trio_eventlog.records import Acks, Batch
from trio_eventlog.service.values import ProduceResult

_NOT_TAKEN = (NotLeader, Overloaded, QuotaExceeded, OutOfOrderSequence)
"""Answers after which the batch is known not to be in the log by that attempt."""


@attrs.define(slots=True, eq=False)
class PendingBatch:
    """A batch on its way into the log.

    Attributes:
        batch: the records, without producer and sequence.
        acks: what the answer waits for.
        expires_at: after this time it is not sent again.
        size_bytes: what it counts for in buffers.
        on_done: called once, when `result` or `error` is there.
        epoch, base_sequence: its number, once `is_numbered`.
        place: among all batches that were ever numbered.
        may_be_in_log: the outcome of some attempt is not known.
    """

    batch: Batch
    acks: Acks
    expires_at: float
    size_bytes: int
    on_done: Callable[["PendingBatch"], None]
    is_numbered: bool = False
    epoch: int = 0
    base_sequence: int = 0
    place: int = 0
    may_be_in_log: bool = False
    last_error: EventLogError | None = None
    result: ProduceResult | None = None
    error: EventLogError | None = None

    @property
    def is_done(self) -> bool:
        return self.result is not None or self.error is not None


class ProducerCore:
    """See the module's text.

    Invariants: `in_flight` is a part of `unresolved` in the same order, and its beginning unless `is_settling`;
    no batch is numbered `window_batches` places or more behind the first unresolved one, since the log would forget that one,
    acknowledged or not, while it may have to be sent again; sequences in `unresolved` are contiguous unless a batch has failed.
    """

    def __init__(self, producer_id: int, window_batches: int) -> None:
        assert producer_id
        assert window_batches >= 1
        self.producer_id = producer_id
        self.epoch = 0
        self._window_batches = window_batches
        self._next_sequence = 0
        self._numbered = 0
        self._epoch_is_known = False  # The log has taken a batch of this epoch.
        self._queue: deque[PendingBatch] = deque()
        self._unresolved: deque[PendingBatch] = deque()
        self._in_flight: deque[PendingBatch] = deque()
        self._has_error = False
        self._has_hole = False

    def __len__(self) -> int:
        """Batches not done yet."""
        return len(self._queue) + len(self._unresolved)

    @property
    def in_flight_batches(self) -> int:
        return len(self._in_flight)

    @property
    def oldest_in_flight(self) -> PendingBatch:
        """The batch that the next answer is about. Only while something is in flight."""
        return self._in_flight[0]

    @property
    def is_settling(self) -> bool:
        """An error was answered: nothing is sent until everything on its way has been answered."""
        return self._has_error

    @property
    def has_work(self) -> bool:
        """Something would be sent on a fresh stream."""
        return bool(self._queue or self._unresolved)

    def add(self, pending: PendingBatch) -> None:
        self._queue.append(pending)

    def withdraw(self, pending: PendingBatch) -> bool:
        """Take back a batch that was never sent. False when it was: its outcome is open then."""
        if pending.is_numbered or pending.is_done:
            return False
        self._queue.remove(pending)
        return True

    def next_to_send(self) -> PendingBatch | None:
        """The batch to send now on the present stream; it counts as sent from here on."""
        if self._has_error or len(self._in_flight) >= (self._window_batches if self._epoch_is_known else 1):
            return None
        if len(self._unresolved) > len(self._in_flight):
            pending = self._unresolved[len(self._in_flight)]
        elif self._queue and not (self._unresolved and self._numbered - self._unresolved[0].place >= self._window_batches):
            pending = self._queue.popleft()
            pending.is_numbered = True
            pending.place = self._numbered
            self._numbered += 1
            pending.epoch = self.epoch
            pending.base_sequence = self._next_sequence
            self._next_sequence += pending.batch.record_count
            self._unresolved.append(pending)
        else:
            return None
        self._in_flight.append(pending)
        return pending

    def on_result(self, result: ProduceResult) -> None:
        """The oldest batch in flight is in the log."""
        pending = self._in_flight.popleft()
        self._unresolved.remove(pending)
        self._epoch_is_known = True
        pending.result = result
        pending.on_done(pending)
        self._settle()

    def on_error(self, error: EventLogError) -> None:
        """The oldest batch in flight was answered with an error."""
        pending = self._in_flight.popleft()
        pending.last_error = error
        if isinstance(error, DuplicateOutOfWindow) and not pending.may_be_in_log:
            # It was sent for the first time, so it is not in the log: this producer was idle for too long and was forgotten.
            self._has_error = self._has_hole = True
        elif isinstance(error, DuplicateOutOfWindow):
            # It is in the log; only its offset is lost.
            self._unresolved.remove(pending)
            self._epoch_is_known = True
            self._fail(pending, error)
        elif isinstance(error, OutOfOrderSequence) and self._unresolved[0] is pending and not self._has_error:
            # Everything before it was acknowledged, and the log does not have it: it was acknowledged by less than a quorum
            # and lost, or the topic was made anew. This batch cannot be in the log either.
            pending.may_be_in_log = False
            self._has_error = self._has_hole = True
        elif isinstance(error, _NOT_TAKEN):
            self._has_error = True
        elif error.retryable or type(error).code == EventLogError.code:
            pending.may_be_in_log = True
            self._has_error = True
        else:
            self._unresolved.remove(pending)
            self._has_error = self._has_hole = True
            self._fail(pending, _refused(pending, error))
        self._settle()

    def refuse_all(self, error: TopicRecreated) -> None:
        """Fail everything: the log that it was for does not exist any more."""
        self._in_flight.clear()
        while self._unresolved or self._queue:
            self._fail((self._unresolved or self._queue).popleft(), error)

    def on_stream_lost(self, error: EventLogError, *, is_unsent: bool = False) -> None:
        """No more answers will come on the present stream. Also when it never came to be.

        Args:
            is_unsent: no server has looked at what was sent on it.
        """
        for pending in self._in_flight:
            pending.may_be_in_log = pending.may_be_in_log or not is_unsent
            pending.last_error = error
        for pending in self._pending():
            if pending.last_error is None:
                pending.last_error = error
        self._in_flight.clear()
        self._has_error = True
        self._settle()

    def expire(self, now: float) -> None:
        """Fail what may not be sent again. Only while nothing is in flight."""
        assert not self._in_flight
        for pending in list(self._unresolved):
            if pending.expires_at <= now:
                self._unresolved.remove(pending)
                self._has_error = self._has_hole = True
                self._fail(pending, _expired(pending))
        while self._queue and self._queue[0].expires_at <= now:
            pending = self._queue.popleft()
            self._fail(pending, _expired(pending))
        self._settle()

    def fail_all(self, error: EventLogError) -> None:
        """Give up everything; those that may be in the log fail as OutcomeUnknown."""
        self.on_stream_lost(error)
        while self._unresolved or self._queue:
            pending = (self._unresolved or self._queue).popleft()
            self._fail(pending, _expired(pending) if pending.may_be_in_log else error)

    def next_expiry(self) -> float:
        """When `expire` has something to do; inf when never."""
        return min((pending.expires_at for pending in self._pending()), default=float("inf"))

    def _pending(self) -> Iterator[PendingBatch]:
        yield from self._unresolved
        yield from self._queue

    def _settle(self) -> None:
        if not self._has_error or self._in_flight:
            return
        self._has_error = False
        if self._has_hole:
            self._has_hole = False
            self._start_epoch()

    def _start_epoch(self) -> None:
        self.epoch += 1
        self._next_sequence = 0
        self._epoch_is_known = False
        again: list[PendingBatch] = []
        for pending in self._unresolved:
            if pending.may_be_in_log:
                self._fail(pending, _expired(pending))
            else:
                pending.is_numbered = False
                again.append(pending)
        self._unresolved.clear()
        self._queue.extendleft(reversed(again))

    def _fail(self, pending: PendingBatch, error: EventLogError) -> None:
        pending.error = error
        pending.on_done(pending)


def _refused(pending: PendingBatch, error: EventLogError) -> EventLogError:
    if not pending.may_be_in_log or isinstance(error, TopicRecreated):
        # An attempt whose answer was lost may have put it into the log of a topic that is gone, with all that was in it.
        return error
    unknown = OutcomeUnknown(
        f"an attempt whose answer was lost may have put the batch into the log; the last attempt was refused: {error}"
    )
    unknown.__cause__ = error
    return unknown


def _expired(pending: PendingBatch) -> EventLogError:
    last = pending.last_error
    if pending.may_be_in_log:
        unknown = OutcomeUnknown(f"the batch may or may not be in the log, no answer came in time; last error: {last}")
        unknown.__cause__ = last
        return unknown
    return last or Unavailable("the batch was not sent in time: no leader could be reached")
