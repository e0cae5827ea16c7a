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
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, TypeVar

import trio
import trio.testing

from trio_eventlog.net.names import Names
from trio_eventlog.service.background import background
from trio_eventlog.testing import determinism
from trio_eventlog.testing.cluster_clients import ClusterClients
from trio_eventlog.testing.cluster_view import ClusterView
from trio_eventlog.testing.determinism import Freezer, Trace, derive
from trio_eventlog.testing.disk import CrashMode
from trio_eventlog.testing.disk_swaps import DiskSwaps
from trio_eventlog.testing.lives import is_paused
from trio_eventlog.testing.machines import Machines
from trio_eventlog.testing.network import SimNetwork, SimNetworkSettings
from trio_eventlog.testing.story import Story
from trio_eventlog.testing.weather import Weather

T = TypeVar("T")

RUN_SECONDS_MAX = 1000.0
"""A run that is not over after so much virtual time fails: 20 s of a processor, with three nodes."""
DEFAULT_NETWORK = SimNetworkSettings(weather=Weather(latency_seconds_min=0.0002, latency_seconds_max=0.001))
DEFAULT_SYNC_SECONDS = 0.001


class _Silence:
    """A block in which, once `begin` was called, log lines of this package are dropped: a machine that is gone logs nothing."""

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


class Cluster:
    """Nodes n1..nN at "n1:8400" and so on, each with a `SimDisk` that outlives it.

    What it does beside the methods here is written in its parts, whose methods it has under the same names:

    * `Machines`: `start`, `stop`, `restart`, `crash`, `pause`, `resume`, `node`, `disk`, ... (machines.py)
    * `ClusterView`: `leader`, `replica`, `voters`, `read`, `describe`, and most of `wait_...` (cluster_view.py)
    * `ClusterClients`: `client`, `channel`, `run_app` (cluster_clients.py)
    * `DiskSwaps`: `slow_disk`, `image`, `put_disk`, `move_disk`, `wipe`, `start_copy` (disk_swaps.py)

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
        on_note: called with a text for each thing that is done to the cluster.
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
        self._freezer = Freezer(is_paused)
        self._starts = starts
        self._run_seconds_max = run_seconds_max
        self._names = names
        self._network_settings = network
        self._sync_seconds = sync_seconds
        self._lay_out()

    def _lay_out(self) -> None:
        """Empty disks, a network on which nothing has happened, nodes like each other."""
        self._story = story = Story()
        self.network = SimNetwork(derive(self.seed, "network"), self._network_settings)
        self.network.on_write = story.on_write
        self._machines = machines = Machines(
            names=self.names,
            founders=self.founders,
            seed=self.seed,
            network=self.network,
            sync_seconds=self._sync_seconds,
            lookups=self._names,
            may_fail=self._may_fail,
            overrides=self._overrides,
            freezer=self._freezer,
            story=story,
            describe=lambda: self.describe(),
        )
        self._view = view = ClusterView(machines)
        self._swaps = swaps = DiskSwaps(machines, story)
        self._clients = clients = ClusterClients(machines, self.network, story)
        self.state_at_failure = ""
        self.logs_at_failure: list[str] = []
        self._context = self._open()
        self._offer(story, machines, view, swaps, clients)

    def _offer(self, story: Story, machines: Machines, view: ClusterView, swaps: DiskSwaps, clients: ClusterClients) -> None:
        """What the parts do is done by calling the cluster: bound methods, so that each is written and documented in one place."""
        self.note = story.note
        self.settings_of = machines.settings_of
        self.protocol_versions_of = machines.protocol_versions_of
        self.feature_level_of = machines.feature_level_of
        self.descriptors_of = machines.descriptors_of
        self.wall_clock_shift_ns = machines.wall_clock_shift_ns
        self.is_running = machines.is_running
        self.node = machines.node
        self.node_id = machines.node_id
        self.name_of = machines.name_of
        self.called = machines.called
        self.address = machines.address
        self.disk = machines.disk
        self.settings = machines.settings
        self.start = machines.start
        self.crash = machines.crash
        self.pause = machines.pause
        self.resume = machines.resume
        self.is_paused = machines.is_paused
        self.lose_unsynced_writes = machines.lose_unsynced_writes
        self.stop = machines.stop
        self.restart = machines.restart
        self.is_new = machines.is_new
        self.failures = machines.failures
        self.is_startable = machines.is_startable
        self.wait_down = machines.wait_down
        self.wait_over = machines.wait_over
        self.wait_failure = machines.wait_failure
        self.shift_wall_clock = machines.shift_wall_clock
        self.replica = view.replica
        self.leader = view.leader
        self.wait_until = view.wait_until
        self.wait_leader = view.wait_leader
        self.wait_ready = view.wait_ready
        self.wait_topic = view.wait_topic
        self.wait_converged = view.wait_converged
        self.voters_of_groups = view.voters_of_groups
        self.removed_ids = view.removed_ids
        self.draining_ids = view.draining_ids
        self.voters = view.voters
        self.wait_voters = view.wait_voters
        self.wait_gone = view.wait_gone
        self.wait_registered = view.wait_registered
        self.read = view.read
        self.describe = view.describe
        self.slow_disk = swaps.slow_disk
        self.start_copy = swaps.start_copy
        self.move_disk = swaps.move_disk
        self.image = swaps.image
        self.put_disk = swaps.put_disk
        self.wipe = swaps.wipe
        self.client = clients.client
        self.run_app = clients.run_app
        self.channel = clients.channel

    def __repr__(self) -> str:
        return f"Cluster({len(self.names)}, seed={self.seed})"

    async def __aenter__(self) -> "Cluster":
        if self._machines.nursery is not None:
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
            self._machines.nursery = nursery
            if self._starts:
                for name in self.founders:
                    await self.start(name)
            try:
                yield self
            except Exception as error:
                error.add_note(f"seed {self.seed}, at {trio.current_time():.3f} s of virtual time")
                self.state_at_failure = self.describe()
                self.logs_at_failure = await self._view.shown_logs()
                raise
            finally:
                silence.begin()
                self._end()
            for life in self._machines.lives.values():
                await life.over.wait()

    def _end(self) -> None:
        """Take everything down, however the block ended. What the nodes hold in memory is lost; a test that wants a graceful end
        stops them first. Paused tasks run again: they could not be cancelled, and a failed test would never end."""
        self._story.is_over = True
        self.heal()
        for name in (*self.running, *filter(self.is_running, self._swaps.copies)):
            self.crash(name, CrashMode.KEEP)
        for life in self._clients.app_lives:
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

    # What was done

    @property
    def trace(self) -> Trace:
        """Every write to the network, with its time: equal for equal seeds."""
        return self._story.trace

    @property
    def events(self) -> list[str]:
        """What was done to nodes, network and application, with its time; a part of the trace."""
        return self._story.events

    @property
    def on_note(self) -> Callable[[str], None] | None:
        """Called with what is done to the cluster, in words."""
        return self._story.on_note

    @on_note.setter
    def on_note(self, on_note: Callable[[str], None] | None) -> None:
        self._story.on_note = on_note

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the nodes that are up."""
        return self._machines.running

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

    # Time and chance

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass, with all that the nodes and clients do in it."""
        await trio.sleep(seconds)

    def random(self, name: str) -> random.Random:
        """A generator of this run, for what a test draws itself."""
        return derive(self.seed, name)
