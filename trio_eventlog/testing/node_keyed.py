"""Clients of a topic with keys, each of which has been given the address of one node."""

import math
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from trio_eventlog.client.client import Client
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import (
    EventLogError,
    OffsetOutOfRange,
)
from trio_eventlog.records import Record
from trio_eventlog.service.values import ProduceResult
from trio_eventlog.testing.determinism import derive
from trio_eventlog.testing.invariants import InvariantBroken
from trio_eventlog.testing.node_run_values import (
    CLIENT,
    KEYED,
    KEYED_RECORDS_MAX,
    LIVENESS_SECONDS_MAX,
)

if TYPE_CHECKING:
    from trio_eventlog.testing.node_simulator import NodeRun


@attrs.define(slots=True, eq=False)
class SeenKeys:
    """What one consumer of all partitions has been given since it began."""

    target: str
    keys: set[bytes] = attrs.field(factory=set)
    next_offsets: Counter[int] = attrs.field(factory=Counter)

    def take(self, name: str, partition: int, record: Record) -> None:
        expected = self.next_offsets[partition]
        if record.offset != expected:
            raise InvariantBroken(f"{name} was given offset {record.offset} of {KEYED}/{partition}, and expected {expected}")
        self.next_offsets[partition] = expected + 1
        self.keys.add(record.key or b"")


@attrs.define(slots=True, eq=False)
class KeyedRecords:
    """The keyed records of a run. A key is its record's value too, and is sent once.

    Attributes:
        acknowledged: key -> partition and offset, as the producer was told.
        seen: by consumers, since each began anew.
    """

    sent: int = 0
    clients: int = 0
    acknowledged: dict[bytes, tuple[int, int]] = attrs.field(factory=dict)
    seen: dict[str, SeenKeys] = attrs.field(factory=dict)

    def new_key(self) -> bytes:
        self.sent += 1
        return b"key %d" % self.sent


class KeyedClients:
    """Produce keyed records, and consume all partitions."""

    def __init__(self, run: "NodeRun") -> None:
        self._run = run
        self.records = KeyedRecords()

    @asynccontextmanager
    async def _client_of_one(self, rng: random.Random, name: str) -> AsyncIterator[tuple[Client, str]]:
        """A client, and the one node that it has been told of: any one, which may be down, or start just now."""
        cluster = self._run.cluster
        target = rng.choice(cluster.names)
        knows = cluster.is_running(target) and cluster.node(target).servers().catalog_index
        self._run.counts["client of one node that knows no topics"] += not knows
        self.records.clients += 1
        # Under a name of its own: its producer id is drawn from it.
        async with cluster.client(target, name=f"{name}/{self.records.clients}", settings=CLIENT) as client:
            yield client, target

    async def produce_keyed(self, name: str) -> None:
        """Short-lived clients and such that stay for a while; single calls and batching producers."""
        rng = derive(self._run.seed, name)
        while not self._run.is_ending:
            try:
                with trio.move_on_after(rng.choice((2.0, 5.0, 20.0))):
                    async with self._client_of_one(rng, name) as (client, _):
                        for _ in range(rng.choice((1, 1, 5))):
                            await self._send_keyed(rng, client)
                            await trio.sleep(rng.uniform(0, self._run.parameters.pause_seconds_max))
            except EventLogError as error:
                self._run.counts[f"keyed append: {error.code}"] += 1
            await trio.sleep(rng.uniform(0, self._run.parameters.pause_seconds_max))

    async def _send_keyed(self, rng: random.Random, client: Client) -> None:
        if self._run.is_ending or self.records.sent >= KEYED_RECORDS_MAX:
            return
        keys = [self.records.new_key() for _ in range(rng.choice((1, 4)))]
        if rng.random() < 0.5:
            for key in keys:
                self._acknowledge_keyed(key, await client.produce(KEYED, Record(key=key, value=key)))
            return
        async with client.producer(KEYED) as producer:
            deliveries = [await producer.send(key, key=key) for key in keys]
            for key, delivery in zip(keys, deliveries, strict=True):
                self._acknowledge_keyed(key, await delivery.wait())

    def _acknowledge_keyed(self, key: bytes, result: ProduceResult) -> None:
        self._run.counts["keyed append"] += 1
        self._check_key(key, result.partition, "a producer was told")
        self.records.acknowledged[key] = (result.partition, result.base_offset)

    def _check_key(self, key: bytes, partition: int, where: str) -> None:
        expected = partition_of(key, self._run.parameters.keyed_partitions)
        if partition != expected:
            raise InvariantBroken(f"{where}: key {key!r} is in partition {partition}, and belongs into {expected}")

    async def consume_keyed(self, name: str) -> None:
        """All partitions at once, from the beginning; sometimes again, by a client that knows nothing."""
        rng = derive(self._run.seed, name)
        while True:
            try:
                with trio.move_on_after(rng.choice((5.0, 20.0, math.inf))):
                    async with self._client_of_one(rng, name) as (client, target):
                        seen = self.records.seen[name] = SeenKeys(target)
                        async with client.consume(KEYED) as records:
                            async for record in records:
                                seen.take(name, records.partition, record)
                                self._check_key(record.key or b"", records.partition, f"{name} was given")
                                self._run.counts["keyed record consumed"] += 1
            except OffsetOutOfRange as error:
                raise InvariantBroken(f"{name}: what was committed once is out of range: {error}") from error
            except EventLogError as error:
                self._run.counts[f"keyed consumer: {error.code}"] += 1
            await trio.sleep(rng.uniform(0, 0.5))

    async def until_keyed_consumed(self) -> None:
        """A last record in each partition, and all that is acknowledged seen by every consumer whose one node can be reached."""
        cluster = self._run.cluster
        deadline = trio.current_time() + LIVENESS_SECONDS_MAX
        left = set(range(self._run.parameters.keyed_partitions))
        async with cluster.client(settings=CLIENT) as client:
            while left:
                if trio.current_time() > deadline:
                    raise InvariantBroken(f"no progress in {KEYED}/{min(left)}\n{cluster.describe()}")
                key = self.records.new_key()
                if partition_of(key, self._run.parameters.keyed_partitions) in left:
                    try:
                        self._acknowledge_keyed(key, await client.produce(KEYED, Record(key=key, value=key)))
                    except EventLogError as error:
                        self._run.counts[f"keyed append: {error.code}"] += 1
                    else:
                        left.discard(self.records.acknowledged[key][0])

        def have_seen_all() -> bool:
            reachable = {*cluster.running} - {*self._run.nemesis.broken} - {*self._run.nemesis.spent}
            keys = self.records.acknowledged.keys()
            return all(keys <= seen.keys for seen in self.records.seen.values() if seen.target in reachable)

        await cluster.wait_until(have_seen_all, "every consumer of all partitions sees all", LIVENESS_SECONDS_MAX)

    async def check_keyed_end(self) -> None:
        found: dict[bytes, tuple[int, int]] = {}
        for partition in range(self._run.parameters.keyed_partitions):
            for name in await self._run.ending.wait_equal(partition, KEYED):
                for record in await self._run.cluster.read(name, KEYED, partition):
                    key = record.key or b""
                    self._check_key(key, partition, f"{name} holds")
                    if found.setdefault(key, (partition, record.offset)) != (partition, record.offset):
                        raise InvariantBroken(f"{name} holds {key!r} at {record.offset}; it is at {found[key]} too")
        for key, place in self.records.acknowledged.items():
            if found.get(key) != place:
                raise InvariantBroken(f"{key!r} was acknowledged at {place}, and is at {found.get(key)}")
