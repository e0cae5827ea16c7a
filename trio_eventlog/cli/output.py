"""How answers and errors look."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any, TextIO

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
    is_coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    code = painted(error.code, RED, Look(has_colours=is_coloured))
    print(f"trio-eventlog: {code}: {text}", file=sys.stderr)


def print_json(value: Any, out: TextIO | None = None) -> None:
    """One line of JSON; attrs values become objects. `out`: None: standard output."""
    print(json.dumps(value, default=_plain, ensure_ascii=False), file=out)


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        return attrs.asdict(value, recurse=False)
    raise TypeError(f"{type(value).__name__} has no JSON form")


@attrs.frozen(slots=True)
class Look:
    """What standard output can show.

    Attributes:
        width: columns that a line may take; None: any number, as in a file.
        has_colours: escapes for colours are understood.
    """

    width: int | None = None
    has_colours: bool = False


PLAIN = Look()
BOLD, RED, GREEN, YELLOW = "1", "31", "32", "33"
WORDS = {
    **dict.fromkeys(("alive", "leader"), GREEN),
    **dict.fromkeys(("suspect", "joining", "draining", "left", "opening", "candidate", "pre-candidate", "unknown"), YELLOW),
    **dict.fromkeys(("failed", "removed", "degraded"), RED),
}
COLOURED_COLUMNS = frozenset({"STATUS", "ROLE", "CATALOG"})
"""Where these words are states. Elsewhere they may be names."""
COLUMN_WIDTH_MIN = 10
"""Columns are not made narrower than this."""
GAP = "  "


def look_of(colour: str = "auto") -> Look:
    """Of standard output as it is.

    Args:
        colour: "always", "never", or "auto": on a terminal that has colours, unless NO_COLOR is set.
    """
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else None
    is_capable = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Look(width, colour == "always" or (colour == "auto" and is_capable))


def painted(text: str, style: str, look: Look) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if style and look.has_colours else text


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]], look: Look = PLAIN) -> None:
    """Columns as wide as their widest cell; numbers to the right.

    Where that is too wide, cells of text are continued on lines below; where that is not enough either, a row becomes a block
    of lines, one for each cell.
    """
    cells = [[*headings], *([str(cell) if cell is not None else "-" for cell in row] for row in rows)]
    is_number = [bool(rows) and all(isinstance(row[column], int | float) for row in rows) for column in range(len(headings))]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    if look.width is not None:
        found = _narrowed(widths, is_number, look.width)
        if found is None:
            _print_blocks(headings, cells[1:], look)
            return
        widths = found
    for number, row in enumerate(cells):
        lines = [_folded(cell, width) for cell, width in zip(row, widths, strict=True)]
        for line in range(max(map(len, lines))):
            parts = [column[line] if line < len(column) else "" for column in lines]
            padded = [
                part.rjust(width) if right else part.ljust(width)
                for part, width, right in zip(parts, widths, is_number, strict=True)
            ]
            padded[-1] = padded[-1].rstrip()
            styles = [BOLD if not number else _style(heading, cell) for heading, cell in zip(headings, row, strict=True)]
            text = GAP.join(painted(part, style, look) for part, style in zip(padded, styles, strict=True))
            print(text if look.has_colours else text.rstrip())


def _style(heading: str, cell: str) -> str:
    return WORDS.get(cell, "") if heading in COLOURED_COLUMNS else ""


def _narrowed(widths: Sequence[int], is_number: Sequence[bool], width_max: int) -> list[int] | None:
    """Widths that together fit: the widest columns of text give way first. None: they cannot."""
    found = list(widths)
    while (surplus := sum(found) + len(GAP) * (len(found) - 1) - width_max) > 0:
        texts = sorted((column for column in range(len(found)) if not is_number[column]), key=lambda column: -found[column])
        if not texts or found[texts[0]] <= COLUMN_WIDTH_MIN:
            return None
        next_width = max([COLUMN_WIDTH_MIN, *(found[column] for column in texts if found[column] < found[texts[0]])])
        found[texts[0]] = max(found[texts[0]] - surplus, min(next_width, found[texts[0]] - 1), COLUMN_WIDTH_MIN)
    return found


def _folded(cell: str, width: int) -> list[str]:
    """Lines of at most this width, broken behind a comma or at a blank where there is one."""
    lines: list[str] = []
    while len(cell) > width:
        end = max(cell.rfind(",", 0, width) + 1, cell.rfind(" ", 0, width + 1)) or width
        if end <= 0:
            end = width
        lines.append(cell[:end].rstrip())
        cell = cell[end:].lstrip()
    return [*lines, cell]


def _print_blocks(headings: Sequence[str], rows: Sequence[Sequence[str]], look: Look) -> None:
    width = max(map(len, headings))
    for number, row in enumerate(rows):
        if number:
            print()
        for heading, cell in zip(headings, row, strict=True):
            print(painted(heading.ljust(width), BOLD, look) + GAP + painted(cell, _style(heading, cell), look))


def size_text(size_bytes: int) -> str:
    """`none` for 0, as in retention."""
    return byte_text(size_bytes) if size_bytes else "none"


def byte_text(size_bytes: int) -> str:
    """In the largest unit of which there is at least one."""
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
