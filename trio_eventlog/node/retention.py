"""Retention: the beginning of a partition is given up when it is old, or when the partition is large.

The leader of a partition decides, by what its topic says (`retention_bytes`, `retention_seconds`) and by its own clock, and has a
control entry replicated that names the new log start. Every replica moves its start when it applies the entry, and removes the same
records from sight; whole segments go once a snapshot of its own covers them (`snapshotting`).
"""

import logging
from collections.abc import Callable, Iterable

import attrs
import trio

from trio_eventlog.codec.partition_command import FEATURE_LEVEL, encode_trim
from trio_eventlog.errors import EventLogError, InvalidArgument
from trio_eventlog.ids import GroupId
from trio_eventlog.machine.catalog import CatalogMachine, Topic
from trio_eventlog.machine.partition import LogStart
from trio_eventlog.node.replica import Replica

logger = logging.getLogger(__name__)


@attrs.frozen(slots=True, kw_only=True)
class RetentionSettings:
    """How retention is watched.

    Attributes:
        retention_check_seconds: the interval between two looks at all partitions.
        trim_seconds_max: how long a look waits for one partition's entry to be committed.
    """

    retention_check_seconds: float
    trim_seconds_max: float


class Retention:
    """`run` is its task, one for all partitions of the node.

    Args:
        groups: the open groups of the node.
        catalog: as this node has applied it.
        now_ns: the wall clock, nanoseconds since 1970.
    """

    def __init__(
        self,
        groups: Callable[[], Iterable[Replica]],
        catalog: CatalogMachine,
        settings: RetentionSettings,
        now_ns: Callable[[], int],
    ) -> None:
        self._groups = groups
        self._catalog = catalog
        self._settings = settings
        self._now_ns = now_ns
        self._active_since: dict[GroupId, tuple[int, float]] = {}
        """Where the active segment of each partition with a retention time begins, and since when that is known, in Trio's time."""

    async def run(self) -> None:
        """Look at all partitions again and again, until cancelled."""
        while True:
            await trio.sleep(self._settings.retention_check_seconds)
            known = self._active_since
            self._active_since = {}
            for replica in self._groups():
                topic = self._catalog.topic_of(replica.group_id)
                if topic is None or not (topic.retention_bytes or topic.retention_seconds):
                    continue
                if topic.retention_seconds:
                    self._seal_old(replica, topic.retention_seconds, known)
                # (A follower may still need what a snapshot of before covers: it would have to begin again.)
                if replica.is_leader and not replica.holds_removal() and self._catalog.feature_level >= FEATURE_LEVEL:
                    await self._trim(replica, topic)

    def _seal_old(self, replica: Replica, retention_seconds: int, known: dict[GroupId, tuple[int, float]]) -> None:
        """Only whole segments go, so one that is filled slowly must not stay the active one for long."""
        sealed = replica.log.sealed_last_index
        if replica.log.last_index == sealed:
            return
        now = trio.current_time()
        begin, since = known.get(replica.group_id, (sealed, now))
        if begin != sealed:
            since = now
        elif now - since >= retention_seconds / 2:
            replica.request_snapshot()
            return
        self._active_since[replica.group_id] = (sealed, since)

    async def _trim(self, replica: Replica, topic: Topic) -> None:
        oldest_ns = self._now_ns() - topic.retention_seconds * 10**9 if topic.retention_seconds else 0
        start = replica.log.prefix.retained_from(topic.retention_bytes, oldest_ns, replica.watermark.value)
        if start.offset <= replica.log.log_start_offset:
            return
        try:
            with trio.move_on_after(self._settings.trim_seconds_max):
                await propose_trim(replica, self._catalog, LogStart(start.index, start.offset))
        except EventLogError as error:
            # The next look finds the same to do, here or at another leader.
            logger.debug("%s: the log start could not be moved to offset %d: %s", replica.name, start.offset, error)


async def propose_trim(replica: Replica, catalog: CatalogMachine, start: LogStart) -> LogStart:
    """Have the partition begin at `start`, on every replica; returns where it does once that is applied here.

    Raises:
        InvalidArgument: there is no such place; or not every node of the cluster knows this; or the topic holds events, whose
            index no snapshot carries: a replica that has only what is left would take removed events for absent.
        NotLeader: this node does not lead the partition. OutcomeUnknown.
    """
    if catalog.feature_level < FEATURE_LEVEL:
        raise InvalidArgument(
            f"moving the log start needs feature level {FEATURE_LEVEL}, and the cluster is at {catalog.feature_level}: upgrade"
            " every node first"
        )
    topic = catalog.topic_of(replica.group_id)
    if topic is not None and topic.holds_events:
        raise InvalidArgument(f"{replica.name} holds events, and events are kept for ever: none of them can be removed")
    proposal = await replica.propose_control(encode_trim(start))
    result = await proposal.outcome()
    assert isinstance(result, LogStart)
    return result
