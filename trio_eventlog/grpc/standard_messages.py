"""Messages of gRPC's own services (health, reflection), described here and built when imported.

They live in a descriptor pool of their own: a program that also loads the official packages, in whatever version, has the same
names in the default pool, and two different files of one name in one pool are an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"string": _Field.TYPE_STRING, "bytes": _Field.TYPE_BYTES, "int32": _Field.TYPE_INT32}
_POOL = descriptor_pool.DescriptorPool()


@attrs.frozen(slots=True)
class StandardFile:
    """A file of the pool: its services' descriptors and its messages' classes, by short names."""

    services: Mapping[str, Any]
    messages: Mapping[str, Any]


def build_file(
    name: str,
    package: str,
    messages: Mapping[str, Sequence[str]],
    services: Mapping[str, Sequence[tuple[str, str, str, bool, bool]]],
    enums: Mapping[str, Mapping[str, Sequence[str]]],
) -> StandardFile:
    """Describes one proto3 file.

    Args:
        messages: for each message its fields as "[repeated] TYPE NAME = NUMBER [ONEOF]"; TYPE is a scalar, a message of this
            file, or an enum of this message.
        services: for each service its methods as (name, request, response, client streams, server streams).
        enums: for each message its enums, with the names of their values from 0 on.
    """
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
    for message_name, fields in messages.items():
        message = file.message_type.add(name=message_name)
        for enum_name, values in enums.get(message_name, {}).items():
            enum = message.enum_type.add(name=enum_name)
            for number, value in enumerate(values):
                enum.value.add(name=value, number=number)
        oneofs: list[str] = []
        for line in fields:
            words = line.split()
            is_repeated = words[0] == "repeated"
            type_name, field_name, _, number_text, *oneof = words[is_repeated:]
            field = message.field.add(
                name=field_name, number=int(number_text), label=_Field.LABEL_REPEATED if is_repeated else _Field.LABEL_OPTIONAL
            )
            if type_name in _SCALARS:
                field.type = _SCALARS[type_name]
            elif type_name in enums.get(message_name, {}):
                field.type, field.type_name = _Field.TYPE_ENUM, f".{package}.{message_name}.{type_name}"
            else:
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{type_name}"
            if oneof:
                if oneof[0] not in oneofs:
                    oneofs.append(oneof[0])
                    message.oneof_decl.add(name=oneof[0])
                field.oneof_index = oneofs.index(oneof[0])
    for service_name, methods in services.items():
        service = file.service.add(name=service_name)
        for method_name, request, response, client_streams, server_streams in methods:
            service.method.add(
                name=method_name,
                input_type=f".{package}.{request}",
                output_type=f".{package}.{response}",
                client_streaming=client_streams,
                server_streaming=server_streams,
            )
    _POOL.AddSerializedFile(file.SerializeToString())
    built = _POOL.FindFileByName(name)
    return StandardFile(
        dict(built.services_by_name),
        {key: message_factory.GetMessageClass(descriptor) for key, descriptor in built.message_types_by_name.items()},
    )
