"""What was done in a simulated cluster, and when: equal for equal seeds."""

import zlib
from collections.abc import Callable

import trio

from trio_eventlog.testing.determinism import Trace


class Story:
    """The trace of a run.

    Attributes:
        trace: every write to the network, and what was done, each with its time.
        events: what was done to nodes, network and application.
        on_note: called with what is done to the cluster, in words.
        is_over: what happens from now on is no part of it.
    """

    def __init__(self) -> None:
        self.trace = Trace()
        self.events: list[str] = []
        self.on_note: Callable[[str], None] | None = None
        self.is_over = False

    def note(self, line: str) -> None:
        """Put what is done to the cluster into the trace. What its end does to it is no part of the story."""
        if self.is_over:
            return
        self.trace.add(f"{trio.current_time():.9f} {line}")
        if self.on_note is not None:
            self.on_note(line)
        self.events.append(f"{trio.current_time():.6f} {line}")

    def on_write(self, source: str, target: str, data: bytes) -> None:
        """Put a write to the network into the trace."""
        if self.is_over:
            return
        self.trace.add(f"{trio.current_time():.9f} {source}>{target} {len(data)} {zlib.crc32(data):08x}")
