"""The parser of every command. It imports little, so that help and mistakes are told at once."""

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

Commands = Any
"""What `add_subparsers` gives; argparse does not name its type."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are those of the command that was typed, and name what was perhaps meant.

    Flags cannot be abbreviated: an abbreviation that works today would break with the next flag.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(allow_abbrev=False, **more)
        self._list_dest = ""
        # "-10m" and "-10" are values, and no flags of ours look like them. argparse knows plain numbers only.
        self._negative_number_matcher = re.compile(r"-[0-9]")

    def add_list(self, dest: str, *, nargs: str, **more: Any) -> None:
        """The last positional argument, which takes all others, also those that stand behind flags."""
        self._list_dest = dest
        self.add_argument(dest, nargs=nargs, **more)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """argparse collects what commands do not know, and has the outermost parser complain of it, with its own usage."""
        (parsed, unknown) = super().parse_known_args(args, namespace)
        if unknown and self._list_dest and (unknown[0] == "--" or not any(text.startswith("-") for text in unknown)):
            # argparse gives a list what stands before the first flag only.
            setattr(parsed, self._list_dest, [*getattr(parsed, self._list_dest), *unknown[unknown[0] == "--" :]])
            unknown = []
        if unknown:
            flags = [text for text in unknown if text.startswith("-")]
            guess = _nearest(flags[0].partition("=")[0], self._option_string_actions) if flags else ""
            self.error(f"unknown argument{'s' if len(unknown) > 1 else ''} {' '.join(unknown)}{guess}")
        assert parsed is not None
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse has no other seam for this; from Python 3.14 on it makes suggestions by itself.
        if action.choices is not None and value not in action.choices and isinstance(action, argparse._SubParsersAction):
            known = list(action.choices)
            raise argparse.ArgumentError(action, f"there is no {value!r}{_nearest(value, known)} There are {', '.join(known)}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        """Usage, the error, and where help is; exit code 2."""
        super().error(f"{message}\n`{self.prog} --help` explains")


def _nearest(text: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(text, known, n=1)
    return f"; did you mean {found[0]}?" if found else "."


COMMANDS = {
    "serve": ("serve", "run one node"),
    "demo": ("demo", "three real nodes on this machine; the leader is killed while records flow, and nothing is lost"),
    "produce": ("produce", "make records of values, or of the lines of a file or of standard input"),
    "consume": ("consume", "write the records of topics to standard output"),
    "topics": ("topics", "list, create, describe and delete topics"),
    "events": ("events", "append events to aggregates, show them, follow them"),
    "logs": ("logs", "find log lines by service, level, time and text, and follow them"),
    "members": ("cluster", "the nodes of the cluster"),
    "status": ("cluster", "the cluster as Raft sees it, asked of every node"),
    "leader": ("cluster", "who leads"),
    "node": ("cluster", "take nodes out of the cluster, one at a time"),
    "backup": ("backup", "copy the whole cluster while it works, into a directory or an archive; or verify such a copy"),
    "restore": ("backup", "make the first node of a new cluster from a backup"),
    "recover": ("recover", "go on with what is left after a majority was lost for good, as a new cluster"),
    "log": ("log", "look at a data directory; the node must not run"),
    "bench": ("bench", "measure a cluster"),
    "loadgen": ("loadgen", "send log lines as four services might write them"),
    "completion": ("completion", "write a script by which a shell completes commands and flags"),
    "profiles": ("completion", "the targets that have a name"),
}
"""By name: the module of `cli` that has the command, and what it does in a line."""


def add_command(commands: Commands, name: str, help: str = "", **more: Any) -> Parser:  # noqa: A002
    """A command of `commands`; without `help`, one of COMMANDS."""
    help = help or COMMANDS[name][1]  # noqa: A001
    parser: Parser = commands.add_parser(name, help=help, description=help[:1].upper() + help[1:] + ".", **more)
    return parser
