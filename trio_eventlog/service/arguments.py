"""What callers pass in, looked at before anything is sent: a slip is named where it was made."""

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

from trio_eventlog.bounds import OFFSET_MAX
from trio_eventlog.errors import InvalidArgument, TopicNotFound
from trio_eventlog.records import Record
from trio_eventlog.service.requests import Timestamp
from trio_eventlog.service.values import NewTopic, Start, TopicChange, TopicDescription, timestamp_ns

U32_MAX = (1 << 32) - 1
U64_MAX = (1 << 64) - 1

T = TypeVar("T")


def check_text(name: str, value: object) -> None:
    """Raises InvalidArgument unless `value` is a text that can be sent."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{name} is {value!r}: it has to be a text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidArgument(f"{name} is {value!r}: it has characters that have no encoding")


def check_whole(name: str, value: object, highest: int = U32_MAX, *, lowest: int = 0) -> None:
    """Raises InvalidArgument unless `value` is a whole number within the bounds."""
    if type(value) is not int or not lowest <= value <= highest:
        raise InvalidArgument(f"{name} is {value!r}: it has to be a whole number from {lowest} to {highest}")


def check_seconds(name: str, value: object) -> None:
    """Raises InvalidArgument unless `value` is a length of time: finite and not below 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InvalidArgument(f"{name} is {value!r}: it has to be a number of seconds, 0 or more")


def check_whole_seconds(name: str, value: float) -> None:
    """As `check_seconds`, without a part of a second."""
    check_seconds(name, value)
    if value != int(value):
        raise InvalidArgument(f"{name} is {value:g}: give whole seconds; 0 means no limit")


def made(what: str, make: Callable[[], T]) -> T:
    """The result of `make`. Raises InvalidArgument when values in it are of a wrong type, or beyond what their fields can hold."""
    try:
        return make()
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidArgument(f"{what}: {error}") from error


def records_of(items: Sequence[Record | bytes | Sequence[Record | bytes]]) -> list[Record]:
    """What `produce` was given, one by one: bytes stand for a record with that value. Raises InvalidArgument when there is none."""
    records: list[Record] = []
    for item in items:
        if isinstance(item, Record):
            records.append(item)
        elif isinstance(item, list | tuple):
            records += (one if isinstance(one, Record) else Record(value=one) for one in item)
        else:
            # What is neither is refused with words when it is encoded.
            records.append(Record(value=cast("bytes", item)))
    if not records:
        raise InvalidArgument("produce needs at least one record")
    return records


def new_topic(name: str, partitions: int, replicas: int, retention_bytes: int, retention_seconds: float, kind: str) -> NewTopic:
    """Raises InvalidArgument for what no topic can have."""
    check_text("name", name)
    check_whole("partitions", partitions, lowest=1)
    check_whole("replicas", replicas)
    check_retention(retention_bytes, retention_seconds)
    check_text("kind", kind)
    return NewTopic(
        name=name,
        partitions=partitions,
        replicas=replicas,
        retention_bytes=retention_bytes,
        retention_seconds=int(retention_seconds),
        kind=kind,
    )


def topic_change(name: str, group_id: int, retention_bytes: int | None, retention_seconds: float | None) -> TopicChange:
    """Raises InvalidArgument for what no topic can have, and when nothing is to change."""
    check_text("name", name)
    check_whole("group_id", group_id, U64_MAX)
    check_retention(0 if retention_bytes is None else retention_bytes, 0 if retention_seconds is None else retention_seconds)
    return TopicChange(
        name=name,
        group_id=group_id,
        retention_bytes=retention_bytes,
        retention_seconds=None if retention_seconds is None else int(retention_seconds),
    )


def trim_groups(
    described: TopicDescription, before: int | datetime.datetime, partition: int | None
) -> tuple[dict[int, int], int | Timestamp]:
    """The partitions that are to be trimmed, with their groups, and before what. Raises TopicNotFound, InvalidArgument."""
    if isinstance(before, datetime.datetime):
        if before.tzinfo is None:
            raise InvalidArgument(f"before is {before}: a time needs a time zone")
        point: int | Timestamp = Timestamp(timestamp_ns(before))
    else:
        check_whole("before", before, OFFSET_MAX)
        point = before
    if partition is not None:
        return {partition: group_of(described, partition)}, point
    if isinstance(point, int) and len(described.partitions) > 1:
        raise InvalidArgument(
            f"topic {described.topic.name!r} has {len(described.partitions)} partitions with offsets of their own: name one of"
            " them, or give a time"
        )
    return {item.partition: item.group_id for item in described.partitions}, point


def check_retention(retention_bytes: int, retention_seconds: float) -> None:
    """Raises InvalidArgument for limits that no topic can have."""
    check_whole("retention_bytes", retention_bytes, U64_MAX)
    check_whole_seconds("retention_seconds", retention_seconds)
    check_whole("retention_seconds", int(retention_seconds), U64_MAX >> 1)


def check_start(start: Start, partitions: int) -> None:
    """Raises InvalidArgument for a start that cannot be."""
    problem = ""
    if isinstance(start, datetime.datetime) and start.tzinfo is None:
        problem = "a start time needs its zone: datetime(..., tzinfo=UTC)"
    elif isinstance(start, int) and start < 0:
        problem = "an offset is 0 or more"
    elif isinstance(start, int) and partitions > 1:
        problem = "an offset belongs to one partition: name the partition"
    elif isinstance(start, Mapping):
        for partition, offset in start.items():
            check_whole("start: a partition", partition)
            check_whole(f"start: the offset of partition {partition}", offset, U64_MAX)
    if problem:
        raise InvalidArgument(f"start {start!r}: {problem}")


def check_producer(topic: str, linger: float | None, **sizes: int | None) -> None:
    """Raises InvalidArgument for arguments of `producer` that cannot be."""
    check_text("topic", topic)
    if linger is not None:
        check_seconds("linger", linger)
    for name, value in sizes.items():
        if value is not None:
            check_whole(name, value, lowest=1)


def check_consume(topic: str, partition: int | None, group_id: int, **sizes: int | None) -> None:
    """Raises InvalidArgument for arguments of `consume` that cannot be, `start` excepted."""
    check_text("topic", topic)
    check_whole("group_id", group_id, U64_MAX)
    if partition is not None:
        check_whole("partition", partition)
    for name, value in sizes.items():
        if value is not None:
            check_whole(name, value)
    if group_id and partition is None:
        raise InvalidArgument("group_id belongs to one partition: name the partition")


def group_of(description: TopicDescription, partition: int) -> int:
    """The group of a partition. Raises TopicNotFound when the topic does not have it."""
    for item in description.partitions:
        if item.partition == partition:
            return item.group_id
    raise TopicNotFound(f"topic {description.topic.name} has no partition {partition}: it has {len(description.partitions)}")
