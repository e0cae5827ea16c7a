"""The event store on a node: events of aggregates are appended, and read by aggregate, by type, or all of them.

An append goes to the leader of the aggregate's partition, here or elsewhere, and is judged there (`node.proposing`). It may be sent
again after a lost answer: its event ids say whether it is in the log. Reads are served by any node that has the partition.
"""

import heapq
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import attrs
import trio

from trio_eventlog.budgets import BudgetUse
from trio_eventlog.codec.events import encode_events
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import (
    BatchTooLarge,
    InvalidArgument,
    NoQuorum,
    Overloaded,
    TopicRecreated,
    Unavailable,
)
from trio_eventlog.events import EVENTS_TOPIC, AppendResult, EventPage, check_append
from trio_eventlog.ids import GroupId
from trio_eventlog.machine.catalog import EVENTS, Topic
from trio_eventlog.machine.events import AppendIntent, EventPlace
from trio_eventlog.node.partition_events import PartitionEvents
from trio_eventlog.node.proposals import Appended
from trio_eventlog.node.remote_group import RemoteGroup
from trio_eventlog.node.replica import Replica
from trio_eventlog.service.broker import Broker
from trio_eventlog.service.event_cache import event_bytes
from trio_eventlog.service.event_reader import EventReader, Reading, answer_bytes, fitting
from trio_eventlog.service.event_requests import (
    AppendRequest,
    EventsFound,
    PartitionEventsRequest,
    ReadAggregateRequest,
    ReadEventsRequest,
    decode_token,
    encode_token,
)
from trio_eventlog.service.fetch_budget import Gate
from trio_eventlog.service.forwarding import Doubt, Forwarder
from trio_eventlog.service.remote_node import RemoteNode
from trio_eventlog.service.replica_reads import at_replica
from trio_eventlog.service.settings import ServiceSettings
from trio_eventlog.service.topics import TopicAdministration
from trio_eventlog.service.values import Caller
from trio_eventlog.storage.event_index import EventIndex, IndexQuestion

T = TypeVar("T")

INDEX_WAIT_SECONDS_MAX = 2.0
"""How long a read waits for an index that is behind, before it is refused."""


class EventStore:
    """Appends and reads events of any topic of events, on any node.

    Args:
        now_ns: the wall clock, for events without a timestamp.
    """

    def __init__(
        self,
        broker: Broker,
        topics: TopicAdministration,
        forwarder: Forwarder,
        settings: ServiceSettings,
        *,
        now_ns: Callable[[], int],
    ) -> None:
        self._broker = broker
        self._topics = topics
        self._forwarder = forwarder
        self._settings = settings
        self._now_ns = now_ns
        self._reader = EventReader(broker, settings)

    def budgets(self) -> list[BudgetUse]:
        """Events kept decoded."""
        return [self._reader.cache.use()]

    # Appending

    async def append(self, request: AppendRequest, caller: Caller) -> AppendResult:
        """Append events of one aggregate, all of them together or none.

        Raises:
            WrongExpectedVersion, AggregateClosed: nothing was appended.
            InvalidArgument: what is to be appended cannot be, or the topic holds no events.
            BatchTooLarge: together the events are over the limit of a batch.
            TopicNotFound: there is no such topic, and the nodes create none on first use.
            Overloaded, NoQuorum: nothing was appended; try again.
            OutcomeUnknown: they may be in the log: the same call with the same event ids will tell.
            NotLeader: the call was forwarded here, and this node does not lead.
        """
        check_append(request.aggregate_id, request.events, request.expected)
        topic = await self._topic(request.topic, request.group_id, caller, create=True)
        partition = _partition_of(topic, request.aggregate_id)
        place = self._broker.group(topic.partitions[partition].group_id)
        if caller.is_forwarded and isinstance(place, RemoteGroup):
            raise place.refusal()
        named = attrs.evolve(request, group_id=place.group_id)
        doubt = Doubt()
        appended = await self._forwarder.at_leader(
            place,
            partial(self._append_here, place.group_id, named),
            partial(_append_there, named, caller),
            doubt,
            caller=caller,
        )
        event_ids = tuple(event.event_id for event in request.events)
        return AppendResult(
            topic=topic.name,
            partition=partition,
            aggregate_id=request.aggregate_id,
            version=appended.first_version + len(event_ids) - 1,
            first_offset=appended.base_offset,
            event_ids=event_ids,
            # After an attempt in doubt, a repetition is this node's own doing.
            duplicate=appended.duplicate and not doubt,
        )

    async def _append_here(self, group_id: GroupId, request: AppendRequest) -> Appended:
        place = self._broker.group(group_id)
        if isinstance(place, RemoteGroup):
            raise place.refusal()
        encoded = encode_events(request.aggregate_id, request.events, self._now_ns())
        size_bytes = len(encoded.batch.payload)
        if size_bytes > self._settings.batch_bytes_max:
            raise BatchTooLarge(
                f"the events have {size_bytes} bytes together, {self._settings.batch_bytes_max} are the most: append fewer",
                limit_bytes=self._settings.batch_bytes_max,
            )
        intent = AppendIntent(
            aggregate_id=request.aggregate_id,
            event_ids=tuple(event.event_id for event in request.events),
            expected=request.expected,
            reopens=request.reopens,
            closes=request.events[-1].closes,
        )
        return await place.append_events(encoded, intent)

    # Reading

    async def read_aggregate(self, request: ReadAggregateRequest, caller: Caller, gate: Gate | None = None) -> EventsFound:
        """Some events of one aggregate, in the order of their versions.

        Args:
            gate: to the reader, when what is read on this node is to count until it is sent.

        Raises:
            TopicNotFound; InvalidArgument: the topic holds no events.
            Overloaded: the index of aggregates is being made: try again.
            NoQuorum: a linearizable read found no leader in time, or no node with the partition could be asked.
        """
        topic = await self._topic(request.topic, request.group_id, caller)
        partition = _partition_of(topic, request.aggregate_id)

        async def read(replica: Replica, events: PartitionEvents) -> EventsFound:
            limit = min(request.limit, self._settings.fetch_records_max)
            index = await self._index_to_show(replica, request.is_linearizable)
            (answer,), places = await self._found(
                replica,
                events,
                index,
                lambda held: (
                    held.ask([IndexQuestion(request.aggregate_id)]),
                    _places(held, request, limit, replica.log.log_start_offset),
                ),
            )
            reading = Reading(topic.name, partition, replica, self._settings.response_bytes_max)
            async with self._reader.counted(reading, gate):
                await self._reader.read_offsets(reading, [place.offset for place in places])
            return EventsFound(
                events=reading.events,
                version=answer.state.version,
                is_closed=answer.state.is_closed,
                is_end=len(reading.events) == len(places) < limit,
            )

        group_id = topic.partitions[partition].group_id
        named = attrs.evolve(request, group_id=group_id)
        return await self._at_replica(group_id, read, lambda node: node.read_aggregate(named, caller), caller)

    async def read_events(self, request: ReadEventsRequest, caller: Caller, gate: Gate | None = None) -> EventPage:
        """Events of all partitions of a topic, merged by their timestamps as far as the order within each partition allows.

        Raises:
            InvalidArgument: `after` is no token of this topic.
            As `read_aggregate`.
        """
        topic = await self._topic(request.topic, 0, caller)
        groups = [partition.group_id for partition in topic.partitions]
        positions = decode_token(request.after, groups)
        limit = min(request.limit, self._settings.fetch_records_max)
        found: dict[int, EventsFound] = {}

        async def read(number: int) -> None:
            found[number] = await self.read_partition(
                PartitionEventsRequest(
                    topic=topic.name,
                    partition=number,
                    group_id=groups[number],
                    from_offset=positions[number],
                    limit=limit,
                    event_type=request.event_type,
                    is_linearizable=request.is_linearizable,
                ),
                caller,
                gate if len(groups) == 1 else None,
            )

        if len(groups) == 1:
            await read(0)
        else:
            if gate is not None:
                # Room is taken when all of it is there: nodes that ask each other while they hold some could wait for each other.
                await gate.enter(0)
            async with trio.open_nursery() as nursery:
                for number in range(len(groups)):
                    nursery.start_soon(read, number)
        merged = list(heapq.merge(*(found[number].events for number in sorted(found)), key=lambda event: event.timestamp_ns))
        taken = fitting(merged[:limit], self._settings.response_bytes_max)
        is_end = len(taken) == len(merged) and all(item.is_end for item in found.values())
        if gate is not None and len(groups) > 1:
            await gate.enter(answer_bytes(sum(map(event_bytes, taken))))
        counts = dict.fromkeys(found, 0)
        for event in taken:
            positions[event.partition] = event.offset + 1
            counts[event.partition] += 1
        for number, item in found.items():
            if counts[number] == len(item.events):
                positions[number] = item.next_offset
        return EventPage(events=taken, next=encode_token(dict(zip(groups, positions, strict=True))), is_end=is_end)

    async def read_partition(self, request: PartitionEventsRequest, caller: Caller, gate: Gate | None = None) -> EventsFound:
        """Some events of one partition, in the order of the log. Arguments and errors: as of `read_aggregate`."""
        topic = await self._topic(request.topic, request.group_id, caller)

        async def read(replica: Replica, events: PartitionEvents) -> EventsFound:
            index = await self._index_to_show(replica, request.is_linearizable)
            end_offset = replica.watermark.value
            first_offset = max(request.from_offset, replica.log.log_start_offset)
            if first_offset > end_offset:
                raise Unavailable(
                    f"{replica.name} ends at offset {end_offset} on this node, and {first_offset} was asked for: ask again"
                )
            limit = min(request.limit, self._settings.fetch_records_max)
            reading = Reading(topic.name, request.partition, replica, self._settings.response_bytes_max)
            if not request.event_type:
                async with self._reader.counted(reading, gate):
                    next_offset = await self._reader.read_range(reading, first_offset, end_offset, limit)
                return EventsFound(events=reading.events, is_end=next_offset >= end_offset, next_offset=next_offset)
            event_type = request.event_type
            offsets = await self._found(replica, events, index, lambda held: held.offsets_of_type(event_type, first_offset, limit))
            offsets = [offset for offset in offsets if offset < end_offset]
            async with self._reader.counted(reading, gate):
                await self._reader.read_offsets(reading, offsets)
            is_end = len(reading.events) == len(offsets) < limit
            next_offset = end_offset if is_end else reading.events[-1].offset + 1
            return EventsFound(events=reading.events, is_end=is_end, next_offset=next_offset)

        group_id = topic.partitions[request.partition].group_id
        return await self._at_replica(group_id, read, lambda node: node.read_event_partition(request, caller), caller)

    async def _at_replica(
        self,
        group_id: GroupId,
        read: Callable[[Replica, PartitionEvents], Awaitable[EventsFound]],
        remote: Callable[[RemoteNode], Awaitable[EventsFound]],
        caller: Caller,
    ) -> EventsFound:
        async def read_here(replica: Replica) -> EventsFound:
            return await read(replica, _events_of(replica))

        return await at_replica(self._broker, self._forwarder, group_id, read_here, remote, caller)

    async def _index_to_show(self, replica: Replica, is_linearizable: bool) -> int:
        """The entry whose events the answer has to show."""
        if is_linearizable:
            with trio.move_on_after(self._settings.forward_timeout_seconds) as scope:
                await replica.wait_linearizable()
            if scope.cancelled_caught:
                raise NoQuorum(
                    f"{replica.name}: after {self._settings.forward_timeout_seconds:g} s this node could not be sure of showing"
                    " everything that is acknowledged: try again later, or elsewhere, or read what this node has"
                )
        return replica.applied_index

    async def _found(self, replica: Replica, events: PartitionEvents, index: int, work: Callable[[EventIndex], T]) -> T:
        """What `work` finds in the index once that shows entry `index`. Raises Overloaded when it is too far behind."""
        with trio.move_on_after(INDEX_WAIT_SECONDS_MAX):
            return await events.read(index, work)
        status = events.status
        raise Overloaded(
            f"{replica.name}: the index of aggregates holds {status.index} of {index} entries on this node: try again later, or"
            " elsewhere",
            retry_after_seconds=INDEX_WAIT_SECONDS_MAX,
        )

    # Topics

    async def _topic(self, name: str, group_id: int, caller: Caller, *, create: bool = False) -> Topic:
        """The topic, which holds events."""
        topic = self._topics.known(name, 0, 0)
        if topic is None:
            # Events have a topic of their own, which nobody has to think of; others are made where topics are made on first use.
            creates = create and not caller.is_forwarded and (self._settings.creates_topics or name == EVENTS_TOPIC)
            topic = await self._topics.find(name, create=creates, kind=EVENTS, caller=caller)
        if not topic.holds_events:
            raise InvalidArgument(f"topic {name!r} holds records and no events: name a topic that was created for events")
        if group_id and all(partition.group_id != group_id for partition in topic.partitions):
            await self._topics.wait_current(f"topic {name!r}")
            topic = await self._topics.find(name, caller=caller)
            if all(partition.group_id != group_id for partition in topic.partitions):
                raise TopicRecreated(f"topic {name!r} was deleted and created again: begin anew")
        return topic


def _places(held: EventIndex, request: ReadAggregateRequest, limit: int, log_start_offset: int) -> list[EventPlace]:
    """The events that are wanted, without those that were removed from the log, which the index still knows."""
    from_version = request.from_version
    while True:
        places = held.places(request.aggregate_id, from_version, limit, backwards=request.is_backwards)
        left = [place for place in places if place.offset >= log_start_offset]
        if left or len(places) < limit or request.is_backwards:
            return left
        from_version = places[-1].version + 1


def _partition_of(topic: Topic, aggregate_id: str) -> int:
    return partition_of(aggregate_id.encode(), len(topic.partitions))


def _events_of(replica: Replica) -> PartitionEvents:
    assert replica.events is not None, "the kind of a topic never changes"
    return replica.events


async def _append_there(request: AppendRequest, caller: Caller, node: RemoteNode) -> Appended:
    return await node.append(request, caller)
