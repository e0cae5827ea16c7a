"""Log lines that strangers can cause: a limited number per interval, then one line saying that further ones are left out."""

import logging
import math

import trio

LINES_MAX = 50
INTERVAL_SECONDS = 60.0


class LineBudget:
    """Of one kind of lines of one logger.

    Arguments:
        what: the kind, for the line that says that the rest is left out.
    """

    def __init__(
        self, logger: logging.Logger, what: str, *, lines_max: int = LINES_MAX, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        self._logger = logger
        self._what = what
        self._lines_max = lines_max
        self._interval_seconds = interval_seconds
        self._since = -math.inf
        self._left = 0

    def log(self, level: int, text: str, *arguments: object) -> None:
        """Log a line while there is room for it. What is not shown anyway takes no room."""
        if not self._logger.isEnabledFor(level):
            return
        now = trio.current_time()
        if now - self._since >= self._interval_seconds:
            (self._since, self._left) = (now, self._lines_max)
        if self._left > 0:
            self._logger.log(level, text, *arguments)
        elif self._left == 0:
            self._logger.warning("%s: too many; no further lines about them for %g s", self._what, self._interval_seconds)
        self._left -= 1
