"""The scrub: reads all logs of a node again and again, slowly, so that damage is found while other nodes have what is damaged."""

import logging
from collections.abc import Callable, Sequence

import attrs
import trio

from trio_eventlog.errors import DamagedData, ResourceShortage
from trio_eventlog.net.pace import Pace
from trio_eventlog.node.replica import Replica

logger = logging.getLogger(__name__)


@attrs.frozen(slots=True, kw_only=True)
class ScrubSettings:
    """How fast, and how often.

    Attributes:
        scrub_bytes_per_second: bytes read in a second, of all groups together. 0: there is no scrub.
        scrub_interval_seconds: interval from the end of one round through all groups to the beginning of the next.
    """

    scrub_bytes_per_second: int
    scrub_interval_seconds: float


class Scrubber:
    """Checks one group at a time. `run` is a task. Reads of files only: groups that sleep go on sleeping.

    Args:
        replicas: those that are open.

    Attributes:
        rounds: number of rounds through all groups since this was made.
    """

    def __init__(self, replicas: Callable[[], Sequence[Replica]], settings: ScrubSettings) -> None:
        self._replicas = replicas
        self._settings = settings
        self._pace = Pace(settings.scrub_bytes_per_second)
        self.rounds = 0

    async def run(self) -> None:
        """Until cancelled. Raises StorageFailed."""
        if not self._settings.scrub_bytes_per_second:
            return
        while True:
            await trio.sleep(self._settings.scrub_interval_seconds)
            for replica in self._replicas():
                await self._check(replica)
            self.rounds += 1

    async def _check(self, replica: Replica) -> None:
        try:
            await replica.log.check(self._pace.wait)
        except ResourceShortage as error:
            logger.info("%s is checked in the next round: %s", replica.name, error)
        except DamagedData as error:
            logger.error("%s: the scrub has found damage: %s", replica.name, error)
            replica.report_damage(error)
