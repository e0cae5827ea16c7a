"""TLS contexts from files, and the seam through which they are asked for anew."""

import ipaddress
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs

from trio_eventlog.errors import SettingsError
from trio_eventlog.net.certificate_dates import expiry_of_pem
from trio_eventlog.setting_fields import is_ip_address

ALPN_PEER = "trio-eventlog-peer/1"
ALPN_HTTP2 = "h2"
ALPN_HTTP1 = "http/1.1"
HANDSHAKE_TURNS = 4
"""Flights of TLS 1.2; 1.3 has one less."""
SERVER_ALPN = (ALPN_PEER, ALPN_HTTP1, ALPN_HTTP2)
"""In the server's order of preference: a client that offers several gets the first of these. Browsers, curl and HTTP probes
offer both versions of HTTP and want HTTP, which is spoken here as HTTP/1.1; gRPC clients offer `h2` alone."""


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class TlsSettings:
    """Paths of PEM files.

    Attributes:
        certificate: chain of this node (server side, and client side towards peers).
        key: its private key.
        authority: who signs the others; "" takes the system's authorities.
        require_client_certificate: mutual TLS: every client has to show a certificate of `authority`.
    """

    certificate: str
    key: str
    authority: str
    require_client_certificate: bool
    peer_name: str
    """The name that every node's certificate carries; "": it is for the host that the node advertises."""


class TlsSource(Protocol):
    """Asked for every connection, so that certificates can be renewed while a node runs."""

    @property
    def peer_name(self) -> str:
        """The name that other nodes' certificates have to be for; "": the host where each is."""
        ...

    def server_context(self) -> ssl.SSLContext:
        """For accepted connections: offers the peer protocol, h2 and http/1.1."""
        ...

    def peer_server_context(self) -> ssl.SSLContext:
        """For accepted connections that offer the peer protocol: as `server_context`, and asks for a certificate."""
        ...

    def peer_context(self) -> ssl.SSLContext:
        """For dialling peers: offers the peer protocol, shows our certificate, checks theirs and the name it is for."""
        ...

    def grpc_context(self) -> ssl.SSLContext:
        """For dialling other nodes in the name of a client: offers h2, else as `peer_context`."""
        ...


def names_peer(certificate: Mapping[str, Any], peer_name: str) -> bool:
    """Whether a verified certificate carries the name that only nodes' certificates have: as it is, and not by a `*`, which stands
    for hosts of every kind."""
    names: Sequence[tuple[str, str]] = certificate.get("subjectAltName", ())
    return certificate_is_for({"subjectAltName": [(kind, value) for kind, value in names if "*" not in value]}, peer_name)


def certificate_is_for(certificate: Mapping[str, Any], host: str) -> bool:
    """Whether a verified certificate, as `ssl.SSLSocket.getpeercert` gives it, names `host`.

    By the rules that OpenSSL has for servers, without the obsolete ones: an IP address is named as such, a DNS name as it is or
    with a `*` in place of its first label, of three or more; the subject is not looked at (RFC 9525).
    """
    names: Sequence[tuple[str, str]] = certificate.get("subjectAltName", ())
    if is_ip_address(host):
        wanted_address = ipaddress.ip_address(host)
        return any(
            kind == "IP Address" and is_ip_address(value) and ipaddress.ip_address(value) == wanted_address for kind, value in names
        )
    try:
        wanted = host.removesuffix(".").encode("idna").decode().lower()
    except UnicodeError:
        return False
    _, _, parent = wanted.partition(".")
    known = {value.lower() for kind, value in names if kind == "DNS"}
    return "*" not in wanted and (wanted in known or ("." in parent and f"*.{parent}" in known))


def names_of_certificate(certificate: Mapping[str, Any]) -> str:
    """Whom a certificate is for, in words."""
    return ", ".join(value for _, value in certificate.get("subjectAltName", ())) or "nobody by name"


def build_server_context(settings: TlsSettings, *, for_peers: bool = False) -> ssl.SSLContext:
    """Raises SettingsError naming the file that cannot be used, and why."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _prepare(context, settings.certificate, settings.key, SERVER_ALPN)
    if for_peers and settings.authority and not settings.require_client_certificate:
        # Who shows none is refused in words, which says more than the alert of a handshake.
        context.verify_mode = ssl.CERT_OPTIONAL
        _load_authority(context, settings.authority)
    if settings.require_client_certificate:
        if not settings.authority:
            raise SettingsError("TLS: client certificates are required, but no authority (--tls-ca) to check them is given")
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authority(context, settings.authority)
    return context


def build_client_context(
    authority: str = "", *, certificate: str = "", key: str = "", alpn: tuple[str, ...] = (ALPN_PEER,)
) -> ssl.SSLContext:
    """For dialling: checks the other side's certificate and that it is for the host dialled.

    Without `authority` the system's authorities are taken; `certificate` and `key` are shown to servers that ask for them.
    Raises SettingsError naming the file that cannot be used, and why.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _prepare(context, certificate, key, alpn)
    if authority:
        _load_authority(context, authority)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _prepare(context: ssl.SSLContext, certificate: str, key: str, alpn: tuple[str, ...]) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(alpn))
    if not certificate and not key:
        return
    for name, path in (("certificate", certificate), ("key", key)):
        if not path:
            raise SettingsError(f"TLS: the {name} is missing: certificate and key are given together")
        _check_readable(name, path)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(f"TLS: the key {key} is not the key of the certificate {certificate}") from error
        raise SettingsError(f"TLS: {certificate} and {key} are no PEM certificate and key: {error}") from error


def _load_authority(context: ssl.SSLContext, authority: str) -> None:
    _check_readable("authority", authority)
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError as error:
        raise SettingsError(f"TLS: the authority {authority} has no PEM certificate: {error}") from error


def _check_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise SettingsError(f"TLS: cannot read the {name} {path}: {error.strerror}") from error


def _no_password() -> str:
    # Without this OpenSSL asks at the terminal, and a daemon hangs.
    raise SettingsError("TLS: the key is encrypted; give one without a password, readable by the daemon only")


def why_refused_by_peers(source: TlsSource, host: str) -> str:
    """What a node with the same settings would have against our certificate if we advertised `host`; "" when nothing.

    A handshake with ourselves, in memory. A process that is refused in a handshake does not learn why, so the reason is shown here.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        source.peer_context().wrap_bio(to_client, to_server, server_hostname=source.peer_name or host),
        source.peer_server_context().wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(HANDSHAKE_TURNS):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            except ssl.SSLError as error:
                return str(error)
    if source.peer_name:
        shown = sides[0].getpeercert() or {}
        if not names_peer(shown, source.peer_name):
            return f"it carries {source.peer_name} by a wildcard only, and is for {names_of_certificate(shown)}"
    return ""


def _expiry(certificate: str) -> float | None:
    try:
        return expiry_of_pem(Path(certificate).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # OpenSSL says what is wrong with it, if anything is.


class FileTls:
    """A `TlsSource` over files, read when constructed and on `reload`.

    Attributes:
        expires_at: until when the certificate is valid, in seconds since 1970 UTC; None when that cannot be read.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self.settings = settings
        self.expires_at = _expiry(settings.certificate)
        self._server = build_server_context(settings)
        self._peer_server = build_server_context(settings, for_peers=True)
        self._peer = self._build_client(ALPN_PEER)
        self._grpc = self._build_client(ALPN_HTTP2)

    def reload(self) -> None:
        """Read the files again. When they cannot be used, SettingsError, and the contexts stay as they are."""
        fresh = FileTls(self.settings)
        self.expires_at = fresh.expires_at
        (self._server, self._peer_server) = (fresh._server, fresh._peer_server)
        (self._peer, self._grpc) = (fresh._peer, fresh._grpc)

    @property
    def peer_name(self) -> str:
        return self.settings.peer_name

    def server_context(self) -> ssl.SSLContext:
        return self._server

    def peer_server_context(self) -> ssl.SSLContext:
        return self._peer_server

    def peer_context(self) -> ssl.SSLContext:
        return self._peer

    def grpc_context(self) -> ssl.SSLContext:
        return self._grpc

    def _build_client(self, protocol: str) -> ssl.SSLContext:
        return build_client_context(
            self.settings.authority, certificate=self.settings.certificate, key=self.settings.key, alpn=(protocol,)
        )
