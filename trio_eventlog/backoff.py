"""How long to wait before the next attempt."""

import random


def jittered(rng: random.Random, seconds: float) -> float:
    """A wait between half and all of `seconds`, so that those that failed together do not try again together."""
    return rng.uniform(seconds / 2, seconds)


class Backoff:
    """Waits that double from `seconds_min` to `seconds_max`, each drawn from its upper half."""

    def __init__(self, rng: random.Random, seconds_min: float, seconds_max: float) -> None:
        self._rng = rng
        self._seconds_min = seconds_min
        self._seconds_max = seconds_max
        self._ceiling_seconds = seconds_min

    def reset(self) -> None:
        """An attempt succeeded: the next wait is a short one."""
        self._ceiling_seconds = self._seconds_min

    def next_seconds(self, at_least_seconds: float = 0.0) -> float:
        """The next wait; not below what the server asked for, as far as `seconds_max` allows."""
        ceiling = self._ceiling_seconds
        self._ceiling_seconds = min(ceiling * 2, self._seconds_max)
        return max(min(at_least_seconds, self._seconds_max), jittered(self._rng, ceiling))
