"""What edges and other nodes ask of the service, and what they are given, as plain values."""

from collections.abc import Sequence
from typing import Protocol

import attrs

from trio_eventlog.records import Acks, Batch
from trio_eventlog.service.values import Position


@attrs.frozen(slots=True, kw_only=True)
class ProduceRequest:
    """One batch for one partition.

    Attributes:
        partition: None: by `key`, and in turn when that is empty.
        key: of the batch's first record.
        group_id: refuse the batch unless the partition has this group; 0: any.
        is_checked: this process has encoded the batch; otherwise its checksum, count and sizes are checked first.
    """

    topic: str
    batch: Batch
    acks: Acks = Acks.QUORUM
    partition: int | None = None
    key: bytes = b""
    group_id: int = 0
    is_checked: bool = False


@attrs.frozen(slots=True)
class Timestamp:
    """Nanoseconds since 1970 UTC: begin at the first batch with a record of that time or later."""

    ns: int


@attrs.frozen(slots=True, kw_only=True)
class ConsumeRequest:
    """Committed batches of one partition, from `start` on.

    Attributes:
        start: an offset, BEGINNING, END, or a time.
        max_bytes, max_records: of one answer; 0: as the node's settings have it.
        max_wait_seconds: how long an answer without records may be waited for; None: not at all. Streams do not look at it.
        is_linearizable: show everything that was acknowledged before the call.
        group_id: refuse unless the partition has this group; 0: any.
        unpacks: the caller takes batches apart while it holds them, and needs memory for that too.
    """

    topic: str
    partition: int = 0
    start: Position | int | Timestamp = 0
    max_bytes: int = 0
    max_records: int = 0
    max_wait_seconds: float | None = None
    is_linearizable: bool = False
    group_id: int = 0
    unpacks: bool = False


@attrs.frozen(slots=True, kw_only=True)
class Fetched:
    """Whole batches; the first one holds `offset`. Empty at the end of the log.

    Attributes:
        offset: of the first record wanted; the first batch may begin before it.
        next_offset: where to go on.
        high_watermark: one past the last readable offset, when this was read.
        log_start_offset: the smallest readable offset.
        group_id: of the partition.
    """

    batches: Sequence[Batch]
    offset: int
    next_offset: int
    high_watermark: int
    log_start_offset: int
    group_id: int


class ForwardedAnswer(Protocol):
    """What another node has fetched, as it came: an edge of the same kind can send it on without a look inside."""

    def fetched(self) -> Fetched:
        """Taken apart. `offset` is that of the first batch. Raises CorruptBatch for what this release does not know."""

    @property
    def holds_records(self) -> bool:
        """Cheap: told without taking it apart, for all but the smallest."""

    @property
    def next_offset(self) -> int | None:
        """One past the last record; None when there is none."""


Answer = Fetched | ForwardedAnswer
