"""Where a backup is written: a directory, which may hold earlier backups of the same cluster, or a tar archive as a stream.

The file system and the stream are the operator's: they may be slow, so they are waited for in threads.
"""

import hashlib
import os
import tarfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import trio

from trio_eventlog.backup.arriving import ArrivingFrames
from trio_eventlog.backup.files import PIECE_BYTES
from trio_eventlog.backup.manifest import MANIFEST_NAME, BackupManifest, StoredFile, encode_manifest
from trio_eventlog.errors import CodecError, EventLogError

PART_SUFFIX = ".part"
ARCHIVE_SUFFIX = ".tar"
STANDARD_OUTPUT = "-"


class BackupTarget(Protocol):
    """Where a backup is written. One file at a time."""

    async def find(self, name: str, frames: ArrivingFrames) -> StoredFile | None:
        """The file of this name that an earlier backup, or an earlier attempt, has left, if it holds `frames`; None: it has to be
        written."""

    def writing(self, name: str, size_bytes: int) -> AbstractAsyncContextManager["Writing"]:
        """A new file. It is part of the backup at the end of the block, and not when an exception ends it."""

    async def finish(self, manifest: BackupManifest) -> None:
        """All files are written: now it is a backup."""


@asynccontextmanager
async def open_target(path: str, standard_output: BinaryIO) -> AsyncIterator[BackupTarget]:
    """Where `path` says: "-" an archive to standard output, a name that ends in ".tar" an archive, else a directory.

    An archive gets its name when it is complete.
    """
    if path == STANDARD_OUTPUT:
        yield ArchiveTarget(standard_output)
    elif path.endswith(ARCHIVE_SUFFIX):
        part = Path(path + PART_SUFFIX)
        out = await trio.to_thread.run_sync(_create, part)
        try:
            yield ArchiveTarget(out)
            await trio.to_thread.run_sync(_sync, out)
        finally:
            out.close()
        await trio.to_thread.run_sync(_rename, part, Path(path))
    else:
        yield DirectoryTarget(Path(path))


class Writing:
    """A file of a backup that is being written: its bytes go to `out`."""

    def __init__(self, name: str, out: BinaryIO) -> None:
        self._name = name
        self._out = out
        self._digest = hashlib.sha256()
        self.position = 0
        """Number of bytes written."""

    async def write(self, data: bytes) -> None:
        await trio.to_thread.run_sync(self._write, data)
        self.position += len(data)

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._out.write(data)

    def stored(self) -> StoredFile:
        """What has been written."""
        return StoredFile(name=self._name, size_bytes=self.position, sha256=self._digest.hexdigest())


class DirectoryTarget:
    """A directory. Segments that are there already are kept: a second backup writes what is new, and what is not needed any more is
    removed once the new manifest is durable."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def find(self, name: str, frames: ArrivingFrames) -> StoredFile | None:
        return await trio.to_thread.run_sync(self._find, name, frames)

    def _find(self, name: str, frames: ArrivingFrames) -> StoredFile | None:
        # Its frames are checked, not its SHA-256: damage since the last backup must not become part of this one.
        size_bytes = 0
        digest = hashlib.sha256()
        try:
            with (self._path / name).open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    digest.update(piece)
                    frames.add(piece)
                    size_bytes += len(piece)
            frames.end()
        except (FileNotFoundError, CodecError):
            return None
        return StoredFile(name=name, size_bytes=size_bytes, sha256=digest.hexdigest())

    @asynccontextmanager
    async def writing(self, name: str, size_bytes: int) -> AsyncIterator[Writing]:
        path = self._path / name
        part = path.with_name(path.name + PART_SUFFIX)
        out = await trio.to_thread.run_sync(_create, part)
        try:
            yield (writing := Writing(name, out))
            assert writing.position == size_bytes
            await trio.to_thread.run_sync(_sync, out)
        finally:
            out.close()
        await trio.to_thread.run_sync(_rename, part, path)

    async def finish(self, manifest: BackupManifest) -> None:
        await trio.to_thread.run_sync(self._finish, manifest)

    def _finish(self, manifest: BackupManifest) -> None:
        path = self._path / MANIFEST_NAME
        part = path.with_name(MANIFEST_NAME + PART_SUFFIX)
        with _create(part) as out:
            out.write(encode_manifest(manifest))
            _sync(out)
        _rename(part, path)
        kept = {file.name for file in manifest.files}
        for old in (self._path / "groups").glob("*/*"):
            if old.relative_to(self._path).as_posix() not in kept:
                old.unlink()


class ArchiveTarget:
    """A tar archive, written in order to a file or a pipe.

    (`tarfile` wants to read each member by itself; here they come in pieces.)
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    async def find(self, name: str, frames: ArrivingFrames) -> StoredFile | None:
        await trio.lowlevel.checkpoint()
        return None

    @asynccontextmanager
    async def writing(self, name: str, size_bytes: int) -> AsyncIterator[Writing]:
        await trio.to_thread.run_sync(self._out.write, _member_head(name, size_bytes))
        writing = Writing(name, self._out)
        try:
            yield writing
        except EventLogError:
            # What follows stays readable. The manifest will not name this file, or a later one of the same name takes its place.
            while writing.position < size_bytes:
                await writing.write(bytes(min(PIECE_BYTES, size_bytes - writing.position)))
            await trio.to_thread.run_sync(self._pad, size_bytes)
            raise
        assert writing.position == size_bytes
        await trio.to_thread.run_sync(self._pad, size_bytes)

    def _pad(self, size_bytes: int) -> None:
        self._out.write(bytes(-size_bytes % tarfile.BLOCKSIZE))

    async def finish(self, manifest: BackupManifest) -> None:
        data = encode_manifest(manifest)
        async with self.writing(MANIFEST_NAME, len(data)) as writing:
            await writing.write(data)
        await trio.to_thread.run_sync(self._end)

    def _end(self) -> None:
        self._out.write(bytes(2 * tarfile.BLOCKSIZE))
        self._out.flush()


def _member_head(name: str, size_bytes: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    member.mode = 0o640
    return member.tobuf(tarfile.PAX_FORMAT)


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")


def _sync(out: BinaryIO) -> None:
    out.flush()
    os.fsync(out.fileno())


def _rename(part: Path, path: Path) -> None:
    part.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
