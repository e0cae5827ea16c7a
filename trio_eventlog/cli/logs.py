"""`logs`: find log lines, the newest of them, and follow what comes."""

import argparse
import datetime
import sys
from collections.abc import Sequence

from trio_eventlog.cli.arguments import add_client_flags, add_look_flags, count, run_with_client
from trio_eventlog.cli.interruption import interruptible
from trio_eventlog.cli.output import BOLD, GREEN, RED, YELLOW, Look, look_of, painted
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.client import Client
from trio_eventlog.codec.log_lines import StoredLine, decode_line, known_level, timestamp_text
from trio_eventlog.search.query import CompiledQuery
from trio_eventlog.search.values import FoundLine, LogQuery, line_json
from trio_eventlog.service.log_requests import LOGS_TOPIC, PAGE_LINES, decode_place
from trio_eventlog.service.log_times import parse_time
from trio_eventlog.service.values import timestamp_ns

LINES_MAX = 100_000
"""The newest lines are held until the oldest of them is found, since that is printed first."""
PAGE_LINES_MAX = 1_000
LEVEL_STYLES = {"ERROR": RED, "FATAL": f"{BOLD};{RED}", "WARN": YELLOW, "INFO": GREEN, "DEBUG": "2", "TRACE": "2"}
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {0x09: "\t", 0x0A: "\\n", 0x0D: "\\r"}


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "logs")
    parser.add_argument("--service", default="", help="only lines of this service")
    parser.add_argument("--level", default="", help="only lines of this level")
    parser.add_argument("--since", default="", metavar="TIME", help="15m (ago), 2027-01-15T08:00:00Z, or seconds since 1970")
    parser.add_argument("--until", default="", metavar="TIME", help="the same; lines from then on are left out")
    parser.add_argument("--contains", default="", metavar="TEXT", help="only lines whose message has this part")
    parser.add_argument("--regex", default="", metavar="EXPRESSION", help="only lines whose message it fits; in the syntax of RE2")
    parser.add_argument(
        "--label", action="append", default=[], type=label, metavar="NAME=VALUE", help="only lines with this label; may be repeated"
    )
    parser.add_argument("--trace-id", default="", metavar="ID", help="only lines of this trace")
    parser.add_argument(
        "-n",
        "--count",
        type=count,
        default=PAGE_LINES,
        metavar="N",
        help=f"how many, the newest. Default: {PAGE_LINES}",
    )
    parser.add_argument("--follow", "-f", action="store_true", help="go on with lines as they come, until Ctrl-C")
    parser.add_argument("--topic", default=LOGS_TOPIC, help=f"of log lines. Default: {LOGS_TOPIC}")
    add_look_flags(parser, watch=False)
    add_client_flags(parser)
    parser.set_defaults(run=lambda arguments: run_with_client(arguments, show_logs))


def label(text: str) -> tuple[str, str]:
    """argparse type."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no label: write NAME=VALUE")
    return name, value


def query_of(arguments: argparse.Namespace, now_ns: int) -> LogQuery:
    """Raises InvalidArgument."""
    return LogQuery(
        service=arguments.service,
        level=known_level(arguments.level) or arguments.level,
        since_ns=parse_time(arguments.since, now_ns, "--since") if arguments.since else 0,
        until_ns=parse_time(arguments.until, now_ns, "--until") if arguments.until else 0,
        contains=arguments.contains,
        regex=arguments.regex,
        labels=tuple(dict(arguments.label).items()),
        trace_id=arguments.trace_id,
    )


async def show_logs(client: Client, arguments: argparse.Namespace) -> int:
    query = query_of(arguments, timestamp_ns(datetime.datetime.now(datetime.UTC)))
    look = look_of(arguments.color)
    async with interruptible() as interruption:
        with interruption.scope:
            lines, tail = await newest(client, arguments.topic, query, min(arguments.count, LINES_MAX))
            print_lines(lines[::-1], look, as_json=arguments.json)
            if arguments.follow:
                await follow(client, arguments.topic, query, tail, look, as_json=arguments.json)
    return interruption.exit_code


async def newest(client: Client, topic: str, query: LogQuery, limit: int) -> tuple[list[FoundLine], str]:
    """The newest lines, the newest first, and the place behind everything that was looked at."""
    page = await client.logs.search(query, limit=min(limit, PAGE_LINES_MAX), topic=topic)
    lines, tail = [*page.lines], page.tail
    while len(lines) < limit and not page.is_end:
        page = await client.logs.search(query, limit=min(limit - len(lines), PAGE_LINES_MAX), after=page.next, topic=topic)
        lines += page.lines
    return lines, tail


async def follow(client: Client, topic: str, query: LogQuery, tail: str, look: Look, *, as_json: bool) -> None:
    """Print lines as they come, from a place on."""
    compiled = CompiledQuery(query)
    described = await client.describe_topic(topic)
    offsets = decode_place(tail, [partition.group_id for partition in described.partitions], is_backwards=False)
    async with client.consume(topic, start=dict(enumerate(offsets))) as receiver:
        while True:
            lines = [
                FoundLine(value=record.value, timestamp_ns=record.timestamp_ns, partition=record.partition, offset=record.offset)
                for record in await receiver.receive_batch()
                if record.value and compiled.fits(record.value, record.timestamp_ns)
            ]
            print_lines(lines, look, as_json=as_json)


def print_lines(lines: Sequence[FoundLine], look: Look, *, as_json: bool) -> None:
    for line in lines:
        print(line_json(line).decode() if as_json else text_of(decode_line(line.value), line.timestamp_ns, look))
    sys.stdout.flush()


def text_of(line: StoredLine, timestamp_ns: int, look: Look) -> str:
    """Time, level, service, message, labels. Control characters, which could do something to a terminal, are shown as escapes."""
    labels = "".join(f" {name}={value}" for name, value in line.labels.items())
    level = painted(f"{line.level:5}".translate(_CONTROLS), LEVEL_STYLES.get(line.level, ""), look)
    shown_time = painted(f"{timestamp_text(timestamp_ns)[:23]}Z", "2", look)
    service = painted(line.service.translate(_CONTROLS), BOLD, look)
    return f"{shown_time} {level} {service} {line.message.translate(_CONTROLS)}{painted(labels.translate(_CONTROLS), '2', look)}"
