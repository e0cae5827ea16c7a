"""Topics: created and deleted alike on every replica."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.catalog import decode_command, encode_command
from trio_eventlog.errors import CodecError, InvalidArgument, TopicExists, TopicNotFound
from trio_eventlog.ids import NodeId
from trio_eventlog.machine.catalog import PARTITIONS_MAX, CatalogMachine, CreateTopic, DeleteTopic, Topic

NODES = (NodeId(1), NodeId(2), NodeId(3))


def create(name: str = "orders", partitions: int = 2, replicas: tuple[NodeId, ...] = NODES) -> CreateTopic:
    return CreateTopic(name=name, partition_count=partitions, replicas=replicas)


def test_group_ids_count_up_and_are_never_reused() -> None:
    """A deleted topic's groups keep their ids, so that no directory is ever taken for another's."""
    machine = CatalogMachine()
    first = machine.apply(1, create())
    assert isinstance(first, Topic)
    assert [partition.group_id for partition in first.partitions] == [1, 2]
    assert machine.apply(2, DeleteTopic(name="orders")) == first
    second = machine.apply(3, create())
    assert isinstance(second, Topic)
    assert [partition.group_id for partition in second.partitions] == [3, 4]


def test_a_refused_command_changes_nothing() -> None:
    """The error is the outcome, the applied index moves on, the topics stay."""
    machine = CatalogMachine()
    machine.apply(1, create())
    before = dict(machine.topics)
    assert isinstance(machine.apply(2, create()), TopicExists)
    assert isinstance(machine.apply(3, DeleteTopic(name="nothing")), TopicNotFound)
    assert isinstance(machine.apply(4, create("empty", replicas=())), InvalidArgument)
    assert (machine.topics, machine.applied_index, machine.next_group_id) == (before, 4, 3)


@pytest.mark.parametrize("name", ["", "a" * 201, "a b", "a/b", "..", ".", "ü"])
def test_names_that_no_topic_may_have(name: str) -> None:
    """Names become metric labels and parts of addresses: they are kept plain."""
    assert isinstance(CatalogMachine().apply(1, create(name)), InvalidArgument)


@pytest.mark.parametrize(("partitions", "ok"), [(0, False), (1, True), (PARTITIONS_MAX, True), (PARTITIONS_MAX + 1, False)])
def test_the_number_of_partitions_is_bounded(partitions: int, ok: bool) -> None:
    """At the limit it works, one more does not."""
    assert isinstance(CatalogMachine().apply(1, create(partitions=partitions)), Topic) is ok


@pytest.mark.parametrize("command", [create(), DeleteTopic(name="orders")])
def test_commands_survive_their_encoding(command: CreateTopic | DeleteTopic) -> None:
    """Decode of encode."""
    assert decode_command(encode_command(command)) == command


def test_golden_bytes() -> None:
    """What is in logs already stays readable."""
    assert encode_command(create()) == (
        b'{"command":"create_topic","name":"orders","partitions":2,"replica_count":0,"replicas":[1,2,3],'
        b'"retention_bytes":0,"retention_seconds":0}'
    )
    assert encode_command(DeleteTopic(name="orders")) == b'{"command":"delete_topic","name":"orders"}'


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: repr(v).encode()))
def test_any_bytes_get_an_answer(payload: bytes) -> None:
    """A value or CodecError, nothing else."""
    try:
        decode_command(payload)
    except CodecError:
        pass
