"""Events that were read lately, as values: who appends to an aggregate reads it first, each time."""

from collections import OrderedDict

from trio_eventlog.budgets import BudgetUse
from trio_eventlog.events import RecordedEvent
from trio_eventlog.ids import GroupId

EVENT_OVERHEAD_BYTES = 64
"""Of an event in an answer, beside its texts: tags, lengths and numbers."""
KEPT_EVENT_BYTES = 900
"""Of an event as a value, beside its payload and metadata: objects and their heads."""


Sized = tuple[RecordedEvent, int]
"""An event and its `event_bytes`, which take longer to add up than the event to find."""


class EventCache:
    """Committed events by their place in the log, which never changes. Those that were not read for longest are evicted.

    Args:
        bytes_max: memory for all of them. 0: none is kept.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._used_bytes = 0
        self._events: OrderedDict[tuple[GroupId, int], Sized] = OrderedDict()

    def use(self) -> BudgetUse:
        return BudgetUse(name="bytes of events kept decoded", limit=self._bytes_max, used=self._used_bytes)

    def find(self, group_id: GroupId, offset: int) -> Sized | None:
        key = (group_id, offset)
        found = self._events.get(key)
        if found is not None:
            self._events.move_to_end(key)
        return found

    def add(self, group_id: GroupId, sized: Sized) -> None:
        """Keep the event, unless it alone needs more than there is room for."""
        event, size_bytes = sized
        key = (group_id, event.offset)
        if size_bytes + KEPT_EVENT_BYTES > self._bytes_max or key in self._events:
            return
        self._events[key] = sized
        self._used_bytes += size_bytes + KEPT_EVENT_BYTES
        while self._used_bytes > self._bytes_max:
            _, (_, evicted_bytes) = self._events.popitem(last=False)
            self._used_bytes -= evicted_bytes + KEPT_EVENT_BYTES


def event_bytes(event: RecordedEvent) -> int:
    """About as many as the event has in an answer, and not fewer."""
    texts = len(event.event_id) + len(event.type) + len(event.aggregate_id) + len(event.content_type)
    return len(event.data) + len(event.metadata) + 4 * texts + EVENT_OVERHEAD_BYTES
