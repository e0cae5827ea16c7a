"""How `consume` writes records: values, JSON, text, or as a format says."""

import argparse
import base64
import datetime
import json
import re
from collections.abc import Callable, Iterable, Sequence

import attrs

from trio_eventlog.cli.arguments import escaped
from trio_eventlog.records import Record

NANOSECONDS = 1_000_000_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

Getter = Callable[[Record, str, int], bytes | int]
"""Of a record, its topic and its partition."""

FIELDS: dict[str, tuple[str, Getter]] = {
    "t": ("topic", lambda record, topic, partition: topic.encode()),
    "p": ("partition", lambda record, topic, partition: partition),
    "o": ("offset", lambda record, topic, partition: record.offset),
    "k": ("key", lambda record, topic, partition: record.key or b""),
    "K": ("length of the key, -1 when it is null", lambda record, topic, partition: _length(record.key)),
    "v": ("value", lambda record, topic, partition: record.value or b""),
    "V": ("length of the value, -1 when it is null", lambda record, topic, partition: _length(record.value)),
    "h": ("headers, as name=value,...", lambda record, topic, partition: _headers(record)),
    "T": ("milliseconds since 1970", lambda record, topic, partition: record.timestamp_ns // 1_000_000),
    "d": ("time as 2026-11-02T12:00:00.000000000Z", lambda record, topic, partition: time_or_seconds(record).encode()),
}
ALIASES = {"s": "v", "S": "V"}
"""As kcat has them."""
NAMES = ("value", "json", "text")
_DIRECTIVE = re.compile(rb"%(.?)", re.DOTALL)


@attrs.frozen
class Format:
    """A format with its fields: `template` has a % for each of them."""

    template: bytes
    getters: tuple[Getter, ...]

    def write(self, records: Sequence[Record], topic: str, partition: int) -> bytes:
        template, getters = self.template, self.getters
        return b"".join([template % tuple(get(record, topic, partition) for get in getters) for record in records])


def output_format(text: str) -> str | Format:
    """argparse type: one of `NAMES`, or a Format."""
    if text in NAMES:
        return text
    if "%" not in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither {', '.join(NAMES)} nor a format such as '%p %o %k %v\\n': it has no % in it"
        )
    getters: list[Getter] = []

    def replaced(found: re.Match[bytes]) -> bytes:
        name = found[1].decode(errors="replace")
        name = ALIASES.get(name, name)
        if name == "%":
            return b"%%"
        if name not in FIELDS:
            known = ", ".join(f"%{field} {meaning}" for field, (meaning, _) in FIELDS.items())
            raise argparse.ArgumentTypeError(f"{text!r}: there is no %{name}. There are {known}, and %% for a %")
        getters.append(FIELDS[name][1])
        return b"%b" if name not in "poKVT" else b"%d"

    return Format(_DIRECTIVE.sub(replaced, escaped(text)), tuple(getters))


def write_values(values: Sequence[bytes]) -> bytes:
    """A line each."""
    return b"\n".join(values) + b"\n"


def write_text(records: Sequence[Record], topic: str, partition: int) -> bytes:
    """Partition, offset, time, key and value, between tabs."""
    return b"".join(
        b"%d:%d\t%s\t%s\t%s\n"
        % (partition, record.offset, time_or_seconds(record).encode(), record.key or b"", record.value or b"")
        for record in records
    )


def write_json(records: Sequence[Record], topic: str, partition: int, values: str = "auto") -> bytes:
    """An object a line.

    Args:
        values: how keys and values are written. "auto": as text where they are text, else in base64; "base64": always so; "text":
            as text, with escapes for bytes that are none.
    """
    return "".join(_lines(records, topic, partition, values)).encode()


def _lines(records: Sequence[Record], topic: str, partition: int, values: str) -> Iterable[str]:
    for record in records:
        time = time_of(record)
        fields: dict[str, object] = {"topic": topic, "partition": partition, "offset": record.offset, "timestamp": time or ""}
        if time is None:
            fields["timestamp_ns"] = record.timestamp_ns
        if record.key is not None:
            fields.update(_readable("key", record.key, values))
        fields.update(_readable("value", record.value, values))
        if record.headers:
            fields["headers"] = [{"key": header.key, **_readable("value", header.value, values)} for header in record.headers]
        yield json.dumps(fields, ensure_ascii=False) + "\n"


def _readable(name: str, data: bytes | None, values: str) -> dict[str, str | None]:
    """Text as it is; base64 under a name that says so; null as it is."""
    if data is None:
        return {name: None}
    if values != "base64":
        try:
            return {name: data.decode()}
        except UnicodeDecodeError:
            if values == "text":
                return {name: data.decode(errors="backslashreplace")}
    return {f"{name}_base64": base64.b64encode(data).decode()}


def _length(data: bytes | None) -> int:
    return -1 if data is None else len(data)


def _headers(record: Record) -> bytes:
    return b",".join(b"%b=%b" % (header.key.encode(errors="backslashreplace"), header.value) for header in record.headers)


def time_of(record: Record) -> str | None:
    """ "" when the record has none; None when it is outside of the years 1 to 9999.

    The log looks at the timestamps of batches only: what a producer of another make puts into a record may be anything.
    """
    if not record.timestamp_ns:
        return ""
    seconds, nanos = divmod(record.timestamp_ns, NANOSECONDS)
    try:
        when = _EPOCH + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return None
    return f"{when.replace(tzinfo=None).isoformat()}.{nanos:09d}Z"


def time_or_seconds(record: Record) -> str:
    """What no calendar has is given as seconds since 1970, marked by an @ as `date` does."""
    text = time_of(record)
    if text is not None:
        return text
    sign, nanoseconds = ("-" if record.timestamp_ns < 0 else ""), abs(record.timestamp_ns)
    return f"@{sign}{nanoseconds // NANOSECONDS}.{nanoseconds % NANOSECONDS:09d}"
