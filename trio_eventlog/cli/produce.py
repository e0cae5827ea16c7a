"""`produce`: lines of standard input become records."""

import argparse
import os
import sys
from collections.abc import Iterator

import trio

from trio_eventlog.cli.arguments import Commands, add_client_flags, add_command, count, milliseconds, natural, run_with_client
from trio_eventlog.cli.output import print_json
from trio_eventlog.client import Client
from trio_eventlog.client.producer_core import OFFSET_UNKNOWN
from trio_eventlog.errors import InvalidArgument
from trio_eventlog.records import Acks, Record

READ_BYTES = 256 * 1024
LINE_BYTES_MAX = 64 * 1024 * 1024


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "produce", "make records of the lines of standard input")
    parser.add_argument("topic")
    parser.add_argument("--partition", type=natural, metavar="N", help="put everything there, whatever its key")
    parser.add_argument("--key-separator", metavar="S", help="what stands before the first S in a line is its record's key")
    parser.add_argument("--batch-records", type=count, metavar="N", help="send a batch when it has so many records")
    parser.add_argument("--linger-ms", type=milliseconds, metavar="N", help="how long a batch waits for more records. Default: 5")
    parser.add_argument(
        "--acks",
        choices=("quorum", "leader", "none"),
        default="quorum",
        help="quorum: durable on a majority (default); leader: durable on the leader's disk; none: taken by the leader",
    )
    add_client_flags(parser)
    parser.set_defaults(run=lambda arguments: run_with_client(arguments, produce))


async def produce(client: Client, arguments: argparse.Namespace) -> int:
    acks = Acks[arguments.acks.upper()]
    linger = None if arguments.linger_ms is None else arguments.linger_ms / 1000
    separator = None if arguments.key_separator is None else arguments.key_separator.encode()
    if separator == b"":
        raise InvalidArgument("--key-separator is empty: give at least one character")
    lines = LineSplitter()
    async with client.producer(arguments.topic, linger=linger, acks=acks, batch_records=arguments.batch_records) as producer:
        while True:
            data: bytes = await trio.to_thread.run_sync(_read, abandon_on_cancel=True)
            found = lines.feed(data) if data else lines.end()
            await producer.send_many(found if separator is None else _with_keys(found, separator), partition=arguments.partition)
            if not data:
                break
        await producer.flush()
        ranges = producer.ranges()
    if arguments.json:
        print_json({"topic": arguments.topic, "partitions": ranges})
        return 0
    if not ranges:
        print("produced 0 records")
    for item in ranges:
        offsets = "unknown" if item.first_offset == OFFSET_UNKNOWN else f"{item.first_offset}..{item.last_offset}"
        suffix = "" if len(ranges) == 1 and item.partition == 0 else f", partition {item.partition}"
        print(f"produced {item.records} records, offsets {offsets}{suffix}")
    return 0


def _read() -> bytes:
    # What is there now: a person's line is sent when it is typed.
    return os.read(sys.stdin.fileno(), READ_BYTES)


def _with_keys(lines: list[bytes], separator: bytes) -> Iterator[Record | bytes]:
    for line in lines:
        key, found, value = line.partition(separator)
        yield Record(key=key, value=value) if found else line


class LineSplitter:
    """Bytes in, whole lines out, without their line ends."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._rest_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Raises InvalidArgument for a line without end."""
        lines = data.split(b"\n")
        if len(lines) > 1:
            lines[0] = b"".join([*self._rest, lines[0]])
            self._rest = []
            self._rest_bytes = 0
        rest = lines.pop()
        if rest:
            self._rest.append(rest)
            self._rest_bytes += len(rest)
            if self._rest_bytes > LINE_BYTES_MAX:
                raise InvalidArgument(f"a line is longer than {LINE_BYTES_MAX} bytes: is the input text?")
        return lines

    def end(self) -> list[bytes]:
        """A last line that has no line end."""
        return [b"".join(self._rest)] if self._rest else []
