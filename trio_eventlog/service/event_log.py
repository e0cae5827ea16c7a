"""The event log as an application sees it: one Protocol, which a client (over the network) and a node (in the process) implement.

Everything is in values of this package; nothing here knows gRPC, HTTP or the inside of a node. An HTTP edge, a gateway or an
application is written against this Protocol and runs in a node as well as far from it.

Every call takes the `Caller` for whom it is made. A node passes it on to the node that does the work. A call without one is
anonymous.
"""

import datetime
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from trio_eventlog.events import ANY, EVENTS_TOPIC, AggregatePage, AppendResult, Event, EventPage, ExpectedVersion
from trio_eventlog.records import Acks, Batch, Compression, Record
from trio_eventlog.service.backup_source import BackupSource
from trio_eventlog.service.event_requests import PAGE_EVENTS
from trio_eventlog.service.event_tail import EventTail
from trio_eventlog.service.log_source import LogSource
from trio_eventlog.service.producer import Delivery, Producer
from trio_eventlog.service.receivers import BatchReceiver, RecordReceiver
from trio_eventlog.service.values import (
    BEGINNING,
    NOBODY_IN_PARTICULAR,
    Caller,
    MemberInfo,
    NodeStatus,
    Placement,
    Position,
    ProduceResult,
    ServerInfo,
    Start,
    TopicDescription,
    TopicDiskUse,
    TopicInfo,
)


class EventLog(Protocol):
    """Any number of tasks may use it at once. Errors are `EventLogError`s, the same ones on a node and in a client."""

    @property
    def backups(self) -> BackupSource:
        """What backups of the cluster are made of."""

    @property
    def logs(self) -> LogSource:
        """Log lines, to be searched."""

    # Producing

    async def produce(
        self,
        topic: str,
        *records: Record | bytes | Sequence[Record | bytes],
        partition: int | None = None,
        acks: Acks = Acks.QUORUM,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> ProduceResult:
        """Append `records`, together and in order, to one partition; returns once they are acknowledged.

        Each record is in the log at most once, whatever answers were lost.

        Args:
            records: at least one; bytes stand for a record with that value, and a list for those in it.
            partition: where to; None: by the first record's key, and in turn when it has none.
            acks: what to wait for.

        Raises:
            BatchTooLarge: together they are over the limit of a batch.
            OutcomeUnknown: no answer in time; they may be in the log or not.
            TopicNotFound: there is no such topic, and the nodes create none on first use.
            EventLogError: as the node says; then they are not in the log.
        """

    async def produce_batch(
        self, topic: str, partition: int, batch: Batch, *, acks: Acks = Acks.QUORUM, caller: Caller = NOBODY_IN_PARTICULAR
    ) -> ProduceResult:
        """Append a batch that is encoded already. As `produce`; several tasks doing so fill the pipeline."""

    async def submit_batch(
        self, topic: str, partition: int, batch: Batch, *, acks: Acks = Acks.QUORUM, caller: Caller = NOBODY_IN_PARTICULAR
    ) -> Delivery:
        """Queue a batch that is encoded already, waiting for room only; the handle has the outcome of its first record."""

    def producer(
        self,
        topic: str,
        *,
        linger: float | None = None,
        acks: Acks = Acks.QUORUM,
        batch_bytes: int | None = None,
        batch_records: int | None = None,
        compression: Compression | None = None,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AbstractAsyncContextManager[Producer]:
        """A batching producer for the block. Its end waits until everything is acknowledged (unless an exception ends it).

        The number of partitions is followed meanwhile. When the topic is deleted and created again, records that were not
        acknowledged by then fail with TopicRecreated, and those sent afterwards go to the new one.

        Args:
            linger: seconds that a batch waits for more records. The other arguments likewise replace settings.

        Raises:
            TopicNotFound: there is no such topic, and the nodes create none on first use.
            EventLogError: at the end of the block, the first failure that no caller has seen.
        """

    # Consuming

    def consume(
        self,
        topic: str,
        *,
        start: Start = BEGINNING,
        partition: int | None = None,
        group_id: int = 0,
        buffer_batches: int | None = None,
        fetch_bytes: int | None = None,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AbstractAsyncContextManager[RecordReceiver]:
        """The records of one partition, or of all of them (None), from `start` on, for ever.

        The order within a partition is kept; leaders and connections may change meanwhile. Batches fetched ahead are bounded:
        a slow reader makes the nodes wait.

        Args:
            start: BEGINNING, END (nothing acknowledged before the call), an offset (of one partition), a datetime with zone: the
                first record of that time or later, and from there everything, also what has an earlier time; or the next offset
                of each partition, `{partition: offset}`: those that are not named are read from their beginning.
            group_id: of the partition that the offset `start` is a place in, as `ConsumedBatch` and `RecordReceiver` have it. If
                the topic was deleted since, and created again, TopicRecreated is raised; without it the offset is looked up in
                the topic that has the name now.

        Raises:
            InvalidArgument: `start` cannot be.
            TopicNotFound: there is no such topic; when receiving: it was deleted.
            TopicRecreated: when receiving: it was deleted, and another one has its name.
            OffsetOutOfRange, ...: when receiving.
        """

    def consume_batches(
        self,
        topic: str,
        *,
        start: Start = BEGINNING,
        partition: int | None = None,
        group_id: int = 0,
        buffer_batches: int | None = None,
        fetch_bytes: int | None = None,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AbstractAsyncContextManager[BatchReceiver]:
        """As `consume`, whole opaque batches: the first one may begin before `start`. The fastest way to read."""

    async def offsets(self, topic: str, partition: int = 0, *, caller: Caller = NOBODY_IN_PARTICULAR) -> tuple[int, int]:
        """The partition's log start offset and its end: one past the last offset, of everything acknowledged before the call.

        Raises:
            TopicNotFound: no such topic or partition.
        """

    async def offset_at(
        self, topic: str, when: datetime.datetime, partition: int = 0, *, caller: Caller = NOBODY_IN_PARTICULAR
    ) -> int:
        """The offset of the first batch with a record of that time or later; the partition's end when there is none.

        Raises:
            InvalidArgument: the time has no zone.
            TopicNotFound: no such topic or partition.
        """

    # Events of aggregates

    async def append(
        self,
        aggregate_id: str,
        events: Sequence[Event],
        *,
        expected_version: ExpectedVersion = ANY,
        reopens: bool = False,
        topic: str = EVENTS_TOPIC,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AppendResult:
        """Append `events` to an aggregate, all of them together or none; returns once they are durable on a quorum.

        Safe to repeat with the same event ids, however late: events that are in the log already are answered with the original,
        before any version is judged. Events without an id get one, so that an attempt whose answer is lost is repeated safely.

        Args:
            expected_version: the number of events that the aggregate has now (NO_STREAM: none), or EXISTS, or ANY.
            reopens: append also when the aggregate was closed.
            topic: of events. EVENTS_TOPIC is made when it does not exist; others only where nodes create topics on first use.

        Raises:
            WrongExpectedVersion, AggregateClosed: as the aggregate is, they are not appended.
            InvalidArgument: an id is in the log already as another event, or together with others; or the topic holds no events.
            BatchTooLarge: together they are over the limit of a batch.
            OutcomeUnknown: no answer in time; they may be in the log or not.
            EventLogError: as the node says; then they are not in the log.
        """

    async def read_aggregate(
        self,
        aggregate_id: str,
        *,
        from_version: int | None = None,
        limit: int = PAGE_EVENTS,
        backwards: bool = False,
        linearizable: bool = False,
        topic: str = EVENTS_TOPIC,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AggregatePage:
        """Some events of an aggregate, in the order of their versions, and its version. It may have no events.

        Args:
            from_version: of the first event; None: of the aggregate's first, or last one when `backwards`.
            limit: most events; there may be fewer, when an answer has no room for more: ask again from the next version on.
            linearizable: everything acknowledged before the call is seen. Otherwise it is what the node has that is asked.

        Raises:
            TopicNotFound, InvalidArgument: there is no such topic of events.
            Overloaded: the index of aggregates is being made: try again.
        """

    async def read_events(
        self,
        *,
        type: str = "",  # noqa: A002
        after: str = "",
        limit: int = PAGE_EVENTS,
        linearizable: bool = False,
        topic: str = EVENTS_TOPIC,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> EventPage:
        """Some events of a topic, in the order of each partition; of several partitions, by their timestamps.

        Args:
            type: only events of this type; "": all.
            after: where to go on: `next` of an earlier page, or the token of a tail. "": from the beginning.
            limit, linearizable: as of `read_aggregate`.

        Raises as `read_aggregate`; InvalidArgument also when `after` is no place in this topic.
        """

    def tail_events(
        self,
        *,
        after: str | Position = Position.END,
        type: str = "",  # noqa: A002
        aggregate_id: str = "",
        topic: str = EVENTS_TOPIC,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> AbstractAsyncContextManager[EventTail]:
        """Follow the events of a topic: `async with log.tail_events() as tail: async for event in tail`.

        No event is left out and none is given twice, whatever happens to leaders; `tail.token` is where to go on later.

        Args:
            after: a token, or BEGINNING, or END.
            type, aggregate_id: only events of these; "": all.

        Raises:
            TopicNotFound, InvalidArgument: as `read_events`.
        """

    # Topics

    async def partitions(self, topic: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> int:
        """How many partitions the topic has. Raises TopicNotFound; a topic that is made on first use is not made."""

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        replicas: int = 0,
        retention_bytes: int = 0,
        retention_seconds: float = 0.0,
        kind: str = "",
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> TopicInfo:
        """Make a topic. `replicas` 0: one on every voter; retention 0: no limit, else whole seconds.

        Raises:
            InvalidArgument: a name or a number that no topic can have.
            TopicExists: there is one of this name already.
            TooManyPartitions: the nodes have no room for so many.
        """

    async def alter_topic(
        self,
        name: str,
        *,
        retention_bytes: int | None = None,
        retention_seconds: float | None = None,
        group_id: int = 0,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> TopicInfo:
        """Change what a topic keeps; returns it as it is then. None: it stays as it is; 0: no limit; else whole seconds.

        The number of partitions cannot change: a record's partition follows from its key and that number.

        Args:
            group_id: of partition 0 (`TopicInfo.group_ids`): that very topic is meant. 0: the one that has the name now.

        Raises:
            InvalidArgument: a limit that no topic can have, or nothing to change; or a node of the cluster is of a release that
                cannot do it.
            TopicNotFound: there is no such topic.
            TopicRecreated: the topic with that group was deleted, and another one has its name.
        """

    async def trim_topic(
        self,
        name: str,
        before: int | datetime.datetime,
        *,
        partition: int | None = None,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> dict[int, int]:
        """Give up the beginning of a topic's partitions, for ever.

        What is readable begins at an offset, or with the first batch that has a record of that time or later. A log that begins
        there already, or behind, stays as it is. The leaders show it when this returns, the other nodes at once after
        that. Files follow by whole segments.

        Args:
            before: an offset of one partition, at most its high watermark; or a time.
            partition: None: all of them, which an offset can mean only if there is one.

        Returns:
            The log start offset of each partition that was asked for.

        Raises:
            TopicNotFound: no such topic or partition.
            OffsetOutOfRange: above the high watermark.
            InvalidArgument: an offset for several partitions; or a node of the cluster is of a release that cannot do it.
            OutcomeUnknown: it may have been done: an answer was lost, and no later attempt had one. It is safe to repeat.
        """

    async def delete_topic(self, name: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> None:
        """Delete a topic and its records. Raises TopicNotFound."""

    async def list_topics(self, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[TopicInfo]:
        """Every topic."""

    async def describe_topic(self, name: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> TopicDescription:
        """A topic with its partitions. Raises TopicNotFound."""

    async def disk_use(self, address: str | None = None, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[TopicDiskUse]:
        """What each topic takes on the disk of the node at `address`, the largest first; None: any node (of an embedded node: that
        one). Raises Unavailable when the node does not answer."""

    # The cluster

    async def status(self, address: str | None = None, *, caller: Caller = NOBODY_IN_PARTICULAR) -> NodeStatus:
        """How the node at `address` sees itself; None: any node (of an embedded node: that one)."""

    async def servers(self, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[ServerInfo]:
        """The nodes of the cluster, by name, asked for now."""

    async def placements(self, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[Placement]:
        """Leader and replicas of every partition, asked for now."""

    async def members(self, *, caller: Caller = NOBODY_IN_PARTICULAR) -> list[MemberInfo]:
        """Every node that is known to the cluster, the silent and the removed ones too, as the catalog's leader sees it."""

    async def drain_node(self, node_id: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> None:
        """Have everything moved off a node and the node removed. Returns when that is decided; `members` shows when it is done.

        Raises:
            InvalidArgument: no such node.
            MembershipRefused: not now; the text says why.
        """

    async def remove_node(self, node_id: str, *, caller: Caller = NOBODY_IN_PARTICULAR) -> None:
        """Take a node out of the cluster for ever, at once: for one that does not come back. Raises as `drain_node`."""

    async def transfer_leadership(
        self, topic: str = "", partition: int = 0, *, to: str = "", caller: Caller = NOBODY_IN_PARTICULAR
    ) -> str:
        """Hand over the leadership of a partition ("": of the catalog) to a node id ("": the best follower).

        Returns:
            The id of the new leader.

        Raises:
            TopicNotFound: no such topic or partition.
            OutcomeUnknown: it may have been handed over: an answer was lost, and no later attempt had one.
        """
