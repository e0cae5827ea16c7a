"""`consume`: records of a topic to standard output."""

import argparse
import base64
import datetime
import json
import sys
from collections.abc import Iterable, Sequence

import trio

from trio_eventlog.cli.arguments import Commands, add_client_flags, add_command, count, natural, run_with_client
from trio_eventlog.client import BEGINNING, END, Client, Start
from trio_eventlog.errors import OffsetOutOfRange
from trio_eventlog.records import Record


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "consume", "write the records of a topic to standard output")
    parser.add_argument("topic")
    parser.add_argument(
        "--from",
        dest="start",
        type=start,
        default=BEGINNING,
        metavar="beginning|end|OFFSET|TIMESTAMP",
        help="where to begin; TIMESTAMP as 2026-11-02T12:00:00Z. Default: beginning",
    )
    parser.add_argument("--partition", type=natural, metavar="N", help="only this one. Default: all")
    parser.add_argument("--follow", action="store_true", help="wait for more at the end. Goes without saying with --from end")
    parser.add_argument("--max-records", type=count, metavar="N", help="stop after so many records")
    parser.add_argument(
        "--format",
        choices=("value", "json", "text"),
        default="value",
        help="value: a line each (default); json: an object a line; text: partition, offset, time, key and value. A time that"
        " no calendar has, as foreign producers may send it, is timestamp_ns in json and @SECONDS in text",
    )
    add_client_flags(parser, json=False)
    parser.set_defaults(run=lambda arguments: run_with_client(arguments, consume))


def start(text: str) -> Start:
    """argparse type."""
    word = text.strip()
    if word.lower() == "beginning":
        return BEGINNING
    if word.lower() == "end":
        return END
    if word.isascii() and word.isdigit():
        return int(word)
    try:
        when = datetime.datetime.fromisoformat(word)
        return when if when.tzinfo is not None else when.astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not beginning, end, an offset or a time such as 2026-11-02T12:00:00Z"
        ) from None


async def consume(client: Client, arguments: argparse.Namespace) -> int:
    topic: str = arguments.topic
    partition: int | None = arguments.partition
    left: int = arguments.max_records or sys.maxsize
    follows = arguments.follow or arguments.start is END
    ends: dict[int, int] = {}
    if not follows:
        for number in range(await client.partitions(topic)) if partition is None else (partition,):
            begin_offset, end_offset = await client.offsets(topic, number)
            if isinstance(arguments.start, int):
                if arguments.start > end_offset:
                    raise OffsetOutOfRange(
                        f"offset {arguments.start} is beyond the end of {topic!r}, partition {number}, which is {end_offset}",
                        begin_offset,
                        end_offset,
                    )
                begin_offset = max(begin_offset, arguments.start)
            elif isinstance(arguments.start, datetime.datetime):
                begin_offset = await client.offset_at(topic, arguments.start, number)
            if begin_offset < end_offset:
                ends[number] = end_offset
        if not ends:
            return 0
    write = _WRITERS[arguments.format]
    async with client.consume(topic, start=arguments.start, partition=partition) as records:
        while left and (follows or ends):
            batch = await records.receive_batch()
            end_offset = records.end_offset
            if not follows:
                stop_at = ends.get(records.partition, 0)
                if end_offset > stop_at:
                    batch = [record for record in batch if record.offset < stop_at]
                if end_offset >= stop_at:
                    ends.pop(records.partition, None)
            batch = batch[:left]
            left -= len(batch)
            if batch:
                await trio.to_thread.run_sync(_write, write(batch, records.partition), abandon_on_cancel=True)
    return 0


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _values(records: Sequence[Record], _partition: int) -> bytes:
    return b"\n".join([record.value for record in records]) + b"\n"


def _text(records: Sequence[Record], partition: int) -> bytes:
    return b"".join(
        b"%d:%d\t%s\t%s\t%s\n" % (partition, record.offset, _time_or_seconds(record).encode(), record.key, record.value)
        for record in records
    )


def _json(records: Sequence[Record], partition: int) -> bytes:
    return "".join(_lines(records, partition)).encode()


def _lines(records: Sequence[Record], partition: int) -> Iterable[str]:
    for record in records:
        time = _time(record)
        fields: dict[str, object] = {"partition": partition, "offset": record.offset, "timestamp": time or ""}
        if time is None:
            fields["timestamp_ns"] = record.timestamp_ns
        if record.key:
            fields.update(_readable("key", record.key))
        fields.update(_readable("value", record.value))
        if record.headers:
            fields["headers"] = [{"key": header.key, **_readable("value", header.value)} for header in record.headers]
        yield json.dumps(fields, ensure_ascii=False) + "\n"


def _readable(name: str, data: bytes) -> dict[str, str]:
    """Text as it is; bytes that are no UTF-8 in base64, under a name that says so."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def _time(record: Record) -> str | None:
    """ "" when the record has none; None when it is outside of the years 1 to 9999.

    The log looks at the timestamps of batches only: what a producer of another make puts into a record may be anything.
    """
    if not record.timestamp_ns:
        return ""
    seconds, nanos = divmod(record.timestamp_ns, NANOSECONDS)
    try:
        when = _EPOCH + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return None
    return f"{when.replace(tzinfo=None).isoformat()}.{nanos:09d}Z"


def _time_or_seconds(record: Record) -> str:
    """What no calendar has is given as seconds since 1970, marked by an @ as `date` does."""
    text = _time(record)
    if text is not None:
        return text
    sign, nanoseconds = ("-" if record.timestamp_ns < 0 else ""), abs(record.timestamp_ns)
    return f"@{sign}{nanoseconds // NANOSECONDS}.{nanoseconds % NANOSECONDS:09d}"


NANOSECONDS = 1_000_000_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


_WRITERS = {"value": _values, "json": _json, "text": _text}
