"""Errors as RFC 9457 describes them: `application/problem+json`, with the stable code of `trio_eventlog.errors`."""

import json
import math
from collections.abc import Mapping, Sequence

from trio_eventlog import errors
from trio_eventlog.errors import EventLogError
from trio_eventlog.rpc.status import error_details, public_message, status_of

PROBLEM_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:trio-eventlog:error:"

Headers = Sequence[tuple[str, str]]

TITLES = {
    201: "Created",
    204: "No Content",
    206: "Partial Content",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}

STATUS_OF_GRPC = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 416,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
}
"""The HTTP status of an error, by its gRPC status."""

EXACT_STATUSES: Mapping[type[EventLogError], int] = {
    errors.BatchTooLarge: 413,
    errors.DiskFull: 507,
    errors.OutcomeUnknown: 504,
}
"""Where HTTP is more exact than gRPC."""

RETRY_AFTER_SECONDS = 1
"""What `Retry-After` says when the error itself names no time."""

_CODES_BY_STATUS = {
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    406: "NOT_ACCEPTABLE",
    408: "REQUEST_TIMEOUT",
    411: "LENGTH_REQUIRED",
    413: "BODY_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    431: "HEAD_TOO_LARGE",
    500: "INTERNAL",
    501: "NOT_IMPLEMENTED",
    503: errors.Overloaded.code,
    505: "HTTP_VERSION_NOT_SUPPORTED",
}
"""Codes of what only HTTP knows; anything else is INVALID_ARGUMENT."""


class HttpProblem(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
        code: stable, upper case: of an `EventLogError`, or of this interface.
        detail: what happened, why, and what to do.
        headers: of the answer, beside those that every answer has.
        members: of the problem, besides: what the caller needs (`log_start_offset`), or `errors` with a pointer to the field.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        code: str = "",
        headers: Headers = (),
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code or _CODES_BY_STATUS.get(status, errors.InvalidArgument.code)
        self.detail = detail
        self.headers = tuple(headers)
        self.members = dict(members or {})

    def body(self, request_id: str = "") -> bytes:
        """The problem as JSON. `request_id` is that of the answer, as `instance`."""
        problem: dict[str, object] = {
            "type": TYPE_PREFIX + self.code,
            "title": TITLES.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.members,
        }
        if request_id:
            problem["instance"] = f"urn:request:{request_id}"
        return json.dumps(problem).encode()


def http_status(error: EventLogError) -> int:
    """The HTTP status of an error; `docs/reference/errors.md` has the table."""
    for cls, status in EXACT_STATUSES.items():
        if isinstance(error, cls):
            return status
    return STATUS_OF_GRPC.get(status_of(error).code.name, 500)


def problem_of(error: EventLogError) -> HttpProblem:
    """The error as an answer: its code, its text as a remote caller may read it, and its attributes."""
    status = http_status(error)
    members: dict[str, object] = {}
    for name, value in error_details(error).items():
        members[name.replace("-", "_")] = int(value) if value.isascii() and value.isdigit() and "id" not in name else value
    if error.retryable:
        members["retryable"] = True
    headers: list[tuple[str, str]] = []
    if status in (429, 503, 504):
        seconds = getattr(error, "retry_after_seconds", 0.0) or RETRY_AFTER_SECONDS
        headers.append(("retry-after", str(max(1, math.ceil(seconds)))))
    return HttpProblem(status, public_message(error), code=error.code, headers=headers, members=members)


def invalid_field(detail: str, pointer: str) -> HttpProblem:
    """400 for one field: `pointer` is a JSON pointer into the body ("#/value"), or "?name" for a parameter of the query."""
    return HttpProblem(400, f"{pointer}: {detail}", members={"errors": [{"pointer": pointer, "detail": detail}]})
