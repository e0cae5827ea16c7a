"""`topics`: list, create, describe, delete."""

import argparse
import sys

import trio

from trio_eventlog.cli.arguments import Commands, add_client_flags, add_command, count, duration, natural, run_with_client, size
from trio_eventlog.cli.output import duration_text, print_json, print_table, size_text
from trio_eventlog.client import Client, TopicInfo
from trio_eventlog.errors import EventLogError

PROGRESS_SECONDS = 0.5
"""How often `topics create` looks how far it is."""


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "topics", "list, create, describe and delete topics")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    listing = add_command(actions, "list", "every topic")
    add_client_flags(listing)
    listing.set_defaults(run=lambda arguments: run_with_client(arguments, list_topics))

    create = add_command(actions, "create", "make a topic")
    create.add_argument("name")
    create.add_argument("--partitions", type=count, default=1, metavar="N", help="default: 1")
    create.add_argument("--replicas", type=natural, default=0, metavar="N", help="default: one on every voter")
    create.add_argument("--retention-bytes", type=size, default=0, metavar="SIZE", help="of each partition. Default: no limit")
    create.add_argument("--retention-time", type=duration, default=0.0, metavar="DURATION", help="such as 7d. Default: no limit")
    add_client_flags(create)
    create.set_defaults(run=lambda arguments: run_with_client(arguments, create_topic))

    describe = add_command(actions, "describe", "a topic and its partitions")
    describe.add_argument("name")
    add_client_flags(describe)
    describe.set_defaults(run=lambda arguments: run_with_client(arguments, describe_topic))

    delete = add_command(actions, "delete", "delete a topic and its records")
    delete.add_argument("name")
    add_client_flags(delete)
    delete.set_defaults(run=lambda arguments: run_with_client(arguments, delete_topic))


async def list_topics(client: Client, arguments: argparse.Namespace) -> int:
    _show(await client.list_topics(), arguments)
    return 0


async def create_topic(client: Client, arguments: argparse.Namespace) -> int:
    async with trio.open_nursery() as nursery:
        if sys.stderr.isatty():
            nursery.start_soon(_show_progress, client, arguments.name, arguments.partitions)
        topic = await client.create_topic(
            arguments.name,
            partitions=arguments.partitions,
            replicas=arguments.replicas,
            retention_bytes=arguments.retention_bytes,
            retention_seconds=arguments.retention_time,
        )
        nursery.cancel_scope.cancel()
    if arguments.json:
        print_json(topic)
    else:
        print(f"created {topic.name}: {topic.partitions} partitions, {topic.replicas} replicas")
        if topic.unopened_partitions:
            print(f"{topic.unopened_partitions} of them are still being opened: `trio-eventlog topics describe {topic.name}`")
    return 0


async def _show_progress(client: Client, name: str, partitions: int) -> None:
    """On a terminal: how many partitions of a topic that is being made have a leader already. Runs until cancelled."""
    shown = ""
    try:
        while True:
            await trio.sleep(PROGRESS_SECONDS)
            try:
                described = await client.describe_topic(name)
            except EventLogError:
                continue  # not made yet, or refused, which the call that makes it says
            led = sum(1 for item in described.partitions if item.leader_id)
            shown = f"{led} of {partitions} partitions have a leader"
            print(f"\r{shown}", end="", file=sys.stderr, flush=True)
    finally:
        if shown:
            print(f"\r{' ' * len(shown)}\r", end="", file=sys.stderr, flush=True)


async def describe_topic(client: Client, arguments: argparse.Namespace) -> int:
    described = await client.describe_topic(arguments.name)
    if arguments.json:
        print_json(described)
        return 0
    names = {server.id: server.name for server in await client.servers()}
    _show([described.topic], arguments)
    print()
    print_table(
        ("PARTITION", "LEADER", "REPLICAS", "LOG START", "HIGH WATERMARK"),
        [
            (
                item.partition,
                names.get(item.leader_id, item.leader_id) or None,
                ",".join(names.get(node, node) for node in item.replica_ids),
                item.log_start_offset,
                item.high_watermark,
            )
            for item in described.partitions
        ],
    )
    for item in described.partitions:
        if item.problem:
            print(f"partition {item.partition} is not open on the node that was asked: {item.problem}")
    return 0


async def delete_topic(client: Client, arguments: argparse.Namespace) -> int:
    await client.delete_topic(arguments.name)
    if arguments.json:
        print_json({"deleted": arguments.name})
    else:
        print(f"deleted {arguments.name}")
    return 0


def _show(topics: list[TopicInfo], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(topics)
        return
    print_table(
        ("TOPIC", "PARTITIONS", "REPLICAS", "RETENTION BYTES", "RETENTION TIME"),
        [
            (topic.name, topic.partitions, topic.replicas, size_text(topic.retention_bytes), duration_text(topic.retention_seconds))
            for topic in topics
        ],
    )
