"""One TCP port for everything: look at the first bytes of a connection and hand it to who understands them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import trio

from trio_eventlog.net.tls import TlsSource


@attrs.frozen(slots=True, kw_only=True)
class ConnectionInfo:
    """What is known of an accepted connection.

    Attributes:
        remote_address: "host:port" of the other side, "" when the stream has none.
        peer_certificate: the verified TLS certificate as `ssl.SSLSocket.getpeercert` gives it; None without TLS or certificate.
        alpn: the application protocol agreed in the TLS handshake, or None.
        is_tls: the stream is encrypted.
    """

    remote_address: str = ""
    peer_certificate: Mapping[str, Any] | None = None
    alpn: str | None = None
    is_tls: bool = False


Handler = Callable[[trio.abc.Stream, ConnectionInfo], Awaitable[None]]
"""Serves one connection until it ends. The stream begins with the bytes the mux has peeked at; the mux closes it."""


@attrs.frozen(slots=True, kw_only=True)
class MuxSettings:
    """Limits of the port.

    Attributes:
        unidentified_connections_max: connections whose protocol is not known yet; more are closed at once.
        identify_seconds_max: from accept to a known protocol, TLS handshake included.
        tls_required: plaintext gRPC, HTTP and peer links are refused.
    """

    unidentified_connections_max: int = 256
    identify_seconds_max: float = 5.0
    tls_required: bool = False


@attrs.frozen(slots=True, kw_only=True)
class MuxStatistics:
    """Counters since the start."""

    accepted: int
    open_now: int
    unidentified_now: int
    identified: Mapping[str, int]
    """By protocol: grpc, http, peer."""
    closed: Mapping[str, int]
    """Connections no handler has seen, by reason."""
    crashed: int
    """Handlers that raised."""


class Mux:
    """Accepts, identifies, hands over. One per port."""

    def __init__(
        self,
        settings: MuxSettings,
        *,
        grpc: Handler,
        http: Handler,
        peer: Handler,
        gossip: Handler | None = None,
        tls: TlsSource | None = None,
    ) -> None:
        raise NotImplementedError

    async def serve(
        self,
        listener: trio.abc.Listener[trio.abc.Stream],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve `listener` until cancelled; every connection is a task of this call. Closes the listener."""
        raise NotImplementedError

    def stop_accepting(self) -> None:
        """Close the door: `serve` returns when the connections it has are over (or it is cancelled)."""
        raise NotImplementedError

    def statistics(self) -> MuxStatistics:
        """A frozen copy of the counters."""
        raise NotImplementedError
