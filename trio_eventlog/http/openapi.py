"""`/openapi.json`: OpenAPI 3.1 from the operations and their msgspec types."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from starlette.responses import Response

from trio_eventlog.http.negotiation import JSON_TYPE
from trio_eventlog.http.operations import TENANT_HEADER, Call, Operation
from trio_eventlog.http.problems import PROBLEM_TYPE
from trio_eventlog.release import VERSION

REFERENCE = "#/components/schemas/{name}"
COMMON_PROBLEMS = (400, 406, 429, 503)
"""What every operation may answer."""
BODY_PROBLEMS = (408, 411, 413, 415)
"""What one with a body may answer besides."""

_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")
_PATH_SCHEMAS: dict[str | None, dict[str, Any]] = {
    None: {"type": "string", "minLength": 1},
    "path": {"type": "string", "minLength": 1},
    "int": {"type": "integer", "minimum": 0, "maximum": (1 << 32) - 1},
}
_PROBLEM_WORDS = {
    400: "The request cannot be right; `errors` points to the field.",
    404: "There is no such thing.",
    406: "`Accept` has none of the media types that there are.",
    408: "The body came too slowly.",
    409: "It contradicts what is there.",
    411: "A body is needed, and none is announced.",
    413: "The body, a record or a line is too large.",
    415: "The body has a media type or an encoding that is not taken.",
    416: "There are no such offsets.",
    429: "Too much at once: try again after `Retry-After`.",
    503: "Not now: try again after `Retry-After`, or at another node.",
    504: "The outcome is unknown: look before you repeat it.",
}


class FieldProblem(Struct):
    """A field that is wrong: a JSON pointer into the body, or "?name" for a parameter of the query."""

    pointer: str
    detail: str


class Problem(Struct):
    """An error (RFC 9457). `code` is stable; further members have what a caller needs."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str | None = None
    errors: list[FieldProblem] = []


def openapi_document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The description of `operations`."""
    types = [Problem, *dict.fromkeys(one for operation in operations for one in (operation.body, operation.answer) if one)]
    schemas, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _PARAMETER.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _described(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "trio-eventlog",
            "version": VERSION,
            "description": "A replicated, append-only event log. Errors are `application/problem+json` with a stable `code`.",
        },
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "components": {"schemas": components},
    }


def openapi_operation(operations: Sequence[Operation]) -> Operation:
    """The operation that describes `operations`, and itself not."""

    @functools.cache
    def document() -> bytes:
        return msgspec.json.encode(openapi_document(operations))

    async def describe(call: Call) -> Response:
        return call.tagged(document(), JSON_TYPE)

    return Operation(method="GET", path="/openapi.json", handle=describe, summary="This description.", tag="Node")


def _described(operation: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.handle.__name__ if operation.handle.__name__ != "probe" else operation.path.strip("/"),
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [*_path_parameters(operation), *_query_parameters(operation), *_header_parameters(operation)],
        "responses": _responses(operation, schema_of),
    }
    if operation.description:
        described["description"] = operation.description
    if operation.body is not None or operation.body_types:
        content: dict[str, Any] = {}
        if operation.body is not None:
            content[JSON_TYPE] = {"schema": schema_of[operation.body]}
        for media, words in operation.body_types.items():
            content[media] = {"schema": {"type": "string", "description": words}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": found[1], "in": "path", "required": True, "schema": _PATH_SCHEMAS[found[2]]}
        for found in _PARAMETER.finditer(operation.path)
    ]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    components = msgspec.json.schema_components([operation.query], ref_template=REFERENCE)[1]
    (schema,) = (one for name, one in components.items() if name == operation.query.__name__)
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _resolved(field, components)}
        for name, field in schema["properties"].items()
    ]


def _resolved(field: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """Without references to what is in no other schema, and without null, which no query can say."""
    if "$ref" in field:
        field = {**components[field["$ref"].rpartition("/")[2]], **{name: value for name, value in field.items() if name != "$ref"}}
    if "anyOf" in field:
        options = [option for option in field["anyOf"] if option.get("type") != "null"]
        rest = {name: value for name, value in field.items() if name not in ("anyOf", "default")}
        field = {**options[0], **rest} if len(options) == 1 else {**field, "anyOf": options}
    return field


def _header_parameters(operation: Operation) -> list[dict[str, Any]]:
    headers = {**operation.headers, TENANT_HEADER: "The tenant; `anonymous` without it."}
    return [
        {"name": name, "in": "header", "required": False, "description": words, "schema": {"type": "string"}}
        for name, words in headers.items()
    ]


def _responses(operation: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.answer is not None:
        content[JSON_TYPE] = {"schema": schema_of[operation.answer]}
    elif operation.path == "/openapi.json":
        content[JSON_TYPE] = {"schema": {"type": "object"}}
    for media, words in operation.answer_types.items():
        content[media] = {"schema": {"type": "string", "description": words}}
    success: dict[str, Any] = {"description": operation.summary}
    if content and operation.status != 204:
        success["content"] = content
    responses: dict[str, Any] = {str(operation.status): success}
    for status, words in operation.statuses.items():
        responses[str(status)] = {"description": words, "content": content}
    if operation.method == "GET" and operation.answer is not None:
        responses["304"] = {"description": "The client has it already (`If-None-Match`)."}
    has_body = operation.body is not None or bool(operation.body_types)
    for status in sorted({*COMMON_PROBLEMS, *operation.problems, *(BODY_PROBLEMS if has_body else ())} - {*operation.statuses}):
        responses[str(status)] = {
            "description": _PROBLEM_WORDS[status],
            "content": {PROBLEM_TYPE: {"schema": schema_of[Problem]}},
        }
    return responses
