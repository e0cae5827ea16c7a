"""How long to wait before the next attempt."""

import random


class Backoff:
    """Doubling waits with jitter: between half and all of min * 2**n, which is capped at max."""

    def __init__(self, rng: random.Random, seconds_min: float, seconds_max: float) -> None:
        self._rng = rng
        self._seconds_min = seconds_min
        self._seconds_max = seconds_max
        self._ceiling_seconds = seconds_min

    def reset(self) -> None:
        """An attempt succeeded."""
        self._ceiling_seconds = self._seconds_min

    def next_seconds(self, at_least_seconds: float = 0.0) -> float:
        """The next wait; not below what the server asked for, as far as the cap allows."""
        ceiling = self._ceiling_seconds
        self._ceiling_seconds = min(ceiling * 2, self._seconds_max)
        return max(min(at_least_seconds, self._seconds_max), ceiling * (0.5 + self._rng.random() / 2))
