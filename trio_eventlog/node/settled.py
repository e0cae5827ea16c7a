"""A counter's value as of some time ago, to know what has been added since."""

from collections import deque

import trio


class SettledCount:
    """Notes of a growing number. `value` is one that it had reached `age_seconds` ago or earlier: 0 before there is such a note.

    The clock is this process's own: a restart begins anew, which errs on the side of "not long enough ago".
    """

    NOTES_MAX = 32

    def __init__(self, age_seconds: float) -> None:
        self._age_seconds = age_seconds
        self._notes: deque[tuple[float, int]] = deque()

    def note(self, number: int) -> None:
        """The number is this now. To be called often; a few notes are kept."""
        now = trio.current_time()
        if not self._notes or now - self._notes[-1][0] >= self._age_seconds / (self.NOTES_MAX - 2):
            self._notes.append((now, number))
            self._forget(now)

    def value(self) -> int:
        now = trio.current_time()
        self._forget(now)
        return self._notes[0][1] if self._notes and now - self._notes[0][0] >= self._age_seconds else 0

    def _forget(self, now: float) -> None:
        while len(self._notes) > 1 and now - self._notes[1][0] >= self._age_seconds:
            self._notes.popleft()
