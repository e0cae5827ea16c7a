"""Frames that make work and no progress, counted over all connections of a server.

A connection has a budget of its own (`control_frames_max`), which a busy client never reaches. Many connections that each stay
below theirs can still keep the loop busy for seconds. So they share one too: once it is used up, those that used more than an
equal part are not read from until the period is over, and nobody is read from much at a time.
"""

from trio_eventlog.rpc.settings import RpcSettings

PERIOD_SECONDS = 1.0


class UselessWork:
    """What all connections of a server did for nothing in this period. No clock: `now` is given."""

    def __init__(self, settings: RpcSettings) -> None:
        self._frames_max = settings.useless_frames_per_second_max
        self._frames_per_pass = settings.frames_per_pass
        self._period_end = float("-inf")
        self._frames = 0
        self._frames_of: dict[object, int] = {}
        self.pauses = 0
        """How often a connection had to wait, since the start."""

    def add(self, connection: object, frames: int, now: float) -> float:
        """Count `frames` of a connection; how long it is not to be read from, in seconds: 0 nearly always."""
        self._begin_period(now)
        self._frames += frames
        used = self._frames_of[connection] = self._frames_of.get(connection, 0) + frames
        if self._frames <= self._frames_max or used * (len(self._frames_of) + 1) <= self._frames_max:
            return 0.0
        self.pauses += 1
        return self._period_end - now

    def frames_per_pass(self, now: float) -> int:
        """How many frames of a connection may be looked at before others have their turn."""
        if self._frames <= self._frames_max or now >= self._period_end:
            return self._frames_per_pass
        return max(self._frames_per_pass // 16, 1)

    def _begin_period(self, now: float) -> None:
        if now >= self._period_end:
            self._period_end = now + PERIOD_SECONDS
            self._frames = 0
            self._frames_of.clear()
