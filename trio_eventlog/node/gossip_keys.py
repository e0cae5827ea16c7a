"""The file that the gossip keyring is read from at start, and written back to when a key query has changed the ring."""

import logging
import random

import trio

from trio_eventlog.codec.gossip_crypto import Keyring, format_key_file, parse_key_file
from trio_eventlog.errors import EventLogError, SettingsError
from trio_eventlog.storage.disk import Disk, read_whole, write_atomically

logger = logging.getLogger(__name__)

KEY_FILE_BYTES_MAX = 64 * 1024
KEY_FILE_MODE = 0o600
HOW_TO_MAKE = "Make one with `head -c 32 /dev/urandom | base64 > FILE`, and give the same to every node"


class KeyFile:
    """A keyring and its file. Made by `open`.

    Attributes:
        keyring: for the gossip driver, which changes it.
    """

    def __init__(self, disk: Disk, path: str, keyring: Keyring) -> None:
        self.keyring = keyring
        self._disk = disk
        self._path = path
        self._changed = trio.Event()

    @classmethod
    async def open(cls, disk: Disk, path: str, rng: random.Random) -> "KeyFile":
        """Read the keys. Raises SettingsError, which names the file and never shows a key."""
        try:
            data = await read_whole(disk, path, KEY_FILE_BYTES_MAX)
            if len(data) > KEY_FILE_BYTES_MAX:
                raise SettingsError(f"it has more than {KEY_FILE_BYTES_MAX} bytes")
            keyring = Keyring(parse_key_file(data.decode("ascii")), rng)
        except UnicodeDecodeError:
            raise SettingsError(f"gossip_key_file {path}: it is not text. {HOW_TO_MAKE}.") from None
        except (OSError, EventLogError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SettingsError(f"gossip_key_file {path}: {reason}. {HOW_TO_MAKE}.") from error
        return cls(disk, path, keyring)

    def on_changed(self) -> None:
        """The keyring is another one now."""
        self._changed.set()

    async def run(self) -> None:
        """Write the file whenever the keyring has changed, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            try:
                # The cluster goes on with these keys: a node that stops right now must come back with them.
                with trio.CancelScope(shield=True):
                    text = format_key_file(self.keyring.keys)
                    await write_atomically(self._disk, self._path, text.encode(), mode=KEY_FILE_MODE)
            except (OSError, EventLogError) as error:
                logger.error(
                    "%s: the gossip keys were changed and could not be saved: %s. Put the new keys there before this node"
                    " restarts, or it will not understand the others",
                    self._path,
                    error,
                )
            else:
                logger.info("%s: saved the gossip keys after a change; there are %d", self._path, len(self.keyring.keys))
