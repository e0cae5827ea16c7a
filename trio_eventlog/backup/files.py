"""A backup as files: a directory, or a tar archive of the same files. Reading only.

Both are the same to readers: each file is a range of bytes somewhere on the disk.
"""

import hashlib
import os
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import trio

from trio_eventlog.backup.manifest import MANIFEST_BYTES_MAX, MANIFEST_NAME, BackupManifest, StoredFile, decode_manifest
from trio_eventlog.errors import BackupUnusable

PIECE_BYTES = 1 << 20
"""Files are read in pieces of this size."""


@attrs.frozen(slots=True)
class Range:
    """Where the content of a file is."""

    path: str
    start: int
    size_bytes: int


class BackupFiles:
    """An open backup. Use `open_backup`.

    Attributes:
        manifest: what is in it.
        manifest_sha256: of the bytes of the manifest: tells this backup from all others.
    """

    def __init__(self, ranges: Mapping[str, Range], manifest: BackupManifest, manifest_sha256: str) -> None:
        self._ranges = ranges
        self.manifest = manifest
        self.manifest_sha256 = manifest_sha256

    @asynccontextmanager
    async def pieces(self, file: StoredFile, *, start: int = 0) -> AsyncIterator["Pieces"]:
        """The content of a file, to be read in pieces from byte `start` on. All of it is compared with its SHA-256.

        Raises:
            BackupUnusable: it is missing, or of another size.
        """
        place = self._ranges.get(file.name)
        if place is None:
            raise BackupUnusable(f"{file.name}: missing in the backup")
        if place.size_bytes != file.size_bytes:
            raise BackupUnusable(f"{file.name}: {place.size_bytes} bytes, and {file.size_bytes} in the manifest")
        with _opened(place.path) as descriptor:
            yield Pieces(file, descriptor, place, start)

    async def read(self, file: StoredFile) -> bytes:
        """The content of a small file, checked. Raises BackupUnusable as `pieces`, and when its content is not what was stored."""
        async with self.pieces(file) as pieces:
            content = bytearray()
            while piece := await pieces.next():
                content += piece
        return bytes(content)


class Pieces:
    """The content of one file, in pieces."""

    def __init__(self, file: StoredFile, descriptor: int, place: Range, start: int) -> None:
        self._file = file
        self._descriptor = descriptor
        self._place = place
        self._start = start
        self._position = 0
        self._digest = hashlib.sha256()

    async def next(self) -> bytes:
        """The next piece; b"" at the end. The last piece comes only when the whole content has turned out to be what was stored.

        Raises:
            BackupUnusable: it is not.
        """
        while True:
            before = self._position
            piece = await trio.to_thread.run_sync(self._read)
            if self._position == self._file.size_bytes and self._digest.hexdigest() != self._file.sha256:
                raise BackupUnusable(f"{self._file.name}: damaged: its SHA-256 is not that of the manifest")
            if not piece and before < self._file.size_bytes:
                raise BackupUnusable(f"{self._file.name}: ends at byte {before} of {self._file.size_bytes}")
            if not piece or self._position > self._start:
                return piece[max(self._start - before, 0) :]

    def _read(self) -> bytes:
        size_bytes = min(PIECE_BYTES, self._file.size_bytes - self._position)
        piece = os.pread(self._descriptor, size_bytes, self._place.start + self._position)
        self._digest.update(piece)
        self._position += len(piece)
        return piece


async def open_backup(path: Path) -> BackupFiles:
    """Open the backup at `path`, a directory or a tar archive, and read its manifest.

    Raises:
        BackupUnusable: there is no backup, or its manifest cannot be used. The text says why.
    """
    return await trio.to_thread.run_sync(_open, path)


def _open(path: Path) -> BackupFiles:
    try:
        ranges = _directory_ranges(path) if path.is_dir() else _archive_ranges(path)
        place = ranges.get(MANIFEST_NAME)
        if place is None:
            raise BackupUnusable(f"{path}: no {MANIFEST_NAME} in it: no backup, or one that was not finished: run it again")
        if place.size_bytes > MANIFEST_BYTES_MAX:
            raise BackupUnusable(f"{path}: {MANIFEST_NAME} has {place.size_bytes} bytes, at most {MANIFEST_BYTES_MAX} are read")
        with _opened(place.path) as descriptor:
            data = os.pread(descriptor, place.size_bytes, place.start)
    except tarfile.TarError as error:
        raise BackupUnusable(f"{path}: no tar archive: {error}") from error
    except OSError as error:
        raise BackupUnusable(f"{path}: cannot be read: {error}") from error
    return BackupFiles(ranges, decode_manifest(data), hashlib.sha256(data).hexdigest())


def _directory_ranges(path: Path) -> dict[str, Range]:
    files = [path / MANIFEST_NAME, *(path / "groups").glob("*/*")]
    return {file.relative_to(path).as_posix(): Range(str(file), 0, file.stat().st_size) for file in files if file.is_file()}


def _archive_ranges(path: Path) -> dict[str, Range]:
    with tarfile.open(path, "r:") as archive:
        return {member.name: Range(str(path), member.offset_data, member.size) for member in archive.getmembers() if member.isreg()}


@contextmanager
def _opened(path: str) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BackupUnusable(f"{path}: cannot be read: {error}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
