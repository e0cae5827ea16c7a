"""TLS of a client's own connections."""

import ssl

from trio_eventlog.net.tls import ALPN_HTTP2
from trio_eventlog.net.tls import build_client_context as build_context


def build_client_context(authority: str = "", *, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """For `open_client(..., tls=...)`: checks the nodes' certificates, and that they are for the hosts dialled.

    Args:
        authority: path of the certificates that nodes' certificates are checked by; "": the system's.
        certificate, key: paths of what is shown to nodes that ask for a certificate.

    Raises:
        SettingsError: names the file that cannot be used, and says why.
    """
    return build_context(authority, certificate=certificate, key=key, alpn=(ALPN_HTTP2,))
