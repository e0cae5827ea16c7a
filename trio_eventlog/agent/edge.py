"""A node's port: the mux finds the protocol of each connection, and clients are served in it."""

from collections.abc import Sequence

import trio

from trio_eventlog import part_settings
from trio_eventlog.agent.parts import NodeParts
from trio_eventlog.net.mux import ConnectionInfo, Mux
from trio_eventlog.rpc import Peer, Server, Service


class Edge:
    """Connections of clients, once the mux knows their protocol."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts

    async def serve_grpc(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        peer = Peer(address=info.remote_address, is_secure=info.is_tls, certificate=info.peer_certificate)
        await self._parts.server.serve(stream, peer, info.standing)

    async def serve_http(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        await self._parts.http.serve(stream, info)


def make_server(parts: NodeParts, services: Sequence[Service]) -> Server:
    return Server(services, part_settings.rpc(parts.settings))


def make_mux(parts: NodeParts, edge: Edge) -> Mux:
    return Mux(
        part_settings.mux(parts.settings, parts.descriptors),
        grpc=edge.serve_grpc,
        http=edge.serve_http,
        peer=parts.transport.handle_inbound,
        gossip=None if parts.gossip is None else parts.gossip.driver.streams.handle,
        tls=parts.credentials.tls,
    )
