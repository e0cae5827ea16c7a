"""The state machine of a partition: the high watermark, and its parts.

A part keeps one kind of knowledge (`producers`: which batches were taken). It has a snapshot and a codec of its own. A new part is
an attribute here, a field of `PartitionSnapshot`, and a `PartKind` (`codec.snapshot`).
"""

import attrs

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.machine.producers import ProducersSnapshot, ProducerTable, Remembered


@attrs.frozen(slots=True)
class AppliedBatch:
    """The content of a committed DATA entry, as far as the machine needs it. `producer_id` 0: its producer is not idempotent."""

    base_offset: int
    record_count: int
    producer_id: int
    producer_epoch: int
    base_sequence: int


@attrs.frozen(slots=True)
class LogStart:
    """Where the log of a partition begins for its readers.

    Attributes:
        index: of the last entry before it.
        offset: the smallest that is readable.
    """

    index: int = 0
    offset: int = 0


@attrs.frozen(slots=True, kw_only=True)
class PartitionSnapshot:
    """A `PartitionMachine` as a value."""

    applied_index: int
    high_watermark: int
    log_start: LogStart
    producers: ProducersSnapshot


class PartitionMachine:
    """The state that every replica of a partition has at an applied index. A `Machine`.

    Attributes:
        high_watermark: one past the offset of the last applied record; never goes back.
        applied_index: index of the last applied entry; never goes back.
        log_start: where the log begins for readers; never goes back. Files may hold more than that.
        producers: what is known of idempotent producers.
    """

    def __init__(self, window_batches: int, producers_max: int) -> None:
        self.high_watermark = 0
        self.applied_index = 0
        self.log_start = LogStart()
        self.producers = ProducerTable(window_batches, producers_max)

    def apply(self, index: int, batch: AppliedBatch) -> None:
        """The batch of entry `index` is committed."""
        assert index == self.applied_index + 1, "entries are applied in order, each once"
        assert batch.base_offset == self.high_watermark, "offsets are dense"
        self.applied_index = index
        self.high_watermark = batch.base_offset + batch.record_count
        if batch.producer_id:
            self.producers.record(
                batch.producer_id,
                batch.producer_epoch,
                Remembered(batch.base_sequence, batch.record_count, batch.base_offset),
            )

    def trim(self, index: int, start: LogStart) -> LogStart | InvalidArgument:
        """Entry `index` moves the log start to `start`. It never goes back: one before the present one changes nothing.

        Returns where it is then; an error when there is no such place.
        """
        self.skip(index)
        if start.offset > self.high_watermark or start.index >= index:
            return InvalidArgument(
                f"the log cannot start at offset {start.offset}, after entry {start.index}: it goes up to offset"
                f" {self.high_watermark} and entry {index - 1}"
            )
        if start.offset > self.log_start.offset:
            self.log_start = start
        return self.log_start

    def skip(self, index: int) -> None:
        """An entry without records that changes nothing here: no-op or configuration."""
        assert index == self.applied_index + 1, "entries are applied in order, each once"
        self.applied_index = index

    def snapshot(self) -> PartitionSnapshot:
        return PartitionSnapshot(
            applied_index=self.applied_index,
            high_watermark=self.high_watermark,
            log_start=self.log_start,
            producers=self.producers.snapshot(),
        )

    def restore(self, snapshot: PartitionSnapshot) -> None:
        """Take the state of `snapshot`, whatever was applied before. The limits of the parts stay those of this machine."""
        self.applied_index = snapshot.applied_index
        self.high_watermark = snapshot.high_watermark
        self.log_start = snapshot.log_start
        self.producers.restore(snapshot.producers)
