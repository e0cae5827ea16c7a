"""The state machine of a partition: the high watermark and the producers."""

import attrs

from trio_eventlog.machine.producers import ProducerTable, Remembered


@attrs.frozen(slots=True)
class AppliedBatch:
    """What a committed DATA entry says to the machine. `producer_id` 0: its producer is not idempotent."""

    index: int
    base_offset: int
    record_count: int
    producer_id: int
    producer_epoch: int
    base_sequence: int


class PartitionMachine:
    """What every replica of a partition knows at an applied index.

    Attributes:
        high_watermark: one past the offset of the last applied record; never goes back.
        applied_index: index of the last applied entry; never goes back.
        producers: what is known of idempotent producers.
    """

    def __init__(self, window_batches: int, producers_max: int) -> None:
        self.high_watermark = 0
        self.applied_index = 0
        self.producers = ProducerTable(window_batches, producers_max)

    def apply_batch(self, batch: AppliedBatch) -> None:
        assert batch.index == self.applied_index + 1, "entries are applied in order, each once"
        assert batch.base_offset == self.high_watermark, "offsets are dense"
        self.applied_index = batch.index
        self.high_watermark = batch.base_offset + batch.record_count
        if batch.producer_id:
            self.producers.record(
                batch.producer_id,
                batch.producer_epoch,
                Remembered(batch.base_sequence, batch.record_count, batch.base_offset),
            )

    def skip(self, index: int) -> None:
        """An entry without records: no-op, configuration or control."""
        assert index == self.applied_index + 1, "entries are applied in order, each once"
        self.applied_index = index
