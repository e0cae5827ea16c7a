"""Reflection, asked by the official client: it can rebuild our services from what we tell."""

import grpc
import pytest
import trio
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha import proto_reflection_descriptor_database as database
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from trio_eventlog.grpc.health import Health
from trio_eventlog.grpc.reflection import reflection_services
from trio_eventlog.rpc import RpcSettings, Server, Service, methods_of, open_channel
from trio_eventlog.testing.defaults import default
from trio_eventlog.v1 import admin_pb2, event_log_pb2

EVENT_LOG = event_log_pb2.DESCRIPTOR.services_by_name["EventLog"]
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["Admin"]


def services():
    served = [Service(EVENT_LOG, {}), Service(ADMIN, {}), Health().service()]
    return [*served, *reflection_services(served)]


@pytest.mark.interop
async def test_the_official_client():
    def client(port):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            told = database.ProtoReflectionDescriptorDatabase(channel)
            assert set(told.get_services()) == {
                "trio_eventlog.v1.EventLog",
                "trio_eventlog.v1.Admin",
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            }
            pool = descriptor_pool.DescriptorPool(told)
            service = pool.FindServiceByName("trio_eventlog.v1.EventLog")
            assert [method.name for method in service.methods] == [method.name for method in EVENT_LOG.methods]
            request = message_factory.GetMessageClass(pool.FindMessageTypeByName("trio_eventlog.v1.ProduceRequest"))(topic="a")
            assert event_log_pb2.ProduceRequest.FromString(request.SerializeToString()).topic == "a"
            assert pool.FindFileByName("google/protobuf/timestamp.proto").package == "google.protobuf"
            assert pool.FindServiceByName("grpc.health.v1.Health").methods_by_name["Watch"].server_streaming
            with pytest.raises(KeyError):
                told.FindFileContainingSymbol("nobody.Knows")
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            requests = [
                reflection_pb2.ServerReflectionRequest(host="h", file_by_filename="nothing.proto"),
                reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="trio_eventlog.v1.Record"),
                reflection_pb2.ServerReflectionRequest(),
            ]
            answers = list(stub.ServerReflectionInfo(iter(requests)))
            assert (answers[0].valid_host, answers[0].error_response.error_code) == ("h", 5)
            assert answers[0].original_request == requests[0]
            assert answers[1].all_extension_numbers_response.base_type_name == "trio_eventlog.v1.Record"
            assert answers[2].error_response.error_code == 3

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, Server(services(), default(RpcSettings)).serve, [listener])
        await trio.to_thread.run_sync(client, listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def test_both_versions_answer_alike(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    answers = []
    async with trio.open_nursery() as nursery:
        served = services()
        nursery.start_soon(Server(served, default(RpcSettings)).serve, theirs)
        async with open_channel(ours, default(RpcSettings)) as channel:
            for service in served[-2:]:
                method = methods_of(service.descriptor)["ServerReflectionInfo"]
                async with channel.stream(method) as call:
                    await call.send(method.request_type(file_containing_symbol="trio_eventlog.v1.EventLog.Produce"))
                    answers.append((await call.receive()).file_descriptor_response.SerializeToString())
        nursery.cancel_scope.cancel()
    assert answers[0] == answers[1] != b""
