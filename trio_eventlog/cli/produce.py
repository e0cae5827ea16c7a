"""`produce`: values, or lines of standard input or of a file, become records."""

import argparse
import sys
from collections.abc import Iterator, Sequence

import attrs
import trio

from trio_eventlog.cli.arguments import (
    add_client_flags,
    count,
    escaped,
    milliseconds,
    natural,
    run_with_client,
)
from trio_eventlog.cli.interruption import interruptible
from trio_eventlog.cli.lines import Input, InputFailed, LineSplitter, open_input
from trio_eventlog.cli.output import print_json
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.cli.progress import Rate, progress
from trio_eventlog.client import Client, Producer
from trio_eventlog.errors import EventLogError, InvalidArgument
from trio_eventlog.records import Acks, Compression, Header, Record
from trio_eventlog.service.background import background
from trio_eventlog.service.producer import ProducedRange, encoded_bytes_max
from trio_eventlog.service.values import OFFSET_UNKNOWN

FLUSH_SECONDS_MAX = 5.0
"""How long a command that is cut short waits for the acknowledgements of what it has sent."""
LENGTHS_BYTES = 16
"""What the lengths of a long value and of what is around it take more than those of short ones, at most."""
FAILURE_SEEN_SECONDS = 0.1
"""Between two looks whether anything has failed, while input is waited for."""


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "produce",
        epilog="Cut short by Ctrl-C, by an error or by a line that is too long, it sends what it has read, says what is"
        " acknowledged (by partition, with the last offset), and ends with exit code 1, or 130 after Ctrl-C.",
    )
    parser.add_argument("topic")
    parser.add_list("values", metavar="VALUE", nargs="*", help="a record each, and no input is read. Default: read lines")
    parser.add_argument("--file", metavar="FILE", help="read lines of it. Default: standard input, which - stands for too")
    parser.add_argument("--whole", action="store_true", help="all of the input is one record, whatever lines are in it")
    parser.add_argument(
        "--delimiter", metavar="S", type=escaped, default=b"\n", help="what ends a line; \\n, \\t, \\0 and \\xHH work. Default: \\n"
    )
    parser.add_argument("--partition", type=natural, metavar="N", help="put everything there, whatever its key")
    parser.add_argument("--key", metavar="KEY", help="of every record")
    parser.add_argument(
        "--key-separator", metavar="S", type=escaped, help="what stands before the first S in a line is its record's key"
    )
    parser.add_argument(
        "--header", metavar="NAME=VALUE", action="append", default=[], help="of every record; may be repeated", dest="headers"
    )
    parser.add_argument("--batch-records", type=count, metavar="N", help="send a batch when it has N records")
    parser.add_argument("--linger-ms", type=milliseconds, metavar="N", help="how long a batch waits for more records. Default: 5")
    parser.add_argument("--compression", choices=("none", "zstd", "gzip"), help="of batches. Default: the setting compression")
    parser.add_argument(
        "--acks",
        choices=("quorum", "leader", "none"),
        default="quorum",
        help="quorum: durable on a majority (default); leader: durable on the leader's disk; none: taken by the leader",
    )
    add_client_flags(parser)
    parser.set_defaults(run=lambda arguments: run_with_client(arguments, produce))


@attrs.frozen
class Shape:
    """What becomes of a line. `key` is of every record, unless `separator` finds one in the line."""

    key: bytes | None = None
    separator: bytes | None = None
    headers: tuple[Header, ...] = ()

    @property
    def is_plain(self) -> bool:
        """A record is its line."""
        return self.key is None and not (self.headers or self.separator)

    def records(self, lines: Sequence[bytes]) -> Iterator[Record]:
        for line in lines:
            key, value = self.key, line
            if self.separator:
                before, found, after = line.partition(self.separator)
                if found:
                    key, value = before, after
            yield Record(key=key, value=value, headers=self.headers)


def shape_of(arguments: argparse.Namespace) -> Shape:
    """Raises InvalidArgument."""
    if arguments.key_separator == b"":
        raise InvalidArgument("--key-separator is empty: give at least one character")
    if arguments.key_separator is not None and arguments.key is not None:
        raise InvalidArgument("--key is the key of every record, and --key-separator finds one in each: give one of the two")
    headers: list[Header] = []
    for text in arguments.headers:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"--header {text}: write NAME=VALUE")
        headers.append(Header(key=name, value=value.encode()))
    return Shape(
        key=arguments.key.encode() if arguments.key is not None else None, separator=arguments.key_separator, headers=tuple(headers)
    )


class Sender:
    """Lines to a producer, counted.

    Attributes:
        line_bytes_max: longer ones fit into no batch.
        taken: records handed to the producer.
    """

    def __init__(self, producer: Producer, shape: Shape, partition: int | None, batch_bytes_max: int) -> None:
        self._producer = producer
        self._shape = shape
        self._partition = partition
        around = encoded_bytes_max(Record(value=b"", key=shape.key, headers=shape.headers))
        self.line_bytes_max = max(batch_bytes_max - around - LENGTHS_BYTES, 0)
        self.taken = 0

    async def send(self, lines: Sequence[bytes]) -> None:
        """Raises InputFailed for the first line that is too long; those before it are handed in."""
        taken = lines
        if lines and max(map(len, lines)) > self.line_bytes_max:
            taken = lines[: next(place for place, line in enumerate(lines) if len(line) > self.line_bytes_max)]
        if self._shape.is_plain:
            await self._producer.send_values(taken, partition=self._partition)
        else:
            await self._producer.send_many(self._shape.records(taken), partition=self._partition)
        self.taken += len(taken)
        if taken is not lines:
            raise self.too_long()

    async def send_input(self, source: Input, delimiter: bytes) -> None:
        """Every line. Raises InputFailed."""
        splitter = LineSplitter(delimiter)
        while data := await source.read():
            await self.send(splitter.feed(data))
            if splitter.rest_bytes > self.line_bytes_max:
                raise self.too_long()
        await self.send(splitter.end())

    async def send_whole(self, source: Input) -> None:
        """All of it as one record. Raises InputFailed."""
        parts: list[bytes] = []
        while data := await source.read():
            parts.append(data)
            if sum(map(len, parts)) > self.line_bytes_max:
                raise InputFailed(f"{source.name} is longer than the {self.line_bytes_max} bytes that one record may have")
        await self.send([b"".join(parts)])

    def too_long(self) -> InputFailed:
        return InputFailed(
            f"line {self.taken + 1} is longer than the {self.line_bytes_max} bytes that a batch (batch_bytes_max) has room for:"
            " is the input text?"
        )


async def produce(client: Client, arguments: argparse.Namespace) -> int:
    shape = shape_of(arguments)
    if arguments.values and (arguments.file is not None or arguments.whole):
        raise InvalidArgument("records are given as VALUE, and --file or --whole reads them: give one of the two")
    if arguments.values:
        return await _produce(client, arguments, shape, None)
    with open_input(arguments.file) as source:
        return await _produce(client, arguments, shape, source)


async def _produce(client: Client, arguments: argparse.Namespace, shape: Shape, source: Input | None) -> int:
    producer: Producer | None = None
    sender: Sender | None = None
    failure: EventLogError | None = None

    def acknowledged() -> int:
        return sum(item.records for item in producer.ranges()) if producer is not None else 0

    async with (
        interruptible() as interruption,
        progress(Rate(acknowledged, "records"), is_wanted=source is not None and not source.is_typed),
    ):
        try:
            with interruption.ending:
                async with client.producer(
                    arguments.topic,
                    linger=None if arguments.linger_ms is None else arguments.linger_ms / 1000,
                    acks=Acks[arguments.acks.upper()],
                    batch_records=arguments.batch_records,
                    compression=None if arguments.compression is None else Compression[arguments.compression.upper()],
                ) as producer:
                    # From here on there may be records on their way: their outcome is waited for, whatever ends the reading.
                    interruption.grace_seconds = FLUSH_SECONDS_MAX
                    sender = Sender(producer, shape, arguments.partition, client.settings.batch_bytes_max)
                    try:
                        with interruption.scope:
                            await _send(sender, producer, arguments, source, interruption.scope)
                    except EventLogError as error:
                        failure = error
                        interruption.end_soon()
        except EventLogError as error:
            failure = failure or error
    if producer is None or sender is None:
        if failure is not None:
            raise failure
        return interruption.exit_code
    _tell(arguments, producer.ranges(), sender.taken, is_complete=failure is None and not interruption.signal_number)
    if failure is not None:
        raise failure
    return interruption.exit_code


async def _send(
    sender: Sender, producer: Producer, arguments: argparse.Namespace, source: Input | None, reading: trio.CancelScope
) -> None:
    async with background() as nursery:

        @nursery.start_soon
        async def stop_at_failure() -> None:
            # Input may be waited for, for ever, and what was read before is refused meanwhile.
            while True:
                await trio.sleep(FAILURE_SEEN_SECONDS)
                if producer.failure is not None:
                    reading.cancel()
                    return

        if source is None:
            await sender.send([value.encode() for value in arguments.values])
        elif arguments.whole:
            await sender.send_whole(source)
        else:
            await sender.send_input(source, arguments.delimiter)


def _tell(arguments: argparse.Namespace, ranges: Sequence[ProducedRange], taken: int, *, is_complete: bool) -> None:
    acknowledged = sum(item.records for item in ranges)
    if arguments.json:
        print_json({"topic": arguments.topic, "partitions": ranges, "records_taken": taken, "is_complete": is_complete})
    else:
        if not ranges:
            print("produced 0 records")
        for item in ranges:
            offsets = "unknown" if item.first_offset == OFFSET_UNKNOWN else f"{item.first_offset}..{item.last_offset}"
            suffix = "" if len(ranges) == 1 and item.partition == 0 else f", partition {item.partition}"
            print(f"produced {item.records} records, offsets {offsets}{suffix}")
    if not is_complete:
        others = f"; whether the other {taken - acknowledged} are in the log is not known" if taken > acknowledged else ""
        print(
            f"trio-eventlog: cut short: {acknowledged} of the {taken} records taken are acknowledged{others}",
            file=sys.stderr,
        )
