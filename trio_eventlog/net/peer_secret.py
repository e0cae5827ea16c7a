"""The file with the secret that nodes share, and the seam through which it is asked for anew."""

import logging
import os
import stat

from trio_eventlog.codec.peer_secret import PeerSecrets, parse_secrets
from trio_eventlog.errors import SettingsError

logger = logging.getLogger(__name__)

FILE_BYTES_MAX = 64 * 1024
HOW_TO_MAKE = "Make one with: openssl rand -base64 32"


class SecretFile:
    """The secrets of a file, read when constructed and on `reload`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._secrets = self._read()

    def secrets(self) -> PeerSecrets:
        """Those read last."""
        return self._secrets

    def reload(self) -> None:
        """Read the file again. When it cannot be used, SettingsError, and the secrets stay as they are."""
        self._secrets = self._read()

    def _read(self) -> PeerSecrets:
        try:
            with open(self._path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(FILE_BYTES_MAX + 1)
            if len(data) > FILE_BYTES_MAX:
                raise SettingsError(f"it has more than {FILE_BYTES_MAX} bytes")
            secrets = parse_secrets(data)
        except (OSError, SettingsError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise SettingsError(f"peer_secret_file {self._path}: {reason}. {HOW_TO_MAKE}.") from error
        if mode & stat.S_IROTH:
            logger.warning("peer_secret_file %s can be read by every user of this machine: chmod 600", self._path)
        return secrets
