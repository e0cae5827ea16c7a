"""Write the reference pages that follow from the code, or check that they are current.

python docs/reference/generate.py           # write
python docs/reference/generate.py --check   # exit 1 and name the pages that differ
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from trio_eventlog.agent.metrics import METRICS
from trio_eventlog.cli import make_parser
from trio_eventlog.http.problems import EXACT_STATUSES, STATUS_OF_GRPC
from trio_eventlog.rpc.status import STATUS_TABLE
from trio_eventlog.setting_aliases import REFERENCE as ALIASES_REFERENCE
from trio_eventlog.settings import ClientSettings, NodeSettings, reference_table

HOME = Path(__file__).resolve().parent
ALERTS = HOME.parents[1] / "deploy" / "monitoring" / "alerts.yaml"

SETTINGS = """\
# Settings

<!-- Written by docs/reference/generate.py from the fields themselves; change those. -->

A setting is read from, in this order: the flag of `trio-eventlog serve` (`--segment-bytes 64MiB`), the variable
(`TRIO_EVENTLOG_SEGMENT_BYTES=64MiB`), the TOML file that `--config` names (`segment_bytes = "64MiB"`), the default. An embedded
node is given a `NodeSettings` value. Unknown keys are refused by name, with the nearest known one; a value that cannot be is
refused with the setting's name before anything starts.

* SIZE: bytes, or a number with `KiB`, `MiB`, `GiB` (powers of 1024) or `kB`, `MB`, `GB` (of 1000).
* DURATION: seconds, or a number with `us`, `ms`, `s`, `m`, `h` or `d`.
* HOST:PORT: an IPv6 host stands in brackets. Several are separated by commas in a variable, and an array in TOML.
* BOOL: `true` or `false`; as a flag `--name` or `--no-name`.

## Of a node

{node}
### Variables of others

{aliases}
## Of a client

Client commands take these as `--set NAME=VALUE`, as variables, and from the file that their `--config` names; programs give
`open_client` a `ClientSettings` value.

{client}"""

COMMAND_LINE = """\
# The command line

<!-- Written by docs/reference/generate.py from the parsers themselves; change those. -->

`trio-eventlog COMMAND`, also `python -m trio_eventlog COMMAND`. Exit codes: 0 done; 1 refused or failed, with one line on standard
error that says what, why and what to do; 2 usage or settings. The flags of `serve` beside those below are the
[settings](settings.md).

{commands}"""

ERRORS = """\
# Errors

<!-- Written by docs/reference/generate.py from the classes and the status table themselves; change those. -->

Everything that this package raises on purpose is an `EventLogError` with a stable `code`. In an embedded node and in a client it is
the same class with the same attributes. Over gRPC the code is in the trailer `eventlog-error-code`, and the attributes are in
trailers beside it. Over HTTP the status is that of the table, and code and attributes are members of an `application/problem+json`.
*Repeat*: the same call may succeed later, or at another node.

| code | class | means | repeat | gRPC status | HTTP | trailers |
| --- | --- | --- | --- | --- | --- | --- |
{errors}
"""


METRICS_PAGE = """\
# Metrics

<!-- Written by docs/reference/generate.py from the metrics themselves; change those in trio_eventlog/agent/metrics.py. -->

`GET /metrics` on the port of every node, in the text format of Prometheus, or as OpenMetrics when `Accept` asks for it. A node
shows itself alone. A histogram has `_bucket`, `_sum` and `_count`. Partitions with series of their own are bounded by
`metrics_partitions_max`; the catalog, which has no topic, is always there.

| name | kind | labels | means |
| --- | --- | --- | --- |
{metrics}

## Alerts

Rules for Prometheus are in `deploy/monitoring/alerts.yaml`, a dashboard for Grafana beside them.
[Runbooks](../runbooks.md) says what to do.

| alert | query | for |
| --- | --- | --- |
{alerts}
"""


def _metrics() -> Iterator[str]:
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.help} |"


def _alerts() -> Iterator[str]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in group["rules"]:
        yield f"| [{rule['alert']}](../runbooks.md#{rule['alert'].lower()}) | `{rule['expr']}` | {rule.get('for', '')} |"


def _errors() -> Iterator[str]:
    for error, row in sorted(STATUS_TABLE.items(), key=lambda item: item[0].code):
        summary = " ".join((error.__doc__ or "").split("\n\n")[0].split())
        http_status = EXACT_STATUSES.get(error, STATUS_OF_GRPC[row.status.name])
        trailers = ", ".join(f"`{field.trailer}`" for field in row.fields)
        repeat = "yes" if error.retryable else ""
        yield f"| `{error.code}` | `{error.__name__}` | {summary} | {repeat} | {row.status.name} | {http_status} | {trailers} |"


def pages() -> dict[str, str]:
    return {
        "errors.md": ERRORS.format(errors="\n".join(_errors())),
        "metrics.md": METRICS_PAGE.format(metrics="\n".join(_metrics()), alerts="\n".join(_alerts())),
        "settings.md": SETTINGS.format(
            aliases=ALIASES_REFERENCE, node=reference_table(NodeSettings), client=reference_table(ClientSettings)
        ),
        "command-line.md": COMMAND_LINE.format(commands="\n".join(_commands(make_parser()))),
    }


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield from _command(parser)
    for action in nested:
        for child in action.choices.values():
            yield from _commands(child)


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    positional = [action for action in parser._actions if not action.option_strings]
    words = [parser.prog, *(str(action.metavar or action.dest).upper() for action in positional)]
    yield f"## `{' '.join(words)}`\n"
    yield f"{parser.description}\n"
    is_serve = parser.prog.endswith(" serve")
    rows = [_row(action) for action in parser._actions if _is_listed(action, is_serve)]
    if rows:
        yield "\n".join(["| flag | |", "| --- | --- |", *rows]) + "\n"


def _is_listed(action: argparse.Action, is_serve: bool) -> bool:
    return bool(action.option_strings) and action.dest != "help" and not (is_serve and action.dest in NodeSettings.__slots__)


def _row(action: argparse.Action) -> str:
    value = str(action.metavar or ("|".join(map(str, action.choices)) if action.choices else ""))
    flag = f"{action.option_strings[0]} {value}".strip().replace("|", "\\|")
    return f"| `{flag}` | {(action.help or '').replace('%%', '%').replace('|', chr(92) + '|')} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [name for name, text in pages().items() if not (HOME / name).exists() or (HOME / name).read_text() != text]
    for name in stale:
        if check:
            sys.stderr.write(f"docs/reference/{name} is not what the code says; run: python docs/reference/generate.py\n")
        else:
            (HOME / name).write_text(pages()[name])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
