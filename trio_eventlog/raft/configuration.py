"""Configurations, legal changes of them, and their bytes.

A configuration has voters and learners. A change that alters at most one voter is applied in one step; any other goes through a
joint configuration in which both the old voters (`voters_outgoing`) and the new ones (`voters`) must agree, and is left by a
second entry (thesis, section 4.3). All functions are pure: configuration in, configuration out.
"""

import enum
import struct
from collections.abc import Iterable, Sequence

import attrs

from trio_eventlog.ids import NodeId
from trio_eventlog.raft.errors import ConfigurationError, NewerLayout, ProtocolError


@attrs.frozen(slots=True, kw_only=True)
class Configuration:
    """Voters and learners, as of an entry.

    Invariants: a node is never both voter (of either half) and learner; `learners_next` is a subset of `voters_outgoing`;
    `learners_next` is empty and `auto_leave` False unless joint.

    Attributes:
        voters: the incoming half; the only one unless joint.
        voters_outgoing: the old voters while joint, else empty.
        learners: receive the log, do not vote.
        learners_next: voters of the outgoing half that become learners when the joint configuration is left.
        auto_leave: the leader leaves the joint configuration by itself as soon as it has applied it.
    """

    voters: frozenset[NodeId] = frozenset()
    voters_outgoing: frozenset[NodeId] = frozenset()
    learners: frozenset[NodeId] = frozenset()
    learners_next: frozenset[NodeId] = frozenset()
    auto_leave: bool = False

    @property
    def is_joint(self) -> bool:
        return bool(self.voters_outgoing)

    @property
    def all_voters(self) -> frozenset[NodeId]:
        """The voters of either half."""
        return self.voters | self.voters_outgoing if self.voters_outgoing else self.voters

    @property
    def nodes(self) -> frozenset[NodeId]:
        """Everyone who receives the log."""
        return self.voters | self.voters_outgoing | self.learners

    @property
    def is_singleton(self) -> bool:
        """One voter decides alone."""
        return len(self.voters) == 1 and not self.voters_outgoing

    def __str__(self) -> str:
        text = f"voters={_ids(self.voters)}"
        if self.voters_outgoing:
            text += f"&&{_ids(self.voters_outgoing)}"
        if self.learners:
            text += f" learners={_ids(self.learners)}"
        if self.learners_next:
            text += f" learners_next={_ids(self.learners_next)}"
        return text + " autoleave" if self.auto_leave else text


class ChangeKind(enum.IntEnum):
    """One operation of a change. The numbers are those of the log."""

    ADD_VOTER = 1
    """Add a node as a voter, or promote a learner."""
    ADD_LEARNER = 2
    """Add a node as a learner, or demote a voter."""
    REMOVE = 3
    UPDATE = 4
    """Changes nothing here: carries the change's context through the log."""


class Transition(enum.IntEnum):
    """How to get to the new configuration. The numbers are those of the log."""

    AUTO = 0
    """In one step if at most one operation is asked for, else joint, left automatically."""
    JOINT_IMPLICIT = 1
    """Joint, left automatically."""
    JOINT_EXPLICIT = 2
    """Joint until a change without operations asks to leave."""


@attrs.frozen(slots=True)
class NodeChange:
    """One operation on one node."""

    kind: ChangeKind
    node: NodeId


@attrs.frozen(slots=True, kw_only=True)
class ConfigurationChange:
    """What a CONFIGURATION entry asks for. Without operations, and with transition AUTO: leave the joint configuration.

    Attributes:
        changes: operations, carried out in order.
        transition: how to get there.
        context: opaque bytes for the caller's use, at most `CONTEXT_BYTES_MAX`.
    """

    changes: tuple[NodeChange, ...] = ()
    transition: Transition = Transition.AUTO
    context: bytes = b""

    @property
    def leaves_joint(self) -> bool:
        return self.transition is Transition.AUTO and not self.changes

    @property
    def enters_joint(self) -> bool:
        return self.transition is not Transition.AUTO or len(self.changes) > 1

    @property
    def auto_leave(self) -> bool:
        """Whether the joint configuration it enters is left automatically."""
        return self.transition is not Transition.JOINT_EXPLICIT


LEAVE_JOINT = ConfigurationChange()


@attrs.frozen(slots=True)
class Changed:
    """A new configuration, and the nodes whose progress must start afresh: new ones, and those removed and added in one go."""

    configuration: Configuration
    renewed: frozenset[NodeId]


def change_configuration(configuration: Configuration, change: ConfigurationChange) -> Changed:
    """`configuration` after `change`, by whichever way the change asks for.

    Raises:
        ConfigurationError: the change is not legal here; the text says why.
    """
    if change.leaves_joint:
        return leave_joint(configuration)
    if change.enters_joint:
        return enter_joint(configuration, change.auto_leave, change.changes)
    return simple(configuration, change.changes)


def simple(configuration: Configuration, changes: Iterable[NodeChange]) -> Changed:
    """In one step: legal when the voters before and after differ in at most one node, so that any majorities overlap."""
    if configuration.is_joint:
        raise ConfigurationError("can't apply simple config change in joint config")
    draft = _Draft(configuration)
    draft.carry_out(changes)
    if len(configuration.voters ^ draft.voters) > 1:
        raise ConfigurationError("more than one voter changed without entering joint config")
    return draft.changed()


def enter_joint(configuration: Configuration, auto_leave: bool, changes: Iterable[NodeChange]) -> Changed:
    """The joint configuration of the current voters (outgoing) and the changed ones (incoming)."""
    if configuration.is_joint:
        raise ConfigurationError("config is already joint")
    if not configuration.voters:
        # Adding voters to an empty configuration needs no joint consensus, and an empty half would agree with everything.
        raise ConfigurationError("can't make a zero-voter config joint")
    draft = _Draft(configuration)
    draft.voters_outgoing = set(draft.voters)
    draft.carry_out(changes)
    return draft.changed(auto_leave)


def leave_joint(configuration: Configuration) -> Changed:
    """The incoming half alone; voters held back become learners."""
    if not configuration.is_joint:
        raise ConfigurationError("can't leave a non-joint config")
    return Changed(
        Configuration(voters=configuration.voters, learners=configuration.learners | configuration.learners_next), frozenset()
    )


class _Draft:
    """A configuration being changed. `tracked` are the nodes with a progress, `renewed` those whose progress is new."""

    def __init__(self, base: Configuration) -> None:
        self.voters = set(base.voters)
        self.voters_outgoing = set(base.voters_outgoing)
        self.learners = set(base.learners)
        self.learners_next = set(base.learners_next)
        self.tracked = set(base.nodes)
        self.renewed: set[NodeId] = set()

    def carry_out(self, changes: Iterable[NodeChange]) -> None:
        for change in changes:
            node = change.node
            if node == 0:
                continue  # An operation blanked out by whoever proposed it.
            match change.kind:
                case ChangeKind.ADD_VOTER:
                    self.track(node)
                    self.learners.discard(node)
                    self.learners_next.discard(node)
                    self.voters.add(node)
                case ChangeKind.ADD_LEARNER:
                    self.add_learner(node)
                case ChangeKind.REMOVE:
                    self.remove(node)
                case ChangeKind.UPDATE:
                    pass
        if not self.voters:
            raise ConfigurationError("removed all voters")

    def add_learner(self, node: NodeId) -> None:
        if node not in self.tracked:
            self.track(node)
            self.learners.add(node)
        elif node not in self.learners:
            self.voters.discard(node)
            # An outgoing voter cannot be a learner at the same time; it becomes one on leaving.
            (self.learners_next if node in self.voters_outgoing else self.learners).add(node)

    def remove(self, node: NodeId) -> None:
        self.voters.discard(node)
        self.learners.discard(node)
        self.learners_next.discard(node)
        if node not in self.voters_outgoing:
            self.tracked.discard(node)

    def track(self, node: NodeId) -> None:
        if node not in self.tracked:
            self.tracked.add(node)
            self.renewed.add(node)

    def changed(self, auto_leave: bool = False) -> Changed:
        return Changed(
            Configuration(
                voters=frozenset(self.voters),
                voters_outgoing=frozenset(self.voters_outgoing),
                learners=frozenset(self.learners),
                learners_next=frozenset(self.learners_next),
                auto_leave=auto_leave,
            ),
            frozenset(self.renewed & self.tracked),
        )


# Bytes.
#
# A change:        u8 layout version, u8 transition, u16 number of operations, u32 length of the context,
#                  then for each operation u8 kind and u64 node id, then the context. Nothing after it.
# A configuration: u8 layout version, u8 auto_leave, four u16 counts (voters, voters_outgoing, learners, learners_next),
#                  then the u64 node ids of each set in ascending order. Nothing after them.
# All little-endian. Each value has one encoding, and bytes either decode to a value that encodes to them or are refused.

LAYOUT_VERSION = 1
CONTEXT_BYTES_MAX = 64 << 10
CHANGES_MAX = 1 << 10
_CHANGE_HEAD = struct.Struct("<BBHI")
_OPERATION = struct.Struct("<BQ")
_CONFIGURATION_HEAD = struct.Struct("<BBHHHH")
_CHANGE_KINDS = {int(kind): kind for kind in ChangeKind}
_TRANSITIONS = {int(transition): transition for transition in Transition}


def encode_change(change: ConfigurationChange) -> bytes:
    """The payload of a CONFIGURATION entry. Raises ConfigurationError for more than `CHANGES_MAX` or `CONTEXT_BYTES_MAX`."""
    if len(change.changes) > CHANGES_MAX or len(change.context) > CONTEXT_BYTES_MAX:
        raise ConfigurationError(f"{len(change.changes)} operations and {len(change.context)} bytes of context are too many")
    return b"".join(
        (
            _CHANGE_HEAD.pack(LAYOUT_VERSION, change.transition, len(change.changes), len(change.context)),
            *(_OPERATION.pack(operation.kind, operation.node) for operation in change.changes),
            change.context,
        )
    )


def decode_change(payload: bytes | memoryview) -> ConfigurationChange:
    """The inverse of `encode_change`.

    Raises:
        NewerLayout: a newer release knows what it means, and replicas of that release carry it out.
        ProtocolError: not such bytes. As every replica sees the same bytes, all refuse them alike and go on unchanged.
    """
    if len(payload) < _CHANGE_HEAD.size:
        raise ProtocolError(f"configuration change: {len(payload)} bytes are no head")
    version, transition, count, context_bytes = _CHANGE_HEAD.unpack_from(payload)
    if version > LAYOUT_VERSION:
        raise NewerLayout(f"configuration change: layout version {version}, this release reads {LAYOUT_VERSION}")
    end_of_operations = _CHANGE_HEAD.size + count * _OPERATION.size
    if version != LAYOUT_VERSION or transition not in _TRANSITIONS or count > CHANGES_MAX or context_bytes > CONTEXT_BYTES_MAX:
        raise ProtocolError(f"configuration change: version {version}, transition {transition}, {count} operations")
    if len(payload) != end_of_operations + context_bytes:
        raise ProtocolError(f"configuration change: {len(payload)} bytes, {end_of_operations + context_bytes} announced")
    changes = []
    for position in range(_CHANGE_HEAD.size, end_of_operations, _OPERATION.size):
        kind, node = _OPERATION.unpack_from(payload, position)
        if kind not in _CHANGE_KINDS:
            raise ProtocolError(f"configuration change: unknown operation {kind}")
        changes.append(NodeChange(_CHANGE_KINDS[kind], NodeId(node)))
    return ConfigurationChange(
        changes=tuple(changes), transition=_TRANSITIONS[transition], context=bytes(payload[end_of_operations:])
    )


def encode_configuration(configuration: Configuration) -> bytes:
    """For snapshots: on links, on disk."""
    sets = _sets(configuration)
    return b"".join(
        (
            _CONFIGURATION_HEAD.pack(LAYOUT_VERSION, configuration.auto_leave, *map(len, sets)),
            *(struct.pack(f"<{len(nodes)}Q", *sorted(nodes)) for nodes in sets),
        )
    )


def decode_configuration(data: bytes | memoryview) -> Configuration:
    """The inverse of `encode_configuration`. Raises ProtocolError for other bytes, contradictory configurations among them."""
    if len(data) < _CONFIGURATION_HEAD.size:
        raise ProtocolError(f"configuration: {len(data)} bytes are no head")
    version, auto_leave, *counts = _CONFIGURATION_HEAD.unpack_from(data)
    if version != LAYOUT_VERSION or auto_leave > 1 or len(data) != _CONFIGURATION_HEAD.size + 8 * sum(counts):
        raise ProtocolError(f"configuration: version {version}, {counts} nodes in {len(data)} bytes")
    sets: list[frozenset[NodeId]] = []
    position = _CONFIGURATION_HEAD.size
    for count in counts:
        ids = struct.unpack_from(f"<{count}Q", data, position)
        position += 8 * count
        if any(before >= after for before, after in zip((0, *ids), ids, strict=False)):
            raise ProtocolError("configuration: node ids are not ascending")
        sets.append(frozenset(map(NodeId, ids)))
    configuration = Configuration(
        voters=sets[0], voters_outgoing=sets[1], learners=sets[2], learners_next=sets[3], auto_leave=bool(auto_leave)
    )
    problem = contradiction(configuration)
    if problem:
        raise ProtocolError(f"configuration: {problem}")
    return configuration


def contradiction(configuration: Configuration) -> str:
    """What is wrong with `configuration` in itself, or "" when its invariants hold."""
    if configuration.learners & configuration.all_voters:
        return "a node is both voter and learner"
    if not configuration.learners_next <= configuration.voters_outgoing:
        return "a learner to be is no outgoing voter"
    if configuration.learners_next & configuration.voters:
        return "a learner to be is an incoming voter"
    if not configuration.is_joint and configuration.auto_leave:
        return "nothing to leave automatically"
    if configuration.is_joint and not configuration.voters:
        return "joint without incoming voters"
    return ""


def _sets(configuration: Configuration) -> Sequence[frozenset[NodeId]]:
    return (configuration.voters, configuration.voters_outgoing, configuration.learners, configuration.learners_next)


def _ids(nodes: Iterable[NodeId]) -> str:
    return "(" + " ".join(map(str, sorted(nodes))) + ")"
