"""Whoever waits on a channel is woken by every way in which it can end: a table of waiters by a table of ends."""

import math

import pytest
import trio
import trio.testing

from tests.rpc.conftest import METHODS
from tests.rpc.raw import ACK, GOAWAY, SETTINGS, RawPeer, frame, settings
from trio_eventlog.errors import CallUnsent, Unavailable
from trio_eventlog.rpc import RpcSettings, open_channel
from trio_eventlog.testing.defaults import default

VIRTUAL_TIME = True

UNARY, CHAT = METHODS["Unary"], METHODS["Chat"]
BIG = UNARY.request_type(payload=b"x" * 200_000)
SMALL = UNARY.request_type(payload=b"x")


async def call_that_waits_for_a_slot(channel):
    await channel.unary(UNARY, SMALL)


async def stream_that_waits_for_a_slot(channel):
    async with channel.stream(CHAT) as call:
        await call.receive()


async def call_that_waits_for_its_answer(channel):
    await channel.unary(UNARY, SMALL)


async def call_that_waits_for_window(channel):
    await channel.unary(UNARY, BIG)


async def stream_that_waits_for_window(channel):
    async with channel.stream(CHAT) as call:
        await call.send(CHAT.request_type(payload=b"x" * 200_000))


async def stream_that_waits_for_a_message(channel):
    async with channel.stream(CHAT) as call:
        await call.send(CHAT.request_type())
        await call.receive()


async def stream_that_waits_for_the_head(channel):
    async with channel.stream(CHAT) as call:
        await call.initial_metadata()
        await call.receive()


async def watcher(channel):
    await channel.wait_unusable()
    raise CallUnsent("as it should be")


HAVE_SLOTS = (
    call_that_waits_for_its_answer,
    call_that_waits_for_window,
    stream_that_waits_for_window,
    stream_that_waits_for_a_message,
    stream_that_waits_for_the_head,
)
HAVE_NONE = (call_that_waits_for_a_slot, stream_that_waits_for_a_slot)


async def go_away(peer, leave):
    """A server that looks at none of the calls that are open."""
    await peer.send(frame(GOAWAY, payload=bytes(8)))


async def end_of_stream(peer, leave):
    await peer.stream.send_eof()


async def close(peer, leave):
    await trio.aclose_forcefully(peer.stream)


async def silence(peer, leave):
    """The machine at the other side has lost its power: no PING is answered."""


async def broken_rules(peer, leave):
    await peer.send(frame(SETTINGS, ACK, 1, b"xxx"))


async def leave_block(peer, leave):
    """The channel's owner closes it."""
    leave.set()


ENDS = (go_away, end_of_stream, close, silence, broken_rules, leave_block)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize(
    "waiters", [(*HAVE_SLOTS,), (*HAVE_SLOTS, *HAVE_NONE * 5)], ids=["without", "with callers beyond the limit"]
)
async def test_everybody_is_woken(end, waiters):
    """Every waiter of every kind ends with an error, within the time in which silence is noticed; nobody stays behind."""
    ours, theirs = trio.testing.memory_stream_pair()
    peer = RawPeer(theirs)
    errors = {}
    leave = trio.Event()
    is_open = trio.Event()

    async def serve():
        # The windows stay as small as they are at first, and nothing is ever answered.
        await peer.send(settings(max_concurrent_streams=len(HAVE_SLOTS)))
        try:
            await peer.wait_end()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def wait(number, waiter, channel):
        with pytest.raises((Unavailable, trio.BrokenResourceError)) as caught:
            await waiter(channel)
        errors[number] = caught.value

    async def own(nursery):
        rpc = default(RpcSettings, keepalive_seconds=5.0, keepalive_timeout_seconds=5.0, goodbye_seconds=0.1)
        async with open_channel(ours, rpc) as channel:
            await trio.testing.wait_all_tasks_blocked()
            for number, waiter in enumerate((*waiters, watcher)):
                nursery.start_soon(wait, number, waiter, channel)
                await trio.testing.wait_all_tasks_blocked()
            assert channel.calls_open == len(HAVE_SLOTS)
            is_open.set()
            await leave.wait()

    with trio.fail_after(60.0):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            async with trio.open_nursery() as waiting:
                nursery.start_soon(own, waiting)
                await is_open.wait()
                await end(peer, leave)
            leave.set()
            await trio.sleep(1.0)
            nursery.cancel_scope.cancel()
    assert sorted(errors) == list(range(len(waiters) + 1))
    for number, waiter in enumerate(waiters):
        if waiter in HAVE_NONE:
            assert isinstance(errors[number], CallUnsent), "it was never sent, and says so"


@pytest.mark.parametrize("waiter", HAVE_NONE, ids=lambda waiter: waiter.__name__)
async def test_a_waiter_that_is_cancelled_leaves_its_turn_to_the_next(waiter, echo):
    """One call at a time: the first of two that wait is cancelled, then the slot becomes free, and the second one has it."""
    gate = trio.Event()

    async def unary(request, context):
        await gate.wait()
        return request

    echo.handlers["Unary"] = unary
    echo.settings = default(RpcSettings, streams_per_connection_max=1, keepalive_seconds=math.inf)

    async def call(channel):
        await channel.unary(UNARY, SMALL)

    with trio.fail_after(10.0):
        async with open_channel(echo.connect(), default(RpcSettings)) as channel, trio.open_nursery() as nursery:
            nursery.start_soon(call, channel)
            await trio.testing.wait_all_tasks_blocked()
            scope = trio.CancelScope()

            async def wait():
                with scope:
                    await waiter(channel)

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(call, channel)
            await trio.testing.wait_all_tasks_blocked()
            assert channel.calls_open == 1
            scope.cancel()
            gate.set()
