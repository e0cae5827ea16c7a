"""The machines of a simulated cluster: nodes that start, stop, crash and stand still, each with a disk that outlives it."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from trio_eventlog.agent import Node, Surroundings, open_node
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.peer_frame import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION
from trio_eventlog.codec.sparse_index import FORMAT_VERSION
from trio_eventlog.errors import StorageFailed
from trio_eventlog.ids import NodeId, format_id
from trio_eventlog.machine.catalog import FEATURE_LEVEL
from trio_eventlog.net.names import Names
from trio_eventlog.settings import KIB, NodeSettings
from trio_eventlog.storage.segment import INDEX_SUFFIX
from trio_eventlog.testing.determinism import Freezer, derive
from trio_eventlog.testing.disk import CrashMode, Operation, SimDisk
from trio_eventlog.testing.event_indexes import SimEventIndexes
from trio_eventlog.testing.lives import Host, Life, innermost, is_death, life_of_task, reason_of
from trio_eventlog.testing.network import SimNetwork
from trio_eventlog.testing.story import Story

PORT = 8400
THIS_RELEASE = (OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION)
NEXT_RELEASE = (PROTOCOL_VERSION, PROTOCOL_VERSION + 1)
"""Peer protocols of the release after this one, which speaks this one's too. It has its own format for sparse indexes."""
EPOCH_NS = 1_700_000_000 * 10**9
"""The wall clock when virtual time is 0."""
WAIT_SECONDS_MAX = 120.0
"""A condition not met after so much virtual time fails the test."""
DESCRIPTORS_MAX = 1 << 14
"""Files and connections that a node may have open, when `Cluster.descriptors_of` says nothing."""


class NodeFailed(AssertionError):
    """A node stopped by itself, which no test expects unless it says so (`Cluster.start(..., may_fail=True)`)."""


def virtual_now_ns() -> int:
    """The wall clock of a simulated machine, nanoseconds since 1970."""
    return EPOCH_NS + round(trio.current_time() * 1e9)


def _leave_as_next_release(disk: SimDisk) -> None:
    """Sparse indexes are in the next format, as everything may be that can be made again. The rest may change its format only when
    nobody goes back: `node.toml` says so, and an older release does not open it."""
    for path in disk.paths():
        if path.endswith(INDEX_SUFFIX):
            index = disk.content(path)
            magic, rest = index[:8], index[16:]
            checked = (FORMAT_VERSION + 1).to_bytes(4, "little") + rest
            disk.put(path, magic + crc32c(checked).to_bytes(4, "little") + checked)


class Machines:
    """The nodes of a cluster, by name: up, down, crashed, or standing still.

    Args:
        names, founders, seed, sync_seconds, lookups, may_fail, overrides: as of `Cluster` (`lookups` are its `names`).
        describe: the cluster as a few lines, for failures.

    Attributes:
        nursery: where nodes live; None before the cluster is entered.
        disks: by the name of the node that has it, or will be started with it.
        lives: the last life of each node.
        starts_of: how often each was started.
        ids: of the nodes that were up once.
        settings_of, protocol_versions_of, feature_level_of, descriptors_of, wall_clock_shift_ns: see `Cluster`.
    """

    def __init__(
        self,
        *,
        names: tuple[str, ...],
        founders: tuple[str, ...],
        seed: int,
        network: SimNetwork,
        sync_seconds: float,
        lookups: Names | None,
        may_fail: Callable[[str, BaseException], bool],
        overrides: Mapping[str, Any],
        freezer: Freezer,
        story: Story,
        describe: Callable[[], str],
    ) -> None:
        self.names = names
        self.founders = founders
        self.seed = seed
        self._network = network
        self._names = lookups
        self._may_fail = may_fail
        self._overrides = overrides
        self._freezer = freezer
        self._story = story
        self.describe = describe
        self.nursery: trio.Nursery | None = None
        self.settings_of: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        self.protocol_versions_of: dict[str, tuple[int, int]] = {}
        self.feature_level_of: dict[str, int] = {}
        self.wall_clock_shift_ns: defaultdict[str, int] = defaultdict(int)
        self.descriptors_of: dict[str, int] = {}
        self.disks = {name: SimDisk(derive(seed, f"disk:{name}")) for name in names}
        for disk in self.disks.values():
            disk.latency_seconds[Operation.SYNC] = sync_seconds
        self.lives: dict[str, Life] = {}
        self.starts_of = dict.fromkeys(names, 0)
        self._release_of: dict[str, tuple[int, int]] = {}
        self.ids: dict[str, NodeId] = {}

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the nodes that are up."""
        return tuple(name for name in self.names if self.is_running(name))

    def is_running(self, name: str) -> bool:
        """It is up, and nothing has begun to end it."""
        life = self.lives.get(name)
        return (
            life is not None
            and life.node is not None
            and not (life.is_crashed or life.leave.is_set() or life.over.is_set() or life.failure)
        )

    def node(self, name: str) -> Node:
        """The node while it is up."""
        life = self.lives.get(name)
        assert life is not None, f"{name} was never started"
        assert life.node is not None, f"{name} did not come up"
        assert self.is_running(name), f"{name} is down"
        return life.node

    def node_id(self, name: str) -> NodeId:
        """The node's id, also while it is down."""
        return self.ids[name]

    def name_of(self, node_id: NodeId) -> str:
        """Raises StopIteration for an id that is no node's."""
        return next(name for name, known in self.ids.items() if known == node_id)

    def called(self, node_id: NodeId) -> str:
        """The node's name, or its id when it has none any more."""
        return next((name for name, known in self.ids.items() if known == node_id), format_id(node_id))

    def address(self, name: str) -> str:
        """Where the node listens."""
        return f"{name}:{PORT}"

    def disk(self, name: str) -> SimDisk:
        """The disk that the node has now, or will be started with."""
        return self.disks[name]

    def settings(self, name: str, **overrides: Any) -> NodeSettings:
        """What `start` gives to the node."""
        values: dict[str, Any] = {
            "data_dir": "data",
            "node_name": name,
            "listen": self.address(name),
            "join": tuple(self.address(other) for other in self.names if other != name),
            "bootstrap_expect": len(self.founders) if name in self.founders else None,
            "auto_create_topics": True,
            # Simulated disks are in memory.
            "disk_reserve_bytes": 16 * KIB,
            "disk_free_bytes_min": 64 * KIB,
        }
        return NodeSettings(**(values | dict(self._overrides) | self.settings_of[name] | overrides))

    async def start(self, name: str, *, may_fail: bool = False, is_outcast: bool = False, **overrides: Any) -> None:
        """Start a node that is down; returns when it listens.

        Args:
            is_outcast: no other node is to hear it: its disk is a copy, or was put back.
            may_fail: its failure is looked for with `wait_failure` rather than failing the test.
            overrides: fields of `NodeSettings` for this life of this node.
        """
        assert self.nursery is not None, "use `async with Cluster(...)`"
        assert self.is_startable(name), f"{name} is up already"
        self.starts_of[name] += 1
        life = self.lives[name] = Life(Host(self._network.host(name)), may_fail, is_outcast=is_outcast)
        release = self.protocol_versions_of.get(name, THIS_RELEASE)
        if self._release_of.get(name) == NEXT_RELEASE and release == THIS_RELEASE:
            _leave_as_next_release(self.disks[name])
        self._release_of[name] = release
        surroundings = Surroundings(
            network=life.host,
            datagrams=self._network.host(name).datagrams,
            names=self._names,
            disk=self.disks[name],
            event_indexes=SimEventIndexes(self.disks[name]),
            rng=derive(self.seed, f"node:{name}:{self.starts_of[name]}"),
            now_ns=self.wall_clock(name),
            protocol_versions=release,
            feature_level=self.feature_level_of.get(name, FEATURE_LEVEL),
            descriptors_max=self.descriptors_of.get(name, DESCRIPTORS_MAX),
        )
        self._story.note(f"start {name}")
        await self.nursery.start(self._live, name, life, self.settings(name, **overrides), surroundings)

    async def _live(
        self, name: str, life: Life, settings: NodeSettings, surroundings: Surroundings, *, task_status: trio.TaskStatus[None]
    ) -> None:
        life_of_task.set(life)
        try:
            with life.scope:
                async with open_node(settings, surroundings) as node:
                    life.node = node
                    self.ids[name] = node.node_id
                    task_status.started()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_set_when, node.wait_removed, life.leave)
                        await life.leave.wait()
                        nursery.cancel_scope.cancel()
        except BaseException as error:
            if life.is_crashed and is_death(error):
                return
            if not isinstance(error, Exception):
                raise
            life.failure = error
            cause = innermost(error)
            if isinstance(cause, StorageFailed):
                # What it had not synced is as uncertain as after a power failure: a kernel gives up on pages that it cannot write.
                self.disks[name] = self.disks[name].crash()
            if not (life.may_fail or self._may_fail(name, cause)):
                failed = NodeFailed(f"{name} stopped by itself: {reason_of(error)}")
                failed.add_note(self.describe())
                raise failed from error
            if life.node is None:
                task_status.started()
        finally:
            life.over.set()

    def crash(self, name: str, mode: CrashMode = CrashMode.DRAW, *, silently: bool = False) -> None:
        """The machine goes down this instant: connections are reset, unsynced writes are lost, kept or torn as the seed says.

        The node can be started again at once.

        Args:
            silently: no peer sees a reset: connections stay half-open until a peer sends on one and the node's next life answers.
        """
        assert self.is_running(name), f"{name} is down already"
        life = self.lives[name]
        self._story.note(f"crash {name} {mode.value}{' silently' if silently else ''}")
        if life.is_paused:
            self.resume(name)
        life.is_crashed = True
        life.host.is_down = True
        self._network.crash(name, silently=silently)
        self.disks[name] = self.disks[name].crash(mode)
        life.scope.cancel()

    def pause(self, name: str) -> None:
        """Stop the whole process of a node, as SIGSTOP does: no task of it takes a step, whatever arrives, until `resume`."""
        assert self.is_running(name), f"{name} is down"
        self._story.note(f"pause {name}")
        self.lives[name].is_paused = True

    def resume(self, name: str) -> None:
        """The process goes on: its timers have run out, its peers may have given it up, and it knows nothing of that yet."""
        self._story.note(f"resume {name}")
        self.lives[name].is_paused = False
        self._freezer.changed()

    def is_paused(self, name: str) -> bool:
        """It is up, and stands still."""
        return self.is_running(name) and self.lives[name].is_paused

    def lose_unsynced_writes(self, name: str) -> None:
        """The power fails: `crash`, and nothing survives that the disk had not confirmed."""
        self.crash(name, CrashMode.LOSE)

    async def stop(self, name: str) -> None:
        """Stop a node gracefully; returns when it is over."""
        life = self.lives[name]
        assert self.is_running(name), f"{name} is down already"
        self._story.note(f"stop {name}")
        life.leave.set()
        await life.over.wait()

    async def restart(self, name: str, **overrides: Any) -> None:
        """Start a node again with what its disk holds; one that is up is stopped gracefully first."""
        if self.is_running(name):
            await self.stop(name)
        await self.start(name, **overrides)

    def is_new(self, name: str) -> bool:
        """It was never started."""
        return not self.starts_of[name]

    def failures(self) -> dict[str, BaseException]:
        """Nodes that have stopped by themselves (and were allowed to), in their last life, and the innermost error of each."""
        return {name: innermost(life.failure) for name, life in self.lives.items() if life.failure is not None}

    def is_startable(self, name: str) -> bool:
        """It was never started, or its last life is over (of a crashed one nothing is left that could be in the way)."""
        life = self.lives.get(name)
        return life is None or life.is_crashed or life.over.is_set()

    async def wait_down(self, name: str) -> None:
        """Until it could be started: a graceful stop takes its time."""
        if not self.is_startable(name):
            await self.lives[name].over.wait()

    async def wait_over(self, name: str) -> None:
        """Until a node has ended in good order by itself, as one does that is removed."""
        life = self.lives[name]
        with trio.fail_after(WAIT_SECONDS_MAX):
            await life.over.wait()

    async def wait_failure(self, name: str) -> str:
        """Until a node that was started with `may_fail` has stopped by itself; returns why."""
        life = self.lives[name]
        with trio.fail_after(WAIT_SECONDS_MAX):
            await life.over.wait()
        assert life.failure is not None, f"{name} has ended, but not by a failure"
        return reason_of(life.failure)

    def shift_wall_clock(self, name: str, seconds: float) -> None:
        """The wall clock of a node or client jumps, from where it is now; virtual time does not."""
        self._story.note(f"wall clock {name} {seconds:+.3f} s")
        self.wall_clock_shift_ns[name] += round(seconds * 1e9)

    def wall_clock(self, name: str) -> Callable[[], int]:
        """The clock of this node's or client's machine, nanoseconds since 1970."""
        return lambda: virtual_now_ns() + self.wall_clock_shift_ns[name]


async def _set_when(wait: Callable[[], Awaitable[None]], event: trio.Event) -> None:
    await wait()
    event.set()
