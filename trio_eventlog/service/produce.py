"""Producing on a node: a batch goes to the log of its partition, here or on the node that leads it.

The way of a batch goes down once and up once: `begin` gives it to the partition's log and `PendingProduce.result` waits for the
outcome. Only when this node does not lead, or has just lost the lead, does it go through the `Forwarder`.
"""

from collections.abc import Callable
from functools import partial

import attrs
import trio

from trio_eventlog.codec.batch import TooManyRecords, largest_record_bytes, unpack_message
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import (
    BatchTooLarge,
    CodecError,
    CorruptBatch,
    DuplicateOutOfWindow,
    InvalidArgument,
    NotLeader,
    OutcomeUnknown,
    OutOfOrderSequence,
    TopicNotFound,
    TopicRecreated,
    Unavailable,
)
from trio_eventlog.ids import GroupId
from trio_eventlog.machine.catalog import Topic
from trio_eventlog.measures import Histogram
from trio_eventlog.node.proposals import Appended, Proposal
from trio_eventlog.node.remote_group import RemoteGroup
from trio_eventlog.node.replica import Replica
from trio_eventlog.records import Acks, Batch
from trio_eventlog.service.broker import Broker
from trio_eventlog.service.forwarding import TRIED_AGAIN, Doubt, Forwarder
from trio_eventlog.service.own_sequences import OwnSequence, OwnSequences
from trio_eventlog.service.produce_stream import ProduceStream
from trio_eventlog.service.remote_node import RemoteNode
from trio_eventlog.service.requests import ProduceRequest
from trio_eventlog.service.settings import ServiceSettings
from trio_eventlog.service.topics import TopicAdministration
from trio_eventlog.service.values import Caller, ProduceResult

RECORD_OVERHEAD_BYTES = 6
"""Tag and length of a record in its answer."""
OFFSET_BYTES_MAX = 11
"""Of the offset, which a record gets in its answer."""
TURNS_BETWEEN_COUNTS_MIN = 16
"""Records without a key that a topic gets, at least, before this node counts again which of its partitions it leads."""
COUNTED_TOPICS_MAX = 4096
"""Topics whose counts are kept. Beyond them all are counted anew, also those of topics that are gone."""


class ProduceService:
    """Takes batches for any partition, on any node."""

    def __init__(
        self, broker: Broker, topics: TopicAdministration, forwarder: Forwarder, sequences: OwnSequences, settings: ServiceSettings
    ) -> None:
        self._broker = broker
        self._topics = topics
        self._forwarder = forwarder
        self._sequences = sequences
        self._settings = settings
        self._turns = PartitionTurns(broker.leads)
        self.seconds = Histogram()
        """From taking a batch to its acknowledgement."""
        self.records = 0
        self.payload_bytes = 0
        """Of batches that were acknowledged."""

    async def produce(self, request: ProduceRequest, caller: Caller) -> ProduceResult:
        """Append a batch and wait for the acknowledgement asked for, wherever the partition's leader is.

        Raises:
            BatchTooLarge, CorruptBatch, InvalidArgument: the batch cannot be taken.
            TopicNotFound, TopicRecreated: it has no log.
            Overloaded, NoQuorum, Unavailable: it is not in the log; try again later.
            OutcomeUnknown: it may be in the log.
            OutOfOrderSequence, DuplicateOutOfWindow, ProducerFenced: of idempotent producers.
            NotLeader: the call was forwarded here, and this node does not lead.
        """
        pending = await self.begin(request, caller)
        return await pending.result()

    async def begin(self, request: ProduceRequest, caller: Caller, stream: ProduceStream | None = None) -> "PendingProduce":
        """Give the batch to the log when this node leads the partition. `PendingProduce.result` does the rest.

        Args:
            stream: what the request belongs to; its batches reach the log in their order.

        Raises as `produce`.
        """
        batch = request.batch
        settings = self._settings
        if len(batch.payload) > settings.batch_bytes_max:
            raise BatchTooLarge(
                f"the batch has {len(batch.payload)} bytes, the limit is {settings.batch_bytes_max}: send smaller batches",
                limit_bytes=settings.batch_bytes_max,
            )
        if not request.is_checked:
            # Also for forwarded batches: any process can claim to be a node that has checked it.
            check_batch(batch, settings.unpacked_bytes_max, settings.batch_records_max, settings.response_bytes_max)
        topic = self._topics.known(request.topic, request.partition or 0, request.group_id)
        if topic is None:
            topic = await self._topics.find(
                request.topic,
                request.partition or 0,
                request.group_id,
                create=settings.creates_topics and not caller.is_forwarded,
                caller=caller,
            )
        if topic.holds_events:
            raise InvalidArgument(f"topic {topic.name!r} holds events of aggregates, which are appended and not produced")
        partition = request.partition
        if partition is None:
            partition = partition_of(request.key, len(topic.partitions)) if request.key else self._turns.next(topic)
        place = self._broker.group(topic.partitions[partition].group_id)
        if caller.is_forwarded and isinstance(place, RemoteGroup):
            raise place.refusal()
        sequence = None
        if not batch.producer_id:
            sequence = self._sequences.take(place.group_id)
            batch = sequence.stamp(batch)
        pending = PendingProduce(self, request, caller, topic.name, partition, place, batch, sequence)
        if isinstance(place, Replica) and (stream is None or await stream.may_propose(place)):
            try:
                pending.proposal = await place.propose_batch(batch, request.acks)
            except NotLeader:
                if caller.is_forwarded:
                    raise
        return pending

    # For PendingProduce

    async def append_at_leader(self, pending: "PendingProduce", doubt: Doubt) -> Appended:
        """From the leader's log, wherever it is. Raises as `Forwarder.at_leader`."""
        here = partial(self._append_here, pending.place.group_id, pending.batch, pending.request.acks)
        return await self._forwarder.at_leader(pending.place, here, pending.append_there, doubt, caller=pending.caller)

    async def _append_here(self, group_id: GroupId, batch: Batch, acks: Acks) -> Appended:
        place = self._broker.group(group_id)  # opened here meanwhile, perhaps
        if isinstance(place, RemoteGroup):
            raise place.refusal()
        return await outcome(await place.propose_batch(batch, acks))

    @property
    def sequences(self) -> OwnSequences:
        return self._sequences


@attrs.define(slots=True, eq=False)
class PendingProduce:
    """A produce request that was taken, on its way into the log.

    Attributes:
        batch: numbered by its producer, or by `sequence`.
        sequence: of this node, when the batch came without a producer.
        proposal: None when it could not be given to this node's log.
        is_answered: `result` has returned or raised.
    """

    service: ProduceService
    request: ProduceRequest
    caller: Caller
    topic: str
    partition: int
    place: Replica | RemoteGroup
    batch: Batch
    sequence: OwnSequence | None
    proposal: Proposal | None = None
    is_answered: bool = False
    began_at: float = attrs.field(factory=trio.current_time)

    @property
    def goes_elsewhere(self) -> bool:
        """Not given to this node's log, or given back by it: `result` will take it to a leader, and has not yet done so."""
        return not self.is_answered and (self.proposal is None or self.proposal.has_failed)

    async def result(self) -> ProduceResult:
        """Waits for the acknowledgement. Raises as `ProduceService.produce`."""
        doubt = Doubt()
        try:
            if self.proposal is not None:
                try:
                    return self._taken(await outcome(self.proposal), doubt)
                except TRIED_AGAIN as error:
                    if self.caller.is_forwarded:
                        raise
                    doubt.add(error)
            return self._taken(await self.service.append_at_leader(self, doubt), doubt)
        except TopicRecreated as error:
            if self.request.group_id:
                raise
            raise outdated(error) from error
        except OutcomeUnknown as error:
            if isinstance(error.__cause__, TopicNotFound):
                # Whatever an earlier attempt may have put into the log is gone with the topic.
                raise error.__cause__ from error
            raise
        except (OutOfOrderSequence, DuplicateOutOfWindow) as error:
            if self.sequence is None or (isinstance(error, DuplicateOutOfWindow) and doubt):
                raise
        # What went before it in the sequence was acknowledged by less than a quorum and lost, or so long ago that the partition has
        # forgotten the producer id. Nothing of that is the client's business, and this batch is not in the log: it begins another
        # sequence.
        self.sequence = self.service.sequences.begin(self.place.group_id)
        self.batch = self.sequence.stamp(self.batch)
        doubt = Doubt()
        return self._taken(await self.service.append_at_leader(self, doubt), doubt)

    async def append_there(self, node: RemoteNode) -> Appended:
        """One attempt at another node."""
        try:
            return await node.produce(self.topic, self.partition, self.place.group_id, self.batch, self.request.acks, self.caller)
        except CorruptBatch as error:
            # It was sound when it was checked here, so that it was damaged on the way: nothing was appended, and the next attempt
            # sends the sound one.
            raise Unavailable(f"the batch was damaged on its way to the leader: {error}") from error

    def _taken(self, appended: Appended, doubt: Doubt) -> ProduceResult:
        service = self.service
        service.seconds.observe(trio.current_time() - self.began_at)
        service.records += appended.record_count
        service.payload_bytes += len(self.batch.payload)
        sequence = self.sequence
        if sequence is not None:
            service.sequences.give_back(sequence, self.batch.record_count)
        return ProduceResult(
            topic=self.topic,
            partition=self.partition,
            base_offset=appended.base_offset,
            record_count=appended.record_count,
            # Under a sequence of this node, or after an attempt in doubt, a repetition is this node's own doing: its client sent
            # the batch once.
            duplicate=appended.duplicate and sequence is None and not doubt,
        )


class PartitionTurns:
    """Partitions for records without a key, in turn: those that this node leads, which saves the way to another node.

    Args:
        leads: whether this node leads a group.
    """

    def __init__(self, leads: Callable[[GroupId], bool]) -> None:
        self._leads = leads
        self._turn = 0
        self._counted: dict[str, _Counted] = {}

    def next(self, topic: Topic) -> int:
        """A partition of the topic. The partitions are counted once in as many calls as there are partitions."""
        self._turn += 1
        counted = self._counted.get(topic.name)
        if counted is None or counted.topic is not topic or not counted.turns_left:
            counted = self._count(topic)
        counted.turns_left -= 1
        led = counted.led
        if led:
            partition = led[self._turn % len(led)]
            if self._leads(topic.partitions[partition].group_id):
                return partition
            led = self._count(topic).led
        return led[self._turn % len(led)] if led else self._turn % len(topic.partitions)

    def _count(self, topic: Topic) -> "_Counted":
        led = [number for number, item in enumerate(topic.partitions) if self._leads(item.group_id)]
        if topic.name not in self._counted and len(self._counted) >= COUNTED_TOPICS_MAX:
            self._counted.clear()
        counted = self._counted[topic.name] = _Counted(topic, led, max(len(topic.partitions), TURNS_BETWEEN_COUNTS_MIN))
        return counted


@attrs.define(slots=True, eq=False)
class _Counted:
    """The partitions of a topic that this node led when it last counted them."""

    topic: Topic
    led: list[int]
    turns_left: int


async def outcome(proposal: Proposal) -> Appended:
    result = await proposal.outcome()
    assert isinstance(result, Appended)
    return result


def outdated(error: TopicRecreated) -> Unavailable:
    """The error for a client that named no group, when this node was behind: the next time, it may not be."""
    return Unavailable(f"this node had not heard of it yet: {error}. Ask again")


def check_batch(batch: Batch, unpacked_bytes_max: int, records_max: int, record_bytes_max: int) -> None:
    """Refuse what no consumer could be given.

    The count is looked at because offsets are dense: a batch that announces more records than it has would leave a hole for ever.

    Raises:
        CorruptBatch: checksum or record count do not agree with the payload.
        BatchTooLarge: more than `records_max` records, or one that an answer with `record_bytes_max` of records cannot carry.
    """
    try:
        message, unpacked_bytes = unpack_message(batch, unpacked_bytes_max, records_max)
        # Only what is large as a whole can hold one that is too large: ordinary batches are not looked through.
        if unpacked_bytes + OFFSET_BYTES_MAX > record_bytes_max:
            largest_bytes = largest_record_bytes(message) + RECORD_OVERHEAD_BYTES + OFFSET_BYTES_MAX
            if largest_bytes > record_bytes_max:
                raise BatchTooLarge(
                    f"the batch holds a record of {largest_bytes} bytes unpacked, and consumers can be given {record_bytes_max} at"
                    " once: send smaller records",
                    limit_bytes=record_bytes_max,
                )
    except TooManyRecords as error:
        raise BatchTooLarge(f"{error}: send smaller batches", limit_bytes=unpacked_bytes_max) from error
    except CodecError as error:
        raise CorruptBatch(f"{error}; nothing was appended: build the batch again") from error
