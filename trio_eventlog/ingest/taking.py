"""Lines of one request, taken one after the other, without holding up everything else."""

from collections.abc import Iterable

import trio

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.ingest.intake import Intake, LineIn
from trio_eventlog.ingest.json_lines import OnBad

LINES_PER_TURN = 256
"""Lines that are taken in one turn of the loop."""


async def take_lines(intake: Intake, lines: Iterable[LineIn | None], on_bad: OnBad) -> None:
    """Give all of `lines` to `intake`.

    Args:
        lines: None stands for one that is none.
        on_bad: is told of each line that cannot be taken, by its number from 0.

    Raises what `lines` and `on_bad` raise.
    """
    for number, line in enumerate(lines):
        try:
            if line is not None:
                intake.take(line)
        except InvalidArgument as error:
            on_bad(number, error)
        if (number + 1) % LINES_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
