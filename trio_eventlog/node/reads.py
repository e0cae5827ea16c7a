"""Linearizable reads (ReadIndex), and refusals that may be sent only after a ReadIndex round."""

import logging
from collections import deque
from collections.abc import Callable

import attrs
import trio

from trio_eventlog.errors import EventLogError, NotLeader
from trio_eventlog.ids import NOBODY
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.leadership import Leadership
from trio_eventlog.node.proposals import Proposal
from trio_eventlog.raft import ProposalDropped, RaftNode, ReadState

logger = logging.getLogger(__name__)


class Reads:
    """Owns the reads that wait, and the ReadIndex requests ("questions") that were made for them.

    `linearizable_index` is for any task. Everything else is for the driver's task, which alone may call the core.

    Args:
        nonce: of this start of the node. It is part of every context, so that a late answer to a request made before a restart
            is not taken for an answer to a new one.
        wake: has the driver take a turn.
    """

    def __init__(
        self,
        core: RaftNode,
        leadership: Leadership,
        settings: DriverSettings,
        name: str,
        nonce: int,
        wake: Callable[[], None],
    ) -> None:
        self._core = core
        self._leadership = leadership
        self._settings = settings
        self._name = name
        self._nonce = nonce.to_bytes(8, "little")
        self._wake = wake
        self._number = 0
        self._ticks = 0
        self._to_ask: dict[_Read, None] = {}
        self._questions: dict[bytes, _Question] = {}
        """By context: requests that may still be answered."""
        self._answer_ticks = 0
        """Number of ticks that the last answer took."""
        self._refusals: dict[_Read, tuple[Proposal, EventLogError, int]] = {}
        """Proposals about to be refused, with the error and this leader's term."""
        self._asked_of = (0, NOBODY)
        """Term and leader at the time of the last request."""
        self._closed_by: EventLogError | None = None

    async def linearizable_index(self) -> int:
        """An index such that a machine that has applied it shows everything acknowledged before this call (ReadIndex).

        Waits for a leader and for its answer, however often the question has to be repeated: the time is the caller's to limit.
        Raises the error of `close`.
        """
        if self._closed_by is not None:
            raise self._closed_by
        read = _Read()
        self._to_ask[read] = None
        self._wake()
        try:
            await read.done.wait()
        finally:
            self._forget(read)
        if read.error is not None:
            raise read.error
        return read.index

    def refuse(self, proposal: Proposal, error: EventLogError) -> None:
        """Refuse a proposal once it is certain that this node knows: a deposed leader that has not heard of it lacks the batches
        since.

        (To say "it is in the log already" needs no such certainty: what is applied stays.)
        """
        read = _Read()
        self._refusals[read] = (proposal, error, self._core.term)
        self._to_ask[read] = None
        self._wake()

    @property
    def are_new(self) -> bool:
        """Whether reads wait for which no request was made yet."""
        return bool(self._to_ask)

    @property
    def is_idle(self) -> bool:
        return not self._questions and not self._to_ask

    # For the driver's turn

    def tick(self) -> None:
        self._ticks += 1
        if self._questions:
            self._repeat_questions()

    def ask(self) -> None:
        """Put one question to the leader for all new reads, if there is a leader."""
        settings = self._settings
        wait_ticks = min(max(settings.read_retry_ticks, 2 * self._answer_ticks), settings.read_retry_ticks_max)
        if self._ask(self._to_ask, wait_ticks):
            self._to_ask = {}

    def answer(self, state: ReadState) -> None:
        """The core has an answer."""
        question = self._questions.get(state.context)
        if question is None:
            return
        self._answer_ticks = self._ticks - question.asked_at_tick
        for read in list(question.reads):
            self._forget(read)
            read.answer(state.index)
            if read in self._refusals:
                self._confirm_refusal(read)

    def leadership_changed(self) -> None:
        """Another leader, another term, or another role of this node."""
        for read in list(self._refusals):
            if not self._core.is_leader:
                self._confirm_refusal(read)
                self._forget(read)
        if self._questions and self._asked_of != (self._core.term, self._core.leader):
            self._ask_anew()

    def close(self, error: EventLogError) -> None:
        """Later reads fail with `error`."""
        self._closed_by = error

    def end(self) -> None:
        """Fail the reads that wait with the error of `close`."""
        assert self._closed_by is not None
        for read in list(self._refusals):
            self._refusals.pop(read)[0].fail(self._closed_by)
        for read in [*self._to_ask, *(read for question in self._questions.values() for read in question.reads)]:
            read.fail(self._closed_by)

    def _forget(self, read: "_Read") -> None:
        self._to_ask.pop(read, None)
        while read.contexts:
            self._give_up_question(read)

    def _give_up_question(self, read: "_Read") -> None:
        """Stop waiting for an answer to the oldest request made for this read."""
        context = read.contexts.popleft()
        question = self._questions[context]
        del question.reads[read]
        if not question.reads:
            del self._questions[context]

    def _confirm_refusal(self, read: "_Read") -> None:
        proposal, error, term = self._refusals.pop(read)
        proposal.fail(error if self._core.is_leader and term == self._core.term else self._leadership.refusal())

    def _ask(self, reads: "dict[_Read, None]", wait_ticks: int) -> bool:
        """Make one request for all of them, to be repeated after `wait_ticks`. False: it cannot be made now."""
        core = self._core
        if core.leader == NOBODY:
            return False  # The request is made once there is a leader.
        self._number += 1
        context = self._nonce + self._number.to_bytes(8, "little")
        try:
            core.read_index(context)
        except (NotLeader, ProposalDropped) as error:
            logger.debug("%s: reads wait: %s", self._name, error)
            return False
        self._asked_of = (core.term, core.leader)
        self._questions[context] = _Question(self._ticks, wait_ticks, reads)
        for read in reads:
            read.contexts.append(context)
            if len(read.contexts) > self._settings.read_questions_max:
                self._give_up_question(read)
        return True

    def _repeat_questions(self) -> None:
        """Repeat requests that have waited long enough: they, or their answers, may be lost. A read is served by an answer to any
        of the requests made after it began, so an answer that is only slow is not wasted."""
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
            self._to_ask |= question.reads
        for read in self._to_ask:
            read.contexts.clear()
        self._questions.clear()
        self._wake()


@attrs.define(slots=True, eq=False)
class _Read:
    """A task that waits for a ReadIndex answer. `contexts`: of the questions that were asked for it, the oldest first."""

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
    """What a leader was asked: which reads wait for the answer, and when it is asked again. All reads of one turn share one."""

    asked_at_tick: int
    wait_ticks: int
    reads: dict[_Read, None]
    is_repeated: bool = False

    def is_due(self, tick: int) -> bool:
        return not self.is_repeated and tick - self.asked_at_tick >= self.wait_ticks
