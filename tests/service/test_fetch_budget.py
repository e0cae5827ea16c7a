"""Memory for records on their way to consumers: bounded, shared in turn, and taken from those who do not read."""

import pytest
import trio
import trio.testing

from trio_eventlog.rpc import Peer
from trio_eventlog.service.fetch_budget import FetchBudget, Gate


def never() -> None:
    raise AssertionError("nobody is to be ended")


async def test_at_the_limits() -> None:
    """All of it can be taken, by one connection its own part; then nothing until something comes back. One always gets some."""
    budget = FetchBudget(10, 6, 1.0)
    first = budget.take_nowait("a", 6, never)
    assert first is not None
    assert budget.take_nowait("a", 1, never) is None
    assert budget.take_nowait("b", 4, never) is not None
    assert budget.take_nowait("c", 1, never) is None
    budget.shrink(first, 5)
    assert budget.take_nowait("c", 1, never) is not None
    budget.shrink(first, 0)
    budget.give_back(first)
    budget.give_back(first)
    assert budget.use().used == 5
    assert FetchBudget(10, 6, 1.0).take_nowait("large", 100, never) is not None


async def test_connections_take_turns(autojump_clock: trio.testing.MockClock) -> None:
    """A connection with a thousand calls that wait gets one place after the other, between those of the others."""
    budget = FetchBudget(2, 2, 1000.0)
    order: list[str] = []
    held = [budget.take_nowait("x", 1, never), budget.take_nowait("x", 1, never)]

    async def call(owner: str) -> None:
        holding = await budget.take(owner, 1, never)
        order.append(owner)
        await trio.sleep(1)
        budget.give_back(holding)

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(call, "greedy")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(call, "modest")
        await trio.testing.wait_all_tasks_blocked()
        for one in held:
            assert one is not None
            budget.give_back(one)
    assert "modest" in order[:4]
    assert len(order) == 7
    assert budget.use().used == 0


@pytest.mark.parametrize("gives_back", ["never", "before", "after"])
async def test_who_waits_and_is_cancelled_keeps_nothing(autojump_clock: trio.testing.MockClock, gives_back: str) -> None:
    """Before it was given a place, just after, and when it is given one that it is no longer there to take."""
    budget = FetchBudget(1, 1, 1000.0)
    holding = budget.take_nowait("a", 1, never)
    assert holding is not None

    async def call() -> None:
        budget.give_back(await budget.take("b", 1, never))

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            if gives_back == "before":
                budget.give_back(holding)
            scope.cancel()
            if gives_back == "after":
                budget.give_back(holding)
    budget.give_back(holding)
    assert budget.use().used == 0
    assert budget.take_nowait("c", 1, never) is not None


async def test_who_does_not_read_is_ended_when_others_wait(autojump_clock: trio.testing.MockClock) -> None:
    """The oldest holding, and not before the patience is over."""
    budget = FetchBudget(2, 2, 10.0)
    ended: list[str] = []
    for name in ("old", "new"):
        assert budget.take_nowait(name, 1, lambda name=name: ended.append(name)) is not None  # type: ignore[misc]
        await trio.sleep(1)
    await trio.sleep(100)
    assert not ended
    began = trio.current_time()
    await budget.take("late", 1, never)
    assert ended == ["old"]
    assert trio.current_time() - began == pytest.approx(10)


async def test_who_needs_much_is_not_passed_by_who_needs_little(autojump_clock: trio.testing.MockClock) -> None:
    """Room in the node goes to who waited first; and who waits for his own connection only holds up nobody else."""
    budget = FetchBudget(10, 6, 1000.0)
    small = [budget.take_nowait(name, 4, never) for name in ("a", "b")]
    got = trio.Event()

    async def large() -> None:
        holding = await budget.take("large", 6, never)
        got.set()
        budget.give_back(holding)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(large)
        await trio.testing.wait_all_tasks_blocked()
        assert budget.take_nowait("c", 1, never) is None
        for one in small:
            assert one is not None
            budget.give_back(one)
        await trio.testing.wait_all_tasks_blocked()
        assert got.is_set()
        held = budget.take_nowait("a", 6, never)
        assert held is not None
        nursery.start_soon(budget.take, "a", 1, never)
        await trio.testing.wait_all_tasks_blocked()
        assert budget.take_nowait("b", 4, never) is not None
        nursery.cancel_scope.cancel()


async def test_who_was_cancelled_at_the_head_holds_up_nobody(autojump_clock: trio.testing.MockClock) -> None:
    budget = FetchBudget(10, 10, 1000.0)
    assert budget.take_nowait("a", 4, never) is not None
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def large() -> None:
            with scope:
                await budget.take("large", 8, never)

        nursery.start_soon(large)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(budget.take, "b", 2, never)
        await trio.testing.wait_all_tasks_blocked()
        assert budget.use().used == 4
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert budget.use().used == 6


async def test_more_than_a_connection_may_have_waits_for_the_node_only(autojump_clock: trio.testing.MockClock) -> None:
    """A connection that holds nothing is not at its own limit, however much it asks for: others are ended for it. What was taken
    away is not given back again."""
    budget = FetchBudget(10, 2, 10.0)
    ended: list[str] = []
    old = budget.take_nowait("old", 10, lambda: ended.append("old"))
    assert old is not None
    with trio.fail_after(20):
        await budget.take("new", 5, never)
    assert ended == ["old"]
    budget.shrink(old, 1)
    budget.give_back(old)
    assert budget.use().used == 5


class FakeContext:
    """Of a client with a certificate, two connections of which look the same."""

    peer = Peer(address="10.0.0.1:1", is_secure=True, certificate={"subject": ()})

    def __init__(self, has_room: bool = True) -> None:
        self.connection = object()
        self.has_room = has_room

    def call_finally(self, function: object) -> None:
        pass

    async def wait_sendable(self) -> None:
        await trio.sleep(0 if self.has_room else 10)


async def test_nothing_is_taken_while_the_stream_has_no_room(autojump_clock: trio.testing.MockClock) -> None:
    budget = FetchBudget(10, 5, 1000.0)
    with trio.move_on_after(1):
        await Gate(budget, FakeContext(has_room=False)).enter(5)  # type: ignore[arg-type]
    assert budget.use().used == 0


async def test_a_connection_is_not_told_by_who_is_at_its_end() -> None:
    budget = FetchBudget(10, 5, 1000.0)
    with trio.fail_after(1):
        for _ in range(2):
            await Gate(budget, FakeContext()).enter(5)  # type: ignore[arg-type]
    assert budget.use().used == 10
