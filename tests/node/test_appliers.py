"""From entries to machines."""

import pytest

from tests.node.rig import data, no_op
from trio_eventlog.codec.catalog import encode_command
from trio_eventlog.codec.entry import encode_entry
from trio_eventlog.errors import NewerRelease, TopicExists
from trio_eventlog.ids import NodeId
from trio_eventlog.machine.catalog import CatalogMachine, Command, CreateTopic, DeleteTopic, Outcome, RaiseFeatureLevel, Topic
from trio_eventlog.machine.partition import PartitionMachine
from trio_eventlog.node.appliers import CatalogApplier, PartitionApplier
from trio_eventlog.node.proposals import Appended
from trio_eventlog.node.watermark import Watermark
from trio_eventlog.raft import EntryKind


def test_batches_move_the_watermark_and_are_remembered() -> None:
    """Entries without records count as applied, and move nothing."""
    machine, watermark = PartitionMachine(5, 10), Watermark()
    applier = PartitionApplier(machine, watermark)
    assert applier.apply(no_op(1, 1, 0)) is None
    assert applier.apply(data(1, 2, 0, b"a", b"b", producer_id=9, base_sequence=4)) == Appended(0, 2)
    assert applier.apply(data(1, 3, 2, b"c")) == Appended(2, 1)
    assert (watermark.value, machine.applied_index, machine.high_watermark) == (3, 3, 3)
    state = applier.producers.get(9)
    assert state is not None
    assert state.next_sequence == 6
    assert len(applier.producers) == 1, "a batch without a producer id is not remembered"


def test_entries_are_applied_in_order_each_once() -> None:
    applier = PartitionApplier(PartitionMachine(5, 10), Watermark())
    applier.apply(data(1, 1, 0, b"a"))
    with pytest.raises(AssertionError):
        applier.apply(data(1, 1, 0, b"a"))
    with pytest.raises(AssertionError):
        applier.apply(data(1, 3, 1, b"a"))
    with pytest.raises(AssertionError):
        applier.apply(data(1, 2, 5, b"a"))


@pytest.mark.parametrize("payload", [b"short", b"", b"\xff" * 31, b"\xff" * 200, bytes(32)])
def test_a_committed_entry_that_holds_no_readable_batch_ends_nothing(payload: bytes) -> None:
    """It has its place and its offsets, on every replica alike; who reads it is told. It would end every node, at each start."""
    machine, watermark = PartitionMachine(5, 10), Watermark()
    applier = PartitionApplier(machine, watermark)
    frame = encode_entry(EntryKind.DATA, term=1, index=1, base_offset=0, record_count=3, payload=payload)
    assert applier.apply(frame) == Appended(0, 3)
    assert applier.apply(data(1, 2, 3, b"a")) == Appended(3, 1)
    assert (watermark.value, machine.applied_index) == (4, 2)


def test_a_control_entry_of_a_partition_is_of_a_newer_release() -> None:
    """One of a kind that this release does not know. Skipped, the replica would differ from those that know it."""
    machine, watermark = PartitionMachine(5, 10), Watermark()
    applier = PartitionApplier(machine, watermark)
    with pytest.raises(NewerRelease, match="control entry"):
        applier.apply(control(1, b"{}"))  # type: ignore[arg-type]
    assert machine.applied_index == 0


def control(index: int, payload: bytes) -> object:
    return encode_entry(EntryKind.CONTROL, term=1, index=index, base_offset=0, payload=payload)


def test_commands_of_the_catalog_and_their_refusals_are_told() -> None:
    """The proposer gets the outcome, and so does whoever opens partitions, refusals included, in order."""
    told: list[tuple[Command, Outcome]] = []
    applier = CatalogApplier(CatalogMachine(), lambda command, outcome: told.append((command, outcome)))
    assert applier.producers is None
    create = CreateTopic(name="t", partition_count=1, replicas=(NodeId(1),))
    assert applier.apply(no_op(1, 1, 0)) is None
    created = applier.apply(control(2, encode_command(create)))  # type: ignore[arg-type]
    assert isinstance(created, Topic)
    assert isinstance(applier.apply(control(3, encode_command(create))), TopicExists)  # type: ignore[arg-type]
    applier.apply(control(4, encode_command(DeleteTopic(name="t"))))  # type: ignore[arg-type]
    assert [type(outcome) for _, outcome in told] == [Topic, TopicExists, Topic]
    assert told[2] == (DeleteTopic(name="t"), created)


@pytest.mark.parametrize(
    "payload",
    [b'{"command":"set_quota"}', b'{"command":"drain_node","node":2,"until":7}', b'{"command":"raise_feature_level","level":2}'],
)
def test_a_command_of_a_newer_release_is_neither_skipped_nor_refused(payload: bytes) -> None:
    """The machine stays before it, and so it can be applied after an upgrade."""
    machine = CatalogMachine()
    applier = CatalogApplier(machine, lambda command, outcome: None, feature_level=1)
    with pytest.raises(NewerRelease):
        applier.apply(control(1, payload))  # type: ignore[arg-type]
    assert (machine.applied_index, machine.feature_level) == (0, 1)


def test_the_feature_level_never_falls() -> None:
    """A level proposed twice, or late, changes nothing."""
    machine = CatalogMachine()
    applier = CatalogApplier(machine, lambda command, outcome: None, feature_level=3)
    for index, level in enumerate((2, 3, 1, 2), 1):
        applier.apply(control(index, encode_command(RaiseFeatureLevel(level=level))))  # type: ignore[arg-type]
    assert machine.feature_level == 3
