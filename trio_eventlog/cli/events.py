"""`events`: append to an aggregate, show its events, follow them as they come."""

import argparse
import base64
import datetime
import json
import sys
from typing import Any

from trio_eventlog.cli.arguments import add_client_flags, count, run_with_client
from trio_eventlog.cli.interruption import interruptible
from trio_eventlog.cli.output import print_json, print_table
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.client import BEGINNING, END, Client, Position
from trio_eventlog.errors import InvalidArgument
from trio_eventlog.events import (
    ANY,
    EVENTS_TOPIC,
    EXISTS,
    JSON,
    NO_STREAM,
    Event,
    ExpectedVersion,
    RecordedEvent,
    is_json,
)

NANOSECONDS = 1_000_000_000
PAGE = 500
"""Events that `show` asks for at a time."""


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "events")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    append = add_command(actions, "append", "append an event to an aggregate")
    append.add_argument("aggregate")
    append.add_argument("type", help="what has happened, such as UserCreated")
    append.add_argument("payload", nargs="?", help="JSON, unless --content-type says otherwise. Default: read standard input")
    append.add_argument(
        "--expected-version",
        type=expected_version,
        default=ANY,
        metavar="N|none|exists|any",
        help="number of events that the aggregate has; otherwise nothing is appended. Default: any",
    )
    append.add_argument("--event-id", default="", metavar="ID", help="appended again, it is answered with the original")
    append.add_argument("--metadata", metavar="JSON", help="beside the payload")
    append.add_argument("--content-type", default=JSON, metavar="TYPE", help=f"of the payload. Default: {JSON}")
    append.add_argument("--close", action="store_true", help="close the aggregate by this event")
    append.add_argument("--reopen", action="store_true", help="append also when the aggregate is closed")
    _add_topic(append)
    add_client_flags(append)
    append.set_defaults(run=lambda arguments: run_with_client(arguments, append_event))

    show = add_command(actions, "show", "the events of an aggregate")
    show.add_argument("aggregate")
    show.add_argument("--from-version", type=count, metavar="N", help="default: the first, or the last one with --backwards")
    show.add_argument("-n", "--count", type=count, metavar="N", help="at most. Default: all")
    show.add_argument("--backwards", action="store_true", help="the newest first")
    _add_topic(show)
    add_client_flags(show)
    show.set_defaults(run=lambda arguments: run_with_client(arguments, show_aggregate))

    tail = add_command(actions, "tail", "events as they come")
    tail.add_argument(
        "--from",
        dest="after",
        type=place,
        default=END,
        metavar="beginning|end|TOKEN",
        help="TOKEN: as an earlier tail has printed it when it was interrupted. Default: end",
    )
    tail.add_argument("--type", default="", help="only events of this type")
    tail.add_argument("--aggregate", default="", help="only events of this aggregate")
    tail.add_argument("-n", "--count", type=count, metavar="N", help="stop after N events")
    _add_topic(tail)
    add_client_flags(tail)
    tail.set_defaults(run=lambda arguments: run_with_client(arguments, tail_events))


def _add_topic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--topic", default=EVENTS_TOPIC, help=f"of events. Default: {EVENTS_TOPIC}")


def expected_version(text: str) -> ExpectedVersion:
    """argparse type."""
    named: dict[str, ExpectedVersion] = {"any": ANY, "exists": EXISTS, "none": NO_STREAM}
    if text in named:
        return named[text]
    if text.isascii() and text.isdigit():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no expected version: a number from 0 on, none, exists or any")


def place(text: str) -> str | Position:
    """argparse type."""
    return {"beginning": BEGINNING, "end": END}.get(text, text)


async def append_event(client: Client, arguments: argparse.Namespace) -> int:
    data = sys.stdin.buffer.read() if arguments.payload is None else arguments.payload.encode()
    if not data and is_json(arguments.content_type):
        raise InvalidArgument("there is no payload: give JSON as an argument or on standard input; null stands for nothing")
    event = Event(
        type=arguments.type,
        payload=data,
        content_type=arguments.content_type,
        metadata=None if arguments.metadata is None else arguments.metadata.encode(),
        event_id=arguments.event_id,
        closes=arguments.close,
    )
    result = await client.append(
        arguments.aggregate,
        [event],
        expected_version=arguments.expected_version,
        reopens=arguments.reopen,
        topic=arguments.topic,
    )
    if arguments.json:
        print_json(result)
    else:
        how = "is in the log already" if result.duplicate else "appended"
        print(f"{how}: version {result.version} of {result.aggregate_id}, offset {result.offset}, event {result.event_ids[0]}")
    return 0


async def show_aggregate(client: Client, arguments: argparse.Namespace) -> int:
    shown = 0
    rows: list[list[str]] = []
    from_version = arguments.from_version
    while True:
        limit = PAGE if arguments.count is None else min(PAGE, arguments.count - shown)
        page = await client.read_aggregate(
            arguments.aggregate,
            from_version=from_version,
            limit=limit,
            backwards=arguments.backwards,
            linearizable=True,
            topic=arguments.topic,
        )
        for event in page.events:
            if arguments.json:
                print_json(event_object(event))
            else:
                rows.append([str(event.version), time_text(event), event.type, event.event_id, payload_text(event)])
        shown += len(page.events)
        if not page.events or shown == arguments.count:
            break
        from_version = page.events[-1].version + (-1 if arguments.backwards else 1)
        if not 1 <= from_version <= page.version:
            break
    if not arguments.json:
        if rows:
            print_table(["VERSION", "TIME", "TYPE", "EVENT", "PAYLOAD"], rows)
        state = "closed" if page.is_closed else "open"
        print(f"{arguments.aggregate}: version {page.version}, {state}" if page.version else f"{arguments.aggregate} has no events")
    return 0


async def tail_events(client: Client, arguments: argparse.Namespace) -> int:
    left = arguments.count
    token = ""
    async with interruptible() as interruption:
        with interruption.scope:
            async with client.tail_events(
                after=arguments.after, type=arguments.type, aggregate_id=arguments.aggregate, topic=arguments.topic
            ) as tail:
                token = tail.token
                while left is None or left:
                    event = await tail.__anext__()
                    token = tail.token
                    left = None if left is None else left - 1
                    if arguments.json:
                        print_json(event_object(event) | {"token": token})
                    else:
                        version = f"{event.aggregate_id} {event.version}"
                        print(f"{time_text(event)}  {version}  {event.type}  {payload_text(event)}")
                    sys.stdout.flush()
    if interruption.signal_number and token:
        print(f"trio-eventlog: interrupted; go on with --from {token}", file=sys.stderr)
    return interruption.exit_code


def event_object(event: RecordedEvent) -> dict[str, Any]:
    """As HTTP has it: a payload that is not JSON as base64."""
    shown: dict[str, Any] = {
        "id": event.event_id,
        "type": event.type,
        "timestamp": event.timestamp_ns / NANOSECONDS,
        "aggregate_id": event.aggregate_id,
        "version": event.version,
        "partition": event.partition,
        "offset": event.offset,
        "index": event.index,
    }
    if is_json(event.content_type):
        shown["payload"] = event.payload
    else:
        shown["payload_base64"] = base64.b64encode(event.data).decode()
    if event.content_type != JSON:
        shown["content_type"] = event.content_type
    if event.metadata:
        shown["metadata"] = json.loads(event.metadata)
    if event.closes:
        shown["closes"] = True
    return shown


def payload_text(event: RecordedEvent) -> str:
    """One line."""
    return " ".join(event.data.decode(errors="replace").split()) if is_json(event.content_type) else f"{len(event.data)} bytes"


def time_text(event: RecordedEvent) -> str:
    """UTC, to the millisecond."""
    when = datetime.datetime.fromtimestamp(event.timestamp_ns // NANOSECONDS, datetime.UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{event.timestamp_ns % NANOSECONDS // 1_000_000:03}Z"
