"""Links between nodes over a network in memory."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import trio
import trio.testing

from trio_eventlog.codec.peer_frame import FrameKind, Hello, encode_frame
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.net.links import Lane, LinkSettings
from trio_eventlog.net.mux import ConnectionInfo, Mux, MuxSettings
from trio_eventlog.net.transport import (
    LinkEvent,
    PeerConnected,
    PeerIntroduced,
    PeerReset,
    Transport,
)
from trio_eventlog.testing.network import MemoryNetwork, MemoryNetworkSettings


async def no_handler(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
    raise AssertionError("nobody dials this")


class Node:
    """A transport behind a mux, and what it has told."""

    def __init__(self, network: MemoryNetwork, number: int, settings: LinkSettings, hello: Hello | None = None) -> None:
        self.node_id = NodeId(number)
        self.name = f"n{number}"
        self.address = f"{self.name}:8400"
        self.hello = hello or Hello(node_id=self.node_id, cluster_name="test", node_name=self.name, address=self.address)
        self.events: list[LinkEvent] = []
        self.event_times: list[float] = []
        self.received: list[tuple[NodeId, int, GroupId, bytes]] = []
        self.happened = trio.lowlevel.ParkingLot()
        self.host = network.host(self.name)
        self.transport = Transport(
            identity=lambda: self.hello,
            network=self.host,
            settings=settings,
            rng=random.Random(number),
            receive=self.receive,
            on_event=self.on_event,
        )
        self.mux = Mux(MuxSettings(), grpc=no_handler, http=no_handler, peer=self.transport.handle_inbound)
        self.scope = trio.CancelScope()

    def receive(self, node_id: NodeId, kind: int, group_id: GroupId, body: memoryview) -> None:
        self.received.append((node_id, kind, group_id, bytes(body)))
        self.happened.unpark_all()

    def on_event(self, event: LinkEvent) -> None:
        self.events.append(event)
        self.event_times.append(trio.current_time())
        self.happened.unpark_all()

    def of_kind(self, kind: type[LinkEvent]) -> list[LinkEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    async def wait(self, condition: Callable[[], object]) -> None:
        """Until `condition`, looked at whenever something happens here; fails after a virtual minute."""
        with trio.fail_after(60):
            while not condition():
                await self.happened.park()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            bound = await self.host.listen(self.address)
            async with trio.open_nursery() as nursery:
                await nursery.start(self.mux.serve, bound.listener)
                await nursery.start(self.transport.run)
                task_status.started()


@attrs.frozen
class Nodes:
    network: MemoryNetwork
    nursery: trio.Nursery
    nodes: dict[int, Node]

    async def start(self, number: int, settings: LinkSettings | None = None, hello: Hello | None = None) -> Node:
        node = Node(self.network, number, settings or LinkSettings(), hello)
        self.nodes[number] = node
        await self.nursery.start(node.run)
        return node

    def connect(self, *numbers: int) -> None:
        for one in numbers:
            for other in numbers:
                if one != other:
                    self.nodes[one].transport.set_peer(NodeId(other), f"n{other}:8400")

    async def crash(self, number: int) -> None:
        """As kill -9: the kernel resets the connections, nothing of the process runs."""
        self.network.crash(f"n{number}")
        self.nodes[number].scope.cancel()


@asynccontextmanager
async def open_nodes(settings: MemoryNetworkSettings | None = None) -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        yield Nodes(MemoryNetwork(random.Random(1), settings), nursery, {})
        nursery.cancel_scope.cancel()


async def test_frames_arrive_in_order_with_their_sender(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = (await nodes.start(1), await nodes.start(2))
        nodes.connect(1, 2)
        await n1.wait(lambda: n1.of_kind(PeerConnected))
        for number in range(100):
            assert n1.transport.send(NodeId(2), encode_frame(FrameKind.RAFT, 7, b"%d" % number), Lane.BULK)
        await n2.wait(lambda: len(n2.received) == 100)
        assert n2.received == [(1, FrameKind.RAFT, 7, b"%d" % number) for number in range(100)]


async def test_a_crash_is_told_once_and_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = (await nodes.start(1), await nodes.start(2))
        nodes.connect(1, 2)
        await n1.wait(lambda: n1.of_kind(PeerConnected) and n1.of_kind(PeerIntroduced))
        await n2.wait(lambda: n2.of_kind(PeerConnected))
        crashed_at = trio.current_time()
        await nodes.crash(2)
        await n1.wait(lambda: n1.of_kind(PeerReset))
        assert trio.current_time() == crashed_at
        await trio.sleep(30)
        assert len(n1.of_kind(PeerReset)) == 1
        assert not n1.transport.is_connected(NodeId(2))
        assert not n1.transport.send(NodeId(2), encode_frame(FrameKind.RAFT, 7), Lane.URGENT)
