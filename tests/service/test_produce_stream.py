"""The order of a produce stream: in the logs and in the answers, whatever each request takes."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from trio_eventlog.errors import EventLogError, InvalidArgument, NotLeader, ShuttingDown
from trio_eventlog.service.produce_stream import ProduceStream
from trio_eventlog.service.requests import ProduceRequest
from trio_eventlog.service.values import Caller, ProduceResult

VIRTUAL_TIME = True


class Pending:
    def __init__(self, result: Callable[[], Awaitable[ProduceResult]], *, goes_elsewhere: bool = False) -> None:
        self.is_answered = False
        self._result = result
        self._goes_elsewhere = goes_elsewhere

    @property
    def goes_elsewhere(self) -> bool:
        return self._goes_elsewhere and not self.is_answered

    async def result(self) -> ProduceResult:
        return await self._result()


class Replica:
    def __init__(self, *, is_leader: bool) -> None:
        self.is_leader = is_leader


def after(seconds: float, offset: int) -> Callable[[], Awaitable[ProduceResult]]:
    async def result() -> ProduceResult:
        await trio.sleep(seconds)
        return ProduceResult(topic="t", partition=0, base_offset=offset, record_count=1)

    return result


class Stream:
    """Requests, the way each of them goes, and the answers."""

    def __init__(self, requests: list[Any], *, requests_max: int = 8, goes_on: bool = False) -> None:
        self.requests = list(requests)
        self.answers: list[ProduceResult | EventLogError] = []
        self.begun: list[int] = []
        self.stopping = trio.Event()
        self.goes_on = goes_on
        self.stream = ProduceStream(
            self.begin, Caller(), self.receive, self.answer, requests_max=requests_max, stopping=self.stopping
        )

    async def receive(self) -> Any:
        await trio.lowlevel.checkpoint()
        if not self.requests:
            if self.goes_on:
                await trio.sleep_forever()
            return None
        return self.requests.pop(0)

    async def begin(self, request: ProduceRequest, caller: Caller, stream: ProduceStream) -> Any:
        self.begun.append(len(self.begun))
        if isinstance(request, Exception):
            raise request
        return request

    async def answer(self, result: ProduceResult | EventLogError) -> None:
        self.answers.append(result)


async def test_answers_are_in_order_and_errors_have_their_place() -> None:
    """A slow request holds up the answers behind it, not the work on them."""
    stream = Stream([Pending(after(2.0, 0)), InvalidArgument("x"), Pending(after(1.0, 1)), Pending(after(1.0, 2))])
    await stream.stream.run()
    assert isinstance(stream.answers[0], ProduceResult)
    assert isinstance(stream.answers[1], InvalidArgument)
    assert [answer.base_offset for answer in stream.answers[2:]] == [1, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize("requests_max", [1, 3])
async def test_no_more_are_taken_than_may_wait(requests_max: int) -> None:
    stream = Stream([Pending(after(10.0, number)) for number in range(20)], requests_max=requests_max)
    with trio.move_on_after(5.0):
        await stream.stream.run()
    # One is being answered, and one more was begun and waits for its place.
    assert len(stream.begun) <= requests_max + 2


async def test_nothing_overtakes_what_goes_elsewhere() -> None:
    """When this node does not lead, the next batch goes the same way; when it leads again, it waits for the earlier ones."""
    stream = Stream([Pending(after(3.0, 0), goes_elsewhere=True)], goes_on=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.stream.run)
        await trio.sleep(1.0)
        assert not await stream.stream.may_propose(Replica(is_leader=False))  # type: ignore[arg-type]
        assert await stream.stream.may_propose(Replica(is_leader=True))  # type: ignore[arg-type]
        assert trio.current_time() == pytest.approx(3.0)
        nursery.cancel_scope.cancel()


async def test_a_node_that_stops_answers_what_it_has_taken() -> None:
    """And says then that it stops: what was not answered is sent to another node."""

    async def refused() -> ProduceResult:
        raise NotLeader("x")

    stream = Stream([Pending(after(5.0, 0)), Pending(refused)], goes_on=True)
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            await trio.sleep(1.0)
            stream.stopping.set()

        nursery.start_soon(stop)
        with pytest.raises(ShuttingDown):
            await stream.stream.run()
    assert len(stream.answers) == 2
    assert trio.current_time() == pytest.approx(5.0)
