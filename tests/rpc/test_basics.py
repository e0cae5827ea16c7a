"""Both sides of the engine together, in memory."""

import pytest
import trio

from tests.rpc.conftest import METHODS
from tests.rpc.echo import Blob
from trio_eventlog import errors
from trio_eventlog.rpc import Encoded, open_channel


async def test_unary(autojump_clock, echo):
    async with open_channel(echo.connect()) as channel:
        response = await channel.unary(METHODS["Unary"], Blob(payload=b"x" * 100, number=3))
    assert response == Blob(payload=b"x" * 100, number=3)


async def test_client_stream(autojump_clock, echo):
    async with open_channel(echo.connect()) as channel, channel.stream(METHODS["Collect"]) as call:
        for _ in range(100):
            await call.send(Blob(payload=b"y" * 100_000))
        await call.done_sending()
        assert (await call.receive()).number == 10_000_000
        assert await call.receive() is None


async def test_server_stream(autojump_clock, echo):
    async with (
        open_channel(echo.connect()) as channel,
        channel.stream(METHODS["Expand"], Blob(number=50, payload=b"z" * 300_000)) as call,
    ):
        numbers = [message.number async for message in call]
    assert numbers == list(range(50))


async def test_bidirectional(autojump_clock, echo):
    async with open_channel(echo.connect()) as channel, channel.stream(METHODS["Chat"]) as call:
        for number in range(5):
            await call.send(Blob(number=number))
            assert (await call.receive()).number == number
        await call.done_sending()
        assert await call.receive() is None


async def test_raw_both_ways(autojump_clock, echo):
    """Bytes in, bytes out: nothing is parsed on the way."""

    async def unary(request, context):
        assert type(request) is bytes
        return Encoded(request[:10], memoryview(request)[10:])

    echo.handlers["Unary"] = unary
    echo.raw = ("Unary",)
    request = Blob(payload=bytes(range(256)) * 2000).SerializeToString()
    async with open_channel(echo.connect()) as channel:
        assert await channel.unary(METHODS["Unary"], Encoded(request), raw=True) == request


async def test_many_calls_at_once(autojump_clock, echo):
    async def unary(request, context):
        await trio.sleep(1 / (1 + request.number))
        return request

    echo.handlers["Unary"] = unary
    answers = []

    async def one(number):
        answers.append((await channel.unary(METHODS["Unary"], Blob(number=number))).number)

    async with open_channel(echo.connect()) as channel:
        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(one, number)
        assert channel.calls_open == 0
    assert sorted(answers) == list(range(500))


async def test_errors_keep_class_and_attributes(autojump_clock, echo):
    async def unary(request, context):
        raise errors.NotLeader("node 2 does not lead", leader_id=3, leader_address="10.0.0.3:8400")

    echo.handlers["Unary"] = unary
    async with open_channel(echo.connect()) as channel:
        with pytest.raises(errors.NotLeader, match="node 2 does not lead") as caught:
            await channel.unary(METHODS["Unary"], Blob())
    assert (caught.value.leader_id, caught.value.leader_address) == (3, "10.0.0.3:8400")


async def test_an_error_from_a_handlers_nursery_is_its_error(autojump_clock, echo):
    async def unary(request, context):
        async with trio.open_nursery():
            raise errors.TopicNotFound("no topic 'a'")

    echo.handlers["Unary"] = unary
    async with open_channel(echo.connect()) as channel:
        with pytest.raises(errors.TopicNotFound):
            await channel.unary(METHODS["Unary"], Blob())


async def test_the_callers_errors_leave_the_channel_unwrapped(autojump_clock, echo):
    """The nursery inside of `open_channel` does not show."""
    with pytest.raises(KeyError):  # noqa: PT012
        async with open_channel(echo.connect()) as channel:
            await channel.unary(METHODS["Unary"], Blob())
            raise KeyError("mine")
