"""Room on the disk: when this node takes no new records, what it holds back, and which other nodes are short as well.

```
ample      new records are taken
scarce     less than `disk_free_bytes_min` is free: a leader hands its group over to a voter that has room, or refuses new records
           with DISK_FULL when there is none. Followers append what they are sent; the catalog and everything else goes on
exhausted  hardly anything is free: the reserve file is given up, so that small files can still be written and removed. Followers
           take no records any more, and are behind until there is room
```

Each state ends at more free room than it begins at, so that it does not change back and forth. See docs/decisions/0044.
"""

import logging
from collections.abc import Collection
from typing import Protocol

import attrs
import trio

from trio_eventlog.errors import DiskFull, EventLogError
from trio_eventlog.ids import NodeId
from trio_eventlog.storage.disk import Disk, is_shortage
from trio_eventlog.storage.reserve import give_up_reserve, hold_reserve

logger = logging.getLogger(__name__)

MIB = 1 << 20


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class DiskSpaceSettings:
    """Limits of room on the disk.

    Attributes:
        disk_reserve_bytes: size of the reserve file. 0: none; then nothing but what removes files works on a full disk.
        disk_free_bytes_min: new records are refused while less is free, the reserve not counted; taken again when a quarter more
            is.
        disk_check_seconds: interval between two questions to the disk how much is free.
        election_timeout_ticks: a peer that has not said for as many ticks that it is short of room is taken to have some.
    """

    disk_reserve_bytes: int
    disk_free_bytes_min: int
    disk_check_seconds: float
    election_timeout_ticks: int

    @property
    def enough_bytes(self) -> int:
        """New records are taken again when this much is free."""
        return self.disk_free_bytes_min + self.disk_free_bytes_min // 4

    @property
    def exhausted_bytes(self) -> int:
        """The reserve is given up while less is free."""
        return self.disk_reserve_bytes // 16


class SpaceView(Protocol):
    """What the groups of a node ask of its `DiskSpace`."""

    @property
    def is_scarce(self) -> bool: ...

    @property
    def is_exhausted(self) -> bool: ...

    def look_soon(self) -> None: ...

    def refusal(self, name: str) -> DiskFull: ...

    def short_peers(self) -> Collection[NodeId]: ...


class _Ample:
    is_scarce = False
    is_exhausted = False

    def look_soon(self) -> None:
        pass

    def refusal(self, name: str) -> DiskFull:
        raise AssertionError("there is room")

    def short_peers(self) -> Collection[NodeId]:
        return ()


AMPLE: SpaceView = _Ample()
"""For a group whose disk is not watched: reports room, so that only an append that fails shows that there is none."""


class DiskSpace:
    """Owns the reserve file, and what is known of room here and on other nodes. `run` is a task; any task may call the rest.

    Attributes:
        free_bytes: at the last look, without what the reserve holds or should hold.
        is_scarce: no new records are taken here.
        is_exhausted: the reserve is given up, and no records are taken from leaders either.
    """

    def __init__(self, disk: Disk, data_dir: str, settings: DiskSpaceSettings) -> None:
        self._disk = disk
        self._data_dir = data_dir
        self._settings = settings
        self.free_bytes = 0
        self.is_scarce = False
        self.is_exhausted = False
        self._is_wanted = trio.Event()
        self._ticks = 0
        self._short_until: dict[NodeId, int] = {}
        """Tick up to which each peer that is short of room counts as such."""

    async def run(self) -> None:
        """Look again and again, until cancelled. `look` was called before."""
        while True:
            with trio.move_on_after(self._settings.disk_check_seconds):
                await self._is_wanted.wait()
            self._is_wanted = trio.Event()
            await self.look()

    def look_soon(self) -> None:
        """Something found the disk full: look at once."""
        self._is_wanted.set()

    async def look(self) -> None:
        """Ask the disk how much is free; give up the reserve, or take it back."""
        settings = self._settings
        try:
            free_bytes = await self._disk.free_bytes(self._data_dir)
            if not self.is_exhausted and free_bytes < settings.exhausted_bytes:
                await give_up_reserve(self._disk, self._data_dir)
                self.is_exhausted = True
                logger.error("%s: the disk is full: the reserve is given up, and no records are taken", self._data_dir)
            elif self.is_exhausted and free_bytes >= settings.disk_reserve_bytes + 2 * settings.exhausted_bytes:
                self.is_exhausted = not await hold_reserve(self._disk, self._data_dir, settings.disk_reserve_bytes)
                if not self.is_exhausted:
                    free_bytes -= settings.disk_reserve_bytes
                    logger.info("%s: there is room again, and the reserve is held again", self._data_dir)
        except EventLogError as error:
            if not is_shortage(error):
                raise
            logger.warning("%s: the room on the disk cannot be looked at just now: %s", self._data_dir, error)
            return
        self.free_bytes = max(0, free_bytes - settings.disk_reserve_bytes) if self.is_exhausted else free_bytes
        was_scarce = self.is_scarce
        self.is_scarce = self.free_bytes < (settings.enough_bytes if was_scarce else settings.disk_free_bytes_min)
        if self.is_scarce and not was_scarce:
            logger.warning("%s", self.problem)
        elif was_scarce and not self.is_scarce:
            logger.info("%s: there is room again: new records are taken", self._data_dir)

    async def begin(self) -> None:
        """Before anything is written: hold the reserve, if there is room for it, or give it up.

        Raises:
            StorageFailed.
        """
        settings = self._settings
        try:
            self.is_exhausted = not await hold_reserve(self._disk, self._data_dir, settings.disk_reserve_bytes) and bool(
                settings.disk_reserve_bytes
            )
            if self.is_exhausted:
                await give_up_reserve(self._disk, self._data_dir)
        except EventLogError as error:
            if not is_shortage(error):
                raise
            logger.warning("%s: no room can be held back just now: %s", self._data_dir, error)
        await self.look()

    @property
    def problem(self) -> str:
        """In words, with what to do; "" while there is room."""
        if not self.is_scarce:
            return ""
        settings = self._settings
        text = (
            f"the disk of {self._data_dir} is nearly full: {self.free_bytes / MIB:.1f} MiB are free, and new records are refused"
            f" below {settings.disk_free_bytes_min / MIB:g} MiB (disk_free_bytes_min), until {settings.enough_bytes / MIB:g} MiB"
            " are: free some room, shorten the retention of topics, or delete some"
        )
        return f"{text}. The reserve is given up, and this node takes no records from leaders" if self.is_exhausted else text

    def refusal(self, name: str) -> DiskFull:
        """Of new records for the partition `name`."""
        return DiskFull(f"{name}: {self.problem}. Reading still works, and so does producing once there is room")

    # What peers say of theirs

    def tick(self) -> None:
        """Another tick has passed."""
        self._ticks += 1

    def peer_is_short(self, node_id: NodeId) -> None:
        """The peer has said that it takes no new records. It says so again and again while that is so."""
        self._short_until[node_id] = self._ticks + self._settings.election_timeout_ticks

    def short_peers(self) -> frozenset[NodeId]:
        """The peers that take no new records."""
        self._short_until = {node_id: until for node_id, until in self._short_until.items() if until > self._ticks}
        return frozenset(self._short_until)
