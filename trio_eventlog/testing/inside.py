"""The one place where the test kit looks inside of the product.

The checkers of a simulated cluster compare what nodes hold with what they said, and for that they read what no user of a node
may: its Raft cores, its logs, its memory of other nodes. Every private name of the product that `trio_eventlog/testing` uses is
in this file (a test in `tests/test_tidy.py` checks that). To rename or move one, change its line here.

All of it is read, and nothing is changed, but for `watch`: it puts functions of the checker between a driver and what it calls.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import trio

from trio_eventlog.agent import Node
from trio_eventlog.codec.catch_up import CatchUpReport, CatchUpState
from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.lives import Lives
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.machine.producers import ProducerTable
from trio_eventlog.net.transport import Transport
from trio_eventlog.node.applying import Applying
from trio_eventlog.node.departed import Departed
from trio_eventlog.node.disk_space import DiskSpace
from trio_eventlog.node.disk_writer import DiskWriter
from trio_eventlog.node.proposals import Proposal
from trio_eventlog.node.raft_driver import RaftDriver
from trio_eventlog.node.replicas import Replicas
from trio_eventlog.node.sleeping import Peers
from trio_eventlog.raft import Event, HardState, Message
from trio_eventlog.raft.node import RaftNode
from trio_eventlog.storage.disk import File
from trio_eventlog.storage.lives import OwnLives
from trio_eventlog.storage.segment import SegmentContents
from trio_eventlog.storage.segmented_log import SegmentedLog

# A node.


def groups(node: Node) -> Replicas:
    """The groups that a node carries: replicas, topics, and the catalog's machine."""
    return node.parts.replicas


def transport(node: Node) -> Transport:
    """The node's links."""
    return node.parts.transport


def disk_space(node: Node) -> DiskSpace:
    """What the node knows of the room on its disk."""
    return node.parts.disk_space


def lives(node: Node) -> OwnLives:
    """What the node keeps of its own lives."""
    return node.parts.own_lives


def lives_written(node: Node, node_id: NodeId) -> Lives | None:
    """What the node has written down of another's lives."""
    known = node.parts.peer_lives._written.get(node_id)
    return known.lives if known is not None else None


def catching_up(node: Node) -> Mapping[GroupId, CatchUpReport]:
    """The groups of the node that fetch files to catch up, and how far each is."""
    return {group_id: catch_up.report(CatchUpState.UNDER_WAY) for group_id, catch_up in node.parts.catch_ups._groups.items()}


def snapshots_installed(node: Node) -> int:
    """The number of snapshots that the node has fetched and installed since it started."""
    return node.parts.catch_ups.installed


# A replica.


class OpenSegment(Protocol):
    """A segment of a log: its file (None while it is closed) and what is known of its contents."""

    path: str
    contents: SegmentContents
    file: File | None


STEPS = frozenset(f"{part.__module__}.{part.run.__qualname__}" for part in (RaftDriver, DiskWriter, Applying))
"""Names of the tasks that move a replica."""


def part_of(task: trio.lowlevel.Task) -> object:
    """The driver, or the part of one, whose task, one of `STEPS`, has just been spawned. The driver's own task is the first."""
    frame = task.coro.cr_frame
    assert frame is not None, "it has not begun"
    part: object = frame.f_locals["self"]
    return part


def parts_with_tasks(driver: RaftDriver) -> Sequence[object]:
    """The driver, and those of its parts whose tasks are among `STEPS`."""
    return (driver, driver.disk_writer, driver.applying)


def core(driver: RaftDriver) -> RaftNode:
    """The Raft core that the driver owns."""
    return driver._core


def term_in_core(driver: RaftDriver, index: int) -> int | None:
    """The term of an entry as the core knows it, which may be ahead of the disk. None: it does not hold it."""
    return driver._core._log.term(index)


def vote(driver: RaftDriver) -> NodeId:
    """Whom the core has voted for in its term."""
    return driver._core._vote


def log(driver: RaftDriver) -> SegmentedLog:
    """The log on the disk."""
    return driver._log


def newest_segments(driver: RaftDriver, count: int) -> Sequence[OpenSegment]:
    """The last segments of the log, the active one included."""
    return driver._log._contents.segments[-count:]


def active_segment(driver: RaftDriver) -> OpenSegment | None:
    """The segment that is written to."""
    return driver._log._contents.active


def departed(driver: RaftDriver) -> Departed:
    """What the replica knows of its former lives."""
    return driver.returning.departed


def hard_state(driver: RaftDriver) -> HardState:
    """The term, vote and commit that were saved last."""
    return driver._hard_state.state


def hard_state_file(driver: RaftDriver) -> File:
    """The file that they are in."""
    return driver._hard_state._file


def proposals_under_way(driver: RaftDriver) -> Iterable[Proposal]:
    """Proposals that have an entry and no answer yet, or entries that may still be replaced."""
    return driver.proposing._under_way._by_index.values()


def has_proposals_under_way(driver: RaftDriver) -> bool:
    """Whether there are any."""
    return bool(len(driver.proposing._under_way))


def machine(driver: RaftDriver) -> Any:
    """The state machine: of a partition, or the catalog."""
    return driver.applying._applier._machine  # type: ignore[attr-defined]


def producers(driver: RaftDriver) -> ProducerTable | None:
    """The table of producers; None of the catalog."""
    return driver.applying._applier.producers


SendMessage = Callable[[GroupId, Message, Sequence[EntryFrame]], bool]
Apply = Callable[[EntryFrame], None]
LogEvent = Callable[[Event], None]
FallAsleep = Callable[[Peers], None]
Rouse = Callable[[str], None]


def watch(
    driver: RaftDriver,
    *,
    send: Callable[[SendMessage], SendMessage],
    apply: Callable[[Apply], Apply],
    log_event: Callable[[LogEvent], LogEvent],
    fall_asleep: Callable[[FallAsleep], FallAsleep],
    rouse: Callable[[Rouse], Rouse],
) -> None:
    """Puts functions between a driver and what it does.

    Each argument takes what the driver calls now, and returns what it is to call from now on.
    """
    inner: Any = driver
    followers, applying, sleeping = inner.followers, inner.applying, inner.sleeping
    followers._send = send(followers._send)
    applying._apply = apply(applying._apply)
    inner._log_event = log_event(inner._log_event)
    sleeping._fall_asleep = fall_asleep(sleeping._fall_asleep)
    sleeping.rouse = rouse(sleeping.rouse)
