"""The standard health service, asked by our client in virtual time and by the official one over a socket."""

import grpc
import pytest
import trio
import trio.testing
from grpc_health.v1 import health_pb2, health_pb2_grpc

from trio_eventlog.errors import ShuttingDown
from trio_eventlog.grpc.health import (
    HEALTH_DESCRIPTOR,
    NOT_SERVING,
    SERVICE_UNKNOWN,
    SERVING,
    Health,
    HealthCheckRequest,
    HealthCheckResponse,
)
from trio_eventlog.rpc import RpcFailed, RpcSettings, Server, StatusCode, methods_of, open_channel
from trio_eventlog.testing.defaults import default

METHODS = methods_of(HEALTH_DESCRIPTOR)


@pytest.fixture
async def asked():
    """A `Health` and a channel to it."""
    health = Health()
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server([health.service()], default(RpcSettings)).serve, theirs)
        async with open_channel(ours, default(RpcSettings)) as channel:
            yield health, channel
        nursery.cancel_scope.cancel()


def test_the_messages_are_the_official_ones():
    """Byte for byte, both ways."""
    assert SERVING == health_pb2.HealthCheckResponse.SERVING
    assert NOT_SERVING == health_pb2.HealthCheckResponse.NOT_SERVING
    assert SERVICE_UNKNOWN == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    request = HealthCheckRequest(service="a")
    assert health_pb2.HealthCheckRequest.FromString(request.SerializeToString()).service == "a"
    official = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
    assert HealthCheckResponse.FromString(official.SerializeToString()).status == NOT_SERVING


async def test_check(autojump_clock, asked):
    health, channel = asked
    with pytest.raises(RpcFailed) as caught:
        await channel.unary(METHODS["Check"], HealthCheckRequest())
    assert caught.value.status is StatusCode.NOT_FOUND
    health.set_serving(True)
    assert (await channel.unary(METHODS["Check"], HealthCheckRequest())).status == SERVING
    health.set_serving(False)
    assert (await channel.unary(METHODS["Check"], HealthCheckRequest())).status == NOT_SERVING


async def test_watch_tells_changes_and_only_those(autojump_clock, asked):
    health, channel = asked
    async with channel.stream(METHODS["Watch"], HealthCheckRequest(service="a")) as call:
        assert (await call.receive()).status == SERVICE_UNKNOWN
        health.set_serving(True, "a")
        assert (await call.receive()).status == SERVING
        health.set_serving(True, "a")
        health.set_serving(False, "b")
        health.set_serving(False, "a")
        assert (await call.receive()).status == NOT_SERVING
        # Back and forth between two looks is no change.
        health.set_serving(True, "a")
        health.set_serving(False, "a")
        with trio.move_on_after(100) as scope:
            await call.receive()
        assert scope.cancelled_caught


async def test_stopping_tells_everybody_and_ends_the_watches(autojump_clock, asked):
    health, channel = asked
    health.set_serving(True)
    async with channel.stream(METHODS["Watch"], HealthCheckRequest()) as call:
        assert (await call.receive()).status == SERVING
        health.stop()
        health.set_serving(True)
        assert (await call.receive()).status == NOT_SERVING
        with pytest.raises(ShuttingDown):
            await call.receive()


@pytest.mark.interop
async def test_the_official_client():
    health = Health()
    health.set_serving(True, "trio_eventlog.v1.EventLog")

    def client(port):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="trio_eventlog.v1.EventLog")
            assert stub.Check(request).status == health_pb2.HealthCheckResponse.SERVING
            watch = stub.Watch(request)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            trio.from_thread.run_sync(health.set_serving, False, "trio_eventlog.v1.EventLog")
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            with pytest.raises(grpc.RpcError) as caught:
                stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, Server([health.service()], default(RpcSettings)).serve, [listener])
        await trio.to_thread.run_sync(client, listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()
