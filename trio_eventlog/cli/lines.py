"""Input of `produce`: bytes of standard input or of a file, in large blocks, and the lines in them."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from trio_eventlog.errors import EventLogError

READ_BYTES = 1 << 20
"""Of one block. A pipe gives what is in it, which is a line when a person types it."""


class InputFailed(EventLogError):
    """Standard input, or a file, does not give what is wanted of it."""

    code = "INPUT"


@contextmanager
def open_input(path: str | None) -> Iterator["Input"]:
    """The file of this path; None or "-": standard input. Raises InputFailed."""
    if path is None or path == "-":
        yield Input(sys.stdin.fileno(), "standard input")
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputFailed(f"{path}: {error.strerror}") from None
    try:
        yield Input(descriptor, path)
    finally:
        os.close(descriptor)


class Input:
    """Bytes as they come.

    Attributes:
        name: for messages.
        is_typed: it is a terminal.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self.name = name
        self.is_typed = os.isatty(descriptor)
        try:
            # As much as one block at once, where the kernel permits it: fewer turns for the same bytes.
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, READ_BYTES)
        except OSError:
            pass  # No pipe, or the user has used up what pipes may hold.

    async def read(self) -> bytes:
        """At most a block; b"" at the end. Raises InputFailed."""
        return await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, READ_BYTES)
        except OSError as error:
            raise InputFailed(f"{self.name}: {error.strerror}") from None


class LineSplitter:
    """Bytes in, whole lines out, without their ends.

    Attributes:
        rest_bytes: of a line whose end has not come yet. Nothing bounds it here.
    """

    def __init__(self, end: bytes = b"\n") -> None:
        self._end = end
        self._rest: list[bytes] = []
        self.rest_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that end in `data`; the beginning of the next one is kept."""
        if len(self._end) > 1:
            # The end of a line may come in two parts.
            data = b"".join([*self._take_rest(), data])
        lines = data.split(self._end)
        if len(lines) > 1:
            lines[0] = b"".join([*self._take_rest(), lines[0]])
        rest = lines.pop()
        if rest:
            self._rest.append(rest)
            self.rest_bytes += len(rest)
        return lines

    def end(self) -> list[bytes]:
        """A last line that has no end."""
        rest = self._take_rest()
        return [b"".join(rest)] if rest else []

    def _take_rest(self) -> list[bytes]:
        rest, self._rest, self.rest_bytes = self._rest, [], 0
        return rest
