"""Both sides of the engine together, in memory."""

import pytest
import trio
import trio.testing
from authority import contexts_for

from tests.rpc.conftest import METHODS, echo_chat, echo_unary
from tests.rpc.echo import ECHO, Blob
from trio_eventlog import errors
from trio_eventlog.rpc import Encoded, RpcSettings, Server, Service, open_channel
from trio_eventlog.testing.defaults import default


async def test_unary(autojump_clock, echo):
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        response = await channel.unary(METHODS["Unary"], Blob(payload=b"x" * 100, number=3))
    assert response == Blob(payload=b"x" * 100, number=3)


async def test_client_stream(autojump_clock, echo):
    async with open_channel(echo.connect(), default(RpcSettings)) as channel, channel.stream(METHODS["Collect"]) as call:
        for _ in range(100):
            await call.send(Blob(payload=b"y" * 100_000))
        await call.done_sending()
        assert (await call.receive()).number == 10_000_000
        assert await call.receive() is None


async def test_server_stream(autojump_clock, echo):
    async with (
        open_channel(echo.connect(), default(RpcSettings)) as channel,
        channel.stream(METHODS["Expand"], Blob(number=50, payload=b"z" * 300_000)) as call,
    ):
        numbers = [message.number async for message in call]
    assert numbers == list(range(50))


async def test_bidirectional(autojump_clock, echo):
    async with open_channel(echo.connect(), default(RpcSettings)) as channel, channel.stream(METHODS["Chat"]) as call:
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
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        assert await channel.unary(METHODS["Unary"], Encoded(request), raw=True) == request


async def test_many_calls_at_once(autojump_clock, echo):
    async def unary(request, context):
        await trio.sleep(1 / (1 + request.number))
        return request

    echo.handlers["Unary"] = unary
    answers = []

    async def one(number):
        answers.append((await channel.unary(METHODS["Unary"], Blob(number=number))).number)

    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(one, number)
        assert channel.calls_open == 0
    assert sorted(answers) == list(range(500))


async def test_errors_keep_class_and_attributes(autojump_clock, echo):
    async def unary(request, context):
        raise errors.NotLeader("node 2 does not lead", leader_id=3, leader_address="10.0.0.3:8400")

    echo.handlers["Unary"] = unary
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        with pytest.raises(errors.NotLeader, match="node 2 does not lead") as caught:
            await channel.unary(METHODS["Unary"], Blob())
    assert (caught.value.leader_id, caught.value.leader_address) == (3, "10.0.0.3:8400")


async def test_an_error_from_a_handlers_nursery_is_its_error(autojump_clock, echo):
    async def unary(request, context):
        async with trio.open_nursery():
            raise errors.TopicNotFound("no topic 'a'")

    echo.handlers["Unary"] = unary
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        with pytest.raises(errors.TopicNotFound):
            await channel.unary(METHODS["Unary"], Blob())


async def test_the_callers_errors_leave_the_channel_unwrapped(autojump_clock, echo):
    """The nursery inside of `open_channel` does not show."""
    with pytest.raises(KeyError):  # noqa: PT012
        async with open_channel(echo.connect(), default(RpcSettings)) as channel:
            await channel.unary(METHODS["Unary"], Blob())
            raise KeyError("mine")


async def test_over_tls(autojump_clock, echo):
    """The server's side over TLS, and a client that goes away without TLS's goodbye."""
    server_context, client_context = contexts_for("node.test")
    ours, theirs = trio.testing.memory_stream_pair()
    ended = trio.Event()

    @echo.nursery.start_soon
    async def serve():
        await echo.server.serve(trio.SSLStream(theirs, server_context, server_side=True))
        ended.set()

    async with open_channel(
        trio.SSLStream(ours, client_context, server_hostname="node.test"), default(RpcSettings), is_secure=True
    ) as channel:
        for number in range(3):
            assert (await channel.unary(METHODS["Unary"], Blob(number=number, payload=bytes(200_000)))).number == number
        await ours.aclose()
        with pytest.raises(errors.Unavailable):
            await channel.unary(METHODS["Unary"], Blob())
    await ended.wait()


async def test_closing_does_not_wait_for_a_goodbye_for_ever(autojump_clock, echo):
    """TLS wants an answer when it closes; a peer that gives none holds nobody up."""
    ours, theirs = trio.testing.memory_stream_pair()
    closing = trio.Event()

    async def never():
        closing.set()
        await trio.sleep_forever()

    polite_close = theirs.aclose
    theirs.aclose = never
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo.server.serve, theirs)
            await trio.testing.wait_all_tasks_blocked()
            before = trio.current_time()
            await ours.aclose()
        assert closing.is_set()
        assert trio.current_time() == before + echo.settings.goodbye_seconds
    finally:
        theirs.aclose = polite_close


class Below(trio.abc.Stream):
    """A stream that looks at what comes and passes on what goes, as the listener's does."""

    def __init__(self, stream):
        self.sends_to = stream
        self.sent = 0

    async def receive_some(self, max_bytes=None):
        return await self.sends_to.receive_some(max_bytes)

    async def send_all(self, data):
        self.sent += 1
        await self.sends_to.send_all(data)

    async def wait_send_all_might_not_block(self):
        await self.sends_to.wait_send_all_might_not_block()

    async def aclose(self):
        await self.sends_to.aclose()


@pytest.mark.parametrize("size", [10, 100_000, 3_000_000])
async def test_output_goes_straight_to_the_socket_below(size):
    """Large output unjoined, and the last words of an only call without a turn of the loop."""
    ours, theirs = trio.socket.socketpair()
    below = Below(trio.SocketStream(theirs))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server([Service(ECHO, {"Unary": echo_unary, "Chat": echo_chat})], default(RpcSettings)).serve, below)
        async with open_channel(trio.SocketStream(ours), default(RpcSettings)) as channel:
            for number in range(5):
                blob = Blob(number=number, payload=bytes(range(256)) * (size // 256 + 1))
                assert await channel.unary(METHODS["Unary"], blob) == blob
                async with channel.stream(METHODS["Chat"]) as call:
                    for _ in range(5):
                        await call.send(blob)
                        assert await call.receive() == blob
    assert below.sent == 0
