"""From entries to machines."""

import pytest

from tests.node.rig import data, no_op
from trio_eventlog.codec.catalog import encode_command
from trio_eventlog.codec.entry import encode_entry
from trio_eventlog.errors import DamagedData, TopicExists
from trio_eventlog.ids import NodeId
from trio_eventlog.machine.catalog import CatalogMachine, Command, CreateTopic, DeleteTopic, Outcome, Topic
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


def test_a_committed_entry_that_is_no_batch_ends_the_node() -> None:
    """Going on would make this replica differ from the others."""
    applier = PartitionApplier(PartitionMachine(5, 10), Watermark())
    frame = encode_entry(EntryKind.DATA, term=1, index=1, base_offset=0, record_count=1, payload=b"short")
    with pytest.raises(DamagedData, match="entry 1"):
        applier.apply(frame)


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


def test_a_command_that_is_not_understood_ends_the_node() -> None:
    """A newer release may have written it."""
    applier = CatalogApplier(CatalogMachine(), lambda command, outcome: None)
    with pytest.raises(DamagedData, match="not understood"):
        applier.apply(control(1, b'{"command":"set_quota"}'))  # type: ignore[arg-type]
