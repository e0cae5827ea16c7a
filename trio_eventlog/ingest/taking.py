"""Lines of one request, taken one after the other, without holding up everything else."""

from collections.abc import Iterable

import attrs
import trio

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.ingest.intake import Intake, LineIn
from trio_eventlog.ingest.json_lines import OnBad

LINES_PER_TURN = 256
"""Lines that are taken in one turn of the loop."""


BAD_LINES_SHOWN_MAX = 100


@attrs.define
class BadLines:
    """Lines of a request that were not taken: how many, and the first of them, each by its number from 0, and why."""

    count: int = 0
    shown: list[tuple[int, str]] = attrs.field(factory=list)

    def note(self, number: int, error: Exception) -> None:
        self.count += 1
        if len(self.shown) < BAD_LINES_SHOWN_MAX:
            self.shown.append((number, str(error)))

    @property
    def why(self) -> str:
        """Of the first one; "" when there is none."""
        return self.shown[0][1] if self.shown else ""


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
