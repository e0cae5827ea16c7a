"""gRPC over Trio streams, either side. See docs/design/rpc.md."""

from trio_eventlog.rpc.client import Call, Channel, open_channel
from trio_eventlog.rpc.methods import Encoded, Metadata, Method, MethodKind, Peer, methods_of
from trio_eventlog.rpc.server import Context, Handler, Requests, Send, Server, Service, serve_connection
from trio_eventlog.rpc.settings import RpcSettings

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
    "RpcSettings",
    "Send",
    "Server",
    "Service",
    "methods_of",
    "open_channel",
    "serve_connection",
]
