"""What programs say of a line, checked, completed and put into the canonical form."""

import datetime
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import UNSET, Struct

from trio_eventlog.codec.log_lines import (
    LEVEL_UNKNOWN,
    SECOND_NS,
    TIMESTAMP_NS_MAX,
    LogLine,
    known_level,
    record_of,
    timestamp_text,
)
from trio_eventlog.errors import BatchTooLarge, InvalidArgument
from trio_eventlog.ingest.settings import IntakeSettings
from trio_eventlog.records import Record
from trio_eventlog.service.values import Caller, timestamp_ns

SERVICE_UNKNOWN = "unknown"
SERVICE_CHARACTERS_MAX = 200
LABEL_NAME_CHARACTERS_MAX = 200
ID_CHARACTERS_MAX = 64
LINE_OVERHEAD_BYTES = 128
"""What a line costs in memory beside its text, about."""
HOLD_BYTES = 256 << 10
"""Lines are counted among what requests hold by this size. The first so many are not: they are as little as any request has."""

ORIGINAL_LEVEL = "original_level"
"""Label: a level that is none of those that are known."""
ORIGINAL_TIMESTAMP = "original_timestamp"
"""Label: a time that no record can be stamped with."""
REPLACED_BYTES = "replaced_bytes"
"""Label: the line had bytes that are no UTF-8; U+FFFD stands in their place."""

_FRACTION = re.compile(r"[.,]([0-9]+)")
_PINO_LEVELS = {10: "TRACE", 20: "DEBUG", 30: "INFO", 40: "WARN", 50: "ERROR", 60: "FATAL"}


class LineIn(Struct, forbid_unknown_fields=True):
    """A line as programs send it. Only `message` has to be there.

    Attributes:
        service: empty: unknown.
        level: any name; a number is one of pino's. Empty: INFO.
        timestamp: RFC 3339 (without a zone: UTC), or a number of seconds, milliseconds, microseconds or nanoseconds since 1970,
            told apart by its size; None: now.
        labels: values that are no texts are written as JSON.
    """

    message: str
    service: str = ""
    level: str | int = ""
    timestamp: str | int | float | None = None
    labels: dict[str, Any] = {}
    trace_id: str = ""
    span_id: str = ""


class Intake:
    """Takes the lines of one request. All of them are received at one moment, from one caller, whose address and tenant they have.

    Args:
        node_id: of the node or gateway that takes them.
        has_replaced_bytes: what they came in was no UTF-8.
        hold: counts bytes among those that all requests hold; raises when there are too many.

    Attributes:
        records: what was taken so far.
    """

    def __init__(
        self,
        settings: IntakeSettings,
        *,
        received_ns: int,
        caller: Caller,
        node_id: str,
        has_replaced_bytes: bool = False,
        hold: Callable[[int], None] | None = None,
    ) -> None:
        self.records: list[Record] = []
        self._settings = settings
        self._received_ns = received_ns
        self._received_at = timestamp_text(received_ns)
        self._client_ip = caller.address.rpartition(":")[0].strip("[]")
        self._node_id = node_id
        self._tenant = caller.tenant
        self._has_replaced_bytes = has_replaced_bytes
        self._hold = hold
        self._size_bytes = 0
        self._room_bytes = min(HOLD_BYTES, settings.log_request_bytes_max)

    def take(self, given: LineIn) -> None:
        """One line.

        Raises:
            InvalidArgument: it cannot be taken; the text begins with the field.
            BatchTooLarge: the lines of this request are too many bytes.
            Whatever `hold` raises.
        """
        service, level, timestamp = given.service.strip() or SERVICE_UNKNOWN, given.level, given.timestamp
        texts = _label_texts(given.labels)
        if len(texts) > self._settings.log_labels_max:
            raise _bad("labels", f"{len(texts)} labels: a line may have {self._settings.log_labels_max}")
        named = known_level(_PINO_LEVELS.get(level, "") if isinstance(level, int) else level or LEVEL_UNKNOWN)
        if named is None:
            texts[ORIGINAL_LEVEL] = str(level)[:LABEL_NAME_CHARACTERS_MAX]
            named = LEVEL_UNKNOWN
        stamp_ns = self._received_ns if timestamp is None else parse_timestamp(timestamp)
        if not 0 < stamp_ns <= TIMESTAMP_NS_MAX:
            texts[ORIGINAL_TIMESTAMP] = str(timestamp)
            stamp_ns = self._received_ns
        if self._has_replaced_bytes and "\ufffd" in given.message:
            texts[REPLACED_BYTES] = "true"
        if len(service) > SERVICE_CHARACTERS_MAX:
            raise _bad("service", f"{len(service)} characters: the name of a service may have {SERVICE_CHARACTERS_MAX}")
        if len(given.trace_id) > ID_CHARACTERS_MAX or len(given.span_id) > ID_CHARACTERS_MAX:
            raise _bad("trace_id", f"an id may have {ID_CHARACTERS_MAX} characters")
        line = LogLine(
            service=service,
            level=named,
            message=given.message,
            timestamp=timestamp_text(stamp_ns),
            labels=texts,
            trace_id=given.trace_id.lower() or UNSET,
            span_id=given.span_id.lower() or UNSET,
            received_at=self._received_at,
            client_ip=self._client_ip,
            ingested_node_id=self._node_id,
            tenant=self._tenant,
        )
        try:
            record = record_of(line, stamp_ns)
        except UnicodeEncodeError as error:
            raise _bad("message", "it has half a surrogate pair, which no UTF-8 can hold") from error
        assert record.value is not None
        if len(record.value) > self._settings.log_line_bytes_max:
            raise _bad("message", f"the line has {len(record.value)} bytes: one may have {self._settings.log_line_bytes_max}")
        self._size_bytes += len(record.value) + LINE_OVERHEAD_BYTES
        if self._size_bytes > self._room_bytes:
            self._make_room()
        self.records.append(record)

    def _make_room(self) -> None:
        limit = self._settings.log_request_bytes_max
        if self._size_bytes > limit:
            raise BatchTooLarge(f"the lines of this request, completed, have more than {limit} bytes: send fewer at once", limit)
        while self._room_bytes < self._size_bytes:
            if self._hold is not None:
                self._hold(HOLD_BYTES)
            self._room_bytes = min(self._room_bytes + HOLD_BYTES, limit)


def _bad(field: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {why}")


def _label_texts(labels: Mapping[str, object]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in labels.items():
        if not name or len(name) > LABEL_NAME_CHARACTERS_MAX:
            raise _bad("labels", f"{name[:50]!r}: the name of a label has 1 to {LABEL_NAME_CHARACTERS_MAX} characters")
        texts[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return texts


def parse_timestamp(given: str | float) -> int:
    """Nanoseconds since 1970. Raises InvalidArgument: it is no time."""
    if isinstance(given, str):
        return _parse_text(given)
    size = abs(given)
    if size != size or size > 1e30:
        raise _bad("timestamp", f"{given}: it is no time")
    # Until the year 5138 seconds are below 1e11; milliseconds are above that from 1973 on, and so on.
    for limit, factor in ((1e11, SECOND_NS), (1e14, 1_000_000), (1e17, 1_000)):
        if size < limit:
            # In parts: as one product, a float has no room for nanoseconds.
            whole = int(given)
            return whole * factor + round((given - whole) * factor)
    return int(given)


def _parse_text(text: str) -> int:
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise _bad("timestamp", f"{text[:50]!r}: send a time as RFC 3339 has it, such as 2026-01-31T10:00:00Z") from error
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    stamp_ns = timestamp_ns(when.replace(microsecond=0))
    fraction = _FRACTION.search(text)
    return stamp_ns + int(fraction[1][:9].ljust(9, "0")) if fraction else stamp_ns
