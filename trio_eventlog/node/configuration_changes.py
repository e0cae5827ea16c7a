"""Changes of a group's configuration that this node was asked to propose, until they are applied."""

import attrs
import trio

from trio_eventlog.errors import EventLogError, OutcomeUnknown
from trio_eventlog.raft import Configuration, ConfigurationChange


@attrs.define(slots=True, eq=False)
class PendingChange:
    """One change, and the caller that waits for it. `index` is its position in the log, 0 before it has one."""

    change: ConfigurationChange
    index: int = 0
    _done: trio.Event = attrs.field(factory=trio.Event)
    _result: Configuration | EventLogError | None = None

    def decide(self, result: Configuration | EventLogError) -> None:
        self._result = result
        self._done.set()

    async def outcome(self) -> Configuration:
        """The configuration that the change has led to. Raises the EventLogError it was decided with."""
        await self._done.wait()
        if isinstance(self._result, EventLogError):
            raise self._result
        assert self._result is not None
        return self._result


class PendingChanges:
    """All that wait. At most one of them stands in the log unapplied; the core sees to that."""

    def __init__(self) -> None:
        self._waiting: list[PendingChange] = []
        self._closed_by: EventLogError | None = None

    def add(self, change: ConfigurationChange) -> PendingChange:
        """Raises the error of `close`."""
        if self._closed_by is not None:
            raise self._closed_by
        pending = PendingChange(change)
        self._waiting.append(pending)
        return pending

    def refused(self, pending: PendingChange, error: EventLogError) -> None:
        """The core did not take it."""
        self._waiting.remove(pending)
        pending.decide(error)

    def applied(self, index: int, change: ConfigurationChange, result: Configuration | EventLogError) -> None:
        """A change is applied, proposed by this node or by another one."""
        for pending in self._waiting:
            if pending.index == index:
                self._waiting.remove(pending)
                same = change == pending.change
                pending.decide(result if same else OutcomeUnknown("another leader has changed the configuration: look at it"))
                return

    def abandon(self, error: EventLogError) -> None:
        """The node no longer leads: it will not learn what becomes of those in the log."""
        for pending in [pending for pending in self._waiting if pending.index]:
            self.refused(pending, error)

    def close(self, error: EventLogError) -> None:
        """Nothing will be decided any more."""
        self._closed_by = error
        for pending in list(self._waiting):
            self.refused(pending, error)
