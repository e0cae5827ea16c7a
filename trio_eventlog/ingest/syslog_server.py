"""Connections of syslog: lines go into the log as they come, and no faster than the log takes them."""

import logging
from collections.abc import Callable

import attrs
import trio

from trio_eventlog.backoff import Backoff
from trio_eventlog.budgets import Activity, Standing
from trio_eventlog.errors import EventLogError, InvalidArgument
from trio_eventlog.ingest.intake import Intake, LineIn
from trio_eventlog.ingest.sink import LogSink
from trio_eventlog.ingest.syslog import SyslogFramer, SyslogRefused, line_of
from trio_eventlog.ingest.taking import take_lines
from trio_eventlog.records import Acks
from trio_eventlog.service.values import Caller

logger = logging.getLogger(__name__)

READ_BYTES = 16 << 10


async def serve_syslog(
    stream: trio.abc.Stream,
    standing: Standing,
    *,
    make_intake: Callable[[], Intake],
    sink: LogSink,
    slots: trio.CapacityLimiter,
    caller: Caller,
    backoff: Backoff,
    message_bytes_max: int,
    retry_seconds_max: float,
) -> None:
    """Serve one connection until it ends.

    Syslog has no answers: what was read is put into the log, or tried again for `retry_seconds_max`; then the connection is closed,
    and what was read is lost, as the sender may notice by that.

    Args:
        make_intake: for what arrives at one moment.
        slots: of the connections that hold lines at the same time; the others hold bytes only.
    """
    framer = SyslogFramer(message_bytes_max)
    last_active = trio.current_time()
    standing.look = lambda: Activity(last_active=last_active)
    try:
        while True:
            piece = bytes(await stream.receive_some(READ_BYTES))
            last_active = trio.current_time()
            async with slots:
                lines: list[LineIn] = []
                refused: SyslogRefused | None = None
                try:
                    for message in framer.feed(piece) if piece else framer.end():
                        lines.append(line_of(message))
                except SyslogRefused as error:
                    refused = error
                await _put(lines, make_intake(), sink, caller, backoff, retry_seconds_max)
            if refused is not None:
                raise refused
            if not piece:
                return
    except trio.BrokenResourceError:
        return  # The sender is gone.
    except (SyslogRefused, EventLogError) as error:
        logger.warning("a connection of syslog from %s is closed: %s", caller.address, error)


async def _put(
    lines: list[LineIn], intake: Intake, sink: LogSink, caller: Caller, backoff: Backoff, retry_seconds_max: float
) -> None:
    """Raises EventLogError: the log did not take them in time."""
    await take_lines(intake, lines, lambda number, error: _take_plainly(intake, lines[number], error))
    deadline = trio.current_time() + retry_seconds_max
    while intake.records:
        try:
            await sink.put(intake.records, acks=Acks.QUORUM, caller=attrs.evolve(caller, deadline=deadline))
            backoff.reset()
            return
        except EventLogError as error:
            if not error.retryable or trio.current_time() >= deadline:
                raise
        await trio.sleep(backoff.next_seconds())


def _take_plainly(intake: Intake, line: LineIn, error: Exception) -> None:
    """A line that cannot be taken as it is, since its time or a label is odd, without what is odd; one that is too long is
    dropped."""
    plain = LineIn(message=line.message, service=line.service[:100], level=line.level)
    try:
        intake.take(plain)
    except InvalidArgument:
        logger.warning("a line of syslog is dropped: %s", error)
