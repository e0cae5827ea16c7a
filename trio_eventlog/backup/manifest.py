"""The manifest of a backup: which files belong to it, and what they are of.

`backup.json` in the backup, written last, so that a backup without it is none:

```
{"format": 1, "cluster_id": "00000000000000a1", "cluster_name": "orders", "release": "0.1.0",
 "began": "2026-11-30T20:15:00Z", "ended": "2026-11-30T20:17:12Z",
 "groups": [{"group_id": "0000000000000001", "topic": "orders", "partition": 0, "term": 3, "index": 812,
             "log_start_offset": 0, "end_offset": 90210,
             "snapshot": {"name": "groups/0000000000000001/...", "size_bytes": 4711, "sha256": "..."},
             "segments": [{"name": ..., "size_bytes": ..., "sha256": ...}, ...]}, ...]}
```

Groups in the order of their ids, the catalog (group 0, topic "") first; segments the oldest first. `index` and `term` name the last
entry that is in the backup: the cut. Everything that was acknowledged before the backup began is below it.
"""

import re

import msgspec

from trio_eventlog.bounds import OFFSET_MAX
from trio_eventlog.errors import BackupUnusable
from trio_eventlog.ids import CATALOG_GROUP, GroupId, format_id, parse_id

FORMAT_VERSION = 1
MANIFEST_NAME = "backup.json"
MANIFEST_BYTES_MAX = 256 << 20

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"groups/[0-9a-f]{16}/[0-9a-z.-]{1,100}")


class StoredFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of a backup.

    Attributes:
        name: with "/" between directories, from the top of the backup.
        sha256: of its content, 64 hexadecimal digits.
    """

    name: str
    size_bytes: int
    sha256: str


class StoredGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One Raft group in a backup.

    Attributes:
        group_id: 16 hexadecimal digits.
        topic, partition: what the group was when the catalog was backed up; "" and 0 of the catalog.
        term, index: the last entry in the backup.
        log_start_offset, end_offset: the offsets of the records in the backup, half-open.
        snapshot: what the machine knew at `index`, and which segments the log had up to there (`codec.snapshot_file`).
        segments: the frames of its sealed segments, the oldest first; none of the catalog, all of which is in the snapshot.
    """

    group_id: str
    topic: str
    partition: int
    term: int
    index: int
    log_start_offset: int
    end_offset: int
    snapshot: StoredFile
    segments: tuple[StoredFile, ...]

    @property
    def id(self) -> GroupId:
        """`group_id` as a number."""
        return GroupId(parse_id(self.group_id))

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All files of the group."""
        return (self.snapshot, *self.segments)

    @property
    def what(self) -> str:
        """The group, for people."""
        return "the catalog" if self.id == CATALOG_GROUP else f"{self.topic}/{self.partition}"


class BackupManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything in a backup. Attributes: see the module; `began` and `ended` are times in UTC as RFC 3339 writes them."""

    format: int
    cluster_id: str
    cluster_name: str
    release: str
    began: str
    ended: str
    groups: tuple[StoredGroup, ...]

    @property
    def files(self) -> list[StoredFile]:
        """Of all groups, in their order."""
        return [file for group in self.groups for file in group.files]

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)


class _Version(msgspec.Struct):
    format: int


def encode_manifest(manifest: BackupManifest) -> bytes:
    """The bytes of `backup.json`."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode_manifest(data: bytes) -> BackupManifest:
    """The inverse.

    Raises:
        BackupUnusable: it is damaged, of another format, or names files that a backup cannot have. The text says which.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).format
        if version != FORMAT_VERSION:
            raise BackupUnusable(
                f"{MANIFEST_NAME}: format {version}; this release reads {FORMAT_VERSION}: use the release that made the backup"
            )
        manifest = msgspec.json.decode(data, type=BackupManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BackupUnusable(f"{MANIFEST_NAME}: damaged: {error}") from error
    _check(manifest)
    return manifest


def snapshot_name(group_id: GroupId, term: int, index: int) -> str:
    """Where a backup keeps the snapshot of a group."""
    return f"groups/{format_id(group_id)}/{term:020d}-{index:020d}.snapshot"


def segment_file_name(group_id: GroupId, base_index: int, frames_checksum: int) -> str:
    """Where a backup keeps a segment. Another segment that begins with the same entry has another name."""
    return f"groups/{format_id(group_id)}/{base_index:020d}-{frames_checksum:08x}.log"


def _check(manifest: BackupManifest) -> None:
    try:
        parse_id(manifest.cluster_id)
        ids = [group.id for group in manifest.groups]
    except ValueError as error:
        raise BackupUnusable(f"{MANIFEST_NAME}: damaged: {error}") from error
    if ids != sorted(set(ids)) or not ids or ids[0] != CATALOG_GROUP:
        raise BackupUnusable(f"{MANIFEST_NAME}: damaged: its groups are not the catalog and others, in the order of their ids")
    for group in manifest.groups:
        if not 0 <= group.log_start_offset <= group.end_offset <= OFFSET_MAX:
            raise BackupUnusable(
                f"{MANIFEST_NAME}: damaged: {group.what} from offset {group.log_start_offset} to {group.end_offset}"
            )
        for file in group.files:
            if file.size_bytes < 0 or not _SHA256.fullmatch(file.sha256) or not _NAME.fullmatch(file.name):
                raise BackupUnusable(f"{MANIFEST_NAME}: damaged: {file.name!r} is no file of a backup")
    names = [file.name for file in manifest.files]
    if len(names) != len(set(names)):
        raise BackupUnusable(f"{MANIFEST_NAME}: damaged: a file is in it twice")
