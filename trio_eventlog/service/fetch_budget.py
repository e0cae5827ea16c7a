"""Memory for records on their way to consumers: taken before they are fetched, given back when they are sent.

What was fetched stays in memory until its consumer has room for it. A consumer that does not read, or reads a byte at a time, holds
it for as long as he likes, on as many streams as he likes. So nothing is fetched for a stream without room in its window; the
bytes fetched are bounded for each connection and for all together; and while others wait, who has held his for long loses them.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

import attrs
import trio

from trio_eventlog.budgets import BudgetUse
from trio_eventlog.errors import Overloaded


@attrs.define(slots=True, eq=False)
class _Holding:
    owner: object
    size_bytes: int
    since: float
    end: Callable[[], None]


@attrs.define(slots=True, eq=False)
class _Waiter:
    owner: object
    size_bytes: int
    end: Callable[[], None]
    granted: trio.Event = attrs.field(factory=trio.Event)
    holding: _Holding | None = None


class FetchBudget:
    """Bytes of records that were fetched for consumers and not sent yet.

    One that holds nothing gets what it asks for, however large, when nobody else of its connection, or of the node, holds anything:
    a limit below the size of one answer slows down and never stops.

    Args:
        limit_bytes: of all connections.
        owner_limit_bytes: of one connection.
        patience_seconds: who holds bytes longer than this while others wait for some has its call ended.
    """

    def __init__(self, limit_bytes: int, owner_limit_bytes: int, patience_seconds: float) -> None:
        self._limit_bytes = limit_bytes
        self._owner_limit_bytes = owner_limit_bytes
        self._patience_seconds = patience_seconds
        self._used_bytes = 0
        self._used_of: dict[object, int] = {}
        self._holdings: dict[_Holding, None] = {}  # the oldest first
        self._waiting: dict[object, deque[_Waiter]] = {}
        self._ended = 0

    def use(self) -> BudgetUse:
        return BudgetUse(name="bytes fetched for consumers", limit=self._limit_bytes, used=self._used_bytes, refused=self._ended)

    def take_nowait(self, owner: object, size_bytes: int, end: Callable[[], None]) -> _Holding | None:
        """None when there is no room, or when others wait whose turn is before: of the same connection, or for room in the node."""
        if owner in self._waiting or not self._fits(owner, size_bytes) or self._waits_for_node():
            return None
        return self._take(owner, size_bytes, end)

    async def take(self, owner: object, size_bytes: int, end: Callable[[], None]) -> _Holding:
        """As `take_nowait`, but waits. The oldest holdings are ended when that takes long."""
        waiter = _Waiter(owner, size_bytes, end)
        self._waiting.setdefault(owner, deque()).append(waiter)
        try:
            while not waiter.granted.is_set():
                with trio.move_on_after(self._patience_seconds):
                    await waiter.granted.wait()
                if not waiter.granted.is_set():
                    self._end_oldest(owner, size_bytes)
        except BaseException:
            if waiter.holding is not None:
                self.give_back(waiter.holding)
            else:
                self._forget_waiter(waiter)
            raise
        assert waiter.holding is not None
        return waiter.holding

    def shrink(self, holding: _Holding, size_bytes: int) -> None:
        """It turned out to be less. Nothing happens when it was taken away already."""
        if holding in self._holdings and size_bytes < holding.size_bytes:
            self._return(holding.owner, holding.size_bytes - size_bytes)
            holding.size_bytes = size_bytes
            self._grant()

    def give_back(self, holding: _Holding) -> None:
        """What was held is sent, or thrown away."""
        if holding in self._holdings:
            del self._holdings[holding]
            self._return(holding.owner, holding.size_bytes)
            self._grant()

    def _fits(self, owner: object, size_bytes: int) -> bool:
        return self._fits_owner(owner, size_bytes) and self._fits_node(size_bytes)

    def _fits_owner(self, owner: object, size_bytes: int) -> bool:
        used_bytes = self._used_of.get(owner, 0)
        return not used_bytes or used_bytes + size_bytes <= self._owner_limit_bytes

    def _fits_node(self, size_bytes: int) -> bool:
        return not self._used_bytes or self._used_bytes + size_bytes <= self._limit_bytes

    def _waits_for_node(self) -> bool:
        """Whether somebody waits for nothing but room in the node. Whoever needs less must not pass him, or his turn might never
        come."""
        return any(self._fits_owner(owner, waiters[0].size_bytes) for owner, waiters in self._waiting.items())

    def _take(self, owner: object, size_bytes: int, end: Callable[[], None]) -> _Holding:
        holding = _Holding(owner, size_bytes, trio.current_time(), end)
        self._holdings[holding] = None
        self._used_bytes += size_bytes
        self._used_of[owner] = self._used_of.get(owner, 0) + size_bytes
        return holding

    def _return(self, owner: object, size_bytes: int) -> None:
        self._used_bytes -= size_bytes
        used_bytes = self._used_of.get(owner, 0) - size_bytes
        if used_bytes:
            self._used_of[owner] = used_bytes
        else:
            self._used_of.pop(owner, None)  # Not there when all that is held is empty.

    def _grant(self) -> None:
        """Connections in turn, the calls of each in order."""
        has_granted = True
        while has_granted:
            has_granted = False
            for owner, waiters in list(self._waiting.items()):
                if not self._fits_owner(owner, waiters[0].size_bytes):
                    continue
                if not self._fits_node(waiters[0].size_bytes):
                    return
                waiter = waiters.popleft()
                waiter.holding = self._take(owner, waiter.size_bytes, waiter.end)
                waiter.granted.set()
                has_granted = True
                del self._waiting[owner]
                if waiters:
                    self._waiting[owner] = waiters  # behind the others

    def _forget_waiter(self, waiter: _Waiter) -> None:
        waiters = self._waiting[waiter.owner]
        waiters.remove(waiter)
        if not waiters:
            del self._waiting[waiter.owner]
        self._grant()

    def _end_oldest(self, owner: object, size_bytes: int) -> None:
        """Of the connection when that is at its own limit, else of all."""
        is_own_limit = not self._fits_owner(owner, size_bytes)
        held_before = trio.current_time() - self._patience_seconds
        for holding in self._holdings:
            if holding.since > held_before:
                return
            if not is_own_limit or holding.owner is owner:
                self._ended += 1
                self.give_back(holding)
                holding.end()
                return


class Consumer(Protocol):
    """The call for which something is fetched, as its edge knows it (`rpc.Context` is one)."""

    @property
    def connection(self) -> object:
        """The same for all calls of one connection, and for no others."""

    async def wait_sendable(self) -> None:
        """Returns when at least a part of an answer could be sent now: the consumer reads."""

    def call_finally(self, function: Callable[[], None]) -> None:
        """Have `function` called when the call is over, its answer sent or not."""

    def shed(self, error: Overloaded) -> None:
        """End the call from another task: the bytes it holds are needed for other calls."""


class Gate:
    """The way of one call to its consumer: `enter` before something is fetched, `leave` when it is sent. Its end leaves too."""

    def __init__(self, budget: FetchBudget, consumer: Consumer) -> None:
        self._budget = budget
        self._consumer = consumer
        self._holding: _Holding | None = None
        consumer.call_finally(self.leave)

    async def enter(self, size_bytes: int) -> None:
        """Waits until the consumer has room for some of it, and there is memory for `size_bytes`. Leaves before."""
        self.leave()
        await self._consumer.wait_sendable()
        owner = self._consumer.connection
        self._holding = self._budget.take_nowait(owner, size_bytes, self._end) or await self._budget.take(
            owner, size_bytes, self._end
        )

    def shrink(self, size_bytes: int) -> None:
        """What was fetched is `size_bytes` long."""
        if self._holding is not None:
            self._budget.shrink(self._holding, size_bytes)

    def leave(self) -> None:
        """A second time is fine."""
        holding, self._holding = self._holding, None
        if holding is not None:
            self._budget.give_back(holding)

    def _end(self) -> None:
        self._consumer.shed(
            Overloaded("this consumer does not read what was fetched for it, and others wait for memory: read, or ask for less")
        )
