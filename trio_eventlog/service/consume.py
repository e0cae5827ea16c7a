"""Consuming on a node: committed batches of a partition, from this node's replica or from a node that has one."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import attrs
import trio

from trio_eventlog.budgets import BudgetUse
from trio_eventlog.errors import NoQuorum, NotLeader, Overloaded, ShuttingDown, TopicRecreated
from trio_eventlog.ids import NOBODY, GroupId, format_id
from trio_eventlog.node.remote_group import RemoteGroup
from trio_eventlog.node.replica import Replica
from trio_eventlog.service.background import background
from trio_eventlog.service.broker import Broker
from trio_eventlog.service.fetch_budget import Consumer, FetchBudget, Gate
from trio_eventlog.service.forwarding import Forwarder
from trio_eventlog.service.produce import outdated
from trio_eventlog.service.remote_node import RemoteNode
from trio_eventlog.service.requests import Answer, ConsumeRequest, Fetched, ForwardedAnswer, Timestamp
from trio_eventlog.service.settings import ServiceSettings
from trio_eventlog.service.topics import TopicAdministration
from trio_eventlog.service.values import Caller, Position

Deliver = Callable[[Answer, int | None], Awaitable[int]]
"""Sends one answer of a stream to its consumer.

Args: the answer, and the offset of the first record in it that is wanted (None: all).
Returns: the offset behind the last record sent. Edges that send records may have no room for all of an answer. What is returned for
an answer of another node is looked at only when the request `unpacks`.
"""


class ConsumeService:
    """Reads any partition, on any node.

    Args:
        stopping: set when the node begins to stop; consumers are sent to other nodes then.
    """

    def __init__(
        self, broker: Broker, topics: TopicAdministration, forwarder: Forwarder, settings: ServiceSettings, *, stopping: trio.Event
    ) -> None:
        self._broker = broker
        self._topics = topics
        self._forwarder = forwarder
        self._settings = settings
        self._budget = FetchBudget(
            settings.fetched_bytes_max, settings.fetched_bytes_per_connection_max, settings.slow_consumer_seconds
        )
        self._stopping = stopping
        self._forwarded_streams = 0
        self._refused_streams = 0

    def gate(self, consumer: Consumer) -> Gate:
        """Of one call: what it fetches counts until its consumer has taken it."""
        return Gate(self._budget, consumer)

    def budgets(self) -> list[BudgetUse]:
        """Bytes fetched for consumers and not sent yet, and streams that other nodes serve."""
        return [
            self._budget.use(),
            BudgetUse(
                name="forwarded streams of consumers",
                limit=self._settings.forwarded_streams_max,
                used=self._forwarded_streams,
                refused=self._refused_streams,
            ),
        ]

    async def consume(self, request: ConsumeRequest, caller: Caller, gate: Gate) -> Answer:
        """One answer. What it holds is given back at the end of the call.

        Raises:
            OffsetOutOfRange: the start is below the log's start or above the high watermark.
            TopicNotFound, TopicRecreated: there is no such log.
            NoQuorum: a linearizable read found no leader in time, or none could be asked.
            NotLeader: the call was forwarded here, and the partition does not live here.
        """
        place = await self._place(request, caller)
        request = self._bounded(request)
        if isinstance(place, Replica):
            try:
                return await self._consume_here(place, request, gate)
            except NotLeader:
                if caller.is_forwarded:
                    raise
                # It was closed while the call waited, since its group has moved.
                place = self._broker.group(place.group_id)
        group_id = place.group_id
        here = partial(self._consume_at, group_id, request, gate)
        there = partial(_consume_there, attrs.evolve(request, group_id=group_id), caller)
        with _names_no_old_group(request):
            return await self._forwarder.at_leader(place, here, there, caller=caller)

    async def stream(self, request: ConsumeRequest, caller: Caller, gate: Gate, deliver: Deliver) -> None:
        """Answers with records, one by one, as they come to be there, for ever.

        Raises:
            ShuttingDown: this node is stopping: go on from the next offset at another one.
            Overloaded: this node forwards as many streams as it may (`forwarded_streams_max`).
            As `consume`.
        """
        async with background() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(self._cancel_when_stopping, scope)
            with scope:
                place = await self._place(request, caller)
                bounded = self._bounded(request)
                if isinstance(place, RemoteGroup):
                    await self._stream_there(place, bounded, caller, deliver)
                else:
                    await self._stream_here(place, bounded, gate, deliver)
        raise ShuttingDown("this node is stopping: go on from the next offset at another one")

    async def _cancel_when_stopping(self, scope: trio.CancelScope) -> None:
        """End the streams: they have no other end, and a node that stops would wait for its consumers for ever."""
        await self._stopping.wait()
        scope.cancel()

    async def _place(self, request: ConsumeRequest, caller: Caller) -> Replica | RemoteGroup:
        """What to read from, or where to ask for it."""
        topic = self._topics.known(request.topic, request.partition, request.group_id)
        if topic is None:
            topic = await self._topics.find(request.topic, request.partition, request.group_id, caller=caller)
        place = self._broker.group(topic.partitions[request.partition].group_id)
        if caller.is_forwarded and isinstance(place, RemoteGroup):
            raise place.refusal()
        return place

    def _bounded(self, request: ConsumeRequest) -> ConsumeRequest:
        settings = self._settings
        return attrs.evolve(
            request,
            max_bytes=min(request.max_bytes or settings.fetch_bytes_max, settings.fetch_bytes_max),
            max_records=min(request.max_records or settings.fetch_records_max, settings.fetch_records_max),
        )

    # At a replica of this node

    async def _consume_at(self, group_id: GroupId, request: ConsumeRequest, gate: Gate) -> Answer:
        place = self._broker.group(group_id)  # opened here meanwhile, perhaps
        if isinstance(place, RemoteGroup):
            raise place.refusal()
        return await self._consume_here(place, request, gate)

    async def _consume_here(self, replica: Replica, request: ConsumeRequest, gate: Gate) -> Fetched:
        offset = await self._start(replica, request)
        await gate.enter(self._memory_bytes(request))
        fetched = await self._broker.fetch(replica, request, offset)
        if not fetched.batches and request.max_wait_seconds is not None:
            gate.leave()
            with trio.move_on_after(min(request.max_wait_seconds, self._settings.fetch_wait_seconds_max)):
                await replica.wait_readable(offset)
            await gate.enter(self._memory_bytes(request))
            fetched = await self._broker.fetch(replica, request, offset)
        return fetched

    async def _stream_here(self, replica: Replica, request: ConsumeRequest, gate: Gate, deliver: Deliver) -> None:
        offset = await self._start(replica, request)
        memory_bytes = self._memory_bytes(request)
        while True:
            await gate.enter(memory_bytes)
            fetched: Fetched | None = await self._broker.fetch(replica, request, offset)
            assert fetched is not None
            if fetched.batches:
                # Nothing is held by this frame while the consumer takes its time.
                sending = deliver(fetched, offset)
                fetched = None
                offset = await sending
                gate.leave()
            else:
                gate.leave()
                await replica.wait_readable(offset)

    def _memory_bytes(self, request: ConsumeRequest) -> int:
        """What one answer takes at most while it is made: what is fetched, and a batch unpacked."""
        packed_bytes = max(self._settings.fetch_bytes_max, self._settings.batch_bytes_max)
        return packed_bytes + self._settings.unpacked_bytes_max if request.unpacks else packed_bytes

    async def _start(self, replica: Replica, request: ConsumeRequest) -> int:
        """Where to begin.

        A linearizable request first waits until this node has everything acknowledged before the call. So does one for an
        offset above the watermark: the node may only be behind, or just restarted.
        """
        start = request.start
        if request.is_linearizable or (isinstance(start, int) and start > replica.watermark.value):
            await self._wait_linearizable(replica)
        match start:
            case Position.BEGINNING:
                return replica.log.log_start_offset
            case Position.END:
                return replica.watermark.value
            case Timestamp(ns=timestamp_ns):
                return await self._broker.offset_at_timestamp(replica, timestamp_ns)
            case int():
                return start

    async def _wait_linearizable(self, replica: Replica) -> None:
        with trio.move_on_after(self._settings.forward_timeout_seconds):
            await replica.wait_linearizable()
            return
        leader_id = replica.leader_id
        known = "this node knows of no leader" if leader_id == NOBODY else f"node {format_id(leader_id)} leads, as far as it knows"
        raise NoQuorum(
            f"{replica.name}: after {self._settings.forward_timeout_seconds:g} s this node could not be sure of showing everything"
            f" that is acknowledged: {known}, and {replica.entries_behind} entries of what it has heard of are not applied here."
            " Try again later, or at another node, or read what this node has (COMMITTED)"
        )

    # At another node

    async def _stream_there(self, place: RemoteGroup, request: ConsumeRequest, caller: Caller, deliver: Deliver) -> None:
        # Not gated: what is left unread on the connection between two nodes would hold up all other calls on it. So the number of
        # streams is bounded.
        if self._forwarded_streams >= self._settings.forwarded_streams_max:
            self._refused_streams += 1
            raise Overloaded(
                f"this node forwards {self._forwarded_streams} streams of consumers to other nodes and may forward no more: read"
                f" {place.name} at a node that has it",
                retry_after_seconds=1.0,
            )
        self._forwarded_streams += 1
        try:
            with _names_no_old_group(request):
                named = attrs.evolve(request, group_id=place.group_id)
                passing_on = partial(_deliver_whole, request, deliver)
                await self._forwarder.stream(place, named, caller, passing_on)
        finally:
            self._forwarded_streams -= 1


async def _consume_there(request: ConsumeRequest, caller: Caller, node: RemoteNode) -> Answer:
    return await node.consume(request, caller)


async def _deliver_whole(request: ConsumeRequest, deliver: Deliver, answer: ForwardedAnswer) -> None:
    """All of what another node has answered: unlike this node's log, it cannot be asked for the rest."""
    if not request.unpacks:
        await deliver(answer, None)
        return
    fetched = answer.fetched()
    offset = fetched.offset
    if isinstance(request.start, int):
        offset = max(offset, request.start)
    while offset < fetched.next_offset:
        offset = await deliver(fetched, offset)


@contextmanager
def _names_no_old_group(request: ConsumeRequest) -> Iterator[None]:
    """A block in which the request is sent to another node, where it must find the group that is meant here, and not what has its
    topic's name by then."""
    try:
        yield
    except TopicRecreated as error:
        if request.group_id:
            raise
        raise outdated(error) from error
