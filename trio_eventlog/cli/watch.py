"""Output that is refreshed until the user ends it; and questions before an action that cannot be undone."""

import argparse
import contextlib
import io
import sys
from collections.abc import Awaitable, Callable

import trio

from trio_eventlog.cli.arguments import WATCH_SECONDS_MIN
from trio_eventlog.cli.interruption import interruptible
from trio_eventlog.cli.output import complain, look_of
from trio_eventlog.client import Client
from trio_eventlog.errors import EventLogError

CLEAR = "\x1b[H\x1b[2J"
"""The terminal's first place, and nothing on it."""

Act = Callable[[Client, argparse.Namespace], Awaitable[int]]


class NotConfirmed(EventLogError):
    """What cannot be undone was not agreed to."""

    code = "NOT_CONFIRMED"


def watched(act: Act) -> Act:
    """`act`, again and again if --watch says so. On a terminal each round takes the place of the one before."""

    async def run(client: Client, arguments: argparse.Namespace) -> int:
        # Of standard output itself: what a round writes is gathered first.
        arguments.look = look_of(arguments.color)
        if arguments.watch is None:
            return await act(client, arguments)
        async with interruptible() as interruption:
            with interruption.scope:
                while True:
                    await _show_once(act, client, arguments)
                    await trio.sleep(max(arguments.watch, WATCH_SECONDS_MIN))
        return interruption.exit_code

    return run


async def _show_once(act: Act, client: Client, arguments: argparse.Namespace) -> None:
    # Written at once when it is complete: a terminal that is cleared before the answers are there flickers.
    text = io.StringIO()
    failure: EventLogError | None = None
    look = arguments.look
    try:
        with contextlib.redirect_stdout(text):
            await act(client, arguments)
    except EventLogError as error:
        failure = error
    begin = CLEAR if look.width is not None else ""
    end = "" if look.width is not None or arguments.json else "\n"
    sys.stdout.write(f"{begin}{text.getvalue()}{end}")
    sys.stdout.flush()
    if failure is not None:
        complain(failure)


async def confirm(question: str) -> None:
    """Ask on the terminal. Raises NotConfirmed without a yes, and where there is no terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotConfirmed(f"{question} There is no terminal to ask on: say --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    answer = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    if answer.strip().lower() not in ("y", "yes"):
        raise NotConfirmed("nothing was done")
