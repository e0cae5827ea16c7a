"""The high watermark as something to wait for."""

import trio

from trio_eventlog.errors import EventLogError


class Watermark:
    """A number that only grows, with readers asleep until it passes theirs.

    One task advances it; any number wait. A waiter costs nothing until the number moves, and every move wakes all of them once:
    consumers at the end of the log all want the same record.
    """

    def __init__(self, value: int = 0) -> None:
        self._value = value
        self._moved = trio.Event()
        self._closed_by: EventLogError | None = None

    @property
    def value(self) -> int:
        return self._value

    def advance(self, value: int) -> None:
        assert value >= self._value, "a watermark never goes back"
        if value == self._value:
            return
        self._value = value
        self._wake()

    def close(self, error: EventLogError) -> None:
        """It will not move any more: waiters, and later ones, get `error`."""
        self._closed_by = self._closed_by or error
        self._wake()

    async def wait_above(self, value: int) -> int:
        """The watermark once it is greater than `value`. Always a checkpoint. Raises the error of `close`."""
        if self._value > value:
            await trio.lowlevel.checkpoint()
        while self._value <= value:
            if self._closed_by is not None:
                raise self._closed_by
            await self._moved.wait()
        return self._value

    async def wait_at_least(self, value: int) -> int:
        """The watermark once it is `value` or more. Always a checkpoint. Raises the error of `close`."""
        return await self.wait_above(value - 1)

    def _wake(self) -> None:
        # Waking is setting one event for all; without waiters the event is kept.
        if self._moved.statistics().tasks_waiting:
            self._moved.set()
            self._moved = trio.Event()
