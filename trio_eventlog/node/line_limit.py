"""Log lines that a peer can cause: one in an interval, the others counted."""

import math

import trio


class LineLimit:
    """Made for one place that logs. A peer that sends the same wrong thing again and again gets one line in each interval."""

    def __init__(self, interval_seconds: float = 60.0) -> None:
        self._interval_seconds = interval_seconds
        self._logged_at = -math.inf
        self._suppressed = 0

    def take(self) -> str | None:
        """None: not now. Otherwise what to put behind the line: "", or how many like it were left out."""
        now = trio.current_time()
        if now - self._logged_at < self._interval_seconds:
            self._suppressed += 1
            return None
        self._logged_at = now
        suppressed, self._suppressed = self._suppressed, 0
        return f" ({suppressed} more like this since the last line)" if suppressed else ""
