"""A disk whose callers do not see a shortage of the process that passes: descriptors, memory or threads.

A shortage says nothing about the disk, and nothing has changed when one is met: trying again is safe, unlike after a failed write
or sync. So whatever opens a descriptor is tried again, with growing pauses, while others are asked to give up what they hold.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

from trio_eventlog.errors import ResourceShortage
from trio_eventlog.storage.disk import FILE_MODE, Disk, DiskLock, File

logger = logging.getLogger(__name__)

T = TypeVar("T")


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class PatienceSettings:
    """Limits of trying again.

    Attributes:
        shortage_patience_seconds: how long one operation is tried before its caller gets ResourceShortage. 0: not at all.
        shortage_retry_seconds_min: pause before the second attempt; doubles each time.
        shortage_retry_seconds_max: longest such pause.
    """

    shortage_patience_seconds: float
    shortage_retry_seconds_min: float
    shortage_retry_seconds_max: float


class PatientDisk:
    """`disk`, with shortages waited out. Files are the disk's own: an open file needs no further descriptor.

    Attributes:
        relieve: called before each further attempt; gives up descriptors that are worth less, if there are any.
        shortages: operations that met a shortage, since the start.
    """

    def __init__(self, disk: Disk, settings: PatienceSettings, relieve: Callable[[], None] | None = None) -> None:
        self._disk = disk
        self._settings = settings
        self.relieve = relieve
        self.shortages = 0

    async def make_directory(self, path: str) -> None:
        await self._patiently(lambda: self._disk.make_directory(path))

    async def add_directory(self, path: str) -> None:
        await self._patiently(lambda: self._disk.add_directory(path))

    async def list_directory(self, path: str) -> list[str]:
        return await self._patiently(lambda: self._disk.list_directory(path))

    async def exists(self, path: str) -> bool:
        return await self._patiently(lambda: self._disk.exists(path))

    async def open(self, path: str, *, create: bool = False, writes: bool = True, mode: int = FILE_MODE) -> File:
        return await self._patiently(lambda: self._disk.open(path, create=create, writes=writes, mode=mode))

    async def rename(self, source: str, target: str) -> None:
        await self._patiently(lambda: self._disk.rename(source, target))

    async def remove(self, path: str) -> None:
        await self._patiently(lambda: self._disk.remove(path))

    async def sync_directory(self, path: str) -> None:
        await self._patiently(lambda: self._disk.sync_directory(path))

    async def lock(self, path: str) -> DiskLock:
        return await self._patiently(lambda: self._disk.lock(path))

    async def free_bytes(self, path: str) -> int:
        return await self._patiently(lambda: self._disk.free_bytes(path))

    async def at_once(self, work: Callable[[Disk], Awaitable[T]]) -> T:
        return await self._patiently(lambda: self._disk.at_once(work))

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await attempt()
        except ResourceShortage as error:
            self.shortages += 1
            logger.warning("%s; trying again for %g s", error, self._settings.shortage_patience_seconds)
        give_up_at = trio.current_time() + self._settings.shortage_patience_seconds
        pause = self._settings.shortage_retry_seconds_min
        while True:
            if self.relieve is not None:
                self.relieve()
            await trio.sleep(pause)
            pause = min(2 * pause, self._settings.shortage_retry_seconds_max)
            try:
                return await attempt()
            except ResourceShortage:
                if trio.current_time() >= give_up_at:
                    raise
