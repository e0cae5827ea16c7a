"""One TCP port for everything: look at the first bytes of a connection and hand it to who understands them."""

import errno
import ipaddress
import logging
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs
import trio

from trio_eventlog.budgets import Activity, BudgetUse, Standing
from trio_eventlog.codec.first_bytes import FIRST_BYTES_MAX, FirstBytes, classify_first_bytes, offers_protocol
from trio_eventlog.net.network import join_address
from trio_eventlog.net.peeked_stream import PeekedStream
from trio_eventlog.net.tls import ALPN_HTTP1, ALPN_HTTP2, ALPN_PEER, TlsSource

logger = logging.getLogger(__name__)

ACCEPT_CAPACITY_ERRNOS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
"""The system has no room for one more connection just now; the listener itself is well."""

PEEK_BYTES = 4096

PROBES = (b"GET /health", b"GET /ready", b"HEAD /health", b"HEAD /ready")
"""How a probe begins."""
RELIEF_CONNECTIONS = 4
"""Closed at once when the process is short of descriptors."""
IPV6_SHARED_BITS = 64
"""Length of the prefix in which IPv6 addresses of one origin agree: a host that has one of them usually has all."""


@attrs.frozen(slots=True, kw_only=True)
class ConnectionInfo:
    """What is known of an accepted connection.

    Attributes:
        remote_address: "host:port" of the other side, "" when the stream has none.
        peer_certificate: the verified TLS certificate as `ssl.SSLSocket.getpeercert` gives it; None without TLS or certificate.
        alpn: the application protocol agreed in the TLS handshake, or None.
        is_tls: the stream is encrypted.
        standing: where its handler says what the connection does; one that is silent about it is the first to be closed.
    """

    remote_address: str = ""
    peer_certificate: Mapping[str, Any] | None = None
    alpn: str | None = None
    is_tls: bool = False
    standing: Standing = attrs.field(factory=Standing, eq=False, repr=False)


Handler = Callable[[trio.abc.Stream, ConnectionInfo], Awaitable[None]]
"""Serves one connection until it ends. The stream begins with the bytes the mux has peeked at; the mux closes it."""


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class MuxSettings:
    """Limits of the port.

    Attributes:
        inbound_unidentified_max: connections whose protocol is not known yet. For one more, the oldest of the address that has
            most of them is closed.
        inbound_clients_max: connections of clients. For one more, the one that deserves its place least is closed.
        inbound_peers_max: the same of peers (links, gossip).
        inbound_probes_max: connections that begin with a probe, beside those of clients. More count as clients.
        peek_timeout_seconds: from accept to a known protocol, TLS handshake included.
        peek_timeout_seconds_min: what that falls to as the last half of `inbound_unidentified_max` fills up.
        tls_required: plaintext gRPC, HTTP and peer links are refused.
        accept_retry_seconds: pause when the system has no room for one more connection.
        close_seconds_max: for saying goodbye to the other side; then the connection is closed without.
        log_interval_seconds: interval between two warnings about connections that were refused for the same reason.
    """

    inbound_unidentified_max: int
    inbound_clients_max: int
    inbound_peers_max: int
    inbound_probes_max: int
    peek_timeout_seconds: float
    peek_timeout_seconds_min: float
    tls_required: bool
    accept_retry_seconds: float
    close_seconds_max: float
    log_interval_seconds: float


@attrs.frozen(slots=True, kw_only=True)
class MuxStatistics:
    """Counters since the start."""

    accepted: int
    open_now: int
    unidentified_now: int
    identified: Mapping[str, int]
    """By protocol: grpc, http, peer."""
    closed: Mapping[str, int]
    """Connections that were turned away or pushed out, by reason."""
    crashed: int
    """Handlers that raised."""


class _TurnedAway(Exception):
    """No handler takes this connection; `reason` is counted, `detail` is logged."""

    def __init__(self, reason: str, detail: str, level: int = logging.WARNING) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.level = level


@attrs.define(slots=True, eq=False, kw_only=True)
class _Connection:
    """An accepted connection.

    Attributes:
        raw: as it was accepted.
        origin: addresses that count as one in shares.
        accepted_at: by Trio's clock.
        pushed_out_as: why it has to make room for another one; "" when it has not.
    """

    raw: trio.abc.Stream
    origin: str
    accepted_at: float
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    standing: Standing = attrs.field(factory=Standing)
    pushed_out_as: str = ""

    @property
    def activity(self) -> Activity:
        return Activity(last_active=self.accepted_at) if self.standing.look is None else self.standing.look()


class _Places:
    """Connections of one kind, never more than `limit`: a newcomer gets the place of another one.

    Who is refused when all places are taken can be kept out for ever by who took them first, at no cost. Who is let in can be kept
    out only by somebody who keeps connecting, and then the newest of him lose their places first.
    """

    def __init__(self, name: str, reason: str, limit: int) -> None:
        self.name = name
        self.reason = reason
        self.limit = limit
        self.pushed_out = 0
        self.by_origin: dict[str, dict[_Connection, None]] = {}
        self.count = 0
        self._candidates: deque[tuple[_Connection, int]] = deque()

    def __contains__(self, connection: _Connection) -> bool:
        return connection in self.by_origin.get(connection.origin, ())

    def add(self, connection: _Connection) -> None:
        self.by_origin.setdefault(connection.origin, {})[connection] = None
        self.count += 1

    def discard(self, connection: _Connection) -> None:
        if connection in self:
            of_origin = self.by_origin[connection.origin]
            del of_origin[connection]
            self.count -= 1
            if not of_origin:
                del self.by_origin[connection.origin]

    def oldest_of_most(self) -> _Connection:
        """The oldest connection of the origin that has most; there is one."""
        origin = max(self.by_origin.values(), key=lambda found: (len(found), -next(iter(found)).accepted_at))
        return next(iter(origin))

    def least_deserving(self) -> _Connection | None:
        """First connections that have not asked for anything yet, then those of origins with more than half of the places, then
        idle ones.

        Looking at all of them for each newcomer would be work that newcomers cause: a sixteenth is chosen at a time.
        """
        while self.count:
            while self._candidates:
                (connection, requests) = self._candidates.popleft()
                if connection in self and connection.activity.requests == requests:
                    return connection
            ranked = sorted(
                (self._rank(connection.activity, len(found)), number, connection)
                for number, (found, connection) in enumerate(
                    (found, connection) for found in self.by_origin.values() for connection in found
                )
            )
            chosen = ranked[: len(ranked) // 16 + 1]
            self._candidates.extend((connection, connection.activity.requests) for (_, _, connection) in chosen)
        return None

    def _rank(self, activity: Activity, of_origin: int) -> tuple[bool, bool, bool, float]:
        return (activity.requests > 0, of_origin * 2 <= self.limit, activity.open_calls > 0, activity.last_active)

    def use(self) -> BudgetUse:
        return BudgetUse(name=self.name, limit=self.limit, used=self.count, refused=self.pushed_out)


class Mux:
    """Accepts, identifies, hands over. One per port.

    Reasons in `MuxStatistics.closed`: `too many unidentified`, `too many clients`, `too many peers`, `no descriptors`, `silent`,
    `unknown bytes`, `closed before identified`, `gossip`, `syslog`, `tls not configured`, `tls handshake failed`, `tls required`,
    `no common protocol`.
    """

    def __init__(
        self,
        settings: MuxSettings,
        *,
        grpc: Handler,
        http: Handler,
        peer: Handler,
        gossip: Handler | None = None,
        syslog: Handler | None = None,
        tls: TlsSource | None = None,
    ) -> None:
        if settings.tls_required and tls is None:
            raise ValueError("TLS is required, but there is no certificate to serve it with")
        self._settings = settings
        self._handlers = {FirstBytes.GRPC: grpc, FirstBytes.HTTP: http, FirstBytes.PEER: peer}
        if gossip is not None:
            self._handlers[FirstBytes.GOSSIP] = gossip
        if syslog is not None:
            self._handlers[FirstBytes.SYSLOG] = syslog
        self._tls = tls
        self._accepting = trio.CancelScope()
        self._accepted = 0
        self._open = 0
        self._unidentified = _Places("new connections", "too many unidentified", settings.inbound_unidentified_max)
        self._clients = _Places("connections of clients", "too many clients", settings.inbound_clients_max)
        self._peers = _Places("connections of peers", "too many peers", settings.inbound_peers_max)
        self._probes = _Places("connections of probes", "too many probes", settings.inbound_probes_max)
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
                        self._open += 1
                        connection = _Connection(
                            raw=stream, origin=_origin(remote_address_of(stream)), accepted_at=trio.current_time()
                        )
                        places = self._unidentified
                        while places.count >= places.limit:
                            self._push_out(places.oldest_of_most(), places)
                        places.add(connection)
                        nursery.start_soon(self._serve_connection, connection)

    def stop_accepting(self) -> None:
        """Close the door: `serve` returns when the connections it has are over (or it is cancelled)."""
        self._accepting.cancel()

    def statistics(self) -> MuxStatistics:
        """A frozen copy of the counters."""
        return MuxStatistics(
            accepted=self._accepted,
            open_now=self._open,
            unidentified_now=self._unidentified.count,
            identified=MappingProxyType(dict(self._identified)),
            closed=MappingProxyType(dict(self._closed)),
            crashed=self._crashed,
        )

    def budgets(self) -> list[BudgetUse]:
        """The places of the port, and which connections have them."""
        return [places.use() for places in (self._clients, self._peers, self._probes, self._unidentified)]

    def relieve(self) -> None:
        """Close a few connections that deserve their place least: the process is short of descriptors. Peers keep theirs."""
        for _ in range(RELIEF_CONNECTIONS):
            if self._unidentified.count:
                self._push_out(self._unidentified.oldest_of_most(), self._unidentified, "no descriptors")
            elif (connection := self._clients.least_deserving()) is not None:
                self._push_out(connection, self._clients, "no descriptors")

    def _push_out(self, connection: _Connection, places: _Places, reason: str = "") -> None:
        """Its place is free at once; its task closes it before the loop waits for anything."""
        connection.pushed_out_as = reason or places.reason
        places.pushed_out += 1
        places.discard(connection)
        connection.scope.cancel()

    def _give_place(self, connection: _Connection, protocol: FirstBytes, peeked: bytes) -> _Places:
        """Move it from the unidentified to its kind."""
        self._unidentified.discard(connection)
        places = self._clients
        if protocol in (FirstBytes.PEER, FirstBytes.GOSSIP):
            places = self._peers
        elif protocol is FirstBytes.HTTP and peeked.startswith(PROBES) and self._probes.count < self._probes.limit:
            places = self._probes
        while places.count >= places.limit and (victim := places.least_deserving()) is not None:
            self._push_out(victim, places)
        places.add(connection)
        return places

    def _identify_seconds(self) -> float:
        """How long a newcomer may take: the less, the fewer places are left."""
        settings = self._settings
        pressure = max(2 * self._unidentified.count / settings.inbound_unidentified_max - 1, 0.0)
        least = min(settings.peek_timeout_seconds_min, settings.peek_timeout_seconds)
        return settings.peek_timeout_seconds - min(pressure, 1.0) * (settings.peek_timeout_seconds - least)

    async def _accept(self, listener: trio.abc.Listener[trio.abc.Stream]) -> trio.abc.Stream:
        while True:
            try:
                return await listener.accept()
            except OSError as error:
                if error.errno not in ACCEPT_CAPACITY_ERRNOS:
                    raise
                # The connection stays in the backlog; trying again at once would only burn the processor.
                text = os.strerror(error.errno or 0)
                self._log(logging.ERROR, text, "cannot accept a connection (%s)%s", text)
                self.relieve()
                await trio.sleep(self._settings.accept_retry_seconds)

    async def _serve_connection(self, connection: _Connection) -> None:
        """One connection from accept to close. Whatever a handler raises ends here; Cancelled and the like go on."""
        raw = connection.raw
        peeked = PeekedStream(raw)
        stream: trio.abc.Stream = peeked
        protocol: FirstBytes | None = None
        places = self._unidentified
        try:
            with connection.scope:
                (protocol, stream, info) = await self._identify(connection, peeked)
                places = self._give_place(connection, protocol, peeked.peeked or getattr(stream, "peeked", b""))
                self._identified[protocol.value] += 1
                await self._handlers[protocol](stream, info)
        except* _TurnedAway as turned_away:
            for one in turned_away.exceptions:
                assert isinstance(one, _TurnedAway)
                self._turn_away(one.reason, one.detail, raw, one.level)
        except* (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            logger.debug("connection of %s (%s) broke: %r", remote_address_of(raw), protocol, broken.exceptions[0])
        except* Exception:
            self._crashed += 1
            logger.exception("connection of %s (%s) crashed and is closed", remote_address_of(raw), protocol)
        finally:
            places.discard(connection)
            self._open -= 1
            if connection.pushed_out_as:
                self._turn_away(connection.pushed_out_as, f"{places.count} {places.name}", raw)
                await trio.aclose_forcefully(raw)
            with trio.move_on_after(self._settings.close_seconds_max):
                await _close(stream)

    async def _identify(self, connection: _Connection, peeked: PeekedStream) -> tuple[FirstBytes, trio.abc.Stream, ConnectionInfo]:
        """The protocol, the stream to speak it on, and what is known of the other side. Raises _TurnedAway."""
        info = ConnectionInfo(remote_address=remote_address_of(peeked.stream), standing=connection.standing)
        stream: trio.abc.Stream = peeked
        seconds = self._identify_seconds()
        with trio.move_on_after(seconds):
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
            if protocol is FirstBytes.KAFKA:
                raise _TurnedAway("kafka", "Kafka's protocol is not spoken here: use the gRPC or the HTTP interface of this port")
            if protocol not in self._handlers:
                raise _TurnedAway(protocol.value, f"no {protocol.value} here")
            return protocol, stream, info
        raise _TurnedAway("silent", f"nothing that tells a protocol in {seconds:g} s: {_in_hex(peeked)}")

    def _turn_away(self, reason: str, detail: str, stream: trio.abc.Stream, level: int = logging.WARNING) -> None:
        """Count, and log unless the same was logged just now."""
        self._closed[reason] += 1
        address = remote_address_of(stream) or "(unknown)"
        self._log(level, reason, "closed the connection of %s: %s: %s%s", address, reason, detail)

    def _log(self, level: int, reason: str, text: str, *arguments: str) -> None:
        """Log `text`, which ends in %s for how many were left out, unless the same reason was logged just now."""
        now = trio.current_time()
        if now - self._last_logged.get(reason, float("-inf")) < self._settings.log_interval_seconds:
            self._suppressed[reason] += 1
            return
        self._last_logged[reason] = now
        suppressed = self._suppressed.pop(reason, 0)
        logger.log(level, text, *arguments, f" ({suppressed} more of these since the last line)" if suppressed else "")


def _origin(remote_address: str) -> str:
    """What counts as one address in shares."""
    host = remote_address.rpartition(":")[0]
    if ":" in host:
        try:
            return str(ipaddress.ip_network(f"{host.strip('[]').partition('%')[0]}/{IPV6_SHARED_BITS}", strict=False))
        except ValueError:
            return host
    return host


async def _classify(peeked: PeekedStream) -> FirstBytes:
    """Any protocol but NEED_MORE and UNKNOWN, TLS included. Raises _TurnedAway."""
    while (protocol := classify_first_bytes(peeked.peeked)) is FirstBytes.NEED_MORE:
        try:
            has_more = await peeked.peek_more(PEEK_BYTES)
        except trio.BrokenResourceError as error:
            raise _TurnedAway("closed before identified", f"{_in_hex(peeked)}: {error}", _level_of_leaving(peeked)) from error
        if not has_more:
            raise _TurnedAway("closed before identified", _in_hex(peeked), _level_of_leaving(peeked))
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


def _level_of_leaving(peeked: PeekedStream) -> int:
    """A connection that is opened and closed is what balancers and supervisors call a probe."""
    return logging.WARNING if peeked.peeked else logging.DEBUG


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
