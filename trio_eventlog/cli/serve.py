"""`serve`: one node."""

import argparse
import os

from trio_eventlog.cli.loading import loading
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.setting_aliases import alias_notes
from trio_eventlog.settings import NodeSettings, add_flags, load_settings, read_settings_file


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "serve",
        usage="trio-eventlog serve [--config FILE] [--SETTING VALUE ...]",
        epilog="Every setting can also be given as a variable (TRIO_EVENTLOG_SEGMENT_BYTES=64MiB) or in the file"
        ' (segment_bytes = "64MiB"). A flag comes before a variable, a variable before the file.',
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings; also TRIO_EVENTLOG_CONFIG")
    add_flags(parser, NodeSettings)
    # A supervisor may close what it does not read.
    parser.set_defaults(run=run, writes_output=False)


def run(arguments: argparse.Namespace) -> int:
    # Late, as it brings in the whole node, which client commands do not need.
    with loading():
        from trio_eventlog.daemon import run_daemon

    path = arguments.config or os.environ.get("TRIO_EVENTLOG_CONFIG") or ""
    settings = load_settings(
        NodeSettings,
        flags=vars(arguments),
        environment=os.environ,
        file=read_settings_file(path) if path else None,
        file_name=path,
    )
    run_daemon(settings, alias_notes(os.environ))
    return 0
