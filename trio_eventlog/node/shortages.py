"""Waiting for descriptors, memory or room on the disk. A shortage passes, and nothing has changed when one is met."""

import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from trio_eventlog.backoff import Backoff
from trio_eventlog.errors import EventLogError
from trio_eventlog.storage.disk import is_shortage

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOG_SECONDS = 60.0
"""Shortest interval between two log lines about groups that cannot be opened."""


class Shortages:
    """Repeats work that met a shortage, and logs that at intervals of `LOG_SECONDS`.

    Args:
        wait_seconds_min, wait_seconds_max: the wait before the next attempt doubles from one to the other; each one is drawn from
            its upper half.
        count: number of groups that are in this state.
    """

    def __init__(self, wait_seconds_min: float, wait_seconds_max: float, rng: random.Random, count: Callable[[], int]) -> None:
        self._wait_seconds_min = wait_seconds_min
        self._wait_seconds_max = wait_seconds_max
        self._rng = rng
        self._count = count
        self._logged_at = -LOG_SECONDS

    async def when_possible(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """Repeat `work` until it meets no shortage, and return its result. It has to be safe to repeat."""
        backoff = self.backoff()
        while True:
            try:
                return await work()
            except EventLogError as error:
                if not is_shortage(error):
                    raise
                self.log(what, str(error))
            await trio.sleep(backoff.next_seconds())

    def backoff(self) -> Backoff:
        """Waits between attempts of one task."""
        return Backoff(self._rng, self._wait_seconds_min, self._wait_seconds_max)

    def log(self, what: str, why: str) -> None:
        now = trio.current_time()
        if now - self._logged_at < LOG_SECONDS:
            return
        self._logged_at = now
        count = self._count()
        others = f" ({count} partitions are in this state)" if count > 1 else ""
        logger.warning("%s has to wait%s, and is tried again until it works: %s", what, others, why)
