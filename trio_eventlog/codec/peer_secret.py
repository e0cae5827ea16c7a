"""How nodes that share a secret prove it to each other, without showing it.

Both sides have shown a nonce in their hellos (`Challenge`). Each then proves itself with an HMAC over both hellos, as they
were on the wire: so over both nonces, ids, cluster ids, addresses and everything else that was said. The listener and the
dialler have different labels, so that nobody can answer with a proof that was given to him; a proof from an earlier connection
has other nonces. Layout of a proof: 32 bytes, HMAC-SHA256 under the secret of

```
label, u32 length of the dialler's hello, that hello, u32 length of the listener's hello, that hello
```
"""

import enum
import hashlib
import hmac
import struct

import attrs

from trio_eventlog.errors import SettingsError

SECRET_BYTES_MIN = 16
"""`openssl rand -base64 32` gives 44."""
SECRETS_MAX = 16
PROOF_BYTES = 32
NO_SECRET_YET = "none"
"""A line that stands for no secret: see `parse_secrets`."""

_LENGTH = struct.Struct("<I")


class Side(enum.Enum):
    """Who proves itself."""

    LISTENER = b"trio-eventlog peer proof 1: listener\0"
    DIALLER = b"trio-eventlog peer proof 1: dialler\0"


@attrs.frozen(slots=True)
class PeerSecrets:
    """What the nodes of a cluster share: the first secret proves, all of them are accepted. None at all: nothing is proved."""

    secrets: tuple[bytes, ...] = attrs.field(default=(), repr=False)

    def __bool__(self) -> bool:
        return bool(self.secrets)

    def prove(self, side: Side, dialler_hello: bytes, listener_hello: bytes) -> bytes:
        """The proof of this side of the exchange."""
        return _proof(self.secrets[0], side, dialler_hello, listener_hello)

    def accepts(self, proof: bytes, side: Side, dialler_hello: bytes, listener_hello: bytes) -> bool:
        """Whether `proof` shows that the other side, which is `side`, knows one of the secrets."""
        is_known = False
        for secret in self.secrets:
            # All of them are compared in any case, so that the time does not show which one matches.
            is_known |= hmac.compare_digest(proof, _proof(secret, side, dialler_hello, listener_hello))
        return is_known


def _proof(secret: bytes, side: Side, dialler_hello: bytes, listener_hello: bytes) -> bytes:
    said = b"".join(
        (side.value, _LENGTH.pack(len(dialler_hello)), dialler_hello, _LENGTH.pack(len(listener_hello)), listener_hello)
    )
    return hmac.digest(secret, said, hashlib.sha256)


def parse_secrets(data: bytes) -> PeerSecrets:
    """What a file says: one secret a line, the first proves, all are accepted; empty lines and those that begin with # are left
    out. The one line `none` says that there is no secret yet, which is how a running cluster is prepared for one.

    Raises:
        SettingsError: says what is wrong, and never shows a secret.
    """
    lines = [line.strip() for line in data.splitlines()]
    secrets = tuple(dict.fromkeys(line for line in lines if line and not line.startswith(b"#")))
    if secrets == (NO_SECRET_YET.encode(),):
        return PeerSecrets()
    if not secrets:
        raise SettingsError("it holds no secret")
    if len(secrets) > SECRETS_MAX:
        raise SettingsError(f"it holds {len(secrets)} secrets, the limit is {SECRETS_MAX}: remove those that no node uses any more")
    short = [number for number, secret in enumerate(secrets, 1) if len(secret) < SECRET_BYTES_MIN]
    if short:
        raise SettingsError(f"secret {short[0]} has fewer than {SECRET_BYTES_MIN} bytes")
    return PeerSecrets(secrets)
