"""The command line `trio-eventlog`.

`parser` and `arguments` have what all commands share, `output` how answers and errors look; every other module is one command with
`add_parser(commands)`, which sets `run`: a function of the parsed arguments that returns the exit code.

Exit codes: 0 done; 1 refused or failed, with one line to standard error that says what, why and what to do; 2 usage.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from trio_eventlog.cli.loading import loading
from trio_eventlog.cli.output import OutputFailed, complain, discard_output, open_closed_streams, output_failure
from trio_eventlog.cli.parser import COMMANDS, Parser, add_command
from trio_eventlog.errors import EventLogError, SettingsError
from trio_eventlog.release import VERSION

FAILED = 1
USAGE = 2
INTERRUPTED = 130


def make_parser(command: str | None = None) -> Parser:
    """The parser of all commands.

    Args:
        command: only this one is looked at closely: the others have a name and a line of help, and their modules are not
            imported. None: all are.
    """
    parser = Parser(prog="trio-eventlog", description="A replicated, append-only event log.")
    parser.add_argument("--version", action="version", version=f"trio-eventlog {VERSION}")
    parser.set_defaults(writes_output=True)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    needed = {module: None for name, (module, _) in COMMANDS.items() if command in (None, name)}
    for name, (module, _) in COMMANDS.items():
        if module not in needed:
            add_command(commands, name)
        elif name not in commands.choices:
            importlib.import_module(f"trio_eventlog.cli.{module}").add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    is_output_closed = 1 in open_closed_streams()
    with loading():
        parser = make_parser(next((text for text in given if not text.startswith("-")), ""))
    parsed = parser.parse_args(given)
    try:
        _check_text(given)
        if is_output_closed and parsed.writes_output:
            raise OutputFailed("standard output is closed: give it a file, or /dev/null")
        code: int = parsed.run(parsed)
        sys.stdout.flush()
        return code
    except Exception as error:
        return _told(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return INTERRUPTED


def _check_text(given: Sequence[str]) -> None:
    """Python hands bytes that are no text on as lone surrogates, which nothing can encode."""
    for text in given:
        try:
            text.encode()
        except UnicodeEncodeError:
            encoding = sys.getfilesystemencoding()
            raise SettingsError(
                f"argument {os.fsencode(text)!r} is no text in {encoding}: names and values are text, in the encoding of the locale"
            ) from None


def _told(error: Exception) -> int:
    """Print an error that is meant for users, and return its exit code. Any other error is a fault of this program: raised again.

    Tasks fail in groups: the first error with a name for people is the one.
    """
    for kind, code in ((SettingsError, USAGE), (EventLogError, FAILED), (BrokenPipeError, 0), (OSError, FAILED)):
        found = _first(error, kind)
        if isinstance(found, EventLogError):
            complain(found)
        elif isinstance(found, BrokenPipeError):
            # The reader of the output has closed it, as `head` does. Without this, Python would report it once more at exit.
            discard_output()
        elif isinstance(found, OSError):
            failed = output_failure(found)
            if failed is None:
                continue
            complain(failed)
            discard_output()
        else:
            continue
        return code
    raise error


def _first(error: BaseException, kind: type[Exception]) -> BaseException | None:
    """`error` itself, or the first of its group, if it is of this kind."""
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, kind) else None
    found: BaseException | None = error.subgroup(kind)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
