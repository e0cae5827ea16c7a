"""Nodes that serve files to each other, over a network in memory: transports and transfers, and nothing else of a node."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from trio_eventlog.codec.peer_frame import Hello
from trio_eventlog.codec.transfer import FileKey, Piece, SegmentKey
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.net.links import LinkSettings
from trio_eventlog.net.mux import ConnectionInfo, Mux, MuxSettings
from trio_eventlog.net.transport import PeerConnected, Transport
from trio_eventlog.node.transfer_server import ServedFile, TransferServer
from trio_eventlog.node.transfer_settings import TransferSettings
from trio_eventlog.node.transfers import Transfers
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import SimDisk
from trio_eventlog.testing.network import SimNetwork

GROUP = GroupId(7)
DATA = random.Random(3).randbytes(200_000)
NAME = SegmentKey(base_index=1, frames_bytes=len(DATA), frames_checksum=5)


async def no_handler(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
    raise AssertionError("nobody dials this")


class Node:
    """A node with a disk of its own; it has the files of `files`, named by the paths on it."""

    def __init__(self, network: SimNetwork, number: int, settings: TransferSettings, serves: bool = True) -> None:
        self.node_id = NodeId(number)
        name = f"n{number}"
        self.host = network.host(name)
        self.disk = SimDisk(random.Random(number))
        self.files: dict[tuple[GroupId, FileKey], str] = {}
        self.trusts = True
        self.server = TransferServer(self._open, settings)
        self.connected = trio.Event()
        self.transport = Transport(
            identity=lambda: Hello(node_id=self.node_id, cluster_name="test", node_name=name, address=f"{name}:8400"),
            network=self.host,
            settings=default(LinkSettings),
            rng=random.Random(number),
            receive=lambda *_: None,
            on_event=lambda event: self.connected.set() if isinstance(event, PeerConnected) else None,
            trusts=lambda inbound: self.trusts,
            serve_side=self.server.serve if serves else None,
        )
        self.transfers = Transfers(self.transport.open_side, settings)
        self.mux = Mux(default(MuxSettings), grpc=no_handler, http=no_handler, peer=self.transport.handle_inbound)
        self.scope = trio.CancelScope()

    async def _open(self, group_id: GroupId, name: FileKey) -> ServedFile | None:
        path = self.files.get((group_id, name))
        if path is None:
            return None
        file = await self.disk.open(path, writes=False)
        return ServedFile(file, file.size_bytes)

    def has(self, name: FileKey = NAME, data: bytes = DATA) -> None:
        self.files[GROUP, name] = path = f"/{len(self.files)}"
        self.disk.put(path, data)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            bound = await self.host.listen(f"n{self.node_id}:8400")
            async with trio.open_nursery() as nursery:
                await nursery.start(self.mux.serve, bound.listener)
                await nursery.start(self.transport.run)
                task_status.started()


class Received:
    """What has come of a file."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.pieces = 0

    async def take(self, piece: Piece) -> None:
        self.data += piece.data
        self.pieces += 1


@asynccontextmanager
async def open_nodes(
    count: int, *, without_side: frozenset[int] = frozenset(), **changes: object
) -> AsyncIterator[tuple[SimNetwork, list[Node]]]:
    """Nodes 1 to `count`, each linked to all others."""
    network = SimNetwork(random.Random(1))
    settings = default(TransferSettings, **changes)
    nodes = [Node(network, number, settings, number not in without_side) for number in range(1, count + 1)]
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        for node in nodes:
            for other in nodes:
                if other is not node:
                    node.transport.set_peer(other.node_id, f"n{other.node_id}:8400")
        for node in nodes:
            await node.connected.wait()
        yield network, nodes
        nursery.cancel_scope.cancel()
