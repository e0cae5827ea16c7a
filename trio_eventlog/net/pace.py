"""Pacing of bulk data: who sends waits until the bytes fit a rate."""

import trio


class Pace:
    """A rate that all who send share, by Trio's clock.

    Unused time is not saved up beyond what one piece takes, so a pause is not followed by a burst.

    Args:
        bytes_per_second: 0: no limit.
    """

    def __init__(self, bytes_per_second: int) -> None:
        self.bytes_per_second = bytes_per_second
        self._free_at = 0.0
        """When all bytes admitted until now have been sent, at this rate."""

    async def wait(self, size_bytes: int) -> None:
        """Until it is the turn of `size_bytes`, in the order of the calls. Does not yield when that is now."""
        if not self.bytes_per_second:
            return
        now = trio.current_time()
        turn = max(self._free_at, now)
        self._free_at = turn + size_bytes / self.bytes_per_second
        if turn > now:
            await trio.sleep_until(turn)
