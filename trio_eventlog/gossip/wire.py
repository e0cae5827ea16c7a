"""The seam between the cores and their bytes: what the Serf layer needs encoded and read. `codec/gossip_wire.py` does it."""

from collections.abc import Mapping
from typing import Protocol

from trio_eventlog.gossip.messages import ConflictAnswer, KeyAnswer, Message, SerfMessage


class Wire(Protocol):
    """All total but for CodecError, where it is said."""

    def encode(self, message: Message) -> bytes:
        """A message of a packet. Raises CodecError when a field is over its limit."""
        ...

    def encode_body(self, message: SerfMessage) -> bytes:
        """A message of the upper layer without the type byte of the user message around it. Raises CodecError."""
        ...

    def encode_tags(self, tags: Mapping[str, str]) -> bytes:
        """Node meta. Raises CodecError over 512 bytes."""
        ...

    def decode_tags(self, meta: bytes) -> dict[str, str]:
        """The inverse. Raises CodecError."""
        ...

    def encode_key_request(self, key: bytes) -> bytes:
        """Payload of a key query."""
        ...

    def decode_key_request(self, payload: bytes) -> bytes:
        """The inverse. Raises CodecError."""
        ...

    def encode_key_answer(self, answer: KeyAnswer) -> bytes:
        """Payload of its response."""
        ...

    def encode_conflict_answer(self, answer: ConflictAnswer | None) -> bytes:
        """Payload of the response to a conflict query."""
        ...


class Keys(Protocol):
    """The keyring, as key queries change it. The changing methods raise SettingsError with a text for the asker."""

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All, the primary first."""
        ...

    @property
    def primary(self) -> bytes:
        """The one that encrypts."""
        ...

    def install(self, key: bytes) -> None:
        """Decrypt with it too."""
        ...

    def use(self, key: bytes) -> None:
        """Encrypt with it."""
        ...

    def remove(self, key: bytes) -> None:
        """Forget it."""
        ...
