"""The way of one producer's batches into one partition: a produce stream to the leader, kept open while there is work."""

from collections.abc import Callable

import trio

from trio_eventlog.client.calls import HINTS_MAX, Calls, TopicGrace
from trio_eventlog.client.channels import ClientCall
from trio_eventlog.client.producer_core import PendingBatch, ProducerCore
from trio_eventlog.client.wire import produce_request, produce_result, stream_error
from trio_eventlog.errors import (
    BatchTooLarge,
    CallUnsent,
    EventLogError,
    NotLeader,
    OutOfOrderSequence,
    Overloaded,
    ShuttingDown,
    TopicRecreated,
    Unavailable,
)
from trio_eventlog.grpc.batches import produce_head
from trio_eventlog.grpc.callers import Pairs
from trio_eventlog.grpc.methods import PRODUCE_STREAM
from trio_eventlog.records import Acks, Batch
from trio_eventlog.service.producer import OnDone

LEADER_UNKNOWN_SECONDS = 0.5
"""Seconds for which the answer "there is no leader" is believed."""
BATCH_OVERHEAD_BYTES = 256
"""What a batch counts for in a buffer beside its payload."""


class PartitionSender:
    """Everything that one client produces to one partition, in order.

    `run` is the one task that owns the core and the stream; producers hand batches in and wait for their outcome. A batch that
    was sent is carried on with even when nobody waits for it any more, since those behind it depend on its outcome.

    Attributes:
        group_id: of the partition: another topic of the same name has another sender, since its log has not seen this producer. 0:
            nodes of an older release have not reported it.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        group_id: int,
        producer_id: int,
        calls: Calls,
        start: Callable[["PartitionSender"], None],
        metadata: Pairs = (),
    ) -> None:
        settings = calls.settings
        self.topic = topic
        self.partition = partition
        self.group_id = group_id
        self._producer_id = producer_id
        self._calls = calls
        self._core = ProducerCore(producer_id, settings.producer_in_flight_batches)
        self._heads = self._make_heads()
        self._start = start
        self._metadata = metadata
        self._is_running = False
        self._life = trio.CancelScope()
        self._buffered_bytes = 0
        self._entrance = trio.StrictFIFOLock()
        self._room = trio.Event()
        self._work = trio.Event()
        self._closed_by: EventLogError | None = None
        self._done_batches = 0
        # Of the present stream:
        self.address = ""
        self._scope = trio.CancelScope()
        self._progress_at = 0.0
        self._error: EventLogError | None = None
        self._is_leaving = False
        self._grace = TopicGrace(calls, topic, partition)

    def _make_heads(self) -> dict[Acks, bytes]:
        return {acks: produce_head(self.topic, self.partition, self.group_id, acks) for acks in Acks}

    def name_group(self, group_id: int) -> None:
        """The partition's group id is known only now. The log, and the sequences in it, are the same."""
        self.group_id = group_id
        self._heads = self._make_heads()

    def retire(self, error: TopicRecreated) -> None:
        """The log of this sender is gone with its topic. No batch in it, sent or not, is in any log that exists."""
        self._closed_by = error
        self._core.refuse_all(error)
        self._room.set()
        self._life.cancel()

    @property
    def is_idle(self) -> bool:
        """There is nothing to do, and no task that waits for something."""
        return not self._is_running

    @property
    def activity(self) -> int:
        """Grows while there is something to do."""
        return self._done_batches + self._core.in_flight_batches

    @property
    def is_stalled(self) -> bool:
        """Batches are on their way, and nothing has been heard of them for stall_seconds."""
        silent_seconds = trio.current_time() - self._progress_at
        return self._core.in_flight_batches > 0 and silent_seconds >= self._calls.settings.stall_seconds

    def leave_if_led_elsewhere(self) -> None:
        """Give up a silent node when another one is known to lead: what was sent is sent again there, and recognised."""
        leader = self._calls.routing.leader(self.topic, self.partition)
        if self.is_stalled and leader is not None and leader != self.address:
            self._error = Unavailable(f"{self.address} is silent, and {leader} leads by now")
            self._scope.cancel()

    def has_room(self, size_bytes: int) -> bool:
        """Whether `submit_nowait` takes a batch of this payload now. An empty sender takes any."""
        if self._closed_by is not None:
            return True  # It gets the error at once.
        if self._entrance.locked():
            return False  # Others were here before.
        room_bytes = self._calls.settings.producer_buffer_bytes - self._buffered_bytes
        return not self._buffered_bytes or size_bytes + BATCH_OVERHEAD_BYTES <= room_bytes

    async def submit(self, batch: Batch, acks: Acks, on_done: OnDone) -> PendingBatch:
        """Wait for room, first come first served, and queue the batch. Raises BatchTooLarge, or Unavailable after closing."""
        if self.has_room(len(batch.payload)):
            # Cancellable, but not a schedule point: a caller that waits for the outcome yields anyway.
            await trio.lowlevel.checkpoint_if_cancelled()
            return self.submit_nowait(batch, acks, on_done)
        async with self._entrance:
            size_bytes = len(batch.payload) + BATCH_OVERHEAD_BYTES
            while self._buffered_bytes and self._buffered_bytes + size_bytes > self._calls.settings.producer_buffer_bytes:
                if self._closed_by is not None:
                    break
                self._room = trio.Event()
                await self._room.wait()
            return self.submit_nowait(batch, acks, on_done)

    def submit_nowait(self, batch: Batch, acks: Acks, on_done: OnDone) -> PendingBatch:
        """Queue the batch. `has_room` must have said yes."""
        settings = self._calls.settings
        if len(batch.payload) > settings.batch_bytes_max:
            raise BatchTooLarge(
                f"the batch has {len(batch.payload)} bytes, the limit is {settings.batch_bytes_max} (batch_bytes_max):"
                " send fewer records at once",
                limit_bytes=settings.batch_bytes_max,
            )
        if self._closed_by is not None:
            raise self._closed_by
        if not self._is_running:
            self._calls.pool.check_open()
            self._is_running = True
            self._life = trio.CancelScope()
            self._start(self)

        def done(pending: PendingBatch) -> None:
            self._buffered_bytes -= pending.size_bytes
            self._room.set()
            on_done(pending.result, pending.error)

        pending = PendingBatch(
            batch=batch,
            acks=acks,
            expires_at=trio.current_time() + settings.delivery_timeout_seconds,
            size_bytes=len(batch.payload) + BATCH_OVERHEAD_BYTES,
            on_done=done,
        )
        self._buffered_bytes += pending.size_bytes
        self._core.add(pending)
        self._work.set()
        return pending

    def withdraw(self, pending: PendingBatch) -> bool:
        """No caller waits for it any more. True when it was not sent, and will not be."""
        if not self._core.withdraw(pending):
            return False
        self._buffered_bytes -= pending.size_bytes
        self._room.set()
        return True

    async def run(self) -> None:
        """Carry batches to the leader until cancelled, and fail the rest then; or until there were none for sender_idle_seconds."""
        try:
            with self._life:
                await self._run()
                # Nothing to do for long. What the log knows of this producer is kept here: the next batch follows.
                self._is_running = False
                return
        finally:
            if self._is_running:
                self._close()

    def _close(self) -> None:
        self._closed_by = self._closed_by or Unavailable("the client was closed before the batch was acknowledged")
        self._core.fail_all(self._closed_by)
        self._room.set()

    async def _run(self) -> None:
        backoff = self._calls.backoff()
        routing = self._calls.routing
        hints = 0
        while True:
            while not self._core.has_work:
                self._work = trio.Event()
                with trio.move_on_after(self._calls.settings.sender_idle_seconds) as idle:
                    await self._work.wait()
                if idle.cancelled_caught and not self._core.has_work:
                    return
            if routing.leader(self.topic, self.partition) is None:
                await self._calls.refresh_if_possible(newer_than=trio.current_time() - LEADER_UNKNOWN_SECONDS)
            address = routing.for_write(self.topic, self.partition, trio.current_time())[0]
            self.address = address
            done_before = self._done_batches
            self._error = None
            self._is_leaving = False
            try:
                async with (
                    self._calls.pool.use(address, is_stream=True) as channel,
                    channel.stream(PRODUCE_STREAM, metadata=self._metadata) as call,
                ):
                    await self._carry(call, address)
            except EventLogError as failure:
                self._error = failure
            error: EventLogError | None = self._error
            # A stream that no server has looked at has put nothing into the log.
            is_unsent = isinstance(error, CallUnsent | Overloaded) and self._done_batches == done_before
            self._core.on_stream_lost(error or Unavailable(f"the stream to {address} ended"), is_unsent=is_unsent)
            if self._done_batches > done_before:
                backoff.reset()
                hints = 0
            if error is None:
                continue
            if isinstance(error, Unavailable | ShuttingDown):
                routing.avoid(address, trio.current_time())
            if isinstance(error, NotLeader):
                hinted = routing.hinted(error)
                if hinted and hinted != address and hints < HINTS_MAX:
                    hints += 1
                    routing.set_leader(self.topic, self.partition, hinted)
                    continue
                routing.forget_leader(self.topic, self.partition, address)
            hints = 0
            self._core.expire(trio.current_time())
            if self._core.has_work:
                await self._calls.before_retry(backoff, error, self._core.next_expiry())
                self._core.expire(trio.current_time())

    async def _carry(self, call: ClientCall, address: str) -> None:
        """Send and receive until the stream is of no more use; `_error` says why, None after idling."""
        settings = self._calls.settings
        async with trio.open_nursery() as nursery:
            self._scope = trio.CancelScope()
            self._progress()
            nursery.start_soon(self._send, call, address)
            with self._scope:
                await self._receive(call, address)
            if self._scope.cancelled_caught and self._core.in_flight_batches and self._error is None:
                self._error = Unavailable(f"{address} did not acknowledge within {settings.attempt_timeout_seconds:g} s")
            nursery.cancel_scope.cancel()

    @property
    def has_unknown_leader(self) -> bool:
        """Batches are in flight to a node that may only forward them."""
        return bool(self._core.in_flight_batches) and self._calls.routing.leader(self.topic, self.partition) is None

    def _check_leader(self, address: str) -> None:
        """A node that leads no more still forwards, but the way round costs time: go where the leader is."""
        routing = self._calls.routing
        leader = routing.leader(self.topic, self.partition)
        if leader is not None and leader != address and not routing.is_avoided(leader, trio.current_time()):
            self._is_leaving = True

    def _progress(self) -> None:
        """Something happened: the time for the next thing begins."""
        settings = self._calls.settings
        waits = settings.attempt_timeout_seconds if self._core.in_flight_batches else settings.produce_stream_idle_seconds
        self._progress_at = trio.current_time()
        self._scope.deadline = self._progress_at + waits

    async def _send(self, call: ClientCall, address: str) -> None:
        core = self._core
        while True:
            if core.has_work:
                self._check_leader(address)
            if self._is_leaving and not core.in_flight_batches:
                self._scope.cancel()
                return
            pending = None if self._is_leaving else core.next_to_send()
            if pending is None:
                self._work = trio.Event()
                await self._work.wait()
                continue
            self._progress()
            try:
                await call.send(produce_request(self._heads[pending.acks], pending, self._producer_id))
            except EventLogError:
                # The call is over; the receiving side gets the reason.
                return
            self._progress()

    async def _receive(self, call: ClientCall, address: str) -> None:
        core = self._core
        while True:
            try:
                response = await call.receive()
            except EventLogError as error:
                self._error = error
                return
            if response is None:
                self._error = Unavailable(f"{address} ended the stream")
                return
            if not core.in_flight_batches:
                self._error = Unavailable(f"{address} answered a request that was not made")
                return
            if response.HasField("error"):
                self._hear_error(stream_error(response.error))
            else:
                self._grace.reset()
                self._calls.routing.worked(address)
                self._done_batches += 1
                core.on_result(produce_result(response, core.oldest_in_flight, self.topic, self.partition))
            self._progress()
            self._work.set()
            if (self._error is not None or self._is_leaving) and not core.in_flight_batches:
                return

    def _hear_error(self, error: EventLogError) -> None:
        if self._grace.forgives(error):
            error = NotLeader(f"{error} (yet)")
        self._core.on_error(error)
        if error.retryable or isinstance(error, OutOfOrderSequence) or type(error).code == EventLogError.code:
            # Once the rest is answered, a fresh stream, after a wait.
            self._error = self._error or error
