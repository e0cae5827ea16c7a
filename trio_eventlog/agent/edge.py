"""A node's port: the mux finds the protocol of each connection, and clients are served in it."""

from collections.abc import Sequence

import trio

from trio_eventlog import part_settings
from trio_eventlog.agent.parts import NodeParts
from trio_eventlog.agent.services import make_intake, make_log_sink
from trio_eventlog.backoff import Backoff
from trio_eventlog.net.mux import ConnectionInfo, Mux
from trio_eventlog.rpc import Peer, Server, Service
from trio_eventlog.service.values import Caller

SYSLOG_MESSAGE_BYTES_MAX = 64 << 10
"""A longer message ends its connection. (RFC 5424 asks for 2048 to be taken.)"""
SYSLOG_CONNECTIONS_AT_ONCE_MAX = 8
"""Connections that hold lines at the same time; the others wait with the bytes that they have read."""
SYSLOG_RETRY_SECONDS_MAX = 60.0
"""How long lines of a connection are kept that the log does not take; nothing more is read from it meanwhile."""


class Edge:
    """Connections of clients, once the mux knows their protocol."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self._syslog_slots = trio.CapacityLimiter(SYSLOG_CONNECTIONS_AT_ONCE_MAX)

    async def serve_grpc(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        peer = Peer(address=info.remote_address, is_secure=info.is_tls, certificate=info.peer_certificate)
        await self._parts.server.serve(stream, peer, info.standing)

    async def serve_http(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        await self._parts.http.serve(stream, info)

    async def serve_syslog(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        # Needed by the first such connection only.
        from trio_eventlog.ingest.syslog_server import serve_syslog

        parts = self._parts
        caller = Caller(address=info.remote_address)

        await parts.milestones.ready.wait()
        await serve_syslog(
            stream,
            info.standing,
            make_intake=lambda: make_intake(parts, caller),
            sink=make_log_sink(parts),
            slots=self._syslog_slots,
            caller=caller,
            backoff=Backoff(parts.surroundings.rng, 0.1, 2.0),
            message_bytes_max=SYSLOG_MESSAGE_BYTES_MAX,
            retry_seconds_max=SYSLOG_RETRY_SECONDS_MAX,
        )


def make_server(parts: NodeParts, services: Sequence[Service]) -> Server:
    return Server(services, part_settings.rpc(parts.settings))


def make_mux(parts: NodeParts, edge: Edge) -> Mux:
    return Mux(
        part_settings.mux(parts.settings, parts.descriptors),
        grpc=edge.serve_grpc,
        http=edge.serve_http,
        peer=parts.transport.handle_inbound,
        gossip=None if parts.gossip is None else parts.gossip.driver.streams.handle,
        syslog=edge.serve_syslog,
        tls=parts.credentials.tls,
    )
