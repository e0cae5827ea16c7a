"""What can be called: methods read from protobuf descriptors, and metadata."""

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import attrs

Pairs = Iterable[tuple[str, str | bytes]]


class MessageType(Protocol):
    """A generated protobuf message class, as far as the engine uses it."""

    DESCRIPTOR: Any

    @staticmethod
    def FromString(data: bytes) -> Any: ...


class MethodKind(enum.Enum):
    """Who streams. The value is `(client streams, server streams)`."""

    UNARY = (False, False)
    CLIENT_STREAM = (True, False)
    SERVER_STREAM = (False, True)
    BIDIRECTIONAL = (True, True)


@attrs.frozen(slots=True, kw_only=True)
class Method:
    """One method of a service.

    Attributes:
        path: `/package.Service/Method`.
        kind: its cardinality.
        request_type: generated class of the requests.
        response_type: generated class of the responses.
    """

    path: str
    kind: MethodKind
    request_type: Any
    response_type: Any


def methods_of(descriptor: Any) -> dict[str, Method]:
    """The methods of a service descriptor (`event_log_pb2.DESCRIPTOR.services_by_name["EventLog"]`) by their short names."""
    return {
        method.name: Method(
            path=f"/{descriptor.full_name}/{method.name}",
            kind=MethodKind((method.client_streaming, method.server_streaming)),
            request_type=method.input_type._concrete_class,
            response_type=method.output_type._concrete_class,
        )
        for method in descriptor.methods
    }


class Metadata(tuple[tuple[str, str | bytes], ...]):
    """Metadata of a call: ordered pairs, lower-case names that may repeat; values of `-bin` names are bytes, others str."""

    __slots__ = ()

    def get(self, name: str, default: str = "") -> str:
        """The first text value of `name`, or `default`."""
        for key, value in self:
            if key == name and isinstance(value, str):
                return value
        return default

    def get_bytes(self, name: str, default: bytes = b"") -> bytes:
        """The first value of `name`, which ends in `-bin`, or `default`."""
        for key, value in self:
            if key == name and isinstance(value, bytes):
                return value
        return default

    def get_all(self, name: str) -> Iterator[str | bytes]:
        """Every value of `name`, in order."""
        return (value for key, value in self if key == name)


class Encoded:
    """A message that is serialised already; the buffers, joined, are its wire form. Given to `send` or returned from a handler.

    Large opaque fields are then moved instead of copied through protobuf. The buffers must not change afterwards.
    """

    __slots__ = ("buffers",)

    def __init__(self, *buffers: bytes | bytearray | memoryview) -> None:
        self.buffers = buffers


@attrs.frozen(slots=True, kw_only=True)
class Peer:
    """The other end of a connection.

    Attributes:
        address: `host:port`, or anything readable.
        is_secure: the connection is TLS.
        certificate: the verified client certificate as `ssl.SSLObject.getpeercert()` gives it, or None.
    """

    address: str = ""
    is_secure: bool = False
    certificate: Mapping[str, Any] | None = None
