"""The chain of a node's starts: which of two processes with one node id came from the other, and which directory went back in time.

Every start of a node is a *life*: it has a number, one above that of the life before, and a random nonce. While it runs, a life
counts *moments*: it moves to the next one when it has given promises since the last. A new life takes over from the moment at
which the directory stands that it starts from, and its chain says so. What follows:

- Two processes that were started from one directory and its copy have different nonces for the same number: their chains part.
- A copy, or a directory that was put back to an earlier state, continues a moment that the original has left: they part too.
- A process that remembers one moment of a node can decide for any chain whether it continues that moment.

The layout in hellos and files: u64 number of the life, then (u64 nonce, u64 moment) of this life and of those before it, the newest
first; the moment of an earlier life is the one at which the next took over. All numbers little-endian.
"""

import enum
import struct
from collections.abc import Mapping

import attrs

from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import GroupId

LIVES_MAX = 64
"""Number of lives in a chain: this one and the 63 before. A node that has missed more starts than that cannot decide."""
GROUPS_MAX = 1 << 20
"""Most extents in a file."""

_LIFE = struct.Struct("<QQ")
_NUMBER = struct.Struct("<Q")
_UINT64_END = 1 << 64


class Relation(enum.Enum):
    """How a chain that is shown relates to one that is known."""

    SAME = "the same life, at the same moment"
    CONTINUES = "it continues what is known"
    BEHIND = "what is known continues it"
    APART = "both continue an earlier moment"
    OUT_OF_REACH = "the chains do not reach each other"


@attrs.frozen(slots=True)
class Life:
    """One start of a node. Numbers begin at 1, moments at 0."""

    number: int
    nonce: int
    moment: int = 0

    def is_life_of(self, other: "Life") -> bool:
        """The same start, perhaps at another moment."""
        return (self.number, self.nonce) == (other.number, other.nonce)


@attrs.frozen(slots=True)
class Lives:
    """A life, and the last of those that led to it.

    Attributes:
        number: of the life.
        chain: (nonce, moment) of the life, then of those before it, down to the first or to the `LIVES_MAX`th.
    """

    number: int
    chain: tuple[tuple[int, int], ...]

    def __attrs_post_init__(self) -> None:
        if not 0 < self.number < _UINT64_END or not 0 < len(self.chain) <= min(self.number, LIVES_MAX):
            raise ValueError(f"life {self.number} cannot have a chain of {len(self.chain)}")

    @property
    def present(self) -> Life:
        """The newest life of the chain."""
        return Life(self.number, *self.chain[0])

    def at(self, number: int) -> Life | None:
        """An earlier life or this one; None when the chain does not reach it."""
        position = self.number - number
        return Life(number, *self.chain[position]) if 0 <= position < len(self.chain) else None

    def next_life(self, nonce: int) -> "Lives":
        """The chain of a start that takes over now."""
        return Lives(self.number + 1, ((nonce, 0), *self.chain[: LIVES_MAX - 1]))

    def next_moment(self) -> "Lives":
        """The same life, a moment later."""
        ((nonce, moment), *before) = self.chain
        return Lives(self.number, ((nonce, moment + 1), *before))


def first_life(nonce: int) -> Lives:
    """The chain of a node that was never started before."""
    return Lives(1, ((nonce, 0),))


def relate(known: Lives, shown: Lives) -> Relation:
    """How `shown` relates to `known`. Exchanging them exchanges CONTINUES and BEHIND and changes nothing else."""
    if shown.number < known.number:
        mirrored = relate(shown, known)
        return Relation.BEHIND if mirrored is Relation.CONTINUES else mirrored
    present = known.present
    there = shown.at(known.number)
    if there is None:
        return Relation.OUT_OF_REACH
    if there.nonce != present.nonce:
        return Relation.APART
    if shown.number > known.number:
        # A life that took over at an earlier moment than is known is that of a copy, or of a directory put back.
        return Relation.CONTINUES if there.moment >= present.moment else Relation.APART
    if there.moment == present.moment:
        return Relation.SAME
    return Relation.CONTINUES if there.moment > present.moment else Relation.BEHIND


def encode_lives(lives: Lives) -> bytes:
    """See the layout above."""
    return _NUMBER.pack(lives.number) + b"".join(_LIFE.pack(nonce, moment) for nonce, moment in lives.chain)


def decode_lives(body: bytes | bytearray | memoryview) -> Lives:
    """The inverse. Raises CodecError."""
    (count, rest) = divmod(len(body) - _NUMBER.size, _LIFE.size)
    if rest or not 1 <= count <= LIVES_MAX:
        raise CodecError(f"chain of lives: {len(body)} bytes")
    (number,) = _NUMBER.unpack_from(body)
    if number < count:
        raise CodecError(f"chain of lives: life {number} with a chain of {count}")
    return Lives(number, tuple(_LIFE.iter_unpack(memoryview(body)[_NUMBER.size :])))


@attrs.frozen(slots=True, kw_only=True)
class Claim:
    """What a node says of the life of a node, itself or another.

    Attributes:
        lives: the newest that it has accepted.
        is_forked: it knows that two processes have been heard that continued one moment: neither is heard any more.
    """

    node_id: int
    lives: Lives
    is_forked: bool = False


def encode_claim(claim: Claim) -> bytes:
    """u64 node id, u8 flags (1: forked), then the chain."""
    return _CLAIM.pack(claim.node_id, claim.is_forked) + encode_lives(claim.lives)


def decode_claim(body: bytes | bytearray | memoryview) -> Claim:
    """The inverse. Raises CodecError."""
    if len(body) < _CLAIM.size:
        raise CodecError(f"claim of a life: {len(body)} bytes are too few")
    (node_id, flags) = _CLAIM.unpack_from(body)
    return Claim(node_id=node_id, lives=decode_lives(memoryview(body)[_CLAIM.size :]), is_forked=bool(flags & 1))


_CLAIM = struct.Struct("<QB")


@attrs.frozen(slots=True, kw_only=True)
class Extent:
    """How far a replica went: its term, its last entry, and how far that is known to be committed."""

    term: int
    last_term: int
    last_index: int
    commit_index: int


@attrs.frozen(slots=True, kw_only=True)
class LivesFile:
    """The file `lives` of a data directory.

    Attributes:
        lives: the chain at the moment in which the file was written.
        extents: how far each replica went at that moment.
        is_orderly: the node wrote it as the last thing before it ended: nothing was written after it.
    """

    lives: Lives
    extents: Mapping[GroupId, Extent] = attrs.field(factory=dict)
    is_orderly: bool = False


FILE_BYTES_MAX = 64 * 1024 * 1024
_MAGIC = b"LIVE"
_FILE_VERSION = 1
_FILE = struct.Struct("<4sIIBxHI")
_EXTENT = struct.Struct("<QQQQQ")


def encode_lives_file(file: LivesFile) -> bytes:
    """Magic, u32 version, u32 CRC-32C of what follows, u8 flags (1: orderly), u8 0, u16 bytes of the chain, u32 count of extents;
    the chain; extents in the order of group ids: u64 group id, term, last term, last index, commit index."""
    chain = encode_lives(file.lives)
    extents = b"".join(
        _EXTENT.pack(group_id, extent.term, extent.last_term, extent.last_index, extent.commit_index)
        for group_id, extent in sorted(file.extents.items())
    )
    rest = struct.pack("<BxHI", file.is_orderly, len(chain), len(file.extents)) + chain + extents
    return struct.pack("<4sII", _MAGIC, _FILE_VERSION, crc32c(rest)) + rest


def decode_lives_file(data: bytes) -> LivesFile:
    """The inverse. Raises CodecError."""
    if len(data) < _FILE.size:
        raise CodecError(f"lives: {len(data)} bytes are too few")
    (magic, version, checksum, flags, chain_bytes, count) = _FILE.unpack_from(data)
    if magic != _MAGIC or version != _FILE_VERSION:
        raise CodecError(f"lives: version {version} of {bytes(magic)!r}, this release knows {_FILE_VERSION} of {_MAGIC!r}")
    if crc32c(data[_CHECKED_FROM:]) != checksum:
        raise CodecError("lives: checksum mismatch")
    chain_end = _FILE.size + chain_bytes
    if len(data) != chain_end + count * _EXTENT.size or count > GROUPS_MAX:
        raise CodecError(f"lives: {len(data)} bytes for a chain of {chain_bytes} bytes and {count} groups")
    return LivesFile(
        lives=decode_lives(data[_FILE.size : chain_end]),
        extents={
            GroupId(group_id): Extent(term=term, last_term=last_term, last_index=last_index, commit_index=commit_index)
            for group_id, term, last_term, last_index, commit_index in _EXTENT.iter_unpack(data[chain_end:])
        },
        is_orderly=bool(flags & 1),
    )


_CHECKED_FROM = 12
