"""Producer ids of a node's own, for batches that come without one.

A plain batch may have to be sent again by the node that took it: the leader was somewhere else, or was lost half-way. That is safe
only under a producer id and a sequence. So each such batch is numbered by a sequence of this node's: a producer id that has at most
one batch in flight in each partition. A sequence whose batch ended in doubt is not given back, for its next number is not known.
"""

import random

import attrs

from trio_eventlog.codec.batch import stamp
from trio_eventlog.ids import GroupId
from trio_eventlog.records import Batch


@attrs.define(slots=True, eq=False)
class OwnSequence:
    """One producer id in one partition, with its next number."""

    group_id: GroupId
    producer_id: int
    next_sequence: int = 0

    def stamp(self, batch: Batch) -> Batch:
        return stamp(batch, producer_id=self.producer_id, producer_epoch=0, base_sequence=self.next_sequence)


class OwnSequences:
    """Sequences that are free, by partition: as many as batches were ever in flight at once there, at most `idle_max`."""

    def __init__(self, rng: random.Random, idle_max: int) -> None:
        self._rng = rng
        self._idle_max = idle_max
        self._idle: dict[GroupId, list[OwnSequence]] = {}

    def take(self, group_id: GroupId) -> OwnSequence:
        idle = self._idle.get(group_id)
        return idle.pop() if idle else self.begin(group_id)

    def begin(self, group_id: GroupId) -> OwnSequence:
        """One that has numbered nothing yet: its batch follows whatever is in the log."""
        return OwnSequence(group_id, self._rng.randrange(1, 1 << 64))

    def give_back(self, sequence: OwnSequence, record_count: int) -> None:
        """The sequence's batch is in the log."""
        sequence.next_sequence += record_count
        idle = self._idle.setdefault(sequence.group_id, [])
        if len(idle) < self._idle_max:
            idle.append(sequence)

    def forget(self, group_id: GroupId) -> None:
        """The partition is gone."""
        self._idle.pop(group_id, None)
