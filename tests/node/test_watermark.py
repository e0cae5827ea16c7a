"""The watermark as something to wait for."""

import pytest
import trio
import trio.testing

from trio_eventlog.errors import TopicNotFound
from trio_eventlog.node.watermark import Watermark


async def test_waiters_wake_when_it_passes_their_value() -> None:
    """Not before, and all of them."""
    watermark = Watermark()
    woken: list[int] = []

    async def wait(value: int) -> None:
        assert await watermark.wait_above(value) > value
        woken.append(value)

    async with trio.open_nursery() as nursery:
        for value in (0, 1, 1, 5):
            nursery.start_soon(wait, value)
        await trio.testing.wait_all_tasks_blocked()
        watermark.advance(1)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == [0]
        watermark.advance(5)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(woken) == [0, 1, 1]
        watermark.advance(6)
    assert len(woken) == 4


async def test_it_never_goes_back() -> None:
    watermark = Watermark(3)
    watermark.advance(3)
    with pytest.raises(AssertionError):
        watermark.advance(2)
    assert watermark.value == 3


async def test_waiting_is_always_a_checkpoint() -> None:
    watermark = Watermark(3)
    with trio.testing.assert_checkpoints():
        assert await watermark.wait_above(2) == 3
    with trio.testing.assert_checkpoints():
        assert await watermark.wait_at_least(3) == 3


async def test_closing_wakes_who_can_wait_no_longer() -> None:
    """What was reached before still counts; what will never come is an error."""
    watermark = Watermark(3)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(TopicNotFound):
                await watermark.wait_above(3)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        watermark.close(TopicNotFound("gone"))
    assert await watermark.wait_above(2) == 3
    with pytest.raises(TopicNotFound):
        await watermark.wait_at_least(4)
