"""Ctrl-C and SIGTERM for commands that have something to say before they end."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from trio_eventlog.service.background import background


@attrs.define(eq=False)
class Interruption:
    """Attributes:
    scope: put around what is to end at the first signal.
    ending: put around what may go on for `grace_seconds` after it.
    signal_number: the signal that came; 0: none.
    """

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ending: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    grace_seconds: float = 0.0
    signal_number: int = 0

    @property
    def exit_code(self) -> int:
        """As shells have it; 0 without a signal."""
        return 128 + self.signal_number if self.signal_number else 0

    def end_soon(self) -> None:
        """As the first signal does, for another reason."""
        self.scope.cancel()
        self.ending.deadline = trio.current_time() + self.grace_seconds


@asynccontextmanager
async def interruptible() -> AsyncIterator[Interruption]:
    """Within the block the first signal does as the interruption says; the second one ends the command, as any does elsewhere."""
    interruption = Interruption()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with background() as nursery:

            @nursery.start_soon
            async def listen() -> None:
                async for number in signals:
                    if interruption.signal_number:
                        raise KeyboardInterrupt
                    interruption.signal_number = number
                    interruption.end_soon()

            yield interruption
