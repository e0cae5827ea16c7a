"""A whole cluster inside one Trio run: real nodes, simulated network and disks, virtual time, one seed.

    async with Cluster(3, seed=1) as cluster:
        leader = await cluster.wait_leader()
        async with cluster.client() as client:
            await client.produce("orders", b"...")
        cluster.crash(leader)
        await cluster.wait_leader()

Needs Trio's `MockClock` with autojump (`Cluster.run`, `determinism.run`, or pytest-trio's fixture `autojump_clock`): nothing in
here takes real time. Every piece of chance is derived by name from the seed, so a run can be repeated.
"""

import logging
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar

import attrs
import trio
import trio.testing

from trio_eventlog.agent import Node, Surroundings, open_node
from trio_eventlog.client.background import background
from trio_eventlog.client.client import Client, open_client
from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.codec.batch import decode_records
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.peer_frame import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION
from trio_eventlog.codec.sparse_index import FORMAT_VERSION
from trio_eventlog.errors import EventLogError, StorageFailed
from trio_eventlog.ids import CATALOG_GROUP, NodeId, format_id
from trio_eventlog.machine.catalog import FEATURE_LEVEL
from trio_eventlog.net.names import Names
from trio_eventlog.net.network import BoundListener, Network
from trio_eventlog.node.replica import Replica
from trio_eventlog.raft import Configuration
from trio_eventlog.records import Record
from trio_eventlog.rpc import Channel, RpcSettings, open_channel
from trio_eventlog.settings import NodeSettings
from trio_eventlog.storage.segment import INDEX_SUFFIX
from trio_eventlog.testing import determinism
from trio_eventlog.testing.application import STEP_MAX, AppFault, AppRun, draw_app_faults, faults_text
from trio_eventlog.testing.determinism import Freezer, Trace, derive
from trio_eventlog.testing.disk import CrashMode, Operation, SimDisk
from trio_eventlog.testing.network import SimHost, SimNetwork, SimNetworkSettings
from trio_eventlog.testing.weather import Weather

logger = logging.getLogger(__name__)

T = TypeVar("T")

PORT = 8400
THIS_RELEASE = (OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION)
NEXT_RELEASE = (PROTOCOL_VERSION, PROTOCOL_VERSION + 1)
"""Peer protocols of the release after this one, which speaks this one's too. It has its own format for sparse indexes."""
EPOCH_NS = 1_700_000_000 * 10**9
"""The wall clock when virtual time is 0."""
LOOK_SECONDS = 0.005
"""How often, in virtual time, a condition that nobody announces is looked at."""
WAIT_SECONDS_MAX = 120.0
"""A condition not met after so much virtual time fails the test."""
LOOK_AT_LOGS_SECONDS_MAX = 10.0
RECORDS_SHOWN = 4
VALUE_BYTES_SHOWN = 60
"""Of each partition, and of each record, in the report of a failure."""
DESCRIPTORS_MAX = 1 << 14
"""Files and connections that a node may have open, when `Cluster.descriptors_of` says nothing."""
RUN_SECONDS_MAX = 1000.0
"""A run that is not over after so much virtual time fails: 20 s of a processor, with three nodes."""
DEFAULT_NETWORK = SimNetworkSettings(weather=Weather(latency_seconds_min=0.0002, latency_seconds_max=0.001))
DEFAULT_SYNC_SECONDS = 0.001
READ_BYTES = 1 << 20
UNPACKED_BYTES_MAX = 1 << 26


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


class _Silence:
    """A block in which, once `begin` was called, log lines of this package reach nobody: a machine that is gone says nothing."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("trio_eventlog")
        self._nowhere = logging.NullHandler()
        """Lines that no handler takes would be written to standard error."""

    def __enter__(self) -> "_Silence":
        self._propagated = self._logger.propagate
        return self

    def begin(self) -> None:
        self._logger.propagate = False
        self._logger.addHandler(self._nowhere)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self._nowhere)
        self._logger.propagate = self._propagated


def _never(name: str, error: BaseException) -> bool:
    return False


class _Host:
    """A node's `Network` for one life: after a crash nothing of it reaches anybody, whatever its tasks still try."""

    def __init__(self, host: SimHost) -> None:
        self._host = host
        self.is_down = False

    async def open_stream(self, address: str) -> trio.abc.Stream:
        self._check()
        stream = await self._host.open_stream(address)
        if self.is_down:
            await trio.aclose_forcefully(stream)
        self._check()
        return stream

    async def listen(self, address: str) -> BoundListener:
        self._check()
        return await self._host.listen(address)

    def _check(self) -> None:
        if self.is_down:
            raise OSError("the simulated machine is down")


@attrs.define(slots=True, eq=False)
class _AppLife:
    """The machine of an application under test from one start to its end."""

    host: _Host
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    over: trio.Event = attrs.field(factory=trio.Event)
    """It has ended, or was killed: then its tasks stand still for ever."""
    is_paused: bool = False
    failure: BaseException | None = None


@attrs.define(slots=True, eq=False)
class _Life:
    """A node from one start to its end."""

    host: _Host
    may_fail: bool
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    leave: trio.Event = attrs.field(factory=trio.Event)
    over: trio.Event = attrs.field(factory=trio.Event)
    node: Node | None = None
    is_crashed: bool = False
    is_paused: bool = False
    is_outcast: bool = False
    failure: BaseException | None = None


_life_of_task: ContextVar[_Life | _AppLife | None] = ContextVar("life", default=None)
"""The life of the node or application that a task belongs to: tasks inherit it from whoever starts them."""


def _is_paused(task: trio.lowlevel.Task) -> bool:
    life = task.context.get(_life_of_task)
    return life is not None and life.is_paused


def is_outcast(task: trio.lowlevel.Task) -> bool:
    """Whether the task belongs to a node that was started as one that no other is to hear (`Cluster.start`, `start_copy`)."""
    life = task.context.get(_life_of_task)
    return isinstance(life, _Life) and life.is_outcast


class Cluster:
    """Nodes n1..nN at "n1:8400" and so on, each with a `SimDisk` that outlives it.

    Args:
        size: how many nodes.
        founders: how many of them begin the cluster, the first ones; the others join it when `start` is called. Default: all.
        seed: of everything random.
        network: its weather and its buffers.
        sync_seconds: how long an fsync takes, in virtual time.
        names: how nodes look up names in `join`; without, each is dialled as it is written.
        starts: start all nodes on entering. Otherwise call `start`.
        run_seconds_max: how much virtual time `run` gives a test.
        may_fail: whether the node of this name may stop itself for this reason; otherwise the cluster fails.
        overrides: fields of `NodeSettings` for every node.

    Attributes:
        names: of the nodes, in order.
        network: to cut, reset and heal in ways that have no method here.
        feature_level_of: the highest feature level that single nodes say they speak, from their next start on.
        protocol_versions_of: the oldest and newest peer protocol that single nodes say they speak, from their next start on:
            as if they were of another release. A node that comes back from `NEXT_RELEASE` finds what that has left on the disk.
        settings_of: fields of `NodeSettings` for single nodes, from their next start on.
        descriptors_of: how many files and connections single nodes may have open, from their next start on.
        wall_clock_shift_ns: how far the wall clock of a node or client is from virtual time.
        trace: every write to the network, with its time: equal for equal seeds.
        on_note: told of what is done to the cluster, in words.
        events: what was done to nodes, network and application, with its time; a part of the trace.
        state_at_failure, logs_at_failure: after a failure, `describe()`, and what each partition held.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        founders: int | None = None,
        seed: int = 0,
        network: SimNetworkSettings = DEFAULT_NETWORK,
        sync_seconds: float = DEFAULT_SYNC_SECONDS,
        names: Names | None = None,
        starts: bool = True,
        run_seconds_max: float = RUN_SECONDS_MAX,
        may_fail: Callable[[str, BaseException], bool] = _never,
        **overrides: Any,
    ) -> None:
        self.seed = seed
        self.names = tuple(f"n{number}" for number in range(1, size + 1))
        self.founders = self.names[:founders]
        self._overrides: Mapping[str, Any] = overrides
        self._may_fail = may_fail
        self._freezer = Freezer(_is_paused)
        self._starts = starts
        self._run_seconds_max = run_seconds_max
        self._names = names
        self._network_settings = network
        self._sync_seconds = sync_seconds
        self._lay_out()

    def _lay_out(self) -> None:
        """Empty disks, a network on which nothing has happened, nodes like each other."""
        self.settings_of: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        self.protocol_versions_of: dict[str, tuple[int, int]] = {}
        self.feature_level_of: dict[str, int] = {}
        self.wall_clock_shift_ns: defaultdict[str, int] = defaultdict(int)
        self.descriptors_of: dict[str, int] = {}
        self.network = SimNetwork(derive(self.seed, "network"), self._network_settings)
        self.network.on_write = self._on_write
        self.trace = Trace()
        self.on_note: Callable[[str], None] | None = None
        self.events: list[str] = []
        self._disks = {name: SimDisk(derive(self.seed, f"disk:{name}")) for name in self.names}
        for disk in self._disks.values():
            disk.latency_seconds[Operation.SYNC] = self._sync_seconds
        self._lives: dict[str, _Life] = {}
        self._app_lives: list[_AppLife] = []
        self._starts_of = dict.fromkeys(self.names, 0)
        self._release_of: dict[str, tuple[int, int]] = {}
        self._ids: dict[str, NodeId] = {}
        self._copies: list[str] = []
        self.state_at_failure = ""
        self.logs_at_failure: list[str] = []
        self._clients = 0
        self._clients_of = Counter[str]()
        self._is_over = False
        self._context = self._open()
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"Cluster({len(self.names)}, seed={self.seed})"

    async def __aenter__(self) -> "Cluster":
        if self._nursery is not None:
            self._lay_out()
        return await self._context.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._context.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator["Cluster"]:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock), "in real time this takes for ever: `Cluster.run` brings virtual time"
        async with AsyncExitStack() as stack:
            silence = stack.enter_context(_Silence())
            await stack.enter_async_context(self._freezer.working())
            nursery = await stack.enter_async_context(background())
            self._nursery = nursery
            if self._starts:
                for name in self.founders:
                    await self.start(name)
            try:
                yield self
            except Exception as error:
                error.add_note(f"seed {self.seed}, at {trio.current_time():.3f} s of virtual time")
                self.state_at_failure = self.describe()
                self.logs_at_failure = await self._shown_logs()
                raise
            finally:
                silence.begin()
                self._end()
            for life in self._lives.values():
                await life.over.wait()

    def _end(self) -> None:
        """Take everything down, however the block ended. What the nodes still hold is lost with them; whoever wants a graceful end
        stops them. What stands still could not be cancelled, and a test that failed would never end."""
        self._is_over = True
        self.heal()
        for name in (*self.running, *filter(self.is_running, self._copies)):
            self.crash(name, CrashMode.KEEP)
        for life in self._app_lives:
            life.is_paused = False
            life.scope.cancel()
        self._freezer.changed()

    def run(
        self,
        function: Callable[..., Awaitable[T]],
        *args: object,
        clock: trio.abc.Clock | None = None,
        instruments: Sequence[trio.abc.Instrument] = (),
    ) -> T:
        """`await function(cluster, *args)` with the nodes up and ready, in a Trio run of its own and in virtual time.

        May be called any number of times: each begins with empty disks, and with the same seed.

        Args:
            clock, instruments: as for `trio.run`.

        Raises:
            trio.TooSlowError: after `run_seconds_max` of virtual time.
        """

        async def story() -> T:
            async with self:
                await self.wait_ready()
                return await function(self, *args)

        return determinism.run(story, seed=self.seed, clock=clock, instruments=instruments, seconds_max=self._run_seconds_max)

    # Nodes

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the nodes that are up."""
        return tuple(name for name in self.names if self.is_running(name))

    def is_running(self, name: str) -> bool:
        life = self._lives.get(name)
        return (
            life is not None
            and life.node is not None
            and not (life.is_crashed or life.leave.is_set() or life.over.is_set() or life.failure)
        )

    def node(self, name: str) -> Node:
        """The node while it is up."""
        life = self._lives.get(name)
        assert life is not None, f"{name} was never started"
        assert life.node is not None, f"{name} did not come up"
        assert self.is_running(name), f"{name} is down"
        return life.node

    def node_id(self, name: str) -> NodeId:
        """The node's id, also while it is down."""
        return self._ids[name]

    def name_of(self, node_id: NodeId) -> str:
        """Raises StopIteration for an id that is no node's."""
        return next(name for name, known in self._ids.items() if known == node_id)

    def address(self, name: str) -> str:
        return f"{name}:{PORT}"

    def disk(self, name: str) -> SimDisk:
        """The disk that the node has now, or will be started with."""
        return self._disks[name]

    def slow_disk(self, name: str, seconds: float) -> None:
        """From now on every fsync of the node takes so long, in this life and the next ones."""
        self.note(f"slow disk {name} {seconds:g}")
        self._disks[name].latency_seconds[Operation.SYNC] = seconds

    def settings(self, name: str, **overrides: Any) -> NodeSettings:
        """What `start` gives to the node."""
        values: dict[str, Any] = {
            "data_dir": "data",
            "node_name": name,
            "listen": self.address(name),
            "join": tuple(self.address(other) for other in self.names if other != name),
            "bootstrap_expect": len(self.founders) if name in self.founders else None,
            "auto_create_topics": True,
        }
        return NodeSettings(**(values | dict(self._overrides) | self.settings_of[name] | overrides))

    async def start_copy(self, name: str, image: SimDisk) -> str:
        """Start a process from a copy of a node's disk, on a machine of its own; it is none of `names`. Returns its name."""
        copy = f"{name}-copy-{len(self._copies) + 1}"
        self._copies.append(copy)
        self._starts_of[copy] = 0
        self._disks[copy] = image.image()
        await self.start(copy, is_outcast=True)
        return copy

    async def start(self, name: str, *, may_fail: bool = False, is_outcast: bool = False, **overrides: Any) -> None:
        """Start a node that is down; returns when it listens.

        Args:
            is_outcast: no other node is to hear it: its disk is a copy, or was put back.
            may_fail: its failure is looked for with `wait_failure` rather than failing the test.
            overrides: fields of `NodeSettings` for this life of this node.
        """
        assert self._nursery is not None, "use `async with Cluster(...)`"
        assert self.is_startable(name), f"{name} is up already"
        self._starts_of[name] += 1
        life = self._lives[name] = _Life(_Host(self.network.host(name)), may_fail, is_outcast=is_outcast)
        release = self.protocol_versions_of.get(name, THIS_RELEASE)
        if self._release_of.get(name) == NEXT_RELEASE and release == THIS_RELEASE:
            _leave_as_next_release(self._disks[name])
        self._release_of[name] = release
        surroundings = Surroundings(
            network=life.host,
            datagrams=self.network.host(name).datagrams,
            names=self._names,
            disk=self._disks[name],
            rng=derive(self.seed, f"node:{name}:{self._starts_of[name]}"),
            now_ns=self._wall_clock(name),
            protocol_versions=release,
            feature_level=self.feature_level_of.get(name, FEATURE_LEVEL),
            descriptors_max=self.descriptors_of.get(name, DESCRIPTORS_MAX),
        )
        self.note(f"start {name}")
        await self._nursery.start(self._live, name, life, self.settings(name, **overrides), surroundings)

    async def _live(
        self, name: str, life: _Life, settings: NodeSettings, surroundings: Surroundings, *, task_status: trio.TaskStatus[None]
    ) -> None:
        _life_of_task.set(life)
        try:
            with life.scope:
                async with open_node(settings, surroundings) as node:
                    life.node = node
                    self._ids[name] = node.node_id
                    task_status.started()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_set_when, node.wait_removed, life.leave)
                        await life.leave.wait()
                        nursery.cancel_scope.cancel()
        except BaseException as error:
            if life.is_crashed and _is_death(error):
                return
            if not isinstance(error, Exception):
                raise
            life.failure = error
            innermost = _innermost(error)
            if isinstance(innermost, StorageFailed):
                # What it had not synced is as uncertain as after a power failure: a kernel gives up on pages that it cannot write.
                self._disks[name] = self._disks[name].crash()
            if not (life.may_fail or self._may_fail(name, innermost)):
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
            silently: nobody is told: connections stay half-open, until who sends on one hears from the next life of the node.
        """
        assert self.is_running(name), f"{name} is down already"
        life = self._lives[name]
        self.note(f"crash {name} {mode.value}{' silently' if silently else ''}")
        if life.is_paused:
            self.resume(name)
        life.is_crashed = True
        life.host.is_down = True
        self.network.crash(name, silently=silently)
        self._disks[name] = self._disks[name].crash(mode)
        life.scope.cancel()

    def pause(self, name: str) -> None:
        """Stop the whole process of a node, as SIGSTOP does: no task of it takes a step, whatever arrives, until `resume`."""
        assert self.is_running(name), f"{name} is down"
        self.note(f"pause {name}")
        self._lives[name].is_paused = True

    def resume(self, name: str) -> None:
        """The process goes on: its timers have run out, its peers may have given it up, and it knows nothing of that yet."""
        self.note(f"resume {name}")
        self._lives[name].is_paused = False
        self._freezer.changed()

    def shift_wall_clock(self, name: str, seconds: float) -> None:
        """The wall clock of a node or client jumps, from where it is now; virtual time does not."""
        self.note(f"wall clock {name} {seconds:+.3f} s")
        self.wall_clock_shift_ns[name] += round(seconds * 1e9)

    def is_paused(self, name: str) -> bool:
        return self.is_running(name) and self._lives[name].is_paused

    def lose_unsynced_writes(self, name: str) -> None:
        """The power fails: `crash`, and nothing survives that the disk had not confirmed."""
        self.crash(name, CrashMode.LOSE)

    async def stop(self, name: str) -> None:
        """Stop a node gracefully; returns when it is over."""
        life = self._lives[name]
        assert self.is_running(name), f"{name} is down already"
        self.note(f"stop {name}")
        life.leave.set()
        await life.over.wait()

    def is_new(self, name: str) -> bool:
        """It was never started."""
        return not self._starts_of[name]

    def failures(self) -> dict[str, BaseException]:
        """Nodes that have stopped by themselves (and were allowed to), in their last life, and the innermost error of each."""
        return {name: _innermost(life.failure) for name, life in self._lives.items() if life.failure is not None}

    def is_startable(self, name: str) -> bool:
        """It was never started, or its last life is over (of a crashed one nothing is left that could be in the way)."""
        life = self._lives.get(name)
        return life is None or life.is_crashed or life.over.is_set()

    async def wait_down(self, name: str) -> None:
        """Until it could be started: a graceful stop takes its time."""
        if not self.is_startable(name):
            await self._lives[name].over.wait()

    async def restart(self, name: str, **overrides: Any) -> None:
        """Start a node again with what its disk holds; one that is up is stopped gracefully first."""
        if self.is_running(name):
            await self.stop(name)
        await self.start(name, **overrides)

    async def wait_failure(self, name: str) -> str:
        """Until a node that was started with `may_fail` has stopped by itself; returns why."""
        life = self._lives[name]
        with trio.fail_after(WAIT_SECONDS_MAX):
            await life.over.wait()
        assert life.failure is not None, f"{name} has ended, but not by a failure"
        return reason_of(life.failure)

    # The network

    def partition(self, *sides: Collection[str]) -> None:
        """Cut every node (or client) of one side from those of the others, silently."""
        self.note(f"partition {[sorted(side) for side in sides]}")
        for number, side in enumerate(sides):
            for other in sides[number + 1 :]:
                for one in sorted(side):
                    for two in sorted(other):
                        self.network.cut(one, two)

    def isolate(self, name: str) -> None:
        """Cut one node from everybody, clients too, silently."""
        self.note(f"isolate {name}")
        self.network.isolate(name)

    def heal(self) -> None:
        """End all cuts."""
        self.note("heal")
        self.network.heal()

    # Time

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass, with all that the nodes and clients do in it."""
        await trio.sleep(seconds)

    # Looking

    def replica(self, name: str, topic: str | None = None, partition: int = 0) -> Replica | None:
        """A running node's copy of the catalog (`topic` None) or of a partition; None while it has none."""
        if not self.is_running(name):
            return None
        replicas = self.node(name).parts.replicas
        if topic is None:
            return replicas.find(CATALOG_GROUP)
        known = replicas.topics.get(topic)
        return replicas.find(known.partitions[partition].group_id) if known is not None else None

    def leader(self, topic: str | None = None, partition: int = 0) -> str | None:
        """The running node that leads and is followed by a majority of the group, as they see it now."""
        replicas = {name: replica for name in self.names if (replica := self.replica(name, topic, partition)) is not None}
        for name, replica in replicas.items():
            if replica.is_leader:
                followers = sum(other.leader_id == replica.node_id for other in replicas.values())
                if 2 * followers > len(replica.voters()):
                    return name
        return None

    async def wait_until(self, condition: Callable[[], bool], what: str, seconds_max: float = WAIT_SECONDS_MAX) -> None:
        """Until `condition()` holds, in virtual time. Fails, saying `what` and what the cluster looks like, when it does not."""
        deadline = trio.current_time() + seconds_max
        while not condition():
            assert trio.current_time() < deadline, f"after {seconds_max:g} s still not: {what}\n{self.describe()}"
            await trio.sleep(LOOK_SECONDS)

    async def wait_leader(
        self, topic: str | None = None, partition: int = 0, *, other_than: str = "", seconds_max: float = WAIT_SECONDS_MAX
    ) -> str:
        """Until a node leads the group (see `leader`); returns its name."""
        what = f"a leader of {'the catalog' if topic is None else f'{topic}/{partition}'}"
        found: str | None = None

        def is_led() -> bool:
            nonlocal found
            found = self.leader(topic, partition)
            return found is not None and found != other_than

        await self.wait_until(is_led, what, seconds_max)
        assert found is not None
        return found

    async def wait_ready(self) -> None:
        """Until every running node belongs to the cluster and knows its leader."""
        with trio.fail_after(WAIT_SECONDS_MAX):
            for name in self.running:
                await self.node(name).wait_ready()

    async def wait_topic(self, topic: str) -> None:
        """Until every running node carries the topic and each partition has a leader."""

        def is_there() -> bool:
            nodes = [self.node(name) for name in self.running]
            known = [node.parts.replicas.topics.get(topic) for node in nodes]
            first = known[0]
            return (
                first is not None
                and all(item is not None for item in known)
                and not any(node.broker.unopened(first) for node in nodes)
                and all(self.leader(topic, number) is not None for number in range(len(first.partitions)))
            )

        await self.wait_until(is_there, f"topic {topic} everywhere")

    async def wait_converged(self, topic: str | None = None, partition: int = 0) -> None:
        """Until all running nodes have applied the same, which is everything their leader holds."""

        def is_same() -> bool:
            leader = self.leader(topic, partition)
            replicas = [self.replica(name, topic, partition) for name in self.running]
            if leader is None or None in replicas:
                return False
            status = {(r.status().last_index, r.status().applied_index, r.status().last_term) for r in replicas if r is not None}
            return len(status) == 1 and all(last == applied for last, applied, _ in status)

        await self.wait_until(is_same, f"{topic or 'the catalog'}: all replicas equal")

    def voters_of_groups(self) -> list[frozenset[NodeId]]:
        """Of the catalog and of every partition, as the leaders have them; none of a group that has no leader, or is changing."""
        groups: list[tuple[str | None, int]] = [(None, 0)]
        leader = self.leader()
        if leader is not None:
            topics = self.node(leader).parts.replicas.topics
            groups += [(name, number) for name, topic in topics.items() for number in range(len(topic.partitions))]
        voters: list[frozenset[NodeId]] = []
        for topic, partition in groups:
            leader = self.leader(topic, partition)
            replica = self.replica(leader, topic, partition) if leader is not None else None
            configuration = replica.status().configuration if replica is not None else Configuration()
            voters.append(frozenset() if configuration.is_joint else configuration.voters)
        return voters

    def removed_ids(self) -> set[NodeId]:
        """Ids of nodes removed for ever, as far as running nodes know of it. They may still be voters of a group, for a while."""
        return {node_id for name in self.running for node_id in self.node(name).parts.replicas.machine.removed}

    def draining_ids(self) -> set[NodeId]:
        """Ids of nodes that are being drained, as far as running nodes know of it. They stop being voters, group by group."""
        machines = [self.node(name).parts.replicas.machine for name in self.running]
        return {node.node_id for machine in machines for node in machine.nodes.values() if node.is_draining}

    def voters(self, topic: str | None = None, partition: int = 0) -> set[str]:
        """Names of the voters of a group, as its leader has them; empty while there is none."""
        leader = self.leader(topic, partition)
        replica = self.replica(leader, topic, partition) if leader is not None else None
        return {self.name_of(node_id) for node_id in replica.voters()} if replica is not None else set()

    async def wait_voters(self, topic: str | None, *names: str, partition: int = 0) -> None:
        """Until the group's voters are these, and no change is under way."""

        def are_voters() -> bool:
            leader = self.leader(topic, partition)
            replica = self.replica(leader, topic, partition) if leader is not None else None
            if replica is None or replica.status().configuration.is_joint:
                return False
            return {self.name_of(node_id) for node_id in replica.voters()} == set(names)

        await self.wait_until(are_voters, f"voters of {topic or 'the catalog'} are {', '.join(names)}")

    async def wait_gone(self, node_id: NodeId) -> None:
        """Until the catalog's configuration is without the node."""

        def is_gone() -> bool:
            leader = self.leader()
            replica = self.replica(leader) if leader is not None else None
            return replica is not None and node_id not in replica.status().configuration.nodes

        await self.wait_until(is_gone, f"{self.called(node_id)} is out of the catalog's configuration")

    def move_disk(self, source: str, target: str) -> None:
        """Both down: `target` has the disk of `source` from now on, as when a machine gets another address."""
        assert not self.is_running(source), f"{source} is up"
        assert not self.is_running(target), f"{target} is up"
        self.note(f"move disk {source} {target}")
        self._disks[target] = self._disks[source]
        self._ids.pop(source, None)

    def image(self, name: str) -> SimDisk:
        """A copy of the node's disk as it is now, whether the node runs or not: for `put_disk`."""
        self.note(f"image {name}")
        return self._disks[name].image()

    def put_disk(self, name: str, image: SimDisk) -> None:
        """A node that is down has this disk from now on: a copy of another's, or of its own as it was before."""
        assert not self.is_running(name), f"{name} is up"
        self.note(f"put disk {name}")
        self._disks[name] = image.image()

    def wipe(self, name: str) -> None:
        """A new disk for a node that is down: what starts with it is a new node."""
        assert not self.is_running(name), f"{name} is up"
        self.note(f"wipe {name}")
        latency = self._disks[name].latency_seconds
        self._disks[name] = SimDisk(derive(self.seed, f"disk:{name}:{self._starts_of[name]}"))
        self._disks[name].latency_seconds.update(latency)

    async def wait_over(self, name: str) -> None:
        """Until a node has ended in good order by itself, as one does that is removed."""
        life = self._lives[name]
        with trio.fail_after(WAIT_SECONDS_MAX):
            await life.over.wait()

    async def wait_registered(self, *names: str) -> None:
        """Until every running node knows from the catalog that these nodes (all founders by default) are there to stay."""
        ids = {self.node_id(name) for name in names or self.founders}

        def is_registered() -> bool:
            return all(ids <= self.node(name).parts.replicas.machine.nodes.keys() for name in self.running)

        await self.wait_until(is_registered, "all nodes are registered")

    async def read(self, name: str, topic: str, partition: int = 0) -> list[Record]:
        """Every record that a node's own replica shows to consumers now, read at the broker, without any client between."""
        broker = self.node(name).broker
        replica = broker.replica(topic, partition)
        offset, end = replica.log.log_start_offset, replica.watermark.value
        records: list[Record] = []
        while offset < end:
            fetched = await broker.fetch(topic, partition, offset, max_bytes=READ_BYTES)
            for batch in fetched.batches:
                records += decode_records(batch, UNPACKED_BYTES_MAX)
            assert fetched.next_offset > offset, "a fetch below the watermark brings something"
            offset = fetched.next_offset
        return records

    async def _shown_logs(self) -> list[str]:
        """What each partition holds that consumers may see, in a line, as a node knows it that is up."""
        lines: list[str] = []
        awake = [name for name in self.running if not self.is_paused(name)]
        with trio.move_on_after(LOOK_AT_LOGS_SECONDS_MAX, shield=True):
            for topic in sorted({topic for name in awake for topic in self.node(name).parts.replicas.topics}):
                for number, records in sorted((await self._read_everywhere(awake, topic)).items()):
                    last = ", ".join(
                        f"{record.offset}: {record.value[:VALUE_BYTES_SHOWN]!r}" for record in records[-RECORDS_SHOWN:]
                    )
                    lines.append(f"{topic}/{number} holds {len(records)} records" + (f", the last: {last}" if records else ""))
        return lines

    async def _read_everywhere(self, names: Sequence[str], topic: str) -> dict[int, list[Record]]:
        """For each partition that can be read, the records of the node that shows most of them. It is a failure that is told of:
        what else has broken must not take its place."""
        found: dict[int, list[Record]] = {}
        for name in names:
            known = self.node(name).parts.replicas.topics.get(topic) if self.is_running(name) else None
            for number in range(len(known.partitions) if known is not None else 0):
                if self.replica(name, topic, number) is None:
                    continue
                try:
                    found[number] = max(found.get(number, []), await self.read(name, topic, number), key=len)
                except EventLogError as error:
                    logger.debug("%s/%d cannot be read at %s: %s", topic, number, name, error)
        return found

    def describe(self) -> str:
        """The cluster as a few lines, for failures."""
        lines = [f"seed {self.seed}, time {trio.current_time():.3f}"]
        for name in self.names:
            if not self.is_running(name):
                lines.append(f"{name}: down")
                continue
            if not self.node(name).parts.replicas.all():
                lines.append(f"{name}: waits for its cluster")
            for replica in self.node(name).parts.replicas.all():
                status = replica.status()
                lines.append(
                    f"{name}: {replica.name}: {status.role.name.lower()} term {status.hard_state.term}"
                    f" leader {self.called(status.leader)} commit {status.hard_state.commit} applied {status.applied_index}"
                    f" last {status.last_index} stable {status.stable_index} watermark {replica.watermark.value}"
                )
        return "\n".join(lines)

    def called(self, node_id: NodeId) -> str:
        """The node's name, or its id when it has none any more."""
        return next((name for name, known in self._ids.items() if known == node_id), format_id(node_id))

    # Clients

    @asynccontextmanager
    async def client(self, *targets: str, name: str = "", settings: ClientSettings | None = None) -> AsyncIterator[Client]:
        """A client on a machine of its own, which knows the given nodes (all by default).

        Args:
            name: of its machine, for cuts.
        """
        name = name or self._next_client_name()
        async with self._client(targets, name, settings, self.network.host(name)) as client:
            yield client

    @asynccontextmanager
    async def _client(
        self, targets: Sequence[str], name: str, settings: ClientSettings | None, network: Network
    ) -> AsyncIterator[Client]:
        assert self._nursery is not None, "use `async with Cluster(...)`, or `Cluster(...).run(...)`"
        addresses = ",".join(self.address(target) for target in targets or self.names)
        self._clients_of[name] += 1
        async with open_client(
            f"eventlog://{addresses}",
            settings=settings,
            network=network,
            rng=derive(self.seed, f"{name}:{self._clients_of[name]}" if self._clients_of[name] > 1 else name),
            now_ns=self._wall_clock(name),
        ) as client:
            yield client

    async def run_app(
        self,
        app: Callable[..., Awaitable[T]],
        *args: object,
        faults: Sequence[AppFault] | None = None,
        step_max: int = STEP_MAX,
        name: str = "app",
        settings: ClientSettings | None = None,
    ) -> T:
        """Run an application to its end: `await app(client, *args)`, ended on the way by each of `faults`, and started again.

        Args:
            app: gets a client on a machine of its own. What is to survive its end, its database, is among `args`.
            faults: one after the other, each in a run of its own; after the last one it runs to its end. None: drawn by the seed.
            step_max: the latest step that is drawn; best about as many as the application takes.
            name: of its machine, for cuts.

        Returns:
            What the application returned in its last run.

        Raises:
            What the application raises.
        """
        if faults is None:
            faults = draw_app_faults(self.random(f"faults of {name}"), step_max=step_max)
        self.note(f"run {name}, ended by: {faults_text(faults)}")
        left = [*faults, None]
        while True:
            life = _AppLife(_Host(self.network.host(name)))
            self._app_lives.append(life)
            assert self._nursery is not None, "use `async with Cluster(...)`, or `Cluster(...).run(...)`"
            runs: list[AppRun] = []
            self._nursery.start_soon(self._live_app, life, runs, left, name, settings, app, args)
            try:
                await life.over.wait()
            finally:
                life.scope.cancel()
            if life.failure is not None:
                raise life.failure
            if not life.is_paused:
                return runs[-1].result  # type: ignore[no-any-return]
            life.host.is_down = True
            self.network.crash(name)

    async def _live_app(
        self,
        life: _AppLife,
        runs: list[AppRun],
        left: list[AppFault | None],
        name: str,
        settings: ClientSettings | None,
        app: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
    ) -> None:
        """One machine, until the application is done or killed. It takes from `left` what ends each run."""

        def kill() -> None:
            self.note(f"{name} is killed, at step {runs[-1].steps}")
            life.is_paused = True
            life.over.set()

        _life_of_task.set(life)
        try:
            with life.scope:
                async with self._client((), name, settings, life.host) as client:
                    while not runs or runs[-1].is_cut_short:
                        if runs:
                            self.note(f"{name} was cancelled, after step {runs[-1].steps}")
                        runs.append(AppRun(left.pop(0), kill))
                        await runs[-1].run(app, client, *args)
        except Exception as error:
            if not life.is_paused:
                life.failure = error
        finally:
            life.over.set()

    @asynccontextmanager
    async def channel(self, target: str, *, name: str = "", settings: RpcSettings | None = None) -> AsyncIterator[Channel]:
        """A plain gRPC connection to one node: no retries, no routing."""
        stream = await self.network.host(name or self._next_client_name()).open_stream(self.address(target))
        async with open_channel(stream, settings, authority=self.address(target)) as channel:
            yield channel

    def _next_client_name(self) -> str:
        self._clients += 1
        return f"client-{self._clients}"

    def _wall_clock(self, name: str) -> Callable[[], int]:
        return lambda: virtual_now_ns() + self.wall_clock_shift_ns[name]

    # The trace

    def random(self, name: str) -> random.Random:
        """A generator of this run, for what a test draws itself."""
        return derive(self.seed, name)

    def note(self, line: str) -> None:
        """Put what is done to the cluster into the trace. What its end does to it is no part of the story."""
        if self._is_over:
            return
        self.trace.add(f"{trio.current_time():.9f} {line}")
        if self.on_note is not None:
            self.on_note(line)
        self.events.append(f"{trio.current_time():.6f} {line}")

    def _on_write(self, source: str, target: str, data: bytes) -> None:
        if self._is_over:
            return
        self.trace.add(f"{trio.current_time():.9f} {source}>{target} {len(data)} {zlib.crc32(data):08x}")


async def _set_when(wait: Callable[[], Awaitable[None]], event: trio.Event) -> None:
    await wait()
    event.set()


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def reason_of(error: BaseException) -> str:
    """The innermost error of a group, as text: nurseries wrap."""
    error = _innermost(error)
    return str(error) if isinstance(error, EventLogError) else repr(error)


def _is_death(error: BaseException) -> bool:
    """What the tasks of a machine that went down run into: its disk and its network are gone."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_death, error.exceptions))
    return isinstance(error, StorageFailed | OSError | trio.ClosedResourceError)
