"""Server reflection, `grpc.reflection.v1` and `v1alpha`: tools such as grpcurl learn from it what can be called.

Answers with the files in which the served services are defined and those they import, and with nothing else of the process.
"""

from collections.abc import Collection, Iterable
from typing import Any

from trio_eventlog.grpc.standard_messages import StandardFile, build_file
from trio_eventlog.rpc import Context, Requests, Send, Service, StatusCode


def _build(package: str, path: str) -> StandardFile:
    # The two versions differ in nothing but the package.
    return build_file(
        path,
        package,
        messages={
            "ServerReflectionRequest": [
                "string host = 1",
                "string file_by_filename = 3 message_request",
                "string file_containing_symbol = 4 message_request",
                "ExtensionRequest file_containing_extension = 5 message_request",
                "string all_extension_numbers_of_type = 6 message_request",
                "string list_services = 7 message_request",
            ],
            "ExtensionRequest": ["string containing_type = 1", "int32 extension_number = 2"],
            "ServerReflectionResponse": [
                "string valid_host = 1",
                "ServerReflectionRequest original_request = 2",
                "FileDescriptorResponse file_descriptor_response = 4 message_response",
                "ExtensionNumberResponse all_extension_numbers_response = 5 message_response",
                "ListServiceResponse list_services_response = 6 message_response",
                "ErrorResponse error_response = 7 message_response",
            ],
            "FileDescriptorResponse": ["repeated bytes file_descriptor_proto = 1"],
            "ExtensionNumberResponse": ["string base_type_name = 1", "repeated int32 extension_number = 2"],
            "ListServiceResponse": ["repeated ServiceResponse service = 1"],
            "ServiceResponse": ["string name = 1"],
            "ErrorResponse": ["int32 error_code = 1", "string error_message = 2"],
        },
        enums={},
        services={
            "ServerReflection": [
                ("ServerReflectionInfo", "ServerReflectionRequest", "ServerReflectionResponse", True, True),
            ]
        },
    )


_VERSIONS = (
    _build("grpc.reflection.v1", "grpc/reflection/v1/reflection.proto"),
    _build("grpc.reflection.v1alpha", "grpc/reflection/v1alpha/reflection.proto"),
)


def reflection_services(services: Iterable[Service]) -> list[Service]:
    """Reflection in both versions over `services` and over itself. Give these and those to one `Server`."""
    descriptors = [service.descriptor for service in services]
    descriptors += [version.services["ServerReflection"] for version in _VERSIONS]
    index = _Index(descriptors)
    return [_service(version, index) for version in _VERSIONS]


class _Index:
    """What may be asked for: services, files by name, and in which file a symbol is."""

    def __init__(self, descriptors: Collection[Any]) -> None:
        self.service_names = sorted(descriptor.full_name for descriptor in descriptors)
        self.files: dict[str, Any] = {}
        self.file_of_symbol: dict[str, Any] = {}
        for descriptor in descriptors:
            self._add(descriptor.file)

    def _add(self, file: Any) -> None:
        if file.name in self.files:
            return
        self.files[file.name] = file
        for message in file.message_types_by_name.values():
            self._add_message(file, message)
        for enum in file.enum_types_by_name.values():
            self._add_enum(file, enum)
        for service in file.services_by_name.values():
            self.file_of_symbol[service.full_name] = file
            for method in service.methods:
                self.file_of_symbol[method.full_name] = file
        for dependency in file.dependencies:
            self._add(dependency)

    def _add_message(self, file: Any, message: Any) -> None:
        self.file_of_symbol[message.full_name] = file
        for field in message.fields:
            self.file_of_symbol[field.full_name] = file
        for nested in message.nested_types:
            self._add_message(file, nested)
        for enum in message.enum_types:
            self._add_enum(file, enum)

    def _add_enum(self, file: Any, enum: Any) -> None:
        self.file_of_symbol[enum.full_name] = file

    def closure(self, file: Any) -> list[bytes]:
        """A file and all that it needs, itself first."""
        found: dict[str, bytes] = {}
        waiting = [file]
        while waiting:
            one = waiting.pop()
            if one.name not in found:
                found[one.name] = one.serialized_pb
                waiting.extend(one.dependencies)
        return list(found.values())


def _service(version: StandardFile, index: _Index) -> Service:
    response_type = version.messages["ServerReflectionResponse"]

    def answer(request: Any) -> Any:
        response = response_type(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("message_request")
        if asked == "list_services":
            for name in index.service_names:
                response.list_services_response.service.add(name=name)
            return response
        file = None
        what = ""
        if asked == "file_by_filename":
            what = request.file_by_filename
            file = index.files.get(what)
        elif asked == "file_containing_symbol":
            what = request.file_containing_symbol
            file = index.file_of_symbol.get(what)
        elif asked == "all_extension_numbers_of_type" and request.all_extension_numbers_of_type in index.file_of_symbol:
            # proto3 has no extensions: a known type has none.
            response.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
            return response
        if file is not None:
            response.file_descriptor_response.file_descriptor_proto.extend(index.closure(file))
        elif asked is None:
            response.error_response.error_code = StatusCode.INVALID_ARGUMENT.value
            response.error_response.error_message = "the request asks for nothing that is known here"
        else:
            response.error_response.error_code = StatusCode.NOT_FOUND.value
            response.error_response.error_message = f"nothing of this name is served: {what}"
        return response

    async def server_reflection_info(requests: Requests, context: Context, send: Send) -> None:
        async for request in requests:
            await send(answer(request))

    return Service(version.services["ServerReflection"], {"ServerReflectionInfo": server_reflection_info})
