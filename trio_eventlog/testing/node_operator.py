"""The operator of a node simulation: adds, drains, removes and replaces nodes."""

import random
from typing import TYPE_CHECKING, Any

import trio

from trio_eventlog.codec.peer_frame import encode_frame
from trio_eventlog.errors import (
    EventLogError,
    InvalidArgument,
    MembershipRefused,
)
from trio_eventlog.ids import CATALOG_GROUP, NodeId, format_id, parse_id
from trio_eventlog.net.links import Priority
from trio_eventlog.testing import inside
from trio_eventlog.testing.determinism import derive
from trio_eventlog.testing.machines import NEXT_RELEASE
from trio_eventlog.testing.node_run_values import (
    ADMIN,
    NEW_FRAME_KIND,
    NEW_FRAMES_SECONDS,
)
from trio_eventlog.v1 import admin_pb2

if TYPE_CHECKING:
    from trio_eventlog.testing.node_simulator import NodeRun


class SimulatedOperator:
    """Works on the cluster while it runs."""

    def __init__(self, run: "NodeRun") -> None:
        self._run = run

    async def say_new_things(self) -> None:
        """Nodes of the next release send their peers frames of a kind that this one does not know."""
        cluster = self._run.cluster
        rng = derive(self._run.seed, "next release")
        while True:
            await trio.sleep(rng.uniform(0, 2 * NEW_FRAMES_SECONDS))
            for name in cluster.running:
                if cluster.protocol_versions_of.get(name) == NEXT_RELEASE:
                    for other in cluster.names:
                        if other != name and not cluster.is_new(other):
                            frame = encode_frame(NEW_FRAME_KIND, CATALOG_GROUP, rng.randbytes(rng.randrange(100)))
                            self._run.counts["frame of a new kind"] += inside.transport(cluster.node(name)).send(
                                cluster.node_id(other), frame, Priority.URGENT
                            )

    async def operate(self) -> None:
        """Nodes join, are drained, or break for good and are removed; each comes back with an empty disk as a new node."""
        rng = derive(self._run.seed, "operator")
        cluster = self._run.cluster
        while True:
            await trio.sleep(rng.uniform(0.5, 5))
            await self._bring_back(rng)
            if self._run.nemesis.spent:
                await self._replace(rng)
                continue
            if not self._run.parameters.spares:
                continue
            running = cluster.running
            spare = [name for name in cluster.names if name not in cluster.founders and cluster.is_new(name)]
            if spare and rng.random() < 0.5:
                self._run.counts["join"] += 1
                await self._run.start(spare[0])
            elif running and rng.random() < 0.5:
                await self._ask(rng, "DrainNode", admin_pb2.DrainNodeRequest(id=format_id(cluster.node_id(rng.choice(running)))))
            elif len(running) >= len(cluster.founders):
                name = rng.choice(running)
                cluster.crash(name, self._run.parameters.faults.crash_mode)
                await self._remove(rng, cluster.node_id(name))

    async def _replace(self, rng: random.Random) -> None:
        """Of a node that has lost data nothing is used again: its id is removed, and a new node takes its place."""
        cluster = self._run.cluster
        for name, node_id in list(self._run.nemesis.spent.items()):
            if node_id not in cluster.removed_ids():
                if cluster.is_running(name):
                    if rng.random() < 0.8:
                        continue  # people take their time
                    cluster.crash(name)
                await self._remove(rng, node_id)
            elif cluster.node_id(name) == node_id:
                if cluster.is_running(name):
                    cluster.crash(name)
                if cluster.is_startable(name):
                    await self._run.start(name)
            else:
                voters = cluster.voters_of_groups()
                if cluster.node_id(name) in voters[0] and all(group and node_id not in group for group in voters):
                    self._run.counts["replaced what was spent"] += 1
                    del self._run.nemesis.spent[name]
                    self._run.nemesis.down.pop(name, None)

    async def _remove(self, rng: random.Random, node_id: NodeId) -> None:
        request = admin_pb2.RemoveNodeRequest(id=format_id(node_id))
        for _ in range(5):
            if await self._ask(rng, "RemoveNode", request):
                break
            await trio.sleep(rng.uniform(0, 0.5))

    async def _ask(self, rng: random.Random, method: str, request: Any) -> bool:
        """One command at any node; whether it was answered with success."""
        leaving = self._run.nemesis.leaving
        news = {NodeId(parse_id(request.id))} - leaving
        leaving |= news
        try:
            with trio.fail_after(2.0):
                async with self._run.cluster.channel(rng.choice(self._run.cluster.names), name="operator") as channel:
                    await channel.unary(ADMIN[method], request)
        except (trio.TooSlowError, OSError, EventLogError) as error:
            self._run.counts[f"{method}: {getattr(error, 'code', 'no answer')}"] += 1
            if isinstance(error, InvalidArgument | MembershipRefused):
                leaving -= news
            return False
        self._run.counts[method] += 1
        return True

    async def _bring_back(self, rng: random.Random) -> None:
        """Start the nodes that are down and that no fault will restart: removed nodes with an empty disk, others as they are."""
        cluster, nemesis = self._run.cluster, self._run.nemesis
        for name in cluster.names:
            is_mine = not cluster.is_running(name) and cluster.is_startable(name) and not cluster.is_new(name)
            if is_mine and not {name} & {*nemesis.down, *nemesis.broken, *nemesis.spent} and rng.random() < 0.7:
                await self._run.start(name)

    async def bring_back_for_ever(self) -> None:
        """After all faults are healed: drains end, and removed nodes learn of their removal."""
        rng = derive(self._run.seed, "end")
        while True:
            await self._bring_back(rng)
            await trio.sleep(0.1)
