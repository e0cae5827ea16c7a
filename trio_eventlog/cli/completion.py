"""`completion`: what a shell needs to complete commands and flags. `profiles`: which targets have a name."""

import argparse
import os

from trio_eventlog.cli.output import look_of, print_json, print_table
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.cli.profiles import profiles_path, read_profiles

SHELLS = ("bash", "zsh")
"""Those for which shtab knows the flags of commands within commands."""
FILE_METAVARS = frozenset({"FILE", "PATH"})
DIRECTORY_METAVARS = frozenset({"DIR", "DIRECTORY"})


def add_parser(commands: Commands) -> None:
    completion = add_command(
        commands,
        "completion",
        epilog="bash: source <(trio-eventlog completion bash). zsh: trio-eventlog completion zsh > DIR/_trio-eventlog, where DIR is"
        " in $fpath.",
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(run=complete)
    listing = add_command(commands, "profiles")
    listing.add_argument("--json", action="store_true", help="answer in JSON")
    listing.set_defaults(run=list_profiles)


def complete(arguments: argparse.Namespace) -> int:
    # Late, as no other command needs it.
    import shtab

    from trio_eventlog.cli import make_parser

    parser = make_parser()
    _mark_files(parser, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(parser, arguments.shell))
    return 0


def _mark_files(parser: argparse.ArgumentParser, file: object, directory: object) -> None:
    """Tell shtab which values are paths."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                _mark_files(child, file, directory)
        elif action.metavar in FILE_METAVARS:
            action.complete = file  # type: ignore[attr-defined]
        elif action.metavar in DIRECTORY_METAVARS or action.dest == "directory":
            action.complete = directory  # type: ignore[attr-defined]


def list_profiles(arguments: argparse.Namespace) -> int:
    profiles = read_profiles(profiles_path(os.environ))
    chosen = os.environ.get("TRIO_EVENTLOG_PROFILE") or profiles.default
    shown = sorted(profiles.by_name.values(), key=lambda profile: profile.name)
    if arguments.json:
        print_json([{"name": profile.name, "target": profile.target, "is_default": profile.name == chosen} for profile in shown])
        return 0
    if not shown:
        print(f"there are no profiles: {profiles.path} would have them")
        return 0
    print_table(
        ("PROFILE", "TARGET", "TLS", "DEFAULT"),
        [
            (
                profile.name,
                profile.target,
                "yes" if profile.tls or profile.tls_ca or profile.tls_cert else "no",
                "yes" if profile.name == chosen else None,
            )
            for profile in shown
        ],
        look_of(),
    )
    return 0
