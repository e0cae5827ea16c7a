"""The way into a driver is bounded, and loses rather than waits."""

import trio
import trio.testing

from tests.node.rig import ME, TWO, data
from trio_eventlog.node.inbox import Inbox, Received
from trio_eventlog.raft import Message, MessageType


def message(size_bytes: int = 0) -> Received:
    frames = [data(1, 1, 0, bytes(size_bytes))] if size_bytes else []
    return Received(Message(type=MessageType.HEARTBEAT, to=ME, sender=TWO, term=1), frames)


async def test_the_number_at_the_limit() -> None:
    """As many as set; the next one is dropped and counted; taking makes room."""
    inbox = Inbox(3, 1 << 20)
    assert [inbox.put_message(message()) for _ in range(4)] == [True, True, True, False]
    assert inbox.dropped == 1
    assert len(inbox.take_messages()) == 3
    assert inbox.put_message(message())


async def test_the_bytes_at_the_limit() -> None:
    """Entries count; a single message is taken however large, or it would never arrive."""
    size_bytes = message(1000).frames[0].size_bytes
    inbox = Inbox(100, 2 * size_bytes)
    assert [inbox.put_message(message(1000)) for _ in range(3)] == [True, True, False]
    assert inbox.put_message(message()), "a heartbeat has no entries"
    inbox.take_messages()
    assert inbox.put_message(message(5000))


async def test_one_wake_for_all_that_came() -> None:
    """What comes while nobody waits is not forgotten; one wait covers it."""
    inbox = Inbox(10, 100)
    inbox.wake()
    inbox.wake()
    with trio.fail_after(1):
        await inbox.wait()
    with trio.move_on_after(1) as scope:
        await inbox.wait()
    assert scope.cancelled_caught
