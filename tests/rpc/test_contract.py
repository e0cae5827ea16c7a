"""One test (or a few) per row of the table of defects in docs/design/rpc.md: what the plain library does wrong, right here.

The names follow the rows. The cures lean on private names of purerpc and h2, so these tests also watch for their changes.
"""

import gc
import logging
import math
import warnings
import zlib

import attrs
import pytest
import trio
import trio.testing

from tests.rpc import raw
from tests.rpc.conftest import METHODS
from tests.rpc.echo import PATH, Blob
from tests.rpc.raw import ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame
from trio_eventlog import errors
from trio_eventlog.rpc import RpcSettings, open_channel
from trio_eventlog.rpc.status import RpcFailed
from trio_eventlog.testing.defaults import default

UNARY, COLLECT, EXPAND, CHAT = (METHODS[name] for name in ("Unary", "Collect", "Expand", "Chat"))
CANCEL = (8).to_bytes(4, "big")


class Watch:
    """A handler's life, seen from outside."""

    def __init__(self):
        self.started = trio.Event()
        self.cancelled = trio.Event()

    def __enter__(self):
        self.started.set()
        return self

    def __exit__(self, kind, error, traceback):
        if kind is not None and issubclass(kind, trio.Cancelled):
            self.cancelled.set()


async def assert_alive(peer, stream_id=101):
    """The connection still serves calls."""
    await peer.request(stream_id, PATH + "Unary", Blob(number=5).SerializeToString())
    assert (await peer.status(stream_id))["grpc-status"] == "0"


# Row 1: client cancel ignored; handlers blocked on receive or on the window never wake.


@pytest.mark.parametrize("where", ["sleeping", "receiving", "sending"])
async def test_client_cancel_reaches_the_handler(autojump_clock, echo, where):
    watch = Watch()

    async def chat(requests, context, send):
        with watch:
            if where == "sleeping":
                await trio.sleep_forever()
            elif where == "receiving":
                async for _ in requests:
                    pass
            else:
                while True:
                    await send(Blob(payload=bytes(10_000)))

    echo.handlers["Chat"] = chat
    peer = await echo.raw_client()
    await peer.request(1, PATH + "Chat", Blob().SerializeToString(), ends=False)
    await watch.started.wait()
    await trio.testing.wait_all_tasks_blocked()
    await peer.send(frame(RST_STREAM, 0, 1, CANCEL))
    await watch.cancelled.wait()
    await peer.send(frame(WINDOW_UPDATE, 0, 0, (100_000).to_bytes(4, "big")))
    await assert_alive(peer)
    assert echo.connections[0].protocol.entries == {}


# Row 2: TCP drop: streaming handlers and the connection task live on for ever; a purerpc client hangs for ever.


@pytest.mark.parametrize("how", ["closed", "broken"])
async def test_lost_connection_ends_the_handlers_and_the_connection(autojump_clock, echo, how):
    watches = [Watch(), Watch()]

    async def chat(requests, context, send):
        with watches[0]:
            await trio.sleep_forever()

    async def expand(request, context, send):
        with watches[1]:
            while True:
                await send(Blob(payload=bytes(10_000)))

    echo.handlers.update(Chat=chat, Expand=expand)
    ended = trio.Event()
    ours, theirs = trio.testing.lockstep_stream_pair()

    async def serve():
        await echo.server.serve(theirs)
        ended.set()

    echo.nursery.start_soon(serve)
    peer = raw.RawPeer(ours)
    await peer.connect()
    await peer.request(1, PATH + "Chat", ends=False)
    await peer.request(3, PATH + "Expand", b"")
    for watch in watches:
        await watch.started.wait()
    if how == "broken":

        async def broken(*args):
            raise trio.BrokenResourceError("reset by peer")

        theirs.receive_stream.receive_some = broken
        theirs.send_stream.send_all = broken
    await ours.aclose()
    for watch in watches:
        await watch.cancelled.wait()
    await ended.wait()


async def test_lost_connection_ends_every_call_of_a_client_at_once(autojump_clock, echo):
    ours, theirs = trio.testing.memory_stream_pair()
    failures = []

    async def unary():
        with pytest.raises(errors.Unavailable) as caught:
            await channel.unary(UNARY, Blob())
        failures.append(caught.value)

    async def receiving():
        async with channel.stream(EXPAND) as call:
            with pytest.raises(errors.Unavailable) as caught:
                await call.receive()
            failures.append(caught.value)

    async def sending():
        async with channel.stream(COLLECT) as call:
            with pytest.raises(errors.Unavailable) as caught:  # noqa: PT012
                while True:
                    await call.send(Blob(payload=bytes(100_000)))
            failures.append(caught.value)

    async def head():
        async with channel.stream(CHAT) as call:
            assert await call.initial_metadata() == ()
            failures.append(None)

    async with open_channel(ours, default(RpcSettings)) as channel:
        async with trio.open_nursery() as nursery:
            for task in (unary, receiving, sending, head):
                nursery.start_soon(task)
            await trio.testing.wait_all_tasks_blocked()
            assert channel.calls_open == 4
            before = trio.current_time()
            await theirs.aclose()
        assert len(failures) == 4
        assert trio.current_time() == before
        assert not channel.is_usable
        await channel.wait_unusable()
        with pytest.raises(errors.Unavailable):
            await channel.unary(UNARY, Blob())


# Row 3: grpc-timeout parsed, never enforced.


@pytest.mark.parametrize("timeout", ["5S", "5000m", "5000000u"])
async def test_the_server_enforces_the_deadline(autojump_clock, echo, timeout):
    watch = Watch()

    async def unary(request, context):
        assert context.deadline == pytest.approx(trio.current_time() + 5)
        assert trio.current_effective_deadline() == context.deadline
        with watch:
            await trio.sleep_forever()

    echo.handlers["Unary"] = unary
    peer = await echo.raw_client()
    before = trio.current_time()
    await peer.request(1, PATH + "Unary", b"", grpc_timeout=timeout)
    assert (await peer.status(1))["grpc-status"] == "4"
    assert trio.current_time() == pytest.approx(before + 5)
    await watch.cancelled.wait()


async def test_the_client_sends_its_effective_deadline(autojump_clock, echo):
    deadlines = []

    async def unary(request, context):
        deadlines.append(context.deadline)
        return request

    echo.handlers["Unary"] = unary
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        with trio.fail_after(30), trio.fail_after(7), trio.fail_after(20):
            await channel.unary(UNARY, Blob())
        before = trio.current_time()
        with trio.CancelScope():
            await channel.unary(UNARY, Blob())
    assert deadlines[0] == pytest.approx(before + 7, abs=0.002)
    # Outside of every timeout but the fixture's.
    assert deadlines[1] > before + 10_000


async def test_a_deadline_ends_in_the_callers_own_way(autojump_clock, echo):
    """Whether our clock or the server's strikes first: the caller's scope is what ends the call."""

    async def unary(request, context):
        await trio.sleep_forever()

    echo.handlers["Unary"] = unary
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        with pytest.raises(trio.TooSlowError), trio.fail_after(3):
            await channel.unary(UNARY, Blob())
    ours, theirs = trio.testing.memory_stream_pair()
    server = raw.RawPeer(theirs)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def answer_early():
            await server.send(raw.SETTINGS_FRAME)
            await trio.testing.wait_all_tasks_blocked()
            block = raw.block([(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"4")])
            await server.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))

        async with open_channel(ours, default(RpcSettings)) as channel:
            before = trio.current_time()
            with trio.move_on_after(3) as scope:
                await channel.unary(UNARY, Blob())
            assert scope.cancelled_caught
            assert trio.current_time() == before + 3


# Row 4: a cancelled client scope sends no RST; the stream leaks.


@pytest.mark.parametrize("method", ["Unary", "Chat"])
async def test_a_cancelled_client_scope_resets_the_stream(autojump_clock, echo, method):
    watch = Watch()

    async def handler(*args):
        with watch:
            await trio.sleep_forever()

    echo.handlers[method] = handler
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def call():
                    if method == "Unary":
                        await channel.unary(UNARY, Blob())
                    else:
                        async with channel.stream(CHAT) as call:
                            await call.receive()

                await watch.started.wait()
                scope.cancel()
        # No deadline has told the server: only the reset can.
        await watch.cancelled.wait()
        assert channel.calls_open == 0
        assert channel._protocol.entries == {}
        await trio.testing.wait_all_tasks_blocked()
        assert echo.connections[0].protocol.entries == {}
        assert (await channel.unary(METHODS["Chat" if method == "Unary" else "Unary"], Blob(number=1))).number == 1


async def test_a_message_cut_in_the_middle_resets_the_stream(autojump_clock, echo):
    """Half a message followed by another would be nonsense to the server."""
    seen = []

    async def collect(requests, context):
        try:
            while await requests.receive() is not None:
                seen.append("message")
                await trio.sleep_forever()
        finally:
            seen.append("end")

    echo.handlers["Collect"] = collect
    async with open_channel(echo.connect(), default(RpcSettings)) as channel, channel.stream(COLLECT) as call:
        await call.send(Blob())
        with trio.move_on_after(1) as scope:
            while True:
                await call.send(Blob(payload=bytes(3_000_000)))
        assert scope.cancelled_caught
        with pytest.raises(trio.BrokenResourceError):
            await call.send(Blob())
        await trio.testing.wait_all_tasks_blocked()
        assert seen == ["message", "end"]


# Row 5: bare `except:` swallows Cancelled and KeyboardInterrupt; exceptions become CANCELLED with their repr shown.


async def test_a_crash_in_a_handler_ends_that_call_only_and_shows_nothing(autojump_clock, echo, caplog):
    async def unary(request, context):
        raise ValueError("the password is 'swordfish'")

    echo.handlers["Unary"] = unary
    peer = await echo.raw_client()
    with caplog.at_level(logging.ERROR, "trio_eventlog.rpc.server"):
        await peer.request(1, PATH + "Unary", b"")
        trailers = await peer.status(1)
    assert trailers["grpc-status"] == "2"
    assert trailers["eventlog-error-code"] == "INTERNAL"
    assert "swordfish" not in str(peer.seen)
    assert "ValueError" not in str(peer.seen)
    assert "swordfish" in caplog.text
    await peer.request(3, PATH + "Chat", b"\x10\x05")
    assert (await peer.status(3))["grpc-status"] == "0"


async def test_a_handlers_task_that_fails_while_others_are_cancelled_ends_that_call_only(autojump_clock, echo, caplog):
    """The client's reset cancels the handler; one task of it is cancelled, the other meets the closed stream at that moment."""

    async def expand(request, context, send):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            while True:
                await send(Blob(payload=bytes(3_000_000)))

    echo.handlers["Expand"] = expand
    peer = await echo.raw_client()
    with caplog.at_level(logging.INFO, "trio_eventlog.rpc.server"):
        await peer.request(1, PATH + "Expand", Blob().SerializeToString())
        await trio.testing.wait_all_tasks_blocked()
        # In one piece: windows that wake the sender, and the reset.
        room = (1 << 20).to_bytes(4, "big")
        await peer.send(frame(WINDOW_UPDATE, 0, 0, room), frame(WINDOW_UPDATE, 0, 1, room), frame(RST_STREAM, 0, 1, CANCEL))
        await trio.testing.wait_all_tasks_blocked()
    assert "crashed" not in caplog.text
    await assert_alive(peer)


async def test_cancelled_and_base_exceptions_pass_through(autojump_clock, echo):
    class Stop(BaseException):
        pass

    async def unary(request, context):
        raise Stop

    echo.handlers["Unary"] = unary
    ours, theirs = trio.testing.memory_stream_pair()
    peer = raw.RawPeer(ours)
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo.server.serve, theirs)
            await peer.connect()
            await peer.request(1, PATH + "Unary", b"")
            await trio.sleep_forever()
    assert caught.value.split(Stop)[1] is None


# Row 6: one malformed request kills all streams of the connection.

MALFORMED = {
    "path without a method": {":path": "/tests.rpc.Echo"},
    "path with too much": {":path": "/tests.rpc.Echo/Unary/More"},
    "empty path": {":path": ""},
    "no path": {":path": None},
    "unknown service": {":path": "/nobody.Knows/Unary"},
    "unknown method": {":path": "/tests.rpc.Echo/Nope"},
    "GET": {":method": "GET"},
    "no te": {"te": None},
    "bad te": {"te": "gzip"},
    "no content-type": {"content-type": None},
    "content-type of a page": {"content-type": "text/html"},
    "content-type that only begins well": {"content-type": "application/grpcx"},
    "timeout without a unit": {"grpc-timeout": "15"},
    "timeout with too many digits": {"grpc-timeout": "123456789S"},
    "negative timeout": {"grpc-timeout": "-5S"},
    "timeout in Arabic digits": {"grpc-timeout": "\u0661S"},
    "binary metadata that is not base64": {"x-bin": "%%%"},
    "binary metadata of impossible length": {"x-bin": "A"},
    "unknown compression": {"grpc-encoding": "snappy"},
    "line break in a value": {"x": "a\r\nb: c"},
    "connection header": {"connection": "close"},
    "upper-case name": {"X-Upper": "1"},
    "space around a value": {"x": " padded "},
    "unknown pseudo-header": {":nonsense": "1"},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_request_is_refused_alone(autojump_clock, echo, changes):
    peer = await echo.raw_client()
    await peer.request(1, PATH + "Chat", ends=False)
    headers = {**dict(raw.request_headers(PATH + "Unary"))}
    for name, value in changes.items():
        headers.pop(name.encode(), None)
        if value is not None:
            headers[name.encode()] = value.encode()
    # Pseudo-headers go first, or every case would be that one mistake.
    ordered = sorted(headers.items(), key=lambda pair: not pair[0].startswith(b":"))
    await peer.send(frame(HEADERS, END_HEADERS, 3, raw.block(ordered)))
    await peer.send(frame(DATA, END_STREAM, 3, raw.message(b"")))
    ending = await peer.status(3)
    assert ending.get("reset") == 1 or ending["grpc-status"] in {"12", "13"}, ending
    # The other stream of the connection is alive.
    await peer.send(frame(DATA, END_STREAM, 1, raw.message(Blob(number=4).SerializeToString())))
    assert (await peer.status(1))["grpc-status"] == "0"


async def test_a_request_that_is_not_protobuf_is_refused_alone(autojump_clock, echo):
    peer = await echo.raw_client()
    await peer.request(1, PATH + "Unary", b"\xff\xff\xff")
    trailers = await peer.status(1)
    assert (trailers["grpc-status"], trailers["eventlog-error-code"]) == ("3", "INVALID_ARGUMENT")
    await assert_alive(peer)


async def test_a_request_that_ends_in_the_middle_is_refused_alone(autojump_clock, echo):
    peer = await echo.raw_client()
    await peer.request(1, PATH + "Unary", ends=False)
    await peer.send(frame(DATA, END_STREAM, 1, raw.message(b"0123456789")[:-3]))
    assert (await peer.status(1))["grpc-status"] == "13"
    await peer.request(3, PATH + "Unary", ends=True)
    assert (await peer.status(3))["grpc-status"] == "3"
    await assert_alive(peer)


# Row 7: a message over 32 MiB kills the connection.


@pytest.mark.parametrize("method", ["Unary", "Collect", "Chat"])
async def test_a_message_over_the_limit_is_refused_on_its_stream(autojump_clock, echo, method):
    limit = echo.settings.message_bytes_max
    peer = await echo.raw_client()
    await peer.request(1, PATH + method, ends=False)
    await peer.send(frame(DATA, 0, 1, raw.message(bytes(limit + 1))[:60_000]))
    trailers = await peer.status(1)
    assert trailers["grpc-status"] == "8"
    assert trailers["eventlog-error-code"] == "BATCH_TOO_LARGE"
    assert trailers["limit-bytes"] == str(limit)
    await assert_alive(peer)


async def test_a_message_at_the_limit_passes_and_one_over_it_does_not(autojump_clock, echo):
    echo.settings = attrs.evolve(echo.settings, message_bytes_max=100_000)
    at_limit = Blob(payload=bytes(100_000 - len(Blob(payload=bytes(99_990)).SerializeToString()) + 99_990))
    assert len(at_limit.SerializeToString()) == 100_000
    over = Blob(payload=at_limit.payload + b"1")
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        assert await channel.unary(UNARY, at_limit) == at_limit
        with pytest.raises(errors.BatchTooLarge) as caught:
            await channel.unary(UNARY, over)
        assert caught.value.limit_bytes == 100_000
        async with channel.stream(EXPAND, Blob(number=1, payload=at_limit.payload)) as call:
            # What a handler may not send is its own error, and the client's.
            with pytest.raises(errors.BatchTooLarge):
                await call.receive()
    async with open_channel(echo.connect(), attrs.evolve(echo.settings, message_bytes_max=99_999)) as channel:
        with pytest.raises(errors.BatchTooLarge):
            await channel.unary(UNARY, at_limit)


# Row 8: gzip kills the connection (deflate works).


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_compressed_requests(autojump_clock, echo, encoding):
    compressor = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    data = Blob(payload=b"long " * 10_000).SerializeToString()
    packed = compressor.compress(data) + compressor.flush()
    peer = await echo.raw_client()
    await peer.request(1, PATH + "Unary", ends=False, grpc_encoding=encoding)
    await peer.send(frame(DATA, END_STREAM, 1, raw.message(packed, flag=1)))
    assert b"".join(payload for kind, _, _, payload in peer.seen if kind == DATA) == b""
    assert (await peer.status(1))["grpc-status"] == "0"
    assert b"".join(payload for kind, _, _, payload in peer.seen if kind == DATA) == raw.message(data)


@pytest.mark.parametrize("case", ["bomb", "garbage", "truncated", "not announced"])
async def test_bad_compression_is_refused_alone(autojump_clock, echo, case):
    compressor = zlib.compressobj(wbits=31)
    packed = compressor.compress(bytes(50_000_000 if case == "bomb" else 1000)) + compressor.flush()
    if case == "garbage":
        packed = b"nothing of the kind"
    if case == "truncated":
        packed = packed[:-9]
    peer = await echo.raw_client()
    await peer.request(1, PATH + "Unary", ends=False, grpc_encoding="identity" if case == "not announced" else "gzip")
    await peer.send(frame(DATA, END_STREAM, 1, raw.message(packed, flag=1)))
    trailers = await peer.status(1)
    assert trailers["grpc-status"] == ("8" if case == "bomb" else "13")
    await assert_alive(peer)


# Row 9: deadlock: only complete and read messages are acknowledged to flow control.


async def test_uploads_larger_than_the_windows_do_not_deadlock(autojump_clock, echo):
    """Sixteen messages of 4 MB under way at once, on windows of 1 MiB each and 2 MiB together."""
    echo.settings = attrs.evolve(echo.settings, connection_window_bytes=2 * 1024 * 1024)
    sizes = []

    async def upload():
        async with channel.stream(COLLECT) as call:
            await call.send(Blob(payload=bytes(4_000_000)))
            await call.done_sending()
            sizes.append((await call.receive()).number)

    async with open_channel(echo.connect(), default(RpcSettings)) as channel, trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(upload)
    assert sizes == [4_000_000] * 16


async def test_what_is_held_beyond_the_windows_is_bounded(autojump_clock, echo):
    """Parts of large messages, and large messages that nobody reads: one too many is refused, and others complete."""
    echo.settings = attrs.evolve(echo.settings, overdraft_bytes_max=9_000_000)
    peer = await echo.raw_client()
    head = raw.message(Blob(payload=bytes(4_000_000)).SerializeToString())
    half = len(head) // 2
    for stream_id in (1, 3, 5, 7, 9):
        await peer.request(stream_id, PATH + "Collect", ends=False)
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(*(frame(DATA, 0, stream_id, head[start : min(start + 500_000, half)]) for start in range(0, half, 500_000)))
        await trio.testing.wait_all_tasks_blocked()
    refused = await peer.status(9)
    assert (refused["grpc-status"], refused["eventlog-error-code"], refused["retry-after-ms"]) == ("8", "OVERLOADED", "50")
    protocol = echo.connections[0].protocol
    assert 8_000_000 < protocol._streams.overdraft_bytes <= 9_000_000
    for stream_id in (5, 7):
        await peer.send(frame(RST_STREAM, 0, stream_id, CANCEL))
    for stream_id in (1, 3):
        await peer.send(*(frame(DATA, 0, stream_id, head[start : start + 500_000]) for start in range(half, len(head), 500_000)))
        await peer.send(frame(DATA, END_STREAM, stream_id))
        assert (await peer.status(stream_id))["grpc-status"] == "0"
    await trio.testing.wait_all_tasks_blocked()
    assert protocol._streams.overdraft_bytes == 0
    assert protocol.http2._inbound_flow_control_window_manager.current_window_size > 8_000_000


async def test_interleaved_partial_messages_do_not_deadlock(autojump_clock, echo):
    """Frames of 45 half-sent messages in turn: nobody can finish, yet everybody may go on."""

    async def collect(requests, context):
        async for request in requests:
            assert len(request) == size
        return Blob()

    echo.handlers["Collect"] = collect
    echo.raw = ("Collect",)
    peer = await echo.raw_client()
    streams = range(1, 91, 2)
    size = 400_000
    for stream_id in streams:
        await peer.request(stream_id, PATH + "Collect", ends=False)
        await peer.send(frame(DATA, 0, stream_id, raw.message(bytes(size))[:5]))
    for _ in range(size // 40_000):
        for stream_id in streams:
            await peer.send(frame(DATA, 0, stream_id, bytes(40_000)))
    # 18 MB are out, more than the connection's window: it must have been given back on the way.
    for stream_id in streams:
        await peer.send(frame(DATA, END_STREAM, stream_id))
    for stream_id in streams:
        assert (await peer.status(stream_id))["grpc-status"] == "0"


# Row 10: a slow reader holds 64 MiB per stream, 1 GiB per connection.


async def test_a_handler_that_does_not_read_stops_its_client_at_the_window(autojump_clock, echo):
    async def collect(requests, context):
        await requests.receive()
        await trio.sleep_forever()

    echo.handlers["Collect"] = collect
    sent = []

    async def upload(number):
        async with channel.stream(COLLECT) as call:
            while True:
                await call.send(Blob(payload=bytes(50_000)))
                sent.append(number)

    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload, 0)
            await trio.testing.wait_all_tasks_blocked()
            window = echo.settings.stream_window_bytes
            assert window // 50_000 - 2 <= len(sent) <= window // 50_000 + 2
            for number in range(1, 40):
                nursery.start_soon(upload, number)
            await trio.testing.wait_all_tasks_blocked()
            # Forty streams, and together they stop at the connection's 16 MiB.
            assert len(sent) * 50_000 <= echo.settings.connection_window_bytes + 40 * 50_000
            nursery.cancel_scope.cancel()
        # What they held is given back: the connection is as good as new.
        await trio.testing.wait_all_tasks_blocked()
        async with channel.stream(CHAT) as call:
            for _ in range(20):
                await call.send(Blob(payload=bytes(1_000_000)))
                assert await call.receive() is not None


async def test_a_client_that_does_not_read_stops_the_handler(autojump_clock, echo):
    sent = []

    async def expand(request, context, send):
        while True:
            await send(Blob(payload=bytes(50_000)))
            sent.append(1)

    echo.handlers["Expand"] = expand
    # The client's windows.
    async with open_channel(echo.connect(), default(RpcSettings)) as channel, channel.stream(EXPAND, Blob()) as call:
        await trio.testing.wait_all_tasks_blocked()
        assert len(sent) * 50_000 <= channel._settings.stream_window_bytes + 2 * 50_000
        assert await call.receive() is not None
    # A socket that takes nothing, whatever the windows say.
    sent.clear()
    peer = await echo.raw_client(raw.settings(initial_window_size=2**31 - 1), make_pair=trio.testing.lockstep_stream_pair)
    await peer.send(frame(WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big")))
    await peer.request(1, PATH + "Expand", b"")
    await trio.testing.wait_all_tasks_blocked()
    assert 0 < len(sent) * 50_000 <= 2 * echo.settings.send_buffer_bytes + 2 * 50_000


# Row 11: handlers that return early leak window and stream entries.


async def test_an_early_return_gives_everything_back(autojump_clock, echo):
    async def collect(requests, context):
        return Blob(number=1)

    echo.handlers["Collect"] = collect
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        for _ in range(60):
            async with channel.stream(COLLECT) as call:
                # Against an open stream whose handler is gone: sending ends by itself, and the answer stands.
                with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
                    while True:
                        await call.send(Blob(payload=bytes(500_000)))
                assert (await call.receive()).number == 1
                assert await call.receive() is None
        await trio.testing.wait_all_tasks_blocked()
        protocol = echo.connections[0].protocol
        assert protocol.entries == {}
        assert protocol.http2.streams == {}
        assert echo.connections[0].calls == {}
        manager = protocol.http2._inbound_flow_control_window_manager
        assert manager.current_window_size + manager._bytes_processed == echo.settings.connection_window_bytes
        assert channel._protocol.entries == {}


async def test_thousands_of_calls_leave_nothing_behind(autojump_clock, echo):
    """Neither streams nor heads nor anything else that grows with their number."""
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        for number in range(2000):
            with trio.fail_after(1 + number / 1000):  # Every call has other headers.
                await channel.unary(UNARY, Blob(number=number))
        for protocol in (channel._protocol, echo.connections[0].protocol):
            assert protocol.entries == {}
            assert protocol.http2.streams == {}
            assert len(protocol.http2._closed_streams) == 0
        for side in (channel._protocol._client, echo.connections[0].protocol._server):
            assert len(side.heads) <= 256
        assert echo.connections[0].calls == {}


async def test_an_early_return_is_told_by_a_reset_without_error(autojump_clock, echo):
    async def collect(requests, context):
        return Blob(number=1)

    echo.handlers["Collect"] = collect
    peer = await echo.raw_client()
    await peer.request(1, PATH + "Collect", b"", ends=False)
    assert (await peer.status(1))["grpc-status"] == "0"
    assert await peer.wait(RST_STREAM, 1) == bytes(4)
    # Late data of that stream is dropped, and does not count against the others.
    await peer.send(*(frame(DATA, 0, 1, bytes(16_000)) for _ in range(2000)))
    await assert_alive(peer)


# Row 12: no checkpoints: loop stalls of 0.4-0.7 s.


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_sender_that_never_waits_lets_others_run(autojump_clock, echo, size):
    """A stream of answers that all have room: others run every 64 messages or 256 KiB."""
    settings = attrs.evolve(echo.settings, stream_window_bytes=2**30, connection_window_bytes=2**30, send_buffer_bytes=2**30)
    echo.settings = settings
    sent = []
    gaps = []

    async def expand(request, context, send):
        for _ in range(1000):
            await send(Blob(payload=bytes(size)))
            sent.append(1)

    async def watch():
        last = 0
        while len(sent) < 1000:
            gaps.append(len(sent) - last)
            last = len(sent)
            await trio.lowlevel.checkpoint()

    echo.handlers["Expand"] = expand
    async with open_channel(echo.connect(), settings) as channel, channel.stream(EXPAND, Blob()) as call, trio.open_nursery() as n:
        n.start_soon(watch)
        received = [message async for message in call]
    assert len(received) == 1000
    # Twice: between two turns of the watcher may lie two of the sender, one at each end of Trio's shuffled batches.
    assert max(gaps) <= 2 * min(settings.messages_per_checkpoint, settings.bytes_per_checkpoint // size + 1)


async def test_a_reader_with_much_to_read_lets_others_run(autojump_clock, echo):
    turns = []

    async def collect(requests, context):
        async for _ in requests:
            turns.append("read")
        return Blob()

    echo.handlers["Collect"] = collect
    peer = await echo.raw_client()
    await peer.request(1, PATH + "Collect", ends=False)
    # One piece of bytes with 5,000 frames in it.
    await peer.send(b"".join(frame(DATA, 0, 1, raw.message(b"")) for _ in range(5000)))

    async def count():
        while len(turns) < 5000:
            turns.append("other")
            await trio.lowlevel.checkpoint()

    await count()
    longest = max(map(len, " ".join(turns).replace("read", "r").replace(" ", "").split("other")))
    assert longest <= 2 * echo.settings.messages_per_checkpoint


# Row 13: GOAWAY closes the h2 state: a graceful stop aborts running calls.


async def test_draining_lets_calls_finish_and_refuses_new_ones(autojump_clock, echo):
    go = trio.Event()
    drained = trio.Event()

    async def chat(requests, context, send):
        await send(Blob(number=1))
        await go.wait()
        async for request in requests:
            await send(request)

    echo.handlers["Chat"] = chat

    async def drain():
        await echo.server.drain()
        drained.set()

    async with open_channel(echo.connect(), default(RpcSettings)) as channel, channel.stream(CHAT) as call:
        assert (await call.receive()).number == 1
        echo.nursery.start_soon(drain)
        await channel.wait_unusable()
        with pytest.raises(errors.Unavailable):
            await channel.unary(UNARY, Blob())
        assert not drained.is_set()
        go.set()
        for number in range(5):
            await call.send(Blob(number=number, payload=bytes(300_000)))
            assert (await call.receive()).number == number
        await call.done_sending()
        assert await call.receive() is None
    await drained.wait()
    assert echo.connections == []


async def test_a_call_that_crosses_the_goaway_is_refused(autojump_clock, echo):
    go = trio.Event()

    async def unary(request, context):
        await go.wait()
        return request

    echo.handlers["Unary"] = unary
    peer = await echo.raw_client()
    await peer.request(1, PATH + "Unary", b"")
    await trio.testing.wait_all_tasks_blocked()
    echo.server.start_draining()
    await peer.request(3, PATH + "Unary", b"")
    goaway = await peer.wait(GOAWAY)
    assert (int.from_bytes(goaway[:4], "big"), int.from_bytes(goaway[4:8], "big")) == (1, 0)
    assert int.from_bytes(await peer.wait(RST_STREAM, 3), "big") == 7
    go.set()
    assert (await peer.status(1))["grpc-status"] == "0"
    before = trio.current_time()
    assert await peer.receive() is None
    assert trio.current_time() == before + echo.settings.goodbye_seconds


async def test_draining_cancels_what_runs_at_the_deadline(autojump_clock, echo):
    watch = Watch()

    async def unary(request, context):
        with watch:
            await trio.sleep_forever()

    echo.handlers["Unary"] = unary
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def call():
                with pytest.raises(errors.Unavailable):
                    await channel.unary(UNARY, Blob())

            await watch.started.wait()
            deadline = trio.current_time() + 12
            await echo.server.drain(deadline)
            assert trio.current_time() == deadline
            assert watch.cancelled.is_set()


async def test_an_idle_connection_drains_at_once(autojump_clock, echo):
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        await channel.unary(UNARY, Blob())

        @echo.nursery.start_soon
        async def drain():
            await echo.server.drain()

        await channel.wait_unusable()


async def test_a_client_goaway_does_not_end_its_calls(autojump_clock, echo):
    peer = await echo.raw_client()
    await peer.request(1, PATH + "Chat", ends=False)
    await peer.send(frame(GOAWAY, 0, 0, bytes(8)))
    await peer.send(frame(DATA, END_STREAM, 1, raw.message(b"\x10\x01")))
    assert (await peer.status(1))["grpc-status"] == "0"


async def test_a_servers_goaway_fails_only_the_calls_it_did_not_look_at(autojump_clock, echo):
    ours, theirs = trio.testing.memory_stream_pair()
    server = raw.RawPeer(theirs)
    await server.send(raw.SETTINGS_FRAME)
    outcomes = {}

    async def call(number):
        try:
            outcomes[number] = await channel.unary(UNARY, Blob(number=number))
        except errors.Unavailable as error:
            outcomes[number] = error

    async with open_channel(ours, default(RpcSettings)) as channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, 1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(call, 2)
            await trio.testing.wait_all_tasks_blocked()
            await server.send(frame(GOAWAY, 0, 0, (1).to_bytes(4, "big") + bytes(4)))
            await trio.testing.wait_all_tasks_blocked()
            assert isinstance(outcomes[2], errors.Unavailable)
            assert 1 not in outcomes
            head = [(b":status", b"200"), (b"content-type", b"application/grpc")]
            await server.send(
                frame(HEADERS, END_HEADERS, 1, raw.block(head)),
                frame(DATA, 0, 1, raw.message(b"\x10\x09")),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, raw.block([(b"grpc-status", b"0")])),
            )
        assert outcomes[1].number == 9


# Row 14: PING floods, rapid resets, overlong frames grow memory.


async def wait_goaway(peer, code):
    goaway = await peer.wait(GOAWAY)
    assert int.from_bytes(goaway[4:8], "big") == code
    await peer.wait_end()


FLOODS = {
    "ping": lambda n: frame(PING, 0, 0, bytes(8)),
    "settings": lambda n: raw.SETTINGS_FRAME,
    "priority": lambda n: frame(raw.PRIORITY, 0, 1, bytes(5)),
    "empty data": lambda n: frame(DATA, 0, 1),
    "unknown frames": lambda n: frame(77, 0, 1),
    "rapid reset": lambda n: (
        frame(HEADERS, END_HEADERS, 3 + 2 * n, raw.block(raw.request_headers(PATH + "Chat")))
        + frame(RST_STREAM, 0, 3 + 2 * n, CANCEL)
    ),
}


@pytest.mark.parametrize("make", FLOODS.values(), ids=FLOODS)
async def test_floods_of_control_frames_end_the_connection(autojump_clock, echo, make):
    echo.settings = attrs.evolve(echo.settings, control_frames_max=500)
    peer = await echo.raw_client()
    await peer.request(1, PATH + "Chat", ends=False)
    # Just under the budget twice, a period apart, is a busy client.
    for start in (0, 400):
        await peer.send(b"".join(make(n) for n in range(start, start + 400)))
        await trio.sleep(echo.settings.control_seconds)
        await peer.send(frame(WINDOW_UPDATE, 0, 0, (1).to_bytes(4, "big")))
    assert echo.connections[0].protocol.failure is None
    await peer.send(b"".join(make(n) for n in range(800, 1500)))
    await wait_goaway(peer, 11)


async def test_answers_to_a_peer_that_does_not_read_are_bounded(autojump_clock, echo):
    echo.settings = attrs.evolve(echo.settings, control_frames_max=10**9, control_bytes_max=10_000)
    ours, theirs = trio.testing.lockstep_stream_pair()
    peer = raw.RawPeer(ours)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def serve():
            await echo.server.serve(theirs)
            nursery.cancel_scope.cancel()

        await peer.connect()
        # Never reads. Without the bound this would go on for ever.
        while True:
            await peer.send(frame(PING, 0, 0, bytes(8)) * 50)


@pytest.mark.parametrize("path", ["Unary", "Nope"])
async def test_errors_to_a_client_that_does_not_read_are_bounded(autojump_clock, echo, path):
    """Calls that fail without a message: their statuses must not pile up in the output."""
    echo.settings = attrs.evolve(echo.settings, send_buffer_bytes=10_000, control_bytes_max=10_000, control_frames_max=10**9)
    failed = 0

    async def unary(request, context):
        nonlocal failed
        failed += 1
        raise errors.TopicNotFound("x" * 1000)

    echo.handlers["Unary"] = unary
    ours, theirs = trio.testing.lockstep_stream_pair()
    peer = raw.RawPeer(ours)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def serve():
            await echo.server.serve(theirs)
            nursery.cancel_scope.cancel()

        await peer.connect()
        for stream_id in range(1, 1001, 2):
            await peer.request(stream_id, PATH + path, b"")
        await trio.testing.wait_all_tasks_blocked()
        # All have run, and wait for their turn to say how it ended.
        (connection,) = echo.connections
        assert failed == 500
        assert connection.protocol.output_bytes < 15_000
        nursery.cancel_scope.cancel()
    # An unknown method does not even become a call: too many of those end the connection.
    assert failed == (500 if path == "Unary" else 0)


@pytest.mark.parametrize("kind", [DATA, HEADERS, SETTINGS, PING, 99])
async def test_overlong_frames_end_the_connection_at_their_header(autojump_clock, echo, kind):
    peer = await echo.raw_client()
    await peer.request(1, PATH + "Chat", ends=False)
    header = (2**24 - 1).to_bytes(3, "big") + bytes((kind, 4)) + (1 if kind in (DATA, HEADERS, 99) else 0).to_bytes(4, "big")
    await peer.send(header)
    await wait_goaway(peer, 6)


async def test_too_many_calls_are_refused_until_handlers_have_ended(autojump_clock, echo):
    """Calls that were reset count until their handlers are gone."""
    echo.settings = attrs.evolve(echo.settings, streams_per_connection_max=10)
    go = trio.Event()

    async def chat(requests, context, send):
        with trio.CancelScope(shield=True):
            await go.wait()

    echo.handlers["Chat"] = chat
    peer = await echo.raw_client()
    for stream_id in range(1, 21, 2):
        await peer.request(stream_id, PATH + "Chat", ends=False)
        await trio.testing.wait_all_tasks_blocked()  # The handler has begun; a call that is reset before is over at once.
        await peer.send(frame(RST_STREAM, 0, stream_id, CANCEL))
    await peer.request(21, PATH + "Unary", b"")
    assert await peer.status(21) == {"reset": 7}
    go.set()
    await trio.testing.wait_all_tasks_blocked()
    await assert_alive(peer)


async def test_calls_over_the_servers_limit_wait_in_the_client(autojump_clock, echo):
    echo.settings = attrs.evolve(echo.settings, streams_per_connection_max=3)
    running = []
    most = 0

    async def unary(request, context):
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        await trio.sleep(1)
        running.pop()
        return request

    echo.handlers["Unary"] = unary
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        await channel.unary(UNARY, Blob())
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(channel.unary, UNARY, Blob())
    assert most == 3


async def test_silence_instead_of_a_handshake_ends_the_connection(autojump_clock, echo):
    ours = echo.connect()
    peer = raw.RawPeer(ours)
    before = trio.current_time()
    await peer.wait_end()
    assert trio.current_time() == before + echo.settings.preface_timeout_seconds


async def test_something_else_than_http2_ends_the_connection(autojump_clock, echo):
    peer = raw.RawPeer(echo.connect())
    await peer.send(b"GET / HTTP/1.1\r\n\r\n")
    await wait_goaway(peer, 1)


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(autojump_clock, echo):
    echo.settings = attrs.evolve(echo.settings, idle_timeout_seconds=30)

    async def chat(requests, context, send):
        await trio.sleep(100)

    echo.handlers["Chat"] = chat
    async with open_channel(echo.connect(), default(RpcSettings, keepalive_seconds=math.inf)) as channel:
        async with channel.stream(CHAT) as call:
            assert await call.receive() is None
        assert channel.is_usable
        before = trio.current_time()
        await channel.wait_unusable()
        assert 0 < trio.current_time() - before <= 61


@pytest.mark.parametrize("side", ["client", "server"])
async def test_keepalive_notices_a_peer_that_is_gone(autojump_clock, echo, side):
    settings = default(RpcSettings, keepalive_seconds=60, keepalive_timeout_seconds=20)
    before = trio.current_time()
    if side == "server":
        echo.settings = settings
        watch = Watch()

        async def chat(requests, context, send):
            with watch:
                await trio.sleep_forever()

        echo.handlers["Chat"] = chat
        peer = await echo.raw_client()
        await peer.request(1, PATH + "Chat", ends=False)
        await watch.cancelled.wait()
    else:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(raw.SETTINGS_FRAME)
        async with open_channel(ours, settings) as channel:
            with pytest.raises(errors.Unavailable, match="does not answer"):
                await channel.unary(UNARY, Blob())
    assert trio.current_time() == before + 80


async def test_keepalive_leaves_a_quiet_peer_that_answers_alone(autojump_clock, echo):
    echo.settings = default(RpcSettings, keepalive_seconds=60)

    async def unary(request, context):
        await trio.sleep(1000)
        return request

    echo.handlers["Unary"] = unary
    async with open_channel(echo.connect(), default(RpcSettings, keepalive_seconds=50)) as channel:
        assert (await channel.unary(UNARY, Blob(number=1))).number == 1


# Row 15: header blocks near 64 KiB kill the connection; the advertised limit is not enforced.


@pytest.mark.parametrize(("size", "is_refused"), [(15_000, False), (17_000, True), (30_000, True), (60_000, True)])
async def test_large_metadata_is_refused_alone(autojump_clock, echo, size, is_refused):
    peer = await echo.raw_client()
    assert int.from_bytes(_settings_of(await peer.wait(SETTINGS))[6], "big") == echo.settings.header_bytes_max
    headers = [*raw.request_headers(PATH + "Unary"), (b"x-long", b"a" * size)]
    encoded = raw.block(headers)
    await peer.send(frame(HEADERS, END_HEADERS, 1, encoded))
    await peer.send(frame(DATA, END_STREAM, 1, raw.message(b"")))
    assert (await peer.status(1))["grpc-status"] == ("8" if is_refused else "0")
    # In a HEADERS and a CONTINUATION frame.
    await peer.send(frame(HEADERS, 0, 3, encoded[:10_000]), frame(raw.CONTINUATION, END_HEADERS, 3, encoded[10_000:]))
    await peer.send(frame(DATA, END_STREAM, 3, raw.message(b"")))
    assert (await peer.status(3))["grpc-status"] == ("8" if is_refused else "0")
    await assert_alive(peer)


def _settings_of(payload):
    return {int.from_bytes(payload[i : i + 2], "big"): payload[i + 2 : i + 6] for i in range(0, len(payload), 6)}


@pytest.mark.parametrize("case", ["long block", "bomb", "long integer"])
async def test_header_blocks_that_are_attacks_end_the_connection(autojump_clock, echo, case):
    peer = await echo.raw_client()
    if case == "long block":
        frames = [frame(HEADERS, 0, 1, bytes(10_000))] + [frame(raw.CONTINUATION, 0, 1, bytes(10_000))] * 6
    elif case == "bomb":
        # One large entry enters the table, then 10,000 one-byte references to it.
        entry = b"\x40" + raw.block([(b"x", b"a" * 3900)])[1:]
        frames = [frame(HEADERS, END_HEADERS, 1, entry + b"\xbe" * 10_000)]
    else:
        frames = [frame(HEADERS, END_HEADERS, 1, b"\x7f" + b"\xff" * 20_000 + b"\x01")]
    await peer.send(*frames)
    await wait_goaway(peer, 9 if case == "long integer" else 11)


# Row 16: late WINDOW_UPDATE on a finished stream closes the connection (h2 3.2).


async def test_late_frames_of_a_finished_stream_are_ignored(autojump_clock, echo):
    peer = await echo.raw_client()
    await peer.request(1, PATH + "Unary", b"")
    assert (await peer.status(1))["grpc-status"] == "0"
    await peer.send(frame(WINDOW_UPDATE, 0, 1, (5).to_bytes(4, "big")))
    await peer.send(frame(RST_STREAM, 0, 1, bytes(4)))
    await peer.send(frame(DATA, END_STREAM, 1, b"abc"))
    await peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, raw.block([(b"late", b"trailer")])))
    await peer.send(frame(raw.PRIORITY, 0, 1, bytes(5)))
    await assert_alive(peer)


# Row 17: no initial or trailing metadata; `grpc-status-details-bin` rejected.


async def test_metadata_both_ways(autojump_clock, echo):
    async def unary(request, context):
        assert context.metadata == (("x-text", "a"), ("x-data-bin", b"\x00\xff"), ("x-text", "b"))
        assert context.metadata.get("x-text") == "a"
        assert context.metadata.get_bytes("x-data-bin") == b"\x00\xff"
        assert list(context.metadata.get_all("x-text")) == ["a", "b"]
        context.set_initial_metadata([("x-first", "1")])
        context.set_trailing_metadata([("x-last-bin", b"\x01"), ("grpc-status-details-bin", b"\x08\x05")])
        if request.number:
            raise errors.TopicNotFound("gone")
        return request

    echo.handlers["Unary"] = unary
    pairs = [("x-text", "a"), ("x-data-bin", b"\x00\xff"), ("x-text", "b")]
    trailing = (("x-last-bin", b"\x01"), ("grpc-status-details-bin", b"\x08\x05"))
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        async with channel.stream(UNARY, Blob(), metadata=pairs) as call:
            assert await call.initial_metadata() == (("x-first", "1"),)
            assert await call.receive() == Blob()
            assert await call.receive() is None
            assert call.trailing_metadata == trailing
        async with channel.stream(UNARY, Blob(number=1), metadata=pairs) as call:
            with pytest.raises(errors.TopicNotFound):
                await call.receive()
            assert call.trailing_metadata[-2:] == trailing


async def test_initial_metadata_may_go_before_any_message(autojump_clock, echo):
    go = trio.Event()

    async def chat(requests, context, send):
        await context.send_initial_metadata([("x-early", "yes")])
        await go.wait()

    echo.handlers["Chat"] = chat
    async with open_channel(echo.connect(), default(RpcSettings)) as channel, channel.stream(CHAT) as call:
        assert await call.initial_metadata() == (("x-early", "yes"),)
        go.set()
        assert await call.receive() is None


@pytest.mark.parametrize(
    "pairs", [[("Upper", "a")], [("grpc-status", "0")], [("x", "caf\u00e9")], [("x-bin", "text")], [("x", b"bytes")], [("te", "x")]]
)
async def test_metadata_that_cannot_be_sent_is_refused_where_it_is_said(autojump_clock, echo, pairs, caplog):
    async def chat(requests, context, send):
        context.set_trailing_metadata(pairs)

    echo.handlers["Chat"] = chat
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        with pytest.raises(ValueError, match=pairs[0][0]):
            await channel.unary(UNARY, Blob(), metadata=pairs)
        assert channel.calls_open == 0
        # A handler's mistake still ends its call.
        async with channel.stream(CHAT) as call:
            with pytest.raises(RpcFailed):
                await call.receive()
        assert await channel.unary(UNARY, Blob(number=1))


# Row 18: two unclosed anyio streams per call (ResourceWarning).


async def test_no_resource_warnings(autojump_clock, echo):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with open_channel(echo.connect(), default(RpcSettings)) as channel:
            for _ in range(5):
                await channel.unary(UNARY, Blob())
            async with channel.stream(CHAT) as call:
                await call.send(Blob())
                await call.receive()
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


# Row 19: `stub.Bidi(aiter)` yields inside a task group; abandoned generators leak.


async def test_a_call_abandoned_in_the_middle_leaves_nothing(autojump_clock, echo):
    watch = Watch()

    async def expand(request, context, send):
        with watch:
            while True:
                await send(Blob(payload=bytes(100_000)))

    echo.handlers["Expand"] = expand
    async with open_channel(echo.connect(), default(RpcSettings)) as channel:
        with pytest.raises(KeyError):  # noqa: PT012
            async with channel.stream(EXPAND, Blob()) as call:
                async for _ in call:
                    raise KeyError("enough")
        await watch.cancelled.wait()
        assert channel.calls_open == 0
        assert channel._protocol.entries == {}
        manager = channel._protocol.http2._inbound_flow_control_window_manager
        await trio.testing.wait_all_tasks_blocked()
        assert manager.current_window_size + manager._bytes_processed == channel._settings.connection_window_bytes


# Fine as shipped, and to stay so.


async def test_keepalive_pings_are_answered(autojump_clock, echo):
    peer = await echo.raw_client()
    await peer.send(frame(PING, 0, 0, b"12345678"))
    assert await peer.wait(PING, 0, ACK) == b"12345678"


async def test_a_thousand_streams_at_once(autojump_clock, echo):
    peer = await echo.raw_client()
    for stream_id in range(1, 2001, 2):
        await peer.request(stream_id, PATH + "Chat", ends=False)
    for stream_id in range(1, 2001, 2):
        await peer.send(frame(DATA, END_STREAM, stream_id, raw.message(b"\x10\x01")))
    for stream_id in range(1, 2001, 2):
        assert (await peer.status(stream_id))["grpc-status"] == "0"


async def test_empty_client_stream(autojump_clock, echo):
    async with open_channel(echo.connect(), default(RpcSettings)) as channel, channel.stream(COLLECT) as call:
        await call.done_sending()
        assert (await call.receive()).number == 0
