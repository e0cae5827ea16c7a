"""The canonical form of a log line: one JSON object, fields in a fixed order, no spaces, UTF-8. The record's key is the service.

The form is canonical so that a search can look for bytes before it decodes anything: equal texts are equal bytes. Optional fields
that a line does not have are left out; all others are always there.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from trio_eventlog.records import LOGS_TOPIC as LOGS_TOPIC
from trio_eventlog.records import Record

LOGS_PARTITIONS = 4

SECOND_NS = 1_000_000_000
TIMESTAMP_NS_MAX = (1 << 63) - 1
"""The last moment that a record can be stamped with, in the year 2262."""

LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
LEVEL_UNKNOWN = "INFO"

_LEVEL_OF = {
    **{name: name for name in LEVELS},
    "VERBOSE": "DEBUG", "FINE": "DEBUG", "FINER": "TRACE", "FINEST": "TRACE", "SILLY": "TRACE", "CONFIG": "DEBUG", "DBG": "DEBUG",
    "INFORMATION": "INFO", "INFORMATIONAL": "INFO", "INF": "INFO", "NOTICE": "INFO", "LOG": "INFO", "HTTP": "INFO",
    "SUCCESS": "INFO",
    "WARNING": "WARN", "WRN": "WARN",
    "ERR": "ERROR", "EROR": "ERROR", "SEVERE": "ERROR",
    "CRITICAL": "FATAL", "CRIT": "FATAL", "ALERT": "FATAL", "EMERG": "FATAL", "EMERGENCY": "FATAL", "PANIC": "FATAL",
}  # fmt: skip
"""What programs call their levels, and the one of LEVELS that it is nearest to."""


_LEVEL_CHARACTERS_MAX = 32
"""A longer text is none of the names, and is not kept in the cache of them."""


def known_level(name: str) -> str | None:
    """The one of LEVELS that `name` means; None when it means none of them."""
    return _known_level(name) if len(name) <= _LEVEL_CHARACTERS_MAX else None


@functools.lru_cache(maxsize=1024)
def _known_level(name: str) -> str | None:
    return _LEVEL_OF.get(name.strip().upper())


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line as it is stored.

    Attributes:
        service: which program wrote it; places the line.
        level: one of LEVELS.
        timestamp, received_at: RFC 3339 in UTC with nine digits: when the program says it happened, and when a node took it.
        labels: names and values.
        trace_id, span_id: lower-case hex.
        client_ip: where it came from; "" within a process.
        ingested_node_id: of the node or gateway that took it.
    """

    service: str
    level: str
    message: str
    timestamp: str
    labels: Mapping[str, str]
    trace_id: str | UnsetType = UNSET
    span_id: str | UnsetType = UNSET
    received_at: str
    client_ip: str
    ingested_node_id: str
    tenant: str


class StoredLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line as it is read back; a record of another form shows as what of it there is."""

    service: str = ""
    level: str = ""
    message: str = ""
    timestamp: str = ""
    labels: dict[str, str] = {}
    trace_id: str = ""
    span_id: str = ""
    received_at: str = ""
    client_ip: str = ""
    ingested_node_id: str = ""
    tenant: str = ""


encode_line: Callable[[LogLine], bytes] = msgspec.json.Encoder().encode
_decode: Callable[[Any], StoredLine] = msgspec.json.Decoder(StoredLine).decode


def decode_line(value: bytes | memoryview) -> StoredLine:
    """Raises msgspec.DecodeError, UnicodeDecodeError: it is no line."""
    return _decode(value)


def record_of(line: LogLine, timestamp_ns: int) -> Record:
    """The record that holds it."""
    return Record(key=line.service.encode(), value=encode_line(line), timestamp_ns=timestamp_ns)


def timestamp_text(timestamp_ns: int) -> str:
    """RFC 3339 in UTC with nine digits of a second: texts are ordered as the times are."""
    seconds, nanoseconds = divmod(timestamp_ns, SECOND_NS)
    return f"{_second_text(seconds)}.{nanoseconds:09d}Z"


@functools.lru_cache(maxsize=4096)
def _second_text(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    year, month, day = _civil(days)
    return f"{year:04d}-{month:02d}-{day:02d}T{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of a number of days since 1970-01-01, in the proleptic Gregorian calendar."""
    # Counted from 0000-03-01, so that the day that is not in every year is the last one of a year; an era has 400 of them.
    era, day_of_era = divmod(days + 719468, 146097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
    return year_of_era + era * 400 + (month <= 2), month, day_of_year - (153 * shifted_month + 2) // 5 + 1
