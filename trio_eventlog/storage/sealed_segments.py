"""The sealed segments that are open, of all logs of a node together."""

import trio

from trio_eventlog.budgets import BudgetUse
from trio_eventlog.storage.log_contents import OpenSegment

WITHIN_ONE_LOG = 16
"""Sealed segments that are open at most, for a log that shares them with no other."""


class SealedSegments:
    """Which sealed segments have an open file and a sparse index in memory: at most `open_max` of them, over all logs that share
    this object. For one more, the least recently used that no reader is at work on is closed; when readers are at work on all of
    them, the next one waits. No reader holds one segment and asks for another, so all of them end.

    A segment that is sealed while a reader is at work on it keeps its file until that reader is done, and may be over the limit
    meanwhile: an appender that waited for readers could not append.
    """

    def __init__(self, open_max: int) -> None:
        self._open_max = open_max
        self._opened: dict[OpenSegment, None] = {}  # the least recently used first
        self._waited = 0
        self._unused = trio.lowlevel.ParkingLot()

    async def use(self, segment: OpenSegment) -> None:
        """A reader is about to use `segment`, and to open it if it is not open. Another one is closed for it when need be.

        The caller counts as a user from then on, and not before: who waits keeps no segment from being closed.
        """
        try:
            while len(self._opened) >= self._open_max and segment not in self._opened:
                if not await self._close_one():
                    self._waited += 1
                    await self._unused.park()
        except BaseException:
            self._unused.unpark()  # The room that was made, or the news of it, is for the next one who waits.
            raise
        self._opened.pop(segment, None)
        if segment.is_sealed:
            self._opened[segment] = None
        else:  # it was cut meanwhile, and is appended to
            self._unused.unpark()

    async def keep(self, segment: OpenSegment) -> None:
        """Count `segment`, whose file is open already, as open; others, or it itself, are closed when they are too many."""
        self._opened[segment] = None
        await self.close_surplus()

    def forget(self, segment: OpenSegment) -> None:
        """Its file is closed by the caller, or stays open for another reason."""
        if segment in self._opened:
            del self._opened[segment]
            self._unused.unpark()

    async def on_unused(self) -> None:
        """The last reader of a segment has left it."""
        self._unused.unpark()
        await self.close_surplus()

    async def close_surplus(self) -> None:
        """Until no more than the limit are open, or readers are at work on all of them."""
        while len(self._opened) > self._open_max and await self._close_one():
            pass

    def budget_use(self) -> BudgetUse:
        """`refused`: how often a reader had to wait for another one."""
        return BudgetUse(name="descriptors of sealed segments", limit=self._open_max, used=len(self._opened), refused=self._waited)

    async def _close_one(self) -> bool:
        """False when readers are at work on all of them."""
        segment = next((segment for segment in self._opened if not segment.users), None)
        if segment is None:
            return False
        del self._opened[segment]
        segment.contents.sparse = None
        await segment.close()
        return True
