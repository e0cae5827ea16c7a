"""The producer core: stories, then everything that a network and a leader may do to it."""

from collections import deque
from collections.abc import Callable

import attrs
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trio_eventlog.client.producer_core import PendingBatch, ProducerCore, ProduceResult
from trio_eventlog.errors import (
    DuplicateOutOfWindow,
    EventLogError,
    InvalidArgument,
    NotLeader,
    OutcomeUnknown,
    OutOfOrderSequence,
    Overloaded,
    ProducerFenced,
    Unavailable,
)
from trio_eventlog.records import Acks, Batch

WINDOW = 3
LOST = Unavailable("the connection broke")


def pending(count: int = 1, expires_at: float = 100.0, on_done: Callable[[PendingBatch], None] = lambda _: None) -> PendingBatch:
    batch = Batch(record_count=count, payload=b"", crc32c=0)
    return PendingBatch(batch=batch, acks=Acks.QUORUM, expires_at=expires_at, size_bytes=1, on_done=on_done)


def result(offset: int, count: int = 1) -> ProduceResult:
    return ProduceResult(topic="t", partition=0, base_offset=offset, record_count=count)


def proven(batches: int) -> tuple[ProducerCore, list[PendingBatch]]:
    """A core whose first batch is in the log, with `batches` more added."""
    core = ProducerCore(7, WINDOW)
    first = pending()
    core.add(first)
    assert core.next_to_send() is first
    core.on_result(result(0))
    added = [pending() for _ in range(batches)]
    for one in added:
        core.add(one)
    return core, added


def send_all(core: ProducerCore) -> list[PendingBatch]:
    sent = []
    while (one := core.next_to_send()) is not None:
        sent.append(one)
    return sent


def test_first_batch_of_an_epoch_goes_alone() -> None:
    """The log takes the first batch wherever its sequence begins: a second one must not overtake it."""
    core = ProducerCore(7, WINDOW)
    first, second = pending(2), pending()
    core.add(first)
    core.add(second)
    assert send_all(core) == [first]
    core.on_result(result(0, 2))
    assert send_all(core) == [second]
    assert (second.epoch, second.base_sequence) == (0, 2)


def test_window_is_the_limit() -> None:
    """Never more in flight than the log remembers."""
    core, added = proven(WINDOW + 2)
    assert send_all(core) == added[:WINDOW]
    core.on_result(result(1))
    assert send_all(core) == added[WINDOW : WINDOW + 1]


def test_lost_stream_repeats_in_order_under_the_same_sequences() -> None:
    """What was not answered goes again, as it was."""
    core, added = proven(WINDOW)
    send_all(core)
    core.on_result(result(1))
    numbers = [one.base_sequence for one in added]
    core.on_stream_lost(LOST)
    assert send_all(core) == added[1:]
    assert [one.base_sequence for one in added] == numbers
    assert core.epoch == 0


def test_a_batch_whose_answer_was_lost_stays_within_what_the_log_remembers() -> None:
    """Those sent behind it are acknowledged: with more behind them, the log would forget it before it is sent again."""
    core, added = proven(WINDOW + 1)
    send_all(core)
    core.on_error(OutcomeUnknown("lost"))
    for offset in range(2, WINDOW + 1):
        core.on_result(result(offset))
    assert send_all(core) == added[:1]
    core.on_result(result(1))
    assert send_all(core) == added[WINDOW:]


def test_error_stops_sending_until_the_rest_is_answered() -> None:
    """Batches behind a refused one are refused too: they wait, and go again in order."""
    core, added = proven(WINDOW)
    send_all(core)
    core.on_error(Overloaded("full"))
    assert core.is_settling
    assert core.next_to_send() is None
    core.on_error(OutOfOrderSequence("early", 1))
    core.on_error(OutOfOrderSequence("early", 1))
    assert send_all(core) == added
    assert core.epoch == 0


def test_refused_for_good_begins_an_epoch() -> None:
    """The others are numbered anew, since the log takes nothing over the hole."""
    core, added = proven(WINDOW)
    send_all(core)
    error = InvalidArgument("no")
    core.on_error(error)
    assert added[0].error is error
    core.on_error(OutOfOrderSequence("early", 1))
    core.on_error(OutOfOrderSequence("early", 1))
    assert send_all(core) == added[1:2], "the first of the epoch goes alone"
    assert [(one.epoch, one.base_sequence) for one in added[1:2]] == [(1, 0)]
    core.on_result(result(1))
    assert send_all(core) == added[2:]


def test_open_outcome_behind_a_hole_is_told() -> None:
    """A batch that may be in the log cannot be numbered anew."""
    core, added = proven(2)
    send_all(core)
    core.on_error(InvalidArgument("no"))
    core.on_stream_lost(LOST)
    assert isinstance(added[0].error, InvalidArgument)
    assert isinstance(added[1].error, OutcomeUnknown)
    assert len(core) == 0


def test_expiry_before_an_open_outcome_is_told() -> None:
    """The next batch may be in the log as well: numbered anew, it would be there twice."""
    core = ProducerCore(7, WINDOW)
    core.add(pending())
    core.next_to_send()
    core.on_result(result(0))
    one, late = pending(expires_at=10), pending(expires_at=20)
    core.add(one)
    core.add(late)
    assert send_all(core) == [one, late]
    core.on_stream_lost(LOST)
    core.expire(10)
    assert isinstance(one.error, OutcomeUnknown)
    assert isinstance(late.error, OutcomeUnknown)


def test_refusal_after_a_lost_answer_is_unknown() -> None:
    """The first attempt may have succeeded, whatever the second one was told."""
    core, (one,) = proven(1)
    send_all(core)
    core.on_stream_lost(LOST)
    send_all(core)
    core.on_error(InvalidArgument("no"))
    assert isinstance(one.error, OutcomeUnknown)
    assert isinstance(one.error.__cause__, InvalidArgument)


def test_log_that_lost_acknowledged_batches_gets_an_epoch() -> None:
    """With less than a quorum's acknowledgement the log may forget: the batch is numbered anew and goes again."""
    core, (one,) = proven(1)
    send_all(core)
    core.on_error(OutOfOrderSequence("early", 0))
    assert send_all(core) == [one]
    assert (one.epoch, one.base_sequence) == (1, 0)


def test_repetition_out_of_the_window_is_in_the_log() -> None:
    """Only its offset is lost; what follows is not disturbed."""
    core, added = proven(2)
    send_all(core)
    core.on_stream_lost(LOST)
    send_all(core)
    core.on_error(DuplicateOutOfWindow("old"))
    assert isinstance(added[0].error, DuplicateOutOfWindow)
    core.on_result(result(5))
    assert added[1].result is not None
    assert core.epoch == 0


def test_a_producer_that_was_forgotten_goes_on_in_a_new_epoch() -> None:
    """What was sent for the first time cannot be a repetition: the log does not know the producer any more."""
    core, added = proven(2)
    send_all(core)
    core.on_error(DuplicateOutOfWindow("not known"))
    core.on_error(DuplicateOutOfWindow("not known"))
    assert send_all(core) == added[:1]
    assert [(one.epoch, one.base_sequence, one.error) for one in added[:1]] == [(1, 0, None)]


@pytest.mark.parametrize("was_sent", [False, True])
def test_expiry(was_sent: bool) -> None:
    """Never sent: the last error. Sent: nobody knows."""
    core = ProducerCore(7, WINDOW)
    one, late = pending(expires_at=10), pending(expires_at=20)
    core.add(one)
    core.add(late)
    if was_sent:
        assert core.next_to_send() is one
    core.on_stream_lost(LOST)
    assert core.next_expiry() == 10
    core.expire(10)
    assert one.error is LOST if not was_sent else isinstance(one.error, OutcomeUnknown)
    assert not late.is_done
    assert send_all(core) == [late]
    assert late.epoch == (1 if was_sent else 0)


def test_withdraw() -> None:
    """Only what was never sent can be taken back."""
    core, added = proven(2)
    assert core.next_to_send() is added[0]
    assert not core.withdraw(added[0])
    assert core.withdraw(added[1])
    assert core.next_to_send() is None


def test_give_up() -> None:
    """Everything is told something: the error, or that nobody knows."""
    core, added = proven(2)
    core.next_to_send()
    core.fail_all(LOST)
    assert isinstance(added[0].error, OutcomeUnknown)
    assert added[1].error is LOST
    assert not core.has_work


@attrs.define(eq=False)
class Attempt:
    pending: PendingBatch
    epoch: int
    base_sequence: int


class Log:
    """A partition as an idempotent producer meets it: judged by the rules of the contract, in the plainest way."""

    def __init__(self) -> None:
        self.batches: list[PendingBatch] = []
        self.known: tuple[int, int] | None = None  # epoch, next sequence
        self.recent: deque[tuple[int, int]] = deque(maxlen=WINDOW)  # base sequence, place in batches

    def take(self, attempt: Attempt) -> ProduceResult:
        if self.known is not None:
            epoch, next_sequence = self.known
            if attempt.epoch < epoch:
                raise ProducerFenced("old epoch")
            if attempt.epoch == epoch and attempt.base_sequence < next_sequence:
                for base_sequence, place in self.recent:
                    if base_sequence == attempt.base_sequence:
                        return result(place)
                raise DuplicateOutOfWindow("old")
            if attempt.epoch == epoch and attempt.base_sequence > next_sequence:
                raise OutOfOrderSequence("early", next_sequence)
            if attempt.epoch > epoch:
                self.recent.clear()
        self.recent.append((attempt.base_sequence, len(self.batches)))
        self.known = (attempt.epoch, attempt.base_sequence + attempt.pending.batch.record_count)
        self.batches.append(attempt.pending)
        return result(len(self.batches) - 1)


class AtMostOnceInOrder(RuleBasedStateMachine):
    """Streams break, attempts on broken streams arrive late or never, leaders refuse, forget to answer and refuse for good."""

    @initialize()
    def start(self) -> None:
        self.core = ProducerCore(7, WINDOW)
        self.log = Log()
        self.added: list[PendingBatch] = []
        self.stream: deque[Attempt] = deque()  # sent, not judged
        self.answers: deque[ProduceResult | EventLogError] = deque()  # judged, not heard
        self.stray: list[deque[Attempt]] = []  # of broken streams
        self.now = 0.0

    @rule(count=st.integers(1, 3))
    def add(self, count: int) -> None:
        one = pending(count, expires_at=self.now + 10)
        self.added.append(one)
        self.core.add(one)

    @rule()
    def send(self) -> None:
        one = self.core.next_to_send()
        if one is not None:
            self.stream.append(Attempt(one, one.epoch, one.base_sequence))

    @precondition(lambda self: self.stream)
    @rule(fate=st.sampled_from(["judge", "judge", "judge", "refuse", "lose before", "lose after", "refuse for good"]))
    def judge(self, fate: str) -> None:
        attempt = self.stream.popleft()
        try:
            if fate in ("judge", "lose after"):
                taken = self.log.take(attempt)
                self.answers.append(taken if fate == "judge" else OutcomeUnknown("lost"))
            elif fate == "refuse":
                self.answers.append(NotLeader("elsewhere"))
            elif fate == "lose before":
                self.answers.append(OutcomeUnknown("lost"))
            else:
                self.answers.append(InvalidArgument("no"))
        except EventLogError as error:
            self.answers.append(error)

    @precondition(lambda self: self.answers)
    @rule()
    def hear(self) -> None:
        answer = self.answers.popleft()
        if isinstance(answer, EventLogError):
            self.core.on_error(answer)
        else:
            self.core.on_result(answer)

    @rule()
    def break_stream(self) -> None:
        self.stray.append(self.stream)
        self.stream = deque()
        self.answers.clear()
        self.core.on_stream_lost(LOST)

    @precondition(lambda self: any(self.stray))
    @rule(data=st.data())
    def judge_stray(self, data: st.DataObject) -> None:
        stray = data.draw(st.sampled_from([one for one in self.stray if one]))
        attempt = stray.popleft()
        try:
            self.log.take(attempt)
        except EventLogError:
            pass  # Nobody hears it.

    @rule(seconds=st.integers(1, 6))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        if not self.core.in_flight_batches:
            self.core.expire(self.now)

    @precondition(lambda self: self.added)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.added))
        if self.core.withdraw(one):
            self.added.remove(one)

    @invariant()
    def in_log_once_and_in_order(self) -> None:
        places = [self.added.index(one) for one in self.log.batches]
        assert places == sorted(set(places))

    @invariant()
    def told_the_truth(self) -> None:
        for one in self.added:
            if one.result is not None:
                assert self.log.batches[one.result.base_offset] is one
            elif isinstance(one.error, DuplicateOutOfWindow):
                raise AssertionError("the window was kept, so nothing is forgotten")
            elif one.error is not None and not isinstance(one.error, OutcomeUnknown):
                assert one not in self.log.batches

    @invariant()
    def window_is_kept(self) -> None:
        assert self.core.in_flight_batches <= WINDOW

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        for stray in self.stray:
            while stray:
                try:
                    self.log.take(stray.popleft())
                except EventLogError:
                    pass
        self.told_the_truth()
        self.in_log_once_and_in_order()
        # Once nothing goes wrong any more, everything is done.
        self.break_stream()
        for _ in range(4 * len(self.added) + 4):
            self.send()
            while self.stream:
                self.judge("judge")
            while self.answers:
                self.hear()
        assert all(one.is_done for one in self.added)


TestAtMostOnceInOrder = AtMostOnceInOrder.TestCase
TestAtMostOnceInOrder.settings = hypothesis_settings(max_examples=200, stateful_step_count=60)
