"""`topics`: list, create, describe, sizes, alter, trim, delete."""

import argparse
import datetime
import sys
from collections.abc import Sequence
from typing import NoReturn

import attrs
import trio

from trio_eventlog.cli.arguments import (
    add_client_flags,
    add_look_flags,
    count,
    limited_duration,
    limited_size,
    natural,
    run_with_client,
)
from trio_eventlog.cli.cluster import NOT_OPEN, ask_all
from trio_eventlog.cli.consume import start
from trio_eventlog.cli.output import byte_text, duration_text, print_json, print_table, size_text
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.cli.progress import progress
from trio_eventlog.cli.watch import confirm, watched
from trio_eventlog.client import Client, GroupInfo, NodeStatus, ServerInfo, TopicDescription, TopicDiskUse, TopicInfo
from trio_eventlog.errors import EventLogError
from trio_eventlog.service.background import background

PROGRESS_SECONDS = 0.5
"""How often `topics create` looks how far it is."""


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "topics")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    listing = add_command(actions, "list", "every topic")
    add_look_flags(listing)
    add_client_flags(listing)
    listing.set_defaults(run=lambda arguments: run_with_client(arguments, watched(list_topics)))

    create = add_command(actions, "create", "make a topic")
    create.add_argument("name")
    create.add_argument("--partitions", type=count, default=1, metavar="N", help="default: 1")
    create.add_argument("--replicas", type=natural, default=0, metavar="N", help="default: one on every voter")
    create.add_argument(
        "--kind", choices=("records", "events"), default="records", help="events: of aggregates, appended by `events append`"
    )
    _add_retention_flags(create, "Default: no limit", retention_bytes=0, retention_time=0.0)
    add_client_flags(create)
    create.set_defaults(run=lambda arguments: run_with_client(arguments, create_topic))

    describe = add_command(actions, "describe", "a topic and its partitions")
    describe.add_argument("name")
    add_look_flags(describe)
    add_client_flags(describe)
    describe.set_defaults(run=lambda arguments: run_with_client(arguments, watched(TopicDescriber())))

    sizes = add_command(actions, "sizes", "what each topic takes on the disks of the nodes")
    add_look_flags(sizes)
    add_client_flags(sizes)
    sizes.set_defaults(run=lambda arguments: run_with_client(arguments, watched(show_sizes)))

    alter = add_command(actions, "alter", "change what a topic keeps")
    alter.add_argument("name")
    _add_retention_flags(alter, "0 or none: no limit", retention_bytes=None, retention_time=None)
    alter.add_argument(
        "--partitions", type=_refuse_partitions, metavar="N", help="is refused: a topic keeps its number of partitions"
    )
    add_client_flags(alter)
    alter.set_defaults(run=lambda arguments: run_with_client(arguments, alter_topic))

    trim = add_command(actions, "trim", "give up the oldest records of a topic, for ever; asks first")
    trim.add_argument("name")
    trim.add_argument(
        "--before",
        type=_offset_or_time,
        required=True,
        metavar="OFFSET|TIME",
        help="records before this go: an offset, or a time as 2026-11-02T12:00:00Z",
    )
    trim.add_argument("--partition", type=natural, metavar="N", help="default: all, which needs a time if there are several")
    trim.add_argument("--yes", action="store_true", help="do not ask. Without it, and without a terminal, nothing goes")
    add_client_flags(trim)
    trim.set_defaults(run=lambda arguments: run_with_client(arguments, trim_topic))

    delete = add_command(actions, "delete", "delete a topic and its records; asks first")
    delete.add_argument("name")
    delete.add_argument("--yes", action="store_true", help="do not ask. Without it, and without a terminal, nothing is deleted")
    add_client_flags(delete)
    delete.set_defaults(run=lambda arguments: run_with_client(arguments, delete_topic))


def _add_retention_flags(parser: argparse.ArgumentParser, otherwise: str, **defaults: float | None) -> None:
    parser.add_argument(
        "--retention-bytes", type=limited_size, metavar="SIZE", help=f"of each partition, such as 10GB. {otherwise}"
    )
    parser.add_argument("--retention-time", type=limited_duration, metavar="DURATION", help=f"such as 7d. {otherwise}")
    parser.set_defaults(**defaults)


def _refuse_partitions(text: str) -> NoReturn:
    """argparse type of a flag that people try, to say why there is none."""
    raise argparse.ArgumentTypeError(
        "the number of a topic's partitions cannot change. It decides where each key goes: the new records of a key would be parted"
        " from its old ones. Create another topic with as many partitions as it needs"
    )


async def list_topics(client: Client, arguments: argparse.Namespace) -> int:
    _show(await client.list_topics(), arguments)
    return 0


async def create_topic(client: Client, arguments: argparse.Namespace) -> int:
    shown = ""

    async def look() -> None:
        """How many partitions of a topic that is being made have a leader already."""
        nonlocal shown
        while True:
            await trio.sleep(PROGRESS_SECONDS)
            try:
                described = await client.describe_topic(arguments.name)
            except EventLogError:
                continue  # not made yet, or refused, which the call that makes it says
            led = sum(1 for item in described.partitions if item.leader_id)
            shown = f"{led} of {arguments.partitions} partitions have a leader"

    async with progress(lambda: shown), background() as nursery:
        if sys.stderr.isatty():
            nursery.start_soon(look)
        topic = await client.create_topic(
            arguments.name,
            partitions=arguments.partitions,
            replicas=arguments.replicas,
            retention_bytes=arguments.retention_bytes,
            retention_seconds=arguments.retention_time,
            kind="events" if arguments.kind == "events" else "",
        )
    if arguments.json:
        print_json(topic)
    else:
        print(f"created {topic.name}: {topic.partitions} partitions, {topic.replicas} replicas")
        if topic.unopened_partitions:
            print(f"{topic.unopened_partitions} of them are still being opened: `trio-eventlog topics describe {topic.name}`")
    return 0


class TopicDescriber:
    """`topics describe`. A round of --watch shows the rate since the one before."""

    def __init__(self) -> None:
        self._before: tuple[float, dict[int, int]] | None = None

    async def __call__(self, client: Client, arguments: argparse.Namespace) -> int:
        servers = await client.servers()
        described = await _described(client, arguments.name, servers)
        if arguments.json:
            print_json(described)
            return 0
        names = {server.id: server.name for server in servers}
        rates = self._rates(described)
        _show([described.topic], arguments)
        print()
        headings = ["PARTITION", "LEADER", "REPLICAS", "LOG START", "HIGH WATERMARK", "RECORDS", "SIZE"]
        rows: list[list[object]] = [
            [
                item.partition,
                names.get(item.leader_id, item.leader_id) or None,
                ",".join(names.get(node, node) for node in item.replica_ids),
                item.log_start_offset,
                item.high_watermark,
                item.high_watermark - item.log_start_offset,
                None if item.size_bytes is None else byte_text(item.size_bytes),
                *([rates[item.partition]] if rates is not None else []),
            ]
            for item in described.partitions
        ]
        print_table([*headings, "RECORDS/S"] if rates is not None else headings, rows, arguments.look)
        for item in described.partitions:
            if item.problem:
                print(f"partition {item.partition} is not open on the node that was asked: {item.problem}")
        return 0

    def _rates(self, described: TopicDescription) -> dict[int, int] | None:
        """Records per second of each partition. None: this is the first round."""
        before = self._before
        now = trio.current_time()
        self._before = (now, {item.partition: item.high_watermark for item in described.partitions})
        if before is None or now <= before[0]:
            return None
        # A node that was asked before may have known more than the one that was asked now.
        return {
            item.partition: max(round((item.high_watermark - before[1].get(item.partition, 0)) / (now - before[0])), 0)
            for item in described.partitions
        }


async def _described(client: Client, name: str, servers: Sequence[ServerInfo]) -> TopicDescription:
    """A topic; what the answering node does not know of partitions that it does not carry, the nodes that carry them are asked."""
    described = await client.describe_topic(name)
    elsewhere = [item for item in described.partitions if item.size_bytes is None]
    nodes = {node_id for item in elsewhere for node_id in ((item.leader_id,) if item.leader_id else item.replica_ids)}
    answers = await ask_all(client, [server for server in servers if server.id in nodes])
    known: dict[int, GroupInfo] = {}
    for answer in answers.values():
        for group in answer.groups if isinstance(answer, NodeStatus) else ():
            if group.role not in NOT_OPEN and (group.role == "leader" or group.group_id not in known):
                known[group.group_id] = group
    partitions = tuple(
        attrs.evolve(
            item,
            leader_id=found.leader_id,
            log_start_offset=found.log_start_offset,
            high_watermark=found.high_watermark,
            size_bytes=found.size_bytes,
        )
        if item.size_bytes is None and (found := known.get(item.group_id)) is not None
        else item
        for item in described.partitions
    )
    return attrs.evolve(described, partitions=partitions)


async def show_sizes(client: Client, arguments: argparse.Namespace) -> int:
    """A row for each topic and node, the largest first. Exit code 1 when a node does not answer."""
    servers = await client.servers()
    uses: dict[str, list[TopicDiskUse]] = {}
    failed: dict[str, EventLogError] = {}

    async def ask(server: ServerInfo) -> None:
        try:
            uses[server.id] = await client.disk_use(server.address)
        except EventLogError as error:
            failed[server.id] = error

    async with trio.open_nursery() as nursery:
        for server in servers:
            nursery.start_soon(ask, server)
    found = [(use, server) for server in servers for use in uses.get(server.id, ())]
    found.sort(key=lambda item: (-item[0].size_bytes, item[0].name, item[1].name))
    if arguments.json:
        print_json(
            [
                {"topic": use.name, "node": server.name, "partitions": use.partitions, "size_bytes": use.size_bytes}
                for use, server in found
            ]
        )
    else:
        rows = [(use.name, server.name, use.partitions, byte_text(use.size_bytes)) for use, server in found]
        print_table(("TOPIC", "NODE", "PARTITIONS", "SIZE"), rows, arguments.look)
    for server in servers:
        if server.id in failed:
            print(f"without node {server.name}: {failed[server.id]}", file=sys.stderr)
    return 1 if failed else 0


async def alter_topic(client: Client, arguments: argparse.Namespace) -> int:
    topic = await client.alter_topic(
        arguments.name, retention_bytes=arguments.retention_bytes, retention_seconds=arguments.retention_time
    )
    if arguments.json:
        print_json(topic)
    else:
        bytes_text, time_text = size_text(topic.retention_bytes), duration_text(topic.retention_seconds)
        print(f"altered {topic.name}: retention bytes {bytes_text}, retention time {time_text}")
    return 0


def _offset_or_time(text: str) -> int | datetime.datetime:
    """argparse type."""
    found = start(text)
    if isinstance(found, int | datetime.datetime):
        return found
    raise argparse.ArgumentTypeError(f"{text!r} is neither an offset nor a time such as 2026-11-02T12:00:00Z")


async def trim_topic(client: Client, arguments: argparse.Namespace) -> int:
    if not arguments.yes:
        await confirm(f"Give up all records of topic {arguments.name} before {arguments.before}, for ever?")
    starts = await client.trim_topic(arguments.name, arguments.before, partition=arguments.partition)
    if arguments.json:
        print_json({"topic": arguments.name, "log_start_offsets": starts})
    else:
        print_table(("PARTITION", "LOG START"), sorted(starts.items()))
    return 0


async def delete_topic(client: Client, arguments: argparse.Namespace) -> int:
    if not arguments.yes:
        described = await _described(client, arguments.name, await client.servers())
        records = sum(item.high_watermark - item.log_start_offset for item in described.partitions)
        await confirm(
            f"Delete topic {arguments.name}, its {described.topic.partitions} partitions and about {records} records, for ever?"
        )
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
        arguments.look,
    )
