"""How far long work is: one line on standard error while that is a terminal, and nothing when it is not."""

import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from trio_eventlog.service.background import background

SHOWN_EVERY_SECONDS = 0.25
RATE_SECONDS = 2.0
"""The rate that is shown is that of the last two seconds: what it is now, without jumping about."""


class Rate:
    """Text such as `1,200,000 of 3,000,000 records (40 %), 350,000/s` for a count that grows.

    Args:
        count: the count at present.
        noun: what is counted, in the plural.
        total: where it ends; None: that is not known.
    """

    def __init__(self, count: Callable[[], int], noun: str, total: int | None = None) -> None:
        self._count = count
        self._noun = noun
        self._total = total
        self._seen: deque[tuple[float, int]] = deque([(trio.current_time(), count())])

    def __call__(self) -> str:
        now, count = trio.current_time(), self._count()
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - RATE_SECONDS:
            self._seen.popleft()
        began, before = self._seen[0]
        rate = f", {(count - before) / (now - began):,.0f}/s" if now > began else ""
        if self._total is None:
            return f"{count:,} {self._noun}{rate}"
        part = f" ({100 * count // self._total} %)" if self._total else ""
        return f"{count:,} of {self._total:,} {self._noun}{part}{rate}"


@asynccontextmanager
async def progress(text: Callable[[], str], *, is_wanted: bool = True) -> AsyncIterator[None]:
    """Show `text()` while the block runs, if standard error is a terminal; the line is gone when the block ends.

    Args:
        text: called a few times a second; nothing is shown while it is "".
        is_wanted: False where the line would stand among other things on the terminal.
    """
    if not (is_wanted and sys.stderr.isatty()):
        yield
        return
    async with background() as nursery:
        nursery.start_soon(_show, text)
        yield


async def _show(text: Callable[[], str]) -> None:
    shown = ""
    try:
        while True:
            await trio.sleep(SHOWN_EVERY_SECONDS)
            line = text()
            # Blanks over the rest of a longer line before: not every terminal knows how to erase.
            _write(f"\r{line.ljust(len(shown))}")
            shown = line
    finally:
        if shown:
            _write(f"\r{' ' * len(shown)}\r")


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
