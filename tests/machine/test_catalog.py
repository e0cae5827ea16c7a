"""Topics: created and deleted alike on every replica."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import trio_eventlog
from trio_eventlog.codec.catalog import COMMANDS, decode_command, encode_command
from trio_eventlog.codec.entry import EntryKind, encode_entry
from trio_eventlog.errors import (
    CodecError,
    EventLogError,
    InvalidArgument,
    NewerRelease,
    TopicExists,
    TopicNotFound,
    TopicRecreated,
)
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.machine.catalog import (
    EVENTS,
    FEATURE_LEVEL_MAX,
    NODES_MAX,
    PARTITIONS_MAX,
    AlterTopic,
    CatalogMachine,
    CatalogNode,
    Command,
    CreateTopic,
    DeleteTopic,
    DrainNode,
    RaiseFeatureLevel,
    RegisterNode,
    RemoveNode,
    Result,
    SetReplicas,
    Topic,
)
from trio_eventlog.node.appliers import CatalogApplier

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
    assert (machine.topics, machine.applied_index, machine.next_group_id) == (before, 3, 3)


def test_an_altered_topic_keeps_what_is_not_said() -> None:
    """Each limit by itself, 0 for none; places and everything else stay."""
    machine = CatalogMachine()
    made = machine.apply(1, create())
    assert isinstance(made, Topic)
    first = made.partitions[0].group_id
    steps = (
        (AlterTopic(name="orders", group_id=first, retention_bytes=5), (5, 0)),
        (AlterTopic(name="orders", group_id=first, retention_seconds=7), (5, 7)),
        (AlterTopic(name="orders", group_id=first), (5, 7)),
        (AlterTopic(name="orders", group_id=first, retention_bytes=0), (0, 7)),
    )
    for index, (command, (retention_bytes, retention_seconds)) in enumerate(steps, 2):
        altered = machine.apply(index, command)
        assert altered == attrs.evolve(made, retention_bytes=retention_bytes, retention_seconds=retention_seconds)
        assert machine.topics["orders"] is altered


def test_events_are_kept_for_ever() -> None:
    """Without the removed ones, their versions and ids would be given out a second time."""
    machine = CatalogMachine()
    for index, limit in enumerate(({"retention_bytes": 5}, {"retention_seconds": 7}), 1):
        assert type(machine.apply(index, attrs.evolve(create(), kind=EVENTS, **limit))) is InvalidArgument
    made = machine.apply(3, attrs.evolve(create(), kind=EVENTS))
    assert isinstance(made, Topic)
    first = made.partitions[0].group_id
    for index, limit in enumerate(({"retention_bytes": 5}, {"retention_seconds": 7}), 4):
        assert type(machine.apply(index, AlterTopic(name="orders", group_id=first, **limit))) is InvalidArgument
    assert machine.apply(6, AlterTopic(name="orders", group_id=first, retention_bytes=0)) == made


def test_only_the_topic_that_was_meant_is_altered() -> None:
    """Not one of the same name that was made later, nor one by the group of another partition; and of none it is said."""
    machine = CatalogMachine()
    machine.apply(1, create())
    machine.apply(2, DeleteTopic(name="orders"))
    assert type(machine.apply(3, AlterTopic(name="orders", group_id=GroupId(1), retention_bytes=5))) is TopicNotFound
    machine.apply(4, create())
    before = dict(machine.topics)
    for index, group_id in enumerate((1, 4, 5), 5):
        outcome = machine.apply(index, AlterTopic(name="orders", group_id=GroupId(group_id), retention_bytes=5))
        assert isinstance(outcome, TopicRecreated)
        assert outcome.catalog_index == index
    assert machine.topics == before


@pytest.mark.parametrize("name", ["", "a" * 201, "a b", "a/b", "..", ".", "ü"])
def test_names_that_no_topic_may_have(name: str) -> None:
    """Names become metric labels and parts of addresses: they are kept plain."""
    with pytest.raises(InvalidArgument, match="is no topic name"):
        create(name)


@pytest.mark.parametrize(("partitions", "ok"), [(0, False), (1, True), (PARTITIONS_MAX, True), (PARTITIONS_MAX + 1, False)])
def test_the_number_of_partitions_is_bounded(partitions: int, ok: bool) -> None:
    """At the limit it works, one more does not."""
    if ok:
        assert isinstance(CatalogMachine().apply(1, create(partitions=partitions)), Topic)
    else:
        with pytest.raises(InvalidArgument, match=f"partition_count is {partitions}"):
            create(partitions=partitions)


def set_replicas(replicas: tuple[int, ...], wanted: tuple[int, ...], topic: str = "orders", group_id: int = 2) -> SetReplicas:
    return SetReplicas(
        topic=topic,
        group_id=GroupId(group_id),
        replicas=tuple(map(NodeId, replicas)),
        wanted=tuple(map(NodeId, wanted)),
    )


def test_replicas_move_in_two_steps_and_the_first_voters_stay() -> None:
    """A replica opened late starts from what its group began with, whatever has moved since."""
    machine = CatalogMachine()
    machine.apply(1, create())
    moving = machine.apply(2, set_replicas((1, 2, 3, 4), (2, 3, 4)))
    assert isinstance(moving, Topic)
    assert [partition.is_moving for partition in moving.partitions] == [False, True]
    moved = machine.apply(3, set_replicas((2, 3, 4), (2, 3, 4)))
    assert isinstance(moved, Topic)
    assert moved is machine.topics["orders"]
    assert moved.partitions[1].replicas == (2, 3, 4)
    assert moved.partitions[1].first_voters == NODES
    assert not moved.partitions[1].is_moving
    assert moved.partitions[0].replicas == NODES


def test_each_partition_of_a_topic_with_fewer_replicas_is_placed_by_itself() -> None:
    """Otherwise all partitions would burden the same nodes."""
    machine = CatalogMachine()
    nodes = tuple(map(NodeId, range(1, 6)))
    topic = machine.apply(1, CreateTopic(name="orders", partition_count=50, replicas=nodes, replica_count=2))
    assert isinstance(topic, Topic)
    assert {len(partition.replicas) for partition in topic.partitions} == {2}
    assert {node_id for partition in topic.partitions for node_id in partition.replicas} == set(nodes)


def test_a_removed_node_is_removed_for_ever() -> None:
    """No command brings it back, nor places a replica on it."""
    machine = CatalogMachine()
    machine.apply(1, create())
    assert machine.apply(2, RegisterNode(node_id=NodeId(4), name="n4")) == CatalogNode(node_id=NodeId(4), name="n4")
    assert machine.apply(3, DrainNode(node_id=NodeId(4))) == machine.nodes[NodeId(4)]
    assert machine.nodes[NodeId(4)].is_draining
    machine.apply(4, RegisterNode(node_id=NodeId(4), name="four"))
    assert machine.nodes[NodeId(4)] == CatalogNode(node_id=NodeId(4), name="four", is_draining=True)
    machine.apply(5, RemoveNode(node_id=NodeId(4)))
    assert NodeId(4) not in machine.nodes
    assert machine.removed[NodeId(4)].name == "four"
    for index, command in enumerate(
        (
            RegisterNode(node_id=NodeId(4), name="n4"),
            DrainNode(node_id=NodeId(4)),
            RemoveNode(node_id=NodeId(4)),
            set_replicas((1, 4), (4,)),
        ),
        6,
    ):
        assert isinstance(machine.apply(index, command), InvalidArgument)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (set_replicas((1,), (1,), topic="nothing"), TopicNotFound),
        (set_replicas((1,), (1,), group_id=3), TopicNotFound),
    ],
)
def test_moves_and_removals_that_cannot_be(command: Command, error: type[Exception]) -> None:
    """They change nothing."""
    machine = CatalogMachine()
    machine.apply(1, create())
    before = dict(machine.topics)
    assert isinstance(machine.apply(2, command), error)
    assert machine.topics == before
    assert machine.removed == {}


EVERY_COMMAND: tuple[Command, ...] = (
    create(),
    DeleteTopic(name="orders"),
    set_replicas((1, 2, 3), (2, 3)),
    RegisterNode(node_id=NodeId(1 << 63), name="n1"),
    DrainNode(node_id=NodeId(2)),
    RemoveNode(node_id=NodeId(3)),
    RaiseFeatureLevel(level=1),
    AlterTopic(name="orders", group_id=GroupId(1), retention_bytes=0, retention_seconds=60),
)


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_commands_survive_their_encoding(command: Command) -> None:
    """Decode of encode."""
    assert decode_command(encode_command(command)) == command


def test_golden_bytes() -> None:
    """What is in logs already stays readable."""
    assert encode_command(create()) == (
        b'{"command":"create_topic","name":"orders","partitions":2,"replica_count":0,"replicas":[1,2,3],'
        b'"retention_bytes":0,"retention_seconds":0}'
    )
    assert encode_command(DeleteTopic(name="orders")) == b'{"command":"delete_topic","name":"orders"}'
    assert encode_command(EVERY_COMMAND[2]) == (
        b'{"command":"set_replicas","group":2,"replicas":[1,2,3],"topic":"orders","wanted":[2,3]}'
    )
    assert encode_command(EVERY_COMMAND[3]) == b'{"command":"register_node","name":"n1","node":9223372036854775808}'
    assert encode_command(EVERY_COMMAND[4]) == b'{"command":"drain_node","node":2}'
    assert encode_command(EVERY_COMMAND[5]) == b'{"command":"remove_node","node":3}'
    assert encode_command(EVERY_COMMAND[6]) == b'{"command":"raise_feature_level","level":1}'
    assert encode_command(EVERY_COMMAND[7]) == (
        b'{"command":"alter_topic","group":1,"name":"orders","retention_bytes":0,"retention_seconds":60}'
    )
    assert encode_command(AlterTopic(name="orders", group_id=GroupId(1), retention_bytes=7)) == (
        b'{"command":"alter_topic","group":1,"name":"orders","retention_bytes":7}'
    )
    assert len(EVERY_COMMAND) == len(COMMANDS) == 8


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: repr(v).encode()))
def test_any_bytes_get_an_answer(payload: bytes) -> None:
    """A value or CodecError, nothing else."""
    try:
        decode_command(payload)
    except CodecError:
        pass


NUMBERS = [-(1 << 63), -1, 0, 1, 2, PARTITIONS_MAX, PARTITIONS_MAX + 1]
NUMBERS += [(1 << bits) + step for bits in (16, 31, 32, 53, 63, 64, 5000) for step in (-1, 0, 1)]
EXTREMES: tuple[Any, ...] = (
    *NUMBERS,
    *("", "orders", "a" * 200, "a" * 201, "..", "a b", "\0", "\ud800", "ü" * 2048, "n" * 4097),
    *(None, True, False, 0.0, 1.5, float("nan"), float("inf"), b"orders", {}, [1]),
    *((), (1,), (1, 2, 3), (1, 1), (0,), (-1,), (True,), (1.0,), ("1",), ((1,),), ((1 << 64) - 1,), (1 << 64,)),
    tuple(range(1, NODES_MAX + 1)),
    tuple(range(1, NODES_MAX + 2)),
)
"""What somebody may put into a field: right and wrong, at every bound and beyond."""


def attempts() -> st.SearchStrategy[tuple[type[Command], dict[str, Any]]]:
    """A kind of command and values for its fields: those of a right one, some replaced by extremes."""

    def changed(command: Command) -> st.SearchStrategy[tuple[type[Command], dict[str, Any]]]:
        right = {field.name: getattr(command, field.name) for field in attrs.fields(type(command))}
        wrong = st.dictionaries(st.sampled_from(sorted(right)), st.sampled_from(EXTREMES) | st.text() | st.integers())
        return wrong.map(lambda values: (type(command), right | values))

    return st.sampled_from(EVERY_COMMAND).flatmap(changed)


class Replica:
    """What one node makes of the catalog's log."""

    def __init__(self) -> None:
        self.machine = CatalogMachine()
        self.applier = CatalogApplier(self.machine, lambda command, outcome: None, FEATURE_LEVEL_MAX)
        self.apply(encode_command(create()))

    def apply(self, payload: bytes) -> object:
        index = self.machine.applied_index + 1
        return self.applier.apply(encode_entry(EntryKind.CONTROL, term=1, index=index, base_offset=0, payload=payload))

    @property
    def state(self) -> object:
        machine = self.machine
        return machine.applied_index, machine.topics, machine.next_group_id, machine.nodes, machine.removed, machine.feature_level


@settings(max_examples=500)
@given(attempts())
@example((CreateTopic, {"name": "orders", "partition_count": 1, "replicas": NODES, "retention_seconds": -1}))
def test_what_can_be_proposed_can_be_applied(attempt: tuple[type[Command], dict[str, Any]]) -> None:
    """A command is refused when it is made, or every replica decodes it as it was, takes it, and has the same state afterwards."""
    command_type, values = attempt
    try:
        command = command_type(**values)
    except InvalidArgument:
        return
    payload = encode_command(command)
    assert decode_command(payload) == command
    replicas = [Replica(), Replica()]
    outcomes = [replica.apply(payload) for replica in replicas]
    assert isinstance(outcomes[0], Result | EventLogError)
    assert replicas[0].state == replicas[1].state
    assert replicas[0].machine.applied_index == 2


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_every_extreme_of_every_field(command: Command) -> None:
    """One after the other, so that no bound depends on a lucky draw."""
    replica = Replica()
    for field in attrs.fields(type(command)):
        for value in EXTREMES:
            try:
                changed = attrs.evolve(command, **{field.name: value})
            except InvalidArgument:
                continue
            assert isinstance(replica.apply(encode_command(changed)), Result | EventLogError)


JSON_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=3)


@given(st.sampled_from(EVERY_COMMAND), st.data())
def test_no_committed_value_ends_a_replica(command: Command, data: st.DataObject) -> None:
    """A release that did not look may have written it: it is refused, alike everywhere, or it is a command."""
    fields = json.loads(encode_command(command))
    key = data.draw(st.sampled_from(sorted(set(fields) - {"command"})))
    payload = json.dumps(fields | {key: data.draw(JSON_VALUES)}).encode()
    assert isinstance(Replica().apply(payload), Result | EventLogError)


@pytest.mark.parametrize(
    "payload",
    [
        (
            b'{"command":"create_topic","name":"x","partitions":1,"replica_count":0,"replicas":[1],'
            b'"retention_bytes":0,"retention_seconds":-1}'
        ),
        b'{"command":"create_topic","name":"x","partitions":1,"replicas":[1]}',
        b'{"command":"remove_node","node":0}',
        b'{"command":1}',
        b"[]",
        b"\xff\xff",
        b"",
    ],
)
def test_a_committed_command_that_none_can_carry_out_changes_nothing(payload: bytes) -> None:
    """The first of them is what any client could have former releases write: every node ended, at every start again."""
    replica = Replica()
    before = dict(replica.machine.topics)
    assert isinstance(replica.apply(payload), InvalidArgument)
    assert replica.machine.topics == before
    assert isinstance(replica.apply(encode_command(DeleteTopic(name="orders"))), Topic)


@pytest.mark.parametrize("payload", [b'{"command":"set_quota"}', b'{"command":"drain_node","node":2,"until":7}'])
def test_what_only_a_newer_release_can_have_written_is_neither_skipped_nor_refused(payload: bytes) -> None:
    """Other replicas may have carried it out."""
    with pytest.raises(NewerRelease):
        decode_command(payload)


COMMAND_WRITERS = ["new_cluster.py", "catalog_follower.py"]
"""The first writes the log of a cluster that does not run yet."""


def test_there_is_one_way_for_a_command_into_the_log() -> None:
    """Whoever proposes goes where commands are looked at."""
    package = Path(trio_eventlog.__file__).parent
    # `retention.py` proposes what moves the log start of a partition, which is no command of the catalog.
    for call, ways in (("propose_control(", ["catalog_follower.py", "retention.py"]), ("encode_command(", COMMAND_WRITERS)):
        users = [path.name for path in sorted(package.rglob("*.py")) if call in path.read_text().replace(f"def {call}", "")]
        assert users == ways, call
