"""Requests that carry, field by field, what a program may put there: every bound of a field's type, and beyond every bound of ours.

Derived from the descriptors, so that a field that is added is tried too.
"""

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor, ServiceDescriptor

_U32 = (0, 1, 2, 1025, (1 << 16) - 1, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
_U64 = (*_U32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_I32 = (-(1 << 31), -1, 0, 1, 999_999_999, 1_000_000_000, (1 << 31) - 1)
_I64 = (-(1 << 63), *_I32, 315_576_000_000, 315_576_000_001, (1 << 63) - 1)
_TEXT = ("", "0", "f" * 16, "f" * 17, "-1", "..", "a/b", "a b", "\0", "ü", "x" * 200, "x" * 201, "x" * 70_000)
EXTREMES: dict[int, tuple[Any, ...]] = {
    FieldDescriptor.TYPE_UINT32: _U32,
    FieldDescriptor.TYPE_UINT64: _U64,
    FieldDescriptor.TYPE_INT32: _I32,
    FieldDescriptor.TYPE_INT64: _I64,
    FieldDescriptor.TYPE_STRING: _TEXT,
    FieldDescriptor.TYPE_BOOL: (False, True),
    FieldDescriptor.TYPE_BYTES: (b"", b"\xff" * 1000),
    FieldDescriptor.TYPE_ENUM: (0, 1, 2, 99, -1),
}


def extreme_requests(service: ServiceDescriptor, message_of: Callable[[Any], Any]) -> Iterator[tuple[str, Any]]:
    """(method, request) for every field of every unary method: one extreme at a time, the others as they usually are.

    A topic to be created has a name of its own each time, unless the name is what is tried.

    Args:
        message_of: an empty message of a descriptor.
    """
    for method in service.methods:
        for number, (path, value) in enumerate(fields_of(method.input_type)):
            request = message_of(method.input_type)
            if "name" in method.input_type.fields_by_name:
                request.name = f"{method.name}-{number}"
            set_field(request, path, value)
            yield method.name, request


def set_field(request: Any, path: tuple[str, ...], value: Any) -> None:
    for step in path[:-1]:
        request = getattr(request, step)
    setattr(request, path[-1], value)


def fields_of(descriptor: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of every extreme of every field, those of the messages inside too."""
    for field in descriptor.fields:
        assert not field.is_repeated, f"{field.full_name}: say here what is extreme about a repeated field"
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from fields_of(field.message_type, (*path, field.name))
        else:
            for value in EXTREMES[field.type]:
                yield (*path, field.name), value
