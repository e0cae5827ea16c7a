"""The part of a node that peers see, over TLS."""

import random

import trio

from trio_eventlog.codec.peer_frame import Hello
from trio_eventlog.ids import NodeId
from trio_eventlog.net.links import LinkSettings
from trio_eventlog.net.mux import ConnectionInfo, Mux, MuxSettings
from trio_eventlog.net.network import Network
from trio_eventlog.net.tls import FileTls, TlsSettings
from trio_eventlog.net.transport import Transport
from trio_eventlog.testing.defaults import default


class TlsNode:
    """A transport behind a mux that requires TLS."""

    def __init__(self, network: Network, number: int, advertised: str, settings: TlsSettings) -> None:
        self.tls = FileTls(settings)
        self.network = network
        self.received: list[bytes] = []
        self.events: list[object] = []
        self.grpc_connections = 0
        self.transport = Transport(
            identity=lambda: Hello(node_id=NodeId(number), cluster_name="test", node_name=f"n{number}", address=advertised),
            network=network,
            settings=default(LinkSettings),
            rng=random.Random(number),
            receive=lambda node_id, kind, group_id, body: self.received.append(bytes(body)),
            on_event=self.events.append,
            tls=self.tls,
        )
        self.mux = Mux(
            default(MuxSettings, tls_required=True),
            grpc=self.note_grpc,
            http=self.unexpected,
            peer=self.transport.handle_inbound,
            tls=self.tls,
        )

    async def note_grpc(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        self.grpc_connections += 1
        await stream.receive_some()

    async def unexpected(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        raise AssertionError

    async def run(self, address: str, *, task_status: trio.TaskStatus[str]) -> None:
        bound = await self.network.listen(address)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.mux.serve, bound.listener)
            await nursery.start(self.transport.run)
            task_status.started(bound.address)
