"""Indexes of aggregates on a simulated disk: what a crash of the machine leaves of them is less than what was written, and
whole."""

from collections.abc import Sequence

import trio

from trio_eventlog.events import EventHead
from trio_eventlog.storage.event_index import IndexPosition, MemoryEventIndex, OpenMemoryIndex
from trio_eventlog.testing.disk import SimDisk
from trio_eventlog.testing.journal import Journal


class JournalledIndex(MemoryEventIndex):
    """An index whose transactions are kept in a journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        for heads, position in journal.transactions:
            super().write(heads, position)
        self._journal = journal

    def write(self, heads: Sequence[EventHead], position: IndexPosition) -> None:
        """See `EventIndex.write`."""
        super().write(heads, position)
        self._journal.transactions.append((tuple(heads), position))


class SimEventIndexes:
    """The indexes of a simulated machine (`EventIndexes`)."""

    def __init__(self, disk: SimDisk) -> None:
        self._journals = disk.journals

    async def open(self, path: str) -> OpenMemoryIndex:
        """See `EventIndexes.open`."""
        await trio.lowlevel.checkpoint()
        return OpenMemoryIndex(JournalledIndex(self._journals.setdefault(path, Journal())))

    async def remove(self, path: str) -> None:
        """See `EventIndexes.remove`."""
        await trio.lowlevel.checkpoint()
        self._journals.pop(path, None)
