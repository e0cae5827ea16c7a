"""Faults as values: a script says what breaks when, and Hypothesis can draw it, shrink it and show it as Python.

    @given(script=fault_scripts())
    async def test_app(eventlog_cluster, script):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_script, eventlog_cluster, script)
            ...

Each fault ends by itself after a while. So every part of a script is a script, which is what lets it shrink; and at its end
everything works again, so that the test may ask for everything then.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode, Operation

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

FAULTS_MAX = 6
BEGIN_SECONDS_MAX = 5.0
GRID_SECONDS = 0.05
"""When faults begin: a multiple of it. Fewer choices shrink faster and read better; the seed moves everything else."""
FAULT_SECONDS = (0.1, 0.3, 1.0, 3.0)
SYNC_SECONDS = (0.03, 0.1, 0.3, 1.0)


@attrs.frozen(slots=True, kw_only=True)
class _Timed:
    """When a fault begins, counted from the start of the script, and for how long it lasts."""

    at_seconds: float
    for_seconds: float


@attrs.frozen(slots=True, kw_only=True)
class Crash(_Timed):
    """The node goes down, and is started again with what its disk holds.

    Attributes:
        keeps_unsynced: what the disk had not confirmed is there all the same: the process died. Else it is lost: the power failed.
    """

    node: str
    keeps_unsynced: bool


@attrs.frozen(slots=True, kw_only=True)
class Pause(_Timed):
    """The whole process stands still, as by SIGSTOP, and then goes on without knowing."""

    node: str


@attrs.frozen(slots=True, kw_only=True)
class Isolate(_Timed):
    """Nothing reaches the node or leaves it; connections stay open."""

    node: str


@attrs.frozen(slots=True, kw_only=True)
class Partition(_Timed):
    """These nodes are cut off from the other nodes, silently. Clients reach both sides."""

    side: tuple[str, ...]


@attrs.frozen(slots=True, kw_only=True)
class OneWayCut(_Timed):
    """Nothing passes from one node to another; the way back is open."""

    source: str
    target: str


@attrs.frozen(slots=True, kw_only=True)
class SlowDisk(_Timed):
    """Every fsync of the node takes `sync_seconds`."""

    node: str
    sync_seconds: float


Fault = Crash | Pause | Isolate | Partition | OneWayCut | SlowDisk


async def run_script(cluster: Cluster, script: Sequence[Fault]) -> None:
    """Carry out a script, from now on; returns when the last fault is over.

    A crash of a node that is down, and a pause of one that stands still, are left out. Cuts made by others are healed along with
    the script's own.
    """
    begin = trio.current_time()
    quick = {name: cluster.disk(name).latency_seconds[Operation.SYNC] for name in cluster.names}
    moments = [(fault.at_seconds, number, True, fault) for number, fault in enumerate(script)]
    moments += [(fault.at_seconds + fault.for_seconds, number, False, fault) for number, fault in enumerate(script)]
    active: dict[int, Fault] = {}
    async with trio.open_nursery() as restarts:
        for at_seconds, number, begins, fault in sorted(moments, key=lambda moment: (moment[0], not moment[2], moment[1])):
            await trio.sleep_until(begin + at_seconds)
            if begins and _can_begin(cluster, fault):
                active[number] = fault
            elif active.pop(number, None) is None:
                continue
            match fault:
                case Crash(node=node, keeps_unsynced=keeps_unsynced):
                    if begins:
                        cluster.crash(node, CrashMode.KEEP if keeps_unsynced else CrashMode.LOSE)
                    else:
                        restarts.start_soon(cluster.start, node)
                case Pause(node=node):
                    if begins:
                        cluster.pause(node)
                    elif cluster.is_paused(node):  # Not when it was taken down meanwhile.
                        cluster.resume(node)
                case SlowDisk(node=node):
                    slow = [other.sync_seconds for other in active.values() if isinstance(other, SlowDisk) and other.node == node]
                    if slow:
                        cluster.slow_disk(node, max(slow))
                    else:
                        cluster.disk(node).latency_seconds[Operation.SYNC] = quick[node]
                case _:
                    cluster.heal()
                    for other in active.values():
                        _cut(cluster, other)


def _can_begin(cluster: Cluster, fault: Fault) -> bool:
    match fault:
        case Crash(node=node):
            return cluster.is_running(node)
        case Pause(node=node):
            return cluster.is_running(node) and not cluster.is_paused(node)
        case _:
            return True


def _cut(cluster: Cluster, fault: Fault) -> None:
    match fault:
        case Isolate(node=node):
            cluster.isolate(node)
        case Partition(side=side):
            cluster.partition(side, [name for name in cluster.names if name not in side])
        case OneWayCut(source=source, target=target):
            cluster.network.cut(source, target, both_ways=False)


def fault_scripts(
    nodes: Sequence[str] = ("n1", "n2", "n3"),
    *,
    faults_max: int = FAULTS_MAX,
    begin_seconds_max: float = BEGIN_SECONDS_MAX,
    fault_seconds: Sequence[float] = FAULT_SECONDS,
    sync_seconds: Sequence[float] = SYNC_SECONDS,
) -> "SearchStrategy[list[Fault]]":
    """A Hypothesis strategy for scripts. They shrink to few faults, early and short ones.

    Args:
        nodes: names of those that may be hit.
        faults_max: in one script.
        begin_seconds_max: when the last fault begins, at the latest.
        fault_seconds, sync_seconds: how long a fault may last, and an fsync of a slow disk, the simplest first.
    """
    from hypothesis import strategies as st

    name = st.sampled_from(list(nodes))
    timed = {
        "at_seconds": st.integers(0, round(begin_seconds_max / GRID_SECONDS)).map(lambda count: round(count * GRID_SECONDS, 6)),
        "for_seconds": st.sampled_from(list(fault_seconds)),
    }
    kinds: list[SearchStrategy[Fault]] = [
        st.builds(Crash, node=name, keeps_unsynced=st.booleans(), **timed),
        st.builds(Pause, node=name, **timed),
        st.builds(Isolate, node=name, **timed),
        st.builds(SlowDisk, node=name, sync_seconds=st.sampled_from(list(sync_seconds)), **timed),
    ]
    if len(nodes) > 1:
        pair = st.permutations(list(nodes)).map(lambda order: order[:2])
        side = st.lists(name, min_size=1, max_size=len(nodes) - 1, unique=True).map(lambda names: tuple(sorted(names)))
        kinds += [
            st.builds(Partition, side=side, **timed),
            pair.flatmap(lambda two: st.builds(OneWayCut, source=st.just(two[0]), target=st.just(two[1]), **timed)),
        ]
    return st.lists(st.one_of(kinds), max_size=faults_max)
