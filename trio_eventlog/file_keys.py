"""Names of the files of a log that do not change: by them other nodes, and backups, ask for one."""

import attrs


@attrs.frozen(slots=True, kw_only=True)
class SegmentKey:
    """Names a sealed segment by what is in it: equal names, equal frames, on whatever node.

    Attributes:
        base_index: of its first entry.
        frames_bytes: size of its frames, without the footer.
        frames_checksum: CRC-32C of the first 12 bytes of every frame; see `codec/segment.py`.
    """

    base_index: int
    frames_bytes: int
    frames_checksum: int


@attrs.frozen(slots=True, kw_only=True)
class SnapshotKey:
    """Names a snapshot by the last entry that it covers."""

    term: int
    index: int


FileKey = SegmentKey | SnapshotKey
