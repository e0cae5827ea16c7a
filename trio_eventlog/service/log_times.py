"""Times as people write them who look for log lines."""

import datetime
import re

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.service.values import timestamp_ns
from trio_eventlog.setting_fields import parse_duration

NANOSECONDS = 1_000_000_000
_SECONDS = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?\Z", re.ASCII)


def parse_time(text: str, now_ns: int, name: str) -> int:
    """Nanoseconds since 1970 of a time: RFC 3339 with a zone, or seconds since 1970, or how long ago (`90s`, `15m`, `2h`, `7d`).

    Args:
        name: of the parameter, for the error.

    Raises:
        InvalidArgument: it is none of these, or before 1970.
    """
    if _SECONDS.match(text):
        seconds, _, fraction = text.partition(".")
        return int(seconds) * NANOSECONDS + int(fraction.ljust(9, "0") or 0)
    try:
        found = now_ns - round(parse_duration(text) * NANOSECONDS)
    except (ValueError, OverflowError):
        found = _calendar_time(text, name)
    if found < 0:
        raise InvalidArgument(f"{name}: {text[:100]!r} is before 1970")
    return found


def _calendar_time(text: str, name: str) -> int:
    try:
        when = datetime.datetime.fromisoformat(text)
        if when.tzinfo is None:
            raise InvalidArgument(f"{name}: {text[:100]!r} has no zone: end it with Z for UTC")
        return timestamp_ns(when)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(
            f"{name}: {text[:100]!r} is no time: write it as 2027-01-15T08:00:00Z, in seconds since 1970, or how long ago it was"
            " (90s, 15m, 2h, 7d)"
        ) from error
