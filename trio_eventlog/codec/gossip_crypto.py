"""The keyring that encrypts gossip: AES-GCM, the first key encrypts, every key decrypts.

A sealed blob is: version (1), 12 bytes of nonce, ciphertext, 16 bytes of tag. Version 0 is the same with the plaintext padded
after PKCS#7; only the first protocol version wrote it, and it is read here.

The package `cryptography` is imported when the first keyring is made: a node without one does not need it.
"""

import base64
import binascii
import importlib
import random
from collections.abc import Iterable
from typing import Any

from trio_eventlog.errors import CodecError, SettingsError

KEY_SIZES_BYTES = (16, 24, 32)
NONCE_BYTES = 12
TAG_BYTES = 16
SEALED_OVERHEAD_BYTES = 1 + NONCE_BYTES + TAG_BYTES
KEYS_MAX = 32
"""Keys in one ring: every one is tried on a packet that none opens."""
VERSION_PADDED = 0
VERSION = 1
_BLOCK_BYTES = 16


class Keyring:
    """Keys, the primary first. Changed while gossip runs, by key queries.

    Arguments:
        keys: 16, 24 or 32 bytes each; the first is the primary; repeated ones count once.
        rng: makes the nonces; `random.SystemRandom()` outside of tests, since a nonce must never come twice.

    Raises:
        SettingsError: no key, a key of another size, too many keys, or the package `cryptography` is missing.
    """

    def __init__(self, keys: Iterable[bytes], rng: random.Random) -> None:
        try:
            self._cipher_of: Any = importlib.import_module("cryptography.hazmat.primitives.ciphers.aead").AESGCM
            self._invalid_tag: Any = importlib.import_module("cryptography.exceptions").InvalidTag
        except ImportError as error:
            raise SettingsError(
                "a gossip keyring needs the package `cryptography`: pip install 'trio-eventlog[gossip-encryption]'"
            ) from error
        self._rng = rng
        self._ciphers: dict[bytes, Any] = {}
        for key in keys:
            self.install(key)
        if not self._ciphers:
            raise SettingsError("a gossip keyring needs at least one key")

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All keys, the primary first."""
        return tuple(self._ciphers)

    @property
    def primary(self) -> bytes:
        """The key that encrypts."""
        return next(iter(self._ciphers))

    def install(self, key: bytes) -> None:
        """Decrypt with `key` too. Raises SettingsError for a wrong size or one key too many."""
        if len(key) not in KEY_SIZES_BYTES:
            raise SettingsError(f"a gossip key has 16, 24 or 32 bytes, not {len(key)}")
        if key not in self._ciphers:
            if len(self._ciphers) >= KEYS_MAX:
                raise SettingsError(f"{KEYS_MAX} gossip keys are installed already: remove one first")
            self._ciphers[key] = self._cipher_of(key)

    def use(self, key: bytes) -> None:
        """Encrypt with `key`. Raises SettingsError when it is not installed."""
        if key not in self._ciphers:
            raise SettingsError("the requested key is not in the keyring")
        others = {other: cipher for other, cipher in self._ciphers.items() if other != key}
        self._ciphers = {key: self._ciphers[key], **others}

    def remove(self, key: bytes) -> None:
        """Forget `key`; one that is not there is forgotten already. Raises SettingsError for the primary key."""
        if key == self.primary:
            raise SettingsError("removing the primary key is not allowed: use another one first")
        self._ciphers.pop(key, None)

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Encrypt under the primary key; `associated` is authenticated with it."""
        nonce = self._rng.randbytes(NONCE_BYTES)
        sealed: bytes = self._ciphers[self.primary].encrypt(nonce, plaintext, associated)
        return b"".join((bytes((VERSION,)), nonce, sealed))

    def open(self, blob: bytes, associated: bytes) -> bytes:
        """The plaintext. Raises CodecError when no key opens it, or it is no blob."""
        if not blob or blob[0] not in (VERSION, VERSION_PADDED):
            raise CodecError("gossip: not encrypted, or in a way this release does not know")
        if len(blob) < SEALED_OVERHEAD_BYTES:
            raise CodecError(f"gossip: {len(blob)} bytes are too few for an encrypted message")
        nonce = blob[1 : 1 + NONCE_BYTES]
        sealed = blob[1 + NONCE_BYTES :]
        for cipher in self._ciphers.values():
            try:
                plaintext: bytes = cipher.decrypt(nonce, sealed, associated)
            except self._invalid_tag:
                continue
            return _unpad(plaintext) if blob[0] == VERSION_PADDED else plaintext
        raise CodecError("gossip: no installed key decrypts the message")


def _unpad(padded: bytes) -> bytes:
    count = padded[-1] if padded else 0
    if not 1 <= count <= _BLOCK_BYTES or count > len(padded):
        raise CodecError("gossip: wrong padding of an encrypted message")
    return padded[:-count]


def encode_key(key: bytes) -> str:
    """The form in key files and key answers: base64."""
    return base64.b64encode(key).decode()


def decode_key(text: str) -> bytes:
    """The inverse. Raises SettingsError; the text is never shown, it may be nearly a key."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SettingsError(f"a gossip key is not base64: {error}") from error
    if len(key) not in KEY_SIZES_BYTES:
        raise SettingsError(f"a gossip key has 16, 24 or 32 bytes, not {len(key)}")
    return key


def parse_key_file(text: str) -> list[bytes]:
    """The keys of a key file: base64, one a line, the first encrypts; empty lines and lines from # are skipped.

    A JSON list of base64 texts, as `serf` keeps its keyring, is read too. Raises SettingsError.
    """
    stripped = text.strip()
    if stripped.startswith("["):
        lines = [part.strip().strip('"') for part in stripped.strip("[]").split(",")]
    else:
        lines = stripped.splitlines()
    return [decode_key(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def format_key_file(keys: Iterable[bytes]) -> str:
    """What `parse_key_file` reads: for saving the keyring after `KeysChanged`."""
    return "".join(f"{encode_key(key)}\n" for key in keys)
