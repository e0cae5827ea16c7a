"""What parts measure of themselves beside plain counters: how long things take. Values without a clock; the caller has measured."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of a histogram of durations."""


class Histogram:
    """How many values were how large.

    Attributes:
        bounds: of the buckets, inclusive, ascending. One more bucket has everything above.
        counts: values in each bucket alone.
        total: the sum of the values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: "Histogram") -> None:
        """Take in the values of another one with the same bounds."""
        self.counts = [own + more for own, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """Each bound, with the number of values up to it; last infinity, with all of them."""
        return list(zip((*self.bounds, float("inf")), accumulate(self.counts), strict=True))


class RecentMaximum:
    """The largest value of the last while: at least `window_seconds` long, and less than twice that."""

    __slots__ = ("_before", "_ends_at", "_now", "_window_seconds")

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._ends_at = 0.0
        self._before = 0.0
        self._now = 0.0

    def note(self, value: float, now: float) -> None:
        self._turn(now)
        self._now = max(self._now, value)

    def value(self, now: float) -> float:
        """0 when nothing was noted."""
        self._turn(now)
        return max(self._before, self._now)

    def _turn(self, now: float) -> None:
        if now < self._ends_at:
            return
        self._before = self._now if now < self._ends_at + self._window_seconds else 0.0
        self._now = 0.0
        self._ends_at = now + self._window_seconds
