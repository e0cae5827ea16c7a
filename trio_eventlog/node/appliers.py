"""From committed entry frames to the state machines, and their results back to the callers that wait."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from trio_eventlog.codec.catalog import decode_command
from trio_eventlog.codec.catalog_snapshot import decode_catalog, encode_catalog
from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.partition_command import decode_trim
from trio_eventlog.codec.partition_snapshot import decode_partition, encode_partition
from trio_eventlog.codec.stored_batch import batch_producer
from trio_eventlog.errors import CodecError, InvalidArgument, NewerRelease
from trio_eventlog.machine.catalog import FEATURE_LEVEL, CatalogMachine, CatalogSnapshot, Command, Outcome, RaiseFeatureLevel
from trio_eventlog.machine.events import EventJudge
from trio_eventlog.machine.partition import AppliedBatch, LogStart, PartitionMachine, PartitionSnapshot
from trio_eventlog.machine.producers import ProducerTable
from trio_eventlog.node.partition_events import PartitionEvents
from trio_eventlog.node.proposals import Appended, Proposal
from trio_eventlog.node.watermark import Watermark
from trio_eventlog.raft import EntryKind

logger = logging.getLogger(__name__)


class Applier(Protocol):
    """A group's machine as its driver sees it."""

    @property
    def producers(self) -> ProducerTable | None:
        """What is known of idempotent producers, when the machine keeps it."""
        ...

    @property
    def log_start_offset(self) -> int:
        """The smallest offset that readers are to see; only grows."""
        ...

    @property
    def events(self) -> EventJudge[Proposal] | None:
        """What appends to aggregates are judged by, in a partition of events."""
        ...

    def apply(self, frame: EntryFrame) -> object:
        """Apply the next committed entry. Returns the outcome for its proposer: a result or an EventLogError.

        Whatever a proposer may have put into an entry has an outcome here. Anything else than NewerRelease that is raised ends the
        node, now and at every start again, and the other replicas with it.

        Raises:
            NewerRelease: only a newer release knows what to do with it. Nothing has changed; nothing behind it may be applied.
        """
        ...

    def snapshot(self) -> Callable[[], bytes]:
        """The machine as it is now, as a function that gives its bytes. Any thread may call that, while the machine goes on.

        It raises CodecError when there would be too many of them.
        """
        ...

    def decode_snapshot(self, data: bytes) -> Callable[[], None]:
        """The inverse, as a function that has the machine take what was decoded. Changes nothing itself, and may be called in any
        thread.

        Raises:
            NewerRelease: only a newer release can read it.
            CodecError: no such bytes.
        """
        ...


class PartitionApplier:
    """A partition: batches move the high watermark, control entries the log start.

    Args:
        events: of a partition of events: told of everything that is applied. None: the records are no events.
    """

    def __init__(self, machine: PartitionMachine, watermark: Watermark, events: PartitionEvents | None = None) -> None:
        self._machine = machine
        self._watermark = watermark
        self._events = events

    @property
    def producers(self) -> ProducerTable:
        return self._machine.producers

    @property
    def log_start_offset(self) -> int:
        return self._machine.log_start.offset

    @property
    def events(self) -> EventJudge[Proposal] | None:
        return self._events.judge if self._events is not None else None

    def apply(self, frame: EntryFrame) -> Appended | LogStart | InvalidArgument | None:
        if frame.kind is EntryKind.CONTROL:
            result = self._trim(frame)
            if self._events is not None:
                self._events.applied(frame)
            return result
        if frame.kind is not EntryKind.DATA:
            self._machine.skip(frame.index)
            if self._events is not None:
                self._events.applied(frame)
            return None
        # Whether the payload can be read is for readers to find out; the machine takes any, or one bad batch would end every node.
        producer_id, producer_epoch, base_sequence = batch_producer(frame)
        self._machine.apply(
            frame.index, AppliedBatch(frame.base_offset, frame.record_count, producer_id, producer_epoch, base_sequence)
        )
        first_version = self._events.applied(frame) if self._events is not None else 0
        self._watermark.advance(self._machine.high_watermark)
        return Appended(frame.base_offset, frame.record_count, first_version=first_version)

    def _trim(self, frame: EntryFrame) -> LogStart | InvalidArgument:
        try:
            start = decode_trim(frame.payload)
        except NewerRelease:
            raise
        except CodecError as error:
            # It is committed, so every replica has it, and refuses it alike, at every start again.
            self._machine.skip(frame.index)
            logger.error("committed control entry %d changes nothing, on every replica alike: %s", frame.index, error)
            return InvalidArgument(f"the command cannot be carried out: {error}")
        return self._machine.trim(frame.index, start)

    def snapshot(self) -> Callable[[], bytes]:
        return partial(encode_partition, self._machine.snapshot())

    def decode_snapshot(self, data: bytes) -> Callable[[], None]:
        return partial(self._restore, decode_partition(data))

    def _restore(self, snapshot: PartitionSnapshot) -> None:
        self._machine.restore(snapshot)
        if self._events is not None:
            self._events.restored(snapshot.applied_index)
        self._watermark.advance(snapshot.high_watermark)


class CatalogApplier:
    """The catalog: each command changes what the node carries.

    Args:
        on_applied: called with every command and its outcome, in order, on every replica.
        feature_level: the highest that this node supports.
        on_restored: called when the machine has taken a snapshot, instead of `on_applied` for the commands that it covers.
    """

    def __init__(
        self,
        machine: CatalogMachine,
        on_applied: Callable[[Command, Outcome], None],
        feature_level: int = FEATURE_LEVEL,
        on_restored: Callable[[], None] = lambda: None,
    ) -> None:
        self._machine = machine
        self._on_applied = on_applied
        self._on_restored = on_restored
        self._feature_level = feature_level

    @property
    def producers(self) -> None:
        return None

    @property
    def log_start_offset(self) -> int:
        return 0

    @property
    def events(self) -> None:
        return None

    def apply(self, frame: EntryFrame) -> Outcome | None:
        if frame.kind is not EntryKind.CONTROL:
            self._machine.skip(frame.index)
            return None
        try:
            command = decode_command(frame.payload)
        except NewerRelease:
            raise
        except CodecError as error:
            # It is committed, so every replica has it, and refuses it alike, at every start again. `encode_command` lets none
            # through; releases that did not look have.
            logger.error("committed catalog entry %d changes nothing, on every replica alike: %s", frame.index, error)
            self._machine.skip(frame.index)
            return InvalidArgument(f"the command cannot be carried out: {error}")
        if isinstance(command, RaiseFeatureLevel):
            self._check_level(command.level)
        outcome = self._machine.apply(frame.index, command)
        self._on_applied(command, outcome)
        return outcome

    def snapshot(self) -> Callable[[], bytes]:
        return partial(encode_catalog, self._machine.snapshot())

    def decode_snapshot(self, data: bytes) -> Callable[[], None]:
        snapshot = decode_catalog(data)
        self._check_level(snapshot.feature_level)
        return partial(self._restore, snapshot)

    def _restore(self, snapshot: CatalogSnapshot) -> None:
        self._machine.restore(snapshot)
        self._on_restored()

    def _check_level(self, level: int) -> None:
        if level > self._feature_level:
            raise NewerRelease(f"the cluster speaks feature level {level}, this release {self._feature_level}")
