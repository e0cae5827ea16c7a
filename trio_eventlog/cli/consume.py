"""`consume`: records of topics to standard output."""

import argparse
import datetime
import functools
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import trio

from trio_eventlog.cli.arguments import (
    add_client_flags,
    count,
    duration,
    natural,
    run_with_client,
)
from trio_eventlog.cli.formats import FIELDS, Format, output_format, write_json, write_text, write_values
from trio_eventlog.cli.interruption import interruptible
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.cli.progress import Rate, progress
from trio_eventlog.client import BEGINNING, END, Client, ConsumedBatch, Start
from trio_eventlog.errors import InvalidArgument, OffsetOutOfRange
from trio_eventlog.records import Record
from trio_eventlog.service.background import background

Place = tuple[str, int]
"""A topic and a partition."""
Writer = Callable[[ConsumedBatch, int, int | None], tuple[bytes, int]]

PARTITIONS_MAX = 1 << 16
"""Number of partitions that a list may name."""
QUESTIONS_MAX = 16
"""Number of partitions whose offsets are asked for at the same time."""
PLACES_SHOWN_MAX = 10
"""Number of partitions whose next offset an interrupted command shows."""
PENDING_BYTES_MAX = 1 << 20
"""Bytes of output, in addition to one batch, that wait while what came before them is written. A write costs a change of threads,
whatever its size, so small batches are written together."""


@attrs.frozen
class Last:
    """Start this number of records before the end of each partition."""

    records: int


@attrs.frozen
class Ago:
    """Start this number of seconds before now."""

    seconds: float


From = Start | Last | Ago


FORMAT_HELP = (
    "In a FORMAT: "
    + ", ".join(f"%{name} {meaning}" for name, (meaning, _) in FIELDS.items())
    + r"; %% for a %; \n, \t, \0 and \xHH as elsewhere. Example: --format '%t %p %o %k %h %v\n'"
)


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "consume",
        epilog=FORMAT_HELP,
    )
    parser.add_list("topics", metavar="TOPIC", nargs="+", help="one, or several at once")
    parser.add_argument(
        "--from",
        dest="start",
        type=start,
        default=BEGINNING,
        metavar="beginning|end|OFFSET|-N|TIMESTAMP|-DURATION|PARTITION:OFFSET,...",
        help="where to begin, in each partition: -10 with the last ten records; TIMESTAMP as 2026-11-02T12:00:00Z; -10m ten"
        " minutes ago; 0:12,2:7 at these offsets, and at the beginning of the other partitions. Default: beginning",
    )
    parser.add_argument(
        "--partitions",
        "--partition",
        type=partition_list,
        metavar="LIST",
        help="only these, such as 0,2-4. Default: all",
    )
    parser.add_argument("-n", "--count", "--max-records", dest="count", type=count, metavar="N", help="stop after N records")
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--follow", action="store_true", help="wait for more at the end. Implied by --from end")
    until.add_argument(
        "--until-end", action="store_true", help="stop at the end as it was when this command began. Default, but for --from end"
    )
    parser.add_argument(
        "--format",
        type=output_format,
        metavar="value|json|text|FORMAT",
        default="value",
        help="value: a line each (default); json: an object a line; text: partition, offset, time, key and value; or a FORMAT, as"
        " below. A time that no calendar has, as foreign producers may send it, is timestamp_ns in json and @SECONDS else",
    )
    parser.add_argument("--json", action="store_const", dest="format", const="json", help="short for --format json")
    parser.add_argument(
        "--json-values",
        choices=("auto", "text", "base64"),
        default="auto",
        help="keys and values in JSON. auto: text where it is text, else base64 under the name value_base64 (default); text: with"
        " escapes for what is none; base64: always",
    )
    add_client_flags(parser, json=False)
    parser.set_defaults(run=lambda arguments: run_with_client(arguments, consume))


_LAST = re.compile(r"-([0-9]{1,18})")
_OFFSETS = re.compile(r"[0-9]{1,5}:[0-9]{1,18}(,[0-9]{1,5}:[0-9]{1,18})*")


def start(text: str) -> From:
    """argparse type."""
    word = text.strip()
    if word.lower() == "beginning":
        return BEGINNING
    if word.lower() == "end":
        return END
    if word.isascii() and word.isdigit():
        return int(word)
    if found := _LAST.fullmatch(word):
        return Last(int(found[1]))
    if _OFFSETS.fullmatch(word):
        pairs = [pair.split(":") for pair in word.split(",")]
        offsets = {int(partition): int(offset) for partition, offset in pairs}
        if len(offsets) < len(pairs):
            raise argparse.ArgumentTypeError(f"{text!r} names a partition twice")
        return offsets
    if word.startswith("-"):
        return Ago(duration(word[1:]))
    try:
        when = datetime.datetime.fromisoformat(word)
        return when if when.tzinfo is not None else when.astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not beginning, end, an offset, -N, a time such as 2026-11-02T12:00:00Z, one such as -10m, or offsets"
            " such as 0:12,2:7"
        ) from None


def partition_list(text: str) -> tuple[int, ...]:
    """argparse type: `0,2-4`, in order and without repetitions."""
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        begin = natural(first.strip())
        end = natural(last.strip()) if dash else begin
        if end < begin or end - begin >= PARTITIONS_MAX:
            raise argparse.ArgumentTypeError(f"{part!r} is no range of partitions: write 2-4")
        found.update(dict.fromkeys(range(begin, end + 1)))
    return tuple(sorted(found))


@attrs.frozen(kw_only=True)
class Source:
    """What one receiver reads: a partition, or (None) a topic with the partitions to come."""

    topic: str
    partition: int | None
    start: Start


@attrs.define
class Plan:
    """Attributes:
    sources: what is read.
    ends: of the partitions that are not read up to their end yet, that end; None: for ever.
    records: how many there are to be read, as far as that is known.
    """

    sources: list[Source]
    ends: dict[Place, int] | None
    records: int | None = None


async def make_plan(client: Client, arguments: argparse.Namespace) -> Plan:
    """Raises TopicNotFound, OffsetOutOfRange, InvalidArgument; those of asking the partitions in a group."""
    begin: From = arguments.start
    if isinstance(begin, Ago):
        begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=begin.seconds)
    follows = arguments.follow or (begin is END and not arguments.until_end)
    topics = dict.fromkeys(arguments.topics)
    if isinstance(begin, Mapping):
        await _check_named(client, topics, begin, arguments.partitions)
    if follows and arguments.partitions is None and not isinstance(begin, int | Last):
        return Plan([Source(topic=topic, partition=None, start=begin) for topic in topics], None)
    places = [
        (topic, number)
        for topic in topics
        for number in (range(await client.partitions(topic)) if arguments.partitions is None else arguments.partitions)
    ]
    bounds: dict[Place, tuple[Start, int, int]] = {}
    limiter = trio.CapacityLimiter(QUESTIONS_MAX)

    async def ask(place: Place) -> None:
        async with limiter:
            bounds[place] = await _bounds(client, place, begin)

    async with trio.open_nursery() as nursery:
        for place in places:
            nursery.start_soon(ask, place)
    if follows and arguments.partitions is None:
        # Offsets that belong to one partition each; one receiver of each topic reads them all.
        return Plan(
            [
                Source(
                    topic=topic,
                    partition=None,
                    start={number: offset for (of, number), (_, offset, _) in bounds.items() if of == topic},
                )
                for topic in topics
            ],
            None,
        )
    if follows:
        return Plan([Source(topic=place[0], partition=place[1], start=bounds[place][0]) for place in places], None)
    sources: list[Source] = []
    ends: dict[Place, int] = {}
    records = 0
    for place in places:
        first, first_offset, end_offset = bounds[place]
        if first_offset < end_offset:
            sources.append(Source(topic=place[0], partition=place[1], start=first))
            ends[place] = end_offset
            records += end_offset - first_offset
    return Plan(sources, ends, records)


async def _check_named(client: Client, topics: Iterable[str], offsets: Mapping[int, int], partitions: Sequence[int] | None) -> None:
    """Raises InvalidArgument for a partition that is not read: it would be waited for in vain."""
    for topic in topics:
        read = range(await client.partitions(topic)) if partitions is None else partitions
        for number in offsets:
            if number not in read:
                raise InvalidArgument(f"--from names partition {number}, which is not among those of {topic!r} that are read")


async def _bounds(client: Client, place: Place, begin: Start | Last) -> tuple[Start, int, int]:
    """Where a consumer has to start, the offset that this is about, and the partition's end."""
    topic, number = place
    start_offset, end_offset = await client.offsets(topic, number)
    if isinstance(begin, Mapping):
        begin = begin.get(number, BEGINNING)
    if isinstance(begin, Last):
        offset = max(start_offset, end_offset - begin.records)
        return offset, offset, end_offset
    if isinstance(begin, int):
        if begin > end_offset:
            raise OffsetOutOfRange(
                f"offset {begin} is beyond the end of {topic!r}, partition {number}, which is {end_offset}",
                start_offset,
                end_offset,
            )
        return begin, max(start_offset, begin), end_offset
    if isinstance(begin, datetime.datetime):
        return begin, await client.offset_at(topic, begin, number), end_offset
    return begin, end_offset if begin is END else start_offset, end_offset


async def consume(client: Client, arguments: argparse.Namespace) -> int:
    plan = await make_plan(client, arguments)
    written = Written(arguments.count)
    total = min((number for number in (plan.records, arguments.count) if number is not None), default=None)
    rate = Rate(lambda: written.records, "records", total)
    async with interruptible() as interruption, progress(rate, is_wanted=not sys.stdout.isatty()):
        with interruption.scope:
            await _consume(client, plan, writer_of(arguments, client.settings.unpacked_bytes_max), written)
    if interruption.signal_number:
        text = f"interrupted after {written.records} records{written.places_text()}{_resume_text(arguments, written)}"
        print(f"trio-eventlog: {text}", file=sys.stderr)
    return interruption.exit_code


@attrs.define
class Written:
    """What has been written.

    Attributes:
        left: the number of records still to be read; None: all.
        next_offsets: by topic and partition.
    """

    left: int | None
    records: int = 0
    next_offsets: dict[Place, int] = attrs.field(factory=dict)

    def places_text(self) -> str:
        """Where to go on, so that an interrupted command can be."""
        if not self.next_offsets:
            return ""
        places = sorted(self.next_offsets.items())
        shown = ", ".join(f"{topic}/{number}: {offset}" for (topic, number), offset in places[:PLACES_SHOWN_MAX])
        more = f" and {len(places) - PLACES_SHOWN_MAX} more" if len(places) > PLACES_SHOWN_MAX else ""
        return f"; next offsets: {shown}{more}"


def _resume_text(arguments: argparse.Namespace, written: Written) -> str:
    """How to go on, where the next offsets say all: partitions without one are read from their beginning."""
    begin = arguments.start
    if not written.next_offsets or len(set(arguments.topics)) > 1 or not (begin is BEGINNING or isinstance(begin, Mapping)):
        return ""
    offsets = (dict(begin) if isinstance(begin, Mapping) else {}) | {
        number: offset for (_, number), offset in written.next_offsets.items()
    }
    return f"; go on with --from {','.join(f'{number}:{offset}' for number, offset in sorted(offsets.items()))}"


async def _consume(client: Client, plan: Plan, write: Writer, written: Written) -> None:
    """Returns when everything planned is written, or as much as is wanted."""
    if not plan.sources:
        return
    send, receive = trio.open_memory_channel[ConsumedBatch](0)
    # Whatever is fetched ahead for all of them together is about what a consumer of one fetches ahead.
    buffered = max(client.settings.consumer_buffer_batches // len(plan.sources), 1)

    async def read(source: Source) -> None:
        async with client.consume_batches(
            source.topic, start=source.start, partition=source.partition, buffer_batches=buffered
        ) as batches:
            async for batch in batches:
                await send.send(batch)

    async with background() as nursery:
        for source in plan.sources:
            nursery.start_soon(read, source)
        output = Output(written)
        nursery.start_soon(output.run)
        while written.left != 0 and (plan.ends is None or plan.ends):
            batch = await receive.receive()
            place = (batch.topic, batch.partition)
            surplus = 0
            if plan.ends is not None:
                stop_at = plan.ends.get(place, 0)
                surplus = max(batch.end_offset - stop_at, 0)
                if batch.end_offset >= stop_at:
                    plan.ends.pop(place, None)
            data, records = write(batch, surplus, written.left)
            if not records:
                continue
            if written.left is not None:
                written.left -= records
            await output.add(Chunk(data, records, place, batch.end_offset - surplus))
        await output.until_written()


@attrs.frozen
class Chunk:
    """Output of one batch: its bytes, its number of records, its partition, and the offset behind it."""

    data: bytes
    records: int
    place: Place
    next_offset: int


class Output:
    """Standard output, written by a task of its own while the next batches are received and decoded.

    `written` counts a record only after the write that contains it has returned.
    """

    def __init__(self, written: Written) -> None:
        self._written = written
        self._pending: list[Chunk] = []
        self._pending_bytes = 0
        self._is_writing = False
        self._changed = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Never returns. Raises OSError."""
        while True:
            while not self._pending:
                await self._changed.park()
            chunks, self._pending, self._pending_bytes, self._is_writing = self._pending, [], 0, True
            self._changed.unpark_all()
            await trio.to_thread.run_sync(_write, b"".join([chunk.data for chunk in chunks]), abandon_on_cancel=True)
            for chunk in chunks:
                self._written.records += chunk.records
                self._written.next_offsets[chunk.place] = chunk.next_offset
            self._is_writing = False
            self._changed.unpark_all()

    async def add(self, chunk: Chunk) -> None:
        """Waits while PENDING_BYTES_MAX or more are pending."""
        self._pending.append(chunk)
        self._pending_bytes += len(chunk.data)
        self._changed.unpark_all()
        while self._pending_bytes >= PENDING_BYTES_MAX:
            await self._changed.park()

    async def until_written(self) -> None:
        while self._pending or self._is_writing:
            await self._changed.park()


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def writer_of(arguments: argparse.Namespace, unpacked_bytes_max: int) -> Writer:
    """Of a batch, less a number of records at its end, and at most as many as are wanted: what is written, and how many records."""
    if arguments.format == "value":

        def write(batch: ConsumedBatch, surplus: int, limit: int | None) -> tuple[bytes, int]:
            values = batch.values(unpacked_bytes_max)
            values = values[: max(len(values) - surplus, 0)][:limit]
            return write_values(values), len(values)

        return write
    if isinstance(arguments.format, Format):
        form: Callable[[Sequence[Record], str, int], bytes] = arguments.format.write
    elif arguments.format == "text":
        form = write_text
    else:
        form = functools.partial(write_json, values=arguments.json_values)

    def write_records(batch: ConsumedBatch, surplus: int, limit: int | None) -> tuple[bytes, int]:
        records = batch.records(unpacked_bytes_max)
        records = records[: max(len(records) - surplus, 0)][:limit]
        return form(records, batch.topic, batch.partition), len(records)

    return write_records
