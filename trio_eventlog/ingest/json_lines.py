"""Lines as JSON: an array, an object with `logs`, a single line, or one line of text for each."""

from collections.abc import Callable, Iterator

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from trio_eventlog.ingest.intake import LineIn

OnBad = Callable[[int, Exception], None]
"""Called with the number of a line, from 0, and what is wrong with it: raises, or notes it."""


class JsonShape(Struct):
    """By which fields an object is told to be lines, or an export of OpenTelemetry."""

    logs: Raw | UnsetType = UNSET
    resource_logs: Raw | UnsetType = msgspec.field(default=UNSET, name="resourceLogs")


_shape = msgspec.json.Decoder(JsonShape)
_lines = msgspec.json.Decoder(list[LineIn])
_raw_lines = msgspec.json.Decoder(list[Raw])
_line = msgspec.json.Decoder(LineIn)


def shape_of(data: bytes) -> JsonShape | None:
    """None: it is an array. Raises msgspec.DecodeError: it is no JSON, or neither an object nor an array."""
    return None if data.lstrip()[:1] == b"[" else _shape.decode(data)


def lines_of(data: bytes, shape: JsonShape | None, on_bad: OnBad) -> Iterator[LineIn | None]:
    """The lines of a body of that shape; None in the place of one that `on_bad` was told of. Raises msgspec.DecodeError."""
    array: bytes | Raw = data
    if shape is not None:
        if shape.logs is UNSET:
            array = b"[" + data + b"]"
        else:
            array = shape.logs
    try:
        yield from _lines.decode(array)
        return
    except msgspec.ValidationError:
        raws = _raw_lines.decode(array)
    # One of them is not as it should be: which one?
    for number, raw in enumerate(raws):
        try:
            line = _line.decode(raw)
        except msgspec.DecodeError as error:
            on_bad(number, error)
            yield None
        else:
            yield line


def lines_of_text(data: bytes, on_bad: OnBad) -> Iterator[LineIn | None]:
    """One JSON object a line; None in the place of an empty line, and of one that `on_bad` was told of."""
    for number, text in enumerate(data.split(b"\n")):
        line: LineIn | None = None
        try:
            if text and not text.isspace():
                line = _line.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            on_bad(number, error)
        yield line
