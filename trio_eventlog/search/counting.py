"""What stands in canonical lines: services, levels and labels, found without decoding the lines."""

import re
from collections.abc import Iterable

import msgspec

LINE_FRONT = re.compile(rb'\{"service":"([^"\\]*(?:\\.[^"\\]*)*)","level":"([^"\\]*(?:\\.[^"\\]*)*)",')
"""How each canonical line begins. Within a line it stands nowhere else: quotes in texts are escaped."""
LINE_LABELS = re.compile(rb',"labels":(\{(?:[^"{}]|"[^"\\]*(?:\\.[^"\\]*)*")*\})')

_decode_labels = msgspec.json.Decoder(dict[str, str]).decode
_decode_text = msgspec.json.Decoder(str).decode


def fronts(data: bytes) -> list[tuple[bytes, bytes]]:
    """Service and level, as they are encoded, of each line in `data`, which are lines with anything between them."""
    return LINE_FRONT.findall(data)


def decoded(text: bytes) -> str:
    """A text of a line whose quotes were taken off."""
    return _decode_text(b'"' + text + b'"')


def label_maps(data: bytes) -> Iterable[dict[str, str]]:
    """The different sets of labels of the lines in `data`."""
    for found in dict.fromkeys(LINE_LABELS.findall(data)):
        try:
            yield _decode_labels(found)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # It is of no canonical line.
