"""What runs over a `SimNetwork` unchanged: TLS and gRPC, in fair weather as over real sockets, and in foul weather."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from authority import contexts_for

from tests.rpc.conftest import METHODS, echo_chat, echo_unary
from tests.rpc.echo import ECHO, Blob
from trio_eventlog.errors import EventLogError
from trio_eventlog.net.network import Network
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.rpc import RpcSettings, Server, Service, open_channel
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.network import SimNetwork
from trio_eventlog.testing.weather import Weather

kinds = pytest.mark.parametrize("kind", ["simulated", "real"])
PAYLOAD = bytes(range(256)) * 1000


def networks(kind: str) -> tuple[Network, Network, str]:
    """The client's, the server's, and an address for the server."""
    if kind == "real":
        return RealNetwork(), RealNetwork(), "127.0.0.1:0"
    network = SimNetwork(random.Random(1))
    return network.host("client"), network.host("server"), "server:0"


class Contexts:
    """TLS for a server called "server"."""

    def __init__(self) -> None:
        self.server, self.client = contexts_for("server")


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    return Contexts()


async def echo(stream: trio.abc.Stream) -> None:
    try:
        async for part in stream:
            await stream.send_all(part)
        await stream.aclose()
    except trio.BrokenResourceError:
        pass  # a damaged connection ends, and nothing else


@asynccontextmanager
async def tls_echo(server: Network, address: str, contexts: Contexts) -> AsyncIterator[str]:
    bound = await server.listen(address)
    listener = trio.SSLListener(bound.listener, contexts.server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        yield bound.address
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def tls_stream(client: Network, address: str, contexts: Contexts) -> AsyncIterator["trio.SSLStream[trio.abc.Stream]"]:
    async with trio.SSLStream(await client.open_stream(address), contexts.client, server_hostname="server") as stream:
        yield stream


@kinds
async def test_tls(kind: str, contexts: Contexts) -> None:
    """Handshake, bytes both ways, and a close that both sides have agreed on."""
    (client, server, address) = networks(kind)
    with trio.fail_after(20):
        async with tls_echo(server, address, contexts) as where, tls_stream(client, where, contexts) as stream:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, PAYLOAD)
                got = b""
                while len(got) < len(PAYLOAD):
                    got += await stream.receive_some()
            assert got == PAYLOAD
            (plain, rest) = await stream.unwrap()
            assert rest == b""
            await plain.aclose()


async def test_tls_notices_a_flipped_bit(contexts: Contexts, autojump_clock: trio.testing.MockClock) -> None:
    """Wherever it is, in the handshake or later: the connection breaks, wrong bytes never come out. The next one works."""
    outcomes: Counter[str] = Counter()
    for seed in range(60):
        network = SimNetwork(random.Random(seed))
        async with tls_echo(network.host("server"), "server:1", contexts) as where:
            network.flip("client", "server", within_bytes=2500)
            network.flip("server", "client", within_bytes=4500)
            with trio.fail_after(60):
                try:
                    async with tls_stream(network.host("client"), where, contexts) as stream:
                        for _ in range(4):
                            await stream.send_all(PAYLOAD[:1000])
                            got = b""
                            while len(got) < 1000:
                                part = await stream.receive_some()
                                if not part:
                                    raise trio.BrokenResourceError
                                got += part
                            assert got == PAYLOAD[:1000]
                            outcomes["right"] += 1
                except trio.BrokenResourceError:
                    outcomes["broken"] += 1
            network.calm()
            async with tls_stream(network.host("client"), where, contexts) as stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
    assert outcomes["broken"] >= 55, outcomes
    assert outcomes["right"] >= 5, outcomes


@asynccontextmanager
async def grpc_echo(network: Network, address: str) -> AsyncIterator[str]:
    server = Server([Service(ECHO, {"Unary": echo_unary, "Chat": echo_chat})], default(RpcSettings))
    bound = await network.listen(address)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, [bound.listener])
        yield bound.address
        nursery.cancel_scope.cancel()


@kinds
async def test_grpc(kind: str) -> None:
    """Calls and streams of more than fits into any window."""
    (client, server, address) = networks(kind)
    with trio.fail_after(20):
        async with (
            grpc_echo(server, address) as where,
            open_channel(await client.open_stream(where), default(RpcSettings)) as channel,
        ):
            request = Blob(payload=PAYLOAD, number=7)
            assert await channel.unary(METHODS["Unary"], request) == request
            async with channel.stream(METHODS["Chat"]) as call:
                for number in range(5):
                    await call.send(Blob(payload=PAYLOAD, number=number))
                    assert (await call.receive()).number == number


async def test_grpc_over_a_slow_link(autojump_clock: trio.testing.MockClock) -> None:
    """It takes as long as the bytes take, both ways."""
    network = SimNetwork(random.Random(1))
    network.weather = Weather(bytes_per_second=len(PAYLOAD), latency_seconds_min=0.05, latency_seconds_max=0.2)
    async with grpc_echo(network.host("server"), "server:1") as where:
        async with open_channel(await network.host("client").open_stream(where), default(RpcSettings)) as channel:
            began = trio.current_time()
            await channel.unary(METHODS["Unary"], Blob(payload=PAYLOAD))
            assert 2.0 < trio.current_time() - began < 8.0


async def test_grpc_survives_flipped_bits(autojump_clock: trio.testing.MockClock) -> None:
    """HTTP/2 has no checksum: a call may fail or be answered with other bytes, but it ends, and the server serves the next one."""
    outcomes: Counter[str] = Counter()
    for seed in range(150):
        network = SimNetwork(random.Random(seed))
        async with grpc_echo(network.host("server"), "server:1") as where:
            network.flip("client", "server", within_bytes=400)
            network.flip("server", "client", within_bytes=400)
            request = Blob(payload=b"x" * 100)
            with trio.fail_after(600):
                try:
                    async with open_channel(await network.host("client").open_stream(where), default(RpcSettings)) as channel:
                        with trio.move_on_after(60):
                            response = await channel.unary(METHODS["Unary"], request)
                            outcomes["right" if response == request else "wrong"] += 1
                except EventLogError as error:
                    outcomes[error.code] += 1
            network.calm()
            async with open_channel(await network.host("client").open_stream(where), default(RpcSettings)) as channel:
                assert await channel.unary(METHODS["Unary"], request) == request
    assert outcomes["wrong"] > 10, outcomes
    assert len(outcomes) > 3, outcomes
