"""TLS contexts from files, and the seam through which they are asked for anew."""

import ssl
from typing import Protocol

import attrs

ALPN_PEER = "trio-eventlog-peer/1"
ALPN_HTTP2 = "h2"
ALPN_HTTP1 = "http/1.1"


@attrs.frozen(slots=True, kw_only=True)
class TlsSettings:
    """Paths of PEM files.

    Attributes:
        certificate: chain of this node (server side, and client side towards peers).
        key: its private key.
        authority: who signs the others; "" takes the system's authorities.
        require_client_certificate: mutual TLS: whoever connects must show a certificate of `authority`.
    """

    certificate: str
    key: str
    authority: str = ""
    require_client_certificate: bool = False


class TlsSource(Protocol):
    """Asked for every connection, so that certificates can be renewed while a node runs."""

    def server_context(self) -> ssl.SSLContext:
        """For accepted connections: offers the peer protocol, h2 and http/1.1."""
        ...

    def peer_context(self) -> ssl.SSLContext:
        """For dialling peers: offers the peer protocol, shows our certificate, checks theirs and the host dialled."""
        ...


def build_server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Raises SettingsError naming the file that cannot be used, and why."""
    raise NotImplementedError


def build_client_context(
    authority: str = "", *, certificate: str = "", key: str = "", alpn: tuple[str, ...] = (ALPN_PEER,)
) -> ssl.SSLContext:
    """For dialling. Raises SettingsError naming the file that cannot be used, and why."""
    raise NotImplementedError


class FileTls:
    """A `TlsSource` over files, read when constructed and on `reload`."""

    def __init__(self, settings: TlsSettings) -> None:
        raise NotImplementedError

    def reload(self) -> None:
        """Read the files again. When they cannot be used, SettingsError, and the contexts stay as they are."""
        raise NotImplementedError

    def server_context(self) -> ssl.SSLContext:
        raise NotImplementedError

    def peer_context(self) -> ssl.SSLContext:
        raise NotImplementedError
