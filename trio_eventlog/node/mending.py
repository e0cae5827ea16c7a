"""Files of a replica that are damaged: set aside when it is opened, so that other replicas give back what was in them.

The order is what makes it safe (docs/decisions/0045): first it is made durable that this replica has lost entries, or its vote, and
only then is anything moved. From then on it is a replica that has lost something (decision 21), whichever way it goes on.
"""

import errno
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs

from trio_eventlog.errors import CodecError, DamagedData, EventLogError
from trio_eventlog.node.departed import Departed, save_departed
from trio_eventlog.storage.data_directory import HARD_STATE_FILE
from trio_eventlog.storage.disk import Disk, is_shortage, join_path
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.quarantine import QUARANTINE_DIRECTORY, check_segment, remove_quarantine, set_file_aside, set_log_aside

logger = logging.getLogger(__name__)

T = TypeVar("T")

READ_ATTEMPTS = 8
"""The number of times that a file which the disk cannot read is read, before its content is taken for lost."""


@attrs.frozen(slots=True, kw_only=True)
class Mending:
    """Of one replica that is being opened.

    Attributes:
        name: of the group.
        directory: of the replica.
        suspect: path of a file in which damage was found while the replica was open; "" for none.
        may_mend: another node may have what is damaged here, or the operator wants to go on without it.
    """

    name: str
    directory: str
    suspect: str
    may_mend: bool

    async def open_log(self, disk: Disk, departed: Departed, recover: Callable[[], Awaitable[T]]) -> tuple[T, Departed]:
        """The log that `recover` opens, without what is damaged, and what is noted of the replica then.

        Raises:
            DamagedData: something is damaged, and no other node has it.
        """
        suspect = self.suspect
        attempts = 0
        while True:
            try:
                if suspect:
                    await check_segment(disk, suspect)
                    suspect = ""
                return await recover(), departed
            except DamagedData as error:
                attempts += 1
                if is_unreadable(error) and attempts < READ_ATTEMPTS:
                    continue
                suspect = ""
                departed = await self._set_log_aside(disk, departed, error)

    async def _set_log_aside(self, disk: Disk, departed: Departed, error: DamagedData) -> Departed:
        if not self.may_mend:
            raise self._refusal(error) from error
        if not departed.loss:
            departed = attrs.evolve(departed, loss=f"its log was damaged ({error.path}, byte {error.position})")
        await save_departed(disk, self.directory, departed)
        names = await set_log_aside(disk, self.directory, error.path)
        if not names:
            raise error
        logger.error(
            "%s: %s Set aside in %s, to be received again from other nodes: %s",
            self.name,
            error,
            join_path(self.directory, QUARANTINE_DIRECTORY),
            ", ".join(names),
        )
        return departed

    async def open_hard_state(self, disk: Disk, departed: Departed, *, is_durable: bool) -> tuple[HardStateFile | None, Departed]:
        """The hard state; None when it is damaged. It is set aside then, and the vote is lost.

        Raises:
            DamagedData: it is damaged, and there is no other node; or it cannot be read just now; or it is beyond every bound.
        """
        path = join_path(self.directory, HARD_STATE_FILE)
        try:
            return await HardStateFile.open(disk, path, is_durable=is_durable), departed
        except DamagedData as error:
            if not isinstance(error.__cause__, CodecError):
                raise
            if not self.may_mend:
                raise self._refusal(error) from error
            departed = attrs.evolve(departed, loss=f"the hard state (term and vote) was damaged ({path})", is_vote_lost=True)
            await save_departed(disk, self.directory, departed)
            await set_file_aside(disk, self.directory, HARD_STATE_FILE)
            logger.error("%s: %s Set aside in %s.", self.name, error, join_path(self.directory, QUARANTINE_DIRECTORY))
            return None, departed

    def _refusal(self, error: DamagedData) -> DamagedData:
        return DamagedData(
            f"{error} No other node has these data: restore the data directory from a backup, or start with --accept-loss to go on"
            " with what is in front of the damage",
            path=error.path,
            position=error.position,
        )


async def end_loss(disk: Disk, directory: str, departed: Departed) -> None:
    """Write down that the replica has caught up, and remove what was set aside.

    Raises:
        EventLogError: nothing was written down: a shortage may pass.
    """
    await save_departed(disk, directory, departed)
    try:
        await remove_quarantine(disk, directory)
    except EventLogError as error:
        if not is_shortage(error):
            raise
        logger.warning("what was set aside in %s cannot be removed just now: %s", directory, error)


def is_unreadable(error: DamagedData) -> bool:
    """The disk could not read it this time, which may pass. Otherwise it was read, and was wrong."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO


def damage_in(error: BaseException) -> DamagedData | None:
    """The damage that has ended a replica; None when something else has ended it, too."""
    if isinstance(error, BaseExceptionGroup):
        found = [damage_in(one) for one in error.exceptions]
        return None if None in found else found[0]
    return error if isinstance(error, DamagedData) else None
