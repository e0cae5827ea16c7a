"""gRPC over Trio streams, either side. See docs/design/rpc.md."""

from .client import Call, Channel, open_channel
from .methods import Encoded, Metadata, Method, MethodKind, Peer, methods_of
from .server import Context, Handler, Requests, Send, Server, Service, serve_connection
from .settings import RpcSettings

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
