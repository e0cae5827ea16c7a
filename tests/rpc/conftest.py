import math

import pytest
import trio
import trio.testing

from tests.rpc.echo import ECHO
from tests.rpc.raw import RawPeer
from trio_eventlog.rpc import RpcSettings, Server, Service, methods_of
from trio_eventlog.testing.defaults import default


class Echo:
    """A server in this run, with handlers that a test may replace, and ways to connect to it."""

    def __init__(self, nursery):
        self.nursery = nursery
        self.handlers = {"Unary": echo_unary, "Collect": echo_collect, "Expand": echo_expand, "Chat": echo_chat}
        self.settings = default(RpcSettings, keepalive_seconds=math.inf)
        self.raw = ()
        self._server = None

    @property
    def server(self):
        if self._server is None:
            self._server = Server([Service(ECHO, self.handlers, raw=self.raw)], self.settings)
        return self._server

    def connect(self, make_pair=trio.testing.memory_stream_pair):
        """The client's end of a new connection."""
        ours, theirs = make_pair()
        self.nursery.start_soon(self.server.serve, theirs)
        return ours

    async def raw_client(self, *frames, make_pair=trio.testing.memory_stream_pair):
        peer = RawPeer(self.connect(make_pair))
        await peer.connect(*frames)
        return peer

    @property
    def connections(self):
        return list(self.server._connections)


METHODS = methods_of(ECHO)


async def echo_unary(request, context):
    return request


async def echo_collect(requests, context):
    size = 0
    async for request in requests:
        size += len(request.payload)
    return METHODS["Collect"].response_type(number=size)


async def echo_expand(request, context, send):
    for number in range(request.number):
        await send(METHODS["Expand"].response_type(number=number, payload=request.payload))


async def echo_chat(requests, context, send):
    async for request in requests:
        await send(request)


async def fail_after_a_day():
    await trio.sleep(86_400)
    raise AssertionError("the test hangs: a virtual day has passed")


@pytest.fixture
async def echo():
    """With `autojump_clock` (which the test itself must ask for) a test that would hang fails at once instead."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_after_a_day)
        yield Echo(nursery)
        nursery.cancel_scope.cancel()
