"""Messages of syslog: how they follow each other on a connection, and what of them becomes a line.

Sources: RFC 5424 (messages), RFC 3164 (older ones), RFC 6587 (framing over TCP: by a count of octets, or by a newline).
"""

import re
from collections.abc import Iterator

from trio_eventlog.ingest.intake import LineIn

FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp", "audit", "alert",
    "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
)  # fmt: skip
SEVERITIES = ("FATAL", "FATAL", "FATAL", "ERROR", "WARN", "INFO", "INFO", "DEBUG")
"""emerg, alert and crit; err; warning; notice and info; debug."""
NIL = "-"
COUNT_DIGITS_MAX = 6

_PRIORITY = re.compile(r"<([0-9]{1,3})>")
_HEAD_5424 = re.compile(r"1 (\S+) (\S+) (\S+) (\S+) (\S+) ")
_ELEMENT = re.compile(r'\[([^\s="\]]+)((?: [^\s="\]]+="(?:[^"\\\]]|\\.)*")*)\]')
_PARAMETER = re.compile(r' ([^\s="\]]+)="((?:[^"\\\]]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_TIME_3164 = re.compile(r"([A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2}) (\S+) ")
_TAG_3164 = re.compile(r"([^\s:\[\]]{1,64})(?:\[([^\]]{1,64})\])?:? ?")
_BYTE_ORDER_MARK = "\ufeff"


class SyslogRefused(ValueError):
    """What came is no syslog, or a message that is too long."""


class SyslogFramer:
    """Messages of what arrives in any pieces.

    Args:
        message_bytes_max: a longer one ends the connection.
    """

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The messages that are whole now; all of them have to be taken. Raises SyslogRefused, behind those that are in order."""
        data, self._rest = self._rest + piece, b""
        place = 0
        while place < len(data):
            if data[place : place + 1].isdigit():
                space = data.find(b" ", place, place + COUNT_DIGITS_MAX + 1)
                digits = data[place:space] if space >= 0 else data[place:]
                if not digits.isdigit() or len(digits) > COUNT_DIGITS_MAX:
                    raise SyslogRefused("a message begins with a number of octets and a blank, or with <")
                if space < 0:
                    break
                size = int(digits)
                if size > self._message_bytes_max:
                    raise self._too_long()
                if len(data) < space + 1 + size:
                    break
                message = data[space + 1 : space + 1 + size]
                place = space + 1 + size
            else:
                end = data.find(b"\n", place)
                if end < 0:
                    break
                if end - place > self._message_bytes_max:
                    raise self._too_long()
                message = data[place:end]
                place = end + 1
            if message.strip():
                yield message
        self._rest = data[place:]
        if len(self._rest) > self._message_bytes_max + COUNT_DIGITS_MAX + 1:
            raise self._too_long()

    def end(self) -> list[bytes]:
        """The last message, when nothing ends it."""
        rest, self._rest = self._rest, b""
        return [rest] if rest.strip() and not rest[:1].isdigit() else []

    def _too_long(self) -> SyslogRefused:
        return SyslogRefused(f"a message of more than {self._message_bytes_max} bytes")


def line_of(message: bytes) -> LineIn:
    """A message as a line; what is not of either form is a line all the same, with all of it as its text."""
    text = message.decode(errors="replace").rstrip("\r\n\0")
    labels: dict[str, object] = {}
    level = ""
    found = _PRIORITY.match(text)
    if found and int(found[1]) < 8 * len(FACILITIES):
        facility, severity = divmod(int(found[1]), 8)
        labels["facility"] = FACILITIES[facility]
        level = SEVERITIES[severity]
        text = text[found.end() :]
    if head := _HEAD_5424.match(text):
        return _line_5424(head, text[head.end() :], level, labels)
    if head := _TIME_3164.match(text):
        # It has neither a year nor a zone: when it arrived is the better time.
        labels["syslog_timestamp"] = head[1]
        labels["host"] = head[2]
        text = text[head.end() :]
    service = ""
    if (tag := _TAG_3164.match(text)) and text[tag.end() - 2 : tag.end()].rstrip().endswith(":"):
        service = tag[1]
        if tag[2]:
            labels["procid"] = tag[2]
        text = text[tag.end() :]
    return LineIn(message=text, service=service, level=level, labels=labels)


def _line_5424(head: "re.Match[str]", rest: str, level: str, labels: dict[str, object]) -> LineIn:
    timestamp, host, app, process, message_id = head.groups()
    for name, value in (("host", host), ("procid", process), ("msgid", message_id)):
        if value != NIL:
            labels[name] = value
    if rest.startswith(NIL):
        rest = rest[1:]
    else:
        place = 0
        while element := _ELEMENT.match(rest, place):
            for parameter in _PARAMETER.finditer(element[2]):
                labels[f"{element[1]}.{parameter[1]}"] = _ESCAPE.sub(r"\1", parameter[2])
            place = element.end()
        rest = rest[place:]
    return LineIn(
        message=rest.removeprefix(" ").removeprefix(_BYTE_ORDER_MARK),
        service="" if app == NIL else app,
        level=level,
        timestamp=None if timestamp == NIL else timestamp,
        labels=labels,
    )
