"""Against grpcio over real sockets, both ways round. Threads and real time only here; nothing waits on a duration but deadlines."""

import math
import threading
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager

import attrs
import grpc
import pytest
import trio

from tests.rpc.conftest import METHODS, echo_chat, echo_collect, echo_expand, echo_unary
from tests.rpc.echo import ECHO, PATH, Blob
from trio_eventlog import errors
from trio_eventlog.rpc import RpcSettings, Server, Service, open_channel
from trio_eventlog.testing.defaults import default

UNARY, COLLECT, EXPAND, CHAT = (METHODS[name] for name in ("Unary", "Collect", "Expand", "Chat"))
HANDLERS = {"Unary": echo_unary, "Collect": echo_collect, "Expand": echo_expand, "Chat": echo_chat}
pytestmark = pytest.mark.interop


@asynccontextmanager
async def our_server(settings=None, **handlers):
    """Yields the port and the server."""
    server = Server([Service(ECHO, {**HANDLERS, **handlers})], settings or default(RpcSettings))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        yield listener.socket.getsockname()[1], server
        nursery.cancel_scope.cancel()


class Stub:
    """grpcio's channel with our methods."""

    def __init__(self, port, **options):
        names = [(name.replace("__", "."), value) for name, value in options.items()]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=names)
        coding = {"request_serializer": Blob.SerializeToString, "response_deserializer": Blob.FromString}
        self.unary = self.channel.unary_unary(PATH + "Unary", **coding)
        self.collect = self.channel.stream_unary(PATH + "Collect", **coding)
        self.expand = self.channel.unary_stream(PATH + "Expand", **coding)
        self.chat = self.channel.stream_stream(PATH + "Chat", **coding)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.channel.close()


async def with_grpcio(port, function, **options):
    """Runs `function(stub)` in a thread."""

    def run():
        with Stub(port, **options) as stub:
            return function(stub)

    return await trio.to_thread.run_sync(run)


async def test_all_cardinalities():
    def client(stub):
        assert stub.unary(Blob(payload=b"a", number=2)) == Blob(payload=b"a", number=2)
        assert stub.collect(iter([Blob(payload=b"12"), Blob(payload=b"345")])).number == 5
        assert [blob.number for blob in stub.expand(Blob(number=5))] == [0, 1, 2, 3, 4]
        assert [blob.number for blob in stub.chat(iter([Blob(number=7), Blob(number=8)]))] == [7, 8]
        assert stub.collect(iter([])).number == 0

    async with our_server() as (port, _):
        await with_grpcio(port, client)


async def test_large_messages_and_streams():
    payload = bytes(range(256)) * 8192

    def client(stub):
        assert stub.unary(Blob(payload=payload)).payload == payload
        blobs = list(stub.expand(Blob(payload=payload, number=20)))
        assert [blob.number for blob in blobs] == list(range(20))
        assert all(blob.payload == payload for blob in blobs)
        assert stub.collect(Blob(payload=payload) for _ in range(20)).number == 20 * len(payload)
        echoed = list(stub.chat(Blob(payload=payload, number=n) for n in range(20)))
        assert [blob.number for blob in echoed] == list(range(20))

    async with our_server() as (port, _):
        await with_grpcio(port, client)


async def test_many_calls_at_once():
    def client(stub):
        calls = [stub.unary.future(Blob(number=number)) for number in range(500)]
        assert [call.result().number for call in calls] == list(range(500))

    async with our_server() as (port, server):
        await with_grpcio(port, client)
        assert server.statistics().calls_total == 500


async def test_errors_with_trailers():
    async def unary(request, context):
        raise errors.NotLeader("zwölf: ask node 3", leader_id=3, leader_address="10.0.0.3:8400")

    def client(stub):
        with pytest.raises(grpc.RpcError) as caught:
            stub.unary(Blob())
        error = caught.value
        trailers = dict(error.trailing_metadata())
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details() == "zwölf: ask node 3"
        assert trailers["eventlog-error-code"] == "NOT_LEADER"
        assert trailers["leader-id"] == "3"
        assert trailers["leader-address"] == "10.0.0.3:8400"

    async with our_server(Unary=unary) as (port, _):
        await with_grpcio(port, client)


async def test_metadata():
    async def unary(request, context):
        context.set_initial_metadata([("x-initial", "first"), ("x-initial-bin", b"\x00\x01")])
        context.set_trailing_metadata([("x-trailing-bin", context.metadata.get_bytes("x-blob-bin"))])
        assert context.metadata.get("x-text") == "hello"
        return request

    def client(stub):
        _, call = stub.unary.with_call(Blob(), metadata=(("x-text", "hello"), ("x-blob-bin", b"\xff\x00")))
        assert ("x-initial", "first") in call.initial_metadata()
        assert ("x-initial-bin", b"\x00\x01") in call.initial_metadata()
        assert ("x-trailing-bin", b"\xff\x00") in call.trailing_metadata()

    async with our_server(Unary=unary) as (port, _):
        await with_grpcio(port, client)


async def test_deadline():
    ended = trio.Event()

    async def unary(request, context):
        assert context.deadline < math.inf
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    def client(stub):
        with pytest.raises(grpc.RpcError) as caught:
            stub.unary(Blob(), timeout=0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    async with our_server(Unary=unary) as (port, _):
        await with_grpcio(port, client)
        await ended.wait()


async def test_cancellation():
    started = threading.Event()
    ended = trio.Event()

    async def expand(request, context, send):
        await send(Blob())
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    def client(stub):
        call = stub.expand(Blob())
        next(call)
        started.wait()
        call.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        assert stub.unary(Blob(number=1)).number == 1

    async with our_server(Expand=expand) as (port, _):
        await with_grpcio(port, client)
        await ended.wait()


async def test_message_limit():
    limit = default(RpcSettings).message_bytes_max

    def client(stub):
        overhead = len(Blob(payload=bytes(limit - 10)).SerializeToString()) - (limit - 10)
        assert len(stub.unary(Blob(payload=bytes(limit - overhead))).payload) == limit - overhead
        with pytest.raises(grpc.RpcError) as caught:
            stub.unary(Blob(payload=bytes(limit + 1)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(caught.value.trailing_metadata())["eventlog-error-code"] == "BATCH_TOO_LARGE"
        assert stub.unary(Blob(number=1)).number == 1

    async with our_server() as (port, _):
        await with_grpcio(port, client, grpc__max_send_message_length=-1, grpc__max_receive_message_length=-1)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compression(compression):
    def client(stub):
        assert stub.unary(Blob(payload=bytes(100_000)), compression=compression).payload == bytes(100_000)
        assert stub.collect(iter([Blob(payload=bytes(100_000))] * 3), compression=compression).number == 300_000

    async with our_server() as (port, _):
        await with_grpcio(port, client)


async def test_keepalive_pings_are_welcome():
    """A client that pings as fast as grpcio lets it, through a call that is quiet for several pings."""
    started = trio.Event()
    go = trio.Event()
    pings = 0

    async def unary(request, context):
        started.set()
        await go.wait()
        return request

    async with our_server(Unary=unary) as (port, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def call():
            def client(stub):
                assert stub.unary(Blob(number=3)).number == 3

            options = {
                "grpc__keepalive_time_ms": 50,
                "grpc__keepalive_permit_without_calls": 1,
                "grpc__http2__max_pings_without_data": 0,
            }
            await with_grpcio(port, client, **options)

        await started.wait()
        protocol = next(iter(server._connections)).protocol
        h2_receive = protocol.http2._receive_ping_frame

        def count(frame):
            nonlocal pings
            pings += 1
            if pings == 3:
                go.set()
            return h2_receive(frame)

        table = protocol.http2._frame_dispatch_table
        for kind in list(table):
            if kind.__name__ == "PingFrame":
                table[kind] = count


async def test_unimplemented_and_crashes(caplog):
    async def unary(request, context):
        raise RuntimeError("secret")

    def client(stub):
        with pytest.raises(grpc.RpcError) as caught:
            stub.channel.unary_unary(PATH + "Nope")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as caught:
            stub.channel.unary_unary("/no.Service/Nope")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as caught:
            stub.unary(Blob())
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert "secret" not in caught.value.details()
        assert next(iter(stub.chat(iter([Blob(number=1)])))).number == 1

    async with our_server(Unary=unary) as (port, _):
        await with_grpcio(port, client)


async def test_draining_moves_a_client_on():
    """A client in the middle of a call finishes it; its next call fails or goes to a new connection, and nothing hangs."""
    drained = trio.Event()
    at_one = threading.Event()
    go_on = threading.Event()

    def client(stub):
        def requests():
            yield Blob(number=1)
            at_one.set()
            go_on.wait()
            yield Blob(number=2)

        assert [blob.number for blob in stub.chat(requests())] == [1, 2]

    async with our_server() as (port, server), trio.open_nursery() as nursery:
        nursery.start_soon(with_grpcio, port, client)
        await trio.to_thread.run_sync(at_one.wait)

        @nursery.start_soon
        async def drain():
            await server.drain()
            drained.set()

        await trio.testing.wait_all_tasks_blocked()
        assert not drained.is_set()
        go_on.set()
        await drained.wait()


# Our client against grpcio's server.


class Servicer:
    def __init__(self):
        self.started = threading.Event()
        self.cancelled = threading.Event()

    def unary(self, request, context):
        metadata = dict(context.invocation_metadata())
        if request.number == 7:
            context.set_trailing_metadata(
                (("eventlog-error-code", "OFFSET_OUT_OF_RANGE"), ("log-start-offset", "5"), ("high-watermark", "9"))
            )
            context.abort(grpc.StatusCode.OUT_OF_RANGE, "too far: äöü")
        if request.number == 8:
            raise ValueError("broken")
        if request.number == 9:
            context.add_callback(self.cancelled.set)
            self.started.set()
            self.cancelled.wait()
        if "x-back-bin" in metadata:
            context.send_initial_metadata((("x-initial", "yes"),))
            context.set_trailing_metadata((("x-back-bin", metadata["x-back-bin"]),))
        return request

    def collect(self, requests, context):
        return Blob(number=sum(len(request.payload) for request in requests))

    def expand(self, request, context):
        for number in range(request.number):
            yield Blob(number=number, payload=request.payload)

    def chat(self, requests, context):
        yield from requests


@contextmanager
def grpcio_server():
    servicer = Servicer()
    coding = {"request_deserializer": Blob.FromString, "response_serializer": Blob.SerializeToString}
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(servicer.unary, **coding),
        "Collect": grpc.stream_unary_rpc_method_handler(servicer.collect, **coding),
        "Expand": grpc.unary_stream_rpc_method_handler(servicer.expand, **coding),
        "Chat": grpc.stream_stream_rpc_method_handler(servicer.chat, **coding),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ECHO.full_name, handlers),))
    servicer.server = server
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port, servicer
    finally:
        servicer.cancelled.set()
        server.stop(None).wait()


@pytest.fixture
async def to_grpcio():
    """Our channel to grpcio's server, and its servicer."""
    with grpcio_server() as (port, servicer):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with open_channel(stream, default(RpcSettings)) as channel:
            yield channel, servicer


async def test_our_client_all_cardinalities(to_grpcio):
    channel, _ = to_grpcio
    payload = bytes(range(256)) * 4096
    assert await channel.unary(UNARY, Blob(payload=payload)) == Blob(payload=payload)
    async with channel.stream(COLLECT) as call:
        for _ in range(10):
            await call.send(Blob(payload=payload))
        await call.done_sending()
        assert (await call.receive()).number == 10 * len(payload)
        assert await call.receive() is None
    async with channel.stream(EXPAND, Blob(number=20, payload=payload)) as call:
        assert [blob.number async for blob in call] == list(range(20))
    async with channel.stream(CHAT) as call:
        for number in range(10):
            await call.send(Blob(number=number, payload=payload))
            assert (await call.receive()).number == number
        await call.done_sending()
        assert await call.receive() is None


async def test_our_client_errors(to_grpcio):
    channel, _ = to_grpcio
    with pytest.raises(errors.OffsetOutOfRange, match="too far: äöü") as caught:
        await channel.unary(UNARY, Blob(number=7))
    assert (caught.value.log_start_offset, caught.value.high_watermark) == (5, 9)
    with pytest.raises(errors.EventLogError):
        await channel.unary(UNARY, Blob(number=8))
    with pytest.raises(errors.EventLogError, match=r"(?i)method not found"):
        await channel.unary(attrs.evolve(UNARY, path=PATH + "Nope"), Blob())
    assert (await channel.unary(UNARY, Blob(number=1))).number == 1


async def test_our_client_metadata(to_grpcio):
    channel, _ = to_grpcio
    async with channel.stream(UNARY, Blob(), metadata=[("x-back-bin", b"\x00\xff")]) as call:
        assert ("x-initial", "yes") in await call.initial_metadata()
        assert await call.receive() == Blob()
        assert await call.receive() is None
        assert ("x-back-bin", b"\x00\xff") in call.trailing_metadata


async def test_our_client_cancels(to_grpcio):
    channel, servicer = to_grpcio
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.unary, UNARY, Blob(number=9))
        await trio.to_thread.run_sync(servicer.started.wait)
        nursery.cancel_scope.cancel()
    await trio.to_thread.run_sync(servicer.cancelled.wait)
    assert (await channel.unary(UNARY, Blob(number=1))).number == 1


async def test_our_clients_deadline(to_grpcio):
    channel, servicer = to_grpcio
    with pytest.raises(trio.TooSlowError), trio.fail_after(0.05):
        await channel.unary(UNARY, Blob(number=9))
    servicer.cancelled.set()
    assert (await channel.unary(UNARY, Blob(number=1))).number == 1


async def test_our_client_notices_a_server_that_stops():
    with grpcio_server() as (port, servicer):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with open_channel(stream, default(RpcSettings)) as channel:
            await channel.unary(UNARY, Blob())
            servicer.server.stop(None)
            await channel.wait_unusable()
            with pytest.raises(errors.Unavailable):
                await channel.unary(UNARY, Blob())
