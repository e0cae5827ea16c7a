"""Files and names in memory, each with what is durable, what is read now, and the changes between the two."""

import enum
import random

import attrs

from trio_eventlog.storage.disk import parent_directory

SECTOR_BYTES = 512


class CrashMode(enum.Enum):
    """What becomes of unsynced changes."""

    DRAW = "draw"
    LOSE = "lose"
    KEEP = "keep"


@attrs.define(slots=True)
class Change:
    """One unsynced change of a file: bytes at a position, or a new size (`data` is None)."""

    position: int
    data: bytes | None


@attrs.define(slots=True, eq=False)
class Inode:
    """A file, under whatever name."""

    durable: bytearray = attrs.Factory(bytearray)
    live: bytearray = attrs.Factory(bytearray)
    pending: list[Change] = attrs.Factory(list)

    def apply(self, change: Change) -> None:
        self.pending.append(change)
        _carry_out(self.live, change)

    def sync(self) -> None:
        for change in self.pending:
            _carry_out(self.durable, change)
        self.pending.clear()


@attrs.define(slots=True, eq=False)
class Directory:
    """Names to inodes. A pending change sets a name to an inode, or removes it (None)."""

    durable: dict[str, Inode] = attrs.Factory(dict)
    live: dict[str, Inode] = attrs.Factory(dict)
    pending: list[list[tuple[str, Inode | None]]] = attrs.Factory(list)

    def apply(self, change: list[tuple[str, Inode | None]]) -> None:
        self.pending.append(change)
        _rename(self.live, change)

    def sync(self) -> None:
        for change in self.pending:
            _rename(self.durable, change)
        self.pending.clear()


class FileTree:
    """All files of a disk.

    Attributes:
        directories: by path.
        unsynced_directories: paths of those whose names a crash may lose.
    """

    def __init__(self) -> None:
        self.directories: dict[str, Directory] = {"/": Directory(), ".": Directory()}
        self.unsynced_directories: set[str] = set()

    def make_directory(self, path: str) -> None:
        """With all that it is in; durable at once."""
        if path in self.directories:
            return
        parent = parent_directory(path)
        self.make_directory(parent)
        self.unsynced_directories.discard(path)
        if path.rpartition("/")[2] in self.directories[parent].live:
            raise NotADirectoryError(f"a file: {path}")
        self.directories[path] = Directory()

    def directory(self, path: str) -> Directory:
        """Raises FileNotFoundError or NotADirectoryError."""
        directory = self.directories.get(path)
        if directory is None:
            if self.find(path) is not None:
                raise NotADirectoryError(f"a file: {path}")
            raise FileNotFoundError(f"no such directory: {path}")
        return directory

    def find(self, path: str) -> Inode | None:
        """The file of this path; None when there is none."""
        directory = self.directories.get(parent_directory(path))
        return directory.live.get(path.rpartition("/")[2]) if directory else None

    def used_bytes(self) -> int:
        """What all files take, preallocated room included."""
        return sum(len(inode.live) for directory in self.directories.values() for inode in directory.live.values())

    def paths(self) -> list[str]:
        """All files."""
        return sorted(f"{path}/{name}" for path, directory in self.directories.items() for name in directory.live)

    def content(self, path: str) -> bytes:
        """What the file reads as now, synced or not."""
        inode = self.find(path)
        if inode is None:
            raise FileNotFoundError(path)
        return bytes(inode.live)

    def put(self, path: str, data: bytes) -> None:
        """Place a file, durably."""
        self.make_directory(parent_directory(path))
        inode = Inode(bytearray(data), bytearray(data))
        directory, name = self.directory(parent_directory(path)), path.rpartition("/")[2]
        directory.durable[name] = directory.live[name] = inode

    def delete(self, path: str) -> None:
        """Take a file away, durably."""
        directory, name = self.directory(parent_directory(path)), path.rpartition("/")[2]
        del directory.live[name]
        directory.durable.pop(name, None)

    def flip_bit(self, path: str, position: int, bit: int = 0) -> None:
        """The medium changes a bit, in what is durable and in what is read now."""
        inode = self.find(path)
        assert inode is not None
        inode.live[position] ^= 1 << bit
        if position < len(inode.durable):
            inode.durable[position] ^= 1 << bit

    def after_crash(self, mode: CrashMode, rng: random.Random) -> "FileTree":
        """What is found when the machine comes up again."""
        fresh = FileTree()
        survivors: dict[Inode, Inode] = {}
        lost: set[str] = set()
        for path in sorted(self.unsynced_directories):
            if mode is CrashMode.LOSE or (mode is CrashMode.DRAW and rng.random() < 0.5):
                lost.add(path)
        for path, directory in self.directories.items():
            if any(path == name or path.startswith(name + "/") for name in lost):
                continue
            names = dict(directory.durable)
            for change in directory.pending:
                if mode is CrashMode.KEEP or (mode is CrashMode.DRAW and rng.random() < 0.5):
                    _rename(names, change)
            new = Directory()
            for name, inode in names.items():
                if inode not in survivors:
                    data = _after_crash(inode, mode, rng)
                    survivors[inode] = Inode(data, bytearray(data))
                new.durable[name] = new.live[name] = survivors[inode]
            fresh.directories[path] = new
        return fresh

    def image(self) -> "FileTree":
        """A copy of all files as they read now, all of it durable."""
        copy = FileTree()
        for path, directory in self.directories.items():
            new = copy.directories[path] = Directory()
            for name, inode in directory.live.items():
                new.durable[name] = new.live[name] = Inode(bytearray(inode.live), bytearray(inode.live))
        return copy


def _after_crash(inode: Inode, mode: CrashMode, rng: random.Random) -> bytearray:
    data = bytearray(inode.durable)
    if mode is CrashMode.LOSE:
        return data
    for change in inode.pending:
        fate = "keep" if mode is CrashMode.KEEP else rng.choice(("lose", "keep", "tear", "tear"))
        if fate == "keep":
            _carry_out(data, change)
        elif fate == "tear" and change.data is not None:
            for piece in _sectors(change.position, change.data):
                if rng.random() < 0.5:
                    _carry_out(data, piece)
    return data


def _carry_out(data: bytearray, change: Change) -> None:
    if change.data is None:
        if change.position < len(data):
            del data[change.position :]
        else:
            data.extend(bytes(change.position - len(data)))
        return
    if change.position > len(data):
        data.extend(bytes(change.position - len(data)))
    data[change.position : change.position + len(change.data)] = change.data


def _sectors(position: int, data: bytes) -> list[Change]:
    """The write as the disk sees it: cut where sectors begin."""
    pieces = []
    start = 0
    while start < len(data):
        end = start + SECTOR_BYTES - (position + start) % SECTOR_BYTES
        pieces.append(Change(position + start, data[start:end]))
        start = end
    return pieces


def _rename(names: dict[str, Inode], change: list[tuple[str, Inode | None]]) -> None:
    for name, inode in change:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode
