"""What a node proves itself with, and what it says when it can prove too little: certificates, the peer secret, warnings."""

import logging

from trio_eventlog import part_settings
from trio_eventlog.agent.identity import Identity
from trio_eventlog.codec.peer_secret import PeerSecrets
from trio_eventlog.net.network import Network, split_address
from trio_eventlog.net.peer_secret import SecretFile
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.net.tls import FileTls, why_refused_by_peers
from trio_eventlog.settings import NodeSettings, is_loopback

logger = logging.getLogger(__name__)

ANYBODY_IS_A_NODE = (
    "any process that reaches {} can act as a node of this cluster, lead it and write anything: there is no TLS and no peer secret."
    " Give all nodes a peer_secret_file, or TLS with tls_peer_name, or let only nodes reach the port"
)
HOSTS_ARE_NODES = (
    "who has a certificate of tls_ca for a host where it can listen can be a node of this cluster: give the certificates of nodes"
    " a name that no client's has (tls_peer_name), or all nodes a peer_secret_file"
)


class Credentials:
    """The certificates and the peer secret of a node, read from their files when it starts and on `reload`.

    Attributes:
        tls: None: plaintext.

    Raises:
        SettingsError: the files cannot be used.
    """

    def __init__(self, settings: NodeSettings, identity: Identity, network: Network) -> None:
        self._settings = settings
        self._identity = identity
        self._network = network
        tls_settings = part_settings.tls(settings)
        self.tls = FileTls(tls_settings) if tls_settings is not None else None
        self._secret_file = SecretFile(settings.peer_secret_file) if settings.peer_secret_file else None
        self._check_certificate()

    def peer_secrets(self) -> PeerSecrets:
        return self._secret_file.secrets() if self._secret_file is not None else PeerSecrets()

    def expires_at(self) -> float | None:
        """Until when the node's certificate is valid, in seconds since 1970 UTC; None: it has none, or none that can be read."""
        return self.tls.expires_at if self.tls is not None else None

    def reload(self) -> None:
        """Read the files again.

        Raises:
            SettingsError: they cannot be used; those read before stay in use.
        """
        if self._secret_file is not None:
            self._secret_file.reload()
        if self.tls is not None:
            self.tls.reload()
            self._check_certificate()

    def exposure(self) -> str:
        """Why a stranger can act as a node of this cluster; "" when none can. A simulated network has no strangers."""
        if self.peer_secrets() or not isinstance(self._network, RealNetwork):
            return ""
        if self.tls is not None:
            return HOSTS_ARE_NODES if self._settings.tls_ca and not self._settings.tls_peer_name else ""
        addresses = (self._identity.listening_on, self._identity.address)
        beyond = [address for address in addresses if not is_loopback(split_address(address)[0])]
        return ANYBODY_IS_A_NODE.format(beyond[0]) if beyond else ""

    def _check_certificate(self) -> None:
        """Log why other nodes will refuse this node's certificate, if there are to be other nodes."""
        settings = self._settings
        if self.tls is not None and (settings.join or settings.bootstraps > 1):
            reason = why_refused_by_peers(self.tls, split_address(self._identity.address)[0])
            if reason:
                logger.warning("other nodes will not accept the certificate %s of this one: %s", settings.tls_cert, reason)
