"""The status table: errors to gRPC statuses with trailing metadata, and back.

One table for both directions, so that a remote caller meets the class and the attributes that the node raised. What must not
leave the node (paths, causes) is not in the table: the log of the node has it.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

import attrs

from trio_eventlog import errors
from trio_eventlog.errors import EventLogError
from trio_eventlog.rpc._purerpc import StatusCode

CODE_TRAILER = "eventlog-error-code"


class RpcFailed(EventLogError):
    """A status that no class of ours stands for: from a foreign server, a proxy, the protocol itself, or a standard service.

    Attributes:
        status: the gRPC status code.
    """

    def __init__(self, message: str, status: StatusCode = StatusCode.UNKNOWN) -> None:
        super().__init__(message)
        self.status = status


@attrs.frozen(slots=True, kw_only=True)
class CallStatus:
    """How a call ended: status code, text, and the trailing metadata that carries the rest of the error."""

    code: StatusCode
    message: str = ""
    details: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def is_ok(self) -> bool:
        return self.code is StatusCode.OK


OK = CallStatus(code=StatusCode.OK)


def _milliseconds(seconds: float) -> str:
    # Rounded up: coming back a moment late is right, a moment early is refused again.
    return str(max(0, math.ceil(seconds * 1000)))


def _seconds(milliseconds: str) -> float:
    return int(milliseconds) / 1000


@attrs.frozen(slots=True)
class _Field:
    attribute: str
    trailer: str
    write: Callable[[Any], str] = str
    read: Callable[[str], Any] = int


@attrs.frozen(slots=True)
class _Row:
    status: StatusCode
    fields: tuple[_Field, ...] = ()
    public_text: str = ""
    """Sent instead of the error's own text, which may name files of the node."""


_RETRY_AFTER = _Field("retry_after_seconds", "retry-after-ms", _milliseconds, _seconds)
_CATALOG_INDEX = _Field("catalog_index", "catalog-index")

STATUS_TABLE: dict[type[EventLogError], _Row] = {
    # FAILED_PRECONDITION and not UNAVAILABLE: a generic client that repeats on UNAVAILABLE would ask the same node again.
    errors.NotLeader: _Row(
        StatusCode.FAILED_PRECONDITION, (_Field("leader_id", "leader-id"), _Field("leader_address", "leader-address", str, str))
    ),
    errors.OffsetOutOfRange: _Row(
        StatusCode.OUT_OF_RANGE, (_Field("log_start_offset", "log-start-offset"), _Field("high_watermark", "high-watermark"))
    ),
    errors.TopicNotFound: _Row(StatusCode.NOT_FOUND, (_CATALOG_INDEX,)),
    errors.TopicRecreated: _Row(StatusCode.NOT_FOUND, (_CATALOG_INDEX,)),
    errors.TopicExists: _Row(StatusCode.ALREADY_EXISTS),
    errors.BatchTooLarge: _Row(StatusCode.RESOURCE_EXHAUSTED, (_Field("limit_bytes", "limit-bytes"),)),
    errors.CorruptBatch: _Row(StatusCode.INVALID_ARGUMENT),
    # ABORTED: read again, decide again, write again.
    errors.WrongExpectedVersion: _Row(
        StatusCode.ABORTED,
        (_Field("actual_version", "actual-version"), _Field("expected_version", "expected-version", str, str)),
    ),
    errors.AggregateClosed: _Row(StatusCode.FAILED_PRECONDITION, (_Field("actual_version", "actual-version"),)),
    errors.DuplicateOutOfWindow: _Row(StatusCode.FAILED_PRECONDITION),
    errors.OutOfOrderSequence: _Row(StatusCode.FAILED_PRECONDITION, (_Field("expected_sequence", "expected-sequence"),)),
    errors.ProducerFenced: _Row(StatusCode.FAILED_PRECONDITION),
    errors.QuotaExceeded: _Row(StatusCode.RESOURCE_EXHAUSTED, (_RETRY_AFTER,)),
    errors.Overloaded: _Row(StatusCode.RESOURCE_EXHAUSTED, (_RETRY_AFTER,)),
    errors.DiskFull: _Row(StatusCode.RESOURCE_EXHAUSTED),
    errors.ResourceShortage: _Row(
        StatusCode.UNAVAILABLE, (), "the node is short of descriptors or memory; try again, or at another node"
    ),
    errors.TooManyPartitions: _Row(StatusCode.RESOURCE_EXHAUSTED),
    errors.NoQuorum: _Row(StatusCode.UNAVAILABLE),
    errors.PermissionDenied: _Row(StatusCode.PERMISSION_DENIED),
    errors.Unauthenticated: _Row(StatusCode.UNAUTHENTICATED),
    errors.ShuttingDown: _Row(StatusCode.UNAVAILABLE),
    errors.InvalidArgument: _Row(StatusCode.INVALID_ARGUMENT),
    errors.Unavailable: _Row(StatusCode.UNAVAILABLE),
    errors.MembershipRefused: _Row(StatusCode.FAILED_PRECONDITION),
    errors.NodeRemoved: _Row(StatusCode.FAILED_PRECONDITION),
    # UNKNOWN and not UNAVAILABLE or ABORTED: a client must not take it for "nothing happened" and repeat it without a sequence.
    errors.OutcomeUnknown: _Row(StatusCode.UNKNOWN),
    errors.DamagedData: _Row(StatusCode.DATA_LOSS, (), "the node found damaged data on its disk; its log says where"),
    errors.DataDirectoryError: _Row(StatusCode.INTERNAL, (), "the node cannot use its data directory; its log says why"),
    errors.BackupUnusable: _Row(StatusCode.FAILED_PRECONDITION),
    errors.FileGone: _Row(StatusCode.NOT_FOUND),
    errors.StorageFailed: _Row(StatusCode.INTERNAL, (), "the node's disk failed; go to another node"),
    errors.SettingsError: _Row(StatusCode.INVALID_ARGUMENT),
    errors.WrongRun: _Row(StatusCode.FAILED_PRECONDITION),
    errors.CodecError: _Row(StatusCode.INVALID_ARGUMENT),
    errors.NewerRelease: _Row(StatusCode.FAILED_PRECONDITION),
    errors.UnknownBatchFormat: _Row(StatusCode.INVALID_ARGUMENT),
}

_BY_CODE = {cls.code: (cls, row) for cls, row in STATUS_TABLE.items()}

# What a status means when no code of ours came with it.
_BY_STATUS: dict[StatusCode, type[EventLogError]] = {
    StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    StatusCode.UNAVAILABLE: errors.Unavailable,
}


def _row_of(error: EventLogError) -> _Row | None:
    for cls in type(error).__mro__:
        row = STATUS_TABLE.get(cls)
        if row is not None:
            return row
    return None


def error_details(error: EventLogError) -> dict[str, str]:
    """What the caller needs beside code and text, by trailer names. Also the `details` of a stream's `Error` message."""
    row = _row_of(error)
    return {} if row is None else {field.trailer: field.write(getattr(error, field.attribute)) for field in row.fields}


def public_message(error: EventLogError) -> str:
    """The text of the error as a remote caller may read it."""
    row = _row_of(error)
    return row.public_text if row is not None and row.public_text else str(error)


def status_of(error: EventLogError) -> CallStatus:
    """The status that ends a call with `error`."""
    if isinstance(error, RpcFailed):
        return CallStatus(code=error.status, message=str(error))  # Of a standard service, or passed on: no code of ours.
    row = _row_of(error)
    return CallStatus(
        code=StatusCode.INTERNAL if row is None else row.status,
        message=public_message(error),
        details={CODE_TRAILER: error.code, **error_details(error)},
    )


def error_from_code(code: str, message: str, details: Mapping[str, str]) -> EventLogError | None:
    """The error of a stable code with its attributes from `details`; None for a code that this version does not know."""
    found = _BY_CODE.get(code)
    if found is None:
        return None
    cls, row = found
    attributes = {}
    for field in row.fields:
        try:
            attributes[field.attribute] = field.read(details[field.trailer])
        except (KeyError, ValueError):
            continue  # A foreign or older server: the class's default stands.
    return cls(message, **attributes)


def error_of(status: int, message: str, trailers: Iterable[tuple[str, str | bytes]]) -> EventLogError:
    """The error that a status and its trailing metadata stand for; the inverse of `status_of`."""
    details: dict[str, str] = {}
    for name, value in trailers:
        if isinstance(value, str):
            details.setdefault(name, value)
    known = error_from_code(details.get(CODE_TRAILER, ""), message, details)
    if known is not None:
        return known
    try:
        code = StatusCode(status)
    except ValueError:
        code = StatusCode.UNKNOWN
    cls = _BY_STATUS.get(code)
    if cls is not None:
        return cls(message)
    return RpcFailed(message or f"the call failed with status {code.name}", code)


_PRINTABLE = "".join(chr(number) for number in range(0x20, 0x7F) if number != 0x25)
_PLAIN = re.compile(r"[ -$&-~]*")
_MESSAGE_CHARACTERS_MAX = 2048


def encode_status_text(message: str) -> str:
    """`grpc-message`: UTF-8, percent-encoded outside printable ASCII (gRPC over HTTP/2, "Responses")."""
    message = message[:_MESSAGE_CHARACTERS_MAX].strip()
    return message if _PLAIN.fullmatch(message) else quote(message, safe=_PRINTABLE, encoding="utf-8", errors="replace")


def decode_status_text(value: str) -> str:
    """The inverse of `encode_status_text`; never fails, as the text is for people."""
    return unquote(value, encoding="utf-8", errors="replace") if "%" in value else value
