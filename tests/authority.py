"""Certificates made for a test, in files as an operator has them."""

import ssl
from pathlib import Path
from typing import Any

import trustme

from trio_eventlog.net.tls import TlsSettings
from trio_eventlog.testing.defaults import default


class Authority:
    """Issues certificates into files of a folder, which it makes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self.path = str(folder / "ca.pem")
        folder.mkdir()
        self._authority.cert_pem.write_to_path(self.path)

    def issue(self, *names: str, peer_name: str = "", authority: str = "", **options: Any) -> TlsSettings:
        """Settings of a node (which trusts `authority`, this one by default) with a certificate for `names`."""
        issued = self._authority.issue_cert(*names, **options)
        base = self._folder / f"{len(list(self._folder.iterdir()))}"
        for blob in issued.cert_chain_pems:
            blob.write_to_path(f"{base}.pem", append=True)
        issued.private_key_pem.write_to_path(f"{base}.key")
        return default(
            TlsSettings, certificate=f"{base}.pem", key=f"{base}.key", authority=authority or self.path, peer_name=peer_name
        )


def contexts_for(*names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server with a certificate for `names`, and a client that trusts its authority; no files."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client
