"""Machines can be saved and restored: a snapshot and the commands after it give what the whole log gives."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.catalog_snapshot import decode_catalog, encode_catalog
from trio_eventlog.codec.partition_snapshot import decode_partition, encode_partition
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.machine.catalog import (
    AlterTopic,
    CatalogMachine,
    CatalogSnapshot,
    Command,
    CreateTopic,
    DeleteTopic,
    DrainNode,
    Outcome,
    Place,
    RaiseFeatureLevel,
    RegisterNode,
    RemoveNode,
    SetReplicas,
)
from trio_eventlog.machine.machine import Machine
from trio_eventlog.machine.partition import AppliedBatch, PartitionMachine, PartitionSnapshot
from trio_eventlog.machine.producers import ProducerTable

WINDOW_BATCHES = 3
PRODUCERS_MAX = 4

Entry = object | None
"""A command, or None for an entry without one."""


@attrs.frozen
class Kind:
    """How the tests make a machine of one kind, and its bytes."""

    make: Callable[[], Machine[Any, Any, Any]]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def partition_machine() -> Machine[AppliedBatch, None, PartitionSnapshot]:
    return PartitionMachine(WINDOW_BATCHES, PRODUCERS_MAX)


def catalog_machine() -> Machine[Command, Outcome, CatalogSnapshot]:
    return CatalogMachine()


PARTITION = Kind(partition_machine, encode_partition, decode_partition)
CATALOG = Kind(catalog_machine, encode_catalog, decode_catalog)


def feed(machine: Machine[Any, Any, Any], entries: Sequence[Entry]) -> list[object]:
    """What each entry leads to, from the machine's applied index on."""
    outcomes: list[object] = []
    for entry in entries[machine.applied_index :]:
        index = machine.applied_index + 1
        if entry is None:
            machine.skip(index)
        else:
            outcome = machine.apply(index, entry)
            outcomes.append(str(outcome) if isinstance(outcome, Exception) else outcome)
    return outcomes


@st.composite
def partition_logs(draw: st.DrawFn) -> list[Entry]:
    """More producers than are remembered, epochs that change, sequences that continue and that do not, up to the highest."""
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    entries: list[Entry] = []
    ends: dict[int, tuple[int, int]] = {}
    offset = 0
    for _ in range(draw(st.integers(0, 40))):
        if rng.random() < 0.1:
            entries.append(None)
            continue
        producer_id = rng.choice((0, 1, 2, 3, 4, 5, 6, (1 << 64) - 1))
        epoch, sequence = ends.get(producer_id, (0, rng.choice((0, 7, (1 << 64) - 2))))
        if rng.random() < 0.2:
            epoch, sequence = (
                rng.choice((epoch, min(epoch + 1, (1 << 32) - 1), (1 << 32) - 1)),
                rng.choice((0, 1 << 32, (1 << 64) - 1)),
            )
        record_count = rng.choice((1, 2, 1000))
        entries.append(AppliedBatch(offset, record_count, producer_id, epoch, sequence))
        offset += record_count
        # A batch may end beyond the last sequence number: what is committed is applied as it is.
        ends[producer_id] = (epoch, (sequence + record_count) % (1 << 64))
    return entries


NODES = tuple(map(NodeId, (1, 2, 3, (1 << 64) - 1)))


@st.composite
def catalog_logs(draw: st.DrawFn) -> list[Entry]:
    """Commands of each kind, on few names, so that they meet, and are refused, too."""
    nodes = st.sampled_from(NODES)
    some = st.lists(nodes, min_size=1, max_size=4, unique=True).map(tuple)
    names = st.sampled_from(("a", "b", "orders"))
    groups = st.integers(1, 9).map(GroupId)
    commands = st.one_of(
        st.builds(
            CreateTopic,
            name=names,
            partition_count=st.integers(1, 3),
            replicas=some,
            replica_count=st.integers(0, 3),
            retention_bytes=st.sampled_from((0, (1 << 64) - 1)),
            retention_seconds=st.sampled_from((0, (1 << 63) - 1)),
        ),
        st.builds(
            AlterTopic,
            name=names,
            group_id=groups,
            retention_bytes=st.sampled_from((None, 0, (1 << 64) - 1)),
            retention_seconds=st.sampled_from((None, 0, (1 << 63) - 1)),
        ),
        st.builds(DeleteTopic, name=names),
        st.builds(
            lambda topic, group, both: SetReplicas(topic=topic, group_id=group, replicas=both, wanted=both[:1]), names, groups, some
        ),
        st.builds(RegisterNode, node_id=nodes, name=st.sampled_from(("", "n1", "ü" * 2048))),
        st.builds(DrainNode, node_id=nodes),
        st.builds(RemoveNode, node_id=nodes),
        st.builds(RaiseFeatureLevel, level=st.integers(1, 3)),
    )
    return draw(st.lists(st.none() | commands, max_size=30))


LOGS = {"partition": (PARTITION, partition_logs()), "catalog": (CATALOG, catalog_logs())}


@pytest.mark.parametrize("what", LOGS)
@given(data=st.data())
def test_a_snapshot_and_the_tail_give_what_the_whole_log_gives(what: str, data: st.DataObject) -> None:
    """At any index, over its bytes, and whatever the restoring machine had applied before: the same state and the same outcomes."""
    kind, logs = LOGS[what]
    entries = data.draw(logs)
    cut = data.draw(st.integers(0, len(entries)))
    whole, saved, restored = kind.make(), kind.make(), kind.make()
    feed(saved, entries[:cut])
    snapshot = saved.snapshot()
    bytes_at_cut = kind.encode(snapshot)
    tail = feed(saved, entries)
    assert kind.encode(snapshot) == bytes_at_cut, "a snapshot shares nothing that changes"
    feed(restored, data.draw(logs))
    restored.restore(kind.decode(bytes_at_cut))
    assert restored.snapshot() == snapshot
    assert kind.encode(restored.snapshot()) == bytes_at_cut
    assert feed(restored, entries) == tail
    feed(whole, entries)
    assert restored.snapshot() == saved.snapshot() == whole.snapshot()
    assert kind.encode(restored.snapshot()) == kind.encode(whole.snapshot()), "equal states, equal bytes"


@given(catalog_logs(), st.data())
def test_the_place_of_a_group_is_what_a_search_of_all_topics_finds(entries: list[Entry], data: st.DataObject) -> None:
    """After every command, and after a restore."""
    machine = CatalogMachine()
    for end in range(len(entries) + 1):
        feed(machine, entries[:end])
        found = {
            partition.group_id: Place(topic.name, number)
            for topic in machine.topics.values()
            for number, partition in enumerate(topic.partitions)
        }
        assert machine.place_of == found
        for group_id in range(1, machine.next_group_id + 1):
            partition = machine.find_partition(GroupId(group_id))
            assert (partition is not None) == (group_id in found)
            assert partition is None or partition.group_id == group_id
    again = CatalogMachine()
    again.restore(machine.snapshot())
    assert again.place_of == machine.place_of


def test_a_producer_is_judged_as_before_after_a_restore() -> None:
    """The remembered batches, the next sequence and the epoch are those of the log."""
    machine = PartitionMachine(WINDOW_BATCHES, PRODUCERS_MAX)
    feed(machine, [AppliedBatch(10 * number, 10, 7, 1, 10 * number) for number in range(5)])
    restored = PartitionMachine(WINDOW_BATCHES, PRODUCERS_MAX)
    restored.restore(decode_partition(encode_partition(machine.snapshot())))
    state = restored.producers.get(7)
    assert state is not None
    assert (state.epoch, state.next_sequence, state.recorded) == (1, 50, 5)
    assert [batch.base_offset for batch in state.recent] == [20, 30, 40]
    assert restored.producers == machine.producers
    assert not restored.producers.lacks_room(PRODUCERS_MAX - 2, 0, ())
    assert restored.producers.lacks_room(PRODUCERS_MAX - 1, 0, ())


def test_what_is_beyond_the_limits_of_the_restoring_table_is_forgotten() -> None:
    """An operator may have lowered them. The oldest producer goes first, as when it is recorded."""
    table = ProducerTable(5, 10)
    machine = PartitionMachine(5, 10)
    feed(machine, [AppliedBatch(number, 1, 1 + number % 3, 0, number // 3) for number in range(12)])
    table.restore(machine.producers.snapshot())
    assert len(table) == 3
    assert not table.has_forgotten
    smaller = ProducerTable(2, 2)
    smaller.restore(machine.producers.snapshot())
    assert smaller.has_forgotten
    assert smaller.get(1) is None
    state = smaller.get(3)
    assert state is not None
    assert [batch.base_offset for batch in state.recent] == [8, 11]


def test_tables_differ_when_only_their_memory_of_forgetting_differs() -> None:
    """The next batch of an unknown producer is judged by it."""
    forgetful, other = ProducerTable(5, 1), ProducerTable(5, 2)
    one, two = PartitionMachine(5, 1), PartitionMachine(5, 1)
    feed(one, [AppliedBatch(0, 1, 1, 0, 0), AppliedBatch(1, 1, 2, 0, 0)])
    forgetful.restore(one.producers.snapshot())
    other.restore(attrs.evolve(one.producers.snapshot(), has_forgotten=False))
    assert forgetful != other
    feed(two, [AppliedBatch(0, 1, 2, 0, 0)])
    assert one.producers != two.producers
