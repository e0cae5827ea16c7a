"""Bodies of the HTTP interface as msgspec types, and records both ways."""

import base64
import datetime
import functools
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from trio_eventlog.http.problems import invalid_field
from trio_eventlog.records import Header, Record
from trio_eventlog.service.values import PartitionInfo, ProduceResult, TopicDescription, TopicInfo, timestamp_ns

NANOSECONDS = 1_000_000_000
EPOCH = datetime.datetime(1970, 1, 1)
TIME_NS_MIN = (datetime.datetime.min - EPOCH) // datetime.timedelta(microseconds=1) * 1000
TIME_NS_MAX = (datetime.datetime.max - EPOCH) // datetime.timedelta(microseconds=1) * 1000
OFFSET_MAX = (1 << 63) - 1
PARTITION_MAX = (1 << 32) - 1

Offset = Annotated[int, Meta(ge=0, le=OFFSET_MAX)]
Partition = Annotated[int, Meta(ge=0, le=PARTITION_MAX)]
TopicName = Annotated[str, Meta(min_length=1, max_length=255)]
AcksName = Literal["quorum", "leader", "none"]
ValueForm = Literal["auto", "text", "json", "base64"]


class HeaderIn(Struct, forbid_unknown_fields=True):
    """A named value beside a record: text, or bytes as base64."""

    key: str
    value: str | UnsetType = UNSET
    base64: bytes | UnsetType = UNSET


class RecordIn(Struct, forbid_unknown_fields=True):
    """A record to be produced. Its value is one of `value` (text), `json` (any JSON, kept as it is written) and `base64` (bytes);
    without one it is null. The same of its key: `key` or `key_base64`."""

    value: str | UnsetType | None = UNSET
    json: msgspec.Raw | UnsetType = UNSET
    base64: bytes | UnsetType = UNSET
    key: str | UnsetType | None = UNSET
    key_base64: bytes | UnsetType = UNSET
    headers: list[HeaderIn] = []
    timestamp: Annotated[datetime.datetime, Meta(tz=True)] | UnsetType = UNSET

    def record(self, pointer: str) -> Record:
        """As a value of the log. Raises HttpProblem with a pointer that begins with `pointer`."""
        if (self.value is not UNSET) + (self.json is not UNSET) + (self.base64 is not UNSET) > 1:
            raise invalid_field("give one of value, json and base64", pointer)
        if self.key is not UNSET and self.key_base64 is not UNSET:
            raise invalid_field("give one of key and key_base64", pointer)
        value = self.base64 if self.base64 is not UNSET else None
        if isinstance(self.value, str):
            value = self.value.encode()
        elif self.json is not UNSET:
            value = bytes(self.json)
        key = self.key_base64 if self.key_base64 is not UNSET else None
        if isinstance(self.key, str):
            key = self.key.encode()
        return Record(
            value=value,
            key=key,
            headers=tuple(_header(one, f"{pointer}/headers/{number}") for number, one in enumerate(self.headers)),
            timestamp_ns=0 if self.timestamp is UNSET else timestamp_ns(self.timestamp),
        )


def _header(given: HeaderIn, pointer: str) -> Header:
    if (given.value is not UNSET) + (given.base64 is not UNSET) != 1:
        raise invalid_field("give one of value and base64", pointer)
    return Header(key=given.key, value=given.base64 if given.base64 is not UNSET else str(given.value).encode())


class RecordsIn(Struct, forbid_unknown_fields=True):
    """Records to be produced together. Those of one partition become one batch."""

    records: Annotated[list[RecordIn], Meta(min_length=1)]
    partition: Annotated[Partition, Meta(description="Where to, whatever the keys.")] | None = None
    acks: Annotated[AcksName, Meta(description="What to wait for.")] = "quorum"


class ProducedOut(Struct):
    """Where records are. `base_offset` is null with acks=none: nobody knows it yet."""

    topic: str
    partition: int
    base_offset: int | None
    record_count: int
    duplicate: bool = False

    @classmethod
    def of(cls, result: ProduceResult) -> "ProducedOut":
        return cls(
            result.topic,
            result.partition,
            None if result.base_offset < 0 else result.base_offset,
            result.record_count,
            result.duplicate,
        )


class ProducedAllOut(Struct):
    """The outcome of a request: one result for each partition."""

    count: int
    results: list[ProducedOut]


class HeaderOut(Struct, omit_defaults=True):
    """A named value beside a record."""

    key: str
    value: str | None = None
    base64: str | None = None


class RecordOut(Struct, omit_defaults=True):
    """A record. Its value is in `value` when it is text, in `base64` when it is not, and in `json` when JSON was asked for and it
    is some; null has none of them. `timestamp` is in nanoseconds, written as RFC 3339."""

    offset: int
    timestamp: str
    value: str | None = None
    json: Any = UNSET
    base64: str | None = None
    key: str | None = None
    key_base64: str | None = None
    headers: list[HeaderOut] = []


class RecordsOut(Struct):
    """A page of records. The next page begins at `next_offset`; `high_watermark` is one past the last record that can be read."""

    topic: str
    partition: int
    records: list[RecordOut]
    count: int
    next_offset: int
    log_start_offset: int
    high_watermark: int


def record_out(record: Record, form: ValueForm = "auto") -> RecordOut:
    """A record as it is answered."""
    out = RecordOut(record.offset, rfc3339(record.timestamp_ns))
    if (value := record.value) is not None:
        _set_value(out, value, form)
    if (key := record.key) is not None:
        if (text := as_text(key)) is not None:
            out.key = text
        else:
            out.key_base64 = base64.b64encode(key).decode()
    if record.headers:
        out.headers = [_header_out(header) for header in record.headers]
    return out


def _set_value(out: RecordOut, value: bytes, form: ValueForm) -> None:
    if form == "json":
        try:
            out.json = msgspec.json.decode(value)
            return
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            form = "auto"  # It is none: shown as what it is.
    text = None if form == "base64" else as_text(value)
    if text is not None:
        out.value = text
    else:
        out.base64 = base64.b64encode(value).decode()


def _header_out(header: Header) -> HeaderOut:
    text = as_text(header.value)
    return (
        HeaderOut(header.key, text) if text is not None else HeaderOut(header.key, base64=base64.b64encode(header.value).decode())
    )


def as_text(value: bytes) -> str | None:
    """None when it is no UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


@functools.lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return (EPOCH + datetime.timedelta(seconds=seconds)).isoformat(timespec="seconds")


def rfc3339(time_ns: int) -> str:
    """A time in UTC, with all its nanoseconds. What is in no calendar is shown as its last moment."""
    seconds, nanoseconds = divmod(min(max(time_ns, TIME_NS_MIN), TIME_NS_MAX), NANOSECONDS)
    return f"{_second(seconds)}.{nanoseconds:09d}Z"


class NewTopicIn(Struct, forbid_unknown_fields=True):
    """A topic to be created. `replicas` 0: one on every voter; retention 0: no limit."""

    name: TopicName
    partitions: Annotated[int, Meta(ge=1, le=PARTITION_MAX)] = 1
    replicas: Annotated[int, Meta(ge=0, le=PARTITION_MAX)] = 0
    retention_bytes: Annotated[int, Meta(ge=0, le=OFFSET_MAX)] = 0
    retention_seconds: Annotated[int, Meta(ge=0, le=OFFSET_MAX)] = 0
    kind: Annotated[Literal["records", "events"], Meta(description="events: of aggregates.")] = "records"


class TopicChangeIn(Struct, forbid_unknown_fields=True):
    """What a topic is to keep. What is left out stays as it is; 0: no limit."""

    retention_bytes: Annotated[int, Meta(ge=0, le=OFFSET_MAX)] | None = None
    retention_seconds: Annotated[int, Meta(ge=0, le=OFFSET_MAX)] | None = None


class TopicOut(Struct):
    """A topic. `retention_bytes` and `retention_seconds` are 0 when there is no limit."""

    name: str
    partitions: int
    replicas: int
    retention_bytes: int
    retention_seconds: float
    kind: str

    @classmethod
    def of(cls, topic: TopicInfo) -> "TopicOut":
        return cls(
            topic.name, topic.partitions, topic.replicas, topic.retention_bytes, topic.retention_seconds, topic.kind or "records"
        )


class TopicsOut(Struct):
    """Every topic, by name."""

    topics: list[TopicOut]
    count: int


class PartitionOut(Struct):
    """A partition as the answering node knows it. `leader_id` is null while nobody leads; offsets and `size_bytes` are null on a
    node that does not carry it."""

    partition: int
    leader_id: str | None
    replica_ids: list[str]
    log_start_offset: int | None
    high_watermark: int | None
    size_bytes: int | None
    problem: str | None

    @classmethod
    def of(cls, info: PartitionInfo) -> "PartitionOut":
        is_here = info.size_bytes is not None
        return cls(
            info.partition,
            info.leader_id or None,
            list(info.replica_ids),
            info.log_start_offset if is_here else None,
            info.high_watermark if is_here else None,
            info.size_bytes,
            info.problem or None,
        )


class TopicDetailOut(Struct):
    """A topic with its partitions."""

    name: str
    partition_count: int
    replicas: int
    retention_bytes: int
    retention_seconds: float
    partitions: list[PartitionOut]

    @classmethod
    def of(cls, described: TopicDescription) -> "TopicDetailOut":
        topic = described.topic
        return cls(
            topic.name,
            topic.partitions,
            topic.replicas,
            topic.retention_bytes,
            topic.retention_seconds,
            [PartitionOut.of(one) for one in described.partitions],
        )


def json_lines(values: Iterable[object]) -> bytes:
    """Values as NDJSON."""
    return b"".join(msgspec.json.encode(value) + b"\n" for value in values)
