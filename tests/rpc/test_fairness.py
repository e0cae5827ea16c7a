"""Connections that make work for nothing: each within its own budget, and the others still have their turn."""

import attrs
import pytest
import trio
import trio.testing

from tests.rpc import raw
from tests.rpc.conftest import METHODS
from tests.rpc.echo import PATH, Blob
from tests.rpc.raw import END_HEADERS, HEADERS, PING, RST_STREAM, frame
from trio_eventlog.rpc import RpcSettings, open_channel
from trio_eventlog.rpc.useless_work import UselessWork
from trio_eventlog.testing.defaults import default

UNARY = METHODS["Unary"]
CANCEL = (8).to_bytes(4, "big")
ATTACKERS = 50


def resets(count: int) -> bytes:
    block = raw.block(raw.request_headers(PATH + "Chat"))
    return b"".join(
        frame(HEADERS, END_HEADERS, stream_id, block) + frame(RST_STREAM, 0, stream_id, CANCEL)
        for stream_id in range(1, 2 * count, 2)
    )


def pings(count: int) -> bytes:
    return frame(PING, 0, 0, bytes(8)) * count


@pytest.mark.parametrize("flood", [resets, pings])
async def test_a_flood_from_many_connections_leaves_turns_for_others(autojump_clock, echo, flood):
    """900 frames without use on each of 50 connections: while a polite client is answered, only a few of them are looked at."""
    echo.settings = attrs.evolve(echo.settings, control_bytes_max=1 << 30)
    channel_stream = echo.connect()
    peers = [await echo.raw_client() for _ in range(ATTACKERS)]
    await trio.testing.wait_all_tasks_blocked()
    data = flood(900)
    looked_at = []
    async with open_channel(channel_stream, default(RpcSettings)) as channel:
        await channel.unary(UNARY, Blob(number=1))
        served = echo.connections
        assert len(served) == ATTACKERS + 1
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(peer.stream.send_all, data)
            for _ in range(20):
                began = trio.current_time()
                await channel.unary(UNARY, Blob(number=1))
                looked_at.append(sum(connection.protocol.useless_frames for connection in served))
                assert trio.current_time() == began
        # All of it is looked at in the end: who only sends much is not lost.
        await trio.sleep(600)
        assert sum(connection.protocol.useless_frames for connection in served) >= ATTACKERS * 900
        assert all(connection.protocol.failure is None for connection in served)
    assert looked_at[-1] < 10_000, f"of {ATTACKERS * 900} useless frames, while 20 calls were answered: {looked_at}"


async def test_a_call_reset_in_the_bytes_that_begin_it_starts_nothing(autojump_clock, echo):
    """No task is made only to be cancelled, and its place is free again. Where a turn ends between the two frames, one is."""
    begun = []

    async def chat(requests, context, send):
        begun.append(1)

    echo.handlers["Chat"] = chat
    peer = await echo.raw_client()
    await peer.send(resets(300))
    await peer.request(1001, PATH + "Unary", b"")
    assert (await peer.status(1001))["grpc-status"] == "0"
    assert len(begun) <= 2 * 300 // echo.settings.frames_per_pass
    assert not echo.connections[0].calls


def test_who_stays_within_an_equal_part_never_waits() -> None:
    """At the limit nobody waits; over it only those above their part, to the end of the period."""
    work = UselessWork(default(RpcSettings, useless_frames_per_second_max=100, frames_per_pass=128))
    assert work.add("loud", 100, 10.0) == 0
    assert work.frames_per_pass(10.0) == 128
    assert work.add("quiet", 1, 10.25) == 0
    assert work.frames_per_pass(10.25) == 8
    assert work.add("loud", 1, 10.5) == pytest.approx(0.5)
    assert work.add("quiet", 1, 10.75) == 0
    assert work.add("loud", 1, 11.0) == 0
    assert work.frames_per_pass(11.0) == 128
    assert work.pauses == 1


async def test_statistics_never_go_back(autojump_clock, echo):
    """A connection that is closing is counted once, also while it says goodbye."""
    totals = []

    def look():
        statistics = echo.server.statistics()
        totals.append((statistics.received_bytes_total, statistics.sent_bytes_total))

    class Slow(trio.abc.HalfCloseableStream):
        """Looks at the server while it is closed."""

        def __init__(self, stream):
            self.stream = stream

        async def receive_some(self, max_bytes=None):
            return await self.stream.receive_some(max_bytes)

        async def send_all(self, data):
            await self.stream.send_all(data)

        async def wait_send_all_might_not_block(self):
            await self.stream.wait_send_all_might_not_block()

        async def send_eof(self):
            await self.stream.send_eof()

        async def aclose(self):
            look()
            await trio.sleep(0.1)
            look()
            await self.stream.aclose()

    def make_pair():
        ours, theirs = trio.testing.memory_stream_pair()
        return ours, Slow(theirs)

    async with open_channel(echo.connect(make_pair), default(RpcSettings)) as channel:
        await channel.unary(UNARY, Blob(number=1))
        look()
    await trio.sleep(1)
    look()
    assert totals == sorted(totals)
    assert len(totals) == 4
    assert totals[1] == totals[-1]
