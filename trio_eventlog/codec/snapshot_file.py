"""A snapshot of a replica as a file: what its machine knew at an index, and which sealed segments its log had up to there.

```
 0  u64  magic
 8  u32  CRC-32C of what follows
12  u32  format version
16  u64  index: the last entry that it covers
24  u64  term of that entry
32  u64  base index: the entry before the first one of the log
40  u64  base term
48  u64  base offset: smallest offset of the log
56  u32  number of bytes of the configuration
60  u32  number of segments
64  u64  number of bytes of the machine's snapshot
72       the configuration, as `raft.encode_configuration` makes it
         segments, the oldest first, for each of them:
           u64  base index
           u64  last index
           u64  base offset
           u64  end offset
           u64  frames bytes
           u32  frames checksum
           u32  0
         the machine's snapshot, as `codec.snapshot` makes it
```

All numbers little-endian. The segments follow one another from the base of the log to `index`, without gaps: a list that lacks one
is no list of this format. The records themselves are not in it; the frames checksum of each segment says which bytes they are.
"""

import struct
from collections.abc import Sequence

import attrs

from trio_eventlog.bounds import INDEX_MAX, OFFSET_MAX, TERM_MAX
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.segment import LogBase
from trio_eventlog.codec.snapshot import SNAPSHOT_BYTES_MAX
from trio_eventlog.errors import CodecError, NewerRelease
from trio_eventlog.file_keys import SegmentKey
from trio_eventlog.raft import ProtocolError, SnapshotMetadata, decode_configuration, encode_configuration

FORMAT_VERSION = 1
MAGIC = 0xF7_45_4C_49_46_50_4E_53
SEGMENTS_MAX = 1 << 20
"""Of one log: a tebibyte in segments of a mebibyte."""
CONFIGURATION_BYTES_MAX = 4 << 20
"""More than a configuration of as many nodes as its encoding can count."""

_HEAD = struct.Struct("<QI")
_CHECKED_FROM = _HEAD.size
_FIELDS = struct.Struct("<IQQQQQIIQ")
_SEGMENT = struct.Struct("<QQQQQII")
HEAD_BYTES = _CHECKED_FROM + _FIELDS.size
FILE_BYTES_MAX = HEAD_BYTES + CONFIGURATION_BYTES_MAX + SEGMENTS_MAX * _SEGMENT.size + SNAPSHOT_BYTES_MAX


@attrs.frozen(slots=True, kw_only=True)
class SegmentRange:
    """A sealed segment, as its footer describes it.

    Attributes:
        base_index, last_index: inclusive ends.
        base_offset, end_offset: offsets of its records, half-open.
        frames_bytes: size of all its frames.
        frames_checksum: CRC-32C of the first 12 bytes of every frame; it covers every byte of them.
    """

    base_index: int
    last_index: int
    base_offset: int
    end_offset: int
    frames_bytes: int
    frames_checksum: int

    @property
    def key(self) -> SegmentKey:
        """By which other nodes, and backups, ask for it."""
        return SegmentKey(base_index=self.base_index, frames_bytes=self.frames_bytes, frames_checksum=self.frames_checksum)


@attrs.frozen(slots=True, kw_only=True)
class Manifest:
    """Which sealed segments a log has up to an entry.

    Attributes:
        base: the entry before the first one that the log holds.
        segments: from there on, the oldest first, without gaps.
    """

    base: LogBase
    segments: tuple[SegmentRange, ...]

    @property
    def last_index(self) -> int:
        """The last entry in it; the base's when there is no segment."""
        return self.segments[-1].last_index if self.segments else self.base.index

    @property
    def frames_bytes(self) -> int:
        """Size of all frames in it."""
        return sum(segment.frames_bytes for segment in self.segments)


@attrs.frozen(slots=True, kw_only=True)
class SnapshotFile:
    """A snapshot of a replica.

    Attributes:
        metadata: the last entry that it covers, and the configuration as of that entry.
        manifest: the log up to that entry.
        machine: the bytes of the machine's snapshot (`codec.snapshot`).
    """

    metadata: SnapshotMetadata
    manifest: Manifest
    machine: bytes

    @property
    def index(self) -> int:
        """The last entry that it covers."""
        return self.metadata.index

    @property
    def term(self) -> int:
        """The term of that entry."""
        return self.metadata.term


def encode_snapshot_file(snapshot: SnapshotFile) -> bytes:
    """See the layout above. Raises CodecError for what `decode_snapshot_file` refuses."""
    configuration = encode_configuration(snapshot.metadata.configuration)
    manifest = snapshot.manifest
    _check(snapshot.metadata, manifest)
    checked = b"".join(
        (
            _FIELDS.pack(
                FORMAT_VERSION,
                snapshot.index,
                snapshot.term,
                manifest.base.index,
                manifest.base.term,
                manifest.base.offset,
                len(configuration),
                len(manifest.segments),
                len(snapshot.machine),
            ),
            configuration,
            *(_SEGMENT.pack(*attrs.astuple(segment), 0) for segment in manifest.segments),
            snapshot.machine,
        )
    )
    return _HEAD.pack(MAGIC, crc32c(checked)) + checked


def decode_snapshot_file(data: bytes | bytearray | memoryview) -> SnapshotFile:
    """The inverse; the machine's bytes are not looked into.

    Raises:
        NewerRelease: a format version that this release does not know.
        CodecError: anything else that `encode_snapshot_file` does not make.
    """
    view = memoryview(data)
    if not HEAD_BYTES <= len(view) <= FILE_BYTES_MAX:
        raise CodecError(f"snapshot file: {len(view)} bytes, {HEAD_BYTES} to {FILE_BYTES_MAX} are possible")
    magic, checksum = _HEAD.unpack_from(view)
    if magic != MAGIC or crc32c(view[_CHECKED_FROM:]) != checksum:
        raise CodecError("snapshot file: its checksum is wrong")
    version, index, term, base_index, base_term, base_offset, configuration_bytes, count, machine_bytes = _FIELDS.unpack_from(
        view, _CHECKED_FROM
    )
    if version > FORMAT_VERSION:
        raise NewerRelease(
            f"snapshot file: format version {version}, this release reads up to {FORMAT_VERSION}: start the release that wrote it,"
            " or a later one"
        )
    segments_start = HEAD_BYTES + configuration_bytes
    machine_start = segments_start + count * _SEGMENT.size
    if version != FORMAT_VERSION or machine_start + machine_bytes != len(view):
        raise CodecError(f"snapshot file: format version {version}, {len(view)} bytes, {machine_start + machine_bytes} announced")
    try:
        configuration = decode_configuration(view[HEAD_BYTES:segments_start])
    except ProtocolError as error:
        raise CodecError(f"snapshot file: {error}") from error
    metadata = SnapshotMetadata(index=index, term=term, configuration=configuration)
    manifest = Manifest(
        base=LogBase(index=base_index, term=base_term, offset=base_offset),
        segments=tuple(_decode_segments(view[segments_start:machine_start])),
    )
    _check(metadata, manifest)
    return SnapshotFile(metadata=metadata, manifest=manifest, machine=bytes(view[machine_start:]))


def _decode_segments(data: memoryview) -> Sequence[SegmentRange]:
    segments = []
    for base_index, last_index, base_offset, end_offset, frames_bytes, frames_checksum, zero in _SEGMENT.iter_unpack(data):
        if zero:
            raise CodecError(f"snapshot file: segment {base_index} ends with {zero}")
        segments.append(
            SegmentRange(
                base_index=base_index,
                last_index=last_index,
                base_offset=base_offset,
                end_offset=end_offset,
                frames_bytes=frames_bytes,
                frames_checksum=frames_checksum,
            )
        )
    return segments


def _check(metadata: SnapshotMetadata, manifest: Manifest) -> None:
    """Raises CodecError when no replica can have come to this."""
    base = manifest.base
    if not 1 <= metadata.index <= INDEX_MAX or not 1 <= metadata.term <= TERM_MAX or base.term > metadata.term:
        raise CodecError(f"snapshot file: entry {metadata.index} of term {metadata.term}, in a log after term {base.term}")
    if base.offset > OFFSET_MAX or len(manifest.segments) > SEGMENTS_MAX:
        raise CodecError(f"snapshot file: {len(manifest.segments)} segments from offset {base.offset} on: beyond every bound")
    if not metadata.configuration.voters:
        raise CodecError("snapshot file: a configuration without voters")
    next_index, next_offset = base.index + 1, base.offset
    for segment in manifest.segments:
        is_next = (segment.base_index, segment.base_offset) == (next_index, next_offset)
        if not is_next or segment.last_index < segment.base_index or segment.end_offset < segment.base_offset:
            raise CodecError(
                f"snapshot file: segment {segment.base_index}..{segment.last_index} where the one that begins at entry {next_index}"
                f" and offset {next_offset} belongs"
            )
        next_index, next_offset = segment.last_index + 1, segment.end_offset
    if next_index != metadata.index + 1 or next_offset > OFFSET_MAX:
        raise CodecError(f"snapshot file: its segments end at entry {next_index - 1}, and it covers {metadata.index}")
