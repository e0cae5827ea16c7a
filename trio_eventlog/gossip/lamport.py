"""Order in time without clocks that agree: Lamport times, and what was seen at the recent ones."""

LAMPORT_TIME_MAX = 1 << 62
"""Later times are refused: clocks would run out of their 64 bits."""


class LamportClock:
    """Counts what is seen and done, so that an effect always has a later time than its cause."""

    def __init__(self) -> None:
        self.time = 1

    def increment(self) -> int:
        """The time to stamp something new with."""
        time = self.time
        self.time += 1
        return time

    def witness(self, time: int) -> None:
        """Something of this time was seen."""
        if time >= self.time:
            self.time = time + 1


class Recent:
    """What was seen in the most recent Lamport times, so that nothing is delivered twice."""

    def __init__(self, times_max: int, per_time_max: int, bytes_max: int) -> None:
        self._times_max = times_max
        self._per_time_max = per_time_max
        self._bytes_left = bytes_max
        self._seen: dict[int, dict[object, int]] = {}
        """By time: what, and its bytes."""
        self.time_min = 0
        """Older than this is not wanted."""

    def is_new(self, clock: LamportClock, time: int, what: object, size_bytes: int = 0) -> bool:
        """Remember; False for what is too old, was seen, or is one too many of its time."""
        if time < self.time_min or time + self._times_max < clock.time:
            return False
        seen = self._seen.get(time)
        if seen is None:
            # The oldest go. Times may come in any order, but all lie within the window of the clock.
            while len(self._seen) >= self._times_max:
                self._forget_oldest()
            seen = self._seen[time] = {}
        if what in seen or len(seen) >= self._per_time_max:
            return False
        seen[what] = size_bytes
        self._bytes_left -= size_bytes
        while self._bytes_left < 0:
            self.time_min = max(self.time_min, self._forget_oldest() + 1)
        return True

    def _forget_oldest(self) -> int:
        time = min(self._seen)
        self._bytes_left += sum(self._seen.pop(time).values())
        return time

    def newest_first(self) -> list[tuple[int, list[object]]]:
        """All that is remembered."""
        return [(time, list(self._seen[time])) for time in sorted(self._seen, reverse=True)]
