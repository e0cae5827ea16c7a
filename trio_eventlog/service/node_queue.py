"""The way of an application's batches into the partitions of the node that it embeds: in order, bounded, several in flight."""

from collections import OrderedDict, deque
from contextlib import AbstractAsyncContextManager

import attrs
import trio

from trio_eventlog.background import Background
from trio_eventlog.errors import EventLogError, ShuttingDown
from trio_eventlog.machine.catalog import Topic
from trio_eventlog.records import Acks, Batch
from trio_eventlog.service.produce import ProduceService
from trio_eventlog.service.produce_stream import ProduceStream
from trio_eventlog.service.producer import OnDone
from trio_eventlog.service.requests import ProduceRequest
from trio_eventlog.service.topics import TopicAdministration
from trio_eventlog.service.values import OFFSET_UNKNOWN, Caller, KnownTopic, ProduceResult

BATCH_OVERHEAD_BYTES = 256
"""What a batch counts for in a buffer beside its payload."""
IDLE_QUEUES_MAX = 256
"""Queues without work that are kept; beyond that the least recently used ones go."""
KNOWN_TOPICS_MAX = 4096
"""Topics that producers have asked for; beyond that all are looked up anew, also those that are gone."""


def stopping_error() -> ShuttingDown:
    return ShuttingDown("this node is stopping: go to another one")


@attrs.define(slots=True, eq=False)
class _Queued:
    request: ProduceRequest
    on_done: OnDone

    @property
    def size_bytes(self) -> int:
        return len(self.request.batch.payload) + BATCH_OVERHEAD_BYTES


class NodeQueue:
    """Batches of one partition (`BatchQueue`). Its task runs while there is work."""

    def __init__(self, topic: str, partition: int, group_id: int, queues: "NodeQueues", caller: Caller) -> None:
        self.topic = topic
        self.partition = partition
        self.group_id = group_id
        self._queues = queues
        self._caller = caller
        self._waiting: OrderedDict[_Queued, None] = OrderedDict()
        self._in_flight: deque[_Queued] = deque()
        self._buffered_bytes = 0
        self._entrance = trio.StrictFIFOLock()
        self._room = trio.Event()
        self._change = trio.Event()
        self._is_running = False

    @property
    def is_idle(self) -> bool:
        return not self._is_running

    def has_room(self, size_bytes: int) -> bool:
        if self._entrance.locked():
            return False  # Others were here before.
        return self._fits(size_bytes)

    def _fits(self, size_bytes: int) -> bool:
        if not self._buffered_bytes or self._queues.is_closed:
            return True  # In a closed one it fails at once.
        return self._buffered_bytes + size_bytes + BATCH_OVERHEAD_BYTES <= self._queues.buffer_bytes

    async def submit(self, batch: Batch, acks: Acks, on_done: OnDone) -> _Queued:
        if self.has_room(len(batch.payload)):
            await trio.lowlevel.checkpoint_if_cancelled()
            return self.submit_nowait(batch, acks, on_done)
        async with self._entrance:
            while not self._fits(len(batch.payload)):
                self._room = trio.Event()
                await self._room.wait()
            return self.submit_nowait(batch, acks, on_done)

    def submit_nowait(self, batch: Batch, acks: Acks, on_done: OnDone) -> _Queued:
        """Raises ShuttingDown when the node is stopping."""
        request = ProduceRequest(
            topic=self.topic, batch=batch, acks=acks, partition=self.partition, group_id=self.group_id, is_checked=False
        )
        queued = _Queued(request, on_done)
        if not self._is_running:
            self._queues.start(self)
            self._is_running = True
        self._waiting[queued] = None
        self._buffered_bytes += queued.size_bytes
        self._change.set()
        return queued

    def withdraw(self, pending: _Queued) -> bool:
        if pending not in self._waiting:
            return False
        del self._waiting[pending]
        self._release(pending)
        return True

    async def run(self) -> None:
        """Until nothing waits and nothing is in flight."""
        try:
            while self._waiting:
                stream = ProduceStream(
                    self._queues.producing.begin,
                    self._caller,
                    self._receive,
                    self._answer,
                    requests_max=self._queues.requests_max,
                    stopping=self._queues.stopping,
                )
                try:
                    await stream.run()
                except ShuttingDown:
                    return
        finally:
            self._is_running = False
            for queued in [*self._in_flight, *self._waiting]:
                self._done(queued, stopping_error())
            self._in_flight.clear()
            self._waiting.clear()

    async def _receive(self) -> ProduceRequest | None:
        while not self._waiting:
            if not self._in_flight:
                return None
            self._change = trio.Event()
            await self._change.wait()
        queued, _ = self._waiting.popitem(last=False)
        self._in_flight.append(queued)
        return queued.request

    async def _answer(self, result: ProduceResult | EventLogError) -> None:
        self._done(self._in_flight.popleft(), result)
        if not self._in_flight:
            self._change.set()

    def _done(self, queued: _Queued, result: ProduceResult | EventLogError) -> None:
        self._release(queued)
        if isinstance(result, EventLogError):
            queued.on_done(None, result)
        else:
            queued.on_done(known_offset(result, queued.request.acks), None)

    def _release(self, queued: _Queued) -> None:
        self._buffered_bytes -= queued.size_bytes
        self._room.set()


class NodeQueues:
    """The queues of all partitions that the application produces to, and the topics behind them (`TopicSource`).

    Args:
        buffer_bytes: of one queue: queued and in flight. A single batch may be larger.
        requests_max: batches of one queue in flight.
        creates_topics: a topic is made when it is first produced to.
    """

    def __init__(
        self,
        topics: TopicAdministration,
        producing: ProduceService,
        *,
        buffer_bytes: int,
        requests_max: int,
        creates_topics: bool,
        stopping: trio.Event,
    ) -> None:
        self._topics = topics
        self.producing = producing
        self.buffer_bytes = buffer_bytes
        self.requests_max = requests_max
        self._creates_topics = creates_topics
        self.stopping = stopping
        self._queues: OrderedDict[tuple[str, int, tuple[str, str]], NodeQueue] = OrderedDict()
        self._known: dict[str, KnownTopic] = {}
        self._background = Background()

    def running(self) -> AbstractAsyncContextManager[None]:
        """The queues' tasks live inside this block."""
        return self._background.running()

    @property
    def is_closed(self) -> bool:
        return self._background.nursery is None

    def start(self, queue: NodeQueue) -> None:
        """Raises ShuttingDown when the node is stopping."""
        if self._background.nursery is None or self.stopping.is_set():
            raise stopping_error()
        self._background.nursery.start_soon(queue.run)

    def known(self, topic: str) -> KnownTopic | None:
        found = self._topics.known(topic, 0, 0)
        return None if found is None else self._known_topic(found)

    def is_outdated(self) -> bool:
        return False  # This node's knowledge is updated when the catalog is applied.

    async def know_topic(self, topic: str, *, create: bool = False) -> KnownTopic:
        return self._known_topic(await self._topics.find(topic, create=create and self._creates_topics))

    def _known_topic(self, topic: Topic) -> KnownTopic:
        """The same object as long as nothing has changed that a producer looks at."""
        known = self._known.get(topic.name)
        group_ids = tuple(partition.group_id for partition in topic.partitions)
        if known is None or known.group_ids != group_ids:
            if len(self._known) >= KNOWN_TOPICS_MAX:
                self._known.clear()
            known = self._known[topic.name] = KnownTopic(name=topic.name, group_ids=group_ids)
        return known

    def queue_of(self, known: KnownTopic, partition: int, caller: Caller) -> NodeQueue:
        key = (known.name, partition, caller.identity)
        group_id = known.group_ids[partition] if partition < known.partitions else 0
        queue = self._queues.pop(key, None)
        if queue is None or queue.group_id != group_id:
            # Batches queued for a deleted topic fail anyway: their requests name the group.
            queue = NodeQueue(known.name, partition, group_id, self, caller)
            for old, idle in list(self._queues.items()):
                if len(self._queues) < IDLE_QUEUES_MAX:
                    break
                if idle.is_idle:
                    del self._queues[old]
        self._queues[key] = queue
        return queue


def known_offset(result: ProduceResult, acks: Acks) -> ProduceResult:
    """Without a base offset when no acknowledgement was waited for: it is not known yet."""
    return attrs.evolve(result, base_offset=OFFSET_UNKNOWN) if acks is Acks.NONE and not result.duplicate else result
