"""The bytes of a machine's snapshot: its parts, each with a format version of its own, under one checksum.

```
 0  u64  magic
 8  u32  CRC-32C of what follows
12  u32  format version
16  u64  applied index
24  u16  number of parts; for each of them, their kinds rising:
         u16  kind
         u16  format version of the part
         u32  number of bytes
         the bytes
```

All numbers little-endian. The encoding is canonical: equal states have equal bytes, so that replicas can compare checksums. A kind
or a version that this release does not know is refused with NewerRelease: what is in it must not be lost by a restore.
"""

import enum
import struct
from collections.abc import Mapping, Sequence

import attrs

from trio_eventlog.bounds import INDEX_MAX
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import CodecError, NewerRelease

FORMAT_VERSION = 1
MAGIC = 0xF6_54_4F_48_53_50_4E_53
SNAPSHOT_BYTES_MAX = 1 << 30
"""A longer one is neither made nor read."""

_MAGIC_AND_CHECKSUM = struct.Struct("<QI")
_CHECKED_FROM = _MAGIC_AND_CHECKSUM.size
_HEAD = struct.Struct("<IQH")
_PART = struct.Struct("<HHI")


class PartKind(enum.IntEnum):
    """What a part of a snapshot is of. The numbers are part of the format."""

    PARTITION = 1
    PRODUCERS = 2
    CATALOG = 3


@attrs.frozen(slots=True)
class SnapshotPart:
    """One part: its kind, the version of its format, and its bytes."""

    kind: PartKind
    version: int
    body: bytes | memoryview


def encode_snapshot(applied_index: int, parts: Sequence[SnapshotPart]) -> bytes:
    """See the layout above. Raises CodecError when it would be longer than `SNAPSHOT_BYTES_MAX`."""
    pieces: list[bytes | memoryview] = [_HEAD.pack(FORMAT_VERSION, applied_index, len(parts))]
    for part in sorted(parts, key=lambda part: part.kind):
        pieces.append(_PART.pack(part.kind, part.version, len(part.body)))
        pieces.append(part.body)
    checked = b"".join(pieces)
    _check_size(_CHECKED_FROM + len(checked))
    return _MAGIC_AND_CHECKSUM.pack(MAGIC, crc32c(checked)) + checked


def decode_snapshot(data: bytes | memoryview, versions: Mapping[PartKind, int]) -> tuple[int, dict[PartKind, SnapshotPart]]:
    """The applied index, and the parts.

    Args:
        versions: the parts that the machine has, with the newest format version of each that this release reads.

    Raises:
        NewerRelease: a format version, or a part, that this release does not know.
        CodecError: anything else that `encode_snapshot` does not make.
    """
    _check_size(len(data))
    view = memoryview(data)
    if len(view) < _CHECKED_FROM + _HEAD.size:
        raise CodecError(f"snapshot: {len(view)} bytes are too few")
    magic, checksum = _MAGIC_AND_CHECKSUM.unpack_from(view)
    if magic != MAGIC or crc32c(view[_CHECKED_FROM:]) != checksum:
        raise CodecError("snapshot: its checksum is wrong")
    version, applied_index, count = _HEAD.unpack_from(view, _CHECKED_FROM)
    _check_version("", version, FORMAT_VERSION)
    if applied_index > INDEX_MAX:
        raise CodecError(f"snapshot: index {applied_index} is beyond {INDEX_MAX}")
    position = _CHECKED_FROM + _HEAD.size
    before = 0
    parts: dict[PartKind, SnapshotPart] = {}
    for _ in range(count):
        if len(view) - position < _PART.size:
            raise CodecError("snapshot: it ends inside a part")
        number, part_version, length = _PART.unpack_from(view, position)
        position += _PART.size
        if number <= before or length > len(view) - position:
            raise CodecError(f"snapshot: part {number} of {length} bytes after part {before}")
        before = number
        kind = _kind(number, versions)
        _check_version(f"part {kind.name} of it ", part_version, versions[kind])
        parts[kind] = SnapshotPart(kind, part_version, view[position : position + length])
        position += length
    if position != len(view):
        raise CodecError(f"snapshot: {len(view) - position} bytes follow its end")
    if missing := versions.keys() - parts.keys():
        raise CodecError(f"snapshot: without {', '.join(sorted(kind.name for kind in missing))}")
    return applied_index, parts


def _kind(number: int, known: Mapping[PartKind, int]) -> PartKind:
    try:
        kind = PartKind(number)
    except ValueError:
        raise NewerRelease(f"snapshot: part {number} is of a newer release: start that release, or a later one") from None
    if kind not in known:
        raise CodecError(f"snapshot: {kind.name} is a part of another machine")
    return kind


def _check_version(what: str, version: int, newest: int) -> None:
    if not version:
        raise CodecError(f"snapshot: {what}has format version 0")
    if version > newest:
        raise NewerRelease(
            f"snapshot: {what}has format version {version}, this release reads up to {newest}: start the release that wrote it, or"
            " a later one"
        )


def _check_size(size_bytes: int) -> None:
    if size_bytes > SNAPSHOT_BYTES_MAX:
        raise CodecError(f"snapshot: {size_bytes} bytes, at most {SNAPSHOT_BYTES_MAX} are allowed")
