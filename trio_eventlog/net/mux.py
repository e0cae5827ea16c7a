"""One TCP port for everything: look at the first bytes of a connection and hand it to who understands them."""

import errno
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs
import trio

from trio_eventlog.codec.first_bytes import FIRST_BYTES_MAX, FirstBytes, classify_first_bytes, offers_protocol
from trio_eventlog.net.network import join_address
from trio_eventlog.net.peeked_stream import PeekedStream
from trio_eventlog.net.tls import ALPN_HTTP1, ALPN_HTTP2, ALPN_PEER, TlsSource

logger = logging.getLogger(__name__)

ACCEPT_CAPACITY_ERRNOS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
"""The system has no room for one more connection just now; the listener itself is well."""

PEEK_BYTES = 4096


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
        accept_retry_seconds: pause when the system has no room for one more connection.
        close_seconds_max: for saying goodbye to the other side; then the connection is closed without.
        log_interval_seconds: warnings about connections that were turned away, of one reason, are at least so far apart.
    """

    unidentified_connections_max: int = 256
    identify_seconds_max: float = 5.0
    tls_required: bool = False
    accept_retry_seconds: float = 0.1
    close_seconds_max: float = 1.0
    log_interval_seconds: float = 1.0


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


class _TurnedAway(Exception):
    """No handler takes this connection; `reason` is counted, `detail` is logged."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Mux:
    """Accepts, identifies, hands over. One per port.

    Reasons in `MuxStatistics.closed`: `too many unidentified`, `silent`, `unknown bytes`, `closed before identified`,
    `gossip`, `tls not configured`, `tls handshake failed`, `tls required`, `no common protocol`.
    """

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
        if settings.tls_required and tls is None:
            raise ValueError("TLS is required, but there is no certificate to serve it with")
        self._settings = settings
        self._handlers = {FirstBytes.GRPC: grpc, FirstBytes.HTTP: http, FirstBytes.PEER: peer}
        if gossip is not None:
            self._handlers[FirstBytes.GOSSIP] = gossip
        self._tls = tls
        self._accepting = trio.CancelScope()
        self._accepted = 0
        self._open = 0
        self._unidentified = 0
        self._crashed = 0
        self._identified: Counter[str] = Counter()
        self._closed: Counter[str] = Counter()
        self._last_logged: dict[str, float] = {}
        self._suppressed: Counter[str] = Counter()

    async def serve(
        self,
        listener: trio.abc.Listener[trio.abc.Stream],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve `listener` until cancelled; every connection is a task of this call. Closes the listener."""
        async with trio.open_nursery() as nursery:
            async with listener:
                task_status.started()
                with self._accepting:
                    while True:
                        stream = await self._accept(listener)
                        self._accepted += 1
                        if self._unidentified >= self._settings.unidentified_connections_max:
                            # Closing at once costs the flooder a connection; waiting would let him keep others out.
                            self._turn_away("too many unidentified", f"{self._unidentified} connections", stream)
                            await trio.aclose_forcefully(stream)
                            continue
                        self._unidentified += 1
                        self._open += 1
                        nursery.start_soon(self._serve_connection, stream)

    def stop_accepting(self) -> None:
        """Close the door: `serve` returns when the connections it has are over (or it is cancelled)."""
        self._accepting.cancel()

    def statistics(self) -> MuxStatistics:
        """A frozen copy of the counters."""
        return MuxStatistics(
            accepted=self._accepted,
            open_now=self._open,
            unidentified_now=self._unidentified,
            identified=MappingProxyType(dict(self._identified)),
            closed=MappingProxyType(dict(self._closed)),
            crashed=self._crashed,
        )

    async def _accept(self, listener: trio.abc.Listener[trio.abc.Stream]) -> trio.abc.Stream:
        while True:
            try:
                return await listener.accept()
            except OSError as error:
                if error.errno not in ACCEPT_CAPACITY_ERRNOS:
                    raise
                # The connection stays in the backlog; trying again at once would only burn the processor.
                logger.error(
                    "cannot accept a connection (%s); trying again in %g s",
                    os.strerror(error.errno or 0),
                    self._settings.accept_retry_seconds,
                )
                await trio.sleep(self._settings.accept_retry_seconds)

    async def _serve_connection(self, raw: trio.abc.Stream) -> None:
        """One connection from accept to close. Whatever a handler raises ends here; Cancelled and the like go on."""
        peeked = PeekedStream(raw)
        stream: trio.abc.Stream = peeked
        protocol: FirstBytes | None = None
        try:
            (protocol, stream, info) = await self._identify(peeked)
            self._unidentified -= 1
            self._identified[protocol.value] += 1
            await self._handlers[protocol](stream, info)
        except* _TurnedAway as turned_away:
            for one in turned_away.exceptions:
                assert isinstance(one, _TurnedAway)
                self._turn_away(one.reason, one.detail, raw)
        except* (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            logger.debug("connection of %s (%s) broke: %r", remote_address_of(raw), protocol, broken.exceptions[0])
        except* Exception:
            self._crashed += 1
            logger.exception("connection of %s (%s) crashed and is closed", remote_address_of(raw), protocol)
        finally:
            if protocol is None:
                self._unidentified -= 1
            self._open -= 1
            with trio.move_on_after(self._settings.close_seconds_max):
                await _close(stream)

    async def _identify(self, peeked: PeekedStream) -> tuple[FirstBytes, trio.abc.Stream, ConnectionInfo]:
        """The protocol, the stream to speak it on, and what is known of the other side. Raises _TurnedAway."""
        info = ConnectionInfo(remote_address=remote_address_of(peeked.stream))
        stream: trio.abc.Stream = peeked
        with trio.move_on_after(self._settings.identify_seconds_max):
            protocol = await _classify(peeked)
            if protocol is FirstBytes.TLS:
                if self._tls is None:
                    raise _TurnedAway("tls not configured", "a TLS hello, but this node has no certificate")
                is_peer = await _offers_peer_protocol(peeked)
                context = self._tls.peer_server_context() if is_peer else self._tls.server_context()
                tls_stream = trio.SSLStream(peeked, context, server_side=True, https_compatible=True)
                (info, agreed) = await _handshake(tls_stream, info)
                if agreed is not None:
                    return agreed, tls_stream, info
                stream = inner = PeekedStream(tls_stream)
                protocol = await _classify(inner)
                if protocol is FirstBytes.TLS:
                    raise _TurnedAway("unknown bytes", f"TLS within TLS: {inner.peeked[:FIRST_BYTES_MAX].hex(' ')}")
            elif self._settings.tls_required and protocol is not FirstBytes.GOSSIP:
                raise _TurnedAway("tls required", f"{protocol.value} in plaintext")
            if protocol not in self._handlers:
                raise _TurnedAway(protocol.value, "no gossip here")
            return protocol, stream, info
        raise _TurnedAway(
            "silent", f"nothing that tells a protocol in {self._settings.identify_seconds_max:g} s: {_in_hex(peeked)}"
        )

    def _turn_away(self, reason: str, detail: str, stream: trio.abc.Stream) -> None:
        """Count, and log unless the same was logged just now."""
        self._closed[reason] += 1
        now = trio.current_time()
        if now - self._last_logged.get(reason, float("-inf")) < self._settings.log_interval_seconds:
            self._suppressed[reason] += 1
            return
        self._last_logged[reason] = now
        suppressed = self._suppressed.pop(reason, 0)
        logger.warning(
            "closed the connection of %s: %s: %s%s",
            remote_address_of(stream) or "(unknown)",
            reason,
            detail,
            f" ({suppressed} more of these since the last line)" if suppressed else "",
        )


async def _classify(peeked: PeekedStream) -> FirstBytes:
    """Any protocol but NEED_MORE and UNKNOWN, TLS included. Raises _TurnedAway."""
    while (protocol := classify_first_bytes(peeked.peeked)) is FirstBytes.NEED_MORE:
        try:
            has_more = await peeked.peek_more(PEEK_BYTES)
        except trio.BrokenResourceError as error:
            raise _TurnedAway("closed before identified", f"{_in_hex(peeked)}: {error}") from error
        if not has_more:
            raise _TurnedAway("closed before identified", _in_hex(peeked))
    if protocol is FirstBytes.UNKNOWN:
        raise _TurnedAway("unknown bytes", _in_hex(peeked))
    return protocol


async def _offers_peer_protocol(peeked: PeekedStream) -> bool:
    """Whether a TLS hello is that of a node, which is asked for a certificate where a client is not. Raises _TurnedAway."""
    while (offers := offers_protocol(peeked.peeked, ALPN_PEER)) is None:
        try:
            if not await peeked.peek_more(PEEK_BYTES):
                return False
        except trio.BrokenResourceError as error:
            raise _TurnedAway("closed before identified", f"{_in_hex(peeked)}: {error}") from error
    return offers


async def _handshake(stream: "trio.SSLStream[PeekedStream]", info: ConnectionInfo) -> tuple[ConnectionInfo, FirstBytes | None]:
    """Shake hands; the protocol agreed by ALPN, None when the client named none. Raises _TurnedAway."""
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        raise _TurnedAway("tls handshake failed", str(error.__cause__ or error)) from error
    alpn = stream.selected_alpn_protocol()
    info = attrs.evolve(info, is_tls=True, alpn=alpn, peer_certificate=stream.getpeercert() or None)
    return info, None if alpn is None else _ALPN[alpn]


_ALPN = {ALPN_PEER: FirstBytes.PEER, ALPN_HTTP2: FirstBytes.GRPC, ALPN_HTTP1: FirstBytes.HTTP}


def _in_hex(peeked: PeekedStream) -> str:
    head = peeked.peeked[:FIRST_BYTES_MAX]
    return f"first bytes {head.hex(' ')}" if head else "not one byte"


async def _close(stream: trio.abc.Stream) -> None:
    """Close; an other side that is gone already does not matter."""
    try:
        await stream.aclose()
    except trio.BrokenResourceError:
        pass


def remote_address_of(stream: trio.abc.Stream) -> str:
    """ "host:port" of the other side; "" when the stream does not know it or is broken already."""
    if isinstance(stream, trio.SocketStream):
        try:
            name = stream.socket.getpeername()
        except OSError:
            return ""
        return join_address(name[0], name[1]) if isinstance(name, tuple) else ""
    address = getattr(stream, "remote_address", "")
    return address if isinstance(address, str) else ""
