"""The chain of a node's starts: which of two processes with one node id came from the other.

Every start of a node is one life: it has a number, one above that of the life before, and a random nonce. A node that starts from
a copy of a data directory, or from one that went back in time, gives the next life another nonce than the original does, so that
the two chains fork where the copy was made. Whoever remembers one life of a node can tell whether another life continues it.

The layout, in a hello and in the data directory: u64 number of the life, then the u64 nonces of this life and of those before
it, the newest first. All numbers little-endian.
"""

import struct

import attrs

from trio_eventlog.errors import CodecError

NONCES_MAX = 64
"""Most nonces in a chain: this life's and those of the 63 before. Who was away for more starts than that cannot judge."""


@attrs.frozen(slots=True)
class Life:
    """One start of one node. Numbers begin at 1."""

    number: int
    nonce: int


@attrs.frozen(slots=True)
class Lives:
    """The life of a node that runs, and the nonces of the last lives that led to it.

    Attributes:
        number: of the present life.
        nonces: of the present life, then of those before it, down to the first or to the `NONCES_MAX`th.
    """

    number: int
    nonces: tuple[int, ...]

    def __attrs_post_init__(self) -> None:
        if not 0 < self.number < 1 << 64 or not 0 < len(self.nonces) <= min(self.number, NONCES_MAX):
            raise ValueError(f"life {self.number} cannot have {len(self.nonces)} nonces")

    @property
    def present(self) -> Life:
        """The last of the chain."""
        return Life(self.number, self.nonces[0])

    @property
    def oldest_number(self) -> int:
        """Of the oldest life whose nonce is in the chain."""
        return self.number - len(self.nonces) + 1

    def nonce_of(self, number: int) -> int | None:
        """The nonce of an earlier life, or of this one; None when the chain does not reach it."""
        return self.nonces[self.number - number] if self.oldest_number <= number <= self.number else None

    def next(self, nonce: int) -> "Lives":
        """The chain of the next start."""
        return Lives(self.number + 1, (nonce, *self.nonces[: NONCES_MAX - 1]))


def encode_lives(lives: Lives) -> bytes:
    """See the layout above."""
    return struct.pack(f"<{len(lives.nonces) + 1}Q", lives.number, *lives.nonces)


def decode_lives(body: bytes | bytearray | memoryview) -> Lives:
    """The inverse. Raises CodecError."""
    (count, rest) = divmod(len(body), 8)
    if rest or not 2 <= count <= NONCES_MAX + 1:
        raise CodecError(f"chain of lives: {len(body)} bytes")
    (number, *nonces) = struct.unpack(f"<{count}Q", body)
    if number < len(nonces):
        raise CodecError(f"chain of lives: life {number} with {len(nonces)} nonces")
    return Lives(number, tuple(nonces))
