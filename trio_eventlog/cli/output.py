"""How answers and errors look."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import attrs

from trio_eventlog.errors import EventLogError


def complain(error: EventLogError) -> None:
    """One line to standard error."""
    text = " ".join(str(error).split()) or "it failed, and no reason was given"
    print(f"trio-eventlog: {error.code}: {text}", file=sys.stderr)


def print_json(value: Any) -> None:
    """One line of JSON; attrs values become objects."""
    print(json.dumps(value, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        return attrs.asdict(value, recurse=False)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; numbers to the right."""
    cells = [[*headings], *([str(cell) if cell is not None else "-" for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    is_number = [bool(rows) and all(isinstance(row[column], int | float) for row in rows) for column in range(len(headings))]
    for row in cells:
        padded = [
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, is_number, strict=True)
        ]
        print("  ".join(padded).rstrip())


def size_text(size_bytes: int) -> str:
    """`none` for 0, as in retention."""
    if not size_bytes:
        return "none"
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.4g} {unit}"
    return f"{size_bytes} B"


def duration_text(seconds: float) -> str:
    """`none` for 0, as in retention."""
    if not seconds:
        return "none"
    for unit, factor in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= factor and not seconds % factor:
            return f"{seconds / factor:.0f} {unit}"
    return f"{seconds:g} s"
