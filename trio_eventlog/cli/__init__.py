"""The command line `trio-eventlog`.

`arguments` has what all commands share, `output` how answers and errors look; every other module is one command with
`add_parser(commands)`, which sets `run`: a function of the parsed arguments that returns the exit code.

Exit codes: 0 done; 1 refused or failed, with one line to standard error that says what, why and what to do; 2 usage.
"""

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence

from trio_eventlog.cli import bench, cluster, consume, demo, log, produce, serve, topics
from trio_eventlog.cli.output import complain
from trio_eventlog.errors import EventLogError, SettingsError

FAILED = 1
USAGE = 2
INTERRUPTED = 130


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trio-eventlog", description="A replicated, append-only event log.", allow_abbrev=False)
    version = importlib.metadata.version("trio-eventlog")
    parser.add_argument("--version", action="version", version=f"trio-eventlog {version}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (serve, demo, produce, consume, topics, cluster, log, bench):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parsed = make_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        code = run(parsed)
        sys.stdout.flush()
        return code
    except SettingsError as error:
        complain(error)
        return USAGE
    except EventLogError as error:
        complain(error)
        return FAILED
    except BrokenPipeError:
        # Whoever read our output has had enough, as `head` does. Python would complain about it once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseExceptionGroup as group:
        return _run_failed(group)


def _run_failed(group: BaseExceptionGroup[BaseException]) -> int:
    """Tasks fail in groups. The first error with a name for people is told; anything else is a fault of ours, shown whole."""
    for kind, code in ((SettingsError, USAGE), (EventLogError, FAILED), (KeyboardInterrupt, INTERRUPTED)):
        found = group.subgroup(kind)
        if found is not None:
            error: BaseException = found
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, EventLogError):
                complain(error)
            return code
    raise group
