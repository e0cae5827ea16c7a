"""A service for tests: built from descriptors at run time, so that no generated file is needed."""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def _build():
    file = descriptor_pb2.FileDescriptorProto(name="tests/rpc/echo.proto", package="tests.rpc", syntax="proto3")
    message = file.message_type.add(name="Blob")
    message.field.add(name="payload", number=1, type=12, label=1)
    message.field.add(name="number", number=2, type=4, label=1)
    service = file.service.add(name="Echo")
    for name, client_streaming, server_streaming in (
        ("Unary", False, False),
        ("Collect", True, False),
        ("Expand", False, True),
        ("Chat", True, True),
    ):
        service.method.add(
            name=name,
            input_type=".tests.rpc.Blob",
            output_type=".tests.rpc.Blob",
            client_streaming=client_streaming,
            server_streaming=server_streaming,
        )
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return (
        message_factory.GetMessageClass(pool.FindMessageTypeByName("tests.rpc.Blob")),
        pool.FindServiceByName("tests.rpc.Echo"),
    )


Blob, ECHO = _build()
PATH = "/tests.rpc.Echo/"
