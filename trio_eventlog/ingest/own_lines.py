"""What a node logs itself, as lines of the log that it is a part of.

Lines that come of putting lines into the log are left out, or each would bring others for ever. A node whose log takes nothing
keeps the newest thousand, and says how many it has dropped.
"""

import itertools
import logging
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar

import trio

from trio_eventlog.errors import BatchTooLarge, EventLogError, InvalidArgument
from trio_eventlog.ingest.intake import Intake, LineIn
from trio_eventlog.ingest.sink import LogSink
from trio_eventlog.log_records import exception_of, message_of
from trio_eventlog.records import Acks
from trio_eventlog.service.values import Caller

SERVICE = "trio-eventlog"
LINES_MAX = 1000
"""Lines that wait; then the oldest are dropped."""
INTERVAL_SECONDS = 1.0
DROPPED = "dropped_before"
"""Label: so many lines before this one were dropped."""
PUT_SECONDS_MAX = 10.0

_PUTS_LINES: ContextVar[bool] = ContextVar("puts_lines", default=False)
"""True in the task that puts lines, and in those that it starts."""


class OwnLines(logging.Handler):
    """Gathers what is logged, from any thread, and puts it into the log a second later.

    Args:
        node_name: a label of each line.
        make_intake: for what is put at one moment.
    """

    def __init__(self, node_name: str, make_intake: Callable[[], Intake], sink: LogSink) -> None:
        super().__init__(logging.INFO)
        self._node_name = node_name
        self._make_intake = make_intake
        self._sink = sink
        self._lines: deque[tuple[int, LineIn]] = deque(maxlen=LINES_MAX)
        self._numbers = itertools.count(1)
        self._put_up_to = 0

    def emit(self, record: logging.LogRecord) -> None:
        if _PUTS_LINES.get():
            return
        labels = {"node": self._node_name, "logger": record.name}
        if exception := exception_of(record):
            labels["exception"] = _utf8(exception)
        line = LineIn(
            message=_utf8(message_of(record)),
            service=SERVICE,
            level=record.levelname,
            timestamp=int(record.created * 1e9),
            labels=labels,
        )
        self._lines.append((next(self._numbers), line))

    async def run(self) -> None:
        """Until cancelled; what is logged meanwhile below `trio_eventlog` is put into the log."""
        package = logging.getLogger("trio_eventlog")
        package.addHandler(self)
        token = _PUTS_LINES.set(True)
        try:
            while True:
                await trio.sleep(INTERVAL_SECONDS)
                await self._put()
        finally:
            _PUTS_LINES.reset(token)
            package.removeHandler(self)

    async def _put(self) -> None:
        """Those that wait now. When the log does not take them, they wait on."""
        waiting = list(self._lines)
        if not waiting:
            return
        intake = self._make_intake()
        dropped = waiting[0][0] - self._put_up_to - 1
        if dropped:
            waiting[0][1].labels[DROPPED] = str(dropped)
        up_to = waiting[-1][0]
        for number, line in waiting:
            try:
                _take(intake, line)
            except BatchTooLarge:
                up_to = number - 1  # The others are put next.
                break
        try:
            await self._sink.put(intake.records, acks=Acks.QUORUM, caller=Caller(deadline=trio.current_time() + PUT_SECONDS_MAX))
        except EventLogError:
            return  # Whoever is told of what ails the log is told by others; the next second tries again.
        self._put_up_to = up_to
        while self._lines and self._lines[0][0] <= self._put_up_to:
            self._lines.popleft()


def _utf8(text: str) -> str:
    """Without halves of surrogate pairs, which names of files may have."""
    return text.encode(errors="replace").decode()


def _take(intake: Intake, line: LineIn) -> None:
    """One that is too long is taken without its labels, and with the beginning of its text."""
    try:
        intake.take(line)
    except InvalidArgument:
        intake.take(LineIn(message=line.message[:1000], service=SERVICE, level=line.level))
