"""How answers and errors look."""

import errno
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import attrs

from trio_eventlog.errors import EventLogError


class OutputFailed(EventLogError):
    """Standard output does not take what is written to it."""

    code = "OUTPUT"


def open_closed_streams() -> set[int]:
    """Put /dev/null where standard input, output or error is closed; returns which were.

    Otherwise the next file or connection that is opened becomes standard output, and what is printed goes there.
    """
    closed: set[int] = set()
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # The lowest number that is free, which is this one.
            assert opened == number
            os.set_inheritable(number, True)
            closed.add(number)
    if 0 in closed:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if 1 in closed:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if 2 in closed:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal or a locale that has no such letter is given what it has.
            stream.reconfigure(errors="backslashreplace")
    return closed


_WRITE_ERRNOS = frozenset((errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC))


def output_failure(error: OSError) -> OutputFailed | None:
    """`error` as one of standard output, if it is one.

    It does not say where it comes from. But what names a file has a file name, the disk of a node raises errors of its own, and
    connections end with other numbers.
    """
    if error.errno not in _WRITE_ERRNOS or error.filename is not None:
        return None
    return OutputFailed(f"standard output: {error.strerror}; what was written there is not complete")


def discard_output() -> None:
    """Nothing more comes to standard output, not even when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
