"""A replica that was here before, and does not hold yet what it may have acknowledged (docs/decisions/0021, `departed`)."""

import logging
from collections.abc import Awaitable, Callable

import attrs
import trio

from trio_eventlog.errors import EventLogError
from trio_eventlog.ids import NOBODY
from trio_eventlog.node.departed import Departed
from trio_eventlog.raft import Message, MessageType, RaftNode
from trio_eventlog.storage.disk import is_shortage
from trio_eventlog.storage.segmented_log import SegmentedLog

logger = logging.getLogger(__name__)


class Returning:
    """Owns what the replica has to catch up with before it takes part again. In the driver's task, but for `wait_whole`.

    Args:
        departed: how far the log went that was here before, if one was.
        applied_index: of the last entry that the machine has taken.
        start: starts a task that ends with the driver.
        send: sends a message to another member.
        on_caught_up: writes down that a replica which had lost entries has caught up.
    """

    def __init__(
        self,
        core: RaftNode,
        log: SegmentedLog,
        name: str,
        departed: Departed,
        applied_index: Callable[[], int],
        start: Callable[..., None],
        send: Callable[[Message], None],
        on_caught_up: Callable[[Departed], Awaitable[None]] | None,
    ) -> None:
        self._core = core
        self._log = log
        self._name = name
        self._applied_index = applied_index
        self._start = start
        self._send = send
        self._ticks_unled = 0
        self._on_caught_up = on_caught_up
        self._ticks_caught_up = 0
        self._is_whole = trio.Event()
        if not departed.loss:
            self._is_whole.set()
        self.departed = departed

    async def wait_whole(self) -> None:
        """Until the replica has caught up with a leader, if it had lost something."""
        await self._is_whole.wait()

    @property
    def is_vote_lost(self) -> bool:
        """The replica takes no part any more, for good."""
        return self.departed.is_vote_lost

    @property
    def problem(self) -> str:
        """Why this replica has no vote; "" when it has."""
        if self.departed.is_vote_lost:
            return (
                f"{self.departed.loss}, so that its votes are unknown: it takes no part any more. Remove this node from"
                " its cluster (`trio-eventlog node remove`), and start it with an empty data directory and --join"
            )
        if self.departed.loss:
            return f"{self.departed.loss}: it has no vote until it has caught up with a leader"
        return ""

    @property
    def is_returning(self) -> bool:
        """The replica was here before, and does not hold yet what it may have acknowledged, or its configuration is an old one."""
        departed, core = self.departed, self._core
        if departed.loss:
            return True
        is_shorter = (core.last_term, core.last_index) < (departed.last_term, departed.last_index)
        return is_shorter or self._applied_index() < departed.commit_index

    def may_take_part(self, message: Message) -> bool:
        """Whether the replica that was here before could have elected the candidate, or could be asked to lead."""
        if message.type is MessageType.TIMEOUT_NOW or self.departed.loss:
            return not self.is_returning
        return (message.log_term, message.index) >= (self.departed.last_term, self.departed.last_index)

    def tick(self, announced_commit_index: int, entries_behind: int) -> None:
        """Look whether a replica that has lost something has caught up, while it is returning.

        A leader that was elected without this replica holds all that it had acknowledged and that was committed.
        """
        self._look_for_leader()
        if not self.departed.loss or self.departed.is_vote_lost:
            return
        is_level = self._core.leader != NOBODY and announced_commit_index > 0 and not entries_behind
        self._ticks_caught_up = self._ticks_caught_up + 1 if is_level else 0
        # For a while: an answer of the time before the loss may still have been on its way to the leader.
        if self._ticks_caught_up == self._core.settings.election_timeout_ticks:
            self._start(self._end_loss)

    def _look_for_leader(self) -> None:
        """A group that sleeps does not know that one of its replicas was opened again, and this one stands for no election, which
        would wake it. A refusal, of nothing in particular, does: it is no late answer to a heartbeat."""
        core = self._core
        self._ticks_unled = self._ticks_unled + 1 if core.leader == NOBODY else 0
        if self._ticks_unled % core.settings.election_timeout_ticks != 1:
            return
        for node_id in sorted(core.configuration.nodes - {core.node_id}):
            kind = MessageType.HEARTBEAT_RESPONSE
            self._send(Message(type=kind, to=node_id, sender=core.node_id, term=core.term, reject=True))

    async def _end_loss(self) -> None:
        status = self._core.status()
        now = Departed(last_term=status.last_term, last_index=self._log.last_index, commit_index=self._applied_index())
        departed = attrs.evolve(self.departed, loss="").joined(now)
        if self._on_caught_up is not None:
            try:
                await self._on_caught_up(departed)
            except EventLogError as error:
                if not is_shortage(error):
                    raise
                logger.warning("%s has caught up, which cannot be written down just now: %s", self._name, error)
                self._ticks_caught_up = 0  # tried again after as many ticks
                return
        logger.info("%s has caught up with a leader, and has its vote again", self._name)
        self.departed = departed
        self._is_whole.set()
