"""Gossip drivers on one network in memory, for the tests of the driver."""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from trio_eventlog.codec.gossip_crypto import Keyring
from trio_eventlog.gossip.events import Event, GossipStatus, Member
from trio_eventlog.net.mux import ConnectionInfo, Mux, MuxSettings
from trio_eventlog.node.gossip_driver import GossipDriver
from trio_eventlog.node.gossip_settings import GossipSettings
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.network import SimNetwork, SimNetworkSettings
from trio_eventlog.testing.weather import Weather


async def no_handler(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
    raise AssertionError("nobody speaks this here")


@attrs.define(slots=True)
class Node:
    """A driver behind a mux, and what it has told."""

    name: str
    driver: GossipDriver
    scope: trio.CancelScope
    events: list[Event] = attrs.field(factory=list)
    keyring: Keyring | None = None

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


class Rig:
    """Nodes n1, n2, ... on one network in memory."""

    def __init__(self, nursery: trio.Nursery, seed: int = 1) -> None:
        weather = Weather(latency_seconds_min=0.0005, latency_seconds_max=0.002)
        self.network = SimNetwork(random.Random(seed), SimNetworkSettings(weather=weather))
        self.nursery = nursery
        self.nodes: dict[str, Node] = {}

    async def start(
        self,
        name: str,
        *seeds: str,
        settings: GossipSettings | None = None,
        keys: tuple[bytes, ...] = (),
        tags: Mapping[str, str] | None = None,
        gossip_name: str = "",
        **arguments: object,
    ) -> Node:
        host = self.network.host(name)
        address = f"{name}:8400"
        bound = await host.listen(address)
        [packet_address] = await host.datagrams.resolve(address)
        keyring = Keyring(keys, random.Random(name)) if keys else None
        events: list[Event] = []
        driver = GossipDriver(
            name=gossip_name or name,
            address=packet_address,
            tags=tags or {"role": "eventlog"},
            settings=settings or default(GossipSettings),
            datagrams=await host.datagrams.bind(address),
            datagram_network=host.datagrams,
            network=host,
            rng=random.Random(f"{name} {len(self.nodes)}"),
            on_event=events.append,
            seeds=[f"{seed}:8400" for seed in seeds],
            keyring=keyring,
            **arguments,  # type: ignore[arg-type]
        )
        mux = Mux(default(MuxSettings), grpc=no_handler, http=no_handler, peer=no_handler, gossip=driver.streams.handle)
        scope = trio.CancelScope()
        node = Node(name, driver, scope, events, keyring)
        self.nodes[name] = node

        async def live(*, task_status: trio.TaskStatus[None]) -> None:
            with scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(mux.serve, bound.listener)
                    await nursery.start(driver.run)
                    task_status.started()

        await self.nursery.start(live)
        return node

    def crash(self, name: str) -> None:
        self.nodes.pop(name).scope.cancel()
        self.network.crash(name)

    async def agree(self, *names: str, seconds: float = 60) -> float:
        """Until each of these (all by default) sees exactly all of them alive; how long it took."""
        wanted = set(names) or set(self.nodes)
        began = trio.current_time()
        with trio.fail_after(seconds):
            for name in wanted:
                await self.nodes[name].driver.wait_members(partial(sees, wanted))
        return trio.current_time() - began


def sees(names: set[str], members: Mapping[str, Member]) -> bool:
    return {name for name, member in members.items() if member.status is GossipStatus.ALIVE} == names


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    async with trio.open_nursery() as nursery:
        yield Rig(nursery)
        nursery.cancel_scope.cancel()


async def until(is_true: Callable[[], object], seconds: float = 60) -> float:
    """Look at a condition a hundred times a (virtual) second."""
    began = trio.current_time()
    with trio.fail_after(seconds):
        while not is_true():  # noqa: ASYNC110
            await trio.sleep(0.01)
    return trio.current_time() - began


async def three(cluster: Rig, **arguments: object) -> tuple[Node, Node, Node]:
    n1 = await cluster.start("n1", **arguments)  # type: ignore[arg-type]
    n2 = await cluster.start("n2", "n1", **arguments)  # type: ignore[arg-type]
    n3 = await cluster.start("n3", "n1", "n2", **arguments)  # type: ignore[arg-type]
    await cluster.agree()
    return n1, n2, n3
