"""The one way into a group's driver."""

from collections import deque
from collections.abc import Sequence

import attrs
import trio

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.raft import Message


@attrs.frozen(slots=True)
class Received:
    """A peer's message; `frames` are the entries of an APPEND as they came.

    `asks_to_sleep`: a leader's last HEARTBEAT for a while.
    """

    message: Message
    frames: Sequence[EntryFrame] = ()
    asks_to_sleep: bool = False


class Inbox:
    """What waits for the driver: peers' messages (bounded, dropped when full: the protocol tolerates loss) and small notices.

    Args:
        messages_max: bound on waiting peer messages.
        bytes_max: bound on the bytes of entries among them.
    """

    def __init__(self, messages_max: int, bytes_max: int) -> None:
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._messages: deque[Received] = deque()
        self._event = trio.Event()
        self.dropped = 0

    def wake(self) -> None:
        """Something is to be done; the driver will look at everything."""
        self._event.set()

    async def wait(self) -> None:
        """Return once `wake` was called since the last return. Always a checkpoint."""
        await self._event.wait()
        self._event = trio.Event()

    def put_message(self, received: Received) -> bool:
        """False when it was dropped because the inbox is full."""
        size = sum(frame.size_bytes for frame in received.frames)
        if len(self._messages) >= self._messages_max or (self._messages and self._bytes + size > self._bytes_max):
            self.dropped += 1
            return False
        self._messages.append(received)
        self._bytes += size
        self.wake()
        return True

    def take_messages(self) -> deque[Received]:
        messages, self._messages, self._bytes = self._messages, deque(), 0
        return messages
