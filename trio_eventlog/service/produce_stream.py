"""Produce requests of one stream: taken in order, several in flight, in the logs in that order, and answered in it."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from trio_eventlog.errors import EventLogError, ShuttingDown
from trio_eventlog.node.replica import Replica
from trio_eventlog.service.requests import ProduceRequest
from trio_eventlog.service.values import Caller, ProduceResult


class Pending(Protocol):
    """A request that was taken; see `PendingProduce`."""

    is_answered: bool

    @property
    def goes_elsewhere(self) -> bool: ...

    async def result(self) -> ProduceResult: ...


class ProduceStream:
    """One stream of an edge, or of a producer within the process.

    Args:
        begin: gives a request's batch to its log; see `ProduceService.begin`.
        receive: the next request, the error of one that cannot be one, or None at the end.
        answer: takes the outcome of each request, in their order.
        requests_max: taken and not answered yet; the next one is not received before.
        stopping: set when the node begins to stop: nothing is received from then on.
    """

    def __init__(
        self,
        begin: "Callable[[ProduceRequest, Caller, ProduceStream], Awaitable[Pending]]",
        caller: Caller,
        receive: Callable[[], Awaitable[ProduceRequest | EventLogError | None]],
        answer: Callable[[ProduceResult | EventLogError], Awaitable[None]],
        *,
        requests_max: int,
        stopping: trio.Event,
    ) -> None:
        self._begin = begin
        self._caller = caller
        self._receive = receive
        self._answer = answer
        self._stopping = stopping
        self._send_pending, self._receive_pending = trio.open_memory_channel[Pending | EventLogError](requests_max)
        self._last: Pending | None = None
        self._answered = trio.Event()
        self._receiving = trio.CancelScope()

    async def run(self) -> None:
        """Until there are no more requests and all are answered.

        Raises:
            ShuttingDown: the node is stopping. What was taken is answered.
        """
        async with trio.open_nursery() as stopper:
            stopper.start_soon(self._stop_receiving)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._answer_in_order)
                await self._take_in_order()
            stopper.cancel_scope.cancel()
        if self._stopping.is_set():
            raise ShuttingDown("this node is stopping: repeat what was not answered at another one")

    async def may_propose(self, replica: Replica) -> bool:
        """Whether a batch proposed now comes behind the earlier ones of the stream.

        When leadership has moved, batches that found no leader here, or lost it, go to the next one by one as their turn to be
        answered comes. None may overtake them, and when the next leader is this node, those that follow wait for them.
        """
        while self._last is not None and self._last.goes_elsewhere:
            if not replica.is_leader:
                return False
            self._answered = trio.Event()
            await self._answered.wait()
        return True

    async def _take_in_order(self) -> None:
        async with self._send_pending:
            while not self._stopping.is_set():
                # A request that was received is answered; only the wait for the next one is cut short.
                with trio.CancelScope() as self._receiving:
                    request = await self._receive()
                if self._receiving.cancelled_caught or request is None:
                    return
                pending: Pending | EventLogError
                if isinstance(request, EventLogError):
                    pending = request
                else:
                    try:
                        pending = self._last = await self._begin(request, self._caller, self)
                    except EventLogError as error:
                        pending = error
                await self._send_pending.send(pending)

    async def _answer_in_order(self) -> None:
        async with self._receive_pending:
            async for pending in self._receive_pending:
                result: ProduceResult | EventLogError
                if isinstance(pending, EventLogError):
                    result = pending
                else:
                    try:
                        result = await pending.result()
                    except EventLogError as error:
                        result = error
                    pending.is_answered = True
                self._answered.set()
                await self._answer(result)

    async def _stop_receiving(self) -> None:
        await self._stopping.wait()
        self._receiving.cancel()
