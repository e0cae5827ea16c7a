"""Links over sockets: the shortcuts to the socket keep what the streams promise."""

import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.first_bytes import PEER_PREFACE
from trio_eventlog.codec.peer_frame import Frame, FrameDecoder, FrameKind, Hello, encode_frame, encode_hello
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.net.links import LinkSettings, Priority
from trio_eventlog.net.mux import ConnectionInfo, Mux, MuxSettings
from trio_eventlog.net.peeked_stream import PeekedStream
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.net.socket_io import SocketIo, drop_front, socket_io
from trio_eventlog.net.transport import LinkEvent, PeerConnected, PeerReset, Transport
from trio_eventlog.testing.defaults import default

ONE, TWO = NodeId(1), NodeId(2)


async def no_handler(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
    raise AssertionError


class Node:
    """A transport behind a mux on a free port of loopback."""

    def __init__(self, node_id: NodeId, settings: LinkSettings | None = None) -> None:
        self.node_id = node_id
        self.received: list[tuple[int, bytes]] = []
        self.events: list[LinkEvent] = []
        self.happened = trio.lowlevel.ParkingLot()
        self.transport = Transport(
            identity=lambda: Hello(node_id=node_id, cluster_name="test"),
            network=RealNetwork(),
            settings=settings or default(LinkSettings),
            rng=random.Random(node_id),
            receive=self.receive,
            on_event=self.on_event,
        )
        self.scope = trio.CancelScope()

    def receive(self, node_id: NodeId, kind: int, group_id: GroupId, body: memoryview) -> None:
        self.received.append((group_id, bytes(body)))
        self.happened.unpark_all()

    def on_event(self, event: LinkEvent) -> None:
        self.events.append(event)
        self.happened.unpark_all()

    async def wait_received(self, count: int) -> None:
        with trio.fail_after(20):
            while len(self.received) < count:
                await self.happened.park()

    async def wait_event(self, kind: type[LinkEvent]) -> None:
        with trio.fail_after(20):
            while not any(isinstance(event, kind) for event in self.events):
                await self.happened.park()

    async def run(self, *, task_status: trio.TaskStatus[str]) -> None:
        with self.scope:
            bound = await RealNetwork().listen("127.0.0.1:0")
            mux = Mux(default(MuxSettings), grpc=no_handler, http=no_handler, peer=self.transport.handle_inbound)
            async with trio.open_nursery() as nursery:
                await nursery.start(mux.serve, bound.listener)
                await nursery.start(self.transport.run)
                task_status.started(bound.address)


async def test_frames_of_all_sizes_arrive_in_order(nursery: trio.Nursery) -> None:
    """Small ones written at once, large ones by the writer, refused ones sent again: each lane stays in order, nothing changes."""
    (one, two) = (Node(ONE, default(LinkSettings, link_queue_bytes_max=1 << 20)), Node(TWO))
    await nursery.start(one.run)
    one.transport.set_peer(TWO, await nursery.start(two.run))
    await one.wait_event(PeerConnected)
    rng = random.Random(5)
    sent: list[tuple[int, bytes]] = []
    for number in range(1500):
        size = rng.choice((0, 10, 300, 16_360, 16_361, 40_000, 70_000, 200_000))
        body = b"%8d" % number + rng.randbytes(4) * (size // 4)
        lane = rng.choice((Priority.URGENT, Priority.BULK))
        frame = encode_frame(FrameKind.APPEND, lane, body[:8], [body[8 : size // 2], body[size // 2 :]] if size else ())
        expected = b"".join(bytes(part) for part in frame)[24:]
        while not one.transport.send(TWO, frame, lane, more=rng.random() < 0.3):
            await two.wait_received(len(two.received) + 1)
        sent.append((lane, expected))
        if rng.random() < 0.1:
            await two.wait_received(len(two.received) + 1 if len(two.received) < len(sent) else 0)
    await two.wait_received(len(sent))
    for lane in (Priority.URGENT, Priority.BULK):
        assert [body for group, body in two.received if group == lane] == [body for group, body in sent if group == lane]
    statistics = one.transport.statistics()[TWO]
    assert statistics.queued_bytes == 0
    nursery.cancel_scope.cancel()


async def test_a_reader_that_pauses_gets_every_frame_that_was_taken(nursery: trio.Nursery) -> None:
    """The socket takes half a frame, then nothing: the rest goes first when it takes more."""
    one = Node(ONE, default(LinkSettings, link_queue_bytes_max=500_000, ping_interval_seconds=60))
    await nursery.start(one.run)
    bound = await RealNetwork().listen("127.0.0.1:0")
    one.transport.set_peer(TWO, bound.address)
    async with bound.listener:
        peer = await bound.listener.accept()
    await peer.receive_some()
    await peer.send_all(encode_frame(FrameKind.HELLO_REPLY, 0, encode_hello(Hello(node_id=TWO, cluster_name="test")))[0])
    await one.wait_event(PeerConnected)
    taken = 0
    lane = Priority.BULK
    while one.transport.send(TWO, encode_frame(FrameKind.RAFT, taken, b"%d" % taken * 5000), lane):
        taken += 1
        if taken % 7 == 0:
            await trio.lowlevel.checkpoint()
    assert one.transport.statistics()[TWO].queued_bytes > 400_000
    decoder = FrameDecoder(1 << 20)
    frames: list[Frame] = []
    with trio.fail_after(20):
        while len(frames) < taken:
            frames += decoder.feed(bytes(await peer.receive_some()))
    assert [(frame.group_id, bytes(frame.body)) for frame in frames] == [(n, b"%d" % n * 5000) for n in range(taken)]
    await peer.aclose()
    await one.wait_event(PeerReset)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("abruptly", [False, True])
async def test_the_end_of_a_peer_is_told_at_once(nursery: trio.Nursery, abruptly: bool) -> None:
    one = Node(ONE)
    address = await nursery.start(one.run)
    (host, port) = address.split(":")
    peer = await trio.open_tcp_stream(host, int(port))
    hello = encode_frame(FrameKind.HELLO, 0, encode_hello(Hello(node_id=TWO, cluster_name="test")))[0]
    await peer.send_all(PEER_PREFACE + bytes(hello))
    await peer.receive_some()
    if abruptly:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    began = trio.current_time()
    await peer.aclose()
    await one.wait_event(PeerReset)
    assert trio.current_time() - began < 1
    nursery.cancel_scope.cancel()


async def test_two_nodes_link_both_ways_and_notice_the_end(nursery: trio.Nursery) -> None:
    (one, two) = (Node(ONE), Node(TWO))
    addresses = (await nursery.start(one.run), await nursery.start(two.run))
    one.transport.set_peer(TWO, addresses[1])
    two.transport.set_peer(ONE, addresses[0])
    for node in (one, two):
        await node.wait_event(PeerConnected)
    assert one.transport.send(TWO, encode_frame(FrameKind.RAFT, 1, b"there"), Priority.URGENT)
    await two.wait_received(1)
    assert two.transport.send(ONE, encode_frame(FrameKind.RAFT, 1, b"and back"), Priority.URGENT)
    await one.wait_received(1)
    two.scope.cancel()
    await one.wait_event(PeerReset)
    assert not one.transport.send(TWO, encode_frame(FrameKind.RAFT, 1), Priority.URGENT)
    nursery.cancel_scope.cancel()


@asynccontextmanager
async def socket_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    (one, other) = map(trio.SocketStream, trio.socket.socketpair())
    async with one, other:
        yield one, other


async def test_a_broken_socket_says_so() -> None:
    async with socket_pair() as (one, other):
        io = SocketIo(one)
        await other.aclose()
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            while True:
                io.write_nowait([b"x"])
        assert io.read_nowait([memoryview(bytearray(10))]) == 0


async def test_more_buffers_than_one_call_takes() -> None:
    async with socket_pair() as (one, other):
        await SocketIo(one).write_all([b"%4d" % number for number in range(2000)])
        await one.aclose()
        got = b"".join([bytes(chunk) async for chunk in other])
        assert got == b"".join(b"%4d" % number for number in range(2000))


async def test_which_streams_have_a_socket() -> None:
    async with socket_pair() as (one, other):
        assert socket_io(one) is not None
        assert socket_io(PeekedStream(one)) is not None
        await other.send_all(b"abc")
        peeked = PeekedStream(one)
        await peeked.peek_more()
        assert socket_io(peeked) is None, "what was peeked at would be lost"
        assert socket_io(trio.testing.memory_stream_pair()[0]) is None


@given(st.lists(st.binary(max_size=5), max_size=8), st.data())
def test_dropping_the_front(buffers: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(buffers)
    count = data.draw(st.integers(0, len(whole)))
    assert b"".join(drop_front(buffers, count)) == whole[count:]
