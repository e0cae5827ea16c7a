"""What tests of log lines share."""

from collections.abc import Sequence

import trio

from trio_eventlog.codec.log_lines import StoredLine, decode_line
from trio_eventlog.errors import EventLogError
from trio_eventlog.records import Acks, Record
from trio_eventlog.service.values import Caller


class SlowSink:
    """A `LogSink` that takes a second; it fails with these errors first.

    Attributes:
        lines: that it has taken.
        most: calls that were under way at one time.
    """

    def __init__(self, *failures: EventLogError) -> None:
        self.lines: list[StoredLine] = []
        self.most = 0
        self._failures = list(failures)
        self._running = 0

    @property
    def texts(self) -> list[str]:
        return [line.message for line in self.lines]

    async def put(self, lines: Sequence[Record], *, acks: Acks, caller: Caller) -> None:
        self._running += 1
        self.most = max(self.most, self._running)
        await trio.sleep(1)
        self._running -= 1
        if self._failures:
            raise self._failures.pop(0)
        self.lines += [decode_line(line.value or b"") for line in lines]
