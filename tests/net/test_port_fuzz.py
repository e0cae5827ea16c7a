"""Anything at all thrown at the port: the node serves the next connection, and holds nothing of the last."""

import random
from collections.abc import Sequence

import h11
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.first_bytes import HTTP2_PREFACE, PEER_PREFACE
from trio_eventlog.codec.peer_frame import FrameKind, Hello, encode_frame, encode_hello
from trio_eventlog.http.exchange import Receive, Send
from trio_eventlog.http.heads import Scope
from trio_eventlog.http.server import HttpServer
from trio_eventlog.http.settings import HttpSettings
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.net.links import LinkSettings
from trio_eventlog.net.mux import ConnectionInfo, Mux, MuxSettings
from trio_eventlog.net.network import Network
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.net.transport import Transport
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.network import SimNetwork


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def http(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
    server = HttpServer(application, default(HttpSettings), rng=random.Random(1), now_ns=lambda: 0)
    await server.serve(stream, info)


async def grpc(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
    async for _ in stream:
        pass


def ignore(node_id: NodeId, kind: int, group_id: GroupId, body: memoryview) -> None:
    pass


def node_on(network: Network) -> tuple[Mux, Transport]:
    transport = Transport(
        identity=lambda: Hello(node_id=NodeId(1), cluster_name="test"),
        network=network,
        settings=default(LinkSettings),
        rng=random.Random(1),
        receive=ignore,
        on_event=lambda event: None,
    )
    return Mux(default(MuxSettings), grpc=grpc, http=http, peer=transport.handle_inbound), transport


async def health_of(stream: trio.abc.Stream) -> int:
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(method="GET", target="/health", headers=[("host", "x"), ("connection", "close")])
    await stream.send_all((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(bytes(await stream.receive_some()))
    assert isinstance(event, h11.Response)
    return event.status_code


hello = b"".join(map(bytes, encode_frame(FrameKind.HELLO, 0, encode_hello(Hello(node_id=NodeId(2), cluster_name="test")))))
starts = st.sampled_from(
    [b"", PEER_PREFACE, PEER_PREFACE + hello, b"GET / HTTP/1.1\r\nhost: x\r\n", HTTP2_PREFACE, b"\x16\x03", b"\x06"]
)
pieces = st.lists(st.binary(max_size=60), max_size=4)


@given(starts, pieces)
def test_the_node_outlives_anything(start: bytes, rest: Sequence[bytes]) -> None:
    async def story() -> None:
        network = SimNetwork(random.Random(1))
        (mux, transport) = node_on(network.host("node"))
        bound = await network.host("node").listen("node:1")
        async with trio.open_nursery() as nursery:
            await nursery.start(mux.serve, bound.listener)
            await nursery.start(transport.run)
            stream = await network.host("client").open_stream("node:1")
            try:
                for piece in (start, *rest):
                    await stream.send_all(piece)
                    await trio.sleep(0.01)
                await stream.aclose()
            except trio.BrokenResourceError:
                await stream.aclose()
            assert await health_of(await network.host("client").open_stream("node:1")) == 200
            await trio.sleep(1)
            statistics = mux.statistics()
            assert (statistics.open_now, statistics.unidentified_now, statistics.crashed) == (0, 0, 0)
            nursery.cancel_scope.cancel()

    trio.run(story, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_one_real_port_for_everything(nursery: trio.Nursery) -> None:
    (mux, transport) = node_on(RealNetwork())
    bound = await RealNetwork().listen("127.0.0.1:0")
    await nursery.start(mux.serve, bound.listener)
    await nursery.start(transport.run)
    async with await RealNetwork().open_stream(bound.address) as garbage:
        await garbage.send_all(b"\x01garbage")
        try:
            assert await garbage.receive_some() == b""
        except trio.BrokenResourceError:
            pass  # closing with bytes unread is a reset on TCP
    async with await RealNetwork().open_stream(bound.address) as stream:
        assert await health_of(stream) == 200
    other = Transport(
        identity=lambda: Hello(node_id=NodeId(2), cluster_name="test"),
        network=RealNetwork(),
        settings=default(LinkSettings),
        rng=random.Random(2),
        receive=ignore,
        on_event=lambda event: None,
    )
    assert (await other.probe(bound.address)).node_id == 1
    assert mux.statistics().closed == {"unknown bytes": 1}
    assert set(mux.statistics().identified) == {"http", "peer"}
    nursery.cancel_scope.cancel()
