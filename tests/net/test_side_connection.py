"""Frames on side connections, over real sockets and in memory."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trio_eventlog.codec.peer_frame import FrameKind, encode_frame
from trio_eventlog.errors import CodecError
from trio_eventlog.net.side_connection import SideConnection

LIMIT = 1 << 20


@asynccontextmanager
async def pair(in_memory: bool) -> AsyncIterator[tuple[SideConnection, SideConnection]]:
    streams: tuple[trio.abc.Stream, trio.abc.Stream]
    if in_memory:
        streams = trio.testing.memory_stream_pair()
    else:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            dialler = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
            streams = (dialler, await listener.accept())
    one, other = (SideConnection(stream, LIMIT) for stream in streams)
    try:
        yield one, other
    finally:
        await one.aclose()
        await other.aclose()


both = pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "socket"])


@both
async def test_frames_of_any_size_arrive_whole_both_ways(in_memory: bool) -> None:
    rng = random.Random(1)
    tails = [rng.randbytes(size) for size in (0, 1, 5_000, 16_360, 16_384, 300_000, LIMIT - 4)]
    async with pair(in_memory) as (one, other), trio.open_nursery() as nursery:
        for sender, receiver in ((one, other), (other, one)):

            async def send_all(sender: SideConnection = sender) -> None:
                for tail in tails:
                    await sender.send(encode_frame(FrameKind.PIECE, 7, b"head", [tail]))

            async def receive_all(receiver: SideConnection = receiver) -> None:
                for tail in tails:
                    frame = await receiver.receive()
                    assert frame is not None
                    assert (frame.kind, frame.group_id, bytes(frame.body)) == (FrameKind.PIECE, 7, b"head" + tail)

            nursery.start_soon(send_all)
            nursery.start_soon(receive_all)


@both
async def test_the_end_is_no_frame(in_memory: bool) -> None:
    async with pair(in_memory) as (one, other):
        await one.aclose()
        assert await other.receive() is None


@both
async def test_a_frame_over_the_limit_is_refused(in_memory: bool) -> None:
    async with pair(in_memory) as (one, other):
        await one.send([encode_frame(FrameKind.PIECE, 7, b"", [bytes(LIMIT + 1)])[0]])
        with pytest.raises(CodecError, match="the limit is"):
            await other.receive()
