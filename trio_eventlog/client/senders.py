"""The senders of one client: one for each partition that is produced to, and what is known of the topics behind them."""

import random

import trio

from trio_eventlog.client.calls import Calls
from trio_eventlog.client.partition_sender import PartitionSender
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import TopicRecreated
from trio_eventlog.grpc.callers import client_metadata
from trio_eventlog.service.values import Caller, KnownTopic

SENDERS_KEPT_MIN = 64
"""Number of partitions produced to above which senders of deleted topics are looked for."""

_Key = tuple[str, int, tuple[str, str]]
"""Topic, partition, and the identity of the caller: a stream has one caller."""


class Senders:
    """Made by `open_client`. The topics of a producer (`TopicSource`), and the way of batches into their partitions."""

    def __init__(self, nursery: trio.Nursery, calls: Calls, rng: random.Random) -> None:
        self._nursery = nursery
        self._calls = calls
        self._routing = calls.routing
        self._rng = rng
        self._by_partition: dict[_Key, PartitionSender] = {}
        self._kept_max = SENDERS_KEPT_MIN
        self._turns: dict[str, int] = {}
        self.producer_id = self._sender_id = rng.randrange(1, 1 << 64)

    def known(self, topic: str) -> KnownTopic | None:
        return self._routing.topic(topic)

    def is_outdated(self) -> bool:
        return self._calls.is_outdated()

    async def know_topic(self, topic: str, *, create: bool = False) -> KnownTopic:
        return await self._calls.know_topic(topic, create=create)

    def partition_for(self, known: KnownTopic, key: bytes) -> int:
        """By the key; in turn for records that have none."""
        if key:
            return partition_of(key, known.partitions)
        turn = self._turns.get(known.name, self._rng.randrange(known.partitions))
        self._turns[known.name] = turn + 1
        return turn % known.partitions

    def queue_of(self, known: KnownTopic, partition: int, caller: Caller) -> PartitionSender:
        topic = known.name
        # A partition beyond those known may have come since: the node says whether it exists.
        group_id = known.group_ids[partition] if 0 <= partition < known.partitions else 0
        key = (topic, partition, caller.identity)
        sender = self._by_partition.get(key)
        if sender is not None and group_id and sender.group_id != group_id:
            if not sender.group_id:
                sender.name_group(group_id)
            else:
                sender.retire(
                    TopicRecreated(f"topic {topic!r} was deleted and created again: send again what was not acknowledged")
                )
                sender = None
        if sender is None:
            self._calls.pool.check_open()
            self._forget_senders()
            metadata = client_metadata(caller)
            # Two streams of one producer id would be two writers of one sequence.
            producer_id = self._rng.randrange(1, 1 << 64) if metadata else self._sender_id
            sender = PartitionSender(topic, partition, group_id, producer_id, self._calls, self._start_sender, metadata)
            self._by_partition[key] = sender
        return sender

    async def keep_routing_fresh(self) -> None:
        """Keep asking where leaders are: a stream with work on it does not."""
        settings = self._calls.settings
        seen = 0
        while True:
            await trio.sleep(min(settings.stall_seconds, settings.routing_refresh_seconds))
            stalled = [sender for sender in self._by_partition.values() if sender.is_stalled]
            if stalled:
                silent = {sender.address for sender in stalled}
                await self._calls.refresh_if_possible(trio.current_time() - settings.stall_seconds, silent)
                for sender in stalled:
                    sender.leave_if_led_elsewhere()
                continue
            activity = sum(sender.activity for sender in self._by_partition.values())
            if activity != seen:
                seen = activity
                # Any node carries batches on to a leader that the client does not know; the way round costs time.
                is_unknown = any(sender.has_unknown_leader for sender in self._by_partition.values())
                await self._calls.refresh_if_possible(trio.current_time() - settings.stall_seconds if is_unknown else None)

    def _start_sender(self, sender: PartitionSender) -> None:
        self._nursery.start_soon(sender.run, name=f"sender of {sender.topic}/{sender.partition}")

    def _forget_senders(self) -> None:
        """Of topics that are gone, now and then: when there are twice as many as were left the last time."""
        if len(self._by_partition) < self._kept_max:
            return
        kept = {
            key: sender
            for key, sender in self._by_partition.items()
            if not sender.is_idle or self._routing.topic(sender.topic) is not None
        }
        if len(kept) < len(self._by_partition):
            # Should one of them come back, the log must not take its first batch for an old one of the sender that was forgotten.
            self._sender_id = self._rng.randrange(1, 1 << 64)
        self._by_partition = kept
        self._kept_max = max(SENDERS_KEPT_MIN, 2 * len(kept))
