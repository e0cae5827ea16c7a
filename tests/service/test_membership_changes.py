"""The channel of membership changes: order, and what happens when its reader is slow."""

import pytest
import trio

from trio_eventlog.errors import Overloaded, ShuttingDown
from trio_eventlog.service.membership_changes import MembershipChanges
from trio_eventlog.service.values import MembershipChange, MembershipEvent

VIRTUAL_TIME = True


def change(number: int) -> MembershipChange:
    return MembershipChange(event=MembershipEvent.CHANGED, id="", name=f"n{number}", address="")


async def test_each_reader_has_every_change_since_it_began() -> None:
    changes = MembershipChanges()
    changes.publish(change(0))
    with changes.reading(10) as first:
        changes.publish(change(1))
        with changes.reading(10) as second:
            changes.publish(change(2))
            assert await second.receive() == change(2)
        assert [await first.receive(), await first.receive()] == [change(1), change(2)]
        with pytest.raises(trio.ClosedResourceError):
            await second.receive()


async def test_a_slow_reader_is_told_what_it_has_missed() -> None:
    """It holds up nobody: the first changes are kept, the others counted, and what comes after the reader knows is there again."""
    changes = MembershipChanges()
    with changes.reading(3) as reader:
        for number in range(3):
            changes.publish(change(number))
        assert await reader.receive() == change(0)
        changes.publish(change(3))
        for number in (4, 5):
            changes.publish(change(number))
        assert [await reader.receive() for _ in range(3)] == [change(1), change(2), change(3)]
        changes.publish(change(6))  # There is room again, but the reader does not know yet that something is missing.
        with pytest.raises(Overloaded, match="3 changes"):
            await reader.receive()
        changes.publish(change(7))
        assert await reader.receive() == change(7)


async def test_a_reader_waits_and_hears_of_the_end() -> None:
    changes = MembershipChanges()
    with changes.reading(3) as reader, trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def go_on() -> None:
                await trio.sleep(1.0)
                changes.publish(change(1))
                await trio.sleep(1.0)
                changes.publish(change(2))
                changes.end()

            nursery.start_soon(go_on)
            assert await reader.receive() == change(1)
            await trio.sleep(5.0)
            assert await reader.receive() == change(2)
            with pytest.raises(ShuttingDown):
                await reader.receive()
    assert not scope.cancelled_caught
    with changes.reading(3) as late, pytest.raises(ShuttingDown):
        await late.receive()
