"""The file `lives` of a data directory: which start of the node this is, and how far its replicas went.

Written at each start, before anything of it leaves the node, then at each moment of the life (see codec/lives.py), and as the last
thing of an orderly stop. A moment is reported to other nodes only when it is durable here: what they remember is never ahead
of the directory, unless an older copy of the directory was put back.
"""

from collections.abc import Mapping

import trio

from trio_eventlog.codec.lives import FILE_BYTES_MAX, Extent, Lives, LivesFile, decode_lives_file, encode_lives_file, first_life
from trio_eventlog.errors import CodecError, DataDirectoryError
from trio_eventlog.ids import GroupId
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.disk import join_path, read_whole, write_atomically

LIVES_FILE = "lives"


class OwnLives:
    """The lives of the node that a data directory belongs to. Use `begin_life`.

    Attributes:
        before: the file as the life before has left it; None: there was none, as in a new directory or after an older release.
    """

    def __init__(self, directory: DataDirectory, before: LivesFile | None, lives: Lives) -> None:
        self._directory = directory
        self._writing = trio.Lock()
        self.before = before
        self._file = LivesFile(lives=lives, extents=before.extents if before is not None else {})

    @property
    def lives(self) -> Lives:
        """Up to the present moment; durable."""
        return self._file.lives

    @property
    def extents(self) -> Mapping[GroupId, Extent]:
        """How far replicas went, as last written down."""
        return self._file.extents

    async def next_moment(self, extents: Mapping[GroupId, Extent], *, is_orderly: bool = False) -> Lives:
        """Move to the next moment, durably. Raises StorageFailed, DiskFull."""
        async with self._writing:
            await self._write(LivesFile(lives=self.lives.next_moment(), extents=extents, is_orderly=is_orderly))
            return self.lives

    async def _write(self, file: LivesFile) -> None:
        await write_atomically(self._directory.disk, _path(self._directory), encode_lives_file(file))
        self._file = file


async def begin_life(directory: DataDirectory, nonce: int) -> OwnLives:
    """Write down that the node starts.

    Raises:
        DataDirectoryError: the file is damaged.
        StorageFailed, DiskFull.
    """
    before = await load_lives(directory)
    own = OwnLives(directory, before, before.lives.next_life(nonce) if before is not None else first_life(nonce))
    await own._write(own._file)
    return own


async def load_lives(directory: DataDirectory) -> LivesFile | None:
    """What the last life has left; None when there is no file. Raises DataDirectoryError."""
    path = _path(directory)
    try:
        return decode_lives_file(await read_whole(directory.disk, path, FILE_BYTES_MAX))
    except FileNotFoundError:
        return None
    except (OSError, CodecError) as error:
        raise DataDirectoryError(
            f"{path}: cannot be used: {error}. It says which start of this node comes next, so that other nodes can tell it from"
            " copies of it: remove the node from its cluster, and start it again with an empty data directory."
        ) from error


def _path(directory: DataDirectory) -> str:
    return join_path(directory.path, LIVES_FILE)
