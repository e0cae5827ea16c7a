"""The hard state file: term, vote and commit, in two slots written in turn.

A slot is one 4 KiB page holding eight equal copies, one per 512-byte sector, of

```
 0  u32  magic "HRDS"
 4  u32  CRC-32C of the rest of the copy
 8  u8   format version
 9  u8 * 7  0
16  u64  sequence
24  u64  term
32  u64  vote (a node id, 0: none)
40  u64  commit
48       zeros up to 512
```

Why copies: a torn write leaves sectors of the new slot content beside sectors of the old, and at most the sector at the tear is
neither. So after a torn write the slot still holds a valid copy; a slot *without* one was damaged after it was written, and may
have held a vote that was acknowledged. The first is legal and harmless, the second must never be passed over. With a single
copy the two look alike.
"""

import struct

import attrs

from trio_eventlog.bounds import INDEX_MAX, TERM_MAX
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import CodecError
from trio_eventlog.raft.ready import HardState

FORMAT_VERSION = 1
SLOT_BYTES = 4096
SECTOR_BYTES = 512
FILE_BYTES = 2 * SLOT_BYTES

_MAGIC = 0x53445248
_COPY = struct.Struct("<IIB7xQQQQ")
_CHECKED = struct.Struct("<B7xQQQQ")
_CHECKED_FROM = 8


@attrs.frozen(slots=True, kw_only=True)
class HardStateFile:
    """A decoded file.

    Attributes:
        state: the newest valid value.
        sequence: its number; the slot to write next is `(sequence + 1) % 2`.
        is_whole: False when some copies are torn or damaged: write the state again before relying on it.
    """

    state: HardState
    sequence: int
    is_whole: bool


def encode_slot(state: HardState, sequence: int) -> bytes:
    """One slot, to be written at `slot_position(sequence)`."""
    checked = _CHECKED.pack(FORMAT_VERSION, sequence, state.term, state.vote, state.commit)
    copy = struct.pack("<II", _MAGIC, crc32c(checked.ljust(SECTOR_BYTES - _CHECKED_FROM, b"\0"))) + checked
    return copy.ljust(SECTOR_BYTES, b"\0") * (SLOT_BYTES // SECTOR_BYTES)


def slot_position(sequence: int) -> int:
    """Where in the file the slot of `sequence` goes."""
    return sequence % 2 * SLOT_BYTES


def encode_new_file() -> bytes:
    """A file as it begins: sequences 0 and 1, both of a state in which nothing has happened. No slot is ever empty."""
    return encode_slot(HardState(), 0) + encode_slot(HardState(), 1)


def decode_file(data: bytes | bytearray | memoryview) -> HardStateFile:
    """The newest state in the file.

    Raises:
        CodecError: it has the wrong size, or one of the slots holds no valid copy: it may have held the newest state.
    """
    if len(data) != FILE_BYTES:
        raise CodecError(f"hard state: {len(data)} bytes, not {FILE_BYTES}")
    view = memoryview(data)
    best: tuple[int, HardState] | None = None
    is_whole = True
    sequences_by_slot: list[set[int]] = []
    for slot in range(2):
        sequences: set[int] = set()
        for position in range(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES, SECTOR_BYTES):
            found = _decode_copy(view[position : position + SECTOR_BYTES])
            if found is None or found[0] % 2 != slot:
                is_whole = False
                continue
            sequences.add(found[0])
            if best is None or found[0] > best[0]:
                best = found
        if not sequences:
            raise CodecError(
                f"hard state: no valid copy among those at {slot * SLOT_BYTES}; a torn write cannot do that, so they were "
                "damaged, and may have held the newest vote"
            )
        sequences_by_slot.append(sequences)
    assert best is not None
    if any(len(sequences) != 1 for sequences in sequences_by_slot):
        is_whole = False
    return HardStateFile(state=best[1], sequence=best[0], is_whole=is_whole)


def beyond_bounds(state: HardState) -> str:
    """What no replica can have come to by itself; "" when there is nothing of the kind."""
    if state.term > TERM_MAX:
        return (
            f"it is in term {state.term}, and elections lead to none beyond {TERM_MAX}: a message that nobody should have sent did"
        )
    if state.commit > INDEX_MAX:
        return f"it knows entries up to {state.commit} to be committed, and there is none beyond {INDEX_MAX}"
    return ""


def _decode_copy(sector: memoryview) -> tuple[int, HardState] | None:
    """Sequence and state, or None when the copy is torn, damaged or of another version."""
    magic, checksum, version, sequence, term, vote, commit = _COPY.unpack_from(sector)
    if magic != _MAGIC or version != FORMAT_VERSION or crc32c(sector[_CHECKED_FROM:]) != checksum:
        return None
    return sequence, HardState(term=term, vote=vote, commit=commit)
