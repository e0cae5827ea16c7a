"""gRPC over Trio streams, either side. See docs/design/rpc.md."""

from trio_eventlog.rpc._purerpc import StatusCode
from trio_eventlog.rpc.client import Call, Channel, open_channel
from trio_eventlog.rpc.methods import Encoded, Metadata, Method, MethodKind, Peer, methods_of
from trio_eventlog.rpc.server import Context, Handler, Requests, Send, Server, ServerStatistics, Service, serve_connection
from trio_eventlog.rpc.settings import RpcSettings
from trio_eventlog.rpc.status import RpcFailed

__all__ = [
    "Call",
    "Channel",
    "Context",
    "Encoded",
    "Handler",
    "Metadata",
    "Method",
    "MethodKind",
    "Peer",
    "Requests",
    "RpcFailed",
    "RpcSettings",
    "Send",
    "Server",
    "ServerStatistics",
    "Service",
    "StatusCode",
    "methods_of",
    "open_channel",
    "serve_connection",
]
