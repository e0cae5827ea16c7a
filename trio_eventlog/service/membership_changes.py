"""Changes of the membership, as an application follows them: a bounded channel for each reader."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from trio_eventlog.errors import Overloaded, ShuttingDown
from trio_eventlog.service.values import MembershipChange


class MembershipReceiver(trio.abc.ReceiveChannel[MembershipChange]):
    """Changes in their order. Ends with ShuttingDown when the node stops.

    A reader that is slow does not hold up the node: once `changes_max` changes wait, further ones are dropped. The reader gets
    those that wait, then Overloaded, which says how many are missing, and after that what happens from then on.
    """

    def __init__(self, changes_max: int) -> None:
        self._changes_max = changes_max
        self._changes: deque[MembershipChange] = deque()
        self._dropped = 0
        self._is_closed = False
        self._is_over = False
        self._news = trio.Event()

    async def receive(self) -> MembershipChange:
        """The next change.

        Raises:
            Overloaded: changes are missing here.
            ShuttingDown: the node stops.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError
            if self._changes:
                return self._changes.popleft()
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                raise Overloaded(
                    f"{dropped} changes of the membership are missing: the reader was slow, and {self._changes_max} are kept. Ask"
                    " for the members, and go on",
                    retry_after_seconds=0.0,
                )
            if self._is_over:
                raise ShuttingDown("this node is stopping: its membership changes no more")
            self._news = trio.Event()
            await self._news.wait()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """As `aclose`, for who must not wait."""
        self._is_closed = True
        self._news.set()

    def put(self, change: MembershipChange) -> None:
        if self._dropped or len(self._changes) >= self._changes_max:
            # Also when there is room again: what comes behind a gap must not be taken for the next change.
            self._dropped += 1
        else:
            self._changes.append(change)
        self._news.set()

    def end(self) -> None:
        """The node stops: nothing comes behind what waits."""
        self._is_over = True
        self._news.set()


class MembershipChanges:
    """Passes what happens on to all who read it."""

    def __init__(self) -> None:
        self._receivers: dict[MembershipReceiver, None] = {}
        self._is_over = False

    def publish(self, change: MembershipChange) -> None:
        """Never waits."""
        for receiver in self._receivers:
            receiver.put(change)

    def end(self) -> None:
        """The node stops."""
        self._is_over = True
        for receiver in self._receivers:
            receiver.end()

    @contextmanager
    def reading(self, changes_max: int) -> Iterator[MembershipReceiver]:
        """A receiver for the block, of what happens from its beginning on."""
        receiver = MembershipReceiver(changes_max)
        if self._is_over:
            receiver.end()
        self._receivers[receiver] = None
        try:
            yield receiver
        finally:
            del self._receivers[receiver]
            receiver.close()
