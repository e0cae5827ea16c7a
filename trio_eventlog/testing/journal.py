"""What a simulated disk holds of an index of aggregates."""

import zlib

import attrs

from trio_eventlog.events import EventHead
from trio_eventlog.storage.event_index import IndexPosition

LOST_MAX = 3
"""Transactions that a loss of power takes, at most: as many as a database may have committed without a sync."""


@attrs.define(slots=True)
class Journal:
    """The transactions of an index, the oldest first."""

    transactions: list[tuple[tuple[EventHead, ...], IndexPosition]] = attrs.field(factory=list)

    def after_crash(self, keeps_all: bool) -> "Journal":
        """What is left. Draws nothing, so that other draws of the disk stay where they are: it follows from what was written."""
        count = len(self.transactions)
        lost = 0 if keeps_all else zlib.crc32(b"%d" % count) % (LOST_MAX + 1)
        return Journal(self.transactions[: max(0, count - lost)])
