"""Clients and applications of a simulated cluster, each on a machine of its own."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from trio_eventlog.client.client import Client, open_client
from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.net.network import Network
from trio_eventlog.rpc import Channel, RpcSettings, open_channel
from trio_eventlog.testing.application import STEP_MAX, AppFault, AppRun, draw_app_faults, faults_text
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.determinism import derive
from trio_eventlog.testing.lives import AppLife, Host, life_of_task
from trio_eventlog.testing.machines import Machines
from trio_eventlog.testing.network import SimNetwork
from trio_eventlog.testing.story import Story

T = TypeVar("T")


class ClusterClients:
    """Opens clients, plain gRPC connections and applications.

    Attributes:
        app_lives: of all applications that were run.
    """

    def __init__(self, machines: Machines, network: SimNetwork, story: Story) -> None:
        self._machines = machines
        self._network = network
        self._story = story
        self.app_lives: list[AppLife] = []
        self._clients = 0
        self._clients_of = Counter[str]()

    @asynccontextmanager
    async def client(self, *targets: str, name: str = "", settings: ClientSettings | None = None) -> AsyncIterator[Client]:
        """A client on a machine of its own, which knows the given nodes (all by default).

        Args:
            name: of its machine, for cuts.
        """
        name = name or self._next_client_name()
        async with self._client(targets, name, settings, self._network.host(name)) as client:
            yield client

    @asynccontextmanager
    async def _client(
        self, targets: Sequence[str], name: str, settings: ClientSettings | None, network: Network
    ) -> AsyncIterator[Client]:
        assert self._machines.nursery is not None, "use `async with Cluster(...)`, or `Cluster(...).run(...)`"
        addresses = ",".join(self._machines.address(target) for target in targets or self._machines.names)
        self._clients_of[name] += 1
        async with open_client(
            f"eventlog://{addresses}",
            settings=settings,
            network=network,
            rng=derive(self._machines.seed, f"{name}:{self._clients_of[name]}" if self._clients_of[name] > 1 else name),
            now_ns=self._machines.wall_clock(name),
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
            faults = draw_app_faults(derive(self._machines.seed, f"faults of {name}"), step_max=step_max)
        self._story.note(f"run {name}, ended by: {faults_text(faults)}")
        left = [*faults, None]
        while True:
            life = AppLife(Host(self._network.host(name)))
            self.app_lives.append(life)
            assert self._machines.nursery is not None, "use `async with Cluster(...)`, or `Cluster(...).run(...)`"
            runs: list[AppRun] = []
            self._machines.nursery.start_soon(self._live_app, life, runs, left, name, settings, app, args)
            try:
                await life.over.wait()
            finally:
                life.scope.cancel()
            if life.failure is not None:
                raise life.failure
            if not life.is_paused:
                return runs[-1].result  # type: ignore[no-any-return]
            life.host.is_down = True
            self._network.crash(name)

    async def _live_app(
        self,
        life: AppLife,
        runs: list[AppRun],
        left: list[AppFault | None],
        name: str,
        settings: ClientSettings | None,
        app: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
    ) -> None:
        """One machine, until the application is done or killed. It takes from `left` what ends each run."""

        def kill() -> None:
            self._story.note(f"{name} is killed, at step {runs[-1].steps}")
            life.is_paused = True
            life.over.set()

        life_of_task.set(life)
        try:
            with life.scope:
                async with self._client((), name, settings, life.host) as client:
                    while not runs or runs[-1].is_cut_short:
                        if runs:
                            self._story.note(f"{name} was cancelled, after step {runs[-1].steps}")
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
        stream = await self._network.host(name or self._next_client_name()).open_stream(self._machines.address(target))
        async with open_channel(stream, settings or default(RpcSettings), authority=self._machines.address(target)) as channel:
            yield channel

    def _next_client_name(self) -> str:
        self._clients += 1
        return f"client-{self._clients}"
